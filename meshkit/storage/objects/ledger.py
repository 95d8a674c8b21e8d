"""
What a node knows of the objects that it has given away, in SQLite.

Without it they are lost: it has the keys, and where the shares are before anybody else knows.

All but L{MIGRATIONS} are functions of an open connection, and are run by
L{meshkit.runtime.database.Database}: the writing ones on its one writer thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from attrs import evolve, field, frozen

from meshkit.errors import NotFound, ObjectAmbiguous, Overloaded, PlacementConflict
from meshkit.storage.capability import ReadCapability
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import PlacementDocument, Status
from meshkit.storage.terms import LEASE_SECONDS

MIGRATIONS: Final = (
    """
    -- Objects of this node.  content_key opens the object; removing it, it is NULL for ever.
    -- document is the signed placement document of that version.  Leases are renewed at
    -- renew_at, seconds of Unix time, and after that until it is done.  publish_at: when what
    -- is found in the hash table has to be published; NULL if that was done.  removed_at: when
    -- it was given up.
    CREATE TABLE storage_objects (
        content_id BLOB PRIMARY KEY NOT NULL,
        name TEXT NOT NULL,
        added_ns INTEGER NOT NULL,
        manifest BLOB NOT NULL,
        content_key BLOB,
        status TEXT NOT NULL,
        version INTEGER NOT NULL,
        document BLOB NOT NULL,
        renew_at INTEGER,
        publish_at INTEGER,
        removed_at INTEGER
    ) STRICT;
    CREATE INDEX storage_objects_by_time ON storage_objects (added_ns, content_id);
    CREATE INDEX storage_objects_to_renew ON storage_objects (renew_at)
        WHERE renew_at IS NOT NULL;
    CREATE INDEX storage_objects_to_publish ON storage_objects (publish_at)
        WHERE publish_at IS NOT NULL;
    CREATE INDEX storage_objects_removed ON storage_objects (removed_at)
        WHERE removed_at IS NOT NULL;

    -- Leases to give up, at peers that were not reached when it was to be done.  Nobody asks
    -- any more after lease_end, seconds of Unix time.
    CREATE TABLE storage_releases (
        upload BLOB NOT NULL,
        number INTEGER NOT NULL,
        peer BLOB NOT NULL,
        lease_end INTEGER NOT NULL,
        due INTEGER NOT NULL,
        PRIMARY KEY (upload, number, peer)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX storage_releases_due ON storage_releases (due);

    -- Transfers: those that wait, or run, which is not written down; and the last that ended.
    -- object and content_key are what is got; of a put, object is what came of it.
    CREATE TABLE storage_transfers (
        id BLOB PRIMARY KEY NOT NULL,
        number INTEGER NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        path TEXT NOT NULL,
        scheme TEXT,
        replace_it INTEGER NOT NULL,
        object BLOB,
        content_key BLOB,
        begun_ns INTEGER NOT NULL,
        ended_ns INTEGER,
        result BLOB,
        error_code TEXT,
        error TEXT
    ) STRICT;
    CREATE INDEX storage_transfers_open ON storage_transfers (number)
        WHERE state = 'waiting';
    """,
    """
    -- base is where the shares were before this node has moved some and has not yet heard that
    -- others know, as the payload of a placement document; NULL if there are none.
    ALTER TABLE storage_objects ADD COLUMN base BLOB;

    -- Of what the secret of the lease is made; NULL for all leases that follow from the storage
    -- secret of this node, that of the owner and that of whoever repairs.
    ALTER TABLE storage_releases ADD COLUMN lease_root BLOB;

    -- Objects of others that were handed over to be looked after.  seed is that of the key
    -- that signs where the shares are.  The other columns are as in storage_objects.
    CREATE TABLE storage_watched (
        content_id BLOB PRIMARY KEY NOT NULL,
        added_ns INTEGER NOT NULL,
        manifest BLOB NOT NULL,
        seed BLOB NOT NULL,
        version INTEGER NOT NULL,
        document BLOB NOT NULL,
        base BLOB,
        renew_at INTEGER,
        publish_at INTEGER
    ) STRICT;
    CREATE INDEX storage_watched_to_renew ON storage_watched (renew_at)
        WHERE renew_at IS NOT NULL;
    CREATE INDEX storage_watched_to_publish ON storage_watched (publish_at)
        WHERE publish_at IS NOT NULL;
    """,
)

#: Characters of a prefix by which an object may be called.
MIN_PREFIX: Final = 8
#: Transfers that have ended, and are remembered.
MAX_ENDED: Final = 1_000

_OBJECT: Final = (
    "content_id, name, added_ns, manifest, content_key, status, version, document, renew_at"
)
_ENTRY: Final = f"{_OBJECT}, base"
_RELEASE: Final = "upload, number, peer, lease_end, lease_root"
_TRANSFER: Final = (
    "id, number, kind, state, path, scheme, replace_it, object, content_key, begun_ns, "
    "ended_ns, result, error_code, error"
)

#: What the pragma says -> how it is set.
_SECURE_DELETE: Final = {0: "OFF", 1: "ON", 2: "FAST"}

TransferKind = Literal["put", "get"]
TransferState = Literal["waiting", "done", "failed", "cancelled"]


# --- objects -----------------------------------------------------------------------


@frozen
class Entry:
    """
    An object of this node.

    @ivar name: what the file was called, without its folder.
    @ivar added_ns: when it was put, in nanoseconds since 1970.
    @ivar manifest: what it is.
    @ivar key: what opens it; L{None} once it was removed.
    @ivar document: where its shares are.
    @ivar signed: the same, signed.
    @ivar renew_at: when its leases are to be renewed, in seconds of Unix time.
    @ivar base: where the shares were before some were moved here of which others may not know.
    """

    name: str
    added_ns: int
    manifest: Manifest
    key: bytes | None = field(repr=False)
    document: PlacementDocument
    signed: bytes = field(repr=False)
    renew_at: int | None
    base: PlacementDocument | None = None

    @property
    def content_id(self) -> bytes:
        """By which it is found."""
        return self.manifest.content_id

    @property
    def status(self) -> Status:
        """C{live}, or C{deleted}."""
        return self.document.status

    @property
    def capability(self) -> ReadCapability | None:
        """Who has it reads the object."""
        return None if self.key is None else ReadCapability(self.content_id, self.key)


def _entry(row: Any) -> Entry:
    _content_id, name, added_ns, raw, key, _status, _version, signed, renew_at, base = row
    manifest = Manifest.decode(raw)
    document = PlacementDocument.reopen(signed)
    return Entry(name, added_ns, manifest, key, document, signed, renew_at, base_of(base))


def base_of(payload: bytes | None) -> PlacementDocument | None:
    """@return: what a column C{base} holds."""
    return None if payload is None else PlacementDocument.decode(payload)


def add(connection: sqlite3.Connection, entry: Entry, publish_at: int | None) -> None:
    """
    Write an object down.  One that is there already stays as it is: the same put, finished
    twice.

    @param publish_at: when it is to be published; L{None} if it is not to be.
    """
    connection.execute(
        f"INSERT OR IGNORE INTO storage_objects ({_OBJECT}, publish_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            entry.content_id,
            entry.name,
            entry.added_ns,
            entry.manifest.raw,
            entry.key,
            entry.status,
            entry.document.version,
            entry.signed,
            entry.renew_at,
            publish_at,
        ),
    )


def find(connection: sqlite3.Connection, content_id: bytes) -> Entry | None:
    """@return: an object, also one that was removed; L{None} if this node has none of that id."""
    row = connection.execute(
        f"SELECT {_ENTRY} FROM storage_objects WHERE content_id = ?", (content_id,)
    ).fetchone()
    return None if row is None else _entry(row)


def resolve(connection: sqlite3.Connection, prefix: str) -> bytes:
    """
    The object that somebody calls by the beginning of its id.

    @param prefix: at least L{MIN_PREFIX} lower-case hex digits.
    @raise NotFound: if this node has none.
    @raise ObjectAmbiguous: if it has several.
    """
    # Blobs compare byte by byte: an odd digit is tried with what may follow it.
    low = bytes.fromhex(prefix + "0" * (len(prefix) % 2))
    high = bytes.fromhex(prefix + "f" * (len(prefix) % 2)) + b"\xff" * (33 - len(prefix) // 2)
    rows = connection.execute(
        "SELECT content_id FROM storage_objects WHERE content_id BETWEEN ? AND ? "
        "ORDER BY content_id LIMIT 2",
        (low, high),
    ).fetchall()
    if not rows:
        raise NotFound(
            f"this node has no object {prefix}: see 'meshkit object ls', or give the read "
            f"capability of one that is somebody else's"
        )
    if len(rows) > 1:
        raise ObjectAmbiguous(f"several objects begin with {prefix}: give more digits")
    found: bytes = rows[0][0]
    return found


def page(
    connection: sqlite3.Connection, limit: int, offset: int, removed: bool
) -> tuple[list[Entry], int]:
    """
    @param removed: those that were removed, too.
    @return: a stretch of the objects, the newest first, and how many there are in all.
    """
    where = "" if removed else "WHERE status = 'live'"
    (total,) = connection.execute(f"SELECT count(*) FROM storage_objects {where}").fetchone()
    rows = connection.execute(
        f"SELECT {_ENTRY} FROM storage_objects {where} "
        "ORDER BY added_ns DESC, content_id LIMIT ? OFFSET ?",
        (limit, offset),
    )
    return [_entry(row) for row in rows], total


@frozen
class Totals:
    """
    @ivar objects: those that are there.
    @ivar publishing: objects that are still to be published, those of others too.
    @ivar renewing: objects whose leases are due to be renewed.
    @ivar releases: leases that are to be given up at peers that were not reached.
    @ivar watched: objects of others that are looked after.
    """

    objects: int
    publishing: int
    renewing: int
    releases: int
    watched: int = 0


def totals(connection: sqlite3.Connection, now: int) -> Totals:
    """@param now: seconds of Unix time."""

    def count(query: str, *values: object) -> int:
        (found,) = connection.execute(f"SELECT count(*) FROM {query}", values).fetchone()
        return int(found)

    return Totals(
        count("storage_objects WHERE status = 'live'"),
        # What was removed is published again and again.
        count(
            "storage_objects WHERE publish_at <= ? OR publish_at > ? AND status = 'live'", now, now
        )
        + count("storage_watched WHERE publish_at IS NOT NULL"),
        count("storage_objects WHERE renew_at <= ?", now),
        count("storage_releases"),
        count("storage_watched"),
    )


def swap(
    connection: sqlite3.Connection,
    entry: Entry,
    document: PlacementDocument,
    signed: bytes,
    *,
    renew_at: int | None,
    publish_at: int | None,
) -> None:
    """
    Replace the placement document of an object, if it is still the one that was read.

    @param entry: as it was read.
    @param document: of its next version.
    @param signed: the same, signed.
    @raise PlacementConflict: if another one is there by now, or this one does not follow it.
    """
    replace(
        connection,
        entry,
        document,
        signed,
        base=entry.document if entry.base is None else entry.base,
        renew_at=renew_at,
        publish_at=publish_at,
    )


def replace(
    connection: sqlite3.Connection,
    entry: Entry,
    document: PlacementDocument,
    signed: bytes,
    *,
    base: PlacementDocument | None,
    renew_at: int | None,
    publish_at: int | None,
) -> None:
    """
    As L{swap}.

    @param base: see L{Entry}.
    """
    entry.document.check_successor(document)
    done = connection.execute(
        "UPDATE storage_objects SET version = ?, document = ?, status = ?, base = ?, "
        "renew_at = ?, publish_at = ? WHERE content_id = ? AND version = ?",
        (
            document.version,
            signed,
            document.status,
            None if base is None else base.payload,
            renew_at,
            publish_at,
            entry.content_id,
            entry.document.version,
        ),
    )
    if done.rowcount != 1:
        raise conflict(entry.content_id)


def conflict(content_id: bytes) -> PlacementConflict:
    """@return: what says that somebody else was faster."""
    return PlacementConflict(
        f"where the shares of {content_id.hex()[:16]}... are was changed meanwhile: "
        f"read it again, then repeat the change"
    )


def live(connection: sqlite3.Connection, after: bytes, limit: int) -> list[Entry]:
    """
    @param after: an id; those behind it are given.
    @return: objects that are there, in the order of their ids.
    """
    rows = connection.execute(
        f"SELECT {_ENTRY} FROM storage_objects WHERE content_id > ? AND status = 'live' "
        "ORDER BY content_id LIMIT ?",
        (after, limit),
    )
    return [_entry(row) for row in rows]


def remove(
    connection: sqlite3.Connection,
    entry: Entry,
    document: PlacementDocument,
    signed: bytes,
    now: int,
    publish_at: int | None,
) -> None:
    """
    Give an object up: its key is gone, and its leases are to be given up.

    @param entry: as it was read.
    @param document: that says so.
    @param now: seconds of Unix time: from now on the leases are due to be given up.
    @raise PlacementConflict: as L{swap}.
    """
    # What the key leaves behind in the file is overwritten.  Usually that is so or not as SQLite
    # was built.
    (usual,) = connection.execute("PRAGMA secure_delete").fetchone()
    connection.execute("PRAGMA secure_delete = ON")
    try:
        swap(connection, entry, document, signed, renew_at=None, publish_at=publish_at)
        connection.execute(
            "UPDATE storage_objects SET content_key = NULL, removed_at = ? WHERE content_id = ?",
            (now, entry.content_id),
        )
    finally:
        connection.execute(f"PRAGMA secure_delete = {_SECURE_DELETE[usual]}")
    upload = entry.manifest.header.upload
    release(connection, releases_of(upload, entry.document), now)
    hasten(connection, upload, range(len(document.shares)), now)


def forgettable(connection: sqlite3.Connection, before: int, limit: int) -> list[Entry]:
    """
    @param before: seconds of Unix time.
    @return: objects that were removed before.
    """
    rows = connection.execute(
        f"SELECT {_ENTRY} FROM storage_objects WHERE removed_at < ? "
        "ORDER BY removed_at, content_id LIMIT ?",
        (before, limit),
    )
    return [_entry(row) for row in rows]


def forget(connection: sqlite3.Connection, content_id: bytes) -> None:
    """Forget an object that was removed."""
    connection.execute(
        "DELETE FROM storage_objects WHERE content_id = ? AND removed_at IS NOT NULL",
        (content_id,),
    )


# --- what is due ---------------------------------------------------------------------


def due_to_renew(connection: sqlite3.Connection, now: int, limit: int) -> list[Entry]:
    """
    @param now: seconds of Unix time.
    @return: objects whose leases are to be renewed, those that wait longest first.
    """
    rows = connection.execute(
        f"SELECT {_ENTRY} FROM storage_objects WHERE renew_at <= ? "
        "ORDER BY renew_at, content_id LIMIT ?",
        (now, limit),
    )
    return [_entry(row) for row in rows]


def set_renewal(connection: sqlite3.Connection, entry: Entry, renew_at: int | None) -> None:
    """
    Nothing came of it, or nothing changed: renew the leases at another time.

    @param entry: as it was read.
    @raise PlacementConflict: if another version is there by now: its time counts.
    """
    done = connection.execute(
        "UPDATE storage_objects SET renew_at = ? WHERE content_id = ? AND version = ? "
        "AND renew_at IS NOT NULL",
        (renew_at, entry.content_id, entry.document.version),
    )
    if done.rowcount != 1:
        raise conflict(entry.content_id)


def due_to_publish(connection: sqlite3.Connection, now: int, limit: int) -> list[Entry]:
    """As L{due_to_renew}, of what is to be published."""
    rows = connection.execute(
        f"SELECT {_ENTRY} FROM storage_objects WHERE publish_at <= ? "
        "ORDER BY publish_at, content_id LIMIT ?",
        (now, limit),
    )
    return [_entry(row) for row in rows]


def next_to_publish(connection: sqlite3.Connection, after: int) -> int | None:
    """
    @param after: seconds of Unix time.
    @return: when something is to be published for the first time after that, of this node's or
        of what it looks after; L{None} if nothing is.
    """
    times = [
        time
        for table in ("storage_objects", "storage_watched")
        for (time,) in connection.execute(
            f"SELECT min(publish_at) FROM {table} WHERE publish_at > ?", (after,)
        )
        if time is not None
    ]
    return min(times, default=None)


def set_publish(
    connection: sqlite3.Connection, content_id: bytes, version: int, publish_at: int | None
) -> None:
    """
    @param version: of what was published; if there is another one, that is still to be.
    @param publish_at: when to try again; L{None} if it was done.
    """
    connection.execute(
        "UPDATE storage_objects SET publish_at = ? WHERE content_id = ? AND version = ?",
        (publish_at, content_id, version),
    )


@frozen
class Release:
    """
    A lease to give up.

    @ivar upload: of the object's header.
    @ivar number: of the share.
    @ivar peer: who keeps it, 32 bytes.
    @ivar lease_end: when it ends by itself, in seconds of Unix time.
    @ivar lease_root: of what its secret is made; L{None} for all leases that follow from the
        storage secret of this node: that of the owner, and that of whoever repairs.
    """

    upload: bytes = field(repr=False)
    number: int
    peer: bytes
    lease_end: int
    lease_root: bytes | None = field(default=None, repr=False)


def releases_of(upload: bytes, document: PlacementDocument) -> list[Release]:
    """@return: all leases of an object of this node, also those of whoever repairs."""
    return [
        Release(upload, number, placed.peer.raw, placed.lease_end)
        for number, placed in enumerate(document.shares)
        if placed is not None
    ]


def release(connection: sqlite3.Connection, releases: Sequence[Release], due: int) -> None:
    """
    Note leases that are to be given up, or when to try again.

    @param due: seconds of Unix time.
    """
    connection.executemany(
        f"INSERT OR REPLACE INTO storage_releases ({_RELEASE}, due) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (each.upload, each.number, each.peer, each.lease_end, each.lease_root, due)
            for each in releases
        ],
    )


def release_moved(
    connection: sqlite3.Connection,
    manifest: Manifest,
    before: PlacementDocument,
    after: PlacementDocument,
    lease_root: bytes,
    now: int,
    *,
    by_us: bool,
) -> None:
    """
    Note that the leases of the shares that were moved are to be given up where these were; and
    that none is to be where they are now, as a share may come back to a peer that was not
    reached when it was to be given up there.

    @param before: where the shares were.
    @param after: where they are.
    @param lease_root: see L{Release}.
    @param now: seconds of Unix time.
    @param by_us: this node has moved them, and has a lease on each where it is.  Otherwise the
        old ones are kept until it has one (L{hasten}), or they end: what others say of a
        place may not be so any more.
    """
    upload = manifest.header.upload
    connection.executemany(
        "DELETE FROM storage_releases WHERE upload = ? AND number = ? AND peer = ?",
        [
            (upload, number, placed.peer.raw)
            for number, placed in enumerate(after.shares)
            if placed is not None
        ],
    )
    end = now + LEASE_SECONDS
    moved = [
        Release(upload, number, was.peer.raw, was.lease_end if by_us else end, lease_root)
        for number, (was, placed) in enumerate(zip(before.shares, after.shares, strict=True))
        if was is not None and (placed is None or placed.peer != was.peer)
    ]
    release(connection, moved, now if by_us else end)


def hasten(connection: sqlite3.Connection, upload: bytes, numbers: Iterable[int], now: int) -> None:
    """
    This node needs no lease on these shares where they were: it has one where they are, or
    wants none any more.
    """
    connection.executemany(
        "UPDATE storage_releases SET due = ? WHERE upload = ? AND number = ? AND due > ?",
        [(now, upload, number, now) for number in numbers],
    )


def due_releases(connection: sqlite3.Connection, now: int, limit: int) -> list[Release]:
    """@return: leases to give up now."""
    rows = connection.execute(
        f"SELECT {_RELEASE} FROM storage_releases WHERE due <= ? "
        "ORDER BY due, upload, number, peer LIMIT ?",
        (now, limit),
    )
    return [Release(*row) for row in rows]


def released(connection: sqlite3.Connection, releases: Sequence[Release]) -> None:
    """These were given up, or have ended by themselves."""
    connection.executemany(
        "DELETE FROM storage_releases WHERE upload = ? AND number = ? AND peer = ?",
        [(each.upload, each.number, each.peer) for each in releases],
    )


# --- transfers -----------------------------------------------------------------------


@frozen
class Transfer:
    """
    Something that goes to the storage peers, or comes from them.

    @ivar id: 8 random bytes, by which it is called.
    @ivar number: counts up, in the order in which they were asked for.
    @ivar kind: C{put} or C{get}.
    @ivar state: C{waiting} until it has ended.
    @ivar path: the file, absolute.
    @ivar scheme: of a put: how the object is cut.
    @ivar replace: of a get: a file that is there is replaced.
    @ivar content_id: of the object; of a put L{None} until it is known.
    @ivar key: of a get of an object that is not this node's: what opens it.
    @ivar begun_ns: when it was asked for, in nanoseconds since 1970.
    @ivar ended_ns: when it ended.
    @ivar result: what came of it, as JSON.
    @ivar error_code: why it failed.
    @ivar error: likewise, a sentence.
    """

    id: bytes = field(repr=lambda id: id.hex())
    number: int
    kind: TransferKind
    state: TransferState
    path: str
    scheme: str | None = None
    replace: bool = False
    content_id: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    begun_ns: int = 0
    ended_ns: int | None = None
    result: bytes | None = None
    error_code: str | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Nothing more comes of it."""
        return self.state != "waiting"


def _transfer(row: Any) -> Transfer:
    found = list(row)
    found[6] = bool(found[6])
    return Transfer(*found)


def begin_transfer(connection: sqlite3.Connection, transfer: Transfer, limit: int) -> Transfer:
    """
    Write a transfer down, which waits from then on.

    @param limit: how many may wait or run.
    @return: it, with its number.
    @raise Overloaded: if so many do already.
    """
    (open_ones,) = connection.execute(
        "SELECT count(*) FROM storage_transfers WHERE state = 'waiting'"
    ).fetchone()
    if open_ones >= limit:
        raise Overloaded(f"{limit} transfers wait already: try again when some have ended")
    (last,) = connection.execute("SELECT max(number) FROM storage_transfers").fetchone()
    transfer = evolve(transfer, number=(last or 0) + 1, state="waiting")
    connection.execute(
        f"INSERT INTO storage_transfers ({_TRANSFER}) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            transfer.id,
            transfer.number,
            transfer.kind,
            transfer.state,
            transfer.path,
            transfer.scheme,
            int(transfer.replace),
            transfer.content_id,
            transfer.key,
            transfer.begun_ns,
            None,
            None,
            None,
            None,
        ),
    )
    return transfer


def find_transfer(connection: sqlite3.Connection, transfer_id: bytes) -> Transfer | None:
    """@return: a transfer, or L{None}."""
    row = connection.execute(
        f"SELECT {_TRANSFER} FROM storage_transfers WHERE id = ?", (transfer_id,)
    ).fetchone()
    return None if row is None else _transfer(row)


def list_transfers(connection: sqlite3.Connection, limit: int) -> list[Transfer]:
    """@return: the last transfers, the latest first."""
    rows = connection.execute(
        f"SELECT {_TRANSFER} FROM storage_transfers ORDER BY number DESC LIMIT ?", (limit,)
    )
    return [_transfer(row) for row in rows]


def open_transfers(connection: sqlite3.Connection) -> list[Transfer]:
    """@return: those that have not ended, in the order in which they were asked for."""
    rows = connection.execute(
        f"SELECT {_TRANSFER} FROM storage_transfers WHERE state = 'waiting' ORDER BY number"
    )
    return [_transfer(row) for row in rows]


def end_transfer(
    connection: sqlite3.Connection,
    transfer_id: bytes,
    state: TransferState,
    ended_ns: int,
    *,
    content_id: bytes | None = None,
    result: bytes | None = None,
    error_code: str | None = None,
    error: str | None = None,
) -> None:
    """
    A transfer has ended, one way or another.  The key that it was given is forgotten, and so
    are transfers that ended long before.
    """
    connection.execute(
        "UPDATE storage_transfers SET state = ?, ended_ns = ?, result = ?, error_code = ?, "
        "error = ?, content_key = NULL, object = coalesce(?, object) "
        "WHERE id = ? AND state = 'waiting'",
        (state, ended_ns, result, error_code, error, content_id, transfer_id),
    )
    connection.execute(
        "DELETE FROM storage_transfers WHERE state <> 'waiting' AND number <= "
        "(SELECT number FROM storage_transfers WHERE state <> 'waiting' "
        "ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (MAX_ENDED,),
    )
