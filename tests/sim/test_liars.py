"""
Peers that lie among honest nodes: these agree all the same, hold nothing false, and are rid
of whoever lies.
"""

from __future__ import annotations

from typing import ClassVar

from meshkit.sim import world as world_module
from meshkit.sim.liars import LIARS, Liar
from meshkit.sim.world import SimNode, World
from meshkit.testing.identities import Author
from tests.sim.liars import LiarCase


class KindTests(LiarCase):
    kind = "forged"

    def test_there_is_one_class_for_each_kind(self) -> None:
        self.assertEqual({kind: each.kind for kind, each in LIARS.items()}, {k: k for k in LIARS})

    def test_a_kind_that_there_is_not(self) -> None:
        world = World(1)
        self.addCleanup(world.stop)
        error = self.assertRaises(ValueError, world.liar, "eve", "honest")
        self.assertIn("forged", str(error))
        # Nothing was made.
        world.host("eve")

    def test_every_kind_is_the_same_each_time_and_different_with_another_seed(self) -> None:
        for kind in LIARS:
            with self.subTest(kind=kind):
                first, again = self.digest(kind, 3), self.digest(kind, 3)
                self.assertEqual(first, again)
                self.assertNotEqual(first, self.digest(kind, 4))

    def digest(self, kind: str, seed: int) -> str:
        self.seed = seed
        world, nodes, liar = self.make_world(kind)
        nodes["ada"].start()
        nodes["bob"].start()
        liar.start()
        for _ in range(2):
            nodes["ada"].ask("POST", "/v1/publish", {"content": "x"})
            world.run(20)
        world.stop()
        self.assertGreater(len(liar.told), 0)
        return world.trace.digest


class _Honest(Liar):
    """The stack beneath all liars, with nothing replaced but that it writes a feed."""

    def act(self) -> None:
        self.write("nothing but the truth")
        super().act()


class HonestTests(LiarCase):
    """The stack beneath all liars is an honest node, as far as others can see."""

    kind = "honest"
    dialled_by: ClassVar[tuple[str, ...]] = ("bob",)
    dials: ClassVar[tuple[str, ...]] = ("ada", "cat")

    def setUp(self) -> None:
        self.patch(world_module, "LIARS", {"honest": _Honest})
        super().setUp()

    def test_it_takes_part_and_nobody_has_anything_against_it(self) -> None:
        self.begin()
        self.publish(3)
        self.world.run(200)
        self.eve.every = 10_000
        self.publish(2)
        self.world.run(70)
        self.check_all()
        key = self.eve.key
        written = len(self.eve.library.feeds[key])
        self.assertGreater(written, 30)
        for node in self.nodes.values():
            own = [m for m in self.shown(node) if m["author"] == self.eve.identity.public.text]
            self.assertEqual(len(own), written)
            self.assertTrue(all(each["chain_valid"] for each in own))
            self.assertEqual(self.score(node), 100.0)
            for what in ("refused", "broken", "hindered"):
                self.assertEqual(self.counts(node, what), {})
            # It has all of them, too.
            self.assertEqual(self.eve.library.sequence(node.identity.public.raw), 6)
        self.assertEqual(len(self.eve.told), 0)

    def test_it_carries_messages_between_nodes_that_do_not_meet(self) -> None:
        self.world.network.block("ada", "bob")
        self.world.network.block("ada", "cat")
        self.world.network.block("bob", "cat")
        self.begin()
        self.publish(2)
        self.world.run(90)
        self.check_all()

    def test_it_lasts_when_others_crash_and_when_it_does(self) -> None:
        self.begin()
        self.ada.crash()
        self.world.run(5)
        self.ada.start()
        self.publish()
        self.world.run(5)
        self.eve.crash()
        self.publish()
        self.world.run(5)
        self.eve.restart()
        self.publish()
        self.world.run(200)
        self.check_all()
        for node in self.nodes.values():
            self.assertEqual(self.eve.library.sequence(node.identity.public.raw), 4)
            self.assertEqual(self.score(node), 100.0)

    def test_what_it_knows_of_forks_it_passes_on(self) -> None:
        """See the tests of equivocation for those who make them."""
        self.begin()
        one, other = (Author("somebody").write(text) for text in ("one", "the other"))
        self.assertTrue(self.eve.prove(one.author.raw, one.raw, other.raw))
        self.assertFalse(self.eve.prove(one.author.raw, one.raw, other.raw))
        self.world.run(70)
        for node in self.nodes.values():
            status = node.ask("GET", "/v1/status").json["data"]["parts"]["feed"]
            self.assertEqual(status["forked"], 1)


class ForgedTests(LiarCase):
    kind = "forged"

    def test_nothing_forged_is_stored_and_the_feeds_come_from_others(self) -> None:
        self.begin()
        for _ in range(20):
            self.publish(seconds=10)
        self.check_all()
        self.assertGreater(len(self.eve.told.forged), 10)
        refused = [self.counts(node, "refused") for node in self.nodes.values()]
        self.assertGreater(sum(each.get("SIGNATURE_INVALID", 0) for each in refused), 3)
        self.assertGreater(sum(self.eve.told.ways[way] for way in ("gap", "proof")), 0)

    def test_who_has_nothing_yet_and_asks_the_liar_first_gets_all_from_others(self) -> None:
        self.cat.launch()
        for node in (self.ada, self.bob):
            node.start()
        self.eve.start()
        self.publish(20, 0.1)
        self.cat.stop()
        # Nobody else is there when it comes back.
        self.world.network.block("ada", "cat")
        self.world.network.block("bob", "cat")
        self.publish(20, 0.1)
        self.cat.start()
        self.world.run(30)
        self.assertFalse(self.agree())
        self.assertGreater(sum(self.eve.told.ways[way] for way in ("content", "hash", "name")), 0)
        self.world.network.heal()
        self.world.run(120)
        self.check_all()

    def test_every_way(self) -> None:
        self.begin()
        self.world.network.block("ada", "cat")
        self.world.network.block("bob", "cat")
        for _ in range(60):
            self.publish(seconds=10)
            if all(self.eve.told.ways[way] for way in self.eve.ways):
                break
        self.assertEqual([w for w in self.eve.ways if not self.eve.told.ways[w]], [])
        self.world.network.heal()
        self.world.run(120)
        self.check_all()
        codes = {code for node in self.nodes.values() for code in self.counts(node, "refused")}
        self.assertTrue(codes >= {"SIGNATURE_INVALID", "HASH_MISMATCH"}, codes)

    def test_a_false_proof_freezes_nobody_and_costs_the_connection(self) -> None:
        self.begin()
        self.lie("proof", 2)
        self.world.run(5)
        broken = [self.counts(node, "broken") for node in self.nodes.values()]
        self.assertGreater(sum(each.get("FRAME_MALFORMED", 0) for each in broken), 0)
        self.assertLess(min(map(self.score, self.nodes.values())), 70)
        self.publish()
        self.world.run(60)
        self.check_all()


class EquivocatingTests(LiarCase):
    kind = "equivocating"

    def forked(self) -> list[int]:
        """How many feeds each node knows to have forked."""
        return [self.knows_fork(node) for node in self.nodes.values()]

    def knows_fork(self, node: SimNode) -> int:
        forked: int = node.ask("GET", "/v1/status").json["data"]["parts"]["feed"]["forked"]
        return forked

    def test_it_ends_with_a_proof_everywhere_and_nothing_from_there_on_is_valid(self) -> None:
        self.begin()
        self.lie("branch", 3)
        self.wait_for(lambda: self.forked() == [1, 1, 1], "a proof everywhere")
        self.world.run(60)
        self.check_all()
        at = min(sequence for author, sequence in self.eve.told.forks)
        self.assertEqual(at, self.eve.forks_at)
        valid = []
        for node in self.nodes.values():
            mine = [m for m in self.shown(node) if m["author"] == self.eve.identity.public.text]
            for each in mine:
                self.assertEqual(each["chain_valid"], each["sequence"] < at)
                self.assertEqual(bool(each.get("forked")), each["sequence"] >= at)
            valid.append(sorted(m["hash"] for m in mine if m["chain_valid"]))
        self.assertEqual(valid, [valid[0]] * 3)
        self.assertEqual(len(valid[0]), at - 1)
        # ... and it is the liar's own doing only.
        self.assertEqual([self.score(node) for node in self.nodes.values()], [100.0] * 3)

    def test_nodes_that_do_not_meet_each_believe_what_they_saw_first(self) -> None:
        for one, other in (("ada", "bob"), ("ada", "cat"), ("bob", "cat")):
            self.world.network.block(one, other)
        self.begin()
        self.lie("branch", 3)
        self.world.run(120)
        self.assertEqual(self.forked(), [0, 0, 0])
        branches = {
            tuple(
                m["hash"]
                for m in reversed(self.shown(node))
                if m["author"] == self.eve.identity.public.text
            )[: self.eve.forks_at]
            for node in self.nodes.values()
        }
        self.assertEqual(len(branches), 2)
        # When they meet, both branches are over.
        self.world.network.heal()
        self.wait_for(lambda: self.forked() == [1, 1, 1], "a proof everywhere")
        self.check_all()

    def test_a_proof_survives_a_crash_and_reaches_who_comes_later(self) -> None:
        for node in (self.ada, self.bob):
            node.start()
        self.eve.start()
        self.lie("branch", 3)
        both = (self.ada, self.bob)
        self.wait_for(lambda: all(map(self.knows_fork, both)), "a proof")
        for node in both:
            node.restart()
        self.cat.start()
        self.wait_for(lambda: self.forked() == [1, 1, 1], "a proof everywhere")
        self.check_all()


class SilentTests(LiarCase):
    kind = "silent"
    dialled_by = ("bob", "cat")
    dials = ("ada", "cat")

    def test_it_is_waited_for_so_long_and_dropped(self) -> None:
        self.begin()
        for _ in range(5):
            self.publish(seconds=60)
        self.check_all()
        self.assertEqual([w for w in self.eve.ways if not self.eve.told.ways[w]], [])
        broken = [self.counts(node, "broken") for node in self.nodes.values()]
        self.assertGreater(sum(each.get("PEER_TOO_SLOW", 0) for each in broken), 1)
        away = [self.turned_away(node) for node in self.nodes.values()]
        self.assertGreater(sum(each.get("HANDSHAKE_TIMEOUT", 0) for each in away), 0)

    def test_no_connection_lasts_longer_than_the_documented_time(self) -> None:
        self.begin()
        longest = 0.0
        for _ in range(30):
            self.world.run(10)
            for node in self.nodes.values():
                for link in self.gossip(node)._links:
                    if link.connected_to == self.eve.identity.public:
                        longest = max(longest, link.lasted)
        self.assertGreater(longest, 50)
        self.assertLessEqual(longest, 91)

    def test_a_node_between_two_honest_ones_holds_nothing_up(self) -> None:
        self.begin()
        self.world.run(95)
        node = self.ada
        said = node.ask("POST", "/v1/publish", {"content": "now"}).json["data"]
        self.world.run(4)
        for other in self.nodes.values():
            self.assertIn(said["hash"], [each["hash"] for each in self.shown(other)])


class HangingTests(LiarCase):
    kind = "hanging"
    dialled_by = ("bob", "cat")
    dials = ("ada", "cat")

    def test_each_of_its_ways_is_cut_short_and_the_others_agree(self) -> None:
        self.begin()
        for _ in range(60):
            self.publish(seconds=10)
            if all(self.eve.told.ways[way] for way in self.eve.ways):
                break
        self.assertEqual([w for w in self.eve.ways if not self.eve.told.ways[w]], [])
        self.world.run(95)
        self.check_all()
        broken = [self.counts(node, "broken") for node in self.nodes.values()]
        self.assertGreater(sum(each.get("PEER_TOO_SLOW", 0) for each in broken), 1)
        away = [self.turned_away(node) for node in self.nodes.values()]
        self.assertGreater(sum(each.get("HANDSHAKE_TIMEOUT", 0) for each in away), 0)

    def test_a_feed_that_it_promised_is_had_from_others(self) -> None:
        self.begin()
        self.lie("feed", 4)
        self.publish()
        self.world.run(70)
        self.check_all()
        self.assertLess(min(map(self.score, self.nodes.values())), 95)


class LastingTests(LiarCase):
    """It comes back, and so do the others."""

    kind = "forged"

    def test_liars_and_honest_nodes_crash_and_restart(self) -> None:
        for kind in LIARS:
            with self.subTest(kind=kind):
                self.kind = kind
                self.setUp()
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
                self.assertGreater(len(self.eve.told), before)
                self.eve.stop()
                self.eve.stop()
                self.publish()
                self.world.run(30)
                self.check_all()


del LiarCase
