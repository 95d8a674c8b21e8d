"""Tests of L{meshkit.relay.webrtc.channel}."""

from __future__ import annotations

import tracemalloc
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshkit.errors import MalformedFrame
from meshkit.relay.webrtc.channel import (
    CLOSE_SECONDS,
    HIGH_WATER,
    MAX_DELIVERED,
    ChannelTransport,
    WebRTCAddress,
)
from meshkit.relay.webrtc.stream import WINDOW
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from tests.relay.webrtc.pairs import Pipe, make_pipes

ADDRESS = WebRTCAddress(make_identity("bob").public)


class Recorder(Protocol):
    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Failure | None = None
        self.transport: Any

    def dataReceived(self, data: bytes) -> None:
        assert self.lost is None
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.lost is None, "told twice"
        self.lost = reason


@implementer(IHalfCloseableProtocol)
class Half(Recorder):
    half_lost = 0

    def readConnectionLost(self) -> None:
        self.half_lost += 1

    def writeConnectionLost(self) -> None:
        """Not called."""


class Producer:
    """Writes as much as it may; C{left} pieces in all."""

    def __init__(self, transport: Any, left: int) -> None:
        self.transport, self.left, self.paused, self.pauses, self.stopped = transport, left, 0, 0, 0

    def resumeProducing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(b"p" * 10_000)
            if not self.transport._streaming:
                break
        if not self.left:
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def stopProducing(self) -> None:
        self.stopped += 1


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def pair(self, one: Recorder, other: Recorder) -> tuple[Pipe, Pipe]:
        pipes = make_pipes(self.clock)
        for pipe, app in zip(pipes, (one, other), strict=True):
            pipe.transport = ChannelTransport(self.clock, pipe, ADDRESS)
            pipe.transport.connect(app)
        return pipes

    def run_for(self, seconds: float = 1.0) -> None:
        run_clock(self.clock, seconds)


class Transports(Case):
    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = Recorder(), Recorder()
        self.pipes = self.pair(self.a, self.b)

    def test_it_is_a_transport(self) -> None:
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, self.a.transport)
        self.assertEqual(self.a.transport.getPeer(), ADDRESS)

    def test_bytes_arrive_both_ways(self) -> None:
        self.a.transport.write(b"a" * 100_000)
        self.b.transport.writeSequence([b"b", b"c"])
        self.run_for()
        self.assertEqual((bytes(self.b.received), bytes(self.a.received)), (b"a" * 100_000, b"bc"))

    def test_a_close_comes_after_what_was_written(self) -> None:
        self.a.transport.write(b"a" * (WINDOW + 1))
        self.a.transport.loseConnection()
        self.a.transport.write(b"too late")
        self.run_for()
        self.assertEqual(len(self.b.received), WINDOW + 1)
        for app in (self.a, self.b):
            assert app.lost is not None
            app.lost.trap(ConnectionDone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_both_close_at_once(self) -> None:
        for app in (self.a, self.b):
            app.transport.write(b"x")
            app.transport.loseConnection()
        self.run_for()
        for app in (self.a, self.b):
            assert app.lost is not None
            app.lost.trap(ConnectionDone)

    def test_an_abort_is_told_from_a_close(self) -> None:
        self.a.transport.abortConnection()
        self.a.transport.abortConnection()
        self.assertIsNone(self.a.lost)
        self.run_for()
        assert self.a.lost is not None and self.b.lost is not None
        self.a.lost.trap(ConnectionAborted)
        self.b.lost.trap(ConnectionLost)

    def test_a_channel_that_is_gone(self) -> None:
        self.pipes[0].close()
        self.run_for()
        for app in (self.a, self.b):
            assert app.lost is not None
            app.lost.trap(ConnectionLost)
        self.a.transport.write(b"x")
        self.a.transport.loseConnection()
        self.a.transport.abortConnection()
        self.run_for()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_peer_that_does_not_close_is_left(self) -> None:
        self.pipes[1].stuck = True
        self.a.transport.loseConnection()
        self.run_for(CLOSE_SECONDS - 1)
        self.assertIsNone(self.a.lost)
        self.run_for(2)
        assert self.a.lost is not None
        self.a.lost.trap(ConnectionLost)

    def test_a_peer_that_breaks_a_rule(self) -> None:
        self.pipes[0].transport.message(b"\xff")  # type: ignore[union-attr]
        self.pipes[0].transport.message(b"\x00more")  # type: ignore[union-attr]
        self.run_for()
        assert self.a.lost is not None
        self.a.lost.trap(MalformedFrame)
        self.assertEqual(self.a.received, b"")

    # --- who is slow ---------------------------------------------------------------------

    def test_while_it_is_paused_nothing_is_delivered_and_no_more_than_a_window_held(self) -> None:
        self.b.transport.pauseProducing()
        self.a.transport.write(b"a" * (4 * WINDOW))
        self.run_for()
        self.assertEqual(self.b.received, b"")
        self.assertEqual(self.b.transport._stream.held, WINDOW)
        self.b.transport.resumeProducing()
        self.assertEqual(self.b.received, b"", "not within the call")
        self.run_for()
        self.assertEqual(len(self.b.received), 4 * WINDOW)

    def test_one_that_pauses_as_it_reads(self) -> None:
        seen = []

        def paused(data: bytes) -> None:
            seen.append(len(data))
            self.b.transport.pauseProducing()

        self.patch(self.b, "dataReceived", paused)
        self.a.transport.write(b"a" * 50_000)
        self.run_for()
        self.assertEqual(len(seen), 1)
        self.b.transport.resumeProducing()
        self.run_for()
        self.assertEqual(len(seen), 2)

    def test_many_small_messages_take_no_more_than_their_bytes_while_it_is_paused(self) -> None:
        seen: list[bytes] = []
        self.patch(self.b, "dataReceived", seen.append)
        transport = self.b.transport
        transport.pauseProducing()
        count = 3 * MAX_DELIVERED // 2
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(count // 2):
            transport.message(b"\0" + number.to_bytes(2, "big"))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertLess(held, 2 * count)
        transport.resumeProducing()
        self.run_for()
        # And they are delivered in large pieces.
        self.assertEqual([len(each) for each in seen], [MAX_DELIVERED, count - MAX_DELIVERED])
        expected = b"".join(number.to_bytes(2, "big") for number in range(count // 2))
        self.assertEqual(b"".join(seen), expected)

    def test_the_end_waits_for_who_is_paused(self) -> None:
        self.b.transport.pauseProducing()
        self.a.transport.write(b"last")
        self.a.transport.loseConnection()
        self.run_for()
        self.assertIsNone(self.b.lost)
        self.b.transport.resumeProducing()
        self.run_for()
        self.assertEqual(self.b.received, b"last")
        self.assertIsNotNone(self.b.lost)

    def test_a_push_producer_is_held_back(self) -> None:
        self.b.transport.pauseProducing()
        producer = Producer(self.a.transport, 100)
        self.a.transport.registerProducer(producer, True)
        producer.resumeProducing()
        self.run_for()
        self.assertGreater(producer.left, 50)
        self.assertLess(self.a.transport._stream.waiting, HIGH_WATER + 10_001)
        self.b.transport.resumeProducing()
        self.run_for()
        self.assertEqual((producer.left, len(self.b.received)), (0, 1_000_000))

    def test_a_pull_producer_is_asked_when_there_is_room(self) -> None:
        producer = Producer(self.a.transport, 100)
        self.a.transport.registerProducer(producer, False)
        self.a.transport.loseConnection()
        self.run_for()
        self.assertEqual((producer.left, len(self.b.received)), (0, 1_000_000))
        self.assertIsNotNone(self.b.lost)

    def test_a_producer_is_stopped_with_the_channel(self) -> None:
        producer = Producer(self.a.transport, 1)
        self.a.transport.registerProducer(producer, True)
        with self.assertRaises(RuntimeError):
            self.a.transport.registerProducer(producer, True)
        self.pipes[0].close()
        self.run_for()
        late = Producer(self.a.transport, 1)
        self.a.transport.registerProducer(late, True)
        self.assertEqual((producer.stopped, late.stopped), (1, 1))


class Halves(Case):
    def test_one_direction_goes_on(self) -> None:
        a, b = Half(), Half()
        self.pair(a, b)
        a.transport.write(b"question")
        a.transport.loseWriteConnection()
        a.transport.write(b"too late")
        self.run_for()
        self.assertEqual((b.received, b.half_lost, b.lost), (b"question", 1, None))
        b.transport.write(b"answer")
        self.run_for()
        self.assertEqual(a.received, b"answer")
        b.transport.loseWriteConnection()
        self.run_for()
        for app in (a, b):
            assert app.lost is not None
            app.lost.trap(ConnectionDone)
            self.assertEqual(app.half_lost, 1)
