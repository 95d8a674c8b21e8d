"""Tests of L{meshkit.kademlia.upkeep}: what is done by itself, one thing at a time."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import Overloaded
from meshkit.kademlia import node as node_module
from meshkit.kademlia import upkeep as module
from meshkit.kademlia import wire
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.holdings import Due, Holdings
from meshkit.kademlia.kinds import topic_key
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.routing import K
from meshkit.kademlia.wire import Outcome, Stored
from tests.kademlia.mesh import Mesh, place_of
from tests.kademlia.recording import owner, topic
from tests.kademlia.support import contact, contact_at
from tests.kademlia.test_node_hostile import serve

STEPS = (
    "_find_neighbours",
    "_refresh",
    "_ping_quiet",
    "_try_lost",
    "publish_address",
    "_publish",
    "_republish",
    "_hand_over",
    "_write",
)


async def _nothing() -> None:
    pass


class UpkeepCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()

    def end(self) -> None:
        self.mesh.stop()
        self.assertEqual(self.mesh.clock.waiting, 0)

    def only(self, step: str) -> list[KademliaNode]:
        """Three nodes that know each other and do just that."""
        nodes = self.mesh.add(3)
        self.mesh.run(1.0)
        for node in nodes:
            self.assertEqual(len(node.table), 2)
            for other in STEPS:
                if other != step:
                    setattr(node.upkeep, other, _nothing)
        return nodes


class Upkeep(UpkeepCase):
    def test_those_that_are_quiet_are_pinged_and_go_when_they_are_gone(self) -> None:
        nodes = self.only("_ping_quiet")
        self.mesh.result(nodes[2].stop())
        self.mesh.run(1_700)
        self.assertIn(nodes[2].id, nodes[0].table)
        self.mesh.run(500)
        self.assertNotIn(nodes[2].id, nodes[0].table)
        self.assertIn(nodes[1].id, nodes[0].table)
        self.end()

    def test_the_table_is_refreshed_every_hour(self) -> None:
        nodes = self.only("_refresh")
        self.mesh.run(100)
        asked = nodes[0].client.asked["find_node"]
        self.mesh.run(3_300)
        self.assertEqual(nodes[0].client.asked["find_node"], asked)
        self.mesh.run(500)
        self.assertGreater(nodes[0].client.asked["find_node"], asked)
        self.assertIsNone(nodes[0].size.size)
        self.mesh.run(5 * 3_600)
        self.assertEqual(nodes[0].size.size, 3.0)
        self.end()

    def test_neighbours_are_looked_for_often_at_first(self) -> None:
        nodes = self.only("_find_neighbours")
        asked = []
        for _ in range(10):
            before = nodes[0].client.asked["find_node"]
            self.mesh.run(600)
            asked.append(nodes[0].client.asked["find_node"] - before)
        # After 1, 3, 7, 15, 31 and 63 minutes, and a little.
        looked = [number for number, count in enumerate(asked) if count]
        self.assertEqual(looked, [0, 1, 3, 6])
        self.end()

    def test_what_fails_does_not_keep_the_rest_from_being_done(self) -> None:
        nodes = self.only("_ping_quiet")
        done: list[int] = []

        async def fail() -> None:
            raise Overloaded("too much")

        async def do() -> None:
            done.append(1)

        nodes[0].upkeep._refresh = fail  # type: ignore[method-assign]
        nodes[0].upkeep._write = do  # type: ignore[method-assign]
        self.mesh.run(400)
        self.assertGreater(len(done), 4)
        self.end()

    def test_a_clock_that_was_set_back_makes_no_older_address(self) -> None:
        nodes = self.only("publish_address")
        self.mesh.run(120)
        before = nodes[2].own_address()
        assert before is not None
        early = self.mesh.wall_clock
        nodes[2]._wall_clock = lambda: early() - 300 * 1_000_000_000
        # As after a restart, when only what was published is known.
        nodes[2]._record, nodes[2]._sequence = None, 0
        nodes[2]._addresses = lambda: [place_of(2), place_of(9)]
        self.mesh.run(120)
        found = self.mesh.result(nodes[0].find_peer(nodes[2].identity.public))
        self.assertEqual(found.record.sequence, before.sequence + 1)
        self.assertEqual(found.places, (place_of(2), place_of(9)))
        self.end()

    def test_of_many_records_of_a_key_others_are_taken_each_time(self) -> None:
        nodes = self.only("_republish")
        for node in nodes[1:]:
            node.upkeep.stop()
        # Forty records in a minute.
        self.patch(wire, "MAX_STORED", 10)
        self.patch(wire, "RECORD_COST", 2.5)
        now = nodes[0].wall_ms()
        for n in range(60):
            record = topic(owner(100 + n), sequence=now)
            nodes[0].holdings.store(record.raw, now, record.owner)
        counts = []
        for _ in range(4):
            self.mesh.run(76 * 60)
            counts.append(
                nodes[1].holdings.find("topic", topic_key("birds"), nodes[1].wall_ms()).held
            )
        self.assertGreaterEqual(counts[0], 20)
        self.assertLess(counts[0], 60)
        self.assertGreater(counts[3], 55)
        self.end()

    def republish(
        self, holders: list[Contact], *, crowd: bool = False
    ) -> tuple[list[Any], list[Contact]]:
        """@return: what others do, and who was given it."""
        (node,) = self.mesh.add()
        relieved: list[Any] = []
        given: list[Contact] = []

        class Found:
            crowded = crowd

            def holders(self) -> list[Contact]:
                return holders

        async def look_up(*args: Any, **kwargs: Any) -> Any:
            return Found()

        def store_at(holder: Contact, raws: Any) -> Deferred[bool]:
            given.append(holder)
            return succeed(True)

        node.look_up = look_up  # type: ignore[method-assign]
        node.store_at = store_at  # type: ignore[method-assign, assignment]
        self.patch(node.holdings, "relieve", lambda *args: relieved.append(args))
        due = Due("topic", bytes(32), (b"raw",))
        self.mesh.result(Deferred.fromCoroutine(node.upkeep._republish_one(due)))
        self.end()
        return relieved, given

    def test_where_all_are_nearer_than_we_are_others_go_on(self) -> None:
        near = [contact_at(bytes(31) + bytes([n]), n) for n in range(1, K + 1)]
        relieved, given = self.republish(near)
        self.assertEqual([each[:2] for each in relieved], [("topic", bytes(32))])
        self.assertEqual(given, near)

    def test_where_there_is_a_crowd_we_go_on(self) -> None:
        near = [contact_at(bytes(31) + bytes([n]), n) for n in range(1, K + 1)]
        relieved, given = self.republish(near, crowd=True)
        self.assertEqual((relieved, len(given)), ([], K))

    def test_where_one_is_farther_we_go_on(self) -> None:
        near = [contact_at(bytes(31) + bytes([n]), n) for n in range(1, K)]
        relieved, given = self.republish([*near, contact_at(b"\xff" * 32, 99)])
        self.assertEqual((relieved, len(given)), ([], K))

    def test_where_there_are_few_we_go_on(self) -> None:
        relieved, _ = self.republish([contact(1)])
        self.assertEqual(relieved, [])


class Missed(UpkeepCase):
    """Records of a node that no other node keeps."""

    def refusing(self, node: KademliaNode, code: str = "RECORD_NOT_KEPT") -> None:
        """Have a node take no record."""
        serve(node, "store", lambda peer, request: Stored([Outcome(code)]))

    def counted(self, node: KademliaNode) -> list[float]:
        """@return: when a node stores what it has published, but for its address."""
        times: list[float] = []
        place_ours = node.place_ours

        def place(record: Any, *args: Any) -> Any:
            if record.kind != "address":
                times.append(self.mesh.clock.seconds())
            return place_ours(record, *args)

        node.place_ours = place  # type: ignore[method-assign]
        return times

    def has(self, node: KademliaNode, name: str = "birds") -> bool:
        """Does it keep a record itself?"""
        return bool(node.holdings.find("topic", topic_key(name), node.wall_ms()).records)

    def test_what_was_put_alone_is_given_to_the_first_who_comes(self) -> None:
        (early,) = self.mesh.add()
        placed = self.mesh.result(early.put("topic", b"birds", b"a wren"))
        self.assertEqual((placed.accepted, placed.elsewhere), (1, 0))
        self.assertFalse(placed.findable)
        # It has been tried for so long that the next time is far off.
        self.mesh.run(1_800)
        late = self.mesh.make()
        self.mesh.result(late.start())
        late.bootstrap([self.mesh.address(0)])
        self.mesh.run(1 + module.GATHER)
        self.assertTrue(self.has(late))
        self.assertEqual(early.publications.missing, 0)
        self.end()

    def test_what_others_refuse_is_soon_tried_again_and_less_often_later(self) -> None:
        nodes = self.only("_publish")
        for node in nodes[1:]:
            self.refusing(node)
        times = self.counted(nodes[0])
        placed = self.mesh.result(nodes[0].put("topic", b"birds", b"a wren"))
        self.assertEqual((placed.accepted, placed.elsewhere), (1, 0))
        self.assertEqual(placed.refused, {"RECORD_NOT_KEPT": 2})
        # They ask here, too.
        self.assertTrue(placed.findable)
        self.mesh.run(14)
        # A quarter sooner or later than after ten seconds.
        self.assertEqual(len(times), 2)
        self.mesh.run(3_600)
        self.assertIn(len(times), range(7, 11))
        before = len(times)
        self.mesh.run(10 * 3_600)
        self.assertIn(len(times) - before, range(7, 14))
        self.end()

    def test_what_one_other_keeps_is_stored_again_in_an_hour(self) -> None:
        nodes = self.only("_publish")
        self.refusing(nodes[1])
        placed = self.mesh.result(nodes[0].put("topic", b"birds", b"a wren"))
        self.assertEqual((placed.accepted, placed.elsewhere), (2, 1))
        times = self.counted(nodes[0])
        self.mesh.run(2_600)
        self.assertEqual(times, [])
        self.mesh.run(2_000)
        self.assertEqual(len(times), 1)
        self.end()

    def test_where_all_others_keep_a_newer_one_there_is_no_hurry(self) -> None:
        nodes = self.only("_publish")
        for node in nodes[1:]:
            self.refusing(node, "RECORD_STALE")
        placed = self.mesh.result(nodes[0].put("topic", b"birds", b"a wren"))
        self.assertEqual((placed.elsewhere, placed.settled), (0, True))
        self.assertEqual(nodes[0].publications.missing, 0)
        self.refusing(nodes[2])
        placed = self.mesh.result(nodes[0].put("topic", b"birds", b"a wren"))
        self.assertEqual((placed.elsewhere, placed.settled), (0, False))
        self.assertEqual(nodes[0].publications.missing, 1)
        self.end()

    def test_it_is_stored_again_until_one_of_them_keeps_it(self) -> None:
        nodes = self.only("_publish")
        taking = [node.server.dispatcher.find("store") for node in nodes]
        for node in nodes[1:]:
            self.refusing(node)
        self.mesh.result(nodes[0].put("topic", b"birds", b"a wren"))
        self.mesh.run(14)
        self.assertEqual(nodes[0].publications.missing, 1)
        nodes[1].server.dispatcher._served["store"] = taking[1]  # type: ignore[assignment]
        self.mesh.run(30)
        self.assertTrue(self.has(nodes[1]))
        self.assertEqual(nodes[0].publications.missing, 0)
        times = self.counted(nodes[0])
        self.mesh.run(2_600)
        self.assertEqual(times, [])
        self.end()

    def test_what_was_taken_back_is_not_stored_again(self) -> None:
        (early,) = self.mesh.add()
        self.mesh.result(early.put("topic", b"birds", b"a wren"))
        self.mesh.result(early.withdraw("topic", b"birds"))
        times = self.counted(early)
        self.mesh.run(7_200)
        self.assertEqual((times, early.publications.missing), ([], 0))
        self.end()

    def test_a_node_alone_does_not_spin(self) -> None:
        (node,) = self.mesh.add()
        for n in range(5):
            self.mesh.result(node.put("topic", b"%d" % n, b""))
        times = self.counted(node)
        self.mesh.run(3_600)
        self.assertIn(len(times), range(5 * 6, 5 * 11))
        before = len(times)
        self.mesh.run(10 * 3_600)
        self.assertIn(len(times) - before, range(5 * 7, 5 * 14))
        self.end()

    def test_many_who_come_make_it_do_no_more_than_so_much(self) -> None:
        nodes = self.only("_publish")
        for node in nodes[1:]:
            self.refusing(node)
        for n in range(20):
            self.mesh.result(nodes[0].put("topic", b"%d" % n, b""))
        times = self.counted(nodes[0])
        began = self.mesh.clock.seconds()
        for n in range(60):
            nodes[0].upkeep.joined(contact(n))
            self.mesh.run(1.0)
        rounds = sorted({round(at - began) // 5 for at in times})
        self.assertLessEqual(len(times), 7 * module.MAX_AGAIN)
        self.assertLessEqual(len(rounds), 7)
        self.assertGreaterEqual(len(times), 4 * module.MAX_AGAIN)
        self.end()

    def test_what_was_not_come_to_is_not_left_for_an_hour(self) -> None:
        nodes = self.only("_publish")
        for n in range(6):
            self.mesh.result(nodes[0].put("topic", b"%d" % n, b""))
        failing = [Overloaded("too much")]
        look_up = nodes[0].look_up

        async def fail(*args: Any, **more: Any) -> Any:
            if failing:
                raise failing.pop()
            return await look_up(*args, **more)

        nodes[0].look_up = fail  # type: ignore[method-assign]
        due = nodes[0].publications._schedule
        for n in range(6):
            due.set(("topic", topic_key(str(n)), b""), nodes[0].wall_ms())
        times = self.counted(nodes[0])
        self.mesh.run(75)
        # The first that was due failed, and ended that look.
        self.assertEqual((failing, len(times)), ([], 1))
        self.mesh.run(60)
        self.assertEqual((len(times), nodes[0].publications.missing), (7, 0))
        self.end()

    def test_a_put_that_fails_is_tried_again(self) -> None:
        nodes = self.only("_publish")
        self.patch(node_module, "MAX_LOOKUPS", 0)
        with self.assertRaises(Overloaded):
            self.mesh.result(nodes[0].put("topic", b"birds", b"a wren"))
        self.patch(node_module, "MAX_LOOKUPS", 256)
        self.mesh.run(14)
        self.assertTrue(self.has(nodes[1]))
        self.end()

    def test_what_was_swapped_and_only_this_node_keeps_is_stored_again(self) -> None:
        (early,) = self.mesh.add()
        placed = self.mesh.result(early.swap_mutable(b"1", None))
        self.assertEqual((placed.accepted, placed.elsewhere), (1, 0))
        self.assertEqual(early.publications.missing, 1)
        self.end()

    def test_an_address_that_nobody_took_is_published_again(self) -> None:
        nodes = self.mesh.add(2)
        late = self.mesh.make()
        for node in nodes:
            self.refusing(node)
        self.mesh.result(late.start())
        self.mesh.result(late.bootstrap([self.mesh.address(0)]))
        self.assertEqual(late.publications.missing, 1)
        self.end()


class Newcomers(UpkeepCase):
    """Those who are given what is theirs, and do not take it."""

    def keeping(self, keys: int) -> KademliaNode:
        """A node that hands over, with records of so many keys."""
        (node,) = self.mesh.add()
        for other in STEPS:
            if other not in ("_hand_over", "_write"):
                setattr(node.upkeep, other, _nothing)
        self.patch(module, "MAX_HANDED", 1)
        now = node.wall_ms()
        for n in range(keys):
            record = topic(owner(1), name=f"{n}", sequence=now)
            node.holdings.store(record.raw, now, record.owner)
        # Whoever comes is nearer to all of them.
        self.patch(node.holdings, "_hands_over", lambda *args: True)
        node.holdings._own = 1 << 256
        return node

    def newcomer(self, seconds: float) -> list[int]:
        """
        Somebody who takes that long to say that it keeps something.

        @return: how many records it was given.
        """
        given: list[int] = []

        def store(peer: Any, request: Any) -> Deferred[Any]:
            given.append(len(request.records))
            return deferLater(self.mesh.clock, seconds, lambda: Stored([Outcome()]))

        late = self.mesh.make()
        serve(late, "store", store)
        self.mesh.result(late.start())
        self.mesh.result(late.bootstrap([self.mesh.address(0)]))
        return given

    def looks(self, node: KademliaNode) -> list[float]:
        """@return: when it has come to the end of a look."""
        looks: list[float] = []

        async def end() -> None:
            looks.append(self.mesh.clock.seconds())

        node.upkeep._write = end  # type: ignore[method-assign]
        return looks

    def test_one_that_takes_nothing_is_not_given_more(self) -> None:
        # Eight keys at a time.
        handover: Any = Holdings.handover
        self.patch(Holdings, "handover", lambda *args: handover(*args, 8))
        node = self.keeping(64)
        looks = self.looks(node)
        given = self.newcomer(1e6)
        self.mesh.run(200)
        self.assertLessEqual(len(given), 1)
        self.assertGreaterEqual(len(looks), 2)
        self.end()

    def test_slow_ones_do_not_keep_the_rest_from_being_done(self) -> None:
        node = self.keeping(64)
        looks = self.looks(node)
        given = [self.newcomer(10.0) for _ in range(3)]
        self.mesh.run(600)
        self.assertGreaterEqual(len(looks), 4)
        self.assertGreater(sum(map(len, given)), 6)
        self.end()

    def test_what_takes_too_long_is_left(self) -> None:
        nodes = self.only("_refresh")
        looks = self.looks(nodes[0])
        given_up: list[int] = []

        async def refresh() -> None:
            try:
                await Deferred()
            finally:
                given_up.append(1)

        nodes[0].upkeep._refresh = refresh  # type: ignore[method-assign]
        self.mesh.run(1_200)
        self.assertGreaterEqual(len(looks), 3)
        self.assertEqual(len(looks), len(given_up))
        self.end()
