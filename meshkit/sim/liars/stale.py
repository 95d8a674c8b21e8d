"""
Who lives in the past.

B{On the wire.}  It has all feeds, and says, serves and compares what it had when it had half
of each; of its own feed too, which it goes on writing.  After a restart it is older still, as
though it came from a backup.  At each act it says of some feed how far it is, as it has it.
Ways: C{entries} in a comparison, C{notes}, C{pages}.

B{What honest nodes must do.}  Keep what they have, have what is new from others, and hold
nothing against it: so does anybody who was away for long.  Nobody whose own feed it knows to
be short gives out a number twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from meshkit.gossip.codec import Note
from meshkit.gossip.reconcile import Entry
from meshkit.sim.liars.liar import EVERY, Liar
from meshkit.sim.liars.library import Leaf, entry_of
from meshkit.sim.liars.peer import LiarPeer

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.world import World

__all__ = ["Stale"]


class _Peer(LiarPeer):
    liar: Stale

    def told_sequence(self, author: bytes) -> int:
        return self.liar.old(author)

    def told_entries(self) -> list[Entry]:
        feeds = self.liar.library.feeds
        entries = [entry_of(a, feeds[a][: self.liar.old(a)]) for a in sorted(feeds)]
        if entries:
            self.liar.lied("entries")
        return [entry for entry in entries if not entry.empty]

    def page(self, author: bytes, first: int) -> list[Leaf]:
        page = super().page(author, first)
        here = [leaf for leaf in page if leaf.sequence <= self.liar.old(author)]
        if len(here) < len(page):
            self.liar.lied("pages")
        return here

    def act(self) -> None:
        feeds = self.liar.library.feeds
        if feeds and self.interested:
            author = self.liar.rng.choice(list(feeds))
            self.liar.lied("notes")
            self.say(Note([(author, self.liar.old(author), self.flags(author))]))


class Stale(Liar):
    """
    See the module.

    @ivar age: of each feed it admits to one part in so many.
    """

    kind: ClassVar[str] = "stale"
    ways: tuple[str, ...] = ("entries", "notes", "pages")
    peer: ClassVar[type[LiarPeer]] = _Peer

    def __init__(
        self, world: World, host: SimHost, dials: Sequence[str] = (), *, every: float = EVERY
    ) -> None:
        super().__init__(world, host, dials, every=every)
        self.age = 1

    def start(self) -> None:
        if not self.running:
            self.age *= 2
        super().start()

    def old(self, author: bytes) -> int:
        """@return: how far it has a feed, as it says."""
        return self.library.sequence(author) // self.age

    def act(self) -> None:
        self.write("nobody will see this one soon")
        super().act()
