"""
Whatever the two applications and the network do, in any order, the channel keeps its
promises.  Each run is a seed; a failure names it.
"""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import PeerTooSlow, TruncatedStream
from meshkit.shs.channel import CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT
from tests.shs.common import HalfRecorder, Pair, Recorder

RUNS = 40
STEPS = 40


class Actor:
    """One application: acts at random and checks what it is told."""

    def __init__(self, test: SynchronousTestCase, rng: Random, half: bool) -> None:
        self.test = test
        self.rng = rng
        self.protocol: Recorder = HalfRecorder() if half else Recorder()
        self.protocol.script = self.told
        self.sent = bytearray()
        self.paused = False
        self.closed = False  # we asked to close: nothing may be delivered
        self.write_closed = False
        self.lost = 0

    def told(self, _protocol: Recorder, event: Any) -> None:
        self.test.assertEqual(self.lost, 0, "an event after connectionLost")
        if isinstance(event, tuple):
            self.lost += 1
        elif isinstance(event, bytes):
            self.test.assertFalse(self.paused, "delivered while paused")
            self.test.assertFalse(self.closed, "delivered after closing")
            if self.rng.random() < 0.3:
                self.act()

    def act(self) -> None:
        transport = self.protocol.transport
        if transport is None or self.lost:
            return
        what = self.rng.random()
        if what < 0.55:
            data = self.rng.randbytes(self.rng.choice((1, 10, 5000, 80_000)))
            if not (transport.disconnecting or self.write_closed):
                self.sent += data
            transport.write(data)
        elif what < 0.7:
            self.paused = True
            transport.pauseProducing()
        elif what < 0.9:
            self.paused = False
            transport.resumeProducing()
        elif what < 0.93:
            self.write_closed = True
            transport.loseWriteConnection()
        elif what < 0.96:
            self.closed = True
            transport.loseConnection()
        elif what < 0.965:
            self.closed = True
            transport.abortConnection()


class RandomTests(SynchronousTestCase):
    def run_once(self, seed: int) -> set[type[BaseException]]:
        rng = Random(seed)
        actors = [Actor(self, rng, rng.random() < 0.5) for _ in range(2)]
        largest = rng.choice((1, 50, 3000, 200_000))
        least = 1 if largest < 1000 else largest // 2
        pair = Pair(
            actors[0].protocol,
            actors[1].protocol,
            chunk=lambda waiting: rng.randint(least, largest) if waiting < 20_000 else waiting,
        )
        for _ in range(STEPS):
            rng.choice(actors).act()
            if rng.random() < 0.6:
                pair.wire.step()
            if rng.random() < 0.3:
                pair.clock.advance(0)
            if rng.random() < 0.003:
                pair.wire.cut()
        # In the end everybody reads and closes, and all deadlines pass.
        for actor in actors:
            if actor.protocol.transport is not None and not actor.lost:
                actor.paused = False
                actor.protocol.transport.resumeProducing()
        pair.pump()
        for actor in actors:
            if actor.protocol.transport is not None and not actor.lost:
                actor.closed = True
                actor.protocol.transport.loseConnection()
        pair.pump()
        pair.advance(HANDSHAKE_TIMEOUT + CLOSE_TIMEOUT)
        pair.pump()
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        reasons = set()
        for actor, other in (actors, actors[::-1]):
            if actor.protocol.transport is None:
                continue
            self.assertEqual(actor.lost, 1)
            received, sent = bytes(actor.protocol.received), bytes(other.sent)
            self.assertTrue(sent.startswith(received), "other bytes than were sent")
            assert actor.protocol.reason is not None
            reason = actor.protocol.reason.type
            reasons.add(reason)
            if reason is ConnectionDone and not actor.closed:
                self.assertEqual(len(received), len(sent), "a clean end, but not all arrived")
        return reasons

    def test_every_promise_in_any_order(self) -> None:
        seen: set[type[BaseException]] = set()
        for seed in range(RUNS):
            try:
                seen |= self.run_once(seed)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error}") from error
        # The runs reach the ends that they are there for.
        self.assertEqual(
            seen & {ConnectionDone, ConnectionAborted, TruncatedStream},
            {ConnectionDone, ConnectionAborted, TruncatedStream},
        )
        self.assertNotIn(PeerTooSlow, seen)

    def test_a_run_is_repeated_exactly_by_its_seed(self) -> None:
        for seed in range(5):
            self.assertEqual(self.run_once(seed), self.run_once(seed))
