#!/usr/bin/env python3
"""Trains the demo's Engram model with each form of its tables, one run at a time, and adds each to data.json.

    results/2026-11-30-table-bytes/runs.py WORK

From the repository's root, after scripts/build.sh and scripts/corpus.sh. WORK holds the runs; what data.json has is not
run again, and a run that was stopped goes on.
"""
import json
import struct
import subprocess
import sys
from pathlib import Path

# (train.table_dtype, optimizer.table_state, optimizer.table_momentum)
FORMS = [("fp32", "element", "fp32"), ("bf16", "row", "none"), ("bf16", "row", "bf16"), ("bf16", "element", "fp32")]
STEPS, SEEDS = 400, 2
DATA = Path(__file__).parent / "data.json"


def train(work, form, seed):
    output = work / "-".join([*form, str(seed)])
    dtype, state, momentum = form
    settings = {"train.steps": STEPS, "train.seed": seed, "train.output": output, "train.table_dtype": dtype,
                "optimizer.table_state": state, "optimizer.table_momentum": momentum, "train.validate_every": 0,
                "train.validation_batches": 0, "train.checkpoint_every": 100, "train.keep_checkpoints": 1}
    command = ["build/release/engram", "train", "recipes/demo_engram_cpu.toml", "--resume"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def table_bytes(checkpoint, dtype):
    """Parameters of all tables, and bytes of their rows and state in memory."""
    with open(checkpoint / "optimizer.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    state = sum(t["data_offsets"][1] - t["data_offsets"][0] for name, t in header.items() if name.startswith("table."))
    tables = json.loads((checkpoint / "state.json").read_text())["tables"]
    parameters = sum(table["num_rows"] * table["row_dim"] for table in tables)
    return parameters, state + parameters * (2 if dtype == "bf16" else 4)


def main():
    work = Path(sys.argv[1])
    runs = json.loads(DATA.read_text())["runs"] if DATA.exists() else []
    for seed in range(SEEDS):
        for form in FORMS:
            dtype, state, momentum = form
            key = {"seed": seed, "steps": STEPS, "table_dtype": dtype, "table_state": state, "table_momentum": momentum}
            if any(all(run[k] == v for k, v in key.items()) for run in runs):
                continue
            output = train(work, form, seed)
            last = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
            parameters, size = table_bytes(output / "latest", dtype)
            runs.append({**key, "validation_loss": last["validation_loss"], "bits_per_byte": last["bits_per_byte"],
                         "table_parameters": parameters, "table_bytes": size})
            DATA.write_text(json.dumps({"recipe": "recipes/demo_engram_cpu.toml", "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
