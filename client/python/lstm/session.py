# SPDX-License-Identifier: MIT
"""One session of the blocking client."""
from collections import deque

from . import errors, tensors
from .v1 import session_pb2


class Session:
    """A recurrent state on the server. Thread-safe; turns are applied in the order of the calls. Close it, or use `with`."""

    def __init__(self, client, state, info, last_step_only):
        self._client, self._state, self.info, self._last_step_only = client, state, info, last_step_only
        self._vocabulary = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def id(self):
        return self._state.opened.session_id

    @property
    def opened(self):
        """What the server granted: window, durability, model hash, ... (lstm.v1.Opened)."""
        return self._state.opened

    @property
    def vocabulary(self):
        """Text to ids and back; None for a model without one."""
        if self._vocabulary is None and self.info.HasField("vocabulary"):
            self._vocabulary = tensors.Vocabulary(self.info.vocabulary)
        return self._vocabulary

    def step(self, x, *, reset_before=False, discard=False, deadline=None, timeout=None):
        """One turn: `x` of one step's shape, or [T, ...]; a dict by input name where there are several inputs. Returns the
        outputs alike. `reset_before`: from the initial state; `discard`: answer, but keep the state from before; `deadline`:
        seconds after which the server need not begin."""
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
            if len(waiting) >= self._state.opened.window:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def step_text(self, text):
        """The tokens of `text` as one turn: [T, ...]."""
        return self.step(self.vocabulary.encode(text))

    def close(self):
        """Waits for outstanding turns and closes the session on the server. Does nothing where it has ended."""
        with self._client.lock:
            state = self._state
            if state.closed or state.error:
                return
            self._client.wait(lambda: not state.turns or state.error, "turns were still unanswered")
            if not state.error:
                state.close()
                self._client.wait(lambda: state.closed or state.error, "the server did not close the session in time")
            self._client.forget(state.lane)

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
            self._client.wait(lambda: state.error or state.closed or state.room, "the window stayed full", timeout)
            if state.error:
                raise state.error
            if state.closed:
                raise errors.FailedPrecondition("the session is closed")
            state.send(step, single, lambda value, error: answer.append((value, error)))
        return wait
