# SPDX-License-Identifier: MIT
"""RTNeural's JSON: layers as Keras keeps them, or a state dict of PyTorch. The files of AIDA-X and of GuitarML are of
these two forms."""
import numpy as np

from . import pytorch, recurrent
from .errors import Refused, shape_text
from .json_file import array, load, whole
from .network import Network


def _last(value, name):
    return whole(value[-1] if isinstance(value, list) and value else value, name)


def _weights(layer, name, count):
    weights = layer.get("weights")
    if not isinstance(weights, list) or len(weights) not in count:
        raise Refused(
            f"layer '{name}' has {len(weights) if isinstance(weights, list) else 'no'} weights, expected"
            f" {' or '.join(map(str, count))}"
        )
    return [array(w, f"weights[{k}] of layer '{name}'") for k, w in enumerate(weights)] + [None] * (
        max(count) - len(weights)
    )


def _layer(net, name, layer):
    kind, size = layer.get("type"), _last(layer.get("shape"), f"shape of layer '{name}'")
    activation = layer.get("activation", "")
    if kind in ("dense", "time-distributed-dense"):
        kernel, bias = _weights(layer, name, (1, 2))
        net.linear(name, kernel, bias, keras=True)
    elif kind == "conv1d":
        kernel, bias = _weights(layer, name, (1, 2))
        taps, groups = _last(layer.get("kernel_size"), f"kernel_size of layer '{name}'"), _last(
            layer.get("groups", 1), f"groups of layer '{name}'"
        )
        if kernel.ndim != 3 or kernel.shape[0] != taps:
            raise Refused(f"layer '{name}' has a kernel {shape_text(kernel.shape)}, expected [{taps}, in, out]")
        net.conv1d(
            name, kernel, bias, _last(layer.get("dilation", 1), f"dilation of layer '{name}'"), groups, keras=True
        )
    elif kind in ("lstm", "gru"):
        kernel, back, bias = _weights(layer, name, (2, 3))
        if activation not in ("", "tanh"):
            raise Refused(f"layer '{name}' has activation '{activation}', expected tanh")
        after = kind == "gru" and (bias is None or bias.ndim == 2)
        recurrent.keras_cell(net, name, kind, kernel, back, bias, reset_after=after)
        activation = ""
    elif kind == "prelu":
        (alpha,) = _weights(layer, name, (1,))
        net.prelu(name, alpha)
    elif kind == "batchnorm":
        rows = [r.reshape(-1) for r in _weights(layer, name, (2, 4)) if r is not None]
        scale, shift = (rows[0], rows[1]) if len(rows) == 4 else (np.ones(1), np.zeros(1))
        scale = scale / np.sqrt(rows[-1] + float(layer.get("epsilon", 1e-3)))
        net.affine(name, scale, shift - rows[-2] * scale)
    elif kind == "activation":
        pass
    else:
        raise Refused(
            f"layer '{name}' is of type '{kind}', expected dense, time-distributed-dense, conv1d, lstm, gru, prelu,"
            " batchnorm or activation"
        )
    if net.widths[net.last] != size:
        raise Refused(f"layer '{name}' gives {net.widths[net.last]} numbers by its weights, and {size} by its shape")
    net.function(f"{name}.{activation}", activation)


def _gain(file, key):
    value = file.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 200:
        raise Refused(f"{key} is '{value}', expected a number of dB")
    return 10 ** (value / 20)


def from_file(path, net_text=None, description="", **names):
    file = load(path)
    if not isinstance(file, dict):
        raise Refused(f"holds a {type(file).__name__}, expected layers or a state dict")
    if "layers" not in file:
        return _state_dict(file, net_text, description, names)
    net = Network(description or "RTNeural", **names)
    layers, width = file["layers"], _last(file.get("in_shape"), "in_shape")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise Refused("layers is no list of layers")
    net.feed(width)
    skip = file.get("in_skip", 0) or 0
    if skip not in (0, 1):
        raise Refused(f"in_skip is {skip}, expected 0 or 1")
    first = net.input_name
    if (gain := _gain(file, "in_gain")) != 1:
        first = net.affine("in_gain", gain, 0)
    counts = {}
    for layer in layers:
        kind = str(layer.get("type", "layer"))
        counts[kind] = counts.get(kind, 0) + 1
        _layer(net, kind if counts[kind] == 1 else f"{kind}_{counts[kind]}", layer)
    if skip:
        if width != net.widths[net.last]:
            raise Refused(f"in_skip adds an input of {width} numbers to an output of {net.widths[net.last]}")
        net.merge("skip", "ADD", [net.last, first])
    if (gain := _gain(file, "out_gain")) != 1:
        net.affine("out_gain", gain, 0)
    return net


def _state_dict(file, net_text, description, names):
    about = file.get("model_data") if isinstance(file.get("model_data"), dict) else {}
    tensors = file["state_dict"] if isinstance(file.get("state_dict"), dict) else file
    arrays = {name: array(value, f"tensor '{name}'") for name, value in tensors.items()}
    net = pytorch.from_state_dict(arrays, net_text, description=description or "RTNeural", **names)
    skip = about.get("skip", 0) or 0
    if skip not in (0, 1):
        raise Refused(f"model_data.skip is {skip}, expected 0 or 1")
    if skip:
        net.merge("skip", "ADD", [net.last, net.input_name])
    return net
