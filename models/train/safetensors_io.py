# SPDX-License-Identifier: MIT
"""Writes safetensors files: 8 bytes of header length, a JSON header, the tensors' bytes, little-endian."""
import json
import struct

import numpy as np


def save(path, tensors):
    """tensors: name -> array; all are written as float32, in order of name."""
    header, blobs, offset = {}, [], 0
    for name in sorted(tensors):
        blob = np.ascontiguousarray(tensors[name], dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def save_module(path, module):
    save(path, {name: value.detach().numpy() for name, value in module.state_dict().items()})
