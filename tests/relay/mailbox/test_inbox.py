"""What a recipient has taken it takes no second time."""

from __future__ import annotations

import sqlite3

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import StorageFailed
from meshkit.identity.keys import Identity, PublicKey
from meshkit.relay.mailbox import inbox
from meshkit.relay.mailbox.inbox import AT_OTHERS, MAX_SEEN, Inbox, lacking, note_stations
from meshkit.relay.mailbox.prekeys import MAX_SKEW
from meshkit.relay.mailbox.sealing import MailboxMessage, open_message
from meshkit.relay.mailbox.store import REMEMBERED
from meshkit.testing.identities import make_identity
from tests.relay.mailbox.letters import ADA, BOB, DAY, MALLORY, NOW, RING, letter
from tests.relay.mailbox.machines import Machine


def message(number: int, sender: Identity = ADA) -> MailboxMessage:
    return open_message(BOB, RING, letter(number, sender=sender), NOW)


RELAYS = HOME, OTHER, THIRD = tuple(make_identity(f"relay {n}").public for n in range(3))


class LackingTests(SynchronousTestCase):
    """Which relay has not given what others have."""

    def setUp(self) -> None:
        self.machine = Machine()
        self.addCleanup(self.machine.stop)
        self.use(HOME, OTHER)

    def use(self, *relays: PublicKey, now: int = NOW) -> None:
        self.machine.wait(self.machine.database.write(lambda db: note_stations(db, relays, now)))

    def take(self, number: int, relay: PublicKey, at: int = NOW) -> None:
        box = Inbox(self.machine.database, lambda *_: None, given=lambda: (relay, at))
        self.machine.wait(box.take(message(number)))

    def lacks(self, now: int = NOW + AT_OTHERS) -> list[int]:
        """Of each of the relays that were looked at just now."""
        looked = dict.fromkeys((HOME, OTHER), now)
        found = self.machine.wait(self.machine.database.read(lambda db: lacking(db, looked)))
        return [found[HOME], found[OTHER]]

    def test_what_came_by_one_and_not_by_the_other_is_lacking_there(self) -> None:
        self.take(1, HOME)
        self.take(2, HOME)
        self.take(3, OTHER)
        self.assertEqual(self.lacks(), [1, 2])
        self.machine.crash()
        self.assertEqual(self.lacks(), [1, 2])

    def test_what_comes_late_is_there(self) -> None:
        self.take(1, HOME)
        self.take(1, OTHER, NOW + DAY)
        self.assertEqual(self.lacks(NOW + DAY), [0, 0])

    def test_it_has_a_minute(self) -> None:
        self.take(1, HOME)
        self.assertEqual(self.lacks(NOW + AT_OTHERS - 1), [0, 0])
        self.assertEqual(self.lacks(NOW + AT_OTHERS), [0, 1])

    def test_what_was_there_before_is_not_looked_for_at_a_new_one(self) -> None:
        self.use(HOME)
        self.take(1, HOME)
        self.use(HOME, OTHER, now=NOW + 10)
        self.take(2, HOME, NOW + 10)
        self.assertEqual(self.lacks(NOW + DAY), [0, 1])

    def test_one_that_is_used_no_more_is_nobody_to_compare_with(self) -> None:
        self.use(HOME, OTHER, THIRD)
        self.take(1, THIRD)
        self.use(HOME, OTHER)
        self.assertEqual(self.lacks(), [0, 0])

    def test_the_last_ones_are_compared(self) -> None:
        self.patch(inbox, "MAX_COMPARED", 2)
        for number in range(5):
            self.take(number, HOME)
        self.assertEqual(self.lacks(), [0, 2])

    def test_nothing_is_remembered_of_what_is_forgotten(self) -> None:
        self.take(1, HOME)
        box = Inbox(self.machine.database, lambda *_: None)
        end = message(1).expires + MAX_SKEW + REMEMBERED
        self.machine.wait(Deferred.fromCoroutine(box.sweep(end)))
        query = "SELECT count(*) FROM mailbox_given"
        rows = self.machine.wait(
            self.machine.database.read(lambda db: db.execute(query).fetchall())
        )
        self.assertEqual(rows, [(0,)])


class InboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.addCleanup(self.machine.stop)
        self.calls = 0

    def keep(self, connection: sqlite3.Connection, message: MailboxMessage) -> None:
        """What an application would do: write it down in the same transaction."""
        self.calls += 1
        connection.execute("CREATE TABLE IF NOT EXISTS letters (body BLOB)")
        connection.execute("INSERT INTO letters VALUES (?)", (message.body,))
        if message.body == b"too much":
            raise ValueError("the application wants none of it")

    def take(self, message: MailboxMessage, limit: int = MAX_SEEN) -> bool:
        box = Inbox(self.machine.database, self.keep, limit=limit)
        found: bool = self.machine.wait(box.take(message))
        return found

    def count(self, table: str) -> int:
        query = f"SELECT count(*) FROM {table}"
        (found,) = self.machine.wait(
            self.machine.database.read(lambda db: db.execute(query).fetchone())
        )
        count: int = found
        return count

    def sweep(self, now: int) -> None:
        box = Inbox(self.machine.database, self.keep)
        self.machine.wait(Deferred.fromCoroutine(box.sweep(now)))

    def test_a_message_is_taken_once_whatever_crashes(self) -> None:
        self.assertTrue(self.take(message(1)))
        self.machine.crash()
        self.assertFalse(self.take(message(1)))
        self.assertEqual(self.count("letters"), 1)

    def test_it_is_told_by_its_sender_and_his_id(self) -> None:
        first = message(1)
        self.assertTrue(self.take(first))
        # Sealed again, with other words: the id says that it is the same.
        self.assertFalse(self.take(attrs.evolve(first, body=b"otherwise")))
        # Nobody uses up the ids of others.
        self.assertTrue(self.take(attrs.evolve(first, sender=MALLORY.public)))

    def test_what_the_application_or_the_disk_refuses_was_not_taken(self) -> None:
        self.take(message(0))
        loud = attrs.evolve(message(1), body=b"too much")
        with self.assertRaises(ValueError):
            self.take(loud)
        self.machine.backing.fail("COMMIT", sqlite3.SQLITE_FULL)
        with self.assertRaises(StorageFailed):
            self.take(message(2))
        self.machine.backing.mend()
        self.assertEqual(self.count("letters"), 1)
        self.assertTrue(self.take(message(2)))
        self.assertTrue(self.take(message(1)))

    def test_it_is_remembered_until_nobody_can_bring_it_again(self) -> None:
        taken = message(1)
        self.take(taken)
        end = taken.expires + MAX_SKEW + REMEMBERED
        self.sweep(end - 1)
        self.assertEqual(self.count("mailbox_seen"), 1)
        self.sweep(end)
        self.assertEqual(self.count("mailbox_seen"), 0)

    def test_much_is_swept_in_several_goes(self) -> None:
        self.patch(inbox.sweep_seen, "__defaults__", (2,))
        for number in range(5):
            self.take(message(number))
        self.sweep(2**40)
        self.assertEqual(self.count("mailbox_seen"), 0)

    def test_who_floods_is_the_one_whose_messages_may_come_twice(self) -> None:
        for number in range(3):
            self.take(message(number), limit=10)
        for number in range(40):
            self.take(message(number, MALLORY), limit=10)
        for number in range(4):
            self.take(message(number, make_identity(number)), limit=10)
        self.assertEqual(self.count("mailbox_seen"), 10)
        for number in range(3):
            self.assertFalse(self.take(message(number), limit=10))
        self.assertTrue(self.take(message(0, MALLORY), limit=10))

    def test_room_is_made_for_more_than_one_where_there_are_many(self) -> None:
        for number in range(201):
            self.take(message(number), limit=200)
        self.assertEqual(self.count("mailbox_seen"), 199)
