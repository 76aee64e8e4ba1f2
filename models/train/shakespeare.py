#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains `shakespeare`: characters of tinyshakespeare, two LSTM layers.

The last 10 % of the text are held back for the one figure that is reported; --validate measures a setting on the 10 % before
them. Batches are streams that go on where they stopped, so that the state is carried as it is when served.

    python3 models/train/shakespeare.py --text input.txt
"""
import argparse
import json
import math
import os
import pathlib
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

import safetensors_io

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Net(nn.Module):
    def __init__(self, symbols, embedding, hidden, dropout):
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2, dropout=dropout)
        self.output = nn.Linear(hidden, symbols)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for layer in range(2):
                getattr(self.lstm, f"bias_ih_l{layer}")[hidden:2 * hidden] = 1

    def forward(self, x, state=None):
        y, state = self.lstm(self.embedding(x), state)
        return self.output(self.dropout(y)), state


def streams(text, count):
    length = len(text) // count
    return torch.from_numpy(np.stack([text[i * length:(i + 1) * length] for i in range(count)], axis=1))


def bits_per_character(net, text):
    """The text read as 16 long streams, each from the initial state."""
    net.eval()
    data, state, total, count = streams(text, 16), None, 0.0, 0
    with torch.no_grad():
        for t in range(0, len(data) - 1, 256):
            x, y = data[t:t + 256], data[t + 1:t + 257]
            logits, state = net(x[:len(y)], state)
            total += float(nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum"))
            count += y.numel()
    net.train()
    return total / count / math.log(2)


def manifest(symbols):
    def quoted(c):
        return {"\n": "\\n", '"': '\\"', "\\": "\\\\"}.get(c, c)
    lines = ['description: "Two LSTM layers that read Shakespeare character by character and expect the next one."',
             'input { name: "character" type: INT32 uses_vocabulary: true }',
             'layer { name: "embedding" embedding { } }', 'layer { name: "lstm" lstm { layers: 2 } }',
             'layer { name: "output" linear { } }', 'layer { name: "softmax" softmax { } }',
             'output { name: "probability" uses_vocabulary: true }', "vocabulary {", "  unit: CHARACTER"]
    lines += [f'  token: "{quoted(c)}"' for c in symbols] + ["}"]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="tinyshakespeare's input.txt")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--embedding", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--validate", action="store_true", help="train on 80 %, measure on the 10 %% before the last; export nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    raw = pathlib.Path(args.text).read_text()
    symbols = sorted(set(raw))
    text = np.array([symbols.index(c) for c in raw], dtype=np.int64)
    cut = int(len(text) * 0.9)
    train_text, held_back = (text[:int(len(text) * 0.8)], text[int(len(text) * 0.8):cut]) if args.validate else (text[:cut], text[cut:])

    net = Net(len(symbols), args.embedding, args.hidden, args.dropout)
    window = 64
    data = streams(train_text, args.batch)
    updates = args.epochs * ((len(data) - 1) // window)
    optimiser = torch.optim.Adam(net.parameters(), lr=args.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    start, curve, update = time.time(), [], 0
    for epoch in range(args.epochs):
        state, offset = None, int(torch.randint(window, (1,)))  # windows fall elsewhere in every epoch
        for t in range(offset, len(data) - window - 1, window):
            if update >= updates:
                break
            logits, state = net(data[t:t + window], state)
            state = tuple(s.detach() for s in state)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), data[t + 1:t + window + 1].flatten())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            update += 1
            if update % 100 == 0:
                curve.append({"update": update, "training_bits": round(float(loss.detach()) / math.log(2), 3),
                              "seconds": round(time.time() - start)})
        print(f"epoch {epoch + 1}: training {float(loss.detach()) / math.log(2):.3f} bits, {time.time() - start:.0f} s"
              + (f", validation {bits_per_character(net, held_back):.4f}" if args.validate else ""), flush=True)
    bits = bits_per_character(net, held_back)
    quality = {"bits_per_character": round(bits, 4), "on": "10 % before the last" if args.validate else "last 10 %, not used before",
               "parameters": sum(p.numel() for p in net.parameters()), "updates": update, "seconds": round(time.time() - start),
               "settings": {k: v for k, v in vars(args).items() if k not in ("text", "validate")}}
    print(json.dumps(quality), flush=True)
    if args.validate:
        return

    net.eval()
    folder = ROOT / "repository" / "shakespeare" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    safetensors_io.save_module(folder / "model.safetensors", net)
    (folder / "model.textproto").write_text(manifest(symbols))
    (folder / "quality.json").write_text(json.dumps({**quality, "curve": curve}, indent=1) + "\n")
    golden = ROOT / "golden" / "shakespeare"
    golden.mkdir(parents=True, exist_ok=True)
    x = held_back[:300]
    with torch.no_grad():
        probability = torch.softmax(net(torch.from_numpy(x)[:, None])[0][:, 0], 1)
    np.save(golden / "character.npy", x.astype(np.int32))
    np.save(golden / "probability.npy", probability.numpy())


if __name__ == "__main__":
    main()
