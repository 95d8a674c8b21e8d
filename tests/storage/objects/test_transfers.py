"""Tests of L{meshkit.storage.objects.transfers}: some run, others wait, none is forgotten."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    NotFound,
    NotReady,
    ObjectNotPlaced,
    Overloaded,
    StorageFailed,
    TransferSuspended,
)
from meshkit.runtime.container import MemoryFile
from meshkit.storage.objects import ledger
from meshkit.storage.objects.ledger import Transfer
from meshkit.storage.objects.transfers import (
    MAX_ERROR,
    RETRY_SECONDS,
    Outcome,
    Shown,
    Transfers,
)
from meshkit.testing.nodes import make_context
from tests.storage.client.peers import run_until


class TransfersCase(SynchronousTestCase):
    """
    @ivar running: what is being done, by path.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.backing = MemoryFile(self.id())
        self.running: dict[str, Deferred[Outcome]] = {}
        self.begun: list[str] = []
        self.suspended = 0
        self.seed = 0
        self.open()

    def open(self) -> None:
        self.context = make_context(
            self.clock, migrations={"storage": ledger.MIGRATIONS}, backing=self.backing
        )

    def tearDown(self) -> None:
        self.close()

    def close(self) -> None:
        self.done(self.context.database.stopService())
        self.done(self.context.workers.stopService())

    def new(self, at_once: int = 1, limit: int = 10) -> Transfers:
        self.seed += 1
        transfers = Transfers(
            self.clock,
            self.context.database,
            Random(self.seed),
            self.context.wall_clock,
            self.do,
            self.suspend,
            at_once=at_once,
            limit=limit,
        )
        self.done(Deferred.fromCoroutine(transfers.start()))
        return transfers

    def do(self, transfer: Transfer, progress: Any) -> Deferred[Outcome]:
        self.begun.append(transfer.path)
        self.progress = progress
        self.running[transfer.path] = Deferred()
        return self.running[transfer.path]

    def suspend(self) -> Deferred[None]:
        """As a client does: what can be gone on with is told so before it is cancelled."""
        self.suspended += 1
        for running in tuple(self.running.values()):
            if not running.called:
                running.errback(TransferSuspended())
        return succeed(None)

    def done(self, deferred: Deferred[Any]) -> Any:
        return run_until(self.clock, deferred)

    def wait(self, work: Any) -> Any:
        return self.done(Deferred.fromCoroutine(work))

    def begin(self, transfers: Transfers, path: str) -> Shown:
        shown: Shown = self.wait(transfers.begin(Transfer(b"", 0, "put", "waiting", path)))
        return shown

    def settle(self) -> None:
        """Let everything be written that is to be."""
        self.done(self.context.database.write(lambda _: None))
        self.done(self.context.database.read(lambda _: None))

    def finish(self, path: str, outcome: Outcome | None = None) -> None:
        self.running[path].callback(outcome or Outcome(b"{}", b"o" * 32))
        self.settle()

    def doing(self, transfers: Transfers) -> dict[str, str]:
        return {each.transfer.path: each.doing for each in self.wait(transfers.list(99))}


class TransfersTests(TransfersCase):
    def test_so_many_run_at_a_time_and_the_others_in_their_turn(self) -> None:
        transfers = self.new(at_once=2)
        for path in "abcd":
            self.begin(transfers, path)
        self.assertEqual((transfers.under_way, transfers.waiting), (2, 2))
        self.assertEqual(self.begun, ["a", "b"])
        self.finish("b")
        self.assertEqual(self.begun, ["a", "b", "c"])
        self.assertEqual(
            self.doing(transfers), {"a": "running", "b": "done", "c": "running", "d": "waiting"}
        )

    def test_what_came_of_it_is_written_down_with_whatever_else_has_to_be(self) -> None:
        transfers = self.new()
        shown = self.begin(transfers, "a")
        cleaned: list[str] = []
        outcome = Outcome(
            b'{"x": 1}',
            b"c" * 32,
            lambda connection: connection.execute("CREATE TABLE proof (n)"),
            lambda: cleaned.append("clean"),
        )
        self.finish("a", outcome)
        found = self.wait(transfers.find(shown.transfer.id))
        self.assertEqual((found.doing, found.transfer.result), ("done", b'{"x": 1}'))
        self.assertEqual((found.transfer.content_id, cleaned), (b"c" * 32, ["clean"]))
        proof = "SELECT count(*) FROM sqlite_schema WHERE name = 'proof'"
        count = self.done(self.context.database.read(lambda it: it.execute(proof).fetchone()))
        self.assertEqual(count, (1,))
        self.assertEqual(transfers.ended, {"done": 1, "failed": 0, "cancelled": 0})

    def test_nothing_is_cleaned_up_that_was_not_written_down(self) -> None:
        transfers = self.new()
        shown = self.begin(transfers, "a")
        cleaned: list[str] = []

        def refuse(_connection: Any) -> None:
            raise OSError("the disk is full")

        self.finish("a", Outcome(b"{}", None, refuse, lambda: cleaned.append("clean")))
        self.assertEqual(cleaned, [])
        # It is begun again when the node is.
        self.assertEqual(
            [each.id for each in self.done(self.context.database.read(ledger.open_transfers))],
            [shown.transfer.id],
        )
        self.flushLoggedErrors()

    def test_how_far_it_is_can_be_seen(self) -> None:
        transfers = self.new()
        shown = self.begin(transfers, "a")
        self.progress(5, 9)
        found = self.wait(transfers.find(shown.transfer.id))
        self.assertEqual((found.doing, found.done, found.total), ("running", 5, 9))

    def test_why_it_failed_is_written_down(self) -> None:
        transfers = self.new(at_once=9)
        cases: list[tuple[Exception, str, str]] = [
            (ObjectNotPlaced("too few"), "OBJECT_NOT_PLACED", "too few"),
            (OSError(28, "No space left", "/x"), "CONFIG_INVALID", "cannot use /x: No space left"),
            (ValueError("a fault"), "INTERNAL_ERROR", "a fault of this node: see its log"),
            (ObjectNotPlaced("y" * 5_000), "OBJECT_NOT_PLACED", "y" * MAX_ERROR),
        ]
        for number, (error, code, text) in enumerate(cases):
            shown = self.begin(transfers, str(number))
            self.running[str(number)].errback(error)
            self.settle()
            found = self.wait(transfers.find(shown.transfer.id)).transfer
            self.assertEqual((found.state, found.error_code, found.error), ("failed", code, text))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_one_that_cannot_even_be_begun_fails(self) -> None:
        self.do = lambda _transfer, _progress: fail(ObjectNotPlaced("at once"))  # type: ignore[method-assign]
        transfers = self.new()
        shown = self.begin(transfers, "a")
        self.settle()
        self.assertEqual(self.wait(transfers.find(shown.transfer.id)).doing, "failed")

    def test_only_so_many_wait(self) -> None:
        transfers = self.new(limit=2)
        self.begin(transfers, "a")
        self.begin(transfers, "b")
        self.assertRaises(Overloaded, self.begin, transfers, "c")

    def test_one_that_is_not_there_is_not_found(self) -> None:
        transfers = self.new()
        self.assertRaises(NotFound, self.wait, transfers.find(b"?" * 8))
        self.assertRaises(NotFound, self.wait, transfers.cancel(b"?" * 8))

    def test_who_waits_for_the_end_is_told(self) -> None:
        transfers = self.new()
        shown = self.begin(transfers, "a")
        ending = transfers.ending(shown.transfer.id)
        gone = transfers.ending(shown.transfer.id)
        gone.cancel()
        self.failureResultOf(gone)
        self.assertNoResult(ending)
        self.finish("a")
        self.successResultOf(ending)
        self.successResultOf(transfers.ending(shown.transfer.id))


class FullDiskTests(TransfersCase):
    """The disk takes no end of a transfer."""

    def setUp(self) -> None:
        super().setUp()
        self.full = False
        self.tried = 0
        write = self.context.database.write

        def try_it(job: Any) -> Deferred[Any]:
            self.tried += self.full
            return fail(StorageFailed("the disk is full")) if self.full else write(job)

        self.patch(self.context.database, "write", try_it)

    def finish_unwritten(self, path: str) -> None:
        self.full = True
        self.running[path].callback(Outcome(b"{}", b"o" * 32))

    def test_that_one_has_ended_is_written_down_as_soon_as_the_disk_takes_it(self) -> None:
        transfers = self.new()
        shown = self.begin(transfers, "a")
        self.finish_unwritten("a")
        for turn in range(3):
            self.clock.advance(RETRY_SECONDS)
            self.assertEqual(self.tried, turn + 2)
        # It is not done before that is durable.
        self.assertEqual(self.wait(transfers.find(shown.transfer.id)).doing, "running")
        self.full = False
        self.clock.advance(RETRY_SECONDS)
        self.settle()
        self.assertEqual(self.wait(transfers.find(shown.transfer.id)).doing, "done")
        self.assertEqual((self.begun, transfers.ended["done"]), (["a"], 1))

    def test_a_stop_does_not_wait_for_the_disk(self) -> None:
        transfers = self.new()
        self.begin(transfers, "a")
        self.finish_unwritten("a")
        self.successResultOf(Deferred.fromCoroutine(transfers.stop()))
        # It was tried once more.
        self.assertEqual(self.tried, 2)
        self.clock.advance(10 * RETRY_SECONDS)
        self.assertEqual(self.tried, 2)
        self.full = False
        self.begun.clear()
        self.new()
        self.assertEqual(self.begun, ["a"])

    def test_who_cancels_one_that_is_done_has_it_tried_at_once(self) -> None:
        transfers = self.new()
        shown = self.begin(transfers, "a")
        self.finish_unwritten("a")
        self.full = False
        found = self.wait(transfers.cancel(shown.transfer.id))
        self.assertEqual(found.doing, "done")


class CancelTests(TransfersCase):
    def test_one_that_runs_is_ended_and_the_next_begun(self) -> None:
        transfers = self.new()
        one = self.begin(transfers, "a")
        self.begin(transfers, "b")
        found = self.wait(transfers.cancel(one.transfer.id))
        self.assertEqual(found.doing, "cancelled")
        self.assertEqual((self.suspended, self.begun), (0, ["a", "b"]))

    def test_one_that_waits_is_never_begun(self) -> None:
        transfers = self.new()
        self.begin(transfers, "a")
        waiting = self.begin(transfers, "b")
        self.assertEqual(self.wait(transfers.cancel(waiting.transfer.id)).doing, "cancelled")
        self.finish("a")
        self.assertEqual(self.begun, ["a"])

    def test_one_that_has_ended_stays_as_it_is(self) -> None:
        transfers = self.new()
        one = self.begin(transfers, "a")
        self.finish("a")
        self.assertEqual(self.wait(transfers.cancel(one.transfer.id)).doing, "done")

    def test_one_that_is_done_before_it_hears_of_it_is_done(self) -> None:
        transfers = self.new()
        one = self.begin(transfers, "a")

        class Stubborn(Deferred[Outcome]):
            def cancel(self) -> None:
                self.callback(Outcome(b"{}"))

        transfers._open[one.transfer.id].running = Stubborn()
        ended = Deferred.fromCoroutine(transfers.cancel(one.transfer.id))
        self.assertNoResult(ended)
        self.finish("a")
        self.assertEqual(self.done(ended).doing, "done")


class RestartTests(TransfersCase):
    def restart(self, transfers: Transfers) -> Transfers:
        self.wait(transfers.stop())
        self.close()
        self.open()
        self.begun.clear()
        return self.new()

    def test_what_ran_and_what_waited_is_begun_again(self) -> None:
        transfers = self.new()
        ids = [self.begin(transfers, path).transfer.id for path in "abc"]
        self.finish("a")
        again = self.restart(transfers)
        self.assertEqual(self.suspended, 1)
        self.assertEqual(self.begun, ["b"])
        self.assertEqual(self.doing(again), {"a": "done", "b": "running", "c": "waiting"})
        self.finish("b")
        self.finish("c")
        for each in ids:
            self.assertEqual(self.wait(again.find(each)).doing, "done")

    def test_so_it_is_after_a_kill(self) -> None:
        self.begin(self.new(), "a")
        # Nobody stops anything: another process finds what is on the disk.
        self.begun.clear()
        again = self.new()
        self.assertEqual((self.begun, self.doing(again)), (["a"], {"a": "running"}))

    def test_what_cannot_be_suspended_is_cancelled_and_begun_again(self) -> None:
        transfers = self.new()
        self.suspend = lambda: succeed(None)  # type: ignore[method-assign]
        self.begin(transfers, "a")
        self.restart(transfers)
        self.assertEqual(self.begun, ["a"])

    def test_one_that_says_that_it_can_be_gone_on_with_has_not_failed(self) -> None:
        transfers = self.new()
        shown = self.begin(transfers, "a")
        self.running["a"].errback(TransferSuspended())
        self.settle()
        self.assertEqual(self.wait(transfers.find(shown.transfer.id)).doing, "waiting")
        self.restart(transfers)
        self.assertEqual(self.begun, ["a"])

    def test_who_waits_is_told_when_the_node_stops(self) -> None:
        transfers = self.new()
        running, waiting = self.begin(transfers, "a"), self.begin(transfers, "b")
        told = [transfers.ending(each.transfer.id) for each in (running, waiting)]
        self.wait(transfers.stop())
        for each in told:
            self.successResultOf(each)

    def test_nothing_is_accepted_when_it_does_not_run(self) -> None:
        transfers = self.new()
        self.wait(transfers.stop())
        self.assertRaises(NotReady, self.begin, transfers, "a")
