# SPDX-License-Identifier: MIT
"""numpy arrays to tensors and back, and text to ids."""
import numpy as np

from .errors import InvalidArgument
from .v1 import tensor_pb2, model_pb2

_DTYPES = {tensor_pb2.FLOAT32: np.dtype("<f4"), tensor_pb2.INT32: np.dtype("<i4"), tensor_pb2.INT64: np.dtype("<i8"),
           tensor_pb2.INT16: np.dtype("<i2"), tensor_pb2.UINT8: np.dtype("u1")}


def _one(spec, x):
    """The tensor of one input, and whether it is a single step."""
    x = np.asarray(x)
    shape = tuple(spec.shape)
    single = x.shape == shape
    if spec.once and not single:
        raise InvalidArgument(f"input '{spec.name}': shape {list(x.shape)}, expected {list(shape)}, one for the sequence")
    if not single and x.shape[1:] != shape:
        raise InvalidArgument(f"input '{spec.name}': shape {list(x.shape)}, expected {list(shape)} or {['T', *shape]}")
    integers = np.issubdtype(x.dtype, np.integer)
    if spec.type in (tensor_pb2.INT32, tensor_pb2.INT64):
        if not integers:
            raise InvalidArgument(f"input '{spec.name}': {x.dtype} values, expected whole numbers")
        kind = tensor_pb2.INT64
    elif spec.type in (tensor_pb2.INT16, tensor_pb2.UINT8) and integers:  # floats are what the model sees of them
        kind = spec.type
        most = np.iinfo(_DTYPES[kind])
        if x.size and (x.min() < most.min or x.max() > most.max):
            raise InvalidArgument(f"input '{spec.name}': values from {x.min()} to {x.max()}, expected {most.min} to {most.max}")
    else:
        kind = tensor_pb2.FLOAT32
    data = np.ascontiguousarray(x, dtype=_DTYPES[kind])
    return tensor_pb2.Tensor(name=spec.name, type=kind, data=data.tobytes()), single, 1 if single else x.shape[0]


def encode(specs, x):
    """(tensors, T, single step): `x` is an array, or a dict of arrays by input name."""
    if not isinstance(x, dict):
        needed = [s for s in specs if not s.optional]
        if len(needed) == 1:
            x = {needed[0].name: x}
        elif len(specs) != 1:
            raise InvalidArgument(f"the model has {len(specs)} inputs, expected a dict with {[s.name for s in specs]}")
        else:
            x = {specs[0].name: x}
    unknown = set(x) - {s.name for s in specs}
    if unknown:
        raise InvalidArgument(f"no input is called {sorted(unknown)}, expected {[s.name for s in specs]}")
    missing = [s.name for s in specs if s.name not in x and not s.optional]
    if missing:
        raise InvalidArgument(f"input {missing} is missing")
    made = [_one(spec, x[spec.name]) for spec in specs if spec.name in x]
    steps = [m for m, spec in zip(made, [s for s in specs if s.name in x]) if not spec.once]
    if len({(m[1], m[2]) for m in steps}) != 1:
        raise InvalidArgument(f"inputs disagree in their steps: {[m[2] for m in steps]}")
    return [m[0] for m in made], steps[0][2], steps[0][1]


def decode(tensors, single, once=()):
    """One array where there is one output, else a dict; without the time axis where the turn was a single step. `once`: names of
    outputs that have none."""
    out = {}
    for t in tensors:
        array = np.frombuffer(t.data, dtype=_DTYPES[t.type]).reshape(tuple(t.shape))
        out[t.name] = array[0] if single and t.name not in once else array
    return next(iter(out.values())) if len(out) == 1 else out


def decode_state(tensors):
    return {t.name: np.frombuffer(t.data, dtype="<f4").reshape(tuple(t.shape)) for t in tensors}


def encode_state(state):
    return [tensor_pb2.Tensor(name=name, data=np.ascontiguousarray(value, dtype="<f4").tobytes()) for name, value in (state or {}).items()]


class Vocabulary:
    """Text to ids and back, as the model says."""

    def __init__(self, vocabulary):
        self.tokens = list(vocabulary.tokens)
        self.words = vocabulary.unit == model_pb2.Vocabulary.WORD
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self._unknown = vocabulary.unknown if vocabulary.HasField("unknown") else None

    def encode(self, text):
        out = []
        for token in text.split() if self.words else text:
            i = self._ids.get(token, self._unknown)
            if i is None:
                raise InvalidArgument(f"'{token}' is not among the model's {len(self.tokens)} tokens")
            out.append(i)
        return np.asarray(out, dtype=np.int64)

    def decode(self, ids):
        return (" " if self.words else "").join(self.tokens[i] for i in np.atleast_1d(ids))
