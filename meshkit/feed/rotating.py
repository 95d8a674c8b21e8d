"""How a node ends its own feed and begins another, in one transaction."""

from __future__ import annotations

import sqlite3

from meshkit.errors import FeedReadOnly
from meshkit.feed import guard, store
from meshkit.feed.closings import closing, refusal
from meshkit.feed.message import sign_message
from meshkit.feed.rotation import Rotation, first_content, rotation_content
from meshkit.identity.keys import Identity


def rotate(connection: sqlite3.Connection, old: Identity, new: Identity, now_ns: int) -> Rotation:
    """
    Sign and store the last message of the old feed and the first of the new one.  If that
    was done before, nothing happens.

    @param connection: one that can write, in a transaction.
    @raise FeedClosed: if the old feed has ended in favour of another key.
    @raise FeedForked: if it has ended in a fork: nobody takes what would come after it.
    @raise FeedReadOnly: if it may have gone on elsewhere: the two would fork it.
    """
    end = closing(connection, old.public.raw)
    if end is not None:
        if end.new != new.public:
            raise refusal(end)
        return end
    sequence, digest = store.own_tail(connection, old.public.raw)
    if guard.read_guard(connection) is not None:
        raise FeedReadOnly(
            "this node's feed may have gone on elsewhere: start the node and let it compare the "
            "feed with its peers, or say 'meshkit feed unlock', and rotate then"
        )
    last = sign_message(
        old,
        sequence=sequence + 1,
        previous=digest,
        timestamp_ns=now_ns,
        content=rotation_content(old.public, new, sequence, digest),
    )
    first = sign_message(
        new,
        sequence=1,
        previous=None,
        timestamp_ns=now_ns,
        content=first_content(old.public, last),
        relates=last.hash,
    )
    store.append_own(connection, [last, first], now_ns)
    return Rotation(old.public, new.public, last.sequence)
