#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Whole sequences, and audio that travels as integers, as a user meets them. $1: lstm-server, $2: lstm-client
set -euo pipefail
# shellcheck source=tests/client/as_user.sh
source tests/client/as_user.sh

golden=tests/data/golden_whole
for name in lstm_both_ways lstm_lengths lstm_pooled_sum fewer_frames; do
  mkdir -p "$work/models/$name/1"
  cp $golden/$name/model.onnx "$work/models/$name/1"
done
# One cell over the samples of an audio frame, once with floats and once with integers on the wire.
/usr/bin/python3 - "$work" <<'PY'
import json, struct, sys, wave
import numpy as np
work = sys.argv[1]
rng = np.random.default_rng(3)
shapes = {"r.weight_ih_l0": (4, 8), "r.weight_hh_l0": (4, 4), "r.bias_ih_l0": (4,), "r.bias_hh_l0": (4,)}
header, data = {}, b""
for name, shape in shapes.items():
    raw = rng.standard_normal(shape).astype("<f4").tobytes()
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
    data += raw
text = json.dumps(header).encode()
import os
for name, wire in (("floats", ""), ("pcm", "wire { type: INT16 scale: 3.0517578125e-05 }")):
    os.makedirs(f"{work}/models/{name}/1")
    open(f"{work}/models/{name}/1/model.safetensors", "wb").write(struct.pack("<Q", len(text)) + text + data)
    open(f"{work}/models/{name}/1/model.textproto", "w").write("input { name: 'x' shape: 8 " + wire + " } layer { name: 'r' rnn { } }")
# Two outputs, one for every second step: y(k) = 10 x(2k) + x(2k + 1), and z = max(x, 0) for each.
def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)
def number(field, n):
    return varint(field << 3) + varint(n)
def part(field, *parts):
    inner = b"".join(p.encode() if isinstance(p, str) else p for p in parts)
    return varint(field << 3 | 2) + varint(len(inner)) + inner
def value(field, name):
    dims = [part(1, number(1, 1)), part(1, number(1, 1)), part(1, part(2, "T"))]
    return part(field, part(1, name), part(2, part(1, number(1, 1), part(2, *dims))))
kernel = part(5, number(1, 1), number(1, 1), number(1, 2), number(2, 1), part(8, "k"), part(9, np.array([10, 1], "<f4").tobytes()))
conv = part(1, part(1, "x"), part(1, "k"), part(2, "y"), part(4, "Conv"), part(5, part(1, "strides"), number(8, 2), number(20, 7)))
relu = part(1, part(1, "x"), part(2, "z"), part(4, "Relu"))
graph = part(7, conv, relu, part(2, "g"), kernel, value(11, "x"), value(12, "y"), value(12, "z"))
os.makedirs(f"{work}/models/two_lengths/1")
open(f"{work}/models/two_lengths/1/model.onnx", "wb").write(number(1, 8) + graph + part(8, number(2, 13)))
np.save(f"{work}/seven.npy", np.arange(1, 8, dtype=np.float32).reshape(7, 1))
with wave.open(f"{work}/a.wav", "wb") as out:
    out.setnchannels(1), out.setsampwidth(2), out.setframerate(16000)
    out.writeframes((rng.standard_normal(50) * 9000).clip(-32768, 32767).astype("<i2").tobytes())
PY
"$server" --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --metrics-listen "" --models "$work/models" 2>"$work/log" &
pid=$!
address=
until [[ -n $address ]]; do
  kill -0 "$pid" || fail "the server did not start"
  address=$(sed -n 's/.*listening on //p' "$work/log" | head -n 1)
done
run=("$client" --server "$address")

expect 0 "${run[@]}" models
says "no sessions: LSTM node"
expect 1 "${run[@]}" stream lstm_both_ways $golden/lstm_both_ways/x.npy
says "has no sessions: LSTM node .*bidirectional"
expect 0 "${run[@]}" predict lstm_both_ways $golden/lstm_both_ways/x.npy --output "$work/y.npy"
expect 0 "${run[@]}" predict lstm_both_ways $golden/lstm_both_ways/x.npy --output "$work/h.npy" --select h
expect 0 "${run[@]}" predict lstm_lengths $golden/lstm_lengths/x.npy --once lens=5 --output "$work/l.npy"
expect 0 "${run[@]}" predict lstm_lengths $golden/lstm_lengths/x.npy --once lens=$golden/lstm_lengths/lens.npy
says '"session":"whole","step":6,"h"'
expect 0 "${run[@]}" predict lstm_pooled_sum $golden/lstm_pooled_sum/x.npy --output "$work/p.npy"
expect 0 "${run[@]}" predict fewer_frames $golden/fewer_frames/x.npy --output "$work/fewer.npy"
expect 0 "${run[@]}" predict two_lengths "$work/seven.npy" --output "$work/two.npy"
expect 0 "${run[@]}" predict two_lengths "$work/seven.npy" --output "$work/each.npy" --select z
expect 0 "${run[@]}" predict two_lengths "$work/seven.npy" --output "$work/two.ndjson"
[[ $(grep -c '"y"' "$work/two.ndjson") == 3 && $(grep -c '"z"' "$work/two.ndjson") == 7 ]] || fail "NDJSON has not a line for each frame"
expect 1 "${run[@]}" predict two_lengths "$work/seven.npy" --output "$work/two.csv"
says "different numbers of frames"
expect 1 "${run[@]}" predict lstm_lengths $golden/lstm_lengths/x.npy --once lens=9
says "input 'lens' is 9, expected 1 to 7"
expect 1 "${run[@]}" predict lstm_lengths $golden/lstm_lengths/x.npy --once nosuch=9
says "has no such input"

http=
until [[ -n $http ]]; do
  kill -0 "$pid" || fail "the server is gone"
  http=$(sed -n 's/.*Open Inference Protocol on http:\/\/\([^/ ]*\).*/\1/p' "$work/log")
done
asked='"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]'
expect 0 curl -s "$http/v2/models/lstm_both_ways/infer" -d "{$asked}"
says "has no steps: LSTM node"
expect 0 curl -s "$http/v2/models/lstm_both_ways/infer" -d "{\"parameters\": {\"sequence_id\": 1, \"sequence_start\": true}, $asked}"
says "has no steps: LSTM node"

expect 0 "${run[@]}" stream floats "$work/a.wav" --output "$work/floats.npy"
expect 0 "${run[@]}" stream pcm "$work/a.wav" --output "$work/pcm.npy"
cmp "$work/floats.npy" "$work/pcm.npy" || fail "samples as integers give other bits than as floats"
expect 0 "${run[@]}" models --json
says '"type":"INT16"'
PYTHONPATH=client/python /usr/bin/python3 - "$address" "$work" $golden <<'PY'
import sys
import numpy as np
import lstm
address, work, golden = sys.argv[1:]
def near(a, b): assert a.shape == b.shape and abs(a - b).max() < 1e-5, (a.shape, b.shape)
load = lambda case, what: np.load(f"{golden}/{case}/{what}.npy")
near(np.load(f"{work}/y.npy"), load("lstm_both_ways", "y").reshape(7, 8))
near(np.load(f"{work}/h.npy").reshape(4, 4), load("lstm_both_ways", "h").reshape(4, 4))
near(np.load(f"{work}/l.npy"), load("lstm_lengths", "y").reshape(7, 8))
near(np.load(f"{work}/p.npy").reshape(2), load("lstm_pooled_sum", "y").reshape(2))
near(np.load(f"{work}/fewer.npy"), load("fewer_frames", "y"))
assert (np.load(f"{work}/two.npy").ravel() == [12, 34, 56]).all() and (np.load(f"{work}/each.npy").ravel() == np.arange(1, 8)).all()
with lstm.connect(address) as client:
    out = client.predict("two_lengths", np.arange(1, 8, dtype=np.float32))
    assert (out["y"].ravel() == [12, 34, 56]).all() and (out["z"].ravel() == np.arange(1, 8)).all(), out
    out = client.predict("lstm_both_ways", load("lstm_both_ways", "x"))
    near(out["y"], load("lstm_both_ways", "y").reshape(7, 8))
    near(out["h"], load("lstm_both_ways", "h").reshape(4, 4))
    out = client.predict("lstm_lengths", {"x": load("lstm_lengths", "x"), "lens": np.array(5)})
    near(out["y"], load("lstm_lengths", "y").reshape(7, 8))
    try:
        client.session("lstm_both_ways")
        raise SystemExit("a session was opened")
    except lstm.Error as error:
        assert "has no sessions" in str(error), error
    pcm = np.arange(-16, 16, dtype=np.int16).reshape(4, 8) * 100
    a, b = client.predict("pcm", pcm), client.predict("pcm", pcm.astype(np.float32) / 32768)
    assert (a == b).all()
    try:
        client.predict("pcm", pcm.astype(np.int64) * 100)
        raise SystemExit("numbers beyond 16 bits were sent")
    except lstm.InvalidArgument as error:
        assert "expected -32768 to 32767" in str(error), error
PY
kill -TERM "$pid"
wait "$pid" || fail "the server's exit code after SIGTERM is $?"
pid=
echo "whole: all as it should be"
