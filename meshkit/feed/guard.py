"""
When this node must not write into its own feed.

A node that has forgotten the end of its feed (an old backup was restored, a disk was set
back) and goes on writing signs a second message for a place, and the feed is forked for
ever.  Two things keep it from that.

A I{guard} is a row in the database.  A backup carries it, and it is set when somebody
brings messages that come after the end of the feed here: both show that others may have
more.  It is lifted when so many peers have shown how far they have the feed, each at least
as far as it was here when the guard was set, and all of that is here.

A I{claim} is what a peer says: that it has more of the feed than is here.  It may be a
lie, so it holds for L{PATIENCE} seconds only, counted from the last message of ours that
somebody brought.  Who has not made it good by then is not believed again before the next
start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, Literal, cast

from attrs import define, field, frozen

Reason = Literal["restored", "behind", "repaired"]

#: Seconds for which a claim is believed without anything to show for it.
PATIENCE: Final = 60.0
#: Claims that are believed at a time; beyond it the oldest is dropped.
MAX_CLAIMS: Final = 64
#: Peers that are remembered for a claim that came to nothing; likewise.
MAX_DISBELIEVED: Final = 1_000

MIGRATION: Final = """
    -- No row, or the one that says why this node does not publish.
    -- had: the last sequence of its feed that was stored when it was set; NULL until the
    -- node has seen.
    CREATE TABLE feed_guard (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        reason TEXT NOT NULL,
        since_ns INTEGER NOT NULL,
        had INTEGER
    ) STRICT;

    -- The peers that have shown since then how far they have the feed.
    CREATE TABLE feed_witnesses (
        peer BLOB PRIMARY KEY NOT NULL,
        sequence INTEGER NOT NULL
    ) STRICT;
    """


@frozen
class Guard:
    """
    Why this node does not publish.

    @ivar reason: C{restored}: the database comes from a backup.  C{behind}: a peer
        brought messages of this node that were not here.  C{repaired}: one that was here
        was damaged, and was set aside.
    @ivar since_ns: when the backup was made, when they came, when it was set aside.
    @ivar had: the last sequence of the own feed that was stored then.
    @ivar witnesses: how many peers have shown since that they have no more of the feed.
    """

    reason: Reason
    since_ns: int
    had: int
    witnesses: int


def mark_restored(connection: sqlite3.Connection, now_ns: int) -> None:
    """Set the guard in a database that is a backup, or was made of one."""
    connection.execute("DELETE FROM feed_witnesses")
    connection.execute(
        "INSERT OR REPLACE INTO feed_guard (id, reason, since_ns, had) "
        "VALUES (1, 'restored', ?, NULL)",
        (now_ns,),
    )


def mark_again(connection: sqlite3.Connection, now_ns: int) -> None:
    """Set the guard in a database that was put back; a backup keeps the time it was made."""
    guard = read_guard(connection)
    restored = guard is not None and guard.reason == "restored"
    mark_restored(connection, guard.since_ns if guard is not None and restored else now_ns)


def set_behind(connection: sqlite3.Connection, had: int, now_ns: int) -> None:
    """
    Set the guard because somebody brought messages of this node that were not here.
    Nothing happens if it is set.
    """
    connection.execute(
        "INSERT OR IGNORE INTO feed_guard (id, reason, since_ns, had) VALUES (1, 'behind', ?, ?)",
        (now_ns, had),
    )


def set_repaired(connection: sqlite3.Connection, had: int | None, now_ns: int) -> None:
    """
    Set the guard because a message of this node was set aside, or one of somebody whose node
    this may be.  Nothing happens if it is set.

    @param had: the last sequence of the own feed that was stored, if it is known.
    """
    connection.execute(
        "INSERT OR IGNORE INTO feed_guard (id, reason, since_ns, had) VALUES (1, 'repaired', ?, ?)",
        (now_ns, had),
    )


def read_guard(connection: sqlite3.Connection) -> Guard | None:
    """@return: the guard, if it is set."""
    row = connection.execute(
        "SELECT reason, since_ns, coalesce(had, 0), (SELECT count(*) FROM feed_witnesses) "
        "FROM feed_guard"
    ).fetchone()
    return None if row is None else Guard(cast(Reason, row[0]), *row[1:])


def begin(connection: sqlite3.Connection, own: bytes) -> tuple[Guard | None, int, int | None]:
    """
    At the start of a node: a backup does not know whose feed it guards.

    @param own: this node's key.
    @return: the guard; of the own feed, the last sequence that is stored and the lowest
        that is forked.
    """
    row = connection.execute(
        "SELECT latest, forked FROM feed_authors WHERE key = ?", (own,)
    ).fetchone()
    latest, forked = (0, None) if row is None else row
    connection.execute("UPDATE feed_guard SET had = ? WHERE had IS NULL", (latest,))
    return read_guard(connection), latest, forked


def hear(
    connection: sqlite3.Connection,
    own: bytes,
    shown: Sequence[tuple[bytes, int]],
    needed: int,
    may_lift: bool,
) -> Guard | None:
    """
    Note how far peers have the own feed, and lift the guard if that is enough.

    @param own: this node's key.
    @param shown: (peer, sequence).  Who has less than was here, or more than is here, is
        no witness.
    @param needed: how many witnesses are enough.
    @param may_lift: nobody claims to have more.
    @return: the guard that remains.
    """
    guard = read_guard(connection)
    if guard is None:
        return None
    row = connection.execute(
        "SELECT contiguous, latest, forked FROM feed_authors WHERE key = ?", (own,)
    ).fetchone()
    contiguous, latest, forked = (0, 0, None) if row is None else row
    connection.executemany(
        "INSERT OR REPLACE INTO feed_witnesses VALUES (?, ?)",
        [(peer, sequence) for peer, sequence in shown if guard.had <= sequence <= contiguous],
    )
    guard = read_guard(connection)
    assert guard is not None
    whole = contiguous == latest and forked is None
    if may_lift and whole and guard.witnesses >= needed:
        lift(connection)
        return None
    return guard


def lift(connection: sqlite3.Connection) -> None:
    """Remove the guard, whatever it waits for."""
    connection.execute("DELETE FROM feed_witnesses")
    connection.execute("DELETE FROM feed_guard")


@define
class _Claim:
    sequence: int
    until: float


@define
class Claims:
    """
    What peers say they have of the own feed beyond what is here.  Pure: the time is an
    argument.
    """

    _open: dict[bytes, _Claim] = field(factory=dict)
    # Peers in the order in which they were found out; the values say nothing.
    _disbelieved: dict[bytes, None] = field(factory=dict)
    # Peers that took a claim back -> when it would have come to nothing.
    _withdrawn: dict[bytes, float] = field(factory=dict)

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, peer: object) -> bool:
        """Does this peer say that it has more?"""
        return peer in self._open

    def add(self, peer: bytes, sequence: int, now: float) -> bool:
        """
        A peer says that it has more than is here.

        @return: is it believed?
        """
        if peer in self._disbelieved:
            return False
        known = self._open.pop(peer, None)
        # Saying more and more does not gain time, nor does taking it back meanwhile;
        # bringing something does.
        until = self._withdrawn.pop(peer, now + PATIENCE) if known is None else known.until
        self._open[peer] = _Claim(sequence, until)
        if until <= now:
            self._disbelieve(peer)
            return False
        while len(self._open) > MAX_CLAIMS:
            del self._open[next(iter(self._open))]
        return True

    def withdraw(self, peer: bytes) -> bool:
        """
        A peer says that it has no more than is here.

        @return: had it said otherwise?
        """
        claim = self._open.pop(peer, None)
        if claim is None:
            return False
        self._withdrawn[peer] = claim.until
        while len(self._withdrawn) > MAX_DISBELIEVED:
            del self._withdrawn[next(iter(self._withdrawn))]
        return True

    def brought(self, contiguous: int, now: float) -> list[tuple[bytes, int]]:
        """
        Messages of the own feed came, which is complete up to a sequence now.

        @return: (peer, sequence) of the claims that are made good.
        """
        good = [(p, c.sequence) for p, c in self._open.items() if c.sequence <= contiguous]
        for peer, _ in good:
            del self._open[peer]
        for claim in self._open.values():
            claim.until = now + PATIENCE
        return good

    def expire(self, now: float) -> list[bytes]:
        """@return: the peers whose claims came to nothing; they are not believed again."""
        late = [peer for peer, claim in self._open.items() if claim.until <= now]
        for peer in late:
            self._disbelieve(peer)
        return late

    def drop(self) -> None:
        """Believe none of those who claim something now, now or later."""
        for peer in list(self._open):
            self._disbelieve(peer)

    def _disbelieve(self, peer: bytes) -> None:
        del self._open[peer]
        self._disbelieved[peer] = None
        while len(self._disbelieved) > MAX_DISBELIEVED:
            del self._disbelieved[next(iter(self._disbelieved))]

    def next_expiry(self) -> float | None:
        """@return: when the first claim expires."""
        return min((claim.until for claim in self._open.values()), default=None)

    def highest(self) -> tuple[bytes, int] | None:
        """@return: (peer, sequence) of the highest claim."""
        return max(
            ((peer, claim.sequence) for peer, claim in self._open.items()),
            key=lambda found: found[1],
            default=None,
        )
