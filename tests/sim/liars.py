"""What the tests of liars share: honest nodes among whom somebody lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed.message import parse_message, verify_message
from meshkit.gossip import spread
from meshkit.gossip.digestion import MAX_IN_ALL
from meshkit.gossip.part import MAX_LINKS_PER_PEER, GossipPart
from meshkit.sim.liars import Liar
from meshkit.sim.world import SimNode, World

#: Compared more often than usual, so that a test takes minutes of the world and not hours.
CONFIG: Final = "[gossip]\ninterval = 30\n"


class LiarCase(SynchronousTestCase):
    """
    Three honest nodes, of which the second dials the first, and the third both; and one who
    lies, who dials some of them and is dialled by others.
    """

    seed = 11
    kind = ""
    dials: tuple[str, ...] = ("ada", "bob", "cat")
    dialled_by: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.world, self.nodes, self.eve = self.make_world()
        self.ada, self.bob, self.cat = self.nodes.values()

    def make_world(self, kind: str = "") -> tuple[World, dict[str, SimNode], Liar]:
        world = World(self.seed)
        self.addCleanup(self.end, world)
        nodes = {name: world.node(name) for name in ("ada", "bob", "cat")}
        addresses = {name: node.address for name, node in nodes.items()}
        liar = world.liar("eve", kind or self.kind, dials=[addresses[n] for n in self.dials])
        peers = {"ada": [], "bob": [addresses["ada"]], "cat": [addresses["ada"], addresses["bob"]]}
        for name, node in nodes.items():
            known = peers[name] + [liar.address] * (name in self.dialled_by)
            listed = ", ".join(f'"{address}"' for address in known)
            node.configure(f"peers = [{listed}]\n{CONFIG}")
        return world, nodes, liar

    def end(self, world: World) -> None:
        world.stop()
        world.run(300)
        self.assertEqual(world.clock.getDelayedCalls(), [])
        self.assertNotIn(b'"error"', b"".join(world.trace.lines))

    def begin(self) -> None:
        """Start all, and publish something."""
        for node in self.nodes.values():
            node.start()
        self.eve.start()
        self.publish()

    def publish(self, times: int = 1, seconds: float = 1.0) -> None:
        """Have every node that runs publish so often, and let time pass."""
        for _ in range(times):
            for node in self.nodes.values():
                if node.ready:
                    said = node.ask("POST", "/v1/publish", {"content": {"type": "note"}})
                    if said.status != 201:
                        # Somebody says that there is more of its feed, and is believed.
                        self.assertEqual((said.code, self.kind), ("FEED_READ_ONLY", "withholding"))
            self.world.run(seconds)

    def lie(self, way: str, times: int = 1, seconds: float = 1800.0) -> None:
        """Let time pass until it has lied so often in one way."""
        before = self.eve.told.ways[way]
        self.world.until(
            lambda: self.eve.told.ways[way] >= before + times, f"{times} lies of {way}", seconds
        )

    def lie_in_all_ways(self) -> None:
        """
        Let time pass until it has lied in each of its ways, while all publish.  Now and then
        it begins anew, as each connection has one way.
        """
        missing = list(self.eve.ways)
        for number in range(120):
            if number % 10 == 9:
                self.eve.restart()
            self.publish(seconds=10)
            missing = [way for way in self.eve.ways if not self.eve.told.ways[way]]
            if not missing:
                return
        self.fail(f"it has not lied in these ways: {missing} (seed {self.seed})")

    def total(self, what: Callable[[SimNode], dict[str, int]], code: str) -> int:
        """How often something was counted, by all nodes together."""
        return sum(what(node).get(code, 0) for node in self.nodes.values())

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
        """Let time pass until something is so, which takes long to look at."""
        for _ in range(round(seconds)):
            if condition():
                return
            self.world.run(1)
        self.fail(f"still waiting for: {what} (seed {self.seed})")

    # --- looking at nodes

    def gossip(self, node: SimNode) -> GossipPart:
        parts: Any = node.service._parts
        (part,) = [each for each in parts.values() if isinstance(each, GossipPart)]
        return part

    def refused(self, node: SimNode) -> dict[str, int]:
        """Messages that were refused, by code."""
        return dict(self.gossip(node).refused)

    def broken(self, node: SimNode) -> dict[str, int]:
        """Connections that ended in an error of the peer, by code."""
        return dict(self.gossip(node).broken)

    def turned_away(self, node: SimNode) -> dict[str, int]:
        """Handshakes that failed, by code."""
        counts: dict[str, int] = node.ask("GET", "/v1/status").json["data"]["refused"]
        return counts

    def score(self, node: SimNode) -> float:
        """What a node thinks of the liar."""
        return float(self.gossip(node).ledger.account(self.eve.identity.public).score)

    def shown(self, node: SimNode) -> list[dict[str, Any]]:
        """All that a node shows."""
        found: list[dict[str, Any]] = []
        target: str | None = "/v1/feed?include_self=true&limit=200"
        while target is not None:
            answer = node.ask("GET", target).json
            found += answer["data"]
            cursor = answer["metadata"].get("next_cursor")
            target = None if not cursor else f"/v1/feed?include_self=true&limit=200&cursor={cursor}"
        return found

    def stored(self, node: SimNode) -> list[bytes]:
        """The texts of all messages that a node has, also of those it does not show."""
        reader = node.host.storage.database(f"{node.folder}/node.db").open_reader()
        try:
            rows = reader.execute("SELECT raw FROM feed_messages ORDER BY id").fetchall()
            proofs = reader.execute("SELECT one, other FROM feed_forks ORDER BY author").fetchall()
        finally:
            reader.close()
        return [bytes(text) for row in (*rows, *proofs) for text in row if text]

    # --- what has to be so, whoever lies

    def check_all(self) -> None:
        """Honest nodes agree, hold nothing false, and hold no more than they may."""
        self.wait_for(self.agree, "that honest nodes agree", 600)
        for node in self.nodes.values():
            for text in self.stored(node):
                self.assertFalse(self.eve.told.is_forged(text), text)
                verify_message(parse_message(text))
            self.check_bounds(node)
        # Whoever let them down, nobody honest is believed less.
        for node in self.nodes.values():
            for other in self.nodes.values():
                account = self.gossip(node).ledger.account(other.identity.public)
                self.assertEqual(account.score, 100.0, f"{other.name} as {node.name} sees it")

    def agree(self) -> bool:
        """Has each honest node all that the honest ones have said?"""
        acknowledged = sorted((m.author, m.sequence, m.hash) for m in self.world.acknowledged)
        honest = {node.identity.public.text for node in self.nodes.values()}
        return all(
            node.ready
            and acknowledged
            == sorted(
                (each["author"], each["sequence"], each["hash"])
                for each in map(self._read, self.stored(node))
                if each["author"] in honest
            )
            for node in self.nodes.values()
        )

    def _read(self, text: bytes) -> dict[str, Any]:
        message = parse_message(text)
        return {
            "author": message.author.text,
            "sequence": message.sequence,
            "hash": message.hash,
        }

    def check_bounds(self, node: SimNode) -> None:
        part = self.gossip(node)
        self.assertLessEqual(part.digestion.in_all, MAX_IN_ALL)
        by_peer = [link for link in part._links if link.connected_to == self.eve.identity.public]
        self.assertLessEqual(len(by_peer), MAX_LINKS_PER_PEER)
        for partner in part.spread.partners:
            self.assertLessEqual(len(partner.claims), spread.MAX_CLAIMS)
            self.assertLessEqual(len(partner.wanted), spread.MAX_ON)
            self.assertLessEqual(len(partner.told), spread.MAX_TOLD)


class KindCase(LiarCase):
    """What holds for every kind."""

    def test_all_crash_and_restart_and_it_lies_on(self) -> None:
        self.begin()
        self.world.run(20)
        self.bob.crash()
        self.publish()
        self.eve.crash()
        self.world.run(5)
        before = len(self.eve.told)
        self.bob.start()
        self.eve.restart()
        self.eve.start()
        self.publish(3, 20)
        self.check_lies_on(before)
        self.eve.stop()
        self.eve.stop()
        self.publish()
        self.world.run(70)
        self.check_all()

    def check_lies_on(self, before: int) -> None:
        self.assertGreater(len(self.eve.told), before)

    def test_it_is_the_same_each_time_and_different_with_another_seed(self) -> None:
        first, again = self.digest(3), self.digest(3)
        self.assertEqual(first, again)
        self.assertNotEqual(first, self.digest(4))

    def digest(self, seed: int) -> str:
        self.seed = seed
        world, nodes, liar = self.make_world()
        for name in ("ada", "bob"):
            nodes[name].start()
        liar.start()
        for _ in range(2):
            nodes["ada"].ask("POST", "/v1/publish", {"content": "x"})
            world.run(10)
        world.until(lambda: len(liar.told) > 0, "a lie", 120)
        world.run(5)
        return world.trace.digest
