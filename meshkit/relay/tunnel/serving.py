"""
The part C{tunnels} of a relay: leads peers to each other (L{meshkit.relay.tunnel.server}), within
the limits of its settings.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from zope.interface import implementer

from meshkit.errors import ConfigError, InvalidPublicKey
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import GUEST_LABEL, PUBLIC_RELAYS
from meshkit.interfaces import IFeedStore, IMetrics, IWantsFiles
from meshkit.parts import Part, PartContext
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
    """

    reservations: int
    circuits: int
    opened: int
    carried_bytes: int
    cut: int


@implementer(IWantsFiles)
class TunnelsPart(Part):
    """
    See the module.

    @ivar relay: does the work.
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
        self._feeds = context.find(IFeedStore)
        limits = config.limits()
        # A control connection for each reservation, and two connections for each circuit.
        self.files = MAX_WAITING_ALL + sum(
            each.reservations + 2 * each.circuits for each in (limits.strangers, limits.members)
        )
        self._make = lambda: TunnelRelay(
            context.reactor,
            context.identity,
            context.network.net_id,
            context.rng,
            lambda: context.wall_clock() // 1_000_000,
            is_member=lambda key: not blind or key in named,
            limits=limits,
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

    def startService(self) -> None:
        super().startService()
        # One that was stopped takes nobody any more.
        self.relay = self._make()

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        self.relay.stop()
        return None

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        serving = {CONTROL_LABEL: self.relay.control, CIRCUIT_LABEL: self.relay.circuits}
        # To a blind one everybody may come.
        return serving if self._blind else {**serving, GUEST_LABEL: self.relay.guests}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self._feeds is not None and self._feeds.is_blocked(peer.raw)
        return not (blocked or self._context.peers.ledger.is_banned(peer))

    def status(self) -> TunnelsStatus:
        now = self.relay.status()
        return TunnelsStatus(now.reservations, now.circuits, now.opened, now.carried, now.reset)


def make_part(context: PartContext) -> TunnelsPart:
    return TunnelsPart(context)
