"""
What the pieces of this room tell each other.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from attrs import field, frozen

from meshkit.identity.keys import PublicKey
from meshkit.storage.custody import TrackedObject

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

__all__ = [
    "AskedShare",
    "Auditing",
    "Blame",
    "Outcome",
    "Repaired",
    "Repairing",
    "ShareOutcome",
]

#: What an audit of one share comes to.
#: One of these:
#:
#:   - C{success}: the leaves that were asked for are what the manifest says.
#:   - C{failure}: the peer says that it has the share no more, or has shown something else, or
#:     was contained and has used up its tries.
#:   - C{offline}: the peer was not reached, or went away before it had said its random bytes:
#:     no fault of the share.
#:   - C{unknown}: the peer answered with an error that says nothing of the share.
#:   - C{contained}: it knew what would be asked and has given no valid answer; the same is
#:     asked again.
Outcome = Literal["success", "failure", "offline", "unknown", "contained"]


@frozen
class AskedShare:
    """
    A share that a peer is asked about.

    @ivar tracked: the object.
    @ivar number: of the share.
    """

    tracked: TrackedObject
    number: int

    @property
    def name(self) -> bytes:
        """By which the peer knows it."""
        return self.tracked.manifest.header.share_id(self.number)

    @property
    def root(self) -> bytes:
        """Of the share, as the manifest says."""
        return self.tracked.manifest.shares[self.number]

    @property
    def size(self) -> int:
        """Bytes of the share."""
        return self.tracked.manifest.layout.share_bytes


@frozen
class ShareOutcome:
    """
    What came of the audit of one share.

    @ivar peer: who was asked.
    @ivar content_id: of which object.
    @ivar number: which share of it.
    @ivar outcome: see L{Outcome}.
    @ivar reason: in a sentence, if it is no success.
    @ivar audit_id: of the audit it was part of, 16 bytes; empty if that did not come so far.
    @ivar seconds: from the first message to the verdict.
    @ivar blameless: the share is not there any more, and the peer had not promised to have it
        still: its lease was over.  It is lost all the same, but nothing is held against the peer.
    """

    peer: PublicKey
    content_id: bytes = field(repr=lambda content_id: content_id.hex()[:16])
    number: int
    outcome: Outcome
    reason: str | None = None
    audit_id: bytes = field(default=b"", repr=lambda audit_id: audit_id.hex()[:16])
    seconds: float = 0.0
    blameless: bool = False


class Auditing(Protocol):
    """Asks peers whether they have what they should: L{meshkit.audit.auditor.Auditor}."""

    def audit(
        self, peer: PublicKey, shares: Sequence[AskedShare]
    ) -> Deferred[Sequence[ShareOutcome]]:
        """
        @param peer: who is asked.
        @param shares: any number; they are asked about in batches.  Audits in which this peer
            is contained come first, and while it stays contained nothing else is asked.
        @return: Deferred of one outcome for each share, in order.  It does not fail because of
            what a peer does.
        """


@frozen
class Blame:
    """
    A peer whose share could not be used.

    @ivar peer: who.
    @ivar number: of the share.
    @ivar reason: in a sentence.
    @ivar lied: what it gave is not what the manifest says.  Otherwise it may be innocent.
    """

    peer: PublicKey
    number: int
    reason: str
    lied: bool = False


@frozen
class Repaired:
    """
    What came of the repair of one object.

    @ivar tracked: the object, with the placement that was written down last.
    @ivar placed: who was given which share anew, by number.
    @ivar left: the shares that are still missing, and why, by number.
    @ivar blames: peers that gave no good share, or did not take one.
    @ivar read: bytes of blocks and proofs that were fetched from peers.
    @ivar written: bytes of blocks that were sent to peers.
    """

    tracked: TrackedObject
    placed: Mapping[int, PublicKey]
    left: Mapping[int, str]
    blames: Sequence[Blame] = ()
    read: int = 0
    written: int = 0


class Repairing(Protocol):
    """Makes shares anew: L{meshkit.audit.repair.Repairer}."""

    def repair(
        self,
        tracked: TrackedObject,
        lost: Sequence[int],
        *,
        leaving: Sequence[int] = (),
        at_most: int | None = None,
    ) -> Deferred[Repaired]:
        """
        @param tracked: the object.
        @param lost: numbers of the shares to make anew, the most urgent first.
        @param leaving: numbers of shares that are good where they are, at peers that go: they
            are copied from there if that can be done, and not made anew.
        @param at_most: how many to place at most.
        @return: Deferred of L{Repaired}.  Fails with
            L{meshkit.errors.PlacementConflict} if somebody else has changed the placement
            meanwhile (then nothing new is left behind), with
            L{meshkit.errors.NotEnoughShares} if too few good ones are left (C{details} of it
            name those that lied), and with what the database says.
        """


class Standings(Protocol):
    """What is thought of peers: L{meshkit.audit.standings.PeerStandings}."""

    def judge(self, peer: PublicKey) -> Any:
        """@return: L{meshkit.storage.custody.Judgement}."""

    def record(self, outcomes: Sequence[ShareOutcome], now: int) -> Deferred[None]:
        """
        Write outcomes down, durably.

        @param now: seconds of Unix time.
        """
