# SPDX-License-Identifier: MIT
"""NAM and RTNeural files made here; the judge is each layer by its formula."""
import json
import unittest

import numpy as np

from support import ConvertTest, gru, lstm, run


def dense(kernel, bias, activation=""):
    return {
        "type": "dense",
        "activation": activation,
        "shape": [None, None, kernel.shape[1]],
        "weights": [kernel.tolist(), bias.tolist()],
    }


class JsonTest(ConvertTest):
    def file(self, value, name="net.json"):
        (self.dir / name).write_text(value if isinstance(value, str) else json.dumps(value))
        return self.dir / name

    def nam(self, width=2, hidden=3, layers=2):
        """A file, and what it computes."""
        parts, cells = [], []
        for k in range(layers):
            both = self.random(4 * hidden, (width if k == 0 else hidden) + hidden)
            cells.append((both, self.random(4 * hidden), self.random(hidden), self.random(hidden)))
            parts += [a.ravel() for a in cells[-1]]
        head, bias = self.random(hidden), self.random(1)
        config = {"input_size": width, "hidden_size": hidden, "num_layers": layers}
        file = {
            "version": "0.5.4",
            "architecture": "LSTM",
            "config": config,
            "weights": np.concatenate(parts + [head, bias]).tolist(),
            "sample_rate": 48000,
        }

        def judge(x):
            for both, b, h, c in cells:
                rows = dict(zip("ifgo", np.split(both, 4)))
                w, r = {g: v[:, : x.shape[1]] for g, v in rows.items()}, {
                    g: v[:, x.shape[1] :] for g, v in rows.items()
                }
                x = lstm(x, w, r, dict(zip("ifgo", np.split(b, 4))), h=h, c=c)
            return x @ head[:, None] + bias

        return file, judge

    def test_a_stack_of_nam_begins_at_its_trained_state(self):
        file, judge = self.nam()
        x = self.random(20, 2)
        target = self.convert("nam", self.file(file))
        self.verify(target, x, judge(x))
        self.assertIn("initial_state: TRAINED", (target / "model.textproto").read_text())
        self.assertIn("48000 Hz", (target / "model.textproto").read_text())

    def test_files_of_nam_that_are_none(self):
        good, _ = self.nam()
        for change, reason in (
            ({"architecture": "WaveNet"}, "architecture is 'WaveNet'"),
            ({"weights": good["weights"][:-1]}, "expected 172"),
            ({"weights": good["weights"] + [0]}, "expected 172"),
            ({"weights": [[1]] + good["weights"]}, "weights is no array"),
            ({"weights": ["a"] * len(good["weights"])}, "weights is no array"),
            ({"weights": [float("nan")] + good["weights"][1:]}, "not finite"),
            ({"weights": [1e39] + good["weights"][1:]}, "not finite"),
            ({"weights": [10**400] + good["weights"][1:]}, "weights is no array"),
            ({"weights": None}, "weights is no array"),
            ({"config": {**good["config"], "num_layers": 10**9}}, "num_layers"),
            ({"config": {**good["config"], "num_layers": 65}}, "expected"),
            ({"config": {**good["config"], "hidden_size": -3}}, "hidden_size"),
            ({"config": {**good["config"], "hidden_size": 2.5}}, "hidden_size"),
            ({"config": {**good["config"], "hidden_size": "3"}}, "hidden_size"),
            ({"config": {**good["config"], "hidden_size": True}}, "hidden_size"),
            ({"config": [1]}, "hidden_size"),
        ):
            with self.subTest(str(change)[:60]):
                self.assertIn(reason, self.refusal("nam", self.file({**good, **change})))
        text = json.dumps(good)
        for bad in ["", "[]", "3", "{", text[: len(text) // 2], "[" * 100_000, "\xff\xfe"]:
            self.refusal("nam", self.file(bad))
            self.refusal("rtneural", self.file(bad))

    def test_layers_of_rtneural(self):
        x, k, b = self.random(12, 2), self.random(2, 2, 3), self.random(3)
        slopes, gamma, beta, mean, var = (
            self.random(3),
            self.random(3),
            self.random(3),
            self.random(3),
            np.abs(self.random(3)) + 0.5,
        )
        w = [self.random(3, 9), self.random(3, 9), self.random(2, 9)]
        d, db = self.random(3, 2), self.random(2)
        layers = [
            {
                "type": "conv1d",
                "activation": "relu",
                "shape": [None, None, 3],
                "kernel_size": [2],
                "dilation": [2],
                "weights": [k.tolist(), b.tolist()],
            },
            {
                "type": "batchnorm",
                "activation": "",
                "shape": [None, None, 3],
                "epsilon": 0.01,
                "weights": [v.tolist() for v in (gamma, beta, mean, var)],
            },
            {"type": "prelu", "activation": "", "shape": [None, None, 3], "weights": [[slopes.tolist()]]},
            {"type": "gru", "activation": "tanh", "shape": [None, None, 3], "weights": [v.tolist() for v in w]},
            {"type": "activation", "activation": "elu", "shape": [None, None, 3]},
            dense(d, db, "softmax"),
        ]
        padded = np.concatenate([np.zeros((2, 2)), x])
        y = np.maximum([padded[t] @ k[0] + padded[t + 2] @ k[1] + b for t in range(12)], 0)
        y = gamma * (y - mean) / np.sqrt(var + 0.01) + beta
        y = np.where(y > 0, y, slopes * y)
        rows = [dict(zip("zrn", (m.T for m in np.split(v, 3, axis=1)))) for v in w[:2]]
        one, two = (dict(zip("zrn", np.split(v, 3))) for v in w[2])
        y = gru(y, *rows, {"z": one["z"] + two["z"], "r": one["r"] + two["r"], "n": one["n"]}, two["n"])
        y = np.exp(np.where(y > 0, y, np.exp(y) - 1) @ d + db)
        self.verify(
            self.convert("rtneural", self.file({"in_shape": [None, None, 2], "layers": layers})),
            x,
            y / y.sum(-1, keepdims=True),
        )

    def test_what_aida_x_and_guitarml_add(self):
        x, w, d, b = (
            self.random(12, 1),
            [self.random(1, 12), self.random(3, 12), self.random(12)],
            self.random(3, 1),
            self.random(1),
        )

        def cell(x):
            rows = [dict(zip("ifgo", (m.T for m in np.split(v, 4, axis=1)))) for v in w[:2]]
            return lstm(x, *rows, dict(zip("ifgo", np.split(w[2], 4)))) @ d + b

        layers = [
            {"type": "lstm", "activation": "", "shape": [None, None, 3], "weights": [v.tolist() for v in w]},
            dense(d, b),
        ]
        file = {"in_shape": [None, None, 1], "layers": layers}
        self.verify(
            self.convert("rtneural", self.file({**file, "in_skip": 0, "in_gain": 0, "samplerate": 48000})), x, cell(x)
        )
        loud = x * 10**0.3
        self.verify(
            self.convert("rtneural", self.file({**file, "in_skip": 1, "in_gain": 6, "out_gain": -12})),
            x,
            (cell(loud) + loud) * 10**-0.6,
        )
        half = (w[2] / 2).tolist()
        state = {
            "rec.weight_ih_l0": w[0].T.tolist(),
            "rec.weight_hh_l0": w[1].T.tolist(),
            "rec.bias_ih_l0": half,
            "rec.bias_hh_l0": half,
            "lin.weight": d.T.tolist(),
            "lin.bias": b.tolist(),
        }
        for skip in (0, 1):
            model = {"model": "SimpleRNN", "unit_type": "LSTM", "hidden_size": 3, "skip": skip}
            self.verify(
                self.convert("rtneural", self.file({"model_data": model, "state_dict": state})), x, cell(x) + skip * x
            )

    def test_files_of_rtneural_that_are_none(self):
        d, b = self.random(3, 2), self.random(2)
        for layer, reason in (
            (dense(d, b, "mystery"), "'mystery'"),
            ({**dense(d, b), "shape": [None, None, 5]}, "gives 2 numbers by its weights, and 5 by its shape"),
            ({**dense(d, b), "weights": [d.tolist()] * 3}, "has 3 weights"),
            ({**dense(d, b), "weights": [d.tolist(), [1, 2, 3]]}, "expected [2]"),
            ({**dense(d, b), "weights": [[[1, 2], [3]], b.tolist()]}, "no array of numbers"),
            ({**dense(d, b), "type": "conv2d"}, "of type 'conv2d'"),
            ({**dense(d, b), "type": ["dense"]}, "of type"),
            ({**dense(d, b), "shape": None}, "shape of layer"),
        ):
            with self.subTest(reason=reason):
                self.assertIn(
                    reason, self.refusal("rtneural", self.file({"in_shape": [None, None, 3], "layers": [layer]}))
                )
        for file, reason in (
            ({"in_shape": [None, None, 4], "layers": [dense(d, b)]}, "takes 3 numbers a step"),
            ({"in_shape": [None, None, 3], "layers": [dense(d, b)], "in_skip": 1}, "in_skip adds"),
            ({"in_shape": [None, None, 3], "layers": [dense(d, b)], "in_gain": "loud"}, "in_gain"),
            ({"in_shape": [None, None, 3], "layers": []}, "nothing in it"),
            ({"in_shape": [None, None, 3], "layers": [3]}, "no list of layers"),
            ({"layers": [dense(d, b)]}, "in_shape"),
            ({"state_dict": {}}, "no tensors"),
            ({"a.weight": "x"}, "no array of numbers"),
        ):
            with self.subTest(reason=reason):
                self.assertIn(reason, self.refusal("rtneural", self.file(file)))


if __name__ == "__main__":
    run()
