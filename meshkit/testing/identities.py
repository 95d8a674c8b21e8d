"""
Identities that are the same in every run, and authors who write feeds with them.

Never use one for anything but tests: their secrets are public.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from meshkit.feed.message import Message, sign_message
from meshkit.identity.keys import Identity

__all__ = ["DAY_NS", "Author", "make_identity"]

#: 2026-01-01T00:00:00Z in nanoseconds: when an L{Author} begins to write.
DAY_NS: Final = 1_767_225_600 * 10**9

# None is a content like any other.
_SHORT_NOTE: Final = object()


def make_identity(name: str | int) -> Identity:
    """@return: the identity of that name, the same one each time."""
    return Identity(hashlib.sha256(f"meshkit/testing/identity/{name}".encode()).digest())


class Author:
    """
    Somebody who writes a feed, one message after the other.

    @ivar identity: who writes.
    @ivar messages: what was written, from sequence 1 on.
    """

    def __init__(self, name: str | int) -> None:
        self.identity = make_identity(name)
        self.messages: list[Message] = []

    @property
    def key(self) -> bytes:
        """The 32-byte public key."""
        return self.identity.public.raw

    @property
    def raws(self) -> list[bytes]:
        """The texts of all messages."""
        return [message.raw for message in self.messages]

    def write(self, content: Any = _SHORT_NOTE, **fields: Any) -> Message:
        """
        Write the next message.

        @param content: a JSON value; a short note if left out.
        @param fields: of L{sign_message}, in place of the right ones: C{previous=...}
            or C{sequence=...} make a fork.  Such a message is not kept in L{messages}.
        """
        number = len(self.messages) + 1
        astray = not fields.keys().isdisjoint({"sequence", "previous"})
        message = sign_message(
            self.identity,
            **{
                "sequence": number,
                "previous": self.messages[-1].hash if self.messages else None,
                "timestamp_ns": DAY_NS + number * 10**9,
                "content": {"type": "note", "text": f"number {number}"}
                if content is _SHORT_NOTE
                else content,
                **fields,
            },
        )
        if not astray:
            self.messages.append(message)
        return message

    def write_many(self, count: int) -> list[bytes]:
        """Write C{count} messages.  @return: their texts."""
        return [self.write().raw for _ in range(count)]
