"""
The feeds that a liar has: those that it heard from others, as they are, and its own.  Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from meshkit.errors import FeedError
from meshkit.feed.message import Message, parse_message
from meshkit.gossip.codec import PAGE_BYTES, PAGE_MESSAGES
from meshkit.gossip.reconcile import Entry

__all__ = ["MAX_FEEDS", "MAX_MESSAGES", "Leaf", "Library", "entry_of", "page_of"]

#: Feeds of a library, and messages of all of them; what comes beyond is not taken.
MAX_FEEDS: Final = 10_000
MAX_MESSAGES: Final = 200_000


@frozen
class Leaf:
    """
    One message of a page.

    @ivar text: as it is sent.
    @ivar sequence: its place in the feed.
    @ivar hash: as it says, 64 hex digits.
    @ivar way: how it is a lie; empty, if it is none.
    """

    text: bytes
    sequence: int
    hash: str
    way: str = ""


class Library:
    """
    Each feed is complete from its first message on.

    @ivar feeds: author -> messages.
    @ivar proofs: author -> two messages with the lowest sequence of which it has two.
    """

    def __init__(self) -> None:
        self.feeds: dict[bytes, list[Message]] = {}
        self.proofs: dict[bytes, tuple[Message, Message]] = {}
        self._messages = 0

    def sequence(self, author: bytes) -> int:
        """How far it has a feed."""
        return len(self.feeds.get(author, ()))

    def forked(self, author: bytes) -> int | None:
        """At which place it knows that a feed has forked."""
        proof = self.proofs.get(author)
        return None if proof is None else proof[0].sequence

    def take(self, author: bytes, texts: Sequence[bytes]) -> int:
        """
        Take messages of a feed, as far as they follow what is here; the rest is of no use.

        @return: how many were taken.
        """
        feed = self.feeds.get(author)
        if feed is None:
            if len(self.feeds) >= MAX_FEEDS:
                return 0
            feed = self.feeds[author] = []
        before, forked = len(feed), self.forked(author)
        for text in texts:
            message = _read(text)
            if message is None or message.author.raw != author:
                break
            if message.sequence <= len(feed):
                continue
            if message.sequence != len(feed) + 1 or message.sequence == forked:
                break
            if message.previous != (feed[-1].hash if feed else None):
                break
            if self._messages >= MAX_MESSAGES:
                break
            self._messages += 1
            feed.append(message)
        if not feed:
            del self.feeds[author]
            return 0
        return len(feed) - before

    def prove(self, author: bytes, one: bytes, two: bytes) -> bool:
        """
        Take the proof of a fork.

        @return: is it new?
        """
        first, second = _read(one), _read(two)
        if first is None or second is None or len(self.proofs) >= MAX_FEEDS:
            return False
        known = self.forked(author)
        if known is not None and known <= first.sequence:
            return False
        self.proofs[author] = (first, second)
        feed = self.feeds.get(author)
        if feed is not None:
            self._messages -= max(0, len(feed) - first.sequence + 1)
            del feed[first.sequence - 1 :]
        return True

    def page(self, author: bytes, first: int) -> list[Leaf]:
        """@return: messages from a place on, as many as go into one frame."""
        return page_of(self.feeds.get(author, ()), first)

    def entries(self) -> list[Entry]:
        """What it has, ascending."""
        authors = sorted({**self.feeds, **self.proofs})
        return [entry_of(a, self.feeds.get(a, ()), self.forked(a)) for a in authors]


def page_of(feed: Sequence[Message], first: int) -> list[Leaf]:
    """@return: messages of a feed from a place on, as many as go into one frame."""
    page: list[Leaf] = []
    size = 0
    for message in feed[first - 1 : first - 1 + PAGE_MESSAGES]:
        size += len(message.raw)
        if page and size > PAGE_BYTES:
            break
        page.append(Leaf(message.raw, message.sequence, message.hash))
    return page


def entry_of(author: bytes, feed: Sequence[Message], forked: int | None = None) -> Entry:
    """@return: what there is to tell of a feed."""
    head = bytes.fromhex(feed[-1].hash) if feed else None
    return Entry(author, len(feed), head, forked)


def _read(text: bytes) -> Message | None:
    try:
        return parse_message(text)
    except FeedError:
        return None
