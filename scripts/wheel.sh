#!/usr/bin/env bash
# Builds the Python wheel of the table runtime into dist/ and tries it in a separate environment.
#
#   scripts/wheel.sh          build, install into .cache/wheel-venv, run tests/cabi/python_test.py
#   scripts/wheel.sh --build  build only
#
# Needs the Debian packages of scripts/setup.sh and PyPI (scikit-build-core, nanobind, numpy).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
[[ $# == 0 || $* == --build ]] || wrong_usage "unknown argument '$*'"

venv=.cache/wheel-venv
[[ -x $venv/bin/python ]] || "${PYTHON:-python3}" -m venv "$venv"
rm -f dist/engram_tables-*.whl
CMAKE_BUILD_PARALLEL_LEVEL=$JOBS "$venv/bin/python" -m pip wheel --disable-pip-version-check -q --no-deps \
  -w dist bindings/python || die "the wheel could not be built (messages above)"
wheel=$(ls dist/engram_tables-*.whl)
say "$wheel: $(du -h "$wheel" | cut -f1)"
[[ ${1:-} == --build ]] && exit 0
"$venv/bin/python" -m pip install --disable-pip-version-check -q --force-reinstall "$wheel" ||
  die "the wheel could not be installed (messages above)"
"$venv/bin/python" tests/cabi/python_test.py
