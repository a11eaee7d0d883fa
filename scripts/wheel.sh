#!/usr/bin/env bash
# Builds the Python wheel of the table runtime into dist/ and tries it in a separate environment.
#
#   scripts/wheel.sh            build, install into .cache/wheel-venv-VERSION, run tests/cabi/python_test.py
#   scripts/wheel.sh --build    build only
#   scripts/wheel.sh --oracles  build, unpack into build/wheel-oracles for .venv-oracles, and run
#                               tests/cabi/transformers_test.py: engram.torch and engram.transformers beside transformers
#
# Needs the Debian packages of scripts/setup.sh and PyPI (scikit-build-core, nanobind, numpy); --oracles also
# scripts/setup.sh --oracles and build/release/engram.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
[[ $# == 0 || $* == --build || $* == --oracles ]] || wrong_usage "unknown argument '$*'"

python=${PYTHON:-python3}
[[ ${1:-} != --oracles ]] || python=$(readlink -f .venv-oracles/bin/python)
venv=.cache/wheel-venv-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
rm -f dist/engram_tables-*.whl
CMAKE_BUILD_PARALLEL_LEVEL=$JOBS "$venv/bin/python" -m pip wheel --disable-pip-version-check -q --no-deps \
  -C build-dir="$ROOT/build/wheel/{wheel_tag}" -w dist bindings/python || die "the wheel could not be built (messages above)"
wheel=$(ls dist/engram_tables-*.whl)
say "$wheel: $(du -h "$wheel" | cut -f1)"
case ${1:-} in
  --build) ;;
  --oracles)
    rm -rf build/wheel-oracles
    unzip -q "$wheel" -d build/wheel-oracles
    python3 tests/cabi/transformers_test.py build/release/engram "$ROOT"
    ;;
  *)
    "$venv/bin/python" -m pip install --disable-pip-version-check -q --force-reinstall "$wheel" ||
      die "the wheel could not be installed (messages above)"
    "$venv/bin/python" tests/cabi/python_test.py
    ;;
esac
