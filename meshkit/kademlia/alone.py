"""
The hash table for a program that runs no meshkit node, over secure channels of its own::

    listener = SecureListener(reactor, identity, rng)
    node = node_on(reactor, listener, identity, network, rng=rng, wall_clock=time.time_ns,
                   addresses=lambda: [HostPort("192.0.2.1", 7655)])
    await serverFromString(reactor, "tcp:7655").listen(listener)
    await node.start()
    await node.bootstrap([MeshAddress.parse("net:...~shs:...")])

The listener may serve other protocols as well.  Nodes of C{twistd mesh-node} in the same network
and these are nodes for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkKey
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.protocol import LABEL, VERSION
from meshkit.shs import Capability, SecureListener, wrap_client


def node_on(
    reactor: Any,
    listener: SecureListener,
    identity: Identity,
    network: NetworkKey,
    *,
    rng: Random,
    wall_clock: Callable[[], int],
    **options: Any,
) -> KademliaNode:
    """
    Make a node that dials others over secure channels, and answers those who come to a listener.

    @param listener: of the same identity; on which port it listens is its owner's affair.
    @param options: further arguments of L{KademliaNode}.  Without C{addresses} and C{listening}
        it is a client.
    @return: it, not started.
    """
    capability = Capability.of(network, LABEL, VERSION)

    def endpoint(address: MeshAddress) -> IStreamClientEndpoint:
        return wrap_client(
            reactor,
            HostnameEndpoint(reactor, address.host, address.port),
            identity=identity,
            capability=capability,
            peer=address.key,
            rng=rng,
        )

    node = KademliaNode(
        reactor, identity, network.net_id, endpoint, rng=rng, wall_clock=wall_clock, **options
    )
    listener.register(capability, node.server)
    return node
