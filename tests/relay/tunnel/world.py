"""A relay, a peer behind it and those who want to reach it, in memory and virtual time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.network import GUEST_LABEL, NetworkSecret
from meshkit.relay.tunnel.ends import CircuitEndpoint, dial_through
from meshkit.relay.tunnel.hidden import HiddenPeer
from meshkit.relay.tunnel.limits import TunnelLimits
from meshkit.relay.tunnel.server import TunnelRelay
from meshkit.relay.tunnel.wire import CIRCUIT_LABEL, CONTROL_LABEL
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from meshkit.testing.transports import MemoryNetwork, MemoryWire

RELAY: Final = make_identity("relay")
HIDDEN: Final = make_identity("hidden")
ASKER: Final = make_identity("asker")
OTHER: Final = make_identity("other")

#: The network in which the relay is dialled, and that of the peers.
RELAY_NETWORK: Final = NetworkSecret(bytes(32))
MESH: Final = NetworkSecret(bytes(range(32)))

LATENCY: Final = 0.01
#: When the virtual time begins, in milliseconds since 1970.
EPOCH: Final = 1_767_225_600_000
PORT: Final = 7661


class Recorder(Protocol):
    """Keeps what it gets."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.lost is None, "told twice that the connection is lost"
        self.lost = reason


class Echo(Recorder):
    """Sends back what it gets."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.write(data)


class Recording(Factory):
    """Keeps what it builds."""

    noisy = False

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.built: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        protocol = self.make()
        protocol.address = addr
        self.built.append(protocol)
        return protocol


def capability(secret: NetworkSecret, label: str) -> Capability:
    return Capability.of(secret.key(), label)


class World:
    """
    @ivar members: whom the relay takes for members.
    @ivar served: what the hidden peer's listener serves.
    """

    def __init__(
        self,
        limits: TunnelLimits | None = None,
        serve: Callable[[], Any] = Echo,
        max_joined: int = 32,
        **network: Any,
    ) -> None:
        self.clock = Clock()
        # Of all who dial: nobody says the same hello twice.
        self.rng = Random("dialling")
        self.network = MemoryNetwork(self.clock, latency=LATENCY, **network)
        self.members: set[PublicKey] = set()
        self.relay = TunnelRelay(
            self.clock,
            RELAY,
            RELAY_NETWORK.key().net_id,
            Random("relay"),
            self.wall,
            is_member=lambda key: key in self.members,
            limits=limits,
        )
        self.listener = SecureListener(self.clock, RELAY, Random("listener"))
        self.listener.register(capability(RELAY_NETWORK, CONTROL_LABEL), self.relay.control)
        self.listener.register(capability(RELAY_NETWORK, CIRCUIT_LABEL), self.relay.circuits)
        self.listener.register(capability(RELAY_NETWORK, GUEST_LABEL), self.relay.guests)
        self.network.server_endpoint(PORT).listen(self.listener)
        self.served = Recording(serve)
        self.inner = SecureListener(self.clock, HIDDEN, Random("inner"))
        self.inner.register(capability(MESH, "stream"), self.served)
        self.changes: list[Any] = []
        self.hidden = HiddenPeer(
            self.clock,
            Random("hidden"),
            self.wall,
            key=HIDDEN.public,
            relay=RELAY.public,
            network=RELAY_NETWORK.key().net_id,
            control=self.to_relay(HIDDEN, CONTROL_LABEL),
            circuits=self.to_relay(HIDDEN, CIRCUIT_LABEL),
            accept=self.inner,
            on_change=lambda: self.changes.append(self.hidden.voucher),
            max_joined=max_joined,
        )

    def wall(self) -> int:
        return EPOCH + int(self.clock.seconds() * 1000)

    def run(self, seconds: float = 1.0) -> None:
        run_clock(self.clock, seconds)

    def to_relay(
        self, who: Identity, label: str, source: str = "127.0.0.1"
    ) -> IStreamClientEndpoint:
        return wrap_client(
            self.clock,
            self.network.client_endpoint(PORT, source=source),
            identity=who,
            capability=capability(RELAY_NETWORK, label),
            peer=RELAY.public,
            rng=self.rng,
        )

    def circuit(
        self,
        who: Identity = ASKER,
        target: PublicKey = HIDDEN.public,
        source: str = "127.0.0.1",
        label: str = CIRCUIT_LABEL,
    ) -> CircuitEndpoint:
        """@return: what leads to the target, with nothing inside."""
        return dial_through(self.clock, self.to_relay(who, label, source), RELAY.public, target)

    def through(
        self,
        who: Identity = ASKER,
        target: PublicKey = HIDDEN.public,
        source: str = "127.0.0.1",
        label: str = CIRCUIT_LABEL,
    ) -> IStreamClientEndpoint:
        """@return: what leads to the target's key."""
        return wrap_client(
            self.clock,
            self.circuit(who, target, source, label),
            identity=who,
            capability=capability(MESH, "stream"),
            peer=target,
            rng=self.rng,
        )

    def connect(self, endpoint: IStreamClientEndpoint, make: Callable[[], Any] = Recorder) -> Any:
        """@return: the protocol, or the L{Failure}, or L{None} if neither is there in time."""
        results: list[IProtocol | Failure] = []
        endpoint.connect(Recording(make)).addBoth(results.append)
        self.run(2.0)
        return results[0] if results else None

    def reserve(self) -> None:
        self.hidden.start()
        self.run(1.0)
        assert self.hidden.voucher is not None, self.hidden.refused

    def wires_of(self, protocol_name: str) -> list[MemoryWire]:
        """The wires whose listener's side has chosen a protocol with this label."""
        found = []
        for wire in self.network.wires:
            chosen = wire.second.protocol.capability
            if chosen is not None and chosen.label == protocol_name:
                found.append(wire)
        return found

    @property
    def waiting(self) -> int:
        """The most bytes that any transport holds."""
        return max(max(wire.first.waiting, wire.second.waiting) for wire in self.network.wires)
