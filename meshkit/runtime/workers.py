"""
Threads for work that would hold up the reactor, as a service with a size.

A pool is worth its hop (about 40 us there and back) for work that releases the GIL
and takes longer than that: hashing from 1 MiB on, erasure coding from 64 KiB on,
password stretching, batches of signature checks, SQLite.  Pure Python is not: it
takes the GIL from the reactor for a whole switch interval at a time.

L{InlineWorkers} has the same interface and no threads: a simulation passes it, so
that everything happens on one virtual clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from inspect import isawaitable
from threading import Thread
from typing import Any, Final, Protocol, TypeVar

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from meshkit.errors import NotReady, Overloaded

__all__ = [
    "AbstractWorkers",
    "InlineWorkers",
    "WorkerCall",
    "WorkerFactory",
    "WorkerPool",
    "Workers",
]

T = TypeVar("T")

#: How many calls may wait for a thread.  Each holds its arguments in memory.
MAX_WAITING: Final = 1_000
#: How long a stop waits for the calls that were accepted, in seconds.
STOP_SECONDS: Final = 30.0


class Workers(Protocol):
    """What L{WorkerPool} and L{InlineWorkers} have in common."""

    @property
    def size(self) -> int:
        """How many calls are made at the same time."""

    def startService(self) -> None:
        """Accept work."""

    def stopService(self) -> Deferred[None]:
        """Finish what was accepted.  @return: see L{WorkerPool.stopService}."""

    def run(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
        """@return: see L{WorkerPool.run}."""


class WorkerFactory(Protocol):
    """What makes workers: one of the two classes here, or one with their signature."""

    def __call__(self, reactor: Any, size: int, *, name: str) -> Workers:
        """@return: workers that are not started."""


@define(eq=False)
class WorkerCall:
    """
    One call that was accepted.

    @ivar work: the function with its arguments; L{None} once a thread has it, or
        when it was cancelled before.
    @ivar deferred: what the caller holds; L{None} when nobody waits any more.
    """

    work: Callable[[], Any] | None
    deferred: Deferred[Any] | None = field(default=None)

    def make(self) -> object:
        """Called where the work is to be done."""
        # One attribute read and one write: if a cancel falls between them the work
        # is done and its result dropped, which is what a cancel promises.
        work, self.work = self.work, None
        if work is None:
            return None
        result = work()
        if isawaitable(result):
            raise TypeError(f"{type(result).__name__} cannot leave a thread: return a result")
        return result

    def outcome(self) -> object:
        """As L{make}, but what it raises is a L{Failure} that is returned."""
        try:
            return self.make()
        except BaseException:
            # As in a thread: whatever it is, it belongs to whoever waits for it.
            return Failure()

    def give_up(self, reason: Exception) -> None:
        deferred, self.deferred = self.deferred, None
        self.work = None
        if deferred is not None:
            deferred.errback(reason)

    def deliver(self, result: object) -> None:
        deferred, self.deferred = self.deferred, None
        if deferred is not None:
            deferred.callback(result)


class AbstractWorkers(Service, ABC):
    """
    The bookkeeping, which is the same with and without threads.  Whoever inherits says
    where and when the calls are made.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        size: int,
        *,
        name: str = "workers",
        max_waiting: int = MAX_WAITING,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """
        @param reactor: clock and, for L{WorkerPool}, C{callFromThread}.
        @param size: how many calls are made at the same time.
        @param name: for log lines and thread names.
        @param max_waiting: how many calls may wait beyond those being made.
        @param stop_seconds: how long L{stopService} waits for them.
        """
        if size < 1:
            raise ValueError(f"the pool {name!r} needs at least one thread, not {size}")
        self._reactor = reactor
        self._size = size
        self._label = name
        self._limit = size + max_waiting
        self._stop_seconds = stop_seconds
        # In the order of acceptance.  A dict, as any of them may be done first.
        self._calls: dict[WorkerCall, None] = {}
        self._draining = False
        self._stop_waiters: list[Deferred[None]] = []
        self._deadline: IDelayedCall | None = None

    @property
    def size(self) -> int:
        """How many calls are made at the same time."""
        return self._size

    @property
    def outstanding(self) -> int:
        """How many calls are waiting or being made."""
        return len(self._calls)

    def startService(self) -> None:
        """
        Accept work from now on.

        @raise NotReady: if calls from before a stop are still being made.
        """
        if self._draining:
            raise NotReady(f"the pool {self._label!r} is still stopping: start it afterwards")
        if not self.running:
            self._open()
            super().startService()

    def run(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
        """
        Call a function outside the reactor's thread.  For use in the reactor's thread.

        Cancelling the Deferred before a thread has taken the call means that it is
        never made.  Afterwards it only drops the result: a thread cannot be
        interrupted.  Either way the Deferred fails with C{CancelledError} at once.

        @param work: may block.  It must not touch what belongs to the reactor.
        @return: Deferred of the result, fired in the reactor's thread.  Fails with
            what C{work} raised; with L{Overloaded} if C{max_waiting} calls wait
            already; with L{NotReady} if the service is not running.
        """
        if not self.running:
            return fail(NotReady(f"the pool {self._label!r} is not running"))
        if len(self._calls) >= self._limit:
            return fail(
                Overloaded(
                    f"{self._limit} calls keep the pool {self._label!r} busy: try again in a moment"
                )
            )
        call = WorkerCall(lambda: work(*args, **kwargs))
        deferred: Deferred[T] = Deferred(lambda _: call.give_up(CancelledError()))
        call.deferred = deferred
        self._calls[call] = None
        self._submit(call)
        return deferred

    def stopService(self) -> Deferred[None]:
        """
        Accept nothing more, finish what was accepted, then end the threads.

        They are joined only once they have nothing to do, so that the reactor is not
        held up.  After C{stop_seconds} the calls that no thread has begun fail with
        L{NotReady}, and those being made are left behind: their results are
        delivered if the reactor still runs, and their threads do not keep the
        process alive.

        @return: Deferred that fires with L{None}; it does not fail.
        """
        if self.running:
            super().stopService()
            self._draining = True
            if self._calls:
                self._deadline = self._reactor.callLater(self._stop_seconds, self._abandon)
            else:
                self._finish()
        if not self._draining:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._stop_waiters.append(waiter)
        return waiter

    def _delivered(self, call: WorkerCall, result: object) -> None:
        # Always in the reactor's thread, once for each call, cancelled or not.
        del self._calls[call]
        call.deliver(result)
        if self._draining and not self._calls:
            self._finish()

    def _finish(self) -> None:
        self._draining = False
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        self._close()
        self._fire_stop_waiters()

    def _abandon(self) -> None:
        self._log.error(
            "the pool {pool} still has {count} calls to finish after {seconds} s: "
            "leaving them behind",
            pool=self._label,
            count=len(self._calls),
            seconds=self._stop_seconds,
        )
        for call in tuple(self._calls):
            if call.work is not None:
                call.give_up(NotReady(f"the pool {self._label!r} stopped before this was done"))
        self._fire_stop_waiters()

    def _fire_stop_waiters(self) -> None:
        waiters, self._stop_waiters = self._stop_waiters, []
        for waiter in waiters:
            waiter.callback(None)

    @abstractmethod
    def _open(self) -> None:
        """Get ready for calls."""

    @abstractmethod
    def _submit(self, call: WorkerCall) -> None:
        """Make the call and hand its outcome to L{_delivered}, later."""

    @abstractmethod
    def _close(self) -> None:
        """Nothing is outstanding any more."""


class WorkerPool(AbstractWorkers):
    """
    A pool of its own threads: the reactor's pool also resolves names, which must not
    wait behind somebody's hashing.

    Threads are made when they are first needed, so after C{twistd} has forked.
    """

    _pool: ThreadPool

    def _open(self) -> None:
        # A ThreadPool cannot be started again once it was stopped.
        self._pool = ThreadPool(0, self._size, name=self._label)
        # Daemonic, as a stop is bounded even where a call is not.
        self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
        self._pool.start()

    def _submit(self, call: WorkerCall) -> None:
        def report(_succeeded: bool, result: object) -> None:
            self._reactor.callFromThread(self._delivered, call, result)

        self._pool.callInThreadWithCallback(report, call.make)

    def _close(self) -> None:
        self._pool.stop()


class InlineWorkers(AbstractWorkers):
    """
    Makes the calls in the reactor's thread, one in each delayed call, in order.

    For simulations and tests.  The size counts for the limit alone.
    """

    def _open(self) -> None:
        """Nothing to get ready."""

    def _submit(self, call: WorkerCall) -> None:
        self._reactor.callLater(0, self._perform, call)

    def _perform(self, call: WorkerCall) -> None:
        self._delivered(call, call.outcome())

    def _close(self) -> None:
        """Nothing to end."""
