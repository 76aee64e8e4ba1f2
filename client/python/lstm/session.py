# SPDX-License-Identifier: MIT
"""One session of the blocking client."""
from collections import deque

from . import errors, tensors
from .v1 import session_pb2


class SessionView:
    """What is known here of a session."""

    def __init__(self, client, state, info, last_step_only):
        self._client, self._state, self.info, self._last_step_only = client, state, info, last_step_only
        self._vocabulary = None
        self.missed = missed(state, last_step_only)

    @property
    def id(self):
        return self._state.id

    @property
    def opened(self):
        """What the server granted: window, durability, model hash, ... (lstm.v1.Opened)."""
        return self._state.opened

    @property
    def position(self):
        """The number of turns whose answers are here."""
        return self._state.have_seq

    @property
    def vocabulary(self):
        """Text to ids and back; None for a model without one."""
        if self._vocabulary is None and self.info.HasField("vocabulary"):
            self._vocabulary = tensors.Vocabulary(self.info.vocabulary)
        return self._vocabulary


class Session(SessionView):
    """A recurrent state on the server. Thread-safe; turns are applied in the order of the calls. Close it, or use `with`.

    It outlives the connection: when that is lost, or the server killed, calls wait until the session is resumed, and return what
    they would have returned. Where it cannot be resumed every call raises why: Fenced, DataLoss, NotFound, or the last Unavailable."""

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            return self.close()
        with self._client.lock:  # an error is on its way: ask for the close, and do not wait for it
            self._state.close()

    def step(self, x, *, reset_before=False, discard=False, deadline=None, timeout=None):
        """One turn: `x` of one step's shape, or [T, ...]; a dict by input name where there are several inputs. Returns the
        outputs alike. `reset_before`: from the initial state; `discard`: answer, but keep the state from before; `deadline`:
        seconds after which the server need not begin; `timeout`: seconds to wait, for room and for the answer each."""
        return self.send(x, reset_before=reset_before, discard=discard, deadline=deadline, timeout=timeout)(timeout)

    def reset(self, timeout=None):
        """Back to the initial state."""
        return self._queue(session_pb2.Step(reset_before=True), False, timeout)(timeout)

    def send(self, x, *, reset_before=False, discard=False, deadline=None, timeout=None):
        """Queues one turn, waiting while the window is full, and returns a function that waits for its answer."""
        inputs, steps, single = tensors.encode(self.info.inputs, x)
        step = session_pb2.Step(steps=steps, inputs=inputs, reset_before=reset_before, discard=discard,
                                deadline_us=int(deadline * 1e6) if deadline else 0)
        return self._queue(step, single or self._last_step_only, timeout)

    def stream(self, xs):
        """Answers of an iterable of inputs, in order; as many turns as the window allows are on their way at a time."""
        waiting = deque()
        for x in xs:
            waiting.append(self.send(x))
            if len(waiting) >= self._state.window:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def step_text(self, text):
        """The tokens of `text` as one turn: [T, ...]."""
        return self.step(self.vocabulary.encode(text))

    def handle(self):
        """Where the session stands, for client.resume() in this process or another: save `handle().to_bytes()`. It holds the secret
        token. Answers that have arrived here count as had, picked up or not. Save it before the next turn is sent: once that has
        acknowledged later answers, an older handle cannot be resumed (OutOfRange)."""
        with self._client.lock:
            return self._state.handle(self.info.name, self.info.version, self._last_step_only)

    def release(self):
        """Lets go of the session without closing it, and returns its handle. Turns without an answer fail here; whoever resumes
        the handle gets the answers of those that the server has applied."""
        with self._client.lock:
            handle = self.handle()
            self._client.release(self._state, errors.FailedPrecondition("the session was released"))
            return handle

    def settle(self, timeout=None):
        """Waits until no turn is without an answer."""
        with self._client.lock:
            self._client.wait(lambda: not self._state.turns or self._state.over, "turns were still unanswered", timeout)

    def close(self, timeout=None):
        """Waits for outstanding turns and closes the session on the server. Does nothing where it has ended."""
        with self._client.lock:
            self._state.close()
            self._client.wait(lambda: self._state.over, "the server did not close the session in time", timeout)

    def _queue(self, step, single, timeout):
        answer = []

        def wait(timeout=None):
            with self._client.lock:
                self._client.wait(lambda: answer, "no answer in time; the turn may still be applied", timeout)
            value, error = answer[0]
            if error:
                raise error
            result, was_single = value
            return tensors.decode(result.outputs, was_single) if result.outputs else None

        with self._client.lock:
            state = self._state
            self._client.wait(lambda: state.over or state.closing or state.room, "the window stayed full", timeout)
            check(state)
            state.send(step, single, lambda value, error: answer.append((value, error)))
        return wait


def check(state):
    if state.error:
        raise state.error
    if state.over or state.closing:
        raise errors.FailedPrecondition("the session is closed")


def missed(state, last_step_only):
    """Decoded: [(seq, outputs)]."""
    return [(seq, tensors.decode(r.outputs, last_step_only) if r.outputs else None) for seq, r in state.missed]
