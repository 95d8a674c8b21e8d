"""
Who says that it has more feeds than there are.

B{On the wire.}  It tells of authors whom nobody knows, and that it has a message of each of
them: of more authors than anybody takes note of.  Asked for these, it brings nothing.  One
way: C{claims}.

B{What honest nodes must do.}  Note no more of that than C{MAX_CLAIMS} for each link, ask for
C{MAX_CATCHING} at a time, and after 60 s take each answer that does not come for a broken
promise (C{PROMISE_BROKEN}): after three of them nothing is asked of it for an hour.
"""

from __future__ import annotations

from typing import ClassVar, Final

from meshkit.gossip.codec import MAX_ENTRIES, Note
from meshkit.gossip.spread import MAX_CLAIMS, REPLICATE
from meshkit.sim.liars.liar import Liar
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.wires import Wire

__all__ = ["Boasting"]

_KEY: Final = 32
#: Notes that it takes to say more than is noted.
_NOTES: Final = MAX_CLAIMS // MAX_ENTRIES + 2


class _Peer(LiarPeer):
    def __init__(self, liar: Liar, key: bytes, wire: Wire) -> None:
        super().__init__(liar, key, wire)
        self._left = _NOTES

    def act(self) -> None:
        # A few at a time: all of it at once would be read for long.
        for _ in range(min(self._left, 8)):
            self._left -= 1
            authors = (self.liar.rng.randbytes(_KEY) for _ in range(MAX_ENTRIES))
            self.say(Note([(author, 1, REPLICATE) for author in authors]))
            self.liar.lied(self.way)


class Boasting(Liar):
    """See the module."""

    kind: ClassVar[str] = "boasting"
    ways: tuple[str, ...] = ("claims",)
    peer: ClassVar[type[LiarPeer]] = _Peer
