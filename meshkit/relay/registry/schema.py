"""
The table of a relay's peers.  Pure.

Script I{i} takes it from version I{i} to I{i+1}.  One that has been released is never changed: what
comes later is added at the end.
"""

from __future__ import annotations

from typing import Final

_REGISTRATIONS: Final = """
    -- The last registration of each peer.  number is in milliseconds since 1970, by the clock of
    -- the peer; since (when it came) and seen (when it was there last) are in seconds, by ours.
    CREATE TABLE registrations (
        peer BLOB PRIMARY KEY NOT NULL,
        statement BLOB NOT NULL,
        number INTEGER NOT NULL,
        listed INTEGER NOT NULL CHECK (listed IN (0, 1)),
        stays INTEGER NOT NULL CHECK (stays IN (0, 1)),
        since INTEGER NOT NULL,
        seen INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX registrations_listed ON registrations (peer) WHERE listed AND stays;
    CREATE INDEX registrations_by_time ON registrations (stays, seen);
    CREATE INDEX registrations_that_left ON registrations (number) WHERE NOT stays;
    """

MIGRATIONS: Final = (_REGISTRATIONS,)
