"""
What a node has said to relays, in SQLite.

A statement is written down before it is sent, so that no number is given twice, and what was
chosen outlasts a crash.  All but the values are functions of an open connection.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from attrs import frozen

from meshkit.errors import InvalidRequest
from meshkit.identity.addresses import MeshAddress
from meshkit.relay.registry.registration import Registration

__all__ = ["MAX_RELAYS", "MIGRATIONS", "Own", "read", "write"]

#: Relays that are remembered.
MAX_RELAYS: Final = 64

_SAID: Final = """
    -- The last registration at each relay.  chosen: somebody said so at the door, so that it
    -- counts for more than the settings; settled: there is nothing more to be said to the relay;
    -- entered: its signed word, if that is here.
    CREATE TABLE relay_registrations (
        relay BLOB PRIMARY KEY NOT NULL,
        address TEXT NOT NULL,
        statement BLOB NOT NULL,
        chosen INTEGER NOT NULL CHECK (chosen IN (0, 1)),
        settled INTEGER NOT NULL CHECK (settled IN (0, 1)),
        entered BLOB
    ) STRICT, WITHOUT ROWID;
    """

MIGRATIONS: Final = (_SAID,)


@frozen
class Own:
    """
    What was said to a relay last.

    @ivar address: where it is, and its key.
    @ivar said: the registration.
    @ivar chosen: somebody said so at the door.
    @ivar settled: the relay has heard it, or there was nothing that it had to hear.
    @ivar entered: the word of the relay that it counts.
    """

    address: MeshAddress
    said: Registration
    chosen: bool
    settled: bool = False
    entered: bytes | None = None


def read(connection: sqlite3.Connection) -> list[Own]:
    """@return: all, in the order of the relays' keys."""
    return [
        Own(
            MeshAddress.parse(address),
            Registration.reopen(statement),
            bool(chosen),
            bool(settled),
            entered,
        )
        for address, statement, chosen, settled, entered in connection.execute(
            "SELECT address, statement, chosen, settled, entered FROM relay_registrations "
            "ORDER BY relay"
        )
    ]


def write(connection: sqlite3.Connection, own: Own) -> None:
    """
    Keep what is said to a relay now, in place of what was said before.

    @raise InvalidRequest: there are too many relays.
    """
    connection.execute(
        "INSERT OR REPLACE INTO relay_registrations "
        "(relay, address, statement, chosen, settled, entered) VALUES (?, ?, ?, ?, ?, ?)",
        (
            own.address.key.raw,
            own.address.text,
            own.said.raw,
            own.chosen,
            own.settled,
            own.entered,
        ),
    )
    (relays,) = connection.execute("SELECT count(*) FROM relay_registrations").fetchone()
    if relays > MAX_RELAYS:
        raise InvalidRequest(
            f"this node has been registered at {MAX_RELAYS} relays, and remembers no more: use "
            "one of those"
        )
