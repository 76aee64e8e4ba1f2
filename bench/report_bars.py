# SPDX-License-Identifier: MIT
"""What has to hold, case by case, out of the rows that the benchmarks printed."""
import statistics

HIDDEN = (64, 128, 256, 512, 1024, 2048)
BATCHES = (1, 4, 8, 16, 64)
NEVER_BELOW = 0.97


def _median(rows, field, **where):
    values = [row[field] for row in rows if field in row and all(row.get(k) == v for k, v in where.items())]
    return statistics.median(values) if values else None


def _bar(name, value, bar, least, why=None):
    """`least`: the value must be at least the bar; else at most."""
    out = {"name": name, "value": value, "bar": bar, "at": "least" if least else "most", "holds": None}
    if value is None:
        out["why"] = why or "not measured"
    else:
        out["holds"] = value >= bar if least else value <= bar
    return out


def _against_onednn(h, b):
    if (h, b) == (64, 1):
        return 2.0
    if b == 1 and h in (256, 512):
        return 1.2
    if h >= 1024 and b in (8, 16):
        return 1.35
    return NEVER_BELOW


def _against_onnxruntime(h, b):
    if (h, b) == (64, 1):
        return 5.0
    if h >= 1024 and b in (8, 16):
        return 2.0
    return NEVER_BELOW


def _kernels(rows, missing):
    why = missing.get("kernels")
    f32 = {"row": "kernel", "cell": "lstm", "weights": "f32"}
    for h in (64, 128, 256, 512, 2048):
        yield _bar(f"LSTM f32, B 1, H {h}: part of the reading limit", _median(rows, "of_read", **f32, h=h, b=1), 0.75 if h == 128 else 0.90, True, why)
    for h in HIDDEN:
        yield _bar(f"LSTM f32, B 64, H {h}: part of the multiplying limit", _median(rows, "of_peak", **f32, h=h, b=64), {64: 0.75, 128: 0.80}.get(h, 0.85), True, why)
    for h in HIDDEN:
        for b in BATCHES:
            yield _bar(f"LSTM f32, H {h}, B {b}: times as fast as oneDNN batched", _median(rows, "onednn_batched_ratio", **f32, h=h, b=b), _against_onednn(h, b), True, why)
    for h in HIDDEN:
        for b in BATCHES:
            yield _bar(f"LSTM f32, H {h}, B {b}: times as fast as ONNX Runtime", _median(rows, "peer_ratio", row="peer", peer="onnxruntime", h=h, b=b), _against_onnxruntime(h, b), True,
                       missing.get("onnxruntime", why))
    for weights, bar in (("bf16", 1.9), ("int8", 3.5)):
        for h in HIDDEN:
            mine = _median(rows, "fused_us", row="kernel", cell="lstm", weights=weights, h=h, b=1)
            f = _median(rows, "fused_us", **f32, h=h, b=1)
            yield _bar(f"LSTM {weights}, B 1, H {h}: times as fast as f32", f / mine if mine and f else None, bar, True, why)
    for h in (256, 1024):
        yield _bar(f"a lone session, H {h}, 64 steps a turn: times as fast a step as with one", _median(rows, "gain", row="lone_turns", h=h), 1.6, True, missing.get("engine"))


def _wire(rows, missing):
    why = missing.get("wire")
    get = lambda field, **where: _median(rows, field, **where)  # noqa: E731
    yield _bar("64 streams of one session, window 1: CPU a step, times an echo server's", get("cpu_ratio", row="wire", layout="64 streams of one session"), 1.20, False, why)
    yield _bar("ping-pong on one stream: p50, times an echo server's", get("p50_ratio", row="wire", layout="one stream of one session"), 1.10, False, why)
    yield _bar("one stream of 512 sessions, client coalesces: steps a CPU second, times those of 64 streams", get("steps_per_cpu_second_ratio", row="coalesced"), 5.0, True, why)
    for steps, part in ((16, 12), (64, 35), (256, 80)):
        yield _bar(f"{steps} steps a turn: CPU a step, part of that with one", get("part_of_one", row="steps", steps=steps), 1 / part, False, why)
    for layout in ("512 streams", "8 streams of 64"):
        yield _bar(f"shakespeare, 512 live sessions ({layout}): CPU a step, times echo and kernel together", get("ratio", row="model", sessions=layout), 1.10, False, why)
    for connections in (1, 64):
        where = f"64 streams on {connections} connection{'s' if connections > 1 else ''}"
        yield _bar(f"two shards against one, {where}: CPU a step", get("cpu_ratio", row="shards", connections=connections), 1.15, False, why)
        yield _bar(f"two shards, {where}: sessions of the fuller shard, times the other's", get("sessions_ratio", row="shards", connections=connections), 1.5, False, why)
    yield _bar("a 3 ms model saturated beside a 5 us model: p99 of the small one moves by, ms", get("p99_more_ms", row="large"), 2.0, False, why)
    yield _bar("turns of 256 steps beside 100 single-step sessions: their p99, times that without", get("p99_ratio", row="turns"), 2.0, False, why)
    yield _bar("lone message after 2 s of quiet: the longest, ms", get("max_ms", row="lone"), 10.0, False, why)
    yield _bar("a parked volatile session of shakespeare: bytes beside its state", get("bytes_beside_state", row="parked", model="shakespeare"), 512, False, missing.get("stored"))
    p50, p99 = get("p50_us", row="at_80_percent", model="telemetry"), get("p99_us", row="at_80_percent", model="telemetry")
    yield _bar("telemetry at 80 % of the highest load: p99, times p50", p99 / p50 if p50 else None, 3.0, False, missing.get("sessions"))
    yield _bar("start to first prediction, 10 MB model: ms", get("p50_ms", row="start"), 150.0, False, why)


def bars(rows, missing):
    return [*_kernels(rows, missing), *_wire(rows, missing)]
