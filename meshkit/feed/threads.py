"""
Threads: a message, those that relate to it, those that relate to these, and so on.

Like L{meshkit.feed.search}, functions of an open connection.  A thread is read in the
order in which people read it: each message is followed by its replies, the oldest first,
and each of these by its own.  Where a page goes on is found from the last message of the
page before, by way of its parents.  So a page costs what is on it, however large the
thread is, and nothing is shown twice.

What a message is about is a hash, and nobody knows whether there is a message of that
hash.  One that is not stored here is named as missing.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Final

import msgspec
from attrs import frozen

from meshkit.errors import CursorExpired
from meshkit.feed.search import COUNTED
from meshkit.feed.store import GONE, Row

#: How far replies are followed, and parents.
MAX_DEPTH: Final = 64
#: Up to how many the direct replies of a message are counted.
MAX_REPLIES: Final = 1_000

_HASH: Final = re.compile("[0-9a-f]{64}")

_Children = Iterator[tuple[int, bytes]]


@frozen
class Start:
    """
    Where a thread is read from.

    @ivar hash: of its first message; any other text that messages relate to.
    @ivar stored: that message is here.
    @ivar earlier: what it relates to, if that was not followed any further.
    """

    hash: str
    stored: bool
    earlier: str | None = None


@frozen
class Entry:
    """
    A message in a thread.

    @ivar position: its row id; 0 for one that is not stored.
    @ivar row: the message; L{None} for one that is not stored.
    @ivar hash: its hash.
    @ivar depth: 0 for the first message of the thread.
    @ivar replies: how many messages relate to it, L{MAX_REPLIES} at most.
    """

    position: int
    row: Row | None
    hash: str
    depth: int
    replies: int


@frozen
class Thread:
    """
    A page of a thread.

    @ivar start: its beginning.
    @ivar entries: in order.
    @ivar more: there are more after them.
    @ivar total: how many messages of it are stored, L{COUNTED} at most.
    @ivar counted: C{total} is all there are.
    """

    start: Start
    entries: list[Entry]
    more: bool
    total: int
    counted: bool


def find_start(connection: sqlite3.Connection, digest: str, climb: bool) -> Start | None:
    """
    The beginning of the thread that a message belongs to.

    @param digest: the message's hash, 64 hex digits.
    @param climb: go up to what it relates to, at most L{MAX_DEPTH} times; else the message
        is the beginning.
    @return: L{None} if neither the message nor one that relates to it is stored.
    """
    about = _about(connection, digest)
    if about is None and not _replies(connection, digest):
        return None
    steps = 0
    while climb and about and steps < MAX_DEPTH:
        digest, about = about, _about(connection, about)
        steps += 1
    return Start(digest, stored=about is not None, earlier=about or None)


def _about(connection: sqlite3.Connection, text: str) -> str | None:
    """@return: what a message relates to, or nothing; L{None} if it is not stored."""
    row = connection.execute(
        "SELECT coalesce(relates, '') FROM feed_messages WHERE hash = ? AND shown_ns > ?",
        (_digest(text), GONE),
    ).fetchone()
    return None if row is None else row[0]


def _digest(text: str) -> bytes:
    # Others may relate to any text; a message has a hash of this spelling and no other.
    return bytes.fromhex(text) if _HASH.fullmatch(text) else b""


def _replies(connection: sqlite3.Connection, text: str) -> int:
    (count,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM feed_messages INDEXED BY feed_messages_relates "
        "WHERE relates = ? LIMIT ?)",
        (text, MAX_REPLIES),
    ).fetchone()
    return int(count)


def _children(
    connection: sqlite3.Connection, text: str, after: tuple[int, int] = (-(2**63), 0)
) -> _Children:
    """(position, hash) of the direct replies, as they are needed."""
    return iter(
        connection.execute(
            "SELECT id, hash FROM feed_messages INDEXED BY feed_messages_relates "
            "WHERE relates = ? AND (shown_ns, id) > (?, ?) ORDER BY shown_ns, id",
            (text, *after),
        )
    )


def read_thread(
    connection: sqlite3.Connection, start: Start, depth: int, limit: int, after: int | None = None
) -> Thread:
    """
    @param depth: how far replies are followed, L{MAX_DEPTH} at most.
    @param limit: how many messages at most.
    @param after: begin after the message with this position, the last of the page before;
        0 is a first message that is not stored.
    @raise CursorExpired: if that message is no longer a part of the thread.
    """
    entries: list[Entry] = []
    if after is None:
        stack: list[_Children] = []
        entries.append(_entry(connection, start.hash, 0))
        last: str | None = start.hash
    else:
        stack, last = _resumed(connection, start, after)
    while len(entries) <= limit:
        if last is not None and len(stack) < depth:
            stack.append(_children(connection, last))
        last = None
        while stack:
            child = next(stack[-1], None)
            if child is not None:
                last = child[1].hex()
                break
            stack.pop()
        if last is None:
            break
        entries.append(_entry(connection, last, len(stack)))
    total = _count(connection, start.hash, depth)
    return Thread(
        start,
        entries[:limit],
        more=len(entries) > limit,
        total=min(total, COUNTED),
        counted=total <= COUNTED,
    )


def _entry(connection: sqlite3.Connection, text: str, depth: int) -> Entry:
    found = connection.execute(
        f"SELECT m.id, {Row.COLUMNS} FROM {Row.TABLES} WHERE m.hash = ? AND m.shown_ns > ?",
        (_digest(text), GONE),
    ).fetchone()
    replies = _replies(connection, text)
    if found is None:
        return Entry(0, None, text, depth, replies)
    return Entry(found[0], Row.read(*found[1:]), text, depth, replies)


def _resumed(
    connection: sqlite3.Connection, start: Start, after: int
) -> tuple[list[_Children], str]:
    """
    @return: for each level, the replies that are still to come; and the hash of the message
        whose own replies come first.
    """
    if after == 0:
        return [], start.hash
    levels: list[_Children] = []
    row = _place(connection, "id", after)
    last = None if row is None else row[1].hex()
    at = last
    while row is not None and at != start.hash and len(levels) < MAX_DEPTH:
        shown_ns, _, about, position = row
        at = about
        if about is None:
            break
        levels.append(_children(connection, about, (shown_ns, position)))
        row = _place(connection, "hash", _digest(about)) if about != start.hash else row
    if last is None or at != start.hash:
        raise CursorExpired("the thread has changed where this cursor goes on: read it anew")
    return levels[::-1], last


def _place(
    connection: sqlite3.Connection, column: str, value: object
) -> tuple[int, bytes, str | None, int] | None:
    found: tuple[int, bytes, str | None, int] | None = connection.execute(
        f"SELECT shown_ns, hash, relates, id FROM feed_messages WHERE {column} = ?", (value,)
    ).fetchone()
    return found


def _count(connection: sqlite3.Connection, text: str, depth: int) -> int:
    (total,) = connection.execute(
        "WITH RECURSIVE thread (name, depth) AS ("
        "  SELECT :start, 0"
        "  UNION ALL"
        "  SELECT lower(hex(m.hash)), thread.depth + 1 FROM thread"
        "  CROSS JOIN feed_messages m INDEXED BY feed_messages_relates ON m.relates = thread.name"
        "  WHERE thread.depth < :depth LIMIT :most"
        ") SELECT count(*) FROM thread",
        {"start": text, "depth": depth, "most": COUNTED + 2},
    ).fetchone()
    # The beginning was counted, whether it is stored or not.
    return int(total) - (_about(connection, text) is None)


def extras(entry: Entry) -> dict[str, object]:
    """What is shown of an entry beside its message."""
    return {"depth": entry.depth, "replies": entry.replies}


def shown_missing(entry: Entry) -> msgspec.Raw:
    """An entry whose message is not stored, for people."""
    return msgspec.Raw(msgspec.json.encode({"hash": entry.hash, "missing": True, **extras(entry)}))
