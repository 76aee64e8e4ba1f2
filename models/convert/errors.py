# SPDX-License-Identifier: MIT
import warnings


class Refused(Exception):
    """A file or a request that cannot be brought in. The message names what, what was expected and what came."""


def shape_text(shape):
    return "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"


def expect(array, name, shape):
    """The array itself, if its shape is `shape`; None in it stands for any size above zero."""
    if array.ndim != len(shape) or any(
        n != want and (want is not None or n < 1) for n, want in zip(array.shape, shape)
    ):
        raise Refused(f"tensor '{name}' has shape {shape_text(array.shape)}, expected {shape_text(shape)}")
    return array


def parse_message(kind, data):
    """A protobuf message, whole: what Python only warns of is an error here."""
    from google.protobuf.message import DecodeError

    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        try:
            message, reason = kind.FromString(bytes(data)), None
        except DecodeError as e:
            message, reason = None, e
    if reason or complaints:
        reason = reason or complaints[0].message
        raise Refused(f"no {kind.DESCRIPTOR.name} of TensorFlow, truncated or damaged: {reason}")
    return message
