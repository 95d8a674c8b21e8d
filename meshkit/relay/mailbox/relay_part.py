"""
The part C{mailboxes} of a relay: keeps sealed messages for those who are away
(L{meshkit.relay.mailbox.serving}).

Who may call is said by the relay's network: its members at a member relay, whoever comes at a blind
one.  What each may do is limited by the settings, in messages, in bytes and in calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import ConfigError, MeshkitError
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFeedStore, IMetrics, IWantsFiles
from meshkit.operations import BoundOperation, Page
from meshkit.parts import Part, PartContext, shield
from meshkit.relay.mailbox import relay_operations as offered
from meshkit.relay.mailbox.schema import RELAY_MIGRATIONS
from meshkit.relay.mailbox.sealing import MAX_SEALED
from meshkit.relay.mailbox.serving import MailboxServer
from meshkit.relay.mailbox.store import MailboxLimits, MailboxStore, MailboxTotals
from meshkit.relay.mailbox.wire import LABEL, VERSION
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory
from meshkit.rpc.table import RPCLimits
from meshkit.runtime.limits import PeerBuckets
from meshkit.runtime.moments import rfc3339

MIGRATIONS: Final = RELAY_MIGRATIONS

#: What one connection needs: a call that is held, and some others beside it.
_CONNECTION: Final = RPCLimits(served=64, refused=256, held_bytes=4 * MAX_SEALED)
#: Seconds between two looks at what is over, and at how much there is.
_SWEEP: Final = 600.0
_COUNT: Final = 15.0

_DEFAULTS: Final = MailboxLimits()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[mailboxes]}."""

    mailboxes: Annotated[
        int, Meta(ge=1, le=1_000_000, description="recipients who may have a mailbox here")
    ] = _DEFAULTS.mailboxes
    messages: Annotated[
        int, Meta(ge=1, le=1_000_000, description="messages that wait for one recipient")
    ] = _DEFAULTS.messages
    bytes: Annotated[
        int,
        Meta(
            ge=MAX_SEALED,
            le=64 * 2**30,
            description="bytes of the messages that wait for one recipient",
            extra={"size": True},
        ),
    ] = _DEFAULTS.bytes
    from_one: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="messages of one sender that wait for one recipient"),
    ] = _DEFAULTS.from_one
    of_sender: Annotated[
        int, Meta(ge=1, le=1_000_000, description="messages of one sender that wait for all")
    ] = _DEFAULTS.of_sender
    bytes_in_all: Annotated[
        int,
        Meta(
            ge=MAX_SEALED,
            le=2**43,
            description="bytes of all messages that wait; the database takes up to twice that",
            extra={"size": True},
        ),
    ] = _DEFAULTS.bytes_in_all
    mailboxes_of_origin: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="mailboxes that may be opened from one IPv4 address or IPv6 /64",
        ),
    ] = _DEFAULTS.mailboxes_of_origin
    bytes_of_origin: Annotated[
        int,
        Meta(
            ge=MAX_SEALED,
            le=2**43,
            description="bytes of all messages that wait and were left from one of those",
            extra={"size": True},
        ),
    ] = _DEFAULTS.bytes_of_origin
    rate: Annotated[
        float,
        Meta(
            ge=0.1,
            le=100_000,
            description="calls a second that one key may make; each 4 KiB of a message count as "
            "one more",
        ),
    ] = 50.0
    burst: Annotated[
        int, Meta(ge=32, le=1_000_000, description="calls that it may make at once")
    ] = 500

    def limits(self) -> MailboxLimits:
        """
        @return: the same, as the store enforces them.
        @raise ConfigError: if one recipient may have more than all together.
        """
        if self.bytes > self.bytes_in_all:
            raise ConfigError(
                f"mailboxes.bytes: {self.bytes} bytes for one recipient are more than "
                f"mailboxes.bytes_in_all, which is {self.bytes_in_all}"
            )
        return MailboxLimits(
            messages=self.messages,
            bytes=self.bytes,
            from_one=self.from_one,
            of_sender=self.of_sender,
            mailboxes=self.mailboxes,
            bytes_in_all=self.bytes_in_all,
            mailboxes_of_origin=self.mailboxes_of_origin,
            bytes_of_origin=self.bytes_of_origin,
        )


class MailboxesStatus(msgspec.Struct):
    """
    What a relay keeps for those who are away.

    @ivar mailboxes: recipients who have a mailbox here.
    @ivar online: those of them who wait for messages just now.
    @ivar messages: that wait in the mailboxes.
    @ivar bytes: of them.
    @ivar max_bytes: of them, at most.
    @ivar deposited: messages that were left here since the start.
    @ivar collected: messages that were taken out since the start.
    """

    mailboxes: int
    online: int
    messages: int
    bytes: int
    max_bytes: int
    deposited: int
    collected: int


@implementer(IWantsFiles)
class MailboxesPart(Part):
    """
    See the module.

    @ivar files: see L{IWantsFiles}.
    """

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        """@raise ConfigError: if the settings cannot be used."""
        config: Config = context.config
        self._context = context
        self._limits = config.limits()
        # Each of them may be there and wait.
        self.files = config.mailboxes
        self._blocks = context.find(IFeedStore)
        self._store = MailboxStore(context.database, context.identity.public, self._limits)
        buckets = PeerBuckets(config.rate, config.burst)
        self.server = MailboxServer(
            context.reactor,
            context.identity,
            self._store,
            wall_clock=context.wall_clock,
            buckets=buckets,
        )
        dispatcher = Dispatcher()
        self.server.serve(dispatcher)
        self._factory = RPCFactory(context.reactor, dispatcher, limits=_CONNECTION, buckets=buckets)
        self._totals = MailboxTotals(0, 0, 0)
        self._timers: dict[str, IDelayedCall] = {}
        self._measure(context.metrics)

    def _measure(self, metrics: IMetrics) -> None:
        metrics.gauge("mailboxes", "Recipients who have one.", lambda: self._totals.mailboxes)
        metrics.gauge("online", "Those who wait for messages.", lambda: self.server.held)
        metrics.gauge("messages", "Messages that wait.", lambda: self._totals.messages)
        metrics.gauge("stored_bytes", "Bytes of them.", lambda: self._totals.bytes)
        metrics.count(
            "deposited_total", "Messages that were left here.", lambda: self.server.deposited
        )
        metrics.count(
            "collected_total", "Messages that were taken out.", lambda: self.server.collected
        )

    # --- the service ---------------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self._count()
        self._again("sweep", _SWEEP, self._sweep)
        self._again("count", _COUNT, self._count)

    def stopService(self) -> None:
        super().stopService()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.server.stop()

    def _again(self, name: str, seconds: float, work: Callable[[], Any]) -> None:
        """Do something now and then, as long as it runs."""

        def due() -> None:
            self._again(name, seconds, work)
            shield(work()).addErrback(self._failed, name)

        self._timers[name] = self._context.reactor.callLater(seconds, due)

    def _failed(self, failure: Failure, name: str) -> None:
        if failure.check(MeshkitError):
            self._log.warn(
                "the mailboxes could not be looked after ({name}): {error}",
                name=name,
                error=str(failure.value),
            )
        else:
            self._log.failure("looking after the mailboxes ({name})", failure, name=name)

    async def _sweep(self) -> None:
        await self._store.sweep(self._context.wall_clock() // 10**9)

    async def _count(self) -> None:
        self._totals = await self._store.totals()

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {(LABEL, VERSION): self._factory}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self._blocks is not None and self._blocks.is_blocked(peer.raw)
        return bool(self.running and not blocked and not self._context.peers.ledger.is_banned(peer))

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.LIST, self._answer_list),
            BoundOperation(offered.REMOVE, self._answer_remove),
        )

    async def _answer_list(self, request: offered.ListMailboxes) -> Page:
        found, totals = await self._store.mailboxes(request.limit, request.offset)
        shown = [
            offered.MailboxShown(
                each.recipient.text,
                each.origin,
                each.messages,
                each.bytes,
                rfc3339(each.until * 10**9),
            )
            for each in found
        ]
        return Page(shown, totals.mailboxes, request.limit, request.offset)

    def _answer_remove(self, request: offered.RemoveMailbox) -> Deferred[None]:
        return shield(self._store.remove(PublicKey.parse(request.recipient)))

    def status(self) -> MailboxesStatus:
        return MailboxesStatus(
            mailboxes=self._totals.mailboxes,
            online=self.server.held,
            messages=self._totals.messages,
            bytes=self._totals.bytes,
            max_bytes=self._limits.bytes_in_all,
            deposited=self.server.deposited,
            collected=self.server.collected,
        )


def make_part(context: PartContext) -> MailboxesPart:
    return MailboxesPart(context)
