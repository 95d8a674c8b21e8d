"""
What this node replicates, and what a peer says that it does.  Pure but for L{Follows},
which keeps whom this node follows in the database.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred

from meshkit.errors import MalformedFrame
from meshkit.interfaces import Interest
from meshkit.parts import shield

#: Authors of an interest.
MAX_AUTHORS: Final = 50_000
#: Topics of an interest.
MAX_TOPICS: Final = 1_000

_KEY: Final = 32

MIGRATIONS: Final = (
    """
    CREATE TABLE gossip_follows (
        author BLOB PRIMARY KEY,
        added_ns INTEGER NOT NULL
    ) STRICT;
    """,
)


class PeerInterest:
    """
    The interest of a peer, as it comes in pages.  It holds 32 bytes for each author.

    @ivar complete: all of the last one has come.
    @ivar all: the peer replicates everything.
    @ivar topics: the tags that it follows.
    """

    def __init__(self) -> None:
        self.complete = False
        self.all = False
        self.topics: tuple[str, ...] = ()
        self._authors = b""
        self._coming = bytearray()
        self._coming_topics: list[str] = []

    def page(self, all: bool, authors: Iterable[bytes], topics: Iterable[str], more: bool) -> bool:
        """
        A page came.

        @return: was it the last of an interest?
        @raise MalformedFrame: it does not ascend, or is too long.
        """
        coming = self._coming
        for author in authors:
            if coming and author <= coming[-_KEY:]:
                raise MalformedFrame("the authors of an interest do not ascend")
            coming += author
        self._coming_topics += topics
        if len(coming) > MAX_AUTHORS * _KEY or len(self._coming_topics) > MAX_TOPICS:
            raise MalformedFrame(
                f"an interest has more than {MAX_AUTHORS} authors or {MAX_TOPICS} topics"
            )
        if more:
            return False
        self.all = all
        self._authors, self._coming = bytes(coming), bytearray()
        self.topics, self._coming_topics = tuple(self._coming_topics), []
        self.complete = True
        return True

    def __len__(self) -> int:
        """How many authors are held."""
        return (len(self._authors) + len(self._coming)) // _KEY

    def __contains__(self, author: bytes) -> bool:
        """Does the peer want to hear of this author?"""
        if self.all:
            return True
        packed = self._authors
        count = len(packed) // _KEY
        at = bisect_left(range(count), author, key=lambda n: packed[n * _KEY : (n + 1) * _KEY])
        return packed[at * _KEY : (at + 1) * _KEY] == author


@define(eq=False)
class Follows:
    """
    The selection of this node: everybody, until it follows somebody.

    @ivar own: its own key; its own feed it always replicates.
    """

    own: bytes
    _database: Any
    _wall_clock: Callable[[], int]
    _authors: dict[bytes, None] = field(factory=dict, init=False)
    _watchers: list[Callable[[], None]] = field(factory=list, init=False)

    def load(self) -> Deferred[None]:
        """@return: Deferred that fires when whom it follows is known."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        rows = await self._database.read(_all_follows)
        self._authors = {author: None for (author,) in rows}

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back whenever the selection has changed."""
        self._watchers.append(callback)

    def __len__(self) -> int:
        return len(self._authors)

    def authors(self) -> list[bytes]:
        """Whom it follows, ascending."""
        return sorted(self._authors)

    def wants(self, author: bytes) -> bool:
        """Does this node replicate a feed?"""
        return not self._authors or author in self._authors or author == self.own

    def interest(self) -> Interest:
        """What peers are told."""
        if not self._authors:
            return Interest(all=True)
        if len(self._authors) >= MAX_AUTHORS:
            # More than can be told: everything is offered, and most of it not asked for.
            return Interest(all=True)
        return Interest(all=False, authors=tuple(sorted({*self._authors, self.own})))

    def follow(self, author: bytes) -> Deferred[None]:
        """@return: Deferred fired when it is on the disk."""
        return shield(self._follow(author))

    async def _follow(self, author: bytes) -> None:
        now_ns = self._wall_clock()
        await self._database.write(lambda connection: _insert(connection, author, now_ns))
        self._authors[author] = None
        self._changed()

    def unfollow(self, author: bytes) -> Deferred[None]:
        """@return: Deferred fired when it is on the disk.  What is stored stays."""
        return shield(self._unfollow(author))

    async def _unfollow(self, author: bytes) -> None:
        await self._database.write(lambda connection: _delete(connection, author))
        self._authors.pop(author, None)
        self._changed()

    def _changed(self) -> None:
        for watcher in list(self._watchers):
            watcher()


def _all_follows(connection: sqlite3.Connection) -> list[tuple[bytes]]:
    return connection.execute("SELECT author FROM gossip_follows ORDER BY author").fetchall()


def _insert(connection: sqlite3.Connection, author: bytes, now_ns: int) -> None:
    connection.execute("INSERT OR IGNORE INTO gossip_follows VALUES (?, ?)", (author, now_ns))


def _delete(connection: sqlite3.Connection, author: bytes) -> None:
    connection.execute("DELETE FROM gossip_follows WHERE author = ?", (author,))
