"""
The messages that a recipient has taken, so that none is taken twice.

A message is told by its sender and the id that he gave it, and is remembered until a week after
the time until which he wanted it delivered: no later one is taken.  There is room for
L{MAX_SEEN}; when there are more, the oldest of the sender who has most is forgotten.  So who
floods is the one whose messages may come twice, and only if a relay wants that.

All but the class are functions of an open connection, as in L{meshkit.relay.mailbox.store}.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred

from meshkit.relay.mailbox.prekeys import MAX_SKEW
from meshkit.relay.mailbox.sealing import MailboxMessage
from meshkit.relay.mailbox.store import MAX_SWEPT, REMEMBERED
from meshkit.runtime.database import Database

__all__ = ["Inbox", "Keep"]

#: Messages that are remembered.
MAX_SEEN: Final = 100_000
# To find out who has most takes a while: then room is made for one in so many.
_AT_ONCE: Final = 100

#: Called in the transaction in which a message is taken, with its connection; see
#: L{meshkit.runtime.database.Database.write} for what it may do.
Keep = Callable[[sqlite3.Connection, MailboxMessage], object]


def take(
    connection: sqlite3.Connection, message: MailboxMessage, keep: Keep, limit: int = MAX_SEEN
) -> bool:
    """
    Take a message, if it was not taken before.

    @param keep: does with it what is to be done with it.
    @param limit: how many are remembered.
    @return: was it new?
    """
    added = connection.execute(
        "INSERT OR IGNORE INTO mailbox_seen (sender, id, until) VALUES (?, ?, ?)",
        (message.sender.raw, message.id, message.expires + MAX_SKEW + REMEMBERED),
    ).rowcount
    if not added:
        return False
    (count,) = connection.execute("SELECT count(*) FROM mailbox_seen").fetchone()
    if count > limit:
        _forget_some(connection, max(1, limit // _AT_ONCE))
    keep(connection, message)
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


class Inbox:
    """See the module.  For the reactor's thread."""

    def __init__(self, database: Database, keep: Keep, *, limit: int = MAX_SEEN) -> None:
        """
        @param database: with the tables of L{meshkit.relay.mailbox.schema}.
        @param keep: called for each message once, in the thread of the writer.  If it raises,
            the message was not taken.
        @param limit: how many messages are remembered.
        """
        self._database = database
        self._keep = keep
        self._limit = limit

    def take(self, message: MailboxMessage) -> Deferred[bool]:
        """
        @return: Deferred that fires when it is on the disk, with whether it was new.  Fails as
            the database does, and with what C{keep} raised.
        """
        return self._database.write(lambda db: take(db, message, self._keep, self._limit))

    async def sweep(self, now: int) -> None:
        """
        See L{sweep_seen}; all of it, in several transactions.

        @param now: seconds of Unix time.
        @raise Exception: as the database does.
        """
        while await self._database.write(lambda db: sweep_seen(db, now)):
            pass
