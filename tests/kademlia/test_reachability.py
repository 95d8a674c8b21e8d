"""Tests of L{meshkit.kademlia.reachability}."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.kademlia import node as module
from meshkit.kademlia.connections import TrackedProtocol
from meshkit.kademlia.kinds import address_key
from meshkit.kademlia.node import BACKS, KademliaNode
from meshkit.kademlia.reachability import (
    MAX_RESTING,
    MAX_VOTES,
    PROVED,
    REST,
    TRIAL,
    Reachability,
)
from meshkit.kademlia.wire import BACK_COST, BURST, PING, Ping, Pong
from tests.kademlia.mesh import PORT, Mesh, place_of
from tests.kademlia.recording import owner
from tests.kademlia.support import host_of, key_of

ALL = HostPort("0.0.0.0", 7655)
ALL_6 = HostPort("::", 7656)
OURS = HostPort("11.9.0.1", 7655)
LIE = HostPort("11.66.0.1", 7655)


class Votes(SynchronousTestCase):
    def setUp(self) -> None:
        self.reachability = Reachability()
        self.now = 0.0

    def see(self, n: int, host: str = OURS.host, at: str | None = None) -> None:
        """The peer with a number, in a block of its own, says from where we come."""
        where = host_of(n << 16) if at is None else at
        self.reachability.seen_from(key_of(n), where, host, [ALL, ALL_6])

    def dial(self, n: int, place: str = OURS.text, at: str | None = None) -> None:
        """It says where it has dialled us."""
        where = host_of(n << 16) if at is None else at
        self.reachability.dialled_at(key_of(n), where, place, self.now)

    def places(self, *listening: HostPort) -> list[HostPort]:
        return list(self.reachability.places(listening or [ALL, ALL_6], self.now))

    # --- whose word counts ----------------------------------------------------------------

    def test_nobody_has_said_anything(self) -> None:
        self.assertEqual(self.places(), [])

    def test_the_first_word_is_enough_for_a_trial(self) -> None:
        self.see(1)
        self.assertEqual(self.places(), [OURS])

    def test_who_has_dialled_us_knows_the_port_too(self) -> None:
        forwarded = HostPort(OURS.host, 443)
        self.dial(1, forwarded.text)
        self.assertEqual(self.places(), [forwarded])

    def test_who_listens_nowhere_is_reached_nowhere(self) -> None:
        self.dial(1)
        self.assertEqual(self.reachability.places([], self.now), ())

    def test_more_than_half_have_to_say_it(self) -> None:
        for n in range(3):
            self.see(n)
        self.places()
        self.see(10, LIE.host)
        self.see(11, LIE.host)
        self.assertEqual(self.places(), [OURS])
        self.see(12, LIE.host)
        # Half of them is not more than half: what is shown stays.
        self.assertEqual(self.places(), [OURS])
        self.see(13, LIE.host)
        self.assertEqual(self.places(), [LIE])

    def test_liars_at_first_are_outvoted(self) -> None:
        self.see(10, LIE.host)
        self.assertEqual(self.places(), [LIE])
        for n in range(2):
            self.see(n)
        self.assertEqual(self.places(), [OURS])

    def test_one_who_does_not_agree_with_another_has_nothing_shown(self) -> None:
        self.see(1)
        self.see(2, LIE.host)
        self.assertEqual(self.places(), [])

    def test_a_peer_has_one_vote_its_newest(self) -> None:
        self.see(1)
        for _ in range(5):
            self.see(2, LIE.host)
        self.see(3)
        self.assertEqual(self.places(), [OURS])
        self.see(3, LIE.host)
        self.assertEqual(self.places(), [LIE])

    def test_an_address_block_has_one_vote_however_many_keys_there_are_in_it(self) -> None:
        for n in range(2):
            self.see(n)
        for n in range(100, 150):
            self.see(n, LIE.host, at=f"11.66.0.{n}")
        self.assertEqual(self.places(), [OURS])

    def test_in_blocks_of_the_operator_each_has_one(self) -> None:
        self.reachability = Reachability([ip_network("11.66.0.0/16")])
        for n in range(3):
            self.see(n, OURS.host, at=f"11.66.0.{n}")
        for n in range(10, 12):
            self.see(n, LIE.host)
        self.assertEqual(self.places(), [OURS])

    def test_only_so_many_of_the_newest_count(self) -> None:
        for n in range(100):
            self.see(n, LIE.host)
        (slot,) = self.reachability._slots.values()
        self.assertEqual(len(slot.votes), MAX_VOTES)
        for n in range(100, 100 + MAX_VOTES // 2 + 1):
            self.see(n)
        self.assertEqual(self.places(), [OURS])

    # --- how far away -----------------------------------------------------------------------

    def test_who_is_far_away_does_not_know_where_we_are_near_by(self) -> None:
        for host in ("127.0.0.1", "10.0.0.7", "192.168.1.2", "169.254.1.1"):
            self.see(1, host)
            self.dial(2, f"{host}:7655")
        self.assertEqual(self.places(), [])

    def test_who_is_near_does_not_know_where_we_are_from_afar(self) -> None:
        self.see(1, OURS.host, at="192.168.1.9")
        self.assertEqual(self.places(), [])

    def test_near_places_are_shown_first(self) -> None:
        self.see(1)
        self.see(2, "192.168.1.2", at="192.168.1.9")
        self.see(3, "127.0.0.1", at="127.0.0.1")
        self.assertEqual(
            [each.host for each in self.places()], ["127.0.0.1", "192.168.1.2", OURS.host]
        )

    def test_each_of_those_near_has_a_vote(self) -> None:
        for n in range(2):
            self.see(n, "192.168.1.2", at=f"192.168.1.{n + 9}")
        self.see(3, "192.168.1.66", at="192.168.1.66")
        self.assertEqual(self.places(), [HostPort("192.168.1.2", 7655)])

    def test_both_families_are_shown(self) -> None:
        self.see(1)
        self.see(2, "2A00:0::7", at="2600::1")
        self.assertEqual(self.places(), [OURS, HostPort("2a00::7", 7656)])

    def test_an_address_in_another_is_that_one(self) -> None:
        self.see(1, "::ffff:" + OURS.host)
        self.assertEqual(self.places(), [OURS])

    def test_without_a_port_of_that_family_nobody_can_come(self) -> None:
        self.reachability.seen_from(key_of(1), "2600::1", "2a00::7", [ALL])
        self.assertEqual(self.places(), [])

    def test_nonsense_says_nothing(self) -> None:
        for text in ("", "nonsense", "0.0.0.0", "224.0.0.1", "fe80::1", "host.example"):
            self.see(1, text)
            self.dial(1, f"{text}:7655")
            self.dial(1, text)
        self.see(1, "fe80::1", at="fe80::2")
        self.dial(1, "11.9.0.1:0")
        self.dial(1, "11.9.0.1")
        self.see(1, at="tunnel")
        self.assertEqual(self.places(), [])

    # --- listening somewhere in particular ----------------------------------------------------

    def test_an_interface_is_shown_as_it_is(self) -> None:
        here = HostPort("192.168.1.2", 7655)
        self.assertEqual(self.places(here), [here])
        self.now = TRIAL + 1
        self.assertEqual(self.places(here), [here])
        # Seen from there, there is nothing to say but that; a forwarded port is another place.
        self.reachability.seen_from(key_of(1), host_of(1 << 16), OURS.host, [here])
        self.assertEqual(self.places(here), [here])
        self.dial(2)
        self.assertEqual(self.places(here), [here, OURS])

    def test_where_one_is_certain_no_other_is_tried_beside_it(self) -> None:
        # What our router passes on, as it has given our port to somebody else.
        mapped = HostPort(OURS.host, 40_000)
        self.see(1)
        self.assertEqual(self.places(ALL, mapped), [mapped])
        near = HostPort("192.168.1.2", 7655)
        self.assertEqual(self.places(ALL, near), [near, OURS])
        self.dial(2)
        self.assertEqual(self.places(ALL, mapped), [mapped, OURS])

    def test_places_that_no_other_can_dial_are_not_shown(self) -> None:
        self.assertEqual(self.places(HostPort("fe80::1%eth0", 7655)), [])

    # --- trials -------------------------------------------------------------------------------

    def test_a_place_to_which_nobody_comes_is_withdrawn_and_tried_again_later(self) -> None:
        self.see(1)
        self.assertEqual(self.places(), [OURS])
        self.now = TRIAL - 1
        self.assertEqual(self.places(), [OURS])
        self.now = TRIAL
        self.assertEqual(self.places(), [])
        self.see(2)
        self.now = TRIAL + REST - 1
        self.assertEqual(self.places(), [])
        self.now = TRIAL + REST
        self.assertEqual(self.places(), [OURS])
        self.now += TRIAL
        self.assertEqual(self.places(), [])

    def test_a_place_to_which_somebody_comes_stays(self) -> None:
        self.see(1)
        self.places()
        self.now = TRIAL - 1
        self.dial(2)
        self.now += PROVED - 1
        self.assertEqual(self.places(), [OURS])
        self.dial(3)
        self.now += PROVED - 1
        self.assertEqual(self.places(), [OURS])
        self.now += 1
        self.assertEqual(self.places(), [])

    def test_a_place_that_is_in_use_stays(self) -> None:
        self.see(1)
        self.places()
        for _ in range(9):
            self.now += TRIAL - 1
            self.reachability.in_use(OURS.text, self.now)
            self.reachability.in_use(LIE.text, self.now)
            self.assertEqual(self.places(), [OURS])
        self.reachability.in_use("nonsense", self.now)

    def test_it_is_known_whether_anybody_has_come(self) -> None:
        here = HostPort("192.168.1.2", 7655)
        self.assertTrue(self.reachability.proved([here], 0.0))
        self.assertFalse(self.reachability.proved([ALL], 0.0))
        self.assertFalse(self.reachability.on_trial(0.0))
        self.see(1)
        self.assertTrue(self.reachability.on_trial(0.0))
        self.assertFalse(self.reachability.proved([ALL], 0.0))
        self.dial(2)
        self.assertFalse(self.reachability.on_trial(0.0))
        self.assertTrue(self.reachability.proved([ALL], 0.0))
        for n in range(10, 13):
            self.see(n, LIE.host)
        self.assertEqual(self.places(), [LIE])
        self.assertTrue(self.reachability.on_trial(0.0))
        self.assertFalse(self.reachability.proved([ALL], 0.0))

    def test_who_comes_to_another_place_proves_nothing_of_this_one(self) -> None:
        for n in range(3):
            self.see(n)
        self.places()
        self.dial(4, LIE.text)
        self.assertEqual(self.places(), [OURS])
        self.now = TRIAL
        self.assertEqual(self.places(), [LIE])

    def test_who_comes_ends_a_rest(self) -> None:
        self.see(1)
        self.places()
        self.now = TRIAL
        self.assertEqual(self.places(), [])
        self.dial(2)
        self.assertEqual(self.places(), [OURS])

    def test_what_has_failed_keeps_no_other_from_being_tried(self) -> None:
        for n in range(2):
            self.see(n)
        for n in range(10, 13):
            self.see(n, LIE.host)
        self.assertEqual(self.places(), [LIE])
        self.now = TRIAL
        self.assertEqual(self.places(), [OURS])

    def test_only_so_many_are_remembered_as_resting(self) -> None:
        for n in range(3 * MAX_RESTING):
            self.see(1, host_of(n << 16))
            self.places()
            (slot,) = self.reachability._slots.values()
            slot.until = self.now
            self.places()
        self.assertEqual(len(slot.resting), MAX_RESTING)


class Meshes(SynchronousTestCase):
    """Nodes that do not know where they are."""

    def setUp(self) -> None:
        self.mesh = Mesh()

    def end(self) -> None:
        self.mesh.stop()
        self.assertEqual(self.mesh.clock.waiting, 0)

    def test_nodes_that_are_told_nothing_find_out_where_they_are(self) -> None:
        # The first of them has dialled nobody; all others know only that one.
        nodes = self.mesh.add(6, wildcard=True)
        self.mesh.run(60 + 15)
        for n, node in enumerate(nodes):
            record = node.own_address()
            assert record is not None
            self.assertEqual(record.addresses, (place_of(n),))
        self.mesh.run(2 * TRIAL)
        for node in nodes:
            self.assertIsNotNone(node.own_address())
            self.assertEqual(len(node.table), 5)
        placed = self.mesh.result(nodes[3].put("topic", b"birds", b"a wren"))
        self.assertEqual(placed.accepted, 6)
        found = self.mesh.result(nodes[1].find_peer(owner(5).public))
        self.assertEqual(found.places, (place_of(5),))
        self.end()

    def test_a_connection_that_stays_is_a_proof_too(self) -> None:
        nodes = self.mesh.add(2, wildcard=True)
        self.mesh.run(120)
        dials = len(self.mesh.dials)
        for _ in range(30):
            self.mesh.run(300)
            self.mesh.result(nodes[0].find_node(nodes[1].id))
            self.mesh.result(nodes[1].find_node(nodes[0].id))
        self.assertEqual(len(self.mesh.dials), dials)
        for n, node in enumerate(nodes):
            record = node.own_address()
            assert record is not None
            self.assertEqual(record.addresses, (place_of(n),))
        self.end()

    def hide(self, node: KademliaNode) -> None:
        """Nobody reaches it any more."""
        del self.mesh.listening[self.mesh.place(node)]
        for wire in self.mesh.wires:
            wire.cut()

    def held(self, node: KademliaNode, key: PublicKey) -> int:
        """What a node keeps of somebody's address."""
        return node.holdings.find("address", address_key(key), node.wall_ms()).held

    def test_who_cannot_be_reached_is_a_client_after_the_trial(self) -> None:
        nodes = self.mesh.add(5)
        hidden = self.mesh.make(wildcard=True)
        key = hidden.identity.public
        self.hide(hidden)
        self.mesh.result(hidden.start())
        self.mesh.result(hidden.bootstrap([self.mesh.address(0)]))
        self.mesh.run(TRIAL / 2)
        self.assertIsNotNone(hidden.own_address())
        self.assertIn(key, self.shown(nodes[0]))
        # Who looks for it by its key is not sent there.
        self.assertEqual([self.held(node, key) for node in nodes], [0] * 5)
        self.mesh.run(TRIAL)
        self.assertIsNone(hidden.own_address())
        self.assertNotIn(key, self.shown(nodes[0]))
        for node in nodes:
            self.assertNotIn(hidden.id, node.table)
        # When it can be reached, it is found.
        self.mesh.listening[place_of(5)] = (key, hidden.server)
        self.mesh.run(REST + TRIAL)
        found = self.mesh.result(nodes[0].find_peer(key))
        self.assertEqual(found.places, (place_of(5),))
        self.assertIn(hidden.id, nodes[0].table)
        self.end()

    def test_who_is_reached_no_more_takes_back_what_it_has_published(self) -> None:
        nodes = self.mesh.add(4)
        (node,) = self.mesh.add(wildcard=True)
        key = node.identity.public
        self.assertEqual([self.held(each, key) for each in nodes], [1] * 4)
        self.hide(node)
        self.mesh.run(PROVED + 120)
        self.assertIsNone(node.own_address())
        self.assertEqual([self.held(each, key) for each in nodes], [0] * 4)
        self.assertIsNone(node.publications.find("address", address_key(key)))
        for each in nodes:
            self.assertNotIn(node.id, each.table)
        self.end()

    def test_those_who_have_no_room_for_it_dial_it_when_they_are_asked(self) -> None:
        nodes = self.mesh.add(4)
        for node in nodes:
            self.patch(node.table, "offer", lambda contact, now: None)
        (node,) = self.mesh.add(wildcard=True)
        # It is known by the end of its beginning.
        self.assertFalse(node.on_trial())
        self.assertEqual(self.held(nodes[0], node.identity.public), 1)
        dials = self.mesh.dials.count(self.mesh.address(4))
        self.assertEqual(dials, BACKS)
        self.mesh.run(2 * TRIAL)
        self.assertTrue(node.proved())
        self.end()

    def test_asking_for_it_costs(self) -> None:
        nodes = self.mesh.acquainted(2)
        self.patch(nodes[0].table, "offer", lambda contact, now: None)
        contact = nodes[1].table.closest(nodes[0].id, 1)[0]
        self.mesh.result(nodes[1].client.find_node(contact, bytes(32)))
        (protocol,) = nodes[1].connections.connected()
        for _ in range(60):
            nodes[1].client.introduce(protocol, back=True)
            self.mesh.run(0.1)
            nodes[0].connections.close(nodes[1].identity.public)
            self.mesh.run(0.1)
        dials = self.mesh.dials.count(self.mesh.address(1))
        self.assertLess(dials, BURST / BACK_COST + 5)
        self.assertGreater(dials, 10)
        self.end()

    def test_only_so_many_are_dialled_because_they_ask_at_the_same_time(self) -> None:
        nodes = self.mesh.acquainted(3)
        self.patch(module, "MAX_BACKS", 1)
        contacts = [nodes[0].table.closest(node.id, 1)[0] for node in nodes[1:]]
        self.mesh.black_holes.add(place_of(1))
        first = nodes[0].dial_back(contacts[0])
        self.assertNoResult(first)
        self.successResultOf(nodes[0].dial_back(contacts[1]))
        self.assertEqual(self.mesh.dials, [self.mesh.address(1)])
        self.mesh.result(first)
        self.mesh.result(nodes[0].dial_back(contacts[1]))
        self.assertEqual(self.mesh.dials[1:], [self.mesh.address(2)])
        self.end()

    def test_who_wants_to_be_dialled_where_one_does_not_dial_is_not(self) -> None:
        nodes = self.mesh.acquainted(2)
        near = self.mesh.make(places=[HostPort("10.0.0.7", PORT)])
        self.mesh.result(near.start())
        self.mesh.acquaint([near], nodes)
        contact = near.table.closest(nodes[0].id, 1)[0]
        self.mesh.result(near.client.find_node(contact, bytes(32)))
        (protocol,) = near.connections.connected()
        self.mesh.result(near.client.introduce(protocol, back=True))
        self.assertEqual([dial.key for dial in self.mesh.dials], [nodes[0].identity.public])
        self.end()

    @staticmethod
    def shown(node: KademliaNode) -> list[PublicKey]:
        """Who has shown that node where it is."""
        return [each.contact.key for each in node.server._callers.values() if each.contact]

    def test_what_the_operator_says_counts_more(self) -> None:
        self.mesh.add(3)
        node = self.mesh.make(places=[place_of(3)], source=LIE.host)
        del self.mesh.listening[place_of(3)]
        node._listening = lambda: [HostPort("0.0.0.0", PORT)]
        self.mesh.result(node.start())
        self.mesh.result(node.bootstrap([self.mesh.address(0)]))
        self.assertEqual(node.reachability.places(node._listening(), 0.0), (LIE,))
        record = node.own_address()
        assert record is not None
        self.assertEqual(record.addresses, (place_of(3),))
        self.end()

    def test_liars_do_not_have_it_show_what_it_is_not(self) -> None:
        nodes = self.mesh.add(7)
        for node in nodes[:3]:
            self.lie(node)
        (found,) = self.mesh.add(wildcard=True)
        self.mesh.run(TRIAL + 120)
        record = found.own_address()
        assert record is not None
        self.assertEqual(record.addresses, (place_of(7),))
        self.assertIn(found.id, nodes[6].table)
        self.end()

    def lie(self, node: KademliaNode) -> None:
        """It says something else of everybody."""

        def answer(peer: object, request: Ping) -> Pong:
            return Pong(node.own_record(), LIE.host)

        def introduce(protocol: TrackedProtocol, back: bool = False) -> Deferred[Any]:
            protocol.shown = node.own_record()
            asked = protocol.call(PING, Ping(protocol.shown, LIE.text))
            return asked.addErrback(lambda _: None)

        served = node.server.dispatcher.find("ping")
        assert served is not None
        node.server.dispatcher._served["ping"] = type(served)(served.method, answer)
        self.patch(node.client, "introduce", introduce)
