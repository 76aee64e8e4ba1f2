# SPDX-License-Identifier: MIT
"""Files as Keras 2 and Keras 3 lay them out, made with h5py; the judge is each layer by its formula."""
import io
import json
import os
import signal
import unittest
import zipfile

import numpy as np

from support import ConvertTest, gru, lstm, run, sigmoid

from convert import keras

try:
    import h5py
except ImportError:
    h5py = None


def split(array, order):
    """Blocks of the last axis by gate, turned into rows."""
    return {g: part.T for g, part in zip(order, np.split(array, len(order), axis=-1))}


def layer(kind, name, **config):
    return {"class_name": kind, "config": {"name": name, **config}}


def to_cudnn(kernel, gates):
    """As cuDNN has it: each gate's numbers column by column, laid into the rows of an array of the same shape."""
    return np.concatenate([k.ravel(order="F").reshape(k.shape) for k in np.split(kernel, gates, axis=1)], axis=1)


@unittest.skipIf(h5py is None, "there is no h5py here (Debian: python3-h5py)")
class KerasTest(ConvertTest):
    def h5(self, layers, weights, keras3=False, config=True, **more):
        """weights: name -> arrays. Returns the path of a file in the form of Keras 2 (.h5), or of Keras 3 (.keras)."""
        model = {"class_name": "Sequential", "config": {"name": "net", "layers": layers, **more}}
        if "input_layers" in more:
            model["class_name"] = "Functional"
        if not keras3:
            path = self.dir / f"net{self.made}.h5"
            with h5py.File(path, "w") as file:
                if config:
                    file.attrs["model_config"] = json.dumps(model)
                root = file.create_group("model_weights")
                root.attrs["layer_names"] = [v["config"]["name"].encode() for v in layers]
                for v in layers:
                    name = v["config"]["name"]
                    group = root.create_group(name)
                    names = [f"{name}/cell/w{k}:0" for k in range(len(weights.get(name, ())))]
                    group.attrs["weight_names"] = [n.encode() for n in names]
                    for n, array in zip(names, weights.get(name, ())):
                        group[n] = array
            return path
        blob, seen = io.BytesIO(), {}
        with h5py.File(blob, "w") as file:
            for v in layers:
                snake = {
                    "LSTM": "lstm",
                    "GRU": "gru",
                    "SimpleRNN": "simple_rnn",
                    "Dense": "dense",
                    "Embedding": "embedding",
                    "Conv1D": "conv1d",
                    "InputLayer": "input_layer",
                    "LayerNormalization": "layer_normalization",
                    "TimeDistributed": "time_distributed",
                    "BatchNormalization": "batch_normalization",
                }.get(v["class_name"], v["class_name"].lower())
                n = seen[snake] = seen.get(snake, -1) + 1
                inner = {"LSTM": "/cell", "GRU": "/cell", "SimpleRNN": "/cell", "TimeDistributed": "/layer"}.get(
                    v["class_name"], ""
                )
                group = file.create_group(f"layers/{snake}{f'_{n}' if n else ''}{inner}/vars")
                for k, array in enumerate(weights.get(v["config"]["name"], ())):
                    group[str(k)] = array
        path = self.dir / f"net{self.made}.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", "{}")
            archive.writestr("config.json", json.dumps(model))
            archive.writestr("model.weights.h5", blob.getvalue())
        return path

    def check(self, layers, weights, x, y):
        for keras3 in (False, True):
            with self.subTest(keras3=keras3):
                self.verify(self.convert("keras", self.h5(layers, weights, keras3)), x, y)

    def lstm_of(self, x, kernel, back, bias, **functions):
        return lstm(x, split(kernel, "ifgo"), split(back, "ifgo"), dict(zip("ifgo", np.split(bias, 4))), **functions)

    def gru_of(self, x, kernel, back, bias, **functions):
        b = dict(zip("zrn", np.split(bias if bias.ndim == 1 else bias[0], 3)))
        if bias.ndim == 1:
            return gru(x, split(kernel, "zrn"), split(back, "zrn"), b, **functions)
        c = dict(zip("zrn", np.split(bias[1], 3)))
        return gru(
            x,
            split(kernel, "zrn"),
            split(back, "zrn"),
            {"z": b["z"] + c["z"], "r": b["r"] + c["r"], "n": b["n"]},
            c["n"],
            **functions,
        )

    def test_other_activations_as_files_before_keras_2_3_have_them(self):
        x = self.random(9, 3)
        w = [self.random(3, 20), self.random(5, 20), self.random(20)]
        g = [self.random(3, 15), self.random(5, 15), self.random(15)]
        relu = lambda v: np.maximum(v, 0)
        for keras3, slope in ((False, 0.2), (True, 1 / 6)):
            gate = lambda v: np.clip(slope * v + 0.5, 0, 1)
            for kind, weights, config, want in (
                ("LSTM", w, {"recurrent_activation": "hard_sigmoid"}, self.lstm_of(x, *w, gate=gate)),
                ("LSTM", w, {"activation": "relu"}, self.lstm_of(x, *w, act=relu)),
                ("GRU", g, {"recurrent_activation": "hard_sigmoid", "reset_after": False}, self.gru_of(x, *g, gate=gate)),
                ("GRU", g, {"activation": "relu", "reset_after": False}, self.gru_of(x, *g, act=relu)),
            ):
                with self.subTest(kind=kind, config=config, keras3=keras3):
                    path = self.h5([layer(kind, "l", **config)], {"l": weights}, keras3)
                    self.verify(self.convert("keras", path), x, want)

    def test_lstm_and_dense(self):
        x = self.random(9, 3)
        w = [self.random(3, 20), self.random(5, 20), self.random(20)]
        d = [self.random(5, 2), self.random(2)]
        self.check(
            [
                layer("InputLayer", "i", batch_shape=[None, None, 3]),
                layer("LSTM", "lstm", units=5, return_sequences=True),
                layer("Dense", "d", activation="sigmoid"),
            ],
            {"lstm": w, "d": d},
            x,
            sigmoid(self.lstm_of(x, *w) @ d[0] + d[1]),
        )

    def test_without_bias(self):
        x, w = self.random(9, 3), [self.random(3, 20), self.random(5, 20)]
        self.check([layer("LSTM", "lstm", use_bias=False)], {"lstm": w}, x, self.lstm_of(x, *w, np.zeros(20)))

    def test_both_kinds_of_gru(self):
        x = self.random(9, 3)
        for bias, config in ((self.random(15), {"reset_after": False}), (self.random(2, 15), {"reset_after": True})):
            w = [self.random(3, 15), self.random(5, 15), bias]
            self.check([layer("GRU", "g", **config)], {"g": w}, x, self.gru_of(x, *w))

    def test_simple_rnn(self):
        x, w = self.random(9, 3), [self.random(3, 4), self.random(4, 4), self.random(4)]
        functions = {
            "tanh": np.tanh,
            "relu": lambda v: np.maximum(v, 0),
            "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
            "softplus": lambda v: np.log1p(np.exp(v)),
        }
        for function, f in functions.items():
            h, y = np.zeros(4), []
            for step in x:
                h = f(step @ w[0] + h @ w[1] * 0.5 + w[2])
                y.append(h)
            self.check(
                [layer("SimpleRNN", "r", activation=function)],
                {"r": [w[0], w[1] * np.float32(0.5), w[2]]},
                x,
                np.array(y),
            )

    def test_weights_of_cudnn_layers(self):
        x, kernel, back = self.random(9, 3), self.random(3, 20), self.random(5, 20)
        two = self.random(40)
        transposed = np.concatenate([k.T for k in np.split(back, 4, axis=1)], axis=1)
        stored = [to_cudnn(kernel, 4), transposed, two]
        y = self.lstm_of(x, kernel, back, two[:20] + two[20:])
        self.verify(
            self.convert("keras", self.h5([layer("CuDNNLSTM", "c", return_sequences=True)], {"c": stored})), x, y
        )
        self.verify(
            self.convert("keras", self.h5([layer("LSTM", "c", recurrent_activation="sigmoid")], {"c": stored})), x, y
        )  # as Keras reads it, by the bias
        kernel, back, two = self.random(3, 15), self.random(5, 15), self.random(30)
        transposed = np.concatenate([k.T for k in np.split(back, 3, axis=1)], axis=1)
        y = self.gru_of(x, kernel, back, two.reshape(2, 15))
        self.verify(
            self.convert("keras", self.h5([layer("CuDNNGRU", "c")], {"c": [to_cudnn(kernel, 3), transposed, two]})),
            x,
            y,
        )

    def test_embedding_stack_and_time_distributed_dense(self):
        ids = self.rng.integers(0, 11, 9)
        table, a, b = (
            self.random(11, 4),
            [self.random(4, 12), self.random(3, 12), self.random(12)],
            [self.random(3, 8), self.random(2, 8), self.random(8)],
        )
        d = [self.random(2, 6), self.random(6)]
        z = self.lstm_of(self.lstm_of(table[ids], *a), *b) @ d[0] + d[1]
        inner = {
            "class_name": "Dense",
            "config": {
                "name": "dense",
                "activation": {"class_name": "function", "config": "softmax", "registered_name": "softmax"},
            },
        }
        self.check(
            [
                layer("Embedding", "e", input_dim=11),
                layer("LSTM", "l1", return_sequences=True),
                layer("Dropout", "drop", rate=0.5),
                layer("LSTM", "l2", return_sequences=True),
                layer("TimeDistributed", "t", layer=inner),
            ],
            {"e": [table], "l1": a, "l2": b, "t": d},
            ids,
            np.exp(z) / np.exp(z).sum(-1, keepdims=True),
        )

    def test_causal_convolution_norms_and_activations(self):
        x, k, bias = self.random(12, 3), self.random(2, 3, 5), self.random(5)
        padded = np.concatenate([np.zeros((3, 3)), x])
        y = np.stack([padded[t] @ k[0] + padded[t + 3] @ k[1] + bias for t in range(12)])
        y = np.where(y > 0, y, 0.2 * y)
        gamma, beta, mean, var = self.random(5), self.random(5), self.random(5), np.abs(self.random(5)) + 0.5
        y = gamma * (y - mean) / np.sqrt(var + 1e-3) + beta
        scale, offset = self.random(5), self.random(5)
        y = scale * (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-2) + offset
        self.check(
            [
                layer("Conv1D", "c", padding="causal", dilation_rate=[3], strides=[1]),
                layer("LeakyReLU", "a", negative_slope=0.2),
                layer("BatchNormalization", "b", axis=-1),
                layer("LayerNormalization", "n", epsilon=1e-2, axis=[-1]),
                layer("Activation", "t", activation="tanh"),
            ],
            {"c": [k, bias], "b": [gamma, beta, mean, var], "n": [scale, offset]},
            x,
            np.tanh(y),
        )

    def test_functional_models_of_both_forms(self):
        x, w, d = (
            self.random(9, 3),
            [self.random(3, 12), self.random(3, 12), self.random(12)],
            [self.random(6, 2), self.random(2)],
        )
        h = self.lstm_of(x, *w)
        y = np.concatenate([np.maximum(h + x, 0), x], -1) @ d[0] + d[1]
        parts = [
            ("InputLayer", "i", [], {"batch_input_shape": [None, None, 3]}),
            ("LSTM", "l", ["i"], {"return_sequences": True}),
            ("Add", "a", ["l", "i"], {}),
            ("Activation", "r", ["a"], {"activation": "relu"}),
            ("Concatenate", "cat", ["r", "i"], {"axis": -1}),
            ("Dense", "d", ["cat"], {"activation": "linear"}),
        ]
        for keras3 in (False, True):
            layers = []
            for kind, name, reads, config in parts:
                tensors = [{"class_name": "__keras_tensor__", "config": {"keras_history": [r, 0, 0]}} for r in reads]
                nodes = (
                    ([{"args": [tensors if len(tensors) > 1 else tensors[0]], "kwargs": {}}] if reads else [])
                    if keras3
                    else [[[r, 0, 0, {}] for r in reads]] if reads else []
                )
                layers.append({**layer(kind, name, **config), "name": name, "inbound_nodes": nodes})
            path = self.h5(layers, {"l": w, "d": d}, keras3, input_layers=[["i", 0, 0]], output_layers=[["d", 0, 0]])
            self.verify(self.convert("keras", path), x, y)

    def test_weights_alone_need_a_configuration(self):
        x, w = self.random(9, 3), [self.random(3, 20), self.random(5, 20), self.random(20)]
        path = self.h5([layer("LSTM", "l")], {"l": w}, config=False)
        self.assertIn("--config", self.refusal("keras", path))
        (self.dir / "c.json").write_text(
            json.dumps({"class_name": "Sequential", "config": {"layers": [layer("LSTM", "l")]}})
        )
        self.verify(self.convert("keras", path, "--config", self.dir / "c.json"), x, self.lstm_of(x, *w))

    def test_what_cannot_be_streamed_or_computed_is_refused(self):
        w = {
            "l": [self.random(3, 20), self.random(5, 20), self.random(20)],
            "c": [self.random(3, 3, 2), self.random(2)],
            "d": [self.random(3, 2), self.random(2)],
        }
        wide = {"l": [self.random(3, 20), self.random(6, 20), self.random(20)]}
        for layers, weights, reason in (
            ([layer("Bidirectional", "l")], w, "Bidirectional"),
            ([layer("LSTM", "l", go_backwards=True)], w, "go_backwards"),
            ([layer("LSTM", "l", return_state=True)], w, "return_state"),
            ([layer("LSTM", "l", recurrent_activation="softmax")], w, "activation 'softmax' of 'l' is not supported"),
            ([layer("Conv1D", "c", padding="same")], w, "padding 'same'"),
            ([layer("Conv1D", "c", padding="causal", strides=[2])], w, "strides"),
            ([layer("Dense", "d", activation="mystery")], w, "activation 'mystery'"),
            ([layer("MultiHeadAttention", "m")], w, "is a MultiHeadAttention"),
            ([layer("LSTM", "l")], {}, "has 0 weights, expected 3"),
            ([layer("LSTM", "l")], wide, "expected [6, 24]"),
            ([layer("Dense", "d"), layer("LSTM", "l")], w, "takes 3 numbers a step, but 'd"),
            ([layer("Activation", "a", activation="tanh")], w, "how wide the input is"),
            ([layer("RNN", "l", cell={"class_name": "StackedRNNCells"})], w, "is a RNN"),
        ):
            for keras3 in (False, True):
                with self.subTest(reason=reason, keras3=keras3):
                    self.assertIn(reason, self.refusal("keras", self.h5(layers, weights, keras3)))

    def test_other_files_are_not_reached_and_large_claims_cost_nothing(self):
        secret = self.dir / "secret.h5"
        with h5py.File(secret, "w") as file:
            file["w"] = self.random(3, 2)
        for make in (
            lambda g: g.__setitem__("w", h5py.ExternalLink(str(secret), "/w")),
            lambda g: g.create_dataset("w", (3, 2), "f4", external=[(str(secret), 0, 24)]),
            lambda g: g.create_dataset("w", (1 << 14, 1 << 14), "f4", chunks=(64, 64)),
        ):
            path = self.dir / "bad.h5"
            with h5py.File(path, "w") as file:
                file.attrs["model_config"] = json.dumps(
                    {"class_name": "Sequential", "config": {"layers": [layer("Dense", "d", use_bias=False)]}}
                )
                root = file.create_group("model_weights")
                root.attrs["layer_names"] = [b"d"]
                make(root.create_group("d"))
                root["d"].attrs["weight_names"] = [b"w"]
            self.refusal("keras", path)

    def test_damaged_files_are_refused_or_give_a_model_even_where_the_library_crashes(self):
        whole = self.h5(
            [layer("LSTM", "l")], {"l": [self.random(3, 8), self.random(2, 8), self.random(8)]}
        ).read_bytes()
        for _ in range(120):
            bad = bytearray(whole)
            for at in self.rng.integers(0, len(bad), 8):
                bad[at] = self.rng.choice([0, 1, 127, 128, 255])
            (self.dir / "bad.h5").write_bytes(bad)
            status, _, _, err = self.run_command("keras", self.dir / "bad.h5")
            self.assertIn((status, err.count("\n")), ((0, 0), (1, 1)), err)

    def test_a_crash_of_the_library_is_a_refusal(self):
        with self.assertRaises(keras.Refused) as refused:
            keras._try_in_a_child(lambda: os.kill(os.getpid(), signal.SIGSEGV))
        self.assertIn("SIGSEGV", str(refused.exception))
        keras._try_in_a_child(lambda: 1 / 0)  # the parent will say so itself

    def test_rubbish_and_cut_files_are_refused(self):
        w = {"l": [self.random(3, 20), self.random(5, 20), self.random(20)]}
        for keras3 in (False, True):
            whole = self.h5([layer("LSTM", "l")], w, keras3).read_bytes()
            for size in [0, 3, 8, 100, len(whole) // 2, len(whole) - 1] + list(self.rng.integers(0, len(whole), 20)):
                (self.dir / "cut").write_bytes(whole[:size])
                self.refusal("keras", self.dir / "cut")
        (self.dir / "rubbish").write_bytes(self.rng.bytes(1000))
        self.assertIn("neither HDF5 nor a .keras archive", self.refusal("keras", self.dir / "rubbish"))


if __name__ == "__main__":
    run()
