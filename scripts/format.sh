#!/usr/bin/env bash
# Formats the C++ sources with clang-format 14.
#
#   scripts/format.sh [--check]
#
# --check changes nothing: exit code 1 and the list of files when something would change
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
[[ $# == 0 || $* == --check ]] || wrong_usage "unknown argument '$*'"
command -v clang-format >/dev/null || die "clang-format is not installed: run scripts/setup.sh"
mapfile -t files < <(git ls-files --cached --others --exclude-standard --deduplicate -- \
  '*.h' '*.cc' '*.cpp' '*.cu' '*.c' | while read -r file; do [[ ! -f $file ]] || echo "$file"; done)
case ${1:-} in
  "") clang-format -i "${files[@]}" ;;
  --check)
    unformatted=()
    for file in "${files[@]}"; do
      clang-format "$file" | cmp -s - "$file" || unformatted+=("$file")
    done
    if [[ ${#unformatted[@]} -gt 0 ]]; then
      printf '%s\n' "${unformatted[@]}"
      die "${#unformatted[@]} of ${#files[@]} files are not formatted: run scripts/format.sh"
    fi
    say "format: ${#files[@]} files are clean"
    ;;
esac
