"""
What is thought of peers, in SQLite, and in memory for whoever has to choose among them.

It is kept by the peer's key: a peer that starts anew with its key is who it was.  What is
recorded is on the disk before anybody hears of it, and L{PeerStandings.judge} goes by what is
on the disk.

So are the audits that peers owe an answer to: L{PeerStandings} implements
L{meshkit.audit.containment.Containments} as well.

All but the class are functions of an open connection, and are run by
L{meshkit.runtime.database.Database}: the writing ones on its one writer thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from attrs import evolve, frozen
from twisted.internet.defer import Deferred, fail, succeed

from meshkit.audit.containment import Contained
from meshkit.audit.standing import (
    Beta,
    Results,
    Standing,
    StandingConfig,
    Window,
    judge,
    recorded,
    results_of,
)
from meshkit.audit.values import ShareOutcome
from meshkit.errors import NotFound, NotReady, Overloaded
from meshkit.identity.keys import PublicKey
from meshkit.runtime.database import Database
from meshkit.storage.custody import Judgement

__all__ = [
    "MAX_NOTES",
    "MAX_NOTE_BYTES",
    "MAX_PEERS",
    "OUTAGE_SECONDS",
    "TOTALS_SECONDS",
    "KnownPeer",
    "PeerStandings",
    "Totals",
    "find_peer",
    "load_peers",
    "notes_of",
]

#: Peers of which anything is known; some 5 KiB of memory for each that is audited every day.
MAX_PEERS: Final = 10_000
#: If nobody was reached for so many seconds, it is we who are not there.
OUTAGE_SECONDS: Final = 3_600
#: For so long it is good how many peers get nothing, if nothing is written down meanwhile.
TOTALS_SECONDS: Final = 60
#: Audits without a verdict, of all peers together.
MAX_NOTES: Final = 4_096
#: Bytes that it takes to ask them again.
MAX_NOTE_BYTES: Final = 256 * 2**20

_PEER: Final = (
    "peer, since, updated, alpha, beta, unknown_alpha, unknown_beta, windows, failing, "
    "confusing, vetted, vetting_since, offline_since, successes, failures, unknowns, offlines, "
    "last_success, last_failure, problem"
)
_PLACES: Final = ", ".join("?" * len(_PEER.split(", ")))

_windows: Final = msgspec.json.Decoder(tuple[Window, ...])

T = TypeVar("T")


# --- peers -----------------------------------------------------------------------------


def _standing(row: Any) -> Standing:
    _peer, since, updated, good, bad, answered, confused, windows, *rest = row
    return Standing(
        since,
        updated,
        Beta(good, bad),
        Beta(answered, confused),
        _windows.decode(windows),
        *rest,
    )


def _row(peer: PublicKey, standing: Standing) -> tuple[object, ...]:
    return (
        peer.raw,
        standing.since,
        standing.updated,
        standing.audits.good,
        standing.audits.bad,
        standing.answers.good,
        standing.answers.bad,
        msgspec.json.encode(standing.windows).decode("ascii"),
        standing.failing,
        standing.confusing,
        standing.vetted,
        standing.vetting_since,
        standing.offline_since,
        standing.successes,
        standing.failures,
        standing.unknowns,
        standing.offlines,
        standing.last_success,
        standing.last_failure,
        standing.problem,
    )


def find_peer(connection: sqlite3.Connection, peer: PublicKey) -> Standing | None:
    """@return: what is known of a peer, as it was when something was recorded last."""
    row = connection.execute(
        f"SELECT {_PEER} FROM audit_peers WHERE peer = ?", (peer.raw,)
    ).fetchone()
    return None if row is None else _standing(row)


def load_peers(connection: sqlite3.Connection) -> dict[PublicKey, Standing]:
    """@return: what is known of all, in the order of their keys."""
    rows = connection.execute(f"SELECT {_PEER} FROM audit_peers ORDER BY peer")
    return {PublicKey(row[0]): _standing(row) for row in rows}


def _write(connection: sqlite3.Connection, peer: PublicKey, standing: Standing) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO audit_peers ({_PEER}) VALUES ({_PLACES})", _row(peer, standing)
    )


def record(
    connection: sqlite3.Connection,
    results: Mapping[PublicKey, Results],
    now: int,
    config: StandingConfig,
    limit: int,
) -> tuple[dict[PublicKey, Standing], list[PublicKey]]:
    """
    Write down what came of audits.

    @param results: by peer.
    @param now: seconds of Unix time.
    @param limit: how many peers are kept.
    @return: what is thought of these peers now; and who was forgotten, as there are too many.
    """
    changed = {
        peer: recorded(find_peer(connection, peer), found, now, config)
        for peer, found in results.items()
    }
    for peer, standing in changed.items():
        _write(connection, peer, standing)
    return changed, _forget(connection, changed, limit)


def _forget(
    connection: sqlite3.Connection, changed: Mapping[PublicKey, Standing], limit: int
) -> list[PublicKey]:
    """
    Forget those of which least is known.  Whoever has failed is remembered longest: a key is made
    in no time, and one with a bad name must not be washed away by many without any.
    """
    (total,) = connection.execute("SELECT count(*) FROM audit_peers").fetchone()
    if total <= limit:
        return []
    rows = connection.execute(
        "SELECT peer FROM audit_peers ORDER BY failures + unknowns > 0, "
        "successes + failures + unknowns, updated, peer LIMIT ?",
        (total - limit + len(changed),),
    ).fetchall()
    found = [PublicKey(raw) for (raw,) in rows]
    # Those of now go last, or nobody new would ever get a history.
    gone = sorted(found, key=lambda peer: peer in changed)[: total - limit]
    connection.executemany("DELETE FROM audit_peers WHERE peer = ?", [(peer.raw,) for peer in gone])
    return gone


def forgive(
    connection: sqlite3.Connection, peer: PublicKey, now: int, config: StandingConfig
) -> Standing | None:
    """
    Let a peer begin anew, and ask it for no answer that it owes.

    @return: what is thought of it now; L{None} if nothing was known of it but what it owes.
    @raise NotFound: if nothing at all was.
    """
    owed = connection.execute("DELETE FROM audit_containments WHERE peer = ?", (peer.raw,))
    standing = find_peer(connection, peer)
    if standing is None:
        if not owed.rowcount:
            raise NotFound(
                f"{peer.text} has not been audited: see 'meshkit audit peers' for those that were"
            )
        return None
    standing = standing.forgiven(now, config)
    _write(connection, peer, standing)
    return standing


# --- audits without a verdict --------------------------------------------------------------


def load_notes(connection: sqlite3.Connection) -> dict[PublicKey, dict[bytes, int]]:
    """@return: how often each peer has not answered which audit."""
    found: dict[PublicKey, dict[bytes, int]] = {}
    for peer, audit_id, tries in connection.execute(
        "SELECT peer, audit_id, tries FROM audit_containments ORDER BY peer, audit_id"
    ):
        found.setdefault(PublicKey(peer), {})[audit_id] = tries
    return found


def notes_of(connection: sqlite3.Connection, peer: PublicKey) -> list[Contained]:
    """@return: the audits of a peer that have no verdict, the oldest first."""
    rows = connection.execute(
        "SELECT body FROM audit_containments WHERE peer = ? ORDER BY since, audit_id",
        (peer.raw,),
    )
    return [Contained.decode(body) for (body,) in rows]


def _put_note(
    connection: sqlite3.Connection, note: Contained, body: bytes, limit: int, limit_bytes: int
) -> None:
    others, taken = connection.execute(
        "SELECT count(*), coalesce(sum(length(body)), 0) FROM audit_containments "
        "WHERE NOT (peer = ? AND audit_id = ?)",
        (note.peer.raw, note.audit_id),
    ).fetchone()
    if others >= limit or taken + len(body) > limit_bytes:
        raise Overloaded(
            f"{others} audits wait for answers, and {limit} may: nobody is asked anything new "
            f"before some are answered or given up"
        )
    connection.execute(
        "INSERT OR REPLACE INTO audit_containments (peer, audit_id, since, tries, body) "
        "VALUES (?, ?, ?, ?, ?)",
        (note.peer.raw, note.audit_id, note.since, note.tries, body),
    )


def _remove_note(connection: sqlite3.Connection, peer: PublicKey, audit_id: bytes) -> None:
    connection.execute(
        "DELETE FROM audit_containments WHERE peer = ? AND audit_id = ?", (peer.raw, audit_id)
    )


# --- for the reactor's thread -----------------------------------------------------------------


@frozen
class KnownPeer:
    """
    A peer of which something is known.

    @ivar standing: as it is now; L{None} if it has not been audited to an end.
    @ivar judgement: what it is to get.
    @ivar owes: audits that it knew of and did not answer.
    """

    peer: PublicKey
    standing: Standing | None
    judgement: Judgement
    owes: int


@frozen
class Totals:
    """
    @ivar refused: how many peers get nothing.
    @ivar contained: how many owe an answer.
    """

    refused: int
    contained: int


class PeerStandings:
    """
    See the module.  Implements L{meshkit.audit.values.Standings} and
    L{meshkit.audit.containment.Containments}.  For the reactor's thread.
    """

    def __init__(
        self,
        database: Database,
        wall_clock: Callable[[], float],
        config: StandingConfig | None = None,
        *,
        max_peers: int = MAX_PEERS,
        max_notes: int = MAX_NOTES,
        max_note_bytes: int = MAX_NOTE_BYTES,
    ) -> None:
        """
        @param database: with the tables of L{meshkit.audit.schema}.
        @param wall_clock: seconds of Unix time.
        @param max_peers: peers of which something is remembered.
        @param max_notes: audits without a verdict, of all peers together.
        @param max_note_bytes: bytes that it takes to ask them again.
        """
        self._database = database
        self._wall_clock = wall_clock
        self._config = config or StandingConfig()
        self._max_peers = max_peers
        self._max_notes = max_notes
        self._max_note_bytes = max_note_bytes
        self._peers: dict[PublicKey, Standing] = {}
        self._notes: dict[PublicKey, dict[bytes, int]] = {}
        self._loaded = False
        self._reached: int | None = None
        # What was counted last, and when.
        self._counted: tuple[int, Totals] | None = None

    def start(self) -> Deferred[None]:
        """
        Read what is known.  Nobody is given anything before that was done.

        @return: Deferred that fails as the database does.
        """
        reading = self._database.read(lambda db: (load_peers(db), load_notes(db)))
        return reading.addCallback(self._began)

    def _began(
        self, found: tuple[dict[PublicKey, Standing], dict[PublicKey, dict[bytes, int]]]
    ) -> None:
        self._peers, self._notes = found
        self._loaded = True
        self._counted = None

    def _now(self) -> int:
        return int(self._wall_clock())

    def _do(
        self, job: Callable[[sqlite3.Connection], T], then: Callable[[T], object]
    ) -> Deferred[None]:
        """
        Write something, and then note it in memory, even if whoever asked for it does not want
        to know any more.
        """
        if not self._loaded:
            return fail(NotReady("what is known of peers has not been read yet"))
        told: Deferred[None] = Deferred()

        def done(result: T) -> None:
            then(result)
            self._counted = None
            told.callback(None)

        self._database.write(job).addCallbacks(done, told.errback)
        return told

    # --- what is thought of peers

    def judge(self, peer: PublicKey) -> Judgement:
        """@return: what a peer is to get, as things are now."""
        if not self._loaded:
            return Judgement(0, "what is known of it has not been read yet", passing=True)
        return judge(self._peers.get(peer), self._now(), self._config, owes=self._owes(peer))

    def _owes(self, peer: PublicKey) -> int:
        # One that was never tried again is one that is under way, or was when we stopped: that
        # is not the peer's fault.
        return sum(tries > 0 for tries in self._notes.get(peer, {}).values())

    def totals(self) -> Totals:
        """
        @return: as it is since something was written down, or was within L{TOTALS_SECONDS}: to
            judge all of many peers takes long, and those who watch a node ask often.
        """
        now = self._now()
        if self._counted is None or abs(now - self._counted[0]) >= TOTALS_SECONDS:
            owing = [peer for peer in self._notes if self._owes(peer)]
            known = dict.fromkeys([*self._peers, *owing])
            refused = sum(self.judge(peer).refused is not None for peer in known)
            self._counted = now, Totals(refused, len(owing))
        return self._counted[1]

    def find(self, peer: PublicKey) -> KnownPeer:
        """@return: what is known of a peer, whoever it is."""
        standing = self._peers.get(peer)
        return KnownPeer(
            peer,
            None if standing is None else standing.at(self._now(), self._config),
            self.judge(peer),
            self._owes(peer),
        )

    def known(self) -> list[KnownPeer]:
        """@return: all of which something is known, in the order of their keys."""
        peers = {*self._peers, *(peer for peer in self._notes if self._owes(peer))}
        return [self.find(peer) for peer in sorted(peers, key=lambda peer: peer.raw)]

    def record(self, outcomes: Sequence[ShareOutcome], now: int) -> Deferred[None]:
        """
        Write outcomes down.  Those of a peer that are given at once are one step: see
        L{meshkit.audit.standing.recorded}.

        @param now: seconds of Unix time.
        @return: Deferred that fires when they are on the disk.  Fails as the database does, and
            with L{NotReady} before L{start} is done.
        """
        results = self._excused(results_of(outcomes), now)
        return self._do(
            lambda db: record(db, results, now, self._config, self._max_peers), self._recorded
        )

    def _excused(self, results: dict[PublicKey, Results], now: int) -> dict[PublicKey, Results]:
        """
        Whoever was not reached while nobody was is not to blame: after a week without a network
        there would be no peer left that may be given anything.
        """
        if any(each.online for each in results.values()):
            self._reached = now
        if self._reached is not None and abs(now - self._reached) <= OUTAGE_SECONDS:
            return results
        return {peer: evolve(each, excused=True) for peer, each in results.items()}

    def _recorded(self, found: tuple[dict[PublicKey, Standing], list[PublicKey]]) -> None:
        changed, gone = found
        self._peers.update(changed)
        for peer in gone:
            self._peers.pop(peer, None)

    def forgive(self, peer: PublicKey) -> Deferred[None]:
        """
        Let a peer begin anew, as the owner says: it is new, and owes no answer.

        @return: Deferred.  Fails with L{NotFound} if nothing is known of it.
        """

        def forgiven(standing: Standing | None) -> None:
            self._notes.pop(peer, None)
            if standing is not None:
                self._peers[peer] = standing

        now = self._now()
        return self._do(lambda db: forgive(db, peer, now, self._config), forgiven)

    # --- audits without a verdict

    def put(self, contained: Contained) -> Deferred[None]:
        """
        See L{meshkit.audit.containment.Containments.put}.  Fails with L{Overloaded} if there are
        too many.
        """
        body = contained.encode()

        def noted(_: None) -> None:
            self._notes.setdefault(contained.peer, {})[contained.audit_id] = contained.tries

        return self._do(
            lambda db: _put_note(db, contained, body, self._max_notes, self._max_note_bytes),
            noted,
        )

    def of(self, peer: PublicKey) -> Deferred[Sequence[Contained]]:
        """See L{meshkit.audit.containment.Containments.of}."""
        if not self._loaded:
            return fail(NotReady("what is known of peers has not been read yet"))
        if peer not in self._notes:
            return succeed(())
        return self._database.read(lambda db: notes_of(db, peer))

    def remove(self, peer: PublicKey, audit_id: bytes) -> Deferred[None]:
        """See L{meshkit.audit.containment.Containments.remove}."""

        def removed(_: None) -> None:
            notes = self._notes.get(peer, {})
            notes.pop(audit_id, None)
            if not notes:
                self._notes.pop(peer, None)

        return self._do(lambda db: _remove_note(db, peer, audit_id), removed)
