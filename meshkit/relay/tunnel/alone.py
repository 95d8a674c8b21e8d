"""
Reach a peer through a relay without a node: for who is about to join, and has no more than an
invite.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    HandshakeTruncated,
    HostUnknown,
    NetworkKeyRefused,
    PeerKeyRefused,
    PeerUnreachable,
)
from meshkit.identity.addresses import HostPort, MeshAddress, Via
from meshkit.identity.keys import Identity
from meshkit.identity.network import GUEST_LABEL, PUBLIC_RELAYS, NetworkKey
from meshkit.relay.tunnel.ends import dial_through
from meshkit.relay.tunnel.wire import CIRCUIT_LABEL
from meshkit.runtime.peers import named_error
from meshkit.shs import Capability, wrap_client

_GUEST_VERSION: Final = 1


def as_guest(via: Via, guest: bytes | None) -> Capability:
    """
    @param guest: the capability that an invite holds for relays of its network.
    @return: by which a relay is asked by who has that, and no more.
    @raise ValueError: the relay is one of the network, and C{guest} is L{None}.
    """
    if via.role == "blind":
        return Capability.of(PUBLIC_RELAYS.key(), CIRCUIT_LABEL)
    if guest is None:
        raise ValueError("a relay of a network is asked by its members, or by who has an invite")
    return Capability(GUEST_LABEL, _GUEST_VERSION, guest)


def as_member(via: Via, network: NetworkKey) -> Capability:
    """@return: by which a relay is asked by a member of the network."""
    return Capability.of(
        PUBLIC_RELAYS.key() if via.role == "blind" else network,
        CIRCUIT_LABEL,
    )


def through_relay(
    reactor: Any,
    address: MeshAddress,
    identity: Identity,
    capability: Capability,
    rng: Random,
    *,
    timeout: float,
) -> IStreamClientEndpoint:
    """
    The bare stream to a peer, with no handshake inside.

    @param reactor: clock, sockets and names.
    @param address: one that leads through a relay.
    @param identity: who asks the relay.
    @param capability: by which; see L{as_guest} and L{as_member}.
    @param timeout: seconds for a connection to the relay.
    @return: its C{connect} fails as that of L{CircuitEndpoint
        <meshkit.relay.tunnel.ends.CircuitEndpoint>}, but with L{PeerUnreachable} where the relay
        is not reached, or does not answer to the capability.
    @raise ValueError: the address leads through none.
    """
    via = address.via
    if via is None:
        raise ValueError(f"{address.text} leads through no relay")
    bare = HostnameEndpoint(reactor, address.host, address.port, timeout=timeout)
    leading = wrap_client(
        reactor, bare, identity=identity, capability=capability, peer=via.key, rng=rng
    )
    return dial_through(reactor, _ToRelay(leading, address.place), via.key, address.key)


@implementer(IStreamClientEndpoint)
@frozen
class _ToRelay:
    """Leads to a relay.  What goes wrong is said to be the relay's, and not the peer's behind."""

    inner: IStreamClientEndpoint
    place: HostPort

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = self.inner.connect(protocolFactory)
        return connecting.addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        if failure.check(NetworkKeyRefused, PeerKeyRefused, HandshakeTruncated):
            return Failure(
                PeerUnreachable(
                    f"the relay at {self.place} does not answer to us (something else is at its "
                    f"address, its network has a new secret, or it is of an older meshkit)"
                )
            )
        if failure.check(ConnectError, ConnectionClosed, OSError):
            assert failure.value is not None
            if isinstance(named := named_error(self.place, failure.value), HostUnknown):
                return Failure(named)
            reason = str(failure.value).rstrip(".") or type(failure.value).__name__
            return Failure(
                PeerUnreachable(f"the relay at {self.place} cannot be reached ({reason})")
            )
        return failure


__all__ = ["as_guest", "as_member", "through_relay"]
