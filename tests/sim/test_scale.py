"""
Many nodes, many messages: all of them get all of it.

C{MESHKIT_SCALE=3} makes the worlds three times as large; C{.ci/soak} has them twice as large.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.sim.scale import Crowd, hashes, stored

SEED = 11
LARGER = int(os.environ.get("MESHKIT_SCALE", "1"))


class ScaleTests(SynchronousTestCase):
    """Nothing is judged here that depends on how fast the machine is; figures are printed."""

    def tell(self, name: str, figures: object) -> None:
        """Without pytest."""
        print(f"{name}: {figures}")

    @pytest.fixture(autouse=True)
    def _properties(self, record_property: Callable[[str, object], None]) -> None:
        self.tell = record_property  # type: ignore[method-assign]

    def converge(self, nodes: int, messages: int, authors: int) -> None:
        # The hash table of each would open connections to a hundred others within a second of
        # its start, which costs more than all of gossip; it has a test of its own.
        crowd = Crowd.make(nodes, SEED, config='disable = ["dht"]\n')
        self.addCleanup(crowd.world.close)
        crowd.start()
        crowd.idle(60)
        crowd.publish(messages, authors)
        acknowledged = {each.hash for each in crowd.world.acknowledged}
        self.assertEqual(len(acknowledged), messages)
        behind = [node.name for node in crowd.nodes if stored(node) != messages]
        self.assertEqual(behind, [])
        for node in crowd.nodes:
            self.assertEqual(hashes(node), acknowledged, node.name)
        memo = crowd.world.memo
        assert memo is not None
        self.assertEqual(memo.misses, messages)
        self.assertGreaterEqual(memo.hits, messages * (nodes - 2))
        self.tell("figures", crowd.figures(messages))

    def test_a_hundred_nodes_get_a_thousand_messages(self) -> None:
        self.converge(100, 1_000 * LARGER, authors=100)

    def test_a_thousand_nodes_get_a_hundred_messages(self) -> None:
        self.converge(1_000 * LARGER, 100, authors=20)
