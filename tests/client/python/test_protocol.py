# SPDX-License-Identifier: MIT
"""The Python library's bookkeeping, without a server: scripted responses, and a random fight with a small model of the rules."""
import pathlib
import random
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "client" / "python"))

import grpc

import lstm
from lstm import protocol
from lstm.link import Link
from lstm.protocol import Handle, SessionState
from lstm.v1 import session_pb2 as pb, tensor_pb2

ID, TOKEN = b"i" * 16, b"t" * 32


def response(**kind):
    return pb.Response(**kind)


def digest(seq, history=0):
    return bytes([history, seq % 256]) * 4


def result(seq, lane=1, history=0, **more):
    return response(result=pb.Result(lane=lane, seq=seq, state_digest=digest(seq, history), outputs=[tensor_pb2.Tensor(data=b"%d" % seq)], **more))


def reject(reason, seq=0, lane=1, code="UNAVAILABLE", **more):
    return response(reject=pb.Reject(lane=lane, seq=seq, code=grpc.StatusCode[code].value[0], reason=reason, message="because", **more))


def opened(lane=1, window=4, durability=pb.PROCESS, epoch=1, token=TOKEN):
    return response(opened=pb.Opened(lane=lane, session_id=ID, resume_token=token, epoch=epoch, window=window, durability=durability))


def resumed(applied, epoch=2, lane=1, at=None, durable=0):
    return response(resumed=pb.Resumed(lane=lane, epoch=epoch, applied_seq=applied, window=4, durability=pb.PROCESS, model="m", version="1",
                                       state_digest=digest(applied) if at is None else at, durable_seq=durable))


class Scripted:
    """A session, what it has sent since the last look, and what came of its turns."""

    def __init__(self, **more):
        self.state = SessionState(**more) if "handle" in more else SessionState(protocol.open_request(b"n" * 16, "m"), **more)
        self.sent, self.answers = [], []
        self.state.reconnect(1, self.sent.append)

    def look(self):
        out, self.sent[:] = [(r.WhichOneof("kind"), getattr(r, r.WhichOneof("kind"))) for r in self.sent], []
        return out

    def steps(self):
        """The (seq, ack) of what was sent; nothing but Steps was."""
        return [{"step": lambda s: (s.seq, s.ack)}[kind](s) for kind, s in self.look()]

    def turn(self, count=1):
        for _ in range(count):
            self.state.send(pb.Step(inputs=[tensor_pb2.Tensor(data=b"x")]), False,
                            lambda value, error: self.answers.append(error or value[0].seq))

    def take(self, *responses):
        pauses = [self.state.take(r) for r in responses]
        return pauses[-1] if pauses else None

    def again(self, *responses):
        """The connection is lost, and there is another."""
        self.state.lost()
        self.look()
        self.state.reconnect(1, self.sent.append)
        (kind, request), = self.look()
        self.take(*responses)
        return kind, request


def live(**more):
    s = Scripted(**more)
    s.look()
    s.take(opened())
    return s


class SessionStateTest(unittest.TestCase):
    def test_nothing_was_answered_before_the_connection_broke(self):
        s = live()
        s.turn(3)
        self.assertEqual(s.steps(), [(1, 0), (2, 0), (3, 0)])
        kind, request = s.again()
        self.assertEqual((kind, request.session_id, request.resume_token, request.have_seq, request.have_digest, request.replay_from),
                         ("resume", ID, TOKEN, 0, b"", 0))
        self.assertEqual((s.state.state, s.steps()), ("resuming", []))
        s.take(resumed(0))
        self.assertEqual((s.state.state, s.steps()), ("live", [(1, 0), (2, 0), (3, 0)]))
        s.take(result(1), result(2), result(3))
        self.assertEqual(s.answers, [1, 2, 3])

    def test_some_answers_were_had_some_are_replayed_and_the_rest_is_sent_again(self):
        s = live()
        s.turn(4)
        s.take(result(1))
        kind, request = s.again(resumed(3))
        self.assertEqual((request.have_seq, request.have_digest), (1, digest(1)))
        self.assertEqual(s.steps(), [(4, 1)])
        s.take(result(1, replayed=True), result(3), result(2, replayed=True), result(2, replayed=True), result(3, replayed=True), result(4))
        self.assertEqual(s.answers, [1, 2, 3, 4])
        s.turn()
        self.assertEqual(s.steps(), [(5, 4)])

    def test_all_was_answered(self):
        s = live()
        s.turn(2)
        s.take(result(1), result(2))
        self.assertEqual(s.again(resumed(2))[1].have_seq, 2)
        self.assertEqual(s.look(), [])
        s.turn()
        self.assertEqual(s.steps(), [(3, 2)])

    def test_turns_queued_without_a_connection_go_out_when_there_is_one(self):
        s = live()
        s.state.lost()
        s.look()
        self.assertTrue(s.state.room)
        s.turn(4)
        self.assertFalse(s.state.room)
        s.state.reconnect(1, s.sent.append)
        self.assertEqual([kind for kind, _ in s.look()], ["resume"])
        s.take(resumed(0))
        self.assertEqual([seq for seq, _ in s.steps()], [1, 2, 3, 4])

    def test_a_connection_that_breaks_within_the_replay(self):
        s = live()
        s.turn(4)
        s.again(resumed(3), result(1, replayed=True))
        self.assertEqual(s.again(resumed(3, epoch=3))[1].have_seq, 1)
        self.assertEqual(s.steps(), [(4, 1)])
        s.take(result(2), result(3), result(4))
        self.assertEqual(s.answers, [1, 2, 3, 4])

    def test_an_open_without_an_answer_is_repeated_with_its_nonce(self):
        s = Scripted()
        (kind, first), = s.look()
        self.assertEqual((kind, first.client_nonce, s.state.state), ("open", b"n" * 16, "opening"))
        s.turn(2)
        self.assertEqual(s.look(), [])
        kind, second = s.again(opened(token=b"u" * 32, epoch=2))
        self.assertEqual((kind, second.client_nonce, second.holder), ("open", first.client_nonce, first.holder))
        self.assertGreater(second.attempt, first.attempt)
        self.assertEqual([seq for seq, _ in s.steps()], [1, 2])
        self.assertEqual(s.again()[1].resume_token, b"u" * 32)

    def test_turns_refused_for_the_moment_are_sent_again_in_order_once_all_are_answered(self):
        s = live()
        s.turn(3)
        s.look()
        self.assertIsNone(s.take(reject(pb.BYTES, 2, code="RESOURCE_EXHAUSTED"), reject(pb.GAP, 3, code="OUT_OF_RANGE")))
        s.turn()
        self.assertEqual(s.look(), [], "nothing goes behind a refused turn")
        self.assertIsNotNone(s.take(result(1)), "the last that was due: now they are sent again")
        s.state.retry()
        self.assertEqual(s.steps(), [(2, 1), (3, 1), (4, 1)])
        s.state.retry()
        self.assertEqual(s.look(), [])
        s.take(result(2), result(3), result(4))
        self.assertEqual(s.answers, [1, 2, 3, 4])

    def test_turns_refused_for_the_moment_before_the_connection_broke(self):
        s = live()
        s.turn(3)
        self.assertIsNotNone(s.take(reject(pb.RETRY, 1, retry_after_ms=50), reject(pb.GAP, 2), reject(pb.GAP, 3)))
        s.again()
        s.state.retry()  # the pause of the stream before ends now
        self.assertEqual(s.look(), [])
        s.take(resumed(0))
        self.assertEqual([seq for seq, _ in s.steps()], [1, 2, 3])
        s.state.retry()
        self.assertEqual(s.look(), [])
        s.take(result(1), reject(pb.RETRY, 2), reject(pb.GAP, 3))
        s.state.retry()
        self.assertEqual(s.steps(), [(2, 1), (3, 1)])

    def test_a_turn_refused_for_good_takes_those_behind_it_along_and_their_rejects_are_awaited(self):
        s = live()
        s.turn(3)
        s.take(result(1), reject(pb.INVALID, 2, code="INVALID_ARGUMENT"))
        self.assertEqual([type(a) for a in s.answers], [int, lstm.InvalidArgument, lstm.Aborted])
        self.assertFalse(s.state.room, "the Reject of the third is still to come")
        s.take(reject(pb.GAP, 3, code="OUT_OF_RANGE"))
        self.assertTrue(s.state.room)
        s.look()
        s.turn()
        self.assertEqual(s.steps(), [(2, 1)])

    def test_rejects_that_were_due_when_the_connection_broke_do_not_come(self):
        s = live()
        s.turn(4)
        s.take(reject(pb.INVALID, 1, code="INVALID_ARGUMENT"), reject(pb.GAP, 2))
        self.assertFalse(s.state.room)
        s.again(resumed(0))
        self.assertTrue(s.state.room)
        self.assertEqual(s.look(), [])
        s.turn()
        self.assertEqual(s.steps(), [(1, 0)])
        s.take(result(1))
        self.assertEqual(s.answers[4:], [1])

    def test_fenced_ends_the_session_with_its_own_error(self):
        s = live()
        s.turn(2)
        s.look()
        s.take(response(fenced=pb.Fenced(lane=1, by_epoch=7)), result(1))
        self.assertEqual([type(a) for a in s.answers], [lstm.Fenced] * 2)
        self.assertIsInstance(s.state.error, lstm.Aborted)
        s.state.lost()
        s.state.reconnect(1, s.sent.append)
        self.assertEqual(s.look(), [])

    def test_a_session_that_another_client_took_on_is_not_taken_for_ones_own(self):
        for applied, epoch in ((3, 2), (1, 3)):
            s = live()
            s.turn(2)
            s.again(resumed(applied, epoch=epoch))
            self.assertIsInstance(s.state.error, lstm.Fenced)
            self.assertEqual([type(a) for a in s.answers], [lstm.Fenced] * 2)
        s = live()
        s.turn(2)
        s.again()  # this Resume was carried out, its answer lost
        s.again(resumed(1, epoch=3), result(1))
        self.assertEqual(s.answers, [1])

    def test_ended_by_the_server(self):
        for reason, kind in ((pb.EXPIRED, lstm.NotFound), (pb.CANCELLED_BY_OPERATOR, lstm.Aborted), (pb.LOST, lstm.DataLoss)):
            s = live()
            s.turn()
            s.take(response(ended=pb.Ended(lane=1, reason=reason, message="because")))
            self.assertIsInstance(s.state.error, kind)
            self.assertEqual(s.answers, [s.state.error])

    def test_a_refused_resume(self):
        for reason in (pb.ELSEWHERE, pb.RETRY, pb.DRAINING):
            s = live()
            s.turn()
            s.again()
            self.assertGreaterEqual(s.take(reject(reason, retry_after_ms=300)), 0.3)
            self.assertEqual((s.state.state, s.answers, type(s.state.refusal)), ("resuming", [], lstm.Unavailable))
            s.state.retry()
            s.state.retry()
            self.assertEqual([kind for kind, _ in s.look()], ["resume"])
            s.take(resumed(0))
            self.assertEqual([seq for seq, _ in s.steps()], [1])
        for reason, code, kind in ((pb.NOT_FOUND, "NOT_FOUND", lstm.NotFound), (pb.LOST, "DATA_LOSS", lstm.DataLoss),
                                   (pb.ALREADY_ACKED, "OUT_OF_RANGE", lstm.OutOfRange), (pb.NUMERICS, "FAILED_PRECONDITION", lstm.FailedPrecondition),
                                   (pb.UNSUPPORTED, "UNIMPLEMENTED", lstm.Unimplemented), (pb.BROKEN, "INTERNAL", lstm.Internal)):
            s = live()
            s.turn()
            s.again(reject(reason, code=code))
            self.assertIs(type(s.state.error), kind)
            self.assertEqual((s.state.state, s.answers), ("ended", [s.state.error]))

    def test_lost_turns_without_their_inputs_are_data_loss(self):
        s = live()
        s.turn(2)
        s.take(result(1), result(2))
        s.again(resumed(1))
        self.assertIs(type(s.state.error), lstm.DataLoss)

    def test_lost_turns_are_done_again_from_kept_inputs(self):
        s = live(keep_turns=8)
        for seq in range(1, 8):
            s.turn()
            s.take(result(seq, durable_seq=seq // 2))
        s.turn()
        _, request = s.again(resumed(3, durable=3))
        self.assertEqual((request.have_seq, request.replay_from), (7, 4))
        self.assertEqual(s.steps(), [(4, 3), (5, 3), (6, 3), (7, 3)], "the window holds for them too")
        s.take(result(4), result(5), result(6), result(7), result(8))
        self.assertEqual(s.steps(), [(8, 4)])
        self.assertEqual(s.answers, [1, 2, 3, 4, 5, 6, 7, 8], "each is answered once")

    def test_a_connection_that_breaks_while_lost_turns_are_done_again(self):
        s = live(keep_turns=8)
        for seq in range(1, 5):
            s.turn()
            s.take(result(seq))
        s.again(resumed(1), result(2))
        self.assertEqual(s.again(resumed(3, epoch=3))[1].have_seq, 2)
        self.assertEqual(s.steps(), [(4, 2)])
        s.take(result(3), result(4))
        s.turn()
        s.take(result(5))
        self.assertEqual(s.answers, [1, 2, 3, 4, 5])

    def test_other_digests_in_the_replay_have_diverged(self):
        for come in ([resumed(1, at=b"another!")], [resumed(1), result(2, history=9)]):
            s = live(keep_turns=8)
            for seq in range(1, 4):
                s.turn()
                s.take(result(seq))
            s.turn()
            s.again(*come)
            self.assertIs(type(s.state.error), lstm.Diverged)
            self.assertEqual(s.answers, [1, 2, 3, s.state.error])

    def test_only_so_many_turns_are_kept(self):
        s = live(keep_turns=2)
        for seq in range(1, 6):
            s.turn()
            s.take(result(seq))
        self.assertEqual(s.again(resumed(2))[1].replay_from, 4)
        self.assertIs(type(s.state.error), lstm.DataLoss)

    def test_a_close_waits_for_the_answers_and_is_sent_again_on_a_new_stream(self):
        s = live()
        s.turn()
        s.state.close()
        self.assertEqual([seq for seq, _ in s.steps()], [1])
        s.take(result(1))
        self.assertEqual([kind for kind, _ in s.look()], ["close"])
        s.again(resumed(1))
        self.assertEqual([kind for kind, _ in s.look()], ["close"])
        s.take(response(closed=pb.Closed(lane=1, applied_seq=1)))
        self.assertTrue(s.state.closed)

    def test_a_close_whose_answer_was_lost_was_carried_out(self):
        s = live()
        s.state.close()
        s.again(reject(pb.NOT_FOUND, code="NOT_FOUND"))
        self.assertEqual((s.state.closed, s.state.error), (True, None))
        s = live()
        s.turn()
        s.state.close()
        s.again(reject(pb.NOT_FOUND, code="NOT_FOUND"))
        self.assertEqual((s.state.state, [type(a) for a in s.answers]), ("ended", [lstm.NotFound]), "a turn was still unanswered")

    def test_a_saved_handle_brings_the_answers_that_were_missed(self):
        before = live()
        before.turn(4)
        before.take(result(1))
        handle = Handle.from_bytes(before.state.handle("m", "1", False).to_bytes())
        self.assertNotIn("t" * 8, repr(handle))
        s = Scripted(handle=handle)
        (kind, request), = s.look()
        self.assertEqual((kind, request.session_id, request.resume_token, request.have_seq, request.have_digest), ("resume", ID, TOKEN, 1, digest(1)))
        s.take(resumed(3), result(2, replayed=True))
        self.assertEqual(s.again(resumed(3, epoch=3))[1].have_seq, 2)
        s.take(result(3, replayed=True))
        self.assertEqual([(seq, r.outputs[0].data) for seq, r in s.state.missed], [(2, b"2"), (3, b"3")])
        self.assertEqual((s.state.opened.model, s.state.opened.window, s.state.opened.session_id), ("m", 4, ID))
        s.turn()
        self.assertEqual(s.steps(), [(4, 3)])

    def test_a_saved_handle_of_turns_that_the_server_does_not_have(self):
        s = Scripted(handle=Handle(ID, TOKEN, 5, digest(5)))
        s.take(resumed(4))
        self.assertIs(type(s.state.error), lstm.DataLoss)
        s = Scripted(handle=Handle(ID, TOKEN, 0))
        s.take(resumed(2), result(1))
        s.again(resumed(1))
        self.assertIs(type(s.state.error), lstm.DataLoss)

    def test_a_damaged_handle_is_refused_and_not_quoted(self):
        good = Handle(ID, TOKEN, 5).to_bytes()
        for bad in (b"", b"\xff", b"[]", b"{}", good[:-1], good.replace(b'"have_seq": 5', b'"have_seq": "secret"'), good.replace(b"747474", b"secret")):
            with self.assertRaisesRegex(lstm.InvalidArgument, "handle") as caught:
                Handle.from_bytes(bad)
            self.assertNotIn("secret", str(caught.exception))

    def test_durability_has_names(self):
        self.assertEqual(protocol.open_request(b"", "m", durability="process").durability, pb.PROCESS)
        self.assertEqual(protocol.open_request(b"", "m", durability=pb.HOST).durability, pb.HOST)
        with self.assertRaisesRegex(lstm.InvalidArgument, "expected one of"):
            protocol.open_request(b"", "m", durability="eternal")


class LinkTest(unittest.TestCase):
    def setUp(self):
        self.link, self.sent, self.cuts = Link(60), [], []

    def connect(self):
        self.sent.clear()
        self.link.connected(self.sent.append, lambda: self.cuts.append(1))

    def session(self, durability=pb.PROCESS):
        state = SessionState(protocol.open_request(b"n" * 16, "m"))
        self.link.add(state, 0)
        if not self.sent:
            self.connect()
        self.link.take(opened(state.lane, durability=durability), 0)
        return state

    def lose(self, now=0, code=None):
        return self.link.lost(lstm.Error("gone", code or "UNAVAILABLE"), now)

    def test_the_pauses_grow_and_a_response_sets_them_back(self):
        self.session()
        for low, high in ((0.02, 0.1), (0.1, 0.2), (0.2, 0.4), (0.25, 0.5), (0.25, 0.5), (0.25, 0.5)):
            self.assertTrue(low <= self.lose() <= high)
            self.connect()
        self.link.take(resumed(0), 1)
        self.assertTrue(0.02 <= self.lose(1) <= 0.1)

    def test_a_connection_that_had_held_is_made_again_at_once_and_one_that_had_not_is_not(self):
        self.session()
        for _ in range(2):
            self.assertTrue(0.001 <= self.lose(0.1) <= 0.003)
            self.connect()
        self.assertTrue(0.02 <= self.lose(10) <= 0.1, "nothing came over it, however long it was tried")
        self.connect()
        self.link.take(resumed(0), 20)
        self.assertTrue(0.02 <= self.lose(20.05) <= 0.1)
        self.connect()
        self.link.take(resumed(0), 30)
        self.assertTrue(0.001 <= self.lose(30.125) <= 0.003)

    def test_events_come_once_a_loss(self):
        a, b = self.session(), self.session()
        for now in (10, 11):
            self.lose(now)
            self.connect()
        self.assertEqual([e[0] for e in self.link.events], ["lost"])
        self.link.take(resumed(0, lane=a.lane), 12)
        self.link.take(resumed(0, lane=b.lane), 13)
        self.assertEqual(self.link.events[1:], [("resumed", 3)])

    def test_it_gives_up_in_time_with_the_last_error(self):
        s = self.session()
        self.lose(100)
        self.lose(150)
        self.link.tick(159.9)
        self.assertEqual(s.state, "resuming")
        self.assertLessEqual(self.link.due(), 160)
        self.link.tick(160)
        self.assertEqual((s.state, s.error.args, self.link.sessions), ("ended", ("gone",), {}))

    def test_what_has_no_meaning_here_is_passed_over(self):
        s = self.session()
        for r in (pb.Response(), result(9), result(1, lane=77), resumed(5), opened(), reject(pb.NO_SESSION), reject(pb.GAP, 9),
                  response(expiring=pb.Expiring(lane=1))):
            self.link.take(r, 0)
        self.assertEqual((s.state, s.have_seq), ("live", 0))

    def test_an_unanswered_resume_is_given_up_too(self):
        s = self.session()
        self.lose(100)
        self.connect()
        self.link.tick(160)
        self.assertEqual(s.state, "ended")

    def test_errors_that_a_new_stream_would_have_too_end_the_sessions(self):
        for code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"):
            s = self.session()
            self.assertIsNone(self.lose(code=code))
            self.assertEqual((s.state, s.error.code), ("ended", code))
        for code in ("UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"):
            s = self.session()
            self.assertIsNotNone(self.lose(code=code))

    def test_a_client_that_does_not_reconnect(self):
        self.link = Link(0)
        s = self.session()
        self.assertIsNone(self.lose())
        self.assertEqual(s.state, "ended")

    def test_a_volatile_session_that_lived_in_another_process_is_given_up_soon(self):
        a, b = self.session(pb.VOLATILE), self.session()
        self.lose(10)
        self.connect()
        for state in (a, b):
            self.link.take(reject(pb.ELSEWHERE, lane=state.lane), 11)
        self.link.tick(13)
        self.assertEqual((a.state, a.error.reason, b.state), ("ended", "ELSEWHERE", "resuming"))
        self.link.tick(69)
        self.assertEqual(b.state, "resuming")
        self.link.tick(70)
        self.assertEqual((b.state, b.error.reason), ("ended", "ELSEWHERE"))

    def test_a_stream_on_which_every_session_is_refused_is_left_for_another(self):
        a, b = self.session(), self.session()
        self.lose()
        self.connect()
        self.link.take(reject(pb.ELSEWHERE, lane=a.lane), 1)
        self.assertNotIn(None, self.sent)
        self.link.take(reject(pb.ELSEWHERE, lane=b.lane), 1)
        self.assertIs(self.sent[-1], None)
        self.link.tick(5)
        self.assertIs(self.sent[-1], None)
        self.link.tick(12)
        self.assertEqual(self.cuts, [1], "it did not end by itself")

    def test_one_refused_session_tries_again_beside_the_others(self):
        a, b = self.session(), self.session()
        self.lose()
        self.connect()
        self.link.take(resumed(0, lane=a.lane), 1)
        self.link.take(reject(pb.RETRY, lane=b.lane), 1)
        self.link.tick(2)
        self.assertEqual((self.sent[-1].resume.lane, a.state), (b.lane, "live"))

    def test_draining_takes_the_answers_that_are_due_and_leaves(self):
        a, b = self.session(), self.session()
        answers = []
        a.send(pb.Step(), False, lambda value, error: answers.append(error or value[0].seq))
        self.link.take(response(draining=pb.Draining(resume_after_ms=700, deadline_ms=9000)), 1)
        a.send(pb.Step(), False, lambda value, error: answers.append(error or value[0].seq))
        c = SessionState(protocol.open_request(b"c" * 16, "m"))
        self.link.add(c, 1)
        self.assertEqual([r.step.seq for r in self.sent if r.WhichOneof("kind") == "step"], [1])
        self.link.take(result(1, lane=a.lane), 2)
        self.assertIs(self.sent[-1], None)
        self.assertEqual(self.lose(), 0.7)
        self.connect()
        self.assertEqual([r.WhichOneof("kind") for r in self.sent], ["resume", "resume", "open"])
        self.link.take(resumed(1, lane=a.lane), 3)
        self.assertEqual(self.sent[-1].step.seq, 2)
        self.assertEqual(answers, [1])
        self.assertEqual(b.state, "resuming")

    def test_draining_is_not_for_volatile_sessions(self):
        self.session()
        s = self.session(pb.VOLATILE)
        self.link.take(response(draining=pb.Draining(resume_after_ms=700)), 1)
        s.send(pb.Step(), False, None)
        self.assertEqual(self.sent[-1].step.seq, 1)


class Model:
    """The server's rules, as far as one client can see them. The answer to an input is the sum of all inputs so far."""

    def __init__(self, rng):
        self.rng, self.sessions = rng, {}

    def connect(self):
        self.lanes = {}

    def request(self, r, out):
        rng, kind = self.rng, r.WhichOneof("kind")
        lane = getattr(r, kind).lane
        if kind in ("open", "resume"):
            if rng.random() < 0.1:
                return out.append(reject(rng.choice([pb.RETRY, pb.DRAINING, pb.ELSEWHERE]), lane=lane))
            key = r.open.client_nonce if kind == "open" else r.resume.session_id
            if kind == "resume" and key not in self.sessions:
                return out.append(reject(pb.NOT_FOUND, lane=lane, code="NOT_FOUND"))
            s = self.lanes[lane] = self.sessions.setdefault(key, {"key": key, "epoch": 0, "K": 0, "sums": [0], "inputs": [None], "waits": []})
            s["epoch"], s["waits"], applied = s["epoch"] + 1, [], len(s["sums"]) - 1
            if kind == "open":
                assert s["K"] == 0
                return out.append(response(opened=pb.Opened(lane=lane, session_id=key, resume_token=TOKEN, window=4, durability=pb.PROCESS,
                                                            epoch=s["epoch"], applied_seq=applied)))
            assert s["K"] <= r.resume.have_seq <= applied and r.resume.have_digest == (digest(r.resume.have_seq) if r.resume.have_seq else b"")
            s["K"] = r.resume.have_seq
            out.append(resumed(applied, s["epoch"], lane))
            return out.extend(self.answer(s, seq, lane) for seq in range(s["K"] + 1, applied + 1))
        s = self.lanes.get(lane)
        assert s, "nothing is open on this lane"
        if kind == "close":
            assert not s["waits"]
            del self.sessions[s["key"]], self.lanes[lane]
            return out.append(response(closed=pb.Closed(lane=lane)))
        step, applied = r.step, len(s["sums"]) - 1
        s["K"] = max(s["K"], min(step.ack, applied))
        value = int(step.inputs[0].data)
        if step.seq <= applied:
            assert step.seq > s["K"] and s["inputs"][step.seq] == value, "a duplicate with another input"
            return out.append(self.answer(s, step.seq, lane))
        assert step.seq <= s["K"] + 4, "beyond the window"
        if step.seq != applied + 1 + len(s["waits"]):
            return out.append(reject(pb.GAP, step.seq, lane, "OUT_OF_RANGE"))
        if value % 10 == 0:
            return out.append(reject(pb.INVALID, step.seq, lane, "INVALID_ARGUMENT"))
        if rng.random() < 0.1:
            return out.append(reject(rng.choice([pb.BYTES, pb.RETRY]), step.seq, lane))
        s["waits"].append(value)

    def compute(self, out):
        """One turn of one session: it is applied, or refused with all that waits behind it."""
        busy = [(lane, s) for lane, s in self.lanes.items() if s["waits"]]
        if busy:
            lane, s = self.rng.choice(busy)
            seq = len(s["sums"])
            if self.rng.random() < 0.1:
                out.extend(reject(pb.GAP if i else pb.RETRY, seq + i, lane) for i in range(len(s["waits"])))
                s["waits"] = []
            else:
                s["inputs"].append(s["waits"].pop(0))
                s["sums"].append(s["sums"][-1] + s["inputs"][-1])
                out.append(self.answer(s, seq, lane))

    @staticmethod
    def answer(s, seq, lane):
        return response(result=pb.Result(lane=lane, seq=seq, state_digest=digest(seq), durable_seq=seq,
                                         outputs=[tensor_pb2.Tensor(data=b"%d" % s["sums"][seq])]))


class RandomTest(unittest.TestCase):
    def test_every_turn_is_answered_once_in_order_whatever_breaks(self):
        for seed in range(300):
            with self.subTest(seed=seed):
                self.fight(random.Random(seed))

    def fight(self, rng):
        server, link, now = Model(rng), Link(1e9), 0.0
        up, down, due = [], [], None
        clients = [{"state": SessionState(protocol.open_request(bytes([i]) * 16, "m")), "sent": 0, "got": [], "want": 30} for i in range(3)]
        for c in clients:
            link.add(c["state"], now)

        def connect():
            nonlocal up, down
            up, down = [], []
            server.connect()
            link.connected(up.append, lambda: None)
        connect()
        for _ in range(20_000):
            if all(c["state"].closed for c in clients):
                break
            now += 0.01
            c = rng.choice(clients)
            what = rng.random()
            if what < 0.3 and c["sent"] < c["want"] and c["state"].opened and c["state"].room:
                c["sent"] += 1
                c["state"].send(pb.Step(inputs=[tensor_pb2.Tensor(data=b"%d" % c["sent"])]), False,
                                lambda value, error, c=c, i=c["sent"]: c["got"].append((i, error or int(value[0].outputs[0].data))))
            elif what < 0.35 and c["sent"] == c["want"]:
                c["state"].close()
            elif what < 0.6 and due is None and up:
                request = up.pop(0)
                if request is None:
                    up, down, due = [], [], now + link.lost(lstm.Unavailable("left"), now)
                else:
                    server.request(request, down)
            elif what < 0.75 and due is None:
                server.compute(down)
            elif what < 0.97 and due is None and down:
                link.take(down.pop(0), now)
            elif what < 0.975 and due is None:
                down.append(response(draining=pb.Draining(resume_after_ms=30)))
            elif what > 0.99 and due is None and link.sessions:  # what was on its way is gone, either way
                due = now + link.lost(lstm.Unavailable("gone"), now)
            if due is not None and now >= due:
                due = None
                connect()
            link.tick(now)
        for c in clients:
            self.assertTrue(c["state"].closed, c["state"].error)
            self.assertEqual(sorted(i for i, _ in c["got"]), list(range(1, c["want"] + 1)))
            answers = [i for i, value in c["got"] if isinstance(value, int)]
            self.assertEqual(answers, sorted(answers))
            total = 0
            for i, value in sorted(c["got"], key=lambda got: got[0]):
                if isinstance(value, lstm.Error):  # refused for good, or behind one that was
                    self.assertTrue(isinstance(value, lstm.InvalidArgument) if i % 10 == 0 else isinstance(value, lstm.Aborted), value)
                else:
                    total += i
                    self.assertEqual(value, total)


if __name__ == "__main__":
    unittest.main()
