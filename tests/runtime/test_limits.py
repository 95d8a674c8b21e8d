"""Token buckets and sizes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FrameTooLarge
from meshkit.identity.keys import PublicKey
from meshkit.runtime.limits import (
    DEFAULT_MESSAGE,
    MAX_MESSAGE,
    MAX_PEERS,
    PeerBuckets,
    Shares,
    TokenBucket,
    check_size,
)


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


class SizeTests(SynchronousTestCase):
    def test_at_the_limit_and_over_it(self) -> None:
        check_size("a thing", 10, 10)
        with self.assertRaises(FrameTooLarge) as caught:
            check_size("a thing", 11, 10)
        self.assertIn("a thing of 11 bytes", str(caught.exception))

    def test_the_usual_size_is_within_the_largest(self) -> None:
        self.assertLess(DEFAULT_MESSAGE, MAX_MESSAGE)


class SharesTests(SynchronousTestCase):
    def test_no_more_than_there_is_and_no_more_than_each_may_have(self) -> None:
        shares = Shares(total=10, each=6)
        self.assertEqual([shares.room("a", n) for n in (6, 7)], [True, False])
        shares.take("a", 6)
        self.assertFalse(shares.room("a"))
        self.assertEqual([shares.room("b", n) for n in (4, 5)], [True, False])
        shares.take("b", 4)
        self.assertFalse(shares.room("c"))
        shares.give_back("a", 2)
        self.assertEqual([shares.room("a", n) for n in (2, 3)], [True, False])
        self.assertEqual(shares.taken, 8)

    def test_who_takes_more_than_there_is_only_keeps_others_from_taking(self) -> None:
        shares = Shares(total=10, each=6)
        shares.take("a", 20)
        self.assertFalse(shares.room("b"))
        shares.give_back("a", 20)
        self.assertTrue(shares.room("b", 6))

    def test_nothing_can_be_given_back_that_was_not_taken(self) -> None:
        shares = Shares(total=10, each=6)
        shares.take("a", 2)
        self.assertRaises(ValueError, shares.give_back, "a", 3)
        self.assertRaises(ValueError, shares.give_back, "b")
        self.assertEqual(shares.taken, 2)

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 8))))
    def test_nobody_who_has_nothing_is_remembered(self, taken: list[tuple[str, int]]) -> None:
        shares = Shares(total=10, each=6)
        for who, amount in taken:
            shares.take(who, amount)
        self.assertEqual(shares.taken, sum(amount for _, amount in taken))
        for who, amount in taken:
            shares.give_back(who, amount)
        self.assertEqual((shares.taken, shares._taken), (0, {}))


class TokenBucketTests(SynchronousTestCase):
    def test_a_burst_is_granted_and_no_more(self) -> None:
        bucket = TokenBucket(rate=2.0, burst=5.0)
        self.assertEqual([bucket.take(1.0, 100.0) for _ in range(5)], [0.0] * 5)
        self.assertEqual(bucket.take(1.0, 100.0), 0.5)

    def test_a_refusal_costs_nothing_and_its_wait_is_enough(self) -> None:
        bucket = TokenBucket(2.0, 5.0)
        bucket.take(5.0, 0.0)
        for _ in range(3):
            self.assertEqual(bucket.take(1.0, 0.0), 0.5)
        self.assertGreater(bucket.take(1.0, 0.49), 0.0)
        self.assertEqual(bucket.take(1.0, 0.5), 0.0)

    def test_it_never_holds_more_than_a_burst(self) -> None:
        bucket = TokenBucket(2.0, 5.0)
        bucket.take(5.0, 0.0)
        self.assertEqual([bucket.take(1.0, 1e6) for _ in range(5)], [0.0] * 5)
        self.assertGreater(bucket.take(1.0, 1e6), 0.0)

    def test_what_costs_more_than_a_full_bucket_is_owed(self) -> None:
        bucket = TokenBucket(1.0, 5.0)
        self.assertEqual(bucket.take(8.0, 0.0), 0.0)
        self.assertEqual(bucket.take(1.0, 0.0), 4.0)
        self.assertEqual(bucket.take(8.0, 1.0), 7.0)

    def test_a_clock_that_goes_back_gives_nothing(self) -> None:
        bucket = TokenBucket(1.0, 5.0)
        bucket.take(5.0, 100.0)
        self.assertEqual(bucket.take(1.0, 50.0), 1.0)
        self.assertEqual(bucket.take(1.0, 100.0), 1.0)
        self.assertEqual(bucket.take(1.0, 101.0), 0.0)

    def test_a_clock_that_was_set_back_by_a_day_gives_again_from_then_on(self) -> None:
        bucket, day = TokenBucket(1.0, 5.0), 86_400.0
        bucket.take(5.0, day)
        self.assertEqual(bucket.take(1.0, 0.0), 1.0)
        self.assertEqual(bucket.take(1.0, 1.0), 0.0)
        self.assertEqual(bucket.take(1.0, 1.0), 1.0)

    def test_full_says_whether_anything_was_used(self) -> None:
        bucket = TokenBucket(1.0, 5.0)
        self.assertTrue(bucket.full(0.0))
        bucket.take(1.0, 0.0)
        self.assertFalse(bucket.full(0.5))
        self.assertTrue(bucket.full(1.0))

    def test_what_grants_nothing_or_everything_is_no_bucket(self) -> None:
        for rate, burst in ((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (float("inf"), 1.0)):
            with self.subTest(rate=rate, burst=burst), self.assertRaises(ValueError):
                TokenBucket(rate, burst)

    @given(
        st.floats(0.1, 100.0),
        st.floats(1.0, 100.0),
        st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 10.0)), max_size=60),
    )
    def test_it_never_grants_more_than_a_burst_and_the_rate(
        self, rate: float, burst: float, asked: list[tuple[float, float]]
    ) -> None:
        bucket = TokenBucket(rate, burst)
        now = granted = largest = 0.0
        for pause, cost in asked:
            now += pause
            if not bucket.take(cost, now):
                granted += cost
                largest = max(largest, cost)
        bound = burst + rate * now + max(0.0, largest - burst)
        self.assertLessEqual(granted, bound * (1 + 1e-9) + 1e-9)

    @given(st.floats(0.1, 100.0), st.floats(1.0, 100.0), st.floats(0.0, 200.0))
    def test_who_waits_as_told_is_granted(self, rate: float, burst: float, cost: float) -> None:
        bucket = TokenBucket(rate, burst)
        bucket.take(burst, 0.0)
        wait = bucket.take(cost, 0.0)
        self.assertEqual(bucket.take(cost, wait * (1 + 1e-9) + 1e-9), 0.0)


class PeerBucketsTests(SynchronousTestCase):
    def test_each_peer_has_its_own(self) -> None:
        buckets = PeerBuckets(1.0, 2.0)
        self.assertEqual([buckets.take(key(1), 1.0, 0.0) for _ in range(3)], [0.0, 0.0, 1.0])
        self.assertEqual(buckets.take(key(2), 1.0, 0.0), 0.0)

    def test_who_does_not_heed_refusals_is_beyond_help(self) -> None:
        buckets = PeerBuckets(1.0, 3.0)
        answers = [buckets.take(key(1), 1.0, 0.0) for _ in range(8)]
        beyond = PeerBuckets.BEYOND
        self.assertEqual(answers, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, beyond, beyond])
        # It is granted again what anybody is, once it has waited.
        self.assertEqual(buckets.take(key(1), 1.0, 1.0), 0.0)

    def test_who_waits_as_told_is_never_beyond_help(self) -> None:
        buckets = PeerBuckets(2.0, 4.0)
        now = 0.0
        for _ in range(200):
            wait = buckets.take(key(1), 1.0, now)
            self.assertLess(wait, PeerBuckets.BEYOND)
            now += wait

    def test_at_most_so_many_peers_are_kept(self) -> None:
        buckets = PeerBuckets(1.0, 2.0, max_peers=3)
        for number in range(3):
            buckets.take(key(number), 1.0, 0.0)
        # The newcomers share one account, and displace nobody who has used something.
        self.assertEqual(buckets.take(key(3), 2.0, 0.0), 0.0)
        self.assertEqual(buckets.take(key(4), 1.0, 0.0), 1.0)
        self.assertEqual(len(buckets), 3)
        self.assertEqual(buckets.take(key(0), 2.0, 0.0), 1.0)

    def test_the_one_that_was_quiet_for_longest_makes_room_once_it_is_full_again(self) -> None:
        buckets = PeerBuckets(1.0, 2.0, max_peers=2)
        buckets.take(key(0), 2.0, 0.0)
        buckets.take(key(1), 2.0, 1.0)
        buckets.take(key(0), 0.0, 1.5)
        buckets.take(key(2), 2.0, 2.9)  # 1 is the quietest now, and not full: shared
        self.assertEqual(buckets.take(key(9), 1.0, 2.9), 1.0)  # as is this
        self.assertEqual(buckets.take(key(1), 2.0, 3.0), 0.0)  # full just now, and used
        self.assertEqual(buckets.take(key(3), 2.0, 3.5), 0.0)  # in the place of 0
        self.assertEqual(buckets.take(key(3), 1.0, 3.5), 1.0)
        self.assertEqual(len(buckets), 2)

    def test_refusals_keep_a_peer_from_being_forgotten(self) -> None:
        buckets = PeerBuckets(1.0, 1.0, max_peers=1)
        buckets.take(key(0), 1.0, 0.0)
        buckets.take(key(0), 1.0, 0.9)  # refused
        buckets.take(key(1), 1.0, 1.5)  # its calls are full again, its refusals not
        self.assertEqual(buckets.take(key(0), 1.0, 1.5), 0.0)
        self.assertEqual(buckets.take(key(0), 1.0, 1.5), PeerBuckets.BEYOND)

    def test_many_keys_gain_nothing(self) -> None:
        buckets = PeerBuckets(1.0, 2.0, max_peers=10)
        granted = sum(not buckets.take(key(n), 1.0, 0.0) for n in range(1000))
        self.assertEqual(granted, 12)

    def test_who_has_no_key_shares_one_account(self) -> None:
        buckets = PeerBuckets(1.0, 2.0)
        self.assertEqual([buckets.take(None, 1.0, 0.0) for _ in range(3)], [0.0, 0.0, 1.0])

    def test_there_is_room_for_a_peer(self) -> None:
        with self.assertRaises(ValueError):
            PeerBuckets(1.0, 1.0, max_peers=0)

    @given(st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 3.0)), max_size=60))
    def test_whatever_comes_the_table_is_bounded(self, asked: list[tuple[int, float]]) -> None:
        buckets = PeerBuckets(1.0, 2.0, max_peers=3)
        now = 0.0
        for number, pause in asked:
            now += pause
            buckets.take(key(number), 1.0, now)
            self.assertLessEqual(len(buckets), 3)

    def test_the_usual_size_is_a_number_of_peers(self) -> None:
        self.assertGreaterEqual(MAX_PEERS, 1_000)
