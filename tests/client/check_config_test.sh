#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# lstm-server --check-config: what is good, and every fault of what is not. $1: lstm-server, $2: lstm-client
set -euo pipefail
# shellcheck source=tests/client/as_user.sh
source tests/client/as_user.sh
touch "$work/log"
check=("$server" --check-config --http-listen "" --metrics-listen "" --listen 127.0.0.1:0)
certificate() {  # NAME [OPTION...]
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$work/$1.key" -out "$work/$1.pem" "${@:2}" 2>/dev/null
}
certificate one -days 2
certificate two -days 2
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=late -keyout "$work/late.key" -out "$work/late.csr" 2>/dev/null
past() { openssl x509 -req -in "$work/late.csr" -signkey "$work/late.key" -out "$work/late.pem" "$@" 2>/dev/null; }
past -days -1 || past -not_before 20200101000000Z -not_after 20200102000000Z  # the first of OpenSSL 3.0, the second of newer ones

expect 0 "${check[@]}" --models models/repository --state-dir "$work/state" --tls-cert "$work/one.pem" --tls-key "$work/one.key" --tls-client-ca "$work/two.pem"
says "^model french version 1: "
says "^gRPC on 127.0.0.1:0, TLS with client certificates$"
says "^all of it is good$"
[[ ! -e $work/state ]] || fail "it made the state directory"
[[ ! -s $work/err ]] || fail "faults of what is good: $(cat "$work/err")"

# By the environment and by a file as by flags.
echo "models: 'models/repository' listen: '127.0.0.1:0' http_listen: '' metrics_listen: '' window: 0" >"$work/config"
expect 1 "$server" --check-config --config "$work/config"
says "^fault: --window is 0, expected 1 to 256$"
expect 0 env LSTM_WINDOW=4 "$server" --check-config --config "$work/config"
echo "windows: 3" >"$work/config"
expect 2 "$server" --check-config --config "$work/config"
says 'line 1, column 8: .*no field named "windows"'

# One that serves is not disturbed, nor is it in the way.
: >"$work/log"
"$server" --listen "unix:$work/socket" --http-listen "" --metrics-listen "" --models models/repository --state-dir "$work/state" 2>"$work/log" &
pid=$!
until grep -q "listening on" "$work/log"; do kill -0 "$pid" || fail "the server did not start"; done
expect 0 "$server" --check-config --listen "unix:$work/socket" --http-listen "" --metrics-listen "" --models models/repository --state-dir "$work/state"
expect 0 "$server" --probe --listen "unix:$work/socket"
kill -TERM "$pid"
wait "$pid" || fail "exit code $?"
pid=

# Every fault at once, each named.
mkdir -p "$work/models/good" "$work/models/broken/1" "$work/none"
cp -r models/repository/french/1 "$work/models/good/1"
echo "layer { lstm { layers: 1 } }" >"$work/models/broken/1/model.textproto"
touch "$work/file"
expect 1 "$server" --check-config --models "$work/models" --state-dir "$work/file" --tls-cert "$work/one.pem" --tls-key "$work/two.key" --tls-client-ca "$work/one.key" \
  --listen 192.0.2.1:8001 --listen unix:/nowhere/socket --listen 127.0.0.1:99999 --metrics-listen 127.0.0.1:9 --http-listen "" --token-file "$work/none"
says "^model good version 1: "
says "^fault: --listen: cannot listen on 192.0.2.1:8001: "
says "^fault: --listen: cannot listen on unix:/nowhere/socket: No such file"
says "^fault: --listen: '127.0.0.1:99999' is no address"
says "^fault: --tls-key: '$work/two.key' is not the key of --tls-cert"
says "^fault: --tls-client-ca: '$work/one.key' has no certificate"
says "^fault: --state-dir: '$work/file' is no directory"
says "^fault: model broken version 1 was not loaded: "
says "^fault: --token-file: '$work/none' is no file"
says "^8 faults$"
[[ $(grep -c ^fault: "$work/err") == 8 ]] || fail "other faults than eight: $(cat "$work/err")"
expect 1 "${check[@]}" --models "$work/none" --state-dir "$work/none/a/b" --tls-cert "$work/late.pem" --tls-key "$work/none/key"
says "^fault: --tls-cert: '$work/late.pem' has expired$"
says "^fault: --tls-key: '$work/none/key' cannot be read: No such file"
says "^fault: --state-dir: '$work/none/a/b' is not there and cannot be made"
says "^fault: --models: no model could be loaded from"
openssl ec -in "$work/one.key" -aes256 -passout pass:secret -out "$work/locked.key" 2>/dev/null
expect 1 "${check[@]}" --models models/repository --tls-cert "$work/one.pem" --tls-key "$work/locked.key" </dev/null
says "^fault: --tls-key: '$work/locked.key' is no key in PEM"
expect 1 "$server" --check-config --listen 0.0.0.0:1 --max-batch 0 --engine gpu --http-listen 1.2.3:4
says "^fault: --models DIR is missing"
says "^fault: --listen names an address beyond this machine"
says "^fault: --max-batch is 0"
says "^fault: --engine is 'gpu'"
says "^fault: --http-listen is '1.2.3:4'"
echo "check-config: all as it should be"
