"""
One connection of a liar: gossip as an honest node speaks it, in small.

It compares, tells what is new, turns feeds on and is served, serves what is turned on, keeps
to the credit it has and gives credit, and passes on proofs.  What a kind of liar does
otherwise it does by overriding one of these: L{LiarPeer.told_entries}, what it says it has;
L{LiarPeer.page}, what it serves; L{LiarPeer.heard}, what it does with what comes;
L{LiarPeer.send}, how it sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from meshkit.errors import StreamError
from meshkit.feed.message import Message
from meshkit.gossip.codec import (
    MAX_ENTRIES,
    Credit,
    Frame,
    Interest,
    Messages,
    Note,
    Proof,
    Ranges,
    Stopped,
)
from meshkit.gossip.credit import WINDOW_BYTES, Granting, Spending
from meshkit.gossip.reconcile import FIRST, Difference, Entries, Entry, Step, Window, make_salt
from meshkit.gossip.spread import RECEIVE, REPLICATE
from meshkit.sim.liars.library import Leaf
from meshkit.sim.liars.wires import Wire
from meshkit.testing.peers import GossipPeer

if TYPE_CHECKING:
    from meshkit.sim.liars.liar import Liar

__all__ = ["LiarPeer"]

#: Feeds that are turned on over one connection.
MAX_ON: Final = 1_000


class LiarPeer(GossipPeer):
    """
    See the module.

    @ivar liar: whose connection it is.
    @ivar key: 32-byte key of the other side.
    @ivar wire: what is beneath it.
    @ivar dialled: we have opened it.
    @ivar way: how it lies on this connection, of the ways of its kind.
    @ivar heard_at: when something came last, in seconds.
    @ivar serving: feeds that the other side has turned on -> the sequence that is sent next.
    @ivar fetching: feeds that we have turned on; the values say nothing.
    @ivar interested: the other side has said what it replicates.
    @ivar number: of the last comparison that we began.
    @ivar open: it is not over.
    """

    def __init__(self, liar: Liar, key: bytes, wire: Wire) -> None:
        super().__init__(nonce=liar.rng.randbytes(16))
        self.liar = liar
        self.key = key
        self.wire = wire
        self.dialled = wire.dialled
        self.way = wire.way
        self.heard_at = liar.process.seconds()
        self.serving: dict[bytes, int] = {}
        self.fetching: dict[bytes, None] = {}
        self.open = False
        self._credit = Spending()
        self._granting = Granting()
        self._interest: dict[bytes, None] | None = {}
        self._all = False
        self.interested = False
        # What the other side is known to have.
        self._theirs_has: dict[bytes, int] = {}
        # The window that we began.
        self._begun: Window | None = None
        self.number = 0

    def connectionMade(self) -> None:
        self.open = True
        self.liar.joined(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.open = False
        self.liar.left(self)

    def dataReceived(self, data: bytes) -> None:
        self.heard_at = self.liar.process.seconds()
        try:
            super().dataReceived(data)
        except StreamError:
            # The other side is broken, or takes us for somebody else.
            self.hang_up()

    def hang_up(self) -> None:
        """End the connection, without a goodbye."""
        self.open = False
        transport: Any = self.transport
        transport.abortConnection()

    # --- what is sent -----------------------------------------------------------------

    def say(self, *frames: Frame) -> None:
        for frame in frames:
            if self.open:
                self.send(frame)

    def send(self, frame: Frame) -> None:
        """Send one frame.  Everything that is said comes through here."""
        super().say(frame)

    def told_entries(self) -> list[Entry]:
        """What we say that we have, ascending."""
        return self.liar.library.entries()

    def told_sequence(self, author: bytes) -> int:
        """How far we say that we have a feed."""
        return self.liar.library.sequence(author)

    def page(self, author: bytes, first: int) -> list[Leaf]:
        """What we serve of a feed from a place on: nothing, if there is nothing more."""
        return self.liar.library.page(author, first)

    # --- what comes -------------------------------------------------------------------

    def answer(self, frame: Frame) -> None:
        match frame:
            case Interest():
                self._hear_interest(frame)
            case Note():
                self._hear_note(frame)
            case Messages():
                self._hear_messages(frame)
            case Stopped():
                for author in frame.authors:
                    self.fetching.pop(author, None)
            case Credit():
                self._credit.raised(frame.messages, frame.bytes)
                self.serve_all()
            case Proof():
                if self.liar.prove(frame.author, frame.one, frame.two):
                    self.liar.tell_proof(frame, but=self)
            case _:
                super().answer(frame)

    def _hear_interest(self, frame: Interest) -> None:
        if self.interested:
            self._interest, self.interested = {}, False
        self._all = frame.all
        assert self._interest is not None
        self._interest.update(dict.fromkeys(frame.authors))
        self.interested = not frame.more
        if self.interested:
            self.turn_on([self.key])
            self.begin()

    def wants(self, author: bytes) -> bool:
        """Does the other side replicate a feed, as it says?"""
        return self._all or (self._interest is not None and author in self._interest)

    def _hear_note(self, frame: Note) -> None:
        on: list[bytes] = []
        stopped: list[bytes] = []
        for author, sequence, flags in frame.entries:
            self._theirs_has[author] = sequence
            if flags & RECEIVE:
                self.serving.setdefault(author, sequence + 1)
            elif self.serving.pop(author, None) is not None:
                stopped.append(author)
            if sequence > self.liar.library.sequence(author):
                on.append(author)
        if stopped:
            self.say(Stopped(stopped))
        self.turn_on(on)
        self.serve_all()

    def turn_on(self, authors: Sequence[bytes]) -> None:
        """Want what follows of feeds, unless it comes from somebody already."""
        library = self.liar.library
        entries = []
        for author in authors:
            if library.forked(author) is not None or author == self.liar.key:
                continue
            if len(self.fetching) < MAX_ON and self.liar.fetch_from(author, self):
                self.fetching[author] = None
                entries.append((author, library.sequence(author), REPLICATE | RECEIVE))
        for start in range(0, len(entries), MAX_ENTRIES):
            self.say(Note(entries[start : start + MAX_ENTRIES]))

    def _hear_messages(self, frame: Messages) -> None:
        size = sum(map(len, frame.texts))
        self._granting.received(len(frame.texts), size)
        self._theirs_has[frame.author] = frame.first + len(frame.texts) - 1
        taken = self.liar.take(frame.author, frame.texts)
        limit = self._granting.done(len(frame.texts), size, WINDOW_BYTES)
        if limit is not None:
            self.say(Credit(limit.messages, limit.bytes))
        if taken:
            self.liar.spread(frame.author)

    # --- what differs -----------------------------------------------------------------

    def compare(self, frame: Ranges) -> None:
        if not self.dialled:
            self.entries = self.told_entries()
            super().compare(frame)
            return
        window = self._begun
        if window is None or frame.window != self.number:
            return
        answers = window.receive(Step(frame.round, frame.more, frame.body))
        self.differ(window.take_differences())
        if window.finished:
            self._begun = None
        for answer in answers:
            self.say(Ranges(frame.window, answer.round, answer.more, answer.body))

    def begin(self) -> None:
        """Compare everything, if it is our turn to."""
        if not (self.open and self.dialled and self.interested and self._theirs):
            return
        entries = Entries(make_salt(self.nonce, self._theirs))
        entries.add(entry for entry in self.told_entries() if self.wants(entry.author))
        self._begun = Window(entries, FIRST, entries.cut(), begins=True)
        self.number += 1
        for step in self._begun.begin():
            self.say(Ranges(self.number, step.round, step.more, step.body))

    def differ(self, differences: Sequence[Difference]) -> None:
        library = self.liar.library
        on = []
        for each in differences:
            theirs = each.theirs
            if theirs is not None:
                self._theirs_has[each.author] = theirs.sequence
                if theirs.sequence > library.sequence(each.author):
                    on.append(each.author)
            at = library.forked(each.author)
            if at is not None and (theirs is None or theirs.forked is None or at < theirs.forked):
                one, two = library.proofs[each.author]
                self.say(Proof(each.author, one.raw, two.raw))
        self.turn_on(on)

    # --- what the other side wants ----------------------------------------------------

    def news(self, author: bytes) -> None:
        """We have more of a feed than before."""
        if author in self.serving:
            self.serve(author)
        elif self.interested and self.wants(author) and author != self.key:
            sequence = self.told_sequence(author)
            if self._theirs_has.get(author, 0) < sequence:
                self._theirs_has[author] = sequence
                self.say(Note([(author, sequence, self.flags(author))]))

    def flags(self, author: bytes) -> int:
        """How a note has to end that changes nothing."""
        return REPLICATE | RECEIVE if author in self.fetching else REPLICATE

    def serve_all(self) -> None:
        """Send what is here of all feeds that are turned on."""
        for author in list(self.serving):
            self.serve(author)

    def serve(self, author: bytes) -> None:
        """Send what is here of a feed that is turned on, as far as the credit goes."""
        while self.open and author in self.serving:
            first = self.serving[author]
            page = self.page(author, first)
            count = self._credit.fitting([leaf.text for leaf in page])
            if not count:
                return
            self.give(author, first, page[:count])

    def give(self, author: bytes, first: int, page: Sequence[Leaf]) -> None:
        """Send a page."""
        texts = [leaf.text for leaf in page]
        self._credit.spend(texts)
        self.serving[author] = first + len(texts)
        self._theirs_has[author] = first + len(texts) - 1
        self.say(Messages(author, first, texts))

    def act(self) -> None:
        """Do something of one's own accord."""

    def known(self) -> list[tuple[bytes, list[Message]]]:
        """
        What there is to lie about: feeds of others than the two of us, of which the other
        side replicates what we say.
        """
        return [
            (author, feed)
            for author, feed in self.liar.library.feeds.items()
            if author not in (self.key, self.liar.key) and self.wants(author) and feed
        ]
