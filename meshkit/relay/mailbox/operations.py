"""What the part C{mailbox} offers at the doors."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import (
    InvalidAddress,
    InvalidPublicKey,
    InvalidRequest,
    KeyReused,
    MailboxFull,
    MailboxMessageInvalid,
    NotFound,
    Overloaded,
    StorageFailed,
)
from meshkit.operations import Id, Nothing, Operation

# Of whatever needs the database.
_KEPT: Final = (StorageFailed, Overloaded)
#: Seconds that a message may wait: L{meshkit.relay.mailbox.prekeys.MAX_TTL}.
MAX_TTL: Final = 30 * 86_400
#: Bytes of what a message says: L{meshkit.relay.mailbox.sealing.MAX_BODY}.
MAX_BODY: Final = 65_331
#: A little more, so that who says too much is told the limit.
_MAX_BASE64: Final = -(-MAX_BODY // 3) * 4 + 4
#: Names of messages are numbers that every JSON parser reads.
_MAX_NUMBER: Final = 2**53 - 1
#: Seconds that a message waits, if nothing is said.
TTL: Final = 7 * 86_400


class MailboxRelay(msgspec.Struct):
    """
    A relay at which this node has a mailbox.

    @ivar address: where it is.
    @ivar role: C{member}: of this node's network; C{blind}: it serves whoever comes.
    @ivar state: C{connected}: messages are told of at once; C{connecting}; C{waiting} for the
        next attempt; C{stopped}.
    @ivar open_until: until when the mailbox stays open if this node does not come again; RFC
        3339.
    @ivar last_error: why the last attempt failed, if nothing has worked since.
    @ivar lacks: of the last 1,000 messages, how many came by another relay of this node and were
        not in this mailbox a minute later: the relay has lost or withheld them, or their senders
        could not, or would not, leave them there.  Their receipts say which.
    """

    address: str
    role: Literal["member", "blind"]
    state: Literal["connecting", "connected", "waiting", "stopped"]
    open_until: str | None
    last_error: str | None
    lacks: int


class MailboxStatus(msgspec.Struct):
    """
    @ivar letters: messages that were taken and are kept here.
    @ivar unread: those of them that were not read.
    @ivar letter_bytes: of all of them.
    @ivar waiting: messages of this node that no relay has yet.
    @ivar relays: where this node has mailboxes; nobody can leave it a message, if there is none.
    @ivar prekey_made: when the key was made with which others seal messages for this node.
    """

    letters: int
    unread: int
    letter_bytes: int
    waiting: int
    relays: list[MailboxRelay]
    prekey_made: str | None


class SendLetter(msgspec.Struct, forbid_unknown_fields=True):
    to: Annotated[Id, Meta(description="id of the recipient")]
    text: Annotated[
        Annotated[str, Meta(max_length=MAX_BODY)] | None, Meta(description="what to say")
    ] = None
    body: Annotated[
        Annotated[str, Meta(max_length=_MAX_BASE64)] | None,
        Meta(description="in place of text: what to say in base64"),
    ] = None
    ttl_secs: Annotated[
        int, Meta(ge=60, le=MAX_TTL, description="seconds after which it is not delivered any more")
    ] = TTL
    relay: Annotated[
        Annotated[str, Meta(max_length=512)] | None,
        Meta(
            description="net:HOST:PORT~shs:KEY of the relay at which the recipient has a mailbox; "
            "without it the node finds one"
        ),
    ] = None
    blind: Annotated[
        bool, Meta(description="that relay serves whoever comes, and is in no network")
    ] = False
    idempotency_key: Annotated[
        Annotated[str, Meta(min_length=1, max_length=255)] | None,
        Meta(description="any text of your own making: asked again with it, nothing is sent twice"),
    ] = None


class SentCopy(msgspec.Struct):
    """
    A further relay that has a message.

    @ivar relay: its id.
    @ivar until: until when it has promised to keep it.
    @ivar receipt: what it has signed, in base64.
    """

    relay: str
    until: str
    receipt: str


class SentLetter(msgspec.Struct):
    """
    A message that was handed over to be sent.

    @ivar number: grows with each.
    @ivar id: 32 hex digits.
    @ivar to: the recipient.
    @ivar created: when it was handed over; RFC 3339, as all moments here.
    @ivar expires: after that it is not delivered.
    @ivar size: bytes of what it says.
    @ivar state: C{waiting}: it is here, on the disk; C{kept}: a relay has signed that it has it,
        until the recipient fetches it; C{given up}: no relay took it in time.
    @ivar forward_secret: it was sealed with a key that the recipient throws away; null until it
        is sealed.
    @ivar attempts: how many to leave it failed.
    @ivar last_error: why the last one did.
    @ivar relay: id of the relay that has it.
    @ivar until: until when it has promised to keep it.
    @ivar receipt: what it has signed, in base64.
    @ivar copies: the recipient's other relays that have it as well.
    """

    number: int
    id: str
    to: str
    created: str
    expires: str
    size: int
    state: Literal["waiting", "kept", "given up"]
    forward_secret: bool | None
    attempts: int
    last_error: str | None
    relay: str | None
    until: str | None
    receipt: str | None
    copies: list[SentCopy]


class ListLetters(msgspec.Struct, forbid_unknown_fields=True):
    unread: Annotated[bool, Meta(description="only those that were not read")] = False
    after: Annotated[int, Meta(ge=0, le=_MAX_NUMBER, description="begin after this number")] = 0
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many at most")] = 100


class LetterSummary(msgspec.Struct):
    """
    A message that was taken out of a mailbox.

    @ivar number: by which it is named here.
    @ivar sender: id of who has signed it.
    @ivar id: that the sender has given it, 32 hex digits.
    @ivar created: when it was sealed, as the sender says; RFC 3339.
    @ivar taken: when it came here.
    @ivar relay: id of the relay that had it.
    @ivar forward_secret: it was sealed with a key that is thrown away in time; if not, who steals
        this node's identity can read it from a recording.
    @ivar read: was it read?
    @ivar size: bytes of what it says.
    @ivar preview: how it begins, if that is text.
    """

    number: int
    sender: str
    id: str
    created: str
    taken: str
    relay: str
    forward_secret: bool
    read: bool
    size: int
    preview: str | None


class OneLetter(msgspec.Struct, forbid_unknown_fields=True):
    number: Annotated[int, Meta(ge=1, le=_MAX_NUMBER, description="as mailbox_list shows it")]


class LetterShown(msgspec.Struct):
    """
    A message, whole.

    @ivar number: by which it is named here.
    @ivar sender: id of who has signed it.
    @ivar id: that the sender has given it, 32 hex digits.
    @ivar created: when it was sealed, as the sender says; RFC 3339.
    @ivar taken: when it came here.
    @ivar relay: id of the relay that had it.
    @ivar forward_secret: it was sealed with a key that is thrown away in time.
    @ivar read: was it read before?
    @ivar size: bytes of what it says.
    @ivar text: what it says, if that is text.
    @ivar body: what it says, in base64.
    """

    number: int
    sender: str
    id: str
    created: str
    taken: str
    relay: str
    forward_secret: bool
    read: bool
    size: int
    text: str | None
    body: str


class ListSent(msgspec.Struct, forbid_unknown_fields=True):
    waiting: Annotated[bool, Meta(description="only those that no relay has yet")] = False
    after: Annotated[int, Meta(ge=0, le=_MAX_NUMBER, description="begin after this number")] = 0
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many at most")] = 100


class OneSent(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(max_length=64, description="32 hex digits, as mailbox_sent shows them")]


SEND: Final = Operation(
    name="mailbox_send",
    method="POST",
    path="/v1/mailbox/send",
    request=SendLetter,
    answer=SentLetter,
    doc="Seal a message for somebody who may be away, and leave it at a relay until it is fetched.",
    permission="write",
    success=202,
    key="idempotency_key",
    open_world=True,
    errors=(
        InvalidAddress,
        InvalidPublicKey,
        InvalidRequest,
        KeyReused,
        MailboxFull,
        MailboxMessageInvalid,
        *_KEPT,
    ),
)
LIST: Final = Operation(
    name="mailbox_list",
    method="GET",
    path="/v1/mailbox/letters",
    request=ListLetters,
    answer=list[LetterSummary],
    doc="The messages that were left for this node and that it has taken, oldest first.",
    untrusted=True,
    errors=_KEPT,
)
READ: Final = Operation(
    name="mailbox_read",
    method="POST",
    path="/v1/mailbox/letters/{number}/read",
    request=OneLetter,
    answer=LetterShown,
    doc="One message that was left for this node, whole; it counts as read from then on.",
    permission="write",
    untrusted=True,
    errors=(NotFound, *_KEPT),
)
REMOVE: Final = Operation(
    name="mailbox_remove",
    method="DELETE",
    path="/v1/mailbox/letters/{number}",
    request=OneLetter,
    answer=None,
    doc="Remove a message that was left for this node.",
    permission="write",
    success=204,
    destructive=True,
    idempotent=True,
    errors=(NotFound, *_KEPT),
)
SENT: Final = Operation(
    name="mailbox_sent",
    method="GET",
    path="/v1/mailbox/sent",
    request=ListSent,
    answer=list[SentLetter],
    doc="The messages that this node was told to send, and the receipts of the relays for them.",
    errors=_KEPT,
)
FORGET: Final = Operation(
    name="mailbox_forget",
    method="DELETE",
    path="/v1/mailbox/sent/{id}",
    request=OneSent,
    answer=None,
    doc="Forget a message that was sent, and its receipt; one that no relay has is not sent.",
    permission="write",
    success=204,
    destructive=True,
    idempotent=True,
    errors=(NotFound, *_KEPT),
)
CHECK: Final = Operation(
    name="mailbox_check",
    method="POST",
    path="/v1/mailbox/check",
    request=Nothing,
    answer=MailboxStatus,
    doc="Make the next attempt to reach relays and to leave messages there now.",
    permission="write",
    success=202,
    idempotent=True,
    open_world=True,
)
