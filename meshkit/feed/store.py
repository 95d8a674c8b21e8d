"""
Feeds in SQLite: what is stored, in which order it is checked, how it is found.

Everything here is a function of an open connection and is run by
L{meshkit.runtime.database.Database}: the writing ones on its one writer thread,
inside a savepoint of a group commit, the reading ones on read-only connections that
never wait for the writer.  The raw text of a message is kept exactly as it came and
is what other nodes are given.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain as joined
from typing import ClassVar, Final

from attrs import define, evolve, field, frozen

from meshkit.errors import (
    AuthorBlocked,
    DuplicateMessage,
    FeedError,
    FeedForked,
    ForkRefused,
    ForkUnproven,
    LimitReached,
    MeshkitError,
)
from meshkit.feed import guard, repeats
from meshkit.feed.chain import Link, Neighbours, Verdict, judge
from meshkit.feed.closings import ENDS_THERE, Closings, closing, refusal
from meshkit.feed.limits import NO_LIMITS, NOTHING, Amount, Limits
from meshkit.feed.message import MAX_SEQUENCE, Message
from meshkit.feed.rotation import Rotation
from meshkit.feed.timestamps import parse_timestamp
from meshkit.feed.words import indexed_text
from meshkit.interfaces import ForkProof, Frontier, Gap, StoredMessage

#: When a message is "shown" that is to be shown nowhere any more: before all others.
GONE: Final = -(2**63)

MIGRATIONS: Final = (
    """
    -- contiguous: highest sequence up to which nothing is missing from 1 on.
    -- head: hash of the message at that sequence.  latest: highest sequence stored.
    CREATE TABLE feed_authors (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        contiguous INTEGER NOT NULL,
        head BLOB,
        latest INTEGER NOT NULL
    ) STRICT;

    -- id grows with arrival.  shown_ns is the author's timestamp, but never later
    -- than the arrival, so that a clock in the future pins nothing to the top.
    CREATE TABLE feed_messages (
        id INTEGER PRIMARY KEY,
        author INTEGER NOT NULL REFERENCES feed_authors (id),
        sequence INTEGER NOT NULL,
        hash BLOB NOT NULL UNIQUE,
        previous BLOB,
        shown_ns INTEGER NOT NULL,
        received_ns INTEGER NOT NULL,
        content_type TEXT,
        chain_valid INTEGER NOT NULL,
        raw BLOB NOT NULL,
        UNIQUE (author, sequence)
    ) STRICT;
    CREATE INDEX feed_messages_shown ON feed_messages (shown_ns, id);
    CREATE INDEX feed_messages_type ON feed_messages (content_type, shown_ns, id);

    CREATE VIRTUAL TABLE feed_text USING fts5 (body, content = '');
    """,
    """
    -- forked: the lowest sequence for which two messages are known.  Nothing from there
    -- on is counted in contiguous, though it stays stored.
    ALTER TABLE feed_authors ADD COLUMN forked INTEGER;

    -- The two messages that prove it, in the order of their bytes.
    CREATE TABLE feed_forks (
        author INTEGER PRIMARY KEY REFERENCES feed_authors (id),
        one BLOB NOT NULL,
        other BLOB NOT NULL,
        proven_ns INTEGER NOT NULL
    ) STRICT;
    """,
    guard.MIGRATION,
    """
    -- What lists are filtered by.  An index for each way through a list: what it is about,
    -- its order, and what else is asked of an entry before the message is looked at.
    ALTER TABLE feed_messages ADD COLUMN relates TEXT;
    UPDATE feed_messages SET relates = json_extract(CAST(raw AS TEXT), '$.relates')
        WHERE instr(CAST(raw AS TEXT), '"relates":') > 0;
    CREATE INDEX feed_messages_relates ON feed_messages (relates, shown_ns, id)
        WHERE relates IS NOT NULL;
    DROP INDEX feed_messages_shown;
    CREATE INDEX feed_messages_newest ON feed_messages (shown_ns, id, author);
    DROP INDEX feed_messages_type;
    CREATE INDEX feed_messages_type ON feed_messages (content_type, shown_ns, id, author);
    CREATE INDEX feed_messages_author ON feed_messages (author, shown_ns, id, content_type);

    CREATE TABLE feed_tags (
        tag TEXT NOT NULL,
        shown_ns INTEGER NOT NULL,
        message INTEGER NOT NULL REFERENCES feed_messages (id),
        author INTEGER NOT NULL REFERENCES feed_authors (id),
        PRIMARY KEY (tag, shown_ns, message)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO feed_tags (tag, shown_ns, message, author)
        SELECT DISTINCT t.value, m.shown_ns, m.id, m.author
        FROM feed_messages m CROSS JOIN json_each(CAST(m.raw AS TEXT), '$.tags') t
        WHERE instr(CAST(m.raw AS TEXT), '"tags":') > 0;
    CREATE INDEX feed_tags_author ON feed_tags (tag, author, shown_ns, message);

    -- Messages from next to last are still to be indexed as searches look for them now:
    -- see meshkit.feed.words.
    CREATE TABLE feed_reindex (next INTEGER NOT NULL, last INTEGER NOT NULL) STRICT;
    INSERT INTO feed_reindex SELECT 1, coalesce(max(id), 0) FROM feed_messages;
    """,
    """
    -- Messages that were found damaged, as they were found: see meshkit.feed.doctor.
    CREATE TABLE feed_set_aside (
        position INTEGER PRIMARY KEY,
        author BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        raw BLOB NOT NULL,
        reason TEXT NOT NULL,
        since_ns INTEGER NOT NULL
    ) STRICT;
    """,
    """
    -- What contents are checked by: see meshkit.feed.schema_registry.  name: type and version.
    CREATE TABLE feed_schemas (
        name TEXT PRIMARY KEY NOT NULL,
        text BLOB NOT NULL,
        added_ns INTEGER NOT NULL
    ) STRICT;
    """,
    """
    -- A message whose text is not kept is a row with an empty raw, whose shown_ns is the
    -- least there is, without type, relates, tags and words.  Its hash, its predecessor
    -- and its place stay for ever.  See meshkit.feed.retention.
    UPDATE feed_messages SET shown_ns = -9223372036854775807
        WHERE shown_ns = -9223372036854775808;
    UPDATE feed_tags SET shown_ns = -9223372036854775807
        WHERE shown_ns = -9223372036854775808;

    -- Until when its author wants it to be kept; to the second, and no earlier.
    ALTER TABLE feed_messages ADD COLUMN expires_ns INTEGER;
    UPDATE feed_messages SET expires_ns = 1000000000 * (1 + CAST(
            strftime('%s', json_extract(CAST(raw AS TEXT), '$.expires_at')) AS INTEGER))
        WHERE instr(CAST(raw AS TEXT), '"expires_at":') > 0
        AND strftime('%s', json_extract(CAST(raw AS TEXT), '$.expires_at')) IS NOT NULL;
    CREATE INDEX feed_messages_expires ON feed_messages (expires_ns)
        WHERE expires_ns IS NOT NULL;

    -- stored: how many messages there are.  texts: with their text.  size: bytes of these.
    ALTER TABLE feed_authors ADD COLUMN stored INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE feed_authors ADD COLUMN texts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE feed_authors ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
    UPDATE feed_authors SET (stored, texts, size) = (
        SELECT count(*), count(*), coalesce(sum(length(raw)), 0)
        FROM feed_messages m WHERE m.author = feed_authors.id);
    CREATE TABLE feed_totals (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        stored INTEGER NOT NULL,
        texts INTEGER NOT NULL,
        size INTEGER NOT NULL
    ) STRICT;
    INSERT INTO feed_totals
        SELECT 1, coalesce(sum(stored), 0), coalesce(sum(texts), 0), coalesce(sum(size), 0)
        FROM feed_authors;

    -- Places up to contiguous of which no text is kept, as runs that do not touch.
    CREATE TABLE feed_gaps (
        author INTEGER NOT NULL REFERENCES feed_authors (id),
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (author, first)
    ) STRICT, WITHOUT ROWID;

    -- Authors with whom this node has nothing to do.  configured: the file says so.
    CREATE TABLE feed_blocks (
        author BLOB PRIMARY KEY NOT NULL,
        added_ns INTEGER NOT NULL,
        configured INTEGER NOT NULL
    ) STRICT;
    """,
    """
    -- Feeds that have ended by a rotation: with which message, and who goes on.
    CREATE TABLE feed_rotations (
        author BLOB PRIMARY KEY NOT NULL,
        successor BLOB NOT NULL,
        sequence INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX feed_rotations_successor ON feed_rotations (successor);
    """,
    repeats.MIGRATION,
    """
    -- What is shown, in the order in which it came: for those who keep it for a time that no
    -- author can lengthen.
    CREATE INDEX feed_messages_arrived ON feed_messages (received_ns, id, author)
        WHERE shown_ns > -9223372036854775808;
    """,
)

# Rows go into a statement by multiples of this, so that few different ones are compiled.
_ROWS: Final = 16
# Before version 3.32, SQLite took no more values in a statement.
_MAX_VALUES: Final = 999


@define
class _Author:
    """
    A row of feed_authors while a batch is written.

    @ivar amount: what is stored of the author.
    @ivar added: what the batch added.
    @ivar changed: the row has to be written back.
    """

    id: int
    key: bytes
    contiguous: int
    head: bytes | None
    latest: int
    forked: int | None
    amount: Amount = field(factory=Amount)
    added: list[StoredMessage] = field(factory=list)
    changed: bool = False


@frozen
class Stored:
    """
    What a batch did to the store.

    @ivar verdicts: one per message, in order.
    @ivar added: (author key, contiguous, what was added) of every feed that messages were
        added to.
    @ivar amount: how much more is stored now.
    @ivar feeds: how many authors were added.
    @ivar forks: (author key, sequence) of every fork that was proven, or was proven for
        a lower sequence than before.
    @ivar rotations: the ends of feeds that were not known before.
    """

    verdicts: list[Verdict]
    added: list[tuple[bytes, int, tuple[StoredMessage, ...]]]
    amount: Amount
    feeds: int
    forks: list[tuple[bytes, int]]
    rotations: list[Rotation] = field(factory=list)


@define
class _Batch:
    """
    One writing job: gathers rows until somebody has to see them, and remembers the
    authors it touched and writes them back once.
    """

    connection: sqlite3.Connection
    now_ns: int
    own: bytes | None = None
    limits: Limits = NO_LIMITS
    # Of whom nothing more is taken in this batch, and why: what follows a message for which
    # there was no room might fit, and would lie beyond a gap.
    full: dict[bytes, LimitReached] = field(factory=dict)
    authors: dict[bytes, _Author] = field(factory=dict)
    rows: list[tuple[object, ...]] = field(factory=list)
    texts: list[tuple[object, ...]] = field(factory=list)
    tags: list[tuple[object, ...]] = field(factory=list)
    last_id: int = 0
    before: Amount = field(factory=Amount)
    amount: Amount = field(factory=Amount)
    feeds: int = 0
    forks: dict[bytes, int] = field(factory=dict)
    closings: Closings = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.closings = Closings(self.connection)
        (self.last_id,) = self.connection.execute(
            # What was set aside had a position too, and none is given twice.
            "SELECT max(coalesce((SELECT max(id) FROM feed_messages), 0), "
            "coalesce((SELECT max(position) FROM feed_set_aside), 0))"
        ).fetchone()
        self.before = total(self.connection)
        if self.own is not None:
            self.author(self.own)

    def flush(self) -> None:
        """Insert the rows that were gathered."""
        _insert(
            self.connection,
            "feed_messages (id, author, sequence, hash, previous, shown_ns, received_ns, "
            "content_type, relates, chain_valid, expires_ns, raw)",
            self.rows,
        )
        _insert(self.connection, "feed_text (rowid, body)", self.texts)
        _insert(self.connection, "feed_tags (tag, shown_ns, message, author)", self.tags)
        self.rows.clear()
        self.texts.clear()
        self.tags.clear()

    def author(self, key: bytes) -> _Author | None:
        """The stored row of an author, if there is one."""
        known = self.authors.get(key)
        if known is None:
            row = self.connection.execute(
                "SELECT id, key, contiguous, head, latest, forked, stored, texts, size "
                "FROM feed_authors WHERE key = ?",
                (key,),
            ).fetchone()
            if row is None:
                return None
            known = self.authors[key] = _Author(*row[:6])
            known.amount = Amount(*row[6:])
        return known

    def new_author(self, key: bytes) -> _Author:
        # "returned" by the cursor rather than RETURNING: works on every SQLite 3.
        cursor = self.connection.execute(
            "INSERT INTO feed_authors (key, contiguous, head, latest) VALUES (?, 0, NULL, 0)",
            (key,),
        )
        assert cursor.lastrowid is not None
        self.feeds += 1
        author = self.authors[key] = _Author(cursor.lastrowid, key, 0, None, 0, None)
        return author

    def neighbours(self, author: _Author | None, message: Message) -> Neighbours:
        """What is stored beside the place where a message belongs."""
        if author is None:
            return Neighbours(same=None, predecessor=None, successor_previous=None)
        sequence = message.sequence
        if author.latest == author.contiguous == sequence - 1:
            # The usual case, the next message of a feed without gaps: no look-up.
            head = author.head.hex() if author.head is not None else None
            return Neighbours(None, head, None, author.forked)
        same = predecessor = successor_previous = None
        self.flush()
        rows = self.connection.execute(
            "SELECT sequence, hash, previous FROM feed_messages "
            "WHERE author = ? AND sequence BETWEEN ? AND ? ORDER BY sequence",
            (author.id, sequence - 1, min(sequence + 1, MAX_SEQUENCE)),
        )
        for at, digest, previous in rows:
            if at == sequence - 1:
                predecessor = digest.hex()
            elif at == sequence:
                same = digest.hex()
            else:
                successor_previous = previous.hex()
        return Neighbours(same, predecessor, successor_previous, author.forked)

    def add(self, message: Message) -> Verdict:
        """
        Store one verified message, if the feed has a place for it.  If another message has
        it, the two are kept as proof of a fork.

        @return: a verdict that says C{accepted}.
        @raise FeedError: as L{judge} does, and as L{Limits} do.
        """
        author = self.author(message.author.raw)
        neighbours = self.neighbours(author, message)
        self.closings.check(message)
        position = None
        try:
            link = judge(message, neighbours)
        except ForkRefused:
            if author is not None and neighbours.same is not None:
                self._prove_beside(author, message)
            raise
        except DuplicateMessage:
            position = None if author is None else self._forgotten(author, message)
            if position is None:
                raise
            link = judge(message, evolve(neighbours, same=None))
        self._make_room(author, message, new=position is None)
        if author is None:
            author = self.new_author(message.author.raw)
        self._insert(author, message, link, position)
        self.closings.note(message)
        self._advance(author, message, link)
        return Verdict.accepted(message, link)

    def _make_room(self, author: _Author | None, message: Message, new: bool) -> None:
        """@raise LimitReached: if there is no room for a message."""
        if self.limits is NO_LIMITS:
            return
        key = message.author.raw
        if key in self.full:
            raise self.full[key]
        more = Amount(int(new), 1, len(message.raw))
        # It was looked up when the batch began; without a row there was nothing of it.
        own = None if self.own is None else self.authors.get(self.own)
        try:
            self.limits.check(
                message.author,
                NOTHING if author is None else author.amount,
                self.before + self.amount,
                NOTHING if own is None else own.amount,
                more,
                is_own=key == self.own,
            )
        except LimitReached as e:
            self.full[key] = e
            raise

    def _forgotten(self, author: _Author, message: Message) -> int | None:
        """
        @return: the position of a message whose text is gone, if it is beyond the end of
            its feed: it is fetched again.
        """
        if message.sequence <= author.contiguous:
            return None
        row = self.connection.execute(
            "SELECT id FROM feed_messages WHERE author = ? AND sequence = ? AND length(raw) = 0",
            (author.id, message.sequence),
        ).fetchone()
        return None if row is None else int(row[0])

    def _insert(self, author: _Author, message: Message, link: Link, again: int | None) -> None:
        """@param again: the position where it was, if its text only comes back."""
        if again is None:
            self.last_id += 1
        position = self.last_id if again is None else again
        digest = bytes.fromhex(message.hash)
        shown_ns = max(GONE + 1, min(message.timestamp_ns, self.now_ns))
        expires_ns = expiry(message)
        author.added.append(
            StoredMessage(
                position=position,
                author=author.key,
                sequence=message.sequence,
                hash=digest,
                content_type=message.content_type,
                tags=message.tags,
                raw=message.raw,
            )
        )
        if again is None:
            self.rows.append(
                (
                    position,
                    author.id,
                    message.sequence,
                    digest,
                    None if message.previous is None else bytes.fromhex(message.previous),
                    shown_ns,
                    self.now_ns,
                    message.content_type,
                    message.relates,
                    link.chain_valid,
                    expires_ns,
                    message.raw,
                )
            )
        else:
            self.connection.execute(
                "UPDATE feed_messages SET shown_ns = ?, received_ns = ?, content_type = ?, "
                "relates = ?, chain_valid = ?, expires_ns = ?, raw = ? WHERE id = ?",
                (
                    shown_ns,
                    self.now_ns,
                    message.content_type,
                    message.relates,
                    link.chain_valid,
                    expires_ns,
                    message.raw,
                    position,
                ),
            )
        self.texts.append((position, indexed_text(message.content)))
        # A tag may stand in a message twice.
        for tag in dict.fromkeys(message.tags):
            self.tags.append((tag, shown_ns, position, author.id))
        if link.promotes_successor:
            self.connection.execute(
                "UPDATE feed_messages SET chain_valid = 1 WHERE author = ? AND sequence = ?",
                (author.id, message.sequence + 1),
            )
        more = Amount(int(again is None), 1, len(message.raw))
        author.amount += more
        self.amount += more

    def _advance(self, author: _Author, message: Message, link: Link) -> None:
        author.changed = True
        author.latest = max(author.latest, message.sequence)
        if message.sequence != author.contiguous + 1 or not link.chain_valid:
            return
        author.contiguous = message.sequence
        author.head = bytes.fromhex(message.hash)
        if link.promotes_successor:
            self._walk(author)

    def _walk(self, author: _Author) -> None:
        """A gap closed: go on to the next one."""
        self.flush()
        rows = self.connection.execute(
            "SELECT sequence, hash, previous, length(raw) FROM feed_messages "
            "WHERE author = ? AND sequence > ? ORDER BY sequence",
            (author.id, author.contiguous),
        )
        for sequence, digest, previous, size in rows:
            joins = sequence == author.contiguous + 1 and previous == author.head
            # One without a text beyond the end is asked for again: see _forgotten.
            if not joins or not size or sequence == author.forked:
                break
            if self.closings.ends_before(author.key, sequence):
                break
            author.contiguous, author.head = sequence, digest

    def _prove_beside(self, author: _Author, message: Message) -> None:
        """A second message came for a place that is taken."""
        (stored,) = self.connection.execute(
            "SELECT raw FROM feed_messages WHERE author = ? AND sequence = ?",
            (author.id, message.sequence),
        ).fetchone()
        # If its text is gone, who kept it has the proof: it comes from there.
        if stored:
            self.freeze(author, message.sequence, stored, message.raw)

    def prove(self, one: Message, other: Message) -> bool:
        """
        Freeze a feed by two messages that L{check_proof} has passed.

        @return: did that change anything?
        """
        key = one.author.raw
        author = self.author(key) or self.new_author(key)
        return self.freeze(author, one.sequence, one.raw, other.raw)

    def freeze(self, author: _Author, sequence: int, one: bytes, other: bytes) -> bool:
        """
        Note that a feed has two messages for a sequence: it ends before them.

        @return: L{False} if it was known to end there or before.
        """
        if author.forked is not None and author.forked <= sequence:
            return False
        self.flush()
        self.connection.execute(
            "INSERT INTO feed_forks VALUES (?, ?, ?, ?) ON CONFLICT (author) DO UPDATE SET "
            "one = excluded.one, other = excluded.other, proven_ns = excluded.proven_ns",
            (author.id, *sorted((one, other)), self.now_ns),
        )
        author.forked = self.forks[author.key] = sequence
        author.changed = True
        if author.contiguous >= sequence:
            # Of what was skipped there are no rows: back to the last one.
            row = self.connection.execute(
                "SELECT sequence, hash FROM feed_messages WHERE author = ? AND sequence < ? "
                "ORDER BY sequence DESC LIMIT 1",
                (author.id, sequence),
            ).fetchone()
            author.contiguous, author.head = (0, None) if row is None else row
        return True

    def skip(self, key: bytes, until: int, head: bytes) -> bool:
        """
        Do without the messages up to C{until}, if the author's own next message says that
        C{head} is the hash there.

        @return: did that change anything?
        """
        author = self.author(key)
        if author is None or until <= author.contiguous:
            return False
        row = self.connection.execute(
            "SELECT previous, length(raw) FROM feed_messages WHERE author = ? AND sequence = ?",
            (author.id, until + 1),
        ).fetchone()
        if row is None or row[0] != head or not row[1]:
            return False
        if author.forked is not None and author.forked <= until + 1:
            return False
        if self.closings.ends_before(key, until + 1):
            return False
        note_gap(self.connection, author.id, author.contiguous + 1, until)
        author.contiguous, author.head, author.changed = until, head, True
        self._walk(author)
        return True

    def finish(self, verdicts: list[Verdict]) -> Stored:
        """Insert what is left, write the authors back and say what changed."""
        self.flush()
        self.connection.executemany(
            "UPDATE feed_authors SET contiguous = ?, head = ?, latest = ?, forked = ?, "
            "stored = ?, texts = ?, size = ? WHERE id = ?",
            [
                (
                    author.contiguous,
                    author.head,
                    author.latest,
                    author.forked,
                    *author.amount.values,
                    author.id,
                )
                for author in self.authors.values()
                if author.changed
            ],
        )
        added = [
            (author.key, author.contiguous, tuple(author.added))
            for author in self.authors.values()
            if author.added
        ]
        add_to_total(self.connection, self.amount)
        return Stored(
            verdicts,
            added,
            self.amount,
            self.feeds,
            list(self.forks.items()),
            self.closings.found,
        )


def expiry(message: Message) -> int | None:
    """@return: when a message expires, nanoseconds since 1970."""
    return None if message.expires_at is None else parse_timestamp(message.expires_at)[1]


def total(connection: sqlite3.Connection) -> Amount:
    """@return: how much is stored of all feeds."""
    return Amount(*connection.execute("SELECT stored, texts, size FROM feed_totals").fetchone())


def of_authors(connection: sqlite3.Connection, keys: Iterable[bytes]) -> dict[bytes, Amount]:
    """@return: how much is stored of some authors, of those of whom something is."""
    found = {}
    for key in keys:
        row = connection.execute(
            "SELECT stored, texts, size FROM feed_authors WHERE key = ?", (key,)
        ).fetchone()
        if row is not None:
            found[key] = Amount(*row)
    return found


def add_to_total(connection: sqlite3.Connection, more: Amount) -> None:
    """Note that so much more is stored; it may be negative."""
    if any(more.values):
        connection.execute(
            "UPDATE feed_totals SET stored = stored + ?, texts = texts + ?, size = size + ?",
            more.values,
        )


def write_off(connection: sqlite3.Connection, author: int, amount: Amount) -> None:
    """
    Note that so much of an author is stored no more.

    @param author: row id.
    """
    connection.execute(
        "UPDATE feed_authors SET stored = stored - ?, texts = texts - ?, size = size - ? "
        "WHERE id = ?",
        (*amount.values, author),
    )
    add_to_total(connection, -amount)


def note_gap(connection: sqlite3.Connection, author: int, first: int, last: int) -> None:
    """
    Note that of some places of a feed, up to its end, no text is kept.

    @param author: row id.
    """
    touching = connection.execute(
        "SELECT first, last FROM feed_gaps WHERE author = ? AND first BETWEEN ? AND ? "
        "UNION SELECT * FROM (SELECT first, last FROM feed_gaps WHERE author = ? AND first < ? "
        "ORDER BY first DESC LIMIT 1) WHERE last >= ?",
        (author, first, last + 1, author, first, first - 1),
    ).fetchall()
    connection.executemany(
        "DELETE FROM feed_gaps WHERE author = ? AND first = ?", [(author, at) for at, _ in touching]
    )
    connection.execute(
        "INSERT INTO feed_gaps (author, first, last) VALUES (?, ?, ?)",
        (author, min([first, *(a for a, _ in touching)]), max([last, *(b for _, b in touching)])),
    )


def _insert(
    connection: sqlite3.Connection, columns: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """
    Insert rows with few statements.

    SQLite lets the GIL go for every statement, and the threads that check the next
    messages take it: with a statement per row, most of the time would go by waiting.
    FTS5 writes its index out before every statement of several rows, so they are large.

    @param columns: the table and its columns.
    """
    at = 0
    while at < len(rows):
        width = len(rows[at])
        many = min(len(rows) - at, _MAX_VALUES // width) // _ROWS * _ROWS
        count = many or 1
        values = f"({', '.join('?' * width)})"
        connection.execute(
            f"INSERT INTO {columns} VALUES {', '.join([values] * count)}",
            [*joined.from_iterable(rows[at : at + count])],
        )
        at += count


def store_batch(
    connection: sqlite3.Connection,
    checked: Sequence[Message | MeshkitError],
    now_ns: int,
    own: bytes | None = None,
    limits: Limits = NO_LIMITS,
) -> Stored:
    """
    Store the messages of a batch, each by its own merits.

    @param checked: verified messages, or why a text was not one.
    @param now_ns: when they arrived.
    @param own: the key of this node: what is new of its own feed sets the guard.
    @param limits: how much may be stored.
    """
    batch = _Batch(connection, now_ns, own, limits)
    blocked = blocked_of(connection, checked)
    before = None if own is None else batch.author(own)
    had = 0 if before is None else before.latest
    verdicts = []
    for item in checked:
        if isinstance(item, Message):
            try:
                if item.author.raw in blocked:
                    raise AuthorBlocked(
                        f"{item.author.text} is blocked here: message {item.sequence} is not taken"
                    )
                verdicts.append(batch.add(item))
            except FeedError as e:
                verdicts.append(Verdict.refused(e, item))
        else:
            verdicts.append(Verdict.refused(item))
    if own is not None and own in batch.authors and batch.authors[own].latest > had:
        guard.set_behind(connection, had, now_ns)
    return batch.finish(verdicts)


def prove_fork(connection: sqlite3.Connection, one: Message, other: Message, now_ns: int) -> Stored:
    """
    Freeze a feed by two verified messages, unless that is known already.

    @raise ForkUnproven: if they prove no fork.
    """
    check_proof(one, other)
    batch = _Batch(connection, now_ns)
    batch.prove(one, other)
    return batch.finish([])


def check_proof(one: Message, other: Message) -> None:
    """
    Do two verified messages prove a fork?

    @raise ForkUnproven: if they do not.
    """
    if one.author != other.author or one.sequence != other.sequence:
        raise ForkUnproven(
            f"message {one.sequence} of {one.author.text} and message {other.sequence} of "
            f"{other.author.text} do not have one place"
        )
    if one.hash == other.hash:
        raise ForkUnproven(f"message {one.sequence} of {one.author.text} was given twice")
    for message in (one, other):
        # No store would take it, so it stands in nobody's place.
        if (message.sequence == 1) is not (message.previous is None):
            raise ForkUnproven(
                f"message {message.sequence} of {message.author.text} could not be part of a feed"
            )


def own_forked(sequence: int) -> FeedForked:
    """@return: what is told to who wants to publish in a feed that has ended."""
    return FeedForked(
        f"two messages {sequence} of this node's feed were signed with its key, so nobody takes "
        f"what follows them: publish under a new identity, and run no two nodes with one key"
    )


def own_tail(connection: sqlite3.Connection, key: bytes) -> tuple[int, str | None]:
    """
    Where the next message of this node's own feed goes.

    @return: the last sequence stored (0 for none) and the hash there.
    @raise FeedForked: if the feed has ended in a fork.
    @raise FeedClosed: if it has ended in a rotation.
    """
    row = connection.execute(
        "SELECT m.sequence, m.hash, a.forked FROM feed_authors a "
        "LEFT JOIN feed_messages m ON m.author = a.id AND m.sequence = a.latest WHERE a.key = ?",
        (key,),
    ).fetchone()
    if row is None:
        return 0, None
    sequence, digest, forked = row
    if forked is not None:
        raise own_forked(forked)
    end = closing(connection, key)
    if end is not None:
        raise refusal(end)
    return (0, None) if digest is None else (sequence, digest.hex())


@frozen
class OwnRoom:
    """
    What this node may still publish.

    @ivar total: how much is stored of all feeds.
    """

    limits: Limits
    total: Amount

    def take(self, messages: Sequence[Message]) -> OwnRoom:
        """
        @return: what is left after these.
        @raise LimitReached: if there is no room for them.
        """
        total = self.total
        for message in messages:
            more = Amount(1, 1, len(message.raw))
            self.limits.check(message.author, Amount(), total, Amount(), more, is_own=True)
            total += more
        return evolve(self, total=total)


def append_own(connection: sqlite3.Connection, messages: Sequence[Message], now_ns: int) -> Stored:
    """
    Store messages that this node has just signed: all of them, or none.

    @raise FeedError: if the feed has no place for one of them.
    """
    batch = _Batch(connection, now_ns)
    return batch.finish([batch.add(message) for message in messages])


# --- reading -------------------------------------------------------------------------

#: Nothing of the author of the row C{a} is told or served, if it is blocked.
NOT_BLOCKED: Final = "a.key NOT IN (SELECT author FROM feed_blocks)"


@frozen
class Row:
    """
    A stored message as lists show it.

    @ivar raw: its text, as its author wrote it.
    @ivar chain_valid: the link to its predecessor was seen and holds.
    @ivar forked: its author is known to have signed two messages of its sequence number,
        or of one before it: it is no part of a feed.
    """

    raw: bytes
    chain_valid: bool
    forked: bool = False

    #: What L{read} takes, of the tables with the aliases C{m} and C{a}.
    COLUMNS: ClassVar[str] = "m.raw, m.chain_valid, coalesce(m.sequence >= a.forked, 0)"
    #: These tables.  The left join keeps the messages in the order of their index.
    TABLES: ClassVar[str] = "feed_messages m LEFT JOIN feed_authors a ON a.id = m.author"

    @classmethod
    def read(cls, raw: bytes, chain_valid: int, forked: int) -> Row:
        """A row of the database."""
        return cls(raw, bool(chain_valid and not forked), bool(forked))


def message_by_hash(connection: sqlite3.Connection, digest: bytes) -> Row | None:
    """@return: a message, unless it is gone."""
    row = connection.execute(
        f"SELECT {Row.COLUMNS} FROM {Row.TABLES} WHERE m.hash = ? AND m.shown_ns > ?",
        (digest, GONE),
    ).fetchone()
    return None if row is None else Row.read(*row)


def place_by_hash(connection: sqlite3.Connection, digest: bytes) -> tuple[bytes, int] | None:
    """@return: author and sequence of a message, also of one whose text is gone."""
    row: tuple[bytes, int] | None = connection.execute(
        f"SELECT a.key, m.sequence FROM {Row.TABLES} WHERE m.hash = ?", (digest,)
    ).fetchone()
    return row


def list_heads(
    connection: sqlite3.Connection, authors: Sequence[bytes] | None, after: bytes, limit: int
) -> list[tuple[bytes, int]]:
    """See L{meshkit.interfaces.IFeedStore.heads}."""
    if authors is None:
        return connection.execute(
            "SELECT a.key, contiguous FROM feed_authors a WHERE a.key > ? AND contiguous > 0 "
            f"AND {NOT_BLOCKED} ORDER BY a.key LIMIT ?",
            (after, limit),
        ).fetchall()
    heads = []
    for key in sorted(authors):
        row = connection.execute(
            "SELECT a.key, contiguous FROM feed_authors a WHERE a.key = ? AND contiguous > 0 "
            f"AND {NOT_BLOCKED}",
            (key,),
        ).fetchone()
        if row is not None:
            heads.append(row)
    return heads


#: What L{_frontier} reads.  A message after the head is one that does not join it.
_FRONTIER: Final = (
    f"SELECT a.key, a.contiguous, a.head, a.forked, NOT {ENDS_THERE} AND "
    "a.latest > a.contiguous AND EXISTS ("
    "SELECT 1 FROM feed_messages m WHERE m.author = a.id AND m.sequence = a.contiguous + 1) "
    f"FROM feed_authors a WHERE (a.contiguous > 0 OR a.forked IS NOT NULL) AND {NOT_BLOCKED} AND "
)


def _frontier(
    key: bytes, contiguous: int, head: bytes | None, forked: int | None, followed: int
) -> Frontier:
    # The message in the forked place follows as well, and there the question is settled.
    disputed = contiguous if followed and forked != contiguous + 1 else None
    return Frontier(key, contiguous, head, forked, disputed)


def list_frontier(
    connection: sqlite3.Connection, authors: Sequence[bytes] | None, after: bytes, limit: int
) -> list[Frontier]:
    """See L{meshkit.interfaces.IFeedStore.frontier}."""
    if authors is None:
        rows = connection.execute(f"{_FRONTIER} a.key > ? ORDER BY a.key LIMIT ?", (after, limit))
        return [_frontier(*row) for row in rows]
    found = []
    for key in sorted(set(authors)):
        row = connection.execute(f"{_FRONTIER} a.key = ?", (key,)).fetchone()
        if row is not None:
            found.append(_frontier(*row))
    return found


def fork_proof(connection: sqlite3.Connection, author: bytes) -> ForkProof | None:
    """See L{meshkit.interfaces.IFeedStore.fork_proof}."""
    row = connection.execute(
        "SELECT a.key, a.forked, f.one, f.other FROM feed_forks f "
        f"JOIN feed_authors a ON a.id = f.author WHERE a.key = ? AND {NOT_BLOCKED}",
        (author,),
    ).fetchone()
    return None if row is None else ForkProof(*row)


def read_chain(
    connection: sqlite3.Connection, author: bytes, after: int, max_bytes: int, max_messages: int
) -> list[bytes]:
    """See L{meshkit.interfaces.IFeedStore.read}."""
    rows = connection.execute(
        "SELECT m.sequence, m.raw FROM feed_messages m JOIN feed_authors a ON a.id = m.author "
        "WHERE a.key = ? AND m.sequence > ? AND m.sequence <= a.contiguous "
        f"AND {NOT_BLOCKED} ORDER BY m.sequence LIMIT ?",
        (author, after, max_messages),
    )
    page: list[bytes] = []
    size = 0
    for sequence, raw in rows:
        size += len(raw)
        gone = not raw or sequence != after + len(page) + 1
        if gone or (page and size > max_bytes):
            break
        page.append(raw)
    return page


def parting(
    connection: sqlite3.Connection, heads: Sequence[tuple[bytes, int, bytes]]
) -> list[tuple[bytes, int]]:
    """See L{meshkit.interfaces.IFeedStore.parting}."""
    found = []
    for author, sequence, head in heads:
        row = connection.execute(
            "SELECT m.hash FROM feed_messages m JOIN feed_authors a ON a.id = m.author "
            "WHERE a.key = ? AND m.sequence = ? AND m.sequence <= a.contiguous",
            (author, sequence),
        ).fetchone()
        if row is not None and row[0] != head:
            found.append((author, sequence))
    return found


def gone_until(connection: sqlite3.Connection, author: bytes, after: int) -> Gap | None:
    """See L{meshkit.interfaces.IFeedStore.gone_until}."""
    row = connection.execute(
        "SELECT a.id, min(g.last, a.contiguous), a.contiguous FROM feed_authors a "
        "JOIN feed_gaps g ON g.author = a.id "
        f"WHERE a.key = ? AND g.first <= ? AND {NOT_BLOCKED} ORDER BY g.first DESC LIMIT 1",
        (author, after + 1),
    ).fetchone()
    if row is None or row[1] <= after:
        return None
    number, until, contiguous = row
    found = connection.execute(
        "SELECT previous, raw FROM feed_messages WHERE author = ? AND sequence = ?",
        (number, until + 1),
    ).fetchone()
    if until == contiguous or found is None:
        # Nothing follows that could say so: the feed was found to end in a gap.
        return Gap(until, None, None)
    return Gap(until, *found)


def skip(
    connection: sqlite3.Connection, author: bytes, until: int, head: bytes, now_ns: int
) -> int | None:
    """
    See L{meshkit.interfaces.IFeedStore.skip}.

    @return: up to where the feed is complete now; L{None} if nothing changed.
    """
    batch = _Batch(connection, now_ns)
    if not batch.skip(author, until, head):
        return None
    batch.finish([])
    return batch.authors[author].contiguous


# --- blocks --------------------------------------------------------------------------


def blocked_of(
    connection: sqlite3.Connection, checked: Sequence[Message | MeshkitError]
) -> set[bytes]:
    """@return: those of the authors of some messages that are blocked."""
    if connection.execute("SELECT 1 FROM feed_blocks LIMIT 1").fetchone() is None:
        return set()
    authors = sorted({item.author.raw for item in checked if isinstance(item, Message)})
    return {author for author in authors if is_blocked(connection, author)}


def is_blocked(connection: sqlite3.Connection, author: bytes) -> bool:
    row = connection.execute("SELECT 1 FROM feed_blocks WHERE author = ?", (author,)).fetchone()
    return row is not None


def blocks(connection: sqlite3.Connection) -> list[tuple[bytes, bool]]:
    """@return: (author, is it in the configuration?), sorted."""
    rows = connection.execute("SELECT author, configured FROM feed_blocks ORDER BY author")
    return [(author, bool(configured)) for author, configured in rows]


def configure_blocks(
    connection: sqlite3.Connection, authors: Sequence[bytes], now_ns: int
) -> list[tuple[bytes, bool]]:
    """
    Take over what the configuration says now.

    @return: as L{blocks}.
    """
    connection.execute("DELETE FROM feed_blocks WHERE configured")
    connection.executemany(
        "INSERT INTO feed_blocks (author, added_ns, configured) VALUES (?, ?, 1) "
        "ON CONFLICT (author) DO UPDATE SET configured = 1",
        [(author, now_ns) for author in authors],
    )
    return blocks(connection)


def block(connection: sqlite3.Connection, author: bytes, now_ns: int) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO feed_blocks (author, added_ns, configured) VALUES (?, ?, 0)",
        (author, now_ns),
    )


def unblock(connection: sqlite3.Connection, author: bytes) -> None:
    connection.execute("DELETE FROM feed_blocks WHERE author = ?", (author,))


def count_all(connection: sqlite3.Connection) -> tuple[Amount, int, list[bytes]]:
    """@return: how much is stored, of how many authors, and whose feeds are forked."""
    (feeds,) = connection.execute("SELECT count(*) FROM feed_authors").fetchone()
    forked = connection.execute("SELECT key FROM feed_authors WHERE forked IS NOT NULL")
    return total(connection), feeds, [key for (key,) in forked]
