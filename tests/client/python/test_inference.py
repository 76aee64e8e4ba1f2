# SPDX-License-Identifier: MIT
"""The Open Inference Protocol over gRPC against a real server, with stubs made of proto/inference here and now.

Environment: LSTM_SERVER, the binary.
"""
import http.client
import json
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "client" / "python"))
STUBS = tempfile.TemporaryDirectory()
subprocess.run(["protoc", "-I", ROOT / "proto", f"--python_out={STUBS.name}", f"--grpc_out={STUBS.name}",
                f"--plugin=protoc-gen-grpc={shutil.which('grpc_python_plugin')}", "inference/model_config.proto", "inference/grpc_service.proto"],
               cwd=ROOT, check=True)
sys.path.insert(0, STUBS.name)

import grpc
import numpy as np
from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_grpc
from inference import model_config_pb2

import lstm
from server_child import Server

TIMEOUT = 60


def channel_to(server):
    # A connection of its own: channels share them otherwise.
    return grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)])


DTYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
NAMES = {"french": "word", "telemetry": "reading"}


def request(model, x, sequence=None, start=False, end=False, raw=True, id="", **parameters):
    """One request with the one input of `model`."""
    x = np.ascontiguousarray(x)
    out = oip.ModelInferRequest(model_name=model, id=id)
    tensor = out.inputs.add(name=NAMES[model], shape=x.shape)
    tensor.datatype = next(name for name, dtype in DTYPES.items() if dtype == x.dtype)
    if raw:
        out.raw_input_contents.append(x.tobytes())
    else:
        field = {"FP32": "fp32_contents", "INT32": "int_contents", "INT64": "int64_contents"}[tensor.datatype]
        getattr(tensor.contents, field).extend(x.ravel().tolist())
    if isinstance(sequence, int):
        out.parameters["sequence_id"].int64_param = sequence
    elif sequence is not None:
        out.parameters["sequence_id"].string_param = sequence
    if start:
        out.parameters["sequence_start"].bool_param = True
    if end:
        out.parameters["sequence_end"].bool_param = True
    for name, value in parameters.items():
        field = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(out.parameters[name], field, value)
    return out


def outputs(response):
    """name -> array"""
    return {tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tensor.shape)
            for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)}


class Stream:
    """A ModelStreamInfer call: send requests, take answers."""

    def __init__(self, stub, metadata=None):
        self.requests = queue.SimpleQueue()
        self.call = stub.ModelStreamInfer(iter(self.requests.get, None), metadata=metadata, timeout=TIMEOUT)

    def send(self, *requests):
        for each in requests:
            self.requests.put(each)

    def take(self):
        return next(self.call)

    def ask(self, each):
        self.send(each)
        return self.take()

    def close(self):
        self.requests.put(None)
        return list(self.call)


class InferenceTest(unittest.TestCase):
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
        self.channel = channel_to(self.server)
        self.addCleanup(self.channel.close)
        self.stub = oip_grpc.GRPCInferenceServiceStub(self.channel)
        self.native = lstm.connect(self.server.address, timeout=TIMEOUT)
        self.addCleanup(self.native.close)

    def refused(self, code, text, call, *arguments):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertIn(text, caught.exception.details())

    def until(self, condition):
        """Asks again and again until it holds; the test's own time limit ends it."""
        while not condition():
            pass

    # What there is

    def test_server_and_models_describe_themselves(self):
        self.assertTrue(self.stub.ServerLive(oip.ServerLiveRequest()).live)
        self.assertTrue(self.stub.ServerReady(oip.ServerReadyRequest()).ready)
        server = self.stub.ServerMetadata(oip.ServerMetadataRequest())
        self.assertEqual(server.name, "lstm-server")
        self.assertTrue({"sequence", "sequence(string_id)", "statistics", "model_configuration"} <= set(server.extensions))
        self.assertNotIn("model_repository", server.extensions)
        self.assertTrue(self.stub.ModelReady(oip.ModelReadyRequest(name="french")).ready)
        self.assertTrue(self.stub.ModelReady(oip.ModelReadyRequest(name="french", version="1")).ready)
        self.assertFalse(self.stub.ModelReady(oip.ModelReadyRequest(name="french", version="2")).ready)
        self.assertFalse(self.stub.ModelReady(oip.ModelReadyRequest(name="nothing")).ready)

        telemetry = self.stub.ModelMetadata(oip.ModelMetadataRequest(name="telemetry"))
        self.assertEqual(telemetry.versions, ["1"])
        self.assertEqual([(t.name, t.datatype, list(t.shape)) for t in telemetry.inputs], [("reading", "FP32", [-1, 6])])
        self.assertEqual({t.name: list(t.shape) for t in telemetry.outputs}, {"forecast": [-1, 18], "anomaly": [-1, 1]})
        french = self.stub.ModelMetadata(oip.ModelMetadataRequest(name="french"))
        self.assertEqual([(t.name, t.datatype, list(t.shape)) for t in french.inputs], [("word", "INT32", [-1])])

        config = self.stub.ModelConfig(oip.ModelConfigRequest(name="telemetry")).config
        self.assertTrue(config.HasField("sequence_batching"))
        self.assertTrue(config.sequence_batching.HasField("oldest"))
        self.assertEqual(config.sequence_batching.max_sequence_idle_microseconds, 900_000_000)
        self.assertEqual(sorted(s.input_name for s in config.sequence_batching.state), ["change.context", "lstm.l0.c", "lstm.l0.h", "lstm.l1.c", "lstm.l1.h"])
        self.assertEqual(config.max_batch_size, 1)
        self.assertEqual(list(config.input[0].dims), [6])
        self.assertFalse(config.model_transaction_policy.decoupled)
        self.refused(grpc.StatusCode.NOT_FOUND, "no model 'nothing'", self.stub.ModelConfig, oip.ModelConfigRequest(name="nothing"))
        self.refused(grpc.StatusCode.NOT_FOUND, "no model 'nothing'", self.stub.ModelMetadata, oip.ModelMetadataRequest(name="nothing"))

        index = self.stub.RepositoryIndex(oip.RepositoryIndexRequest())
        self.assertEqual({(m.name, m.version, m.state) for m in index.models},
                         {(name, "1", "READY") for name in ("french", "french-rnn", "shakespeare", "telemetry")})
        self.refused(grpc.StatusCode.PERMISSION_DENIED, "--allow-admin", self.stub.RepositoryModelUnload,
                     oip.RepositoryModelUnloadRequest(model_name="french"))

    # Answers

    def test_a_request_without_a_sequence_is_a_whole_one(self):
        for raw in (True, False):
            got = self.stub.ModelInfer(request("telemetry", self.readings, raw=raw, id="a b", priority=3, timeout=10**6))
            self.assertEqual((got.model_name, got.model_version, got.id), ("telemetry", "1", "a b"))
            for name, want in self.native.predict("telemetry", self.readings).items():
                self.assertEqual(outputs(got)[name].tobytes(), want.tobytes(), name)
        some = request("telemetry", self.readings)
        some.outputs.add(name="anomaly")
        self.assertEqual(list(outputs(self.stub.ModelInfer(some))), ["anomaly"])
        ids = self.stub.ModelInfer(request("french", self.words.astype(np.int64), raw=False))
        self.assertEqual(ids.raw_output_contents[0], self.native.predict("french", self.words).tobytes())

    def test_a_thousand_sequences_interleaved_on_one_stream_give_the_native_bits(self):
        rng = np.random.default_rng(1)
        sessions = len(self.native.sessions())
        sequences = {}
        for n in range(1, 1001):
            steps = int(rng.integers(2, 13))
            if n % 2:
                x = rng.standard_normal((steps, 6)).astype(np.float32)
                sequences[n] = ("telemetry", x)
            else:
                sequences[f"s{n}"] = ("french", rng.integers(0, 100, steps, dtype=np.int32))
        cuts = {}
        for key, (model, x) in sequences.items():  # a turn of one step, or of some
            ends = sorted({*rng.integers(1, len(x), rng.integers(0, len(x))).tolist(), len(x)})
            cuts[key] = list(zip([0, *ends], ends))
        stream = Stream(self.stub)
        left = {key: list(parts) for key, parts in cuts.items()}
        sent = 0
        while left:
            for key in list(left):
                begin, end = left[key].pop(0)
                model, x = sequences[key]
                part = request(model, x[begin:end], key, start=begin == 0, end=not left[key], raw=bool(rng.integers(2)), id=f"{key}:{begin}")
                stream.send(part)
                sent += 1
                if not left[key]:
                    del left[key]
        got = {key: [] for key in sequences}
        for _ in range(sent):
            message = stream.take()
            self.assertEqual(message.error_message, "")
            key, begin = message.infer_response.id.split(":")
            key = int(key) if key.isdigit() else key
            self.assertEqual(int(begin), cuts[key][len(got[key])][0], "out of order")
            got[key].append(outputs(message.infer_response))
        self.assertEqual(stream.close(), [])
        for key, (model, x) in sequences.items():
            want = self.native.predict(model, x)
            want = want if isinstance(want, dict) else {next(iter(got[key][0])): want}
            for name in want:
                self.assertEqual(np.concatenate([part[name] for part in got[key]]).tobytes(), want[name].tobytes(), (key, name))
        self.assertEqual(len(self.native.sessions()), sessions)

    def test_unary_calls_carry_a_sequence_too(self):
        got = [self.stub.ModelInfer(request("french", self.words[i:i + 1], 5, start=i == 0, end=i == 9)) for i in range(10)]
        self.assertEqual(b"".join(r.raw_output_contents[0] for r in got), self.native.predict("french", self.words[:10]).tobytes())

    def test_a_client_that_sends_without_reading_is_waited_for_and_loses_nothing(self):
        stream = Stream(self.stub)
        n = 5000
        stream.send(*(request("french", self.words[i % 50:i % 50 + 1], "one", start=i == 0, end=i == n - 1, id=str(i)) for i in range(n)))
        got = [stream.take().infer_response for _ in range(n)]
        self.assertEqual([r.id for r in got], [str(i) for i in range(n)])
        want = self.native.predict("french", np.tile(self.words[:50], n // 50))
        self.assertEqual(b"".join(r.raw_output_contents[0] for r in got), want.tobytes())
        self.assertEqual(stream.close(), [])

    # Rules

    def test_errors_travel_in_band_and_the_stream_goes_on(self):
        stream = Stream(self.stub)
        message = stream.ask(request("telemetry", self.readings[:1, :5], 1001, start=True, id="bad"))
        self.assertIn("INVALID_ARGUMENT: input 'reading': shape [1, 5], expected [steps, 6]", message.error_message)
        self.assertEqual(message.infer_response.id, "bad")
        self.assertIn("NOT_FOUND: sequence 1001 of model 'telemetry' is not known", stream.ask(request("telemetry", self.readings[:1], 1001)).error_message)
        self.assertEqual(stream.ask(request("telemetry", self.readings[:1], 1001, start=True)).error_message, "")
        stream.close()

    def test_with_the_header_an_error_ends_the_stream_with_its_code(self):
        stream = Stream(self.stub, metadata=[("triton_grpc_error", "true")])
        self.assertEqual(stream.ask(request("telemetry", self.readings[:1], 61, start=True)).error_message, "")
        stream.send(request("telemetry", self.readings[:1], 61), request("telemetry", self.readings[:1], 62), request("telemetry", self.readings[:1], 61))
        taken = 0
        with self.assertRaises(grpc.RpcError) as caught:
            while True:
                self.assertEqual(stream.take().error_message, "")
                taken += 1
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        self.assertIn("sequence 62", caught.exception.details())
        self.assertLessEqual(taken, 2)
        stream.requests.put(None)

    def test_a_live_id_is_not_started_again_while_its_stream_is_there(self):
        first, second = Stream(self.stub), Stream(self.stub)
        want = outputs(first.ask(request("french", self.words[:1], 9, start=True)).infer_response)
        message = second.ask(request("french", self.words[:1], 9, start=True))
        self.assertIn("ALREADY_EXISTS: sequence 9 of model 'french' lives", message.error_message)
        taken = second.ask(request("french", self.words[:1], 9, start=True, sequence_take_over=True))
        self.assertEqual(taken.error_message, "")
        np.testing.assert_array_equal(next(iter(outputs(taken.infer_response).values())), next(iter(want.values())))
        first.close()
        self.assertIn("ALREADY_EXISTS", Stream(self.stub).ask(request("french", self.words[:1], 9, start=True)).error_message)
        second.close()
        third = Stream(self.stub)
        self.until(lambda: third.ask(request("french", self.words[:1], 9, start=True)).error_message == "")
        self.assertEqual(third.ask(request("french", self.words[1:2], 9, end=True)).error_message, "")
        self.assertIn("it was ended by its client", third.ask(request("french", self.words[1:2], 9)).error_message)
        third.close()

    def test_a_live_id_is_not_started_again_while_its_connection_is_there(self):
        other = channel_to(self.server)
        elsewhere = oip_grpc.GRPCInferenceServiceStub(other)
        elsewhere.ModelInfer(request("french", self.words[:1], 10, start=True))
        self.refused(grpc.StatusCode.ALREADY_EXISTS, "sequence 10", self.stub.ModelInfer, request("french", self.words[:1], 10, start=True))
        self.refused(grpc.StatusCode.ALREADY_EXISTS, "sequence 10", elsewhere.ModelInfer, request("french", self.words[:1], 10, start=True))
        other.close()

        def started():
            try:
                return self.stub.ModelInfer(request("french", self.words[:1], 10, start=True))
            except grpc.RpcError as e:
                self.assertEqual(e.code(), grpc.StatusCode.ALREADY_EXISTS)
                return None
        self.until(started)
        self.stub.ModelInfer(request("french", self.words[:1], 10, end=True))

    def test_a_sequence_outlives_its_stream_and_goes_on_from_another(self):
        first = Stream(self.stub)
        got = outputs(first.ask(request("french", self.words[:3], "moved", start=True)).infer_response)
        first.close()
        got = [got, outputs(self.stub.ModelInfer(request("french", self.words[3:5], "moved", end=True)))]
        self.assertEqual(b"".join(next(iter(part.values())).tobytes() for part in got), self.native.predict("french", self.words[:5]).tobytes())

    def test_idle_sequences_expire_and_say_so(self):
        server = Server("--ttl-seconds", "1")
        self.addCleanup(server.stop)
        with channel_to(server) as channel, lstm.connect(server.address, timeout=TIMEOUT) as native:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            self.assertEqual(stub.ModelConfig(oip.ModelConfigRequest(name="french")).config.sequence_batching.max_sequence_idle_microseconds, 1_000_000)
            stub.ModelInfer(request("french", self.words[:1], 4, start=True))
            self.until(lambda: not native.sessions())
            self.refused(grpc.StatusCode.NOT_FOUND, "the session expired: no step for 1 s", stub.ModelInfer, request("french", self.words[:1], 4))
            stub.ModelInfer(request("french", self.words[:1], 4, start=True))

    def test_an_operator_ends_a_sequence_and_its_client_is_told(self):
        self.stub.ModelInfer(request("french", self.words[:1], "closed", start=True))
        before = self.stub.ModelInfer(request("french", self.words[:1], "kept", start=True))
        for session in self.native.sessions():
            self.native.close_session(session.session_id)
        self.refused(grpc.StatusCode.NOT_FOUND, "an operator closed the session", self.stub.ModelInfer, request("french", self.words[:1], "closed"))
        again = self.stub.ModelInfer(request("french", self.words[:1], "kept", start=True, end=True))
        self.assertEqual(again.raw_output_contents, before.raw_output_contents)

    def test_ids_are_those_of_their_certificate(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)

        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], cwd=folder.name, check=True, capture_output=True)
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", "-x509", *new, "-days", "2", "-subj", "/CN=test-ca", "-keyout", "ca.key", "-out", "ca.pem")
        for who in ("server", "ann", "bob"):
            openssl("req", *new, "-subj", f"/CN={who}", "-keyout", f"{who}.key", "-out", f"{who}.csr")
            names = pathlib.Path(folder.name, f"{who}.ext")
            names.write_text(f"subjectAltName=DNS:{who}" + (",IP:127.0.0.1" if who == "server" else ""))
            openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out", f"{who}.pem", "-extfile", names.name)
        read = lambda name: pathlib.Path(folder.name, name).read_bytes()
        path = lambda name: str(pathlib.Path(folder.name, name))
        server = Server("--tls-cert", path("server.pem"), "--tls-key", path("server.key"), "--tls-client-ca", path("ca.pem"))
        self.addCleanup(server.stop)

        def stub(who):
            channel = grpc.secure_channel(server.address, grpc.ssl_channel_credentials(read("ca.pem"), read(f"{who}.key"), read(f"{who}.pem")))
            self.addCleanup(channel.close)
            return oip_grpc.GRPCInferenceServiceStub(channel)
        ann, bob = stub("ann"), stub("bob")
        got = [ann.ModelInfer(request("french", self.words[:1], 1, start=True))]
        self.refused(grpc.StatusCode.NOT_FOUND, "sequence 1 of model 'french' is not known", bob.ModelInfer, request("french", self.words[1:2], 1))
        bob.ModelInfer(request("french", self.words[5:6], 1, start=True))  # another one
        got.append(stub("ann").ModelInfer(request("french", self.words[1:2], 1)))
        self.assertEqual(b"".join(r.raw_output_contents[0] for r in got), self.native.predict("french", self.words[:2]).tobytes())

    def test_statistics_count_what_was_asked(self):
        def stats():
            got = self.stub.ModelStatistics(oip.ModelStatisticsRequest(name="french-rnn"))
            self.assertEqual(len(got.model_stats), 1)
            return got.model_stats[0]
        NAMES["french-rnn"] = "word"
        before = stats()
        self.stub.ModelInfer(request("french-rnn", self.words[:7], 1, start=True, end=True))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "value -1", self.stub.ModelInfer, request("french-rnn", np.int32([-1]), 1, start=True))
        after = stats()
        self.assertEqual(after.inference_count - before.inference_count, 7)
        self.assertEqual(after.inference_stats.success.count - before.inference_stats.success.count, 1)
        self.assertEqual(after.inference_stats.fail.count - before.inference_stats.fail.count, 1)
        self.assertGreater(after.inference_stats.success.ns, 0)
        self.assertGreater(after.last_inference, 1_600_000_000_000)
        everything = self.stub.ModelStatistics(oip.ModelStatisticsRequest())
        self.assertEqual(len(everything.model_stats), 4)
        self.refused(grpc.StatusCode.NOT_FOUND, "no model 'x'", self.stub.ModelStatistics, oip.ModelStatisticsRequest(name="x"))

    def test_rubbish_is_refused_and_harms_nobody(self):
        stream = Stream(self.stub)
        stream.ask(request("french", self.words[:1], 77, start=True))
        call = self.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        rng = np.random.default_rng(2)
        good = request("french", self.words[:1], 78).SerializeToString()
        for _ in range(300):  # torn and turned bytes of a good request
            data = bytearray(good[:int(rng.integers(1, len(good) + 1))])
            data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
            try:
                call(bytes(data))
            except grpc.RpcError as e:
                self.assertIn(e.code(), {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED})
        self.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max", call, bytes(5 << 20))
        many = request("french", self.words[:1])
        for i in range(10_000):
            many.inputs.add(name=str(i))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "expected", self.stub.ModelInfer, many)
        huge = request("french", self.words[:1])
        huge.model_name = "x" * 1_000_000
        self.refused(grpc.StatusCode.NOT_FOUND, "no model of that name", self.stub.ModelInfer, huge)
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "256", self.stub.ModelInfer, request("french", self.words[:1], "y" * 1_000_000, start=True))
        self.assertEqual(stream.ask(request("french", self.words[:1], 77, end=True)).error_message, "")
        stream.close()

    def test_clients_that_vanish_leave_no_wreck(self):
        for _ in range(20):
            with channel_to(self.server) as channel:
                stream = Stream(oip_grpc.GRPCInferenceServiceStub(channel))
                stream.send(*(request("french", self.words[:1], f"v{i}", start=True) for i in range(50)))
                stream.take()
                stream.call.cancel()
        stream = Stream(self.stub)
        for i in range(50):
            self.until(lambda: stream.ask(request("french", self.words[:1], f"v{i}", start=True, end=True)).error_message == "")
        stream.close()

    def test_a_server_that_ends_lets_unused_streams_go(self):
        server = Server("--drain-seconds", "600")
        self.addCleanup(server.stop)
        with channel_to(server) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            stream = Stream(stub)
            stream.ask(request("french", self.words[:1], 1, start=True))
            server.process.send_signal(signal.SIGTERM)
            self.until(lambda: not stub.ServerReady(oip.ServerReadyRequest()).ready)
            self.until(lambda: "UNAVAILABLE" in stream.ask(request("french", self.words[:1], 2, start=True, end=True)).error_message)
            self.assertEqual(stream.ask(request("french", self.words[:1], 1, end=True)).error_message, "")
            with self.assertRaises(grpc.RpcError) as caught:
                stream.take()
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(server.process.wait(TIMEOUT), 0)

    def test_integers_travel_for_floats_where_the_manifest_says_so(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for name, wire in ("int16", "INT16"), ("uint8", "UINT8"):
            shutil.copytree(ROOT / "models" / "repository" / "telemetry", pathlib.Path(folder.name, name))
            manifest = pathlib.Path(folder.name, name, "1", "model.textproto")
            text, count = re.subn(r"(input \{[^}]*shape: 6)", rf"\1 wire {{ type: {wire} scale: 0.5 offset: 0.25 }}", manifest.read_text())
            self.assertEqual(count, 1)
            manifest.write_text(text)
        server = Server(models=folder.name)
        self.addCleanup(server.stop)
        rng = np.random.default_rng(1)
        with channel_to(server) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            for name, datatype, dtype, field, config in (("int16", "INT16", np.int16, "int_contents", "TYPE_INT16"), ("uint8", "UINT8", np.uint8, "uint_contents", "TYPE_UINT8")):
                self.assertEqual(stub.ModelMetadata(oip.ModelMetadataRequest(name=name)).inputs[0].datatype, datatype)
                told = stub.ModelConfig(oip.ModelConfigRequest(name=name)).config
                self.assertEqual(told.input[0].data_type, model_config_pb2.DataType.Value(config))
                self.assertEqual((told.parameters["scale_of_reading"].string_value, told.parameters["offset_of_reading"].string_value), ("0.5", "0.25"))
                x = rng.integers(np.iinfo(dtype).min // 8, np.iinfo(dtype).max // 8, (3, 6)).astype(dtype)
                answers = []
                for form, values in (datatype, x), (field, x), ("FP32", x.astype(np.float32) * np.float32(0.5) + np.float32(0.25)):
                    asked = oip.ModelInferRequest(model_name=name)
                    tensor = asked.inputs.add(name="reading", shape=x.shape, datatype="FP32" if form == "FP32" else datatype)
                    if form == field:
                        getattr(tensor.contents, field).extend(x.ravel().tolist())
                    else:
                        asked.raw_input_contents.append(values.tobytes())
                    answers.append(stub.ModelInfer(asked).raw_output_contents)
                self.assertEqual(answers[0], answers[1])
                self.assertEqual(answers[0], answers[2])
                asked.inputs[0].datatype = "INT32"
                self.refused(grpc.StatusCode.INVALID_ARGUMENT, f"datatype 'INT32', expected {datatype} or FP32", stub.ModelInfer, asked)
                asked.inputs[0].datatype = datatype
                self.refused(grpc.StatusCode.INVALID_ARGUMENT, f"{4 * x.size} bytes in raw_input_contents, expected {x.nbytes}", stub.ModelInfer, asked)
                del asked.raw_input_contents[:]
                getattr(asked.inputs[0].contents, field).extend([np.iinfo(dtype).max + 1] * x.size)
                self.refused(grpc.StatusCode.INVALID_ARGUMENT, f"value {np.iinfo(dtype).max + 1} at step 0, expected {np.iinfo(dtype).min} to {np.iinfo(dtype).max}", stub.ModelInfer, asked)
                # And over HTTP.
                def ask(datatype, values):
                    body = json.dumps({"inputs": [{"name": "reading", "datatype": datatype, "shape": x.shape, "data": values}]})
                    connection = http.client.HTTPConnection(*server.http, timeout=TIMEOUT)
                    connection.request("POST", f"/v2/models/{name}/infer", body)
                    got = json.loads(connection.getresponse().read())
                    connection.close()
                    return got
                got = ask(datatype, x.tolist())
                self.assertEqual([np.float32(o["data"]).tobytes() for o in got["outputs"]], list(answers[0]))
                self.assertIn(f"data holds 70000, which {datatype} has not", ask(datatype, [70000] * x.size)["error"])
                self.assertIn("expected whole numbers", ask(datatype, [0.5] * x.size)["error"])

    # Models by call

    def test_models_are_loaded_and_unloaded_by_call(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        models = pathlib.Path(folder.name)
        repository = ROOT / "models" / "repository"
        shutil.copytree(repository / "french", models / "french")
        server = Server("--allow-admin", "--model-poll-seconds", "0", models=folder.name)
        self.addCleanup(server.stop)
        with channel_to(server) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            load = lambda name: stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name=name))
            unload = lambda name: stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name=name))
            self.assertIn("model_repository", stub.ServerMetadata(oip.ServerMetadataRequest()).extensions)
            self.refused(grpc.StatusCode.NOT_FOUND, "no model of that name", load, "telemetry")
            shutil.copytree(repository / "telemetry", models / "telemetry")
            load("telemetry")
            stub.ModelInfer(request("telemetry", self.readings[:1], 1, start=True))

            unload("telemetry")
            self.assertFalse(stub.ModelReady(oip.ModelReadyRequest(name="telemetry")).ready)
            index = {(m.name, m.state) for m in stub.RepositoryIndex(oip.RepositoryIndexRequest()).models}
            self.assertEqual(index, {("french", "READY"), ("telemetry", "UNAVAILABLE")})
            self.assertEqual(len(stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True)).models), 1)
            stub.ModelInfer(request("telemetry", self.readings[1:2], 1))  # goes on
            self.refused(grpc.StatusCode.NOT_FOUND, "no model 'telemetry'", stub.ModelInfer, request("telemetry", self.readings[:1], 2, start=True))
            self.refused(grpc.StatusCode.NOT_FOUND, "no model 'telemetry'", unload, "telemetry")
            load("french")  # brings the other one not back
            self.assertFalse(stub.ModelReady(oip.ModelReadyRequest(name="telemetry")).ready)
            load("telemetry")
            stub.ModelInfer(request("telemetry", self.readings[:1], 2, start=True))

            (models / "french" / "2").mkdir()
            (models / "french" / "2" / "model.textproto").write_text("rubbish")
            with self.assertRaises(grpc.RpcError) as caught:
                load("french")
            self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
            self.assertRegex(caught.exception.details(), "version 2 was not loaded: .*; what serves is version 1")
            self.assertNotIn(folder.name, caught.exception.details())
            self.assertTrue(stub.ModelReady(oip.ModelReadyRequest(name="french", version="1")).ready)
            other = oip.RepositoryModelLoadRequest(model_name="french")
            other.parameters["config"].string_param = "{}"
            self.refused(grpc.StatusCode.UNIMPLEMENTED, "parameters of a load", stub.RepositoryModelLoad, other)


if __name__ == "__main__":
    unittest.main()
