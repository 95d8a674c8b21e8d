"""What the part C{audit} offers at the doors: audits, repairs, and what is thought of peers."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import (
    CapabilityInvalid,
    InvalidPublicKey,
    InvalidRequest,
    LeadTaken,
    NotFound,
    NotReady,
    ObjectAmbiguous,
    ObjectMalformed,
    ObjectMismatch,
    ObjectRemoved,
    Overloaded,
    PassUnderWay,
    StorageFailed,
)
from meshkit.operations import Id, Nothing, Operation

# Of whatever needs the database.
_KEPT: Final = (StorageFailed, Overloaded)
# Of whatever needs objects that are looked after.
_TRACKED: Final = (NotReady, *_KEPT)
# Of whatever calls one of them in some way.
_CALLED: Final = (NotFound, InvalidRequest, ObjectAmbiguous, *_TRACKED)

# Of whatever begins a pass.
_BEGUN: Final = (PassUnderWay, LeadTaken, *_CALLED)

#: Objects that can be named in one request.
MAX_OBJECTS: Final = 100
#: Objects that are shown of one pass.
MAX_SEEN: Final = 500

Object = Annotated[
    str,
    Meta(
        description="id of an object that is looked after, in hex, or at least 8 digits of its "
        "beginning"
    ),
]
Run = Annotated[str, Meta(description="of the run, as it was told when it was begun; or latest")]
Outcome = Literal["success", "failure", "offline", "unknown", "contained"]
Health = Literal["healthy", "degraded", "lost"]


# --- what is asked ---------------------------------------------------------------------


class RunAudit(msgspec.Struct, forbid_unknown_fields=True):
    objects: Annotated[
        list[Object],
        Meta(description="which; left out, all that are looked after", max_length=MAX_OBJECTS),
    ] = []
    repair: Annotated[bool, Meta(description="make lost shares anew where that is called for")] = (
        True
    )


class ListRuns(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=500, description="how many at most")] = 50


class FindRun(msgspec.Struct, forbid_unknown_fields=True):
    run: Run
    wait: Annotated[
        float, Meta(ge=0, le=30, description="seconds to wait for its end before answering")
    ] = 0.0


class ListReceipts(msgspec.Struct, forbid_unknown_fields=True):
    peer: Annotated[Id | None, Meta(description="only those of audits of this peer")] = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many at most")] = 100


class FindReceipt(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(description="of the audit, in hex")]


class ForgivePeer(msgspec.Struct, forbid_unknown_fields=True):
    peer: Annotated[Id, Meta(description="id of the storage peer")]


class RepairObject(msgspec.Struct, forbid_unknown_fields=True):
    object: Object


class ListWatched(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=500, description="how many at most")] = 100
    offset: Annotated[int, Meta(ge=0, le=2**53, description="how many to skip")] = 0


class WatchObject(msgspec.Struct, forbid_unknown_fields=True):
    capability: Annotated[str, Meta(description="repair capability of the object, mkrepair1-...")]


class UnwatchObject(msgspec.Struct, forbid_unknown_fields=True):
    object: Object


# --- what is answered --------------------------------------------------------------------


class RunShown(msgspec.Struct):
    """
    A pass over objects.

    @ivar run: by which it is called.
    @ivar state: C{running}; C{done}; C{stopped}, as the node did; C{abandoned}: whoever made it
        was killed; C{failed}.
    @ivar asked_for: somebody asked for it; otherwise it was time.
    @ivar begun: when; RFC 3339.
    @ivar ended: when it ended.
    @ivar seconds: how long it took.
    @ivar objects: how many objects were looked at.
    @ivar shares: how many shares peers were asked about.
    @ivar outcomes: what came of that: C{success}, C{failure}, C{offline}, C{unknown}, C{contained}.
    @ivar decisions: how many objects there were for which what was decided, by a word for why.
    @ivar repaired: objects of which shares were made anew, or moved.
    @ivar not_repaired: objects of which that failed.
    @ivar placed: shares that were made anew, or moved.
    @ivar deferred: shares that have to wait for the next pass.
    @ivar read: bytes that repairs read from peers.
    @ivar written: bytes that they sent to peers.
    @ivar error: why it failed.
    """

    run: str
    state: Literal["running", "done", "stopped", "abandoned", "failed"]
    asked_for: bool
    begun: str
    ended: str | None
    seconds: float
    objects: int
    shares: int
    outcomes: dict[str, int]
    decisions: dict[str, int]
    repaired: int
    not_repaired: int
    placed: int
    deferred: int
    read: int
    written: int
    error: str | None


class ShareSeen(msgspec.Struct):
    """
    What was known of a share, when it was decided what to do.

    @ivar share: its number.
    @ivar peer: who should have it; L{None} if nobody.
    @ivar outcome: of its last audit; L{None} if there was none yet.
    @ivar audited: when that was; RFC 3339.
    @ivar away_since: since when there has been no verdict.
    @ivar reason: what was wrong in this pass, in a sentence.
    """

    share: int
    peer: str | None
    outcome: Outcome | None
    audited: str | None
    away_since: str | None
    reason: str | None


class SharePlaced(msgspec.Struct):
    """
    @ivar share: its number.
    @ivar peer: id of who has it now.
    """

    share: int
    peer: str


class ShareLeft(msgspec.Struct):
    """
    @ivar share: its number.
    @ivar problem: why nobody has it now.
    """

    share: int
    problem: str


class ObjectSeen(msgspec.Struct):
    """
    What a pass found of an object, and did.

    @ivar object: its id.
    @ivar health: after that.  C{healthy}: all shares are good, as far as is known; C{degraded}:
        enough are; C{lost}: fewer than are required.
    @ivar required: how many shares suffice.
    @ivar good: how many are good, after that.
    @ivar action: what was decided: C{none}, C{wait}, C{repair}, C{move} or C{lost}.
    @ivar code: why, in a word.
    @ivar reason: the same, in a sentence.
    @ivar shares: each of them, as it was before.
    @ivar placed: who was given which share anew.
    @ivar left: shares that are still missing though they were to be made anew, and why.
    @ivar problem: why nothing of what was decided was done.
    """

    object: str
    health: Health
    required: int
    good: int
    action: str
    code: str
    reason: str
    shares: list[ShareSeen]
    placed: list[SharePlaced]
    left: list[ShareLeft]
    problem: str | None


class RunDetails(RunShown):
    """
    A pass, with what it found.

    @ivar degraded: objects that miss shares after it, and have enough.
    @ivar lost: objects of which fewer shares are good than are required.
    @ivar seen: the objects that were looked at: those that are worst first, and at most so many
        as are shown of one pass.
    """

    degraded: int
    lost: int
    seen: list[ObjectSeen]


class ReceiptShown(msgspec.Struct):
    """
    An audit of which there is a receipt.

    @ivar id: of the audit, in hex.
    @ivar peer: who was asked.
    @ivar judged: when; RFC 3339.
    @ivar shares: about how many shares.
    @ivar outcomes: how many of them had which outcome.
    @ivar bytes: of the file.
    """

    id: str
    peer: str
    judged: str
    shares: int
    outcomes: dict[str, int]
    bytes: int


class PeerStanding(msgspec.Struct):
    """
    What is thought of a storage peer.

    @ivar peer: its id.
    @ivar score: how likely the next audit of one of its shares is a success, by those before: 0
        to 1.
    @ivar answers: how likely its next answer says something of a share, likewise.
    @ivar online: how often it is there: 0 to 1; L{None} as long as that is not known.
    @ivar weight: how much of what it would be given otherwise it gets: 0 to 1000.
    @ivar refused: why it gets nothing; L{None} if it may get something.
    @ivar vetted: it has been asked often enough, and for long enough, to count fully.
    @ivar successes: audits of its shares that it passed.
    @ivar failures: those that it failed.
    @ivar unknowns: answers that said nothing of a share.
    @ivar offlines: how often it was not reached.
    @ivar owes: audits that it knew of and did not answer, and that are asked again first.
    @ivar offline_since: since when it was not reached; RFC 3339.
    @ivar audited: when something was heard of it last.
    @ivar problem: what was wrong last.
    """

    peer: str
    score: float
    answers: float
    online: float | None
    weight: int
    refused: str | None
    vetted: bool
    successes: int
    failures: int
    unknowns: int
    offlines: int
    owes: int
    offline_since: str | None
    audited: str | None
    problem: str | None


class WatchedObject(msgspec.Struct):
    """
    An object of somebody else's that this node looks after.

    @ivar object: its id.
    @ivar bytes: of it.
    @ivar scheme: how it is cut.
    @ivar placed: how many of its shares are somewhere.
    @ivar version: of what says where they are.
    @ivar verify: its verify capability.
    """

    object: str
    bytes: int
    scheme: str
    placed: int
    version: int
    verify: str


class AuditStatus(msgspec.Struct):
    """
    @ivar serves: audits of shares that are kept here are answered.
    @ivar audits: objects are looked after: their shares are audited, and lost ones made anew.
    @ivar running: a pass runs now.
    @ivar last_pass: when the last one ended well; RFC 3339.
    @ivar next_pass: when the next one begins by itself.
    @ivar objects: how many objects are looked after, by what was decided of them last.
    @ivar refused_peers: peers that are given nothing, by their audits.
    @ivar contained_peers: peers that owe an answer.
    """

    serves: bool
    audits: bool
    running: bool = False
    last_pass: str | None = None
    next_pass: str | None = None
    objects: dict[str, int] = {}
    refused_peers: int = 0
    contained_peers: int = 0


# --- the operations ------------------------------------------------------------------------

RUN: Final = Operation(
    name="audit_run",
    method="POST",
    path="/v1/audit/runs",
    request=RunAudit,
    answer=RunShown,
    doc="Audit the shares of objects that this node looks after now, and make lost ones anew, in "
    "the background.",
    permission="admin",
    success=202,
    open_world=True,
    errors=_BEGUN,
)
RUNS: Final = Operation(
    name="audit_runs",
    method="GET",
    path="/v1/audit/runs",
    request=ListRuns,
    answer=list[RunShown],
    doc="Passes over objects, the latest first.",
    untrusted=True,
    errors=_TRACKED,
)
RUN_SHOW: Final = Operation(
    name="audit_run_show",
    method="GET",
    path="/v1/audit/runs/{run}",
    request=FindRun,
    answer=RunDetails,
    doc="How far a pass is, what it found of each object, and what it did.",
    untrusted=True,
    errors=(NotFound, InvalidRequest, *_TRACKED),
)
RECEIPTS: Final = Operation(
    name="audit_receipts",
    method="GET",
    path="/v1/audit/receipts",
    request=ListReceipts,
    answer=list[ReceiptShown],
    doc="Receipts of audits that are kept, the latest first.",
    errors=(InvalidPublicKey, *_TRACKED),
)
RECEIPT: Final = Operation(
    name="audit_receipt",
    method="GET",
    path="/v1/audit/receipts/{id}",
    request=FindReceipt,
    answer=bytes,
    doc="The receipt of an audit, with which anybody can verify what was asked and answered.",
    sends="application/octet-stream",
    errors=(NotFound, InvalidRequest, *_TRACKED),
)
PEERS: Final = Operation(
    name="audit_peers",
    method="GET",
    path="/v1/audit/peers",
    request=Nothing,
    answer=list[PeerStanding],
    doc="What is thought of the storage peers that have been audited.",
    errors=_TRACKED,
)
FORGIVE: Final = Operation(
    name="audit_forgive",
    method="POST",
    path="/v1/audit/peers/forgive",
    request=ForgivePeer,
    answer=None,
    doc="Let a storage peer begin anew, as if it had never been audited.",
    permission="admin",
    success=204,
    idempotent=True,
    errors=(NotFound, InvalidPublicKey, *_TRACKED),
)
WATCHED: Final = Operation(
    name="audit_watched",
    method="GET",
    path="/v1/audit/watched",
    request=ListWatched,
    answer=WatchedObject,
    doc="Objects of others that this node looks after, as it was given their repair capabilities.",
    paged=True,
    errors=_TRACKED,
)
WATCH: Final = Operation(
    name="audit_watch",
    method="POST",
    path="/v1/audit/watched",
    request=WatchObject,
    answer=WatchedObject,
    doc="Look after somebody else's object from now on: audit it, and make its lost shares anew.",
    permission="admin",
    idempotent=True,
    open_world=True,
    errors=(
        CapabilityInvalid,
        NotFound,
        ObjectMalformed,
        ObjectMismatch,
        ObjectRemoved,
        *_TRACKED,
    ),
)
UNWATCH: Final = Operation(
    name="audit_unwatch",
    method="DELETE",
    path="/v1/audit/watched/{object}",
    request=UnwatchObject,
    answer=None,
    doc="Look after an object of somebody else's no more; its shares stay where they are.",
    permission="admin",
    success=204,
    idempotent=True,
    errors=_CALLED,
)
REPAIR: Final = Operation(
    name="object_repair",
    method="POST",
    path="/v1/objects/repair",
    request=RepairObject,
    answer=RunShown,
    doc="Audit one object now and make every share anew that is not there, in the background, "
    "without waiting for peers that may come back.",
    permission="admin",
    success=202,
    open_world=True,
    errors=_BEGUN,
)
