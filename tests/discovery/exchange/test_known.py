"""Tests of L{meshkit.discovery.exchange.known}."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.exchange.known import AGAIN, MAX_TRIED, Known, Taken
from meshkit.identity.addresses import HostPort
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope
from meshkit.testing.identities import make_identity

NETWORK = bytes(16)
NOW = 1_800_000_000_000


def record(
    name: str | int, sequence: int = NOW, *places: str, lifetime: int = 3_600_000
) -> AddressRecord:
    return AddressRecord.seal(
        make_identity(name),
        NETWORK,
        [HostPort.parse(text) for text in places or ("192.0.2.1:7655",)],
        sequence=sequence,
        expires=sequence + lifetime,
    )


class Taking(SynchronousTestCase):
    def test_the_newest_counts_in_whatever_order_they_come(self) -> None:
        known = Known()
        old, new = record("ada", NOW), record("ada", NOW + 1)
        self.assertIs(known.take(new, Scope.WORLD), Taken.NEWER)
        self.assertIs(known.take(old, Scope.WORLD), Taken.OLDER)
        self.assertIs(known.take(new, Scope.WORLD), Taken.SAME)
        self.assertIs(known.find(new.key), new)

    @given(st.permutations(range(6)))
    def test_who_withholds_or_replays_delays_only(self, order: list[int]) -> None:
        records = [record("ada", NOW + number) for number in range(6)]
        known = Known()
        for number in order:
            known.take(records[number], Scope.WORLD)
        self.assertIs(known.find(records[0].key), records[5])

    def test_of_two_with_one_sequence_the_first_stays(self) -> None:
        known = Known()
        first, second = record("ada", NOW), record("ada", NOW, "192.0.2.2:7655")
        known.take(first, Scope.WORLD)
        self.assertIs(known.take(second, Scope.SITE), Taken.SAME)
        self.assertIs(known.find(first.key), first)
        self.assertEqual(known.nearest(first.key), Scope.WORLD)

    def test_the_nearest_of_those_who_gave_it_counts(self) -> None:
        known = Known()
        given_twice = record("ada")
        known.take(given_twice, Scope.WORLD)
        known.take(given_twice, Scope.SITE)
        self.assertEqual(known.nearest(given_twice.key), Scope.SITE)
        known.take(record("ada", NOW + 1), Scope.WORLD)
        self.assertEqual(known.nearest(given_twice.key), Scope.WORLD)

    def test_who_has_spoken_once_is_not_known_by_hearsay(self) -> None:
        known = Known()
        first = record("ada")
        self.assertFalse(known.spoke(first.key))
        known.take(first, Scope.WORLD)
        self.assertFalse(known.has_spoken(first.key))
        self.assertTrue(known.spoke(first.key))
        self.assertFalse(known.spoke(first.key))
        known.take(record("ada", NOW + 1), Scope.WORLD)
        self.assertTrue(known.has_spoken(first.key))

    def test_strangers_make_room_and_peers_do_not(self) -> None:
        peer = record("peer")
        known = Known({peer.key}, limit=3)
        known.take(peer, Scope.WORLD)
        for number in range(10):
            known.take(record(number), Scope.WORLD)
            self.assertLessEqual(len(known), 3)
        self.assertIs(known.find(peer.key), peer)
        self.assertEqual(
            [each.key for each in known.records()],
            [record(9).key, record(8).key, peer.key],
        )

    def test_of_peers_alone_the_one_heard_of_longest_ago_makes_room(self) -> None:
        records = [record(number) for number in range(3)]
        known = Known({each.key for each in records}, limit=2)
        for each in records:
            known.take(each, Scope.WORLD)
        self.assertIsNone(known.find(records[0].key))


class Giving(SynchronousTestCase):
    def setUp(self) -> None:
        self.known = Known()
        self.records = [record(number) for number in range(40)]
        for each in self.records:
            self.known.take(each, Scope.WORLD)

    def test_those_asked_for_come_first_and_others_by_lot(self) -> None:
        wanted = self.records[3]
        given = self.known.given([wanted.key], 5, NOW, Random(1))
        self.assertIs(given[0], wanted)
        self.assertEqual(len({each.key for each in given}), 6)
        self.assertNotEqual(
            [each.key for each in given],
            [each.key for each in self.known.given([wanted.key], 5, NOW, Random(2))],
        )

    def test_nobody_is_given_his_own_as_another(self) -> None:
        asker = self.records[0].key
        given = self.known.given([], 40, NOW, Random(1), asker)
        self.assertEqual(len(given), 39)
        self.assertNotIn(asker, [each.key for each in given])

    def test_what_has_expired_is_not_given(self) -> None:
        keys = [each.key for each in self.records]
        self.assertEqual(self.known.given(keys, 0, NOW + 3_600_000, Random(1)), [])
        self.assertEqual(self.known.given([], 5, NOW + 3_600_000, Random(1)), [])

    def test_strangers_are_not_given(self) -> None:
        self.assertEqual(self.known.given([make_identity("x").public], 0, NOW, Random(1)), [])


class Trying(SynchronousTestCase):
    def setUp(self) -> None:
        self.known = Known()
        self.record = record("ada", NOW, "192.0.2.1:7655", "192.0.2.2:7655")
        self.one, self.other = self.record.addresses
        self.known.take(self.record, Scope.WORLD)
        self.key = self.record.key

    def test_a_place_is_tried_once_an_hour_however_often_it_is_named(self) -> None:
        self.known.trying(self.key, self.one, 5.0)
        self.assertEqual(self.known.untried(self.key, 6.0), [self.other])
        self.known.take(record("ada", NOW + 1, "192.0.2.1:7655"), Scope.WORLD)
        self.assertEqual(self.known.untried(self.key, 7.0), [])
        self.assertEqual(self.known.untried(self.key, 5.0 + AGAIN), [self.one])

    def test_who_answers_or_wakes_begins_anew(self) -> None:
        for forget in (lambda: self.known.reached(self.key), self.known.try_again):
            self.known.trying(self.key, self.one, 5.0)
            forget()
            self.assertEqual(self.known.untried(self.key, 6.0), [self.one, self.other])

    def test_what_is_remembered_has_a_limit(self) -> None:
        known = Known(limit=2)
        hosts = [HostPort(f"198.51.100.{number}", 7655) for number in range(MAX_TRIED + 1)]
        for place in hosts[:-1]:
            self.assertFalse(known.was_tried(self.key, place, 1.0))
            known.trying(self.key, place, 1.0)
        # It has had its share, and the first of them is not forgotten for it.
        self.assertTrue(known.was_tried(self.key, hosts[-1], 2.0))
        self.assertTrue(known.was_tried(self.key, hosts[0], 2.0))
        self.assertFalse(known.was_tried(self.key, hosts[-1], 1.0 + AGAIN))
        known.trying(self.key, hosts[-1], 1.0 + AGAIN)
        self.assertEqual(len(known._tried[self.key]), MAX_TRIED)
        for number in range(5):
            known.trying(make_identity(number).public, self.one, 1.0)
        self.assertFalse(known.was_tried(self.key, hosts[-1], 2.0 + AGAIN))

    def test_a_host_is_tried_once_at_whatever_port(self) -> None:
        for tried, same, other in (
            ("192.0.2.9:7655", "192.0.2.9:7656", "192.0.2.8:7655"),
            ("[2001:db8::1]:7655", "[2001:db8::2]:7656", "[2001:db8:0:1::1]:7655"),
            # Nodes of this machine differ in nothing but the port.
            ("127.0.0.1:7655", "127.0.0.1:7655", "127.0.0.1:7656"),
        ):
            self.known.trying(self.key, HostPort.parse(tried), 1.0)
            self.assertTrue(self.known.was_tried(self.key, HostPort.parse(same), 2.0))
            self.assertFalse(self.known.was_tried(self.key, HostPort.parse(other), 2.0))

    def test_where_it_has_dialled_from_it_may_be_dialled(self) -> None:
        for place in (self.one, self.other):
            self.known.trying(self.key, place, 1.0)
        self.known.seen_at(self.key, HostPort(self.one.host, 40_000))
        self.assertEqual(self.known.untried(self.key, 2.0), [self.one])

    def test_of_strangers_there_is_nothing_to_try(self) -> None:
        self.assertEqual(self.known.untried(make_identity("x").public, 1.0), [])
