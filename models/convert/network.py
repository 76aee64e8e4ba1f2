# SPDX-License-Identifier: MIT
"""A network on its way to a model directory: layers in the order of the manifest, their tensors, what was noticed."""
import json
import os
import pathlib
import re
import shutil
import struct

import numpy as np

from .errors import Refused, expect, shape_text

FUNCTIONS = {  # by the names of PyTorch, Keras and TensorFlow: the manifest's
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "tanh": "TANH",
    "softplus": "SOFTPLUS",
    "leaky_relu": "LEAKY_RELU",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SILU",
    "swish": "SILU",
    "hard_sigmoid": "HARD_SIGMOID",
    "clip": "CLIP",
    "exp": "EXP",
    "log": "LOG",
    "abs": "ABS",
}
NAME = re.compile(r"[A-Za-z0-9_./-]{1,64}")


class Word(str):
    """A word of the manifest that is no string: the name of an enum's value."""


def _text(value):
    if isinstance(value, dict):
        return "{ " + "".join(_field(k, v) + " " for k, v in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, str):
        return (
            '"'
            + "".join(
                c if c.isprintable() and c not in '"\\' else "".join(f"\\{b:03o}" for b in c.encode()) for c in value
            )
            + '"'
        )
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(v) for v in value) + "]"
    return repr(float(value)) if isinstance(value, (float, np.floating)) else str(int(value))


def _field(key, value):
    return f"{key} {_text(value)}" if isinstance(value, dict) else f"{key}: {_text(value)}"


def function_fields(name, function, alpha=None, beta=None, others=""):
    """The manifest's Activation for a function by the name that frameworks have for it."""
    if function not in FUNCTIONS:
        raise Refused(f"activation '{function}' of '{name}' is not supported, expected one of: {others}{', '.join(FUNCTIONS)}")
    return {
        "function": Word(FUNCTIONS[function]),
        **{k: float(v) for k, v in (("alpha", alpha), ("beta", beta)) if v is not None},
    }


class Network:
    """Layers are added in order; each reads the value before it unless told otherwise. The first decides what the
    input is."""

    def __init__(self, description="", input_name="x", output_name="y"):
        self.description, self.input_name, self.output_name = description, input_name, output_name
        self.input_width, self.ids = None, False
        self.layers, self.tensors, self.notes = [], {}, []
        self.widths = {}  # of the input and of each layer's value
        self.last = input_name

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def feed(self, width, ids=False):
        """What one step of the input is: `width` numbers, or one id."""
        self.input_width, self.ids = width, ids
        self.widths[self.input_name] = width

    def name(self, wanted):
        """A layer's name as the manifest takes it, not used before."""
        base = re.sub(r"[^A-Za-z0-9_./-]", "_", wanted)[:56] or "layer"
        name, n = base, 1
        while name in self.widths or name == self.input_name:
            n += 1
            name = f"{base}_{n}"
        return name

    def add(self, wanted, kind, fields, tensors, width_in, width_out, reads=None):
        """One layer. `width_in`: what its weights expect of the value it reads; None: any. Returns its name."""
        name = self.name(wanted)
        before = reads[0] if reads else self.last
        if before == self.input_name and self.input_width is None:
            if width_in is None:
                raise Refused(
                    f"layer '{wanted}' is the first and has no weights: how wide the input is cannot be known"
                )
            self.feed(width_in)
        have = self.widths[before]
        if before == self.input_name and self.ids and kind != "embedding":
            raise Refused(f"layer '{wanted}' reads ids, expected an embedding")
        if width_in is not None and width_in != have:
            raise Refused(f"layer '{wanted}' takes {width_in} numbers a step, but '{before}' before it gives {have}")
        for suffix, array in tensors.items():
            array = np.ascontiguousarray(array, dtype="<f4")
            if array.size == 0 or not np.all(np.isfinite(array)):
                raise Refused(
                    f"tensor '{suffix}' of layer '{wanted}', shape {shape_text(array.shape)}, is empty or has numbers"
                    " that are not finite in f32"
                )
            self.tensors[f"{name}.{suffix}"] = array
        layer, reads = {"name": name}, list(reads or [self.last])
        if reads != [self.layers[-1]["name"] if self.layers else self.input_name]:
            layer["input"] = reads
        self.layers.append({**layer, kind: fields})
        self.widths[name] = width_out if width_out is not None else have
        self.last = name
        return name

    # What is the same whatever framework it comes from.
    def embedding(self, name, table, reads=None):
        expect(table, name, (None, None))
        if self.input_width is None and self.last == self.input_name:
            self.feed(1, ids=True)
        if (reads[0] if reads else self.last) != self.input_name or not self.ids:
            raise Refused(f"embedding '{name}' does not read the input: ids are taken from there alone")
        return self.add(name, "embedding", {}, {"weight": table}, None, table.shape[1], reads)

    def linear(self, name, weight, bias=None, keras=False, reads=None):
        """weight [O, I], or with `keras` [I, O]."""
        expect(weight, name, (None, None))
        rows, columns = weight.shape[::-1] if keras else weight.shape
        tensors = {"kernel" if keras else "weight": weight}
        if bias is not None:
            tensors["bias"] = expect(bias, f"{name}.bias", (rows,))
        fields = {**({"convention": Word("KERAS")} if keras else {}), **({} if bias is not None else {"no_bias": True})}
        return self.add(name, "linear", fields, tensors, columns, rows, reads)

    def conv1d(self, name, weight, bias=None, dilation=1, groups=1, keras=False, reads=None):
        """weight [O, C / groups, K], or with `keras` [K, C / groups, O]; the window ends at the newest frame."""
        expect(weight, name, (None, None, None))
        out, channels = (weight.shape[2], weight.shape[1]) if keras else weight.shape[:2]
        if dilation < 1 or groups < 1 or out % groups:
            raise Refused(f"convolution '{name}': dilation {dilation} and {groups} groups of {out} outputs")
        tensors = {"kernel" if keras else "weight": weight}
        if bias is not None:
            tensors["bias"] = expect(bias, f"{name}.bias", (out,))
        fields = {"convention": Word("KERAS")} if keras else {}
        fields.update(
            {k: v for k, v in (("dilation", dilation), ("groups", groups)) if v != 1},
            **({} if bias is not None else {"no_bias": True}),
        )
        return self.add(name, "conv1d", fields, tensors, channels * groups, out, reads)

    def layer_norm(self, name, scale, bias, epsilon, reads=None):
        given = scale if scale is not None else bias
        width = None if given is None else expect(given, name, (None,)).shape[0]
        tensors = {
            k: expect(v, f"{name}.{k}", (width,)) for k, v in (("weight", scale), ("bias", bias)) if v is not None
        }
        fields = {
            "epsilon": epsilon,
            **({"no_scale": True} if scale is None else {}),
            **({"no_bias": True} if bias is None else {}),
        }
        return self.add(name, "layer_norm", fields, tensors, width, None, reads)

    def affine(self, name, scale, offset, reads=None):
        """y = scale x + offset: one number each, or one for each element."""
        scale, offset = np.atleast_1d(scale), np.atleast_1d(offset)
        width = max(scale.size, offset.size)
        for values in (scale, offset):
            if values.ndim != 1 or values.size not in (1, width) or not np.all(np.isfinite(values.astype("f4"))):
                raise Refused(
                    f"layer '{name}': a scale or an offset has shape {shape_text(values.shape)} or is not finite"
                )
        fields = {"scale": [float(np.float32(v)) for v in scale], "offset": [float(np.float32(v)) for v in offset]}
        return self.add(name, "affine", fields, {}, width if width > 1 else None, None, reads)

    def function(self, name, function, alpha=None, beta=None, reads=None):
        """An activation by the name that frameworks have for it; `linear` is none."""
        if function in (None, "", "linear", "identity"):
            return self.last
        if function in ("softmax", "log_softmax"):
            return self.add(name, "softmax", {"log": True} if function == "log_softmax" else {}, {}, None, None, reads)
        return self.add(
            name, "activation", function_fields(name, function, alpha, beta, "linear, softmax, log_softmax, "), {}, None, None, reads
        )

    def prelu(self, name, slopes, reads=None):
        """max(x, 0) + slope min(x, 0), one slope or one for each element."""
        slopes = np.asarray(slopes).reshape(-1)
        if np.all(slopes == slopes[:1]):
            return self.function(name, "leaky_relu", float(slopes[0]), None, reads)
        before = reads[0] if reads else self.last
        positive = self.function(f"{name}.positive", "relu", reads=[before])
        self.affine(f"{name}.turned", -1, 0, [before])
        self.function(f"{name}.negative", "relu")
        return self.merge(name, "ADD", [positive, self.affine(f"{name}.slope", -slopes, 0)])

    def merge(self, name, function, reads):
        """ADD, MULTIPLY ... of values of one width, or CONCAT of values of any."""
        if any(self.widths.get(r) is None for r in reads) or self.ids and self.input_name in reads:
            raise Refused(
                f"layer '{name}' reads {', '.join(reads)}: the width of one of them is not known, or it is an id"
            )
        widths = [self.widths[r] for r in reads]
        if function == "CONCAT":
            return self.add(name, "concat", {}, {}, None, sum(widths), reads)
        if len(set(widths) - {1}) > 1:
            raise Refused(f"layer '{name}' reads values of {widths} numbers, expected one size")
        return self.add(name, "elementwise", {"function": Word(function)}, {}, None, max(widths), reads)

    def manifest(self):
        lines = []
        if self.description:
            lines.append(_field("description", self.description))
        kind = {"type": Word("INT32")} if self.ids else {"shape": self.input_width}
        lines.append(_field("input", {"name": self.input_name, **kind}))
        lines += [_field("layer", layer) for layer in self.layers]
        lines.append(_field("output", {"name": self.output_name, "value": self.last}))
        return "\n".join(lines) + "\n"

    def write(self, directory):
        """Writes DIR/NAME/1: whole or not at all, for a server may be looking."""
        if not self.layers:
            raise Refused("nothing in it is a layer")
        for name in (self.input_name, self.output_name):
            if not NAME.fullmatch(name):
                raise Refused(f"name '{name}', expected letters, digits and _./- alone")
        target = pathlib.Path(directory)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise Refused(f"'{target}' exists already: a version is never changed, only followed by the next")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".{target.name}.{os.getpid()}"  # servers leave names with a dot alone
        partial.mkdir()
        try:
            save_safetensors(partial / "model.safetensors", self.tensors)
            (partial / "model.textproto").write_text(self.manifest(), encoding="utf-8")
            if target.exists():
                target.rmdir()
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def save_safetensors(path, tensors):
    header, offset = {}, 0
    for name in sorted(tensors):
        size = tensors[name].size * 4
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            out.write(tensors[name].tobytes())
