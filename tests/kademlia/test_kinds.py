"""Tests of L{meshkit.kademlia.kinds}."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from itertools import permutations
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import (
    RecordError,
    RecordExpired,
    RecordForeignOwner,
    RecordForged,
    RecordInvalid,
    RecordTooLarge,
    RecordWrongKey,
    RecordWrongKind,
)
from meshkit.identity.records import MAX_SKEW
from meshkit.interfaces import IRecordKind
from meshkit.kademlia.distance import record_key
from meshkit.kademlia.kinds import (
    ADDRESS,
    BUILT_IN,
    IMMUTABLE,
    MAX_ENTRIES,
    MAX_KINDS,
    MAX_TOPIC_VALUE,
    Kind,
    Kinds,
    address_key,
    immutable_key,
    lasting,
    mutable_key,
    newest,
    provider_key,
    topic_key,
)
from meshkit.kademlia.records import LIFETIME, MAX_VALUE, Record
from meshkit.testing.kinds import kind_problems
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
    topic,
)

KINDS = Kinds()
OTHER = owner(1)


@cache
def versions(kind: str) -> tuple[Record, ...]:
    """Valid records for one place: of several sequences, expiries and values, and signers."""
    found: list[Record] = []
    for sequence in (NOW, NOW, NOW + 1):
        for expires in (NOW + HOUR, NOW + 2 * HOUR):
            times: dict[str, Any] = {"sequence": sequence, "expires": expires}
            if kind == "address":
                # The same with a longer life of what is in it.
                longer = inner(ME, sequence, expires + len(found) + 1)
                found.append(address(ME, longer, **times))
            elif kind == "provider":
                found.append(provider(ME, inner(ME, NOW, expires + len(found)), **times))
            elif kind == "immutable":
                found.append(immutable(owner(len(found)), **times))
            else:
                make = mutable if kind == "mutable" else topic
                found.append(make(ME, b"value %d" % len(found), **times))
    return tuple(found)


class KeysOfRecords(SynchronousTestCase):
    def test_they_are_the_hashes_of_the_document(self) -> None:
        for kind, key, name in (
            ("address", address_key(ME.public), ME.public.raw),
            ("provider", provider_key(b"content"), b"content"),
            ("mutable", mutable_key(ME.public, b"salt"), ME.public.raw + b"salt"),
            ("immutable", immutable_key(b"value"), hashlib.sha256(b"value").digest()),
            ("topic", topic_key("Vögel"), "Vögel".encode()),
        ):
            prefix = b"meshkit/dht/" + kind.encode() + b"/1"
            self.assertEqual(key, hashlib.sha256(prefix + name).digest())
            self.assertEqual(key, record_key(kind, name))


class Validation(SynchronousTestCase):
    def take(self, record: Record, now: int = NOW) -> None:
        self.assertEqual(KINDS.open(record.raw, NETWORK, now), record)

    def refuse(self, expected: type[RecordError], record: Record, now: int = NOW) -> str:
        error = self.assertRaises(expected, KINDS.open, record.raw, NETWORK, now)
        self.assertIs(type(error), expected)
        return str(error)

    def test_each_kind_takes_its_own(self) -> None:
        for kind in BUILT_IN:
            for record in versions(kind.name):
                self.take(record)

    def test_each_kind_is_what_the_interface_says(self) -> None:
        for kind in BUILT_IN:
            self.assertTrue(verifyObject(IRecordKind, kind))

    def test_a_kind_that_nobody_here_knows_is_refused(self) -> None:
        record = seal(ME, "org.example.thing", record_key("org.example.thing", b"x"))
        self.assertIn("org.example.thing", self.refuse(RecordWrongKind, record))

    def test_what_was_changed_by_somebody_is_refused(self) -> None:
        raw = mutable(ME).raw.replace(b"value", b"VALUE")
        self.assertRaises(RecordForged, KINDS.open, raw, NETWORK, NOW)

    def test_a_place_that_is_another_owners_is_refused(self) -> None:
        self.refuse(RecordForeignOwner, seal(OTHER, "mutable", mutable_key(ME.public)))
        self.refuse(RecordForeignOwner, seal(ME, "mutable", mutable_key(ME.public), salt=b"x"))
        # Salt and key have one border only, as keys have one length.
        salt = ME.public.raw + b"x"
        self.refuse(RecordForeignOwner, seal(ME, "mutable", mutable_key(OTHER.public, salt)))
        self.refuse(
            RecordForeignOwner, seal(OTHER, "address", address_key(ME.public), inner(OTHER))
        )

    def test_keys_of_one_kind_are_none_of_another(self) -> None:
        self.refuse(RecordForeignOwner, seal(ME, "mutable", address_key(ME.public)))
        self.refuse(RecordWrongKey, seal(ME, "immutable", mutable_key(ME.public)))

    def test_an_immutable_item_stands_at_the_hash_of_its_value(self) -> None:
        self.refuse(RecordWrongKey, seal(ME, "immutable", immutable_key(b"value"), b"other"))
        self.refuse(RecordWrongKey, seal(ME, "immutable", hashlib.sha256(b"value").digest()))

    def test_an_address_is_that_of_its_owner(self) -> None:
        key = address_key(ME.public)
        self.refuse(RecordForeignOwner, seal(ME, "address", key, inner(OTHER)))
        self.refuse(RecordForeignOwner, provider(ME, inner(OTHER)))

    def test_an_address_is_an_address_record_of_this_network(self) -> None:
        key = address_key(ME.public)
        for value in (b"", b"192.0.2.7:7655", inner(ME)[:-1], inner(ME, network=bytes(16))):
            self.refuse(RecordInvalid, seal(ME, "address", key, value))
            if value:
                self.refuse(RecordInvalid, provider(ME, value))

    def test_an_address_has_the_sequence_of_what_is_in_it(self) -> None:
        self.refuse(RecordInvalid, address(ME, inner(ME, NOW - 1)))
        self.refuse(RecordInvalid, address(ME, inner(ME, NOW + 1)))

    def test_a_record_is_good_no_longer_than_the_address_in_it(self) -> None:
        value = inner(ME, expires=NOW + HOUR)
        for make in (address, provider):
            self.take(make(ME, value, expires=NOW + HOUR))
            self.refuse(RecordInvalid, make(ME, value, expires=NOW + HOUR + 1))

    @given(st.integers(0, HOUR - 1))
    def test_what_was_valid_stays_so_until_it_expires(self, later: int) -> None:
        for kind in BUILT_IN:
            record = versions(kind.name)[0]
            self.assertEqual(record.expires, NOW + HOUR)
            self.take(record, NOW + later)
            self.refuse(RecordExpired, record, NOW + HOUR)

    def test_a_provider_need_not_say_where_it_is(self) -> None:
        self.take(provider(ME, b""))

    def test_a_salt_is_for_mutable_items_alone(self) -> None:
        self.take(mutable(ME, salt=b"x"))
        for record in (
            provider(ME, salt=b"x"),
            topic(ME, salt=b"x"),
            immutable(ME, salt=b"x"),
        ):
            self.assertIn("salt", self.refuse(RecordInvalid, record))

    def test_each_kind_has_a_size(self) -> None:
        self.take(mutable(ME, bytes(MAX_VALUE)))
        self.take(immutable(ME, bytes(MAX_VALUE)))
        self.take(topic(ME, bytes(MAX_TOPIC_VALUE)))
        self.refuse(RecordTooLarge, topic(ME, bytes(MAX_TOPIC_VALUE + 1)))
        self.refuse(RecordTooLarge, provider(ME, bytes(1025)))
        self.refuse(RecordTooLarge, address(ME, bytes(1025)))

    def test_an_answer_is_what_was_asked_for(self) -> None:
        record = topic(ME)
        opened = KINDS.open_answer(record.raw, NETWORK, NOW, "topic", topic_key("birds"))
        self.assertEqual(opened, record)
        for error, raw, kind, key in (
            (RecordWrongKind, record.raw, "provider", topic_key("birds")),
            (RecordWrongKey, record.raw, "topic", topic_key("fish")),
            (RecordForged, record.raw.replace(b"value", b"VALUE"), "topic", topic_key("birds")),
            (RecordTooLarge, topic(ME, bytes(5000)).raw, "topic", topic_key("birds")),
            (RecordForeignOwner, seal(OTHER, "mutable", mutable_key(ME.public)).raw, "mutable",
             mutable_key(ME.public)),
        ):  # fmt: skip
            raised = self.assertRaises(error, KINDS.open_answer, raw, NETWORK, NOW, kind, key)
            self.assertIs(type(raised), error)


class Merging(SynchronousTestCase):
    """Whatever nodes hear of first, they come to the same."""

    def check(self, merge: Callable[[Record, Record], Record], some: tuple[Record, ...]) -> None:
        for a in some:
            self.assertIs(merge(a, a), a)
            for b in some:
                self.assertIs(merge(a, b), merge(b, a))
                self.assertIn(merge(a, b), (a, b))
                for c in some:
                    self.assertIs(merge(merge(a, b), c), merge(a, merge(b, c)))

    def test_the_rules_are_commutative_associative_and_idempotent(self) -> None:
        for kind in BUILT_IN:
            with self.subTest(kind.name):
                self.check(kind.merge, versions(kind.name))
                self.assertEqual(kind_problems(kind, versions(kind.name), NOW), [])

    def test_the_newest_counts(self) -> None:
        for kind in BUILT_IN:
            if kind is IMMUTABLE:
                continue
            old, new = versions(kind.name)[0], versions(kind.name)[-1]
            self.assertLess(old.sequence, new.sequence)
            self.assertIs(kind.merge(old, new), new)

    def test_a_shorter_life_can_be_given_by_the_owner_alone(self) -> None:
        long, short = mutable(ME), mutable(ME, sequence=NOW + 1, expires=NOW + 1)
        self.assertIs(newest(long, short), short)
        long, short = immutable(ME), immutable(OTHER, sequence=NOW + MAX_SKEW, expires=NOW + 1)
        self.assertIs(lasting(long, short), long)

    @given(st.lists(st.integers(0, 17), max_size=12), st.randoms(use_true_random=False))
    def test_any_order_gives_the_same(self, chosen: list[int], rng: Random) -> None:
        pool = [record for n in range(3) for record in _of_author(n)]
        some = [pool[n] for n in chosen]
        shuffled = list(some)
        rng.shuffle(shuffled)
        merged = KINDS.merged(some)
        self.assertEqual(merged, KINDS.merged(shuffled))
        self.assertEqual(merged, KINDS.merged([*merged, *some]))
        newest_of: dict[bytes, int] = {}
        for record in some:
            who = record.owner.raw
            newest_of[who] = max(newest_of.get(who, 0), record.sequence)
        self.assertEqual({each.owner.raw: each.sequence for each in merged}, newest_of)

    def test_two_writers_never_overwrite_each_other(self) -> None:
        records = [topic(owner(n), sequence=NOW - n) for n in range(4)]
        for order in permutations(records):
            merged = KINDS.merged(order)
            self.assertEqual(len(merged), 4)
            self.assertEqual({each.raw for each in merged}, {each.raw for each in records})

    def test_each_provider_has_a_place_of_its_own(self) -> None:
        records = [provider(owner(n)) for n in range(4)]
        self.assertEqual(len(KINDS.merged([*records, *records])), 4)

    def test_of_an_item_what_lasts_longer_is_kept(self) -> None:
        long, short = immutable(ME), immutable(OTHER, sequence=NOW + 1, expires=NOW + 1)
        self.assertEqual(KINDS.merged([short, long]), [long])

    def test_of_one_item_there_is_one_whoever_published_it(self) -> None:
        self.assertEqual(len(KINDS.merged([immutable(owner(n)) for n in range(4)])), 1)


@cache
def _of_author(n: int) -> tuple[Record, ...]:
    return tuple(topic(owner(n), b"%d" % part, sequence=NOW + part // 2) for part in range(6))


class Registering(SynchronousTestCase):
    def test_others_bring_kinds_of_their_own(self) -> None:
        def validate(record: Record, now: int) -> None:
            if record.value != b"a robin":
                raise RecordInvalid("it is no robin")

        kind = Kind("org.example.bird", max_value=7, validate=validate)
        kinds = Kinds((*BUILT_IN, kind))
        self.assertIs(kinds.find("org.example.bird"), kind)
        key = record_key(kind.name, b"")
        record = seal(ME, kind.name, key, b"a robin")
        self.assertEqual(kinds.open(record.raw, NETWORK, NOW), record)
        for error, value in ((RecordInvalid, b"a wren"), (RecordTooLarge, b"a pigeon")):
            raw = seal(ME, kind.name, key, value).raw
            self.assertRaises(error, kinds.open, raw, NETWORK, NOW)

    def test_names_are_unique(self) -> None:
        self.assertRaises(ValueError, Kinds, (*BUILT_IN, Kind("topic")))
        self.assertIn("topic", KINDS)
        self.assertNotIn("topics", KINDS)
        self.assertEqual(KINDS.names, ["address", "immutable", "mutable", "provider", "topic"])

    def test_several_parts_may_need_one(self) -> None:
        kinds = Kinds()
        for _ in range(2):
            kinds.register(Kind("ours"))
        self.assertRaises(ValueError, kinds.register, Kind("ours", max_value=1))

    def test_a_node_knows_so_many(self) -> None:
        kinds = Kinds(Kind(f"k{n}") for n in range(MAX_KINDS))
        self.assertRaises(ValueError, kinds.register, Kind("one-more"))

    def test_no_kind_asks_for_more_than_there_is(self) -> None:
        Kind("k", max_value=MAX_VALUE, max_entries=MAX_ENTRIES)
        for name in ("", "K", "k" * 33, "k\n"):
            self.assertRaises(ValueError, Kind, name)
        self.assertRaises(ValueError, Kind, "k", max_value=MAX_VALUE + 1)
        self.assertRaises(ValueError, Kind, "k", max_value=-1)
        self.assertRaises(ValueError, Kind, "k", max_entries=MAX_ENTRIES + 1)
        self.assertRaises(ValueError, Kind, "k", max_entries=0)

    def test_one_that_is_not_made_by_ours_is_checked_too(self) -> None:
        class Theirs:
            name = "theirs"
            max_value = MAX_VALUE + 1
            max_entries = 1

        self.assertRaises(ValueError, Kinds, (Theirs(),))

    def test_the_life_of_a_record_is_a_day(self) -> None:
        self.assertEqual(LIFETIME, 24 * HOUR)
        self.assertEqual(ADDRESS.max_entries, 1)
