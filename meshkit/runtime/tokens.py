"""
The tokens of the door: who may come in beside its owner, what for, and how long.

A token is C{mkt_<id>_<secret>}.  The id, 16 hex digits, finds it; the secret is 256 random
bits in hex.  The text is given out once, when the token is made.  What is kept is its
SHA-256: whoever reads the database, or a copy of it, learns no token.  A slow hash with a
salt would add nothing.  These are for what people think up, where a guess has a chance;
nobody finds one of 2**256 values, however fast each can be tried.

A revoked token opens nothing from the moment at which that was asked for, whatever the
disk says, and whoever watches is told, so that what is open is closed.  An expired one is
listed until it is revoked, until its name is wanted again, or until room is needed.
"""

from __future__ import annotations

import hmac
import re
import sqlite3
from collections.abc import Callable, Sequence
from hashlib import sha256
from random import Random
from typing import Any, ClassVar, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import InvalidRequest, NotFound, TokenExists, TooManyTokens
from meshkit.parts import shield

#: How many tokens there may be.
MAX_TOKENS: Final = 1_000
#: How many scopes one token may have.
MAX_SCOPES: Final = 64
#: Characters of one scope.
MAX_SCOPE: Final = 128
#: The longest that a token with an end may be good for, in seconds: a hundred years.
MAX_LIFETIME: Final = 100 * 365 * 86_400
#: How exact the time of the last use is, in seconds: for each token, at most one write in
#: so many.
USE_SECONDS: Final = 600

#: What a token's name may be.
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
#: Who is meant by these is no token.
RESERVED: Final = ("anyone", "owner")

# They are kept with spaces between them.
_SCOPE: Final = re.compile(rf"[!-~]{{1,{MAX_SCOPE}}}")
_PREFIX: Final = b"mkt_"
_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32
_ID: Final = slice(len(_PREFIX), len(_PREFIX) + 2 * _ID_BYTES)
# What an unknown token is compared with: nothing has this digest.
_NO_DIGEST: Final = bytes(32)
_SECOND_NS: Final = 10**9
# The wall clock may be set, so that nobody sleeps for longer than this.
_LONGEST_SLEEP: Final = 3600.0

MIGRATIONS: Final = (
    """
    CREATE TABLE node_tokens (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        digest BLOB NOT NULL,
        scopes TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        expires_ns INTEGER,
        used_ns INTEGER
    ) STRICT;
    """,
)


@define(eq=False)
class Token:
    """
    One token, without its secret.

    @ivar id: what finds it; no secret.
    @ivar name: for people, unique.
    @ivar scopes: what it is good for, as L{meshkit.web.callers.Scope} reads it.
    @ivar created_ns: wall clock.
    @ivar expires_ns: wall clock; L{None} if it has no end.
    @ivar used_ns: wall clock of the last use, to within L{USE_SECONDS}; L{None} if it was
        never used.
    @ivar revoked: it opens nothing any more, though the disk may not know yet.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created_ns: int
    expires_ns: int | None
    used_ns: int | None
    _digest: bytes = field(repr=False)
    revoked: bool = field(default=False, init=False)

    def expired(self, now_ns: int) -> bool:
        """Is its time over?"""
        return self.expires_ns is not None and now_ns >= self.expires_ns

    def matches(self, digest: bytes) -> bool:
        """Is this the digest of its text?  That takes the same time, right or wrong."""
        return hmac.compare_digest(digest, self._digest)


@define(eq=False)
class TokenBook:
    """
    See the module.  Call L{load} once the database runs, and L{stop} before it ends.

    @ivar clock: tells when to look for expired tokens.
    @ivar database: L{meshkit.runtime.database.Database}.
    @ivar wall_clock: nanoseconds since 1970.
    @ivar rng: makes ids and secrets: C{random.SystemRandom()} outside simulations.
    @ivar on_ended: called with each token that was revoked or has expired, once.
    @ivar loaded: what is in the database is known.
    """

    _log: ClassVar[Logger] = Logger()

    clock: IReactorTime
    database: Any
    wall_clock: Callable[[], int]
    rng: Random
    on_ended: Callable[[Token], None] = field(default=lambda token: None, init=False)
    loaded: bool = field(default=False, init=False)
    _by_id: dict[bytes, Token] = field(factory=dict, init=False)
    _alarm: IDelayedCall | None = field(default=None, init=False)

    def load(self) -> Deferred[None]:
        """@return: Deferred that fires when the tokens in the database are known."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        for token in await self.database.read(_all_tokens):
            self._by_id[token.id.encode("ascii")] = token
        self.loaded = True
        self._set_alarm()

    def stop(self) -> None:
        """Look for expired tokens no more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def tokens(self) -> list[Token]:
        """Every token that was not revoked for good, sorted by name."""
        return sorted(self._by_id.values(), key=lambda token: token.name)

    def find(self, shown: bytes) -> Token | None:
        """
        Whose token is this?  An unknown one, a wrong secret, an expired and a revoked token
        are all the same: only who has the secret makes a difference, and to nobody else.

        @param shown: what somebody has shown.
        @return: the token that it opens the door as, or L{None}.
        """
        digest = sha256(shown).digest()
        token = self._by_id.get(shown[_ID])
        if token is None:
            # As much is done as for one that exists.
            hmac.compare_digest(digest, _NO_DIGEST)
            return None
        now_ns = self.wall_clock()
        if not token.matches(digest) or token.revoked or token.expired(now_ns):
            return None
        if token.used_ns is None or abs(now_ns - token.used_ns) >= USE_SECONDS * _SECOND_NS:
            self._note_used(token, now_ns)
        return token

    def _note_used(self, token: Token, now_ns: int) -> None:
        token.used_ns = now_ns
        noting = self.database.write(lambda connection: _use(connection, token.id, now_ns))
        noting.addErrback(self._not_noted, token)

    def _not_noted(self, failure: Failure, token: Token) -> None:
        # Nothing hangs on it, and what the disk refuses is reported elsewhere too.
        self._log.warn(
            "when the token {name} was used is not kept: {error}",
            name=token.name,
            error=str(failure.value),
        )

    def add(
        self, name: str, scopes: Sequence[str], lifetime: int | None = None
    ) -> Deferred[tuple[Token, str]]:
        """
        Make a token.

        @param name: as L{NAME} has it, and none of L{RESERVED}.
        @param scopes: what it is to be good for; kept as they are.
        @param lifetime: seconds from now on, up to L{MAX_LIFETIME}; L{None} for no end.
        @return: Deferred of the token and its text, which nobody can learn later; fired
            when it is on the disk.  Fails with L{TokenExists}, L{TooManyTokens} or
            L{InvalidRequest}.
        """
        return shield(self._add(name, scopes, lifetime))

    async def _add(
        self, name: str, scopes: Sequence[str], lifetime: int | None
    ) -> tuple[Token, str]:
        _check(name, scopes, lifetime)
        now_ns = self.wall_clock()
        known = self.rng.randbytes(_ID_BYTES).hex()
        text = f"{_PREFIX.decode()}{known}_{self.rng.randbytes(_SECRET_BYTES).hex()}"
        expires_ns = None if lifetime is None else now_ns + lifetime * _SECOND_NS
        digest = sha256(text.encode("ascii")).digest()
        token = Token(known, name, tuple(scopes), now_ns, expires_ns, None, digest)
        for gone in await self.database.write(
            lambda connection: _insert(connection, token, digest)
        ):
            self._end(self._by_id.pop(gone.encode("ascii")))
        self._by_id[known.encode("ascii")] = token
        self._set_alarm()
        return token, text

    def remove(self, name: str) -> Deferred[None]:
        """
        Revoke a token: it opens nothing any more from now on.

        @return: Deferred fired when that is on the disk.  Fails with L{NotFound}; and with
            L{meshkit.errors.StorageFailed} if the disk refuses it: then the token opens
            nothing until the next start, and revoking it can be tried again.
        """
        return shield(self._remove(name))

    async def _remove(self, name: str) -> None:
        found = [token for token in self._by_id.values() if token.name == name]
        if not found:
            raise NotFound(f"there is no token {name!r}: see 'meshkit token list'")
        (token,) = found
        # Before the disk: what is wrong with it is no reason to let anybody in.
        self._end(token)
        await self.database.write(lambda connection: _delete(connection, token.id))
        self._by_id.pop(token.id.encode("ascii"), None)

    def _end(self, token: Token) -> None:
        if not token.revoked:
            token.revoked = True
            self.on_ended(token)

    # --- the end of their time ---------------------------------------------------------

    def _set_alarm(self) -> None:
        self.stop()
        ends = [
            token.expires_ns
            for token in self._by_id.values()
            if token.expires_ns is not None and not token.revoked
        ]
        if ends:
            seconds = max(0, min(ends) - self.wall_clock()) / _SECOND_NS
            self._alarm = self.clock.callLater(min(seconds, _LONGEST_SLEEP), self._look)

    def _look(self) -> None:
        self._alarm = None
        now_ns = self.wall_clock()
        for token in list(self._by_id.values()):
            if token.expired(now_ns):
                self._end(token)
        self._set_alarm()


def forget_all(connection: sqlite3.Connection) -> None:
    """
    Take the tokens out of a copy of the database.  A copy is older than the tokens that are
    revoked after it was made: put back, it would let them in again.
    """
    connection.execute("DELETE FROM node_tokens")


def _check(name: str, scopes: Sequence[str], lifetime: int | None) -> None:
    if not re.fullmatch(NAME, name) or name in RESERVED:
        raise InvalidRequest(
            "the name of a token is 1 to 64 letters, digits, dots, dashes and underscores, "
            f"begins with a letter or a digit, and is not {' or '.join(RESERVED)}",
            field="name",
        )
    if not 1 <= len(scopes) <= MAX_SCOPES or not all(map(_SCOPE.fullmatch, scopes)):
        raise InvalidRequest(
            f"a token has 1 to {MAX_SCOPES} scopes of 1 to {MAX_SCOPE} characters without spaces",
            field="scopes",
        )
    if lifetime is not None and not 1 <= lifetime <= MAX_LIFETIME:
        raise InvalidRequest(f"a token is good for 1 to {MAX_LIFETIME} seconds, or without an end")


def _all_tokens(connection: sqlite3.Connection) -> list[Token]:
    rows = connection.execute(
        "SELECT id, name, scopes, created_ns, expires_ns, used_ns, digest FROM node_tokens"
        " ORDER BY name"
    )
    return [
        Token(known, name, tuple(scopes.split(" ")), created, expires, used, digest)
        for known, name, scopes, created, expires, used, digest in rows
    ]


def _insert(connection: sqlite3.Connection, token: Token, digest: bytes) -> list[str]:
    """@return: the ids of expired tokens that had to make room."""
    # Counted and looked up here, where nobody else can add one at the same moment.
    gone = _delete_expired(connection, token.created_ns, token.name)
    if connection.execute("SELECT 1 FROM node_tokens WHERE name = ?", (token.name,)).fetchone():
        raise TokenExists(
            f"there is a token {token.name!r} already: revoke it first, or choose another name"
        )
    (count,) = connection.execute("SELECT count(*) FROM node_tokens").fetchone()
    if count >= MAX_TOKENS:
        also = _delete_expired(connection, token.created_ns)
        if not also:
            raise TooManyTokens(
                f"there are {MAX_TOKENS} tokens already: revoke one with 'meshkit token revoke'"
            )
        gone += also
    connection.execute(
        "INSERT INTO node_tokens (id, name, digest, scopes, created_ns, expires_ns)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            token.id,
            token.name,
            digest,
            " ".join(token.scopes),
            token.created_ns,
            token.expires_ns,
        ),
    )
    return gone


def _delete_expired(
    connection: sqlite3.Connection, now_ns: int, name: str | None = None
) -> list[str]:
    """
    @param name: of the one that may go; L{None}: all of them.
    @return: the ids of those that are gone.
    """
    which = " WHERE expires_ns <= ?1 AND (?2 IS NULL OR name = ?2)"
    rows = connection.execute(f"SELECT id FROM node_tokens{which} ORDER BY id", (now_ns, name))
    gone = [known for (known,) in rows]
    connection.execute(f"DELETE FROM node_tokens{which}", (now_ns, name))
    return gone


def _delete(connection: sqlite3.Connection, known: str) -> None:
    connection.execute("DELETE FROM node_tokens WHERE id = ?", (known,))


def _use(connection: sqlite3.Connection, known: str, now_ns: int) -> None:
    connection.execute("UPDATE node_tokens SET used_ns = ? WHERE id = ?", (now_ns, known))
