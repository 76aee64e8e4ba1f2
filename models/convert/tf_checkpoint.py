# SPDX-License-Identifier: MIT
"""TensorFlow checkpoints in the bundle format: PREFIX.index, a sorted table of names to places, and
PREFIX.data-0000k-of-0000n."""
import os
import pathlib
import struct

import numpy as np

from .errors import Refused, parse_message

TABLE_MAGIC = 0xDB4775248B80FB57
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 14: "<u2", 19: "<f2", 10: "?", 6: "i1", 4: "u1"}
BFLOAT16 = 14


def _crc_table():
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _crc_table()


def crc32c(data):
    """CRC-32C. Lanes of equal length are taken at once, a byte of each a step, and then put together, for a loop over
    bytes is slow in Python."""
    data = np.frombuffer(data, dtype=np.uint8)
    lanes = min(4096, max(1, data.size // 64))
    length = data.size // lanes
    crc = np.zeros(lanes, dtype=np.uint32)
    columns = data[: lanes * length].reshape(lanes, length)
    for k in range(length):
        crc = _TABLE[(crc ^ columns[:, k]) & 0xFF] ^ (crc >> np.uint32(8))
    # What `length` bytes of zeros make of each bit of a register: to move a register over a lane.
    moved = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(length):
        moved = _TABLE[moved & 0xFF] ^ (moved >> np.uint32(8))
    moved = [int(m) for m in moved]
    register = 0xFFFFFFFF
    for lane in crc:
        shifted = 0
        for bit in range(32):
            if register >> bit & 1:
                shifted ^= moved[bit]
        register = shifted ^ int(lane)
    for byte in data[lanes * length :]:
        register = int(_TABLE[(register ^ int(byte)) & 0xFF]) ^ (register >> 8)
    return register ^ 0xFFFFFFFF


def masked(crc):
    """TensorFlow stores a CRC turned and moved on, for data that has CRCs in it."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data, at):
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Refused("index: truncated")
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _block(file, offset, size):
    if offset + size + 5 > len(file):
        raise Refused(f"index: a block of {size} bytes at {offset} in a file of {len(file)}")
    if file[offset + size] != 0:
        raise Refused("index: a compressed block, which TensorFlow does not write")
    if masked(crc32c(file[offset : offset + size + 1])) != struct.unpack_from("<I", file, offset + size + 1)[0]:
        raise Refused(f"index: the checksum of the block at {offset} is wrong")
    return file[offset : offset + size]


def _entries(block):
    if len(block) < 4:
        raise Refused("index: an empty block")
    restarts = struct.unpack_from("<I", block, len(block) - 4)[0]
    end = len(block) - 4 * (restarts + 1)
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + fresh + size > end:
            raise Refused("index: an entry that reaches beyond its block")
        key = key[:shared] + bytes(block[at : at + fresh])
        yield key, block[at + fresh : at + fresh + size]
        at += fresh + size


def _table(file):
    if len(file) < 48 or struct.unpack_from("<Q", file, len(file) - 8)[0] != TABLE_MAGIC:
        raise Refused("index: no table of TensorFlow's bundle format, or truncated")
    footer = file[-48:]
    at = 0
    for _ in range(2):  # the place of the block of meta data is not needed
        _, at = _varint(footer, at)
    offset, at = _varint(footer, at)
    size, at = _varint(footer, at)
    for _, handle in _entries(_block(file, offset, size)):
        block_offset, used = _varint(handle, 0)
        block_size, _ = _varint(handle, used)
        yield from _entries(_block(file, block_offset, block_size))


def load(path):
    """All trained tensors of a checkpoint, name -> array, in order of name. `path`: its prefix, or its .index file."""
    from . import tensorflow_pb2 as pb

    prefix = str(path).removesuffix(".index")
    index = pathlib.Path(prefix + ".index").read_bytes()
    out, shards, header = {}, {}, None
    try:
        for key, value in _table(index):
            if header is None:
                if key:
                    raise Refused("index: its header is missing")
                header = parse_message(pb.BundleHeader, value)
                if header.endianness != 0 or not 1 <= header.num_shards <= 100_000:
                    raise Refused(f"index: {header.num_shards} shards, endianness {header.endianness}")
                continue
            name, entry = key.decode("utf-8"), parse_message(pb.BundleEntry, value)
            if entry.slices:
                raise Refused(f"variable '{name}' is stored in slices, by a partitioner: save it as one")
            if entry.dtype not in DTYPES or name.startswith("_CHECKPOINTABLE_OBJECT_GRAPH"):
                continue  # text, and what is not a number
            shard = f"{prefix}.data-{entry.shard_id:05d}-of-{header.num_shards:05d}"
            if shard not in shards:
                shards[shard] = (
                    np.memmap(shard, dtype=np.uint8, mode="r") if os.path.getsize(shard) else np.zeros(0, np.uint8)
                )
            shape = [d.size for d in entry.shape.dim]
            kind = np.dtype(DTYPES[entry.dtype])
            count = 1
            for n in shape:
                if n < 0 or len(shape) > 8:
                    raise Refused(f"variable '{name}' has shape {shape}")
                count *= n
            if (
                count * kind.itemsize != entry.size
                or entry.offset < 0
                or entry.offset + entry.size > shards[shard].size
            ):
                raise Refused(
                    f"variable '{name}' of shape {shape} has {entry.size} bytes at {entry.offset}, the file"
                    f" {shards[shard].size}"
                )
            raw = shards[shard][entry.offset : entry.offset + entry.size].tobytes()
            if masked(crc32c(raw)) != entry.crc32c:
                raise Refused(f"variable '{name}': its checksum is wrong, the file is damaged")
            array = np.frombuffer(raw, dtype=kind)
            out[name] = ((array.astype("<u4") << 16).view("<f4") if entry.dtype == BFLOAT16 else array).reshape(shape)
    except (UnicodeDecodeError, ValueError, struct.error) as e:
        raise Refused(f"index: damaged: {e}") from None
    if header is None:
        raise Refused("index: empty")
    if any(name.endswith("/.ATTRIBUTES/VARIABLE_VALUE") for name in out):
        raise Refused(
            "a checkpoint of objects, of TensorFlow 2: which layer a variable is of is in the program; save the model"
            " as .keras or .h5"
        )
    return out
