"""Nodes of the hash table over secure channels, as an application has them, without a node
service."""

from __future__ import annotations

from random import Random

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NetworkKeyRefused
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.network import NetworkSecret
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.protocol import LABEL, VERSION
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.testing.nodes import run_clock
from meshkit.testing.transports import MemoryNetwork
from tests.kademlia.recording import NOW, owner

PORT = 7655


class OverChannels(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock, latency=0.01)
        self.key = NetworkSecret.generate(Random(1)).key()
        self.listeners: list[SecureListener] = []

    def make(self, n: int) -> KademliaNode:
        identity, rng = owner(n), Random(n)
        host = f"11.{n}.0.1"
        capability = Capability.of(self.key, LABEL, VERSION)

        def endpoint(address: MeshAddress) -> IStreamClientEndpoint:
            return wrap_client(
                self.clock,
                self.network.client_endpoint(address.port, address.host, source=host),
                identity=identity,
                capability=capability,
                peer=address.key,
                rng=rng,
            )

        node = KademliaNode(
            self.clock,
            identity,
            self.key.net_id,
            endpoint,
            rng=rng,
            wall_clock=lambda: NOW * 1_000_000 + int(self.clock.seconds() * 1e9),
            addresses=lambda: [HostPort(host, PORT)],
        )
        listener = SecureListener(self.clock, identity, rng)
        listener.register(capability, node.server)
        self.successResultOf(self.network.server_endpoint(PORT, host).listen(listener))
        self.listeners.append(listener)
        self.successResultOf(node.start())
        return node

    def test_they_find_and_store(self) -> None:
        nodes = [self.make(n) for n in range(4)]
        for node in nodes[1:]:
            begun = node.bootstrap([MeshAddress("11.0.0.1", PORT, owner(0).public)])
            run_clock(self.clock, 2.0)
            self.successResultOf(begun)
        put = nodes[1].put("topic", b"birds", b"a wren")
        run_clock(self.clock, 2.0)
        self.assertEqual(self.successResultOf(put).accepted, 4)
        got = nodes[3].get("topic", b"birds")
        run_clock(self.clock, 2.0)
        self.assertEqual([each.value for each in self.successResultOf(got)], [b"a wren"])
        stopped = [node.stop() for node in nodes]
        run_clock(self.clock, 6.0)
        for each in stopped:
            self.successResultOf(each)
        run_clock(self.clock, 1.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual([listener.channels for listener in self.listeners], [()] * 4)

    def test_who_is_of_another_network_is_not_met(self) -> None:
        node = self.make(0)
        self.key = NetworkSecret.generate(Random(2)).key()
        stranger = self.make(1)
        begun = stranger.bootstrap([MeshAddress("11.0.0.1", PORT, owner(0).public)])
        run_clock(self.clock, 12.0)
        self.assertEqual(self.successResultOf(begun), 0)
        self.assertIn(NetworkKeyRefused.code, self.listeners[0].refusals)
        for each in (node, stranger):
            stopped = each.stop()
            run_clock(self.clock, 6.0)
            self.successResultOf(stopped)
