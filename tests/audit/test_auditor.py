"""Auditing a real keeper, and others that do not play fair, over a real channel."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, fail, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import auditor as auditor_module
from meshkit.audit import wire
from meshkit.audit.auditor import AuditorLimits
from meshkit.audit.challenge import chance_to_catch
from meshkit.audit.containment import Contained, MemoryContainments
from meshkit.audit.factory import AuditLimits
from meshkit.audit.transcript import Answer, Opening, ReceiptFile, Said, Transcript
from meshkit.audit.values import AskedShare
from meshkit.audit.wire import Page
from meshkit.crypto.samples import Samples, digest_of, leaf_count
from meshkit.errors import (
    AuditRefused,
    NotFound,
    Overloaded,
    ShareDamaged,
    ShareUnknown,
    StorageBusy,
    StorageDiskFailed,
)
from meshkit.rpc.links import CLOSE_SECONDS
from meshkit.testing.identities import make_identity
from tests.audit.audits import World
from tests.audit.liars import make_liar
from tests.storage.keeper.keepers import BOB, OTHER_SECRET, shelf

KEEPER = make_identity("keeper")
MANY = 40


class Case(SynchronousTestCase):
    """One peer, and who asks."""

    def setUp(self) -> None:
        self.world = World()

    def large(self, count: int = 2) -> list[Any]:
        """Shares whose leaves need some pages, as pages are smaller than usual."""
        self.patch(wire, "PAGE_BYTES", 40_000)
        shares = []
        for at in range(count):
            shares += [self.world.put(shelf(200_000, at + 1), n) for n in range(5)]
        return shares

    def only(self, outcomes: list[str]) -> str:
        """What all came to."""
        (found,) = set(outcomes)
        return found

    def notes(self) -> list[Contained]:
        found = self.world.done(self.world.containments.of(self.world.peer))
        return list(found)


class AllIsWell(Case):
    def test_a_share_that_is_there_is_found_there(self) -> None:
        share = self.world.put(shelf())
        (outcome,) = self.world.audit([share])
        self.assertEqual((outcome.outcome, outcome.reason), ("success", None))
        self.assertEqual(outcome.content_id, share.tracked.content_id)
        (kept,) = self.world.receipts
        self.assertEqual(kept.audit_id, outcome.audit_id)
        (seen,) = kept.examined.shares
        self.assertEqual((seen.outcome, seen.proof, seen.root), ("success", "said", share.root))
        self.assertEqual(kept.outcomes, {"success": 1})
        self.assertEqual(len(self.world.containments), 0)

    def test_many_shares_need_many_pages_and_one_connection(self) -> None:
        liar = make_liar(self.world)
        shares = self.large()
        self.assertEqual(self.only(self.world.outcomes(shares)), "success")
        self.assertGreater(liar.calls.count("leaves"), 0)
        self.assertEqual(liar.calls[:2], ["open", "reveal"])
        self.assertEqual((self.world.dialled, len(self.world.receipts)), (1, 1))

    def test_more_than_a_batch_is_asked_in_batches(self) -> None:
        self.patch(auditor_module, "MAX_SHARES", 3)
        liar = make_liar(self.world)
        asked = self.world.objects(8)
        outcomes = self.world.audit(asked)
        self.assertEqual([each.content_id for each in outcomes], [_id(each) for each in asked])
        self.assertEqual({each.outcome for each in outcomes}, {"success"})
        self.assertEqual(liar.calls.count("open"), 3)
        sizes = sorted(len(kept.examined.shares) for kept in self.world.receipts)
        self.assertEqual(sizes, [2, 3, 3])

    def test_a_share_that_is_asked_for_twice_is_asked_about_once(self) -> None:
        one, two = self.world.objects(2)
        outcomes = self.world.audit([one, two, one])
        self.assertEqual([each.outcome for each in outcomes], ["success"] * 3)
        self.assertEqual([each.content_id for each in outcomes], [_id(one), _id(two), _id(one)])
        (kept,) = self.world.receipts
        self.assertEqual(len(kept.examined.shares), 2)

    def test_of_nothing_nobody_is_asked(self) -> None:
        self.assertEqual(self.world.audit([]), [])
        self.assertEqual(self.world.dialled, 0)

    def test_nothing_is_asked_that_was_asked_before(self) -> None:
        (share,) = self.world.objects(1)
        for _ in range(3):
            self.world.audit([share])
        seen = [kept.examined.opening for kept in self.world.receipts]
        self.assertEqual(len({each.audit_id for each in seen}), 3)
        self.assertEqual(len({each.commitment for each in seen}), 3)


class WhatIsWrong(Case):
    def test_a_share_that_is_not_there_is_a_failure_that_anybody_sees(self) -> None:
        there, gone = self.world.put(shelf()), self.world.ask_for(shelf(seed=2))
        outcomes = self.world.audit([there, gone])
        self.assertEqual([each.outcome for each in outcomes], ["success", "failure"])
        self.assertIn("does not have", outcomes[1].reason or "")
        self.assertFalse(outcomes[1].blameless)
        (kept,) = self.world.receipts
        self.assertEqual([each.proof for each in kept.examined.shares], ["said", "missing"])

    def test_a_peer_is_not_blamed_when_the_lease_was_over(self) -> None:
        over = self.world.ask_for(shelf(), lease_end=self.world.keeping.now())
        (outcome,) = self.world.audit([over])
        self.assertEqual((outcome.outcome, outcome.blameless), ("failure", True))
        (kept,) = self.world.receipts
        self.assertEqual(kept.examined.shares[0].outcome, "unknown")
        lasting = self.world.ask_for(shelf(), lease_end=self.world.keeping.now() + 60)
        (outcome,) = self.world.audit([lasting])
        self.assertEqual((outcome.outcome, outcome.blameless), ("failure", False))

    def test_a_byte_that_was_changed_on_the_disk_is_a_failure_with_evidence(self) -> None:
        share = self.world.put(shelf())
        _spoil(self.world, share.name, 5)
        (outcome,) = self.world.audit([share])
        self.assertEqual(outcome.outcome, "failure")
        self.assertIn("are not those", outcome.reason or "")
        (kept,) = self.world.receipts
        (seen,) = kept.examined.shares
        self.assertEqual((seen.proof, seen.content_id), ("wrong", _id(share)))

    def test_another_share_under_the_same_name_is_a_failure_with_evidence(self) -> None:
        share = self.world.put(shelf())
        other = shelf(seed=3)
        tracked = evolve(
            share.tracked,
            manifest=evolve(
                share.tracked.manifest, shares=other.manifest.shares, root=other.manifest.root
            ),
        )
        document = evolve(tracked.document, content_id=tracked.manifest.content_id)
        (outcome,) = self.world.audit([evolve(share, tracked=tracked.with_document(document))])
        self.assertEqual(outcome.outcome, "failure")
        self.assertEqual(self.world.receipts[0].examined.shares[0].proof, "another")

    def test_a_share_that_goes_between_answer_and_seed_is_a_failure(self) -> None:
        one, two = self.world.objects(2)
        for error in (ShareDamaged("it rots"), ShareUnknown("it went")):
            make_liar(self.world, sampler=_Losing(self.world.sampler, one.name, error))
            outcomes = self.world.outcomes([one, two])
            self.assertEqual(outcomes, ["failure", "success"])
            proofs = [each.proof for each in self.world.receipts[-1].examined.shares]
            self.assertEqual(proofs, ["missing", "said"])

    def test_of_many_failures_the_first_have_evidence(self) -> None:
        shares = self.world.objects(20)
        for each in shares:
            _spoil(self.world, each.name, 1)
        self.assertEqual(self.world.outcomes(shares), ["failure"] * 20)
        proofs = [each.proof for each in self.world.receipts[0].examined.shares]
        self.assertEqual(proofs, ["wrong"] * 16 + ["said"] * 4)


class Swindlers(Case):
    """They sign what they show, and show what they have."""

    def expect_wrong(self, sampler: Any, shares: list[Any]) -> None:
        make_liar(self.world, sampler=sampler)
        outcomes = self.world.audit(shares)
        self.assertEqual({each.outcome for each in outcomes}, {"failure"})
        self.assertEqual({each.proof for each in self.world.receipts[0].examined.shares}, {"wrong"})

    def test_other_leaves_of_the_share_are_a_failure_with_evidence(self) -> None:
        share = self.world.put(shelf(200_000))
        count = leaf_count(share.size)

        class Others(_Around):
            def leaves(self, wanted: Any) -> Any:
                # Neighbours of those that are asked for, as deep in the tree.
                return self.inner.leaves(
                    [
                        (name, [at ^ 1 if at | 1 < count - 1 else at for at in numbers])
                        for name, numbers in wanted
                    ]
                )

        self.expect_wrong(Others(self.world.sampler), [share])

    def test_leaves_of_another_share_are_a_failure_with_evidence(self) -> None:
        one, two = (self.world.put(shelf(9_000, seed)) for seed in (1, 2))

        class Others(_Around):
            def leaves(self, wanted: Any) -> Any:
                other = {one.name: two.name, two.name: one.name}
                return self.inner.leaves([(other[name], numbers) for name, numbers in wanted])

        self.expect_wrong(Others(self.world.sampler), [one, two])

    def test_who_keeps_hashes_and_no_leaves_is_caught(self) -> None:
        share = self.world.put(shelf(100_000))

        class Hashes(_Around):
            async def leaves(self, wanted: Any) -> Any:
                found = await self.inner.leaves(wanted)
                spoilt = [
                    _zeroed(share, *each)
                    for each in zip(wanted[0][1], found[0].samples, strict=True)
                ]
                digest = digest_of(share.size, wanted[0][1], spoilt)
                return [Samples(digest, spoilt)]

        self.expect_wrong(Hashes(self.world.sampler), [share])

    def test_who_keeps_most_leaves_is_caught_as_often_as_computed(self) -> None:
        of = shelf(1_200_000)
        share = self.world.put(of)
        count = leaf_count(share.size)
        lost = set(Random(3).sample(range(count), count // 4))

        class Most(_Around):
            async def leaves(self, wanted: Any) -> Any:
                found = await self.inner.leaves(wanted)
                numbers = wanted[0][1]
                spoilt = [
                    _zeroed(share, number, each) if number in lost else each
                    for number, each in zip(numbers, found[0].samples, strict=True)
                ]
                return [Samples(digest_of(share.size, numbers, spoilt), spoilt)]

        self.world.limits = AuditLimits(1e6, 1e6, 1e9, 1e9)
        make_liar(self.world, sampler=Most(self.world.sampler))
        trials = 150
        caught = sum(self.world.outcomes([share]) == ["failure"] for _ in range(trials))
        expected = chance_to_catch(len(lost) / count)
        spread = (expected * (1 - expected) / trials) ** 0.5
        self.assertLess(abs(caught / trials - expected), 4 * spread)


class Vanishing(Case):
    def test_a_peer_that_vanishes_at_any_moment_is_offline_or_contained(self) -> None:
        seen = set()
        for ticks in range(300):
            world = self.world = World()
            shares = [world.put(shelf(100_000, seed)) for seed in (1, 2)]
            auditing = world.auditor.audit(world.peer, shares)
            results: list[Any] = []
            auditing.addBoth(results.append)
            for _ in range(ticks):
                if not results:
                    world.tick()
            if results:
                break
            if not world.network.wires:
                continue
            for each in world.network.wires:
                each.cut()
            world.until(lambda results=results: bool(results))  # type: ignore[misc]
            (outcome,) = {each.outcome for each in results[0]}
            seen.add(outcome)
            # It is contained just when it could know what was asked.
            self.assertEqual(outcome == "contained", len(self.notes()) == 1, ticks)
            if outcome == "success":
                # All had come, and was only to be judged.
                self.assertIn("contained", seen, ticks)
            world.advance(601)
            self.assertEqual(world.outcomes(shares), ["success"] * 2, ticks)
            self.assertEqual(self.notes(), [])
        self.assertEqual(seen - {"success"}, {"offline", "contained"})


class Garbage(SynchronousTestCase):
    """Whatever a peer says, an audit of it comes to something, and fails never."""

    def setUp(self) -> None:
        self.world = World(limits=AuditLimits(1e6, 1e6, 1e9, 1e9, under_way=50))
        (self.share,) = self.world.objects(1)
        self.liar = make_liar(self.world)
        self.auditor = self.world.make_auditor(AuditorLimits(retry_seconds=0.0, tries=1))

    @given(st.binary(max_size=200))
    def test_as_an_answer(self, raw: bytes) -> None:
        self.liar.change_answer = lambda _: raw
        self.assertEqual(self.world.outcomes([self.share], self.auditor), ["unknown"])
        self.assertEqual(len(self.world.containments), 0)

    @given(
        st.lists(st.lists(st.binary(max_size=60), max_size=4), max_size=4),
        st.none() | st.binary(max_size=200),
        st.booleans(),
    )
    def test_as_a_page(self, shares: list[list[bytes]], raw: bytes | None, signed: bool) -> None:
        self.liar.change_page = lambda page: Page(shares, page.transcript if signed else raw)
        (outcome,) = self.world.outcomes([self.share], self.auditor)
        self.assertEqual(outcome, "contained")
        self.liar.change_page = lambda page: page
        self.world.outcomes([self.share], self.auditor)
        self.assertEqual(len(self.world.containments), 0)


class Offline(Case):
    def test_a_peer_that_cannot_be_reached_is_offline(self) -> None:
        (share,) = self.world.objects(1)
        self.world.reachable = False
        (outcome,) = self.world.audit([share])
        self.assertEqual((outcome.outcome, outcome.audit_id), ("offline", b""))
        self.assertEqual((self.notes(), self.world.receipts), ([], []))

    def test_a_peer_whose_address_nobody_knows_is_offline(self) -> None:
        (share,) = self.world.objects(1)
        self.patch(self.world, "address_of", lambda _: fail(NotFound("no")))
        self.assertEqual(self.world.outcomes([share]), ["offline"])

    def test_another_peer_at_the_same_place_is_not_taken_for_it(self) -> None:
        (share,) = self.world.objects(1)
        dial, there = self.world.dial, self.world.peer
        self.patch(self.world, "dial", lambda asker, _: dial(asker, there))
        auditing = self.world.auditor.audit(make_identity("another").public, [share])
        (outcome,) = self.world.done(auditing)
        self.assertEqual(outcome.outcome, "offline")
        self.assertIn("another peer", outcome.reason or "")

    def test_a_peer_that_goes_before_it_has_answered_is_offline(self) -> None:
        (share,) = self.world.objects(1)
        make_liar(self.world, leaving=frozenset({"open"}))
        self.assertEqual(self.world.outcomes([share]), ["offline"])
        self.assertEqual(self.notes(), [])

    def test_a_peer_that_says_nothing_is_offline_and_dialled_anew(self) -> None:
        (share,) = self.world.objects(1)
        make_liar(self.world, silent=frozenset({"open"}))
        self.assertEqual(self.world.outcomes([share]), ["offline"])
        self.world.factory = self.world.make_factory()
        self.assertEqual(self.world.outcomes([share]), ["success"])
        self.assertEqual(self.world.dialled, 2)

    def test_a_connection_that_was_lost_meanwhile_is_made_anew(self) -> None:
        (share,) = self.world.objects(1)
        self.world.audit([share])
        self.world.network.wires[0].cut()
        self.world.advance(1)
        self.assertEqual(self.world.outcomes([share]), ["success"])
        self.assertEqual(self.world.dialled, 2)


class Unknown(Case):
    def expect_unknown(self, why: str, shares: list[Any] | None = None) -> None:
        outcomes = self.world.audit(self.world.objects(1) if shares is None else shares)
        self.assertEqual({each.outcome for each in outcomes}, {"unknown"})
        self.assertIn(why, outcomes[0].reason or "")
        self.assertEqual((self.notes(), self.world.receipts), ([], []))

    def test_nobody_is_asked_about_what_he_may_not_be_asked_about(self) -> None:
        self.world.auditor = self.world.make_auditor(asker=make_identity("bob"))
        share = self.world.put(shelf())
        stranger = evolve(share, tracked=evolve(share.tracked, signer=make_identity("mallory")))
        self.expect_unknown("refuses", [stranger])

    def test_an_answer_that_is_changed_says_nothing(self) -> None:
        def change(raw: bytes) -> bytes:
            return raw[:-1] + bytes([raw[-1] ^ 1])

        make_liar(self.world, change_answer=change)
        self.expect_unknown("cannot be used")

    def test_an_answer_to_another_opening_says_nothing(self) -> None:
        first: list[bytes] = []

        def replay(raw: bytes) -> bytes:
            first.append(raw)
            return first[0]

        (share,) = self.world.objects(1)
        make_liar(self.world, change_answer=replay)
        self.assertEqual(self.world.outcomes([share]), ["success"])
        self.world.receipts.clear()
        self.expect_unknown("another opening", [share])

    def test_an_answer_of_another_peer_says_nothing(self) -> None:
        liar = make_liar(self.world)
        openings: list[Opening] = []
        find = Opening.open

        def sign_as_another(raw: bytes) -> bytes:
            answer = Answer.open(raw, openings[-1])
            mallory = make_identity("mallory")
            return Answer.make(
                mallory, openings[-1], answer.nonce, answer.answered, answer.said
            ).raw

        def remember(raw: bytes, auditor: Any = None) -> Opening:
            openings.append(find(raw, auditor))
            return openings[-1]

        self.patch(Opening, "open", remember)
        liar.change_answer = sign_as_another
        self.expect_unknown("and not by")

    def test_a_clock_that_is_far_away_says_nothing(self) -> None:
        wrong = self.world.make_auditor(
            wall_clock=lambda: self.world.keeping.wall_ns() + 200 * 10**9
        )
        (share,) = self.world.objects(1)
        (outcome,) = self.world.audit([share], wrong)
        self.assertEqual(outcome.outcome, "unknown")
        self.assertIn("clock", outcome.reason or "")

    def test_an_answer_from_another_time_says_nothing(self) -> None:
        openings: list[Opening] = []
        find = Opening.open

        def remember(raw: bytes, auditor: Any = None) -> Opening:
            openings.append(find(raw, auditor))
            return openings[-1]

        def later(raw: bytes) -> bytes:
            answer = Answer.open(raw, openings[-1])
            when = answer.answered + 121_000
            return Answer.make(KEEPER, openings[-1], answer.nonce, when, answer.said).raw

        self.patch(Opening, "open", remember)
        make_liar(self.world, change_answer=later)
        self.expect_unknown("121 seconds apart")

    def test_another_network_is_another_network(self) -> None:
        (share,) = self.world.objects(1)
        wrong = self.world.make_auditor(network=b"n" * 16)
        (outcome,) = self.world.audit([share], wrong)
        self.assertEqual(outcome.outcome, "unknown")
        self.assertIn("another network", outcome.reason or "")

    def test_a_peer_that_refuses_one_after_the_other_is_asked_four_times(self) -> None:
        calls: list[int] = []

        def refuse(raw: bytes) -> bytes:
            calls.append(1)
            raise AuditRefused("no", shares=[0])

        liar = make_liar(self.world, change_answer=refuse)
        shares = self.world.objects(8)
        outcomes = self.world.outcomes(shares)
        self.assertEqual(self.only(outcomes), "unknown")
        self.assertEqual(liar.calls, ["open"] * 4)

    def test_a_full_list_of_notes_says_nothing_of_the_peer(self) -> None:
        class Full(MemoryContainments):
            def put(self, contained: Contained) -> Deferred[None]:
                return fail(Overloaded("full"))

        (share,) = self.world.objects(1)
        auditor = self.world.make_auditor(containments=Full())
        self.assertEqual(self.world.outcomes([share], auditor), ["unknown"])


class Early(Case):
    def test_who_is_told_to_wait_waits(self) -> None:
        self.world.limits = AuditLimits(shares_per_second=2.0, shares_burst=3.0)
        self.world.factory = self.world.make_factory()
        shares = self.world.objects(3)
        self.assertEqual(self.only(self.world.outcomes(shares)), "success")
        before = self.world.clock.seconds()
        self.assertEqual(self.only(self.world.outcomes(shares)), "success")
        self.assertAlmostEqual(self.world.clock.seconds() - before, 1.5, 1)

    def test_who_is_told_so_for_ever_gives_up(self) -> None:
        self.world.limits = AuditLimits(shares_per_second=0.001, shares_burst=3.0)
        self.world.factory = self.world.make_factory()
        shares = self.world.objects(3)
        self.world.audit(shares)
        self.assertEqual(self.only(self.world.outcomes(shares)), "unknown")

    def test_a_busy_disk_is_asked_again(self) -> None:
        shares = self.large()
        sampler = _Failing(self.world.sampler, StorageBusy("busy"), {0, 2})
        make_liar(self.world, sampler=sampler)
        self.assertEqual(self.only(self.world.outcomes(shares)), "success")
        self.assertEqual(self.notes(), [])


class Contains(Case):
    """A peer that knows what is asked and does not answer."""

    def contain(self, why: str, shares: list[Any] | None = None, **lies: Any) -> list[Any]:
        shares = self.world.objects(2) if shares is None else shares
        make_liar(self.world, **lies)
        outcomes = self.world.audit(shares)
        self.assertEqual({each.outcome for each in outcomes}, {"contained"})
        self.assertIn(why, outcomes[0].reason or "")
        (note,) = self.notes()
        self.assertEqual((note.audit_id, note.tries), (outcomes[0].audit_id, 1))
        self.assertEqual(self.world.receipts, [])
        return shares

    def test_one_that_goes_away_is_contained(self) -> None:
        self.contain("", leaving=frozenset({"reveal"}))

    def test_one_that_goes_away_between_two_pages_is_contained(self) -> None:
        self.contain("", self.large(), leaving=frozenset({"leaves"}))

    def test_one_that_signs_no_transcript_is_contained(self) -> None:
        self.contain("no transcript", change_page=lambda page: Page(page.shares))

    def test_one_that_signs_other_leaves_than_it_shows_is_contained(self) -> None:
        def change(page: Page) -> Page:
            first = bytearray(page.shares[0][0])
            first[0] ^= 1
            return Page([[bytes(first), *page.shares[0][1:]], *page.shares[1:]], page.transcript)

        self.contain("other leaves than it has signed", change_page=change)

    def test_pages_of_another_form_contain(self) -> None:
        changes: dict[str, Callable[[list[list[bytes]]], list[list[bytes]]]] = {
            "has 1 shares": lambda shares: shares[:1],
            "has 3 shares": lambda shares: [*shares, []],
            "has 2 leaves of a share": lambda shares: [shares[0][:2], *shares[1:]],
            "the length": lambda shares: [
                [shares[0][0] + b"x", *shares[0][1:]],
                *shares[1:],
            ],
        }
        for why, change in changes.items():
            self.world = World()
            self.contain(
                why,
                [self.world.put(shelf(200_000, seed)) for seed in (1, 2)],
                change_page=lambda page, change=change: Page(change(page.shares), page.transcript),
            )

    def test_pages_that_are_larger_than_a_page_can_be_contain(self) -> None:
        changes: list[Callable[[Page], Page]] = [
            lambda page: Page([[]] * 257, page.transcript),
            lambda page: Page([[b"x"] * 5, *page.shares[1:]], page.transcript),
            lambda page: Page([[bytes(5_761)], *page.shares[1:]], page.transcript),
            lambda page: Page(page.shares, bytes(65_537)),
        ]
        for change in changes:
            self.world = World()
            self.contain("does not fit", change_page=change)

    def test_leaves_in_another_order_contain(self) -> None:
        self.contain(
            "no valid answer",
            [self.world.put(shelf(400_000, seed)) for seed in (1, 2)],
            change_page=lambda page: Page([page.shares[0][::-1], page.shares[1]], page.transcript),
        )

    def test_leaves_of_another_share_contain(self) -> None:
        shares = [self.world.put(shelf(6_000, seed)) for seed in (1, 2)]
        self.contain(
            "other leaves than it has signed",
            shares,
            change_page=lambda page: Page(page.shares[::-1], page.transcript),
        )

    def test_the_transcript_of_another_audit_contains(self) -> None:
        shares = self.world.objects(2)
        self.world.audit(shares)
        old = self.world.receipts.pop()
        transcript = ReceiptFile.decode(old.body).transcript
        self.contain(
            "another opening",
            shares,
            change_page=lambda page: Page(page.shares, transcript),
        )

    def test_a_root_that_is_changed_after_the_answer_contains(self) -> None:
        shares = self.world.objects(1)
        answers: list[tuple[Opening, Answer]] = []
        make_answer = Answer.make

        def remember(identity: Any, opening: Opening, *args: Any) -> Answer:
            answer = make_answer(identity, opening, *args)
            answers.append((opening, answer))
            return answer

        def rewrite(page: Page) -> Page:
            opening, answer = answers[-1]
            later = make_answer(
                KEEPER, opening, answer.nonce, answer.answered, [Said(9_000, b"x" * 32)]
            )
            seed = self.notes()[0].seed
            shown = Transcript.make(KEEPER, opening, later, seed, answer.answered, [b"d" * 32])
            return Page(page.shares, shown.raw)

        self.patch(Answer, "make", remember)
        self.contain("another answer", shares, change_page=rewrite)

    def test_a_disk_that_fails_contains(self) -> None:
        shares = self.world.objects(1)
        sampler = _Failing(self.world.sampler, StorageDiskFailed("it fails"), {0})
        self.contain("it fails", shares, sampler=sampler)

    def test_the_note_is_durable_before_the_seed_is_shown(self) -> None:
        shares = self.world.objects(1)
        waiting: list[Deferred[None]] = []

        class Slow(MemoryContainments):
            def put(self, contained: Contained) -> Deferred[None]:
                super().put(contained)
                waiting.append(Deferred())
                return waiting[-1]

        liar = make_liar(self.world)
        auditor = self.world.make_auditor(containments=Slow())
        auditing = auditor.audit(self.world.peer, shares)
        self.world.until(lambda: bool(waiting))
        self.world.advance(1)
        self.assertEqual(liar.calls, ["open"])
        waiting[0].callback(None)
        self.assertEqual(self.world.done(auditing)[0].outcome, "success")

    def test_nothing_else_is_asked_meanwhile(self) -> None:
        shares = self.contain("", leaving=frozenset({"reveal"}))
        liar = make_liar(self.world)
        others = [self.world.put(shelf(9_000, 77))]
        self.assertEqual(self.world.outcomes(others), ["contained"])
        self.assertEqual(liar.calls, [])
        self.world.advance(599)
        self.assertEqual(self.world.outcomes(shares), ["contained"] * 2)
        self.assertEqual(liar.calls, [])

    def test_it_is_asked_the_same_again_and_then_the_rest(self) -> None:
        self.contain("", leaving=frozenset({"reveal"}))
        (note,) = self.notes()
        self.world.advance(601)
        liar = make_liar(self.world)
        other = self.world.put(shelf(9_000, 77))
        self.assertEqual(self.world.outcomes([other]), ["success"])
        self.assertEqual(liar.calls[:2], ["again", "open"])
        self.assertEqual(self.notes(), [])
        self.assertEqual([each.outcome for each in self.world.settled], ["success"] * 2)
        self.assertEqual({each.audit_id for each in self.world.settled}, {note.audit_id})
        again = self.world.receipts[0].examined
        self.assertEqual(again.opening.raw, note.opening)

    def test_it_is_asked_the_same_again_after_both_were_started_anew(self) -> None:
        self.contain("", self.large(), leaving=frozenset({"leaves"}))
        self.world.advance(601)
        self.world.factory = self.world.make_factory()
        auditor = self.world.make_auditor()
        other = self.world.put(shelf(9_000, 77))
        self.assertEqual(self.world.outcomes([other], auditor), ["success"])
        self.assertEqual(self.only([each.outcome for each in self.world.settled]), "success")

    def test_what_it_has_lost_meanwhile_is_a_failure(self) -> None:
        shares = self.contain("", leaving=frozenset({"reveal"}))
        self.world.advance(601)
        sampler = _Losing(self.world.sampler, shares[0].name, ShareUnknown("it went"))
        make_liar(self.world, sampler=sampler)
        self.world.audit(shares[1:])
        self.assertEqual([each.outcome for each in self.world.settled], ["failure", "success"])

    def test_after_three_tries_it_has_failed(self) -> None:
        shares = self.contain("", leaving=frozenset({"reveal", "again"}))
        for tries in (2,):
            self.world.advance(601)
            self.assertEqual(self.world.outcomes(shares), ["contained"] * 2)
            self.assertEqual(self.notes()[0].tries, tries)
        self.world.advance(601)
        self.world.audit(shares)
        self.assertEqual([each.outcome for each in self.world.settled], ["failure"] * 2)
        self.assertFalse(self.world.settled[0].blameless)
        seen = self.world.receipts[0].examined
        self.assertEqual([each.proof for each in seen.shares], ["nothing"] * 2)
        self.assertIsNone(seen.revealed)

    def test_that_it_cannot_be_reached_is_no_try(self) -> None:
        shares = self.contain("", leaving=frozenset({"reveal"}))
        self.world.reachable = False
        for _ in range(5):
            self.world.advance(601)
            self.assertEqual(self.world.outcomes(shares), ["contained"] * 2)
        self.assertEqual(self.notes()[0].tries, 1)

    def test_after_two_days_it_has_failed_wherever_it_is(self) -> None:
        shares = self.contain("", leaving=frozenset({"reveal"}))
        self.world.reachable = False
        self.world.advance(48 * 3_600 + 1)
        self.assertEqual(self.world.outcomes(shares), ["offline"] * 2)
        self.assertEqual([each.outcome for each in self.world.settled], ["failure"] * 2)
        self.assertEqual(self.notes(), [])

    def test_to_wait_until_its_promise_is_over_does_not_help_it(self) -> None:
        of = shelf(9_000, 7)
        self.world.put(of)
        promised = self.world.ask_for(of, lease_end=self.world.keeping.now() + 60)
        self.contain("", [promised], leaving=frozenset({"reveal"}))
        self.world.reachable = False
        self.world.advance(48 * 3_600 + 1)
        self.world.audit([promised])
        (settled,) = self.world.settled
        self.assertEqual((settled.outcome, settled.blameless), ("failure", False))

    def test_what_another_key_or_network_has_asked_is_asked_no_more(self) -> None:
        for changes in ({"network": b"n" * 16}, {"asker": make_identity("bob")}):
            self.world = World()
            self.contain("", leaving=frozenset({"reveal"}))
            self.world.advance(601)
            liar = make_liar(self.world)
            other = self.world.auditor = self.world.make_auditor(**changes)
            self.world.outcomes([self.world.put(shelf(9_000, 77))], other)
            self.assertNotIn("again", liar.calls)
            self.assertEqual(self.notes(), [])
            self.assertEqual(self.world.settled, [])

    def test_batches_that_wait_behind_one_that_was_contained_are_not_asked(self) -> None:
        self.world.auditor = self.world.make_auditor(AuditorLimits(batches=1))
        share = self.world.put(shelf(2_000, 1))
        liar = make_liar(self.world, leaving=frozenset({"reveal"}))
        first = self.world.auditor.audit(self.world.peer, [share])
        second = self.world.auditor.audit(self.world.peer, [self.world.ask_for(shelf(40, 2))])
        self.assertEqual(self.world.done(first)[0].outcome, "contained")
        self.assertEqual(self.world.done(second)[0].outcome, "contained")
        self.assertEqual(liar.calls, ["open", "reveal"])

    def test_an_audit_that_is_under_way_is_no_containment(self) -> None:
        one, two = self.world.objects(2)
        liar = make_liar(self.world, silent=frozenset({"reveal"}))
        first = self.world.auditor.audit(self.world.peer, [one])
        self.world.until(lambda: "reveal" in liar.calls)
        liar.silent = frozenset()
        second = self.world.auditor.audit(self.world.peer, [two])
        self.assertEqual(self.world.done(second)[0].outcome, "success")
        self.assertEqual((liar.calls.count("again"), self.world.settled), (0, []))
        self.assertEqual(self.world.done(first)[0].outcome, "contained")


class Deadlines(Case):
    def test_a_peer_has_twice_its_median_and_two_seconds(self) -> None:
        self.world = World(latency=0.5)
        auditor = self.world.auditor
        self.assertEqual(auditor.deadline(self.world.peer), 30.0)
        (share,) = self.world.objects(1)
        for _ in range(3):
            self.world.audit([share])
        self.assertAlmostEqual(auditor.deadline(self.world.peer), 2 * 1.0 + 2.0, 1)

    def test_who_is_asked_for_more_has_more_time(self) -> None:
        self.world = World(latency=0.5)
        shares = self.world.objects(10)
        self.world.audit(shares)
        auditor, peer = self.world.auditor, self.world.peer
        self.assertAlmostEqual(auditor.deadline(peer, 1), 2 * 0.1 + 2.0, 1)
        self.assertAlmostEqual(auditor.deadline(peer, 100), 2 * 10.0 + 2.0, 1)
        self.assertEqual(auditor.deadline(peer, 10_000), 30.0)

    def test_a_page_has_the_time_of_those_before_it(self) -> None:
        # Each page takes a second and a half, one after the other.
        shares = self.large()
        make_liar(self.world, sampler=_Slow(self.world, 1.5))
        for _ in range(2):
            self.assertEqual(self.only(self.world.outcomes(shares)), "success")

    def test_a_peer_that_has_become_slow_is_believed_when_it_is_asked_again(self) -> None:
        (share,) = self.world.objects(1)
        for _ in range(3):
            self.world.audit([share])
        make_liar(self.world, sampler=_Slow(self.world, 5.0))
        self.assertEqual(self.world.outcomes([share]), ["contained"])
        self.world.advance(601)
        self.assertEqual(self.world.outcomes([share]), ["success"])
        self.assertAlmostEqual(self.world.auditor.deadline(self.world.peer), 12.0, 1)

    def test_a_slow_peer_is_not_given_up_while_pages_are_asked_for(self) -> None:
        self.world.limits = AuditLimits(seconds=3.0)
        make_liar(self.world, sampler=_Slow(self.world, 2.0))
        shares = self.large()
        before = self.world.clock.seconds()
        self.assertEqual(self.only(self.world.outcomes(shares)), "success")
        self.assertGreater(self.world.clock.seconds() - before, 3.5)

    def test_nobody_makes_it_as_long_as_he_likes(self) -> None:
        self.world = World(latency=20.0)
        self.world.auditor = self.world.make_auditor(
            AuditorLimits(open_seconds=100.0, longest=60.0)
        )
        (share,) = self.world.objects(1)
        self.assertEqual(self.world.auditor.deadline(self.world.peer), 60.0)
        self.world.audit([share])
        self.assertEqual(self.world.auditor.deadline(self.world.peer), 60.0)

    def test_one_that_is_silent_is_contained_when_its_time_is_over(self) -> None:
        (share,) = self.world.objects(1)
        self.world.audit([share])
        make_liar(self.world, silent=frozenset({"reveal"}))
        before = self.world.clock.seconds()
        self.assertEqual(self.world.outcomes([share]), ["contained"])
        self.assertAlmostEqual(self.world.clock.seconds() - before, 2.0, 1)

    def test_an_outcome_says_how_long_it_took(self) -> None:
        self.world = World(latency=0.1)
        (share,) = self.world.objects(1)
        self.world.audit([share])
        (outcome,) = self.world.audit([share])
        self.assertAlmostEqual(outcome.seconds, 0.4, 2)


class Granted(Case):
    def test_who_looks_after_an_object_of_another_shows_a_grant(self) -> None:
        repairer = make_identity("repairer")
        auditor = self.world.make_auditor(asker=repairer)
        self.world.put(shelf())
        watched = self.world.ask_for(shelf(), own=False)
        liar = make_liar(self.world)
        self.assertEqual(self.world.outcomes([watched], auditor), ["success"])
        self.assertEqual(liar.calls.count("open"), 1)

    def test_an_owner_shows_one_where_another_has_the_lease(self) -> None:
        self.world.put(shelf(), caller=BOB, secret=OTHER_SECRET)
        share, mine = self.world.ask_for(shelf()), self.world.put(shelf(seed=2))
        liar = make_liar(self.world)
        self.assertEqual(self.world.outcomes([share, mine]), ["success"] * 2)
        self.assertEqual(liar.calls.count("open"), 2)
        # Afterwards it is known that it wants to see one.
        self.assertEqual(self.world.outcomes([share, mine]), ["success"] * 2)
        self.assertEqual(liar.calls.count("open"), 3)

    def test_what_may_not_be_asked_does_not_hold_up_the_rest(self) -> None:
        self.world.put(shelf(), caller=BOB, secret=OTHER_SECRET)
        foreign = self.world.ask_for(shelf())
        tracked = evolve(foreign.tracked, signer=make_identity("mallory"))
        mine = self.world.put(shelf(seed=2))
        outcomes = self.world.outcomes([evolve(foreign, tracked=tracked), mine])
        self.assertEqual(outcomes, ["unknown", "success"])

    def test_grants_are_made_anew_when_half_of_their_time_is_over(self) -> None:
        auditor = self.world.make_auditor(asker=make_identity("repairer"))
        self.world.put(shelf())
        watched = self.world.ask_for(shelf(), own=False)
        for hours in (0, 10, 13, 30):
            self.world.keeping.offset = hours * 3_600
            self.world.factory = self.world.make_factory()
            self.assertEqual(self.world.outcomes([watched], auditor), ["success"], hours)


class Cancelled(Case):
    def test_whoever_goes_away_at_any_moment_leaves_all_in_order(self) -> None:
        for steps in range(200):
            world = self.world = World()
            shares = [world.put(shelf(100_000, seed)) for seed in (1, 2)]
            auditing = world.auditor.audit(world.peer, shares)
            results: list[Any] = []
            auditing.addBoth(results.append)
            for _ in range(steps):
                if not results:
                    world.tick()
            if results:
                self.assertGreater(steps, 8)
                break
            auditing.cancel()
            self.assertIsInstance(results[0].value, CancelledError, steps)
            # What is left is a note at most, and the next audit goes on from there.
            world.advance(0)
            self.assertLessEqual(len(self.notes()), 1)
            self.assertEqual(world.outcomes(shares), ["success"] * 2, steps)
            self.assertEqual(self.notes(), [])
            world.advance(61)
            self.assertEqual(world.factory.figures().under_way, 0)
        else:
            self.fail("it never ended")

    def test_an_audit_that_waits_for_its_turn_can_be_cancelled(self) -> None:
        self.world.auditor = self.world.make_auditor(AuditorLimits(batches=1, peers=1))
        one, two = self.world.objects(2)
        liar = make_liar(self.world, silent=frozenset({"open"}))
        first = self.world.auditor.audit(self.world.peer, [one])
        second = self.world.auditor.audit(self.world.peer, [two])
        self.world.until(lambda: bool(liar.calls))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        liar.silent = frozenset()
        self.assertEqual(self.world.outcomes([one, two]), ["success"] * 2)


class Failing(Case):
    def test_an_audit_fails_with_what_the_database_says(self) -> None:
        class Broken(MemoryContainments):
            def put(self, contained: Contained) -> Deferred[None]:
                return fail(OSError("the disk is full"))

        (share,) = self.world.objects(1)
        auditor = self.world.make_auditor(containments=Broken())
        with self.assertRaises(OSError):
            self.world.audit([share], auditor)

    def test_that_all_threads_are_busy_is_no_fault_of_the_peer(self) -> None:
        (share,) = self.world.objects(1)
        auditor = self.world.make_auditor()
        self.patch(auditor, "_workers", _Busy())
        with self.assertRaises(Overloaded):
            self.world.audit([share], auditor)
        self.assertEqual([each.tries for each in self.notes()], [0])
        self.assertEqual(self.world.outcomes([share]), ["success"])

    def test_a_receipt_that_cannot_be_kept_leaves_the_note(self) -> None:
        class Broken:
            def keep(self, *_: Any) -> Deferred[None]:
                return fail(OSError("the disk is full"))

        (share,) = self.world.objects(1)
        with self.assertRaises(OSError):
            self.world.audit([share], self.world.make_auditor(receipts=Broken()))
        self.assertEqual(len(self.notes()), 1)
        # It is asked again by the next one, though nothing was wrong.
        self.assertEqual(self.world.outcomes([share]), ["success"])
        self.assertEqual([each.outcome for each in self.world.settled], ["success"])


class AtHome(Case):
    """Who keeps a share of an object that he looks after."""

    def test_it_is_looked_for_and_nobody_is_dialled(self) -> None:
        first, second = self.world.objects(2)
        keeper = make_identity("keeper")
        auditor = self.world.make_auditor(asker=keeper, kept=self.world.sampler)
        before = len(self.world.network.wires)
        found = self.world.done(auditor.audit(keeper.public, [first, second]))
        self.assertEqual([each.outcome for each in found], ["success", "success"])
        other = AskedShare(second.tracked, (second.number + 1) % 2)
        found = self.world.done(auditor.audit(keeper.public, [first, other]))
        self.assertEqual([each.outcome for each in found], ["success", "failure"])
        self.assertEqual(found[1].reason, "this node does not have the share")
        self.assertEqual(len(self.world.network.wires), before)

    def test_what_is_another_share_is_none(self) -> None:
        first, second = self.world.objects(2)
        stats = self.world.done(self.world.sampler.kept([first.name, second.name]))

        class Changed:
            def kept(self, _: Any) -> Deferred[Any]:
                return succeed([stats[1], stats[1]])

        keeper = make_identity("keeper")
        auditor = self.world.make_auditor(asker=keeper, kept=Changed())
        found = self.world.done(auditor.audit(keeper.public, [first, second]))
        self.assertEqual([each.outcome for each in found], ["failure", "success"])
        nothing = self.world.make_auditor(asker=keeper)
        (alone,) = self.world.done(nothing.audit(keeper.public, [first]))
        self.assertEqual(alone.outcome, "failure")


class Stopped(Case):
    def test_no_peer_is_the_reason_when_the_node_stops(self) -> None:
        for method in ("open", "reveal"):
            self.world = World()
            (share,) = self.world.objects(1)
            liar = make_liar(self.world, silent=frozenset({method}))
            auditing = self.world.auditor.audit(self.world.peer, [share])
            self.world.until(lambda liar=liar, method=method: method in liar.calls)  # type: ignore[misc]
            self.world.auditor.stop()
            with self.assertRaises(CancelledError):
                self.world.done(auditing)
            self.assertEqual([each.tries for each in self.notes()], [0] * (method == "reveal"))
            later = self.world.auditor.audit(self.world.peer, [share])
            with self.assertRaises(CancelledError):
                self.world.done(later)

    def test_no_peer_is_the_reason_when_it_stops_while_one_is_dialled(self) -> None:
        self.world = World(latency=1.0)
        (share,) = self.world.objects(1)
        auditing = self.world.auditor.audit(self.world.peer, [share])
        self.world.advance(0.5)
        self.world.auditor.stop()
        with self.assertRaises(CancelledError):
            self.world.done(auditing)
        self.world.advance(60)
        self.assertFalse(any(wire.first.connected for wire in self.world.network.wires))


class Connections(Case):
    def test_one_is_kept_for_ten_minutes(self) -> None:
        (share,) = self.world.objects(1)
        self.world.audit([share])
        self.world.advance(599)
        self.world.audit([share])
        self.assertEqual(self.world.dialled, 1)
        self.world.advance(601)
        self.world.audit([share])
        self.assertEqual(self.world.dialled, 2)

    def test_two_batches_share_one(self) -> None:
        one, two = self.world.objects(2)
        auditing = [self.world.auditor.audit(self.world.peer, [each]) for each in (one, two)]
        for each in auditing:
            self.assertEqual(self.world.done(each)[0].outcome, "success")
        self.assertEqual(self.world.dialled, 1)

    def test_no_more_are_kept_than_there_may_be(self) -> None:
        self.world.auditor = self.world.make_auditor(AuditorLimits(connections=1))
        (share,) = self.world.objects(1)
        self.world.audit([share])
        links = self.world.auditor._links
        self.assertEqual(len(links), 1)
        other = make_identity("nobody").public
        auditing = self.world.auditor.audit(other, [share])
        self.assertEqual(self.world.done(auditing)[0].outcome, "offline")
        self.assertEqual(len(links), 0)
        self.world.audit([share])
        self.assertEqual(len(links), 1)

    def test_no_more_peers_are_audited_at_once_than_may_be(self) -> None:
        self.world.auditor = self.world.make_auditor(AuditorLimits(peers=2))
        (share,) = self.world.objects(1)
        dialled: list[Any] = []

        def dial(key: Any) -> Deferred[Any]:
            dialled.append(key)
            return Deferred()

        self.patch(self.world, "address_of", dial)
        keys = [make_identity(f"peer {at}").public for at in range(4)]
        waiting = [self.world.auditor.audit(key, [share]) for key in keys]
        self.world.advance(0)
        self.assertEqual(dialled, keys[:2])
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        self.world.advance(0)
        self.assertEqual(dialled, keys[:3])
        for each in waiting[1:]:
            each.cancel()
            self.failureResultOf(each, CancelledError)

    def test_all_are_closed_at_the_end(self) -> None:
        (share,) = self.world.objects(1)
        self.world.audit([share])
        stopped = self.world.auditor.stop()
        self.assertNoResult(stopped)
        # With a goodbye, for which nobody waits for long.
        self.world.advance(CLOSE_SECONDS + 0.1)
        self.successResultOf(stopped)
        self.successResultOf(self.world.auditor.stop())
        self.assertEqual(
            [call for call in self.world.clock.getDelayedCalls() if "_close" in str(call)], []
        )
        self.assertFalse(any(wire.first.connected for wire in self.world.network.wires))


def _zeroed(share: Any, number: int, sample: bytes) -> bytes:
    """The same proof, and a leaf of zeros."""
    end = min(4_096, share.size - number * 4_096)
    return bytes(end) + sample[end:]


def _id(share: Any) -> bytes:
    return share.tracked.content_id  # type: ignore[no-any-return]


def _spoil(world: World, name: bytes, at: int) -> None:
    held = world.keeping.store._held[name]
    data = bytearray(held.data)
    data[at] ^= 1
    world.keeping.store._held[name] = evolve(held, data=bytes(data))


class _Around:
    """A sampler that does something else than another one in places."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Losing:
    """A sampler that has lost a share when its leaves are asked for."""

    def __init__(self, inner: Any, name: bytes, error: Exception) -> None:
        self._inner = inner
        self._name = name
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def leaves(self, wanted: Any) -> Any:
        found = await self._inner.leaves(wanted)
        return [
            self._error if name == self._name else each
            for (name, _), each in zip(wanted, found, strict=True)
        ]


class _Busy:
    """Workers that take nothing more."""

    def run(self, *_: Any) -> Deferred[Any]:
        return fail(Overloaded("all threads are busy"))


class _Slow:
    """A sampler that takes its time for each page, one after the other."""

    def __init__(self, world: World, seconds: float) -> None:
        self._inner = world.keeping.keeper.sampler
        self._clock = world.clock
        self._seconds = seconds
        self._turn = DeferredLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def leaves(self, wanted: Any) -> Any:
        await self._turn.acquire()
        try:
            await deferLater(self._clock, self._seconds)
            return await self._inner.leaves(wanted)
        finally:
            self._turn.release()


class _Failing:
    """A sampler whose disk fails at some calls."""

    def __init__(self, inner: Any, error: Exception, calls: set[int]) -> None:
        self._inner = inner
        self._error = error
        self._calls = calls
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def leaves(self, wanted: Any) -> Any:
        self._count += 1
        if self._count - 1 in self._calls:
            return fail(self._error)
        return self._inner.leaves(wanted)
