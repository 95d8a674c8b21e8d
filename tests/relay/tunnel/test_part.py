"""Tests of the parts C{tunnel} and C{tunnels}, with whole nodes and relays."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from twisted.internet.defer import CancelledError, fail
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.door import segment
from meshkit.errors import ConfigError, NotReady, RelayLimitReached
from meshkit.identity.addresses import MeshAddress, Via
from meshkit.relay.tunnel.limits import MEMBERS
from meshkit.relay.tunnel.wire import CIRCUIT_LABEL, CONTROL_LABEL
from meshkit.services.node import MAX_CHANNELS_PER_PEER
from meshkit.services.programs import MESH_RELAY
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh, MemoryNode

#: Nobody else reaches what listens there.
HIDDEN: Final = 'listen = "tcp:7655:interface=127.0.0.1"\n'


class TunnelMesh(SynchronousTestCase):
    """A relay, and peers that nobody can dial."""

    def setUp(self) -> None:
        self.mesh = MemoryMesh()

    def tearDown(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def relay(self, role: str = "blind", more: str = "") -> MemoryNode:
        relay = self.mesh.node("relay", f'role = "{role}"\n{more}', program=MESH_RELAY)
        relay.start()
        return relay

    def peer(
        self, name: str, relay: MemoryNode | None, role: str = "blind", config: str = HIDDEN
    ) -> MemoryNode:
        setting = {"member": "use", "blind": "blind"}[role]
        uses = "" if relay is None else f'[relays]\n{setting} = ["{relay.address}"]\n'
        peer = self.mesh.node(name, config + uses)
        peer.start()
        return peer

    def behind(self, relay: MemoryNode, peer: MemoryNode, role: Any = "blind") -> str:
        """The address that leads through a relay."""
        at = MeshAddress.parse(relay.address)
        via = Via(relay.identity.public, role)
        return MeshAddress(at.host, at.port, peer.identity.public, via).text

    def ok(self, node: MemoryNode, method: str, target: str, body: Any = None) -> Any:
        answer = node.ask(method, target, body)
        self.assertLess(answer.status, 300, answer.body)
        return answer.json["data"] if answer.body else None

    def dial(self, node: MemoryNode, address: str) -> Any:
        return self.ok(node, "POST", "/v1/peers/dial", {"address": address, "pings": 1})

    def status(self, node: MemoryNode, part: str) -> Any:
        return self.ok(node, "GET", "/v1/status")["parts"][part]


class ReachedTests(TunnelMesh):
    """A peer behind a relay."""

    def test_it_says_by_which_address_it_is_reached_and_is(self) -> None:
        relay = self.relay()
        ada = self.peer("ada", relay)
        ben = self.peer("ben", None, config="")
        self.mesh.run(1)
        (shown,) = self.status(ada, "tunnel")["relays"]
        self.assertEqual(
            (shown["reachable"], shown["role"], shown["problem"]), (True, "blind", None)
        )
        self.assertEqual(shown["address"], self.behind(relay, ada))
        self.assertEqual(self.status(relay, "tunnels")["reservations"], 1)
        done = self.dial(ben, shown["address"])
        self.assertEqual(done["public_id"], ada.identity.public.text)
        self.assertEqual((done["transport"], done["relay"]), ("relay", relay.identity.public.text))

    def test_an_address_that_does_not_answer_is_gone_around(self) -> None:
        relay = self.relay()
        ada, ben = self.peer("ada", relay), self.peer("ben", relay)
        self.mesh.run(1)
        done = self.dial(ben, ada.address)
        self.assertEqual(done["transport"], "relay")

    def test_one_that_answers_is_not(self) -> None:
        relay = self.relay()
        ada, ben = self.peer("ada", relay, config=""), self.peer("ben", relay)
        self.mesh.run(1)
        done = self.dial(ben, ada.address)
        self.assertEqual((done["transport"], done["relay"]), ("direct", None))
        self.assertEqual(self.status(relay, "tunnels")["opened"], 0)

    def test_feeds_come_through_a_relay_that_is_no_member(self) -> None:
        relay = self.relay()
        ada, ben = self.peer("ada", relay), self.peer("ben", relay)
        self.ok(ben, "POST", "/v1/peers", {"address": self.behind(relay, ada)})
        self.ok(ada, "POST", "/v1/publish", {"content": {"type": "note", "text": "hello"}})
        self.mesh.run(10)
        (peer,) = self.ok(ben, "GET", "/v1/peers")
        self.assertEqual((peer["connected"], peer["transports"]), (True, ["relay"]))
        connections = self.ok(ben, "GET", "/v1/peers/connections")
        self.assertIn(
            ("gossip", True, "relay", relay.identity.public.text),
            [
                (each["label"], each["dialled"], each["transport"], each["relay"])
                for each in connections
            ],
        )
        self.assertGreater(self.ok(ben, "GET", "/v1/status")["transports"]["relay"], 0)
        target = f"/v1/feed/{segment(ada.identity.public.text)}"
        told = [self.ok(node, "GET", target) for node in (ada, ben)]
        self.assertEqual([each["content"]["text"] for each in told[0]], ["hello"])
        self.assertEqual(*told)

    def test_the_hash_table_tells_through_which_relay(self) -> None:
        relay = self.relay("member")
        ada = self.peer("ada", relay, "member")
        self.ok(ada, "POST", "/v1/peers", {"address": relay.address})
        ben = self.peer("ben", None, config="")
        self.ok(ben, "POST", "/v1/peers", {"address": relay.address})
        self.mesh.run(180)
        done = self.dial(ben, ada.identity.public.text)
        self.assertEqual((done["transport"], done["found_by"]), ("relay", "dht"))
        found = self.ok(ben, "GET", f"/v1/dht/peers/{ada.identity.public.text}")
        self.assertEqual(found["addresses"], [self.behind(relay, ada, "member")])

    def asking(self, relay: MemoryNode) -> set[str]:
        """Who has circuits at the relay now, by what it can tell."""
        connections = self.ok(relay, "GET", "/v1/peers/connections")
        return {each["public_id"] for each in connections if each["label"] == CIRCUIT_LABEL}

    def test_who_hides_comes_to_blind_relays_as_somebody_else(self) -> None:
        relay = self.relay()
        ada = self.peer("ada", relay)
        for name, hides in (("ben", False), ("cleo", True)):
            asker = self.mesh.node(name, f"[tunnel]\nhide_key = {str(hides).lower()}\n")
            asker.start()
            self.ok(asker, "POST", "/v1/peers", {"address": self.behind(relay, ada)})
            self.mesh.run(5)
            (peer,) = self.ok(asker, "GET", "/v1/peers")
            self.assertTrue(peer["connected"])
            self.assertEqual(asker.identity.public.text in self.asking(relay), not hides, name)
            asker.stop()

    def test_it_is_told_why_nobody_is_led_there(self) -> None:
        relay = self.relay()
        ada = self.peer("ada", None)
        ben = self.peer("ben", relay)
        answer = ben.ask("POST", "/v1/peers/dial", {"address": self.behind(relay, ada), "pings": 1})
        self.assertEqual(answer.status, 502, answer.body)
        self.assertIn("is not here", answer.json["error"]["message"])

    def test_circuits_are_more_than_a_peer_may_open_channels_of_all_else(self) -> None:
        relay = self.relay()
        ada, ben = self.peer("ada", relay), self.peer("ben", None)
        self.mesh.run(1)
        detours = ben.service._detours()
        assert detours is not None
        behind = MeshAddress.parse(self.behind(relay, ada))
        made: list[Any] = []
        for _ in range(MAX_CHANNELS_PER_PEER + 2):
            detours.through(behind).connect(Factory.forProtocol(Protocol)).addBoth(made.append)
        self.mesh.run(1)
        self.assertEqual([each for each in made if not isinstance(each, Protocol)], [])
        self.assertEqual(self.status(relay, "tunnels")["circuits"], len(made))
        # One connection of each of the two, and the one by which ada is told of them.
        labels = Counter(each["label"] for each in self.ok(relay, "GET", "/v1/peers/connections"))
        self.assertEqual((labels[CIRCUIT_LABEL], labels[CONTROL_LABEL]), (2 * len(made), 1))


class DirectTests(TunnelMesh):
    """What went through a relay goes directly, where that can be."""

    def gossips(self, node: MemoryNode, relay: bool) -> bool:
        links = [
            each
            for each in self.ok(node, "GET", "/v1/peers/connections")
            if each["label"] == "gossip"
        ]
        return {each["transport"] for each in links} == {"relay" if relay else "direct"}

    def test_a_link_through_a_relay_is_replaced_by_a_direct_one(self) -> None:
        relay = self.relay()
        ada, ben = self.peer("ada", relay, config=""), self.peer("ben", None, config="")
        self.mesh.run(1)
        self.ok(ben, "POST", "/v1/peers", {"address": self.behind(relay, ada)})
        self.mesh.run(0.3)
        self.assertTrue(self.gossips(ben, relay=True))
        self.mesh.run(5)
        self.assertTrue(self.gossips(ben, relay=False))
        self.assertEqual(self.status(ben, "tunnel")["direct_paths"], 1)
        self.mesh.run(5)
        self.assertEqual(self.status(relay, "tunnels")["circuits"], 0)
        (peer,) = self.ok(ben, "GET", "/v1/peers")
        self.assertEqual((peer["connected"], peer["failures"]), (True, 0))

    def test_the_one_who_hides_dials_where_the_other_can_be_dialled(self) -> None:
        relay = self.relay()
        ada, ben = self.peer("ada", relay), self.peer("ben", None, config="")
        self.mesh.run(1)
        self.ok(ben, "POST", "/v1/peers", {"address": self.behind(relay, ada)})
        self.mesh.run(10)
        (heard,) = self.ok(ada, "GET", "/v1/peers")
        self.assertEqual(
            (heard["address"], heard["source"], heard["connected"]), (ben.address, "tunnel", True)
        )
        self.assertIn("direct", heard["transports"])

    def test_two_who_hide_stay_with_the_relay(self) -> None:
        relay = self.relay()
        ada, ben = self.peer("ada", relay), self.peer("ben", None)
        self.mesh.run(1)
        self.ok(ben, "POST", "/v1/peers", {"address": self.behind(relay, ada)})
        self.mesh.run(30)
        self.assertTrue(self.gossips(ben, relay=True))
        self.assertEqual(self.status(ben, "tunnel")["direct_paths"], 0)

    def test_when_the_direct_path_ends_the_relay_is_there(self) -> None:
        relay = self.relay()
        ada, ben = self.peer("ada", relay, config=""), self.peer("ben", None)
        self.mesh.run(1)
        self.ok(ben, "POST", "/v1/peers", {"address": self.behind(relay, ada)})
        self.mesh.run(10)
        self.assertTrue(self.gossips(ben, relay=False))
        # The router lets nobody in any more.
        for port in ada.service._ports:
            port.stopListening()
        for wire in list(self.mesh.network.wires):
            wire.cut()
        self.mesh.run(90)
        self.assertTrue(self.gossips(ben, relay=True))


class SettingsTests(TunnelMesh):
    """What the operator of a relay says."""

    def test_limits_are_those_of_the_settings(self) -> None:
        relay = self.relay(more="[tunnels]\nstranger_circuits = 2\n")
        ada, ben = self.peer("ada", relay), self.peer("ben", None)
        self.mesh.run(1)
        detours: Any = ben.service._detours()
        behind = MeshAddress.parse(self.behind(relay, ada))
        made: list[Any] = []
        for _ in range(3):
            detours.through(behind).connect(Factory.forProtocol(Protocol)).addBoth(made.append)
            self.mesh.run(1)
        self.assertEqual([isinstance(each, Protocol) for each in made], [True, True, False])
        made[2].trap(RelayLimitReached)

    def test_whom_the_owner_names_has_what_members_have(self) -> None:
        relay = self.mesh.node("relay", program=MESH_RELAY)
        ada = self.mesh.node("ada", HIDDEN + f'[relays]\nblind = ["{relay.address}"]\n')
        relay._config = (
            'role = "blind"\n[tunnels]\nstranger_reservations = 1\nmembers = '
            f'["{ada.identity.public.text}"]\n'
        )
        relay.start()
        ada.start()
        ben = self.peer("ben", relay)
        cleo = self.peer("cleo", relay)
        self.mesh.run(2)
        reached = [self.status(each, "tunnel")["relays"][0] for each in (ada, ben, cleo)]
        self.assertEqual([each["reachable"] for each in reached], [True, True, False])
        self.assertIn("RELAY_LIMIT_REACHED", reached[2]["problem"])

    def test_one_that_is_no_id_is_named_when_it_starts(self) -> None:
        relay = self.mesh.node(
            "relay", 'role = "blind"\n[tunnels]\nmembers = ["ada"]\n', program=MESH_RELAY
        )
        self.assertIn("tunnels.members", str(self.assertRaises(ConfigError, relay.start)))

    def test_a_relay_asks_for_as_many_files_as_it_leads_peers(self) -> None:
        relay = self.mesh.node("relay", 'role = "blind"', program=MESH_RELAY)
        service = relay.make()
        asked: list[int] = []
        service._open_files = lambda wanted: asked.append(wanted) or wanted  # type: ignore[func-returns-value]
        service.privilegedStartService()
        (wanted,) = asked
        self.assertGreater(wanted, MEMBERS.reservations + 2 * MEMBERS.circuits)
        service.startService()
        self.mesh.run(1)


class LostRelayTests(TunnelMesh):
    """Relays that come and go."""

    def test_one_that_was_killed_leads_there_again_soon_after_it_is_back(self) -> None:
        relay = self.relay()
        ada, ben = self.peer("ada", relay), self.peer("ben", relay)
        self.mesh.run(1)
        self.ok(ben, "POST", "/v1/peers", {"address": self.behind(relay, ada)})
        self.mesh.run(5)
        relay.stop()
        self.mesh.run(20)
        (peer,) = self.ok(ben, "GET", "/v1/peers")
        self.assertFalse(peer["connected"])
        (shown,) = self.status(ada, "tunnel")["relays"]
        self.assertFalse(shown["reachable"])
        self.assertTrue(shown["problem"])
        relay.start()
        self.mesh.run(40)
        (peer,) = self.ok(ben, "GET", "/v1/peers")
        self.assertEqual((peer["connected"], peer["transports"]), (True, ["relay"]))

    def test_one_that_is_given_up_for_a_shorter_way_is_no_failure(self) -> None:
        ben, ada = self.peer("ben", None), self.peer("ada", None)
        relay = self.mesh.node("relay", 'role = "blind"', program=MESH_RELAY)
        detours: Any = ben.service._detours()
        failures: list[Any] = []
        behind = MeshAddress.parse(self.behind(relay, ada))
        connecting = detours.through(behind).connect(Factory.forProtocol(Protocol))
        connecting.addErrback(failures.append)
        connecting.cancel()
        self.mesh.run(1)
        self.assertEqual((len(failures), detours._failed), (1, 0))
        # Whoever has named it may have named somebody's else.
        self.assertTrue(detours.resting(behind))

    def test_a_search_that_breaks_is_in_the_log_and_stops_nobody(self) -> None:
        detours: Any = self.peer("ben", None).service._detours()
        for error, logged in (
            (RuntimeError("a bug"), 1),
            (NotReady("nobody"), 0),
            (CancelledError(), 0),
        ):
            self.patch(detours._finder, "find_peer", lambda _key, error=error: fail(error))
            address = MeshAddress("10.9.9.9", 7655, make_identity(repr(error)).public)
            self.assertEqual(self.successResultOf(detours.ways(address)), [])
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), logged)

    def test_a_relay_that_a_record_names_costs_one_dial_a_minute(self) -> None:
        ben = self.peer("ben", None)
        ada = self.peer("ada", None)
        # Where nobody is: who knows whom it would hit.
        relay = self.mesh.node("relay", 'role = "blind"', program=MESH_RELAY)
        behind = MeshAddress.parse(self.behind(relay, ada))
        detours: Any = ben.service._detours()
        done: list[Any] = []
        before = len(self.mesh.network.wires)
        for _ in range(5):
            detours.through(behind).connect(Factory.forProtocol(Protocol)).addBoth(done.append)
            self.mesh.run(1)
        self.assertEqual(len(self.mesh.network.wires), before)
        whys = [type(each.value).__name__ for each in done]
        self.assertEqual(whys, ["ConnectionRefusedError"] + 4 * ["PeerUnreachable"])
        self.mesh.run(60)
        detours.through(behind).connect(Factory.forProtocol(Protocol)).addBoth(done.append)
        self.mesh.run(1)
        self.assertEqual(type(done[-1].value).__name__, "ConnectionRefusedError")
