"""
What a node knows of the objects of others that it looks after, in SQLite.

The table is one of L{meshkit.storage.objects.ledger.MIGRATIONS}.  Everything is a function of
an open connection, as there.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from attrs import field, frozen

from meshkit.errors import Overloaded
from meshkit.identity.keys import Identity
from meshkit.storage.custody import TrackedObject, repair_lease_root
from meshkit.storage.manifest import Manifest
from meshkit.storage.objects.ledger import base_of, conflict
from meshkit.storage.placement_document import PlacementDocument

#: Objects of others that a node looks after; some 2 KiB each, or 30 KiB with 255 shares.
MAX_WATCHED: Final = 100_000

_WATCHED: Final = "content_id, added_ns, manifest, seed, document, base, renew_at"


@frozen
class Watched:
    """
    An object of somebody else.

    @ivar manifest: what it is.
    @ivar seed: of the key that signs where its shares are.
    @ivar document: where they are.
    @ivar signed: the same, signed.
    @ivar added_ns: when it was handed over, in nanoseconds since 1970.
    @ivar renew_at: when its leases are to be renewed, in seconds of Unix time.
    @ivar base: where the shares were before some were moved here of which others may not know.
    """

    manifest: Manifest
    seed: bytes = field(repr=False)
    document: PlacementDocument
    signed: bytes = field(repr=False)
    added_ns: int
    renew_at: int | None
    base: PlacementDocument | None = None

    @property
    def content_id(self) -> bytes:
        """By which it is found."""
        return self.manifest.content_id

    @property
    def lease_root(self) -> bytes:
        """Of what the secrets of the leases are made that this node asks for."""
        return repair_lease_root(self.seed)

    def track(self) -> TrackedObject:
        """@return: the same, with what it takes to look after it."""
        return TrackedObject(
            self.manifest,
            self.document,
            self.signed,
            Identity(self.seed),
            self.lease_root,
            own=False,
        )


def _watched(row: Any) -> Watched:
    _content_id, added_ns, raw, seed, signed, base, renew_at = row
    manifest = Manifest.decode(raw)
    document = PlacementDocument.reopen(signed)
    return Watched(manifest, seed, document, signed, added_ns, renew_at, base_of(base))


def add(connection: sqlite3.Connection, watched: Watched, publish_at: int | None) -> None:
    """
    Write down that an object is looked after.  One that is already stays as it is.

    @raise Overloaded: if there are L{MAX_WATCHED}.
    """
    if find(connection, watched.content_id) is not None:
        return
    if count(connection) >= MAX_WATCHED:
        raise Overloaded(
            f"this node looks after {MAX_WATCHED} objects of others already: hand it to another, "
            f"or have this one look after fewer"
        )
    connection.execute(
        f"INSERT INTO storage_watched ({_WATCHED}, version, publish_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            watched.content_id,
            watched.added_ns,
            watched.manifest.raw,
            watched.seed,
            watched.signed,
            None if watched.base is None else watched.base.payload,
            watched.renew_at,
            watched.document.version,
            publish_at,
        ),
    )


def count(connection: sqlite3.Connection) -> int:
    """@return: how many there are."""
    (found,) = connection.execute("SELECT count(*) FROM storage_watched").fetchone()
    return int(found)


def find(connection: sqlite3.Connection, content_id: bytes) -> Watched | None:
    """@return: an object that is looked after; L{None} if it is none of them."""
    row = connection.execute(
        f"SELECT {_WATCHED} FROM storage_watched WHERE content_id = ?", (content_id,)
    ).fetchone()
    return None if row is None else _watched(row)


def page(connection: sqlite3.Connection, after: bytes, limit: int) -> list[Watched]:
    """
    @param after: an id; those behind it are given.
    @return: objects in the order of their ids.
    """
    rows = connection.execute(
        f"SELECT {_WATCHED} FROM storage_watched WHERE content_id > ? ORDER BY content_id LIMIT ?",
        (after, limit),
    )
    return [_watched(row) for row in rows]


def listed(connection: sqlite3.Connection, limit: int, offset: int) -> list[Watched]:
    """
    @param offset: how many to skip.
    @return: objects in the order of their ids.
    """
    rows = connection.execute(
        f"SELECT {_WATCHED} FROM storage_watched ORDER BY content_id LIMIT ? OFFSET ?",
        (limit, offset),
    )
    return [_watched(row) for row in rows]


def replace(
    connection: sqlite3.Connection,
    watched: Watched,
    document: PlacementDocument,
    signed: bytes,
    *,
    base: PlacementDocument | None,
    renew_at: int | None,
    publish_at: int | None,
) -> None:
    """As L{meshkit.storage.objects.ledger.replace}."""
    watched.document.check_successor(document)
    done = connection.execute(
        "UPDATE storage_watched SET version = ?, document = ?, base = ?, renew_at = ?, "
        "publish_at = ? WHERE content_id = ? AND version = ?",
        (
            document.version,
            signed,
            None if base is None else base.payload,
            renew_at,
            publish_at,
            watched.content_id,
            watched.document.version,
        ),
    )
    if done.rowcount != 1:
        raise conflict(watched.content_id)


def remove(connection: sqlite3.Connection, content_id: bytes) -> bool:
    """
    Look after an object no more.

    @return: whether it was looked after.
    """
    done = connection.execute("DELETE FROM storage_watched WHERE content_id = ?", (content_id,))
    return done.rowcount == 1


# --- what is due ---------------------------------------------------------------------


def due_to_renew(connection: sqlite3.Connection, now: int, limit: int) -> list[Watched]:
    """
    @param now: seconds of Unix time.
    @return: objects whose leases are to be renewed, those that wait longest first.
    """
    rows = connection.execute(
        f"SELECT {_WATCHED} FROM storage_watched WHERE renew_at <= ? "
        "ORDER BY renew_at, content_id LIMIT ?",
        (now, limit),
    )
    return [_watched(row) for row in rows]


def set_renewal(
    connection: sqlite3.Connection, watched: Watched, renew_at: int, publish_at: int
) -> None:
    """
    The document stays as it is, and the leases are to be renewed at another time.

    @param watched: as it was read.
    @param publish_at: when it is to be published again.
    @raise PlacementConflict: if another version is there by now: its time counts.
    """
    done = connection.execute(
        "UPDATE storage_watched SET renew_at = ?, publish_at = ? "
        "WHERE content_id = ? AND version = ?",
        (renew_at, publish_at, watched.content_id, watched.document.version),
    )
    if done.rowcount != 1:
        raise conflict(watched.content_id)


def due_to_publish(connection: sqlite3.Connection, now: int, limit: int) -> list[Watched]:
    """As L{due_to_renew}, of what is to be published."""
    rows = connection.execute(
        f"SELECT {_WATCHED} FROM storage_watched WHERE publish_at <= ? "
        "ORDER BY publish_at, content_id LIMIT ?",
        (now, limit),
    )
    return [_watched(row) for row in rows]


def set_publish(
    connection: sqlite3.Connection, content_id: bytes, version: int, publish_at: int | None
) -> None:
    """As L{meshkit.storage.objects.ledger.set_publish}."""
    connection.execute(
        "UPDATE storage_watched SET publish_at = ? WHERE content_id = ? AND version = ?",
        (publish_at, content_id, version),
    )
