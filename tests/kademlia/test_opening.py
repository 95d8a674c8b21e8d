"""Tests of L{meshkit.kademlia.opening}."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import RecordForged
from meshkit.kademlia.kinds import Kinds
from meshkit.kademlia.opening import STEP, Opener
from meshkit.kademlia.records import Record
from meshkit.sim.clock import SimClock
from tests.kademlia.recording import NETWORK, NOW, owner, topic

MANY = 2 * STEP + 1


def records(count: int) -> list[bytes]:
    """Each second one is forged."""
    found = []
    for n in range(count):
        raw = bytearray(topic(owner(n)).raw)
        raw[-1] ^= n % 2
        found.append(bytes(raw))
    return found


class Opening(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = SimClock()
        self.verify = partial(Kinds().open, network=NETWORK, now=NOW)

    def check(self, raws: list[bytes], opened: list[Any]) -> None:
        self.assertEqual(len(opened), len(raws))
        for n, (raw, each) in enumerate(zip(raws, opened, strict=True)):
            if n % 2:
                self.assertIsInstance(each, RecordForged)
            else:
                self.assertEqual(each.raw, raw)

    def test_a_few_are_verified_at_once(self) -> None:
        for count in (0, 1, STEP):
            raws = records(count)
            self.check(raws, self.successResultOf(Opener(self.clock).open(raws, self.verify)))
        self.assertEqual(self.clock.waiting, 0)

    def test_many_are_verified_in_steps_between_which_others_have_a_turn(self) -> None:
        raws = records(MANY)
        verified: list[bytes] = []

        def verify(raw: bytes) -> Record:
            verified.append(raw)
            return self.verify(raw)

        opened = Opener(self.clock).open(raws, verify)
        for step in (1, 2):
            self.assertNoResult(opened)
            self.assertEqual(len(verified), step * STEP)
            self.assertTrue(self.clock.step())
        self.check(raws, self.successResultOf(opened))
        self.assertEqual(verified, raws)

    def test_what_is_cancelled_is_not_gone_on_with(self) -> None:
        verified: list[bytes] = []

        def verify(raw: bytes) -> Record:
            verified.append(raw)
            return self.verify(raw)

        opened = Opener(self.clock).open(records(MANY), verify)
        opened.cancel()
        self.failureResultOf(opened, CancelledError)
        self.assertEqual(self.clock.waiting, 0)
        self.assertEqual(len(verified), STEP)

    def test_a_mistake_is_not_taken_for_a_bad_record(self) -> None:
        def verify(raw: bytes) -> Record:
            raise ZeroDivisionError

        opened = Opener(self.clock).open(records(MANY), verify)
        self.failureResultOf(opened, ZeroDivisionError)
        self.assertRaises(ZeroDivisionError, Opener(self.clock).open, [b""], verify)
