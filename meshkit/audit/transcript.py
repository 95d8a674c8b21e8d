"""
What both sides of an audit sign, and what a third person can see from it.  Pure.

::

    opening    = ["audit-opening/1", network: bin 16, peer: bin 32, audit: bin 16,
                  commitment: bin 32, issued: uint, [share: bin 32, ...]]       who asks signs
    answer     = ["audit-answer/1", SHA-256(opening), r: bin 32, answered: uint,
                  [[size: uint, root: bin 32] or nil, ...]]                     the peer signs
    transcript = ["audit-transcript/1", SHA-256(opening), SHA-256(answer), seed: bin 32,
                  revealed: uint, [digest: bin 32 or nil, ...]]                 the peer signs
    receipt    = ["audit-receipt/1", SHA-256(transcript or else answer), SHA-256(evidence),
                  judged: uint, [verdict: uint, ...]]                           who asks signs
    grant      = ["audit-grant/1", content: bin 32, auditor: bin 32, expires: uint]
                                                          the placement key of the object signs

in envelopes (L{meshkit.identity.envelope}) of the contexts with these names; hashes are those of
whole envelopes, and each of these has one form only.  Times are milliseconds of Unix time,
C{expires} is in seconds.  The lists are as long as that of the opening.  C{nil} in an answer says
"I do not have it", in a transcript "I cannot read it any more".  The digest is that of
L{meshkit.crypto.samples}, of the leaves that L{meshkit.audit.challenge} says.

A receipt is kept as a file, C{*.mkaudit}::

    file     = ["meshkit-audit/1", opening: bin, answer: bin, transcript: bin or nil,
                receipt: bin, evidence: bin]
    evidence = [[position: uint, manifest: bin, [sample: bin, ...]], ...]

which L{examine} judges anew with nothing but the file.  Every byte of it is under a signature,
the evidence by its hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Final, Literal

import msgspec
from attrs import field, frozen
from msgspec import Meta, Struct

from meshkit.audit.challenge import (
    AUDIT_ID_BYTES,
    MAX_SHARES,
    SEED_BYTES,
    Challenge,
    commitment,
)
from meshkit.audit.values import Outcome
from meshkit.crypto.samples import MAX_SAMPLE, checked, leaf_count, sample_bytes
from meshkit.errors import AuditInvalid, EnvelopeError, ObjectMalformed
from meshkit.identity.contexts import (
    AUDIT_ANSWER,
    AUDIT_GRANT,
    AUDIT_OPENING,
    AUDIT_RECEIPT,
    AUDIT_TRANSCRIPT,
    Context,
)
from meshkit.identity.envelope import MAX_ENVELOPE, Envelope
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.records import NETWORK_BYTES
from meshkit.storage.canonical import Description, Form
from meshkit.storage.header import Bytes32
from meshkit.storage.manifest import MAX_MANIFEST, Manifest
from meshkit.storage.statements import MAX_NUMBER

__all__ = [
    "CODES",
    "MAX_EVIDENCE",
    "MAX_GRANT",
    "MAX_GRANT_SECONDS",
    "MAX_RECEIPT_FILE",
    "SUFFIX",
    "Answer",
    "Evidence",
    "Examined",
    "ExaminedShare",
    "Grant",
    "Opening",
    "Proof",
    "Receipt",
    "ReceiptFile",
    "Said",
    "Transcript",
    "examine",
    "statement_hash",
]

#: Of the files of receipts.
SUFFIX: Final = ".mkaudit"
#: A grant holds for so long at most.
MAX_GRANT_SECONDS: Final = 31 * 86_400
#: Bytes of a grant.
MAX_GRANT: Final = 512
#: Failures of one audit of which the leaves are kept; of others the verdict is.
MAX_EVIDENCE: Final = 16
#: Bytes of the evidence, and of a whole file.
MAX_EVIDENCE_BYTES: Final = MAX_EVIDENCE * (MAX_MANIFEST + 4 * MAX_SAMPLE + 64)
MAX_RECEIPT_FILE: Final = 1024 * 1024

#: What the verdicts of a receipt mean.
CODES: Final[Mapping[int, Outcome]] = {
    0: "success",
    1: "failure",
    2: "unknown",
}
_NUMBERS: Final = {outcome: code for code, outcome in CODES.items()}

_Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
_Statement = Annotated[bytes, Meta(max_length=MAX_ENVELOPE)]
_Id = Annotated[bytes, Meta(min_length=AUDIT_ID_BYTES, max_length=AUDIT_ID_BYTES)]
_Network = Annotated[bytes, Meta(min_length=NETWORK_BYTES, max_length=NETWORK_BYTES)]
_Shares = Meta(min_length=1, max_length=MAX_SHARES)


class _Opening(Description, frozen=True):
    network: _Network
    peer: Bytes32
    audit: _Id
    commitment: Bytes32
    issued: _Number
    shares: Annotated[list[Bytes32], _Shares]


class _Said(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    size: _Number
    root: Bytes32


class _Answer(Description, frozen=True):
    opening: Bytes32
    nonce: Bytes32
    answered: _Number
    shares: Annotated[list[_Said | None], _Shares]


class _Transcript(Description, frozen=True):
    opening: Bytes32
    answer: Bytes32
    seed: Bytes32
    revealed: _Number
    digests: Annotated[list[Bytes32 | None], _Shares]


class _Receipt(Description, frozen=True):
    last: Bytes32
    evidence: Bytes32
    judged: _Number
    verdicts: Annotated[list[Annotated[int, Meta(ge=0, le=max(CODES))]], _Shares]


class _Grant(Description, frozen=True):
    content: Bytes32
    auditor: Bytes32
    expires: _Number


class _File(Description, frozen=True):
    opening: _Statement
    answer: _Statement
    transcript: _Statement | None
    receipt: _Statement
    evidence: Annotated[bytes, Meta(max_length=MAX_EVIDENCE_BYTES)]


class _Evidence(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    position: Annotated[int, Meta(ge=0, lt=MAX_SHARES)]
    manifest: Annotated[bytes, Meta(max_length=MAX_MANIFEST)]
    samples: Annotated[list[Annotated[bytes, Meta(max_length=MAX_SAMPLE)]], Meta(max_length=4)]


_openings: Final = Form(AUDIT_OPENING, _Opening, MAX_ENVELOPE)
_answers: Final = Form(AUDIT_ANSWER, _Answer, MAX_ENVELOPE)
_transcripts: Final = Form(AUDIT_TRANSCRIPT, _Transcript, MAX_ENVELOPE)
_receipts: Final = Form(AUDIT_RECEIPT, _Receipt, MAX_ENVELOPE)
_grants: Final = Form(AUDIT_GRANT, _Grant, MAX_GRANT)
_files: Final = Form("meshkit-audit/1", _File, MAX_RECEIPT_FILE)
_evidence: Final = msgspec.msgpack.Decoder(
    Annotated[list[_Evidence], Meta(max_length=MAX_EVIDENCE)]
)
_encoder: Final = msgspec.msgpack.Encoder()


def statement_hash(envelope: bytes) -> bytes:
    """@return: by which the next statement refers to this one."""
    return sha256(envelope).digest()


def _open(raw: bytes, context: Context, what: str, signer: PublicKey | None) -> Envelope:
    try:
        envelope = Envelope.open(raw, context)
    except EnvelopeError as e:
        raise AuditInvalid(f"the {what} of an audit cannot be used: {e}") from None
    if not envelope.shortest:
        raise AuditInvalid(f"the {what} of an audit is not in its one form")
    if signer is not None and envelope.signer != signer:
        raise AuditInvalid(
            f"the {what} of the audit was signed by {envelope.signer.text}, and not by "
            f"{signer.text}"
        )
    return envelope


@frozen
class Opening:
    """
    Who asks whom about what.

    @ivar auditor: who asks.
    @ivar network: id of the network in which it asks.
    @ivar peer: who is asked.
    @ivar audit_id: by which both know the audit.
    @ivar commitment: to the seed.
    @ivar issued: when it was asked.
    @ivar names: of the shares, each once.
    @ivar raw: all that, signed.
    """

    auditor: PublicKey
    network: bytes = field(repr=lambda network: network.hex())
    peer: PublicKey
    audit_id: bytes = field(repr=lambda audit_id: audit_id.hex())
    commitment: bytes = field(repr=False)
    issued: int
    names: tuple[bytes, ...] = field(repr=False)
    raw: bytes = field(repr=False)

    @classmethod
    def make(
        cls,
        identity: Identity,
        network: bytes,
        peer: PublicKey,
        audit_id: bytes,
        commitment: bytes,
        issued: int,
        names: Sequence[bytes],
    ) -> Opening:
        """@param identity: of who asks."""
        wire = _Opening(
            _openings.kind, network, peer.raw, audit_id, commitment, issued, list(names)
        )
        raw = Envelope.seal(identity, AUDIT_OPENING, _openings.encode(wire)).raw
        return cls(identity.public, network, peer, audit_id, commitment, issued, tuple(names), raw)

    @classmethod
    def open(cls, raw: bytes, auditor: PublicKey | None = None) -> Opening:
        """
        @param auditor: who must have signed it; L{None} if anybody may.
        @raise AuditInvalid: if it is none, or somebody else has signed it, or it names a share
            twice.
        """
        envelope = _open(raw, AUDIT_OPENING, "opening", auditor)
        try:
            wire = _openings.decode(envelope.payload)
        except ObjectMalformed as e:
            raise AuditInvalid(f"the opening of an audit cannot be used: {e}") from None
        if len(set(wire.shares)) != len(wire.shares):
            raise AuditInvalid("the opening of an audit names a share twice")
        return cls(
            envelope.signer,
            wire.network,
            PublicKey(wire.peer),
            wire.audit,
            wire.commitment,
            wire.issued,
            tuple(wire.shares),
            raw,
        )

    def check_seed(self, seed: bytes) -> None:
        """@raise AuditInvalid: if it is not the one that was committed to."""
        if len(seed) != SEED_BYTES or commitment(seed) != self.commitment:
            raise AuditInvalid("the seed is not the one that the opening of the audit commits to")


@frozen
class Said:
    """
    What a peer says that it has of a share.

    @ivar size: bytes of the share.
    @ivar root: of its tree.
    """

    size: int
    root: bytes = field(repr=lambda root: root.hex()[:16])


@frozen
class Answer:
    """
    What the peer says before it knows the seed.

    @ivar nonce: its random bytes.
    @ivar answered: when.
    @ivar said: for each share, or L{None} if it does not have it.
    @ivar raw: all that, signed.
    """

    nonce: bytes = field(repr=False)
    answered: int
    said: tuple[Said | None, ...] = field(repr=False)
    raw: bytes = field(repr=False)

    @classmethod
    def make(
        cls,
        identity: Identity,
        opening: Opening,
        nonce: bytes,
        answered: int,
        said: Sequence[Said | None],
    ) -> Answer:
        """@param identity: of the peer."""
        shares = [None if each is None else _Said(each.size, each.root) for each in said]
        wire = _Answer(_answers.kind, statement_hash(opening.raw), nonce, answered, shares)
        raw = Envelope.seal(identity, AUDIT_ANSWER, _answers.encode(wire)).raw
        return cls(nonce, answered, tuple(said), raw)

    @classmethod
    def open(cls, raw: bytes, opening: Opening) -> Answer:
        """
        @raise AuditInvalid: if it is not what this peer has said to this opening.
        """
        envelope = _open(raw, AUDIT_ANSWER, "answer", opening.peer)
        try:
            wire = _answers.decode(envelope.payload)
        except ObjectMalformed as e:
            raise AuditInvalid(f"the answer of an audit cannot be used: {e}") from None
        if wire.opening != statement_hash(opening.raw):
            raise AuditInvalid("the answer is to another opening than this one")
        if len(wire.shares) != len(opening.names):
            raise AuditInvalid(
                f"the answer is about {len(wire.shares)} shares, and {len(opening.names)} were "
                "asked about"
            )
        said = tuple(None if each is None else Said(each.size, each.root) for each in wire.shares)
        return cls(wire.nonce, wire.answered, said, raw)

    def numbers(self, challenge: Challenge, opening: Opening) -> list[list[int]]:
        """@return: for each share the leaves that are asked for; none of one that is not there."""
        return [
            [] if each is None else challenge.leaves(name, leaf_count(each.size))
            for name, each in zip(opening.names, self.said, strict=True)
        ]


@frozen
class Transcript:
    """
    What the peer has shown.

    @ivar seed: what it was told.
    @ivar revealed: when.
    @ivar digests: of the samples of each share; L{None} where it has shown none.
    @ivar raw: all that, signed.
    """

    seed: bytes = field(repr=False)
    revealed: int
    digests: tuple[bytes | None, ...] = field(repr=False)
    raw: bytes = field(repr=False)

    @classmethod
    def make(
        cls,
        identity: Identity,
        opening: Opening,
        answer: Answer,
        seed: bytes,
        revealed: int,
        digests: Sequence[bytes | None],
    ) -> Transcript:
        """@param identity: of the peer."""
        wire = _Transcript(
            _transcripts.kind,
            statement_hash(opening.raw),
            statement_hash(answer.raw),
            seed,
            revealed,
            list(digests),
        )
        raw = Envelope.seal(identity, AUDIT_TRANSCRIPT, _transcripts.encode(wire)).raw
        return cls(seed, revealed, tuple(digests), raw)

    @classmethod
    def open(cls, raw: bytes, opening: Opening, answer: Answer) -> Transcript:
        """
        @raise AuditInvalid: if it is not what this peer has shown after this answer.
        """
        envelope = _open(raw, AUDIT_TRANSCRIPT, "transcript", opening.peer)
        try:
            wire = _transcripts.decode(envelope.payload)
        except ObjectMalformed as e:
            raise AuditInvalid(f"the transcript of an audit cannot be used: {e}") from None
        if wire.opening != statement_hash(opening.raw):
            raise AuditInvalid("the transcript is of another opening than this one")
        if wire.answer != statement_hash(answer.raw):
            raise AuditInvalid("the transcript is of another answer than this one")
        opening.check_seed(wire.seed)
        if len(wire.digests) != len(answer.said):
            raise AuditInvalid(
                f"the transcript is about {len(wire.digests)} shares, and {len(answer.said)} were "
                "asked about"
            )
        for digest, said in zip(wire.digests, answer.said, strict=True):
            if digest is not None and said is None:
                raise AuditInvalid("the transcript shows a share that the answer says is not there")
        return cls(wire.seed, wire.revealed, tuple(wire.digests), raw)


@frozen
class Grant:
    """
    Somebody may audit the shares of an object, though it has no lease on them.

    @ivar placement: who says so: the placement key of the object.
    @ivar content_id: of the object.
    @ivar auditor: who may.
    @ivar expires: until when, in seconds of Unix time.
    """

    placement: PublicKey
    content_id: bytes = field(repr=lambda content_id: content_id.hex()[:16])
    auditor: PublicKey
    expires: int

    @classmethod
    def open(cls, raw: bytes) -> Grant:
        """@raise AuditInvalid: if it is none."""
        if len(raw) > MAX_GRANT:
            raise AuditInvalid(f"a grant of {len(raw)} bytes is over the limit of {MAX_GRANT}")
        envelope = _open(raw, AUDIT_GRANT, "grant", None)
        try:
            wire = _grants.decode(envelope.payload)
        except ObjectMalformed as e:
            raise AuditInvalid(f"the grant of an audit cannot be used: {e}") from None
        return cls(envelope.signer, wire.content, PublicKey(wire.auditor), wire.expires)

    def sign(self, identity: Identity) -> bytes:
        """
        @param identity: of C{placement}.
        @return: the signed grant, at most L{MAX_GRANT} bytes.
        """
        wire = _Grant(_grants.kind, self.content_id, self.auditor.raw, self.expires)
        return Envelope.seal(identity, AUDIT_GRANT, _grants.encode(wire)).raw

    def holds(self, auditor: PublicKey, now: int) -> bool:
        """@param now: seconds of Unix time."""
        return self.auditor == auditor and now < self.expires <= now + MAX_GRANT_SECONDS


@frozen
class Evidence:
    """
    Why the verdict on a share is failure.

    @ivar position: of the share in the opening.
    @ivar manifest: of its object; empty if who judged did not have it any more.
    @ivar samples: what the peer has shown.
    """

    position: int
    manifest: bytes = field(repr=False)
    samples: tuple[bytes, ...] = field(repr=False)


def encode_evidence(evidence: Sequence[Evidence]) -> bytes:
    """@return: as it stands in a receipt file, of the first L{MAX_EVIDENCE}."""
    return _encoder.encode(
        [
            _Evidence(each.position, each.manifest, list(each.samples))
            for each in evidence[:MAX_EVIDENCE]
        ]
    )


def decode_evidence(raw: bytes) -> tuple[Evidence, ...]:
    """@raise AuditInvalid: if it is none."""
    try:
        wire = _evidence.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AuditInvalid("the evidence of an audit cannot be read") from None
    if _encoder.encode(wire) != raw:
        raise AuditInvalid("the evidence of an audit is not in its one form")
    return tuple(Evidence(each.position, each.manifest, tuple(each.samples)) for each in wire)


@frozen
class Receipt:
    """
    What who asked makes of it.

    @ivar last: hash of the last statement of the peer.
    @ivar evidence: hash of the evidence.
    @ivar judged: when.
    @ivar outcomes: one for each share: success, failure or unknown.
    @ivar raw: all that, signed.
    """

    last: bytes = field(repr=False)
    evidence: bytes = field(repr=False)
    judged: int
    outcomes: tuple[Outcome, ...]
    raw: bytes = field(repr=False)

    @classmethod
    def make(
        cls,
        identity: Identity,
        last: bytes,
        evidence: bytes,
        judged: int,
        outcomes: Sequence[Outcome],
    ) -> Receipt:
        """
        @param identity: of who asked.
        @param last: the last statement of the peer.
        @param evidence: as L{encode_evidence} gives it.
        """
        hashes = statement_hash(last), statement_hash(evidence)
        wire = _Receipt(_receipts.kind, *hashes, judged, [_NUMBERS[each] for each in outcomes])
        raw = Envelope.seal(identity, AUDIT_RECEIPT, _receipts.encode(wire)).raw
        return cls(*hashes, judged, tuple(outcomes), raw)

    @classmethod
    def open(cls, raw: bytes, opening: Opening, last: bytes, evidence: bytes) -> Receipt:
        """@raise AuditInvalid: if it is not what who asked has made of this."""
        envelope = _open(raw, AUDIT_RECEIPT, "receipt", opening.auditor)
        try:
            wire = _receipts.decode(envelope.payload)
        except ObjectMalformed as e:
            raise AuditInvalid(f"the receipt of an audit cannot be used: {e}") from None
        if wire.last != statement_hash(last):
            raise AuditInvalid("the receipt is of another audit than this one")
        if wire.evidence != statement_hash(evidence):
            raise AuditInvalid("the receipt was given for other evidence than this")
        if len(wire.verdicts) != len(opening.names):
            raise AuditInvalid(
                f"the receipt has {len(wire.verdicts)} verdicts on {len(opening.names)} shares"
            )
        outcomes = tuple(CODES[code] for code in wire.verdicts)
        return cls(wire.last, wire.evidence, wire.judged, outcomes, raw)


@frozen
class ReceiptFile:
    """
    All that is left of an audit.

    @ivar transcript: L{None} if none came.
    @ivar evidence: as L{encode_evidence} gives it.
    """

    opening: bytes = field(repr=False)
    answer: bytes = field(repr=False)
    transcript: bytes | None = field(repr=False)
    receipt: bytes = field(repr=False)
    evidence: bytes = field(repr=False)

    @classmethod
    def decode(cls, raw: bytes) -> ReceiptFile:
        """@raise AuditInvalid: if these bytes are none.  What is in it is not looked at."""
        try:
            wire = _files.decode(raw)
        except ObjectMalformed as e:
            raise AuditInvalid(f"this is no receipt of an audit: {e}") from None
        return cls(wire.opening, wire.answer, wire.transcript, wire.receipt, wire.evidence)

    def encode(self) -> bytes:
        """@return: the file, at most L{MAX_RECEIPT_FILE} bytes."""
        return _files.encode(
            _File(
                _files.kind,
                self.opening,
                self.answer,
                self.transcript,
                self.receipt,
                self.evidence,
            )
        )


#: What of the verdict on a share a third person can see for himself.
#: One of these:
#:
#:   - C{missing}: the peer has signed that it does not have the share, or cannot read it.
#:   - C{another}: the peer has signed a root or size that is not the one in the manifest.
#:   - C{wrong}: the peer has signed leaves that do not lead to the root that it has signed.
#:   - C{said}: the peer has signed what it has, and who asked says whether it was right.
#:   - C{nothing}: there is the word of who asked, and nothing else.
Proof = Literal["missing", "another", "wrong", "said", "nothing"]


@frozen
class ExaminedShare:
    """
    One share of an audit, as a third person sees it.

    @ivar name: of the share.
    @ivar outcome: the verdict of who asked.
    @ivar proof: see L{Proof}.
    @ivar root: what the peer has signed; L{None} if it does not have the share.
    @ivar size: likewise.
    @ivar content_id: of the object, if the evidence has its manifest.
    """

    name: bytes = field(repr=lambda name: name.hex()[:16])
    outcome: Outcome
    proof: Proof
    root: bytes | None = None
    size: int | None = None
    content_id: bytes | None = None


@frozen
class Examined:
    """
    An audit, as a third person sees it.

    @ivar opening: who asked whom, when.
    @ivar answered: when the peer said what it has.
    @ivar revealed: when it has shown the leaves; L{None} if it has not.
    @ivar judged: when who asked has judged.
    @ivar shares: in the order of the opening.
    """

    opening: Opening
    answered: int
    revealed: int | None
    judged: int
    shares: tuple[ExaminedShare, ...]


def examine(raw: bytes) -> Examined:
    """
    Judge an audit anew.  Needs no keys, no clock and no network.

    @param raw: a receipt file.
    @raise AuditInvalid: if its pieces do not belong together, a signature is wrong, or the
        verdict is not what follows from what was signed.
    """
    file = ReceiptFile.decode(raw)
    opening = Opening.open(file.opening)
    answer = Answer.open(file.answer, opening)
    transcript, last = None, answer.raw
    if file.transcript is not None:
        transcript = Transcript.open(file.transcript, opening, answer)
        last = transcript.raw
    receipt = Receipt.open(file.receipt, opening, last, file.evidence)
    given = decode_evidence(file.evidence)
    evidence = {each.position: each for each in given}
    if len(evidence) < len(given):
        raise AuditInvalid("there is evidence twice of one share")
    if any(position >= len(opening.names) for position in evidence):
        raise AuditInvalid("the evidence is of a share that was not asked about")
    numbers: list[list[int]] = [[] for _ in opening.names]
    if transcript is not None:
        numbers = answer.numbers(Challenge(transcript.seed, answer.nonce), opening)
    shares = tuple(
        _examine_share(
            opening.names[at],
            answer.said[at],
            None if transcript is None else transcript.digests[at],
            transcript is not None,
            receipt.outcomes[at],
            numbers[at],
            evidence.get(at),
        )
        for at in range(len(opening.names))
    )
    revealed = None if transcript is None else transcript.revealed
    return Examined(opening, answer.answered, revealed, receipt.judged, shares)


def _examine_share(
    name: bytes,
    said: Said | None,
    digest: bytes | None,
    shown: bool,
    outcome: Outcome,
    numbers: Sequence[int],
    evidence: Evidence | None,
) -> ExaminedShare:
    content_id, proof = None, _proof_of(said, digest, shown)
    if outcome == "success" and proof != "said":
        raise AuditInvalid("the receipt says success of a share that the peer has not shown")
    if evidence is not None:
        if outcome != "failure" or said is None:
            raise AuditInvalid("the receipt has evidence of what needs none")
        manifest = _manifest_in(evidence, name)
        if manifest is not None:
            content_id = manifest.content_id
        proof = _proof_in(evidence, manifest, name, said, digest, numbers)
    return ExaminedShare(
        name,
        outcome,
        proof,
        None if said is None else said.root,
        None if said is None else said.size,
        content_id,
    )


def _proof_of(said: Said | None, digest: bytes | None, shown: bool) -> Proof:
    if said is None or (shown and digest is None):
        return "missing"
    return "said" if shown else "nothing"


def _manifest_in(evidence: Evidence, name: bytes) -> Manifest | None:
    if not evidence.manifest:
        return None
    try:
        manifest = Manifest.decode(evidence.manifest)
    except (ObjectMalformed, ValueError) as e:
        raise AuditInvalid(f"the evidence has no manifest that can be used: {e}") from None
    if _number_of(manifest, name) is None:
        raise AuditInvalid("the evidence has the manifest of another object")
    return manifest


def _number_of(manifest: Manifest, name: bytes) -> int | None:
    total = manifest.header.scheme.total
    return next((n for n in range(total) if manifest.header.share_id(n) == name), None)


def _proof_in(
    evidence: Evidence,
    manifest: Manifest | None,
    name: bytes,
    said: Said,
    digest: bytes | None,
    numbers: Sequence[int],
) -> Proof:
    """
    @raise AuditInvalid: if the evidence does not show what it is there to show.
    """
    if manifest is not None:
        number = _number_of(manifest, name)
        assert number is not None  # as _manifest_in has seen
        if (said.size, said.root) != (manifest.layout.share_bytes, manifest.shares[number]):
            return "another"
    samples = evidence.samples
    lengths = [sample_bytes(said.size, number) for number in numbers]
    if [len(sample) for sample in samples] != lengths:
        raise AuditInvalid("the evidence does not have the leaves that were asked for")
    found, good = checked(said.root, said.size, numbers, samples)
    if digest is None or found != digest:
        raise AuditInvalid("the evidence has other leaves than the peer has signed")
    if good:
        raise AuditInvalid("the evidence is against a share, and nothing is wrong with it")
    return "wrong"
