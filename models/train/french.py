#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains `french` (LSTM) and `french-rnn` (plain tanh RNN of the same size) alike, and measures both by gap.

Both get the same sentences, loss, optimiser, number of updates and curriculum; four learning rates are tried with one
seed, the best runs with three seeds. The seed with the best validation is exported.

    python3 models/train/french.py            # everything, about 25 minutes on one core
    python3 models/train/french.py --quick    # one LSTM, a minute: to try the script
"""
import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

import french_data as data
import safetensors_io

ROOT = pathlib.Path(__file__).resolve().parents[1]
GAPS = [5, 20, 50, 100, 200]
RATES = [1e-3, 2e-3, 4e-3, 8e-3]
EMBEDDING, HIDDEN_LSTM = 32, 64
LONGEST_TRAINED = 100


class Net(nn.Module):
    def __init__(self, kind, hidden):
        super().__init__()
        self.embedding = nn.Embedding(len(data.VOCABULARY), EMBEDDING)
        self.cell = (nn.LSTM if kind == "lstm" else nn.RNN)(EMBEDDING, hidden)
        self.output = nn.Linear(hidden, len(data.VOCABULARY))
        if kind == "lstm":  # chrono start: forget gates that remember from 1 to twice the longest gap
            with torch.no_grad():
                bias = torch.log(torch.empty(hidden).uniform_(1, 2 * LONGEST_TRAINED))
                self.cell.bias_ih_l0[hidden:2 * hidden] = bias
                self.cell.bias_ih_l0[:hidden] = -bias
                self.cell.bias_hh_l0[: 2 * hidden] = 0

    def forward(self, x):
        return self.output(self.cell(self.embedding(x))[0])


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def rnn_hidden():
    """The hidden size that gives the RNN the LSTM's parameter count."""
    target = parameters(Net("lstm", HIDDEN_LSTM))
    return min(range(32, 512), key=lambda h: abs(parameters(Net("rnn", h)) - target))


def accuracy(net, gap, count, seed, test=True):
    rng = np.random.default_rng(seed)
    right = 0
    with torch.no_grad():
        for _ in range(count // 64):
            stories = [data.story(rng, gap, test) for _ in range(64)]
            length = max(len(words) for words, _ in stories)
            x = np.zeros((length, 64), dtype=np.int64)
            for n, (words, _) in enumerate(stories):
                x[: len(words), n] = words
            logits = net(torch.from_numpy(x))
            last = logits[[len(words) - 1 for words, _ in stories], range(64)]
            right += int((last.argmax(1).numpy() == [answer for _, answer in stories]).sum())
    return right / (count // 64 * 64)


def train(kind, hidden, rate, seed, updates):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = Net(kind, hidden)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates, rate / 20)
    curve, start, reach = [], time.time(), 5
    running = None
    for update in range(updates):
        # The curriculum of both networks: gaps up to `reach`, which grows by 1.3 whenever its answers come out right.
        x, weight, answers = (torch.from_numpy(a) for a in data.batch(rng, 32, int(rng.integers(5, reach + 1))))
        logits = net(x[:-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), x[1:].flatten(), reduction="none").view_as(weight)
        answer_loss = (loss * answers).sum() / answers.sum()
        total = answer_loss + 0.2 * (loss * weight).sum() / weight.sum()
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        value = float(answer_loss.detach())
        running = value if running is None else 0.95 * running + 0.05 * value
        if running < 0.15 and reach < LONGEST_TRAINED:
            reach, running = min(LONGEST_TRAINED, int(reach * 1.3) + 1), 0.5
        if update % 25 == 0:
            curve.append({"update": update, "answer_loss": round(value, 4), "loss": round(float(total.detach()), 4), "reach": reach})
    validation = float(np.mean([accuracy(net, gap, 256, 10_000 + gap, test=False) for gap in (5, 20, 100)]))
    print(f"{kind} hidden {hidden} rate {rate:g} seed {seed}: validation {validation:.3f}, reach {reach}, "
          f"{time.time() - start:.0f} s", flush=True)
    return net, curve, validation, time.time() - start


def manifest(kind, hidden):
    cell = "lstm { }" if kind == "lstm" else "rnn { }"
    name = "An LSTM" if kind == "lstm" else "A plain tanh RNN"
    lines = [f'description: "{name} of {hidden} units that reads word by word; after \\"i speak fluent\\" it names the language of the '
             'country it grew up in."',
             'input { name: "word" type: INT32 uses_vocabulary: true }',
             'layer { name: "embedding" embedding { } }', f'layer {{ name: "cell" {cell} }}',
             'layer { name: "output" linear { } }', 'layer { name: "softmax" softmax { } }',
             'output { name: "probability" uses_vocabulary: true }', "vocabulary {", "  unit: WORD", "  unknown: 0"]
    lines += [f'  token: "{word}"' for word in data.VOCABULARY] + ["}"]
    return "\n".join(lines) + "\n"


def export(name, kind, hidden, net, quality):
    folder = ROOT / "repository" / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    safetensors_io.save_module(folder / "model.safetensors", net)
    (folder / "model.textproto").write_text(manifest(kind, hidden))
    (folder / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    golden = ROOT / "golden" / name
    golden.mkdir(parents=True, exist_ok=True)
    words, _ = data.story(np.random.default_rng(7), 100, test=True, country="france")
    with torch.no_grad():
        probability = torch.softmax(net(torch.tensor(words)[:, None])[:, 0], 1)
    np.save(golden / "word.npy", np.asarray(words, dtype=np.int32))
    np.save(golden / "probability.npy", probability.numpy())


def short_range(net):
    out = {}
    for start, end in data.SHORT:
        words = data.ids(f"i grew up in spain . {start}")
        with torch.no_grad():
            out[start] = data.VOCABULARY[int(net(torch.tensor(words)[:, None])[-1, 0].argmax())]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--updates", type=int, default=8000)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = {}
    for name, kind, hidden in (("french", "lstm", HIDDEN_LSTM), ("french-rnn", "rnn", rnn_hidden())):
        if args.quick and kind == "rnn":
            break
        rates = [4e-3] if args.quick else RATES
        tried = {rate: train(kind, hidden, rate, 1, args.updates) for rate in rates}
        best = max(rates, key=lambda rate: tried[rate][2])
        runs = [tried[best]] + [train(kind, hidden, best, seed, args.updates) for seed in range(2, 1 if args.quick else args.seeds + 1)]
        by_seed = [{str(gap): accuracy(run[0], gap, 1024, gap) for gap in GAPS} for run in runs]
        chosen = max(range(len(runs)), key=lambda i: runs[i][2])
        quality = {"parameters": parameters(runs[0][0]), "hidden": hidden, "updates": args.updates, "rate": best,
                   "validation_by_rate": {f"{r:g}": tried[r][2] for r in rates},
                   "test_accuracy_by_gap_and_seed": by_seed, "exported_seed": chosen + 1,
                   "seconds_per_run": round(float(np.mean([run[3] for run in runs])), 1),
                   "short_range": short_range(runs[chosen][0])}
        print(name, json.dumps(quality), flush=True)
        export(name, kind, hidden, runs[chosen][0], quality)
        study[name] = [run[1] for run in runs]
    if not args.quick:
        (ROOT / "train" / "french_curves.json").write_text(json.dumps(study) + "\n")


if __name__ == "__main__":
    main()
