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
  for ca in ca other; do
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-$ca -keyout $ca.key -out $ca.pem
    for who in server client; do
      openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout $who.$ca.key -out $who.csr
      openssl x509 -req -in $who.csr -CA $ca.pem -CAkey $ca.key -CAcreateserial -days 2 -out $who.$ca.pem \
        -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1")
    done
  done
  for who in server client; do cp $who.ca.pem $who.pem; cp $who.ca.key $who.key; done
  cp ca.pem clients.pem
) 2>/dev/null

start() {
  : >"$work/log"  # else the address before is read
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

# Certificates are replaced while the server runs; bad ones are not taken. Each is moved into its place, as it should be.
put() { cp "$work/$1" "$work/new"; mv "$work/new" "$work/$2"; }
said() { until [[ $(grep -c "$1" "$work/log") -ge $2 ]]; do kill -0 "$pid" || fail "the server died"; done; }
serves() { "$client" --server "$address" --timeout "${3:-10}" --tls-ca "$work/$1.pem" --cert "$work/client.$2.pem" --key "$work/client.$2.key" models 2>/dev/null | grep french >/dev/null; }
comes() { for _ in {1..50}; do ! serves "$1" "$2" 1 || return 0; done; fail "what was put there is not served: $1 $2"; }
start --tls-client-ca "$work/clients.pem"
serves ca ca || fail "mutual TLS does not serve"
if serves ca other 1; then fail "a client of a stranger's CA is served"; fi
put server.other.pem server.pem
said "not the key of the certificate.*stay" 1
serves ca ca || fail "a certificate without its key was taken"
put server.other.key server.key
said "certificates were read again" 1
comes other ca
if serves ca ca 1; then fail "the old certificate is served yet"; fi
put other.pem clients.pem
said "certificates were read again" 2
comes other other
if serves other ca 1; then fail "a client of the old CA is served yet"; fi
echo rubbish >"$work/rubbish" && put rubbish server.pem
said "there is no certificate in it.*stay" 1
serves other other || fail "rubbish was taken"
end
if "$server" --listen 127.0.0.1:0 --models models/repository --tls-cert "$work/rubbish" --tls-key "$work/server.key" 2>"$work/log"; then fail "a server starts with rubbish"; fi
grep "tls-cert: there is no certificate in it" "$work/log" >/dev/null || fail "the reason is not said"
echo "tls: all as it should be"
