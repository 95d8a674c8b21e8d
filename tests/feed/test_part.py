"""Tests of L{meshkit.feed.part}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import (
    ContentTooLarge,
    FeedError,
    FeedForked,
    ForkRefused,
    ForkUnproven,
    HashMismatch,
    InvalidPublicKey,
    InvalidRequest,
    MalformedMessage,
    NotFound,
    NotReady,
    NumberNotPortable,
    Overloaded,
    UnexpectedMessage,
)
from meshkit.feed import operations as offered
from meshkit.feed import part as feed_part
from meshkit.feed.message import parse_message, verify_message
from meshkit.feed.part import Config, FeedPart, make_part, prepare_texts
from meshkit.interfaces import ForkProven, IFeedStore, IMeshPart, MessagesStored
from meshkit.runtime.workers import MAX_WAITING, InlineWorkers
from meshkit.testing.identities import DAY_NS, Author
from meshkit.testing.nodes import make_context, run_clock
from tests import declared


class PartCase(SynchronousTestCase):
    """A feed part with its database, on a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.use(
            make_context(
                self.clock,
                "me",
                config=Config(retention_expiry=False),
                migrations=self.migrations(),
            )
        )

    def migrations(self) -> dict[str, Any]:
        return {"feed": feed_part.MIGRATIONS}

    def use(self, context: Any) -> None:
        self.context = context
        self.part: FeedPart = make_part(context)
        self.parts = [*getattr(self, "parts", ()), self.part]
        self.events: list[MessagesStored] = []
        context.events.subscribe(MessagesStored, self.events.append)
        self.done(self.part.startService())

    def tearDown(self) -> None:
        for part in self.parts:
            self.done(part.stopService())
        self.done(self.context.database.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def done(self, result: Any) -> Any:
        """What a Deferred or a coroutine gives in the end."""
        if not isinstance(result, Deferred):
            result = Deferred.fromCoroutine(result)
        run_clock(self.clock)
        return self.successResultOf(result)

    def failed(self, result: Any, error: type[Exception]) -> Any:
        if not isinstance(result, Deferred):
            result = Deferred.fromCoroutine(result)
        run_clock(self.clock)
        return self.failureResultOf(result, error).value

    def answer(self, name: str, /, **fields: Any) -> Any:
        """Call an operation as a door does."""
        (bound,) = [b for b in self.part.operations() if b.operation.name == name]
        return declared.handler(bound)(bound.operation.request(**fields))

    def ok(self, name: str, /, **fields: Any) -> Any:
        return self.done(self.answer(name, **fields))

    def own(self) -> list[bytes]:
        raws: list[bytes] = self.done(
            self.part.read(self.context.identity.public.raw, 0, 10**9, 10**6)
        )
        return raws


class Interfaces(PartCase):
    def test_it_is_a_part_and_a_feed_store(self) -> None:
        verifyObject(IFeedStore, self.part)
        verifyObject(IMeshPart, self.part)


class Publishing(PartCase):
    def test_a_message_is_signed_and_chained(self) -> None:
        first = self.done(self.part.publish({"type": "note", "n": 1}))
        second = self.done(self.part.publish("two", tags=["a"], relates=first.hash))
        for message in (first, second):
            verify_message(parse_message(message.raw))
        self.assertEqual(
            [(m.author, m.sequence, m.previous, m.timestamp_ns) for m in (first, second)],
            [
                (self.context.identity.public, 1, None, DAY_NS),
                (self.context.identity.public, 2, first.hash, DAY_NS),
            ],
        )
        self.assertEqual((second.tags, second.relates), (("a",), first.hash))
        self.assertEqual(self.own(), [first.raw, second.raw])

    def test_publishers_at_the_same_moment_get_different_numbers(self) -> None:
        waiting = [self.part.publish(n) for n in range(20)]
        waiting.append(
            Deferred.fromCoroutine(self.answer("feed_publish_batch", contents=_raws("a", "b")))
        )
        waiting += [self.part.publish(n) for n in range(20)]
        run_clock(self.clock)
        sequences = [self.successResultOf(w).sequence for w in waiting[:20] + waiting[21:]]
        batch = self.successResultOf(waiting[20])
        self.assertEqual(sorted([*sequences, batch.first, batch.last]), list(range(1, 43)))
        self.assertEqual(len(self.own()), 42)

    def test_the_answer_comes_after_the_message_is_on_the_disk(self) -> None:
        order: list[str] = []
        write = self.context.database.write

        def recording(job: Callable[[Any], Any]) -> Any:
            return write(job).addBoth(_passing, lambda: order.append("committed"))

        self.patch(self.context.database, "write", recording)
        self.context.events.subscribe(MessagesStored, lambda event: order.append("event"))
        self.part.publish("x").addCallback(lambda message: order.append("answer"))
        self.assertEqual(order, [])
        run_clock(self.clock)
        self.assertEqual(order, ["committed", "event", "answer"])

    def test_what_cannot_be_published_fails_and_never_raises(self) -> None:
        self.failed(self.part.publish(float("nan")), FeedError)
        self.failed(self.part.publish("x" * 70_000), ContentTooLarge)
        self.failed(self.part.publish("x", expires_at="tomorrow"), FeedError)
        self.failed(self.part.publish("x", relates="\ud800"), FeedError)
        self.assertEqual(self.own(), [])
        self.assertEqual(self.events, [])

    def test_a_node_that_does_not_run_says_so(self) -> None:
        self.done(self.context.database.stopService())
        self.failed(self.part.publish("x"), NotReady)

    def test_who_gives_up_waiting_does_not_leave_a_message_half_published(self) -> None:
        """A client that hangs up while the disk works: stored means told and counted."""
        for moment in range(3):
            with self.subTest(moment=moment):
                before = self.part.status().messages
                waiting = self.part.publish("x")
                for _ in range(moment):
                    call = self.clock.calls.pop(0)
                    call.called = 1
                    call.func(*call.args, **call.kw)
                waiting.addErrback(lambda failure: failure.trap(CancelledError))
                waiting.cancel()
                run_clock(self.clock)
                self.assertEqual(self.part.status().messages, before + 1)
                self.assertEqual(len(self.own()), before + 1)
                self.assertEqual(self.events[-1].contiguous, before + 1)

    def test_the_feed_goes_on_after_a_restart(self) -> None:
        first = self.done(self.part.publish(1))
        file = self.context.database._backing
        self.done(self.context.database.stopService())
        self.use(
            make_context(
                self.clock, "me", config=Config(), migrations=self.migrations(), backing=file
            )
        )
        self.assertEqual(
            self.part.status(),
            offered.FeedStatus(messages=1, feeds=1, refused={}, bytes=len(first.raw)),
        )
        self.assertEqual(self.done(self.part.publish(2)).previous, first.hash)


def _passing(result: Any, call: Callable[[], Any]) -> Any:
    call()
    return result


def _raws(*values: Any) -> list[msgspec.Raw]:
    return [msgspec.Raw(msgspec.json.encode(value)) for value in values]


class Batches(PartCase):
    def test_a_batch_is_published_in_order(self) -> None:
        published = self.ok("feed_publish_batch", contents=_raws(*range(150)))
        raws = self.own()
        messages = [parse_message(raw) for raw in raws]
        self.assertEqual([m.content for m in messages], list(range(150)))
        self.assertEqual(
            published,
            offered.Published(count=150, first=1, last=150, last_hash=messages[-1].hash),
        )
        (event,) = self.events
        self.assertEqual(
            (event.author, event.contiguous, event.local),
            (self.context.identity.public.raw, 150, True),
        )
        self.assertEqual([message.raw for message in event.messages], raws)
        self.assertEqual(self.part.status().messages, 150)

    def test_one_bad_message_stops_the_batch_and_is_named(self) -> None:
        contents = _raws(*range(100))
        contents[77] = msgspec.Raw(b"1e400")
        error = self.failed(self.answer("feed_publish_batch", contents=contents), FeedError)
        self.assertIn("message 78 of the batch", str(error))
        self.assertEqual(self.own(), [])
        self.assertEqual(self.events, [])

    def test_numbers_that_others_would_misread_are_named(self) -> None:
        error = self.failed(
            self.answer("feed_publish_batch", contents=[msgspec.Raw(b"1e300")]),
            NumberNotPortable,
        )
        self.assertIn("message 1 of the batch", str(error))

    def test_the_work_is_done_in_the_workers(self) -> None:
        """Ten thousand messages are never prepared in the reactor's thread at once."""
        calls: list[tuple[Any, int]] = []
        run = self.context.workers.run

        def recording(work: Any, texts: Any, *args: Any) -> Any:
            calls.append((work, len(texts)))
            return fail(Overloaded("only counting"))

        self.patch(self.context.workers, "run", recording)
        contents = [msgspec.Raw(b"1")] * 10_000
        self.failed(self.answer("feed_publish_batch", contents=contents), Overloaded)
        self.assertEqual({work for work, _ in calls}, {prepare_texts})
        self.assertEqual(sum(size for _, size in calls), 10_000)
        self.assertLessEqual(max(size for _, size in calls), Config().verify_batch)
        # No error of the others is left over: trial would fail this test.
        self.assertIsNotNone(run)

    def test_the_largest_batch_fits_the_queue_of_the_workers_however_it_is_cut(self) -> None:
        def allowed(step: int) -> bool:
            try:
                msgspec.convert({"verify_batch": step}, Config)
            except msgspec.ValidationError:
                return False
            return True

        least = next(step for step in range(1, 1000) if allowed(step))
        self.assertLess(10_000 / least, MAX_WAITING)


class Busy(PartCase):
    def test_however_much_is_given_the_workers_are_not_overrun(self) -> None:
        """Pages wait in line: that this node is busy is no reason to refuse any."""
        most = 0

        class Counting(InlineWorkers):
            def _submit(self, call: Any) -> None:
                nonlocal most
                most = max(most, self.outstanding)
                super()._submit(call)

        workers = Counting(self.clock, 2, max_waiting=10)
        workers.startService()
        self.use(
            make_context(
                self.clock,
                "busy",
                config=Config(verify_batch=16),
                migrations=self.migrations(),
                workers=workers,
            )
        )
        raws = Author("ada").write_many(400)
        waiting = [self.part.ingest(raws[at : at + 40]) for at in range(0, 400, 40)]
        run_clock(self.clock)
        for page in waiting:
            self.assertEqual([v.status for v in self.successResultOf(page)], ["accepted"] * 40)
        self.assertEqual(most, 4)


class Ingesting(PartCase):
    def setUp(self) -> None:
        super().setUp()
        self.ada, self.bob = Author("ada"), Author("bob")

    def test_a_mixed_batch_gives_one_verdict_per_text(self) -> None:
        ada = self.ada.write_many(100)
        bob = self.bob.write_many(3)
        altered = ada[50].replace(b"number 51", b"number 52")
        raws = [*ada[:50], altered, b"garbage", bob[2], *ada[50:], bob[0], ada[0]]
        verdicts = self.done(self.part.ingest(raws))
        self.assertEqual(
            [v.status for v in verdicts],
            ["accepted"] * 50 + ["refused"] * 2 + ["accepted"] * 52 + ["duplicate"],
        )
        self.assertEqual(
            [(event.author, event.contiguous, event.local) for event in self.events],
            [(self.ada.key, 100, False), (self.bob.key, 1, False)],
        )
        announced = [message for event in self.events for message in event.messages]
        self.assertEqual([message.raw for message in announced], [*ada, bob[2], bob[0]])
        self.assertEqual(len({message.position for message in announced}), 102)
        self.assertEqual(
            self.part.status(),
            offered.FeedStatus(
                messages=102,
                feeds=2,
                refused={"DUPLICATE_MESSAGE": 1, "HASH_MISMATCH": 1, "MALFORMED_MESSAGE": 1},
                bytes=sum(len(m.raw) for event in self.events for m in event.messages),
            ),
        )

    def test_nothing_gives_nothing(self) -> None:
        self.assertEqual(self.done(self.part.ingest([])), [])
        self.assertEqual(self.events, [])

    def test_what_is_of_another_author_than_expected_is_not_stored(self) -> None:
        ada, bob = self.ada.write_many(2), self.bob.write_many(1)
        verdicts = self.done(self.part.ingest([ada[0], bob[0], ada[1]], author=self.ada.key))
        self.assertEqual(
            [type(v.error) for v in verdicts], [type(None), UnexpectedMessage, type(None)]
        )
        self.assertEqual(self.done(self.part.heads()), [(self.ada.key, 2)])

    def test_what_is_out_of_turn_is_not_stored(self) -> None:
        """... also where the texts are checked in several pieces."""
        raws = self.ada.write_many(200)
        order = [*raws[:150], raws[160], *raws[151:200]]
        verdicts = self.done(self.part.ingest(order, author=self.ada.key, first=1))
        self.assertEqual(
            [n for n, v in enumerate(verdicts) if isinstance(v.error, UnexpectedMessage)], [150]
        )
        self.assertEqual(self.done(self.part.heads()), [(self.ada.key, 150)])

    def test_an_unreadable_text_does_not_shift_those_after_it(self) -> None:
        raws = self.ada.write_many(3)
        verdicts = self.done(
            self.part.ingest([raws[0], b"?", raws[2]], author=self.ada.key, first=1)
        )
        self.assertEqual([v.status for v in verdicts], ["accepted", "refused", "accepted"])

    def test_overloaded_workers_fail_the_whole_batch_once(self) -> None:
        workers = InlineWorkers(self.clock, 1, max_waiting=1)
        workers.startService()
        self.use(
            make_context(
                self.clock,
                "busy",
                config=Config(verify_batch=16),
                migrations=self.migrations(),
                workers=workers,
            )
        )
        # Somebody else's work: there is room for one of the two calls that are made.
        theirs = workers.run(int)
        self.failed(self.part.ingest(self.ada.write_many(100)), Overloaded)
        self.assertEqual(self.successResultOf(theirs), 0)
        run_clock(self.clock, 1)
        self.assertEqual(self.done(self.part.heads()), [])

    def test_reading_is_by_pages(self) -> None:
        raws = self.ada.write_many(5)
        self.done(self.part.ingest(raws))
        self.assertEqual(self.done(self.part.read(self.ada.key, 1, 10**6, 2)), raws[1:3])
        self.assertEqual(self.done(self.part.heads([self.ada.key])), [(self.ada.key, 5)])


class Forks(PartCase):
    def setUp(self) -> None:
        super().setUp()
        self.ada, self.fork = Author("ada"), Author("ada")
        self.ada.write_many(4)
        self.fork.messages = self.ada.messages[:2]
        self.fork.write("another three")
        self.forks: list[ForkProven] = []
        self.context.events.subscribe(ForkProven, self.forks.append)

    def test_two_messages_for_one_place_are_proof_and_are_told(self) -> None:
        self.done(self.part.ingest(self.ada.raws))
        (verdict,) = self.done(self.part.ingest([self.fork.raws[2]]))
        self.assertIsInstance(verdict.error, ForkRefused)
        self.assertEqual(self.forks, [ForkProven(self.ada.key, 3)])
        proof = self.done(self.part.fork_proof(self.ada.key))
        self.assertEqual({proof.one, proof.other}, {self.ada.raws[2], self.fork.raws[2]})
        (frontier,) = self.done(self.part.frontier())
        self.assertEqual((frontier.sequence, frontier.forked), (2, 3))
        self.assertEqual(self.done(self.part.heads()), [(self.ada.key, 2)])
        self.assertEqual(self.part.status().refused, {"FORK_REFUSED": 1})

    def test_a_proof_is_taken_once(self) -> None:
        pair = (self.ada.raws[2], self.fork.raws[2])
        self.assertIs(self.done(self.part.ingest_proof(*pair)), True)
        self.assertIs(self.done(self.part.ingest_proof(*pair[::-1])), False)
        self.assertEqual(self.forks, [ForkProven(self.ada.key, 3)])
        self.assertEqual(self.part.status().feeds, 1)
        self.done(self.part.ingest(self.ada.raws))
        self.assertEqual([event.contiguous for event in self.events], [2])

    def test_the_status_counts_forked_feeds_also_after_a_restart(self) -> None:
        file = self.context.database._backing
        self.done(self.part.ingest(self.ada.raws))
        self.assertEqual(self.part.status().forked, 0)
        self.done(self.part.ingest([self.fork.raws[2]]))
        # The same feed, proven to be forked lower: still one.
        lower = Author("ada")
        lower.write("another one")
        self.done(self.part.ingest([lower.raws[0]]))
        self.assertEqual(self.part.status().forked, 1)
        self.done(self.context.database.stopService())
        self.use(
            make_context(
                self.clock, "me", config=Config(), migrations=self.migrations(), backing=file
            )
        )
        self.assertEqual(self.part.status().forked, 1)

    def test_what_is_no_proof_is_refused_by_name(self) -> None:
        altered = self.fork.raws[2].replace(b"another", b"1 other")
        self.failed(self.part.ingest_proof(self.ada.raws[2], altered), HashMismatch)
        self.failed(self.part.ingest_proof(b"{", self.ada.raws[2]), MalformedMessage)
        self.failed(self.part.ingest_proof(*self.ada.raws[2:4]), ForkUnproven)
        self.assertEqual((self.forks, self.part.status().feeds), ([], 0))

    def test_this_nodes_own_feed_ends_where_it_is_forked(self) -> None:
        self.done(self.part.publish("one"))
        twin = Author("twin")
        twin.identity = self.context.identity
        self.done(self.part.ingest([twin.write("another one").raw]))
        self.assertEqual(self.forks, [ForkProven(twin.key, 1)])
        self.failed(self.part.publish("two"), FeedForked)
        self.failed(self.answer("feed_publish_batch", contents=_raws("a")), FeedForked)
        self.assertEqual(self.own(), [])

    def test_a_forked_message_is_shown_as_such(self) -> None:
        self.done(self.part.ingest([*self.ada.raws, self.fork.raws[2]]))
        shown = [msgspec.json.decode(item) for item in self.ok("feed_list").items]
        self.assertEqual(
            [(m["sequence"], m["chain_valid"], m.get("forked")) for m in shown],
            [(4, False, True), (3, False, True), (2, True, None), (1, True, None)],
        )


class Doors(PartCase):
    """The operations; their routes are tested with the whole node."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = Author("ada")
        self.done(self.part.ingest(self.ada.write_many(3)))

    def items(self, page: Any) -> list[Any]:
        return [msgspec.json.decode(item)["sequence"] for item in page.items]

    def test_a_published_message_is_shown_as_signed(self) -> None:
        shown = bytes(self.ok("feed_publish", content=msgspec.Raw(b'{"b": 1.50, "a": "\\u0041"}')))
        self.assertIn(b'"content":{"a":"A","b":1.5}', shown)
        self.assertTrue(shown.endswith(b',"chain_valid":true}'))
        verify_message(parse_message(self.own()[0]))
        self.assertEqual(shown, self.own()[0][:-1] + b',"chain_valid":true}')

    def test_ones_own_messages_are_left_out_unless_wanted(self) -> None:
        self.done(self.part.publish("mine"))
        page = self.ok("feed_list", limit=2)
        self.assertEqual((self.items(page), page.total, page.limit), ([3, 2], 3, 2))
        self.assertEqual(self.ok("feed_list", include_self=True).total, 4)
        self.assertEqual(self.ok("feed_list", content_type="note").total, 3)
        self.assertEqual(self.ok("feed_list", content_type="insight").total, 0)

    def test_one_author(self) -> None:
        page = self.ok("feed_author", author=self.ada.identity.public.text, offset=1)
        self.assertEqual((self.items(page), page.total, page.offset), ([2, 1], 3, 1))
        self.failed(self.answer("feed_author", author="nobody"), InvalidPublicKey)

    def test_insights_of_everybody(self) -> None:
        self.done(self.part.publish({"type": "insight", "title": "t"}))
        self.assertEqual(self.ok("feed_insights").total, 1)

    def test_search_needs_a_word(self) -> None:
        self.assertEqual(self.items(self.ok("feed_search", q='"number 2"')), [2])
        self.failed(self.answer("feed_search", q="?"), InvalidRequest)
        self.failed(self.answer("feed_search", q="a " * 33), InvalidRequest)

    def test_a_message_by_its_hash(self) -> None:
        shown = self.ok("feed_message", hash=self.ada.messages[1].hash)
        self.assertEqual(msgspec.json.decode(shown)["sequence"], 2)
        self.failed(self.answer("feed_message", hash="0" * 64), NotFound)

    def test_a_message_beyond_a_gap_is_shown_as_such(self) -> None:
        self.ada.write()
        far = self.ada.write()
        self.done(self.part.ingest([far.raw]))
        shown = msgspec.json.decode(self.ok("feed_message", hash=far.hash))
        self.assertFalse(shown["chain_valid"])
