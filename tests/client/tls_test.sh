#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# TLS and mutual TLS with a throw-away CA. $1: lstm-server, $2: lstm-client
set -euo pipefail
# grep reads to the end: with -q it leaves early, and a client that still writes ends by SIGPIPE, which pipefail takes for a failure.
server=$1 client=$2
work=$(mktemp -d)
pid=
stop() { [[ -z $pid ]] || kill -KILL "$pid" 2>/dev/null || true; rm -rf "$work"; }
trap stop EXIT
fail() { echo "FAILED: $*"; cat "$work"/log; exit 1; }
(
  cd "$work"
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem
  for who in server client; do
    openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout $who.key -out $who.csr
    openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out $who.pem \
      -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1")
  done
) 2>/dev/null

start() {
  "$server" --listen 127.0.0.1:0 --models models/repository --tls-cert "$work/server.pem" --tls-key "$work/server.key" "$@" 2>"$work/log" &
  pid=$!
  address=
  until [[ -n $address ]]; do
    kill -0 "$pid" || fail "the server did not start"
    address=$(sed -n 's/.*listening on //p' "$work/log" | head -n 1)
  done
}
end() { kill -TERM "$pid"; wait "$pid" || fail "exit code $?"; pid=; }

start
"$client" --server "$address" --tls-ca "$work/ca.pem" --token secret models | grep french >/dev/null || fail "TLS does not serve"
"$server" --probe --listen "$address" --tls-cert "$work/server.pem" --tls-key "$work/server.key" || fail "the probe does not speak TLS"
if "$server" --probe --listen "$address" 2>/dev/null; then fail "the probe is content without TLS"; fi
if "$client" --server "$address" --timeout 1 models >/dev/null 2>&1; then fail "plain text is served beside TLS"; fi
end
start --tls-client-ca "$work/ca.pem"
"$client" --server "$address" --tls-ca "$work/ca.pem" --cert "$work/client.pem" --key "$work/client.key" models | grep french >/dev/null || fail "mutual TLS does not serve"
"$server" --probe --listen "$address" --tls-cert "$work/server.pem" --tls-key "$work/server.key" || fail "the probe does not speak mutual TLS"
if "$client" --server "$address" --tls-ca "$work/ca.pem" --timeout 1 models >/dev/null 2>&1; then fail "a client without a certificate is served"; fi
end
echo "tls: all as it should be"
