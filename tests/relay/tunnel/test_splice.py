"""Tests of L{meshkit.relay.tunnel.splice}, over streams in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from meshkit.errors import MeshkitError, RelayLimitReached
from meshkit.relay.tunnel.splice import Splice, SpliceSide
from meshkit.testing.transports import HIGH_WATER, MemoryWire, connect_protocols


@implementer(IHalfCloseableProtocol)
class Leg(Protocol):
    """The relay's protocol on one side."""

    side: SpliceSide

    def dataReceived(self, data: bytes) -> None:
        self.side.data_received(data)

    def readConnectionLost(self) -> None:
        self.side.read_lost()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.side.connection_lost(reason)


@implementer(IHalfCloseableProtocol)
class Person(Protocol):
    """Somebody at an end."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        self.ended = True

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


@implementer(IPushProducer)
class Pusher:
    """Writes as long as it may."""

    def __init__(self, transport: Any, total: int) -> None:
        self.transport = transport
        self.left = total
        self.paused = False
        transport.registerProducer(self, True)

    def push(self) -> None:
        while self.left and not self.paused:
            self.left -= 1024
            self.transport.write(b"x" * 1024)

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.paused = True
        self.left = 0


class SpliceTests(SynchronousTestCase):
    """Two streams made one."""

    def setUp(self) -> None:
        self.people = (Person(), Person())
        legs = (Leg(), Leg())
        self.wires: tuple[MemoryWire, ...] = tuple(
            connect_protocols(person, leg) for person, leg in zip(self.people, legs, strict=True)
        )
        self.ends: list[MeshkitError | None] = []
        self.limit = 2**40
        self.carried = 0
        self.splice = Splice(
            legs[0].transport, legs[1].transport, carry=self.carry, on_end=self.ends.append
        )
        legs[0].side, legs[1].side = self.splice.first, self.splice.second
        self.splice.start()

    def carry(self, from_second: bool, size: int) -> None:
        if self.carried + size > self.limit:
            raise RelayLimitReached("enough")
        self.carried += size

    def pump(self) -> None:
        while sum(wire.pump() for wire in self.wires):
            pass

    def test_bytes_go_to_and_fro(self) -> None:
        first, second = self.people
        first.transport.write(b"ask")
        second.transport.write(b"answer")
        self.pump()
        self.assertEqual((bytes(first.received), bytes(second.received)), (b"answer", b"ask"))
        self.assertEqual(self.carried, 9)

    def test_one_direction_ends_and_the_other_stays_open(self) -> None:
        for first, second in (self.people, self.people[::-1]):
            self.setUp()
            first, second = self.people if first is self.people[0] else self.people[::-1]
            first.transport.write(b"all of it")
            first.transport.loseWriteConnection()
            self.pump()
            self.assertTrue(second.ended)
            self.assertEqual(bytes(second.received), b"all of it")
            second.transport.write(b"thanks")
            self.pump()
            self.assertEqual(bytes(first.received), b"thanks")
            self.assertEqual(self.ends, [])
            second.transport.loseWriteConnection()
            self.pump()
            self.assertTrue(first.ended)

    def test_what_was_sent_before_a_close_arrives(self) -> None:
        first, second = self.people
        first.transport.write(b"x" * 300_000)
        first.transport.loseConnection()
        self.pump()
        second.transport.loseConnection()
        self.pump()
        self.assertEqual(len(second.received), 300_000)
        self.assertIsNotNone(second.lost)
        self.assertEqual(self.ends, [None])

    def test_a_side_that_breaks_breaks_the_other(self) -> None:
        for broken in (0, 1):
            self.setUp()
            self.wires[broken].cut()
            self.pump()
            other = self.people[1 - broken]
            assert other.lost is not None
            self.assertIsNone(other.lost.check(ConnectionDone))
            self.assertIsNotNone(other.lost.check(ConnectionLost))
            self.assertEqual(self.ends, [None])

    def test_at_a_limit_both_are_cut_and_nothing_more_is_passed_on(self) -> None:
        first, second = self.people
        self.limit = 10
        first.transport.write(b"x" * 8)
        self.pump()
        first.transport.write(b"y" * 3)
        self.pump()
        self.assertEqual(bytes(second.received), b"x" * 8)
        for person in self.people:
            assert person.lost is not None
            self.assertIsNotNone(person.lost.check(ConnectionLost))
        (error,) = self.ends
        self.assertIsInstance(error, RelayLimitReached)
        self.splice.reset()
        self.assertEqual(len(self.ends), 1)

    def test_a_side_that_never_reads_holds_up_the_other_and_nothing_piles_up(self) -> None:
        for reader, writer in ((0, 1), (1, 0)):
            self.setUp()
            self.people[reader].transport.pauseProducing()
            pusher = Pusher(self.people[writer].transport, 8 * 2**20)
            for _ in range(1000):
                pusher.push()
                self.pump()
            # The writer has stopped: what has left it is what two transports take.
            written = 8 * 2**20 - pusher.left
            self.assertLessEqual(written, 3 * (HIGH_WATER + 1024))
            for wire in self.wires:
                self.assertLessEqual(wire.second.waiting, 2 * (HIGH_WATER + 1024))
            # And all of it comes when it is read at last.
            self.people[reader].transport.resumeProducing()
            while pusher.left:
                pusher.push()
                self.pump()
            self.pump()
            self.assertEqual(len(self.people[reader].received), 8 * 2**20)

    def test_a_side_that_is_held_up_can_break(self) -> None:
        self.people[1].transport.pauseProducing()
        pusher = Pusher(self.people[0].transport, 2**20)
        for _ in range(10):
            pusher.push()
            self.pump()
        self.wires[1].cut()
        self.pump()
        self.assertIsNotNone(self.people[0].lost)
