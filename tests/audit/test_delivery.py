"""Tests of L{meshkit.audit.delivery}: what of a share is at a peer, and who gives it up."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.delivery import Delivery
from meshkit.audit.repairing import Account, RepairConfig, RepairTools
from meshkit.errors import UploadOutOfStep
from meshkit.identity.keys import Identity
from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.custody import TrackedObject
from meshkit.storage.erasure import ZfecCodec
from meshkit.storage.placement_document import PlacementDocument
from meshkit.testing.identities import make_identity
from tests.storage.client.peers import MemoryPeer, Unruly, at_now, hang, run_until
from tests.storage.objects import SMALL
from tests.storage.shelves import Shelf, text_of

SHELF = Shelf(text_of(3 * SMALL.text_bytes))


class DeliveryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = InlineWorkers(self.clock, 2)
        self.workers.startService()
        self.tools = RepairTools(self.clock, self.workers, at_now, ZfecCodec(), RepairConfig())
        self.account = Account()
        self.peer = MemoryPeer(make_identity("keeper"))
        self.front = Unruly(self.peer, self.clock, 0.5)
        self.changes = 0
        signer = Identity(b"p" * 32)
        document = PlacementDocument(SHELF.manifest.content_id, 1, (None,) * 9)
        self.tracked = TrackedObject(
            SHELF.manifest, document, document.sign(signer), signer, b"l" * 32
        )
        self.delivery = Delivery(self.tools, self.account, self.tracked, 4, self.front, self.note)

    def tearDown(self) -> None:
        self.wait(Deferred.fromCoroutine(self.delivery.give_up()))
        run_until(self.clock, self.tools.background.quiet())
        run_until(self.clock, self.workers.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def note(self) -> None:
        self.changes += 1

    def wait(self, deferred: Deferred[Any]) -> Any:
        return run_until(self.clock, deferred)

    def send_all(self) -> None:
        layout = SHELF.layout
        for segment in range(layout.segments):
            at, length = layout.block_at(segment), layout.block_bytes(segment)
            self.delivery.send(segment, bytes(SHELF.shares[4][at : at + length]))

    def test_nothing_is_kept_before_it_is_said_to_be_right(self) -> None:
        self.wait(self.delivery.reserve())
        self.assertEqual(self.delivery.state, "open")
        self.send_all()
        self.clock.pump([0.5] * 20)
        self.assertEqual((self.delivery.left, self.delivery.next_segment), (0, 3))
        self.assertEqual(self.account.written, len(SHELF.shares[4]))
        self.assertEqual((self.peer.shares, len(self.peer.uploads)), ({}, 1))
        self.delivery.finish()
        self.clock.pump([0.5] * 2)
        self.assertEqual(self.delivery.state, "kept")
        assert self.delivery.receipt is not None
        self.assertEqual(self.delivery.receipt.share, SHELF.header.share_id(4))
        self.assertGreater(self.changes, 3)

    def test_what_was_kept_can_be_given_up(self) -> None:
        self.wait(self.delivery.reserve())
        self.send_all()
        self.delivery.finish()
        self.clock.pump([0.5] * 20)
        self.wait(Deferred.fromCoroutine(self.delivery.give_up()))
        self.assertTrue(self.peer.empty)
        self.assertEqual(self.delivery.state, "out")
        # Once is enough.
        self.wait(Deferred.fromCoroutine(self.delivery.give_up()))
        self.assertEqual(self.front.calls.count("release"), 1)

    def test_who_may_obey_later_is_waited_for_and_then_told(self) -> None:
        for stage in ("reserve", "close"):
            self.setUp()
            reserving = self.delivery.reserve()
            if stage == "close":
                self.wait(reserving)
                self.send_all()
                self.delivery.finish()
                self.clock.pump([0.5] * 3 + [0.1])
            self.assertEqual(self.front.calls[-1], stage)
            giving_up = Deferred.fromCoroutine(self.delivery.give_up())
            self.assertEqual(self.front.calls[-1], stage)
            self.wait(giving_up)
            self.assertEqual(self.front.calls.count("abort"), 1)
            self.assertTrue(self.peer.empty, stage)

    def test_a_peer_that_hangs_is_not_waited_for_without_end(self) -> None:
        self.wait(self.delivery.reserve())
        self.front.rule = hang("abort", "write")
        self.send_all()
        begun = self.clock.seconds()
        self.wait(Deferred.fromCoroutine(self.delivery.give_up()))
        self.assertEqual(self.clock.seconds() - begun, RepairConfig().reserve_seconds)

    def test_after_the_end_nothing_is_sent(self) -> None:
        self.wait(self.delivery.reserve())
        self.delivery.drop("enough")
        self.send_all()
        self.delivery.finish()
        self.clock.pump([0.5] * 10)
        self.assertEqual((self.delivery.problem, self.delivery.left), ("enough", 0))
        self.assertNotIn("write", self.front.calls)
        # It was not the peer's fault.
        self.assertEqual(self.account.blames, ())
        self.assertTrue(self.peer.empty)

    def test_who_has_a_block_whose_answer_was_lost_goes_on_with_the_next(self) -> None:
        self.wait(self.delivery.reserve())
        answers: list[Exception] = [ConnectionLost(), UploadOutOfStep("no", next_segment=1)]

        def rule(name: str, peer: Any, args: tuple[Any, ...]) -> Any:
            if name != "write" or not answers:
                return None
            if len(answers) == 2:
                peer.write(*args)
            return fail(answers.pop(0))

        self.front.rule = rule
        self.send_all()
        self.delivery.finish()
        self.clock.pump([0.5] * 10)
        self.assertEqual(self.delivery.state, "kept")

    def test_memory_of_a_block_is_free_when_it_was_sent(self) -> None:
        self.wait(self.delivery.reserve())
        self.send_all()
        self.assertEqual(self.delivery.left, 3)
        self.clock.advance(0.5)
        self.assertEqual(self.delivery.left, 2)
