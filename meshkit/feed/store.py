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
from collections.abc import Sequence
from itertools import chain as joined
from typing import ClassVar, Final

from attrs import define, field, frozen

from meshkit.errors import FeedError, FeedForked, ForkRefused, ForkUnproven, MeshkitError
from meshkit.feed import guard
from meshkit.feed.chain import Link, Neighbours, Verdict, judge
from meshkit.feed.message import MAX_SEQUENCE, Message
from meshkit.feed.words import indexed_text
from meshkit.interfaces import ForkProof, Frontier, StoredMessage

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
)

# Rows go into a statement by multiples of this, so that few different ones are compiled.
_ROWS: Final = 16
# Before version 3.32, SQLite took no more values in a statement.
_MAX_VALUES: Final = 999


@define
class _Author:
    """
    A row of feed_authors while a batch is written.

    @ivar added: what the batch added.
    @ivar changed: the row has to be written back.
    """

    id: int
    key: bytes
    contiguous: int
    head: bytes | None
    latest: int
    forked: int | None
    added: list[StoredMessage] = field(factory=list)
    changed: bool = False


@frozen
class Stored:
    """
    What a batch did to the store.

    @ivar verdicts: one per message, in order.
    @ivar added: (author key, contiguous, what was added) of every feed that messages were
        added to.
    @ivar messages: how many messages were added.
    @ivar feeds: how many authors were added.
    @ivar forks: (author key, sequence) of every fork that was proven, or was proven for
        a lower sequence than before.
    """

    verdicts: list[Verdict]
    added: list[tuple[bytes, int, tuple[StoredMessage, ...]]]
    messages: int
    feeds: int
    forks: list[tuple[bytes, int]]


@define
class _Batch:
    """
    One writing job: gathers rows until somebody has to see them, and remembers the
    authors it touched and writes them back once.
    """

    connection: sqlite3.Connection
    now_ns: int
    authors: dict[bytes, _Author] = field(factory=dict)
    rows: list[tuple[object, ...]] = field(factory=list)
    texts: list[tuple[object, ...]] = field(factory=list)
    tags: list[tuple[object, ...]] = field(factory=list)
    last_id: int = 0
    messages: int = 0
    feeds: int = 0
    forks: dict[bytes, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        (self.last_id,) = self.connection.execute(
            # What was set aside had a position too, and none is given twice.
            "SELECT max(coalesce((SELECT max(id) FROM feed_messages), 0), "
            "coalesce((SELECT max(position) FROM feed_set_aside), 0))"
        ).fetchone()

    def flush(self) -> None:
        """Insert the rows that were gathered."""
        _insert(
            self.connection,
            "feed_messages (id, author, sequence, hash, previous, shown_ns, received_ns, "
            "content_type, relates, chain_valid, raw)",
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
                "SELECT id, key, contiguous, head, latest, forked FROM feed_authors WHERE key = ?",
                (key,),
            ).fetchone()
            if row is None:
                return None
            known = self.authors[key] = _Author(*row)
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
        @raise FeedError: as L{judge} does.
        """
        author = self.author(message.author.raw)
        neighbours = self.neighbours(author, message)
        try:
            link = judge(message, neighbours)
        except ForkRefused:
            if author is not None and neighbours.same is not None:
                self._prove_beside(author, message)
            raise
        if author is None:
            author = self.new_author(message.author.raw)
        self._insert(author, message, link)
        self._advance(author, message, link)
        return Verdict.accepted(message, link)

    def _insert(self, author: _Author, message: Message, link: Link) -> None:
        self.last_id += 1
        digest = bytes.fromhex(message.hash)
        shown_ns = min(message.timestamp_ns, self.now_ns)
        author.added.append(
            StoredMessage(
                position=self.last_id,
                author=author.key,
                sequence=message.sequence,
                hash=digest,
                content_type=message.content_type,
                tags=message.tags,
                raw=message.raw,
            )
        )
        self.rows.append(
            (
                self.last_id,
                author.id,
                message.sequence,
                digest,
                None if message.previous is None else bytes.fromhex(message.previous),
                shown_ns,
                self.now_ns,
                message.content_type,
                message.relates,
                link.chain_valid,
                message.raw,
            )
        )
        self.texts.append((self.last_id, indexed_text(message.content)))
        # A tag may stand in a message twice.
        for tag in dict.fromkeys(message.tags):
            self.tags.append((tag, shown_ns, self.last_id, author.id))
        if link.promotes_successor:
            self.connection.execute(
                "UPDATE feed_messages SET chain_valid = 1 WHERE author = ? AND sequence = ?",
                (author.id, message.sequence + 1),
            )
        self.messages += 1

    def _advance(self, author: _Author, message: Message, link: Link) -> None:
        author.changed = True
        author.latest = max(author.latest, message.sequence)
        if message.sequence != author.contiguous + 1 or not link.chain_valid:
            return
        author.contiguous = message.sequence
        author.head = bytes.fromhex(message.hash)
        if link.promotes_successor:
            # The gap closed: walk on to the next one.
            rows = self.connection.execute(
                "SELECT sequence, hash, previous FROM feed_messages "
                "WHERE author = ? AND sequence > ? ORDER BY sequence",
                (author.id, author.contiguous),
            )
            for sequence, digest, previous in rows:
                joins = sequence == author.contiguous + 1 and previous == author.head
                if not joins or sequence == author.forked:
                    break
                author.contiguous, author.head = sequence, digest

    def _prove_beside(self, author: _Author, message: Message) -> None:
        """A second message came for a place that is taken."""
        (stored,) = self.connection.execute(
            "SELECT raw FROM feed_messages WHERE author = ? AND sequence = ?",
            (author.id, message.sequence),
        ).fetchone()
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
            author.contiguous = sequence - 1
            row = self.connection.execute(
                "SELECT hash FROM feed_messages WHERE author = ? AND sequence = ?",
                (author.id, author.contiguous),
            ).fetchone()
            author.head = None if row is None else row[0]
        return True

    def finish(self, verdicts: list[Verdict]) -> Stored:
        """Insert what is left, write the authors back and say what changed."""
        self.flush()
        self.connection.executemany(
            "UPDATE feed_authors SET contiguous = ?, head = ?, latest = ?, forked = ? WHERE id = ?",
            [
                (author.contiguous, author.head, author.latest, author.forked, author.id)
                for author in self.authors.values()
                if author.changed
            ],
        )
        added = [
            (author.key, author.contiguous, tuple(author.added))
            for author in self.authors.values()
            if author.added
        ]
        return Stored(verdicts, added, self.messages, self.feeds, list(self.forks.items()))


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
) -> Stored:
    """
    Store the messages of a batch, each by its own merits.

    @param checked: verified messages, or why a text was not one.
    @param now_ns: when they arrived.
    @param own: the key of this node: what is new of its own feed sets the guard.
    """
    batch = _Batch(connection, now_ns)
    before = None if own is None else batch.author(own)
    had = 0 if before is None else before.latest
    verdicts = []
    for item in checked:
        if isinstance(item, Message):
            try:
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
    @raise FeedForked: if the feed has ended.
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
    return (0, None) if digest is None else (sequence, digest.hex())


def append_own(connection: sqlite3.Connection, messages: Sequence[Message], now_ns: int) -> Stored:
    """
    Store messages that this node has just signed: all of them, or none.

    @raise FeedError: if the feed has no place for one of them.
    """
    batch = _Batch(connection, now_ns)
    return batch.finish([batch.add(message) for message in messages])


# --- reading -------------------------------------------------------------------------


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
    row = connection.execute(
        f"SELECT {Row.COLUMNS} FROM {Row.TABLES} WHERE m.hash = ?", (digest,)
    ).fetchone()
    return None if row is None else Row.read(*row)


def list_heads(
    connection: sqlite3.Connection, authors: Sequence[bytes] | None, after: bytes, limit: int
) -> list[tuple[bytes, int]]:
    """See L{meshkit.interfaces.IFeedStore.heads}."""
    if authors is None:
        return connection.execute(
            "SELECT key, contiguous FROM feed_authors WHERE key > ? AND contiguous > 0 "
            "ORDER BY key LIMIT ?",
            (after, limit),
        ).fetchall()
    heads = []
    for key in sorted(authors):
        row = connection.execute(
            "SELECT key, contiguous FROM feed_authors WHERE key = ? AND contiguous > 0", (key,)
        ).fetchone()
        if row is not None:
            heads.append(row)
    return heads


#: What L{_frontier} reads.  A message after the head is one that does not join it.
_FRONTIER: Final = (
    "SELECT a.key, a.contiguous, a.head, a.forked, a.latest > a.contiguous AND EXISTS ("
    "SELECT 1 FROM feed_messages m WHERE m.author = a.id AND m.sequence = a.contiguous + 1) "
    "FROM feed_authors a WHERE (a.contiguous > 0 OR a.forked IS NOT NULL) AND "
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
        "JOIN feed_authors a ON a.id = f.author WHERE a.key = ?",
        (author,),
    ).fetchone()
    return None if row is None else ForkProof(*row)


def read_chain(
    connection: sqlite3.Connection, author: bytes, after: int, max_bytes: int, max_messages: int
) -> list[bytes]:
    """See L{meshkit.interfaces.IFeedStore.read}."""
    rows = connection.execute(
        "SELECT m.raw FROM feed_messages m JOIN feed_authors a ON a.id = m.author "
        "WHERE a.key = ? AND m.sequence > ? AND m.sequence <= a.contiguous "
        "ORDER BY m.sequence LIMIT ?",
        (author, after, max_messages),
    )
    page: list[bytes] = []
    size = 0
    for (raw,) in rows:
        size += len(raw)
        if page and size > max_bytes:
            break
        page.append(raw)
    return page


def count_all(connection: sqlite3.Connection) -> tuple[int, int]:
    """@return: how many messages and how many authors are stored."""
    (messages,) = connection.execute("SELECT count(*) FROM feed_messages").fetchone()
    (feeds,) = connection.execute("SELECT count(*) FROM feed_authors").fetchone()
    return messages, feeds
