# SPDX-License-Identifier: MIT
"""Readings of a pump with its motor, six channels at one reading a second, with faults that are known.

A load follows set points that change at random, with ramps between; everything else follows the load with its own lag, gain
and noise. Faults are contextual: every reading stays within the range that the channel has in healthy running, and only its
relation to the other channels, or to its own past, is wrong.

    stuck    one channel stays where it is
    bearing  vibration is 1.6 to 2.2 times what the speed explains
    leak     flow is 25 to 40 % below what the pressure explains
    winding  the current is 25 to 40 % above what the load explains
    cooling  the temperature climbs away from what the load explains
"""
import numpy as np

CHANNELS = ["temperature", "pressure", "vibration", "current", "speed", "flow"]
FAULTS = ["stuck", "bearing", "leak", "winding", "cooling"]
TRAIN_SEEDS, VALIDATION_SEED, TEST_SEED = range(100, 160), 1001, 2002


def _load(rng, steps):
    """Set points between 0.3 and 1, held for 20 to 90 steps, reached over 3 to 15."""
    load, level = np.empty(steps), rng.uniform(0.3, 1)
    at = 0
    while at < steps:
        target, ramp, hold = rng.uniform(0.3, 1), int(rng.integers(3, 16)), int(rng.integers(20, 91))
        piece = np.concatenate([np.linspace(level, target, ramp), np.full(hold, target)])
        load[at:at + len(piece)] = piece[: steps - at]
        at, level = at + len(piece), target
    return load


def _lag(x, tau):
    y = np.empty_like(x)
    y[0] = x[0]
    for t in range(1, len(x)):
        y[t] = y[t - 1] + (x[t] - y[t - 1]) / tau
    return y


def generate(seed, steps, fault_every=220):
    """(readings [steps, 6] float32, label of every step [steps] bool, faults [(start, end, kind)])"""
    rng = np.random.default_rng(seed)
    load = _load(rng, steps) + 0.01 * rng.standard_normal(steps)
    speed = 1000 + 2000 * _lag(load, 3)
    pressure = 2 + 6 * _lag((speed / 3000) ** 2, 2)
    flow = 10 * np.sqrt(np.maximum(pressure, 0.1))
    ambient = 20 + 5 * np.sin(2 * np.pi * (np.arange(steps) / 3000 + rng.uniform()))
    temperature = ambient + 45 * _lag(load, 40)
    vibration = 0.4 + 3 * (speed / 3000) ** 2
    current = 5 + 30 * _lag(load, 2)

    labels, faults = np.zeros(steps, dtype=bool), []
    clean = np.stack([temperature, pressure, vibration, current, speed, flow], axis=1)
    noise = np.array([0.3, 0.06, 0.06, 0.35, 8.0, 0.25])
    readings = clean + noise * rng.standard_normal(clean.shape)
    at = int(rng.integers(100, 100 + fault_every))
    while at + 80 < steps:
        kind, length = FAULTS[int(rng.integers(len(FAULTS)))], int(rng.integers(25, 70))
        span = slice(at, at + length)
        if kind == "stuck":
            channel = int(rng.integers(6))
            readings[span, channel] = readings[at, channel]
        elif kind == "bearing":
            readings[span, 2] = 0.4 + (readings[span, 2] - 0.4) * rng.uniform(1.6, 2.2)
        elif kind == "leak":
            readings[span, 5] *= 1 - rng.uniform(0.25, 0.4)
        elif kind == "winding":
            readings[span, 3] *= 1 + rng.uniform(0.25, 0.4)
        else:
            readings[span, 0] += np.minimum(np.arange(length) * rng.uniform(0.8, 1.5), 25)
        labels[span] = True
        faults.append((at, at + length, kind))
        at += length + int(rng.integers(60, 60 + fault_every))
    low, high = clean.min(axis=0), clean.max(axis=0)
    margin = 0.1 * (high - low)
    return np.clip(readings, low - margin, high + margin).astype(np.float32), labels, faults


def f1(flags, labels):
    """Of two rows of booleans, step by step."""
    hit = int((flags & labels).sum())
    return 2 * hit / max(1, int(flags.sum()) + int(labels.sum()))


def best_threshold(score, labels):
    return max(np.quantile(score, np.linspace(0.5, 0.999, 400)), key=lambda t: f1(score > t, labels))


def baselines(train, readings):
    """A score of every reading by two rules that know nothing of a state."""
    z = np.abs((readings - train.mean(0)) / train.std(0)).max(1)
    change = np.diff(train, axis=0).std(0)
    last = np.abs(np.diff(readings, axis=0, prepend=readings[:1]) / change).max(1)
    return {"z-score": z, "last value": last}
