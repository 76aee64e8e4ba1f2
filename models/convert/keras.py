# SPDX-License-Identifier: MIT
"""Keras models, Sequential and Functional: each layer's configuration says what its weights are."""
import os
import resource
import signal

import numpy as np

from . import keras_file, recurrent
from .errors import Refused, expect
from .network import Network, function_fields

SKIPPED = ("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization")
MERGES = {
    "Add": "ADD",
    "Subtract": "SUBTRACT",
    "Multiply": "MULTIPLY",
    "Maximum": "MAXIMUM",
    "Minimum": "MINIMUM",
    "Concatenate": "CONCAT",
}
PLAIN = (
    "Dense Embedding Conv1D LayerNormalization BatchNormalization Activation ReLU LeakyReLU ELU Softmax TimeDistributed"
).split()
CELLS = {"LSTM": "lstm", "CuDNNLSTM": "lstm", "GRU": "gru", "CuDNNGRU": "gru", "SimpleRNN": "rnn"}


def _function(value):
    """The name of an activation: Keras 3 may write an object where a name was."""
    if isinstance(value, dict):
        value = (
            value.get("config")
            if isinstance(value.get("config"), str)
            else value.get("class_name", value.get("registered_name"))
        )
    return value


def _exactly(weights, name, counts):
    if len(weights) not in counts:
        raise Refused(f"layer '{name}' has {len(weights)} weights, expected {' or '.join(map(str, counts))}")
    return list(weights) + [None] * (max(counts) - len(weights))


def _meaning(net, name, function):
    """Keras' own meanings, (function, alpha, beta): hard_sigmoid was 0.2 x + 0.5 before Keras 3 and x / 6 + 0.5 since."""
    if function == "hard_sigmoid":
        return (function, 1 / 6, 0.5) if net.keras3 else (function, 0.2, 0.5)
    if function == "gelu":
        net.note(f"'{name}': gelu is taken as the exact one, by erf")
    if function == "relu6":
        return "clip", 0, 6
    if function == "leaky_relu":
        return function, 0.2, None
    return function, None, None


def _activate(net, name, config, key="activation"):
    function = _function(config.get(key))
    return net.function(f"{name}.{function}", *_meaning(net, name, function))


def _cell(net, name, kind, config, weights, reads):
    family = CELLS[kind]
    for key, why in (
        ("go_backwards", "it reads a sequence from its end, which cannot be streamed"),
        ("return_state", "it gives its state as an output"),
    ):
        if config.get(key):
            raise Refused(f"layer '{name}': {key} is set: {why}")
    cudnn = kind.startswith("CuDNN")
    activation, inner = _function(config.get("activation", "tanh")), _function(
        config.get("recurrent_activation", "sigmoid")
    )
    varied = {}
    for key, function, usual in (("recurrent_activation", inner, "sigmoid"), ("activation", activation, "tanh")):
        plain_rnn = family == "rnn" and (key == "recurrent_activation" or function == "relu")
        if not cudnn and not plain_rnn and function != usual:
            varied[key] = function_fields(name, *_meaning(net, name, function))
    kernel, back, bias = _exactly(weights, name, (3,) if config.get("use_bias", True) else (2, 3))
    gates = recurrent.GATES[family]
    expect(back, f"{name}/recurrent_kernel", (None, None))
    hidden = back.shape[0]
    if cudnn or (bias is not None and bias.ndim == 1 and bias.size == 2 * gates * hidden):
        expect(kernel, f"{name}/kernel", (None, gates * hidden))
        expect(back, f"{name}/recurrent_kernel", (hidden, gates * hidden))
        expect(bias, f"{name}/bias", (2 * gates * hidden,))
        kernel, back, bias = recurrent.from_cudnn(family, kernel, back, bias)
        after = True
    else:
        after = config.get("reset_after", bias is not None and bias.ndim == 2)
    if not config.get("return_sequences", False):
        net.note(
            f"'{name}' gives its last step alone: the server answers each step with what it would be if it were the"
            " last"
        )
    recurrent.keras_cell(
        net, name, family, kernel, back, bias, reset_after=bool(after), relu=family == "rnn" and activation == "relu", reads=reads, varied=varied
    )


def _layer(net, name, kind, config, weights, reads):
    if kind in CELLS:
        _cell(net, name, kind, config, weights, reads)
    elif kind == "Dense":
        kernel, bias = _exactly(weights, name, (2,) if config.get("use_bias", True) else (1, 2))
        net.linear(name, kernel, bias, keras=True, reads=reads)
        _activate(net, name, config)
    elif kind == "Embedding":
        if config.get("mask_zero"):
            net.note(f"'{name}' masks id 0: a stream has no padding, do not send it")
        net.embedding(name, _exactly(weights, name, (1,))[0], reads)
    elif kind == "Conv1D":
        if (
            config.get("padding") != "causal"
            or np.any(np.asarray(config.get("strides", 1)) != 1)
            or config.get("data_format", "channels_last") != "channels_last"
        ):
            raise Refused(
                f"layer '{name}' has padding '{config.get('padding')}', strides {config.get('strides', 1)},"
                f" {config.get('data_format', 'channels_last')}; expected padding 'causal', strides 1, channels_last:"
                " what looks ahead cannot be streamed"
            )
        kernel, bias = _exactly(weights, name, (2,) if config.get("use_bias", True) else (1, 2))
        net.conv1d(
            name,
            kernel,
            bias,
            int(np.asarray(config.get("dilation_rate", 1)).flat[0]),
            int(config.get("groups", 1)),
            keras=True,
            reads=reads,
        )
        _activate(net, name, config)
    elif kind == "LayerNormalization":
        axis = config.get("axis", -1)
        if axis not in (-1, [-1], 2, [2]) or config.get("rms_scaling"):
            raise Refused(
                f"layer '{name}' has axis {axis}, rms_scaling {config.get('rms_scaling', False)}; expected the last"
                " axis, no rms_scaling"
            )
        scale, center = config.get("scale", True), config.get("center", True)
        given = _exactly(weights, name, (int(scale) + int(center),))
        net.layer_norm(
            name, given[0] if scale else None, given[-1] if center else None, float(config.get("epsilon", 1e-3)), reads
        )
    elif kind == "BatchNormalization":
        scale, center = config.get("scale", True), config.get("center", True)
        given = _exactly(weights, name, (2 + int(scale) + int(center),))
        factor = (given[0] if scale else 1) / np.sqrt(given[-1].astype("f8") + float(config.get("epsilon", 1e-3)))
        net.affine(name, factor, (given[int(scale)] if center else 0) - given[-2] * factor, reads)
    elif kind == "Activation":
        net.last = reads[0]
        _activate(net, name, config)
    elif kind in ("ReLU", "LeakyReLU", "ELU", "Softmax"):
        limits = (config.get("max_value"), config.get("threshold") or 0, config.get("negative_slope") or 0)
        if kind == "ReLU" and limits[1:] != (0, 0):
            raise Refused(f"layer '{name}' has threshold {limits[1]} and negative_slope {limits[2]}, expected 0")
        if kind == "Softmax" and config.get("axis", -1) not in (-1, 2):
            raise Refused(f"layer '{name}' has axis {config['axis']}, expected the last")
        if kind == "ReLU" and limits[0] is not None:
            net.function(name, "clip", 0, limits[0], reads)
        else:
            alpha = config.get("alpha", config.get("negative_slope"))
            function = {"ReLU": "relu", "LeakyReLU": "leaky_relu", "ELU": "elu", "Softmax": "softmax"}[kind]
            default = {"LeakyReLU": 0.3, "ELU": 1.0}.get(kind)
            net.function(name, function, (default if alpha is None else float(alpha)) if default else None, None, reads)
    elif kind in MERGES:
        if kind == "Concatenate" and config.get("axis", -1) not in (-1, 2):
            raise Refused(f"layer '{name}' has axis {config['axis']}, expected the last")
        net.merge(name, MERGES[kind], reads)
    elif kind == "Bidirectional":
        raise Refused(
            f"layer '{name}' is Bidirectional: its second half reads a sequence from its end, which cannot be streamed"
        )
    else:
        raise Refused(f"layer '{name}' is a {kind}, expected one of {', '.join([*CELLS, *PLAIN, *MERGES])}")
    return net.last


def _sources(layer):
    """Names of the layers that a layer of a Functional model reads: Keras 2 lists them, Keras 3 marks them among the
    arguments."""
    nodes = layer.get("inbound_nodes") or []
    if len(nodes) > 1:
        raise Refused(f"layer '{layer.get('name')}' is used {len(nodes)} times, expected once")
    found = []

    def walk(value, depth=0):
        if depth > 20:
            raise Refused(f"layer '{layer.get('name')}' has inputs nested deeper than 20")
        if isinstance(value, dict):
            history = (
                value.get("config", {}).get("keras_history")
                if value.get("class_name") == "__keras_tensor__" and isinstance(value.get("config"), dict)
                else None
            )
            if isinstance(history, list) and history:
                found.append(str(history[0]))
            elif history is None:
                for part in value.values():
                    walk(part, depth + 1)
        elif isinstance(value, list):
            if len(value) in (3, 4) and isinstance(value[0], str) and all(isinstance(v, int) for v in value[1:3]):
                found.append(value[0])
            else:
                for part in value:
                    walk(part, depth + 1)

    for node in nodes:
        walk(node.get("args", []) if isinstance(node, dict) else node)
    return found


def _input_shape(net, config):
    shape = config.get("batch_shape", config.get("batch_input_shape"))
    kind = config.get("dtype")
    if (
        isinstance(shape, list)
        and len(shape) == 3
        and isinstance(shape[2], int)
        and shape[2] > 0
        and net.input_width is None
    ):
        net.feed(shape[2])
    elif (
        isinstance(shape, list)
        and len(shape) == 2
        and net.input_width is None
        and isinstance(kind, str)
        and kind.startswith("int")
    ):
        net.feed(1, ids=True)


def _try_in_a_child(read):
    """HDF5's library crashes on some damaged files: a child reads first, and what ends it is refused here."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(600)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            read()
        except BaseException:  # said once, by the parent
            pass
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise Refused(f"damaged: HDF5's library ends with {signal.Signals(os.WTERMSIG(status)).name} on it")


def from_file(path, config_path=None, description="", **names):
    _try_in_a_child(lambda: _read(path, config_path, description, names))
    return _read(path, config_path, description, names)


def _read(path, config_path, description, names):
    config, weights = keras_file.load(path, config_path)
    kind, inner = config.get("class_name"), config.get("config")
    layers = inner if isinstance(inner, list) else inner.get("layers") if isinstance(inner, dict) else None
    if (
        kind not in ("Sequential", "Functional", "Model")
        or not isinstance(layers, list)
        or not all(isinstance(v, dict) and isinstance(v.get("config"), dict) for v in layers)
    ):
        raise Refused(
            f"the model is a '{kind}', expected Sequential or Functional: of others the file does not say how they run"
        )
    net = Network(description, **names)
    net.keras3 = isinstance(weights, keras_file.ByKind) or any("module" in v for v in layers)
    values = {}
    for layer in layers:
        kind, own = str(layer.get("class_name")), layer["config"]
        name = str(own.get("name", layer.get("name", kind)))
        try:
            part = "cell" if kind in CELLS else None
            found = weights.of(name, kind, "layer" if kind == "TimeDistributed" else part)
            if (
                kind == "TimeDistributed"
                and isinstance(own.get("layer"), dict)
                and isinstance(own["layer"].get("config"), dict)
            ):
                kind, own = str(own["layer"].get("class_name")), own["layer"]["config"]
                if kind in CELLS:
                    raise Refused(f"layer '{name}' is a {kind} within each step, expected Dense or an activation")
            sources = _sources(layer) if "inbound_nodes" in layer else []
            missing = [s for s in sources if s not in values]
            if missing:
                raise Refused(f"layer '{name}' reads '{missing[0]}', which does not come before it")
            reads = [values[s] for s in sources] or [net.last]
            if kind == "InputLayer":
                if values and sources == [] and "inbound_nodes" in layer:
                    raise Refused(f"'{name}' is a second input, expected one")
                _input_shape(net, own)
                values[name] = net.input_name
                continue
            _input_shape(net, own) if not net.layers else None
            if kind in SKIPPED or kind == "Masking":
                if kind == "Masking":
                    net.note(f"'{name}' masks steps: a stream has no padding, do not send any")
                values[name] = reads[0]
                continue
            values[name] = _layer(net, name, kind, own, found, reads)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError, OSError) as e:
            raise Refused(f"layer '{name}' cannot be read: {type(e).__name__}: {e}") from None
    outputs = inner.get("output_layers") if isinstance(inner, dict) else None
    if isinstance(outputs, list) and outputs:
        first = outputs if isinstance(outputs[0], str) else outputs[0]
        if isinstance(outputs[0], list) and len(outputs) > 1 or str(first[0]) not in values:
            raise Refused(f"the model has {len(outputs)} outputs, expected one")
        net.last = values[str(first[0])]
    return net
