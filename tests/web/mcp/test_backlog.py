"""What waits for a client that does not read."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.operations import Item
from meshkit.web.mcp import Limits
from meshkit.web.mcp.backlog import Backlog, Events


class BacklogTests(SynchronousTestCase):
    def test_one_message_is_let_through_whatever_its_size(self) -> None:
        backlog = Backlog(Limits(backlog_bytes=10))
        self.assertTrue(backlog.put(b"x" * 100))
        self.assertFalse(backlog.put(b""))
        self.assertEqual(backlog.take(), b"x" * 100)
        self.assertTrue(backlog.put(b"x"))

    @given(
        st.integers(1, 6),
        st.integers(1, 40),
        st.lists(st.none() | st.binary(max_size=12), max_size=40),
    )
    def test_it_is_a_queue_with_two_limits(
        self, number: int, size: int, steps: list[bytes | None]
    ) -> None:
        backlog = Backlog(Limits(backlog=number, backlog_bytes=size))
        model: deque[bytes] = deque()
        for step in steps:
            if step is not None:
                waiting = sum(map(len, model))
                fits = not model or (len(model) < number and waiting + len(step) <= size)
                self.assertEqual(backlog.put(step), fits)
                if fits:
                    model.append(step)
            elif model:
                self.assertEqual(backlog.take(), model.popleft())
            self.assertEqual((len(backlog), backlog.size), (len(model), sum(map(len, model))))
        backlog.clear()
        self.assertEqual((len(backlog), backlog.size), (0, 0))


class EventsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.overflown = 0
        self.events = Events(Limits(backlog=2), self.overflow)

    def overflow(self) -> None:
        self.overflown += 1

    def next(self) -> Deferred[Item]:
        return Deferred.fromCoroutine(self.events.__anext__())

    def test_what_was_put_comes_out_at_once_and_what_was_not_is_waited_for(self) -> None:
        self.events.put(b"1")
        self.assertEqual(bytes(self.successResultOf(self.next()).data), b"1")
        later = self.next()
        self.assertNoResult(later)
        self.events.put(b"2")
        self.assertEqual(bytes(self.successResultOf(later).data), b"2")

    def test_after_the_end_what_waits_comes_out_and_no_more_goes_in(self) -> None:
        self.events.put(b"1")
        self.events.end()
        self.events.put(b"2")
        self.assertEqual(bytes(self.successResultOf(self.next()).data), b"1")
        self.failureResultOf(self.next(), StopAsyncIteration)

    def test_the_end_wakes_who_waits(self) -> None:
        later = self.next()
        self.events.end()
        self.failureResultOf(later, StopAsyncIteration)

    def test_who_waits_can_be_cancelled(self) -> None:
        later = self.next()
        later.cancel()
        self.failureResultOf(later, CancelledError)
        self.events.put(b"1")
        self.assertEqual(bytes(self.successResultOf(self.next()).data), b"1")

    def test_one_too_many_ends_it_and_is_told_once(self) -> None:
        for text in (b"1", b"2", b"3", b"4"):
            self.events.put(text)
        self.assertEqual(self.overflown, 1)
        self.failureResultOf(self.next(), StopAsyncIteration)
