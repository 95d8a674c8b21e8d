"""What the part offers.  The routes of the door are made from these declarations."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.errors import (
    HandshakeTimeout,
    HandshakeTruncated,
    InvalidPublicKey,
    MalformedFrame,
    MeshkitError,
    NetworkKeyRefused,
    NotFound,
    Overloaded,
    PeerKeyRefused,
    StorageFailed,
)
from meshkit.operations import Nothing, Operation


class NoAnswer(MeshkitError):
    """The peer cannot be reached, or does not answer."""

    code = "ROUNDTRIP_NO_ANSWER"
    status = 504


class Measure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """@ivar peer: id of a peer in this node's book, C{@....ed25519}."""

    peer: str


class Measured(msgspec.Struct, frozen=True):
    """
    @ivar peer: id of the peer.
    @ivar measured_at: seconds since 1970.
    @ivar probes: how many went there and came back.
    @ivar fastest_ms: the shortest time of them, in milliseconds.
    @ivar median_ms: the time in their middle.
    """

    peer: str
    measured_at: int
    probes: int
    fastest_ms: float
    median_ms: float


class Import(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """@ivar table: as C{roundtrip_export} gives it."""

    table: bytes


class Imported(msgspec.Struct, frozen=True):
    """@ivar count: how many results the table had."""

    count: Annotated[int, Meta(ge=0)]


class RoundtripStatus(msgspec.Struct, frozen=True):
    """
    @ivar measured: measurements that this node has made since it was started.
    @ivar failed: those that came to nothing.
    @ivar answered: probes of others that it has sent back.
    """

    measured: int
    failed: int
    answered: int


MEASURE: Final = Operation(
    "roundtrip_measure",
    "POST",
    "/v1/roundtrip",
    Measure,
    Measured,
    "Measure now how long it takes to a peer and back.",
    "write",
    open_world=True,
    errors=(
        InvalidPublicKey,
        NotFound,
        NoAnswer,
        NetworkKeyRefused,
        PeerKeyRefused,
        HandshakeTimeout,
        HandshakeTruncated,
        MalformedFrame,
        StorageFailed,
        Overloaded,
    ),
)
RESULTS: Final = Operation(
    "roundtrip_results",
    "GET",
    "/v1/roundtrip",
    Nothing,
    list[Measured],
    "What was measured last of each peer, the fastest first.",
    errors=(StorageFailed, Overloaded),
)
WATCH: Final = Operation(
    "roundtrip_watch",
    "GET",
    "/v1/roundtrip/watch",
    Nothing,
    Measured,
    "What is measured, as it is measured.",
    stream=True,
)
EXPORT: Final = Operation(
    "roundtrip_export",
    "GET",
    "/v1/roundtrip.csv",
    Nothing,
    bytes,
    "What was measured last of each peer, as a table.",
    sends="text/csv",
    errors=(StorageFailed, Overloaded),
)
IMPORT: Final = Operation(
    "roundtrip_import",
    "POST",
    "/v1/roundtrip.csv",
    Import,
    Imported,
    "Take a table of results over; of a peer that was measured here, the later result stays.",
    "write",
    takes="table",
    idempotent=True,
    errors=(StorageFailed, Overloaded),
)
