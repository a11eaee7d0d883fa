#!/usr/bin/env bash
# Makes the files of a release in dist/engram-VERSION, from a clean tree. docs/releasing.md says how a release goes.
#
#   scripts/release.sh VERSION            refused unless CMakeLists.txt, pyproject.toml and CHANGELOG.md (with a date) say
#                                         VERSION; ends with the tag vVERSION, which is not pushed
#   scripts/release.sh VERSION --trial    CHANGELOG.md may still say "unreleased"; no tag
#
# The files: source, libengram and the Python wheel for x86-64 and 64-bit ARM, an SPDX document of what is inside, SHA256SUMS.
# They take their time from the commit, so that two runs give the same bytes.
# PYTHON names a Python of 3.12 or later (default python3). Needs scripts/setup.sh --packages --arm64.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
[[ $# -ge 1 && $1 != -* ]] || wrong_usage "'$*': wanted VERSION first"
[[ $1 =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || wrong_usage "VERSION is '$1', wanted three numbers with dots"
version=$1
[[ $# == 1 || ($# == 2 && $2 == --trial) ]] || wrong_usage "unknown argument '${*:2}'"
trial=${2:-}
export PYTHON=${PYTHON:-python3}

check() {
  local said heading
  said=$(sed -n 's/^project(engram VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
  [[ $said == "$version" ]] || die "CMakeLists.txt has version $said, wanted $version"
  said=$(sed -n 's/^version = "\(.*\)"/\1/p' bindings/python/pyproject.toml)
  [[ $said == "$version" ]] || die "bindings/python/pyproject.toml has version $said, wanted $version"
  heading=$(grep -m1 '^## ' CHANGELOG.md)
  [[ $heading =~ ^"## [$version] - "([0-9]{4}-[0-9]{2}-[0-9]{2}|unreleased)$ ]] ||
    die "CHANGELOG.md begins with '$heading', wanted '## [$version] - ' and a date"
  [[ $trial == --trial || $heading != *unreleased ]] || die "CHANGELOG.md says '$heading': give it the day of the release"
  [[ -z $(git status --porcelain) ]] || die "the tree is not clean: $(git status --porcelain | wc -l) files differ from the last commit"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 12))' ||
    die "$PYTHON is $("$PYTHON" -V), wanted 3.12 or later: one wheel then serves all later versions (PYTHON names another)"
}

# pack FOLDER FILE: the same bytes whoever packs it, and when.
pack() {
  tar -C "$(dirname "$1")" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
    --format=gnu -c "$(basename "$1")" | gzip -n -9 >"$2"
}

source_tarball() {
  git archive --format=tar --prefix="engram-$version/" HEAD | gzip -n -9 >"$out/engram-$version.tar.gz"
}

# library_tarball PRESET MACHINE ROOT STRIP
library_tarball() {
  local name=libengram-$version-linux-$2
  scripts/build.sh "$1" engram_c engram_c_archive
  cmake --install "build/$1" --prefix "$work/$name" >/dev/null
  "$4" --strip-unneeded "$work/$name/lib/libengram.so.$version"
  licences "$work/$name/share/doc/engram/licences" "$3"
  cp -r examples "$work/$name/share/doc/engram/examples"
  cp docs/embedding.md "$work/$name/share/doc/engram/"
  pack "$work/$name" "$out/$name.tar.gz"
}

wheels() {
  local option
  for option in --build --arm64; do
    scripts/wheel.sh "$option" | tee "$work/wheel.log"
    cp "$(sed -n '$s/: .*//p' "$work/wheel.log")" "$out/"
  done
}

checksums() {
  python3 scripts/sbom.py "$version" "$(git rev-parse HEAD)" "$SOURCE_DATE_EPOCH" \
    "$(sed -n 's/.*nanobind==\([0-9.]*\).*/\1/p' bindings/python/pyproject.toml)" >"$out/engram-$version.spdx.json"
  (cd "$out" && sha256sum -- * >"$work/SHA256SUMS")
  mv "$work/SHA256SUMS" "$out/"
}

tag() {
  [[ $trial == --trial ]] || git tag -a "v$version" -m "engram $version" || die "the tag v$version could not be set (message above)"
}

check
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
mkdir -p dist
work=$(mktemp -d "$ROOT/dist/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
out=$work/files
mkdir "$out"
section "1/4 source"
source_tarball
section "2/4 libengram"
library_tarball library x86_64 / strip
library_tarball library-arm64 aarch64 .cache/arm64-root aarch64-linux-gnu-strip
section "3/4 wheels"
wheels
section "4/4 contents and sums"
checksums
tag
rm -rf "dist/engram-$version"
mv "$out" "dist/engram-$version"
say "dist/engram-$version:"
(cd "dist/engram-$version" && du -h -- *)
