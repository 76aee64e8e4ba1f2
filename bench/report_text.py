# SPDX-License-Identifier: MIT
"""The report for a person: report.md and its plots."""
import statistics

import report_plots


def _cell(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)] + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows] + [""]


def _fields(rows, row, skip=("row", "probes", "server_cpu_of", "run")):
    """All rows of one kind as a table."""
    found = [r for r in rows if r.get("row") == row]
    head = list(dict.fromkeys(k for r in found for k in r if k not in skip))
    return _table(head, [[r.get(k) for k in head] for r in found]) if found else []


def _medians(rows, keys, fields):
    """One row for each combination of `keys`: medians of `fields` over the runs."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in keys), []).append(row)
    return [(*key, *(statistics.median(v) if (v := [r[f] for r in group if f in r]) else None for f in fields)) for key, group in groups.items()]


def _plots(rows):
    kernel = [r for r in rows if r.get("row") == "kernel" and r["cell"] == "lstm" and r["weights"] == "f32"]
    by_h = lambda field: {f"B {b}": [(h, v) for h, b_, v in _medians(kernel, ("h", "b"), (field,)) if b_ == b and v] for b in sorted({r["b"] for r in kernel})}  # noqa: E731
    yield "kernels_limit", report_plots.lines("LSTM, f32: part of what the machine can do", "H", "part of the limit", by_h("of_limit"), level=1.0)
    yield "kernels_onednn", report_plots.lines("LSTM, f32: times as fast as oneDNN, batched", "H", "ratio", by_h("onednn_batched_ratio"), level=1.0)
    engine = [r for r in rows if r.get("row") == "engine"]
    top = max((r["max_batch"] for r in engine), default=0)
    yield "engine", report_plots.lines("Engine: steps a second of one core", "sessions", "steps/s",
                                       {f"H {h}, batch {b}": [(r["sessions"], r["steps_per_cpu_second"]) for r in engine if r["h"] == h and r["max_batch"] == b]
                                        for h in sorted({r["h"] for r in engine}) for b in (1, top)}, log_y=True)
    wire = [r for r in rows if r.get("row") == "wire"]
    short = {"64 streams of one session": "64 streams", "one stream of one session": "ping-pong", "one stream of 512 sessions": "512 on one stream"}
    yield "wire", report_plots.bars("CPU of a step on the wire, zero-cost model", "us of server CPU", [(short.get(r["layout"], r["layout"]), [r["cpu_us"], r["echo_cpu_us"]]) for r in wire], ["lstm-server", "echo"])
    steps = [r for r in rows if r.get("row") == "steps"]
    yield "steps", report_plots.lines("Many steps in a turn, zero-cost model", "steps a turn", "us of server CPU a step", {"lstm-server": [(r["steps"], r["cpu_us_per_step"]) for r in steps]}, log_y=True)
    found = [r for r in rows if r.get("row") == "sessions" and not r.get("churn")]
    yield "sessions", report_plots.lines("Live sessions of 50 turns/s on one core", "sessions", "p99 ms",
                                         {r["model"]: [(p["sessions"], p["p99_us"] / 1e3) for p in r["probes"] if p.get("turns")] for r in found}, log_y=True,
                                         level=found[0]["p99_bar_ms"] if found else None)


def write(report, directory):
    rows, machine = report["rows"], report["machine"]
    out = ["# Benchmark report", "", f"{report['when']}, {'quick' if report['quick'] else 'full'}, commit {machine['commit']}.", "", "## Machine", ""]
    out += _table(["what", ""], [(k, ", ".join(f"{a} {b}" for a, b in v.items()) if isinstance(v, dict) else ", ".join(v) if isinstance(v, list) else v) for k, v in machine.items() if k != "commit"])
    known = [b for b in report["bars"] if b["holds"] is not None]
    out += ["## Bars", "", f"{sum(b['holds'] for b in known)} of {len(known)} hold; {len(report['bars']) - len(known)} are not known.", ""]
    out += _table(["case", "measured", "bar", "holds"], [(b["name"], b["value"], f"at {b['at']} {b['bar']:.4g}", b.get("why") if b["holds"] is None else b["holds"]) for b in report["bars"]])
    if report["missing"]:
        out += ["Not measured:", ""] + [f"- {what}: {why}" for what, why in report["missing"].items()] + [""]
    out += ["## Plots", ""]
    for name, svg in _plots(rows):
        if svg:
            (directory / f"{name}.svg").write_text(svg)
            out += [f"![{name}]({name}.svg)", ""]
    kernel = [r for r in rows if r.get("row") == "kernel"]
    fields = ("limit_us", "fused_us", "of_limit", "of_read", "of_peak", "gflops", "onednn_us", "onednn_ratio", "onednn_batched_us", "onednn_batched_ratio")
    if kernel:
        out += ["## Kernels", "", "Microseconds of CPU a step, medians over the runs; ratios above 1: the fused engine is faster.", ""]
        out += _table(["cell", "weights", "H", "B", *fields], _medians(kernel, ("cell", "weights", "h", "b"), fields))
    peers = [r for r in rows if r.get("row") == "peer"]
    if peers:
        fused = {(h, b): us for h, b, us in _medians([r for r in kernel if r["cell"] == "lstm" and r["weights"] == "f32"], ("h", "b"), ("fused_us",))}
        found = _medians(peers, ("peer", "version", "h", "b"), ("peer_us", "peer_ratio"))
        out += ["## Peers", "", "A ratio without another figure beside it is of two programs, one after the other.", ""]
        out += _table(["peer", "version", "H", "B", "us", "times as fast"], [(p, v, h, b, us, ratio if ratio is not None else us / fused[h, b] if (h, b) in fused else None) for p, v, h, b, us, ratio in found])
    for row, title in (("engine", "Engine"), ("lone_turns", "A lone session, many steps a turn"), ("divided", "A batch that two threads share"), ("wire", "Wire, against an echo server"), ("coalesced", "One stream of 512 sessions against 64 streams"),
                       ("steps", "Many steps a turn, on the wire"), ("model", "A real model"), ("shards", "Two shards"), ("lone", "Lone messages"), ("start", "Start"), ("large", "Beside a large model"),
                       ("turns", "Beside long turns"), ("sessions", "Sessions per core"), ("at_80_percent", "At 80 % of the highest load"), ("parked", "Parked volatile sessions"), ("durability", "Durability"), ("drop", "Cut connections"),
                       ("undisturbed", "A turn of each session"), ("kill", "Killed servers")):
        if table := _fields(rows, row):
            out += [f"## {title}", "", *table]
    (directory / "report.md").write_text("\n".join(out).rstrip() + "\n")
