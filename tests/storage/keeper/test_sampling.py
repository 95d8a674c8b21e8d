"""Tests of L{meshkit.storage.keeper.sampling}."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.crypto.samples import Samples, checked
from meshkit.errors import NotReady, ShareDamaged, ShareUnknown, StorageDiskFailed
from meshkit.interfaces import IScatteredReads, IShareSampler
from meshkit.storage.keeper import sampling
from meshkit.storage.shards.files import FileShardStore
from tests.runtime.support import scratch
from tests.storage.keeper.keepers import ALICE, BOB, OTHER_SECRET, SECRET, Keeping, shelf
from tests.storage.objects import PLACEMENT
from tests.storage.shelves import Shelf


def of(seed: int) -> Shelf:
    """An object of whose shares each has some leaves."""
    return shelf(200_000, seed)


def name_of(seed: int) -> bytes:
    """Of its first share."""
    return of(seed).header.share_id(0)


class Case(SynchronousTestCase):
    """A keeper with two shares."""

    def setUp(self) -> None:
        self.keeping = Keeping(store=self.make_store()).start()
        for seed in (1, 2):
            self.keeping.put(of(seed))
        self.sampler = self.keeping.keeper.sampler

    def make_store(self) -> Any:
        """In memory, if nothing else is said."""

    def break_reads(self, read: Callable[..., bytes]) -> None:
        """Have this done where a share is read."""
        self.patch(self.keeping.store, "read", read)

    def leaves(self, *wanted: tuple[bytes, list[int]]) -> list[Any]:
        found = self.keeping.done(self.sampler.leaves(wanted))
        return list(found)


class Samplers(Case):
    def test_it_is_a_sampler(self) -> None:
        self.assertTrue(verifyObject(IShareSampler, self.sampler))

    def test_what_is_kept_is_told_in_order(self) -> None:
        found = self.keeping.done(self.sampler.kept([name_of(2), b"x" * 32, name_of(1)]))
        self.assertIsNone(found[1])
        for seed, stat in ((2, found[0]), (1, found[2])):
            assert stat is not None
            it = of(seed)
            self.assertEqual((stat.size, stat.root), (len(it.shares[0]), it.manifest.shares[0]))
            self.assertGreater(stat.lease_end, self.keeping.now())

    def test_who_has_a_lease_may_ask(self) -> None:
        self.assertTrue(self.sampler.may_audit(ALICE.raw, name_of(1)))
        self.assertFalse(self.sampler.may_audit(BOB.raw, name_of(1)))
        self.assertFalse(self.sampler.may_audit(ALICE.raw, b"x" * 32))
        self.keeping.put(of(1), caller=BOB, secret=OTHER_SECRET)
        self.assertTrue(self.sampler.may_audit(BOB.raw, name_of(1)))
        self.keeping.done(self.keeping.peer(BOB).release(name_of(1), OTHER_SECRET))
        self.assertFalse(self.sampler.may_audit(BOB.raw, name_of(1)))

    def test_leaves_are_those_of_the_share(self) -> None:
        wanted = [(name_of(seed), [0, 1, 3]) for seed in (2, 1)]
        for (name, numbers), found in zip(wanted, self.leaves(*wanted), strict=True):
            it = of(2 if name == name_of(2) else 1)
            root, size = it.manifest.shares[0], len(it.shares[0])
            self.assertEqual(checked(root, size, numbers, found.samples), (found.digest, True))

    def test_one_call_of_a_thread_reads_them_all(self) -> None:
        calls: list[Any] = []
        run = self.keeping.workers.run

        def count(work: Any, *args: Any, **more: Any) -> Deferred[Any]:
            calls.append(work)
            return run(work, *args, **more)

        self.patch(self.keeping.workers, "run", count)
        self.leaves((name_of(1), [0]), (name_of(2), [0]), (b"x" * 32, [0]))
        self.assertEqual(len(calls), 1)

    def test_what_is_not_there_is_said_of_each(self) -> None:
        missing, there = self.leaves((b"x" * 32, [0]), (name_of(1), [0]))
        self.assertIsInstance(missing, ShareUnknown)
        self.assertIsInstance(there, Samples)

    def test_leaves_that_a_share_does_not_have_are_not_there(self) -> None:
        (found,) = self.leaves((name_of(1), [10_000]))
        self.assertIsInstance(found, ShareUnknown)
        self.keeping.run()
        self.assertIn(name_of(1), self.keeping.keeper.names())

    def test_a_share_that_cannot_be_read_is_put_aside(self) -> None:
        def rotten(*_: Any) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        self.break_reads(rotten)
        (found,) = self.leaves((name_of(1), [0]))
        self.assertIsInstance(found, ShareDamaged)
        self.keeping.run()
        self.assertNotIn(name_of(1), self.keeping.keeper.names())
        self.flushLoggedErrors()
        self.assertEqual(self.keeping.problems(), [])

    def test_a_share_whose_file_is_gone_is_known_no_more(self) -> None:
        self.keeping.store.remove(name_of(1))
        (found,) = self.leaves((name_of(1), [0]))
        self.assertIsInstance(found, ShareUnknown)
        self.keeping.run()
        self.assertEqual(self.keeping.keeper.names(), [name_of(2)])

    def test_a_disk_that_fails_says_nothing_of_a_share(self) -> None:
        def failing(*_: Any) -> bytes:
            raise OSError(errno.EMFILE, "Too many open files")

        self.break_reads(failing)
        self.keeping.fails(self.sampler.leaves([(name_of(1), [0])]), StorageDiskFailed)
        self.assertEqual(len(self.keeping.keeper.names()), 2)

    def test_a_share_is_not_read_while_it_is_changed(self) -> None:
        renewing = self.keeping.peer().renew(name_of(1), SECRET)
        reading = self.sampler.leaves([(name_of(2), [0]), (name_of(1), [0])])
        self.assertNoResult(reading)
        self.keeping.done(renewing)
        self.keeping.run()
        self.assertEqual(len(self.successResultOf(reading)), 2)

    def test_two_readers_and_two_writers_do_not_wait_for_each_other(self) -> None:
        one, two = name_of(1), name_of(2)
        waiting = []
        for _ in range(4):
            waiting += [
                self.sampler.leaves([(one, [0]), (two, [0])]),
                self.keeping.peer().renew(one, SECRET),
                self.sampler.leaves([(two, [0]), (one, [0])]),
                self.keeping.peer().renew(two, SECRET),
            ]
        self.keeping.advance(1)
        for each in waiting:
            self.successResultOf(each)

    def test_whoever_goes_away_gives_back_what_he_had_taken(self) -> None:
        for ticks in range(6):
            reading = self.sampler.leaves([(name_of(1), [0]), (name_of(2), [0])])
            for _ in range(ticks):
                if not reading.called:
                    self.keeping.tick()
            if not reading.called:
                reading.cancel()
                self.failureResultOf(reading, CancelledError)
            self.keeping.run()
            self.keeping.done(self.keeping.peer().renew(name_of(1), SECRET))
            self.keeping.done(self.keeping.peer().renew(name_of(2), SECRET))

    def test_after_the_stop_nothing_is_told(self) -> None:
        self.keeping.stop()
        for asked in (
            self.sampler.kept([name_of(1)]),
            self.sampler.leaves([(name_of(1), [0])]),
            self.sampler.placements_of([name_of(1)]),
        ):
            self.keeping.fails(asked, NotReady)


class Placements(Case):
    def test_it_is_told_who_says_where_a_share_is(self) -> None:
        names = [name_of(1), b"x" * 32, name_of(2)]
        expected = [
            (PLACEMENT.public, of(1).manifest.content_id),
            None,
            (PLACEMENT.public, of(2).manifest.content_id),
        ]
        for _ in range(2):
            self.assertEqual(self.keeping.done(self.sampler.placements_of(names)), expected)

    def test_it_is_read_once(self) -> None:
        self.keeping.done(self.sampler.placements_of([name_of(1)]))
        self.patch(self.keeping.store, "read", lambda *_: self.fail("it was read again"))
        self.keeping.done(self.sampler.placements_of([name_of(1)]))

    def test_it_is_read_again_when_another_share_has_come(self) -> None:
        self.keeping.done(self.sampler.placements_of([name_of(1)]))
        self.keeping.done(self.keeping.peer().release(name_of(1), SECRET))
        self.assertEqual(self.keeping.done(self.sampler.placements_of([name_of(1)])), [None])
        self.keeping.put(of(1))
        (found,) = self.keeping.done(self.sampler.placements_of([name_of(1)]))
        self.assertIsNotNone(found)

    def test_a_manifest_that_was_changed_is_not_believed(self) -> None:
        held = self.keeping.store._held[name_of(1)]
        data = bytearray(held.data)
        at = data.index(PLACEMENT.public.raw)
        data[at] ^= 1
        self.keeping.store._held[name_of(1)] = evolve(held, data=bytes(data))
        self.assertEqual(self.keeping.done(self.sampler.placements_of([name_of(1)])), [None])

    def test_so_many_are_remembered(self) -> None:
        self.patch(sampling, "MAX_PLACEMENTS", 1)
        names = [name_of(1), name_of(2)]
        self.assertNotIn(None, self.keeping.done(self.sampler.placements_of(names)))
        self.assertEqual(len(self.sampler._placements), 1)


class OnDisk(Samplers):
    """The same, where scattered pieces are read in one go."""

    def make_store(self) -> Any:
        return FileShardStore(scratch(self))

    def setUp(self) -> None:
        super().setUp()
        self.assertTrue(IScatteredReads.providedBy(self.keeping.store))

    def break_reads(self, read: Callable[..., bytes]) -> None:
        super().break_reads(read)
        self.patch(self.keeping.store, "read_scattered", read)

    def test_a_file_that_ends_early_is_damaged(self) -> None:
        name = name_of(1)
        store: Any = self.keeping.store
        path = store._path_of(name, ".mkshare")
        with open(path, "r+b") as file:
            file.truncate(100)
        (found,) = self.leaves((name, [0]))
        self.assertIsInstance(found, ShareDamaged)
