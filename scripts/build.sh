#!/usr/bin/env bash
# Builds into build/PRESET; the command is then build/PRESET/engram.
#
#   scripts/build.sh [PRESET] [TARGET...] [-- CMAKE_OPTION...]
#
# PRESET: release (default), dev, ci, asan, tsan, fuzz, arm64 (what has no torch, for 64-bit ARM; its tests run under
# qemu-user; scripts/setup.sh --arm64), cuda; with static third-party libraries: bundle, library, library-arm64
#
# ENGRAM_WERROR=ON|OFF: treat warnings as errors (default: ON with g++ 12, the compiler that CI uses).
# ENGRAM_JOBS sets the number of jobs (default: one for each core, as far as 2 GB of free memory each allow).
# TORCH_ROOT names another folder that holds torch/ (default: .venv, made by scripts/setup.sh).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
preset=${1:-release}
shift || true
targets=()
while [[ $# -gt 0 && $1 != -- ]]; do
  [[ $1 != -* ]] || wrong_usage "unknown argument '$1'"
  targets+=("$1")
  shift
done
[[ $# == 0 ]] || shift

[[ $preset =~ ^(release|dev|ci|asan|tsan|fuzz|arm64|cuda|bundle|library|library-arm64)$ ]] ||
  wrong_usage "no preset '$preset': wanted release, dev, ci, asan, tsan, fuzz, arm64, cuda, bundle, library or library-arm64"
for tool in cmake ninja c++; do
  command -v "$tool" >/dev/null || die "$tool is not installed: run scripts/setup.sh first"
done
options=()
if [[ $preset == *arm64 && ! -f .cache/arm64-root/engram-setup.txt ]]; then
  die "no third-party libraries for 64-bit ARM in .cache/arm64-root: run scripts/setup.sh --arm64 first"
fi
if [[ $preset =~ ^(bundle|library)$ ]]; then
  scripts/static_libraries.sh
elif [[ $preset == library-arm64 ]]; then
  scripts/static_libraries.sh arm64
fi
if [[ ! $preset =~ ^(asan|tsan|fuzz|arm64|library|library-arm64)$ ]]; then
  TORCH_ROOT=${TORCH_ROOT:-$(site_packages .venv)}
  [[ -e $TORCH_ROOT/torch/lib/libtorch_cpu.so ]] ||
    die "no libtorch in '${TORCH_ROOT:-.venv}': run scripts/setup.sh first (or build the part without torch: asan, tsan, arm64)"
  options+=(-DTORCH_ROOT="$TORCH_ROOT")
fi
if [[ ! $preset =~ ^(asan|tsan|fuzz|arm64|library-arm64)$ ]]; then
  # With the compiler that CI uses a warning is an error everywhere, so that building and testing share one build.
  [[ -n ${ENGRAM_WERROR:-} ]] || ENGRAM_WERROR=$([[ $(c++ -dumpversion) == 12* ]] && echo ON || echo OFF)
  options+=(-DENGRAM_WERROR="$ENGRAM_WERROR")
fi

start=$SECONDS
mkdir -p "build/$preset"
cmake --preset "$preset" "${options[@]}" "$@" >"build/$preset/configure.log" 2>&1 || {
  cat "build/$preset/configure.log" >&2
  die "configuring preset $preset failed (CMake's messages are above)"
}
cmake --build "build/$preset" -j "$JOBS" ${targets[0]:+--target "${targets[@]}"}
say "built build/$preset in $(elapsed "$start")"
