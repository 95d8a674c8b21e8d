"""
One gossip connection: frames in and out, with bounds on both.

What is known of the peer's feeds is in L{meshkit.gossip.spread}, what differs is found by
L{meshkit.gossip.comparing}, what the peer is sent by L{meshkit.gossip.serving}.  Here
pages are handed to the store as they come; when too much is unstored, of this link or of
all, the channel is paused until the store has caught up.
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
    FeedError,
    ForkRefused,
    MalformedFrame,
    MeshkitError,
    NotAskedFor,
    Overloaded,
    PeerFloods,
    PeerTooSlow,
    PromiseBroken,
    StreamError,
    UnexpectedMessage,
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
    encode,
)
from meshkit.gossip.comparing import Comparing
from meshkit.gossip.credit import Granting
from meshkit.gossip.reconcile import NONCE_BYTES, Difference, make_salt
from meshkit.gossip.selection import PeerInterest
from meshkit.gossip.serving import Serving
from meshkit.gossip.spread import MAX_SEQUENCE, RECEIVE, REPLICATE, Forward, Partner, State, Turn
from meshkit.identity.keys import PublicKey
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
    @ivar partner: what is known of the peer's feeds over this link.
    @ivar interest: what the peer replicates.
    @ivar received: messages that came from the peer and were new.
    @ivar sent: messages that the peer was given.
    """

    _log = Logger()

    def __init__(self, part: GossipPart, address: MeshAddress | None) -> None:
        self._part = part
        self.reactor = part.reactor
        self.spread = part.spread
        self.address = address
        self.dialled = address is not None
        self.interest = PeerInterest()
        self.received = 0
        self.sent = 0
        self.connected_to: Any = None
        self.partner: Partner
        self.serving = Serving(self, part.store)
        self.comparing = Comparing(self, part.store, part.rooms)
        # The transport: a SecureChannel, or in tests something like it.
        self._channel: Any = None
        self._decoder = FrameDecoder()
        self._open = False
        self._nonce = b""
        self._greeted = False
        self._granting = Granting()
        self._news: dict[bytes, int] = {}
        # Feeds that the peer turned off and was not told that they are stopped.
        self._stopped: dict[bytes, None] = {}
        # Our own feed was found to differ since it was compared last.
        self._own_differs = False
        # Feed -> the place for which the peer has a fork proof; and whose it gave us just now.
        self._proven: dict[bytes, int] = {}
        self._taking: dict[bytes, None] = {}
        self._useless = TokenBucket(USELESS_RATE, USELESS_BURST)
        self._reading = False
        self._digestion = part.digestion
        self._undigested = 0
        self._full = False
        self._throttled: IDelayedCall | None = None
        self._reading_paused = False
        # Since when we do not listen, if we do not.
        self._deaf_since: float | None = None
        self._heard = 0.0
        self._spoke = 0.0
        self._pinged: tuple[int, float] | None = None
        self._pings = 0
        self._refused = 0
        self._drained: Deferred[None] | None = None
        self._frame_due: IDelayedCall | None = None
        self._judge_due: IDelayedCall | None = None
        self._drain_due: IDelayedCall | None = None
        self._alive_due: IDelayedCall | None = None
        self._renew_due: IDelayedCall | None = None
        # Bytes both ways until the connection is replaced; also when that is under way.
        self._renew_left = RENEW_BYTES

    # --- the connection --------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Is it in use?  A link that is being closed is not."""
        return self._open

    @property
    def ready(self) -> bool:
        """Is it known what the peer replicates?"""
        return self._open and self._greeted and self.interest.complete

    @property
    def clear(self) -> bool:
        """May more be written now?"""
        return self._open and self._drained is None

    def connectionMade(self) -> None:
        self._channel = self.transport
        self.connected_to = self._channel.getPeer().key
        self.partner = self.spread.join(self.connected_to.raw)
        self._open = True
        self._heard = self._spoke = self.reactor.seconds()
        self._channel.registerProducer(self, True)
        if self.dialled:
            self._renew_due = self.reactor.callLater(RENEW_SECONDS, self._renew)
        self._alive_due = self.reactor.callLater(IDLE, self._check_alive)
        self._part.link_made(self)
        if self._open:
            self._nonce = self._part.make_nonce(NONCE_BYTES)
            self.send(Hello(self._nonce))
            self.send_interest()
            self._ping()

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
        self.spread.leave(self.partner)
        self.comparing.close()
        self._news.clear()
        self._digestion.leave(self._go_on)
        for due in (
            self._frame_due,
            self._judge_due,
            self._drain_due,
            self._alive_due,
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
            self._part.offend(self, e, MALFORMED_COST)
            self.drop(e)
        finally:
            self._reading = False
        self._watch(progress)

    def _handle(self, frame: Frame) -> None:
        if isinstance(frame, Hello) is self._greeted:
            raise MalformedFrame("the first frame, and no other, has to be a hello")
        match frame:
            case Messages():
                self._messages(frame)
            case Note():
                self._note(frame)
            case Ranges():
                if frame.round == 0:
                    self._cost(_RANGES_COST)
                self.comparing.received(frame)
            case Credit():
                self.serving.credit.raised(frame.messages, frame.bytes)
                self.serving.wake()
            case Stopped():
                for author in frame.authors:
                    self.spread.stopped(self.partner, author)
                self.ask_more()
            case Ping():
                self._cost(1.0)
                if self.clear:
                    self.send(Pong(frame.token))
            case Pong():
                self._pong(frame.token)
            case Interest():
                self._interest(frame)
            case Proof():
                self._cost(_PROOF_COST)
                self.run(self._take_proof(frame))
            case Gone():
                self._gone(frame)
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

    def count_sent(self, messages: int) -> None:
        """The peer was given so many messages."""
        self.sent += messages
        self._part.ledger.account(self.connected_to).sent += messages

    def run(self, coroutine: Any) -> None:
        """Run something in the background; what it fails with ends the connection."""
        ensureDeferred(coroutine).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, ChannelError):
            if self._open:
                self._part.offend(self, error, MALFORMED_COST)
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

    def _pong(self, token: int) -> None:
        if self._pinged is None or self._pinged[0] != token:
            self._cost(1.0)
            return
        self._part.ledger.measured(self.connected_to, self.reactor.seconds() - self._pinged[1])
        self._pinged = None

    # --- patience ------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        """The time without that in which we did not listen: then the peer is not late."""
        now: float = self.reactor.seconds() if self._deaf_since is None else self._deaf_since
        return now - self.partner.unheard

    def _listen(self) -> None:
        """Start or stop the clock on the peer."""
        listens = self._open and not self._reading_paused and not self._granting.exhausted
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
        self._watch_promises()

    def _too_slow(self, what: str) -> None:
        self.drop(PeerTooSlow(f"the peer did not {what} for {PATIENCE:.0f} s in mid-exchange"))

    def _watch_promises(self) -> None:
        """Look at what the peer said it has when it is time to."""
        _cancel(self._judge_due)
        self._judge_due = None
        if self._open and self._deaf_since is None:
            due = self.spread.next_judgement(self.partner)
            if due is not None:
                wait = max(0.0, due - self.reactor.seconds())
                self._judge_due = self.reactor.callLater(wait, self._judge)

    def _judge(self) -> None:
        # The clock of the connection is a sum of floats: a time may be over by a hair less.
        failed = self.spread.late(self.partner, self.reactor.seconds() + 0.001)
        for author in failed:
            self.turn_off([author])
            self._part.prefer_author(author, self)
            error = PromiseBroken(
                f"the peer said that it has more of {PublicKey(author).text} and did not bring it"
            )
            self._part.promise_broken(self, error)
        self._watch_promises()
        if failed:
            self._part.ask_all()

    # --- holding back ----------------------------------------------------------------------

    def _cost(self, cost: float) -> None:
        """The peer said something that may be of no use: if it is too much, read less."""
        wait = self._useless.take(cost, self.reactor.seconds())
        if wait and self._throttled is None and self._open:
            self._part.offend(
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
    def _digesting(self, size: int) -> Iterator[None]:
        """While this lasts, C{size} bytes of what was received are on our hands."""
        self._undigested += size
        self._digestion.add(size)
        if self._undigested > self._part.fair_part():
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
            self._listen()

    def _go_on(self) -> None:
        """Read on, if there is room for it."""
        if not self._reading_paused or self._throttled is not None:
            return
        # Early: while some pages are stored, the threads want others to check.
        if self._full and self._undigested * 4 > self._part.fair_part() * 3:
            return
        if self._digestion.full:
            if self._open:
                self._digestion.wait(self._go_on)
            return
        self._digestion.leave(self._go_on)
        self._reading_paused = self._full = False
        self._listen()
        if self._open:
            self._channel.resumeProducing()
            self._read_frames()

    # --- who replicates what ------------------------------------------------------------------

    def send_interest(self) -> None:
        """Tell what this node replicates.  Said again, it asks to compare again."""
        interest = self._part.selection.interest()
        authors, topics = interest.authors, interest.topics
        pages = max(1, -(-max(len(authors), len(topics)) // MAX_ENTRIES))
        for page in range(pages):
            part = slice(page * MAX_ENTRIES, (page + 1) * MAX_ENTRIES)
            more = page + 1 < pages
            self.send(Interest(interest.all, list(authors[part]), list(topics[part]), more))

    def _interest(self, frame: Interest) -> None:
        first = not self.interest.complete
        if not first:
            self._cost(_INTEREST_COST)
        if not self._part.has_room_for(len(frame.authors)):
            self._hindered(Overloaded("the peers of this node name more authors than it can hold"))
            return
        if not self.interest.page(frame.all, frame.authors, frame.topics, frame.more):
            return
        if first:
            self.prefer_own_feed()
        if self.dialled:
            self.comparing.run()

    def shared(self, author: bytes) -> bool:
        """Do both sides replicate a feed?"""
        return self._part.selection.wants(author) and author in self.interest

    def compare_again(self) -> None:
        """Find out anew what differs."""
        if not self.ready:
            return
        if self.dialled:
            self.comparing.run()
        else:
            self.send_interest()

    def prefer_own_feed(self) -> None:
        """The peer's own feed comes from the peer."""
        author = self.connected_to.raw
        if self.ready and self.shared(author):
            for before in self.spread.prefer(self.partner, author):
                self._part.turn_off(before, [author])
            if author in self.partner.due:
                self.run(self._turn_on([author]))

    def differ(self, differences: Sequence[Difference]) -> None:
        """Some feeds were found to differ."""
        for each in differences:
            author, ours, theirs = each.author, each.ours, each.theirs
            if not self.shared(author):
                continue
            have = 0 if ours is None else ours.sequence
            has = 0 if theirs is None else theirs.sequence
            self._has(author, has, have, None if ours is None else ours.forked)
            if ours is None:
                continue
            if ours.forked is not None and (
                theirs is None or theirs.forked is None or ours.forked < theirs.forked
            ):
                self.tell_proof(author, ours.forked)
            elif theirs is not None and has == have and ours.head != theirs.head:
                self.spread.parted(self.partner, author, have)
        self._part.ask_all()

    def compared(self, lower: bytes, upper: bytes) -> None:
        """A window was compared to its end: what was not said to differ is the same."""
        own = self._part.selection.own
        if lower <= own < upper and self.shared(own):
            if not self._own_differs:
                self.run(self._own_feed_is_the_same())
            self._own_differs = False

    async def _own_feed_is_the_same(self) -> None:
        own = self._part.selection.own
        here = (await self._part.frontier([own])).get(own)
        self._part.own_feed_seen(self.connected_to, 0 if here is None else here.sequence)

    def _has(self, author: bytes, has: int, have: int, forked: int | None) -> None:
        """The peer has a feed up to a sequence."""
        if has:
            self.partner.note_told(author, has)
        if author == self._part.selection.own:
            self._own_differs = True
            self._part.own_feed_seen(self.connected_to, has)
        last = MAX_SEQUENCE if forked is None else forked - 1
        self.spread.heard(self.partner, author, has, have, self.reactor.seconds(), last=last)

    # --- notes ----------------------------------------------------------------------------

    def _note(self, frame: Note) -> None:
        unknown: dict[bytes, int] = {}
        on: list[bytes] = []
        selection = self._part.selection
        useless = 0
        for author, sequence, flags in frame.entries:
            known = self.partner.has(author, sequence)
            turn = self.spread.note(self.partner, author, sequence, flags)
            if turn is Turn.OFF:
                self._stopped[author] = None
            elif turn is Turn.ON:
                if author in self._stopped:
                    raise MalformedFrame("the peer turned a feed on before it was stopped")
                on.append(author)
            elif known:
                useless += 1
            if not selection.wants(author) or not flags & REPLICATE:
                continue
            have = self.spread.have(author)
            if author == selection.own and not known:
                self._part.own_feed_seen(self.connected_to, sequence)
            if have is None or sequence > have:
                unknown[author] = sequence
        self._tell_stopped()
        if useless:
            self._cost(float(useless))
        if unknown or on:
            self.run(self._compare_heads(unknown, on))

    def _tell_stopped(self) -> None:
        """Say what is stopped, when the channel takes it; until then nothing goes on again."""
        while self._stopped and self.clear:
            authors = list(self._stopped)[:MAX_ENTRIES]
            for author in authors:
                del self._stopped[author]
            self.send(Stopped(authors))

    async def _compare_heads(self, told: dict[bytes, int], on: list[bytes]) -> None:
        """Look up how far we have feeds that the peer told of, or turned on."""
        authors = sorted({*told, *on})
        with self._digesting(_FRAME_COST + len(authors) * _ENTRY_COST):
            ours = await self._part.frontier(authors)
        if not self._open:
            return
        for author, has in told.items():
            here = ours.get(author)
            have, forked = (0, None) if here is None else (here.sequence, here.forked)
            last = MAX_SEQUENCE if forked is None else forked - 1
            self.spread.heard(self.partner, author, has, have, self.reactor.seconds(), last=last)
        for author in on:
            here = ours.get(author)
            if here is not None:
                self.spread.here(self.partner, author, here.sequence)
        self.serving.wake()
        self._watch_promises()
        self._part.ask_all()

    def tell(self, author: bytes, sequence: int) -> None:
        """The peer is to be told how far we have a feed, with what else there is to tell."""
        if self.ready and author in self.interest:
            self._news[author] = sequence
            if len(self._news) > MAX_NEWS:
                self._news.clear()
                self.partner.overflowed = True

    def tell_news(self) -> None:
        """Tell what there is to tell, unless the channel is full: then later."""
        if not self._news or not self.clear:
            return
        news, self._news = self._news, {}
        has = self.partner.has
        self.send_notes([(a, n, self._flags(a)) for a, n in news.items() if not has(a, n)])

    def _flags(self, author: bytes) -> int:
        """How a note has to end that changes nothing."""
        incoming = self.partner.on.get(author)
        on = incoming is not None and incoming.state is State.ON
        return REPLICATE | RECEIVE if on else REPLICATE

    def send_notes(self, entries: Sequence[tuple[bytes, int, int]]) -> None:
        """Send notes of any number of feeds."""
        for start in range(0, len(entries), MAX_ENTRIES):
            self.send(Note(list(entries[start : start + MAX_ENTRIES])))

    # --- fetching --------------------------------------------------------------------------

    def ask_more(self) -> None:
        """Turn on feeds that the peer has more of, as many as may be."""
        if not self.ready:
            return
        self.tell_off(self.spread.make_room(self.partner))
        chosen = self.spread.choose(self.partner, self.reactor.seconds())
        if chosen:
            self.run(self._turn_on(chosen))
        self.comparing.claims_fell()

    async def _turn_on(self, chosen: list[bytes]) -> None:
        ours = await self._part.frontier(chosen)
        entries = []
        for author in chosen:
            here = ours.get(author)
            have = 0 if here is None else here.sequence
            after = self.spread.begin(
                self.partner,
                author,
                have,
                self.reactor.seconds(),
                disputed=here is not None and here.disputed is not None,
            )
            if after is not None:
                entries.append((author, after, REPLICATE | RECEIVE))
        self.send_notes(entries)
        self._watch_promises()
        if self._open and len(entries) < len(chosen):
            self._part.ask_all()

    def turn_off(self, authors: Iterable[bytes]) -> None:
        """Have nothing more of these feeds from this peer."""
        self.tell_off([a for a in authors if self.spread.turn_off(self.partner, a)])

    def tell_off(self, authors: Sequence[bytes], flags: int = REPLICATE) -> None:
        """Tell the peer that feeds were turned off."""
        on = self.partner.on
        self.send_notes([(author, on[author].next - 1, flags) for author in authors])

    def _messages(self, frame: Messages) -> None:
        texts = frame.texts
        size = sum(map(len, texts))
        self._granting.received(len(texts), size)
        self._listen()
        try:
            self.spread.received(self.partner, frame.author, frame.first, len(texts))
        except NotAskedFor as e:
            # What is not stored does not have to wait for the store.
            self._done_with(len(texts), size)
            self._part.offend(self, e, UNASKED_COST)
            return
        self.run(self._store(frame.author, frame.first, texts, size))

    def _done_with(self, messages: int, size: int) -> None:
        """Messages are off our hands: let the peer send others."""
        limit = self._granting.done(messages, size, self._part.fair_part())
        if limit is not None:
            self.send(Credit(limit.messages, limit.bytes))
        self._listen()

    async def _store(self, author: bytes, first: int, texts: list[bytes], size: int) -> None:
        with self._digesting(_FRAME_COST + size):
            verdicts = await self._part.store.ingest(texts, author=author, first=first)
        if not self._open:
            return
        account = self._part.ledger.account(self.connected_to)
        stored = 0
        refused: tuple[int, int] | None = None
        for number, (text, verdict) in enumerate(zip(texts, verdicts, strict=True)):
            error = verdict.error
            if error is None:
                self.received += 1
                account.received += 1
                stored += len(text)
                if verdict.disputed == first + number - 1 and refused is None:
                    # It names another message before it than we have: the peer has that one.
                    refused = (first + number, first + number)
            elif isinstance(error, UnexpectedMessage):
                raise NotAskedFor(f"the peer sent what was not asked for: {error}")
            elif isinstance(error, DuplicateMessage):
                account.duplicates += 1
            else:
                if refused is None:
                    forks = isinstance(error, ForkRefused) and number == 0
                    refused = (first + number, first if forks else 0)
                if not isinstance(error, ForkRefused):
                    self._count_refused(error)
                    if not self._open:
                        return
        self.spread.digested(self.partner, author, stored)
        self._done_with(len(texts), size)
        if refused is None:
            self.spread.agreed(self.partner, author)
            self.ask_more()
        else:
            self._refuse(author, *refused)
            self._part.ask_all()
        self._watch_promises()

    def _refuse(self, author: bytes, sequence: int, fork_from: int) -> None:
        now = self.reactor.seconds()
        if self.spread.refuse(self.partner, author, sequence, now, fork_from=fork_from):
            self.tell_off([author])
        self._part.prefer_author(author, self)

    def _count_refused(self, error: MeshkitError) -> None:
        self._refused += 1
        self._part.ledger.account(self.connected_to).refused += 1
        self._part.count_refused(self, error)
        if self._open:
            if self._refused > MAX_REFUSED:
                self._part.ban(self.connected_to, error)
            else:
                self._part.offend(self, error, REFUSED_COST)

    # --- forks and gaps ------------------------------------------------------------------------

    def tell_proof(self, author: bytes, sequence: int) -> None:
        """The peer is to have the proof that a feed forked there, unless it has it."""
        known = self._proven.get(author, MAX_SEQUENCE) <= sequence
        if self.ready and author in self.interest and not known:
            self._note_proven(author, sequence)
            self.run(self._send_proof(author))

    async def _send_proof(self, author: bytes) -> None:
        if self._drained is not None:
            await self._drained
        proof = await self._part.store.fork_proof(author)
        if proof is not None:
            self.send(Proof(author, proof.one, proof.other))

    def _note_proven(self, author: bytes, sequence: int) -> None:
        self._proven.pop(author, None)
        self._proven[author] = sequence
        if len(self._proven) > MAX_PROVEN:
            del self._proven[next(iter(self._proven))]

    async def _take_proof(self, frame: Proof) -> None:
        if not self._part.selection.wants(frame.author):
            return
        self._taking[frame.author] = None
        try:
            with self._digesting(_FRAME_COST + len(frame.one) + len(frame.two)):
                await self._part.store.ingest_proof(frame.one, frame.two)
        except FeedError as e:
            raise MalformedFrame(f"the peer sent a proof that proves nothing: {e}") from e
        finally:
            self._taking.pop(frame.author, None)

    def fork_proven(self, author: bytes, sequence: int) -> None:
        """A feed was found to have forked, or to have forked earlier than was known."""
        self.turn_off([author])
        if author in self._taking:
            # Not back to whom it came from.
            self._note_proven(author, sequence)
        else:
            self.tell_proof(author, sequence)

    def _gone(self, frame: Gone) -> None:
        now = self.reactor.seconds()
        if self.spread.gone(self.partner, frame.author, frame.until, frame.hash, now):
            self.tell_off([frame.author])
        self._part.ask_all()

    # --- what is new ---------------------------------------------------------------------------

    def forward(self, author: bytes, first: int, last: int, texts: Sequence[bytes] | None) -> bool:
        """
        Messages were stored just now.

        @param texts: those from C{first} to C{last}, if all are at hand.
        @return: is the peer to be told of it with what else there is to tell?
        """
        if not self.ready or author not in self.interest:
            return False
        match self.spread.forward(self.partner, author, first, last):
            case Forward.PUSH:
                if texts is None:
                    self.spread.here(self.partner, author, last)
                    self.serving.wake()
                else:
                    self.serving.push(author, first, texts)
            case Forward.SERVE:
                self.serving.wake()
            case Forward.TELL:
                self.tell(author, last)
                return True
            case Forward.NOTHING:
                pass
        return False

    # --- IPushProducer: the channel says when it is full ------------------------------------

    def pauseProducing(self) -> None:
        if self._drained is None and self._open:
            self._drained = Deferred()
            self._drain_due = self.reactor.callLater(PATIENCE, self._too_slow, "read")

    def resumeProducing(self) -> None:
        if self._drained is not None:
            _cancel(self._drain_due)
            self._drain_due = None
            drained, self._drained = self._drained, None
            drained.callback(None)
            self._tell_stopped()
            self.comparing.flush()
            self.tell_news()
            if self._open:
                self.serving.wake()

    def stopProducing(self) -> None:
        # connectionLost follows and wakes whoever waits.
        pass


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
