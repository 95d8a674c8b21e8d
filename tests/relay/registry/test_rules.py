"""Which registrations count."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    NotRegistered,
    RegistrationRefused,
    RegistrationStale,
    RegistryFull,
)
from meshkit.relay.registry.registration import Registration
from meshkit.relay.registry.rules import MAX_AGE, MAX_SKEW, Known, Outcome, Rules, judge
from tests.relay.registry.people import ADA, BOB, NOW, registration

RULES = Rules(max_peers=2)


def outcome(
    new: Registration,
    last: Registration | None = None,
    places: int = 1,
    rules: Rules = RULES,
    now: int = NOW,
) -> Outcome:
    return judge(new, None if last is None else Known(last, last.stays), places, rules, now)


class RuleTests(SynchronousTestCase):
    def test_a_peer_comes_changes_what_it_says_and_leaves(self) -> None:
        first = registration()
        self.assertEqual(outcome(first), "entered")
        second = registration(number=NOW + 1, listed=True)
        self.assertEqual(outcome(second, first), "changed")
        left = registration(number=NOW + 2, stays=False)
        self.assertEqual(outcome(left, second), "left")
        self.assertEqual(outcome(registration(number=NOW + 3), left), "entered")

    def test_what_was_overheard_is_worth_nothing_after_the_next_one(self) -> None:
        listed, private = registration(listed=True), registration(number=NOW + 1)
        with self.assertRaisesRegex(RegistrationStale, "newer") as caught:
            outcome(listed, private)
        self.assertEqual(caught.exception.details, {"now": NOW})
        left = registration(number=NOW + 2, stays=False)
        with self.assertRaises(RegistrationStale):
            outcome(private, left)

    def test_two_of_one_moment_are_not_both_good(self) -> None:
        with self.assertRaises(RegistrationStale):
            outcome(registration(listed=True), registration(listed=False))

    def test_the_same_once_more_changes_nothing(self) -> None:
        self.assertEqual(outcome(registration(), registration()), "unchanged")
        left = registration(number=NOW, stays=False)
        self.assertEqual(outcome(left, left), "unchanged")

    def test_whom_the_operator_has_removed_comes_back_with_a_newer_one_only(self) -> None:
        removed = Known(registration(), here=False)
        with self.assertRaises(RegistrationStale):
            judge(registration(), removed, 1, RULES, NOW)
        self.assertEqual(judge(registration(number=NOW + 1), removed, 1, RULES, NOW), "entered")

    def test_it_has_to_be_of_this_moment(self) -> None:
        self.assertEqual(outcome(registration(number=NOW + MAX_SKEW)), "entered")
        self.assertEqual(outcome(registration(number=NOW - MAX_AGE)), "entered")
        with self.assertRaisesRegex(RegistrationStale, "from now"):
            outcome(registration(number=NOW + MAX_SKEW + 1))
        with self.assertRaisesRegex(RegistrationStale, "ago"):
            outcome(registration(number=NOW - MAX_AGE - 1))

    def test_the_limit_is_of_all_listed_or_not(self) -> None:
        with self.assertRaisesRegex(RegistryFull, "2 peers"):
            outcome(registration(), places=2)
        with self.assertRaises(RegistryFull):
            outcome(registration(listed=True), places=2)
        # Who has a place keeps it, and may come back to it.
        self.assertEqual(outcome(registration(number=NOW + 1), registration(), places=2), "changed")
        left = registration(stays=False)
        self.assertEqual(outcome(registration(number=NOW + 1), left, places=2), "entered")

    def test_nobody_leaves_who_is_not_there(self) -> None:
        for last in (None, registration(stays=False)):
            with self.assertRaises(NotRegistered):
                outcome(registration(number=NOW + 1, stays=False), last)

    def test_the_operator_says_who_is_wanted(self) -> None:
        only_bob = Rules(allow=frozenset({BOB.public}))
        without_ada = Rules(deny=frozenset({ADA.public}))
        both = Rules(allow=frozenset({ADA.public}), deny=frozenset({ADA.public}))
        for rules in (only_bob, without_ada, both):
            with self.assertRaises(RegistrationRefused):
                outcome(registration(), rules=rules)
            # Whom the operator keeps out from now on can leave, but not change anything.
            with self.assertRaises(RegistrationRefused):
                outcome(registration(number=NOW + 1), registration(), rules=rules)
            left = registration(number=NOW + 1, stays=False)
            self.assertEqual(outcome(left, registration(), rules=rules), "left")
        self.assertEqual(outcome(registration(BOB), rules=only_bob), "entered")
        self.assertEqual(outcome(registration(BOB), rules=without_ada), "entered")
