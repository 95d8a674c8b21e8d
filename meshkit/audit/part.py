"""
The part C{audit}: what is kept here is proven to those who ask, and what others keep for this
node is looked after.

It brings together, of what there is in its node:

  - shares that are kept for others (L{meshkit.interfaces.IShareSampler}): audits of them are
    answered (L{meshkit.audit.factory});
  - objects that are looked after, and the peers that have their shares
    (L{meshkit.interfaces.ITrackedObjects}, L{meshkit.interfaces.IStoragePeers}): they are audited
    and repaired (L{meshkit.audit.care}).

Where there is neither it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from zope.interface import implementer

from meshkit.audit import operations as offered
from meshkit.audit.care import Care
from meshkit.audit.config import Config as Config
from meshkit.audit.factory import AuditFactory, AuditFigures
from meshkit.audit.schema import MIGRATIONS as MIGRATIONS
from meshkit.audit.wire import LABEL, VERSION
from meshkit.errors import NotReady
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import (
    IAdvisesAgents,
    IFeedStore,
    IMetrics,
    IShareSampler,
    IStoragePeers,
    ITrackedObjects,
)
from meshkit.operations import BoundOperation
from meshkit.parts import Part, PartContext, shield


@implementer(IAdvisesAgents)
class AuditPart(Part):
    """
    See the module.

    @ivar care: what looks after objects; L{None} if there are none to look after.
    """

    def __init__(self, context: PartContext) -> None:
        """@raise ConfigError: if a setting cannot be used."""
        self._context = context
        self._blocks = context.find(IFeedStore)
        sampler = context.find(IShareSampler)
        tracked, peers = context.find(ITrackedObjects), context.find(IStoragePeers)
        self._factory: AuditFactory | None = None
        if sampler is not None:
            self._factory = AuditFactory(
                context.reactor,
                context.identity,
                context.network.net_id,
                sampler,
                rng=context.rng,
                wall_clock=context.wall_clock,
                workers=context.workers,
            )
            _measure(context.metrics, self._factory.figures)
        self.care: Care | None = None
        if tracked is not None and peers is not None:
            self.care = Care(context, tracked, peers)

    # --- the service ---------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        if self.care is not None:
            await self.care.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._factory is not None:
            self._factory.stop()
        if self.care is not None:
            await self.care.stop()

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {} if self._factory is None else {(LABEL, VERSION): self._factory}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self._blocks is not None and self._blocks.is_blocked(peer.raw)
        return bool(self.running and not blocked and not self._context.peers.ledger.is_banned(peer))

    def status(self) -> offered.AuditStatus:
        of_care = {} if self.care is None else self.care.status()
        return offered.AuditStatus(
            serves=self._factory is not None, audits=self.care is not None, **of_care
        )

    def advice(self) -> Sequence[str]:
        if self.care is None or not self.care.troubled():
            return ()
        return (
            "Files that this node has given to others to keep cannot be read at present, as too "
            "few of their shares are there: its operator should look at 'meshkit inspect "
            "degraded'.",
        )

    # --- the doors -------------------------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.RUN, self._shielded(Care.run)),
            BoundOperation(offered.RUNS, self._asked(Care.runs)),
            BoundOperation(offered.RUN_SHOW, self._asked(Care.show_run)),
            BoundOperation(offered.RECEIPTS, self._asked(Care.receipts)),
            BoundOperation(offered.RECEIPT, self._asked(Care.receipt)),
            BoundOperation(offered.PEERS, self._asked(Care.peers)),
            BoundOperation(offered.FORGIVE, self._shielded(Care.forgive)),
            BoundOperation(offered.WATCHED, self._asked(Care.watched)),
            BoundOperation(offered.WATCH, self._shielded(Care.watch)),
            BoundOperation(offered.UNWATCH, self._shielded(Care.unwatch)),
            BoundOperation(offered.REPAIR, self._shielded(Care.repair)),
        )

    def _asked(self, answer: Callable[[Care, Any], Any]) -> Callable[[Any], Any]:
        def handler(request: Any) -> Any:
            return answer(self._the_care(), request)

        return handler

    def _shielded(self, answer: Callable[[Care, Any], Any]) -> Callable[[Any], Any]:
        """What is begun is done to its end, whoever goes away."""

        def handler(request: Any) -> Any:
            return shield(answer(self._the_care(), request))

        return handler

    def _the_care(self) -> Care:
        if self.care is None:
            raise NotReady(
                "this node looks after no objects, as it has none: a storage peer only answers "
                "audits, and elsewhere the part 'storage' is left out"
            )
        return self.care


def _measure(metrics: IMetrics, figures: Callable[[], AuditFigures]) -> None:
    metrics.gauge("under_way", "Audits of what is kept here.", lambda: figures().under_way)
    metrics.count("answered_total", "Those that were begun.", lambda: figures().answered)
    metrics.count("shown_total", "Those that came to their end.", lambda: figures().shown)
    metrics.count(
        "shown_shares_total", "Shares of which leaves were shown.", lambda: figures().shares
    )
    metrics.count("missing_shares_total", "Shares that are not here.", lambda: figures().missing)
    metrics.count("given_up_total", "Audits that nobody went on with.", lambda: figures().given_up)


def make_part(context: PartContext) -> AuditPart:
    return AuditPart(context)
