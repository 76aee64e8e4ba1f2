#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Golden data of quantised graphs: exported by PyTorch with random weights, quantised and computed by ONNX Runtime:
tests/data/golden_quantized/<case>/model.onnx, x.npy, y.npy.

    python3 models/train/make_golden_quantized.py

Needs what Debian 13 has: python3-torch, python3-onnx, python3-onnxruntime. One step a call where the caller carries the
state; else the whole sequence in one call.
"""
import pathlib
import shutil
import tempfile
import warnings

import numpy as np
import onnx.reference  # before onnxruntime, which registers operators of its own
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from torch import nn
from torch.nn import functional as F

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "golden_quantized"
STEPS = 24


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.front, self.rnn, self.head = nn.Linear(6, 10), nn.LSTM(10, 8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x, h, c):
        y, (h, c) = self.rnn(torch.relu(self.front(x)), (h, c))
        return self.head(y), h, c


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.front, self.rnn, self.head = nn.Linear(5, 8), nn.GRU(8, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x, h):
        y, h = self.rnn(torch.tanh(self.front(x)), h)
        return torch.softmax(self.head(y), -1), h


class Frames(nn.Module):
    """A picture a step."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.rnn, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, (2, 3), stride=2), nn.GRUCell(6, 5), nn.Linear(5, 2)

    def forward(self, x, h):
        # The largest: a mean of quantised values is a tie too often, which the order of a sum decides.
        z = F.max_pool2d(F.leaky_relu(self.a(x), 0.1), 2)
        h = self.rnn(F.adaptive_avg_pool2d(torch.sigmoid(self.b(z)), 1).flatten(1), h)
        return self.head(h), h


class Causal(nn.Module):
    def __init__(self, both=False):
        super().__init__()
        self.conv, self.rnn, self.head = nn.Conv1d(4, 8, 3), nn.LSTM(8, 6, batch_first=True, bidirectional=both), nn.Linear(12 if both else 6, 3)

    def forward(self, x):  # [1, C, T]
        y, _ = self.rnn(F.relu(self.conv(F.pad(x, (2, 0)))).transpose(1, 2))
        return torch.sigmoid(self.head(y))


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 5, batch_first=True, bidirectional=True), nn.Linear(10, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class Feeds(CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def make(name, module, x, state, how, time=None):
    """`how` quantises one file into another. x: of one step, or with `time`, its axis, of a sequence."""
    names = ["h", "c"][: len(state)]
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        plain, made = f"{scratch}/plain.onnx", f"{scratch}/made.onnx"
        torch.onnx.export(module.eval(), (x[0], *state), plain, input_names=["x", *names], output_names=["y", *(n + "_out" for n in names)],
                          dynamic_axes={} if time is None else {"x": {time: "time"}, "y": {1: "time"}}, opset_version=17, dynamo=False)
        feeds = [{"x": f.numpy(), **{n: np.random.uniform(-1, 1, s.shape).astype(np.float32) for n, s in zip(names, state)}} for f in x]
        how(plain, made, feeds)
        shutil.copy(made, folder / "model.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(folder / "model.onnx"), options)
    carried = {n: s.numpy() for n, s in zip(names, state)}
    ys = []
    for frame in x:
        y, *after = session.run(None, {"x": frame.numpy(), **carried})
        carried = dict(zip(names, after))
        ys.append(y[0])
    if time is None:
        np.save(folder / "x.npy", np.squeeze(x.numpy()).astype(np.float32))
        np.save(folder / "y.npy", np.stack([np.squeeze(y) for y in ys]))
    else:
        np.save(folder / "x.npy", np.ascontiguousarray(x[0][0].movedim(time - 1, 0).numpy()))
        np.save(folder / "y.npy", ys[0])


def dynamic(weights, columns=False, ops=None):
    return lambda plain, made, _: quantize_dynamic(plain, made, weight_type=weights, per_channel=columns, op_types_to_quantize=ops)


def static(form, activations, columns):
    return lambda plain, made, feeds: quantize_static(plain, made, Feeds(feeds), quant_format=form, activation_type=activations, weight_type=QuantType.QInt8, per_channel=columns)


def main():
    torch.manual_seed(5)
    np.random.seed(5)
    s8, u8 = QuantType.QInt8, QuantType.QUInt8
    steps, zeros = torch.randn(STEPS, 1, 1, 6), [torch.zeros(2, 1, 8), torch.zeros(2, 1, 8)]
    make("stack_dynamic_u8", Stack(), steps, zeros, dynamic(u8))
    make("stack_dynamic_s8_columns", Stack(), steps, zeros, dynamic(s8, True))
    make("stack_qdq_u8", Stack(), steps, zeros, static(QuantFormat.QDQ, u8, False))
    make("stack_operators_s8_columns", Stack(), steps, zeros, static(QuantFormat.QOperator, s8, True))
    gated, h = torch.randn(STEPS, 1, 1, 5), [torch.zeros(1, 1, 7)]
    make("gated_dynamic_u8", Gated(), gated, h, dynamic(u8, True))
    make("gated_operators_u8", Gated(), gated, h, static(QuantFormat.QOperator, u8, False))
    pictures, h = torch.randn(STEPS, 1, 1, 8, 10), [torch.zeros(1, 5)]
    make("frames_dynamic_u8", Frames(), pictures, h, dynamic(u8))
    make("frames_qdq_s8", Frames(), pictures, h, static(QuantFormat.QDQ, s8, True))
    make("frames_operators_u8", Frames(), pictures, h, static(QuantFormat.QOperator, u8, True))
    sequence = torch.randn(8, 1, 4, STEPS)
    make("causal_qdq_u8", Causal(), sequence, [], static(QuantFormat.QDQ, u8, True), time=2)
    make("causal_operators_s8", Causal(), sequence, [], static(QuantFormat.QOperator, s8, False), time=2)
    # Ranges of the whole sequence: Predict's alone.
    make("causal_dynamic_u8", Causal(), sequence[:1], [], dynamic(u8), time=2)
    make("both_ways_dynamic_u8", Causal(both=True), sequence[:1], [], dynamic(u8), time=2)
    make("tagger_dynamic_s8", Tagger(), torch.randn(1, 1, STEPS, 4), [], dynamic(s8, True), time=1)


if __name__ == "__main__":
    main()
