# SPDX-License-Identifier: MIT
"""The Open Inference Protocol over HTTP against a real server: urllib, curl, and sockets that misbehave.

Environment: LSTM_SERVER, the binary.
"""
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "client" / "python"))

import numpy as np

import lstm
from server_child import Server

TIMEOUT = 60


def tensor(name, x):
    x = np.ascontiguousarray(x)
    return {"name": name, "datatype": {"float32": "FP32", "int32": "INT32", "int64": "INT64"}[x.dtype.name], "shape": list(x.shape), "data": x.tolist()}


class RestTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        golden = ROOT / "models" / "golden"
        cls.words = np.load(golden / "french" / "word.npy").astype(np.int32)
        cls.readings = np.load(golden / "telemetry" / "reading.npy").astype(np.float32)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def setUp(self):
        self.http = self.connect()
        self.native = lstm.connect(self.server.address, timeout=TIMEOUT)
        self.addCleanup(self.native.close)

    def connect(self, server=None):
        connection = http.client.HTTPConnection(*(server or self.server).http, timeout=TIMEOUT)
        self.addCleanup(connection.close)
        return connection

    def ask(self, method, path, body=None, headers=None, connection=None):
        """status, headers, body"""
        connection = connection or self.http
        connection.request(method, path, json.dumps(body) if isinstance(body, dict) else body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()

    def get(self, path, connection=None):
        status, headers, body = self.ask("GET", path, connection=connection)
        self.assertEqual(status, 200, body)
        self.assertEqual(headers["Content-Type"], "application/json")
        return json.loads(body)

    def infer(self, model, body, connection=None):
        status, _, got = self.ask("POST", f"/v2/models/{model}/infer", body, connection=connection)
        self.assertEqual(status, 200, got)
        return json.loads(got)

    def refused(self, status, text, method, path, body=None, headers=None, connection=None):
        got, got_headers, answer = self.ask(method, path, body, headers, connection)
        self.assertEqual(got, status, answer)
        self.assertIn(text, json.loads(answer)["error"])
        return got_headers

    def until(self, condition):
        while not condition():
            pass

    def test_addresses_that_describe(self):
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/french/ready", "/v2/models/french/versions/1/ready"):
            status, _, body = self.ask("GET", path)
            self.assertEqual((status, body), (200, b""), path)
        server = self.get("/v2")
        self.assertEqual(server["name"], "lstm-server")
        self.assertIn("binary_tensor_data", server["extensions"])
        model = self.get("/v2/models/telemetry")
        self.assertEqual(model["inputs"], [{"name": "reading", "datatype": "FP32", "shape": [-1, 6]}])
        self.assertEqual(self.get("/v2/models/telemetry/versions/1"), model)
        config = self.get("/v2/models/telemetry/config")
        self.assertEqual(config["sequence_batching"]["max_sequence_idle_microseconds"], 900_000_000)
        self.assertEqual(config["input"], [{"name": "reading", "data_type": "TYPE_FP32", "dims": [6]}])
        self.infer("french-rnn", {"inputs": [tensor("word", self.words[:7])]})
        stats = self.get("/v2/models/french-rnn/stats")["model_stats"]
        self.assertEqual((len(stats), stats[0]["inference_count"]), (1, 7))
        self.assertEqual(len(self.get("/v2/models/stats")["model_stats"]), 4)
        status, _, body = self.ask("POST", "/v2/repository/index", {"ready": True})
        self.assertEqual(sorted(m["name"] for m in json.loads(body)), ["french", "french-rnn", "shakespeare", "telemetry"])
        self.assertEqual({m["state"] for m in json.loads(body)}, {"READY"})

    def test_json_tensors_come_and_go_with_their_bits(self):
        got = self.infer("telemetry", {"id": "a\"\u00e9", "inputs": [tensor("reading", self.readings)]})
        self.assertEqual((got["model_name"], got["model_version"], got["id"]), ("telemetry", "1", "a\"\u00e9"))
        want = self.native.predict("telemetry", self.readings)
        self.assertEqual({o["name"] for o in got["outputs"]}, set(want))
        for output in got["outputs"]:
            self.assertEqual(output["shape"], list(want[output["name"]].shape))
            self.assertEqual(np.array(output["data"], np.float32).tobytes(), want[output["name"]].tobytes())
        flat = tensor("reading", self.readings)
        flat["data"] = self.readings.ravel().tolist()
        some = self.infer("telemetry", {"inputs": [flat], "outputs": [{"name": "anomaly"}]})
        self.assertEqual([o["name"] for o in some["outputs"]], ["anomaly"])
        self.assertEqual(np.array(some["outputs"][0]["data"], np.float32).tobytes(), want["anomaly"].tobytes())

    def test_binary_tensors_lie_behind_the_json(self):
        raw = self.readings.tobytes()
        want = self.native.predict("telemetry", self.readings)
        for outputs, parameters in (([{"name": "forecast", "parameters": {"binary_data": True}}, {"name": "anomaly"}], {}),
                                    ([{"name": "forecast"}, {"name": "anomaly", "parameters": {"binary_data": False}}], {"binary_data_output": True})):
            head = json.dumps({"parameters": parameters, "outputs": outputs,
                               "inputs": [{"name": "reading", "datatype": "FP32", "shape": list(self.readings.shape), "parameters": {"binary_data_size": len(raw)}}]}).encode()
            status, headers, body = self.ask("POST", "/v2/models/telemetry/infer", head + raw, {"Inference-Header-Content-Length": str(len(head))})
            self.assertEqual(status, 200, body)
            self.assertEqual(headers["Content-Type"], "application/octet-stream")
            size = int(headers["Inference-Header-Content-Length"])
            described = {o["name"]: o for o in json.loads(body[:size])["outputs"]}
            self.assertEqual(described["forecast"]["parameters"], {"binary_data_size": want["forecast"].nbytes})
            self.assertEqual(body[size:], want["forecast"].tobytes())
            self.assertEqual(np.array(described["anomaly"]["data"], np.float32).tobytes(), want["anomaly"].tobytes())

    def test_sequences_go_on_from_request_to_request(self):
        want = self.native.predict("french", self.words[:10])
        for key in (12, "twelve"):
            got = []
            for i in range(10):
                parameters = {"sequence_id": key, "sequence_start": i == 0, "sequence_end": i == 9}
                answer = self.infer("french", {"parameters": parameters, "inputs": [tensor("word", self.words[i:i + 1])]}, self.connect() if i % 3 == 2 else None)
                got.append(np.array(answer["outputs"][0]["data"], np.float32))
            self.assertEqual(np.concatenate(got).tobytes(), want.tobytes())

    def test_a_connection_holds_its_sequences(self):
        start = {"parameters": {"sequence_id": 5, "sequence_start": True}, "inputs": [tensor("word", self.words[:1])]}
        first = self.connect()
        self.infer("french", start, first)
        self.refused(409, "sequence 5 of model 'french' lives", "POST", "/v2/models/french/infer", start)
        self.refused(404, "sequence 6 of model 'french' is not known", "POST", "/v2/models/french/infer",
                     {"parameters": {"sequence_id": 6}, "inputs": [tensor("word", self.words[:1])]})
        first.close()
        self.until(lambda: self.ask("POST", "/v2/models/french/infer", start)[0] == 200)
        start["parameters"]["sequence_take_over"] = True
        self.infer("french", start)

    def test_curl_does_it(self):
        url = "http://%s:%d/v2" % self.server.http
        words = ",".join(map(str, self.words[:5]))
        body = '{"inputs":[{"name":"word","datatype":"INT32","shape":[5],"data":[%s]}]}' % words
        got = subprocess.run(["curl", "-sS", "--fail-with-body", url + "/models/french/infer", "-d", body], capture_output=True, check=True, text=True)
        self.assertEqual(np.array(json.loads(got.stdout)["outputs"][0]["data"], np.float32).tobytes(), self.native.predict("french", self.words[:5]).tobytes())
        with tempfile.NamedTemporaryFile() as file:  # large enough for curl to ask whether it may
            head = json.dumps({"inputs": [{"name": "reading", "datatype": "FP32", "shape": [60_000, 6], "parameters": {"binary_data_size": 1_440_000}}],
                               "outputs": [{"name": "anomaly", "parameters": {"binary_data": True}}]}).encode()
            file.write(head + np.resize(self.readings, (60_000, 6)).tobytes())
            file.flush()
            got = subprocess.run(["curl", "-sS", "--fail-with-body", "-H", f"Inference-Header-Content-Length: {len(head)}", "-H", "Content-Type: application/octet-stream",
                                  "--data-binary", f"@{file.name}", "-H", "Expect: 100-continue", url + "/models/telemetry/infer"], capture_output=True, check=True)
            self.assertEqual(len(got.stdout[-240_000:]), 240_000)
            chunked = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Transfer-Encoding: chunked", url + "/models/french/infer", "-d", body],
                                     capture_output=True, check=True, text=True)
            self.assertEqual(chunked.stdout, "200")
            large = subprocess.run(["curl", "-sS", "-w", "%{http_code}", url + "/models/french/infer", "--data-binary", "@-"], input=bytes(6 << 20), capture_output=True)
            self.assertIn(b"413", large.stdout, large.stderr)

    def test_refusals_name_what_was_wrong(self):
        good = tensor("word", self.words[:2])
        infer = "/v2/models/french/infer"
        for change, status, text in (
                ({"inputs": None}, 400, "inputs is a JSON null, expected an array"),
                ({"inputs": [1]}, 400, "inputs holds a JSON number, expected objects"),
                ({"inputs": [{**good, "data": [1, "x"]}]}, 400, "input 'word': data holds a JSON string that is no INT32, expected whole numbers"),
                ({"inputs": [{**good, "data": [1, 2.5]}]}, 400, "data holds a JSON number that is no INT32"),
                ({"inputs": [{**good, "data": [1, 1 << 40]}]}, 400, "data holds 1099511627776, which INT32 has not, expected -2147483648 to"),
                ({"inputs": [{**good, "data": [1]}]}, 400, "4 bytes"),
                ({"inputs": [{**good, "shape": [2, 1.5]}]}, 400, "input 'word': shape holds what is no whole number"),
                ({"inputs": [{**good, "shape": [1 << 63]}]}, 400, "no whole number"),
                ({"inputs": [{**good, "shape": "2"}]}, 400, "input 'word': shape is a JSON string, expected an array"),
                ({"inputs": [{**good, "datatype": "BYTES"}]}, 400, "datatype 'BYTES', expected INT32 or INT64"),
                ({"inputs": [{**good, "parameters": {"binary_data_size": 8}}]}, 400, "data and binary_data_size, expected one of the two"),
                ({"inputs": [{k: v for k, v in good.items() if k != "data"}]}, 400, "neither data nor binary_data_size"),
                ({"inputs": [{k: v for k, v in good.items() if k != "data"} | {"parameters": {"binary_data_size": 8}}]}, 400, "binary_data_size is 8, expected a number of the 0 bytes"),
                ({"outputs": [{"name": "x"}]}, 400, "no output is called 'x'"),
                ({"parameters": {"sequence_id": 1.5}}, 400, "parameter 'sequence_id': double_param, expected"),
                ({"parameters": {"sequence_id": 1 << 63}}, 400, "parameter 'sequence_id': uint64_param, expected"),
                ({"parameters": {"sequence_start": [1]}}, 400, "parameter 'sequence_start' is a JSON array"),
                ({"parameters": 1}, 400, "parameters is a JSON number, expected an object"),
                ({"id": 5}, 400, "id is a JSON number, expected a text"),
        ):
            self.refused(status, text, "POST", infer, {"inputs": [good], **change})
        for body in (b"", b"{", b"[]", b"nonsense", b"\xff\xfe", b'{"inputs":[' + b"[" * 100_000, b'{"a":"' + b"\\" * 99):
            self.refused(400, "", "POST", infer, body)
        self.refused(400, "nested deeper than 64", "POST", infer, b'{"inputs":' + b"[" * 100_000)
        ok = json.dumps({"inputs": [good]}).encode()
        for length in ("-1", "x", str(len(ok) + 1)):
            self.refused(400, "Inference-Header-Content-Length", "POST", infer, ok, {"Inference-Header-Content-Length": length})
        self.refused(400, "3 bytes behind the JSON belong to no input", "POST", infer, ok + b"abc", {"Inference-Header-Content-Length": str(len(ok))})
        self.refused(404, "no model 'x'", "POST", "/v2/models/x/infer", ok)
        self.refused(404, "no model of that name", "GET", "/v2/models/..%2F..%2Fetc%2Fpasswd")
        self.refused(404, "no model 'french' version 9", "GET", "/v2/models/french/versions/9")
        self.refused(404, "nothing is here", "GET", "/")
        self.refused(404, "nothing is here", "GET", "/v2/models/french/infer/more")
        self.assertEqual(self.refused(405, "wants POST", "GET", infer)["Allow"], "POST")
        self.refused(415, "Content-Encoding", "POST", infer, ok, {"Content-Encoding": "gzip"}, self.connect())
        self.refused(403, "web pages", "POST", infer, ok, {"Origin": "http://example.org"}, self.connect())
        self.refused(403, "--allow-admin", "POST", "/v2/repository/models/french/unload")
        self.refused(501, "shared memory", "POST", infer, {"inputs": [{**good, "parameters": {"shared_memory_region": "r"}}]})
        self.infer("french", {"inputs": [good]})

    def test_clients_that_misbehave_are_answered_or_dropped_and_harm_nobody(self):
        def send(data, server=self.server):
            with socket.create_connection(server.http, timeout=TIMEOUT) as s:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                got = b""
                try:
                    while part := s.recv(65536):
                        got += part
                except ConnectionResetError:
                    pass
                return got
        self.assertIn(b" 400 ", send(b"rubbish\r\n\r\n").split(b"\r\n")[0])
        self.assertIn(b" 400 ", send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on\r\n\r\n").split(b"\r\n")[0])
        self.assertIn(b" 431 ", send(b"GET /v2 HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n").split(b"\r\n")[0])
        self.assertIn(b" 413 ", send(b"POST /v2/models/french/infer HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n").split(b"\r\n")[0])
        self.assertIn(b" 400 ", send(b"POST /v2 HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello").split(b"\r\n")[0])
        send(b"POST /v2/models/french/infer HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        self.assertEqual(send(b"HEAD /v2 HTTP/1.1\r\n\r\n").split(b"\r\n\r\n")[1], b"")
        two = send(b"GET /v2/health/live HTTP/1.1\r\n\r\nGET /v2/health/live HTTP/1.1\r\n\r\n")
        self.assertEqual(two.count(b"HTTP/1.1 200"), 2)
        rng = np.random.default_rng(3)
        body = json.dumps({"inputs": [tensor("word", self.words[:2])], "parameters": {"sequence_id": 1}})
        good = f"POST /v2/models/french/infer HTTP/1.1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        for _ in range(200):
            data = bytearray(good[:int(rng.integers(1, len(good) + 1))])
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
            send(bytes(data))
        # Connections that say nothing cost nothing but their place; those beyond the limit are closed at once.
        silent = [socket.create_connection(self.server.http, timeout=TIMEOUT) for _ in range(600)]
        self.assertEqual(silent[-1].recv(1), b"")
        for s in silent:
            s.close()
        self.until(lambda: send(b"GET /v2/health/live HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200"))

    def test_models_are_loaded_and_unloaded_by_call(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        shutil.copytree(ROOT / "models" / "repository" / "french", pathlib.Path(folder.name) / "french")
        server = Server("--allow-admin", "--model-poll-seconds", "0", models=folder.name)
        self.addCleanup(server.stop)
        connection = self.connect(server)
        self.assertEqual(self.ask("POST", "/v2/repository/models/french/unload", {"parameters": {"unload_dependents": False}}, connection=connection)[0], 200)
        self.assertEqual(self.ask("GET", "/v2/models/french/ready", connection=connection)[0], 404)
        self.assertEqual(self.ask("GET", "/v2/health/ready", connection=connection)[0], 503)
        self.refused(404, "no model 'french'", "POST", "/v2/repository/models/french/unload", connection=connection)
        self.refused(404, "no model of that name", "POST", "/v2/repository/models/x/load", connection=connection)
        self.refused(501, "parameters of a load", "POST", "/v2/repository/models/french/load", {"parameters": {"config": "{}"}}, connection=connection)
        self.assertEqual(self.ask("POST", "/v2/repository/models/french/load", connection=connection)[0], 200)
        self.assertEqual(self.ask("GET", "/v2/models/french/ready", connection=connection)[0], 200)

    def test_a_port_in_use_stops_no_server_and_the_end_is_clean(self):
        port = str(self.server.http[1])
        second = subprocess.Popen([os.environ["LSTM_SERVER"], "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:" + port, "--metrics-listen", "",
                                   "--models", "models/repository"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for line in second.stderr:
            if "no Open Inference Protocol yet" in line:
                self.assertIn("--http-listen names another address", line)
                break
        else:
            self.fail("nothing was said of the port")
        second.send_signal(signal.SIGTERM)
        second.stderr.read()
        self.assertEqual(second.wait(TIMEOUT), 0)
        second.stderr.close()

    def test_a_server_that_ends_answers_what_had_begun(self):
        server = Server("--drain-seconds", "600")
        self.addCleanup(server.stop)
        idle = self.connect(server)
        self.infer("french", {"inputs": [tensor("word", self.words[:1])]}, idle)
        body = json.dumps({"inputs": [tensor("word", self.words[:2])]}).encode()
        with socket.create_connection(server.http, timeout=TIMEOUT) as begun:
            begun.sendall(b"POST /v2/models/french/infer HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            self.assertTrue(begun.recv(100).startswith(b"HTTP/1.1 100"))
            server.process.send_signal(signal.SIGTERM)

            def gone():
                try:
                    socket.create_connection(server.http, timeout=TIMEOUT).close()
                except ConnectionRefusedError:
                    return True
                except ConnectionResetError:  # it stood in the queue of a socket that was closed that moment
                    pass
            self.until(gone)
            begun.sendall(body)
            self.assertIn(begun.recv(12), (b"HTTP/1.1 200", b"HTTP/1.1 503"))  # as soon as the shards drain: 503
        self.assertEqual(server.process.wait(TIMEOUT), 0)


if __name__ == "__main__":
    unittest.main()
