"""Tests of L{meshkit.storage.client.putting}: peers that do not do what they should."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionLost

from meshkit.errors import (
    CapacityReached,
    NotEnoughPeers,
    ObjectNotPlaced,
    SourceChanged,
    StorageBusy,
    StorageRefused,
    UploadUnknown,
)
from meshkit.storage.client.client import holders_of
from meshkit.storage.client.streams import AsyncSource, IteratorSource
from meshkit.storage.client.values import ClientConfig, Progress
from meshkit.storage.rendezvous import place
from meshkit.storage.scheme import Scheme
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import LEASE_SECONDS
from tests.storage.client.peers import (
    NOW,
    Unruly,
    hang,
    names_of,
    refuse,
)
from tests.storage.client.test_client import ClientCase
from tests.storage.shelves import text_of

#: 2 of 4; 3 have to be kept.
FEW = Scheme(2, 4, 4096)
TEXT = text_of(30_000)


class PutCase(ClientCase):
    count = 6
    scheme = FEW
    config = ClientConfig(reserve_seconds=10, request_seconds=60)

    def chosen(self) -> list[Unruly]:
        """The peers that the next put asks first, in order of their shares."""
        seen: list[bytes] = []

        def watch(_name: str, _peer: Any, args: Any) -> Any:
            seen.append(args[0])
            return fail(StorageRefused())

        for each in self.crowd.peers:
            each.rule = watch
        self.assertRaises(ObjectNotPlaced, self.put, b"")
        self.run_until(self.client.quiet())
        # The same seed gives the same upload.
        self.client = self.new_client()
        placed, _ = place(seen[0], 2, 4, [each.candidate for each in self.crowd.offers()])
        for each in self.crowd.peers:
            each.rule = None
            each.calls.clear()
        return [self.crowd.find_raw(placed[number].key) for number in range(4)]

    def put_in(self, text: bytes = TEXT, **more: Any) -> tuple[Any, float]:
        """@return: what was stored, and in how many seconds."""
        start = self.clock.seconds()
        stored = self.put(text, **more)
        return stored, self.clock.seconds() - start

    def assert_sound(self, stored: Any, text: bytes = TEXT) -> None:
        """It is read, and nothing is left that nobody knows of."""
        self.assertEqual(self.get(stored), text)
        self.run_until(self.client.quiet())
        self.assertEqual(self.crowd.kept, len(stored.receipts))
        self.assertEqual([each for each in self.crowd.peers if each.peer.uploads], [])


class Room(PutCase):
    def test_who_refuses_is_replaced_and_named(self) -> None:
        for error in (CapacityReached(), StorageRefused(), ConnectionLost(), ValueError("odd")):
            self.setUp()
            one, *_ = self.chosen()
            one.rule = refuse(error, "reserve")
            stored = self.put(TEXT)
            self.assertEqual(stored.missing, ())
            self.assertEqual([each.peer for each in stored.problems], [one.key])
            self.assertIn(str(error) or "ConnectionLost", stored.problems[0].text)
            self.assert_sound(stored)

    def test_those_that_take_and_hang_cost_one_deadline_however_many(self) -> None:
        one, other, *_ = self.chosen()
        one.rule = other.rule = hang("reserve")
        stored, seconds = self.put_in()
        self.assertEqual(stored.missing, ())
        self.assertEqual(seconds, self.config.reserve_seconds)
        # They are told to give up what they may have reserved, and hang again.
        self.assert_sound(stored)
        self.assertIn("abort", one.calls)

    def test_those_that_replace_others_and_hang_too_cost_one_more_and_no_third(self) -> None:
        chosen = self.chosen()
        spare = [each for each in self.crowd.peers if each not in chosen]
        for each in (chosen[0], *spare):
            each.rule = hang("reserve")
        stored, seconds = self.put_in()
        self.assertEqual(stored.missing, (0,))
        self.assertEqual(seconds, 2 * self.config.reserve_seconds)
        self.assert_sound(stored)

    def test_if_too_few_have_room_all_of_it_is_given_up(self) -> None:
        for each in self.crowd.peers[2:]:
            each.peer.room = 0
        error = self.assertRaises(ObjectNotPlaced, self.put, TEXT)
        self.assertIn("2 of 4 shares", str(error))
        self.run_until(self.client.quiet())
        self.assertTrue(self.crowd.untouched)
        self.assertNotIn("write", [name for each in self.crowd.peers for name in each.calls])

    def claim(self, **what: Any) -> None:
        one, *_ = self.chosen()

        def ahead(name: str, peer: Any, args: tuple[Any, ...]) -> Any:
            if name != "reserve":
                return None
            return peer.reserve(*args).addCallback(lambda it: evolve(it, **what))

        one.rule = ahead
        stored = self.put(TEXT)
        self.assertEqual(stored.missing, ())
        self.assertNotIn(one.key, {each.peer for each in stored.receipts.values()})
        self.assert_sound(stored)

    def test_who_claims_to_have_what_it_was_never_sent_is_replaced(self) -> None:
        self.claim(next_segment=1)

    def test_who_claims_to_have_a_share_that_nobody_was_sent_is_replaced(self) -> None:
        self.claim(complete=True)

    def test_who_is_busy_is_asked_again(self) -> None:
        one, *_ = self.chosen()
        left = ["reserve", "reserve", "write", "close"]

        def busy(name: str, _peer: Any, _args: tuple[Any, ...]) -> Any:
            if name in left:
                left.remove(name)
                return fail(StorageBusy())
            return None

        one.rule = busy
        stored = self.put(TEXT)
        self.assertEqual(stored.problems, ())
        self.assert_sound(stored)

    def test_room_grows_with_an_object_whose_length_nobody_knows(self) -> None:
        text = text_of(20 * FEW.text_bytes + 5)
        stored = self.put(text)
        self.assert_sound(stored, text)
        calls = names_of(self.crowd.find(stored.receipts[0].peer).calls)
        # 4, 8, 16 and 32 segments.
        self.assertEqual(calls["reserve"], 4)

    def test_one_whose_length_is_known_asks_once_for_what_it_needs(self) -> None:
        text = text_of(20 * FEW.text_bytes + 5)
        source = IteratorSource(self.workers, [text], len(text))
        stored = self.run_until(self.client.put(source, self.crowd.offers(), FEW))
        calls = names_of(self.crowd.find(stored.receipts[0].peer).calls)
        self.assertEqual(calls, {"reserve": 1, "write": 21, "close": 1})

    def test_a_small_object_takes_one_call_of_each_kind_at_each_peer(self) -> None:
        for each in self.crowd.peers:
            each.delay = 1.0
        stored, seconds = self.put_in(b"small")
        self.assertEqual(seconds, 3.0)
        for receipt in stored.receipts.values():
            calls = self.crowd.find(receipt.peer).calls
            self.assertEqual(calls, ["reserve", "write", "close"])

    def test_one_domain_that_could_kill_the_object_is_flagged(self) -> None:
        offers = [
            evolve(each, candidate=evolve(each.candidate, decided=None, declared="rack"))
            for each in self.crowd.offers()
        ]
        source = IteratorSource(self.workers, [TEXT])
        stored = self.run_until(self.client.put(source, offers, FEW))
        self.assertEqual(stored.flags, ("one-domain-is-fatal",))

    def test_more_shares_than_peers_are_refused_and_nobody_is_asked(self) -> None:
        self.assertRaises(NotEnoughPeers, self.put, TEXT, Scheme(2, 7, 4096))
        self.assertEqual([each.calls for each in self.crowd.peers], [[]] * 6)


class Dying(PutCase):
    def test_one_that_dies_at_any_step_is_left_out(self) -> None:
        for step in range(1, 9):
            self.setUp()
            one, *_ = self.chosen()

            def die(_name: str, _peer: Any, _args: Any, one: Any = one, step: int = step) -> Any:
                # Whatever it has done by then stays, as nobody can reach it any more.
                return fail(ConnectionLost()) if len(one.calls) >= step else None

            one.rule = die
            stored = self.put(TEXT)
            if step == 1:
                self.assertEqual(stored.missing, ())
            elif len(one.calls) >= step:
                self.assertEqual(stored.missing, (0,))
                self.assertEqual({each.peer for each in stored.problems}, {one.key})
            self.assertEqual(self.get(stored), TEXT)

    def test_one_whose_connection_breaks_once_goes_on(self) -> None:
        for name in ("write", "close"):
            for first in (True, False):
                self.setUp()
                one, *_ = self.chosen()
                broken: list[str] = []

                def break_off(
                    called: str,
                    peer: Any,
                    args: Any,
                    name: str = name,
                    first: bool = first,
                    broken: list[str] = broken,
                ) -> Any:
                    if called != name or broken:
                        return None
                    broken.append(called)
                    if not first:
                        getattr(peer, name)(*args)
                    return fail(ConnectionLost())

                one.rule = break_off
                stored = self.put(TEXT)
                self.assertEqual(broken, [name])
                self.assertEqual(stored.problems, ())
                self.assert_sound(stored)

    def test_one_that_hangs_costs_its_deadline_and_holds_up_nobody_else(self) -> None:
        for name in ("write", "close"):
            self.setUp()
            one, *_ = self.chosen()
            one.rule = hang(name)
            stored, seconds = self.put_in()
            self.assertEqual(stored.missing, (0,))
            self.assertEqual(seconds, self.config.request_seconds)
            self.assert_sound(stored)

    def test_when_too_few_are_left_everything_is_released(self) -> None:
        for name in ("write", "close"):
            for error in (ConnectionLost(), UploadUnknown()):
                self.setUp()
                one, other, *_ = self.chosen()
                one.rule = other.rule = refuse(error, name)
                failure = self.assertRaises(ObjectNotPlaced, self.put, TEXT)
                self.assertIn(one.key.text, str(failure))
                self.run_until(self.client.quiet())
                self.assertTrue(self.crowd.untouched, (name, error))

    def test_a_slow_source_does_not_hide_that_too_few_are_left(self) -> None:
        chosen = self.chosen()

        async def slowly() -> Any:
            yield text_of(3 * FEW.text_bytes)
            await Deferred(lambda _: None)

        putting = self.client.put(AsyncSource(slowly()), self.crowd.offers(), FEW)
        for each in chosen[:2]:
            each.rule = refuse(UploadUnknown(), "write")
        self.clock.pump([0.1] * 20)
        self.failureResultOf(putting, ObjectNotPlaced)
        self.assertTrue(self.crowd.untouched)

    def test_a_quorum_may_be_set(self) -> None:
        self.config = evolve(self.config, quorum=2)
        self.client = self.new_client()
        one, other, *_ = self.chosen()
        one.rule = other.rule = refuse(UploadUnknown(), "write")
        stored = self.put(TEXT)
        self.assertEqual(stored.missing, (0, 1))
        self.assertEqual(self.get(stored), TEXT)


class Receipts(PutCase):
    def lying(self, **lie: Any) -> Any:
        def close(name: str, peer: Any, args: Any) -> Any:
            if name != "close":
                return None
            receipt = Receipt.open(peer.close(*args).result, peer.key)
            return succeed(evolve(receipt, **lie).sign(peer.identity))

        return close

    def test_one_that_says_something_else_is_not_believed(self) -> None:
        lies: list[dict[str, Any]] = [
            {"share": b"s" * 32},
            {"root": b"r" * 32},
            {"size": 1},
            {"lease": b"l" * 32},
            {"lease_end": NOW + LEASE_SECONDS // 2 - 1},
            {"lease_end": 0},
        ]
        for lie in lies:
            self.setUp()
            one, *_ = self.chosen()
            one.rule = self.lying(**lie)
            stored = self.put(TEXT)
            self.assertEqual(stored.missing, (0,), lie)
            self.assertTrue(stored.problems[0].lied)
            self.assert_sound(stored)

    def test_one_signed_by_another_or_not_at_all_is_not_believed(self) -> None:
        for forged in (b"", b"x" * 100, b"x" * 10_000):
            self.setUp()
            one, *_ = self.chosen()
            one.rule = lambda name, _peer, _args, it=forged: (
                succeed(it) if name == "close" else None
            )
            stored = self.put(TEXT)
            self.assertEqual(stored.missing, (0,))
            self.assertTrue(stored.problems[0].lied)
            self.assert_sound(stored)

    def test_a_promise_without_end_is_counted_as_one_lease(self) -> None:
        one, *_ = self.chosen()
        one.rule = self.lying(lease_end=2**62)
        stored = self.put(TEXT)
        placed = stored.document.shares[0]
        assert placed is not None
        self.assertEqual(placed.lease_end, NOW + LEASE_SECONDS)

    def test_they_are_what_was_signed(self) -> None:
        stored = self.put(TEXT)
        layout = stored.manifest.layout
        for number, receipt in stored.receipts.items():
            self.assertEqual(receipt.root, stored.manifest.shares[number])
            self.assertEqual(receipt.size, layout.share_bytes)
            placed = stored.document.shares[number]
            assert placed is not None
            self.assertEqual(placed.peer, receipt.peer)
        opened = type(stored.document).open(stored.signed, stored.manifest.header.placement)
        self.assertEqual(opened, stored.document)
        stored.document.check(stored.manifest)


class Sources(PutCase):
    def test_one_that_is_not_as_long_as_it_said_is_not_stored(self) -> None:
        for said in (0, len(TEXT) - 1, len(TEXT) + 1, 10 * len(TEXT)):
            self.setUp()
            source = IteratorSource(self.workers, [TEXT], said)
            putting = self.client.put(source, self.crowd.offers(), FEW)
            self.assertRaises(SourceChanged, self.run_until, putting)
            self.assertTrue(self.crowd.untouched)

    def test_what_it_fails_with_is_told_and_everything_is_given_up(self) -> None:
        def broken() -> Any:
            yield TEXT
            raise OSError(5, "the disk is broken")

        source = IteratorSource(self.workers, broken())
        putting = self.client.put(source, self.crowd.offers(), FEW)
        self.assertRaises(OSError, self.run_until, putting)
        self.assertTrue(self.crowd.untouched)

    def test_not_more_is_read_than_peers_have_taken_but_for_a_few_segments(self) -> None:
        read: list[int] = []

        def endless() -> Any:
            for number in range(1_000):
                read.append(number)
                yield text_of(FEW.text_bytes)

        self.config = evolve(self.config, buffer_bytes=3 * 4 * 4096)
        self.client = self.new_client()
        one, *_ = self.chosen()
        one.rule = hang("write")
        source = IteratorSource(self.workers, endless())
        putting = self.client.put(source, self.crowd.offers(), FEW)
        self.clock.pump([0.1] * 300)
        self.assertLess(len(read), 8)
        putting.cancel()
        self.assertRaises(CancelledError, self.run_until, putting)
        self.run_until(self.client.quiet())
        self.assertTrue(all(each.peer.empty for each in self.crowd.peers))

    def test_progress_is_told_and_ends_at_the_length(self) -> None:
        seen: list[Progress] = []
        self.put(TEXT, progress=seen.append)
        done = [each.done for each in seen]
        self.assertEqual(done, sorted(done))
        self.assertEqual(done[-1], len(TEXT))

    def test_two_puts_at_once_do_not_disturb_one_another(self) -> None:
        other = text_of(25_000, seed=8)
        first, second = self.begin_put(TEXT), self.begin_put(other)
        stored, also = self.run_until(first), self.run_until(second)
        self.assertEqual(self.get(stored), TEXT)
        self.assertEqual(self.get(also), other)


class Cancelling(PutCase):
    def test_at_any_moment_nothing_is_left(self) -> None:
        # Each answer takes a while, so that each wait is cut somewhere.
        whole = 0
        for steps in range(200):
            self.setUp()
            for number, each in enumerate(self.crowd.peers):
                each.delay = 0.5 + number / 8
            putting = self.begin_put(TEXT)
            for _ in range(steps):
                calls = self.clock.getDelayedCalls()
                if putting.called or not calls:
                    break
                self.clock.advance(max(0, min(c.getTime() for c in calls) - self.clock.seconds()))
            if putting.called:
                whole = steps
                break
            putting.cancel()
            self.assertRaises(CancelledError, self.run_until, putting)
            self.run_until(self.client.quiet())
            self.assertTrue(self.crowd.untouched, steps)
        self.assertGreater(whole, 10)

    def test_who_hangs_is_waited_for_no_longer_than_the_deadlines(self) -> None:
        one, *_ = self.chosen()
        one.rule = hang("close", "abort", "release")
        putting = self.begin_put(TEXT)
        self.clock.pump([0.1] * 20)
        self.assertIn("close", one.calls)
        putting.cancel()
        self.assertNoResult(putting)
        start = self.clock.seconds()
        self.assertRaises(CancelledError, self.run_until, putting)
        config = self.config
        self.assertLessEqual(
            self.clock.seconds() - start, config.request_seconds + 2 * config.reserve_seconds
        )

    def test_a_share_that_is_closed_while_nobody_waits_any_more_is_released(self) -> None:
        one, *_ = self.chosen()
        held: list[Any] = []

        def slow(name: str, peer: Any, args: Any) -> Any:
            if name != "close":
                return None
            waiting: Deferred[Any] = Deferred(lambda _: None)
            held.append((waiting, peer, args))
            return waiting

        one.rule = slow
        putting = self.begin_put(TEXT)
        self.clock.pump([0.1] * 20)
        putting.cancel()
        self.clock.pump([0.1] * 20)
        waiting, peer, args = held[0]
        peer.close(*args).chainDeferred(waiting)
        self.assertRaises(CancelledError, self.run_until, putting)
        self.assertTrue(self.crowd.untouched)

    def test_stop_ends_all_transfers(self) -> None:
        stored = self.put(TEXT)
        for each in self.crowd.peers:
            each.delay = 5.0
        putting = self.begin_put(TEXT)
        holders = holders_of(stored.document, self.crowd.find)
        reading = self.client.read(stored.manifest, stored.capability.key, holders, 0, 10)
        self.clock.advance(1)
        self.run_until(self.client.stop())
        self.failureResultOf(putting, CancelledError)
        self.failureResultOf(reading, CancelledError)
        self.assertEqual(self.crowd.kept, 4)
