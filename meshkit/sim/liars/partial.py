"""
Shows different things to different peers.

B{On the wire.}  Of each feed it says to one peer that it has all, to another half, to a third
nothing, and always the same to the same one, who is served so much (C{heads}).  Of the letters
for somebody it gives every other one (C{letters}).  One who asks for a prekey is shown it, and
another one is told that there is none (C{prekeys}).

B{What honest nodes must do.}  Have the rest from another relay, and see that this one lacks it;
take nobody's word that there is no prekey.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

from meshkit.gossip.reconcile import Entry
from meshkit.sim.liars.library import Leaf, entry_of
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.relaying import FalseMailboxes, Left, RelayLiar

__all__ = ["Partial"]


def _third(*keys: bytes) -> int:
    """@return: which of three things two keys are shown together."""
    return hashlib.sha256(b"".join(keys)).digest()[0] % 3


class _Peer(LiarPeer):
    def told_sequence(self, author: bytes) -> int:
        whole = super().told_sequence(author)
        if author == self.key:
            return whole
        return (whole, whole // 2, 0)[_third(self.key, author)]

    def told_entries(self) -> list[Entry]:
        feeds = self.liar.library.feeds
        told = [entry_of(a, feeds[a][: self.told_sequence(a)]) for a in sorted(feeds)]
        if any(self.told_sequence(a) < len(feeds[a]) for a in feeds):
            self.liar.lied("heads")
        return [entry for entry in told if not entry.empty]

    def page(self, author: bytes, first: int) -> list[Leaf]:
        told = self.told_sequence(author)
        return [leaf for leaf in super().page(author, first) if leaf.sequence <= told]


class _False(FalseMailboxes):
    def __init__(self, liar: RelayLiar) -> None:
        super().__init__(liar)
        self._asked = 0

    def give(self, recipient: bytes) -> Sequence[Left]:
        waiting = self.boxes[recipient].values()
        given = [left for left in waiting if left.digest[0] % 2]
        if len(given) < len(waiting):
            self.liar.lied("letters")
        return given

    def show_prekey(self, asker: bytes, recipient: bytes) -> bytes | None:
        self._asked += 1
        if self._asked % 2 == 0:
            return super().show_prekey(asker, recipient)
        self.liar.lied("prekeys")
        return None


class Partial(RelayLiar):
    """See the module."""

    kind: ClassVar[str] = "partial"
    ways: tuple[str, ...] = ("heads", "letters", "prekeys")
    peer: ClassVar[type[LiarPeer]] = _Peer
    false: ClassVar[type[FalseMailboxes]] = _False
