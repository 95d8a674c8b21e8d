"""Tests of L{meshkit.storage.objects.guarding}: an owner, and somebody who repairs for him."""

from __future__ import annotations

import os
from random import Random
from typing import Any
from unittest.mock import patch

from attrs import evolve
from twisted.internet.defer import Deferred, succeed

from meshkit.errors import (
    InvalidRequest,
    NotFound,
    NotReady,
    ObjectMalformed,
    ObjectRemoved,
    Overloaded,
)
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.interfaces import IHashTable, IPeerFinder
from meshkit.storage.capability import RepairCapability, parse_capability
from meshkit.storage.custody import TrackedObject
from meshkit.storage.objects import watching
from meshkit.storage.objects.guarding import LATE_SECONDS, PUBLISH_SECONDS
from meshkit.storage.objects.part import StoragePart
from meshkit.storage.objects.upkeep import REPEAT_SECONDS
from meshkit.storage.placement_document import Placed
from meshkit.storage.placement_record import KIND
from meshkit.storage.terms import GRACE_SECONDS, LEASE_SECONDS
from meshkit.testing.identities import make_identity
from tests.storage.objects.support import HERON, Answered, Front
from tests.storage.objects.test_tracking import TrackingCase

DAY = 86_400


class GuardCase(TrackingCase):
    """
    @ivar repairer: the part of somebody who repairs, started.
    """

    def setUp(self) -> None:
        super().setUp()
        self.seen: list[bytes] = []
        self.healed = 0
        self.repairing = make_identity("repairer")
        self.other_fronts: dict[HostPort, Front] = {}
        for number, keeper in enumerate(self.keepers):
            front = Front(keeper.for_caller(self.repairing.public), self.clock)
            self.other_fronts[self.place(number)] = front
        folder = os.path.join(self.folder, "repairer")
        os.mkdir(folder, 0o700)
        self.repairer_context = evolve(
            self.new_context("repairer"),
            data_folder=os.path.join(folder, "storage"),
            find={IHashTable: self.table, IPeerFinder: self.table}.get,
        )
        self.repairer = self.start_repairer()

    def tearDown(self) -> None:
        super().tearDown()
        self.done(self.repairer_context.database.stopService())

    def start_repairer(self) -> StoragePart:
        owners = self.make_peer
        self.make_peer = self.make_other_peer  # type: ignore[method-assign]
        try:
            return self.start(self.repairer_context)
        finally:
            self.make_peer = owners  # type: ignore[method-assign]

    def make_other_peer(self, address: MeshAddress) -> Any:
        return self.other_fronts[address.place]

    def capability(self, put: Any) -> RepairCapability:
        text = self.ask("object_capabilities", object=put.object).repair
        found = parse_capability(text)
        assert isinstance(found, RepairCapability)
        return found

    def watch(self, put: Any) -> TrackedObject:
        found: TrackedObject = self.done(self.repairer.tracking.watch(self.capability(put)))
        return found

    def watched(self, put: Any) -> TrackedObject:
        """@return: an object as the repairer has it now."""
        found: TrackedObject = self.done(self.repairer.tracking.find(bytes.fromhex(put.object)))
        return found

    def repair(self, tracked: TrackedObject, number: int, to: int) -> TrackedObject:
        """The repairer moves a share, and writes that down."""
        placed = self.copy(tracked, number, to, self.repairing.public)
        swapping = self.repairer.tracking.swap(tracked, tracked.document.moved(number, placed))
        found: TrackedObject = self.done(swapping)
        return found

    def leases(self, keeper: int, tracked: TrackedObject, number: int) -> int:
        """@return: how many leases there are on a share."""
        name = tracked.manifest.header.share_id(number)
        return len(self.keepers[keeper]._index.get(name).note.leases)

    def settle(self, days: float = 0.0) -> None:
        """Both see to what is due, until nothing is."""
        self.pass_time(days * DAY)
        for _ in range(2):
            self.run_upkeep()
            self.run_upkeep(self.repairer)

    def collect(self) -> None:
        """All keepers take away what nobody has a lease on."""
        for keeper in self.keepers:
            self.done(Deferred.fromCoroutine(keeper._kept.collect(1_000)))

    def put_and_publish(self, data: bytes = HERON, name: str = "heron") -> Any:
        put = self.put(data, name)
        self.run_upkeep()
        return put

    def check_whole(self, put: Any, data: bytes = HERON) -> None:
        """Both say the same, each share is where they say, and nowhere else."""
        own, watched = self.tracked(put), self.watched(put)
        self.assertEqual(own.document, watched.document)
        for number in range(4):
            holder = self.holder(own, number)
            self.assertEqual(
                [keeper for keeper in range(self.count) if self.has(own, keeper, number)],
                [holder],
            )
            self.assertEqual(self.leases(holder, own, number), 2)
        self.assertEqual(self.get(put.object, f"copy {self.now()}", force=True), data)


class WatchTests(GuardCase):
    def test_what_was_handed_over_is_looked_after(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        own = self.tracked(put)
        self.assertFalse(tracked.own)
        self.assertEqual((tracked.manifest, tracked.document), (own.manifest, own.document))
        self.assertEqual(tracked.signed, own.signed)
        self.assertNotEqual(tracked.lease_root, own.lease_root)
        self.assertEqual(self.done(self.repairer.tracking.tracked()), [tracked])
        self.assertEqual(self.watched(put), tracked)
        # Handed over twice it is looked after once, as it is now.
        self.assertEqual(self.watch(put), tracked)
        self.run_upkeep(self.repairer)
        self.assertEqual(self.repairer.status().watched, 1)

    def test_where_its_shares_are_is_known_here_before_it_is_published(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.settle()
        self.assertEqual(self.repairer.status().publishing, 0)
        self.table.problem = NotReady("the network is away")
        moved = self.repair(tracked, 1, self.spare(tracked))
        self.assertEqual(self.repairer.status().publishing, 1)
        self.table.problem = None
        shown = self.ask("object_stat", self.repairer, object=put.object)
        self.assertEqual((shown.own, shown.version), (False, moved.document.version))
        # And what its owner has moved, though this node has not yet heard of it.
        own = self.tracked(put)
        self.publish(own, evolve(own.document, version=9))
        self.assertEqual(self.ask("object_stat", self.repairer, object=put.object).version, 9)
        self.table.records.clear()
        shown = self.ask("object_stat", self.repairer, object=put.object)
        self.assertEqual(shown.version, moved.document.version)

    def test_what_nobody_else_can_find_of_it_is_tried_again_soon(self) -> None:
        put = self.put_and_publish()
        self.table.others = 0
        self.watch(put)
        self.run_upkeep(self.repairer)
        self.assertEqual(self.repairer.status().publishing, 1)
        self.assertEqual(self.repairer.guard.published, 0)
        self.table.others = 1
        self.until(lambda: not self.repairer.status().publishing, 40)
        self.assertEqual(self.repairer.guard.published, 1)

    def test_own_objects_and_those_of_others_come_in_one_order(self) -> None:
        puts = [self.put_and_publish(bytes([n]) * 99, f"{n}") for n in range(4)]
        for put in puts:
            self.watch(put)
        own = [
            self.ended(
                self.ask("object_put", self.repairer, path=self.write(f"own {n}", bytes([n]))),
                self.repairer,
            )
            for n in range(3)
        ]
        wanted = sorted(bytes.fromhex(each.object) for each in (*puts, *own))
        found, after = [], b""
        while page := self.done(self.repairer.tracking.tracked(after, limit=2)):
            found += [each.content_id for each in page]
            after = found[-1]
        self.assertEqual(found, wanted)

    def test_those_of_others_are_listed_a_page_at_a_time(self) -> None:
        watched = sorted(
            self.watch(self.put(name=f"{number}.txt")).content_id for number in range(3)
        )
        own = self.ask("object_put", self.repairer, path=self.write("own.txt", HERON))
        self.assertEqual(self.ended(own, self.repairer).state, "done")
        seen = []
        for offset in (0, 2, 4):
            found, total = self.done(self.repairer.tracking.handed_over(2, offset))
            self.assertEqual(total, 3)
            self.assertLessEqual(len(found), 2)
            seen += [each.content_id for each in found]
        self.assertEqual(seen, watched)
        self.assertEqual(self.done(self.part.tracking.handed_over(2, 0)), ([], 0))

    def test_the_shares_have_a_lease_of_the_repairer_beside_that_of_the_owner(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.run_upkeep(self.repairer)
        for number in range(4):
            self.assertEqual(self.leases(self.holder(tracked, number), tracked, number), 2)
        # The document is the owner's still.
        self.assertEqual(self.watched(put), tracked)

    def test_an_object_outlives_the_absence_of_its_owner(self) -> None:
        put = self.put_and_publish()
        self.watch(put)
        self.run_upkeep(self.repairer)
        self.stop(self.part)
        for _ in range(12):
            self.pass_time(10 * DAY)
            self.run_upkeep(self.repairer)
            self.collect()
        self.assertEqual(sum(self.kept), 4)
        # And it can be found: the document says that the shares are kept.
        watched = self.watched(put)
        self.assertEqual(self.published(watched), watched.document)
        for placed in watched.document.shares:
            assert placed is not None
            self.assertGreater(placed.lease_end, self.now() + LATE_SECONDS - 10 * DAY)

    def test_without_a_repairer_it_does_not(self) -> None:
        self.put_and_publish()
        self.stop(self.part)
        self.pass_time(LEASE_SECONDS + GRACE_SECONDS + 1)
        self.collect()
        self.assertEqual(sum(self.kept), 0)

    def test_a_repairer_changes_nothing_while_the_owner_renews(self) -> None:
        put = self.put_and_publish()
        self.watch(put)
        versions = []
        for _ in range(8):
            self.settle(10)
            versions.append(self.tracked(put).document.version)
            self.check_whole(put)
        # One renewal of the owner in 20 days, and none of anybody else.
        self.assertEqual(versions, [1, 2, 2, 3, 3, 4, 4, 5])

    def test_one_peer_that_is_away_is_asked_again(self) -> None:
        put = self.put_and_publish()
        away = self.holder(self.tracked(put), 0)
        front = self.other_fronts[self.place(away)]
        front.down = True
        tracked = self.watch(put)
        self.run_upkeep(self.repairer)
        self.assertEqual(self.leases(away, tracked, 0), 1)
        front.down = False
        self.pass_time(4 * DAY)
        self.run_upkeep(self.repairer)
        self.assertEqual(self.leases(away, tracked, 0), 2)
        guard = self.repairer.guard
        self.assertEqual((guard.not_renewed, guard.renewed), (1, 7))

    def test_who_looks_after_it_no_more_gives_nothing_up(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.run_upkeep(self.repairer)
        self.done(self.repairer.tracking.unwatch(tracked.content_id))
        self.assertRaises(NotFound, self.done, self.repairer.tracking.unwatch(tracked.content_id))
        self.assertEqual(self.done(self.repairer.tracking.tracked()), [])
        self.run_upkeep(self.repairer)
        self.assertEqual(self.leases(self.holder(tracked, 0), tracked, 0), 2)
        # What it has published is forgotten by itself, and it was renewed once.
        key = KIND, tracked.signer.public.raw
        until = self.table.until[key]
        assert until is not None
        self.assertLessEqual(until // 1000, self.now() + PUBLISH_SECONDS)

    def test_what_cannot_be_looked_after_is_refused_by_name(self) -> None:
        put = self.put_and_publish()
        tracking, good = self.repairer.tracking, self.capability(put)
        foreign = RepairCapability(good.content_id, b"x" * 32)
        unknown = RepairCapability(b"?" * 32, good.seed)
        self.assertRaises(InvalidRequest, self.done, tracking.watch(foreign))
        self.assertRaises(NotFound, self.done, tracking.watch(unknown))
        self.assertRaises(InvalidRequest, self.done, self.tracking.watch(good))
        key = KIND, good.identity.public.raw
        self.table.records[key] = self.table.records[key][:-1] + b"?"
        self.assertRaises(ObjectMalformed, self.done, tracking.watch(good))
        del self.table.records[key]
        self.assertRaises(NotFound, self.done, tracking.watch(good))
        self.assertEqual(self.done(tracking.tracked()), [])

    def test_what_was_given_up_is_not_looked_after(self) -> None:
        put = self.put_and_publish()
        capability = self.capability(put)
        self.ask("object_remove", object=put.object)
        self.run_upkeep()
        watching_it = self.repairer.tracking.watch(capability)
        self.assertRaises(ObjectRemoved, self.done, watching_it)

    def test_only_so_many_are_looked_after(self) -> None:
        puts = [self.put_and_publish(bytes([n]), f"{n}") for n in range(3)]
        with patch.object(watching, "MAX_WATCHED", 2):
            self.watch(puts[0])
            self.watch(puts[1])
            self.assertRaises(Overloaded, self.watch, puts[2])
            self.assertEqual(self.watch(puts[1]), self.watched(puts[1]))
            self.done(self.repairer.tracking.unwatch(bytes.fromhex(puts[0].object)))
            self.watch(puts[2])

    def test_it_is_still_looked_after_when_the_node_was_started_again(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.stop(self.repairer)
        self.repairer = self.start_repairer()
        self.assertEqual(self.watched(put), tracked)
        self.run_upkeep(self.repairer)
        self.assertEqual(self.leases(self.holder(tracked, 0), tracked, 0), 2)


class TogetherTests(GuardCase):
    def test_what_the_repairer_moves_the_owner_takes_over(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.settle()
        moved = self.repair(tracked, 1, self.spare(tracked))
        self.run_upkeep(self.repairer)
        self.assertEqual(self.published(moved), moved.document)
        self.newest(self.tracked(put))
        self.settle()
        self.check_whole(put)

    def test_where_a_share_was_it_is_kept_until_it_is_where_it_is_said_to_be(self) -> None:
        put = self.put_and_publish()
        own = self.tracked(put)
        source, target = self.holder(own, 1), self.spare(own)
        said = own.document.moved(1, Placed(self.fronts[target].key, self.now() + LEASE_SECONDS))
        self.publish(own, said)
        self.assertEqual(self.newest(own).document, said)
        for days in (0, 4, 4):
            self.pass_time(days * DAY)
            self.run_upkeep()
            self.assertTrue(self.has(own, source, 1))
        self.copy(own, 1, target)
        self.pass_time(4 * DAY)
        self.run_upkeep()
        self.assertFalse(self.has(own, source, 1))
        self.assertTrue(self.has(own, target, 1))

    def test_the_owner_takes_it_over_by_himself_when_leases_are_renewed(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.settle()
        moved = self.repair(tracked, 1, self.spare(tracked))
        self.run_upkeep(self.repairer)
        self.settle(16)
        self.assertEqual(self.holder(self.tracked(put), 1), self.holder(moved, 1))
        self.settle()
        self.newest(self.watched(put), self.repairer.tracking)
        self.settle()
        self.check_whole(put)

    def test_what_the_owner_moves_the_repairer_takes_over(self) -> None:
        put = self.put_and_publish()
        self.watch(put)
        self.settle()
        own = self.tracked(put)
        moved = self.move(own, 3, self.spare(own))
        self.run_upkeep()
        found = self.newest(self.watched(put), self.repairer.tracking)
        self.assertEqual(found.document, moved.document)
        self.settle()
        self.check_whole(put)

    def test_two_who_move_different_shares_at_once_keep_both_moves(self) -> None:
        put = self.put_and_publish()
        watched = self.watch(put)
        self.settle()
        own = self.tracked(put)
        first, second = [n for n in range(self.count) if n not in self.holders(own)][:2]
        self.move(own, 0, first)
        self.repair(watched, 1, second)
        # Neither has seen the other's: whoever published last is seen in this table.
        self.agree(put)
        found = self.tracked(put)
        self.assertEqual((self.holder(found, 0), self.holder(found, 1)), (first, second))
        self.check_whole(put)

    def test_two_who_move_the_same_share_at_once_leave_it_at_one_place(self) -> None:
        put = self.put_and_publish()
        watched = self.watch(put)
        self.settle()
        own = self.tracked(put)
        first, second = [n for n in range(self.count) if n not in self.holders(own)][:2]
        self.move(own, 0, first)
        self.repair(watched, 0, second)
        self.agree(put)
        self.assertIn(self.holder(self.tracked(put), 0), (first, second))
        self.check_whole(put)

    def agree(self, put: Any) -> None:
        """Both look and see to what is due, which comes to an end."""
        for _ in range(6):
            self.settle()
            before = self.tracked(put), self.watched(put)
            after = (
                self.newest(before[0]),
                self.newest(before[1], self.repairer.tracking),
            )
            if before == after and after[0].document == after[1].document:
                return
        raise AssertionError("they go on changing it")

    def heal(self, put: Any) -> None:
        """
        Of each share there is one somewhere.  Where the document says that it is and it is not,
        whoever audits finds that, and has it made anew.
        """
        tracked = self.tracked(put)
        for number in range(4):
            holder = self.holder(tracked, number)
            at = [keeper for keeper in range(self.count) if self.has(tracked, keeper, number)]
            self.assertTrue(at, f"share {number} is lost")
            if holder not in at:
                self.healed += 1
                placed = self.copy(tracked, number, holder, source=at[0])
                tracked = self.swap(tracked, tracked.document.moved(number, placed))

    def holders(self, tracked: TrackedObject) -> list[int]:
        return [self.holder(tracked, number) for number in range(4)]

    def test_whoever_moves_whatever_and_whenever_it_comes_to_the_same(self) -> None:
        """No share is lost, and none is left behind where nobody knows of it."""
        for seed in range(6):
            with self.subTest(seed=seed):
                self.play(Random(seed))

    def play(self, rng: Random) -> None:
        data = rng.randbytes(300)
        put = self.put_and_publish(data, "played")
        self.watch(put)
        self.settle()
        key = KIND, self.tracked(put).signer.public.raw
        self.seen = [self.table.records[key]]
        for _ in range(12):
            mine = rng.random() < 0.5
            tracked = self.tracked(put) if mine else self.watched(put)
            what = rng.choice(("move", "move", "look", "keep", "hide"))
            if what == "move":
                number = rng.randrange(4)
                if not self.has(tracked, self.holder(tracked, number), number):
                    continue  # whoever audits would find that, and have it made anew
                (self.move if mine else self.repair)(tracked, number, self.spare(tracked))
            elif what == "look":
                self.newest(tracked, self.tracking if mine else self.repairer.tracking)
            elif what == "keep":
                self.run_upkeep(self.part if mine else self.repairer)
            else:
                # The hash table shows somebody what it had before.
                old = [Answered(rng.choice(self.seen))]
                with patch.object(self.table, "get", lambda *_, old=old: succeed(old)):
                    self.newest(tracked, self.tracking if mine else self.repairer.tracking)
            self.seen.append(self.table.records[key])
        self.agree(put)
        self.heal(put)
        # What is kept where it need not be goes when leases are renewed.
        self.settle(16)
        self.settle(16)
        self.agree(put)
        self.check_whole(put, data)
        self.ask("object_remove", object=put.object)
        self.settle()
        self.assertEqual(sum(self.kept), 0)


class RemovalTests(GuardCase):
    def test_the_leases_of_whoever_repaired_are_given_up_too(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.settle()
        self.stop(self.repairer)
        self.assertEqual(self.leases(self.holder(tracked, 0), tracked, 0), 2)
        gone = self.ask("object_remove", object=put.object)
        self.assertEqual((gone.released, gone.pending), (4, 0))
        self.assertEqual(sum(self.kept), 0)

    def test_shares_are_given_up_where_the_repairer_has_moved_them(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.settle()
        self.repair(tracked, 1, self.spare(tracked))
        self.run_upkeep(self.repairer)
        self.stop(self.repairer)
        self.ask("object_remove", object=put.object)
        self.run_upkeep()
        self.assertEqual(sum(self.kept), 0)

    def test_the_repairer_hears_of_it_and_looks_after_it_no_more(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.settle()
        self.ask("object_remove", object=put.object)
        self.run_upkeep()
        newest = self.repairer.tracking.newest(tracked)
        self.assertRaises(ObjectRemoved, self.done, newest)
        self.assertEqual(self.done(self.repairer.tracking.tracked()), [])
        self.assertRaises(NotFound, self.watched, put)
        self.run_upkeep(self.repairer)
        self.assertEqual(sum(self.kept), 0)

    def test_it_hears_of_it_when_leases_are_renewed(self) -> None:
        put = self.put_and_publish()
        self.watch(put)
        self.settle()
        self.ask("object_remove", object=put.object)
        self.run_upkeep()
        self.pass_time(16 * DAY)
        self.run_upkeep(self.repairer)
        self.assertRaises(NotFound, self.watched, put)
        self.assertEqual(sum(self.kept), 0)

    def test_a_repairer_that_did_not_hear_of_it_does_not_bring_it_back(self) -> None:
        put = self.put_and_publish()
        tracked = self.watch(put)
        self.settle()
        # The repairer has moved a share twice before anybody knew, so its version is the higher.
        once = self.repair(tracked, 1, self.spare(tracked))
        self.repair(once, 1, self.spare(once))
        with patch.object(self.table, "get", lambda *_: succeed([])):
            self.ask("object_remove", object=put.object)
            self.run_upkeep()
        self.run_upkeep(self.repairer)
        self.assertEqual(self.published(tracked).status, "live")
        self.pass_time(REPEAT_SECONDS + 1)
        self.run_upkeep()
        self.assertEqual(self.published(tracked).status, "deleted")
        self.assertRaises(ObjectRemoved, self.done, self.repairer.tracking.newest(tracked))
        self.settle()
        self.assertEqual(sum(self.kept), 0)

    def test_an_object_that_was_removed_is_looked_up_for_so_long(self) -> None:
        """A hash table that says nothing holds up no removal."""
        put = self.put_and_publish()
        with patch.object(self.table, "get", lambda *_: Deferred()):
            removed = self.ask("object_remove", object=put.object)
        self.assertEqual(removed.released, 4)
