"""
Whole nodes of ours and independent nodes of theirs, in memory under virtual time.

Theirs is C{tests/interop/egregore_peer.py}, which shares no code with meshkit.  As a real
node does, it hangs up when it hears nothing for 15 seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.testing.nodes import MESH_PORT, MemoryMesh, MemoryNode
from tests.interop.egregore_peer import Peer, Replica, chain, id_of

NETWORK = "egregore-network-v1"
#: Seconds without a byte after which their nodes hang up.
READ_TIMEOUT = 15.0


class Theirs(Protocol):
    """A connection of a node of theirs."""

    def __init__(self, stage: EgregoreCase, replica: Replica) -> None:
        self._clock = stage.mesh.clock
        self.replica = replica
        self.lost: Failure | None = None
        self._due: Any = None
        self._patient = False

    def connectionMade(self) -> None:
        self._send(self.replica.peer.take())
        self._heard()

    def _heard(self) -> None:
        if self._due is not None and self._due.active():
            self._due.cancel()
        if self._patient:
            return
        self._due = self._clock.callLater(READ_TIMEOUT, self.hang_up)

    def _send(self, data: bytes) -> None:
        if data and self.lost is None:
            assert self.transport is not None
            self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        self._heard()
        self._send(self.replica.feed(data))
        if self.replica.peer.ended:
            if not self.replica.live:
                self.replica.peer.goodbye()
                self.flush()
            self.hang_up()

    def flush(self) -> None:
        self._send(self.replica.peer.take())

    def be_patient(self) -> None:
        """Do not hang up on silence."""
        self._patient = True
        if self._due is not None and self._due.active():
            self._due.cancel()

    def hang_up(self) -> None:
        """As they do it: no goodbye, the connection is just closed."""
        if self.transport is not None and self.lost is None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        if self._due is not None and self._due.active():
            self._due.cancel()


class EgregoreCase(SynchronousTestCase):
    """One mesh per test; at the end nothing may be left over."""

    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        # As TCP brings it: not megabytes at once.
        self.mesh.network.chunk = lambda waiting: min(waiting, 64 * 1024)
        self._ports = 9000
        self._ephemerals = 0

    def tearDown(self) -> None:
        self.mesh.stop()
        self.mesh.run(60)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def ours(self, name: str = "ada", *peers: str, feed: str = "", **settings: Any) -> MemoryNode:
        """
        A node with the wire on, that dials these places.

        @param feed: lines of the section C{[feed]}.
        """
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        config = "\n".join(
            [
                'compat = ["egregore"]',
                "[egregore]",
                f'network = "{NETWORK}"',
                f"peers = {json.dumps(peers)}",
                *lines,
                "[feed]",
                feed,
            ]
        )
        node = self.mesh.node(name, config)
        node.start()
        return node

    def ephemeral(self) -> bytes:
        self._ephemerals += 1
        return self._ephemerals.to_bytes(32, "big")

    def replica(self, role: str, seed: bytes = b"t" * 32, **options: Any) -> Replica:
        return Replica(Peer(role, NETWORK, seed, self.ephemeral()), **options)

    def dials(self, node: MemoryNode, replica: Replica | None = None) -> Theirs:
        """Have a node of theirs dial one of ours."""
        theirs = Theirs(self, replica or self.replica("client"))
        self.connect(node, theirs)
        self.mesh.run(0.1)
        return theirs

    def connect(self, node: MemoryNode, theirs: Theirs) -> None:
        """Open a connection of a node of theirs, and let no time pass."""
        endpoint = self.mesh.network.client_endpoint(
            MESH_PORT, node.host.address, source="10.0.9.9"
        )
        endpoint.connect(Factory.forProtocol(lambda: theirs))

    def listens(self, make: Callable[[], Replica]) -> tuple[str, list[Theirs]]:
        """
        Have a node of theirs listen.

        @return: where, and the connections that were made to it.
        """
        self._ports += 1
        connections: list[Theirs] = []

        def build() -> Theirs:
            connections.append(Theirs(self, make()))
            return connections[-1]

        endpoint = self.mesh.network.server_endpoint(self._ports, "10.0.9.9")
        endpoint.listen(Factory.forProtocol(build))
        return f"10.0.9.9:{self._ports}", connections

    # --- what nodes of ours hold --------------------------------------------------------

    def publish(self, node: MemoryNode, *contents: Any, **fields: Any) -> list[Any]:
        published = []
        for content in contents:
            answer = node.ask("POST", "/v1/publish", {"content": content, **fields})
            self.assertEqual(answer.status, 201, answer.body)
            published.append(answer.json)
        return published

    def feed(self, node: MemoryNode, author: str) -> list[int]:
        """The sequences that a node of ours has of a feed."""
        listed = node.ask("GET", f"/v1/feed/{author.replace('/', '_').replace('+', '-')}?limit=200")
        return sorted(message["sequence"] for message in listed.json["data"])

    def status(self, node: MemoryNode) -> Any:
        return node.ask("GET", "/v1/status").json["data"]["parts"]["egregore"]


def notes(seed: bytes, count: int, **optional: Any) -> list[dict[str, Any]]:
    return chain(seed, [{"type": "note", "text": f"note {n}"} for n in range(count)], **optional)


def host_of(address: IAddress) -> str:
    return str(getattr(address, "host", ""))


__all__ = ["NETWORK", "EgregoreCase", "Theirs", "host_of", "id_of", "notes"]
