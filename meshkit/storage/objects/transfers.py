"""
Transfers in the background: some run, others wait, and a restart forgets none.

A transfer is written down before it is said to have been accepted, and is done when that is
written down.  In between the node may stop, or be killed; then it is begun again when the node
is, and goes on with what there is of it.  What that means for a put or a get is for whoever
does the work to know (L{DoTransfer}).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Final, Literal

from attrs import define, evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import (
    ConfigError,
    MeshkitError,
    NotFound,
    NotReady,
    StorageFailed,
    TransferSuspended,
)
from meshkit.parts import shield
from meshkit.runtime.database import Database
from meshkit.storage.objects import ledger
from meshkit.storage.objects.ledger import Transfer

#: Transfers that wait or run.
MAX_OPEN: Final = 1_000
#: Bytes of the id of a transfer.
ID_BYTES: Final = 8
#: Seconds before it is tried again to write down that a transfer has ended.
RETRY_SECONDS: Final = 10.0
#: Characters of a sentence that says what went wrong.
MAX_ERROR: Final = 1_000

#: What a transfer is doing, for people.
Doing = Literal["waiting", "running", "done", "failed", "cancelled"]


@frozen
class Outcome:
    """
    A transfer was done.

    @ivar result: what came of it, as JSON.
    @ivar content_id: of the object.
    @ivar written: writes down whatever else has to be, in the same transaction: a function of
        an open connection.
    @ivar after: called when that is written; may give a Deferred.  That it fails is logged.
    """

    result: bytes
    content_id: bytes | None = None
    written: Callable[[Any], object] | None = None
    after: Callable[[], Any] | None = None


#: Is told the bytes that are done, and how many there are, if that is known.
Progress = Callable[[int, int | None], None]
#: Does one transfer.  Its Deferred fails with L{TransferSuspended} if it was interrupted so that it
#: can be gone on with.
DoTransfer = Callable[[Transfer, Progress], Deferred[Outcome]]


@define(eq=False)
class _Open:
    """A transfer that has not ended."""

    transfer: Transfer
    begun: bool = False
    running: Deferred[Any] | None = None
    done: int = 0
    total: int | None = None
    cancelled: bool = False
    watchers: list[Deferred[None]] = field(factory=list)


@frozen
class Shown:
    """
    A transfer, and how far it is.

    @ivar doing: what it is doing.
    @ivar done: bytes of the object that are behind, since it was begun last.
    @ivar total: how many there are; L{None} if that is not known yet, or any more.
    """

    transfer: Transfer
    doing: Doing
    done: int
    total: int | None


class Transfers:
    """
    See the module.  For the reactor's thread.

    @ivar ended: how many have ended since the start, by state.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        database: Database,
        rng: Random,
        wall_clock: Callable[[], int],
        do_transfer: DoTransfer,
        suspend: Callable[[], Deferred[None]],
        *,
        at_once: int,
        limit: int = MAX_OPEN,
    ) -> None:
        """
        @param wall_clock: nanoseconds since 1970.
        @param suspend: has all that run interrupted so that they can be gone on with; its
            Deferred fires when they are.
        @param at_once: how many run at the same time.
        @param limit: how many may wait or run.
        """
        self._reactor = reactor
        self._database = database
        self._rng = rng
        self._wall_clock = wall_clock
        self._do_transfer = do_transfer
        self._suspend = suspend
        self._at_once = at_once
        self._limit = limit
        self._open: dict[bytes, _Open] = {}
        self._running = False
        self.ended: dict[str, int] = {"done": 0, "failed": 0, "cancelled": 0}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not each.begun for each in self._open.values())

    @property
    def under_way(self) -> int:
        """How many run."""
        return len(self._open) - self.waiting

    async def start(self) -> None:
        """Begin again with what had not ended."""
        self._running = True
        for transfer in await self._database.read(ledger.open_transfers):
            self._open.setdefault(transfer.id, _Open(transfer))
        self._begin_next()

    async def stop(self) -> None:
        """Leave everything as it is, to be begun again.  Done when nothing runs any more."""
        self._running = False
        ending = []
        for each in tuple(self._open.values()):
            if each.begun:
                ending.append(self.ending(each.transfer.id))
            else:
                self._leave(each)
        await self._suspend()
        for each in tuple(self._open.values()):
            # Those that had not come to where anything could be suspended.
            if each.running is not None:
                each.running.cancel()
        await DeferredList(ending)

    # --- asking for one ----------------------------------------------------------------

    async def begin(self, transfer: Transfer) -> Shown:
        """
        Accept a transfer.

        @param transfer: without id, number, state and time.
        @return: it, when it is written down.
        @raise NotReady: if the node is not started, or stops.
        @raise Overloaded: if too many wait.
        """
        if not self._running:
            raise NotReady("transfers are begun when the node is started")
        transfer = evolve(transfer, id=self._rng.randbytes(ID_BYTES), begun_ns=self._wall_clock())
        return await shield(self._begin(transfer))

    async def _begin(self, transfer: Transfer) -> Shown:
        accepted = await self._database.write(
            partial(ledger.begin_transfer, transfer=transfer, limit=self._limit)
        )
        each = _Open(accepted)
        if self._running:
            self._open[accepted.id] = each
            self._begin_next()
        return self._show(each)

    async def find(self, transfer_id: bytes) -> Shown:
        """
        @raise NotFound: if there is none, or it has ended long ago.
        """
        each = self._open.get(transfer_id)
        if each is not None:
            return self._show(each)
        found = await self._database.read(partial(ledger.find_transfer, transfer_id=transfer_id))
        if found is None:
            raise NotFound(
                f"there is no transfer {transfer_id.hex()}, or not any more: 'meshkit call "
                f"transfers' lists the last {ledger.MAX_ENDED}"
            )
        return self._show(_Open(found))

    async def list(self, limit: int) -> list[Shown]:
        """@return: the last ones, the latest first."""
        found = await self._database.read(partial(ledger.list_transfers, limit=limit))
        return [self._show(self._open.get(each.id) or _Open(each)) for each in found]

    def ending(self, transfer_id: bytes) -> Deferred[None]:
        """@return: Deferred that fires when the transfer has ended, or the node stops."""
        waiter: Deferred[None] = Deferred()
        each = self._open.get(transfer_id)
        if each is None:
            waiter.callback(None)
        else:
            each.watchers.append(waiter)
        return waiter

    async def cancel(self, transfer_id: bytes) -> Shown:
        """
        End a transfer.  Nothing happens to one that has ended.

        @return: what became of it.
        @raise NotFound: as L{find}.
        """
        each = self._open.get(transfer_id)
        if each is not None:
            each.cancelled = True
            ending = self.ending(transfer_id)
            if each.running is not None:
                each.running.cancel()
            else:
                await shield(self._end(each, "cancelled"))
            await ending
        return await self.find(transfer_id)

    def _show(self, each: _Open) -> Shown:
        transfer = each.transfer
        if transfer.state != "waiting":
            return Shown(transfer, transfer.state, 0, None)
        doing: Doing = "running" if each.begun else "waiting"
        return Shown(transfer, doing, each.done, each.total)

    # --- doing them ----------------------------------------------------------------------

    def _begin_next(self) -> None:
        waiting = [each for each in self._open.values() if not each.begun and not each.cancelled]
        for each in sorted(waiting, key=lambda one: one.transfer.number):
            if not self._running or self.under_way >= self._at_once:
                return
            each.begun = True
            Deferred.fromCoroutine(self._do(each))

    async def _do(self, each: _Open) -> None:
        def progress(done: int, total: int | None) -> None:
            each.done, each.total = done, total

        try:
            each.running = self._do_transfer(each.transfer, progress)
            outcome = await each.running
        except (CancelledError, Exception) as e:
            await self._failed(each, e)
        else:
            await self._end(each, "done", outcome=outcome)

    async def _failed(self, each: _Open, error: BaseException) -> None:
        if each.cancelled:
            await self._end(each, "cancelled")
            return
        if not self._running or isinstance(error, TransferSuspended):
            # To be begun again when the node is.
            self._leave(each)
            return
        if isinstance(error, MeshkitError):
            self._log.info(
                "the {kind} of {path} failed: {error}",
                kind=each.transfer.kind,
                path=each.transfer.path,
                error=str(error),
            )
            code, text = error.code, str(error)
        elif isinstance(error, OSError):
            code = ConfigError.code
            text = f"cannot use {error.filename or each.transfer.path}: {error.strerror}"
        else:
            self._log.failure("a transfer failed", Failure(error))
            code, text = MeshkitError.code, "a fault of this node: see its log"
        await self._end(each, "failed", code=code, text=text)

    async def _end(
        self,
        each: _Open,
        state: Literal["done", "failed", "cancelled"],
        *,
        outcome: Outcome | None = None,
        code: str | None = None,
        text: str | None = None,
    ) -> None:
        """Write down what became of a transfer."""
        transfer = each.transfer

        def write(connection: Any) -> None:
            if outcome is not None and outcome.written is not None:
                outcome.written(connection)
            ledger.end_transfer(
                connection,
                transfer.id,
                state,
                self._wall_clock(),
                content_id=None if outcome is None else outcome.content_id,
                result=None if outcome is None else outcome.result,
                error_code=code,
                error=None if text is None else text[:MAX_ERROR],
            )

        try:
            await self._write_down(each, write)
        except Exception as e:
            # It is done all the same, and begun again when the node is: then it is found out
            # that there is nothing left to do.
            self._log.warn(
                "that a transfer has ended cannot be written down: {error}", error=str(e)
            )
        else:
            self.ended[state] += 1
            if outcome is not None and outcome.after is not None:
                try:
                    await maybeDeferred(outcome.after)
                except OSError as e:
                    # It is tried again at the next start.
                    self._log.warn(
                        "what a transfer has left cannot be removed: {error}", error=str(e)
                    )
                except Exception:
                    self._log.failure("cleaning up after a transfer failed")
        self._leave(each)
        self._begin_next()

    async def _write_down(self, each: _Open, write: Callable[[Any], None]) -> None:
        """Try until the disk takes it or the node stops: then it is known at the next start."""
        told = False
        while True:
            try:
                await self._database.write(write)
            except StorageFailed as e:
                if not self._running:
                    raise
                if not told:
                    self._log.warn(
                        "that a transfer has ended cannot be written down yet: {error}",
                        error=str(e),
                    )
                told = True
            else:
                return
            each.running = deferLater(self._reactor, RETRY_SECONDS)
            # Who cancels does not want to wait.
            with suppress(CancelledError):
                await each.running

    def _leave(self, each: _Open) -> None:
        """Nothing is done about a transfer any more, in this run of the node."""
        self._open.pop(each.transfer.id, None)
        watchers, each.watchers = each.watchers, []
        for watcher in watchers:
            if not watcher.called:
                watcher.callback(None)
