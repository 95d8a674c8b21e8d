"""Streams as the answer to one call."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidRequest, Overloaded, StorageFailed
from meshkit.operations import Item, Nothing, Operation
from meshkit.web.rest import MAX_STREAMS
from meshkit.web.schemas import Tail
from meshkit.web.tails import LONGER, MAX_NOTICES, SETTLE, Tails


class Source:
    """A stream that gives what a test puts in."""

    def __init__(self) -> None:
        self.waiting: list[Item | Exception] = []
        self._taker: Deferred[None] | None = None
        self.closed = False
        self.given = 0

    def put(self, *items: Item | Exception) -> None:
        self.waiting += items
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.callback(None)

    async def items(self) -> AsyncGenerator[Item, None]:
        try:
            while True:
                while self.waiting:
                    item = self.waiting.pop(0)
                    if isinstance(item, Exception):
                        raise item
                    self.given += 1
                    yield item
                self._taker = Deferred()
                await self._taker
        finally:
            self.closed = True


def item(number: int, text: str = "x") -> Item:
    return Item({"n": number, "text": text}, id=str(number))


class TailTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.tails = Tails(self.clock, 1000)
        self.source = Source()
        self.progress: list[Any] = []

    def collect(self, **ends: Any) -> Deferred[tuple[list[msgspec.Raw], bytes]]:
        # Held, or Python would close it when it is thrown away.
        self.items = self.source.items()
        return Deferred.fromCoroutine(
            self.tails.collect(self.items, Tail(**ends), lambda *said: self.progress.append(said))
        )

    def answered(self, collecting: Deferred[Any]) -> tuple[list[int], dict[str, Any]]:
        data, metadata = self.successResultOf(collecting)
        self.assertTrue(self.source.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return [json.loads(bytes(each))["n"] for each in data], json.loads(metadata)

    def test_what_is_there_comes_without_waiting_and_a_silence_ends_it(self) -> None:
        self.source.put(item(1), item(2))
        collecting = self.collect()
        self.assertNoResult(collecting)
        self.clock.advance(SETTLE)
        self.assertEqual(self.answered(collecting), ([1, 2], {"last_id": "2"}))

    def test_nothing_at_all_is_an_answer(self) -> None:
        collecting = self.collect()
        self.clock.advance(SETTLE)
        self.assertEqual(self.answered(collecting), ([], {"last_id": None}))

    def test_it_ends_at_once_when_there_are_enough_and_takes_no_more(self) -> None:
        self.source.put(item(1), item(2), item(3))
        self.assertEqual(self.answered(self.collect(max_items=2))[0], [1, 2])
        self.assertEqual(self.source.given, 2)

    def test_who_waits_hears_of_the_first_item_soon(self) -> None:
        collecting = self.collect(wait_seconds=30)
        self.clock.advance(20)
        self.assertNoResult(collecting)
        self.source.put(item(1))
        self.clock.advance(SETTLE)
        self.assertEqual(self.answered(collecting)[0], [1])

    def test_who_waits_in_vain_waits_no_longer_than_was_said(self) -> None:
        collecting = self.collect(wait_seconds=30)
        self.clock.advance(29.9)
        self.assertNoResult(collecting)
        self.clock.advance(0.2)
        self.assertEqual(self.answered(collecting)[0], [])

    def test_a_stream_that_is_never_silent_ends_as_well(self) -> None:
        collecting = self.collect(max_items=200)
        for number in range(100):
            self.source.put(item(number))
            self.clock.advance(SETTLE / 2)
            if collecting.called:
                break
        numbers, metadata = self.answered(collecting)
        self.assertLessEqual(len(numbers), 2 + 2 * LONGER / SETTLE)
        self.assertEqual(metadata["last_id"], str(numbers[-1]))

    def test_what_has_no_room_comes_the_next_time(self) -> None:
        self.source.put(*(item(number, "x" * 400) for number in range(5)))
        numbers, metadata = self.answered(self.collect())
        self.assertEqual((numbers, metadata), ([0, 1], {"last_id": "1"}))

    def test_an_item_that_is_too_large_alone_is_given_alone(self) -> None:
        self.source.put(item(1, "x" * 5000), item(2))
        self.assertEqual(self.answered(self.collect())[0], [1])

    def test_notices_are_told_beside_the_items(self) -> None:
        self.source.put(Item({"behind": 5}, event="lagged"), item(1))
        collecting = self.collect()
        self.clock.advance(SETTLE)
        numbers, metadata = self.answered(collecting)
        self.assertEqual(numbers, [1])
        self.assertEqual(metadata["notices"], [{"event": "lagged", "data": {"behind": 5}}])

    def test_notices_are_bounded(self) -> None:
        self.source.put(*[Item(1, event="lagged")] * 100)
        collecting = self.collect()
        self.clock.advance(SETTLE)
        self.assertEqual(len(self.answered(collecting)[1]["notices"]), MAX_NOTICES)

    def test_progress_is_told_of_each_item_and_quotes_none(self) -> None:
        self.source.put(item(1, "secret words"), item(2))
        self.answered(self.collect(max_items=2))
        self.assertEqual([said[:2] for said in self.progress], [(1, 2), (2, 2)])
        self.assertNotIn("secret", str(self.progress))

    def test_an_error_before_anything_came_is_the_answer(self) -> None:
        self.source.put(StorageFailed("the disk is gone"))
        self.failureResultOf(self.collect(), StorageFailed)
        self.assertTrue(self.source.closed)

    def test_an_error_after_something_came_is_told_beside_it(self) -> None:
        self.source.put(item(1), StorageFailed("the disk is gone"))
        numbers, metadata = self.answered(self.collect())
        self.assertEqual(numbers, [1])
        self.assertEqual(metadata["error"]["code"], StorageFailed.code)

    def test_a_call_that_is_cancelled_closes_the_stream(self) -> None:
        collecting = self.collect(wait_seconds=30)
        collecting.cancel()
        self.failureResultOf(collecting, CancelledError)
        self.assertTrue(self.source.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ArgumentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tails = Tails(Clock(), 1000)

    def test_its_own_arguments_are_taken_out_and_the_others_left_as_spelt(self) -> None:
        ends, rest = self.tails.read(b'{"max_items": 3, "ratio": 1.00, "wait_seconds": 2.5}')
        self.assertEqual((ends, rest), (Tail(3, 2.5), b'{"ratio":1.00}'))
        self.assertEqual(self.tails.read(b"{}"), (Tail(), b"{}"))

    def test_what_is_out_of_bounds_is_named(self) -> None:
        for text in (
            b'{"max_items": 0}',
            b'{"max_items": 201}',
            b'{"wait_seconds": -1}',
            b'{"wait_seconds": 56}',
            b'{"wait_seconds": "long"}',
        ):
            with self.subTest(text):
                error = self.assertRaises(InvalidRequest, self.tails.read, text)
                assert error.details is not None
                self.assertIn(str(error.details["field"]).encode("ascii"), text)

    def test_what_is_no_object_is_left_to_who_reads_the_rest(self) -> None:
        for text in (b"[]", b"{", b'"\xff"'):
            self.assertEqual(self.tails.read(text), (Tail(), text))

    def test_a_request_with_a_field_of_that_name_is_refused(self) -> None:
        class Odd(msgspec.Struct):
            max_items: int = 1

        def declared(request: Any) -> Operation:
            return Operation("odd", "GET", "/odd", request, None, "Odd.", stream=True)

        self.tails.check(declared(Nothing))
        error = self.assertRaises(ValueError, self.tails.check, declared(Odd))
        self.assertTrue(str(error).startswith("odd: 'max_items'"))

    def test_only_so_many_are_read_at_a_time(self) -> None:
        rooms = [self.tails.room() for _ in range(MAX_STREAMS)]
        for room in rooms:
            room.__enter__()
        self.assertRaises(Overloaded, self.tails.room().__enter__)
        rooms[0].__exit__(None, None, None)
        with self.tails.room():
            pass
