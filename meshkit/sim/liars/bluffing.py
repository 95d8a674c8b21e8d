"""
Keeps shares, and gives something else.

B{On the wire.}  It takes shares and signs receipts as anybody does.  What it gives of them is
changed: C{bits}, one bit of the block is another; C{zeros}, the block is as long as it should
be and empty; C{another}, it is a good block of another segment, or of itself from its end;
C{branch}, the block is right and what proves it is not.

B{What honest nodes must do.}  Find it before anything is used, take another peer's block, and
say whose it was.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import evolve
from twisted.internet.defer import Deferred

from meshkit.sim.liars.keeping import FalsePeer, KeepLiar
from meshkit.storage.encoding import Piece

__all__ = ["Bluffing"]


class _False(FalsePeer):
    def read(self, share: bytes, segment: int) -> Deferred[Piece]:
        return super().read(share, segment).addCallback(self._changed)

    def _changed(self, piece: Piece) -> Piece:
        way = self.liar.next_way()
        block = bytearray(piece.block)
        branch = list(piece.branch)
        if way == "bits" or (way == "branch" and not branch):
            block[len(block) // 2] ^= 1
        elif way == "zeros":
            block[:] = bytes(len(block))
        elif way == "another":
            block.reverse()
        else:
            branch[-1] = bytes(each ^ 1 for each in branch[-1])
        if bytes(block) != bytes(piece.block) or branch != list(piece.branch):
            self.liar.lied(way)
        return evolve(piece, block=bytes(block), branch=branch)


class Bluffing(KeepLiar):
    """See the module."""

    kind: ClassVar[str] = "bluffing"
    ways: tuple[str, ...] = ("bits", "zeros", "another", "branch")
    false: ClassVar[type[FalsePeer]] = _False
