#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Exports networks with PyTorch (Debian: python3-torch) and records what they compute: <case>/model.onnx, x.npy, <output>.npy.

Run in this folder; the files are committed, so that tests need no PyTorch. Inputs that come once for a sequence are in `once`."""
import pathlib
import warnings

import numpy as np
import torch
from torch import nn

warnings.filterwarnings("ignore")
torch.manual_seed(7)


class Tagger(nn.Module):  # both directions, batch first, a head for each step
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(torch.relu(self.rnn(x)[0])).softmax(-1)


class Pooled(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.rnn, self.score, self.head, self.how = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 1), nn.Linear(4, 2), how

    def forward(self, x):
        y = self.rnn(x)[0]
        if self.how == "mean":
            return self.head(y.mean(1))
        if self.how == "max":
            return self.head(y.amax(1))
        share = self.score(y).softmax(1)
        return self.head(torch.bmm(share.transpose(1, 2), y)[:, 0] if self.how == "bmm" else (share * y).sum(1))


class Conv(nn.Module):  # a convolution that reaches ahead, then both directions
    def __init__(self):
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(3, 4, 5, padding=2), nn.RNN(4, 3, bidirectional=True, nonlinearity="relu")

    def forward(self, x):  # [T, N, 3]
        return self.rnn(torch.tanh(self.conv(x.permute(1, 2, 0))).permute(2, 0, 1))[0]


class Translator(nn.Module):  # a decoder that begins where the encoder ends
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.head = nn.LSTM(3, 4, bidirectional=True), nn.LSTM(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        _, (h, c) = self.encoder(x)
        return self.head(self.decoder(x, (torch.cat([h[0], h[1]], -1)[None], torch.cat([c[0], c[1]], -1)[None]))[0])


class Flipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.there, self.back = nn.GRU(3, 4), nn.GRU(3, 4)

    def forward(self, x):
        return torch.cat([self.there(x)[0], self.back(x.flip(0))[0].flip(0)], -1)


class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, bidirectional=True)

    def forward(self, x, lens):
        y, (h, _) = self.rnn(nn.utils.rnn.pack_padded_sequence(x, lens))
        return nn.utils.rnn.pad_packed_sequence(y)[0], h


class Flat(nn.Module):  # a head over all steps as one matrix
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0].reshape(-1, 8)).reshape(x.shape[0], x.shape[1], 2)


class Fewer(nn.Module):  # strides and pools without padding: fewer frames than steps
    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(3, 4, 3, stride=2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2, stride=1))
        self.rnn, self.head = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.rnn(self.front(x.transpose(1, 2)).transpose(1, 2))[0])


class Asking(nn.Module):  # the last step asks all of them
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        y, (h, _) = self.rnn(x)
        share = torch.softmax(torch.bmm(y, h[-1].unsqueeze(2)), 1)
        return (share * y).sum(1)


class Words(nn.Module):  # ids, both directions, a mean
    def __init__(self):
        super().__init__()
        self.table, self.rnn, self.head = nn.Embedding(11, 3), nn.GRU(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 2)

    def forward(self, x):
        return torch.softmax(self.head(self.rnn(self.table(x))[0].mean(1)), -1)


class Sorted(nn.Module):  # lengths in any order, which PyTorch sorts in the graph
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True, bidirectional=True)

    def forward(self, x, lens):
        _, (h, _) = self.rnn(nn.utils.rnn.pack_padded_sequence(x, lens, batch_first=True, enforce_sorted=False))
        return torch.cat([h[0], h[1]], -1)


class Masked(nn.Module):  # a mean of the steps that a mask leaves; the first is not among them
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, mask):
        y = self.rnn(x)[0].masked_fill(~mask.unsqueeze(-1), 0)
        return y.sum(1) / mask.float().sum(1, keepdim=True)


class Again(nn.Module):  # an encoder's end, read once for each step by a decoder
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.head = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        end = self.encoder(x)[1][0][-1]
        return self.head(self.decoder(end.unsqueeze(1).repeat(1, x.shape[1], 1))[0])


class Cell(nn.Module):  # one step, its state carried by the caller: exported in parts
    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = getattr(nn, kind)(3, 4), nn.Linear(4, 2)

    def forward(self, x, h, *c):
        out = self.cell(x, (h, c[0]) if c else h)
        return (self.head(out[0]), *out) if c else (self.head(out), out)


def save(name, array):
    np.save(name, array.detach().numpy().astype(np.int32 if array.dtype == torch.int64 else np.float32))


def sequence(name, net, outputs, opset, batch_first=False, lens=None, fixed_batch=0):
    path = pathlib.Path(name)
    path.mkdir(exist_ok=True)
    net.eval()
    steps = 7
    x = torch.randn(1, steps, 3) if batch_first else torch.randn(steps, 1, 3)
    args, names = (x,), ["x"]
    axes = {"x": {0: "N", 1: "T"} if batch_first else {0: "T", 1: "N"}}
    if lens is not None:
        args, names, axes["lens"] = (x, torch.tensor([lens])), ["x", "lens"], {0: "N"}
    # Exported with another length than it is tried with.
    other = (torch.randn(1, 4, 3) if batch_first else torch.randn(4, 1, 3), *(torch.tensor([3]) for _ in args[1:]))
    if fixed_batch:  # every size written into the graph
        other, axes = (torch.randn(fixed_batch, steps, 3) if batch_first else torch.randn(steps, fixed_batch, 3),), None
    torch.onnx.export(net, other, str(path / "model.onnx"), input_names=names, output_names=outputs, dynamic_axes=axes, opset_version=opset)
    y = net(*args)
    save(path / "x.npy", x.reshape(steps, 3))
    for output, value in zip(outputs, y if isinstance(y, tuple) else (y,)):
        if value.ndim >= 3 and output == "y":
            value = value.reshape(-1, value.shape[-1])
        if lens is not None and output == "y":
            value = torch.cat([value, torch.zeros(steps - value.shape[0], value.shape[1])])
        save(path / f"{output}.npy", value)
    if lens is not None:
        save(path / "lens.npy", torch.tensor([lens]))


def more(name, net, args, other, outputs, opset, fixed=False):
    """Inputs x and one more, [1, T, ...] each or once; `other`: what it is exported with."""
    path = pathlib.Path(name)
    path.mkdir(exist_ok=True)
    net.eval()
    names = ["x", "lens" if args[-1].ndim == 1 else "mask"][: len(args)]
    axes = None if fixed else {n: {0: "N", 1: "T"} if a.ndim > 1 else {0: "N"} for n, a in zip(names, args)}
    torch.onnx.export(net, other, str(path / "model.onnx"), input_names=names, output_names=outputs, dynamic_axes=axes, opset_version=opset)
    y = net(*args)
    for n, a in zip(names, args):
        a = a.to(torch.float32) if a.dtype == torch.bool else a
        save(path / f"{n}.npy", a.reshape(a.shape[1], -1) if a.ndim > 1 else a)
    save(path / "y.npy", y.reshape(-1, y.shape[-1]))


def steps(name, net, states, opset):
    path = pathlib.Path(name)
    path.mkdir(exist_ok=True)
    net.eval()
    names = ["h", "c"][:states]
    state = [torch.zeros(1, 4) for _ in names]
    torch.onnx.export(net, (torch.randn(1, 3), *state), str(path / "model.onnx"), input_names=["x", *[n + "_in" for n in names]],
                      output_names=["y", *[n + "_out" for n in names]], opset_version=opset)
    x, out = torch.randn(9, 3), []
    for row in x:
        y, *state = net(row[None], *state)
        out.append(y[0])
    save(path / "x.npy", x)
    save(path / "y.npy", torch.stack(out))


if __name__ == "__main__":
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 4, num_layers=2, bidirectional=True)

        def forward(self, x):
            y, (h, c) = self.rnn(x)
            return y, h, c

    sequence("lstm_both_ways", Stack(), ["y", "h", "c"], 14)
    sequence("gru_tagger", Tagger(), ["y"], 13, batch_first=True)
    for how in ("mean", "max", "sum", "bmm"):
        sequence(f"lstm_pooled_{how}", Pooled(how), ["y"], 12 if how == "sum" else 15, batch_first=True)
    sequence("conv_rnn_both_ways", Conv(), ["y"], 11)
    sequence("translator", Translator(), ["y"], 16)
    sequence("gru_flipped", Flipped(), ["y"], 13)
    sequence("lstm_lengths", Lengths(), ["y", "h"], 14, lens=5)
    steps("lstm_cell", Cell("LSTMCell"), 2, 13)
    steps("gru_cell", Cell("GRUCell"), 1, 13)
    steps("rnn_cell", Cell("RNNCell"), 1, 11)
    sequence("fixed_tagger", Tagger(), ["y"], 13, batch_first=True, fixed_batch=2)
    sequence("fixed_flat", Flat(), ["y"], 13, batch_first=True, fixed_batch=1)
    sequence("fixed_conv", Conv(), ["y"], 13, fixed_batch=3)
    more("fewer_frames", Fewer(), (torch.randn(1, 14, 3),), (torch.randn(1, 9, 3),), ["y"], 13)
    more("last_asks", Asking(), (torch.randn(1, 7, 3),), (torch.randn(1, 5, 3),), ["y"], 13)
    more("words_both_ways", Words(), (torch.randint(0, 11, (1, 9)),), (torch.randint(0, 11, (1, 4)),), ["y"], 14)
    more("lstm_sorted", Sorted(), (torch.randn(1, 7, 3), torch.tensor([5])), (torch.randn(2, 4, 3), torch.tensor([2, 4])), ["y"], 14)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 0]]) != 0
    more("masked_mean", Masked(), (torch.randn(1, 7, 3), mask), (torch.randn(1, 4, 3), torch.tensor([[1, 1, 0, 1]]) != 0), ["y"], 13)
    sequence("autoencoder", Again(), ["y"], 13, batch_first=True)
    sequence("fixed_autoencoder", Again(), ["y"], 13, batch_first=True, fixed_batch=1)
    ids = torch.randint(0, 11, (1, 9))
    more("fixed_words", Words(), (ids,), (ids,), ["y"], 13, fixed=True)
