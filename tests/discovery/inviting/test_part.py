"""Tests of L{meshkit.discovery.inviting.part} and L{redeeming}, in whole nodes."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import meshkit_plugins
from meshkit.discovery.invites import LABEL, VERSION, CountedInvite, OpenInvite, parse_invite
from meshkit.discovery.inviting.operations import DEFAULT_LIFETIME
from meshkit.discovery.inviting.redeeming import (
    LIFETIME,
    MAX_CONNECTIONS,
    REDEEM,
    SILENCE,
    TRIES,
    Redeem,
    Redeemer,
)
from meshkit.errors import (
    InviteExpired,
    InviteNotAnswered,
    InviteUnknown,
    InviteUsed,
    NetworkKeyRefused,
    PeerUnreachable,
    RelayNoReservation,
    RemoteError,
    TruncatedStream,
)
from meshkit.identity.addresses import HostPort, MeshAddress, Via
from meshkit.interfaces import IMeshPart
from meshkit.relay.tunnel.alone import as_guest, as_member, through_relay
from meshkit.rpc.protocol import RPCProtocol
from meshkit.runtime.registry import discover_parts
from meshkit.services.programs import MESH_RELAY
from meshkit.shs import Capability, wrap_client
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MESH_PORT, MemoryHost, MemoryMesh

ALL_PARTS = discover_parts(meshkit_plugins)
PARTS = [each for each in ALL_PARTS if each.name == "invites"]
#: Those of a node that is reached through relays.
HIDING = [each for each in ALL_PARTS if each.name in ("invites", "relays", "tunnel")]
#: Nobody else reaches what listens there.
HIDDEN = f'listen = "tcp:{MESH_PORT}:interface=127.0.0.1"\n'
BOB, EVE = make_identity("bob"), make_identity("eve")


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.ada = self.mesh.node("ada", makers=PARTS)
        self.ada.start()
        # A hello that comes twice is refused, so nobody begins anew.
        self.rng = Random(1)
        self.elsewhere = MemoryHost(self.mesh.clock, self.mesh.network, "10.9.9.9")

    def make(self, **fields: Any) -> CountedInvite:
        self.made = self.ask("POST", "/v1/invites", fields)
        invite = parse_invite(self.made["invite"])
        assert isinstance(invite, CountedInvite)
        return invite

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.ada.ask(method, path, body)
        self.assertLess(answer.status, 300, answer.json if answer.body else "")
        return answer.json["data"] if answer.body else None

    def settled(self, waiting: Deferred[Any]) -> Deferred[Any]:
        self.mesh.until(lambda: waiting.called, "the other side")
        return waiting

    def redeem(self, invite: CountedInvite, who: Any = BOB) -> Deferred[Any]:
        redeemer = Redeemer(self.elsewhere, who, self.rng)
        return self.settled(redeemer.redeem(invite))

    def connect(self, capability: Capability, who: Any = BOB) -> Deferred[Any]:
        endpoint = wrap_client(
            self.elsewhere,
            HostnameEndpoint(self.elsewhere, self.ada.host.address, MESH_PORT),
            identity=who,
            capability=capability,
            peer=self.ada.identity.public,
            rng=self.rng,
        )
        factory = Factory.forProtocol(lambda: RPCProtocol(self.elsewhere))
        return self.settled(endpoint.connect(factory))


class Redeeming(Case):
    def test_it_is_a_part(self) -> None:
        verifyObject(IMeshPart, self.ada.service._parts["invites"])

    def test_a_newcomer_is_given_the_secret_of_the_network(self) -> None:
        invite = self.make()
        secret, reached = self.successResultOf(self.redeem(invite))
        self.assertEqual(secret, self.mesh.network_secret)
        self.assertEqual(reached.text, self.ada.address)

    def test_one_use(self) -> None:
        invite = self.make()
        self.successResultOf(self.redeem(invite))
        self.failureResultOf(self.redeem(invite, EVE), InviteUsed)
        # Its answer may have been lost.
        self.successResultOf(self.redeem(invite))

    def test_it_outlives_the_node(self) -> None:
        invite = self.make()
        used = self.make()
        self.successResultOf(self.redeem(used))
        self.ada.stop()
        self.ada.start()
        self.successResultOf(self.redeem(invite))
        self.failureResultOf(self.redeem(used, EVE), InviteUsed)

    def test_late(self) -> None:
        invite = self.make(expires_secs=60)
        self.mesh.run(61)
        self.failureResultOf(self.redeem(invite), InviteExpired)

    def test_taken_back(self) -> None:
        invite, first = self.make(), self.made
        self.make()
        self.ask("DELETE", f"/v1/invites/{first['id']}")
        self.failureResultOf(self.redeem(invite), InviteUnknown)

    def test_whoever_has_a_guess_at_the_code(self) -> None:
        invite = self.make()
        guessed = CountedInvite(invite.key, invite.places, invite.capability, bytes(16), None)
        for _ in range(int(TRIES)):
            self.failureResultOf(self.redeem(guessed, EVE), InviteUnknown)
        failure = self.failureResultOf(self.redeem(guessed, EVE), RemoteError)
        self.assertEqual(failure.value.code, "OVER_RATE")
        # That is nobody else's trouble.
        self.successResultOf(self.redeem(invite))

    def test_one_who_is_blocked_or_banned_is_not_let_in(self) -> None:
        invite = self.make()
        ledger = self.ada.service.peers.ledger
        self.patch(type(ledger), "is_banned", lambda _, peer: peer == EVE.public)
        self.failureResultOf(self.redeem(invite, EVE), InviteNotAnswered)
        self.successResultOf(self.redeem(invite, BOB))

    def test_without_an_invite_nobody_is_answered(self) -> None:
        """As there is none that could be used, its protocol is as silent as a wrong key."""
        invite = self.make()
        self.ask("DELETE", f"/v1/invites/{self.made['id']}")
        self.failureResultOf(self.redeem(invite), InviteNotAnswered)
        self.assertEqual(self.ada.service._parts["invites"].status().refused, 0)

    def test_without_its_capability_the_port_says_nothing(self) -> None:
        invite = self.make()
        wrong = bytes(byte ^ 1 for byte in invite.capability)
        self.failureResultOf(self.connect(Capability(LABEL, VERSION, wrong)), NetworkKeyRefused)

    def test_another_address_is_tried(self) -> None:
        invite = self.make(addresses=["10.0.0.250", f"{self.ada.host.address}:{MESH_PORT}"])
        _, reached = self.successResultOf(self.redeem(invite))
        self.assertEqual(reached.text, self.ada.address)

    def test_who_is_known_to_be_too_late_does_not_knock_at_every_address(self) -> None:
        here = f"{self.ada.host.address}:{MESH_PORT}"
        invite = self.make(addresses=[here, "10.0.0.250:1"], expires_secs=1)
        self.mesh.run(2)
        self.failureResultOf(self.redeem(invite), InviteExpired)

    def test_nobody_is_there(self) -> None:
        invite = self.make(addresses=["10.0.0.250"])
        self.failureResultOf(self.redeem(invite), PeerUnreachable)

    def test_somebody_else_is_there(self) -> None:
        """An invite says whose it is, so who took over the address gets no code."""
        other = self.mesh.node("other", makers=PARTS)
        other.start()
        invite = self.make(addresses=[other.host.address])
        self.failureResultOf(self.redeem(invite), InviteNotAnswered)

    def test_who_has_joined_is_told(self) -> None:
        self.successResultOf(self.redeem(self.make()))
        (used,) = self.ask("GET", "/v1/invites")
        self.assertEqual(used["state"], "used")
        self.assertEqual([use["public_id"] for use in used["used"]], [BOB.public.text])


class Bounds(Case):
    def capability(self) -> Capability:
        return Capability(LABEL, VERSION, self.make().capability)

    def test_a_connection_is_over_soon(self) -> None:
        held = self.successResultOf(self.connect(self.capability()))
        self.ask_for_nothing(held)
        self.mesh.run(LIFETIME - SILENCE)
        self.ask_for_nothing(held)
        self.mesh.run(SILENCE + 1)
        self.failureResultOf(held.call(REDEEM, Redeem(bytes(16))), TruncatedStream)
        self.assertEqual(len(self.ada.service._parts["invites"]._factory), 0)

    def test_so_many_and_no_more(self) -> None:
        capability = self.capability()
        open_now = [
            self.successResultOf(self.connect(capability, make_identity(n)))
            for n in range(MAX_CONNECTIONS)
        ]
        for held in open_now:
            self.ask_for_nothing(held)
        self.failureResultOf(self.settled(self._ask_late(capability)))
        self.assertEqual(len(self.ada.service._parts["invites"]._factory), MAX_CONNECTIONS)
        open_now[0].close()
        self.mesh.run(1)
        self.successResultOf(self._ask_late(capability))

    def test_those_who_say_nothing_keep_no_newcomer_out(self) -> None:
        invite = self.make()
        capability = Capability(LABEL, VERSION, invite.capability)
        first, *others = [
            self.successResultOf(self.connect(capability, make_identity(n)))
            for n in range(MAX_CONNECTIONS)
        ]
        self.ask_for_nothing(first)
        self.successResultOf(self.redeem(invite))
        self.mesh.run(1)
        self.failureResultOf(others[0].call(REDEEM, Redeem(bytes(16))), TruncatedStream)
        for held in (first, *others[1:]):
            self.ask_for_nothing(held)
        self.assertEqual(len(self.ada.service._parts["invites"]._factory), MAX_CONNECTIONS - 1)

    def test_who_says_nothing_is_cut_off_sooner(self) -> None:
        held = self.successResultOf(self.connect(self.capability()))
        self.mesh.run(SILENCE + 1)
        self.failureResultOf(held.call(REDEEM, Redeem(bytes(16))), TruncatedStream)

    def ask_for_nothing(self, protocol: Any) -> None:
        asking = self.settled(protocol.call(REDEEM, Redeem(bytes(16)), timeout=1_000))
        self.assertEqual(self.failureResultOf(asking, RemoteError).value.code, InviteUnknown.code)

    def _ask_late(self, capability: Capability) -> Deferred[Any]:
        return self.connect(capability, EVE).addCallback(
            lambda protocol: self.settled(protocol.call(REDEEM, Redeem(bytes(16)))).addErrback(
                lambda failure: failure.trap(RemoteError)
            )
        )

    def test_a_stop_cuts_them_off(self) -> None:
        held = self.successResultOf(self.connect(self.capability()))
        self.ada.stop()
        self.mesh.run(1)
        self.failureResultOf(held.call(REDEEM, Redeem(bytes(16))))


class Doors(Case):
    def test_what_is_made_if_nothing_is_said(self) -> None:
        invite = self.make()
        self.assertEqual(
            (self.made["uses"], self.made["state"], self.made["used"]), (1, "open", [])
        )
        now = self.mesh.wall_clock() // 10**9
        self.assertAlmostEqual(invite.expires or 0, now + DEFAULT_LIFETIME, delta=2)
        self.assertEqual(self.made["addresses"], [f"{self.ada.host.address}:{MESH_PORT}"])
        self.assertEqual(invite.key, self.ada.identity.public)

    def test_one_without_an_end(self) -> None:
        self.assertIsNone(self.make(expires_secs=None).expires)
        self.assertIsNone(self.made["expires"])

    def test_an_open_one_holds_the_secret(self) -> None:
        made = self.ask("POST", "/v1/invites/open", {})
        invite = parse_invite(made["invite"])
        assert isinstance(invite, OpenInvite)
        self.assertEqual(invite.secret, self.mesh.network_secret)
        self.assertEqual(self.ask("GET", "/v1/invites"), [])

    def test_addresses_that_are_given(self) -> None:
        given = ["mesh.example", "mesh.example:80", "2001:db8::1", "[2001:db8::1]:80", "192.0.2.1"]
        invite = self.make(addresses=[*given, given[0]])
        self.assertEqual(
            [place.text for place in invite.places],
            [
                f"mesh.example:{MESH_PORT}",
                "mesh.example:80",
                f"[2001:db8::1]:{MESH_PORT}",
                "[2001:db8::1]:80",
                f"192.0.2.1:{MESH_PORT}",
            ],
        )

    def test_addresses_that_are_none(self) -> None:
        for wrong in ("0.0.0.0", "[::]:7655", "no host", "a:b:c", "mesh.example:0"):
            answer = self.ada.ask("POST", "/v1/invites", {"addresses": [wrong]})
            self.assertEqual((answer.status, answer.code), (400, "INVALID_ADDRESS"), wrong)
        answer = self.ada.ask("POST", "/v1/invites", {"addresses": ["[fe80::1%eth0]:1"]})
        self.assertEqual(answer.code, "INVALID_INVITE")
        # None of these was kept.
        self.assertEqual(self.ask("GET", "/v1/invites"), [])

    def test_a_node_that_does_not_know_where_it_is(self) -> None:
        node = self.mesh.node("wild", f'listen = "tcp:{MESH_PORT}"', makers=PARTS)
        self.patch(node.host, "address", "0.0.0.0")
        node.start()
        answer = node.ask("POST", "/v1/invites", {})
        self.assertEqual((answer.status, answer.code), (409, "OWN_ADDRESS_UNKNOWN"))
        answer = node.ask("POST", "/v1/invites", {"otherwise": "192.0.2.9"})
        self.assertEqual(answer.json["data"]["addresses"], [f"192.0.2.9:{MESH_PORT}"])

    def test_where_its_operator_says_that_it_is(self) -> None:
        proxy = 'advertise = ["mesh.example:443"]'
        node = self.mesh.node("proxied", proxy, makers=PARTS)
        node.start()
        answer = node.ask("POST", "/v1/invites", {})
        self.assertEqual(answer.json["data"]["addresses"], ["mesh.example:443"])

    def test_loopback_is_named_where_there_is_nothing_else(self) -> None:
        here = f'listen = "tcp:{MESH_PORT}:interface=127.0.0.1"'
        node = self.mesh.node("alone", here, makers=PARTS)
        node.start()
        answer = node.ask("POST", "/v1/invites", {})
        self.assertEqual(answer.json["data"]["addresses"], [f"127.0.0.1:{MESH_PORT}"])
        node.service._whereabouts.mapped("router", [HostPort("198.51.100.1", 1)])
        answer = node.ask("POST", "/v1/invites", {})
        self.assertEqual(answer.json["data"]["addresses"], ["198.51.100.1:1"])

    def test_how_it_does(self) -> None:
        invite = self.make()
        self.make(expires_secs=1)
        self.mesh.run(2)
        self.successResultOf(self.redeem(invite))
        self.failureResultOf(self.redeem(invite, EVE), InviteUsed)
        status = self.ada.ask("GET", "/v1/status").json["data"]["parts"]["invites"]
        self.assertEqual(status, {"open": 0, "kept": 2, "welcomed": 1, "refused": 1})
        metrics = self.ada.ask("GET", "/metrics").body.decode()
        self.assertIn("meshkit_invites_welcomed_total 1.0", metrics)


class Hidden(Case):
    """A node that is reached through a relay and by no other way."""

    def setUp(self) -> None:
        super().setUp()
        self.relay = self.mesh.node("relay", program=MESH_RELAY)
        self.blind = self.mesh.node("blind", 'role = "blind"', program=MESH_RELAY)

    def start(self, *relays: Any, config: str = HIDDEN) -> None:
        """Make a hidden node, behind these relays."""
        for relay in relays:
            relay.start()
        names = {self.relay: "use", self.blind: "blind"}
        used = "".join(f'{names[each]} = ["{each.address}"]\n' for each in relays)
        self.ada = self.mesh.node("hidden", f"{config}[relays]\n{used}", makers=HIDING)
        self.ada.start()
        self.mesh.run(1)

    def behind(self, relay: Any, role: Any) -> str:
        at = MeshAddress.parse(relay.address)
        return MeshAddress(at.host, at.port, self.ada.identity.public, Via(at.key, role)).text

    def beneath(self, invite: CountedInvite, address: MeshAddress) -> Any:
        if address.via is None:
            return HostnameEndpoint(self.elsewhere, address.host, address.port)
        capability = as_guest(address.via, invite.guest)
        return through_relay(self.elsewhere, address, BOB, capability, self.rng, timeout=5.0)

    def redeem(self, invite: CountedInvite, who: Any = BOB) -> Deferred[Any]:
        redeemer = Redeemer(self.elsewhere, who, self.rng, self.beneath)
        return self.settled(redeemer.redeem(invite))

    def test_a_newcomer_comes_through_a_relay_of_the_network(self) -> None:
        self.start(self.relay)
        invite = self.make()
        self.assertEqual(self.made["addresses"], [])
        self.assertEqual(self.made["relays"], [self.behind(self.relay, "member")])
        secret, reached = self.successResultOf(self.redeem(invite))
        self.assertEqual(secret, self.mesh.network_secret)
        self.assertEqual(reached.text, self.behind(self.relay, "member"))
        self.failureResultOf(self.redeem(invite, EVE), InviteUsed)

    def test_or_through_one_that_knows_no_network(self) -> None:
        self.start(self.blind)
        invite = self.make()
        self.assertEqual(self.made["relays"], [self.behind(self.blind, "blind")])
        self.assertIsNone(invite.guest)
        secret, _ = self.successResultOf(self.redeem(invite))
        self.assertEqual(secret, self.mesh.network_secret)

    def test_an_open_one_names_them_too(self) -> None:
        self.start(self.relay, self.blind)
        made = self.ask("POST", "/v1/invites/open", {})
        both = [self.behind(self.relay, "member"), self.behind(self.blind, "blind")]
        self.assertEqual((made["addresses"], made["relays"]), ([], both))
        invite = parse_invite(made["invite"])
        self.assertEqual([each.text for each in invite.addresses], both)

    def test_what_asks_for_the_secret_opens_no_relay(self) -> None:
        """Each of the two capabilities of an invite is for one thing."""
        self.start(self.relay)
        invite = self.make()
        (address,) = invite.addresses
        assert address.via is not None
        network = self.mesh.network_secret.key()
        opens = as_guest(address.via, invite.guest)
        self.assertNotEqual(opens, as_member(address.via, network))
        for capability, error in (
            (Capability(LABEL, VERSION, invite.capability), PeerUnreachable),
            (opens, None),
        ):
            leading = through_relay(self.elsewhere, address, EVE, capability, self.rng, timeout=5.0)
            connecting = self.settled(leading.connect(Factory.forProtocol(Protocol)))
            if error is None:
                self.successResultOf(connecting).transport.loseConnection()
            else:
                why = str(self.failureResultOf(connecting, error).value)
                self.assertIn("does not answer to us", why)

    def test_its_relay_is_away(self) -> None:
        self.start(self.relay)
        invite = self.make()
        self.relay.stop()
        self.mesh.run(1)
        why = str(self.failureResultOf(self.redeem(invite), PeerUnreachable).value)
        self.assertIn("the relay at", why)
        self.assertIn("not used up", why)
        # Nor is it, and there is no other.
        answer = self.ada.ask("POST", "/v1/invites", {})
        self.assertEqual((answer.status, answer.code), (409, "OWN_ADDRESS_UNKNOWN"))
        self.assertIn("none of the relays", answer.json["error"]["message"])

    def test_it_is_away_itself(self) -> None:
        self.start(self.relay)
        invite = self.make()
        self.ada.stop()
        self.mesh.run(1)
        why = str(self.failureResultOf(self.redeem(invite), RelayNoReservation).value)
        self.assertIn("not used up", why)
        self.ada.start()
        self.mesh.run(1)
        self.successResultOf(self.redeem(invite))

    def test_who_goes_through_no_relay_is_told_that_one_leads_there(self) -> None:
        self.start(self.relay)
        redeemer = Redeemer(self.elsewhere, BOB, self.rng)
        failure = self.failureResultOf(self.settled(redeemer.redeem(self.make())), PeerUnreachable)
        self.assertIn("leads through a relay", str(failure.value))

    def test_neither_an_address_nor_a_relay(self) -> None:
        node = self.mesh.node("nowhere", f'listen = "tcp:{MESH_PORT}"', makers=HIDING)
        self.patch(node.host, "address", "0.0.0.0")
        node.start()
        answer = node.ask("POST", "/v1/invites", {})
        self.assertEqual((answer.status, answer.code), (409, "OWN_ADDRESS_UNKNOWN"))
        for todo in ("--address HOST:PORT", "through a relay"):
            self.assertIn(todo, answer.json["error"]["message"])

    def test_one_that_does_not_listen_everywhere_is_not_where_its_host_is(self) -> None:
        self.start(self.relay)
        self.assertEqual(self.make(otherwise="192.0.2.9").places, self.make().places)
        self.assertEqual(self.made["addresses"], [])

    def test_the_best_first(self) -> None:
        """Who is far away waits in vain at what only neighbours can dial."""
        self.start(self.relay, self.blind, config="")
        near = f"{self.ada.host.address}:{MESH_PORT}"
        relays = [self.behind(self.relay, "member"), self.behind(self.blind, "blind")]

        def made() -> list[str]:
            return [each.text for each in self.make().addresses]

        key = self.ada.identity.public.base64
        self.assertEqual(made(), [*relays, f"net:{near}~shs:{key}"])
        self.ada.service._whereabouts.mapped("router", [HostPort("8.8.8.8", 1)])
        self.assertEqual(made(), [f"net:8.8.8.8:1~shs:{key}", *relays, f"net:{near}~shs:{key}"])
        self.assertEqual(self.made["addresses"], ["8.8.8.8:1", near])

    def test_relays_that_are_named(self) -> None:
        self.start(self.relay, self.blind)
        behind = self.behind(self.blind, "blind")
        self.make(addresses=[behind, "mesh.example:80", self.ada.address])
        own = f"{self.ada.host.address}:{MESH_PORT}"
        self.assertEqual(
            (self.made["addresses"], self.made["relays"]), (["mesh.example:80", own], [behind])
        )
        for wrong in (self.relay.address, behind[:-2], f"{behind}~shs:", self.blind.address):
            answer = self.ada.ask("POST", "/v1/invites", {"addresses": [wrong]})
            self.assertEqual((answer.status, answer.code), (400, "INVALID_ADDRESS"), wrong)
