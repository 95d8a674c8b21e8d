"""
What a producer writes in one go fills boxes together, and is paused no later for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.trial.unittest import SynchronousTestCase

from meshkit.shs.boxstream import MAX_BODY, OVERHEAD
from meshkit.shs.channel import CORK_BYTES
from meshkit.testing.transports import HIGH_WATER
from tests.shs.common import Pair, PullProducer

PIECE = b"0123456789" * 10


class Writer:
    """A push producer that does one thing each time it is resumed."""

    def __init__(self, *turns: Callable[[Writer], None]) -> None:
        self.turns = list(turns)
        self.paused = False
        self.stopped = False

    def resumeProducing(self) -> None:
        self.paused = False
        if self.turns:
            self.turns.pop(0)(self)

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.stopped = True


def on_the_wire(size: int) -> int:
    """How long so many bytes are in boxes that are filled."""
    return size + OVERHEAD * -(-size // MAX_BODY)


class GatheringTests(SynchronousTestCase):
    def start(self, *turns: Callable[[Writer], None]) -> tuple[Pair, Any, Writer]:
        """A producer at the client that was paused once, and is resumed by the next pump."""
        pair = Pair().open()
        transport = pair.client.transport
        writer = Writer(*turns)
        transport.registerProducer(writer, True)
        transport.write(bytes(HIGH_WATER))
        self.assertTrue(writer.paused)
        return pair, transport, writer

    def test_small_writes_share_boxes_and_wait_for_nothing(self) -> None:
        def writes(_writer: Writer) -> None:
            for _ in range(100):
                transport.write(PIECE)

        pair, transport, _ = self.start(writes)
        before = pair.wire.first.sent
        pair.wire.step()  # no clock moves: they are sent when the producer returns
        self.assertEqual(pair.wire.first.sent - before, on_the_wire(100 * len(PIECE)))
        pair.pump()
        self.assertEqual(bytes(pair.server.received[HIGH_WATER:]), PIECE * 100)

    def test_a_producer_that_writes_until_it_is_paused_is_paused_in_time(self) -> None:
        written: list[int] = []

        def writes(writer: Writer) -> None:
            while not writer.paused and len(written) < 10_000:
                transport.write(PIECE)
                written.append(len(PIECE))

        pair, transport, writer = self.start(writes)
        pair.wire.step()
        self.assertTrue(writer.paused)
        # Without us it would be paused at the first piece above the mark.
        self.assertLessEqual(sum(written), HIGH_WATER + CORK_BYTES)
        self.assertGreaterEqual(sum(written), CORK_BYTES)
        self.assertEqual(pair.wire.first.waiting, on_the_wire(sum(written)))

    def test_the_order_of_all_writes_is_kept(self) -> None:
        def writes(_writer: Writer) -> None:
            transport.write(b"first ")
            transport.writeSequence([b"second ", b"third "])

        pair, transport, _ = self.start(writes)
        pair.wire.step()
        transport.write(b"fourth")
        pair.pump()
        self.assertEqual(bytes(pair.server.received[HIGH_WATER:]), b"first second third fourth")

    def test_a_pull_producer_sends_each_piece_when_it_is_asked(self) -> None:
        pair = Pair().open()
        transport = pair.client.transport
        transport.registerProducer(PullProducer(transport, [PIECE, PIECE]), False)
        self.assertEqual(pair.wire.first.waiting, on_the_wire(len(PIECE)))
        pair.pump()
        self.assertEqual(bytes(pair.server.received), PIECE * 2)

    def test_what_it_wrote_comes_before_the_goodbye(self) -> None:
        def writes(_writer: Writer) -> None:
            transport.write(b"last words")
            transport.unregisterProducer()
            transport.loseConnection()
            transport.write(b"too late")

        pair, transport, _ = self.start(writes)
        pair.pump()
        self.assertEqual(bytes(pair.server.received[HIGH_WATER:]), b"last words")
        assert pair.client.reason is not None and pair.server.reason is not None
        self.assertIs(pair.server.reason.type, ConnectionDone)
        self.assertIs(pair.client.reason.type, ConnectionDone)

    def test_an_abort_drops_what_it_wrote(self) -> None:
        def writes(_writer: Writer) -> None:
            transport.write(b"never sent")
            transport.abortConnection()
            transport.write(b"nor this")

        pair, transport, writer = self.start(writes)
        before = pair.wire.first.sent
        pair.pump()
        self.assertEqual(pair.wire.first.sent, before)
        self.assertTrue(writer.stopped)
        assert pair.client.reason is not None
        self.assertIs(pair.client.reason.type, ConnectionAborted)

    def test_its_exception_goes_to_the_transport_beneath_and_its_data_out(self) -> None:
        def writes(_writer: Writer) -> None:
            transport.write(b"before it failed")
            raise ZeroDivisionError

        pair, transport, _ = self.start(writes, lambda _writer: None)
        with self.assertRaises(ZeroDivisionError):
            pair.wire.step()
        # Nothing is left gathering: what is written now does not wait.
        before = pair.wire.first.waiting
        self.assertEqual(before, on_the_wire(len(b"before it failed")))
        transport.write(PIECE)
        self.assertEqual(pair.wire.first.waiting - before, on_the_wire(len(PIECE)))
