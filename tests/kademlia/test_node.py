"""Tests of L{meshkit.kademlia.node}: whole nodes, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    InvalidAnswer,
    NotFound,
    NotReady,
    Overloaded,
    RecordForeignOwner,
    RecordWrongKind,
)
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import Identity
from meshkit.identity.records import MAX_LIFETIME as ADDRESS_LIFETIME
from meshkit.identity.records import AddressRecord
from meshkit.kademlia import node as module
from meshkit.kademlia import protocol
from meshkit.kademlia.connections import Connections, Limits
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import closest, record_key
from meshkit.kademlia.holdings import Quota
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.protocol import MAX_ACCEPTED_PER_PEER
from meshkit.kademlia.wire import PING, Nodes, Outcome, Ping, Pong, Store, Stored, Values
from tests.kademlia.mesh import PORT, Mesh, place_of
from tests.kademlia.recording import NETWORK, address, owner


class MeshCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()

    def end(self) -> None:
        """Nothing is left: no timer, no connection, no lookup."""
        self.mesh.stop()
        for node in self.mesh.nodes:
            stats = node.stats()
            self.assertEqual((stats.connections, stats.accepted, stats.lookups), (0, 0, 0))
        self.assertEqual(self.mesh.clock.waiting, 0)


class Finding(MeshCase):
    def test_many_nodes_find_one_another_and_what_they_store(self) -> None:
        nodes = self.mesh.add(24)
        target = nodes[7].id
        found = self.mesh.result(nodes[23].find_node(target))
        ids = [node.id for node in nodes if node is not nodes[23]]
        self.assertEqual([each.id for each in found], closest(ids, target, 20))
        placed = self.mesh.result(nodes[3].put("topic", b"birds", b"a wren"))
        self.assertEqual(placed.accepted, placed.asked)
        self.assertGreaterEqual(placed.accepted, 20)
        (record,) = self.mesh.result(nodes[20].get("topic", b"birds"))
        self.assertEqual((record.value, record.owner), (b"a wren", owner(3).public))
        peer = self.mesh.result(nodes[11].find_peer(owner(22).public))
        self.assertEqual((peer.key, peer.places), (owner(22).public, (place_of(22),)))
        self.end()

    def test_a_node_alone_finds_nothing_and_keeps_what_it_puts(self) -> None:
        (node,) = self.mesh.add()
        self.assertEqual(self.mesh.result(node.bootstrap([])), 0)
        self.assertEqual(self.mesh.result(node.find_node(bytes(32))), [])
        self.assertEqual(self.mesh.result(node.get("topic", b"birds")), [])
        placed = self.mesh.result(node.put("topic", b"birds", b"a wren"))
        self.assertEqual((placed.accepted, placed.asked), (1, 1))
        self.assertEqual(len(self.mesh.result(node.get("topic", b"birds"))), 1)
        self.end()

    def test_bootstrap_takes_what_answers(self) -> None:
        self.mesh.add(3)
        node = self.mesh.make()
        self.mesh.result(node.start())
        self.mesh.black_holes.add(place_of(2))
        wrong = self.mesh.address(1)
        addresses = [
            self.mesh.address(2),
            self.mesh.address(77),
            MeshAddress(wrong.host, wrong.port, owner(50).public),
            self.mesh.address(3),
            self.mesh.address(0),
        ]
        self.assertGreaterEqual(self.mesh.result(node.bootstrap(addresses)), 2)
        self.assertIn(self.mesh.nodes[1].id, node.table)
        self.end()

    def test_a_peer_that_nobody_knows_is_not_found(self) -> None:
        nodes = self.mesh.add(4)
        with self.assertRaises(NotFound):
            self.mesh.result(nodes[0].find_peer(owner(50).public))
        self.end()

    def test_a_peer_that_has_published_nothing_is_found_by_where_it_is(self) -> None:
        nodes = self.mesh.add(4)
        fresh = self.mesh.make()
        self.mesh.result(fresh.start())
        fresh.upkeep.publish_address = _nothing  # type: ignore[method-assign]
        self.mesh.result(fresh.bootstrap([self.mesh.address(0)]))
        key = record_key("address", fresh.identity.public.raw)
        for node in nodes:
            self.assertEqual(node.holdings.find("address", key, node.wall_ms()).held, 0)
        found = self.mesh.result(nodes[1].find_peer(fresh.identity.public))
        self.assertEqual(found.places, (place_of(4),))
        self.end()

    def test_near_places_are_given_only_to_those_that_are_as_near(self) -> None:
        near, far, only = (
            HostPort("192.168.0.7", PORT),
            place_of(8),
            HostPort("192.168.0.9", PORT),
        )
        nodes = self.mesh.add(4)
        both = self.mesh.make(8, places=[near, far])
        hidden = self.mesh.make(9, places=[only])
        for node in (both, hidden):
            self.mesh.result(node.start())
            self.mesh.result(node.bootstrap([self.mesh.address(0)]))
        # Those that keep the records are far away.
        found = self.mesh.result(nodes[1].find_peer(both.identity.public))
        self.assertEqual(found.places, (far,))
        error = self.failureResultOf(self.wait(nodes[1].find_peer(hidden.identity.public)))
        error.trap(NotFound)
        self.assertIn(only.text, str(error.value))
        # A neighbour is told by themselves, at those places.
        neighbour = self.mesh.make(7)
        self.mesh.result(neighbour.start())
        begin = [
            MeshAddress(place.host, place.port, node.identity.public)
            for place, node in ((near, both), (only, hidden))
        ]
        self.mesh.result(neighbour.bootstrap(begin))
        found = self.mesh.result(neighbour.find_peer(both.identity.public))
        self.assertEqual(set(found.places), {near, far})
        found = self.mesh.result(neighbour.find_peer(hidden.identity.public))
        self.assertEqual(found.places, (only,))
        self.end()

    def test_what_is_kept_here_was_given_from_far_away(self) -> None:
        (node,) = self.mesh.add()
        place = HostPort("127.0.0.1", PORT)
        self.keep_address(node, owner(5), place_of(5), place)
        self.assertEqual(self.mesh.result(node.find_peer(owner(5).public)).places, (place_of(5),))
        self.keep_address(node, owner(6), place)
        error = self.failureResultOf(self.wait(node.find_peer(owner(6).public)), NotFound)
        self.assertIn(place.text, str(error.value))
        self.end()

    def test_who_says_that_it_cannot_be_reached_is_not_found(self) -> None:
        (node,) = self.mesh.add()
        self.keep_address(node, owner(5))
        error = self.failureResultOf(self.wait(node.find_peer(owner(5).public)), NotFound)
        self.assertIn("cannot be reached", str(error.value))
        self.end()

    def keep_address(self, node: KademliaNode, who: Identity, *places: HostPort) -> None:
        now = node.wall_ms()
        inner = AddressRecord.seal(
            who, NETWORK, places, sequence=now, expires=now + ADDRESS_LIFETIME
        )
        record = address(who, inner.raw, sequence=now, expires=inner.expires)
        node.holdings.store(record.raw, now, who.public)

    def wait(self, deferred: Deferred[Any]) -> Deferred[Any]:
        self.mesh.run(60)
        return deferred

    def test_what_is_found_says_what_it_took(self) -> None:
        nodes = self.mesh.acquainted(30)
        before = nodes[3].client.asked["find_node"]
        found = self.mesh.result(nodes[3].find_node(bytes(32)))
        asked = nodes[3].client.asked["find_node"] - before
        self.assertEqual((found.questions, found.crowded), (asked, False))
        self.assertGreaterEqual(found.questions, 20)
        self.assertGreaterEqual(found.hops, 1)
        placed = self.mesh.result(nodes[3].put("topic", b"birds", b""))
        self.assertGreaterEqual((placed.questions, placed.hops), (20, 1))
        found = self.mesh.result(nodes[4].get("topic", b"birds"))
        self.assertEqual(len(found), 1)
        self.assertEqual(found.questions, nodes[4].client.asked["find_value"])
        self.end()

    def test_a_client_finds_and_stores_and_is_in_nobodys_table(self) -> None:
        nodes = self.mesh.add(4)
        (client,) = self.mesh.add(client=True)
        self.assertEqual(len(client.table), 4)
        placed = self.mesh.result(client.put("topic", b"birds", b"a wren"))
        self.assertEqual((placed.accepted, placed.asked), (4, 4))
        self.assertEqual(len(self.mesh.result(client.get("topic", b"birds"))), 1)
        for node in nodes:
            self.assertNotIn(client.id, node.table)
        self.assertEqual(len(client.holdings), 0)
        self.end()

    def test_who_comes_is_known_after_it_has_answered(self) -> None:
        nodes = self.mesh.add(2)
        self.mesh.run(1.0)
        self.assertIn(nodes[1].id, nodes[0].table)
        self.assertIn(nodes[0].id, nodes[1].table)
        self.end()

    def test_kinds_that_are_not_known_are_refused(self) -> None:
        (node,) = self.mesh.add()
        with self.assertRaises(RecordWrongKind):
            self.mesh.result(node.get("nonsense", b"birds"))
        with self.assertRaises(RecordWrongKind):
            self.mesh.result(node.put("nonsense", b"birds", b""))
        with self.assertRaises(RecordForeignOwner):
            self.mesh.result(node.put("mutable", owner(5).public.raw, b"not ours"))
        self.end()

    def test_lookups_are_only_so_many(self) -> None:
        nodes = self.mesh.add(2)
        self.patch(module, "MAX_LOOKUPS", 3)
        self.mesh.result(nodes[0].find_node(bytes(32)))
        lookups = [nodes[0].find_node(bytes(32)) for _ in range(3)]
        self.failureResultOf(nodes[0].find_node(bytes(32)), Overloaded)
        for lookup in lookups:
            self.mesh.result(lookup)
        self.mesh.result(nodes[0].find_node(bytes(32)))
        self.end()


def _nobody(contact: Contact) -> None:
    pass


async def _nothing() -> None:
    pass


class Storing(MeshCase):
    def test_items_are_found_by_their_hash_and_by_their_owner(self) -> None:
        nodes = self.mesh.add(4)
        self.mesh.result(nodes[0].put_immutable(b"for ever"))
        self.mesh.result(nodes[1].put_mutable(b"1", b"salt"))
        self.mesh.run(1.0)
        self.mesh.result(nodes[1].put_mutable(b"2", b"salt"))
        name = hashlib.sha256(b"for ever").digest()
        (item,) = self.mesh.result(nodes[3].get("immutable", name))
        self.assertEqual(item.value, b"for ever")
        (item,) = self.mesh.result(nodes[3].get("mutable", owner(1).public.raw + b"salt"))
        self.assertEqual(item.value, b"2")
        self.end()

    def test_all_providers_are_found_and_who_withdraws_is_not(self) -> None:
        nodes = self.mesh.add(4)
        for node in nodes[:3]:
            self.mesh.result(node.provide(b"content"))
        found = self.mesh.result(nodes[3].providers(b"content"))
        self.assertEqual({provider.key for provider in found}, {owner(n).public for n in range(3)})
        self.mesh.result(nodes[1].withdraw("provider", b"content"))
        self.mesh.run(61)
        found = self.mesh.result(nodes[3].providers(b"content"))
        self.assertEqual({provider.key for provider in found}, {owner(n).public for n in (0, 2)})
        self.end()

    def test_who_finds_providers_is_told_where_they_are(self) -> None:
        nodes = self.mesh.add(4)
        (client,) = self.mesh.add(client=True)
        near = HostPort("192.168.0.7", PORT)
        neighbour = self.mesh.make(places=[near, place_of(5)])
        self.mesh.result(neighbour.start())
        self.mesh.result(neighbour.bootstrap([self.mesh.address(0)]))
        for node in (nodes[0], client, neighbour):
            self.mesh.result(node.provide(b"content"))
        found = self.mesh.result(nodes[3].providers(b"content"))
        self.assertEqual(
            {each.key: each.places for each in found},
            {
                nodes[0].identity.public: (place_of(0),),
                client.identity.public: (),
                # Those who gave it are not near it.
                neighbour.identity.public: (place_of(5),),
            },
        )
        # Where it is later is said with the next publishing.
        nodes[0]._addresses = lambda: [place_of(77)]
        self.mesh.run(76 * 60)
        found = self.mesh.result(nodes[3].providers(b"content"))
        places = {each.key: each.places for each in found}
        self.assertEqual(places[nodes[0].identity.public], (place_of(77),))
        self.end()

    def test_a_swap_wins_only_where_nothing_has_changed(self) -> None:
        nodes = self.mesh.add(4)
        placed = self.mesh.result(nodes[0].swap_mutable(b"1", None))
        self.assertEqual(placed.accepted, 4)
        (first,) = self.mesh.result(nodes[0].get("mutable", owner(0).public.raw))
        self.mesh.run(1.0)
        placed = self.mesh.result(nodes[0].swap_mutable(b"2", first))
        self.assertEqual(placed.accepted, 4)
        self.mesh.run(1.0)
        placed = self.mesh.result(nodes[0].swap_mutable(b"3", first))
        self.assertEqual((placed.accepted, placed.refused), (0, {"RECORD_CHANGED": 4}))
        key = record_key("mutable", owner(0).public.raw)
        published = nodes[0].publications.find("mutable", key)
        assert published is not None
        self.assertEqual(published.record.value, b"2")
        (record,) = self.mesh.result(nodes[2].get("mutable", owner(0).public.raw))
        self.assertEqual(record.raw, published.record.raw)
        self.end()

    def test_who_is_full_refuses_and_is_not_counted(self) -> None:
        nodes = self.mesh.add(3)
        (small,) = self.mesh.add(quota=Quota(each_records=1, records=10))
        self.mesh.result(nodes[1].put("topic", b"one", b""))
        placed = self.mesh.result(nodes[1].put("topic", b"two", b""))
        self.assertEqual((placed.accepted, placed.asked), (3, 4))
        self.assertEqual(placed.refused, {"RECORD_QUOTA": 1})
        self.assertLess(len(small.holdings), 10)
        self.end()


class Trouble(MeshCase):
    def serve(self, node: KademliaNode, name: str, handler: Any) -> None:
        """Have a node answer otherwise than it should."""
        served = node.server.dispatcher.find(name)
        assert served is not None
        node.server.dispatcher._served[name] = type(served)(served.method, handler)

    def test_a_peer_that_never_answers_holds_up_nobody(self) -> None:
        nodes = self.mesh.add(5)
        for name in ("find_node", "find_value", "store", "ping"):
            self.serve(nodes[2], name, lambda peer, request: Deferred())
        began = self.mesh.clock.seconds()
        found = self.mesh.result(nodes[0].find_node(nodes[2].id))
        self.assertEqual(len(found), 3)
        self.assertLess(self.mesh.clock.seconds() - began, 6.0)
        placed = self.mesh.result(nodes[0].put("topic", b"birds", b""))
        self.assertEqual(placed.accepted, 4)
        self.mesh.run(30)
        # Two questions without an answer, and it is gone.
        self.assertNotIn(nodes[2].id, nodes[0].table)
        self.end()

    def test_a_place_where_nothing_answers_holds_up_nobody(self) -> None:
        nodes = self.mesh.add(5)
        late = self.mesh.make()
        self.mesh.result(late.start())
        self.mesh.black_holes.add(place_of(2))
        self.mesh.result(late.bootstrap([self.mesh.address(0)]))
        self.assertEqual(len(late.table), 4)
        self.assertEqual(len(self.mesh.result(nodes[0].find_node(bytes(32)))), 5)
        self.end()

    def test_garbage_is_no_answer(self) -> None:
        nodes = self.mesh.add(5)
        liar = nodes[2]
        forged = bytearray(nodes[1].own_record())
        forged[-1] ^= 1
        foreign = [b"nonsense", bytes(forged)]
        self.mesh.result(nodes[1].put("topic", b"birds", b"a wren"))
        self.serve(liar, "find_node", lambda peer, request: Nodes(foreign))
        self.serve(liar, "find_value", lambda peer, request: Values([b"x"], 1, foreign))
        self.serve(liar, "ping", lambda peer, request: Pong(bytes(forged)))
        self.serve(liar, "store", lambda peer, request: Stored([]))
        self.assertEqual(len(self.mesh.result(nodes[0].find_node(bytes(32)))), 4)
        (record,) = self.mesh.result(nodes[0].get("topic", b"birds"))
        self.assertEqual(record.value, b"a wren")
        placed = self.mesh.result(nodes[0].put("topic", b"bees", b""))
        self.assertEqual((placed.accepted, placed.asked, placed.refused), (4, 5, {"": 1}))
        self.end()

    def test_an_answer_that_contradicts_itself_is_none(self) -> None:
        asker, liar = self.mesh.add(2)
        contact = asker.table.closest(liar.id, 1)[0]
        self.mesh.result(asker.put("topic", b"birds", b"a wren"))
        (record,) = self.mesh.result(asker.get("topic", b"birds"))
        twice = Values([record.raw, record.raw], 2, [])
        self.serve(liar, "find_value", lambda peer, request: twice)
        with self.assertRaises(InvalidAnswer):
            self.mesh.result(asker.client.find_value(contact, "topic", record.key, {}))
        self.serve(liar, "store", lambda peer, request: Stored([Outcome(), Outcome()]))
        with self.assertRaises(InvalidAnswer):
            self.mesh.result(asker.client.store(contact, Store([record.raw])))
        self.end()

    def test_who_shows_the_address_of_somebody_else_shows_none(self) -> None:
        nodes = self.mesh.add(2)
        client = self.mesh.make(client=True)
        self.mesh.result(client.start())
        client.client._own_record = nodes[1].own_record
        self.mesh.result(client.client.ping(nodes[0].identity.public, [place_of(0)]))
        callers = [each.contact for each in nodes[0].server._callers.values()]
        keys = [each.key for each in callers if each is not None]
        self.assertEqual(keys, [nodes[1].identity.public])
        self.end()

    def test_who_refuses_for_a_moment_stays_in_the_table(self) -> None:
        nodes = self.mesh.add(3)

        def busy(peer: Any, request: Any) -> Any:
            raise Overloaded("later")

        self.serve(nodes[1], "find_node", busy)
        for _ in range(3):
            self.assertEqual(len(self.mesh.result(nodes[0].find_node(bytes(32)))), 1)
        self.assertIn(nodes[1].id, nodes[0].table)
        self.end()

    def test_pings_of_which_nothing_came_do_not_use_up_those_that_there_may_be(self) -> None:
        nodes = self.mesh.add(3)

        def busy(peer: Any, request: Any) -> Any:
            raise Overloaded("later")

        self.serve(nodes[1], "ping", busy)
        node = nodes[0]
        contact = node.table.closest(nodes[1].id, 1)[0]

        def check() -> None:
            self.assertIsNotNone(node.table._check(contact))
            node.check(contact)

        check()
        self.mesh.run(1.0)
        self.assertEqual(len(node.table._checks), 0)  # busy
        check()
        self.assertEqual(len(node.table._checks), 1)
        self.mesh.result(node.stop())
        self.assertEqual(len(node.table._checks), 0)  # cancelled
        check()
        self.assertEqual(len(node.table._checks), 0)  # not begun
        self.end()

    def test_one_peer_has_few_connections_here(self) -> None:
        asker, asked = self.mesh.add(2)
        contact = asker.table.closest(asked.id, 1)[0]
        more = [
            Connections(asker.reactor, self.mesh.endpoint(0, asker.identity), lambda _: None)
            for _ in range(4)
        ]
        for each in more:
            self.mesh.result(each.call(contact.key, contact.places, PING, Ping(), 5.0))
        self.mesh.run(1.0)
        self.assertEqual(len(asked.server), MAX_ACCEPTED_PER_PEER)
        self.assertEqual([len(each) for each in more], [0, 0, 1, 1])
        for each in more:
            self.mesh.result(each.stop())
        self.end()

    def test_there_are_only_so_many_connections_of_others(self) -> None:
        self.patch(protocol, "MAX_ACCEPTED", 3)
        self.mesh.add(6)
        self.mesh.run(1.0)
        for node in self.mesh.nodes:
            self.assertLessEqual(len(node.server), 3)
        self.end()

    def test_coming_again_gives_nobody_more(self) -> None:
        nodes = self.mesh.add(2)
        asker, asked = nodes
        refused = 0
        contact = asker.table.closest(asked.id, 1)[0]
        for _ in range(3):
            answers: list[Any] = []
            for _ in range(60):
                asker.client.find_node(contact, bytes(32)).addBoth(answers.append)
            self.mesh.run(0.5)
            refused += sum(not hasattr(each, "contact") for each in answers)
            self.assertEqual(len(answers), 60)
            asker.connections.close(contact.key)
            self.mesh.run(0.5)
        self.assertGreater(refused, 70)
        # A hundred in a minute, and no more.
        self.assertLess(refused, 90)
        self.end()

    def test_many_records_at_once_cost_more(self) -> None:
        asker, asked = self.mesh.add(2)
        contact = asker.table.closest(asked.id, 1)[0]
        records = [
            asker.publications.publish(
                "topic", record_key("topic", b"%d" % n), b"", asker.wall_ms()
            )
            for n in range(600)
        ]
        kept = [
            asker.store_at(contact, [each.raw for each in records[at : at + 200]])
            for at in range(0, 600, 200)
        ]
        self.assertEqual([self.mesh.result(each) for each in kept], [True, False, False])
        self.end()


class Ending(MeshCase):
    """What is given up, or stopped, leaves nothing."""

    def work(self, node: KademliaNode, n: int) -> Deferred[Any]:
        works: list[Callable[[], Deferred[Any]]] = [
            lambda: node.find_node(bytes(32)),
            lambda: node.find_peer(owner(50).public),
            lambda: node.get("topic", b"birds"),
            lambda: node.put("topic", b"birds", b"a wren"),
            lambda: node.swap_mutable(b"1", None),
            lambda: node.bootstrap([self.mesh.address(1), self.mesh.address(2)]),
        ]
        return works[n]()

    def cold(self) -> KademliaNode:
        """A node whose connections are closed, so that it has to dial."""
        node = self.mesh.nodes[0]
        for other in self.mesh.nodes[1:]:
            node.connections.close(other.identity.public)
        self.mesh.run(1.0)
        self.assertEqual(len(node.connections), 0)
        return node

    def test_what_is_cancelled_at_any_moment_leaves_nothing(self) -> None:
        self.mesh.add(4)
        ended = 0
        for n in range(6):
            for moment in range(8):
                node = self.cold()
                work = self.work(node, n)
                self.mesh.run(0.005 + moment * 0.01)
                if work.called:
                    work.addErrback(lambda failure: failure.trap(NotFound))
                    continue
                ended += 1
                work.cancel()
                self.failureResultOf(work, CancelledError)
                stats = node.stats()
                self.assertEqual(stats.lookups, 0)
                self.assertEqual((node.connections.dialling, node.connections.queued), (0, 0))
                self.assertEqual(node._tasks, {})
        self.assertGreater(ended, 25)
        self.end()

    def test_what_is_stopped_at_any_moment_leaves_nothing(self) -> None:
        self.mesh.add(4)
        ended = 0
        for moment in range(6):
            node = self.cold()
            works = [self.work(node, n) for n in range(6)]
            self.mesh.run(0.005 + moment * 0.01)
            under_way = [work for work in works if not work.called]
            ended += len(under_way)
            self.mesh.result(node.stop(), 6.0)
            for work in under_way:
                self.failureResultOf(work, NotReady)
            for work in works:
                work.addErrback(lambda failure: failure.trap(NotFound))
            self.assertEqual((node.stats().lookups, node._tasks), (0, {}))
            self.failureResultOf(node.find_node(bytes(32)), NotReady)
            self.mesh.result(node.start())
            self.assertGreater(self.mesh.result(node.bootstrap([self.mesh.address(1)])), 2)
        self.assertGreater(ended, 20)
        self.end()

    def test_who_waits_beside_somebody_who_gives_up_gets_his_answer(self) -> None:
        self.mesh.add(4)
        node = self.cold()
        one, other = node.find_node(bytes(32)), node.find_node(bytes(32))
        self.mesh.run(0.005)
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertEqual(len(self.mesh.result(other)), 3)
        self.end()

    def test_a_node_that_is_not_started_does_nothing(self) -> None:
        node = self.mesh.make()
        self.failureResultOf(node.get("topic", b"birds"), NotReady)
        self.successResultOf(node.stop())
        self.end()

    def test_connections_of_others_that_are_silent_are_closed(self) -> None:
        nodes = self.mesh.add(2)
        self.assertGreater(len(nodes[0].server), 0)
        for node in nodes:
            node.upkeep.stop()
        # Nobody closes it who should.
        nodes[1].connections.limits = Limits(idle=10_000.0)
        self.mesh.run(1_000)
        self.assertEqual(len(nodes[0].server), 0)
        self.end()


class Living(MeshCase):
    def test_what_a_node_keeps_outlives_its_owner(self) -> None:
        nodes = self.mesh.add(6)
        self.mesh.result(nodes[5].put("topic", b"birds", b"a wren"))
        self.mesh.result(nodes[5].stop())
        (late,) = self.mesh.add()
        self.mesh.run(2 * 3_600)
        found = late.holdings.find("topic", record_key("topic", b"birds"), late.wall_ms())
        self.assertEqual(found.held, 1)
        (record,) = self.mesh.result(late.get("topic", b"birds"))
        self.assertEqual(record.value, b"a wren")
        self.end()

    def test_those_that_keep_it_publish_it_again(self) -> None:
        nodes = self.mesh.add(6)
        self.mesh.result(nodes[5].put("topic", b"birds", b"a wren"))
        self.mesh.result(nodes[5].stop())
        for node in nodes:
            node.upkeep.joined = _nobody  # type: ignore[method-assign]
        (late,) = self.mesh.add()
        self.mesh.run(2 * 3_600)
        found = late.holdings.find("topic", record_key("topic", b"birds"), late.wall_ms())
        self.assertEqual(found.held, 1)
        self.end()

    def test_its_owner_publishes_it_again(self) -> None:
        nodes = self.mesh.add(3)
        self.mesh.result(nodes[2].put("topic", b"birds", b"a wren"))
        for node in nodes:
            node.upkeep.joined = _nobody  # type: ignore[method-assign]
            node.upkeep._republish = _nothing  # type: ignore[method-assign]
        (late,) = self.mesh.add()
        self.mesh.run(2 * 3_600)
        found = late.holdings.find("topic", record_key("topic", b"birds"), late.wall_ms())
        self.assertEqual(found.held, 1)
        self.end()

    def test_those_that_are_gone_are_tried_again_and_found(self) -> None:
        nodes = self.mesh.add(4)
        here, there = nodes[:2], nodes[2:]
        self.mesh.apart = [{node.identity.public for node in half} for half in (here, there)]
        for wire in self.mesh.wires:
            wire.cut()
        self.mesh.run(6 * 3_600)
        for half, other in ((here, there), (there, here)):
            for node in half:
                self.assertEqual([each.id in node.table for each in other], [False, False])
        self.mesh.apart = []
        self.mesh.run(2 * 3_600)
        for node in nodes:
            self.assertEqual(len(node.table), 3)
        self.end()

    def test_newcomers_are_given_what_is_nearest_to_them(self) -> None:
        nodes = self.mesh.add(3)
        self.mesh.result(nodes[1].put("topic", b"birds", b"a wren"))
        (late,) = self.mesh.add()
        self.mesh.run(180)
        key = record_key("topic", b"birds")
        nearer = [node for node in nodes if _distance(late, key) < _distance(node, key)]
        found = late.holdings.find("topic", key, late.wall_ms())
        self.assertEqual(found.held, 1 if nearer else 0)
        self.end()

    def test_addresses_are_published_anew_before_they_expire(self) -> None:
        nodes = self.mesh.add(3)
        for node in nodes[:2]:
            # Who publishes it is its owner, and nobody else.
            node.upkeep.stop()
        self.mesh.run(30 * 3_600)
        found = self.mesh.result(nodes[0].find_peer(owner(2).public))
        self.assertGreater(found.record.expires, nodes[0].wall_ms())
        self.end()


def _distance(node: KademliaNode, key: bytes) -> int:
    return int.from_bytes(node.id, "big") ^ int.from_bytes(key, "big")


class Stats(MeshCase):
    def test_they_say_how_a_node_is_doing(self) -> None:
        nodes = self.mesh.add(3)
        self.mesh.result(nodes[1].put("topic", b"birds", b"a wren"))
        self.mesh.run(120)
        stats = nodes[0].stats()
        self.assertEqual(stats.contacts, 2)
        self.assertEqual(sum(stats.buckets.values()), 2)
        self.assertEqual(stats.records, 4)
        self.assertEqual(stats.publications, 1)
        self.assertEqual(stats.lookups, 0)
        self.assertGreater(stats.served["store"], 0)
        self.assertGreater(stats.asked["find_node"], 0)
        self.end()
