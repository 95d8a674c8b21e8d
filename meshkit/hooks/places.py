"""
What is remembered of hooks: how far each has come, and what it could not deliver.

The queue of a hook is the store itself.  So a hook whose receiver is away costs one row
here however long that lasts, and nothing is lost between the two.

All but L{MIGRATIONS} are functions of an open connection.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from attrs import define, frozen

MIGRATIONS: Final = (
    """
    -- Everything up to position is done, for good or for bad.  Of the message that follows,
    -- attempts have failed, the first of them at first_ns: they are those of the message at
    -- tried.  failing counts failures in a row, of whatever messages.
    CREATE TABLE hooks_places (
        hook TEXT PRIMARY KEY NOT NULL,
        position INTEGER NOT NULL,
        tried INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        first_ns INTEGER NOT NULL,
        failing INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Messages that were given up.  again: somebody has asked to have it tried once more.
    CREATE TABLE hooks_parked (
        hook TEXT NOT NULL,
        position INTEGER NOT NULL,
        hash BLOB NOT NULL,
        author BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        parked_ns INTEGER NOT NULL,
        error TEXT NOT NULL,
        again INTEGER NOT NULL,
        PRIMARY KEY (hook, position)
    ) STRICT, WITHOUT ROWID;
    """,
)


@define
class Place:
    """
    Where a hook is: see the columns of C{hooks_places}.
    """

    position: int
    tried: int = 0
    attempts: int = 0
    first_ns: int = 0
    failing: int = 0


@frozen
class Parked:
    """
    A message that a hook has given up.

    @ivar position: where it is stored.
    @ivar hash: its hash, 32 bytes.
    @ivar author: its author's key, 32 bytes.
    @ivar sequence: its place in the author's feed.
    @ivar attempts: how many failed.
    @ivar parked_ns: when it was given up, nanoseconds since 1970.
    @ivar error: how the last attempt failed.
    @ivar again: it is about to be tried once more.
    """

    position: int
    hash: bytes
    author: bytes
    sequence: int
    attempts: int
    parked_ns: int
    error: str
    again: bool = False


_COLUMNS: Final = "position, hash, author, sequence, attempts, parked_ns, error, again"


def _parked(row: tuple[int, bytes, bytes, int, int, int, str, int]) -> Parked:
    return Parked(*row[:-1], bool(row[-1]))


def load_place(connection: sqlite3.Connection, hook: str) -> Place | None:
    row = connection.execute(
        "SELECT position, tried, attempts, first_ns, failing FROM hooks_places WHERE hook = ?",
        (hook,),
    ).fetchone()
    return None if row is None else Place(*row)


def save_place(connection: sqlite3.Connection, hook: str, place: Place) -> None:
    connection.execute(
        "INSERT INTO hooks_places (hook, position, tried, attempts, first_ns, failing) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (hook) DO UPDATE SET position = excluded.position, "
        "tried = excluded.tried, attempts = excluded.attempts, first_ns = excluded.first_ns, "
        "failing = excluded.failing",
        (hook, place.position, place.tried, place.attempts, place.first_ns, place.failing),
    )


def park(connection: sqlite3.Connection, hook: str, parked: Parked) -> None:
    """Give a message up."""
    connection.execute(
        f"INSERT OR REPLACE INTO hooks_parked (hook, {_COLUMNS}) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            hook,
            parked.position,
            parked.hash,
            parked.author,
            parked.sequence,
            parked.attempts,
            parked.parked_ns,
            parked.error,
            parked.again,
        ),
    )


def note_failed(connection: sqlite3.Connection, hook: str, parked: Parked) -> None:
    """A parked message failed once more.  If it was dropped meanwhile, it stays so."""
    connection.execute(
        "UPDATE hooks_parked SET attempts = ?, parked_ns = ?, error = ?, again = ? "
        "WHERE hook = ? AND position = ?",
        (
            parked.attempts,
            parked.parked_ns,
            parked.error,
            parked.again,
            hook,
            parked.position,
        ),
    )


def count_parked(connection: sqlite3.Connection, hook: str) -> int:
    (count,) = connection.execute(
        "SELECT count(*) FROM hooks_parked WHERE hook = ?", (hook,)
    ).fetchone()
    return int(count)


def list_parked(connection: sqlite3.Connection, hook: str, after: int, limit: int) -> list[Parked]:
    """@param after: the position above which to begin."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM hooks_parked WHERE hook = ? AND position > ? "
        "ORDER BY position LIMIT ?",
        (hook, after, limit),
    )
    return [_parked(row) for row in rows]


def mark_again(connection: sqlite3.Connection, hook: str, position: int | None) -> int:
    """
    Have parked messages tried once more.

    @param position: which one; L{None} for all.
    @return: how many.
    """
    return connection.execute(
        "UPDATE hooks_parked SET again = 1 WHERE hook = ? AND (? IS NULL OR position = ?)",
        (hook, position, position),
    ).rowcount


def next_again(connection: sqlite3.Connection, hook: str) -> Parked | None:
    """The first parked message that is to be tried once more."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM hooks_parked WHERE hook = ? AND again = 1 "
        "ORDER BY position LIMIT 1",
        (hook,),
    ).fetchone()
    return None if row is None else _parked(row)


def forget(connection: sqlite3.Connection, hook: str, position: int | None) -> int:
    """
    Drop parked messages.

    @param position: which one; L{None} for all.
    @return: how many.
    """
    return connection.execute(
        "DELETE FROM hooks_parked WHERE hook = ? AND (? IS NULL OR position = ?)",
        (hook, position, position),
    ).rowcount
