"""Tests of L{meshkit.feed.forgetting}, in the part C{feed}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail

from meshkit.errors import InvalidRequest, LimitReached, NotFound, NotReady
from meshkit.feed import operations as offered
from meshkit.feed.part import Config
from meshkit.feed.retention import BATCH_MESSAGES
from meshkit.interfaces import Gap, MessagesStored, Retention, RoomMade
from meshkit.testing.identities import Author
from meshkit.testing.nodes import make_context, run_clock
from tests.feed.test_part import PartCase

ADA = Author("ada")
ADA.write_many(20)


class ForgettingCase(PartCase):
    def configure(self, **config: Any) -> None:
        self.use(
            make_context(self.clock, "me", config=Config(**config), migrations=self.migrations())
        )

    def put(self, *raws: bytes) -> list[str]:
        return [v.status for v in self.done(self.part.ingest(raws))]

    def kept(self) -> int:
        return self.part.status().messages - self.part.status().gone


class ByTheClock(ForgettingCase):
    def test_it_runs_a_minute_after_the_start_and_then_every_interval(self) -> None:
        self.configure(retention_author_messages=3, retention_interval=600)
        self.put(*ADA.raws[:10])
        run_clock(self.clock, 59)
        self.assertEqual(self.kept(), 10)
        run_clock(self.clock, 1)
        self.assertEqual(self.kept(), 3)
        self.put(*ADA.raws[10:])
        run_clock(self.clock, 599)
        self.assertEqual(self.kept(), 13)
        run_clock(self.clock, 1)
        status = self.part.status()
        self.assertEqual((self.kept(), status.gone, status.forgotten), (3, 17, 17))
        self.assertEqual(status.bytes, sum(map(len, ADA.raws[17:])))

    def test_a_restarted_node_counts_on(self) -> None:
        self.configure(retention_author_messages=3)
        self.put(*ADA.raws)
        run_clock(self.clock, 60)
        backing = self.context.database._backing
        self.done(self.part.stopService())
        self.done(self.context.database.stopService())
        self.use(
            make_context(
                self.clock, "me", config=Config(), migrations=self.migrations(), backing=backing
            )
        )
        status = self.part.status()
        self.assertEqual((status.messages, status.gone, status.forgotten), (20, 17, 0))

    def test_more_than_a_limit_on_everything_wakes_it(self) -> None:
        self.configure(retention_messages=5, retention_interval=86_400)
        run_clock(self.clock, 100)
        self.put(*ADA.raws)
        run_clock(self.clock, 1)
        self.assertEqual(self.kept(), 5)

    def test_a_limit_that_was_reached_wakes_it(self) -> None:
        self.configure(
            max_author_messages=10, retention_author_messages=4, retention_interval=86_400
        )
        run_clock(self.clock, 100)
        self.assertEqual(self.put(*ADA.raws), ["accepted"] * 10 + ["refused"] * 10)
        self.assertEqual(self.part.status().refused, {"FEED_LIMIT": 10})
        run_clock(self.clock, 1)
        self.assertEqual(self.put(*ADA.raws[10:16]), ["accepted"] * 6)

    def test_authors_for_whom_room_was_made_are_told_once(self) -> None:
        self.configure(max_author_messages=10, retention_author_messages=5)
        told: list[RoomMade] = []
        self.context.events.subscribe(RoomMade, told.append)
        # Nobody of whom nothing was refused.
        self.put(*Author("eve").write_many(9))
        self.put(*ADA.raws)
        run_clock(self.clock, 1)
        self.assertEqual(told, [RoomMade((ADA.key,))])
        self.put(*Author("bob").write_many(9))
        self.ok("retention_run")
        self.assertEqual(len(told), 1)

    def test_room_for_one_author_is_none_for_another(self) -> None:
        eve = Author("eve")
        eve.write("x" * 3_000)
        eve.write("x" * 3_000)
        self.configure(max_author_bytes=len(eve.raws[0]) + 300, retention_author_messages=3)
        told: list[RoomMade] = []
        self.context.events.subscribe(RoomMade, told.append)
        self.assertEqual(self.put(*eve.raws, *ADA.raws[:4])[1], "refused")
        run_clock(self.clock, 1)
        self.put(*eve.raws[1:])
        run_clock(self.clock, 1)
        self.assertGreater(self.part.status().forgotten, 0)
        self.assertEqual(told, [])

    def test_a_run_that_empties_nothing_tells_nobody(self) -> None:
        """A message that does not fit would be asked for again after each such run."""
        eve = Author("eve")
        eve.write("x" * 3_000)
        eve.write("x" * 3_000)
        self.configure(max_author_bytes=5_000, retention_author_messages=3)
        told: list[RoomMade] = []
        self.context.events.subscribe(RoomMade, told.append)
        self.assertEqual(self.put(*eve.raws), ["accepted", "refused"])
        run_clock(self.clock, 10)
        self.ok("retention_run")
        self.assertEqual((self.part.status().forgotten, told), (0, []))

    def test_many_batches_are_one_run_and_publishing_goes_in_between(self) -> None:
        self.configure(retention_author_messages=1)
        eve = Author("eve")
        self.put(*eve.write_many(3 * BATCH_MESSAGES))
        order: list[str] = []
        jobs = self.context.database.write

        published: list[Deferred[Any]] = []

        def write(job: Any) -> Any:
            order.append("write")
            if order == ["write"]:
                published.append(self.part.publish("in between"))
                published[0].addCallback(lambda message: order.append("published"))
            return jobs(job)

        self.patch(self.context.database, "write", write)
        running = Deferred.fromCoroutine(self.answer("retention_run"))
        running.addCallback(lambda answer: order.append("done") or answer)
        run_clock(self.clock)
        self.assertEqual(self.successResultOf(running).messages, 3 * BATCH_MESSAGES - 1)
        self.assertLess(order.index("published"), order.index("done"))

    def test_a_node_that_is_stopped_ends_a_run_and_leaves_no_timer(self) -> None:
        self.configure(retention_author_messages=1)
        self.put(*ADA.raws)
        running = self.part._forgetting.run()
        self.done(self.part.stopService())
        self.assertLess(self.successResultOf(running).messages, 20)

    def test_a_disk_that_is_full_is_tried_again(self) -> None:
        self.configure(retention_author_messages=1, retention_interval=600)
        self.put(*ADA.raws)
        real = self.context.database.write
        self.context.database.write = lambda job: fail(NotReady("the disk is full"))
        run_clock(self.clock, 60)
        self.assertEqual(self.kept(), 20)
        self.context.database.write = real
        run_clock(self.clock, 600)
        self.assertEqual(self.kept(), 1)


class ForOthers(ForgettingCase):
    """What a part asks for that keeps feeds for others."""

    def test_what_came_is_kept_as_long_as_it_says(self) -> None:
        self.configure(retention_interval=600)
        self.part.retain(Retention(seconds=3_600))
        self.put(*ADA.raws[:10])
        run_clock(self.clock, 3_600)
        self.assertEqual(self.kept(), 10)
        run_clock(self.clock, 600)
        self.assertEqual(self.kept(), 1)

    def test_an_author_has_little_more_than_it_may_for_a_second(self) -> None:
        self.configure(retention_interval=86_400)
        self.part.retain(Retention(author_messages=8))
        run_clock(self.clock, 100)
        self.put(*ADA.raws[:8])
        run_clock(self.clock, 10)
        self.put(ADA.raws[8])
        run_clock(self.clock, 10)
        # An eighth may come before it is looked at.
        self.assertEqual(self.kept(), 9)
        self.put(ADA.raws[9])
        run_clock(self.clock, 1)
        self.assertEqual(self.kept(), 8)

    def test_the_same_for_bytes_and_not_for_what_is_published_here(self) -> None:
        self.configure(retention_interval=86_400)
        most = sum(map(len, ADA.raws[:8]))
        self.part.retain(Retention(author_bytes=most))
        run_clock(self.clock, 100)
        for _ in range(20):
            self.done(self.part.publish("x" * 100))
        self.put(*ADA.raws[:12])
        run_clock(self.clock, 1)
        self.assertEqual(self.kept() - 20, 7)

    def test_all_together_have_no_more_than_is_said(self) -> None:
        self.configure(retention_interval=86_400)
        self.part.retain(Retention(messages=5))
        run_clock(self.clock, 100)
        self.put(*ADA.raws)
        run_clock(self.clock, 1)
        self.assertEqual(self.kept(), 5)

    def test_a_feed_that_is_replicated_no_more_is_emptied_and_can_come_again(self) -> None:
        self.put(*ADA.raws)
        self.assertEqual(self.done(self.part.forget(ADA.key)), 20)
        self.assertEqual((self.kept(), self.part.status().bytes), (0, 0))
        self.assertEqual(self.done(self.part.frontier()), [])
        self.assertEqual(self.done(self.part.forget(ADA.key)), 0)
        self.assertEqual(self.put(*ADA.raws), ["accepted"] * 20)
        self.assertEqual(self.kept(), 20)

    def test_ones_own_feed_is_never_forgotten_so(self) -> None:
        self.done(self.part.publish("mine"))
        self.failed(self.part.forget(self.context.identity.public.raw), ValueError)
        self.assertEqual(self.kept(), 1)


class Operations(ForgettingCase):
    def test_a_dry_run_says_what_would_go_and_changes_nothing(self) -> None:
        self.configure(retention_author_messages=3, retention_messages=2)
        self.put(*ADA.raws)
        plan = self.ok("retention_plan")
        self.assertEqual(
            plan,
            offered.RetentionPlan(
                messages=18,
                bytes=sum(map(len, ADA.raws[:18])),
                by_reason={"author": 17, "total": 1},
                more=False,
            ),
        )
        self.assertEqual(self.kept(), 20)
        done = self.ok("retention_run")
        self.assertEqual((done.messages, done.bytes), (plan.messages, plan.bytes))
        self.assertEqual(self.ok("retention_plan").messages, 0)
        self.assertEqual(self.ok("retention_run").messages, 0)

    def test_who_asks_while_it_runs_is_told_of_the_same_run(self) -> None:
        self.configure(retention_author_messages=3)
        self.put(*ADA.raws)
        both = [Deferred.fromCoroutine(self.answer("retention_run")) for _ in range(2)]
        gone = self.part._forgetting.run()
        gone.addErrback(lambda failure: failure.trap(CancelledError))
        gone.cancel()
        run_clock(self.clock)
        self.assertEqual([self.successResultOf(each).messages for each in both], [17, 17])

    def test_what_is_gone_is_named_by_its_hash(self) -> None:
        self.configure(retention_author_messages=3)
        self.put(*ADA.raws)
        self.ok("retention_run")
        error = self.failed(self.answer("feed_message", hash=ADA.messages[4].hash), NotFound)
        self.assertIn(f"message 5 of {ADA.identity.public.text} is not kept any more", str(error))
        self.failed(self.answer("feed_message", hash="ab" * 32), NotFound)

    def test_a_feed_that_is_not_blocked_is_not_forgotten(self) -> None:
        self.put(*ADA.raws)
        text = ADA.identity.public.text
        self.failed(self.answer("feed_forget", author=text), InvalidRequest)
        self.ok("blocks_add", author=text)
        self.assertEqual(self.ok("feed_forget", author=text).messages, 20)
        self.assertEqual((self.kept(), self.part.status().bytes), (0, 0))
        self.assertEqual(self.ok("feed_forget", author=text).messages, 0)
        # Should it be wanted again, it is fetched again, and told of again.
        self.done(self.answer("blocks_remove", author=text))
        self.events.clear()
        self.assertEqual(self.put(*ADA.raws), ["accepted"] * 20)
        self.assertEqual([event.contiguous for event in self.events], [20])
        self.assertEqual(self.kept(), 20)

    def test_at_the_limit_publishing_is_refused_and_says_which_it_is(self) -> None:
        self.configure(max_messages=4)
        for _ in range(4):
            self.done(self.part.publish("x"))
        error = self.failed(self.part.publish("x"), LimitReached)
        self.assertIn("feed.max_messages", str(error))
        self.assertEqual(error.status, 507)
        self.assertEqual(self.part.status().messages, 4)

    def test_who_publishes_too_much_at_once_does_not_harm_the_others(self) -> None:
        self.configure(max_messages=4)
        waiting = [self.part.publish("x") for _ in range(6)]
        run_clock(self.clock)
        sequences = [self.successResultOf(each).sequence for each in waiting[:4]]
        self.assertEqual(sequences, [1, 2, 3, 4])
        for each in waiting[4:]:
            self.failureResultOf(each, LimitReached)

    def test_with_retention_of_its_own_feed_a_node_publishes_on(self) -> None:
        self.configure(max_messages=4, retention_messages=2, retention_own=True)
        hashes = []
        for n in range(12):
            message = self.done(self.part.publish(n))
            hashes.append(message.hash)
            self.assertEqual(message.sequence, n + 1)
            self.assertEqual(message.previous, hashes[-2] if n else None)
            run_clock(self.clock, 1)
        self.assertEqual(self.kept(), 2)


class Gaps(ForgettingCase):
    def test_a_feed_goes_on_without_what_nobody_keeps_and_says_so(self) -> None:
        self.put(*ADA.raws[:2], *ADA.raws[6:9])
        self.events.clear()
        head = bytes.fromhex(ADA.messages[5].hash)
        self.assertFalse(self.done(self.part.skip(ADA.key, 6, bytes(32))))
        self.assertEqual(self.events, [])
        self.assertTrue(self.done(self.part.skip(ADA.key, 6, head)))
        self.assertEqual(self.events, [MessagesStored(ADA.key, 9, False, ())])
        self.assertEqual(self.done(self.part.heads()), [(ADA.key, 9)])
        self.assertEqual(self.done(self.part.gone_until(ADA.key, 2)), Gap(6, head, ADA.raws[6]))
        self.assertIsNone(self.done(self.part.gone_until(ADA.key, 6)))
