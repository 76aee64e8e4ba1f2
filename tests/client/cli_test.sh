#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The binaries as a user meets them. $1: lstm-server, $2: lstm-client
set -euo pipefail
# shellcheck source=tests/client/as_user.sh
source tests/client/as_user.sh

expect 1 "$server" --listen 127.0.0.1:0
says "models DIR is missing"
expect 1 "$server" --listen 0.0.0.0:0 --models models/repository
says "behind-proxy"
expect 1 "$server" --listen 127.0.0.1:0 --models "$work"
says "no model could be loaded"
expect 2 "$server" --nonsense
expect 0 "$server" --help
says "max-session-bytes"

"$server" --listen 127.0.0.1:0 --models models/repository 2>"$work/log" &
pid=$!
address=
until [[ -n $address ]]; do
  kill -0 "$pid" || fail "the server did not start"
  address=$(sed -n 's/.*listening on //p' "$work/log" | head -n 1)
done
run=("$client" --server "$address")
expect 0 "$server" --listen "$address" --probe
expect 0 env LSTM_LISTEN="0.0.0.0:${address##*:}" "$server" --probe
golden=models/golden/french

expect 0 "${run[@]}" models --json
/usr/bin/python3 - "$work/out" <<'PY'
import json, sys
models = json.load(open(sys.argv[1]))["models"]
french = next(m for m in models if m["name"] == "french")
assert french["versions"] == ["1"] and french["inputs"][0] == {"name": "word", "type": "INT32", "shape": []}, french
assert [s["name"] for s in french["state"]] == ["cell.h", "cell.c"]
PY
expect 0 "${run[@]}" stream french $golden/word.npy --output "$work/one.npy"
expect 0 "${run[@]}" stream french $golden/word.npy --turn 16 --output "$work/sixteen.npy"
expect 0 "${run[@]}" predict french $golden/word.npy --output "$work/whole.npy"
cmp "$work/one.npy" "$work/sixteen.npy" || fail "turns of 16 give other bits"
cmp "$work/one.npy" "$work/whole.npy" || fail "Predict gives other bits"
/usr/bin/python3 - "$work/one.npy" $golden/probability.npy <<'PY'
import sys, numpy as np
a, b = (np.load(f) for f in sys.argv[1:])
assert a.shape == b.shape and abs(a - b).max() < 1e-5, abs(a - b).max()
PY
expect 0 "${run[@]}" stream telemetry models/golden/telemetry/reading.npy --select forecast --output "$work/forecast.npy"
expect 0 "${run[@]}" stream french $golden/word.npy --timing
says '"step":0,.*"turn":1'
echo "i grew up in france" >"$work/a.txt"
echo "the clouds" >"$work/b.txt"
expect 0 "${run[@]}" stream french "$work/a.txt" "$work/b.txt"
[[ $(grep -c '"session":"a"' "$work/out") == 5 && $(grep -c '"session":"b"' "$work/out") == 2 ]] || fail "interleaved sessions"
expect 0 "${run[@]}" stream french "$work/a.txt" --trace cell.c --output "$work/a.csv"
head -n 1 "$work/a.csv" | grep -q 'cell.c\[63\]' || fail "traces in CSV"
expect 0 "${run[@]}" generate shakespeare --prompt "ROMEO:" --length 20 --seed 4
cp "$work/out" "$work/first"
expect 0 "${run[@]}" generate shakespeare --prompt "ROMEO:" --length 20 --seed 4
cmp "$work/first" "$work/out" || fail "the same seed writes another text"
expect 0 "${run[@]}" load french --sessions 20 --rate 20 --seconds 0.5 --json
says '"errors":0'
says "\"server_cpu_of\":\"process $pid\""
# Sessions that come and go while others are paced, some of them without a word: none of it is an error.
expect 0 "${run[@]}" load french --sessions 20 --rate 20 --seconds 1 --churn 40 --abrupt 0.5 --json
/usr/bin/python3 - "$work/out" <<'PY'
import json, sys
got = json.load(open(sys.argv[1]))
assert got["errors"] == 0 and got["closed"] > 0 and got["cut"] > 0, got
assert 0 < got["turns"] <= 400 and got["turns"] + got["abandoned"] >= 400, got
assert got["server_cpu_us_per_step"] > 0, got
PY
expect 0 "${run[@]}" load french --search --sessions 4 --max-sessions 8 --rate 1000 --seconds 0.1 --p99 60000 --json
/usr/bin/python3 - "$work/out" <<'PY'
import json, sys
got = json.load(open(sys.argv[1]))
assert got["sessions"] == 8 and got["fails_at"] is None and got["errors"] == 0, got
assert [p["sessions"] for p in got["probes"]] == [4, 8, 8] and all(p["holds"] for p in got["probes"]), got
PY
expect 1 "${run[@]}" load french --search --sessions 2 --rate 1000 --seconds 0.1 --p99 0.001
says "not even one session keeps p99 within 0.001 ms"
expect 1 "${run[@]}" load french --abrupt 0.5
says "abrupt is a part of --churn"
expect 2 "${run[@]}" load french --p99 3
expect 0 "${run[@]}" sessions list

# Audio travels as frames of the input's size, the last one filled up with silence: 20 samples are four frames of 6.
/usr/bin/python3 - "$work/a.wav" <<'PY'
import sys, wave
with wave.open(sys.argv[1], "wb") as out:
    out.setnchannels(1), out.setsampwidth(2), out.setframerate(16000)
    out.writeframes(bytes(range(40)))
PY
expect 0 "${run[@]}" stream telemetry "$work/a.wav" --output "$work/wav.npy"
/usr/bin/python3 - "$work/wav.npy" <<'PY'
import sys, numpy as np
assert np.load(sys.argv[1]).shape == (4, 1)
PY
printf '{"reading": [1, 2, 3, 4, 5, 6]}\n[1, 2, 3, 4, 5, 6]\n' | expect 0 "${run[@]}" stream telemetry --format ndjson
says '"step":1,"anomaly"'

expect 1 "${run[@]}" stream nosuch "$work/a.txt"
says "there is: french:1"
printf '1,2,3\nx,y\n' >"$work/bad.csv"
expect 1 "${run[@]}" stream telemetry "$work/bad.csv"
says "line 1: 3 numbers, expected 6"
echo '{"word": 4000}' >"$work/bad.ndjson"
expect 1 "${run[@]}" stream french "$work/bad.ndjson"
says "value 4000 at step 0"
head -c 100 $golden/word.npy >"$work/bad.npy"
expect 1 "${run[@]}" stream french "$work/bad.npy"
says "npy file"
expect 1 "${run[@]}" stream telemetry models/golden/telemetry/reading.npy --select nosuch
says "expected one of anomaly, forecast"
echo "not to be lost" >"$work/notes.txt"
expect 1 "${run[@]}" stream french "$work/a.txt" --output "$work/notes.txt"
says "must end in .npy, .ndjson or .csv"
grep -q "not to be lost" "$work/notes.txt" || fail "a refused output wiped the file"
expect 2 "${run[@]}" stream
expect 1 "${run[@]}" sessions close 1234

# A stream that is alive while the server drains: its answers come, then it ends.
mkfifo "$work/pipe"
"${run[@]}" stream french "$work/pipe" --format text >"$work/live" 2>"$work/live.err" &
live=$!
exec 3>"$work/pipe"
echo "i grew up in france" >&3
until [[ $(wc -l <"$work/live") == 5 ]]; do kill -0 "$live" || fail "the live stream ended"; done
kill -TERM "$pid"
exec 3>&-
wait "$live" || fail "the live stream was cut: $(cat "$work/live.err")"
wait "$pid" || fail "the server's exit code after SIGTERM is $?"
grep -q stopped "$work/log" || fail "no clean end"
pid=
# A stream that does not end by itself: cut at the drain's deadline, and a clean end all the same.
cat >"$work/config" <<'CONFIG'
listen: "127.0.0.1:0"
models: "models/repository"
drain_seconds: 0
CONFIG
: >"$work/log"  # else the address of the server before may still be in it
"$server" --config "$work/config" 2>"$work/log" &
pid=$!
address=
until [[ -n $address ]]; do
  kill -0 "$pid" || fail "the server did not start from its config file"
  address=$(sed -n 's/.*listening on //p' "$work/log" | head -n 1)
done
"$client" --server "$address" --reconnect 1 stream french "$work/pipe" --format text >"$work/live" 2>"$work/live.err" &
live=$!
exec 3>"$work/pipe"
echo "i grew up in france" >&3
until [[ $(wc -l <"$work/live") == 5 ]]; do kill -0 "$live" || fail "the live stream ended"; done
kill -TERM "$pid"
wait "$pid" || fail "exit code $? after a drain that was cut"
pid=
echo "more" >&3
exec 3>&-
if wait "$live"; then fail "the client did not notice that its stream was cut"; fi
grep -q . "$work/live.err" || fail "the client says nothing of it"
expect 1 "${run[@]}" --timeout 1 models
says "is lstm-server running there"
expect 1 "$server" --listen "$address" --probe
says "no health from $address"
expect 1 "$server" --listen 127.0.0.1:0 --probe
says "not known"
echo "cli: all as it should be"
