"""
Tests of what many L{Holdings} do together, hour after hour.

Each node decides for itself; whom a lookup would find is known to the test.  Signatures are
verified once each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import RecordConflict
from meshkit.identity.keys import PublicKey
from meshkit.kademlia.distance import NodeId, closest, node_id
from meshkit.kademlia.holdings import NEAREST, Due, Holdings
from meshkit.kademlia.kinds import Kinds
from meshkit.kademlia.records import Record
from meshkit.kademlia.routing import K
from tests.kademlia.recording import HOUR, ME, NETWORK, NOW, mutable, owner, topic

MINUTE: Final = 60_000
STEP: Final = 15 * MINUTE


class Once(Kinds):
    """Kinds that verify each record once."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[bytes, Record] = {}

    def open(self, raw: bytes, network: bytes, now: int) -> Record:
        record = self._opened.get(raw)
        if record is None:
            record = self._opened[raw] = super().open(raw, network, now)
        record.check_time(now)
        return record


@define(eq=False)
class Node:
    key: PublicKey
    id: NodeId
    holdings: Holdings
    side: int = 0


class Mesh:
    """Nodes that find each other at once, but for those on another side."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.rng = Random(seed)
        self.kinds = Once()
        self.nodes: dict[NodeId, Node] = {}
        self.now = NOW
        self.made = 0
        self.lookups = 0
        for _ in range(count):
            self.add()

    def add(self, side: int = 0) -> Node:
        self.made += 1
        key = PublicKey(hashlib.sha256(b"keeper %d" % self.made).digest())
        holdings = Holdings(node_id(key), NETWORK, self.kinds, Random(self.made))
        node = Node(key, node_id(key), holdings, side)
        self.nodes[node.id] = node
        return node

    def side(self, side: int) -> list[NodeId]:
        return [node.id for node in self.nodes.values() if node.side == side]

    def publish(self, record: Record, side: int = 0) -> None:
        for place in closest(self.side(side), record.key, K):
            self.nodes[place].holdings.store(record.raw, self.now, record.owner)

    def store(self, giver: Node, taker: Node, due: Due) -> None:
        for raw in due.records:
            try:
                taker.holdings.store(raw, self.now, giver.key)
            except RecordConflict:
                continue  # it has a newer one

    def join(self, side: int = 0) -> None:
        """A newcomer comes, and all hear of it."""
        here = self.side(side)
        newcomer = self.add(side)
        for place in here:
            node = self.nodes[place]
            others = self._others(here, place)
            for found in node.holdings.handover(newcomer.id, others, self.now):
                for due in found:
                    self.store(node, newcomer, due)

    @staticmethod
    def _others(ids: list[NodeId], own: NodeId) -> Callable[[NodeId], Iterable[NodeId]]:
        def nearest(key: NodeId) -> Iterable[NodeId]:
            found = closest(ids, key, NEAREST + 1)
            return [place for place in found if place != own][:NEAREST]

        return nearest

    def step(self) -> None:
        """A quarter of an hour goes by."""
        self.now += STEP
        for node in list(self.nodes.values()):
            node.holdings.expire(self.now)
            for due in node.holdings.due(self.now, 1000):
                self.lookups += 1
                nearest = closest(self.side(node.side), due.key, K)
                for place in nearest:
                    if place != node.id:
                        self.store(node, self.nodes[place], due)
                if node.id not in nearest:
                    node.holdings.relieve(due.kind, due.key, self.now)

    def churn(self, part: float) -> None:
        """So many leave within an hour, and as many come."""
        leaving = 1 - (1 - part) ** (STEP / HOUR)
        gone = [place for place in self.nodes if self.rng.random() < leaving]
        for place in gone:
            del self.nodes[place]
        for _ in gone:
            self.join()

    def found(self, record: Record) -> list[bytes]:
        """What the nearest nodes would answer, one after the other."""
        return [
            raw
            for place in closest(self.nodes, record.key, K)
            for raw in self.nodes[place].holdings.find(record.kind, record.key, self.now).records
        ]


class Keeping(SynchronousTestCase):
    def test_records_outlive_those_who_keep_them(self) -> None:
        """Of all nodes three in ten leave each hour, for a day."""
        mesh = Mesh(45)
        records = [mutable(owner(n), expires=NOW + 25 * HOUR) for n in range(4)]
        for record in records:
            mesh.publish(record)
        fewest = K
        for _ in range(24 * 4):
            mesh.churn(0.3)
            mesh.step()
            fewest = min(fewest, *(len(mesh.found(record)) for record in records))
        self.assertGreater(mesh.made, 45 * 6)
        self.assertGreater(fewest, K // 3)
        # Not each of those who keep it looks up each hour who else should.
        self.assertLess(mesh.lookups / 24 / len(records), K / 2)
        for _ in range(8):
            mesh.step()
        self.assertEqual([mesh.found(record) for record in records], [[]] * 4)

    def test_one_of_those_who_keep_it_is_enough(self) -> None:
        mesh = Mesh(60)
        record = mutable(ME)
        mesh.publish(record)
        for place in closest(mesh.nodes, record.key, K)[1:]:
            del mesh.nodes[place]
        for _ in range(6):
            mesh.step()
        self.assertEqual(len(mesh.found(record)), K)

    def test_halves_that_were_apart_come_to_the_newest(self) -> None:
        mesh = Mesh(80)
        old = mutable(ME, b"old")
        mesh.publish(old)
        authors = [topic(owner(n), sequence=NOW + n) for n in range(4)]
        for n, place in enumerate(list(mesh.nodes)):
            mesh.nodes[place].side = n % 2
        here, there = (mutable(ME, b"%d" % n, sequence=NOW + n) for n in (1, 2))
        for side, record in enumerate((here, there)):
            mesh.publish(record, side)
            mesh.publish(authors[2 * side], side)
            mesh.publish(authors[2 * side + 1], side)
        for _ in range(6 * 4):
            mesh.step()
        self.assertEqual({here.raw, there.raw}, set(mesh.found(old)))
        for node in mesh.nodes.values():
            node.side = 0
        for _ in range(2 * 4):
            mesh.step()
        self.assertEqual(mesh.found(old), [there.raw] * K)
        entries = mesh.found(authors[0])
        self.assertEqual(set(entries), {record.raw for record in authors})
        self.assertEqual(len(entries), 4 * K)
