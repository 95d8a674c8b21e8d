"""Tests of L{meshkit.gossip.spread}: what is known of peers, and what becomes of it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedFrame, NotAskedFor
from meshkit.gossip import spread as module
from meshkit.gossip.spread import (
    FIRST_PAUSE,
    GONE_AFTER,
    GRAFT_AFTER,
    LAZY,
    MADE_GOOD,
    MAX_CATCHING,
    MAX_ON,
    MAX_SEQUENCE,
    MIN_RATE,
    RECEIVE,
    REPLICATE,
    STRIKES,
    Forward,
    Partner,
    Spread,
    State,
    Turn,
)

FEED = b"feed".ljust(32)
OTHER = b"other".ljust(32)


def feed(number: int) -> bytes:
    return b"%032d" % number


class SpreadCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.spread = Spread()
        self.now = 0.0

    def join(self, name: str) -> Partner:
        return self.spread.join(name.encode().ljust(32))

    def hear(self, partner: Partner, sequence: int, have: int = 0, author: bytes = FEED) -> None:
        self.spread.heard(partner, author, sequence, have, self.now)

    def turn_on(self, partner: Partner, have: int = 0) -> list[tuple[bytes, int]]:
        """Choose and begin.  @return: the notes that are sent."""
        notes = []
        for author in self.spread.choose(partner, self.now):
            after = self.spread.begin(partner, author, have, self.now)
            if after is not None:
                notes.append((author, after))
        return notes

    def on(self, partner: Partner, goal: int, have: int = 0, author: bytes = FEED) -> None:
        self.hear(partner, goal, have, author)
        self.assertIn((author, have), self.turn_on(partner, have))

    def bring(self, partner: Partner, first: int, count: int = 1, size: int = 100) -> None:
        """Messages come and are stored."""
        self.spread.received(partner, FEED, first, count)
        self.spread.digested(partner, FEED, size)
        self.spread.stored(FEED, first + count - 1, self.now)


class Sources(SpreadCase):
    def test_who_is_ahead_becomes_the_source(self) -> None:
        a = self.join("a")
        self.hear(a, 5, 2)
        self.assertEqual(self.turn_on(a, 2), [(FEED, 2)])
        self.assertIs(self.spread.source(FEED), a)
        self.assertEqual(self.turn_on(a), [])

    def test_who_is_not_ahead_does_not(self) -> None:
        a = self.join("a")
        self.hear(a, 5, 5)
        self.assertEqual((self.turn_on(a), len(self.spread)), ([], 0))

    def test_a_feed_has_one_source(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.hear(a, 5)
        self.hear(b, 5)
        self.assertEqual(self.turn_on(a), [(FEED, 0)])
        self.assertEqual(self.turn_on(b), [])

    def test_what_came_from_elsewhere_meanwhile_is_not_turned_on(self) -> None:
        a = self.join("a")
        self.hear(a, 5)
        self.assertEqual(self.turn_on(a, have=5), [])
        self.assertEqual((len(a.on), len(a.due), len(self.spread)), (0, 0, 0))

    def test_the_peers_own_feed_comes_from_it_whoever_sent_it_before(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 5)
        self.assertEqual(self.spread.prefer(b, FEED), [a])
        self.assertEqual(self.spread.begin(b, FEED, 3, self.now), 3)
        self.assertIs(self.spread.source(FEED), b)
        self.assertIs(a.on[FEED].state, State.STOPPING)
        self.assertEqual(self.spread.prefer(a, OTHER), [])
        self.assertEqual(self.spread.begin(a, OTHER, 0, self.now), 0)

    def test_a_second_link_with_the_author_changes_nothing(self) -> None:
        a, again = self.join("a"), self.join("a")
        self.spread.prefer(a, FEED)
        self.assertEqual(self.spread.prefer(again, FEED), [])
        self.assertEqual(again.on, {})

    def test_a_lost_source_is_replaced_by_who_is_ahead(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 5)
        self.hear(b, 5)
        self.spread.leave(a)
        self.assertEqual(self.turn_on(b), [(FEED, 0)])
        self.spread.leave(b)
        self.assertEqual(len(self.spread), 0)

    def test_a_lost_claimant_is_forgotten(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 5)
        self.hear(b, 9)
        self.spread.leave(b)
        self.assertIsNone(self.spread.next_graft())

    def test_so_many_feeds_are_caught_up_with_at_a_time(self) -> None:
        a = self.join("a")
        for n in range(MAX_CATCHING + 5):
            self.hear(a, 1, author=feed(n))
        self.assertEqual(len(self.turn_on(a)), MAX_CATCHING)
        self.assertEqual(self.turn_on(a), [])
        self.spread.received(a, feed(0), 1, 1)
        self.assertEqual(len(self.turn_on(a)), 1)

    def test_what_is_not_replicated_any_more_is_turned_off(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 5)
        self.hear(b, 5)
        self.assertEqual(self.spread.drop_feed(FEED), [a])
        self.assertEqual((self.turn_on(b), len(self.spread)), ([], 0))


class Turning(SpreadCase):
    def test_a_feed_is_on_again_only_after_the_peer_stopped_it(self) -> None:
        a = self.join("a")
        self.on(a, 5)
        self.assertTrue(self.spread.turn_off(a, FEED))
        self.assertFalse(self.spread.turn_off(a, FEED))
        self.hear(a, 5)
        self.assertEqual(self.turn_on(a), [])
        self.spread.stopped(a, FEED)
        self.assertEqual(self.turn_on(a), [(FEED, 0)])

    def test_what_was_not_turned_off_cannot_be_stopped(self) -> None:
        a = self.join("a")
        self.assertRaises(MalformedFrame, self.spread.stopped, a, FEED)
        self.on(a, 5)
        self.assertRaises(MalformedFrame, self.spread.stopped, a, FEED)
        self.spread.turn_off(a, FEED)
        self.spread.stopped(a, FEED)
        self.assertRaises(MalformedFrame, self.spread.stopped, a, FEED)

    def test_what_is_on_its_way_may_arrive(self) -> None:
        a = self.join("a")
        self.on(a, 5)
        self.spread.turn_off(a, FEED)
        self.bring(a, 1, 2)
        self.spread.stopped(a, FEED)
        self.assertRaises(NotAskedFor, self.spread.received, a, FEED, 3, 1)

    def test_the_longest_quiet_make_room(self) -> None:
        self.patch(module, "MAX_ON", 8)
        self.patch(module, "MAX_CATCHING", 2)
        a = self.join("a")
        for n in range(6):
            self.hear(a, 1, author=feed(n))
            self.assertEqual(len(self.turn_on(a)), 1)
            self.assertEqual(self.spread.make_room(a), [])
            self.spread.received(a, feed(n), 1, 1)
        self.spread.received(a, feed(0), 2, 1)
        self.hear(a, 1, author=feed(6))
        self.assertEqual(len(self.turn_on(a)), 1)
        self.assertEqual(self.spread.make_room(a), [])
        self.hear(a, 1, author=feed(7))
        self.assertEqual(self.spread.make_room(a), [feed(n) for n in (1, 2, 3, 4)])
        self.assertEqual(self.spread.make_room(a), [])
        # Until the peer says that it stopped, they count.
        self.assertEqual(len(self.turn_on(a)), 1)
        self.hear(a, 1, author=feed(8))
        self.assertEqual(self.turn_on(a), [])
        self.assertEqual(len(a.on), 8)
        for n in (1, 2, 3, 4):
            self.spread.stopped(a, feed(n))
        self.spread.received(a, feed(6), 1, 1)
        self.assertEqual(len(self.turn_on(a)), 1)


class Arriving(SpreadCase):
    def test_messages_come_one_by_one(self) -> None:
        a = self.join("a")
        self.on(a, 9)
        self.bring(a, 1, 3)
        self.bring(a, 4, 1)
        for wrong in (1, 4, 6):
            self.assertRaises(NotAskedFor, self.spread.received, a, FEED, wrong, 1)

    def test_of_feeds_that_are_on(self) -> None:
        a = self.join("a")
        self.assertRaises(NotAskedFor, self.spread.received, a, FEED, 1, 1)
        self.hear(a, 3)
        self.spread.choose(a, 0.0)
        self.assertRaises(NotAskedFor, self.spread.received, a, FEED, 1, 1)

    def test_what_the_peer_had_from_us_is_skipped(self) -> None:
        """... up to what we have, and no further."""
        a = self.join("a")
        self.on(a, 2)
        self.bring(a, 1, 2)
        self.spread.stored(FEED, 5, self.now)
        self.assertRaises(NotAskedFor, self.spread.received, a, FEED, 7, 1)
        self.bring(a, 6)
        self.assertRaises(NotAskedFor, self.spread.received, a, FEED, 5, 1)

    def test_the_peer_has_what_it_sent(self) -> None:
        a = self.join("a")
        self.on(a, 2)
        self.spread.received(a, FEED, 1, 2)
        self.assertIs(self.spread.forward(a, FEED, 1, 2), Forward.NOTHING)


class Grafting(SpreadCase):
    def test_who_stays_ahead_of_the_source_takes_over(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 1)
        self.bring(a, 1)
        self.now = 10.0
        self.hear(b, 2, 1)
        self.assertEqual(self.spread.next_graft(), 10.0 + GRAFT_AFTER)
        self.assertEqual(self.spread.grafts(10.0 + GRAFT_AFTER - 0.1), [])
        self.assertEqual(self.spread.grafts(10.0 + GRAFT_AFTER), [(a, FEED)])
        self.assertEqual(self.turn_on(b, 1), [(FEED, 1)])
        self.assertIs(self.spread.source(FEED), b)

    def test_not_if_the_message_came(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 1)
        self.bring(a, 1)
        self.hear(b, 2, 1)
        self.bring(a, 2)
        self.assertIsNone(self.spread.next_graft())
        self.assertEqual(b.claims, {})

    def test_nor_as_long_as_the_feed_moves(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 1)
        self.hear(b, 100)
        for n in range(1, 9):
            self.now = n * (GRAFT_AFTER - 1)
            self.assertEqual(self.spread.grafts(self.now), [])
            self.bring(a, n)

    def test_nor_if_the_source_says_that_it_has_it_too(self) -> None:
        """... then it has a minute."""
        a, b = self.join("a"), self.join("b")
        self.on(a, 9)
        self.hear(b, 9)
        self.assertIsNone(self.spread.next_graft())
        self.hear(b, 10)
        self.assertIsNotNone(self.spread.next_graft())
        self.hear(a, 10)
        self.assertEqual(self.spread.grafts(GRAFT_AFTER), [])

    def test_nor_to_one_who_is_lazy(self) -> None:
        a, b = self.join("a"), self.join("b")
        for _ in range(STRIKES):
            self.spread.strike(b, 0.0)
        self.on(a, 1)
        self.hear(b, 2)
        self.assertEqual(self.spread.grafts(GRAFT_AFTER), [])


class Promises(SpreadCase):
    def test_what_is_not_made_good_is_found_when_the_time_is_over(self) -> None:
        a = self.join("a")
        self.on(a, 9)
        self.assertEqual(self.spread.next_judgement(a), MADE_GOOD)
        self.assertEqual(self.spread.late(a, MADE_GOOD - 1), [])
        self.assertEqual(self.spread.late(a, MADE_GOOD), [FEED])

    def test_what_reached_its_goal_is_not_late(self) -> None:
        a = self.join("a")
        self.on(a, 1)
        self.bring(a, 1)
        self.assertIsNone(self.spread.next_judgement(a))
        self.assertEqual(self.spread.late(a, 999.0), [])

    def test_the_time_begins_with_the_promise(self) -> None:
        a = self.join("a")
        self.on(a, 1)
        self.bring(a, 1)
        self.now = 1_000.0
        self.hear(a, 2, 1)
        self.assertEqual(self.spread.next_judgement(a), 1_000.0 + MADE_GOOD)

    def test_dripping_is_not_making_good(self) -> None:
        a = self.join("a")
        self.on(a, 9_999)
        self.bring(a, 1, size=int(MIN_RATE * MADE_GOOD) - 1)
        self.assertEqual(self.spread.late(a, MADE_GOOD), [FEED])

    def test_the_rate_is_enough_and_nothing_is_kept_for_later(self) -> None:
        a = self.join("a")
        self.on(a, 9_999)
        self.bring(a, 1, size=int(MIN_RATE * MADE_GOOD) * 5)
        self.assertEqual(self.spread.late(a, MADE_GOOD), [])
        self.assertEqual(self.spread.next_judgement(a), 2 * MADE_GOOD)
        self.assertEqual(self.spread.late(a, 2 * MADE_GOOD), [FEED])

    def test_feeds_that_wait_for_their_turn_on_a_slow_link_are_not_late(self) -> None:
        a = self.join("a")
        self.on(a, 9_999)
        self.on(a, 9, author=OTHER)
        self.bring(a, 1, size=int(MIN_RATE * MADE_GOOD))
        self.assertEqual(self.spread.late(a, MADE_GOOD), [])
        # Passed over again and again is not waiting for a turn.
        for n in range(2, 5):
            self.bring(a, n, size=int(MIN_RATE * MADE_GOOD))
        self.assertEqual(self.spread.late(a, 2 * MADE_GOOD), [OTHER])

    def test_while_our_store_is_slow_nobody_is_late(self) -> None:
        a = self.join("a")
        self.on(a, 9)
        self.spread.received(a, FEED, 1, 1)
        self.assertEqual(self.spread.late(a, 999.0), [])

    def test_three_strikes_make_lazy_for_an_hour_also_over_another_link(self) -> None:
        a = self.join("a")
        self.assertEqual([self.spread.strike(a, n) for n in range(STRIKES)], [False, False, True])
        self.spread.leave(a)
        again = self.join("a")
        self.hear(again, 5)
        self.now = STRIKES - 1 + LAZY - 0.1
        self.assertEqual(self.turn_on(again), [])
        self.now = STRIKES - 1 + LAZY
        self.assertEqual(self.turn_on(again), [(FEED, 0)])

    def test_old_strikes_do_not_count(self) -> None:
        a = self.join("a")
        for n in range(STRIKES * 2):
            self.assertFalse(self.spread.strike(a, n * LAZY / 2))


class Refusing(SpreadCase):
    def test_what_is_behind_a_refused_message_is_not_asked_for_again(self) -> None:
        a = self.join("a")
        self.on(a, 9, 3)
        self.assertTrue(self.spread.refuse(a, FEED, 4, self.now))
        self.spread.stopped(a, FEED)
        for sequence in (9, 10, 99):
            self.hear(a, sequence, 3)
            self.assertEqual(self.turn_on(a, 3), [])

    def test_until_the_place_was_filled_from_elsewhere(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 9, 3)
        self.spread.refuse(a, FEED, 4, self.now)
        self.spread.stopped(a, FEED)
        self.on(b, 4, 3)
        self.bring(b, 4)
        self.spread.leave(b)
        self.hear(a, 9, 4)
        self.assertEqual(self.turn_on(a, 4), [(FEED, 4)])

    def test_or_after_a_pause_that_doubles(self) -> None:
        a = self.join("a")
        for pause in (FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE):
            self.on(a, 9, 3)
            self.spread.refuse(a, FEED, 4, self.now)
            self.spread.stopped(a, FEED)
            self.now += pause - 1
            self.hear(a, 9, 3)
            self.assertEqual(self.turn_on(a, 3), [])
            self.now += 1

    def test_another_branch_is_followed_back_to_where_they_part(self) -> None:
        a = self.join("a")
        self.on(a, 50, 40)
        begun, first = [], 41
        for _ in range(4):
            self.spread.refuse(a, FEED, first, self.now, fork_from=first)
            self.spread.stopped(a, FEED)
            ((_, after),) = self.turn_on(a, 40)
            begun.append(after)
            first = after + 1
        self.assertEqual(begun, [39, 38, 36, 32])
        # Found: the first messages of the page were the same.
        self.spread.refuse(a, FEED, 35, self.now)
        self.spread.stopped(a, FEED)
        self.hear(a, 50, 34)
        self.assertEqual(self.turn_on(a, 34), [])

    def test_two_heads_at_one_place_are_followed_back_too(self) -> None:
        a = self.join("a")
        self.spread.parted(a, FEED, 40, 40)
        self.assertEqual(self.turn_on(a, 40), [(FEED, 39)])
        self.spread.agreed(a, FEED)
        self.spread.parted(a, FEED, 40, 40)

    def test_of_a_message_that_proves_a_fork_nothing_more_is_owed(self) -> None:
        a = self.join("a")
        self.on(a, 50, 40)
        self.spread.forked(FEED, 41)
        self.spread.refuse(a, FEED, 41, self.now, fork_from=41)
        self.spread.stopped(a, FEED)
        self.assertEqual(self.turn_on(a, 40), [(FEED, 39)])
        self.assertTrue(a.on[FEED].owed)
        self.spread.received(a, FEED, 40, 1)
        self.assertFalse(a.on[FEED].owed)

    def test_what_is_told_of_what_lies_behind_a_fork_is_not_owed(self) -> None:
        a = self.join("a")
        self.spread.parted(a, FEED, 3, 3)
        self.spread.choose(a, self.now)
        self.assertEqual(self.spread.begin(a, FEED, 3, self.now, last=3), 2)
        # It was told before the peer knew of the fork.
        self.hear(a, 24, 3)
        self.spread.received(a, FEED, 3, 1)
        self.assertFalse(a.on[FEED].owed)

    def test_who_has_another_branch_takes_the_place_of_the_source(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 40, 0)
        self.assertEqual(self.spread.parted(b, FEED, 40, 40), [a])
        self.assertEqual(self.turn_on(a, 40), [])
        self.assertEqual(self.turn_on(b, 40), [(FEED, 39)])
        # Found to be the same: it is not believed again.
        self.spread.agreed(b, FEED)
        self.spread.turn_off(b, FEED)
        self.spread.stopped(b, FEED)
        self.assertEqual(self.spread.parted(b, FEED, 40, 40), [])
        self.assertEqual(self.turn_on(b, 40), [])

    def test_what_this_node_does_not_take_is_asked_of_nobody_until_there_is_room(self) -> None:
        a, b = self.join("a"), self.join("b")
        for partner in (a, b):
            self.spread.note(partner, FEED, 9, REPLICATE)
            self.hear(partner, 9)
        self.assertEqual(self.turn_on(a), [(FEED, 0)])
        self.assertTrue(self.spread.not_taken(a, FEED, 4, self.now))
        # A page that was under way.
        self.assertFalse(self.spread.not_taken(a, FEED, 7, self.now))
        self.spread.stopped(a, FEED)
        self.hear(a, 9, 3)
        self.assertEqual((self.turn_on(a, 3), self.turn_on(b, 3)), ([], []))
        self.spread.take_again(FEED)
        self.assertEqual((self.turn_on(a, 3), self.turn_on(b, 3)), ([(FEED, 3)], []))
        # The pause is the first one again: it doubles only when nothing made room.
        for pause in (FIRST_PAUSE, 2 * FIRST_PAUSE):
            self.assertTrue(self.spread.not_taken(a, FEED, 4, self.now))
            self.spread.stopped(a, FEED)
            self.now += pause - 1
            self.hear(a, 9, 3)
            self.assertEqual(self.turn_on(a, 3), [])
            self.now += 1
            self.hear(a, 9, 3)
            self.assertEqual(self.turn_on(a, 3), [(FEED, 3)])

    def test_room_does_not_undo_what_was_refused_for_a_fault(self) -> None:
        a = self.join("a")
        self.on(a, 9)
        self.spread.refuse(a, FEED, 4, self.now)
        self.spread.stopped(a, FEED)
        self.spread.take_again(FEED)
        self.hear(a, 9, 3)
        self.assertEqual(self.turn_on(a, 3), [])

    def test_room_does_not_bring_back_what_is_behind_a_fork(self) -> None:
        a = self.join("a")
        self.spread.note(a, FEED, 9, REPLICATE)
        self.on(a, 9)
        self.spread.not_taken(a, FEED, 4, self.now)
        self.spread.stopped(a, FEED)
        self.spread.forked(FEED, 4)
        self.spread.take_again(FEED)
        self.assertEqual(self.turn_on(a, 3), [])

    def test_feeds_that_are_not_taken_have_a_limit(self) -> None:
        self.patch(module, "MAX_NOT_TAKEN", 3)
        a = self.join("a")
        for n in range(5):
            self.on(a, 9, author=feed(n))
            self.spread.not_taken(a, feed(n), 1, self.now)
        self.assertEqual([*self.spread._not_taken], [feed(n) for n in (2, 3, 4)])

    def test_nobody_else_is_refused_for_it(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 9, 3)
        self.hear(b, 9, 3)
        self.spread.refuse(a, FEED, 4, self.now)
        self.assertEqual(self.turn_on(b, 3), [(FEED, 3)])

    def test_beyond_a_proven_fork_nothing_is_wanted(self) -> None:
        a = self.join("a")
        self.spread.heard(a, FEED, 9, 3, self.now, last=3)
        self.assertEqual(self.turn_on(a, 3), [])
        self.spread.heard(a, FEED, 9, 3, self.now, last=4)
        self.assertEqual(self.turn_on(a, 3), [(FEED, 3)])

    def test_what_is_beyond_a_fork_is_not_wanted_from_who_tells_of_it_later(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 9, 3)
        self.spread.forked(FEED, 6)
        self.hear(b, 9, 3)
        self.assertEqual(b.claims, {FEED: 5})
        self.spread.leave(a)
        self.spread.leave(b)
        c, d = self.join("c"), self.join("d")
        self.spread.heard(c, FEED, 9, 3, self.now, last=4)
        self.hear(d, 9, 3)
        self.assertEqual((c.claims, d.claims), ({FEED: 4}, {FEED: 4}))

    def test_how_far_a_feed_is_here_is_known_when_it_was_looked_up(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.assertIsNone(self.spread.have(FEED))
        self.spread.prefer(a, FEED)
        self.assertIsNone(self.spread.have(FEED))
        self.hear(b, 9, 3)
        self.assertEqual(self.spread.have(FEED), 3)
        self.spread.stored(FEED, 5, self.now)
        self.assertEqual(self.spread.have(FEED), 5)
        self.spread.leave(a)
        self.spread.leave(b)
        self.assertIsNone(self.spread.have(FEED))
        self.spread.prefer(a := self.join("a"), FEED)
        self.spread.begin(a, FEED, 5, self.now)
        self.assertEqual(self.spread.have(FEED), 5)
        self.spread.leave(a)
        self.spread.claim_again(self.join("c"), FEED, 6)
        self.assertIsNone(self.spread.have(FEED))

    def test_what_lies_beyond_a_fork_that_was_found_is_forgotten(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 9, 6)
        self.hear(b, 8, 6)
        self.spread.forked(FEED, 4)
        self.assertEqual((b.claims, self.spread.have(FEED)), ({}, 3))
        self.spread.turn_off(a, FEED)
        self.assertEqual(len(self.spread), 0)
        self.hear(b, 8, 2)
        self.spread.forked(FEED, 5)
        self.assertEqual(b.claims, {FEED: 4})


class Gone(SpreadCase):
    def test_when_everybody_says_it_for_a_while_it_is_a_gap(self) -> None:
        a, b = self.join("a"), self.join("b")
        self.on(a, 9, 3)
        self.hear(b, 9, 3)
        self.assertTrue(self.spread.gone(a, FEED, 6, b"h", self.now))
        self.spread.stopped(a, FEED)
        self.assertEqual(self.turn_on(a, 3), [])
        self.assertEqual(self.turn_on(b, 3), [(FEED, 3)])
        self.now = GONE_AFTER
        self.assertEqual(self.spread.gaps(self.now), [])
        self.spread.gone(b, FEED, 5, b"g", self.now)
        self.spread.stopped(b, FEED)
        self.assertEqual(self.spread.gaps(self.now), [(FEED, 5, b"g")])
        self.spread.stored(FEED, 5, self.now)
        self.assertEqual(self.spread.gaps(self.now + 999), [])
        self.assertEqual(self.turn_on(b, 5), [(FEED, 5)])

    def test_it_has_to_be_asked_for(self) -> None:
        a = self.join("a")
        self.assertRaises(MalformedFrame, self.spread.gone, a, FEED, 5, b"h", 0.0)


class Serving(SpreadCase):
    def setUp(self) -> None:
        super().setUp()
        self.a = self.join("a")

    def note(self, sequence: int, flags: int = REPLICATE) -> Turn:
        return self.spread.note(self.a, FEED, sequence, flags)

    def forward(self, first: int, last: int) -> Forward:
        return self.spread.forward(self.a, FEED, first, last)

    def test_who_did_not_turn_it_on_is_told_once(self) -> None:
        self.assertIs(self.forward(1, 1), Forward.TELL)
        self.note(1)
        self.assertIs(self.forward(1, 1), Forward.NOTHING)
        self.assertIs(self.forward(2, 2), Forward.TELL)

    def test_who_turned_it_on_and_is_in_step_is_pushed_to(self) -> None:
        self.assertIs(self.note(3, REPLICATE | RECEIVE), Turn.ON)
        self.assertFalse(self.spread.here(self.a, FEED, 3))
        self.assertIs(self.forward(4, 5), Forward.PUSH)
        self.spread.sent(self.a, FEED, 5)
        self.assertIs(self.forward(4, 5), Forward.NOTHING)
        self.assertIs(self.forward(6, 6), Forward.PUSH)

    def test_who_is_behind_is_served_in_order(self) -> None:
        self.note(3, REPLICATE | RECEIVE)
        self.assertTrue(self.spread.here(self.a, FEED, 6))
        self.assertIs(self.forward(7, 7), Forward.SERVE)
        self.assertEqual(self.a.behind, {FEED: 7})
        self.spread.sent(self.a, FEED, 6)
        self.assertIs(self.forward(8, 8), Forward.SERVE)
        self.spread.sent(self.a, FEED, 8)
        self.assertEqual(self.a.behind, {})
        self.assertIs(self.forward(9, 9), Forward.PUSH)

    def test_what_has_a_gap_before_it_is_served(self) -> None:
        self.note(3, REPLICATE | RECEIVE)
        self.assertIs(self.forward(7, 7), Forward.SERVE)
        self.assertEqual(self.a.behind, {FEED: 7})

    def test_it_does_not_go_back_to_whom_it_came_from(self) -> None:
        self.note(3, REPLICATE | RECEIVE)
        self.on(self.a, 4, 3)
        self.spread.received(self.a, FEED, 4, 1)
        self.assertIs(self.forward(4, 4), Forward.NOTHING)
        self.assertIs(self.forward(5, 5), Forward.PUSH)

    def test_who_has_more_is_not_sent_it(self) -> None:
        self.note(3, REPLICATE | RECEIVE)
        self.assertIs(self.note(8, REPLICATE | RECEIVE), Turn.NOTHING)
        self.assertEqual(self.a.wanted, {FEED: 9})
        self.assertIs(self.forward(7, 7), Forward.NOTHING)

    def test_a_feed_of_which_nothing_was_sent_is_known_until_it_is(self) -> None:
        self.note(3, REPLICATE | RECEIVE)
        self.assertEqual(list(self.a.unserved), [FEED])
        self.spread.sent(self.a, FEED, 4)
        self.assertEqual(list(self.a.unserved), [])
        self.note(4)
        self.note(4, REPLICATE | RECEIVE)
        self.assertEqual(list(self.a.unserved), [FEED])
        self.note(4)
        self.assertEqual(list(self.a.unserved), [])

    def test_a_note_without_the_flag_turns_it_off_once(self) -> None:
        self.assertIs(self.note(3), Turn.NOTHING)
        self.note(3, REPLICATE | RECEIVE)
        self.spread.here(self.a, FEED, 5)
        self.assertIs(self.note(3), Turn.OFF)
        self.assertIs(self.note(3), Turn.NOTHING)
        self.assertEqual((self.a.wanted, self.a.behind), ({}, {}))
        self.assertFalse(self.spread.here(self.a, FEED, 5))

    def test_who_does_not_replicate_it_is_not_told(self) -> None:
        self.note(0, 0)
        self.assertIs(self.forward(MAX_SEQUENCE, MAX_SEQUENCE), Forward.NOTHING)

    def test_so_many_feeds_may_be_on(self) -> None:
        for n in range(MAX_ON):
            self.spread.note(self.a, feed(n), 0, REPLICATE | RECEIVE)
        self.assertRaises(MalformedFrame, self.note, 0, RECEIVE)
        self.spread.note(self.a, feed(0), 0, REPLICATE)
        self.note(0, RECEIVE)


class Bounds(SpreadCase):
    def test_claims_per_peer_and_in_all(self) -> None:
        self.patch(module, "MAX_CLAIMS", 10)
        self.patch(module, "MAX_CLAIMS_IN_ALL", 15)
        a, b = self.join("a"), self.join("b")
        for n in range(12):
            self.hear(a, 1, author=feed(n))
            self.hear(b, 1, author=feed(n))
        self.assertLessEqual(max(len(a.claims), len(b.claims)), 10)
        self.assertEqual(len(a.claims) + len(b.claims), 15)
        self.assertTrue(a.overflowed and b.overflowed)
        self.spread.leave(a)
        self.hear(b, 1, author=feed(11))
        self.assertEqual(len(b.claims), 8)

    def test_what_peers_have_and_what_is_remembered_of_them(self) -> None:
        for limit in ("MAX_TOLD", "MAX_REMEMBERED", "MAX_REFUSED_FEEDS"):
            self.patch(module, limit, 5)
        a = self.join("a")
        for n in range(20):
            a.note_told(feed(n), 1)
            self.spread.refuse(a, feed(n), 1, 0.0)
            self.spread.strike(self.join(f"peer {n}"), 0.0)
        self.assertEqual(len(a.told), 5)
        self.assertEqual(len(self.spread._records), 5)
        for n in range(20):
            self.spread.refuse(a, feed(n), 1, 0.0)
        self.assertEqual(len(self.spread._records[a.key].refusals), 5)


class Model(RuleBasedStateMachine):
    """Whatever happens, the tables fit together."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = Spread()
        self.links: list[Partner] = []
        self.now = 0.0

    peers = st.integers(0, 3)
    feeds = st.integers(0, 3).map(feed)

    @rule(peer=peers)
    def joins(self, peer: int) -> None:
        if len(self.links) < 5:
            self.links.append(self.spread.join(feed(peer)))

    def _link(self, peer: int) -> Partner | None:
        return self.links[peer % len(self.links)] if self.links else None

    @rule(peer=peers)
    def leaves(self, peer: int) -> None:
        link = self._link(peer)
        if link is not None:
            self.links.remove(link)
            self.spread.leave(link)

    @rule(peer=peers, author=feeds, sequence=st.integers(0, 9), have=st.integers(0, 9))
    def hears(self, peer: int, author: bytes, sequence: int, have: int) -> None:
        link = self._link(peer)
        if link is not None:
            self.spread.heard(link, author, sequence, have, self.now)

    @rule(peer=peers, have=st.integers(0, 9), begins=st.booleans())
    def chooses(self, peer: int, have: int, begins: bool) -> None:
        link = self._link(peer)
        if link is not None:
            for author in self.spread.choose(link, self.now):
                if begins:
                    self.spread.begin(link, author, have, self.now)

    @rule(peer=peers, author=feeds)
    def prefers(self, peer: int, author: bytes) -> None:
        link = self._link(peer)
        if link is not None:
            self.spread.prefer(link, author)

    @rule(peer=peers, author=feeds, count=st.integers(1, 3))
    def receives(self, peer: int, author: bytes, count: int) -> None:
        link = self._link(peer)
        if link is not None and author in link.on and link.on[author].state is not State.CHOSEN:
            self.spread.received(link, author, link.on[author].next, count)
            self.spread.digested(link, author, 100)

    @rule(author=feeds, have=st.integers(0, 9))
    def stores(self, author: bytes, have: int) -> None:
        self.spread.stored(author, have, self.now)

    @rule(peer=peers, author=feeds, what=st.sampled_from(["off", "refuse", "back", "gone"]))
    def ends(self, peer: int, author: bytes, what: str) -> None:
        link = self._link(peer)
        if link is None:
            return
        if what == "off":
            self.spread.turn_off(link, author)
        elif what == "gone":
            if author in link.on and link.on[author].state is not State.CHOSEN:
                self.spread.gone(link, author, 5, b"h", self.now)
        else:
            back = 5 if what == "back" else 0
            self.spread.refuse(link, author, 5, self.now, fork_from=back)

    @rule(peer=peers, author=feeds, sequence=st.integers(1, 9), more=st.integers(0, 3))
    def parts(self, peer: int, author: bytes, sequence: int, more: int) -> None:
        link = self._link(peer)
        if link is not None:
            for before in self.spread.parted(link, author, sequence, sequence + more):
                assert before.on[author].state is State.STOPPING

    @rule(peer=peers, author=feeds)
    def stops(self, peer: int, author: bytes) -> None:
        link = self._link(peer)
        if link is not None and author in link.on and link.on[author].state is State.STOPPING:
            self.spread.stopped(link, author)

    @rule(author=feeds)
    def drops(self, author: bytes) -> None:
        self.spread.drop_feed(author)

    @rule(seconds=st.sampled_from([1.0, 3.0, 60.0, 4000.0]))
    def waits(self, seconds: float) -> None:
        self.now += seconds
        self.spread.grafts(self.now)
        for link in self.links:
            for author in self.spread.late(link, self.now):
                self.spread.turn_off(link, author)
                self.spread.strike(link, self.now)

    @invariant()
    def fits_together(self) -> None:
        spread = self.spread
        assert list(spread.partners) == self.links
        assert spread._claims == sum(len(link.claims) for link in self.links)
        dues = list(spread._grafts.values())
        assert dues == sorted(dues)
        for link in self.links:
            running = {a for a, i in link.on.items() if i.state is not State.STOPPING}
            assert running == {a for a in link.on if spread.source(a) is link}
            assert link.stopping == len(link.on) - len(running)
            assert set(link.due) == {
                a for a, i in link.on.items() if i.owed or i.state is State.CHOSEN
            }
            assert set(link.free) <= set(link.claims) - set(link.on)
            for author in link.free:
                assert spread.source(author) is None
            assert running.isdisjoint(link.claims)
        for author, known in spread._feeds.items():
            assert known.source is not None or known.claimants
            assert known.source is None or author in known.source.on
            for claimant in known.claimants:
                assert author in claimant.claims
        for author in spread._grafts:
            assert spread.source(author) is not None


class Machine(Model.TestCase, SynchronousTestCase):  # type: ignore[misc]
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
