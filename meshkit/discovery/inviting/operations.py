"""What the part C{invites} offers at the doors."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import (
    InvalidAddress,
    InvalidInvite,
    NotFound,
    Overloaded,
    OwnAddressUnknown,
    StorageFailed,
)
from meshkit.operations import Nothing, Operation

#: Seconds that an invite is good for if nothing else is said: a week.
DEFAULT_LIFETIME: Final = 7 * 86_400

# Of whatever needs the database.
_KEPT: Final = (StorageFailed, Overloaded)


class InvitesStatus(msgspec.Struct):
    """
    @ivar open: invites that can be used.
    @ivar kept: all that are remembered.
    @ivar welcomed: how often the network's secret was given out since the start.
    @ivar refused: codes that were refused since the start.
    """

    open: int
    kept: int
    welcomed: int
    refused: int


class InviteUse(msgspec.Struct):
    """
    @ivar public_id: who has used it.
    @ivar at: when; RFC 3339.
    """

    public_id: str
    at: str


class KnownInvite(msgspec.Struct):
    """
    @ivar id: by which it is named here; no secret.
    @ivar state: C{open}; C{used}, as often as it may be; or C{expired}.
    @ivar created: RFC 3339 time.
    @ivar expires: RFC 3339 time, if it has an end.
    @ivar uses: by how many it may be used.
    @ivar used: by whom it was, the first one first.
    @ivar note: what it was made for.
    """

    id: str
    state: Literal["open", "used", "expired"]
    created: str
    expires: str | None
    uses: int
    used: list[InviteUse]
    note: str


class MadeInvite(KnownInvite):
    """
    @ivar invite: its text, mkinvite1-...  It is shown this once, and kept nowhere.
    @ivar addresses: where it says that this node can be reached.
    @ivar relays: and by which addresses through relays.
    """

    invite: str
    addresses: list[str]
    relays: list[str]


class MadeOpenInvite(msgspec.Struct):
    """
    @ivar invite: its text, mkinvite1-..., with the secret of the network in it.
    @ivar addresses: where it says that this node can be reached.
    @ivar relays: and by which addresses through relays.
    """

    invite: str
    addresses: list[str]
    relays: list[str]


_Addresses = Annotated[
    list[Annotated[str, Meta(max_length=300)]],
    Meta(
        description="where newcomers reach this node, HOST or HOST:PORT, or its address through a "
        "relay; what it knows of itself, if there are none",
        max_length=8,
    ),
]
_Lifetime = Annotated[
    int,
    Meta(description="seconds that it is good for; null for no end", ge=1, le=365 * 86_400),
]
_Otherwise = Annotated[
    str,
    Meta(
        description="a host to name if the node knows of none, and listens at all of its addresses",
        max_length=300,
    ),
]


class MakeInvite(msgspec.Struct, forbid_unknown_fields=True):
    uses: Annotated[int, Meta(description="by how many it may be used", ge=1, le=1_000)] = 1
    expires_secs: _Lifetime | None = DEFAULT_LIFETIME
    addresses: _Addresses = []
    otherwise: _Otherwise | None = None
    note: Annotated[str, Meta(description="what it is for", max_length=200)] = ""


class MakeOpenInvite(msgspec.Struct, forbid_unknown_fields=True):
    addresses: _Addresses = []
    otherwise: _Otherwise | None = None


class InviteById(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(description="the id of the invite, as the list has it")]


LIST = Operation(
    name="invites_list",
    method="GET",
    path="/v1/invites",
    request=Nothing,
    answer=list[KnownInvite],
    doc="The invites that this node has made, and who has joined the network with them.",
)
MAKE = Operation(
    name="invites_make",
    method="POST",
    path="/v1/invites",
    request=MakeInvite,
    answer=MadeInvite,
    doc="Make an invite: one text with which a newcomer joins the network at this node.  It is in "
    "the answer and nowhere else.",
    permission="admin",
    success=201,
    errors=(InvalidAddress, InvalidInvite, OwnAddressUnknown, *_KEPT),
)
MAKE_OPEN = Operation(
    name="invites_make_open",
    method="POST",
    path="/v1/invites/open",
    request=MakeOpenInvite,
    answer=MadeOpenInvite,
    doc="Make an invite that holds the secret of the network itself: anybody may use it, "
    "any number of times, and it cannot be taken back.",
    permission="admin",
    success=201,
    errors=(InvalidAddress, InvalidInvite, OwnAddressUnknown),
)
REVOKE = Operation(
    name="invites_revoke",
    method="DELETE",
    path="/v1/invites/{id}",
    request=InviteById,
    answer=None,
    doc="Take an invite back.  Whoever has joined with it stays in the network.",
    permission="admin",
    success=204,
    destructive=True,
    idempotent=True,
    errors=(NotFound, *_KEPT),
)
