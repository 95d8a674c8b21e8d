"""Tests of L{meshkit.audit.showing}: what passes were, as the doors show them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import operations as offered
from meshkit.audit.decisions import Budget, Decision, ObjectFacts, Policy, ShareFacts, Sight
from meshkit.audit.replay import Happened, Line
from meshkit.audit.showing import health_of, run_details, run_shown
from meshkit.audit.state import Event, Metrics, Run
from meshkit.testing.identities import make_identity

NOW = 1_800_000_000
KEYS = [make_identity(name).public for name in ("ada", "bob", "cat", "dan", "eve")]


def share(number: int, outcome: str | None = "success", since: int | None = None) -> ShareFacts:
    return ShareFacts(
        number,
        KEYS[number].text,
        outcome=outcome,  # type: ignore[arg-type]
        at=NOW,
        since=since,
    )


def line(
    *shares: ShareFacts,
    object_: str = "aa" * 32,
    happened: Happened | None = None,
    acts: bool = False,
) -> Line:
    decision = Decision("repair" if acts else "none", "healthy", "why", 2, NOW, 1.0)
    return Line(
        NOW * 10**9,
        ObjectFacts(object_, 1, 2, 4096, shares),
        Sight(NOW),
        Budget(10, 10),
        decision,
        happened,
    )


WHOLE = line(*(share(n) for n in range(4)))


def run(**more: object) -> Run:
    return Run(
        7,
        b"holder..",
        1,
        "done",
        True,
        NOW * 10**9,
        (NOW + 3) * 10**9,
        None,
        Policy(),
        Metrics(**more),  # type: ignore[arg-type]
    )


class HealthTests(SynchronousTestCase):
    def test_a_share_is_there_if_nothing_is_known_against_it(self) -> None:
        self.assertEqual(health_of(WHOLE), "healthy")
        unasked = line(share(0, None), share(1, None), share(2), share(3))
        self.assertEqual(health_of(unasked), "healthy")

    def test_what_is_lost_away_or_nowhere_is_not_there(self) -> None:
        for bad in (
            share(3, "failure"),
            share(3, "offline", NOW),
            share(3, "contained", NOW),
            ShareFacts(3),
        ):
            self.assertEqual(health_of(line(share(0), share(1), share(2), bad)), "degraded")
            self.assertEqual(health_of(line(share(0), bad, bad, bad)), "lost")

    def test_what_was_placed_is_there(self) -> None:
        shares = [share(0), share(1), share(2, "failure"), share(3, "offline", NOW)]
        one = line(*shares, happened=Happened({2: KEYS[4].text}))
        self.assertEqual(health_of(one), "degraded")
        both = line(*shares, happened=Happened({2: KEYS[4].text, 3: KEYS[0].text}))
        self.assertEqual(health_of(both), "healthy")


class DetailsTests(SynchronousTestCase):
    def test_a_pass_is_shown_with_what_it_did(self) -> None:
        shown = run_shown(
            run(
                due=2,
                asked=8,
                outcomes={"success": 7, "failure": 1},
                codes={"healthy": 1},
                placed=1,
            )
        )
        self.assertEqual((shown.run, shown.state, shown.asked_for), ("7", "done", True))
        self.assertEqual((shown.objects, shown.shares, shown.placed), (2, 8, 1))
        self.assertEqual(shown.outcomes, {"success": 7, "failure": 1})
        self.assertEqual(shown.decisions, {"healthy": 1})
        self.assertEqual(shown.begun, "2027-01-15T08:00:00.000Z")

    def test_why_a_share_is_not_there_comes_from_what_happened(self) -> None:
        bad = line(
            share(0),
            share(1, "offline", NOW),
            share(2, "failure"),
            share(3),
            happened=Happened({2: KEYS[4].text}, {3: "no room"}, error="it failed"),
            acts=True,
        )
        events = [
            Event("share.failed", "it says it is gone", bytes.fromhex("aa" * 32), 2),
            Event("share.placed", "it was given away", bytes.fromhex("aa" * 32), 2),
            Event("share.failed", "of another one", b"b" * 32, 3),
            Event("peer.offline", "2 shares: nobody is there", peer=KEYS[1].raw),
            Event("peer.lied", "it lied", bytes.fromhex("aa" * 32), 3, KEYS[3].raw),
            Event("run.begun", "the pass is begun"),
        ]
        (seen,) = run_details(run(), [bad], events).seen
        self.assertEqual(
            [each.reason for each in seen.shares],
            [None, "2 shares: nobody is there", "it says it is gone", None],
        )
        self.assertEqual(seen.placed, [offered.SharePlaced(2, KEYS[4].text)])
        self.assertEqual(seen.left, [offered.ShareLeft(3, "no room")])
        self.assertEqual((seen.health, seen.problem), ("degraded", "it failed"))

    def test_the_worst_come_first_and_all_are_counted(self) -> None:
        bad = share(3, "failure")
        lines = [
            *[WHOLE] * (offered.MAX_SEEN + 5),
            line(share(0), share(1), share(2), bad),
            line(share(0), bad, bad, bad),
        ]
        details = run_details(run(), iter(lines), [])
        self.assertEqual((details.degraded, details.lost), (1, 1))
        self.assertEqual(len(details.seen), offered.MAX_SEEN)
        self.assertEqual(
            [each.health for each in details.seen[:3]], ["lost", "degraded", "healthy"]
        )
