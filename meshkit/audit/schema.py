"""
The tables of audits and repairs, in the node's database.  Pure.

Script I{i} takes them from version I{i} to I{i+1}.  One that has been released is never changed:
what comes later is added at the end.
"""

from __future__ import annotations

from typing import Final

#: What is thought of peers, audits that have no verdict so far, and receipts
#: (L{meshkit.audit.standings}).
_STANDINGS: Final = """
    -- Peers that were audited.  alpha and beta are good and bad results, with forgetting;
    -- unknown_alpha and unknown_beta likewise, of answers that say nothing of a share.  windows
    -- is JSON: [number of the window, results in which it was there, results] each.  failing
    -- and confusing: since when it is refused for that, or NULL.  vetted counts good results
    -- since vetting_since.  All times are seconds of Unix time.
    CREATE TABLE audit_peers (
        peer BLOB PRIMARY KEY NOT NULL,
        since INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        alpha REAL NOT NULL,
        beta REAL NOT NULL,
        unknown_alpha REAL NOT NULL,
        unknown_beta REAL NOT NULL,
        windows TEXT NOT NULL,
        failing INTEGER,
        confusing INTEGER,
        vetted INTEGER NOT NULL,
        vetting_since INTEGER NOT NULL,
        offline_since INTEGER,
        successes INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        unknowns INTEGER NOT NULL,
        offlines INTEGER NOT NULL,
        last_success INTEGER,
        last_failure INTEGER,
        problem TEXT
    ) STRICT;

    -- Audits whose seed a peer was told, or is about to be told, and that have no verdict yet.
    -- since is in milliseconds of Unix time; tries: how often it has not answered; body: what it
    -- takes to ask the same again.
    CREATE TABLE audit_containments (
        peer BLOB NOT NULL,
        audit_id BLOB NOT NULL,
        since INTEGER NOT NULL,
        tries INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (peer, audit_id)
    ) STRICT;

    -- Receipts, as they are given to anybody who wants to verify them.  number counts up;
    -- failed: 1 if a share failed; outcomes is JSON: how many shares had which outcome.
    CREATE TABLE audit_receipts (
        audit_id BLOB PRIMARY KEY NOT NULL,
        number INTEGER NOT NULL UNIQUE,
        peer BLOB NOT NULL,
        judged INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        outcomes TEXT NOT NULL,
        size INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX audit_receipts_of_peer ON audit_receipts (peer, failed, number);
    CREATE INDEX audit_receipts_to_drop ON audit_receipts (failed, number, size);
    """

#: Passes over objects (L{meshkit.audit.state}).
_PASSES: Final = """
    -- Who makes passes: one scheduler at a time.  fence grows whenever somebody takes the lead,
    -- so that one who has lost it can write nothing.  It holds until_ns, since 1970.
    CREATE TABLE audit_lead (
        one INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
        holder BLOB NOT NULL,
        fence INTEGER NOT NULL,
        until_ns INTEGER NOT NULL
    ) STRICT;

    -- What is known of the objects that are looked after, as of the run that looked last.
    -- shares is MessagePack: for each share who has it, the last verdict, and when it was asked
    -- about, was good, and began to be away; seconds of Unix time.  due_at: when it is looked at
    -- again.  not_before: when it may be repaired again.
    CREATE TABLE audit_objects (
        content_id BLOB PRIMARY KEY NOT NULL,
        run INTEGER NOT NULL,
        version INTEGER NOT NULL,
        required INTEGER NOT NULL,
        total INTEGER NOT NULL,
        good INTEGER NOT NULL,
        action TEXT NOT NULL,
        code TEXT NOT NULL,
        reason TEXT NOT NULL,
        urgency REAL NOT NULL,
        due_at INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        not_before INTEGER NOT NULL,
        repaired_at INTEGER,
        shares BLOB NOT NULL
    ) STRICT;
    CREATE INDEX audit_objects_degraded ON audit_objects (urgency, content_id)
        WHERE code <> 'healthy';

    -- Peers that were asked, and since when they are away; NULL if they are not.
    CREATE TABLE audit_seen (
        peer BLOB PRIMARY KEY NOT NULL,
        asked INTEGER NOT NULL,
        since INTEGER
    ) STRICT;
    CREATE INDEX audit_seen_by_time ON audit_seen (asked);

    -- Passes.  policy and metrics are JSON.
    CREATE TABLE audit_runs (
        id INTEGER PRIMARY KEY NOT NULL,
        holder BLOB NOT NULL,
        fence INTEGER NOT NULL,
        state TEXT NOT NULL,
        forced INTEGER NOT NULL,
        begun_ns INTEGER NOT NULL,
        ended_ns INTEGER,
        error TEXT,
        policy TEXT NOT NULL,
        metrics TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_runs_open ON audit_runs (id) WHERE state = 'running';

    -- What happened in them.
    CREATE TABLE audit_events (
        run INTEGER NOT NULL,
        number INTEGER NOT NULL,
        at_ns INTEGER NOT NULL,
        kind TEXT NOT NULL,
        object BLOB,
        share INTEGER,
        peer BLOB,
        text TEXT NOT NULL,
        PRIMARY KEY (run, number)
    ) STRICT, WITHOUT ROWID;

    -- What was decided in them, and of what: lines of JSON, compressed with zlib.
    CREATE TABLE audit_traces (
        run INTEGER NOT NULL,
        number INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (run, number)
    ) STRICT;
    """

#: One script for each piece of this room: add yours at the end.
MIGRATIONS: Final = (_STANDINGS, _PASSES)
