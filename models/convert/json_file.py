# SPDX-License-Identifier: MIT
"""JSON as files of models have it: text to numbers, checked."""
import json

import numpy as np

from .errors import Refused


def load(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError is a ValueError
        raise Refused(f"no JSON: {e}") from None


def whole(value, name, most=1 << 20):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= most or value != int(value):
        raise Refused(
            f"{name} is {value if isinstance(value, (int, float, str, type(None))) else type(value).__name__}, expected"
            f" a whole number from 1 to {most}"
        )
    return int(value)


def array(value, name):
    """Lists within lists of numbers, as an array."""
    try:
        out = np.array(value, dtype="f8") if isinstance(value, list) else None
    except (TypeError, ValueError, OverflowError):
        out = None
    if out is None or out.size == 0 or not _numbers(value):
        raise Refused(f"{name} is no array of numbers, every row of one length")
    return out


def _numbers(value):
    if isinstance(value, list):
        return all(map(_numbers, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)
