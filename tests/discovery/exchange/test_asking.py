"""Tests of L{meshkit.discovery.exchange.asking}."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.exchange.asking import Told, place_of
from meshkit.identity.addresses import HostPort, MeshAddress, PeerAddress
from meshkit.testing.identities import make_identity

ADA = make_identity("ada").public


class Places(SynchronousTestCase):
    def test_who_is_reached_through_a_relay_is_nowhere(self) -> None:
        # Nobody has answered at the address that was dialled: it does not say how near she is.
        address = MeshAddress("10.0.0.7", 7655, ADA)
        self.assertIsNone(place_of(PeerAddress(ADA, UNIXAddress("/relay"))))
        self.assertEqual(Told(address, None, b"", 0.1).host, "")

    def test_who_is_reached_is_where_the_channel_ends(self) -> None:
        place = place_of(PeerAddress(ADA, IPv4Address("TCP", "192.0.2.1", 7655)))
        self.assertEqual(place, HostPort("192.0.2.1", 7655))
        told = Told(MeshAddress("ada.example", 7655, ADA), place, b"", 0.1)
        self.assertEqual(told.host, "192.0.2.1")
