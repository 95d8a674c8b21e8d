"""
Passes every audit, and gives nothing back.

B{On the wire.}  It takes shares, keeps them, and shows every leaf that an audit asks for.  Asked
for a block it has never heard of the share (C{reads}).

B{What honest nodes must do.}  Read from others; say whose share could not be had, when one is made
anew.  No audit finds that, as none reads a whole share: see C{docs/howto/audits.md}.
"""

from __future__ import annotations

from typing import ClassVar

from twisted.internet.defer import Deferred, fail

from meshkit.errors import ShareUnknown
from meshkit.sim.liars.keeping import FalsePeer, KeepLiar
from meshkit.storage.encoding import Piece


class _False(FalsePeer):
    def read(self, share: bytes, segment: int) -> Deferred[Piece]:
        self.liar.lied("reads")
        return fail(ShareUnknown("there is no such share here"))


class Denying(KeepLiar):
    """See the module."""

    kind: ClassVar[str] = "denying"
    ways: tuple[str, ...] = ("reads",)
    false: ClassVar[type[FalsePeer]] = _False
