#!/usr/bin/env bash
# The demo's Engram recipe under three launchers: train 20 steps with 2 ranks, go on with 4 (another launcher's) and with
# 1, and compare with one process that never stopped. Run in the repository's root after scripts/demo.sh (or corpus.sh).
#
#   results/2026-11-30-ranks/launchers.sh FOLDER [TORCHRUN]
set -uo pipefail
folder=$1 torchrun=${2:-.venv-oracles/bin/torchrun}
engram=build/release/engram
settings=(--set data.batch_size=2 --set train.accumulation=4 --set train.steps=30 --set train.validate_every=10
  --set train.checkpoint_every=10)
train() { echo recipes/demo_engram_cpu.toml "${settings[@]}" --set train.output="$folder/$1" "${@:2}"; }
say() { printf '\n$ %s\n' "${*//$folder/RUNS}"; "$@" 2>&1 | grep -v "^train: \|^\*\|OMP_NUM_THREADS" | sed "s#$folder#RUNS#g"; }
export OMP_WAIT_POLICY=passive
say $engram train $(train whole)
say $torchrun --no-python --nproc-per-node 2 $engram train $(train torchrun) --set train.stop_at=10
say $torchrun --no-python --nproc-per-node 4 $engram train $(train torchrun) --set train.stop_at=20 --resume
say $engram train $(train torchrun) --resume
mpirun="mpirun --allow-run-as-root --oversubscribe"
say $mpirun -n 2 $engram train $(train mpirun) --set train.stop_at=10
say $mpirun -n 4 $engram train $(train mpirun) --set train.stop_at=20 --resume
say $engram train $(train mpirun) --resume
say $engram train $(train ranks) --set train.stop_at=10 --ranks 2
say $engram train $(train ranks) --set train.stop_at=20 --resume --ranks 4
say $engram train $(train ranks) --resume
for run in torchrun mpirun ranks; do
  for file in "$folder"/whole/latest/*; do
    cmp "$file" "$folder/$run/latest/${file##*/}" && echo "$run: ${file##*/} is equal"
  done
done
