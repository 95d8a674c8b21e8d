"""Tests of L{meshkit.discovery.lan}: hosts on local networks in memory, and real sockets."""

from __future__ import annotations

from ipaddress import IPv4Interface
from random import Random
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase

from meshkit.discovery.beacon import BEACON_BYTES, LABEL, Beacon, Hearing, seal
from meshkit.discovery.lan import ANSWER_EVERY, BROADCAST, GROUP, PORT, LocalNetwork, Settings
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.network import NetworkSecret
from meshkit.testing.identities import make_identity
from tests.discovery.wires import Host, Wire
from tests.ports import free_ports

K = NetworkSecret(bytes(range(32))).key().beacon(LABEL)
OTHER = NetworkSecret(bytes(range(1, 33))).key().beacon(LABEL)
UNIX = 1_800_000_000


class Node:
    def __init__(self, name: str, host: Host, key: bytes = K, **settings: Any) -> None:
        self.key = make_identity(name).public
        self.host = host
        self.changes = 0
        self.port: int | None = 7655
        self.interfaces = list(host.addresses)
        self.lan = LocalNetwork(
            host,
            Random(f"{name} at {host.addresses}"),
            lambda: int((UNIX + host.seconds()) * 10**9),
            key,
            self.key,
            listening=lambda: self.port,
            changed=self.changed,
            networks=lambda: [IPv4Interface(f"{each}/24") for each in self.host.addresses],
            interfaces=lambda: self.interfaces,
            settings=Settings(**settings),
        )

    def changed(self) -> None:
        self.changes += 1

    def at(self, host: str) -> MeshAddress:
        assert self.port is not None
        return MeshAddress(host, self.port, self.key)


class MemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wire = Wire()
        self.one = Host(self.wire, "192.0.2.1")
        self.two = Host(self.wire, "192.0.2.2")

    def node(self, name: str, host: Host, key: bytes = K, **settings: Any) -> Node:
        node = Node(name, host, key, **settings)
        node.lan.start()
        self.addCleanup(node.lan.stop)
        return node

    def advance(self, seconds: int) -> None:
        self.wire.clock.pump([1] * seconds)

    def test_two_nodes_find_each_other_at_once(self) -> None:
        """The first has called out before the second listens, and need not be waited for."""
        alice = self.node("alice", self.one)
        self.advance(10)
        bob = self.node("bob", self.two)
        self.assertEqual(alice.lan.addresses(), [bob.at("192.0.2.2")])
        self.assertEqual(bob.lan.addresses(), [])
        self.advance(1)
        self.assertEqual(bob.lan.addresses(), [alice.at("192.0.2.1")])
        self.assertEqual((alice.changes, bob.changes), (1, 1))

    def test_each_calls_out_every_interval(self) -> None:
        self.node("alice", self.one)
        self.advance(300)
        moments = sorted({at for at, *_ in self.one.sent})
        self.assertTrue(9 <= len(moments) <= 12, moments)
        for before, after in zip(moments, moments[1:], strict=False):
            self.assertTrue(26 <= after - before <= 34, moments)
        self.assertEqual({len(each[-1]) for each in self.one.sent}, {BEACON_BYTES})
        # One to listen and one to call out.
        self.assertEqual(len(self.one.sockets), 2)
        self.assertEqual({each[2] for each in self.one.sent}, {(GROUP, PORT), (BROADCAST, PORT)})

    def test_who_falls_silent_is_forgotten(self) -> None:
        alice = self.node("alice", self.one)
        bob = self.node("bob", self.two)
        self.advance(300)
        self.assertEqual(alice.lan.addresses(), [bob.at("192.0.2.2")])
        changes = alice.changes
        bob.lan.stop()
        self.advance(56)
        self.assertEqual(len(alice.lan.addresses()), 1)
        self.advance(35)
        self.assertEqual((alice.lan.addresses(), alice.changes), ([], changes + 1))

    def test_networks_on_one_wire_do_not_notice_each_other(self) -> None:
        alice = self.node("alice", self.one)
        self.node("bob", self.two, OTHER)
        self.advance(100)
        self.assertEqual((alice.lan.addresses(), alice.changes), ([], 0))
        self.assertGreater(alice.lan.heard()["foreign"], 2)

    def test_other_local_networks_are_not_reached(self) -> None:
        alice = self.node("alice", self.one)
        self.node("bob", Host(self.wire, "198.51.100.2"))
        self.advance(100)
        self.assertEqual(alice.lan.addresses(), [])

    def test_a_datagram_from_elsewhere_is_not_heard(self) -> None:
        """Anybody may send one to the port, and a member can have it say what it likes."""
        alice = self.node("alice", self.one)
        bob = make_identity("bob").public
        hosts = ("198.51.100.2", "8.8.8.8", "127.0.0.1", "10.0.0.1", "192.0.2.2")
        for n, host in enumerate(hosts):
            datagram = seal(K, Beacon(bob, 7655, UNIX, bytes(16)), bytes([n]) * 24)
            for socket in list(self.one.sockets):
                if socket.port == PORT:
                    socket.protocol.datagramReceived(datagram, (host, 40_000))
        self.assertEqual(alice.lan.addresses(), [MeshAddress("192.0.2.2", 7655, bob)])
        self.assertEqual(alice.lan.heard()["elsewhere"], 4)

    def test_where_the_networks_are_not_known_nobody_public_is_heard(self) -> None:
        alice = self.node("alice", self.one)
        self.patch(alice.lan, "_find_networks", lambda: None)
        self.advance(40)
        bob = make_identity("bob").public
        for n, host in enumerate(("8.8.8.8", "127.0.0.1", "10.0.0.1", "169.254.1.1")):
            datagram = seal(K, Beacon(bob, 7655, UNIX + 40, bytes(16)), bytes([n]) * 24)
            alice.lan.received(datagram, host)
        self.assertEqual([each.host for each in alice.lan.addresses()], ["10.0.0.1", "169.254.1.1"])

    def test_a_host_in_two_networks_is_heard_in_both(self) -> None:
        alice = self.node("alice", self.one)
        bob = self.node("bob", Host(self.wire, "198.51.100.2"))
        both = self.node("both", Host(self.wire, "192.0.2.9", "198.51.100.9"))
        self.advance(7)
        self.assertEqual(alice.lan.addresses(), [both.at("192.0.2.9")])
        self.assertEqual(bob.lan.addresses(), [both.at("198.51.100.9")])
        self.assertEqual(
            both.lan.addresses(), sorted([alice.at("192.0.2.1"), bob.at("198.51.100.2")])
        )

    def test_nodes_of_one_host_find_each_other(self) -> None:
        names = [f"node {n}" for n in range(6)]
        nodes = [self.node(name, self.one) for name in names]
        self.advance(100)
        for node in nodes:
            self.assertEqual(len(node.lan.addresses()), 5)

    def test_multicast_or_broadcast_is_enough(self) -> None:
        for broken in (GROUP, BROADCAST):
            self.one.unreachable = {broken}
            alice, bob = self.node("alice", self.one), self.node("bob", self.two)
            self.advance(7)
            self.assertEqual(bob.lan.addresses(), [alice.at("192.0.2.1")])
            self.assertEqual(alice.lan.faults(), {})
            alice.lan.stop()
            bob.lan.stop()

    def test_an_interface_without_multicast_is_used_all_the_same(self) -> None:
        self.one.without_multicast = True
        alice, bob = self.node("alice", self.one), self.node("bob", self.two)
        self.advance(7)
        self.assertEqual(alice.lan.addresses(), [bob.at("192.0.2.2")])
        self.assertEqual(bob.lan.addresses(), [alice.at("192.0.2.1")])

    def test_where_nobody_hears_us_is_shown_until_it_works(self) -> None:
        self.one.unreachable = {GROUP, BROADCAST}
        alice, bob = self.node("alice", self.one), self.node("bob", self.two)
        self.assertIn("unreachable", alice.lan.faults()["192.0.2.1"])
        self.one.unreachable = set()
        self.advance(35)
        self.assertEqual(alice.lan.faults(), {})
        self.assertEqual(bob.lan.addresses(), [alice.at("192.0.2.1")])

    def test_interfaces_come_and_go(self) -> None:
        alice, bob = self.node("alice", self.one), self.node("bob", self.two)
        self.advance(7)
        alice.interfaces = ["192.0.2.77"]
        self.advance(35)
        self.assertIn("192.0.2.77", alice.lan.faults())
        self.one.addresses = ["192.0.2.77"]
        self.advance(35)
        self.assertEqual(alice.lan.faults(), {})
        self.assertIn(alice.at("192.0.2.77"), bob.lan.addresses())
        # One to listen and one to call out.
        self.assertEqual([each.interface for each in self.one.sockets], ["", "192.0.2.77"])

    def test_a_node_that_listens_nowhere_only_hears(self) -> None:
        alice, bob = self.node("alice", self.one), Node("bob", self.two)
        bob.port = None
        bob.lan.start()
        self.addCleanup(bob.lan.stop)
        self.advance(35)
        self.assertEqual(alice.lan.addresses(), [])
        self.assertEqual(self.two.sent, [])
        self.assertEqual(bob.lan.addresses(), [alice.at("192.0.2.1")])

    def test_our_own_beacons_are_not_opened(self) -> None:
        alice = self.node("alice", self.one)
        self.advance(100)
        heard = alice.lan.heard()
        self.assertGreater(heard.pop("repeated"), 4)
        self.assertEqual(set(heard.values()), {0})
        self.assertEqual(heard.keys(), {each.value for each in Hearing} - {"repeated"})

    def test_newcomers_cannot_have_us_call_out_without_end(self) -> None:
        alice = self.node("alice", self.one)
        for n in range(40):
            node = self.node(f"node {n}", Host(self.wire, f"192.0.2.{10 + n}"))
            self.advance(1)
            node.lan.stop()
        self.assertEqual(len(alice.lan.addresses()), 40)
        moments = sorted({at for at, *_ in self.one.sent})
        self.assertLessEqual(len(moments), 40 / ANSWER_EVERY + 3)

    def test_a_clock_that_is_set_back_delays_no_answer(self) -> None:
        self.wire.clock.advance(10_000)
        alice = self.node("alice", self.one)
        self.wire.clock.rightNow = 0.0
        self.wire.clock.advance(0)
        bob = Node("bob", self.two)
        bob.lan.start()
        self.addCleanup(bob.lan.stop)
        self.advance(int(ANSWER_EVERY) + 1)
        self.assertEqual(bob.lan.addresses(), [alice.at("192.0.2.1")])

    def test_another_node_with_our_identity_is_told_once(self) -> None:
        events: list[Any] = []
        self.patch(LocalNetwork, "_log", Logger(observer=events.append))
        alice = self.node("alice", self.one)
        self.advance(1)
        self.node("alice", self.two)
        self.advance(100)
        self.assertGreater(alice.lan.heard()["twin"], 1)
        self.assertEqual(alice.lan.addresses(), [])
        # Each of the two tells it.
        self.assertEqual([each["host"] for each in events], ["192.0.2.2", "192.0.2.1"])

    def test_nothing_is_left_when_it_is_stopped(self) -> None:
        alice = self.node("alice", self.one)
        self.node("bob", self.two).lan.stop()
        self.successResultOf(alice.lan.stop())
        self.assertEqual((self.one.sockets, self.wire.clock.getDelayedCalls()), ([], []))
        alice.lan.received(b"late", "192.0.2.1")
        self.successResultOf(alice.lan.stop())


class LoopbackTests(TestCase):
    def test_two_nodes_on_one_real_host(self) -> None:
        """Real sockets at the loopback interface, where several share one UDP port."""
        found: Deferred[None] = Deferred()
        nodes: list[LocalNetwork] = []
        (port,) = free_ports(1)

        def changed() -> None:
            if not found.called and all(len(each.addresses()) == 1 for each in nodes):
                found.callback(None)

        for name in ("alice", "bob"):
            lan = LocalNetwork(
                real_reactor,
                Random(name),
                lambda: UNIX * 10**9,
                K,
                make_identity(name).public,
                listening=lambda: 7655,
                changed=changed,
                networks=lambda: [IPv4Interface("127.0.0.1/8")],
                interfaces=lambda: ["127.0.0.1"],
                settings=Settings(port=port, interval=0.2),
            )
            lan.start()
            self.addCleanup(lan.stop)
            nodes.append(lan)
        found.addTimeout(5, real_reactor)  # type: ignore[arg-type]

        def check(_: None) -> None:
            self.assertEqual(
                [each.addresses()[0].text for each in nodes],
                [
                    MeshAddress("127.0.0.1", 7655, make_identity(name).public).text
                    for name in ("bob", "alice")
                ],
            )
            self.assertEqual([each.faults() for each in nodes], [{}, {}])

        return found.addCallback(check)  # type: ignore[return-value]
