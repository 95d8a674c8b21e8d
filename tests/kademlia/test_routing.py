"""Tests of L{meshkit.kademlia.routing}."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from random import Random
from typing import Final

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.kademlia.blocks import BUCKET_LIMIT, TABLE_LIMIT
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import bucket_index, closest, flipped, shared_bits
from meshkit.kademlia.routing import (
    ANCHORS,
    CUT_OFF,
    FRESH,
    HISTORY,
    MAX_CHECKS,
    MAX_DEPTH,
    MAX_FAILURES,
    MAX_LOST,
    MAX_WAITING,
    QUIET,
    REFRESH,
    K,
    Remembered,
    RoutingTable,
)
from tests.kademlia.support import contact, contact_at, host_of

OWN: Final = contact(0).id
NOW: Final = 1_000_000.0


@cache
def in_bucket(index: int, count: int) -> tuple[Contact, ...]:
    """So many contacts of that bucket of ours, all of different providers."""
    found = []
    for n in range(1, 20_000):
        each = contact(n, host_of(n % 128 << 16 | n))
        if bucket_index(OWN, each.id) == index:
            found.append(each)
            if len(found) == count:
                return tuple(found)
    raise AssertionError(f"there are only {len(found)}")


def crowd(count: int, index: int = 0) -> list[Contact]:
    """So many contacts of one bucket, all of one /24."""
    return [evolve(each, blocks=contact(1, "9.9.9.9").blocks) for each in in_bucket(index, count)]


def filled(contacts: Iterable[Contact], now: float = NOW) -> RoutingTable:
    table = RoutingTable(OWN)
    for each in contacts:
        table.answered(each, now)
    return table


class Filling(SynchronousTestCase):
    def test_who_answers_is_in(self) -> None:
        table = filled(in_bucket(0, 3) + in_bucket(2, 2))
        self.assertEqual(len(table), 5)
        self.assertEqual(table.sizes(), {0: 3, 2: 2})
        self.assertEqual(set(table), {*in_bucket(0, 3), *in_bucket(2, 2)})
        self.assertIn(in_bucket(2, 1)[0].id, table)
        self.assertNotIn(in_bucket(1, 1)[0].id, table)

    def test_we_are_not_in_our_own_table(self) -> None:
        table = filled([contact(0)])
        self.assertEqual(len(table), 0)
        self.assertNotIn(OWN, table)
        self.assertIsNone(table.offer(contact(0), NOW))
        table.failed(OWN, NOW)
        table.remove(OWN)

    def test_a_bucket_has_twenty_and_keeps_the_old(self) -> None:
        table = filled(in_bucket(0, K + MAX_WAITING + 5))
        self.assertEqual(set(table), set(in_bucket(0, K)))

    def test_a_newcomer_has_the_one_pinged_that_was_not_heard_of_for_longest(self) -> None:
        *old, newcomer, another = in_bucket(0, K + 2)
        table = filled(old)
        table.answered(old[0], NOW + 1)
        later = NOW + FRESH
        self.assertEqual(table.answered(newcomer, later), old[1])
        # One at a time is enough.
        self.assertIsNone(table.answered(another, later))
        self.assertNotIn(newcomer.id, table)

    def test_who_answers_the_ping_stays_and_the_next_is_pinged(self) -> None:
        *old, newcomer = in_bucket(0, K + 1)
        table = filled(old)
        later = NOW + FRESH
        pinged = table.answered(newcomer, later)
        assert pinged is not None
        table.answered(pinged, later + 1)
        self.assertEqual(set(table), set(old))
        self.assertEqual(table.answered(newcomer, later + 2), old[1])

    def test_who_does_not_makes_room_after_a_second_try(self) -> None:
        *old, newcomer, freshest = in_bucket(0, K + 2)
        table = filled(old)
        later = NOW + FRESH
        table.answered(newcomer, later)
        table.answered(freshest, later)
        again = table.failed(old[0].id, later + 5)
        self.assertEqual(again, old[0])
        self.assertIn(old[0].id, table)
        self.assertIsNone(table.failed(old[0].id, later + 10))
        self.assertEqual(set(table), {*old[1:], freshest})

    def test_who_came_in_late_may_be_the_one_not_heard_of_for_longest(self) -> None:
        *old, waiting, newcomer = in_bucket(0, K + 2)
        table = filled([*old, waiting])
        for each in old:
            table.answered(each, NOW + 500)
        table.remove(old[0].id)
        self.assertEqual(table.answered(newcomer, NOW + FRESH), waiting)

    def test_nobody_is_pinged_who_answered_just_now(self) -> None:
        *old, newcomer = in_bucket(0, K + 1)
        table = filled(old)
        self.assertIsNone(table.answered(newcomer, NOW + FRESH - 1))

    def test_unanswered_questions_count_as_pings_do_and_an_answer_ends_the_count(self) -> None:
        (one, other) = in_bucket(0, 2)
        table = filled([one, other])
        for _ in range(3):
            self.assertIsNone(table.failed(one.id, NOW))
            table.answered(one, NOW)
        self.assertIn(one.id, table)
        for _ in range(MAX_FAILURES):
            self.assertIsNone(table.failed(one.id, NOW))
        self.assertNotIn(one.id, table)

    def test_while_nobody_answers_nobody_is_thrown_out(self) -> None:
        some = in_bucket(0, 5)
        table = filled(some)
        for _ in range(MAX_FAILURES + 1):
            for each in some:
                self.assertIsNone(table.failed(each.id, NOW + CUT_OFF + 1))
        self.assertEqual(len(table), 5)
        table.answered(some[0], NOW + 100)
        for each in some[1:]:
            for _ in range(MAX_FAILURES):
                table.failed(each.id, NOW + 100 + CUT_OFF)
        self.assertEqual(list(table), [some[0]])

    def test_a_newer_record_replaces_an_older_one_and_not_the_other_way(self) -> None:
        old, new = contact(1), contact(1, sequence=2)
        table = filled([old, new])
        self.assertEqual([each.record.sequence for each in table], [2])
        table.answered(old, NOW)
        self.assertEqual([each.record.sequence for each in table], [2])

    def test_who_is_removed_is_gone_and_the_next_comes_in(self) -> None:
        *old, waiting, other = in_bucket(0, K + 2)
        table = filled([*old, waiting, other])
        table.remove(other.id)
        table.remove(old[3].id)
        self.assertIn(waiting.id, table)
        self.assertNotIn(old[3].id, table)
        table.remove(old[4].id)
        self.assertEqual(len(table), K - 1)
        self.assertEqual(table.lost(9), [])


class Offers(SynchronousTestCase):
    def test_who_comes_to_us_is_pinged_before_it_is_in(self) -> None:
        table = RoutingTable(OWN)
        each = contact(1)
        self.assertEqual(table.offer(each, NOW), each)
        self.assertIsNone(table.offer(each, NOW), "it is being pinged")
        self.assertNotIn(each.id, table)
        table.answered(each, NOW)
        self.assertIn(each.id, table)
        self.assertIsNone(table.offer(each, NOW), "it is in")

    def test_who_cannot_be_reached_is_not_in(self) -> None:
        table = RoutingTable(OWN)
        each = contact(1)
        table.offer(each, NOW)
        self.assertIsNone(table.failed(each.id, NOW))
        self.assertNotIn(each.id, table)
        self.assertEqual(table.offer(each, NOW), each)

    def test_nobody_is_pinged_for_whom_there_is_no_room(self) -> None:
        table = filled(in_bucket(0, K))
        self.assertIsNone(table.offer(in_bucket(0, K + 1)[-1], NOW))
        table = filled(crowd(BUCKET_LIMIT))
        self.assertIsNone(table.offer(crowd(BUCKET_LIMIT + 1)[-1], NOW))

    def test_who_comes_to_a_full_bucket_has_the_quietest_pinged(self) -> None:
        *old, newcomer = in_bucket(0, K + 1)
        table = filled(old)
        self.assertIsNone(table.offer(newcomer, NOW + FRESH - 1))
        self.assertEqual(table.offer(newcomer, NOW + FRESH), old[0])

    def test_a_question_is_a_sign_of_life_but_makes_no_history(self) -> None:
        *old, newcomer = in_bucket(0, K + 1)
        table = filled(old)
        self.assertIsNone(table.offer(old[0], NOW + HISTORY))
        self.assertEqual(table.offer(newcomer, NOW + HISTORY), old[1])
        self.assertEqual(table.elders(OWN, K), [])

    def test_who_asks_but_does_not_answer_is_no_use(self) -> None:
        *old, newcomer = in_bucket(0, K + 1)
        table = filled(old)
        table.failed(old[0].id, NOW)
        table.offer(old[0], NOW + FRESH)
        self.assertEqual(table.offer(newcomer, NOW + FRESH), old[0])

    def test_only_so_many_are_pinged_at_a_time(self) -> None:
        table = RoutingTable(OWN)
        some = [contact(n) for n in range(1, MAX_CHECKS + 2)]
        pinged = [each for each in some if table.offer(each, NOW) is not None]
        self.assertEqual(pinged, some[:-1])
        table.failed(some[0].id, NOW)
        self.assertEqual(table.offer(some[-1], NOW), some[-1])

    def test_a_ping_of_which_nothing_came_makes_room_for_another_and_says_nothing(self) -> None:
        *old, newcomer = in_bucket(0, K + 1)
        table = filled(old)
        self.assertEqual(table.offer(newcomer, NOW + FRESH), old[0])
        self.assertIsNone(table.offer(newcomer, NOW + FRESH))
        table.unchecked(old[0].id)
        self.assertEqual(table.offer(newcomer, NOW + FRESH), old[0])
        self.assertEqual(table.told(old[0].id, NOW, count=1), [old[0]])


class BlockLimits(SynchronousTestCase):
    def test_two_of_a_block_in_a_bucket(self) -> None:
        table = filled(crowd(5))
        self.assertEqual(set(table), set(crowd(BUCKET_LIMIT)))

    def test_ten_of_a_block_in_the_table(self) -> None:
        table = filled(each for index in range(6) for each in crowd(3, index))
        self.assertEqual(len(table), TABLE_LIMIT)
        self.assertEqual(table.sizes(), dict.fromkeys(range(5), BUCKET_LIMIT))

    def test_when_one_is_gone_another_of_its_block_takes_the_place(self) -> None:
        first, second, third = crowd(3)
        table = filled([first, second, third])
        for _ in range(MAX_FAILURES):
            table.failed(first.id, NOW)
        self.assertEqual(set(table), {second, third})

    def test_own_blocks_have_no_limit(self) -> None:
        table = filled(evolve(each, blocks=None) for each in crowd(K))
        self.assertEqual(len(table), K)

    def test_who_moves_into_a_full_block_is_out(self) -> None:
        first, second, third = crowd(3)
        table = filled([first, second, in_bucket(0, 3)[2]])
        self.assertEqual(len(table), 3)
        table.answered(third, NOW)
        self.assertEqual(set(table), {first, second})

    def test_one_block_does_not_take_all_places_of_those_that_wait(self) -> None:
        *old, other = in_bucket(0, K + 1)
        table = filled([*old, other])
        newcomers = crowd(2 * K + MAX_WAITING)[K + 1 :]
        for each in newcomers:
            table.answered(each, NOW)
        for each in old:
            table.remove(each.id)
        self.assertEqual(set(table), {other, *newcomers[:BUCKET_LIMIT]})


class Asking(SynchronousTestCase):
    def setUp(self) -> None:
        self.contacts = [contact(n, host_of(n % 128 << 16 | n)) for n in range(1, 400)]
        self.table = filled(self.contacts)

    def test_the_closest_are_those_of_a_full_sort(self) -> None:
        ids = [each.id for each in self.table]
        rng = Random(1)
        targets = [rng.randbytes(32) for _ in range(50)] + ids[:20] + [OWN]
        for target in targets:
            for count in (1, 7, K, 500):
                self.assertEqual(
                    [each.id for each in self.table.closest(target, count)],
                    closest(ids, target, count),
                )

    def test_those_that_failed_come_only_if_there_are_not_enough_others(self) -> None:
        target = Random(2).randbytes(32)
        first, second, third = self.table.closest(target, 3)
        self.table.failed(first.id, NOW)
        self.assertEqual(self.table.closest(target, 2), [second, third])
        whole = self.table.closest(target, len(self.table))
        self.assertEqual(whole[:3], [first, second, third])
        self.assertEqual(len(whole), len(self.table))

    def test_others_are_told_of_whom_they_can_reach(self) -> None:
        target = Random(3).randbytes(32)
        first, second, third, fourth = self.table.closest(target, 4)
        self.table.failed(first.id, NOW)
        short = evolve(third, record=evolve(third.record, sequence=9, expires=int(NOW * 1000)))
        self.table.answered(short, NOW)
        self.assertEqual(self.table.told(target, NOW - 1, count=3), [second, third, fourth])
        self.assertEqual(self.table.told(target, NOW, count=2), [second, fourth])
        told = self.table.told(target, NOW, asker=second.id)
        self.assertEqual((told[0], len(told)), (fourth, K))

    def test_a_history_is_seven_days_of_answers_or_trust(self) -> None:
        old, new, friend = self.contacts[:3]
        target = new.id
        self.table.answered(old, NOW + HISTORY)
        self.table.answered(new, NOW + HISTORY - 1)
        self.assertTrue(self.table.has_history(old.id))
        self.assertFalse(self.table.has_history(friend.id))
        self.assertFalse(self.table.has_history(OWN))
        self.assertEqual(self.table.elders(target, K), [old])
        found = self.table.elders(target, K, {friend.key})
        self.assertEqual(sorted(each.id for each in found), sorted([old.id, friend.id]))


class LookingAfter(SynchronousTestCase):
    def setUp(self) -> None:
        self.rng = Random(1)
        self.table = filled(contact(n, host_of(n % 128 << 16 | n)) for n in range(1, 400))

    def test_ourselves_and_each_bucket_before_our_neighbours(self) -> None:
        targets = self.table.refreshes(NOW, self.rng)
        self.assertEqual(targets[0], OWN)
        self.assertEqual(
            [bucket_index(OWN, target) for target in targets[1:]], list(range(self.table.depth()))
        )
        neighbours = closest([each.id for each in self.table], OWN, K)
        self.assertEqual(
            self.table.depth(), min(shared_bits(OWN, place) for place in neighbours) + 1
        )

    def test_what_was_looked_up_within_the_hour_is_not_due(self) -> None:
        for target in self.table.refreshes(NOW, self.rng):
            self.table.looked_up(target, NOW)
        self.assertEqual(self.table.refreshes(NOW + REFRESH - 1, self.rng), [])
        self.table.looked_up(in_bucket(1, 1)[0].id, NOW + 1)
        due = self.table.refreshes(NOW + REFRESH, self.rng)
        self.assertEqual(
            [bucket_index(OWN, target) for target in due[1:]],
            [index for index in range(self.table.depth()) if index != 1],
        )

    def test_a_clock_that_was_set_back_keeps_nothing_from_being_due(self) -> None:
        table, day = RoutingTable(OWN), 86_400.0
        for n in range(30):
            table.answered(contact(n), NOW + day)
        for target in table.refreshes(NOW + day, Random(1)):
            table.looked_up(target, NOW + day)
        self.assertEqual(table.refreshes(NOW + day, Random(1)), [])
        due = table.refreshes(NOW, Random(1))
        self.assertGreater(len(due), 1)
        for target in due:
            table.looked_up(target, NOW)
        self.assertEqual(table.refreshes(NOW, Random(1)), [])
        self.assertEqual(len(table.quiet(100, NOW)), len(table))
        for each in list(table):
            table.answered(each, NOW)
        self.assertEqual(table.quiet(100, NOW), [])
        # And whoever answers no more may go.
        gone = next(iter(table))
        for _ in range(MAX_FAILURES):
            table.failed(gone.id, NOW + 1)
        self.assertNotIn(gone.id, table)

    def test_a_clock_that_was_ahead_for_a_moment_makes_no_history(self) -> None:
        table = RoutingTable(OWN)
        for now in (NOW, NOW + HISTORY, NOW + 5):
            table.answered(contact(1), now)
        self.assertEqual(table.elders(OWN, K), [])

    def test_those_that_are_quiet_are_pinged_the_quietest_first(self) -> None:
        some = in_bucket(0, 4)
        table = RoutingTable(OWN)
        for n, each in enumerate(some):
            table.answered(each, NOW - n)
        table.offer(some[3], NOW + 5)
        later = NOW + QUIET
        self.assertEqual(table.quiet(9, later - 2.5), [])
        self.assertEqual(table.quiet(1, later), [some[2]])
        self.assertEqual(table.quiet(9, later), [some[1], some[0]], "one is pinged already")
        for each in some[:2]:
            table.answered(each, later)
        self.assertEqual(table.failed(some[2].id, later), some[2])
        self.assertIsNone(table.failed(some[2].id, later))
        self.assertEqual(set(table), {some[0], some[1], some[3]})

    def test_an_empty_table_looks_for_its_neighbours(self) -> None:
        self.assertEqual(RoutingTable(OWN).refreshes(NOW, self.rng), [OWN])

    def test_ids_that_somebody_made_near_ours_add_little_to_the_work(self) -> None:
        for bit in range(150, 256):
            self.table.answered(contact_at(flipped(OWN, bit), 1_000 + bit), NOW)
        self.assertEqual(max(self.table.sizes()), 255)
        self.assertEqual(self.table.depth(), MAX_DEPTH)
        self.assertEqual(len(self.table.refreshes(NOW, self.rng)), 1 + MAX_DEPTH)

    def test_who_is_gone_is_tried_again_in_turn(self) -> None:
        gone = in_bucket(0, 3)
        table = filled([*gone, *in_bucket(1, 1)])
        for each in gone:
            for _ in range(MAX_FAILURES):
                table.failed(each.id, NOW)
        self.assertEqual(table.lost(2), list(gone[:2]))
        self.assertEqual(table.lost(2), [gone[2], gone[0]])
        table.answered(gone[1], NOW + 9)
        self.assertIn(gone[1].id, table)
        self.assertEqual(set(table.lost(9)), {gone[0], gone[2]})

    def test_a_history_is_not_lost_with_the_connection(self) -> None:
        (one, other) = in_bucket(0, 2)
        table = filled([one, other])
        for _ in range(MAX_FAILURES):
            table.failed(one.id, NOW)
        table.answered(one, NOW + HISTORY)
        self.assertEqual(table.elders(one.id, K), [one])

    def test_of_those_that_are_gone_the_steadiest_are_remembered(self) -> None:
        steady = in_bucket(3, 1)[0]
        table = filled([steady])
        table.answered(steady, NOW + 500)
        for index in range(3):
            for each in in_bucket(index, 60):
                table.answered(each, NOW + 500)
                for _ in range(MAX_FAILURES):
                    table.failed(each.id, NOW + 500)
            for _ in range(MAX_FAILURES):
                table.failed(steady.id, NOW + 500)
        lost = table.lost(1_000)
        self.assertEqual(len(lost), MAX_LOST)
        self.assertIn(steady, lost)


class Restarts(SynchronousTestCase):
    def setUp(self) -> None:
        self.contacts = [contact(n) for n in range(1, 100)]
        self.table = RoutingTable(OWN)
        for n, each in enumerate(self.contacts):
            self.table.answered(each, NOW + n)
            self.table.answered(each, NOW + 1_000)

    def test_the_anchors_are_those_that_were_there_for_longest(self) -> None:
        kept = self.table.snapshot()
        inside = [each for each in self.contacts if each.id in self.table]
        self.assertEqual([each.contact for each in kept if each.anchor], inside[:ANCHORS])
        self.assertEqual(kept, sorted(kept, key=lambda each: not each.anchor))
        self.assertEqual({each.contact for each in kept}, set(inside))

    def test_no_two_anchors_are_of_one_provider(self) -> None:
        table = filled(crowd(BUCKET_LIMIT))
        table.answered(in_bucket(1, 1)[0], NOW + 1)
        kept = [each.contact for each in table.snapshot() if each.anchor]
        self.assertEqual(len(kept), 2)

    def test_what_was_kept_comes_back_untried(self) -> None:
        table = RoutingTable(OWN)
        anchors = table.restore(self.table.snapshot(), NOW + 2_000)
        self.assertEqual(len(anchors), ANCHORS)
        self.assertEqual(set(table), set(self.table))
        self.assertEqual(table.told(OWN, NOW), [], "nobody is told of who was not tried")
        self.assertEqual(table.closest(OWN), self.table.closest(OWN))
        table.answered(anchors[0], NOW + 2_000)
        self.assertEqual(table.told(OWN, NOW), [anchors[0]])
        table.failed(anchors[1].id, NOW + 2_001)
        self.assertNotIn(anchors[1].id, table)

    def test_a_history_outlives_a_restart(self) -> None:
        table = RoutingTable(OWN)
        table.restore(self.table.snapshot(), NOW)
        table.answered(self.contacts[0], NOW + HISTORY)
        self.assertEqual(table.elders(OWN, K), [self.contacts[0]])

    def test_what_was_kept_is_held_to_the_same_limits(self) -> None:
        table = RoutingTable(OWN)
        kept = [Remembered(each, NOW, NOW, True) for each in crowd(5) + crowd(5)]
        kept += [Remembered(each, NOW, NOW, True) for each in in_bucket(1, K + 5)]
        kept.append(Remembered(contact(0), NOW, NOW))
        anchors = table.restore(kept, NOW)
        self.assertEqual(table.sizes(), {0: BUCKET_LIMIT, 1: K})
        self.assertEqual(len(anchors), ANCHORS)

    def test_a_clock_that_was_set_back_makes_no_history(self) -> None:
        table = RoutingTable(OWN)
        table.restore([Remembered(contact(1), NOW, NOW + HISTORY)], NOW - 5)
        self.assertEqual(table.elders(OWN, K), [])


events = st.lists(
    st.tuples(
        st.sampled_from(
            ["answered", "answered", "answered", "offer", "failed", "remove", "lost", "quiet"]
        ),
        st.integers(0, 119),
        st.sampled_from([0.0, 1.0, 61.0, 1_000.0]),
    ),
    max_size=150,
)


class Anything(SynchronousTestCase):
    """What holds after any sequence of events."""

    @given(events, st.booleans())
    def test_the_limits_hold_and_the_counts_are_right(
        self, sequence: list[tuple[str, int, float]], full: bool
    ) -> None:
        table = filled(in_bucket(0, K + 5) if full else ())
        now = NOW
        for event, n, passed in sequence:
            now += passed
            # Six of each block; half of them in bucket 0, where there is room for a third.
            each = contact(n, host_of(n % 20 << 16 | n))
            before = set(table)
            if event == "answered":
                table.answered(each, now)
            elif event == "offer":
                table.offer(each, now)
            elif event == "failed":
                table.failed(each.id, now)
            elif event == "remove":
                table.remove(each.id)
            elif event == "lost":
                table.lost(n)
            else:
                table.quiet(n, now)
            gone = before - set(table)
            self.assertTrue(gone <= {each}, "who is in is not displaced")
            if event not in ("failed", "remove"):
                self.assertEqual(gone, set())
            self.check(table)

    def check(self, table: RoutingTable) -> None:
        everybody = list(table)
        self.assertEqual(len(table), len(everybody))
        self.assertEqual(len(set(everybody)), len(everybody))
        self.assertEqual(sum(table.sizes().values()), len(everybody))
        self.assertNotIn(0, table.sizes().values())
        in_all: dict[str, int] = {}
        for index, bucket in table._buckets.items():
            self.assertLessEqual(len(bucket.entries), K)
            self.assertLessEqual(len(bucket.waiting), MAX_WAITING)
            self.assertFalse(bucket.entries.keys() & bucket.waiting.keys())
            counts: dict[str, int] = {}
            for place, entry in (*bucket.entries.items(), *bucket.waiting.items()):
                self.assertEqual(place, entry.contact.id)
                self.assertEqual(bucket_index(OWN, place), index)
                self.assertLess(entry.failures, MAX_FAILURES)
            for entry in bucket.entries.values():
                assert entry.contact.blocks is not None
                narrow = entry.contact.blocks.narrow
                counts[narrow] = counts.get(narrow, 0) + 1
                in_all[narrow] = in_all.get(narrow, 0) + 1
            self.assertEqual(bucket.blocks._counts, counts)
            self.assertLessEqual(max(counts.values(), default=0), BUCKET_LIMIT)
        self.assertEqual(table._blocks._counts, in_all)
        self.assertLessEqual(max(in_all.values(), default=0), TABLE_LIMIT)
        self.assertLessEqual(len(table._checks), MAX_CHECKS)
        self.assertLessEqual(len(table._lost), MAX_LOST)
        self.assertFalse(table._lost.keys() & {each.id for each in everybody})
