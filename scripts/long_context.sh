#!/usr/bin/env bash
# Experiment E4, whole: does a memory free attention for long contexts? Makes the text (scripts/corpus.sh --long), the
# retrieval documents to train on, trains a mixture of experts and a memory of equal parameters at 256 tokens (first to
# copy, then on the mix), goes on with YaRN at 2,048, and asks every pair for RULER's tasks and for LongPPL. docs/lab.md,
# "Long context".
#
#   scripts/long_context.sh [--jobs N]   N: runs side by side (default: one for each core)
#
# Safe to run again: what is there is not made twice, a study that was stopped goes on. ENGRAM names the built command
# (default build/release/engram). Text in corpora/long, checkpoints in runs/, results in results/long-context-*.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_jobs "$@"
cd "$ROOT"
ENGRAM=$(realpath -m "${ENGRAM:-build/release/engram}")
TEXT=corpora/long
STUDY=recipes/studies/long_context_cpu_small.toml

scripts/corpus.sh --long

# Held-out documents of each kind; the split is by the documents' own text, so it is the same here and in the shards
# that train.
domain() {  # NAME FILE...
  local name=$1
  shift
  [[ -f $TEXT/$name/validation.tokens ]] ||
    "$ENGRAM" data prepare --tokenizer $TEXT/tokenizer.json --output $TEXT/"$name" --validation-fraction 0.05 \
      "${@/#/$TEXT/text/}"
}
domain books austen.txt
domain documents factbook.txt sotu.txt tdavid.txt
domain code code.txt

# Retrieval documents. Repeated statements are what a small model learns to copy from; the tasks as RULER asks them
# follow. Their seeds are not the probe's, which is 0.
retrieval() {  # NAME SEED, then a line for each kind on stdin: LENGTH DOCUMENTS NEEDLES REPEATS TASKS
  local name=$1 seed=$2 kind=0 files=()
  [[ ! -f $TEXT/$name/train.tokens ]] || return 0
  mkdir -p $TEXT/"$name"
  while read -r length documents needles repeats tasks; do
    kind=$((kind + 1))
    files+=("$TEXT/$name/kind$kind.txt")
    "$ENGRAM" data ruler --tokenizer $TEXT/tokenizer.json --output "${files[-1]}" --length "$length" \
      --documents "$documents" --needles "$needles" --repeats "$repeats" --tasks "$tasks" --digits 4 --seed $((seed + kind)) \
      --facts $TEXT/text/factbook.txt
  done
  "$ENGRAM" data prepare --tokenizer $TEXT/tokenizer.json --output $TEXT/"$name" "${files[@]}"
}
ALL=single,multi-key,multi-value,multi-query,variables,frequent-words,questions
retrieval copies 100 <<LINES
88 6000 1 2 single
128 6000 1 4 single
176 6000 1 6 single
240 6000 1 3 single
256 6000 2 5 multi-key
256 6000 3 3 multi-key
LINES
retrieval short 200 <<LINES
96 8000 1 2 single
176 8000 2 3 single,multi-key
256 10000 3 3 multi-key,multi-query,multi-value
256 6000 1 2 single
256 8000 2 1 $ALL
LINES
retrieval long 300 <<LINES
256 4000 3 3 multi-key,multi-query,multi-value
512 2000 4 3 single,multi-key,multi-query,multi-value
1024 1500 4 3 single,multi-key,multi-query,multi-value
512 1500 4 1 $ALL
1024 1000 4 1 $ALL
2000 800 4 1 $ALL
LINES

OMP_NUM_THREADS=1 "$ENGRAM" lab long-context $STUDY --jobs "$JOBS" --resume

FOLDER=$(find results -maxdepth 1 -name 'long-context-cpu-small-*' | sort | tail -1)
WEIGHTS=runs/long-context-cpu-small/weights
probe() {  # FOLDER PROBE BASELINE MEMORY ARGUMENT...
  local folder=$FOLDER/$1 probe=$2
  shift 2
  [[ -f $folder/data.json ]] || "$ENGRAM" lab "$probe" "$@" --output "$folder"
}
one() { find $WEIGHTS -maxdepth 1 -name "$1" | sort | head -1; }  # the weights of one run
for seed in 0 1; do
  for pair in equal-steps equal-loss; do
    short=$([[ $pair == equal-steps ]] && echo engram || echo engram-early)
    probe "ruler-short-$pair-s$seed" ruler "$(one "moe-[0-9]*-s$seed")" "$(one "$short-rho*-s$seed")" \
      --lengths 128,256 --samples 100 --facts $TEXT/text/factbook.txt --needles 2
    moe=$(one "moe-long-*-s$seed") memory=$(one "$short-long-rho*-s$seed")
    probe "ruler-$pair-s$seed" ruler "$moe" "$memory" --lengths 256,512,1024,2048 --samples 100 \
      --facts $TEXT/text/factbook.txt
    for text in books documents code; do
      probe "long-ppl-$text-$pair-s$seed" long-ppl "$moe" "$memory" --text $TEXT/$text/validation.tokens \
        --max-tokens 200000 --short 256
    done
  done
done
echo "$FOLDER: the study's page, and a folder for each probe"
