# Sourced by the other scripts: where the tree is, how messages look, what setup.sh has left behind.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
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

# Compiling against libtorch takes up to 1.5 GB a job, so the default is two jobs whatever the machine.
JOBS=${ENGRAM_JOBS:-$(($(nproc) < 2 ? 1 : 2))}

# JOBS from a script's arguments: as above, or --jobs N.
read_jobs() {
  if [[ ${1:-} == --jobs && ${2:-} =~ ^[1-9][0-9]*$ ]]; then
    JOBS=$2
    shift 2
  fi
  [[ $# -eq 0 ]] || { echo "error: '$1': wanted --jobs N at most (try --help)" >&2; exit 2; }
}
