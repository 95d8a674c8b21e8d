"""
Lists of what is stored, and the search over it.

Like L{meshkit.feed.store}, functions of an open connection: one that cannot write, but for
L{reindex}.  Each list follows an index from its newest entry on, so that what it costs does
not depend on how much is stored; counts end at L{COUNTED}, and only the newest L{RANKED}
hits of a search are ranked.  L{within} ends what takes too long all the same.
"""

from __future__ import annotations

import json
import re
import sqlite3
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, TypeVar

import msgspec
from attrs import frozen

from meshkit.errors import SearchTooSlow
from meshkit.feed.message import Message, content_text, parse_message
from meshkit.feed.store import GONE, NOT_BLOCKED, Row
from meshkit.feed.words import BREAK, indexed_text, part_letters

T = TypeVar("T")

#: How far a list or the hits of a search are counted.
COUNTED: Final = 10_000
#: How many hits are put into an order by relevance: the newest ones.
RANKED: Final = 10_000

#: If a filter leaves so many messages or fewer, they are gathered, and the hits are looked
#: for among them.  If more, hits are looked at one by one until there are enough.
FEW: Final = 250_000

#: Words of a snippet, and most characters of one.
SNIPPET_WORDS: Final = 24
SNIPPET_CHARS: Final = 300

#: Messages that are looked at, and bytes of them that are indexed anew, in one job.
REINDEX_ROWS: Final = 2_000
REINDEX_BYTES: Final = 64 * 1024

# Steps of SQLite's machine between two looks at the clock: about a millisecond.
_STEPS: Final = 20_000

# Marks of hits, while SQLite makes a snippet: control characters, which it is not given.
_BEFORE, _AFTER = "\x01", "\x02"
_CONTROLS: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_MARKS: Final = re.compile(f"{_BEFORE}(.*?){_AFTER}", re.DOTALL)
_ESCAPED_NUL: Final = rb"\u0000"
_BETWEEN_STRINGS: Final = " \u00b7 "


# --- time --------------------------------------------------------------------------


def within(
    connection: sqlite3.Connection,
    expired: Callable[[], bool],
    job: Callable[[sqlite3.Connection], T],
) -> T:
    """
    Run a reading job that is ended when its time is up.

    FTS5 does some of its work in one step of SQLite's machine (the frequency of a word,
    the union of all words with one beginning), which nothing can end: the end may come late
    by that much.

    @param expired: asked about every millisecond, in the thread of the job.
    @raise SearchTooSlow: if it said yes.
    """
    connection.set_progress_handler(expired, _STEPS)
    try:
        return job(connection)
    except sqlite3.OperationalError as e:
        if e.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        raise SearchTooSlow from None
    finally:
        connection.set_progress_handler(None, 0)


# --- lists -------------------------------------------------------------------------


@frozen
class Filter:
    """
    Which messages a list or a search is about.

    @ivar author: only this author's.
    @ivar not_author: all but this author's.
    @ivar content_type: only with this C{type} in the content.
    @ivar tag: only with this tag.
    @ivar relates: only those about the message with this hash.
    @ivar since_ns: only those shown at this time or later, nanoseconds since 1970.
    @ivar until_ns: only those shown before this time.
    @ivar hide_blocked: none of authors that are blocked.
    """

    author: bytes | None = None
    not_author: bytes | None = None
    content_type: str | None = None
    tag: str | None = None
    relates: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    hide_blocked: bool = False

    def conditions(self, source: str = "m") -> list[tuple[str, object]]:
        """
        SQL conditions and their values.

        @param source: alias of the table in which author and time are looked up.  All
            else is in C{m}, C{feed_messages}.
        """
        found: list[tuple[str, object]] = []
        for key, operator in ((self.author, "="), (self.not_author, "IS NOT")):
            if key is not None:
                id_of = "(SELECT id FROM feed_authors WHERE key = ?)"
                found.append((f"{source}.author {operator} {id_of}", key))
        if self.content_type is not None:
            found.append(("m.content_type = ?", self.content_type))
        if self.relates is not None:
            found.append(("m.relates = ?", self.relates))
        if self.tag is not None:
            if source == "t":
                found.append(("t.tag = ?", self.tag))
            else:
                has_tag = "t.tag = ? AND t.shown_ns = m.shown_ns AND t.message = m.id"
                found.append((f"EXISTS (SELECT 1 FROM feed_tags t WHERE {has_tag})", self.tag))
        if self.since_ns is not None:
            found.append((f"{source}.shown_ns >= ?", self.since_ns))
        if self.until_ns is not None:
            found.append((f"{source}.shown_ns < ?", self.until_ns))
        if self.hide_blocked:
            # The plus has SQLite look at what it found, rather than look for it.
            blocked = "SELECT id FROM feed_authors WHERE key IN (SELECT author FROM feed_blocks)"
            found.append((f"+{source}.author NOT IN ({blocked}) AND 1 = ?", 1))
        return found

    def listed(self, source: str = "m") -> list[tuple[str, object]]:
        """What L{conditions} gives, without the messages that are gone."""
        found = self.conditions(source)
        if source == "m" and self.since_ns is None:
            found.append(("m.shown_ns > ?", GONE))
        return found


@frozen
class Listed:
    """
    A page of a list.

    @ivar rows: in order.
    @ivar last: the place of the last row, if there are more after it.
    @ivar total: how many the list has in all, L{COUNTED} at most.
    @ivar counted: C{total} is all there is.
    """

    rows: list[Row]
    last: tuple[int, int] | None
    total: int
    counted: bool


def _source(wanted: Filter) -> tuple[str, str, str]:
    """
    Which index a list follows.  The planner would guess, as it has no statistics.

    @return: what stands after C{FROM}, and where the time and the row id are found in it.
    """
    if wanted.relates is not None:
        index = "feed_messages_relates"
    elif wanted.tag is not None:
        tables = "feed_tags t CROSS JOIN feed_messages m ON m.id = t.message"
        return tables, "t.shown_ns", "t.message"
    elif wanted.author is not None:
        index = "feed_messages_author"
    elif wanted.content_type is not None:
        index = "feed_messages_type"
    else:
        index = "feed_messages_newest"
    return f"feed_messages m INDEXED BY {index}", "m.shown_ns", "m.id"


def list_query(
    wanted: Filter, limit: int, offset: int, after: tuple[int, int] | None
) -> tuple[str, list[object]]:
    """@return: the statement that reads a page of a list, and its values."""
    tables, time, position = _source(wanted)
    found = wanted.listed(time[0])
    where = [condition for condition, _ in found]
    values = [value for _, value in found]
    if after is not None:
        where.append(f"({time}, {position}) < (?, ?)")
        values += after
    return (
        f"SELECT {time}, {position}, {Row.COLUMNS} FROM {tables} "
        f"LEFT JOIN feed_authors a ON a.id = m.author WHERE {' AND '.join(where) or '1'} "
        f"ORDER BY {time} DESC, {position} DESC LIMIT ? OFFSET ?",
        [*values, limit, offset],
    )


def count_query(wanted: Filter, most: int = COUNTED) -> tuple[str, list[object]]:
    """@return: the statement that counts a list up to C{most + 1}, and its values."""
    entries, values = _entries(wanted)
    return f"SELECT count(*) FROM (SELECT 1 {entries} LIMIT ?)", [*values, most + 1]


def _entries(wanted: Filter) -> tuple[str, list[object]]:
    """Tables and conditions of a list without its messages, and the values."""
    tables, time, _ = _source(wanted)
    if time[0] == "t" and wanted.content_type is None:
        tables = "feed_tags t"
    found = wanted.listed(time[0])
    where = " AND ".join(condition for condition, _ in found) or "1"
    return f"FROM {tables} WHERE {where}", [value for _, value in found]


def list_messages(
    connection: sqlite3.Connection,
    wanted: Filter,
    limit: int,
    offset: int = 0,
    after: tuple[int, int] | None = None,
) -> Listed:
    """
    Messages, newest first.  "Newest" is by the author's clock, but never later than
    the arrival; messages of one moment come in the order of their arrival.

    @param limit: how many rows at most.
    @param offset: how many to skip.
    @param after: begin after this place, the C{last} of the page before.
    """
    rows = connection.execute(*list_query(wanted, limit + 1, offset, after)).fetchall()
    (total,) = connection.execute(*count_query(wanted)).fetchone()
    page = rows[:limit]
    return Listed(
        rows=[Row.read(*row[2:]) for row in page],
        last=page[-1][:2] if len(rows) > limit else None,
        total=min(total, COUNTED),
        counted=total <= COUNTED,
    )


def authors_with_tags(
    connection: sqlite3.Connection, tags: Sequence[str], after: bytes, limit: int
) -> list[bytes]:
    """
    See L{meshkit.interfaces.IFeedStore.authors_with_tags}.  What it costs goes by the
    authors, not by the messages.
    """
    rows = connection.execute(
        # From one author to the next, rather than over all messages of each.
        "WITH RECURSIVE wanted (tag) AS (SELECT value FROM json_each(?)), "
        "tagged (tag, author) AS ("
        "  SELECT tag, (SELECT min(author) FROM feed_tags t WHERE t.tag = wanted.tag) FROM wanted"
        "  UNION ALL"
        "  SELECT tag, (SELECT min(author) FROM feed_tags t"
        "    WHERE t.tag = tagged.tag AND t.author > tagged.author)"
        "  FROM tagged WHERE author IS NOT NULL"
        ") SELECT DISTINCT a.key FROM tagged CROSS JOIN feed_authors a ON a.id = tagged.author "
        f"WHERE a.key > ? AND {NOT_BLOCKED} ORDER BY a.key LIMIT ?",
        (json.dumps(list(tags)), after, limit),
    )
    return [key for (key,) in rows]


def tagged_message(
    connection: sqlite3.Connection, author: bytes, tags: Sequence[str]
) -> bytes | None:
    """See L{meshkit.interfaces.IFeedStore.tagged_message}."""
    for tag in tags:
        row = connection.execute(
            "SELECT m.raw FROM feed_tags t CROSS JOIN feed_messages m ON m.id = t.message "
            "JOIN feed_authors a ON a.id = t.author WHERE t.tag = ? AND "
            "t.author = (SELECT id FROM feed_authors WHERE key = ?) "
            f"AND m.sequence <= a.contiguous AND {NOT_BLOCKED} "
            "ORDER BY t.shown_ns DESC, t.message DESC LIMIT 1",
            (tag, author),
        ).fetchone()
        if row is not None:
            return bytes(row[0])
    return None


# --- searching ---------------------------------------------------------------------


@frozen
class Ranked:
    """
    The hits of a search, best first.

    @ivar positions: the row ids of the messages.
    @ivar complete: these are all; else only the newest L{RANKED} were ranked.
    """

    positions: array[int]
    complete: bool


@frozen
class Found:
    """
    A page of the hits of a search, newest arrival first.

    @ivar positions: the row ids of the messages.
    @ivar more: there are more after them.
    @ivar total: how many hits there are in all, L{COUNTED} at most.
    @ivar counted: C{total} is all there is.
    """

    positions: Sequence[int]
    more: bool
    total: int
    counted: bool


def _matching(
    connection: sqlite3.Connection, expression: str, wanted: Filter
) -> tuple[str, list[object]]:
    """Tables and conditions of a search."""
    tables, where = "feed_text", ["feed_text MATCH ?"]
    values: list[object] = [expression]
    found = wanted.conditions()
    if found:
        (size,) = connection.execute(*count_query(wanted, FEW)).fetchone()
        if size <= FEW:
            # They are gathered first, from an index.  The plus keeps SQLite from looking
            # each of them up in the index of words.
            entries, more = _entries(wanted)
            position = _source(wanted)[2]
            where.append(f"+feed_text.rowid IN (SELECT {position} {entries})")
            values += more
        else:
            # CROSS: the index of words goes first, whatever the planner thinks.
            tables += " CROSS JOIN feed_messages m ON m.id = feed_text.rowid"
            where += [condition for condition, _ in found]
            values += [value for _, value in found]
    return f"FROM {tables} WHERE {' AND '.join(where)}", values


def rank(connection: sqlite3.Connection, expression: str, wanted: Filter) -> Ranked:
    """
    Find the newest hits and put them into an order: bm25, of equal ones the newest first.

    @param expression: from L{meshkit.feed.words.parse_query}.
    """
    matching, values = _matching(connection, expression, wanted)
    rows = connection.execute(
        "SELECT id FROM (SELECT feed_text.rowid AS id, bm25(feed_text) AS score "
        f"{matching} ORDER BY feed_text.rowid DESC LIMIT ?) ORDER BY score, id DESC",
        [*values, RANKED + 1],
    )
    positions = array("q", [position for (position,) in rows])
    if len(positions) <= RANKED:
        return Ranked(positions, complete=True)
    positions.remove(min(positions))
    return Ranked(positions, complete=False)


def newest_hits(
    connection: sqlite3.Connection,
    expression: str,
    wanted: Filter,
    limit: int,
    offset: int = 0,
    before: int | None = None,
) -> Found:
    """
    @param expression: from L{meshkit.feed.words.parse_query}.
    @param before: begin before this position, the last of the page before.
    """
    matching, values = _matching(connection, expression, wanted)
    earlier = "" if before is None else "AND feed_text.rowid < ? "
    rows = connection.execute(
        f"SELECT feed_text.rowid {matching} {earlier}"
        "ORDER BY feed_text.rowid DESC LIMIT ? OFFSET ?",
        [*values, *(() if before is None else (before,)), limit + 1, offset],
    ).fetchall()
    (total,) = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 {matching} LIMIT ?)", [*values, COUNTED + 1]
    ).fetchone()
    return Found(
        positions=[position for (position,) in rows[:limit]],
        more=len(rows) > limit,
        total=min(total, COUNTED),
        counted=total <= COUNTED,
    )


def messages_at(connection: sqlite3.Connection, positions: Sequence[int]) -> list[Row]:
    """The messages at some positions, in this order, without those that are gone."""
    rows = []
    for position in positions:
        row = connection.execute(
            f"SELECT {Row.COLUMNS} FROM {Row.TABLES} WHERE m.id = ?", (position,)
        ).fetchone()
        if row is not None and row[0]:
            rows.append(Row.read(*row))
    return rows


# --- snippets ----------------------------------------------------------------------


def snippets(
    rows: Sequence[Row], expression: str, expired: Callable[[], bool]
) -> list[tuple[str, ...]]:
    """
    Why messages are hits: of each the stretch of its text with the most of what was
    looked for.

    The index of words holds no texts.  So those of the page go into a small index of
    their own, in memory, and SQLite marks in it what it finds: that way the marks are where
    the search saw its words, whatever their case and accents.

    @param expression: what they were found with.
    @param expired: see L{within}.
    @return: for each, pieces of text.  Every second one, from the second on, is a hit;
        with nothing to mark there is one piece.  Together they have at most
        L{SNIPPET_CHARS} characters.
    @raise SearchTooSlow: as L{within} does.
    """
    if not rows:
        return []
    texts = [part_letters(_CONTROLS.sub(" ", content_text(_content(row.raw)))) for row in rows]

    def job(memory: sqlite3.Connection) -> dict[int, str]:
        memory.execute("CREATE VIRTUAL TABLE page USING fts5 (body)")
        memory.executemany("INSERT INTO page (rowid, body) VALUES (?, ?)", enumerate(texts))
        return dict(
            memory.execute(
                "SELECT rowid, snippet(page, 0, ?, ?, '\u2026', ?) FROM page WHERE page MATCH ?",
                (_BEFORE, _AFTER, SNIPPET_WORDS, expression),
            ).fetchall()
        )

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
        found = within(memory, expired, job)
    # One that does not match any more has been parted in another way when it was indexed.
    return [_pieces(found.get(number, text)) for number, text in enumerate(texts)]


def _content(raw: bytes) -> Any:
    return msgspec.json.decode(raw)["content"]


def _pieces(marked: str) -> tuple[str, ...]:
    """
    Cut a snippet at its marks, and to its length.

    Words can be long: what stands before the first hit is then cut at its beginning, so that
    the hit is seen.
    """
    marked = marked.replace(BREAK, "").replace(f"{_AFTER}{_BEFORE}", "")
    parts = _MARKS.split(_BETWEEN_STRINGS.join(filter(None, map(str.strip, marked.split("\n")))))
    parts = [re.sub(r"\s+", " ", part) for part in parts]
    before = SNIPPET_CHARS // 3
    if len(parts) > 1 and before < len(parts[0]) and sum(map(len, parts)) > SNIPPET_CHARS:
        parts[0] = "\u2026" + parts[0][-before:]
    pieces: list[str] = []
    room = SNIPPET_CHARS
    for part in parts:
        if len(part) > room:
            pieces.append(part[: max(room - 1, 0)] + "\u2026")
            break
        pieces.append(part)
        room -= len(part)
    return tuple(pieces)


# --- indexing anew -----------------------------------------------------------------


def reindex_complete(connection: sqlite3.Connection) -> bool:
    """Has every message been indexed in the way that searches look for it?"""
    row = connection.execute("SELECT next > last FROM feed_reindex").fetchone()
    return bool(row[0])


def reindex(connection: sqlite3.Connection) -> bool:
    """
    Index some messages anew that an older version has stored.  What was done is noted with
    it, so it can end anywhere and go on.

    @param connection: one that can write.
    @return: is nothing left to do?
    """
    start, last = connection.execute("SELECT next, last FROM feed_reindex").fetchone()
    rows = connection.execute(
        "SELECT id, raw FROM feed_messages WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
        (start, last, REINDEX_ROWS),
    ).fetchall()
    done = last if len(rows) < REINDEX_ROWS else rows[-1][0]
    size = 0
    for position, raw in rows:
        # One whose text is gone is not to be found anyway.
        if raw.isascii() and _ESCAPED_NUL not in raw:
            continue
        message = parse_message(raw)
        if _ESCAPED_NUL in raw:
            _restore_fields(connection, position, message)
        before, after = content_text(message.content), indexed_text(message.content)
        if before == after:
            continue
        connection.execute(
            "INSERT INTO feed_text (feed_text, rowid, body) VALUES ('delete', ?, ?)",
            (position, before),
        )
        connection.execute("INSERT INTO feed_text (rowid, body) VALUES (?, ?)", (position, after))
        size += len(raw)
        if size >= REINDEX_BYTES:
            done = position
            break
    connection.execute("UPDATE feed_reindex SET next = ?", (done + 1,))
    return bool(done >= last)


def _restore_fields(connection: sqlite3.Connection, position: int, message: Message) -> None:
    """SQLite reads a string in JSON up to a NUL: the migration has cut those that hold one."""
    shown_ns, author = connection.execute(
        "SELECT shown_ns, author FROM feed_messages WHERE id = ?", (position,)
    ).fetchone()
    connection.execute(
        "UPDATE feed_messages SET relates = ? WHERE id = ?", (message.relates, position)
    )
    for tag in message.tags:
        connection.execute(
            "DELETE FROM feed_tags WHERE tag = ? AND shown_ns = ? AND message = ?",
            (tag.partition("\0")[0], shown_ns, position),
        )
    connection.executemany(
        "INSERT OR IGNORE INTO feed_tags (tag, shown_ns, message, author) VALUES (?, ?, ?, ?)",
        [(tag, shown_ns, position, author) for tag in message.tags],
    )


def unindex(connection: sqlite3.Connection, messages: Mapping[int, Message]) -> None:
    """
    Take messages out of the index of words and out of the tags, before their texts go.

    @param connection: one that can write.
    @param messages: position to message, as it is stored.
    """
    start, last = connection.execute("SELECT next, last FROM feed_reindex").fetchone()
    for position, message in messages.items():
        # What the index is told to forget has to be what it was told.
        waits = start <= position <= last
        text = content_text(message.content) if waits else indexed_text(message.content)
        connection.execute(
            "INSERT INTO feed_text (feed_text, rowid, body) VALUES ('delete', ?, ?)",
            (position, text),
        )
        (shown_ns,) = connection.execute(
            "SELECT shown_ns FROM feed_messages WHERE id = ?", (position,)
        ).fetchone()
        connection.executemany(
            "DELETE FROM feed_tags WHERE tag = ? AND shown_ns = ? AND message = ?",
            [(tag, shown_ns, position) for tag in message.tags],
        )


# --- what is shown -----------------------------------------------------------------


def shown(
    row: Row, snippet: Sequence[str] | None = None, more: Mapping[str, Any] | None = None
) -> msgspec.Raw:
    """
    A stored message for people: its text untouched, with C{chain_valid} as one more
    member at the end, and C{forked} where it is.

    @param snippet: from L{snippets}; one more member.
    @param more: further members, of JSON types.
    """
    text = row.raw.rstrip()
    valid = b"true" if row.chain_valid else b"false"
    forked = b',"forked":true' if row.forked else b""
    why = b"" if snippet is None else b',"snippet":' + msgspec.json.encode(snippet)
    others = b"," + msgspec.json.encode(more)[1:-1] if more else b""
    return msgspec.Raw(text[:-1] + b',"chain_valid":' + valid + forked + why + others + b"}")
