"""Whole audits without any network: what both sides sign, one statement after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field

from meshkit.audit.challenge import Challenge, commitment
from meshkit.audit.containment import ContainedShare
from meshkit.audit.judging import Judged, check_page, judge
from meshkit.audit.transcript import (
    Answer,
    Evidence,
    Opening,
    Receipt,
    ReceiptFile,
    Said,
    Transcript,
    encode_evidence,
)
from meshkit.audit.values import Outcome
from meshkit.crypto.samples import Samples, samples_of
from meshkit.testing.identities import make_identity
from tests.storage.keeper.keepers import shelf
from tests.storage.shelves import Shelf

AUDITOR = make_identity("auditor")
PEER = make_identity("peer")
NETWORK = bytes(range(16))
NOW = 1_800_000_000_000


@define
class Papers:
    """
    An audit of share 0 of some objects.

    @ivar objects: what is asked about.
    @ivar said: what the peer says of them; what it has, if nothing else is said.
    @ivar shown: what it shows; what it has, if nothing else is said.
    """

    objects: Sequence[Shelf] = field(factory=lambda: [shelf(300, 1), shelf(300, 2)])
    number: int = 1
    seed: bytes = b"s" * 32
    nonce: bytes = b"r" * 32
    auditor: Any = AUDITOR
    peer: Any = PEER
    network: bytes = NETWORK
    said: list[Said | None] = field(factory=list)
    shown: list[Samples | None] = field(factory=list)
    opening: Any = None
    answer: Any = None
    numbers: list[list[int]] = field(factory=list)
    transcript: Any = None

    def __attrs_post_init__(self) -> None:
        if not self.said:
            self.said = [
                Said(len(each.shares[0]), each.manifest.shares[0]) for each in self.objects
            ]
        names = [each.header.share_id(0) for each in self.objects]
        self.opening = Opening.make(
            self.auditor,
            self.network,
            self.peer.public,
            bytes([self.number]) * 16,
            commitment(self.seed),
            NOW,
            names,
        )
        self.answer = Answer.make(self.peer, self.opening, self.nonce, NOW + 1, self.said)
        challenge = Challenge(self.seed, self.nonce)
        self.numbers = self.answer.numbers(challenge, self.opening)
        if not self.shown:
            self.shown = [
                samples_of(len(each.shares[0]), numbers, each.shares[0], each.nodes[0])
                if said is not None
                else None
                for each, numbers, said in zip(self.objects, self.numbers, self.said, strict=True)
            ]
        digests = [None if each is None else each.digest for each in self.shown]
        self.transcript = Transcript.make(
            self.peer, self.opening, self.answer, self.seed, NOW + 2, digests
        )

    @property
    def page(self) -> list[list[bytes]]:
        """What is sent of it."""
        return [[] if each is None else each.samples for each in self.shown]

    @property
    def shares(self) -> list[ContainedShare]:
        """What the peer should have."""
        return [
            ContainedShare(
                each.manifest.content_id,
                0,
                each.manifest.shares[0],
                each.layout.share_bytes,
                NOW // 1000 + 60,
            )
            for each in self.objects
        ]

    def manifest_of(self, content_id: bytes) -> bytes:
        """@return: the manifest of one of the objects."""
        found = [
            each.manifest.raw for each in self.objects if each.manifest.content_id == content_id
        ]
        return found[0]

    def judged(self) -> list[Judged]:
        """What an honest auditor makes of it."""
        shown = check_page(self.answer.said, self.numbers, self.page)
        return judge(self.answer, self.transcript, shown, self.shares, self.manifest_of)

    def file(
        self,
        outcomes: Sequence[Outcome] | None = None,
        evidence: Sequence[Evidence] | None = None,
        shown: bool = True,
    ) -> ReceiptFile:
        """
        @param outcomes: what follows from it, if nothing else is said.
        @param shown: is there a transcript?
        @return: the receipt.
        """
        if outcomes is None:
            outcomes = [each.outcome for each in self.judged()]
        if evidence is None:
            evidence = [each.evidence for each in self.judged() if each.evidence]
        raw = encode_evidence(evidence)
        last = self.transcript.raw if shown else self.answer.raw
        receipt = Receipt.make(self.auditor, last, raw, NOW + 3, outcomes)
        return ReceiptFile(
            self.opening.raw,
            self.answer.raw,
            self.transcript.raw if shown else None,
            receipt.raw,
            raw,
        )


def with_another_root() -> Papers:
    """The peer has another share than it should."""
    right = shelf(300, 2)
    return Papers(said=[Said(len(right.shares[0]), b"x" * 32), None])


def with_wrong_leaves() -> Papers:
    """The peer says that it has the share, and has one with a byte changed."""
    objects = [shelf(300, 1), shelf(300, 2)]
    spoilt = bytearray(objects[1].shares[0])
    spoilt[7] ^= 1
    shown = [
        samples_of(len(objects[0].shares[0]), [0], objects[0].shares[0], objects[0].nodes[0]),
        samples_of(len(spoilt), [0], spoilt, objects[1].nodes[0]),
    ]
    return Papers(objects, shown=list(shown))
