# SPDX-License-Identifier: MIT
"""The blocking client: one connection, one stream that all sessions share, one thread that reads it, one that keeps time."""
import logging
import os
import queue
import threading
import time

import grpc

from . import errors, protocol, tensors
from .link import Link
from .session import Session
from .v1 import model_pb2, prediction_pb2, prediction_pb2_grpc, session_pb2

# The core takes min_reconnect_backoff_ms for the time that one attempt to connect may last, TLS included: not less than seconds.
CHANNEL_OPTIONS = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000), ("grpc.http2.max_pings_without_data", 0),
                   ("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1),
                   ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 5_000), ("grpc.max_reconnect_backoff_ms", 250)]


def credentials(ca, cert, key):
    def read(path):
        return open(path, "rb").read() if path else None
    return grpc.ssl_channel_credentials(read(ca), read(key), read(cert))


def connect(address="127.0.0.1:8001", *, ca=None, cert=None, key=None, token=None, timeout=10.0, reconnect_timeout=60.0, on_event=None, affinity=None):
    """A Client. `address`: HOST:PORT or unix:PATH. `ca`, `cert`, `key`: PEM files; `token`: bearer token.

    `timeout`: seconds to wait for the server, here and in calls without a session. `reconnect_timeout`: seconds to go on trying
    when the connection is lost, or the server killed; sessions are then resumed and nobody notices but by the delay. 0: never;
    sessions end with the connection. An answer is waited for `timeout` + `reconnect_timeout` seconds unless the call says
    otherwise, so that no answer is given up while its session may still be resumed.

    `affinity`: sent as "lstm-affinity" with every call, so that a proxy which hashes it gives all of them to one server: a
    session is resumed where it is. Default: a random value of this client's own; whoever picks a saved session up brings the saver's.

    `on_event`: called with ("lost", error) when the stream is lost, and with ("resumed", seconds) when all sessions are back, on
    a thread of the library: it must not wait for answers."""
    channel = grpc.secure_channel(address, credentials(ca, cert, key), CHANNEL_OPTIONS) if ca else grpc.insecure_channel(address, CHANNEL_OPTIONS)
    try:
        grpc.channel_ready_future(channel).result(timeout)
    except grpc.FutureTimeoutError:
        channel.close()
        raise errors.Unavailable(f"no answer from {address} within {timeout} s; is lstm-server running there?") from None
    return Client(channel, token, timeout, reconnect_timeout, on_event, affinity)


def metadata(token, affinity):
    sent = (("lstm-affinity", affinity or os.urandom(16).hex()),)
    return sent + (("authorization", f"Bearer {token}"),) if token else sent


def tell(on_event, events):
    for event in events if on_event else ():
        try:
            on_event(*event)
        except Exception:  # the stream must live on
            logging.getLogger("lstm").exception("on_event%r raised", event)


class Client:
    """Thread-safe. Sessions of one client share one stream; turns of many sessions that wait travel in one message."""

    def __init__(self, channel, token=None, timeout=10.0, reconnect_timeout=60.0, on_event=None, affinity=None):
        self._channel, self.timeout, self.answer_timeout = channel, timeout, timeout + reconnect_timeout
        self._metadata = metadata(token, affinity)
        self._stub = prediction_pb2_grpc.PredictionStub(channel)
        self._on_event, self._infos = on_event, {}
        lock = threading.RLock()
        self._lock, self._timer, self._stop = threading.Condition(lock), threading.Condition(lock), threading.Event()
        self._link, self._due = Link(reconnect_timeout), None
        self._outgoing, self._call, self._reader, self._running, self._ticker = None, None, None, False, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the stream and the connection. Sessions that are still open end here; on the server those that are not volatile
        stay until their time to live has passed."""
        with self._lock:
            if self._reader is not threading.current_thread():
                self._lock.wait_for(lambda: not self._link.closing, 1)
            self._stop.set()
            self._timer.notify_all()
            reader = self._reader
            if self._outgoing:
                self._outgoing.put(None)
        if reader and reader is not threading.current_thread():
            reader.join(1)
            with self._lock:
                if self._call:
                    self._call.cancel()
            reader.join()
        with self._lock:
            self._link.end(errors.Cancelled("the client was closed"))
            self._lock.notify_all()
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
        """A whole sequence [T, ...] without a session; a dict by input name where there are several. With `return_state`: (outputs, {state tensor: array})."""
        info = self.model(name, version)
        inputs, steps, single = tensors.encode(info.predict_inputs or info.inputs, x)
        response = self._unary(self._stub.Predict, prediction_pb2.PredictRequest(
            model=name, version=version, steps=steps, inputs=inputs, initial_state=tensors.encode_state(initial_state), return_state=return_state,
            options=session_pb2.OpenOptions(outputs=outputs, traces=traces, last_step_only=last_step_only)))
        y = tensors.decode(response.outputs, single or last_step_only, {s.name for s in info.predict_outputs if s.once})
        return (y, tensors.decode_state(response.state)) if return_state else y

    def session(self, model, *, version="", durability=0, window=0, ttl=0, outputs=(), traces=(), last_step_only=False, initial_state=None,
                answer_bytes=0, accept_value_equal=False, keep_turns=0):
        """Opens a session: a recurrent state of its own on the server. `durability`: "volatile", "process" or "host" (or the number),
        default the server's; `answer_bytes`: room for answers that are not acknowledged, which bounds one turn's answer;
        `keep_turns`: so many answered turns are kept to be done again, should a server lose what it had not yet made durable."""
        info = self.model(model, version)
        state = protocol.SessionState(protocol.open_request(
            os.urandom(16), model, version, durability, window, ttl, outputs, traces, last_step_only, tensors.encode_state(initial_state),
            answer_bytes, accept_value_equal), keep_turns=keep_turns, accept_value_equal=accept_value_equal)
        self._attach(state, "the server did not open the session in time")
        return Session(self, state, info, last_step_only)

    def resume(self, handle, *, accept_value_equal=False, keep_turns=0):
        """Takes up the session of a handle (lstm.Handle or its bytes), from whoever has it: there it ends with Fenced. Its `missed`
        are the answers to turns that were sent before and not had yet: [(seq, outputs [T, ...])]. Turns that were sent but are
        beyond `position` were not applied, and are to be sent again."""
        handle = as_handle(handle)
        state = protocol.SessionState(handle=handle, keep_turns=keep_turns, accept_value_equal=accept_value_equal)
        self._attach(state, "the server did not resume the session in time")
        try:
            return Session(self, state, self.model(state.opened.model or handle.model, state.opened.version or handle.version), handle.last_step_only)
        except errors.Error:
            with self._lock:
                self.release(state, errors.Cancelled("the session was released"))
            raise

    def fork(self, session, *, accept_value_equal=False):
        """Another session with the state that `session` (a Session or a handle) has now, which goes on undisturbed. Waits for the
        answers that are due; a session whose state moves on meanwhile is refused with FailedPrecondition."""
        handle = self._standing(session)
        made = self._unary(self._stub.ForkSession, session_pb2.ForkSessionRequest(
            session_id=handle.session_id, resume_token=handle.token, at_seq=handle.have_seq, client_nonce=os.urandom(16)))
        return self.resume(handle_of(made, handle), accept_value_equal=accept_value_equal)

    def export(self, session):
        """The session as bytes, to be imported here or into another server with the same model. They hold its state in the clear."""
        handle = self._standing(session)
        return self._unary(self._stub.ExportSession, session_pb2.ExportSessionRequest(
            session_id=handle.session_id, resume_token=handle.token, at_seq=handle.have_seq)).blob

    def import_(self, blob, accept_value_equal=False):
        """A new session with the state of an exported one. `accept_value_equal`: also where this server's bits may be others."""
        made = self._unary(self._stub.ImportSession, session_pb2.ImportSessionRequest(
            blob=blob, client_nonce=os.urandom(16), accept_value_equal=accept_value_equal))
        return self.resume(handle_of(made), accept_value_equal=accept_value_equal)

    def sessions(self, model=""):
        """What the server holds, as lstm.v1.SessionInfo."""
        return list(self._unary(self._stub.ListSessions, session_pb2.ListSessionsRequest(model=model)).sessions)

    def close_session(self, session_id):
        """As an operator: ends any session by its id (bytes)."""
        self._unary(self._stub.CloseSession, session_pb2.CloseSessionRequest(session_id=session_id))

    # For sessions. The lock is held around all of these.
    def wait(self, ready, what, timeout=None):
        if not self._lock.wait_for(ready, self.answer_timeout if timeout is None else timeout):
            raise errors.DeadlineExceeded(what)

    @property
    def lock(self):
        return self._lock

    def release(self, state, error):
        self._link.release(state, error, time.monotonic())
        self._lock.notify_all()

    def _attach(self, state, what):
        """Adds the session, and waits until it is live and the answers that it missed are here."""
        with self._lock:
            if self._stop.is_set():
                raise errors.Cancelled("the client was closed")
            self._link.add(state, time.monotonic())
            self._start()
            try:
                self.wait(lambda: state.over or (state.state == protocol.LIVE and not state.turns), what)
            except BaseException:
                if state.id and state.opened is None:  # somebody else's, perhaps: only let go
                    self.release(state, errors.Cancelled(what))
                else:
                    state.close()
                raise
            if state.error:
                raise state.error

    def _standing(self, session):
        if not isinstance(session, Session):
            return as_handle(session)
        session.settle()
        return session.handle()

    def _unary(self, method, request):
        """Every call may be repeated: a server that is away for a moment is tried again for `timeout` seconds."""
        until, attempt = time.monotonic() + self.timeout, 0
        while True:
            try:
                return method(request, timeout=max(until - time.monotonic(), 0.001), metadata=self._metadata)
            except grpc.RpcError as e:
                error, pause = errors.from_rpc(e), protocol.backoff(attempt)
            if error.code != "UNAVAILABLE" or self._link.reconnect_timeout <= 0 or time.monotonic() + pause > until or self._stop.wait(pause):
                raise error
            attempt += 1

    def _start(self):
        if self._running:
            return
        self._running = True
        self._reader = threading.Thread(target=self._run, name="lstm-stream", daemon=True)
        self._reader.start()
        if self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, name="lstm-timer", daemon=True)
            self._ticker.start()

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

    def _run(self):
        """Streams, one after the other, while there are sessions."""
        while True:
            outgoing = queue.SimpleQueue()
            with self._lock:
                if self._stop.is_set() or not self._link.sessions:
                    self._running, self._outgoing, self._call = False, None, None
                    return
                call = self._call = self._stub.Stream(self._messages(outgoing), metadata=self._metadata)
                self._outgoing = outgoing
                self._link.connected(outgoing.put, call.cancel)
            error = self._read(call)
            outgoing.put(None)  # ends the generator
            with self._lock:
                if self._stop.is_set():
                    self._link.end(errors.Cancelled("the client was closed"))
                pause = self._link.lost(error, time.monotonic())
                events = self._changed()
            tell(self._on_event, events)
            self._stop.wait(pause or 0)

    def _read(self, call):
        """Until the stream ends. Returns why."""
        try:
            for message in call:
                with self._lock:
                    now = time.monotonic()
                    for response in message.responses:
                        self._link.take(response, now)
                    events = self._changed()
                tell(self._on_event, events)
            return errors.Unavailable("the server ended the stream")
        except grpc.RpcError as e:
            return errors.from_rpc(e, "the stream to the server broke off: ")
        except Exception as e:  # nothing may wait for a thread that is gone
            logging.getLogger("lstm").exception("the stream's thread")
            call.cancel()
            with self._lock:
                self._link.end(errors.Internal(f"the client could not go on: {e!r}"))
            return errors.Internal(repr(e))

    def _tick(self):
        with self._lock:
            while not self._stop.is_set():
                self._link.tick(time.monotonic())
                events = self._changed()
                if events:
                    threading.Thread(target=tell, args=(self._on_event, events), daemon=True).start()
                self._due = self._link.due()
                self._timer.wait(None if self._due is None else max(0, self._due - time.monotonic()))

    def _changed(self):
        """Wakes all that wait. Returns the events to pass on, without the lock."""
        self._lock.notify_all()
        due = self._link.due()
        if due is not None and (self._due is None or due < self._due):
            self._timer.notify()
        events, self._link.events = self._link.events, []
        return events


def as_handle(handle):
    return handle if isinstance(handle, protocol.Handle) else protocol.Handle.from_bytes(handle)


def handle_of(made, like=None):
    """The handle of a session that ForkSession or ImportSession made."""
    return protocol.Handle(made.session_id, made.resume_token, made.applied_seq, made.state_digest, like.model if like else "",
                           like.version if like else "", like.durability if like else 0, like.last_step_only if like else False)
