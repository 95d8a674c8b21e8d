"""
One gossip connection: frames in and out, with bounds on both.

What is known of the peer's feeds is in L{meshkit.gossip.spread}, what differs is found by
L{meshkit.gossip.comparing}, what the peer is sent by L{meshkit.gossip.serving}.  Here
pages are handed to the store as they come; when too much is unstored, of this link or of
all, the channel is paused until the store has caught up.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    MalformedFrame,
    MeshkitError,
    Overloaded,
    PeerFloods,
    PeerTooSlow,
    StreamError,
)
from meshkit.gossip.codec import (
    MAX_ENTRIES,
    Credit,
    Frame,
    FrameDecoder,
    Gone,
    Hello,
    Interest,
    Messages,
    Note,
    Ping,
    Pong,
    Proof,
    Ranges,
    Stopped,
    Tagged,
    encode,
)
from meshkit.gossip.comparing import Comparing
from meshkit.gossip.fetching import Fetching
from meshkit.gossip.reconcile import NONCE_BYTES, make_salt
from meshkit.gossip.selection import PeerInterest, find_tagged
from meshkit.gossip.serving import Serving
from meshkit.gossip.spread import Partner
from meshkit.gossip.telling import Telling
from meshkit.identity.addresses import transport_of
from meshkit.interfaces import Interest as Selected
from meshkit.runtime.limits import TokenBucket

if TYPE_CHECKING:
    from meshkit.gossip.part import GossipPart
    from meshkit.identity.addresses import MeshAddress

#: Messages of a link that may be refused (altered, forged, malformed) before the peer
#: is dropped: an honest node serves only what it has verified itself.
MAX_REFUSED: Final = 100
#: What one entry of a note counts for: key, sequence and the look-up they cause.
_ENTRY_COST: Final = 64
#: What every frame counts for beyond that: a job for the database, a call into a thread.
_FRAME_COST: Final = 4 * 1024
#: Seconds that a peer may take to go on with what it began: the rest of a frame, the
#: reading of what was sent.
PATIENCE: Final = 30.0
#: Seconds of silence after which we ask whether the peer is there, and after which it is
#: not.
IDLE: Final = 30.0
DEAD: Final = 90.0
#: Seconds in which a peer has to say something after this node was asleep.
PROOF: Final = 10.0
#: Seconds between two looks at what a peer owes, at least.
LEAST_WAIT: Final = 0.1
#: Seconds, and bytes both ways, after which whoever has dialled replaces a connection.  Its
#: keys are those of its handshake: who takes them from our memory reads no more than this.
RENEW_SECONDS: Final = 24 * 3600.0
RENEW_BYTES: Final = 2**40
#: Feeds that changed and of which the peer was not told yet.
MAX_NEWS: Final = 20_000
#: Feeds of which the peer is known to have the fork proof.
MAX_PROVEN: Final = 1_000
#: What a peer may say that is of no use, per second and at once; beyond it, it is read more
#: slowly.
USELESS_RATE: Final = 50.0
USELESS_BURST: Final = 1_000.0
#: What an interest, a reconciliation and a proof cost of that.
_INTEREST_COST: Final = 50.0
_RANGES_COST: Final = 20.0
_TAGGED_COST: Final = 1.0
_PROOF_COST: Final = 20.0
#: Most seconds for which a peer is not read at a time.
MAX_THROTTLE: Final = 10.0

#: What it costs a peer's score, of 100: a frame that is none, messages that nobody asked
#: for, a promise not kept, too much of no use, a message that was refused.
MALFORMED_COST: Final = 40.0
UNASKED_COST: Final = 20.0
PROMISE_COST: Final = 10.0
FLOOD_COST: Final = 5.0
REFUSED_COST: Final = 0.9


@implementer(IPushProducer, IHalfCloseableProtocol)
class GossipLink(Protocol):
    """
    A connection to one peer.

    It is a producer for as long as it lasts, and a channel is not closed under a
    producer: who wants it closed calls L{close}.

    @ivar address: where we dialled; L{None} if the peer dialled us.
    @ivar dialled: we opened it.
    @ivar relayed: it goes through a relay.
    @ivar partner: what is known of the peer's feeds over this link.
    @ivar interest: what the peer replicates.
    @ivar received: messages that came from the peer and were new.
    @ivar sent: messages that the peer was given.
    @ivar moved: when a message last went over it that was new; at first, when it was made.
    """

    _log = Logger()

    def __init__(self, part: GossipPart, address: MeshAddress | None) -> None:
        self.part = part
        self.reactor = part.reactor
        self.spread = part.spread
        self.address = address
        self.dialled = address is not None
        self.relayed = False
        self.interest = PeerInterest()
        self.received = 0
        self.sent = 0
        self.connected_to: Any = None
        self.partner: Partner
        self.telling = Telling(self)
        self.fetching = Fetching(self)
        self.serving = Serving(self, part.store)
        self.comparing = Comparing(self, part.store, part.rooms)
        # The transport: a SecureChannel, or in tests something like it.
        self._channel: Any = None
        self._decoder = FrameDecoder()
        self._open = False
        self._nonce = b""
        self._greeted = False
        self._useless = TokenBucket(USELESS_RATE, USELESS_BURST)
        self._reading = False
        self._digestion = part.digestion
        self._undigested = 0
        self._full = False
        self._throttled: IDelayedCall | None = None
        self._reading_paused = False
        # Since when we do not listen, if we do not: we do not read, or the peer has no credit.
        self._deaf_since: float | None = None
        self._made = self.moved = 0.0
        self._heard = 0.0
        self._spoke = 0.0
        self._pinged: tuple[int, float] | None = None
        self._pings = 0
        self.drained: Deferred[None] | None = None
        # What this node replicates is to be told when the peer reads again.
        self._owes_interest = False
        self._frame_due: IDelayedCall | None = None
        self._drain_due: IDelayedCall | None = None
        self._alive_due: IDelayedCall | None = None
        self._proof_due: IDelayedCall | None = None
        self._renew_due: IDelayedCall | None = None
        # Bytes both ways until the connection is replaced; also when that is under way.
        self._renew_left = RENEW_BYTES

    # --- the connection --------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Is it in use?  A link that is being closed is not."""
        return self._open

    @property
    def lasted(self) -> float:
        """Seconds since it was made."""
        since: float = self.reactor.seconds() - self._made
        return since

    @property
    def ready(self) -> bool:
        """Is it known what the peer replicates?"""
        return self._open and self._greeted and self.interest.complete

    @property
    def clear(self) -> bool:
        """May more be written now?"""
        return self._open and self.drained is None

    def connectionMade(self) -> None:
        self._channel = self.transport
        self.connected_to = self._channel.getPeer().key
        self.relayed = transport_of(self._channel.getPeer())[1] is not None
        self.partner = self.spread.join(self.connected_to.raw)
        self._open = True
        self._heard = self._spoke = self._made = self.moved = self.reactor.seconds()
        self._channel.registerProducer(self, True)
        if self.dialled:
            self._renew_due = self.reactor.callLater(RENEW_SECONDS, self._renew)
        self._alive_due = self.reactor.callLater(IDLE, self._check_alive)
        self.part.link_made(self)
        if self._open:
            self._nonce = self.part.make_nonce(NONCE_BYTES)
            self.send(Hello(self._nonce))
            self.send_interest()
            self._ping()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()
        if self.drained is not None:
            # Who waits for it looks at _open and ends.
            drained, self.drained = self.drained, None
            drained.callback(None)
        self.part.link_lost(self, reason)

    def readConnectionLost(self) -> None:
        """The peer said goodbye: so do we, since it would not answer any more."""
        self.close()

    def writeConnectionLost(self) -> None:
        """Our half is never closed alone."""

    def _end(self) -> None:
        """Nothing is sent or handled from now on, and what we fetch others may fetch."""
        self._open = False
        self.spread.leave(self.partner)
        self.comparing.close()
        self.fetching.close()
        self._digestion.leave(self._go_on)
        for due in (
            self._frame_due,
            self._drain_due,
            self._alive_due,
            self._proof_due,
            self._renew_due,
            self._throttled,
        ):
            _cancel(due)

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
            self.part.link_failed(self, error)
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
        self._heard = self._now
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
                    self._full = True
                    self._pause_reading()
                    self._digestion.wait(self._go_on)
                    break
                frame = self._decoder.next_frame()
                if frame is None:
                    break
                progress = True
                self._handle(frame)
        except StreamError as e:
            self.part.offend(self, e, MALFORMED_COST)
            self.drop(e)
        finally:
            self._reading = False
        self._watch(progress)

    def _handle(self, frame: Frame) -> None:
        if isinstance(frame, Hello) is self._greeted:
            raise MalformedFrame("the first frame, and no other, has to be a hello")
        match frame:
            case Messages():
                self.fetching.messages(frame)
            case Note():
                self.telling.note(frame)
            case Ranges():
                if frame.round == 0:
                    self.cost(_RANGES_COST)
                self.comparing.received(frame)
            case Credit():
                self.serving.credit.raised(frame.messages, frame.bytes)
                self.serving.wake()
            case Stopped():
                for author in frame.authors:
                    self.spread.stopped(self.partner, author)
                self.fetching.ask_more()
            case Ping():
                self.cost(1.0)
                if self.clear:
                    self.send(Pong(frame.token))
            case Pong():
                self._pong(frame.token)
            case Interest():
                self._interest(frame)
            case Proof():
                self.cost(_PROOF_COST)
                self.run(self.telling.take_proof(frame))
            case Tagged():
                self.cost(_TAGGED_COST)
                self.run(self.telling.take_tagged(frame))
            case Gone():
                self.fetching.gone(frame)
            case Hello():
                self._greeted = True
                nonces = (self._nonce, frame.nonce)
                self.comparing.greet(make_salt(*(nonces if self.dialled else nonces[::-1])))

    def send(self, frame: Frame) -> None:
        """Send a frame, if the link is open."""
        if self._open:
            data = encode(frame)
            self._spoke = self.reactor.seconds()
            self._channel.write(data)
            self._count(len(data))

    def count_received(self) -> None:
        """The peer has brought a message that was new."""
        self.received += 1
        self.moved = self.reactor.seconds()
        self.part.ledger.account(self.connected_to).received += 1

    def count_sent(self, messages: int) -> None:
        """The peer was given so many messages."""
        self.sent += messages
        self.moved = self.reactor.seconds()
        self.part.ledger.account(self.connected_to).sent += messages

    def run(self, coroutine: Any) -> None:
        """Run something in the background; what it fails with ends the connection."""
        ensureDeferred(coroutine).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, ChannelError):
            if self._open:
                self.part.offend(self, error, MALFORMED_COST)
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
            self.part.count_hindered(error)
            self.close()

    # --- lasting ---------------------------------------------------------------------------

    def _count(self, size: int) -> None:
        """So many bytes more went over this connection."""
        left, self._renew_left = self._renew_left, self._renew_left - size
        if self.dialled and self._renew_left <= 0 < left:
            self._renew()

    def _renew(self) -> None:
        if self._open and self.address is not None:
            self.part.renew(self.address)

    def _check_alive(self) -> None:
        """Is it time to say something, or has the peer been silent for too long?"""
        silent = self._now - self._heard
        if silent >= DEAD - 0.001:
            self.drop(PeerTooSlow(f"nothing came from the peer for {DEAD:.0f} s"))
            return
        idle = self.reactor.seconds() - self._spoke
        if idle >= IDLE - 0.001:
            self._ping()
            idle = 0.0
        self._alive_due = self.reactor.callLater(
            max(0.1, min(IDLE - idle, DEAD - silent)), self._check_alive
        )

    def _ping(self) -> None:
        if self.clear:
            self._pings += 1
            self._pinged = (self._pings, self.reactor.seconds())
            self.send(Ping(self._pings))

    def prove(self) -> None:
        """This node was asleep: the peer has L{PROOF} seconds to say that it is there."""
        # Who does not read what was sent is given up for that.
        if self.clear and self._proof_due is None:
            self._ping()
            self._proof_due = self.reactor.callLater(PROOF, self._proved, self._heard)

    def _proved(self, before: float) -> None:
        self._proof_due = None
        if self._heard <= before and not self.deaf:
            self.drop(PeerTooSlow(f"nothing came within {PROOF:.0f} s after this node woke up"))

    def _pong(self, token: int) -> None:
        if self._pinged is None or self._pinged[0] != token:
            self.cost(1.0)
            return
        self.part.ledger.measured(self.connected_to, self.reactor.seconds() - self._pinged[1])
        self._pinged = None

    # --- patience ------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        """The time without that in which we did not listen: then the peer is not late."""
        now: float = self.reactor.seconds() if self._deaf_since is None else self._deaf_since
        return now - self.partner.unheard

    @property
    def deaf(self) -> bool:
        """Do we not listen to the peer?"""
        return self._deaf_since is not None

    def listen(self) -> None:
        """Start or stop the clock on the peer."""
        listens = self._open and not self._reading_paused and not self.fetching.exhausted
        now = self.reactor.seconds()
        if listens and self._deaf_since is not None:
            self.partner.unheard += now - self._deaf_since
            self._deaf_since = None
        elif not listens and self._deaf_since is None:
            self._deaf_since = now

    def _watch(self, progress: bool = False) -> None:
        """
        Watch over the rest of a frame that was begun.

        @param progress: a frame was completed.
        """
        owes = self._open and self._decoder.mid_frame and not self._reading_paused
        if not owes or progress:
            _cancel(self._frame_due)
            self._frame_due = None
        if owes and self._frame_due is None:
            self._frame_due = self.reactor.callLater(PATIENCE, self._too_slow, "go on")
        self.fetching.watch_promises()

    def _too_slow(self, what: str) -> None:
        self.drop(PeerTooSlow(f"the peer did not {what} for {PATIENCE:.0f} s in mid-exchange"))

    # --- holding back ----------------------------------------------------------------------

    def cost(self, cost: float) -> None:
        """The peer said something that may be of no use: if it is too much, read less."""
        wait = self._useless.take(cost, self.reactor.seconds())
        if wait and self._throttled is None and self._open:
            self.part.offend(
                self,
                PeerFloods("the peer says more that is not new than anybody needs"),
                FLOOD_COST,
            )
            if self._open:
                self._throttled = self.reactor.callLater(min(wait, MAX_THROTTLE), self._relent)
                self._pause_reading()

    def _relent(self) -> None:
        self._throttled = None
        self._go_on()

    @contextmanager
    def digesting(self, size: int) -> Iterator[None]:
        """While this lasts, C{size} bytes of what was received are on our hands."""
        self._undigested += size
        self._digestion.add(size)
        if self._undigested > self.part.fair_part():
            self._full = True
            self._pause_reading()
        try:
            yield
        finally:
            self._undigested -= size
            self._digestion.remove(size)
            self._go_on()

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._open:
            self._reading_paused = True
            self._channel.pauseProducing()
            self.listen()

    def _go_on(self) -> None:
        """Read on, if there is room for it."""
        if not self._reading_paused or self._throttled is not None:
            return
        # Early: while some pages are stored, the threads want others to check.
        if self._full and self._undigested * 4 > self.part.fair_part() * 3:
            return
        if self._digestion.full:
            if self._open:
                self._digestion.wait(self._go_on)
            return
        self._digestion.leave(self._go_on)
        self._reading_paused = self._full = False
        self.listen()
        if self._open:
            self._channel.resumeProducing()
            self._read_frames()

    # --- who replicates what ------------------------------------------------------------------

    def send_interest(self, interest: Selected | None = None) -> None:
        """
        Tell what this node replicates, as soon as the peer has read what it was sent before.
        Said again, it asks to compare again.

        @param interest: if it is known already: it may be long, and the links many.
        """
        self._owes_interest = not self.clear
        if self._owes_interest:
            return
        if interest is None:
            interest = self.part.selection.interest()
        authors, topics = interest.authors, interest.topics
        pages = max(1, -(-max(len(authors), len(topics)) // MAX_ENTRIES))
        for page in range(pages):
            part = slice(page * MAX_ENTRIES, (page + 1) * MAX_ENTRIES)
            more = page + 1 < pages
            self.send(Interest(interest.all, list(authors[part]), list(topics[part]), more))

    def _interest(self, frame: Interest) -> None:
        first = not self.interest.complete
        if not first:
            self.cost(_INTEREST_COST)
        if not self.part.has_room_for(len(frame.authors)):
            self._hindered(Overloaded("the peers of this node name more authors than it can hold"))
            return
        if not self.interest.page(frame.all, frame.authors, frame.topics, frame.more):
            return
        if self.interest.topics:
            self.run(self._find_tagged(first))
        else:
            self._interested(first)

    async def _find_tagged(self, first: bool) -> None:
        topics = self.interest.topics
        tagged = await find_tagged(self.part.store, topics)
        # The peer may have other topics by now, for which the store is asked as well.
        if self.interest.topics == topics:
            self.interest.tagged.update(tagged)
        if self._open:
            self._interested(first)

    def _interested(self, first: bool) -> None:
        """It is known what the peer replicates."""
        if first:
            self.fetching.prefer_own_feed()
        if self.dialled:
            self.comparing.run()

    # --- IPushProducer: the channel says when it is full ------------------------------------

    def pauseProducing(self) -> None:
        if self.drained is None and self._open:
            self.drained = Deferred()
            self._drain_due = self.reactor.callLater(PATIENCE, self._too_slow, "read")

    def resumeProducing(self) -> None:
        if self.drained is not None:
            _cancel(self._drain_due)
            self._drain_due = None
            drained, self.drained = self.drained, None
            drained.callback(None)
            if self._owes_interest:
                self.send_interest()
            self.telling.tell_stopped()
            self.comparing.flush()
            self.telling.tell_news()
            if self._open:
                self.serving.wake()

    def stopProducing(self) -> None:
        # connectionLost follows and wakes whoever waits.
        pass


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
