# SPDX-License-Identifier: MIT
"""What Keras writes: HDF5 (.h5, Keras 1 to 3) and .keras, a zip of config.json and model.weights.h5. Configuration
and weights by layer."""
import io
import json
import re
import zipfile

import numpy as np

from .errors import Refused

MOST_BYTES = 4 << 30


def _h5py():
    try:
        import h5py
    except ImportError:
        raise Refused("h5py is needed to read HDF5 (Debian: python3-h5py)") from None
    return h5py


def _array(dataset, name):
    """A dataset's numbers. External and virtual ones are not read: they are other files."""
    if not isinstance(dataset, _h5py().Dataset) or dataset.external or dataset.is_virtual:
        raise Refused(f"'{name}' is no array of the file itself")
    if dataset.dtype.kind not in "fiu" or dataset.dtype.itemsize > 8 or dataset.size > MOST_BYTES // 8:
        raise Refused(f"'{name}' is of type {dataset.dtype} and shape {list(dataset.shape)}, expected numbers")
    if (
        dataset.size * dataset.dtype.itemsize > 2000 * dataset.id.get_storage_size()
    ):  # no compression comes so far: nothing is there
        raise Refused(f"'{name}' has shape {list(dataset.shape)} and {dataset.id.get_storage_size()} bytes in the file")
    if dataset.attrs.get("dtype") in ("bfloat16", b"bfloat16"):
        raise Refused(f"'{name}' is bfloat16: save the model in float32")
    return np.asarray(dataset[()])


def _child(group, path):
    """What lies at a path below a group, in this file and not by a link into another."""
    h5py = _h5py()
    for name in path.split("/"):
        link = group.get(name, getlink=True) if isinstance(group, h5py.Group) and name in group else None
        if link is None or isinstance(link, h5py.ExternalLink):
            raise Refused(f"'{group.name}' has no '{name}' of its own")
        group = group[name]
    return group


def _texts(value):
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in value]


def _json(text, what):
    try:
        out = json.loads(text)
    except (ValueError, TypeError, RecursionError) as e:
        raise Refused(f"{what} is no JSON: {e}") from None
    if not isinstance(out, dict):
        raise Refused(f"{what} is a {type(out).__name__}, expected a model")
    return out


class ByName:
    """Keras 1 and 2: a group for each layer, its `weight_names` in order."""

    def __init__(self, root):
        self.root = _child(root, "model_weights") if "model_weights" in root else root
        if "layer_names" not in self.root.attrs:
            raise Refused("neither a model nor weights of Keras: 'layer_names' is missing")
        names = _texts(self.root.attrs["layer_names"])
        self.names = set(names)

    def of(self, name, _kind, _part=None):
        if name not in self.names:
            return []
        group = _child(self.root, name)
        return [_array(_child(group, w), f"{name}/{w}") for w in _texts(group.attrs.get("weight_names", []))]


def _snake(name):
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


class ByKind:
    """Keras 3: layers under the name of their class with a number, in the order of the model; variables under `vars`
    of the layer or of its cell."""

    def __init__(self, root):
        self.root = next((_child(root, k) for k in ("layers", "_layer_checkpoint_dependencies") if k in root), None)
        if self.root is None:
            raise Refused("has no 'layers': no weights of Keras 3")
        self.seen = {}

    def of(self, name, kind, part=None):
        own = _snake(kind)
        n = self.seen.get(own, 0)
        self.seen[own] = n + 1
        group = next((_child(self.root, k) for k in (f"{own}_{n}" if n else own, name) if k in self.root), None)
        if group is None:
            return []
        if part and part in group:
            group = _child(group, part)
        if "vars" not in group:
            return []
        variables = _child(group, "vars")
        return [_array(_child(variables, str(k)), f"{name}/vars/{k}") for k in range(len(variables))]


def load(path, config_path=None):
    """(configuration of the model, weights by layer)"""
    h5py = _h5py()
    config = None
    if config_path:
        with open(config_path, encoding="utf-8", errors="replace") as stream:
            config = _json(stream.read(), f"'{config_path}'")
    with open(path, "rb") as stream:
        head = stream.read(8)
    try:
        if head[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                parts = {
                    name: archive.getinfo(name)
                    for name in ("config.json", "model.weights.h5")
                    if name in archive.namelist()
                }
                if len(parts) != 2:
                    raise Refused("a zip archive without config.json and model.weights.h5: no .keras file")
                if parts["config.json"].file_size > 64 << 20 or parts["model.weights.h5"].file_size > MOST_BYTES:
                    raise Refused("its config.json or model.weights.h5 is too large")
                config = config or _json(archive.read("config.json"), "config.json")
                file = h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r")
        elif head == b"\x89HDF\r\n\x1a\n":
            file = h5py.File(path, "r")
        else:
            raise Refused("neither HDF5 nor a .keras archive")
        if config is None and "model_config" in file.attrs:
            text = file.attrs["model_config"]
            config = _json(text, "model_config")
        if config is None:
            raise Refused("has weights alone: give --config, what model.to_json() wrote")
        return config, ByName(file) if "layer_names" in file.attrs or "model_weights" in file else ByKind(file)
    except Refused:
        raise
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        KeyError,
        RuntimeError,
        NotImplementedError,
        ValueError,
        TypeError,
    ) as e:
        raise Refused(f"truncated or damaged: {e}") from None
