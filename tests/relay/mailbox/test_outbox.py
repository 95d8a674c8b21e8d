"""What a sender has to leave at relays, on its disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import KeyReused, MailboxFull, NotFound, StorageFailed
from meshkit.identity.keys import Identity, PublicKey
from meshkit.relay.mailbox import outbox
from meshkit.relay.mailbox.outbox import (
    COPYING,
    Copy,
    Draft,
    Posted,
    enough,
    expire_posted,
    forget_posted,
    know_prekey,
    known_prekey,
    left,
    list_posted,
    next_expiry,
    not_left,
    outgoing,
    post,
    recipients_waited_for,
    seal_posted,
    waiting_count,
)
from meshkit.relay.mailbox.prekeys import ROTATED, PrekeyRing
from meshkit.relay.mailbox.receipts import MailboxReceipt
from meshkit.relay.mailbox.sealing import digest_of
from meshkit.testing.identities import make_identity
from tests.relay.mailbox.letters import ADA, BOB, DAY, MALLORY, NOW, PREKEY, RELAY, RING
from tests.relay.mailbox.machines import Machine


def draft(number: int = 1, **changed: Any) -> Draft:
    fields: dict[str, Any] = {
        "id": number.to_bytes(16, "big"),
        "recipient": BOB.public,
        "created": NOW,
        "expires": NOW + DAY,
        "body": b"letter %d" % number,
    }
    return Draft(**{**fields, **changed})


class OutboxCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.addCleanup(self.machine.stop)

    def write(self, job: Callable[..., Any], *args: Any) -> Any:
        return self.machine.wait(self.machine.database.write(lambda db: job(db, *args)))

    def read(self, job: Callable[..., Any], *args: Any) -> Any:
        return self.machine.wait(self.machine.database.read(lambda db: job(db, *args)))

    def post(self, number: int = 1, **changed: Any) -> Posted:
        found: Posted = self.write(post, draft(number, **changed))
        return found

    def raw(self, column: str, number: int = 1) -> Any:
        def job(db: sqlite3.Connection) -> Any:
            return db.execute(
                f"SELECT {column} FROM mailbox_outbox WHERE number = ?", (number,)
            ).fetchone()[0]

        return self.read(job)

    def leave(
        self,
        number: int,
        sealed: bytes = bytes(256),
        until: int = NOW + DAY,
        *,
        at: Identity = RELAY,
        now: int = NOW,
        more: bool = False,
    ) -> bytes:
        """@return: the relay's receipt."""
        receipt = MailboxReceipt(at.public, BOB.public, digest_of(sealed), len(sealed), NOW, until)
        raw = receipt.sign(at)
        self.write(left, number, MailboxReceipt.open(raw, at.public), now, more)
        return raw

    def numbers(self, waiting: bool = False) -> list[int]:
        return [each.number for each in self.read(list_posted, 0, 1000, waiting)]


class PostTests(OutboxCase):
    def test_what_was_taken_over_is_there_after_a_crash(self) -> None:
        posted = self.post(hint=("net:relay.example:7661~shs:x", True))
        self.assertEqual((posted.state, posted.size, posted.forward_secret), ("waiting", 8, None))
        self.machine.crash()
        self.assertEqual(self.read(recipients_waited_for), [BOB.public])
        item = self.read(outgoing, BOB.public, NOW)
        self.assertEqual((item.id, item.body, item.sealed), (posted.id, b"letter 1", None))
        self.assertEqual(item.hint, ("net:relay.example:7661~shs:x", True))

    def test_nobody_is_told_so_if_the_disk_refuses(self) -> None:
        self.machine.backing.fail("COMMIT", sqlite3.SQLITE_FULL)
        with self.assertRaises(StorageFailed):
            self.post()
        self.machine.backing.mend()
        self.assertEqual(self.numbers(), [])

    def test_once_it_is_sealed_its_body_is_gone(self) -> None:
        self.post()
        self.write(seal_posted, 1, b"sealed", True)
        self.machine.crash()
        item = self.read(outgoing, BOB.public, NOW)
        self.assertEqual((item.body, item.sealed), (None, b"sealed"))
        self.assertIsNone(self.raw("body"))

    def test_once_a_relay_has_it_the_receipt_is_what_is_kept(self) -> None:
        self.post()
        self.write(seal_posted, 1, b"sealed", False)
        self.write(not_left, 1, "because")
        raw = self.leave(1)
        self.machine.crash()
        (posted,) = self.read(list_posted, 0, 10, False)
        self.assertEqual((posted.state, posted.receipt, posted.relay), ("kept", raw, RELAY.public))
        self.assertEqual((posted.taken, posted.until), (NOW, NOW + DAY))
        self.assertEqual((posted.attempts, posted.error, posted.forward_secret), (1, None, False))
        self.assertEqual((self.raw("body"), self.raw("sealed")), (None, None))
        self.assertIsNone(self.read(outgoing, BOB.public, NOW))
        self.assertEqual(self.read(waiting_count), 0)

    def test_they_go_in_the_order_in_which_they_came(self) -> None:
        for number in (1, 2, 3):
            self.post(number, recipient=(BOB if number != 2 else MALLORY).public)
        self.assertEqual(self.read(recipients_waited_for), [BOB.public, MALLORY.public])
        self.assertEqual(self.read(outgoing, BOB.public, NOW).number, 1)
        self.assertEqual(self.read(outgoing, BOB.public, NOW, 1).number, 3)
        self.assertIsNone(self.read(outgoing, BOB.public, NOW, 3))

    def test_what_is_too_late_is_given_up_and_not_offered_before_that(self) -> None:
        self.post(1)
        self.post(2, expires=NOW + 2 * DAY)
        self.assertEqual(self.read(next_expiry), NOW + DAY)
        self.assertEqual(self.read(outgoing, BOB.public, NOW + DAY).number, 2)
        self.assertEqual(self.write(expire_posted, NOW + DAY), 1)
        one, two = self.read(list_posted, 0, 10, False)
        self.assertEqual((one.state, two.state), ("given up", "waiting"))
        self.assertIsNone(self.raw("body", 1))
        # A receipt that comes then, as from an answer that was under way, changes nothing.
        self.leave(1)
        self.assertEqual(self.read(list_posted, 0, 10, False)[0].state, "given up")

    def test_what_is_forgotten_is_gone(self) -> None:
        posted = self.post()
        self.assertEqual(self.write(forget_posted, posted.id).id, posted.id)
        self.assertEqual(self.numbers(), [])
        with self.assertRaises(NotFound):
            self.write(forget_posted, posted.id)
        self.leave(1)
        self.assertEqual(self.numbers(), [])

    def test_a_list_has_pages(self) -> None:
        for number in range(1, 6):
            self.post(number)
        self.leave(2)
        self.assertEqual(self.numbers(waiting=True), [1, 3, 4, 5])
        self.assertEqual([p.number for p in self.read(list_posted, 2, 2, False)], [3, 4])

    def test_why_it_was_not_left_is_cut_short(self) -> None:
        self.post()
        self.write(not_left, 1, "x" * 10_000)
        self.assertEqual(len(self.raw("error")), outbox.MAX_ERROR)


class KeyTests(OutboxCase):
    def test_the_same_is_sent_once(self) -> None:
        first = self.post(1, key="k")
        # Another id and a later time are of the second try.
        again = self.post(2, key="k", body=b"letter 1", created=NOW + 9, expires=NOW + 9 + DAY)
        self.assertEqual((again.number, again.id), (first.number, first.id))
        self.assertEqual(self.numbers(), [1])

    def test_another_message_with_the_key_is_refused(self) -> None:
        self.post(1, key="k")
        for changed in (
            {"body": b"another"},
            {"recipient": MALLORY.public},
            {"expires": NOW + DAY + 1},
            {"hint": ("net:a:1~shs:b", False)},
        ):
            with self.assertRaises(KeyReused):
                self.post(2, key="k", **{"body": b"letter 1", **changed})
        self.assertEqual(self.numbers(), [1])

    def test_what_is_kept_of_a_request_tells_nobody_who_has_not_its_key(self) -> None:
        self.post(1, key="k")
        self.post(2, key="l", body=b"letter 1")
        self.assertNotEqual(self.raw("asked", 1), self.raw("asked", 2))


class CopyTests(OutboxCase):
    """What a relay has, and another one is to have as well."""

    def setUp(self) -> None:
        super().setUp()
        self.post()
        self.write(seal_posted, 1, b"sealed", True)

    def test_it_is_kept_and_still_to_be_left_elsewhere(self) -> None:
        self.leave(1, more=True)
        self.machine.crash()
        self.assertEqual(self.read(recipients_waited_for), [BOB.public])
        item = self.read(outgoing, BOB.public, NOW)
        self.assertEqual((item.sealed, item.has), (b"sealed", (RELAY.public,)))
        (posted,) = self.read(list_posted, 0, 10, False)
        self.assertEqual((posted.state, posted.relay, posted.copies), ("kept", RELAY.public, ()))
        self.assertEqual(self.read(waiting_count), 0)

    def test_all_receipts_are_kept_each_once(self) -> None:
        first = self.leave(1, more=True)
        second = self.leave(1, at=MALLORY, more=True)
        self.leave(1, at=MALLORY, until=NOW + 1)
        (posted,) = self.read(list_posted, 0, 10, False)
        self.assertEqual((posted.relay, posted.receipt), (RELAY.public, first))
        self.assertEqual(posted.copies, (Copy(MALLORY.public, NOW + DAY, second),))
        self.assertIsNone(self.raw("sealed"))
        self.assertIsNone(self.read(outgoing, BOB.public, NOW))

    def test_it_is_given_up_after_an_hour_and_is_kept_all_the_same(self) -> None:
        self.leave(1, more=True)
        self.assertEqual(self.read(next_expiry), NOW + COPYING)
        self.assertEqual(self.write(expire_posted, NOW + COPYING - 1), 0)
        self.assertEqual(self.raw("sealed"), b"sealed")
        self.assertEqual(self.write(expire_posted, NOW + COPYING), 0)
        self.assertIsNone(self.raw("sealed"))
        self.assertEqual([each.state for each in self.read(list_posted, 0, 10, False)], ["kept"])
        self.assertIsNone(self.read(next_expiry))

    def test_it_is_not_left_elsewhere_when_its_time_is_over(self) -> None:
        self.post(2, expires=NOW + 60)
        self.write(seal_posted, 2, b"sealed", True)
        self.leave(2, more=True)
        self.assertEqual(self.read(next_expiry), NOW + 60)
        self.write(expire_posted, NOW + 60)
        self.assertIsNone(self.raw("sealed", 2))

    def test_enough_is_enough_and_ends_nothing_that_waits(self) -> None:
        self.write(enough, 1)
        self.assertEqual(self.raw("sealed"), b"sealed")
        self.leave(1, more=True)
        self.write(enough, 1)
        self.assertIsNone(self.raw("sealed"))

    def test_so_many_are_left_elsewhere_and_the_oldest_are_not(self) -> None:
        self.patch(outbox, "MAX_COPYING", 2)
        for number in (2, 3, 4):
            self.post(number)
            self.write(seal_posted, number, b"sealed", True)
        for number in (1, 2, 3):
            self.leave(number, more=True)
        kept = [self.raw("sealed", number) for number in (1, 2, 3, 4)]
        # The last one waits for its first relay.
        self.assertEqual(kept, [None, b"sealed", b"sealed", b"sealed"])


class BoundsTests(OutboxCase):
    def test_so_many_may_be_on_their_way(self) -> None:
        self.patch(outbox, "MAX_WAITING", 3)
        for number in range(1, 4):
            self.post(number)
        with self.assertRaisesRegex(MailboxFull, "3 messages"):
            self.post(4)
        self.leave(1)
        self.post(4)

    def test_so_many_bytes_may_be_on_their_way(self) -> None:
        self.patch(outbox, "WAITING_BYTES", 20)
        self.post(1, body=bytes(10))
        self.post(2, body=bytes(10))
        with self.assertRaisesRegex(MailboxFull, "of 20 bytes"):
            self.post(3, body=b"x")

    def test_the_oldest_of_those_that_have_ended_are_forgotten(self) -> None:
        self.patch(outbox, "MAX_ENDED", 2)
        for number in range(1, 6):
            self.post(number)
        for number in (2, 3, 4, 5):
            self.leave(number)
        # What is on its way is not.
        self.assertEqual(self.numbers(), [1, 4, 5])

    def test_who_was_not_heard_of_for_longest_is_forgotten(self) -> None:
        self.patch(outbox, "MAX_KNOWN", 2)
        people = [make_identity(f"person {n}") for n in range(3)]
        for seconds, person in enumerate(people):
            prekey = PrekeyRing().turned(NOW, Random(seconds)).sign(person)
            self.write(know_prekey, prekey, NOW + seconds)
        known = [self.read(known_prekey, each.public) is not None for each in people]
        self.assertEqual(known, [False, True, True])


class KnownTests(OutboxCase):
    def test_the_latest_counts_in_whatever_order_they_come(self) -> None:
        later = RING.turned(NOW + ROTATED, Random(1)).sign(BOB)
        for prekey in (PREKEY, later, PREKEY):
            self.write(know_prekey, prekey, NOW)
        self.assertEqual(self.read(known_prekey, BOB.public), (later, NOW))
        self.assertIsNone(self.read(known_prekey, ADA.public))

    def test_one_that_is_damaged_is_as_good_as_none(self) -> None:
        self.write(know_prekey, PREKEY, NOW)

        def damage(db: sqlite3.Connection) -> None:
            db.execute("UPDATE mailbox_known SET prekey = x'00'")

        self.write(damage)
        self.assertIsNone(self.read(known_prekey, BOB.public))
        self.write(know_prekey, PREKEY, NOW)
        self.assertEqual(self.read(known_prekey, BOB.public), (PREKEY, NOW))

    def test_its_owner_has_to_be_asked_for(self) -> None:
        self.assertIsNone(self.read(known_prekey, PublicKey(bytes(32))))
