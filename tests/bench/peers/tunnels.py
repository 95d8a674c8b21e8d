"""
C{python -m tests.bench.peers.tunnels KIND}: a secure channel from one process to another, straight
or through a relay, as children of the bench.

C{direct} is the channel alone; C{relay} goes through a relay of ours, which is a third process with
the kind C{relay} and the job C{serve}; C{transit} goes through the transit relay of magic-wormhole.
The channel inside is the same each time: what is compared is the way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import perf_counter, process_time
from typing import Any, Final

from attrs import define, evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from meshkit.identity.keys import Identity
from meshkit.identity.network import PUBLIC_RELAYS
from meshkit.relay.tunnel.ends import dial_through
from meshkit.relay.tunnel.hidden import HiddenPeer
from meshkit.relay.tunnel.limits import MEMBERS, TunnelLimits
from meshkit.relay.tunnel.server import TunnelRelay
from meshkit.relay.tunnel.wire import CIRCUIT_LABEL, CONTROL_LABEL
from meshkit.shs import Capability, SecureListener, wrap_client
from tests.bench.peers.jobs import Job, run
from tests.bench.peers.links import _CLIENT, _RNG, _SERVER, CAPABILITY, listen, plain_endpoint
from tests.bench.peers.transfers import Sender, Sink

_RELAY: Final = Identity(b"the relay of the bench, fixed..."[:32])
#: What the transit relay is told: both sides name the same.
_TOKEN: Final = "7" * 64


def _capability(label: str) -> Capability:
    return Capability.of(PUBLIC_RELAYS.key(), label)


def _to_relay(reactor: Any, port: int, identity: Identity, label: str) -> IStreamClientEndpoint:
    return wrap_client(
        reactor,
        plain_endpoint(reactor, port),
        identity=identity,
        capability=_capability(label),
        peer=_RELAY.public,
        rng=_RNG,
    )


class _Asking(Protocol):
    """Asks a transit relay for the other side, and then is whatever runs inside."""

    def __init__(self, side: str, done: Deferred[Any], inside: IProtocolFactory) -> None:
        self._side = side
        self._done = done
        self._inside = inside

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(f"please relay {_TOKEN} for side {self._side}\n".encode())

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if not data.startswith(b"ok\n"):
            self._done.errback(RuntimeError(f"the transit relay says {data!r}"))
            return
        inner: Any = self._inside.buildProtocol(transport.getPeer())
        transport.protocol = inner
        inner.makeConnection(transport)
        self._done.callback(inner)
        if data[3:]:
            inner.dataReceived(data[3:])


@implementer(IStreamClientEndpoint)
@define
class _Transit:
    """Leads to the other side of a transit relay."""

    reactor: Any
    port: int
    side: str

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        factory = Factory.forProtocol(lambda: _Asking(self.side, done, protocolFactory))
        factory.noisy = False
        plain_endpoint(self.reactor, self.port).connect(factory).addErrback(done.errback)
        return done


@define
class _Tunnels:
    reactor: Any
    kind: str
    _sender: Any = None
    _kept: Any = None

    async def serve(self) -> dict[str, Any]:
        """Job: be the relay."""
        relay = TunnelRelay(
            self.reactor,
            _RELAY,
            PUBLIC_RELAYS.key().net_id,
            _RNG,
            lambda: int(self.reactor.seconds() * 1000),
            is_member=lambda key: True,
            limits=TunnelLimits(members=evolve(MEMBERS, daily=2**50)),
        )
        listener = SecureListener(self.reactor, _RELAY, _RNG)
        listener.register(_capability(CONTROL_LABEL), relay.control)
        listener.register(_capability(CIRCUIT_LABEL), relay.circuits)
        return {"port": await listen(self.reactor, listener)}

    async def take(self, port: int) -> dict[str, Any]:
        """Job: be reached, through the relay at that port if there is one."""
        factory = Factory.forProtocol(Sink)
        factory.noisy = False
        listener = SecureListener(self.reactor, _SERVER, _RNG)
        listener.register(CAPABILITY, factory)
        if self.kind == "direct":
            return {"port": await listen(self.reactor, listener)}
        if self.kind == "transit":
            self._kept = _Transit(self.reactor, port, "1" * 16).connect(listener)
            return {"port": port}
        reserved: Deferred[None] = Deferred()
        self._kept = HiddenPeer(
            self.reactor,
            _RNG,
            lambda: int(self.reactor.seconds() * 1000),
            key=_SERVER.public,
            relay=_RELAY.public,
            network=PUBLIC_RELAYS.key().net_id,
            control=_to_relay(self.reactor, port, _SERVER, CONTROL_LABEL),
            circuits=_to_relay(self.reactor, port, _SERVER, CIRCUIT_LABEL),
            accept=listener,
            on_change=lambda: reserved.callback(None),
        )
        self._kept.start()
        await reserved
        return {"port": port}

    async def connect(self, port: int) -> None:
        """Job: make the connection for C{send}."""
        bare: Any = plain_endpoint(self.reactor, port)
        if self.kind == "transit":
            bare = _Transit(self.reactor, port, "2" * 16)
        elif self.kind == "relay":
            leading = _to_relay(self.reactor, port, _CLIENT, CIRCUIT_LABEL)
            bare = dial_through(self.reactor, leading, _RELAY.public, _SERVER.public)
        endpoint = wrap_client(
            self.reactor,
            bare,
            identity=_CLIENT,
            capability=CAPABILITY,
            peer=_SERVER.public,
            rng=_RNG,
        )
        factory = Factory.forProtocol(Sender)
        factory.noisy = False
        self._sender = await endpoint.connect(factory)

    async def send(self, count: int, write: int) -> dict[str, float]:
        """Job: one transfer."""
        start, used = perf_counter(), process_time()
        await self._sender.send(count, write)
        return {"seconds": perf_counter() - start, "cpu": process_time() - used}


def main() -> None:
    kind = sys.argv[1]

    def jobs(reactor: Any) -> Mapping[str, Job]:
        tunnels = _Tunnels(reactor, kind)
        return {
            "serve": tunnels.serve,
            "take": tunnels.take,
            "connect": tunnels.connect,
            "send": tunnels.send,
        }

    run(jobs)


if __name__ == "__main__":
    main()
