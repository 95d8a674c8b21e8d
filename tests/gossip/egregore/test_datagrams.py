"""Tests of L{meshkit.gossip.egregore.datagrams}."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.gossip.egregore.datagrams import (
    FORGOTTEN_AFTER,
    MAX_DATAGRAM,
    MAX_OF_HOST,
    MAX_PLACES,
    Callers,
    discriminator,
    write,
)
from meshkit.identity.addresses import HostPort
from meshkit.shs.egregore import network_capability
from meshkit.testing.identities import make_identity

#: Observed of Egregore 1.2.4, whose network is called so.
NETWORK = discriminator(network_capability("egregore-network-v1").key)
OWN = make_identity("own").public.text
OTHER = make_identity("other").public.text
HOST = "192.168.1.7"


def changed(**changes: Any) -> bytes:
    said = {**json.loads(write(NETWORK, 7655, OTHER)), **changes}
    return json.dumps({name: each for name, each in said.items() if each is not None}).encode()


class DatagramTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.callers = Callers(NETWORK, OWN)

    def heard(self, datagram: bytes, host: str = HOST, now: float = 0.0) -> bool:
        return self.callers.heard(datagram, host, now)

    def test_the_discriminator_is_theirs(self) -> None:
        self.assertEqual(NETWORK.hex(), "b28855f7b0317529")

    def test_the_bytes_are_theirs(self) -> None:
        self.assertEqual(
            write(NETWORK, 7655, "@A.ed25519"),
            b'{"magic":[69,71,82,69],"network_key_hash":[178,136,85,247,176,49,117,41],'
            b'"gossip_port":7655,"public_id":"@A.ed25519"}',
        )

    def test_who_calls_is_where_the_datagram_comes_from(self) -> None:
        self.assertTrue(self.heard(write(NETWORK, 7655, OTHER)))
        self.assertFalse(self.heard(write(NETWORK, 7655, OTHER), now=5))
        self.assertTrue(self.heard(write(NETWORK, 7655, OTHER), "192.168.1.8"))
        self.assertEqual(
            self.callers.places(), [HostPort(HOST, 7655), HostPort("192.168.1.8", 7655)]
        )

    def test_what_is_not_for_us_is_ignored(self) -> None:
        for datagram in (
            b"",
            b"{}",
            b"\xff" * 160,
            write(b"\0" * 8, 7655, OTHER),
            write(NETWORK, 7655, OWN),
            write(NETWORK, 1023, OTHER),
            changed(magic=[69, 71, 82, 70]),
            changed(magic=[69, 71, 82, 69, 0]),
            changed(network_key_hash=[178]),
            changed(network_key_hash=[178] * 9),
            changed(network_key_hash=[256] * 8),
            changed(gossip_port=65_536),
            changed(gossip_port="7655"),
            changed(public_id=None),
            changed(more="x" * MAX_DATAGRAM),
        ):
            self.assertFalse(self.heard(datagram), datagram)
        self.assertEqual(self.callers.places(), [])

    def test_later_nodes_may_say_more(self) -> None:
        self.assertTrue(self.heard(changed(version=3)))

    def test_what_does_not_come_from_near_by_leads_nowhere(self) -> None:
        for host in ("8.8.8.8", "0.0.0.0", "224.0.0.1", "255.255.255.255", "nowhere"):
            self.assertFalse(self.heard(write(NETWORK, 7655, OTHER), host), host)
        for host in ("10.0.0.1", "172.16.0.1", "169.254.1.1", "127.0.0.1"):
            self.assertTrue(self.heard(write(NETWORK, 7655, OTHER), host), host)

    def test_who_calls_no_more_is_forgotten(self) -> None:
        self.heard(write(NETWORK, 7655, OTHER), "10.0.0.1", 0)
        self.heard(write(NETWORK, 7655, OTHER), "10.0.0.2", 0)
        self.heard(write(NETWORK, 7655, OTHER), "10.0.0.1", 100)
        self.assertFalse(self.callers.forget(FORGOTTEN_AFTER - 1))
        self.assertTrue(self.callers.forget(FORGOTTEN_AFTER))
        self.assertEqual(self.callers.places(), [HostPort("10.0.0.1", 7655)])
        self.assertTrue(self.callers.forget(FORGOTTEN_AFTER + 100))
        self.assertFalse(self.callers.forget(FORGOTTEN_AFTER + 100))

    def test_a_flood_pushes_nobody_out(self) -> None:
        self.heard(write(NETWORK, 7655, OTHER), "10.0.0.1")
        for n in range(1_000):
            self.heard(write(NETWORK, 2_000 + n, OTHER), "10.0.0.2")
            self.heard(write(NETWORK, 2_000, OTHER), f"10.0.{1 + n // 250}.{n % 250}")
        places = self.callers.places()
        self.assertEqual(len(places), MAX_PLACES)
        self.assertEqual(sum(place.host == "10.0.0.2" for place in places), MAX_OF_HOST)
        self.assertIn(HostPort("10.0.0.1", 7655), places)

    @given(st.binary(max_size=300))
    def test_garbage_leads_nowhere(self, datagram: bytes) -> None:
        self.assertFalse(Callers(NETWORK, OWN).heard(datagram, HOST, 0))
