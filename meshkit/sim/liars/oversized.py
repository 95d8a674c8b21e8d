"""
Who sends more than anybody takes.

B{On the wire.}  On each connection, once it is let in, one thing is too large.  Ways:

  - C{frame}: a frame of one byte more than a frame may have;
  - C{nested}: a frame that is as large as it may be, with lists in lists;
  - C{entries}: a note of one entry too many;
  - C{authors}: an interest in more authors than one may name, page after page;
  - C{feeds}: more feeds are turned on than may be;
  - C{step}: a step of a comparison with more bytes than it may have;
  - C{text}: a message of more bytes than one has;
  - C{content}: a message of its own, properly signed and linked, with too large a content;
  - C{credit}: more messages than the other side takes at the time, all of them good.

B{What honest nodes must do.}  Drop the connection at once, without keeping what came, for 40
of the score (C{FRAME_TOO_LARGE}, C{FRAME_MALFORMED}); refuse the message (C{CONTENT_TOO_LARGE})
for 0.9.  The third time the peer is banned for 10 minutes.
"""

from __future__ import annotations

from typing import ClassVar, Final

from meshkit.feed.canonical import MAX_CONTENT_BYTES
from meshkit.gossip.codec import (
    MAX_ENTRIES,
    MAX_FRAME,
    MAX_TEXT,
    PAGE_MESSAGES,
    Interest,
    Messages,
    Note,
    Ranges,
)
from meshkit.gossip.credit import FIRST
from meshkit.gossip.reconcile import STEP_BYTES
from meshkit.gossip.selection import MAX_AUTHORS
from meshkit.gossip.spread import MAX_ON, RECEIVE, REPLICATE
from meshkit.sim.liars.forging import forge_after
from meshkit.sim.liars.liar import Liar
from meshkit.sim.liars.library import page_of
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.wires import Wire

__all__ = ["Oversized"]

_LENGTH: Final = 4
_KEY: Final = 32


class _Peer(LiarPeer):
    def __init__(self, liar: Liar, key: bytes, wire: Wire) -> None:
        super().__init__(liar, key, wire)
        self._done = False

    def act(self) -> None:
        if self._done or not self.interested:
            return
        own = self.liar.key
        if self.way in ("content", "credit") and own not in self.serving:
            return
        self._done = True
        self.liar.lied(self.way)
        match self.way:
            case "frame":
                self.say_bytes((MAX_FRAME + 1).to_bytes(_LENGTH, "big") + bytes(MAX_FRAME + 1))
            case "nested":
                self.say_bytes(MAX_FRAME.to_bytes(_LENGTH, "big") + b"\x91" * MAX_FRAME)
            case "entries":
                self.say(Note([(self._key(), 1, REPLICATE) for _ in range(MAX_ENTRIES + 1)]))
            case "authors":
                for _ in range(MAX_AUTHORS // MAX_ENTRIES + 1):
                    authors = [self._key() for _ in range(MAX_ENTRIES)]
                    self.say(Interest(False, authors, [], True))
            case "feeds":
                for _ in range(MAX_ON // MAX_ENTRIES + 1):
                    entries = [(self._key(), 0, REPLICATE | RECEIVE) for _ in range(MAX_ENTRIES)]
                    self.say(Note(entries))
            case "step":
                self.say(Ranges(self.number + 1, 0, False, bytes(STEP_BYTES + 1)))
            case "text":
                self.say(Messages(own, self.serving.get(own, 1), [bytes(MAX_TEXT + 1)]))
            case "content":
                self._give_content()
            case "credit":
                self._give_all()

    def _key(self) -> bytes:
        return self.liar.rng.randbytes(_KEY)

    def _give_content(self) -> None:
        """In the next place of our own feed, where it would fit."""
        liar = self.liar
        first = self.serving[liar.key]
        if liar.library.sequence(liar.key) < first:
            before = liar.library.feeds[liar.key][first - 2]
            leaf = forge_after("name", before, "x" * MAX_CONTENT_BYTES, liar.identity)
            self.say(Messages(liar.key, first, [leaf.text]))

    def _give_all(self) -> None:
        """One page after the other, whatever the other side has stored of it."""
        liar = self.liar
        first = self.serving.pop(liar.key)
        for _ in range(first + FIRST.messages + PAGE_MESSAGES - liar.library.sequence(liar.key)):
            liar.write("far too much")
        feed = liar.library.feeds[liar.key]
        while page := page_of(feed, first):
            self.say(Messages(liar.key, first, [leaf.text for leaf in page]))
            first += len(page)


class Oversized(Liar):
    """See the module."""

    kind: ClassVar[str] = "oversized"
    ways: tuple[str, ...] = (
        "frame",
        "entries",
        "content",
        "authors",
        "feeds",
        "credit",
        "step",
        "text",
        "nested",
    )
    peer: ClassVar[type[LiarPeer]] = _Peer

    def start(self) -> None:
        super().start()
        if not self.library.sequence(self.key):
            self.write("the only one that is not too large")
