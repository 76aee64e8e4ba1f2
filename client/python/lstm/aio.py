# SPDX-License-Identifier: MIT
"""The asyncio client.

    async with lstm.aio.connect("127.0.0.1:8001") as client:
        async with client.session("telemetry") as s:      # or: s = await client.session("telemetry")
            y = await s.step(x)
            async for y in s.stream(readings):
                ...
"""
import asyncio
import functools
import logging
import os
import time
from collections import deque

import grpc

from . import errors, protocol, tensors
from .client import CHANNEL_OPTIONS, as_handle, credentials, handle_of, metadata, tell
from .link import Link
from .session import SessionView, check
from .v1 import model_pb2, prediction_pb2, prediction_pb2_grpc, session_pb2


def connect(address="127.0.0.1:8001", *, ca=None, cert=None, key=None, token=None, timeout=10.0, reconnect_timeout=60.0, on_event=None, affinity=None):
    """A Client, to be entered with `async with`. The arguments are those of lstm.connect; `on_event` is called on the event loop."""
    channel = (grpc.aio.secure_channel(address, credentials(ca, cert, key), CHANNEL_OPTIONS) if ca
               else grpc.aio.insecure_channel(address, CHANNEL_OPTIONS))
    return Client(channel, address, token, timeout, reconnect_timeout, on_event, affinity)


class Opening:
    """A session that is on its way: to be awaited, or entered with `async with`."""

    def __init__(self, coroutine):
        self._coroutine, self._session = coroutine, None

    def __await__(self):
        return self._coroutine.__await__()

    async def __aenter__(self):
        self._session = await self._coroutine
        return await self._session.__aenter__()

    async def __aexit__(self, *error):
        return await self._session.__aexit__(*error)


def opens(method):
    return functools.wraps(method)(lambda *arguments, **options: Opening(method(*arguments, **options)))


class Client:
    """Belongs to one event loop. Sessions share one stream. What lstm.Client says of its methods holds for these."""

    def __init__(self, channel, address, token=None, timeout=10.0, reconnect_timeout=60.0, on_event=None, affinity=None):
        self._channel, self._address, self.timeout, self.answer_timeout = channel, address, timeout, timeout + reconnect_timeout
        self._metadata = metadata(token, affinity)
        self._stub = prediction_pb2_grpc.PredictionStub(channel)
        self._on_event, self._infos, self._link = on_event, {}, Link(reconnect_timeout)
        self._task, self._timer, self._due, self._waiters, self._closed = None, None, None, set(), False
        self._outgoing = None

    async def __aenter__(self):
        try:
            await asyncio.wait_for(self._channel.channel_ready(), self.timeout)
        except asyncio.TimeoutError:
            await self._channel.close()
            raise errors.Unavailable(f"no answer from {self._address} within {self.timeout} s; is lstm-server running there?") from None
        return self

    async def __aexit__(self, *_):
        await self.close()

    async def close(self):
        try:
            await self.wait(lambda: not self._link.closing, "", 1)
        except errors.DeadlineExceeded:
            pass
        self._closed = True
        if self._task:
            if self._outgoing:
                self._outgoing.put_nowait(None)
                await asyncio.wait([self._task], timeout=1)
            self._task.cancel()
            await asyncio.wait([self._task])
        self._link.end(errors.Cancelled("the client was closed"))
        self._change()
        if self._timer:
            self._timer.cancel()
        await self._channel.close()

    async def models(self):
        return list((await self._unary(self._stub.ListModels, model_pb2.ListModelsRequest())).models)

    async def model(self, name, version=""):
        if (name, version) not in self._infos:
            self._infos[name, version] = (await self._unary(self._stub.GetModel, model_pb2.GetModelRequest(name=name, version=version))).model
        return self._infos[name, version]

    async def predict(self, name, x, *, version="", initial_state=None, outputs=(), traces=(), last_step_only=False, return_state=False):
        info = await self.model(name, version)
        inputs, steps, single = tensors.encode(info.predict_inputs or info.inputs, x)
        response = await self._unary(self._stub.Predict, prediction_pb2.PredictRequest(
            model=name, version=version, steps=steps, inputs=inputs, initial_state=tensors.encode_state(initial_state), return_state=return_state,
            options=session_pb2.OpenOptions(outputs=outputs, traces=traces, last_step_only=last_step_only)))
        y = tensors.decode(response.outputs, single or last_step_only, {s.name for s in info.predict_outputs if s.once})
        return (y, tensors.decode_state(response.state)) if return_state else y

    @opens
    async def session(self, model, *, version="", durability=0, window=0, ttl=0, outputs=(), traces=(), last_step_only=False, initial_state=None,
                      answer_bytes=0, accept_value_equal=False, keep_turns=0):
        info = await self.model(model, version)
        state = protocol.SessionState(protocol.open_request(
            os.urandom(16), model, version, durability, window, ttl, outputs, traces, last_step_only, tensors.encode_state(initial_state),
            answer_bytes, accept_value_equal), keep_turns=keep_turns, accept_value_equal=accept_value_equal)
        await self._attach(state, "the server did not open the session in time")
        return Session(self, state, info, last_step_only)

    @opens
    async def resume(self, handle, *, accept_value_equal=False, keep_turns=0):
        handle = as_handle(handle)
        state = protocol.SessionState(handle=handle, keep_turns=keep_turns, accept_value_equal=accept_value_equal)
        await self._attach(state, "the server did not resume the session in time")
        try:
            info = await self.model(state.opened.model or handle.model, state.opened.version or handle.version)
        except BaseException:
            self.release(state, errors.Cancelled("the session was released"))
            raise
        return Session(self, state, info, handle.last_step_only)

    @opens
    async def fork(self, session, *, accept_value_equal=False):
        handle = await self._standing(session)
        made = await self._unary(self._stub.ForkSession, session_pb2.ForkSessionRequest(
            session_id=handle.session_id, resume_token=handle.token, at_seq=handle.have_seq, client_nonce=os.urandom(16)))
        return await self.resume(handle_of(made, handle), accept_value_equal=accept_value_equal)

    async def export(self, session):
        handle = await self._standing(session)
        return (await self._unary(self._stub.ExportSession, session_pb2.ExportSessionRequest(
            session_id=handle.session_id, resume_token=handle.token, at_seq=handle.have_seq))).blob

    @opens
    async def import_(self, blob, accept_value_equal=False):
        made = await self._unary(self._stub.ImportSession, session_pb2.ImportSessionRequest(
            blob=blob, client_nonce=os.urandom(16), accept_value_equal=accept_value_equal))
        return await self.resume(handle_of(made), accept_value_equal=accept_value_equal)

    async def sessions(self, model=""):
        return list((await self._unary(self._stub.ListSessions, session_pb2.ListSessionsRequest(model=model))).sessions)

    async def close_session(self, session_id):
        await self._unary(self._stub.CloseSession, session_pb2.CloseSessionRequest(session_id=session_id))

    # For sessions.
    async def wait(self, ready, what, timeout=None):
        """Until ready(), which is asked again after everything that comes."""
        try:
            async with asyncio.timeout(self.answer_timeout if timeout is None else timeout):
                while not ready():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            raise errors.DeadlineExceeded(what) from None

    def release(self, state, error):
        self._link.release(state, error, time.monotonic())
        self._change()

    async def _attach(self, state, what):
        if self._closed:
            raise errors.Cancelled("the client was closed")
        self._link.add(state, time.monotonic())
        self._change()
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())
        try:
            await self.wait(lambda: state.over or (state.state == protocol.LIVE and not state.turns), what)
        except BaseException:
            if state.id and state.opened is None:  # somebody else's, perhaps: only let go
                self.release(state, errors.Cancelled(what))
            else:
                state.close()
            raise
        if state.error:
            raise state.error

    async def _standing(self, session):
        if not isinstance(session, Session):
            return as_handle(session)
        await session.settle()
        return session.handle()

    async def _unary(self, method, request):
        """Every call may be repeated: a server that is away for a moment is tried again for `timeout` seconds."""
        until, attempt = time.monotonic() + self.timeout, 0
        while True:
            try:
                return await method(request, timeout=max(until - time.monotonic(), 0.001), metadata=self._metadata)
            except grpc.aio.AioRpcError as e:
                error, pause = errors.from_rpc(e), protocol.backoff(attempt)
            if error.code != "UNAVAILABLE" or self._link.reconnect_timeout <= 0 or time.monotonic() + pause > until or self._closed:
                raise error
            await asyncio.sleep(pause)
            attempt += 1

    async def _run(self):
        """Streams, one after the other, while there are sessions."""
        while self._link.sessions and not self._closed:
            call = self._stub.Stream(metadata=self._metadata)
            self._outgoing = outgoing = asyncio.Queue()
            self._link.connected(outgoing.put_nowait, call.cancel)
            writer = asyncio.ensure_future(self._write(call, outgoing))
            try:
                error = await self._read(call)
            finally:
                self._outgoing = None
                call.cancel()
                outgoing.put_nowait(None)  # ends the writer; not cancel(), which is not safe within a write
                await asyncio.wait([writer], timeout=1)
            pause = self._link.lost(error, time.monotonic())
            self._change()
            if pause is not None and not self._closed:
                await asyncio.sleep(pause)

    async def _read(self, call):
        """Until the stream ends. Returns why."""
        try:
            async for message in call:
                now = time.monotonic()
                for response in message.responses:
                    self._link.take(response, now)
                self._change()
            return errors.Unavailable("the server ended the stream")
        except grpc.aio.AioRpcError as e:
            return errors.from_rpc(e, "the stream to the server broke off: ")
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():
                raise
            return errors.Cancelled("the stream was cut: it did not end by itself")  # by the link
        except Exception as e:  # nothing may wait for a task that is gone
            logging.getLogger("lstm").exception("the stream's task")
            call.cancel()
            self._link.end(errors.Internal(f"the client could not go on: {e!r}"))
            return errors.Internal(repr(e))

    @staticmethod
    async def _write(call, outgoing):
        while True:
            requests = [await outgoing.get()]
            while not outgoing.empty() and len(requests) < 1024:
                requests.append(outgoing.get_nowait())
            ending = None in requests
            requests = [r for r in requests if r is not None]
            try:
                if requests:
                    await call.write(session_pb2.StreamRequest(requests=requests))
                if ending:
                    return await call.done_writing()
            except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                return  # the reader sees why

    def _tick(self):
        self._timer = self._due = None
        self._link.tick(time.monotonic())
        self._change()

    def _change(self):
        """Wakes all that wait, sets the timer, passes events on."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        due = self._link.due()
        if due is not None and not self._closed and (self._due is None or due < self._due):
            if self._timer:
                self._timer.cancel()
            self._due, self._timer = due, asyncio.get_running_loop().call_later(max(0, due - time.monotonic()), self._tick)
        events, self._link.events = self._link.events, []
        tell(self._on_event, events)


class Session(SessionView):
    """What lstm.Session says of its methods holds for these."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, kind, *_):
        if kind is None:
            await self.close()
        else:
            self._state.close()

    async def step(self, x, *, reset_before=False, discard=False, deadline=None, timeout=None):
        wait = await self.send(x, reset_before=reset_before, discard=discard, deadline=deadline, timeout=timeout)
        return await wait(timeout)

    async def reset(self, timeout=None):
        wait = await self._queue(session_pb2.Step(reset_before=True), False, timeout)
        return await wait(timeout)

    async def send(self, x, *, reset_before=False, discard=False, deadline=None, timeout=None):
        """Queues one turn, waiting while the window is full, and returns a function that is awaited for its answer."""
        inputs, steps, single = tensors.encode(self.info.inputs, x)
        step = session_pb2.Step(steps=steps, inputs=inputs, reset_before=reset_before, discard=discard,
                                deadline_us=int(deadline * 1e6) if deadline else 0)
        return await self._queue(step, single or self._last_step_only, timeout)

    async def stream(self, xs):
        """Answers of an iterable or asynchronous iterable of inputs, in order, pipelined within the window."""
        waiting = deque()
        async for x in _each(xs):
            waiting.append(await self.send(x))
            if len(waiting) >= self._state.window:
                yield await waiting.popleft()()
        while waiting:
            yield await waiting.popleft()()

    async def step_text(self, text):
        return await self.step(self.vocabulary.encode(text))

    def handle(self):
        return self._state.handle(self.info.name, self.info.version, self._last_step_only)

    async def release(self):
        handle = self.handle()
        self._client.release(self._state, errors.FailedPrecondition("the session was released"))
        return handle

    async def settle(self, timeout=None):
        await self._client.wait(lambda: not self._state.turns or self._state.over, "turns were still unanswered", timeout)

    async def close(self, timeout=None):
        self._state.close()
        await self._client.wait(lambda: self._state.over, "the server did not close the session in time", timeout)

    async def _queue(self, step, single, timeout):
        state = self._state
        await self._client.wait(lambda: state.over or state.closing or state.room, "the window stayed full", timeout)
        check(state)
        answer = asyncio.get_running_loop().create_future()

        def done(value, error):
            if not answer.done():
                answer.set_result((value, error))
        state.send(step, single, done)
        return functools.partial(self._answer, answer)

    async def _answer(self, answer, timeout=None):
        try:
            value, error = await asyncio.wait_for(answer, self._client.answer_timeout if timeout is None else timeout)
        except asyncio.TimeoutError:
            raise errors.DeadlineExceeded("no answer in time; the turn may still be applied") from None
        if error:
            raise error
        result, single = value
        return tensors.decode(result.outputs, single) if result.outputs else None


async def _each(xs):
    if hasattr(xs, "__aiter__"):
        async for x in xs:
            yield x
    else:
        for x in xs:
            yield x
