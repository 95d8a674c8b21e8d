"""Tests of L{meshkit.storage.keeper.keeper}."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshkit.errors import (
    CapacityReached,
    LeaseUnknown,
    MeshkitError,
    NotReady,
    QuotaReached,
    ReservationExceeded,
    ShareDamaged,
    ShareMismatch,
    ShareUnknown,
    StorageBusy,
    StorageDiskFailed,
    StorageDraining,
    StorageRefused,
    UploadOutOfStep,
    UploadUnknown,
)
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IAdmission, ILocalStoragePeer
from meshkit.storage.encoding import SegmentReader
from meshkit.storage.keeper import keeper as keeper_module
from meshkit.storage.keeper.capacity import ALLOW_LIST, LEAST_SHARE, KeeperConfig, room_for
from meshkit.storage.keeper.index import MAX_DAMAGED
from meshkit.storage.keeper.intake import MAX_BLOCKS_EACH, MAX_WAITING
from meshkit.storage.keeper.keeper import MAX_LEAP, QUIET_SECONDS
from meshkit.storage.keeper.kept import MAX_MANIFESTS, MAX_WAITING_FOR_SHARE
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.keeper.uploads import MAX_UPLOADS_EACH
from meshkit.storage.manifest import MAX_MANIFEST
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.files import FileShardStore
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.statements import RECORD_SECONDS, Receipt, StorageRecord
from meshkit.storage.terms import (
    GRACE_SECONDS,
    LEASE_SECONDS,
    MAX_BLOCK,
    RESERVATION_SECONDS,
    Reservation,
    Shard,
    ShareStat,
    lease_hash,
)
from meshkit.testing.identities import make_identity
from tests.storage.keeper.keepers import (
    ALICE,
    BOB,
    NETWORK,
    OTHER_SECRET,
    SECRET,
    Keeping,
    block_of,
    shelf,
)
from tests.storage.keeper.test_scrubbing import flip

CAROL = make_identity("carol").public


class Case(SynchronousTestCase):
    """A keeper, which counts right at the end of each test."""

    def setUp(self) -> None:
        self.keeping = Keeping().start()

    def use(self, config: KeeperConfig | None = None, store: Any = None, **more: Any) -> Keeping:
        self.keeping = Keeping(config, store, **more).start()
        return self.keeping

    def tearDown(self) -> None:
        self.keeping.run()
        open_ones = bool(self.keeping.keeper.figures().uploads)
        self.assertEqual(self.keeping.problems(idle=not open_ones), [])


class KeepingTests(Case):
    def test_what_it_gives_to_callers_is_a_storage_peer(self) -> None:
        verifyObject(ILocalStoragePeer, self.keeping.peer())

    def test_a_share_comes_back_block_by_block_with_its_proofs(self) -> None:
        of = shelf()
        receipt = self.keeping.put(of, 3)
        name = of.header.share_id(3)
        receipt.check(name, of.manifest.shares[3], len(of.shares[3]), lease_hash(SECRET))
        self.assertEqual(receipt.lease_end, self.keeping.now() + LEASE_SECONDS)
        peer = self.keeping.peer(BOB)
        self.assertEqual(self.keeping.done(peer.manifest(name)), of.manifest.raw)
        reader = SegmentReader(of.manifest, of.codec)
        for segment in range(of.layout.segments):
            piece = self.keeping.done(peer.read(name, segment))
            reader.check(segment, 3, piece)
        self.assertEqual(
            self.keeping.done(peer.stat(name)),
            ShareStat(len(of.shares[3]), of.manifest.shares[3], receipt.lease_end),
        )

    def test_the_smallest_objects_are_kept(self) -> None:
        for length in (0, 1, 6 * 4096 - 16, 6 * 4096 - 15):
            of = shelf(length, seed=length)
            self.keeping.put(of, 8)
            for segment in range(of.layout.segments):
                piece = self.keeping.done(self.keeping.peer().read(of.header.share_id(8), segment))
                SegmentReader(of.manifest, of.codec).check(segment, 8, piece)

    def test_a_block_costs_one_call_of_a_thread_and_so_does_reading_it(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        with mock.patch.object(
            self.keeping.workers, "run", side_effect=self.keeping.workers.run
        ) as run:
            for segment in range(of.layout.segments):
                self.keeping.done(self.keeping.write(of, segment))
                self.assertEqual(run.call_count, segment + 1)
            self.keeping.done(self.keeping.close(of))
            self.assertEqual(run.call_count, of.layout.segments + 1)
            run.reset_mock()
            for segment in range(of.layout.segments):
                self.keeping.done(self.keeping.peer().read(of.header.share_id(0), segment))
                self.assertEqual(run.call_count, segment + 1)

    def test_a_block_is_not_copied_on_its_way_to_the_store(self) -> None:
        of, seen = shelf(), []
        writer = MemoryShardStore().begin(bytes(32))
        with mock.patch.object(type(writer), "append", lambda _, data: seen.append(data)):
            self.keeping.done(self.keeping.reserve(of))
            block = block_of(of, 0)
            self.keeping.done(self.keeping.peer().write(of.header.upload, 0, 0, block))
        self.assertIs(seen[0], block)

    def test_what_no_share_can_be_called_is_refused(self) -> None:
        peer, upload = self.keeping.peer(), bytes(32)
        for wrong in ((upload[:-1], 0), (upload, -1), (upload, 255)):
            for call in (
                peer.reserve(*wrong, 1, bytes(32)),
                peer.write(*wrong, 0, b"x"),
                peer.close(*wrong, b"x"),
                peer.abort(*wrong),
            ):
                self.keeping.fails(call, ShareUnknown)
        self.keeping.fails(peer.reserve(upload, 0, 0, bytes(32)), ShareMismatch)
        self.keeping.fails(peer.reserve(upload, 0, 1, bytes(31)), ShareMismatch)
        for call in (peer.stat, peer.manifest, lambda name: peer.read(name, 0)):
            self.keeping.fails(call(bytes(32)), ShareUnknown)
        for call in (peer.renew, peer.release):
            self.keeping.fails(call(bytes(32), SECRET), ShareUnknown)
            self.keeping.fails(call(bytes(32), SECRET[1:]), ShareUnknown)

    def test_a_share_has_only_its_segments(self) -> None:
        of = shelf()
        self.keeping.put(of)
        peer, name = self.keeping.peer(), of.header.share_id(0)
        for wrong in (-1, of.layout.segments):
            self.keeping.fails(peer.read(name, wrong), ShareUnknown)
        self.keeping.run()
        self.keeping.done(peer.read(name, 0))

    def test_refusals_are_counted_by_their_code(self) -> None:
        for _ in range(2):
            self.keeping.fails(self.keeping.peer().stat(bytes(32)), ShareUnknown)
        self.assertEqual(self.keeping.keeper.figures().refused, {"SHARE_UNKNOWN": 2})


class UploadTests(Case):
    def test_what_is_not_the_share_is_not_kept_and_not_signed(self) -> None:
        """A peer signs no root that it did not compute."""
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        for segment in range(of.layout.segments):
            block = bytearray(block_of(of, segment))
            block[-1] ^= 1
            self.keeping.done(self.keeping.peer().write(of.header.upload, 0, segment, block))
        self.keeping.fails(self.keeping.close(of), ShareMismatch)
        self.keeping.fails(self.keeping.peer().stat(of.header.share_id(0)), ShareUnknown)
        self.keeping.fails(self.keeping.close(of), UploadUnknown)
        self.assertEqual(self.keeping.keeper.figures().receipts, 0)

    def test_a_manifest_that_is_too_long_is_refused_before_it_is_read(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        self.keeping.send(of)
        self.keeping.fails(self.keeping.close(of, manifest=bytes(MAX_MANIFEST + 1)), ShareMismatch)
        self.keeping.done(self.keeping.close(of))

    def test_who_goes_on_is_told_where(self) -> None:
        of = shelf()
        first = self.keeping.done(self.keeping.reserve(of))
        self.assertEqual((first.next_segment, first.complete), (0, False))
        self.assertEqual(first.expires, self.keeping.now() + RESERVATION_SECONDS)
        self.keeping.send(of, blocks=range(2))
        again = self.keeping.done(self.keeping.reserve(of))
        self.assertEqual(again.next_segment, 2)
        self.assertEqual(self.keeping.keeper.figures().uploads, 1)
        self.keeping.send(of, blocks=range(2, of.layout.segments))
        self.keeping.done(self.keeping.close(of))

    def test_the_last_block_may_come_again_if_it_is_the_same(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        self.keeping.send(of, blocks=range(2))
        self.keeping.done(self.keeping.write(of, 1))
        other = bytes(len(block_of(of, 1)))
        error = self.keeping.fails(
            self.keeping.peer().write(of.header.upload, 0, 1, other), UploadOutOfStep
        )
        self.assertEqual(error.details, {"next_segment": 2})
        self.keeping.fails(self.keeping.write(of, 0), UploadOutOfStep)
        self.keeping.send(of, blocks=range(2, of.layout.segments))
        self.keeping.done(self.keeping.close(of))

    def test_who_gives_up_begins_anew(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        self.keeping.send(of, blocks=range(2))
        self.keeping.done(self.keeping.peer().abort(of.header.upload, 0))
        self.assertEqual(self.keeping.problems(), [])
        self.keeping.done(self.keeping.peer().abort(of.header.upload, 0))
        self.keeping.fails(self.keeping.write(of, 2), UploadUnknown)
        self.keeping.put(of)

    def test_nobody_reaches_the_upload_of_another(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        self.keeping.fails(self.keeping.write(of, 0, caller=BOB), UploadUnknown)
        self.keeping.fails(self.keeping.close(of, caller=BOB), UploadUnknown)
        self.keeping.done(self.keeping.peer(BOB).abort(of.header.upload, 0))
        self.keeping.send(of)
        self.keeping.done(self.keeping.close(of))

    def test_more_may_be_reserved_on_the_way(self) -> None:
        of = shelf()
        size = len(of.shares[0])
        self.keeping.done(self.keeping.reserve(of, size=8192))
        self.keeping.send(of, blocks=range(2))
        self.keeping.fails(self.keeping.write(of, 2), ReservationExceeded)
        again = self.keeping.done(self.keeping.reserve(of, size=size))
        self.assertEqual(again.size, size)
        less = self.keeping.done(self.keeping.reserve(of, size=1))
        self.assertEqual(less.size, size)
        self.assertEqual(self.keeping.keeper.figures().promised, room_for(size))
        self.keeping.send(of, blocks=range(2, of.layout.segments))
        self.keeping.done(self.keeping.close(of))

    def test_a_reservation_ends_after_an_hour_in_which_nothing_comes(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        self.keeping.advance(RESERVATION_SECONDS - 1)
        self.keeping.done(self.keeping.write(of, 0))
        self.keeping.advance(RESERVATION_SECONDS - 1)
        self.keeping.done(self.keeping.write(of, 1))
        self.keeping.advance(RESERVATION_SECONDS + 30)
        self.assertEqual(self.keeping.problems(), [])
        self.assertEqual(self.keeping.keeper.figures().expired, 1)
        self.keeping.fails(self.keeping.write(of, 2), UploadUnknown)

    def test_room_that_has_just_run_out_of_time_is_given_to_who_asks_now(self) -> None:
        config = KeeperConfig(room_for(10_000), headroom=0, scrub_rate=0)
        keeping = self.use(config)
        keeping.done(keeping.reserve(shelf(), size=10_000))
        keeping.fails(keeping.reserve(shelf(seed=2), caller=BOB, size=10_000), CapacityReached)
        keeping.clock.advance(RESERVATION_SECONDS)
        keeping.done(keeping.reserve(shelf(seed=2), caller=BOB, size=10_000))

    def test_what_was_not_closed_is_gone_after_a_restart(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        self.keeping.send(of)
        self.keeping.crash()
        self.assertEqual(self.keeping.problems(), [])
        self.keeping.fails(self.keeping.close(of), UploadUnknown)

    def test_a_share_that_is_here_needs_no_sending(self) -> None:
        of = shelf()
        self.keeping.put(of)
        answer = self.keeping.done(self.keeping.reserve(of, caller=BOB, secret=OTHER_SECRET))
        self.assertTrue(answer.complete)
        self.assertEqual(answer.size, len(of.shares[0]))
        self.assertTrue(
            self.keeping.done(self.keeping.reserve(of, caller=BOB, secret=OTHER_SECRET)).complete
        )
        self.keeping.fails(self.keeping.write(of, 0, caller=BOB), UploadOutOfStep)
        receipt = Receipt.open(
            self.keeping.done(self.keeping.close(of, caller=BOB)), self.keeping.keeper.key
        )
        receipt.check(
            of.header.share_id(0),
            of.manifest.shares[0],
            len(of.shares[0]),
            lease_hash(OTHER_SECRET),
        )
        size = self.keeping.keeper.figures().stored
        self.assertEqual(
            (self.keeping.keeper.charged(ALICE), self.keeping.keeper.charged(BOB)), (size, size)
        )

    def test_who_lost_a_receipt_gets_another(self) -> None:
        of = shelf()
        first = self.keeping.put(of)
        self.keeping.advance(1_000, step=1_000)
        second = self.keeping.put(of)
        self.assertEqual(second.lease_end, first.lease_end + 1_000)
        self.assertEqual(self.keeping.keeper.figures().shares, 1)

    def test_a_share_of_another_object_under_the_same_name_is_refused(self) -> None:
        of, other = shelf(), shelf(49_999)
        self.keeping.put(of)
        self.keeping.done(self.keeping.reserve(other, caller=BOB))
        self.keeping.fails(self.keeping.close(other, caller=BOB), ShareMismatch)
        self.assertEqual(self.keeping.problems(), [])
        self.assertEqual(
            self.keeping.done(self.keeping.peer().manifest(of.header.share_id(0))),
            of.manifest.raw,
        )

    def test_what_was_here_when_it_was_reserved_may_be_gone(self) -> None:
        of = shelf()
        self.keeping.put(of)
        self.keeping.done(self.keeping.reserve(of, caller=BOB, secret=OTHER_SECRET))
        self.keeping.done(self.keeping.peer().release(of.header.share_id(0), SECRET))
        self.keeping.fails(self.keeping.close(of, caller=BOB), UploadUnknown)
        self.assertEqual(self.keeping.problems(), [])
        self.keeping.done(self.keeping.reserve(of, caller=BOB, secret=OTHER_SECRET))
        self.keeping.done(self.keeping.peer().abort(of.header.upload, 0))
        self.keeping.put(of, caller=BOB, secret=OTHER_SECRET)

    def test_one_who_reserves_again_after_it_was_taken_away_sends_it(self) -> None:
        of = shelf()
        self.keeping.put(of)
        self.keeping.done(self.keeping.reserve(of, caller=BOB, secret=OTHER_SECRET))
        self.keeping.done(self.keeping.peer().release(of.header.share_id(0), SECRET))
        again = self.keeping.done(self.keeping.reserve(of, caller=BOB, secret=OTHER_SECRET))
        self.assertEqual((again.complete, again.next_segment), (False, 0))
        self.keeping.send(of, caller=BOB)
        self.keeping.done(self.keeping.close(of, caller=BOB))


class TogetherTests(Case):
    def test_a_share_is_brought_by_one_caller_at_a_time(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        self.keeping.send(of, blocks=range(1))
        second = self.keeping.reserve(of, caller=BOB, secret=OTHER_SECRET)
        self.keeping.fails(second, ShareMismatch)
        self.keeping.done(self.keeping.peer().abort(of.header.upload, 0))
        self.keeping.put(of, caller=BOB, secret=OTHER_SECRET)
        # It is here, and nobody has to bring it.
        self.keeping.put(of)
        (shard,) = self.keeping.store.open()
        leases = {each.lease for each in ShardNote.decode(shard.note).leases}
        self.assertEqual(leases, {lease_hash(SECRET), lease_hash(OTHER_SECRET)})
        self.assertEqual(self.keeping.keeper.charged(BOB), self.keeping.keeper.figures().stored)
        self.assertEqual(self.keeping.problems(), [])

    def test_nobody_takes_the_name_of_a_share_that_is_on_its_way(self) -> None:
        """Whoever is asked for room for one share of an object can name all of them."""
        of, other = shelf(), shelf(49_999)
        self.assertEqual(of.header.upload, other.header.upload)
        self.keeping.done(self.keeping.reserve(of))
        self.keeping.fails(self.keeping.reserve(other, caller=BOB), ShareMismatch)
        self.keeping.send(of)
        self.keeping.done(self.keeping.close(of))
        kept = self.keeping.peer().manifest(of.header.share_id(0))
        self.assertEqual(self.keeping.done(kept), of.manifest.raw)

    def test_blocks_that_are_sent_at_once_are_written_in_order(self) -> None:
        of = shelf(100_000)
        self.keeping.done(self.keeping.reserve(of))
        some = [self.keeping.write(of, segment) for segment in range(of.layout.segments)]
        for each in some:
            self.keeping.done(each)
        self.keeping.done(self.keeping.close(of))

    def test_only_so_many_blocks_of_an_upload_wait(self) -> None:
        of = shelf(200_000)
        self.keeping.done(self.keeping.reserve(of))
        some = [self.keeping.write(of, segment) for segment in range(MAX_WAITING + 2)]
        self.keeping.fails(some.pop(), StorageBusy)
        for each in some:
            self.keeping.done(each)

    def test_only_so_many_bytes_of_blocks_are_in_memory(self) -> None:
        block = bytes(MAX_BLOCK)
        count = MAX_BLOCKS_EACH // MAX_BLOCK
        keeping = self.use(KeeperConfig(10**9, scrub_rate=0))
        uploads = [bytes([number]) * 32 for number in range(count + 1)]
        for upload in uploads:
            keeping.done(keeping.peer().reserve(upload, 0, MAX_BLOCK, bytes(32)))
        some = [keeping.peer().write(upload, 0, 0, block) for upload in uploads]
        self.assertEqual(keeping.keeper.figures().blocks, MAX_BLOCKS_EACH)
        self.assertRaises(StorageBusy, keeping.peer().expect, uploads[-1], 0, 0, MAX_BLOCK)
        keeping.fails(some.pop(), StorageBusy)
        for each in some:
            keeping.done(each)
        self.assertEqual(keeping.keeper.figures().blocks, 0)

    def test_one_caller_has_only_so_many_uploads_open(self) -> None:
        for number in range(MAX_UPLOADS_EACH):
            upload = bytes([number]) * 32
            self.keeping.done(self.keeping.peer().reserve(upload, 0, 1, bytes(32)))
        more = bytes([99]) * 32
        self.keeping.fails(self.keeping.peer().reserve(more, 0, 1, bytes(32)), StorageBusy)
        self.keeping.done(self.keeping.peer(BOB).reserve(more, 0, 1, bytes(32)))

    def test_a_share_that_is_being_written_is_not_changed_beneath(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        writing = self.keeping.write(of, 0)
        self.keeping.fails(self.keeping.reserve(of, size=10**6), StorageBusy)
        self.keeping.done(writing)
        writing = self.keeping.write(of, 1)
        self.assertEqual(self.keeping.done(self.keeping.reserve(of)).size, len(of.shares[0]))
        self.keeping.done(writing)

    def test_a_share_is_read_by_several_and_goes_when_they_are_done(self) -> None:
        of = shelf()
        self.keeping.put(of)
        name, peer = of.header.share_id(0), self.keeping.peer()
        reads = [peer.read(name, segment) for segment in range(of.layout.segments)]
        gone = peer.release(name, SECRET)
        late = peer.read(name, 0)
        for segment, each in enumerate(reads):
            self.assertEqual(self.keeping.done(each).block, block_of(of, segment))
        self.keeping.done(gone)
        self.keeping.fails(late, ShareUnknown)

    def test_blocks_that_wait_for_one_who_gives_up_are_not_written(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        first = self.keeping.write(of, 0)
        gone = self.keeping.peer().abort(of.header.upload, 0)
        late = [self.keeping.write(of, 1), self.keeping.close(of)]
        self.keeping.done(first)
        self.keeping.done(gone)
        for each in late:
            self.keeping.fails(each, UploadUnknown)
        self.assertEqual(self.keeping.problems(), [])

    def test_an_upload_is_not_given_up_while_a_block_of_it_is_written(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        self.keeping.clock.advance(RESERVATION_SECONDS - 1)
        writing = self.keeping.write(of, 0)
        # The look at what is over comes before the thread is done.
        self.keeping.clock.rightNow += 2
        self.keeping.done(self.keeping.reserve(shelf(seed=2)))
        self.keeping.done(writing)
        self.keeping.send(of, blocks=range(1, of.layout.segments))
        self.keeping.done(self.keeping.close(of))
        self.keeping.done(self.keeping.peer().abort(shelf(seed=2).header.upload, 0))

    def test_what_is_read_is_what_is_there_now(self) -> None:
        """Also if another object has taken the place of one whose manifest was remembered."""
        of, other = shelf(), shelf(49_999)
        name, peer = of.header.share_id(0), self.keeping.peer()
        self.keeping.put(of)
        self.keeping.done(peer.read(name, 0))
        self.keeping.done(peer.release(name, SECRET))
        self.keeping.put(other)
        self.assertEqual(self.keeping.done(peer.manifest(name)), other.manifest.raw)
        last = other.layout.segments - 1
        SegmentReader(other.manifest, other.codec).check(
            last, 0, self.keeping.done(peer.read(name, last))
        )

    def test_what_nobody_waits_for_is_not_read(self) -> None:
        of = shelf()
        self.keeping.put(of)
        name, peer = of.header.share_id(0), self.keeping.peer()
        with mock.patch.object(
            self.keeping.store, "read", side_effect=self.keeping.store.read
        ) as read:
            gone = peer.read(name, 0)
            gone.cancel()
            self.failureResultOf(gone, CancelledError)
            self.keeping.run()
            self.assertEqual(read.call_count, 0)
            self.keeping.done(peer.read(name, 0))
            self.assertGreater(read.call_count, 0)

    def test_threads_that_are_busy_harm_no_upload(self) -> None:
        of = shelf()
        self.keeping.done(self.keeping.reserve(of))
        with mock.patch.object(self.keeping.workers, "_limit", 0):
            self.keeping.fails(self.keeping.write(of, 0), StorageBusy)
        self.keeping.send(of)
        with mock.patch.object(self.keeping.workers, "_limit", 0):
            self.keeping.fails(self.keeping.close(of), StorageBusy)
        self.keeping.done(self.keeping.close(of))


class ExpectTests(Case):
    def test_a_server_knows_before_a_block_is_here_whether_it_is_wanted(self) -> None:
        of, peer = shelf(), self.keeping.peer()
        upload = of.header.upload
        self.assertRaises(UploadUnknown, peer.expect, upload, 0, 0, 4096)
        self.keeping.done(self.keeping.reserve(of))
        peer.expect(upload, 0, 0, 4096)
        self.assertRaises(UploadUnknown, self.keeping.peer(BOB).expect, upload, 0, 0, 4096)
        self.assertRaises(UploadOutOfStep, peer.expect, upload, 0, 1, 4096)
        self.assertRaises(ShareMismatch, peer.expect, upload, 0, 0, MAX_BLOCK + 1)
        self.assertRaises(ReservationExceeded, peer.expect, upload, 0, 0, MAX_BLOCK)
        self.keeping.stop()
        self.assertRaises(NotReady, peer.expect, upload, 0, 0, 4096)
        self.keeping.crash()


class RoomTests(Case):
    def test_room_is_counted_from_the_reservation_on(self) -> None:
        of = shelf()
        size = len(of.shares[0])
        keeping = self.use(KeeperConfig(room_for(size), headroom=0, scrub_rate=0))
        keeping.done(keeping.reserve(of))
        self.assertEqual(keeping.keeper.figures().free, 0)
        keeping.fails(keeping.reserve(shelf(1, seed=2), caller=BOB), CapacityReached)
        keeping.send(of)
        keeping.done(keeping.close(of))
        # What is not needed is given back.
        self.assertGreater(keeping.keeper.figures().free, 0)

    def test_no_number_of_tiny_shares_takes_much_more_of_the_disk_than_is_lent(self) -> None:
        keeping = self.use(KeeperConfig(10 * LEAST_SHARE, headroom=0, scrub_rate=0))
        for seed in range(10):
            keeping.put(shelf(1, seed=seed))
        self.assertLess(keeping.keeper.figures().stored, 20_000)
        keeping.fails(keeping.reserve(shelf(1, seed=10)), CapacityReached)
        keeping.done(keeping.peer().release(shelf(1, seed=3).header.share_id(0), SECRET))
        keeping.put(shelf(1, seed=10))

    def test_only_shares_that_replace_lost_ones_have_the_headroom(self) -> None:
        of = shelf()
        size = room_for(len(of.shares[0]))
        keeping = self.use(KeeperConfig(2 * size, headroom=size + 1, scrub_rate=0))
        keeping.fails(keeping.reserve(of), CapacityReached)
        keeping.put(of, repair=True)

    def test_an_owner_reaches_the_quota_in_the_middle_of_a_put(self) -> None:
        of = shelf()
        size = room_for(len(of.shares[0]))
        keeping = self.use(KeeperConfig(10**7, quota=2 * size, scrub_rate=0))
        keeping.put(of, 0)
        keeping.done(keeping.reserve(of, 1))
        keeping.send(of, 1, blocks=range(1))
        keeping.fails(keeping.reserve(of, 2), QuotaReached)
        keeping.fails(keeping.reserve(of, 1, size=10**6), QuotaReached)
        # Others, and what was reserved, are not concerned.
        keeping.put(of, 2, caller=BOB)
        keeping.send(of, 1, blocks=range(1, of.layout.segments))
        keeping.done(keeping.close(of, 1))

    def test_a_further_lease_is_charged_to_who_has_it(self) -> None:
        of = shelf()
        self.keeping.put(of)
        size = self.keeping.keeper.figures().stored
        self.keeping.reconfigure(quota=size - 1)
        self.keeping.fails(self.keeping.reserve(of, caller=BOB, secret=OTHER_SECRET), QuotaReached)
        name = of.header.share_id(0)
        self.keeping.fails(self.keeping.peer(BOB).renew(name, OTHER_SECRET), QuotaReached)
        self.keeping.reconfigure(quota=size)
        self.keeping.done(self.keeping.peer(BOB).renew(name, OTHER_SECRET))
        # A second lease of the same owner costs nothing.
        self.keeping.done(self.keeping.peer(BOB).renew(name, bytes([7]) * 32))

    def test_less_is_lent_from_now_on(self) -> None:
        of = shelf()
        self.keeping.put(of)
        self.keeping.reconfigure(capacity=0)
        self.assertFalse(StorageRecord.open(self.keeping.keeper.record()).accepts)
        self.keeping.fails(self.keeping.reserve(shelf(seed=2)), CapacityReached)
        self.keeping.done(self.keeping.peer().renew(of.header.share_id(0), SECRET))

    def test_what_is_there_is_counted_again_at_the_start(self) -> None:
        for seed, caller in ((1, ALICE), (2, BOB), (3, ALICE)):
            self.keeping.put(shelf(seed=seed), caller=caller)
        before = self.keeping.keeper.figures()
        charged = self.keeping.keeper.charged(ALICE)
        self.keeping.crash()
        after = self.keeping.keeper.figures()
        self.assertEqual((after.stored, after.shares), (before.stored, before.shares))
        self.assertEqual(self.keeping.keeper.charged(ALICE), charged)


@implementer(IAdmission)
class Slowly:
    """Decides when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[PublicKey, Deferred[bool]]] = []
        self.given_up: list[PublicKey] = []

    def admits(self, key: PublicKey) -> Deferred[bool]:
        deferred: Deferred[bool] = Deferred(lambda _: self.given_up.append(key))
        self.asked.append((key, deferred))
        return deferred


class AdmissionTests(Case):
    def test_nothing_is_kept_for_who_is_not_on_the_list(self) -> None:
        config = KeeperConfig(10**7, admission=ALLOW_LIST, allow=(ALICE,), scrub_rate=0)
        keeping, of = self.use(config), shelf()
        keeping.put(of)
        keeping.fails(keeping.reserve(shelf(seed=2), caller=BOB), StorageRefused)
        name = of.header.share_id(0)
        keeping.fails(keeping.peer(BOB).renew(name, OTHER_SECRET), StorageRefused)
        # Whoever has the secret may renew, and whoever has the name may read.
        keeping.done(keeping.peer(BOB).renew(name, SECRET))
        keeping.done(keeping.peer(BOB).read(name, 0))

    def test_who_is_taken_off_the_list_keeps_what_he_has(self) -> None:
        of = shelf()
        self.keeping.put(of)
        self.keeping.reconfigure(admission=ALLOW_LIST)
        name = of.header.share_id(0)
        self.keeping.fails(self.keeping.reserve(shelf(seed=2)), StorageRefused)
        self.keeping.done(self.keeping.peer().renew(name, SECRET))
        self.keeping.done(self.keeping.peer().release(name, SECRET))

    def test_it_may_take_its_time_and_be_given_up(self) -> None:
        admission = Slowly()
        keeping, of = self.use(admission=admission), shelf()
        gone = keeping.reserve(of)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.assertEqual(admission.given_up, [ALICE])
        waiting = keeping.reserve(of)
        self.assertNoResult(waiting)
        self.assertEqual(admission.asked[1][0], ALICE)
        admission.asked[1][1].callback(True)
        self.assertIsInstance(keeping.done(waiting), Reservation)
        refused = keeping.reserve(of, 1)
        admission.asked[2][1].callback(False)
        keeping.fails(refused, StorageRefused)

    def test_who_is_admitted_too_late_is_told_so(self) -> None:
        admission = Slowly()
        keeping = self.use(admission=admission)
        waiting = keeping.reserve(shelf())
        keeping.stop()
        admission.asked[0][1].callback(True)
        keeping.fails(waiting, NotReady)
        keeping.crash()


class LeaseTests(Case):
    def name(self) -> bytes:
        return shelf().header.share_id(0)

    def test_a_share_is_renewed_by_whoever_has_the_secret(self) -> None:
        self.keeping.put(shelf())
        name, peer = self.name(), self.keeping.peer(BOB)
        self.keeping.advance(86_400, step=3_600)
        receipt = Receipt.open(self.keeping.done(peer.renew(name, SECRET)), peer.key)
        self.assertEqual(receipt.lease_end, self.keeping.now() + LEASE_SECONDS)
        stat = self.keeping.done(peer.stat(name))
        self.assertEqual(stat.lease_end, receipt.lease_end)
        # It is still the first owner who is charged.
        self.assertEqual(self.keeping.keeper.charged(BOB), 0)
        self.keeping.crash()
        self.assertEqual(self.keeping.done(self.keeping.peer().stat(name)), stat)

    def test_a_share_that_nobody_has_a_lease_on_is_taken_away(self) -> None:
        self.keeping.put(shelf())
        name, peer = self.name(), self.keeping.peer(BOB)
        self.keeping.fails(peer.release(name, OTHER_SECRET), LeaseUnknown)
        self.keeping.done(peer.renew(name, OTHER_SECRET))
        self.keeping.done(peer.release(name, SECRET))
        self.assertEqual(self.keeping.keeper.charged(ALICE), 0)
        self.keeping.done(peer.stat(name))
        self.keeping.done(peer.release(name, OTHER_SECRET))
        self.keeping.fails(peer.stat(name), ShareUnknown)
        self.assertEqual(self.keeping.keeper.figures().stored, 0)
        self.keeping.crash()
        self.keeping.fails(self.keeping.peer().stat(name), ShareUnknown)

    def test_a_share_is_kept_through_its_lease_and_the_grace_and_no_longer(self) -> None:
        self.keeping.put(shelf())
        name = self.name()
        self.keeping.advance(LEASE_SECONDS - 60, step=3_500)
        self.assertGreater(self.keeping.done(self.keeping.peer().stat(name)).lease_end, 0)
        self.keeping.advance(120)
        self.assertEqual(self.keeping.done(self.keeping.peer().stat(name)).lease_end, 0)
        self.keeping.advance(GRACE_SECONDS - 120, step=3_500)
        self.keeping.done(self.keeping.peer().read(name, 0))
        self.keeping.advance(120)
        self.keeping.fails(self.keeping.peer().stat(name), ShareUnknown)
        self.assertEqual(self.keeping.keeper.figures().collected, 1)

    def test_who_renews_in_the_grace_keeps_it(self) -> None:
        self.keeping.put(shelf())
        self.keeping.advance(LEASE_SECONDS + GRACE_SECONDS - 7_200, step=3_500)
        self.keeping.done(self.keeping.peer().renew(self.name(), SECRET))
        self.keeping.advance(LEASE_SECONDS - 3_600, step=3_500)
        self.assertGreater(self.keeping.done(self.keeping.peer().stat(self.name())).lease_end, 0)

    def test_who_does_not_renew_is_not_charged_for_ever(self) -> None:
        self.keeping.put(shelf())
        for _ in range(4):
            self.keeping.done(self.keeping.peer(BOB).renew(self.name(), OTHER_SECRET))
            self.keeping.advance(10 * 86_400, step=3_500)
        size = self.keeping.keeper.figures().stored
        self.assertEqual(
            (self.keeping.keeper.charged(ALICE), self.keeping.keeper.charged(BOB)), (0, size)
        )
        # The note on the disk is written when there is something else to be said.
        self.keeping.done(self.keeping.peer(BOB).renew(self.name(), OTHER_SECRET))

    def test_a_share_is_kept_through_the_grace_of_its_last_lease(self) -> None:
        """When an earlier one is forgotten, and the last one is over, but not for long."""
        self.keeping.put(shelf())
        self.keeping.advance(3 * 86_400, step=3_500)
        self.keeping.done(self.keeping.peer(BOB).renew(self.name(), OTHER_SECRET))
        self.keeping.advance(LEASE_SECONDS + GRACE_SECONDS - 2 * 86_400, step=3_500)
        self.assertEqual(self.keeping.keeper.charged(ALICE), 0)
        self.assertEqual(self.keeping.done(self.keeping.peer().stat(self.name())).lease_end, 0)
        self.keeping.done(self.keeping.peer(BOB).renew(self.name(), OTHER_SECRET))

    def test_after_a_long_absence_owners_come_first(self) -> None:
        self.keeping.put(shelf())
        self.keeping.offset += LEASE_SECONDS + GRACE_SECONDS + 86_400
        self.keeping.crash()
        self.keeping.advance(QUIET_SECONDS - 60, step=30)
        self.keeping.done(self.keeping.peer().renew(self.name(), SECRET))
        self.keeping.advance(3_600, step=30)
        self.keeping.done(self.keeping.peer().stat(self.name()))

    def test_what_nobody_wanted_meanwhile_goes_after_that(self) -> None:
        self.keeping.put(shelf())
        self.keeping.offset += LEASE_SECONDS + GRACE_SECONDS + 86_400
        self.keeping.crash()
        self.keeping.advance(QUIET_SECONDS + 60, step=30)
        self.keeping.fails(self.keeping.peer().stat(self.name()), ShareUnknown)

    def test_a_clock_that_leaps_takes_nothing_away_at_once(self) -> None:
        self.keeping.put(shelf())
        self.keeping.advance(QUIET_SECONDS + 60, step=30)
        self.keeping.offset += LEASE_SECONDS + GRACE_SECONDS + int(MAX_LEAP) + 1
        self.keeping.advance(60)
        self.keeping.done(self.keeping.peer().read(self.name(), 0))
        # It was wrong, and is set right.
        self.keeping.offset = 0
        self.keeping.advance(2 * QUIET_SECONDS, step=30)
        self.keeping.done(self.keeping.peer().read(self.name(), 0))

    def test_a_share_that_has_lost_its_note_is_kept_until_its_owners_had_their_time(self) -> None:
        self.keeping.put(shelf())
        held = self.keeping.store._held[self.name()]
        for note in (b"", b"no note"):
            self.keeping.store._held[self.name()] = evolve(held, note=note)
            self.keeping.crash()
            stat = self.keeping.done(self.keeping.peer().stat(self.name()))
            self.assertEqual((stat.size, stat.lease_end), (len(shelf().shares[0]), 0))
        self.keeping.advance(20 * 86_400, step=3_500)
        # Restarts do not begin the time anew.
        self.keeping.crash()
        self.keeping.advance(18 * 86_400 - 7_200, step=3_500)
        self.keeping.done(self.keeping.peer().read(self.name(), 0))
        self.keeping.advance(7_300, step=30)
        self.keeping.fails(self.keeping.peer().stat(self.name()), ShareUnknown)

    def test_an_owner_whose_lease_was_lost_renews_it(self) -> None:
        self.keeping.put(shelf())
        held = self.keeping.store._held[self.name()]
        self.keeping.store._held[self.name()] = evolve(held, note=b"")
        self.keeping.crash()
        self.keeping.done(self.keeping.peer().renew(self.name(), SECRET))
        self.assertGreater(self.keeping.keeper.charged(ALICE), 0)


class DamageTests(Case):
    def test_a_share_without_note_that_is_damaged_is_put_aside(self) -> None:
        of = shelf()
        self.keeping.put(of)
        name = of.header.share_id(0)
        flip(self.keeping.store, name)
        self.keeping.store._held[name] = evolve(self.keeping.store._held[name], note=b"")
        self.keeping.crash()
        self.assertEqual(self.keeping.keeper.figures().damaged, 1)
        self.keeping.fails(self.keeping.peer().stat(name), ShareDamaged)
        self.assertEqual(len(self.keeping.store.damaged), 1)

    def test_what_the_store_finds_damaged_at_the_start_is_counted_and_named(self) -> None:
        of, store = shelf(), self.keeping.store
        name = of.header.share_id(0)
        self.keeping.put(of)

        def opened() -> list[Shard]:
            return [Shard(name, 0, b"", store.set_aside(name, "its end was changed"))]

        with mock.patch.object(store, "open", opened):
            self.keeping.crash()
        figures = self.keeping.keeper.figures()
        self.assertEqual((figures.damaged, figures.shares), (1, 0))
        self.assertEqual(list(self.keeping.keeper.damaged.items()), [(name, *store.damaged)])
        self.keeping.fails(self.keeping.peer().stat(name), ShareDamaged)

    def test_a_share_whose_note_cannot_be_made_anew_is_not_taken_for_a_damaged_one(self) -> None:
        of, store = shelf(), self.keeping.store
        self.keeping.put(of)
        name = of.header.share_id(0)
        store._held[name] = evolve(store._held[name], note=b"")
        with mock.patch.object(store, "set_note", side_effect=OSError(28, "full")):
            self.keeping.crash()
        self.assertEqual((self.keeping.keeper.figures().damaged, store.damaged), (0, {}))
        self.keeping.done(self.keeping.peer().read(name, 0))
        with mock.patch.object(store, "read", side_effect=OSError(24, "too many open files")):
            self.keeping.crash()
        self.assertEqual(self.keeping.keeper.figures().shares, 0)
        self.assertEqual(store.damaged, {})
        self.keeping.crash()
        self.keeping.done(self.keeping.peer().read(name, 0))
        self.assertEqual(self.keeping.problems(), [])

    def test_a_share_that_ends_early_is_put_aside_when_it_is_read(self) -> None:
        of = shelf()
        self.keeping.put(of)
        name, peer = of.header.share_id(0), self.keeping.peer()
        held = self.keeping.store._held[name]
        self.keeping.store._held[name] = evolve(held, data=held.data[:5_000])
        # Several find it out at once, and it is put aside once.
        reads = [peer.read(name, segment) for segment in range(2)]
        for each in reads:
            self.keeping.fails(each, ShareDamaged)
        self.keeping.run()
        self.assertEqual(len(self.keeping.store.damaged), 1)
        self.keeping.fails(peer.read(name, 0), ShareDamaged)

    def test_a_file_that_is_gone_is_not_here_any_more(self) -> None:
        ways: list[Callable[[Any, bytes], Deferred[Any]]] = [
            lambda peer, name: peer.read(name, 0),
            lambda peer, name: peer.manifest(name),
            lambda peer, name: peer.renew(name, SECRET),
        ]
        for seed, way in enumerate(ways):
            of = shelf(seed=seed)
            self.keeping.put(of)
            name = of.header.share_id(0)
            self.keeping.store.remove(name)
            self.keeping.fails(way(self.keeping.peer(), name), ShareUnknown)
            self.keeping.run()
            self.assertEqual(self.keeping.keeper.figures().shares, 0)
            self.assertEqual(self.keeping.problems(), [])
            self.keeping.put(of)
            self.keeping.done(self.keeping.peer().release(name, SECRET))

    def test_what_cannot_be_put_aside_stays_and_is_tried_again(self) -> None:
        of = shelf()
        self.keeping.put(of)
        name = of.header.share_id(0)
        held = self.keeping.store._held[name]
        self.keeping.store._held[name] = evolve(held, data=held.data[:5_000])
        with mock.patch.object(self.keeping.store, "set_aside", side_effect=OSError(28, "full")):
            self.keeping.fails(self.keeping.peer().read(name, 1), ShareDamaged)
            self.keeping.run()
        self.assertEqual(self.keeping.keeper.figures().damaged, 0)
        self.keeping.fails(self.keeping.peer().read(name, 1), ShareDamaged)
        self.keeping.run()
        self.assertEqual(self.keeping.keeper.figures().damaged, 1)

    def test_the_log_names_no_share_so_that_it_could_be_asked_for(self) -> None:
        of, folder = shelf(), tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        keeping = self.use(store=FileShardStore(folder))
        name = of.header.share_id(0)
        path = os.path.join(folder, "shards", name[:1].hex(), f"{name.hex()}.mkshare")
        with capturedLogs() as logged:
            keeping.put(of)
            with mock.patch.object(keeping.store, "read", side_effect=OSError(5, "rotten", path)):
                keeping.fails(keeping.peer().read(name, 0), ShareDamaged)
            keeping.run()
            failing = OSError(71, "failed", path)
            with mock.patch.object(keeping.store, "begin", side_effect=failing):
                keeping.done(keeping.reserve(of))
                keeping.fails(keeping.write(of, 0), StorageDiskFailed)
        keeping.stop()
        said = [formatEvent(event) or "" for event in logged]
        self.assertEqual(sum(name.hex()[:16] in line for line in said), 2, said)
        self.assertEqual([line for line in said if name.hex() in line], [])

    def test_only_so_many_names_of_damaged_shares_are_remembered(self) -> None:
        damaged = self.keeping.keeper.damaged
        for number in range(MAX_DAMAGED):
            damaged[number.to_bytes(32, "big")] = ""
        of = shelf()
        self.keeping.put(of)
        held = self.keeping.store._held[of.header.share_id(0)]
        self.keeping.store._held[of.header.share_id(0)] = evolve(held, data=b"")
        self.keeping.fails(self.keeping.peer().read(of.header.share_id(0), 0), ShareDamaged)
        self.keeping.run()
        self.assertEqual(len(damaged), MAX_DAMAGED)
        self.assertNotIn(bytes(32), damaged)

    def test_only_so_many_manifests_are_remembered(self) -> None:
        of = [shelf(1, seed=seed, scheme=Scheme(1, 1, 4096)) for seed in range(MAX_MANIFESTS + 1)]
        for each in of:
            self.keeping.put(each)
            self.keeping.done(self.keeping.peer().read(each.header.share_id(0), 0))
        self.assertEqual(len(self.keeping.keeper._kept._manifests), MAX_MANIFESTS)
        self.assertNotIn(of[0].header.share_id(0), self.keeping.keeper._kept._manifests)


class Failing(MemoryShardStore):
    """
    A disk on which something fails.

    @ivar failing: what fails, by the name of the method: with which error.
    """

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__(capacity)
        self.failing: dict[str, int] = {}

    def begin(self, name: bytes) -> Any:
        self._fail("begin")
        return _FailingWriter(self, super().begin(name))

    def set_note(self, name: bytes, note: bytes) -> None:
        self._fail("set_note")
        super().set_note(name, note)

    def remove(self, name: bytes) -> None:
        self._fail("remove")
        super().remove(name)

    def free(self) -> int | None:
        self._fail("free")
        return super().free()

    def _fail(self, what: str) -> None:
        if what in self.failing:
            raise OSError(self.failing[what], "the disk says no")


class _FailingWriter:
    def __init__(self, store: Failing, writer: Any) -> None:
        self._store = store
        self._writer = writer

    def append(self, data: Any) -> None:
        self._store._fail("append")
        self._writer.append(data)

    def keep(self, data: bytes) -> None:
        self._store._fail("keep")
        self._writer.keep(data)

    def commit(self, tail: bytes, note: bytes) -> None:
        self._store._fail("commit")
        self._writer.commit(tail, note)

    def discard(self) -> None:
        self._writer.discard()


class DiskTests(Case):
    def test_a_full_disk_is_told_and_harms_nothing_else(self) -> None:
        store = Failing()
        keeping, of = self.use(store=store), shelf(300_000)
        keeping.put(of, 5)
        for what in ("begin", "append", "keep", "commit"):
            keeping.done(keeping.reserve(of))
            keeping.send(of, blocks=range(0 if what == "begin" else 1))
            store.failing[what] = errno.ENOSPC
            try:
                for segment in range(0 if what == "begin" else 1, of.layout.segments):
                    keeping.done(keeping.write(of, segment))
                keeping.done(keeping.close(of))
            except CapacityReached:
                pass
            else:
                raise AssertionError(what)
            store.failing.clear()
            keeping.run()
            self.assertEqual(keeping.problems(), [], what)
            keeping.fails(keeping.close(of), UploadUnknown)
            keeping.fails(keeping.reserve(of), CapacityReached)
            keeping.done(keeping.peer().read(of.header.share_id(5), 0))
            # The disk is looked at again from time to time.
            keeping.advance(31)
        keeping.put(of)

    def test_a_full_disk_takes_no_lease_away(self) -> None:
        store = Failing()
        keeping, of = self.use(store=store), shelf()
        keeping.put(of)
        name = of.header.share_id(0)
        store.failing["set_note"] = errno.ENOSPC
        keeping.fails(keeping.peer(BOB).renew(name, OTHER_SECRET), CapacityReached)
        keeping.fails(keeping.peer().renew(name, SECRET), CapacityReached)
        keeping.done(keeping.reserve(of, secret=OTHER_SECRET))
        keeping.fails(keeping.close(of), CapacityReached)
        self.assertEqual(keeping.problems(), [])

    def test_a_disk_that_fails_otherwise_is_told_apart(self) -> None:
        store = Failing()
        keeping, of = self.use(store=store), shelf()
        keeping.done(keeping.reserve(of))
        store.failing["append"] = errno.EIO
        keeping.fails(keeping.write(of, 0), StorageDiskFailed)
        store.failing.clear()
        keeping.put(of)
        store.failing["remove"] = errno.EROFS
        name = of.header.share_id(0)
        keeping.fails(keeping.peer().release(name, SECRET), StorageDiskFailed)
        # It is still there, with its lease.
        keeping.done(keeping.peer().renew(name, SECRET))

    def test_what_cannot_be_taken_away_is_tried_again(self) -> None:
        store = Failing()
        keeping, of = self.use(store=store), shelf()
        keeping.put(of)
        store.failing["remove"] = errno.EROFS
        keeping.advance(LEASE_SECONDS + GRACE_SECONDS + 60, step=3_500)
        self.assertEqual(keeping.keeper.figures().collected, 0)
        store.failing.clear()
        keeping.advance(60)
        self.assertEqual(keeping.keeper.figures().collected, 1)

    def test_one_that_cannot_be_taken_away_holds_up_no_others(self) -> None:
        keeping = self.keeping
        names = []
        for seed in range(3):
            keeping.put(shelf(seed=seed))
            names.append(shelf(seed=seed).header.share_id(0))
        stuck, remove = names[0], keeping.store.remove

        def stubborn(name: bytes) -> None:
            if name == stuck:
                raise OSError(errno.EBUSY, "busy")
            remove(name)

        with mock.patch.object(keeping.store, "remove", stubborn):
            keeping.advance(LEASE_SECONDS + GRACE_SECONDS + 120, step=3_500)
            self.assertEqual(keeping.keeper.figures().shares, 1)

    def test_no_more_is_promised_than_the_disk_has(self) -> None:
        of = shelf()
        room = room_for(len(of.shares[0]))
        keeping = self.use(store=MemoryShardStore(room + room // 2))
        record = StorageRecord.open(keeping.keeper.record())
        self.assertEqual(record.free, room + room // 2)
        keeping.done(keeping.reserve(of))
        keeping.fails(keeping.reserve(of, 1), CapacityReached)
        keeping.send(of)
        keeping.done(keeping.close(of))
        keeping.done(keeping.peer().stat(of.header.share_id(0)))

    def test_what_was_written_since_the_disk_was_looked_at_is_counted(self) -> None:
        of = shelf()
        room = room_for(len(of.shares[0]))
        keeping = self.use(store=MemoryShardStore(2 * room))
        keeping.put(of)
        keeping.done(keeping.reserve(of, 1))
        self.assertLess(keeping.keeper.figures().disk_free or 0, 2 * room)
        keeping.fails(keeping.reserve(of, 2), CapacityReached)
        keeping.done(keeping.peer().abort(of.header.upload, 1))

    def test_a_disk_that_does_not_say_what_it_has_is_believed_later(self) -> None:
        store = Failing()
        keeping = self.use(store=store)
        store.failing["free"] = errno.EIO
        keeping.advance(100)
        store.failing.clear()
        keeping.put(shelf())


class RecordTests(Case):
    def test_it_says_who_it_is_and_what_it_has(self) -> None:
        places = [
            HostPort("0.0.0.0", 7670),
            HostPort("192.0.2.1", 0),
            HostPort("192.0.2.1", 7670),
        ]
        config = KeeperConfig(10**6, reserved=10, headroom=20, domain="rack/1", scrub_rate=0)
        keeping = self.use(config, addresses=lambda: places)
        keeping.put(shelf())
        keeping.done(keeping.reserve(shelf(seed=2)))
        record = StorageRecord.open(keeping.done(keeping.peer().statement()), keeping.keeper.key)
        figures = keeping.keeper.figures()
        self.assertEqual(record.network, NETWORK)
        self.assertEqual(record.addresses, (HostPort("192.0.2.1", 7670),))
        self.assertEqual((record.capacity, record.reserved, record.headroom), (10**6, 10, 20))
        self.assertEqual(record.used, figures.stored + figures.promised)
        self.assertEqual((record.free, record.free_for_repair), (figures.free, figures.free + 20))
        self.assertEqual((record.domain, record.accepts), ("rack/1", True))
        self.assertEqual(record.issued, keeping.now())
        self.assertEqual(record.expires, keeping.now() + RECORD_SECONDS)

    def test_its_numbers_grow_also_over_a_restart(self) -> None:
        sequences = []
        for _ in range(2):
            for _ in range(3):
                sequences.append(StorageRecord.open(self.keeping.keeper.record()).sequence)
            self.keeping.advance(1)
            self.keeping.crash()
        self.assertEqual(sequences, sorted(set(sequences)))

    def test_it_signs_with_the_same_key_after_a_restart(self) -> None:
        of = shelf()
        receipt = self.keeping.put(of)
        self.keeping.crash()
        again = self.keeping.done(self.keeping.peer().renew(of.header.share_id(0), SECRET))
        self.assertEqual(Receipt.open(again, receipt.peer).root, receipt.root)

    def test_before_the_start_and_with_nothing_lent_it_accepts_nothing(self) -> None:
        keeping = Keeping()
        self.assertFalse(StorageRecord.open(keeping.keeper.record()).accepts)
        keeping = self.use(KeeperConfig(scrub_rate=0))
        record = StorageRecord.open(keeping.keeper.record())
        self.assertEqual((record.accepts, record.capacity), (False, 0))


class DrainTests(Case):
    def test_nothing_new_is_taken_and_what_is_open_is_finished(self) -> None:
        keeping, of, other = self.keeping, shelf(), shelf(seed=2)
        keeping.put(other)
        keeping.done(keeping.reserve(of))
        keeping.send(of, blocks=range(1))
        keeping.keeper.drain()
        drained = keeping.keeper.when_drained()
        self.assertFalse(StorageRecord.open(keeping.keeper.record()).accepts)
        keeping.fails(keeping.reserve(of, 1), StorageDraining)
        keeping.fails(keeping.reserve(of, size=10**6), StorageDraining)
        name = other.header.share_id(0)
        keeping.fails(keeping.peer(BOB).renew(name, OTHER_SECRET), StorageDraining)
        keeping.fails(keeping.reserve(other, caller=BOB, secret=OTHER_SECRET), StorageDraining)
        # Who lost a receipt, or goes on, or renews, is served.
        self.assertTrue(keeping.done(keeping.reserve(other)).complete)
        keeping.done(keeping.close(other))
        keeping.done(keeping.peer().renew(name, SECRET))
        keeping.done(keeping.peer().read(name, 0))
        self.assertEqual(keeping.done(keeping.reserve(of)).next_segment, 1)
        self.assertNoResult(drained)
        keeping.send(of, blocks=range(1, of.layout.segments))
        keeping.done(keeping.close(of))
        self.successResultOf(drained)
        self.successResultOf(keeping.keeper.when_drained())

    def test_it_says_when_nothing_is_here_any_more(self) -> None:
        keeping, one, other = self.keeping, shelf(), shelf(seed=2)
        keeping.put(one)
        keeping.put(other)
        keeping.done(keeping.reserve(one, 1))
        empty = keeping.keeper.when_empty()
        keeping.keeper.drain()
        record = StorageRecord.open(keeping.keeper.record())
        self.assertEqual((record.leaving, record.accepts), (True, False))
        for of in (one, other):
            self.assertNoResult(empty)
            keeping.done(keeping.peer().release(of.header.share_id(0), SECRET))
        # What is on its way may still come.
        self.assertNoResult(empty)
        keeping.done(keeping.peer().abort(one.header.upload, 1))
        self.successResultOf(empty)
        self.successResultOf(keeping.keeper.when_empty())

    def test_it_is_not_empty_as_long_as_it_takes_shares(self) -> None:
        keeping, of = self.keeping, shelf()
        empty = keeping.keeper.when_empty()
        keeping.put(of)
        keeping.done(keeping.peer().release(of.header.share_id(0), SECRET))
        self.assertFalse(StorageRecord.open(keeping.keeper.record()).leaving)
        self.assertNoResult(empty)
        keeping.keeper.drain()
        self.successResultOf(empty)

    def test_who_waits_for_that_hears_that_it_stops(self) -> None:
        self.keeping.put(shelf())
        self.keeping.keeper.drain()
        empty, cancelled = self.keeping.keeper.when_empty(), self.keeping.keeper.when_empty()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.keeping.stop()
        self.successResultOf(empty)

    def test_it_may_change_its_mind(self) -> None:
        self.keeping.keeper.drain()
        self.keeping.keeper.undrain()
        waiting = self.keeping.keeper.when_drained()
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.keeping.put(shelf())


class LifeTests(Case):
    def test_before_the_start_and_after_the_end_nobody_is_served(self) -> None:
        keeping = Keeping()
        of = shelf()
        keeping.fails(keeping.reserve(of), NotReady)
        keeping.start()
        keeping.put(of)
        keeping.stop()
        name, peer = of.header.share_id(0), keeping.peer()
        for call in (
            keeping.reserve(of),
            keeping.write(of, 0),
            keeping.close(of),
            peer.abort(of.header.upload, 0),
            peer.stat(name),
            peer.manifest(name),
            peer.read(name, 0),
            peer.renew(name, SECRET),
            peer.release(name, SECRET),
        ):
            keeping.fails(call, NotReady)
        self.assertEqual(keeping.clock.getDelayedCalls(), [])

    def test_it_is_started_once_and_may_be_stopped_again(self) -> None:
        self.assertRaises(ValueError, self.keeping.keeper.start)
        self.keeping.stop()
        self.keeping.stop()
        self.keeping.crash()

    def test_a_store_that_cannot_be_opened_is_told(self) -> None:
        keeping = Keeping()
        with mock.patch.object(keeping.store, "open", side_effect=OSError(13, "no")):
            keeping.fails(keeping.keeper.start(), OSError)
        keeping.stop()

    def test_it_may_be_stopped_while_it_starts(self) -> None:
        for turns in range(8):
            keeping = Keeping()
            starting = keeping.keeper.start()
            for _ in range(turns):
                keeping.tick()
            stopping = keeping.keeper.stop()
            keeping.done(stopping)
            self.assertTrue(starting.called)
            self.assertFalse(keeping.keeper.figures().running)
            self.assertEqual(keeping.clock.getDelayedCalls(), [])

    def test_it_may_be_stopped_while_uploads_run(self) -> None:
        of = shelf()
        for turns in range(10):
            keeping = Keeping().start()
            keeping.done(keeping.reserve(of))
            keeping.done(keeping.reserve(of, 1))
            keeping.send(of, 1)
            calls = [
                keeping.write(of, 0),
                keeping.write(of, 1),
                keeping.close(of, 1),
                keeping.reserve(of, 2),
            ]
            for _ in range(turns):
                keeping.tick()
            keeping.stop()
            outcomes = [_outcome(each) for each in calls]
            for outcome in outcomes:
                self.assertIn(type(outcome), (type(None), bytes, Reservation, NotReady))
            keeping.crash()
            self.assertEqual(keeping.problems(), [])
            if isinstance(outcomes[2], bytes):
                keeping.done(keeping.peer().stat(of.header.share_id(1)))

    def test_nothing_is_asked_of_a_store_that_was_closed(self) -> None:
        """Also not by what had its turn after something else that was under way."""
        of = shelf()
        for turns in range(6):
            store = Closing()
            keeping = Keeping(store=store).start()
            keeping.put(of, caller=CAROL, secret=OTHER_SECRET)
            for caller in (ALICE, BOB):
                keeping.done(keeping.reserve(of, caller=caller))
            # They wait for one another.
            calls = [keeping.close(of, caller=caller) for caller in (ALICE, BOB)]
            for _ in range(turns):
                keeping.tick()
            keeping.stop()
            keeping.run()
            for each in calls:
                self.assertIsInstance(_outcome(each), bytes)
            self.assertEqual((store.closed, store.late), (True, []), f"after {turns}")

    def test_a_receipt_means_that_the_share_is_there_whenever_it_crashes(self) -> None:
        of, receipts = shelf(), 0
        for turns in range(8):
            keeping = Keeping().start()
            keeping.done(keeping.reserve(of))
            keeping.send(of)
            closing = keeping.close(of)
            for _ in range(turns):
                keeping.tick()
            receipt = closing.called
            receipts += receipt
            keeping.crash()
            if receipt:
                keeping.done(keeping.peer().read(of.header.share_id(0), 0))
            self.assertEqual(keeping.problems(), [])
        self.assertTrue(0 < receipts < 8)


class Closing(MemoryShardStore):
    """
    @ivar late: what was asked of it after it was closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.late: list[str] = []

    def close(self) -> None:
        self.closed = True
        super().close()

    def set_note(self, name: bytes, note: bytes) -> None:
        if self.closed:
            self.late.append("set_note")
        super().set_note(name, note)

    def begin(self, name: bytes) -> Any:
        if self.closed:
            self.late.append("begin")
        return super().begin(name)


def _outcome(deferred: Deferred[Any]) -> Any:
    """@return: what came of it, or the error; something must have."""
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results[0]


class CancelTests(Case):
    """Whoever goes away, whenever he does, leaves no trace but what he asked for."""

    def calls(self) -> dict[str, Callable[[Keeping, Any], Deferred[Any]]]:
        return {
            "reserve": lambda keeping, of: keeping.reserve(of, 2),
            "write": lambda keeping, of: keeping.write(of, 1),
            "close": lambda keeping, of: keeping.close(of, 1),
            "abort": lambda keeping, of: keeping.peer().abort(of.header.upload, 0),
            "read": lambda keeping, of: keeping.peer().read(of.header.share_id(4), 1),
            "manifest": lambda keeping, of: keeping.peer().manifest(of.header.share_id(4)),
            "renew": lambda keeping, of: keeping.peer(BOB).renew(
                of.header.share_id(4), OTHER_SECRET
            ),
            "release": lambda keeping, of: keeping.peer().release(of.header.share_id(4), SECRET),
        }

    def test_every_call_may_be_cancelled_at_every_moment(self) -> None:
        for what, call in self.calls().items():
            for crowd in (False, True):
                for turns in range(6):
                    self.check(call, turns, crowd, f"{what} after {turns}, crowd: {crowd}")

    def check(self, call: Any, turns: int, crowd: bool, where: str) -> None:
        of = shelf()
        keeping = Keeping().start()
        keeping.put(of, 4)
        keeping.done(keeping.reserve(of, 0))
        keeping.send(of, 0, blocks=range(1))
        keeping.done(keeping.reserve(of, 1))
        keeping.send(of, 1)
        # So that it has to wait.
        others = [keeping.write(of, 0), keeping.peer().renew(of.header.share_id(4), SECRET)]
        deferred = call(keeping, of)
        behind = [keeping.peer().read(of.header.share_id(4), 0)] if crowd else []
        for _ in range(turns):
            keeping.tick()
        deferred.cancel()
        deferred.addErrback(lambda failure: failure.trap(CancelledError, MeshkitError) and None)
        self.assertTrue(deferred.called, where)
        for each in (*others, *behind):
            each.addErrback(lambda failure: failure.trap(MeshkitError) and None)
            keeping.done(each)
        keeping.run()
        self.assertEqual(keeping.keeper.figures().blocks, 0, where)
        # Nothing is stuck: all of it can be done now.
        for number in (0, 1, 2, 4):
            keeping.put_on(of, number)
            keeping.done(keeping.peer().read(of.header.share_id(number), 1))
        self.assertEqual(keeping.problems(), [], where)
        keeping.stop()
        self.assertEqual(keeping.clock.getDelayedCalls(), [], where)


class LimitsTests(Case):
    def test_only_so_many_calls_wait_for_a_share(self) -> None:
        of = shelf()
        self.keeping.put(of)
        name, peer = of.header.share_id(0), self.keeping.peer()
        calls = [peer.renew(name, SECRET)]
        calls += [peer.read(name, 0) for _ in range(MAX_WAITING_FOR_SHARE)]
        for late in (
            peer.read(name, 0),
            peer.manifest(name),
            peer.renew(name, SECRET),
            peer.release(name, SECRET),
        ):
            self.keeping.fails(late, StorageBusy)
        for each in calls:
            self.keeping.done(each)

    def test_a_look_takes_only_so_many_away(self) -> None:
        count = 5
        for seed in range(count):
            self.keeping.put(shelf(1, seed=seed, scheme=Scheme(1, 1, 4096)))
        with mock.patch.object(keeper_module, "MAX_COLLECTED", 2):
            self.keeping.offset = LEASE_SECONDS + GRACE_SECONDS
            self.keeping.advance(2 * QUIET_SECONDS + 1, step=29)
            seen = {self.keeping.keeper.figures().collected}
            for _ in range(6):
                self.keeping.advance(30)
                seen.add(self.keeping.keeper.figures().collected)
        self.assertEqual(max(seen), count)

    def test_a_stop_does_not_wait_until_all_are_taken_away(self) -> None:
        for seed in range(5):
            self.keeping.put(shelf(1, seed=seed, scheme=Scheme(1, 1, 4096)))
        self.keeping.offset = LEASE_SECONDS + GRACE_SECONDS + 1
        self.keeping.crash()
        self.keeping.advance(QUIET_SECONDS - 1, step=3_500)
        self.keeping.clock.rightNow += 30
        while not self.keeping.keeper.figures().collected:
            self.keeping.tick()
        self.keeping.stop()
        self.assertLess(self.keeping.keeper.figures().collected, 5)
        self.keeping.crash()


class MustSignTests(Case):
    def test_a_receipt_is_signed_after_the_commit_and_never_without(self) -> None:
        """The signature is made when the store has returned, and not before."""
        of, order = shelf(), list[str]()
        store = Failing()
        keeping = self.use(store=store)
        keeping.done(keeping.reserve(of))
        keeping.send(of)
        commit = _FailingWriter.commit

        def slow(writer: Any, tail: bytes, note: bytes) -> None:
            commit(writer, tail, note)
            order.append("durable")

        sign = Receipt.sign

        def signing(receipt: Receipt, identity: Any) -> bytes:
            order.append("signed")
            return sign(receipt, identity)

        with (
            mock.patch.object(_FailingWriter, "commit", slow),
            mock.patch.object(Receipt, "sign", signing),
        ):
            keeping.done(keeping.close(of))
        self.assertEqual(order, ["durable", "signed"])
