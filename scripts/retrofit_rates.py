#!/usr/bin/env python3
"""Writes the best of the tuned learning rates into the retrofit study's file, each arm's and those of its variants.

    retrofit_rates.py TUNE_DATA_JSON STUDY_TOML

The best is the one with the fewest bits per byte on the set "told". A study's group takes the rate of the tuned group of
its name, without what follows its last comma when no group has it whole ("engram, 30 % replay": that of "engram"). Prints
the table of trials. Needs only the standard library.
"""
import json
import re
import sys
from pathlib import Path

KEY = "optimizer.adamw_lr"


def main(data_path: str, study_path: str) -> None:
    trials = {}
    for run in json.loads(Path(data_path).read_text(encoding="utf-8"))["runs"]:
        told = run["validation_sets"]["told"]
        trials.setdefault(run["group"], []).append((told["bits_per_byte"], told["exact"], run["sweep"][KEY]))
    print("| arm | rate | bits per byte | exact |\n|---|---|---|---|")
    for group, tried in trials.items():
        for bits, exact, rate in sorted(tried, key=lambda trial: float(trial[2])):
            mark = " (best)" if bits == min(tried)[0] else ""
            print(f"| {group} | {rate}{mark} | {bits:.3f} | {exact:.3f} |")
    blocks = re.split(r"(?=^\[\[)", Path(study_path).read_text(encoding="utf-8"), flags=re.MULTILINE)
    for i, block in enumerate(blocks):
        if not block.startswith("[[group]]") or KEY not in block:
            continue
        name = re.search(r'^name = "(.*)"$', block, re.MULTILINE)[1]
        tuned = trials.get(name) or trials.get(name.rpartition(",")[0])
        if not tuned:
            raise ValueError(f"{data_path}: no trial of {name}")
        blocks[i] = re.sub(rf"{re.escape(KEY)}=[^\"]*", f"{KEY}={float(min(tuned)[2]):g}", block)
    Path(study_path).write_text("".join(blocks), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {error}")
