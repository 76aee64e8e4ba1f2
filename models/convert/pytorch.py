# SPDX-License-Identifier: MIT
"""PyTorch: state dicts, files of torch.save, and modules in memory."""
import re

import numpy as np

from . import recurrent, torch_file
from .errors import Refused
from .network import FUNCTIONS, Network

CELL = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(?:_l(\d+))?")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
IGNORED = ("num_batches_tracked",)


def _groups(tensors):
    """Prefix -> {suffix: array}, in the order of the file."""
    groups = {}
    for name, array in tensors.items():
        prefix, _, suffix = name.rpartition(".")
        if suffix not in IGNORED:
            groups.setdefault(prefix, {})[suffix] = array
    for prefix, group in groups.items():
        for suffix in [s for s in group if s.endswith("_raw")]:  # AWD-LSTM keeps the trained weights under this name
            group[suffix[: -len("_raw")]] = group.pop(suffix)
        if "weight_g" in group and "weight_v" in group:  # weight norm, over all axes but the first
            g, v = group.pop("weight_g").astype("f8"), group.pop("weight_v").astype("f8")
            if g.size != v.shape[0]:
                raise Refused(f"'{prefix}': weight norm over other axes than all but the first")
            norm = np.sqrt((v.reshape(v.shape[0], -1) ** 2).sum(axis=1))
            group["weight"] = v * (g.reshape(-1) / norm).reshape((-1,) + (1,) * (v.ndim - 1))
    return groups


def select(tensors, key=None):
    """The state dict within a checkpoint: what lies below `key`, or below a usual name; without the prefix of
    DataParallel."""
    if key is None:
        heads = {name.partition(".")[0] for name in tensors}
        key = next((w for w in WRAPPERS if w in heads and len(heads) > 1 and w.endswith("state_dict")), None)
        if key is None and len(heads) == 1 and next(iter(heads)) in WRAPPERS + ("module",):
            key = next(iter(heads))
    if key:
        tensors = {name[len(key) + 1 :]: array for name, array in tensors.items() if name.startswith(key + ".")}
        if not tensors:
            raise Refused(f"has no tensors below '{key}'")
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name[len("module.") :]: array for name, array in tensors.items()}
    return tensors


def parse_net(text):
    """'embed, rnn:relu, head, softmax' -> [(name, {option: value})]; an option without a value is True."""
    items = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, *options = part.split(":")
        items.append((name, {k: v or True for k, _, v in (o.partition("=") for o in options)}))
    return items


def _number(options, key, name, kind=float):
    value = options.pop(key, None)
    try:
        return None if value is None else kind(value)
    except (TypeError, ValueError):
        raise Refused(f"option {key} of '{name}' is '{value}', expected a number") from None


def _add_group(net, name, group, options):
    keys = set(group)
    if keys & {"running_mean", "running_var"}:
        missing = {"running_mean", "running_var"} - keys
        if missing:
            raise Refused(f"'{name}' has no {missing.pop()}")
        epsilon = _number(options, "eps", name) or 1e-5
        scale = group.get("weight", np.ones(1)) / np.sqrt(group["running_var"].astype("f8") + epsilon)
        net.affine(name, scale, group.get("bias", np.zeros(1)) - group["running_mean"] * scale)
        net.note(f"'{name}' is a batch norm: taken with eps {epsilon:g}, which the file does not say")
    elif any(CELL.fullmatch(k) for k in keys):
        layers = {}
        for key, array in group.items():
            match = CELL.fullmatch(key)
            if match is None:
                reverse = key.endswith("_reverse")
                raise Refused(
                    f"'{name}' has '{key}': "
                    + (
                        "it is bidirectional, and what reads a sequence from its end cannot be streamed"
                        if reverse
                        else "not known"
                    )
                )
            layers.setdefault(int(match.group(2) or 0), {})[match.group(1)] = array
        if sorted(layers) != list(range(len(layers))):
            raise Refused(f"'{name}' has layers {sorted(layers)}, expected all from 0 on")
        stack = [layers[k] for k in range(len(layers))]
        relu = options.pop("relu", False)
        options.pop("tanh", None)
        recurrent.pytorch_stack(net, name, stack, relu=bool(relu))
        if "rnn" in net.layers[-1] and not relu:
            net.note(f"'{name}' is a plain RNN: taken with tanh; {name}:relu in --net says otherwise")
    elif "weight" in keys and group["weight"].ndim == 3:
        weight, groups = group["weight"], 1
        have = net.widths.get(net.last) if net.layers else None
        groups = _number(options, "groups", name, int) or (
            have // weight.shape[1] if have and have % weight.shape[1] == 0 else 1
        )
        dilation = _number(options, "dilation", name, int) or 1
        net.conv1d(name, weight, group.get("bias"), dilation, groups)
        if weight.shape[2] > 1:
            net.note(
                f"'{name}' is a convolution: taken as causal, padded in front alone, with dilation {dilation};"
                f" {name}:dilation=N in --net says otherwise"
            )
        keys -= {"bias"}
    elif "weight" in keys and group["weight"].ndim == 2:
        embedding = options.pop(
            "embedding", not net.layers and "bias" not in keys and options.pop("linear", None) is None
        )
        if embedding:
            net.embedding(name, group["weight"])
            net.note(
                f"'{name}' is taken as an embedding, for it is first and has no bias; {name}:linear in --net says"
                " otherwise"
            )
        else:
            options.pop("linear", None)
            net.linear(name, group["weight"], group.get("bias"))
    elif "weight" in keys and group["weight"].ndim == 1:
        prelu, norm, bias = options.pop("prelu", False), options.pop("norm", False), group.get("bias")
        if not prelu and not norm and bias is None and group["weight"].size > 1:
            raise Refused(f"'{name}' may be a PReLU or a norm without bias: say {name}:prelu or {name}:norm in --net")
        if prelu or (bias is None and not norm):
            net.prelu(name, group["weight"])
        else:
            epsilon = _number(options, "eps", name)
            net.layer_norm(name, group["weight"], bias, epsilon or 1e-5)
            if epsilon is None:
                net.note(f"'{name}' is taken as a layer norm with eps 1e-05; {name}:eps=E in --net says otherwise")
    else:
        raise Refused(
            f"'{name}' has {', '.join(sorted(keys))}: no layer that is known (LSTM, GRU, RNN, Linear, Embedding,"
            " LayerNorm, BatchNorm, Conv1d, PReLU)"
        )
    unknown = (
        keys - {"weight", "bias", "running_mean", "running_var"} if not any(CELL.fullmatch(k) for k in keys) else set()
    )
    if unknown:
        raise Refused(f"'{name}' has a tensor '{sorted(unknown)[0]}' that is not known")
    if options:
        raise Refused(f"option '{next(iter(options))}' of '{name}' is not known for it")


def _build(groups, items, net):
    """Layers in the order of `items`: prefixes of tensors, and functions."""
    for name, options in items:
        if name in groups:
            _add_group(net, name or "layer", groups[name], options)
        elif name in FUNCTIONS or name in ("softmax", "log_softmax"):
            net.function(name, name, _number(options, "alpha", name), _number(options, "beta", name))
        else:
            raise Refused(
                f"--net names '{name}', which is neither in the file ({', '.join(groups)}) nor a function"
                f" ({', '.join(FUNCTIONS)}, softmax, log_softmax)"
            )
    named = {name for name, _ in items}
    left = [prefix for prefix in groups if prefix not in named]
    if left:
        net.note("left out, for --net does not name them: " + ", ".join(left))
    return net


def from_state_dict(tensors, net_text=None, key=None, description="", **names):
    """A Network of the tensors "prefix.suffix" -> array. The order is the file's and there is nothing between, unless
    `net_text` says what there is."""
    groups = _groups(select(tensors, key))
    if not groups:
        raise Refused("has no tensors")
    net = Network(description, **names)
    if net_text is not None:
        return _build(groups, parse_net(net_text), net)
    order = list(groups)
    plain = ["bias" in g and "weight" in g and g["weight"].ndim in (2, 3) for g in groups.values()]
    for at in range(1, len(order)):
        if plain[at - 1] and plain[at]:
            raise Refused(
                f"'{order[at - 1]}' and '{order[at]}' follow each other, and what is between is not in a state dict:"
                f" say it, for instance --net \"{', '.join(order[:at] + ['relu'] + order[at:])}\""
            )
    net.note(
        "the order is the file's, with no function between or behind its layers; --net says otherwise: "
        + ", ".join(order)
    )
    return _build(groups, [(prefix, {}) for prefix in order], net)


def _leaf(name, module):
    """[(name, options)] for a leaf of a module, with what its object knows and a state dict does not."""
    kind = type(module).__name__
    if kind in ("Dropout", "Identity", "Flatten") or kind.startswith("Dropout"):
        return []
    if getattr(module, "bidirectional", False):
        raise Refused(f"'{name}' is bidirectional, and what reads a sequence from its end cannot be streamed")
    plain = {
        "ReLU": "relu",
        "Sigmoid": "sigmoid",
        "Tanh": "tanh",
        "LogSoftmax": "log_softmax",
        "Softmax": "softmax",
        "SiLU": "silu",
    }
    if kind in plain:
        return [(plain[kind], {})]
    functions = {
        "LeakyReLU": lambda m: ("leaky_relu", {"alpha": m.negative_slope}),
        "ELU": lambda m: ("elu", {"alpha": m.alpha}),
        "Hardtanh": lambda m: ("clip", {"alpha": m.min_val, "beta": m.max_val}),
        "ReLU6": lambda m: ("clip", {"alpha": 0, "beta": 6}),
        "Hardsigmoid": lambda m: ("hard_sigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        "GELU": lambda m: ("gelu", {}) if getattr(m, "approximate", "none") == "none" else None,
        "Softplus": lambda m: ("softplus", {}) if m.beta == 1 else None,
    }
    if kind in functions and (found := functions[kind](module)) is not None:
        return [found]
    if kind in ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"):
        return [
            (
                name,
                (
                    {"relu": True}
                    if getattr(module, "nonlinearity", "tanh") == "relu"
                    else {"tanh": True} if "RNN" in kind else {}
                ),
            )
        ]
    if kind == "Conv1d":
        if module.stride != (1,) or module.padding not in ((0,), "valid"):
            raise Refused(
                f"'{name}' has stride {module.stride[0]} and padding {module.padding}: expected stride 1 and no"
                " padding, for it streams with the past in front"
            )
        return [(name, {"dilation": module.dilation[0], "groups": module.groups})]
    if kind in ("LayerNorm", "BatchNorm1d"):
        return [(name, {"eps": module.eps, **({"norm": True} if kind == "LayerNorm" else {})})]
    if kind in ("Linear", "NonDynamicallyQuantizableLinear"):
        return [(name, {"linear": True})]
    if kind == "Embedding":
        return [(name, {"embedding": True})]
    if kind == "PReLU":
        return [(name, {"prelu": True})]
    raise Refused(f"'{name}' is a {kind}, which is no layer that is known here; ONNX may take it")


def from_module(module, net_text=None, description="", **names):
    """A Network of a torch.nn module in memory: one layer or an nn.Sequential; of another kind with `net_text`, for
    its forward() is a program."""
    groups = _groups({k: v.detach().numpy() for k, v in module.state_dict().items()})
    net = Network(description, **names)
    wanted = parse_net(net_text) if net_text is not None else None
    found = {}

    def leaves(name, part):
        children = list(part.named_children())
        if not children:
            return [(name, part)]
        if wanted is None and type(part).__name__ != "Sequential":
            raise Refused(
                f"'{name or type(part).__name__}' is no nn.Sequential: say in which order its layers run,"
                f" net_text=\"{', '.join(groups)}\" for instance"
            )
        return [leaf for child, inner in children for leaf in leaves(f"{name}.{child}" if name else child, inner)]

    for name, part in leaves("", module):
        found[name] = (name, part)
    if wanted is None:
        return _build(groups, [item for name, part in found.values() for item in _leaf(name, part)], net)
    items = []
    for name, options in wanted:
        known = _leaf(*found[name]) if name in found else [(name, {})]
        items += [(n, {**o, **options}) for n, o in known]
    return _build(groups, items, net)


def from_file(path, net_text=None, key=None, **more):
    return from_state_dict(torch_file.load(path), net_text, key, **more)
