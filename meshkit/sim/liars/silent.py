"""
Who is there and says nothing.

B{On the wire.}  It accepts and dials connections.  Ways:

  - C{connection}: it says nothing at all, not even its part of the handshake;
  - C{channel}: it proves its key, and says nothing then;
  - C{link}: it greets and is interested in everything, and says nothing then: it answers no
    comparison and no ping, takes no messages and gives none.

B{What honest nodes must do.}  Wait 10 s for a handshake, 90 s for anything on a link, 60 s
for what they have asked in a comparison (C{HANDSHAKE_TIMEOUT}, C{PEER_TOO_SLOW}), then drop
the connection, and dial again later and later.  It gets no feed that somebody else could have
brought meanwhile: others are asked after 3 s.
"""

from __future__ import annotations

from typing import Any, ClassVar

from meshkit.gossip.codec import Frame
from meshkit.sim.liars.liar import Liar
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.wires import Wire

__all__ = ["Silent"]


class _Peer(LiarPeer):
    def greet(self) -> None:
        if self.way == "link":
            super().greet()
        else:
            self.liar.lied(self.way)

    def answer(self, frame: Frame) -> None:
        self.liar.lied(self.way)

    def begin(self) -> None:
        """Nothing."""

    def news(self, author: bytes) -> None:
        """Nothing."""


class _Wire(Wire):
    def makeConnection(self, transport: Any) -> None:
        if self.way == "connection":
            self.limit = 0
            self.liar.lied(self.way)
        super().makeConnection(transport)


class Silent(Liar):
    """See the module."""

    kind: ClassVar[str] = "silent"
    ways: tuple[str, ...] = ("connection", "channel", "link")
    peer: ClassVar[type[LiarPeer]] = _Peer
    wire: ClassVar[type[Wire]] = _Wire
