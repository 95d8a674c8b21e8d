"""
The messages that a node is to leave at relays, on its disk until a relay has signed for them.

::

    handed over --> body --seal_posted--> sealed --left--> receipt
                      |                      |
                      +------- expire -------+-----------> given up

What is handed over is on the disk before its sender is told so.  It is sealed once, when it is
known with which key, and its body is forgotten then; the same bytes are offered until a relay has
them, which does no harm (L{meshkit.relay.mailbox.delivering}).  The receipt is kept: should the
recipient never be given the message, it speaks against the relay.

One relay may lose what it has signed for.  So the sealed message stays for up to L{COPYING} seconds
more, until enough relays have it: L{left} is told whether they do.

All are functions of an open connection, as in L{meshkit.relay.mailbox.store}.
"""

from __future__ import annotations

import sqlite3
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec
from attrs import field, frozen

from meshkit.errors import KeyReused, MailboxFull, NotFound, PrekeyInvalid
from meshkit.identity.keys import PublicKey
from meshkit.relay.mailbox.prekeys import Prekey, newer
from meshkit.relay.mailbox.receipts import MailboxReceipt

__all__ = [
    "COPYING",
    "MAX_COPYING",
    "Copy",
    "Draft",
    "Outgoing",
    "Posted",
    "enough",
    "expire_posted",
    "forget_posted",
    "know_prekey",
    "known_prekey",
    "left",
    "list_posted",
    "next_expiry",
    "not_left",
    "outgoing",
    "post",
    "recipients_waited_for",
    "seal_posted",
    "waiting_count",
]

#: Messages that are on their way, and bytes of them.
MAX_WAITING: Final = 1_000
WAITING_BYTES: Final = 16 * 2**20
#: Seconds for which it is tried to leave one at a further relay, and messages for which it is: the
#: oldest are left at no other one.
COPYING: Final = 3_600
MAX_COPYING: Final = 256
#: Messages that a relay has, or that were given up, which are remembered; the oldest go first.
MAX_ENDED: Final = 10_000
#: Others whose latest prekeys are remembered; those that were not heard of for longest go first.
MAX_KNOWN: Final = 10_000
#: Bytes of what is told of why a message was not left.
MAX_ERROR: Final = 500

State = Literal["waiting", "kept", "given up"]
_STATES: Final[tuple[State, ...]] = ("waiting", "kept", "given up")


@frozen
class Draft:
    """
    A message as it is handed over.

    @ivar id: 16 random bytes.
    @ivar recipient: for whom.
    @ivar created: now, in seconds of Unix time.
    @ivar expires: from when on it is not to be delivered.
    @ivar body: what it says.
    @ivar hint: address of the relay to leave it at, and whether that is blind; L{None} finds
        one.
    @ivar key: by which its sender asks for it once, though he asks twice.
    """

    id: bytes = field(repr=bytes.hex)
    recipient: PublicKey
    created: int
    expires: int
    body: bytes = field(repr=False)
    hint: tuple[str, bool] | None = None
    key: str | None = None


@frozen
class Copy:
    """
    A further relay that has a message.

    @ivar relay: which.
    @ivar until: until when it has promised to keep it.
    @ivar receipt: as it has signed it.
    """

    relay: PublicKey
    until: int
    receipt: bytes = field(repr=False)


@frozen
class Posted:
    """
    A message that was handed over, as it is shown.

    @ivar number: grows with each.
    @ivar id: 16 bytes.
    @ivar size: bytes of its body.
    @ivar state: C{waiting}: no relay has it yet; C{kept}: one has signed for it; C{given up}:
        its time was over.
    @ivar forward_secret: was it sealed with a prekey?  L{None} as long as it is not sealed.
    @ivar attempts: how many to leave it have failed.
    @ivar error: why the last one has.
    @ivar relay: which one has it.
    @ivar taken: since when, as the relay says.
    @ivar until: until when it has promised to keep it.
    @ivar receipt: as the relay has signed it.
    @ivar copies: further relays that have it.
    """

    number: int
    id: bytes = field(repr=bytes.hex)
    recipient: PublicKey
    created: int
    expires: int
    size: int
    state: State
    forward_secret: bool | None
    attempts: int
    error: str | None
    relay: PublicKey | None
    taken: int | None
    until: int | None
    receipt: bytes | None = field(repr=False)
    copies: tuple[Copy, ...] = ()


@frozen
class Outgoing:
    """
    A message that is on its way.

    @ivar body: what it says, as long as it is not sealed.
    @ivar sealed: what is offered to relays, from then on.
    @ivar hint: see L{Draft}.
    @ivar has: relays that have it already; it is to be left at a further one.
    """

    number: int
    id: bytes = field(repr=bytes.hex)
    recipient: PublicKey
    created: int
    expires: int
    body: bytes | None = field(repr=False)
    sealed: bytes | None = field(repr=False)
    hint: tuple[str, bool] | None
    has: tuple[PublicKey, ...] = ()


_SHOWN: Final = (
    "number, id, recipient, created, expires, size, state, forward_secret, attempts, error, "
    "relay, taken, until, receipt, copies"
)
# Those of which something is to be left somewhere; so the index says as well.
_DUE: Final = "(body IS NOT NULL OR sealed IS NOT NULL)"


def post(connection: sqlite3.Connection, draft: Draft) -> Posted:
    """
    Take a message over.

    @return: it; if it was handed over with the same key before, what became of that.
    @raise KeyReused: if the key was given with another message.
    @raise MailboxFull: if there are too many on their way.
    """
    key, asked = (None, None) if draft.key is None else _named(draft, draft.key)
    if key is not None:
        row = connection.execute(
            f"SELECT {_SHOWN}, asked FROM mailbox_outbox WHERE key = ?", (key,)
        ).fetchone()
        if row is not None:
            if row[-1] != asked:
                raise KeyReused(
                    "this idempotency key was given with another message before: take a new one"
                )
            return _posted(row[:-1])
    count, size = connection.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM mailbox_outbox WHERE state = 0"
    ).fetchone()
    if count >= MAX_WAITING or size + len(draft.body) > WAITING_BYTES:
        raise MailboxFull(
            f"{count} messages of {size} bytes are on their way, and that is the limit: see "
            "'meshkit mailbox sent --waiting', and try again when some have left"
        )
    (number,) = connection.execute(
        "INSERT INTO mailbox_outbox "
        "(id, recipient, created, expires, size, hint, body, key, asked) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
        (
            draft.id,
            draft.recipient.raw,
            draft.created,
            draft.expires,
            len(draft.body),
            None if draft.hint is None else msgspec.msgpack.encode(draft.hint),
            draft.body,
            key,
            asked,
        ),
    ).fetchone()
    return _find(connection, "number", number)


def _named(draft: Draft, key: str) -> tuple[bytes, bytes]:
    """What is kept of a key, and of what was asked for with it: not the message itself."""
    secret = sha256(b"meshkit/mailbox-outbox/1" + key.encode("utf-8")).digest()
    span = draft.expires - draft.created
    asked = msgspec.msgpack.encode((secret, draft.recipient.raw, span, draft.hint, draft.body))
    return sha256(secret).digest(), sha256(asked).digest()


def recipients_waited_for(connection: sqlite3.Connection) -> list[PublicKey]:
    """@return: for whom messages are on their way, in the order of the oldest of each."""
    rows = connection.execute(
        f"SELECT recipient FROM mailbox_outbox WHERE {_DUE} GROUP BY recipient ORDER BY min(number)"
    )
    return [PublicKey(raw) for (raw,) in rows]


def next_expiry(connection: sqlite3.Connection) -> int | None:
    """
    @return: when the first message is to be given up, or left at no further relay, in seconds of
        Unix time.
    """
    (expires,) = connection.execute(
        "SELECT min(CASE state WHEN 0 THEN expires ELSE min(expires, since + ?) END) "
        f"FROM mailbox_outbox WHERE {_DUE}",
        (COPYING,),
    ).fetchone()
    return None if expires is None else int(expires)


def outgoing(
    connection: sqlite3.Connection, recipient: PublicKey, now: int, after: int = 0
) -> Outgoing | None:
    """
    @param after: number of the last one that was tried.
    @return: the next message for somebody that may still be delivered; L{None} if there is none.
    """
    row = connection.execute(
        "SELECT number, id, created, expires, body, sealed, hint, relay, copies "
        f"FROM mailbox_outbox WHERE {_DUE} AND recipient = ? AND number > ? AND expires > ? "
        "ORDER BY number LIMIT 1",
        (recipient.raw, after, now),
    ).fetchone()
    if row is None:
        return None
    number, id, created, expires, body, sealed, hint, relay, copies = row
    has = () if relay is None else (PublicKey(relay), *(each.relay for each in _copies(copies)))
    return Outgoing(number, id, recipient, created, expires, body, sealed, _hint(hint), has)


def _copies(raw: bytes | None) -> tuple[Copy, ...]:
    if raw is None:
        return ()
    found = msgspec.msgpack.decode(raw, type=list[tuple[bytes, int, bytes]])
    return tuple(Copy(PublicKey(relay), until, receipt) for relay, until, receipt in found)


def _hint(raw: bytes | None) -> tuple[str, bool] | None:
    return None if raw is None else msgspec.msgpack.decode(raw, type=tuple[str, bool])


def seal_posted(
    connection: sqlite3.Connection, number: int, sealed: bytes, forward_secret: bool
) -> None:
    """Keep what is offered to relays from now on, and forget the body."""
    connection.execute(
        "UPDATE mailbox_outbox SET sealed = ?, forward_secret = ?, body = NULL "
        "WHERE number = ? AND state = 0",
        (sealed, forward_secret, number),
    )


def left(
    connection: sqlite3.Connection,
    number: int,
    receipt: MailboxReceipt,
    now: int,
    more: bool = False,
) -> None:
    """
    A relay has a message.

    @param receipt: verified, as the relay has signed it.
    @param now: seconds of Unix time.
    @param more: it is to be left at a further one.
    """
    row = connection.execute(
        "SELECT state, relay, copies FROM mailbox_outbox WHERE number = ?", (number,)
    ).fetchone()
    if row is None or row[0] == 2:
        return
    state, relay, raw = row
    copies = _copies(raw)
    if state == 0:
        connection.execute(
            "UPDATE mailbox_outbox SET state = 1, body = NULL, error = NULL, relay = ?, taken = ?, "
            "until = ?, receipt = ?, since = ? WHERE number = ?",
            (receipt.relay.raw, receipt.taken, receipt.until, receipt.raw, now, number),
        )
    elif receipt.relay.raw not in (relay, *(each.relay.raw for each in copies)):
        told = [(each.relay.raw, each.until, each.receipt) for each in copies]
        told.append((receipt.relay.raw, receipt.until, receipt.raw))
        connection.execute(
            "UPDATE mailbox_outbox SET copies = ? WHERE number = ?",
            (msgspec.msgpack.encode(told), number),
        )
    if not more:
        enough(connection, number)
    connection.execute(
        f"UPDATE mailbox_outbox SET sealed = NULL WHERE {_DUE} AND state = 1 AND number <= "
        f"coalesce((SELECT number FROM mailbox_outbox WHERE {_DUE} AND state = 1 "
        "ORDER BY number DESC LIMIT 1 OFFSET ?), 0)",
        (MAX_COPYING,),
    )
    _forget_ended(connection)


def enough(connection: sqlite3.Connection, number: int) -> None:
    """A message that a relay has is to be left at no further one."""
    connection.execute(
        "UPDATE mailbox_outbox SET sealed = NULL WHERE number = ? AND state = 1", (number,)
    )


def not_left(connection: sqlite3.Connection, number: int, error: str) -> None:
    """Nobody has taken a message: say why."""
    connection.execute(
        "UPDATE mailbox_outbox SET attempts = attempts + 1, error = ? "
        "WHERE number = ? AND state = 0",
        (error[:MAX_ERROR], number),
    )


def expire_posted(connection: sqlite3.Connection, now: int) -> int:
    """
    Give up what nobody may be given any more, and to leave at a further relay what one has had for
    long.

    @param now: seconds of Unix time.
    @return: how many of the first.
    """
    connection.execute(
        f"UPDATE mailbox_outbox SET sealed = NULL WHERE {_DUE} AND state = 1 "
        "AND (expires <= ? OR since + ? <= ?)",
        (now, COPYING, now),
    )
    count = connection.execute(
        "UPDATE mailbox_outbox SET state = 2, sealed = NULL, body = NULL "
        "WHERE state = 0 AND expires <= ?",
        (now,),
    ).rowcount
    _forget_ended(connection)
    return count


def _forget_ended(connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM mailbox_outbox WHERE state > 0 AND number <= coalesce((SELECT number "
        "FROM mailbox_outbox WHERE state > 0 ORDER BY number DESC LIMIT 1 OFFSET ?), 0)",
        (MAX_ENDED,),
    )


def forget_posted(connection: sqlite3.Connection, id: bytes) -> Posted:
    """
    Forget a message: it is not left anywhere any more, if it was not yet, and its receipt is
    gone.

    @return: what it was.
    @raise NotFound: if there is none.
    """
    posted = _find(connection, "id", id)
    connection.execute("DELETE FROM mailbox_outbox WHERE id = ?", (id,))
    return posted


def _find(connection: sqlite3.Connection, column: str, value: object) -> Posted:
    row = connection.execute(
        f"SELECT {_SHOWN} FROM mailbox_outbox WHERE {column} = ?", (value,)
    ).fetchone()
    if row is None:
        raise NotFound("no message of this id was sent: see 'meshkit mailbox sent'")
    return _posted(row)


def list_posted(
    connection: sqlite3.Connection, after: int, limit: int, waiting: bool
) -> list[Posted]:
    """
    @param after: number of the last one that is not wanted.
    @param waiting: only those that no relay has.
    @return: oldest first.
    """
    condition = "AND state = 0 " if waiting else ""
    rows = connection.execute(
        f"SELECT {_SHOWN} FROM mailbox_outbox WHERE number > ? {condition}ORDER BY number LIMIT ?",
        (after, limit),
    )
    return [_posted(row) for row in rows]


def waiting_count(connection: sqlite3.Connection) -> int:
    """@return: how many are on their way."""
    (count,) = connection.execute("SELECT count(*) FROM mailbox_outbox WHERE state = 0").fetchone()
    return int(count)


def _posted(row: tuple[Any, ...]) -> Posted:
    number, id, recipient, created, expires, size, state, forward_secret, *others = row
    attempts, error, relay, taken, until, receipt, copies = others
    return Posted(
        number,
        id,
        PublicKey(recipient),
        created,
        expires,
        size,
        _STATES[state],
        None if forward_secret is None else bool(forward_secret),
        attempts,
        error,
        None if relay is None else PublicKey(relay),
        taken,
        until,
        receipt,
        _copies(copies),
    )


# --- with which keys ----------------------------------------------------------------------


def known_prekey(connection: sqlite3.Connection, owner: PublicKey) -> tuple[Prekey, int] | None:
    """@return: the latest prekey that is known of somebody, and when it was heard of last."""
    row = connection.execute(
        "SELECT prekey, heard FROM mailbox_known WHERE owner = ?", (owner.raw,)
    ).fetchone()
    if row is None:
        return None
    try:
        return Prekey.open(row[0], owner), row[1]
    except PrekeyInvalid:
        # Of an older meshkit, or damaged: as good as none, and replaced by the next one.
        return None


def know_prekey(connection: sqlite3.Connection, prekey: Prekey, now: int) -> None:
    """
    Remember a prekey, unless a later one is known.

    @param now: seconds of Unix time.
    """
    known = known_prekey(connection, prekey.owner)
    latest = newer(None if known is None else known[0], prekey)
    connection.execute(
        "INSERT OR REPLACE INTO mailbox_known (owner, prekey, heard) VALUES (?, ?, ?)",
        (prekey.owner.raw, latest.raw, now),
    )
    (count,) = connection.execute("SELECT count(*) FROM mailbox_known").fetchone()
    if count > MAX_KNOWN:
        connection.execute(
            "DELETE FROM mailbox_known WHERE owner IN "
            "(SELECT owner FROM mailbox_known ORDER BY heard, owner LIMIT ?)",
            (count - MAX_KNOWN,),
        )
