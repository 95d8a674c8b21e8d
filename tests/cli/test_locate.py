"""Tests of L{meshkit.cli.locate}: the door is found, and nobody else is taken for it."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.locate import DoorEndpoint, find_door, the_door
from meshkit.errors import DoorUnreachable
from meshkit.runtime.folder import DataFolder
from meshkit.testing.nodes import MemoryFiles, MemoryMesh

PORT = 7654
URL = f"http://127.0.0.1:{PORT}"


class Listener(Protocol):
    received = b""
    lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class LocateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.host = self.mesh.node("a", makers=()).host
        self.files = MemoryFiles()
        # The node's, and ours: locks belong to the object that took them.
        self.theirs = DataFolder("/data", self.files)
        self.folder = DataFolder("/data", self.files)
        self.listeners: list[Listener] = []
        factory = Factory.forProtocol(self.accept)
        self.host.listenTCP(PORT, factory, interface="127.0.0.1")

    def accept(self) -> Listener:
        self.listeners.append(Listener())
        return self.listeners[-1]

    def run_node(self, *doors: str) -> None:
        self.theirs.lock(1)
        self.theirs.write_endpoints({"api": doors, "mesh": []})

    def test_it_is_where_the_node_says_while_it_runs(self) -> None:
        self.assertIsNone(find_door(self.folder))
        self.run_node(URL, "http://[::1]:7654")
        self.assertEqual(find_door(self.folder), URL)
        self.theirs.unlock()
        self.assertIsNone(find_door(self.folder))
        error = self.assertRaises(DoorUnreachable, the_door, self.folder)
        self.assertIn("twistd -n mesh-node --data-dir /data", str(error))

    def test_who_has_stopped_a_storage_peer_is_told_how_to_start_one(self) -> None:
        self.folder.remember_program("mesh-storage")
        error = self.assertRaises(DoorUnreachable, the_door, self.folder)
        self.assertIn("twistd -n mesh-storage --data-dir /data", str(error))

    def test_a_node_that_is_not_ready_has_none_yet(self) -> None:
        self.theirs.lock(1)
        self.assertIsNone(find_door(self.folder))

    def test_a_node_without_a_door(self) -> None:
        self.run_node()
        self.assertIn("--api none", str(self.assertRaises(DoorUnreachable, find_door, self.folder)))

    def test_the_host_header_is_what_the_door_goes_by(self) -> None:
        for url, host in (
            (URL, "127.0.0.1:7654"),
            ("http://[::1]:80", "[::1]:80"),
            ("unix:/run/door", "localhost"),
        ):
            self.assertEqual(DoorEndpoint(self.host, self.folder, url).host, host)

    def connect(self) -> tuple[Protocol, Any]:
        ours = Protocol()
        endpoint = DoorEndpoint(self.host, self.folder, URL)
        return ours, endpoint.connect(Factory.forProtocol(lambda: ours))

    def test_a_connection_is_given_while_the_node_runs(self) -> None:
        self.run_node(URL)
        ours, connecting = self.connect()
        self.mesh.run(1)
        self.assertIs(self.successResultOf(connecting), ours)
        self.assertFalse(self.listeners[0].lost)

    def test_a_node_that_goes_while_it_is_connected_to(self) -> None:
        """Whoever has its port may be anybody: nothing is said, and the connection is cut."""
        self.run_node(URL)
        _, connecting = self.connect()
        self.theirs.unlock()
        self.mesh.run(1)
        self.failureResultOf(connecting, DoorUnreachable)
        self.assertEqual([(each.received, each.lost) for each in self.listeners], [(b"", True)])

    def test_a_node_that_has_moved_while_it_is_connected_to(self) -> None:
        self.run_node(URL)
        _, connecting = self.connect()
        self.theirs.unlock()
        self.run_node("http://127.0.0.1:7000")
        self.mesh.run(1)
        self.failureResultOf(connecting, DoorUnreachable)
        self.assertTrue(self.listeners[0].lost)
