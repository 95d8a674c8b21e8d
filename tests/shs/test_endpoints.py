"""
The endpoints: connect() fires when the peer is authenticated, and fails with a reason.
"""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.application.internet import ClientService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    CannotListenError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import (
    HandshakeTimeout,
    InvalidPublicKey,
    NetworkKeyRefused,
    PeerKeyRefused,
    ProtocolRefused,
)
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.shs.channel import HANDSHAKE_TIMEOUT
from meshkit.shs.endpoints import wrap_client, wrap_server
from meshkit.shs.hellos import Capability
from meshkit.testing.transports import MemoryNetwork
from tests.shs.common import ALICE, BOB, CAROL, CHAT, ECHO, OneFactory, Recorder

PORT = 7655


class EndpointTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork()
        self.server = OneFactory(Recorder)

    def serve(self, **options: Any) -> Any:
        endpoint = wrap_server(
            self.clock,
            self.network.server_endpoint(PORT),
            identity=BOB,
            capability=ECHO,
            rng=Random(1),
            **options,
        )
        verifyObject(IStreamServerEndpoint, endpoint)
        return self.successResultOf(endpoint.listen(self.server))

    def client(
        self,
        *,
        identity: Identity = ALICE,
        capability: Capability = ECHO,
        peer: PublicKey = BOB.public,
        rng: Random | None = None,
        **options: Any,
    ) -> IStreamClientEndpoint:
        endpoint = wrap_client(
            self.clock,
            self.network.client_endpoint(PORT),
            identity=identity,
            capability=capability,
            peer=peer,
            rng=rng or Random(2),
            **options,
        )
        verifyObject(IStreamClientEndpoint, endpoint)
        return endpoint

    def pump(self) -> None:
        self.network.pump()
        while any(c.getTime() <= self.clock.seconds() for c in self.clock.getDelayedCalls()):
            self.clock.advance(0)
            self.network.pump()


class ConnectingTests(EndpointTestCase):
    def test_it_fires_with_the_protocol_when_the_peer_is_authenticated(self) -> None:
        self.serve()
        factory = OneFactory(Recorder)
        d = self.client().connect(factory)
        self.network._connect_waiting()
        wire = self.network.wires[0]
        for _ in range(4):  # connected, hello, answer, proof: not yet
            self.assertNoResult(d)
            self.assertEqual(factory.addresses, [])
            wire.step()
        self.pump()
        protocol = self.successResultOf(d)
        self.assertEqual(protocol.events, ["made"])
        self.assertEqual(factory.addresses, [PeerAddress(BOB.public, wire.first.getPeer())])

    def test_the_protocol_is_connected_before_the_deferred_fires_and_fed_after(self) -> None:
        order: list[str] = []

        class Client(Recorder):
            def connectionMade(self) -> None:
                order.append("made")

            def dataReceived(self, data: bytes) -> None:
                order.append("data")

        greeting = Recorder()
        greeting.script = lambda p, e: p.transport.write(b"hi") if e == "made" else None
        self.server.it = greeting
        self.serve()
        d = self.client().connect(OneFactory(Client))
        d.addCallback(lambda _: order.append("fired"))
        self.pump()
        self.assertEqual(order, ["made", "fired", "data"])

    def test_every_connection_has_its_own_ephemeral_key(self) -> None:
        self.serve()
        endpoint = self.client()
        for _ in range(2):
            endpoint.connect(OneFactory(Recorder))
        hellos: list[bytes] = []
        self.network._connect_waiting()
        for wire in self.network.wires:
            hellos.append(bytes(wire.first._waiting))
        self.pump()
        self.assertEqual(len(set(hellos)), 2)
        self.assertEqual({len(h) for h in hellos}, {64})

    def test_its_repr_names_whom_it_dials(self) -> None:
        self.assertIn(BOB.public.short, repr(self.client()))
        self.assertIn("echo/1", repr(self.client()))


class FailingTests(EndpointTestCase):
    def fails(self, endpoint: IStreamClientEndpoint, error: type[Exception]) -> Exception:
        factory = OneFactory(Recorder)
        d = endpoint.connect(factory)
        self.pump()
        failure = self.failureResultOf(d)
        failure.trap(error)
        self.assertIs(failure.type, error)
        self.assertEqual(factory.addresses, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        value: Exception = failure.value
        return value

    def test_nobody_listens(self) -> None:
        self.fails(self.client(), ConnectionRefusedError)

    def test_another_network(self) -> None:
        self.serve()
        error = self.fails(self.client(capability=CHAT), NetworkKeyRefused)
        self.assertIn("same network secret", str(error))

    def test_another_peer(self) -> None:
        self.serve()
        error = self.fails(self.client(peer=CAROL.public), PeerKeyRefused)
        self.assertIn(CAROL.public.text, str(error))

    def test_not_admitted(self) -> None:
        self.serve(authorize=lambda peer, label: peer == CAROL.public)
        self.fails(self.client(), PeerKeyRefused)

    def test_our_own_key_is_not_dialled(self) -> None:
        self.serve()
        self.fails(self.client(identity=BOB), PeerKeyRefused)
        self.assertEqual(self.network.wires, [])

    def test_a_key_that_is_no_point_is_not_dialled(self) -> None:
        self.fails(self.client(peer=PublicKey(bytes(32))), InvalidPublicKey)

    def test_a_server_that_says_nothing(self) -> None:
        silent = OneFactory(Recorder)
        self.successResultOf(self.network.server_endpoint(PORT).listen(silent))
        d = self.client().connect(OneFactory(Recorder))
        self.pump()
        self.clock.advance(HANDSHAKE_TIMEOUT - 0.1)
        self.assertNoResult(d)
        self.clock.advance(0.2)
        self.pump()
        self.failureResultOf(d).trap(HandshakeTimeout)
        self.assertTrue(self.network.wires[0].first.aborted)

    def test_another_timeout(self) -> None:
        self.successResultOf(self.network.server_endpoint(PORT).listen(OneFactory(Recorder)))
        d = self.client(timeout=3.0).connect(OneFactory(Recorder))
        self.pump()
        self.clock.advance(3.0)
        self.pump()
        self.assertIn("3 s", str(self.failureResultOf(d).value))

    def test_a_server_that_is_never_dialled_times_out_its_client(self) -> None:
        self.serve(timeout=2.0)
        self.network.client_endpoint(PORT).connect(OneFactory(Recorder))
        self.pump()
        self.clock.advance(2.0)
        self.pump()
        self.assertFalse(self.network.wires[0].second.connected)

    def test_a_factory_that_builds_nothing(self) -> None:
        self.serve()
        d = self.client().connect(OneFactory(None))
        self.pump()
        self.failureResultOf(d).trap(ProtocolRefused)
        self.assertFalse(self.network.wires[0].first.connected)

    def test_a_factory_that_raises(self) -> None:
        self.serve()
        d = self.client().connect(OneFactory(ZeroDivisionError("a bug")))
        self.pump()
        self.failureResultOf(d).trap(ZeroDivisionError)
        self.assertFalse(self.network.wires[0].first.connected)

    def test_a_port_that_is_taken(self) -> None:
        self.serve()
        endpoint = wrap_server(
            self.clock,
            self.network.server_endpoint(PORT),
            identity=BOB,
            capability=ECHO,
            rng=Random(1),
        )
        self.failureResultOf(endpoint.listen(self.server)).trap(CannotListenError)
        self.assertIn("echo/1", repr(endpoint))


class CancellingTests(EndpointTestCase):
    def test_before_the_connection_beneath_is_up(self) -> None:
        self.serve()
        d = self.client().connect(OneFactory(Recorder))
        d.cancel()
        self.failureResultOf(d).trap(ConnectingCancelledError)
        self.pump()
        self.assertEqual(self.network.wires, [])

    def test_at_every_step_of_the_handshake(self) -> None:
        self.serve()
        for steps in range(4):
            factory = OneFactory(Recorder)
            d = self.client(rng=Random(steps)).connect(factory)
            self.network._connect_waiting()
            wire = self.network.wires[-1]
            for _ in range(steps):
                wire.step()
            self.assertNoResult(d)
            d.cancel()
            self.failureResultOf(d).trap(ConnectingCancelledError)
            self.assertTrue(wire.first.aborted)
            self.pump()
            self.assertEqual(factory.addresses, [])
            self.assertEqual((wire.first.connected, wire.second.connected), (False, False))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_the_server_decides(self) -> None:
        asked: list[Deferred[bool]] = []
        decided: list[Any] = []

        def authorize(*_: Any) -> Deferred[bool]:
            asked.append(Deferred(decided.append))
            return asked[-1]

        self.serve(authorize=authorize)
        d = self.client().connect(OneFactory(Recorder))
        self.pump()
        self.assertEqual((len(asked), decided), (1, []))
        d.cancel()
        self.failureResultOf(d).trap(ConnectingCancelledError)
        self.pump()
        # It was told to stop, as nobody waits for it any more.
        self.assertEqual(decided, asked)
        self.assertEqual(self.server.addresses, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_the_protocol_is_built(self) -> None:
        for outcome in (Recorder(), None, ZeroDivisionError("a bug")):
            self.setUp()
            self.serve()
            factory = OneFactory(outcome)
            build = factory.buildProtocol

            def cancelling(addr: Any, build: Any = build) -> Any:
                self.connecting.cancel()
                return build(addr)

            factory.buildProtocol = cancelling  # type: ignore[method-assign]
            self.connecting = self.client().connect(factory)
            self.pump()
            self.failureResultOf(self.connecting).trap(ConnectingCancelledError)
            (wire,) = self.network.wires
            self.assertTrue(wire.first.aborted)
            self.assertEqual((wire.first.connected, wire.second.connected), (False, False))
            self.assertEqual(self.clock.getDelayedCalls(), [])
            if isinstance(outcome, Recorder):
                # It is not connected to something that is gone.
                self.assertEqual(outcome.events, [])

    def test_while_the_protocol_is_connected(self) -> None:
        self.serve()
        client = Recorder()
        client.script = lambda _, event: self.connecting.cancel() if event == "made" else None
        self.connecting = self.client().connect(OneFactory(client))
        self.pump()
        self.failureResultOf(self.connecting).trap(ConnectingCancelledError)
        self.assertEqual(client.events, ["made", ("lost", ConnectionAborted)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_twice(self) -> None:
        self.serve()
        d = self.client().connect(OneFactory(Recorder))
        self.network._connect_waiting()
        d.cancel()
        d.cancel()
        self.failureResultOf(d).trap(ConnectingCancelledError)
        self.pump()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_inner_endpoint_that_cannot_be_stopped(self) -> None:
        self.serve()
        inner = self.network.client_endpoint(PORT)

        class Unstoppable:
            def connect(self, factory: Any) -> Deferred[Any]:
                shown: Deferred[Any] = Deferred()
                inner.connect(factory).addCallbacks(shown.callback, shown.errback)
                return shown

        factory = OneFactory(Recorder)
        endpoint = wrap_client(
            self.clock,
            Unstoppable(),  # type: ignore[arg-type]
            identity=ALICE,
            capability=ECHO,
            peer=BOB.public,
            rng=Random(2),
        )
        d = endpoint.connect(factory)
        d.cancel()
        self.failureResultOf(d).trap(CancelledError)
        self.pump()
        self.assertEqual(factory.addresses, [])
        self.assertEqual(self.network.wires, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_after_it_has_fired_nothing_happens(self) -> None:
        self.serve()
        d = self.client().connect(OneFactory(Recorder))
        self.pump()
        d.cancel()
        self.assertEqual(self.successResultOf(d).events, ["made"])


class ClientServiceTests(EndpointTestCase):
    """Twisted's reconnecting service takes a failed handshake for a failure."""

    def test_it_backs_off_and_gives_up_when_the_handshake_fails(self) -> None:
        self.serve(authorize=lambda *_: False)
        service = ClientService(
            self.client(), OneFactory(Recorder), retryPolicy=lambda n: 2.0**n, clock=self.clock
        )
        service.startService()
        connected: Deferred[Any] = service.whenConnected(failAfterFailures=3)
        for _ in range(40):
            self.pump()
            self.clock.advance(1.0)
        self.pump()
        self.failureResultOf(connected).trap(PeerKeyRefused)
        self.assertLess(len(self.network.wires), 8)
        service.stopService()
        self.pump()

    def test_it_connects_again_after_a_loss(self) -> None:
        self.serve()
        service = ClientService(
            self.client(), OneFactory(Recorder), retryPolicy=lambda n: 1.0, clock=self.clock
        )
        service.startService()
        self.pump()
        first = self.successResultOf(service.whenConnected())
        self.network.wires[0].cut()
        self.pump()
        self.clock.advance(1.0)
        self.pump()
        second = self.successResultOf(service.whenConnected())
        stopped = service.stopService()
        self.pump()
        self.successResultOf(stopped)
        self.assertNotEqual(first, second)
