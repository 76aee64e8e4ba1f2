# SPDX-License-Identifier: MIT
"""lstm-model as its user meets it, on the bundled models."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODELS, GOLDEN = ROOT / "models" / "repository", ROOT / "models" / "golden"


class LstmModelTest(unittest.TestCase):
    def setUp(self):
        own = tempfile.TemporaryDirectory()
        self.addCleanup(own.cleanup)
        self.dir = pathlib.Path(own.name)

    def run_tool(self, *arguments, status=0):
        done = subprocess.run(
            [os.environ["LSTM_MODEL"], *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
        )
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout if status == 0 else done.stderr

    def engines(self):
        """Those that this machine has: auto is one of them, and onednn is everywhere."""
        first = json.loads(self.run_tool("inspect", MODELS / "french" / "1", "--json"))["numerics_id"]
        return ["auto", "onednn"] + (["fused"] if first.startswith("fused") else [])

    def test_every_engine_computes_what_was_recorded(self):
        for engine in self.engines():
            with self.subTest(engine):
                out = self.run_tool(
                    "verify",
                    MODELS / "telemetry" / "1",
                    "--engine",
                    engine,
                    "--input",
                    GOLDEN / "telemetry" / "reading.npy",
                    "--expect",
                    f"forecast={GOLDEN / 'telemetry' / 'forecast.npy'}",
                    "--expect",
                    f"anomaly={GOLDEN / 'telemetry' / 'anomaly.npy'}",
                )
                self.assertEqual(out.count(": ok"), 2)
        wrong = [
            "verify",
            MODELS / "telemetry" / "1",
            "--input",
            GOLDEN / "telemetry" / "reading.npy",
            "--expect",
            f"forecast={GOLDEN / 'telemetry' / 'forecast.npy'}",
        ]
        self.assertIn("does not give what was expected", self.run_tool(*wrong, "--tolerance", "1e-12", status=1))

    def test_the_engine_is_said_and_a_name_that_is_none_refused(self):
        about = json.loads(self.run_tool("inspect", MODELS / "french" / "1", "--engine", "onednn", "--json"))
        self.assertTrue(about["numerics_id"].startswith("onednn-"), about["numerics_id"])
        self.assertTrue(any("oneDNN" in line for line in about["layers"]), about["layers"])
        for command in ("inspect", "verify", "bench"):
            self.assertIn("--engine", self.run_tool(command, MODELS / "french" / "1", "--engine", "gpu", status=2))

    def test_bench_says_what_each_batch_costs_and_what_computes_each_layer(self):
        layers = json.loads(self.run_tool("inspect", MODELS / "french" / "1", "--json"))["layers"]
        found = json.loads(self.run_tool("bench", MODELS / "french" / "1", "--seconds", 0.02, "--json"))
        self.assertEqual(found["layers"], layers)
        self.assertEqual([row["batch"] for row in found["batches"]], [1, 8, 64])
        for row in found["batches"]:
            self.assertGreaterEqual(row["median_us"], row["best_us"])
            self.assertGreater(row["best_us"], 0)
        text = self.run_tool(
            "bench", MODELS / "telemetry" / "1", "--seconds", 0.02, "--batch", 3, "--batch", 5, "--engine", "onednn"
        )
        self.assertEqual(
            [line.split()[0] for line in text.splitlines() if line.split()[:1] and line.split()[0].isdigit()],
            ["3", "5"],
        )
        self.run_tool("bench", MODELS / "french" / "1", "--batch", 0, status=2)
        self.run_tool("bench", self.dir, status=1)

    def pack(self, *more, name="packed", status=0, source=MODELS / "telemetry" / "1"):
        return self.run_tool("pack", source, "--output", self.dir / name / "1", *more, status=status)

    def test_a_packed_model_is_the_same_model_and_sha256sum_agrees(self):
        self.pack(
            "--input",
            GOLDEN / "telemetry" / "reading.npy",
            "--expect",
            f"forecast={GOLDEN / 'telemetry' / 'forecast.npy'}",
        )
        target = self.dir / "packed" / "1"
        self.assertEqual(
            sorted(p.name for p in target.iterdir()), ["SHA256SUMS", "model.safetensors", "model.textproto", "self_check.safetensors"]
        )
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=target, check=True, capture_output=True)
        before, after = (
            json.loads(self.run_tool("inspect", d, "--json"))["hash"] for d in (MODELS / "telemetry" / "1", target)
        )
        self.assertEqual(before, after)
        self.assertEqual([p.name for p in target.parent.iterdir()], ["1"])
        self.pack(name="again", source=target)  # a packed one is packed again

    def test_a_packed_model_that_changed_is_not_loaded(self):
        self.pack()
        target = self.dir / "packed" / "1"
        weights = target / "model.safetensors"
        raw = bytearray(weights.read_bytes())
        raw[-1] ^= 1
        weights.write_bytes(raw)
        for command in (["inspect", target], ["pack", target, "--output", self.dir / "b" / "1"]):
            self.assertIn(
                "'model.safetensors' is not what it was when the version was packed", self.run_tool(*command, status=1)
            )

    def test_nothing_is_left_of_a_model_that_is_not_packed(self):
        self.assertIn(
            "does not give what was expected",
            self.pack(
                "--input",
                GOLDEN / "telemetry" / "reading.npy",
                "--expect",
                f"forecast={GOLDEN / 'telemetry' / 'forecast.npy'}",
                "--tolerance",
                "1e-12",
                status=1,
            ),
        )
        self.assertEqual(list((self.dir / "packed").iterdir()), [])
        bad = self.dir / "bad"
        shutil.copytree(MODELS / "telemetry" / "1", bad)
        (bad / "model.textproto").write_text("layer {")
        self.pack(source=bad, status=1)
        self.assertEqual(list((self.dir / "packed").iterdir()), [])
        self.pack()
        self.assertIn("exists already", self.pack(status=1))

    def test_help_names_the_commands(self):
        out = self.run_tool("--help")
        for command in ("inspect", "verify", "bench", "pack"):
            self.assertIn(command, out)


if __name__ == "__main__":
    unittest.main()
