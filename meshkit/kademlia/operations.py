"""What the part C{dht} offers at the doors."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.errors import (
    InvalidPublicKey,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    RecordChanged,
    RecordInvalid,
    RecordNotKept,
    RecordQuotaReached,
    RecordTooLarge,
    RecordWrongKind,
    StorageFailed,
)
from meshkit.operations import Id, Nothing, Operation

#: Bytes of a value, as in L{meshkit.kademlia.records}, which is not imported for a number.
MAX_VALUE: Final = 32 * 1024
_MAX_BASE64: Final = -(-MAX_VALUE // 3) * 4
# Of whatever asks other nodes.
_ASKED: Final = (Overloaded, NotReady)
# Of what is named by the kind of a record and its name.
_NAMED: Final = (InvalidRequest, InvalidPublicKey, RecordWrongKind)
# Of whatever is published.
_PUBLISHED: Final = (
    RecordInvalid,
    RecordNotKept,
    RecordQuotaReached,
    RecordTooLarge,
    StorageFailed,
    *_NAMED,
    *_ASKED,
)

_Kind = Annotated[
    str,
    Meta(max_length=32, description="address, provider, mutable, immutable, topic, or of a part"),
]
_Name = Annotated[
    str,
    Meta(
        max_length=1024,
        description="as the kind has it: address and mutable, @<base64>.ed25519; immutable, the "
        "SHA-256 of the value in hex; provider, a content id in hex; topic, a text of 1 to 4,096 "
        "bytes in UTF-8, without NUL",
    ),
]
_Salt = Annotated[
    str, Meta(max_length=64, description="which of the mutable items of its owner, a text")
]
_Content = Annotated[str, Meta(max_length=1024, description="a content id, in hex")]


class FindRecords(msgspec.Struct, forbid_unknown_fields=True):
    kind: _Kind
    name: _Name
    salt: _Salt = ""


class RecordShown(msgspec.Struct):
    """
    A record, whose signature was verified.

    @ivar kind: what it is.
    @ivar key: where it is, 64 hex digits.
    @ivar owner: who signed it, C{@<base64>.ed25519}.
    @ivar sequence: higher than those of its owner before; as a rule, milliseconds since 1970.
    @ivar digest: SHA-256 of the record, hex, for compare and swap.
    @ivar expires: RFC 3339 time.
    @ivar salt: which of the owner's items, if it is one of several; as hex, if it is no text.
    @ivar value: base64.
    @ivar text: the same, if it is UTF-8.
    """

    kind: str
    key: str
    owner: str
    sequence: int
    digest: str
    expires: str
    salt: str
    value: str
    text: str | None


class Lookup(msgspec.Struct):
    """
    What it took to find something.

    @ivar questions: that were put to other nodes.
    @ivar hops: how many nodes told of one another until the nearest was found.
    @ivar crowded: more nodes are near to the place than chance would have it, and all of the
        region were asked.
    """

    questions: int
    hops: int
    crowded: bool


class FoundRecords(msgspec.Struct):
    """
    @ivar records: those that count, of all that were found.
    @ivar lookup: what it took.
    """

    records: list[RecordShown]
    lookup: Lookup


GET: Final = Operation(
    name="dht_get",
    method="GET",
    path="/v1/dht/records/{kind}/{name}",
    request=FindRecords,
    answer=FoundRecords,
    doc="Find records in the hash table by their kind and name; no error if there are none.",
    untrusted=True,
    open_world=True,
    errors=(*_NAMED, *_ASKED),
)


class PutRecord(msgspec.Struct, forbid_unknown_fields=True):
    kind: _Kind
    name: Annotated[
        Annotated[str, Meta(max_length=1024)] | None,
        Meta(
            description="of a topic or provider record, or of the kind of a part; what is mutable "
            "is found by this node's own id, what is immutable by the SHA-256 of its value"
        ),
    ] = None
    text: Annotated[
        Annotated[str, Meta(max_length=MAX_VALUE)] | None, Meta(description="the value, as UTF-8")
    ] = None
    value: Annotated[
        Annotated[str, Meta(max_length=_MAX_BASE64)] | None,
        Meta(description="in place of text: the value in base64"),
    ] = None
    salt: _Salt = ""
    expires_secs: Annotated[
        Annotated[int, Meta(ge=60, le=10 * 365 * 86_400)] | None,
        Meta(description="publish it no longer than for so long"),
    ] = None
    swap_sequence: Annotated[
        Annotated[int, Meta(ge=0, le=2**63 - 2)] | None,
        Meta(
            description="of what is mutable: only where the record with this sequence is still "
            "what is there; 0, only where there is none"
        ),
    ] = None
    swap_digest: Annotated[
        str, Meta(max_length=64, description="the digest of the same record, in hex")
    ] = ""


class Placed(msgspec.Struct):
    """
    @ivar kind: what was published, or taken back.
    @ivar name: what it is found by.
    @ivar key: where it is, 64 hex digits.
    @ivar sequence: of the record.
    @ivar expires: RFC 3339 time until which this record of it is good; it is made anew in
        time.
    @ivar accepted: how many nodes keep it, on their disks.
    @ivar asked: how many were asked.  They are asked again each hour.
    @ivar refused: why others do not, and how many; C{""}: they did not answer.
    @ivar lookup: what it took to find those.
    """

    kind: str
    name: str
    key: str
    sequence: int
    expires: str
    accepted: int
    asked: int
    refused: dict[str, int]
    lookup: Lookup


PUT: Final = Operation(
    name="dht_put",
    method="POST",
    path="/v1/dht/records",
    request=PutRecord,
    answer=Placed,
    doc="Publish a record in the hash table, for all members of the network to find, and go on "
    "publishing it until it is withdrawn.",
    permission="write",
    success=201,
    open_world=True,
    errors=(RecordChanged, *_PUBLISHED),
)
WITHDRAW: Final = Operation(
    name="dht_withdraw",
    method="DELETE",
    path="/v1/dht/records/{kind}/{name}",
    request=FindRecords,
    answer=Placed,
    doc="Take back a record that this node has published.",
    permission="write",
    destructive=True,
    open_world=True,
    errors=(NotFound, *_PUBLISHED),
)


class ContactShown(msgspec.Struct):
    """
    @ivar public_id: C{@<base64>.ed25519}.
    @ivar id: its place, 64 hex digits.
    @ivar addresses: C{net:HOST:PORT~shs:KEY}, where it answered last first.
    """

    public_id: str
    id: str
    addresses: list[str]


class FoundContacts(msgspec.Struct):
    """
    @ivar contacts: at most 20, the nearest first.
    @ivar lookup: what it took.
    """

    contacts: list[ContactShown]
    lookup: Lookup


class FindNode(msgspec.Struct, forbid_unknown_fields=True):
    target: Annotated[
        str,
        Meta(max_length=128, description="@<base64>.ed25519 of a node, or a place, 64 hex digits"),
    ]


FIND_NODE: Final = Operation(
    name="dht_find_node",
    method="GET",
    path="/v1/dht/nodes/{target}",
    request=FindNode,
    answer=FoundContacts,
    doc="Find the nodes that are nearest to another one, or to a place, the nearest first.",
    untrusted=True,
    open_world=True,
    errors=(InvalidRequest, InvalidPublicKey, *_ASKED),
)


class FindPeer(msgspec.Struct, forbid_unknown_fields=True):
    public_id: Annotated[Id, Meta(description="@<base64>.ed25519, URL-safe base64 allowed")]


FIND_PEER: Final = Operation(
    name="dht_find_peer",
    method="GET",
    path="/v1/dht/peers/{public_id}",
    request=FindPeer,
    answer=ContactShown,
    doc="Find out where a peer can be reached.",
    untrusted=True,
    open_world=True,
    errors=(InvalidPublicKey, NotFound, *_ASKED),
)


class FindProviders(msgspec.Struct, forbid_unknown_fields=True):
    content: _Content


class ProviderShown(msgspec.Struct):
    """
    @ivar public_id: who says that it has the content.
    @ivar addresses: where it can be reached, if it says so; otherwise see C{dht_find_peer}.
    @ivar expires: RFC 3339 time until which that is good.
    """

    public_id: str
    addresses: list[str]
    expires: str


class FoundProviders(msgspec.Struct):
    """
    @ivar providers: in no order that means anything.
    @ivar lookup: what it took.
    """

    providers: list[ProviderShown]
    lookup: Lookup


PROVIDERS: Final = Operation(
    name="dht_providers",
    method="GET",
    path="/v1/dht/providers/{content}",
    request=FindProviders,
    answer=FoundProviders,
    doc="Find out who has some content.",
    untrusted=True,
    open_world=True,
    errors=(InvalidRequest, *_ASKED),
)
PROVIDE: Final = Operation(
    name="dht_provide",
    method="POST",
    path="/v1/dht/providers/{content}",
    request=FindProviders,
    answer=Placed,
    doc="Say in the hash table that this node has some content, until that is withdrawn.",
    permission="write",
    success=201,
    idempotent=True,
    open_world=True,
    errors=_PUBLISHED,
)


class TableEntry(msgspec.Struct):
    """
    @ivar public_id: C{@<base64>.ed25519}.
    @ivar id: its place, 64 hex digits.
    @ivar shared_bits: how many bits that has in common with ours: its bucket.
    @ivar addresses: C{net:HOST:PORT~shs:KEY}, where it answered last first.
    @ivar since: RFC 3339 time at which it answered first.
    @ivar heard: RFC 3339 time at which it answered last.
    """

    public_id: str
    id: str
    shared_bits: int
    addresses: list[str]
    since: str
    heard: str


TABLE: Final = Operation(
    name="dht_table",
    method="GET",
    path="/v1/dht/table",
    request=Nothing,
    answer=list[TableEntry],
    doc="The nodes of the hash table that this node knows, the nearest first.",
    untrusted=True,
)


class DHTStats(msgspec.Struct):
    """
    @ivar id: this node's place, 64 hex digits.
    @ivar reachable: others are told where it can be reached; if not, it asks, and nobody
        asks it.
    @ivar addresses: where.
    @ivar contacts: nodes in its table.
    @ivar size: how many nodes there are in the whole network, an estimate; none yet, if too
        little was looked up.
    @ivar records: that it keeps for others.
    @ivar record_bytes: of these.
    @ivar publications: records of its own.
    @ivar connections: that it opened to others.
    @ivar accepted: that others opened to it.
    @ivar dialled: dials since the start.
    @ivar lookups: that are under way.
    @ivar asked: questions to others since the start, by method.
    @ivar served: questions of others, likewise.
    """

    id: str
    reachable: bool
    addresses: list[str]
    contacts: int
    size: float | None
    records: int
    record_bytes: int
    publications: int
    connections: int
    accepted: int
    dialled: int
    lookups: int
    asked: dict[str, int]
    served: dict[str, int]


STATS: Final = Operation(
    name="dht_stats",
    method="GET",
    path="/v1/dht/stats",
    request=Nothing,
    answer=DHTStats,
    doc="How the hash table of this node is doing.",
)
