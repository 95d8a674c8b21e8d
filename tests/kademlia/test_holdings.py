"""Tests of L{meshkit.kademlia.holdings}."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import permutations
from random import Random
from typing import Any, Final

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    RecordChanged,
    RecordConflict,
    RecordError,
    RecordExpired,
    RecordForeignNetwork,
    RecordForeignOwner,
    RecordForged,
    RecordFromFuture,
    RecordInvalid,
    RecordMalformed,
    RecordNotKept,
    RecordQuotaReached,
    RecordReplayed,
    RecordStale,
    RecordTooLarge,
    RecordWrongKey,
    RecordWrongKind,
)
from meshkit.identity.keys import PublicKey
from meshkit.kademlia import holdings as module
from meshkit.kademlia.distance import NodeId, closest, node_id, number
from meshkit.kademlia.holdings import (
    AHEAD,
    ANSWER_BYTES,
    HANDING,
    LONGEST,
    MAX_ANSWERED,
    NEAREST,
    Changes,
    Due,
    Found,
    Holdings,
    Kept,
    Place,
    Quota,
    Row,
    Seen,
)
from meshkit.kademlia.kinds import (
    BUILT_IN,
    MAX_ENTRIES,
    Kind,
    Kinds,
    immutable_key,
    mutable_key,
    topic_key,
)
from meshkit.kademlia.records import LIFETIME, MAX_LIFETIME, MAX_RECORD, MAX_VALUE, Record
from meshkit.kademlia.routing import K
from meshkit.kademlia.schedule import JITTER, REPUBLISH
from tests.kademlia.recording import (
    HOUR,
    ME,
    NETWORK,
    NOW,
    address,
    immutable,
    inner,
    mutable,
    owner,
    provider,
    seal,
    signed,
    topic,
)

OWN: Final = node_id(owner(1000).public)
PEER: Final = owner(1001).public
KINDS: Final = Kinds()
SOONEST: Final = int(REPUBLISH * (1 - JITTER))
LATEST: Final = int(REPUBLISH * (1 + JITTER))


def fresh(quota: Quota | None = None, own: NodeId = OWN, kinds: Kinds = KINDS) -> Holdings:
    return Holdings(own, NETWORK, kinds, Random(1), quota)


def peer_at(key: NodeId, *, nearer: bool) -> PublicKey:
    """Somebody who is nearer to a key than we are, or farther."""
    for n in range(2000, 3000):
        peer = owner(n).public
        if (number(node_id(peer)) ^ number(key) < number(OWN) ^ number(key)) is nearer:
            return peer
    raise AssertionError("chance is against us")


class Case(SynchronousTestCase):
    def store(
        self,
        holdings: Holdings,
        *records: Record,
        now: int = NOW,
        storer: PublicKey = PEER,
        **more: Any,
    ) -> None:
        for record in records:
            holdings.store(record.raw, now, storer, **more)

    def refuse(
        self,
        refusal: type[RecordError],
        holdings: Holdings,
        record: Record | bytes,
        now: int = NOW,
        **more: Any,
    ) -> RecordError:
        raw = record if isinstance(record, bytes) else record.raw
        holdings.expire(now)
        before = kept(holdings)
        error: RecordError = self.assertRaises(refusal, holdings.store, raw, now, PEER, **more)
        self.assertIs(type(error), refusal)
        self.assertEqual(kept(holdings), before)
        return error

    def assert_kept(self, holdings: Holdings, *records: Record, now: int = NOW) -> None:
        self.assertEqual(kept(holdings), {record.raw for record in records})
        for record in records:
            found = holdings.find(record.kind, record.key, now, 2**30, MAX_ENTRIES)
            self.assertIn(record.raw, found.records)


def kept(holdings: Holdings) -> set[bytes]:
    """What is kept, whatever its time."""
    rows = [holdings._row(place) for place in holdings._entries]
    return {row.raw for row in rows if row is not None}


class Refusals(Case):
    """Each has its own error, and changes nothing."""

    def test_what_is_no_record_of_ours(self) -> None:
        holdings = fresh()
        here = mutable(ME, b"here")
        self.store(holdings, here)
        for expected, record in (
            (RecordForged, here.raw.replace(b"here", b"HERE")),
            (RecordMalformed, here.raw[:-1]),
            (RecordMalformed, signed(b"")),
            (RecordForeignNetwork, mutable(ME, network=bytes(16), sequence=NOW + 1)),
            (RecordExpired, mutable(ME, expires=NOW)),
            (RecordFromFuture, mutable(ME, expires=NOW + MAX_LIFETIME + 1)),
            (RecordFromFuture, mutable(ME, sequence=NOW + 600_001)),
            (RecordTooLarge, bytes(MAX_RECORD + 1)),
            (RecordTooLarge, topic(ME, bytes(5000))),
            (RecordWrongKind, seal(ME, "org.example.thing", bytes(32))),
            (RecordWrongKey, seal(ME, "immutable", immutable_key(b"other"))),
            (RecordForeignOwner, seal(owner(1), "mutable", mutable_key(ME.public))),
            (RecordInvalid, provider(ME, b"elsewhere")),
            (RecordStale, mutable(ME, b"old", sequence=NOW - 1)),
        ):
            with self.subTest(expected.__name__):
                self.refuse(expected, holdings, record)
        self.assertEqual(holdings.find("mutable", here.key, NOW), Found((here.raw,), 1))

    def test_what_is_older_than_what_is_here(self) -> None:
        holdings = fresh()
        self.store(holdings, topic(ME, b"new", sequence=NOW))
        error = self.refuse(RecordStale, holdings, topic(ME, b"old", sequence=NOW - 1))
        assert isinstance(error, RecordConflict)
        self.assertEqual(error.sequence, NOW)
        self.assertEqual(error.details, {"sequence": NOW})

    def test_what_is_older_than_what_was_here(self) -> None:
        holdings = fresh()
        old = mutable(ME, b"old", sequence=NOW)
        short = mutable(ME, b"gone", sequence=NOW + 1, expires=NOW + 1000)
        self.store(holdings, old, short)
        self.assert_kept(holdings, short)
        error = self.refuse(RecordReplayed, holdings, old, NOW + 1000)
        assert isinstance(error, RecordConflict)
        self.assertEqual(error.sequence, NOW + 1)
        self.refuse(RecordReplayed, holdings, old, old.expires - 1)
        # One that is newer than both has the place.
        new = mutable(ME, b"new", sequence=NOW + 2)
        self.store(holdings, new, now=NOW + 1000)
        self.assert_kept(holdings, new, now=NOW + 1000)
        self.assertEqual(holdings.floors, 0)

    def test_somebody_else_cannot_use_up_the_sequences_of_an_item(self) -> None:
        holdings = fresh()
        theirs = immutable(owner(1), sequence=NOW + 600_000, expires=NOW + 1)
        self.store(holdings, theirs)
        self.assertEqual(holdings.expire(NOW + 1), 1)
        self.store(holdings, immutable(ME), now=NOW + 1)
        self.assertEqual(len(holdings), 1)

    def test_how_old_a_record_may_not_be_is_remembered_as_long_as_it_matters(self) -> None:
        holdings = fresh()
        self.store(holdings, mutable(ME, sequence=NOW + 1, expires=NOW + 1))
        holdings.expire(NOW + MAX_LIFETIME - 1)
        self.assertEqual(holdings.floors, 1)
        holdings.expire(NOW + MAX_LIFETIME)
        self.assertEqual(holdings.floors, 0)
        # Nothing that was good then is good any more.
        self.store(holdings, mutable(ME, expires=NOW + MAX_LIFETIME))
        holdings.expire(NOW + MAX_LIFETIME, 1)
        self.assertEqual((len(holdings), holdings.floors), (0, 0))

    def test_what_is_remembered_for_too_long_does_no_harm(self) -> None:
        self.patch(module, "STEP", 0)
        holdings = fresh()
        self.store(holdings, mutable(ME, sequence=NOW + 1, expires=NOW + 1))
        later = NOW + MAX_LIFETIME
        holdings.expire(later - 1)
        lower = mutable(ME, sequence=NOW, expires=later + LIFETIME)
        raised = self.assertRaises(RecordReplayed, holdings.store, lower.raw, later - 1, PEER)
        self.assertEqual(raised.sequence, NOW + 1)
        self.assertIs(holdings.store(lower.raw, later, PEER), Kept.NEW)

    def test_the_size_of_garbage_does_not_matter(self) -> None:
        holdings = fresh()
        for length in range(0, 300, 7):
            self.refuse(RecordMalformed, holdings, bytes(length))
        self.assertEqual(len(holdings), 0)


class Storing(Case):
    def test_a_record_is_found_by_its_kind_and_key(self) -> None:
        holdings = fresh()
        records = (address(ME), provider(ME), provider(owner(1), inner(owner(1))), mutable(ME),
                   immutable(ME), topic(ME))  # fmt: skip
        self.store(holdings, *records)
        self.assert_kept(holdings, *records)
        self.assertEqual(holdings.size, sum(len(record.raw) for record in records))
        self.assertEqual(holdings.find("provider", mutable(ME).key, NOW), Found((), 0))
        self.assertEqual(holdings.find("nothing", mutable(ME).key, NOW), Found((), 0))

    def test_it_says_what_came_of_it(self) -> None:
        holdings = fresh()
        old, new = mutable(ME), mutable(ME, sequence=NOW + 1)
        outcomes = [holdings.store(each.raw, NOW, PEER) for each in (old, old, new, new)]
        self.assertEqual(outcomes, [Kept.NEW, Kept.KNOWN, Kept.RENEWED, Kept.KNOWN])
        self.assert_kept(holdings, new)
        self.assertEqual(holdings.size, len(new.raw))

    def test_a_record_that_is_here_is_not_verified_again(self) -> None:
        holdings = fresh()
        self.store(holdings, topic(ME))
        self.patch(Kinds, "open", lambda *_: self.fail("it was"))
        self.store(holdings, topic(ME))

    def test_records_can_be_verified_elsewhere(self) -> None:
        holdings = fresh()
        record, other = topic(ME, expires=NOW + 10), topic(owner(1))
        opened = KINDS.open(record.raw, NETWORK, NOW)
        self.patch(Kinds, "open", lambda *_: self.fail("it was verified here"))
        self.assertFalse(holdings.has(record.raw, NOW))
        self.refuse(RecordExpired, holdings, record, NOW + 10, opened=opened)
        self.assertRaises(ValueError, holdings.store, other.raw, NOW, PEER, opened=opened)
        self.assertIs(holdings.store(record.raw, NOW, PEER, opened=opened), Kept.NEW)
        self.assertTrue(holdings.has(record.raw, NOW + 9))
        self.assertFalse(holdings.has(record.raw, NOW + 10))
        self.assertFalse(holdings.has(other.raw, NOW))

    def test_storing_it_again_makes_it_no_younger(self) -> None:
        holdings = fresh()
        record = mutable(ME)
        self.store(holdings, record)
        before = holdings.changes().rows
        self.store(holdings, record, now=NOW + HOUR, elders=[ME.public])
        self.assertFalse(holdings.changes())
        self.assertEqual(before[0].stored, NOW)
        self.assertEqual(holdings.find("mutable", record.key, record.expires), Found((), 0))

    def test_an_item_that_is_kept_for_longer_is_kept_whoever_published_it(self) -> None:
        holdings = fresh()
        longer = immutable(owner(1), expires=NOW + MAX_LIFETIME)
        self.store(holdings, longer)
        self.assertIs(holdings.store(immutable(ME).raw, NOW, PEER), Kept.KNOWN)
        self.assert_kept(holdings, longer)
        # It is not for an owner who wants to have it shorter, or anything else.
        self.store(holdings, mutable(ME, sequence=NOW + 1, expires=NOW + HOUR))
        self.refuse(RecordStale, holdings, mutable(ME))
        self.refuse(RecordStale, holdings, mutable(ME, b"other", expires=NOW + 1))

    def test_two_writers_of_a_topic_never_overwrite_each_other(self) -> None:
        records = [topic(owner(n), sequence=NOW - n) for n in range(4)]
        for order in permutations(records):
            holdings = fresh()
            self.store(holdings, *order)
            self.assert_kept(holdings, *records)

    @given(st.permutations(range(12)), st.integers(0, 12))
    def test_any_order_of_stores_gives_the_same(self, order: list[int], again: int) -> None:
        records = _assorted()
        holdings = fresh()
        for n in (*order, *order[:again]):
            with contextlib.suppress(RecordStale):  # what it is older than came first
                holdings.store(records[n].raw, NOW, PEER)
        expected = [
            record
            for key in dict.fromkeys((each.kind, each.key) for each in records)
            for record in KINDS.merged(each for each in records if (each.kind, each.key) == key)
        ]
        self.assertEqual(len(expected), 6)
        self.assert_kept(holdings, *expected)

    def test_what_another_merge_rule_says_counts(self) -> None:
        def smallest(held: Record, new: Record) -> Record:
            return min(held, new, key=lambda each: each.value)

        kinds = Kinds((*BUILT_IN, Kind("least", merge=smallest)))
        holdings = fresh(kinds=kinds)
        two, one, three = (seal(ME, "least", bytes(32), b"%d" % n) for n in (2, 1, 3))
        self.store(holdings, two, one)
        self.refuse(RecordStale, holdings, three)
        self.assert_kept(holdings, one)


@cache
def _assorted() -> tuple[Record, ...]:
    """Twelve records for six places."""
    return (
        *(mutable(ME, b"%d" % n, sequence=NOW + n // 2) for n in range(4)),
        *(mutable(ME, salt=b"other", expires=NOW + HOUR + n) for n in range(2)),
        *(immutable(owner(n)) for n in range(2)),
        *(topic(owner(n), b"%d" % n) for n in range(2)),
        *(provider(ME, sequence=NOW + n) for n in range(2)),
    )


class ComparingAndSwapping(Case):
    def setUp(self) -> None:
        self.holdings = fresh()
        self.first = mutable(ME, b"first", sequence=NOW)
        self.second = mutable(ME, b"second", sequence=NOW + 1)

    def seen(self, record: Record) -> Seen:
        return Seen(record.sequence, record.digest)

    def test_it_replaces_what_was_read(self) -> None:
        self.store(self.holdings, self.first)
        self.store(self.holdings, self.second, expected=self.seen(self.first))
        self.assert_kept(self.holdings, self.second)

    def test_it_does_not_replace_what_was_not(self) -> None:
        self.store(self.holdings, self.second)
        third = mutable(ME, b"third", sequence=NOW + 2)
        expected = self.seen(self.first)
        error = self.refuse(RecordChanged, self.holdings, third, expected=expected)
        assert isinstance(error, RecordConflict)
        self.assertEqual(error.sequence, NOW + 1)

    def test_two_with_one_sequence_are_not_the_same(self) -> None:
        other = mutable(ME, b"another", sequence=NOW)
        self.store(self.holdings, other)
        expected = self.seen(self.first)
        self.refuse(RecordChanged, self.holdings, self.second, expected=expected)

    def test_where_nothing_was_there_must_be_nothing(self) -> None:
        self.store(self.holdings, self.first, expected=Seen(0))
        self.refuse(RecordChanged, self.holdings, self.second, expected=Seen(0))

    def test_who_has_missed_what_was_read_catches_up(self) -> None:
        third = mutable(ME, b"third", sequence=NOW + 2)
        self.store(self.holdings, self.first)
        self.store(self.holdings, third, expected=self.seen(self.second))
        self.assert_kept(self.holdings, third)
        empty = fresh()
        self.store(empty, third, expected=self.seen(self.second))
        self.assert_kept(empty, third)

    def test_asking_twice_does_no_harm(self) -> None:
        self.store(self.holdings, self.first)
        for _ in range(2):
            self.store(self.holdings, self.second, expected=self.seen(self.first))
        self.assert_kept(self.holdings, self.second)

    def test_it_is_no_way_back(self) -> None:
        self.store(self.holdings, self.second)
        expected = self.seen(self.second)
        self.refuse(RecordStale, self.holdings, self.first, expected=expected)


class Quotas(Case):
    def test_an_owner_has_so_many_records(self) -> None:
        holdings = fresh(Quota(each_records=3))
        records = [mutable(ME, salt=b"%d" % n) for n in range(4)]
        self.store(holdings, *records[:3])
        self.assertIn("3 records", str(self.refuse(RecordQuotaReached, holdings, records[3])))
        self.assertEqual(holdings.share(ME.public)[0], 3)
        # What is there can be renewed, others have room, and time makes some.
        self.store(holdings, mutable(ME, salt=b"0", sequence=NOW + 1), mutable(owner(1)))
        self.store(holdings, mutable(ME, salt=b"9", sequence=NOW + 1, expires=NOW + 2 * LIFETIME),
                   now=records[1].expires)  # fmt: skip
        self.assertEqual(len(holdings), 1)

    def test_an_owner_has_so_many_bytes(self) -> None:
        one = mutable(ME, bytes(1000), b"0")
        size = len(one.raw)
        holdings = fresh(Quota(each_size=2 * size))
        self.store(holdings, one, mutable(ME, bytes(1000), b"1"))
        self.refuse(RecordQuotaReached, holdings, mutable(ME, b"", b"2"))
        larger = mutable(ME, bytes(1001), b"0", sequence=NOW + 1)
        self.refuse(RecordQuotaReached, holdings, larger)
        self.store(holdings, mutable(ME, bytes(999), b"0", sequence=NOW + 1))
        self.assertEqual(holdings.share(ME.public), (2, 2 * size - 1))

    def test_immutable_items_count_on_who_brings_them(self) -> None:
        holdings = fresh(Quota(each_records=2))
        items = [immutable(owner(n), b"%d" % n) for n in range(3)]
        self.store(holdings, *items[:2])
        self.assertEqual(holdings.share(PEER)[0], 2)
        self.assertEqual(holdings.share(owner(0).public), (0, 0))
        self.refuse(RecordQuotaReached, holdings, items[2])
        holdings.store(items[2].raw, NOW, ME.public)
        self.assertEqual(holdings.share(ME.public)[0], 1)
        # What is here already is no matter of quotas.
        self.assertIs(holdings.store(items[2].raw, NOW, PEER), Kept.KNOWN)
        self.assertEqual(holdings.share(PEER)[0], 2)

    def test_one_that_lasts_longer_counts_on_who_brings_that(self) -> None:
        holdings = fresh()
        self.store(holdings, immutable(ME))
        longer = immutable(ME, expires=NOW + MAX_LIFETIME)
        holdings.store(longer.raw, NOW, owner(1).public)
        self.assertEqual(holdings.share(PEER), (0, 0))
        self.assertEqual(holdings.share(owner(1).public), (1, len(longer.raw)))

    def test_who_has_no_room_cannot_take_over_what_others_brought(self) -> None:
        holdings = fresh(Quota(each_records=1))
        holdings.store(immutable(ME, b"other").raw, NOW, owner(1).public)
        self.store(holdings, immutable(ME))
        longer = immutable(ME, expires=NOW + MAX_LIFETIME).raw
        self.assertRaises(RecordQuotaReached, holdings.store, longer, NOW, owner(1).public)
        self.assertIs(holdings.store(longer, NOW, PEER), Kept.RENEWED)

    def test_a_key_has_so_many_records(self) -> None:
        holdings = fresh()
        records = [topic(owner(n), b"") for n in range(MAX_ENTRIES + 1)]
        self.store(holdings, *records[:MAX_ENTRIES])
        self.assertEqual(len(holdings), MAX_ENTRIES)
        self.store(holdings, records[MAX_ENTRIES])
        self.assert_kept(holdings, *records[1:])
        # Another key has room.
        self.store(holdings, topic(ME, name="fish"))
        self.assertEqual(len(holdings), MAX_ENTRIES + 1)

    def full_key(self, elders: Sequence[int], count: int = 4) -> tuple[Holdings, list[Record]]:
        kind = Kind("few", max_entries=count, slot=lambda record: record.owner.raw)
        holdings = fresh(kinds=Kinds([kind]))
        records = [seal(owner(n), "few", bytes(32)) for n in range(count + 2)]
        for n in range(count):
            self.store(holdings, records[n], now=NOW + n, elders=self.known(elders))
        return holdings, records

    def known(self, numbers: Iterable[int]) -> list[PublicKey]:
        return [owner(n).public for n in numbers]

    def test_those_without_history_make_room_first_and_then_the_oldest(self) -> None:
        holdings, records = self.full_key([0, 1])
        self.store(holdings, records[4])
        self.assert_kept(holdings, *(records[n] for n in (0, 1, 3, 4)))
        self.store(holdings, records[5], elders=self.known([5]))
        self.assert_kept(holdings, *(records[n] for n in (0, 1, 4, 5)))

    def test_a_stranger_takes_nobodys_place_of_whom_we_know(self) -> None:
        holdings, records = self.full_key([0, 1, 2, 3])
        self.refuse(RecordNotKept, holdings, records[4])
        self.store(holdings, records[4], elders=self.known([4]))
        self.assert_kept(holdings, *records[1:5])

    def test_who_renews_his_record_is_not_the_oldest(self) -> None:
        holdings, records = self.full_key([])
        renewed = seal(owner(0), "few", bytes(32), sequence=NOW + 1)
        self.store(holdings, renewed, now=NOW + 10)
        # Bringing the same again is no renewal.
        self.store(holdings, records[1], now=NOW + 11)
        self.store(holdings, records[4], now=NOW + 12)
        self.assert_kept(holdings, renewed, *records[2:5])

    def test_what_has_made_room_can_come_back_and_no_older_one(self) -> None:
        holdings, records = self.full_key([])
        self.store(holdings, records[4])
        older = seal(owner(0), "few", bytes(32), sequence=NOW - 1)
        self.refuse(RecordReplayed, holdings, older)
        self.store(holdings, records[0])
        self.assert_kept(holdings, records[0], *records[2:5])

    def test_a_node_keeps_so_many_records(self) -> None:
        holdings = fresh(Quota(records=3, each_records=3))
        records = [mutable(owner(n)) for n in range(6)]
        self.store(holdings, records[0], elders=[owner(0).public])
        self.store(holdings, *records[1:4])
        self.assert_kept(holdings, records[0], *records[2:4])
        for n in (4, 5):
            self.store(holdings, records[n], elders=[owner(n).public])
        self.assert_kept(holdings, records[0], *records[4:])
        self.assertIn("full", str(self.refuse(RecordNotKept, holdings, mutable(ME))))
        self.store(holdings, mutable(ME), elders=[ME.public])
        self.assert_kept(holdings, *records[4:], mutable(ME))

    def test_a_node_keeps_so_many_bytes(self) -> None:
        size = len(mutable(ME, bytes(1000)).raw)
        holdings = fresh(Quota(size=3 * size, each_size=3 * size))
        records = [mutable(owner(n), bytes(1000)) for n in range(4)]
        self.store(holdings, records[0], elders=[owner(0).public])
        self.store(holdings, *records[1:])
        self.assert_kept(holdings, records[0], *records[2:])
        # One large one takes the place of all that can go, or of none.
        large = mutable(ME, bytes(2001))
        self.assertGreater(len(large.raw), size)
        self.store(holdings, large)
        self.assert_kept(holdings, records[0], large)
        self.refuse(RecordNotKept, holdings, mutable(owner(9), bytes(2 * size)))
        self.assertLessEqual(holdings.size, holdings.quota.size)

    def test_a_stranger_that_is_refused_has_pushed_nobody_out(self) -> None:
        size = len(mutable(ME, bytes(1000)).raw)
        holdings = fresh(Quota(size=3 * size, each_size=3 * size))
        records = [mutable(owner(n), bytes(1000)) for n in range(3)]
        self.store(holdings, *records, elders=[owner(0).public])
        self.refuse(RecordNotKept, holdings, mutable(ME, bytes(3 * size - 500)))
        self.assert_kept(holdings, *records)

    def test_a_record_can_grow_into_what_it_leaves(self) -> None:
        size = len(mutable(ME, bytes(1000)).raw)
        holdings = fresh(Quota(size=2 * size, each_size=2 * size))
        self.store(holdings, mutable(ME, bytes(1000)), elders=[ME.public])
        larger = mutable(ME, bytes(1000 + size), sequence=NOW + 1)
        self.store(holdings, larger)
        self.assert_kept(holdings, larger)
        self.assertEqual(holdings.size, 2 * size)

    def test_who_brings_an_elders_item_again_does_not_make_it_a_strangers(self) -> None:
        holdings = fresh(Quota(records=1, each_records=1))
        self.store(holdings, immutable(ME), elders=[PEER])
        longer = immutable(ME, expires=NOW + MAX_LIFETIME)
        holdings.store(longer.raw, NOW, owner(1).public)
        self.refuse(RecordNotKept, holdings, mutable(owner(2)))

    def test_a_history_that_is_lost_counts_no_more(self) -> None:
        holdings = fresh(Quota(records=1, each_records=1))
        self.store(holdings, mutable(ME), elders=[ME.public])
        self.refuse(RecordNotKept, holdings, mutable(owner(2)))
        self.store(holdings, mutable(ME, sequence=NOW + 1))
        self.store(holdings, mutable(owner(2)))
        self.assert_kept(holdings, mutable(owner(2)))

    def test_no_quota_is_nothing_or_more_than_there_is(self) -> None:
        for changed in (
            {"records": 0},
            {"size": 0},
            {"each_records": 0},
            {"each_size": -1},
            {"records": 999},
            {"size": 4 * 1024 * 1024 - 1},
        ):
            self.assertRaises(ValueError, Quota, **changed)

    def test_memory_is_bounded_under_a_flood(self) -> None:
        self.patch(module, "MAX_FLOORS", 50)
        holdings = fresh(Quota(records=100, each_records=20, size=20_000, each_size=10_000))
        elders = [owner(n).public for n in range(3)]
        written = 0
        for n in range(800):
            record = topic(owner(n % 300), b"x" * (n % 90), name=str(n % 250), sequence=NOW + n,
                           expires=NOW + LIFETIME - n)  # fmt: skip
            with contextlib.suppress(RecordNotKept):  # as elders have so much
                holdings.store(record.raw, NOW + n, PEER, elders)
            # Again and again, as who wants the schedules to grow would do it.
            self.store(
                holdings, *(Record.reopen(raw) for raw in [*kept(holdings)][:2]), now=NOW + n
            )
            self.assertLessEqual(len(holdings), 100)
            self.assertLessEqual(holdings.size, 20_000)
            self.assertLessEqual(holdings.floors, 50)
            self.assertLessEqual(len(holdings._spots), len(holdings))
            for schedule in (holdings._expiry, holdings._republishing):
                self.assertEqual(len(schedule), len(holdings))
                self.assertLessEqual(schedule.waste, len(holdings) + 65)
            if n % 100 == 0:
                changes = holdings.changes()
                written += len(changes.rows) + len(changes.gone)
        self.assertGreater(len(holdings), 50)
        self.assertLess(written, 3 * 800)
        self.assertEqual(sum(holdings.share(each.public)[0] for each in map(owner, range(300))),
                         len(holdings))  # fmt: skip


class Finding(Case):
    def test_an_answer_is_bounded_in_bytes(self) -> None:
        holdings = fresh()
        records = [topic(owner(n), bytes(4000)) for n in range(40)]
        self.store(holdings, *records)
        found = holdings.find("topic", records[0].key, NOW)
        self.assertEqual(found.held, 40)
        self.assertEqual(len(found.records), ANSWER_BYTES // (len(records[0].raw) + 3))
        self.assertEqual(len(set(found.records)), len(found.records))
        self.assertLessEqual(sum(len(raw) + 3 for raw in found.records), ANSWER_BYTES)

    def test_the_largest_record_fits_into_an_answer(self) -> None:
        holdings = fresh()
        record = mutable(ME, bytes(MAX_VALUE), bytes(64))
        self.store(holdings, record)
        self.assertEqual(holdings.find("mutable", record.key, NOW).records, (record.raw,))

    def test_an_answer_has_so_many_records(self) -> None:
        holdings = fresh()
        records = [topic(owner(n), b"") for n in range(MAX_ANSWERED + 1)]
        self.store(holdings, *records)
        found = holdings.find("topic", records[0].key, NOW)
        self.assertEqual((len(found.records), found.held), (MAX_ANSWERED, MAX_ANSWERED + 1))

    def test_a_large_one_does_not_keep_out_small_ones(self) -> None:
        holdings = fresh()
        small = [topic(owner(n), b"") for n in range(20)]
        self.store(holdings, topic(ME, bytes(4000)), *small)
        for _ in range(50):
            found = holdings.find("topic", topic_key("birds"), NOW, 4 * (len(small[0].raw) + 3))
            self.assertEqual((len(found.records), found.held), (4, 21))

    def test_asking_often_gets_to_know_them_all_alike(self) -> None:
        holdings = fresh()
        records = [topic(owner(n), b"") for n in range(20)]
        self.store(holdings, *records)
        times = dict.fromkeys((record.raw for record in records), 0)
        for _ in range(400):
            for raw in holdings.find("topic", records[0].key, NOW, 2**20, 5).records:
                times[raw] += 1
        # 100 each, give or take ten times what chance would.
        self.assertGreater(min(times.values()), 60)
        self.assertLess(max(times.values()), 150)

    def test_what_has_expired_is_not_given(self) -> None:
        holdings = fresh()
        self.store(holdings, topic(ME, expires=NOW + 1), topic(owner(1), expires=NOW + 2))
        key = topic_key("birds")
        self.assertEqual(holdings.find("topic", key, NOW + 1).records,
                         (topic(owner(1), expires=NOW + 2).raw,))  # fmt: skip
        self.assertEqual(holdings.find("topic", key, NOW + 2), Found((), 0))


class Expiring(Case):
    def test_each_goes_at_its_time(self) -> None:
        holdings = fresh()
        records = [mutable(owner(n), expires=NOW + n) for n in (3, 1, 2)]
        self.store(holdings, *records)
        self.assertEqual([holdings.expire(NOW + n) for n in range(4)], [0, 1, 1, 1])
        self.assertEqual((len(holdings), holdings.size), (0, 0))

    def test_it_does_so_much_at_a_time(self) -> None:
        holdings = fresh()
        self.store(holdings, *(mutable(owner(n), expires=NOW + 1) for n in range(10)))
        self.assertEqual([holdings.expire(NOW + 1, 4) for _ in range(4)], [4, 4, 2, 0])

    def test_what_has_expired_is_as_if_it_were_gone_even_if_nobody_had_time(self) -> None:
        self.patch(module, "STEP", 0)
        holdings = fresh()
        old, gone = mutable(ME), mutable(ME, sequence=NOW + 1, expires=NOW + 1)
        self.store(holdings, old, gone)
        raised = self.assertRaises(RecordExpired, holdings.store, gone.raw, NOW + 1, PEER)
        self.assertIn("expired", str(raised))
        new = mutable(ME, sequence=NOW + 1, expires=NOW + 2)
        self.assertIs(holdings.store(new.raw, NOW + 1, PEER, expected=Seen(0)), Kept.NEW)
        self.assert_kept(holdings, new)

    def test_a_clock_that_goes_back_breaks_nothing(self) -> None:
        holdings = fresh()
        self.store(holdings, mutable(ME), now=NOW)
        early = mutable(owner(1), sequence=NOW - HOUR, expires=NOW + HOUR)
        self.store(holdings, early, now=NOW - HOUR)
        self.assertEqual(holdings.expire(NOW - HOUR), 0)
        self.assertEqual(holdings.due(NOW - HOUR, 10), [])
        self.assertEqual(len(holdings), 2)


class Republishing(Case):
    def due(self, holdings: Holdings, now: int, limit: int = 100) -> list[Due]:
        return holdings.due(now, limit)

    def test_every_hour_at_no_certain_moment(self) -> None:
        moments = []
        for seed in range(20):
            holdings = Holdings(OWN, NETWORK, KINDS, Random(seed))
            self.store(holdings, mutable(ME))
            self.assertEqual(holdings.due(NOW + SOONEST - 1, 10), [])
            now = NOW + SOONEST
            while not holdings.due(now, 10):
                now += 60_000
            moments.append(now)
            self.assertLess(now, NOW + LATEST + 60_000)
            # And then again.
            self.assertEqual(holdings.due(now + SOONEST - 1, 10), [])
            self.assertEqual(len(holdings.due(now + LATEST, 10)), 1)
        self.assertGreater(len(set(moments)), 10)
        self.assertGreater(max(moments) - min(moments), 20 * 60_000)

    def test_a_clock_that_was_set_back_keeps_nobody_from_it(self) -> None:
        holdings = fresh()
        ahead = NOW + 24 * HOUR
        record = mutable(ME, sequence=ahead, expires=ahead + 24 * HOUR)
        self.store(holdings, record, now=ahead)
        self.assertEqual(self.due(holdings, ahead), [])
        self.assertEqual(self.due(holdings, NOW), [])
        (due,) = self.due(holdings, NOW + 2 * HOUR)
        self.assertEqual(due.records, (record.raw,))
        # Nor can others keep us from it, who bring it again and again.
        for minutes in range(10, 5 * 60, 10):
            self.store(holdings, record, now=NOW + 2 * HOUR + minutes * 60_000)
        self.assertEqual(len(self.due(holdings, NOW + 9 * HOUR)), 1)

    def test_records_of_a_key_go_together(self) -> None:
        holdings = fresh()
        birds = [topic(owner(n)) for n in range(5)]
        self.store(holdings, *birds, mutable(ME))
        found = holdings.due(NOW + LATEST, 10)
        self.assertEqual({(each.kind, each.key) for each in found},
                         {("topic", topic_key("birds")), ("mutable", mutable(ME).key)})  # fmt: skip
        given = next(each for each in found if each.kind == "topic").records
        self.assertEqual(set(given), {record.raw for record in birds})
        self.assertEqual(holdings.due(NOW + LATEST, 10), [])

    def test_records_of_a_key_that_came_together_go_with_the_first(self) -> None:
        holdings = fresh()
        birds = [topic(owner(n)) for n in range(20)]
        self.store(holdings, *birds)
        now = NOW + SOONEST
        while not (found := holdings.due(now, 10)):
            now += 10_000
        self.assertLess(now, NOW + REPUBLISH)
        self.assertEqual(set(found[0].records), {record.raw for record in birds})

    def test_what_came_later_waits_for_its_own_hour(self) -> None:
        holdings = fresh()
        self.store(holdings, topic(ME))
        self.store(holdings, topic(owner(1)), now=NOW + HOUR + AHEAD)
        (found,) = holdings.due(NOW + LATEST, 10)
        self.assertEqual(found.records, (topic(ME).raw,))

    def test_so_many_keys_at_a_time(self) -> None:
        holdings = fresh()
        self.store(holdings, *(mutable(owner(n)) for n in range(10)))
        counts = [len(holdings.due(NOW + LATEST, 4)) for _ in range(4)]
        self.assertEqual(counts, [4, 4, 2, 0])

    def test_not_if_somebody_nearer_just_did(self) -> None:
        record = mutable(ME)
        for nearer in (True, False):
            holdings = fresh()
            self.store(holdings, record)
            later = NOW + SOONEST - 1
            self.store(holdings, record, now=later, storer=peer_at(record.key, nearer=nearer))
            self.assertEqual(len(holdings.due(NOW + LATEST, 10)), 0 if nearer else 1)
            self.assertEqual(len(holdings.due(later + LATEST, 10)), 1 if nearer else 0)

    def test_not_if_its_owner_just_did(self) -> None:
        record = mutable(ME)
        holdings = fresh()
        self.store(holdings, record)
        self.store(holdings, record, now=NOW + SOONEST - 1, storer=ME.public)
        self.assertEqual(holdings.due(NOW + LATEST, 10), [])

    def test_nobody_can_keep_us_from_it_for_long(self) -> None:
        record = mutable(ME, expires=NOW + MAX_LIFETIME)
        holdings = fresh()
        liar = peer_at(record.key, nearer=True)
        moments = []
        self.store(holdings, record)
        for minutes in range(0, 48 * 60, 10):
            now = NOW + minutes * 60_000
            self.store(holdings, record, now=now, storer=liar)
            if holdings.due(now, 10):
                moments.append(now)
        gaps = [b - a for a, b in zip(moments, moments[1:], strict=False)]
        self.assertGreaterEqual(len(gaps), 5)
        # Each time it waits for as long as it would before.
        self.assertGreater(min(gaps), LONGEST)
        self.assertLess(max(gaps), LONGEST + LATEST + 600_000)

    def test_rarely_if_nearer_ones_take_care(self) -> None:
        holdings = fresh()
        record = mutable(ME, expires=NOW + MAX_LIFETIME)
        self.store(holdings, record)
        self.assertEqual(len(holdings.due(NOW + LATEST, 10)), 1)
        now = NOW + LATEST
        holdings.relieve("mutable", record.key, now)
        self.assertEqual(holdings.due(now + int(LONGEST * (1 - JITTER)) - 1, 10), [])
        self.assertEqual(len(holdings.due(now + int(LONGEST * (1 + JITTER)), 10)), 1)

    def test_what_has_expired_is_not_republished(self) -> None:
        holdings = fresh()
        self.store(holdings, topic(ME, expires=NOW + HOUR // 2), topic(owner(1)))
        (found,) = holdings.due(NOW + LATEST, 10)
        self.assertEqual(found.records, (topic(owner(1)).raw,))
        self.store(holdings, mutable(ME, expires=NOW + HOUR // 2))
        holdings.expire(NOW + HOUR // 2)
        self.assertEqual([each.kind for each in holdings.due(NOW + 2 * LATEST, 10)], ["topic"])

    def test_it_outlives_all_but_one_of_those_that_keep_it(self) -> None:
        """Each hour all others are lost, and one is left, which hands it on."""
        record = mutable(ME)
        keeper = fresh(own=node_id(owner(50).public))
        self.store(keeper, record)
        for hour in range(1, 20):
            now = NOW + hour * LATEST
            if now >= record.expires:
                break
            (due,) = keeper.due(now, 10)
            keeper = fresh(own=node_id(owner(50 + hour).public))
            for raw in due.records:
                keeper.store(raw, now, owner(50 + hour - 1).public)
        self.assertGreater(hour, 15)
        self.assert_kept(keeper, record, now=record.expires - 1)


class HandingOver(Case):
    """
    Nodes are numbers here: the key is at 0, so who has a smaller one is nearer.
    """

    KEY = bytes(32)
    KIND = Kind("thing", max_entries=10, slot=lambda record: record.owner.raw)

    def at(self, place: int) -> NodeId:
        return place.to_bytes(32, "big")

    def holdings(self, own: int) -> tuple[Holdings, Record]:
        holdings = Holdings(self.at(own), NETWORK, Kinds([self.KIND]), Random(1))
        record = seal(ME, "thing", self.KEY)
        self.store(holdings, record)
        return holdings, record

    def handed(self, own: int, newcomer: int, others: Iterable[int]) -> bool:
        holdings, record = self.holdings(own)
        ids = [self.at(other) for other in others]
        steps = list(
            holdings.handover(self.at(newcomer), lambda key: closest(ids, key, NEAREST), NOW)
        )
        found = [due for step in steps for due in step]
        if found:
            self.assertEqual(found, [Due("thing", self.KEY, (record.raw,))])
        return bool(found)

    def test_a_newcomer_that_is_nearer_gets_it(self) -> None:
        self.assertTrue(self.handed(10, 5, []))
        self.assertTrue(self.handed(10, 5, [7, 20, 30]))

    def test_one_that_is_farther_does_not(self) -> None:
        self.assertFalse(self.handed(10, 11, []))

    def test_one_that_is_nearer_than_we_and_not_among_the_nearest_does_not(self) -> None:
        self.assertTrue(self.handed(100, 50, [*range(1, K), 99]))
        self.assertFalse(self.handed(100, 50, range(1, K + 1)))

    def test_only_the_next_behind_it_give_it(self) -> None:
        for between in range(6):
            others = [1, 2, *range(10, 10 + between), 200]
            self.assertEqual(self.handed(100, 5, others), between < HANDING, between)

    def test_each_newcomer_among_the_nearest_gets_it(self) -> None:
        """However many nodes there are, and wherever the newcomer is."""
        rng = Random(3)
        for _ in range(20):
            nodes = rng.sample(range(1, 1000), rng.randrange(2, 60))
            newcomer, *old = nodes
            old.sort()
            givers = [
                each for each in old
                if self.handed(each, newcomer, [other for other in old if other != each])
            ]  # fmt: skip
            behind = [each for each in old if each > newcomer]
            rank = len(old) - len(behind)
            self.assertEqual(givers, behind[:HANDING] if rank < K else [])

    def test_it_looks_at_so_many_at_a_time(self) -> None:
        holdings = fresh(own=bytes([255]) * 32)
        records = [mutable(owner(n)) for n in range(20)]
        self.store(holdings, *records)
        steps = holdings.handover(bytes(32), lambda key: [], NOW, step=6)
        first = next(steps)
        # What happens meanwhile does no harm.
        holdings.expire(NOW + LIFETIME, 5)
        self.store(holdings, mutable(owner(30), expires=NOW + 2 * LIFETIME), now=NOW + LIFETIME)
        rest = list(steps)
        self.assertEqual(len(rest), 3)
        self.assertLessEqual(len(first), 6)

    def test_what_has_expired_is_not_handed_over(self) -> None:
        holdings, record = self.holdings(10)
        found = list(holdings.handover(self.at(1), lambda key: [], record.expires))
        self.assertEqual(found, [[]])


Operations = st.lists(
    st.tuples(
        st.sampled_from(("store", "store", "store", "again", "pass", "expire", "due", "fail")),
        st.integers(0, 39),
    ),
    max_size=60,
)


@cache
def _pool() -> tuple[Record, ...]:
    found: list[Record] = []
    for n in range(40):
        who = owner(n % 5)
        times: dict[str, Any] = {"sequence": NOW + n % 7, "expires": NOW + HOUR * (1 + n % 11)}
        value = bytes(100 * (n % 4))
        make = (mutable, immutable, topic)[n % 3]
        more: dict[str, Any] = {"name": str(n % 2)} if make is topic else {}
        found.append(make(who, value, **times, **more))
    return tuple(found)


class OnTheDisk(Case):
    def setUp(self) -> None:
        self.patch(module, "MAX_FLOORS", 3)

    def write(self, disk: dict[Place, Row], changes: Changes) -> None:
        for place in changes.gone:
            disk.pop(place, None)
        for row in changes.rows:
            disk[row.place] = row

    @given(Operations)
    def test_what_is_written_is_what_is_kept(self, operations: list[tuple[str, int]]) -> None:
        """After any story, and whatever the disk refused before."""
        quota = Quota(records=12, each_records=6, size=4000, each_size=2000)
        holdings = fresh(quota)
        disk: dict[Place, Row] = {}
        now = NOW
        elders = [owner(0).public, owner(1).public]
        for name, n in operations:
            if name in ("store", "again"):
                with contextlib.suppress(RecordNotKept, RecordConflict, RecordExpired):
                    holdings.store(_pool()[n].raw, now, owner(n % 3).public, elders)
            elif name == "pass":
                now += n * n * 60_000
            elif name == "expire":
                holdings.expire(now, n)
            elif name == "due":
                holdings.due(now, n)
            else:
                holdings.not_written(holdings.changes())
                continue
            if n % 2:
                self.write(disk, holdings.changes())
        self.write(disk, holdings.changes())
        records = [row for row in disk.values() if row.raw]
        self.assertEqual({row.raw for row in records}, kept(holdings))
        self.assertEqual(len(records), len(holdings))
        self.assertEqual(len(disk) - len(records), holdings.floors)
        self.check_quotas(quota, holdings, records)
        self.check_restored(quota, holdings, disk, now)

    def check_quotas(self, quota: Quota, holdings: Holdings, rows: list[Row]) -> None:
        self.assertLessEqual(len(rows), quota.records)
        self.assertEqual(sum(len(row.raw) for row in rows), holdings.size)
        self.assertLessEqual(holdings.size, quota.size)
        for each in range(5):
            account = owner(each).public
            sizes = [len(row.raw) for row in rows if row.account == account.raw]
            self.assertEqual(holdings.share(account), (len(sizes), sum(sizes)))
            self.assertLessEqual(len(sizes), quota.each_records)
            self.assertLessEqual(sum(sizes), quota.each_size)

    def check_restored(
        self, quota: Quota, holdings: Holdings, disk: dict[Place, Row], now: int
    ) -> None:
        again = fresh(quota)
        rows = sorted(disk.values(), key=lambda row: row.stored)
        again.restore(rows, now)
        live = {row.raw for row in rows if row.raw and row.expires > now}
        self.assertEqual(kept(again), live)
        self.write(disk, again.changes())
        self.assertEqual({row.raw for row in disk.values() if row.raw}, live)
        for record in _pool():
            one = holdings.find(record.kind, record.key, now)
            other = again.find(record.kind, record.key, now)
            self.assertEqual(set(one.records), set(other.records))

    def test_a_restart_forgets_nothing_that_matters(self) -> None:
        holdings = fresh(Quota(records=2, each_records=2))
        old = mutable(ME, b"old")
        self.store(holdings, mutable(ME, b"gone", sequence=NOW + 1, expires=NOW + 1))
        self.store(holdings, mutable(owner(1)), mutable(owner(2)), elders=[owner(1).public],
                   now=NOW + 1)  # fmt: skip
        disk: dict[Place, Row] = {}
        self.write(disk, holdings.changes())
        again = fresh(holdings.quota)
        rows = sorted(disk.values(), key=lambda row: row.stored)
        self.assertEqual(again.restore(rows, NOW + 2), 2)
        self.assertFalse(again.changes())
        self.refuse(RecordReplayed, again, old, NOW + 2)
        # Whom it knew for longer then, it still does.
        self.store(again, mutable(owner(3)), now=NOW + 2)
        self.assert_kept(again, mutable(owner(1)), mutable(owner(3)), now=NOW + 2)
        self.assertEqual(len(again.due(NOW + 2 + LATEST, 10)), 2)

    def test_what_expired_while_the_node_was_down_keeps_out_what_is_older(self) -> None:
        """
        Scenario C{dht}, seed 2 with 3 nodes: what had been taken back a minute before a node was
        started again could be brought back to it by anybody, for a day.
        """
        holdings = fresh()
        old, farewell = mutable(ME, b"old"), mutable(ME, sequence=NOW + 1, expires=NOW + 60_000)
        self.store(holdings, old, farewell)
        disk: dict[Place, Row] = {}
        self.write(disk, holdings.changes())
        again = fresh()
        self.assertEqual(again.restore(disk.values(), NOW + 60_000), 0)
        self.refuse(RecordReplayed, again, old, NOW + 60_000)
        self.write(disk, again.changes())
        self.assertEqual([row.raw for row in disk.values()], [b""])
        # As it is after one more start, and as long as the older one is good.
        third = fresh()
        third.restore(disk.values(), old.expires - 1)
        self.refuse(RecordReplayed, third, old, old.expires - 1)
        fourth = fresh()
        fourth.restore(disk.values(), NOW + MAX_LIFETIME)
        self.assertEqual(fourth.floors, 0)
        self.assertEqual(len(fourth.changes().gone), 1)

    def test_after_a_restart_records_are_republished_bit_by_bit(self) -> None:
        holdings = fresh()
        self.store(holdings, *(mutable(owner(n)) for n in range(12)))
        again = fresh()
        again.restore(holdings.changes().rows, NOW)
        counts = [len(again.due(NOW + part * REPUBLISH // 4, 100)) for part in range(1, 5)]
        self.assertEqual(sum(counts), 12)
        self.assertLess(max(counts), 8)

    def test_what_is_remembered_no_more_is_written_no_more(self) -> None:
        self.patch(module, "MAX_FLOORS", 2)
        holdings = fresh()
        disk: dict[Place, Row] = {}
        for n in range(5):
            self.store(holdings, mutable(owner(n), expires=NOW + n + 1), now=NOW + n)
            holdings.expire(NOW + n + 1)
            self.write(disk, holdings.changes())
        self.assertEqual([row.owner for row in disk.values()],
                         [owner(n).public.raw for n in (3, 4)])  # fmt: skip
        holdings.expire(NOW + 2 * MAX_LIFETIME)
        self.write(disk, holdings.changes())
        self.assertEqual(disk, {})

    def test_what_there_is_no_room_for_any_more_goes(self) -> None:
        holdings = fresh()
        self.store(holdings, *(mutable(owner(n)) for n in range(5)), topic(ME))
        rows = holdings.changes().rows
        again = fresh(Quota(records=3, each_records=1))
        self.assertEqual(again.restore([evolve(row, kind="gone") for row in rows[:1]], NOW), 0)
        self.assertEqual(again.restore(rows, NOW), 3)
        gone = again.changes()
        self.assertEqual(gone.rows, ())
        self.assertEqual(len(gone.gone), 4)

    def test_while_the_disk_takes_nothing_only_so_much_is_remembered_for_it(self) -> None:
        self.patch(module, "MAX_UNWRITTEN", 10)
        holdings = fresh(Quota(records=5, each_records=5))
        for n in range(100):
            record = topic(owner(n), name=f"{n}")
            if n < 15:
                self.store(holdings, record)
            else:
                self.assertRaises(RecordNotKept, holdings.store, record.raw, NOW, record.owner)
            holdings.not_written(holdings.changes())
        changes = holdings.changes()
        self.assertLessEqual(len(changes.rows) + len(changes.gone), 15)
        # Now it does.
        self.store(holdings, topic(owner(99), name="99"))

    def test_what_is_of_another_network_or_damaged_goes(self) -> None:
        holdings = fresh()
        self.store(holdings, mutable(ME), topic(ME))
        mine, other = holdings.changes().rows
        void = evolve(other, raw=topic(ME, network=bytes(16)).raw)
        for bad in (void, evolve(other, raw=other.raw[:-1])):
            again = fresh()
            self.assertEqual(again.restore([mine, bad], NOW), 1)
            self.assertEqual(again.changes().gone, (other.place,))
            self.assertEqual(again.find("topic", other.key, NOW).held, 0)

    def test_what_the_disk_refused_comes_with_the_next_changes(self) -> None:
        holdings = fresh()
        self.store(holdings, mutable(ME))
        refused = holdings.changes()
        newer = mutable(ME, b"newer", sequence=NOW + 1)
        self.store(holdings, newer, topic(ME))
        holdings.not_written(refused)
        rows = holdings.changes().rows
        self.assertEqual({row.raw for row in rows}, {newer.raw, topic(ME).raw})
        self.assertFalse(holdings.changes())
        holdings.expire(NOW + MAX_LIFETIME)
        refused = holdings.changes()
        self.assertEqual((len(refused.rows), len(refused.gone)), (0, 2))
        holdings.not_written(refused)
        self.assertEqual(holdings.changes(), refused)
