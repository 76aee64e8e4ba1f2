# SPDX-License-Identifier: MIT
"""The report of the benchmarks out of rows that were never measured: every case has its bar, and what is missing says why."""
import json
import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import report_bars  # noqa: E402
import report_text  # noqa: E402

# 5 and 6 of the limits, 30 against each of two libraries, 6 for each of two kinds of weights, 2 of lone sessions, 17 of the wire, 1 of memory.
CASES = 5 + 6 + 30 + 30 + 12 + 2 + 17 + 1


def rows(slow=1.0):
    """Everything measured, and kept; with `slow` above 1 every figure is so much worse."""
    out = []
    for h in report_bars.HIDDEN:
        for b in report_bars.BATCHES:
            for run in range(3):
                out.append({"row": "kernel", "cell": "lstm", "weights": "f32", "h": h, "b": b, "run": run, "fused_us": 10.0, "limit_us": 9.0, "of_limit": 0.99 / slow, "of_read": 0.95 / slow,
                            "of_peak": 0.95 / slow, "gflops": 1.0, "onednn_us": 30.0, "onednn_ratio": 3 / slow, "onednn_batched_us": 30.0, "onednn_batched_ratio": 3 / slow})
            out.append({"row": "peer", "peer": "onnxruntime", "version": "1", "h": h, "b": b, "fused_us": 10.0, "peer_us": 60.0, "peer_ratio": 6 / slow})
            out.append({"row": "peer", "peer": "torch", "version": "2", "h": h, "b": b, "peer_us": 60.0})
        out += [{"row": "kernel", "cell": "lstm", "weights": w, "h": h, "b": 1, "fused_us": us * slow, "of_limit": 1.0} for w, us in (("bf16", 5.0), ("int8", 2.5))]
    out += [{"row": "engine", "h": h, "max_batch": m, "sessions": s, "cpu_us_per_step": 1.0, "steps_per_cpu_second": 1e6} for h in (64, 256) for m in (1, 64) for s in (1, 8, 64)]
    out += [{"row": "lone_turns", "h": h, "t1_us": 2.0, "t64_us": 1.0, "gain": 2 / slow} for h in (256, 1024)]
    wire = {"cpu_us": 9.0, "echo_cpu_us": 8.5, "cpu_ratio": 1.05 * slow, "p50_us": 20.0, "echo_p50_us": 19.0, "p50_ratio": 1.05 * slow}
    out += [{"row": "wire", "layout": layout, **wire} for layout in ("64 streams of one session", "one stream of one session", "one stream of 512 sessions")]
    out.append({"row": "coalesced", "steps_per_cpu_second_ratio": 6 / slow})
    out += [{"row": "steps", "steps": t, "cpu_us_per_step": 8.0 / t, "part_of_one": 1 / t * slow * 1.1, "steps_per_second": 1.0} for t in (1, 16, 64, 256)]
    out += [{"row": "model", "sessions": s, "batch": 64.0, "ratio": 1.05 * slow} for s in ("512 streams", "8 streams of 64")]
    out += [{"row": "shards", "connections": c, "cpu_ratio": 1.05 * slow, "sessions_ratio": 1.0 * slow} for c in (1, 64)]
    out += [{"row": "large", "p99_more_ms": 1.0 * slow}, {"row": "turns", "p99_ratio": 1.5 * slow}, {"row": "lone", "messages": 20, "max_ms": 5.0 * slow}, {"row": "start", "p50_ms": 100.0 * slow}]
    out.append({"row": "sessions", "model": "telemetry", "sessions": 100, "p99_bar_ms": 10, "churn": False, "probes": [{"sessions": s, "turns": 9, "p99_us": 9.0 * s} for s in (50, 100)]})
    out.append({"row": "parked", "model": "shakespeare", "sessions": 1000, "state_bytes": 4096.0, "bytes_beside_state": 400.0 * slow})
    out.append({"row": "at_80_percent", "model": "telemetry", "sessions": 80, "p50_us": 100.0, "p99_us": 200.0 * slow})
    return out


class ReportTest(unittest.TestCase):
    def test_every_case_has_a_bar_of_its_own(self):
        found = report_bars.bars(rows(), {})
        self.assertEqual(len(found), CASES)
        self.assertEqual(len({bar["name"] for bar in found}), CASES)
        self.assertEqual([bar["name"] for bar in found if bar["holds"] is not True], [])

    def test_what_is_slower_misses_it(self):
        found = report_bars.bars(rows(slow=10), {})
        self.assertEqual([bar["name"] for bar in found if bar["holds"] is not False], [])

    def test_a_median_of_three_runs_decides(self):
        some = rows()
        one = [r for r in some if r["row"] == "kernel" and r["h"] == 64 and r["b"] == 1 and r["weights"] == "f32"]
        one[0]["onednn_batched_ratio"] = 0.1
        name = "LSTM f32, H 64, B 1: times as fast as oneDNN batched"
        self.assertTrue(next(bar for bar in report_bars.bars(some, {}) if bar["name"] == name)["holds"])
        one[1]["onednn_batched_ratio"] = 0.2
        self.assertFalse(next(bar for bar in report_bars.bars(some, {}) if bar["name"] == name)["holds"])

    def test_what_is_missing_says_why(self):
        found = report_bars.bars([], {"onnxruntime": "not here"})
        self.assertEqual(len(found), CASES)
        for bar in found:
            self.assertIsNone(bar["holds"])
            self.assertIsNone(bar["value"])
            self.assertEqual(bar["why"] == "not here", "ONNX Runtime" in bar["name"], bar)

    def test_the_report_can_be_read_and_its_plots_are_svg(self):
        for some in (rows(), []):
            with tempfile.TemporaryDirectory() as directory:
                report = {"when": "now", "quick": True, "machine": {"commit": "c", "cpu": "x", "caches": {"L1": "32K"}, "vector": ["avx2"]}, "bars": report_bars.bars(some, {}), "missing": {}, "rows": some}
                report_text.write(report, pathlib.Path(directory))
                text = (pathlib.Path(directory) / "report.md").read_text()
                for bar in report["bars"]:
                    self.assertIn(bar["name"], text)
                plots = sorted(pathlib.Path(directory).glob("*.svg"))
                self.assertEqual(len(plots), 6 if some else 0)
                for plot in plots:
                    self.assertIn(plot.name, text)
                    self.assertTrue(xml.etree.ElementTree.fromstring(plot.read_text()).tag.endswith("svg"))
                json.dumps(report)


if __name__ == "__main__":
    unittest.main()
