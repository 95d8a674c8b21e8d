"""A trace of decisions, and the same decided again."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.decisions import Budget, ObjectFacts, Policy, Sight, decide
from meshkit.audit.replay import Happened, Head, Line, encode, replay
from meshkit.errors import TraceUnusable
from tests.audit.test_decisions import NOW, any_object, failed, of

HEAD = Head(run=7, begun_ns=NOW * 10**9, policy=Policy())


def line(facts: ObjectFacts, budget: Budget, happened: Happened | None = None) -> Line:
    sight = Sight(NOW, 40, 3)
    return Line(NOW, facts, sight, budget, decide(facts, HEAD.policy, sight, budget), happened)


def lines(*found: Line, head: Head = HEAD) -> Sequence[bytes]:
    return [encode(head), *(encode(each) for each in found)]


class ReplayTests(SynchronousTestCase):
    @given(st.lists(st.tuples(any_object(), st.integers(0, 4)), max_size=5))
    def test_whatever_was_decided_is_decided_again(
        self, objects: list[tuple[ObjectFacts, int]]
    ) -> None:
        trace = lines(*(line(facts, Budget(room, 1)) for facts, room in objects))
        found = replay(trace)
        self.assertEqual((found.decisions, found.differences), (len(objects), ()))
        self.assertTrue(found.same)
        self.assertEqual(found.head, HEAD)

    @given(any_object(), st.data())
    def test_a_decision_that_was_changed_is_found_and_the_field_is_named(
        self, facts: ObjectFacts, data: st.DataObject
    ) -> None:
        good = line(facts, Budget(2, 1))
        field = data.draw(st.sampled_from(["good", "retry_at", "urgency", "reason", "repair"]))
        other = {
            "good": good.decision.good + 1,
            "retry_at": good.decision.retry_at - 1,
            "urgency": good.decision.urgency * 1.01 + 1,
            "reason": good.decision.reason + "!",
            "repair": (*good.decision.repair, 99),
        }[field]
        wrong = msgspec.structs.replace(
            good, decision=msgspec.structs.replace(good.decision, **{field: other})
        )
        found = replay(lines(good, wrong))
        (difference,) = found.differences
        self.assertEqual((difference.line, difference.field, found.differing), (3, field, 1))
        self.assertEqual((difference.then, difference.now), (other, getattr(good.decision, field)))
        self.assertIn(f"line 3, object c0c0c0c0c0c0c0c0...: {field} was", difference.text)

    def test_the_policy_is_that_of_the_pass(self) -> None:
        late = Head(run=7, begun_ns=0, policy=Policy(repair_below=7))
        trace = lines(line(of(9, failed(0), failed(1)), Budget(9, 1)), head=late)
        self.assertEqual(
            [(each.field, each.then, each.now) for each in replay(trace).differences][:2],
            [("action", "repair", "none"), ("code", "below", "spare")],
        )

    def test_only_so_many_differences_are_named_and_all_are_counted(self) -> None:
        late = Head(run=7, begun_ns=0, policy=Policy(repair_below=7))
        one = line(of(9, failed(0), failed(1)), Budget(9, 1))
        found = replay(lines(*[one] * 50, head=late), limit=7)
        self.assertEqual((len(found.differences), found.differing), (7, 50))

    def test_the_figures_are_those_of_the_lines(self) -> None:
        lost = of(9, failed(0), failed(1))
        done = Happened({0: "@a", 1: "@b"}, read=600, written=200)
        half = Happened({0: "@a"}, {1: "no peer has room"}, read=600, written=100)
        quicker = Happened(conflict="somebody was quicker")
        found = replay(
            lines(
                line(of(9), Budget(9, 1)),
                line(lost, Budget(9, 1), done),
                line(lost, Budget(9, 1), half),
                line(lost, Budget(9, 1), quicker),
                line(lost, Budget(9, 1), Happened(error="it failed")),
                line(lost, Budget(0, 1)),
            )
        )
        self.assertEqual(
            found.figures,
            {
                "repaired": 2,
                "not_repaired": 2,
                "placed": 3,
                "deferred": 2,
                "read": 1_200,
                "written": 300,
                "codes": {"below": 4, "capped": 1, "healthy": 1},
            },
        )

    @given(st.lists(st.binary(max_size=40), max_size=3))
    def test_what_is_no_trace_is_refused(self, junk: list[bytes]) -> None:
        self.assertRaises(TraceUnusable, replay, junk)
        if junk:
            self.assertRaises(TraceUnusable, replay, [encode(HEAD), *junk])

    def test_a_trace_of_another_version_is_refused_by_name(self) -> None:
        other = Head(trace="meshkit-audit-trace/9", run=1, begun_ns=0, policy=Policy())
        error = self.assertRaises(TraceUnusable, replay, [encode(other)])
        self.assertIn("'meshkit-audit-trace/9'", str(error))
        self.assertIn("'meshkit-audit-trace/1'", str(error))
