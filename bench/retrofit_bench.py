#!/usr/bin/env python3
"""Training a memory on a frozen base: `engram train` beside the same arm in transformers (bench/retrofit_peer.py).

    .venv-oracles/bin/python bench/retrofit_bench.py --checkpoint CKPT --text FILE [--batch 16] [--rounds 3] [--json]

CKPT is an imported checkpoint (`engram import`), FILE some text. Both sides read windows of it, in bf16 and on as many
threads, with AdamW for the module and a sparse Adam for the rows; they take turns, and medians are compared. PyTorch
runs with the base's weights in fp32 and in bf16; the faster one counts. Also ours with train.recompute.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 2
RECIPE = """
[model]
memory = "engram"
[model.engram]
layer_ids = [1, 8]
vocab_size = [20000, 20000]
[data]
train = ["{folder}/data/train.tokens"]
sequence_length = {length}
batch_size = {batch}
[optimizer]
matrices = "adamw"
decay = "constant"
[train]
start_from = "{checkpoint}"
freeze = ["backbone"]
dtype = "bf16"
recompute = "{recompute}"
threads = {threads}
steps = {steps}
output = "{output}"
"""


def run(command, text=None):
    done = subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def row_ids(tokens, rows_per_token, rows):
    """As many distinct rows as n-grams have: a number made of the token, the one before it and the head."""
    before = np.concatenate([np.zeros((len(tokens), 1), np.int64), tokens[:, :-1]], 1)
    heads = [(tokens * (1000003 + 2 * k) + before * (7919 * k + 13)) % rows for k in range(rows_per_token)]
    return np.stack(heads, -1)


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        run([options.engram, "data", "prepare", "--tokenizer", Path(options.checkpoint) / "tokenizer.json", "--output",
             folder / "data", options.text])
        run([options.engram, "export", "hf", options.checkpoint, folder / "base"])
        self.config = json.loads((Path(options.checkpoint) / "config.json").read_text())

    def ours(self, recompute):
        o, output = self.options, self.folder / "run"
        run(["rm", "-rf", output])
        recipe = self.folder / "retrofit.toml"
        recipe.write_text(RECIPE.format(folder=self.folder, length=o.length, batch=o.batch, checkpoint=o.checkpoint,
                                        recompute=recompute, threads=o.threads, steps=WARM_UP + o.steps, output=output))
        summary = json.loads(run([o.engram, "train", recipe, "--json"]))
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        return {"tokens_per_second": statistics.median(line["tokens_per_second"] for line in lines[WARM_UP:]),
                "peak_bytes": summary["peak_rss_bytes"], "losses": [line["loss"] for line in lines]}

    def peer(self, weights):
        o = self.options
        engram = {"layer_ids": [1, 8], "n_heads": 8, "max_ngram_size": 3, "head_dim": 80, "kernel_size": 4}
        model = {"hidden_size": self.config["hidden_size"], "hc_mult": 1, "initializer_range": 0.02, "engram": engram}
        ids = run([o.engram, "tokenizer", "encode", "--json", "--tokenizer",
                   Path(o.checkpoint) / "tokenizer.json", "--file", o.text])
        text = np.array(json.loads(ids), np.int64)
        steps, rows, rng, parts = WARM_UP + o.steps, 8 * 2 * 20000, np.random.default_rng(0), []
        for _ in range(steps):
            starts = rng.integers(0, len(text) - o.length - 1, o.batch)
            windows = np.stack([text[start:start + o.length + 1] for start in starts])
            parts += [windows[:, :-1], windows[:, 1:], row_ids(windows[:, :-1], 16, rows),
                      row_ids(windows[:, :-1] + 1, 16, rows)]
        np.concatenate([part.ravel() for part in parts]).tofile(self.folder / "batches.bin")
        job = {"batch_size": o.batch, "sequence_length": o.length, "num_rows": [rows, rows], "model": model,
               "batches": str(self.folder / "batches.bin"), "threads": o.threads, "folder": str(self.folder / "base"),
               "weights": weights, "adamw_lr": 4e-3}
        result = json.loads(run([sys.executable, ROOT / "bench/retrofit_peer.py"], json.dumps(job)))
        seconds = statistics.median(result["seconds"][WARM_UP:])
        return {**result, "tokens_per_second": o.batch * o.length / seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engram", default=ROOT / "build/release/engram")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="measured steps of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sides = {"engram": [], "engram, recompute attention": [], "engram, recompute blocks": [],
             "transformers, base in float32": [], "transformers, base in bfloat16": []}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for _ in range(options.rounds):
            for name, results in sides.items():
                if name.startswith("transformers"):
                    results.append(bench.peer(name.split()[-1]))
                else:
                    results.append(bench.ours(name.split()[-1] if "recompute" in name else "none"))
    rows = {name: {"tokens_per_second": statistics.median(r["tokens_per_second"] for r in results),
                   "peak_bytes": statistics.median(r["peak_bytes"] for r in results), "losses": results[0]["losses"]}
            for name, results in sides.items()}
    best = max(row["tokens_per_second"] for name, row in rows.items() if name.startswith("transformers"))
    ratio = rows["engram"]["tokens_per_second"] / best
    if options.json:
        print(json.dumps({"sides": rows, "ratio": ratio, "version": sides["transformers, base in float32"][0]["version"],
                          "options": {key: str(value) for key, value in vars(options).items()}}))
        return
    print(f"{'':<34}{'tokens/s':>10}{'peak MiB':>10}  first and last loss")
    for name, row in rows.items():
        print(f"{name:<34}{row['tokens_per_second']:>10.0f}{row['peak_bytes'] / 2**20:>10.0f}  "
              f"{row['losses'][0]:.4f} {row['losses'][-1]:.4f}")
    print(f"engram over the faster of the others: {ratio:.2f}")


if __name__ == "__main__":
    main()
