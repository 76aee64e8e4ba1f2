# SPDX-License-Identifier: MIT
"""Tokens as an operator meets them: made by the binary, in a file that changes, over every face of a real server.

Environment: LSTM_SERVER and LSTM_CLIENT, the binaries.
"""
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "client" / "python"))

import lstm

SERVER, CLIENT = os.environ["LSTM_SERVER"], os.environ["LSTM_CLIENT"]


def new_token(name):
    made = subprocess.run([SERVER, "--new-token", name], capture_output=True, text=True, check=True)
    token, line = made.stdout.splitlines()
    assert token not in made.stderr and token not in line, "it is shown once"
    return token, line


class TokensTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.file = pathlib.Path(self.folder.name, "callers.textproto")
        self.a, self.line_a = new_token("a")
        self.ops, self.line_ops = new_token("ops")
        self.write(self.line_a, self.line_ops[:-1] + "admin: true }")
        self.server = subprocess.Popen([SERVER, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--metrics-listen", "", "--models", "models/repository",
                                        "--shards", "2", "--pin-shards", "false", "--allow-admin", "--token-file", self.file], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.stop)
        self.assertIn("2 of them", self.wait_for("callers must be known"))
        self.address = re.search(r"listening on (\S+)", self.wait_for("listening on"))[1]
        host, port = re.search(r"http://([0-9.]+):(\d+)/v2", self.wait_for("Open Inference Protocol on")).groups()
        self.http = host, int(port)

    def stop(self):
        self.server.kill()
        self.server.wait()
        self.server.stderr.close()

    def write(self, *lines):
        """In its place at once, as operators should."""
        new = self.file.with_suffix(".new")
        new.write_text("\n".join(lines))
        new.rename(self.file)

    def wait_for(self, text):
        for line in self.server.stderr:
            if text in line:
                return line
        self.fail(f"the server ended without saying '{text}'")

    def ask(self, method, path, token=None, body=None, headers={}):
        connection = http.client.HTTPConnection(*self.http, timeout=60)
        self.addCleanup(connection.close)
        connection.request(method, path, body, {**headers, **({"Authorization": f"Bearer {token}"} if token else {})})
        response = connection.getresponse()
        return response.status, response.read(), response.headers

    def test_rest_wants_a_token_for_all_but_health(self):
        for path in "/v2/health/live", "/v2/health/ready", "/v2/health/live?x=1":
            self.assertEqual(self.ask("GET", path)[0], 200, path)
        infer = json.dumps({"inputs": [{"name": "word", "datatype": "INT32", "shape": [2], "data": [5, 9]}]})
        for method, path in (("GET", "/v2"), ("GET", "/v2/models/french"), ("GET", "/v2/models/stats"), ("POST", "/v2/models/french/infer"), ("GET", "/nothing"),
                             ("POST", "/v2/repository/index"), ("POST", "/v2/repository/models/french/load"), ("HEAD", "/v2"), ("GET", "/v2/health/live/"), ("GET", "/v2/health/%6cive")):
            for token in None, "lstm_" + 64 * "0", self.a + "0", self.a[:-1]:
                status, body, headers = self.ask(method, path, token, infer if method == "POST" else None)
                self.assertEqual((status, headers["WWW-Authenticate"]), (401, "Bearer"), (method, path, body))
                if method != "HEAD":
                    self.assertRegex(json.loads(body)["error"], "token is (missing|not known)")
        self.assertEqual(self.ask("GET", "/v2", self.a)[0], 200)
        status, body, _ = self.ask("POST", "/v2/models/french/infer", self.a, infer)
        self.assertEqual(status, 200, body)
        status, body, _ = self.ask("POST", "/v2/repository/models/french/load", self.a)
        self.assertEqual(status, 403, body)
        self.assertIn("marked as admin", json.loads(body)["error"])
        self.assertEqual(self.ask("POST", "/v2/repository/models/french/load", self.ops)[0], 200)

    def test_a_body_is_not_waited_for_where_nobody_knows_its_sender(self):
        status, _, _ = self.ask("POST", "/v2/models/french/infer", None, None, {"Content-Length": "3000000", "Expect": "100-continue"})
        self.assertEqual(status, 401)

    def test_a_sequence_of_one_caller_is_the_same_over_grpc_and_http_and_no_other_callers(self):
        def infer(token, start):
            body = {"parameters": {"sequence_id": 7, "sequence_start": start}, "inputs": [{"name": "word", "datatype": "INT32", "shape": [1], "data": [5]}]}
            return self.ask("POST", "/v2/models/french/infer", token, json.dumps(body))[0]

        self.assertEqual(infer(self.a, True), 200)
        self.assertEqual(infer(self.a, False), 200)
        self.assertEqual(infer(self.ops, False), 404)

    def test_the_clients_send_what_they_are_given(self):
        models = [CLIENT, "--server", self.address, "models"]
        clean = {k: v for k, v in os.environ.items() if k != "LSTM_TOKEN"}
        self.assertIn("french", subprocess.run(models, env={**clean, "LSTM_TOKEN": self.a}, capture_output=True, text=True, check=True).stdout)
        refused = subprocess.run(models, env=clean, capture_output=True, text=True)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("a token is missing", refused.stderr)
        with lstm.connect(self.address, token=self.a) as client, client.session("french") as session:
            session.step([5])
            self.assertEqual([s.applied_seq for s in client.sessions()], [1])
        with lstm.connect(self.address, token="wrong") as client, self.assertRaisesRegex(lstm.Unauthenticated, "the token is not known here"):
            client.session("french").step([5])
        subprocess.run([SERVER, "--probe", "--listen", self.address], check=True)

    def test_the_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing(self):
        b, line_b = new_token("b")
        self.assertEqual(self.ask("GET", "/v2", b)[0], 401)
        self.write(line_b)
        self.assertIn("1 of them", self.wait_for("callers must be known"))
        self.assertEqual(self.ask("GET", "/v2", b)[0], 200)
        self.assertEqual(self.ask("GET", "/v2", self.a)[0], 401)
        self.write(line_b, "caller {")
        self.assertRegex(self.wait_for("stay"), "token file: line 2, column .*; the callers that were known before stay")
        self.assertEqual(self.ask("GET", "/v2", b)[0], 200)
        self.file.unlink()
        self.write(self.line_a)
        self.wait_for("callers must be known")
        self.assertEqual(self.ask("GET", "/v2", self.a)[0], 200)

    def test_a_server_does_not_start_without_its_file(self):
        for text, message in (None, "cannot be read"), ("", "there is no caller in it"), ("caller { name: 'a' }", "neither token_sha256 nor certificate"):
            self.file.unlink(missing_ok=True)
            if text is not None:
                self.file.write_text(text)
            ended = subprocess.run([SERVER, "--listen", "127.0.0.1:0", "--models", "models/repository", "--token-file", self.file], cwd=ROOT, capture_output=True, text=True)
            self.assertEqual(ended.returncode, 1)
            self.assertIn(message, ended.stderr)
        bad = subprocess.run([SERVER, "--new-token", "a b"], capture_output=True, text=True)
        self.assertEqual((bad.returncode, bad.stdout), (2, ""))
        self.assertIn("1 to 64 letters", bad.stderr)


if __name__ == "__main__":
    unittest.main()
