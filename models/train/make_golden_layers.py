#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Golden data of every layer kind, computed by PyTorch with random weights: tests/data/golden/<case>/.

    python3 models/train/make_golden_layers.py

Each case is a model (safetensors and manifest), an input and the output of every step; long runs keep every 100th output.
"""
import pathlib

import numpy as np
import torch
from torch import nn

import safetensors_io

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "golden"


def save(name, weights, layers, x, y, ids=False, shape=None, stride=1):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    safetensors_io.save(folder / "model.safetensors", {k: v.detach().numpy() for k, v in weights.items()})
    kind = "type: INT32" if ids else f"shape: {shape or x.shape[-1]}"
    (folder / "model.textproto").write_text(f'input {{ name: "x" {kind} }}\n' + "\n".join(layers) + '\noutput { name: "y" }\n')
    np.save(folder / "x.npy", np.ascontiguousarray(x.numpy(), dtype=np.int32 if ids else np.float32))
    np.save(folder / "y.npy", np.ascontiguousarray(y.detach().numpy()[stride - 1::stride], dtype=np.float32))


def named(prefix, module):
    return {f"{prefix}.{k}": v for k, v in module.state_dict().items()}


def run(module, x):
    return module(x[:, None])[0][:, 0]


def wide(module, scale=2.0):
    """Larger weights than PyTorch's start: gates that open and close."""
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(scale)
    return module


def main():
    torch.manual_seed(1)
    torch.set_num_threads(1)
    x = torch.randn(50, 7)
    for name, module, layer in [
        ("lstm", nn.LSTM(7, 13), "lstm { }"),
        ("lstm_no_bias", nn.LSTM(7, 13, bias=False), "lstm { bias: BIAS_NONE }"),
        ("lstm_stack3", nn.LSTM(7, 10, num_layers=3), "lstm { layers: 3 }"),
        ("lstm_projection", nn.LSTM(7, 16, proj_size=5), "lstm { projection: true }"),
        ("lstm_projection_stack", nn.LSTM(7, 16, proj_size=5, num_layers=2), "lstm { projection: true layers: 2 }"),
        ("gru", nn.GRU(7, 13), "gru { }"),
        ("gru_stack2", nn.GRU(7, 9, num_layers=2), "gru { layers: 2 }"),
        ("rnn_tanh", nn.RNN(7, 13), "rnn { }"),
        ("rnn_relu", nn.RNN(7, 13, nonlinearity="relu"), "rnn { nonlinearity: RELU }"),
    ]:
        wide(module, 1.0 if name == "rnn_relu" else 2.0)
        save(name, named("cell", module), [f'layer {{ name: "cell" {layer} }}'], x, run(module, x))

    first, second = wide(nn.LSTM(7, 20)), wide(nn.LSTM(20, 6))
    save("lstm_unequal", {**named("a", first), **named("b", second)},
         ['layer { name: "a" lstm { } }', 'layer { name: "b" lstm { } }'], x, run(second, run(first, x)))

    lstm = wide(nn.LSTM(7, 13))
    h0, c0 = torch.randn(1, 1, 13), torch.randn(1, 1, 13)
    save("lstm_initial_state", {**named("cell", lstm), "cell.h0_l0": h0[0, 0], "cell.c0_l0": c0[0, 0]},
         ['layer { name: "cell" lstm { initial_state: TRAINED } }'], x, lstm(x[:, None], (h0, c0))[0][:, 0])

    long_x, lstm = torch.randn(10_000, 3), wide(nn.LSTM(3, 16))
    save("lstm_10000_steps", named("cell", lstm), ['layer { name: "cell" lstm { } }'], long_x, run(lstm, long_x), stride=100)

    norm = nn.LayerNorm(7)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5), norm.bias.normal_()
    save("layer_norm", named("norm", norm), ['layer { name: "norm" layer_norm { } }'], x, norm(x))

    for name, groups, dilation in [("conv1d", 1, 1), ("conv1d_dilated", 1, 3), ("conv1d_groups", 3, 2), ("conv1d_depthwise", 6, 1)]:
        channels = torch.randn(50, 6)
        conv = nn.Conv1d(6, 12, 3, dilation=dilation, groups=groups)
        padded = nn.functional.pad(channels.T[None], (2 * dilation, 0))
        save(name, named("conv", conv), [f'layer {{ name: "conv" conv1d {{ groups: {groups} dilation: {dilation} }} }}'], channels, conv(padded)[0].T)

    embedding, linear = nn.Embedding(23, 8), nn.Linear(8, 23)
    ids = torch.randint(23, (50,))
    save("embedding_linear_softmax", {**named("e", embedding), **named("l", linear)},
         ['layer { name: "e" embedding { } }', 'layer { name: "l" linear { } }', 'layer { name: "s" softmax { } }'], ids,
         torch.softmax(linear(embedding(ids)), 1), ids=True)
    save("log_softmax", {**named("e", embedding), **named("l", linear)},
         ['layer { name: "e" embedding { } }', 'layer { name: "l" linear { } }', 'layer { name: "s" softmax { log: true } }'], ids,
         torch.log_softmax(linear(embedding(ids)), 1), ids=True)

    lstm, linear = wide(nn.LSTM(7, 7)), nn.Linear(7, 7, bias=False)
    h = run(lstm, x)
    r = h + x
    save("residual_concat", {**named("cell", lstm), **named("l", linear)},
         ['layer { name: "cell" lstm { } }', 'layer { name: "r" input: "cell" input: "x" elementwise { function: ADD } }',
          'layer { name: "l" linear { no_bias: true } }', 'layer { name: "both" input: "l" input: "r" concat { } }',
          'layer { name: "part" slice { begin: 3 end: 11 } }'], x, torch.cat([linear(r), r], 1)[:, 3:11])

    functions = {"RELU": torch.relu, "SIGMOID": torch.sigmoid, "TANH": torch.tanh, "SOFTPLUS": nn.functional.softplus, "ELU": nn.functional.elu,
                 "GELU": nn.functional.gelu, "SILU": nn.functional.silu, "LEAKY_RELU": nn.functional.leaky_relu, "EXP": torch.exp, "ABS": torch.abs}
    layers = [f'layer {{ name: "{f.lower()}" input: "x" activation {{ function: {f} }} }}' for f in functions]
    layers.append('layer { name: "all" ' + " ".join(f'input: "{f.lower()}"' for f in functions) + " concat { } }")
    save("activations", {}, layers, x, torch.cat([f(x) for f in functions.values()], 1))


if __name__ == "__main__":
    main()
