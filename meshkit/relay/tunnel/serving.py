"""
The part C{tunnels} of a relay: leads peers to each other (L{meshkit.relay.tunnel.server}), within
the limits of its settings.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from zope.interface import implementer

from meshkit.errors import CannotListen, ConfigError, InvalidPublicKey
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import GUEST_LABEL, PUBLIC_RELAYS
from meshkit.interfaces import IFeedStore, IMetrics, IWantsFiles
from meshkit.parts import Part, PartContext
from meshkit.relay.stun.server import MAX_DATAGRAM, StunServer
from meshkit.relay.tunnel.limits import (
    IDLE_SECONDS,
    MAX_WAITING_ALL,
    MEMBERS,
    RESERVATION_SECONDS,
    STRANGERS,
    Allowance,
    TunnelLimits,
)
from meshkit.relay.tunnel.server import TunnelRelay
from meshkit.relay.tunnel.wire import CIRCUIT_LABEL, CONTROL_LABEL

MIGRATIONS: Final = ()

#: Keys that the owner of a relay may name.
MAX_MEMBERS: Final = 1_000

_Size = Annotated[int, Meta(ge=1_024, le=2**50, extra={"size": True})]
_Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_Seconds = Annotated[int, Meta(ge=1, le=30 * 86_400)]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[tunnels]}."""

    members: Annotated[
        tuple[str, ...],
        Meta(
            description="id of a peer that gets at a blind relay what members get at a relay of "
            "their network, @....ed25519",
            extra={"flag": "member"},
            max_length=MAX_MEMBERS,
        ),
    ] = ()
    reservations: Annotated[
        _Count, Meta(description="members that can be reached through this relay at a time")
    ] = MEMBERS.reservations
    reservations_per_address: Annotated[
        _Count, Meta(description="the same of one IPv4 address or IPv6 /64")
    ] = MEMBERS.per_origin
    circuits: Annotated[_Count, Meta(description="circuits of members at a time")] = (
        MEMBERS.circuits
    )
    circuits_per_peer: Annotated[
        _Count, Meta(description="the same of one member, asked for or asking")
    ] = MEMBERS.per_peer
    circuit_secs: Annotated[
        _Seconds, Meta(description="how long a circuit of members may last")
    ] = int(MEMBERS.seconds)
    circuit_bytes: Annotated[_Size, Meta(description="what it may carry in each direction")] = (
        MEMBERS.size
    )
    daily_bytes: Annotated[
        _Size, Meta(description="what all circuits of one member carry in a day")
    ] = MEMBERS.daily
    stranger_reservations: Annotated[
        _Count, Meta(description="strangers that can be reached through this relay at a time")
    ] = STRANGERS.reservations
    stranger_reservations_per_address: Annotated[
        _Count, Meta(description="the same of one IPv4 address or IPv6 /64")
    ] = STRANGERS.per_origin
    stranger_circuits: Annotated[
        _Count, Meta(description="circuits at a time of which one end at least is a stranger's")
    ] = STRANGERS.circuits
    stranger_circuits_per_peer: Annotated[
        _Count, Meta(description="the same of one key, asked for or asking")
    ] = STRANGERS.per_peer
    stranger_circuit_secs: Annotated[
        _Seconds, Meta(description="how long such a circuit may last")
    ] = int(STRANGERS.seconds)
    stranger_circuit_bytes: Annotated[
        _Size, Meta(description="what it may carry in each direction")
    ] = STRANGERS.size
    stranger_daily_bytes: Annotated[
        _Size, Meta(description="what all such circuits of one key carry in a day")
    ] = STRANGERS.daily
    reservation_secs: Annotated[
        int, Meta(description="for how long a reservation holds", ge=60, le=86_400)
    ] = int(RESERVATION_SECONDS)
    idle_secs: Annotated[
        int, Meta(description="after how long a circuit in which nothing moves is cut", ge=10)
    ] = int(IDLE_SECONDS)
    stun_port: Annotated[
        int,
        Meta(
            description="UDP port, of all IPv4 addresses, at which this relay tells whoever asks "
            "from where that comes (STUN), so that peers behind routers find direct paths by "
            "WebRTC; 0 for none, 3478 is the usual one",
            ge=0,
            le=65_535,
        ),
    ] = 0

    def named(self) -> frozenset[PublicKey]:
        """
        @return: C{members}.
        @raise ConfigError: one is no id.
        """
        try:
            return frozenset(PublicKey.parse(text) for text in self.members)
        except InvalidPublicKey as e:
            raise ConfigError(f"tunnels.members: {e}") from None

    def limits(self) -> TunnelLimits:
        """@return: what the settings say."""
        return TunnelLimits(
            strangers=Allowance(
                reservations=self.stranger_reservations,
                per_origin=self.stranger_reservations_per_address,
                circuits=self.stranger_circuits,
                per_peer=self.stranger_circuits_per_peer,
                seconds=float(self.stranger_circuit_secs),
                size=self.stranger_circuit_bytes,
                daily=self.stranger_daily_bytes,
            ),
            members=Allowance(
                reservations=self.reservations,
                per_origin=self.reservations_per_address,
                circuits=self.circuits,
                per_peer=self.circuits_per_peer,
                seconds=float(self.circuit_secs),
                size=self.circuit_bytes,
                daily=self.daily_bytes,
            ),
            reservation_seconds=float(self.reservation_secs),
            idle_seconds=float(self.idle_secs),
        )


class TunnelsStatus(msgspec.Struct):
    """
    @ivar reservations: peers that can be reached through this relay.
    @ivar circuits: circuits that are open, or wait for who was asked for.
    @ivar opened: circuits since the start.
    @ivar carried_bytes: what they carried, in both directions.
    @ivar cut: circuits that were cut at a limit.
    @ivar stun_port: UDP port at which it answers by STUN; 0 for none.
    @ivar stun_answered: requests that were answered there since the start.
    @ivar stun_dropped: datagrams that were not: no requests, too many, or from nowhere.
    """

    reservations: int
    circuits: int
    opened: int
    carried_bytes: int
    cut: int
    stun_port: int
    stun_answered: int
    stun_dropped: int


@implementer(IWantsFiles)
class TunnelsPart(Part):
    """
    See the module.

    @ivar relay: does the work.
    @ivar stun: answers by STUN, where it is asked for.
    @ivar files: see L{IWantsFiles}.
    """

    def __init__(self, context: PartContext) -> None:
        """@raise ConfigError: if a setting cannot be used."""
        config: Config = context.config
        named = config.named()
        # Who dials a member relay has the secret of its network; of a blind one everybody has.
        blind = context.network.net_id == PUBLIC_RELAYS.key().net_id
        self._blind = blind
        self._context = context
        self._stun_port = config.stun_port
        self.stun = StunServer(context.reactor)
        self._listening: Any = None
        self._feeds = context.find(IFeedStore)
        limits = config.limits()
        # A control connection for each reservation, and two connections for each circuit.
        self.files = (
            MAX_WAITING_ALL
            + bool(self._stun_port)
            + sum(
                each.reservations + 2 * each.circuits for each in (limits.strangers, limits.members)
            )
        )
        self._make = lambda: TunnelRelay(
            context.reactor,
            context.identity,
            context.network.net_id,
            context.rng,
            lambda: context.wall_clock() // 1_000_000,
            is_member=lambda key: not blind or key in named,
            limits=limits,
            stun_port=self._stun_port,
        )
        self.relay = self._make()
        self._measure(context.metrics)

    def _measure(self, metrics: IMetrics) -> None:
        metrics.gauge(
            "reservations",
            "Peers that can be reached through this relay.",
            lambda: self.relay.status().reservations,
        )
        metrics.gauge("circuits", "Circuits.", lambda: self.relay.status().circuits)
        metrics.count(
            "opened_total", "Circuits that were opened.", lambda: self.relay.status().opened
        )
        metrics.count(
            "carried_bytes_total", "Bytes of circuits.", lambda: self.relay.status().carried
        )
        metrics.count(
            "cut_total", "Circuits that were cut at a limit.", lambda: self.relay.status().reset
        )
        stun = self.stun
        metrics.count(
            "stun_total",
            "Datagrams that came to the STUN port.",
            lambda: {
                "answered": stun.answered,
                "refused": stun.refused,
                "limited": stun.limited,
                "unsent": stun.unsent,
            },
            outcome=("answered", "refused", "limited", "unsent"),
        )

    def startService(self) -> None:
        """
        @raise CannotListen: something else has the UDP port.
        """
        super().startService()
        if self._stun_port:
            self._listen(self._stun_port)
        # One that was stopped takes nobody any more.
        self.relay = self._make()

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        self.relay.stop()
        listening, self._listening = self._listening, None
        if listening is None:
            return None
        stopping: Deferred[None] = maybeDeferred(listening.stopListening)
        return stopping

    def _listen(self, port: int) -> None:
        reactor = self._context.reactor
        try:
            self._listening = reactor.listenUDP(port, self.stun, maxPacketSize=MAX_DATAGRAM)
        except CannotListenError as e:
            why = getattr(e.socketError, "strerror", None) or e.socketError
            raise CannotListen(
                f"cannot answer by STUN at the UDP port {port} ({why}): stop what uses it, or set "
                f"tunnels.stun_port to another one, or to 0 for none"
            ) from None

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        serving = {CONTROL_LABEL: self.relay.control, CIRCUIT_LABEL: self.relay.circuits}
        # To a blind one everybody may come.
        return serving if self._blind else {**serving, GUEST_LABEL: self.relay.guests}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self._feeds is not None and self._feeds.is_blocked(peer.raw)
        return not (blocked or self._context.peers.ledger.is_banned(peer))

    def status(self) -> TunnelsStatus:
        now = self.relay.status()
        stun = self.stun
        return TunnelsStatus(
            reservations=now.reservations,
            circuits=now.circuits,
            opened=now.opened,
            carried_bytes=now.carried,
            cut=now.reset,
            stun_port=self._stun_port,
            stun_answered=stun.answered,
            stun_dropped=stun.refused + stun.limited + stun.unsent,
        )


def make_part(context: PartContext) -> TunnelsPart:
    return TunnelsPart(context)
