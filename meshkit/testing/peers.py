"""
A peer of gossip that does what it is told, for tests of what a node does with such peers.

It speaks on any transport: in a test on a L{meshkit.testing.transports.MemoryWire}, over a
real secure channel on a socket, or in a world of L{meshkit.sim}::

    class Forger(GossipPeer):
        def heard(self, frame):
            super().heard(frame)
            if isinstance(frame, Note):
                self.say(Messages(author, 1, [forged]))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.protocol import Protocol

from meshkit.gossip.codec import Frame, FrameDecoder, Hello, Interest, Ping, Pong, Ranges, encode
from meshkit.gossip.reconcile import (
    Difference,
    Entries,
    Entry,
    Step,
    Window,
    asked_window,
    make_salt,
)

__all__ = ["NONCE", "GossipPeer"]

#: What a peer greets with unless it draws a nonce.
NONCE: Final = b"n" * 16


class GossipPeer(Protocol):
    """
    By itself it does only what it takes to be let in and kept: it greets, is interested in
    everything, says that it is there, and answers when it is asked to compare.

    @ivar polite: it does what is said above.
    @ivar entries: what it says it has when it is asked to compare, in any order.
    @ivar nonce: what it greets with; 16 bytes.
    """

    def __init__(
        self, polite: bool = True, entries: Sequence[Entry] = (), nonce: bytes = NONCE
    ) -> None:
        self.polite = polite
        self.entries = list(entries)
        self.nonce = nonce
        self._decoder = FrameDecoder()
        self._theirs = b""
        self._window: Window | None = None

    def connectionMade(self) -> None:
        if self.polite:
            self.greet()

    def greet(self) -> None:
        """Say what a link begins with."""
        self.say(Hello(self.nonce), Interest(True, [], [], False))

    def dataReceived(self, data: bytes) -> None:
        for frame in self._decoder.receive(data):
            self.heard(frame)

    def heard(self, frame: Frame) -> None:
        """A frame came."""
        if self.polite:
            self.answer(frame)

    def answer(self, frame: Frame) -> None:
        """Do with a frame what has to be done."""
        match frame:
            case Hello():
                self._theirs = frame.nonce
            case Ping():
                self.say(Pong(frame.token))
            case Ranges():
                self.compare(frame)

    def compare(self, frame: Ranges) -> None:
        """A step of a comparison came that the other side began."""
        step = Step(frame.round, frame.more, frame.body)
        if frame.round == 0:
            lower, upper = asked_window(step)
            entries = Entries(make_salt(self._theirs, self.nonce))
            entries.add(
                entry
                for entry in sorted(self.entries, key=lambda entry: entry.author)
                if lower <= entry.author < upper
            )
            self._window = Window(entries, lower, min(upper, entries.cut()), begins=False)
        if self._window is None:
            # It began a comparison by itself, and says nothing more.
            return
        answers = self._window.receive(step)
        self.differ(self._window.take_differences())
        for answer in answers:
            self.say(Ranges(frame.window, answer.round, answer.more, answer.body))

    def differ(self, differences: Sequence[Difference]) -> None:
        """A comparison found that both sides have different things."""

    def say(self, *frames: Frame) -> None:
        """Send frames."""
        self.say_bytes(b"".join(map(encode, frames)))

    def say_bytes(self, data: bytes) -> None:
        """Send what need not be frames."""
        assert self.transport is not None
        self.transport.write(data)
