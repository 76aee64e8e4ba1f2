# SPDX-License-Identifier: MIT
"""A session's bookkeeping without threads or sockets, shared by the blocking and the asyncio client.

Turns are kept until they are answered. A turn that the server refuses for the moment (RETRY, WINDOW, BYTES, or GAP behind
such a one) is sent again, in order, once all outstanding turns are answered. One that it refuses for good fails, and with
it those that were sent behind it, none of which was applied.
"""
import random
from collections import deque

from . import errors
from .v1 import session_pb2


class Turn:
    __slots__ = ("step", "single", "done", "refused")

    def __init__(self, step, single, done):
        self.step, self.single, self.done, self.refused = step, single, done, False


class SessionState:
    """Not thread-safe: its owner locks. `send(Request)` queues a request for the stream; every turn's `done(result, error)` is
    called once, in order."""

    def __init__(self, lane, send):
        self.lane, self._send = lane, send
        self.opened, self.error, self.closed = None, None, False
        self.turns = deque()
        self._first_seq, self._consumed, self._ghosts = 1, 0, 0

    @property
    def room(self):
        return self._ghosts == 0 and len(self.turns) < self.opened.window

    def send(self, step, single, done):
        step.lane, step.seq, step.ack = self.lane, self._first_seq + len(self.turns), self._consumed
        self.turns.append(Turn(step, single, done))
        self._send(session_pb2.Request(step=step))

    def close(self):
        self._send(session_pb2.Request(close=session_pb2.Close(lane=self.lane)))

    def take(self, response):
        """Handles a response of this lane. Returns seconds to wait before resend(), or None."""
        kind = response.WhichOneof("kind")
        if kind == "opened":
            self.opened = response.opened
        elif kind == "result":
            self._result(response.result)
        elif kind == "reject":
            return self._reject(response.reject)
        elif kind == "closed":
            self.closed = True
            self._fail(0, errors.FailedPrecondition("the session is closed"))
        elif kind == "ended":
            make = errors.NotFound if response.ended.reason == session_pb2.EXPIRED else errors.Aborted
            self.end(make(response.ended.message, reason=session_pb2.Reason.Name(response.ended.reason)))
        return None

    def end(self, error):
        if self.error is None and not self.closed:
            self.error = error
        self._fail(0, error)

    def resend(self):
        for turn in self.turns:
            turn.refused, turn.step.ack = False, self._consumed
            self._send(session_pb2.Request(step=turn.step))

    def _result(self, result):
        if not self.turns or result.seq != self._first_seq:
            return  # a copy of what was answered
        turn = self.turns.popleft()
        self._consumed = self._first_seq
        self._first_seq += 1
        turn.done((result, turn.single), None)

    def _reject(self, reject):
        if self.opened is None:
            self.error = errors.from_reject(reject)
            return None
        index = reject.seq - self._first_seq
        if self._ghosts and index >= len(self.turns):
            self._ghosts -= 1
            return None
        if not 0 <= index < len(self.turns):
            return None
        if reject.reason not in errors.TRANSIENT:
            self._fail(index, errors.from_reject(reject))
            return None
        self.turns[index].refused = True
        if all(turn.refused for turn in self.turns):
            return random.uniform(0.5, 1) * max(reject.retry_after_ms, 5) / 1000
        return None

    def _fail(self, index, error):
        failed = [self.turns.pop() for _ in range(len(self.turns) - index)][::-1]
        self._ghosts += sum(not turn.refused for turn in failed[1:])
        for i, turn in enumerate(failed):
            turn.done(None, error if i == 0 else errors.Aborted(f"not applied: the turn before it was refused: {error}"))


def open_request(lane, nonce, model, version="", durability=0, window=0, ttl=0, outputs=(), traces=(), last_step_only=False,
                 initial_state=()):
    return session_pb2.Request(open=session_pb2.Open(
        lane=lane, client_nonce=nonce, model=model, version=version, durability=durability, window=window, ttl_seconds=int(ttl),
        initial_state=initial_state,
        options=session_pb2.OpenOptions(last_step_only=last_step_only, outputs=outputs, traces=traces)))
