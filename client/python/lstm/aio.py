# SPDX-License-Identifier: MIT
"""The asyncio client.

    async with lstm.aio.connect("127.0.0.1:8001") as client:
        async with await client.session("telemetry") as s:
            y = await s.step(x)
            async for y in s.stream(readings):
                ...
"""
import asyncio
import os
from collections import deque

import grpc

from . import errors, protocol, tensors
from .client import CHANNEL_OPTIONS, credentials
from .v1 import model_pb2, prediction_pb2, prediction_pb2_grpc, session_pb2


def connect(address="127.0.0.1:8001", *, ca=None, cert=None, key=None, token=None, timeout=10.0):
    """A Client, to be entered with `async with`. The arguments are those of lstm.connect."""
    channel = (grpc.aio.secure_channel(address, credentials(ca, cert, key), CHANNEL_OPTIONS) if ca
               else grpc.aio.insecure_channel(address, CHANNEL_OPTIONS))
    return Client(channel, address, token, timeout)


class Client:
    """Belongs to one event loop. Sessions share one stream."""

    def __init__(self, channel, address, token, timeout):
        self._channel, self._address, self.timeout = channel, address, timeout
        self._metadata = (("authorization", f"Bearer {token}"),) if token else None
        self._stub = prediction_pb2_grpc.PredictionStub(channel)
        self._sessions, self._next_lane, self._infos = {}, 1, {}
        self._outgoing, self._changed, self._task = asyncio.Queue(), asyncio.Condition(), None

    async def __aenter__(self):
        try:
            await asyncio.wait_for(self._channel.channel_ready(), self.timeout)
        except asyncio.TimeoutError:
            await self._channel.close()
            raise errors.Unavailable(f"no answer from {self._address} within {self.timeout} s; is lstm-server running there?") from None
        return self

    async def __aexit__(self, *_):
        if self._task:
            self._outgoing.put_nowait(None)
            await asyncio.wait([self._task], timeout=1)
            self._task.cancel()
        await self._channel.close()

    async def models(self):
        return list((await self._unary(self._stub.ListModels, model_pb2.ListModelsRequest())).models)

    async def model(self, name, version=""):
        if (name, version) not in self._infos:
            self._infos[name, version] = (await self._unary(self._stub.GetModel, model_pb2.GetModelRequest(name=name, version=version))).model
        return self._infos[name, version]

    async def predict(self, name, x, *, version="", outputs=(), traces=()):
        inputs, steps, single = tensors.encode((await self.model(name, version)).inputs, x)
        response = await self._unary(self._stub.Predict, prediction_pb2.PredictRequest(
            model=name, version=version, steps=steps, inputs=inputs, options=session_pb2.OpenOptions(outputs=outputs, traces=traces)))
        return tensors.decode(response.outputs, single)

    async def session(self, model, *, version="", window=0, ttl=0, outputs=(), traces=(), last_step_only=False, initial_state=None):
        info = await self.model(model, version)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run(self._stub.Stream(metadata=self._metadata)))
        lane, self._next_lane = self._next_lane, self._next_lane + 1
        state = self._sessions[lane] = protocol.SessionState(lane, self._outgoing.put_nowait)
        self._outgoing.put_nowait(protocol.open_request(lane, os.urandom(16), model, version, 0, window, ttl, outputs, traces, last_step_only,
                                                        tensors.encode_state(initial_state)))
        await self.wait(lambda: state.opened or state.error, "the server did not open the session in time")
        if state.error:
            raise state.error
        return Session(self, state, info, last_step_only)

    async def wait(self, ready, what):
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(ready), self.timeout)
            except asyncio.TimeoutError:
                raise errors.DeadlineExceeded(what) from None

    async def _unary(self, method, request):
        try:
            return await method(request, timeout=self.timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as e:
            raise errors.from_rpc(e) from None

    async def _run(self, call):
        writer = asyncio.ensure_future(self._write(call))
        error = errors.Unavailable("the server ended the stream")
        try:
            async for message in call:
                for response in message.responses:
                    await self._take(response)
        except grpc.aio.AioRpcError as e:
            error = errors.from_rpc(e)
        finally:
            writer.cancel()
            async with self._changed:
                for state in self._sessions.values():
                    state.end(error)
                self._sessions = {}
                self._changed.notify_all()

    async def _write(self, call):
        while True:
            requests = [await self._outgoing.get()]
            while not self._outgoing.empty() and len(requests) < 1024:
                requests.append(self._outgoing.get_nowait())
            ending = None in requests
            requests = [r for r in requests if r is not None]
            if requests:
                await call.write(session_pb2.StreamRequest(requests=requests))
            if ending:
                await call.done_writing()
                return

    async def _take(self, response):
        kind = response.WhichOneof("kind")
        if kind in (None, "draining"):
            return
        state = self._sessions.get(getattr(response, kind).lane)
        if state is None:
            return
        pause = state.take(response)
        async with self._changed:
            self._changed.notify_all()
        if pause is not None:
            asyncio.get_running_loop().call_later(pause, state.resend)


class Session:
    def __init__(self, client, state, info, last_step_only):
        self._client, self._state, self.info, self._last_step_only = client, state, info, last_step_only

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()

    @property
    def opened(self):
        return self._state.opened

    async def step(self, x, *, reset_before=False, discard=False, deadline=None):
        return await self._answer(await self._send(x, reset_before, discard, deadline))

    async def stream(self, xs):
        """Answers of an iterable or asynchronous iterable of inputs, in order, pipelined within the window."""
        waiting = deque()
        async for x in _each(xs):
            waiting.append(await self._send(x))
            if len(waiting) >= self._state.opened.window:
                yield await self._answer(waiting.popleft())
        while waiting:
            yield await self._answer(waiting.popleft())

    async def close(self):
        state = self._state
        if state.closed or state.error:
            return
        await self._client.wait(lambda: not state.turns or state.error, "turns were still unanswered")
        if not state.error:
            state.close()
            await self._client.wait(lambda: state.closed or state.error, "the server did not close the session in time")

    async def _send(self, x, reset_before=False, discard=False, deadline=None):
        inputs, steps, single = tensors.encode(self.info.inputs, x)
        state = self._state
        await self._client.wait(lambda: state.error or state.closed or state.room, "the window stayed full")
        if state.error:
            raise state.error
        if state.closed:
            raise errors.FailedPrecondition("the session is closed")
        answer = asyncio.get_running_loop().create_future()

        def done(value, error):
            if not answer.done():
                answer.set_result((value, error))
        state.send(session_pb2.Step(steps=steps, inputs=inputs, reset_before=reset_before, discard=discard,
                                    deadline_us=int(deadline * 1e6) if deadline else 0), single or self._last_step_only, done)
        return answer

    async def _answer(self, answer):
        try:
            value, error = await asyncio.wait_for(answer, self._client.timeout)
        except asyncio.TimeoutError:
            raise errors.DeadlineExceeded("no answer in time; the turn may still be applied") from None
        if error:
            raise error
        result, single = value
        return tensors.decode(result.outputs, single)


async def _each(xs):
    if hasattr(xs, "__aiter__"):
        async for x in xs:
            yield x
    else:
        for x in xs:
            yield x
