#!/usr/bin/env bash
# The standing attacks in their long form: everything that ctest labels `attack`, in build/release and build/fuzz.
#
#   scripts/attack.sh [--minutes N] [--output DIR] [--no-build] [NAME...]
#
# --minutes N   how long all of it takes (default 60): the attacks share the time, as many side by side as there are cores
# --output DIR  logs, and the table as attacks.md (default build/attack)
# --no-build    take the builds as they are; an attack that is not built counts as failed
# NAME...       only these
# The short forms of the same attacks are part of scripts/test.sh. Ends with a table (attack, cases, failures, largest
# memory); the exit code is 1 when one of them found something.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
minutes=60 output=build/attack build=yes names=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --minutes) minutes=${2:-}; shift ;;
    --output) output=${2:-}; shift ;;
    --no-build) build=no ;;
    -*) wrong_usage "unknown argument '$1'" ;;
    *) names+=("$1") ;;
  esac
  shift || wrong_usage "a value is missing"
done
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ && -n $output ]] ||
  wrong_usage "--minutes is '$minutes', --output '$output': wanted a number and a folder"
if [[ $build == yes ]]; then
  section "build: the programs that are attacked"
  scripts/build.sh release
  scripts/build.sh fuzz fuzzers
fi
section "attack: $minutes minutes"
python3 scripts/attack.py --minutes "$minutes" --output "$output" --jobs "$JOBS" build/release build/fuzz -- "${names[@]}"
