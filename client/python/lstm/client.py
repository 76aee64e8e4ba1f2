# SPDX-License-Identifier: MIT
"""The blocking client: one connection, one stream that all sessions share, one thread that reads it."""
import os
import queue
import threading
import time

import grpc

from . import errors, protocol, tensors
from .session import Session
from .v1 import model_pb2, prediction_pb2, prediction_pb2_grpc, session_pb2

CHANNEL_OPTIONS = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000), ("grpc.http2.max_pings_without_data", 0),
                   ("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]


def credentials(ca, cert, key):
    def read(path):
        return open(path, "rb").read() if path else None
    return grpc.ssl_channel_credentials(read(ca), read(key), read(cert))


def connect(address="127.0.0.1:8001", *, ca=None, cert=None, key=None, token=None, timeout=10.0):
    """A Client. `address`: HOST:PORT or unix:PATH. `ca`, `cert`, `key`: PEM files; `token`: bearer token. Waits at most
    `timeout` seconds for the server, which is also the bound of every other wait."""
    channel = grpc.secure_channel(address, credentials(ca, cert, key), CHANNEL_OPTIONS) if ca else grpc.insecure_channel(address, CHANNEL_OPTIONS)
    try:
        grpc.channel_ready_future(channel).result(timeout)
    except grpc.FutureTimeoutError:
        channel.close()
        raise errors.Unavailable(f"no answer from {address} within {timeout} s; is lstm-server running there?") from None
    return Client(channel, token, timeout)


class Client:
    """Thread-safe. Sessions of one client share one stream; turns of many sessions that wait travel in one message."""

    def __init__(self, channel, token=None, timeout=10.0):
        self._channel, self.timeout = channel, timeout
        self._metadata = [("authorization", f"Bearer {token}")] if token else None
        self._stub = prediction_pb2_grpc.PredictionStub(channel)
        self._lock = threading.Condition(threading.RLock())
        self._sessions, self._next_lane, self._infos = {}, 1, {}
        self._outgoing, self._call, self._reader = None, None, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the stream and the connection. Sessions that are still open end with it."""
        with self._lock:
            call, reader = self._call, self._reader
            if self._outgoing:
                self._outgoing.put(None)
        if reader and reader is not threading.current_thread():
            reader.join(1)
            call.cancel()
            reader.join()
        self._channel.close()

    def models(self):
        """All models, as lstm.v1.ModelInfo."""
        return list(self._unary(self._stub.ListModels, model_pb2.ListModelsRequest()).models)

    def model(self, name, version=""):
        """One model with its vocabulary; kept after the first call."""
        if (name, version) not in self._infos:
            self._infos[name, version] = self._unary(self._stub.GetModel, model_pb2.GetModelRequest(name=name, version=version)).model
        return self._infos[name, version]

    def predict(self, name, x, *, version="", initial_state=None, outputs=(), traces=(), last_step_only=False, return_state=False):
        """A whole sequence [T, ...] without a session. With `return_state`: (outputs, {state tensor: array})."""
        inputs, steps, single = tensors.encode(self.model(name, version).inputs, x)
        response = self._unary(self._stub.Predict, prediction_pb2.PredictRequest(
            model=name, version=version, steps=steps, inputs=inputs, initial_state=tensors.encode_state(initial_state), return_state=return_state,
            options=session_pb2.OpenOptions(outputs=outputs, traces=traces, last_step_only=last_step_only)))
        y = tensors.decode(response.outputs, single or last_step_only)
        return (y, tensors.decode_state(response.state)) if return_state else y

    def session(self, model, *, version="", durability=0, window=0, ttl=0, outputs=(), traces=(), last_step_only=False, initial_state=None):
        """Opens a session: a recurrent state of its own on the server."""
        info = self.model(model, version)
        with self._lock:
            self._start()
            lane, self._next_lane = self._next_lane, self._next_lane + 1
            state = self._sessions[lane] = protocol.SessionState(lane, self._outgoing.put)
            self._outgoing.put(protocol.open_request(lane, os.urandom(16), model, version, durability, window, ttl, outputs, traces,
                                                     last_step_only, tensors.encode_state(initial_state)))
            self.wait(lambda: state.opened or state.error, "the server did not open the session in time")
            if state.error:
                del self._sessions[lane]
                raise state.error
        return Session(self, state, info, last_step_only)

    def sessions(self, model=""):
        """What the server holds, as lstm.v1.SessionInfo."""
        return list(self._unary(self._stub.ListSessions, session_pb2.ListSessionsRequest(model=model)).sessions)

    def close_session(self, session_id):
        """As an operator: ends any session by its id (bytes)."""
        self._unary(self._stub.CloseSession, session_pb2.CloseSessionRequest(session_id=session_id))

    # For sessions. The lock is held around all of these.
    def wait(self, ready, what, timeout=None):
        if not self._lock.wait_for(ready, self.timeout if timeout is None else timeout):
            raise errors.DeadlineExceeded(what)

    @property
    def lock(self):
        return self._lock

    def forget(self, lane):
        self._sessions.pop(lane, None)

    def _unary(self, method, request):
        try:
            return method(request, timeout=self.timeout, metadata=self._metadata)
        except grpc.RpcError as e:
            raise errors.from_rpc(e) from None

    def _start(self):
        if self._reader and self._reader.is_alive():
            return
        self._outgoing = queue.SimpleQueue()
        self._call = self._stub.Stream(self._messages(self._outgoing), metadata=self._metadata)
        self._reader = threading.Thread(target=self._read, args=(self._call,), name="lstm-stream", daemon=True)
        self._reader.start()

    @staticmethod
    def _messages(outgoing):
        """Whatever waits goes out as one message; nothing waits for more to come."""
        while True:
            request = outgoing.get()
            message = session_pb2.StreamRequest()
            while request is not None:
                message.requests.append(request)
                if len(message.requests) == 1024:
                    break
                try:
                    request = outgoing.get_nowait()
                except queue.Empty:
                    break
            if message.requests:
                yield message
            if request is None:
                return

    def _read(self, call):
        error = errors.Unavailable("the server ended the stream")
        try:
            for message in call:
                for response in message.responses:
                    self._take(response)
        except grpc.RpcError as e:
            error = errors.from_rpc(e)
        with self._lock:
            sessions, self._sessions = self._sessions, {}
            for state in sessions.values():
                state.end(error)
            self._lock.notify_all()

    def _take(self, response):
        kind = response.WhichOneof("kind")
        if kind in (None, "draining"):
            return
        with self._lock:
            state = self._sessions.get(getattr(response, kind).lane)
            pause = state.take(response) if state else None
            self._lock.notify_all()
        if pause is not None:  # a moment of overload: the stream's other answers wait these milliseconds too
            time.sleep(pause)
            with self._lock:
                state.resend()
