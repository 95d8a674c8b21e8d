"""
The messages that a recipient has taken, so that none is taken twice.

A message is told by its sender and the id that he gave it, and is remembered until a week after
the time until which he wanted it delivered: no later one is taken.  There is room for
L{MAX_SEEN}; when there are more, the oldest of the sender who has most is forgotten.  So who
floods is the one whose messages may come twice, and only if a relay wants that.

It is remembered as well which relays have given a message.  A sender leaves it at each of them, so
what came by one of them and never by another, which was looked at later, was withheld there, was
lost, or has never come there: L{lacking}.

All but the class are functions of an open connection, as in L{meshkit.relay.mailbox.store}.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from twisted.internet.defer import Deferred

from meshkit.identity.keys import PublicKey
from meshkit.relay.mailbox.prekeys import MAX_SKEW
from meshkit.relay.mailbox.sealing import MailboxMessage
from meshkit.relay.mailbox.store import MAX_SWEPT, REMEMBERED
from meshkit.runtime.database import Database

__all__ = ["Inbox", "Keep", "lacking", "note_stations"]

#: Messages that are remembered.
MAX_SEEN: Final = 100_000
#: The last messages, of which is compared who has given them; and seconds after which one that came
#: by one relay has to be at the others.
MAX_COMPARED: Final = 1_000
AT_OTHERS: Final = 60
# To find out who has most takes a while: then room is made for one in so many.
_AT_ONCE: Final = 100

#: Called in the transaction in which a message is taken, with its connection; see
#: L{meshkit.runtime.database.Database.write} for what it may do.
Keep = Callable[[sqlite3.Connection, MailboxMessage], object]


def take(
    connection: sqlite3.Connection,
    message: MailboxMessage,
    keep: Keep,
    limit: int = MAX_SEEN,
    given: tuple[PublicKey, int] | None = None,
) -> bool:
    """
    Take a message, if it was not taken before.

    @param keep: does with it what is to be done with it.
    @param limit: how many are remembered.
    @param given: by which relay, and when, in seconds of Unix time.
    @return: was it new?
    """
    new = _remember(connection, message, limit)
    if given is not None:
        relay, at = given
        connection.execute(
            "INSERT OR IGNORE INTO mailbox_given (seen, relay, at) "
            "SELECT number, ?, ? FROM mailbox_seen WHERE sender = ? AND id = ?",
            (relay.raw, at, message.sender.raw, message.id),
        )
    if new:
        keep(connection, message)
    return new


def _remember(connection: sqlite3.Connection, message: MailboxMessage, limit: int) -> bool:
    """@return: was it not remembered before?"""
    added = connection.execute(
        "INSERT OR IGNORE INTO mailbox_seen (sender, id, until) VALUES (?, ?, ?)",
        (message.sender.raw, message.id, message.expires + MAX_SKEW + REMEMBERED),
    ).rowcount
    if not added:
        return False
    (count,) = connection.execute("SELECT count(*) FROM mailbox_seen").fetchone()
    if count > limit:
        _forget_some(connection, max(1, limit // _AT_ONCE))
    return True


def _forget_some(connection: sqlite3.Connection, count: int) -> None:
    connection.execute(
        "DELETE FROM mailbox_seen WHERE number IN (SELECT number FROM mailbox_seen WHERE sender = "
        "(SELECT sender FROM mailbox_seen GROUP BY sender ORDER BY count(*) DESC, min(number) "
        "LIMIT 1) ORDER BY number LIMIT ?)",
        (count,),
    )


def sweep_seen(connection: sqlite3.Connection, now: int, limit: int = MAX_SWEPT) -> bool:
    """
    Forget those that nobody can bring again.

    @param limit: to their number.
    @return: may there be more?
    """
    return (
        limit
        == connection.execute(
            "DELETE FROM mailbox_seen WHERE number IN "
            "(SELECT number FROM mailbox_seen WHERE until <= ? ORDER BY until, number LIMIT ?)",
            (now, limit),
        ).rowcount
    )


def note_stations(connection: sqlite3.Connection, relays: Sequence[PublicKey], now: int) -> None:
    """
    There are mailboxes at these relays, and at no others any more.

    @param now: seconds of Unix time.
    """
    used = [relay.raw for relay in relays]
    marks = ", ".join("?" * len(used))
    connection.execute(f"DELETE FROM mailbox_stations WHERE relay NOT IN ({marks})", used)
    connection.executemany(
        "INSERT OR IGNORE INTO mailbox_stations (relay, since) VALUES (?, ?)",
        [(relay, now) for relay in used],
    )


def lacking(
    connection: sqlite3.Connection, looked: Mapping[PublicKey, int]
) -> dict[PublicKey, int]:
    """
    @param looked: when the mailbox at each relay was looked into last, in seconds of Unix time.
    @return: of the last L{MAX_COMPARED} messages, how many each of them has not given by then,
        though another one of ours had given them L{AT_OTHERS} seconds before.
    """
    found = {}
    for relay, when in looked.items():
        (found[relay],) = connection.execute(
            "SELECT count(*) FROM mailbox_seen s, mailbox_stations y WHERE y.relay = ?1 "
            "AND s.number > (SELECT coalesce(max(number), 0) FROM mailbox_seen) - ?3 "
            "AND (SELECT min(at) FROM mailbox_given WHERE seen = s.number AND relay != ?1 "
            "AND relay IN (SELECT relay FROM mailbox_stations)) BETWEEN y.since AND ?2 "
            "AND NOT EXISTS (SELECT 1 FROM mailbox_given WHERE seen = s.number AND relay = ?1)",
            (relay.raw, when - AT_OTHERS, MAX_COMPARED),
        ).fetchone()
    return found


class Inbox:
    """See the module.  For the reactor's thread."""

    def __init__(
        self,
        database: Database,
        keep: Keep,
        *,
        limit: int = MAX_SEEN,
        given: Callable[[], tuple[PublicKey, int]] | None = None,
    ) -> None:
        """
        @param database: with the tables of L{meshkit.relay.mailbox.schema}.
        @param keep: called for each message once, in the thread of the writer.  If it raises,
            the message was not taken.
        @param limit: how many messages are remembered.
        @param given: says by which relay they come, and the time, in seconds of Unix time.
        """
        self._database = database
        self._keep = keep
        self._limit = limit
        self._given = given

    def take(self, message: MailboxMessage) -> Deferred[bool]:
        """
        @return: Deferred that fires when it is on the disk, with whether it was new.  Fails as
            the database does, and with what C{keep} raised.
        """
        given = None if self._given is None else self._given()
        return self._database.write(lambda db: take(db, message, self._keep, self._limit, given))

    async def sweep(self, now: int) -> None:
        """
        See L{sweep_seen}; all of it, in several transactions.

        @param now: seconds of Unix time.
        @raise Exception: as the database does.
        """
        while await self._database.write(lambda db: sweep_seen(db, now)):
            pass
