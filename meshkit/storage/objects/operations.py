"""What the part C{storage} offers at the doors: objects, transfers, and who keeps them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import (
    CapabilityInvalid,
    InvalidRequest,
    NotFound,
    NotReady,
    ObjectAmbiguous,
    ObjectDamaged,
    ObjectMalformed,
    ObjectMismatch,
    ObjectRemoved,
    Overloaded,
    PlacementConflict,
    SchemeInvalid,
    StorageFailed,
    TargetExists,
)
from meshkit.operations import Operation

# Of whatever needs the database.
_KEPT: Final = (StorageFailed, Overloaded)
# Of whatever is about an object that somebody calls in some way.
_CALLED: Final = (NotFound, InvalidRequest, CapabilityInvalid, ObjectAmbiguous, *_KEPT)
# Of whatever has to find out about an object that is not this node's.
_LOOKED_UP: Final = (*_CALLED, NotReady, ObjectMalformed, ObjectMismatch, ObjectRemoved)

_OBJECT: Final = (
    "id of an object of this node in hex, or at least 8 digits of its beginning; or a read "
    "capability, mkread1-..., of anybody's object"
)

Object = Annotated[str, Meta(description=_OBJECT)]
OwnObject = Annotated[
    str,
    Meta(description="id of an object of this node in hex, or at least 8 digits of its beginning"),
]
Scheme = Annotated[
    str,
    Meta(
        description="how many shares suffice and how many more there are, such as 6+3; left out, "
        "that of the configuration"
    ),
]


# --- what is asked ---------------------------------------------------------------------


class PutObject(msgspec.Struct, forbid_unknown_fields=True):
    path: Annotated[str, Meta(description="a file on the node's machine, absolute")]
    scheme: Scheme | None = None


class GetObject(msgspec.Struct, forbid_unknown_fields=True):
    object: Object
    path: Annotated[str, Meta(description="file on the node's machine to write it to, absolute")]
    force: Annotated[bool, Meta(description="replace a file that is there")] = False


class FindObject(msgspec.Struct, forbid_unknown_fields=True):
    object: Object


class CheckObject(msgspec.Struct, forbid_unknown_fields=True):
    object: Object
    depth: Annotated[
        Literal["stat", "sample", "full"],
        Meta(
            description="how much is read: nothing, so that the peers are taken at their word; a "
            "block of each share; or all of them"
        ),
    ] = "sample"


class FindOwnObject(msgspec.Struct, forbid_unknown_fields=True):
    object: OwnObject


class ListObjects(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=500, description="how many at most")] = 100
    offset: Annotated[int, Meta(ge=0, le=2**53, description="how many to skip")] = 0
    removed: Annotated[bool, Meta(description="those that were removed lately, too")] = False


class ListTransfers(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many at most")] = 100


class FindTransfer(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(description="of the transfer, as it was told when it was begun")]
    wait: Annotated[
        float, Meta(ge=0, le=30, description="seconds to wait for its end before answering")
    ] = 0.0


class CancelTransfer(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(description="of the transfer, as it was told when it was begun")]


class ListPeers(msgspec.Struct, forbid_unknown_fields=True):
    refresh: Annotated[bool, Meta(description="ask all of them, and the hash table, first")] = True


# --- what is answered --------------------------------------------------------------------


class PeerProblem(msgspec.Struct):
    """
    What a peer did not do, or did wrong.

    @ivar peer: its id.
    @ivar share: number of the share that it was about.
    @ivar problem: what, in a sentence.
    @ivar lied: it gave something else than it had promised; otherwise it may be innocent.
    """

    peer: str
    share: int
    problem: str
    lied: bool


class TransferResult(msgspec.Struct):
    """
    What came of a transfer.

    @ivar object: id of the object.
    @ivar bytes: of it.
    @ivar scheme: how it is cut.
    @ivar shares: numbers of the shares that are kept, or that were read.
    @ivar missing: of a put: numbers of shares that nobody keeps.
    @ivar flags: of a put: what is not as it should be with the places:
        C{one-domain-is-fatal}, C{uneven-domains}, C{several-shares-at-one-peer}.
    @ivar problems: of peers; others have done it instead.
    """

    object: str
    bytes: int
    scheme: str
    shares: list[int]
    missing: list[int]
    flags: list[str]
    problems: list[PeerProblem]


class TransferError(msgspec.Struct):
    """
    @ivar code: stable; docs/troubleshooting.md has them all.
    @ivar message: a sentence.
    """

    code: str
    message: str


class TransferShown(msgspec.Struct):
    """
    A transfer.

    @ivar id: by which it is called.
    @ivar kind: C{put} or C{get}.
    @ivar state: C{waiting} for others, C{running}, C{done}, C{failed} or C{cancelled}.
    @ivar path: the file.
    @ivar object: id of the object; of a put L{None} until it is done.
    @ivar done: bytes that are behind, since it was begun last.
    @ivar total: bytes in all, if that is known.
    @ivar begun: when it was asked for; RFC 3339.
    @ivar ended: when it ended.
    @ivar result: if it is done.
    @ivar error: if it failed.
    """

    id: str
    kind: Literal["put", "get"]
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    path: str
    object: str | None
    done: int
    total: int | None
    begun: str
    ended: str | None
    result: TransferResult | None
    error: TransferError | None


class ObjectShown(msgspec.Struct):
    """
    An object of this node.

    @ivar object: its id.
    @ivar name: what the file was called.
    @ivar bytes: of it.
    @ivar scheme: how it is cut.
    @ivar status: C{live}, or C{deleted}.
    @ivar added: when it was put; RFC 3339.
    @ivar placed: how many of its shares are somewhere.
    @ivar lease_end: when the first lease ends, if nobody renews it; L{None} if there is none.
    """

    object: str
    name: str
    bytes: int
    scheme: str
    status: Literal["live", "deleted"]
    added: str
    placed: int
    lease_end: str | None


class SharePlace(msgspec.Struct):
    """
    Where a share is.

    @ivar share: its number.
    @ivar peer: id of who keeps it; L{None} if nobody does.
    @ivar lease_end: until when it was promised.
    """

    share: int
    peer: str | None
    lease_end: str | None


class ObjectDetails(msgspec.Struct):
    """
    An object, this node's or somebody else's.

    @ivar object: its id.
    @ivar own: it is this node's.
    @ivar name: what the file was called, if it is.
    @ivar bytes: of it.
    @ivar scheme: how it is cut.
    @ivar status: C{live}, or C{deleted}.
    @ivar added: when it was put, if it is this node's.
    @ivar version: of the placement.
    @ivar verify: the verify capability, which lets others find and check its shares.
    @ivar renew_at: when its leases are to be renewed, if it is this node's.
    @ivar shares: where they are.
    @ivar flags: as those of L{TransferResult}, as far as the peers are known.
    """

    object: str
    own: bool
    name: str | None
    bytes: int
    scheme: str
    status: Literal["live", "deleted"]
    added: str | None
    version: int
    verify: str
    renew_at: str | None
    shares: list[SharePlace]
    flags: list[str]


class Capabilities(msgspec.Struct):
    """
    Strings to hand on.

    @ivar read: reads the object.  A secret.
    @ivar verify: finds and checks its shares.
    @ivar repair: says where its shares are.  A secret.
    """

    read: str
    verify: str
    repair: str


class ShareChecked(msgspec.Struct):
    """
    What is known of a share.

    @ivar share: its number.
    @ivar peer: who should have it; L{None} if nobody.
    @ivar state: C{good}; C{missing}: nobody has it; C{damaged}: the peer says so, or what it
        gives is wrong; C{unreachable}: nothing is known of it.
    @ivar lease_end: until when the peer keeps it, as it says.
    @ivar problem: in a sentence.
    """

    share: int
    peer: str | None
    state: Literal["good", "missing", "damaged", "unreachable"]
    lease_end: str | None
    problem: str | None


class ObjectChecked(msgspec.Struct):
    """
    How an object is doing.

    @ivar object: its id.
    @ivar health: C{healthy}: all shares are good; C{degraded}: enough are; C{lost}: fewer than
        are required.
    @ivar required: how many shares suffice.
    @ivar good: how many are good.
    @ivar shares: each of them.
    @ivar flags: as those of L{TransferResult}, of the shares that are good.
    """

    object: str
    health: Literal["healthy", "degraded", "lost"]
    required: int
    good: int
    shares: list[ShareChecked]
    flags: list[str]


class ObjectRemoval(msgspec.Struct):
    """
    An object that was removed.

    @ivar object: its id.
    @ivar released: how many leases were given up.
    @ivar pending: how many are to be given up yet, at peers that were not reached.  Without
        that they end by themselves.
    """

    object: str
    released: int
    pending: int


class PeerShown(msgspec.Struct):
    """
    A storage peer.

    @ivar peer: its id.
    @ivar source: who named it: C{config}, or C{dht}.
    @ivar addresses: where it is dialled, the best first.
    @ivar member: its word holds: it is there, and may be given shares.
    @ivar accepts: it takes shares, as it says.
    @ivar leaving: it is to be shut down, as it says: shares are moved from there first.
    @ivar capacity: bytes that it has for shares in all, as it says.
    @ivar free: bytes that it has for new shares, as it says.
    @ivar declared: the failure domain that it says it is in.
    @ivar domain: the one that counts here.
    @ivar heard: when it said so; RFC 3339.
    @ivar problem: why it was not reached, when it was asked last.
    @ivar refused: why it is given no new shares, by what audits have found.
    """

    peer: str
    source: Literal["config", "dht"]
    addresses: list[str]
    member: bool
    accepts: bool
    leaving: bool
    capacity: int | None
    free: int | None
    declared: str | None
    domain: str | None
    heard: str | None
    problem: str | None
    refused: str | None


class StorageStatus(msgspec.Struct):
    """
    @ivar scheme: of new objects.
    @ivar peers: storage peers that are known.
    @ivar members: those of them whose word holds now.  A node asks for it when there is
        something to do, so that after a while without there are none.
    @ivar objects: objects of this node.
    @ivar transfers: transfers that run.
    @ivar waiting: transfers that wait.
    @ivar publishing: objects that are still to be published in the hash table, or were when it
        knew nobody: those of this node, and those of others that it looks after.
    @ivar renewing: objects whose leases are due to be renewed.
    @ivar releases: leases of removed objects and moved shares, at peers that were not reached
        yet.
    @ivar watched: objects of others that this node looks after.
    """

    scheme: str
    peers: int
    members: int
    objects: int
    transfers: int
    waiting: int
    publishing: int
    renewing: int
    releases: int
    watched: int


# --- the operations ------------------------------------------------------------------------

PUT = Operation(
    name="object_put",
    method="POST",
    path="/v1/objects",
    request=PutObject,
    answer=TransferShown,
    doc="Seal a file of the node's machine and give its shares to storage peers, in the "
    "background.",
    permission="admin",
    success=202,
    open_world=True,
    errors=(InvalidRequest, SchemeInvalid, NotReady, *_KEPT),
)
GET = Operation(
    name="object_get",
    method="POST",
    path="/v1/objects/get",
    request=GetObject,
    answer=TransferShown,
    doc="Get an object from storage peers into a file of the node's machine, in the background.",
    permission="admin",
    success=202,
    destructive=True,
    open_world=True,
    errors=(TargetExists, ObjectRemoved, NotReady, *_CALLED),
)
LIST = Operation(
    name="object_list",
    method="GET",
    path="/v1/objects",
    request=ListObjects,
    answer=ObjectShown,
    doc="The objects of this node, the newest first.",
    paged=True,
    errors=_KEPT,
)
STAT = Operation(
    name="object_stat",
    method="POST",
    path="/v1/objects/stat",
    request=FindObject,
    answer=ObjectDetails,
    doc="What an object is and where its shares are; of somebody else's, as the hash table says.",
    open_world=True,
    errors=_LOOKED_UP,
)
CAPABILITIES = Operation(
    name="object_capabilities",
    method="GET",
    path="/v1/objects/{object}/capabilities",
    request=FindOwnObject,
    answer=Capabilities,
    doc="The strings with which others read, check or repair an object of this node: two are "
    "secrets.",
    permission="admin",
    errors=(ObjectRemoved, *_CALLED),
)
CHECK = Operation(
    name="object_check",
    method="POST",
    path="/v1/objects/check",
    request=CheckObject,
    answer=ObjectChecked,
    doc="Ask every peer that should keep a share of an object whether it does.",
    permission="write",
    idempotent=True,
    open_world=True,
    untrusted=True,
    errors=_LOOKED_UP,
)
REMOVE = Operation(
    name="object_remove",
    method="DELETE",
    path="/v1/objects/{object}",
    request=FindOwnObject,
    answer=ObjectRemoval,
    doc="Destroy the key of an object of this node, and have the peers forget its shares.",
    permission="admin",
    destructive=True,
    idempotent=True,
    open_world=True,
    errors=(PlacementConflict, ObjectDamaged, *_CALLED),
)
TRANSFERS = Operation(
    name="transfers",
    method="GET",
    path="/v1/transfers",
    request=ListTransfers,
    answer=list[TransferShown],
    doc="Puts and gets: those that wait or run, and the last that have ended, the latest first.",
    untrusted=True,
    errors=_KEPT,
)
TRANSFER = Operation(
    name="transfer",
    method="GET",
    path="/v1/transfers/{id}",
    request=FindTransfer,
    answer=TransferShown,
    doc="How far a put or get is, and what came of it.",
    untrusted=True,
    errors=(NotFound, InvalidRequest, *_KEPT),
)
CANCEL = Operation(
    name="transfer_cancel",
    method="POST",
    path="/v1/transfers/{id}/cancel",
    request=CancelTransfer,
    answer=TransferShown,
    doc="End a put or get that waits or runs; what of it is at the peers is given up.",
    permission="admin",
    destructive=True,
    idempotent=True,
    open_world=True,
    errors=(NotFound, InvalidRequest, *_KEPT),
)
PEERS = Operation(
    name="storage_peers",
    method="GET",
    path="/v1/storage/peers",
    request=ListPeers,
    answer=list[PeerShown],
    doc="The storage peers that this node knows, and what they say of themselves.",
    open_world=True,
    untrusted=True,
)
