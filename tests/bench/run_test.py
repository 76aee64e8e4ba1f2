# SPDX-License-Identifier: MIT
"""bench/run --quick, whole: every bar is in the report, and what is not measured is a peer that is not installed, or weights that are not built."""
import json
import pathlib
import subprocess
import tempfile
import unittest

from report_test import CASES, ROOT


class RunTest(unittest.TestCase):
    def test_quick_measures_everything(self):
        with tempfile.TemporaryDirectory() as directory:
            done = subprocess.run([ROOT / "bench/run", "--quick", "--output", directory], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.assertEqual(done.returncode, 0, done.stdout)
            report = json.loads((pathlib.Path(directory) / "report.json").read_text())
            self.assertTrue((pathlib.Path(directory) / "report.md").read_text().startswith("# Benchmark report"))
        self.assertEqual(len(report["bars"]), CASES)
        for bar in report["bars"]:
            self.assertEqual(bar["holds"] is None, bar["value"] is None, bar)
            if bar["value"] is None:
                self.assertRegex(bar["why"], "not installed|are not built", f"{bar}\n{done.stdout}")


if __name__ == "__main__":
    unittest.main()
