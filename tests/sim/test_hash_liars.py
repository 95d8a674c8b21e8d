"""
Peers that lie as nodes of the hash table: the others find all that they have stored, keep
nothing false, and are not kept from anything.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.kademlia.distance import distance, node_id
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.records import Record
from meshkit.sim import world as world_module
from meshkit.sim.invariants.bounded import sizes
from meshkit.sim.liars import HASHING
from meshkit.sim.liars.grinding import Grinding
from meshkit.sim.liars.hashing import HashLiar
from meshkit.sim.node import SimNode
from meshkit.sim.world import World

NODES = 5


class HashLiarCase(SynchronousTestCase):
    """Five nodes, of which the others know the first, and one who lies and knows two."""

    kind = ""
    seed = 11

    def setUp(self) -> None:
        self.world = World(self.seed)
        self.addCleanup(self.end)
        first = self.world.node("n0")
        self.nodes = [first]
        for number in range(1, NODES):
            self.nodes.append(self.world.node(f"n{number}", f'peers = ["{first.address}"]'))
        known = [node.address for node in self.nodes[:2]]
        eve = self.world.liar("eve", self.kind, dials=known)
        assert isinstance(eve, HashLiar)
        self.eve = eve
        self.numbers: list[int] = []

    def end(self) -> None:
        self.world.stop()
        self.world.run(300)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])
        self.assertNotIn(b'"error"', b"".join(self.world.trace.lines))

    def begin(self) -> None:
        for node in self.nodes:
            node.start()
        self.eve.start()
        # All are found, and the liar has a place.
        self.world.run(30)

    def table(self, node: SimNode) -> KademliaNode:
        service: Any = node.service
        found: KademliaNode = service._parts["dht"].node
        return found

    def put(self, node: SimNode, text: str, name: str = "topic 0") -> dict[str, Any]:
        body = {"kind": "topic", "name": name, "text": text}
        answer = node.ask("POST", "/v1/dht/records", body)
        self.assertEqual(answer.status, 201, answer.json)
        placed: dict[str, Any] = answer.json["data"]
        return placed

    def got(self, node: SimNode, name: str = "topic%200") -> dict[str, str]:
        """@return: text by owner, of honest ones."""
        answer = node.ask("GET", f"/v1/dht/records/topic/{name}")
        honest = {each.identity.public.text for each in self.nodes}
        return {
            each["owner"]: each["text"]
            for each in answer.json["data"]["records"]
            if each["owner"] in honest
        }

    def check(self) -> None:
        """All find what was stored last, and hold nothing false and nothing over a limit."""
        owners = [node.identity.public.text for node in self.nodes]
        for round_ in range(2):
            expected = {}
            for number, node in enumerate(self.nodes):
                text = expected[owners[number]] = f"text {round_} of {number}"
                self.put(node, text)
            for node in self.nodes:
                self.assertEqual(self.got(node), expected, node.name)
        for node in self.nodes:
            for (raw,) in node.look("SELECT raw FROM kademlia_records WHERE length(raw) > 0"):
                self.assertFalse(self.eve.told.is_forged(raw), Record.reopen(raw))
                Record.open(raw, self.eve.network, self.eve.now())
            for what, size, limit in sizes(node):
                self.assertLessEqual(size, limit, what)

    def lie_in_all_ways(self) -> None:
        for number in range(60):
            self.put(self.nodes[number % NODES], f"lie {number}", f"topic {number % 3}")
            self.got(self.nodes[(number + 1) % NODES])
            self.world.run(5)
            if all(self.eve.told.ways[way] for way in self.eve.ways):
                return
        self.fail(f"it has lied in these ways only: {dict(self.eve.told.ways)}")


class KindTests(SynchronousTestCase):
    def test_there_is_one_class_for_each_kind_and_tests_of_it(self) -> None:
        self.assertEqual(
            {kind: each.kind for kind, each in HASHING.items()}, {k: k for k in HASHING}
        )
        self.assertEqual({each.kind for each in HashKindCase.__subclasses__()}, set(HASHING))


class HonestTests(HashLiarCase):
    """The stack beneath all of them is an honest node of the hash table."""

    kind = "honest-hashing"

    def setUp(self) -> None:
        self.patch(world_module, "LIARS", {"honest-hashing": HashLiar})
        super().setUp()

    def test_it_takes_part(self) -> None:
        self.begin()
        self.check()
        self.assertEqual(len(self.eve.node.table), NODES)
        self.assertEqual(len(self.eve.told), 0)
        placed = self.put(self.nodes[0], "once more")
        self.assertEqual((placed["accepted"], placed["refused"]), (NODES + 1, {}))
        for node in self.nodes:
            self.assertIn(self.eve.node.id, self.table(node).table)
        # What it keeps it gives to somebody who finds nobody else.
        for node in self.nodes[1:]:
            self.world.network.block("n0", node.name)
        self.assertEqual(len(self.got(self.nodes[0])), NODES)


class HashKindCase(HashLiarCase):
    """What holds for every kind."""

    __test__ = False

    def __init_subclass__(cls) -> None:
        cls.__test__ = True  # type: ignore[assignment]

    def test_the_others_find_all_while_it_lies_in_all_ways(self) -> None:
        self.begin()
        self.lie_in_all_ways()
        self.check()

    def test_it_lies_on_after_a_crash_of_it_and_of_others(self) -> None:
        self.begin()
        self.put(self.nodes[0], "x")
        self.eve.crash()
        self.nodes[1].crash()
        self.world.run(5)
        before = len(self.eve.told)
        self.eve.restart()
        self.nodes[1].start()
        self.world.run(30)
        self.lie_in_all_ways()
        self.assertGreater(len(self.eve.told), before)
        self.check()


class MisleadingTests(HashKindCase):
    kind = "misleading"

    def test_ghosts_are_in_no_table_and_are_dialled_a_few_times(self) -> None:
        self.begin()
        self.lie_in_all_ways()
        keys = {node.identity.public for node in self.nodes} | {self.eve.identity.public}
        for node in self.nodes:
            self.assertLessEqual({contact.key for contact in self.table(node).table}, keys)


class OutdatedTests(HashKindCase):
    kind = "outdated"


class MuteTests(HashKindCase):
    kind = "mute"

    def test_who_looks_does_not_wait_for_it_longer_than_for_an_answer(self) -> None:
        self.begin()
        self.put(self.nodes[0], "x")
        for node in self.nodes:
            before = self.world.clock.seconds()
            self.assertEqual(len(self.got(node)), 1)
            # There are fewer than twenty: what is late is waited for, too.
            self.assertLess(self.world.clock.seconds() - before, 6)
        self.assertGreater(self.eve.told.ways["values"], 1)


class FalsifyingTests(HashKindCase):
    kind = "falsifying"


class FloodingTests(HashKindCase):
    kind = "flooding"

    def test_it_is_refused_what_is_over_the_rate(self) -> None:
        self.begin()
        self.world.run(60)
        stored = [self.table(node).server.served["store"] for node in self.nodes]
        # A hundred at once, and a hundred a minute: of it, and some of the others.
        self.assertLess(max(stored), 300)
        self.assertGreater(sum(stored), 200)


class GrindingTests(HashKindCase):
    kind = "grinding"

    def test_its_id_is_near_to_the_topic(self) -> None:
        assert isinstance(self.eve, Grinding)
        self.begin()
        key = bytes.fromhex(self.put(self.nodes[0], "x")["key"])
        mine = distance(node_id(self.eve.identity.public), key)
        for node in self.nodes:
            self.assertLess(mine, distance(node_id(node.identity.public), key))
