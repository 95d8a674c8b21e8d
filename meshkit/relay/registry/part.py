"""
The part C{registry} of a member relay: who is known at it.

Peers register over the mesh (capability C{registry}, version 1) or at the relay's own HTTP door;
for other parts it is L{IRegistrations}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory

from meshkit.errors import ConfigError, InvalidPublicKey
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFeedStore, IRegistrations
from meshkit.operations import BoundOperation, Page
from meshkit.parts import Part, PartContext
from meshkit.relay.registry import operations as offered
from meshkit.relay.registry import schema
from meshkit.relay.registry.registry import Registry
from meshkit.relay.registry.rules import Rules
from meshkit.relay.registry.serving import serve_registry
from meshkit.relay.registry.wire import LABEL, VERSION
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory
from meshkit.runtime.limits import PeerBuckets
from meshkit.runtime.metrics import CODES
from meshkit.runtime.moments import rfc3339

MIGRATIONS: Final = schema.MIGRATIONS

#: Tokens a second that a peer gets, and those it may use at once.  A registration costs four.
RATE: Final = 1.0
BURST: Final = 100.0

_DAY: Final = 86_400
_NS: Final = 10**9
_MAX_PEERS: Final = 100_000


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[registry]}."""

    max_peers: Annotated[
        int,
        Meta(ge=1, le=_MAX_PEERS, description="peers that are taken, listed or not"),
    ] = 10_000
    admission: Annotated[
        Literal["open", "allow-list"],
        Meta(description="who may register: all members of the network, or those allow names"),
    ] = "open"
    allow: Annotated[
        tuple[str, ...],
        Meta(
            description="@<base64>.ed25519 of who may register, with allow-list",
            extra={"flag": "allow"},
        ),
    ] = ()
    deny: Annotated[
        tuple[str, ...],
        Meta(description="@<base64>.ed25519 of who may not register", extra={"flag": "deny"}),
    ] = ()
    forget_days: Annotated[
        int,
        Meta(
            ge=0,
            le=36_500,
            description="days after which a peer is forgotten that was not there; 0: never",
        ),
    ] = 90

    def rules(self) -> Rules:
        """@raise ConfigError: if a key is none."""
        allow = _keys("allow", self.allow) if self.admission == "allow-list" else None
        return Rules(self.max_peers, allow, _keys("deny", self.deny))


def _keys(name: str, texts: Sequence[str]) -> frozenset[PublicKey]:
    try:
        return frozenset(PublicKey.parse(text) for text in texts)
    except InvalidPublicKey as e:
        raise ConfigError(f"registry.{name}: {e}") from None


class RegistryPart(Part):
    """
    See the module.

    @ivar registry: what it is about.
    """

    def __init__(self, context: PartContext) -> None:
        """@raise ConfigError: if the settings cannot be used."""
        config: Config = context.config
        self._config = config
        self._ledger = context.peers.ledger
        self._blocks = context.find(IFeedStore)
        networks = {context.network.net_id: context.network.capability(LABEL, VERSION)}
        if context.previous is not None:
            previous = context.previous
            networks[previous.net_id] = previous.capability(LABEL, VERSION)
        self.registry = Registry(
            context.identity,
            networks,
            context.database,
            context.events,
            reactor=context.reactor,
            wall_clock=context.wall_clock,
            rules=config.rules(),
            idle_seconds=config.forget_days * _DAY or None,
        )
        dispatcher = Dispatcher()
        serve_registry(self.registry, dispatcher)
        self._factory = RPCFactory(context.reactor, dispatcher, buckets=PeerBuckets(RATE, BURST))
        metrics, figures = context.metrics, self.registry.figures
        metrics.gauge("peers", "Peers that are registered.", lambda: figures().peers)
        metrics.gauge("listed", "Those that are in the directory.", lambda: figures().listed)
        metrics.count("entered_total", "Peers that have come.", lambda: figures().entered)
        metrics.count(
            "refused_total",
            "Registrations that were refused.",
            lambda: figures().refused,
            code=CODES,
        )

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self.registry.start())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self.registry.stop())

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {(LABEL, VERSION): self._factory}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self._blocks is not None and self._blocks.is_blocked(peer.raw)
        return bool(self.running and not blocked and not self._ledger.is_banned(peer))

    def status(self) -> offered.RegistryStatus:
        figures = self.registry.figures()
        return offered.RegistryStatus(
            figures.peers, figures.listed, figures.max_peers, self._config.admission
        )

    def __conform__(self, interface: Any) -> Any:
        return self.registry if interface is IRegistrations else None

    # --- the operator's door --------------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.LIST, self._answer_list),
            BoundOperation(offered.REMOVE, self._answer_remove),
        )

    def _answer_list(self, request: offered.ListRegistry) -> Page:
        keys = self.registry.registered()
        shown = []
        for key in keys[request.offset : request.offset + request.limit]:
            peer = self.registry.find(key)
            if peer is not None:
                shown.append(
                    offered.RegisteredPeer(
                        key.text,
                        peer.registration.nickname,
                        peer.registration.listed,
                        rfc3339(peer.since * _NS),
                        rfc3339(self.registry.seen(key) * _NS),
                    )
                )
        return Page(shown, len(keys), request.limit, request.offset)

    def _answer_remove(self, request: offered.RemoveRegistered) -> Deferred[None]:
        return self.registry.remove(PublicKey.parse(request.peer))


def make_part(context: PartContext) -> RegistryPart:
    return RegistryPart(context)
