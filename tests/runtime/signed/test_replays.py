"""Requests that were made before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import SignatureRefused, SignatureRetry, StorageBusy
from meshkit.identity.keys import PublicKey
from meshkit.runtime.signed.replays import AHEAD, EVERY, SKEW, Replays
from meshkit.runtime.signed.signatures import LIFETIME, SignedRequest
from meshkit.testing.identities import make_identity

CALLER = make_identity("caller").public
OTHER = make_identity("other").public


def request(
    created: int, nonce: str = "n", caller: PublicKey = CALLER, lifetime: int = LIFETIME
) -> SignedRequest:
    """@return: one whose signature is right."""
    return SignedRequest(caller, created, created + lifetime, nonce, bytes(32), "")


def running(now: int = 1_000, before: int = 0, **limits: int) -> Replays:
    """@return: one that has stored its mark."""
    replays = Replays(before, **limits)
    replays.stored(replays.next_mark(now))
    return replays


class ReplaysTests(SynchronousTestCase):
    def test_a_request_is_let_in_once(self) -> None:
        replays = running()
        replays.admit(request(1_000), 1_000)
        self.assertRaises(SignatureRefused, replays.admit, request(1_000), 1_000)
        replays.admit(request(1_000, "m"), 1_000)
        replays.admit(request(1_000, "n", OTHER), 1_000)

    def test_it_is_refused_until_it_has_expired_and_then_as_that(self) -> None:
        replays = running()
        replays.admit(request(1_000), 1_000)
        for now in range(1_000, 1_200):
            replays.stored(replays.next_mark(now))
            self.assertRaises(SignatureRefused, replays.admit, request(1_000), now)
        self.assertEqual(len(replays), 0)

    def test_a_nonce_is_forgotten_in_the_second_after_the_last_one_it_could_be_used_in(
        self,
    ) -> None:
        replays = running()
        replays.admit(request(1_000, lifetime=10), 1_000)
        last = 1_010 + SKEW
        replays.stored(replays.next_mark(last))
        replays.admit(request(last, "m"), last)
        self.assertEqual(len(replays), 2)
        replays.admit(request(last, "o"), last + 1)
        self.assertEqual(len(replays), 2)

    def test_clocks_may_differ_by_a_little(self) -> None:
        replays = running()
        replays.admit(request(1_000 + SKEW, "a"), 1_000)
        self.assertRaises(SignatureRefused, replays.admit, request(1_001 + SKEW, "b"), 1_000)
        replays.admit(request(1_000 - LIFETIME - SKEW, "c"), 1_000)
        self.assertRaises(
            SignatureRefused, replays.admit, request(999 - LIFETIME - SKEW, "d"), 1_000
        )

    def test_a_request_holds_for_a_minute_at_most(self) -> None:
        replays = running()
        for lifetime in (0, -1, LIFETIME + 1, 10**9):
            bad = request(1_000, lifetime=lifetime)
            self.assertRaises(SignatureRefused, replays.admit, bad, 1_000)

    def test_a_full_table_forgets_nothing(self) -> None:
        replays = running(max_each=2, max_all=3)
        for nonce in "ab":
            replays.admit(request(1_000, nonce), 1_000)
        self.assertRaises(StorageBusy, replays.admit, request(1_000, "c"), 1_000)
        replays.admit(request(1_000, "c", OTHER), 1_000)
        self.assertRaises(StorageBusy, replays.admit, request(1_000, "d", OTHER), 1_000)
        for nonce in "ab":
            self.assertRaises(SignatureRefused, replays.admit, request(1_000, nonce), 1_000)
        self.assertEqual(len(replays), 3)
        later = 1_001 + LIFETIME + SKEW
        replays.stored(replays.next_mark(later))
        replays.admit(request(later, "d", OTHER), later)
        self.assertEqual(len(replays), 1)

    def test_nothing_is_let_in_that_is_ahead_of_what_is_stored(self) -> None:
        replays = Replays(0)
        self.assertRaises(StorageBusy, replays.admit, request(1_000), 1_000)
        replays.stored(replays.next_mark(1_000))
        replays.admit(request(1_000), 1_000)
        # The disk does not take another mark any more.
        replays.admit(request(1_000 + AHEAD, "b"), 1_000 + AHEAD)
        self.assertRaises(StorageBusy, replays.admit, request(1_001 + AHEAD, "c"), 1_001 + AHEAD)

    def test_a_mark_in_time_lets_every_request_in(self) -> None:
        replays = Replays(0)
        for now in range(1_000, 1_100):
            if now % EVERY == 0:
                replays.stored(replays.next_mark(now))
            replays.admit(request(now + SKEW, str(now)), now)

    def test_after_a_start_what_may_have_been_let_in_before_is_not(self) -> None:
        first = running(1_000)
        first.admit(request(1_000 + SKEW), 1_000)
        # It was killed; what is stored is what it had stored last.
        mark = 1_000 + AHEAD
        second = running(1_003, before=mark)
        for created in (1_000 + SKEW, 1_008):
            error = self.assertRaises(SignatureRetry, second.admit, request(created), 1_003)
            self.assertEqual(error.details, {"now": 1_003, "after": mark})
        second.stored(second.next_mark(mark))
        second.admit(request(mark + 1), mark)

    def test_a_clean_stop_costs_no_wait(self) -> None:
        first = running(1_000)
        first.admit(request(1_000), 1_000)
        first.close()
        self.assertEqual(first.last, 1_000)
        self.assertRaises(StorageBusy, first.admit, request(1_001, "b"), 1_001)
        first.stored(2_000)
        self.assertRaises(StorageBusy, first.admit, request(1_001, "b"), 1_001)
        second = running(1_001, before=first.last)
        self.assertRaises(SignatureRetry, second.admit, request(1_000), 1_001)
        second.admit(request(1_001), 1_001)

    def test_a_clock_that_is_set_back_lets_nothing_in_again(self) -> None:
        replays = running(1_000)
        replays.admit(request(1_000), 1_000)
        later = 2_000
        replays.stored(replays.next_mark(later))
        replays.admit(request(later, "later"), later)
        self.assertEqual(len(replays), 1)
        self.assertRaises(SignatureRefused, replays.admit, request(1_000), 1_000)
        # Nor after a start with a clock that is behind.
        again = running(1_000, before=later)
        self.assertRaises(SignatureRetry, again.admit, request(1_000), 1_000)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["clock", "request", "kill", "stop", "store"]),
                st.integers(-30, 90),
                st.integers(0, 3),
            ),
            max_size=60,
        )
    )
    def test_whatever_happens_nothing_is_let_in_twice(
        self, steps: list[tuple[str, int, int]]
    ) -> None:
        now, disk = 1_000, 0
        replays = Replays(disk)
        let_in: set[tuple[int, str]] = set()
        made: list[SignedRequest] = []
        for what, number, nonce in steps:
            if what == "clock":
                now = max(1, now + number)
            elif what == "store":
                disk = replays.next_mark(now)
                replays.stored(disk)
            elif what == "kill":
                replays = Replays(disk)
            elif what == "stop":
                replays.close()
                disk = replays.last
                replays = Replays(disk)
            else:
                made.append(request(max(0, now + number % 12 - 6), str(nonce)))
                for each in made:
                    try:
                        replays.admit(each, now)
                    except (SignatureRefused, StorageBusy):
                        continue
                    key = (each.created, each.nonce)
                    self.assertNotIn(key, let_in)
                    let_in.add(key)
