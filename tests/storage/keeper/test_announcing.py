"""Storage peers are found by what they say in the hash table, as long as they say it."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotFound, Overloaded
from meshkit.storage.keeper.announcing import FIRST_PAUSE, LAST_PAUSE, Announcer

CONTENT = b"c" * 32


@frozen
class Placed:
    accepted: int


class Table:
    """A hash table that is asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.cancelled = 0
        self.answer: Deferred[Any]

    def provide(self, content: bytes) -> Deferred[Any]:
        return self._ask("provide", content)

    def withdraw(self, kind: str, name: bytes, salt: bytes = b"") -> Deferred[Any]:
        return self._ask(f"withdraw {kind}", name)

    def _ask(self, what: str, name: bytes) -> Deferred[Any]:
        def cancelled(_: Deferred[Any]) -> None:
            self.cancelled += 1

        self.asked.append((what, name))
        self.answer = Deferred(cancelled)
        return self.answer


class AnnouncerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.table = Table()
        self.announcer = Announcer(self.clock, self.table, CONTENT)

    def tearDown(self) -> None:
        self.announcer.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_is_said_once_and_the_table_goes_on_saying_it(self) -> None:
        self.announcer.say(True)
        self.assertEqual(self.announcer.accepted, 0)
        self.table.answer.callback(Placed(7))
        self.announcer.say(True)
        self.clock.advance(86_400)
        self.assertEqual(self.table.asked, [("provide", CONTENT)])
        self.assertEqual(self.announcer.accepted, 7)

    def test_as_long_as_nobody_takes_it_it_is_said_again_and_ever_more_rarely(self) -> None:
        self.announcer.say(True)
        pauses, told = [], 1
        for _ in range(9):
            self.table.answer.callback(Placed(0))
            start = self.clock.seconds()
            while len(self.table.asked) == told:
                self.clock.advance(1)
            told = len(self.table.asked)
            pauses.append(self.clock.seconds() - start)
        self.assertEqual(pauses[:3], [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE])
        self.assertEqual(pauses[-1], LAST_PAUSE)

    def test_a_table_that_refuses_is_asked_again(self) -> None:
        self.announcer.say(True)
        self.table.answer.errback(Overloaded("too many lookups"))
        self.clock.advance(FIRST_PAUSE)
        self.table.answer.callback(Placed(3))
        self.assertEqual(self.table.asked, 2 * [("provide", CONTENT)])
        self.assertEqual(self.announcer.accepted, 3)

    def test_a_fault_is_logged_and_does_not_end_it(self) -> None:
        self.announcer.say(True)
        self.table.answer.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(FIRST_PAUSE)
        self.assertEqual(len(self.table.asked), 2)

    def test_what_was_said_is_taken_back(self) -> None:
        self.announcer.say(True)
        self.table.answer.callback(Placed(3))
        self.announcer.say(False)
        self.assertIsNone(self.announcer.accepted)
        self.table.answer.callback(Placed(0))
        self.clock.advance(86_400)
        self.assertEqual(self.table.asked[1:], [("withdraw provider", CONTENT)])

    def test_it_is_taken_back_while_it_is_being_said(self) -> None:
        self.announcer.say(True)
        self.announcer.say(False)
        self.assertEqual(self.table.cancelled, 1)
        self.assertEqual(self.table.asked[1:], [("withdraw provider", CONTENT)])

    def test_what_an_earlier_run_has_said_is_taken_back_and_nothing_may_have_been(self) -> None:
        self.announcer.say(False)
        self.assertEqual(self.table.asked, [("withdraw provider", CONTENT)])
        self.table.answer.errback(NotFound("nothing was published"))
        self.clock.advance(86_400)
        self.assertEqual(len(self.table.asked), 1)

    def test_a_table_that_does_not_take_it_back_is_asked_again(self) -> None:
        self.announcer.say(False)
        self.table.answer.errback(Overloaded("too many lookups"))
        self.clock.advance(FIRST_PAUSE)
        self.assertEqual(self.table.asked, 2 * [("withdraw provider", CONTENT)])

    def test_when_the_node_stops_nothing_is_taken_back(self) -> None:
        self.announcer.say(True)
        self.announcer.stop()
        self.assertEqual(self.table.asked, [("provide", CONTENT)])
        self.assertEqual(self.table.cancelled, 1)

    def test_where_there_is_no_hash_table_nothing_is_said(self) -> None:
        silent = Announcer(self.clock, None, CONTENT)
        silent.say(True)
        self.assertIsNone(silent.accepted)
        silent.stop()
