#!/usr/bin/env bash
# Runs the bundle's `engram` with the libtorch of a Python environment.
#
#   TORCH_ROOT=/path/to/site-packages ./run.sh train recipes/smoke.toml --set train.device=cuda
#
# TORCH_ROOT is the folder that holds torch/ (version 2.11); without it, the torch of `python3` is taken. Nothing is
# downloaded and nothing outside this folder is written. Relative paths are relative to this folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

if [[ -z ${TORCH_ROOT:-} ]]; then
  TORCH_ROOT=$(python3 -c 'import importlib.util as u, pathlib as p
spec = u.find_spec("torch")
print(p.Path(spec.origin).parent.parent if spec and spec.origin else "")' 2>/dev/null) || true
  [[ -n $TORCH_ROOT ]] || die "python3 has no torch: set TORCH_ROOT to the site-packages that holds torch/ 2.11"
fi
[[ -e $TORCH_ROOT/torch/lib/libtorch_cpu.so ]] ||
  die "TORCH_ROOT is '$TORCH_ROOT', wanted a folder with torch/lib/libtorch_cpu.so"
version=$(sed -n "s/^__version__ = ['\"]\([^'\"]*\).*/\1/p" "$TORCH_ROOT/torch/version.py" 2>/dev/null || true)
[[ $version == 2.11.* ]] || die "$TORCH_ROOT holds torch '${version:-of unknown version}', wanted 2.11"

# The wheel's libraries find each other; a system CUDA comes last, for environments that bring none.
path=$TORCH_ROOT/torch/lib
for folder in "$TORCH_ROOT"/nvidia/*/lib /usr/local/cuda/lib64; do
  [[ ! -d $folder ]] || path+=:$folder
done
export LD_LIBRARY_PATH=$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# libtorch and this program share one C++ library: the system's, unless it is older than the one built against.
if LD_TRACE_LOADED_OBJECTS=1 bin/engram-torch 2>&1 | grep "GLIBCXX_\|CXXABI_" >/dev/null; then
  export LD_LIBRARY_PATH=$PWD/lib/fallback:$LD_LIBRARY_PATH
fi
missing=$(LD_TRACE_LOADED_OBJECTS=1 bin/engram-torch 2>&1 | grep "not found" | tr -s '\t ' ' ' || true)
[[ -z $missing ]] || die "the libraries in $TORCH_ROOT are not enough for this bundle ($(<BUILD)): $missing"

# Text and shards, where the bundle has them, are unpacked once, each into place only when whole.
[[ ! -d demo ]] || find demo -name '*.zst' | while read -r packed; do
  file=${packed%.zst}
  [[ ! -e $file ]] || continue
  LD_LIBRARY_PATH=$PWD/lib/fallback bin/zstd -q -d -f "$packed" -o "$file.part" || die "cannot unpack $packed"
  mv "$file.part" "$file"
done
exec bin/engram "$@"
