"""
What one node remembers of its exchange with one peer.  Pure: no clock, no transport.

A peer's claims ("I have this feed up to n") are kept in a bounded table.  From them
and from what is stored here follows what to ask for.  One feed is asked for from one
peer at a time; who asks is decided by L{Claims}, which all sessions of a node share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from attrs import define, field

from meshkit.errors import MalformedFrame
from meshkit.gossip.codec import MAX_ENTRIES

#: Feeds whose claims are remembered per peer, and feeds that wait to be asked for.
#: Beyond it the stalest claims are forgotten, and no further feed waits until others
#: were fetched; both are learned again from the peer's next full announcement.
MAX_CLAIMS: Final = 20_000
#: Feeds asked for at the same time per peer.
MAX_ASKED: Final = 64
#: Feeds that a peer may have waiting to be served.
MAX_WANTED: Final = MAX_ENTRIES

#: Bytes per second of messages that can be stored, which a peer has to bring of what it
#: was asked for.  It is what makes a claim that nothing stands behind lapse.
MIN_RATE: Final = 1024
#: Seconds after which the rate of a request is judged, for each request that is open on
#: the connection: a peer serves them in turn, a page each.
TURN: Final = 30.0
#: What a request has to bring meanwhile, in bytes: less than half a page, as a page may
#: be short because the message that follows is long.
TURN_BYTES: Final = int(MIN_RATE * TURN)


@define
class Request:
    """
    A feed that was asked for and is not finished.

    @ivar claimed: how much the peer had said it has when it was picked.
    @ivar next: sequence of the message that has to come next; 0 before the peer was
        asked.
    @ivar unstored: pages received whose messages are not stored yet.
    @ivar done: the peer said that it was all.
    @ivar since: when its rate was judged last, or when it was sent, in seconds.
    @ivar stored: bytes of messages that came of it and were stored.
    @ivar judged: how many of these there were then.
    """

    claimed: int
    next: int = 0
    unstored: int = 0
    done: bool = False
    since: float = 0.0
    stored: int = 0
    judged: int = 0

    @property
    def owed(self) -> bool:
        """Is it the peer's turn?"""
        return self.next > 0 and not self.done

    @property
    def finished(self) -> bool:
        return self.done and self.unstored == 0


@define
class Claims:
    """Which session is fetching which feed, over all peers of a node."""

    _holders: dict[bytes, Session] = field(factory=dict)

    def take(self, author: bytes, session: Session) -> bool:
        """Try to become the one who fetches a feed."""
        return self._holders.setdefault(author, session) is session

    def release(self, author: bytes, session: Session) -> None:
        if self._holders.get(author) is session:
            del self._holders[author]

    def __len__(self) -> int:
        return len(self._holders)


@define(eq=False)
class Session:
    """
    One peer's side of the bookkeeping.

    @ivar claims: shared by the sessions of a node.
    @ivar peer_has: feed -> the highest sequence that the peer said it has, or that
        it was given by us.
    @ivar ahead: feeds of which the peer has more than was stored here when it said so
        -> how much, in the order in which they are to be asked for.
    @ivar asked: the feeds being fetched from this peer.
    @ivar wanted: the feeds that the peer waits for: author -> after, first come first
        served.
    """

    claims: Claims
    peer_has: dict[bytes, int] = field(factory=dict)
    ahead: dict[bytes, int] = field(factory=dict)
    asked: dict[bytes, Request] = field(factory=dict)
    wanted: dict[bytes, int] = field(factory=dict)
    # Feed -> the claim that could not be made good.  Asking again for the same claim
    # would only bring the same refused messages again.
    _given_up: dict[bytes, int] = field(factory=dict)

    def _remember(self, author: bytes, sequence: int) -> None:
        # Popped and set again, so that the table forgets the stalest first.
        self.peer_has[author] = max(self.peer_has.pop(author, 0), sequence)
        while len(self.peer_has) > MAX_CLAIMS:
            forgotten = next(iter(self.peer_has))
            del self.peer_has[forgotten]
            self._given_up.pop(forgotten, None)

    # --- telling -----------------------------------------------------------------

    def news_for_peer(self, heads: Iterable[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Of our heads, those that the peer does not know to be that far."""
        return [
            (author, sequence)
            for author, sequence in heads
            if self.peer_has.get(author, 0) < sequence
        ]

    # --- asking --------------------------------------------------------------------

    def note_have(self, entries: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """
        The peer tells what it has.

        @return: the feeds that it told about, once each.
        """
        told: dict[bytes, None] = {}
        for author, sequence in entries:
            self._remember(author, sequence)
            told[author] = None
        return list(told)

    def _worth(self, author: bytes, claimed: int, have: int) -> bool:
        return claimed > have and self._given_up.get(author, 0) < claimed

    def compare(self, authors: Iterable[bytes], ours: Mapping[bytes, int]) -> None:
        """
        Put the feeds that the peer has more of among those to ask for.

        @param ours: feed -> sequence up to which it is complete here.
        """
        for author in authors:
            claimed = self.peer_has.get(author, 0)
            if author in self.asked or not self._worth(author, claimed, ours.get(author, 0)):
                continue
            if author in self.ahead or len(self.ahead) < MAX_CLAIMS:
                self.ahead[author] = claimed

    def pick(self) -> list[bytes]:
        """
        The feeds to ask for next.  Each must be passed to L{ask} with what is stored
        of it by then.
        """
        picked: list[bytes] = []
        free = MAX_ASKED - len(self.asked)
        for author in self.ahead:
            if len(picked) >= free:
                break
            if self.claims.take(author, self):
                picked.append(author)
        for author in picked:
            self.asked[author] = Request(claimed=self.ahead.pop(author))
        return picked

    def ask(self, author: bytes, have: int, now: float) -> bool:
        """
        Ask for a picked feed?

        @param have: sequence up to which it is complete here.
        @param now: seconds for which we have listened to the peer.
        @return: L{False} if there is nothing to ask for any more.
        """
        request = self.asked[author]
        if self._worth(author, request.claimed, have):
            request.next = have + 1
            request.since = now
            return True
        self._release(author)
        return False

    @property
    def owed(self) -> bool:
        """Does the peer owe an answer?"""
        return any(request.owed for request in self.asked.values())

    def page_received(self, author: bytes, count: int) -> int:
        """
        A page of C{count} messages came.

        @return: the sequence that the first of them has to have.
        @raise MalformedFrame: if the feed was not asked for, or was already done.
        """
        request = self._running(author)
        first = request.next
        request.next += count
        request.unstored += 1
        return first

    def page_stored(self, author: bytes, size: int) -> Request:
        """
        What a page held is stored, or was refused.

        @param size: bytes of it that were stored.
        """
        request = self.asked[author]
        request.unstored -= 1
        request.stored += size
        return request

    def _judgeable(self) -> list[tuple[bytes, Request]]:
        """The requests that wait for the peer, and not for our store."""
        return [(a, r) for a, r in self.asked.items() if r.owed and r.unstored == 0]

    def _turn(self) -> float:
        return TURN * sum(request.owed for request in self.asked.values())

    def next_turn(self) -> float | None:
        """@return: when L{too_slow} is to be called next; L{None} if nothing is late then."""
        first = min((request.since for _, request in self._judgeable()), default=None)
        return None if first is None else first + self._turn()

    def too_slow(self, now: float) -> bytes | None:
        """
        Judge the requests whose time is over.

        @param now: as in L{ask}.
        @return: a feed of which too little came, if there is one.
        """
        turn = self._turn()
        for author, request in self._judgeable():
            if now - request.since >= turn:
                if request.stored - request.judged < TURN_BYTES:
                    return author
                request.since, request.judged = now, request.stored
        return None

    def done_received(self, author: bytes) -> Request:
        """
        The peer has no more of a feed.

        @raise MalformedFrame: if the feed was not asked for, or was already done.
        """
        request = self._running(author)
        request.done = True
        return request

    def _running(self, author: bytes) -> Request:
        request = self.asked.get(author)
        if request is None or not request.owed:
            raise MalformedFrame("the peer sent something of a feed that was not asked for")
        return request

    def finish(self, author: bytes, have: int) -> None:
        """
        A request is finished and all that came of it is stored.

        @param have: sequence up to which the feed is complete here now.
        """
        claimed = self.asked[author].claimed
        self._release(author)
        if have >= claimed:
            self._given_up.pop(author, None)
        elif author in self.peer_has:
            # What it claimed since is not given up: the answer may have been on its way.
            self._given_up[author] = claimed

    def _release(self, author: bytes) -> None:
        del self.asked[author]
        self.claims.release(author, self)

    # --- serving -------------------------------------------------------------------

    def want_received(self, entries: Iterable[tuple[bytes, int]]) -> None:
        """
        The peer asks for feeds.

        @raise MalformedFrame: if more than L{MAX_WANTED} are waiting.
        """
        for author, after in entries:
            self.wanted[author] = after
        if len(self.wanted) > MAX_WANTED:
            raise MalformedFrame(f"the peer asks for more than {MAX_WANTED} feeds at once")

    def served(self, author: bytes, sequence: int) -> None:
        """The peer was given a feed up to a sequence."""
        self._remember(author, sequence)

    # --- the end -------------------------------------------------------------------

    def close(self) -> None:
        """The peer is gone: its feeds may be fetched from others."""
        for author in list(self.asked):
            self._release(author)
        self.ahead.clear()
        self.wanted.clear()
