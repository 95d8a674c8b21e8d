"""Events reach who subscribed to them, in order, whatever the others do."""

from __future__ import annotations

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.events import Bell, EventBus


@frozen
class Rain:
    """An event."""

    drops: int


@frozen
class Storm(Rain):
    """An event of another type, though it inherits."""


class EventBusTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.bus = EventBus()
        self.seen: list[object] = []

    def test_subscribers_are_called_in_the_order_in_which_they_came(self) -> None:
        for name in "abc":
            self.bus.subscribe(Rain, lambda event, name=name: self.seen.append((name, event)))
        self.bus.publish(Rain(1))
        self.assertEqual(self.seen, [("a", Rain(1)), ("b", Rain(1)), ("c", Rain(1))])

    def test_only_the_very_type_counts(self) -> None:
        self.bus.subscribe(Rain, self.seen.append)
        self.bus.publish(Storm(1))
        self.bus.publish("rain")
        self.assertEqual(self.seen, [])

    def test_who_has_left_is_not_called_and_may_leave_twice(self) -> None:
        leave = self.bus.subscribe(Rain, self.seen.append)
        self.bus.subscribe(Rain, self.seen.append)
        leave()
        leave()
        self.bus.publish(Rain(1))
        self.assertEqual(self.seen, [Rain(1)])

    def test_one_callback_can_be_subscribed_twice(self) -> None:
        self.bus.subscribe(Rain, self.seen.append)
        leave = self.bus.subscribe(Rain, self.seen.append)
        self.bus.publish(Rain(1))
        leave()
        self.bus.publish(Rain(2))
        self.assertEqual(self.seen, [Rain(1), Rain(1), Rain(2)])

    def test_one_who_raises_is_logged_and_does_not_stop_the_others(self) -> None:
        def careless(event: Rain) -> None:
            raise LookupError("umbrella")

        self.bus.subscribe(Rain, careless)
        self.bus.subscribe(Rain, self.seen.append)
        self.bus.publish(Rain(1))
        self.bus.publish(Rain(2))
        self.assertEqual(self.seen, [Rain(1), Rain(2)])
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 2)

    def test_who_is_sent_away_by_an_earlier_one_is_not_called_any_more(self) -> None:
        self.bus.subscribe(Rain, lambda _: leave())
        leave = self.bus.subscribe(Rain, self.seen.append)
        self.bus.publish(Rain(1))
        self.assertEqual(self.seen, [])

    def test_who_comes_during_an_event_gets_the_next_one(self) -> None:
        def invite(event: Rain) -> None:
            if event.drops == 1:
                self.bus.subscribe(Rain, self.seen.append)

        self.bus.subscribe(Rain, invite)
        self.bus.publish(Rain(1))
        self.assertEqual(self.seen, [])
        self.bus.publish(Rain(2))
        self.assertEqual(self.seen, [Rain(2)])

    def test_all_see_the_same_order_of_events_that_cause_each_other(self) -> None:
        def echo(event: Rain) -> None:
            if event.drops < 3:
                self.bus.publish(Rain(event.drops + 1))

        self.bus.subscribe(Rain, lambda event: self.seen.append(("first", event.drops)))
        self.bus.subscribe(Rain, echo)
        self.bus.subscribe(Rain, lambda event: self.seen.append(("last", event.drops)))
        self.bus.publish(Rain(1))
        self.assertEqual(
            self.seen,
            [(name, drops) for drops in (1, 2, 3) for name in ("first", "last")],
        )


class BellTests(SynchronousTestCase):
    def test_who_waits_is_woken(self) -> None:
        bell = Bell()
        waiting = bell.wait()
        self.assertNoResult(waiting)
        bell.ring()
        self.successResultOf(waiting)

    def test_what_rang_before_the_wait_is_not_missed_and_what_was_seen_does_not_count(self) -> None:
        bell = Bell()
        bell.ring()
        self.successResultOf(bell.wait())
        bell.hush()
        self.assertNoResult(bell.wait())

    def test_who_gave_up_waiting_does_no_harm(self) -> None:
        bell = Bell()
        waiting = bell.wait()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        bell.ring()
        self.successResultOf(bell.wait())
