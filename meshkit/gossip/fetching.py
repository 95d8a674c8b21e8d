"""
What comes from one peer: feeds that are turned on, their messages on the way to the
store, and what becomes of a peer that does not bring what it said it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IDelayedCall

from meshkit.errors import (
    DuplicateMessage,
    ForkRefused,
    MalformedFrame,
    MeshkitError,
    NotAskedFor,
    NotTaken,
    PromiseBroken,
    UnexpectedMessage,
)
from meshkit.gossip.codec import Credit, Gone, Messages
from meshkit.gossip.credit import Granting
from meshkit.gossip.digestion import FRAME_COST
from meshkit.gossip.spread import MAX_SEQUENCE, RECEIVE, REPLICATE
from meshkit.identity.keys import PublicKey

if TYPE_CHECKING:
    from meshkit.gossip.link import GossipLink

#: Messages of a link that may be refused (altered, forged, malformed) before the peer
#: is dropped: an honest node serves only what it has verified itself.
MAX_REFUSED: Final = 100
#: Seconds between two looks at what a peer owes, at least.
LEAST_WAIT: Final = 0.1
#: What it costs a peer's score, of 100: messages that nobody asked for, a promise not kept,
#: a message that was refused.
UNASKED_COST: Final = 20.0
PROMISE_COST: Final = 10.0
REFUSED_COST: Final = 0.9


class Fetching:
    """One direction of a link."""

    def __init__(self, link: GossipLink) -> None:
        self._link = link
        self._granting = Granting()
        self._refused = 0
        self._judge_due: IDelayedCall | None = None

    @property
    def exhausted(self) -> bool:
        """May the peer send no message until we have stored some?"""
        return self._granting.exhausted

    def close(self) -> None:
        """The link is gone."""
        if self._judge_due is not None and self._judge_due.active():
            self._judge_due.cancel()

    def ask_more(self) -> None:
        """Turn on feeds that the peer has more of, as many as may be."""
        if not self._link.ready:
            return
        self.tell_off(self._link.spread.make_room(self._link.partner))
        chosen = self._link.spread.choose(self._link.partner, self._link.reactor.seconds())
        if chosen:
            self._link.run(self._turn_on(chosen))
        self._link.comparing.claims_fell()

    async def _turn_on(self, chosen: list[bytes]) -> None:
        ours = await self._link.part.frontier(chosen)
        entries = []
        for author in chosen:
            here = ours.get(author)
            have = 0 if here is None else here.sequence
            after = self._link.spread.begin(
                self._link.partner,
                author,
                have,
                self._link.reactor.seconds(),
                last=MAX_SEQUENCE if here is None or here.forked is None else here.forked - 1,
                disputed=here is not None and here.disputed is not None,
            )
            if after is not None:
                entries.append((author, after, REPLICATE | RECEIVE))
        self._link.telling.send_notes(entries)
        self.watch_promises()
        if self._link.open and len(entries) < len(chosen):
            self._link.part.ask_all()

    def turn_off(self, authors: Iterable[bytes]) -> None:
        """Have nothing more of these feeds from this peer."""
        self.tell_off([a for a in authors if self._link.spread.turn_off(self._link.partner, a)])

    def tell_off(self, authors: Sequence[bytes], flags: int = REPLICATE) -> None:
        """Tell the peer that feeds were turned off."""
        on = self._link.partner.on
        self._link.telling.send_notes([(author, on[author].next - 1, flags) for author in authors])

    def messages(self, frame: Messages) -> None:
        texts = frame.texts
        size = sum(map(len, texts))
        self._granting.received(len(texts), size)
        self._link.listen()
        try:
            self._link.spread.received(self._link.partner, frame.author, frame.first, len(texts))
        except NotAskedFor as e:
            # What is not stored does not have to wait for the store.
            self._done_with(len(texts), size)
            self._link.part.offend(self._link, e, UNASKED_COST)
            return
        self._link.run(self._store(frame.author, frame.first, texts, size))

    def _done_with(self, messages: int, size: int) -> None:
        """Messages are off our hands: let the peer send others."""
        limit = self._granting.done(messages, size, self._link.part.fair_part())
        if limit is not None:
            self._link.send(Credit(limit.messages, limit.bytes))
        self._link.listen()

    async def _store(self, author: bytes, first: int, texts: list[bytes], size: int) -> None:
        with self._link.digesting(FRAME_COST + size):
            verdicts = await self._link.part.store.ingest(texts, author=author, first=first)
        if not self._link.open:
            return
        account = self._link.part.ledger.account(self._link.connected_to)
        stored = 0
        refused: tuple[int, int] | None = None
        wanted = True
        for number, (text, verdict) in enumerate(zip(texts, verdicts, strict=True)):
            error = verdict.error
            if error is None:
                self._link.count_received()
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
                    wanted = not isinstance(error, NotTaken)
                    forks = isinstance(error, ForkRefused) and number == 0
                    refused = (first + number, first if forks else 0)
                if isinstance(error, NotTaken):
                    # This node does not want it: that is not the peer's doing.
                    self._link.part.refused[error.code] += 1
                elif not isinstance(error, ForkRefused):
                    self._count_refused(error)
                    if not self._link.open:
                        return
        self._link.spread.digested(self._link.partner, author, stored)
        self._done_with(len(texts), size)
        if refused is None:
            self._link.spread.agreed(self._link.partner, author)
            self.ask_more()
        else:
            if wanted:
                self._refuse(author, *refused)
            else:
                self._do_not_take(author, refused[0])
            self._link.part.ask_all()
        self.watch_promises()

    def _refuse(self, author: bytes, sequence: int, fork_from: int) -> None:
        now = self._link.reactor.seconds()
        if self._link.spread.refuse(self._link.partner, author, sequence, now, fork_from=fork_from):
            self.tell_off([author])
        # The author goes on with the branch that is here; the other one is followed back.
        if not fork_from:
            self._link.part.prefer_author(author, self._link)

    def _do_not_take(self, author: bytes, sequence: int) -> None:
        now = self._link.reactor.seconds()
        if self._link.spread.not_taken(self._link.partner, author, sequence, now):
            self.tell_off([author])

    def _count_refused(self, error: MeshkitError) -> None:
        self._refused += 1
        self._link.part.ledger.account(self._link.connected_to).refused += 1
        self._link.part.count_refused(self._link, error)
        if self._link.open:
            if self._refused > MAX_REFUSED:
                self._link.part.ban(self._link.connected_to, error)
            else:
                self._link.part.offend(self._link, error, REFUSED_COST)

    def gone(self, frame: Gone) -> None:
        now = self._link.reactor.seconds()
        if self._link.spread.gone(self._link.partner, frame.author, frame.until, frame.hash, now):
            self.tell_off([frame.author])
        if frame.next:
            self._link.run(self._take_next(frame))
        self._link.part.ask_all()

    async def _take_next(self, frame: Gone) -> None:
        """Keep the message that says what was in a gap: see L{IFeedStore.skip}."""
        with self._link.digesting(FRAME_COST + len(frame.next)):
            (verdict,) = await self._link.part.store.ingest(
                [frame.next], author=frame.author, first=frame.until + 1
            )
        error = verdict.error
        if isinstance(error, UnexpectedMessage):
            raise MalformedFrame(f"the peer sent what does not follow a gap: {error}")
        if error is None:
            self._link.count_received()
        elif self._link.open and not isinstance(error, (DuplicateMessage, ForkRefused, NotTaken)):
            self._count_refused(error)

    def prefer_own_feed(self) -> None:
        """The peer's own feed comes from the peer."""
        author = self._link.connected_to.raw
        if self._link.ready and self._link.telling.shared(author):
            for before in self._link.spread.prefer(self._link.partner, author):
                self._link.part.turn_off(before, [author])
            if author in self._link.partner.due:
                self._link.run(self._turn_on([author]))

    def watch_promises(self) -> None:
        """
        Look at what the peer said it has when it is time to.  The time only ever moves away,
        so it is looked up anew when it has come, and not at every page.
        """
        if not self._link.open or self._link.deaf:
            self.close()
            self._judge_due = None
        elif self._judge_due is None:
            due = self._link.spread.next_judgement(self._link.partner)
            if due is not None:
                # What waits for our store is not judged: a moment later, then.
                wait = max(LEAST_WAIT, due - self._link.reactor.seconds())
                self._judge_due = self._link.reactor.callLater(wait, self._judge)

    def _judge(self) -> None:
        self._judge_due = None
        # The clock of the connection is a sum of floats: a time may be over by a hair less.
        failed = self._link.spread.late(self._link.partner, self._link.reactor.seconds() + 0.001)
        self.turn_off(failed)
        for author in failed:
            self._link.part.prefer_author(author, self._link)
        if failed:
            # However many: what failed together is one thing that went wrong.
            others = "" if len(failed) == 1 else f" and of {len(failed) - 1} others"
            error = PromiseBroken(
                f"the peer said that it has more of {PublicKey(failed[0]).text}{others}, and did "
                f"not bring it"
            )
            self._link.part.promise_broken(self._link, error)
        self.watch_promises()
        if failed:
            self._link.part.ask_all()
