"""Handshakes at a listener wait for their turn, and a flood of them holds up nobody."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.shs import channel as module
from meshkit.shs.channel import MAX_EARLY
from meshkit.shs.listener import SecureListener
from meshkit.shs.turns import Turns
from tests.shs.common import BOB, OneFactory, Recorder, new_client
from tests.shs.test_listener import ECHO


class TurnClock(Clock):
    """A clock on which what is due is called a turn at a time, as by a reactor."""

    def turn(self) -> None:
        """Make the calls that are due now, and none that they order."""
        for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


class TurnsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.turns = Turns(self.clock)
        self.made: list[str] = []

    def step(self, name: str, then: Any = None) -> Any:
        def make() -> None:
            self.made.append(name)
            if then is not None:
                then()

        return make

    def test_one_comes_up_in_each_turn_in_the_order_of_the_line(self) -> None:
        for name in "abc":
            self.turns.enter(self.step(name))
        self.assertEqual(self.made, [])
        for so_far in ("a", "ab", "abc"):
            self.clock.turn()
            self.assertEqual("".join(self.made), so_far)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_stands_in_line_keeps_the_one_place(self) -> None:
        first, second = self.step("a"), self.step("b")
        for step in (first, second, first):
            self.turns.enter(step)
        self.clock.pump([0] * 5)
        self.assertEqual(self.made, ["a", "b"])

    def test_who_was_up_may_enter_again_at_the_end(self) -> None:
        again = self.step("again")
        self.turns.enter(self.step("a", lambda: self.turns.enter(again)))
        self.turns.enter(self.step("b"))
        self.clock.pump([0] * 5)
        self.assertEqual(self.made, ["a", "b", "again"])

    def test_who_leaves_is_not_called_and_an_empty_line_waits_for_nothing(self) -> None:
        first, second = self.step("a"), self.step("b")
        self.turns.enter(first)
        self.turns.enter(second)
        self.turns.leave(first)
        self.turns.leave(first)
        self.clock.advance(0)
        self.assertEqual(self.made, ["b"])
        self.turns.enter(first)
        self.turns.leave(first)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_step_that_fails_does_not_hold_up_the_others(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        self.turns.enter(fail)
        self.turns.enter(self.step("b"))
        self.assertRaises(ZeroDivisionError, self.clock.advance, 0)
        self.clock.advance(0)
        self.assertEqual(self.made, ["b"])


class Transport(StringTransport):
    """Counts what was asked of it."""

    paused = 0
    aborted = False

    def pauseProducing(self) -> None:
        self.paused += 1
        super().pauseProducing()

    def abortConnection(self) -> None:
        self.aborted = True


class ListenerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.listener = SecureListener(self.clock, BOB, Random(1))
        self.listener.register(ECHO, OneFactory(Recorder))

    def connect(self) -> tuple[Any, Transport]:
        channel = self.listener.buildProtocol(None)
        transport = Transport()
        channel.makeConnection(transport)
        return channel, transport

    def lose(self, *channels: Any) -> None:
        for channel in channels:
            channel.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_of_many_hellos_one_is_answered_in_each_turn(self) -> None:
        peers = [self.connect() for _ in range(4)]
        for n, (channel, _) in enumerate(peers):
            channel.dataReceived(new_client(ephemeral=bytes([n + 1]) * 32).start())
        for turn in range(5):
            answered = [bool(transport.value()) for _, transport in peers]
            self.assertEqual(answered, [True] * turn + [False] * (4 - turn))
            self.clock.turn()
        self.lose(*(channel for channel, _ in peers))

    def test_pieces_of_a_hello_wait_together(self) -> None:
        channel, transport = self.connect()
        for byte in new_client().start():
            channel.dataReceived(bytes([byte]))
        self.clock.advance(0)
        self.assertEqual(len(transport.value()), 64)
        self.assertEqual(transport.paused, 0)
        self.lose(channel)

    def test_who_sends_more_than_any_handshake_is_not_read_until_its_turn(self) -> None:
        channel, transport = self.connect()
        hello = new_client().start()
        channel.dataReceived(hello + bytes(MAX_EARLY - len(hello)))
        self.assertEqual(transport.paused, 0)
        channel.dataReceived(b"x")
        channel.dataReceived(b"x")
        self.assertEqual((transport.paused, transport.producerState), (1, "paused"))
        self.clock.advance(0)
        # What stands behind the hello is no proof of anything.
        self.assertTrue(transport.aborted)
        self.lose(channel)

    def test_who_sent_too_much_that_may_still_be_right_is_read_on(self) -> None:
        channel, transport = self.connect()
        hello = new_client().start()
        self.patch(module, "MAX_EARLY", 15)
        channel.dataReceived(hello[:10])
        channel.dataReceived(hello[10:20])
        self.assertEqual(transport.producerState, "paused")
        self.clock.advance(0)
        self.assertEqual(transport.producerState, "producing")
        channel.dataReceived(hello[20:])
        self.clock.advance(0)
        self.assertEqual(len(transport.value()), 64)
        self.lose(channel)

    def test_one_that_is_lost_while_it_waits_leaves_the_line(self) -> None:
        channel, transport = self.connect()
        channel.dataReceived(new_client().start())
        self.lose(channel)
        self.assertEqual(transport.value(), b"")

    def test_what_a_peer_said_before_it_half_closed_is_answered(self) -> None:
        channel, transport = self.connect()
        channel.dataReceived(bytes(64))
        channel.readConnectionLost()
        self.assertTrue(transport.aborted)
        self.lose(channel)
        self.assertEqual(self.listener.refusals, {"NETWORK_KEY_REFUSED": 1})
