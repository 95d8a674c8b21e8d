"""What both sides sign, and what a third person can make of it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.challenge import MAX_SHARES
from meshkit.audit.transcript import (
    MAX_EVIDENCE,
    MAX_GRANT,
    MAX_GRANT_SECONDS,
    MAX_RECEIPT_FILE,
    Answer,
    Evidence,
    Grant,
    Opening,
    Receipt,
    ReceiptFile,
    Said,
    Transcript,
    decode_evidence,
    encode_evidence,
    examine,
)
from meshkit.crypto.samples import Samples, digest_of
from meshkit.errors import AuditInvalid
from meshkit.identity.envelope import MAX_ENVELOPE
from meshkit.testing.identities import make_identity
from tests.audit.papers import (
    AUDITOR,
    NETWORK,
    NOW,
    PEER,
    Papers,
    with_another_root,
    with_wrong_leaves,
)
from tests.storage.keeper.keepers import shelf

OTHER = make_identity("somebody else")


def proofs(file: ReceiptFile) -> list[tuple[str, str]]:
    """The verdicts of a receipt, and what of them is proven."""
    return [(each.outcome, each.proof) for each in examine(file.encode()).shares]


class Statements(SynchronousTestCase):
    def test_each_is_read_as_it_was_made(self) -> None:
        papers = Papers(said=[Said(300, b"x" * 32), None], shown=[Samples(b"d" * 32, []), None])
        self.assertEqual(Opening.open(papers.opening.raw), papers.opening)
        self.assertEqual(Opening.open(papers.opening.raw, AUDITOR.public), papers.opening)
        self.assertEqual(Answer.open(papers.answer.raw, papers.opening), papers.answer)
        self.assertEqual(
            Transcript.open(papers.transcript.raw, papers.opening, papers.answer),
            papers.transcript,
        )

    def refused(self, why: str, read: Callable[..., Any], *args: Any) -> None:
        with self.assertRaises(AuditInvalid) as caught:
            read(*args)
        self.assertIn(why, str(caught.exception))

    def test_an_opening_of_somebody_else_is_refused(self) -> None:
        self.refused("signed by", Opening.open, Papers().opening.raw, OTHER.public)

    def test_an_opening_that_names_a_share_twice_is_refused(self) -> None:
        twice = Opening.make(
            AUDITOR, NETWORK, PEER.public, bytes(16), bytes(32), NOW, [bytes(32)] * 2
        )
        self.refused("twice", Opening.open, twice.raw)

    def test_an_opening_of_nothing_or_too_much_is_refused(self) -> None:
        for count in (0, MAX_SHARES + 1):
            names = [at.to_bytes(32, "big") for at in range(count)]
            wrong = Opening.make(AUDITOR, NETWORK, PEER.public, bytes(16), bytes(32), NOW, names)
            self.refused("no audit-opening", Opening.open, wrong.raw)

    def test_what_belongs_to_another_audit_is_refused(self) -> None:
        papers, other = Papers(), Papers(number=2)
        self.refused("another opening", Answer.open, other.answer.raw, papers.opening)
        self.refused(
            "another opening", Transcript.open, other.transcript.raw, papers.opening, papers.answer
        )
        later = Answer.make(PEER, papers.opening, b"q" * 32, NOW + 5, papers.said)
        self.refused(
            "another answer", Transcript.open, papers.transcript.raw, papers.opening, later
        )

    def test_what_another_peer_has_signed_is_refused(self) -> None:
        papers = Papers()
        forged = Answer.make(OTHER, papers.opening, papers.nonce, NOW, papers.said)
        self.refused("and not by", Answer.open, forged.raw, papers.opening)
        shown = Transcript.make(
            OTHER, papers.opening, papers.answer, papers.seed, NOW, papers.transcript.digests
        )
        self.refused("and not by", Transcript.open, shown.raw, papers.opening, papers.answer)

    def test_a_seed_that_was_not_committed_to_is_refused(self) -> None:
        papers = Papers()
        for seed in (b"t" * 32, b""):
            self.refused("commits to", papers.opening.check_seed, seed)
        other = Transcript.make(
            PEER, papers.opening, papers.answer, b"t" * 32, NOW, papers.transcript.digests
        )
        self.refused("commits to", Transcript.open, other.raw, papers.opening, papers.answer)

    def test_lists_of_another_length_are_refused(self) -> None:
        papers = Papers()
        for said in (papers.said[:1], [*papers.said, None]):
            forged = Answer.make(PEER, papers.opening, papers.nonce, NOW, said)
            self.refused("were asked about", Answer.open, forged.raw, papers.opening)
        for digests in (papers.transcript.digests[:1], [*papers.transcript.digests, None]):
            shown = Transcript.make(PEER, papers.opening, papers.answer, papers.seed, NOW, digests)
            self.refused(
                "were asked about", Transcript.open, shown.raw, papers.opening, papers.answer
            )

    def test_nobody_shows_what_he_does_not_have(self) -> None:
        papers = Papers(said=[None, None], shown=[None, Samples(b"d" * 32, [])])
        self.refused(
            "not there", Transcript.open, papers.transcript.raw, papers.opening, papers.answer
        )

    def test_an_envelope_has_one_form(self) -> None:
        opening = Papers().opening
        context, signer, payload, signature = msgspec.msgpack.decode(opening.raw)
        # A text with a length of two bytes, where one would do.
        longer = b"\x94\xda" + len(context).to_bytes(2, "big") + context.encode()
        longer += b"".join(msgspec.msgpack.encode(each) for each in (signer, payload, signature))
        self.refused("one form", Opening.open, longer)

    def test_the_largest_of_each_fits_its_envelope(self) -> None:
        names = [at.to_bytes(32, "big") for at in range(MAX_SHARES)]
        opening = Opening.make(
            AUDITOR, NETWORK, PEER.public, bytes(16), bytes(32), 2**63 - 1, names
        )
        said = [Said(2**63 - 1, bytes(32))] * MAX_SHARES
        answer = Answer.make(PEER, opening, bytes(32), 2**63 - 1, said)
        digests = [bytes(32)] * MAX_SHARES
        transcript = Transcript.make(PEER, opening, answer, bytes(32), 2**63 - 1, digests)
        for each in (opening, answer, transcript):
            self.assertLess(len(each.raw), MAX_ENVELOPE)

    @given(st.binary(max_size=300), st.sampled_from(range(6)))
    def test_anything_else_is_refused_by_name(self, raw: bytes, which: int) -> None:
        papers = Papers()
        read: list[Callable[[], Any]] = [
            lambda: Opening.open(raw),
            lambda: Answer.open(raw, papers.opening),
            lambda: Transcript.open(raw, papers.opening, papers.answer),
            lambda: Receipt.open(raw, papers.opening, b"", b""),
            lambda: Grant.open(raw),
            lambda: examine(raw),
        ]
        with self.assertRaises(AuditInvalid):
            read[which]()


class Receipts(SynchronousTestCase):
    def test_success_is_what_both_have_said(self) -> None:
        file = Papers().file()
        self.assertEqual(proofs(file), [("success", "said")] * 2)
        examined = examine(file.encode())
        self.assertEqual(examined.opening, Papers().opening)
        self.assertEqual(
            (examined.answered, examined.revealed, examined.judged), (NOW + 1, NOW + 2, NOW + 3)
        )

    def test_who_says_that_he_has_it_not_has_proven_it(self) -> None:
        there = Said(len(shelf(300, 1).shares[0]), shelf(300, 1).manifest.shares[0])
        file = Papers(said=[there, None]).file()
        self.assertEqual(proofs(file), [("success", "said"), ("failure", "missing")])
        unreadable = Papers()
        unreadable = Papers(shown=[unreadable.shown[0], None])
        self.assertEqual(proofs(unreadable.file())[1], ("failure", "missing"))

    def test_another_root_than_the_manifest_has_is_proof(self) -> None:
        papers = with_another_root()
        file = papers.file()
        self.assertEqual(proofs(file), [("failure", "another"), ("failure", "missing")])
        self.assertEqual(
            examine(file.encode()).shares[0].content_id, shelf(300, 1).manifest.content_id
        )

    def test_leaves_that_do_not_lead_to_the_root_are_proof(self) -> None:
        self.assertEqual(
            proofs(with_wrong_leaves().file()), [("success", "said"), ("failure", "wrong")]
        )

    def test_without_a_manifest_wrong_leaves_are_proof_still(self) -> None:
        papers = with_wrong_leaves()
        (evidence,) = (each.evidence for each in papers.judged() if each.evidence)
        file = papers.file(evidence=[evolve(evidence, manifest=b"")])
        self.assertEqual(proofs(file)[1], ("failure", "wrong"))

    def test_without_a_transcript_there_is_the_word_of_who_asked(self) -> None:
        file = Papers().file(["failure", "failure"], [], shown=False)
        self.assertEqual(proofs(file), [("failure", "nothing")] * 2)
        self.assertIsNone(examine(file.encode()).revealed)

    def refused(self, why: str, file: ReceiptFile) -> None:
        with self.assertRaises(AuditInvalid) as caught:
            examine(file.encode())
        self.assertIn(why, str(caught.exception))

    def test_a_verdict_that_does_not_follow_is_refused(self) -> None:
        missing = Papers(said=[None, None])
        self.refused("has not shown", missing.file(["success", "failure"], []))
        self.refused("has not shown", Papers().file(["success", "failure"], [], shown=False))

    def test_nobody_is_blamed_for_what_he_has_shown_right(self) -> None:
        papers = Papers()
        first = papers.shown[0]
        assert first is not None
        blamed = Evidence(0, papers.objects[0].manifest.raw, tuple(first.samples))
        self.refused("nothing is wrong", papers.file(["failure", "success"], [blamed]))

    def test_a_wrong_proof_beside_a_right_leaf_blames_nobody(self) -> None:
        large = shelf(300_000, 1)
        papers = Papers([large])
        shown = papers.shown[0]
        assert shown is not None
        spoilt = bytearray(shown.samples[0])
        spoilt[-1] ^= 1
        blamed = Evidence(0, large.manifest.raw, (bytes(spoilt), *shown.samples[1:]))
        self.refused("other leaves than the peer has signed", papers.file(["failure"], [blamed]))

    def test_a_boundary_between_leaf_and_proof_cannot_be_moved(self) -> None:
        large = shelf(300_000, 1)
        papers = Papers([large])
        shown = papers.shown[0]
        assert shown is not None
        first, second, *rest = shown.samples
        moved = Evidence(0, b"", (first[:-32], first[-32:] + second, *rest))
        self.refused("does not have the leaves", papers.file(["failure"], [moved]))

    def test_the_manifest_of_another_object_is_no_evidence(self) -> None:
        papers = with_wrong_leaves()
        (evidence,) = (each.evidence for each in papers.judged() if each.evidence)
        other = evolve(evidence, manifest=shelf(300, 1).manifest.raw)
        self.refused("another object", papers.file(evidence=[other]))
        self.refused("no manifest", papers.file(evidence=[evolve(evidence, manifest=b"x")]))

    def test_evidence_of_what_was_not_asked_or_not_blamed_is_refused(self) -> None:
        papers = with_wrong_leaves()
        (evidence,) = (each.evidence for each in papers.judged() if each.evidence)
        self.refused("not asked about", papers.file(evidence=[evolve(evidence, position=2)]))
        self.refused("needs none", papers.file(evidence=[evolve(evidence, position=0)]))
        twice = papers.file(evidence=[evidence, evidence])
        self.refused("twice", twice)

    def test_pieces_of_another_audit_are_refused(self) -> None:
        one, other = Papers().file(), Papers(number=2).file()
        for name in ("opening", "answer", "transcript", "receipt"):
            with self.assertRaises(AuditInvalid):
                examine(evolve(one, **{name: getattr(other, name)}).encode())
        self.refused("of another audit", evolve(one, transcript=None))

    def test_only_who_asked_can_give_the_receipt(self) -> None:
        papers = Papers()
        file = papers.file()
        forged = Receipt.make(
            OTHER, papers.transcript.raw, file.evidence, NOW, ["failure", "failure"]
        )
        self.refused("and not by", evolve(file, receipt=forged.raw))

    def test_the_largest_receipt_is_within_its_limit(self) -> None:
        names = [at.to_bytes(32, "big") for at in range(MAX_SHARES)]
        opening = Opening.make(AUDITOR, NETWORK, PEER.public, bytes(16), bytes(32), NOW, names)
        said = [Said(2**63 - 1, bytes(32))] * MAX_SHARES
        answer = Answer.make(PEER, opening, bytes(32), NOW, said)
        transcript = Transcript.make(
            PEER, opening, answer, bytes(32), NOW, [bytes(32)] * MAX_SHARES
        )
        large = Evidence(MAX_SHARES - 1, bytes(16 * 1024), (bytes(5_760),) * 4)
        evidence = encode_evidence([large] * (MAX_EVIDENCE + 5))
        self.assertEqual(len(decode_evidence(evidence)), MAX_EVIDENCE)
        receipt = Receipt.make(AUDITOR, transcript.raw, evidence, NOW, ["failure"] * MAX_SHARES)
        file = ReceiptFile(opening.raw, answer.raw, transcript.raw, receipt.raw, evidence)
        self.assertLess(len(file.encode()), MAX_RECEIPT_FILE)
        self.assertEqual(ReceiptFile.decode(file.encode()), file)


class EveryByte(SynchronousTestCase):
    """A receipt of which one byte was changed is refused, whichever it is."""

    def try_all(self, file: ReceiptFile) -> None:
        raw, rng = file.encode(), Random(1)
        examine(raw)
        for at in range(len(raw)):
            changed = bytearray(raw)
            changed[at] ^= rng.choice([1, 2, 0x80, rng.randrange(1, 256)])
            with self.assertRaises(AuditInvalid, msg=f"byte {at}"):
                examine(bytes(changed))

    def test_of_a_success(self) -> None:
        self.try_all(Papers([shelf(300, 1)]).file())

    def test_of_a_share_that_is_missing(self) -> None:
        self.try_all(Papers([shelf(300, 1)], said=[None]).file())

    def test_of_another_root(self) -> None:
        self.try_all(with_another_root().file())

    def test_of_wrong_leaves(self) -> None:
        self.try_all(with_wrong_leaves().file())

    def test_of_one_that_proves_nothing(self) -> None:
        self.try_all(Papers([shelf(300, 1)]).file(["failure"], [], shown=False))

    def test_one_that_is_cut_or_goes_on_is_refused(self) -> None:
        raw = with_wrong_leaves().file().encode()
        for end in range(len(raw)):
            with self.assertRaises(AuditInvalid, msg=f"the first {end} bytes"):
                examine(raw[:end])
        with self.assertRaises(AuditInvalid):
            examine(raw + b"\x00")


class Grants(SynchronousTestCase):
    def setUp(self) -> None:
        self.grant = Grant(OTHER.public, b"c" * 32, AUDITOR.public, 1_000_000)

    def test_one_is_read_as_it_was_signed(self) -> None:
        raw = self.grant.sign(OTHER)
        self.assertLess(len(raw), MAX_GRANT)
        self.assertEqual(Grant.open(raw), self.grant)

    def test_one_holds_for_its_auditor_until_it_expires(self) -> None:
        self.assertTrue(self.grant.holds(AUDITOR.public, 999_999))
        self.assertFalse(self.grant.holds(AUDITOR.public, 1_000_000))
        self.assertFalse(self.grant.holds(PEER.public, 999_999))

    def test_one_for_too_long_does_not_hold(self) -> None:
        self.assertTrue(self.grant.holds(AUDITOR.public, 1_000_000 - MAX_GRANT_SECONDS))
        self.assertFalse(self.grant.holds(AUDITOR.public, 999_999 - MAX_GRANT_SECONDS))

    def test_one_that_is_too_long_is_not_looked_at(self) -> None:
        with self.assertRaises(AuditInvalid):
            Grant.open(bytes(MAX_GRANT + 1))

    def test_a_changed_byte_spoils_it(self) -> None:
        raw = self.grant.sign(OTHER)
        for at in range(len(raw)):
            changed = bytearray(raw)
            changed[at] ^= 1
            with self.assertRaises(AuditInvalid):
                Grant.open(bytes(changed))


class Digests(SynchronousTestCase):
    def test_that_of_a_share_is_of_leaves_and_nodes(self) -> None:
        large = shelf(300_000, 1)
        papers = Papers([large])
        shown = papers.shown[0]
        assert shown is not None
        self.assertEqual(
            digest_of(len(large.shares[0]), papers.numbers[0], shown.samples), shown.digest
        )
