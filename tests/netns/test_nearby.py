"""Beacons of real nodes, on hosts of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.netns.hosts import Host, Internet, skip_reason
from tests.process.mesh import Mesh, Node, wait_for


class NearbyTests(SynchronousTestCase):
    skip = skip_reason(nft=True)

    def setUp(self) -> None:
        self.internet = Internet()
        self.addCleanup(self.internet.close)
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def node(self, host: Host, network: Node | None = None) -> Node:
        """A node that was told nothing but its network, being started."""
        node = self.mesh.node(host.name, network=network)
        node.prefix = host.prefix
        door = Path(node.home, "door")
        node.spawn("--listen", "tcp:7655", "--api", f"unix:{door}", "--lan-beacons")
        return node

    def peers(self, node: Node) -> list[tuple[Any, ...]]:
        shown = node.good("peer", "list", "--json").json
        return [(each["source"], each["connected"], each["address"]) for each in shown]

    def test_nodes_of_one_local_network_find_each_other_and_nobody_elsewhere(self) -> None:
        one = self.internet.router("one", "5.1.0.1")
        two = self.internet.router("two", "5.2.0.1")
        hosts = [one.host("ada"), one.host("bob"), two.host("cem")]
        ada = self.node(hosts[0])
        bob, cem = (self.node(host, ada) for host in hosts[1:])
        for node in (ada, bob, cem):
            node.wait_ready()
        for node, host, other in ((ada, hosts[1], bob), (bob, hosts[0], ada)):
            key = other.address.partition("~")[2]
            expected = [("lan", True, f"net:{host.address}:7655~{key}")]
            wait_for("peer", lambda node=node, expected=expected: self.peers(node) == expected)
        status = cem.good("status", "--json").json["parts"]["lan"]
        self.assertEqual((status["near"], status["faults"]), ([], {}))
        self.assertEqual(status["interfaces"], [hosts[2].address])
        self.assertEqual(self.peers(cem), [])
