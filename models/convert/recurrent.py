# SPDX-License-Identifier: MIT
"""LSTM, GRU and RNN of each framework as layers of the manifest. The server puts gates into its own order; here
shapes are checked."""
import numpy as np

from .errors import Refused, expect, shape_text
from .network import Word

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
ORDERS = {
    "ifgo": "IFGO",
    "igfo": "IGFO",
    "iofg": "IOFG",
    "figo": "FIGO",
}  # g is the candidate, elsewhere called c, j or n


def order(text):
    """A gate order as people write it, i f c o or i j f o: the manifest's name for it."""
    plain = (text or "").lower().replace(" ", "").replace("c", "g").replace("j", "g").replace("n", "g")
    if plain not in ORDERS:
        raise Refused(f"gate order '{text}', expected one of ifco, icfo, iofc, fico")
    return ORDERS[plain]


def pytorch_stack(net, name, layers, relu=False, trained=False):
    """layers: for each of a stack weight_ih [G*H, I], weight_hh [G*H, R] and, where it has them, bias_ih, bias_hh,
    weight_hr [P, H], h0, c0."""
    tensors, kind, projection, biases, width, width_in = {}, None, None, None, None, None
    for k, cell in enumerate(layers):
        own = f"{name} layer {k}"
        missing = {"weight_ih", "weight_hh"} - cell.keys()
        if missing:
            raise Refused(f"'{own}' has no {', '.join(sorted(missing))}")
        w, r = expect(cell["weight_ih"], f"{name}.weight_ih_l{k}", (None, None)), expect(
            cell["weight_hh"], f"{name}.weight_hh_l{k}", (None, None)
        )
        has_projection = "weight_hr" in cell
        hidden = cell["weight_hr"].shape[-1] if has_projection else r.shape[1]
        back = cell["weight_hr"].shape[0] if has_projection else hidden
        found = {g: k for k, g in GATES.items()}.get(w.shape[0] / hidden)
        if found is None or r.shape[0] != w.shape[0] or (has_projection and found != "lstm"):
            raise Refused(
                f"'{own}' has weights {shape_text(w.shape)} and {shape_text(r.shape)}, expected 4 (LSTM), 3 (GRU) or 1"
                " (RNN) gates of one size"
            )
        expect(r, f"{name}.weight_hh_l{k}", (w.shape[0], back))
        if width is not None and w.shape[1] != width:
            raise Refused(f"'{own}' takes {w.shape[1]} numbers a step, but the layer before it gives {width}")
        form = "BIAS_TWO" if "bias_hh" in cell else "BIAS_ONE" if "bias_ih" in cell else "BIAS_NONE"
        if (kind or found, biases or form, has_projection if projection is None else projection) != (
            found,
            form,
            has_projection,
        ):
            raise Refused(
                f"'{own}' is of another kind than the layers before it: {found}, {form},"
                f" {'with' if has_projection else 'without'} projection"
            )
        kind, biases, projection, width = found, form, has_projection, back
        width_in = width_in or w.shape[1]
        shapes = {
            "weight_ih": None,
            "weight_hh": None,
            "bias_ih": (w.shape[0],),
            "bias_hh": (w.shape[0],),
            "weight_hr": (back, hidden),
            "h0": (back,),
            "c0": (hidden,),
        }
        for key, array in cell.items():
            if key not in shapes:
                raise Refused(f"'{own}' has a tensor '{key}' that is not known")
            tensors[f"{key}_l{k}"] = expect(array, f"{name}.{key}_l{k}", shapes[key]) if shapes[key] else array
    fields = {"layers": len(layers)} if len(layers) > 1 else {}
    if biases != "BIAS_TWO":
        fields["bias"] = Word(biases)
    if projection:
        fields["projection"] = True
    if trained:
        fields["initial_state"] = Word("TRAINED")
    if relu:
        if kind != "rnn":
            raise Refused(f"'{name}' is a {kind.upper()}: relu is for plain RNNs")
        fields["nonlinearity"] = Word("RELU")
    return net.add(name, kind, fields, tensors, width_in, width)


def keras_cell(net, name, kind, kernel, recurrent, bias, reset_after=True, relu=False, reads=None, varied=None):
    """kernel [I, G*H], recurrent [H, G*H], bias [G*H], [2, G*H] (GRU with reset after), or None; varied: the activations that
    are not the usual ones."""
    gates = GATES[kind]
    expect(kernel, f"{name}.kernel", (None, None))
    expect(recurrent, f"{name}.recurrent_kernel", (None, None))
    hidden = recurrent.shape[0]
    expect(recurrent, f"{name}.recurrent_kernel", (hidden, gates * hidden))
    expect(kernel, f"{name}.kernel", (None, gates * hidden))
    tensors = {"kernel": kernel, "recurrent_kernel": recurrent}
    fields = {"convention": Word("KERAS"), **(varied or {})}
    if bias is None:
        fields["bias"] = Word("BIAS_NONE")
    else:
        after = kind == "gru" and reset_after
        tensors["bias"] = expect(bias, f"{name}.bias", (2, gates * hidden) if after else (gates * hidden,))
    if kind == "gru":
        fields["reset"] = Word("AFTER_PRODUCT" if reset_after else "BEFORE_PRODUCT")
    if relu:
        fields["nonlinearity"] = Word("RELU")
    return net.add(name, kind, fields, tensors, kernel.shape[0], hidden, reads)


def from_cudnn(kind, kernel, recurrent, bias):
    """Weights of a Keras CuDNNLSTM or CuDNNGRU as those of an LSTM or GRU: each gate's matrix lies transposed, the
    input's in columns first."""
    gates = GATES[kind]
    blocks = [k.T.reshape(k.shape, order="F") for k in np.split(kernel, gates, axis=1)]
    back = [k.T for k in np.split(recurrent, gates, axis=1)]
    bias = bias.reshape(2, -1)
    return np.concatenate(blocks, axis=1), np.concatenate(back, axis=1), bias.sum(axis=0) if kind == "lstm" else bias


def tensorflow_cell(net, name, kind, kernel, bias, fields=None, extra=None, gates=None, projected=None, reads=None):
    """kernel [I + H, G*H], rows of x first; bias [G*H] or None; `projected`: [H, P], and H in the kernel's rows is
    P."""
    gates = gates or GATES[kind]
    expect(kernel, f"{name}.kernel", (None, None))
    if kernel.shape[1] % gates:
        raise Refused(
            f"tensor '{name}.kernel' has shape {shape_text(kernel.shape)}, expected {gates} gates of one size"
        )
    hidden = kernel.shape[1] // gates
    back = hidden if projected is None else expect(projected, f"{name}.projection_kernel", (hidden, None)).shape[1]
    width = kernel.shape[0] - back
    if width < 1:
        raise Refused(
            f"tensor '{name}.kernel' has shape {shape_text(kernel.shape)}, expected rows for an input above the"
            f" {back} of the state"
        )
    tensors, fields = {"kernel": kernel}, {"convention": Word("TENSORFLOW"), **(fields or {})}
    if bias is None:
        fields["bias"] = Word("BIAS_NONE")
    else:
        tensors["bias"] = expect(bias, f"{name}.bias", (gates * hidden,))
    for suffix, array in (extra or {}).items():
        tensors[suffix] = expect(array, f"{name}.{suffix}", (hidden,))
    if projected is not None:
        tensors["projection_kernel"], fields["projection"] = projected, True
    return net.add(name, kind, fields, tensors, width, back, reads)
