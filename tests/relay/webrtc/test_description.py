"""Tests of L{meshkit.relay.webrtc.description}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.relay.webrtc.description import MAX_CANDIDATES, count_candidates, leave_out


def described(own: int, seen: int) -> str:
    hosts = [f"a=candidate:h 1 udp 1 192.0.2.{n} 9 typ host" for n in range(own)]
    others = [f"a=candidate:s 1 udp 1 198.51.100.1 {n} typ srflx" for n in range(seen)]
    return "\r\n".join(["v=0", "m=application 9", *hosts, *others, "a=end-of-candidates", ""])


class DescriptionTests(SynchronousTestCase):
    def test_one_with_few_addresses_stays_as_it_is(self) -> None:
        for own, seen in ((0, 0), (1, 1), (MAX_CANDIDATES, 0), (8, 8), (0, MAX_CANDIDATES)):
            self.assertEqual(leave_out(described(own, seen)), described(own, seen))

    def test_what_a_server_has_seen_is_left_out_last_up_to_a_half(self) -> None:
        for (own, seen), left in (
            ((20, 2), (14, 2)),
            ((20, 20), (8, 8)),
            ((3, 20), (3, 13)),
            ((17, 0), (16, 0)),
        ):
            self.assertEqual(leave_out(described(own, seen)), described(*left))

    @given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))
    def test_as_many_as_may_be_are_kept(self, own: int, seen: int, most: int) -> None:
        kept = count_candidates(leave_out(described(own, seen), most))
        self.assertEqual(kept, min(most, own + seen))
