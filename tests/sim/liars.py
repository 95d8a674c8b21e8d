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
                    self.assertEqual(said.status, 201)
            self.world.run(seconds)

    def lie(self, way: str, times: int = 1, seconds: float = 1800.0) -> None:
        """Let time pass until it has lied so often in one way."""
        before = self.eve.told.ways[way]
        self.world.until(
            lambda: self.eve.told.ways[way] >= before + times, f"{times} lies of {way}", seconds
        )

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

    def counts(self, node: SimNode, what: str) -> dict[str, int]:
        """@param what: C{refused}, C{broken} or C{hindered} of gossip."""
        status = node.ask("GET", "/v1/status").json["data"]["parts"]["gossip"]
        counts: dict[str, int] = status[what]
        return counts

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
