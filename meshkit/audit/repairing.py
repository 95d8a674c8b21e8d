"""What all pieces of a repair work with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import define, field, frozen

from meshkit.audit.values import Blame
from meshkit.identity.keys import PublicKey
from meshkit.runtime.waiting import Background
from meshkit.runtime.workers import Workers
from meshkit.storage.encoding import Piece
from meshkit.storage.erasure import measure
from meshkit.storage.hedging import Latencies
from meshkit.storage.scheme import MAX_SEGMENT_BYTES, Scheme

__all__ = ["HASH_BYTES", "Account", "RepairConfig", "RepairTools"]

#: Bytes of a hash of the branch that comes with a block.
HASH_BYTES: Final = 32


@frozen
class RepairConfig:
    """
    @ivar refresh_seconds: for which peers that say nothing of themselves are waited for, if there
        are enough others.
    @ivar reserve_seconds: in which a peer says whether it takes a share.
    @ivar request_seconds: in which it does everything else that it is asked for.
    @ivar copy_seconds: in which a peer that leaves gives a block of its share.  It is short, as
        the share can be made anew.
    @ivar patience_seconds: that all blocks of a share together may take longer than at the least
        rate, to be given by a peer that leaves or taken by one that is to have it.
    @ivar least_rate: bytes per second.
    @ivar buffer_bytes: of blocks that are under way in one repair.  One segment is, with one
        block that is made of it, in any case.
    @ivar rounds: how often an object is read, at most, if peers fail while they are sent what
        was made.
    """

    refresh_seconds: float = 2.0
    reserve_seconds: float = 10.0
    request_seconds: float = 60.0
    copy_seconds: float = 10.0
    patience_seconds: float = 60.0
    least_rate: int = 64 * 1024
    buffer_bytes: int = 3 * MAX_SEGMENT_BYTES
    rounds: int = 3

    def too_slow(self, seconds: float, size: int) -> bool:
        """
        @param seconds: for which a peer was waited for.
        @param size: bytes that it has given or taken.
        @return: whether it is to be given up.
        """
        return seconds > self.patience_seconds + size / self.least_rate

    def at_once(self, scheme: Scheme) -> int:
        """@return: how many shares of an object are placed at a time."""
        return max(1, self.buffer_bytes // scheme.block_bytes - scheme.required)

    def segments(self, scheme: Scheme, made: int) -> int:
        """
        @param made: how many blocks are made of each segment, or copied in place of it.
        @return: how many segments are under way at a time.
        """
        return max(1, self.buffer_bytes // ((scheme.required + made) * scheme.block_bytes))


@frozen
class RepairTools:
    """
    @ivar reactor: C{IReactorTime}.
    @ivar workers: for what takes long.
    @ivar wall_clock: nanoseconds since 1970.
    @ivar codec: L{meshkit.interfaces.IErasureCodec}.
    @ivar config: see there.
    @ivar background: for what nobody waits for.
    @ivar latencies: of the peers, in all repairs.
    """

    reactor: Any
    workers: Workers
    wall_clock: Callable[[], int]
    codec: Any
    config: RepairConfig
    background: Background = field(factory=Background)
    latencies: Latencies = field(factory=Latencies)

    @property
    def now(self) -> int:
        """Seconds of Unix time."""
        return self.wall_clock() // 1_000_000_000


@define
class Account:
    """
    What one repair has cost, and who was no help.

    @ivar read: bytes of blocks and proofs that came from peers.
    @ivar written: bytes of blocks that peers took.
    """

    read: int = 0
    written: int = 0
    _blames: dict[tuple[PublicKey, int], Blame] = field(factory=dict)

    def came(self, piece: Piece) -> None:
        """A peer has given something."""
        self.read += measure(piece.block) + HASH_BYTES * len(piece.branch)

    def blame(self, peer: PublicKey, number: int, reason: str, *, lied: bool = False) -> None:
        """Remember it of a peer, once for each share; that it lied is worth more."""
        before = self._blames.get((peer, number))
        if before is None or (lied and not before.lied):
            self._blames[peer, number] = Blame(peer, number, reason, lied)

    @property
    def blames(self) -> tuple[Blame, ...]:
        """All of them, by number of the share."""
        return tuple(sorted(self._blames.values(), key=lambda one: (one.number, one.peer.raw)))

    @property
    def liars(self) -> frozenset[PublicKey]:
        """Who has given what is not what the manifest says."""
        return frozenset(blame.peer for blame in self._blames.values() if blame.lied)
