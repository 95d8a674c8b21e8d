"""
Tests of L{meshkit.storage.client.spool}, and of puts that go on: after kills, power losses,
and changes of the file, at any moment.
"""

from __future__ import annotations

import os
from random import Random
from typing import Any

from attrs import define, field, frozen
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import SourceChanged, TransferSuspended
from meshkit.runtime.workers import InlineWorkers
from meshkit.sim.disk import SimDisk
from meshkit.storage.client.client import StorageClient, holders_of
from meshkit.storage.client.spool import MAX_JOURNAL, MOST_OWED, Journal, Spool
from meshkit.storage.client.streams import BytesSink, FileIdentity, PathSource
from meshkit.storage.client.values import ClientConfig, Offer, Stored
from meshkit.storage.erasure import ZfecCodec
from meshkit.storage.header import Header
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.scheme import Scheme
from meshkit.testing.identities import make_identity
from tests.storage.client.peers import MemoryPeer, Unruly, at_now, hang, run_until
from tests.storage.objects import make_header
from tests.storage.shelves import text_of

SCHEME = Scheme(2, 3, 4096)
WIDTH = SCHEME.text_bytes
SECRET = b"s" * 32
FOLDER, FILE = "/spool", "/file"


@frozen
class Disaster:
    """
    What ends a life.

    @ivar where: before a call to a peer, after one, or before a call to the disk.
    @ivar calls: how many such calls are made before.
    @ivar power: the machine stops too, and forgets what was not synced.
    @ivar change: what becomes of the file afterwards.
    """

    where: str
    calls: int
    power: bool
    change: str


@define
class World:
    """
    A machine with a file, and peers that outlive it.

    @ivar sent: what was ever sent of each segment of each share of each upload.
    """

    rng: Random
    text: bytes
    disk: SimDisk = field(init=False)
    peers: list[MemoryPeer] = field(init=False)
    clock: Clock = field(factory=Clock)
    boot: int = 0
    lives: int = 0
    alive: bool = True
    left: int | None = None
    after: bool = False
    sent: dict[tuple[bytes, int, int], bytes] = field(factory=dict)
    uploads: set[bytes] = field(factory=set)
    spool: Spool = field(init=False)
    workers: InlineWorkers = field(init=False)
    client: StorageClient = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.disk = SimDisk(Random(self.rng.random()))
        self.disk.make_folder(FOLDER)
        self.disk.write_atomic(FILE, self.text)
        self.peers = [MemoryPeer(make_identity(f"storage-{number}")) for number in range(4)]

    def rule(self, name: str, peer: Any, args: tuple[Any, ...]) -> Any:
        """Stands before each call to a peer."""
        if not self.alive:
            return Deferred(lambda _: None)
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.alive = False
                if not self.after:
                    return Deferred(lambda _: None)
        if name == "write":
            upload, number, segment, block = args
            self.uploads.add(upload)
            known = self.sent.setdefault((upload, number, segment), bytes(block))
            if known != bytes(block):
                raise SealedTwice(f"segment {segment} was sealed twice")
        answer = getattr(peer, name)(*args)
        return answer if self.alive else Deferred(lambda _: None)

    def begin(self) -> Deferred[Stored]:
        """A process is started, and puts the file."""
        self.clock = Clock()
        self.alive, self.lives = True, self.lives + 1
        self.workers = InlineWorkers(self.clock, 2)
        self.workers.startService()
        self.client = StorageClient(
            SECRET,
            reactor=self.clock,
            workers=self.workers,
            rng=Random(self.rng.random()),
            wall_clock=at_now,
            codec=ZfecCodec(),
            # One segment is under way, one waits, and one is encoded.
            config=ClientConfig(spool_bytes=0, quorum=3, buffer_bytes=1),
        )
        offers = []
        self.fronts = {}
        for number, peer in enumerate(self.peers):
            front = Unruly(peer, self.clock)
            front.rule = self.rule
            self.fronts[peer.key] = front
            offers.append(Offer(Candidate(peer.key.raw, decided=str(number)), front))
        source = PathSource(self.workers, FILE, self.disk.system)
        self.spool = Spool(FOLDER, "put", f"boot-{self.boot}", self.disk, self.disk.system)
        return self.client.put(source, offers, SCHEME, spool=self.spool)

    fronts: dict[Any, Unruly] = field(factory=dict)

    def live(self, disaster: Disaster | None) -> Any:
        """
        @return: what came of the put, if it ended before the disaster.
        """
        self.left, self.after = None, False
        if disaster is not None and disaster.where == "disk":
            self.disk.system.on_stop = self.die
            self.disk.system.stop_before(disaster.calls)
        elif disaster is not None:
            self.left, self.after = disaster.calls, disaster.where == "after"
        outcomes: list[Any] = []
        self.begin().addBoth(outcomes.append)
        while self.alive and not outcomes:
            calls = self.clock.getDelayedCalls()
            if not calls:
                raise AssertionError("nothing happens any more")
            self.clock.advance(max(0, min(c.getTime() for c in calls) - self.clock.seconds()))
        if self.alive:
            self.disk.system.mend()
            self.left = None
            return outcomes[0]
        # The process is gone, and so is everything that it had open.
        self.disk.end_process()
        if disaster is not None:
            if disaster.power:
                self.disk.crash()
                self.boot += 1
            self.change(disaster.change)
        return None

    def die(self) -> None:
        self.alive = False

    def change(self, how: str) -> None:
        """Something becomes of the file."""
        system = self.disk.system
        if how == "replaced":
            self.text = self.rng.randbytes(len(self.text))
            self.disk.write_atomic(FILE, self.text)
        elif how == "longer":
            self.text += self.rng.randbytes(1 + self.rng.randrange(2 * WIDTH))
            self.disk.write_atomic(FILE, self.text)
        elif how == "in place":
            # Nobody can see that here: the size is the same, and there are no times.
            self.text = self.rng.randbytes(len(self.text))
            descriptor = system.open(FILE, os.O_WRONLY, 0)
            rest = memoryview(self.text)
            while rest:
                rest = rest[system.write(descriptor, rest) :]
            system.fsync(descriptor)
            system.close(descriptor)

    def find(self, key: Any) -> Any:
        return self.fronts.get(key)

    def get(self, stored: Stored) -> bytes:
        sink = BytesSink()
        holders = holders_of(stored.document, self.find)
        key = stored.capability.key
        run_until(self.clock, self.client.get(stored.manifest, key, holders, sink))
        return bytes(sink.data)


def step(clock: Clock) -> None:
    """Let the one thing happen that comes next."""
    call: Any = clock.getDelayedCalls()[0]
    clock.calls.remove(call)
    call.called = 1
    call.func(*call.args, **call.kw)


class SealedTwice(AssertionError):
    """The worst that can happen."""


disasters = st.builds(
    Disaster,
    st.sampled_from(["before", "after", "disk"]),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from(["same", "same", "replaced", "longer", "in place"]),
)


class GoingOn(SynchronousTestCase):
    def play(self, seed: int, length: int, some: list[Disaster]) -> World:
        """Live through the disasters, then in peace, and look at what is there."""
        world = World(Random(seed), text_of(length))
        texts = [world.text]
        sealed_as_seen = True
        stored = None
        for disaster in some:
            stored = world.live(disaster)
            if stored is not None:
                break
            sealed_as_seen = sealed_as_seen and disaster.change != "in place"
            texts.append(world.text)
        if stored is None:
            stored = world.live(None)
        if not isinstance(stored, Stored):
            stored.raiseException()
        run_until(world.clock, world.client.quiet())
        self.assertEqual(stored.missing, ())
        read = world.get(stored)
        if sealed_as_seen:
            # Of any version of the file, and of one only.
            self.assertIn(read, texts)
        world.spool.remove()
        self.assertRaises(OSError, world.disk.read, f"{FOLDER}/put.journal", 10)
        upload = stored.manifest.header.upload
        for peer in world.peers:
            for kept in peer.shares.values():
                self.assertEqual(kept.manifest.header.upload, upload)
        return world

    @given(
        seed=st.integers(0, 2**32),
        length=st.integers(0, 6 * WIDTH),
        some=st.lists(disasters, max_size=4),
    )
    @example(seed=1, length=4 * WIDTH, some=[Disaster("disk", 24, True, "same")] * 2)
    @example(
        seed=2,
        length=0,
        some=[Disaster("disk", 33, False, "same"), Disaster("before", 7, True, "same")],
    )
    # Killed before the peers were told that the first upload was given up.
    @example(
        seed=0,
        length=16353,
        some=[Disaster("before", 13, True, "same"), Disaster("before", 0, False, "same")],
    )
    def test_whatever_happens_nothing_is_sealed_twice_and_it_is_stored_in_the_end(
        self, seed: int, length: int, some: list[Disaster]
    ) -> None:
        self.play(seed, length, some)

    def test_a_kill_at_any_moment_is_gone_on_with(self) -> None:
        length = 2 * WIDTH + 100
        for where in ("before", "after", "disk"):
            for calls in range(200):
                world = self.play(calls, length, [Disaster(where, calls, False, "same")])
                if world.lives == 1:
                    break
                # One upload, if anything was sent: the same segments went on.
                self.assertLessEqual(len(world.uploads), 1, (where, calls))
            self.assertGreater(calls, 10)

    def test_a_power_loss_at_any_moment_is_survived(self) -> None:
        length = 2 * WIDTH + 100
        for where in ("before", "after", "disk"):
            for calls in range(200):
                world = self.play(calls, length, [Disaster(where, calls, True, "same")])
                if world.lives == 1:
                    break
                self.assertLessEqual(len(world.uploads), 2)
            self.assertGreater(calls, 10)

    def test_after_a_power_loss_what_is_whole_goes_on(self) -> None:
        """All was sealed and is on the disk: nothing has to be sealed any more."""
        for seed in range(30):
            world = World(Random(seed), text_of(3 * WIDTH))
            self.assertIsNone(world.live(Disaster("before", 11, True, "same")))
            whole = len(world.disk.read(self.sealed(world), 10**6)) == 3 * WIDTH + 3 * 16
            world.live(None)
            self.assertEqual(len(world.uploads), 1 if whole else 2)

    def test_after_a_power_loss_what_only_looks_whole_begins_anew(self) -> None:
        world = World(Random(1), text_of(3 * WIDTH))
        world.live(Disaster("before", 11, False, "same"))
        path = self.sealed(world)
        raw = bytearray(world.disk.read(path, 10**6))
        raw[2 * SCHEME.segment_bytes : 2 * SCHEME.segment_bytes + 4096] = bytes(4096)
        world.disk.write_atomic(path, bytes(raw))
        world.boot += 1
        self.assertEqual(world.get(world.live(None)), world.text)
        self.assertEqual(len(world.uploads), 2)

    def sealed(self, world: World) -> str:
        journal = Journal.decode(world.disk.read(f"{FOLDER}/put.journal", 10**5))
        return f"{FOLDER}/{journal.upload}.sealed"

    def test_a_file_that_was_changed_is_put_anew_unless_all_of_it_was_sealed(self) -> None:
        for calls, uploads in ((8, 2), (20, 1)):
            world = World(Random(1), text_of(6 * WIDTH))
            before = world.text
            self.assertIsNone(world.live(Disaster("before", calls, False, "replaced")))
            stored = world.live(None)
            self.assertEqual(len(world.uploads), uploads)
            self.assertEqual(world.get(stored), world.text if uploads == 2 else before)

    def test_blocks_that_are_there_are_not_sent_again(self) -> None:
        world = World(Random(1), text_of(6 * WIDTH))
        world.live(Disaster("before", 9, False, "same"))
        world.live(None)
        writes = [name for front in world.fronts.values() for name in front.calls]
        self.assertEqual(writes.count("write"), 18 - 6)

    def test_a_peer_that_is_gone_is_replaced_and_given_all_of_it(self) -> None:
        world = World(Random(1), text_of(3 * WIDTH))
        world.live(Disaster("before", 9, False, "same"))
        journal = Journal.decode(world.disk.read(f"{FOLDER}/put.journal", 10**5))
        gone = next(peer for peer in world.peers if peer.key.raw == journal.places[0])
        gone.room = 0
        gone.uploads.clear()
        stored = world.live(None)
        self.assertEqual(stored.missing, ())
        self.assertNotEqual(stored.receipts[0].peer, gone.key)
        self.assertEqual(world.get(stored), world.text)

    def test_a_torn_end_is_written_again(self) -> None:
        world = World(Random(1), text_of(6 * WIDTH))
        world.live(Disaster("before", 9, False, "same"))
        path = self.sealed(world)
        raw = world.disk.read(path, 10**6)
        world.disk.write_atomic(path, raw[: 2 * SCHEME.segment_bytes - 5])
        # That is what a kill leaves, if nothing of the second segment has left.
        for key in [key for key in world.sent if key[2] >= 1]:
            del world.sent[key]
        for peer in world.peers:
            for upload in peer.uploads.values():
                upload.next_segment = min(1, upload.next_segment)
                upload.last = None
                del upload.data[4096:]
        stored = world.live(None)
        self.assertEqual(world.get(stored), world.text)
        self.assertEqual(len(world.uploads), 1)

    def test_a_spool_that_was_spoiled_is_not_sent(self) -> None:
        world = World(Random(1), text_of(3 * WIDTH))
        world.live(Disaster("before", 12, False, "same"))
        path = self.sealed(world)
        raw = bytearray(world.disk.read(path, 10**6))
        raw[5] ^= 1
        world.disk.write_atomic(path, bytes(raw))
        failed = world.live(None)
        self.assertIn("segment 0", str(failed.value))
        self.assertEqual([peer.empty for peer in world.peers], [True] * 4)
        # And the next time it begins anew.
        self.assertEqual(world.get(world.live(None)), world.text)

    def test_a_spoiled_journal_begins_anew(self) -> None:
        world = World(Random(1), text_of(3 * WIDTH))
        world.live(Disaster("before", 9, False, "same"))
        world.disk.write_atomic(f"{FOLDER}/put.journal", b"rubbish")
        self.assertEqual(world.get(world.live(None)), world.text)
        self.assertEqual(len(world.uploads), 2)

    def test_sealed_segments_that_somebody_took_away_begin_anew(self) -> None:
        world = World(Random(1), text_of(3 * WIDTH))
        world.live(Disaster("before", 9, False, "same"))
        world.disk.remove(self.sealed(world))
        self.assertEqual(world.get(world.live(None)), world.text)
        self.assertEqual(len(world.uploads), 2)

    def test_without_a_boot_id_only_what_is_whole_goes_on(self) -> None:
        for calls, uploads in ((8, 2), (20, 1)):
            world = World(Random(1), text_of(6 * WIDTH))
            world.live(Disaster("before", calls, False, "same"))
            raw = world.disk.read(f"{FOLDER}/put.journal", 10**5)
            world.disk.write_atomic(f"{FOLDER}/put.journal", raw.replace(b"boot-0", b"boot-x"))
            self.assertEqual(world.get(world.live(None)), world.text)
            self.assertEqual(len(world.uploads), uploads)


class Ends(SynchronousTestCase):
    def test_what_is_suspended_leaves_everything_and_goes_on(self) -> None:
        world = World(Random(1), text_of(4 * WIDTH))
        putting = world.begin()
        front = next(iter(world.fronts.values()))
        front.rule = hang("write")
        world.clock.pump([0.01] * 10)
        run_until(world.clock, world.client.stop())
        self.failureResultOf(putting, TransferSuspended)
        self.assertEqual(world.disk.system.held(None), 0)
        self.assertTrue(any(peer.uploads for peer in world.peers))
        stored = world.live(None)
        self.assertEqual(world.get(stored), world.text)
        self.assertEqual(len(world.uploads), 1)

    def test_what_is_cancelled_leaves_nothing(self) -> None:
        world = World(Random(1), text_of(4 * WIDTH))
        putting = world.begin()
        next(iter(world.fronts.values())).rule = hang("write")
        world.clock.pump([0.01] * 10)
        putting.cancel()
        putting.addErrback(lambda _: None)
        run_until(world.clock, putting)
        run_until(world.clock, world.client.quiet())
        self.assertEqual([peer.empty for peer in world.peers], [True] * 4)
        self.assertRaises(FileNotFoundError, world.disk.read, f"{FOLDER}/put.journal", 10)
        self.assertEqual(world.disk.system.held(None), 0)

    def test_a_full_disk_costs_the_spool_and_not_the_put(self) -> None:
        world = World(Random(1), text_of(6 * WIDTH))
        world.disk.system.limit(world.disk.system.used + 2 * SCHEME.segment_bytes)
        stored = world.live(None)
        self.assertEqual(world.get(stored), world.text)
        self.assertRaises(FileNotFoundError, world.disk.read, f"{FOLDER}/put.journal", 10)

    def test_a_file_that_grows_or_shrinks_while_it_is_read_is_not_stored(self) -> None:
        for length in (0, WIDTH, 3 * WIDTH - 1, 3 * WIDTH + 1, 9 * WIDTH):
            world = World(Random(1), text_of(3 * WIDTH))
            putting = world.begin()
            while putting.called is False and not world.disk.system.held(None):
                step(world.clock)
            # It was opened, and nothing was read of it.
            world.text = text_of(length)
            system = world.disk.system
            descriptor = system.open(FILE, os.O_WRONLY, 0)
            system.ftruncate(descriptor, 0)
            rest = memoryview(world.text)
            while rest:
                rest = rest[system.write(descriptor, rest) :]
            system.close(descriptor)
            self.assertRaises(SourceChanged, run_until, world.clock, putting)
            self.assertEqual([peer.empty for peer in world.peers], [True] * 4)

    def test_two_puts_cannot_have_one_spool(self) -> None:
        world = World(Random(1), text_of(2 * WIDTH))
        world.live(Disaster("before", 5, False, "same"))
        identity = FileIdentity.of(world.disk.system.stat(FILE))
        first = Spool(FOLDER, "put", "boot-0", world.disk, world.disk.system)
        self.assertIsNone(first.open(identity))
        second = Spool(FOLDER, "put", "boot-0", world.disk, world.disk.system)
        self.assertRaises(BlockingIOError, second.open, identity)
        first.close()
        self.assertIsNone(second.open(identity))
        second.close()


class SpoolTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = SimDisk(Random(1))
        self.disk.make_folder(FOLDER)
        self.identity = FileIdentity(2 * WIDTH + 5, 1, 2, 3, 4)

    def spool(self, name: str = "put", boot: str = "boot") -> Spool:
        return Spool(FOLDER, name, boot, self.disk, self.disk.system)

    def test_a_name_leads_nowhere_else(self) -> None:
        for name in ("", "../x", "a/b", ".", "x" * 65, "a b"):
            self.assertRaises(ValueError, self.spool, name)

    def test_the_journal_comes_back(self) -> None:
        header, key = make_header(SCHEME)
        owed = {b"u" * 16: {3: b"q" * 32}}
        journal = Journal("boot", self.identity, header, key, {0: b"p" * 32}, "ab", owed)
        self.assertEqual(Journal.decode(journal.raw), journal)
        self.assertIsInstance(journal.header, Header)

    def test_it_remembers_the_last_uploads_that_were_given_up_and_stays_small(self) -> None:
        spool, uploads = self.spool(), []
        for number in range(MOST_OWED + 2):
            spool.begin(self.identity, *make_header(SCHEME, number))
            spool.set_places({each: bytes([number]) * 32 for each in range(255)})
            assert spool.journal is not None
            uploads.append(spool.journal.header.upload)
            self.assertEqual([*spool.journal.owed], uploads[-1 - MOST_OWED : -1])
        self.assertLess(len(spool.journal.raw), MAX_JOURNAL)
        self.assertEqual(set(spool.journal.owed[uploads[-2]].values()), {bytes([number - 1]) * 32})

    def test_nobody_else_may_read_the_key(self) -> None:
        spool = self.spool()
        spool.begin(self.identity, *make_header(SCHEME))
        self.assertEqual(self.disk.mode(f"{FOLDER}/put.journal"), 0o600)

    def test_segments_of_other_lengths_than_the_file_has_are_refused(self) -> None:
        spool = self.spool()
        spool.begin(self.identity, *make_header(SCHEME))
        for size in (0, WIDTH - 1, WIDTH + 1):
            self.assertRaises(SourceChanged, spool.append, [b"x"], size)
        block = bytes(4096)
        spool.append([block, block], WIDTH)
        spool.append([block, block], WIDTH)
        self.assertRaises(SourceChanged, spool.append, [block, block], WIDTH)
        spool.append([b"0" * 11, b"1" * 10 + b"z"], 5)
        self.assertRaises(SourceChanged, spool.append, [b"x"], 5)
        spool.close()
        again = self.spool()
        self.assertIsNone(again.open(self.identity))
        self.assertEqual(again.count, 3)
        self.assertEqual(again.next(), (block + block, False))
        self.assertRaises(ValueError, again.append, [block, block], WIDTH)
        again.next()
        # Without the zeros behind it.
        self.assertEqual(again.next(), (b"0" * 11 + b"1" * 10, True))
        self.assertRaises(ValueError, again.next)

    def test_a_new_upload_takes_the_old_one_away(self) -> None:
        spool = self.spool()
        spool.begin(self.identity, *make_header(SCHEME, seed=1))
        first = spool.journal
        spool.begin(self.identity, *make_header(SCHEME, seed=2))
        assert first is not None and spool.journal is not None
        self.assertNotEqual(spool.journal.upload, first.upload)
        self.assertIsNone(self.disk.mode(f"{FOLDER}/{first.upload}.sealed"))
        spool.remove()
        self.assertIsNone(self.disk.mode(f"{FOLDER}/{spool}.sealed"))
        self.assertEqual(self.disk.system.held(None), 0)
