"""
Stored messages as a stream, in the order in which they were stored here.

Every message is read from the store, the arrival of others is only what wakes the
reader up.  So a stream can begin anywhere, a reader that is slow misses nothing, and it
costs one page of memory however far behind it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from functools import partial
from typing import Any, Final

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred

from meshkit.feed.search import Filter, shown
from meshkit.feed.store import GONE, NOT_BLOCKED, Row
from meshkit.interfaces import Arrival, Arrivals, MessagesStored, StoredMessage
from meshkit.operations import Item
from meshkit.runtime.events import Bell

#: Most messages that are read at once.
PAGE: Final = 100
#: Most positions that are looked at for them, so that a rare author costs little at a time.
RANGE: Final = 10_000
#: A reader that is this many messages behind is told so.
LAGGED: Final = 1_000


@frozen
class Stretch:
    """
    Part of what is stored.

    @ivar rows: (position, message as it is shown), ascending.
    @ivar reached: position up to which there are no others.
    @ivar newest: the last position of all.
    """

    rows: list[tuple[int, msgspec.Raw]]
    reached: int
    newest: int


def newest_position(connection: sqlite3.Connection) -> int:
    """@return: of the message stored last; 0 if there is none."""
    (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM feed_messages").fetchone()
    return int(newest)


def read_stretch(
    connection: sqlite3.Connection,
    wanted: Filter,
    after: int,
    show: Callable[[Row], msgspec.Raw],
) -> Stretch:
    """The messages that follow a position, at most L{PAGE}, out of the next L{RANGE}."""
    newest = newest_position(connection)
    end = min(after + RANGE, newest)
    conditions = [("m.id > ?", after), ("m.id <= ?", end), *wanted.listed()]
    rows = connection.execute(
        # By position, whatever index SQLite might think of for a filter.
        f"SELECT m.id, {Row.COLUMNS} FROM feed_messages m NOT INDEXED "
        "LEFT JOIN feed_authors a ON a.id = m.author "
        f"WHERE {' AND '.join(sql for sql, _ in conditions)} ORDER BY m.id LIMIT ?",
        (*(value for _, value in conditions), PAGE),
    ).fetchall()
    found = [(position, show(Row.read(*row))) for position, *row in rows]
    reached = found[-1][0] if len(found) == PAGE else end
    return Stretch(found, reached, newest)


class _Kept(msgspec.Struct):
    """What is read of a stored text."""

    tags: tuple[str, ...] = ()


def read_arrivals(
    connection: sqlite3.Connection, after: int, max_messages: int, max_bytes: int
) -> Arrivals:
    """See L{meshkit.interfaces.IFeedStore.arrivals}."""
    newest = newest_position(connection)
    reached = min(after + RANGE, newest)
    found: list[Arrival] = []
    size = 0
    cursor = connection.execute(
        "SELECT m.id, a.key, m.sequence, m.hash, m.content_type, "
        f"{Row.COLUMNS} FROM feed_messages m NOT INDEXED "
        "LEFT JOIN feed_authors a ON a.id = m.author "
        f"WHERE m.id > ? AND m.id <= ? AND m.shown_ns > ? AND {NOT_BLOCKED} ORDER BY m.id",
        (after, reached, GONE),
    )
    with closing(cursor):
        for position, author, sequence, digest, content_type, *rest in cursor:
            row = Row.read(*rest)
            if row.forked:
                continue
            size += len(row.raw)
            if found and (len(found) >= max_messages or size > max_bytes):
                reached = found[-1].message.position
                break
            tags = msgspec.json.decode(row.raw, type=_Kept).tags
            message = StoredMessage(position, author, sequence, digest, content_type, tags, row.raw)
            found.append(Arrival(message, row.chain_valid, bytes(shown(row))))
    return Arrivals(tuple(found), reached, newest)


async def follow(
    read: Callable[[Callable[[sqlite3.Connection], Any]], Deferred[Any]],
    subscribe: Callable[[type[MessagesStored], Any], Callable[[], None]],
    wanted: Filter,
    after: int,
    show: Callable[[Row], msgspec.Raw] = shown,
) -> AsyncGenerator[Item, None]:
    """
    Every message that a filter takes, as it is stored.

    Notices: C{lagged} with C{behind}, how many messages of all kinds were stored since the
    one seen last, when these are more than L{LAGGED}; they follow all the same.  C{reset}
    with C{newest} if the store does not go as far as C{after}: it was replaced by an older
    one.

    @param read: L{meshkit.runtime.database.Database.read}.
    @param subscribe: L{meshkit.runtime.events.EventBus.subscribe}.
    @param after: the position after which to begin.
    @param show: how messages are shown; called in the thread that reads them.
    @return: L{Item}s whose id is the position.  It has no end.
    """
    bell = Bell()

    def heard(event: MessagesStored) -> None:
        if wanted.author is None or event.author == wanted.author:
            bell.ring()

    unsubscribe = subscribe(MessagesStored, heard)
    try:
        newest = await read(newest_position)
        position = after
        if position > newest:
            position = newest
            yield Item({"newest": newest}, id=str(newest), event="reset")
        told = False
        while True:
            bell.hush()
            stretch: Stretch = await read(
                partial(read_stretch, wanted=wanted, after=position, show=show)
            )
            behind = stretch.newest - position
            if behind > LAGGED and not told:
                told = True
                yield Item({"behind": behind}, event="lagged")
            elif behind <= PAGE:
                told = False
            for at, text in stretch.rows:
                yield Item(text, id=str(at))
            position = stretch.reached
            if position >= stretch.newest:
                await bell.wait()
    finally:
        unsubscribe()
