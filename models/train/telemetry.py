#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains `telemetry`: forecasts the next reading of every channel with three quantiles, and scores each reading as a fault.

    python3 models/train/telemetry.py      # about ten minutes on one core

Detection is scored step by step: a step is flagged where the score is above 0.5; F1 over all steps of a seed that was not
used before. Two baselines are tuned on the validation seed for their best F1: the largest z-score over the channels, and
the largest change from the last value in units of its usual size. Events are counted beside it: a fault counts as found
when it is flagged at all, a false alarm is a run of flagged steps that meets no fault.
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

import safetensors_io
import telemetry_data as data
from telemetry_data import TEST_SEED, TRAIN_SEEDS, VALIDATION_SEED, baselines, best_threshold, f1

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUANTILES = [0.05, 0.5, 0.95]
SAMPLE_SEED = 3003
C = len(data.CHANNELS)


class Net(nn.Module):
    def __init__(self, hidden, mean, scale):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        # Each reading beside its change since the last one, which is small beside the readings: a value that stands still
        # shows there alone.
        self.change = nn.Conv1d(C, 3 * C, 2)
        with torch.no_grad():
            self.change.weight.mul_(0.5)
            for c in range(C):
                self.change.weight[c, c, 1] = 1
                self.change.weight[C + c, c] = torch.tensor([-10.0, 10.0])
        self.lstm = nn.LSTM(3 * C, hidden, num_layers=2)
        self.forecast = nn.Linear(hidden, C * len(QUANTILES))
        self.score = nn.Linear(hidden, 1)

    def forward(self, x, state=None):
        x = (x - self.mean) / self.scale
        last, state = state or (torch.zeros_like(x[:1]), None)
        both = torch.cat([last, x]).permute(1, 2, 0)  # [N, C, 1 + T]
        h, state = self.lstm(self.change(both).permute(2, 0, 1), state)
        return self.forecast(h), self.score(h)[..., 0], (x[-1:], state)


def events(flags, faults):
    found = sum(bool(flags[a:b].any()) for a, b, _ in faults)
    covered = np.zeros(len(flags), dtype=bool)
    for a, b, _ in faults:
        covered[a:b + 5] = True  # the state needs a moment to believe that it is over
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    false = sum(not covered[a:b].any() for a, b in zip(edges[::2], edges[1::2]))
    return found, len(faults), false


def run(net, readings):
    with torch.no_grad():
        forecast, logit, _ = net(torch.from_numpy(readings)[:, None])
    return forecast[:, 0].numpy(), torch.sigmoid(logit[:, 0]).numpy()


def manifest(mean, scale):
    labels = " ".join(f'labels: "{c}"' for c in data.CHANNELS)
    quantiles = " ".join(f'labels: "{c} {int(q * 100)} %"' for c in data.CHANNELS for q in QUANTILES)
    numbers = lambda v: ", ".join(f"{float(x):.9g}" for x in v)
    spread = [float(s) for s in scale for _ in QUANTILES]
    centre = [float(m) for m in mean for _ in QUANTILES]
    return f'''description: "Two LSTM layers that watch six channels of a pump, forecast the next reading, and score each one as a fault."
input {{ name: "reading" shape: {C} {labels} mean: [{numbers(mean)}] scale: [{numbers(scale)}] }}
layer {{ name: "change" conv1d {{ }} }}
layer {{ name: "lstm" lstm {{ layers: 2 }} }}
layer {{ name: "score" linear {{ }} }}
layer {{ name: "sigmoid" activation {{ function: SIGMOID }} }}
layer {{ name: "forecast" input: "lstm" linear {{ }} }}
layer {{ name: "unscaled" affine {{ scale: [{numbers(spread)}] offset: [{numbers(centre)}] }} }}
output {{ name: "anomaly" value: "sigmoid" }}
output {{ name: "forecast" value: "unscaled" {quantiles} }}
'''


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--hidden", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    runs = [data.generate(seed, 6000) for seed in TRAIN_SEEDS]
    everything = np.concatenate([r[0] for r in runs])
    net = Net(args.hidden, torch.from_numpy(everything.mean(0)), torch.from_numpy(everything.std(0)))
    optimiser = torch.optim.Adam(net.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.updates)
    quantiles = torch.tensor(QUANTILES)
    window, batch, start, curve = 128, 32, time.time(), []
    states, at = None, 0
    order = None
    for update in range(args.updates):
        if states is None or at + window + 1 >= 6000:
            order, at, states = rng.choice(len(runs), batch, replace=True), int(rng.integers(0, window)), None
            x_all = np.stack([runs[i][0] for i in order], axis=1)
            y_all = np.stack([runs[i][1] for i in order], axis=1)
        x = torch.from_numpy(x_all[at:at + window])
        target = torch.from_numpy(x_all[at + 1:at + window + 1])
        label = torch.from_numpy(y_all[at:at + window].astype(np.float32))
        forecast, logit, states = net(x, states)
        states = (states[0], tuple(s.detach() for s in states[1]))
        error = ((target - net.mean) / net.scale)[..., None] - forecast.view(window, batch, C, len(QUANTILES))
        pinball = torch.maximum(quantiles * error, (quantiles - 1) * error).mean()
        detection = nn.functional.binary_cross_entropy_with_logits(logit, label)
        loss = pinball + detection
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        at += window
        if (update + 1) % 250 == 0:
            readings, labels, _ = data.generate(VALIDATION_SEED, 20_000)
            _, score = run(net, readings)
            curve.append({"update": update + 1, "pinball": round(float(pinball.detach()), 4), "detection": round(float(detection.detach()), 4), "validation_f1": round(f1(score > 0.5, labels), 4)})
            print(curve[-1], f"{time.time() - start:.0f} s", flush=True)

    validation, validation_labels, _ = data.generate(VALIDATION_SEED, 20_000)
    readings, labels, faults = data.generate(TEST_SEED, 20_000)
    forecast, score = run(net, readings)
    mean, scale = net.mean.numpy(), net.scale.numpy()
    normal = ~labels[1:] & ~labels[:-1]
    truth = (readings[1:] - mean) / scale
    low, _, high = (forecast[:-1].reshape(-1, C, 3)[:, :, k] for k in range(3))
    found, count, false = events(score > 0.5, faults)
    quality = {"f1_by_step": round(f1(score > 0.5, labels), 4), "faults_found": f"{found} of {count}", "false_alarms": false, "steps": len(readings),
               "coverage_of_90_percent_interval": round(float(((truth > low) & (truth < high))[normal].mean()), 4),
               "parameters": sum(p.numel() for p in net.parameters()), "updates": args.updates, "seconds": round(time.time() - start), "curve": curve}
    tuned = baselines(everything, validation)
    for name, values in baselines(everything, readings).items():
        quality[f"f1_by_step_{name}"] = round(f1(values > best_threshold(tuned[name], validation_labels), labels), 4)
    print(json.dumps({k: v for k, v in quality.items() if k != "curve"}), flush=True)

    folder = ROOT / "repository" / "telemetry" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().numpy() for k, v in net.state_dict().items() if k not in ("mean", "scale")}
    safetensors_io.save(folder / "model.safetensors", tensors)
    (folder / "model.textproto").write_text(manifest(mean, scale))
    (folder / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    golden = ROOT / "golden" / "telemetry"
    golden.mkdir(parents=True, exist_ok=True)
    np.save(golden / "reading.npy", readings[:300])
    np.save(golden / "anomaly.npy", score[:300, None])
    np.save(golden / "forecast.npy", (forecast[:300].reshape(-1, C, 3) * scale[:, None] + mean[:, None]).reshape(-1, C * 3).astype(np.float32))
    samples = ROOT / "samples"
    samples.mkdir(exist_ok=True)
    readings, _, faults = data.generate(SAMPLE_SEED, 2000)
    with open(samples / "telemetry.csv", "w") as out:
        out.write(",".join(data.CHANNELS) + "\n")
        out.writelines(",".join(f"{v:.5g}" for v in row) + "\n" for row in readings)
    with open(samples / "telemetry_faults.csv", "w") as out:
        out.write("start,end,kind\n")
        out.writelines(f"{a},{b},{kind}\n" for a, b, kind in faults)


if __name__ == "__main__":
    main()
