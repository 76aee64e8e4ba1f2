# SPDX-License-Identifier: MIT
"""TensorFlow 1: what its cells, dense layers and embeddings call their variables, from a checkpoint or a frozen
graph."""
import re

import numpy as np

from . import recurrent
from .errors import Refused
from .network import FUNCTIONS, Network, Word
from .pytorch import _number, parse_net

CELLS = (
    "layer_norm_basic_lstm_cell coupled_input_forget_gate_lstm_cell cudnn_compatible_lstm_cell basic_lstm_cell"
    " lstm_fused_cell lstm_block_cell lstm_block_wrapper lstm_cell cudnn_compatible_gru_cell block_gru_cell"
    " gru_block_cell gru_cell basic_rnn_cell"
).split()
CELL = re.compile(rf"(?:.*/)?({'|'.join(CELLS)})(?:_\d+)?")
INNER = ("gates", "candidate", "projection", "input_projection", "hidden_projection")
SLOTS = re.compile(  # what optimizers keep beside the variables
    r".*/(Adam|Adam_1|Momentum|RMSProp|RMSProp_1|Adagrad|Adadelta|Adadelta_1|Ftrl|Ftrl_1|LARSOptimizer)"
    r"|.*/ExponentialMovingAverage|global_step|beta[12]_power|.*learning_rate.*"
)


def natural(name):
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def groups_of(variables):
    """Scope -> {name within it: array}: a cell with all that is its own, any other scope with its kernel and bias."""
    groups = {}
    for name in sorted(variables, key=natural):
        if SLOTS.fullmatch(name) or variables[name].ndim == 0:
            continue
        scope, _, suffix = name.rpartition("/")
        above = scope.split("/")
        for k in range(len(above) - 1, 0, -1):  # gates/kernel and the like below a cell
            if CELL.fullmatch("/".join(above[:k])) and all(p in INNER for p in above[k:]):
                scope, suffix = "/".join(above[:k]), "/".join(above[k:] + [suffix])
                break
        suffix = re.sub(r"weights$", "kernel", re.sub(r"biases$", "bias", suffix))  # before TensorFlow 1.2
        groups.setdefault(scope or name, {})[suffix] = variables[name]
    return groups


def _take(group, scope, suffix, needed=True):
    if suffix in group:
        return group.pop(suffix)
    if needed:
        raise Refused(f"cell '{scope}' has no '{suffix}'")
    return None


def _cell(net, scope, group, settings, options):
    kind, group = CELL.fullmatch(scope).group(1), dict(group)
    if kind == "layer_norm_basic_lstm_cell":
        raise Refused(f"cell '{scope}' has layer norms within it, which the manifest has no cell for")
    if kind == "basic_rnn_cell":
        relu = bool(options.pop("relu", False))
        recurrent.tensorflow_cell(
            net,
            scope,
            "rnn",
            _take(group, scope, "kernel"),
            _take(group, scope, "bias", False),
            {"nonlinearity": Word("RELU")} if relu else {},
        )
    elif kind in ("gru_cell", "block_gru_cell", "gru_block_cell"):
        old = "w_ru" in group
        gates, candidate = (
            _take(group, scope, s) for s in (("w_ru", "w_c") if old else ("gates/kernel", "candidate/kernel"))
        )
        bias = [_take(group, scope, s) for s in (("b_ru", "b_c") if old else ("gates/bias", "candidate/bias"))]
        if (
            gates.ndim != 2
            or candidate.ndim != 2
            or gates.shape[0] != candidate.shape[0]
            or gates.shape[1] != 2 * candidate.shape[1]
        ):
            raise Refused(
                f"cell '{scope}' has gates {list(gates.shape)} and a candidate {list(candidate.shape)}, expected [I +"
                " H, 2H] and [I + H, H]"
            )
        recurrent.tensorflow_cell(
            net, scope, "gru", np.concatenate([gates, candidate], axis=1), np.concatenate(bias)
        )  # r u c is r z n
    elif kind == "cudnn_compatible_gru_cell":
        gates, of_x, of_h = (
            _take(group, scope, s)
            for s in ("gates/kernel", "candidate/input_projection/kernel", "candidate/hidden_projection/kernel")
        )
        rows, hidden = of_x.shape[0], of_h.shape[-1]
        if (
            any(a.ndim != 2 for a in (gates, of_x, of_h))
            or gates.shape != (rows + hidden, 2 * hidden)
            or of_x.shape[1] != hidden
            or of_h.shape[0] != hidden
        ):
            raise Refused(
                f"cell '{scope}' has gates {list(gates.shape)}, projections {list(of_x.shape)} and {list(of_h.shape)}"
            )
        bias = [
            _take(group, scope, s)
            for s in ("gates/bias", "candidate/input_projection/bias", "candidate/hidden_projection/bias")
        ]
        cell = {
            "weight_ih": np.concatenate([gates[:rows], of_x], axis=1).T,
            "weight_hh": np.concatenate([gates[rows:], of_h], axis=1).T,
            "bias_ih": np.concatenate(bias[:2]),
            "bias_hh": np.concatenate([np.zeros_like(bias[0]), bias[2]]),
        }
        recurrent.pytorch_stack(net, scope, [cell])  # cuDNN's GRU is PyTorch's
    else:
        coupled = kind.startswith("coupled")
        forget = settings["forget_bias"]
        if kind.startswith("cudnn"):
            forget = 0.0 if forget is None else forget  # CudnnCompatibleLSTMCell adds none
        if forget is None:
            raise Refused(
                f"cell '{scope}' adds a forget bias at run time, and the file does not say which: give --forget-bias, 1"
                " unless the cell was made with another one"
            )
        fields = {**({"forget_bias": float(forget)} if forget else {}), **({"coupled": True} if coupled else {})}
        if settings["gate_order"]:
            fields["gate_order"] = Word(recurrent.order(settings["gate_order"]))
        peepholes = {f"peephole_{g}": group.pop(f"w_{g}_diag") for g in "ifo" if f"w_{g}_diag" in group}
        if peepholes:
            fields["peepholes"] = True
        projection = _take(group, scope, "projection/kernel", False)
        recurrent.tensorflow_cell(
            net,
            scope,
            "lstm",
            _take(group, scope, "kernel"),
            _take(group, scope, "bias", False),
            fields,
            peepholes,
            3 if coupled else 4,
            projection,
        )
        if settings["may_clip"]:
            net.note(
                f"'{scope}': a checkpoint does not say whether the cell clips (cell_clip, proj_clip); it is taken"
                " not to"
            )
    if group:
        raise Refused(f"cell '{scope}' has a variable '{sorted(group)[0]}' that is not known")


def _plain(net, scope, group, options):
    if {"gamma", "beta"} & set(group):
        epsilon = _number(options, "eps", scope)
        if epsilon is None:
            raise Refused(
                f"'{scope}' is a norm, and the file does not say its eps: {scope}:eps=1e-12 in --net for"
                " tf.contrib.layers.layer_norm"
            )
        net.layer_norm(scope, group.get("gamma"), group.get("beta"), epsilon)
        return
    name, kernel = next(((n, a) for n, a in group.items() if a.ndim > 1), (None, None))
    others = {n: a for n, a in group.items() if n != name}
    if kernel is None or len(others) > 1 or any(a.ndim != 1 for a in others.values()) or kernel.ndim > 3:
        raise Refused(
            f"'{scope}' has {', '.join(f'{n} {list(a.shape)}' for n, a in group.items())}: no layer that is known"
        )
    bias = next(iter(others.values()), None)
    if kernel.ndim == 3:
        dilation = _number(options, "dilation", scope, int) or 1
        net.conv1d(scope, kernel, bias, dilation, keras=True)
        net.note(f"'{scope}' is a convolution: taken as causal, padded in front alone, with dilation {dilation}")
        return
    linear, embedding = options.pop("linear", False), options.pop("embedding", False)
    if embedding or (bias is None and not net.layers and not linear):
        net.embedding(scope, kernel)
        if not embedding:
            net.note(
                f"'{scope}' is taken as an embedding, for it is first and has no bias; {scope}:linear in --net says"
                " otherwise"
            )
    else:
        net.linear(scope, kernel, bias, keras=True)


def build(variables, items, settings, description="", **names):
    """A Network of variables, in the order of `items`, [(scope, options)]; a scope may also be two variables, "W+b"."""
    groups, net = groups_of(variables), Network(description, **names)
    if items is None:
        cells = [s for s in groups if CELL.fullmatch(s)]
        tables = [
            s
            for s, g in groups.items()
            if s not in cells
            and len(g) == 1
            and next(iter(g.values())).ndim == 2
            and re.search("embed", s + "/" + next(iter(g)))
        ]
        rest = [s for s in groups if s not in cells and s not in tables]
        if len(rest) > 1 or len(tables) > 1:
            raise Refused(
                "in which order its layers run is not in a checkpoint, nor what is between: say it with --net; there"
                f" are {', '.join(tables + cells + rest)}"
            )
        items = [(s, {}) for s in tables + cells + rest]
        net.note("the order is taken to be: " + ", ".join(s for s, _ in items))
    for name, options in items:
        options, group = dict(options), groups.get(name)
        if group is None and "+" in name:
            parts = [p for p in name.split("+") if p]
            if any(p not in variables for p in parts):
                raise Refused(f"'{name}': there is no variable '{next(p for p in parts if p not in variables)}'")
            group = {p: variables[p] for p in parts}
            name = parts[0]
        if group is not None and CELL.fullmatch(name):
            _cell(net, name, group, settings, options)
        elif group is not None:
            _plain(net, name, group, options)
        elif name in FUNCTIONS or name in ("softmax", "log_softmax"):
            net.function(name, name, _number(options, "alpha", name), _number(options, "beta", name))
        else:
            raise Refused(
                f"'{name}' is neither in the file ({', '.join(groups)}) nor a function ({', '.join(FUNCTIONS)},"
                " softmax, log_softmax)"
            )
        if options:
            raise Refused(f"option '{next(iter(options))}' of '{name}' is not known for it")
    return net


def from_file(path, net_text=None, forget_bias=None, gate_order=None, input_node=None, output_node=None, **names):
    try:
        from google.protobuf import message  # noqa: F401
    except ImportError:
        raise Refused("protobuf is needed to read TensorFlow's files (Debian: python3-protobuf)") from None
    items = parse_net(net_text) if net_text is not None else None
    settings = {"forget_bias": forget_bias, "gate_order": gate_order, "may_clip": True}
    if not str(path).endswith(".pb"):
        from . import tf_checkpoint

        return build(tf_checkpoint.load(path), items, settings, **names)
    from . import tf_graph

    graph = tf_graph.Graph(path)
    if items is not None:
        return build(graph.variables, items, settings, **names)
    walked = graph.walk(output_node, input_node)
    if walked.forget_bias is not None:
        if forget_bias not in (None, walked.forget_bias):
            raise Refused(f"--forget-bias is {forget_bias:g}, but the graph adds {walked.forget_bias:g}")
        settings["forget_bias"] = walked.forget_bias
    settings.update(may_clip=False, gate_order=gate_order or walked.gate_order)
    net = build({**graph.variables, **walked.made}, walked.items, settings, **names)
    for text in walked.notes:
        net.note(text)
    return net
