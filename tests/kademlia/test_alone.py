"""Tests of L{meshkit.kademlia.alone}: programs and whole nodes, in one hash table."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.kademlia.alone import node_on
from meshkit.kademlia.node import KademliaNode
from meshkit.shs import SecureListener
from meshkit.testing.nodes import MemoryHost, MemoryMesh
from tests.kademlia.recording import owner

PORT = 7000


class Alone(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)

    def program(self, n: int, **options: Any) -> KademliaNode:
        """A program with the hash table and nothing else, on a host of its own."""
        identity, rng, place = owner(n), Random(n), HostPort(f"10.{n}.0.1", PORT)
        host = MemoryHost(self.mesh.clock, self.mesh.network, place.host)
        listener = SecureListener(host, identity, rng)
        listening = TCP4ServerEndpoint(host, PORT, interface=place.host).listen(listener)
        self.successResultOf(listening)
        options = options or {"addresses": lambda: [place]}
        node = node_on(
            *(host, listener, identity, self.mesh.network_secret.key()),
            rng=rng,
            wall_clock=self.mesh.wall_clock,
            **options,
        )
        self.successResultOf(node.start())
        self.addCleanup(self.stop, node)
        return node

    def stop(self, node: KademliaNode) -> None:
        self.done(node.stop())

    def done(self, asked: Deferred[Any]) -> Any:
        self.mesh.run(5)
        return self.successResultOf(asked)

    def test_programs_and_nodes_find_what_the_other_has_published(self) -> None:
        ada = self.mesh.node("ada")
        ada.start()
        bob, eve = self.program(1), self.program(2)
        self.assertEqual(self.done(bob.bootstrap([MeshAddress.parse(ada.address)])), 1)
        at_bob = MeshAddress("10.1.0.1", PORT, owner(1).public)
        self.assertEqual(self.done(eve.bootstrap([at_bob])), 2)
        self.done(eve.put("topic", b"birds", b"a wren"))
        found = ada.ask("GET", "/v1/dht/records/topic/birds").json["data"]["records"]
        self.assertEqual([each["text"] for each in found], ["a wren"])
        ada.ask("POST", "/v1/dht/records", {"kind": "topic", "name": "fish", "text": "a pike"})
        (record,) = self.done(bob.get("topic", b"fish"))
        self.assertEqual((record.value, record.owner), (b"a pike", ada.identity.public))

    def test_without_addresses_it_is_a_client(self) -> None:
        bob, eve = self.program(1), self.program(2, kinds=None)
        at_bob = MeshAddress("10.1.0.1", PORT, owner(1).public)
        self.assertEqual(self.done(eve.bootstrap([at_bob])), 1)
        self.assertEqual((len(eve.table), len(bob.table)), (1, 0))
