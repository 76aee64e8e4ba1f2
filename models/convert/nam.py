# SPDX-License-Identifier: MIT
"""Neural Amp Modeler: .nam files of LSTMs. Gates i f g o, rows over columns of x and h, a trained initial state, a
linear head."""
import numpy as np

from . import recurrent
from .errors import Refused
from .json_file import array, load, whole
from .network import Network


def from_file(path, description="", **names):
    file = load(path)
    if not isinstance(file, dict) or file.get("architecture") != "LSTM":
        found = file.get("architecture") if isinstance(file, dict) else type(file).__name__
        raise Refused(
            f"architecture is '{found}', expected 'LSTM': the others have no state that a step could carry on"
        )
    config = file.get("config") if isinstance(file.get("config"), dict) else {}
    width, hidden, layers = (
        whole(config.get(k, 1 if k == "input_size" else None), f"config.{k}")
        for k in ("input_size", "hidden_size", "num_layers")
    )
    outputs = whole(config.get("out_channels", config.get("output_size", 1)), "config.out_channels")
    weights = array(file.get("weights"), "weights")
    sizes = [(4 * hidden) * ((width if k == 0 else hidden) + hidden + 1) + 2 * hidden for k in range(min(layers, 64))]
    if layers > 64 or weights.ndim != 1 or weights.size != sum(sizes) + outputs * (hidden + 1):
        raise Refused(
            f"weights are {weights.size} numbers, expected {sum(sizes) + outputs * (hidden + 1)} for {layers} layers of"
            f" {hidden} and {width} inputs"
        )
    at = 0

    def take(*shape):
        nonlocal at
        count = int(np.prod(shape))
        at += count
        return weights[at - count : at].reshape(shape)

    cells = []
    for k in range(layers):
        inputs = width if k == 0 else hidden
        both = take(4 * hidden, inputs + hidden)
        cells.append(
            {
                "weight_ih": both[:, :inputs],
                "weight_hh": both[:, inputs:],
                "bias_ih": take(4 * hidden),
                "h0": take(hidden),
                "c0": take(hidden),
            }
        )
    rate = file.get("sample_rate")
    about = description or "Neural Amp Modeler" + (
        f", {rate:g} Hz" if isinstance(rate, (int, float)) and not isinstance(rate, bool) else ""
    )
    net = Network(about, **names)
    recurrent.pytorch_stack(net, "lstm", cells, trained=True)
    net.linear("head", take(outputs, hidden), take(outputs))
    return net
