#!/usr/bin/env python3
"""The loss of a checkpoint whose table rows keep fewer bits: bf16 down to one bit a value, several kinds of scale.

    scripts/row_bits.py OUTPUT CHECKPOINT...   measures what OUTPUT/data.json does not have yet
    A checkpoint is results/STUDY/weights/RUN, and results/STUDY/runs/RUN.json its record.

Each variant is a copy of the checkpoint whose rows were rounded, in fp32, under `engram eval --parts`. The formats that
`engram table` has are rounded as engram/kernels/row_encode.cc does it (`engram eval --rows` gives the same losses).
scripts/findings.py makes the tables. Needs scripts/corpus.sh --study and nothing but the standard library.
"""
import argparse
import array
import datetime
import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARE = [1 - step / 20 for step in range(17)]  # of the largest value: scales that a fit tries, 1 to .2
SCALE_BYTES = {"float": 4, "power of two": 1, "table": 0}  # in each row
PARTS = ("all", "repeats", "rest")

# (name, bits, scale, how the scale is chosen); 16 bits: bf16 as it is, 0: no rows. fp8 has an e8m0 scale. What tells
# most comes first, for a run that is stopped.
VARIANTS = [("bf16", 16, None, None), ("fp8, a power of two a row", 8, "fp8", "largest"),
            ("int8, a float a row", 8, "float", "largest"), ("int8, one scale", 8, "table", "largest"),
            ("2 bits, a float a row", 2, "float", "largest"), ("2 bits, a float a row, fitted", 2, "float", "fitted"),
            ("2 bits, one scale, fitted", 2, "table", "fitted"), ("no rows", 0, None, None),
            ("int4, one scale", 4, "table", "largest"), ("int4, one scale, fitted", 4, "table", "fitted"),
            ("int4, a float a row", 4, "float", "largest"),
            ("sign, a power of two a row, fitted", 1, "power of two", "fitted"),
            ("2 bits, a power of two a row, fitted", 2, "power of two", "fitted"),
            ("sign, one scale, fitted", 1, "table", "fitted"),
            ("int4, a power of two a row, fitted", 4, "power of two", "fitted"),
            ("int4, a float a row, fitted", 4, "float", "fitted")]


def to_fp32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def levels(bits):
    """Largest level, and the function from value / scale to the nearest level."""
    if bits > 2:
        limit = 2 ** (bits - 1) - 1
        return limit, lambda x: max(-limit, min(limit, round(x)))
    limit = 2 ** (bits - 1) - 0.5  # levels in pairs around 0: +-.5, and +-1.5 with two bits
    return limit, lambda x: max(-limit, min(limit, math.floor(x) + 0.5))


def squares(values, scale, near):
    return sum((scale * near(x / scale) - x) ** 2 for x in values)


def find_scale(values, bits, how, power):
    """`largest`: the largest value gets the largest level. `fitted`: the least sum of squared errors."""
    limit, near = levels(bits)
    largest = max(map(abs, values))
    if largest == 0:
        return 0.0
    if how == "largest":
        return to_fp32(largest / limit)
    if power:
        top = math.ceil(math.log2(largest / limit))
        tried = [2.0 ** e for e in range(top - 3, top + 1)]
    elif bits == 1:
        tried = [to_fp32(2 * sum(map(abs, values)) / len(values))]
    else:
        tried = [to_fp32(largest / limit * share) for share in SHARE]
    return min(tried, key=lambda scale: squares(values, scale, near))


def to_fp8(value):
    """The nearest e4m3 number, ties to even."""
    magnitude = min(abs(value), 448.0)
    exponent = max(-6, math.frexp(magnitude)[1] - 1) if magnitude else -6
    step = 2.0 ** (exponent - 3)
    return math.copysign(round(magnitude / step) * step, value)


def round_fp8(row):
    fraction, exponent = math.frexp(max(map(abs, row)))
    scale = 2.0 ** (exponent - 9 + (fraction > 0.875))
    return [to_fp8(x / scale) * scale for x in row]


def round_table(values, width, bits, scale, how):
    if bits == 16:
        return values
    rows = [values[i:i + width] for i in range(0, len(values), width)]
    if scale == "fp8":
        return [x for row in rows for x in round_fp8(row)]
    near = levels(bits)[1]
    if scale == "table":  # found on every 8th row when it is fitted
        sample = values if how == "largest" else [x for row in rows[::8] for x in row]
        rows = [values]
        scales = [find_scale(sample, bits, how, False)]
    else:
        scales = [find_scale(row, bits, how, scale == "power of two") for row in rows]
    return [near(to_fp32(x / s)) * s if s else 0.0 for row, s in zip(rows, scales) for x in row]


def row_bytes(width, bits, scale):
    if bits in (0, 16):
        return width * bits // 8
    return width * bits // 8 + SCALE_BYTES.get(scale, 1)


def write_rounded(checkpoint, folder, variant):
    """`folder` becomes the checkpoint with rounded rows."""
    for path in checkpoint.iterdir():
        if path.name != "engram.safetensors":
            (folder / path.name).symlink_to(path)
    blob = (checkpoint / "engram.safetensors").read_bytes()
    size = struct.unpack("<Q", blob[:8])[0]
    header, body = json.loads(blob[8:8 + size]), blob[8 + size:]
    out, parts, place = {"__metadata__": header.pop("__metadata__")}, [], 0
    for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        data, dtype = body[slice(*tensor["data_offsets"])], tensor["dtype"]
        if name.endswith("embed.weight"):
            assert dtype == "BF16", f"{name} is {dtype}, wanted BF16"
            exact = array.array("f", array.array("I", [x << 16 for x in array.array("H", data)]).tobytes())
            data = array.array("f", round_table(exact, tensor["shape"][1], *variant)).tobytes()
            dtype = "F32"
        out[name] = {"dtype": dtype, "shape": tensor["shape"], "data_offsets": [place, place + len(data)]}
        parts.append(data)
        place += len(data)
    head = json.dumps(out, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    (folder / "engram.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"".join(parts))


def measure(engram, checkpoint, variant, options):
    name, bits, scale, how = variant
    config = json.loads((checkpoint / "config.json").read_text())["engram"]
    record = json.loads((checkpoint.parents[1] / "runs" / f"{checkpoint.name}.json").read_text())
    command = [engram, "eval", "--json", "--parts", options.train, "--tokens", options.tokens]
    with tempfile.TemporaryDirectory() as temporary:
        if bits in (0, 16):
            command += [str(checkpoint), "--memory", "off" if bits == 0 else "on"]
        else:
            write_rounded(checkpoint.resolve(), Path(temporary), variant[1:])
            command.append(temporary)
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = len(config["layer_ids"]) * config["n_heads"] * (config["max_ngram_size"] - 1)
    return {"checkpoint": str(checkpoint), "rho": record["rho"], "seed": record["seed"],
            "rows": name, "row_bytes": row_bytes(config["head_dim"], bits, scale),
            "token_bytes": rows * row_bytes(config["head_dim"], bits, scale),
            "loss": {"all": said["loss"], **{part: said["parts"][part]["loss"] for part in PARTS[1:]}}}


def machine():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) / 2 ** 20
    return f"{cpu}, {os.cpu_count()} cores, {memory:.1f} GiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--engram", default=str(ROOT / "build/release/engram"))
    parser.add_argument("--tokens", default="corpora/study/validation.tokens")
    parser.add_argument("--train", default="corpora/study/train.tokens")
    options = parser.parse_args()
    path = options.output / "data.json"
    data = json.loads(path.read_text()) if path.exists() else {
        "question": "What does the loss lose when the tables keep fewer bits a value?", "runs": []}
    for variant in VARIANTS:
        for checkpoint in options.checkpoints:
            if any((run["checkpoint"], run["rows"]) == (str(checkpoint), variant[0]) for run in data["runs"]):
                continue
            version = subprocess.run([options.engram, "--version"], check=True, capture_output=True, text=True).stdout
            data.update(commit=re.search(r"\((.*)\)", version)[1], machine=machine(), date=str(datetime.date.today()))
            data["runs"].append(measure(options.engram, checkpoint, variant, options))
            options.output.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(data, indent=1) + "\n")
            print(checkpoint.name, variant[0], data["runs"][-1]["loss"], file=sys.stderr)


if __name__ == "__main__":
    main()
