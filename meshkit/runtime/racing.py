"""Asking several peers for pieces of the same, and one more when somebody is late."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from meshkit.runtime.waiting import Signal
from meshkit.storage.hedging import Race, Runner

__all__ = ["Racing"]


class Racing:
    """
    A L{Race} that is run: asks whom it names, when it is time.

    @ivar pieces: what came, by who gave it, and was not found wrong.
    """

    def __init__(
        self,
        reactor: Any,
        race: Race,
        ask: Callable[[Runner], Deferred[Any]],
        failed: Callable[[Runner, Failure], object],
    ) -> None:
        """
        @param reactor: C{IReactorTime}.
        @param race: that has not started.  It starts now.
        @param ask: asks for a piece, within a deadline, and may be cancelled.
        @param failed: is told who gave none, and why.
        """
        self.pieces: dict[Runner, Any] = {}
        self._reactor = reactor
        self._race = race
        self._ask_one = ask
        self._tell = failed
        self._calls: dict[Runner, Deferred[Any]] = {}
        self._changed = Signal()
        self._timer: IDelayedCall | None = None
        self._over = False
        self._ask(race.start(self._now()))

    def _now(self) -> float:
        now: float = self._reactor.seconds()
        return now

    async def chosen(self) -> dict[int, Runner] | None:
        """
        Wait until there are enough pieces to try.

        @return: by share, whose piece is to be used; L{None} if there cannot be enough.
        """
        while not self._race.ready:
            if self._race.hopeless:
                return None
            await self._changed.wait()
        return self._race.chosen()

    def wrong(self, runners: Iterable[Runner]) -> None:
        """These have given pieces that are not what they should be: ask others instead."""
        runners = tuple(runners)
        for runner in runners:
            del self.pieces[runner]
        self._ask(self._race.wrong(runners, self._now()))

    def leave(self) -> None:
        """No more is needed.  What is under way is cancelled."""
        self._over = True
        self._watch()
        for runner in self._race.leave(self._now()):
            self._calls[runner].cancel()

    def _ask(self, runners: Sequence[Runner]) -> None:
        for runner in runners:
            self._ask_for(runner)
        self._watch()

    def _ask_for(self, runner: Runner) -> None:
        def arrived(piece: Any) -> None:
            self.pieces[runner] = piece
            self._race.arrived(runner, self._now())

        def failed(failure: Failure) -> None:
            if not self._over and not failure.check(CancelledError):
                self._tell(runner, failure)
                self._ask(self._race.failed(runner, self._now()))

        call = self._calls[runner] = self._ask_one(runner)
        call.addCallbacks(arrived, failed).addBoth(lambda _: self._changed.set())

    def _watch(self) -> None:
        """Look again when somebody is late."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        due = self._race.due(self._now())
        self._timer = None
        if due is not None and not self._over:
            self._timer = self._reactor.callLater(max(0, due - self._now()), self._late)

    def _late(self) -> None:
        self._ask(self._race.late(self._now()))
