"""Deadlines, and work that goes on after who began it has gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import Overloaded, OverRate, StorageBusy, StoragePeerSilent

__all__ = ["Background", "Signal", "ask", "in_the_end", "never_cancelled", "over", "problem_of"]

T = TypeVar("T")

#: Who says that is asked again, after a pause of so many seconds, each twice as long as the
#: one before.
_BUSY: Final = (StorageBusy, Overloaded, OverRate)
FIRST_PAUSE: Final = 0.0625
LAST_PAUSE: Final = 1.0
#: Characters of what somebody else says that are shown.
_SHOWN: Final = 200


class _Call:
    """One question to a peer, see L{ask}."""

    def __init__(self, reactor: Any, seconds: float, call: Callable[[], Any]) -> None:
        self.outcome: Deferred[Any] = Deferred(self._cancelled)
        self._reactor = reactor
        self._seconds = seconds
        self._call = call
        self._answer: Deferred[Any] | None = None
        self._pause = FIRST_PAUSE
        self._again: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = reactor.callLater(seconds, self._late)
        self._ask()

    def _ask(self) -> None:
        self._again = None
        self._answer = maybeDeferred(self._call)
        self._answer.addCallbacks(self._end, self._failed)

    def _failed(self, failure: Failure) -> None:
        # What comes after the end is nobody's business any more.
        if self._deadline is not None:
            if failure.check(*_BUSY):
                self._again = self._reactor.callLater(self._pause, self._ask)
                self._pause = min(LAST_PAUSE, 2 * self._pause)
            else:
                self._end(failure)

    def _end(self, result: Any) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            if deadline.active():
                deadline.cancel()
            if not self.outcome.called:
                self.outcome.callback(result)

    def _stop(self) -> None:
        if self._again is not None:
            self._again.cancel()
        if self._answer is not None:
            self._answer.cancel()

    def _cancelled(self, _outcome: Deferred[Any]) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()
        self._stop()

    def _late(self) -> None:
        self._deadline = None
        self._stop()
        seconds = self._seconds
        error = StoragePeerSilent(f"the storage peer did not answer within {seconds:g} seconds")
        self.outcome.errback(error)


def ask(reactor: Any, seconds: float, call: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """
    Ask a peer, within a deadline, and again as long as it says that it is busy.

    @param reactor: C{IReactorTime}.
    @param call: a method of L{meshkit.interfaces.IStoragePeer}.
    @return: Deferred of its answer.  Fails with L{StoragePeerSilent} when the deadline has
        passed; the call is cancelled then, and need not heed it.
    """
    return _Call(reactor, seconds, lambda: call(*args)).outcome


def problem_of(failure: Failure) -> str:
    """@return: what went wrong, in a few words for people."""
    text = str(failure.value) or type(failure.value).__name__
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def never_cancelled(deferred: Deferred[T]) -> Deferred[T]:
    """@return: what fires when C{deferred} does; to cancel it does nothing to that."""
    waiter: Deferred[T] = Deferred()

    def deliver(result: Any) -> None:
        if not waiter.called:
            waiter.callback(result)

    deferred.addBoth(deliver)
    return waiter


def over(deferred: Deferred[Any]) -> Deferred[None]:
    """
    @return: what fires when C{deferred} has, whatever came of it; to cancel it does nothing to
        that.  Others still get what came of it.
    """
    waiter: Deferred[None] = Deferred()

    def pass_on(result: Any) -> Any:
        if not waiter.called:
            waiter.callback(None)
        return result

    deferred.addBoth(pass_on)
    return waiter


async def in_the_end(work: Awaitable[T], end: Callable[[], Awaitable[Any]]) -> T:
    """
    As C{finally} with something to wait for in it, except if the whole is thrown away: nothing
    can be waited for then.

    @param end: is called after C{work}, whatever came of it, and is not cancelled.
    @return: what C{work} gives.
    """

    async def run() -> None:
        await end()

    try:
        result = await work
    except GeneratorExit:
        raise
    except BaseException:
        await never_cancelled(Deferred.fromCoroutine(run()))
        raise
    await never_cancelled(Deferred.fromCoroutine(run()))
    return result


class Signal:
    """Something to wait for, one at a time, that happens again and again."""

    def __init__(self) -> None:
        self._waiter: Deferred[None] | None = None
        self._set = False

    def set(self) -> None:
        """It has happened."""
        self._set = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._set = False
            waiter.callback(None)

    def wait(self) -> Deferred[None]:
        """@return: Deferred that fires when it has happened since the last time."""
        waiter: Deferred[None] = Deferred(self._cancelled)
        if self._set:
            self._set = False
            waiter.callback(None)
        else:
            self._waiter = waiter
        return waiter

    def _cancelled(self, _waiter: Deferred[None]) -> None:
        self._waiter = None


class Background:
    """Calls that nobody waits for, but the end."""

    _log = Logger()

    def __init__(self) -> None:
        self._running: dict[Deferred[Any], None] = {}

    def add(self, deferred: Deferred[Any]) -> None:
        """
        @param deferred: has a deadline of its own.  That it fails is told at the level debug.
        """

        def ended(result: Any) -> None:
            del self._running[deferred]
            if isinstance(result, Failure) and not result.check(CancelledError):
                self._log.debug("in the background: {problem}", problem=problem_of(result))

        self._running[deferred] = None
        deferred.addBoth(ended)

    def quiet(self) -> Deferred[Any]:
        """@return: Deferred that fires when all of them have ended."""
        return DeferredList([never_cancelled(each) for each in tuple(self._running)])
