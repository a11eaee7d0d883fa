#!/usr/bin/env bash
# Runs one libFuzzer program for ENGRAM_FUZZ_SECONDS (default 60). usage: run.sh PROGRAM SEEDS|none
# The corpus and any crashing input stay beside the program, in PROGRAM.corpus/ and PROGRAM.crashes/; a crash is
# replayed with: PROGRAM PROGRAM.crashes/FILE
set -euo pipefail
program=$1
seeds=$2
mkdir -p "$program.corpus" "$program.crashes"
folders=("$program.corpus")
[[ $seeds == none ]] || folders+=("$seeds")
seconds=${ENGRAM_FUZZ_SECONDS:-60}
echo "fuzz: $(basename "$program") for $seconds s, seeds: $seeds"
exec "$program" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 \
  -artifact_prefix="$program.crashes/" "${folders[@]}"
