"""Tests of L{meshkit.gossip.egregore.calling}, and of nodes that find Egregore's by it."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MeshkitError
from meshkit.gossip.egregore.calling import Calling
from meshkit.gossip.egregore.datagrams import (
    BROADCAST,
    FORGOTTEN_AFTER,
    PAUSE,
    PORT,
    discriminator,
    write,
)
from meshkit.identity.addresses import HostPort
from meshkit.shs.egregore import network_capability
from meshkit.testing.nodes import MESH_PORT, MemoryNode
from tests.gossip.egregore.stage import NETWORK, EgregoreCase, id_of, notes
from tests.interop.egregore_peer import Replica

HASH = discriminator(network_capability(NETWORK).key)
SEED = b"t" * 32


class Sockets:
    """UDP of one machine: what was sent, and a way to have something come."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sent: list[tuple[float, bytes]] = []
        self.protocol: Any = None
        self.open = 0
        self.broken = False
        self.broadcasts = False

    def listenMulticast(
        self, port: int, protocol: Any, interface: str, size: int, listenMultiple: bool
    ) -> Any:
        assert (port, interface, listenMultiple) == (PORT, "", True)
        self.protocol = protocol
        self.open += 1
        return self

    def setBroadcastAllowed(self, allowed: bool) -> None:
        self.broadcasts = allowed

    def write(self, datagram: bytes, addr: tuple[str, int]) -> None:
        assert self.broadcasts and addr == (BROADCAST, PORT)
        if self.broken:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        self.sent.append((self.clock.seconds(), datagram))

    def stopListening(self) -> Deferred[None]:
        self.open -= 1
        return succeed(None)

    def come(self, datagram: bytes, host: str) -> None:
        self.protocol.datagramReceived(datagram, (host, PORT))


class Reactor(Sockets):
    def seconds(self) -> float:
        return self.clock.seconds()

    def callLater(self, delay: float, function: Any) -> Any:
        return self.clock.callLater(delay, function)


class CallingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.reactor = Reactor(self.clock)
        self.port: int | None = 7655
        self.changes = 0
        self.calling = Calling(
            self.reactor, HASH, id_of(b"o" * 32), listening=lambda: self.port, changed=self.changed
        )
        self.calling.start()
        self.addCleanup(self.stop)

    def changed(self) -> None:
        self.changes += 1

    def stop(self) -> None:
        self.successResultOf(self.calling.stop())
        self.assertEqual((self.reactor.open, self.clock.getDelayedCalls()), (0, []))

    def test_it_calls_in_bursts_as_they_do(self) -> None:
        self.clock.pump([1.0] * 400)
        burst = [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
        self.assertEqual(
            [at for at, _ in self.reactor.sent], burst + [30 + PAUSE + at for at in burst]
        )
        called = write(HASH, 7655, id_of(b"o" * 32))
        self.assertEqual({data for _, data in self.reactor.sent}, {called})

    def test_who_listens_for_nobody_does_not_call(self) -> None:
        self.port = None
        sent = len(self.reactor.sent)
        self.clock.pump([1.0] * 400)
        self.assertEqual(len(self.reactor.sent), sent)

    def test_others_are_heard_until_they_call_no_more(self) -> None:
        self.reactor.come(write(HASH, 7655, id_of(SEED)), "10.0.9.9")
        self.reactor.come(write(HASH, 7655, id_of(SEED)), "10.0.9.9")
        self.assertEqual((self.calling.places(), self.changes), ([HostPort("10.0.9.9", 7655)], 1))
        self.clock.pump([30.0] * int(FORGOTTEN_AFTER / 30 + 3))
        self.assertEqual((self.calling.places(), self.changes), ([], 2))

    def test_a_network_that_is_away_is_told_until_it_is_back(self) -> None:
        self.reactor.broken = True
        self.clock.advance(5)
        self.assertIn("unreachable", self.calling.fault or "")
        self.reactor.broken = False
        self.clock.advance(5)
        self.assertIsNone(self.calling.fault)


class NodeTests(EgregoreCase):
    def found(self, **settings: Any) -> tuple[MemoryNode, Sockets]:
        """A node of ours that looks for them, at sockets in memory."""
        sockets = Sockets(self.mesh.clock)
        host = type(self.mesh.node("nobody").host)
        self.patch(host, "listenMulticast", sockets.listenMulticast)
        # What the class does not have is not there afterwards.
        return self.ours("ada", discover=True, **settings), sockets

    def patch(self, target: Any, name: str, value: Any) -> None:  # type: ignore[override]
        setattr(target, name, staticmethod(value))
        self.addCleanup(delattr, target, name)

    def test_a_node_of_theirs_that_calls_is_dialled(self) -> None:
        def make() -> Replica:
            theirs = self.replica("server", pushes=False)
            theirs.hold(notes(SEED, 3))
            return theirs

        place, connections = self.listens(make)
        node, sockets = self.found()
        self.assertEqual(sockets.sent[0][1], write(HASH, MESH_PORT, node.identity.public.text))
        sockets.come(write(HASH, int(place.partition(":")[2]), id_of(SEED)), "10.0.9.9")
        self.mesh.run(5)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 3])
        (shown,) = self.status(node)["places"]
        self.assertEqual((shown["place"], shown["heard"]), (place, True))
        # Its calls end, and so do our dials.
        self.mesh.run(FORGOTTEN_AFTER + 100)
        self.assertEqual(self.status(node)["places"], [])
        dials = len(connections)
        self.mesh.run(700)
        self.assertEqual(len(connections), dials)

    def test_what_the_settings_name_is_dialled_once_and_not_forgotten(self) -> None:
        place, _ = self.listens(lambda: self.replica("server", pushes=False))
        sockets = Sockets(self.mesh.clock)
        host = type(self.mesh.node("nobody").host)
        self.patch(host, "listenMulticast", sockets.listenMulticast)
        node = self.ours("ada", place, discover=True)
        sockets.come(write(HASH, int(place.partition(":")[2]), id_of(SEED)), "10.0.9.9")
        self.mesh.run(FORGOTTEN_AFTER + 100)
        (shown,) = self.status(node)["places"]
        self.assertEqual((shown["place"], shown["heard"]), (place, False))

    def test_a_forged_call_costs_dials_that_fail(self) -> None:
        node, sockets = self.found()
        for n in range(200):
            sockets.come(write(HASH, 2_000 + n, id_of(SEED)), f"10.0.7.{n % 100 + 1}")
        self.mesh.run(5)
        self.assertEqual(len(self.status(node)["places"]), 32)

    def test_a_port_that_is_taken_is_told(self) -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise CannotListenError("", PORT, OSError(errno.EADDRINUSE, "Address already in use"))

        host = type(self.mesh.node("nobody").host)
        self.patch(host, "listenMulticast", refuse)
        with self.assertRaises(MeshkitError) as caught:
            self.ours("ada", discover=True)
        self.assertIn("7656", str(caught.exception))
        self.assertIn("egregore.peers", str(caught.exception))
