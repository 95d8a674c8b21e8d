"""
A hash table of many whole nodes for an hour of the world: every lookup of what was stored
finds it.

C{MESHKIT_DHT_NODES=1000} makes it so large; that takes most of an hour of one core, and 4 GiB.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.invariants.bounded import sizes
from tests.sim.scale import Crowd, Lookups

SEED = 11
NODES = int(os.environ.get("MESHKIT_DHT_NODES", "50"))
#: Seconds of the world between one node and the next that joins.
APART = 3.0
HOUR = 3_600.0
RECORDS = 100
LOOKUPS = 300


class ScaleTests(SynchronousTestCase):
    """Nothing is judged here that depends on how fast the machine is; figures are printed."""

    def tell(self, name: str, figures: object) -> None:
        """Without pytest."""
        print(f"{name}: {figures}")

    @pytest.fixture(autouse=True)
    def _properties(self, record_property: Callable[[str, object], None]) -> None:
        self.tell = record_property  # type: ignore[method-assign]

    def test_for_an_hour_all_that_is_stored_is_found(self) -> None:
        rng = Random(SEED)
        crowd = Crowd.make(NODES, SEED)
        self.addCleanup(crowd.world.close)
        crowd.join(NODES * APART)
        # Those that came last are known by those before.
        crowd.idle(60)
        lookups = Lookups()
        with crowd.phase("store"):
            for number in range(RECORDS):
                lookups.put(rng.choice(crowd.nodes), f"topic{number}", f"text {number}")
        self.assertEqual(lookups.failed, [])
        with crowd.phase("hour"):
            for _ in range(LOOKUPS):
                crowd.world.run(HOUR / LOOKUPS)
                number = rng.randrange(RECORDS)
                lookups.get(rng.choice(crowd.nodes), f"topic{number}", f"text {number}")
        self.assertEqual(lookups.failed, [])
        self.assertEqual(lookups.found, LOOKUPS)
        for node in crowd.nodes:
            for what, size, limit in sizes(node):
                self.assertLessEqual(size, limit, f"{what} of {node.name}")
        self.tell("lookups", lookups.figures(NODES))
        self.tell("figures", self.figures(crowd))

    def figures(self, crowd: Crowd) -> str:
        tables: list[Any] = [node.service._parts["dht"].node for node in crowd.nodes]
        count = len(tables)
        contacts = sum(len(each.table) for each in tables) / count
        records = sum(len(each.holdings) for each in tables) / count
        asked = sum(sum(each.client.asked.values()) for each in tables) / count
        dialled = sum(each.connections.dialled for each in tables) / count
        lines = [
            f"{count:,} nodes: {crowd.memory:.2f} MiB a node; {contacts:.0f} contacts, "
            f"{records:.0f} records, {asked:.0f} questions and {dialled:.0f} dials of each"
        ]
        lines += [
            f"{name}: {each.cpu:.1f} s of CPU for {each.virtual:.0f} s of the world, "
            f"{each.events:,} events, {each.bytes:,} bytes"
            for name, each in crowd.phases.items()
        ]
        return "\n".join(lines)
