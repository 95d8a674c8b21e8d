"""
Two protocols that talk over a secure channel, in one call, on a virtual clock::

    pair = connect_channels(
        Factory.forProtocol(Asker), Factory.forProtocol(Answerer), clock=Clock()
    )
    pair.client.ask()
    pair.run()

The channel is the real one: its handshake has taken place, what is written is encrypted,
and every byte crosses a L{MemoryWire}, which can be cut, cut up or tampered with.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.shs.listener import Authorize
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from meshkit.testing.transports import Chunker, MemoryNetwork, MemoryWire

__all__ = ["ChannelPair", "connect_channels"]

#: Seconds of virtual time within which the channel has to be open.
_OVERDUE: Final = 60.0
_PORT: Final = 7655


@frozen
class ChannelPair:
    """
    Both ends of an open channel.

    @ivar client: the dialler's protocol; its C{transport} is the channel.
    @ivar server: the listener's protocol, likewise.
    @ivar wire: the connection beneath: C{wire.cut()}, C{wire.intercept}.
    @ivar clock: the time of both.
    """

    client: Any
    server: Any
    wire: MemoryWire
    clock: Clock

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass; with no seconds, what is due and what follows from it at once."""
        run_clock(self.clock, seconds)


@implementer(IProtocolFactory)
class _Remembering:
    """A factory that keeps what another one builds."""

    def __init__(self, inner: IProtocolFactory) -> None:
        self._inner = inner
        self.built: IProtocol | None = None

    def doStart(self) -> None:
        self._inner.doStart()

    def doStop(self) -> None:
        self._inner.doStop()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        self.built = self._inner.buildProtocol(addr)
        return self.built


def connect_channels(
    client: IProtocolFactory,
    server: IProtocolFactory,
    *,
    clock: Clock,
    label: str = "test",
    client_identity: Identity | None = None,
    server_identity: Identity | None = None,
    authorize: Authorize | None = None,
    chunk: Chunker | None = None,
    latency: float = 0.0,
    seed: int = 0,
) -> ChannelPair:
    """
    Connect the protocols of two factories by a secure channel.

    @param client: its C{buildProtocol} gets a L{PeerAddress} with the server's key.
    @param server: likewise, with the client's key.
    @param clock: moves everything; it is advanced until the channel is open, which
        takes C{latency} a few times.
    @param label: of the capability.
    @param client_identity: C{make_identity("client")}, if not given.
    @param server_identity: C{make_identity("server")}, if not given.
    @param authorize: see L{SecureListener.register}.
    @param chunk: how the encrypted stream is cut into pieces.
    @param latency: seconds one way.
    @param seed: of the ephemeral keys.
    @raise MeshkitError: why there is no channel: L{PeerKeyRefused} if C{authorize}
        refuses, L{ProtocolRefused} if the client's factory builds nothing.
    """
    dialler = make_identity("client") if client_identity is None else client_identity
    listening = make_identity("server") if server_identity is None else server_identity
    rng = Random(f"meshkit/testing/channels/{seed}")
    network_key = NetworkSecret.generate(rng).key()
    capability = Capability(label, 1, network_key.capability(label))
    network = MemoryNetwork(clock, latency=latency, chunk=chunk)
    accepted = _Remembering(server)
    listener = SecureListener(clock, listening, rng)
    listener.register(capability, accepted, authorize)
    network.server_endpoint(_PORT).listen(listener)
    endpoint = wrap_client(
        clock,
        network.client_endpoint(_PORT),
        identity=dialler,
        capability=capability,
        peer=listening.public,
        rng=rng,
    )
    results: list[Any] = []
    connecting: Deferred[IProtocol] = endpoint.connect(client)
    connecting.addBoth(results.append)
    end = clock.seconds() + _OVERDUE
    while not results and clock.seconds() <= end:
        calls = clock.getDelayedCalls()
        clock.advance(max(0.0, min(call.getTime() for call in calls) - clock.seconds()))
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return ChannelPair(result, accepted.built, network.wires[0], clock)
