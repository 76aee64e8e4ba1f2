# SPDX-License-Identifier: MIT
"""Sessions of the Python library outlive connections and servers. Environment: LSTM_SERVER, the binary."""
import asyncio
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "client" / "python"))

import numpy as np

import lstm

SECONDS = 60  # for what is waited for; nothing takes nearly as long
STEPS, KILLS = 3000, 8


def poll(what, ready):
    until = time.monotonic() + SECONDS
    while not ready():
        if time.monotonic() > until:
            raise AssertionError(f"not within {SECONDS} s: {what}")
        time.sleep(0.005)


class Server:
    """One place (a state directory and a port), and any number of processes there, one after the other."""

    def __init__(self, test):
        self.folder, self.port, self.process = tempfile.mkdtemp(prefix="lstm-resume-"), 0, None
        test.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        test.addCleanup(self.kill)
        self.start()

    @property
    def state(self):
        return os.path.join(self.folder, "state")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        until, said = time.monotonic() + SECONDS, ""
        while time.monotonic() < until:  # a connection of somebody else may hold the port for a moment
            self.process = subprocess.Popen([os.environ["LSTM_SERVER"], "--models", "models/repository", "--state-dir", self.state,
                                             "--listen", self.address, "--pin-shards", "false"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
            for line in self.process.stderr:
                said += line
                found = re.search(r"listening on \S+:(\d+)", line)
                if found:
                    self.port = int(found[1])
                    threading.Thread(target=self._drop, args=(self.process.stderr,), daemon=True).start()
                    return
            self.process.stderr.close()
            self.process.wait()
        raise AssertionError(f"the server does not start: {said[-2000:]}")

    @staticmethod
    def _drop(pipe):
        with pipe:
            pipe.read()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.kill()
        self.start()


class Proxy:
    """TCP connections to a server that may be cut after any byte, or made to keep back what the server says."""

    def __init__(self, test, port, cuts=0, rng=random):
        self.port, self.cuts, self.rng, self.speaks = port, cuts, rng, threading.Event()
        self.speaks.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        test.addCleanup(self._listener.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        try:
            while True:
                client = self._listener.accept()[0]
                try:
                    server = socket.create_connection(("127.0.0.1", self.port))
                except OSError:
                    client.close()
                    continue
                left = [self.rng.randint(1000, 100_000)]
                for a, b, down in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass, args=(a, b, left, down), daemon=True).start()
        except OSError:
            return

    def _pass(self, a, b, left, down):
        try:
            while data := a.recv(16384):
                if down:
                    self.speaks.wait(SECONDS)
                cut = self.cuts > 0 and left[0] <= len(data)
                b.sendall(data[:left[0]] if cut else data)
                left[0] -= len(data)
                if cut:
                    self.cuts -= 1
                    for s in (a, b):
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # with a reset
                    break
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Progress:
    """Counts answers, and events by their name; another thread waits for them."""

    def __init__(self):
        self._changed, self._counts, self.failed = threading.Condition(), {}, None

    def add(self, what):
        with self._changed:
            self._counts[what] = self._counts.get(what, 0) + 1
            self._changed.notify_all()

    def fail(self, error):
        with self._changed:
            self.failed = self.failed or error
            self._changed.notify_all()

    def __getitem__(self, what):
        with self._changed:
            return self._counts.get(what, 0)

    def wait(self, what, count):
        with self._changed:
            in_time = self._changed.wait_for(lambda: self.failed or self._counts.get(what, 0) >= count, SECONDS)
            if self.failed:
                raise self.failed
            if not in_time:
                raise AssertionError(f"{self._counts} and not {count} {what} within {SECONDS} s")


class ResumeTest(unittest.TestCase):
    def setUp(self):
        self.seed = int(os.environ.get("LSTM_SEED") or random.randrange(1 << 30))
        self.rng = random.Random(self.seed)
        self.server = Server(self)
        golden = np.load(ROOT / "models" / "golden" / "french" / "word.npy")
        self.words = np.resize(golden, STEPS)
        with lstm.connect(self.server.address, timeout=SECONDS) as client:
            self.whole = client.predict("french", self.words)

    def connect(self, address=None, **more):
        client = lstm.connect(address or self.server.address, timeout=SECONDS, **more)
        self.addCleanup(client.close)
        return client

    def assertSame(self, got, expected, what=""):
        got = np.asarray(got)
        self.assertEqual(got.shape, expected.shape, f"{what} (LSTM_SEED={self.seed})")
        bad = [i for i in range(len(got)) if got[i].tobytes() != expected[i].tobytes()]
        self.assertFalse(bad, f"{what}: other bits at {bad[:10]} (LSTM_SEED={self.seed})")

    def stream_twice(self, address, meanwhile):
        """A blocking and an asyncio client stream all words, the first step by step for a while, while meanwhile(progress) does its worst."""
        progress, got = Progress(), {}

        def on_event(name):
            def event(kind, value):
                progress.add(f"{name} {kind}")
            return event

        def blocking():
            with lstm.connect(address, timeout=SECONDS, on_event=on_event("blocking")) as client, client.session("french") as s:
                got["blocking"] = []
                for w in self.words[:200]:
                    got["blocking"].append(s.step(w))
                    progress.add("answers")
                for y in s.stream(self.words[200:]):
                    got["blocking"].append(y)
                    progress.add("answers")

        async def streaming():
            async with lstm.aio.connect(address, timeout=SECONDS, on_event=on_event("aio")) as client:
                async with await client.session("french") as s:
                    got["aio"] = []
                    async for y in s.stream(self.words):
                        got["aio"].append(y)
                        progress.add("answers")

        def run(work):
            try:
                work()
            except BaseException as e:
                progress.fail(e)
        threads = [threading.Thread(target=run, args=(w,), daemon=True) for w in (blocking, lambda: asyncio.run(streaming()))]
        for t in threads:
            t.start()
        try:
            meanwhile(progress)
        finally:
            for t in threads:
                t.join(0 if progress.failed else 3 * SECONDS)
        if progress.failed:
            raise progress.failed
        for t in threads:
            self.assertFalse(t.is_alive(), f"a client hangs (LSTM_SEED={self.seed})")
        for name in "blocking", "aio":
            self.assertSame(got[name], self.whole, name)
            self.assertGreater(progress[f"{name} lost"], 0)
            self.assertEqual(progress[f"{name} lost"], progress[f"{name} resumed"])

    def test_a_server_killed_at_random_moments_is_not_noticed(self):
        def kill(progress):
            for answers in sorted(self.rng.sample(range(1, 2 * STEPS - 2000), KILLS)):
                progress.wait("answers", answers)
                self.server.restart()
        self.stream_twice(self.server.address, kill)

    def test_connections_cut_after_any_byte_are_not_noticed(self):
        proxy = Proxy(self, self.server.port, cuts=200, rng=self.rng)
        self.stream_twice(proxy.address, lambda progress: progress.wait("answers", 2 * STEPS))
        self.assertLess(proxy.cuts, 190)

    def test_a_server_that_drains_and_comes_back_is_not_noticed(self):
        def drain(progress):
            for answers in (500, 2500):
                progress.wait("answers", answers)
                self.server.process.send_signal(signal.SIGTERM)
                self.assertEqual(self.server.process.wait(SECONDS), 0)
                self.server.start()
        self.stream_twice(self.server.address, drain)

    def test_turns_of_many_steps_and_resets_outlive_the_server(self):
        with self.connect().session("french", window=4) as s:
            turns = [s.send(self.words[i:i + 10]) for i in range(0, 40, 10)]
            self.server.restart()
            self.assertSame(np.concatenate([t() for t in turns]), self.whole[:40])
            s.step(self.words[100:120], discard=True)
            self.server.restart()
            self.assertSame([s.step(self.words[40])], self.whole[40:41])
            s.reset()
            self.server.restart()
            self.assertSame(s.step(self.words[:5]), self.whole[:5])

    def test_a_session_is_closed_though_the_server_was_killed(self):
        client = self.connect()
        s = client.session("french")
        s.step(self.words[0])
        self.server.restart()
        s.close()
        self.assertNotIn(s.id, [i.session_id for i in client.sessions()])
        with self.assertRaises(lstm.NotFound):
            client.resume(s.handle())

    def test_a_saved_handle_is_taken_up_elsewhere_and_the_first_is_fenced(self):
        proxy = Proxy(self, self.server.port)
        first, second = self.connect(proxy.address), self.connect()
        s = first.session("french")
        s.step(self.words[0])
        proxy.speaks.clear()
        for w in self.words[1:4]:
            s.send(w)
        poll("the server applies what was sent", lambda: any(i.applied_seq >= 3 for i in second.sessions() if i.session_id == s.id))
        saved = s.handle().to_bytes()
        self.assertEqual(lstm.Handle.from_bytes(saved).have_seq, 1)
        with second.resume(saved) as taken:
            at = taken.position
            self.assertEqual([seq for seq, _ in taken.missed], list(range(2, at + 1)))
            self.assertSame(np.concatenate([y for _, y in taken.missed]), self.whole[1:at])
            proxy.speaks.set()
            with self.assertRaises(lstm.Fenced):
                s.step(self.words[4])
            self.server.restart()
            self.assertSame(list(taken.stream(self.words[at:20])), self.whole[at:20])

    def test_who_holds_a_session_that_is_taken_is_told(self):
        first = self.connect()
        s = first.session("french")
        s.step(self.words[0])
        with self.connect().resume(s.handle()) as taken:
            self.assertSame([taken.step(self.words[1])], self.whole[1:2])
            for _ in range(2):
                with self.assertRaises(lstm.Fenced):
                    s.step(self.words[1])
            s.close()
            self.assertSame([taken.step(self.words[2])], self.whole[2:3])
        with first.session("french") as other:
            self.assertSame([other.step(self.words[0])], self.whole[:1])

    def test_a_released_session_is_taken_up_again(self):
        client = self.connect()
        s = client.session("french")
        self.assertSame(s.step(self.words[:6]), self.whole[:6])
        handle = s.release()
        with self.assertRaises(lstm.FailedPrecondition):
            s.step(self.words[6])

        async def main():
            async with lstm.aio.connect(self.server.address, timeout=SECONDS) as other:
                async with await other.resume(handle.to_bytes()) as taken:
                    self.assertEqual((taken.missed, taken.position), ([], 1))
                    self.assertSame([await taken.step(self.words[6])], self.whole[6:7])
        asyncio.run(main())

    def test_a_fork_goes_another_way_and_leaves_the_first_as_it_was(self):
        client = self.connect()
        other = self.words[50:60]
        there = client.predict("french", np.concatenate([self.words[:7], other]))[7:]
        with client.session("french") as s:
            s.step(self.words[:7])
            with client.fork(s) as fork, client.fork(s.handle()) as again:
                self.assertNotEqual(fork.id, again.id)
                self.server.restart()
                self.assertSame(list(fork.stream(other)), there)
                self.assertSame(again.step(self.words[7:9]), self.whole[7:9])
            self.assertSame(list(s.stream(self.words[7:20])), self.whole[7:20])

        async def main():
            async with lstm.aio.connect(self.server.address, timeout=SECONDS) as client:
                async with await client.session("french") as s:
                    await s.step(self.words[:7])
                    async with await client.fork(s) as fork, await client.import_(await client.export(s)) as copy:
                        self.assertSame([y async for y in fork.stream(other)], there)
                        self.assertSame([y async for y in copy.stream(other)], there)
                    self.assertSame([await s.step(self.words[7])], self.whole[7:8])
        asyncio.run(main())

    def test_an_exported_session_goes_on_in_another_server(self):
        client = self.connect()
        with client.session("french") as s:
            s.step(self.words[:7])
            blob, elsewhere = client.export(s), Server(self)
            self.server.kill()
            with self.connect(elsewhere.address).import_(blob) as copy:
                self.assertEqual(copy.position, 1)
                elsewhere.restart()
                self.assertSame(list(copy.stream(self.words[7:20])), self.whole[7:20])
            self.server.start()
            self.assertSame(list(s.stream(self.words[7:20])), self.whole[7:20])
        with self.assertRaises(lstm.Error):
            client.import_(blob[:-1])

    def test_a_server_with_an_older_state_is_found_out(self):
        s = self.connect().session("french")
        s.step(self.words[0])
        self.server.kill()
        shutil.copytree(self.server.state, self.server.state + ".old")
        self.server.start()
        s.step(self.words[1])
        self.server.kill()
        shutil.rmtree(self.server.state)
        os.rename(self.server.state + ".old", self.server.state)
        self.server.start()
        with self.assertRaises(lstm.DataLoss):
            s.step(self.words[2])

    def test_a_volatile_session_ends_with_its_server_and_says_so(self):
        s = self.connect().session("french", durability="volatile")
        s.step(self.words[0])
        self.server.restart()
        with self.assertRaises((lstm.NotFound, lstm.Unavailable)):
            s.step(self.words[1])


if __name__ == "__main__":
    unittest.main()
