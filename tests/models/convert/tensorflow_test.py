# SPDX-License-Identifier: MIT
"""Checkpoints and frozen graphs of TensorFlow 1, written here by the format; the judge is each cell by its formula."""
import struct
import unittest

import numpy as np

from support import ConvertTest, gru, lstm, run, sigmoid

try:
    from convert import tensorflow_pb2 as pb
except ImportError:
    pb = None

from convert.tf_checkpoint import TABLE_MAGIC, crc32c, masked

TYPES = {"float32": 1, "float64": 2, "float16": 19, "int64": 9}


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def block(entries, restart=3):
    """Keys are cut by what they share with the one before, but for every third one."""
    out, restarts, before = b"", [], b""
    for k, (key, value) in enumerate(entries):
        shared = 0
        if k % restart == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + b"".join(struct.pack("<I", r) for r in restarts or [0]) + struct.pack("<I", len(restarts or [0]))


def slow_crc32c(data):
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def gates_of(kernel, width, order):
    """w and r by gate from a kernel [I + H, G*H]."""
    parts = dict(zip(order, np.split(kernel, len(order), axis=1)))
    return {g: p[:width].T for g, p in parts.items()}, {g: p[width:].T for g, p in parts.items()}


@unittest.skipIf(pb is None, "there is no protobuf here (Debian: python3-protobuf)")
class TensorFlowTest(ConvertTest):
    def checkpoint(self, variables, shards=1, change=None, slices=()):
        """A checkpoint of these arrays; `change(name, entry)` may spoil an entry."""
        prefix = self.dir / f"ckpt{self.made}"
        data, entries = [b""] * shards, []
        for k, name in enumerate(sorted(variables)):
            raw, shard = variables[name].tobytes(), k % shards
            entry = pb.BundleEntry(
                dtype=TYPES[variables[name].dtype.name],
                shard_id=shard,
                offset=len(data[shard]),
                size=len(raw),
                crc32c=masked(crc32c(raw)),
            )
            entry.shape.dim.extend(pb.Shape.Dim(size=n) for n in variables[name].shape)
            if name in slices:
                entry.slices.append(b"\x0a\x00")
            if change:
                change(name, entry)
            entries.append((name.encode(), entry.SerializeToString()))
            data[shard] += raw
        entries.insert(0, (b"", pb.BundleHeader(num_shards=shards).SerializeToString()))
        file, handles = b"", []
        for at in range(0, len(entries), 4):
            body = block(entries[at : at + 4])
            handles.append((entries[min(at + 3, len(entries) - 1)][0], varint(len(file)) + varint(len(body))))
            file += body + b"\x00" + struct.pack("<I", masked(slow_crc32c(body + b"\x00")))
        places = []
        for body in (block([]), block(handles)):
            places.append(varint(len(file)) + varint(len(body)))
            file += body + b"\x00" + struct.pack("<I", masked(slow_crc32c(body + b"\x00")))
        footer = b"".join(places)
        (self.dir / f"{prefix.name}.index").write_bytes(
            file + footer + bytes(40 - len(footer)) + struct.pack("<Q", TABLE_MAGIC)
        )
        for k, raw in enumerate(data):
            (self.dir / f"{prefix.name}.data-{k:05d}-of-{shards:05d}").write_bytes(raw)
        return prefix

    def test_the_checksum(self):
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)
        for size in (0, 1, 63, 64, 4095, 300_001):
            data = self.rng.bytes(size)
            self.assertEqual(crc32c(data), slow_crc32c(data))

    def test_a_stack_with_its_head_from_a_checkpoint_in_shards(self):
        x = self.random(9, 3)
        a, ab, b, bb = self.random(8, 20), self.random(20), self.random(9, 16), self.random(16)
        d, db = self.random(4, 2), self.random(2)
        scope = "rnn/multi_rnn_cell/cell_{}/basic_lstm_cell/"
        variables = {
            scope.format(0) + "kernel": a,
            scope.format(0) + "bias": ab,
            scope.format(1) + "kernel": b,
            scope.format(1) + "bias": bb,
            "dense/kernel": d,
            "dense/bias": db,
            "dense/kernel/Adam": d * 0,
            "dense/bias/Adam_1": db * 0,
            "global_step": np.int64(3).reshape(()),
            "beta1_power": np.float32(0.9).reshape(()),
        }
        path = self.checkpoint({k: np.asarray(v) for k, v in variables.items()}, shards=3)

        def layer(x, kernel, bias, forget):
            b = dict(zip("igfo", np.split(bias, 4)))
            return lstm(x, *gates_of(kernel, x.shape[1], "igfo"), {**b, "f": b["f"] + forget})

        for forget in (0.0, 1.0, 2.5):
            y = layer(layer(x, a, ab, forget), b, bb, forget) @ d + db
            self.verify(self.convert("tensorflow", path, "--forget-bias", forget), x, y)
        self.verify(
            self.convert(
                "tensorflow",
                f"{path}.index",
                "--forget-bias",
                0,
                "--net",
                "rnn/multi_rnn_cell/cell_0/basic_lstm_cell, tanh",
            ),
            x,
            np.tanh(layer(x, a, ab, 0)),
        )
        self.assertIn("--forget-bias", self.refusal("tensorflow", path))

    def test_every_gate_order(self):
        x, kernel, bias = self.random(9, 3), self.random(7, 16), self.random(16)
        path = self.checkpoint({"rnn/lstm_cell/kernel": kernel, "rnn/lstm_cell/bias": bias})
        for text, order in (("icfo", "igfo"), ("ifco", "ifgo"), ("iofc", "iofg"), ("fico", "figo")):
            b = dict(zip(order, np.split(bias, 4)))
            y = lstm(x, *gates_of(kernel, 3, order), {**b, "f": b["f"] + 1})
            self.verify(self.convert("tensorflow", path, "--forget-bias", 1, "--gate-order", text), x, y)
            if text == "icfo":
                self.verify(self.convert("tensorflow", path, "--forget-bias", 1), x, y)
        self.assertIn("gate order 'ofci'", self.refusal("tensorflow", path, "--forget-bias", 1, "--gate-order", "ofci"))

    def test_peepholes_projection_and_coupled_gates(self):
        x, kernel, bias, projection = self.random(9, 3), self.random(5, 16), self.random(16), self.random(4, 2)
        peep = {g: self.random(4) for g in "ifo"}
        b = dict(zip("igfo", np.split(bias, 4)))
        path = self.checkpoint(
            {
                "l/lstm_cell/kernel": kernel,
                "l/lstm_cell/bias": bias,
                "l/lstm_cell/projection/kernel": projection,
                **{f"l/lstm_cell/w_{g}_diag": v for g, v in peep.items()},
            }
        )
        y = lstm(x, *gates_of(kernel, 3, "igfo"), {**b, "f": b["f"] + 1}, peep, projection.T)
        self.verify(self.convert("tensorflow", path, "--forget-bias", 1), x, y)
        kernel, bias = self.random(7, 12), self.random(12)
        scope = "rnn/coupled_input_forget_gate_lstm_cell"
        b = dict(zip("gfo", np.split(bias, 3)))
        y = lstm(x, *gates_of(kernel, 3, "gfo"), {**b, "f": b["f"] + 1}, coupled=True)
        self.verify(
            self.convert(
                "tensorflow", self.checkpoint({f"{scope}/kernel": kernel, f"{scope}/bias": bias}), "--forget-bias", 1
            ),
            x,
            y,
        )

    def test_gru_cells_plain_rnn_and_embedding(self):
        x, gates, gb, cand, cb = self.random(9, 3), self.random(7, 8), self.random(8), self.random(7, 4), self.random(4)
        w, r = gates_of(np.concatenate([gates, cand], axis=1), 3, "rzn")
        b = dict(zip("rzn", np.split(np.concatenate([gb, cb]), 3)))
        variables = {
            "rnn/gru_cell/gates/kernel": gates,
            "rnn/gru_cell/gates/bias": gb,
            "rnn/gru_cell/candidate/kernel": cand,
            "rnn/gru_cell/candidate/bias": cb,
        }
        self.verify(self.convert("tensorflow", self.checkpoint(variables)), x, gru(x, w, r, b))
        old = {
            "rnn/gru_cell/gates/weights": gates,
            "rnn/gru_cell/gates/biases": gb,
            "rnn/gru_cell/candidate/weights": cand,
            "rnn/gru_cell/candidate/biases": cb,
        }
        self.verify(self.convert("tensorflow", self.checkpoint(old)), x, gru(x, w, r, b))
        scope, hb = "c/cudnn_compatible_gru_cell", self.random(4)
        cudnn = {
            f"{scope}/gates/kernel": gates,
            f"{scope}/gates/bias": gb,
            f"{scope}/candidate/input_projection/kernel": cand[:3],
            f"{scope}/candidate/input_projection/bias": cb,
            f"{scope}/candidate/hidden_projection/kernel": cand[3:],
            f"{scope}/candidate/hidden_projection/bias": hb,
        }
        self.verify(self.convert("tensorflow", self.checkpoint(cudnn)), x, gru(x, w, r, b, hb))
        ids, table, kernel, bias = (
            self.rng.integers(0, 6, 9),
            self.random(6, 3),
            self.random(7, 4, scale=0.5),
            self.random(4),
        )
        h, y = np.zeros(4), []
        for step in table[ids]:
            h = np.tanh(np.concatenate([step, h]) @ kernel + bias)
            y.append(h)
        self.verify(
            self.convert(
                "tensorflow",
                self.checkpoint(
                    {"embedding": table, "rnn/basic_rnn_cell/kernel": kernel, "rnn/basic_rnn_cell/bias": bias}
                ),
            ),
            ids,
            np.array(y),
        )

    def test_cudnn_compatible_lstm_adds_no_forget_bias(self):
        x, kernel, bias = self.random(9, 3), self.random(7, 16), self.random(16)
        scope = "cudnn_lstm/stack/cell_0/cudnn_compatible_lstm_cell"
        y = lstm(x, *gates_of(kernel, 3, "igfo"), dict(zip("igfo", np.split(bias, 4))))
        self.verify(
            self.convert("tensorflow", self.checkpoint({f"{scope}/kernel": kernel, f"{scope}/bias": bias})), x, y
        )

    def test_what_is_wrong_with_a_checkpoint_is_said(self):
        good = {"rnn/basic_lstm_cell/kernel": self.random(7, 16), "rnn/basic_lstm_cell/bias": self.random(16)}
        name = "rnn/basic_lstm_cell/kernel"

        def spoil(**fields):
            def change(of, entry):
                for key, value in fields.items():
                    if of == name:
                        setattr(entry, key, value)

            return self.refusal("tensorflow", self.checkpoint(good, change=change), "--forget-bias", 1)

        self.assertIn("checksum is wrong", spoil(crc32c=5))
        self.assertIn("the file", spoil(offset=10_000))
        self.assertIn("the file", spoil(offset=-4))
        self.assertIn("448 bytes", spoil(dtype=2))
        self.assertIn("No such file", spoil(shard_id=7))
        self.assertIn(
            "in slices", self.refusal("tensorflow", self.checkpoint(good, slices=(name,)), "--forget-bias", 1)
        )
        self.assertIn(
            "layer norms",
            self.refusal(
                "tensorflow",
                self.checkpoint({"a/layer_norm_basic_lstm_cell/kernel": self.random(7, 16)}),
                "--forget-bias",
                1,
            ),
        )
        self.assertIn(
            "of TensorFlow 2",
            self.refusal(
                "tensorflow", self.checkpoint({"m/cell/kernel/.ATTRIBUTES/VARIABLE_VALUE": self.random(7, 16)})
            ),
        )
        self.assertIn(
            "w_x",
            self.refusal(
                "tensorflow", self.checkpoint({**good, "rnn/basic_lstm_cell/w_x": self.random(4)}), "--forget-bias", 1
            ),
        )
        self.assertIn(
            "say it with --net",
            self.refusal(
                "tensorflow",
                self.checkpoint({**good, "a/kernel": self.random(4, 2), "b/kernel": self.random(2, 2)}),
                "--forget-bias",
                1,
            ),
        )

    def test_cut_and_damaged_indexes_are_refused(self):
        prefix = self.checkpoint(
            {"rnn/basic_lstm_cell/kernel": self.random(7, 16), "rnn/basic_lstm_cell/bias": self.random(16)}
        )
        index = self.dir / f"{prefix.name}.index"
        whole = index.read_bytes()
        for size in [0, 8, 47, len(whole) - 1] + list(self.rng.integers(0, len(whole), 30)):
            index.write_bytes(whole[:size])
            self.refusal("tensorflow", prefix, "--forget-bias", 1)
        for at in self.rng.integers(0, len(whole), 150):
            bad = bytearray(whole)
            bad[at] ^= 1 << int(self.rng.integers(0, 8))
            index.write_bytes(bad)
            status, _, _, err = self.run_command("tensorflow", prefix, "--forget-bias", 1)
            self.assertIn((status, err.count("\n")), ((0, 0), (1, 1)), err)

    # Frozen graphs.
    def graph(self, *nodes):
        """nodes: (name, op, inputs, attributes); an array among the attributes makes a constant."""
        graph = pb.Graph()
        for name, op, inputs, attributes in nodes:
            node = graph.node.add(name=name.encode(), op=op.encode(), input=[i.encode() for i in inputs])
            for key, value in attributes.items():
                attr = node.attr.add(key=key.encode()).value
                if isinstance(value, np.ndarray):
                    tensor = attr.tensor
                    tensor.dtype = TYPES[value.dtype.name]
                    tensor.tensor_shape.dim.extend(pb.Shape.Dim(size=n) for n in value.shape)
                    tensor.tensor_content = value.tobytes()
                elif isinstance(value, bool):
                    attr.b = value
                else:
                    attr.f = value
        path = self.dir / f"g{self.made}.pb"
        path.write_bytes(graph.SerializeToString())
        return path

    def block_lstm(self, op, scope="l/lstm_cell", **attributes):
        kernel, bias = self.random(7, 16), self.random(16)
        nodes = [
            ("x", "Placeholder", [], {}),
            (f"{scope}/kernel", "Const", [], {"value": kernel}),
            (f"{scope}/bias", "Const", [], {"value": bias}),
            ("steps", "Unpack", ["x"], {}),
            ("none", "Const", [], {"value": np.zeros(4, "f4")}),
            (
                "cell",
                op,
                (["steps"] if op == "LSTMBlockCell" else ["none", "steps"])  # then c, h, the weights, three peepholes
                + ["none", "none", f"{scope}/kernel", "none", "none", "none", f"{scope}/bias"],
                attributes,
            ),
        ]
        return kernel, bias, nodes

    def test_block_cells_have_their_order_and_forget_bias_in_the_graph(self):
        x = self.random(9, 3)
        w, wb, v, vb = self.random(4, 5), self.random(5), self.random(2, 5), self.random(2)
        for op, order, forget, attributes in (
            ("BlockLSTM", "igfo", 1.5, {"forget_bias": 1.5, "cell_clip": -1.0}),
            ("LSTMBlockCell", "igfo", 0.0, {"forget_bias": 0.0}),
            ("BlockLSTMV2", "ifgo", 0.0, {"cell_clip": 0.0}),
        ):
            with self.subTest(op):
                kernel, bias, nodes = self.block_lstm(op, **attributes)
                path = self.graph(
                    *nodes,
                    ("w", "Const", [], {"value": w}),
                    ("w/read", "Identity", ["w"], {}),
                    ("wb", "Const", [], {"value": wb}),
                    ("m", "MatMul", ["cell:6", "w/read"], {}),
                    ("a", "BiasAdd", ["m", "wb"], {}),
                    ("r", "Relu6", ["a"], {}),
                    ("v", "Const", [], {"value": v}),
                    ("vb", "Const", [], {"value": vb}),
                    ("m2", "MatMul", ["r", "v"], {"transpose_b": True}),
                    ("a2", "Add", ["vb", "m2"], {}),
                    ("y", "Sigmoid", ["a2"], {}),
                )
                b = dict(zip(order, np.split(bias, 4)))
                h = lstm(x, *gates_of(kernel, 3, order), {**b, "f": b["f"] + forget})
                self.verify(self.convert("tensorflow", path), x, sigmoid(np.clip(h @ w + wb, 0, 6) @ v.T + vb))
                self.verify(self.convert("tensorflow", path, "--output-node", "cell"), x, h)

    def test_a_clipped_dense_layer_before_a_fused_cell_and_peepholes_within(self):
        x, w, wb = self.random(9, 5), self.random(5, 3, scale=9), self.random(3)
        kernel, bias, nodes = self.block_lstm("BlockLSTM", forget_bias=1.0, use_peephole=True)
        peep = {g: self.random(4) for g in "ifo"}
        names = [f"l/lstm_cell/w_{g}_diag" for g in "ifo"]
        before = [
            ("w", "Const", [], {"value": w}),
            ("wb", "Const", [], {"value": wb}),
            ("m", "MatMul", ["x", "w"], {}),
            ("a", "BiasAdd", ["m", "wb"], {}),
            ("r", "Relu", ["a"], {}),
            ("limit", "Const", [], {"value": np.array(20, "f4")}),
            ("steps", "Minimum", ["r", "limit"], {}),
        ]
        diagonals = [(n, "Const", [], {"value": v}) for n, v in zip(names, peep.values())]
        cell = (
            "cell",
            "BlockLSTM",
            ["none", "steps", "none", "none", "l/lstm_cell/kernel", *names, "l/lstm_cell/bias"],
            nodes[-1][3],
        )
        path = self.graph(*[n for n in nodes if n[0] not in ("steps", "cell")], *before, *diagonals, cell)
        b = dict(zip("igfo", np.split(bias, 4)))
        dense = np.clip(x @ w + wb, 0, 20)
        self.assertGreater((x @ w + wb).max(), 20, "nothing is clipped")
        y = lstm(dense, *gates_of(kernel, 3, "igfo"), {**b, "f": b["f"] + 1}, peep)
        self.verify(self.convert("tensorflow", path), x, y)
        other = (*cell[:2], [i.replace("w_f_diag", "w_o_diag") for i in cell[2]], cell[3])
        self.assertIn(
            "peepholes that are not called",
            self.refusal(
                "tensorflow",
                self.graph(*[n for n in nodes if n[0] not in ("steps", "cell")], *before, *diagonals, other),
            ),
        )

    def loop(self, scope="rnn/lstm_cell", projection=False):
        """dynamic_rnn over an LSTMCell with peepholes, as TensorFlow 1.5 and later write it: bounded by integers."""
        body = f"w/{scope}"
        kernel, bias, peep, proj = (
            self.random(3 + (2 if projection else 4), 16),
            self.random(16),
            {g: self.random(4) for g in "ifo"},
            self.random(4, 2),
        )
        constants = {
            f"{scope}/kernel": kernel,
            f"{scope}/bias": bias,
            **{f"{scope}/w_{g}_diag": v for g, v in peep.items()},
            f"{body}/one": np.array(1, "f4"),
        }
        if projection:
            constants[f"{scope}/projection/kernel"] = proj
        nodes = [(n, "Const", [], {"value": v}) for n, v in constants.items()]
        nodes += [(f"{body}/enter{k}", "Enter", [n], {}) for k, n in enumerate(constants) if n != f"{body}/one"]
        of = {n: f"{body}/enter{k}" for k, n in enumerate(constants)}
        of[f"{body}/one"] = f"{body}/one"
        nodes += [
            ("x", "Placeholder", [], {}),
            ("xt", "Transpose", ["x"], {}),
            ("array", "TensorArrayV3", [], {}),
            ("scatter", "TensorArrayScatterV3", ["array", "array", "xt", "array"], {}),
            ("length", "Const", [], {"value": np.array(9)}),
            ("zero", "Const", [], {"value": np.zeros((), "f4")}),
            ("zeros", "Fill", ["length", "zero"], {}),
            ("least", "Maximum", ["length", "length"], {}),
            ("bound", "Minimum", ["length", "least"], {}),
            ("less", "Less", ["length", "bound"], {}),
            ("cond", "LoopCond", ["less"], {}),
            ("c0", "Enter", ["zeros"], {}),
            ("cm", "Merge", ["c0", "cn"], {}),
            ("cs", "Switch", ["cm", "cond"], {}),
            ("c", "Identity", ["cs:1"], {}),
            ("h0", "Enter", ["zeros"], {}),
            ("hm", "Merge", ["h0", "hn"], {}),
            ("hs", "Switch", ["hm", "cond"], {}),
            ("h", "Identity", ["hs:1"], {}),
            ("read", "TensorArrayReadV3", ["array", "length", "scatter"], {}),
            ("xh", "ConcatV2", ["read", "h", "length"], {}),
            ("mm", "MatMul", ["xh", of[f"{scope}/kernel"]], {}),
            ("ba", "BiasAdd", ["mm", of[f"{scope}/bias"]], {}),
            ("split", "Split", ["length", "ba"], {}),
            ("fb", "Add", ["split:2", of[f"{body}/one"]], {}),
            ("pf", "Mul", [of[f"{scope}/w_f_diag"], "c"], {}),
            ("f1", "Add", ["fb", "pf"], {}),
            ("f", "Sigmoid", ["f1"], {}),
            ("fc", "Mul", ["f", "c"], {}),
            ("pi", "Mul", [of[f"{scope}/w_i_diag"], "c"], {}),
            ("i1", "Add", ["split", "pi"], {}),
            ("i", "Sigmoid", ["i1"], {}),
            ("j", "Tanh", ["split:1"], {}),
            ("ij", "Mul", ["i", "j"], {}),
            ("c1", "Add", ["fc", "ij"], {}),
            ("po", "Mul", [of[f"{scope}/w_o_diag"], "c1"], {}),
            ("o1", "Add", ["split:3", "po"], {}),
            ("o", "Sigmoid", ["o1"], {}),
            ("tc", "Tanh", ["c1"], {}),
            ("m", "Mul", ["o", "tc"], {}),
            ("cn", "NextIteration", ["c1"], {}),
            ("ex", "Exit", ["hs"], {}),
        ]
        last = "m"
        if projection:
            nodes.append(("p", "MatMul", ["m", of[f"{scope}/projection/kernel"]], {}))
            last = "p"
        nodes.append(("hn", "NextIteration", [last], {}))
        b = dict(zip("igfo", np.split(bias, 4)))
        w, r = gates_of(kernel, 3, "igfo")
        return nodes, lambda x: lstm(x, w, r, {**b, "f": b["f"] + 1}, peep, proj.T if projection else None)

    def test_a_loop_over_a_cell_with_peepholes_and_projection(self):
        x = self.random(9, 3)
        for projection in (False, True):
            nodes, judge = self.loop(projection=projection)
            w = self.random(2 if projection else 4, 3)
            path = self.graph(
                *nodes, ("W", "Const", [], {"value": w}), ("y", "MatMul", ["ex", "W"], {}), ("end", "Tanh", ["y"], {})
            )
            self.verify(self.convert("tensorflow", path), x, np.tanh(judge(x) @ w))
        for extra, end, reason in (
            (("clip", "Minimum", ["c1", f"w/rnn/lstm_cell/one"], {}), "clip", "clips"),
            (("res", "Add", ["m", "read"], {}), "res", "a residual connection"),
            (("act", "Relu", ["c1"], {}), "act", "activation is not tanh"),
        ):
            changed = [
                (n, op, [end if i == "m" and n == "hn" else i for i in inputs], a)
                for n, op, inputs, a in self.loop()[0]
            ]
            self.assertIn(
                reason,
                self.refusal(
                    "tensorflow", self.graph(*changed, extra, ("y", "Tanh", ["ex"], {})), "--output-node", "y"
                ),
            )

    def test_a_first_matrix_without_bias_is_a_product_and_a_gather_an_embedding(self):
        x, w, ids = self.random(5, 3), self.random(3, 4), self.rng.integers(0, 3, 5)
        self.verify(
            self.convert(
                "tensorflow",
                self.graph(
                    ("x", "Placeholder", [], {}), ("w", "Const", [], {"value": w}), ("y", "MatMul", ["x", "w"], {})
                ),
            ),
            x,
            x @ w,
        )
        path = self.graph(
            ("x", "Placeholder", [], {}), ("w", "Const", [], {"value": w}), ("y", "GatherV2", ["w", "x"], {})
        )
        self.verify(self.convert("tensorflow", path), ids, w[ids])

    def test_graphs_that_cannot_be_brought_in(self):
        _, _, clipped = self.block_lstm("BlockLSTM", forget_bias=1.0, cell_clip=3.0)
        self.assertIn("clips its cell at 3", self.refusal("tensorflow", self.graph(*clipped)))
        _, _, nodes = self.block_lstm("BlockLSTM", forget_bias=1.0)
        for extra, reason in (
            (("y", "FFT", ["cell"], {}), "is a FFT"),
            (("y", "ReverseV2", ["cell"], {}), "is a ReverseV2"),
            (("y", "Tanh", ["steps"], {}), "ends in cell, y"),
            (("y", "MatMul", ["cell", "gone"], {}), "no node 'gone'"),
            (("z", "VariableV2", [], {}), "not frozen"),
        ):
            with self.subTest(reason):
                self.assertIn(reason, self.refusal("tensorflow", self.graph(*nodes, extra)))
        loop = (("x", "Identity", ["y"], {}), ("y", "Identity", ["x"], {}))
        self.assertIn("ends in nothing", self.refusal("tensorflow", self.graph(*loop)))
        self.assertIn("its own input", self.refusal("tensorflow", self.graph(*loop), "--output-node", "x"))
        self.assertIn("names twice", self.refusal("tensorflow", self.graph(nodes[0], nodes[0])))
        (self.dir / "bad.pb").write_bytes(self.rng.bytes(500))
        self.refusal("tensorflow", self.dir / "bad.pb")

    def test_cut_and_damaged_graphs_are_refused_or_give_a_model(self):
        whole = self.graph(*self.block_lstm("BlockLSTM", forget_bias=1.0)[2]).read_bytes()
        for _ in range(200):
            bad = bytearray(whole[: self.rng.integers(1, len(whole) + 1)])
            bad[self.rng.integers(0, len(bad))] = self.rng.integers(0, 256)
            (self.dir / "bad.pb").write_bytes(bad)
            status, _, _, err = self.run_command("tensorflow", self.dir / "bad.pb")
            self.assertIn((status, err.count("\n")), ((0, 0), (1, 1)), err)


if __name__ == "__main__":
    run()
