#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Golden data of Scan and Loop nodes with random weights, computed by ONNX Runtime: tests/data/golden_loops/<case>/model.onnx, x.npy, y.npy.

    python3 models/train/make_golden_loops.py

Needs what Debian 13 has: python3-torch, python3-onnx, python3-onnxruntime.
"""
import pathlib

import numpy as np
import onnx
import onnx.reference  # before onnxruntime, which registers operators of its own
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "golden_loops"
STEPS, RANDOM = 20, np.random.default_rng(8)


def numbers(name, *shape, scale=0.6):
    return numpy_helper.from_array(RANDOM.uniform(-scale, scale, shape).astype(np.float32), name)


def info(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def save(name, nodes, weights, x_shape, y_shape, x, state=None):
    """x as the graph reads it; the files have what a session sends, a row for each step."""
    inputs, outputs = [info("x", x_shape)], [info("y", y_shape)]
    feeds = {"x": x}
    if state is not None:
        inputs.append(info("h", state.shape))
        outputs.append(info("h_out", state.shape))
        feeds["h"] = state
    graph = helper.make_graph(nodes, name, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    y = ort.InferenceSession(str(folder / "model.onnx")).run(["y"], feeds)[0]
    time = x_shape.index("T")
    rows = lambda a, shape: np.ascontiguousarray(np.moveaxis(a, shape.index("T"), 0).reshape(a.shape[shape.index("T")], -1))
    np.save(folder / "x.npy", rows(x, x_shape))
    np.save(folder / "y.npy", rows(y, y_shape))


def body(name, nodes, inputs, outputs, weights=()):
    return helper.make_graph(nodes, name, [info(n, s) for n, s in inputs], [info(n, s) for n, s in outputs], list(weights))


def peephole(n=6, width=4):
    """An LSTM whose gates see the cell, state by state."""
    nodes = [
        node("Concat", "xt h", "xh", axis=1), node("MatMul", "xh w", "pre0"), node("Add", "pre0 b", "pre"), node("Split", "pre", "i0 f0 g0 o0", axis=1),
        node("Mul", "c pi", "ci"), node("Add", "i0 ci", "i1"), node("Sigmoid", "i1", "i"), node("Mul", "c pf", "cf"), node("Add", "f0 cf", "f1"), node("Sigmoid", "f1", "f"),
        node("Tanh", "g0", "g"), node("Mul", "f c", "kept"), node("Mul", "i g", "fresh"), node("Add", "kept fresh", "c2"), node("Mul", "c2 po", "co"), node("Add", "o0 co", "o1"),
        node("Sigmoid", "o1", "o"), node("Tanh", "c2", "shown"), node("Mul", "o shown", "h2"), node("Identity", "h2", "yt"),
    ]
    step = body("step", nodes, [("h", [1, n]), ("c", [1, n]), ("xt", [1, width])], [("h2", [1, n]), ("c2", [1, n]), ("yt", [1, n])], [numbers("b", 4 * n)])
    weights = [numbers("w", width + n, 4 * n), numbers("pi", n), numbers("pf", n), numbers("po", n), numbers("h0", 1, n), numbers("c0", 1, n), numbers("head", n, 3)]
    scan = node("Scan", "h0 c0 x", "h_end c_end hs", num_scan_inputs=1, body=step, scan_input_axes=[1], scan_output_axes=[1])
    save("peephole", [scan, node("MatMul", "hs head", "y")], weights, [1, "T", width], [1, "T", 3], RANDOM.standard_normal((1, STEPS, width)).astype(np.float32))


def recurrent(n, width):
    return body("step", [node("MatMul", "xt w", "a"), node("MatMul", "h r", "b"), node("Add", "a b", "s"), node("Tanh", "s", "h2"), node("Mul", "h2 two", "yt")],
                [("h", [1, n]), ("xt", [1, width])], [("h2", [1, n]), ("yt", [1, n])], [numbers("w", width, n), numbers("r", n, n), numbers("two", 1)])


def stacked():
    """Two of one pattern, with the same names inside, along the first axis; the caller gives the first's state."""
    nodes = [node("Scan", "h x", "h_out first", num_scan_inputs=1, body=recurrent(5, 3)), node("Relu", "first", "bent"), node("Scan", "zero bent", "end y", num_scan_inputs=1, body=recurrent(4, 5))]
    save("stacked", nodes, [numbers("zero", 1, 4, scale=0)], ["T", 1, 3], ["T", 1, 4], RANDOM.standard_normal((STEPS, 1, 3)).astype(np.float32), np.zeros((1, 5), np.float32))


def backwards():
    """From the end of the sequence: Predict's alone. What it gives is turned too."""
    nodes = [node("Scan", "zero x", "end y", num_scan_inputs=1, body=recurrent(4, 3), scan_input_directions=[1], scan_output_directions=[1])]
    save("backwards", nodes, [numbers("zero", 1, 4)], ["T", 1, 3], ["T", 1, 4], RANDOM.standard_normal((STEPS, 1, 3)).astype(np.float32))


def bands():
    """Along the bands of each step, up and down, behind a layer in time."""
    up = recurrent(3, 1)
    down = recurrent(3, 1)
    lstm = [numbers("W", 1, 24, 4), numbers("R", 1, 24, 6), numbers("B", 1, 48)]
    nodes = [
        node("LSTM", "x W R B", "t", hidden_size=6), node("Squeeze", "t one", "layer"), node("Unsqueeze", "layer last", "items"), node("MatMul", "layer none", "z"),  # [T, 1, 6, 1], a state for each step
        node("Scan", "z items", "u_end u", num_scan_inputs=1, body=with_steps(up), scan_input_axes=[2], scan_output_axes=[2]),
        node("Scan", "z items", "d_end d", num_scan_inputs=1, body=with_steps(down), scan_input_axes=[-2], scan_output_axes=[-2], scan_input_directions=[1], scan_output_directions=[1]),
        node("Concat", "u d", "both", axis=3), node("Reshape", "both flat", "y"),
    ]
    ints = lambda name, *v: numpy_helper.from_array(np.array(v, np.int64), name)
    weights = [*lstm, ints("one", 1), ints("last", 3), ints("flat", 0, 1, 36), numbers("none", 6, 3, scale=0)]
    save("bands", nodes, weights, ["T", 1, 4], ["T", 1, 36], RANDOM.standard_normal((STEPS, 1, 4)).astype(np.float32))


def with_steps(graph):
    """The same body over [T, 1, ..]: all steps at once, each with its own state."""
    for value, shape in ((graph.input[0], [None, 1, 3]), (graph.input[1], [None, 1, 1]), (graph.output[0], [None, 1, 3]), (graph.output[1], [None, 1, 3])):
        value.CopyFrom(info(value.name, shape))
    return graph


def counted():
    """A Loop as TensorFlow's are written: a counter, a limit that is handed on, a condition, a sequence read by the counter."""
    n, width = 5, 3
    ints = lambda name, *v: numpy_helper.from_array(np.array(v, np.int64) if len(v) > 1 else np.array(v[0], np.int64), name)
    scalar = lambda name, kind: helper.make_tensor_value_info(name, kind, [])
    int64, truth = TensorProto.INT64, TensorProto.BOOL
    nodes = [
        node("Gather", "x time", "xt", axis=0), node("MatMul", "xt w", "a"), node("MatMul", "h r", "b"), node("Add", "a b", "s"), node("Tanh", "s", "h2"),
        node("Add", "time one", "time2"), node("Identity", "limit", "limit2"), node("Less", "time2 limit", "goes"), node("Identity", "goes", "cond2"), node("Identity", "h2", "yt"),
    ]
    inputs = [scalar("turn", int64), scalar("cond", truth), scalar("time", int64), scalar("limit", int64), info("h", [1, n])]
    outputs = [scalar("cond2", truth), scalar("time2", int64), scalar("limit2", int64), info("h2", [1, n]), info("yt", [1, n])]
    step = helper.make_graph(nodes, "step", inputs, outputs, [ints("one", 1)])
    graph = [
        node("Shape", "x", "sizes"), node("Gather", "sizes first", "steps"), node("Less", "zero steps", "any"),
        node("Loop", "most any zero steps h0", "time_end limit_end h_end ys", body=step), node("MatMul", "ys head", "y"),
    ]
    weights = [ints("most", 2**31 - 1), ints("first", 0), ints("zero", 0), numbers("h0", 1, n), numbers("w", width, n), numbers("r", n, n), numbers("head", n, 2)]
    save("counted", graph, weights, ["T", 1, width], ["T", 1, 2], RANDOM.standard_normal((STEPS, 1, width)).astype(np.float32))


class Scripted(torch.nn.Module):
    """What TorchScript keeps of a loop in Python."""

    def __init__(self):
        super().__init__()
        self.of_x, self.of_h, self.head, self.decay = torch.nn.Linear(3, 12), torch.nn.Linear(4, 12), torch.nn.Linear(4, 2), torch.nn.Parameter(torch.rand(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [1, T, 3]
        h = torch.zeros(x.size(0), 4)
        trace = torch.zeros(x.size(0), 4)
        out: list[torch.Tensor] = []
        for t in range(x.size(1)):
            xz, xr, xn = self.of_x(x[:, t]).chunk(3, 1)
            hz, hr, hn = self.of_h(h).chunk(3, 1)
            z = torch.sigmoid(xz + hz)
            h = (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + z * h
            trace = trace * self.decay + h
            out.append(self.head(torch.tanh(trace)))
        return torch.stack(out, dim=1)


def scripted():
    torch.manual_seed(4)
    module, folder = Scripted().eval(), OUT / "scripted"
    folder.mkdir(parents=True, exist_ok=True)
    x = torch.randn(1, STEPS, 3)
    torch.onnx.export(torch.jit.script(module), (x,), str(folder / "model.onnx"), input_names=["x"], output_names=["y"], dynamic_axes={"x": {1: "time"}, "y": {1: "time"}}, opset_version=17, dynamo=False)
    y = ort.InferenceSession(str(folder / "model.onnx")).run(["y"], {"x": x.numpy()})[0]
    np.save(folder / "x.npy", x[0].numpy())
    np.save(folder / "y.npy", y[0])


def turns():
    """A few turns within each step, behind a layer in time."""
    lstm = [numbers("W", 1, 24, 4), numbers("R", 1, 24, 6), numbers("B", 1, 48)]
    scalar = lambda name, kind: helper.make_tensor_value_info(name, kind, [])
    nodes = [node("MatMul", "v w", "p"), node("Tanh", "p", "q"), node("Add", "q v", "v2"), node("Identity", "cond", "cond2"), node("Identity", "q", "each")]
    step = helper.make_graph(nodes, "step", [scalar("turn", TensorProto.INT64), scalar("cond", TensorProto.BOOL), info("v", [None, 1, 6])],
                             [scalar("cond2", TensorProto.BOOL), info("v2", [None, 1, 6]), info("each", [None, 1, 6])])
    ints = lambda name, *v: numpy_helper.from_array(np.array(v, np.int64), name)
    graph = [
        node("LSTM", "x W R B", "t", hidden_size=6), node("Squeeze", "t one", "s"), node("Loop", "three yes s", "end all", body=step),  # all [3, T, 1, 6]
        node("ReduceSum", "all zeroth", "sum", keepdims=0), node("Concat", "end sum", "y", axis=2),
    ]
    weights = [*lstm, ints("one", 1), ints("zeroth", 0), numpy_helper.from_array(np.array(3, np.int64), "three"), numpy_helper.from_array(np.array(True), "yes"), numbers("w", 6, 6)]
    save("turns", graph, weights, ["T", 1, 4], ["T", 1, 12], RANDOM.standard_normal((STEPS, 1, 4)).astype(np.float32))


if __name__ == "__main__":
    peephole()
    stacked()
    backwards()
    bands()
    counted()
    scripted()
    turns()
