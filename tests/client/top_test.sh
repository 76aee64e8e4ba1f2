#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# lstm-client top against a server under load, and against none. $1: lstm-server, $2: lstm-client
set -euo pipefail
# shellcheck source=tests/client/as_user.sh
source tests/client/as_user.sh
: >"$work/log"
"$server" --listen 127.0.0.1:0 --http-listen "" --metrics-listen 127.0.0.1:0 --models models/repository 2>"$work/log" &
pid=$!
until metrics=$(sed -n 's|.*metrics on http://\(.*\)/metrics|\1|p' "$work/log") && [[ -n $metrics ]]; do kill -0 "$pid" || fail "the server did not start"; done
address=$(sed -n 's/.*listening on //p' "$work/log")
expect 0 "$client" top --metrics "$metrics" --interval 0.01
says "^lstm-server .* at $metrics  SERVING  up "
says "^sessions  live 0 of 100000, idle 0, parked 0; 0 B of 2.1 GB; streams 0$"
says "^rates     steps 0/s, turns 0/s"
says "^faults    none$"
says "^versions  french 1  french-rnn 1  shakespeare 1  telemetry 1$"
if grep -q $'\x1b' "$work/out"; then fail "control sequences in a pipe"; fi

"$client" --server "$address" load french --sessions 20 --rate 50 --seconds 600 >/dev/null 2>&1 &
load=$!
until "$client" top --once --metrics "$metrics" --interval 0.3 >"$work/out" && grep -Eq '^rates     steps [1-9][0-9]*/s, turns [1-9]' "$work/out" && grep -q '^sessions  live 20 of' "$work/out"; do
  kill -0 "$load" || fail "the load ended"
done
says '^a turn waits  *[0-9.]* [um]s'
says '^a turn is computed  *[0-9.]* [um]s'
grep -Eq '^batches   [1-9][0-9]*/s, rows: mean [1-9]' "$work/out" || fail "no batches: $(cat "$work/out")"
kill -KILL "$load"
wait "$load" 2>/dev/null || true

# What is no server of ours, and none at all.
expect 1 "$client" top --once --metrics "$address" --interval 0.01
says "no answer from http://$address/metrics"
kill -TERM "$pid"
wait "$pid" || fail "exit code $?"
pid=
expect 1 "$client" top --once --metrics "$metrics" --interval 0.01
says "no answer from http://$metrics/metrics: Connection refused"
expect 1 "$client" top --once --metrics nonsense
says "'nonsense' is no address, expected HOST:PORT"
echo "top: all as it should be"
