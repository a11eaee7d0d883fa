#!/usr/bin/env bash
# The main job, from nothing: set-up, build, text, two trainings, report; then the build of the other commands. The
# report is there after 15 to 30 minutes on two cores. Run it again, and it continues where it stopped.
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
times=()
# part NAME COMMAND...: runs it and keeps its time.
part() {
  local name=$1 start=$SECONDS
  shift
  "$@"
  times+=("$name $(elapsed "$start")")
}
section "1/5 set-up"
part set-up scripts/setup.sh "${setup_arguments[@]}"
section "2/5 build: what the demo needs"
part build scripts/build.sh release demo
section "3/5 text, tokenizer and token shards"
part text scripts/corpus.sh
section "4/5 two models, side by side, then the report"
part training build/release/engram demo "${demo_arguments[@]}"
say ""
say "The report is there after $(elapsed 0): $(IFS=,; sed 's/,/, /g' <<<"${times[*]}")."
say "Open demo/report.html in a browser; its numbers are in demo/summary.json."
section "5/5 build: the other commands (generate, serve, eval, lab, bench)"
scripts/build.sh release programs
say "done in $(elapsed 0)"
