"""
Is a node alive, and is it ready?  For systemd, containers and whoever watches over it.

B{Alive} is a node whose event loop turns, which the answer shows, and whose database takes
a job within L{PATIENCE}.  If it is not, starting it again may help.  B{Ready} is one whose
parts are all started, and which is not stopping: it can be sent requests.

Both are answered to anybody who can reach the door, so they tell nothing but that; and
however many ask, the database is asked once at a time, and no more than once in
L{LASTING}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from meshkit.errors import MeshkitError, NotReady, Unhealthy
from meshkit.operations import Nothing
from meshkit.services import operations as offered

#: Seconds in which the database has to take a job.
PATIENCE: Final = 5.0
#: Seconds for which its answer is good.
LASTING: Final = 1.0


@frozen
class Progress:
    """
    How far a node has come.

    @ivar ready: all parts are started, and it is not stopping.
    @ivar started: the parts that are started, in the order in which they were.
    @ivar awaiting: the part that is being started; C{node} for the node itself; L{None} if
        nothing is.
    @ivar stopping: it is on its way out.
    """

    ready: bool
    started: list[str]
    awaiting: str | None
    stopping: bool


class Health:
    """See the module.  For the reactor's thread."""

    def __init__(
        self, clock: IReactorTime, database: Any, progress: Callable[[], Progress]
    ) -> None:
        """
        @param database: L{meshkit.runtime.database.Database}.
        @param progress: says how far the node has come.
        """
        self._clock = clock
        self._database = database
        self._progress = progress
        self._asked = float("-inf")
        self._problem: str | None = None
        self._waiting: list[Deferred[None]] | None = None

    async def answer_health(self, request: Nothing) -> offered.NodeHealth:
        """@raise Unhealthy: if the database does not take a job in time."""
        if self._waiting is not None or self._clock.seconds() - self._asked >= LASTING:
            await self._ask()
        if self._problem is not None:
            raise Unhealthy(f"the database {self._problem}")
        return offered.NodeHealth(alive=True)

    def answer_ready(self, request: Nothing) -> offered.NodeReadiness:
        """@raise NotReady: naming the part that is being started."""
        progress = self._progress()
        if progress.stopping:
            stopping = NotReady("the node is stopping")
            stopping.details = {"stopping": True}
            raise stopping
        if not progress.ready:
            starting = NotReady(f"the node is starting: {progress.awaiting} is not ready yet")
            starting.details = {"awaiting": progress.awaiting, "started": progress.started}
            raise starting
        return offered.NodeReadiness(ready=True, started=progress.started)

    def _ask(self) -> Deferred[None]:
        """@return: Deferred that fires when it is known whether the database answers."""
        asked: Deferred[None] = Deferred()
        if self._waiting is not None:
            self._waiting.append(asked)
            return asked
        self._waiting = [asked]
        # Nothing is written, so that nothing has to be synced, but by the thread that writes.
        answer: Deferred[Any] = self._database.write(_nothing)
        answer.addTimeout(PATIENCE, self._clock)
        answer.addCallbacks(lambda _: None, _problem_of).addCallback(self._answered)
        return asked

    def _answered(self, problem: str | None) -> None:
        self._asked, self._problem = self._clock.seconds(), problem
        waiting, self._waiting = self._waiting or [], None
        for asked in waiting:
            # Whoever has gone away was cancelled.
            if not asked.called:
                asked.callback(None)


def _nothing(connection: Any) -> None:
    pass


def _problem_of(failure: Any) -> str:
    if failure.check(TimeoutError):
        return f"has not taken a job within {PATIENCE:g} s"
    failure.trap(MeshkitError)
    return f"does not take a job: {failure.getErrorMessage()}"
