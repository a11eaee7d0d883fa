#!/usr/bin/env bash
# Makes dist/engram-bundle: a folder of at most 45 MB that runs on a machine with a driver, CUDA 13 and a Python
# environment with torch 2.11, without access to packages.
#
#   scripts/bundle.sh [--cpu]        --cpu: a program that needs no CUDA libraries (default: CUDA, which trains on the
#                                    CPU too, but wants the full torch install)
#
# Needs scripts/setup.sh --packages. Third-party libraries are linked statically, except for two: libtorch is found at run
# time (TORCH_ROOT), and the C++ library must be the one that libtorch uses, so it is the machine's, with a copy in
# lib/fallback for older machines. The text and the token shards of the demo are included, packed, when demo/data exists
# (scripts/corpus.sh).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
LIMIT_MB=45
cuda=ON
[[ $# -le 1 ]] || wrong_usage "'$*': wanted one argument at most"
case ${1:-} in
  "") ;;
  --cpu) cuda=OFF ;;
  *) wrong_usage "unknown argument '$1'" ;;
esac

# copy_library SONAME FOLDER: the file that the program would load, under its soname.
copy_library() {
  local path
  path=$(ldconfig -p | awk -v name="$1" '$1 == name && /x86-64/ && !found++ {print $NF}')
  [[ -n $path ]] || die "$1 is not installed: run scripts/setup.sh first"
  cp -L "$path" "$2/$1"
}

copy_program() {
  mkdir -p "$bundle/bin" "$bundle/lib/fallback"
  cp build/bundle/engram build/bundle/engram-{train,torch} "$bundle/bin"
  strip "$bundle"/bin/engram*
  cp /usr/bin/zstd "$bundle/bin/zstd"
  local library
  for library in libstdc++.so.6 libgcc_s.so.1 libz.so.1 liblzma.so.5 liblz4.so.1; do
    copy_library "$library" "$bundle/lib/fallback"
  done
  cp scripts/bundle/run.sh "$bundle/run.sh"
  printf 'engram %s, %s, built with torch 2.11\n' "$(git describe --always --dirty 2>/dev/null || echo unversioned)" \
    "$([[ $cuda == ON ]] && echo CUDA || echo 'CPU only')" >"$bundle/BUILD"
}

copy_licences() {
  mkdir -p "$bundle/licences"
  cp LICENSE "$bundle/LICENSE"
  cp docs/corpus.md "$bundle/licences/text.md"  # names the text's sources, CC-CEDICT's licence asks for it
  local package
  for package in libfmt-dev libutf8proc-dev libpcre2-dev libonig-dev libzstd-dev libhwy-dev nlohmann-json3-dev libtomlplusplus-dev \
    libcli11-dev libboost-dev libspdlog-dev libjs-chart.js libstdc++6 zlib1g-dev zlib1g liblzma5 liblz4-1; do
    cp -L "/usr/share/doc/$package/copyright" "$bundle/licences/$package.txt"
  done
}

# Everything under demo/data keeps its place, so the recipes' paths hold; run.sh unpacks it once.
copy_data() {
  [[ -d demo/data ]] || { say "demo/data is missing: no text in the bundle (scripts/corpus.sh makes it)"; return; }
  local file
  find demo/data -type f | while read -r file; do
    mkdir -p "$bundle/$(dirname "$file")"
    zstd -q -19 -T0 "$file" -o "$bundle/$file.zst"
  done
}

section "1/3 build"
scripts/build.sh bundle programs -- -DENGRAM_WITH_CUDA="$cuda"
section "2/3 assemble"
mkdir -p dist
bundle=$(mktemp -d dist/bundle.XXXXXX)
trap 'rm -rf "$bundle"' EXIT
chmod 755 "$bundle"
copy_program
copy_licences
cp -r recipes "$bundle/recipes"
cp scripts/bundle/README.md "$bundle/README.md"
copy_data
section "3/3 check"
megabytes=$(($(du -s --apparent-size -B1 "$bundle" | cut -f1) / 1000000 + 1))
((megabytes <= LIMIT_MB)) || {
  du -ah --apparent-size "$bundle" | sort -h | tail -8
  die "the bundle has $megabytes MB, wanted at most $LIMIT_MB"
}
rm -rf dist/engram-bundle
mv "$bundle" dist/engram-bundle
say "dist/engram-bundle: $megabytes MB. Copy it anywhere, then: TORCH_ROOT=SITE_PACKAGES ./run.sh --help"
