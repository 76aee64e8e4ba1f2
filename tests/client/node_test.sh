#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A call from a third language, as client/node/README.md says. $1: lstm-server. Exit code 77: skipped.
set -euo pipefail
command -v node >/dev/null || { echo "skipped: node is not installed"; exit 77; }
[[ -d client/node/node_modules/@grpc/grpc-js ]] || { echo "skipped: run npm install in client/node"; exit 77; }
log=$(mktemp)
"$1" --listen 127.0.0.1:0 --models models/repository 2>"$log" &
pid=$!
trap 'kill -KILL "$pid" 2>/dev/null || true; rm -f "$log"' EXIT
address=
until [[ -n $address ]]; do
  kill -0 "$pid"
  address=$(sed -n 's/.*listening on //p' "$log" | head -n 1)
done
out=$(node client/node/example.mjs "$address" "i grew up in japan . we liked a red boat at night . i speak fluent")
echo "$out"
[[ $(tail -n 1 <<<"$out") == "fluent       -> japanese"* ]]
