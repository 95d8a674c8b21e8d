"""
Peers that sleep and move, and one who hands on nothing or what is old: he can only delay.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.identity.addresses import MeshAddress
from meshkit.interfaces import IFeedStore, IPeerFinder
from meshkit.parts import PartMaker
from meshkit.runtime.registry import discover_parts
from meshkit.sim.node import SimNode
from meshkit.sim.world import World
from meshkit.testing.nodes import MESH_PORT
from tests.sim import handing

#: Without the hash table: there is nobody to ask but peers.
PARTS = ("exchange", "feed", "gossip")


class TouchCase(SynchronousTestCase):
    seed = 3

    def setUp(self) -> None:
        self.world = World(self.seed, parts=("exchange",))
        # Where those are who have moved.
        self.moved: dict[str, str] = {}
        self.addCleanup(self.end)
        found = discover_parts(meshkit_plugins)
        self.honest = [each for each in found if each.name in PARTS]
        self.lying = [each for each in self.honest if each.name != "exchange"]
        wants = (IFeedStore, IPeerFinder)
        self.lying.append(PartMaker("exchange", handing.__name__, wants=wants))

    def end(self) -> None:
        self.world.stop()
        self.world.run(300)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])
        self.assertNotIn(b'"error"', b"".join(self.world.trace.lines))

    def node(self, name: str, *peers: SimNode, lies: bool = False) -> SimNode:
        node = self.world.node(
            name, self.config(*peers), makers=self.lying if lies else self.honest
        )
        node.start()
        return node

    def config(self, *peers: SimNode) -> str:
        return f"peers = [{', '.join(repr(peer.address) for peer in peers)}]\n"

    def move(self, *moving: tuple[SimNode, tuple[SimNode, ...]]) -> None:
        """They stop, and start at another port, with the same settings, all at one moment."""
        for node, _ in moving:
            node.stop()
        for number, (node, peers) in enumerate(moving):
            port = MESH_PORT + 1 + number
            listen = f'listen = "tcp:{port}:interface={node.host.address}"\n'
            node.configure(self.config(*peers) + listen)
            was = MeshAddress.parse(node.address)
            self.moved[node.name] = MeshAddress(was.host, port, was.key).text
        for node, _ in moving:
            node.launch()

    def connected(self, node: SimNode, other: SimNode) -> bool:
        where = self.moved.get(other.name, other.address)
        entries = node.service.peers.entries() if node.ready else []
        return any(each.connected and each.address.text == where for each in entries)

    def exchange(self, node: SimNode) -> Any:
        return node.ask("GET", "/v1/status").json["data"]["parts"]["exchange"]

    def until_connected(self, node: SimNode, other: SimNode, seconds: float) -> float:
        began = self.world.clock.seconds()
        self.world.until(
            lambda: self.connected(node, other), f"{node.name} at {other.name}", seconds
        )
        return self.world.clock.seconds() - began


class Moving(TouchCase):
    def test_two_that_move_at_once_are_in_touch_again_within_seconds(self) -> None:
        third = self.node("third")
        ada = self.node("ada", third)
        bob = self.node("bob", ada, third)
        self.world.run(20)
        self.move((ada, (third,)), (bob, (ada, third)))
        took = self.until_connected(bob, ada, 30)
        print(f"two that have moved: in touch after {took:.1f} s", file=sys.stderr)

    def test_a_chain_of_moves_is_followed(self) -> None:
        third = self.node("third")
        ada = self.node("ada", third)
        bob = self.node("bob", ada, third)
        self.world.run(20)
        for number in range(3):
            ada.stop()
            port = MESH_PORT + 10 + number
            ada.configure(
                f'{self.config(third)}listen = "tcp:{port}:interface={ada.host.address}"\n'
            )
            was = MeshAddress.parse(ada.address)
            self.moved["ada"] = MeshAddress(was.host, port, was.key).text
            ada.launch()
            self.until_connected(bob, ada, 30)
        self.assertEqual(len(bob.service.peers.entries()), 3)


class Lying(TouchCase):
    """Eve is known to all, and so is an honest one.  Both are asked."""

    def try_manner(self, manner: str) -> None:
        self.patch(handing.LyingPart, "manner", manner)
        eve = self.node("eve", lies=True)
        third = self.node("third")
        ada = self.node("ada", eve, third)
        bob = self.node("bob", ada, eve, third)
        self.world.run(20)
        self.move((ada, (eve, third)), (bob, (ada, eve, third)))
        took = self.until_connected(bob, ada, 60)
        print(f"with one who lies ({manner}): after {took:.1f} s", file=sys.stderr)
        eves: Any = eve.service
        self.assertIn(bob.identity.public, eves._parts["exchange"].asked)
        status = self.exchange(bob)
        self.assertEqual(status["refused"], {})
        self.assertEqual(status["moved"], 1)
        self.outdated = status["outdated"]
        self.eve = eve

    def test_who_gives_nothing_delays_nobody(self) -> None:
        self.try_manner("withhold")

    def test_who_gives_what_is_old_is_found_out(self) -> None:
        self.try_manner("outdated")
        # Others had the newer one: it is seen that he did not give it.
        key = self.eve.identity.public.text
        self.world.run(1)
        self.assertIn(key, self.outdated)

    def test_who_gives_different_ones_brings_nobody_apart(self) -> None:
        self.try_manner("differ")

    def test_who_never_answers_delays_for_seconds(self) -> None:
        self.try_manner("hang")

    def test_who_gives_what_nobody_asked_for_is_not_heeded(self) -> None:
        self.try_manner("swap")

    def test_with_him_alone_they_are_apart_until_somebody_tells(self) -> None:
        self.patch(handing.LyingPart, "manner", "withhold")
        eve = self.node("eve", lies=True)
        ada = self.node("ada", eve)
        bob = self.node("bob", ada, eve)
        self.world.run(20)
        self.move((ada, (eve,)), (bob, (ada, eve)))
        self.world.run(300)
        self.assertFalse(self.connected(bob, ada))
        # A third comes, whom ada has told.
        third = self.node("third", ada)
        third.ask("POST", "/v1/peers", {"address": self.moved["ada"]})
        bob.ask("POST", "/v1/peers", {"address": third.address})
        self.until_connected(bob, ada, 120)


class Sleeping(TouchCase):
    def test_who_wakes_is_in_step_within_seconds(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        ada.ask("POST", "/v1/publish", {"content": "before"})
        self.world.run(20)
        # While one side alone is there, next to nothing happens.
        bob.host.sleep(2 * 3600.0)
        self.world.run(3600.0)
        self.assertEqual(self.exchange(ada)["watched"], 0)
        last = ada.ask("POST", "/v1/publish", {"content": "meanwhile"}).json["data"]["sequence"]
        self.world.run(3600.0 - 1)
        woken = self.world.clock.seconds() + 1
        author = ada.identity.public.raw
        self.world.run(1)

        def in_step() -> bool:
            rows = bob.look(
                "SELECT max(sequence) FROM feed_messages WHERE author = "
                "(SELECT id FROM feed_authors WHERE key = ?)",
                (author,),
            )
            return bool(rows[0][0] == last)

        self.world.until(in_step, "what was published meanwhile", 60)
        took = self.world.clock.seconds() - woken
        print(f"in step {took:.1f} s after a sleep of two hours", file=sys.stderr)
        self.assertLess(took, 10)
        self.until_connected(bob, ada, 10)
        self.assertEqual(self.exchange(bob)["woke"], 1)
        self.world.run(60)
        self.assertTrue(self.connected(bob, ada))
        self.assertEqual(self.exchange(bob)["lost"], 0)
