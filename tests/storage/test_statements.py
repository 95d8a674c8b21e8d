"""What storage peers say is read as it was signed, or refused."""

from __future__ import annotations

from hashlib import sha256

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import StatementInvalid, StatementStale
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import Identity
from meshkit.storage.statements import (
    MAX_RECORD_SECONDS,
    MAX_SKEW,
    MAX_STATEMENT,
    Receipt,
    StorageRecord,
    peers_content,
)
from meshkit.storage.terms import lease_hash

PEER = Identity(b"p" * 32)
OTHER = Identity(b"o" * 32)

RECORD = StorageRecord(
    PEER.public,
    b"n" * 16,
    sequence=7,
    issued=1_000,
    expires=1_030,
    addresses=(HostPort("192.0.2.1", 7670),),
    capacity=1_000,
    reserved=100,
    headroom=200,
    used=0,
    domain="rack-1",
)
RECEIPT = Receipt(PEER.public, b"s" * 32, b"r" * 32, 4_096, lease_hash(b"l" * 32), 9_000, 1_000)


class ContentTests(SynchronousTestCase):
    def test_the_peers_of_one_network_are_found_by_one_content_and_those_of_others_are_not(
        self,
    ) -> None:
        self.assertEqual(
            peers_content(b"n" * 16), sha256(b"meshkit/storage-peers/1" + b"n" * 16).digest()
        )
        self.assertNotEqual(peers_content(b"n" * 16), peers_content(b"m" * 16))


class RecordTests(SynchronousTestCase):
    def test_a_record_is_read_as_it_was_signed(self) -> None:
        self.assertEqual(StorageRecord.open(RECORD.sign(PEER), PEER.public), RECORD)

    def test_room_is_what_is_not_reserved_and_repair_may_use_the_headroom(self) -> None:
        self.assertEqual((RECORD.free, RECORD.free_for_repair), (700, 900))
        full = evolve(RECORD, used=850)
        self.assertEqual((full.free, full.free_for_repair), (0, 50))

    def test_a_record_under_another_key_is_refused(self) -> None:
        with self.assertRaisesRegex(StatementInvalid, "signed by"):
            StorageRecord.open(RECORD.sign(OTHER), PEER.public)

    def test_a_record_holds_until_the_second_in_which_it_expires(self) -> None:
        RECORD.check_time(1_029)
        self.assertRaises(StatementStale, RECORD.check_time, 1_030)

    def test_a_record_from_the_future_is_refused(self) -> None:
        RECORD.check_time(1_000 - MAX_SKEW)
        self.assertRaises(StatementInvalid, RECORD.check_time, 1_000 - MAX_SKEW - 1)

    def test_a_record_that_would_hold_for_ever_is_none(self) -> None:
        raw = evolve(RECORD, expires=1_000 + MAX_RECORD_SECONDS).sign(PEER)
        StorageRecord.open(raw)
        self.assertRaises(ValueError, evolve, RECORD, expires=1_001 + MAX_RECORD_SECONDS)
        self.assertRaises(ValueError, evolve, RECORD, expires=1_000)

    def test_nobody_is_reached_at_a_wildcard(self) -> None:
        for host in ("0.0.0.0", "::"):
            self.assertRaises(ValueError, evolve, RECORD, addresses=(HostPort(host, 7670),))

    def test_more_cannot_be_reserved_than_there_is(self) -> None:
        self.assertRaises(ValueError, evolve, RECORD, reserved=801)

    def test_who_leaves_says_so_and_takes_nothing(self) -> None:
        leaving = evolve(RECORD, accepts=False, leaving=True)
        self.assertEqual(StorageRecord.open(leaving.sign(PEER)), leaving)
        self.assertRaises(ValueError, evolve, RECORD, leaving=True)

    def test_a_domain_is_a_short_name(self) -> None:
        for domain in ("", " a", "a\n", "x" * 65):
            self.assertRaises(ValueError, evolve, RECORD, domain=domain)

    @given(st.data())
    def test_a_byte_that_was_changed_is_seen(self, data: st.DataObject) -> None:
        raw = bytearray(RECORD.sign(PEER))
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        self.assertRaises(StatementInvalid, StorageRecord.open, bytes(raw), PEER.public)

    def test_every_truncation_is_refused(self) -> None:
        raw = RECORD.sign(PEER)
        for end in range(len(raw)):
            self.assertRaises(StatementInvalid, StorageRecord.open, raw[:end])

    def test_what_is_too_long_is_not_looked_at(self) -> None:
        self.assertRaises(StatementInvalid, StorageRecord.open, bytes(MAX_STATEMENT + 1))


class ReceiptTests(SynchronousTestCase):
    def test_a_receipt_is_read_as_it_was_signed(self) -> None:
        self.assertEqual(Receipt.open(RECEIPT.sign(PEER), PEER.public), RECEIPT)

    def test_a_receipt_of_somebody_else_is_refused(self) -> None:
        self.assertRaises(StatementInvalid, Receipt.open, RECEIPT.sign(OTHER), PEER.public)

    def test_a_record_is_no_receipt(self) -> None:
        self.assertRaises(StatementInvalid, Receipt.open, RECORD.sign(PEER), PEER.public)

    def test_a_receipt_is_about_one_share_and_lease(self) -> None:
        right = (RECEIPT.share, RECEIPT.root, RECEIPT.size, RECEIPT.lease)
        RECEIPT.check(*right)
        for at, wrong in enumerate((b"x" * 32, b"x" * 32, 4_097, b"x" * 32)):
            changed = (*right[:at], wrong, *right[at + 1 :])
            self.assertRaises(StatementInvalid, RECEIPT.check, *changed)
