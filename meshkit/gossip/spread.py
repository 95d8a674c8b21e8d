"""
How what is new spreads: from whom each feed comes, who is told, who is pushed to.

After Plumtree (Leitao, Pereira, Rodrigues, SRDS 2007) as Secure Scuttlebutt's EBT has it:
a feed is I{on} from one peer, its source, which sends the messages as they come.  All
others send notes of how far they are.  A note that stays ahead of us makes who sent it
the source (a graft); the old one is turned off (a prune).  So each message is sent about
once to each node, and a broken branch is mended by the notes.

Pure: the time is an argument, and what has to be sent is returned.  What there is per
peer and feed is there only for feeds that changed or differ, and every table has a limit;
what falls out of one is found by the next reconciliation.
"""

from __future__ import annotations

from enum import Enum
from itertools import islice
from typing import Final

from attrs import define, field

from meshkit.errors import MalformedFrame, NotAskedFor

#: Seconds that a note may be ahead of us before its sender becomes the source.
GRAFT_AFTER: Final = 3.0
#: Seconds within which a source has to make good what it said.
MADE_GOOD: Final = 60.0
#: Bytes per second that a source has to bring of what it said it has.
MIN_RATE: Final = 1024
#: Broken promises until a peer is lazy only, and for how many seconds it is, as is the time
#: in which they count together.
STRIKES: Final = 3
LAZY: Final = 3600.0
#: Feeds that are caught up with from one peer at a time.
MAX_CATCHING: Final = 256
#: Feeds that are on between two peers, in each direction.
MAX_ON: Final = 4_096
#: Feeds of which a peer is known to have more, per peer and in all.
MAX_CLAIMS: Final = 20_000
MAX_CLAIMS_IN_ALL: Final = 200_000
#: Feeds of which is remembered how far a peer is.
MAX_TOLD: Final = 4_096
#: Seconds before a feed is asked for again from a peer whose message of it was refused; the
#: pause doubles each time.
FIRST_PAUSE: Final = 600.0
LAST_PAUSE: Final = 86_400.0
#: Peers whose broken promises and refused messages are remembered, and such feeds of each.
MAX_REMEMBERED: Final = 4_096
MAX_REFUSED_FEEDS: Final = 1_000
#: Feeds of which is remembered that this node does not take what follows.
MAX_NOT_TAKEN: Final = 10_000
#: Seconds for which everybody has to say that messages are gone before we do without them.
GONE_AFTER: Final = 60.0

#: No feed is longer.
MAX_SEQUENCE: Final = 2**63 - 1

#: Flags of a note.
REPLICATE: Final = 1
RECEIVE: Final = 2


class State(Enum):
    """Where a feed is that comes from a peer."""

    #: It was chosen; what we have of it is being looked up.
    CHOSEN = "chosen"
    ON = "on"
    #: We turned it off, and the peer has not said yet that it knows.
    STOPPING = "stopping"


class Turn(Enum):
    """What a note changes for the feed that it is about."""

    ON = "on"
    OFF = "off"
    NOTHING = "nothing"


class Forward(Enum):
    """What becomes of new messages for one peer."""

    #: Send them now.
    PUSH = "push"
    #: They wait until what is before them was sent.
    SERVE = "serve"
    #: Tell that they are here.
    TELL = "tell"
    #: The peer has them.
    NOTHING = "nothing"


@define(eq=False)
class Incoming:
    """
    A feed that comes from a peer.

    @ivar next: sequence that comes next, once it is on.
    @ivar goal: how much the peer said it has.
    @ivar wished: it is wanted from this peer, whether it has more now or not.
    @ivar unstored: pages received that are not stored yet.
    @ivar stored: bytes that came and were stored since it was judged last.
    """

    goal: int
    wished: bool = False
    state: State = State.CHOSEN
    next: int = 0
    unstored: int = 0
    stored: int = 0
    # When it was judged last, and how much had come of all feeds of the peer then.
    since: float = 0.0
    pages_then: int = 0
    bytes_then: int = 0

    @property
    def owed(self) -> bool:
        """Does the peer owe us something of it?"""
        return self.state is State.ON and self.next <= self.goal


@define(eq=False)
class Refusal:
    """
    A message of a feed that a peer sent was refused.

    @ivar sequence: which.
    @ivar until: when it may be asked for again.
    @ivar pause: how long that was.
    @ivar back: how far before our end it is asked for instead, to find where the two
        branches part; 0 if it is not.
    """

    sequence: int
    until: float
    pause: float
    back: int = 0


@define(eq=False)
class _Record:
    """What is remembered of a peer when its links are gone."""

    strikes: list[float] = field(factory=list)
    lazy_until: float = 0.0
    refusals: dict[bytes, Refusal] = field(factory=dict)


@define(eq=False)
class Partner:
    """
    One link, and what is known of the peer's feeds and of what it wants.

    @ivar key: the peer's.
    @ivar on: feeds that come from it, the longest quiet first.
    @ivar due: those of them that were chosen or are owed.
    @ivar stopping: how many were turned off and are not stopped.
    @ivar wanted: feeds that it turned on -> the sequence that is sent next.
    @ivar unserved: those of them of which nothing was sent since; the values say nothing.
    @ivar behind: those of them of which something is stored that it was not sent -> up to
        which sequence.
    @ivar overflowed: not all that differs could be noted; reconcile again.
    @ivar unheard: seconds for which we did not listen to it.
    @ivar pages: pages of messages that came.
    @ivar size: bytes of these that were stored.
    """

    key: bytes
    on: dict[bytes, Incoming] = field(factory=dict, init=False)
    due: dict[bytes, Incoming] = field(factory=dict, init=False)
    stopping: int = field(default=0, init=False)
    wanted: dict[bytes, int] = field(factory=dict, init=False)
    unserved: dict[bytes, None] = field(factory=dict, init=False)
    behind: dict[bytes, int] = field(factory=dict, init=False)
    overflowed: bool = field(default=False, init=False)
    unheard: float = field(default=0.0, init=False)
    pages: int = field(default=0, init=False)
    size: int = field(default=0, init=False)
    # Feeds of which it has more than we -> how much; of these, those with no source.
    claims: dict[bytes, int] = field(factory=dict, init=False)
    free: dict[bytes, None] = field(factory=dict, init=False)
    # Feed -> up to where its messages are gone there, and the hash at that place.
    gone: dict[bytes, tuple[int, bytes]] = field(factory=dict, init=False)
    told: dict[bytes, int] = field(factory=dict, init=False)

    def note_told(self, author: bytes, sequence: int) -> None:
        """The peer has a feed up to a sequence."""
        # Popped and set again, so that the stalest is forgotten first.
        self.told.pop(author, None)
        self.told[author] = sequence
        if len(self.told) > MAX_TOLD:
            del self.told[next(iter(self.told))]

    def has(self, author: bytes, sequence: int) -> bool:
        """Is the peer known to have it?"""
        return self.told.get(author, 0) >= sequence


@define(eq=False)
class _Feed:
    """
    A feed that is on, or of which somebody has more.

    @ivar have: sequence up to which it is complete here.
    @ivar looked_up: that is so, and not only as far as was told.
    @ivar last: beyond this nothing is wanted; a fork is proven there.
    @ivar gone_since: since when those who have more say that what follows is gone.
    """

    have: int = 0
    looked_up: bool = False
    last: int = MAX_SEQUENCE
    source: Partner | None = None
    # The order is that in which they told; the values are in Partner.claims.
    claimants: dict[Partner, None] = field(factory=dict)
    gone_since: float | None = None


@define(eq=False)
class Spread:
    """
    What a node knows of all its links.

    @ivar partners: the links, in the order in which they were made.
    """

    partners: dict[Partner, None] = field(factory=dict, init=False)
    _feeds: dict[bytes, _Feed] = field(factory=dict, init=False)
    # Feed -> when it is grafted; every entry is due later than those before it.
    _grafts: dict[bytes, float] = field(factory=dict, init=False)
    _records: dict[bytes, _Record] = field(factory=dict, init=False)
    # Feeds of which this node does not want the next message, whoever sends it.
    _not_taken: dict[bytes, Refusal] = field(factory=dict, init=False)
    _claims: int = field(default=0, init=False)

    def __len__(self) -> int:
        """Feeds of which something is remembered."""
        return len(self._feeds)

    # --- links ----------------------------------------------------------------------

    def join(self, key: bytes) -> Partner:
        """A link was made."""
        partner = Partner(key)
        self.partners[partner] = None
        return partner

    def leave(self, partner: Partner) -> None:
        """A link is gone: its feeds may come from others."""
        self.partners.pop(partner, None)
        for author in list(partner.claims):
            self._forget_claim(partner, author)
        for author in list(partner.on):
            del partner.on[author]
            self._release(partner, author)
        partner.due.clear()
        partner.wanted.clear()
        partner.unserved.clear()
        partner.behind.clear()
        partner.told.clear()
        partner.gone.clear()

    # --- what peers have --------------------------------------------------------------

    def heard(
        self,
        partner: Partner,
        author: bytes,
        sequence: int,
        have: int,
        now: float,
        *,
        last: int = MAX_SEQUENCE,
    ) -> None:
        """
        A peer says how far it has a feed that we replicate.

        @param have: how far we have it, as far as is known.
        @param last: beyond this nothing is wanted; a fork is proven there.
        """
        if partner not in self.partners:
            return
        feed = self._feeds.get(author)
        if feed is not None:
            feed.have = have = max(feed.have, have)
            feed.looked_up = True
            feed.last = last = min(feed.last, last)
        sequence = min(sequence, last)
        if sequence <= have:
            self._forget_claim(partner, author)
            return
        incoming = partner.on.get(author)
        if incoming is not None and incoming.state is not State.STOPPING:
            self._owe(partner, author, sequence, now)
            return
        if not self._room(partner, author):
            return
        if feed is None:
            feed = self._feeds[author] = _Feed(have, True, last)
        if author not in partner.claims:
            self._claims += 1
        partner.claims[author] = sequence
        feed.claimants[partner] = None
        if feed.source is None:
            self._free(partner, author)
        elif feed.source.on[author].goal < sequence:
            self._grafts.setdefault(author, now + GRAFT_AFTER)

    def _room(self, partner: Partner, author: bytes) -> bool:
        if author in partner.claims:
            return True
        if len(partner.claims) < MAX_CLAIMS and self._claims < MAX_CLAIMS_IN_ALL:
            return True
        partner.overflowed = True
        return False

    def _owe(self, partner: Partner, author: bytes, goal: int, now: float) -> None:
        incoming = partner.on[author]
        incoming.goal = max(incoming.goal, goal)
        if author not in partner.due and incoming.owed:
            partner.due[author] = incoming
            self._judge_anew(partner, incoming, now)

    def _judge_anew(self, partner: Partner, incoming: Incoming, now: float) -> None:
        incoming.since = now - partner.unheard
        incoming.stored = 0
        incoming.pages_then, incoming.bytes_then = partner.pages, partner.size

    def _forget_claim(self, partner: Partner, author: bytes) -> None:
        if partner.claims.pop(author, None) is None:
            return
        self._claims -= 1
        partner.free.pop(author, None)
        feed = self._feeds[author]
        feed.claimants.pop(partner, None)
        self._tidy(author, feed)

    def _tidy(self, author: bytes, feed: _Feed) -> None:
        if not feed.claimants:
            self._grafts.pop(author, None)
            if feed.source is None:
                self._feeds.pop(author, None)

    def _free(self, partner: Partner, author: bytes) -> None:
        """It may be asked for, unless the peer has not yet stopped sending it."""
        if author not in partner.on and author not in partner.gone:
            partner.free[author] = None

    def stored(self, author: bytes, have: int, now: float) -> None:
        """Messages were stored; a feed is complete up to C{have} now."""
        feed = self._feeds.get(author)
        if feed is None:
            return
        went_on = have > feed.have
        feed.have = max(feed.have, have)
        for partner in list(feed.claimants):
            if partner.claims[author] <= feed.have:
                self._forget_claim(partner, author)
            elif author in partner.gone and partner.gone[author][0] <= feed.have:
                del partner.gone[author]
                if feed.source is None:
                    self._free(partner, author)
        if went_on and feed.gone_since is not None:
            # Of what is gone beyond that, they have said so since now at the earliest.
            gone = any(author in claimant.gone for claimant in feed.claimants)
            feed.gone_since = now if gone else None
        if self._grafts.pop(author, None) is not None:
            # It moves: who is ahead for a moment is not better for it.
            self._grafts[author] = now + GRAFT_AFTER

    def forked(self, author: bytes, sequence: int) -> None:
        """A feed was found to have forked: nothing from that place on counts any more."""
        not_taken = self._not_taken.get(author)
        if not_taken is not None and not_taken.sequence >= sequence:
            del self._not_taken[author]
        feed = self._feeds.get(author)
        if feed is None:
            return
        feed.have = min(feed.have, sequence - 1)
        feed.last = min(feed.last, sequence - 1)
        for partner in list(feed.claimants):
            if partner.claims[author] >= sequence:
                partner.claims[author] = sequence - 1
            if partner.claims[author] <= feed.have:
                self._forget_claim(partner, author)

    # --- choosing sources ---------------------------------------------------------------

    def choose(self, partner: Partner, now: float) -> list[bytes]:
        """
        The feeds to turn on now.  What is stored of each has to be looked up and passed to
        L{begin}.
        """
        if not partner.free or partner not in self.partners or self.is_lazy(partner.key, now):
            return []
        room = min(MAX_CATCHING - len(partner.due), MAX_ON - len(partner.on))
        chosen: list[bytes] = []
        for author in list(partner.free):
            if len(chosen) >= room:
                break
            del partner.free[author]
            feed = self._feeds[author]
            if not self._may_ask(partner, author, feed.have, now):
                continue
            partner.on[author] = partner.due[author] = Incoming(partner.claims[author])
            self._take(partner, author, feed)
            self._forget_claim(partner, author)
            chosen.append(author)
        return chosen

    def _take(self, partner: Partner, author: bytes, feed: _Feed) -> None:
        feed.source = partner
        self._grafts.pop(author, None)
        for other in feed.claimants:
            other.free.pop(author, None)

    def prefer(self, partner: Partner, author: bytes) -> list[Partner]:
        """
        Have a feed come from this peer, whether it has more now or not: it is its own.
        What it has has to be looked up and passed to L{begin}, if it is in
        C{partner.on} then.

        @return: from whom it has to be turned off: nobody, or who sent it until now.
        """
        feed = self._feeds.setdefault(author, _Feed())
        before = feed.source
        if before is not None and before.key == partner.key:
            return []
        if author in partner.on or len(partner.on) >= MAX_ON:
            self._tidy(author, feed)
            return []
        off = [] if before is None else [before]
        if before is not None and not self.turn_off(before, author):
            off = []
        feed = self._feeds.setdefault(author, feed)
        incoming = Incoming(partner.claims.get(author, 0), wished=True)
        partner.on[author] = partner.due[author] = incoming
        self._take(partner, author, feed)
        self._forget_claim(partner, author)
        return off

    def _may_ask(self, partner: Partner, author: bytes, have: int, now: float) -> bool:
        """May a feed be asked for, although a message of it was refused before?"""
        not_taken = self._not_taken.get(author)
        if not_taken is not None and have < not_taken.sequence and now < not_taken.until:
            return False
        refusal = self._refusal(partner, author)
        if refusal is None or refusal.back or now >= refusal.until:
            return True
        return have >= refusal.sequence

    def begin(
        self,
        partner: Partner,
        author: bytes,
        have: int,
        now: float,
        *,
        last: int = MAX_SEQUENCE,
        disputed: bool = False,
    ) -> int | None:
        """
        Turn a chosen feed on?

        @param have: sequence up to which it is complete here.
        @param last: beyond this nothing is wanted; a fork is proven there.
        @param disputed: what is stored after that names another message in its place: that
            one is asked for as well.
        @return: the sequence after which we want it; L{None} if not at all, any more.
        """
        incoming = partner.on.get(author)
        if incoming is None or incoming.state is not State.CHOSEN:
            return None
        feed = self._feeds[author]
        feed.have = max(feed.have, have)
        feed.looked_up = True
        feed.last = min(feed.last, last)
        incoming.goal = min(incoming.goal, feed.last)
        refusal = self._refusal(partner, author)
        after = feed.have
        back = 0 if refusal is None else refusal.back
        if disputed:
            back = max(1, back)
        if back:
            after = max(0, after - back)
        elif incoming.goal <= after and not incoming.wished:
            del partner.on[author], partner.due[author]
            self._release(partner, author)
            return None
        incoming.state = State.ON
        incoming.next = after + 1
        if not incoming.owed:
            del partner.due[author]
        self._judge_anew(partner, incoming, now)
        return after

    def turn_off(self, partner: Partner, author: bytes) -> bool:
        """
        A feed is not wanted from a peer any more.

        @return: does it have to be told so?
        """
        incoming = partner.on.get(author)
        if incoming is None or incoming.state is State.STOPPING:
            return False
        partner.due.pop(author, None)
        told = incoming.state is State.ON
        if told:
            incoming.state = State.STOPPING
            partner.stopping += 1
        else:
            del partner.on[author]
        self._release(partner, author)
        return told

    def stopped(self, partner: Partner, author: bytes) -> None:
        """
        The peer sends no more of a feed.

        @raise MalformedFrame: it was not turned off.
        """
        incoming = partner.on.get(author)
        if incoming is None or incoming.state is not State.STOPPING:
            raise MalformedFrame("the peer stopped a feed that was not turned off")
        del partner.on[author]
        partner.stopping -= 1
        feed = self._feeds.get(author)
        if feed is not None and feed.source is None and partner in feed.claimants:
            self._free(partner, author)

    def _release(self, partner: Partner, author: bytes) -> None:
        """A feed has no source any more, if this was it."""
        feed = self._feeds.get(author)
        if feed is None or feed.source is not partner:
            return
        feed.source = None
        self._grafts.pop(author, None)
        for other in feed.claimants:
            self._free(other, author)
        self._tidy(author, feed)

    def make_room(self, partner: Partner) -> list[bytes]:
        """@return: feeds to turn off, so that others can be turned on: the longest quiet."""
        if len(partner.on) - partner.stopping <= MAX_ON - MAX_CATCHING or not partner.free:
            return []
        # More than one at a time, as all that are on are looked at.
        quiet = [
            *islice(
                (
                    author
                    for author, incoming in partner.on.items()
                    if incoming.state is State.ON and not incoming.owed and not incoming.wished
                ),
                2 * MAX_CATCHING,
            )
        ]
        for author in quiet:
            self.turn_off(partner, author)
        return quiet

    def drop_feed(self, author: bytes) -> list[Partner]:
        """
        A feed is not replicated any more.

        @return: from whom it has to be turned off.
        """
        off = [partner for partner in self.partners if self.turn_off(partner, author)]
        for partner in list(self.partners):
            self._forget_claim(partner, author)
        return off

    def have(self, author: bytes) -> int | None:
        """@return: how far we have a feed, if that is known here."""
        feed = self._feeds.get(author)
        return feed.have if feed is not None and feed.looked_up else None

    def source(self, author: bytes) -> Partner | None:
        """@return: from whom a feed comes."""
        feed = self._feeds.get(author)
        return None if feed is None else feed.source

    # --- what does not come ---------------------------------------------------------------

    def next_graft(self) -> float | None:
        """@return: when L{grafts} has to be called."""
        return next(iter(self._grafts.values()), None)

    def grafts(self, now: float) -> list[tuple[Partner, bytes]]:
        """
        Take feeds from sources that others are ahead of.

        @return: what has to be turned off where.  L{choose} gives the rest.
        """
        off = []
        for author, due in list(self._grafts.items()):
            if due > now:
                break
            del self._grafts[author]
            feed = self._feeds[author]
            source = feed.source
            if source is None or not any(
                claimant.claims[author] > source.on[author].goal
                and not self.is_lazy(claimant.key, now)
                and author not in claimant.on
                and author not in claimant.gone
                and self._may_ask(claimant, author, feed.have, now)
                for claimant in feed.claimants
            ):
                continue
            if self.turn_off(source, author):
                off.append((source, author))
        return off

    def next_judgement(self, partner: Partner) -> float | None:
        """@return: when L{late} has to be called, if we listen from now on."""
        since = min((i.since for i in partner.due.values() if i.owed), default=None)
        return None if since is None else since + MADE_GOOD + partner.unheard

    def late(self, partner: Partner, now: float) -> list[bytes]:
        """
        Which feeds did the peer not make good?  Each of them is to be turned off, and is a
        strike.  Time in which we did not listen does not count, nor does that in which our
        own store is slow.
        """
        owed = {author: i for author, i in partner.due.items() if i.owed}
        failed = []
        share = MIN_RATE * MADE_GOOD / max(1, len(owed))
        for author, incoming in owed.items():
            if incoming.unstored or now - partner.unheard - incoming.since < MADE_GOOD:
                continue
            # Others had their turn meanwhile, and the link carried what it could.
            turns = partner.pages - incoming.pages_then
            carried = partner.size - incoming.bytes_then
            busy = turns <= len(owed) and carried >= MIN_RATE * MADE_GOOD
            if incoming.stored >= share or busy:
                self._judge_anew(partner, incoming, now)
            else:
                failed.append(author)
        return failed

    def strike(self, partner: Partner, now: float) -> bool:
        """
        A peer broke a promise.

        @return: is it lazy now?  Then everything that comes from it is to be turned off.
        """
        record = self._record(partner.key)
        record.strikes = [*(t for t in record.strikes if now - t < LAZY), now]
        if len(record.strikes) < STRIKES:
            return False
        record.strikes.clear()
        record.lazy_until = now + LAZY
        return True

    def is_lazy(self, key: bytes, now: float) -> bool:
        """Is nothing turned on from this peer?"""
        record = self._records.get(key)
        return record is not None and now < record.lazy_until

    def refuse(
        self, partner: Partner, author: bytes, sequence: int, now: float, *, fork_from: int = 0
    ) -> bool:
        """
        A message was refused: what is behind it is of no use, from this peer.

        @param fork_from: if it belongs to another branch of the feed, and what came first
            did already: the sequence of that.  Then the feed is asked for further back.
        @return: is the feed to be turned off there?
        """
        record = self._record(partner.key)
        refusal = record.refusals.pop(author, None)
        if refusal is None:
            refusal = Refusal(sequence, 0.0, FIRST_PAUSE / 2)
        record.refusals[author] = refusal
        if len(record.refusals) > MAX_REFUSED_FEEDS:
            del record.refusals[next(iter(record.refusals))]
        if fork_from > 1:
            refusal.back = max(1, refusal.back * 2)
        else:
            refusal.back = 0
            refusal.pause = min(LAST_PAUSE, refusal.pause * 2)
        refusal.sequence = sequence
        refusal.until = now + refusal.pause
        off = self.turn_off(partner, author)
        self._forget_claim(partner, author)
        if refusal.back:
            # The message itself is here, and if it has proven the fork nobody serves it again.
            self.claim_again(partner, author, sequence - 1)
        return off

    def not_taken(self, partner: Partner, author: bytes, sequence: int, now: float) -> bool:
        """
        This node did not want a message, as a limit is reached: it would not want it from
        others either, and nobody is asked until there is room, or after a pause.

        @return: is the feed to be turned off there?
        """
        incoming = partner.on.get(author)
        if incoming is None or incoming.state is not State.ON:
            # It was on its way already when the feed was turned off, and says nothing new.
            return False
        self.turn_off(partner, author)
        self._forget_claim(partner, author)
        known = self._not_taken.pop(author, None)
        pause = FIRST_PAUSE if known is None else min(LAST_PAUSE, known.pause * 2)
        self._not_taken[author] = Refusal(sequence, now + pause, pause)
        if len(self._not_taken) > MAX_NOT_TAKEN:
            del self._not_taken[next(iter(self._not_taken))]
        return True

    def take_again(self, author: bytes) -> None:
        """There is room for a feed: ask those who are known to have more of it."""
        refusal = self._not_taken.pop(author, None)
        if refusal is None:
            return
        for partner in self.partners:
            incoming = partner.on.get(author)
            coming = incoming is not None and incoming.state is not State.STOPPING
            has = partner.claims.get(author, partner.told.get(author, 0))
            # Who does not replicate it any more was noted as having all of it.
            if not coming and refusal.sequence <= has < MAX_SEQUENCE:
                self.claim_again(partner, author, has)

    def agreed(self, partner: Partner, author: bytes) -> None:
        """A page of the feed was not refused: it does not have to be asked for further back."""
        refusal = self._refusal(partner, author)
        if refusal is not None:
            refusal.back = 0

    def claim_again(self, partner: Partner, author: bytes, sequence: int) -> None:
        """Ask the peer for a feed again, although it may have no more of it than we."""
        if not self._room(partner, author):
            return
        feed = self._feeds.setdefault(author, _Feed())
        if author not in partner.claims:
            self._claims += 1
        partner.claims[author] = sequence
        feed.claimants[partner] = None
        if feed.source is None:
            self._free(partner, author)

    def parted(self, partner: Partner, author: bytes, sequence: int, have: int) -> list[Partner]:
        """
        The peer has another message than we at one place: ask for what is before it, to
        find where the two branches part.  It takes the place of whoever the feed comes from,
        which may be the author, who gives each of us a branch of his own.

        @param have: sequence up to which it is complete here; not less.
        @return: from whom it has to be turned off: nobody, or who sent it until now.
        """
        refusals = self._record(partner.key).refusals
        refusal = refusals.get(author)
        if refusal is None:
            refusal = refusals[author] = Refusal(sequence, 0.0, FIRST_PAUSE / 2, back=1)
            if len(refusals) > MAX_REFUSED_FEEDS:
                del refusals[next(iter(refusals))]
        elif not refusal.back:
            return []
        # Both may have grown by as much when it is asked for.
        refusal.back = max(refusal.back, 1 + 2 * (have - sequence))
        if author in partner.on or not self._room(partner, author):
            return []
        feed = self._feeds.get(author)
        before = None if feed is None else feed.source
        off = [] if before is None or not self.turn_off(before, author) else [before]
        self.claim_again(partner, author, sequence)
        return off

    def _record(self, key: bytes) -> _Record:
        record = self._records.pop(key, None) or _Record()
        self._records[key] = record
        if len(self._records) > MAX_REMEMBERED:
            del self._records[next(iter(self._records))]
        return record

    def _refusal(self, partner: Partner, author: bytes) -> Refusal | None:
        record = self._records.get(partner.key)
        return None if record is None else record.refusals.get(author)

    # --- what is gone -----------------------------------------------------------------------

    def gone(self, partner: Partner, author: bytes, until: int, head: bytes, now: float) -> bool:
        """
        A peer does not keep the messages any more that we lack.

        @return: is the feed to be turned off there?
        @raise MalformedFrame: it was not on.
        """
        incoming = partner.on.get(author)
        if incoming is None or incoming.state is State.CHOSEN:
            raise MalformedFrame("the peer says that something is gone that was not asked for")
        goal = max(incoming.goal, until)
        off = self.turn_off(partner, author)
        partner.gone[author] = (until, head)
        if len(partner.gone) > MAX_CLAIMS:
            del partner.gone[next(iter(partner.gone))]
        self.claim_again(partner, author, goal)
        feed = self._feeds.get(author)
        if feed is not None and feed.gone_since is None:
            feed.gone_since = now
        return off

    def gaps(self, now: float) -> list[tuple[bytes, int, bytes]]:
        """
        @return: feeds of which everybody who has more has said for long enough that what
            follows is gone: author, up to where, the hash there.
        """
        found = []
        for author, feed in self._feeds.items():
            if feed.gone_since is None or now - feed.gone_since < GONE_AFTER:
                continue
            told = [claimant.gone.get(author) for claimant in feed.claimants]
            if feed.source is None and told and None not in told:
                until, head = min(each for each in told if each is not None)
                found.append((author, until, head))
        return found

    # --- what comes ---------------------------------------------------------------------------

    def received(self, partner: Partner, author: bytes, first: int, count: int) -> None:
        """
        Messages came.

        @raise NotAskedFor: they were not asked for: the feed is not on, or others are
            due.
        """
        incoming = partner.on.get(author)
        if incoming is None or incoming.state is State.CHOSEN:
            raise NotAskedFor("the peer sent messages of a feed that is not on")
        feed = self._feeds.get(author)
        have = 0 if feed is None else feed.have
        if not incoming.next <= first <= max(incoming.next, have + 1):
            raise NotAskedFor(
                f"the peer sent message {first} of a feed of which {incoming.next} was due"
            )
        # The longest quiet come first.
        del partner.on[author]
        partner.on[author] = incoming
        incoming.next = first + count
        if not incoming.owed:
            partner.due.pop(author, None)
        incoming.unstored += 1
        partner.pages += 1
        if not partner.has(author, incoming.next - 1):
            partner.note_told(author, incoming.next - 1)

    def digested(self, partner: Partner, author: bytes, size: int) -> None:
        """
        What a page held is stored, or was refused; call L{refuse} then as well.

        @param size: bytes of it that were stored.
        """
        partner.size += size
        incoming = partner.on.get(author)
        # It may have been turned off, stopped and turned on again meanwhile.
        if incoming is not None and incoming.unstored > 0:
            incoming.unstored -= 1
            incoming.stored += size

    # --- what goes ----------------------------------------------------------------------------

    def note(self, partner: Partner, author: bytes, sequence: int, flags: int) -> Turn:
        """
        The part of a note that is about what the peer wants.

        @return: whether the peer turned the feed on, and is to be served what is here; or
            off, and is to be told that it is stopped.
        @raise MalformedFrame: it turns on too many.
        """
        # Whoever does not replicate it does not want to hear of it either.
        partner.note_told(author, sequence if flags & REPLICATE else MAX_SEQUENCE)
        if not flags & RECEIVE:
            partner.behind.pop(author, None)
            partner.unserved.pop(author, None)
            return Turn.NOTHING if partner.wanted.pop(author, None) is None else Turn.OFF
        if author in partner.wanted:
            partner.wanted[author] = max(partner.wanted[author], sequence + 1)
            return Turn.NOTHING
        if len(partner.wanted) >= MAX_ON:
            raise MalformedFrame(f"the peer turned on more than {MAX_ON} feeds")
        partner.wanted[author] = sequence + 1
        partner.unserved[author] = None
        return Turn.ON

    def here(self, partner: Partner, author: bytes, last: int) -> bool:
        """
        We have a feed up to C{last}.

        @return: is there something of it to send to the peer?
        """
        due = partner.wanted.get(author)
        if due is None or due > last:
            return False
        partner.behind[author] = max(last, partner.behind.get(author, 0))
        return True

    def forward(self, partner: Partner, author: bytes, first: int, last: int) -> Forward:
        """What to do for a peer with messages that were stored just now."""
        due = partner.wanted.get(author)
        if partner.has(author, last):
            if due is not None:
                partner.wanted[author] = max(due, last + 1)
            return Forward.NOTHING
        if due is None:
            return Forward.TELL
        if author in partner.behind or due != first:
            return Forward.SERVE if self.here(partner, author, last) else Forward.NOTHING
        return Forward.PUSH

    def sent(self, partner: Partner, author: bytes, last: int) -> None:
        """The peer was sent messages up to C{last}."""
        if author in partner.wanted:
            partner.wanted[author] = last + 1
            partner.unserved.pop(author, None)
            if partner.behind.get(author, last + 1) <= last:
                del partner.behind[author]
        partner.note_told(author, max(last, partner.told.get(author, 0)))
