"""Real nodes on one machine that find each other by the folders they live in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, Node, Shared, wait_for


class Neighbour(Node):
    """Its data folder lies beside those of the others."""

    @property
    def data(self) -> Path:
        return self.home.parent / f"data of {self.home.name}"


def make(mesh: Mesh) -> dict[str, Node]:
    ada = mesh.node("ada", kind=Neighbour)
    nodes = {"ada": ada}
    for name in ("bob", "eve"):
        # Eve is of another network.
        nodes[name] = mesh.node(name, network=None if name == "eve" else ada, kind=Neighbour)
    for node in nodes.values():
        node.spawn("--lan-machine", "--lan-interval", "1")
    for node in nodes.values():
        node.wait_ready()
    return nodes


SHARED = Shared(make)


def tearDownModule() -> None:
    SHARED.close()


class OneMachineTests(SynchronousTestCase):
    def peers(self, node: Node) -> list[Any]:
        return [
            (each["source"], each["connected"], each["address"])
            for each in node.good("peer", "list", "--json").json
        ]

    def test_members_of_one_network_find_each_other_for_as_long_as_they_run(self) -> None:
        nodes = SHARED.get()
        ada, bob, eve = nodes["ada"], nodes["bob"], nodes["eve"]
        for node, other in ((ada, bob), (bob, ada)):
            expected = [("machine", True, other.address)]
            wait_for("peer", lambda node=node, expected=expected: self.peers(node) == expected)
        bob.kill()
        wait_for("end of bob", lambda: self.peers(ada) == [])
        self.assertEqual(self.peers(eve), [])
