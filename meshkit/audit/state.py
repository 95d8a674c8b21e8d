"""
What passes over objects know and have done, in SQLite.

One scheduler makes passes at a time.  It takes the lead for a while, and prolongs it while it is
at work.  Whoever takes it gets a number that is larger than that of everybody before, the fence,
and all that a pass writes is written only if that is still the last one
(U{https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html}).  So one that was
held up beyond its time can destroy nothing.

Functions take an open connection, and are run by L{meshkit.runtime.database.Database}: those that
write, on its one writer thread.  Each is whole: it is stored with all that it says, or not at all.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
from attrs import evolve, field, frozen
from msgspec import Struct

from meshkit.audit import replay
from meshkit.audit.decisions import Action, Code, Decision, ObjectFacts, Policy, Settled, ShareFacts
from meshkit.audit.values import Outcome
from meshkit.errors import LeadLost, LeadTaken, NotFound, ObjectAmbiguous
from meshkit.identity.keys import PublicKey
from meshkit.runtime.moments import rfc3339

#: Bytes of the id of a scheduler.
HOLDER_BYTES: Final = 8
#: Passes that are remembered, with what happened in them.
MAX_RUNS: Final = 100
#: Events of one pass that are; the others are counted.
MAX_EVENTS: Final = 10_000
#: Events of all passes; those of the oldest go first.
MAX_ALL_EVENTS: Final = 100_000
#: Bytes of all traces, compressed; those of the oldest passes go first.
MAX_TRACE_BYTES: Final = 64 * 1024 * 1024
#: Peers of which it is remembered since when they are away.
MAX_SEEN: Final = 10_000
#: Seconds after which a peer that nobody asks any more is forgotten.
SEEN_SECONDS: Final = 30 * 86_400
#: Characters of a sentence.
MAX_TEXT: Final = 500

#: Characters of a prefix by which an object may be called.
MIN_PREFIX: Final = 8

RunState = Literal["running", "done", "stopped", "failed", "abandoned"]


# --- the lead --------------------------------------------------------------------------


@frozen
class Lead:
    """
    The right to make passes.

    @ivar holder: who has it, L{HOLDER_BYTES} bytes.
    @ivar fence: grows each time that somebody takes it.
    @ivar until_ns: until when, in nanoseconds since 1970.
    """

    holder: bytes = field(repr=lambda holder: holder.hex())
    fence: int
    until_ns: int


def lead(connection: sqlite3.Connection) -> Lead | None:
    """@return: who has it, or had it last; L{None} if nobody ever had."""
    row = connection.execute("SELECT holder, fence, until_ns FROM audit_lead").fetchone()
    return None if row is None else Lead(*row)


def take_lead(connection: sqlite3.Connection, holder: bytes, now_ns: int, seconds: float) -> Lead:
    """
    @param holder: who wants it.
    @param seconds: for how long.
    @raise LeadTaken: if somebody else has it.
    """
    length = int(seconds * 10**9)
    before = lead(connection)
    # Nobody takes it for longer than that: if it says so, the clock was set back.
    held = before is not None and now_ns < before.until_ns <= now_ns + 2 * length
    if before is not None and held and before.holder != holder:
        raise LeadTaken(
            f"the scheduler {before.holder.hex()} makes the passes until "
            f"{rfc3339(before.until_ns)}, or for longer: one is enough. If it was killed, this "
            f"one takes over then"
        )
    taken = Lead(holder, 1 if before is None else before.fence + 1, now_ns + length)
    connection.execute(
        "INSERT OR REPLACE INTO audit_lead (one, holder, fence, until_ns) VALUES (1, ?, ?, ?)",
        (taken.holder, taken.fence, taken.until_ns),
    )
    return taken


def check_lead(connection: sqlite3.Connection, mine: Lead) -> None:
    """
    @raise LeadLost: if somebody has taken it since.
    """
    now = lead(connection)
    if now is None or (now.holder, now.fence) != (mine.holder, mine.fence):
        by = "nobody" if now is None else now.holder.hex()
        raise LeadLost(
            f"the scheduler {by} has taken over from {mine.holder.hex()}, which was held up for "
            f"too long: nothing was written"
        )


def keep_lead(connection: sqlite3.Connection, mine: Lead, until_ns: int) -> Lead:
    """
    @return: the same for longer.
    @raise LeadLost: as L{check_lead}.
    """
    check_lead(connection, mine)
    connection.execute("UPDATE audit_lead SET until_ns = ?", (until_ns,))
    return evolve(mine, until_ns=until_ns)


def leave_lead(connection: sqlite3.Connection, mine: Lead) -> None:
    """
    Let others have it at once, whatever their clocks say.

    @raise LeadLost: as L{check_lead}.
    """
    keep_lead(connection, mine, 0)


# --- what is known of objects --------------------------------------------------------------


class _Share(Struct, frozen=True, array_like=True):
    peer: bytes | None
    outcome: Outcome | None
    at: int | None
    good_at: int | None
    since: int | None


_shares: Final = msgspec.msgpack.Decoder(tuple[_Share, ...])
_packer: Final = msgspec.msgpack.Encoder()


@frozen
class ObjectState:
    """
    What is known of an object that is looked after.

    @ivar content_id: which.
    @ivar run: that looked at it last.
    @ivar version: of its placement then.
    @ivar required: shares that suffice.
    @ivar total: how many there are.
    @ivar good: how many were good.
    @ivar action: what was decided,
    @ivar code: why,
    @ivar reason: and the same in a sentence.
    @ivar urgency: expected seconds to its loss.
    @ivar due_at: when it is looked at again.
    @ivar failures: repairs that have failed in a row.
    @ivar not_before: it is not repaired before that.
    @ivar repaired_at: when it was last.
    @ivar shares: of each, what L{ShareFacts} says of it; without lease and domain.
    """

    content_id: bytes = field(repr=lambda content_id: content_id.hex()[:16])
    run: int
    version: int
    required: int
    total: int
    good: int
    action: Action
    code: Code
    reason: str
    urgency: float
    due_at: int
    failures: int
    not_before: int
    repaired_at: int | None
    shares: tuple[ShareFacts, ...]

    @classmethod
    def of(
        cls,
        run: int,
        facts: ObjectFacts,
        decision: Decision,
        settled: Settled,
    ) -> ObjectState:
        """@return: what is to be remembered of an object."""
        return cls(
            bytes.fromhex(facts.object),
            run,
            facts.version,
            facts.required,
            facts.total,
            decision.good,
            decision.action,
            decision.code,
            decision.reason,
            decision.urgency,
            settled.due_at,
            settled.failures,
            settled.not_before,
            facts.repaired_at,
            facts.shares,
        )


_OBJECT: Final = (
    "content_id, run, version, required, total, good, action, code, reason, urgency, due_at, "
    "failures, not_before, repaired_at, shares"
)
_PLACES: Final = ", ".join("?" * 15)


def _object(row: Any) -> ObjectState:
    *rest, packed = row
    shares = tuple(
        ShareFacts(
            number,
            None if each.peer is None else PublicKey(each.peer).text,
            outcome=each.outcome,
            at=each.at,
            good_at=each.good_at,
            since=each.since,
        )
        for number, each in enumerate(_shares.decode(packed))
    )
    return ObjectState(*(*rest, shares))


def _object_row(state: ObjectState, keys: dict[str, bytes]) -> tuple[Any, ...]:
    def raw(peer: str | None) -> bytes | None:
        if peer is None:
            return None
        if peer not in keys:
            keys[peer] = PublicKey.parse(peer).raw
        return keys[peer]

    packed = [
        _Share(raw(each.peer), each.outcome, each.at, each.good_at, each.since)
        for each in state.shares
    ]
    return (
        state.content_id,
        state.run,
        state.version,
        state.required,
        state.total,
        state.good,
        state.action,
        state.code,
        state.reason,
        state.urgency,
        state.due_at,
        state.failures,
        state.not_before,
        state.repaired_at,
        _packer.encode(packed),
    )


def objects(
    connection: sqlite3.Connection, content_ids: Sequence[bytes]
) -> dict[bytes, ObjectState]:
    """@return: what is known of these objects, by id; those that are new are left out."""
    found = {}
    # SQLite takes some hundreds of values in any of its versions.
    for start in range(0, len(content_ids), 500):
        some = content_ids[start : start + 500]
        rows = connection.execute(
            f"SELECT {_OBJECT} FROM audit_objects WHERE content_id IN "
            f"({', '.join('?' * len(some))}) ORDER BY content_id",
            some,
        )
        found.update({row[0]: _object(row) for row in rows})
    return found


def resolve(connection: sqlite3.Connection, prefix: str) -> ObjectState:
    """
    @param prefix: the beginning of a content id, at least L{MIN_PREFIX} lower-case hex digits.
    @raise NotFound: if no pass has looked at such an object.
    @raise ObjectAmbiguous: if several begin like that.
    """
    low = bytes.fromhex(prefix + "0" * (len(prefix) % 2))
    high = bytes.fromhex(prefix + "f" * (len(prefix) % 2)) + b"\xff" * (33 - len(prefix) // 2)
    rows = connection.execute(
        f"SELECT {_OBJECT} FROM audit_objects WHERE content_id BETWEEN ? AND ? "
        "ORDER BY content_id LIMIT 2",
        (low, high),
    ).fetchall()
    if not rows:
        raise NotFound(f"no pass has looked at an object {prefix}")
    if len(rows) > 1:
        raise ObjectAmbiguous(f"several objects begin with {prefix}: give more digits")
    return _object(rows[0])


def degraded(
    connection: sqlite3.Connection, limit: int, offset: int = 0
) -> tuple[list[ObjectState], int]:
    """@return: objects that are not wholly healthy, the most urgent first; how many there are."""
    (count,) = connection.execute(
        "SELECT count(*) FROM audit_objects WHERE code <> 'healthy'"
    ).fetchone()
    rows = connection.execute(
        f"SELECT {_OBJECT} FROM audit_objects WHERE code <> 'healthy' "
        "ORDER BY urgency, content_id LIMIT ? OFFSET ?",
        (limit, offset),
    )
    return [_object(row) for row in rows], count


def all_objects(connection: sqlite3.Connection) -> Iterator[ObjectState]:
    """@return: all, one after another, in the order of their ids."""
    for row in connection.execute(f"SELECT {_OBJECT} FROM audit_objects ORDER BY content_id"):
        yield _object(row)


def codes(connection: sqlite3.Connection) -> dict[str, int]:
    """@return: how many objects there are of each code."""
    return dict(
        connection.execute(
            "SELECT code, count(*) FROM audit_objects GROUP BY code ORDER BY code"
        ).fetchall()
    )


# --- peers ---------------------------------------------------------------------------------


@frozen
class Seen:
    """
    When a peer was asked.

    @ivar peer: 32 bytes.
    @ivar asked: when, last.
    @ivar since: from when on it is away; L{None} if it is not.
    """

    peer: bytes
    asked: int
    since: int | None


def seen(connection: sqlite3.Connection) -> list[Seen]:
    """@return: all peers that were asked lately, in the order of their keys."""
    rows = connection.execute("SELECT peer, asked, since FROM audit_seen ORDER BY peer")
    return [Seen(*row) for row in rows]


def seen_peer(connection: sqlite3.Connection, peer: bytes) -> Seen | None:
    """@return: when a peer was asked; L{None} if it never was, or not any more."""
    row = connection.execute(
        "SELECT peer, asked, since FROM audit_seen WHERE peer = ?", (peer,)
    ).fetchone()
    return None if row is None else Seen(*row)


def held_by(connection: sqlite3.Connection, peer: str) -> list[tuple[bytes, ShareFacts]]:
    """
    Looks through all objects.

    @param peer: its key, as text.
    @return: the shares that a peer has, as far as passes have seen, with their objects.
    """
    return [
        (each.content_id, share)
        for each in all_objects(connection)
        for share in each.shares
        if share.peer == peer
    ]


# --- passes ----------------------------------------------------------------------------------


class Metrics(Struct, frozen=True, omit_defaults=True):
    """
    What a pass has done.

    @ivar objects: that are looked after.
    @ivar due: that were looked at.
    @ivar skipped: whose time had not come.
    @ivar asked: shares that peers were asked about.
    @ivar outcomes: what came of that, by outcome.
    @ivar codes: what was decided, by code.
    @ivar repaired: objects of which shares were made anew or moved.
    @ivar not_repaired: objects of which that failed.
    @ivar placed: shares that were made anew or moved.
    @ivar deferred: shares that had to wait.
    @ivar read: bytes that were read for repairs.
    @ivar written: bytes that were written.
    @ivar recovered: passes before it that had been broken off.
    @ivar unwritten: events that were more than are kept.
    @ivar seconds: how long it took.
    """

    objects: int = 0
    due: int = 0
    skipped: int = 0
    asked: int = 0
    outcomes: dict[str, int] = {}
    codes: dict[str, int] = {}
    repaired: int = 0
    not_repaired: int = 0
    placed: int = 0
    deferred: int = 0
    read: int = 0
    written: int = 0
    recovered: int = 0
    unwritten: int = 0
    seconds: float = 0.0


@frozen
class Run:
    """
    A pass.

    @ivar id: counts up.
    @ivar holder: the scheduler that makes or made it.
    @ivar fence: with which.
    @ivar state: C{stopped} if it was interrupted, C{abandoned} if it was broken off.
    @ivar forced: somebody has asked for it.
    @ivar begun_ns: when it was begun, in nanoseconds since 1970.
    @ivar ended_ns: when it ended; L{None} if it is under way.
    @ivar error: why it failed.
    @ivar policy: how objects were looked after.
    @ivar metrics: what it has done.
    """

    id: int
    holder: bytes = field(repr=lambda holder: holder.hex())
    fence: int
    state: RunState
    forced: bool
    begun_ns: int
    ended_ns: int | None
    error: str | None
    policy: Policy
    metrics: Metrics


@frozen
class Event:
    """
    Something that happened in a pass.

    @ivar kind: what, for programs.
    @ivar text: the same for people.
    @ivar object: of which object, 32 bytes.
    @ivar share: of which share.
    @ivar peer: who, 32 bytes.
    @ivar at_ns: when, in nanoseconds since 1970.  It grows within a pass.
    @ivar number: counts up within the pass.
    """

    kind: str
    text: str
    object: bytes | None = None
    share: int | None = None
    peer: bytes | None = None
    at_ns: int = 0
    number: int = 0


_RUN: Final = "id, holder, fence, state, forced, begun_ns, ended_ns, error, policy, metrics"


def _run(row: Any) -> Run:
    id_, holder, fence, state, forced, begun_ns, ended_ns, error, policy, metrics = row
    return Run(
        id_,
        holder,
        fence,
        state,
        bool(forced),
        begun_ns,
        ended_ns,
        error,
        msgspec.json.decode(policy, type=Policy),
        msgspec.json.decode(metrics, type=Metrics),
    )


def _json(value: Struct) -> str:
    return msgspec.json.encode(value).decode("ascii")


def begin_run(
    connection: sqlite3.Connection, mine: Lead, now_ns: int, policy: Policy, forced: bool
) -> Run:
    """
    Begin a pass.  Those that are still said to be under way were broken off, as nobody else has
    the lead: they are C{abandoned}, and all that they had written stands.

    @raise LeadLost: if somebody else has the lead.
    """
    check_lead(connection, mine)
    broken = connection.execute(
        "UPDATE audit_runs SET state = 'abandoned', ended_ns = max(?, begun_ns + 1), "
        "error = 'it was broken off' WHERE state = 'running'",
        (now_ns,),
    ).rowcount
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM audit_runs").fetchone()
    run = Run(
        last + 1,
        mine.holder,
        mine.fence,
        "running",
        forced,
        now_ns,
        None,
        None,
        policy,
        Metrics(recovered=broken),
    )
    connection.execute(
        f"INSERT INTO audit_runs ({_RUN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run.id,
            run.holder,
            run.fence,
            run.state,
            run.forced,
            run.begun_ns,
            run.ended_ns,
            run.error,
            _json(policy),
            _json(run.metrics),
        ),
    )
    _write_trace(
        connection, run.id, [replay.encode(replay.Head(run=run.id, begun_ns=now_ns, policy=policy))]
    )
    return run


@frozen
class Step:
    """
    Some objects that a pass is done with: all that is written of them together.

    @ivar objects: what is known of them now.
    @ivar events: what happened, numbered.
    @ivar trace: lines of the trace.
    @ivar seen: peers that were asked.
    @ivar metrics: what the pass has done so far.
    """

    objects: Sequence[ObjectState] = ()
    events: Sequence[Event] = ()
    trace: Sequence[bytes] = ()
    seen: Sequence[Seen] = ()
    metrics: Metrics | None = None


def write_step(connection: sqlite3.Connection, mine: Lead, run: int, step: Step) -> None:
    """
    @raise LeadLost: if somebody else has the lead.
    """
    check_lead(connection, mine)
    keys: dict[str, bytes] = {}
    connection.executemany(
        f"INSERT OR REPLACE INTO audit_objects ({_OBJECT}) VALUES ({_PLACES})",
        [_object_row(each, keys) for each in step.objects],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO audit_seen (peer, asked, since) VALUES (?, ?, ?)",
        [(each.peer, each.asked, each.since) for each in step.seen],
    )
    _write_events(connection, run, step.events)
    if step.trace:
        _write_trace(connection, run, step.trace)
    if step.metrics is not None:
        connection.execute(
            "UPDATE audit_runs SET metrics = ? WHERE id = ?", (_json(step.metrics), run)
        )


def _write_events(connection: sqlite3.Connection, run: int, events: Sequence[Event]) -> None:
    connection.executemany(
        "INSERT INTO audit_events (run, number, at_ns, kind, object, share, peer, text) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                run,
                each.number,
                each.at_ns,
                each.kind,
                each.object,
                each.share,
                each.peer,
                each.text[:MAX_TEXT],
            )
            for each in events
        ],
    )


def _write_trace(connection: sqlite3.Connection, run: int, lines: Sequence[bytes]) -> None:
    # The same keys and words again and again: a tenth of it is left.
    body = zlib.compress(b"".join(line + b"\n" for line in lines), 1)
    connection.execute(
        "INSERT INTO audit_traces (run, number, body) VALUES (?, "
        "(SELECT coalesce(max(number), 0) + 1 FROM audit_traces WHERE run = ?), ?)",
        (run, run, body),
    )


def untracked(
    connection: sqlite3.Connection, after: bytes, last: bytes | None, tracked: Sequence[bytes]
) -> list[bytes]:
    """
    @param after: of the ids behind this one
    @param last: and up to this one, or to the end,
    @param tracked: only these are looked after.
    @return: those of which something is known though they are not, in order.
    """
    where, values = "content_id > ?", [after]
    if last is not None:
        where, values = f"{where} AND content_id <= ?", [after, last]
    rows = connection.execute(
        f"SELECT content_id FROM audit_objects WHERE {where} ORDER BY content_id", values
    )
    now = frozenset(tracked)
    return [content_id for (content_id,) in rows if content_id not in now]


def forget(connection: sqlite3.Connection, mine: Lead, content_ids: Sequence[bytes]) -> None:
    """
    Forget objects.

    @raise LeadLost: if somebody else has the lead.
    """
    check_lead(connection, mine)
    connection.executemany(
        "DELETE FROM audit_objects WHERE content_id = ?", [(each,) for each in content_ids]
    )


def end_run(
    connection: sqlite3.Connection,
    mine: Lead,
    run: int,
    state: RunState,
    now_ns: int,
    step: Step,
    error: str | None = None,
) -> None:
    """
    A pass has ended, one way or another.  What happened long before is forgotten, and others may
    have the lead.

    @raise LeadLost: if somebody else has the lead.
    """
    write_step(connection, mine, run, step)
    connection.execute(
        "UPDATE audit_runs SET state = ?, ended_ns = max(?, begun_ns + 1), error = ? "
        "WHERE id = ? AND state = 'running'",
        (state, now_ns, None if error is None else error[:MAX_TEXT], run),
    )
    forget_old(connection, now_ns // 10**9)
    leave_lead(connection, mine)


def forget_old(
    connection: sqlite3.Connection,
    now: int,
    *,
    runs: int = MAX_RUNS,
    all_events: int = MAX_ALL_EVENTS,
    trace_bytes: int = MAX_TRACE_BYTES,
    peers: int = MAX_SEEN,
) -> None:
    """Forget what is more than is kept."""
    last = connection.execute(
        "SELECT id FROM audit_runs ORDER BY id DESC LIMIT 1 OFFSET ?", (runs,)
    ).fetchone()
    if last is not None:
        connection.execute("DELETE FROM audit_runs WHERE id <= ?", last)
        connection.execute("DELETE FROM audit_events WHERE run <= ?", last)
        connection.execute("DELETE FROM audit_traces WHERE run <= ?", last)
    counts = connection.execute(
        "SELECT run, count(*) FROM audit_events GROUP BY run ORDER BY run DESC"
    ).fetchall()
    sizes = connection.execute(
        "SELECT run, sum(length(body)) FROM audit_traces GROUP BY run ORDER BY run DESC"
    ).fetchall()
    connection.execute("DELETE FROM audit_events WHERE run <= ?", (_beyond(counts, all_events),))
    connection.execute("DELETE FROM audit_traces WHERE run <= ?", (_beyond(sizes, trace_bytes),))
    connection.execute("DELETE FROM audit_seen WHERE asked < ?", (now - SEEN_SECONDS,))
    connection.execute(
        "DELETE FROM audit_seen WHERE peer NOT IN "
        "(SELECT peer FROM audit_seen ORDER BY asked DESC, peer LIMIT ?)",
        (peers,),
    )


def _beyond(amounts: Sequence[tuple[int, int]], limit: int) -> int:
    """
    @param amounts: what each pass has, the latest pass first.
    @return: the latest pass for which, with all after it, that is too much; 0 if none is.
    """
    total = 0
    for run, amount in amounts:
        total += amount
        if total > limit:
            return run
    return 0


def find_run(connection: sqlite3.Connection, run: int | None = None) -> Run:
    """
    @param run: which; L{None} is the last one.
    @raise NotFound: if there is none, or not any more.
    """
    if run is None:
        row = connection.execute(f"SELECT {_RUN} FROM audit_runs ORDER BY id DESC LIMIT 1")
    else:
        row = connection.execute(f"SELECT {_RUN} FROM audit_runs WHERE id = ?", (run,))
    found = row.fetchone()
    if found is None:
        raise NotFound(
            "no pass was made so far"
            if run is None
            else f"there is no pass {run}, or not any more: the last {MAX_RUNS} are remembered"
        )
    return _run(found)


def runs(connection: sqlite3.Connection, limit: int) -> list[Run]:
    """@return: the last ones, the latest first."""
    rows = connection.execute(f"SELECT {_RUN} FROM audit_runs ORDER BY id DESC LIMIT ?", (limit,))
    return [_run(row) for row in rows]


def _event(row: Any) -> Event:
    number, at_ns, kind, object_, share, peer, text = row
    return Event(kind, text, object_, share, peer, at_ns, number)


_EVENT: Final = "number, at_ns, kind, object, share, peer, text"


def events(
    connection: sqlite3.Connection, run: int, limit: int = MAX_EVENTS, after: int = 0
) -> list[Event]:
    """@return: what happened in a pass, in order, behind the event of a number."""
    rows = connection.execute(
        f"SELECT {_EVENT} FROM audit_events WHERE run = ? AND number > ? ORDER BY number LIMIT ?",
        (run, after, limit),
    )
    return [_event(row) for row in rows]


def last_event(connection: sqlite3.Connection, run: int) -> int:
    """@return: the number of the last event of a pass; 0 if there is none."""
    (last,) = connection.execute(
        "SELECT coalesce(max(number), 0) FROM audit_events WHERE run = ?", (run,)
    ).fetchone()
    return int(last)


def events_about(
    connection: sqlite3.Connection,
    *,
    object_: bytes | None = None,
    peer: bytes | None = None,
    limit: int,
) -> list[tuple[int, Event]]:
    """@return: the last ones about an object or a peer, the latest first, with their passes."""
    column, value = ("object", object_) if peer is None else ("peer", peer)
    rows = connection.execute(
        f"SELECT run, {_EVENT} FROM audit_events WHERE {column} = ? "
        "ORDER BY run DESC, number DESC LIMIT ?",
        (value, limit),
    )
    return [(run, _event(row)) for run, *row in rows]


def trace(connection: sqlite3.Connection, run: int) -> Iterator[bytes]:
    """
    @return: the lines of the trace of a pass, one after another; none if it was forgotten.
    """
    for (body,) in connection.execute(
        "SELECT body FROM audit_traces WHERE run = ? ORDER BY number", (run,)
    ):
        yield from zlib.decompress(body).splitlines()
