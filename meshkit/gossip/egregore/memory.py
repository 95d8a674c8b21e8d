"""
What is remembered of the peers of an Egregore network between connections.  Pure.

Their protocol remembers nothing, and so repeats itself: a feed that has a gap at the
receiver, because a message was refused there or is missing here, is asked for from the
gap on and sent again with every session, for ever.  Here the sender remembers what a peer
was given behind the place it goes on asking from, and the asker what it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from attrs import define, field

from meshkit.gossip.egregore.wire import MAX_HAVE

#: Peers that are remembered; of more, those that were met longest ago are forgotten.
MAX_PEERS: Final = 256
#: Feeds of which is remembered what a peer has, and those with a tail behind a gap.
MAX_FEEDS: Final = 20_000
MAX_TAILS: Final = 5_000

#: Seconds after which a tail goes once more, in case it was lost after all; doubled each
#: time.
FIRST_PAUSE: Final = 600.0
LAST_PAUSE: Final = 86_400.0


@define
class _Tail:
    """
    @ivar base: the sequence that was asked from first.
    @ivar until: the sequence up to which was given what is behind it.
    @ivar due: when all of it goes again, in seconds.
    @ivar pause: how long was waited for that.
    """

    base: int
    until: int
    due: float
    pause: float

    def covers(self, base: int) -> bool:
        """Is this the gap in what was given, or a part of it that has not been taken?"""
        return self.base <= base < self.until


@define
class Tails:
    """What was given of feeds that have a gap at the receiver."""

    _tails: dict[bytes, _Tail] = field(factory=dict)

    def begin(self, author: bytes, base: int, now: float) -> int:
        """
        @param base: the sequence up to which the receiver has everything.
        @return: the sequence after which to go on.
        """
        tail = self._tails.get(author)
        if tail is None or not tail.covers(base) or now >= tail.due:
            return base
        return tail.until

    def given(self, author: bytes, base: int, until: int, now: float) -> None:
        """A receiver who has everything up to C{base} was given what is behind it."""
        if until <= base:
            return
        known = self._tails.pop(author, None)
        if known is None or not known.covers(base):
            tail = _Tail(base, until, now + FIRST_PAUSE, FIRST_PAUSE)
        elif now >= known.due:
            pause = min(2 * known.pause, LAST_PAUSE)
            tail = _Tail(base, max(until, known.until), now + pause, pause)
        else:
            tail = _Tail(base, max(until, known.until), known.due, known.pause)
        self._tails[author] = tail
        if len(self._tails) > MAX_TAILS:
            del self._tails[next(iter(self._tails))]

    def forget(self, author: bytes) -> None:
        """Go on from the base next time, after all."""
        self._tails.pop(author, None)

    def __len__(self) -> int:
        return len(self._tails)


@define
class PeerMemory:
    """
    One peer.

    @ivar holds: feed -> the sequence that it has, as it said or was given.
    @ivar cursor: the author after whom the next C{have} goes on.
    @ivar sent: tails that we gave.
    @ivar got: tails that we were given.
    """

    holds: dict[bytes, int] = field(factory=dict)
    cursor: bytes = b""
    sent: Tails = field(factory=Tails)
    got: Tails = field(factory=Tails)

    def told(self, feeds: Mapping[bytes, int]) -> None:
        """The peer said what it has; of what it left out nothing is known any more."""
        self.holds = dict(feeds)

    def note(self, author: bytes, sequence: int) -> None:
        """The peer has a feed up to a sequence."""
        self.holds[author] = max(self.holds.pop(author, 0), sequence)
        if len(self.holds) > MAX_FEEDS:
            del self.holds[next(iter(self.holds))]

    def window(self, heads: Sequence[tuple[bytes, int]]) -> tuple[list[tuple[bytes, int]], bool]:
        """
        Choose what to name in a C{have}: first what the peer lacks as far as is known,
        and what is left over next time.

        @param heads: author and sequence, from L{cursor} on and round.
        @return: at most L{MAX_HAVE} of them, and whether some that it lacks are left over.
        """
        lacking = [head for head in heads if self.holds.get(head[0], 0) < head[1]]
        in_step = [head for head in heads if self.holds.get(head[0], 0) >= head[1]]
        chosen = (lacking + in_step)[:MAX_HAVE]
        if len(lacking) > MAX_HAVE:
            self.cursor = chosen[-1][0]
        elif heads:
            self.cursor = heads[-1][0]
        return chosen, len(lacking) > MAX_HAVE


@define
class Memory:
    """All peers of a node."""

    _peers: dict[bytes, PeerMemory] = field(factory=dict)

    def of(self, peer: bytes) -> PeerMemory:
        """What is remembered of a peer, who is met now."""
        memory = self._peers.pop(peer, None) or PeerMemory()
        self._peers[peer] = memory
        if len(self._peers) > MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        return memory

    def take_again(self, authors: Iterable[bytes]) -> None:
        """There is room for these feeds: ask for what was given and not taken."""
        for author in authors:
            for peer in self._peers.values():
                peer.got.forget(author)

    def __len__(self) -> int:
        return len(self._peers)
