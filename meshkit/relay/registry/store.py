"""
The peers of a relay, in SQLite.

All here are functions of an open connection, and are run by
L{meshkit.runtime.database.Database}: the writing ones on its one writer thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import Final

from attrs import frozen

from meshkit.identity.keys import PublicKey
from meshkit.relay.registry.registration import Registration
from meshkit.relay.registry.rules import KEPT, Known, Outcome, Rules, judge

__all__ = ["Listing", "Peer", "directory", "enter", "everybody", "note_seen", "remove", "sweep"]

#: Rows that are deleted in one transaction, so that nobody waits for long behind it.
MAX_SWEPT: Final = 1_000


@frozen
class Peer:
    """
    One that is registered.

    @ivar registration: its last.
    @ivar since: when it came, in seconds of Unix time, by the clock of the relay.
    @ivar seen: when it was there last, to the hour.
    """

    registration: Registration
    since: int
    seen: int

    @property
    def key(self) -> PublicKey:
        """Whose it is."""
        return self.registration.peer


@frozen
class Listing:
    """
    A stretch of the directory.

    @ivar peers: in the order of their keys.
    @ivar total: how many are listed in all.
    @ivar more: are there others behind these?
    """

    peers: tuple[Peer, ...]
    total: int
    more: bool


def enter(
    connection: sqlite3.Connection, registration: Registration, rules: Rules, now: int
) -> tuple[Outcome, Peer]:
    """
    Have a registration count.

    @param registration: verified.
    @param now: milliseconds since 1970.
    @return: what became of it, and what is kept now.
    @raise RegistrationError: it does not count: see L{judge}.
    """
    peer, seconds = registration.peer.raw, now // 1000
    row = connection.execute(
        "SELECT statement, since, seen, stays FROM registrations WHERE peer = ?", (peer,)
    ).fetchone()
    known = None if row is None else Known(Registration.reopen(row[0]), bool(row[3]))
    (places,) = connection.execute("SELECT count(*) FROM registrations").fetchone()
    outcome = judge(registration, known, places, rules, now)
    if outcome == "unchanged":
        return outcome, Peer(registration, row[1], row[2])
    since = seconds if row is None or outcome == "entered" else row[1]
    connection.execute(
        "INSERT OR REPLACE INTO registrations (peer, statement, number, listed, stays, since, "
        "seen) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            peer,
            registration.raw,
            registration.number,
            registration.listed,
            registration.stays,
            since,
            seconds,
        ),
    )
    return outcome, Peer(registration, since, seconds)


def everybody(
    connection: sqlite3.Connection, relay: PublicKey, networks: Collection[bytes]
) -> list[Peer]:
    """
    Forget those that were registered at another relay, or in another network, than this is now.

    @return: all that are registered, in the order of their keys.
    """
    found, others = [], []
    for key, raw, stays, since, seen in connection.execute(
        "SELECT peer, statement, stays, since, seen FROM registrations ORDER BY peer"
    ):
        registration = Registration.reopen(raw)
        if registration.relay != relay or registration.network not in networks:
            others.append((key,))
        elif stays:
            found.append(Peer(registration, since, seen))
    connection.executemany("DELETE FROM registrations WHERE peer = ?", others)
    return found


def directory(connection: sqlite3.Connection, after: bytes, limit: int) -> Listing:
    """
    @param after: key of the last peer that is not wanted again; empty at first.
    @param limit: how many at most.
    @return: those that are listed.
    """
    rows = connection.execute(
        "SELECT statement, since, seen FROM registrations "
        "WHERE listed AND stays AND peer > ? ORDER BY peer LIMIT ?",
        (after, limit + 1),
    ).fetchall()
    (total,) = connection.execute(
        "SELECT count(*) FROM registrations WHERE listed AND stays"
    ).fetchone()
    peers = [Peer(Registration.reopen(raw), since, seen) for raw, since, seen in rows[:limit]]
    return Listing(tuple(peers), total, len(rows) > limit)


def note_seen(connection: sqlite3.Connection, seen: Iterable[tuple[bytes, int]]) -> None:
    """@param seen: keys, and when, in seconds of Unix time."""
    connection.executemany(
        "UPDATE registrations SET seen = max(seen, ?) WHERE peer = ?",
        [(when, key) for key, when in seen],
    )


def remove(connection: sqlite3.Connection, peer: bytes) -> bool:
    """
    Forget a peer.  It can register again, with a newer statement, if the rules let it.

    @return: was it registered?
    """
    row = connection.execute(
        "UPDATE registrations SET stays = 0 WHERE peer = ? AND stays RETURNING peer", (peer,)
    ).fetchone()
    return row is not None


def sweep(connection: sqlite3.Connection, now: int, idle: int | None) -> list[PublicKey]:
    """
    Forget those that have left long enough ago, and those that have not come for long.

    @param now: milliseconds since 1970.
    @param idle: seconds after which a peer is forgotten that was not there; L{None}: never.
    @return: the latter, in the order of their keys.
    """
    connection.execute(
        "DELETE FROM registrations WHERE peer IN (SELECT peer FROM registrations "
        "WHERE NOT stays AND number < ? ORDER BY number LIMIT ?)",
        (now - KEPT, MAX_SWEPT),
    )
    if idle is None:
        return []
    rows = connection.execute(
        "SELECT peer FROM registrations WHERE stays AND seen < ? ORDER BY seen, peer LIMIT ?",
        (now // 1000 - idle, MAX_SWEPT),
    ).fetchall()
    connection.executemany("DELETE FROM registrations WHERE peer = ?", rows)
    return [PublicKey(peer) for (peer,) in sorted(rows)]
