#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Golden data of the ONNX import, exported and computed by PyTorch with random weights: tests/data/golden_onnx/<case>/.

    python3 models/train/make_golden_onnx.py

Each case is a graph that holds many op kinds side by side, their results laid end to end, with the input and the
output of every step.
Sequences are [1, T, ...] or, for convolutions over time, [1, C, T]; frames [1, C, W] are graphs of one step.
"""
import pathlib
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "golden_onnx"
STEPS = 6


class Graph(nn.Module):
    def __init__(self, function, **parts):
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.function = function

    def forward(self, *x):
        return self.function(self.parts, *x)


def ends(*values, keep=1):
    """Values laid end to end behind their first `keep` axes."""
    return torch.cat([v.reshape(*v.shape[:keep], -1) for v in values], -1)


def export(name, module, x, inputs, outputs, axes, opset):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            x,
            str(folder / "model.onnx"),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=opset,
        )
    return folder


def save(folder, x, y):
    np.save(folder / "x.npy", np.ascontiguousarray(x, dtype=np.int32 if x.dtype == np.int64 else np.float32))
    np.save(folder / "y.npy", np.ascontiguousarray(y, dtype=np.float32))


def sequence(name, function, x, opset=13, time=1, **parts):
    """x [1, T, ...], or with `time` 2 [1, C, T]."""
    module = Graph(function, **parts).eval()
    folder = export(name, module, (x,), ["x"], ["y"], {"x": {time: "time"}, "y": {time: "time"}}, opset)
    y = module(x)
    save(folder, x[0].movedim(time - 1, 0).numpy(), y[0].movedim(time - 1, 0).detach().numpy())


def frames(name, function, x, opset=13, **parts):
    """x [T, C, W]: one graph of [1, C, W], T times."""
    module = Graph(function, **parts).eval()
    folder = export(name, module, (x[:1],), ["x"], ["y"], {}, opset)
    save(folder, x.numpy(), torch.cat([module(frame[None]) for frame in x]).detach().numpy())


def trained_norm(norm):
    """With running statistics that are not those of the start."""
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 3)
    return norm


def activations(_, x):
    return ends(
        F.relu(x),
        F.leaky_relu(x, 0.3),
        F.elu(x, 0.7),
        F.selu(x),
        torch.sigmoid(x),
        F.hardsigmoid(x),
        F.hardswish(x),
        torch.tanh(x),
        F.softplus(x),
        F.softsign(x),
        F.gelu(x),
        F.mish(x),
        F.silu(x),
        F.relu6(x),
        x.clamp(-0.4, 0.6),
        x.abs(),
        -x,
        x.exp(),
        torch.erf(x),
        x.floor(),
        x.sign(),
        x.sin(),
        x.cos(),
        x.square(),
        keep=2,
    )


def positives(_, x):
    x = x.abs() + 0.1
    return ends(x.log(), x.sqrt(), x.reciprocal(), x.pow(1.7), x.pow(-0.5), x.rsqrt(), keep=2)


def pairs(parts, x):
    a, b = x[..., :4], parts["lin"](x)
    one = x[..., 4:5]
    return ends(
        a + b,
        a - b,
        a * b,
        a / (b.abs() + 1),
        torch.minimum(a, b),
        torch.maximum(a, b),
        torch.minimum(a, torch.tensor(0.1)),
        2 - a,
        a * one,
        a + torch.tensor([1.0, 2.0, 3.0, 4.0]),
        keep=2,
    )


def reductions(_, x):
    return ends(
        x.mean(-1),
        x.mean(1),
        x.sum(-1),
        x.sum((1, 2)),
        x.amax(-1),
        x.amin(1),
        x.prod(-1),
        x.norm(1, -1),
        x.norm(2, -1),
        x.mean(-1, keepdim=True) - x,
    )


def norms(parts, x):
    return ends(parts["layer"](x), parts["batch"](x), x.softmax(1), x.softmax(2), x.log_softmax(1), x.log_softmax(-1))


def pools(_, x):
    return ends(
        F.max_pool1d(x, 3),
        F.max_pool1d(x, 2, 1, 1),
        F.avg_pool1d(x, 2),
        F.avg_pool1d(x, 3, 2, 1),
        F.adaptive_avg_pool1d(x, 1),
        F.adaptive_max_pool1d(x, 1),
        F.max_pool2d(x[:, None], 2),
        F.avg_pool2d(x[:, None], (2, 3)),
    )


def convolutions(parts, x):
    return ends(
        parts["plain"](x), parts["strided"](x), parts["dilated"](x), parts["grouped"](x), parts["square"](x[:, None])
    )


def structure(_, x):
    a, b, c = x.split([1, 2, 1], 1)
    return ends(
        a.expand(-1, 3, -1),
        b.transpose(1, 2),
        c.repeat(1, 2, 3),
        x[:, 1:3, ::2],
        x[:, :, -2:],
        F.pad(x, (2, 1)),
        F.pad(x, (1, 2), value=3.0),
        F.pad(x, (2, 3), mode="reflect"),
        F.pad(x, (1, 1), mode="replicate"),
        x.flip(2),
        x[:, [3, 0, 0]],
        x.unsqueeze(2).squeeze(2).flatten(1),
        torch.stack([a, c], -1),
        x.roll(1, 1),
        x.chunk(2, 2)[1],
    )


def main():
    torch.manual_seed(11)
    sequence("activations", activations, torch.randn(1, STEPS, 7) * 2, opset=14)
    sequence("positives", positives, torch.randn(1, STEPS, 5))
    sequence("pairs", pairs, torch.randn(1, STEPS, 5), lin=nn.Linear(5, 4))
    sequence(
        "prelu",
        lambda p, x: ends(p["one"](x), p["each"](x.transpose(1, 2)).transpose(1, 2), keep=2),
        torch.randn(1, STEPS, 3),
        one=nn.PReLU(init=0.4),
        each=nn.PReLU(3),
    )
    frames("reductions", reductions, torch.randn(STEPS, 3, 4))
    layer = nn.LayerNorm(6)
    nn.init.normal_(layer.weight)
    frames("norms", norms, torch.randn(STEPS, 4, 6), opset=17, layer=layer, batch=trained_norm(nn.BatchNorm1d(4)))
    frames(
        "norms_of_plain_ops",
        norms,
        torch.randn(STEPS, 4, 6),
        layer=nn.LayerNorm([4, 6]),
        batch=trained_norm(nn.BatchNorm1d(4)),
    )
    frames("pools", pools, torch.randn(STEPS, 3, 9))
    frames(
        "convolutions",
        convolutions,
        torch.randn(STEPS, 4, 9),
        plain=nn.Conv1d(4, 3, 3, padding=1),
        strided=nn.Conv1d(4, 2, 3, stride=2),
        dilated=nn.Conv1d(4, 2, 3, dilation=2, padding=(2,), bias=False),
        grouped=nn.Conv1d(4, 4, 2, groups=2),
        square=nn.Conv2d(1, 2, (2, 3), stride=(1, 2)),
    )
    frames("structure", structure, torch.randn(STEPS, 4, 6))
    frames(
        "products",
        lambda p, x: ends(
            p["q"](x).matmul(p["k"](x).transpose(1, 2)).softmax(-1).matmul(x), x.transpose(1, 2).matmul(x)
        ),
        torch.randn(STEPS, 4, 3),
        q=nn.Linear(3, 5),
        k=nn.Linear(3, 5, bias=False),
    )
    sequence(
        "recurrent",
        lambda p, x: ends(p["lstm"](x)[0], p["gru"](x)[0], p["rnn"](x)[0], keep=2),
        torch.randn(1, STEPS, 4),
        lstm=nn.LSTM(4, 5, 2, batch_first=True),
        gru=nn.GRU(4, 3, batch_first=True),
        rnn=nn.RNN(4, 3, batch_first=True, nonlinearity="relu"),
    )
    sequence(
        "words",
        lambda p, x: p["head"](p["lstm"](p["embed"](x))[0]).log_softmax(-1),
        torch.randint(0, 9, (1, STEPS)),
        embed=nn.Embedding(9, 4),
        lstm=nn.LSTM(4, 5, batch_first=True),
        head=nn.Linear(5, 9),
    )
    sequence(
        "causal",
        lambda p, x: p["b"](F.pad(F.relu(p["a"](F.pad(x, (2, 0)))), (3, 0))),
        torch.randn(1, 3, STEPS * 2),
        time=2,
        a=nn.Conv1d(3, 4, 3),
        b=nn.Conv1d(4, 2, 2, dilation=3, groups=2),
    )
    cells()


def cells():
    """One step of cells whose state the caller carries."""
    parts = {"lstm": nn.LSTMCell(3, 4), "gru": nn.GRUCell(4, 5)}

    def step(p, x, h, c, g):
        h, c = p["lstm"](x, (h, c))
        g = p["gru"](h, g)
        return ends(h, g), h, c, g

    module, x = Graph(step, **parts), torch.randn(STEPS, 1, 3)
    state = [torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 5)]
    folder = export(
        "cells", module, (x[0], *state), ["x", "h_in", "c_in", "g_in"], ["y", "h_out", "c_out", "g_out"], {}, 13
    )
    out = []
    for frame in x:
        y, *state = module(frame, *state)
        out.append(y[0])
    (folder / "model.textproto").write_text(
        "onnx { input { name: 'g_in' state: 'g_out' } }\n"
    )  # it meets no gate as a cell state does
    save(folder, x[:, 0].numpy(), torch.stack(out).detach().numpy())


if __name__ == "__main__":
    main()
