"""Calls over a secure channel: whose they are, and how it closes."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import CallTimedOut, RemoteError, TruncatedStream
from meshkit.rpc.protocol import RPCProtocol
from meshkit.runtime.limits import PeerBuckets
from tests.rpc.support import ECHO, LARGE, SLOW, Service, Sum, Text
from tests.shs.common import ALICE, BOB, Pair


class Calls(Pair):
    """Alice calls Bob, and may be called by him."""

    def __init__(self, *, buckets: PeerBuckets | None = None, chunk: Any = None) -> None:
        self.service = Service()
        self.own = Service()
        # The channels' clock is made by Pair: time is the same for all here.
        clock = Clock()
        self.alice = RPCProtocol(clock, self.own.dispatcher)
        self.bob = RPCProtocol(clock, self.service.dispatcher, buckets=buckets)
        super().__init__(self.alice, self.bob, chunk=chunk)
        self.rpc_clock = clock


class ChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls = Calls()
        self.calls.open()

    def test_calls_go_both_ways_and_keys_are_known(self) -> None:
        there = self.calls.alice.call(ECHO, Text("a"))
        back = self.calls.bob.call(ECHO, Text("b"))
        self.calls.pump()
        self.assertEqual((self.successResultOf(there), self.successResultOf(back)), ("a", "b"))
        self.assertEqual((self.calls.alice.key, self.calls.bob.key), (BOB.public, ALICE.public))

    def test_the_answers_of_one_read_share_boxes(self) -> None:
        before = self.calls.wire.second.sent
        calls = [self.calls.alice.call(ECHO, Text("x" * 10)) for _ in range(50)]
        self.calls.pump()
        for call in calls:
            self.successResultOf(call)
        # Each answer has 15 or 16 bytes; a box adds 34.
        self.assertLess(self.calls.wire.second.sent - before, 50 * 16 + 2 * 34)

    def test_byte_by_byte(self) -> None:
        self.calls = Calls(chunk=lambda _: 1)
        self.calls.open()
        call = self.calls.alice.call(ECHO, Text("x" * 100))
        self.calls.pump()
        self.assertEqual(self.successResultOf(call), "x" * 100)

    def test_a_bucket_is_the_peers_and_outlives_the_connection(self) -> None:
        buckets = PeerBuckets(1.0, 3.0)
        codes = []
        for _ in range(2):
            self.calls = Calls(buckets=buckets)
            self.calls.open()
            made = [self.calls.alice.call(ECHO, Text("x")) for _ in range(2)]
            self.calls.pump()
            for call in made:
                call.addErrback(lambda failure: failure.value.code)
                codes.append(self.successResultOf(call))
            self.calls.alice.close()
            self.calls.pump()
        self.assertEqual(codes, ["x", "x", "x", "OVER_RATE"])
        self.assertEqual(len(buckets), 1)
        self.assertGreater(buckets.take(ALICE.public, 1.0, 0.0), 0.0)

    def test_a_close_says_goodbye_on_both_sides(self) -> None:
        for closer in ("alice", "bob"):
            with self.subTest(closer):
                self.calls = Calls()
                self.calls.open()
                call = self.calls.alice.call(SLOW, Text("x"))
                self.calls.pump()
                getattr(self.calls, closer).close()
                self.calls.pump()
                self.failureResultOf(call, ConnectionDone)
                self.assertEqual(self.calls.service.cancelled, 1)
                self.assertEqual(self.calls.client_owner.events, ["opened", "lost"])
                self.assertEqual(self.calls.server_owner.events, ["opened", "lost"])
                for clock in (self.calls.clock, self.calls.rpc_clock):
                    self.assertEqual(clock.getDelayedCalls(), [])

    def test_a_channel_that_its_owner_closes_does_not_wait_for_us(self) -> None:
        call = self.calls.alice.call(SLOW, Text("x"))
        self.calls.pump()
        self.calls.server_channel.loseConnection()
        self.calls.pump()
        self.failureResultOf(call, ConnectionDone)
        self.assertEqual(self.calls.server_owner.events, ["opened", "lost"])
        self.assertEqual(self.calls.service.cancelled, 1)

    def test_a_cut_is_named(self) -> None:
        call = self.calls.alice.call(SLOW, Text("x"))
        self.calls.pump()
        self.calls.wire.cut()
        self.calls.pump()
        self.failureResultOf(call, TruncatedStream)
        self.failureResultOf(self.calls.alice.call(ECHO, Text("")), TruncatedStream)

    def test_an_abort_is_ours(self) -> None:
        call = self.calls.alice.call(SLOW, Text("x"))
        self.calls.alice.abort()
        self.calls.pump()
        self.failureResultOf(call, ConnectionAborted)

    def test_both_answer_at_length_and_neither_waits_for_ever(self) -> None:
        ends = (self.calls.alice, self.calls.bob)
        made = [end.call(LARGE, Sum(60_000)) for _ in range(50) for end in ends]
        self.calls.pump()
        self.assertEqual({len(self.successResultOf(call)) for call in made}, {60_000})

    def test_deadlines_and_refusals(self) -> None:
        slow = self.calls.alice.call(SLOW, Text("x"), timeout=2)
        refused = self.calls.bob.call(LARGE, Sum(100_000))
        self.calls.pump()
        self.calls.rpc_clock.advance(2)
        self.failureResultOf(slow, CallTimedOut)
        self.assertEqual(self.failureResultOf(refused, RemoteError).value.code, "INTERNAL_ERROR")
        self.flushLoggedErrors()
