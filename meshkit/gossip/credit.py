"""
How much may be on its way between two peers: cumulative limits, as QUIC's C{MAX_DATA}
(RFC 9000, section 4.1).  Pure.

Both count the messages and the bytes of their texts since the connection began.  The
receiver names absolute limits, so that a limit that is heard twice or late does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

from meshkit.errors import MalformedFrame

#: What may be on its way later.
WINDOW_MESSAGES: Final = 4_096
WINDOW_BYTES: Final = 1024 * 1024
#: However little room there is, the largest message has to get through.
LEAST_BYTES: Final = 256 * 1024


@frozen
class Amount:
    """Messages, and bytes of their texts."""

    messages: int
    bytes: int

    def plus(self, messages: int, size: int) -> Amount:
        return Amount(self.messages + messages, self.bytes + size)


NOTHING: Final = Amount(0, 0)
#: What may come before anything was said.
FIRST: Final = Amount(256, 1024 * 1024)


@define
class Granting:
    """
    The receiver's side.

    @ivar limit: what the peer may send in all.
    """

    limit: Amount = field(default=FIRST, init=False)
    _window: Amount = field(default=FIRST, init=False)
    _came: Amount = field(default=NOTHING, init=False)
    _done: Amount = field(default=NOTHING, init=False)

    @property
    def exhausted(self) -> bool:
        """Can the peer send nothing, or not the largest message, until we raise the limit?"""
        return (
            self._came.messages >= self.limit.messages
            or self._came.bytes + LEAST_BYTES // 2 > self.limit.bytes
        )

    def received(self, messages: int, size: int) -> None:
        """
        Messages came.

        @raise MalformedFrame: more than was granted.
        """
        self._came = came = self._came.plus(messages, size)
        if came.messages > self.limit.messages or came.bytes > self.limit.bytes:
            raise MalformedFrame(
                f"the peer sent {came.messages} messages of {came.bytes} bytes, and was "
                f"granted {self.limit.messages} and {self.limit.bytes}"
            )

    def done(self, messages: int, size: int, room: int) -> Amount | None:
        """
        Messages are off our hands: stored, or refused.

        @param room: bytes that may be on their way now.
        @return: the new limit, if it is raised: when half of what was granted is used.
        """
        self._done = done = self._done.plus(messages, size)
        if (self.limit.messages - done.messages) * 2 > self._window.messages and (
            self.limit.bytes - done.bytes
        ) * 2 > self._window.bytes:
            return None
        self._window = Amount(WINDOW_MESSAGES, max(LEAST_BYTES, min(room, WINDOW_BYTES)))
        new = done.plus(self._window.messages, self._window.bytes)
        # With less room than before it may be less: what was granted stays.
        self.limit = Amount(
            max(self.limit.messages, new.messages), max(self.limit.bytes, new.bytes)
        )
        return self.limit


@define
class Spending:
    """The sender's side."""

    _limit: Amount = field(default=FIRST, init=False)
    _sent: Amount = field(default=NOTHING, init=False)

    @property
    def messages(self) -> int:
        """How many messages may be sent."""
        return self._limit.messages - self._sent.messages

    @property
    def size(self) -> int:
        """How many bytes of texts may be sent."""
        return self._limit.bytes - self._sent.bytes

    def raised(self, messages: int, size: int) -> None:
        """The peer named its limit.  It never falls: an old one says nothing."""
        self._limit = Amount(max(self._limit.messages, messages), max(self._limit.bytes, size))

    def fitting(self, texts: Sequence[bytes]) -> int:
        """@return: how many of these, from the first on, may be sent."""
        total = 0
        for count, text in enumerate(texts):
            total += len(text)
            if count >= self.messages or total > self.size:
                return count
        return len(texts)

    def spend(self, texts: Sequence[bytes]) -> None:
        """They are sent."""
        self._sent = self._sent.plus(len(texts), sum(map(len, texts)))
