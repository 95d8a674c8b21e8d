"""Tests of L{meshkit.storage.client.checking}."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import succeed
from twisted.internet.error import ConnectionRefusedError

from meshkit.errors import ObjectKeyWrong, ShareDamaged
from meshkit.storage.client.client import StorageClient
from meshkit.storage.client.values import Stored
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import LEASE_SECONDS
from tests.storage.client.peers import NOW, Unruly, hang, lie, refuse
from tests.storage.client.test_client import ClientCase
from tests.storage.objects import SMALL
from tests.storage.shelves import text_of

TEXT = text_of(5 * SMALL.text_bytes)


class StoredCase(ClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.stored = self.put(TEXT)
        self.by_share = [self.holder(self.stored, number) for number in range(9)]

    def holder(self, stored: Stored, number: int) -> Unruly:
        placed = stored.document.shares[number]
        assert placed is not None
        found: Unruly = self.crowd.find(placed.peer)
        return found

    def states(self, depth: str = "sample") -> list[str]:
        checking = self.client.check(
            self.stored.manifest,
            self.stored.document,
            self.crowd.find,
            depth,  # type: ignore[arg-type]
        )
        self.checked = self.run_until(checking)
        return [each.state for each in self.checked.shares]


class Checking(StoredCase):
    def test_all_is_well(self) -> None:
        for depth in ("stat", "sample", "full"):
            self.assertEqual(self.states(depth), ["good"] * 9)
            self.assertTrue(self.checked.whole)
            self.assertEqual(self.checked.shares[0].lease_end, NOW + LEASE_SECONDS)

    def test_each_kind_of_trouble_has_its_name(self) -> None:
        self.by_share[0].peer.shares.clear()
        self.by_share[1].rule = refuse(ShareDamaged(), "stat")
        self.by_share[2].rule = refuse(ConnectionRefusedError(), "stat")
        self.by_share[3].rule = hang("stat")
        self.by_share[4].rule = lie
        document = self.stored.document.moved(5, None)
        self.stored = evolve(self.stored, document=document)
        expected = ["missing", "damaged", "unreachable", "unreachable", "damaged", "missing"]
        self.assertEqual(self.states(), expected + ["good"] * 3)
        self.assertEqual(self.checked.good, 3)
        self.assertFalse(self.checked.readable)
        self.assertFalse(self.checked.whole)
        for state in self.checked.shares[:6]:
            self.assertTrue(state.problem)

    def test_how_deep_it_looks_is_how_much_it_reads(self) -> None:
        for depth, reads in (("stat", 0), ("sample", 1), ("full", 5)):
            for each in self.crowd.peers:
                each.calls.clear()
            self.states(depth)
            for each in self.crowd.peers:
                self.assertEqual(each.calls, ["stat"] + ["read"] * reads)

    def test_damage_in_any_segment_is_found_by_the_full_one(self) -> None:
        name = self.stored.manifest.header.share_id(2)
        kept = self.by_share[2].peer.shares[name]
        for segment in range(5):
            kept.data[segment * SMALL.block_bytes + 7] ^= 1
            self.assertEqual(self.states("full")[2], "damaged")
            kept.data[segment * SMALL.block_bytes + 7] ^= 1

    def test_one_that_has_another_share_in_its_place_is_found(self) -> None:
        def other(name: str, peer: Any, args: Any) -> Any:
            if name != "stat":
                return None
            return succeed(evolve(peer.stat(*args).result, root=b"r" * 32))

        self.by_share[6].rule = other
        self.assertEqual(self.states("stat")[6], "damaged")

    def test_peers_that_are_not_known_are_not_reached(self) -> None:
        checking = self.client.check(
            self.stored.manifest, self.stored.document, lambda _: None, "stat"
        )
        checked = self.run_until(checking)
        self.assertEqual({each.state for each in checked.shares}, {"unreachable"})


class Renewing(StoredCase):
    def renew(self) -> Any:
        return self.run_until(
            self.client.renew(self.stored.manifest, self.stored.document, self.crowd.find)
        )

    def test_all_leases_are_given_anew(self) -> None:
        for each in self.crowd.peers:
            for kept in each.peer.shares.values():
                kept.leases = dict.fromkeys(kept.leases, NOW + 5)
        renewed = self.renew()
        self.assertEqual(renewed.problems, ())
        self.assertEqual(renewed.document.version, 2)
        for placed in renewed.document.shares:
            self.assertEqual(placed.lease_end, NOW + LEASE_SECONDS)
        for each in self.crowd.peers:
            for kept in each.peer.shares.values():
                self.assertEqual(list(kept.leases.values()), [NOW + LEASE_SECONDS])
        placement = self.stored.manifest.header.placement
        self.assertEqual(PlacementDocument.open(renewed.signed, placement), renewed.document)
        self.stored.document.check_successor(renewed.document)

    def test_those_that_do_not_are_named_and_keep_their_place(self) -> None:
        self.by_share[0].rule = refuse(ConnectionRefusedError(), "renew")
        self.by_share[1].rule = hang("renew")

        def short(name: str, peer: Any, args: Any) -> Any:
            if name != "renew":
                return None
            receipt = Receipt.open(peer.renew(*args).result, peer.key)
            return succeed(evolve(receipt, lease_end=NOW + 3).sign(peer.identity))

        self.by_share[2].rule = short
        renewed = self.renew()
        self.assertEqual([each.share for each in renewed.problems], [0, 1, 2])
        self.assertEqual([each.lied for each in renewed.problems], [False, False, True])
        self.assertEqual(renewed.document.shares[0], self.stored.document.shares[0])

    def test_who_has_another_secret_may_not(self) -> None:
        self.client = StorageClient(
            b"t" * 32,
            reactor=self.clock,
            workers=self.workers,
            rng=None,  # type: ignore[arg-type]
            wall_clock=lambda: 0,
        )
        self.assertRaises(ObjectKeyWrong, self.renew)


class Deleting(StoredCase):
    def delete(self) -> Any:
        return self.run_until(
            self.client.delete(self.stored.manifest, self.stored.document, self.crowd.find)
        )

    def test_nothing_of_it_is_left(self) -> None:
        deleted = self.delete()
        self.assertTrue(self.crowd.untouched)
        self.assertEqual(deleted.problems, ())
        self.assertEqual(deleted.document.status, "deleted")
        placement = self.stored.manifest.header.placement
        self.assertEqual(PlacementDocument.open(deleted.signed, placement), deleted.document)

    def test_those_that_could_not_be_told_are_named(self) -> None:
        self.by_share[3].rule = refuse(ConnectionRefusedError(), "release")
        self.by_share[4].rule = hang("release")
        self.by_share[5].peer.shares.clear()
        deleted = self.delete()
        self.assertEqual([each.share for each in deleted.problems], [3, 4])
        self.assertEqual(self.crowd.kept, 2)
        # Later they can.
        self.by_share[3].rule = self.by_share[4].rule = None
        self.assertEqual(self.delete().problems, ())
        self.assertTrue(self.crowd.untouched)
