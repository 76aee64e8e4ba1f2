#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Live sessions against containers that are killed. Every answer is held against Predict's, bit for bit.

  docker_check.py first ADDRESS              once its input has a line, or ends: the time of the first answer, in Unix seconds
  docker_check.py kill ADDRESS KILL START    a stream goes on across KILL and START, two commands
  docker_check.py proxy ADDRESS KILL START   clients through a proxy: those of the server that is killed go on after START,
                                             those of the other notice nothing
  docker_check.py during ADDRESS COMMAND...  COMMAND while clients stream through a proxy, half of them with durability HOST
"""
import pathlib
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "client/python"))
import lstm  # noqa: E402

IDS = [5, 9, 22, 3, 17, 41, 8, 60, 2, 33] * 60


class Stream(threading.Thread):
    """One client with one session, step after step until it is told to stop."""

    def __init__(self, address, affinity=None, **session):
        super().__init__(daemon=True)
        self.session = session
        self.steps, self.lost, self.resumed, self.error, self.stopping = 0, 0, 0, None, False
        self.client = lstm.connect(address, affinity=affinity, on_event=self.event)
        self.truth = self.client.predict("french", IDS)
        self.start()

    def event(self, kind, _):
        self.lost += kind == "lost"
        self.resumed += kind == "resumed"

    def run(self):
        try:
            while not self.stopping:
                with self.client.session("french", **self.session) as session:
                    for k, word in enumerate(IDS):
                        assert session.step(word).tobytes() == self.truth[k].tobytes(), f"step {k} has other bits"
                        self.steps += 1
                        if self.stopping:
                            break
                        time.sleep(0.002)
        except Exception as error:  # told to whoever waits
            self.error = error

    def more(self, steps=50):
        goal = self.steps + steps
        until = time.monotonic() + 60
        while self.steps < goal:
            assert self.error is None, self.error
            assert time.monotonic() < until, "the stream stands still"
            time.sleep(0.01)


def first(address):
    print("looking", flush=True)  # what was imported took its time
    sys.stdin.readline()
    deadline = time.monotonic() + 60
    while True:
        try:
            with lstm.connect(address, timeout=0.1) as client:
                client.predict("french", IDS[:1])
                return print(f"{time.time():.3f}")
        except lstm.Error:
            assert time.monotonic() < deadline, "no answer within a minute"


def across(address, kill, start, affinities):
    streams = [Stream(address, affinity) for affinity in affinities]
    for stream in streams:
        stream.more()
    subprocess.run(kill, shell=True, check=True, stdout=subprocess.DEVNULL)
    time.sleep(2)
    subprocess.run(start, shell=True, check=True, stdout=subprocess.DEVNULL)
    for stream in streams:
        stream.more()
        stream.stopping = True
    for stream in streams:
        stream.join(60)
        assert stream.error is None, stream.error
    return [stream.lost for stream in streams], sum(stream.steps for stream in streams)


def main():
    what, address, *commands = sys.argv[1:]
    if what == "first":
        return first(address)
    if what == "during":
        streams = [Stream(address, f"client-{i}", durability="host" if i % 2 else "process") for i in range(16)]
        for stream in streams:
            stream.more()
        subprocess.run(commands, check=True)
        for stream in streams:
            stream.more()
        return None
    lost, steps = across(address, *commands, [None] * 4 if what == "kill" else [f"client-{i}" for i in range(16)])
    if what == "kill":
        assert all(lost), f"the server was not killed: {lost}"
    else:
        assert any(lost) and not all(lost), f"streams that lost their connection: {lost}"
    print(f"{steps} steps, each with the bits of an undisturbed run; {sum(map(bool, lost))} of {len(lost)} streams lost their server and went on")


main()
