"""Tests of L{meshkit.storage.objects.tracking}: objects as those see them who repair."""

from __future__ import annotations

import tracemalloc
from random import Random
from typing import Any

from attrs import evolve
from zope.interface.verify import verifyObject

from meshkit.errors import NotFound, NotReady, ObjectMismatch, ObjectRemoved, PlacementConflict
from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import IStoragePeers, ITrackedObjects
from meshkit.storage.custody import Judgement, TrackedObject
from meshkit.storage.header import Header, share_id
from meshkit.storage.manifest import Manifest
from meshkit.storage.objects import ledger
from meshkit.storage.objects.ledger import Entry
from meshkit.storage.objects.tracking import MAX_LEAP, MAX_PAGE, Tracking
from meshkit.storage.placement_document import Placed, PlacementDocument
from meshkit.storage.placement_record import KIND
from meshkit.storage.scheme import Scheme
from meshkit.storage.terms import LEASE_SECONDS
from meshkit.testing.identities import make_identity
from tests.storage.objects.support import ObjectsCase


class TrackingCase(ObjectsCase):
    """
    @ivar tracking: that of the owner.
    """

    @property
    def tracking(self) -> Tracking:
        return self.part.tracking

    def tracked(self, put: Any) -> TrackedObject:
        """@return: an object of the owner, as it is now."""
        found: TrackedObject = self.done(self.tracking.find(bytes.fromhex(put.object)))
        return found

    def holder(self, tracked: TrackedObject, number: int) -> int:
        """@return: which keeper has a share, by the document."""
        placed = tracked.document.shares[number]
        assert placed is not None
        return self.keeper_of(placed.peer)

    def keeper_of(self, key: PublicKey) -> int:
        return [front.key for front in self.fronts].index(key)

    def spare(self, tracked: TrackedObject) -> int:
        """@return: a keeper that has no share."""
        taken = {placed.peer for placed in tracked.document.shares if placed is not None}
        return next(n for n, front in enumerate(self.fronts) if front.key not in taken)

    def has(self, tracked: TrackedObject, keeper: int, number: int) -> bool:
        name = share_id(tracked.manifest.header.upload, number)
        return name in list(self.keepers[keeper].names())

    def copy(
        self,
        tracked: TrackedObject,
        number: int,
        to: int,
        caller: Any = None,
        source: int | None = None,
    ) -> Placed:
        """
        Bring a share to another keeper, as a repairer does.

        @param source: which keeper it is read from, if not from the one that has it.
        @return: where it is then.
        """
        manifest = tracked.manifest
        upload, name = manifest.header.upload, manifest.header.share_id(number)
        peer = self.fronts[self.holder(tracked, number) if source is None else source].peer
        target = self.keepers[to].for_caller(self.owner.public if caller is None else caller)
        size = manifest.layout.share_bytes
        lease = tracked.lease(target.key)
        there = self.done(target.reserve(upload, number, size, lease, True))
        for segment in range(0 if there.complete else manifest.layout.segments):
            piece = self.done(peer.read(name, segment))
            self.done(target.write(upload, number, segment, piece.block))
        self.done(target.close(upload, number, manifest.raw))
        return Placed(target.key, self.now() + LEASE_SECONDS)

    def move(self, tracked: TrackedObject, number: int, to: int) -> TrackedObject:
        """Move a share, and write that down."""
        document = tracked.document.moved(number, self.copy(tracked, number, to))
        return self.swap(tracked, document)

    def swap(self, tracked: TrackedObject, document: PlacementDocument) -> TrackedObject:
        found: TrackedObject = self.done(self.tracking.swap(tracked, document))
        return found

    def newest(self, tracked: TrackedObject, tracking: Tracking | None = None) -> TrackedObject:
        tracking = self.tracking if tracking is None else tracking
        found: TrackedObject = self.done(tracking.newest(tracked))
        return found

    def signer(self, tracked: TrackedObject) -> Identity:
        return tracked.signer

    def publish(self, tracked: TrackedObject, document: PlacementDocument) -> None:
        """Somebody else who may has published this."""
        self.table.records[KIND, tracked.signer.public.raw] = document.sign(tracked.signer)

    def published(self, tracked: TrackedObject) -> PlacementDocument:
        raw = self.table.records[KIND, tracked.signer.public.raw]
        return PlacementDocument.open(raw, tracked.signer.public)


class OwnTests(TrackingCase):
    def test_what_is_provided_can_be_asked_for_under_both_names(self) -> None:
        self.assertIs(ITrackedObjects(self.part), self.tracking)
        self.assertIs(IStoragePeers(self.part), self.part.peers)
        verifyObject(ITrackedObjects, self.tracking)
        verifyObject(IStoragePeers, self.part.peers)

    def test_live_objects_come_in_the_order_of_their_ids_page_by_page(self) -> None:
        puts = [self.put(bytes([number]) * 100, f"{number}") for number in range(5)]
        self.ask("object_remove", object=puts[2].object)
        wanted = sorted(bytes.fromhex(each.object) for each in puts if each is not puts[2])
        self.assertEqual([each.content_id for each in self.done(self.tracking.tracked())], wanted)
        first = self.done(self.tracking.tracked(limit=3))
        rest = self.done(self.tracking.tracked(first[-1].content_id, limit=3))
        self.assertEqual([each.content_id for each in (*first, *rest)], wanted)
        self.assertEqual(self.done(self.tracking.tracked(wanted[-1])), [])
        for limit in (0, MAX_PAGE + 1):
            self.assertRaises(ValueError, self.tracking.tracked, b"", limit)
        gone = bytes.fromhex(puts[2].object)
        self.assertRaises(NotFound, self.done, self.tracking.find(gone))
        self.assertRaises(NotFound, self.done, self.tracking.find(b"?" * 32))

    def test_with_what_is_given_the_leases_of_the_owner_are_renewed(self) -> None:
        tracked = self.tracked(self.put())
        self.assertTrue(tracked.own)
        self.assertEqual(tracked.signer.public, tracked.manifest.header.placement)
        peer = self.fronts[self.holder(tracked, 0)].peer
        name = tracked.manifest.header.share_id(0)
        before = self.kept
        self.done(peer.release(name, tracked.lease_secret(peer.key)))
        self.assertEqual(sum(self.kept), sum(before) - 1)

    def test_a_share_that_was_moved_is_where_it_was_moved_to_and_nowhere_else(self) -> None:
        put = self.put()
        self.run_upkeep()
        tracked = self.tracked(put)
        source, target = self.holder(tracked, 1), self.spare(tracked)
        due = self.ask("object_stat", object=put.object).renew_at
        self.pass_time(3_600)
        moved = self.move(tracked, 1, target)
        self.assertEqual(moved, self.tracked(put))
        self.assertEqual((moved.document.version, self.holder(moved, 1)), (2, target))
        self.run_upkeep()
        self.assertEqual(self.published(moved), moved.document)
        self.assertTrue(self.has(moved, target, 1))
        self.assertFalse(self.has(moved, source, 1))
        self.assertEqual(sum(self.kept), 4)
        self.assertEqual(self.get(put.object), b"a grey heron" * 1_000)
        # The leases of those that stayed are due when they were.
        self.assertEqual(self.ask("object_stat", object=put.object).renew_at, due)

    def test_of_two_who_move_at_once_one_is_told(self) -> None:
        tracked = self.tracked(self.put())
        document = tracked.document.moved(0, None)
        self.swap(tracked, document)
        other = tracked.document.moved(1, None)
        with self.assertRaisesRegex(PlacementConflict, "changed meanwhile"):
            self.swap(tracked, other)
        with self.assertRaisesRegex(PlacementConflict, "does not follow"):
            self.swap(tracked, tracked.document)

    def test_what_is_nobodys_business_is_refused(self) -> None:
        one, two = self.tracked(self.put()), self.tracked(self.put(b"other"))
        self.assertRaises(ValueError, self.tracking.swap, one, one.document.deleted())
        self.assertRaises(ObjectMismatch, self.tracking.swap, one, two.document.moved(0, None))
        self.ask("object_remove", object=one.content_id.hex())
        self.assertRaises(PlacementConflict, self.swap, one, one.document.moved(0, None))

    def test_who_is_refused_is_given_nothing(self) -> None:
        bad = self.fronts[2].key
        self.part.peers.judged_by(
            lambda key: Judgement(refused="it lies") if key == bad else Judgement()
        )
        for number in range(4):
            self.put(bytes([number]) * 100, f"{number}")
        self.assertEqual((sum(self.kept), self.kept[2]), (16, 0))

    def test_a_share_that_comes_back_is_not_given_up(self) -> None:
        """Its peer was away when it was moved, and the lease there was not given up yet."""
        put = self.put()
        tracked = self.tracked(put)
        source, target = self.holder(tracked, 1), self.spare(tracked)
        self.fronts[source].down = True
        moved = self.move(tracked, 1, target)
        self.run_upkeep()
        self.assertEqual(self.part.status().releases, 1)
        self.fronts[source].down = False
        back = self.swap(moved, moved.document.moved(1, tracked.document.shares[1]))
        self.pass_time(3 * 3_600)
        self.run_upkeep()
        self.assertTrue(self.has(back, source, 1))
        self.assertFalse(self.has(back, target, 1))
        self.assertEqual(self.part.status().releases, 0)


class ManyTests(ObjectsCase):
    count = 0
    objects = 2_100
    page = 100

    def entry(self, number: int) -> Entry:
        """@return: an object of nine shares at nobody's."""
        rights = self.part._rights
        upload = number.to_bytes(32, "big")
        signer = rights.signer(upload)
        header = Header.new(Scheme(6, 9, 4096), upload, signer.public, b"k" * 32, Random(number))
        manifest = Manifest(header, 10_000, b"r" * 32, (b"s" * 32,) * 9)
        placed = Placed(signer.public, self.now() + LEASE_SECONDS)
        document = PlacementDocument(manifest.content_id, 1, (placed,) * 9)
        signed = document.sign(signer)
        return Entry("many", number, manifest, b"k" * 32, document, signed, placed.lease_end)

    def test_what_is_held_of_thousands_of_objects_is_a_page(self) -> None:
        wanted = []

        def add(connection: Any) -> None:
            for number in range(self.objects):
                entry = self.entry(number)
                ledger.add(connection, entry, None)
                wanted.append(entry.content_id)

        self.done(self.context.database.write(add))
        found, after, held = [], b"", 0
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        while page := self.done(self.part.tracking.tracked(after, self.page)):
            self.assertLessEqual(len(page), self.page)
            found += [each.content_id for each in page]
            after = found[-1]
            held = max(held, tracemalloc.get_traced_memory()[0] - before)
        self.assertEqual(found, sorted(wanted))
        # The ids themselves are kept by this test.
        self.assertLess(held, self.page * 20_000 + self.objects * 100)


class NewestTests(TrackingCase):
    def setUp(self) -> None:
        super().setUp()
        self.object = self.put()
        self.run_upkeep()
        self.first = self.tracked(self.object)

    def now_is(self) -> TrackedObject:
        return self.tracked(self.object)

    def test_what_a_repairer_has_moved_is_taken_over(self) -> None:
        source, target = self.holder(self.first, 2), self.spare(self.first)
        document = self.first.document.moved(2, self.copy(self.first, 2, target))
        self.publish(self.first, document)
        found = self.newest(self.first)
        self.assertEqual(found.document, document)
        self.assertEqual(found, self.now_is())
        self.run_upkeep()
        # Where it is not any more, nothing is left; where it is, the owner has a lease.
        self.assertFalse(self.has(found, source, 2))
        self.assertTrue(self.has(found, target, 2))
        self.assertEqual(self.get(self.object.object), b"a grey heron" * 1_000)

    def test_what_the_hash_table_should_not_have_changes_nothing(self) -> None:
        first = self.first
        other = self.tracked(self.put(b"other"))
        key = KIND, first.signer.public.raw
        stranger = make_identity("stranger")
        newer = first.document.moved(0, None)
        forged = bytearray(newer.sign(first.signer))
        forged[-1] ^= 1
        small = evolve(newer, shares=newer.shares[:-1])
        for what, value in {
            "signed by somebody else": newer.sign(stranger),
            "a signature that is wrong": bytes(forged),
            "another object's": other.document.moved(0, None).sign(other.signer),
            "another object's, signed by this one's key": evolve(other.document, version=7).sign(
                first.signer
            ),
            "too few shares": small.sign(first.signer),
            "nothing": b"",
            "a version out of reach": evolve(newer, version=MAX_LEAP + 2).sign(first.signer),
        }.items():
            with self.subTest(what):
                self.table.records[key] = value
                self.assertEqual(self.newest(first), first)
                self.assertEqual(self.now_is(), first)
        del self.table.records[key]
        self.assertEqual(self.newest(first), first)

    def test_an_older_document_changes_nothing(self) -> None:
        old = self.table.records[KIND, self.first.signer.public.raw]
        moved = self.move(self.first, 0, self.spare(self.first))
        self.run_upkeep()
        self.table.records[KIND, self.first.signer.public.raw] = old
        self.assertEqual(self.newest(moved), moved)
        self.assertEqual(self.now_is(), moved)

    def test_an_object_that_somebody_says_is_given_up_is_not_looked_after_nor_forgotten(
        self,
    ) -> None:
        self.publish(self.first, self.first.document.deleted())
        self.assertRaises(ObjectRemoved, self.newest, self.first)
        self.assertEqual(self.now_is(), self.first)
        self.assertEqual(self.get(self.object.object), b"a grey heron" * 1_000)

    def test_a_hash_table_that_fails_changes_nothing(self) -> None:
        self.table.problem = NotReady("the node starts")
        self.assertEqual(self.newest(self.first), self.first)
        self.table.problem = None
