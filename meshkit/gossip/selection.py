"""
What this node replicates, and what a peer says that it does.

This node's own feed; those of the authors it follows; and the whole feeds of those who have
used a tag that it subscribes to, a I{topic}.  Nothing selected is everybody.  A node that keeps
feeds for others, a relay, replicates those besides, and nothing selected is nobody then.
Blocks, which the store has, win over all of that.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock

from meshkit.errors import InvalidRequest, MalformedFrame, SelectionConfigured
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import Interest, MessagesStored
from meshkit.parts import shield

#: Authors of an interest.
MAX_AUTHORS: Final = 50_000
#: Topics of an interest.
MAX_TOPICS: Final = 1_000
#: Seconds within which authors who turn out to use a topic are told of together.
GATHER: Final = 1.0
#: Authors that the store is asked for at a time.
_PAGE: Final = 1_000

_KEY: Final = 32

MIGRATIONS: Final = (
    """
    CREATE TABLE gossip_follows (
        author BLOB PRIMARY KEY,
        added_ns INTEGER NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE gossip_topics (
        topic TEXT PRIMARY KEY NOT NULL,
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
    @ivar tagged: authors who have used one of them, as far as is known here.
    """

    def __init__(self) -> None:
        self.tagged: dict[bytes, None] = {}
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
        before = self.topics
        self.topics, self._coming_topics = tuple(self._coming_topics), []
        if self.topics != before:
            self.tagged.clear()
        self.complete = True
        return True

    def __len__(self) -> int:
        """How many authors are held."""
        return (len(self._authors) + len(self._coming)) // _KEY

    def __contains__(self, author: bytes) -> bool:
        """Does the peer want to hear of this author?"""
        return self.all or self.names(author) or author in self.tagged

    def names(self, author: bytes) -> bool:
        """Has the peer named this author?"""
        packed = self._authors
        count = len(packed) // _KEY
        at = bisect_left(range(count), author, key=lambda n: packed[n * _KEY : (n + 1) * _KEY])
        return packed[at * _KEY : (at + 1) * _KEY] == author


async def find_tagged(store: Any, topics: Iterable[str]) -> dict[bytes, None]:
    """Who has used a topic, as far as the store knows; at most L{MAX_AUTHORS}."""
    tagged: dict[bytes, None] = {}
    tags, after = list(topics), b""
    while tags and len(tagged) < MAX_AUTHORS:
        page = await store.authors_with_tags(tags, after, _PAGE)
        tagged.update(dict.fromkeys(page))
        if len(page) < _PAGE:
            break
        after = page[-1]
    return tagged


@define(eq=False)
class Selection:
    """
    What this node replicates.  For the reactor's thread alone.

    @ivar own: its own key; its own feed it always replicates.
    """

    own: bytes
    _clock: Any
    _database: Any
    _store: Any
    _wall_clock: Callable[[], int]
    _configured_follows: tuple[bytes, ...] = ()
    _configured_topics: tuple[str, ...] = ()
    # Whether it is in the configuration.
    _follows: dict[bytes, bool] = field(factory=dict, init=False)
    _topics: dict[str, bool] = field(factory=dict, init=False)
    _tagged: dict[bytes, None] = field(factory=dict, init=False)
    # The store is asked once at a time: what it answers last is about all topics.
    _asking: DeferredLock = field(factory=DeferredLock, init=False)
    # Who has used a topic since the store was asked, while it is: it may not have seen that.
    _since_asked: dict[bytes, None] | None = field(default=None, init=False)
    # Whom others here want to be replicated as well; L{None} if nobody has asked.
    _kept: Collection[bytes] | None = field(default=None, init=False)
    _watchers: list[Callable[[], None]] = field(factory=list, init=False)
    _due: Any = field(default=None, init=False)

    def load(self) -> Deferred[None]:
        """@return: Deferred that fires when what it selects is known."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        follows, topics = await self._database.read(_all)
        self._follows = {author: False for (author,) in follows}
        self._follows.update(dict.fromkeys(self._configured_follows, True))
        self._topics = {topic: False for (topic,) in topics}
        self._topics.update(dict.fromkeys(self._configured_topics, True))
        self._tagged = await find_tagged(self._store, sorted(self._topics))

    def stop(self) -> None:
        """Have no timer left."""
        if self._due is not None and self._due.active():
            self._due.cancel()

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back whenever the selection has changed."""
        self._watchers.append(callback)

    def changed(self) -> None:
        """It has."""
        self.stop()
        for watcher in list(self._watchers):
            watcher()

    # --- what is selected --------------------------------------------------------------

    def follows(self) -> list[tuple[bytes, bool]]:
        """(author, is it in the configuration?), ascending."""
        return sorted(self._follows.items())

    def authors(self) -> list[bytes]:
        """Whom it follows, ascending."""
        return sorted(self._follows)

    def topics(self) -> list[tuple[str, bool]]:
        """(tag, is it in the configuration?), ascending."""
        return sorted(self._topics.items())

    @property
    def tagged(self) -> int:
        """How many authors are known to use a topic."""
        return len(self._tagged)

    def wants(self, author: bytes) -> bool:
        """Does this node replicate a feed?"""
        if author == self.own:
            return True
        if self._store.is_blocked(author):
            return False
        if self._selects_all:
            return True
        kept = self._kept is not None and author in self._kept
        return kept or author in self._follows or author in self._tagged

    @property
    def _selects_all(self) -> bool:
        return self._kept is None and not self._follows and not self._topics

    def interest(self) -> Interest:
        """What peers are told."""
        if self._selects_all:
            return Interest(all=True)
        authors = {self.own, *self._follows, *self._tagged, *(self._kept or ())}
        if len(authors) > MAX_AUTHORS:
            # More than can be told: everything is offered, and most of it not asked for.
            return Interest(all=True)
        named = tuple(sorted(author for author in authors if self.wants(author)))
        return Interest(all=False, authors=named, topics=tuple(sorted(self._topics)))

    def keep(self, authors: Collection[bytes]) -> None:
        """See L{ISelection.add_kept}."""
        if self._kept is not None:
            raise ValueError("somebody keeps feeds for others here already")
        self._kept = authors

    def has_topic(self, tags: Iterable[str]) -> bool:
        """Is one of these tags subscribed to?"""
        return any(tag in self._topics for tag in tags)

    def stored(self, event: MessagesStored) -> None:
        """Messages came: their author may have used a topic."""
        author = event.author
        if not self._topics or (author in self._tagged and self._since_asked is None):
            return
        if not any(self.has_topic(message.tags) for message in event.messages):
            return
        if self._since_asked is not None and len(self._since_asked) < MAX_AUTHORS:
            self._since_asked[author] = None
        if author in self._tagged or len(self._tagged) >= MAX_AUTHORS:
            return
        self._tagged[author] = None
        if author not in self._follows and (self._due is None or not self._due.active()):
            self._due = self._clock.callLater(GATHER, self.changed)

    # --- changing it -------------------------------------------------------------------

    def follow(self, author: bytes) -> Deferred[None]:
        """@return: Deferred fired when it is on the disk."""
        return shield(self._follow(author))

    async def _follow(self, author: bytes) -> None:
        if author not in self._follows:
            if len(self._follows) >= MAX_AUTHORS:
                raise InvalidRequest(f"{MAX_AUTHORS} authors are followed, and no more can be")
            now_ns = self._wall_clock()
            await self._database.write(
                lambda connection: connection.execute(
                    "INSERT OR IGNORE INTO gossip_follows VALUES (?, ?)", (author, now_ns)
                )
            )
            self._follows.setdefault(author, False)
        self.changed()

    def unfollow(self, author: bytes) -> Deferred[None]:
        """
        @return: Deferred fired when it is on the disk.  What is stored stays.  Fails with
            L{SelectionConfigured} if the configuration follows it.
        """
        return shield(self._unfollow(author))

    async def _unfollow(self, author: bytes) -> None:
        if self._follows.get(author):
            raise SelectionConfigured(
                f"the setting gossip.follow follows {PublicKey(author).text}: remove it there and "
                f"start the node again"
            )
        await self._database.write(
            lambda connection: connection.execute(
                "DELETE FROM gossip_follows WHERE author = ?", (author,)
            )
        )
        self._follows.pop(author, None)
        self.changed()

    def subscribe(self, topic: str) -> Deferred[None]:
        """@return: Deferred fired when it is on the disk."""
        return shield(self._subscribe(topic))

    async def _subscribe(self, topic: str) -> None:
        if topic in self._topics:
            return
        if len(self._topics) >= MAX_TOPICS:
            raise InvalidRequest(f"{MAX_TOPICS} topics are subscribed to, and no more can be")
        now_ns = self._wall_clock()
        await self._database.write(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO gossip_topics VALUES (?, ?)", (topic, now_ns)
            )
        )
        self._topics.setdefault(topic, False)
        await self._find_tagged()

    def unsubscribe(self, topic: str) -> Deferred[None]:
        """
        @return: Deferred fired when it is on the disk.  What is stored stays.  Fails with
            L{SelectionConfigured} if the configuration subscribes to it.
        """
        return shield(self._unsubscribe(topic))

    async def _unsubscribe(self, topic: str) -> None:
        if self._topics.get(topic):
            raise SelectionConfigured(
                f"the setting gossip.topics subscribes to {topic!r}: remove it there and start "
                f"the node again"
            )
        await self._database.write(
            lambda connection: connection.execute(
                "DELETE FROM gossip_topics WHERE topic = ?", (topic,)
            )
        )
        self._topics.pop(topic, None)
        await self._find_tagged()

    async def _find_tagged(self) -> None:
        await self._asking.acquire()
        try:
            self._since_asked = {}
            tagged = await find_tagged(self._store, sorted(self._topics))
            tagged.update(self._since_asked)
            self._tagged = dict.fromkeys(islice(tagged, MAX_AUTHORS))
        finally:
            self._since_asked = None
            self._asking.release()
        self.changed()


def _all(connection: sqlite3.Connection) -> tuple[list[tuple[bytes]], list[tuple[str]]]:
    return (
        connection.execute("SELECT author FROM gossip_follows ORDER BY author").fetchall(),
        connection.execute("SELECT topic FROM gossip_topics ORDER BY topic").fetchall(),
    )
