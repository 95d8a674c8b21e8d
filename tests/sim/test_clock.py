from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock, LoopingCall
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.sim.clock import SECOND, SimCall, SimClock, nanoseconds

# Exact in floats and in nanoseconds alike, so that the two clocks mean the same moments.
UNIT = 2.0**-9

_VERBS = ["call", "nested", "cancel", "advance"]
_MOVES = ["reset", "delay"]


def programs(verbs: list[str]) -> Any:
    """What is done to a clock: a verb, which call, how many units."""
    step = st.tuples(st.sampled_from(verbs), st.integers(0, 7), st.integers(0, 6))
    return st.lists(step, max_size=40)


def play(clock: Any, advance: Callable[[float], None], program: Any) -> list[list[Any]]:
    """What happens on a clock when this is done to it, and what is left to happen."""
    happened: list[Any] = []
    said: list[Any] = []
    calls: dict[int, Any] = {}

    def happen(name: int, nested: int | None = None) -> None:
        happened.append((clock.seconds(), name))
        if nested is not None:
            calls[name + 1000] = clock.callLater(nested * UNIT, happen, name + 1000)

    for number, (verb, which, units) in enumerate(program):
        if verb == "call":
            calls[number] = clock.callLater(units * UNIT, happen, number)
        elif verb == "nested":
            calls[number] = clock.callLater(units * UNIT, happen, number, which)
        elif verb == "advance":
            advance(units * UNIT)
        elif which < len(calls):
            call = calls[sorted(calls)[which]]
            try:
                if verb == "cancel":
                    call.cancel()
                else:
                    getattr(call, verb)(units * UNIT)
            except (AlreadyCalled, AlreadyCancelled) as e:
                said.append((number, type(e)))
    said += [(name, calls[name].active(), calls[name].getTime()) for name in sorted(calls)]
    said.append(sorted(call.getTime() for call in clock.getDelayedCalls()))
    return [happened, said]


def play_theirs(program: Any) -> list[list[Any]]:
    """On Twisted's clock, one event after the other, and none of them late."""
    clock = Clock()

    def advance(seconds: float) -> None:
        end = clock.seconds() + seconds
        while (calls := clock.getDelayedCalls()) and (at := _first(calls)) <= end:
            clock.advance(at - clock.seconds())
        clock.advance(end - clock.seconds())

    return play(clock, advance, program)


def _first(calls: Any) -> float:
    # One that was moved may stand behind later ones until the next sorting.
    return float(min(call.getTime() for call in calls))


class SimClockTests(SynchronousTestCase):
    def test_it_is_what_twisted_wants(self) -> None:
        clock = SimClock()
        verifyObject(IReactorTime, clock)
        verifyObject(IDelayedCall, clock.callLater(1, int))

    @given(programs(_VERBS))
    def test_it_does_what_twisteds_clock_does(self, program: Any) -> None:
        ours = SimClock()
        self.assertEqual(play(ours, ours.advance, program), play_theirs(program))

    @given(programs(_VERBS + _MOVES))
    def test_it_does_so_at_the_same_moments_when_calls_are_moved(self, program: Any) -> None:
        """
        Where a moved call comes among those of its new moment depends, with Twisted's
        clock, on when that was sorted last.  Here it is the last of them.
        """
        ours = SimClock()
        (happened, said), (theirs, they) = (
            play(ours, ours.advance, program),
            play_theirs(program),
        )
        self.assertEqual(sorted(happened), sorted(theirs))
        self.assertEqual(said, they)

    def test_a_call_that_was_moved_is_the_last_of_its_moment(self) -> None:
        clock = SimClock()
        seen: list[str] = []
        moved = clock.callLater(1, seen.append, "moved")
        clock.callLater(2, seen.append, "waited")
        moved.reset(2)
        clock.advance(2)
        self.assertEqual(seen, ["waited", "moved"])

    def test_of_two_calls_at_one_moment_the_first_made_is_the_first_called(self) -> None:
        clock = SimClock()
        seen: list[int] = []
        for number in range(100):
            clock.callLater(1, seen.append, number)
        clock.advance(1)
        self.assertEqual(seen, list(range(100)))

    def test_one_step_is_one_call(self) -> None:
        clock = SimClock()
        seen: list[str] = []
        clock.callLater(2, seen.append, "b")
        clock.callLater(1, seen.append, "a")
        self.assertTrue(clock.step())
        self.assertEqual((seen, clock.ns), (["a"], SECOND))
        self.assertTrue(clock.step())
        self.assertFalse(clock.step())
        self.assertEqual((seen, clock.ns, clock.steps), (["a", "b"], 2 * SECOND, 2))

    def test_an_error_leaves_the_clock_as_it_is(self) -> None:
        clock = SimClock()
        clock.callLater(1, [].pop)
        clock.callLater(1, int)
        with self.assertRaises(IndexError):
            clock.advance(5)
        self.assertEqual((clock.ns, clock.waiting), (SECOND, 1))

    def test_a_call_cannot_be_due_in_the_past(self) -> None:
        for delay in (-1, float("nan")):
            with self.assertRaises(ValueError):
                SimClock().callLater(delay, int)

    def test_many_cancelled_calls_do_not_fill_the_memory(self) -> None:
        clock = SimClock()
        kept = clock.callLater(100, int)
        for _ in range(10_000):
            clock.callLater(50, int).cancel()
            kept.reset(100)
        self.assertLess(len(clock._heap), 200)
        self.assertEqual((clock.waiting, len(clock.getDelayedCalls())), (1, 1))

    def test_what_was_called_or_cancelled_cannot_be_moved(self) -> None:
        clock = SimClock()
        called, cancelled = clock.callLater(0, int), clock.callLater(0, int)
        cancelled.cancel()
        clock.advance(0)
        for change in (called.cancel, lambda: called.reset(1), lambda: called.delay(1)):
            self.assertRaises(AlreadyCalled, change)
        for change in (cancelled.cancel, lambda: cancelled.reset(1), lambda: cancelled.delay(1)):
            self.assertRaises(AlreadyCancelled, change)

    def test_a_hundred_thousand_timers_cost_no_more_each_than_a_few(self) -> None:
        """Counted, not timed: how often two entries are compared."""
        comparisons = 0

        class Counting(int):
            def __lt__(self, other: int) -> bool:
                nonlocal comparisons
                comparisons += 1
                return int(self) < int(other)

        clock = SimClock()
        rng = Random(1)
        count = 20_000
        for _ in range(count):
            clock.call_at(Counting(rng.randrange(10**12)), int)
        while clock.step():
            pass
        self.assertLess(comparisons / count, 60)


class LoopingTests(SynchronousTestCase):
    """What asks for the time in floats, and for a little later."""

    def test_later_is_never_now(self) -> None:
        clock = SimClock()
        call = clock.callLater(1e-12, int)
        self.assertEqual(call.due_ns, 1)
        call.reset(1e-15)
        self.assertEqual(call.due_ns, 1)
        self.assertEqual((nanoseconds(0.0), nanoseconds(-1.0)), (0, -SECOND))

    @given(begin=st.integers(0, 10**13), interval=st.floats(1e-3, 100, allow_nan=False))
    @example(begin=4_082_574_027_000, interval=30.0)
    def test_a_looping_call_goes_on(self, begin: int, interval: float) -> None:
        clock = SimClock()
        clock.run_until(begin)
        called: list[int] = []
        loop = LoopingCall(lambda: called.append(clock.ns))
        loop.clock = clock
        loop.start(interval, now=False)
        for _ in range(40):
            clock.step()
        # It may be asked again because of a nanosecond; not more than that.
        self.assertGreaterEqual(clock.ns - begin, 15 * nanoseconds(interval))


class OwnerTests(SynchronousTestCase):
    """Calls in somebody's name."""

    def setUp(self) -> None:
        self.clock = SimClock()
        self.log: list[str] = []

    def later(self, owner: object, delay: float, what: str) -> SimCall:
        return self.clock.call_for(owner, delay, self.log.append, (what,), {})

    def test_what_is_dropped_is_not_called_and_the_rest_is(self) -> None:
        ada, bob = object(), object()
        self.later(ada, 1, "ada")
        self.later(bob, 1, "bob")
        moved = self.later(ada, 1, "ada later")
        moved.reset(5)
        self.clock.callLater(2, self.log.append, "nobody")
        self.clock.drop(ada)
        self.assertFalse(moved.active())
        self.assertEqual(self.clock.waiting, 2)
        self.clock.advance(10)
        self.assertEqual(self.log, ["bob", "nobody"])

    def test_the_calls_of_an_owner_are_known_in_their_order(self) -> None:
        ada, bob = object(), object()
        second, first = self.later(ada, 3, "b"), self.later(ada, 1, "a")
        self.later(bob, 2, "c")
        self.later(ada, 2, "d").cancel()
        self.assertEqual(self.clock.calls_of(ada), [first, second])
        self.clock.advance(3)
        self.assertEqual(self.clock.calls_of(ada), [])

    def test_a_delay_that_is_none_is_refused(self) -> None:
        self.assertRaises(ValueError, self.later, self, -1, "a")
        self.assertRaises(ValueError, self.later, self, float("nan"), "a")
