# Sourced by the other scripts: where the tree is, how messages look, what setup.sh has left behind.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
wrong_usage() { printf 'error: %s (try --help)\n' "$*" >&2; exit 2; }
# elapsed START: "3m07s" since START, a value of $SECONDS.
elapsed() { printf '%dm%02ds' $(((SECONDS - $1) / 60)) $(((SECONDS - $1) % 60)); }
# section TITLE: a header that stands out in a long log, with the time since the script began.
section() { printf '\n==== %s  (at %s)\n' "$*" "$(elapsed 0)"; }

# site_packages ENVIRONMENT: the folder that holds torch/, or nothing.
site_packages() {
  local folder
  for folder in "$ROOT/$1"/lib/python3*/site-packages; do
    if [[ -e $folder/torch/lib/libtorch_cpu.so ]]; then
      printf '%s\n' "$folder"
      return
    fi
  done
}

# default_jobs: one for each core, as far as 2 GB of free memory each allow (a source with libtorch's headers takes up to
# 1.5 GB to compile). MEMINFO and CGROUP_LIMIT stand in for the machine's in a test.
default_jobs() {
  local cores kilobytes limit
  cores=$(nproc)
  kilobytes=$(awk '/^MemAvailable:/ {print $2}' "${MEMINFO:-/proc/meminfo}" 2>/dev/null) || true
  limit=$(cat "${CGROUP_LIMIT:-/sys/fs/cgroup/memory.max}" 2>/dev/null) || true
  kilobytes=${kilobytes:-2000000}
  [[ ! $limit =~ ^[0-9]+$ ]] || ((limit / 1000 >= kilobytes)) || kilobytes=$((limit / 1000))
  local jobs=$((kilobytes / 2000000))
  ((jobs < cores)) || jobs=$cores
  ((jobs >= 1)) || jobs=1
  printf '%d\n' "$jobs"
}
JOBS=${ENGRAM_JOBS:-$(default_jobs)}

# fetch_package FOLDER REQUIREMENT FILE SHA256: a package's file in .cache/packages/FOLDER. Nothing is installed.
fetch_package() {
  local file=.cache/packages/$1/$3
  if [[ -f $file && $(sha256sum "$file" | cut -d' ' -f1) == "$4" ]]; then return; fi
  mkdir -p ".cache/packages/$1"
  say "downloading $2"
  rm -f "$file"
  .venv/bin/python -m pip download --disable-pip-version-check -q --no-deps -d ".cache/packages/$1" "$2" ||
    die "pip could not download $2 (its messages are above); is there a network?"
  [[ $(sha256sum "$file" | cut -d' ' -f1) == "$4" ]] ||
    die "$file has SHA-256 $(sha256sum "$file" | cut -d' ' -f1), wanted $4"
}

# -h or --help, at any place: the script's head comment is the answer, before the script does anything. The arguments are
# those of the script that sources this file.
for argument in "$@"; do
  if [[ $argument == -h || $argument == --help ]]; then
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
  fi
done

# JOBS from a script's arguments: as above, or --jobs N.
read_jobs() {
  if [[ ${1:-} == --jobs && ${2:-} =~ ^[1-9][0-9]*$ ]]; then
    JOBS=$2
    shift 2
  fi
  [[ $# -eq 0 ]] || wrong_usage "'$1': wanted --jobs N at most"
}

# licences FOLDER ROOT: of what libengram holds; ROOT is where Debian's packages lie.
licences() {
  mkdir -p "$1"
  cp LICENSE "$1/engram.txt"
  local package
  for package in $(python3 -c 'import sys; sys.path.insert(0, "scripts"); import sbom
print(*sorted(debian for debian, _, files in sbom.LINKED.values() if "library" in files))'); do
    cp -L "$2/usr/share/doc/$package/copyright" "$1/$package.txt" 2>/dev/null ||
      cp -L "/usr/share/doc/$package/copyright" "$1/$package.txt"
  done
}
