"""
Takes what it is given, and then does not answer.

B{On the wire.}  Connections are accepted and requests read.  To those for a block there is
never an answer (C{reads}), nor, now and then, to those with which a share is reserved
(C{reserves}) or complete (C{closes}).

B{What honest nodes must do.}  Wait no longer than one deadline, for all such peers together,
and go on with others.
"""

from __future__ import annotations

from typing import ClassVar

from twisted.internet.defer import Deferred

from meshkit.sim.liars.keeping import FalsePeer, KeepLiar
from meshkit.storage.encoding import Piece
from meshkit.storage.terms import Reservation

__all__ = ["Stalling"]


class _False(FalsePeer):
    def reserve(
        self, upload: bytes, number: int, size: int, lease: bytes, repair: bool = False
    ) -> Deferred[Reservation]:
        if self.liar.now_and_then("reserve", 3):
            self.liar.lied("reserves")
            return Deferred()
        return super().reserve(upload, number, size, lease, repair)

    def close(self, upload: bytes, number: int, manifest: bytes) -> Deferred[bytes]:
        if self.liar.now_and_then("close", 2):
            self.liar.lied("closes")
            return Deferred()
        return super().close(upload, number, manifest)

    def read(self, share: bytes, segment: int) -> Deferred[Piece]:
        self.liar.lied("reads")
        return Deferred()


class Stalling(KeepLiar):
    """See the module."""

    kind: ClassVar[str] = "stalling"
    ways: tuple[str, ...] = ("reads", "reserves", "closes")
    false: ClassVar[type[FalsePeer]] = _False
