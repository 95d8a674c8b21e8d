"""
The messages that a node has taken out of its mailboxes, as long as their reader keeps them.

There is room for so many, and for so many bytes.  When there is none, nothing more is taken: it
waits at the relays, which have promised to keep it, and nothing that came before is lost for it.

All are functions of an open connection, as in L{meshkit.relay.mailbox.store}.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from attrs import field, frozen

from meshkit.errors import MailboxFull, NotFound
from meshkit.identity.keys import PublicKey
from meshkit.relay.mailbox.sealing import MailboxMessage

__all__ = [
    "Letter",
    "LetterLimits",
    "LetterTotals",
    "keep_letter",
    "letter_totals",
    "list_letters",
    "read_letter",
    "remove_letter",
]

#: Bytes of a message that are shown in a list.
MAX_PREVIEW: Final = 400


@frozen
class LetterLimits:
    """
    @ivar letters: how many are kept.
    @ivar bytes: of their bodies.
    """

    letters: int = 10_000
    bytes: int = 64 * 2**20


@frozen
class Letter:
    """
    A message that was taken.

    @ivar number: names it here; grows.
    @ivar sender: who has signed it.
    @ivar id: that the sender has given it, 16 bytes.
    @ivar created: when, as the sender says, in seconds of Unix time.
    @ivar expires: until when the sender wanted it delivered.
    @ivar taken: when it came here.
    @ivar relay: which one had it.
    @ivar forward_secret: it was sealed with a prekey.
    @ivar read: was it read?
    @ivar size: bytes of its body.
    @ivar body: what it says; in a list, its first L{MAX_PREVIEW} bytes.
    """

    number: int
    sender: PublicKey
    id: bytes = field(repr=bytes.hex)
    created: int
    expires: int
    taken: int
    relay: PublicKey
    forward_secret: bool
    read: bool
    size: int
    body: bytes = field(repr=False)


@frozen
class LetterTotals:
    """
    @ivar letters: that are kept.
    @ivar unread: those of them that were not read.
    @ivar bytes: of all bodies.
    """

    letters: int = 0
    unread: int = 0
    bytes: int = 0


_COLUMNS: Final = "number, sender, id, created, expires, taken, relay, forward_secret, read, size, "


def keep_letter(
    connection: sqlite3.Connection,
    message: MailboxMessage,
    relay: PublicKey,
    now: int,
    limits: LetterLimits,
) -> None:
    """
    Keep a message that was just opened.

    @param relay: which one had it.
    @param now: seconds of Unix time.
    @raise MailboxFull: if there is no room.
    """
    totals, size = letter_totals(connection), len(message.body)
    if totals.letters >= limits.letters or totals.bytes + size > limits.bytes:
        raise MailboxFull(
            f"{totals.letters} messages of {totals.bytes} bytes are kept here, and there is no "
            "room for more: remove some ('meshkit mailbox rm'); what comes waits at the relays"
        )
    connection.execute(
        "INSERT INTO mailbox_letters "
        "(sender, id, created, expires, taken, relay, forward_secret, size, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            message.sender.raw,
            message.id,
            message.created,
            message.expires,
            now,
            relay.raw,
            message.forward_secret,
            size,
            message.body,
        ),
    )


def list_letters(
    connection: sqlite3.Connection, after: int, limit: int, unread: bool
) -> list[Letter]:
    """
    @param after: number of the last one that is not wanted.
    @param unread: only those that were not read.
    @return: oldest first, with the beginnings of their bodies.
    """
    condition = "AND read = 0 " if unread else ""
    rows = connection.execute(
        f"SELECT {_COLUMNS} substr(body, 1, {MAX_PREVIEW}) FROM mailbox_letters "
        f"WHERE number > ? {condition}ORDER BY number LIMIT ?",
        (after, limit),
    )
    return [_letter(row) for row in rows]


def read_letter(connection: sqlite3.Connection, number: int) -> Letter:
    """
    Look at a message, and remember that it was read.

    @return: it, as it was before that.
    @raise NotFound: if there is none of this number.
    """
    row = connection.execute(
        f"SELECT {_COLUMNS} body FROM mailbox_letters WHERE number = ?", (number,)
    ).fetchone()
    if row is None:
        raise _unknown(number)
    connection.execute(
        "UPDATE mailbox_letters SET read = 1 WHERE number = ? AND read = 0", (number,)
    )
    return _letter(row)


def remove_letter(connection: sqlite3.Connection, number: int) -> None:
    """
    Remove a message.

    @raise NotFound: if there is none of this number.
    """
    if not connection.execute("DELETE FROM mailbox_letters WHERE number = ?", (number,)).rowcount:
        raise _unknown(number)


def letter_totals(connection: sqlite3.Connection) -> LetterTotals:
    """@return: what there is."""
    return LetterTotals(
        *connection.execute("SELECT letters, unread, bytes FROM mailbox_letters_totals").fetchone()
    )


def _letter(row: tuple[int, bytes, bytes, int, int, int, bytes, int, int, int, bytes]) -> Letter:
    number, sender, id, created, expires, taken, relay, forward_secret, read, size, body = row
    return Letter(
        number,
        PublicKey(sender),
        id,
        created,
        expires,
        taken,
        PublicKey(relay),
        bool(forward_secret),
        bool(read),
        size,
        body,
    )


def _unknown(number: int) -> NotFound:
    return NotFound(f"there is no message {number}: see 'meshkit mailbox list'")
