#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws docs/french.svg: the loss curves of both networks, and their accuracy by gap, as they came out."""
import json
import pathlib

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLOURS = {"french": "#1f77b4", "french-rnn": "#d62728"}
LABELS = {"french": "LSTM", "french-rnn": "plain RNN"}


def main():
    curves = json.loads((ROOT / "models/train/french_curves.json").read_text())
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, runs in curves.items():
        for i, run in enumerate(runs):
            # A running mean over the last 10 points: single batches jump.
            smooth = [sum(p["answer_loss"] for p in run[max(0, k - 9):k + 1]) / min(10, k + 1) for k in range(len(run))]
            left.plot([p["update"] for p in run], smooth, color=COLOURS[name], linewidth=1, label=LABELS[name] if i == 0 else None)
        quality = json.loads((ROOT / f"models/repository/{name}/1/quality.json").read_text())
        for i, accuracy in enumerate(quality["test_accuracy_by_gap_and_seed"]):
            right.plot([int(g) for g in accuracy], list(accuracy.values()), "o-", color=COLOURS[name], markersize=4, linewidth=1,
                       label=LABELS[name] if i == 0 else None)
    left.set(xlabel="update", ylabel="loss of what can be known", title="Training, three seeds each")
    right.set(xlabel="words between country and language", ylabel="right language", ylim=(-0.03, 1.05), title="Unseen fillers")
    right.axhline(1 / 24, color="grey", linewidth=0.8, linestyle=":", label="chance")
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/french.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
