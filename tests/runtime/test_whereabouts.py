"""Tests of L{meshkit.runtime.whereabouts}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import ConfigError
from meshkit.identity.addresses import HostPort
from meshkit.interfaces import IWhereabouts
from meshkit.parts import _Nowhere
from meshkit.runtime.whereabouts import MAX_MAPPED, Whereabouts, parse_advertised

WILDCARD = HostPort("0.0.0.0", 7655)
NEAR = HostPort("192.168.1.2", 7655)
FAR = HostPort("5.1.0.1", 7655)
OTHER = HostPort("5.2.0.1", 40_000)


class AdvertisedTests(SynchronousTestCase):
    def test_names_and_addresses_are_taken_as_they_stand(self) -> None:
        texts = ("mesh.example:443", "5.1.0.1:7655", "[2600::1]:7655", "127.0.0.1:9000")
        self.assertEqual([place.text for place in parse_advertised(texts)], list(texts))

    def test_what_nobody_can_dial_is_refused_with_what_to_do(self) -> None:
        for text, words in (
            ("0.0.0.0:7655", "no host can be reached at 0.0.0.0:7655"),
            ("[::]:7655", "no host can be reached"),
            ("[::ffff:0.0.0.0]:7655", "no host can be reached"),
            ("224.0.0.1:7655", "no host can be reached"),
            ("[fe80::1%eth0]:7655", "names an interface"),
            ("mesh.example", "HOST:PORT"),
            ("mesh.example:0", "port"),
        ):
            with self.assertRaisesRegex(ConfigError, words):
                parse_advertised([text])

    def test_none_stands_there_twice_and_there_are_not_too_many(self) -> None:
        with self.assertRaisesRegex(ConfigError, "twice"):
            parse_advertised(["5.1.0.1:1", "5.1.0.1:1"])
        many = [f"5.1.0.1:{port}" for port in range(1, 10)]
        self.assertEqual(len(parse_advertised(many[:8])), 8)
        with self.assertRaisesRegex(ConfigError, "8 places are the limit"):
            parse_advertised(many)


class WhereaboutsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.own = [WILDCARD]
        self.whereabouts = Whereabouts((), lambda: self.own)

    def test_it_is_what_parts_are_given_with_a_node_or_without(self) -> None:
        verifyObject(IWhereabouts, self.whereabouts)
        verifyObject(IWhereabouts, _Nowhere())

    def test_a_wildcard_is_told_to_nobody(self) -> None:
        self.assertEqual(self.whereabouts.listening(), [WILDCARD])
        self.assertEqual(self.whereabouts.places(), ())
        self.own += [HostPort("::", 7655), NEAR]
        self.assertEqual(self.whereabouts.places(), (NEAR,))

    def test_what_is_mapped_is_where_connections_arrive_until_it_is_no_more(self) -> None:
        changes: list[tuple[HostPort, ...]] = []
        end = self.whereabouts.watch(lambda: changes.append(self.whereabouts.places()))
        self.whereabouts.mapped("mapping", [OTHER])
        self.whereabouts.mapped("mapping", [OTHER])
        self.assertEqual(self.whereabouts.listening(), [WILDCARD, OTHER])
        self.whereabouts.mapped("mapping", [])
        self.whereabouts.mapped("mapping", [])
        self.assertEqual(changes, [(OTHER,), ()])
        end()
        self.whereabouts.mapped("mapping", [FAR])
        self.assertEqual(len(changes), 2)

    def test_a_part_says_only_so_much(self) -> None:
        many = [HostPort("5.1.0.1", port) for port in range(1, 100)]
        self.whereabouts.mapped("mapping", many)
        self.assertEqual(self.whereabouts.listening(), [WILDCARD, *many[:MAX_MAPPED]])

    def test_what_others_say_is_asked_for_each_time_the_nearest_first(self) -> None:
        said: list[HostPort] = [FAR, WILDCARD]
        end = self.whereabouts.ask("dht", lambda: said)
        self.assertEqual(self.whereabouts.places(), (FAR,))
        said[:] = [FAR, NEAR, FAR]
        self.assertEqual(self.whereabouts.places(), (NEAR, FAR))
        end()
        self.assertEqual(self.whereabouts.places(), ())

    def test_what_the_operator_says_counts_for_more_than_all_else(self) -> None:
        name = HostPort("mesh.example", 443)
        whereabouts = Whereabouts((name,), lambda: [NEAR])
        whereabouts.mapped("mapping", [OTHER])
        whereabouts.ask("dht", lambda: [FAR])
        self.assertEqual(whereabouts.places(), (name,))
        self.assertEqual(whereabouts.listening(), [NEAR, OTHER])

    def test_there_are_never_more_than_a_record_holds(self) -> None:
        self.own[:] = [HostPort("5.1.0.1", port) for port in range(1, 20)]
        self.assertEqual(len(self.whereabouts.places()), 8)
