"""
Signs for what it does not keep.

B{On the wire.}  It takes every block, throws it away, and gives a receipt with the right root,
which is in the manifest (C{receipts}); or now and then one for another share, or for a root of
its own (C{roots}).  Asked for a block it has never heard of the share (C{reads}).

B{What honest nodes must do.}  Refuse receipts that are not about their share.  That one which
is has nothing behind it cannot be seen before it is asked for; then others have to suffice.
"""

from __future__ import annotations

from hashlib import sha256
from typing import ClassVar

from twisted.internet.defer import Deferred, fail

from meshkit.errors import ShareUnknown
from meshkit.sim.liars.keeping import FalsePeer, KeepLiar
from meshkit.storage.encoding import Piece
from meshkit.storage.statements import Receipt

__all__ = ["Feigning"]


class _False(FalsePeer):
    def close(self, upload: bytes, number: int, manifest: bytes) -> Deferred[bytes]:
        return super().close(upload, number, manifest).addCallback(self._receipt)

    def _receipt(self, raw: bytes) -> bytes:
        way = self.liar.next_way()
        if way != "roots":
            self.liar.lied("receipts")
            return raw
        self.liar.lied(way)
        honest = Receipt.open(raw, self.key)
        forged = Receipt(
            self.key,
            honest.share,
            sha256(honest.root).digest(),
            honest.size,
            honest.lease,
            honest.lease_end,
            honest.issued,
        )
        return forged.sign(self.liar.identity)

    def read(self, share: bytes, segment: int) -> Deferred[Piece]:
        self.liar.lied("reads")
        return fail(ShareUnknown("there is no such share here"))


class Feigning(KeepLiar):
    """See the module."""

    kind: ClassVar[str] = "feigning"
    ways: tuple[str, ...] = ("receipts", "roots", "reads")
    false: ClassVar[type[FalsePeer]] = _False
