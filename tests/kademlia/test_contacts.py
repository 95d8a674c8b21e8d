"""Tests of L{meshkit.kademlia.contacts}."""

from __future__ import annotations

import hashlib
from ipaddress import ip_network
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.addresses import HostPort
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope
from meshkit.kademlia.blocks import blocks_of
from meshkit.kademlia.contacts import (
    FAILED_DIALS_WITHIN,
    MAX_FAILED_DIALS,
    Contact,
    DialRules,
    FailedDials,
)
from tests.kademlia.support import NETWORK, key_of

LOOPBACK: Final = "127.0.0.1:7655"
LINK: Final = "169.254.3.4:7655"
SITE: Final = "192.168.3.4:7655"
WORLD: Final = "8.8.8.8:7655"


def record(*places: str, n: int = 0) -> AddressRecord:
    return AddressRecord(key_of(n), NETWORK, 1, 2, tuple(map(HostPort.parse, places)))


def named(scope: Scope, *places: str, rules: DialRules | None = None) -> list[str]:
    contact = (rules or DialRules()).contact(record(*places), scope)
    return [] if contact is None else [place.text for place in contact.places]


class ContactTests(SynchronousTestCase):
    def test_it_is_where_the_hash_of_its_key_is(self) -> None:
        contact = DialRules().contact(record(WORLD), Scope.WORLD)
        assert contact is not None
        self.assertEqual(contact.id, hashlib.sha256(key_of(0).raw).digest())
        self.assertEqual(contact.number, int.from_bytes(contact.id, "big"))
        self.assertEqual(contact.blocks, blocks_of("8.8.8.8"))

    def test_two_of_one_key_are_the_same_contact(self) -> None:
        rules = DialRules()
        self.assertEqual(
            rules.contact(record(WORLD), Scope.WORLD),
            rules.contact(record("9.9.9.9:1234"), Scope.WORLD),
        )
        self.assertNotEqual(
            rules.contact(record(WORLD, n=1), Scope.WORLD),
            rules.contact(record(WORLD, n=2), Scope.WORLD),
        )

    def test_contacts_can_be_in_sets(self) -> None:
        rules = DialRules()
        some: set[Contact | None] = {
            rules.contact(record(WORLD), Scope.WORLD),
            rules.contact(record("9.9.9.9:1234"), Scope.WORLD),
        }
        self.assertEqual(len(some), 1)

    def test_who_has_no_address_that_may_be_dialled_is_no_contact(self) -> None:
        self.assertIsNone(DialRules().contact(record(), Scope.MACHINE))
        self.assertIsNone(DialRules().contact(record(LOOPBACK), Scope.WORLD))

    def test_where_it_was_reached_is_first_and_is_what_counts(self) -> None:
        rules = DialRules(own_blocks=(ip_network("9.9.0.0/16"),))
        contact = rules.contact(record(WORLD, "9.9.9.9:9999", "7.7.7.7:7777"), Scope.WORLD)
        assert contact is not None
        self.assertIs(rules.reached(contact, contact.places[0]), contact)
        moved = rules.reached(contact, HostPort("7.7.7.7", 7777))
        self.assertEqual([place.port for place in moved.places], [7777, 7655, 9999])
        self.assertEqual(moved.blocks, blocks_of("7.7.7.7"))
        self.assertIsNone(rules.reached(contact, HostPort("9.9.9.9", 9999)).blocks)
        elsewhere = rules.reached(contact, HostPort("6.6.6.6", 6666))
        self.assertEqual([place.port for place in elsewhere.places], [6666, 7655, 9999, 7777])
        self.assertEqual(elsewhere, contact)


class DialTests(SynchronousTestCase):
    def test_nearer_addresses_are_dialled_only_on_the_word_of_who_is_as_near(self) -> None:
        everything = (LOOPBACK, LINK, SITE, WORLD)
        for scope, count in (
            (Scope.MACHINE, 4),
            (Scope.LINK, 3),
            (Scope.SITE, 2),
            (Scope.WORLD, 1),
        ):
            self.assertEqual(named(scope, *everything), list(everything[4 - count :]), scope)

    def test_what_wraps_a_near_address_is_as_near(self) -> None:
        wrapped = ("[::ffff:127.0.0.1]:7655", "[2002:a00:1::]:7655", "[64:ff9b::c0a8:101]:7655")
        self.assertEqual(named(Scope.WORLD, *wrapped), [])

    def test_nobody_is_dialled_where_no_host_can_be(self) -> None:
        nowhere = ("0.0.0.0:7655", "224.0.0.1:7655", "[ff02::1]:7655", "255.255.255.255:7655")
        self.assertEqual(named(Scope.MACHINE, *nowhere), [])

    def test_names_are_not_dialled(self) -> None:
        self.assertEqual(named(Scope.MACHINE, "localhost:7655", "example.com:7655"), [])

    def test_low_ports_are_not_dialled_but_for_those_of_the_web(self) -> None:
        ports = (1, 22, 25, 53, 80, 443, 1023, 1024, 65535)
        places = tuple(f"8.8.8.8:{port}" for port in ports)
        self.assertEqual(
            named(Scope.WORLD, *places[:8]), [f"8.8.8.8:{port}" for port in (80, 443, 1024)]
        )
        rules = DialRules(low_ports=True)
        self.assertEqual(len(named(Scope.WORLD, *places[:8], rules=rules)), 8)


class FailedDialTests(SynchronousTestCase):
    def test_a_host_rests_after_three_failures_in_a_minute_whatever_the_port(self) -> None:
        dials = FailedDials()
        for n in range(MAX_FAILED_DIALS):
            self.assertTrue(dials.may_dial(HostPort("8.8.8.8", 7000 + n), n))
            dials.failed(HostPort("8.8.8.8", 7000 + n), n)
        again = HostPort("8.8.8.8", 9999)
        self.assertFalse(dials.may_dial(again, MAX_FAILED_DIALS))
        self.assertTrue(dials.may_dial(HostPort("8.8.8.9", 7000), MAX_FAILED_DIALS))
        self.assertFalse(dials.may_dial(again, FAILED_DIALS_WITHIN - 0.1))
        self.assertTrue(dials.may_dial(again, FAILED_DIALS_WITHIN))
        dials.failed(again, FAILED_DIALS_WITHIN)
        self.assertFalse(dials.may_dial(again, FAILED_DIALS_WITHIN + 0.9))
        self.assertTrue(dials.may_dial(again, FAILED_DIALS_WITHIN + 1))

    def test_dials_that_are_under_way_count_too(self) -> None:
        dials, place = FailedDials(), HostPort("8.8.8.8", 7000)
        for _ in range(MAX_FAILED_DIALS):
            self.assertTrue(dials.may_dial(place, 0))
            dials.began(place)
        self.assertFalse(dials.may_dial(HostPort("8.8.8.8", 9), 0))
        self.assertTrue(dials.busy(place, 0))
        self.assertFalse(dials.busy(HostPort("8.8.8.9", 7000), 0))
        dials.ended(place)
        self.assertTrue(dials.may_dial(place, 0))
        self.assertFalse(dials.busy(place, 0))
        dials.failed(place, 0)
        # If the other two are answered it may be dialled once more.
        self.assertTrue(dials.busy(place, 0))
        for _ in range(2):
            dials.ended(place)
            dials.failed(place, 0)
        self.assertFalse(dials.may_dial(place, 0))
        self.assertFalse(dials.busy(place, 0))
        self.assertEqual(dials._under_way, {})

    def test_a_host_has_a_whole_64_of_addresses(self) -> None:
        dials = FailedDials()
        for n in range(MAX_FAILED_DIALS):
            dials.failed(HostPort(f"2600::{n}", 7000), 0)
        self.assertFalse(dials.may_dial(HostPort("2600::ffff:1", 7000), 1))
        self.assertTrue(dials.may_dial(HostPort("2600:0:0:1::1", 7000), 1))
        self.assertEqual(len(dials), 1)

    def test_who_answers_has_never_failed(self) -> None:
        dials = FailedDials()
        place = HostPort("8.8.8.8", 7000)
        for _ in range(9):
            dials.failed(place, 0)
        dials.reached(place)
        self.assertTrue(dials.may_dial(place, 1))
        self.assertEqual(len(dials), 0)

    def test_in_own_blocks_each_port_is_for_itself(self) -> None:
        dials = FailedDials((ip_network("127.0.0.0/8"),))
        for _ in range(MAX_FAILED_DIALS):
            dials.failed(HostPort("127.0.0.1", 7000), 0)
        self.assertFalse(dials.may_dial(HostPort("127.0.0.1", 7000), 1))
        self.assertTrue(dials.may_dial(HostPort("127.0.0.1", 7001), 1))

    def test_what_is_remembered_is_limited(self) -> None:
        dials = FailedDials(limit=3)
        for n in range(5):
            for _ in range(MAX_FAILED_DIALS):
                dials.failed(HostPort(f"8.8.8.{n}", 7000), n)
        self.assertEqual(len(dials), 3)
        # Whoever names many keeps us from nobody else.
        self.assertTrue(dials.may_dial(HostPort("9.9.9.9", 7000), 5))
        may = [dials.may_dial(HostPort(f"8.8.8.{n}", 7000), 5) for n in range(5)]
        self.assertEqual(may, [True, True, False, False, False])

    def test_memory_is_given_back_when_a_minute_is_over(self) -> None:
        dials = FailedDials()
        for n in range(100):
            dials.failed(HostPort(f"8.8.{n}.1", 7000), n)
        dials.failed(HostPort("9.9.9.9", 1), 1_000)
        self.assertEqual(len(dials), 1)
