"""
Who begins an answer and stops in the middle.

B{On the wire.}  It is honest until something is asked of it.  Ways:

  - C{handshake}: its half of the handshake ends in the middle of its second message, or of
    its first if it was dialled;
  - C{frame}: of the first page of messages that it serves, or else of its first ping, it
    sends a part of the frame, and nothing from then on;
  - C{comparison}: its answer in a comparison goes on in a further frame, it says, which
    does not come; all else it does as before;
  - C{feed}: it says that a feed of others is longer than it is, and gives what there is.

B{What honest nodes must do.}  Wait 10 s for the handshake, 30 s for the rest of a frame, 60 s
for the rest of an answer, and drop the connection (C{HANDSHAKE_TIMEOUT}, C{PEER_TOO_SLOW}).
A feed that was promised and does not come costs 10 after 60 s and is asked for elsewhere; the
third time within an hour the peer is asked for nothing for an hour.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from meshkit.gossip.codec import Frame, Messages, Note, Ping, Pong, Ranges, encode
from meshkit.sim.liars.liar import Liar
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.wires import Wire

__all__ = ["Hanging"]

# Bytes of the hello, and half of the proof that follows it.
_HELLO: Final = 64
_HALF_PROOF: Final = 56
#: By how much feeds are longer, as it says.
_MORE: Final = 3


class _Peer(LiarPeer):
    def __init__(self, liar: Liar, key: bytes, wire: Wire) -> None:
        super().__init__(liar, key, wire)
        self._hangs = False
        # Feed -> how long it is, as we have said.
        self._claimed: dict[bytes, int] = {}

    def send(self, frame: Frame) -> None:
        if self._hangs and (self.way == "frame" or isinstance(frame, Ranges)):
            return
        if self.way == "frame" and isinstance(frame, (Messages, Ping, Pong)):
            self._stop()
            data = encode(frame)
            self.say_bytes(data[: len(data) // 2])
        elif self.way == "comparison" and isinstance(frame, Ranges) and frame.round:
            super().send(Ranges(frame.window, frame.round, True, frame.body))
            self._stop()
        else:
            super().send(frame)

    def _stop(self) -> None:
        self._hangs = True
        self.liar.lied(self.way)

    def act(self) -> None:
        if self.way != "feed":
            return
        for author, feed in self.known():
            if self._claimed.get(author, 0) <= len(feed):
                self._claimed[author] = len(feed) + _MORE
                self.liar.lied(self.way)
                self.say(Note([(author, len(feed) + _MORE, self.flags(author))]))


class _Wire(Wire):
    def makeConnection(self, transport: Any) -> None:
        if self.way == "handshake":
            self.limit = _HELLO + _HALF_PROOF if self.dialled else _HELLO // 2
        super().makeConnection(transport)


class Hanging(Liar):
    """See the module."""

    kind: ClassVar[str] = "hanging"
    ways: tuple[str, ...] = ("handshake", "frame", "comparison", "feed")
    peer: ClassVar[type[LiarPeer]] = _Peer
    wire: ClassVar[type[Wire]] = _Wire
