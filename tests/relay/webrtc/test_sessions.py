"""Tests of L{meshkit.relay.webrtc.sessions}."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    Overloaded,
    PeerKeyRefused,
    ProtocolRefused,
    RelayError,
    WebRTCFailed,
)
from meshkit.identity.addresses import PeerAddress, transport_of
from meshkit.identity.network import NetworkSecret
from meshkit.relay.webrtc import sessions as under_test
from meshkit.relay.webrtc.channel import WebRTCAddress
from meshkit.relay.webrtc.sessions import (
    CONNECT_SECONDS,
    IDLE_SECONDS,
    MAX_CHANNELS,
    MAX_DESCRIPTION,
    OPEN_SECONDS,
    WebRTCAnswers,
    WebRTCEndpoint,
)
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from tests.relay.webrtc.pairs import FakeWorld

ADA, BOB, EVE = (make_identity(name) for name in ("ada", "bob", "eve"))
NETWORK = NetworkSecret.generate(Random("network")).key()
ECHO = Capability.of(NETWORK, "echo")


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Asker(Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.world = FakeWorld(self.clock)
        self.rng = Random(1)
        self.listener = SecureListener(self.clock, BOB, self.rng)
        self.listener.register(ECHO, Factory.forProtocol(Echo), lambda peer, label: True)
        self.answers = WebRTCAnswers(self.clock, self.world.make, self.listener.buildProtocol)
        self.signalled = 0
        self.endpoint = WebRTCEndpoint(self.clock, self.world.make, self.signal, BOB.public)

    def signal(self, offer: bytes) -> Deferred[bytes]:
        """What a circuit through a relay would do."""
        self.signalled += 1
        return self.answers.answer(offer, ADA.public)

    def run_for(self, seconds: float = 1.0) -> None:
        run_clock(self.clock, seconds)

    def dial(self, endpoint: Any = None, peer: Any = BOB) -> Deferred[Any]:
        wrapped = wrap_client(
            self.clock,
            endpoint or self.endpoint,
            identity=ADA,
            capability=ECHO,
            peer=peer.public,
            rng=self.rng,
        )
        return wrapped.connect(Factory.forProtocol(Asker))

    def dialled(self) -> Asker:
        dialling = self.dial()
        self.run_for()
        asker: Asker = self.successResultOf(dialling)
        return asker


class Endpoints(Case):
    def test_a_secure_channel_by_a_direct_path(self) -> None:
        asker = self.dialled()
        self.assertTrue(self.endpoint.connected)
        asker.transport.write(b"hello" * 50_000)
        self.run_for()
        self.assertEqual(asker.received, b"hello" * 50_000)
        peer = asker.transport.getPeer()
        self.assertEqual(peer, PeerAddress(BOB.public, WebRTCAddress(BOB.public)))
        self.assertEqual(transport_of(peer), ("webrtc", None))

    def test_one_connection_and_a_channel_for_each(self) -> None:
        waiting = [self.dial() for _ in range(3)]
        self.run_for()
        askers = [self.successResultOf(each) for each in waiting]
        askers.append(self.dialled())
        self.assertEqual((self.signalled, len(self.world.offered)), (1, 1))
        self.assertEqual(len(self.world.offered[0].pipes), 4)
        askers[0].transport.loseConnection()
        askers[1].transport.write(b"still here")
        self.run_for()
        self.assertEqual(askers[1].received, b"still here")

    def test_somebody_else_is_at_the_end_of_the_path(self) -> None:
        """Who passes on offers could pass them to another: the handshake inside finds it."""
        dialling = self.dial(peer=EVE)
        self.run_for()
        self.failureResultOf(dialling, PeerKeyRefused)

    def test_no_path(self) -> None:
        self.world.blocked = True
        dialling = [self.dial(), self.dial()]
        self.run_for(CONNECT_SECONDS + 1)
        for each in dialling:
            self.failureResultOf(each, WebRTCFailed)
        self.assertTrue(self.world.offered[0].closed)
        self.assertFalse(self.endpoint.connected)
        # It may be found another time.
        self.world.blocked = False
        self.dialled()

    def test_no_channel(self) -> None:
        self.world.deaf = True
        dialling = self.dial()
        self.run_for(OPEN_SECONDS + 1)
        self.failureResultOf(dialling, WebRTCFailed)

    def test_an_offer_that_nobody_takes(self) -> None:
        self.patch(self, "signal", None)
        endpoint = WebRTCEndpoint(
            self.clock, self.world.make, lambda offer: fail(RelayError("the relay is gone"))
        )
        dialling = self.dial(endpoint)
        self.run_for()
        self.failureResultOf(dialling, RelayError)
        self.assertTrue(self.world.offered[0].closed)

    def test_an_answer_that_is_none(self) -> None:
        for answer in (bytes(MAX_DESCRIPTION + 1),):
            done: Deferred[bytes] = Deferred()
            endpoint = WebRTCEndpoint(self.clock, self.world.make, lambda offer, d=done: d)
            dialling = self.dial(endpoint)
            done.callback(answer)
            self.run_for()
            self.failureResultOf(dialling, WebRTCFailed)

    def test_one_that_is_given_up(self) -> None:
        self.world.blocked = True
        first, second = self.dial(), self.dial()
        self.run_for()
        first.cancel()
        self.failureResultOf(first)
        self.assertFalse(self.world.offered[0].closed, "somebody else waits for it")
        second.cancel()
        self.failureResultOf(second)
        self.run_for()
        self.assertTrue(self.world.offered[0].closed)
        self.assertEqual(len(self.answers), 0)

    def test_a_factory_that_builds_nothing(self) -> None:
        class Nobody(Factory):
            def buildProtocol(self, addr: Any) -> None:
                return None

        dialling = self.endpoint.connect(Nobody())
        self.run_for()
        self.failureResultOf(dialling, ProtocolRefused)

    def test_as_many_channels_and_no_more(self) -> None:
        for _ in range(MAX_CHANNELS):
            last = self.dialled()
        dialling = self.dial()
        self.run_for()
        self.failureResultOf(dialling, Overloaded)
        last.transport.loseConnection()
        self.run_for()
        self.dialled()

    def test_one_that_nobody_uses_is_closed(self) -> None:
        asker = self.dialled()
        self.run_for(2 * IDLE_SECONDS)
        self.assertTrue(self.endpoint.connected)
        asker.transport.loseConnection()
        self.run_for(IDLE_SECONDS - 10)
        self.assertTrue(self.endpoint.connected)
        self.run_for(20)
        self.assertFalse(self.endpoint.connected)
        self.assertEqual(len(self.answers), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        # And made anew when it is wanted.
        self.dialled()
        self.assertEqual(self.signalled, 2)

    def test_a_path_that_is_lost(self) -> None:
        asker = self.dialled()
        self.world.offered[0].close()
        self.run_for()
        self.assertFalse(self.endpoint.connected)
        self.assertFalse(asker.transport.connected if hasattr(asker.transport, "connected") else 0)
        self.dialled()

    def test_a_close_ends_what_is_under_way(self) -> None:
        self.world.blocked = True
        dialling = self.dial()
        self.run_for()
        self.endpoint.close()
        self.failureResultOf(dialling, CancelledError)


class Answers(Case):
    def answer(self, offer: bytes, peer: Any = ADA) -> Deferred[bytes]:
        return self.answers.answer(offer, peer.public)

    def offer(self) -> bytes:
        return bytes(self.successResultOf(self.world.make().offer()))

    def test_what_is_no_offer(self) -> None:
        for wrong in (b"no offer", bytes(MAX_DESCRIPTION + 1)):
            self.failureResultOf(self.answer(wrong), WebRTCFailed)
        self.assertEqual(len(self.answers), 0)
        self.run_for()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_offers_to_which_nothing_follows_cost_a_minute(self) -> None:
        self.successResultOf(self.answer(self.offer()))
        self.run_for(IDLE_SECONDS - 1)
        self.assertEqual(len(self.answers), 1)
        self.run_for(2)
        self.assertEqual(len(self.answers), 0)

    def test_one_peer_has_one_connection(self) -> None:
        """So that who offers again and again takes nobody's place."""
        for _ in range(100):
            self.successResultOf(self.answer(self.offer()))
            self.run_for(0.1)
        self.assertEqual(len(self.answers), 1)
        self.successResultOf(self.answer(self.offer(), EVE))
        self.assertEqual(len(self.answers), 2)

    def test_so_many_peers_and_no_more(self) -> None:
        self.patch(under_test, "MAX_ANSWERED", 2)
        for peer in (ADA, EVE):
            self.successResultOf(self.answer(self.offer(), peer))
        self.failureResultOf(self.answer(self.offer(), BOB), Overloaded)
        # Who is here already may come anew.
        self.successResultOf(self.answer(self.offer(), EVE))

    def test_channels_of_one_peer(self) -> None:
        theirs = self.world.make()
        self.successResultOf(self.answer(self.successResultOf(theirs.offer())))
        opened: list[Any] = []
        for _ in range(MAX_CHANNELS + 1):
            theirs.open(lambda channel: opened.append(channel))
        self.run_for(0.1)
        self.assertEqual(len(opened), MAX_CHANNELS + 1)
        self.assertEqual([pipe.other.is_closed for pipe in opened].count(True), MAX_CHANNELS + 1)

    def test_a_stop_closes_all(self) -> None:
        self.dialled()
        self.answers.close()
        self.run_for()
        self.assertEqual(len(self.answers), 0)
        self.assertFalse(self.endpoint.connected)
