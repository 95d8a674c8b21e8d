"""
The part C{forwarding} of a member relay: store and forward.

It has gossip replicate the feeds of the peers that are registered, and no others, and the store
keep no more of them than the operator says.  So whoever is away finds here what others have
published meanwhile, and others find what he had published.  When a peer is registered no more, its
feed is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import MeshkitError
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFeedStore, IRegistrations, ISelection, RegistrationChanged
from meshkit.parts import Part, PartContext
from meshkit.relay.forwarding.config import Config as Config
from meshkit.relay.forwarding.operations import ForwardingStatus
from meshkit.runtime.limits import TokenBucket

MIGRATIONS: Final = ()

#: Seconds within which peers that come and go are told of together: each time all that is
#: replicated is told to everybody who is connected.
GATHER: Final = 2.0
#: As a peer can come and go as it likes: so many times at once, and later seconds between two.
AT_ONCE: Final = 10.0
APART: Final = 60.0
#: Seconds between looks for feeds that nobody wants kept: of peers that went while the relay did
#: not run, or of whom something was still on its way.
SWEEP: Final = 3_600.0
#: Feeds that are looked at in one go.
_PAGE: Final = 1_000


class ForwardingPart(Part):
    """See the module."""

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        self._context = context
        self._config: Config = context.config
        self._store = context.find(IFeedStore)
        self._selection = context.find(ISelection)
        self._registrations = context.find(IRegistrations)
        # Replicated, by their keys.
        self._authors: dict[bytes, None] = {}
        self._tell: Callable[[], None] = self._selection.add_kept(self._authors)
        self._telling: IDelayedCall | None = None
        self._tellings = TokenBucket(1 / APART, AT_ONCE)
        self._sweeping = LoopingCall(self._sweep)
        self._sweeping.clock = context.reactor
        self._under_way: Deferred[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._dropped = 0
        context.metrics.gauge(
            "authors", "Peers whose feeds are kept for others.", lambda: len(self._authors)
        )
        context.metrics.count(
            "feeds_dropped_total",
            "Feeds that were dropped, as their authors are not registered any more.",
            lambda: self._dropped,
        )

    # --- the service ----------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        self._store.retain(self._config.retention)
        self._authors.update(dict.fromkeys(key.raw for key in self._registrations.registered()))
        self._unsubscribe = self._context.events.subscribe(RegistrationChanged, self._changed)
        self._tell()
        self._sweeping.start(SWEEP)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        if self._sweeping.running:
            self._sweeping.stop()
        if self._under_way is not None:
            await self._under_way

    def status(self) -> ForwardingStatus:
        kept = self._config.retention
        return ForwardingStatus(
            authors=len(self._authors),
            ttl_secs=self._config.ttl,
            author_bytes=kept.author_bytes,
            total_bytes=kept.bytes,
            feeds_dropped=self._dropped,
        )

    # --- who comes and goes ---------------------------------------------------------------

    def _changed(self, event: RegistrationChanged) -> None:
        if event.registered:
            self._authors[event.key.raw] = None
        else:
            self._authors.pop(event.key.raw, None)
        if self._telling is None or not self._telling.active():
            reactor = self._context.reactor
            wait = self._tellings.take(1.0, reactor.seconds())
            if wait:
                self._tellings.owe(1.0, reactor.seconds())
            self._telling = reactor.callLater(max(GATHER, wait), self._told)

    def _told(self) -> None:
        self._tell()
        self._sweep()

    def _sweep(self) -> None:
        """Drop the feeds that are replicated no more, in the background."""
        if self._under_way is None:
            self._under_way = Deferred.fromCoroutine(self._drop_all())
            self._under_way.addErrback(self._not_swept).addBoth(self._swept)

    def _swept(self, _: object) -> None:
        self._under_way = None

    def _not_swept(self, failure: Failure) -> None:
        # The disk is full, or the node stops.  The next time goes on.
        if failure.check(MeshkitError):
            self._log.warn("feeds were not dropped: {error}", error=str(failure.value))
        else:
            self._log.failure("feeds were not dropped", failure)

    async def _drop_all(self) -> None:
        after = b""
        while self.running:
            page = await self._store.frontier(None, after, _PAGE)
            for each in page:
                # Whom the operator has blocked is not among them: what becomes of that feed is
                # for the operator to say.
                if self.running and not self._selection.wants(each.author):
                    await self._drop(each.author)
            if len(page) < _PAGE:
                break
            after = page[-1].author

    async def _drop(self, author: bytes) -> None:
        messages = await self._store.forget(author)
        if messages:
            self._dropped += 1
            self._log.info(
                "{author} is not registered here: its {messages} messages were dropped",
                author=PublicKey(author).text,
                messages=messages,
            )


def make_part(context: PartContext) -> ForwardingPart:
    return ForwardingPart(context)
