#!/usr/bin/env bash
# The retrofit study, whole: a memory for SmolLM2-135M-Instruct against continued training, LoRA and controls. Makes the
# text, tunes every arm's learning rate, writes the winners into the study's file and runs it (docs/lab.md, "Retrofit").
#
#   scripts/retrofit.sh [cpu-small|gpu] [--jobs N]
#
# cpu-small (default): 36 trials and 29 runs, about 9 hours on a thread (an estimate). gpu: 50 times the facts,
# three seeds, for one NVIDIA GPU; it has not run yet. Safe to stop and to run again. ENGRAM names the built command (default
# build/release/engram). Text in corpora/retrofit, results in results/*retrofit*-DATE.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
scale=cpu-small
case ${1:-} in
  cpu-small | gpu) scale=$1; shift ;;
esac
JOBS=1
read_jobs "$@"
cd "$ROOT"
ENGRAM=$(realpath -m "${ENGRAM:-build/release/engram}")
export ENGRAM
name=${scale//-/_}
folder() { find results -maxdepth 1 -name "$1-*" | sort | tail -1; }
study() { "$ENGRAM" lab "$1" "recipes/studies/$2.toml" --jobs "$JOBS" --resume "${@:3}"; }

if [[ $scale == cpu-small ]]; then
  scripts/retrofit_data.sh
  tuning=tune_retrofit_cpu_small tuned=tune-retrofit-cpu-small
else
  scripts/retrofit_data.sh --scale 50
  tuning=tune_retrofit_gpu tuned=tune-retrofit-gpu
fi
study tune $tuning
# Once the study has begun its rates stay.
if [[ -z $(folder "retrofit-$scale") ]]; then
  "${PYTHON:-python3}" scripts/retrofit_rates.py "$(folder $tuned)/data.json" "recipes/studies/retrofit_$name.toml"
fi
study retrofit "retrofit_$name" --seeds 1  # a whole seed before the next
study retrofit "retrofit_$name"
