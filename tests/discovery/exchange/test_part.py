"""Tests of L{meshkit.discovery.exchange.part}: whole nodes that move and sleep, in memory."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import meshkit_plugins
from meshkit.discovery.exchange import store
from meshkit.discovery.exchange.keeper import LOOKS, MORE_DIALS
from meshkit.discovery.exchange.part import ExchangePart
from meshkit.errors import MeshkitError
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope
from meshkit.interfaces import (
    IAdvisesAgents,
    IMeshPart,
    NodeWoke,
    PeerMoved,
    PeerReturned,
    PeerSuspected,
)
from meshkit.runtime.registry import discover_parts
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh, MemoryNode

#: What is needed to be in touch, without the hash table.
PLAIN = ("exchange", "feed", "gossip")
STRANGER = make_identity("stranger").public


class PartCase(SynchronousTestCase):
    """Some nodes of one mesh."""

    parts: tuple[str, ...] = PLAIN

    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.end)
        self.events: list[tuple[str, Any]] = []

    def end(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def node(self, name: str, *peers: MemoryNode, more: str = "") -> MemoryNode:
        makers = [each for each in discover_parts(meshkit_plugins) if each.name in self.parts]
        dials = ", ".join(f'"{peer.address}"' for peer in peers)
        node = self.mesh.node(name, f"peers = [{dials}]\n{more}", makers=makers)
        self.start(node)
        return node

    def start(self, node: MemoryNode) -> None:
        node.start()
        for kind in (NodeWoke, PeerMoved, PeerReturned, PeerSuspected):
            node.service.events.subscribe(
                kind, lambda event: self.events.append((node.name, event))
            )

    def move(self, *nodes: MemoryNode) -> None:
        """They are stopped, and started somewhere else, all at the same time."""
        for node in nodes:
            node.stop()
        for number, node in enumerate(nodes):
            node.host.address = f"10.0.9.{number + 1}"
        for node in nodes:
            self.start(node)

    def ok(self, node: MemoryNode, method: str, target: str, body: Any = None) -> Any:
        answer = node.ask(method, target, body)
        self.assertLess(answer.status, 300, answer.body)
        return answer.json["data"]

    def records(self, node: MemoryNode) -> dict[str, list[str]]:
        shown = self.ok(node, "GET", "/v1/exchange/records")
        return {each["public_id"]: each["addresses"] for each in shown}

    def states(self, node: MemoryNode) -> dict[str, str]:
        shown = self.ok(node, "GET", "/v1/exchange/links")
        return {each["public_id"]: each["state"] for each in shown}

    def part(self, node: MemoryNode) -> ExchangePart:
        part = node.service._parts["exchange"]
        assert isinstance(part, ExchangePart)
        return part

    def connected(self, node: MemoryNode) -> list[str]:
        """Addresses to which it has dialled, and is connected."""
        return [e.address.text for e in node.service.peers.entries() if e.connected]

    def record(self, name: str | int, *hosts: str) -> AddressRecord:
        """The record of somebody who is not there."""
        now = self.mesh.wall_clock() // 1_000_000
        return AddressRecord.seal(
            make_identity(name),
            self.mesh.network_secret.key().net_id,
            [HostPort.parse(host if ":" in host else f"{host}:7655") for host in hosts],
            sequence=now,
            expires=now + 3_600_000,
        )

    def here(self, node: MemoryNode) -> str:
        """Its address now."""
        address = MeshAddress.parse(node.address)
        return MeshAddress(node.host.address, address.port, address.key).text

    def seen(self, kind: type[Any]) -> list[tuple[str, Any]]:
        return [(name, event) for name, event in self.events if isinstance(event, kind)]


class Records(PartCase):
    def test_it_provides_what_its_maker_says(self) -> None:
        part = self.part(self.node("ada"))
        for interface in (IMeshPart, IAdvisesAgents):
            self.assertTrue(verifyObject(interface, part))

    def test_two_swap_their_records(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        self.assertEqual(self.records(bob), {ada.identity.public.text: [ada.address]})
        self.assertEqual(self.records(ada), {bob.identity.public.text: [bob.address]})
        self.assertEqual(self.states(bob), {ada.identity.public.text: "well"})
        # Ada dials nobody, and looks after nobody.
        self.assertEqual(self.states(ada), {})

    def test_one_who_is_asked_gives_the_record_that_another_has_signed(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        cyd = self.node("cyd", ada)
        self.mesh.run(6)
        shown = self.ok(cyd, "GET", f"/v1/exchange/records/{_in_path(bob)}")
        self.assertEqual(shown["addresses"], [bob.address])
        self.assertEqual(shown["public_id"], bob.identity.public.text)
        answer = cyd.ask("GET", f"/v1/exchange/records/{quote(STRANGER.text, safe='')}")
        self.assertEqual(answer.code, "NOT_FOUND")
        self.assertEqual(cyd.ask("GET", "/v1/exchange/records/bob").code, "INVALID_PUBLIC_KEY")

    def test_what_is_known_is_known_after_a_restart(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        ada.stop()
        bob.stop()
        self.start(bob)
        self.assertEqual(self.records(bob), {ada.identity.public.text: [ada.address]})

    def test_a_flood_of_records_does_not_wash_out_what_is_kept_of_peers(self) -> None:
        self.patch(store, "MAX_KNOWN", 3)
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        for number in range(8):
            self.part(bob).keeper._take(self.record(number, "10.0.7.7"), Scope.SITE)
            self.mesh.run(1)
        reading = self.part(bob)._context.database.read(store.load)
        self.mesh.run(1)
        self.assertIn(bob.identity.public.raw, [row.key for row in self.successResultOf(reading)])
        bob.stop()
        ada.stop()
        self.start(bob)
        self.assertIn(ada.identity.public.text, self.records(bob))
        self.assertEqual(len(self.records(bob)), 3)


class Renewing(PartCase):
    parts = ("exchange",)

    def test_a_record_is_made_anew_before_it_expires_and_told(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        before = self.part(bob).keeper.known.find(ada.identity.public)
        assert before is not None
        # Asleep, but for a moment now and then.
        for _ in range(13):
            self.mesh.clock.advance(3600)
            self.mesh.run(10)
        after = self.part(bob).keeper.known.find(ada.identity.public)
        assert after is not None
        self.assertGreater(after.sequence, before.sequence)
        self.assertGreater(after.expires, self.mesh.wall_clock() // 1_000_000)

    def test_a_clock_that_was_ahead_once_does_not_make_its_records_worthless(self) -> None:
        ahead, right = [30 * 86_400 * 10**9], MemoryMesh.wall_clock
        self.patch(MemoryMesh, "wall_clock", lambda mesh: right(mesh) + ahead[0])
        ada = self.node("ada")
        self.mesh.run(6)
        ahead[0] = 0
        self.mesh.run(6)
        self.assertEqual(self.opened(ada).addresses[0].host, ada.host.address)
        ada.stop()
        ahead[0] = 30 * 86_400 * 10**9
        self.start(ada)
        self.mesh.run(6)
        ada.stop()
        ahead[0] = 0
        self.start(ada)
        self.mesh.run(6)
        self.assertEqual(self.opened(ada).addresses[0].host, ada.host.address)

    def opened(self, node: MemoryNode) -> AddressRecord:
        """Its own record, as others would take it."""
        now = self.mesh.wall_clock() // 1_000_000
        raw = self.part(node)._own()
        return AddressRecord.open(raw, self.mesh.network_secret.key().net_id, now)


class Moving(PartCase):
    def test_who_has_moved_tells_those_it_knows(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        cyd = self.node("cyd", ada, bob)
        self.mesh.run(6)
        self.move(bob)
        self.mesh.run(10)
        self.assertIn(self.here(bob), self.connected(cyd))
        [(name, event)] = self.seen(PeerMoved)
        self.assertEqual(
            (name, event.peer, event.address), ("cyd", bob.identity.public.raw, self.here(bob))
        )
        shown = {each["address"]: each for each in self.ok(cyd, "GET", "/v1/peers")}
        self.assertEqual(shown[self.here(bob)]["source"], "exchange")
        [link] = [e for e in self.ok(cyd, "GET", "/v1/exchange/links") if e["moved_to"]]
        self.assertEqual(link["moved_to"], self.here(bob))

    def test_two_that_move_at_once_find_each_other_through_a_third(self) -> None:
        cyd = self.node("cyd")
        ada = self.node("ada", cyd)
        bob = self.node("bob", ada, cyd)
        self.mesh.run(6)
        self.assertIn(ada.address, self.connected(bob))
        self.move(ada, bob)
        # Neither knows where the other is: bob has ada's old address, ada has none of his.
        self.mesh.run(20)
        self.assertIn(self.here(ada), self.connected(bob))
        self.assertIn(("bob", PeerMoved(ada.identity.public.raw, self.here(ada))), self.events)

    def test_where_a_peer_was_found_is_known_after_a_restart(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        self.move(ada)
        self.mesh.run(10)
        self.assertEqual(self.connected(bob), [self.here(ada)])
        bob.stop()
        self.start(bob)
        self.mesh.run(1)
        self.assertEqual(self.connected(bob), [self.here(ada)])

    def test_one_that_comes_back_is_forgotten_elsewhere(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        home = ada.host.address
        self.mesh.run(6)
        self.move(ada)
        self.mesh.run(10)
        ada.stop()
        ada.host.address = home
        self.start(ada)
        self.mesh.run(120)
        self.assertEqual(self.connected(bob), [ada.address])
        self.assertEqual([e["address"] for e in self.ok(bob, "GET", "/v1/peers")], [ada.address])

    def test_an_old_record_is_never_taken_for_a_new_one(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        old = self.part(bob).keeper.known.find(ada.identity.public)
        assert old is not None
        self.move(ada)
        self.mesh.run(10)
        known = self.part(bob).keeper.known
        new = known.find(ada.identity.public)
        assert new is not None
        known.take(old, known.nearest(ada.identity.public))
        self.assertIs(known.find(ada.identity.public), new)


class More(PartCase):
    """Peers beyond those that were named."""

    def test_those_who_know_but_one_stay_together_without_it(self) -> None:
        hub = self.node("hub")
        ada = self.node("ada", hub, more="[exchange]\nmore = 2")
        bob = self.node("bob", hub)
        self.mesh.run(70)
        self.assertEqual(sorted(self.connected(ada)), sorted([hub.address, bob.address]))
        self.assertEqual(self.ok(ada, "GET", "/v1/status")["parts"]["exchange"]["more"], 1)
        self.assertEqual(self.connected(bob), [hub.address])
        shown = {each["address"]: each["source"] for each in self.ok(ada, "GET", "/v1/peers")}
        self.assertEqual(shown[bob.address], "exchange")
        hub.stop()
        self.ok(bob, "POST", "/v1/publish", {"content": "still here"})
        self.mesh.run(2)
        self.assertEqual(ada.ask("GET", "/v1/feed").json["metadata"]["total"], 1)

    def test_no_more_are_dialled_than_are_wanted_and_without_the_setting_none(self) -> None:
        hub = self.node("hub")
        ada = self.node("ada", hub, more="[exchange]\nmore = 2")
        others = [self.node(f"peer {number}", hub) for number in range(4)]
        self.mesh.run(130)
        self.assertEqual(len(self.connected(ada)), 3)
        for other in others:
            self.assertEqual(self.connected(other), [hub.address])

    def test_who_is_suspect_makes_room(self) -> None:
        hub = self.node("hub")
        ada = self.node("ada", hub, more="[exchange]\nmore = 1")
        bob = self.node("bob", hub)
        self.mesh.run(70)
        self.assertIn(bob.address, self.connected(ada))
        bob.stop()
        self.mesh.run(300)
        self.assertEqual([e["source"] for e in self.ok(ada, "GET", "/v1/peers")], ["config"])
        cyd = self.node("cyd", hub)
        self.mesh.run(130)
        self.assertIn(cyd.address, self.connected(ada))

    def test_one_that_moves_is_followed_and_one_that_is_named_stays(self) -> None:
        hub = self.node("hub")
        ada = self.node("ada", hub, more="[exchange]\nmore = 1")
        bob = self.node("bob", hub)
        self.mesh.run(70)
        self.move(bob)
        self.mesh.run(30)
        self.assertIn(self.here(bob), self.connected(ada))
        self.ok(ada, "POST", "/v1/peers", {"address": self.here(bob)})
        self.mesh.run(10)
        self.assertEqual(self.part(ada).keeper.others, {})
        self.assertIn(self.here(bob), self.connected(ada))

    def test_a_round_has_a_few_dials_and_ends_before_the_next(self) -> None:
        ada = self.node("ada", more="[exchange]\nmore = 2")
        keeper = self.part(ada).keeper
        rounds: list[Deferred[int]] = []

        def ask_others(keys: list[PublicKey], more: int) -> Deferred[int]:
            rounds.append(Deferred())
            return rounds[-1]

        self.patch(keeper, "ask_others", ask_others)
        for number in range(3 * MORE_DIALS):
            keeper.known.take(self.record(number, f"10.0.7.{number + 1}"), Scope.SITE)
        self.mesh.run(600)
        self.assertEqual(len(rounds), 1)
        self.assertEqual(keeper._asking.dialled, 0)
        rounds[0].callback(0)
        self.mesh.run(200)
        self.assertEqual(len(rounds), 2)
        self.assertEqual(keeper._asking.dialled, MORE_DIALS)
        # One that fails is not the last one.
        rounds[1].errback(MeshkitError("broken"))
        self.assertEqual(len(self.flushLoggedErrors(MeshkitError)), 1)
        self.mesh.run(200)
        self.assertEqual(len(rounds), 3)

    def test_one_landlord_has_one_place(self) -> None:
        part = self.part(self.node("ada"))
        part.keeper.others[STRANGER] = MeshAddress("9.9.9.1", 7655, STRANGER)
        for host, taken in (("9.9.9.7", True), ("9.9.8.7", False), ("10.0.0.9", False)):
            address = MeshAddress(host, 7655, make_identity(host).public)
            self.assertEqual(part.keeper._is_taken(address), taken, host)


class MovingWithTheTable(PartCase):
    parts = (*PLAIN, "dht")

    def test_two_that_move_at_once_find_each_other_by_the_hash_table(self) -> None:
        # The third does not speak of others.
        third = self.mesh.node("third", 'disable = ["exchange"]')
        third.start()
        ada = self.node("ada", third)
        bob = self.node("bob", ada, third)
        self.mesh.run(5)
        self.move(ada, bob)
        self.mesh.run(15)
        self.assertIn(self.here(ada), self.connected(bob))


class Health(PartCase):
    def test_who_does_not_answer_is_suspect_and_then_back(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        ada.stop()
        self.mesh.run(20)
        self.assertEqual(self.states(bob), {ada.identity.public.text: "lost"})
        self.assertEqual(self.seen(PeerSuspected), [])
        self.mesh.run(300)
        self.assertEqual(self.states(bob), {ada.identity.public.text: "suspect"})
        self.assertEqual(
            self.seen(PeerSuspected), [("bob", PeerSuspected(ada.identity.public.raw, 3))]
        )
        [peer] = self.ok(bob, "GET", "/v1/peers")
        self.assertTrue(peer["behaviour"]["suspect"])
        self.assertGreaterEqual(peer["behaviour"]["missed"], 3)
        status = self.ok(bob, "GET", "/v1/status")["parts"]["exchange"]
        self.assertEqual((status["watched"], status["lost"], status["suspect"]), (1, 1, 1))
        self.start(ada)
        self.mesh.run(130)
        self.assertEqual(self.states(bob), {ada.identity.public.text: "well"})
        [(_, returned)] = self.seen(PeerReturned)
        self.assertGreater(returned.seconds, 300)
        [peer] = self.ok(bob, "GET", "/v1/peers")
        self.assertFalse(peer["behaviour"]["suspect"])
        self.assertEqual(peer["behaviour"]["missed"], 0)
        self.assertIsNotNone(peer["behaviour"]["last_heard"])
        self.assertGreater(peer["behaviour"]["round_trip_ms"], 0)

    def test_who_talks_anyway_is_not_looked_at(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        before = self.part(bob).keeper.looks
        self.mesh.run(1800)
        self.assertEqual(self.part(bob).keeper.looks, before)

    def test_one_that_does_not_exchange_is_not_suspect(self) -> None:
        ada = self.node("ada", more='disable = ["exchange"]')
        # Gossip hears of her, but to the one who has none she is silent, and no more.
        bob = self.node("bob", ada)
        cyd = self.node("cyd", ada, more='disable = ["gossip"]')
        self.mesh.run(600)
        self.assertEqual(self.states(bob), {ada.identity.public.text: "well"})
        self.assertEqual(self.states(cyd), {ada.identity.public.text: "silent"})
        self.assertEqual(self.seen(PeerSuspected), [])
        self.assertLess(self.part(cyd).keeper.looks, 3)

    def test_one_that_is_heard_of_first_is_greeted_too(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob")
        self.mesh.run(6)
        self.ok(bob, "POST", "/v1/peers", {"address": ada.address})
        self.mesh.run(10)
        self.assertIn(ada.identity.public.text, self.records(bob))

    def test_the_numbers_are_settings(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada, more="[exchange]\nsuspect = 1\nhealth = 10")
        self.mesh.run(6)
        ada.stop()
        self.mesh.run(6)
        self.assertEqual(self.states(bob), {ada.identity.public.text: "suspect"})


class BackingOff(PartCase):
    """Peers that are never there."""

    parts = ("exchange",)

    def add(self, node: MemoryNode, peers: list[PublicKey]) -> None:
        for number, key in enumerate(peers):
            address = MeshAddress(f"10.0.8.{number + 1}", 7655, key)
            self.ok(node, "POST", "/v1/peers", {"address": address.text})

    def test_eight_that_are_gone_cost_a_few_dials_and_searches_an_hour(self) -> None:
        bob = self.node("bob")
        keeper = self.part(bob).keeper
        searches: list[PublicKey] = []

        def find(key: PublicKey) -> Deferred[list[MeshAddress]]:
            searches.append(key)
            return succeed([])

        self.patch(keeper, "_find_peer", find)
        self.add(bob, [make_identity(number).public for number in range(8)])
        self.mesh.run(3 * 3_600)
        self.assertEqual(set(self.states(bob).values()), {"suspect"})
        dialled, searched = keeper._asking.dialled, len(searches)
        self.mesh.run(3_600)
        # By now each is looked at, and looked for, about once an hour.
        self.assertLessEqual(keeper._asking.dialled - dialled, 2 * 8)
        self.assertLessEqual(len(searches) - searched, 3 * 8)
        # They are not given up either.
        self.mesh.run(3_600)
        self.assertGreaterEqual(keeper._asking.dialled - dialled, 8)
        self.assertGreaterEqual(len(searches) - searched, 8)

    def test_those_who_are_banned_do_not_keep_others_from_being_looked_at(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        banned = [make_identity(number).public for number in range(LOOKS)]
        self.add(bob, banned)
        for key in banned:
            bob.service.peers.ledger.ban(key, 3_600)
        ada.stop()
        self.mesh.run(400)
        self.assertEqual(self.states(bob)[ada.identity.public.text], "lost")


class Sleeping(PartCase):
    def test_who_wakes_looks_at_everybody(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        looks = self.part(bob).keeper.looks
        # Nothing runs, and then everything that was due does.
        self.mesh.clock.advance(7200)
        self.mesh.run(5)
        self.assertEqual({name for name, _ in self.seen(NodeWoke)}, {"ada", "bob"})
        self.assertGreaterEqual(self.seen(NodeWoke)[0][1].seconds, 7190)
        self.assertGreater(self.part(bob).keeper.looks, looks)
        self.assertEqual(self.connected(bob), [ada.address])
        self.assertEqual(self.ok(bob, "GET", "/v1/status")["parts"]["exchange"]["woke"], 1)

    def test_a_short_sleep_is_one_too(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        for asleep in (45, 250):
            self.mesh.run(60)
            self.assertEqual(self.states(bob), {ada.identity.public.text: "well"})
            looks = self.part(bob).keeper.looks
            self.mesh.clock.advance(asleep)
            self.mesh.run(1)
            self.assertEqual(self.part(bob).keeper.looks, looks + 1, asleep)


class Victims(PartCase):
    def test_a_record_that_names_a_victim_costs_it_one_dial(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        ada.stop()
        dials: list[str] = []
        self._count_dials(bob, dials)
        keeper = self.part(bob).keeper
        now = self.mesh.wall_clock() // 1_000_000
        for number in range(5):
            # Again and again, as if it moved there each time.
            record = AddressRecord.seal(
                ada.identity,
                self.mesh.network_secret.key().net_id,
                # At another port each time.
                [HostPort("10.0.7.7", 7655 + number)],
                sequence=now + number,
                expires=now + 3_600_000,
            )
            keeper._take_own(ada.identity.public, record.raw, "10.0.0.1")
            keeper._follow(ada.identity.public)
            self.mesh.run(60)
        self.assertEqual(dials.count("10.0.7.7"), 1)
        self.mesh.run(600)
        self.assertEqual(dials.count("10.0.7.7"), 1)

    def test_a_hash_table_that_names_a_victim_costs_it_one_dial(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        asked: list[PublicKey] = []

        def find(key: PublicKey) -> Deferred[list[MeshAddress]]:
            asked.append(key)
            return succeed([MeshAddress("10.0.7.7", 7655, key)])

        self.patch(self.part(bob).keeper, "_find_peer", find)
        dials: list[str] = []
        self._count_dials(bob, dials)
        ada.stop()
        self.mesh.run(900)
        self.assertGreater(len(asked), 5)
        self.assertEqual(dials.count("10.0.7.7"), 1)

    def test_who_is_known_by_hearsay_alone_is_neither_asked_nor_told(self) -> None:
        for more, dialled in (0, 1), (1, 2):
            ada = self.node(f"ada {more}", more=f"[exchange]\nmore = {more}")
            keeper = self.part(ada).keeper
            keeper._more_due = 1e9
            for number, name in enumerate(("stranger", "friend")):
                keeper.known.take(self.record(name, f"10.0.{more}.{7 + number}"), Scope.SITE)
            friend = self.record("friend", "10.0.7.8")
            keeper._take_own(friend.key, friend.raw, "10.0.0.1")
            for begin in (keeper._tell, partial(keeper.ask_others, [])):
                before = keeper._asking.dialled
                keeper.known.try_again()
                begun = Deferred.fromCoroutine(begin())
                self.mesh.run(60)
                self.successResultOf(begun)
                self.assertEqual(keeper._asking.dialled - before, dialled)

    def test_a_peer_that_dials_from_a_host_may_be_dialled_there_again(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        known, now = self.part(bob).keeper.known, self.mesh.clock.seconds()
        place = HostPort(ada.host.address, 7656)
        known.trying(ada.identity.public, place, now)
        self.assertTrue(known.was_tried(ada.identity.public, place, now))
        telling = Deferred.fromCoroutine(self.part(ada).keeper._tell())
        self.mesh.run(1)
        self.successResultOf(telling)
        self.assertFalse(known.was_tried(ada.identity.public, place, now))

    def test_that_somebody_has_spoken_is_known_after_a_restart(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", ada)
        self.mesh.run(6)
        self.part(ada).keeper._take(self.record("stranger", "10.0.7.7"), Scope.SITE)
        self.mesh.run(6)
        ada.stop()
        bob.stop()
        self.start(ada)
        known = self.part(ada).keeper.known
        self.assertTrue(known.has_spoken(bob.identity.public))
        self.assertIsNotNone(known.find(STRANGER))
        self.assertFalse(known.has_spoken(STRANGER))

    def test_a_host_that_many_name_rests_after_three_dials_in_vain(self) -> None:
        bob = self.node("bob", more="[exchange]\nmore = 4")
        dials: list[str] = []
        self._count_dials(bob, dials)
        for number in range(20):
            # At another port each: it is the host that rests.
            record = self.record(number, f"10.0.7.7:{7000 + number}")
            self.part(bob).keeper.known.take(record, Scope.SITE)
        self.mesh.run(70)
        self.assertEqual(dials.count("10.0.7.7"), 3)

    def test_what_is_nearer_than_who_names_it_is_not_dialled(self) -> None:
        bob = self.node("bob", more="[exchange]\nmore = 4")
        dials: list[str] = []
        self._count_dials(bob, dials)
        known = self.part(bob).keeper.known
        known.take(self.record("machine", "127.0.0.1"), Scope.SITE)
        known.take(self.record("site", "10.0.7.7"), Scope.WORLD)
        known.take(self.record("neighbour", "10.0.7.8"), Scope.SITE)
        known.take(self.record("world", "9.9.9.9"), Scope.SITE)
        self.mesh.run(70)
        self.assertEqual(sorted(dials), ["10.0.7.8", "9.9.9.9"])

    def _count_dials(self, node: MemoryNode, dials: list[str]) -> None:
        connect = node.host.connectTCP

        def counted(host: str, *args: Any, **kw: Any) -> Any:
            dials.append(host)
            return connect(host, *args, **kw)

        self.patch(node.host, "connectTCP", counted)


def _in_path(node: MemoryNode) -> str:
    return quote(node.identity.public.text, safe="")
