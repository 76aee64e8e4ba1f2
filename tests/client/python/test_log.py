# SPDX-License-Identifier: MIT
"""The log of a real server while its callers and files are hostile. Environment: LSTM_SERVER, the binary."""
import http.client
import json
import os
import pathlib
import shutil
import sys
import tempfile
import unittest
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "client" / "python"))

import grpc
from server_child import Server
from lstm.v1 import prediction_pb2 as pb
from lstm.v1 import prediction_pb2_grpc as pb_grpc
from lstm.v1 import session_pb2 as session

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FORGED = 'x"}\n{"level":"critical","message":"forged"}\r\n2026-01-01T00:00:00.000+00:00 critical forged \x1b[2J\x7f\u202e\u2028'
HOSTILE_TRACES = ["", "00", f"00-{TRACE}-{PARENT}-01\"}}", f"00-{TRACE[:-1]}\"-{PARENT}-01", f"00-{TRACE.upper()}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", '{"level":"critical"}' * 3, "0" * 55]


class LogTest(unittest.TestCase):
    def lines(self, form):
        """What the server writes from its start to its end."""
        with tempfile.TemporaryDirectory() as models:
            shutil.copytree(ROOT / "models/repository/french", f"{models}/french")
            os.makedirs(f"{models}/broken/1")
            pathlib.Path(f"{models}/broken/1/model.textproto").write_text(FORGED)
            server = Server("--state-dir", f"{models}/{FORGED}", "--log-format", form, "--log-level", "debug", models=models)
            self.addCleanup(server.process.kill)
            with grpc.insecure_channel(server.address) as channel:
                stub = pb_grpc.PredictionStub(channel)
                for trace in [f"00-{TRACE}-{PARENT}-01", *HOSTILE_TRACES]:
                    metadata = [("traceparent", trace)]
                    with self.assertRaises(grpc.RpcError) as refused:
                        stub.Predict(pb.PredictRequest(model=FORGED), metadata=metadata, timeout=60)
                    self.assertEqual(refused.exception.code(), grpc.StatusCode.NOT_FOUND)
                    opening = session.StreamRequest(requests=[session.Request(open=session.Open(lane=1, model=FORGED))])
                    self.assertEqual(len(list(stub.Stream(iter([opening]), metadata=metadata, timeout=60))), 1)
            for trace in [f"00-{TRACE}-{PARENT}-01", *HOSTILE_TRACES]:
                connection = http.client.HTTPConnection(*server.http, timeout=60)
                connection.request("GET", "/v2/models/" + urllib.parse.quote(FORGED, safe=""), headers={"traceparent": trace})
                self.assertEqual(connection.getresponse().status, 404)
                connection.close()
            self.assertEqual(server.terminate(), 0)
        text = b"".join(server.log)
        self.assertRegex(text, rb"\A[\x20-\x7e\n]*\Z", "nothing but printable ASCII")
        return text.decode().splitlines()

    def test_every_line_of_json_is_an_object_of_ours(self):
        events = [json.loads(line) for line in self.lines("json")]
        for event in events:
            self.assertLessEqual({"time", "level", "message"}, event.keys())
            self.assertIn(event["level"], ["debug", "info", "warning", "error"])
            self.assertRegex(event["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d$")
        broken = [event for event in events if "model broken" in event["message"]]
        self.assertEqual([event["level"] for event in broken], ["error"])
        named = [event for event in events if event["message"].startswith("state directory ")]
        self.assertIn(f"/{FORGED}'", named[0]["message"], "the directory is called so")
        ours = [event for event in events if "of" in event]
        for what, of in ("call refused", "lstm.v1.PredictRequest"), ("stream began", "lstm.v1.StreamRequest"), ("stream ended", "lstm.v1.StreamRequest"):
            these = [event for event in ours if event["message"] == what]
            self.assertEqual(len(these), 1 + len(HOSTILE_TRACES), what)
            self.assertEqual({event["of"] for event in these}, {of})
            traced = [event for event in these if "trace_id" in event]
            self.assertEqual([(event["trace_id"], event["parent_id"]) for event in traced], [(TRACE, PARENT)], f"{what}: one client said which trace it is of")
        these = [event for event in events if event["message"] == "request refused"]
        self.assertEqual([event["code"] for event in these], [404] * (1 + len(HOSTILE_TRACES)))
        self.assertEqual([(event["trace_id"], event["parent_id"]) for event in these if "trace_id" in event], [(TRACE, PARENT)], "over HTTP as over gRPC")
        refused = next(event for event in ours if event["message"] == "call refused")
        self.assertEqual(refused["code"], grpc.StatusCode.NOT_FOUND.value[0])

    def test_every_line_of_text_begins_as_ours_do(self):
        for line in self.lines("text"):
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (debug|info|warning|error) +\S")


if __name__ == "__main__":
    unittest.main()
