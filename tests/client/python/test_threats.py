# SPDX-License-Identifier: MIT
"""What hostile callers try against a real server (SECURITY.md), and what it costs: its memory is looked at from outside.

Environment: LSTM_SERVER, the binary.
"""
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import sys
import tempfile
import unittest
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "client" / "python"))

import grpc
import numpy as np

import lstm
from server_child import Server
from lstm.v1 import prediction_pb2, session_pb2

MB = 1 << 20
QUOTA = 96 * MB
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8  # of HTTP/2
SANITIZED = bool(os.environ.get("LSTM_SANITIZE"))  # such a process has other sizes


class ThreatsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.models = pathlib.Path(folder.name, "private-place")
        shutil.copytree(ROOT / "models" / "repository", self.models, ignore=lambda _, names: {n for n in names if n == "shakespeare"})
        self.server = Server("--allow-admin", "--grpc-memory-bytes", str(QUOTA), "--log-level", "trace", models=self.models)
        self.addCleanup(lambda: self.server and self.assertTrue(self.server.stop(), "the server died of it"))
        self.address, self.http = self.server.address, self.server.http

    def peak(self):
        return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text())[1]) << 10

    def channel(self):
        channel = grpc.insecure_channel(self.address, options=[("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)])
        self.addCleanup(channel.close)
        return channel

    @contextlib.contextmanager
    def honest(self):
        """A session beside it, which notices nothing."""
        with lstm.connect(self.address) as client, client.session("french") as session:
            alone = client.predict("french", np.int32([5, 9]))
            first = session.step([5])
            yield
            np.testing.assert_array_equal(np.stack([first, session.step([9])]).reshape(np.asarray(alone).shape), alone)

    def test_a_message_that_unpacks_to_a_hundred_times_its_size_is_not_unpacked(self):
        with self.honest():
            before = self.peak()
            zeros = bytes(128 * MB)
            for method, algorithm in (("Predict", grpc.Compression.Gzip), ("Predict", grpc.Compression.Deflate), ("Stream", grpc.Compression.Gzip)):
                with self.assertRaises(grpc.RpcError) as caught:
                    next(self.channel().stream_stream(f"/lstm.v1.Prediction/{method}")(iter([zeros]), compression=algorithm, timeout=60))
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED, caught.exception.details())
            if not SANITIZED:
                self.assertLess(self.peak() - before, 48 * MB)

    def test_a_flood_of_fields_that_nobody_knows_costs_little(self):
        flood = bytes([0xF8, 0x07, 0x01]) * (MB + MB // 4)  # field 127, a varint: 3.75 MB of them
        with self.honest():
            before = self.peak()
            for method in "/lstm.v1.Prediction/Predict", "/lstm.v1.Prediction/ListModels", "/inference.GRPCInferenceService/ModelInfer":
                with contextlib.suppress(grpc.RpcError):
                    self.channel().unary_unary(method)(flood, timeout=60)
            nested = b""
            for _ in range(10_000):  # field 15 within itself: the parser's depth is bounded
                nested = b"\x7a" + lengthed(nested)
            with contextlib.suppress(grpc.RpcError):
                self.channel().unary_unary("/lstm.v1.Prediction/Predict")(nested, timeout=60)
            if not SANITIZED:
                self.assertLess(self.peak() - before, 192 * MB)

    def test_a_gigabyte_that_is_announced_is_not_kept(self):
        """By hand: 1 GB in one message, as fast as the server lets it. gRPC looks at the size of a message once it is whole, so others may lose their streams
        meanwhile; but its quota holds, and what comes afterwards is served."""
        before = self.peak()
        host, port = self.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=60) as s, contextlib.suppress(OSError):  # it may be cut off
            headers = b"".join(b"\x00" + text(k) + text(v) for k, v in (
                (":method", "POST"), (":scheme", "http"), (":path", "/lstm.v1.Prediction/Predict"), (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")))
            begin = b"\x00" + struct.pack(">I", 1 << 30)
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, headers) + frame(DATA, 0, 1, begin))
            sent, window, stream_window, part, data = 0, 65535 - len(begin), 65535 - len(begin), bytes(16384), b""
            while sent < 1 << 30:
                while min(window, stream_window) >= len(part):
                    s.sendall(frame(DATA, 0, 1, part))
                    sent, window, stream_window = sent + len(part), window - len(part), stream_window - len(part)
                got = s.recv(65536)
                if not got:
                    break
                data += got
                while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
                    size, kind, flags, stream = int.from_bytes(data[:3], "big"), data[3], data[4], int.from_bytes(data[5:9], "big")
                    body, data = data[9:9 + size], data[9 + size:]
                    if kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & 1):
                        sent = 1 << 30
                    elif kind == WINDOW_UPDATE and stream:
                        stream_window += int.from_bytes(body, "big")
                    elif kind == WINDOW_UPDATE:
                        window += int.from_bytes(body, "big")
                    elif kind in (SETTINGS, PING) and not flags & 1:
                        for i in range(0, size if kind == SETTINGS else 0, 6):
                            if int.from_bytes(body[i:i + 2], "big") == 4:  # INITIAL_WINDOW_SIZE
                                stream_window += int.from_bytes(body[i + 2:i + 6], "big") - 65535
                        s.sendall(frame(kind, 1, 0, body if kind == PING else b""))
        if not SANITIZED:
            self.assertLess(self.peak() - before, QUOTA + 64 * MB)
        with self.honest():
            pass

    def test_text_of_a_client_makes_no_line_of_the_log(self):
        mark = "c4n4ry"
        hostile = [mark, f"\n{mark} critical stopped", f"\x1b[31m{mark}\r", f"%s%n{{}}{mark}", f"{mark}{'x' * 100_000}", f"../{mark}", f"\u202e{mark}\u2028"]
        with lstm.connect(self.address, token=mark) as client:
            for name in hostile:
                for attempt in (lambda: client.session(name).step([5]), lambda: client.model(name), lambda: client.predict(name, [5]), lambda: client.sessions(name),
                                lambda: client.import_(name.encode()), lambda: client.close_session(name.encode()), lambda: client.session("french").text(name)):
                    with contextlib.suppress(lstm.Error, AttributeError, ValueError):
                        attempt()
        for name in hostile[:4] + hostile[5:]:
            quoted = urllib.parse.quote(name, safe="")
            body = json.dumps({"id": name, "parameters": {"sequence_id": name, "sequence_start": True, name: name}, "inputs": [{"name": name, "datatype": name, "shape": [1], "data": [name]}]})
            for method, path, data in (("GET", f"/v2/models/{quoted}", None), ("POST", f"/v2/models/{quoted}/infer", body), ("POST", "/v2/models/french/infer", body),
                                       ("POST", f"/v2/repository/models/{quoted}/load", None), ("POST", f"/v2/repository/models/{quoted}/unload", None), ("GET", f"/{quoted}", None)):
                connection = http.client.HTTPConnection(*self.http, timeout=60)
                connection.request(method, path, data, {"User-Agent": mark, "Authorization": f"Bearer {mark}"})
                self.assertGreaterEqual(connection.getresponse().status, 400, path)
                connection.close()
        server, self.server = self.server, None
        self.assertEqual(server.terminate(), 0)
        lines = b"".join(server.log).decode().splitlines(keepends=False)
        self.assertIn("stopped", lines[-1])
        for line in lines:  # what is for who looks closely has it, escaped: no line is another's
            self.assertRegex(line, r"^[0-9T:.+-]+ (debug|info|warning) [ -~]*$")
            if " debug " not in line:
                self.assertNotIn(mark, line)

    def test_no_error_tells_a_path_or_an_address(self):
        """Of all that can be refused here, what is said to the caller."""
        said = []

        def ask(method, path, body=None):
            connection = http.client.HTTPConnection(*self.http, timeout=60)
            connection.request(method, path, body)
            response = connection.getresponse()
            said.append(response.read().decode())
            connection.close()
            return response.status

        broken = self.models / "french" / "2"
        shutil.copytree(self.models / "french" / "1", broken)
        for damage in (lambda: (broken / "model.textproto").write_text("layer {"), lambda: (broken / "model.textproto").unlink(),
                       lambda: (broken / "model.textproto").symlink_to("/etc/passwd"), lambda: shutil.rmtree(broken)):
            damage()
            ask("POST", "/v2/repository/models/french/load")
        self.assertIn("version 2", "".join(said))
        for path in "/v2/models/..%2f..%2fetc", "/v2/models/%00", "/etc/passwd", "/v2/models/french/versions/..":
            self.assertGreaterEqual(ask("GET", path), 400)
        for body in "", "{", "[]", '{"inputs": 3}', '{"inputs": [{"name": "word", "datatype": "INT32", "shape": [1], "data": [999999]}]}', '{"inputs": [{"name": "x"}]}':
            self.assertGreaterEqual(ask("POST", "/v2/models/french/infer", body), 400)
        with lstm.connect(self.address) as client:
            for model in "nosuch", "../french", "french/1", "a" * 1000, "\n":
                with self.assertRaises(lstm.Error) as caught:
                    client.session(model).step([5])
                said.append(str(caught.exception))
            with client.session("french") as session:
                for x in [999999], [-1], [[1.5]], np.zeros((3, 4), np.float32):
                    with self.assertRaises(lstm.Error) as caught:
                        session.step(x)
                    said.append(str(caught.exception))
                session.step([5])
            with self.assertRaises(lstm.Error) as caught:
                client.import_(b"rubbish")
            said.append(str(caught.exception))
            with self.assertRaises(lstm.Error) as caught:
                client.close_session(bytes(16))
            said.append(str(caught.exception))
        self.assertGreater(len(said), 20)
        for text_ in said:
            self.assertNotRegex(text_, r"private-place|/tmp|/etc|/usr|0x[0-9a-f]{6}|\.cc\b|\.h:\d")


def lengthed(data):
    n, out = len(data), b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n]) + data


def frame(kind, flags, stream, body=b""):
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def text(s):
    return bytes([len(s)]) + s.encode()


if __name__ == "__main__":
    unittest.main()
