"""The mailboxes of a relay: what is kept, for how long, and how much of it."""

from __future__ import annotations

import contextlib
import sqlite3
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MailboxFull, MailboxUnknown, StorageFailed
from meshkit.identity.keys import Identity, PublicKey
from meshkit.relay.mailbox import store
from meshkit.relay.mailbox.prekeys import MAX_TTL, ROTATED, Prekey, PrekeyRing
from meshkit.relay.mailbox.receipts import MailboxReceipt
from meshkit.relay.mailbox.schema import RELAY_MIGRATIONS
from meshkit.relay.mailbox.sealing import MAX_SEALED, digest_of
from meshkit.relay.mailbox.store import (
    MAX_FETCHED,
    REMEMBERED,
    MailboxKept,
    MailboxLimits,
    MailboxStore,
    MailboxTotals,
)
from meshkit.relay.mailbox.wire import MAX_PAGE, PAGE_BYTES
from meshkit.testing.identities import make_identity
from tests.relay.mailbox.letters import ADA, BOB, DAY, MALLORY, NOW, PREKEY, RELAY, RING
from tests.relay.mailbox.machines import Machine

#: From where everybody comes who does not say otherwise.
HOST = "192.0.2.1"


def sealed(number: int, size: int = 256) -> bytes:
    """What a relay takes for a message: it cannot tell."""
    return number.to_bytes(8, "big").ljust(size, b"\0")


def prekey_of(owner: Identity, made: int = NOW) -> Prekey:
    return PrekeyRing().turned(made, Random(f"{owner}")).sign(owner)


class Relay(Machine):
    """@ivar store: of the process that runs now."""

    def __init__(self, **limits: int) -> None:
        self._limits = MailboxLimits(**limits)
        super().__init__()

    @property
    def store(self) -> MailboxStore:
        return MailboxStore(self.database, RELAY.public, self._limits)

    def open(self, owner: Identity = BOB, now: int = NOW, origin: str = HOST) -> int:
        found: int = self.wait(self.store.open(prekey_of(owner, now), origin))
        return found

    def put(
        self,
        number: int,
        sender: PublicKey = ADA.public,
        recipient: PublicKey = BOB.public,
        now: int = NOW,
        ttl: int = DAY,
        size: int = 256,
        origin: str = HOST,
    ) -> MailboxReceipt:
        found: MailboxReceipt = self.wait(
            self.store.deposit(sender, origin, recipient, sealed(number, size), now, ttl)
        )
        return found

    def numbers(self, now: int = NOW, recipient: PublicKey = BOB.public) -> list[int]:
        """@return: all that waits, page by page."""
        found: list[int] = []
        after, more = 0, True
        while more:
            page = self.wait(self.store.fetch(recipient, after, now))
            found += [int.from_bytes(each.sealed[:8], "big") for each in page.messages]
            more = page.more
            after = page.messages[-1].number if page.messages else after
        return found

    def acknowledge(self, *numbers: int, recipient: PublicKey = BOB.public) -> int:
        found: int = self.wait(
            self.store.acknowledge(recipient, [digest_of(sealed(each)) for each in numbers])
        )
        return found

    def sweep(self, now: int) -> None:
        self.wait(Deferred.fromCoroutine(self.store.sweep(now)))

    def totals(self) -> MailboxTotals:
        found: MailboxTotals = self.wait(self.store.totals())
        return found


class RelayTestCase(SynchronousTestCase):
    def relay(self, **limits: int) -> Relay:
        relay = Relay(**limits)
        self.addCleanup(relay.stop)
        return relay

    def refused(self, why: str, relay: Relay, number: int, *args: Any, **named: Any) -> None:
        before = relay.totals()
        with self.assertRaisesRegex(MailboxFull, why):
            relay.put(number, *args, **named)
        self.assertEqual(relay.totals(), before)


class MailboxTests(RelayTestCase):
    def test_there_is_one_for_who_has_asked_for_it(self) -> None:
        relay = self.relay()
        with self.assertRaisesRegex(MailboxUnknown, BOB.public.base64[:8]):
            relay.put(1)
        self.assertEqual(relay.open(), NOW + 2 * MAX_TTL)
        relay.put(1)
        with self.assertRaises(MailboxUnknown):
            relay.put(1, recipient=MALLORY.public)
        self.assertEqual(relay.totals(), MailboxTotals(1, 1, 256))

    def test_it_hands_out_the_prekey_until_that_expires(self) -> None:
        relay = self.relay()
        self.assertEqual(relay.wait(relay.store.open(PREKEY, HOST)), NOW + 2 * MAX_TTL)
        for now, raw in ((NOW, PREKEY.raw), (NOW + MAX_TTL, None)):
            self.assertEqual(relay.wait(relay.store.prekey(BOB.public, now)), raw)
        for key, now in ((ADA.public, NOW), (BOB.public, NOW + 2 * MAX_TTL)):
            with self.assertRaises(MailboxUnknown):
                relay.wait(relay.store.prekey(key, now))

    def test_what_its_owner_says_last_counts(self) -> None:
        relay = self.relay()
        later = RING.turned(NOW + ROTATED, Random(1)).sign(BOB)
        # Also after its clock was set back.
        for prekey in (later, PREKEY):
            relay.wait(relay.store.open(prekey, HOST))
            self.assertEqual(relay.wait(relay.store.prekey(BOB.public, NOW)), prekey.raw)
        self.assertEqual(relay.totals().mailboxes, 1)

    def test_who_does_not_come_again_has_none_any_more(self) -> None:
        relay = self.relay()
        end = relay.open()
        relay.sweep(end - 1)
        self.assertEqual(relay.totals().mailboxes, 1)
        with self.assertRaises(MailboxUnknown):
            relay.put(1, now=end)
        relay.sweep(end)
        self.assertEqual(relay.totals().mailboxes, 0)

    def test_but_not_before_what_waits_there_was_promised_to_wait(self) -> None:
        relay = self.relay()
        end = relay.open()
        receipt = relay.put(1, now=end - 1)
        self.assertEqual(receipt.until, end - 1 + DAY)
        relay.sweep(receipt.until - 1)
        self.assertEqual(relay.numbers(receipt.until - 1), [1])
        relay.sweep(receipt.until)
        self.assertEqual(relay.totals(), MailboxTotals(0, 0, 0))

    def test_there_are_only_so_many(self) -> None:
        relay = self.relay(mailboxes=2)
        relay.open(ADA)
        relay.open(BOB)
        with self.assertRaisesRegex(MailboxFull, "2 mailboxes"):
            relay.open(MALLORY)
        relay.open(ADA, NOW + 1)
        self.assertEqual(relay.totals().mailboxes, 2)


class MessageTests(RelayTestCase):
    def setUp(self) -> None:
        self.bobs = self.relay()
        self.bobs.open()

    def test_a_receipt_is_for_what_is_on_the_disk(self) -> None:
        receipt = self.bobs.put(7)
        self.assertEqual(
            receipt,
            MailboxReceipt(RELAY.public, BOB.public, digest_of(sealed(7)), 256, NOW, NOW + DAY),
        )
        self.bobs.crash()
        self.assertEqual(self.bobs.numbers(), [7])

    def test_there_is_none_for_what_the_disk_has_refused(self) -> None:
        self.bobs.backing.fail("COMMIT", sqlite3.SQLITE_FULL)
        with self.assertRaises(StorageFailed):
            self.bobs.put(7)
        self.bobs.backing.mend()
        self.assertEqual(self.bobs.numbers(), [])

    def test_nothing_waits_longer_than_any_may(self) -> None:
        self.assertEqual(self.bobs.put(1, ttl=10**9).until, NOW + MAX_TTL)

    def test_the_same_again_is_kept_once_and_has_the_same_receipt(self) -> None:
        first = self.bobs.put(1)
        self.assertEqual(self.bobs.put(1, now=NOW + 9), first)
        # Whoever brings it.
        self.assertEqual(self.bobs.put(1, MALLORY.public, now=NOW + 9), first)
        self.assertEqual(self.bobs.numbers(), [1])

    def test_also_when_it_was_fetched_meanwhile(self) -> None:
        first = self.bobs.put(1)
        self.assertEqual(self.bobs.acknowledge(1), 1)
        self.assertEqual(self.bobs.put(1, now=NOW + 9), first)
        self.assertEqual(self.bobs.numbers(), [])
        self.bobs.crash()
        self.assertEqual(self.bobs.put(1, now=NOW + 9), first)

    def test_the_same_for_two_is_two(self) -> None:
        self.bobs.open(MALLORY)
        self.bobs.put(1)
        self.bobs.put(1, recipient=MALLORY.public)
        self.bobs.acknowledge(1, recipient=MALLORY.public)
        self.assertEqual(self.bobs.numbers(), [1])

    def test_who_acknowledges_what_is_somebody_elses_deletes_nothing(self) -> None:
        self.bobs.put(1)
        self.assertEqual(self.bobs.acknowledge(1, 2, recipient=MALLORY.public), 0)
        self.assertEqual(self.bobs.acknowledge(1, 1, 2), 1)

    def test_what_is_acknowledged_is_gone_and_stays_gone(self) -> None:
        for number in range(4):
            self.bobs.put(number)
        self.bobs.acknowledge(1, 3)
        self.bobs.crash()
        self.assertEqual(self.bobs.numbers(), [0, 2])
        self.assertEqual(self.bobs.totals(), MailboxTotals(1, 2, 512))

    def test_what_has_waited_long_enough_is_not_shown_and_is_swept_away(self) -> None:
        self.bobs.put(1, ttl=10)
        self.bobs.put(2, ttl=20)
        self.assertEqual(self.bobs.numbers(NOW + 9), [1, 2])
        self.assertEqual(self.bobs.numbers(NOW + 10), [2])
        self.bobs.sweep(NOW + 10)
        self.assertEqual(self.bobs.totals().messages, 1)

    def test_it_may_be_brought_again_then(self) -> None:
        self.bobs.put(1, ttl=10)
        receipt = self.bobs.put(1, now=NOW + 10)
        self.assertEqual((receipt.taken, receipt.until), (NOW + 10, NOW + 10 + DAY))
        self.assertEqual(self.bobs.numbers(NOW + 10), [1])
        self.assertEqual(self.bobs.totals().messages, 1)

    def test_a_number_is_never_given_twice(self) -> None:
        def last() -> int:
            page = self.bobs.wait(self.bobs.store.fetch(BOB.public, 0, NOW))
            number: int = page.messages[-1].number
            return number

        self.bobs.put(1)
        first = last()
        self.bobs.acknowledge(1)
        self.bobs.put(2)
        self.assertGreater(last(), first)

    def test_much_is_swept_in_several_goes(self) -> None:
        self.patch(store.sweep, "__defaults__", (3,))
        for number in range(10):
            self.bobs.put(number, ttl=10)
        self.bobs.sweep(NOW + 10)
        self.assertEqual(self.bobs.totals().messages, 0)

    def test_only_so_many_that_were_fetched_are_remembered(self) -> None:
        self.patch(store.acknowledge, "__defaults__", (3,))
        receipts = []
        for number in range(5):
            receipts.append(self.bobs.put(number))
            self.bobs.acknowledge(number)
        again = [self.bobs.put(number, now=NOW + 1) for number in range(5)]
        self.assertEqual(again[2:], receipts[2:])
        self.assertEqual([each.taken for each in again[:2]], [NOW + 1] * 2)

    def test_and_for_a_week_after_their_time(self) -> None:
        self.bobs.put(1)
        self.bobs.acknowledge(1)

        def remembered(now: int) -> int:
            self.bobs.sweep(now)
            (count,) = self.bobs.wait(
                self.bobs.database.read(
                    lambda db: db.execute("SELECT count(*) FROM mailbox_fetched").fetchone()
                )
            )
            found: int = count
            return found

        self.assertEqual(remembered(NOW + DAY + REMEMBERED - 1), 1)
        self.assertEqual(remembered(NOW + DAY + REMEMBERED), 0)


class PageTests(RelayTestCase):
    def test_a_page_has_so_many_messages(self) -> None:
        relay = self.relay(from_one=200)
        relay.open()
        for number in range(MAX_PAGE + 1):
            relay.put(number)
        page = relay.wait(relay.store.fetch(BOB.public, 0, NOW))
        self.assertEqual((len(page.messages), page.more), (MAX_PAGE, True))
        rest = relay.wait(relay.store.fetch(BOB.public, page.messages[-1].number, NOW))
        self.assertEqual((len(rest.messages), rest.more), (1, False))

    def test_and_so_many_bytes(self) -> None:
        relay = self.relay()
        relay.open()
        for number in range(9):
            relay.put(number, size=MAX_SEALED)
        page = relay.wait(relay.store.fetch(BOB.public, 0, NOW))
        self.assertEqual(sum(len(each.sealed) for each in page.messages), PAGE_BYTES)
        self.assertTrue(page.more)
        self.assertEqual(relay.numbers(), list(range(9)))

    def test_those_that_have_expired_end_no_page_before_its_time(self) -> None:
        relay = self.relay(from_one=200)
        relay.open()
        for number in range(MAX_PAGE + 10):
            relay.put(number, ttl=10)
        relay.put(99)
        page = relay.wait(relay.store.fetch(BOB.public, 0, NOW + 10))
        self.assertEqual((len(page.messages), page.more), (1, False))


class LimitTests(RelayTestCase):
    def test_of_messages_for_one_recipient(self) -> None:
        relay = self.relay(messages=3)
        relay.open()
        for number in range(3):
            relay.put(number, make_identity(number).public)
        self.refused("3 messages of 768 bytes wait", relay, 3)
        # What is there already needs no room, and who fetches makes some.
        relay.put(2)
        relay.acknowledge(0)
        relay.put(3)

    def test_of_bytes_for_one_recipient(self) -> None:
        relay = self.relay(bytes=1024)
        relay.open()
        relay.put(0, size=512)
        self.refused("wait for", relay, 1, size=1024)
        relay.put(2, size=512)
        self.refused("wait for", relay, 3)

    def test_of_messages_of_one_sender_for_one_recipient(self) -> None:
        relay = self.relay(from_one=2)
        relay.open()
        relay.open(MALLORY)
        for number in range(2):
            relay.put(number)
        self.refused("2 messages of yours wait for", relay, 2)
        relay.put(2, MALLORY.public)
        relay.put(2, recipient=MALLORY.public)

    def test_of_messages_of_one_sender(self) -> None:
        relay = self.relay(of_sender=2)
        relay.open()
        relay.open(MALLORY)
        relay.put(0)
        relay.put(1, recipient=MALLORY.public)
        self.refused("2 messages of yours wait here", relay, 2)
        relay.put(2, MALLORY.public)

    def test_of_everything_together(self) -> None:
        relay = self.relay(bytes_in_all=1024)
        for owner in (BOB, MALLORY):
            relay.open(owner)
            relay.put(1, recipient=owner.public, size=512)
        self.refused("no room for more messages", relay, 2)

    def test_of_mailboxes_from_one_host(self) -> None:
        relay = self.relay(mailboxes_of_origin=2)
        for number in range(2):
            relay.open(make_identity(number))
        with self.assertRaisesRegex(MailboxFull, f"opened from {HOST}"):
            relay.open(BOB)
        # Who has one comes again from anywhere, and another host is not its business.
        relay.open(make_identity(0))
        relay.open(BOB, origin="192.0.2.2")
        relay.open(BOB)
        self.assertEqual(relay.totals().mailboxes, 3)
        relay.sweep(NOW + 3 * MAX_TTL)
        relay.open(BOB, NOW + 3 * MAX_TTL)

    def test_of_bytes_from_one_host_whatever_keys_it_has(self) -> None:
        relay = self.relay(bytes_of_origin=2 * 256)
        for owner in (ADA, BOB, MALLORY):
            relay.open(owner)
        relay.put(1, make_identity(1).public, ADA.public)
        relay.put(2, make_identity(2).public, MALLORY.public)
        self.refused(f"left from {HOST}", relay, 3, make_identity(3).public)
        relay.put(4, make_identity(4).public, origin="192.0.2.2")
        relay.acknowledge(1, recipient=ADA.public)
        relay.put(3, make_identity(3).public)

    def test_what_was_there_before_hosts_were_counted_is_counted(self) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(connection.close)
        connection.executescript(RELAY_MIGRATIONS[0])
        connection.execute("INSERT INTO mailboxes VALUES (x'01', x'', 0, 9, 0, 0)")
        connection.execute(
            "INSERT INTO mailbox_messages VALUES (1, x'01', x'', x'', 0, 9, 256, x'')"
        )
        connection.executescript(RELAY_MIGRATIONS[1])
        counted = connection.execute("SELECT * FROM mailbox_origins")
        self.assertEqual(counted.fetchall(), [("", 1, 256)])
        store.sweep(connection, 10)
        counted = connection.execute("SELECT * FROM mailbox_origins")
        self.assertEqual(counted.fetchall(), [])

    def test_nobody_is_put_out_for_a_newcomer(self) -> None:
        relay = self.relay(messages=4)
        relay.open()
        relay.put(0)
        for number in range(1, 4):
            relay.put(number, MALLORY.public)
        for number in range(4, 9):
            self.refused("wait for", relay, number, make_identity(number).public)
        self.assertEqual(relay.numbers(), [0, 1, 2, 3])

    def test_the_limits_are_those_of_the_protocol(self) -> None:
        limits = MailboxLimits()
        self.assertEqual((limits.messages, limits.bytes, limits.from_one), (1_000, 16 * 2**20, 64))
        self.assertEqual((MAX_FETCHED, REMEMBERED), (100_000, 7 * DAY))


class OperatorTests(RelayTestCase):
    def setUp(self) -> None:
        self.kept = self.relay()
        for owner in (ADA, BOB):
            self.kept.open(owner)
        for number in range(3):
            self.kept.put(number)

    def test_where_most_waits_comes_first(self) -> None:
        until = NOW + 2 * MAX_TTL
        both = [
            MailboxKept(BOB.public, HOST, 3, 768, until),
            MailboxKept(ADA.public, HOST, 0, 0, until),
        ]
        found = self.kept.wait(self.kept.store.mailboxes(10, 0))
        self.assertEqual(found, (both, MailboxTotals(2, 3, 768)))
        self.assertEqual(self.kept.wait(self.kept.store.mailboxes(1, 1))[0], both[1:])

    def remove(self, who: PublicKey) -> None:
        self.kept.wait(Deferred.fromCoroutine(self.kept.store.remove(who)))

    def test_what_is_removed_is_gone_and_makes_room(self) -> None:
        self.remove(BOB.public)
        self.assertEqual(self.kept.totals(), MailboxTotals(1, 0, 0))
        with self.assertRaises(MailboxUnknown):
            self.remove(BOB.public)
        self.kept.open(BOB)
        self.assertEqual(self.kept.numbers(), [])

    def test_much_is_removed_in_several_goes(self) -> None:
        def some(connection: sqlite3.Connection) -> bool:
            return store.remove_mailbox(connection, BOB.public, limit=2)

        goes = [self.kept.wait(self.kept.database.write(some)) for _ in range(2)]
        self.assertEqual(goes, [True, False])
        self.assertEqual(self.kept.totals(), MailboxTotals(1, 0, 0))


class AnyOrderTests(SynchronousTestCase):
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["put", "acknowledge", "sweep", "open"]),
                st.integers(0, 5),
                st.integers(0, 2),
                st.integers(0, 30),
            ),
            max_size=30,
        )
    )
    def test_the_counts_are_right_and_within_the_limits(
        self, steps: list[tuple[str, int, int, int]]
    ) -> None:
        limits = MailboxLimits(
            messages=4,
            bytes=1_500,
            from_one=3,
            of_sender=5,
            bytes_in_all=2_000,
            mailboxes_of_origin=2,
            bytes_of_origin=1_200,
        )
        owners = [make_identity(number) for number in range(3)]
        now = NOW
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(connection.close)
        for script in RELAY_MIGRATIONS:
            connection.executescript(script)
        for what, number, who, seconds in steps:
            recipient = owners[who].public
            now += seconds
            data = sealed(number, 256 << number % 3)
            origin = f"192.0.2.{number % 2}"
            if what == "open":
                with contextlib.suppress(MailboxFull):
                    store.open_mailbox(connection, prekey_of(owners[who], now), origin, limits)
            elif what == "put":
                with contextlib.suppress(MailboxFull, MailboxUnknown):
                    store.deposit(
                        connection,
                        RELAY.public,
                        ADA.public,
                        origin,
                        recipient,
                        data,
                        now,
                        40,
                        limits,
                    )
            elif what == "acknowledge":
                store.acknowledge(connection, recipient, [digest_of(data)])
            else:
                store.sweep(connection, now)
            self.check(connection, limits)

    def check(self, connection: sqlite3.Connection, limits: MailboxLimits) -> None:
        rows = connection.execute(
            "SELECT recipient, count(*), sum(size), max(length(sealed) - size) "
            "FROM mailbox_messages GROUP BY recipient"
        ).fetchall()
        counted = {
            row[0]: row[1:]
            for row in connection.execute("SELECT recipient, messages, bytes FROM mailboxes")
        }
        for recipient, messages, size, difference in rows:
            self.assertEqual(counted.pop(recipient), (messages, size))
            self.assertLessEqual(messages, limits.from_one)
            self.assertLessEqual(size, limits.bytes)
            self.assertEqual(difference, 0)
        self.assertLessEqual(set(counted.values()), {(0, 0)})
        origins = connection.execute(
            "SELECT origin, sum(mailboxes), sum(bytes) FROM ("
            "SELECT origin, 1 AS mailboxes, 0 AS bytes FROM mailboxes UNION ALL "
            "SELECT origin, 0, size FROM mailbox_messages) GROUP BY origin ORDER BY origin"
        ).fetchall()
        kept = connection.execute("SELECT * FROM mailbox_origins ORDER BY origin").fetchall()
        self.assertEqual(kept, origins)
        for _, mailboxes, size in origins:
            self.assertLessEqual(mailboxes, limits.mailboxes_of_origin)
            self.assertLessEqual(size, limits.bytes_of_origin)
        totals = store.totals(connection)
        self.assertEqual(totals.messages, sum(row[1] for row in rows))
        self.assertEqual(totals.bytes, sum(row[2] for row in rows))
        self.assertLessEqual(totals.messages, limits.of_sender)
        self.assertLessEqual(totals.bytes, limits.bytes_in_all)
