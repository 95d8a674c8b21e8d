"""
What this node forgets of the feeds that it stores, and how.

Rows are emptied, not deleted.  The text of a message goes, with its words in the index and
its tags; its hash, that of its predecessor and its place stay.  So no sequence number and
no position is given twice, this node's own feed goes on where it was, and a second message
for a place is still seen to be one.

The newest message that is complete in a feed keeps its text: it names what came before it,
which is how others can do without that, and it is what they join the next one to.  One
that has expired is shown nowhere all the same.

L{plan} reads what is to go, a bounded part of it; L{empty} is the writing job.  Publishing
goes in between two of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Literal

from attrs import define, evolve, field, frozen

from meshkit.errors import FeedError
from meshkit.feed import search, store
from meshkit.feed.limits import NOTHING, Amount
from meshkit.feed.message import parse_message
from meshkit.feed.store import GONE
from meshkit.interfaces import Retention

#: More than there can be of anything.
_ANY: Final = 2**62
#: Messages, and bytes of them, that are emptied in one job.
BATCH_MESSAGES: Final = 200
BATCH_BYTES: Final = 256 * 1024

Reason = Literal["expired", "age", "arrived", "author", "total", "forgotten"]

# Not the newest one that is complete, nor what waits beyond a gap: that would be fetched
# again.  What a fork has cut off waits for nothing.
_MAY_GO: Final = "(m.sequence < a.contiguous OR m.sequence >= a.forked)"
_TABLES: Final = "feed_messages m CROSS JOIN feed_authors a ON a.id = m.author"
# The two orders in which messages with a text are gone through.
_BY_TIME: Final = _TABLES.replace("m CROSS", "m INDEXED BY feed_messages_newest CROSS")
_BY_ARRIVAL: Final = _TABLES.replace("m CROSS", "m INDEXED BY feed_messages_arrived CROSS")


@frozen
class Policy:
    """
    What goes; 0 is no limit.

    @ivar expiry: what has expired.
    @ivar max_age_ns: what is older, by when it is shown.
    @ivar author_messages: of each author, the oldest beyond so many.
    @ivar author_bytes: of each author, the oldest beyond so many bytes of text.
    @ivar messages: of all, the oldest beyond so many.
    @ivar bytes: of all, the oldest beyond so many bytes of text.
    @ivar own: of this node's own feed as well.
    @ivar max_stay_ns: what came here longer ago, whenever it was written.
    @ivar fair: beyond the limits of all, those authors give who have most, each of its oldest, so
        that many who publish much take no room of one who publishes little; else what is the
        oldest of all.
    @ivar prompt: what is beyond the limits of an author goes within seconds, and not only when
        it is time to look at everything.
    """

    expiry: bool = True
    max_age_ns: int = 0
    author_messages: int = 0
    author_bytes: int = 0
    messages: int = 0
    bytes: int = 0
    own: bool = False
    max_stay_ns: int = 0
    fair: bool = False
    prompt: bool = False

    @property
    def idle(self) -> bool:
        """Does nothing ever go?"""
        sizes = (self.author_messages, self.author_bytes, self.messages, self.bytes)
        return not (self.expiry or self.max_age_ns or self.max_stay_ns or any(sizes))

    def within(self, retention: Retention) -> Policy:
        """@return: what goes if what is not within C{retention} goes as well."""
        return evolve(
            self,
            max_stay_ns=_least(self.max_stay_ns, int(retention.seconds * 1e9)),
            author_messages=_least(self.author_messages, retention.author_messages),
            author_bytes=_least(self.author_bytes, retention.author_bytes),
            messages=_least(self.messages, retention.messages),
            bytes=_least(self.bytes, retention.bytes),
            fair=True,
            prompt=True,
        )


def _least(one: int, other: int) -> int:
    """The lower of two limits, of which 0 is none."""
    return min(one, other) if one and other else max(one, other)


@frozen
class Doomed:
    """
    A message that is to go.

    @ivar position: its row id.
    @ivar author: its author's.
    @ivar size: bytes of its text.
    @ivar reason: the rule that takes it.
    """

    position: int
    author: int
    size: int
    reason: Reason


@frozen
class Emptied:
    """
    @ivar messages: whose text is gone, or is shown no more.
    @ivar amount: how much is stored no more.
    """

    messages: int
    amount: Amount


@define
class _Plan:
    """What was found so far, and what is left if it goes."""

    connection: sqlite3.Connection
    own: int | None
    most: int
    most_bytes: int | None
    found: dict[int, Doomed] = field(factory=dict)
    size: int = 0
    of_author: dict[int, Amount] = field(factory=dict)

    @property
    def full(self) -> bool:
        too_large = self.most_bytes is not None and self.size >= self.most_bytes
        return too_large or len(self.found) >= self.most

    def take(self, doomed: Doomed) -> None:
        if doomed.position not in self.found:
            self.found[doomed.position] = doomed
            self.size += doomed.size
            gone = self.of_author.get(doomed.author, Amount())
            self.of_author[doomed.author] = gone + Amount(0, 1, doomed.size)

    def rows(self, sql: str, values: Sequence[object], reason: Reason) -> Iterator[Doomed]:
        """What a query gives that was not found before."""
        keep = "" if self.own is None else f" AND m.author <> {self.own}"
        for row in self.connection.execute(sql.replace("{keep}", keep), values):
            position, author, size = row
            doomed = Doomed(position, author, size, reason)
            if doomed.position not in self.found:
                yield doomed


def plan(
    connection: sqlite3.Connection,
    policy: Policy,
    own: bytes,
    now_ns: int,
    most: int = BATCH_MESSAGES,
    most_bytes: int | None = BATCH_BYTES,
) -> list[Doomed]:
    """
    What is to go now, the first part of it.

    @param own: key of this node.
    @param most: how many messages at most.
    @param most_bytes: end with the one that takes it over so many bytes.
    """
    row = connection.execute("SELECT id FROM feed_authors WHERE key = ?", (own,)).fetchone()
    kept = None if policy.own or row is None else int(row[0])
    found = _Plan(connection, kept, most, most_bytes)
    for rule in (_expired, _too_old, _too_long_here, _beyond_author, _beyond_total):
        if not found.full:
            rule(found, policy, now_ns)
    return list(found.found.values())


def _expired(found: _Plan, policy: Policy, now_ns: int) -> None:
    if not policy.expiry:
        return
    _take_all(
        found,
        f"SELECT m.id, m.author, length(m.raw) FROM {_TABLES} WHERE m.expires_ns <= ?{{keep}} "
        f"AND (m.shown_ns > ? OR {_MAY_GO}) ORDER BY m.expires_ns, m.id",
        (now_ns, GONE),
        "expired",
    )


def _too_old(found: _Plan, policy: Policy, now_ns: int) -> None:
    if not policy.max_age_ns:
        return
    _take_all(
        found,
        f"SELECT m.id, m.author, length(m.raw) FROM {_BY_TIME} WHERE m.shown_ns > ? "
        f"AND m.shown_ns < ?{{keep}} AND {_MAY_GO} ORDER BY m.shown_ns, m.id",
        (GONE, now_ns - policy.max_age_ns),
        "age",
    )


def _too_long_here(found: _Plan, policy: Policy, now_ns: int) -> None:
    if not policy.max_stay_ns:
        return
    _take_all(
        found,
        f"SELECT m.id, m.author, length(m.raw) FROM {_BY_ARRIVAL} WHERE m.shown_ns > {GONE} "
        f"AND m.received_ns < ?{{keep}} AND {_MAY_GO} ORDER BY m.received_ns, m.id",
        (now_ns - policy.max_stay_ns,),
        "arrived",
    )


def _take_all(found: _Plan, sql: str, values: Sequence[object], reason: Reason) -> None:
    for doomed in found.rows(sql, values, reason):
        if found.full:
            break
        found.take(doomed)


def _beyond_author(found: _Plan, policy: Policy, now_ns: int) -> None:
    """The oldest of an author: those with the lowest numbers."""
    if not policy.author_messages and not policy.author_bytes:
        return
    most = Amount(0, policy.author_messages or _ANY, policy.author_bytes or _ANY)
    large = found.connection.execute(
        "SELECT id, texts, size FROM feed_authors WHERE (texts > ? OR size > ?) AND id IS NOT ? "
        "ORDER BY id",
        (most.texts, most.size, found.own),
    ).fetchall()
    for author, texts, size in large:
        gone = found.of_author.get(author, NOTHING)
        _shorten(found, author, Amount(0, texts - gone.texts, size - gone.size), most, "author")


def _shorten(found: _Plan, author: int, left: Amount, most: Amount, reason: Reason) -> None:
    """Take the oldest of an author until no more is left than may be."""
    (start,) = found.connection.execute(
        "SELECT coalesce(max(last), 0) FROM feed_gaps WHERE author = ? AND first = 1", (author,)
    ).fetchone()
    rows = found.rows(
        f"SELECT m.id, m.author, length(m.raw) FROM {_TABLES} WHERE m.author = ? "
        f"AND m.sequence > ? AND length(m.raw) > 0 AND {_MAY_GO} ORDER BY m.sequence",
        (author, start),
        reason,
    )
    _take_down(found, left, most, rows)


def _beyond_total(found: _Plan, policy: Policy, now_ns: int) -> None:
    if not policy.messages and not policy.bytes:
        return
    left = store.total(found.connection)
    left += Amount(0, -len(found.found), -found.size)
    most = Amount(0, policy.messages or _ANY, policy.bytes or _ANY)
    if policy.fair:
        _beyond_shares(found, left, most)
        return
    rows = found.rows(
        f"SELECT m.id, m.author, length(m.raw) FROM {_BY_TIME} WHERE m.shown_ns > ?{{keep}} "
        f"AND {_MAY_GO} ORDER BY m.shown_ns, m.id",
        (GONE,),
        "total",
    )
    _take_down(found, left, most, rows)


def _beyond_shares(found: _Plan, left: Amount, most: Amount) -> None:
    """
    Bring all down to a level, at which there is room for everybody: who has less is left alone.

    @param left: what all have together.
    @param most: what they may have.
    """
    if left.texts <= most.texts and left.size <= most.size:
        return
    own, others = NOTHING, {}
    for author, texts, size in found.connection.execute(
        "SELECT id, texts, size FROM feed_authors WHERE texts > 0 ORDER BY id"
    ):
        gone = found.of_author.get(author, NOTHING)
        amount = Amount(0, texts - gone.texts, size - gone.size)
        if author == found.own:
            own = amount
        else:
            others[author] = amount
    share = Amount(
        0,
        level([amount.texts for amount in others.values()], most.texts - own.texts),
        level([amount.size for amount in others.values()], most.size - own.size),
    )
    for author, amount in others.items():
        if found.full:
            break
        _shorten(found, author, amount, share, "total")


def level(amounts: Sequence[int], most: int) -> int:
    """
    What each may have at most, so that all have no more than C{most} together, and nobody who has
    less could have kept more: max-min fairness.
    """
    left = max(0, most)
    for count, amount in zip(range(len(amounts), 0, -1), sorted(amounts), strict=True):
        if amount * count > left:
            return left // count
        left -= amount
    return _ANY


def _take_down(found: _Plan, left: Amount, most: Amount, rows: Iterator[Doomed]) -> None:
    """Take until no more is left than may be."""
    for doomed in rows:
        if found.full or (left.texts <= most.texts and left.size <= most.size):
            break
        found.take(doomed)
        left += Amount(0, -1, -doomed.size)


def of_author(connection: sqlite3.Connection, author: bytes) -> list[Doomed]:
    """What is kept of an author, the first part of it."""
    found = _Plan(connection, None, BATCH_MESSAGES, BATCH_BYTES)
    _take_all(
        found,
        f"SELECT m.id, m.author, length(m.raw) FROM {_TABLES} WHERE a.key = ? "
        "AND length(m.raw) > 0 ORDER BY m.sequence",
        (author,),
        "forgotten",
    )
    return list(found.found.values())


def empty(connection: sqlite3.Connection, positions: Collection[int]) -> Emptied:
    """
    Take the texts of messages away; of the newest of a feed, only what shows it.

    @param positions: what L{plan} has found, in a state that may have changed since.
    """
    messages = 0
    gone: dict[int, Amount] = {}
    for position in positions:
        row = connection.execute(
            f"SELECT m.author, m.sequence, m.raw, m.shown_ns, {_MAY_GO} FROM {_TABLES} "
            "WHERE m.id = ? AND length(m.raw) > 0",
            (position,),
        ).fetchone()
        if row is None:
            continue
        author, sequence, raw, shown_ns, may_go = row
        if shown_ns > GONE:
            if not _hide(connection, position, raw):
                continue
        elif not may_go:
            continue
        messages += 1
        if may_go:
            connection.execute(
                "UPDATE feed_messages SET raw = x'', expires_ns = NULL WHERE id = ?", (position,)
            )
            (contiguous,) = connection.execute(
                "SELECT contiguous FROM feed_authors WHERE id = ?", (author,)
            ).fetchone()
            if sequence < contiguous:
                store.note_gap(connection, author, sequence, sequence)
            gone[author] = gone.get(author, Amount()) + Amount(0, 1, len(raw))
    return Emptied(messages, _write_off(connection, gone))


def _hide(connection: sqlite3.Connection, position: int, raw: bytes) -> bool:
    """
    @return: L{False} for a text that is damaged: what the index has of it is not known, so
        that it stays as it is, for C{meshkit doctor} to find.
    """
    try:
        message = parse_message(raw)
    except FeedError:
        return False
    search.unindex(connection, {position: message})
    connection.execute(
        "UPDATE feed_messages SET shown_ns = ?, content_type = NULL, relates = NULL WHERE id = ?",
        (GONE, position),
    )
    return True


def _write_off(connection: sqlite3.Connection, gone: dict[int, Amount]) -> Amount:
    whole = Amount()
    for author, amount in gone.items():
        store.write_off(connection, author, amount)
        whole += amount
    return whole


def forget_end(connection: sqlite3.Connection, author: bytes) -> None:
    """
    Begin to forget a whole feed: it ends before its first message now.  What is emptied
    then is fetched again, should the feed be wanted again.
    """
    connection.execute(
        "DELETE FROM feed_gaps WHERE author = (SELECT id FROM feed_authors WHERE key = ?)",
        (author,),
    )
    connection.execute(
        "UPDATE feed_authors SET contiguous = 0, head = NULL WHERE key = ?", (author,)
    )


def empty_forgotten(connection: sqlite3.Connection, positions: Collection[int]) -> Emptied:
    """Like L{empty}, for messages that L{of_author} has found: all of them go."""
    messages = 0
    gone: dict[int, Amount] = {}
    for position in positions:
        row = connection.execute(
            "SELECT author, raw, shown_ns FROM feed_messages WHERE id = ? AND length(raw) > 0",
            (position,),
        ).fetchone()
        if row is None:
            continue
        author, raw, shown_ns = row
        if shown_ns > GONE and not _hide(connection, position, raw):
            continue
        connection.execute(
            "UPDATE feed_messages SET raw = x'', expires_ns = NULL WHERE id = ?", (position,)
        )
        gone[author] = gone.get(author, Amount()) + Amount(0, 1, len(raw))
        messages += 1
    return Emptied(messages, _write_off(connection, gone))
