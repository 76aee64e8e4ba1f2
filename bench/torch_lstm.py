#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyTorch's LSTM cell, one step of B rows: microseconds of this thread's CPU, a JSON object a line."""
import json
import statistics
import sys
import time

import torch

QUICK = "--quick" in sys.argv[1:]
torch.set_num_threads(1)
torch.set_grad_enabled(False)


def measure(step, samples):
    step()
    begin = time.thread_time()
    step()
    repeats = max(1, int(2e-3 / max(1e-7, time.thread_time() - begin)))
    out = []
    for _ in range(samples):
        begin = time.thread_time()
        for _ in range(repeats):
            step()
        out.append((time.thread_time() - begin) / repeats)
    return statistics.median(out) * 1e6


for hidden in (64, 128, 256, 512, 1024, 2048):
    lstm = torch.nn.LSTM(hidden, hidden)
    for batch in (1, 4, 8, 16, 64):
        x, h, c = (torch.randn(1, batch, hidden) for _ in range(3))
        us = measure(lambda: lstm(x, (h, c)), 3 if QUICK else 15)
        print(json.dumps({"row": "peer", "peer": "torch", "version": torch.__version__, "h": hidden, "b": batch, "peer_us": us}), flush=True)
