"""
What is asked of a relay that has mailboxes, as methods of L{meshkit.rpc}.  Pure.

::

    recipient                                  relay
    publish(prekey)                  ------->  opens a mailbox for who asks, and keeps the prekey
                                     <-------  until when it is open
    sender
    prekey(recipient)                ------->
                                     <-------  the prekey, or nil
    deposit(recipient, sealed, ttl)  ------->  writes it to disk
                                     <-------  signed receipt

    recipient
    fetch(after)                     ------->
                                     <-------  a page of messages, oldest first
    acknowledge(digests)             ------->  deletes them
                                     <-------  how many were there
    wait(seconds)                    ------->  holds the call until there is a message
                                     <-------  is there one?

Whose mailbox C{publish}, C{fetch}, C{acknowledge} and C{wait} are about nobody says: it is that
of the key that the connection has proved.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.identity.keys import KEY_BYTES
from meshkit.relay.mailbox.prekeys import MAX_STATEMENT, MAX_TTL
from meshkit.relay.mailbox.receipts import DIGEST_BYTES, MAX_RECEIPT
from meshkit.relay.mailbox.sealing import MAX_SEALED
from meshkit.rpc.methods import Method

__all__ = [
    "ACKNOWLEDGE",
    "DEPOSIT",
    "FETCH",
    "LABEL",
    "PREKEY",
    "PUBLISH",
    "VERSION",
    "WAIT",
    "AcknowledgeRequest",
    "DepositRequest",
    "FetchRequest",
    "Page",
    "PrekeyRequest",
    "PublishedPrekey",
    "PublishRequest",
    "WaitRequest",
    "Waiting",
]

#: The capability with which a relay is asked for this.
LABEL: Final = "mailbox"
VERSION: Final = 1

#: Messages in a page, at most, and bytes of them.  One fits always.
MAX_PAGE: Final = 64
PAGE_BYTES: Final = 512 * 1024
#: Messages that are acknowledged at once.
MAX_ACKNOWLEDGED: Final = MAX_PAGE
#: Seconds for which a call is held that waits for a message.
MAX_HELD: Final = 240

_Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
_Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class PublishRequest(msgspec.Struct, array_like=True, frozen=True):
    """@ivar prekey: see L{meshkit.relay.mailbox.prekeys}."""

    prekey: Annotated[bytes, Meta(max_length=MAX_STATEMENT)]


class PrekeyRequest(msgspec.Struct, array_like=True, frozen=True):
    """@ivar recipient: whose."""

    recipient: _Key


class PublishedPrekey(msgspec.Struct, array_like=True, frozen=True):
    """@ivar prekey: as its owner has signed it; L{None} if it has expired."""

    prekey: Annotated[bytes, Meta(max_length=MAX_STATEMENT)] | None


class DepositRequest(msgspec.Struct, array_like=True, frozen=True):
    """
    @ivar recipient: for whom.
    @ivar sealed: see L{meshkit.relay.mailbox.sealing}.
    @ivar ttl: seconds for which it may wait.
    """

    recipient: _Key
    sealed: Annotated[bytes, Meta(max_length=MAX_SEALED)]
    ttl: Annotated[int, Meta(ge=1, le=MAX_TTL)]


class FetchRequest(msgspec.Struct, array_like=True, frozen=True):
    """@ivar after: the number of the last message that is not wanted again; 0 at first."""

    after: _Number


class Waiting(msgspec.Struct, array_like=True, frozen=True):
    """
    A message that waits.

    @ivar number: grows with each message of a mailbox.
    @ivar taken: when it came, in seconds of Unix time.
    @ivar sealed: the message.
    """

    number: _Number
    taken: _Number
    sealed: Annotated[bytes, Meta(max_length=MAX_SEALED)]


class Page(msgspec.Struct, array_like=True, frozen=True):
    """
    @ivar messages: oldest first.
    @ivar more: are there others behind these?
    """

    messages: Annotated[list[Waiting], Meta(max_length=MAX_PAGE)]
    more: bool


class AcknowledgeRequest(msgspec.Struct, array_like=True, frozen=True):
    """@ivar digests: of the sealed messages that are not needed any more."""

    digests: Annotated[list[_Digest], Meta(max_length=MAX_ACKNOWLEDGED)]


class WaitRequest(msgspec.Struct, array_like=True, frozen=True):
    """@ivar seconds: for which the call may be held."""

    seconds: Annotated[int, Meta(ge=0, le=MAX_HELD)]


PUBLISH: Final = Method(
    "publish", PublishRequest, int, doc="Opens the caller's mailbox, and says until when."
)
PREKEY: Final = Method(
    "prekey", PrekeyRequest, PublishedPrekey, doc="The prekey of somebody who has a mailbox here."
)
DEPOSIT: Final = Method(
    "deposit",
    DepositRequest,
    bytes,
    max_request=MAX_SEALED + 256,
    max_answer=MAX_RECEIPT + 16,
    doc="Keeps a message, and gives a receipt.",
)
FETCH: Final = Method(
    "fetch",
    FetchRequest,
    Page,
    max_answer=PAGE_BYTES + MAX_PAGE * 32,
    doc="Messages of the caller's mailbox.",
)
ACKNOWLEDGE: Final = Method(
    "acknowledge",
    AcknowledgeRequest,
    int,
    doc="Deletes messages of the caller's mailbox, and says how many.",
)
WAIT: Final = Method(
    "wait",
    WaitRequest,
    bool,
    doc="Answers when a message is in the caller's mailbox, or when the time is over.",
)
