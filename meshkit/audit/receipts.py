"""
The receipts of audits that are kept, in SQLite, as they are given to anybody who wants to verify
them.

There is a limit to their number and their bytes.  Receipts of audits in which all was well go
first, the oldest of them; those of failures, which are what somebody may want to be shown, only
when there are no others.  And of one peer only the last few failures are kept, so that nobody
washes away what others did.

All but the class are functions of an open connection, and are run by
L{meshkit.runtime.database.Database}: the writing ones on its one writer thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from attrs import field, frozen
from twisted.internet.defer import Deferred

from meshkit.errors import NotFound
from meshkit.identity.keys import PublicKey
from meshkit.runtime.database import Database

__all__ = [
    "MAX_BYTES",
    "MAX_FAILED_EACH",
    "MAX_RECEIPTS",
    "KeptReceipt",
    "Receipts",
    "find_receipt",
    "list_receipts",
]

#: Receipts that are kept.
MAX_RECEIPTS: Final = 10_000
#: Bytes of them.
MAX_BYTES: Final = 256 * 2**20
#: Receipts of failures that are kept of one peer.
MAX_FAILED_EACH: Final = 100

_RECEIPT: Final = "audit_id, peer, judged, outcomes, size"


@frozen
class KeptReceipt:
    """
    A receipt that is kept.

    @ivar audit_id: of the audit.
    @ivar peer: who was asked.
    @ivar judged: when, in seconds of Unix time.
    @ivar outcomes: how many of the shares had which outcome; those that none had are left out.
    @ivar size: bytes of the file.
    """

    audit_id: bytes = field(repr=lambda audit_id: audit_id.hex())
    peer: PublicKey
    judged: int
    outcomes: Mapping[str, int]
    size: int

    @property
    def failed(self) -> bool:
        """Did one of the shares fail?"""
        return self.outcomes.get("failure", 0) > 0


def _kept(row: Any) -> KeptReceipt:
    audit_id, peer, judged, outcomes, size = row
    return KeptReceipt(
        audit_id,
        PublicKey(peer),
        judged,
        msgspec.json.decode(outcomes, type=dict[str, int]),
        size,
    )


def keep(
    connection: sqlite3.Connection,
    receipt: KeptReceipt,
    body: bytes,
    *,
    limit: int = MAX_RECEIPTS,
    limit_bytes: int = MAX_BYTES,
    limit_failed: int = MAX_FAILED_EACH,
) -> None:
    """
    Keep a receipt, in place of the one of the same audit, if there is one; and drop those for
    which there is no room any more.

    @param body: the file.
    """
    (last,) = connection.execute("SELECT max(number) FROM audit_receipts").fetchone()
    connection.execute(
        f"INSERT OR REPLACE INTO audit_receipts ({_RECEIPT}, number, failed, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            receipt.audit_id,
            receipt.peer.raw,
            receipt.judged,
            msgspec.json.encode(receipt.outcomes).decode("ascii"),
            len(body),
            (last or 0) + 1,
            int(receipt.failed),
            body,
        ),
    )
    connection.execute(
        "DELETE FROM audit_receipts WHERE peer = ? AND failed = 1 AND number <= "
        "(SELECT number FROM audit_receipts WHERE peer = ? AND failed = 1 "
        "ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (receipt.peer.raw, receipt.peer.raw, limit_failed),
    )
    _drop(connection, limit, limit_bytes)


def _drop(connection: sqlite3.Connection, limit: int, limit_bytes: int) -> None:
    count, size = connection.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM audit_receipts"
    ).fetchone()
    if count <= limit and size <= limit_bytes:
        return
    gone = []
    for number, taken in connection.execute(
        "SELECT number, size FROM audit_receipts ORDER BY failed, number"
    ):
        if count <= limit and size <= limit_bytes:
            break
        gone.append((number,))
        count, size = count - 1, size - taken
    connection.executemany("DELETE FROM audit_receipts WHERE number = ?", gone)


def find_receipt(connection: sqlite3.Connection, audit_id: bytes) -> bytes:
    """
    @return: the file.
    @raise NotFound: if it is not kept.
    """
    row = connection.execute(
        "SELECT body FROM audit_receipts WHERE audit_id = ?", (audit_id,)
    ).fetchone()
    if row is None:
        raise NotFound(
            f"no receipt of the audit {audit_id.hex()} is kept: see 'meshkit audit receipts' for "
            f"those that are"
        )
    found: bytes = row[0]
    return found


def list_receipts(
    connection: sqlite3.Connection, limit: int, peer: PublicKey | None = None
) -> list[KeptReceipt]:
    """
    @param peer: only those of audits of this one.
    @return: what there is of receipts, the latest first.
    """
    where, values = ("WHERE peer = ? ", (peer.raw,)) if peer is not None else ("", ())
    rows = connection.execute(
        f"SELECT {_RECEIPT} FROM audit_receipts {where}ORDER BY number DESC LIMIT ?",
        (*values, limit),
    )
    return [_kept(row) for row in rows]


class Receipts:
    """See the module.  For the reactor's thread."""

    def __init__(
        self,
        database: Database,
        *,
        limit: int = MAX_RECEIPTS,
        limit_bytes: int = MAX_BYTES,
        limit_failed: int = MAX_FAILED_EACH,
    ) -> None:
        """
        @param database: with the tables of L{meshkit.audit.schema}.
        @param limit: how many are kept.
        @param limit_bytes: and bytes of them.
        @param limit_failed: how many failures of one peer are.
        """
        self._database = database
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._limit_failed = limit_failed

    def keep(
        self,
        audit_id: bytes,
        peer: PublicKey,
        judged: int,
        outcomes: Mapping[str, int],
        body: bytes,
    ) -> Deferred[None]:
        """
        @param judged: when, in seconds of Unix time.
        @param outcomes: how many of the shares had which outcome.
        @param body: the file.
        @return: Deferred that fires when it is on the disk.  Fails as the database does.
        """
        counts = {name: count for name, count in sorted(outcomes.items()) if count}
        receipt = KeptReceipt(audit_id, peer, judged, counts, len(body))
        return self._database.write(
            lambda db: keep(
                db,
                receipt,
                body,
                limit=self._limit,
                limit_bytes=self._limit_bytes,
                limit_failed=self._limit_failed,
            )
        )

    def find(self, audit_id: bytes) -> Deferred[bytes]:
        """@return: Deferred of the file.  Fails with L{NotFound} if it is not kept."""
        return self._database.read(lambda db: find_receipt(db, audit_id))

    def list(self, limit: int, peer: PublicKey | None = None) -> Deferred[list[KeptReceipt]]:
        """@return: Deferred of what there is of receipts, the latest first."""
        return self._database.read(lambda db: list_receipts(db, limit, peer))
