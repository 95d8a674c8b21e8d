"""
Endpoints that speak the secure channel over any other Twisted endpoint.

The client's C{connect()} fires when the peer is authenticated, not when the
connection beneath is up: a C{ClientService} on it counts a failed handshake as the
failure it is, and backs off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import MeshkitError
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.shs.channel import HANDSHAKE_TIMEOUT, SecureChannel, Traffic
from meshkit.shs.handshake import ClientHandshake
from meshkit.shs.hellos import EPHEMERAL_BYTES, Capability
from meshkit.shs.listener import Authorize, SecureListener
from meshkit.shs.suites import Session


def wrap_client(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    *,
    identity: Identity,
    capability: Capability,
    peer: PublicKey,
    rng: Random,
    timeout: float = HANDSHAKE_TIMEOUT,
    traffic: Traffic | None = None,
) -> IStreamClientEndpoint:
    """
    Dial one peer for one protocol.

    C{connect(factory)} gives a Deferred of the connected protocol, built by
    C{factory.buildProtocol(PeerAddress)} after the peer has proved its key.  It fails
    with

      - what the inner endpoint fails with, if there is no connection;
      - L{meshkit.errors.NetworkKeyRefused}, L{meshkit.errors.PeerKeyRefused},
        L{meshkit.errors.HandshakeTimeout} or L{meshkit.errors.HandshakeTruncated};
      - L{meshkit.errors.ProtocolRefused} if the factory builds nothing, or the
        exception it raises;
      - L{ConnectingCancelledError} if it is cancelled, which aborts the connection.

    A dialler never tries another label, version or network after a failure.

    @param endpoint: leads to the peer; its connections are those of a stream.
    @param identity: who we are.
    @param capability: which protocol of which network.
    @param peer: who has to be there.
    @param rng: gives 32 bytes for each connection.
    @param timeout: seconds for the whole handshake, after the inner connection is up.
    @param traffic: counts what goes over the connections.
    """

    def begin() -> Session:
        return ClientHandshake(identity, capability, peer, rng.randbytes(EPHEMERAL_BYTES))

    return _SecureClientEndpoint(
        reactor, endpoint, begin, timeout, f"shs {capability.name} to {peer.short}", traffic
    )


def wrap_session(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    begin: Callable[[], Session],
    *,
    name: str,
    timeout: float = HANDSHAKE_TIMEOUT,
    traffic: Traffic | None = None,
) -> IStreamClientEndpoint:
    """
    Like L{wrap_client}, with the dialling side of another handshake.

    @param begin: makes it, once for each connection; what it raises of L{MeshkitError}
        the connection fails with.
    @param name: for logs.
    """
    return _SecureClientEndpoint(reactor, endpoint, begin, timeout, name, traffic)


def wrap_server(
    reactor: IReactorTime,
    endpoint: IStreamServerEndpoint,
    *,
    identity: Identity,
    capability: Capability,
    rng: Random,
    authorize: Authorize | None = None,
    timeout: float = HANDSHAKE_TIMEOUT,
    also: Sequence[Capability] = (),
) -> IStreamServerEndpoint:
    """
    Serve one protocol on a port.  For several on one port, and to close the live
    connections, use L{SecureListener}.

    C{listen(factory)} gives what the inner endpoint gives.  The factory's
    C{buildProtocol} gets a L{PeerAddress}.

    @param authorize: see L{SecureListener.register}.
    @param also: further capabilities that select the same protocol, such as that of the
        secret which the network's present one replaces.
    """
    capabilities = (capability, *also)
    return _SecureServerEndpoint(reactor, endpoint, identity, capabilities, rng, authorize, timeout)


class _Attempt(ClientFactory):
    """One C{connect()}: the factory of the connection beneath, and its owner."""

    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        handshake: Session,
        factory: IProtocolFactory,
        timeout: float,
        traffic: Traffic | None,
    ) -> None:
        self._factory = factory
        self._channel = SecureChannel(reactor, handshake, self, timeout=timeout, traffic=traffic)
        self._inner: Deferred[IProtocol] | None = None
        self._cancelled = False
        self.done: Deferred[IProtocol] = Deferred(self._cancel)

    def run(self, endpoint: IStreamClientEndpoint) -> Deferred[IProtocol]:
        self._inner = endpoint.connect(self)
        self._inner.addCallbacks(self._connected, self._not_connected)
        return self.done

    def _connected(self, _channel: IProtocol) -> None:
        self._inner = None

    def _not_connected(self, failure: Failure) -> None:
        self._inner = None
        self._fail(failure)

    def _cancel(self, done: Deferred[IProtocol]) -> None:
        self._cancelled = True
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.cancel()
        else:
            done.errback(ConnectingCancelledError(self._channel.getPeer()))
            self._channel.abortConnection()

    def _fail(self, failure: Failure) -> None:
        if not self.done.called:
            self.done.errback(failure)

    # The factory of the connection beneath.

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        # An inner endpoint that could not be stopped comes here after the cancel.
        return None if self._cancelled else self._channel

    # ChannelOwner.

    def authorize(self, channel: SecureChannel, peer: PublicKey) -> bool:
        return True  # we chose whom to dial

    def build_protocol(self, channel: SecureChannel, address: PeerAddress) -> IProtocol | None:
        return self._factory.buildProtocol(address)

    def channel_opened(self, channel: SecureChannel, protocol: IProtocol) -> None:
        if not self.done.called:
            self.done.callback(protocol)

    def channel_failed(self, channel: SecureChannel, reason: Failure) -> None:
        self._fail(reason)

    def channel_lost(self, channel: SecureChannel) -> None:
        pass  # the protocol is told by its own connectionLost


@implementer(IStreamClientEndpoint)
class _SecureClientEndpoint:
    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        begin: Callable[[], Session],
        timeout: float,
        name: str,
        traffic: Traffic | None,
    ) -> None:
        self._traffic = traffic
        self._reactor = reactor
        self._endpoint = endpoint
        self._begin = begin
        self._timeout = timeout
        self._name = name

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        try:
            handshake = self._begin()
        except MeshkitError:
            return fail(Failure())
        attempt = _Attempt(self._reactor, handshake, protocolFactory, self._timeout, self._traffic)
        return attempt.run(self._endpoint)

    def __repr__(self) -> str:
        return f"<{self._name} over {self._endpoint!r}>"


@implementer(IStreamServerEndpoint)
class _SecureServerEndpoint:
    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        identity: Identity,
        capabilities: Sequence[Capability],
        rng: Random,
        authorize: Authorize | None,
        timeout: float,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._identity = identity
        self._capabilities = capabilities
        self._rng = rng
        self._authorize = authorize
        self._timeout = timeout

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        listener = SecureListener(self._reactor, self._identity, self._rng, timeout=self._timeout)
        for capability in self._capabilities:
            listener.register(capability, protocolFactory, self._authorize)
        return self._endpoint.listen(listener)

    def __repr__(self) -> str:
        return f"<shs {self._capabilities[0].name} over {self._endpoint!r}>"
