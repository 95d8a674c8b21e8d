"""Two ends over a wire: calls, answers, refusals, and every way in which it may end."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    CallTimedOut,
    FrameTooLarge,
    InvalidAnswer,
    MalformedFrame,
    NotReady,
    Overloaded,
    OverRate,
    PeerTooSlow,
    RemoteError,
    StorageFailed,
)
from meshkit.rpc.codec import ENVELOPE_BYTES, MAX_ERROR, MAX_NESTING
from meshkit.rpc.methods import Dispatcher, Method
from meshkit.rpc.protocol import CALL_TIMEOUT, PATIENCE, RPCFactory, RPCProtocol
from meshkit.rpc.table import MAX_CALLS, MAX_REFUSED, MAX_SERVED, RPCLimits
from meshkit.runtime.limits import DEFAULT_MESSAGE, PeerBuckets
from meshkit.testing.transports import connect_protocols
from tests.rpc.support import ADD, ECHO, FAIL, LARGE, NEVER, SLOW, Pair, Raw, Sum, Text

pack = msgspec.msgpack.encode

HELLO = Text("hello")


def _give(value: Any, peer: Any) -> Any:
    return value


class CallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = Pair()

    def call(self, method: Any = ECHO, request: Any = HELLO) -> Deferred[Any]:
        return self.pair.caller.call(method, request)

    def test_an_answer_comes_back(self) -> None:
        answer = self.call()
        self.assertNoResult(answer)
        self.pair.pump()
        self.assertEqual(self.successResultOf(answer), "hello")
        self.assertEqual((self.pair.caller.calling, self.pair.server.serving), (0, 0))

    def test_a_coroutine_and_a_deferred_may_answer(self) -> None:
        added = self.call(ADD, Sum(2, 3))
        slow = self.call(SLOW, Text("later"))
        self.pair.pump()
        self.assertEqual(self.successResultOf(added), 5)
        self.assertNoResult(slow)
        self.assertEqual(self.pair.server.serving, 1)
        self.pair.service.slow[0].callback("now")
        self.pair.pump()
        self.assertEqual(self.successResultOf(slow), "now")

    def test_answers_find_their_calls_in_any_order(self) -> None:
        calls = [self.call(SLOW, Text(str(n))) for n in range(20)]
        self.pair.pump()
        order = list(range(20))
        Random(4).shuffle(order)
        for n in order:
            self.pair.service.slow[n].callback(f"answer {n}")
        self.pair.pump()
        self.assertEqual(
            [self.successResultOf(call) for call in calls], [f"answer {n}" for n in range(20)]
        )

    def test_both_sides_may_ask_at_once(self) -> None:
        pair = Pair(both=True)
        calls = [end.call(ECHO, Text("x")) for end in (pair.caller, pair.server)]
        pair.pump()
        self.assertEqual([self.successResultOf(call) for call in calls], ["x", "x"])

    def test_a_notification_is_heard_and_not_answered(self) -> None:
        self.pair.caller.notify(ECHO, Text("for you"))
        self.pair.pump()
        self.assertEqual(self.pair.service.heard, ["for you"])
        self.assertEqual(self.pair.wire.second.sent, 0)
        self.assertEqual(self.pair.server.serving, 0)

    def test_a_notification_that_fails_is_not_answered(self) -> None:
        for method in (NEVER, FAIL):
            self.pair.caller.notify(method, Text("for you"))
        self.pair.caller.notify(Method("add", Text, str), Text("not a number"))
        self.pair.pump()
        self.assertEqual(self.pair.wire.second.sent, 0)
        self.assertEqual(self.pair.server.serving, 0)

    def test_the_answers_of_one_read_leave_in_one_write(self) -> None:
        writes: list[bytes] = []
        stream = self.pair.server.transport
        write = stream.write  # type: ignore[union-attr]
        stream.write = lambda data: writes.append(data) or write(data)  # type: ignore
        calls = [self.call() for _ in range(50)]
        self.pair.pump()
        self.assertEqual(len(writes), 1)
        self.assertEqual([self.successResultOf(call) for call in calls], ["hello"] * 50)

    def test_calls_made_while_answers_are_read_leave_in_one_write(self) -> None:
        writes: list[bytes] = []
        again: list[Deferred[Any]] = []
        for _ in range(50):
            self.call().addCallback(lambda _: again.append(self.call()))
        stream = self.pair.caller.transport
        write = stream.write  # type: ignore[union-attr]
        stream.write = lambda data: writes.append(data) or write(data)  # type: ignore
        self.pair.pump()
        self.assertEqual(len(writes), 1)
        self.assertEqual([self.successResultOf(each) for each in again], ["hello"] * 50)

    def test_byte_by_byte_and_in_random_pieces(self) -> None:
        rng = Random(7)
        choices: list[Callable[[int], int]] = [lambda _: 1, lambda n: rng.randint(1, n)]
        for chunk in choices:
            pair = Pair(chunk=chunk, both=True)
            calls = [pair.caller.call(ECHO, Text("x" * n)) for n in range(0, 300, 20)]
            back = [pair.server.call(ADD, Sum(n, 1)) for n in range(10)]
            pair.pump()
            self.assertEqual([len(self.successResultOf(call)) for call in calls][-1], 280)
            self.assertEqual([self.successResultOf(call) for call in back], list(range(1, 11)))

    def test_tcp_is_told_not_to_wait(self) -> None:
        self.assertTrue(self.pair.wire.first.getTcpNoDelay())
        self.assertTrue(self.pair.wire.second.getTcpNoDelay())

    def test_the_factory_builds_them(self) -> None:
        factory = RPCFactory(self.pair.clock, self.pair.service.dispatcher)
        server = factory.buildProtocol(None)
        caller = RPCFactory(self.pair.clock).buildProtocol(None)
        wire = connect_protocols(caller, server)
        answer = caller.call(ECHO, Text("made"))
        wire.pump()
        self.assertEqual(self.successResultOf(answer), "made")
        self.assertIs(server.factory, factory)


class RefusalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = Pair()
        self.caller = self.pair.caller

    def refused(self, method: Any, request: Any) -> Any:
        answer = self.caller.call(method, request)
        self.pair.pump()
        error = self.failureResultOf(answer, RemoteError).value
        # And the connection goes on.
        again = self.caller.call(ECHO, Text("still there"))
        self.pair.pump()
        self.assertEqual(self.successResultOf(again), "still there")
        return error

    def test_an_error_of_the_tree_arrives_with_its_code(self) -> None:
        error = self.refused(FAIL, Text(""))
        self.assertEqual(error.code, "NOT_FOUND")
        self.assertEqual(str(error), "there is no such thing: look elsewhere")

    def test_so_does_one_of_a_deferred_or_a_coroutine(self) -> None:
        async def fail(peer: Any) -> str:
            raise StorageFailed("the disk is full")

        self.pair.service.on_fail = fail
        self.assertEqual(self.refused(FAIL, Text("")).code, "STORAGE_FAILED")

    def test_an_unknown_method(self) -> None:
        error = self.refused(NEVER, Text(""))
        self.assertEqual(error.code, "UNKNOWN_METHOD")
        self.assertIn("never offered", str(error))

    def test_params_that_do_not_fit(self) -> None:
        error = self.refused(Method("add", Text, str), Text("one"))
        self.assertEqual(error.code, "INVALID_REQUEST")

    def test_an_unexpected_exception_shows_nothing_of_itself(self) -> None:
        def broken(peer: Any) -> str:
            raise RuntimeError("the password is 12345")

        def later(peer: Any) -> Deferred[str]:
            deferred: Deferred[str] = Deferred()
            self.pair.clock.callLater(0, deferred.errback, RuntimeError("12345"))
            return deferred

        async def cancelled(peer: Any) -> str:
            raise CancelledError()

        for handler in (broken, later, cancelled):
            self.pair.service.on_fail = handler
            answer = self.caller.call(FAIL, Text(""))
            self.pair.pump()
            self.pair.advance(0)
            error: Any = self.failureResultOf(answer, RemoteError).value
            self.assertEqual(error.code, "INTERNAL_ERROR")
            self.assertNotIn("12345", str(error))
            self.assertIsNone(error.details)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError, CancelledError)), 3)

    def test_an_answer_that_cannot_be_said(self) -> None:
        for value in (object(), 2**70):
            self.pair.service.on_fail = partial(_give, value)
            self.assertEqual(self.refused(FAIL, Text("")).code, "INTERNAL_ERROR")
        self.assertEqual(len(self.flushLoggedErrors(TypeError, OverflowError)), 2)

    def test_an_answer_of_another_type_fails_this_call_only(self) -> None:
        answer = self.caller.call(Method("add", Sum, str), Sum(1))
        self.pair.pump()
        self.failureResultOf(answer, InvalidAnswer)
        again = self.caller.call(ADD, Sum(1))
        self.pair.pump()
        self.assertEqual(self.successResultOf(again), 1)

    def test_a_request_at_the_limit_is_served_and_one_over_it_is_not_sent(self) -> None:
        # A string of so many bytes has a header of 3, and the params one of 1.
        text = "x" * (DEFAULT_MESSAGE - 4)
        answer = self.caller.call(ECHO, Text(text[:-1]))
        self.pair.pump()
        self.assertEqual(len(self.successResultOf(answer)), len(text) - 1)
        at_limit = self.caller.call(Method("slow", Text, str), Text(text))
        self.pair.pump()
        self.assertEqual(self.pair.service.heard[-1], text)
        sent = self.pair.wire.first.sent
        over = self.caller.call(ECHO, Text(text + "x"))
        self.failureResultOf(over, FrameTooLarge)
        self.assertEqual((self.pair.wire.first.sent, self.caller.calling), (sent, 1))
        self.pair.service.slow[0].callback("")
        self.pair.pump()
        self.successResultOf(at_limit)
        with self.assertRaises(FrameTooLarge):
            self.caller.notify(ECHO, Text(text + "x"))

    def test_a_request_over_its_methods_limit_is_refused_where_others_may_be_larger(self) -> None:
        self.pair.service.dispatcher.serve(
            Method("bulk", Text, str, max_request=4 * DEFAULT_MESSAGE), lambda peer, request: "ok"
        )
        lax = Method("echo", Text, str, max_request=2 * DEFAULT_MESSAGE)
        error = self.refused(lax, Text("x" * DEFAULT_MESSAGE))
        self.assertEqual(error.code, "FRAME_TOO_LARGE")

    def test_an_answer_at_the_limit_is_sent_and_one_over_it_is_not(self) -> None:
        answer = self.caller.call(LARGE, Sum(DEFAULT_MESSAGE - 3))
        self.pair.pump()
        self.assertEqual(len(self.successResultOf(answer)), DEFAULT_MESSAGE - 3)
        error = self.refused(LARGE, Sum(DEFAULT_MESSAGE - 2))
        self.assertEqual(error.code, "INTERNAL_ERROR")
        self.assertEqual(len(self.flushLoggedErrors(FrameTooLarge)), 1)

    def test_a_request_that_cannot_be_said_fails_at_once(self) -> None:
        self.failureResultOf(self.caller.call(ADD, Sum(2**70)), OverflowError)
        self.assertEqual((self.caller.calling, self.pair.wire.first.sent), (0, 0))

    def test_too_many_calls_of_ours(self) -> None:
        waiting = [self.caller.call(SLOW, Text("")) for _ in range(MAX_CALLS)]
        self.failureResultOf(self.caller.call(ECHO, Text("")), Overloaded)
        self.pair.pump()
        self.pair.service.slow[0].callback("")
        self.pair.pump()
        self.successResultOf(waiting[0])
        self.caller.call(SLOW, Text(""))
        self.assertEqual(self.caller.calling, MAX_CALLS)
        self.ignore([*waiting, self.failed_later(self.caller.call(SLOW, Text("")))])

    def failed_later(self, call: Deferred[Any]) -> Deferred[Any]:
        self.failureResultOf(call, Overloaded)
        return call

    def ignore(self, calls: list[Deferred[Any]]) -> None:
        for call in calls:
            call.addErrback(lambda _: None)

    def test_the_usual_limits_of_two_ends_fit(self) -> None:
        self.assertLessEqual(MAX_CALLS, MAX_SERVED)


class TimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = Pair()
        self.caller = self.pair.caller

    def test_a_deadline_passes(self) -> None:
        call = self.caller.call(SLOW, Text(""), timeout=5)
        self.pair.pump()
        self.pair.advance(4.9)
        self.assertNoResult(call)
        self.pair.advance(0.2)
        self.failureResultOf(call, CallTimedOut)
        self.assertEqual(self.caller.calling, 0)

    def test_the_usual_deadline(self) -> None:
        call = self.caller.call(SLOW, Text(""))
        self.pair.advance(CALL_TIMEOUT - 0.1)
        self.assertNoResult(call)
        self.pair.advance(0.1)
        self.failureResultOf(call, CallTimedOut)

    def test_each_call_has_its_own(self) -> None:
        seconds = [3.0, 1.0, 2.0, 10.0, 0.5]
        ended: list[tuple[float, float]] = []
        for each in seconds:
            call = self.caller.call(SLOW, Text(""), timeout=each)
            call.addErrback(self.note, ended, each)
        self.pair.pump()
        for _ in range(110):
            self.pair.advance(0.1)
        self.assertEqual([each for each, _ in ended], sorted(seconds))
        for each, at in ended:
            self.assertLess(abs(each - at), 0.11)

    def note(self, _: Failure, ended: list[tuple[float, float]], each: float) -> None:
        ended.append((each, self.pair.clock.seconds()))

    def test_an_answer_that_is_too_late_is_ignored(self) -> None:
        call = self.caller.call(SLOW, Text(""), timeout=1)
        self.pair.pump()
        self.pair.advance(1)
        self.failureResultOf(call, CallTimedOut)
        self.pair.service.slow[0].callback("late")
        again = self.caller.call(ECHO, Text("next"))
        self.pair.pump()
        self.assertEqual(self.successResultOf(again), "next")

    def test_a_cancelled_call_is_forgotten(self) -> None:
        for when in ("at once", "on the way", "late"):
            call = self.caller.call(SLOW, Text(when))
            if when != "at once":
                self.pair.pump()
            call.cancel()
            self.failureResultOf(call, CancelledError)
            self.assertEqual(self.caller.calling, 0)
            self.pair.pump()
            self.pair.service.slow[-1].callback("late")
            self.pair.pump()
            again = self.caller.call(ECHO, Text(when))
            self.pair.pump()
            self.assertEqual(self.successResultOf(again), when)

    def test_cancelling_what_is_answered_changes_nothing(self) -> None:
        call = self.caller.call(ECHO, Text("x"))
        self.pair.pump()
        call.cancel()
        self.assertEqual(self.successResultOf(call), "x")

    def test_an_idle_connection_leaves_no_timer(self) -> None:
        for _ in range(100):
            self.successResultOf(self.answered())
        self.assertLessEqual(len(self.pair.clock.getDelayedCalls()), 1)
        self.pair.advance(CALL_TIMEOUT)
        self.assertEqual(self.pair.clock.getDelayedCalls(), [])

    def answered(self) -> Deferred[Any]:
        call = self.caller.call(ECHO, Text("x"))
        self.pair.pump()
        return call

    def test_a_peer_that_leaves_too_many_calls_unanswered_is_dropped(self) -> None:
        pair = Pair(caller_limits=RPCLimits(forgotten=3))
        for n in range(3):
            call = pair.caller.call(SLOW, Text(str(n)), timeout=1)
            pair.pump()
            pair.advance(1)
            self.failureResultOf(call, CallTimedOut)
        last = pair.caller.call(SLOW, Text(""), timeout=1)
        other = pair.caller.call(SLOW, Text(""), timeout=5)
        pair.pump()
        pair.advance(1)
        self.failureResultOf(last, CallTimedOut)
        self.failureResultOf(other, PeerTooSlow)
        self.assertTrue(pair.wire.first.aborted)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_so_is_one_whose_calls_are_all_cancelled(self) -> None:
        pair = Pair(caller_limits=RPCLimits(forgotten=3))
        for _ in range(4):
            call = pair.caller.call(SLOW, Text(""))
            pair.pump()
            call.cancel()
            self.failureResultOf(call, CancelledError)
        self.failureResultOf(pair.caller.call(ECHO, Text("")), PeerTooSlow)


class LossTests(SynchronousTestCase):
    """However it ends, each call hears of it once, and nothing is left."""

    def setUp(self) -> None:
        self.pair = Pair(both=True)

    def clean(self) -> None:
        for end in (self.pair.caller, self.pair.server):
            self.assertEqual((end.calling, end.serving), (0, 0))
        self.assertEqual(self.pair.clock.getDelayedCalls(), [])

    def test_calls_fail_with_the_reason(self) -> None:
        ends: list[tuple[str, Callable[[], None], type[Exception]]] = [
            ("cut", lambda: self.pair.wire.cut(), ConnectionLost),
            ("close", lambda: self.pair.caller.close(), ConnectionDone),
            ("abort", lambda: self.pair.caller.abort(), ConnectionAborted),
            ("peer closes", lambda: self.pair.server.close(), ConnectionDone),
            ("peer aborts", lambda: self.pair.server.abort(), ConnectionLost),
        ]
        for name, end, reason in ends:
            with self.subTest(name):
                self.pair = Pair(both=True)
                calls = [self.pair.caller.call(SLOW, Text("")) for _ in range(3)]
                self.pair.pump()
                unsent = self.pair.caller.call(ECHO, Text("on its way"))
                end()
                self.pair.pump()
                for call in (*calls, unsent):
                    if name == "peer closes" and call is unsent and not call.called:
                        self.fail("it was forgotten")
                    self.failureResultOf(call, reason)
                later = self.pair.caller.call(ECHO, Text(""))
                self.failureResultOf(later, reason)
                with self.assertRaises(reason):
                    self.pair.caller.notify(ECHO, Text(""))
                self.assertEqual(self.pair.service.cancelled, 3)
                self.clean()

    def test_the_table_is_empty_before_anybody_is_told(self) -> None:
        seen: list[Any] = []

        def look(failure: Failure) -> None:
            seen.append(self.pair.caller.calling)
            again = self.pair.caller.call(ECHO, Text("again"))
            again.addErrback(lambda f: seen.append(f.type))

        for _ in range(3):
            self.pair.caller.call(SLOW, Text("")).addErrback(look)
        self.pair.wire.cut()
        self.pair.pump()
        self.assertEqual(seen, [0, ConnectionLost] * 3)

    def test_cancelling_others_while_being_told(self) -> None:
        calls = [self.pair.caller.call(SLOW, Text("")) for _ in range(3)]

        def cancel_others(_: Failure) -> None:
            for call in calls[1:]:
                call.cancel()

        calls[0].addErrback(cancel_others)
        self.pair.wire.cut()
        self.pair.pump()
        for call in calls[1:]:
            self.failureResultOf(call, CancelledError, ConnectionLost)

    def test_calls_before_the_connection_is_made_fail(self) -> None:
        end = RPCProtocol(Clock())
        self.failureResultOf(end.call(ECHO, Text("")), NotReady)
        end.close()
        end.abort()

    def test_a_handler_that_closes(self) -> None:
        for act in ("close", "abort"):
            with self.subTest(act):
                self.pair = Pair(both=True)
                self.pair.service.on_fail = methodcaller(act)
                calls = [
                    self.pair.caller.call(SLOW, Text("")),
                    self.pair.caller.call(ECHO, Text("before")),
                    self.pair.caller.call(FAIL, Text("")),
                    self.pair.caller.call(ECHO, Text("after")),
                ]
                self.pair.pump()
                self.failureResultOf(calls[0], ConnectionDone, ConnectionLost)
                if act == "close":
                    self.assertEqual(self.successResultOf(calls[1]), "before")
                else:
                    self.failureResultOf(calls[1], ConnectionLost)
                for call in calls[2:]:
                    self.failureResultOf(call, ConnectionDone, ConnectionLost)
                self.assertEqual(self.pair.service.heard, ["", "before"])
                self.clean()

    def test_a_caller_that_closes_when_it_is_answered(self) -> None:
        calls = [self.pair.caller.call(ECHO, Text(str(n))) for n in range(3)]
        calls[0].addCallback(lambda _: self.pair.caller.close())
        self.pair.pump()
        self.assertIsNone(self.successResultOf(calls[0]))
        for call in calls[1:]:
            self.failureResultOf(call, ConnectionDone)
        self.clean()

    def test_a_handler_that_asks_back_in_mid_call(self) -> None:
        async def ask_back(peer: RPCProtocol) -> str:
            return await peer.call(ECHO, Text("and you?"))

        self.pair.service.on_fail = ask_back
        call = self.pair.caller.call(FAIL, Text(""))
        self.pair.pump()
        self.assertEqual(self.successResultOf(call), "and you?")

    def test_a_handler_that_waits_is_cancelled_where_it_waits(self) -> None:
        ended: list[str] = []

        async def several(peer: RPCProtocol) -> str:
            for step in ("first", "second", "third"):
                try:
                    await peer.call(SLOW, Text(step))
                finally:
                    ended.append(step)
            return "done"

        for stop in range(4):
            with self.subTest(stop):
                ended.clear()
                self.pair = Pair(both=True)
                self.pair.service.on_fail = several
                call = self.pair.caller.call(FAIL, Text(""))
                self.pair.pump()
                for n in range(stop):
                    self.pair.own.slow[n].callback("")
                    self.pair.pump()
                if stop == 3:
                    self.assertEqual(self.successResultOf(call), "done")
                else:
                    self.pair.wire.cut()
                    self.pair.pump()
                    self.failureResultOf(call, ConnectionLost)
                    self.clean()
                self.assertEqual(ended, ["first", "second", "third"][: stop + 1])

    def test_a_handler_that_fails_while_it_is_cancelled_is_heard(self) -> None:
        def broken(peer: Any) -> Deferred[str]:
            return Deferred(lambda d: d.errback(RuntimeError("in the canceller")))

        self.pair.service.on_fail = broken
        call = self.pair.caller.call(FAIL, Text(""))
        self.pair.pump()
        self.pair.wire.cut()
        self.pair.pump()
        self.failureResultOf(call, ConnectionLost)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_handler_that_cannot_be_cancelled_answers_nobody(self) -> None:
        stubborn: Deferred[str] = Deferred(lambda d: None)
        self.pair.service.on_fail = lambda peer: stubborn
        call = self.pair.caller.call(FAIL, Text(""))
        self.pair.pump()
        self.pair.wire.cut()
        self.pair.pump()
        self.failureResultOf(call, ConnectionLost)
        stubborn.addErrback(lambda _: None)
        self.clean()

    def test_a_peer_cut_at_every_byte(self) -> None:
        request = pack([0, 3, "slow", ["x"]]) + pack([0, 4, "echo", ["y"]])
        for end in range(len(request) + 1):
            raw = Raw()
            raw.send(request[:end])
            raw.wire.cut()
            raw.wire.pump()
            self.assertEqual(raw.end.serving, 0)
            self.assertEqual(raw.clock.getDelayedCalls(), [])
            self.assertEqual(raw.service.cancelled, len(raw.service.slow))

    def test_a_close_that_the_peer_does_not_let_happen_becomes_an_abort(self) -> None:
        self.pair.wire.first.pauseProducing()
        self.pair.server.notify(Method("a", Text, str), Text("x" * 1000))
        self.pair.server.close()
        self.pair.pump()
        self.assertFalse(self.pair.wire.second.aborted)
        self.pair.advance(20)
        self.assertTrue(self.pair.wire.second.aborted)
        self.clean()

    def test_whoever_closes_the_transport_need_not_know_of_us(self) -> None:
        """A listener or a ClientService that stops calls loseConnection() on it."""
        for idle in (True, False):
            with self.subTest(idle=idle):
                raw = Raw()
                raw.send(pack([0, 1, "slow", ["x"]]))
                if not idle:
                    raw.peer.transport.pauseProducing()  # type: ignore[union-attr]
                    raw.say(*([0, n, "large", [60_000]] for n in range(2, 7)))
                raw.wire.second.loseConnection()
                raw.wire.pump()
                if not idle:
                    self.assertIsNone(raw.lost)
                    raw.peer.transport.resumeProducing()  # type: ignore[union-attr]
                    raw.wire.pump()
                self.assertIs(raw.lost, ConnectionDone)
                self.assertEqual(raw.service.cancelled, 1)
                self.assertEqual(raw.clock.getDelayedCalls(), [])

    def test_what_was_answered_is_sent_before_a_close(self) -> None:
        call = self.pair.caller.call(ECHO, Text("x" * 60_000))
        self.pair.wire.step()
        self.pair.server.close()
        self.pair.pump()
        self.assertEqual(len(self.successResultOf(call)), 60_000)

    def test_a_peer_that_ends_its_half_gets_what_it_asked_for_at_once(self) -> None:
        raw = Raw()
        raw.peer.transport.write(pack([0, 1, "echo", ["a"]]))  # type: ignore[union-attr]
        raw.peer.transport.loseWriteConnection()  # type: ignore[union-attr]
        raw.wire.pump()
        self.assertEqual(raw.heard(), [[1, 1, None, "a"]])
        self.assertIs(raw.lost, ConnectionDone)


class StrangePeerTests(SynchronousTestCase):
    """What breaks a rule is dropped by name; what is merely strange is answered."""

    def setUp(self) -> None:
        self.raw = Raw()

    def dropped(self, raw: Raw, error: type[Exception]) -> None:
        self.assertIs(raw.lost, error)
        self.assertTrue(raw.wire.second.aborted)
        self.failureResultOf(raw.end.call(ECHO, Text("")), error)
        self.assertEqual(raw.clock.getDelayedCalls(), [])

    def test_a_peer_that_keeps_the_rules(self) -> None:
        answers = self.raw.say([0, 7, "echo", ["a"]], [2, "echo", ["b"]], [0, 8, "add", [1, 2]])
        self.assertEqual(answers, [[1, 7, None, "a"], [1, 8, None, 3]])

    def test_what_is_no_message(self) -> None:
        for wrong in (
            pack([3, 1]),
            pack({"a": 1}),
            b"\xc1",
            b"GET / HTTP/1.1\r\n\r\n",
            pack([0, 1, "echo"]),
            pack([0, -1, "echo", ["a"]]),
            pack([0, 1, "a" * 65, []]),
            b"\x91" * (MAX_NESTING + 1),
        ):
            raw = Raw()
            raw.send(pack([0, 1, "slow", ["a"]]) + wrong + pack([0, 2, "echo", ["never"]]))
            with self.subTest(wrong[:20]):
                self.dropped(raw, MalformedFrame)
                self.assertEqual((raw.service.heard, raw.service.cancelled), (["a"], 1))

    def test_a_message_at_the_connections_limit_and_over_it(self) -> None:
        limit = DEFAULT_MESSAGE + ENVELOPE_BYTES
        for more, lost in ((0, None), (1, FrameTooLarge)):
            raw = Raw()
            message = pack([2, "unknown", [b""]])
            # The length of so many bytes takes 4 bytes instead of 1.
            raw.send(pack([2, "unknown", [bytes(limit - len(message) - 3 + more)]]))
            with self.subTest(more):
                self.assertIs(raw.lost, lost)

    def test_where_nothing_is_served_or_asked_errors_still_fit(self) -> None:
        raw = Raw()
        raw.service.dispatcher._served.clear()
        raw.service.dispatcher.largest_request = 0
        message = pack([2, "unknown", [b""]])
        limit = MAX_ERROR + ENVELOPE_BYTES
        raw.send(pack([2, "unknown", [bytes(limit - len(message) - 1)]]))
        self.assertIsNone(raw.lost)
        raw.send(pack([2, "unknown", [bytes(limit - len(message))]]))
        self.dropped(raw, FrameTooLarge)

    def test_a_call_may_bring_a_large_answer_and_others_may_not(self) -> None:
        call = self.raw.end.call(Method("get", Text, bytes, max_answer=500_000), Text(""))
        self.raw.wire.pump()
        answer = bytes(499_995)
        self.raw.say([1, 0, None, answer])
        self.assertEqual(self.successResultOf(call), answer)
        call = self.raw.end.call(Method("get", Text, bytes), Text(""))
        self.raw.say([1, 1, None, bytes(DEFAULT_MESSAGE)])
        self.failureResultOf(call, InvalidAnswer)

    def test_a_number_that_is_in_use(self) -> None:
        self.raw.say([0, 1, "slow", ["a"]])
        self.raw.say([0, 1, "echo", ["b"]])
        self.dropped(self.raw, MalformedFrame)

    def test_a_number_that_was_used(self) -> None:
        for _ in range(3):
            self.assertEqual(self.raw.say([0, 1, "echo", ["a"]]), [[1, 1, None, "a"]])
        self.raw.say([0, 1, "slow", ["a"]])
        self.raw.service.slow[0].callback("b")
        self.assertEqual(
            self.raw.say([0, 1, "echo", ["a"]]), [[1, 1, None, "b"], [1, 1, None, "a"]]
        )

    def test_an_answer_to_nothing(self) -> None:
        self.raw.say([1, 0, None, "unasked"])
        self.dropped(self.raw, MalformedFrame)

    def test_an_answer_twice(self) -> None:
        call = self.raw.end.call(ECHO, Text(""))
        self.raw.say([1, 0, None, "once"], [1, 0, None, "twice"])
        self.assertEqual(self.successResultOf(call), "once")
        self.dropped(self.raw, MalformedFrame)

    def test_errors_of_other_programs(self) -> None:
        for error in ("no such method", [1, "x"], 5, {"a": 1}, False):
            raw = Raw()
            call = raw.end.call(ECHO, Text(""))
            raw.say([1, 0, error, None])
            self.assertEqual(self.failureResultOf(call, RemoteError).value.code, "REMOTE_ERROR")
            self.assertIsNone(raw.lost)

    def test_calls_beyond_the_limit_are_refused_and_then_the_peer_is_dropped(self) -> None:
        self.raw.say(*([0, n, "slow", [""]] for n in range(MAX_SERVED)))
        answers = self.raw.say(*([0, 1000 + n, "echo", [""]] for n in range(MAX_REFUSED)))
        self.assertEqual(len(answers), MAX_REFUSED)
        self.assertEqual({answer[2][0] for answer in answers}, {"OVERLOADED"})
        self.assertIsNone(self.raw.lost)
        self.raw.say([2, "echo", [""]])
        self.dropped(self.raw, OverRate)
        self.assertEqual(self.raw.service.cancelled, MAX_SERVED)

    def test_when_one_is_finished_another_is_begun(self) -> None:
        self.raw.say(*([0, n, "slow", [""]] for n in range(MAX_SERVED)))
        self.raw.service.slow[0].callback("")
        self.assertEqual(self.raw.say([0, 0, "echo", ["x"]])[-1], [1, 0, None, "x"])

    def test_a_message_that_is_not_ended_in_time(self) -> None:
        self.raw.send(pack([0, 1, "echo", ["a"]])[:-1])
        self.raw.clock.advance(PATIENCE - 0.1)
        self.assertIsNone(self.raw.lost)
        self.raw.clock.advance(0.2)
        self.raw.wire.pump()
        self.dropped(self.raw, PeerTooSlow)

    def test_trickling_does_not_help(self) -> None:
        data = pack([0, 1, "echo", ["a" * 100]])
        for at in range(40):
            self.raw.send(data[at : at + 1])
            self.raw.clock.advance(1)
        self.raw.wire.pump()
        self.dropped(self.raw, PeerTooSlow)

    def test_one_that_always_ends_a_message_and_begins_another_is_welcome(self) -> None:
        data = pack([0, 1, "echo", ["a"]])
        self.raw.send(data[:3])
        for _ in range(10):
            self.raw.clock.advance(PATIENCE - 1)
            self.raw.send(data[3:] + data[:3])
        self.assertIsNone(self.raw.lost)
        self.raw.send(data[3:])
        self.raw.clock.advance(PATIENCE * 2)
        self.assertIsNone(self.raw.lost)

    def test_garbage_of_every_kind_breaks_nothing(self) -> None:
        rng = Random(11)
        good = pack([0, 1, "echo", ["a"]])
        for _ in range(300):
            raw = Raw()
            data = bytearray(good * 3)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            raw.send(bytes(data))
            self.assertIn(raw.lost, (None, MalformedFrame, FrameTooLarge))
            raw.wire.cut()
            raw.wire.pump()
            self.assertEqual(raw.clock.getDelayedCalls(), [])


def code_of(failure: Failure) -> str:
    error: Any = failure.trap(RemoteError) and failure.value
    return str(error.code)


class RateTests(SynchronousTestCase):
    def test_who_calls_too_often_is_told_how_long_to_wait(self) -> None:
        pair = Pair(buckets=PeerBuckets(2.0, 3.0))
        calls = [pair.caller.call(ECHO, Text("")) for _ in range(4)]
        pair.pump()
        for call in calls[:3]:
            self.successResultOf(call)
        error: Any = self.failureResultOf(calls[3], RemoteError).value
        self.assertEqual(error.code, "OVER_RATE")
        self.assertEqual(error.details, {"retry_after": 0.5})
        pair.clock.advance(0.5)
        again = pair.caller.call(ECHO, Text(""))
        pair.pump()
        self.successResultOf(again)

    def test_calls_cost_what_their_methods_say(self) -> None:
        pair = Pair(buckets=PeerBuckets(1.0, 10.0))
        dear = Method("dear", Text, str, cost=4.0)
        free = Method("free", Text, str, cost=0.0)
        for method in (dear, free):
            pair.service.dispatcher.serve(method, lambda peer, request: "")
        calls = [pair.caller.call(dear, Text("")) for _ in range(3)]
        calls += [pair.caller.call(free, Text("")) for _ in range(50)]
        unknown = pair.caller.call(NEVER, Text(""))
        pair.pump()
        error: Any = self.failureResultOf(calls.pop(2), RemoteError).value
        self.assertEqual(error.details, {"retry_after": 2.0})
        for call in calls:
            self.successResultOf(call)
        self.assertEqual(self.failureResultOf(unknown).value.code, "UNKNOWN_METHOD")

    def test_coming_again_resets_nothing(self) -> None:
        buckets = PeerBuckets(1.0, 3.0)
        for count, granted in ((3, 3), (2, 0)):
            pair = Pair(buckets=buckets)
            calls = [pair.caller.call(ECHO, HELLO) for _ in range(count)]
            pair.pump()
            answers = [self.successResultOf(call.addErrback(code_of)) for call in calls]
            self.assertEqual(answers.count("hello"), granted)
            self.assertEqual(answers.count("OVER_RATE"), count - granted)
            pair.caller.close()
            pair.pump()

    def test_who_does_not_heed_it_is_dropped(self) -> None:
        raw = Raw(buckets=PeerBuckets(1.0, 2.0))
        answers = raw.say(*([0, n, "echo", ["a"]] for n in range(4)))
        self.assertEqual(
            [answer[2] and answer[2][0] for answer in answers], [None] * 2 + ["OVER_RATE"] * 2
        )
        raw.say([0, 9, "echo", ["a"]])
        self.assertIs(raw.lost, OverRate)

    def test_notifications_cost_as_well(self) -> None:
        raw = Raw(buckets=PeerBuckets(1.0, 2.0))
        self.assertEqual(raw.say(*([2, "echo", ["a"]] for _ in range(4))), [])
        self.assertEqual(raw.service.heard, ["a", "a"])
        raw.say([2, "echo", ["a"]])
        self.assertIs(raw.lost, OverRate)

    def test_answers_cost_nothing(self) -> None:
        raw = Raw(buckets=PeerBuckets(1.0, 1.0))
        for n in range(20):
            call = raw.end.call(ECHO, Text(""))
            raw.say([1, n, None, "a"])
            self.successResultOf(call)


class FlowTests(SynchronousTestCase):
    """Bounds on what is kept for a peer that does not read."""

    def setUp(self) -> None:
        self.raw = Raw()
        self.raw.peer.transport.pauseProducing()  # type: ignore[union-attr]

    def kept(self) -> int:
        return self.raw.wire.second.waiting

    def test_calls_are_held_until_the_peer_reads(self) -> None:
        self.raw.say(*([0, n, "large", [40_000]] for n in range(5)))
        # The second answer fills the transport; no other call is begun.
        self.assertLess(self.kept(), 100_000)
        self.assertEqual(self.raw.end.serving, 3)
        self.raw.peer.transport.resumeProducing()  # type: ignore[union-attr]
        self.raw.wire.pump()
        self.assertEqual([answer[1] for answer in self.raw.heard()], list(range(5)))
        self.assertEqual(self.raw.end.serving, 0)

    def test_when_too_many_are_held_nothing_is_read(self) -> None:
        request = pack([0, 0, "large", [60_000]])
        for n in range(3 * MAX_SERVED):
            self.raw.send(pack([0, n, "large", [60_000]]))
        self.assertLessEqual(self.raw.end.serving, MAX_SERVED)
        self.assertFalse(self.raw.wire.second.reading)
        self.assertLess(self.kept(), 200_000)
        # What was not read is on the peer's hands.
        self.assertGreater(self.raw.wire.first.waiting, MAX_SERVED * len(request))
        self.assertIsNone(self.raw.lost)
        self.raw.peer.transport.resumeProducing()  # type: ignore[union-attr]
        self.raw.wire.pump()
        self.assertEqual([answer[1] for answer in self.raw.heard()], list(range(3 * MAX_SERVED)))

    def test_held_bytes_have_a_limit(self) -> None:
        raw = Raw(limits=RPCLimits(held_bytes=100_000))
        raw.peer.transport.pauseProducing()  # type: ignore[union-attr]
        raw.say([0, 0, "large", [60_000]], [0, 1, "large", [60_000]])
        for n in range(2, 12):
            raw.say([0, n, "echo", ["x" * 30_000]])
        self.assertFalse(raw.wire.second.reading)
        self.assertLessEqual(raw.end._held_bytes, 100_000 + DEFAULT_MESSAGE)
        raw.peer.transport.resumeProducing()  # type: ignore[union-attr]
        raw.wire.pump()
        self.assertEqual(len(raw.heard()), 12)
        self.assertEqual(raw.end._held_bytes, 0)

    def test_many_small_calls_in_one_read_do_not_make_a_pile_of_answers(self) -> None:
        self.raw.say(*([0, n, "large", [60_000]] for n in range(200)))
        self.assertLess(self.kept(), 200_000)

    def test_answers_that_were_being_made_are_sent_all_the_same(self) -> None:
        self.raw.say(*([0, n, "slow", [""]] for n in range(10)))
        for each in self.raw.service.slow:
            each.callback("x" * 20_000)
        self.assertGreater(self.kept(), 200_000)
        self.assertEqual(self.raw.end.serving, 0)

    def test_a_peer_that_never_reads_is_dropped(self) -> None:
        self.raw.say(*([0, n, "large", [60_000]] for n in range(5)))
        self.raw.clock.advance(PATIENCE - 0.1)
        self.assertIsNone(self.raw.lost)
        self.raw.clock.advance(0.1)
        self.raw.wire.pump()
        self.assertIs(self.raw.lost, PeerTooSlow)
        self.assertEqual(self.raw.end.serving, 0)
        self.assertEqual(self.raw.clock.getDelayedCalls(), [])

    def test_one_that_reads_in_time_is_not(self) -> None:
        for _ in range(3):
            self.raw.say(*([0, n, "large", [60_000]] for n in range(5)))
            self.raw.clock.advance(PATIENCE - 1)
            self.raw.peer.transport.resumeProducing()  # type: ignore[union-attr]
            self.raw.wire.pump()
            self.raw.peer.transport.pauseProducing()  # type: ignore[union-attr]
        self.raw.clock.advance(PATIENCE * 2)
        self.assertIsNone(self.raw.lost)

    def test_two_ends_that_both_answer_at_length_do_not_wait_for_each_other(self) -> None:
        """Each has far more to send than its transport holds, and answers to read."""
        pair = Pair(both=True)
        calls = [
            end.call(LARGE, Sum(60_000)) for _ in range(200) for end in (pair.caller, pair.server)
        ]
        pair.pump()
        self.assertEqual({len(self.successResultOf(call)) for call in calls}, {60_000})

    def test_answers_are_read_while_calls_are_held(self) -> None:
        call = self.raw.end.call(ECHO, Text(""))
        self.raw.say(*([0, n, "large", [60_000]] for n in range(5)), [1, 0, None, "answer"])
        self.assertEqual(self.successResultOf(call), "answer")

    def test_what_is_held_when_the_connection_ends_is_never_begun(self) -> None:
        self.raw.say(*([0, n, "large", [60_000]] for n in range(2)), [0, 5, "echo", ["held"]])
        self.raw.wire.cut()
        self.raw.wire.pump()
        self.assertEqual(self.raw.service.heard, [])
        self.assertEqual(self.raw.end.serving, 0)

    def test_nor_is_what_is_held_behind_a_call_that_ends_it(self) -> None:
        self.raw.service.on_fail = lambda peer: peer.close()
        large = ([0, n, "large", [60_000]] for n in range(2))
        self.raw.say(*large, [0, 5, "fail", [""]], [0, 6, "echo", ["held"]])
        self.raw.peer.transport.resumeProducing()  # type: ignore[union-attr]
        self.raw.wire.pump()
        self.assertEqual(self.raw.service.heard, [])
        self.assertIs(self.raw.lost, ConnectionDone)

    def test_a_transport_that_drains_while_we_read_lets_the_held_calls_begin(self) -> None:
        call = self.raw.end.call(ECHO, HELLO)
        self.raw.say(*([0, n, "large", [60_000]] for n in range(2)), [0, 5, "echo", ["held"]])
        call.addCallback(lambda _: self.raw.wire.second.producer.resumeProducing())
        self.raw.say([1, 0, None, "answer"])
        self.assertEqual(self.raw.service.heard, ["held"])

    def test_a_message_cannot_be_ended_while_nothing_is_read(self) -> None:
        raw = Raw(limits=RPCLimits(served=1))
        message = pack([0, 2, "echo", ["x"]])
        raw.send(pack([0, 1, "slow", [""]]) + message[:3])
        raw.clock.advance(PATIENCE - 10)
        raw.peer.transport.pauseProducing()  # type: ignore[union-attr]
        for _ in range(2):
            raw.end.notify(ECHO, Text("x" * 50_000))
        raw.send(message[3:])
        self.assertFalse(raw.wire.second.reading)
        raw.clock.advance(15)
        self.assertIsNone(raw.lost)
        raw.peer.transport.resumeProducing()  # type: ignore[union-attr]
        raw.wire.pump()
        self.assertEqual([each[0] for each in raw.heard()], [2, 2, 1])

    def test_a_held_call_that_is_over_the_rate_too_often_ends_the_connection(self) -> None:
        raw = Raw(buckets=PeerBuckets(1.0, 2.0))
        raw.peer.transport.pauseProducing()  # type: ignore[union-attr]
        raw.say(*([0, n, "large", [60_000]] for n in range(2)))
        raw.say(*([0, 2 + n, "echo", ["x"]] for n in range(6)))
        raw.peer.transport.resumeProducing()  # type: ignore[union-attr]
        raw.wire.pump()
        self.assertIs(raw.lost, OverRate)


#: Bytes that are no leak.
MOST_GROWTH = 20_000


def growth(run: Callable[[int], None], times: int) -> int:
    """
    @return: bytes by which memory grows when something is done so many times.  What leaks does
        so each time; what the rest of the process does once, such as filling a cache, is
        gone when it is measured again.
    """
    # What other tests have left is no part of it, and takes long to be looked through.
    gc.freeze()
    tracemalloc.start()
    try:
        run(20)
        for _ in range(3):
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            run(times)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            if grown < MOST_GROWTH:
                break
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    return grown


class LeakTests(SynchronousTestCase):
    def test_a_hundred_thousand_messages_leave_nothing(self) -> None:
        raw = Raw()
        batch = b"".join(pack([0, n, "echo", ["x"]]) for n in range(100))

        def run(times: int) -> None:
            for _ in range(times):
                raw.peer.events.clear()
                raw.service.heard.clear()
                raw.send(batch)

        run(20)
        grown = growth(run, 100)
        run(860)
        self.assertLess(grown, MOST_GROWTH)
        self.assertEqual(raw.end.serving, 0)

    def test_calls_leave_nothing_whether_answered_cancelled_or_late(self) -> None:
        pair = Pair()

        def run(times: int) -> None:
            for _ in range(times):
                pair.service.heard.clear()
                answered = pair.caller.call(ECHO, Text("x"))
                late = pair.caller.call(SLOW, Text("x"), timeout=1)
                cancelled = pair.caller.call(SLOW, Text("x"))
                pair.pump()
                cancelled.cancel()
                pair.advance(1)
                for each in pair.service.slow:
                    each.callback("")
                pair.service.slow.clear()
                pair.pump()
                for call in (answered, late, cancelled):
                    assert call.called
                    call.addErrback(lambda _: None)

        run(100)
        self.assertLess(growth(run, 300), MOST_GROWTH)
        self.assertEqual(pair.caller._calls.forgotten, 0)

    def test_a_dispatcher_keeps_no_connection(self) -> None:
        dispatcher = Dispatcher()
        dispatcher.serve(ECHO, lambda peer, request: "")
        self.assertEqual(RPCProtocol(Clock(), dispatcher).serving, 0)
        gc.collect()
        found = [each for each in gc.get_referrers(dispatcher) if isinstance(each, RPCProtocol)]
        self.assertEqual(found, [])
