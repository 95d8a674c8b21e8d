"""Receipts of audits are kept, those of failures longest, and never more than there is room for."""

from __future__ import annotations

import sqlite3
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import receipts
from meshkit.audit.receipts import KeptReceipt, Receipts, keep, list_receipts
from meshkit.audit.schema import MIGRATIONS
from meshkit.errors import NotFound, StorageFailed
from meshkit.identity.keys import PublicKey
from meshkit.testing.identities import make_identity
from tests.audit.machines import Machine

NOW = 1_800_000_000
PEERS = [make_identity(number).public for number in range(4)]
HERON, EGRET = PEERS[:2]


def audit(number: int) -> bytes:
    return number.to_bytes(16, "big")


class ReceiptsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.machine.start()
        self.addCleanup(self.machine.stop)

    def kept(self, **limits: int) -> Receipts:
        return Receipts(self.machine.database, **limits)

    def fill(self, kept: Receipts, numbers: range, peer: PublicKey = HERON, **counts: int) -> None:
        for number in numbers:
            body = b"receipt %d" % number
            self.machine.wait(kept.keep(audit(number), peer, NOW + number, counts, body))

    def numbers(self, kept: Receipts, peer: PublicKey | None = None) -> list[int]:
        found = self.machine.wait(kept.list(1_000, peer))
        return [int.from_bytes(each.audit_id, "big") for each in found]

    def test_a_receipt_is_there_as_it_was_given_after_any_end_of_the_process(self) -> None:
        counts = {"success": 3, "failure": 1, "unknown": 0}
        self.machine.wait(self.kept().keep(audit(1), HERON, NOW, counts, b"signed"))
        self.machine.crash()
        self.assertEqual(self.machine.wait(self.kept().find(audit(1))), b"signed")
        wanted = KeptReceipt(audit(1), HERON, NOW, {"failure": 1, "success": 3}, 6)
        self.assertEqual(self.machine.wait(self.kept().list(9)), [wanted])
        self.assertTrue(wanted.failed)
        with self.assertRaisesRegex(NotFound, audit(2).hex()):
            self.machine.wait(self.kept().find(audit(2)))

    def test_nobody_is_told_that_it_is_kept_before_it_is(self) -> None:
        self.machine.backing.fail("COMMIT", sqlite3.SQLITE_FULL)
        with self.assertRaises(StorageFailed):
            self.fill(self.kept(), range(1), success=1)

    def test_the_latest_come_first_and_those_of_one_peer_can_be_asked_for(self) -> None:
        kept = self.kept()
        self.fill(kept, range(4), success=1)
        self.fill(kept, range(4, 7), EGRET, success=1)
        self.assertEqual(self.numbers(kept), [6, 5, 4, 3, 2, 1, 0])
        self.assertEqual(self.numbers(kept, EGRET), [6, 5, 4])
        self.assertEqual(len(self.machine.wait(kept.list(2))), 2)

    def test_the_one_of_an_audit_that_was_answered_in_the_end_takes_the_place(self) -> None:
        kept = self.kept()
        self.fill(kept, range(2), contained=1)
        self.fill(kept, range(1), success=1)
        self.assertEqual(self.numbers(kept), [0, 1])
        self.assertEqual(self.machine.wait(kept.list(1))[0].outcomes, {"success": 1})

    def test_beyond_the_number_the_oldest_that_found_all_well_goes(self) -> None:
        kept = self.kept(limit=5)
        self.fill(kept, range(2), failure=1)
        self.fill(kept, range(2, 7), success=1)
        self.assertEqual(self.numbers(kept), [6, 5, 4, 1, 0])
        self.fill(kept, range(7, 10), unknown=1)
        self.assertEqual(self.numbers(kept), [9, 8, 7, 1, 0])

    def test_and_failures_only_when_there_are_no_others(self) -> None:
        kept = self.kept(limit=3)
        self.fill(kept, range(2), success=1)
        self.fill(kept, range(2, 6), failure=1)
        self.assertEqual(self.numbers(kept), [5, 4, 3])
        # One that found all well is the first to go, even at once.
        self.fill(kept, range(6, 7), success=1)
        self.assertEqual(self.numbers(kept), [5, 4, 3])

    def test_there_is_room_for_so_many_bytes(self) -> None:
        kept = self.kept(limit_bytes=100)
        for number in range(4):
            self.machine.wait(
                kept.keep(audit(number), HERON, NOW, {"success": 1}, bytes(25 * (number + 1)))
            )
        self.assertEqual(self.numbers(kept), [3])
        self.machine.wait(kept.keep(audit(9), HERON, NOW, {"failure": 1}, bytes(101)))
        self.assertEqual(self.numbers(kept), [])

    def test_no_peer_washes_away_what_others_did(self) -> None:
        kept = self.kept(limit=20, limit_failed=5)
        self.fill(kept, range(3), EGRET, failure=1)
        self.fill(kept, range(3, 50), HERON, failure=1)
        self.assertEqual(self.numbers(kept, EGRET), [2, 1, 0])
        self.assertEqual(self.numbers(kept, HERON), [49, 48, 47, 46, 45])

    def test_the_limits_are_those_that_are_documented(self) -> None:
        self.assertEqual(
            (receipts.MAX_RECEIPTS, receipts.MAX_BYTES, receipts.MAX_FAILED_EACH),
            (10_000, 256 * 2**20, 100),
        )


class LimitTests(SynchronousTestCase):
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 15), st.sampled_from(PEERS), st.booleans(), st.integers(0, 40)
            ),
            max_size=40,
        )
    )
    def test_whatever_comes_the_limits_hold_and_no_failure_goes_before_what_was_well(
        self, given_ones: list[Any]
    ) -> None:
        db = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(db.close)
        db.executescript(MIGRATIONS[0])
        for number, peer, failed, size in given_ones:
            receipt = KeptReceipt(
                audit(number), peer, NOW, {"failure" if failed else "success": 1}, size
            )
            before = {each.audit_id: each for each in list_receipts(db, 99)}
            keep(db, receipt, bytes(size), limit=8, limit_bytes=150, limit_failed=3)
            after = {each.audit_id: each for each in list_receipts(db, 99)}
            self.assertLessEqual(len(after), 8)
            self.assertLessEqual(sum(each.size for each in after.values()), 150)
            for each in PEERS:
                mine = [kept for kept in after.values() if kept.failed and kept.peer == each]
                self.assertLessEqual(len(mine), 3)
            gone = [each for name, each in before.items() if name not in after]
            others = [each for each in gone if each.failed and each.peer != peer]
            if others:
                self.assertTrue(all(each.failed for each in after.values()))
