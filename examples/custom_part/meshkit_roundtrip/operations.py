"""What the part offers.  The routes of the door are made from these declarations."""

from __future__ import annotations

from typing import Final

import msgspec

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
