# SPDX-License-Identifier: MIT
"""Graphs that PyTorch exported (models/train/make_golden_onnx.py): lstm-model verify must find what PyTorch computed,
with each engine."""
import os
import pathlib
import subprocess
import unittest

DATA = pathlib.Path(__file__).resolve().parents[2] / "data"
GOLDEN = DATA / "golden_onnx"


class GoldenOnnxTest(unittest.TestCase):
    def verify(self, case, expect, *options, folder=None):
        return subprocess.run(
            [
                os.environ["LSTM_MODEL"],
                "verify",
                case,
                "--input",
                f"x={(folder or case) / 'x.npy'}",
                "--expect",
                f"y={expect}",
                "--tolerance",
                "1e-5",
                *options,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def test_every_graph_gives_what_pytorch_computed(self):
        cases = sorted(p for p in GOLDEN.iterdir() if p.is_dir())
        self.assertGreaterEqual(len(cases), 15)
        for case in cases:
            for engine in ("auto", "onednn"):
                with self.subTest(case.name, engine=engine):
                    done = self.verify(case, case / "y.npy", "--engine", engine)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_quantised_graphs_and_loops_give_what_onnx_runtime_computed(self):
        """models/train/make_golden_quantized.py, make_golden_loops.py."""
        cases = sorted(p for kind in ("golden_quantized", "golden_loops") for p in (DATA / kind).iterdir())
        self.assertGreaterEqual(len(cases), 21)
        for case in cases:
            for engine in ("auto", "onednn"):
                with self.subTest(case.name, engine=engine):
                    done = self.verify(case / "model.onnx", case / "y.npy", "--engine", engine, folder=case)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_another_graphs_input_is_noticed(self):
        done = self.verify(GOLDEN / "norms", GOLDEN / "structure" / "y.npy")
        self.assertEqual(done.returncode, 1, done.stdout)
        done = self.verify(GOLDEN / "prelu", GOLDEN / "prelu" / "x.npy")
        self.assertEqual(done.returncode, 1, done.stdout)


if __name__ == "__main__":
    unittest.main()
