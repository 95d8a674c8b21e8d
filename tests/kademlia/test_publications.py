"""Tests of L{meshkit.kademlia.publications}."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    NotFound,
    RecordError,
    RecordForeignOwner,
    RecordFromFuture,
    RecordInvalid,
    RecordNotKept,
    RecordReplayed,
    RecordTooLarge,
)
from meshkit.identity.keys import Identity
from meshkit.kademlia import publications as module
from meshkit.kademlia.distance import node_id
from meshkit.kademlia.holdings import Holdings, Kept
from meshkit.kademlia.kinds import Kind, Kinds, address_key, mutable_key, provider_key, topic_key
from meshkit.kademlia.publications import (
    FAREWELL,
    FIRST_RETRY,
    RENEW,
    Name,
    Publication,
    Publications,
    Published,
)
from meshkit.kademlia.records import LIFETIME
from meshkit.kademlia.schedule import JITTER, REPUBLISH
from tests.kademlia.recording import HOUR, ME, NETWORK, NOW, inner, owner

KINDS: Final = Kinds()
KEY: Final = topic_key("birds")
SOONEST: Final = int(REPUBLISH * (1 - JITTER))
LATEST: Final = int(REPUBLISH * (1 + JITTER))


def fresh(identity: Identity = ME, network: bytes = NETWORK) -> Publications:
    return Publications(identity, network, KINDS, Random(1))


class Publishing(SynchronousTestCase):
    def setUp(self) -> None:
        self.publications = fresh()

    def test_what_is_published_is_a_record_that_others_take(self) -> None:
        record = self.publications.publish("topic", KEY, b"a robin", NOW)
        self.assertEqual(KINDS.open(record.raw, NETWORK, NOW), record)
        self.assertEqual((record.owner, record.value), (ME.public, b"a robin"))
        self.assertEqual((record.sequence, record.expires), (NOW, NOW + LIFETIME))
        self.assertEqual(self.publications.find("topic", KEY), Publication(record))
        self.assertIsNone(self.publications.find("topic", topic_key("fish")))

    def test_a_later_one_replaces_it_even_if_the_clock_was_set_back(self) -> None:
        for n, now in enumerate((NOW, NOW, NOW - 1000)):
            record = self.publications.publish("topic", KEY, b"a robin", now)
            self.assertEqual(record.sequence, NOW + n)
        self.assertEqual(len(self.publications), 1)

    def test_it_replaces_what_was_found_elsewhere(self) -> None:
        record = self.publications.publish("topic", KEY, b"a robin", NOW, after=NOW + 5)
        self.assertEqual(record.sequence, NOW + 6)
        self.assertRaises(
            RecordFromFuture, self.publications.publish, "topic", KEY, b"", NOW, after=2 * NOW
        )

    def test_what_the_kind_does_not_take_is_not_published(self) -> None:
        publish = self.publications.publish
        self.assertRaises(RecordTooLarge, publish, "topic", KEY, bytes(5000), NOW)
        other = mutable_key(owner(1).public)
        self.assertRaises(RecordForeignOwner, publish, "mutable", other, b"", NOW)
        self.assertRaises(RecordError, publish, "unknown", KEY, b"", NOW)
        self.assertEqual(len(self.publications), 0)
        self.assertFalse(self.publications.changes())

    def test_items_with_different_salts_are_different(self) -> None:
        for salt in (b"", b"one", b"two"):
            key = mutable_key(ME.public, salt)
            self.publications.publish("mutable", key, b"value", NOW, salt=salt)
        self.assertEqual(len(self.publications), 3)

    def test_an_address_has_the_sequence_that_its_kind_asks_for(self) -> None:
        value, key = inner(ME, NOW - 1, NOW + HOUR), address_key(ME.public)
        record = self.publications.publish(
            "address", key, value, NOW, until=NOW + HOUR, sequence=NOW - 1
        )
        self.assertEqual(KINDS.open(record.raw, NETWORK, NOW), record)
        self.assertRaises(
            RecordInvalid, self.publications.publish, "address", key, value, NOW, until=NOW + HOUR
        )
        # It is not signed anew, as that would take a new address; and not for ever.
        self.assertEqual(self.publications.due(NOW + HOUR - 1, 10), [record])
        self.assertEqual(self.publications.due(NOW + 3 * HOUR, 10), [])
        self.assertEqual(len(self.publications), 0)

    def test_a_node_publishes_so_many(self) -> None:
        self.patch(module, "MAX_PUBLICATIONS", 2)
        for name in ("birds", "fish"):
            self.publications.publish("topic", topic_key(name), b"", NOW)
        self.assertRaises(
            RecordNotKept, self.publications.publish, "topic", topic_key("trees"), b"", NOW
        )
        self.publications.publish("topic", KEY, b"again", NOW)
        self.publications.publish(
            "address", address_key(ME.public), inner(ME), NOW, until=NOW + HOUR, sequence=NOW
        )
        self.publications.withdraw("topic", KEY, NOW)
        self.publications.withdraw("topic", topic_key("fish"), NOW)
        self.publications.publish("topic", topic_key("trees"), b"", NOW)


class Clocks(SynchronousTestCase):
    """The clock was a day ahead, and is right again."""

    def setUp(self) -> None:
        self.publications = fresh()
        self.record = self.publications.publish("topic", KEY, b"a robin", NOW + 24 * HOUR)
        self.assertEqual(self.publications.due(NOW + 24 * HOUR, 10), [])

    def test_what_nobody_took_is_no_reason_to_be_ahead(self) -> None:
        again = self.publications.publish("topic", KEY, b"a wren", NOW)
        self.assertEqual((again.sequence, again.expires), (NOW, NOW + LIFETIME))

    def test_it_is_published_within_the_hour_as_others_take_it(self) -> None:
        self.assertEqual(self.publications.due(NOW, 10), [])
        (again,) = self.publications.due(NOW + LATEST, 10)
        self.assertEqual(KINDS.open(again.raw, NETWORK, NOW + LATEST), again)
        self.assertEqual(again.sequence, NOW + LATEST)

    def test_it_can_be_taken_back(self) -> None:
        last = self.publications.withdraw("topic", KEY, NOW)
        self.assertEqual(last.sequence, NOW)


class Unwanted(SynchronousTestCase):
    def test_what_its_kind_takes_no_more_keeps_no_others_from_being_published(self) -> None:
        told: list[tuple[bytes, str]] = []
        kinds = Kinds([Kind("topic", max_value=9)])
        publications = Publications(
            ME,
            NETWORK,
            kinds,
            Random(1),
            refused=lambda record, error: told.append((record.key, error.code)),
        )
        key = topic_key("fish")
        good = fresh().publish("topic", KEY, b"a robin", NOW)
        too_large = fresh().publish("topic", key, b"some carps", NOW)
        publications.restore([Publication(too_large), Publication(good)], NOW)
        later = NOW + LIFETIME - RENEW + 2 * HOUR
        for n in range(1, 3):
            found = publications.due(later, 10)
            self.assertEqual([record.key for record in found], [KEY])
            self.assertEqual(told, [(key, "RECORD_TOO_LARGE")] * n)
            later += LATEST
        self.assertEqual(len(publications), 2)


class Withdrawing(SynchronousTestCase):
    def test_what_is_taken_back_cannot_be_brought_back(self) -> None:
        publications = fresh()
        keeper = Holdings(node_id(owner(1).public), NETWORK, KINDS, Random(1))
        record = publications.publish("topic", KEY, b"a robin", NOW)
        keeper.store(record.raw, NOW, ME.public)
        farewell = publications.withdraw("topic", KEY, NOW)
        self.assertIs(keeper.store(farewell.raw, NOW, ME.public), Kept.RENEWED)
        self.assertEqual(keeper.find("topic", KEY, NOW + FAREWELL).held, 0)
        later = NOW + FAREWELL
        self.assertRaises(RecordReplayed, keeper.store, record.raw, later, owner(2).public)
        self.assertEqual(publications.due(NOW + 2 * LATEST, 10), [])
        self.assertEqual(len(publications), 0)
        # And it can be published again.
        again = publications.publish("topic", KEY, b"a wren", later)
        self.assertIs(keeper.store(again.raw, later, ME.public), Kept.NEW)

    def test_it_lasts_no_longer_than_was_said(self) -> None:
        publications = fresh()
        value = inner(ME, NOW, NOW + 1000)
        key = provider_key(b"content")
        publications.publish("provider", key, value, NOW, until=NOW + 1000)
        self.assertEqual(publications.withdraw("provider", key, NOW).expires, NOW + 1000)
        publications.publish("provider", key, value, NOW, until=NOW + 1000)
        self.assertRaises(NotFound, publications.withdraw, "provider", key, NOW + 1000)

    def test_only_what_was_published_can_be(self) -> None:
        self.assertRaises(NotFound, fresh().withdraw, "topic", KEY, NOW)


class Repeating(SynchronousTestCase):
    def test_it_is_stored_every_hour_and_signed_anew_when_half_its_life_is_over(self) -> None:
        publications = fresh()
        first = publications.publish("topic", KEY, b"a robin", NOW)
        seen, moments = [first], [NOW]
        for minutes in range(0, 72 * 60, 5):
            now = NOW + minutes * 60_000
            for record in publications.due(now, 10):
                self.assertEqual(KINDS.open(record.raw, NETWORK, now), record)
                self.assertGreaterEqual(record.expires - now, RENEW)
                self.assertEqual(publications.find("topic", KEY), Publication(record))
                moments.append(now)
                if record != seen[-1]:
                    self.assertGreater(record.sequence, seen[-1].sequence)
                    seen.append(record)
        gaps = [b - a for a, b in zip(moments, moments[1:], strict=False)]
        self.assertGreaterEqual(min(gaps), SOONEST - 300_000)
        self.assertLessEqual(max(gaps), LATEST + 300_000)
        # 72 hours in halves of a day.
        self.assertIn(len(seen), (6, 7))

    def test_so_many_at_a_time(self) -> None:
        publications = fresh()
        for n in range(10):
            publications.publish("topic", topic_key(str(n)), b"", NOW)
        counts = [len(publications.due(NOW + LATEST, 4)) for _ in range(4)]
        self.assertEqual(counts, [4, 4, 2, 0])

    def test_what_no_other_node_keeps_is_due_soon_and_less_soon_each_time(self) -> None:
        publications = fresh()
        record = publications.publish("topic", KEY, b"", NOW)
        pauses = []
        now = NOW
        for _ in range(12):
            when = publications.missed(record, now)
            assert when is not None
            self.assertEqual((publications.soonest(), publications.missing), (when, 1))
            self.assertEqual(publications.due(when - 1, 9), [])
            self.assertEqual(publications.due(when, 9), [record])
            pauses.append(when - now)
            now = when
        for n, pause in enumerate(pauses):
            about = min(FIRST_RETRY << n, REPUBLISH)
            self.assertLessEqual(abs(pause - about), JITTER * about)
        # As at first again, once somebody has come.
        publications.hurry(now)
        self.assertEqual((publications.soonest(), publications.due(now, 9)), (now, [record]))
        again = publications.missed(record, now)
        assert again is not None
        self.assertLessEqual(again, now + 1.25 * FIRST_RETRY)
        publications.due(again, 9)
        publications.kept(record)
        self.assertEqual((publications.soonest(), publications.missing), (None, 0))
        self.assertEqual(publications.due(again + SOONEST - 1, 9), [])

    def test_what_is_said_again_waits_on_and_what_is_new_does_not(self) -> None:
        publications = fresh()
        pauses = []
        for value in (b"1", b"1", b"1", b"2"):
            record = publications.publish("topic", KEY, value, NOW)
            when = publications.missed(record, NOW)
            assert when is not None
            pauses.append((when - NOW) // FIRST_RETRY)
        self.assertIn(pauses[0], (0, 1))
        self.assertIn(pauses[2], (3, 4))
        self.assertIn(pauses[3], (0, 1))

    def test_of_an_older_record_it_does_not_matter_who_keeps_it(self) -> None:
        publications = fresh()
        old = publications.publish("topic", KEY, b"1", NOW)
        new = publications.publish("topic", KEY, b"2", NOW)
        self.assertIsNone(publications.missed(old, NOW))
        publications.missed(new, NOW)
        publications.kept(old)
        self.assertEqual(publications.missing, 1)
        publications.withdraw("topic", KEY, NOW)
        self.assertEqual((publications.missing, publications.soonest()), (0, None))

    @given(st.integers(1, 60))
    def test_no_record_is_good_for_longer_than_was_said(self, hours: int) -> None:
        publications = fresh()
        until = NOW + hours * HOUR
        record = publications.publish("topic", KEY, b"", NOW, until=until)
        self.assertLessEqual(record.expires, until)
        for hour in range(1, 70):
            for record in publications.due(NOW + hour * HOUR, 10):
                self.assertLess(hour, hours)
                self.assertLessEqual(record.expires, until)
        self.assertEqual(len(publications), 0)


class Current(SynchronousTestCase):
    """Values that are made whenever a record is signed."""

    key = provider_key(b"content")

    def setUp(self) -> None:
        self.value = b""
        self.good: int | None = None
        self.publications = Publications(
            ME, NETWORK, KINDS, Random(1), {"provider": lambda: (self.value, self.good)}
        )

    def reach(self, now: int) -> None:
        """There is an address, good for a day."""
        self.good = now + LIFETIME
        self.value = inner(ME, now, self.good)

    def test_they_take_the_place_of_what_is_given(self) -> None:
        self.reach(NOW - HOUR)
        record = self.publications.publish("provider", self.key, b"", NOW)
        self.assertEqual((record.value, record.expires), (self.value, NOW + 23 * HOUR))
        KINDS.open(record.raw, NETWORK, NOW)
        record = self.publications.publish("topic", KEY, b"a robin", NOW)
        self.assertEqual((record.value, record.expires), (b"a robin", NOW + LIFETIME))

    def test_what_has_changed_is_signed_anew_when_it_is_due(self) -> None:
        first = self.publications.publish("provider", self.key, b"", NOW)
        (same,) = self.publications.due(NOW + LATEST, 10)
        self.assertEqual(same, first)
        self.reach(NOW + LATEST)
        (changed,) = self.publications.due(NOW + 2 * LATEST, 10)
        self.assertEqual((changed.value, changed.expires), (self.value, self.good))
        self.assertEqual(changed.sequence, NOW + 2 * LATEST)
        KINDS.open(changed.raw, NETWORK, NOW + 2 * LATEST)
        (same,) = self.publications.due(NOW + 3 * LATEST, 10)
        self.assertEqual(same, changed)
        self.value, self.good = b"", None
        (changed,) = self.publications.due(NOW + 4 * LATEST, 10)
        self.assertEqual((changed.value, changed.expires), (b"", NOW + 4 * LATEST + LIFETIME))

    def test_it_is_published_for_longer_than_any_value_of_it_is_good(self) -> None:
        self.reach(NOW)
        self.publications.publish("provider", self.key, b"", NOW)
        now = NOW
        for _ in range(60):
            now += LATEST
            assert self.good is not None
            if self.good - now < LIFETIME // 2:
                self.reach(now)
            (record,) = self.publications.due(now, 10)
            KINDS.open(record.raw, NETWORK, now)
            self.assertGreaterEqual(record.expires - now, LIFETIME // 2 - LATEST)

    def test_what_is_taken_back_says_what_is_good_still(self) -> None:
        self.reach(NOW)
        self.publications.publish("provider", self.key, b"", NOW)
        now = NOW + LIFETIME
        self.value, self.good = b"", None
        last = self.publications.withdraw("provider", self.key, now)
        self.assertEqual((last.value, last.expires), (b"", now + FAREWELL))
        KINDS.open(last.raw, NETWORK, now)

    def test_a_last_word_can_be_given(self) -> None:
        key = address_key(ME.public)
        first = inner(ME, NOW)
        self.publications.publish("address", key, first, NOW, until=NOW + LIFETIME, sequence=NOW)
        word = inner(ME, NOW + 7, NOW + 7 + FAREWELL)
        last = self.publications.withdraw("address", key, NOW + 7, value=word, sequence=NOW + 7)
        self.assertEqual((last.value, last.sequence), (word, NOW + 7))
        KINDS.open(last.raw, NETWORK, NOW + 7)
        self.assertIsNone(self.publications.find("address", key))


class OnTheDisk(SynchronousTestCase):
    def write(self, disk: dict[Name, Publication], changes: Published) -> None:
        for name in changes.gone:
            disk.pop(name, None)
        for row in changes.rows:
            disk[row.name] = row

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("publish", "withdraw", "due", "fail", "pass")), st.integers(0, 5)
            ),
            max_size=30,
        )
    )
    def test_what_is_written_is_what_is_published(self, inputs: list[tuple[str, int]]) -> None:
        publications = fresh()
        disk: dict[Name, Publication] = {}
        now = NOW
        for name, n in inputs:
            key = topic_key(str(n))
            if name == "publish":
                until = now + n * HOUR if n % 2 else None
                publications.publish("topic", key, b"%d" % n, now, until=until)
            elif name == "withdraw":
                with contextlib.suppress(NotFound):
                    publications.withdraw("topic", key, now)
            elif name == "due":
                publications.due(now, n)
            elif name == "pass":
                now += n * 3 * HOUR
            else:
                publications.not_written(publications.changes())
                continue
            if n % 2:
                self.write(disk, publications.changes())
        self.write(disk, publications.changes())
        self.assertEqual(len(disk), len(publications))
        for (kind, key, salt), row in disk.items():
            self.assertEqual(publications.find(kind, key, salt), row)
        again = fresh()
        live = [row for row in disk.values() if row.until is None or row.until > now]
        self.assertEqual(again.restore(disk.values(), now), len(live))
        self.write(disk, again.changes())
        self.assertEqual(list(disk.values()), live)

    def test_what_the_disk_refused_comes_with_the_next_changes(self) -> None:
        publications = fresh()
        publications.publish("topic", KEY, b"", NOW)
        self.assertEqual(len(publications.changes().rows), 1)
        (renewed,) = publications.due(NOW + LIFETIME, 10)
        for _ in range(2):
            changes = publications.changes()
            self.assertEqual((changes.rows, changes.gone), ((Publication(renewed),), ()))
            publications.not_written(changes)
        self.assertTrue(publications.changes())
        publications.withdraw("topic", KEY, NOW + LIFETIME)
        for _ in range(2):
            changes = publications.changes()
            self.assertEqual((changes.rows, changes.gone), ((), (("topic", KEY, b""),)))
            publications.not_written(changes)

    def test_those_that_have_expired_meanwhile_are_published_at_once(self) -> None:
        publications = fresh()
        publications.publish("topic", KEY, b"", NOW)
        publications.publish("topic", topic_key("fish"), b"", NOW + HOUR)
        rows = publications.changes().rows
        again = fresh()
        now = NOW + LIFETIME
        self.assertEqual(again.restore(rows, now), 2)
        (record,) = again.due(now, 10)
        self.assertEqual((record.key, record.expires), (KEY, now + LIFETIME))
        self.assertEqual(len(again.due(now + HOUR, 10)), 1)

    def test_if_the_key_of_the_network_was_changed_they_are_signed_for_the_new_one(self) -> None:
        before = fresh()
        before.publish("topic", KEY, b"a robin", NOW)
        before.publish(
            "address", address_key(ME.public), inner(ME), NOW, until=NOW + HOUR, sequence=NOW
        )
        rows = before.changes().rows
        new = bytes(16)
        after = Publications(ME, new, KINDS, Random(1), previous=NETWORK)
        self.assertEqual(after.restore(rows, NOW + 1), 1)
        (record,) = after.due(NOW + 1, 10)
        self.assertEqual(KINDS.open(record.raw, new, NOW + 1), record)
        self.assertEqual((record.kind, record.value), ("topic", b"a robin"))
        (row,) = after.changes().rows
        self.assertEqual(row.record, record)
        # Who is in yet another network is told nothing.
        self.assertEqual(Publications(ME, bytes(15) + b"x", KINDS, Random(1)).restore(rows, NOW), 0)

    def test_those_of_another_identity_or_network_are_gone(self) -> None:
        publications = fresh()
        record = publications.publish("topic", KEY, b"", NOW)
        rows = publications.changes().rows
        for other in (fresh(owner(1)), fresh(network=bytes(16))):
            self.assertEqual(other.restore(rows, NOW), 0)
            self.assertEqual(other.changes().gone, ((record.kind, record.key, record.salt),))
        few = Publications(ME, NETWORK, Kinds(()), Random(1))
        self.assertEqual(few.restore(rows, NOW), 0)
