#!/usr/bin/env bash
# Tries the files of a release in empty Debian roots (debootstrap, variant minbase): as root only.
#
#   scripts/try_packages.sh dist/engram-VERSION [SUITE]
#
#   1. A root with Python and no compiler: pip installs the x86-64 wheel, and tests/cabi/python_test.py runs.
#   2. A root with gcc, cmake and pkg-config: the examples are built against the x86-64 tarball (CMake, pkg-config, the
#      archive) and read rows of a table.
#   3. A root of 64-bit ARM, unpacked: the aarch64 wheel and tarball, the same under qemu-aarch64.
#
# SUITE: the Debian release of the roots (default trixie, whose Python takes the wheel). They lie in build/roots, which
# holds 1 GB. Needs scripts/setup.sh --packages --arm64. Packages come from the mirror of apt, numpy and pip from PyPI.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
[[ $# -ge 1 && $# -le 2 && $1 != -* ]] || wrong_usage "'$*': wanted a folder of release files, and a suite at most"
[[ -f $1/SHA256SUMS ]] || die "$1 has no SHA256SUMS: wanted the folder that scripts/release.sh makes"
[[ $(id -u) == 0 ]] || die "only root may make a root and enter it"
files=$(cd "$1" && pwd)
suite=${2:-trixie}
(cd "$files" && sha256sum --check --quiet SHA256SUMS) || die "$1: a file does not have its sum (message above)"
mkdir -p build/roots/debs
roots=$ROOT/build/roots
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -1)

# make_root NAME PACKAGES DEBOOTSTRAP_ARGUMENTS...
make_root() {
  local name=$1 packages=$2
  shift 2
  rm -rf "${roots:?}/$name"
  debootstrap --cache-dir="$roots/debs" --variant=minbase --include="$packages" "$@" "$suite" "$roots/$name" "$mirror" \
    >"$roots/$name.log" 2>&1 || { tail -5 "$roots/$name.log" >&2; die "debootstrap could not make the root '$name'"; }
  # What tests/cabi/python_test.py and the examples read.
  mkdir -p "$roots/$name/try/docs" "$roots/$name/try/tests/golden" "$roots/$name/try/tests/cabi" "$roots/$name/try/wheels"
  cp docs/embedding.md "$roots/$name/try/docs"
  cp -r tests/parity "$roots/$name/try/tests"
  cp tests/golden/dialect_vectors.json "$roots/$name/try/tests/golden"
  cp tests/cabi/python_test.py "$roots/$name/try/tests/cabi"
}

# wheels_for MACHINE FOLDER: our wheel, and numpy's and pip's from PyPI, for the Python of the suite.
wheels_for() {
  local version
  version=$(basename "$roots/python/usr/bin/"python3.[0-9]*[0-9])
  cp "$files"/engram_tables-*_"$1".whl "$2"
  python3 -m pip download --disable-pip-version-check -q --only-binary :all: --no-deps -d "$2" --python-version "${version#python}" \
    --platform "manylinux_2_28_$1" --platform "manylinux_2_27_$1" --platform "manylinux_2_17_$1" --platform manylinux2014_"$1" numpy pip ||
    die "numpy and pip could not be had from PyPI (messages above)"
}

in_root() { chroot "$roots/$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh -euc "$2"; }
URI="dram:/try/tests/parity/table.rows"
TOKENIZER=/try/tests/parity/tables/deepseek_v41/tokenizer.json
no_compiler='for tool in cc gcc g++ clang make cmake; do if command -v $tool; then exit 1; fi; done'

section "1/3 the x86-64 wheel in a root without compilers"
make_root python python3
wheels_for x86_64 "$roots/python/try/wheels"
in_root python "$no_compiler"'
python3 -V
python3 "$(echo /try/wheels/pip-*.whl)/pip" install -q --no-index --find-links /try/wheels --target /site engram_tables
ls /site
PYTHONPATH=/site python3 /try/tests/cabi/python_test.py'

section "2/3 the x86-64 tarball in a root with gcc, cmake and pkg-config"
make_root compiler gcc,g++,cmake,make,pkg-config
tar -xzf "$files"/libengram-*-x86_64.tar.gz -C "$roots/compiler/opt" --strip-components=1
in_root compiler "
cat /opt/lib/pkgconfig/engram.pc
examples=/opt/share/doc/engram/examples
cmake -S \$examples -B /try/build -DCMAKE_PREFIX_PATH=/opt >/try/cmake.log || { cat /try/cmake.log; exit 1; }
cmake --build /try/build
/try/build/lookup $URI $TOKENIZER 0 70 71 5 100 | tee /try/rows.txt | head -3
export PKG_CONFIG_PATH=/opt/lib/pkgconfig
gcc \$examples/lookup.c -o /try/lookup \$(pkg-config --cflags --libs engram)
LD_LIBRARY_PATH=/opt/lib /try/lookup $URI $TOKENIZER 0 70 71 5 100 | cmp - /try/rows.txt
gcc \$examples/lookup.c -o /try/lookup-archive \$(pkg-config --cflags engram) /opt/lib/libengram.a -lstdc++ -lm
gcc -static \$examples/lookup.c -o /try/lookup-static \$(pkg-config --cflags engram) /opt/lib/libengram.a -lstdc++ -lm
mv /opt /nowhere
/try/lookup-archive $URI $TOKENIZER 0 70 71 5 100 | cmp - /try/rows.txt
/try/lookup-static $URI $TOKENIZER 0 70 71 5 100 | cmp - /try/rows.txt
echo CMake, pkg-config, the archive and a static program: the same rows"

section "3/3 64-bit ARM: the wheel and the tarball under emulation"
make_root arm64 python3,libstdc++6 --arch=arm64 --foreign
for package in "$roots/arm64/var/cache/apt/archives"/*.deb; do
  dpkg-deb -x "$package" "$roots/arm64"
done
wheels_for aarch64 "$roots/arm64/try/wheels"
root=$roots/arm64
python=("$root"/usr/bin/python3.[0-9]*[0-9])
emulated() { env -i PATH=/usr/bin:/bin "$@"; }  # a path that the root has is the root's
emulated qemu-aarch64 -L "$root" "$python" -c 'import platform, sys; print(sys.version, platform.machine())'
for wheel in "$root"/try/wheels/{engram,numpy}*.whl; do  # pip takes minutes under emulation
  unzip -q -o "$wheel" -d "$root/site"
done
emulated PYTHONPATH="$root/site" qemu-aarch64 -L "$root" "$python" "$root/try/tests/cabi/python_test.py"
tar -xzf "$files"/libengram-*-aarch64.tar.gz -C "$root/opt" --strip-components=1
for library in -lengram "$root/opt/lib/libengram.a -lstdc++ -lm"; do
  # shellcheck disable=SC2086
  aarch64-linux-gnu-gcc -I"$root/opt/include" -L"$root/opt/lib" examples/lookup.c -o "$root/try/lookup" $library
  emulated LD_LIBRARY_PATH=/opt/lib qemu-aarch64 -L "$root" "$root/try/lookup" "$URI" $TOKENIZER 0 70 71 5 100 |
    cmp - "$roots/compiler/try/rows.txt"
done
say "64-bit ARM: the shared library and the archive give the rows of x86-64"
