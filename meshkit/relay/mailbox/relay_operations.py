"""What the part C{mailboxes} offers to the operator of a relay."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.errors import InvalidPublicKey, MailboxUnknown, Overloaded, StorageFailed
from meshkit.operations import Id, Operation

_KEPT: Final = (StorageFailed, Overloaded)


class ListMailboxes(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1_000, description="how many at most")] = 100
    offset: Annotated[int, Meta(ge=0, le=1_000_000, description="how many to skip")] = 0


class MailboxShown(msgspec.Struct):
    """
    @ivar public_id: whose it is.
    @ivar origin: the IPv4 address or IPv6 /64 from which it was opened.
    @ivar messages: that wait in it.
    @ivar bytes: of them.
    @ivar until: RFC 3339 time at which it is closed, unless its owner comes again.
    """

    public_id: str
    origin: str
    messages: int
    bytes: int
    until: str


LIST: Final = Operation(
    name="mailboxes_list",
    method="GET",
    path="/v1/mailboxes",
    request=ListMailboxes,
    answer=MailboxShown,
    doc="The mailboxes at this relay, those in which most waits first.",
    permission="admin",
    paged=True,
    errors=_KEPT,
)


class RemoveMailbox(msgspec.Struct, forbid_unknown_fields=True):
    recipient: Annotated[Id, Meta(max_length=64, description="@<base64>.ed25519")]


REMOVE: Final = Operation(
    name="mailboxes_remove",
    method="DELETE",
    path="/v1/mailboxes/{recipient}",
    request=RemoveMailbox,
    answer=None,
    doc="Close a mailbox at this relay and delete what waits in it, whatever the relay has signed "
    "for; its owner can open it again.",
    permission="admin",
    success=204,
    destructive=True,
    errors=(InvalidPublicKey, MailboxUnknown, *_KEPT),
)
