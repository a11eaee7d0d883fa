#!/usr/bin/env bash
# The main job, from nothing: set-up, build, text, two trainings, report. 15 to 30 minutes on two cores; run it again
# and it continues where it stopped.
#
#   scripts/demo.sh [--no-packages] [ARGUMENTS OF engram demo]
#
# --no-packages leaves Debian packages alone, as in scripts/setup.sh.
# Leaves demo/report.html (one file, opens offline), demo/summary.json (its numbers), demo/moe/ and demo/engram/.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
setup_arguments=() demo_arguments=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --no-packages) setup_arguments+=("$1") ;;
    --json | --output=* | --moe=* | --engram=* | --set=* | --prompt=*) demo_arguments+=("$1") ;;
    --output | --moe | --engram | --set | --prompt)
      [[ $# -gt 1 ]] || wrong_usage "$1: a value is missing"
      demo_arguments+=("$1" "$2")
      shift ;;
    *) wrong_usage "unknown argument '$1'" ;;
  esac
  shift
done
section "1/4 set-up"
scripts/setup.sh "${setup_arguments[@]}"
section "2/4 build"
scripts/build.sh release engram
section "3/4 text, tokenizer and token shards"
scripts/corpus.sh
section "4/4 two models, side by side, then the report"
build/release/engram demo "${demo_arguments[@]}"
say ""
say "done in $(elapsed 0). Open demo/report.html in a browser; its numbers are in demo/summary.json."
