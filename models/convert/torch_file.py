# SPDX-License-Identifier: MIT
"""Files of torch.save, without torch: a zip archive of a pickle and its storages, or, before 1.6, pickles with the
storages behind them."""
import io
import math
import os
import struct
import zipfile

import numpy as np

from .errors import Refused
from .tensor_pickle import TYPES, Tensor, unpickle

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MOST_PICKLE_BYTES = 256 << 20


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist()]
        pickles = [n for n in names if n.split("/")[-1] == "data.pkl" and n.count("/") <= 1]
        if len(pickles) != 1 or len(set(names)) != len(names):
            raise Refused("a zip archive without one data.pkl, or with a name twice: no file of torch.save")
        root = pickles[0][: -len("data.pkl")]
        if f"{root}constants.pkl" in names:
            raise Refused("TorchScript, which is a program: save module.state_dict() instead, or export to ONNX")

        def member(name, most):
            info = archive.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
                raise Refused(
                    f"'{name}' is compressed or has {info.file_size} bytes: torch.save stores its files as they are"
                )
            return archive.read(info)

        if f"{root}byteorder" in names and member(f"{root}byteorder", 16) != b"little":
            raise Refused("numbers with the most significant byte first")
        value = unpickle(io.BytesIO(member(pickles[0], MOST_PICKLE_BYTES)))
        blobs = {}

        def read(key, size, name):
            if key not in blobs:
                inner = f"{root}data/{key}"
                if inner not in names:
                    raise Refused(f"the storage '{key}' of tensor '{name}' is missing")
                blobs[key] = member(inner, 1 << 40)
            if len(blobs[key]) < size:
                raise Refused(f"the storage of tensor '{name}' has {len(blobs[key])} bytes, expected {size}")
            return blobs[key][:size]

        return tensors_of(value, read, os.path.getsize(path))


def _read_legacy(stream):
    if unpickle(stream) != MAGIC or unpickle(stream) != PROTOCOL:
        raise Refused("no file of torch.save: expected a zip archive or the number that older ones begin with")
    system = unpickle(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("numbers with the most significant byte first")
    value, keys = unpickle(stream), unpickle(stream)
    if not isinstance(keys, list):
        raise Refused("pickle: the list of storages is missing")
    kinds, blobs = {}, {}
    for tensor in _walk(value, lambda _name, t: t):
        kinds[tensor.storage.key] = tensor.storage
    for key in keys:
        head = stream.read(8)
        if key not in kinds or len(head) != 8:
            raise Refused("a storage that no tensor has, or the file ends before it")
        size = struct.unpack("<q", head)[0]
        if size != kinds[key].count:
            raise Refused(f"a storage has {size} numbers, expected {kinds[key].count}")
        bytes_, left = (
            size * np.dtype(TYPES[kinds[key].type]).itemsize,
            os.fstat(stream.fileno()).st_size - stream.tell(),
        )
        if left < bytes_:
            raise Refused(f"the file ends within a storage: {left} bytes, expected {bytes_}")
        blobs[key] = stream.read(bytes_)

    def read(key, size, name):
        if key not in blobs or len(blobs[key]) < size:
            raise Refused(f"the storage '{key}' of tensor '{name}' is missing or too short")
        return blobs[key][:size]

    return tensors_of(value, read, os.fstat(stream.fileno()).st_size)


def _walk(value, use, path=(), seen=None):
    """`use(name, tensor)` of every tensor in nested dictionaries and lists, each container visited once however often
    it is named."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return [use(".".join(path), value)]
    if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
        return []
    if len(path) > 16:
        raise Refused("dictionaries within dictionaries to a depth above 16")
    seen.add(id(value))
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [found for key, part in items for found in _walk(part, use, path + (str(key),), seen)]


def tensors_of(value, read, file_bytes):
    """An array for each tensor in nested dictionaries; what is no tensor is left out."""
    if not isinstance(value, dict):
        raise Refused(f"holds a {type(value).__name__}, expected a dictionary of tensors")
    left = 4 * file_bytes + (64 << 20)  # tensors may share a storage, but a small file must not become a large model

    def use(name, tensor):
        nonlocal left
        left -= 4 * math.prod(tensor.size)
        if left < 0:
            raise Refused(f"tensor '{name}': the tensors are many times as large as the file")
        return name, tensor.array(read, name)

    return dict(_walk(value, use))


def load(path):
    """The tensors in a file of torch.save, "a.b.weight" -> array, in the file's order; dictionaries within it add to
    the names."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(4)
            if head == b"PK\x03\x04":
                return _read_zip(path)
            stream.seek(0)
            return _read_legacy(stream)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError, struct.error) as e:
        raise Refused(f"truncated or damaged: {e}") from None
