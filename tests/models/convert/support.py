# SPDX-License-Identifier: MIT
"""What the tests of models/convert share: the command in this process, lstm-model as the judge of what it wrote,
cells by their formulas."""
import contextlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "models"))
sys.dont_write_bytecode = True

from convert.__main__ import main  # noqa: E402

CASES = pathlib.Path(os.environ.get("LSTM_CASES_DIR", ROOT.parent / "shared" / "cases"))


class ConvertTest(unittest.TestCase):
    def setUp(self):
        own = tempfile.TemporaryDirectory()
        self.addCleanup(own.cleanup)
        self.dir = pathlib.Path(own.name)
        self.made = 0
        self.rng = np.random.default_rng(7)

    def random(self, *shape, scale=1.0):
        return (self.rng.standard_normal(shape) * scale).astype("f4")

    def run_command(self, *arguments):
        """(exit status, directory, what it printed, what it complained of)"""
        self.made += 1
        target = self.dir / "models" / f"m{self.made}" / "1"
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([*map(str, arguments), "--output", str(target)])
        return status, target, out.getvalue(), err.getvalue()

    def convert(self, *arguments):
        status, target, _, err = self.run_command(*arguments)
        self.assertEqual((status, err), (0, ""))
        return target

    def refusal(self, *arguments):
        """The one line of a refusal; nothing is written."""
        status, target, _, err = self.run_command(*arguments)
        self.assertEqual(status, 1, "accepted")
        self.assertEqual(err.count("\n"), 1, err)
        self.assertFalse(target.exists())
        self.assertEqual([p for p in target.parent.glob("*")] if target.parent.exists() else [], [])
        return err

    def verify(self, target, x, y, tolerance=1e-5):
        """lstm-model runs x [T, ...] step by step and must give y."""
        np.save(self.dir / "x.npy", np.ascontiguousarray(x, dtype="i4" if x.dtype.kind in "iu" else "f4"))
        np.save(self.dir / "y.npy", np.ascontiguousarray(y, dtype="f4"))
        done = subprocess.run(
            [
                os.environ["LSTM_MODEL"],
                "verify",
                str(target),
                "--input",
                str(self.dir / "x.npy"),
                "--expect",
                str(self.dir / "y.npy"),
                "--tolerance",
                str(tolerance),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + (target / "model.textproto").read_text())


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype("f8")))


def lstm(x, w, r, b, peep=None, projection=None, coupled=False, h=None, c=None, gate=sigmoid, act=np.tanh):
    """w, r, b, peep: by gate, "ifgo" -> [H, I], [H, R], [H], [H]."""
    hidden = b["f"].shape[0]
    peep, h = peep or {}, np.zeros(r["f"].shape[1]) if h is None else h.astype("f8")
    c, out = np.zeros(hidden) if c is None else c.astype("f8"), []
    for step in x.astype("f8"):
        a = {g: w[g].astype("f8") @ step + r[g].astype("f8") @ h + b[g] for g in w}
        f = gate(a["f"] + peep.get("f", 0) * c)
        i = 1 - f if coupled else gate(a["i"] + peep.get("i", 0) * c)
        c = f * c + i * act(a["g"])
        h = gate(a["o"] + peep.get("o", 0) * c) * act(c)
        h = h if projection is None else projection.astype("f8") @ h
        out.append(h)
    return np.array(out)


def gru(x, w, r, b, n_bias=None, gate=sigmoid, act=np.tanh):
    """Gates "zrn"; with n_bias the reset gate acts after the product, on R h + n_bias."""
    h, out = np.zeros(b["z"].shape[0]), []
    for step in x.astype("f8"):
        z, reset = (gate(w[g].astype("f8") @ step + r[g].astype("f8") @ h + b[g]) for g in "zr")
        inner = r["n"].astype("f8") @ (reset * h) if n_bias is None else reset * (r["n"].astype("f8") @ h + n_bias)
        h = (1 - z) * act(w["n"].astype("f8") @ step + inner + b["n"]) + z * h
        out.append(h)
    return np.array(out)


def run():
    """unittest.main, but for the exit status where all was skipped: 77, which ctest shows."""
    program = unittest.main(exit=False)
    result = program.result
    if result.wasSuccessful() and result.testsRun and len(result.skipped) >= result.testsRun:
        sys.exit(77)
    sys.exit(not result.wasSuccessful())
