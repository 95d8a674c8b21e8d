"""
Keeps the hashes of a share, and drops its leaves.

B{On the wire.}  It takes shares, signs receipts and says in audits what it has, as anybody does; of
the leaves of each share the odd ones are gone, and the only one if there is no other.  Asked for a
block that holds one of these it gives zeros for it (C{blocks}); asked for leaves in an audit it
shows zeros (C{leaves}), or says that the share cannot be read (C{damaged}).

B{What honest nodes must do.}  Find out by a random choice of leaves that is no one's, hold it
against the peer, and make its shares anew elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from attrs import evolve
from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshkit.crypto.merkle import LEAF_BYTES
from meshkit.crypto.samples import Samples, digest_of
from meshkit.errors import ShareDamaged
from meshkit.interfaces import IShareSampler
from meshkit.sim.liars.keeping import FalsePeer, FalseSampler, KeepLiar
from meshkit.storage.encoding import Piece

_Wanted = Sequence[tuple[bytes, Sequence[int]]]


@implementer(IShareSampler)
class _Hollow(FalseSampler):
    def leaves(self, wanted: _Wanted) -> Deferred[list[Any]]:
        return Deferred.fromCoroutine(self._leaves(wanted))

    async def _leaves(self, wanted: _Wanted) -> list[Any]:
        stats = await self.kept([name for name, _ in wanted])
        found = await super().leaves(wanted)
        return [
            self._emptied(stat.size, numbers, each) if isinstance(each, Samples) else each
            for stat, (_, numbers), each in zip(stats, wanted, found, strict=True)
        ]

    def _emptied(self, size: int, numbers: Sequence[int], shown: Samples) -> Any:
        gone = [at for at, number in enumerate(numbers) if number % 2 or len(numbers) == 1]
        if not gone:
            return shown
        way = self.liar.next_way()
        if way == "damaged":
            self.liar.lied(way)
            return ShareDamaged("this share cannot be read")
        self.liar.lied("leaves")
        samples = [*shown.samples]
        for at in gone:
            length = min(LEAF_BYTES, size - numbers[at] * LEAF_BYTES)
            samples[at] = bytes(length) + samples[at][length:]
        return Samples(digest_of(size, numbers, samples), samples)


class _False(FalsePeer):
    def read(self, share: bytes, segment: int) -> Deferred[Piece]:
        def emptied(piece: Piece) -> Piece:
            block = bytearray(piece.block)
            only = len(block) <= LEAF_BYTES
            for start in range(0 if only else LEAF_BYTES, len(block), 2 * LEAF_BYTES):
                end = min(start + LEAF_BYTES, len(block))
                block[start:end] = bytes(end - start)
            if bytes(block) != bytes(piece.block):
                self.liar.lied("blocks")
            return evolve(piece, block=bytes(block))

        return super().read(share, segment).addCallback(emptied)


class Hollow(KeepLiar):
    """See the module."""

    kind: ClassVar[str] = "hollow"
    ways: tuple[str, ...] = ("blocks", "leaves", "damaged")
    false: ClassVar[type[FalsePeer]] = _False
    sampler: ClassVar[type[FalseSampler]] = _Hollow
