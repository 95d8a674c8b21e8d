"""
Who tells one half of the network something else than the other.

B{On the wire.}  It writes a feed of its own, a message each time that it acts.  From some
place on, drawn from the seed, there are two messages for each place, both signed and
properly linked.  Those whom it meets belong to one half or the other in turn, for good, and
it says, serves and compares with each the branch of his half.  Of its own feed it hears
nothing, not even a proof.

B{What honest nodes must do.}  Take the branch that they see first, until the two have met
in one of them.  Those two messages are a proof, which is kept for ever and goes to all: the
feed ends before the lowest place that is proven, and nothing from there on is served or shown
as valid.  Nobody but the liar is believed less for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from meshkit.feed.message import Message
from meshkit.gossip.reconcile import Entry
from meshkit.sim.liars.liar import EVERY, Liar
from meshkit.sim.liars.library import Leaf, entry_of, page_of
from meshkit.sim.liars.peer import LiarPeer

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.world import World

__all__ = ["Equivocating"]

#: Messages that the two branches have in common: at most so many.
MOST_COMMON: Final = 4
#: Messages of a branch; then it writes no more.
LONGEST: Final = 1_000
#: Nodes whose half is remembered.
_MAX_MET: Final = 100_000


class _Peer(LiarPeer):
    liar: Equivocating

    @property
    def _branch(self) -> list[Message]:
        return self.liar.branches[self.liar.half(self.key)]

    def told_entries(self) -> list[Entry]:
        others = [e for e in super().told_entries() if e.author != self.liar.key]
        own = entry_of(self.liar.key, self._branch)
        return sorted([*others, own] if self._branch else others, key=lambda e: e.author)

    def told_sequence(self, author: bytes) -> int:
        own = author == self.liar.key
        return len(self._branch) if own else super().told_sequence(author)

    def page(self, author: bytes, first: int) -> list[Leaf]:
        own = author == self.liar.key
        return page_of(self._branch, first) if own else super().page(author, first)

    def give(self, author: bytes, first: int, page: Sequence[Leaf]) -> None:
        super().give(author, first, page)
        for leaf in page if author == self.liar.key else ():
            if self.liar.told.branch(author, leaf.sequence, leaf.hash):
                self.liar.lied("branch")


class Equivocating(Liar):
    """
    See the module.

    @ivar branches: its own feed, as each half sees it.
    @ivar forks_at: the first place for which there are two messages.
    """

    kind: ClassVar[str] = "equivocating"
    ways: tuple[str, ...] = ("branch",)
    peer: ClassVar[type[LiarPeer]] = _Peer

    def __init__(
        self, world: World, host: SimHost, dials: Sequence[str] = (), *, every: float = EVERY
    ) -> None:
        super().__init__(world, host, dials, every=every)
        self.branches: tuple[list[Message], list[Message]] = ([], [])
        self.forks_at = 1 + self.rng.randrange(MOST_COMMON + 1)
        self._halves: dict[bytes, int] = {}

    def half(self, key: bytes) -> int:
        """@return: to which half somebody belongs."""
        if len(self._halves) >= _MAX_MET:
            return self._halves.get(key, 0)
        return self._halves.setdefault(key, len(self._halves) % 2)

    def act(self) -> None:
        one, other = self.branches
        if len(one) < LONGEST:
            number = len(one) + 1
            one.append(self.sign(f"number {number}", one))
            forked = number >= self.forks_at
            other.append(self.sign(f"number {number}, or not", other) if forked else one[-1])
            self.spread(self.key)
        super().act()

    def take(self, author: bytes, texts: Sequence[bytes]) -> int:
        return 0 if author == self.key else super().take(author, texts)

    def prove(self, author: bytes, one: bytes, two: bytes) -> bool:
        return author != self.key and super().prove(author, one, two)
