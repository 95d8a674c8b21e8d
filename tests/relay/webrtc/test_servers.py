"""Tests of L{meshkit.relay.webrtc.servers}."""

from __future__ import annotations

from ipaddress import IPv4Address
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.addresses import HostPort
from meshkit.relay.stun.message import TRANSACTION_BYTES
from meshkit.relay.webrtc.servers import MAX_STUN, Seen, StunServers

ONE, OTHER = HostPort("192.0.2.1", 3478), HostPort("stun.example.org", 3478)


class StunServersTests(SynchronousTestCase):
    def test_those_of_relays_are_asked_where_none_is_named(self) -> None:
        servers = StunServers(Random(1))
        self.assertEqual(servers.questions(), [])
        servers.hear([ONE, ONE, HostPort("2001:db8::1", 3478)])
        self.assertEqual(servers.places, (ONE,))
        servers.hear([])
        self.assertEqual(servers.places, ())
        named = StunServers(Random(1), [OTHER])
        named.hear([ONE])
        self.assertEqual(named.places, (OTHER,))

    def test_no_more_than_so_many_are_asked(self) -> None:
        many = [HostPort("192.0.2.1", port) for port in range(1, 2 * MAX_STUN)]
        heard = StunServers(Random(1))
        heard.hear(many)
        for servers in (heard, StunServers(Random(1), many)):
            self.assertEqual(list(servers.places), many[:MAX_STUN])

    def test_no_two_questions_are_alike(self) -> None:
        servers = StunServers(Random(1), [ONE, OTHER])
        asked = [*servers.questions(), *servers.questions()]
        self.assertEqual([each.place for each in asked], [ONE, OTHER, ONE, OTHER])
        transactions = {each.transaction for each in asked}
        self.assertEqual([len(each) for each in transactions], [TRANSACTION_BYTES] * 4)

    def test_what_was_seen_last_counts(self) -> None:
        servers = StunServers(Random(1), [ONE])
        seen = Seen(ONE, IPv4Address("192.0.2.9"))
        servers.answered(seen)
        self.assertEqual(servers.seen, seen)
        servers.answered(None)
        self.assertIsNone(servers.seen)
