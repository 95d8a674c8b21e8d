"""
The mailboxes of a relay, in SQLite.

A mailbox is there for who has asked for one, and stays for as long as somebody may seal a
message with what its owner has published.  There are limits to what waits in one mailbox, to
what waits in it of one sender, to what one sender has in all, and to everything together.  Keys
cost nothing: so there are limits as well to how many mailboxes are opened from one host, and how
much is left from it, whatever keys it has.  Who
comes when there is no room is refused.  Nobody's message is put out for it: the receipt that
its sender has says until when it is here, and who can make keys could otherwise put out
everybody's.  What goes is what was fetched, and what has waited for as long as was promised.

A message that was fetched is remembered for a while, in L{MAX_FETCHED} lines for all mailboxes.
Who has not got the answer to a deposit asks again, gets the same receipt, and nothing is
delivered twice; should it be forgotten, the recipient knows it again.

All but the class are functions of an open connection, and are run by
L{meshkit.runtime.database.Database}: the writing ones on its one writer thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from attrs import frozen
from twisted.internet.defer import Deferred

from meshkit.errors import MailboxFull, MailboxUnknown
from meshkit.identity.keys import PublicKey
from meshkit.relay.mailbox.prekeys import MAX_TTL, Prekey
from meshkit.relay.mailbox.receipts import MailboxReceipt
from meshkit.relay.mailbox.sealing import digest_of
from meshkit.relay.mailbox.wire import MAX_PAGE, PAGE_BYTES, Page, Waiting
from meshkit.runtime.database import Database

__all__ = ["MailboxKept", "MailboxLimits", "MailboxStore", "MailboxTotals"]

#: Seconds for which a message is remembered after its time, at relays and by recipients.
REMEMBERED: Final = 7 * 86_400
#: Messages that were fetched and are remembered, of all mailboxes.
MAX_FETCHED: Final = 100_000
#: What is deleted in one transaction, so that nobody waits for long behind it.
MAX_SWEPT: Final = 1_000


@frozen
class MailboxLimits:
    """
    What a relay keeps.

    @ivar messages: that wait for one recipient.
    @ivar bytes: of them.
    @ivar from_one: messages of one sender for one recipient.
    @ivar of_sender: messages of one sender, for all.
    @ivar mailboxes: recipients who have one.
    @ivar bytes_in_all: that wait for all.
    @ivar mailboxes_of_origin: that were opened from one IPv4 address or IPv6 /64.
    @ivar bytes_of_origin: that wait for all, and were left from there.
    """

    messages: int = 1_000
    bytes: int = 16 * 2**20
    from_one: int = 64
    of_sender: int = 1_024
    mailboxes: int = 10_000
    bytes_in_all: int = 2**30
    mailboxes_of_origin: int = 256
    bytes_of_origin: int = 64 * 2**20


_DEFAULTS: Final = MailboxLimits()


@frozen
class MailboxTotals:
    """
    What a relay has.

    @ivar mailboxes: that are open.
    @ivar messages: that wait in them.
    @ivar bytes: of them.
    """

    mailboxes: int
    messages: int
    bytes: int


@frozen
class MailboxKept:
    """
    A mailbox, for the operator.

    @ivar recipient: whose it is.
    @ivar origin: from which host it was opened.
    @ivar messages: that wait in it.
    @ivar bytes: of them.
    @ivar until: when it is closed, unless its owner comes again, in seconds of Unix time.
    """

    recipient: PublicKey
    origin: str
    messages: int
    bytes: int
    until: int


def open_mailbox(
    connection: sqlite3.Connection, prekey: Prekey, origin: str, limits: MailboxLimits
) -> int:
    """
    Open a mailbox, or keep it open.

    @param prekey: that its owner, whose connection it is, has given just now: so it counts,
        whatever time an earlier one says that it was made.
    @param origin: from which host; the one from which it was opened counts for as long as it is.
    @return: until when it is open, in seconds of Unix time.
    @raise MailboxFull: if there are too many.
    """
    until = prekey.expires + MAX_TTL
    known = connection.execute(
        "UPDATE mailboxes SET prekey = ?, expires = ?, until = ? WHERE recipient = ?",
        (prekey.raw, prekey.expires, until, prekey.owner.raw),
    ).rowcount
    if not known:
        if totals(connection).mailboxes >= limits.mailboxes:
            raise MailboxFull(
                f"this relay has {limits.mailboxes} mailboxes, and no room for another: ask "
                "another relay"
            )
        if _of_origin(connection, origin)[0] >= limits.mailboxes_of_origin:
            raise MailboxFull(
                f"{limits.mailboxes_of_origin} mailboxes were opened from {origin}, which is the "
                "limit of this relay: ask another relay"
            )
        connection.execute(
            "INSERT INTO mailboxes (recipient, prekey, expires, until, origin) "
            "VALUES (?, ?, ?, ?, ?)",
            (prekey.owner.raw, prekey.raw, prekey.expires, until, origin),
        )
    return until


def _of_origin(connection: sqlite3.Connection, origin: str) -> tuple[int, int]:
    """@return: mailboxes that were opened from there, and bytes that were left."""
    row: tuple[int, int] | None = connection.execute(
        "SELECT mailboxes, bytes FROM mailbox_origins WHERE origin = ?", (origin,)
    ).fetchone()
    return (0, 0) if row is None else row


def find_prekey(connection: sqlite3.Connection, recipient: PublicKey, now: int) -> bytes | None:
    """
    @return: the signed prekey; L{None} if it has expired.
    @raise MailboxUnknown: if there is no mailbox.
    """
    row = connection.execute(
        "SELECT CASE WHEN expires > ? THEN prekey END FROM mailboxes "
        "WHERE recipient = ? AND until > ?",
        (now, recipient.raw, now),
    ).fetchone()
    if row is None:
        raise _unknown(recipient)
    found: bytes | None = row[0]
    return found


def deposit(
    connection: sqlite3.Connection,
    relay: PublicKey,
    sender: PublicKey,
    origin: str,
    recipient: PublicKey,
    sealed: bytes,
    now: int,
    ttl: int,
    limits: MailboxLimits,
) -> MailboxReceipt:
    """
    Keep a message.  The same one again is kept once, and gets the same receipt.

    @param relay: who gives the receipt.
    @param sender: who brings it.
    @param origin: from which host.
    @param now: seconds of Unix time.
    @param ttl: seconds for which it may wait, at most L{MAX_TTL}.
    @return: what is to be signed once this is on the disk.
    @raise MailboxUnknown: if there is no mailbox.
    @raise MailboxFull: if there is no room.
    """
    digest, size = digest_of(sealed), len(sealed)
    for table in ("mailbox_messages", "mailbox_fetched"):
        row = connection.execute(
            f"SELECT taken, until FROM {table} WHERE recipient = ? AND digest = ? AND until > ?",
            (recipient.raw, digest, now),
        ).fetchone()
        if row is not None:
            return MailboxReceipt(relay, recipient, digest, size, *row)
    _check_room(connection, sender, origin, recipient, size, now, limits)
    until = now + min(ttl, MAX_TTL)
    # One of which the time is over may not have been swept away.
    connection.execute(
        "DELETE FROM mailbox_messages WHERE recipient = ? AND digest = ?", (recipient.raw, digest)
    )
    connection.execute(
        "INSERT INTO mailbox_messages "
        "(recipient, sender, origin, digest, taken, until, size, sealed) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (recipient.raw, sender.raw, origin, digest, now, until, size, sealed),
    )
    return MailboxReceipt(relay, recipient, digest, size, now, until)


def _check_room(
    connection: sqlite3.Connection,
    sender: PublicKey,
    origin: str,
    recipient: PublicKey,
    size: int,
    now: int,
    limits: MailboxLimits,
) -> None:
    row = connection.execute(
        "SELECT messages, bytes FROM mailboxes WHERE recipient = ? AND until > ?",
        (recipient.raw, now),
    ).fetchone()
    if row is None:
        raise _unknown(recipient)
    messages, taken = row
    if messages >= limits.messages or taken + size > limits.bytes:
        raise MailboxFull(
            f"{messages} messages of {taken} bytes wait for {recipient.short}, and there is no "
            "room for this one: try again when some were fetched"
        )
    (of_both,) = connection.execute(
        "SELECT count(*) FROM mailbox_messages WHERE sender = ? AND recipient = ?",
        (sender.raw, recipient.raw),
    ).fetchone()
    if of_both >= limits.from_one:
        raise MailboxFull(
            f"{of_both} messages of yours wait for {recipient.short}, and {limits.from_one} are "
            "the limit: try again when some were fetched"
        )
    (of_sender,) = connection.execute(
        "SELECT count(*) FROM mailbox_messages WHERE sender = ?", (sender.raw,)
    ).fetchone()
    if of_sender >= limits.of_sender:
        raise MailboxFull(
            f"{of_sender} messages of yours wait here, and {limits.of_sender} are the limit: try "
            "again when some were fetched"
        )
    from_there = _of_origin(connection, origin)[1]
    if from_there + size > limits.bytes_of_origin:
        raise MailboxFull(
            f"{from_there} bytes that were left from {origin} wait here, and "
            f"{limits.bytes_of_origin} are the limit: ask another relay, or try again when some "
            "were fetched"
        )
    if totals(connection).bytes + size > limits.bytes_in_all:
        raise MailboxFull("this relay has no room for more messages: ask another relay")


def _unknown(recipient: PublicKey) -> MailboxUnknown:
    return MailboxUnknown(
        f"this relay has no mailbox for {recipient.text}: ask one that its owner uses"
    )


def fetch(connection: sqlite3.Connection, recipient: PublicKey, after: int, now: int) -> Page:
    """
    @param after: the number of the last message that is not wanted again.
    @return: what comes then, as much of it as fits a page.
    """
    rows = connection.execute(
        "SELECT number, size FROM mailbox_messages INDEXED BY mailbox_messages_in_order "
        "WHERE recipient = ? AND number > ? AND until > ? ORDER BY number LIMIT ?",
        (recipient.raw, after, now, MAX_PAGE + 1),
    ).fetchall()
    size, last = 0, after
    for number, each in rows[:MAX_PAGE]:
        if size + each > PAGE_BYTES:
            break
        size, last = size + each, number
    found = connection.execute(
        "SELECT number, taken, sealed FROM mailbox_messages "
        "WHERE recipient = ? AND number > ? AND number <= ? AND until > ? ORDER BY number",
        (recipient.raw, after, last, now),
    )
    return Page([Waiting(*row) for row in found], bool(rows) and rows[-1][0] > last)


def anything(connection: sqlite3.Connection, recipient: PublicKey, now: int) -> bool:
    """
    @return: does a message wait?
    @raise MailboxUnknown: if there is no mailbox.
    """
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM mailbox_messages INDEXED BY mailbox_messages_in_order "
        "WHERE recipient = mailboxes.recipient AND mailbox_messages.until > ?) "
        "FROM mailboxes WHERE recipient = ? AND until > ?",
        (now, recipient.raw, now),
    ).fetchone()
    if row is None:
        raise _unknown(recipient)
    return bool(row[0])


def acknowledge(
    connection: sqlite3.Connection,
    recipient: PublicKey,
    digests: Sequence[bytes],
    limit: int = MAX_FETCHED,
) -> int:
    """
    Delete messages that were fetched.

    @param limit: of the lines that remember them.
    @return: how many were there.
    """
    count = 0
    for digest in digests:
        row = connection.execute(
            "DELETE FROM mailbox_messages WHERE recipient = ? AND digest = ? "
            "RETURNING size, taken, until",
            (recipient.raw, digest),
        ).fetchone()
        if row is None:
            continue
        count += 1
        connection.execute(
            "INSERT OR REPLACE INTO mailbox_fetched "
            "(recipient, digest, size, taken, until, forgotten) VALUES (?, ?, ?, ?, ?, ?)",
            (recipient.raw, digest, *row, row[2] + REMEMBERED),
        )
    connection.execute(
        "DELETE FROM mailbox_fetched WHERE number <= "
        "(SELECT coalesce(max(number), 0) FROM mailbox_fetched) - ?",
        (limit,),
    )
    return count


def sweep(connection: sqlite3.Connection, now: int, limit: int = MAX_SWEPT) -> bool:
    """
    Delete what has waited for as long as was promised, and mailboxes whose owners have not come
    again.

    @param limit: to the number of each.
    @return: may there be more?
    """
    swept = [
        connection.execute(
            f"DELETE FROM {table} WHERE {key} IN "
            f"(SELECT {key} FROM {table} WHERE {condition} ORDER BY {key} LIMIT ?)",
            (now, limit),
        ).rowcount
        for table, key, condition in (
            ("mailbox_messages", "number", "until <= ?"),
            ("mailbox_fetched", "number", "forgotten <= ?"),
            # Not one in which a message waits of which somebody has a receipt.
            ("mailboxes", "recipient", "until <= ? AND messages = 0"),
        )
    ]
    return limit in swept


def list_mailboxes(connection: sqlite3.Connection, limit: int, offset: int) -> list[MailboxKept]:
    """@return: a stretch of all mailboxes, those in which most waits first."""
    return [
        MailboxKept(PublicKey(recipient), *rest)
        for recipient, *rest in connection.execute(
            "SELECT recipient, origin, messages, bytes, until FROM mailboxes "
            "ORDER BY bytes DESC, recipient LIMIT ? OFFSET ?",
            (limit, offset),
        )
    ]


def remove_mailbox(
    connection: sqlite3.Connection, recipient: PublicKey, limit: int = MAX_SWEPT
) -> bool:
    """
    Delete what waits in a mailbox, and then the mailbox.

    @param limit: of messages.
    @return: is there more to do?
    @raise MailboxUnknown: if there is no mailbox.
    """
    swept = connection.execute(
        "DELETE FROM mailbox_messages WHERE number IN "
        "(SELECT number FROM mailbox_messages WHERE recipient = ? LIMIT ?)",
        (recipient.raw, limit),
    ).rowcount
    if swept == limit:
        return True
    removed = connection.execute(
        "DELETE FROM mailboxes WHERE recipient = ?", (recipient.raw,)
    ).rowcount
    if not removed:
        raise _unknown(recipient)
    return False


def totals(connection: sqlite3.Connection) -> MailboxTotals:
    """@return: what there is."""
    return MailboxTotals(
        *connection.execute("SELECT mailboxes, messages, bytes FROM mailbox_totals").fetchone()
    )


class MailboxStore:
    """See the module.  For the reactor's thread."""

    def __init__(
        self, database: Database, relay: PublicKey, limits: MailboxLimits = _DEFAULTS
    ) -> None:
        """
        @param database: with the tables of L{meshkit.relay.mailbox.schema}.
        @param relay: whose mailboxes they are.
        """
        self._database = database
        self._relay = relay
        self._limits = limits

    def open(self, prekey: Prekey, origin: str) -> Deferred[int]:
        """See L{open_mailbox}.  @return: Deferred that fires when it is on the disk."""
        return self._database.write(lambda db: open_mailbox(db, prekey, origin, self._limits))

    def prekey(self, recipient: PublicKey, now: int) -> Deferred[bytes | None]:
        """See L{find_prekey}."""
        return self._database.read(lambda db: find_prekey(db, recipient, now))

    def deposit(
        self,
        sender: PublicKey,
        origin: str,
        recipient: PublicKey,
        sealed: bytes,
        now: int,
        ttl: int,
    ) -> Deferred[MailboxReceipt]:
        """See L{deposit}.  @return: Deferred that fires when it is on the disk."""
        return self._database.write(
            lambda db: deposit(
                db, self._relay, sender, origin, recipient, sealed, now, ttl, self._limits
            )
        )

    def fetch(self, recipient: PublicKey, after: int, now: int) -> Deferred[Page]:
        """See L{fetch}."""
        return self._database.read(lambda db: fetch(db, recipient, after, now))

    def anything(self, recipient: PublicKey, now: int) -> Deferred[bool]:
        """See L{anything}."""
        return self._database.read(lambda db: anything(db, recipient, now))

    def acknowledge(self, recipient: PublicKey, digests: Sequence[bytes]) -> Deferred[int]:
        """See L{acknowledge}.  @return: Deferred that fires when it is on the disk."""
        return self._database.write(lambda db: acknowledge(db, recipient, digests))

    async def sweep(self, now: int) -> None:
        """
        See L{sweep}; all of it, in several transactions.

        @param now: seconds of Unix time.
        @raise Exception: as the database does.
        """
        while await self._database.write(lambda db: sweep(db, now)):
            pass

    def mailboxes(
        self, limit: int, offset: int
    ) -> Deferred[tuple[list[MailboxKept], MailboxTotals]]:
        """See L{list_mailboxes}.  @return: Deferred of those, and of what there is."""
        return self._database.read(
            lambda db: (list_mailboxes(db, limit, offset), totals(db)),
        )

    async def remove(self, recipient: PublicKey) -> None:
        """
        See L{remove_mailbox}; all of it, in several transactions.

        @raise MailboxUnknown: if there is no mailbox.
        @raise Exception: as the database does.
        """
        while await self._database.write(lambda db: remove_mailbox(db, recipient)):
            pass

    def totals(self) -> Deferred[MailboxTotals]:
        """@return: Deferred of what there is."""
        return self._database.read(totals)
