"""Tests of L{meshkit.gossip.egregore.memory}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.gossip.egregore import memory
from meshkit.gossip.egregore.memory import FIRST_PAUSE, LAST_PAUSE, Memory, PeerMemory, Tails
from meshkit.gossip.egregore.wire import MAX_HAVE

A, B = b"a" * 32, b"b" * 32


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


class TailsTests(SynchronousTestCase):
    """What is behind a gap goes once, and then seldom."""

    def test_a_feed_without_a_gap_goes_on_from_where_it_is(self) -> None:
        tails = Tails()
        self.assertEqual(tails.begin(A, 0, 0.0), 0)
        tails.given(A, 0, 10, 0.0)
        # It took all ten.
        self.assertEqual(tails.begin(A, 10, 1.0), 10)

    def test_behind_a_gap_only_what_is_new_is_given(self) -> None:
        tails = Tails()
        tails.given(A, 3, 10, 0.0)
        self.assertEqual(tails.begin(A, 3, 1.0), 10)
        tails.given(A, 3, 12, 1.0)
        self.assertEqual(tails.begin(A, 3, 2.0), 12)
        # The gap closed up to the next one, and that is behind it too.
        self.assertEqual(tails.begin(A, 7, 3.0), 12)
        self.assertEqual(tails.begin(A, 12, 3.0), 12)
        # What was there is gone: the receiver begins anew.
        self.assertEqual(tails.begin(A, 0, 3.0), 0)

    def test_all_of_it_goes_again_with_growing_pauses(self) -> None:
        tails = Tails()
        now, pause, times = 0.0, FIRST_PAUSE, 0
        tails.given(A, 3, 10, now)
        while times < 12:
            self.assertEqual(tails.begin(A, 3, now + pause - 1), 10)
            now += pause
            self.assertEqual(tails.begin(A, 3, now), 3)
            tails.given(A, 3, 10, now)
            pause = min(2 * pause, LAST_PAUSE)
            times += 1
        self.assertEqual(pause, LAST_PAUSE)

    def test_a_repetition_that_brings_less_takes_nothing_back(self) -> None:
        tails = Tails()
        tails.given(A, 3, 10, 0.0)
        tails.given(A, 3, 5, FIRST_PAUSE)
        self.assertEqual(tails.begin(A, 3, FIRST_PAUSE + 1), 10)

    def test_nothing_is_remembered_of_nothing(self) -> None:
        tails = Tails()
        tails.given(A, 3, 3, 0.0)
        self.assertEqual(len(tails), 0)

    def test_what_was_lost_here_can_be_forgotten(self) -> None:
        tails = Tails()
        tails.given(A, 3, 10, 0.0)
        tails.forget(A)
        tails.forget(B)
        self.assertEqual(tails.begin(A, 3, 1.0), 3)

    def test_is_bounded(self) -> None:
        tails = Tails()
        for number in range(memory.MAX_TAILS + 1):
            tails.given(key(number), 0, 1, 0.0)
        self.assertEqual(len(tails), memory.MAX_TAILS)
        self.assertEqual(tails.begin(key(0), 0, 0.0), 0)
        self.assertEqual(tails.begin(key(1), 0, 0.0), 1)


class WindowTests(SynchronousTestCase):
    """What a have names."""

    def test_a_few_feeds_are_all_named(self) -> None:
        peer = PeerMemory()
        heads = [(key(n), 1) for n in range(MAX_HAVE)]
        peer.told(dict(heads))
        self.assertEqual(peer.window(heads), (heads, False))

    @given(st.integers(0, 30), st.integers(1, 9))
    def test_round_after_round_everything_is_named(self, held: int, seed: int) -> None:
        heads = [(key(n * seed), 2) for n in range(3 * MAX_HAVE)]
        peer = PeerMemory()
        peer.told({author: 2 for author, _ in heads[:held]})
        named: set[bytes] = set()
        for number in range(4):
            after = [head for head in heads if head[0] > peer.cursor]
            before = [head for head in heads if head[0] <= peer.cursor]
            chosen, more = peer.window(after + before)
            self.assertLessEqual(len(chosen), MAX_HAVE)
            self.assertEqual(more, number < 2 or (number == 2 and held == 0 and more))
            named |= {author for author, _ in chosen}
            for author, sequence in chosen:
                peer.note(author, sequence)
        self.assertEqual(named | {author for author, _ in heads[:held]}, {a for a, _ in heads})

    def test_to_a_peer_that_takes_none_of_them_all_are_named_in_turn(self) -> None:
        heads = [(key(n), 2) for n in range(3 * MAX_HAVE)]
        peer = PeerMemory()
        named: set[bytes] = set()
        for _ in range(3):
            after = [head for head in heads if head[0] > peer.cursor]
            before = [head for head in heads if head[0] <= peer.cursor]
            named |= {author for author, _ in peer.window(after + before)[0]}
        self.assertEqual(len(named), len(heads))

    def test_what_the_peer_lacks_comes_first(self) -> None:
        heads = [(key(n), 2) for n in range(2 * MAX_HAVE)]
        peer = PeerMemory()
        peer.told({author: 2 for author, _ in heads if author != key(2 * MAX_HAVE - 1)})
        chosen, more = peer.window(heads)
        self.assertEqual((chosen[0], more), ((key(2 * MAX_HAVE - 1), 2), False))

    def test_what_it_says_now_counts_and_not_what_was_known(self) -> None:
        peer = PeerMemory()
        peer.note(A, 9)
        peer.note(A, 4)
        self.assertEqual(peer.holds, {A: 9})
        peer.told({B: 1})
        self.assertEqual(peer.holds, {B: 1})

    def test_is_bounded(self) -> None:
        peer = PeerMemory()
        for number in range(memory.MAX_FEEDS + 5):
            peer.note(key(number), 1)
        self.assertEqual(len(peer.holds), memory.MAX_FEEDS)
        self.assertNotIn(key(4), peer.holds)


class MemoryTests(SynchronousTestCase):
    def test_each_peer_has_its_own(self) -> None:
        peers = Memory()
        peers.of(A).note(B, 1)
        self.assertIs(peers.of(A), peers.of(A))
        self.assertEqual(peers.of(B).holds, {})

    def test_those_met_longest_ago_are_forgotten(self) -> None:
        peers = Memory()
        peers.of(A).note(B, 1)
        for number in range(memory.MAX_PEERS - 1):
            peers.of(key(number))
        self.assertEqual(peers.of(A).holds, {B: 1})
        for number in range(memory.MAX_PEERS):
            peers.of(key(number))
        self.assertEqual(len(peers), memory.MAX_PEERS)
        self.assertEqual(peers.of(A).holds, {})
