# SPDX-License-Identifier: MIT
"""The sessions of one client on its one stream: when to reconnect, resume, drain and give up. Like SessionState it has no
threads, sockets or clock: both clients call it, with the time (`now`, seconds) and with what came."""
import heapq

from . import errors, protocol

HALF_CLOSED_SECONDS = 10.0  # a stream that does not end by itself within these is cut
HELD_SECONDS = 0.1  # a connection that is lost sooner after its first answer is not made again at once: it would be a loop
LONGEST_SECONDS = 0.5  # between attempts while there is no server: what a stream is late by once it is back; to be refused costs little
VOLATILE_ELSEWHERE_SECONDS = 2.0  # another server answers: the process that held the session is gone


class Link:
    """Not thread-safe: its owner locks. `send(Request)` queues for the stream; `send(None)` half-closes it; `cut()` ends it.

    connected() -> take()... -> lost() -> pause -> connected() ... until lost() returns None. tick() is due at due()."""

    def __init__(self, reconnect_timeout):
        self.reconnect_timeout = reconnect_timeout
        self.sessions = {}  # by lane; those that have ended are taken out
        self.events = []    # ("lost", error) and ("resumed", seconds), for the owner to pass on and clear
        self._next_lane, self._send, self._cut, self._attempts, self._error = 1, None, None, 0, None
        self._heard_at = None      # the first answer of this stream
        self._at_once = 0          # attempts that need not wait
        self._lost_at = None       # since when sessions are without a stream
        self._away = {}            # lane: when to give it up, of those that wait for a stream, or try an Open or Resume again
        self._refused = set()      # lanes whose Open or Resume was refused on this stream, and not tried again yet
        self._draining = None      # seconds to stay away, once the server has said that it goes
        self._busy = set()         # while draining: lanes with answers due
        self._leaving = None       # this stream is half-closed; seconds until the next
        self._cut_at = None
        self._agenda = []          # heap of (time, lane to retry, or 0: look for what is to be given up)

    def add(self, state, now):
        """A new session; it gets its lane, and its Open or Resume goes out as soon as there is a stream for it."""
        lane, self._next_lane = self._next_lane, self._next_lane + 1
        self.sessions[lane], state.lane = state, lane
        if self._send and self._draining is None and self._leaving is None:
            state.reconnect(lane, self._send)
        elif self._lost_at is not None:
            self._give_up_after(lane, now + self.reconnect_timeout)

    def release(self, state, error, now):
        """Lets go of the session: what comes for it is ignored."""
        state.end(error)
        self._settled(state, now)

    def connected(self, send, cut):
        """A new stream, with nothing on it."""
        self._send, self._cut, self._heard_at = send, cut, None
        for lane, state in self.sessions.items():
            state.reconnect(lane, send)

    def take(self, response, now):
        kind = response.WhichOneof("kind")
        self._attempts = 0
        if self._heard_at is None:
            self._heard_at = now
        if kind == "draining":
            return self._drain(response.draining, now)
        state = self.sessions.get(getattr(response, kind).lane) if kind else None
        if state is None:
            return
        pause = state.take(response)
        lane = state.lane
        if state.refused:
            self._give_up_after(lane, now + self.reconnect_timeout)
            if state.volatile and state.refusal.reason == "ELSEWHERE":
                self._give_up_after(lane, now + VOLATILE_ELSEWHERE_SECONDS)
            self._refused.add(lane)
        elif state.over or (lane in self._away and state.state == protocol.LIVE):
            self._settled(state, now)
        if pause is not None:
            heapq.heappush(self._agenda, (now + pause, lane))
            if self._refused and len(self._refused) == len(self.sessions):  # perhaps another stream leads to another server
                self._leave(pause, now)
        if self._draining is not None and state.idle:
            self._busy.discard(lane)
            if not self._busy:
                self._leave(self._draining, now)

    def lost(self, error, now):
        """The stream has ended. Returns seconds until it is to be made again, or None where nothing needs it: no session is
        left, or the error is one that a new stream would have too, and all sessions have ended with it."""
        leaving, self._send, self._draining, self._leaving, self._error = self._leaving, None, None, None, error
        self._busy.clear()
        self._refused.clear()
        for state in self.sessions.values():
            state.lost()
        if error.code not in errors.RECONNECT or self.reconnect_timeout <= 0:
            self.end(error)
            return None
        if self.sessions and self._lost_at is None:
            self._lost_at = now
            self.events.append(("lost", error))
        for lane in self.sessions:
            self._away.setdefault(lane, now + self.reconnect_timeout)
        heapq.heappush(self._agenda, (now + self.reconnect_timeout, 0))
        self.tick(now)
        if not self.sessions:
            self._attempts = 0
            return None
        if self._heard_at is not None:  # twice: the first attempt may still meet what is left of the old connection
            self._at_once = 2 if now - self._heard_at >= HELD_SECONDS else 0
            self._heard_at = None
        if leaving is None and self._at_once:
            self._at_once -= 1
            return protocol.at_once()
        self._attempts += 1
        return protocol.backoff(self._attempts - 1, LONGEST_SECONDS) if leaving is None else leaving

    def end(self, error):
        """Ends every session."""
        self._lost_at = None
        for state in list(self.sessions.values()):
            self.release(state, error, 0)

    @property
    def closing(self):
        """A session's close is on its way."""
        return any(state.closing for state in self.sessions.values())

    def due(self):
        return self._agenda[0][0] if self._agenda else None

    def tick(self, now):
        """Tries again what is to be tried again by now, and gives up what has been away for too long."""
        while self._agenda and self._agenda[0][0] <= now:
            lane = heapq.heappop(self._agenda)[1]
            if lane in self.sessions and self._leaving is None:
                self._refused.discard(lane)
                self.sessions[lane].retry()
            elif lane == 0:
                for gone in [a for a, until in self._away.items() if until <= now]:
                    self.release(self.sessions[gone], self.sessions[gone].refusal or self._error, now)
                if self._leaving is not None and self._cut_at <= now and self._cut:
                    self._cut, cut = None, self._cut
                    cut()

    def _give_up_after(self, lane, until):
        self._away[lane] = min(until, self._away.get(lane, until))
        heapq.heappush(self._agenda, (self._away[lane], 0))

    def _settled(self, state, now):
        """The session is live, or has ended."""
        if state.over:
            self.sessions.pop(state.lane, None)
        self._away.pop(state.lane, None)
        self._refused.discard(state.lane)
        self._busy.discard(state.lane)
        if self._lost_at is not None and not self._away:
            if self.sessions or state.closed:
                self.events.append(("resumed", now - self._lost_at))
            self._lost_at = None

    def _drain(self, draining, now):
        """A server that goes away keeps what is not volatile: leave in order, once the answers that are due have come."""
        if self._leaving is not None or not self.sessions or any(state.volatile for state in self.sessions.values()) or self.reconnect_timeout <= 0:
            return
        self._draining = max(draining.resume_after_ms, 20) / 1000
        for state in self.sessions.values():
            state.hold()
        self._busy = {lane for lane, state in self.sessions.items() if not state.idle}
        if not self._busy:
            self._leave(self._draining, now)

    def _leave(self, pause, now):
        if self._leaving is None:
            self._leaving, self._cut_at = pause, now + HALF_CLOSED_SECONDS
            heapq.heappush(self._agenda, (self._cut_at, 0))
            for state in self.sessions.values():
                state.hold()
            self._send(None)
