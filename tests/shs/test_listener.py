"""
The listener: many protocols on one port, permission, limits, stopping.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import (
    MeshkitError,
    NetworkKeyRefused,
    PartConflict,
    PeerKeyRefused,
)
from meshkit.identity.keys import Identity, PublicKey
from meshkit.shs.channel import (
    AUTHORIZE_TIMEOUT,
    CLOSE_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    SecureChannel,
)
from meshkit.shs.endpoints import wrap_client
from meshkit.shs.hellos import Capability
from meshkit.shs.listener import (
    CLOSE_ALL_TIMEOUT,
    LOGGED_REFUSALS,
    MAX_UNAUTHENTICATED,
    MAX_UNAUTHENTICATED_LOCAL,
    MAX_UNAUTHENTICATED_PER_ORIGIN,
    SecureListener,
)
from meshkit.testing.transports import MemoryNetwork, MemoryWire
from tests.shs.common import (
    ALICE,
    BOB,
    CAROL,
    CHAT,
    ECHO,
    HalfRecorder,
    OneFactory,
    PushProducer,
    Recorder,
    new_client,
)

PORT = 7655


class ListenerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork()
        self.refused: list[tuple[Any, MeshkitError]] = []
        self.listener = SecureListener(
            self.clock,
            BOB,
            Random(1),
            on_refusal=lambda address, error: self.refused.append((address, error)),
        )
        self.port = self.successResultOf(self.network.server_endpoint(PORT).listen(self.listener))
        self.rng = Random(2)

    def pump(self) -> None:
        self.network.pump()
        while any(c.getTime() <= self.clock.seconds() for c in self.clock.getDelayedCalls()):
            self.clock.advance(0)
            self.network.pump()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pump()

    def dial(
        self,
        capability: Capability = ECHO,
        identity: Identity = ALICE,
        client: Any = Recorder,
        source: str = "127.0.0.1",
    ) -> Deferred[Any]:
        endpoint = wrap_client(
            self.clock,
            self.network.client_endpoint(PORT, source=source),
            identity=identity,
            capability=capability,
            peer=BOB.public,
            rng=self.rng,
        )
        d = endpoint.connect(OneFactory(client))
        self.pump()
        return d

    def knock(self, source: str = "127.0.0.1") -> MemoryWire:
        """Connect and say nothing."""
        self.network.client_endpoint(PORT, source=source).connect(OneFactory(Recorder))
        self.network.pump()
        return self.network.wires[-1]


class ChoosingTests(ListenerTestCase):
    def test_the_hello_chooses_the_factory(self) -> None:
        echo, chat = OneFactory(Recorder), OneFactory(Recorder)
        self.listener.register(ECHO, echo)
        self.listener.register(CHAT, chat)
        client = self.successResultOf(self.dial(CHAT))
        self.assertEqual((len(echo.addresses), len(chat.addresses)), (0, 1))
        self.assertEqual(chat.addresses[0].key, ALICE.public)
        self.assertEqual(client.transport.getHost().label, "chat")
        (channel,) = self.listener.channels
        self.assertEqual(channel.getHost().label, "chat")
        self.assertEqual(self.listener.unauthenticated, 0)

    def test_a_hello_that_nothing_explains_is_refused_and_counted(self) -> None:
        self.listener.register(CHAT, OneFactory(Recorder))
        self.failureResultOf(self.dial(ECHO)).trap(NetworkKeyRefused)
        self.assertEqual(self.listener.refusals, {"NETWORK_KEY_REFUSED": 1})
        ((address, error),) = self.refused
        self.assertEqual(address, self.network.wires[0].first.getHost())
        self.assertIsInstance(error, NetworkKeyRefused)
        self.assertEqual(self.listener.unauthenticated, 0)

    def test_a_listener_that_offers_nothing_refuses_everybody(self) -> None:
        self.failureResultOf(self.dial(ECHO)).trap(NetworkKeyRefused)

    def test_registering_while_it_runs(self) -> None:
        self.failureResultOf(self.dial(ECHO)).trap(NetworkKeyRefused)
        factory = OneFactory(Recorder)
        self.listener.register(ECHO, factory)
        self.assertEqual(factory.running, 1)
        self.successResultOf(self.dial(ECHO))

    def test_unregistering_while_it_runs(self) -> None:
        echo, chat = OneFactory(Recorder), OneFactory(Recorder)
        self.listener.register(ECHO, echo)
        self.listener.register(CHAT, chat)
        before = self.successResultOf(self.dial(ECHO))
        self.listener.unregister(ECHO)
        self.assertEqual((echo.running, chat.running), (0, 1))
        self.failureResultOf(self.dial(ECHO)).trap(NetworkKeyRefused)
        self.successResultOf(self.dial(CHAT))
        # What is open belongs to the factory and stays.
        before.transport.write(b"still here")
        self.pump()
        self.assertEqual(before.events, ["made"])
        self.assertEqual(len(self.listener.channels), 2)

    def test_unregistering_between_hello_and_proof_refuses(self) -> None:
        asked: list[Any] = []
        factory = OneFactory(Recorder)
        self.listener.register(ECHO, factory, lambda *a: asked.append(a) or True)
        wire = self.knock()
        client = new_client()
        wire.first.write(client.start())
        self.pump()
        self.listener.unregister(ECHO)
        received = wire.first.protocol.received
        wire.first.write(client.receive(bytes(received)).send)
        self.pump()
        self.assertEqual((asked, factory.addresses), ([], []))
        self.assertEqual(self.listener.refusals, {"PEER_NOT_ALLOWED": 1})

    def test_unregistering_while_a_decision_is_open_declines(self) -> None:
        verdict: Deferred[bool] = Deferred()
        factory = OneFactory(Recorder)
        self.listener.register(ECHO, factory, lambda peer, label: verdict)
        d = self.dial()
        self.assertNoResult(d)
        self.listener.unregister(ECHO)
        verdict.callback(True)
        self.pump()
        self.assertEqual(factory.addresses, [])
        self.assertEqual(self.listener.refusals, {"PROTOCOL_REFUSED": 1})
        self.assertEqual(self.listener.channels, ())

    def test_a_label_is_registered_once(self) -> None:
        self.listener.register(ECHO, OneFactory(Recorder))
        with self.assertRaises(PartConflict):
            self.listener.register(Capability("echo", 1, b"x" * 32), OneFactory(Recorder))
        with self.assertRaises(LookupError):
            self.listener.unregister(CHAT)

    def test_factories_are_started_and_stopped_with_the_port(self) -> None:
        listener = SecureListener(self.clock, BOB, Random(1))
        factory = OneFactory(Recorder)
        listener.register(ECHO, factory)
        self.assertEqual(factory.running, 0)
        port = self.successResultOf(self.network.server_endpoint(1).listen(listener))
        self.assertEqual(factory.running, 1)
        self.successResultOf(port.stopListening())
        self.assertEqual(factory.running, 0)

    def test_it_is_a_factory(self) -> None:
        verifyObject(IProtocolFactory, self.listener)

    def test_a_recorded_hello_is_refused_and_answered_with_nothing(self) -> None:
        self.listener.register(ECHO, OneFactory(Recorder))
        hello = new_client().start()
        first, second = self.knock(), self.knock()
        first.first.write(hello)
        self.pump()
        self.assertEqual(first.second.sent, 64)
        second.first.write(hello)
        self.pump()
        self.assertEqual(second.second.sent, 0)
        self.assertEqual(self.listener.refusals, {"HELLO_REPLAYED": 1})
        # The first handshake goes on.
        self.assertEqual(self.listener.unauthenticated, 1)

    def test_a_recording_is_forgotten_after_ten_minutes(self) -> None:
        self.listener.register(ECHO, OneFactory(Recorder))
        hello = new_client().start()
        self.knock().first.write(hello)
        self.pump()
        self.advance(601)
        late = self.knock()
        late.first.write(hello)
        self.pump()
        self.assertEqual(late.second.sent, 64)

    def test_strangers_hellos_are_not_remembered(self) -> None:
        for _ in range(3):
            self.knock().first.write(new_client().start())
        self.pump()
        self.assertEqual(self.listener.refusals, {"NETWORK_KEY_REFUSED": 3})


class AuthorizingTests(ListenerTestCase):
    def offer(self, authorize: Any) -> OneFactory:
        factory = OneFactory(Recorder)
        self.listener.register(ECHO, factory, authorize)
        return factory

    def test_it_is_asked_with_the_peers_key_and_the_label(self) -> None:
        asked: list[tuple[PublicKey, str]] = []

        def authorize(peer: PublicKey, label: str) -> bool:
            asked.append((peer, label))
            return True

        self.offer(authorize)
        self.successResultOf(self.dial(identity=CAROL))
        self.assertEqual(asked, [(CAROL.public, "echo")])

    def test_it_is_asked_before_the_server_proves_itself(self) -> None:
        sent: list[int] = []
        self.offer(lambda *_: sent.append(self.network.wires[-1].second.sent) or True)
        self.successResultOf(self.dial())
        self.assertEqual(sent, [64])

    def test_a_no_is_silent_and_counted(self) -> None:
        factory = self.offer(lambda peer, label: peer != CAROL.public)
        self.successResultOf(self.dial(identity=ALICE))
        self.failureResultOf(self.dial(identity=CAROL)).trap(PeerKeyRefused)
        self.assertEqual(self.network.wires[-1].second.sent, 64)
        self.assertEqual(self.listener.refusals, {"PEER_NOT_ALLOWED": 1})
        self.assertEqual(len(factory.addresses), 1)

    def test_each_part_decides_for_itself(self) -> None:
        self.offer(lambda *_: False)
        self.listener.register(CHAT, OneFactory(Recorder))
        self.failureResultOf(self.dial(ECHO)).trap(PeerKeyRefused)
        self.successResultOf(self.dial(CHAT))

    def test_a_slow_yes(self) -> None:
        verdict: Deferred[bool] = Deferred()
        self.offer(lambda *_: verdict)
        d = self.dial()
        self.advance(AUTHORIZE_TIMEOUT - 0.1)
        self.assertNoResult(d)
        verdict.callback(True)
        self.pump()
        self.successResultOf(d)

    def test_too_slow_is_a_no(self) -> None:
        self.offer(lambda *_: Deferred())
        d = self.dial()
        self.advance(AUTHORIZE_TIMEOUT)
        self.failureResultOf(d).trap(PeerKeyRefused)
        self.assertEqual(self.listener.refusals, {"PEER_NOT_ALLOWED": 1})

    def test_a_failure_is_a_no_and_is_logged(self) -> None:
        self.offer(lambda *_: fail(ZeroDivisionError("a bug")))
        self.failureResultOf(self.dial()).trap(PeerKeyRefused)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_coroutine_is_awaited(self) -> None:
        async def authorize(peer: PublicKey, label: str) -> bool:
            return True

        self.offer(authorize)
        self.successResultOf(self.dial())

    def test_a_factory_that_raises_is_logged_and_harms_nobody_else(self) -> None:
        self.listener.register(ECHO, OneFactory(ZeroDivisionError("a bug")))
        self.listener.register(CHAT, OneFactory(Recorder))
        client = self.successResultOf(self.dial(ECHO))
        self.assertEqual(client.events, ["made", ("lost", ConnectionDone)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.listener.refusals, {})
        self.successResultOf(self.dial(CHAT))


class LimitTests(ListenerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.listener.register(ECHO, OneFactory(Recorder))

    def fill(self, sources: list[str]) -> None:
        for source in sources:
            self.knock(source)

    def test_one_address_has_16_and_a_random_one_makes_room(self) -> None:
        self.assertEqual(MAX_UNAUTHENTICATED_PER_ORIGIN, 16)
        self.fill(["192.0.2.1"] * 16)
        self.assertEqual(self.listener.unauthenticated, 16)
        self.assertEqual(self.listener.refusals, {})
        newcomer = self.knock("192.0.2.1")
        self.assertEqual(self.listener.unauthenticated, 16)
        self.assertEqual(self.listener.refusals, {"TOO_MANY_HANDSHAKES": 1})
        self.assertTrue(newcomer.second.connected)
        self.assertEqual(sum(w.second.connected for w in self.network.wires), 16)

    def test_the_victim_is_not_always_the_same(self) -> None:
        self.fill(["192.0.2.1"] * 60)
        gone = [n for n, w in enumerate(self.network.wires) if not w.second.connected]
        self.assertEqual(len(gone), 44)
        # Neither the oldest nor the newest by rule.
        self.assertNotEqual(gone, list(range(44)))
        self.assertTrue(0 < len(set(gone) & set(range(15))) < 15, gone)

    def test_another_address_is_not_touched_by_it(self) -> None:
        quiet = self.knock("192.0.2.2")
        self.fill(["192.0.2.1"] * 100)
        self.assertTrue(quiet.second.connected)
        self.assertEqual(self.listener.unauthenticated, 17)

    def test_an_ipv6_block_of_64_bits_counts_as_one(self) -> None:
        block = [IPv6Address("TCP", f"2001:db8:0:1::{n:x}", 9) for n in range(17)]
        for address in block:
            self.accept(address)
        self.accept(IPv6Address("TCP", "2001:db8:0:2::1", 9))
        self.assertEqual(self.listener.unauthenticated, 17)

    def accept(self, address: Any) -> MemoryWire:
        channel = self.listener.buildProtocol(address)
        wire = MemoryWire(address, IPv4Address("TCP", "192.0.2.9", PORT))
        wire.connect(Protocol(), channel)
        return wire

    def test_a_mapped_ipv4_address_counts_as_itself(self) -> None:
        for n in range(20):
            self.accept(IPv6Address("TCP", "::ffff:192.0.2.1", n))
            self.accept(IPv4Address("TCP", "192.0.2.1", n))
        self.assertEqual(self.listener.unauthenticated, 16)

    def test_an_ipv6_zone_does_not_confuse_it(self) -> None:
        for n in range(20):
            self.accept(IPv6Address("TCP", f"fe80::{n:x}%eth0", n))
        self.assertEqual(self.listener.unauthenticated, 16)

    def test_this_machine_has_32_whatever_address_it_uses(self) -> None:
        self.assertEqual(MAX_UNAUTHENTICATED_LOCAL, 32)
        for n in range(20):
            self.accept(IPv4Address("TCP", f"127.0.0.{n + 1}", n))
            self.accept(IPv6Address("TCP", "::1", n))
        self.assertEqual(self.listener.unauthenticated, 32)

    def test_a_unix_socket_has_32(self) -> None:
        for _ in range(40):
            self.accept(UNIXAddress("/run/socket"))
        self.assertEqual(self.listener.unauthenticated, 32)

    def test_in_all_there_are_512_and_a_random_one_makes_room(self) -> None:
        self.assertEqual(MAX_UNAUTHENTICATED, 512)
        wires = [self.accept(IPv4Address("TCP", f"198.51.{n // 8}.{n % 8}", n)) for n in range(512)]
        self.assertEqual(self.listener.unauthenticated, 512)
        self.assertEqual([w for w in wires if w.second.aborted], [])
        newcomer = self.accept(IPv4Address("TCP", "203.0.113.1", 1))
        self.assertEqual(self.listener.unauthenticated, 512)
        self.assertEqual(len([w for w in wires if w.second.aborted]), 1)
        self.assertFalse(newcomer.second.aborted)

    def test_authenticated_connections_do_not_count(self) -> None:
        clients = [self.successResultOf(self.dial()) for _ in range(40)]
        self.assertEqual(self.listener.unauthenticated, 0)
        self.assertEqual(len(self.listener.channels), 40)
        self.assertEqual({len(c.events) for c in clients}, {1})

    def limit(self, number: int) -> None:
        """Start anew with a listener that limits each peer."""
        self.start_anew(max_per_peer=number)

    def start_anew(self, **limits: int) -> None:
        """With a listener that has these limits."""
        self.listener = SecureListener(self.clock, BOB, Random(1), **limits)
        self.port.stopListening()
        listening = self.network.server_endpoint(PORT).listen(self.listener)
        self.port = self.successResultOf(listening)
        for capability in (ECHO, CHAT):
            self.listener.register(capability, OneFactory(Recorder))

    def test_when_it_is_full_who_has_most_makes_room_and_else_nobody(self) -> None:
        # One in four is for those that have not proved who they are.
        self.start_anew(max_connections=8)
        logs = self.enterContext(capturedLogs())
        crowd = [self.successResultOf(self.dial(source="198.51.100.1")) for _ in range(6)]
        self.assertEqual(self.listener.refusals, {})
        # Its own address has most: it is one too many.
        self.assertIsNone(self.connected("198.51.100.1"))
        self.assertEqual(self.lost(crowd), [False] * 6)
        # From elsewhere they get what is fair, of those who have most the oldest.
        others = [self.connected(f"203.0.113.{n}") for n in range(5)]
        self.assertEqual(self.lost(crowd), [True] * 5 + [False])
        self.assertEqual(self.lost(others), [False] * 5)
        self.assertEqual(len(self.listener.channels), 6)
        # All have one: there is nobody to take from.
        self.assertIsNone(self.connected("192.0.2.1"))
        self.assertEqual(self.lost(others), [False] * 5)
        # Who has two gives the older one to who has none.
        others.pop().transport.loseConnection()
        self.advance(1)
        second = self.connected("203.0.113.0")
        newcomer = self.connected("192.0.2.1")
        self.assertEqual(self.lost([others[0], second, newcomer]), [True, False, False])
        self.assertEqual(self.listener.refusals, {"TOO_MANY_CONNECTIONS": 8})
        (said,) = self.warnings(logs)
        self.assertIn("TOO_MANY_CONNECTIONS: 6 peers are connected already", said)
        self.advance(60)
        self.connected("203.0.113.1")
        self.assertEqual(len(self.warnings(logs)), 2)

    def warnings(self, logs: Sequence[Any]) -> list[str]:
        """@return: the lines of the log that are for an operator."""
        return [formatEvent(each) for each in logs if each["log_level"] is LogLevel.warn]

    def test_who_is_refused_without_end_does_not_fill_the_log(self) -> None:
        with capturedLogs() as logs:
            for number in range(LOGGED_REFUSALS + 50):
                self.knock(f"198.51.{number // 250}.{number % 250}")
            self.advance(HANDSHAKE_TIMEOUT)
            said = self.refusals_said(logs)
            self.assertEqual(len(said), LOGGED_REFUSALS)
            self.assertNotIn("more", said[-1])
            self.advance(1)
            self.knock("198.51.100.1")
            self.advance(HANDSHAKE_TIMEOUT)
        self.assertEqual(self.listener.refusals, {"HANDSHAKE_TIMEOUT": LOGGED_REFUSALS + 51})
        self.assertEqual(len(self.refused), LOGGED_REFUSALS + 51)
        self.assertEqual(len(self.refusals_said(logs)), LOGGED_REFUSALS + 1)
        self.assertIn("(and 50 more before that)", self.refusals_said(logs)[-1])

    def refusals_said(self, logs: Sequence[Any]) -> list[str]:
        said = map(formatEvent, logs)
        return [each for each in said if each.startswith("refused")]

    def connected(self, source: str) -> Any:
        """@return: a client; L{None} if it was hung up on."""
        dialling = self.dial(source=source)
        dialling.addErrback(lambda failure: failure.trap(PeerKeyRefused) and None)
        return self.successResultOf(dialling)

    def test_few_connections_leave_few_to_who_proves_nothing(self) -> None:
        self.start_anew(max_connections=8)
        wires = [self.knock(f"198.51.100.{n}") for n in range(3)]
        self.assertEqual(self.listener.unauthenticated, 2)
        self.assertEqual(sum(wire.second.aborted for wire in wires), 1)
        self.assertRaises(ValueError, SecureListener, self.clock, BOB, Random(1), max_connections=3)

    def test_who_leaves_too_much_unread_is_cut_and_nobody_else(self) -> None:
        self.start_anew(max_unsent=1_000_000, max_unsent_per_peer=300_000)
        apps = []
        for identity in (ALICE, ALICE, CAROL):
            client = self.successResultOf(self.dial(identity=identity))
            client.transport.pauseProducing()
            (*_, channel) = self.listener.channels
            apps.append((client, channel))
        self.pump()
        for _, channel in apps:
            channel.write(bytes(140_000))
        self.pump()
        self.assertEqual([channel.disconnecting for _, channel in apps], [False] * 3)
        # In pieces and in one go; what is left of that goes nowhere.
        apps[0][1].write(bytes(200_000))
        self.assertEqual([channel.disconnecting for _, channel in apps], [True, False, False])
        self.advance(1)
        self.assertEqual(self.listener.refusals, {"PEER_TOO_SLOW": 1})
        self.assertEqual(len(self.listener.channels), 2)
        # Who reads on has a clean sheet.
        for client, channel in apps[1:]:
            for _ in range(5):
                client.transport.resumeProducing()
                self.pump()
                client.transport.pauseProducing()
                channel.write(bytes(250_000))
        self.assertEqual([channel.disconnecting for _, channel in apps[1:]], [False] * 2)
        # Cut while it says goodbye.
        apps[1][1].write(bytes(40_000))
        apps[1][1].loseConnection()
        apps[1][1].loseConnection()
        self.advance(1)
        self.assertEqual(len(self.listener.channels), 2)

    def lost(self, clients: Sequence[Any]) -> list[bool]:
        self.advance(1)
        return [client.reason is not None for client in clients]

    def test_a_peer_that_has_too_many_loses_its_oldest(self) -> None:
        self.limit(3)
        clients = [self.successResultOf(self.dial()) for _ in range(5)]
        self.assertEqual(self.lost(clients), [True, True, False, False, False])
        self.assertEqual(len(self.listener.channels), 3)
        # Another peer has as many of its own.
        others = [self.successResultOf(self.dial(identity=CAROL)) for _ in range(3)]
        self.assertEqual(self.lost(others + clients[2:]), [False] * 6)
        # It is no refusal: the peer did nothing that is forbidden.
        self.assertEqual(self.listener.refusals, {})

    def test_it_loses_them_where_it_has_most(self) -> None:
        """One protocol of a peer that runs wild does not end the others."""
        self.limit(3)
        chat = self.successResultOf(self.dial(CHAT))
        clients = [self.successResultOf(self.dial()) for _ in range(4)]
        self.assertEqual(self.lost([chat, *clients]), [False, True, True, False, False])
        another = self.successResultOf(self.dial(CHAT))
        self.assertEqual(self.lost([chat, another, *clients[2:]]), [True, False, False, False])

    def test_one_that_never_goes_counts_no_more(self) -> None:
        self.limit(2)
        clients = [self.successResultOf(self.dial()) for _ in range(2)]
        first, second = self.listener.channels
        cut: list[SecureChannel] = []
        patched = self.patch(SecureChannel, "abortConnection", lambda each: cut.append(each))
        clients.append(self.successResultOf(self.dial()))
        patched.restore()
        self.assertEqual(cut, [first])
        self.assertEqual(self.lost(clients), [False] * 3)
        clients.append(self.successResultOf(self.dial()))
        self.assertEqual(self.lost(clients), [False, True, False, False])
        self.assertEqual(len(self.listener.channels), 2)
        self.assertNotIn(second, self.listener.channels)

    def test_who_left_is_forgotten(self) -> None:
        self.limit(2)
        for _ in range(5):
            client = self.successResultOf(self.dial())
            client.transport.loseConnection()
            self.advance(1)
        self.assertEqual(self.listener._by_peer, {})
        self.assertEqual(self.listener.channels, ())

    def test_a_place_is_free_again_after_each_kind_of_end(self) -> None:
        self.knock().first.write(bytes(64))  # refused
        self.knock().cut()
        self.knock().first.loseConnection()
        self.knock()  # times out
        self.pump()
        self.assertEqual(self.listener.unauthenticated, 1)
        self.advance(HANDSHAKE_TIMEOUT)
        self.assertEqual(self.listener.unauthenticated, 0)
        self.assertEqual(self.listener._by_origin, {})
        self.assertEqual(self.listener._all, {})
        self.assertEqual(
            self.listener.refusals,
            {"NETWORK_KEY_REFUSED": 1, "HANDSHAKE_TRUNCATED": 2, "HANDSHAKE_TIMEOUT": 1},
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_choice_is_repeated_with_the_same_seed(self) -> None:
        def victims() -> list[bool]:
            self.setUp()
            self.fill(["192.0.2.1"] * 40)
            return [w.second.connected for w in self.network.wires]

        self.assertEqual(victims(), victims())


class StoppingTests(ListenerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = OneFactory(Recorder)
        self.listener.register(ECHO, self.server)

    def test_with_nothing_open_it_is_done_at_once(self) -> None:
        self.assertIsNone(self.successResultOf(self.listener.close_all()))

    def test_everything_is_closed_and_then_it_fires(self) -> None:
        clients = [self.successResultOf(self.dial()) for _ in range(3)]
        self.knock()
        done = self.listener.close_all()
        again = self.listener.close_all()
        self.assertNoResult(done)
        self.pump()
        self.assertIsNone(self.successResultOf(done))
        self.assertIsNone(self.successResultOf(again))
        for client in clients:
            self.assertEqual(client.events, ["made", ("lost", ConnectionDone)])
        self.assertEqual((self.listener.channels, self.listener.unauthenticated), ((), 0))
        self.assertEqual(self.listener.refusals, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_was_written_is_still_sent(self) -> None:
        client = self.successResultOf(self.dial())
        (channel,) = self.listener.channels
        channel.write(b"last words" * 10_000)
        self.listener.close_all()
        self.pump()
        self.assertEqual(len(client.received), 100_000)

    def test_a_dead_peer_is_cut_off_after_the_deadline(self) -> None:
        client = self.successResultOf(self.dial())
        client.transport._raw.pauseProducing()
        done = self.listener.close_all()
        self.assertLess(CLOSE_ALL_TIMEOUT, CLOSE_TIMEOUT)
        self.advance(CLOSE_ALL_TIMEOUT - 0.1)
        self.assertNoResult(done)
        self.advance(0.2)
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_producer_that_never_ends_is_cut_off_after_the_deadline(self) -> None:
        self.successResultOf(self.dial())
        (channel,) = self.listener.channels
        producer = PushProducer()
        channel.registerProducer(producer, True)
        done = self.listener.close_all(timeout=1.0)
        self.advance(0.9)
        self.assertNoResult(done)
        self.advance(0.2)
        self.successResultOf(done)
        self.assertEqual(producer.events, ["stop"])

    def test_a_peer_that_only_half_closes_is_cut_off_as_well(self) -> None:
        client = self.successResultOf(self.dial(client=HalfRecorder))
        done = self.listener.close_all()
        self.pump()
        self.assertEqual(client.events, ["made", "read lost"])
        self.advance(CLOSE_ALL_TIMEOUT)
        self.successResultOf(done)

    def test_while_it_closes_nobody_comes_in(self) -> None:
        self.successResultOf(self.dial())
        self.listener.close_all()
        self.failureResultOf(self.dial()).trap(NetworkKeyRefused)
        self.assertIsNone(self.listener.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1)))

    def test_it_can_be_opened_again(self) -> None:
        self.successResultOf(self.port.stopListening())
        self.successResultOf(self.listener.close_all())
        self.port.startListening()
        self.successResultOf(self.dial())

    def test_cancelling_the_wish_to_be_told_harms_nothing(self) -> None:
        self.successResultOf(self.dial())
        done, other = self.listener.close_all(), self.listener.close_all()
        done.addErrback(lambda _: None)
        done.cancel()
        self.pump()
        self.successResultOf(other)

    def test_a_decision_that_is_open_is_cancelled(self) -> None:
        cancelled: list[Any] = []
        self.listener.register(CHAT, OneFactory(Recorder), lambda *_: Deferred(cancelled.append))
        d = self.dial(CHAT)
        done = self.listener.close_all()
        self.pump()
        self.successResultOf(done)
        self.assertEqual(len(cancelled), 1)
        self.failureResultOf(d).trap(PeerKeyRefused)
