"""Tests of L{meshkit.storage.keeper.scrubbing}, on keepers."""

from __future__ import annotations

import errno
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ShareDamaged
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.keeper.reading import STEP
from meshkit.storage.keeper.scrubbing import MARK_SECONDS, ROUND_SECONDS
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.terms import LEASE_SECONDS
from tests.storage.keeper.keepers import ALICE, OTHER_SECRET, SECRET, Keeping, shelf

RATE = 1_000


def flip(store: MemoryShardStore, name: bytes, at: int = 100) -> None:
    """A disk has changed a bit."""
    held = store._held[name]
    data = bytearray(held.data)
    data[at] ^= 1
    store._held[name] = evolve(held, data=bytes(data))


class Rotten(MemoryShardStore):
    """
    A disk with a place that cannot be read.

    @ivar rotten: the name of the share on it.
    @ivar number: what the disk says.
    """

    rotten = b""
    number = errno.EIO

    def read(self, name: bytes, offset: int, length: int) -> bytes:
        if name == self.rotten:
            raise OSError(self.number, "oh")
        return super().read(name, offset, length)


class ScrubbingTests(SynchronousTestCase):
    def begin(self, count: int = 3, store: Any = None) -> Keeping:
        """A keeper with some shares, each read in less than a minute, that begins to scrub."""
        keeping = Keeping(KeeperConfig(10**7, scrub_rate=0), store).start()
        self.names = []
        for number in range(count):
            of = shelf(50_000, seed=number)
            keeping.put(of)
            self.names.append(of.header.share_id(0))
        self.names.sort()
        keeping.config = evolve(keeping.config, scrub_rate=RATE)
        keeping.crash()
        return keeping

    def read(self, keeping: Keeping) -> int:
        return keeping.keeper.figures().scrubbed_bytes

    def test_all_shares_are_read_at_the_rate_that_was_set(self) -> None:
        keeping = self.begin()
        size = len(shelf(50_000).shares[0])
        for second in range(1, 40):
            keeping.advance(1)
            # A share is one step, and who takes a step waits for it afterwards.
            self.assertLessEqual(self.read(keeping), second * RATE + size)
            self.assertGreaterEqual(self.read(keeping), min(3 * size, second * RATE - size))
        figures = keeping.keeper.figures()
        self.assertEqual((figures.scrub_rounds, figures.scrubbed), (1, 3))

    def test_a_round_is_made_once_a_week(self) -> None:
        keeping = self.begin()
        keeping.advance(100)
        keeping.advance(ROUND_SECONDS - 200, step=1_000)
        self.assertEqual(keeping.keeper.figures().scrub_rounds, 1)
        keeping.advance(300)
        self.assertEqual(keeping.keeper.figures().scrub_rounds, 2)

    def test_nothing_is_read_if_that_is_turned_off_and_goes_on_later(self) -> None:
        keeping = self.begin(20)
        keeping.advance(30)
        keeping.reconfigure(scrub_rate=0)
        keeping.advance(60)
        before = self.read(keeping)
        keeping.advance(10_000, step=100)
        self.assertEqual(self.read(keeping), before)
        keeping.reconfigure(scrub_rate=RATE)
        keeping.advance(1_000)
        self.assertEqual(keeping.keeper.figures().scrub_rounds, 1)
        self.assertEqual(keeping.keeper.figures().scrubbed, 20)

    def test_it_goes_on_after_a_restart_where_it_had_come_to(self) -> None:
        keeping = self.begin(20)
        keeping.advance(MARK_SECONDS + 20)
        marked = [name for name in self.names if self.note(keeping, name).checked]
        self.assertEqual(len(marked), 1)
        keeping.crash()
        keeping.advance(1_000)
        left = len(self.names) - self.names.index(marked[0]) - 1
        self.assertEqual(keeping.keeper.figures().scrubbed, left)
        self.assertLess(left, 20)

    def test_after_a_restart_a_round_that_was_complete_is_not_made_again(self) -> None:
        keeping = self.begin()
        keeping.advance(100)
        keeping.crash()
        keeping.advance(ROUND_SECONDS - 300, step=1_000)
        self.assertEqual(self.read(keeping), 0)
        keeping.advance(400)
        self.assertEqual(keeping.keeper.figures().scrubbed, 3)

    def test_a_flipped_bit_is_found_and_put_aside_and_told(self) -> None:
        keeping = self.begin()
        flip(keeping.store, self.names[1])
        keeping.advance(100)
        figures = keeping.keeper.figures()
        self.assertEqual((figures.damaged, figures.shares, figures.scrub_rounds), (1, 2, 1))
        ((name, data, reason),) = keeping.store.damaged.values()
        self.assertEqual((name, len(data) > 8000), (self.names[1], True))
        self.assertIn("was changed", reason)
        keeping.fails(keeping.peer().stat(self.names[1]), ShareDamaged)
        self.assertEqual(list(keeping.keeper.damaged), [self.names[1]])
        self.assertEqual(figures.stored, sum(s.size for s in keeping.store.open()))
        self.assertEqual(keeping.keeper.charged(ALICE), figures.stored)

    def test_a_damaged_share_may_be_brought_again(self) -> None:
        keeping = self.begin()
        of = shelf(seed=1)
        name = of.header.share_id(0)
        flip(keeping.store, name)
        keeping.advance(100)
        keeping.fails(keeping.peer().stat(name), ShareDamaged)
        keeping.put(of, repair=True)
        self.assertEqual(keeping.done(keeping.peer().stat(name)).size, len(of.shares[0]))
        self.assertEqual(list(keeping.keeper.damaged), [])

    def test_what_the_disk_cannot_read_is_put_aside(self) -> None:
        store = Rotten()
        keeping = self.begin(store=store)
        store.rotten = self.names[1]
        keeping.advance(100)
        self.assertEqual(keeping.keeper.figures().damaged, 1)

    def test_a_disk_that_fails_otherwise_harms_no_share(self) -> None:
        store = Rotten()
        keeping = self.begin(store=store)
        store.rotten, store.number = self.names[1], errno.EMFILE
        keeping.advance(200)
        figures = keeping.keeper.figures()
        self.assertEqual((figures.damaged, figures.shares, figures.scrubbed), (0, 3, 2))

    def test_a_share_that_is_taken_away_meanwhile_is_no_damage(self) -> None:
        keeping = self.begin()
        keeping.advance(1)
        for name in self.names:
            keeping.done(keeping.peer().release(name, SECRET))
        keeping.advance(200)
        figures = keeping.keeper.figures()
        self.assertEqual((figures.damaged, figures.shares), (0, 0))

    def test_one_that_comes_in_the_place_of_another_is_not_taken_for_it(self) -> None:
        """In the middle of a check the share goes, and another object of that upload comes."""
        keeping = Keeping(KeeperConfig(10**7, scrub_rate=0)).start()
        tiny = Scheme(1, 2, 4096 * 16)
        of = shelf(3_000_000, scheme=tiny)
        keeping.put(of, secret=OTHER_SECRET)
        keeping.config = evolve(keeping.config, scrub_rate=100_000)
        keeping.crash()
        keeping.advance(1)
        name = of.header.share_id(0)
        keeping.done(keeping.peer().release(name, OTHER_SECRET))
        self.assertEqual(keeping.keeper.figures().scrubbed_bytes, STEP)
        other = shelf(2_999_999, scheme=tiny)
        self.assertEqual(other.header.share_id(0), name)
        keeping.put(other)
        keeping.advance(100)
        self.assertEqual(keeping.keeper.figures().damaged, 0)
        keeping.done(keeping.peer().stat(name))

    def test_marks_do_not_touch_leases(self) -> None:
        keeping = self.begin()
        keeping.advance(100)
        keeping.crash()
        for name in self.names:
            stat = keeping.done(keeping.peer().stat(name))
            self.assertGreater(stat.lease_end, keeping.now() + LEASE_SECONDS - 1_000)

    def test_stopping_leaves_nothing_behind(self) -> None:
        keeping = self.begin()
        keeping.advance(5)
        keeping.stop()
        keeping.run()
        self.assertEqual(keeping.clock.getDelayedCalls(), [])

    def note(self, keeping: Keeping, name: bytes) -> ShardNote:
        return next(ShardNote.decode(s.note) for s in keeping.store.open() if s.name == name)
