"""Tests of L{meshkit.kademlia.node}: whole nodes, in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.kademlia.distance import closest, number
from tests.kademlia.mesh import Mesh
from tests.kademlia.recording import owner


class Finding(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()

    def test_thirty_nodes_find_one_another_and_what_they_store(self) -> None:
        nodes = self.mesh.add(30)
        target = nodes[7].id
        found = self.mesh.result(nodes[29].find_node(target))
        ids = [node.id for node in nodes if node is not nodes[29]]
        self.assertEqual([each.id for each in found], closest(ids, target, 20))
        placed = self.mesh.result(nodes[3].put("topic", b"birds", b"a wren"))
        self.assertEqual(placed.accepted, placed.asked)
        self.assertGreaterEqual(placed.accepted, 20)
        (record,) = self.mesh.result(nodes[20].get("topic", b"birds"))
        self.assertEqual((record.value, record.owner), (b"a wren", owner(3).public))
        peer = self.mesh.result(nodes[11].find_peer(owner(25).public))
        self.assertEqual(peer.key, owner(25).public)
        self.mesh.stop()
        self.assertEqual(self.mesh.clock.waiting, 0)
