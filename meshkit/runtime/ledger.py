"""
The peer ledger: how peers behave, by their keys, whoever opened the connection.

Each peer has a score, a round trip, counters and the last reasons why its score fell.
Behaving badly costs score, time gives it back; at nothing, the peer is banned for a
while.  What is bad for a peer, and its ban, is kept in the database, so that a restart
of this node is no amnesty; the rest is in memory.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, ClassVar, Final

import msgspec
from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.identity.keys import PublicKey

#: The score of a peer that did nothing wrong.
FULL_SCORE: Final = 100.0
#: What a peer gains each minute, until it is full.
GAIN_PER_MINUTE: Final = 1.0
#: Reasons that are kept of each peer; the oldest make room.
MAX_REASONS: Final = 8
#: Characters of a reason.
MAX_REASON: Final = 300
#: Peers that are remembered; the ones that were quiet for longest make room, those that are
#: banned last.
MAX_ACCOUNTS: Final = 4_096
#: Of these, those that are kept over a restart.
MAX_KEPT: Final = 1_000

#: How much a new measurement counts in the mean of the round trips.
_WEIGHT: Final = 0.25
_MINUTE_NS: Final = 60 * 10**9
_SECOND_NS: Final = 10**9

MIGRATIONS: Final = (
    """
    CREATE TABLE node_ledger (
        key BLOB PRIMARY KEY,
        score REAL NOT NULL,
        scored_ns INTEGER NOT NULL,
        banned_until_ns INTEGER NOT NULL,
        reasons TEXT NOT NULL
    ) STRICT;
    """,
)


class Reason(msgspec.Struct, frozen=True):
    """
    Why a score fell.

    @ivar at_ns: wall clock.
    @ivar code: of the error.
    @ivar text: its sentence.
    """

    at_ns: int
    code: str
    text: str


@define
class Account:
    """
    One peer.

    @ivar score: what it was at C{scored_ns}; ask L{Ledger.score} for what it is now.
    @ivar round_trip: seconds, the mean of the last few, if any was measured.
    @ivar heard_ns: wall clock, when there was the last sign of it; 0 if there was none.
    @ivar missed: how often in a row it was looked for since, and did not answer.
    @ivar suspect: that was too often.
    @ivar received: messages that came from it and were new.
    @ivar sent: messages that it was given.
    @ivar duplicates: messages that came from it and were here already.
    @ivar refused: messages that came from it and were refused.
    @ivar banned_until_ns: wall clock; 0 if it never was.
    @ivar reasons: the last ones, oldest first.
    """

    key: PublicKey
    score: float = FULL_SCORE
    scored_ns: int = 0
    round_trip: float | None = None
    heard_ns: int = 0
    missed: int = 0
    suspect: bool = False
    received: int = 0
    sent: int = 0
    duplicates: int = 0
    refused: int = 0
    banned_until_ns: int = 0
    reasons: deque[Reason] = field(factory=lambda: deque(maxlen=MAX_REASONS))


@frozen
class Totals:
    """
    What all peers together did since the start.

    @ivar received: see L{Account}, as the others.
    """

    received: int = 0
    sent: int = 0
    duplicates: int = 0
    refused: int = 0

    def and_of(self, account: Account) -> Totals:
        """@return: with what one more peer did."""
        return Totals(
            self.received + account.received,
            self.sent + account.sent,
            self.duplicates + account.duplicates,
            self.refused + account.refused,
        )


@frozen
class _Row:
    key: bytes
    score: float
    scored_ns: int
    banned_until_ns: int
    reasons: str


@define(eq=False)
class Ledger:
    """
    See the module.

    @ivar database: L{meshkit.runtime.database.Database}.
    @ivar wall_clock: nanoseconds since 1970.
    """

    _log: ClassVar[Logger] = Logger()

    database: Any
    wall_clock: Callable[[], int]
    # The longest quiet come first.
    _accounts: OrderedDict[bytes, Account] = field(factory=OrderedDict, init=False)
    # What is being written, and who changed meanwhile.
    _dirty: dict[bytes, None] = field(factory=dict, init=False)
    _writing: bool = field(default=False, init=False)
    # What those did who had to make room.
    _forgotten: Totals = field(factory=Totals, init=False)

    def load(self) -> Deferred[None]:
        """@return: Deferred that fires when what is in the database is known."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        for row in await self.database.read(_all_rows):
            account = self.account(PublicKey(row.key))
            account.score, account.scored_ns = row.score, row.scored_ns
            account.banned_until_ns = row.banned_until_ns
            account.reasons.extend(msgspec.json.decode(row.reasons, type=list[Reason]))

    def account(self, key: PublicKey) -> Account:
        """A peer's account; a new one, if it has none."""
        account = self._accounts.get(key.raw)
        if account is None:
            if len(self._accounts) >= MAX_ACCOUNTS:
                self._forgotten = self._forgotten.and_of(self._accounts.pop(self._least()))
            account = self._accounts[key.raw] = Account(key)
        else:
            self._accounts.move_to_end(key.raw)
        return account

    def _least(self) -> bytes:
        """@return: who makes room: keys cost nothing, so a ban must not be washed out by them."""
        now = self.wall_clock()
        for key, account in self._accounts.items():
            if account.banned_until_ns <= now:
                return key
        return next(iter(self._accounts))

    def accounts(self) -> list[Account]:
        """All of them, the one heard of last first."""
        return list(reversed(self._accounts.values()))

    def totals(self) -> Totals:
        """What all peers together did, also those that are not remembered any more."""
        totals = self._forgotten
        for account in self._accounts.values():
            totals = totals.and_of(account)
        return totals

    def banned(self) -> int:
        """How many peers are banned now."""
        now = self.wall_clock()
        return sum(now < account.banned_until_ns for account in self._accounts.values())

    def find(self, key: PublicKey) -> Account | None:
        """A peer's account, if it has one."""
        return self._accounts.get(key.raw)

    def score(self, key: PublicKey) -> float:
        """What a peer's score is now."""
        account = self._accounts.get(key.raw)
        return FULL_SCORE if account is None else self._score(account)

    def _score(self, account: Account) -> float:
        # A clock that was set back gives nothing.
        minutes = max(0, self.wall_clock() - account.scored_ns) / _MINUTE_NS
        return min(FULL_SCORE, account.score + minutes * GAIN_PER_MINUTE)

    def offend(self, key: PublicKey, code: str, text: str, cost: float) -> float:
        """
        A peer behaved badly.

        @param cost: how much of its score that takes.
        @return: what is left; less than 1 is too little to go on with it.
        """
        account = self.account(key)
        account.score = self._score(account) - cost
        account.scored_ns = self.wall_clock()
        account.reasons.append(Reason(account.scored_ns, code, text[:MAX_REASON]))
        self._keep(account)
        return account.score

    def ban(self, key: PublicKey, seconds: float) -> None:
        """Have nothing to do with a peer for a while.  When it comes again, it has half."""
        account = self.account(key)
        account.banned_until_ns = self.wall_clock() + int(seconds * _SECOND_NS)
        account.score, account.scored_ns = FULL_SCORE / 2, account.banned_until_ns
        self._keep(account)

    def is_banned(self, key: PublicKey) -> bool:
        account = self._accounts.get(key.raw)
        return account is not None and self.wall_clock() < account.banned_until_ns

    def heard(self, key: PublicKey) -> Account:
        """There was a sign of a peer."""
        account = self.account(key)
        account.heard_ns = self.wall_clock()
        account.missed, account.suspect = 0, False
        return account

    def missed(self, key: PublicKey, times: int, suspect: bool) -> None:
        """
        A peer was looked for, and did not answer.

        @param times: in a row.
        @param suspect: that is too often.
        """
        account = self.account(key)
        account.missed, account.suspect = times, suspect

    def suspects(self) -> int:
        """How many peers are suspect."""
        return sum(account.suspect for account in self._accounts.values())

    def measured(self, key: PublicKey, round_trip: float) -> None:
        """@param round_trip: seconds."""
        account = self.heard(key)
        before = account.round_trip
        account.round_trip = (
            round_trip if before is None else before + (round_trip - before) * _WEIGHT
        )

    # --- over a restart -------------------------------------------------------------------

    def _keep(self, account: Account) -> None:
        self._dirty[account.key.raw] = None
        if not self._writing:
            self._writing = True
            Deferred.fromCoroutine(self._write()).addErrback(self._not_kept)

    async def _write(self) -> None:
        """Write what changed, and what changes meanwhile after that, in one go each."""
        try:
            while self._dirty:
                dirty, self._dirty = self._dirty, {}
                rows = [_row(self._accounts[key]) for key in dirty if key in self._accounts]
                await self.database.write(lambda connection, rows=rows: _write(connection, rows))
        finally:
            self._writing = False

    def _not_kept(self, failure: Failure) -> None:
        # It counts until the next restart; what cannot be written is reported elsewhere too.
        self._log.warn("the peer ledger was not written: {error}", error=str(failure.value))


def _row(account: Account) -> _Row:
    reasons = msgspec.json.encode(list(account.reasons)).decode("utf-8")
    return _Row(account.key.raw, account.score, account.scored_ns, account.banned_until_ns, reasons)


def _all_rows(connection: sqlite3.Connection) -> list[_Row]:
    rows = connection.execute(
        "SELECT key, score, scored_ns, banned_until_ns, reasons FROM node_ledger "
        "ORDER BY scored_ns, key"
    )
    return [_Row(*row) for row in rows]


def _write(connection: sqlite3.Connection, rows: list[_Row]) -> None:
    connection.executemany(
        "INSERT INTO node_ledger VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
        "score = excluded.score, scored_ns = excluded.scored_ns, "
        "banned_until_ns = excluded.banned_until_ns, reasons = excluded.reasons",
        [(r.key, r.score, r.scored_ns, r.banned_until_ns, r.reasons) for r in rows],
    )
    connection.execute(
        "DELETE FROM node_ledger WHERE key NOT IN "
        "(SELECT key FROM node_ledger ORDER BY scored_ns DESC, key LIMIT ?)",
        (MAX_KEPT,),
    )
