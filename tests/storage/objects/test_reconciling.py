"""Tests of L{meshkit.storage.objects.reconciling}: what becomes of two documents."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.storage.objects.reconciling import Reconciled, newest_of, reconcile
from meshkit.storage.placement_document import Placed, PlacementDocument
from meshkit.testing.identities import make_identity

PEERS = [make_identity(f"peer-{number}").public for number in range(6)]
TOTAL = 4


def document(peers: str, version: int = 1, end: int = 1_000) -> PlacementDocument:
    """@param peers: for each share the number of its peer, or C{-}."""
    shares = tuple(None if each == "-" else Placed(PEERS[int(each)], end) for each in peers)
    return PlacementDocument(b"c" * 32, version, shares)


def peers_of(each: PlacementDocument) -> str:
    return "".join(
        "-" if placed is None else str(PEERS.index(placed.peer)) for placed in each.shares
    )


class ReconcileTests(SynchronousTestCase):
    def check(
        self,
        base: PlacementDocument | None,
        own: PlacementDocument,
        found: PlacementDocument,
        wanted: Reconciled,
    ) -> None:
        self.assertEqual(reconcile(base, own, found), wanted)

    def test_what_is_not_newer_changes_nothing(self) -> None:
        own = document("0123", 5)
        for found in (own, document("4444", 4), document("0123", 1)):
            self.check(None, own, found, Reconciled("keep", own))
            self.check(document("5555", 3), own, found, Reconciled("keep", own))

    def test_what_is_newer_is_taken_as_it_is_if_nothing_was_moved_here(self) -> None:
        found = document("01-4", 9, end=500)
        self.check(None, document("0123", 5), found, Reconciled("adopt", found))
        # Leases that were renewed here move nothing.
        own = document("0123", 5, end=2_000)
        self.check(document("0123", 4), own, found, Reconciled("adopt", found))

    def test_what_both_have_moved_is_kept(self) -> None:
        base = document("0123", 4)
        own, found = document("4123", 5), document("0153", 5)
        self.check(base, own, found, Reconciled("merge", document("4153", 6)))
        newer = evolve(found, version=8)
        self.check(base, own, newer, Reconciled("merge", document("4153", 9)))

    def test_who_has_seen_what_was_moved_here_is_not_contradicted(self) -> None:
        base, own, found = document("0123", 4), document("4123", 5), document("4153", 6)
        self.check(base, own, found, Reconciled("adopt", found))

    def test_of_one_share_that_both_have_moved_the_newer_place_counts(self) -> None:
        base, own = document("0123", 4), document("4123", 5)
        newer = document("5123", 6)
        self.check(base, own, newer, Reconciled("adopt", newer))
        same = document("5123", 5)
        self.check(base, own, same, Reconciled("merge", document("4123", 6)))

    def test_a_share_that_is_nowhere_is_one_that_was_moved(self) -> None:
        base = document("0123", 4)
        merged = Reconciled("merge", document("-143", 6))
        self.check(base, document("-123", 5), document("0143", 5), merged)
        again = Reconciled("merge", document("4143", 6))
        self.check(document("-123", 4), document("4123", 5), document("-143", 5), again)

    def test_of_two_ends_of_a_lease_the_later_one_is_promised(self) -> None:
        own, found = document("0123", 5, end=900), document("0153", 5, end=700)
        outcome = reconcile(document("0123", 4), own, found)
        ends = [each.lease_end for each in outcome.document.shares if each is not None]
        self.assertEqual(ends, [900, 900, 700, 900])

    @given(
        st.text("012345-", min_size=TOTAL, max_size=TOTAL),
        st.text("012345-", min_size=TOTAL, max_size=TOTAL),
        st.text("012345-", min_size=TOTAL, max_size=TOTAL),
        st.integers(1, 4),
        st.integers(1, 4),
    )
    def test_each_share_is_where_one_of_both_says_and_what_counts_is_newer(
        self, base: str, own: str, found: str, own_version: int, found_version: int
    ) -> None:
        mine, theirs = document(own, own_version), document(found, found_version)
        outcome = reconcile(document(base), mine, theirs)
        for number, peer in enumerate(peers_of(outcome.document)):
            self.assertIn(peer, (own[number], found[number]))
            if own[number] == base[number] and outcome.what != "keep":
                self.assertEqual(peer, found[number])
        if outcome.what == "keep":
            self.assertTrue(theirs.version < mine.version or theirs == mine)
        else:
            mine.check_successor(outcome.document)
        if outcome.what == "merge":
            theirs.check_successor(outcome.document)
            # Who has told what he has moved takes what is newer, so that it comes to an end.
            again = reconcile(None, theirs, outcome.document)
            self.assertEqual(again, Reconciled("adopt", outcome.document))


class NewestTests(SynchronousTestCase):
    def test_the_highest_version_counts_and_the_same_one_everywhere(self) -> None:
        self.assertIsNone(newest_of([]))
        old, one, other = document("0123", 1), document("4123", 2), document("0523", 2)
        first = newest_of([old, one, other])
        self.assertIn(first, (one, other))
        self.assertEqual(newest_of([other, one, old]), first)

    def test_that_an_object_is_given_up_counts_whatever_is_said_after_it(self) -> None:
        gone = document("0123", 1).deleted()
        self.assertEqual(newest_of([document("4123", 9), gone]), gone)
