"""
One gossip connection: frames in and out, with bounds on both.

Serving: the feeds that the peer wants take turns, a page each, and the next page is
read only when the channel has taken the last one, so that a slow reader costs one
page of memory.  Fetching: pages are handed to the store as they come; when too much
is unstored, of this link or of all, the channel is paused until the store has caught up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    ChannelError,
    DuplicateMessage,
    ForkRefused,
    MalformedFrame,
    MeshkitError,
    PeerTooSlow,
    StreamError,
    UnexpectedMessage,
)
from meshkit.gossip.codec import (
    MAX_ENTRIES,
    PAGE_BYTES,
    PAGE_MESSAGES,
    Done,
    Frame,
    FrameDecoder,
    Have,
    Messages,
    Want,
    encode,
)
from meshkit.gossip.session import MIN_RATE, Session
from meshkit.identity.keys import PublicKey

if TYPE_CHECKING:
    from meshkit.gossip.part import GossipPart
    from meshkit.identity.addresses import MeshAddress

#: Messages of a link that may be refused (altered, forged, malformed) before the peer
#: is dropped: an honest node serves only what it has verified itself.
MAX_REFUSED: Final = 100
#: What one entry of a Have counts for: key, sequence and the look-up they cause.
_ENTRY_COST: Final = 64
#: What every frame counts for beyond that: a job for the database, a call into a thread.
_FRAME_COST: Final = 4 * 1024
#: Seconds that a peer may take to go on with what it began: the rest of a frame, the
#: next page that answers a Want, the reading of what was sent.
PATIENCE: Final = 30.0
#: Seconds, and bytes both ways, after which whoever has dialled replaces a connection.  Its
#: keys are those of its handshake: who takes them from our memory reads no more than this.
RENEW_SECONDS: Final = 24 * 3600.0
RENEW_BYTES: Final = 2**40


@implementer(IPushProducer, IHalfCloseableProtocol)
class GossipLink(Protocol):
    """
    A connection to one peer.

    It is a producer for as long as it lasts, and a channel is not closed under a
    producer: who wants it closed calls L{close}.

    @ivar address: where we dialled; L{None} if the peer dialled us.
    @ivar dialled: we opened it.
    @ivar received: messages that came from the peer and were new.
    @ivar sent: messages that the peer was given.
    """

    _log = Logger()

    def __init__(self, part: GossipPart, address: MeshAddress | None) -> None:
        self._part = part
        self._reactor = part.reactor
        self.address = address
        self.dialled = address is not None
        self.session = Session(part.claims)
        self.received = 0
        self.sent = 0
        self.connected_to: Any = None
        # The transport: a SecureChannel, or in tests something like it.
        self._channel: Any = None
        self._decoder = FrameDecoder()
        self._open = False
        self._reading = False
        self._serving = False
        self._telling_all = False
        self._tell_again = False
        self._digestion = part.digestion
        self._undigested = 0
        self._reading_paused = False
        # Seconds for which we listened, without the time since the last pause ended.
        self._listened = 0.0
        self._listening_since = 0.0
        self._refused = 0
        self._drained: Deferred[None] | None = None
        self._answer_due: IDelayedCall | None = None
        self._turn_due: IDelayedCall | None = None
        self._drain_due: IDelayedCall | None = None
        self._renew_due: IDelayedCall | None = None
        # Bytes both ways until the connection is replaced; also when that is under way.
        self._renew_left = RENEW_BYTES

    # --- the connection --------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Is it in use?  A link that is being closed is not."""
        return self._open

    def connectionMade(self) -> None:
        self._channel = self.transport
        self.connected_to = self._channel.getPeer().key
        self._open = True
        self._listening_since = self._reactor.seconds()
        self._channel.registerProducer(self, True)
        if self.dialled:
            self._renew_due = self._reactor.callLater(RENEW_SECONDS, self._renew)
        self._part.link_made(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()
        if self._drained is not None:
            # Who waits for it looks at _open and ends.
            drained, self._drained = self._drained, None
            drained.callback(None)
        self._part.link_lost(self, reason)

    def readConnectionLost(self) -> None:
        """The peer said goodbye: so do we, since it would not answer any more."""
        self.close()

    def writeConnectionLost(self) -> None:
        """Our half is never closed alone."""

    def _end(self) -> None:
        """Nothing is sent or handled from now on, and what we fetch others may fetch."""
        self._open = False
        self.session.close()
        self._digestion.leave(self._go_on)
        for due in (self._answer_due, self._drain_due, self._turn_due, self._renew_due):
            _cancel(due)
        self._answer_due = self._drain_due = self._turn_due = self._renew_due = None

    def drop(self, error: MeshkitError) -> None:
        """End the connection because of what the peer did, or did not do."""
        if self._open:
            self._log.info(
                "gossip with {peer} dropped: {code}: {error}",
                peer=str(self.connected_to),
                code=error.code,
                error=str(error),
            )
            self._end()
            self._part.link_failed(self, error)
            self._channel.abortConnection()

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

    # --- frames ------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        self._count(len(data))
        self._decoder.feed(data)
        self._read_frames()

    def _read_frames(self) -> None:
        """Handle the frames that are here, until it is too much at once."""
        if self._reading:
            return
        self._reading = True
        progress = False
        try:
            while self._open and not self._reading_paused:
                if self._digestion.full:
                    self._pause_reading()
                    self._digestion.wait(self._go_on)
                    break
                frame = self._decoder.next_frame()
                if frame is None:
                    break
                # A peer that only ever tells what it has does not answer.
                progress |= isinstance(frame, (Messages, Done)) or not self.session.owed
                self._handle(frame)
        except StreamError as e:
            self.drop(e)
        finally:
            self._reading = False
        self._watch(progress)

    def _handle(self, frame: Frame) -> None:
        match frame:
            case Have():
                told = self.session.note_have(frame.entries)
                cost = _FRAME_COST + len(frame.entries) * _ENTRY_COST
                self._run(self._compare(self._part.selected(told), cost))
            case Want():
                self.session.want_received(frame.entries)
                if not self._serving:
                    self._serving = True
                    self._run(self._serve())
            case Messages():
                first = self.session.page_received(frame.author, len(frame.texts))
                self._run(self._store(frame.author, first, frame.texts))
            case Done():
                if self.session.done_received(frame.author).finished:
                    self._run(self._finish(frame.author))

    def send(self, frame: Frame) -> None:
        if self._open:
            data = encode(frame)
            self._channel.write(data)
            self._count(len(data))

    def _run(self, coroutine: Any) -> None:
        """Run something in the background; what it fails with ends the connection."""
        ensureDeferred(coroutine).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, ChannelError):
            self.drop(error)
            return
        if isinstance(error, MeshkitError):
            self._hindered(error)
            return
        self._log.failure("gossip with {peer} broke", failure, peer=str(self.connected_to))
        if self._open:
            self.abort()

    def _hindered(self, error: MeshkitError) -> None:
        """
        End the connection because this node cannot go on: its disk is full, it is stopping.
        That is not the peer's doing; what is missing is fetched over the next connection.
        """
        if self._open:
            self._log.warn(
                "gossip with {peer} closed, as this node has a problem: {code}: {error}",
                peer=str(self.connected_to),
                code=error.code,
                error=str(error),
            )
            self._part.count_hindered(error)
            self.close()

    # --- lasting ---------------------------------------------------------------------------

    def _count(self, size: int) -> None:
        """So many bytes more went over this connection."""
        left, self._renew_left = self._renew_left, self._renew_left - size
        if self.dialled and self._renew_left <= 0 < left:
            self._renew()

    def _renew(self) -> None:
        if self._open and self.address is not None:
            self._part.renew(self.address)

    # --- patience ------------------------------------------------------------------------

    def _watch(self, progress: bool = False) -> None:
        """
        Start or stop the clock on the peer: it runs while the peer owes the rest of a
        frame or an answer, and we are listening.

        @param progress: the peer has given something of what it owes: start anew.
        """
        owes = self._open and (self._decoder.mid_frame or self.session.owed)
        if not owes or self._reading_paused or progress:
            _cancel(self._answer_due)
            self._answer_due = None
        if owes and not self._reading_paused and self._answer_due is None:
            self._answer_due = self._reactor.callLater(PATIENCE, self._too_slow, "answer")
        self._watch_rate()

    @property
    def _now(self) -> float:
        """Seconds for which we have listened: while we do not, the peer is not late."""
        if self._reading_paused:
            return self._listened
        listening: float = self._reactor.seconds() - self._listening_since
        return self._listened + listening

    def _watch_rate(self) -> None:
        """Judge the rates of the requests when it is time to."""
        _cancel(self._turn_due)
        self._turn_due = None
        turn = self.session.next_turn()
        if self._open and not self._reading_paused and turn is not None:
            self._turn_due = self._reactor.callLater(max(0.0, turn - self._now), self._judge)

    def _judge(self) -> None:
        # The clock of the connection is a sum of floats: a turn may be over by a hair less.
        author = self.session.too_slow(self._now + 0.001)
        if author is None:
            self._watch_rate()
            return
        self._note_unkept([author])
        self.drop(
            PeerTooSlow(
                f"the peer brought less than {MIN_RATE} bytes/s of {PublicKey(author).text}, "
                f"which it says it has"
            )
        )

    def _note_unkept(self, authors: Iterable[bytes]) -> None:
        for author in authors:
            request = self.session.asked[author]
            if request.owed and request.stored == 0:
                self._part.note_unkept(self.connected_to, author)

    def _too_slow(self, what: str) -> None:
        if what == "answer":
            self._note_unkept(self.session.asked)
        self.drop(PeerTooSlow(f"the peer did not {what} for {PATIENCE:.0f} s in mid-exchange"))

    # --- fetching --------------------------------------------------------------------------

    @contextmanager
    def _digesting(self, size: int) -> Iterator[None]:
        """While this lasts, C{size} bytes of what was received are on our hands."""
        self._undigested += size
        self._digestion.add(size)
        if self._undigested > self._part.fair_part():
            self._pause_reading()
        try:
            yield
        finally:
            self._undigested -= size
            self._digestion.remove(size)
            self._go_on()

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._open:
            self._listened = self._now
            self._reading_paused = True
            self._channel.pauseProducing()

    def _go_on(self) -> None:
        """Read on, if there is room for it."""
        # Early: while some pages are stored, the threads want others to check.
        if not self._reading_paused or self._undigested * 4 > self._part.fair_part() * 3:
            return
        if self._digestion.full:
            if self._open:
                self._digestion.wait(self._go_on)
            return
        self._digestion.leave(self._go_on)
        self._reading_paused = False
        self._listening_since = self._reactor.seconds()
        if self._open:
            self._channel.resumeProducing()
            self._read_frames()

    async def _compare(self, authors: Sequence[bytes], cost: int) -> None:
        with self._digesting(cost):
            ours = dict(await self._part.store.heads(authors))
        self._note_ahead(authors, ours)
        self.ask_more()

    def _note_ahead(self, authors: Sequence[bytes], ours: dict[bytes, int]) -> None:
        is_unkept, peer = self._part.is_unkept, self.connected_to
        self.session.compare((a for a in authors if not is_unkept(peer, a)), ours)

    def reconsider(self) -> None:
        """Look again at all that the peer has: the selection of feeds changed."""
        self.session.ahead.clear()
        authors = self._part.selected(list(self.session.peer_has))
        self._run(self._compare(authors, 0))

    def ask_more(self) -> None:
        """Ask for feeds that the peer has more of, as many as may be asked for."""
        if self._open:
            picked = self.session.pick()
            if picked:
                self._run(self._ask(picked))

    async def _ask(self, picked: list[bytes]) -> None:
        ours = dict(await self._part.store.heads(picked))
        entries = []
        for author in picked:
            have = ours.get(author, 0)
            # Lost meanwhile: the session is closed and has released everything.
            if self._open and self.session.ask(author, have, self._now):
                entries.append((author, have))
        if entries:
            self.send(Want(entries))
            self._watch()
        if self._open and len(entries) < len(picked):
            self._part.feed_released()

    async def _store(self, author: bytes, first: int, texts: list[bytes]) -> None:
        with self._digesting(_FRAME_COST + sum(map(len, texts))):
            verdicts = await self._part.store.ingest(texts, author=author, first=first)
        if not self._open:
            return
        stored = 0
        for text, verdict in zip(texts, verdicts, strict=True):
            if verdict.error is None:
                self.received += 1
                stored += len(text)
            elif isinstance(verdict.error, UnexpectedMessage):
                raise MalformedFrame(f"the peer sent what was not asked for: {verdict.error}")
            elif not isinstance(verdict.error, (DuplicateMessage, ForkRefused)):
                self._refused += 1
                self._part.count_refused(self, verdict.error)
                if self._refused > MAX_REFUSED:
                    self._part.ban(self.connected_to, verdict.error)
                    return
        if self.session.page_stored(author, stored).finished:
            await self._finish(author)
        else:
            self._watch_rate()

    async def _finish(self, author: bytes) -> None:
        ours = dict(await self._part.store.heads([author]))
        if self._open:
            self.session.finish(author, ours.get(author, 0))
            # It may have claimed more meanwhile.
            self._note_ahead(self._part.selected([author]), ours)
            self._part.feed_released()

    # --- serving -----------------------------------------------------------------------------

    async def _serve(self) -> None:
        wanted = self.session.wanted
        try:
            while self._open and wanted:
                author = next(iter(wanted))
                after = wanted.pop(author)
                texts = await self._part.store.read(author, after, PAGE_BYTES, PAGE_MESSAGES)
                if texts:
                    self.send(Messages(author, texts))
                    self.sent += len(texts)
                    self.session.served(author, after + len(texts))
                    # To the end of the queue: the feeds take turns.
                    wanted.setdefault(author, after + len(texts))
                else:
                    self.send(Done(author))
                if self._drained is not None:
                    await self._drained
        finally:
            self._serving = False

    def announce(self, heads: Sequence[tuple[bytes, int]]) -> None:
        """Tell the peer what it does not know yet of our heads."""
        news = self.session.news_for_peer(heads)
        if news and self._drained is not None:
            # Nothing heaps up for a peer that does not read: it is told all when it does.
            self._tell_again = True
            return
        for start in range(0, len(news), MAX_ENTRIES):
            self.send(Have(news[start : start + MAX_ENTRIES]))

    def announce_all(self) -> None:
        """Tell the peer everything that is complete here, page by page."""
        self._tell_again = True
        if not self._telling_all:
            self._telling_all = True
            self._run(self._announce_all())

    async def _announce_all(self) -> None:
        try:
            while self._open and self._tell_again:
                self._tell_again = False
                await self._announce_each()
        finally:
            self._telling_all = False

    async def _announce_each(self) -> None:
        after = b""
        while self._open:
            if self._drained is not None:
                await self._drained
            heads = await self._part.store.heads(after=after, limit=MAX_ENTRIES)
            if not heads:
                return
            after = heads[-1][0]
            self.send(Have(heads))

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
            if self._tell_again:
                self.announce_all()

    def stopProducing(self) -> None:
        # connectionLost follows and wakes whoever waits.
        pass


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
