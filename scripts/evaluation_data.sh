#!/usr/bin/env bash
# Makes the questions of `engram eval --suite`: demo/eval/in-domain.jsonl from the demo's own text, and, with
# --packages, bigbench.jsonl and evals.jsonl from PyPI packages (405 MB to download, nothing is installed; kept in
# .cache/packages/evaluation), and demo/eval/knock-out for `engram lab knock-out`. Safe to run again.
#
#   scripts/evaluation_data.sh [--packages] [DIR]    DIR: default demo/eval
#
# The packages' questions are benchmark data (bigbench carries a canary string): never train on demo/eval.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
packages=no
output=
for argument in "$@"; do
  case $argument in
    --packages) packages=yes ;;
    -*) wrong_usage "unknown argument '$argument'" ;;
    *) [[ -z $output ]] || wrong_usage "more than one folder"; output=$argument ;;
  esac
done
cd "$ROOT"
output=${output:-demo/eval}
PACKAGES=.cache/packages/evaluation

arguments=(--output "$output")
if [[ -f demo/data/text/factbook.txt ]]; then
  arguments+=(--text demo/data/text)
elif [[ $packages == no ]]; then
  die "no demo/data/text: run scripts/corpus.sh first, or ask for --packages"
fi
if [[ $packages == yes ]]; then
  [[ -x .venv/bin/python ]] || die "no .venv: run scripts/setup.sh first"
  fetch_package evaluation bigbench==1.0.0 bigbench-1.0.0.tar.gz 1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2
  fetch_package evaluation evals==3.0.1.post1 evals-3.0.1.post1-py3-none-any.whl \
    0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78
  arguments+=(--bigbench "$PACKAGES/bigbench-1.0.0.tar.gz" --evals "$PACKAGES/evals-3.0.1.post1-py3-none-any.whl")
fi
python3 scripts/evaluation_data.py "${arguments[@]}"
