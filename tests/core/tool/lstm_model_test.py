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

    def run_tool(self, *arguments, status=0, both=False):
        done = subprocess.run(
            [os.environ["LSTM_MODEL"], *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
        )
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        if both:
            return done.stdout + done.stderr
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

    def calibrated(self, name, *inputs):
        """A copy of a bundled model with the lines and the file that calibrate gave, and what it printed."""
        target = self.dir / name / "1"
        shutil.copytree(MODELS / name / "1", target)
        arguments = [word for file in inputs for word in ("--input", file)]
        out = self.run_tool("calibrate", target, *arguments, "--output", target / "int8_scales.safetensors")
        lines = [line for line in out.splitlines() if line.startswith(("round_weights:", "round_scales:"))]
        self.assertEqual(len(lines), 2, out)
        with (target / "model.textproto").open("a", encoding="utf-8") as manifest:
            manifest.write("\n".join(lines) + "\n")
        return target, out

    def test_a_calibrated_model_loads_is_another_and_verify_says_its_error(self):
        target, out = self.calibrated("telemetry", GOLDEN / "telemetry" / "reading.npy")
        for what in ("lstm.l0.weight [", "lstm.recurrent [", "forecast: largest", "anomaly: largest"):
            self.assertIn(what, out)
        about = json.loads(self.run_tool("inspect", target, "--json"))
        self.assertNotEqual(about["hash"], json.loads(self.run_tool("inspect", MODELS / "telemetry" / "1", "--json"))["hash"])
        recorded = ["--input", GOLDEN / "telemetry" / "reading.npy", "--expect", f"forecast={GOLDEN / 'telemetry' / 'forecast.npy'}"]
        said = self.run_tool("verify", target, *recorded, "--tolerance", 0.5)
        self.assertRegex(said, r"forecast: largest difference 0[.][0-9]+, tolerance 0.5: ok")
        self.assertIn("TOO LARGE", self.run_tool("verify", target, *recorded, "--tolerance", 1e-6, both=True, status=1))
        # What is rounded already is measured in float32 all the same.
        again = self.run_tool("calibrate", target, "--input", GOLDEN / "telemetry" / "reading.npy", "--output", self.dir / "again")
        self.assertEqual(out.split("\nwritten: ")[0], again.split("\nwritten: ")[0])
        self.assertEqual((self.dir / "again").read_bytes(), (target / "int8_scales.safetensors").read_bytes())

    def test_the_scales_are_packed_and_no_bit_of_them_may_change(self):
        source, _ = self.calibrated("french", GOLDEN / "french" / "word.npy")
        self.pack(source=source)
        target = self.dir / "packed" / "1"
        self.assertIn("int8_scales.safetensors", [p.name for p in target.iterdir()])
        scales = target / "int8_scales.safetensors"
        raw = bytearray(scales.read_bytes())
        raw[-4] ^= 1  # the lowest bit of the last number
        scales.write_bytes(raw)
        self.assertIn("'int8_scales.safetensors' is not what it was", self.run_tool("inspect", target, status=1))
        os.remove(target / "SHA256SUMS")
        self.assertIn("round_scales 'int8_scales.safetensors': tensor '", self.run_tool("inspect", target, status=1))

    def test_calibrate_takes_several_recordings_and_so_many_steps_of_each(self):
        file = GOLDEN / "french-rnn" / "word.npy"
        command = ["calibrate", MODELS / "french-rnn" / "1", "--input", file, "--input", f"word={file}", "--steps", 7]
        self.assertIn("14 steps of 2 recordings", self.run_tool(*command, "-o", self.dir / "a"))
        self.assertIn("exists already", self.run_tool(*command, "-o", self.dir / "a", status=1))
        self.assertIn("--input is missing", self.run_tool("calibrate", MODELS / "french" / "1", "-o", self.dir / "b", status=1))
        self.assertIn("has no 'z'", self.run_tool(*command, "--input", f"z={file}", "-o", self.dir / "b", status=1))
        self.assertFalse((self.dir / "b").exists())

    def test_help_names_the_commands(self):
        out = self.run_tool("--help")
        for command in ("inspect", "verify", "bench", "pack", "calibrate"):
            self.assertIn(command, out)


if __name__ == "__main__":
    unittest.main()
