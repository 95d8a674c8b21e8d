"""
One connection with a node of Egregore: the L{Session}, with a store, a clock and bounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    ChannelError,
    DuplicateMessage,
    HashMismatch,
    MeshkitError,
    PeerTooSlow,
    SignatureInvalid,
    StreamError,
)
from meshkit.gossip.egregore.session import (
    PAGE_BYTES,
    Action,
    CatchUp,
    Close,
    Compare,
    GoLive,
    Phase,
    Read,
    Send,
    Session,
    Store,
    Survey,
)
from meshkit.runtime.limits import TokenBucket
from meshkit.shs.egregore_stream import record, split

if TYPE_CHECKING:
    from meshkit.gossip.egregore.part import EgregorePart, Place

#: Seconds that a peer may take for its next message when it is its turn, and for reading
#: what it was sent.
PATIENCE: Final = 30.0
#: Seconds that a peer who dialled us may take to subscribe.
OFFER: Final = 10.0
#: Seconds that an exchange may take before it is live or over.
EXCHANGE: Final = 300.0
#: Seconds between signs of life on a live connection: their nodes hang up after 15.
KEEP_ALIVE: Final = 5.0
#: Seconds of silence after which a live connection is dead: each sign is answered.
SILENCE: Final = 30.0
#: Bytes of received texts at which reading is paused until they are stored.
MAX_UNDIGESTED: Final = 1024 * 1024
#: Forged and altered messages of a connection before the peer is dropped: their nodes
#: check signatures before they pass a message on.
MAX_FORGED: Final = 100
#: Messages of a live connection per second, and at once.
RATE: Final = 200.0
BURST: Final = 2_000.0


@implementer(IPushProducer, IHalfCloseableProtocol)
class EgregoreLink(Protocol):
    """
    A connection to one peer.

    @ivar place: where we dialled it; L{None} if it dialled us.
    @ivar connected_to: the peer's key.
    @ivar received: messages that came from it and were new.
    @ivar live: when it went live, in seconds; L{None} before.
    @ivar finished: the exchange came to its end in good order.
    @ivar failure: why it was dropped.
    """

    _log = Logger()

    def __init__(self, part: EgregorePart, place: Place | None, may_go_live: bool) -> None:
        self._part = part
        self._reactor = part.reactor
        self._may_go_live = may_go_live
        self.place = place
        self.received = 0
        self.live: float | None = None
        self.finished = False
        self.failure: MeshkitError | None = None
        self.connected_to: Any = None
        self.session: Session
        # The transport: a SecureChannel, or in tests something like it.
        self._channel: Any = None
        self._open = False
        self._undigested = 0
        self._paused = False
        self._forged = 0
        self._actions: deque[Action] = deque()
        self._acting = False
        self._heard = 0.0
        self._pace = TokenBucket(RATE, BURST)
        self._drained: Deferred[None] | None = None
        self._turn_due: IDelayedCall | None = None
        self._drain_due: IDelayedCall | None = None
        self._exchange_due: IDelayedCall | None = None
        self._alive_due: IDelayedCall | None = None

    # --- the connection --------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Is it in use?  A link that is being closed is not."""
        return self._open

    def connectionMade(self) -> None:
        self._channel = self.transport
        self.connected_to = self._channel.getPeer().key
        self.session = Session(
            client=self.place is not None,
            memory=self._part.memory.of(self.connected_to.raw),
            own=self._part.own,
            wants=self._part.wants,
            refused=self._part.store.refused_by_egregore,
            may_go_live=self._has_room,
            topics=self._part.topics(),
        )
        self._open = True
        self._channel.registerProducer(self, True)
        self._exchange_due = self._reactor.callLater(EXCHANGE, self._too_slow, "finish")
        self._part.link_made(self)
        if self._open:
            self._act(self.session.start())

    def _has_room(self) -> bool:
        return self._may_go_live and self._part.has_room_to_live(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ConnectionDone):
            # The peer has read our goodbye, and so all that was before it.
            self.session.ended(self._reactor.seconds())
        self._end()
        if self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)
        self._part.link_lost(self, reason)

    def readConnectionLost(self) -> None:
        """The peer said goodbye."""
        if self._open:
            phase = self.session.phase
            # A server that does not push says goodbye where a client subscribes.
            self.finished |= phase in (Phase.OFFER, Phase.ANSWER, Phase.LIVE, Phase.OVER)
            self.session.ended(self._reactor.seconds())
        self.close()

    def writeConnectionLost(self) -> None:
        """Our half is never closed alone."""

    def _end(self) -> None:
        self._open = False
        for due in (self._turn_due, self._drain_due, self._exchange_due, self._alive_due):
            _cancel(due)
        self._turn_due = self._drain_due = self._exchange_due = self._alive_due = None

    def close(self) -> None:
        """End the connection in good order."""
        if self._open:
            self._end()
            self._channel.unregisterProducer()
            self._channel.loseConnection()

    def abort(self) -> None:
        """End the connection now, also one that is being closed."""
        self._end()
        self._channel.abortConnection()

    def drop(self, error: MeshkitError) -> None:
        """End the connection because of what the peer did, or did not do."""
        if self._open:
            self._part.link_failed(self, error)
            self.cut(error)

    def cut(self, error: MeshkitError) -> None:
        """Likewise, where that is put down already."""
        if self._open:
            self._log.info(
                "egregore: {peer} dropped: {code}: {error}",
                peer=str(self.connected_to),
                code=error.code,
                error=str(error),
            )
            self._end()
            self.failure = error
            self._channel.abortConnection()

    # --- messages --------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        for message in split(data):
            if not self._open:
                return
            self._heard = self._reactor.seconds()
            try:
                if self.live is not None and self._pace.take(1.0, self._heard):
                    raise PeerTooSlow("the peer sends more than it can be heard out")
                self._act(self.session.received(message, self._heard))
            except StreamError as e:
                self.drop(e)

    def _act(self, actions: Iterable[Action]) -> None:
        # In a queue: an answer that is there at once goes to the end of it, not deeper.
        self._actions.extend(actions)
        if self._acting:
            return
        self._acting = True
        try:
            while self._open and self._actions:
                self._do(self._actions.popleft())
        finally:
            self._acting = False
            self._actions.clear()
        self._watch()

    def _do(self, action: Action) -> None:
        match action:
            case Send():
                self._channel.write(record(action.data))
            case Survey():
                self._run(self._survey())
            case Compare():
                self._run(self._compare(action))
            case Read():
                self._run(self._read(action))
            case Store():
                self._run(self._store(action))
            case GoLive():
                self._go_live()
            case CatchUp():
                self._part.catch_up(self)
            case Close():
                self.finished = True
                self.close()

    def _run(self, work: Any) -> None:
        """Run something in the background; what it fails with ends the connection."""
        ensureDeferred(work).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, ChannelError):
            self.drop(error)
        elif isinstance(error, MeshkitError):
            self._log.warn(
                "egregore: {peer} closed, as this node has a problem: {code}: {error}",
                peer=str(self.connected_to),
                code=error.code,
                error=str(error),
            )
            self.session.not_stored()
            self.close()
        else:
            self._log.failure("egregore: {peer} broke", failure, peer=str(self.connected_to))
            self.session.not_stored()
            if self._open:
                self.abort()

    async def _survey(self) -> None:
        heads = await self._part.heads_for(self.session.memory)
        if self._open:
            self._act(self.session.surveyed(heads))

    async def _compare(self, action: Compare) -> None:
        # First, so that nothing is published while what this node forgot is on its way.
        seen = self.session.says_of(self._part.own)
        await self._part.store.note_own_seen(self.connected_to.raw, seen)
        ours = dict(await self._part.store.heads(action.authors))
        if self._open:
            self._act(self.session.compared(ours, self._reactor.seconds()))

    async def _read(self, action: Read) -> None:
        # Nothing heaps up for a peer that does not read.
        while self._open and self._drained is not None:
            await self._drained
        texts = await self._part.store.read(
            action.author, action.after, PAGE_BYTES, action.messages
        )
        if not texts and self._open and hasattr(self._part.store, "gone_until"):
            gap = await self._part.store.gone_until(action.author, action.after)
            if gap is not None and gap.until > action.after:
                if self._open:
                    self._act(self.session.gone(action.author, gap.until))
                return
        if self._open:
            withheld, given = self.session.withheld, self.session.given
            actions = self.session.page(action.author, texts)
            self._part.withheld += self.session.withheld - withheld
            self._part.ledger.account(self.connected_to).sent += self.session.given - given
            self._act(actions)

    async def _store(self, action: Store) -> None:
        size = sum(map(len, action.texts))
        self._undigested += size
        self._steer()
        try:
            verdicts = await self._part.store.ingest(action.texts)
        finally:
            self._undigested -= size
            self._steer()
        account = self._part.ledger.account(self.connected_to)
        gap = False
        for verdict in verdicts:
            if verdict.error is None:
                self.received += 1
                account.received += 1
                gap |= not verdict.chain_valid
            elif isinstance(verdict.error, DuplicateMessage):
                account.duplicates += 1
            else:
                account.refused += 1
                self._part.refused[verdict.error.code] += 1
                self._forged += isinstance(verdict.error, (SignatureInvalid, HashMismatch))
                if self._forged > MAX_FORGED and self._open:
                    self._part.ban(self, verdict.error)
                    return
        if self._open:
            self._act(self.session.stored(len(verdicts)))
            if gap and self.live is not None:
                self._part.catch_up(self)

    def _steer(self) -> None:
        """Pause or resume the channel."""
        if not self._paused and self._undigested > MAX_UNDIGESTED:
            self._paused = True
            if self._open:
                self._channel.pauseProducing()
        elif self._paused and self._undigested * 2 <= MAX_UNDIGESTED:
            self._paused = False
            if self._open:
                self._channel.resumeProducing()
        self._watch()

    # --- patience ----------------------------------------------------------------------

    def _watch(self) -> None:
        """Run the clock on the peer while it is its turn, anew after each message."""
        _cancel(self._turn_due)
        self._turn_due = None
        if self._open and not self._paused and self.session.their_turn:
            offering = self.session.phase is Phase.OFFER
            wait, late = (OFFER, self._no_offer) if offering else (PATIENCE, self._late)
            self._turn_due = self._reactor.callLater(wait, late)

    def _late(self) -> None:
        self._too_slow("go on")

    def _no_offer(self) -> None:
        self.finished = True
        self.session.ended(self._reactor.seconds())
        self.close()

    def _too_slow(self, what: str) -> None:
        self.drop(PeerTooSlow(f"the peer did not {what} in time"))

    # --- live --------------------------------------------------------------------------

    def _go_live(self) -> None:
        self.live = self._heard = self._reactor.seconds()
        self.finished = True
        _cancel(self._exchange_due)
        self._exchange_due = None
        self._part.link_is_live(self)
        self._alive_due = self._reactor.callLater(KEEP_ALIVE, self._sign_of_life)

    def _sign_of_life(self) -> None:
        if not self._paused and self._reactor.seconds() - self._heard > SILENCE:
            self._too_slow("give a sign of life")
            return
        self._alive_due = self._reactor.callLater(KEEP_ALIVE, self._sign_of_life)
        # To a peer that does not read it would only heap up.
        if self._drained is None:
            self._act(self.session.keep_alive())

    def announce(self, author: bytes, sequence: int) -> None:
        """A feed is complete here up to a sequence now."""
        if self._open and self.live is not None:
            self._act(self.session.news(author, sequence))

    # --- IPushProducer: the channel says when it is full ------------------------------------

    def pauseProducing(self) -> None:
        if self._drained is None and self._open:
            self._drained = Deferred()
            self._drain_due = self._reactor.callLater(PATIENCE, self._too_slow, "read")

    def resumeProducing(self) -> None:
        if self._drained is not None:
            _cancel(self._drain_due)
            self._drain_due = None
            drained, self._drained = self._drained, None
            drained.callback(None)

    def stopProducing(self) -> None:
        """Whoever waits is woken by C{connectionLost}, which follows."""


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
