"""The mark on the disk, up to which requests may have been let in."""

from __future__ import annotations

import errno

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import SignatureRetry, StorageBusy
from meshkit.runtime.signed.mark import StoredMark
from meshkit.runtime.signed.replays import AHEAD, EVERY, Replays
from meshkit.runtime.workers import InlineWorkers
from meshkit.testing.nodes import MemoryFiles
from tests.runtime.signed.test_replays import request

PATH = "/data/keeper/signed-until"
START = 1_000


class Disk(MemoryFiles):
    """One that can fail."""

    full = False

    def write_atomic(self, path: str, data: bytes, mode: int = 0o600) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        super().write_atomic(path, data, mode)


class StoredMarkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.disk = Disk()

    def _mark(self) -> StoredMark:
        workers = InlineWorkers(self.clock, 1, name="test")
        workers.startService()
        return StoredMark(
            self.clock, workers, self.disk, PATH, lambda: int(self.clock.seconds() * 10**9)
        )

    def _started(self) -> tuple[StoredMark, Replays]:
        mark = self._mark()
        started = mark.start()
        self._pass(0)
        replays: Replays = self.successResultOf(started)
        return mark, replays

    def _pass(self, seconds: int) -> None:
        self.clock.pump([1.0] * seconds)
        self.clock.pump([0.0] * 4)

    def _let_in(self, replays: Replays, nonce: str = "n") -> int:
        """@return: when the request that was let in was created."""
        now = int(self.clock.seconds())
        replays.admit(request(now, nonce), now)
        return now

    def test_it_is_stored_before_anything_is_let_in(self) -> None:
        mark, replays = self._started()
        self.assertEqual(self.disk.content[PATH], b"%d\n" % (START + AHEAD))
        self._let_in(replays)
        mark.stop()

    def test_it_stays_ahead_with_one_write_in_ten_seconds(self) -> None:
        mark, replays = self._started()
        marks = {self.disk.content[PATH]}
        for second in range(100):
            self._let_in(replays, str(second))
            self._pass(1)
            marks.add(self.disk.content[PATH])
        self.assertEqual(len(marks), 1 + 100 // EVERY)
        mark.stop()

    def test_after_a_kill_everything_up_to_it_is_refused(self) -> None:
        _, replays = self._started()
        created = self._let_in(replays)
        self._pass(3)
        # Killed: nothing more is written.  It starts anew.
        mark, again = self._started()
        now = int(self.clock.seconds())
        self.assertRaises(SignatureRetry, again.admit, request(created), now)
        self.assertRaises(SignatureRetry, again.admit, request(now, "m"), now)
        self._pass(AHEAD)
        self._let_in(again, "o")
        mark.stop()

    def test_after_a_clean_stop_only_what_was_let_in_is_refused(self) -> None:
        mark, replays = self._started()
        created = self._let_in(replays)
        stopped = mark.stop()
        self._pass(0)
        self.successResultOf(stopped)
        self.assertEqual(self.disk.content[PATH], b"%d\n" % created)
        self._pass(1)
        mark, again = self._started()
        self.assertRaises(SignatureRetry, again.admit, request(created), START + 1)
        self._let_in(again, "m")
        mark.stop()

    def test_a_clock_behind_it_lets_nothing_in_until_it_has_caught_up(self) -> None:
        self.disk.write_atomic(PATH, b"%d\n" % (START + 100))
        mark, replays = self._started()
        self.assertRaises(SignatureRetry, self._let_in, replays)
        self._pass(100)
        self.assertRaises(SignatureRetry, self._let_in, replays)
        self._pass(1)
        self._let_in(replays)
        mark.stop()

    def test_a_disk_that_is_full_lets_nothing_in_that_it_could_not_note(self) -> None:
        mark, replays = self._started()
        self.disk.full = True
        self._pass(AHEAD)
        self._let_in(replays)
        self._pass(1)
        self.assertRaises(StorageBusy, self._let_in, replays, "m")
        self.disk.full = False
        self._pass(EVERY)
        self._let_in(replays, "o")
        mark.stop()

    def test_a_disk_that_is_full_at_the_start_is_an_error(self) -> None:
        self.disk.full = True
        started = self._mark().start()
        self._pass(0)
        self.failureResultOf(started, OSError)

    def test_a_file_that_is_damaged_costs_a_moment(self) -> None:
        for damage in (b"", b"x\n", b"12", b"-5\n", b"1" * 20 + b"\n"):
            self.disk.write_atomic(PATH, damage)
            mark, replays = self._started()
            self.assertRaises(SignatureRetry, self._let_in, replays)
            self._pass(6)
            self._let_in(replays)
            mark.stop()
            self.clock.pump([0.0] * 4)
