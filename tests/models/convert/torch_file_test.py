# SPDX-License-Identifier: MIT
"""Files of torch.save that mean harm. Needs no torch: they are made by hand."""
import builtins
import collections
import io
import os
import pickle
import struct
import subprocess
import time
import unittest
import zipfile

import numpy as np

from support import ConvertTest, run

from convert import torch_file


class _Calls:
    def __init__(self, function, *args):
        self.what = (function, args)

    def __reduce__(self):
        return self.what


class _Builds(_Calls):
    def __reduce__(self):
        return (*self.what, {"__dict__": 1})


class _Fake:
    """Stands for a class of torch: pickles as a global of that name."""


class _Pickler(pickle._Pickler):  # the one in Python, for it lets globals be named at will
    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, type) and issubclass(obj, _Fake):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.__name__}\n".encode())
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Stored) else None


def named(module, name):
    return type(name, (_Fake,), {"module": module})


class _Stored:
    def __init__(self, key, count, kind="FloatStorage", extra=()):
        self.pid = ("storage", named("torch", kind), key, "cpu", count, *extra)


class _Tensor:
    def __init__(self, stored, size, stride, offset=0, function="_rebuild_tensor_v2"):
        self.parts = (stored, offset, tuple(size), tuple(stride), False, collections.OrderedDict())
        self.function = named("torch._utils", function)

    def __reduce_ex__(self, protocol):
        return _Shown(self.function), self.parts


class _Shown:
    """A callable in the eyes of pickle.save_reduce."""

    def __new__(cls, function):
        return function


def dumps(value, protocol=2):
    out = io.BytesIO()
    _Pickler(out, protocol).dump(value)
    return out.getvalue()


GRU = {"rnn.weight_ih_l0": (9, 2), "rnn.weight_hh_l0": (9, 3), "rnn.bias_ih_l0": (9,), "rnn.bias_hh_l0": (9,)}


class TorchFileTest(ConvertTest):
    def setUp(self):
        super().setUp()
        self.canary = self.dir / "executed"

    def zipped(self, data, storages=None, root="archive/", method=zipfile.ZIP_STORED, beside=()):
        path = self.dir / "net.pt"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(f"{root}data.pkl", data)
            for key, raw in (storages or {}).items():
                archive.writestr(f"{root}data/{key}", raw)
            for name in beside:
                archive.writestr(root + name, b"")
        return path

    def legacy(self, data):
        path = self.dir / "old.pt"
        path.write_bytes(dumps(torch_file.MAGIC) + dumps(1001) + dumps({"little_endian": True}) + data + dumps([]))
        return path

    def both(self, data, *reasons):
        for path in (self.zipped(data), self.legacy(data)):
            err = self.refusal("pytorch", path)
            self.assertTrue(any(r in err for r in reasons), err)
            self.assertFalse(self.canary.exists(), "it was executed")

    def good(self, sizes=None, offset=0, stride=None, count=None):
        tensors, storages = {}, {}
        for k, (name, shape) in enumerate((sizes or GRU).items()):
            n = int(np.prod(shape))
            storages[str(k)] = self.random(n).tobytes()
            steps = stride or tuple(int(np.prod(shape[d + 1 :])) for d in range(len(shape)))
            tensors[name] = _Tensor(_Stored(str(k), n if count is None else count), shape, steps, offset)
        return tensors, storages

    def test_what_is_made_here_is_read(self):
        tensors, storages = self.good()
        for protocol in (2, 3, 4, 5):
            path = self.zipped(dumps(collections.OrderedDict(tensors), protocol), storages)
            found = torch_file.load(path)
            self.assertEqual({k: v.shape for k, v in found.items()}, GRU)
            self.assertEqual(found["rnn.bias_hh_l0"].tobytes(), storages["3"])
            self.convert("pytorch", path)

    def test_nothing_is_called_but_what_rebuilds_tensors(self):
        touch = f"touch {self.canary}"
        for function, args in (
            (os.system, (touch,)),
            (eval, (f"open({str(self.canary)!r}, 'w')",)),
            (exec, (f"open({str(self.canary)!r}, 'w')",)),
            (subprocess.Popen, (["touch", str(self.canary)],)),
            (builtins.getattr, (1, "real")),
            (builtins.open, (str(self.canary), "w")),
            (os.popen, (touch,)),
            (builtins.__import__, ("antigravity",)),
        ):
            for protocol in (0, 1, 2, 3, 4, 5):
                for value in (_Calls(function, *args), {"w": _Calls(function, *args)}, _Builds(function, *args)):
                    self.both(
                        pickle.dumps(value, protocol), f".{function.__qualname__}, which is not one of the functions"
                    )

    def test_calls_within_calls(self):
        inner = _Calls(os.system, f"touch {self.canary}")
        self.both(dumps({"a": _Calls(collections.OrderedDict, [("b", inner)])}), "posix.system")
        self.both(pickle.dumps(_Calls(map, _Calls(getattr, "os", "system"), ["true"])), "builtins.map")

    def test_instructions_by_hand(self):
        system = b"cposix\nsystem\n"
        for code, reason in (
            (b"\x80\x02" + system + b"(S'true'\ntR.", "posix.system"),
            (b"(S'true'\niposix\nsystem\n.", "posix.system"),
            (b"(" + system + b"S'true'\no.", "posix.system"),
            (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
            (b"\x80\x04)\x8c\x06system\x93.", "whose name is no text"),
            (b"\x80\x02\x82\x01.", "EXT1"),
            (
                b"ccollections\nOrderedDict\n)\x81}(X\x01\x00\x00\x00ab\x85b.",
                "truncated or damaged|adds to|mark|dictionary",
            ),
            (
                b"ctorch._utils\n_rebuild_tensor_v2\n}(X\x08\x00\x00\x00__code__K\x01ub.",
                "adds to what is no dictionary",
            ),
            (b"ctorch._utils\n_rebuild_tensor_v2\nK\x01K\x02s.", "adds to what is no dictionary"),
            (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "arguments that it does not take"),
            (b"ctorch\nFloatStorage\n)R.", "calls what is no function"),
            (b"K\x01)R.", "calls what is no function"),
            (b"K\x01Q.", "persistent id that is no storage"),
            (b"(Pname\n.", "PERSID"),
            (b"}X\x01\x00\x00\x00a.", "expected a dictionary of tensors"),
            (b"0.", "empty stack"),
            (b"t.", "mark is missing"),
            (b"a.", "empty stack"),
            (b"u.", "mark is missing"),
            (b"}s.", "empty stack"),
            (b"}]]s.", "key of a dictionary"),
            (b"h\x05.", "memo"),
            (b"g99999999999\n.", "memo"),
            (b"j\xff\xff\xff\xff.", "memo"),
            (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", "truncated or damaged"),
            (b"\x8b\xff\xff\xff\x7f", "truncated or damaged"),
            (b"L" + b"9" * 100_000 + b"L\n.", "truncated or damaged"),
            (b"", "truncated or damaged"),
        ):
            with self.subTest(code=code[:60]):
                self.both(code, *reason.split("|"))

    def test_the_memo_costs_nothing(self):
        start = time.process_time()
        self.both(
            b"}r\xff\xff\xff\xff0N.", "holds a NoneType"
        )  # number 4,294,967,295 of the memo, which is a dictionary here and no array
        bomb = (
            b"(]q\x00" + b"".join(b"(" + (b"h" + bytes([k])) * 10 + b"lq" + bytes([k + 1]) for k in range(60)) + b"d."
        )
        self.refusal(
            "pytorch", self.zipped(b"}(X\x01\x00\x00\x00a" + bomb[1:-2] + b"u.")
        )  # ten of ten of ten of ... lists
        keys = (
            b"}("
            + b")q\x00"
            + b"".join(b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(60))
            + b"K\x01u."
        )
        self.assertIn("key of a dictionary", self.refusal("pytorch", self.zipped(keys)))
        itself = b"}q\x00X\x01\x00\x00\x00ah\x00s."
        self.assertIn("no tensors", self.refusal("pytorch", self.zipped(itself)))
        self.assertLess(time.process_time() - start, 30, "exponential")

    def test_tensors_that_lie_about_their_storage(self):
        shape = {"w": (4, 3)}
        for change, reason in (
            ({"offset": 1}, "beyond its storage"),
            ({"offset": 1 << 39}, "beyond its storage"),
            ({"offset": -1}, "not rebuilt"),
            ({"stride": (4, 1)}, "beyond its storage"),
            ({"stride": (-3, 1)}, "not rebuilt"),
            ({"stride": (3,)}, "not rebuilt"),
            ({"stride": (1 << 39, 1)}, "beyond its storage"),
            ({"count": 13}, "expected 52"),
            ({"count": 1 << 39}, "expected"),
            ({"count": -1}, "without a key or a size"),
            ({"sizes": {"w": (1 << 20, 1 << 20)}, "stride": (0, 0), "count": 12}, None),
        ):
            with self.subTest(str(change)):
                if "sizes" in change:  # made large by strides of zero
                    data, storages = dumps({"w": _Tensor(_Stored("0", 12), (1 << 20, 1 << 20), (0, 0))}), {
                        "0": bytes(48)
                    }
                    reason = "many times as large"
                else:
                    tensors, storages = self.good(shape, **change)
                    data = dumps(tensors)
                self.assertIn(reason, self.refusal("pytorch", self.zipped(data, storages)))
        self.assertIn("is missing", self.refusal("pytorch", self.zipped(dumps(self.good(shape)[0]))))
        shared = _Stored("0", 1 << 20)
        many = {
            f"w{k}": _Tensor(shared, (1 << 10, 1 << 10), (1 << 10, 1)) for k in range(200)
        }  # 4 MB two hundred times
        self.assertIn("many times as large", self.refusal("pytorch", self.zipped(dumps(many), {"0": bytes(4 << 20)})))

    def test_archives_that_are_none(self):
        data, storages = dumps(self.good()[0]), self.good()[1]
        self.assertIn(
            "is compressed",
            self.refusal("pytorch", self.zipped(data + b" " * 10_000, storages, method=zipfile.ZIP_DEFLATED)),
        )
        self.assertIn("TorchScript", self.refusal("pytorch", self.zipped(data, storages, beside=("constants.pkl",))))
        self.assertIn("no file of torch.save", self.refusal("pytorch", self.zipped(data, storages, root="a/b/c/")))
        (self.dir / "net.pt").write_bytes(b"PK\x03\x04" + bytes(100))
        self.assertIn("truncated or damaged", self.refusal("pytorch", self.dir / "net.pt"))
        (self.dir / "net.pt").write_bytes(self.rng.bytes(5000))
        self.refusal("pytorch", self.dir / "net.pt")
        self.assertIn("No such file", self.refusal("pytorch", self.dir / "absent.pt"))
        self.assertIn("Is a directory", self.refusal("pytorch", self.dir))

    def test_storages_of_old_files_are_counted(self):
        tensors, storages = self.good()
        head = (
            dumps(torch_file.MAGIC)
            + dumps(1001)
            + dumps({"little_endian": True})
            + dumps({k: t for k, t in tensors.items()})
        )
        # Old files name the view of a storage too; None where it is none.
        for count, reason in ((18, None), (17, "expected 18"), (1 << 40, "expected 18"), (-1, "expected 18")):
            body = b"".join(
                struct.pack("<q", count if k == "0" else len(raw) // 4) + raw for k, raw in storages.items()
            )
            (self.dir / "old.pt").write_bytes(head + dumps(list(storages)) + body)
            if reason:
                self.assertIn(reason, self.refusal("pytorch", self.dir / "old.pt"))
            else:
                self.convert("pytorch", self.dir / "old.pt")

    def test_weights_that_are_not_finite_are_refused(self):
        tensors, storages = self.good()
        storages["1"] = np.full(27, np.inf, "f4").tobytes()
        self.assertIn("not finite", self.refusal("pytorch", self.zipped(dumps(tensors), storages)))

    def test_a_version_that_is_there_stays_as_it_is(self):
        tensors, storages = self.good()
        path = self.zipped(dumps(tensors), storages)
        target = self.convert("pytorch", path)
        before = (target / "model.safetensors").read_bytes()
        self.made -= 1  # the same directory again
        status, _, _, err = self.run_command("pytorch", path)
        self.assertEqual(status, 1)
        self.assertIn("exists already", err)
        self.assertEqual((target / "model.safetensors").read_bytes(), before)


if __name__ == "__main__":
    run()
