"""
The part C{webrtc}: direct paths to peers that relays lead to (L{meshkit.relay.webrtc.shortcuts}).

It is off unless it is asked for, as it needs the extra C{webrtc}, and shows peers the addresses of
this machine's interfaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from meshkit.errors import ConfigError, InvalidAddress
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFeedStore, IShortcuts, PathFound
from meshkit.parts import Part, PartContext
from meshkit.relay.webrtc.servers import MAX_STUN, StunServers, is_ipv6
from meshkit.relay.webrtc.sessions import Make, WebRTCAnswers
from meshkit.relay.webrtc.shortcuts import LABEL, Shortcuts

MIGRATIONS: Final = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[webrtc]}."""

    enabled: Annotated[
        bool,
        Meta(
            description="look for direct paths by WebRTC to peers that relays lead to; needs the "
            "extra webrtc, and shows those peers the addresses of this machine"
        ),
    ] = False
    stun: Annotated[
        tuple[str, ...],
        Meta(
            description="HOST:PORT of a STUN server that says at which address this machine is "
            "seen [default: those of the relays that lead others here, if they have one]"
        ),
    ] = ()


class WebRTCStatus(msgspec.Struct):
    """
    @ivar paths: peers to which there is a direct path now that this node has looked for.
    @ivar answered: peers that have one to this node.
    @ivar found: paths that were found since the start.
    @ivar missed: those that were not.
    @ivar stun: servers that are asked where they see this machine.
    @ivar stun_answered: which one has answered first when they were asked last.
    @ivar seen_at: where it sees this machine.
    """

    paths: int
    answered: int
    found: int
    missed: int
    stun: list[str]
    stun_answered: str | None
    seen_at: str | None


@implementer(IShortcuts)
class WebRTCPart(Part):
    """
    See the module.

    @ivar shortcuts: L{None} if it is off.
    """

    def __init__(
        self, context: PartContext, make: Make | None, servers: StunServers, thread: Any = None
    ) -> None:
        """
        @param make: makes connections; L{None} for none.
        @param servers: those that C{make} has asked.
        @param thread: a service that has to run for that.
        """
        self._context = context
        self._feeds = context.find(IFeedStore)
        self._servers = servers
        self._thread = thread
        self.shortcuts: Shortcuts | None = None
        if make is not None:
            self.shortcuts = Shortcuts(
                context.reactor,
                context.connections,
                make,
                WebRTCAnswers(context.reactor, make, context.accept),
                lambda key: context.events.publish(PathFound(key.raw)),
            )
        shown = self._figures
        context.metrics.gauge("paths", "Direct paths that were looked for.", lambda: shown().paths)
        context.metrics.gauge("answered", "Those of others.", lambda: shown().answered)
        context.metrics.count(
            "looked_total",
            "Looks for a direct path.",
            lambda: {"found": shown().found, "missed": shown().missed},
            outcome=("found", "missed"),
        )

    def _figures(self) -> WebRTCStatus:
        here = self.shortcuts
        servers = self._servers
        seen = servers.seen
        return WebRTCStatus(
            paths=0 if here is None else here.paths,
            answered=0 if here is None else len(here.answers),
            found=0 if here is None else here.found,
            missed=0 if here is None else here.missed,
            stun=[place.text for place in servers.places],
            stun_answered=None if seen is None else seen.server.text,
            seen_at=None if seen is None else str(seen.ip),
        )

    def startService(self) -> None:
        super().startService()
        if self._thread is not None:
            self._thread.startService()
        if self.shortcuts is not None:
            self.shortcuts.start()

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        if self.shortcuts is not None:
            self.shortcuts.stop()
        if self._thread is None:
            return None
        stopping: Deferred[None] = self._thread.stopService()
        return stopping

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {} if self.shortcuts is None else {LABEL: self.shortcuts.factory}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self._feeds is not None and self._feeds.is_blocked(peer.raw)
        return not (blocked or self._context.peers.ledger.is_banned(peer))

    def status(self) -> WebRTCStatus | None:
        return None if self.shortcuts is None else self._figures()

    def hear_stun(self, places: Sequence[HostPort]) -> None:
        self._servers.hear(places)

    def beside(self, address: MeshAddress, around: IStreamClientEndpoint) -> IStreamClientEndpoint:
        return around if self.shortcuts is None else self.shortcuts.beside(address, around)


def _stun(texts: tuple[str, ...]) -> list[HostPort]:
    if len(texts) > MAX_STUN:
        raise ConfigError(f"webrtc.stun: {MAX_STUN} servers are the limit")
    try:
        places = [HostPort.parse(text) for text in texts]
    except InvalidAddress as e:
        raise ConfigError(f"webrtc.stun: {e}") from None
    for place in places:
        if is_ipv6(place.host):
            raise ConfigError(
                f"webrtc.stun: {place.text} is an IPv6 address, and servers are asked by IPv4 "
                f"alone: name one that has an IPv4 address"
            )
    return places


def make_part(context: PartContext) -> WebRTCPart:
    config: Config = context.config
    servers = StunServers(context.rng, _stun(config.stun))
    if not config.enabled:
        return WebRTCPart(context, None, servers)
    # Here, as most nodes have no aiortc.
    from meshkit.relay.webrtc.aio import AioConnection, LoopThread, load_aiortc

    load_aiortc()
    thread = LoopThread(context.reactor)
    return WebRTCPart(
        context, lambda: AioConnection(context.reactor, thread, servers), servers, thread
    )
