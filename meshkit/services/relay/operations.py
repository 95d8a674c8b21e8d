"""
What can be asked at the HTTP door of a relay.

It is a door of its own, with other callers than that of a node: no token is good here, and what
is offered there is not offered here.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import (
    InvalidPublicKey,
    NotFound,
    NotRegistered,
    Overloaded,
    RegistrationInvalid,
    RegistrationRefused,
    RegistrationStale,
    RegistryFull,
    StorageFailed,
    TLSNeeded,
)
from meshkit.operations import Id, Nothing, Operation

_KEPT: Final = (StorageFailed, Overloaded)
#: Bytes of a body.
MAX_BODY: Final = 2_048
#: As L{meshkit.relay.registry.registration} has them, which this room does not know.
MAX_REGISTRATION: Final = 320
MAX_ENTERED: Final = 256
PROOF_BYTES: Final = 32

#: A message, as its author signed it, byte for byte, with C{chain_valid} at its end where it
#: comes from a list of all feeds.
Message = Annotated[
    msgspec.Raw,
    Meta(
        description="a message as its author signed it (docs/protocol/feed.md)",
        extra_json_schema={"type": "object"},
    ),
]

Statement = Annotated[
    bytes,
    Meta(
        min_length=1,
        max_length=MAX_REGISTRATION,
        description="the signed registration, base64 (docs/protocol/registration.md)",
    ),
]


class RelayStatus(msgspec.Struct):
    """
    How a relay stands.

    @ivar version: of meshkit.
    @ivar public_id: the relay's key.
    @ivar role: C{member}: it relays for the members of its network; C{blind}: for whoever comes.
    @ivar network: hex digits of the network's public name; null if it has none.
    @ivar mesh: where members of its network reach it, as far as it knows that itself.
    @ivar uptime_secs: seconds since the start.
    @ivar registers: it registers peers, and has their feeds; if not, the next two are 0.
    @ivar peers: how many are registered.
    @ivar max_peers: how many are taken.
    @ivar feeds_need_tls: feeds, and the directory where it is for peers alone, are only given over
        TLS, or to programs of its own machine.
    """

    version: str
    public_id: str
    role: Literal["member", "blind"]
    network: str | None
    mesh: list[str]
    uptime_secs: float
    registers: bool
    peers: int
    max_peers: int
    feeds_need_tls: bool


STATUS: Final = Operation(
    name="relay_status",
    method="GET",
    path="/v1/status",
    request=Nothing,
    answer=RelayStatus,
    doc="What this relay is, and how it stands.",
    public=True,
)
WELL_KNOWN: Final = Operation(
    name="relay_well_known",
    method="GET",
    path="/.well-known/meshkit.json",
    request=Nothing,
    answer=bytes,
    sends="application/json",
    doc="The document by which this relay is found by the name of a domain, if its operator wants "
    "that: RFC 8615, docs/protocol/well-known.md.",
    public=True,
    errors=(NotFound,),
)
OPENAPI: Final = Operation(
    name="relay_openapi",
    method="GET",
    path="/v1/openapi.json",
    request=Nothing,
    answer=bytes,
    sends="application/json",
    doc="The OpenAPI document of this door.",
    public=True,
    etag=True,
)


class Register(msgspec.Struct, forbid_unknown_fields=True):
    statement: Statement
    proof: Annotated[
        bytes,
        Meta(
            min_length=PROOF_BYTES,
            max_length=PROOF_BYTES,
            description="that whose statement it is belongs to the network: HMAC-SHA256 under its "
            "capability 'registry', base64",
        ),
    ]


class ChangeSettings(msgspec.Struct, forbid_unknown_fields=True):
    statement: Statement


class Entered(msgspec.Struct):
    """
    The relay has it on its disk.

    @ivar public_id: whose registration it is.
    @ivar registered: is it registered now?
    @ivar listed: is it in the directory?
    @ivar entered: the signed word of the relay, base64.
    """

    public_id: str
    registered: bool
    listed: bool
    entered: Annotated[bytes, Meta(max_length=MAX_ENTERED)]


_ENTERED: Final = (RegistrationInvalid, RegistrationStale, RegistrationRefused, *_KEPT)

REGISTER: Final = Operation(
    name="relay_register",
    method="POST",
    path="/v1/register",
    request=Register,
    answer=Entered,
    doc="Register a member of the network, or have a newer statement of one count.",
    permission="write",
    success=201,
    max_body=MAX_BODY,
    idempotent=True,
    errors=(*_ENTERED, RegistryFull, NotRegistered),
)
SETTINGS: Final = Operation(
    name="relay_settings",
    method="POST",
    path="/v1/settings",
    request=ChangeSettings,
    answer=Entered,
    doc="Have a newer statement of a registered peer count: listed or not, another nickname, or "
    "that it leaves.",
    permission="write",
    max_body=MAX_BODY,
    idempotent=True,
    errors=(*_ENTERED, NotRegistered),
)


class ListDirectory(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=100, description="how many at most")] = 100
    cursor: Annotated[
        Annotated[Id, Meta(max_length=64)] | None,
        Meta(description="next_cursor of the stretch before"),
    ] = None


class DirectoryEntry(msgspec.Struct):
    """
    A peer that wants to be listed.

    @ivar public_id: its key.
    @ivar nickname: what it calls itself.
    @ivar statement: its signed registration, which says all this, base64: verify that.
    """

    public_id: str
    nickname: str
    statement: bytes


DIRECTORY: Final = Operation(
    name="relay_directory",
    method="GET",
    path="/v1/directory",
    request=ListDirectory,
    answer=DirectoryEntry,
    doc="The registered peers that want to be listed, in the order of their keys.",
    paged=True,
    untrusted=True,
    errors=(TLSNeeded, InvalidPublicKey, *_KEPT),
)


class ReadArrivals(msgspec.Struct, forbid_unknown_fields=True):
    after: Annotated[
        int, Meta(ge=0, le=2**53 - 1, description="'reached' of the stretch before; 0 at first")
    ] = 0
    limit: Annotated[int, Meta(ge=1, le=200, description="how many at most")] = 50


class ArrivalsShown(msgspec.Struct):
    """
    A stretch of what the relay has.

    @ivar messages: in the order in which they came to the relay, each as its author signed it.
    @ivar reached: ask for what follows with this as C{after}.
    @ivar newest: what C{reached} will be when there is no more.
    """

    messages: list[Message]
    reached: int
    newest: int


FEED: Final = Operation(
    name="relay_feed",
    method="GET",
    path="/v1/feed",
    request=ReadArrivals,
    answer=ArrivalsShown,
    doc="The messages of all feeds that the relay has, in the order in which they came.",
    untrusted=True,
    errors=(TLSNeeded, *_KEPT),
)


class ReadAuthor(msgspec.Struct, forbid_unknown_fields=True):
    author: Annotated[Id, Meta(description="@<base64>.ed25519, URL-safe base64 allowed")]
    after: Annotated[
        int, Meta(ge=0, le=2**53 - 1, description="sequence number of the last one that is here")
    ] = 0
    limit: Annotated[int, Meta(ge=1, le=200, description="how many at most")] = 50


class AuthorShown(msgspec.Struct):
    """
    A stretch of a feed.

    @ivar author: whose.
    @ivar messages: in the order of the feed and without a gap, each as its author signed it.
    @ivar reached: ask for what follows with this as C{after}.
    @ivar gone_until: what follows is not kept any more, up to this number: ask for what follows
        that; null if there is no such gap.
    """

    author: str
    messages: list[Message]
    reached: int
    gone_until: int | None


AUTHOR: Final = Operation(
    name="relay_feed_author",
    method="GET",
    path="/v1/feed/{author}",
    request=ReadAuthor,
    answer=AuthorShown,
    doc="The feed of one author, as far as the relay has it.",
    untrusted=True,
    errors=(TLSNeeded, InvalidPublicKey, *_KEPT),
)


class Follow(msgspec.Struct, forbid_unknown_fields=True):
    after: Annotated[
        Annotated[int, Meta(ge=0, le=2**53 - 1)] | None,
        Meta(description="id of the last event that is here; left out, only what comes from now"),
    ] = None


EVENTS: Final = Operation(
    name="relay_events",
    method="GET",
    path="/v1/events",
    request=Follow,
    answer=Message,
    doc="Every message as it comes to the relay, without end.",
    stream=True,
    resume="after",
    untrusted=True,
    errors=(TLSNeeded, *_KEPT),
)

#: Without a signature, at any relay that has it.
OPEN: Final = frozenset(each.name for each in (STATUS, WELL_KNOWN, OPENAPI, REGISTER, SETTINGS))
