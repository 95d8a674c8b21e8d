"""
Tests of L{meshkit.services.dialling} and C{ping}, with whole nodes: bare addresses, pins,
and what happens while a network's secret is replaced.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import StartError
from meshkit.gossip import link
from meshkit.identity.addresses import HostPort
from meshkit.identity.keyfile import encode_identity, seal_identity
from meshkit.identity.network import NetworkSecret, encode_networks
from meshkit.identity.passphrase import Cost
from meshkit.interfaces import NodeWoke
from meshkit.services import ping
from meshkit.services.node import MAX_CHANNELS_PER_PEER, NodeService
from meshkit.shs import Capability, wrap_client
from meshkit.shs import probe as key_probe
from meshkit.shs.hellos import proves
from meshkit.shs.prober import probe_key
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from tests.shs.common import OneFactory, Recorder

NEW = NetworkSecret(b"n" * 32)


#: Where the channels of gossip are counted.
WITHOUT_DHT: Final = 'disable = ["dht"]'


class DiallingTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()

    def tearDown(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def node(self, name: str, config: str = "", start: bool = True) -> MemoryNode:
        node = self.mesh.node(name, config)
        if start:
            node.start()
        return node

    def place(self, node: MemoryNode) -> str:
        return f"{node.host.address}:7655"

    def ok(self, node: MemoryNode, method: str, target: str, body: Any = None) -> Any:
        answer = node.ask(method, target, body)
        self.assertLess(answer.status, 300, answer.body)
        return answer.json["data"] if answer.body else None

    def refused(self, node: MemoryNode, code: str, target: str, body: Any) -> str:
        answer = node.ask("POST", target, body)
        self.assertEqual(answer.code, code, answer.body)
        return str(answer.json["error"]["message"])

    def peers(self, node: MemoryNode) -> Any:
        return self.ok(node, "GET", "/v1/peers")

    def status(self, node: MemoryNode) -> Any:
        return self.ok(node, "GET", "/v1/status")

    def replace_identity(self, node: MemoryNode, name: str) -> str:
        """The node loses its identity and starts with another.  @return: its new id."""
        node.stop()
        identity = make_identity(name)
        node.files.write_atomic(f"{node.folder}/secret.key", encode_identity(identity))
        self.mesh.run(1)
        node.start()
        return identity.public.text


class AddingTests(DiallingTestCase):
    """C{POST /v1/peers} with a bare address."""

    def test_it_is_asked_for_its_key_dialled_and_pinned(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        added = self.ok(bob, "POST", "/v1/peers", {"address": self.place(ada)})
        self.assertEqual(added["address"], ada.address)
        self.assertEqual((added["pinned"], added["source"]), ("first use", "manual"))
        self.assertTrue(added["pinned_at"].startswith("2026-01-01T"))
        self.mesh.run(1)
        (shown,) = self.peers(bob)
        self.assertTrue(shown["connected"])
        self.assertEqual(self.status(ada)["refused"], {})
        bob.stop()
        bob.start()
        (shown,) = self.peers(bob)
        self.assertEqual((shown["address"], shown["pinned"]), (ada.address, "first use"))

    def test_it_is_removed_by_its_bare_address(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        self.ok(bob, "POST", "/v1/peers", {"address": f"net:{self.place(ada)}"})
        self.ok(bob, "DELETE", f"/v1/peers/{self.place(ada)}")
        self.assertEqual(self.peers(bob), [])
        answer = bob.ask("DELETE", f"/v1/peers/{self.place(ada)}")
        self.assertEqual((answer.status, answer.code), (404, "NOT_FOUND"))

    def test_a_changed_key_is_refused_until_it_is_repinned(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        before = ada.identity.public.text
        self.ok(bob, "POST", "/v1/peers", {"address": self.place(ada)})
        self.ok(bob, "DELETE", f"/v1/peers/{self.place(ada)}")
        after = self.replace_identity(ada, "mallory")
        message = self.refused(bob, "PEER_KEY_CHANGED", "/v1/peers", {"address": self.place(ada)})
        self.assertIn(before, message)
        self.assertIn(after, message)
        self.assertEqual(self.peers(bob), [])
        self.mesh.run(2)
        done = self.ok(bob, "POST", "/v1/peers/repin", {"address": self.place(ada)})
        self.assertEqual((done["before"], done["public_id"]), (before, after))
        self.mesh.run(2)
        added = self.ok(bob, "POST", "/v1/peers", {"address": self.place(ada)})
        self.assertEqual((added["public_id"], added["pinned"]), (after, "by hand"))

    def test_a_changed_key_is_noticed_while_it_is_dialled(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        self.ok(bob, "POST", "/v1/peers", {"address": self.place(ada)})
        self.mesh.run(1)
        after = self.replace_identity(ada, "mallory")
        dialler = bob.service._dialler
        asked: list[float] = []
        ask = dialler.ask

        def count(place: Any) -> Any:
            asked.append(self.mesh.clock.seconds())
            return ask(place)

        self.patch(dialler, "ask", count)
        self.mesh.run(10)
        (shown,) = self.peers(bob)
        self.assertFalse(shown["connected"])
        self.mesh.run(50)
        refused = self.status(ada)["refused"]
        # Dialled again and again, asked once a minute.
        self.assertEqual(len(asked), 1)
        self.assertGreater(refused["PEER_KEY_REFUSED"], 3)
        self.assertNotIn("KEY_PROBE_REFUSED", refused)
        (shown,) = self.peers(bob)
        self.assertTrue(shown["last_error"].startswith("PEER_KEY_CHANGED: "), shown)
        self.assertIn(ada.identity.public.text, shown["last_error"])
        self.assertIn(after, shown["last_error"])
        self.ok(bob, "POST", "/v1/peers/repin", {"address": self.place(ada)})
        self.mesh.run(5)
        (shown,) = self.peers(bob)
        self.assertEqual((shown["public_id"], shown["connected"]), (after, True))

    def test_repinning_to_a_key_that_is_given_is_proved_first(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        self.ok(bob, "POST", "/v1/peers", {"address": self.place(ada)})
        mallory = make_identity("mallory").public
        wrong = f"net:{self.place(ada)}~shs:{mallory.base64}"
        self.refused(bob, "PEER_KEY_REFUSED", "/v1/peers/repin", {"address": wrong})
        (shown,) = self.peers(bob)
        self.assertEqual(shown["address"], ada.address)

    def test_an_address_that_contradicts_the_pin_is_refused(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        self.ok(bob, "POST", "/v1/peers", {"address": self.place(ada)})
        mallory = make_identity("mallory").public
        self.refused(
            bob,
            "PEER_KEY_CHANGED",
            "/v1/peers",
            {"address": f"net:{self.place(ada)}~shs:{mallory.base64}"},
        )

    def test_a_key_that_is_told_but_not_proved_is_not_pinned(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")

        class Liar(Protocol):
            """Answers as a member can who sits on the path, with a key it has not."""

            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                capability = Capability.of(ada.service._network, key_probe.LABEL)
                session = key_probe.PROBE.respond(make_identity("victim"), capability, b"e" * 32)
                if len(data) == 64:
                    if proves(capability.key, data):
                        self.transport.write(session.receive(data).send)
                    self.transport.loseConnection()

        self.mesh.network.server_endpoint(9, "10.0.0.9").listen(Factory.forProtocol(Liar))
        self.refused(bob, "NETWORK_KEY_REFUSED", "/v1/peers", {"address": "10.0.0.9:9"})
        self.assertEqual(self.peers(bob), [])
        self.assertIsNone(bob.service._peers.pin(HostPort("10.0.0.9", 9)))

    def test_what_cannot_be_asked(self) -> None:
        ada, bob = self.node("ada", 'key_probe = "never"'), self.node("bob")
        message = self.refused(bob, "KEY_PROBE_FAILED", "/v1/peers", {"address": self.place(ada)})
        self.assertIn("key_probe", message)
        self.assertEqual(self.status(ada)["refused"], {"NETWORK_KEY_REFUSED": 1})
        self.refused(bob, "PEER_UNREACHABLE", "/v1/peers", {"address": "10.0.0.77:1"})
        self.refused(bob, "HOST_UNKNOWN", "/v1/peers", {"address": "nobody.example:1"})
        own = self.refused(bob, "KEY_PROBE_FAILED", "/v1/peers", {"address": self.place(bob)})
        self.assertIn("this very node", own)

    def test_a_weak_network_neither_tells_nor_asks(self) -> None:
        nodes = [self.node(name, start=False) for name in ("ada", "bob")]
        weak = NetworkSecret(bytes(32), weak=True)
        for node in nodes:
            node.files.write_atomic(f"{node.folder}/network.secret", weak.encode())
            node.start()
        ada, bob = nodes
        message = self.refused(bob, "KEY_PROBE_FAILED", "/v1/peers", {"address": self.place(ada)})
        self.assertIn("passphrase", message)
        asking = probe_key(
            bob.host,
            self.mesh.network.client_endpoint(7655, ada.host.address, source="10.0.0.2"),
            capability=Capability.of(weak.key(), key_probe.LABEL),
            own=bob.identity.public,
            rng=Random(1),
        )
        self.mesh.run(1)
        self.failureResultOf(asking)
        self.assertEqual(self.status(ada)["refused"], {"NETWORK_KEY_REFUSED": 1})
        self.ok(bob, "POST", "/v1/peers", {"address": ada.address})


class ConfiguredTests(DiallingTestCase):
    """C{peers = ["HOST:PORT"]}."""

    def test_it_is_asked_until_it_tells(self) -> None:
        ada = self.node("ada", start=False)
        bob = self.node("bob", f'peers = ["{self.place(ada)}"]')
        self.mesh.run(5)
        (shown,) = self.peers(bob)
        self.assertEqual((shown["address"], shown["public_id"]), (self.place(ada), None))
        self.assertGreaterEqual(shown["failures"], 2)
        self.assertIn("PEER_UNREACHABLE", shown["last_error"])
        self.assertEqual(self.status(bob)["peer_count"], 1)
        ada.start()
        self.mesh.run(60)
        (shown,) = self.peers(bob)
        self.assertEqual(
            (shown["address"], shown["source"], shown["pinned"], shown["connected"]),
            (ada.address, "config", "first use", True),
        )

    def test_it_is_dialled_by_its_pin_after_a_start(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", f'peers = ["net:{self.place(ada)}"]')
        self.mesh.run(2)
        self.assertTrue(self.peers(bob)[0]["connected"])
        bob.stop()
        ada.stop()
        ada._config = 'key_probe = "never"'
        ada.start()
        bob.start()
        self.mesh.run(5)
        self.assertTrue(self.peers(bob)[0]["connected"])

    def test_stopping_while_it_is_asked(self) -> None:
        self.mesh.network.server_endpoint(9, "10.0.0.9").listen(Factory.forProtocol(Protocol))
        for seconds in (0.0, 0.005, 1.0, 10.5):
            bob = self.node(f"bob{seconds}", 'peers = ["10.0.0.9:9", "10.0.0.8:1"]')
            self.mesh.run(seconds)
            bob.stop()
            self.mesh.run(1)


class TryingTests(DiallingTestCase):
    """C{POST /v1/peers/dial}, and what answers it."""

    def test_who_is_there_and_how_far(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        for address in (ada.address, self.place(ada)):
            done = self.ok(bob, "POST", "/v1/peers/dial", {"address": address, "pings": 3})
            self.assertEqual(done["address"], ada.address)
            self.assertEqual(done["public_id"], ada.identity.public.text)
            self.assertEqual(len(done["round_trips_ms"]), 3)
            for taken in done["round_trips_ms"]:
                self.assertLess(abs(taken - 2.0), 0.1)
            self.assertGreater(done["handshake_ms"], 3.0)
        self.mesh.run(1)
        self.assertEqual(self.peers(bob), [])
        self.assertEqual(self.status(ada)["channels"], 0)
        self.assertEqual(
            self.ok(bob, "POST", "/v1/peers/dial", {"address": ada.address})["round_trips_ms"], []
        )

    def test_what_cannot_be_dialled(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        mallory = make_identity("mallory").public
        wrong = f"net:{self.place(ada)}~shs:{mallory.base64}"
        path = "/v1/peers/dial"
        self.refused(bob, "PEER_KEY_REFUSED", path, {"address": wrong})
        self.refused(bob, "PEER_UNREACHABLE", path, {"address": wrong.replace("7655", "9")})
        self.refused(bob, "INVALID_REQUEST", path, {"address": ada.address, "pings": 33})
        self.refused(bob, "INVALID_ADDRESS", path, {"address": "ada"})

    def test_this_very_node_cannot_be_dialled(self) -> None:
        ada = self.node("ada")
        for path in ("/v1/peers", "/v1/peers/dial", "/v1/peers/repin"):
            self.refused(ada, "CONFIG_INVALID", path, {"address": ada.address})

    def dial_ping(self, ada: MemoryNode, identity: Any, seed: object = None) -> Any:
        protocol = Recorder()
        wrap_client(
            self.mesh.clock,
            self.mesh.network.client_endpoint(7655, ada.host.address, source="10.0.0.99"),
            identity=identity,
            capability=Capability.of(ada.service._network, ping.LABEL),
            peer=ada.identity.public,
            rng=Random(f"{identity.public} {seed}"),
        ).connect(OneFactory(protocol)).addErrback(lambda failure: None)
        return protocol

    def test_one_peer_has_so_many_connections(self) -> None:
        self.assertEqual(MAX_CHANNELS_PER_PEER, 8)
        ada = self.node("ada", WITHOUT_DHT)
        bob = self.node("bob", f'{WITHOUT_DHT}\npeers = ["{ada.address}"]')
        self.mesh.run(1)
        # The same peer runs wild with another protocol: gossip goes on.
        pings = []
        for n in range(3 * MAX_CHANNELS_PER_PEER):
            pings.append(self.dial_ping(ada, bob.identity, n))
            self.mesh.run(0.1)
        self.assertEqual(self.status(ada)["channels"], MAX_CHANNELS_PER_PEER)
        self.assertEqual(sum(each.reason is None for each in pings), MAX_CHANNELS_PER_PEER - 1)
        self.assertTrue(self.peers(bob)[0]["connected"])
        other = self.dial_ping(ada, make_identity(1))
        self.mesh.run(1)
        self.assertIsNone(other.reason)
        self.assertEqual(self.status(ada)["channels"], MAX_CHANNELS_PER_PEER + 1)

    def test_pings_are_limited(self) -> None:
        ada = self.node("ada")
        many = self.dial_ping(ada, make_identity(1))
        self.mesh.run(1)
        limit = ping.MAX_PINGS * ping.PING_BYTES
        many.transport.write(bytes(limit))
        self.mesh.run(1)
        self.assertEqual(len(many.received), limit)
        many.transport.write(b"x")
        self.mesh.run(1)
        self.assertEqual((len(many.received), many.reason is not None), (limit, True))
        silent = self.dial_ping(ada, make_identity(2))
        self.mesh.run(9)
        self.assertIsNone(silent.reason)
        self.mesh.run(2)
        self.assertIsNotNone(silent.reason)

    def test_connections_that_ping_are_limited(self) -> None:
        ada = self.node("ada")
        self.patch(ping, "MAX_CONNECTIONS", 2)
        dialled = [self.dial_ping(ada, make_identity(number)) for number in range(3)]
        self.mesh.run(1)
        self.assertEqual([each.reason is None for each in dialled], [True, True, False])
        dialled[0].transport.loseConnection()
        self.mesh.run(1)
        again = self.dial_ping(ada, make_identity(4))
        self.mesh.run(1)
        self.assertIsNone(again.reason)
        for each in (dialled[1], again):
            each.transport.abortConnection()


class RotationTests(DiallingTestCase):
    """A network whose secret is replaced."""

    def rotate(self, node: MemoryNode) -> None:
        secrets = encode_networks([NEW, self.mesh.network_secret])
        node.files.write_atomic(f"{node.folder}/network.secret", secrets)

    def test_both_secrets_are_answered_and_those_with_the_old_one_counted(self) -> None:
        ada = self.node("ada", WITHOUT_DHT, start=False)
        self.rotate(ada)
        ada.start()
        old, new = (
            self.node(name, f'{WITHOUT_DHT}\npeers = ["{ada.address}"]', start=False)
            for name in ("old", "new")
        )
        self.rotate(new)
        for node in (old, new):
            node.start()
        self.mesh.run(2)
        status = self.status(ada)
        self.assertEqual(status["channels"], 2)
        self.assertEqual(status["network"], NEW.key().net_id.hex())
        self.assertEqual(status["network_previous"], self.mesh.network_secret.key().net_id.hex())
        self.assertEqual(status["peers_on_previous"], 1)
        self.assertIsNone(self.status(old)["network_previous"])
        self.assertEqual(self.status(old)["peers_on_previous"], 0)
        # It follows, and is counted no more.
        old.stop()
        self.rotate(old)
        old.start()
        self.mesh.run(2)
        self.assertEqual(self.status(ada)["peers_on_previous"], 0)
        self.assertEqual(self.status(ada)["channels"], 2)

    def test_a_dialler_uses_the_new_one_only(self) -> None:
        old = self.node("old")
        ada = self.node("ada", f'peers = ["{old.address}"]', start=False)
        self.rotate(ada)
        ada.start()
        self.mesh.run(5)
        self.assertIn("NETWORK_KEY_REFUSED", self.peers(ada)[0]["last_error"])
        refused = self.status(old)["refused"]
        self.assertEqual(set(refused), {"NETWORK_KEY_REFUSED"})

    def test_both_are_asked_for_the_key(self) -> None:
        ada = self.node("ada", start=False)
        self.rotate(ada)
        ada.start()
        bob = self.node("bob")
        self.ok(bob, "POST", "/v1/peers", {"address": self.place(ada)})

    def test_the_secrets_by_setting(self) -> None:
        keys = f'network_keys = ["{NEW.text}", "{self.mesh.network_secret.text}"]'
        ada = self.node("ada", keys)
        bob = self.node("bob", f'peers = ["{ada.address}"]')
        self.mesh.run(2)
        self.assertTrue(self.peers(bob)[0]["connected"])
        both = self.node("both", f'{keys}\nnetwork_key = "{NEW.text}"', start=False)
        self.assertRaises(StartError, both.start)

    def test_the_number_of_peers_remembered_is_limited(self) -> None:
        from meshkit.services import node as module

        self.patch(module, "MAX_SEEN", 3)
        ada = self.node("ada", start=False)
        self.rotate(ada)
        ada.start()
        old = self.mesh.network_secret.key().net_id
        for number in range(5):
            peer = make_identity(number).public
            self.assertTrue(ada.service._authorize(old, lambda *_: True, peer, "gossip"))
        self.assertEqual(self.status(ada)["peers_on_previous"], 3)
        # Those that were not heard of for longest are forgotten.
        second, third, fourth = (make_identity(number).public for number in (2, 3, 4))
        for peer in (second, make_identity(5).public):
            ada.service._authorize(old, lambda *_: True, peer, "gossip")
        self.assertIn(second, ada.service._seen)
        self.assertNotIn(third, ada.service._seen)
        self.assertIn(fourth, ada.service._seen)


class LockedTests(DiallingTestCase):
    """A key file under a passphrase."""

    def test_without_its_identity_the_node_does_not_start(self) -> None:
        ada = self.node("ada", start=False)
        sealed = seal_identity(ada.identity, "x", bytes(16), Cost(1, 8))
        ada.files.write_atomic(f"{ada.folder}/secret.key", sealed)
        error = self.assertRaises(StartError, ada.start)
        self.assertIn("--passphrase-fd", str(error))

    def unlocked(self, node: MemoryNode, identity: Any) -> NodeService:
        service = node.make()
        service._unlocked = identity
        return service

    def test_with_it_the_node_starts(self) -> None:
        ada = self.node("ada", start=False)
        sealed = seal_identity(ada.identity, "x", bytes(16), Cost(1, 8))
        ada.files.write_atomic(f"{ada.folder}/secret.key", sealed)
        service = self.unlocked(ada, ada.identity)
        service.privilegedStartService()
        service.startService()
        self.mesh.run(1)
        self.assertTrue(service.ready)
        self.assertEqual(service.identity.public, ada.identity.public)

    def test_a_file_that_was_replaced_meanwhile(self) -> None:
        ada = self.node("ada", start=False)
        service = self.unlocked(ada, make_identity("somebody else"))
        error = self.assertRaises(StartError, service.privilegedStartService)
        self.assertIn("replaced", str(error))


class RenewingTests(DiallingTestCase):
    """Channels between nodes get new keys, also while a feed is being fetched."""

    def test_channels_are_replaced_and_nothing_is_missed(self) -> None:
        self.patch(link, "RENEW_SECONDS", 60.0)
        a = self.node("a", WITHOUT_DHT)
        b = self.node("b", f'{WITHOUT_DHT}\npeers = ["{a.address}"]')
        self.mesh.run(1)
        seen: dict[int, Any] = {}
        for n in range(40):
            self.ok(a, "POST", "/v1/publish", {"content": {"type": "note", "text": f"number {n}"}})
            self.mesh.run(7.9)
            channels = a.service._listener.channels
            seen |= {id(channel): channel for channel in channels}
            # Never none; two while one takes the place of the other.
            self.assertIn(len(channels), (1, 2))
            self.assertTrue(self.peers(b)[0]["connected"])
        self.mesh.run(1)
        self.assertEqual(len(a.service._listener.channels), 1)
        self.assertEqual(len(self.status(b)["parts"]["gossip"]["links"]), 1)
        # 316 s: that of the start, and one each minute.
        self.assertEqual(len(seen), 6)
        self.assertEqual(self.status(b)["parts"]["feed"]["messages"], 40)
        for node in (a, b):
            gossip = self.status(node)["parts"]["gossip"]
            self.assertEqual((gossip["broken"], gossip["hindered"]), ({}, {}))


class WakingTests(DiallingTestCase):
    """A node that was asleep."""

    def test_a_place_that_had_not_told_its_key_is_asked_at_once(self) -> None:
        bob = self.node("bob", 'peers = ["10.0.0.2:7655"]')
        self.mesh.run(1000)
        (shown,) = self.peers(bob)
        before = shown["failures"]
        self.assertGreater(before, 5)
        bob.service.events.publish(NodeWoke(3600.0))
        self.mesh.run(2)
        (shown,) = self.peers(bob)
        # At once, and then after a second, and not after a minute.
        self.assertEqual(shown["failures"], before + 2)
        self.node("ada")
        bob.service.events.publish(NodeWoke(3600.0))
        self.mesh.run(1)
        (shown,) = self.peers(bob)
        self.assertTrue(shown["connected"])
        # There is nobody left to ask.
        bob.service.events.publish(NodeWoke(3600.0))
        self.mesh.run(1)
