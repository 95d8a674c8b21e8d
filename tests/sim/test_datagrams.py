"""
Datagrams on the simulated network arrive, or not, or twice, and in any order.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import CannotListenError, MessageLengthError
from twisted.internet.interfaces import IListeningPort, IReactorUDP, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.sim.clock import SimClock
from meshkit.sim.datagrams import BROADCAST, LARGEST
from meshkit.sim.network import SimNetwork
from meshkit.sim.seeds import Seeds

PORT = 7656


class Recorder(DatagramProtocol):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def startProtocol(self) -> None:
        self.events.append("start")

    def stopProtocol(self) -> None:
        self.events.append("stop")

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.events.append((datagram, addr))

    @property
    def numbers(self) -> list[int]:
        return [each[0][0] for each in self.events if isinstance(each, tuple)]


class DatagramTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.make(1)

    def make(self, seed: int) -> None:
        self.clock = SimClock()
        self.network = SimNetwork(self.clock, Seeds(seed), latency=0.05)
        self.ada = self.network.host("ada")
        self.bob = self.network.host("bob")
        self.one, self.other = Recorder(), Recorder()
        self.sender: Any = self.ada.listenUDP(PORT, self.one)
        self.receiver: Any = self.bob.listenUDP(PORT, self.other)

    def send(self, count: int) -> list[int]:
        for number in range(count):
            self.sender.write(bytes([number]), (self.bob.address, PORT))
            self.clock.advance(0.001)
        self.clock.advance(1)
        return self.other.numbers

    def test_it_provides_the_interfaces(self) -> None:
        verifyObject(IReactorUDP, self.ada)
        for interface in (IUDPTransport, IListeningPort):
            verifyObject(interface, self.sender)

    def test_one_arrives_after_the_latency_and_says_where_it_comes_from(self) -> None:
        self.sender.write(b"x", (self.bob.address, PORT))
        self.clock.advance(0.049)
        self.assertEqual(self.other.events, ["start"])
        self.clock.advance(0.001)
        self.assertEqual(self.other.events, ["start", (b"x", (self.ada.address, PORT))])

    def test_without_jitter_they_keep_their_order_and_with_it_they_do_not(self) -> None:
        self.assertEqual(self.send(50), list(range(50)))
        self.make(1)
        self.network.link("ada", "bob", jitter=0.02)
        found = self.send(50)
        self.assertNotEqual(found, list(range(50)))
        self.assertEqual(sorted(found), list(range(50)))

    def test_they_are_lost_and_come_twice(self) -> None:
        self.network.link("ada", "bob", loss=0.5)
        found = self.send(200)
        self.assertTrue(60 < len(found) < 140, len(found))
        self.make(1)
        self.network.link("ada", "bob", duplicates=0.5)
        found = self.send(200)
        self.assertEqual(sorted({*found}), list(range(200)))
        self.assertTrue(260 < len(found) < 340, len(found))

    def test_the_same_seed_loses_the_same(self) -> None:
        runs = []
        for seed in (1, 1, 2):
            self.make(seed)
            self.network.link("ada", "bob", loss=0.5, jitter=0.01, duplicates=0.1)
            runs.append(self.send(100))
        self.assertEqual(runs[0], runs[1])
        self.assertNotEqual(runs[0], runs[2])

    def test_partitions_and_crashes_swallow_them(self) -> None:
        self.network.partition([{"ada"}, {"bob"}])
        self.assertEqual(self.send(3), [])
        self.network.heal()
        self.network.crash("bob")
        self.assertEqual(self.send(3), [])
        self.network.restart("bob")
        self.assertEqual(self.send(3), [])
        self.assertEqual(self.other.events, ["start"])

    def test_one_that_is_too_large_is_an_error_and_what_is_not_read_is_cut_off(self) -> None:
        with self.assertRaises(MessageLengthError):
            self.sender.write(bytes(LARGEST + 1), (self.bob.address, PORT))
        self.sender.write(bytes(9_000), (self.bob.address, PORT))
        self.clock.advance(1)
        self.assertEqual(len(self.other.events[1][0]), 8192)

    def test_a_port_is_taken_once_and_free_when_it_stops(self) -> None:
        with self.assertRaises(CannotListenError):
            self.bob.listenUDP(PORT, Recorder(), interface=self.bob.address)
        self.successResultOf(self.receiver.stopListening())
        self.assertEqual(self.other.events, ["start", "stop"])
        again = Recorder()
        self.bob.listenUDP(PORT, again, interface=self.bob.address)
        self.send(1)
        self.assertEqual(again.numbers, [0])

    def test_a_connected_one_hears_only_its_peer(self) -> None:
        self.receiver.connect(self.ada.address, PORT)
        self.send(1)
        cat: Any = self.network.host("cat").listenUDP(0, Recorder())
        cat.write(b"\xff", (self.bob.address, PORT))
        self.clock.advance(1)
        self.assertEqual(self.other.numbers, [0])
        self.receiver.write(b"answer")
        self.clock.advance(1)
        self.assertEqual(self.one.events[1][0], b"answer")

    def test_a_protocol_that_raises_gets_the_next_one_all_the_same(self) -> None:
        failures = [ZeroDivisionError()]

        def received(datagram: bytes, addr: Any) -> None:
            if failures:
                raise failures.pop()
            self.other.events.append((datagram, addr))

        self.other.datagramReceived = received  # type: ignore[method-assign]
        self.assertEqual(self.send(2), [1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_box_lets_in_answers_only_and_for_a_time(self) -> None:
        box = self.network.nat("box")
        inside = Recorder()
        cat: Any = self.network.host("cat", behind=box).listenUDP(PORT, inside)
        cat.write(b"ask", (self.bob.address, PORT))
        self.clock.advance(1)
        seen = self.other.events[1][1]
        self.assertEqual(seen[0], box.box.address)
        self.receiver.write(b"answer", seen)
        self.sender.write(b"stranger", seen)
        self.clock.advance(121)
        self.receiver.write(b"late", seen)
        self.clock.advance(1)
        self.assertEqual(inside.events, ["start", (b"answer", (self.bob.address, PORT))])

    def test_a_broadcast_reaches_those_behind_the_same_box_if_it_is_allowed(self) -> None:
        box = self.network.nat("box")
        protocols = [Recorder() for _ in range(3)]
        ports: list[Any] = [
            self.network.host(f"h{number}", behind=box).listenUDP(PORT, protocol)
            for number, protocol in enumerate(protocols)
        ]
        with self.assertRaises(PermissionError):
            ports[0].write(b"hello", (BROADCAST, PORT))
        ports[0].setBroadcastAllowed(True)
        ports[0].write(b"hello", (BROADCAST, PORT))
        self.clock.advance(1)
        self.assertEqual([len(each.events) for each in protocols], [1, 2, 2])
        self.assertEqual(self.other.events, ["start"])
