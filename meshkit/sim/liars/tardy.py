"""
Keeps everything back for a while.

B{On the wire.}  What it has heard of a feed, and what was left for somebody, is not there for
L{DELAY} seconds: it neither shows nor tells nor serves it (C{feeds}), and no recipient finds
it (C{letters}).  Then it is.

B{What honest nodes must do.}  Have it from another relay meanwhile; hold nothing against it for
good, as it can do no better than somebody who is slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from meshkit.gossip.reconcile import Entry
from meshkit.sim.liars.liar import EVERY
from meshkit.sim.liars.library import Leaf, entry_of
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.relaying import FalseMailboxes, Left, RelayLiar

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.world import World

__all__ = ["DELAY", "Tardy"]

#: Seconds: longer than members are there at a time.
DELAY: Final = 90.0


class _Peer(LiarPeer):
    liar: Tardy

    def told_sequence(self, author: bytes) -> int:
        whole = super().told_sequence(author)
        return whole if author == self.key else min(whole, self.liar.shown(author))

    def told_entries(self) -> list[Entry]:
        feeds = self.liar.library.feeds
        told = [entry_of(a, feeds[a][: self.told_sequence(a)]) for a in sorted(feeds)]
        if any(self.told_sequence(a) < len(feeds[a]) for a in feeds):
            self.liar.lied("feeds")
        return [entry for entry in told if not entry.empty]

    def page(self, author: bytes, first: int) -> list[Leaf]:
        told = self.told_sequence(author)
        return [leaf for leaf in super().page(author, first) if leaf.sequence <= told]


class _False(FalseMailboxes):
    def give(self, recipient: bytes) -> Sequence[Left]:
        waiting = self.boxes[recipient].values()
        given = [left for left in waiting if left.taken + DELAY <= self.now]
        if len(given) < len(waiting):
            self.liar.lied("letters")
        return given


class Tardy(RelayLiar):
    """See the module."""

    kind: ClassVar[str] = "tardy"
    ways: tuple[str, ...] = ("feeds", "letters")
    peer: ClassVar[type[LiarPeer]] = _Peer
    false: ClassVar[type[FalseMailboxes]] = _False

    def __init__(
        self, world: World, host: SimHost, dials: Sequence[str] = (), *, every: float = EVERY
    ) -> None:
        super().__init__(world, host, dials, every=every)
        # Author -> when each of the messages came.
        self._came: dict[bytes, list[float]] = {}

    def shown(self, author: bytes) -> int:
        """@return: how much of a feed is old enough."""
        before = self.host.clock.seconds() - DELAY
        return sum(at <= before for at in self._came.get(author, ()))

    def take(self, author: bytes, texts: Sequence[bytes]) -> int:
        taken = super().take(author, texts)
        came = self._came.setdefault(author, [])
        came += [self.host.clock.seconds()] * taken
        return taken

    def act(self) -> None:
        for author in list(self.library.feeds):
            self.spread(author)
        self.mailboxes.tell_all()
        super().act()
