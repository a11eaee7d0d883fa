#!/usr/bin/env bash
# Runs every check of the project, set-up included; exit code 0 only when all of them pass.
#
#   scripts/test.sh [--no-packages] [--oracles]
#
# It takes 34 minutes on CI's two cores without a compiler cache, twice that on slow ones.
# --no-packages leaves Debian packages alone, as in scripts/setup.sh.
# --oracles     also what needs other people's programs (scripts/setup.sh --oracles): our models inside transformers, and
#               the Python package inside transformers' Qwen4Exp. Without it these tests are skipped, unless
#               .venv-oracles is there. 5 GB more to download, 10 minutes more.
# ENGRAM_FUZZ_SECONDS  how long each fuzz target runs (default 60)
# ENGRAM_GOLDEN_DIR    another folder of golden cases (default tests/golden)
# The last line is "N passed, N failed, N skipped", summed over all ctest runs; test cases are counted, and a ctest
# entry that is not a GoogleTest program counts as one. Logs and JUnit files stay in build/test-results/.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
setup_arguments=(--clients)
oracles=no
arm64=yes
for argument in "$@"; do
  case $argument in
    --no-packages) { command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64; } >/dev/null || arm64=no ;;
    --oracles) oracles=yes ;;
    *) wrong_usage "unknown argument '$argument'" ;;
  esac
  setup_arguments+=("$argument")
done
[[ $arm64 == no ]] || setup_arguments+=(--arm64)

results=$ROOT/build/test-results
rm -rf "$results"
mkdir -p "$results"
export ENGRAM_FUZZ_SECONDS=${ENGRAM_FUZZ_SECONDS:-60}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1} CTEST_OUTPUT_ON_FAILURE=1
# Threads that wait sleep instead of spinning, so that tests finish on a busy machine too.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

# step NAME COMMAND...: a step that is no ctest run (set-up, build, format). A failure is noted in the results, the
# steps after it still run, and the summary counts it.
step() {
  local name=$1 start=$SECONDS
  shift
  if "$@"; then
    say "---- $name: done in $(elapsed "$start")"
  else
    say "---- $name: FAILED after $(elapsed "$start")"
    printf '%s\n' "$name" >>"$results/failed-steps.txt"
    return 1
  fi
}

# Thread sanitizer of g++ 12 cannot live with the address randomisation of newer kernels.
fixed_addresses=()
setarch "$(uname -m)" -R true 2>/dev/null && fixed_addresses=(setarch "$(uname -m)" -R)

# run_ctest NAME PRESET CTEST_ARGUMENTS...: one ctest run; its JUnit file feeds the summary.
run_ctest() {
  local name=$1 preset=$2
  shift 2
  step "$name" "${fixed_addresses[@]}" ctest --test-dir "build/$preset" -j "$JOBS" --no-tests=error \
    --test-output-size-passed 10000000 --test-output-size-failed 10000000 --output-junit "$results/$name.xml" "$@" || true
}

build_and_run() {
  local preset=$1 name=$2
  shift 2
  if step "build-$preset" scripts/build.sh "$preset"; then
    run_ctest "$name" "$preset" "$@"
  fi
}

section "1/7 set-up"
step set-up scripts/setup.sh "${setup_arguments[@]}" || { python3 scripts/test_summary.py "$results"; exit 1; }

section "2/7 release build, warnings are errors; unit, contract, parity, golden and fault tests"
export ENGRAM_WERROR=ON
build_and_run release ctest-release -LE e2e

section "3/7 the smoke recipe, trained, resumed, evaluated and sampled through the command line"
if [[ -x build/release/engram ]]; then
  run_ctest ctest-e2e release -L e2e
fi

if [[ $oracles == yes ]]; then
  section "with --oracles: the Python wheel inside transformers"
  step wheel-oracles scripts/wheel.sh --oracles || true
fi

section "4/7 address and undefined-behaviour sanitizers over the part without torch"
build_and_run asan ctest-asan -L 'unit|contract|fault|golden'

section "5/7 thread sanitizer over the tests without torch that run threads (label threads)"
if step build-tsan scripts/build.sh tsan threaded_tests; then
  run_ctest ctest-tsan tsan -L threads
fi

# What libengram is made of, and what has vectors, byte order, pages or threads of its own. Left out is what takes longer
# than the rest together (text_unicode_test, regress_text_test, regress_data_test) and what is the same everywhere: HTTP.
arm64_tests=(core_test regress_core_test text_test golden_tokenizer hash_test golden_hash formats_test regress_formats_test
  kernels_test attention_kernel_test paged_attention_test row_codec_test sampling_kernel_test regress_kernels_test
  golden_module_reference row_file_test row_store_test store_open_test table_source_test planner_test regress_store_test
  dist_world_test)
section "6/7 64-bit ARM under emulation: ${#arm64_tests[@]} test programs"
if [[ $arm64 == no ]]; then
  say "left out: no cross compiler or no qemu-aarch64 (Debian packages g++-aarch64-linux-gnu, qemu-user)"
elif step build-arm64 scripts/build.sh arm64 "${arm64_tests[@]}"; then
  run_ctest ctest-arm64 arm64 -R "^($(IFS='|' && echo "${arm64_tests[*]}"))\$"
fi

section "7/7 fuzzing, $ENGRAM_FUZZ_SECONDS s a target; format"
if step build-fuzz scripts/build.sh fuzz fuzzers; then
  run_ctest ctest-fuzz fuzz -L fuzz
fi
step format scripts/format.sh --check || true

section "summary"
python3 scripts/test_summary.py "$results"
