# SPDX-License-Identifier: MIT
"""The Python library against a real server. Environment: LSTM_SERVER, the binary."""
import asyncio
import inspect
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "client" / "python"))

import grpc
import numpy as np

import lstm


class Server:
    def __init__(self, *arguments, listen="127.0.0.1:0"):
        self.process = subprocess.Popen([os.environ["LSTM_SERVER"], "--listen", listen, "--models", "models/repository", "--pin-shards", "false",
                                         *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            found = re.search(r"listening on (\S+)", line)
            if found:
                self.address = found[1]
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def stop(self):
        self.process.kill()
        self.process.wait()


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        golden = ROOT / "models" / "golden"
        cls.words = np.load(golden / "french" / "word.npy")
        cls.probability = np.load(golden / "french" / "probability.npy")
        cls.readings = np.load(golden / "telemetry" / "reading.npy")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def setUp(self):
        self.client = lstm.connect(self.server.address, timeout=30)
        self.addCleanup(self.client.close)

    def test_steps_turns_stream_and_predict_give_the_same_bits(self):
        whole = self.client.predict("french", self.words)
        self.assertLess(abs(whole - self.probability).max(), 1e-5)
        with self.client.session("french") as s:
            one = np.stack([s.step(w) for w in self.words])
            s.reset()
            turns = np.concatenate([s.step(self.words[i:i + 7]) for i in range(0, len(self.words), 7)])
            s.reset()
            streamed = np.stack(list(s.stream(self.words)))
        for other in (one, turns, streamed):
            self.assertEqual(whole.tobytes(), other.tobytes())

    def test_several_outputs_come_by_name(self):
        with self.client.session("telemetry") as s:
            y = s.step(self.readings[0])
            self.assertEqual(y["anomaly"].shape, (1,))
            self.assertEqual(y["forecast"].shape, (18,))
        with self.client.session("telemetry", outputs=["anomaly"], traces=["lstm.l1.c"], last_step_only=True) as s:
            self.assertEqual({k: v.shape for k, v in s.step(self.readings).items()}, {"anomaly": (1,), "lstm.l1.c": (48,)})

    def test_sessions_on_one_stream_do_not_disturb_each_other(self):
        with self.client.session("french") as a, self.client.session("french") as b:
            got = []
            for i, w in enumerate(self.words):
                got.append(a.step(w))
                b.step(np.array([i % 129, 3, 5]))
        self.assertEqual(np.stack(got).tobytes(), self.client.predict("french", self.words).tobytes())

    def test_text(self):
        with self.client.session("french") as s:
            p = s.step_text("i grew up in france . the clouds are in the")
            self.assertEqual(s.vocabulary.decode(p[-1].argmax()), "sky")

    def test_discard_and_initial_state(self):
        with self.client.session("french") as s:
            s.step(self.words[:5])
            s.step(self.words[20:40], discard=True)
            y = s.step(self.words[5])
        np.testing.assert_array_equal(y, self.client.predict("french", self.words[:6])[-1])
        _, state = self.client.predict("french", self.words[:5], return_state=True)
        with self.client.session("french", initial_state=state) as s:
            np.testing.assert_array_equal(s.step(self.words[5]), y)

    def test_errors_are_typed_and_say_what_is_wrong(self):
        with self.assertRaisesRegex(lstm.NotFound, "there is: french"):
            self.client.session("nosuch")
        with self.client.session("french") as s:
            with self.assertRaisesRegex(lstm.InvalidArgument, "whole numbers"):
                s.step(1.5)
            with self.assertRaisesRegex(lstm.InvalidArgument, "value 4000") as caught:
                s.step(4000)
            self.assertEqual(caught.exception.reason, "INVALID")
            first, bad, behind = s.send(self.words[0]), s.send(4000), s.send(self.words[1])
            first()
            self.assertRaises(lstm.InvalidArgument, bad)
            self.assertRaises(lstm.Error, behind)
            y = s.step(self.words[1])
        np.testing.assert_array_equal(y, self.client.predict("french", self.words[:2])[-1])
        with self.client.session("telemetry") as s:
            with self.assertRaisesRegex(lstm.InvalidArgument, r"shape \[5\], expected \[6\]"):
                s.step(np.zeros(5))
            with self.assertRaisesRegex(lstm.InvalidArgument, "NaN"):
                s.step(np.full(6, np.nan))

    def test_the_server_lists_sessions_and_an_operator_closes_them(self):
        s = self.client.session("french")
        self.assertIn(s.id, [i.session_id for i in self.client.sessions()])
        self.client.close_session(s.id)
        with self.assertRaises(lstm.Aborted):
            s.step(self.words[0])

    def test_many_threads_share_a_client(self):
        whole, wrong = self.client.predict("french", self.words), []

        def work():
            with self.client.session("french") as s:
                if np.stack(list(s.stream(self.words))).tobytes() != whole.tobytes():
                    wrong.append(1)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertFalse(wrong)

    def test_a_dead_server_ends_every_wait(self):
        for reconnect_timeout in (0, 0.5):
            server = Server()
            client = lstm.connect(server.address, timeout=60, reconnect_timeout=reconnect_timeout)
            s = client.session("french")
            s.step(self.words[0])
            server.stop()
            with self.assertRaises(lstm.Unavailable):
                s.step(self.words[1])
            s.close()
            client.close()

            async def main(server):
                async with lstm.aio.connect(server.address, timeout=60, reconnect_timeout=reconnect_timeout) as client:
                    s = await client.session("french")
                    await s.step(self.words[0])
                    server.stop()
                    with self.assertRaises(lstm.Unavailable):
                        await s.step(self.words[1])
                    await s.close()
            asyncio.run(main(Server()))
        with self.assertRaisesRegex(lstm.Unavailable, "is lstm-server running"):
            lstm.connect(server.address, timeout=0.2)

    def test_asyncio(self):
        async def main():
            async with lstm.aio.connect(self.server.address, timeout=30) as client:
                whole = await client.predict("french", self.words)
                async with client.session("french") as a, await client.session("french") as b:
                    got = [await a.step(w) for w in self.words]
                    streamed = [y async for y in b.stream(self.words)]
                    with self.assertRaises(lstm.InvalidArgument):
                        await b.step(4000)
                self.assertEqual(np.stack(got).tobytes(), whole.tobytes())
                self.assertEqual(np.stack(streamed).tobytes(), whole.tobytes())
                with self.assertRaises(lstm.NotFound):
                    await client.session("nosuch")
                async with client.session("french", last_step_only=True) as s:
                    y = await s.step_text("i grew up in spain . the clouds are in the")
                    self.assertEqual(s.vocabulary.decode(y.argmax()), "sky")
                    await s.reset()
                    first, second = await s.send(self.words[0]), await s.send(self.words[1])
                    self.assertEqual((await first()).tobytes() + (await second()).tobytes(), whole[:2].tobytes())
                    last, state = await client.predict("french", self.words[:5], last_step_only=True, return_state=True)
                    self.assertEqual(last.tobytes(), whole[4].tobytes())
                    self.assertEqual((await client.predict("french", self.words[5], initial_state=state)).tobytes(), whole[5].tobytes())
                    self.assertIn(s.id, [i.session_id for i in await client.sessions("french")])
                    await client.close_session(s.id)
                    with self.assertRaises(lstm.Aborted):
                        await s.step(self.words[2])
        asyncio.run(main())

    def test_asyncio_has_all_that_the_blocking_client_has(self):
        for blocking, other in (lstm.Client, lstm.aio.Client), (lstm.Session, lstm.aio.Session):
            for name, member in inspect.getmembers(blocking):
                if name[0] == "_" or name == "lock":
                    continue
                self.assertTrue(hasattr(other, name), f"{other} has no {name}")
                if callable(member):
                    self.assertEqual(inspect.signature(member), inspect.signature(getattr(other, name)), f"{other}.{name}")

    def test_health_and_reflection(self):
        def health(address):
            with grpc.insecure_channel(address) as channel:
                return channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30)

        def reflection(address):
            with grpc.insecure_channel(address) as channel:
                call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(iter([b"\x3a\x01*"]), timeout=30)
                return b"lstm.v1.Prediction" in next(call)
        self.assertEqual(health(self.server.address), b"\x08\x01", "SERVING")
        self.assertTrue(reflection(self.server.address), "on for loopback")
        for arguments, on in (["--behind-proxy"], False), (["--behind-proxy", "--reflection"], True):
            server = Server(*arguments, listen="0.0.0.0:0")
            address = server.address.replace("0.0.0.0", "127.0.0.1")
            try:
                if on:
                    self.assertTrue(reflection(address))
                else:
                    with self.assertRaises(grpc.RpcError) as caught:
                        reflection(address)
                    self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
            finally:
                server.stop()

    def test_generated_code_is_that_of_the_protos(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([ROOT / "client/python/generate", folder], check=True)
            for made in pathlib.Path(folder).rglob("*.py"):
                committed = ROOT / "client/python" / made.relative_to(folder)
                self.assertEqual(made.read_text(), committed.read_text(), f"run client/python/generate: {committed.name}")

    def test_installs_into_a_virtual_environment(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", folder], check=True)
            source = pathlib.Path(folder) / "source"
            subprocess.run(["cp", "-r", ROOT / "client/python", source], check=True)
            subprocess.run([f"{folder}/bin/python", "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--no-index", source], check=True)
            out = subprocess.run([f"{folder}/bin/python", "-c", "import lstm; print(lstm.__file__)"], cwd="/", check=True, capture_output=True, text=True)
            self.assertIn(folder, out.stdout)


if __name__ == "__main__":
    unittest.main()
