"""Tests of L{meshkit.hooks.courier}."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed

from meshkit.errors import StorageFailed
from meshkit.feed.store import GONE
from meshkit.hooks import places
from meshkit.hooks.config import Hook
from meshkit.hooks.courier import DATABASE_PAUSE, PASSED, Courier
from meshkit.hooks.retries import Failed
from meshkit.interfaces import Arrival, MessagesStored
from meshkit.testing.identities import Author, make_identity
from tests.hooks.support import PartCase

OOPS = Failed("it answered 500")
NO = Failed("it answered 422", final=True)


class FakeDelivery:
    """
    A receiver that does what it is told.

    @ivar plan: what comes of the next attempts; L{None} is success, and so is what follows
        the plan.
    @ivar tried: the positions that were tried, with the number of the attempt.
    @ivar taken: positions that were delivered.
    """

    def __init__(self) -> None:
        self.plan: list[Failed | None] = []
        self.tried: list[tuple[int, int]] = []
        self.taken: list[int] = []
        self.texts: list[bytes] = []
        self.slow = False
        self.waiting: Deferred[Failed | None] | None = None

    def deliver(self, arrival: Arrival, attempt: int) -> Deferred[Failed | None]:
        self.tried.append((arrival.message.position, attempt))
        if self.slow:
            self.waiting = Deferred()
            return self.waiting
        outcome = self.plan.pop(0) if self.plan else None
        if outcome is None:
            self.taken.append(arrival.message.position)
            self.texts.append(arrival.text)
        return succeed(outcome)

    def stop(self) -> None:
        if self.waiting is not None:
            waiting, self.waiting = self.waiting, None
            waiting.callback(Failed("stopped"))


class CourierCase(PartCase):
    def setUp(self) -> None:
        super().setUp()
        self.delivery = FakeDelivery()
        self.couriers: list[Courier] = []

    def tearDown(self) -> None:
        for courier in self.couriers:
            self.done(courier.stop())
        super().tearDown()

    def courier(self, *, start: bool = True, max_parked: int = 3, **fields: Any) -> Courier:
        fields = {"name": "a", "pause": 2.0, "max_attempts": 3, "per_minute": 600_000, **fields}
        courier = Courier(
            self.clock,
            Random(1),
            self.context.wall_clock,
            self.context.database,
            self.store,
            Hook(**fields),
            "command",
            self.delivery,
            max_parked,
        )
        self.couriers.append(courier)
        self.context.events.subscribe(
            MessagesStored, lambda event: courier.ring(event.messages[-1].position)
        )
        self.done(courier.load())
        if start:
            courier.start()
            self.run_for()
        return courier

    def stop(self, courier: Courier) -> None:
        self.done(courier.stop())
        self.couriers.remove(courier)

    def parked(self, name: str = "a") -> list[places.Parked]:
        found: list[places.Parked] = self.done(
            self.context.database.read(partial(places.list_parked, hook=name, after=0, limit=1000))
        )
        return found


class Delivering(CourierCase):
    def test_what_is_stored_from_now_on_is_delivered_once_and_in_order(self) -> None:
        self.publish("before")
        courier = self.courier()
        self.assertEqual(self.delivery.taken, [])
        raws = self.publish("a", "b", "c")
        self.run_for()
        self.assertEqual(self.delivery.taken, [2, 3, 4])
        self.assertEqual(self.delivery.texts, [raw[:-1] + b',"chain_valid":true}' for raw in raws])
        self.assertEqual((courier.state, courier.delivered, courier.failures), ("idle", 3, 0))

    def test_one_that_begins_at_the_beginning_gets_everything(self) -> None:
        self.publish(*range(250))
        self.courier(begin="beginning")
        self.assertEqual(self.delivery.taken, list(range(1, 251)))

    def test_what_comes_while_one_is_delivered_is_not_missed(self) -> None:
        self.courier()
        self.delivery.slow = True
        self.publish("a")
        self.publish("b", "c")
        self.delivery.slow = False
        self.delivery.stop()
        self.run_for(3)
        self.assertEqual(self.delivery.taken, [1, 2, 3])

    def test_only_one_is_delivered_at_a_time(self) -> None:
        self.courier()
        self.delivery.slow = True
        self.publish("a", "b")
        self.run_for(1000)
        self.assertEqual(self.delivery.tried, [(1, 1)])

    def test_how_far_behind_it_is_shows_while_it_waits(self) -> None:
        courier = self.courier()
        self.delivery.slow = True
        self.publish("a")
        self.publish("b")
        self.assertEqual((courier.place.position, courier.newest), (0, 2))

    def test_authors_types_and_tags_restrict(self) -> None:
        ada, bob = Author("ada"), Author("bob")
        messages = [
            ada.write({"type": "x"}, tags=("t", "u")),
            ada.write({"type": "y"}, tags=("t",)),
            ada.write({"type": "x"}),
            bob.write({"type": "x"}, tags=("t",)),
        ]
        for fields, expected in (
            ({"name": "all"}, [1, 2, 3, 4]),
            ({"name": "author", "authors": (make_identity("ada").public.text,)}, [1, 2, 3]),
            (
                {
                    "name": "both",
                    "authors": (make_identity("ada").public.text, make_identity("bob").public.text),
                },
                [1, 2, 3, 4],
            ),
            ({"name": "type", "types": ("x", "z")}, [1, 3, 4]),
            ({"name": "tag", "tags": ("u", "t")}, [1, 2, 4]),
            (
                {
                    "name": "every",
                    "authors": (make_identity("ada").public.text,),
                    "types": ("x",),
                    "tags": ("t",),
                },
                [1],
            ),
            ({"name": "none", "types": ("z",)}, []),
        ):
            with self.subTest(**fields):
                if not self.done(self.store.heads()):
                    self.done(self.store.ingest([message.raw for message in messages]))
                self.delivery.taken = []
                courier = self.courier(begin="beginning", **fields)
                self.assertEqual(self.delivery.taken, expected)
                self.assertEqual(courier.place.position, 4)

    def test_no_more_than_the_rate_allows(self) -> None:
        courier = self.courier(per_minute=6)
        self.publish(*range(4))
        self.run_for()
        self.assertEqual(self.delivery.taken, [1])
        self.assertEqual(courier.state, "waiting")
        self.run_for(10.1)
        self.assertEqual(self.delivery.taken, [1, 2])
        courier.retry()
        self.run_for()
        self.assertEqual(self.delivery.taken, [1, 2], "a retry is no way around the rate")
        self.run_for(20)
        self.assertEqual(self.delivery.taken, [1, 2, 3, 4])


class Restarting(CourierCase):
    def test_it_goes_on_where_it_was(self) -> None:
        courier = self.courier()
        self.publish("a", "b")
        self.run_for()
        self.stop(courier)
        self.publish("c")
        self.close()
        self.open()
        self.courier()
        self.assertEqual(self.delivery.taken, [1, 2, 3])

    def test_after_a_crash_only_the_one_under_way_comes_again(self) -> None:
        self.courier()
        self.publish("a", "b")
        self.run_for()
        self.delivery.slow = True
        self.publish("c", "d")
        self.run_for()
        # The process dies: nothing is told to stop.
        lost = self.couriers.pop()
        self.delivery.slow, self.delivery.waiting = False, None
        self.open()
        self.courier()
        self.assertEqual(self.delivery.tried, [(1, 1), (2, 1), (3, 1), (3, 1), (4, 1)])
        self.assertIsNotNone(lost)

    def test_a_stop_in_the_middle_is_not_held_against_the_receiver(self) -> None:
        courier = self.courier(max_attempts=1)
        self.delivery.slow = True
        self.publish("a")
        self.run_for()
        self.stop(courier)
        self.assertEqual((courier.failures, self.parked()), (0, []))
        self.delivery.slow = False
        self.courier(max_attempts=1)
        self.assertEqual((self.delivery.taken, self.delivery.tried[-1]), ([1], (1, 1)))

    def test_failed_attempts_are_remembered(self) -> None:
        courier = self.courier()
        self.delivery.plan = [OOPS, OOPS, OOPS]
        self.publish("a")
        self.run_for()
        self.stop(courier)
        self.run_for(100)
        courier = self.courier()
        self.run_for(100)
        self.assertEqual([attempt for _, attempt in self.delivery.tried], [1, 2, 3])
        self.assertEqual([each.attempts for each in self.parked()], [3])

    def test_attempts_are_those_of_one_message(self) -> None:
        """It may be for others after a restart."""
        courier = self.courier()
        self.delivery.plan = [OOPS, OOPS]
        self.publish("a")
        self.publish("b", tags=["t"])
        self.run_for()
        while len(self.delivery.tried) < 2:
            self.run_for(1)
        self.stop(courier)
        self.delivery.plan = [OOPS]
        self.courier(tags=("t",))
        self.run_for(60)
        self.assertEqual(self.delivery.tried, [(1, 1), (1, 2), (2, 1), (2, 2)])
        self.assertEqual(self.parked(), [])

    def test_messages_that_it_is_not_for_are_not_looked_at_twice(self) -> None:
        courier = self.courier(types=("rare",))
        self.publish(*range(PASSED + 5))
        self.run_for()
        place = self.done(self.context.database.read(partial(places.load_place, hook="a")))
        self.assertGreaterEqual(place.position, PASSED)
        self.publish("one more")
        self.stop(courier)
        place = self.done(self.context.database.read(partial(places.load_place, hook="a")))
        self.assertEqual(place.position, PASSED + 6)

    def test_a_new_hook_does_not_lose_what_is_stored_while_the_node_is_down(self) -> None:
        self.stop(self.courier())
        self.publish("while it was not running")
        self.courier()
        self.assertEqual(self.delivery.taken, [1])


class Failing(CourierCase):
    def test_it_is_tried_again_after_longer_and_longer_pauses(self) -> None:
        courier = self.courier(max_attempts=6)
        self.delivery.plan = [OOPS] * 5
        started = self.clock.seconds()
        self.publish("a", "b")
        self.run_for()
        self.assertEqual((courier.state, courier.place.failing), ("waiting", 1))
        self.assertIsNotNone(courier.next_attempt)
        self.run_for(2 + 4 + 8 + 16 + 32)
        self.assertEqual([each for each in self.delivery.tried if each[0] == 1][-1], (1, 6))
        self.assertEqual(self.delivery.taken, [1, 2], "in order, although the first failed")
        self.assertEqual((courier.failures, courier.place.failing, self.parked()), (5, 0, []))
        self.assertLess(started, self.clock.seconds())

    def test_after_so_many_attempts_it_is_parked_and_the_next_one_follows(self) -> None:
        courier = self.courier()
        self.delivery.plan = [OOPS] * 3
        self.publish("a", "b")
        self.run_for(100)
        self.assertEqual(self.delivery.taken, [2])
        (parked,) = self.parked()
        self.assertEqual(
            (parked.position, parked.attempts, parked.error, parked.again),
            (1, 3, "it answered 500", False),
        )
        self.assertEqual(parked.author, self.context.identity.public.raw)
        self.assertEqual((courier.parked, courier.last_error), (1, "it answered 500"))

    def test_what_is_refused_for_good_is_parked_at_once(self) -> None:
        self.courier(max_attempts=100)
        self.delivery.plan = [NO]
        self.publish("a", "b")
        self.run_for()
        self.assertEqual((self.delivery.tried, self.delivery.taken), ([(1, 1), (2, 1)], [2]))

    def test_what_has_failed_for_too_long_is_parked(self) -> None:
        self.courier(max_attempts=1000, max_age=60, pause=10.0, max_pause=10.0)
        self.delivery.plan = [OOPS] * 1000
        self.publish("a")
        self.run_for(60)
        self.assertEqual(self.parked(), [])
        self.run_for(20)
        self.assertEqual([each.position for each in self.parked()], [1])

    def test_a_receiver_that_is_away_is_not_tried_faster_for_each_message(self) -> None:
        courier = self.courier(max_attempts=2, max_parked=1000)
        self.delivery.plan = [OOPS] * 10_000
        self.publish(*range(100))
        self.run_for(24 * 3600)
        # At half an hour each, on average.
        self.assertLess(len(self.delivery.tried), 120)
        self.assertEqual(courier.place.failing, len(self.delivery.tried))

    def test_its_wish_to_be_left_alone_is_heeded(self) -> None:
        self.courier()
        self.delivery.plan = [Failed("it answered 429", retry_after=600.0)]
        self.publish("a")
        self.run_for(599)
        self.assertEqual(self.delivery.taken, [])
        self.run_for(3)
        self.assertEqual(self.delivery.taken, [1])

    def test_with_too_many_parked_it_waits_and_loses_none(self) -> None:
        courier = self.courier(max_attempts=1, max_parked=2)
        self.delivery.plan = [NO] * 2
        self.publish("a", "b", "c", "d")
        self.run_for(1000)
        self.assertEqual((courier.state, courier.parked), ("held", 2))
        self.assertEqual(self.delivery.tried, [(1, 1), (2, 1)])
        self.stop(courier)
        courier = self.courier(max_attempts=1, max_parked=2)
        self.assertEqual((courier.state, self.delivery.taken), ("held", []))
        self.assertEqual(self.done(courier.discard(1)), 1)
        self.run_for()
        self.assertEqual((courier.state, self.delivery.taken), ("idle", [3, 4]))
        self.assertEqual([each.position for each in self.parked()], [2])


class Retrying(CourierCase):
    def again(self, courier: Courier, position: int | None = None) -> int:
        count: int = self.done(
            self.context.database.write(partial(places.mark_again, hook="a", position=position))
        )
        courier.retry()
        self.run_for()
        return count

    def test_parked_messages_are_tried_once_more_when_asked_for(self) -> None:
        courier = self.courier(max_attempts=1)
        self.delivery.plan = [NO, NO]
        self.publish("a", "b", "c")
        self.run_for()
        self.assertEqual(self.again(courier, 2), 1)
        self.assertEqual(self.delivery.taken, [3, 2])
        self.assertEqual([each.position for each in self.parked()], [1])
        self.delivery.plan = [OOPS]
        self.again(courier)
        (parked,) = self.parked()
        self.assertEqual(
            (parked.attempts, parked.error, parked.again), (2, "it answered 500", False)
        )
        self.assertEqual((courier.parked, courier.place.failing), (1, 1))
        self.again(courier)
        self.assertEqual(courier.place.failing, 0)
        self.assertEqual((self.delivery.taken, self.parked(), courier.parked), ([3, 2, 1], [], 0))

    def test_a_parked_message_that_is_kept_no_more_is_forgotten(self) -> None:
        courier = self.courier(max_attempts=1)
        self.delivery.plan = [NO]
        self.publish("a")
        self.run_for()
        gone = f"UPDATE feed_messages SET shown_ns = {GONE}"
        self.done(self.context.database.write(lambda connection: connection.execute(gone).rowcount))
        self.again(courier)
        self.assertEqual((self.parked(), courier.parked, courier.state), ([], 0, "idle"))
        self.assertEqual(self.delivery.taken, [])

    def test_a_wish_survives_a_restart(self) -> None:
        courier = self.courier(max_attempts=1)
        self.delivery.plan = [NO]
        self.publish("a")
        self.run_for()
        self.stop(courier)
        self.done(self.context.database.write(partial(places.mark_again, hook="a", position=None)))
        self.courier()
        self.assertEqual((self.delivery.taken, self.parked()), ([1], []))

    def test_the_next_attempt_can_be_had_at_once(self) -> None:
        courier = self.courier()
        self.delivery.plan = [Failed("x", retry_after=3000.0)]
        self.publish("a")
        self.run_for(10)
        self.assertEqual(self.delivery.taken, [])
        self.again(courier)
        self.assertEqual(self.delivery.taken, [1])

    def test_parked_ones_do_not_wait_for_one_that_fails(self) -> None:
        courier = self.courier(max_attempts=100)
        self.delivery.plan = [NO, OOPS, None, OOPS]
        self.publish("a", "b")
        self.run_for()
        self.again(courier)
        self.assertEqual(self.delivery.taken, [1])
        self.run_for(100)
        self.assertEqual(self.delivery.taken, [1, 2])

    def test_one_that_is_dropped_while_it_is_tried_stays_dropped(self) -> None:
        courier = self.courier(max_attempts=1)
        self.delivery.plan = [NO]
        self.publish("a")
        self.run_for()
        self.delivery.slow = True
        self.again(courier)
        self.assertEqual(self.done(courier.discard(None)), 1)
        assert self.delivery.waiting is not None
        self.delivery.waiting.callback(OOPS)
        self.run_for()
        self.assertEqual((self.parked(), courier.parked), ([], 0))
        self.delivery.waiting = None


class TroubledDatabase(CourierCase):
    def test_what_cannot_be_noted_is_not_gone_on_from(self) -> None:
        courier = self.courier()
        write = self.context.database.write
        self.patch(
            self.context.database, "write", lambda job: fail(StorageFailed("the disk is full"))
        )
        courier.ring(0)
        self.run_for()
        # Written by others, while we cannot.
        self.patch(self.context.database, "write", write)
        self.publish("a", "b")
        self.patch(
            self.context.database, "write", lambda job: fail(StorageFailed("the disk is full"))
        )
        self.run_for(3 * DATABASE_PAUSE)
        self.assertLessEqual(len(self.delivery.tried), 2)
        self.patch(self.context.database, "write", write)
        self.run_for(2 * DATABASE_PAUSE)
        self.assertEqual(self.delivery.taken, [1, 2])

    def test_a_read_that_fails_is_made_again(self) -> None:
        courier = self.courier()
        self.patch(self.feed, "arrivals", lambda *args: fail(StorageFailed("no")))
        self.publish("a")
        self.run_for()
        self.assertEqual((courier.state, courier.last_error), ("waiting", "no"))
        del self.feed.__dict__["arrivals"]
        self.run_for(DATABASE_PAUSE)
        self.assertEqual(self.delivery.taken, [1])

    def test_a_fault_of_ours_is_logged_and_shown(self) -> None:
        courier = self.courier()
        self.patch(self.delivery, "deliver", lambda *args: 1 / 0)
        self.publish("a")
        self.run_for()
        self.assertEqual(courier.state, "broken")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Whatever(CourierCase):
    """However a receiver behaves, and whenever the node is stopped, nothing is lost."""

    def tearDown(self) -> None:
        for courier in self.couriers:
            self.done(courier.stop())
        self.close()
        self.backing.close()

    @given(
        plan=st.lists(st.sampled_from((None, OOPS, NO)), max_size=40),
        moments=st.lists(st.integers(0, 30), max_size=6),
        crash=st.booleans(),
    )
    def test_every_message_is_delivered_or_parked(
        self, plan: list[Failed | None], moments: list[int], crash: bool
    ) -> None:
        self.tearDown()
        self.setUp()
        self.delivery.plan = list(plan)
        for number, moment in enumerate([*moments, 10_000]):
            courier = self.courier(max_parked=1000)
            self.publish(number, -number)
            self.run_for(moment)
            if crash and moment != 10_000:
                self.couriers.remove(courier)
                self.context.events._subscriptions.clear()
                courier._stopping = True
                self.open()
            elif moment != 10_000:
                self.stop(courier)
        everything = list(range(1, 2 * len(moments) + 3))
        parked = [each.position for each in self.parked()]
        self.assertEqual(sorted({*self.delivery.taken, *parked}), everything)
        if not crash:
            self.assertEqual(sorted([*self.delivery.taken, *parked]), everything)
        # First attempts are made in order.
        first = [position for position, attempt in self.delivery.tried if attempt == 1]
        self.assertEqual(first, sorted(first))
