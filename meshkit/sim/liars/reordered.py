"""
Who says the right things in the wrong order.

B{On the wire.}  All of it is true, signed and asked for.  Ways:

  - C{page}: the messages of a page come the last one first; of a page that has only one,
    the message waits for the next, which comes before it;
  - C{pages}: the second half of a page comes before the first;
  - C{rounds}: its answer in a comparison has the number of another round;
  - C{notes}: what it has of a feed it says in falling order, the newest first;
  - C{greeting}: its interest comes before its hello;
  - C{stopped}: it says that a feed is stopped that nobody has turned off.

B{What honest nodes must do.}  Store what comes in order, and nothing else: what was not due
costs 20, and 40 and the connection if the order is part of the protocol.  A note that says
less than an older one changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from meshkit.gossip.codec import Frame, Hello, Interest, Messages, Note, Ranges, Stopped
from meshkit.sim.liars.liar import Liar
from meshkit.sim.liars.library import Leaf
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.wires import Wire

__all__ = ["Reordered"]

#: Entries of the notes that come in falling order.
_STEPS: Final = 5


class _Peer(LiarPeer):
    def __init__(self, liar: Liar, key: bytes, wire: Wire) -> None:
        super().__init__(liar, key, wire)
        self._stopped = False

    def greet(self) -> None:
        if self.way == "greeting":
            self.liar.lied(self.way)
            self.say(Interest(True, [], [], False), Hello(self.nonce))
        else:
            super().greet()

    def page(self, author: bytes, first: int) -> list[Leaf]:
        page = super().page(author, first)
        # One alone has no order: it waits for the next.
        return [] if len(page) == 1 and self.way in ("page", "pages") else page

    def give(self, author: bytes, first: int, page: Sequence[Leaf]) -> None:
        if self.way == "page":
            self.liar.lied(self.way)
            page = page[::-1]
        super().give(author, first, page)

    def send(self, frame: Frame) -> None:
        if self.way == "pages" and isinstance(frame, Messages):
            self.liar.lied(self.way)
            half = len(frame.texts) // 2
            super().send(Messages(frame.author, frame.first + half, frame.texts[half:]))
            super().send(Messages(frame.author, frame.first, frame.texts[:half]))
        elif self.way == "rounds" and isinstance(frame, Ranges) and frame.round:
            self.liar.lied(self.way)
            super().send(Ranges(frame.window, frame.round + 1, frame.more, frame.body))
        else:
            super().send(frame)

    def act(self) -> None:
        known = self.known()
        if self.way == "notes" and known:
            author, feed = self.liar.rng.choice(known)
            self.liar.lied(self.way)
            for sequence in range(len(feed), max(0, len(feed) - _STEPS), -1):
                self.say(Note([(author, sequence, self.flags(author))]))
        elif self.way == "stopped" and known and not self._stopped:
            self._stopped = True
            self.liar.lied(self.way)
            self.say(Stopped([known[0][0]]))


class Reordered(Liar):
    """See the module."""

    kind: ClassVar[str] = "reordered"
    ways: tuple[str, ...] = ("page", "pages", "rounds", "notes", "greeting", "stopped")
    peer: ClassVar[type[LiarPeer]] = _Peer

    def act(self) -> None:
        self.write("one more")
        super().act()
