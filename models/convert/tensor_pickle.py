# SPDX-License-Identifier: MIT
"""Pickles of tensors, read without torch and without running anything.

A pickle is a program. This interprets the few of its instructions that tensors need, in its own small machine: a
global is looked up in
a table of our own and never imported, what is called is one of the functions below, and an object's attributes are
never set. Whatever else
a file asks for is refused by name.
"""
import math
import pickletools
import struct
import warnings

import numpy as np

from .errors import Refused

MOST_INSTRUCTIONS = 5_000_000
TYPES = {
    "Float": "<f4",
    "Double": "<f8",
    "Half": "<f2",
    "BFloat16": "<u2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}


class _Global:
    __slots__ = ("name",)

    def __init__(self, name):
        self.name = name


class _Storage:
    __slots__ = ("type", "key", "count")

    def __init__(self, kind, key, count):
        self.type, self.key, self.count = kind, key, count


class Tensor:
    """Where a tensor's numbers lie; `array` reads them."""

    __slots__ = ("storage", "offset", "size", "stride")

    def __init__(self, storage, offset, size, stride):
        whole = all(
            isinstance(v, tuple) and len(v) <= 16 and all(type(n) is int and 0 <= n < 1 << 40 for n in v)
            for v in (size, stride)
        )
        if (
            not isinstance(storage, _Storage)
            or not whole
            or len(size) != len(stride)
            or type(offset) is not int
            or offset < 0
        ):
            raise Refused("pickle: a tensor is not rebuilt from a storage, an offset, sizes and strides")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self, read, name):
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride))
        if count and (last >= self.storage.count or count > self.storage.count):
            raise Refused(
                f"tensor '{name}' of sizes {list(self.size)} and strides {list(self.stride)} reaches beyond its storage"
                f" of {self.storage.count}"
            )
        kind = np.dtype(TYPES[self.storage.type])
        raw = read(self.storage.key, self.storage.count * kind.itemsize, name)
        flat = np.frombuffer(raw, dtype=kind)
        if count == 0:
            return np.zeros(self.size, dtype="<f4")
        steps = tuple(s * kind.itemsize for s in self.stride)
        out = np.ascontiguousarray(
            np.lib.stride_tricks.as_strided(flat[self.offset :], self.size, steps, writeable=False)
        )
        return (out.astype("<u4") << 16).view("<f4") if self.storage.type == "BFloat16" else out


def _ordered_dict(*args):
    if args not in ((), ([],)):
        raise Refused("pickle: collections.OrderedDict is called with entries, expected an empty one")
    return {}


def _rebuild_tensor(storage, offset, size, stride, *_):
    return Tensor(storage, offset, size, stride)


def _rebuild_parameter(data, *_):
    if not isinstance(data, Tensor):
        raise Refused("pickle: a parameter is not rebuilt from a tensor")
    return data


CALLS = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch Size": lambda sizes=(): tuple(sizes),
}
STORAGES = {f"torch {kind}Storage": kind for kind in TYPES}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = {
    "INT",
    "LONG",
    "LONG1",
    "LONG4",
    "BININT",
    "BININT1",
    "BININT2",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINBYTES",
    "BINBYTES",
    "BINBYTES8",
}
_MARK = object()


class _Machine:
    def __init__(self):
        self.stack, self.memo = [], {}

    def pop(self):
        if not self.stack or self.stack[-1] is _MARK:
            raise Refused("pickle: takes from an empty stack")
        return self.stack.pop()

    def above_mark(self):
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise Refused("pickle: a mark is missing")

    def top(self, kind, what):
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Refused(f"pickle: adds to what is no {what}")
        return self.stack[-1]

    def set_items(self, items):
        target = self.top(dict, "dictionary")
        for key, value in zip(items[::2], items[1::2]):
            if type(key) not in (str, int, bytes, float, bool):  # a tuple of tuples of tuples may take forever to hash
                raise Refused("pickle: a key of a dictionary is neither text nor a number")
            target[key] = value

    def named(self, module, name):
        if type(module) is not str or type(name) is not str:  # nor may it be printed
            raise Refused("pickle: asks for a global whose name is no text")
        full = f"{module} {name}"
        if full in CALLS or full in STORAGES:
            return _Global(full)
        raise Refused(
            f"pickle: asks for {module}.{name}, which is not one of the functions that tensors are rebuilt with;"
            " nothing was run. Save module.state_dict() alone"
        )

    def call(self, function, args):
        if not isinstance(function, _Global) or function.name not in CALLS or not isinstance(args, tuple):
            raise Refused("pickle: calls what is no function that tensors are rebuilt with")
        try:
            return CALLS[function.name](*args)
        except TypeError:
            raise Refused(
                f"pickle: {function.name.replace(' ', '.')} is called with {len(args)} arguments that it does not take"
            ) from None

    def storage(self, pid):
        if (
            not isinstance(pid, tuple)
            or len(pid) < 5
            or pid[0] != "storage"
            or not isinstance(pid[1], _Global)
            or pid[1].name not in STORAGES
        ):
            raise Refused("pickle: a persistent id that is no storage")
        if (
            not isinstance(pid[2], str)
            or type(pid[4]) is not int
            or not 0 <= pid[4] < 1 << 40
            or (len(pid) > 5 and pid[5] is not None)
        ):
            raise Refused("pickle: a storage without a key or a size, or a view of another one")
        return _Storage(STORAGES[pid[1].name], pid[2], pid[4])

    def run(self, stream):
        for count, (op, arg, _) in enumerate(pickletools.genops(stream)):
            name = op.name
            if count > MOST_INSTRUCTIONS:
                raise Refused(f"pickle: more than {MOST_INSTRUCTIONS} instructions")
            if name == "STOP":
                return self.pop()
            if name in ("PROTO", "FRAME"):
                continue
            if name in LITERALS:
                self.stack.append(arg)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in ("EMPTY_DICT", "EMPTY_LIST"):
                self.stack.append({} if name == "EMPTY_DICT" else [])
            elif name == "MARK":
                self.stack.append(_MARK)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                value = self.pop()
                self.stack.append(value)
                self.memo[len(self.memo) if name == "MEMOIZE" else arg] = value
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                if arg not in self.memo:
                    raise Refused(f"pickle: takes number {arg} from the memo, which has it not")
                self.stack.append(self.memo[arg])
            elif name in ("TUPLE", "LIST"):
                items = self.above_mark()
                self.stack.append(tuple(items) if name == "TUPLE" else items)
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                items = [self.pop() for _ in range(int(name[-1]))]
                self.stack.append(tuple(items[::-1]))
            elif name == "DICT":
                items = self.above_mark()
                self.stack.append({})
                self.set_items(items)
            elif name == "SETITEM":
                value, key = self.pop(), self.pop()
                self.set_items([key, value])
            elif name == "SETITEMS":
                self.set_items(self.above_mark())
            elif name == "APPEND":
                value = self.pop()
                self.top(list, "list").append(value)
            elif name == "APPENDS":
                items = self.above_mark()
                self.top(list, "list").extend(items)
            elif name == "GLOBAL":
                module, _, attribute = arg.partition(" ")
                self.stack.append(self.named(module, attribute))
            elif name == "INST":
                self.named(*arg.partition(" ")[::2])
                raise Refused("pickle: the instruction INST is none that tensors need")
            elif name == "STACK_GLOBAL":
                attribute, module = self.pop(), self.pop()
                self.stack.append(self.named(module, attribute))
            elif name in ("REDUCE", "NEWOBJ"):
                args, function = self.pop(), self.pop()
                self.stack.append(self.call(function, args))
            elif name == "BINPERSID":
                self.stack.append(self.storage(self.pop()))
            elif name == "BUILD":  # attributes of a state dict, such as _metadata: nothing that is used here
                self.pop()
                self.top(dict, "dictionary")
            elif name == "POP":
                self.pop()
            else:
                raise Refused(f"pickle: the instruction {name} is none that tensors need")
        raise Refused("pickle: ends before it stops")


def unpickle(stream):
    """What one pickle holds: dictionaries, lists, tuples, text, numbers and `Tensor`s. The stream is left behind it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in text, which are the file's affair
            return _Machine().run(stream)
    except Refused:
        raise
    except (ValueError, IndexError, struct.error, UnicodeError, MemoryError, OverflowError, RecursionError) as e:
        raise Refused(f"pickle: truncated or damaged: {e}") from None
