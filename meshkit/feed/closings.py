"""
Which feeds have ended by a rotation, as functions of an open connection.

A feed ends at the first of its rotations.  What was stored of it beyond, because it came
before, stays, and is neither counted nor served; what comes later is refused.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from attrs import define, field

from meshkit.errors import FeedClosed
from meshkit.feed.message import Message
from meshkit.feed.rotation import Rotation, read_rotation
from meshkit.identity.keys import PublicKey

#: SQL: does the feed of the author C{a} end at what is complete of it?
ENDS_THERE: Final = (
    "EXISTS (SELECT 1 FROM feed_rotations r WHERE r.author = a.key AND r.sequence = a.contiguous)"
)


def closing(connection: sqlite3.Connection, author: bytes) -> Rotation | None:
    """@return: how the feed of a 32-byte key has ended, if it has."""
    row = connection.execute(
        "SELECT author, successor, sequence FROM feed_rotations WHERE author = ?", (author,)
    ).fetchone()
    return None if row is None else _rotation(*row)


def list_closings(
    connection: sqlite3.Connection, successor: bytes | None, after: bytes, limit: int
) -> list[Rotation]:
    """See L{meshkit.interfaces.IFeedStore.rotations}."""
    rows = connection.execute(
        "SELECT author, successor, sequence FROM feed_rotations "
        "WHERE author > ? AND (? IS NULL OR successor = ?) ORDER BY author LIMIT ?",
        (after, successor, successor, limit),
    )
    return [_rotation(*row) for row in rows]


def _rotation(author: bytes, successor: bytes, sequence: int) -> Rotation:
    return Rotation(PublicKey(author), PublicKey(successor), sequence)


def refusal(rotation: Rotation) -> FeedClosed:
    """@return: what is said of whatever comes after the end."""
    return FeedClosed(
        f"the feed of {rotation.old.text} has ended with message {rotation.sequence}: its author "
        f"goes on as {rotation.new.text}"
    )


@define
class Closings:
    """
    The ends of feeds, while a batch of messages is stored.

    @ivar found: rotations that were not known before.
    """

    _connection: sqlite3.Connection
    found: list[Rotation] = field(factory=list)
    _known: dict[bytes, Rotation | None] = field(factory=dict)

    def of(self, author: bytes) -> Rotation | None:
        """How a feed ends, as far as is known."""
        if author not in self._known:
            self._known[author] = closing(self._connection, author)
        return self._known[author]

    def check(self, message: Message) -> None:
        """@raise FeedClosed: if a message comes after the end of its feed."""
        end = self.of(message.author.raw)
        if end is not None and message.sequence > end.sequence:
            raise refusal(end)

    def note(self, message: Message) -> None:
        """A message is stored: it may be the end of its feed."""
        rotation = read_rotation(message)
        if rotation is None:
            return
        end = self.of(rotation.old.raw)
        if end is not None and end.sequence <= rotation.sequence:
            return
        self._connection.execute(
            "INSERT OR REPLACE INTO feed_rotations (author, successor, sequence) VALUES (?, ?, ?)",
            (rotation.old.raw, rotation.new.raw, rotation.sequence),
        )
        self._known[rotation.old.raw] = rotation
        self.found.append(rotation)

    def ends_before(self, author: bytes, sequence: int) -> bool:
        """Is this place beyond the end of the feed?"""
        end = self.of(author)
        return end is not None and sequence > end.sequence
