"""The stream of what is stored: nothing is missed, nothing comes twice, little is held."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import follow as module
from meshkit.feed import part as feed_part
from meshkit.feed.message import Message
from meshkit.feed.part import Config, FeedPart, make_part
from meshkit.interfaces import Arrivals, MessagesStored, StoredMessage
from meshkit.operations import Item
from meshkit.testing.identities import Author
from meshkit.testing.nodes import make_context, run_clock


class FollowCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.context = make_context(
            self.clock, "me", config=Config(), migrations={"feed": feed_part.MIGRATIONS}
        )
        self.part: FeedPart = make_part(self.context)
        self.done(self.part.startService())
        self.ada, self.bob = Author("ada"), Author("bob")
        self.items: list[Item] = []
        self.waiting: Deferred[Any] | None = None

    def tearDown(self) -> None:
        self.done(self.part.stopService())
        self.done(self.context.database.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def done(self, result: Any) -> Any:
        run_clock(self.clock)
        return self.successResultOf(result)

    def store(self, *raws: bytes) -> None:
        self.done(self.part.ingest(list(raws)))

    def open(self, **fields: Any) -> AsyncGenerator[Item, None]:
        (bound,) = [b for b in self.part.operations() if b.operation.name == "feed_events"]
        stream: AsyncGenerator[Item, None] = bound.handler(bound.operation.request(**fields))
        return stream

    def read(self, stream: AsyncGenerator[Item, None], limit: int = 10**6) -> list[Item]:
        """What the stream has to say until it waits, or C{limit} items of it."""
        items: list[Item] = []
        while len(items) < limit:
            if self.waiting is None:
                self.waiting = Deferred.fromCoroutine(_next(stream))
            run_clock(self.clock)
            if not self.waiting.called:
                break
            items.append(self.successResultOf(self.waiting))
            self.waiting = None
        return items

    def close(self, stream: AsyncGenerator[Item, None]) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.failureResultOf(self.waiting, CancelledError)
            self.waiting = None
        self.done(Deferred.fromCoroutine(_close(stream)))

    def texts(self, items: list[Item]) -> list[Any]:
        return [msgspec.json.decode(item.data)["content"] for item in items]


class FollowTests(FollowCase):
    def test_from_now_on_means_neither_what_was_before_nor_a_gap(self) -> None:
        self.store(*[self.ada.write(n).raw for n in range(3)])
        stream = self.open()
        self.assertEqual(self.read(stream), [])
        self.store(self.ada.write("new").raw)
        self.done(self.part.publish("mine"))
        items = self.read(stream)
        self.assertEqual(self.texts(items), ["new", "mine"])
        self.assertEqual([item.id for item in items], ["4", "5"])
        self.assertTrue(all(item.event is None for item in items))
        self.close(stream)

    def test_from_now_on_means_from_the_first_question_on(self) -> None:
        """Whoever has asked may store at once, though nobody has looked yet what is newest."""
        self.store(self.ada.write("old").raw)
        stream = self.open()
        read, gate = self.context.database.read, Deferred[None]()
        self.patch(self.context.database, "read", lambda job: gate.addCallback(lambda _: read(job)))
        self.waiting = Deferred.fromCoroutine(_next(stream))
        self.patch(self.context.database, "read", read)
        for text in ("new", "newer"):
            self.done(self.part.publish(text))
        gate.callback(None)
        self.assertEqual(self.texts(self.read(stream)), ["new", "newer"])
        self.close(stream)

    def test_from_now_on_holds_though_the_store_is_ahead_of_what_is_told(self) -> None:
        """What is committed is seen by a thread that reads before anybody here is told of it."""
        self.store(self.ada.write("old").raw)
        tell, late = self.context.events.publish, list[Any]()
        read, gates = self.context.database.read, [Deferred[None]()]

        def slow(job: Any) -> Any:
            return gates.pop().addCallback(lambda _: read(job)) if gates else read(job)

        gate = gates[0]
        self.patch(self.context.events, "publish", late.append)
        self.patch(self.context.database, "read", slow)
        stream = self.open()
        self.waiting = Deferred.fromCoroutine(_next(stream))
        self.done(self.part.publish("new"))
        if not gates:
            gate.callback(None)
        run_clock(self.clock)
        for event in late:
            tell(event)
        self.assertEqual(self.texts(self.read(stream)), ["new"])
        self.close(stream)

    def test_it_can_begin_anywhere(self) -> None:
        self.store(*[self.ada.write(n).raw for n in range(250)])
        for after in (0, 1, 100, 249, 250):
            stream = self.open(after=after)
            self.assertEqual(self.texts(self.read(stream)), list(range(after, 250)))
            self.close(stream)

    def test_what_is_stored_while_it_is_being_read_follows(self) -> None:
        self.store(*[self.ada.write(n).raw for n in range(150)])
        stream = self.open(after=0)
        first = self.read(stream, limit=120)
        self.store(*[self.ada.write(n).raw for n in range(150, 200)])
        rest = self.read(stream)
        self.assertEqual(self.texts([*first, *rest]), list(range(200)))
        self.close(stream)

    def test_a_message_that_came_while_the_store_was_asked_wakes_it(self) -> None:
        read = self.context.database.read
        stored: list[Deferred[Any]] = []

        def meanwhile(job: Any) -> Any:
            # Once the answer is there, and before the reader has it.
            def store_more(stretch: Any) -> Any:
                if not stored and getattr(stretch, "rows", None):
                    stored.append(self.part.ingest([self.ada.write("late").raw]))
                    run_clock(self.clock)
                return stretch

            return read(job).addCallback(store_more)

        self.patch(self.context.database, "read", meanwhile)
        stream = self.open()
        self.assertEqual(self.read(stream), [])
        self.store(self.bob.write("early").raw)
        self.assertEqual(self.texts(self.read(stream)), ["early", "late"])
        self.close(stream)

    def test_filters_take_an_author_a_type_and_a_tag(self) -> None:
        self.store(
            self.ada.write({"type": "note", "n": 1}).raw,
            self.bob.write({"type": "note", "n": 2}).raw,
            self.ada.write({"type": "other", "n": 3}, tags=["x", "y"]).raw,
        )
        cases: list[tuple[dict[str, Any], list[int]]] = [
            ({"author": self.ada.identity.public.text}, [1, 3]),
            ({"content_type": "note"}, [1, 2]),
            ({"author": self.ada.identity.public.text, "content_type": "note"}, [1]),
            ({"tag": "y"}, [3]),
            ({"content_type": "nothing"}, []),
        ]
        for fields, numbers in cases:
            stream = self.open(after=0, **fields)
            self.assertEqual([c["n"] for c in self.texts(self.read(stream))], numbers)
            self.close(stream)

    def test_a_rare_author_is_found_behind_a_long_stretch_of_others(self) -> None:
        self.patch(module, "RANGE", 10)
        self.store(*[self.ada.write(n).raw for n in range(95)], self.bob.write("rare").raw)
        stream = self.open(after=0, author=self.bob.identity.public.text)
        self.assertEqual(self.texts(self.read(stream)), ["rare"])
        self.close(stream)

    def test_one_that_is_far_behind_is_told_once_and_misses_nothing(self) -> None:
        self.patch(module, "LAGGED", 200)
        self.store(*[self.ada.write(n).raw for n in range(450)])
        stream = self.open(after=0)
        notice, *items = self.read(stream)
        self.assertEqual((notice.event, notice.data), ("lagged", {"behind": 450}))
        self.assertEqual(self.texts(items), list(range(450)))
        self.assertEqual(self.read(stream), [])
        self.store(*[self.ada.write(n).raw for n in range(450, 700)])
        again, *items = self.read(stream)
        self.assertEqual((again.event, len(items)), ("lagged", 250))
        self.close(stream)

    def test_an_id_that_this_store_never_gave_is_set_back_with_a_notice(self) -> None:
        self.store(self.ada.write("old").raw)
        stream = self.open(after=99)
        (notice,) = self.read(stream)
        self.assertEqual((notice.event, notice.data, notice.id), ("reset", {"newest": 1}, "1"))
        self.store(self.ada.write("new").raw)
        self.assertEqual(self.texts(self.read(stream)), ["new"])
        self.close(stream)

    def test_one_that_is_closed_listens_no_more(self) -> None:
        subscribed: list[Any] = []
        subscribe = self.context.events.subscribe

        def counting(kind: Any, callback: Any) -> Any:
            unsubscribe = subscribe(kind, callback)
            subscribed.append(kind)

            def ended() -> None:
                subscribed.remove(kind)
                unsubscribe()

            return ended

        self.patch(self.context.events, "subscribe", counting)
        for read_first in (True, False):
            stream = self.open()
            if read_first:
                self.read(stream)
                self.assertEqual(subscribed, [MessagesStored])
            self.close(stream)
            self.assertEqual(subscribed, [])


async def _next(stream: AsyncGenerator[Item, None]) -> Item:
    return await anext(stream)


async def _close(stream: AsyncGenerator[Item, None]) -> None:
    await stream.aclose()


class ArrivalTests(FollowCase):
    """The same for other parts: L{meshkit.interfaces.IFeedStore.arrivals}."""

    def arrivals(self, after: int = 0, messages: int = 1000, size: int = 10**6) -> Arrivals:
        page: Arrivals = self.done(self.part.arrivals(after, messages, size))
        return page

    def test_they_are_whole_messages_of_everybody_in_the_order_of_their_arrival(self) -> None:
        first = self.ada.write({"type": "note"}, tags=("b", "a"))
        second = self.bob.write("no type")
        third = self.bob.write(3)
        self.store(first.raw, third.raw, second.raw)
        page = self.arrivals()
        self.assertEqual((page.reached, page.newest), (3, 3))
        self.assertEqual(
            [
                StoredMessage(
                    1, self.ada.key, 1, bytes.fromhex(first.hash), "note", ("b", "a"), first.raw
                ),
                StoredMessage(2, self.bob.key, 2, bytes.fromhex(third.hash), None, (), third.raw),
                StoredMessage(3, self.bob.key, 1, bytes.fromhex(second.hash), None, (), second.raw),
            ],
            [each.message for each in page.messages],
        )
        self.assertEqual(
            [each.text for each in page.messages],
            [raw[:-1] + b',"chain_valid":true}' for raw in (first.raw, third.raw, second.raw)],
        )

    def test_one_whose_predecessor_is_missing_says_so(self) -> None:
        self.ada.write()
        self.store(self.ada.write().raw)
        (arrival,) = self.arrivals().messages
        self.assertFalse(arrival.chain_valid)
        self.assertTrue(arrival.text.endswith(b',"chain_valid":false}'))

    def test_a_page_has_its_limits_and_the_next_goes_on_after_it(self) -> None:
        raws = self.ada.write_many(25)
        self.store(*raws)
        size = max(map(len, raws))
        for messages, most in ((1, 10**6), (7, 10**6), (1000, 3 * size), (1000, 0), (0, 0)):
            after, seen = 0, []
            while after < 25:
                page = self.arrivals(after, messages, most)
                self.assertGreater(page.reached, after)
                self.assertLessEqual(len(page.messages), max(1, messages))
                if len(page.messages) > 1:
                    self.assertLessEqual(sum(len(m.message.raw) for m in page.messages), most)
                seen += [each.message.raw for each in page.messages]
                after = page.reached
            self.assertEqual(seen, raws)
        self.assertEqual(self.arrivals(25), Arrivals((), 25, 25))
        self.assertEqual(self.arrivals(99).messages, ())

    def test_a_long_stretch_is_looked_at_in_pieces(self) -> None:
        self.store(*self.ada.write_many(30))
        self.patch(module, "RANGE", 10)
        page = self.arrivals()
        self.assertEqual((len(page.messages), page.reached, page.newest), (10, 10, 30))

    def test_what_is_no_part_of_a_feed_is_left_out(self) -> None:
        self.store(*self.ada.write_many(3))
        fork = self.ada.write("other", sequence=2, previous=self.ada.messages[0].hash)
        self.store(fork.raw)
        page = self.arrivals()
        self.assertEqual([each.message.sequence for each in page.messages], [1])
        self.assertEqual(page.reached, page.newest)


def _hash(message: Message) -> bytes:
    return bytes.fromhex(message.hash)
