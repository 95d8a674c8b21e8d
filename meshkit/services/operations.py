"""What every node offers at its doors, whatever its parts."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import (
    ConfigError,
    FrameTooLarge,
    HandshakeTimeout,
    HandshakeTruncated,
    HostUnknown,
    InvalidAddress,
    InvalidPublicKey,
    KeyProbeFailed,
    MalformedFrame,
    NetworkKeyRefused,
    NotFound,
    NotReady,
    Overloaded,
    PeerKeyChanged,
    PeerKeyRefused,
    PeerTooSlow,
    PeerUnreachable,
    StorageFailed,
    TamperedStream,
    TruncatedStream,
    Unhealthy,
)
from meshkit.operations import Method, Nothing, Operation, Permission

# Of whatever needs the database.
_KEPT: Final = (StorageFailed, Overloaded)
# Of finding and dialling whoever is at an address.
_REACHED: Final = (
    InvalidAddress,
    ConfigError,
    InvalidPublicKey,
    KeyProbeFailed,
    PeerUnreachable,
    HostUnknown,
    NetworkKeyRefused,
    PeerKeyRefused,
    HandshakeTimeout,
    HandshakeTruncated,
)
# Of talking to them.
_TALKED: Final = (PeerTooSlow, MalformedFrame, FrameTooLarge, TamperedStream, TruncatedStream)


class NodeStatus(msgspec.Struct):
    """
    @ivar version: of meshkit.
    @ivar identity: this node's id.
    @ivar relay: what kind of relay it is, for the members of its network or for whoever comes;
        null if it is none.
    @ivar network: first hex digits of the network's public name; equal on all members.
    @ivar network_weak: the network was made from a passphrase, which can be guessed.
    @ivar network_previous: the network's name under the secret that is being replaced, if
        one is.
    @ivar peers_on_previous: how many of the peers that dialled this node since its start
        used that old secret the last time.
    @ivar ready: all parts are started.
    @ivar uptime_secs: seconds since the start.
    @ivar mesh: addresses on which it listens for other nodes.
    @ivar advertised: addresses at which others are told to reach it: those of the setting
        C{advertise}, or what the node has found out; none if it has found nothing out yet.
    @ivar api: addresses of the local door.
    @ivar peer_count: addresses in the peer book.
    @ivar channels: secure channels that others have opened to this node.
    @ivar transports: how many channels there are, opened by whomever, by the way that leads to
        the peer: C{direct}, C{relay}.
    @ivar refused: connections refused before they were authenticated, by code.
    @ivar parts: what each part says of itself.
    """

    version: str
    identity: str
    relay: Literal["member", "blind"] | None
    network: str
    network_weak: bool
    network_previous: str | None
    peers_on_previous: int
    ready: bool
    uptime_secs: float
    mesh: list[str]
    advertised: list[str]
    api: list[str]
    peer_count: int
    channels: int
    transports: dict[str, int]
    refused: dict[str, int]
    parts: dict[str, Any]


class NodeIdentity(msgspec.Struct):
    """
    @ivar public_id: C{@<base64>.ed25519}.
    @ivar x25519_public: the same key for X25519, base64.
    @ivar addresses: what others write to dial this node, where it can tell.
    """

    public_id: str
    x25519_public: str
    addresses: list[str]


class PeerReason(msgspec.Struct):
    """
    Why a peer's score fell.

    @ivar at: RFC 3339 time.
    @ivar code: of the error, see docs/troubleshooting.md.
    @ivar reason: what it did.
    """

    at: str
    code: str
    reason: str


class PeerBehaviour(msgspec.Struct):
    """
    How a peer behaves, whoever dialled whom.

    @ivar public_id: who it is.
    @ivar score: 100 is perfect; below 1 a peer is banned for ten minutes.
    @ivar round_trip_ms: milliseconds, the mean of the last few, if any was measured.
    @ivar last_heard: RFC 3339 time of the last sign of it, since this node's start.
    @ivar missed: how often in a row it was looked for since, and did not answer.
    @ivar suspect: that was too often.
    @ivar received: messages that came from it and were new, since this node's start.
    @ivar sent: messages that it was given.
    @ivar duplicates: messages that came from it and were here already.
    @ivar refused: messages that came from it and were refused.
    @ivar banned_until: RFC 3339 time, if it is banned.
    @ivar reasons: the last reasons why its score fell, oldest first.
    """

    public_id: str
    score: float
    round_trip_ms: float | None
    last_heard: str | None
    missed: int
    suspect: bool
    received: int
    sent: int
    duplicates: int
    refused: int
    banned_until: str | None
    reasons: list[PeerReason]


class LedgerList(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(description="how many peers at most", ge=1, le=1000)] = 100


class Peer(msgspec.Struct):
    """
    @ivar address: C{net:HOST:PORT~shs:KEY}; C{HOST:PORT} while nobody has told the key.
    @ivar public_id: whom we expect there.
    @ivar source: C{config} or C{manual}, if the operator has named it; else the part that has
        heard of it, such as C{lan}, for as long as it does.
    @ivar connected: a channel to it is open.
    @ivar last_connected: RFC 3339 time of the last channel opened, if any.
    @ivar failures: failures since it last worked.
    @ivar last_error: why it failed last, until it works again.
    @ivar pinned: how its key came to be expected there: C{first use}, if it was the first
        to be seen, or C{by hand}; nothing if it stood in the address that was given.
    @ivar pinned_at: RFC 3339 time of that.
    @ivar behaviour: how it behaves, if it was ever met.
    @ivar transports: the ways by which channels with it are open now, whoever opened them:
        C{direct}, C{relay}; none if there is no channel.
    """

    address: str
    public_id: str | None
    source: str
    connected: bool
    last_connected: str | None
    failures: int
    last_error: str | None
    pinned: str | None
    pinned_at: str | None
    behaviour: PeerBehaviour | None
    transports: list[str]


_Target = Annotated[str, Meta(description="net:HOST:PORT~shs:KEY, or HOST:PORT", max_length=512)]


class PeerByAddress(msgspec.Struct, forbid_unknown_fields=True):
    address: _Target


class DialPeer(msgspec.Struct, forbid_unknown_fields=True):
    address: Annotated[
        str,
        Meta(
            description="net:HOST:PORT~shs:KEY, HOST:PORT, or the peer's id, "
            "@<base64>.ed25519, to find out where it is",
            max_length=512,
        ),
    ]
    pings: Annotated[int, Meta(description="round trips to measure", ge=0, le=32)] = 0


class Dialled(msgspec.Struct):
    """
    @ivar address: where it answered.
    @ivar public_id: who proved to be there.
    @ivar found_by: of a peer that was asked for by its id, who knew the address: C{peers}, if
        it is one of those that this node dials, else the name of a part, such as C{dht}.
    @ivar handshake_ms: milliseconds until it was authenticated.
    @ivar round_trips_ms: milliseconds of each ping.
    @ivar transport: which way it was: C{direct}, or C{relay}.
    @ivar relay: id of the relay that led there.
    """

    address: str
    public_id: str
    found_by: str | None
    handshake_ms: float
    round_trips_ms: list[float]
    transport: str
    relay: str | None


class ConnectionList(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(description="how many connections at most", ge=1, le=10_000)] = 1_000


class Connection(msgspec.Struct):
    """
    One secure channel, which is for one protocol.

    @ivar public_id: with whom.
    @ivar label: the protocol.
    @ivar dialled: this node has opened it.
    @ivar transport: which way it goes: C{direct}, or C{relay}.
    @ivar relay: id of the relay that leads there.
    @ivar from_address: where the peer's end of a direct one is.
    @ivar open_secs: seconds since it was opened.
    """

    public_id: str
    label: str
    dialled: bool
    transport: str
    relay: str | None
    from_address: str | None
    open_secs: float


class Repinned(msgspec.Struct):
    """
    @ivar address: where this key is expected now.
    @ivar public_id: the key.
    @ivar before: the key that was pinned, if one was.
    """

    address: str
    public_id: str
    before: str | None


class OperationField(msgspec.Struct):
    """
    One field of an operation's request, as REST takes it.

    @ivar name: as it is written.
    @ivar place: where it goes: C{path}: in the place of its name in braces; C{query}: the
        query string, a list as the same field again and again; C{body}: a member of the
        JSON object in the body; C{raw}: it is the body, as it is.
    @ivar required: it has to be given.
    @ivar header: the header that may be sent in its place, if one may.
    """

    name: str
    place: Literal["path", "query", "body", "raw"]
    required: bool
    header: str | None = None


class OperationShown(msgspec.Struct):
    """
    One operation of this node, and all that is needed to call it.

    @ivar name: unique in this node.
    @ivar part: who offers it: the name of a part, or C{node}.
    @ivar doc: what it is for.
    @ivar permission: what a scope has to give.
    @ivar usable: the token that asks has such a scope.
    @ivar method: of the REST route.
    @ivar path: of the REST route, with the fields of the place C{path} in braces.
    @ivar kind: C{unary}: one answer; C{stream}: items as they come, as server-sent events;
        C{raw}: bytes come or go, so that there is no MCP tool.
    @ivar paged: the answer is a stretch of a list, with C{total} and perhaps
        C{next_cursor} in its metadata.
    @ivar sends: media type of an answer that is raw bytes.
    @ivar fields: of the request.
    @ivar request: JSON Schema (2020-12) of the request; its properties are the fields.
    """

    name: str
    part: str
    doc: str
    permission: Permission
    usable: bool
    method: Method
    path: str
    kind: Literal["unary", "stream", "raw"]
    paged: bool
    sends: str | None
    fields: list[OperationField]
    request: dict[str, Any]


OPERATIONS = Operation(
    name="operations_list",
    method="GET",
    path="/v1/operations",
    request=Nothing,
    answer=list[OperationShown],
    doc="All that can be asked of this node, and how; usable is what your token may use.",
    granted=True,
)


class NodeHealth(msgspec.Struct):
    """@ivar alive: the event loop turns, and the database takes jobs."""

    alive: bool


class NodeReadiness(msgspec.Struct):
    """
    @ivar ready: all parts are started.
    @ivar started: their names, in the order in which they were.
    """

    ready: bool
    started: list[str]


STATUS = Operation(
    name="node_status",
    method="GET",
    path="/v1/status",
    request=Nothing,
    answer=NodeStatus,
    doc="How this node is doing: addresses, peers, and what each part says of itself.",
    # A part may quote what a program said that was given the message of a peer.
    untrusted=True,
)
IDENTITY = Operation(
    name="node_identity",
    method="GET",
    path="/v1/identity",
    request=Nothing,
    answer=NodeIdentity,
    doc="Who this node is, and the addresses under which others can dial it.",
)
PEERS = Operation(
    name="peers_list",
    method="GET",
    path="/v1/peers",
    request=Nothing,
    answer=list[Peer],
    doc="The addresses this node dials, and what happened when it did.",
    untrusted=True,
)
PEER_LEDGER = Operation(
    name="peers_ledger",
    method="GET",
    path="/v1/peers/ledger",
    request=LedgerList,
    answer=list[PeerBehaviour],
    doc="How peers behave, whoever dialled whom: score, round trip, counters, and why one was "
    "held back or banned.  The one heard of last comes first.",
    untrusted=True,
)
PEER_CONNECTIONS = Operation(
    name="peers_connections",
    method="GET",
    path="/v1/peers/connections",
    request=ConnectionList,
    answer=list[Connection],
    doc="The secure channels that are open, whoever opened them, oldest first: with whom, for "
    "which protocol, and whether directly or through a relay.",
)
PEER_ADD = Operation(
    name="peers_add",
    method="POST",
    path="/v1/peers",
    request=PeerByAddress,
    answer=Peer,
    doc="Add an address to dial, now and after every start; a bare HOST:PORT is asked for its "
    "key, which is then pinned.",
    permission="admin",
    success=201,
    untrusted=True,
    idempotent=True,
    open_world=True,
    errors=(PeerKeyChanged, *_REACHED, *_KEPT),
)
PEER_REMOVE = Operation(
    name="peers_remove",
    method="DELETE",
    path="/v1/peers/{address}",
    request=PeerByAddress,
    answer=None,
    doc="Stop dialling an address and forget it.",
    permission="admin",
    success=204,
    destructive=True,
    idempotent=True,
    errors=(InvalidAddress, NotFound, ConfigError, *_KEPT),
)
PEER_DIAL = Operation(
    name="peers_dial",
    method="POST",
    path="/v1/peers/dial",
    request=DialPeer,
    answer=Dialled,
    doc="Dial an address once, to see whether it can be reached and who is there; or a peer by its "
    "id alone, wherever it is.",
    permission="admin",
    idempotent=True,
    open_world=True,
    errors=(NotFound, NotReady, Overloaded, *_REACHED, *_TALKED),
)
PEER_REPIN = Operation(
    name="peers_repin",
    method="POST",
    path="/v1/peers/repin",
    request=PeerByAddress,
    answer=Repinned,
    doc="Expect from now on the key that answers at an address, or the one that is given.",
    permission="admin",
    destructive=True,
    idempotent=True,
    open_world=True,
    errors=(*_REACHED, *_KEPT),
)
OPENAPI = Operation(
    name="node_openapi",
    method="GET",
    path="/v1/openapi.json",
    request=Nothing,
    answer=bytes,
    doc="The OpenAPI 3.1 document of the routes of this very node, its parts' as well.",
    sends="application/json",
    early=True,
    etag=True,
)
HEALTH = Operation(
    name="node_health",
    method="GET",
    path="/v1/health",
    request=Nothing,
    answer=NodeHealth,
    doc="Is the node alive?  If this fails for long, starting it again may help.",
    public=True,
    early=True,
    errors=(Unhealthy,),
)
READY = Operation(
    name="node_ready",
    method="GET",
    path="/v1/ready",
    request=Nothing,
    answer=NodeReadiness,
    doc="Is the node ready for requests?  While it is starting, the refusal names the part that "
    "is awaited.",
    public=True,
    early=True,
)
METRICS = Operation(
    name="metrics",
    method="GET",
    path="/metrics",
    request=Nothing,
    answer=bytes,
    doc="All that the node counts and measures, in the text format of Prometheus.",
    sends="text/plain; version=0.0.4; charset=utf-8",
    early=True,
)
