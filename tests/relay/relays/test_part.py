"""Tests of L{meshkit.relay.relays.part}: relays in the settings of whole nodes, in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import NetworkKeyRefused
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.network import PUBLIC_RELAYS
from meshkit.interfaces import IMeshPart, IRelays, Relay
from meshkit.services import ping
from meshkit.services.programs import MESH_RELAY
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh, MemoryNode


class UsingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.end)
        self.member = self.start("member", program=MESH_RELAY)
        self.blind = self.start("blind", 'role = "blind"', program=MESH_RELAY)
        self.ada = self.start(
            "ada",
            f'[relays]\nblind = ["{self.blind.address}"]\nuse = ["{self.member.address}"]\n'
            "[tunnel]\nreserve = false\n",
        )
        self.part: Any = self.ada.service._parts["relays"]

    def end(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def start(self, name: str, config: str = "", **options: Any) -> MemoryNode:
        node = self.mesh.node(name, config, **options)
        node.start()
        return node

    def connect(self, relay: Relay, **options: Any) -> Any:
        """Dial the one protocol that every node has."""
        endpoint = self.part.endpoint(relay, ping.LABEL, **options)
        done: list[Any] = []
        connecting = endpoint.connect(Factory.forProtocol(Protocol))
        connecting.addBoth(done.append)
        self.mesh.until(lambda: bool(done), "a dial")
        return done[0]

    def test_it_is_what_other_parts_use(self) -> None:
        verifyObject(IMeshPart, self.part)
        verifyObject(IRelays, self.part)

    def test_each_relay_is_reached_in_the_network_in_which_it_serves(self) -> None:
        member, blind = self.part.relays()
        self.assertEqual(member, Relay(MeshAddress.parse(self.member.address), "member"))
        self.assertEqual(blind, Relay(MeshAddress.parse(self.blind.address), "blind"))
        self.assertEqual(self.part.network_of(member).net_id, self.mesh.network_secret.key().net_id)
        self.assertEqual(self.part.network_of(blind).net_id, PUBLIC_RELAYS.key().net_id)
        for relay in (member, blind):
            protocol = self.connect(relay)
            self.assertEqual(protocol.transport.getPeer().key, relay.address.key)
            protocol.transport.loseConnection()

    def test_a_blind_relay_is_in_no_network_and_a_member_in_one_only(self) -> None:
        for relay, other in zip(self.part.relays(), ("blind", "member"), strict=True):
            taken_for_the_other = Relay(relay.address, other)
            self.connect(taken_for_the_other).trap(NetworkKeyRefused)

    def test_one_may_come_to_it_under_another_key(self) -> None:
        stranger = make_identity("throw-away")
        self.connect(self.part.relays()[1], identity=stranger)
        # Other parts of the node are there as well, under its own key.
        keys = {channel.getPeer().key for channel in self.blind.service._listener.channels}
        self.assertIn(stranger.public, keys)

    def test_a_relay_that_stands_in_no_setting_can_be_used_as_well(self) -> None:
        other = self.start("other", 'role = "blind"', program=MESH_RELAY)
        relay = Relay(MeshAddress.parse(other.address), "blind")
        self.assertNotIn(relay, self.part.relays())
        self.assertEqual(self.connect(relay).transport.getPeer().key, relay.address.key)

    def test_a_member_relay_is_a_peer_of_the_node_and_a_blind_one_is_not(self) -> None:
        def shown() -> list[tuple[str, str]]:
            peers = self.ada.ask("GET", "/v1/peers").json["data"]
            return [(peer["address"], peer["source"]) for peer in peers]

        self.assertEqual(shown(), [(self.member.address, "relays")])
        self.mesh.run(5)
        (link,) = self.ada.ask("GET", "/v1/status").json["data"]["parts"]["gossip"]["links"]
        self.assertEqual(link["peer"], self.member.identity.public.text)
        self.ada.stop()
        self.ada.start()
        self.assertEqual(shown(), [(self.member.address, "relays")])

    def test_status_shows_them_and_says_nothing_where_there_are_none(self) -> None:
        shown = self.ada.ask("GET", "/v1/status").json["data"]
        self.assertEqual(
            shown["parts"]["relays"]["relays"],
            [
                {"address": self.member.address, "role": "member"},
                {"address": self.blind.address, "role": "blind"},
            ],
        )
        self.assertIsNone(shown["relay"])
        bob = self.start("bob")
        self.assertNotIn("relays", bob.ask("GET", "/v1/status").json["data"]["parts"])

    def test_status_of_a_relay_says_what_kind_it_is(self) -> None:
        def status(node: MemoryNode) -> Any:
            return node.ask("GET", "/v1/status").json["data"]

        self.assertEqual(status(self.member)["relay"], "member")
        self.assertEqual(
            status(self.member)["network"], self.mesh.network_secret.key().net_id.hex()
        )
        self.assertIn("feed", status(self.member)["parts"])
        self.assertEqual(status(self.blind)["relay"], "blind")
        self.assertEqual(status(self.blind)["network"], PUBLIC_RELAYS.key().net_id.hex())
        self.assertNotIn("feed", status(self.blind)["parts"])
