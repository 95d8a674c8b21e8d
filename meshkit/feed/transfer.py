"""
Feeds out of a node and into it, as the texts that were signed.

An export goes through the authors in the order of their keys and through each feed by its
sequence numbers, so that an import finds every message after the one it names.  At the end
of a feed that is forked stand the two messages that prove it: whoever imports them has the
proof.  A page is bounded whatever the feeds are, and where the next one begins is in the
answer; nothing is kept between two of them.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred

from meshkit.feed import operations as offered
from meshkit.feed.chain import Verdict
from meshkit.identity.keys import PublicKey

#: A page of an export ends with the message that takes it over so many bytes ...
PAGE_BYTES: Final = 1024 * 1024
#: ... or with this many messages.
PAGE_MESSAGES: Final = 4_096
#: Refused messages of an import that are told one by one.
TOLD: Final = 20


@frozen
class Place:
    """
    Where a page ended.

    @ivar author: 32-byte key.
    @ivar sequence: all up to there was given.
    """

    author: bytes
    sequence: int


@frozen
class ExportPage:
    """
    @ivar texts: messages as they were signed.
    @ivar end: where to go on; L{None} if this was all.
    @ivar gone: how many messages were left out, as their texts are not kept here.
    """

    texts: list[bytes]
    end: Place | None
    gone: int = 0


def export_page(
    connection: sqlite3.Connection,
    author: bytes | None,
    after: Place | None,
    max_bytes: int,
    max_messages: int,
) -> ExportPage:
    """
    @param author: only this author's.
    @param after: the L{ExportPage.end} of the page before.
    @param max_bytes: the page ends with the message that takes it over so many bytes.
    @param max_messages: ... or with this many messages; a proof is not cut in two.
    """
    texts: list[bytes] = []
    size = gone = 0
    for place, together in _entries(connection, author, after):
        texts.extend(together)
        gone += not together
        size += sum(map(len, together))
        if size > max_bytes or len(texts) >= max_messages:
            return ExportPage(texts, place, gone)
    return ExportPage(texts, None, gone)


def _entries(
    connection: sqlite3.Connection, author: bytes | None, after: Place | None
) -> Iterator[tuple[Place, list[bytes]]]:
    """What follows a place, as it is asked for."""
    where, values = "key >= ?", [b"" if after is None else after.author]
    if author is not None:
        where, values = "key = ?", [author]
    authors = connection.execute(
        f"SELECT id, key, forked FROM feed_authors WHERE {where} ORDER BY key", values
    )
    for number, key, forked in authors:
        begun = after.sequence if after is not None and key == after.author else 0
        yield from _feed(connection, number, key, forked, begun)


def _feed(
    connection: sqlite3.Connection, number: int, key: bytes, forked: int | None, begun: int
) -> Iterator[tuple[Place, list[bytes]]]:
    rows = connection.execute(
        "SELECT sequence, raw FROM feed_messages "
        "WHERE author = ? AND sequence > ? AND (? IS NULL OR sequence < ?) "
        "ORDER BY sequence",
        (number, begun, forked, forked),
    )
    for sequence, raw in rows:
        yield Place(key, sequence), [raw] if raw else []
    if forked is not None and begun < forked:
        (proof,) = connection.execute(
            "SELECT one, other FROM feed_forks WHERE author = ?", (number,)
        ).fetchall()
        yield Place(key, forked), [*proof]


class Transfer:
    """The operations that export and import."""

    def __init__(
        self, database: Any, ingest: Callable[[Sequence[bytes]], Deferred[list[Verdict]]]
    ) -> None:
        """
        @param database: L{meshkit.runtime.database.Database}.
        @param ingest: checks and stores messages; see
            L{meshkit.interfaces.IFeedStore.ingest}.
        """
        self._database = database
        self._ingest = ingest

    async def answer_export(self, request: offered.Export) -> offered.Exported:
        author = None if request.author is None else PublicKey.parse(request.author).raw
        after = None
        if request.after_author is not None:
            after = Place(PublicKey.parse(request.after_author).raw, request.after)
        elif author is not None:
            after = Place(author, request.after)
        page: ExportPage = await self._database.read(
            lambda connection: export_page(connection, author, after, PAGE_BYTES, PAGE_MESSAGES)
        )
        end = page.end
        return offered.Exported(
            messages=[msgspec.Raw(text) for text in page.texts],
            next=None if end is None else offered.Place(PublicKey(end.author).text, end.sequence),
            gone=page.gone,
        )

    async def answer_import(self, request: offered.Import) -> offered.Imported:
        verdicts = await self._ingest([bytes(text) for text in request.messages])
        refused: Counter[str] = Counter()
        told: list[offered.NotImported] = []
        for index, verdict in enumerate(verdicts):
            if verdict.status == "refused" and verdict.error is not None:
                refused[verdict.error.code] += 1
                if len(told) < TOLD:
                    error = verdict.error
                    told.append(offered.NotImported(index, error.code, str(error)))
        statuses = Counter(verdict.status for verdict in verdicts)
        return offered.Imported(
            accepted=statuses["accepted"],
            duplicate=statuses["duplicate"],
            refused=dict(sorted(refused.items())),
            errors=told,
        )
