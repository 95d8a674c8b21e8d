"""
What two peers say to each other about feeds: how far they are, what differs, what is new,
which have forked.  Also what a peer wants, which is then served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from attrs import define

from meshkit.errors import FeedError, MalformedFrame, UnexpectedMessage
from meshkit.gossip.codec import MAX_ENTRIES, Note, Proof, Stopped, Tagged
from meshkit.gossip.digestion import ENTRY_COST, FRAME_COST
from meshkit.gossip.reconcile import Difference
from meshkit.gossip.selection import MAX_AUTHORS
from meshkit.gossip.spread import (
    MADE_GOOD,
    MAX_SEQUENCE,
    RECEIVE,
    REPLICATE,
    Forward,
    State,
    Turn,
)

if TYPE_CHECKING:
    from meshkit.gossip.link import GossipLink

#: Feeds that changed and of which the peer was not told yet.
MAX_NEWS: Final = 20_000
#: Feeds of which is remembered that the peer had less than this node when they were compared.
MAX_LACKING: Final = 4_096
#: What a feed costs that is turned off before anything of it was sent, of what a peer may say
#: that is of no use: who turns feeds on and off for ever makes us look them up for ever.
OFF_COST: Final = 0.2
#: Feeds of which the peer is known to have the fork proof, and of which it waits for one;
#: those beyond it are found by the next comparison.
MAX_PROVEN: Final = 1_000


@define
class _Lack:
    """
    A feed of which the peer has less than this node.

    @ivar has: how much.
    @ivar told: what was known of it then: what it was given counts until it shows otherwise.
    @ivar since: when a comparison showed that first, in seconds, and when the last one did.
    """

    has: int
    told: int
    since: float
    until: float


class Telling:
    """Both directions of a link."""

    def __init__(self, link: GossipLink) -> None:
        self._link = link
        # Feeds of which the peer is to be told how far they are here.
        self._news: dict[bytes, int] = {}
        # Feeds that the peer turned off and was not told that they are stopped.
        self._stopped: dict[bytes, None] = {}
        # Feeds of which the peer had less when they were compared last, and those of this time.
        self._lacking: dict[bytes, _Lack] = {}
        self._lacks_now: dict[bytes, _Lack] = {}
        # Our own feed was found to differ since it was compared last.
        self._own_differs = False
        # Feed -> the place for which the peer is to have a fork proof, and for which it has
        # one; and those that it gives us just now.
        self._proofs: dict[bytes, int] = {}
        self._proving = False
        self._proven: dict[bytes, int] = {}
        self._taking: dict[bytes, None] = {}
        # Authors of whom the peer was shown that they use a topic; those who wait for it.
        self._shown: dict[bytes, None] = {}
        self._to_show: deque[bytes] = deque()

    # --- what differs ----------------------------------------------------------------------

    def shared(self, author: bytes) -> bool:
        """Do both sides replicate a feed?"""
        return self._link.part.selection.wants(author) and author in self._link.interest

    def compare_again(self) -> None:
        """Find out anew what differs."""
        if not self._link.ready:
            return
        if self._link.dialled:
            self._link.comparing.run()
        else:
            self._link.send_interest()

    def differ(self, differences: Sequence[Difference]) -> None:
        """Some feeds were found to differ."""
        shorter: list[tuple[bytes, int, bytes]] = []
        for each in differences:
            author, ours, theirs = each.author, each.ours, each.theirs
            if not self.shared(author):
                continue
            have = 0 if ours is None else ours.sequence
            has = 0 if theirs is None else theirs.sequence
            self._has(author, has, have, None if ours is None else ours.forked)
            if ours is None:
                continue
            if theirs is None and not self._link.interest.all:
                self._show_tagged(author)
            if ours.forked is not None and (
                theirs is None or theirs.forked is None or ours.forked < theirs.forked
            ):
                self.tell_proof(author, ours.forked)
            elif theirs is not None and has == have and ours.head != theirs.head:
                self._part(author, have, have)
            elif theirs is not None and theirs.head is not None and 0 < has < have:
                shorter.append((author, has, theirs.head))
        if shorter:
            self._link.run(self._find_branches(shorter))
        self._link.part.ask_all()

    async def _find_branches(self, heads: Sequence[tuple[bytes, int, bytes]]) -> None:
        """The peer has less of these feeds than we: is it the beginning of ours?"""
        for start in range(0, len(heads), MAX_ENTRIES):
            page = heads[start : start + MAX_ENTRIES]
            with self._link.digesting(FRAME_COST + len(page) * ENTRY_COST):
                parting = await self._link.part.store.parting(page)
                ours = await self._link.part.frontier([author for author, _ in parting])
            if not self._link.open:
                return
            for author, sequence in parting:
                here = ours.get(author)
                if here is not None and (here.forked is None or sequence < here.forked):
                    self._part(author, sequence, here.sequence)
        self._link.part.ask_all()

    def _part(self, author: bytes, sequence: int, have: int) -> None:
        """The peer has another message than we at one place."""
        for before in self._link.spread.parted(self._link.partner, author, sequence, have):
            self._link.part.turn_off(before, [author])

    def compared(self, lower: bytes, upper: bytes, own_sequence: int) -> None:
        """
        A window was compared to its end: what was not said to differ is the same.

        @param own_sequence: how far our own feed was as it was compared.
        """
        for author in [a for a in self._lacking if lower <= a < upper]:
            del self._lacking[author]
        room = MAX_LACKING - len(self._lacking)
        self._lacking.update(islice(self._lacks_now.items(), room))
        self._lacks_now.clear()
        own = self._link.part.selection.own
        if lower <= own < upper and self.shared(own):
            if not self._own_differs:
                self._link.part.own_feed_seen(self._link.connected_to, own_sequence)
            self._own_differs = False

    def _has(self, author: bytes, has: int, have: int, forked: int | None) -> None:
        """The peer has a feed up to a sequence."""
        if has:
            self._link.partner.note_told(author, has)
        if has < have and forked is None:
            self._note_lack(author, has)
        if author == self._link.part.selection.own:
            self._own_differs = True
            self._link.part.own_feed_seen(self._link.connected_to, has)
        last = MAX_SEQUENCE if forked is None else forked - 1
        self._link.spread.heard(
            self._link.partner, author, has, have, self._link.reactor.seconds(), last=last
        )

    def _note_lack(self, author: bytes, has: int) -> None:
        if len(self._lacks_now) >= MAX_LACKING:
            return
        now = self._link.reactor.seconds()
        before = self._lacking.get(author)
        since = now if before is None or before.has != has else before.since
        told = self._link.partner.told.get(author, 0)
        self._lacks_now[author] = _Lack(has, told, since, now)

    def broken_off(self) -> None:
        """A window ends, whether it was compared to its end or not."""
        self._lacks_now.clear()

    def lacking(self) -> int:
        """
        @return: feeds that the peer replicates, as it says, and of which it had less than this node
            in two comparisons with a minute between them, and no more in the second one.  An
            honest peer asks for what it lacks.
        """
        told = self._link.partner.told
        return sum(
            lack.until - lack.since >= MADE_GOOD and told.get(author, 0) <= lack.told
            for author, lack in self._lacking.items()
        )

    # --- topics ----------------------------------------------------------------------------

    def used_topic(self, author: bytes, tags: Iterable[str]) -> None:
        """An author has used these tags: perhaps the peer wants to hear of it now."""
        interest = self._link.interest
        if author in interest or set(interest.topics).isdisjoint(tags):
            return
        if len(interest.tagged) < MAX_AUTHORS:
            interest.tagged[author] = None
            if self._link.ready and self._link.part.selection.wants(author):
                self._show_tagged(author)

    def _show_tagged(self, author: bytes) -> None:
        """The peer follows a topic, and may not know that this author has used it."""
        if self._link.interest.names(author) or author in self._shown:
            return
        if len(self._shown) >= MAX_NEWS:
            self._shown.clear()
        self._shown[author] = None
        self._to_show.append(author)
        if len(self._to_show) == 1:
            self._link.run(self._send_tagged())

    async def _send_tagged(self) -> None:
        while self._to_show and self._link.open:
            if self._link.drained is not None:
                await self._link.drained
                continue
            author = self._to_show[0]
            topics = self._link.interest.topics
            text = await self._link.part.store.tagged_message(author, topics)
            if text is not None:
                self._link.send(Tagged(author, text))
            self._to_show.popleft()

    async def take_tagged(self, frame: Tagged) -> None:
        """A peer shows an author who has used a topic of ours."""
        part = self._link.part
        author = frame.author
        # It may have been sent before the peer heard that we have this author, or no topic.
        if not part.selection.topics() or part.selection.wants(author):
            return
        with self._link.digesting(FRAME_COST + len(frame.text)):
            (verdict,) = await part.store.ingest([frame.text], author=author)
        if isinstance(verdict.error, UnexpectedMessage):
            raise MalformedFrame(f"the peer showed a message of somebody else: {verdict.error}")
        if verdict.error is None:
            self._link.count_received()

    # --- notes ----------------------------------------------------------------------------

    def note(self, frame: Note) -> None:
        unknown: dict[bytes, int] = {}
        on: list[bytes] = []
        selection = self._link.part.selection
        useless = 0.0
        ahead = due = False
        now = self._link.reactor.seconds()
        # Nothing is turned on from it, whatever it says.
        lazy = self._link.spread.is_lazy(self._link.partner.key, now)
        for author, sequence, flags in frame.entries:
            known = self._link.partner.has(author, sequence)
            in_vain = author in self._link.partner.unserved
            turn = self._link.spread.note(self._link.partner, author, sequence, flags)
            if turn is Turn.OFF:
                self._stopped[author] = None
                useless += OFF_COST if in_vain else 0.0
            elif turn is Turn.ON:
                if author in self._stopped:
                    raise MalformedFrame("the peer turned a feed on before it was stopped")
                here = self._link.spread.have(author)
                if here is None:
                    on.append(author)
                else:
                    due |= self._link.spread.here(self._link.partner, author, here)
            elif known or lazy:
                useless += 1
            if not selection.wants(author) or not flags & REPLICATE:
                continue
            have = self._link.spread.have(author)
            if author == selection.own and not known:
                self._link.part.own_feed_seen(self._link.connected_to, sequence)
            if have is None:
                unknown[author] = sequence
            elif sequence > have:
                self._link.spread.heard(self._link.partner, author, sequence, have, now)
                ahead = True
        self.tell_stopped()
        if useless:
            self._link.cost(useless)
        if due:
            self._link.serving.wake()
        if ahead:
            self._link.fetching.watch_promises()
            self._link.part.ask(self._link)
        if unknown or on:
            self._link.run(self._compare_heads(unknown, on))

    def tell_stopped(self) -> None:
        """Say what is stopped, when the channel takes it; until then nothing goes on again."""
        while self._stopped and self._link.clear:
            authors = list(self._stopped)[:MAX_ENTRIES]
            for author in authors:
                del self._stopped[author]
            self._link.send(Stopped(authors))

    async def _compare_heads(self, told: dict[bytes, int], on: list[bytes]) -> None:
        """Look up how far we have feeds that the peer told of, or turned on."""
        authors = sorted({*told, *on})
        with self._link.digesting(FRAME_COST + len(authors) * ENTRY_COST):
            ours = await self._link.part.frontier(authors)
        if not self._link.open:
            return
        for author, has in told.items():
            here = ours.get(author)
            have, forked = (0, None) if here is None else (here.sequence, here.forked)
            last = MAX_SEQUENCE if forked is None else forked - 1
            self._link.spread.heard(
                self._link.partner, author, has, have, self._link.reactor.seconds(), last=last
            )
        for author in on:
            here = ours.get(author)
            if here is not None:
                self._link.spread.here(self._link.partner, author, here.sequence)
        self._link.serving.wake()
        self._link.fetching.watch_promises()
        self._link.part.ask_all()

    def tell(self, author: bytes, sequence: int) -> None:
        """The peer is to be told how far we have a feed, with what else there is to tell."""
        if self._link.ready and author in self._link.interest:
            self._news[author] = sequence
            if len(self._news) > MAX_NEWS:
                self._news.clear()
                self._link.partner.overflowed = True

    def tell_news(self) -> None:
        """Tell what there is to tell, unless the channel is full: then later."""
        if not self._news or not self._link.clear:
            return
        news, self._news = self._news, {}
        has = self._link.partner.has
        self.send_notes([(a, n, self._flags(a)) for a, n in news.items() if not has(a, n)])

    def _flags(self, author: bytes) -> int:
        """How a note has to end that changes nothing."""
        incoming = self._link.partner.on.get(author)
        on = incoming is not None and incoming.state is State.ON
        return REPLICATE | RECEIVE if on else REPLICATE

    def send_notes(self, entries: Sequence[tuple[bytes, int, int]]) -> None:
        """Send notes of any number of feeds."""
        for start in range(0, len(entries), MAX_ENTRIES):
            self._link.send(Note(list(entries[start : start + MAX_ENTRIES])))

    # --- what is new ---------------------------------------------------------------------------

    def forward(self, author: bytes, first: int, last: int, texts: Sequence[bytes] | None) -> bool:
        """
        Messages were stored just now.

        @param texts: those from C{first} to C{last}, if all are at hand.
        @return: is the peer to be told of it with what else there is to tell?
        """
        if not self._link.ready or author not in self._link.interest:
            return False
        match self._link.spread.forward(self._link.partner, author, first, last):
            case Forward.PUSH:
                if texts is None:
                    self._link.spread.here(self._link.partner, author, last)
                    self._link.serving.wake()
                else:
                    self._link.serving.push(author, first, texts)
            case Forward.SERVE:
                self._link.serving.wake()
            case Forward.TELL:
                self.tell(author, last)
                return True
            case Forward.NOTHING:
                pass
        return False

    # --- forks and gaps ------------------------------------------------------------------------

    def tell_proof(self, author: bytes, sequence: int) -> None:
        """The peer is to have the proof that a feed forked there, unless it has it."""
        known = self._proven.get(author, MAX_SEQUENCE) <= sequence
        if not self._link.ready or author not in self._link.interest or known:
            return
        if len(self._proofs) < MAX_PROVEN:
            self._proofs[author] = sequence
            if not self._proving:
                self._proving = True
                self._link.run(self._send_proofs())

    async def _send_proofs(self) -> None:
        """One by one, as the channel takes them: each may have a quarter of a MiB."""
        try:
            while self._proofs and self._link.open:
                if self._link.drained is not None:
                    await self._link.drained
                    continue
                author = next(iter(self._proofs))
                self._note_proven(author, self._proofs.pop(author))
                proof = await self._link.part.store.fork_proof(author)
                if proof is not None:
                    self._link.send(Proof(author, proof.one, proof.other))
        finally:
            self._proving = False

    def _note_proven(self, author: bytes, sequence: int) -> None:
        self._proven.pop(author, None)
        self._proven[author] = sequence
        if len(self._proven) > MAX_PROVEN:
            del self._proven[next(iter(self._proven))]

    async def take_proof(self, frame: Proof) -> None:
        if not self._link.part.selection.wants(frame.author):
            return
        self._taking[frame.author] = None
        try:
            with self._link.digesting(FRAME_COST + len(frame.one) + len(frame.two)):
                await self._link.part.store.ingest_proof(frame.one, frame.two)
        except FeedError as e:
            raise MalformedFrame(f"the peer sent a proof that proves nothing: {e}") from e
        finally:
            self._taking.pop(frame.author, None)

    def fork_proven(self, author: bytes, sequence: int) -> None:
        """A feed was found to have forked, or to have forked earlier than was known."""
        self._link.fetching.turn_off([author])
        if author in self._taking:
            # Not back to whom it came from.
            self._note_proven(author, sequence)
        else:
            self.tell_proof(author, sequence)
