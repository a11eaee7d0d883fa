#!/usr/bin/env bash
# Makes archives of the libraries that Debian ships as shared libraries only (libfmt, libhwy, libonig), from Debian's source
# packages, into .cache/static. What is linked with ENGRAM_STATIC_DEPS needs them: wheels, bundles, releases.
#
#   scripts/static_libraries.sh         for this machine
#   scripts/static_libraries.sh arm64   for 64-bit ARM (after scripts/setup.sh --arm64)
#
# Needs apt, and the Debian package dpkg-dev (scripts/setup.sh --packages). What is done is not done twice.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
[[ $# == 0 || $* == arm64 ]] || wrong_usage "unknown argument '$*': wanted arm64 at most"
target=${1:-$(uname -m)}
SOURCES=(fmtlib highway libonig)
folder=.cache/static/$target
[[ ! -f $folder/made.txt ]] || exit 0
command -v dpkg-source >/dev/null || die "dpkg-source is not installed: run scripts/setup.sh --packages first"
options=(-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON
  -DCMAKE_CXX_STANDARD=20 -DBUILD_TESTING=OFF -DHWY_ENABLE_EXAMPLES=OFF -DHWY_ENABLE_CONTRIB=OFF -DFMT_TEST=OFF
  -DFMT_DOC=OFF -DENABLE_POSIX_API=OFF)
[[ $target != arm64 ]] || options+=(-DCMAKE_TOOLCHAIN_FILE="$ROOT/cmake/arm64.cmake")

# An apt with its own lists, of the machine's own mirrors: their source packages.
mkdir -p .cache/static
work=$(mktemp -d "$ROOT/.cache/static/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work"/{lists,cache,parts,sources}
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
  [[ ! -f $file ]] || sed -E 's/^(Types:).*/\1 deb-src/; s/^deb /deb-src /' "$file" >"$work/parts/$(basename "$file")"
done
apt=(-q -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/parts" -o "Dir::State::lists=$work/lists"
  -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
{ apt-get "${apt[@]}" update && cd "$work/sources" && apt-get "${apt[@]}" source "${SOURCES[@]}"; } >"$work/log" 2>&1 ||
  { cat "$work/log" >&2; die "the source packages '${SOURCES[*]}' could not be had (messages above)"; }
cd "$ROOT"
rm -rf "$folder"
mkdir -p "$folder/usr/lib"
for source in "${SOURCES[@]}"; do
  tree=$(echo "$work/sources/$source"-*/)
  cmake -S "$tree" -B "$work/$source" -G Ninja "${options[@]}" -DCMAKE_C_FLAGS="-ffile-prefix-map=$work=." \
    -DCMAKE_CXX_FLAGS="-ffile-prefix-map=$work=." >"$work/log" 2>&1 || { cat "$work/log" >&2; die "$source: CMake failed"; }
  case $source in fmtlib) library=fmt ;; highway) library=hwy ;; libonig) library=onig ;; esac
  cmake --build "$work/$source" -j "$JOBS" --target "$library" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "$source: it does not build"; }
  cp "$(find "$work/$source" -name "lib$library.a")" "$folder/usr/lib/"
done
printf '%s\n' "$work"/sources/*.dsc | sed 's|.*/||' >"$folder/made.txt"
say "$folder: $(tr '\n' ' ' <"$folder/made.txt")"
