"""Tests of L{meshkit.kademlia.node} among nodes that mean it no good."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import OverRate, RemoteError
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import Identity
from meshkit.identity.records import AddressRecord
from meshkit.kademlia import protocol
from meshkit.kademlia.blocks import TABLE_LIMIT
from meshkit.kademlia.connections import Connections
from meshkit.kademlia.distance import node_id, number, record_key
from meshkit.kademlia.estimate import MIN_SAMPLES, SizeEstimate
from meshkit.kademlia.node import MAX_SATED, KademliaNode
from meshkit.kademlia.records import Record
from meshkit.kademlia.routing import MAX_CHECKS, K
from meshkit.kademlia.wire import (
    BURST,
    FIND_NODE,
    PING,
    RATE,
    RECORD_COST,
    FindNode,
    FindValue,
    Nodes,
    Outcome,
    Ping,
    Store,
    Stored,
    Values,
)
from tests.kademlia.mesh import Mesh
from tests.kademlia.recording import ME, NETWORK, NOW, owner, topic

BIRDS = record_key("topic", b"birds")


def serve(node: KademliaNode, name: str, handler: Any) -> None:
    """Have a node answer otherwise than it should."""
    served = node.server.dispatcher.find(name)
    assert served is not None
    node.server.dispatcher._served[name] = type(served)(served.method, handler)


def ground(place: bytes, bits: int) -> Iterator[Identity]:
    """Keys made until they share so many bits with a place."""
    for n in count():
        identity = Identity(hashlib.sha256(b"ground %d" % n).digest())
        if (number(node_id(identity.public)) ^ number(place)) >> (256 - bits) == 0:
            yield identity


def shown_by(who: Identity, place: HostPort) -> bytes:
    """@return: an address record that says that somebody is there."""
    expires = NOW + 3_600_000
    return AddressRecord.seal(who, NETWORK, [place], sequence=NOW, expires=expires).raw


def _code(failure: Failure) -> str:
    return str(getattr(failure.value, "code", ""))


class Hostile(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()

    def end(self) -> None:
        self.mesh.stop()
        for node in self.mesh.nodes:
            stats = node.stats()
            self.assertEqual((stats.connections, stats.accepted, stats.lookups), (0, 0, 0))
            self.assertEqual(node._tasks, {})
        self.assertEqual(self.mesh.clock.waiting, 0)


class Crowds(Hostile):
    """Twenty keys that are nearer to a record than any honest node."""

    def setUp(self) -> None:
        super().setUp()
        self.honest = self.mesh.acquainted(44)
        self.crowd: list[KademliaNode] = []
        self.kept = 0

    def come(self) -> None:
        """The crowd comes, and lies about that place only."""
        honest = min(number(node.id) ^ number(BIRDS) for node in self.honest)
        bits = 256 - honest.bit_length() + 1
        for identity in islice(ground(BIRDS, bits), K):
            self.crowd.append(self.mesh.make(identity=identity))
        names = [node.own_record() for node in self.crowd]

        def told(request: FindNode | FindValue, target: bytes) -> list[bytes]:
            near = number(target) ^ number(BIRDS) < honest
            return names if near else []

        def store(peer: Any, request: Store) -> Stored:
            self.kept += len(request.records)
            return Stored([Outcome() for _ in request.records])

        for node in self.crowd:
            serve(node, "find_node", lambda peer, request: Nodes(told(request, request.target)))
            serve(
                node, "find_value", lambda peer, request: Values([], 0, told(request, request.key))
            )
            serve(node, "store", store)
            self.mesh.result(node.start())
        self.mesh.acquaint(self.honest, self.crowd)

    def test_what_is_stored_while_they_are_there_is_stored_behind_them(self) -> None:
        self.come()
        placed = self.mesh.result(self.honest[3].put("topic", b"birds", b"a wren"))
        self.assertTrue(placed.crowded)
        self.assertEqual(self.kept, K)
        self.assertGreater(placed.asked, K + 10)
        found = self.mesh.result(self.honest[30].get("topic", b"birds"))
        self.assertTrue(found.crowded)
        self.assertEqual([each.value for each in found], [b"a wren"])
        self.end()

    def test_what_was_stored_before_they_came_is_found(self) -> None:
        self.mesh.result(self.honest[3].put("topic", b"birds", b"a wren"))
        self.come()
        found = self.mesh.result(self.honest[30].get("topic", b"birds"))
        self.assertEqual([each.value for each in found], [b"a wren"])
        self.end()


class Neighbours(Hostile):
    def test_who_crowds_around_a_node_does_not_say_how_many_there_are(self) -> None:
        nodes = self.mesh.acquainted(24)
        node = nodes[0]
        node.size = SizeEstimate()
        crowd = [
            self.mesh.make(100 + n, identity=identity)
            for n, identity in enumerate(islice(ground(node.id, 7), K))
        ]
        for each in crowd:
            self.mesh.result(each.start())
        self.mesh.acquaint(nodes, crowd)
        for other in nodes[1:] + crowd:
            other.upkeep.stop()
        for target in (node.id, *node.table.refreshes(node.wall_ms() / 1000, node.rng)):
            self.mesh.result(node.run(node.look_up(target, own=True)))
        for _ in range(MIN_SAMPLES):
            self.mesh.result(node.run(node.look_up(node.id, own=True)))
        self.mesh.run(300)
        size = node.size.size
        # They would have it be 2,000.
        self.assertTrue(size is None or size < 120, size)
        self.assertGreater(len(node.size), 2)
        self.end()


class Writers(Hostile):
    """Two that write one item at the same time, such as a person's two machines."""

    def test_each_wins_at_some_nodes_and_the_newest_stays(self) -> None:
        nodes = self.mesh.acquainted(6)
        who = Identity(bytes(32))
        writers = [self.mesh.make(identity=who, client=True) for _ in range(2)]
        for writer in writers:
            self.mesh.result(writer.start())
            self.mesh.result(writer.bootstrap([self.mesh.address(0)]))
        for n, node in enumerate(nodes):
            self.hold_up(node, b"1" if n < 3 else b"2")
        first = writers[0].swap_mutable(b"1", None)
        self.mesh.run(0.001)
        second = writers[1].swap_mutable(b"2", None)
        for swap in (first, second):
            placed = self.mesh.result(swap)
            self.assertEqual((placed.accepted, placed.asked), (3, 6))
            self.assertEqual(placed.refused, {"RECORD_CHANGED": 3})
        key = record_key("mutable", who.public.raw)
        held = [node.holdings.find("mutable", key, node.wall_ms()).records[0] for node in nodes]
        self.assertEqual([held.count(each) for each in set(held)], [3, 3])
        self.mesh.run(76 * 60)
        for node in nodes:
            (record,) = self.mesh.result(node.get("mutable", who.public.raw))
            self.assertEqual(record.value, b"2")
        held = [node.holdings.find("mutable", key, node.wall_ms()).records[0] for node in nodes]
        self.assertEqual(set(held), {record.raw})
        # Who has read that replaces it everywhere; who has not, nowhere.
        placed = self.mesh.result(writers[0].swap_mutable(b"3", record))
        self.assertEqual((placed.accepted, placed.asked), (6, 6))
        placed = self.mesh.result(writers[1].swap_mutable(b"4", record))
        self.assertEqual((placed.accepted, placed.refused), (0, {"RECORD_CHANGED": 6}))
        self.end()

    def hold_up(self, node: KademliaNode, value: bytes) -> None:
        """What has this value comes later there."""
        served = node.server.dispatcher.find("store")
        assert served is not None

        def store(peer: Any, request: Store) -> Any:
            if Record.reopen(request.records[0]).value != value:
                return served.handler(peer, request)
            late: Deferred[None] = deferLater(self.mesh.clock, 0.05)
            return late.addCallback(lambda _: served.handler(peer, request))

        serve(node, "store", store)


class Floods(Hostile):
    def test_a_flood_of_stores_is_let_in_at_the_rate_that_there_is(self) -> None:
        keeper, flooder, other = self.mesh.acquainted(3)
        contact = flooder.table.closest(keeper.id, 1)[0]
        raws = [
            topic(ME, name=f"birds {n}", sequence=self.mesh.wall_clock() // 1_000_000).raw
            for n in range(600)
        ]
        codes: list[Any] = []
        for round_ in range(6):
            stores = [
                flooder.client.store(contact, Store(raws[at : at + 20]))
                for at in range(100 * round_, 100 * round_ + 100, 20)
            ]
            for store in stores:
                store.addErrback(_code).addCallback(codes.append)
            self.mesh.run(0.5)
            # It comes again, as if it had never been here.
            flooder.connections.close(contact.key)
            self.mesh.run(0.5)
        seconds = 6.0
        most = int((BURST + RATE * seconds) / RECORD_COST)
        self.assertGreater(len(keeper.holdings), most // 2)
        self.assertLessEqual(len(keeper.holdings), most)
        self.assertIn("OVER_RATE", codes)
        placed = self.mesh.result(other.put("topic", b"birds", b""))
        self.assertEqual(placed.refused, {})
        self.assertIn(flooder.id, keeper.table)
        self.end()

    def test_who_heeds_refusals_goes_on_later(self) -> None:
        keeper, storer = self.mesh.acquainted(2)
        contact = storer.table.closest(keeper.id, 1)[0]
        sequence = self.mesh.wall_clock() // 1_000_000
        raws = [topic(ME, name=f"birds {n}", sequence=sequence).raw for n in range(600)]

        def store(*raws: bytes) -> bool:
            return bool(self.mesh.result(storer.store_at(contact, raws)))

        self.assertFalse(store(*raws))
        asked = storer.client.asked["store"]
        self.assertEqual(asked, 2)
        for _ in range(20):
            self.assertFalse(store(*raws[200:400]))
        self.assertEqual(storer.client.asked["store"], asked)
        # One is not many.
        self.assertTrue(store(raws[599]))
        self.mesh.run(60.0)
        self.assertTrue(store(*raws[200:400]))
        self.assertEqual(len(storer.connections), 1)
        self.end()

    def test_how_long_one_waits_is_not_for_others_to_say(self) -> None:
        keeper, storer = self.mesh.acquainted(2)
        contact = storer.table.closest(keeper.id, 1)[0]
        pair = [topic(ME, name=name).raw for name in ("one", "two")]
        came: list[int] = []
        for wait in (1e9, -1, 0, "long", None):

            def refuse(peer: Any, request: Store, wait: Any = wait) -> Any:
                if len(request.records) == 1:
                    return Stored([Outcome()])
                came.append(wait)
                raise OverRate("too much", retry_after=wait)

            serve(keeper, "store", refuse)
            came.clear()
            refused: Counter[str] = Counter()
            for seconds, times in ((0, 1), (59, 1), (1.1, 2)):
                self.mesh.run(seconds)
                self.assertFalse(self.mesh.result(storer.store_at(contact, pair, None, refused)))
                self.assertEqual(len(came), times)
            self.assertEqual(refused, {"OVER_RATE": 3})
            self.mesh.run(61.0)
        self.end()

    def test_only_so_many_that_have_enough_are_remembered(self) -> None:
        (node,) = self.mesh.acquainted(1)
        for n in range(MAX_SATED + 10):
            node._heed(n.to_bytes(32, "big"), RemoteError())
        self.assertEqual(len(node._sated), MAX_SATED)
        self.assertFalse(node._has_enough((9).to_bytes(32, "big")))
        self.assertTrue(node._has_enough((10).to_bytes(32, "big")))
        self.end()

    def test_who_does_not_heed_refusals_is_dropped(self) -> None:
        keeper, flooder = self.mesh.acquainted(2)
        contact = flooder.table.closest(keeper.id, 1)[0]
        answers: list[Any] = []
        for _ in range(5):
            for _ in range(50):
                flooder.client.find_node(contact, bytes(32)).addBoth(answers.append)
            self.mesh.run(0.2)
        refused = [each for each in answers if isinstance(each, Failure)]
        # A hundred are answered, and a hundred refused; then the connection is cut.
        self.assertGreaterEqual(len(answers) - len(refused), 98)
        codes = [getattr(each.value, "code", "") for each in refused]
        self.assertGreaterEqual(codes.count("OVER_RATE"), 98)
        cut = [
            each
            for each in refused
            if each.check(ConnectionLost, ConnectionDone, ConnectionAborted)
        ]
        self.assertGreater(len(cut), 10)
        self.end()


class Silence(Hostile):
    """Nearly half of those that are known say nothing but that they are there."""

    def setUp(self) -> None:
        super().setUp()
        self.nodes = self.mesh.acquainted(21)
        for node in self.nodes[12:]:
            for name in ("find_node", "find_value", "store"):
                serve(node, name, lambda peer, request: Deferred())

    def test_a_lookup_ends_and_finds_who_is_there(self) -> None:
        began = self.mesh.clock.seconds()
        found = self.mesh.result(self.nodes[0].find_node(bytes(32)))
        self.assertEqual({each.id for each in found}, {node.id for node in self.nodes[1:12]})
        self.assertLess(self.mesh.clock.seconds() - began, 12.0)
        placed = self.mesh.result(self.nodes[0].put("topic", b"birds", b""))
        self.assertEqual(placed.accepted, 12)
        self.end()

    def test_one_that_is_given_up_half_way_leaves_nothing(self) -> None:
        node = self.nodes[0]
        for seconds in (0.01, 0.05, 1.01, 4.0):
            found = node.find_node(bytes(32))
            self.mesh.run(seconds)
            self.assertNoResult(found)
            found.cancel()
            self.failureResultOf(found, CancelledError)
            self.assertEqual((node.stats().lookups, node._tasks), (0, {}))
            self.assertEqual((node.connections.dialling, node.connections.queued), (0, 0))
            self.mesh.run(0.05)
            self.assertEqual(sum(each.calling for each in node.connections.connected()), 0)
        self.end()


class ManyKeys(Hostile):
    """Somebody has one address, and as many keys as he likes."""

    def come(self, target: KademliaNode, n: int, host: str, shown: HostPort | None) -> Any:
        """
        Open a connection with the key of that number.

        @param shown: where it says that it can be reached.
        @return: the connections of that key.
        """
        mesh, who = self.mesh, owner(1_000 + n)
        connections = Connections(mesh.clock, mesh.endpoint(0, who, host), lambda _: None)
        self.others.append(connections)
        record = b"" if shown is None else shown_by(who, shown)
        place = mesh.place(target)
        asked = connections.call(target.identity.public, [place], PING, Ping(record), 5.0)
        asked.addErrback(lambda _: None)
        return connections

    def setUp(self) -> None:
        super().setUp()
        self.others: list[Connections] = []

    def end(self) -> None:
        for each in self.others:
            self.mesh.result(each.stop())
        super().end()

    def test_they_do_not_keep_others_from_being_known(self) -> None:
        (node,) = self.mesh.add()
        for n in range(2 * MAX_CHECKS):
            hole = HostPort(f"12.{n}.0.1", 7_655)
            self.mesh.black_holes.add(hole)
            self.come(node, n, "13.0.0.1", hole)
        self.mesh.run(1.0)
        self.assertLessEqual(len(node.table._checks), TABLE_LIMIT)
        late = self.mesh.make(70)
        self.mesh.result(late.start())
        self.mesh.result(late.bootstrap([self.mesh.address(0)]))
        self.mesh.run(1.0)
        self.assertIn(late.id, node.table)
        # Nor does one of them, whatever it asks.
        before = node.connections.dialled
        for _ in range(20):
            key, place = node.identity.public, self.mesh.place(node)
            request = FindNode(bytes(32))
            self.mesh.result(self.others[0].call(key, [place], FIND_NODE, request, 5.0))
            self.mesh.run(1.0)
        self.assertEqual(node.connections.dialled, before)
        self.end()

    def test_they_do_not_keep_others_from_coming_in(self) -> None:
        self.patch(protocol, "MAX_ACCEPTED", 8)
        (node,) = self.mesh.add()
        many = [self.come(node, n, f"13.0.0.{n}", None) for n in range(12)]
        self.mesh.run(1.0)
        self.assertEqual(len(node.server), 8)
        self.assertEqual(sum(map(len, many)), 8)
        others = [self.come(node, 100 + n, f"14.{n}.0.1", None) for n in range(7)]
        self.mesh.run(1.0)
        self.assertEqual([len(each) for each in others], [1] * 7)
        self.assertEqual((len(node.server), sum(map(len, many))), (8, 1))
        # Who has no more than others makes no room for others.
        more = self.come(node, 200, "14.99.0.1", None)
        self.mesh.run(1.0)
        self.assertEqual(len(more), 0)
        self.assertEqual([len(each) for each in others], [1] * 7)
        self.end()

    def test_those_whom_a_node_knows_for_longer_stay_and_come_in(self) -> None:
        self.patch(protocol, "MAX_ACCEPTED", 4)
        known = [owner(1_000 + n).public for n in (0, 1, 9)]
        node = self.mesh.make(trusted=known)
        self.mesh.result(node.start())
        first = [self.come(node, n, "13.0.0.1", None) for n in range(4)]
        self.mesh.run(1.0)
        self.come(node, 8, "14.0.0.1", None)
        self.mesh.run(1.0)
        self.assertEqual([len(each) for each in first], [1, 1, 0, 1])
        trusted = self.come(node, 9, "13.0.0.1", None)
        self.mesh.run(1.0)
        self.assertEqual([len(each) for each in first], [1, 1, 0, 0])
        self.assertEqual(len(trusted), 1)
        self.end()
