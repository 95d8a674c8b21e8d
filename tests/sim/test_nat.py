"""
Boxes between private addresses and the others let in what their kind lets in.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.clock import SimClock
from meshkit.sim.nat import KINDS, Nat
from meshkit.sim.network import NetHost, SimNetwork
from meshkit.sim.seeds import Seeds

from .test_network import Client, Recorder

INSIDE = ("192.168.0.5", 50_000)
BOB = ("10.2.0.1", 7655)
BOB_TOO = ("10.2.0.1", 1)
EVE = ("10.9.0.1", 7655)


class MappingTests(SynchronousTestCase):
    def make(self, kind: str = "port-restricted-cone", **options: Any) -> Nat:
        self.clock = SimClock()
        network = SimNetwork(self.clock, Seeds(1))
        return network.nat("box", kind=kind, **options)

    def test_whom_each_kind_lets_in(self) -> None:
        expected = {
            "full-cone": [True, True, True],
            "restricted-cone": [True, True, False],
            "port-restricted-cone": [True, False, False],
            "symmetric": [True, False, False],
        }
        self.assertEqual(sorted(expected), sorted(KINDS))
        for kind, let_in in expected.items():
            nat = self.make(kind)
            port = nat.outbound("TCP", INSIDE, BOB)
            found = [nat.inbound("TCP", port, remote) for remote in (BOB, BOB_TOO, EVE)]
            self.assertEqual(found, [INSIDE if each else None for each in let_in], kind)

    def test_only_a_symmetric_one_has_a_port_for_each_remote(self) -> None:
        for kind in KINDS:
            nat = self.make(kind)
            ports = [nat.outbound("TCP", INSIDE, remote) for remote in (BOB, EVE, BOB)]
            self.assertEqual(len(set(ports)), 2 if kind == "symmetric" else 1, kind)
            self.assertEqual(ports[0], ports[2])

    def test_two_inside_and_two_protocols_are_never_mixed_up(self) -> None:
        nat = self.make("full-cone")
        other = ("192.168.0.6", 50_000)
        port, another = nat.outbound("TCP", INSIDE, BOB), nat.outbound("TCP", other, BOB)
        self.assertNotEqual(port, another)
        self.assertEqual(nat.inbound("TCP", another, BOB), other)
        self.assertEqual(nat.inbound("UDP", port, BOB), None)

    def test_a_mapping_that_is_used_stays_and_one_that_is_not_goes(self) -> None:
        nat = self.make("full-cone", udp_expiry=100.0)
        port = nat.outbound("UDP", INSIDE, BOB)
        for _ in range(3):
            self.clock.advance(99)
            self.assertEqual(nat.inbound("UDP", port, BOB), INSIDE)
        self.clock.advance(99)
        self.assertEqual(nat.outbound("UDP", INSIDE, BOB), port)
        self.clock.advance(100)
        self.assertEqual(nat.inbound("UDP", port, BOB), None)
        self.assertNotEqual(nat.outbound("UDP", INSIDE, BOB), port)

    def test_ports_are_finite_and_used_again(self) -> None:
        nat = self.make("symmetric", udp_expiry=1.0)
        for number in range(65536 - 1024):
            nat.outbound("UDP", INSIDE, ("192.0.2.1", number))
        with self.assertRaises(OSError):
            nat.outbound("UDP", INSIDE, EVE)
        self.clock.advance(1)
        self.assertEqual(nat.outbound("UDP", INSIDE, EVE), 1024)

    def test_an_unknown_kind_is_an_error(self) -> None:
        with self.assertRaises(ValueError):
            self.make("donut")


class BoxTests(SynchronousTestCase):
    """C{ada} and C{amy} are behind one box, C{bob} is outside, C{cat} behind another."""

    def make(self, **options: Any) -> None:
        self.clock = SimClock()
        self.network = SimNetwork(self.clock, Seeds(1))
        self.home = self.network.nat("home", **options)
        self.ada = self.network.host("ada", behind=self.home)
        self.amy = self.network.host("amy", behind=self.home)
        self.bob = self.network.host("bob")
        self.office = self.network.nat("office", **options)
        self.cat = self.network.host("cat", behind=self.office)
        self.servers: dict[str, list[Recorder]] = {}
        for host in (self.ada, self.amy, self.bob, self.cat):
            self.listen(host, 7655)

    def listen(self, host: NetHost, port: int) -> None:
        servers = self.servers[host.name] = []

        def build(address: Any) -> Any:
            servers.append(Recorder(self.clock))
            return servers[-1]

        factory = Factory()
        factory.buildProtocol = build  # type: ignore[method-assign,assignment]
        host.listenTCP(port, factory)

    def dial(self, source: NetHost, address: str, port: int = 7655, **options: Any) -> Client:
        factory = Client(lambda: Recorder(self.clock))
        source.connectTCP(address, port, factory, **options)
        self.clock.advance(40)
        return factory

    def test_from_inside_others_are_reached_and_see_the_box(self) -> None:
        self.make()
        client = self.dial(self.ada, self.bob.address).protocols[0]
        (server,) = self.servers["bob"]
        self.assertEqual(server.raw.getPeer().host, self.home.box.address)
        self.assertEqual(client.raw.getHost().host, self.ada.address)
        client.raw.write(b"ask")
        server.raw.write(b"answer")
        self.clock.advance(1)
        self.assertEqual((bytes(server.received), bytes(client.received)), (b"ask", b"answer"))
        client.raw.loseConnection()
        self.clock.advance(1)
        self.assertEqual(server.why, ConnectionDone)

    def test_from_outside_nobody_behind_it_is_reached(self) -> None:
        for refuses, expected in ((False, ConnectTimeoutError), (True, ConnectionRefusedError)):
            self.make(refuses=refuses)
            tried = self.dial(self.bob, self.home.box.address)
            self.assertEqual(tried.events, ["started", expected])
            tried = self.dial(self.bob, self.ada.address)
            self.assertEqual(tried.events, ["started", ConnectTimeoutError])
            self.assertEqual(self.servers["ada"], [])

    def test_two_behind_one_box_reach_each_other(self) -> None:
        self.make()
        self.dial(self.ada, self.amy.address)
        (server,) = self.servers["amy"]
        self.assertEqual(server.raw.getPeer().host, self.ada.address)

    def test_a_full_cone_lets_in_to_a_port_that_was_once_used(self) -> None:
        self.make(kind="full-cone")
        self.dial(self.ada, self.bob.address, bindAddress=("", 7655))
        seen = self.servers["bob"][0].raw.getPeer()
        self.dial(self.cat, seen.host, seen.port)
        self.assertEqual(self.servers["ada"][0].raw.getPeer().host, self.office.box.address)

    def test_two_behind_boxes_meet_if_both_dial_unless_ports_cannot_be_foretold(self) -> None:
        for kind, meet in (("port-restricted-cone", 1), ("symmetric", 0)):
            self.make(kind=kind)
            # Somebody outside tells each how the other is seen.
            for host in (self.ada, self.cat):
                self.dial(host, self.bob.address, bindAddress=("", 7655))
            ada, cat = (server.raw.getPeer() for server in self.servers["bob"])
            for source, target in ((self.ada, cat), (self.cat, ada)):
                factory = Client(lambda: Recorder(self.clock))
                source.connectTCP(target.host, target.port, factory, bindAddress=("", 7655))
            self.clock.advance(40)
            self.assertEqual(len(self.servers["cat"]), meet, kind)

    def test_a_port_that_is_forgotten_costs_the_connection_when_it_is_next_used(self) -> None:
        self.make(tcp_expiry=100.0)
        client = self.dial(self.ada, self.bob.address).protocols[0]
        (server,) = self.servers["bob"]
        self.clock.advance(101)
        client.raw.write(b"where have I been?")
        self.clock.advance(1)
        # It seems to come from somebody whom bob does not know.
        self.assertEqual((client.why, server.received, server.lost), (ConnectionLost, b"", []))

    def test_from_outside_a_forgotten_port_is_silence(self) -> None:
        self.make(tcp_expiry=100.0)
        client = self.dial(self.ada, self.bob.address).protocols[0]
        (server,) = self.servers["bob"]
        self.clock.advance(101)
        server.raw.write(b"are you there?")
        self.clock.advance(900)
        self.assertEqual((client.received, server.lost), (b"", []))
        self.clock.advance(100)
        self.assertEqual((server.why, client.lost), (ConnectionLost, []))

    def test_what_crosses_keeps_the_port(self) -> None:
        self.make(tcp_expiry=100.0)
        client = self.dial(self.ada, self.bob.address).protocols[0]
        (server,) = self.servers["bob"]
        for _ in range(5):
            self.clock.advance(50)
            server.raw.write(b"x")
        self.clock.advance(90)
        client.raw.write(b"y")
        self.clock.advance(1)
        self.assertEqual((bytes(client.received), bytes(server.received)), (b"xxxxx", b"y"))

    def test_a_box_can_be_silent_or_started_anew(self) -> None:
        self.make()
        client = self.dial(self.ada, self.bob.address).protocols[0]
        (server,) = self.servers["bob"]
        self.network.silence("home")
        client.raw.write(b"x")
        self.clock.advance(10)
        self.assertEqual((server.received, client.lost), (b"", []))
        self.network.heal()
        self.clock.advance(20)
        self.assertEqual(bytes(server.received), b"x")
        self.network.crash("home")
        self.network.restart("home")
        client.raw.write(b"y")
        self.clock.advance(1)
        self.assertEqual((client.why, bytes(server.received)), (ConnectionLost, b"x"))

    def test_a_host_can_be_attached_behind_a_box_and_found_by_its_address(self) -> None:
        self.make()
        address = self.network.attach("dan", behind=self.office)
        self.assertEqual(self.network.hosts["dan"].behind, self.office)
        listening: Any = self.network.server_endpoint(1, address).listen(Factory())
        self.assertEqual(self.successResultOf(listening).getHost().host, address)
        with self.assertRaises(ValueError):
            self.network.host("eve", address, behind=self.office)
        self.network.host("eve", address, behind=self.home)
