#!/usr/bin/env bash
# The cpu-small studies, all of them, in their order of value, and the probes on their checkpoints: about 12 hours on two
# cores. docs/lab.md says what each asks, docs/findings.md what came out.
#
#   scripts/studies.sh [--jobs N]   N: runs side by side, a thread each (default: one for each core)
#
# Safe to stop and to run again: finished runs stay, others go on from their checkpoints. ENGRAM names the built command
# (default build/release/engram). Text in corpora/, checkpoints in runs/, results in results/STUDY-cpu-small-DATE.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_jobs "$@"
cd "$ROOT"
ENGRAM=$(realpath -m "${ENGRAM:-build/release/engram}")
export ENGRAM OMP_NUM_THREADS=1

study() {
  "$ENGRAM" lab "$1" "recipes/studies/${1//-/_}_cpu_small.toml" --jobs "$JOBS" --resume
}
folder() { find results -maxdepth 1 -name "$1-cpu-small-*" | sort | tail -1; }
# The probes of a pair of checkpoints, beside the study's page.
probes() {  # STUDY BASELINE MEMORY PROBE...
  local study=$1 weights=runs/$1-cpu-small/weights baseline=$2 memory=$3 probe arguments
  shift 3
  for probe; do
    [[ ! -f $(folder "$study")/$probe/data.json ]] || continue
    arguments=("$weights/$memory")
    [[ $probe != logit-lens && $probe != cka ]] || arguments=("$weights/$baseline" "$weights/$memory")
    [[ $probe != cka && $probe != gates ]] || arguments+=(--entities corpora/study/entities.txt)
    "$ENGRAM" lab "$probe" "${arguments[@]}" --output "$(folder "$study")/$probe"
  done
}

scripts/corpus.sh --study
scripts/entities.py --factbook corpora/study/text/factbook.txt --output corpora/study/entities.txt
study allocation
probes allocation allocation-rho1-18.9m-s0 allocation-rho0.75-18.9m-s0 logit-lens cka gates collisions knock-out edit
study memory
study ablation
study placement
probes placement no-memory-3.15m-s0 one-block-rho0.5-layer-ids-1-3.15m-s0 logit-lens cka gates
study training-curve
scripts/long_context.sh --jobs "$JOBS"
