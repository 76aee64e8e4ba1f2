# SPDX-License-Identifier: MIT
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
