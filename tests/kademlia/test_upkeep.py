"""Tests of L{meshkit.kademlia.upkeep}: what is done by itself, one thing at a time."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import Overloaded
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
