# SPDX-License-Identifier: MIT
"""One session's bookkeeping without threads, sockets or a clock, shared by the blocking and the asyncio client.

Turns are kept until they are answered, across any number of connections: a Resume says which answers were had, the server
sends the stored ones that were not, and what it has not applied is sent again. A turn that the server refuses for the moment
(RETRY, WINDOW, BYTES, RATE, DRAINING, or GAP behind such a one) is sent again, in order, once all outstanding turns are answered. One
that it refuses for good fails, and with it those that were sent behind it, none of which was applied.
"""
import json
import random
from collections import deque
from dataclasses import asdict, dataclass, field

from . import errors
from .v1 import session_pb2

OPENING, LIVE, RESUMING, ENDED, CLOSED = "opening", "live", "resuming", "ended", "closed"
DURABILITY = {"volatile": session_pb2.VOLATILE, "process": session_pb2.PROCESS, "host": session_pb2.HOST, "replica": session_pb2.REPLICA}


def backoff(attempt, longest=5.0):
    """Seconds before the attempt: a moment before the first (0), then 0.1 s, doubling to `longest`, with jitter."""
    return random.uniform(0.02, 0.1) if attempt == 0 else random.uniform(0.5, 1) * min(0.1 * 2 ** min(attempt, 10), longest)


def at_once():
    """The same where a connection that had held was lost: as a rule the server lives, and to be refused costs little."""
    return random.uniform(0.001, 0.003)


@dataclass(frozen=True)
class Handle:
    """Where a session stands, for another process to take it up: its identity, and the last turn whose answer was had. It
    holds the session's secret token: whoever has it can take the session and read its state. Store it like a password."""

    session_id: bytes
    token: bytes = field(repr=False)
    have_seq: int
    have_digest: bytes = b""
    model: str = ""
    version: str = ""
    durability: int = 0
    last_step_only: bool = False

    def to_bytes(self):
        return json.dumps({"lstm.handle": 1} | {k: v.hex() if isinstance(v, bytes) else v for k, v in asdict(self).items()}).encode()

    @classmethod
    def from_bytes(cls, data):
        try:
            d = json.loads(data)
            if d.pop("lstm.handle") != 1:
                raise ValueError
            made = cls(**d | {k: bytes.fromhex(d[k]) for k in ("session_id", "token", "have_digest")})
            for name, kind in cls.__annotations__.items():
                if not isinstance(getattr(made, name), kind):
                    raise ValueError
            return made
        except (ValueError, TypeError, KeyError, AttributeError):  # no part of it is quoted: it may hold the token
            raise errors.InvalidArgument("not a session's handle, expected the bytes of Handle.to_bytes()") from None


class Turn:
    """`step`: None where another process sent it. `expect`: the digest that its answer had, where it is only sent again."""

    __slots__ = ("step", "single", "done", "refused", "expect")

    def __init__(self, step, single, done):
        self.step, self.single, self.done, self.refused, self.expect = step, single, done, False, None


class SessionState:
    """Not thread-safe: its owner locks. Made with the Open message of a new session, or with the Handle of an old one; it waits
    for the first reconnect(). Every turn's `done((Result, single), error)` is called once: answers in order, a refusal perhaps
    ahead of answers before it. With `keep_turns`, as many answered turns that the server does not call durable are kept, to be
    sent again should it have lost them.

    state: OPENING -> LIVE <-> RESUMING, and from each of them -> ENDED (`error` says why) or CLOSED (close() was carried out).
    """

    def __init__(self, open=None, handle=None, *, keep_turns=0, accept_value_equal=False):
        self.state, self.lane, self._send = OPENING if handle is None else RESUMING, 0, None
        self.opened, self.error, self.closing = None, None, False
        self.refusal = None
        self._open, self._handle, self._accept = open, handle, accept_value_equal
        self.id, self.token = (handle.session_id, handle.token) if handle else (b"", b"")
        self.have_seq, self.have_digest = (handle.have_seq, handle.have_digest) if handle else (0, b"")
        self.missed = []      # (seq, Result) of turns that the process before had sent
        self.turns = deque()  # not answered, from have_seq + 1 on
        self._sent = 0        # how many of them have an answer due on this stream, the refused ones included
        self._refused = 0     # how many of those were refused for the moment
        self._ghosts = 0      # Rejects due for turns that have failed with one before them
        self._retry_after_ms, self._refusals, self._held, self._asked = 0, 0, False, False
        self._close_sent = False
        self._epoch, self._attempts = 0, 0
        self._holder, self._attached = random.getrandbits(64) | 1, 0  # so that a late Open or Resume of ours takes nothing back
        self._keep, self._kept, self._durable = keep_turns, deque(), 0  # _kept: up to have_seq, without a gap

    @property
    def over(self):
        return self.state in (ENDED, CLOSED)

    @property
    def closed(self):
        return self.state == CLOSED

    @property
    def window(self):
        return self.opened.window if self.opened else 1

    @property
    def room(self):
        return self._ghosts == 0 and len(self.turns) < self.window

    @property
    def volatile(self):
        known = self.opened or self._handle
        return known is not None and known.durability == session_pb2.VOLATILE

    @property
    def refused(self):
        """The last Open or Resume was refused for the moment, and none is on its way: `refusal` says why."""
        return self.state in (OPENING, RESUMING) and self.refusal is not None and not self._asked

    @property
    def idle(self):
        """No response is due on this stream."""
        return self.over or not (self._asked or self._ghosts or self._sent > self._refused or self._close_sent)

    def handle(self, model, version, last_step_only):
        return Handle(self.id, self.token, self.have_seq, self.have_digest, model, version, self.opened.durability, last_step_only)

    # What the user asks for.
    def send(self, step, single, done):
        step.seq = self.have_seq + 1 + len(self.turns)
        self.turns.append(Turn(step, single, done))
        self._pump()

    def close(self):
        """Once every turn is answered, and again on every new stream until the server has said that it is closed."""
        if not self.over:
            self.closing = True
            self._pump()

    def end(self, error):
        if not self.over:
            self.state, self.error, self._send = ENDED, error, None
        self._fail(0, error)

    # What happens to the connection.
    def lost(self):
        """The stream is gone, and what was due on it will not come."""
        if not self.over:
            self.state, self._send = RESUMING if self.id else OPENING, None
            self._unsend()
            self._ghosts, self._held, self._asked, self._close_sent = 0, False, False, False

    def reconnect(self, lane, send):
        """A stream is there, on which `send(Request)` queues, and `lane` is free."""
        if not self.over:
            self.lane, self._send = lane, send
            self._attach()

    def hold(self):
        """Sends nothing more on this stream."""
        self._held = True

    def retry(self):
        """To be called after the pause that take() returned. Does nothing where nothing is to be tried again."""
        if self._held or self._send is None:
            return
        if self.state == LIVE:
            if self._settled:
                self._unsend()
                self._pump()
        elif not self.over and not self._asked:
            self._attach()

    def take(self, response):
        """Handles a response of this lane. Returns seconds to wait before retry(), or None."""
        kind = response.WhichOneof("kind")
        if self.over:
            return None
        if kind == "opened" and self.state == OPENING:
            self._opened(response.opened)
        elif kind == "resumed" and self.state == RESUMING:
            self._resumed(response.resumed)
        elif kind == "result" and self.state == LIVE:
            return self._result(response.result)
        elif kind == "reject":
            return self._reject(response.reject) if self.state == LIVE else self._refuse(response.reject)
        elif kind == "closed":
            self._closed()
        elif kind == "fenced":
            self.end(errors.Fenced(f"another client has taken the session over (epoch {response.fenced.by_epoch})"))
        elif kind == "ended":
            self.end(errors.from_ended(response.ended))
        return None

    def _attach(self):
        self._asked, self._attempts, self._attached = True, self._attempts + 1, self._attached + 1
        if self.state == OPENING:
            self._open.lane, self._open.holder, self._open.attempt = self.lane, self._holder, self._attached
            self._send(session_pb2.Request(open=self._open))
        else:
            self._send(session_pb2.Request(resume=session_pb2.Resume(
                lane=self.lane, session_id=self.id, resume_token=self.token, have_seq=self.have_seq, have_digest=self.have_digest,
                replay_from=self._kept[0].step.seq if self._kept else 0, accept_value_equal=self._accept,
                holder=self._holder, attempt=self._attached, again=self._epoch > 0)))

    def _live(self, epoch):
        self.state, self._epoch, self._attempts, self._asked, self._refusals, self.refusal = LIVE, epoch, 0, False, 0, None
        self._pump()

    def _opened(self, opened):
        self.opened, self.id, self.token = opened, opened.session_id, opened.resume_token
        self._live(opened.epoch)

    def _resumed(self, resumed):
        applied, have = resumed.applied_seq, self.have_seq
        if self.opened is None:  # turns of the process before
            self.opened = session_pb2.Opened(session_id=self.id, resume_token=self.token)
            for _ in range(applied - have):
                self.turns.append(Turn(None, False, lambda value, error: value and self.missed.append((value[0].seq, value[0]))))
        elif applied > have + len(self.turns) or (applied > have and resumed.epoch > self._epoch + self._attempts):
            return self.end(errors.Fenced(f"another client had the session meanwhile: it stands at turn {applied} in epoch {resumed.epoch}, "
                                          f"here {have} turns are answered and {len(self.turns)} are not"))
        for name in ("epoch", "model_hash", "numerics_id", "window", "max_turn_answer_bytes", "durability", "ttl_seconds", "applied_seq",
                     "model", "version"):
            setattr(self.opened, name, getattr(resumed, name) or getattr(self.opened, name))
        if applied < have and not self._roll_back(resumed):
            return None
        if any(turn.step is None for turn in list(self.turns)[applied - self.have_seq:]):
            return self.end(errors.DataLoss(f"the server has lost the turns after {applied}, which it had applied"))
        self._durable = resumed.durable_seq
        self._sent = applied - self.have_seq  # their stored answers follow
        return self._live(resumed.epoch)

    def _roll_back(self, resumed):
        """The server stands before what we have: the turns that were kept are done again, and must lead to the same digests."""
        applied = resumed.applied_seq
        if not self._kept or self._kept[0].step.seq > applied + 1:
            self.end(errors.DataLoss(f"the server has lost turns: {self.have_seq} were answered, it knows of {applied}", reason="LOST"))
            return False
        while self._kept and self._kept[-1].step.seq > applied:
            self.turns.appendleft(self._kept.pop())
        if self._kept and resumed.state_digest != self._kept[-1].expect:
            self._diverged(applied)
            return False
        self.have_seq, self.have_digest = applied, resumed.state_digest
        return True

    def _diverged(self, seq):
        self.end(errors.Diverged(f"the server lost turns, and its state after turn {seq} is now another than it was", reason="DIVERGED"))

    def _refuse(self, reject):
        """The Open or the Resume is refused."""
        if not self._asked or reject.seq:
            return None
        self._asked, self.refusal = False, errors.from_reject(reject)
        if reject.reason in errors.TRANSIENT_ATTACH:
            self._refusals += 1
            return max(backoff(self._refusals - 1), random.uniform(1, 1.25) * reject.retry_after_ms / 1000)
        if self.closing and not self.turns and reject.reason in (session_pb2.NOT_FOUND, session_pb2.EXPIRED, session_pb2.LOST) and self.state == RESUMING:
            self._closed()  # the Close was carried out, its answer was lost (LOST: and the power went, which may leave half of it)
        else:
            self.end(self.refusal)
        return None

    def _closed(self):
        self.state, self._send = CLOSED, None
        self._fail(0, errors.FailedPrecondition("the session is closed"))

    def _result(self, result):
        if result.seq != self.have_seq + 1 or not self._sent:
            return None  # a copy of what was answered
        turn = self.turns.popleft()
        self._sent, self._refused = self._sent - 1, self._refused - turn.refused
        self.have_seq, self.have_digest, self._durable = result.seq, result.state_digest, max(self._durable, result.durable_seq)
        if turn.expect not in (None, result.state_digest):
            return self._diverged(result.seq)
        if self._keep and turn.step:
            turn.step.deadline_us = 0  # once applied, always applied
            self._kept.append(turn)
            while len(self._kept) > self._keep or (self._kept and self._kept[0].step.seq <= self._durable):
                self._kept.popleft()
        done, turn.done, turn.refused, again = turn.done, None, False, turn.expect is not None
        turn.expect = result.state_digest
        if not again:
            done((result, turn.single), None)
        self._pump()
        return self._pause()

    def _reject(self, reject):
        index = reject.seq - self.have_seq - 1
        if self._ghosts and index >= self._sent:
            self._ghosts -= 1
            self._pump()
        elif not 0 <= index < self._sent:
            return None
        elif reject.reason in errors.TRANSIENT:
            self._refused += not self.turns[index].refused
            self.turns[index].refused = True
            self._retry_after_ms = max(self._retry_after_ms, reject.retry_after_ms)
        elif self.turns[index].expect is not None:
            return self.end(errors.DataLoss(f"the server lost turn {reject.seq}, and refuses it now: {reject.message}", reason="LOST"))
        else:
            error = errors.from_reject(reject)
            self._fail(index, error, errors.Aborted(f"not applied: the turn before it was refused: {error}"))
            self._pump()
        return self._pause()

    @property
    def _settled(self):
        """Turns are to be sent again, and nothing is due any more."""
        return self._refused and self._refused == self._sent and not self._ghosts

    def _pause(self):
        return random.uniform(0.5, 1) * max(self._retry_after_ms, 5) / 1000 if self._settled else None

    def _unsend(self):
        for turn in self.turns:
            turn.refused = False
        self._sent = self._refused = self._retry_after_ms = 0

    def _pump(self):
        """Sends what may be sent: turns within the window, behind none that was refused, and at the end a Close."""
        if self.state != LIVE or self._held or self._refused or self._ghosts:
            return
        while self._sent < min(len(self.turns), self.window):
            step = self.turns[self._sent].step
            step.lane, step.ack = self.lane, self.have_seq
            self._sent += 1
            self._send(session_pb2.Request(step=step))
        if self.closing and not self.turns and not self._close_sent:
            self._close_sent = True
            self._send(session_pb2.Request(close=session_pb2.Close(lane=self.lane)))

    def _fail(self, index, error, behind=None):
        """The turn at `index` and all behind it have failed; those with another error, where one is given."""
        failed = [self.turns.pop() for _ in range(len(self.turns) - index)][::-1]
        outstanding = max(0, self._sent - index)
        self._ghosts += sum(not turn.refused for turn in failed[1:outstanding])
        self._refused -= sum(turn.refused for turn in failed[:outstanding])
        self._sent = min(self._sent, index)
        for i, turn in enumerate(failed):
            if turn.expect is None:
                turn.done(None, behind if i and behind else error)


def open_request(nonce, model, version="", durability=0, window=0, ttl=0, outputs=(), traces=(), last_step_only=False, initial_state=(),
                 answer_bytes=0, accept_value_equal=False):
    """`durability`: a name, or lstm.v1.Durability's number."""
    if isinstance(durability, str):
        if durability not in DURABILITY:
            raise errors.InvalidArgument(f"durability '{durability}', expected one of {list(DURABILITY)}")
        durability = DURABILITY[durability]
    return session_pb2.Open(
        client_nonce=nonce, model=model, version=version, durability=durability or 0, window=window, ttl_seconds=int(ttl), initial_state=initial_state,
        answer_bytes=answer_bytes, accept_value_equal=accept_value_equal,
        options=session_pb2.OpenOptions(last_step_only=last_step_only, outputs=outputs, traces=traces))
