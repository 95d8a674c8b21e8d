"""Tests of L{meshkit.audit.repair}: shares that are made anew."""

from __future__ import annotations

from collections import Counter
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionLost

from meshkit.audit.copying import MAX_AHEAD
from meshkit.errors import (
    CapacityReached,
    NotEnoughShares,
    PlacementConflict,
    StorageRefused,
    UploadOutOfStep,
    UploadUnknown,
)
from meshkit.storage.custody import repair_lease_root
from meshkit.storage.keeper.keeper import UPKEEP_SECONDS
from meshkit.storage.placement_document import placement_seed
from meshkit.storage.rendezvous import place
from meshkit.storage.terms import (
    GRACE_SECONDS,
    LEASE_SECONDS,
    RESERVATION_SECONDS,
    peer_lease_secret,
)
from meshkit.testing.identities import make_identity
from tests.audit.repairs import OWNER, SECRET, TEXT, RepairCase, lie
from tests.storage.client.peers import NOW, hang, refuse
from tests.storage.objects import SMALL
from tests.storage.shelves import text_of


class Rebuilding(RepairCase):
    def test_only_what_is_missing_is_made_and_put_where_hashing_says(self) -> None:
        self.kill(0, 7)
        repaired = self.repair([0, 7])
        self.assertEqual((dict(repaired.left), repaired.blames), ({}, ()))
        self.assertEqual(set(repaired.placed), {0, 7})
        self.assert_sound(repaired.tracked)
        before, after = self.holders(self.tracked), self.holders(repaired.tracked)
        self.assertEqual([n for n in range(9) if before[n] != after[n]], [0, 7])
        self.assertEqual(len(set(after)), 9)
        held = {
            n: self.peers.describe(key) for n, key in enumerate(before) if n not in (0, 7) and key
        }
        free = [
            each
            for each in self.peers.candidates(1)
            if each.key not in {key.raw for key in before if key}
        ]
        upload = self.stored.manifest.header.upload
        expected, _ = place(upload, 6, 9, free, held=held)
        self.assertEqual([each and each.raw for each in after], [expected[n].key for n in range(9)])
        self.assertEqual(self.peers.asked[0], (self.stored.manifest.layout.share_bytes, True))
        self.assertEqual(repaired.tracked.document.version, 2)
        self.assertEqual(self.peers.refreshed, 1)
        for number in (0, 7):
            placed = repaired.tracked.document.shares[number]
            assert placed is not None
            self.assertEqual(placed.lease_end, NOW + int(self.clock.seconds()) + LEASE_SECONDS)

    def test_as_much_is_moved_as_has_to_be(self) -> None:
        self.kill(2)
        repaired = self.repair([2])
        size = self.stored.manifest.layout.share_bytes
        self.assertEqual(repaired.written, size)
        self.assertGreaterEqual(repaired.read, 6 * size)
        self.assertLess(repaired.read, 6 * size * 1.2)
        self.assertEqual(sum(each.calls.count("read") for each in self.fronts), 6 * 6)

    def test_a_share_that_was_nowhere_is_somewhere(self) -> None:
        name = self.stored.manifest.header.share_id(3)
        peer = self.front(3).key
        self.wait(self.owned[peer].release(name, self.client_lease(self.tracked, peer)))
        nowhere = self.tracked.document.moved(3, None)
        self.tracked = self.tracked.with_document(nowhere)
        self.objects.objects[self.tracked.content_id] = self.tracked
        repaired = self.repair([3])
        self.assertEqual(set(repaired.placed), {3})
        self.assert_sound(repaired.tracked)

    def test_an_object_that_is_looked_after_for_somebody_else_is_repaired_too(self) -> None:
        # Its lease root is that of the repair capability; the owner's may be another one.
        self.tracked = evolve(self.tracked, own=False)
        repaired = self.repair([3])
        placed = repaired.placed[3]
        name = self.stored.manifest.header.share_id(3)
        seed = placement_seed(SECRET, self.stored.manifest.header.upload)
        secret = peer_lease_secret(repair_lease_root(seed), placed)
        self.wait(self.keepers[placed].for_caller(OWNER).release(name, secret))
        self.assertNotIn(name, self.keepers[placed].names())

    def test_any_loss_that_can_be_made_good_is(self) -> None:
        for lost in ((0, 1, 2), (6, 7, 8), (0, 4, 8), (5,)):
            self.begin_anew()
            self.kill(*lost)
            repaired = self.repair(lost)
            self.assertEqual(sorted(repaired.placed), sorted(lost))
            self.assert_sound(repaired.tracked)
            self.begin_anew()

    def test_nothing_lost_is_nothing_to_do(self) -> None:
        repaired = self.repair([])
        self.assertEqual(repaired.tracked, self.tracked)
        self.assertEqual((repaired.read, repaired.written, self.objects.swaps), (0, 0, 0))

    def test_shares_that_do_not_exist_are_a_mistake(self) -> None:
        for lost, leaving in (([9], []), ([-1], []), ([1, 1], []), ([1], [1])):
            self.assertRaises(ValueError, self.repairer.repair, self.tracked, lost, leaving=leaving)

    def test_at_most_so_many_and_the_most_urgent_first(self) -> None:
        self.kill(1, 3, 8)
        repaired = self.repair([8, 1, 3], at_most=1)
        self.assertEqual(set(repaired.placed), {8})
        self.assertEqual(set(repaired.left), {1, 3})
        self.assertIn("put off", repaired.left[1])
        self.assert_sound(repaired.tracked, without=[1, 3])

    def test_no_more_are_made_at_a_time_than_there_is_memory_for(self) -> None:
        self.kill(1, 3, 8)
        self.repairer = self.new_repairer(buffer_bytes=(6 + 2) * 4096)
        repaired = self.repair([8, 1, 3])
        self.assertEqual(set(repaired.placed), {8, 1})
        self.assertEqual(set(repaired.left), {3})
        self.assert_sound(repaired.tracked, without=[3])

    def test_too_few_good_shares_fail_before_anybody_is_asked(self) -> None:
        self.kill(0, 1, 2, 3)
        error = self.assertRaises(NotEnoughShares, self.repair, [0, 1, 2, 3])
        self.assertIn("6 shares are needed, and 5", str(error))
        self.assertEqual([each.calls for each in self.spare], [[]] * 5)

    def test_without_room_anywhere_nothing_changes(self) -> None:
        # Kryden's: all free space but one byte less than a share is taken.
        self.kill(0)
        for front in self.spare:
            self.peers.gone.add(front.key)
        repaired = self.repair([0])
        self.assertIn("room", repaired.left[0])
        self.assertEqual(repaired.placed, {})
        self.assertEqual(repaired.tracked, self.tracked)
        self.assertEqual(self.objects.swaps, 0)

    def test_an_empty_object_and_one_of_a_byte_are_repaired(self) -> None:
        for text in (b"", b"x"):
            self.text = text
            self.stored = self.put(text)
            self.tracked = self.track(self.stored)
            repaired = self.repair([4, 5])
            self.assertEqual(set(repaired.placed), {4, 5})
            self.assertEqual(self.read(repaired.tracked), text)
        self.text = TEXT


class Liars(RepairCase):
    def test_a_liar_is_named_and_excluded_and_the_rest_goes_on(self) -> None:
        self.repairer = self.new_repairer(buffer_bytes=1)
        self.kill(0)
        liar = self.front(2)
        liar.rule = lie
        repaired = self.repair([0])
        self.assertEqual(liar.calls.count("read"), 1)
        (blame,) = repaired.blames
        self.assertEqual((blame.peer, blame.number, blame.lied), (liar.key, 2, True))
        self.assertIn("share 2", blame.reason)
        liar.rule = None
        self.assert_sound(repaired.tracked)

    def test_too_many_liars_are_all_named(self) -> None:
        self.kill(0, 1)
        liars = [self.front(number) for number in (3, 5)]
        for each in liars:
            each.rule = lie
        error = self.assertRaises(NotEnoughShares, self.repair, [0, 1])
        self.assertEqual(error.wrong, (3, 5))
        assert error.details is not None
        self.assertEqual(error.details["liars"], sorted(each.key.text for each in liars))
        self.assertEqual(self.half_sent, 0)
        self.assertEqual(self.objects.swaps, 0)

    def test_who_lies_in_the_middle_is_replaced_from_there_on(self) -> None:
        self.kill(0)
        liar = self.front(1)
        liar.rule = lambda name, peer, args: (
            lie(name, peer, args) if name == "read" and args[1] == 4 else None
        )
        repaired = self.repair([0])
        self.assertEqual([each.lied for each in repaired.blames], [True])
        self.assert_sound(repaired.tracked)
        self.assertEqual(
            self.front(8).calls.count("read") + self.front(7).calls.count("read") > 0, True
        )

    def test_a_source_that_hangs_costs_a_moment(self) -> None:
        self.kill(0)
        self.front(1).rule = hang("read")
        begun = self.clock.seconds()
        repaired = self.repair([0])
        self.assertLess(self.clock.seconds() - begun, 5)
        self.assert_sound(repaired.tracked)

    def test_a_source_that_fails_is_replaced_and_is_no_liar(self) -> None:
        self.kill(0)
        self.repairer = self.new_repairer(buffer_bytes=1)
        self.front(1).rule = refuse(ConnectionLost(), "read")
        repaired = self.repair([0])
        (blame,) = repaired.blames
        self.assertEqual((blame.peer, blame.lied), (self.front(1).key, False))
        # From then on it is asked after all others.
        self.assertEqual(self.front(1).calls.count("read"), 1)
        self.front(1).rule = None
        self.assert_sound(repaired.tracked)


class Targets(RepairCase):
    def chosen(self, *lost: int) -> Any:
        """Where the shares will be put first."""
        self.begin_anew()
        repaired = self.repair(lost)
        found = [self.peers.find(repaired.placed[number]) for number in lost]
        self.begin_anew()
        return [self.peers.find(each.key) for each in found]

    def test_who_refuses_is_replaced(self) -> None:
        for error in (CapacityReached(), StorageRefused(), ConnectionLost(), ValueError("odd")):
            (one,) = self.chosen(3)
            one.rule = refuse(error, "reserve")
            repaired = self.repair([3])
            self.assertNotEqual(repaired.placed[3], one.key)
            self.assertEqual([each.peer for each in repaired.blames], [one.key])
            self.assert_sound(repaired.tracked)

    def test_who_hangs_when_asked_for_room_costs_one_deadline(self) -> None:
        (one,) = self.chosen(3)
        one.rule = hang("reserve")
        begun = self.clock.seconds()
        deferred = self.repairer.repair(self.tracked, [3])
        repaired = self.wait(deferred)
        self.assertEqual(self.clock.seconds() - begun, self.config.reserve_seconds)
        self.assertEqual(set(repaired.placed), {3})

    def test_who_fails_in_the_middle_is_replaced_by_another_round(self) -> None:
        for name in ("write", "close"):
            one, other = self.chosen(3, 5)
            one.rule = refuse(CapacityReached(), name)
            repaired = self.repair([3, 5])
            self.assertEqual(set(repaired.placed), {3, 5})
            self.assertEqual(repaired.placed[5], other.key)
            self.assertNotIn(one.key, repaired.placed.values())
            self.assertEqual([each.peer for each in repaired.blames], [one.key])
            self.assert_sound(repaired.tracked)
            # What was done was written down before.
            self.assertEqual(self.objects.swaps, 2)

    def test_who_hangs_in_the_middle_is_replaced(self) -> None:
        (one,) = self.chosen(3)
        one.rule = hang("write")
        repaired = self.repair([3])
        self.assertEqual(set(repaired.placed), {3})
        self.assertNotEqual(repaired.placed[3], one.key)
        self.assert_sound(repaired.tracked)

    def test_who_takes_blocks_too_slowly_is_replaced_though_no_deadline_passed(self) -> None:
        self.config = evolve(self.config, patience_seconds=100, least_rate=1_000)
        (one,) = self.chosen(3)
        one.delay = 50
        self.repairer = self.new_repairer(reserve_seconds=60)
        repaired = self.repair([3])
        self.assertEqual(set(repaired.placed), {3})
        self.assertNotEqual(repaired.placed[3], one.key)
        (blame,) = repaired.blames
        self.assertIn("too slow: it took 12288 bytes in 150 seconds", blame.reason)
        one.delay = 0
        self.assert_sound(repaired.tracked)

    def test_a_new_peer_that_restarts_while_it_is_written_is_written_again_later(self) -> None:
        # There is only this one.
        one = self.spare[0]
        for each in self.spare[1:]:
            self.peers.gone.add(each.key)
        self.kill(0)
        one.rule = refuse(UploadUnknown("restart during repair write"), "write")
        repaired = self.repair([0])
        self.assertEqual(repaired.placed, {})
        self.assertIn("restart during repair write", repaired.left[0])
        self.assertEqual(repaired.tracked, self.tracked)
        one.rule = None
        repaired = self.repair([0])
        self.assertEqual((repaired.placed, repaired.left), ({0: one.key}, {}))
        self.assert_sound(repaired.tracked)

    def test_peers_that_hang_when_asked_for_their_records_hold_up_no_repair(self) -> None:
        self.peers.refreshing = Deferred()
        begun = self.clock.seconds()
        repaired = self.wait(self.repairer.repair(self.tracked, [3]))
        self.assertEqual(set(repaired.placed), {3})
        self.assertEqual(self.clock.seconds() - begun, self.config.refresh_seconds)

    def test_if_there_are_not_enough_others_they_are_waited_for(self) -> None:
        self.peers.refreshing = Deferred()
        spare = self.spare
        self.peers.gone.update(each.key for each in spare)
        repairing = self.repairer.repair(self.tracked, [3])
        self.clock.advance(self.config.refresh_seconds + 1)
        self.clock.advance(5)
        self.assertNoResult(repairing)
        self.peers.gone.discard(spare[0].key)
        self.peers.refreshing.callback(None)
        self.assertEqual(self.wait(repairing).placed, {3: spare[0].key})

    def test_if_nobody_takes_a_share_it_is_left_with_the_reason(self) -> None:
        for each in self.spare:
            each.rule = refuse(CapacityReached("it is full"), "reserve")
        repaired = self.repair([3])
        self.assertIn("it is full", repaired.left[3])
        self.assertEqual(len(repaired.blames), 5)
        self.assertEqual(self.objects.swaps, 0)

    def test_a_wrong_receipt_is_a_lie_and_does_not_count(self) -> None:
        one, other = self.chosen(3, 5)

        def swap(name: str, peer: Any, args: tuple[Any, ...]) -> Any:
            if name == "close":
                return peer.close(*args).addCallback(lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]))
            return None

        one.rule = swap
        repaired = self.repair([3, 5])
        (blame,) = repaired.blames
        self.assertEqual((blame.peer, blame.lied), (one.key, True))
        self.assertNotIn(one.key, repaired.placed.values())
        self.assert_sound(repaired.tracked)

    def test_who_has_lost_a_share_gets_one_only_if_nobody_else_is_there(self) -> None:
        for number in range(9):
            self.begin_anew()
            for each in self.spare[1:]:
                self.peers.gone.add(each.key)
            repaired = self.repair([number])
            self.assertEqual(repaired.placed, {number: self.spare[0].key})
            self.assertNotIn("reserve", self.front(number).calls)

    def test_who_has_replaced_its_disk_gets_the_share_again_if_nobody_else_is_there(self) -> None:
        one, name = self.front(3), self.stored.manifest.header.share_id(3)
        for each in self.spare:
            self.peers.gone.add(each.key)
        # As long as it says that it has the share it is no help.
        repaired = self.repair([3])
        self.assertIn("has lost the share says that it has it", repaired.left[3])
        secret = self.client_lease(self.tracked, one.key)
        self.wait(self.owned[one.key].release(name, secret))
        repaired = self.repair([3])
        self.assertEqual(repaired.placed, {3: one.key})
        self.assert_sound(repaired.tracked)

    def test_room_that_is_kept_for_repairs_is_used(self) -> None:
        for each in self.spare:
            self.peers.gone.add(each.key)
        self.add_keeper(make_identity("spare"), capacity=100_000, headroom=99_000)
        self.peers.fronts.append(self.fronts[-1])
        repaired = self.repair([3])
        self.assertEqual(repaired.placed, {3: self.fronts[-1].key})

    def test_who_says_that_it_has_more_than_there_is_is_replaced(self) -> None:
        (one,) = self.chosen(3)

        def ahead(name: str, peer: Any, args: tuple[Any, ...]) -> Any:
            if name != "reserve":
                return None
            return peer.reserve(*args).addCallback(lambda it: evolve(it, next_segment=7))

        one.rule = ahead
        repaired = self.repair([3])
        self.assertNotEqual(repaired.placed[3], one.key)
        self.assertIn("7 blocks of a share that has 6", repaired.blames[0].reason)
        self.assert_sound(repaired.tracked)

    def test_those_that_hang_when_asked_for_room_cost_two_deadlines_and_no_third(self) -> None:
        for each in self.spare:
            each.rule = hang("reserve")
        begun = self.clock.seconds()
        repaired = self.wait(self.repairer.repair(self.tracked, [3]))
        self.assertEqual(self.clock.seconds() - begun, 2 * self.config.reserve_seconds)
        self.assertIn("did not answer", repaired.left[3])
        self.assertEqual(sum("reserve" in each.calls for each in self.spare), 2)

    def broken_once(self, name: str, obeyed: bool) -> Any:
        """The connection breaks once, before or after the peer has done what it was asked for."""
        left = [name]

        def rule(called: str, peer: Any, args: tuple[Any, ...]) -> Any:
            if called not in left:
                return None
            left.remove(called)
            if not obeyed:
                return fail(ConnectionLost())
            return getattr(peer, called)(*args).addCallback(lambda _: fail(ConnectionLost()))

        return rule

    def test_a_connection_that_breaks_once_costs_nothing(self) -> None:
        for name in ("write", "close"):
            for obeyed in (False, True):
                (one,) = self.chosen(3)
                one.rule = self.broken_once(name, obeyed)
                repaired = self.repair([3])
                self.assertEqual((repaired.placed, repaired.blames), ({3: one.key}, ()))
                self.assert_sound(repaired.tracked)

    def test_a_peer_that_is_out_of_step_is_replaced(self) -> None:
        (one,) = self.chosen(3)
        calls: list[int] = []

        def rule(name: str, _peer: Any, args: tuple[Any, ...]) -> Any:
            if name != "write":
                return None
            calls.append(args[2])
            if len(calls) == 1:
                return fail(ConnectionLost())
            return fail(UploadOutOfStep("no", next_segment=5))

        one.rule = rule
        repaired = self.repair([3])
        self.assertNotEqual(repaired.placed[3], one.key)
        self.assertEqual(calls, [0, 0])

    def test_no_peer_gets_a_second_share(self) -> None:
        self.kill(3)
        for each in self.spare:
            self.peers.gone.add(each.key)
        repaired = self.repair([3])
        self.assertEqual(set(repaired.left), {3})


class Memory(RepairCase):
    text = text_of(40 * SMALL.text_bytes)

    def test_a_slow_target_holds_up_the_sources(self) -> None:
        # Of what is read and not sent there is no more than the limit.
        window = 3
        size = window * (6 + 1) * 4096
        self.repairer = self.new_repairer(buffer_bytes=size)
        for each in self.spare:
            each.rule = hang("write")
        repairing = self.repairer.repair(self.tracked, [3])
        for _ in range(30):
            self.clock.advance(0.1)
        reads = sum(each.calls.count("read") for each in self.fronts)
        self.assertEqual(reads, window * 6)
        repairing.cancel()
        self.failureResultOf_later(repairing, CancelledError)

    def test_slow_sources_are_not_asked_for_more_than_the_limit(self) -> None:
        self.repairer = self.new_repairer(buffer_bytes=2 * (6 + 2) * 4096)
        for each in self.fronts:
            each.rule = hang("read")
        repairing = self.repairer.repair(self.tracked, [3, 5])
        self.clock.advance(0.1)
        self.assertEqual(sum(each.calls.count("read") for each in self.fronts), 2 * 6)
        repairing.cancel()
        self.failureResultOf_later(repairing, CancelledError)

    def test_a_copy_is_a_few_blocks_ahead(self) -> None:
        for each in self.spare:
            each.rule = hang("write")
        repairing = self.repairer.repair(self.tracked, [], leaving=[4])
        for _ in range(30):
            self.clock.advance(0.1)
        self.assertEqual(self.front(4).calls.count("read"), MAX_AHEAD)
        repairing.cancel()
        self.failureResultOf_later(repairing, CancelledError)

    def failureResultOf_later(self, deferred: Deferred[Any], kind: type[Exception]) -> None:
        for each in self.fronts:
            each.rule = None
        with self.assertRaises(kind):
            self.wait(deferred)
        self.wait(self.repairer.quiet())
        self.assertEqual(self.half_sent, 0)


class Killed(RepairCase):
    def killed_after(self, steps: int) -> bool:
        """@return: whether it was killed, and had not ended before."""
        self.kill(3, 5)
        for number, front in enumerate(self.fronts):
            front.delay = 0.01 + number / 10_000
        repairing = self.repairer.repair(self.tracked, [3, 5])
        for _ in range(steps):
            if repairing.called:
                return False
            self.step()
        # Nothing that it asks for from now on comes, and nobody hears what it was told.
        for front in self.fronts:
            front.rule = hang("abort", "release", "reserve", "write", "close", "read")
            front.delay = 0
        self.objects.before_swap = lambda: fail(OSError("it was killed"))
        repairing.cancel()
        with self.assertRaises((CancelledError, OSError)):
            self.wait(repairing)
        self.wait(self.repairer.quiet())
        return True

    def test_wherever_it_is_killed_what_is_left_ends_by_itself(self) -> None:
        left = [0, 0]
        for steps in range(0, 200, 7):
            if not self.killed_after(steps):
                break
            there = self.kept(self.tracked)
            closed = len((there[3] | there[5]) - self.peers.gone)
            left[0], left[1] = max(left[0], self.half_sent), max(left[1], closed)
            self.clock.advance(RESERVATION_SECONDS)
            self.pass_time(2)
            self.assertEqual(self.half_sent, 0)
            self.begin_anew()
        # Both kinds of leftovers were there.
        self.assertEqual(left, [2, 2])

    def pass_time(self, looks: int) -> None:
        for _ in range(looks):
            self.clock.advance(UPKEEP_SECONDS)
            for _ in range(20):
                self.clock.advance(0)

    def test_a_share_that_nobody_knows_of_goes_with_its_lease(self) -> None:
        self.killed_after_close()
        there = self.kept(self.tracked)
        self.assertEqual(len(there[3] - self.peers.gone), 1)
        self.clock.advance(LEASE_SECONDS + GRACE_SECONDS)
        self.pass_time(200)
        self.assertEqual(len(self.kept(self.tracked)[3] - self.peers.gone), 0)

    def killed_after_close(self) -> None:
        self.kill(3)
        self.objects.before_swap = lambda: fail(OSError("it was killed"))
        for each in self.fronts:
            if each in self.spare:
                each.rule = hang("release", "abort")
        with self.assertRaises(OSError):
            self.wait(self.repairer.repair(self.tracked, [3]))
        self.wait(self.repairer.quiet())


class Counting(RepairCase):
    def test_a_conflict_leaves_nothing_new_behind(self) -> None:
        self.kill(3, 5)

        def meanwhile() -> None:
            now = self.objects.objects[self.tracked.content_id]
            moved = now.document.moved(8, now.document.shares[8])
            self.objects.objects[self.tracked.content_id] = now.with_document(moved)

        self.objects.before_swap = meanwhile
        self.assertRaises(PlacementConflict, self.repair, [3, 5])
        self.assertEqual(self.half_sent, 0)
        there = self.kept(self.tracked)
        self.assertEqual({n: len(keys) for n, keys in there.items()}, dict.fromkeys(range(9), 1))

    def test_what_the_winner_has_put_at_the_same_peer_stays(self) -> None:
        self.kill(3)
        other = self.new_repairer()
        first: list[Any] = []

        def meanwhile() -> Any:
            self.objects.before_swap = lambda: None
            deferred = other.repair(self.tracked, [3])
            deferred.addCallback(first.append)
            return deferred

        self.objects.before_swap = meanwhile
        self.assertRaises(PlacementConflict, self.repair, [3])
        self.assert_sound(first[0].tracked)
        self.wait(other.stop())

    def test_if_nobody_knows_what_is_written_down_nothing_is_given_up(self) -> None:
        self.kill(3)
        self.objects.before_swap = lambda: fail(OSError("the disk is gone"))
        self.patch(self.objects, "find", lambda _: fail(OSError("the disk is gone")))
        self.assertRaises(OSError, self.repair, [3])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual(len(self.kept(self.tracked)[3] - self.peers.gone), 1)

    def test_if_the_object_was_removed_meanwhile_all_is_given_up(self) -> None:
        self.kill(3)
        self.objects.before_swap = lambda: self.objects.objects.clear()
        self.assertRaises(PlacementConflict, self.repair, [3])
        self.assertEqual(self.kept(self.tracked)[3] - self.peers.gone, set())

    def test_if_the_database_fails_nothing_is_taken_from_who_may_count(self) -> None:
        self.kill(3)
        self.objects.before_swap = lambda: fail(OSError("the disk is full"))
        self.assertRaises(OSError, self.repair, [3])
        self.assertEqual(self.half_sent, 0)
        self.assertEqual(len(self.kept(self.tracked)[3]), 1)

    def test_a_second_repair_goes_on_in_the_middle_of_a_share(self) -> None:
        self.kill(3)
        repairing = self.repairer.repair(self.tracked, [3])
        for front in self.fronts:
            front.delay = 0.01
        while sum(each.calls.count("write") for each in self.fronts) < 4:
            self.step()
        # Killed: nobody is told anything.
        for front in self.fronts:
            front.rule = hang("abort")
        repairing.cancel()
        with self.assertRaises(CancelledError):
            self.wait(repairing)
        self.wait(self.repairer.quiet())
        self.assertEqual(self.half_sent, 1)
        for front in self.fronts:
            front.rule = None
        repaired = self.repair([3])
        self.assertEqual(set(repaired.placed), {3})
        self.assertLess(repaired.written, self.stored.manifest.layout.share_bytes)
        self.assertLessEqual(sum(each.calls.count("write") for each in self.fronts), 7)
        self.assert_sound(repaired.tracked)

    def test_a_second_repair_goes_on_where_a_killed_one_was(self) -> None:
        self.kill(3)
        # Killed before the swap: the share is there, and nobody knows.
        stuck: Deferred[None] = Deferred()
        self.objects.before_swap = lambda: stuck
        dead = self.repairer.repair(self.tracked, [3])
        dead.addErrback(lambda _: None)
        while self.objects.swaps == 0 and not self.kept(self.tracked)[3] - self.peers.gone:
            self.step()
        self.clock.advance(1)
        self.objects.before_swap = lambda: None
        before = sum(each.calls.count("write") for each in self.fronts)
        again = self.new_repairer()
        repaired = self.wait(again.repair(self.tracked, [3]))
        self.assertEqual(set(repaired.placed), {3})
        self.assertEqual(sum(each.calls.count("write") for each in self.fronts), before)
        self.assertEqual(repaired.written, 0)
        self.assert_sound(repaired.tracked)
        stuck.callback(None)
        self.clock.advance(1)


class Cancelled(RepairCase):
    text = text_of(SMALL.text_bytes + 77)

    def test_cancelled_at_any_moment_it_gives_up_all_that_does_not_count(self) -> None:
        moments = 0
        for moment in range(400):
            self.kill(3, 5)
            for number, front in enumerate(self.fronts):
                # So that no two things happen at once.
                front.delay = 0.01 + number / 10_000
            self.objects.before_swap = lambda: self.later(0.05)
            repairing = self.repairer.repair(self.tracked, [3, 5])
            for _ in range(moment):
                if not repairing.called:
                    self.step()
            if repairing.called:
                break
            moments += 1
            repairing.cancel()
            with self.assertRaises(CancelledError):
                self.wait(repairing)
            self.wait(self.repairer.quiet())
            self.clock.pump([0.1] * 5)
            now = self.objects.objects[self.tracked.content_id]
            self.assertIn(now.document.version, (1, 2))
            if now.document.version == 2:
                self.assert_sound(now)
            else:
                self.assert_sound(now, without=[3, 5])
                there = self.kept(self.tracked)
                dead = self.peers.gone
                self.assertEqual((there[3] | there[5]) - dead, set())
            self.begin_anew()
        self.assertGreater(moments, 10)
        repairing.addErrback(lambda _: None)

    def later(self, seconds: float) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        self.clock.callLater(seconds, deferred.callback, None)
        return deferred


class WrongManifests(RepairCase):
    def spoil(self, *numbers: int) -> None:
        manifest = self.stored.manifest
        roots = [
            bytes(32) if number in numbers else root for number, root in enumerate(manifest.shares)
        ]
        spoiled = evolve(manifest, shares=tuple(roots))
        # The peers have the shares, and prove them by their own manifest.
        self.tracked = evolve(self.tracked, manifest=spoiled)
        document = evolve(self.tracked.document, content_id=spoiled.content_id)
        self.tracked = self.tracked.with_document(document)
        self.objects.objects[spoiled.content_id] = self.tracked

    def test_a_share_that_cannot_be_what_the_manifest_says_is_kept_by_nobody(self) -> None:
        self.spoil(0, 7)
        repaired = self.repair([0, 7, 8])
        self.assertEqual(set(repaired.placed), {8})
        self.assertEqual(set(repaired.left), {0, 7})
        self.assertIn("not what the manifest says", repaired.left[0])
        self.assertEqual(self.half_sent, 0)


class FewPeers(RepairCase):
    """There are fewer peers than shares, and some had several from the beginning."""

    count = 6

    def put(self, text: bytes, scheme: Any = None, **more: Any) -> Any:
        return super().put(text, scheme, repeat=True, **more)

    def test_what_a_peer_with_two_shares_had_goes_to_others(self) -> None:
        counts = Counter(self.holders(self.tracked))
        gone = max(counts, key=lambda key: counts[key])
        lost = [n for n, key in enumerate(self.holders(self.tracked)) if key == gone]
        self.assertGreater(len(lost), 1)
        self.kill(lost[0])
        repaired = self.repair(lost)
        self.assertEqual(set(repaired.placed), set(lost))
        self.assertNotIn(gone, self.holders(repaired.tracked))
        self.assert_sound(repaired.tracked)


class Stopping(RepairCase):
    def test_a_stop_gives_up_all_repairs_and_waits_for_that(self) -> None:
        one, other = (self.repairer.repair(self.tracked, [number]) for number in (3, 5))
        for front in self.fronts:
            front.delay = 0.01
        while self.half_sent < 2:
            self.step()
        stopped = self.repairer.stop()
        self.assertNoResult(stopped)
        self.wait(stopped)
        for each in (one, other):
            self.failureResultOf(each, CancelledError)
        self.assertEqual(self.half_sent, 0)
        self.assertEqual(self.objects.swaps, 0)

    def test_with_nothing_under_way_it_is_over_at_once(self) -> None:
        self.successResultOf(self.repairer.stop())


class Leaving(RepairCase):
    def test_a_share_is_copied_from_who_leaves(self) -> None:
        leaver = self.front(4)
        self.peers.gone.add(leaver.key)
        repaired = self.repair([], leaving=[4])
        self.peers.gone.discard(leaver.key)
        size = self.stored.manifest.layout.share_bytes
        self.assertEqual(set(repaired.placed), {4})
        self.assertLess(repaired.read, 1.2 * size)
        self.assertEqual(repaired.written, size)
        self.assertEqual(sum(each.calls.count("read") for each in self.fronts), 6)
        self.assert_sound(repaired.tracked)

    def test_who_leaves_keeps_nothing_though_it_would_take_it(self) -> None:
        for number in range(9):
            self.begin_anew()
            for each in self.spare[1:]:
                self.peers.gone.add(each.key)
            repaired = self.repair([], leaving=[number])
            self.assertEqual(repaired.placed, {number: self.spare[0].key})
            self.assertNotIn("reserve", self.front(number).calls)

    def test_who_leaves_is_not_given_another_share(self) -> None:
        leaver = self.front(4)
        repaired = self.repair([3], leaving=[4])
        self.assertNotIn(leaver.key, repaired.placed.values())
        self.assertEqual(set(repaired.placed), {3, 4})
        self.assert_sound(repaired.tracked)

    def test_if_it_cannot_be_copied_it_is_made_anew(self) -> None:
        for rule in (lie, refuse(ConnectionLost(), "read"), hang("read")):
            leaver = self.front(4)
            leaver.rule = rule
            repaired = self.repair([], leaving=[4])
            self.assertEqual(set(repaired.placed), {4})
            self.assertEqual([each.peer for each in repaired.blames], [leaver.key])
            self.assertEqual(repaired.blames[0].lied, rule is lie)
            leaver.rule = None
            self.assert_sound(repaired.tracked)
            self.begin_anew()

    def test_if_it_is_given_too_slowly_it_is_made_anew(self) -> None:
        self.repairer = self.new_repairer(patience_seconds=5, least_rate=10_000)
        leaver = self.front(4)
        leaver.delay = 9
        repaired = self.repair([], leaving=[4])
        (blame,) = repaired.blames
        self.assertIn("too slow: it gave 4096 bytes in 9 seconds", blame.reason)
        self.assertEqual(set(repaired.placed), {4})
        leaver.delay = 0
        self.assert_sound(repaired.tracked)

    def test_it_is_copied_even_if_too_few_are_left_to_make_others(self) -> None:
        self.kill(0, 1, 2, 3)
        repaired = self.repair([0, 1, 2, 3], leaving=[4])
        self.assertEqual(set(repaired.placed), {4})
        self.assertIn("6 shares are needed, and 5", repaired.left[0])

    def test_who_takes_it_and_fails_is_replaced(self) -> None:
        repaired = self.repair([], leaving=[4])
        one = repaired.placed[4]
        self.begin_anew()
        self.peers.find(one).rule = refuse(CapacityReached(), "write")
        repaired = self.repair([], leaving=[4])
        self.assertEqual(set(repaired.placed), {4})
        self.assertNotEqual(repaired.placed[4], one)
        self.assert_sound(repaired.tracked)
