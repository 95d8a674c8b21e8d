"""
Who says that it has something and does not give it.

B{On the wire.}  It takes all feeds and gives nothing of any.  Ways:

  - C{entries}: in a comparison it has more of each feed than there is;
  - C{notes}: at each act it says so of some feed;
  - C{authors}: at each act it says that it has a feed of an author whom nobody knows;
  - C{pages}: somebody turns on a feed that it does have;
  - C{own}: it says that it has more of the other side's own feed than that has itself.

B{What honest nodes must do.}  Turn to it, as it may be true, wait 60 s, take 10 of the score
and have the feed from others; the third time within an hour it is asked for nothing for an
hour.  Who is told that there is more of his own feed publishes nothing for 60 s
(C{FEED_READ_ONLY}), and does not believe the same peer a second time.
"""

from __future__ import annotations

from typing import ClassVar, Final

from attrs import evolve

from meshkit.gossip.codec import Note
from meshkit.gossip.reconcile import Entry
from meshkit.gossip.spread import REPLICATE
from meshkit.sim.liars.liar import Liar
from meshkit.sim.liars.library import Leaf
from meshkit.sim.liars.peer import LiarPeer

__all__ = ["Withholding"]

#: By how much feeds are longer, as it says.
_MORE: Final = 5
_KEY: Final = 32


class _Peer(LiarPeer):
    def told_entries(self) -> list[Entry]:
        entries = super().told_entries()
        if self.way != "entries" or not entries:
            return entries
        self.liar.lied(self.way)
        rng = self.liar.rng
        return [
            entry
            if entry.forked or entry.author == self.key
            else evolve(entry, sequence=entry.sequence + _MORE, head=rng.randbytes(_KEY))
            for entry in entries
        ]

    def page(self, author: bytes, first: int) -> list[Leaf]:
        if author in self.serving and super().page(author, first):
            self.liar.lied("pages")
        return []

    def act(self) -> None:
        known = self.known()
        if self.way == "authors" and self.interested:
            self.liar.lied(self.way)
            self.say(Note([(self.liar.rng.randbytes(_KEY), _MORE, REPLICATE)]))
        elif self.way == "own" and self.interested:
            self.liar.lied(self.way)
            said = self.liar.library.sequence(self.key) + _MORE
            self.say(Note([(self.key, said, self.flags(self.key))]))
        elif self.way == "notes" and known:
            author, feed = self.liar.rng.choice(known)
            self.liar.lied(self.way)
            self.say(Note([(author, len(feed) + _MORE, self.flags(author))]))


class Withholding(Liar):
    """See the module."""

    kind: ClassVar[str] = "withholding"
    ways: tuple[str, ...] = ("notes", "entries", "authors", "own", "pages")
    peer: ClassVar[type[LiarPeer]] = _Peer
