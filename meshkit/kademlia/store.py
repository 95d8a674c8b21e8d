"""
What the hash table keeps over a restart, in SQLite: the records of others and of this node,
and the nodes it knew.

Everything here is a function of an open connection and is run by
L{meshkit.runtime.database.Database}: the writing ones on its one writer thread, inside a
savepoint of a group commit.  Nobody is told that a record is kept before the changes that
came of it (L{meshkit.kademlia.holdings.Holdings.changes}) are committed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from meshkit.errors import AddressRecordInvalid, InvalidAddress, RecordError
from meshkit.identity.addresses import HostPort
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope
from meshkit.kademlia.blocks import blocks_of
from meshkit.kademlia.contacts import Contact, DialRules
from meshkit.kademlia.holdings import Changes, Row
from meshkit.kademlia.publications import Publication, Published
from meshkit.kademlia.records import Record
from meshkit.kademlia.routing import Remembered

MIGRATIONS: Final = (
    """
    -- What is kept for others: see meshkit.kademlia.holdings.Row.  Without raw, the place is
    -- empty, and no record of that owner with a lower sequence is taken before expires.
    CREATE TABLE kademlia_records (
        kind TEXT NOT NULL,
        key BLOB NOT NULL,
        slot BLOB NOT NULL,
        owner BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        account BLOB NOT NULL,
        history INTEGER NOT NULL,
        stored_ms INTEGER NOT NULL,
        raw BLOB NOT NULL,
        PRIMARY KEY (kind, key, slot)
    ) STRICT;

    -- What this node publishes: see meshkit.kademlia.publications.
    CREATE TABLE kademlia_publications (
        kind TEXT NOT NULL,
        key BLOB NOT NULL,
        salt BLOB NOT NULL,
        until_ms INTEGER,
        raw BLOB NOT NULL,
        PRIMARY KEY (kind, key, salt)
    ) STRICT;

    -- The routing table as it was last: position is the order in which to try them; places,
    -- with blanks between them, are where each may be dialled.
    CREATE TABLE kademlia_contacts (
        position INTEGER PRIMARY KEY,
        record BLOB NOT NULL,
        places TEXT NOT NULL,
        since REAL NOT NULL,
        heard REAL NOT NULL,
        anchor INTEGER NOT NULL
    ) STRICT;
    """,
)

_COLUMNS: Final = "kind, key, slot, owner, sequence, expires_ms, account, history, stored_ms, raw"


def write(connection: sqlite3.Connection, changes: Changes) -> None:
    """Write what has changed of the records that are kept."""
    connection.executemany(
        "DELETE FROM kademlia_records WHERE kind = ? AND key = ? AND slot = ?", changes.gone
    )
    connection.executemany(
        f"INSERT OR REPLACE INTO kademlia_records ({_COLUMNS}) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                row.kind,
                row.key,
                row.slot,
                row.owner,
                row.sequence,
                row.expires,
                row.account,
                row.history,
                row.stored,
                row.raw,
            )
            for row in changes.rows
        ],
    )


def read(connection: sqlite3.Connection) -> list[Row]:
    """
    @return: all that is kept, in the order in which it was stored, for
        L{Holdings.restore <meshkit.kademlia.holdings.Holdings.restore>}.
    """
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM kademlia_records ORDER BY stored_ms, kind, key, slot"
    )
    return [
        Row(kind, key, slot, owner, sequence, expires, account, bool(history), stored, raw)
        for kind, key, slot, owner, sequence, expires, account, history, stored, raw in rows
    ]


def write_publications(connection: sqlite3.Connection, changes: Published) -> None:
    """Write what has changed of what this node publishes."""
    connection.executemany(
        "DELETE FROM kademlia_publications WHERE kind = ? AND key = ? AND salt = ?", changes.gone
    )
    connection.executemany(
        "INSERT OR REPLACE INTO kademlia_publications (kind, key, salt, until_ms, raw) "
        "VALUES (?, ?, ?, ?, ?)",
        [(*each.name, each.until, each.record.raw) for each in changes.rows],
    )


def read_publications(connection: sqlite3.Connection) -> tuple[list[Publication], list[str]]:
    """
    @return: what this node publishes, for L{Publications.restore
        <meshkit.kademlia.publications.Publications.restore>}; and what cannot be read of it,
        for people.  That is left where it is.
    """
    found: list[Publication] = []
    damaged: list[str] = []
    rows = connection.execute(
        "SELECT kind, key, until_ms, raw FROM kademlia_publications ORDER BY kind, key, salt"
    )
    for kind, key, until, raw in rows:
        try:
            found.append(Publication(Record.reopen(raw), until))
        except RecordError as e:
            damaged.append(f"the {kind} record at {key.hex()}: {e}")
    return found, damaged


def write_contacts(connection: sqlite3.Connection, contacts: Iterable[Remembered]) -> None:
    """
    Write the routing table, in the place of what was there.

    @param contacts: its L{snapshot <meshkit.kademlia.routing.RoutingTable.snapshot>}.
    """
    connection.execute("DELETE FROM kademlia_contacts")
    connection.executemany(
        "INSERT INTO kademlia_contacts (position, record, places, since, heard, anchor) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                position,
                each.contact.record.raw,
                " ".join(place.text for place in each.contact.places),
                each.since,
                each.heard,
                each.anchor,
            )
            for position, each in enumerate(contacts)
        ],
    )


def read_contacts(
    connection: sqlite3.Connection, network: bytes, rules: DialRules
) -> list[Remembered]:
    """
    @param network: id of our network.
    @param rules: where this node dials, as they are now.
    @return: what to L{restore <meshkit.kademlia.routing.RoutingTable.restore>}, in the order in
        which it was written.  Their records may have expired.  Who may not be dialled any
        more is left out, and so is who is of another network, or whose row is damaged.
    """
    found: list[Remembered] = []
    rows = connection.execute(
        "SELECT record, places, since, heard, anchor FROM kademlia_contacts ORDER BY position"
    )
    for raw, texts, since, heard, anchor in rows:
        try:
            record = AddressRecord.open_kept(raw, network)
            places = tuple(HostPort.parse(text) for text in texts.split())
        except (AddressRecordInvalid, InvalidAddress):
            continue
        # Each was near enough to whoever named it.
        places = tuple(place for place in places if rules.may_dial(place, Scope.MACHINE))
        if places:
            blocks = blocks_of(places[0].host, rules.own_blocks)
            contact = Contact(record.key, record, places, blocks)
            found.append(Remembered(contact, since, heard, bool(anchor)))
    return found
