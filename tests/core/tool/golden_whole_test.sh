#!/bin/bash
# SPDX-License-Identifier: MIT
# What PyTorch exported and computed (tests/data/golden_whole/make.py), through lstm-model verify. $1: lstm-model
set -u
failed=0 cases=0
for directory in tests/data/golden_whole/*/; do
  arguments=(--tolerance 1e-5 --input "x=$directory/x.npy")
  [[ -f $directory/lens.npy ]] && arguments+=(--input "lens=$directory/lens.npy")
  [[ -f $directory/mask.npy ]] && arguments+=(--input "mask=$directory/mask.npy")
  for output in y h c; do
    [[ -f $directory/$output.npy ]] && arguments+=(--expect "$output=$directory/$output.npy")
  done
  said=$("$1" verify "$directory/model.onnx" "${arguments[@]}" 2>&1) || { echo "FAILED $directory: $said"; failed=1; }
  cases=$((cases + 1))
done
# Cells that PyTorch writes out in parts are one op.
for kind in lstm gru rnn; do
  "$1" inspect "tests/data/golden_whole/${kind}_cell/model.onnx" | grep -q ": ${kind^^}," || { echo "FAILED ${kind}_cell: not recognised"; failed=1; }
done
# A file that differs is noticed.
"$1" verify tests/data/golden_whole/lstm_both_ways/model.onnx --input x=tests/data/golden_whole/gru_flipped/x.npy --expect y=tests/data/golden_whole/lstm_both_ways/y.npy > /dev/null 2>&1 && { echo "FAILED: another input gave the same output"; failed=1; }
[[ $cases -ge 24 ]] || { echo "FAILED: $cases cases, expected 24"; failed=1; }
exit $failed
