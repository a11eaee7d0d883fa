#!/usr/bin/env python3
"""Runs what ctest labels `attack` for a given time and prints one table: attack, cases, failures, largest memory.

    attack.py [--minutes N] [--output DIR] [--jobs N] BUILD_DIR... [-- NAME...]

An attack is a ctest entry; its command runs with ENGRAM_ATTACK_SECONDS and ENGRAM_FUZZ_SECONDS in the environment and
says what it did in a last line `attack: NAME, N cases, N failures, peak N MiB`, or is a libFuzzer program with
-print_final_stats. Used by scripts/attack.sh.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

GRACE = 600  # seconds that an attack may take beyond its share: start, the last case, clearing up


class Entry:
    def __init__(self, test, build):
        properties = {item["name"]: item["value"] for item in test.get("properties", [])}
        self.name, self.command = test["name"], test.get("command", [])
        self.folder = properties.get("WORKING_DIRECTORY", str(build))
        self.environment = dict(pair.split("=", 1) for pair in properties.get("ENVIRONMENT", []))
        self.labels = properties.get("LABELS", [])


def find_attacks(build):
    listing = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"], capture_output=True, text=True)
    if listing.returncode != 0:
        return []
    entries = [Entry(test, build) for test in json.loads(listing.stdout)["tests"]]
    return [entry for entry in entries if "attack" in entry.labels]


def numbers(text):
    """(cases, failures, MiB) from what an attack printed; None for what it did not say."""
    said = re.findall(r"^attack: [^,]+, (\d+) cases, (\d+) failures?, peak (\d+) MiB\s*$", text, re.MULTILINE)
    if said:
        return tuple(int(number) for number in said[-1])
    units = re.findall(r"^stat::number_of_executed_units:\s*(\d+)", text, re.MULTILINE)
    peak = re.findall(r"^stat::peak_rss_mb:\s*(\d+)", text, re.MULTILINE)
    return (int(units[-1]) if units else None, None, int(peak[-1]) if peak else None)


def run(entry, seconds, output):
    log = output / f"{entry.name}.log"
    environment = {**os.environ, **entry.environment, "ENGRAM_ATTACK_SECONDS": str(seconds),
                   "ENGRAM_FUZZ_SECONDS": str(seconds)}
    start, problem = time.monotonic(), ""
    with open(log, "wb") as file:
        try:
            code = subprocess.run(entry.command, cwd=entry.folder, env=environment, stdout=file, stderr=subprocess.STDOUT,
                                  timeout=seconds + GRACE).returncode
            problem = "" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            problem = f"still running {GRACE} s after its time"
        except OSError as error:
            problem = f"not built ({error.strerror})"
    cases, failures, peak = numbers(log.read_text(encoding="utf-8", errors="replace"))
    failures = failures if failures else int(bool(problem))
    print(f"{entry.name}: {problem or 'nothing found'}, {time.monotonic() - start:.0f} s, log {log}", flush=True)
    return entry.name, cases, failures, peak, problem


def table(rows):
    def show(value):
        return "-" if value is None else str(value)
    lines = ["| attack | cases | failures | peak MiB | |", "|---|---:|---:|---:|---|"]
    lines += [f"| {name} | {show(cases)} | {failures} | {show(peak)} | {problem} |"
              for name, cases, failures, peak, problem in sorted(rows)]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--output", type=Path, default=Path("build/attack"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("builds", nargs="+", metavar="BUILD_DIR")
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options, names = parser.parse_args(arguments[:cut]), arguments[cut + 1:]
    entries = [entry for build in options.builds for entry in find_attacks(build)]
    unknown = set(names) - {entry.name for entry in entries}
    if unknown or not entries:
        known = ", ".join(sorted(entry.name for entry in entries)) or "none"
        print(f"error: no attack {', '.join(sorted(unknown))} in {', '.join(options.builds)}; there are: {known}",
              file=sys.stderr)
        return 2
    entries = [entry for entry in entries if not names or entry.name in names]
    lanes = min(max(1, options.jobs), len(entries))
    seconds = max(1, int(60 * options.minutes * lanes / len(entries)))
    options.output.mkdir(parents=True, exist_ok=True)
    print(f"{len(entries)} attacks, {seconds} s each, {lanes} side by side", flush=True)
    start = time.monotonic()
    with ThreadPoolExecutor(lanes) as pool:
        rows = list(pool.map(lambda entry: run(entry, seconds, options.output), entries))
    text = table(rows)
    (options.output / "attacks.md").write_text(text)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"\n{text}\n{(time.monotonic() - start) / 60:.1f} minutes, largest process {memory} MiB")
    return 1 if any(failures for _, _, failures, _, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
