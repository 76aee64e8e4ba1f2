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


def gates(w, order):
    """The gates' blocks of rows, [4H, ...] or [3H, ...] of order's largest number plus one, in another order."""
    blocks = w.chunk(max(order) + 1)
    return torch.cat([blocks[g] for g in order])


def cell(module, name, order=None):
    """A weight or a bias of a one-layer module by PyTorch's name, its gates in `order`."""
    w = getattr(module, name + "_l0")
    return w if order is None else gates(w, order)


def lstm_by_hand(module, x, peepholes=None, coupled=False):
    """nn.LSTM's formulas in PyTorch's operators, with what nn.LSTM has not: peepholes [3, H] of i f o, and i = 1 - f."""
    projection = getattr(module, "weight_hr_l0", None)
    h, c = torch.zeros(module.proj_size or module.hidden_size), torch.zeros(module.hidden_size)
    pi, pf, po = torch.zeros(3, module.hidden_size) if peepholes is None else peepholes
    out = []
    for step in x:
        both = module.weight_ih_l0 @ step + module.bias_ih_l0 + module.weight_hh_l0 @ h + module.bias_hh_l0
        i, f, g, o = both.chunk(4)
        f = torch.sigmoid(f + pf * c)
        i = 1 - f if coupled else torch.sigmoid(i + pi * c)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + po * c) * torch.tanh(c)
        h = h if projection is None else projection @ h
        out.append(h)
    return torch.stack(out)


def gru_reset_before(module, x):
    """nn.GRU's weights in the paper's form: the reset gate acts on h, before the product."""
    w, r, b = (m.chunk(3) for m in (module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0 + module.bias_hh_l0))  # r z n
    h, out = torch.zeros(module.hidden_size), []
    for step in x:
        reset, z = (torch.sigmoid(w[k] @ step + r[k] @ h + b[k]) for k in (0, 1))
        h = (1 - z) * torch.tanh(w[2] @ step + r[2] @ (reset * h) + b[2]) + z * h
        out.append(h)
    return torch.stack(out)


def wide(module, scale=2.0):
    """Larger weights than PyTorch's start: gates that open and close."""
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(scale)
    return module


def other_forms():
    """The same cells as other frameworks write them: gate orders, biases, matrices lying the other way; and what only they have."""
    x = torch.randn(50, 7)

    def layer(name, kind, tensors, y, x=x, **options):
        save(name, {f"cell.{k}": v for k, v in tensors.items()}, [f'layer {{ name: "cell" {kind} }}'], x, y, **options)

    lstm, gru, rnn = wide(nn.LSTM(7, 13)), wide(nn.GRU(7, 13)), wide(nn.RNN(7, 13))
    y = run(lstm, x)
    w, r, b, b2 = "weight_ih", "weight_hh", "bias_ih", "bias_hh"
    both = lambda module, order: cell(module, b, order) + cell(module, b2, order)
    ifgo, ijfo, iofg, figo = [0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2], [1, 0, 2, 3]
    layer("lstm_keras", "lstm { convention: KERAS }",
          {"kernel": cell(lstm, w).T, "recurrent_kernel": cell(lstm, r).T, "bias": both(lstm, ifgo)}, y)
    less = both(lstm, ifgo) - torch.cat([torch.zeros(13), torch.ones(13), torch.zeros(26)])
    layer("lstm_tensorflow", "lstm { convention: TENSORFLOW forget_bias: 1 }",
          {"kernel": torch.cat([cell(lstm, w, ijfo), cell(lstm, r, ijfo)], 1).T, "bias": gates(less, ijfo)}, y)
    layer("lstm_iofg", "lstm { gate_order: IOFG }", {f"{n}_l0": cell(lstm, n, iofg) for n in (w, r, b, b2)}, y)
    layer("lstm_figo_one_bias", "lstm { gate_order: FIGO bias: BIAS_ONE }",
          {"weight_ih_l0": cell(lstm, w, figo), "weight_hh_l0": cell(lstm, r, figo), "bias_ih_l0": both(lstm, figo)}, y)
    layer("rnn_keras", "rnn { convention: KERAS }", {"kernel": cell(rnn, w).T, "recurrent_kernel": cell(rnn, r).T, "bias": cell(rnn, b) + cell(rnn, b2)}, run(rnn, x))
    zrn, rzn = [1, 0, 2], [0, 1, 2]
    layer("gru_keras", "gru { convention: KERAS }", {"kernel": cell(gru, w, zrn).T, "recurrent_kernel": cell(gru, r, zrn).T,
                                                     "bias": torch.stack([cell(gru, b, zrn), cell(gru, b2, zrn)])}, run(gru, x))
    before = gru_reset_before(gru, x)
    layer("gru_before", "gru { reset: BEFORE_PRODUCT }", {f"{n}_l0": cell(gru, n) for n in (w, r, b, b2)}, before)
    layer("gru_keras_before", "gru { convention: KERAS reset: BEFORE_PRODUCT }",
          {"kernel": cell(gru, w, zrn).T, "recurrent_kernel": cell(gru, r, zrn).T, "bias": both(gru, zrn)}, before)
    layer("gru_tensorflow", "gru { convention: TENSORFLOW }", {"kernel": torch.cat([cell(gru, w), cell(gru, r)], 1).T, "bias": both(gru, rzn)}, before)
    h0 = torch.randn(1, 1, 13)
    layer("gru_initial_state", "gru { initial_state: TRAINED }", {**{f"{n}_l0": cell(gru, n) for n in (w, r, b, b2)}, "h0_l0": h0[0, 0]},
          gru(x[:, None], h0)[0][:, 0])
    with torch.no_grad():
        cell(gru, b2).zero_()
    layer("gru_zrn_one_bias", "gru { gate_order: ZRN bias: BIAS_ONE }", {f"{n}_l0": cell(gru, n, zrn) for n in (w, r, b)}, run(gru, x))
    for kind, module in ("gru", wide(nn.GRU(7, 13, bias=False))), ("rnn", wide(nn.RNN(7, 13, bias=False))):
        save(f"{kind}_no_bias", named("cell", module), [f'layer {{ name: "cell" {kind} {{ bias: BIAS_NONE }} }}'], x, run(module, x))

    peepholes = torch.randn(3, 13)
    named_peepholes = {f"peephole_{gate}_l0": p for gate, p in zip("ifo", peepholes)}
    all_four = {f"{n}_l0": cell(lstm, n) for n in (w, r, b, b2)}
    layer("lstm_peepholes", "lstm { peepholes: true }", {**all_four, **named_peepholes}, lstm_by_hand(lstm, x, peepholes))
    layer("lstm_coupled", "lstm { coupled: true }", {f"{n}_l0": cell(lstm, n, [1, 2, 3]) for n in (w, r, b, b2)}, lstm_by_hand(lstm, x, coupled=True))
    projected = wide(nn.LSTM(7, 13, proj_size=4))
    layer("lstm_peepholes_projection", "lstm { peepholes: true projection: true }",
          {**{k: v for k, v in projected.state_dict().items()}, **named_peepholes}, lstm_by_hand(projected, x, peepholes))

    # The smallest and the largest size; with a projection to one unit, which keeps the file small.
    for hidden in 1, 513:
        module = wide(nn.LSTM(1, hidden, proj_size=1) if hidden > 1 else nn.LSTM(1, 1))
        one = torch.randn(50, 1)
        layer(f"lstm_{hidden}", f"lstm {{ projection: {str(hidden > 1).lower()} }}", dict(module.state_dict()), run(module, one), x=one)
    for kind, module in ("gru", wide(nn.GRU(1, 16))), ("rnn", wide(nn.RNN(1, 16), 1.5)):
        long_x = torch.randn(10_000, 1)
        layer(f"{kind}_10000_steps", kind + " { }", dict(module.state_dict()), run(module, long_x), x=long_x, stride=100)

    linear, channels, conv = nn.Linear(7, 5), torch.randn(50, 6), nn.Conv1d(6, 12, 3, groups=2)
    layer("linear_keras", "linear { convention: KERAS }", {"kernel": linear.weight.T, "bias": linear.bias}, linear(x))
    layer("conv1d_keras", "conv1d { convention: KERAS groups: 2 }", {"kernel": conv.weight.permute(2, 1, 0), "bias": conv.bias},
          conv(nn.functional.pad(channels.T[None], (2, 0)))[0].T, x=channels)

    far = x.abs() + 0.5
    functions = {"HARD_SIGMOID": ("alpha: 0.5 beta: 0.25", torch.clamp(0.5 * far + 0.25, 0, 1)), "CLIP": ("alpha: 0.75 beta: 1.5", torch.clamp(far, 0.75, 1.5)),
                 "LOG": ("", far.log()), "NEGATE": ("", -far), "SQRT": ("", far.sqrt()), "SQUARE": ("", far.square())}
    layers = [f'layer {{ name: "{f.lower()}" input: "x" activation {{ function: {f} {more} }} }}' for f, (more, _) in functions.items()]
    layers.append('layer { name: "all" ' + " ".join(f'input: "{f.lower()}"' for f in functions) + " concat { } }")
    save("activations_of_positive", {}, layers, far, torch.cat([value for _, value in functions.values()], 1))
    a, b = far, torch.tanh(far) + 0.5
    functions = {"SUBTRACT": a - b, "MULTIPLY": a * b, "DIVIDE": a / b, "MINIMUM": torch.minimum(a, b), "MAXIMUM": torch.maximum(a, b)}
    layers = ['layer { name: "t" activation { function: TANH } }', 'layer { name: "b" affine { offset: 0.5 } }']
    layers += [f'layer {{ name: "{f.lower()}" input: "x" input: "b" elementwise {{ function: {f} }} }}' for f in functions]
    layers.append('layer { name: "all" ' + " ".join(f'input: "{f.lower()}"' for f in functions) + " concat { } }")
    layers.append('layer { name: "rows" reshape { shape: [5, 7] } }')
    save("elementwise", {}, layers, far, torch.cat(list(functions.values()), 1).reshape(-1, 5, 7))


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
    other_forms()


if __name__ == "__main__":
    main()
