# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by the tests that meet the binaries as a user does. $1: lstm-server, $2: lstm-client
server=$1 client=$2
work=$(mktemp -d)
: >"$work/log"  # whoever waits for a line in it may look before the server has opened it
pid=
stop() { [[ -z $pid ]] || kill -KILL "$pid" 2>/dev/null || true; rm -rf "$work"; }
trap stop EXIT
fail() { echo "FAILED: $*"; cat "$work/log"; exit 1; }
# expect CODE COMMAND...: the exit code; what it says is in $work/out and $work/err
expect() {
  local want=$1 code=0
  shift
  "$@" >"$work/out" 2>"$work/err" || code=$?
  [[ $code == "$want" ]] || fail "exit code $code, expected $want: $* ($(cat "$work/err"))"
}
says() { grep -q "$1" "$work/out" "$work/err" || fail "does not say '$1': $(cat "$work/out" "$work/err")"; }
