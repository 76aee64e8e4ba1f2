#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# `lstm-client stream` while its server is killed and started again, twice: every line, none twice, the bits of an
# undisturbed run. $1: lstm-server, $2: lstm-client. With -v it shows what a user sees.
set -euo pipefail
server=$1 client=$2 show=${3:-}
work=$(mktemp -d)
pid='' live=''
stop() {
  for p in $pid $live; do kill -KILL "$p" 2>/dev/null || true; done
  rm -rf "$work"
}
trap stop EXIT
fail() { echo "FAILED: $*"; tail -n 20 "$work/log" "$work/notices" 2>/dev/null || true; exit 1; }

address=127.0.0.1:0
start() {
  : >"$work/log"
  setpriv --pdeathsig KILL -- "$server" --listen "$address" --models models/repository --state-dir "$work/state" 2>"$work/log" &
  pid=$!
  until grep -q 'listening on' "$work/log"; do kill -0 "$pid" 2>/dev/null || fail "the server did not start"; done
  address=$(sed -n 's/.*listening on //p' "$work/log")
}
# lines N: waits for that many lines of the client
lines() {
  until (($(wc -l <"$work/got") >= $1)); do kill -0 "$live" 2>/dev/null || fail "the client ended after $(wc -l <"$work/got") lines"; done
}
killed() {
  kill -KILL "$pid"
  wait "$pid" 2>/dev/null || true
  start
}
# through NAME FIRST SECOND ARGUMENTS...: the server is killed when there are FIRST lines, and again when there are SECOND
through() {
  local name=$1 first=$2 second=$3
  shift 3
  "$client" --server "$address" stream "$@" >"$work/want" || fail "$name: the undisturbed run"
  : >"$work/got"
  setpriv --pdeathsig KILL -- "$client" --server "$address" stream "$@" >"$work/got" 2>"$work/notices" &
  live=$!
  lines "$first"
  killed
  lines "$second"
  killed
  wait "$live" || fail "$name: exit code $?"
  live=''
  cmp "$work/want" "$work/got" || fail "$name: not the output of an undisturbed run"
  (($(grep -c 'connection lost' "$work/notices") == 2 && $(grep -c 'resumed after' "$work/notices") == 2)) || fail "$name: two losses should be told"
  if [[ $show == -v ]]; then
    cat "$work/notices"
    sed -n "1,2p;$((first - 1)),$((first + 1))p;\$p" "$work/got" | cut -c 1-160
  fi
  echo "$name: $(wc -l <"$work/got") lines, as in an undisturbed run"
}

start
for _ in {1..40}; do cat models/samples/grew_up_in_france.txt; done >"$work/france.txt"
for _ in {1..40}; do cat models/samples/grew_up_in_japan.txt; done >"$work/japan.txt"
through "two sessions, word by word" 1000 4000 french "$work/france.txt" "$work/japan.txt"
durability=host
if [[ $(stat -f -c %T "$work") == tmpfs ]]; then durability=process; fi
through "turns of 16, durability $durability" 100 400 telemetry models/samples/telemetry.csv --turn 16 --durability "$durability"
(($("$client" --server "$address" sessions list | wc -l) == 1)) || fail "sessions are left: $("$client" --server "$address" sessions list)"
kill -TERM "$pid"
wait "$pid" || fail "the server's exit code is $?"
pid=''

# A limit on file sizes is a full disk: sessions are refused by name, and the server lives.
start() {
  : >"$work/log"
  (ulimit -f 64 && exec setpriv --pdeathsig KILL -- "$server" --listen 127.0.0.1:0 --models models/repository --state-dir "$work/small" 2>"$work/log") &
  pid=$!
  until grep -q 'listening on' "$work/log"; do kill -0 "$pid" 2>/dev/null || fail "the server did not start"; done
  address=$(sed -n 's/.*listening on //p' "$work/log")
}
start
if "$client" --server "$address" --reconnect 1 --timeout 2 stream french models/samples/grew_up_in_france.txt >"$work/got" 2>"$work/notices"; then fail "a session on a full disk"; fi
grep -q 'no room for another session' "$work/notices" || fail "the reason is not told"
"$client" --server "$address" models >/dev/null || fail "the server did not survive a limit on file sizes"
echo "a limit on file sizes: refused, and the server lives"
kill -TERM "$pid"
wait "$pid" || fail "the server's exit code is $?"
pid=''
