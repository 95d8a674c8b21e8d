"""
Takes all that it is given, and gives nothing to anybody.

B{On the wire.}  It registers whoever comes, turns on their feeds, has all of them, and shows and
tells each peer the own feed alone (C{feeds}).  It signs for letters, and no recipient finds one
(C{letters}).

B{What honest nodes must do.}  Have feeds and letters from another relay; see that this one lacks
what that one had.  Its receipts say what it had promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from meshkit.gossip.reconcile import Entry
from meshkit.sim.liars.library import Leaf
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.relaying import FalseMailboxes, Left, RelayLiar

__all__ = ["Pocketing"]


class _Peer(LiarPeer):
    def told_entries(self) -> list[Entry]:
        entries = super().told_entries()
        shown = [entry for entry in entries if entry.author == self.key]
        if len(shown) < len(entries):
            self.liar.lied("feeds")
        return shown

    def told_sequence(self, author: bytes) -> int:
        return super().told_sequence(author) if author == self.key else 0

    def page(self, author: bytes, first: int) -> list[Leaf]:
        return []


class _False(FalseMailboxes):
    def give(self, recipient: bytes) -> Sequence[Left]:
        if self.boxes[recipient]:
            self.liar.lied("letters")
        return []


class Pocketing(RelayLiar):
    """See the module."""

    kind: ClassVar[str] = "pocketing"
    ways: tuple[str, ...] = ("feeds", "letters")
    peer: ClassVar[type[LiarPeer]] = _Peer
    false: ClassVar[type[FalseMailboxes]] = _False
