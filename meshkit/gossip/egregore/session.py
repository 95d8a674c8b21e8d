"""
One connection with a node of Egregore, from the first C{have} to the last push.  Pure: it
is given messages and answers to its own requests, and gives L{Action}s.

::

    client                          server
    TELL   have ------------------> HEAR
    HEAR   <------------------ have TELL
    ASK    want ------------------> WANTED
    TAKE   <-------- messages, done SERVE
    WANTED <------------------ want ASK
    SERVE  messages, done --------> TAKE
    ANSWER subscribe -------------> OFFER
           <---------- subscribeack
    LIVE   push, credits <--> push, credits

A side whose own steps are pending is sent nothing, so a message then is an error.  In the
end a client that does not want to be live, or is refused, closes.

B{Credits.}  Each side may push L{FIRST_CREDITS} messages per connection, and one more for
each credit that it is granted.  Egregore's own nodes never ask for credits, stop after the
first hundred, and hang up when they hear nothing for 15 seconds; so here they are granted
anew as they are used, and L{Session.keep_alive} asks for our own, whose answer is also
their sign of life.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Final

from attrs import define, field, frozen

from meshkit.errors import MalformedFrame
from meshkit.gossip.egregore import wire
from meshkit.gossip.egregore.memory import MAX_FEEDS, PeerMemory

#: Pushes that each side may send on a connection before it was granted any.
FIRST_CREDITS: Final = 100
#: Credits are granted back in lots of this size.
LOT: Final = 25
#: The most that one C{credit_request} is answered with, and asks for.
GRANT: Final = 50
#: Unused credits that a peer may have, and that we believe to have.
MAX_ALLOWED: Final = 1_000
MAX_CREDITS: Final = 10_000
#: Below this more are asked for.
LOW: Final = 50
#: Messages of one feed that are pushed, at most; what is farther behind waits for a C{want}.
MAX_BEHIND: Final = 1_000
#: Bytes and messages that are read from the store at a time.
PAGE_BYTES: Final = 64 * 1024
PAGE_MESSAGES: Final = 200
#: Messages of a live connection that have no place there, before the peer is dropped.
MAX_ODD: Final = 100


class Phase(Enum):
    """See the module.  Between two of them a request of ours is pending."""

    NEW = auto()
    HEAR = auto()
    TELL = auto()  # pending: what is here
    ASK = auto()  # pending: what is here of what the peer has
    TAKE = auto()
    WANTED = auto()
    SERVE = auto()  # pending: pages
    OFFER = auto()  # server: will it subscribe?
    ANSWER = auto()  # client: is it accepted?
    LIVE = auto()
    OVER = auto()


@frozen
class Send:
    """Send a message."""

    data: bytes


@frozen
class Survey:
    """Tell what is complete here: L{Session.surveyed}."""


@frozen
class Compare:
    """Tell what is complete here of some feeds: L{Session.compared}."""

    authors: tuple[bytes, ...]


@frozen
class Read:
    """Read what follows a sequence of a feed: L{Session.page}."""

    author: bytes
    after: int
    messages: int


@frozen
class Store:
    """Judge and store texts: L{Session.stored} when that is done."""

    texts: tuple[bytes, ...]


@frozen
class GoLive:
    """The connection stays open from here on."""


@frozen
class CatchUp:
    """Another exchange, on a connection of its own, would bring something: have one soon."""


@frozen
class Close:
    """Say goodbye."""


Action = Send | Survey | Compare | Read | Store | GoLive | CatchUp | Close


@define
class _Serving:
    """
    A feed that the peer asked for.

    @ivar base: the sequence that it asked from.
    @ivar at: the sequence up to which it was served.
    """

    base: int
    at: int


@define(eq=False)
class Session:
    """
    See the module.

    @ivar client: we dialled.
    @ivar memory: of this peer.
    @ivar own: our own key.
    @ivar wants: is this author's feed replicated here?
    @ivar refused: would the peer refuse this text?
    @ivar may_go_live: asked when the peer subscribes, or we could: is there room?
    @ivar topics: what we want to be pushed; empty for everything.
    @ivar phase: where it stands.
    @ivar more: something was left for the next session, as this one is bounded.
    @ivar given: messages that the peer was sent.
    @ivar withheld: messages that it was not, because it would refuse them.
    @ivar credits: how many we may push.
    """

    client: bool
    memory: PeerMemory
    own: bytes
    wants: Callable[[bytes], bool]
    refused: Callable[[bytes], str | None]
    may_go_live: Callable[[], bool]
    topics: Sequence[str] = ()
    phase: Phase = field(default=Phase.NEW, init=False)
    more: bool = field(default=False, init=False)
    given: int = field(default=0, init=False)
    withheld: int = field(default=0, init=False)
    credits: int = field(default=FIRST_CREDITS, init=False)
    # The hello of the peer: what it has, for what it wants to be sent.
    _theirs: dict[bytes, int] = field(factory=dict, init=False)
    _their_topics: frozenset[str] = field(default=frozenset(), init=False)
    _told: dict[bytes, int] = field(factory=dict, init=False)
    # Feeds that we told of and that the peer did not ask for, although it has less.
    _declined: dict[bytes, None] = field(factory=dict, init=False)
    # Taking: feed -> (what is complete here, what was asked after, the highest that came).
    _asked: dict[bytes, tuple[int, int, int]] = field(factory=dict, init=False)
    _taken: int = field(default=0, init=False)
    # Serving.
    _serving: dict[bytes, _Serving] = field(factory=dict, init=False)
    _served: list[tuple[bytes, _Serving]] = field(factory=list, init=False)
    # Live.
    _ahead: dict[bytes, int] = field(factory=dict, init=False)
    _reading: bytes | None = field(default=None, init=False)
    _asking: bool = field(default=False, init=False)
    _allowed: int = field(default=FIRST_CREDITS, init=False)
    _unreturned: int = field(default=0, init=False)
    _odd: int = field(default=0, init=False)

    # --- the beginning -----------------------------------------------------------------

    def start(self) -> list[Action]:
        """The connection is made."""
        if self.client:
            self.phase = Phase.TELL
            return [Survey()]
        self.phase = Phase.HEAR
        return []

    @property
    def their_turn(self) -> bool:
        """Is the peer to say something, or else hang up?"""
        return self.phase in (
            Phase.HEAR,
            Phase.TAKE,
            Phase.WANTED,
            Phase.OFFER,
            Phase.ANSWER,
        )

    @property
    def asked(self) -> int:
        """How many feeds the peer was asked for."""
        return len(self._asked)

    def says_of(self, author: bytes) -> int:
        """@return: up to where the peer said that it has a feed; 0 if it did not name it."""
        return self._theirs.get(author, 0)

    def received(self, data: bytes, now: float) -> list[Action]:
        """
        A message of the peer.

        @param now: seconds of a clock that never goes back.
        @raise MalformedFrame: if it has no place here.
        """
        message = wire.decode(data)
        self._confirm(now)
        match self.phase, message:
            case Phase.HEAR, wire.Have():
                return self._have(message)
            case Phase.TAKE, wire.Messages():
                return self._messages([bytes(raw) for raw in message.messages])
            case Phase.TAKE, wire.Done():
                return self._done(now)
            case Phase.WANTED, wire.Want():
                return self._want(message, now)
            case Phase.OFFER, wire.Subscribe():
                return self._subscribe(message)
            case Phase.ANSWER, wire.SubscribeAck():
                if message.accepted and message.mode == "persistent":
                    return self._go_live([])
                return self._over()
            case Phase.LIVE, _:
                return self._live(message)
            case Phase.OVER, _:
                return []
        raise MalformedFrame(
            f"the peer sent {type(message).__name__.lower()!r} where it has no place "
            f"({self.phase.name.lower()})"
        )

    def ended(self, now: float) -> None:
        """The peer said goodbye: what it was sent has reached it."""
        self._confirm(now)
        self.phase = Phase.OVER

    def _over(self) -> list[Action]:
        self.phase = Phase.OVER
        return [Close()]

    # --- have --------------------------------------------------------------------------

    def surveyed(self, heads: Sequence[tuple[bytes, int]]) -> list[Action]:
        """@param heads: author and sequence, from the cursor of the memory on and round."""
        entries, left_over = self.memory.window(heads)
        self.more |= left_over
        self._told = dict(entries)
        self.phase = Phase.HEAR if self.client else Phase.WANTED
        return [Send(wire.encode_have(entries, self.topics))]

    def _have(self, have: wire.Have) -> list[Action]:
        for state in have.feeds:
            key = wire.author_key(state.author)
            if key is not None and len(self._theirs) < MAX_FEEDS:
                self._theirs[key] = state.latest_sequence
        self._their_topics = frozenset(have.subscribed_topics)
        self.memory.told(self._theirs)
        if self.client:
            return self._compare()
        self.phase = Phase.TELL
        return [Survey()]

    # --- want, messages, done: what we ask for ---------------------------------------------

    def _compare(self) -> list[Action]:
        self.phase = Phase.ASK
        return [Compare(tuple(author for author in self._theirs if self.wants(author)))]

    def compared(self, ours: Mapping[bytes, int], now: float) -> list[Action]:
        """@param ours: feed -> sequence up to which it is complete here."""
        entries: list[tuple[bytes, int]] = []
        for author, latest in self._theirs.items():
            have = ours.get(author, 0)
            if latest <= have or not self.wants(author):
                continue
            after = self.memory.got.begin(author, have, now)
            if after >= latest:
                continue
            if len(entries) >= wire.MAX_WANT:
                self.more = True
                break
            entries.append((author, after))
            self._asked[author] = (have, after, after)
        self.phase = Phase.TAKE
        return [Send(wire.encode_want(entries))]

    def _messages(self, texts: Sequence[bytes]) -> list[Action]:
        self._taken += len(texts)
        if len(texts) > wire.MAX_TOGETHER or self._taken > wire.MAX_TAKEN:
            raise MalformedFrame("the peer sent more messages than one session carries")
        for text in texts:
            place = wire.place_of(text)
            if place is None:
                # No message: the store says so, and counts it.
                continue
            author, sequence, _ = place
            have, after, highest = self._asked.get(author, (0, 0, -1))
            if highest < 0 or sequence <= after:
                raise MalformedFrame("the peer sent a message that it was not asked for")
            self._asked[author] = (have, after, max(highest, sequence))
        return [Store(tuple(texts))] if texts else []

    def _done(self, now: float) -> list[Action]:
        for author, (have, _, highest) in self._asked.items():
            self.memory.got.given(author, have, highest, now)
        # The peer stops before the limit, or at it.
        self.more |= self._taken >= wire.MAX_GIVEN
        if self.client:
            self.phase = Phase.WANTED
            return []
        self.phase = Phase.OFFER
        return []

    def not_stored(self) -> None:
        """This node could not keep what it took: it is asked for again next time."""
        for author in self._asked:
            self.memory.got.forget(author)

    # --- what the peer asks for -------------------------------------------------------------

    def _want(self, want: wire.Want, now: float) -> list[Action]:
        requests = want.requests[: wire.MAX_WANT]
        for request in requests:
            key = wire.author_key(request.author)
            if key is not None:
                base = request.after_sequence
                # The memory is that of what was sent behind a gap, not of what is here.
                self._serving[key] = _Serving(base, self.memory.sent.begin(key, base, now))
        if len(want.requests) < wire.MAX_WANT:
            for author, sequence in self._told.items():
                if sequence > self._theirs.get(author, 0) and author not in self._serving:
                    self._declined[author] = None
        self.phase = Phase.SERVE
        return self._serve_next()

    def _serve_next(self) -> list[Action]:
        left = wire.MAX_GIVEN - self.given
        if self._serving and left > 0:
            author = next(iter(self._serving))
            return [Read(author, self._serving[author].at, min(left, PAGE_MESSAGES))]
        if self._serving:
            # It is told of them again, and asks again.
            self.more = True
            self._served += self._serving.items()
            self._serving.clear()
        done: list[Action] = [Send(wire.encode(wire.Done()))]
        if not self.client:
            return done + self._compare()
        if self.may_go_live():
            self.phase = Phase.ANSWER
            return [*done, Send(wire.encode(wire.Subscribe("persistent")))]
        return done + self._over()

    def page(self, author: bytes, texts: Sequence[bytes]) -> list[Action]:
        """
        What was read of a feed.

        @param texts: consecutive messages behind the sequence that L{Read} named; none if
            there are no more.
        """
        if self.phase is Phase.LIVE:
            return self._push(author, texts)
        if self.phase is not Phase.SERVE:
            return []
        # The feeds take turns, a page each.
        serving = self._serving.pop(author)
        serving.at += len(texts)
        sent = [text for text in texts if self._suits(text)]
        self.given += len(sent)
        if texts:
            self._serving[author] = serving
        else:
            self._served.append((author, serving))
        return [*map(Send, wire.pack(sent)), *self._serve_next()]

    def gone(self, author: bytes, until: int) -> list[Action]:
        """
        What was to be read is not kept here any more: go on behind it.  Their nodes keep a
        message whose predecessor is missing.

        @param until: the last one that is not kept.
        """
        if self.phase is Phase.LIVE:
            self._reading = None
            self.memory.note(author, until)
            return self._push_next()
        if self.phase is not Phase.SERVE:
            return []
        serving = self._serving[author]
        serving.at = max(serving.at, until)
        return self._serve_next()

    def _suits(self, text: bytes) -> bool:
        """Is this a message that the peer wants and would take?"""
        if self._their_topics:
            place = wire.place_of(text)
            if place is None or self._their_topics.isdisjoint(place[2]):
                return False
        if self.refused(text) is not None:
            self.withheld += 1
            return False
        return True

    def _confirm(self, now: float) -> None:
        """The peer has read what it was served."""
        if self.phase is Phase.SERVE:
            return
        for author, serving in self._served:
            self.memory.note(author, serving.at)
            self.memory.sent.given(author, serving.base, serving.at, now)
        self._served.clear()

    # --- live ------------------------------------------------------------------------------

    def _subscribe(self, subscribe: wire.Subscribe) -> list[Action]:
        accepted = subscribe.mode == "persistent" and self.may_go_live()
        mode: wire.Mode = "persistent" if accepted else "pull_only"
        answer: list[Action] = [Send(wire.encode(wire.SubscribeAck(accepted, mode)))]
        return self._go_live(answer) if accepted else answer + self._over()

    def _go_live(self, actions: list[Action]) -> list[Action]:
        self.phase = Phase.LIVE
        return [*actions, GoLive(), *self._push_next()]

    def _live(self, message: wire.Message) -> list[Action]:
        match message:
            case wire.Push():
                return self._pushed(bytes(message.message))
            case wire.CreditGrant():
                return self._granted(message.amount)
            case wire.CreditRequest():
                amount = min(message.suggested, GRANT, MAX_ALLOWED - self._allowed)
                return self._grant(amount)
            case wire.FlowControlAck():
                return self._granted(message.initial_credits if message.supported else 0)
        # Their nodes ignore what has no place here; one that sends nothing else is odd.
        self._odd += 1
        if self._odd > MAX_ODD:
            raise MalformedFrame("the peer goes on sending what has no place on a live connection")
        return []

    def _pushed(self, text: bytes) -> list[Action]:
        self._allowed -= 1
        if self._allowed < 0:
            raise MalformedFrame("the peer pushed more messages than it was granted")
        place = wire.place_of(text)
        if place is not None:
            # Before it is stored, so that it is not sent back.
            self.memory.note(place[0], place[1])
            if not self.wants(place[0]):
                return self.stored(1)
        return [Store((text,))]

    def stored(self, count: int) -> list[Action]:
        """
        So many texts were dealt with.

        @return: the credits that are given back for them.
        """
        if self.phase is not Phase.LIVE:
            return []
        self._unreturned += count
        if self._unreturned < LOT:
            return []
        amount, self._unreturned = self._unreturned, 0
        return self._grant(min(amount, MAX_ALLOWED - self._allowed))

    def _grant(self, amount: int) -> list[Action]:
        if amount <= 0:
            return []
        self._allowed += amount
        return [Send(wire.encode(wire.CreditGrant(amount)))]

    def _granted(self, amount: int) -> list[Action]:
        self._asking = False
        self.credits = min(self.credits + amount, MAX_CREDITS)
        return self._push_next()

    def keep_alive(self) -> list[Action]:
        """To be called every few seconds of a live connection."""
        if self.phase is not Phase.LIVE:
            return []
        unreturned, self._unreturned = self._unreturned, 0
        grant = self._grant(min(unreturned, MAX_ALLOWED - self._allowed))
        return [*grant, Send(wire.encode(wire.CreditRequest(GRANT)))]

    def news(self, author: bytes, sequence: int) -> list[Action]:
        """A feed is complete here up to a sequence now."""
        if self.phase is not Phase.LIVE or author in self._declined:
            return []
        if author not in self.memory.holds and (author != self.own or self._declined):
            # Nobody can tell whether it follows this author, but by offering the feed.
            return [CatchUp()]
        if len(self._ahead) < MAX_FEEDS:
            self._ahead[author] = sequence
        return self._push_next()

    def _push_next(self) -> list[Action]:
        while self._reading is None and self._ahead and self.credits > 0:
            author = next(iter(self._ahead))
            has = self.memory.holds.get(author, 0)
            behind = self._ahead[author] - has
            if not 0 < behind <= MAX_BEHIND:
                del self._ahead[author]
                if behind > 0:
                    return [CatchUp()]
                continue
            self._reading = author
            return [Read(author, has, min(self.credits, PAGE_MESSAGES))]
        return []

    def _push(self, author: bytes, texts: Sequence[bytes]) -> list[Action]:
        self._reading = None
        has = self.memory.holds.get(author, 0)
        known = self._ahead.pop(author, 0)
        # It may have brought some of them itself meanwhile.
        after = _behind(texts, has)
        # No more than there were credits for when it was read, and those only grow.
        sent = [text for text in after if self._suits(text)]
        self.credits -= len(sent)
        self.given += len(sent)
        if texts:
            self.memory.note(author, has + len(after))
            # To the end of the line: the feeds take turns.
            self._ahead[author] = known
        pushes = [Send(wire.encode_push(text)) for text in sent]
        return [*pushes, *self._ask_for_credits(), *self._push_next()]

    def _ask_for_credits(self) -> list[Action]:
        if self.credits >= LOW or self._asking:
            return []
        self._asking = True
        return [Send(wire.encode(wire.CreditRequest(GRANT)))]


def _behind(texts: Sequence[bytes], sequence: int) -> list[bytes]:
    """Those of some texts that come after a sequence."""
    places = ((text, wire.place_of(text)) for text in texts)
    return [text for text, place in places if place is not None and place[1] > sequence]
