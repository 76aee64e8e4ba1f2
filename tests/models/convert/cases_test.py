# SPDX-License-Identifier: MIT
"""Networks that others trained, against outputs that their own code computed. The files are no part of the project."""
import unittest

import numpy as np

from support import CASES, ConvertTest, run


@unittest.skipUnless(CASES.is_dir(), f"no cases at {CASES}; LSTM_CASES_DIR says where they are")
class CasesTest(ConvertTest):
    def test_amplifiers_of_neural_amp_modeler_from_their_trained_state(self):
        x = np.load(CASES / "nam/ref/x.npy")
        self.assertEqual(x.shape, (8192,))
        for name in ("lstm", "BossLSTM-1x16"):
            with self.subTest(name):
                y = np.load(CASES / f"nam/ref/{name}.y.npy")
                self.verify(self.convert("nam", CASES / f"nam/{name}.nam"), x[:, None], y[:, None], 1e-4)

    def test_rtneural_of_keras_and_of_pytorch_origin(self):
        for name in ("lstm", "gru_torch"):
            with self.subTest(name):
                x, y = (np.loadtxt(CASES / f"rtneural/{name}_{k}_python.csv", delimiter=",") for k in "xy")
                self.verify(self.convert("rtneural", CASES / f"rtneural/{name}.json"), x[:, None], y[:, None])

    def test_a_file_of_rtneural_whose_shapes_disagree_is_refused(self):
        self.assertIn(
            "gives 20 numbers by its weights, and 16 by its shape",
            self.refusal("rtneural", CASES / "rtneural/bad_lstm.json"),
        )

    def test_a_frozen_graph_of_keyword_spotting(self):
        x, y = np.load(CASES / "kws_arm/ref/mfcc.npy"), np.load(CASES / "kws_arm/ref/Basic_LSTM_S.softmax.npy")
        h = np.load(CASES / "kws_arm/ref/Basic_LSTM_S.h.npy")
        pb = CASES / "kws_arm/Basic_LSTM_S.pb"
        self.verify(self.convert("tensorflow", pb), x, y)
        self.verify(
            self.convert("tensorflow", pb, "--net", "lstm/rnn/basic_lstm_cell", "--forget-bias", "1"), x, h, 1e-4
        )  # c comes to 155
        self.assertIn("the graph adds 1", self.refusal("tensorflow", pb, "--forget-bias", "0"))
        self.assertIn("--forget-bias", self.refusal("tensorflow", pb, "--net", "lstm/rnn/basic_lstm_cell"))


if __name__ == "__main__":
    run()
