"""Tests of L{meshkit.kademlia.store}."""

from __future__ import annotations

import sqlite3
from random import Random
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import RecordReplayed
from meshkit.identity.addresses import HostPort
from meshkit.identity.records import MAX_LIFETIME as ADDRESS_LIFETIME
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope
from meshkit.kademlia import store
from meshkit.kademlia.contacts import Contact, DialRules
from meshkit.kademlia.distance import node_id
from meshkit.kademlia.holdings import Changes, Holdings, Kept, Row
from meshkit.kademlia.kinds import Kinds, mutable_key, topic_key
from meshkit.kademlia.publications import Publication, Publications
from meshkit.kademlia.records import LIFETIME
from meshkit.kademlia.routing import Remembered, RoutingTable
from tests.kademlia.recording import (
    HOUR,
    ME,
    NETWORK,
    NOW,
    immutable,
    mutable,
    owner,
    topic,
)

OWN = node_id(owner(1000).public)
PEER = owner(1001).public
RULES = DialRules()


def fresh() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for script in store.MIGRATIONS:
        connection.executescript(script)
    return connection


def holdings() -> Holdings:
    return Holdings(OWN, NETWORK, Kinds(), Random(1))


def row(n: int, **changed: Any) -> Row:
    made = Row(
        "mutable", bytes([n]) * 32, b"", b"o" * 32, n + 1, n + 2, b"a" * 32, n % 2 > 0, n, b"raw"
    )
    return evolve(made, **changed)


class Records(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()

    def write(self, rows: tuple[Row, ...] = (), gone: tuple[Row, ...] = ()) -> None:
        store.write(self.connection, Changes(rows, tuple(each.place for each in gone)))

    def read(self) -> list[Row]:
        return store.read(self.connection)

    def test_what_is_written_can_be_read(self) -> None:
        rows = (row(1), row(2, slot=b"s" * 32), row(3, kind="topic"), row(4, raw=b""))
        self.write(rows)
        self.assertEqual(self.read(), list(rows))

    def test_it_is_read_in_the_order_in_which_it_was_stored(self) -> None:
        rows = (row(3), row(1), row(2))
        self.write(rows)
        self.assertEqual([each.stored for each in self.read()], [1, 2, 3])

    def test_the_last_that_is_written_of_a_place_counts(self) -> None:
        self.write((row(1), row(2)))
        self.write((row(1, raw=b"newer"),), (row(2), row(9)))
        self.assertEqual(self.read(), [row(1, raw=b"newer")])

    def test_the_largest_numbers_there_are(self) -> None:
        most = row(1, sequence=2**63 - 1, expires=2**63 - 1)
        self.write((most,))
        self.assertEqual(self.read(), [most])

    @given(st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.integers(0, 99)), max_size=30))
    def test_any_changes(self, changes: list[tuple[int, bool, int]]) -> None:
        self.connection.execute("DELETE FROM kademlia_records")
        disk: dict[int, Row] = {}
        for n, gone, stored in changes:
            if gone:
                disk.pop(n, None)
                self.write(gone=(row(n),))
            else:
                disk[n] = row(n, stored=stored)
                self.write((disk[n],))
        self.assertEqual({each.key[0]: each for each in self.read()}, disk)

    def test_holdings_come_back_after_a_restart(self) -> None:
        first = holdings()
        old = mutable(ME, b"old")
        for record in (
            mutable(ME, sequence=NOW + 1, expires=NOW + 1),
            *(topic(owner(n)) for n in range(3)),
            immutable(ME),
        ):
            first.store(record.raw, NOW, PEER)
        first.expire(NOW + 1)
        store.write(self.connection, first.changes())
        again = holdings()
        self.assertEqual(again.restore(self.read(), NOW + 1), 4)
        self.assertFalse(again.changes())
        self.assertEqual(again.size, first.size)
        self.assertEqual(again.share(PEER), first.share(PEER))
        self.assertEqual(again.find("topic", topic(ME).key, NOW + 1).held, 3)
        self.assertRaises(RecordReplayed, again.store, old.raw, NOW + 1, PEER)
        self.assertIs(again.store(immutable(ME).raw, NOW + 1, PEER), Kept.KNOWN)
        later = holdings()
        self.assertEqual(later.restore(self.read(), NOW + LIFETIME), 0)
        store.write(self.connection, later.changes())
        # What may not be brought back is remembered for longer than what was kept.
        self.assertEqual([each.raw for each in self.read()], [b""] * 5)


class PublicationsOfThisNode(SynchronousTestCase):
    def test_they_go_on_after_a_restart(self) -> None:
        connection = fresh()
        first = Publications(ME, NETWORK, Kinds(), Random(1))
        for n in range(3):
            until = None if n else NOW + HOUR
            first.publish("topic", topic_key(str(n)), b"", NOW, until=until)
        first.publish("mutable", mutable_key(ME.public, b"s"), b"", NOW, salt=b"s")
        store.write_publications(connection, first.changes())
        first.withdraw("topic", topic_key("1"), NOW)
        newer = first.publish("topic", topic_key("2"), b"newer", NOW)
        store.write_publications(connection, first.changes())
        found, damaged = store.read_publications(connection)
        self.assertEqual(damaged, [])
        again = Publications(ME, NETWORK, Kinds(), Random(1))
        self.assertEqual(again.restore(found, NOW), 3)
        self.assertFalse(again.changes())
        for n in range(3):
            key = topic_key(str(n))
            self.assertEqual(again.find("topic", key), first.find("topic", key))
        self.assertEqual(again.find("topic", topic_key("2")), Publication(newer))
        key = mutable_key(ME.public, b"s")
        self.assertEqual(again.find("mutable", key, b"s"), first.find("mutable", key, b"s"))

    def test_one_that_is_damaged_is_named_and_left_where_it_is(self) -> None:
        connection = fresh()
        publications = Publications(ME, NETWORK, Kinds(), Random(1))
        for text in ("a", "b"):
            publications.publish("topic", topic_key(text), b"", NOW)
        store.write_publications(connection, publications.changes())
        connection.execute(
            "UPDATE kademlia_publications SET raw = x'00' WHERE key = ?", (topic_key("a"),)
        )
        found, (damaged,) = store.read_publications(connection)
        self.assertEqual([each.record.key for each in found], [topic_key("b")])
        self.assertIn(f"the topic record at {topic_key('a').hex()}", damaged)
        count = connection.execute("SELECT count(*) FROM kademlia_publications").fetchone()
        self.assertEqual(count, (2,))


def remembered(n: int, *places: str, sequence: int = NOW, **changed: Any) -> Remembered:
    who = owner(n)
    texts = places or (f"11.{n}.0.1:7655",)
    found = [HostPort.parse(text) for text in texts]
    record = AddressRecord.seal(
        who, NETWORK, found, sequence=sequence, expires=sequence + ADDRESS_LIFETIME
    )
    contact = RULES.contact(record, Scope.WORLD)
    assert contact is not None
    return evolve(Remembered(contact, 100.0 + n, 200.5 + n, n % 2 > 0), **changed)


class Contacts(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()

    def read(self, network: bytes = NETWORK, rules: DialRules = RULES) -> list[Remembered]:
        return store.read_contacts(self.connection, network, rules)

    def assert_same(self, one: Remembered, other: Remembered) -> None:
        self.assertEqual(one, other)
        self.assertEqual(one.contact.record, other.contact.record)
        self.assertEqual(one.contact.places, other.contact.places)
        self.assertEqual(one.contact.blocks, other.contact.blocks)

    def test_the_table_comes_back_after_a_restart(self) -> None:
        table = RoutingTable(OWN)
        for n in range(30):
            table.answered(remembered(n).contact, float(n))
        kept = table.snapshot()
        store.write_contacts(self.connection, kept)
        found = self.read()
        self.assertEqual(len(found), 30)
        for one, other in zip(found, kept, strict=True):
            self.assert_same(one, other)
        again = RoutingTable(OWN)
        anchors = again.restore(found, 1000.0)
        self.assertEqual(anchors, [each.contact for each in kept if each.anchor])
        self.assertEqual(len(anchors), 8)

    def test_it_takes_the_place_of_what_was_there(self) -> None:
        store.write_contacts(self.connection, [remembered(1), remembered(2)])
        store.write_contacts(self.connection, [remembered(3)])
        self.assertEqual(self.read(), [remembered(3)])

    def test_where_it_was_reached_is_first_again(self) -> None:
        each = remembered(1, "11.1.0.1:7655", "12.1.0.1:7655")
        moved = RULES.reached(each.contact, each.contact.places[1])
        store.write_contacts(self.connection, [evolve(each, contact=moved)])
        (found,) = self.read()
        self.assert_same(found, evolve(each, contact=moved))
        self.assertEqual(found.contact.places[0].text, "12.1.0.1:7655")

    def test_nothing_becomes_nearer_by_a_restart(self) -> None:
        """What could not be dialled when it was named cannot be dialled now."""
        each = remembered(1, "11.1.0.1:7655", "127.0.0.1:7655", "10.0.0.1:7655")
        self.assertEqual(len(each.contact.places), 1)
        store.write_contacts(self.connection, [each])
        (found,) = self.read()
        self.assertEqual(found.contact.places, each.contact.places)

    def test_neighbours_on_this_machine_come_back(self) -> None:
        record = remembered(1, "11.1.0.1:7655", "127.0.0.1:7655").contact.record
        contact = RULES.contact(record, Scope.MACHINE)
        assert contact is not None
        store.write_contacts(self.connection, [Remembered(contact, 1.0, 2.0)])
        (found,) = self.read()
        self.assertEqual(found.contact.places, contact.places)
        self.assertEqual(len(contact.places), 2)

    def test_the_rules_of_today_count(self) -> None:
        rules = DialRules(low_ports=True)
        record = remembered(1, "11.1.0.1:7655", "11.1.0.1:99").contact.record
        contact = rules.contact(record, Scope.WORLD)
        assert contact is not None
        low = evolve(remembered(2), contact=evolve_places(contact, "11.1.0.1:99"))
        store.write_contacts(self.connection, [low, Remembered(contact, 1.0, 2.0)])
        self.assertEqual(len(self.read(rules=rules)), 2)
        (found,) = self.read()
        self.assertEqual([place.text for place in found.contact.places], ["11.1.0.1:7655"])

    def test_those_of_another_network_and_damaged_ones_are_left_out(self) -> None:
        store.write_contacts(self.connection, [remembered(n) for n in range(4)])
        self.assertEqual(self.read(network=bytes(16)), [])
        self.connection.execute("UPDATE kademlia_contacts SET record = x'00' WHERE position = 1")
        self.connection.execute(
            "UPDATE kademlia_contacts SET places = 'nowhere' WHERE position = 2"
        )
        self.connection.execute("UPDATE kademlia_contacts SET places = '' WHERE position = 3")
        self.assertEqual(self.read(), [remembered(0)])

    def test_those_whose_records_have_expired_are_tried_all_the_same(self) -> None:
        old = remembered(1, sequence=NOW - 1000 * HOUR)
        store.write_contacts(self.connection, [old])
        self.assertEqual(self.read(), [old])


def evolve_places(contact: Contact, *texts: str) -> Contact:
    places = tuple(HostPort.parse(text) for text in texts)
    return Contact(contact.key, contact.record, places, contact.blocks)
