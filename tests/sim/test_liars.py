"""
Peers that lie among honest nodes: these agree all the same, hold nothing false, and are rid
of whoever lies.
"""

from __future__ import annotations

from typing import ClassVar

from meshkit.gossip import spread
from meshkit.sim import world as world_module
from meshkit.sim.liars import GOSSIPS, LIARS, Liar
from meshkit.sim.liars.stale import Stale
from meshkit.sim.world import SimNode, World
from meshkit.testing.identities import Author
from tests.sim import liars as support


class KindTests(support.LiarCase):
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

    def test_each_kind_has_its_tests_here(self) -> None:
        """Those of the hash table are in C{test_hash_liars.py}."""
        tested = {each.kind for each in support.KindCase.__subclasses__()}
        self.assertEqual(tested, set(GOSSIPS))


class _Honest(Liar):
    """The stack beneath all liars, with nothing replaced but that it writes a feed."""

    def act(self) -> None:
        self.write("nothing but the truth")
        super().act()


class HonestTests(support.LiarCase):
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
            self.assertEqual((self.refused(node), self.broken(node)), ({}, {}))
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


class ForgedTests(support.KindCase):
    kind = "forged"

    def test_nothing_forged_is_stored_and_the_feeds_come_from_others(self) -> None:
        self.begin()
        for _ in range(20):
            self.publish(seconds=10)
        self.check_all()
        self.assertGreater(len(self.eve.told.forged), 10)
        self.assertGreater(self.total(self.refused, "SIGNATURE_INVALID"), 3)
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
        self.lie_in_all_ways()
        self.world.network.heal()
        self.world.run(120)
        self.check_all()
        for code in ("SIGNATURE_INVALID", "HASH_MISMATCH"):
            self.assertGreater(self.total(self.refused, code), 0)

    def test_a_false_proof_freezes_nobody_and_costs_the_connection(self) -> None:
        self.begin()
        self.lie("proof", 2)
        self.world.run(5)
        self.assertGreater(self.total(self.broken, "FRAME_MALFORMED"), 0)
        self.assertLess(min(map(self.score, self.nodes.values())), 70)
        self.publish()
        self.world.run(60)
        self.check_all()


class EquivocatingTests(support.KindCase):
    kind = "equivocating"

    def check_lies_on(self, before: int) -> None:
        """... unless all know it: then nobody hears it any more."""
        self.assertGreater(len(self.eve.told), 0)

    def forked(self) -> list[int]:
        """How many feeds each node knows to have forked."""
        return [self.knows_fork(node) for node in self.nodes.values()]

    def knows_fork(self, node: SimNode) -> int:
        forked: int = node.ask("GET", "/v1/status").json["data"]["parts"]["feed"]["forked"]
        return forked

    def test_it_ends_with_a_proof_everywhere_and_nothing_from_there_on_is_valid(self) -> None:
        self.begin()
        self.lie("branch")
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
        self.lie("branch")
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
        self.lie("branch")
        both = (self.ada, self.bob)
        self.wait_for(lambda: all(map(self.knows_fork, both)), "a proof")
        for node in both:
            node.restart()
        self.cat.start()
        self.wait_for(lambda: self.forked() == [1, 1, 1], "a proof everywhere")
        self.check_all()


class BoastingTests(support.KindCase):
    kind = "boasting"
    dialled_by = ("bob",)
    dials = ("ada", "cat")

    def test_no_more_is_noted_than_may_be_and_nobody_waits_for_it(self) -> None:
        self.begin()
        most = 0
        for _ in range(8):
            self.publish(seconds=5)
            for node in self.nodes.values():
                for partner in self.gossip(node).spread.partners:
                    self.assertLessEqual(len(partner.claims), spread.MAX_CLAIMS)
                    most = max(most, len(partner.claims))
        self.assertGreater(most, spread.MAX_CLAIMS - spread.MAX_CATCHING - 1)
        self.check_all()


class SilentTests(support.KindCase):
    kind = "silent"
    dialled_by = ("bob", "cat")
    dials = ("ada", "cat")

    def test_it_is_waited_for_so_long_and_dropped(self) -> None:
        self.begin()
        for _ in range(5):
            self.publish(seconds=60)
        self.check_all()
        self.assertEqual([w for w in self.eve.ways if not self.eve.told.ways[w]], [])
        self.assertGreater(self.total(self.broken, "PEER_TOO_SLOW"), 1)
        self.wait_for(lambda: self.total(self.turned_away, "HANDSHAKE_TIMEOUT") > 0, "a timeout")

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


class HangingTests(support.KindCase):
    kind = "hanging"
    dialled_by = ("bob", "cat")
    dials = ("ada", "cat")

    def test_each_of_its_ways_is_cut_short_and_the_others_agree(self) -> None:
        self.begin()
        self.lie_in_all_ways()
        self.world.run(95)
        self.check_all()
        self.assertGreater(self.total(self.broken, "PEER_TOO_SLOW"), 1)
        self.wait_for(lambda: self.total(self.turned_away, "HANDSHAKE_TIMEOUT") > 0, "a timeout")

    def test_it_is_waited_for_as_long_as_is_documented(self) -> None:
        for way, seconds, code in (
            ("handshake", 10, "HANDSHAKE_TIMEOUT"),
            ("frame", 30, "PEER_TOO_SLOW"),
            ("comparison", 60, "PEER_TOO_SLOW"),
        ):
            with self.subTest(way=way):
                self.setUp()
                self.eve.ways = (way,)
                counted = self.turned_away if way == "handshake" else self.broken
                for node in self.nodes.values():
                    node.start()
                self.publish()
                self.eve.start()
                self.lie(way)
                self.world.run(seconds - 2)
                self.assertEqual(self.total(counted, code), 0, way)
                self.world.run(4)
                self.assertGreater(self.total(counted, code), 0, way)

    def test_a_feed_that_it_promised_is_had_from_others(self) -> None:
        self.eve.ways = ("feed",)
        self.begin()
        self.lie("feed", 2)
        self.publish()
        self.world.run(70)
        self.check_all()
        self.assertLess(min(map(self.score, self.nodes.values())), 95)


class ReplayedTests(support.KindCase):
    kind = "replayed"
    dialled_by = ("bob", "cat")
    dials = ("ada", "cat")

    def test_what_was_said_before_has_no_effect(self) -> None:
        self.begin()
        self.lie_in_all_ways()
        self.eve.stop()
        self.world.run(70)
        self.check_all()
        self.assertGreater(self.total(self.turned_away, "HELLO_REPLAYED"), 0)
        self.assertGreater(self.total(self.broken, "STREAM_TAMPERED"), 0)
        self.assertGreater(self.total(self.broken, "FRAME_MALFORMED"), 0)
        self.assertLess(min(map(self.score, self.nodes.values())), 70)

    def test_messages_that_nobody_asked_for_cost_score(self) -> None:
        self.eve.ways = ("pages",)
        self.begin()
        self.lie("pages")
        self.world.run(1)
        self.assertLess(min(map(self.score, self.nodes.values())), 81)
        self.check_all()

    def test_a_hello_that_a_restarted_node_has_forgotten_proves_nothing(self) -> None:
        self.begin()
        self.lie("hello", 2)
        self.ada.restart()
        self.lie("hello", 6)
        self.world.run(40)
        self.assertGreater(self.total(self.turned_away, "PEER_KEY_REFUSED"), 0)
        self.check_all()


class ReorderedTests(support.KindCase):
    kind = "reordered"
    dialled_by = ("bob",)
    dials = ("ada", "cat")

    def test_pages_out_of_order_cost_score(self) -> None:
        self.eve.ways = ("pages",)
        self.begin()
        self.lie("pages")
        self.world.run(1)
        self.assertLess(min(map(self.score, self.nodes.values())), 81)
        self.check_all()

    def test_what_is_in_order_is_stored_and_the_rest_is_not(self) -> None:
        self.begin()
        self.lie_in_all_ways()
        self.eve.stop()
        self.world.run(70)
        self.check_all()
        self.assertGreater(self.total(self.broken, "FRAME_MALFORMED"), 1)
        self.assertLess(min(map(self.score, self.nodes.values())), 70)
        # What is there of its feed is there from the first message on, at all alike.
        feeds = [
            sorted(
                m["sequence"]
                for m in self.shown(node)
                if m["author"] == self.eve.identity.public.text
            )
            for node in self.nodes.values()
        ]
        self.assertEqual(feeds, [list(range(1, len(feeds[0]) + 1))] * 3)


class OversizedTests(support.KindCase):
    kind = "oversized"

    def check_lies_on(self, before: int) -> None:
        """... unless all have banned it."""
        self.assertGreater(len(self.eve.told), 0)

    def test_each_way_is_noticed_at_once(self) -> None:
        for way in self.eve.ways:
            with self.subTest(way=way):
                self.setUp()
                self.eve.ways = (way,)
                self.begin()
                self.lie(way)
                self.world.run(2)
                large = {"frame": "FRAME_TOO_LARGE"}.get(way, "FRAME_MALFORMED")
                if way == "content":
                    self.assertGreater(self.total(self.refused, "CONTENT_TOO_LARGE"), 0)
                else:
                    self.assertGreater(self.total(self.broken, large), 0)

    def test_nothing_too_large_is_taken_and_the_peer_is_banned(self) -> None:
        self.begin()
        self.lie_in_all_ways()
        self.world.run(70)
        self.check_all()
        self.assertGreater(self.total(self.broken, "FRAME_TOO_LARGE"), 0)
        self.assertGreater(self.total(self.broken, "FRAME_MALFORMED"), 5)
        self.assertGreater(self.total(self.refused, "CONTENT_TOO_LARGE"), 0)
        self.assertGreater(self.total(self.turned_away, "PEER_NOT_ALLOWED"), 0)
        for node in self.nodes.values():
            self.assertLess(max(map(len, self.stored(node))), 1_000)


class StaleTests(support.KindCase):
    kind = "stale"
    dialled_by = ("bob",)
    dials = ("ada", "cat")

    def test_who_lives_in_the_past_holds_nobody_back(self) -> None:
        self.begin()
        self.lie_in_all_ways()
        self.publish(10, 0.5)
        self.world.run(5)
        self.check_all()
        for node in self.nodes.values():
            self.assertEqual(self.score(node), 100.0)
            self.assertEqual((self.refused(node), self.broken(node)), ({}, {}))

    def test_an_older_state_after_a_restart_takes_nothing_back(self) -> None:
        self.begin()
        self.world.run(60)
        before = [len(self.stored(node)) for node in self.nodes.values()]
        assert isinstance(self.eve, Stale)
        older = self.eve.old(self.eve.key)
        self.eve.restart()
        self.assertLess(self.eve.old(self.eve.key), older)
        self.world.run(60)
        self.check_all()
        after = [len(self.stored(node)) for node in self.nodes.values()]
        self.assertTrue(all(a >= b for a, b in zip(after, before, strict=True)), (before, after))


class WithholdingTests(support.KindCase):
    kind = "withholding"
    dialled_by = ("bob",)
    dials = ("ada", "cat")

    def test_it_is_waited_for_and_then_asked_for_nothing(self) -> None:
        self.begin()
        self.lie_in_all_ways()
        self.eve.stop()
        self.world.run(70)
        self.check_all()
        self.assertLess(min(map(self.score, self.nodes.values())), 95)

    def test_who_is_told_of_more_of_his_own_feed_publishes_again_after_a_minute(self) -> None:
        self.eve.ways = ("own",)
        self.begin()
        self.lie("own")
        self.world.run(1)
        self.assertTrue(any(map(self.read_only, self.nodes.values())))
        self.world.run(70)
        for _ in range(20):
            self.assertFalse(any(map(self.read_only, self.nodes.values())))
            self.publish(seconds=10)
        self.check_all()

    def read_only(self, node: SimNode) -> bool:
        status = node.ask("GET", "/v1/status").json["data"]["parts"]["feed"]
        return status["read_only"] is not None
