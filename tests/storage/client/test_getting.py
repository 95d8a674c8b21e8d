"""Tests of L{meshkit.storage.client.getting}: peers that lie, hang and go."""

from __future__ import annotations

from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError

from meshkit.errors import (
    NotEnoughShares,
    ObjectKeyWrong,
    ObjectMismatch,
    ObjectTooLarge,
    ShareDamaged,
)
from meshkit.storage.client.client import MAX_READ, holders_of
from meshkit.storage.client.streams import BytesSink, CallSink
from meshkit.storage.client.values import ClientConfig, Progress
from meshkit.storage.encoding import Piece
from meshkit.storage.hedging import UNKNOWN
from meshkit.storage.scheme import Scheme
from tests.storage.client.peers import Unruly, hang, lie, names_of, refuse
from tests.storage.client.test_client import ClientCase
from tests.storage.objects import SMALL
from tests.storage.shelves import text_of

WIDTH = SMALL.text_bytes
TEXT = text_of(4 * WIDTH + 100)


class GetCase(ClientCase):
    config = ClientConfig(request_seconds=60)

    def setUp(self) -> None:
        super().setUp()
        self.stored = self.put(TEXT)
        #: The peers, in the order of their shares.
        self.by_share: list[Unruly] = []
        for number in range(9):
            placed = self.stored.document.shares[number]
            assert placed is not None
            self.by_share.append(self.crowd.find(placed.peer))
        self.forget_calls()

    def forget_calls(self) -> None:
        for each in self.crowd.peers:
            each.calls.clear()

    def get_in(self, **more: Any) -> tuple[bytes, float]:
        start = self.clock.seconds()
        return self.get(self.stored, **more), self.clock.seconds() - start

    def problems(self) -> dict[int, bool]:
        """@return: whether it lied, for each share of which there was a problem."""
        return {each.share: each.lied for each in self.fetched.problems}


class Lying(GetCase):
    def test_as_many_as_may_be_lost_are_named_and_all_of_it_is_read(self) -> None:
        for liars in ((0,), (5,), (8,), (0, 1, 2), (3, 5, 8)):
            self.setUp()
            for share in liars:
                self.by_share[share].rule = lie
            self.assertEqual(self.get(self.stored), TEXT)
            used = {share: True for share in liars if share < 6 or set(liars) >= {0}}
            self.assertEqual(self.problems(), {s: True for s in used if s in self.problems()})
            self.assertTrue(set(self.fetched.shares).isdisjoint(liars))
            for problem in self.fetched.problems:
                self.assertEqual(problem.peer, self.by_share[problem.share].key)
                self.assertIn(f"share {problem.share}", problem.text)

    def test_a_liar_among_the_first_is_named(self) -> None:
        self.by_share[2].rule = lie
        self.get(self.stored)
        self.assertEqual(self.problems(), {2: True})

    def test_it_is_asked_last_from_then_on(self) -> None:
        self.config = evolve(self.config, buffer_bytes=1)
        self.client = self.new_client()
        self.by_share[2].rule = lie
        self.get(self.stored)
        # Two segments were under way when it was found out.
        self.assertEqual(names_of(self.by_share[2].calls), {"read": 2})

    def test_one_that_lies_only_now_and_then_is_found_out(self) -> None:
        def sometimes(name: str, peer: Any, args: Any) -> Any:
            return lie(name, peer, args) if args[-1] == 3 else None

        self.by_share[1].rule = sometimes
        self.assertEqual(self.get(self.stored), TEXT)
        self.assertEqual(self.problems(), {1: True})

    def test_pieces_of_other_shares_and_lengths_and_kinds_are_lies(self) -> None:
        def give(change: Any) -> Any:
            def rule(name: str, peer: Any, args: Any) -> Any:
                return succeed(change(peer.read(*args).result)) if name == "read" else None

            return rule

        changes = [
            lambda piece: Piece(b"", piece.branch),
            lambda piece: Piece(piece.block[:-1], piece.branch),
            lambda piece: Piece(bytes(piece.block) + b"x", piece.branch),
            lambda piece: Piece(piece.block, []),
            lambda piece: Piece(piece.block, [b"x" * 32 for _ in piece.branch]),
            lambda piece: Piece(piece.block, [*piece.branch, b"y" * 32]),
            lambda piece: Piece(piece.block, [b"short" for _ in piece.branch]),
        ]
        for number, change in enumerate(changes):
            self.setUp()
            self.by_share[0].rule = give(change)
            self.assertEqual(self.get(self.stored), TEXT)
            self.assertEqual(self.problems(), {0: True}, number)

    def test_if_too_many_lie_it_fails_and_names_them(self) -> None:
        for share in (0, 3, 4, 7):
            self.by_share[share].rule = lie
        error = self.assertRaises(NotEnoughShares, self.get, self.stored)
        self.assertEqual(error.wrong, (0, 3, 4, 7))
        self.assertIn(self.by_share[0].key.text, str(error))

    def test_one_byte_of_damage_anywhere_is_survived(self) -> None:
        scheme = Scheme(2, 3, 4096)
        text = text_of(2 * scheme.text_bytes + 50)
        stored = self.put(text, scheme)
        for number, placed in enumerate(stored.document.shares):
            assert placed is not None
            peer = self.crowd.find(placed.peer).peer
            kept = peer.shares[stored.manifest.header.share_id(number)]
            rng = Random(number)
            for part in (kept.data, kept.nodes):
                edges = {0, len(part) - 1, 4095, 4096, *(rng.randrange(len(part)) for _ in "1234")}
                for at in sorted(edge for edge in edges if edge < len(part)):
                    part[at] ^= 0x40
                    self.assertEqual(self.get(stored), text)
                    part[at] ^= 0x40


class Hanging(GetCase):
    def test_as_many_as_may_be_lost_cost_one_short_delay_for_all(self) -> None:
        # All is known of them.
        self.get(self.stored)
        for share in (0, 1, 2):
            self.by_share[share].rule = hang("read")
        text, seconds = self.get_in()
        self.assertEqual(text, TEXT)
        self.assertLess(seconds, 0.25)
        _, again = self.get_in()
        self.assertEqual(again, 0)

    def test_of_strangers_they_cost_a_little_more(self) -> None:
        self.client = self.new_client()
        for share in (3, 4, 5):
            self.by_share[share].rule = hang("read")
        text, seconds = self.get_in()
        self.assertEqual(text, TEXT)
        self.assertLessEqual(seconds, 2 * UNKNOWN)

    def test_if_too_many_hang_it_fails_at_the_deadline(self) -> None:
        for share in range(4):
            self.by_share[share].rule = hang("read")
        start = self.clock.seconds()
        self.assertRaises(NotEnoughShares, self.get, self.stored)
        self.assertLessEqual(self.clock.seconds() - start, self.config.request_seconds + UNKNOWN)

    def test_one_that_hangs_and_then_answers_is_used_if_nobody_else_can(self) -> None:
        for share in (6, 7, 8):
            self.by_share[share].rule = refuse(ConnectionRefusedError(), "read")
        self.by_share[0].delay = 20
        text, seconds = self.get_in()
        self.assertEqual(text, TEXT)
        self.assertLess(seconds, 5 * 20 + 1)

    def test_who_is_slower_than_the_others_is_not_asked_first(self) -> None:
        for each in self.by_share:
            each.delay = 0.1
        self.by_share[1].delay = 0.5
        self.get(self.stored)
        self.forget_calls()
        self.get(self.stored)
        self.assertEqual(self.by_share[1].calls, [])
        self.assertIn("read", self.by_share[6].calls)


class Gone(GetCase):
    def test_as_many_as_may_be_lost_are_gone_in_any_way(self) -> None:
        errors = (ConnectionRefusedError(), ShareDamaged(), ValueError("odd"))
        for share, error in zip((1, 4, 5), errors, strict=True):
            self.by_share[share].rule = refuse(error, "read")
        self.by_share[0].peer.shares.clear()
        self.by_share[1].rule = None
        self.assertEqual(self.get(self.stored), TEXT)
        self.assertEqual(self.problems(), {0: False, 4: False, 5: False})

    def test_one_that_goes_in_the_middle_is_replaced(self) -> None:
        def later(name: str, _peer: Any, args: Any) -> Any:
            return fail(ConnectionRefusedError()) if name == "read" and args[1] >= 2 else None

        self.by_share[0].rule = later
        self.assertEqual(self.get(self.stored), TEXT)
        self.assertEqual(self.fetched.shares, (0, 1, 2, 3, 4, 5, 6))

    def test_with_too_few_nothing_is_given_out_after_the_last_good_segment(self) -> None:
        def later(name: str, _peer: Any, args: Any) -> Any:
            return fail(ConnectionRefusedError()) if name == "read" and args[1] >= 2 else None

        for share in range(4):
            self.by_share[share].rule = later
        sink = BytesSink()
        holders = holders_of(self.stored.document, self.crowd.find)
        key = self.stored.capability.key
        getting = self.client.get(self.stored.manifest, key, holders, sink)
        error = self.assertRaises(NotEnoughShares, self.run_until, getting)
        self.assertIn("5 of segment 2", str(error))
        self.assertEqual(bytes(sink.data), TEXT[: 2 * WIDTH])

    def test_nobody_is_asked_if_nobody_is_known(self) -> None:
        self.assertRaises(NotEnoughShares, self.get, self.stored, {})

    def test_a_share_that_two_have_is_read_from_the_one_that_has_it(self) -> None:
        holders = dict(holders_of(self.stored.document, self.crowd.find))
        self.by_share[0].rule = refuse(ConnectionRefusedError(), "read")
        stranger = self.by_share[8]
        # It has been given a copy.
        name = self.stored.manifest.header.share_id(0)
        stranger.peer.shares[name] = self.by_share[0].peer.shares[name]
        some = {0: [self.by_share[0], stranger], **{n: holders[n] for n in (1, 2, 3, 4, 5)}}
        self.assertEqual(self.get(self.stored, some), TEXT)


class Pieces(GetCase):
    def test_any_piece_is_what_it_is(self) -> None:
        edges = (0, 1, WIDTH - 1, WIDTH, WIDTH + 1, 4 * WIDTH, len(TEXT) - 1, len(TEXT))
        for start in (*edges, len(TEXT) + 5):
            for length in (0, 1, WIDTH, 2 * WIDTH + 1, len(TEXT), None):
                expected = TEXT[start:] if length is None else TEXT[start : start + length]
                self.assertEqual(self.get(self.stored, start=start, length=length), expected)
                self.assertEqual(self.fetched.length, len(expected))

    def test_only_the_segments_that_have_it_are_asked_for(self) -> None:
        holders = holders_of(self.stored.document, self.crowd.find)
        key = self.stored.capability.key
        reading = self.client.read(self.stored.manifest, key, holders, WIDTH + 5, 10)
        self.assertEqual(self.run_until(reading), TEXT[WIDTH + 5 : WIDTH + 15])
        self.assertEqual(
            sum(len(each.calls) for each in self.crowd.peers),
            self.stored.manifest.header.scheme.required,
        )

    def test_more_than_memory_should_hold_is_refused(self) -> None:
        holders = holders_of(self.stored.document, self.crowd.find)
        self.assertRaises(
            ObjectTooLarge,
            self.client.read,
            self.stored.manifest,
            self.stored.capability.key,
            holders,
            0,
            MAX_READ + 1,
        )

    def test_a_liar_is_survived_here_too(self) -> None:
        self.by_share[1].rule = lie
        self.assertEqual(self.get(self.stored, start=WIDTH, length=9), TEXT[WIDTH : WIDTH + 9])
        self.assertEqual(self.problems(), {1: True})


class Making(GetCase):
    def test_another_key_is_refused_before_anybody_is_asked(self) -> None:
        stored = evolve(self.stored, capability=evolve(self.stored.capability, other=b"k" * 32))
        self.assertRaises(ObjectKeyWrong, self.get, stored)
        self.assertEqual([each.calls for each in self.crowd.peers], [[]] * 9)

    def test_an_object_that_its_maker_made_of_two_texts_is_found_out(self) -> None:
        manifest = evolve(self.stored.manifest, root=b"r" * 32)
        stored = evolve(self.stored, manifest=manifest)
        self.assertRaises(ObjectMismatch, self.get, stored)


class Sinks(GetCase):
    def test_a_slow_one_holds_up_the_peers(self) -> None:
        self.config = evolve(self.config, buffer_bytes=1)
        self.client = self.new_client()
        waiting: list[Deferred[None]] = []

        def take(_data: bytes) -> Deferred[None]:
            waiting.append(Deferred())
            return waiting[-1]

        holders = holders_of(self.stored.document, self.crowd.find)
        key = self.stored.capability.key
        getting = self.client.get(self.stored.manifest, key, holders, CallSink(take))
        self.clock.pump([0.1] * 100)
        self.assertEqual(len(waiting), 1)
        # The one that is given out, the one after it, and one under way.
        self.assertLessEqual(len(self.by_share[0].calls), 3)
        while not getting.called:
            waiting[-1].callback(None)
            self.clock.pump([0.1] * 100)
        self.assertEqual(self.successResultOf(getting).length, len(TEXT))

    def test_what_it_fails_with_is_told(self) -> None:
        def take(_data: bytes) -> Any:
            raise OSError(28, "the disk is full")

        holders = holders_of(self.stored.document, self.crowd.find)
        key = self.stored.capability.key
        getting = self.client.get(self.stored.manifest, key, holders, CallSink(take))
        self.assertRaises(OSError, self.run_until, getting)

    def test_progress_is_told_and_ends_at_the_length(self) -> None:
        seen: list[Progress] = []
        self.get(self.stored, progress=seen.append)
        self.assertEqual([each.total for each in seen], [len(TEXT)] * 5)
        self.assertEqual([each.done for each in seen][-1], len(TEXT))

    def test_a_cancel_leaves_no_call_and_no_timer(self) -> None:
        for each in self.crowd.peers:
            each.delay = 3.0
        for steps in range(12):
            holders = holders_of(self.stored.document, self.crowd.find)
            key = self.stored.capability.key
            getting = self.client.get(self.stored.manifest, key, holders, BytesSink())
            for _ in range(steps):
                calls = self.clock.getDelayedCalls()
                if not getting.called and calls:
                    earliest = min(call.getTime() for call in calls)
                    self.clock.advance(max(0, earliest - self.clock.seconds()))
            getting.cancel()
            if not getting.called:
                self.failureResultOf(getting, CancelledError)
            getting.addErrback(lambda _: None)
            self.clock.advance(0)
            self.assertEqual(self.clock.getDelayedCalls(), [])
