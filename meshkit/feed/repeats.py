"""
Publishing once what is asked for twice.

A client that heard no answer cannot know whether its message was stored.  One that names
its request with a key of its own making asks again with the same key, and gets the answer
to the first: what came of a request is written in the same transaction as its messages, so
that there are both or neither, whenever the node is killed.  Of several at the same time the
first one publishes, since one thread writes, one after the other.

A request that failed has left nothing behind: with its key it is tried anew.

What is kept of a key and its request are keyed hashes, so that the database does not
tell what was sealed for others to those who do not have the key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import Final

import msgspec
from attrs import frozen

from meshkit.errors import KeyReused
from meshkit.feed.message import Message

#: Keys that are remembered; a new one takes the place of the oldest.
MAX_KEYS: Final = 10_000
#: How long each is.
MAX_AGE_NS: Final = 24 * 3_600 * 10**9

MIGRATION: Final = """
    -- Requests to publish that named themselves: see meshkit.feed.repeats.  The last of the
    -- messages that became of each, and how many there were.  Keys are in order of position.
    CREATE TABLE feed_keys (
        position INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        request BLOB NOT NULL,
        count INTEGER NOT NULL,
        last INTEGER NOT NULL,
        last_hash BLOB NOT NULL,
        warnings BLOB NOT NULL,
        made_ns INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX feed_keys_made ON feed_keys (made_ns);
"""


@frozen
class Named:
    """
    A request with its key, as both are kept.

    @ivar key: 32 bytes.
    @ivar request: 32 bytes: the same for the same request.
    """

    key: bytes
    request: bytes

    @classmethod
    def of(cls, key: str, request: bytes) -> Named:
        """
        @param key: as the client gave it.
        @param request: a text that is the same for the same request, and for no other.
        """
        spelt = key.encode("utf-8")
        secret = sha256(spelt).digest()
        digest = blake2b(request, digest_size=32, key=secret, person=b"feed request").digest()
        return cls(blake2b(secret, digest_size=32, person=b"feed key").digest(), digest)


@frozen
class Before:
    """
    What came of a request when it was made for the first time.

    @ivar count: how many messages.
    @ivar last: sequence number of the last of them.
    @ivar last_hash: its hash.
    @ivar warnings: what was said beside the answer.
    """

    count: int
    last: int
    last_hash: bytes
    warnings: list[str]


def find(connection: sqlite3.Connection, named: Named, now_ns: int) -> Before | None:
    """
    @return: what came of this request before, if its key is known.
    @raise KeyReused: if the key belongs to another request.
    """
    row = connection.execute(
        "SELECT request, count, last, last_hash, warnings FROM feed_keys "
        "WHERE key = ? AND made_ns > ?",
        (named.key, now_ns - MAX_AGE_NS),
    ).fetchone()
    if row is None:
        return None
    request, count, last, last_hash, warnings = row
    if request != named.request:
        raise KeyReused(
            "this idempotency key was used for another request: make a new one for each, and "
            "keep it for repetitions"
        )
    return Before(count, last, last_hash, msgspec.json.decode(warnings, type=list[str]))


def remember(
    connection: sqlite3.Connection,
    named: Named,
    messages: Sequence[Message],
    warnings: Sequence[str],
    now_ns: int,
) -> None:
    """
    Write down what comes of a request, of which L{find} knows nothing, and forget what is
    too old or too much.

    @param messages: one or more; stored in the same transaction.
    """
    last = messages[-1]
    # Also one of this key that is too old.
    connection.execute(
        "DELETE FROM feed_keys WHERE key = ? OR made_ns <= ?", (named.key, now_ns - MAX_AGE_NS)
    )
    cursor = connection.execute(
        "INSERT INTO feed_keys (key, request, count, last, last_hash, warnings, made_ns) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            named.key,
            named.request,
            len(messages),
            last.sequence,
            bytes.fromhex(last.hash),
            msgspec.json.encode(warnings),
            now_ns,
        ),
    )
    assert cursor.lastrowid is not None
    # Positions only grow: there are never more than there are numbers between them.
    connection.execute("DELETE FROM feed_keys WHERE position <= ?", (cursor.lastrowid - MAX_KEYS,))
