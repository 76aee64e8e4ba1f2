#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# isa_symbols_test.sh LIBRARY: the files that are compiled for AVX2 and AVX-512 define nothing that the linker might take in
# place of another file's copy of the same inline function, and so run on a machine without them.
set -euo pipefail
symbols=$(nm -A -C "$1" | grep -E 'isa_avx(2|512)\.cc')
grep -q 'kAvx512' <<<"$symbols" || { echo "no kAvx512 in $1: is this the library?"; exit 1; }
if grep -E ' [WVu] ' <<<"$symbols"; then
  echo "shared symbols in files of one instruction set: see core/kernels/fused/panel.h"
  exit 1
fi
