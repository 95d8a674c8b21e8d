"""Nodes of the hash table over real sockets, which are told nothing but where one of them is."""

from __future__ import annotations

import time
from ipaddress import ip_network
from random import Random
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.trial.unittest import TestCase

from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.kademlia.contacts import DialRules
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.protocol import LABEL, VERSION
from meshkit.shs import Capability, SecureListener, wrap_client
from tests.kademlia.recording import owner

reactor: Any = installed

KEY = NetworkSecret.generate(Random(1)).key()
CAPABILITY = Capability.of(KEY, LABEL, VERSION)
#: All nodes of a test are of one block.
RULES = DialRules(own_blocks=(ip_network("127.0.0.0/8"),))


class Loopback(TestCase):
    timeout = 20

    async def make(self, n: int) -> tuple[KademliaNode, MeshAddress]:
        """A node that listens at all addresses of the machine."""
        identity, rng = owner(n), Random(n)
        listener = SecureListener(reactor, identity, rng)
        port = await TCP4ServerEndpoint(reactor, 0).listen(listener)
        number: int = port.getHost().port
        node = KademliaNode(
            reactor,
            identity,
            KEY.net_id,
            lambda address: self.endpoint(identity, address, rng),
            rng=rng,
            wall_clock=time.time_ns,
            listening=lambda: [HostPort("0.0.0.0", number)],
            rules=RULES,
        )
        listener.register(CAPABILITY, node.server)
        await node.start()

        async def close() -> None:
            await node.stop()
            await port.stopListening()
            await listener.close_all()
            stats = node.stats()
            self.assertEqual((stats.connections, stats.accepted, stats.lookups), (0, 0, 0))

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return node, MeshAddress("127.0.0.1", number, identity.public)

    @staticmethod
    def endpoint(identity: Identity, address: MeshAddress, rng: Random) -> IStreamClientEndpoint:
        return wrap_client(
            reactor,
            TCP4ClientEndpoint(reactor, address.host, address.port),
            identity=identity,
            capability=CAPABILITY,
            peer=address.key,
            rng=rng,
        )

    async def test_they_find_themselves_each_other_and_what_they_store(self) -> None:
        made = [await self.make(n) for n in range(5)]
        nodes = [node for node, _ in made]
        for node in nodes[1:]:
            await node.bootstrap([made[0][1]])
        for node, address in made:
            own = node.own_address()
            assert own is not None
            self.assertEqual(own.addresses, (address.place,))
        placed = await nodes[1].put("topic", b"birds", b"a wren")
        self.assertEqual((placed.accepted, placed.asked), (5, 5))
        (record,) = await nodes[3].get("topic", b"birds")
        self.assertEqual((record.value, record.owner), (b"a wren", owner(1).public))
        found = await nodes[2].find_peer(owner(4).public)
        self.assertEqual(found.places, (made[4][1].place,))
        await nodes[4].stop()
        self.assertEqual(len(await nodes[3].get("topic", b"birds")), 1)
