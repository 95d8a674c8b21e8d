"""Receipts of relays, and what is taken for one."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MailboxReceiptInvalid
from meshkit.identity.contexts import MAILBOX_PREKEY, MAILBOX_RECEIPT
from meshkit.identity.envelope import Envelope
from meshkit.relay.mailbox.prekeys import MAX_SKEW, MAX_TTL
from meshkit.relay.mailbox.receipts import MAX_RECEIPT, MailboxReceipt
from meshkit.relay.mailbox.sealing import MAX_SEALED, digest_of
from tests.relay.mailbox.letters import BOB, DAY, MALLORY, NOW, RELAY, letter

SEALED = letter()
RECEIPT = MailboxReceipt(RELAY.public, BOB.public, digest_of(SEALED), len(SEALED), NOW, NOW + DAY)
RAW = RECEIPT.sign(RELAY)


def statement(**changed: Any) -> bytes:
    fields = {
        "recipient": BOB.public.raw,
        "digest": digest_of(SEALED),
        "size": len(SEALED),
        "taken": NOW,
        "until": NOW + DAY,
    }
    payload = msgspec.msgpack.encode(list({**fields, **changed}.values()))
    return Envelope.seal(RELAY, MAILBOX_RECEIPT, payload).raw


class ReceiptTests(SynchronousTestCase):
    def refused(self, raw: bytes, why: str) -> None:
        with self.assertRaisesRegex(MailboxReceiptInvalid, why):
            MailboxReceipt.open(raw, RELAY.public)

    def test_it_says_what_the_document_says(self) -> None:
        self.assertEqual(statement(), RAW)
        self.assertEqual(MailboxReceipt.open(RAW, RELAY.public), RECEIPT)
        RECEIPT.check(BOB.public, SEALED, NOW, DAY)

    def test_the_largest_is_within_the_limit(self) -> None:
        far = 2**63 - 1
        receipt = attrs.evolve(RECEIPT, size=MAX_SEALED, taken=far - 1, until=far)
        raw = receipt.sign(RELAY)
        self.assertLessEqual(len(raw), MAX_RECEIPT)
        self.assertEqual(MailboxReceipt.open(raw, RELAY.public), receipt)
        self.refused(bytes(MAX_RECEIPT + 1), "over the limit")

    def test_one_that_the_relay_has_not_signed_is_refused(self) -> None:
        self.refused(RECEIPT.sign(MALLORY), "and not by")
        payload = Envelope.open(RAW, MAILBOX_RECEIPT).payload
        self.refused(Envelope.seal(RELAY, MAILBOX_PREKEY, payload).raw, "mailbox-prekey/1")

    def test_a_changed_bit_is_refused_wherever_it_is(self) -> None:
        for at in range(len(RAW)):
            changed = bytearray(RAW)
            changed[at] ^= 1
            self.refused(bytes(changed), "")
            self.refused(RAW[:at], "")

    def test_what_cannot_be_is_refused(self) -> None:
        for changed in (
            {"recipient": bytes(31)},
            {"digest": bytes(31)},
            {"size": MAX_SEALED + 1},
            {"taken": -1},
            {"until": None},
            {"more": 1},
        ):
            self.refused(statement(**changed), "cannot be used")
        payload = Envelope.open(RAW, MAILBOX_RECEIPT).payload
        longer = payload.replace(b"\xcd\x01\x00", b"\xce\x00\x00\x01\x00")
        self.assertNotEqual(longer, payload)
        self.refused(Envelope.seal(RELAY, MAILBOX_RECEIPT, longer).raw, "shortest")

    def test_one_for_another_message_or_person_is_none_for_this(self) -> None:
        for changed in ({"digest": bytes(32)}, {"recipient": MALLORY.public}, {"size": 512}):
            with self.assertRaisesRegex(MailboxReceiptInvalid, "another message"):
                attrs.evolve(RECEIPT, **changed).check(BOB.public, SEALED, NOW, DAY)

    def test_one_that_promises_nothing_is_none(self) -> None:
        for taken, until in (
            (NOW, NOW),
            (NOW + 5, NOW + 5),
            (NOW - DAY, NOW),
            (NOW + MAX_SKEW + 1, NOW + DAY),
        ):
            with self.assertRaisesRegex(MailboxReceiptInvalid, "promises nothing"):
                attrs.evolve(RECEIPT, taken=taken, until=until).check(BOB.public, SEALED, NOW, 1)
        with self.assertRaisesRegex(MailboxReceiptInvalid, "more than"):
            attrs.evolve(RECEIPT, until=NOW + MAX_TTL + 1).check(BOB.public, SEALED, NOW, DAY)

    def test_that_of_an_earlier_try_holds(self) -> None:
        earlier = attrs.evolve(RECEIPT, taken=NOW - DAY, until=NOW + 1)
        earlier.check(BOB.public, SEALED, NOW, DAY + 1)
        attrs.evolve(RECEIPT, taken=NOW + MAX_SKEW).check(BOB.public, SEALED, NOW, DAY)

    def test_one_that_promises_less_than_was_asked_for_is_none(self) -> None:
        for taken in (NOW, NOW - 3_600, NOW + MAX_SKEW):
            least = min(taken, NOW) + DAY - MAX_SKEW
            attrs.evolve(RECEIPT, taken=taken, until=least).check(BOB.public, SEALED, NOW, DAY)
            with self.assertRaisesRegex(MailboxReceiptInvalid, "less than"):
                short = attrs.evolve(RECEIPT, taken=taken, until=least - 1)
                short.check(BOB.public, SEALED, NOW, DAY)
        # Nobody keeps anything for longer than a relay may.
        most = attrs.evolve(RECEIPT, until=NOW + MAX_TTL)
        most.check(BOB.public, SEALED, NOW, 2 * MAX_TTL)
