"""
What is kept of peers over a restart, in SQLite: their address records, and where those answered
who are not where the operator has them.

Everything here is a function of an open connection and is run by
L{meshkit.runtime.database.Database}.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable
from typing import Final

from attrs import astuple, frozen

from meshkit.discovery.exchange.known import MAX_KNOWN

__all__ = ["MIGRATIONS", "Row", "load", "write"]

MIGRATIONS: Final = (
    """
    -- raw: the address record; empty if there is none.  nearest: how near whoever gave it is, see
    -- meshkit.identity.scopes.Scope.  address: where the peer answered; empty if that is in the
    -- peer book.  The row of this node itself has the last record that it has sealed.
    CREATE TABLE exchange_peers (
        key BLOB PRIMARY KEY,
        raw BLOB NOT NULL,
        nearest INTEGER NOT NULL,
        address TEXT NOT NULL,
        changed_ns INTEGER NOT NULL
    ) STRICT;
    """,
    """
    -- spoke: the peer itself has given its record once.  Of those kept before this it is not known,
    -- and most have.
    ALTER TABLE exchange_peers ADD COLUMN spoke INTEGER NOT NULL DEFAULT 1;
    """,
)


@frozen
class Row:
    """One peer: see L{MIGRATIONS}."""

    key: bytes
    raw: bytes
    nearest: int
    address: str
    changed_ns: int
    spoke: bool


def load(connection: sqlite3.Connection) -> list[Row]:
    """@return: what was written, in the order in which it was."""
    rows = connection.execute(
        "SELECT key, raw, nearest, address, changed_ns, spoke FROM exchange_peers "
        "ORDER BY changed_ns, key"
    )
    return [
        Row(key, raw, nearest, address, changed_ns, bool(spoke))
        for key, raw, nearest, address, changed_ns, spoke in rows
    ]


def write(
    connection: sqlite3.Connection, rows: Iterable[Row], own: bytes, kept: Container[bytes]
) -> None:
    """
    Keep these, in place of what was kept of them; of all L{MAX_KNOWN} and our own: the newest.

    @param own: this node's key, whose row never makes room.
    @param kept: keys whose rows do not make room for others as long as there are others.
    """
    connection.executemany(
        "INSERT OR REPLACE INTO exchange_peers VALUES (?, ?, ?, ?, ?, ?)",
        [astuple(row) for row in rows],
    )
    newest = connection.execute("SELECT key FROM exchange_peers ORDER BY changed_ns DESC, key")
    keys = sorted((key for (key,) in newest), key=lambda key: (key != own, key not in kept))
    connection.executemany(
        "DELETE FROM exchange_peers WHERE key = ?", [(key,) for key in keys[MAX_KNOWN + 1 :]]
    )
