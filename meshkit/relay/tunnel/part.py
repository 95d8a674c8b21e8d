"""
The part C{tunnel}: be reached through relays, and reach others through them.

It reserves at the relays that the node uses (L{meshkit.relay.tunnel.hidden}) and has the node's
address record say so, and it knows the ways to others that lead through relays
(L{meshkit.interfaces.IDetours}).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    TimeoutError,
    fail,
    succeed,
)
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import MeshkitError, PeerUnreachable, RelayError
from meshkit.identity.addresses import HostPort, MeshAddress, Via
from meshkit.identity.keys import SEED_BYTES, Identity, PublicKey
from meshkit.identity.vouchers import MAX_PATHS, PATHS_NAME, RelayPath, encode_paths
from meshkit.interfaces import (
    IDetours,
    IFeedStore,
    IMetrics,
    IPeerFinder,
    IRelays,
    IShortcuts,
    PathFound,
    Relay,
)
from meshkit.parts import Part, PartContext
from meshkit.relay.tunnel.direct import LABEL as DIRECT_LABEL
from meshkit.relay.tunnel.ends import dial_through
from meshkit.relay.tunnel.hidden import HiddenPeer
from meshkit.relay.tunnel.limits import MAX_JOINED
from meshkit.relay.tunnel.upgrade import Upgrade
from meshkit.relay.tunnel.ways import Ways
from meshkit.relay.tunnel.wire import CIRCUIT_LABEL, CONTROL_LABEL

MIGRATIONS: Final = ()

#: Lookups of peers that were not reached, at a time.
MAX_LOOKUPS: Final = 8
#: Seconds that one may take.
LOOKUP_SECONDS: Final = 10.0

# Nothing went wrong: it took too long, or something else was first.
_GIVEN_UP: Final = (CancelledError, ConnectingCancelledError, TimeoutError)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[tunnel]}."""

    reserve: Annotated[
        bool, Meta(description="be reached through the relays of the section relays")
    ] = True
    dial: Annotated[
        bool, Meta(description="reach peers through relays that do not answer at their address")
    ] = True
    hide_key: Annotated[
        bool,
        Meta(
            description="come to blind relays with a key made at the start of the node when a peer "
            "is to be reached, so that they learn whom it reaches and not who it is; what their "
            "owners grant to known keys is not granted then"
        ),
    ] = False
    head_start: Annotated[
        float,
        Meta(
            description="seconds for which a peer is dialled at its address alone, before relays "
            "are tried as well",
            ge=0.0,
            le=30.0,
        ),
    ] = 1.0
    upgrade: Annotated[
        bool,
        Meta(
            description="look for a direct path to peers that were reached through a relay, and "
            "use it"
        ),
    ] = True
    circuits: Annotated[
        int,
        Meta(description="circuits of each relay that this node takes at a time", ge=1, le=1_000),
    ] = MAX_JOINED


class TunnelRelayShown(msgspec.Struct):
    """
    @ivar relay: address of the relay.
    @ivar role: C{member} or C{blind}.
    @ivar reachable: the relay leads others to this node.
    @ivar address: what others dial to be led there.
    @ivar circuits: circuits through it that are open, or on their way.
    @ivar problem: why it leads nobody here.
    """

    relay: str
    role: str
    reachable: bool
    address: str
    circuits: int
    problem: str | None


class TunnelStatus(msgspec.Struct):
    """
    @ivar relays: where this node is to be reached.
    @ivar through: connections to others that were made through relays, since the start.
    @ivar failed: those that were not.
    @ivar direct_paths: direct paths that were found to peers behind relays.
    """

    relays: list[TunnelRelayShown]
    through: int
    failed: int
    direct_paths: int


class _Accepting(Factory):
    """Gives what comes out of a relay to the node's listener."""

    noisy = False

    def __init__(self, accept: Callable[[IAddress | None], IProtocol | None]) -> None:
        self._accept = accept

    def buildProtocol(self, addr: Any) -> Any:
        return self._accept(addr)


@implementer(IStreamClientEndpoint)
class _Watched:
    """A way through a relay, of which it is remembered how it went."""

    def __init__(self, part: TunnelPart, address: MeshAddress, inner: IStreamClientEndpoint):
        self._part = part
        self._address = address
        self._inner = inner

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        if self._part.resting(self._address):
            return fail(
                PeerUnreachable(
                    f"the relay at {self._address.place} was not reached within the last minute"
                )
            )
        connecting: Deferred[IProtocol] = self._inner.connect(protocolFactory)
        return connecting.addCallbacks(
            partial(self._part.led, address=self._address),
            partial(self._part.not_led, address=self._address),
        )


@implementer(IDetours)
class TunnelPart(Part):
    """
    See the module.

    @ivar head_start: see L{IDetours}.
    """

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        config: Config = context.config
        self._context = context
        self._config = config
        self._reactor = context.reactor
        self.head_start = config.head_start
        self._relays: Any = context.find(IRelays)
        self._finder: Any = context.find(IPeerFinder)
        self._feeds: Any = context.find(IFeedStore)
        self._shortcuts: Any = context.find(IShortcuts)
        self._hidden: dict[Relay, HiddenPeer] = {}
        if config.reserve:
            self._hidden = {relay: self._hide(relay) for relay in self._relays.relays()}
        self._ways = Ways()
        self._upgrade = Upgrade(
            context.reactor,
            context.connections,
            context.whereabouts.places,
            self._relay_host,
            self._path_found,
        )
        self._looking: dict[PublicKey, Deferred[Any]] = {}
        self._mask = Identity(context.rng.randbytes(SEED_BYTES)) if config.hide_key else None
        self._through = self._failed = self._paths_found = 0
        self._measure(context.metrics)

    def _hide(self, relay: Relay) -> HiddenPeer:
        context = self._context
        return HiddenPeer(
            context.reactor,
            context.rng,
            self._wall,
            key=context.identity.public,
            relay=relay.address.key,
            network=self._relays.network_of(relay).net_id,
            control=self._relays.endpoint(relay, CONTROL_LABEL),
            circuits=self._relays.endpoint(relay, CIRCUIT_LABEL),
            accept=_Accepting(context.accept),
            on_change=self._tell,
            max_joined=self._config.circuits,
        )

    def _wall(self) -> int:
        return self._context.wall_clock() // 1_000_000

    def _measure(self, metrics: IMetrics) -> None:
        metrics.gauge(
            "reservations",
            "Relays that lead others to this node.",
            lambda: sum(hidden.voucher is not None for hidden in self._hidden.values()),
        )
        metrics.gauge(
            "circuits",
            "Circuits through which others have come.",
            lambda: sum(hidden.joined for hidden in self._hidden.values()),
        )
        metrics.count(
            "dialled_total",
            "Connections to others through relays.",
            lambda: {"made": self._through, "failed": self._failed},
            outcome=("made", "failed"),
        )
        metrics.count(
            "direct_paths_total",
            "Direct paths that were found to peers behind relays.",
            lambda: self._paths_found,
        )

    # --- the service ----------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        self._upgrade.start()
        for hidden in self._hidden.values():
            hidden.start()

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        self._upgrade.stop()
        for looking in list(self._looking.values()):
            looking.cancel()
        return DeferredList([hidden.stop() for hidden in self._hidden.values()])

    def status(self) -> TunnelStatus | None:
        shown = [self._shown(relay, hidden) for relay, hidden in self._hidden.items()]
        if not (shown or self._through or self._failed):
            return None
        return TunnelStatus(shown, self._through, self._failed, self._paths_found)

    def _shown(self, relay: Relay, hidden: HiddenPeer) -> TunnelRelayShown:
        return TunnelRelayShown(
            relay=relay.address.text,
            role=relay.role,
            reachable=hidden.voucher is not None,
            address=_through(relay, self._context.identity.public).text,
            circuits=hidden.joined,
            problem=None if hidden.refused is None else _said(hidden.refused),
        )

    # --- direct paths ---------------------------------------------------------------------

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {DIRECT_LABEL: self._upgrade.factory} if self._config.upgrade else {}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self._feeds is not None and self._feeds.is_blocked(peer.raw)
        return not (blocked or self._context.peers.ledger.is_banned(peer))

    def _relay_host(self, relay: PublicKey | None) -> str:
        for used, hidden in self._hidden.items():
            if used.address.key == relay and hidden.place is not None:
                return hidden.place.host
        return ""

    def _path_found(self, key: PublicKey, place: HostPort, asker: bool) -> None:
        self._log.info("{peer} is reached directly at {place}", peer=key.text, place=place.text)
        self._paths_found += 1
        if not asker:
            # It came to us, and cannot dial us: so we dial it.
            self._context.peers.hear("tunnel", self._heard())
        self._context.events.publish(PathFound(key.raw))

    def _heard(self) -> list[MeshAddress]:
        paths = self._upgrade.paths.places(self._reactor.seconds())
        return [MeshAddress(place.host, place.port, key) for key, place in paths.items()]

    # --- being reached --------------------------------------------------------------------

    def _tell(self) -> None:
        """Say in our address record through which relays we are reached now, and who does STUN."""
        if self._shortcuts is not None:
            answering = (hidden.stun for hidden in self._hidden.values())
            self._shortcuts.hear_stun([place for place in answering if place is not None])
        if self._finder is None:
            return
        paths = [
            RelayPath(hidden.place, hidden.voucher)
            for hidden in self._hidden.values()
            if hidden.voucher is not None and hidden.place is not None
        ]
        self._finder.tell(PATHS_NAME, encode_paths(paths[:MAX_PATHS]) if paths else None)

    def to_us(self) -> list[MeshAddress]:
        own = self._context.identity.public
        return [
            _through(relay, own)
            for relay, hidden in self._hidden.items()
            if hidden.voucher is not None
        ]

    # --- reaching others ------------------------------------------------------------------

    def direct(self, key: PublicKey) -> HostPort | None:
        return self._upgrade.paths.place(key, self._reactor.seconds())

    def ways(self, address: MeshAddress) -> Deferred[list[MeshAddress]]:
        key, own = address.key, [] if address.via is None else [address]
        path = self.direct(key)
        if path is not None:
            # Where it was dialled first, it does not answer there.
            self._upgrade.paths.lost(key)
            if address.via is None and path != address.place:
                own = [MeshAddress(path.host, path.port, key)]
        if not self._config.dial or not self.running or self._is_relay(key):
            return succeed([])
        known = self._ways.known(key, self._reactor.seconds())
        if known is not None:
            return succeed(self._all(own, known, key))
        if address.via is not None:
            # It says how; who is nowhere else is not looked for in vain.
            return succeed(self._all(own, (), key))
        return self._look_for(key).addCallback(lambda found: self._all(own, found, key))

    def _is_relay(self, key: PublicKey) -> bool:
        return any(relay.address.key == key for relay in self._relays.relays())

    def _all(
        self, first: Sequence[MeshAddress], found: Sequence[MeshAddress], key: PublicKey
    ) -> list[MeshAddress]:
        """What was told, and then our own relays: it may be at one of them, too."""
        ours = [_through(relay, key) for relay in self._relays.relays()]
        ways = dict.fromkeys((*first, *found, *ours))
        return [way for way in ways if way.key == key]

    def _look_for(self, key: PublicKey) -> Deferred[Sequence[MeshAddress]]:
        """Ask the hash table where a peer says that it is, unless that was done just now."""
        if self._finder is None or len(self._looking) >= MAX_LOOKUPS or key in self._looking:
            return succeed(())
        looking: Deferred[Any] = self._finder.find_peer(key)
        self._looking[key] = looking
        looking.addTimeout(LOOKUP_SECONDS, self._reactor)

        def ended(result: Any) -> Sequence[MeshAddress]:
            self._looking.pop(key, None)
            found = () if isinstance(result, Failure) else tuple(result)
            if isinstance(result, Failure) and not result.check(MeshkitError, *_GIVEN_UP):
                self._log.failure("{peer} was looked for in vain", result, peer=key.text)
            self._ways.found(key, found, self._reactor.seconds())
            return found

        return looking.addBoth(ended)

    def through(self, address: MeshAddress) -> IStreamClientEndpoint:
        relay_address, via = address.relay, address.via
        if relay_address is None or via is None:
            raise ValueError(f"{address.text} leads through no relay")
        relay = Relay(relay_address, via.role)
        identity = self._mask if via.role == "blind" else None
        leading = self._relays.endpoint(relay, CIRCUIT_LABEL, identity=identity)
        inner = dial_through(self._reactor, leading, via.key, address.key)
        around = _Watched(self, address, inner)
        if self._shortcuts is None:
            return around
        beside: IStreamClientEndpoint = self._shortcuts.beside(address, around)
        return beside

    def resting(self, address: MeshAddress) -> bool:
        """Was a relay that others have named not reached a moment ago?"""
        if not self._ways.resting(address.place, self._reactor.seconds()):
            return False
        # Those of the operator's choice are worth a dial whenever somebody is to be reached.
        named = any(relay.address == address.relay for relay in self._relays.relays())
        return not named and address not in self._context.peers.named()

    def led(self, protocol: IProtocol, address: MeshAddress) -> IProtocol:
        """A relay has made a circuit."""
        self._through += 1
        self._ways.reached(address.place)
        if self._config.upgrade and self.running:
            self._upgrade.led(address)
        return protocol

    def not_led(self, failure: Failure, address: MeshAddress) -> Failure:
        """A relay has not, was not reached, or is not waited for any more."""
        if not failure.check(*_GIVEN_UP):
            self._failed += 1
        if not failure.check(RelayError):
            # It did not even say no.  That nobody waits for it is no proof that it is there.
            self._ways.missed(address.place, self._reactor.seconds())
        return failure


def _through(relay: Relay, key: PublicKey) -> MeshAddress:
    """@return: the address that leads through a relay to somebody."""
    address: MeshAddress = relay.address
    return MeshAddress(address.host, address.port, key, Via(address.key, relay.role))


def _said(error: Exception) -> str:
    code = getattr(error, "code", type(error).__name__)
    return f"{code}: {error}"


def make_part(context: PartContext) -> TunnelPart:
    return TunnelPart(context)
