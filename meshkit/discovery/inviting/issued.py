"""
The invites that this node has made, and who has used them.

A use is a transaction: whether one is left is looked up and taken in one step on the thread
that writes, and synced before anybody is told the secret.  So of two newcomers who come at the
same moment with the last use, one is refused; and no crash gives a use back.

Whoever has used an invite may ask again with it, as its answer may have been lost on the way,
and that counts once.  So a use belongs to a key, and not to a connection.  It is of the network
that was told then: when that has got another secret, to be rid of a member, that member is not told
the new one for what it has used.

What is over is still told from what never was, for L{KEPT_AFTER}: who comes late is to hear
that, and not that the invite is forged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from random import Random
from typing import Any, Final

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred

from meshkit.discovery.invites import CODE_BYTES, code_digest
from meshkit.errors import InviteExpired, InviteUnknown, InviteUsed, NotFound, Overloaded
from meshkit.identity.keys import PublicKey
from meshkit.parts import shield

#: Invites that are kept, those that are over among them.
MAX_INVITES: Final = 1_000
#: How often one may be used.
MAX_USES: Final = 1_000
#: The longest that one may be good for, in seconds: a year.
MAX_LIFETIME: Final = 365 * 86_400
#: Seconds that one is remembered after it has expired.
KEPT_AFTER: Final = 30 * 86_400
MAX_NOTE: Final = 200

_ID_BYTES: Final = 8
_SECOND_NS: Final = 10**9

MIGRATIONS: Final = (
    """
    -- digest: SHA-256 of the code, which is kept nowhere.  expires: seconds of Unix time, or
    -- NULL.  network: public name of the one whose secret was given out.
    CREATE TABLE invites_issued (
        id TEXT PRIMARY KEY NOT NULL,
        digest BLOB NOT NULL UNIQUE,
        created_ns INTEGER NOT NULL,
        expires INTEGER,
        uses INTEGER NOT NULL,
        note TEXT NOT NULL
    ) STRICT;

    CREATE TABLE invites_used (
        id TEXT NOT NULL REFERENCES invites_issued (id) ON DELETE CASCADE,
        peer BLOB NOT NULL,
        used_ns INTEGER NOT NULL,
        network BLOB NOT NULL,
        PRIMARY KEY (id, peer)
    ) STRICT, WITHOUT ROWID;
    """,
)


@frozen
class Use:
    """
    @ivar peer: who has used it.
    @ivar used_ns: when, nanoseconds since 1970.
    """

    peer: PublicKey
    used_ns: int


@frozen
class Issued:
    """
    One invite that was made here.

    @ivar id: 16 hex digits, no secret: by which people and programs name it.
    @ivar digest: L{code_digest} of its code.
    @ivar created_ns: nanoseconds since 1970.
    @ivar expires: seconds since 1970; L{None} for no end.
    @ivar uses: by how many it may be used.
    @ivar note: what it was made for.
    @ivar used: by whom it was, the first one first.
    """

    id: str
    digest: bytes
    created_ns: int
    expires: int | None
    uses: int
    note: str
    used: tuple[Use, ...] = ()

    def expired(self, now_ns: int) -> bool:
        """@param now_ns: nanoseconds since 1970."""
        return self.expires is not None and now_ns >= self.expires * _SECOND_NS

    def state(self, now_ns: int) -> str:
        """C{open}, C{used} or C{expired}, at a time."""
        if len(self.used) >= self.uses:
            return "used"
        return "expired" if self.expired(now_ns) else "open"

    def forgotten(self, now_ns: int) -> bool:
        """Has it been over for so long that nobody needs to know of it?"""
        return self.expires is not None and now_ns >= (self.expires + KEPT_AFTER) * _SECOND_NS


@define(eq=False)
class InviteBook:
    """
    See the module.  Call L{load} once the database runs.

    @ivar database: L{meshkit.runtime.database.Database}.
    @ivar wall_clock: nanoseconds since 1970.
    @ivar rng: makes the codes.
    """

    database: Any
    wall_clock: Callable[[], int]
    rng: Random
    # What is in the database, so that a code that nobody was given costs no read.
    _by_digest: dict[bytes, Issued] = field(factory=dict, init=False)

    def load(self) -> Deferred[None]:
        """@return: Deferred that fires when what is in the database is known."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        self._by_digest = {each.digest: each for each in await self.database.read(_read_all)}

    def __len__(self) -> int:
        return len(self._by_digest)

    @property
    def answering(self) -> bool:
        """Is there one that somebody could come with, be it to hear that it is over?"""
        now_ns = self.wall_clock()
        return any(not each.forgotten(now_ns) for each in self._by_digest.values())

    def all(self) -> list[Issued]:
        """Every invite that is kept, the oldest first."""
        return sorted(self._by_digest.values(), key=lambda each: (each.created_ns, each.id))

    def issue(
        self, uses: int = 1, lifetime: int | None = None, note: str = ""
    ) -> Deferred[tuple[Issued, bytes]]:
        """
        Make an invite.

        @param uses: 1 to L{MAX_USES}.
        @param lifetime: seconds from now, 1 to L{MAX_LIFETIME}; L{None} for no end.
        @param note: at most L{MAX_NOTE} characters.
        @return: Deferred of it and its code, which nobody can learn later; fired when it is on
            the disk.  Fails with L{Overloaded} if there are too many that are not over.
        """
        if not 1 <= uses <= MAX_USES:
            raise ValueError(f"an invite is for 1 to {MAX_USES} uses, not {uses}")
        if lifetime is not None and not 1 <= lifetime <= MAX_LIFETIME:
            raise ValueError(f"an invite is good for 1 to {MAX_LIFETIME} seconds")
        if len(note) > MAX_NOTE:
            raise ValueError(f"a note has at most {MAX_NOTE} characters")
        return shield(self._issue(uses, lifetime, note))

    async def _issue(self, uses: int, lifetime: int | None, note: str) -> tuple[Issued, bytes]:
        now_ns = self.wall_clock()
        expires = None if lifetime is None else now_ns // _SECOND_NS + lifetime
        code = self.rng.randbytes(CODE_BYTES)
        made = Issued(
            self.rng.randbytes(_ID_BYTES).hex(), code_digest(code), now_ns, expires, uses, note
        )
        gone = await self.database.write(lambda connection: _insert(connection, made))
        for digest in gone:
            self._by_digest.pop(digest, None)
        self._by_digest[made.digest] = made
        return made, code

    def use(self, code: bytes, peer: PublicKey, network: bytes) -> Deferred[Issued]:
        """
        Somebody has come with a code.

        @param peer: who, as proved.
        @param network: public name of the one whose secret it is to be given.
        @return: Deferred of the invite, fired when the use is on the disk.  Fails with
            L{InviteUnknown}, L{InviteExpired} or L{InviteUsed}; with that one, too, if it has
            used it in another network.
        """
        return shield(self._use(code_digest(code), peer, network))

    async def _use(self, digest: bytes, peer: PublicKey, network: bytes) -> Issued:
        now_ns = self.wall_clock()
        known = self._by_digest.get(digest)
        if known is None or known.forgotten(now_ns):
            raise InviteUnknown(
                "this node knows no such invite: whoever gave it to you has taken it back, or the "
                "node has forgotten it; ask for another one"
            )
        if known.expired(now_ns):
            raise InviteExpired("this invite has expired: ask for another one")
        use = Use(peer, now_ns)
        # Again, where nobody else can do the same at this moment.
        fresh = await self.database.write(
            lambda connection: _take(connection, known.id, use, network)
        )
        known = self._by_digest.get(digest, known)
        if fresh:
            known = evolve(known, used=(*known.used, use))
            if digest in self._by_digest:
                self._by_digest[digest] = known
        return known

    def revoke(self, id: str) -> Deferred[None]:
        """
        Take an invite back, used or not: it is good for nothing from now on.

        @return: Deferred fired when that is on the disk.  Fails with L{NotFound}; and with
            L{meshkit.errors.StorageFailed} if the disk refuses it: then the invite is good for
            nothing until the next start, and revoking it can be tried again.
        """
        return shield(self._revoke(id))

    async def _revoke(self, id: str) -> None:
        known = [each for each in self._by_digest.values() if each.id == id]
        # Before the disk: what is wrong with it is no reason to let anybody in.
        for each in known:
            del self._by_digest[each.digest]
        if not await self.database.write(lambda connection: _delete(connection, id)):
            raise NotFound(f"there is no invite {id!r}: see 'meshkit invite list'")


def forget_all(connection: sqlite3.Connection) -> None:
    """
    Take the invites out of a copy of the database.  A copy is older than the uses that come
    after it was made: put back, it would let in others by what was used.
    """
    connection.execute("DELETE FROM invites_used")
    connection.execute("DELETE FROM invites_issued")


def _read_all(connection: sqlite3.Connection) -> list[Issued]:
    used: dict[str, list[Use]] = {}
    for id, peer, used_ns in connection.execute(
        "SELECT id, peer, used_ns FROM invites_used ORDER BY used_ns, peer"
    ):
        used.setdefault(id, []).append(Use(PublicKey(peer), used_ns))
    rows = connection.execute(
        "SELECT id, digest, created_ns, expires, uses, note FROM invites_issued ORDER BY id"
    )
    return [
        Issued(id, digest, created_ns, expires, uses, note, tuple(used.get(id, ())))
        for id, digest, created_ns, expires, uses, note in rows
    ]


def _insert(connection: sqlite3.Connection, made: Issued) -> list[bytes]:
    """@return: the digests of those that had to make room."""
    over = [
        each
        for each in _read_all(connection)
        if each.forgotten(made.created_ns) or each.state(made.created_ns) != "open"
    ]
    (count,) = connection.execute("SELECT count(*) FROM invites_issued").fetchone()
    if count < MAX_INVITES:
        gone = [each for each in over if each.forgotten(made.created_ns)]
    elif over:
        gone = over
    else:
        raise Overloaded(
            f"{MAX_INVITES} invites are open: take one back with 'meshkit invite revoke'"
        )
    for each in gone:
        _delete(connection, each.id)
    connection.execute(
        "INSERT INTO invites_issued VALUES (?, ?, ?, ?, ?, ?)",
        (made.id, made.digest, made.created_ns, made.expires, made.uses, made.note),
    )
    return [each.digest for each in gone]


def _take(connection: sqlite3.Connection, id: str, use: Use, network: bytes) -> bool:
    """
    @return: whether this is the first time that it comes with it.
    @raise InviteUnknown: if it was revoked.
    @raise InviteUsed: if no use is left, or its own was in another network.
    """
    row = connection.execute("SELECT uses FROM invites_issued WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise InviteUnknown("this invite was taken back: ask for another one")
    networks = dict(
        connection.execute("SELECT peer, network FROM invites_used WHERE id = ?", (id,)).fetchall()
    )
    told = networks.get(use.peer.raw)
    if told == network:
        return False
    if told is not None:
        raise InviteUsed(
            "you have used this invite already, before the network got a new secret: ask for "
            "another one"
        )
    if len(networks) >= row[0]:
        raise InviteUsed(
            "this invite was used already, by somebody else: ask for another one, and tell "
            "whoever gave it to you if that was not to be"
        )
    connection.execute(
        "INSERT INTO invites_used VALUES (?, ?, ?, ?)", (id, use.peer.raw, use.used_ns, network)
    )
    return True


def _delete(connection: sqlite3.Connection, id: str) -> bool:
    """@return: whether there was one."""
    connection.execute("DELETE FROM invites_used WHERE id = ?", (id,))
    gone = connection.execute("DELETE FROM invites_issued WHERE id = ?", (id,)).rowcount
    return bool(gone)
