"""What the client is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import field, frozen

from meshkit.identity.keys import PublicKey
from meshkit.runtime.waiting import Background
from meshkit.runtime.workers import Workers
from meshkit.storage.capability import ReadCapability
from meshkit.storage.hedging import Latencies
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.scheme import Scheme
from meshkit.storage.statements import Receipt

__all__ = [
    "DEFAULT_SCHEME",
    "ClientConfig",
    "Fetched",
    "Find",
    "Offer",
    "Problem",
    "Progress",
    "Stored",
    "Tools",
]

#: Any 6 of 9.
DEFAULT_SCHEME: Final = Scheme(6, 9)

#: Gives the L{meshkit.interfaces.IStoragePeer} with a key, or L{None} if it is not known
#: where that is.
Find = Callable[[PublicKey], Any]


@frozen
class ClientConfig:
    """
    @ivar quorum: how many shares have to be kept for a put to succeed; L{None} for half of
        those that may be lost, and those that are required.
    @ivar reserve_seconds: in which a peer says whether it takes a share.
    @ivar request_seconds: in which it does everything else that it is asked for.
    @ivar spool_bytes: files below that are sent anew after a kill, which takes less than to
        keep what was sealed.
    @ivar buffer_bytes: of blocks that are under way, in one transfer.  One segment is, in any
        case.
    """

    quorum: int | None = None
    reserve_seconds: float = 10.0
    request_seconds: float = 60.0
    buffer_bytes: int = 20 * 1024 * 1024
    spool_bytes: int = 16 * 1024 * 1024

    def segments(self, segment_bytes: int) -> int:
        """@return: how many segments of so many bytes are under way at a time."""
        return max(1, self.buffer_bytes // max(1, segment_bytes))


@frozen
class Offer:
    """
    A peer that shares may be given to.

    @ivar candidate: what its place among others is decided by.
    @ivar peer: L{meshkit.interfaces.IStoragePeer}.
    """

    candidate: Candidate
    peer: Any = field()

    @peer.validator
    def _check(self, _attribute: object, peer: Any) -> None:
        if peer.key.raw != self.candidate.key:
            raise ValueError("the peer of an offer has another key than its candidate")


@frozen
class Progress:
    """
    How far a transfer is.

    @ivar done: bytes of the object that are behind: sent to all peers, or given out.
    @ivar total: bytes of the object; L{None} if that is not known yet.
    """

    done: int
    total: int | None


@frozen
class Problem:
    """
    What a peer did not do, or did wrong.

    @ivar peer: who.
    @ivar share: number of the share that it was about.
    @ivar text: what, in a sentence.
    @ivar lied: what it gave was not what the manifest, or its own word, says.  Otherwise it
        may be innocent.
    """

    peer: PublicKey
    share: int
    text: str
    lied: bool = False


@frozen
class Stored:
    """
    An object that was stored.

    @ivar manifest: what it is.
    @ivar capability: reads it.  It is a secret.
    @ivar document: where its shares are.
    @ivar signed: that, signed.
    @ivar receipts: what the peers have signed, by number of the share.
    @ivar missing: numbers of shares that nobody keeps.
    @ivar flags: what is not as it should be with the places of the shares, see
        L{meshkit.storage.rendezvous.Spread}.
    @ivar problems: of peers, most of which were replaced.
    """

    manifest: Manifest
    capability: ReadCapability
    document: PlacementDocument
    signed: bytes = field(repr=False)
    receipts: Mapping[int, Receipt]
    missing: tuple[int, ...]
    flags: tuple[str, ...]
    problems: tuple[Problem, ...]


@frozen
class Fetched:
    """
    An object, or a piece of one, that was read.

    @ivar length: bytes that were given out.
    @ivar shares: the numbers of the shares that were used, sorted.
    @ivar problems: of peers whose shares were not used for it, or not all.
    """

    length: int
    shares: tuple[int, ...]
    problems: tuple[Problem, ...]


@frozen
class Tools:
    """
    What everything here is done with.

    @ivar reactor: C{IReactorTime}.
    @ivar workers: for what takes long or blocks.
    @ivar wall_clock: nanoseconds since 1970.
    @ivar codec: L{meshkit.interfaces.IErasureCodec}.
    @ivar config: see there.
    @ivar background: for what nobody waits for.
    @ivar latencies: of all transfers.
    """

    reactor: Any
    workers: Workers
    wall_clock: Callable[[], int]
    codec: Any
    config: ClientConfig
    background: Background = field(factory=Background)
    latencies: Latencies = field(factory=Latencies)

    @property
    def now(self) -> int:
        """Seconds of Unix time."""
        return self.wall_clock() // 1_000_000_000
