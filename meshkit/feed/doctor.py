"""
An examination of all feeds that are stored, and the repair of what can be made anew.

Messages are what counts: each is read, and its signature, hash and place are checked.
Everything else is made from them (the columns beside the text, the links, how far a feed is
complete, tags, the index of words), is compared with them, and can be made again.  A
message whose text is damaged is set aside, in the table C{feed_set_aside}: its place is
free then, and the next peer that has it brings it.

A function of an open connection, of which nobody else writes.  Memory is bounded by a
few messages and the findings that are told, whatever is stored.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from attrs import define, field, frozen

from meshkit.errors import FeedError
from meshkit.feed import guard
from meshkit.feed.closings import closing
from meshkit.feed.limits import Amount
from meshkit.feed.message import MAX_SEQUENCE, Message, parse_message, verify_message
from meshkit.feed.store import GONE, check_proof, expiry, total, write_off
from meshkit.feed.words import indexed_text
from meshkit.identity.keys import PublicKey

#: Findings that are told one by one; all are counted.
MAX_TOLD: Final = 200

# Rows that are held at a time; a message has up to 128 KiB.
_ROWS: Final = 64
# Lines of SQLite's own report that are asked for.
_MAX_LINES: Final = 100


@frozen
class Finding:
    """
    Something that is not as it should be.

    @ivar kind: a stable name: C{page_damage}, C{dangling_reference}, C{message_damaged},
        C{message_columns}, C{link}, C{feed_position}, C{fork_proof}, C{search_index},
        C{tags}, C{amounts}.
    @ivar subject: what was found, a sentence.
    @ivar repair: what mends it; L{None} if nothing here does.
    """

    kind: str
    subject: str
    repair: str | None


@define
class Report:
    """
    @ivar messages: how many messages were examined.
    @ivar feeds: of how many authors.
    @ivar counts: findings by kind.
    @ivar findings: the first L{MAX_TOLD} of them.
    @ivar left: how many are as they were found.
    @ivar forked: (author's id, sequence) of the first L{MAX_TOLD} feeds that are proven to
        be forked, and end before that sequence.  That is no fault of the store.
    @ivar forks: how many there are.
    """

    messages: int = 0
    feeds: int = 0
    counts: Counter[str] = field(factory=Counter)
    findings: list[Finding] = field(factory=list)
    left: int = 0
    forked: list[tuple[str, int]] = field(factory=list)
    forks: int = 0


def examine(
    connection: sqlite3.Connection, *, repair: bool, own: bytes | None, now_ns: int
) -> Report:
    """
    Examine the feeds, and mend what can be.

    @param connection: one that can write; without C{repair} no row is changed.
    @param own: the key of this node, if it is known.  If a message of it is set aside, or
        of anybody while it is not known, the node must not publish before its peers have
        shown how far they have its feed.
    @param now_ns: the time, in nanoseconds since 1970.
    """
    doctor = _Doctor(connection, repair, own, now_ns)
    try:
        if doctor.pages():
            doctor.references()
            doctor.feeds()
            doctor.totals()
            doctor.tags()
            doctor.index()
    except sqlite3.DatabaseError as error:
        doctor.unreadable(str(error))
    return doctor.report


#: What is read of a message, in the order of L{_Row}.
_COLUMNS: Final = (
    "id, sequence, hash, previous, shown_ns, received_ns, content_type, relates, chain_valid, "
    "expires_ns, raw"
)


@frozen
class _Row:
    id: int
    sequence: int
    hash: bytes
    previous: bytes | None
    shown_ns: int
    received_ns: int
    content_type: str | None
    relates: str | None
    chain_valid: int
    expires_ns: int | None
    raw: bytes

    @property
    def hidden(self) -> bool:
        """It has expired, and is the newest of its feed: see L{meshkit.feed.retention}."""
        return self.shown_ns == GONE


@define
class _Position:
    """
    How far a feed is, as its messages say, as far as they were looked at.

    @ivar gaps: places of which no text is kept, with others between them, ascending.
    @ivar amount: what is stored of it, as it was found.
    @ivar aside: how much of that was set aside.
    """

    forked: int | None
    gaps: list[tuple[int, int]]
    # The last message of a feed that has ended.
    end: int | None = None
    contiguous: int = 0
    head: bytes | None = None
    latest: int = 0
    amount: Amount = field(factory=Amount)
    aside: Amount = field(factory=Amount)
    # The message looked at last.
    _last: tuple[int, bytes] | None = None

    def joins(self, sequence: int, previous: bytes | None) -> bool:
        return sequence == 1 or (previous is not None and self._last == (sequence - 1, previous))

    def step(self, sequence: int, digest: bytes, previous: bytes | None, size: int) -> None:
        """@param size: bytes of its text; 0 if that is gone."""
        gap = self._gap(sequence)
        if size and previous is not None and sequence > self.contiguous + 1:
            before = self._gap(sequence - 1)
            if before is not None and before[0] <= self.contiguous + 1 and self._free(sequence):
                # Nobody had what is before it: see IFeedStore.skip.
                self.contiguous, self.head = sequence - 1, previous
        joins = self.joins(sequence, previous) or previous == self.head
        # One without a text that is in no gap is fetched again.
        if (
            sequence == self.contiguous + 1
            and joins
            and (size or gap is not None)
            and self._free(sequence)
            and (self.end is None or sequence <= self.end)
        ):
            self.contiguous, self.head = sequence, digest
        self.latest = sequence
        self._last = (sequence, digest)

    def _free(self, sequence: int) -> bool:
        return self.forked is None or sequence < self.forked

    def _gap(self, sequence: int) -> tuple[int, int] | None:
        at = bisect_right(self.gaps, (sequence, MAX_SEQUENCE)) - 1
        return self.gaps[at] if at >= 0 and self.gaps[at][1] >= sequence else None


@define
class _Doctor:
    connection: sqlite3.Connection
    repair: bool
    own: bytes | None
    now_ns: int
    report: Report = field(factory=Report)
    # Of what all messages say: how many tags there are, and how many of these were missed.
    _tag_count: int = 0
    _tags_missing: int = 0
    _reindexing: tuple[int, int] = (1, 0)
    _whole: Amount = field(factory=Amount)

    def find(self, kind: str, subject: str, repair: str | None) -> bool:
        """@return: is it to be mended now?"""
        mending = self.repair and repair is not None
        self.report.counts[kind] += 1
        self.report.left += not mending
        if len(self.report.findings) < MAX_TOLD:
            self.report.findings.append(Finding(kind, subject, repair))
        return mending

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def unreadable(self, problem: str) -> None:
        self.find(
            "page_damage",
            f"the database cannot be read to its end: {problem}",
            None,
        )

    def pages(self) -> bool:
        """@return: can the rest be examined?"""
        sound = True
        for (text,) in self.connection.execute(f"PRAGMA integrity_check({_MAX_LINES})").fetchall():
            # Newer versions of SQLite look into the index of words too; so do we, below.
            if text != "ok" and "fts5" not in text.lower():
                sound = False
                self.find("page_damage", f"SQLite finds: {text}", None)
        return sound

    def references(self) -> None:
        rows = self.connection.execute("PRAGMA foreign_key_check").fetchmany(_MAX_LINES)
        for table, number, parent, _ in rows:
            self.find(
                "dangling_reference",
                f"row {number} of {table} refers to a row of {parent} that is not there",
                None,
            )

    # --- feeds -----------------------------------------------------------------------

    def feeds(self) -> None:
        (self._reindexing,) = self.connection.execute(
            "SELECT next, last FROM feed_reindex"
        ).fetchall()
        last = 0
        while True:
            row = self.connection.execute(
                "SELECT id, key, contiguous, head, latest, forked, stored, texts, size "
                "FROM feed_authors WHERE id > ? ORDER BY id LIMIT 1",
                (last,),
            ).fetchone()
            if row is None:
                return
            last = row[0]
            self.report.feeds += 1
            with self.writing():
                self._feed(Amount(*row[6:]), *row[:6])

    def _feed(
        self,
        noted: Amount,
        number: int,
        key: bytes,
        contiguous: int,
        head: bytes | None,
        latest: int,
        forked: int | None,
    ) -> None:
        name = PublicKey(key).text
        end = closing(self.connection, key)
        gaps = self.connection.execute(
            "SELECT first, last FROM feed_gaps WHERE author = ? ORDER BY first", (number,)
        ).fetchall()
        position = _Position(
            self._fork(number, key, forked), gaps, None if end is None else end.sequence
        )
        if position.forked is not None:
            self.report.forks += 1
            if len(self.report.forked) < MAX_TOLD:
                self.report.forked.append((name, position.forked))
        for row in self._messages(number):
            self.report.messages += 1
            self._message(number, key, row, position, latest)
        found = (contiguous, head, latest, forked)
        right = (position.contiguous, position.head, position.latest, position.forked)
        if found != right and self.find(
            "feed_position",
            f"the feed of {name} is noted as complete up to {contiguous} of {latest}, and is up "
            f"to {position.contiguous} of {position.latest}",
            "note what is so",
        ):
            self.connection.execute(
                "UPDATE feed_authors SET contiguous = ?, head = ?, latest = ?, forked = ? "
                "WHERE id = ?",
                (*right, number),
            )
        left = position.amount + -position.aside
        self._whole += left
        if position.amount != noted and self.find(
            "amounts",
            f"{noted.texts} messages with {noted.size} bytes are noted of {name}, and there are "
            f"{position.amount.texts} with {position.amount.size}",
            "note what there is",
        ):
            self.connection.execute(
                "UPDATE feed_authors SET stored = ?, texts = ?, size = ? WHERE id = ?",
                (*left.values, number),
            )

    def totals(self) -> None:
        noted = total(self.connection)
        if noted != self._whole and self.find(
            "amounts",
            f"{noted.texts} messages with {noted.size} bytes are noted in all, and there are "
            f"{self._whole.texts} with {self._whole.size}",
            "note what there is",
        ):
            with self.writing():
                self.connection.execute(
                    "UPDATE feed_totals SET stored = ?, texts = ?, size = ?", self._whole.values
                )

    def _messages(self, author: int) -> Iterator[_Row]:
        # By pages, so that what is mended does not disturb the reading.
        last = 0
        while True:
            rows = self.connection.execute(
                f"SELECT {_COLUMNS} FROM feed_messages WHERE author = ? AND sequence > ? "
                "ORDER BY sequence LIMIT ?",
                (author, last, _ROWS),
            ).fetchall()
            for row in rows:
                yield _Row(*row)
            if len(rows) < _ROWS:
                return
            last = rows[-1][1]

    def _fork(self, number: int, key: bytes, forked: int | None) -> int | None:
        """@return: where the feed is forked, as its proof says."""
        row = self.connection.execute(
            "SELECT one, other FROM feed_forks WHERE author = ?", (number,)
        ).fetchone()
        name = PublicKey(key).text
        if row is None:
            # The flag alone is mended with the position of the feed.
            return None
        try:
            one, other = (_verified(raw) for raw in row)
            check_proof(one, other)
            if one.author.raw != key:
                raise FeedError("it is of another author")
        except FeedError as e:
            if self.find(
                "fork_proof",
                f"what is kept as proof that {name} has forked its feed proves nothing: {e}",
                "forget it; who sees the two messages has the proof again",
            ):
                self.connection.execute("DELETE FROM feed_forks WHERE author = ?", (number,))
            return None
        return one.sequence

    # --- messages --------------------------------------------------------------------

    def _message(
        self, author: int, key: bytes, row: _Row, position: _Position, latest: int
    ) -> None:
        name = f"message {row.sequence} of {PublicKey(key).text}"
        digest, previous = row.hash, row.previous
        amount = Amount(1, int(bool(row.raw)), len(row.raw))
        position.amount += amount
        # Of a message that was emptied, the place and the hash are left.
        if row.raw:
            try:
                message = _verified(row.raw)
                _check_place(message, key, row.sequence)
            except FeedError as e:
                if self.find(
                    "message_damaged",
                    f"{name} is damaged: {e}",
                    "set it aside, so that it is fetched again",
                ):
                    self._set_aside(key, row, str(e), latest)
                    write_off(self.connection, author, amount)
                    position.aside += amount
                return
            digest = bytes.fromhex(message.hash)
            previous = None if message.previous is None else bytes.fromhex(message.previous)
            if row.hidden:
                self._hidden(name, row, message)
            else:
                self._columns(author, name, row, message, digest, previous)
        valid = int(position.joins(row.sequence, previous))
        if valid != row.chain_valid and self.find(
            "link",
            f"{name} is flagged as {'' if row.chain_valid else 'not '}joined to the one before "
            f"it, and is {'' if valid else 'not '}",
            "flag it rightly",
        ):
            self.connection.execute(
                "UPDATE feed_messages SET chain_valid = ? WHERE id = ?", (valid, row.id)
            )
        position.step(row.sequence, digest, previous, len(row.raw))

    def _columns(
        self,
        author: int,
        name: str,
        row: _Row,
        message: Message,
        digest: bytes,
        previous: bytes | None,
    ) -> None:
        """Compare what stands beside a text with the text."""
        right: dict[str, Any] = {
            "hash": digest,
            "previous": previous,
            "shown_ns": max(GONE + 1, min(message.timestamp_ns, row.received_ns)),
            "content_type": message.content_type,
            "relates": message.relates,
            "raw": message.raw,
        }
        wrong = [column for column, value in right.items() if getattr(row, column) != value]
        right["expires_ns"] = expires_ns = expiry(message)
        # In a store of an older version it is up to a second later.
        noted = row.expires_ns
        if noted != expires_ns and (
            noted is None or expires_ns is None or not 0 <= noted - expires_ns <= 10**9
        ):
            wrong.append("expires_ns")
        tags = dict.fromkeys(message.tags)
        self._tag_count += len(tags)
        missing = sum(not self._has_tag(tag, row, author) for tag in tags)
        if self._is_older(row, message):
            return
        self._tags_missing += missing
        if wrong and self.find(
            "message_columns",
            f"what is noted beside {name} is not what it says: {', '.join(wrong)}",
            "note what it says",
        ):
            self.connection.execute(
                f"UPDATE feed_messages SET {', '.join(f'{column} = ?' for column in wrong)} "
                "WHERE id = ?",
                (*(right[column] for column in wrong), row.id),
            )
            # Tags carry the time as well.
            self._tags_missing += "shown_ns" in wrong and bool(tags)

    def _hidden(self, name: str, row: _Row, message: Message) -> None:
        """One that has expired is not found by anything."""
        if (row.content_type, row.relates) != (None, None) and self.find(
            "message_columns",
            f"{name} has expired, and is still found by its type or by what it is about",
            "note that it has expired",
        ):
            self.connection.execute(
                "UPDATE feed_messages SET content_type = NULL, relates = NULL WHERE id = ?",
                (row.id,),
            )

    def _is_older(self, row: _Row, message: Message) -> bool:
        """Is it one of those that a running node still brings to this version?"""
        first, last = self._reindexing
        return not self.repair and first <= row.id <= last and b"\\u0000" in message.raw

    def _has_tag(self, tag: str, row: _Row, author: int) -> bool:
        found = self.connection.execute(
            "SELECT 1 FROM feed_tags WHERE tag = ? AND shown_ns = ? AND message = ? AND author = ?",
            (tag, row.shown_ns, row.id, author),
        ).fetchone()
        return found is not None

    def _set_aside(self, key: bytes, row: _Row, reason: str, latest: int) -> None:
        self.connection.execute(
            "INSERT OR REPLACE INTO feed_set_aside VALUES (?, ?, ?, ?, ?, ?)",
            (row.id, key, row.sequence, row.raw, reason, self.now_ns),
        )
        self.connection.execute("DELETE FROM feed_tags WHERE message = ?", (row.id,))
        self.connection.execute("DELETE FROM feed_messages WHERE id = ?", (row.id,))
        if self.own is None:
            guard.set_repaired(self.connection, None, self.now_ns)
        elif self.own == key:
            # Its number must not be given to another message.
            guard.set_repaired(self.connection, latest, self.now_ns)

    # --- what is made of them ---------------------------------------------------------

    def tags(self) -> None:
        (count,) = self.connection.execute("SELECT count(*) FROM feed_tags").fetchone()
        surplus = max(0, count - (self._tag_count - self._tags_missing))
        if (self._tags_missing or surplus) and self.find(
            "tags",
            f"of {self._tag_count} tags {self._tags_missing} are missing; {surplus} are too many",
            "note the tags of all messages anew",
        ):
            self._rebuild_tags()

    def _rebuild_tags(self) -> None:
        with self.writing():
            self.connection.execute("DELETE FROM feed_tags")
        for rows in self._texts("id, raw, shown_ns, author"):
            with self.writing():
                self.connection.executemany(
                    "INSERT INTO feed_tags (tag, shown_ns, message, author) VALUES (?, ?, ?, ?)",
                    [
                        (tag, shown_ns, number, author)
                        for number, raw, shown_ns, author in rows
                        for tag in dict.fromkeys(parse_message(raw).tags)
                    ],
                )

    def index(self) -> None:
        (missing,) = self.connection.execute(
            "SELECT count(*) FROM feed_messages m LEFT JOIN feed_text_docsize d ON d.id = m.id "
            "WHERE d.id IS NULL AND m.shown_ns > ?",
            (GONE,),
        ).fetchone()
        (surplus,) = self.connection.execute(
            "SELECT count(*) FROM feed_text_docsize d LEFT JOIN feed_messages m ON m.id = d.id "
            "WHERE m.id IS NULL OR m.shown_ns = ?",
            (GONE,),
        ).fetchone()
        wrong = []
        if missing:
            wrong.append(f"{missing} messages are not in it")
        if surplus:
            wrong.append(f"{surplus} entries are of no message")
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                self.connection.execute(
                    "INSERT INTO feed_text (feed_text) VALUES ('integrity-check')"
                )
            finally:
                self.connection.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            wrong.append(f"it is damaged in itself ({error})")
        if wrong and self.find(
            "search_index", f"the index of words: {', '.join(wrong)}", "make it anew"
        ):
            self._rebuild_index()

    def _rebuild_index(self) -> None:
        with self.writing():
            self.connection.execute("INSERT INTO feed_text (feed_text) VALUES ('delete-all')")
            # Nothing is left for the node to index as this version does.
            self.connection.execute("UPDATE feed_reindex SET next = last + 1")
        for rows in self._texts("id, raw"):
            with self.writing():
                self.connection.executemany(
                    "INSERT INTO feed_text (rowid, body) VALUES (?, ?)",
                    [(number, indexed_text(parse_message(raw).content)) for number, raw in rows],
                )

    def _texts(self, columns: str) -> Iterator[list[tuple[Any, ...]]]:
        """All messages that are shown, some at a time."""
        last = 0
        while True:
            rows = self.connection.execute(
                f"SELECT {columns} FROM feed_messages WHERE id > ? AND shown_ns > ? "
                "ORDER BY id LIMIT ?",
                (last, GONE, _ROWS),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield rows


def _verified(raw: bytes) -> Message:
    message = parse_message(raw)
    verify_message(message)
    return message


def _check_place(message: Message, key: bytes, sequence: int) -> None:
    if message.author.raw != key or message.sequence != sequence:
        raise FeedError(f"in its place stands message {message.sequence} of {message.author.text}")
    if (message.sequence == 1) is not (message.previous is None):
        raise FeedError("it could not be part of a feed")
