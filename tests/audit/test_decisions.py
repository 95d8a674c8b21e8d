"""What is decided for an object, of what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.decisions import (
    Budget,
    Decision,
    ObjectFacts,
    Policy,
    ShareFacts,
    Sight,
    backoff_seconds,
    decide,
    expected_seconds_to_loss,
    heard,
    settle,
    shares_to_ask,
    state_of,
)
from meshkit.storage.terms import GRACE_SECONDS

NOW = 1_800_000_000
HOUR = 3_600
LATER = NOW + 30 * 86_400
POLICY = Policy()
PLENTY = Budget(1_000, 10**12)


def share(number: int, **more: Any) -> ShareFacts:
    """A good one, at a peer of its own."""
    facts: dict[str, Any] = {
        "peer": f"@peer-{number}.ed25519",
        "lease_end": LATER,
        "domain": f"rack-{number}",
        "outcome": "success",
        "at": NOW - 60,
        "good_at": NOW - 60,
        **more,
    }
    return ShareFacts(number, **facts)


def away(number: int, seconds: int, **more: Any) -> ShareFacts:
    return share(number, outcome="offline", since=NOW - seconds, **more)


def failed(number: int) -> ShareFacts:
    return share(number, outcome="failure")


def nowhere(number: int) -> ShareFacts:
    return ShareFacts(number)


def facts(shares: Sequence[ShareFacts], required: int = 6, **more: Any) -> ObjectFacts:
    return ObjectFacts("c0" * 32, 7, required, 4096, tuple(shares), **more)


def of(total: int = 9, *others: ShareFacts, required: int = 6, **more: Any) -> ObjectFacts:
    """@return: an object whose shares are good but for these."""
    shares = [share(number) for number in range(total)]
    for each in others:
        shares[each.number] = each
    return facts(shares, required, **more)


def decided(
    facts: ObjectFacts,
    policy: Policy = POLICY,
    budget: Budget = PLENTY,
    **sight: Any,
) -> Decision:
    return decide(facts, policy, Sight(NOW, **{"peers": 100, **sight}), budget)


class StateTests(SynchronousTestCase):
    """How a share is."""

    def test_a_share_is_what_is_known_of_it(self) -> None:
        for expected, each in (
            ("good", share(0)),
            ("good", share(0, outcome=None, at=None, good_at=None)),
            ("leaving", share(0, leaving=True)),
            ("doubtful", share(0, refused=True)),
            ("doubtful", share(0, refused=True, leaving=True)),
            ("away", away(0, 100)),
            ("away", share(0, outcome="contained", since=NOW - 100)),
            ("away", share(0, outcome="unknown", since=NOW - 100, refused=True)),
            ("lost", away(0, 4 * HOUR)),
            ("lost", failed(0)),
            ("lost", nowhere(0)),
            ("lost", share(0, lease_end=NOW - GRACE_SECONDS, good_at=NOW - GRACE_SECONDS)),
            ("good", share(0, lease_end=NOW - GRACE_SECONDS - 100)),
        ):
            self.assertEqual(state_of(each, NOW, 4 * HOUR), expected, each)

    def test_a_failure_stands_until_the_share_is_seen_again(self) -> None:
        lost = heard(share(0), "failure", NOW)
        still = heard(lost, "offline", NOW + 1)
        self.assertEqual((still.outcome, still.since), ("failure", None))
        back = heard(still, "success", NOW + 2)
        self.assertEqual((back.outcome, back.good_at), ("success", NOW + 2))

    def test_absence_counts_from_when_it_was_first_noticed(self) -> None:
        gone = heard(share(0), "offline", NOW)
        self.assertEqual(heard(gone, "contained", NOW + 99).since, NOW)
        self.assertIsNone(heard(gone, "success", NOW + 99).since)
        self.assertEqual(heard(gone, "unknown", NOW + 99).good_at, NOW - 60)

    def test_a_share_is_asked_about_when_its_time_has_come_or_it_is_not_seen(self) -> None:
        day = 86_400
        shares = [
            share(0, at=NOW - 60),
            share(1, at=NOW - day),
            share(2, at=None),
            away(3, 60),
            nowhere(4),
            share(5, at=NOW + 999),
            share(6, at=NOW - day * 95 // 100),
        ]
        self.assertEqual(shares_to_ask(shares, POLICY, NOW), [1, 2, 3, 5, 6])
        self.assertEqual(shares_to_ask(shares, POLICY, NOW, every_one=True), [0, 1, 2, 3, 5, 6])


class DecisionTests(SynchronousTestCase):
    """What is done about it."""

    def test_nothing_is_done_for_an_object_that_is_well(self) -> None:
        found = decided(of(9))
        self.assertEqual((found.action, found.code, found.good), ("none", "healthy", 9))
        self.assertEqual(found.retry_at, NOW - 60 + 86_400)

    def test_one_lost_share_of_three_to_spare_is_left_alone(self) -> None:
        found = decided(of(9, failed(3)))
        self.assertEqual((found.action, found.code, found.good), ("none", "spare", 8))
        self.assertEqual(found.reason, "1 share is lost, and 8 of 9 suffice")

    def test_two_are_made_anew(self) -> None:
        found = decided(of(9, failed(7), nowhere(3)))
        self.assertEqual((found.action, found.code), ("repair", "below"))
        self.assertEqual(found.repair, (3, 7))
        self.assertEqual(
            found.reason, "2 shares are to be made anew, as 7 of 9 are good and 8 should be"
        )

    def test_with_none_to_spare_it_is_critical(self) -> None:
        self.assertEqual(decided(of(9, failed(0), failed(1), failed(2))).code, "critical")

    def test_an_absent_peer_is_waited_for(self) -> None:
        found = decided(of(9, away(0, 60), away(1, 60)))
        self.assertEqual((found.action, found.code, found.repair), ("wait", "grace", ()))
        self.assertEqual(found.retry_at, NOW + 900)

    def test_one_that_stays_away_is_lost(self) -> None:
        found = decided(of(10, away(5, 5 * HOUR), away(1, 4 * HOUR), failed(8), away(2, 60)))
        self.assertEqual(found.action, "repair")
        # Those that will not come back first, then those that are away for longest.
        self.assertEqual(found.repair, (8, 5, 1))

    def test_absent_ones_within_their_time_count_as_good(self) -> None:
        self.assertEqual(decided(of(9, failed(0), away(1, 60))).code, "grace")

    def test_too_few_that_can_be_read_are_waited_for(self) -> None:
        found = decided(of(9, *(away(n, 9 * HOUR) for n in range(4))))
        self.assertEqual((found.action, found.code), ("wait", "unreachable"))
        self.assertEqual(found.urgency, 0.0)

    def test_a_share_at_a_peer_that_goes_is_moved_even_where_too_few_can_be_read(self) -> None:
        """It is copied as it is; others may come back, and then it is wanted."""
        missing = [*(away(n, 9 * HOUR) for n in range(3)), failed(3)]
        found = decided(of(9, *missing, share(8, leaving=True)))
        self.assertEqual((found.action, found.code), ("move", "leaving"))
        self.assertEqual((found.repair, found.move), ((), (8,)))
        self.assertEqual(
            found.reason,
            "1 share is to be moved, as a peer goes; 5 shares can be read, and 6 of 9 are required",
        )
        refused = share(7, refused=True)
        self.assertEqual(decided(of(9, *missing, refused)).code, "unreachable")
        off = decided(of(9, *missing, share(8, leaving=True)), Policy(repair=False))
        self.assertEqual((off.action, off.code), ("wait", "off"))

    def test_too_few_that_may_ever_come_back_are_given_up(self) -> None:
        found = decided(of(9, *(failed(n) for n in range(4))))
        self.assertEqual((found.action, found.code), ("lost", "lost"))
        self.assertEqual(
            found.reason, "4 shares are lost, and 6 of 9 are required: it cannot be made anew"
        )

    def test_a_scheme_with_nothing_to_spare_cannot_be_repaired(self) -> None:
        self.assertEqual(decided(of(3, required=3)).code, "healthy")
        self.assertEqual(decided(of(3, failed(0), required=3)).code, "lost")

    def test_what_is_at_a_peer_that_goes_is_moved_at_once(self) -> None:
        found = decided(of(9, share(4, leaving=True), failed(2)))
        self.assertEqual((found.action, found.code), ("move", "leaving"))
        self.assertEqual((found.repair, found.move), ((), (4,)))

    def test_what_is_at_a_peer_that_is_not_trusted_is_moved_when_others_are_made_anew(
        self,
    ) -> None:
        self.assertEqual(decided(of(9, share(4, refused=True))).code, "healthy")
        found = decided(of(9, share(4, refused=True), failed(2)))
        self.assertEqual((found.action, found.repair, found.move), ("repair", (2,), (4,)))
        two = decided(of(9, share(4, refused=True), share(5, refused=True)))
        self.assertEqual((two.action, two.move), ("move", (4, 5)))

    def test_the_threshold_may_be_set(self) -> None:
        eager = Policy(repair_below=9)
        self.assertEqual(decided(of(9, failed(0)), eager).repair, (0,))
        late = Policy(repair_below=1)
        self.assertEqual(decided(of(9, failed(0), failed(1)), late).code, "spare")
        self.assertEqual(decided(of(9, failed(0), failed(1), failed(2)), late).code, "critical")

    def test_nothing_is_repaired_while_that_is_turned_off(self) -> None:
        found = decided(of(9, failed(0), failed(1)), Policy(repair=False))
        self.assertEqual((found.action, found.code), ("wait", "off"))

    def test_an_object_is_left_alone_after_a_repair(self) -> None:
        lost = failed(0), failed(1)
        found = decided(of(9, *lost, not_before=NOW + 1))
        self.assertEqual((found.action, found.code, found.retry_at), ("wait", "cooldown", NOW + 1))
        found = decided(of(9, *lost, not_before=NOW + 1, failures=2))
        self.assertEqual((found.action, found.code), ("wait", "backoff"))
        self.assertEqual(decided(of(9, *lost, not_before=NOW)).action, "repair")
        self.assertEqual(decided(of(9, *lost, not_before=NOW + 1), forced=True).action, "repair")

    def test_no_more_is_begun_than_the_pass_may_do(self) -> None:
        three = of(9, failed(0), failed(1), share(2, leaving=True))
        found = decided(three, budget=Budget(2, 1))
        self.assertEqual((found.repair, found.move, found.deferred), ((0, 1), (), (2,)))
        found = decided(three, budget=Budget(1, 1))
        self.assertEqual((found.repair, found.move, found.deferred), ((0,), (), (1, 2)))
        for nothing in (Budget(0, 1), Budget(9, 0)):
            found = decided(three, budget=nothing)
            self.assertEqual((found.action, found.code), ("wait", "capped"))
            self.assertEqual((found.deferred, found.retry_at), ((0, 1, 2), NOW))


class OutageTests(SynchronousTestCase):
    """When many peers go at the same time, it is not they who are lost."""

    def test_absent_peers_have_longer_while_a_third_of_all_is_gone(self) -> None:
        two = of(9, away(0, 5 * HOUR), away(1, 5 * HOUR))
        self.assertEqual(decided(two, peers=30, away=2).action, "repair")
        found = decided(two, peers=30, away=10)
        self.assertEqual((found.action, found.code), ("wait", "outage"))
        gone = of(9, away(0, 25 * HOUR), away(1, 25 * HOUR))
        self.assertEqual(decided(gone, peers=30, away=10).action, "repair")

    def test_an_object_with_nothing_to_spare_is_repaired_all_the_same(self) -> None:
        three = of(9, *(away(n, 5 * HOUR) for n in range(3)))
        found = decided(three, peers=30, away=10)
        self.assertEqual((found.action, found.code), ("repair", "critical"))

    def test_failures_are_no_outage(self) -> None:
        self.assertEqual(decided(of(9, failed(0), failed(1)), peers=30, away=10).action, "repair")

    def test_a_few_peers_are_no_network(self) -> None:
        self.assertFalse(Sight(NOW, 4, 2).outage(POLICY))
        self.assertTrue(Sight(NOW, 4, 3).outage(POLICY))


class UrgencyTests(SynchronousTestCase):
    """The expected time to loss, beside two other ways to find it."""

    def test_it_is_that_of_a_chain_of_states(self) -> None:
        """Solve the equations of the chain: T(s) = 1 / (s rate) + T(s - 1), T(k - 1) = 0."""
        policy = Policy(peer_life=1_000.0)
        for required, total in ((1, 1), (2, 3), (6, 9), (29, 80)):
            expected = 0.0
            for left in range(required, total + 1):
                expected += 1_000.0 / left
                found = expected_seconds_to_loss(left, required, [], policy)
                self.assertAlmostEqual(found / expected, 1.0, places=9)
            self.assertEqual(expected_seconds_to_loss(required - 1, required, [], policy), 0.0)

    def test_it_is_what_many_objects_meet(self) -> None:
        """Draw when each of 8 shares and each of their 4 racks is lost, 4,000 times."""
        rng = Random(7)
        policy = Policy(peer_life=100.0, domain_life=150.0)
        racks = [0, 0, 0, 1, 1, 2, 2, 3]
        met = []
        for _ in range(4_000):
            lost = sorted(rng.expovariate(1 / 100.0) for _ in racks)[3]
            # One rack has three of eight: without it 5 are left, and 6 are required.
            fatal = rng.expovariate(1 / 150.0)
            met.append(min(lost, fatal))
        # The sum is not that of exponential times, so the model is a little off.
        expected = expected_seconds_to_loss(8, 6, [3, 2, 2, 1], policy)
        mean = sum(met) / len(met)
        self.assertLess(abs(mean - expected) / mean, 0.35)

    def test_what_is_nearer_to_its_loss_is_more_urgent(self) -> None:
        few = decided(of(9, *(failed(n) for n in range(3)))).urgency
        more = decided(of(9, *(failed(n) for n in range(2)))).urgency
        self.assertLess(few, more)
        together = [share(n, domain="rack-0") for n in range(4)]
        self.assertLess(decided(of(9, *together)).urgency, decided(of(9)).urgency)


class AfterwardsTests(SynchronousTestCase):
    """What comes of it."""

    def test_failures_put_it_off_for_longer_each_time(self) -> None:
        policy = Policy(backoff=60, max_backoff=900)
        self.assertEqual(
            [backoff_seconds(n, policy) for n in (0, 1, 2, 3, 4, 5, 6, 10_000)],
            [0, 60, 120, 240, 480, 900, 900, 900],
        )

    def test_after_a_repair_comes_a_pause(self) -> None:
        lost = of(9, failed(0), failed(1), failures=3)
        decision = decided(lost)
        done = settle(lost, decision, POLICY, NOW, placed=2)
        self.assertEqual((done.failures, done.not_before, done.due_at), (0, NOW + 600, NOW + 600))
        again = settle(lost, decision, POLICY, NOW, placed=1, failed=True)
        self.assertEqual((again.failures, again.due_at), (4, NOW + 8 * 300))

    def test_what_had_to_wait_for_others_is_due_at_once_and_no_failure(self) -> None:
        lost = of(9, failed(0), failed(1))
        for budget in (Budget(1, 1), Budget(0, 0)):
            decision = decided(lost, budget=budget)
            done = settle(lost, decision, POLICY, NOW, placed=len(decision.repair))
            self.assertEqual(
                (done.failures, done.not_before, done.due_at), (0, done.not_before, NOW)
            )
            self.assertLessEqual(done.not_before, NOW)


OUTCOMES = st.sampled_from(["success", "failure", "offline", "unknown", "contained", None])


@st.composite
def any_share(draw: Any, number: int) -> ShareFacts:
    outcome = draw(OUTCOMES)
    if draw(st.integers(0, 9)) == 0:
        return ShareFacts(number)
    quiet = outcome in ("offline", "unknown", "contained")
    return share(
        number,
        outcome=outcome,
        since=NOW - draw(st.integers(0, 200_000)) if quiet else None,
        leaving=draw(st.booleans()),
        refused=draw(st.booleans()),
        domain=f"rack-{draw(st.integers(0, 3))}",
    )


@st.composite
def any_object(draw: Any) -> ObjectFacts:
    total = draw(st.integers(1, 14))
    shares = [draw(any_share(number)) for number in range(total)]
    return facts(shares, draw(st.integers(1, total)))


class AnyObjectTests(SynchronousTestCase):
    """Whatever an object is like."""

    @given(any_object(), st.integers(0, 5), st.integers(0, 40), st.booleans())
    def test_a_decision_asks_for_nothing_that_makes_no_sense(
        self, it: ObjectFacts, room: int, gone: int, forced: bool
    ) -> None:
        found = decide(it, POLICY, Sight(NOW, 40, gone, forced), Budget(room, 1))
        chosen = (*found.repair, *found.move, *found.deferred)
        self.assertEqual(len(set(chosen)), len(chosen))
        self.assertLessEqual(len(found.repair) + len(found.move), room)
        self.assertEqual(found.acts, bool(found.repair or found.move))
        long = POLICY.outage_grace
        for number in found.repair:
            self.assertEqual(state_of(it.shares[number], NOW, POLICY.offline_grace), "lost")
        for number in found.move:
            self.assertIn(state_of(it.shares[number], NOW, long), ("leaving", "doubtful"))
        readable = sum(
            state_of(each, NOW, long) in ("good", "leaving", "doubtful") for each in it.shares
        )
        if found.repair:
            self.assertGreaterEqual(readable, it.required)
        self.assertGreaterEqual(found.retry_at, NOW)
        self.assertTrue(found.reason)

    @given(any_object())
    def test_facts_and_decisions_are_the_same_after_they_were_written_down(
        self, it: ObjectFacts
    ) -> None:
        found = decided(it)
        raw = msgspec.json.encode((it, found, POLICY))
        kind = tuple[ObjectFacts, Decision, Policy]
        self.assertEqual(msgspec.json.decode(raw, type=kind), (it, found, POLICY))

    @given(any_object(), st.integers(0, 13))
    def test_one_more_share_makes_no_object_more_urgent(self, it: ObjectFacts, which: int) -> None:
        number = which % it.total
        assume(state_of(it.shares[number], NOW, POLICY.offline_grace) == "lost")
        more = list(it.shares)
        # In a rack of its own, as in one with others it may be lost with them.
        more[number] = share(number, domain="rack-of-its-own")
        after = decided(msgspec.structs.replace(it, shares=tuple(more)))
        self.assertGreaterEqual(after.urgency, decided(it).urgency)
