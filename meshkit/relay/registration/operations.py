"""What the part C{registration} offers at the doors: to be known at relays."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import (
    CallTimedOut,
    FrameTooLarge,
    HandshakeTimeout,
    HandshakeTruncated,
    HostUnknown,
    InvalidAddress,
    InvalidAnswer,
    InvalidPublicKey,
    InvalidRequest,
    MalformedFrame,
    NetworkKeyRefused,
    NotReady,
    NotRegistered,
    Overloaded,
    PeerKeyRefused,
    PeerUnreachable,
    RegistrationInvalid,
    RegistryForged,
    RemoteError,
    StorageFailed,
    TamperedStream,
    TruncatedStream,
)
from meshkit.operations import Id, Nothing, Operation

# Of reaching a relay, and of talking to it.
_ASKED: Final = (
    InvalidAddress,
    InvalidPublicKey,
    NotRegistered,
    PeerUnreachable,
    HostUnknown,
    NetworkKeyRefused,
    PeerKeyRefused,
    HandshakeTimeout,
    HandshakeTruncated,
    CallTimedOut,
    InvalidAnswer,
    MalformedFrame,
    FrameTooLarge,
    TamperedStream,
    TruncatedStream,
    RemoteError,
    RegistryForged,
    Overloaded,
    NotReady,
)
_SAID: Final = (*_ASKED, InvalidRequest, RegistrationInvalid, StorageFailed)

Which = Annotated[
    Annotated[str, Meta(max_length=400)] | None,
    Meta(
        description="the relay, net:HOST:PORT~shs:KEY, or its key, @<base64>.ed25519; left out, "
        "the only one that this node has"
    ),
]
Listed = Annotated[
    bool | None,
    Meta(description="may others see this node in the directory? left out, as before"),
]
Nickname = Annotated[
    Annotated[str, Meta(max_length=64)] | None,
    Meta(description="what to be called there, at most 64 bytes; left out, as before"),
]


class RelayShown(msgspec.Struct):
    """
    A relay of this node.

    @ivar address: where it is, and its key.
    @ivar public_id: its key.
    @ivar role: C{member}: it relays for the members of its network; C{blind}: for whoever comes,
        and nobody registers there.
    @ivar used: it stands in the settings of this node.
    @ivar registered: the relay has signed that this node is registered there.
    @ivar listed: this node has said that it may be in the directory.
    @ivar nickname: how it wants to be called there.
    @ivar said_at: RFC 3339 time of what it has said last.
    @ivar peers: how many peers the relay had when it was asked last.
    @ivar last_error: why it could not be told, or asked, the last time.
    """

    address: str
    public_id: str
    role: Literal["member", "blind"]
    used: bool
    registered: bool
    listed: bool
    nickname: str
    said_at: str | None
    peers: int | None
    last_error: str | None


RELAYS: Final = Operation(
    name="relay_list",
    method="GET",
    path="/v1/relays",
    request=Nothing,
    answer=list[RelayShown],
    doc="The relays of this node, and whether it is registered there.",
)


class RegisterAtRelay(msgspec.Struct, forbid_unknown_fields=True):
    relay: Which = None
    listed: Listed = None
    nickname: Nickname = None


REGISTER: Final = Operation(
    name="relay_register",
    method="POST",
    path="/v1/relays/register",
    request=RegisterAtRelay,
    answer=RelayShown,
    doc="Register this node at a relay, now and from now on; answered when the relay has signed "
    "that it is.",
    permission="admin",
    idempotent=True,
    open_world=True,
    errors=_SAID,
)
SETTINGS: Final = Operation(
    name="relay_settings",
    method="POST",
    path="/v1/relays/settings",
    request=RegisterAtRelay,
    answer=RelayShown,
    doc="Change how this node is registered at a relay.",
    permission="admin",
    idempotent=True,
    open_world=True,
    errors=_SAID,
)


class LeaveRelay(msgspec.Struct, forbid_unknown_fields=True):
    relay: Which = None


LEAVE: Final = Operation(
    name="relay_leave",
    method="POST",
    path="/v1/relays/leave",
    request=LeaveRelay,
    answer=RelayShown,
    doc="Have a relay forget this node, also after restarts.",
    permission="admin",
    destructive=True,
    idempotent=True,
    open_world=True,
    errors=_SAID,
)


class ReadDirectory(msgspec.Struct, forbid_unknown_fields=True):
    relay: Which = None
    limit: Annotated[int, Meta(ge=1, le=100, description="how many at most")] = 100
    cursor: Annotated[
        Annotated[Id, Meta(max_length=64)] | None,
        Meta(description="next_cursor of the stretch before"),
    ] = None


class DirectoryEntry(msgspec.Struct):
    """
    A peer that wants to be listed; it has signed this.

    @ivar public_id: its key.
    @ivar nickname: what it calls itself: anybody can call himself anything.
    @ivar said_at: RFC 3339 time at which it has said so, by its own clock.
    """

    public_id: str
    nickname: str
    said_at: str


DIRECTORY: Final = Operation(
    name="relay_directory",
    method="GET",
    path="/v1/relays/directory",
    request=ReadDirectory,
    answer=DirectoryEntry,
    doc="The peers of a relay that want to be listed, each as it has signed it.",
    paged=True,
    untrusted=True,
    open_world=True,
    errors=_ASKED,
)


class RegistrationStatus(msgspec.Struct):
    """
    @ivar relays: member relays of this node.
    @ivar registered: at how many of them it is registered.
    """

    relays: int
    registered: int
