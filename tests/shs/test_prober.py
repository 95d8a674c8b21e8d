"""Tests of L{meshkit.shs.prober}: asking over connections, and who is answered."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from meshkit.errors import HandshakeTimeout, KeyProbeFailed, KeyProbeRefused, PartConflict
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.shs.hellos import Capability
from meshkit.shs.listener import SecureListener
from meshkit.shs.probe import LABEL, PROBE, Question
from meshkit.shs.prober import admit_probes, is_near, probe_key
from meshkit.testing.transports import MemoryNetwork
from tests.shs.common import ALICE, BOB, ECHO, OneFactory, Recorder

KP = Capability.of(NetworkSecret(bytes(range(32))).key(), LABEL)
FAR = "203.0.113.9"


def v4(host: str) -> IPv4Address:
    return IPv4Address("TCP", host, 1)


def v6(host: str) -> IPv6Address:
    return IPv6Address("TCP", host, 1)


@implementer(IAddress)
class Circuit:
    """An address of something that is not a socket."""


class AudienceTests(SynchronousTestCase):
    """Who is near, and how often anybody is answered."""

    def test_near_is_loopback_private_and_link_local(self) -> None:
        for near in (
            v4("127.0.0.1"),
            v4("127.9.9.9"),
            v4("10.255.0.1"),
            v4("172.16.0.1"),
            v4("172.31.255.255"),
            v4("192.168.1.1"),
            v4("169.254.3.4"),
            v6("::1"),
            v6("fc00::1"),
            v6("fdff::1"),
            v6("fe80::1"),
            v6("fe80::1%eth0"),
            v6("::ffff:192.168.1.1"),
            UNIXAddress(b"/run/mesh"),
            UNIXAddress(None),
        ):
            self.assertTrue(is_near(near), near)

    def test_far_is_everything_else(self) -> None:
        for far in (
            v4("11.0.0.1"),
            v4("172.15.0.1"),
            v4("172.32.0.1"),
            v4("192.169.0.1"),
            v4("100.64.0.1"),  # shared by a provider's customers
            v4("192.0.2.1"),
            v4("0.0.0.0"),
            v6("2001:db8::1"),
            v6("fec0::1"),
            v6("::ffff:8.8.8.8"),
            v6("::"),
            Circuit(),
            None,
        ):
            self.assertFalse(is_near(far), far)

    def test_one_answer_a_second_to_an_origin(self) -> None:
        clock = Clock()
        admit = admit_probes(clock, "lan")
        admit(v4("10.0.0.1"))
        self.assertIn("10.0.0.1", str(self.assertRaises(KeyProbeRefused, admit, v4("10.0.0.1"))))
        admit(v4("10.0.0.2"))
        clock.advance(0.9)
        self.assertRaises(KeyProbeRefused, admit, v4("10.0.0.1"))
        clock.advance(0.1)
        admit(v4("10.0.0.1"))

    def test_a_block_of_64_bits_is_one_origin(self) -> None:
        admit = admit_probes(Clock(), "lan")
        admit(v6("fd00::1"))
        self.assertRaises(KeyProbeRefused, admit, v6("fd00::ffff:1"))
        admit(v6("fd00:0:0:1::1"))

    def test_twenty_answers_a_second_in_all(self) -> None:
        clock = Clock()
        admit = admit_probes(clock, "always")
        for number in range(20):
            admit(v4(f"198.51.100.{number}"))
        self.assertRaises(KeyProbeRefused, admit, v4("198.51.100.20"))
        clock.advance(0.05)
        admit(v4("198.51.100.21"))
        self.assertRaises(KeyProbeRefused, admit, v4("198.51.100.22"))

    def test_who_floods_takes_nothing_from_others(self) -> None:
        admit = admit_probes(Clock(), "lan")
        admit(v4("10.0.0.1"))
        for _ in range(100):
            self.assertRaises(KeyProbeRefused, admit, v4("10.0.0.1"))
            self.assertRaises(KeyProbeRefused, admit, v4(FAR))
        for number in range(2, 21):
            admit(v4(f"10.0.0.{number}"))

    def test_lan_always_never(self) -> None:
        admit_probes(Clock(), "always")(v4(FAR))
        message = str(self.assertRaises(KeyProbeRefused, admit_probes(Clock(), "lan"), v4(FAR)))
        self.assertIn("key_probe = lan", message)
        self.assertRaises(KeyProbeRefused, admit_probes(Clock(), "never"), v4("127.0.0.1"))


class ProbeTests(SynchronousTestCase):
    """Question and answer through a listener."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.listener = SecureListener(self.clock, BOB, Random(1))
        self.listener.register(ECHO, OneFactory(Recorder))
        self.listener.register_answer(KP, PROBE, admit_probes(self.clock, "lan"))
        self.port = self.successResultOf(
            self.network.server_endpoint(7655, "10.0.0.1").listen(self.listener)
        )

    def tearDown(self) -> None:
        self.port.stopListening()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((self.listener.unauthenticated, self.listener.channels), (0, ()))

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.pump([seconds] + [0.0] * 20)

    def ask(self, source: str = "10.0.0.2", **options: Any) -> Deferred[PublicKey]:
        settings: dict[str, Any] = {"capability": KP, "own": ALICE.public, "rng": Random(5)}
        endpoint = self.network.client_endpoint(
            options.pop("port", 7655), "10.0.0.1", source=source
        )
        return probe_key(self.clock, endpoint, **{**settings, **options})

    def test_the_key_is_told_and_the_connection_ends(self) -> None:
        asking = self.ask()
        self.turn()
        self.assertEqual(self.successResultOf(asking), BOB.public)
        self.assertEqual(self.listener.refusals, {})

    def test_byte_by_byte(self) -> None:
        self.network.chunk = lambda waiting: 1
        asking = self.ask()
        self.clock.pump([0.0] * 200)
        self.assertEqual(self.successResultOf(asking), BOB.public)

    def test_far_away_it_is_refused_without_a_byte(self) -> None:
        asking = self.ask(FAR)
        self.turn()
        message = str(self.failureResultOf(asking, KeyProbeFailed).value)
        self.assertIn("key_probe", message)
        self.assertEqual(self.listener.refusals, {"KEY_PROBE_REFUSED": 1})
        self.assertEqual([wire.second.sent for wire in self.network.wires], [0])

    def test_another_network_is_refused_without_a_byte(self) -> None:
        other = Capability.of(NetworkSecret(bytes(32)).key(), LABEL)
        asking = self.ask(capability=other)
        self.turn()
        self.failureResultOf(asking, KeyProbeFailed)
        self.assertEqual(self.listener.refusals, {"NETWORK_KEY_REFUSED": 1})
        self.assertEqual([wire.second.sent for wire in self.network.wires], [0])

    def test_the_same_question_again_is_refused(self) -> None:
        """The memory of hellos is one for all suites."""
        for expected in ({}, {"HELLO_REPLAYED": 1}):
            asking = self.ask()  # the same rng, hence the same question
            self.turn(2.0)
            self.assertEqual(self.listener.refusals, expected)
            if expected:
                self.failureResultOf(asking, KeyProbeFailed)
            else:
                self.successResultOf(asking)

    def test_a_flood_is_refused(self) -> None:
        asked = [self.ask(rng=Random(n)) for n in range(5)]
        self.turn()
        self.successResultOf(asked[0])
        for each in asked[1:]:
            self.failureResultOf(each, KeyProbeFailed)
        self.assertEqual(self.listener.refusals, {"KEY_PROBE_REFUSED": 4})

    def test_nobody_listens(self) -> None:
        asking = self.ask(port=7)
        self.turn()
        self.failureResultOf(asking, ConnectionRefusedError)

    def silent(self) -> Deferred[PublicKey]:
        factory = Factory.forProtocol(Protocol)
        self.network.server_endpoint(9, "10.0.0.1").listen(factory)
        return self.ask(port=9)

    def test_who_says_nothing_is_given_up(self) -> None:
        asking = self.silent()
        self.turn()
        self.turn(9.9)
        self.assertNoResult(asking)
        self.turn(0.2)
        self.failureResultOf(asking, HandshakeTimeout)
        self.turn()
        self.assertTrue(all(wire.first.lost for wire in self.network.wires))

    def test_cancelled_at_each_step(self) -> None:
        asking = self.ask()
        asking.cancel()  # before the connection is up
        self.failureResultOf(asking, ConnectingCancelledError)
        self.turn()
        asking = self.silent()
        self.turn()
        asking.cancel()  # while it waits for the answer
        self.failureResultOf(asking, ConnectingCancelledError)
        self.turn()
        self.assertTrue(all(wire.first.lost for wire in self.network.wires))

    def test_garbage_is_refused(self) -> None:
        class Babbler(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(bytes(500))

        self.network.server_endpoint(9, "10.0.0.1").listen(Factory.forProtocol(Babbler))
        asking = self.ask(port=9)
        self.turn()
        self.failureResultOf(asking, KeyProbeFailed)
        self.turn()

    def test_what_follows_a_question_is_ignored(self) -> None:
        class Pushy(Recorder):
            def connectionMade(self) -> None:
                asked = Question(KP, ALICE.public, b"s" * 32).start()
                self.transport.write(asked + b"x" * 1000)

        pushy = Pushy()
        self.network.client_endpoint(7655, "10.0.0.1", source="10.0.0.7").connect(OneFactory(pushy))
        self.turn()
        self.assertEqual(len(pushy.received), 80)
        self.assertIsNotNone(pushy.reason)
        self.assertEqual(self.listener.refusals, {})

    def test_a_transport_that_goes_on_delivering_is_not_answered_twice(self) -> None:
        channel = self.listener.buildProtocol(v4("10.0.0.7"))
        transport = StringTransport(peerAddress=v4("10.0.0.7"))
        channel.makeConnection(transport)
        channel.dataReceived(Question(KP, ALICE.public, b"s" * 32).start())
        self.clock.advance(0)
        self.assertTrue(transport.disconnecting)
        channel.dataReceived(b"more")
        self.clock.advance(0)
        self.assertEqual(len(transport.value()), 80)
        channel.connectionLost(Failure(ConnectionDone()))

    def test_who_does_not_take_the_answer_is_cut_off(self) -> None:
        class Stuck(Recorder):
            def connectionMade(self) -> None:
                self.transport.pauseProducing()
                self.transport.write(Question(KP, ALICE.public, b"s" * 32).start())

        self.network.client_endpoint(7655, "10.0.0.1", source="10.0.0.7").connect(
            OneFactory(Stuck())
        )
        self.turn()
        self.turn(10.0)
        self.assertEqual(self.listener.unauthenticated, 0)
        self.assertEqual(self.listener.refusals, {})

    def test_it_can_be_offered_no_longer(self) -> None:
        self.assertRaises(PartConflict, self.listener.register_answer, KP, PROBE)
        self.listener.unregister(KP)
        asking = self.ask()
        self.turn()
        self.failureResultOf(asking, KeyProbeFailed)
        self.listener.register_answer(KP, PROBE)  # without asking anybody
        asking = self.ask(FAR, rng=Random(7))
        self.turn()
        self.assertEqual(self.successResultOf(asking), BOB.public)
