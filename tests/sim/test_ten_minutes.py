"""
A network that is cut in two for ten minutes: longer than any connection lives in silence.

C{tests/netns} has real nodes on a real wire, which is cut for seconds.  Here time costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.world import SimNode, World

#: Seconds of the world's time.
CUT: Final = 600
#: Within so many more, both halves know all: a peer is dialled again after a minute at most
#: (C{gossip.retry_max}), and how long a pause is, is drawn.
BACK: Final = 90


class TenMinutesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(3)
        self.addCleanup(self.world.close)
        self.nodes: list[SimNode] = []
        for name in ("ada", "bob", "eve", "joe"):
            peers = [node.address for node in self.nodes[-2:]]
            node = self.world.node(name, f"peers = {json.dumps(peers)}")
            node.start()
            self.nodes.append(node)

    def parts(self, node: SimNode) -> Any:
        return node.ask("GET", "/v1/status").json["data"]["parts"]

    def links(self) -> list[int]:
        return [len(self.parts(node)["gossip"]["links"]) for node in self.nodes]

    def stored(self) -> list[int]:
        return [self.parts(node)["feed"]["messages"] for node in self.nodes]

    def publish(self) -> None:
        for node in self.nodes:
            node.ask("POST", "/v1/publish", {"content": {"type": "note", "text": node.name}})

    def wait(self, look: Callable[[], list[int]], wanted: list[int], seconds: int) -> None:
        """Let time pass until it is what is wanted."""
        for _ in range(seconds):
            if look() == wanted:
                break
            self.world.run(1)
        self.assertEqual(look(), wanted)

    def test_both_halves_are_in_step_soon_after_it(self) -> None:
        self.wait(self.links, [2, 3, 3, 2], 10)
        self.publish()
        self.wait(self.stored, [4] * 4, 10)
        self.world.network.partition([["ada", "bob"], ["eve", "joe"]])
        self.publish()
        self.world.run(CUT)
        self.assertEqual(self.stored(), [6] * 4)
        # What died in silence was noticed: a half has the link within it, and no other one.
        self.assertEqual(self.links(), [1] * 4)
        self.world.network.heal()
        self.wait(self.stored, [8] * 4, BACK)
        self.wait(self.links, [2, 3, 3, 2], BACK)
