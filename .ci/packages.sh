#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# shellcheck disable=SC2034  # the lists are used where this is sourced
# Sourced by ./demo and ./test: what they need from Debian (12 and 13 alike), and how it gets there.

BUILD_PACKAGES=(build-essential cmake ninja-build pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler
  protobuf-compiler-grpc libabsl-dev libdnnl-dev nlohmann-json3-dev libspdlog-dev libssl-dev libxxhash-dev libisal-dev libcli11-dev
  libsndfile1-dev prometheus-cpp-dev libboost-dev)
TEST_PACKAGES=(libgtest-dev libgmock-dev python3 python3-grpcio python3-protobuf python3-numpy python3-h5py python3-venv
  python3-setuptools python3-wheel python3-pip python3-yaml shellcheck openssl git curl file)

say() { printf '\n== %s\n' "$*"; }

# need WHY PACKAGE...: installs those that are missing, as root or through sudo.
need() {
  local why=$1 package missing=()
  shift
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ii* ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  say "installing from Debian, ${why}: ${missing[*]}"
  local as_root=()
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || { echo "not root and no sudo: please install: ${missing[*]}" >&2; return 1; }
    as_root=(sudo)
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# configure PRESET: compiler caches are used where there are.
configure() {
  local preset=$1 cache=()
  command -v ccache >/dev/null && cache=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  cmake --preset "$preset" "${cache[@]}" >"build/$preset.configure.log" 2>&1 ||
    { cat "build/$preset.configure.log"; return 1; }
}

# build PRESET [TARGET...]: configures and builds, with progress.
build() {
  local preset=$1 targets=()
  shift
  (($#)) && targets=(--target "$@")
  configure "$preset"
  cmake --build "build/$preset" "${targets[@]}"
}
