"""
The line in which received pages wait to be stored: checked in any order, stored in theirs.

Several threads check pages at the same time and finish them in any order.  A page that
were stored before the one it follows would leave a gap, and each of its messages would
cost look-ups and be joined to the feed later; here it waits instead.

All that is checked when the database is free again becomes one job.  A job is a
savepoint, and FTS5 writes its index out at each: a thousand messages in one job take
about half the time that they take in jobs of seventy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshkit.errors import MeshkitError
from meshkit.feed.chain import Verdict
from meshkit.feed.message import Message

Checked = Sequence[Message | MeshkitError]

#: A job with fewer messages waits for the pages that are being checked meanwhile.
MIN_TOGETHER: Final = 256
#: No further page joins a job that has this many messages.
MAX_TOGETHER: Final = 1_000


@define(eq=False)
class _Page:
    """
    @ivar checked: L{None} while a thread is at it.
    @ivar stored: what the giver of the page waits for.
    """

    checked: Checked | None = None
    stored: Deferred[list[Verdict]] = field(factory=Deferred)


class Queue:
    """
    The calls that wait until the threads have room for them, first come, first served.

    The threads refuse calls beyond a limit.  That many pages come at once is no reason
    to refuse any of them, so only a few are in the threads' hands at a time.  For the
    reactor's thread alone.
    """

    def __init__(self, run: Callable[..., Deferred[Any]], limit: int) -> None:
        """
        @param run: makes a call.
        @param limit: how many calls are made at the same time.
        """
        self._run = run
        self._limit = limit
        self._waiting: deque[tuple[tuple[Any, ...], Deferred[Any]]] = deque()
        self._running = 0
        self._starting = False

    def run(self, *args: Any) -> Deferred[Any]:
        """@return: Deferred of what the call gives.  It is not for cancelling."""
        deferred: Deferred[Any] = Deferred()
        self._waiting.append((args, deferred))
        self._start()
        return deferred

    def _start(self) -> None:
        # A call that fails at once comes back here: the loop goes on, not the stack.
        if self._starting:
            return
        self._starting = True
        try:
            while self._waiting and self._running < self._limit:
                args, deferred = self._waiting.popleft()
                self._running += 1
                self._run(*args).addBoth(self._finished, deferred)
        finally:
            self._starting = False

    def _finished(self, result: object, deferred: Deferred[Any]) -> None:
        self._running -= 1
        self._start()
        if isinstance(result, Failure):
            deferred.errback(result)
        else:
            deferred.callback(result)


class Intake:
    """
    See the module.  For the reactor's thread alone.

    How much stands in line is for those who give pages to bound; each of them knows
    whom to hold up.
    """

    def __init__(self, store: Callable[[Checked], Deferred[list[Verdict]]]) -> None:
        """
        @param store: stores messages, and gives one verdict for each.
        """
        self._store = store
        self._line: deque[_Page] = deque()
        self._storing = False

    def add(self, checking: Deferred[list[Message | MeshkitError]]) -> Deferred[list[Verdict]]:
        """
        Take the next place in line.

        @param checking: a page that is being checked.
        @return: Deferred of the page's verdicts, fired when what was accepted of it is
            stored.  Fails if C{checking} does, or storing the job that it is a part of.
            It is not for cancelling.
        """
        page = _Page()
        self._line.append(page)
        checking.addCallbacks(self._checked, self._not_checked, (page,), errbackArgs=(page,))
        return page.stored

    def _checked(self, checked: Checked, page: _Page) -> None:
        page.checked = checked
        self._next_job()

    def _not_checked(self, reason: Failure, page: _Page) -> None:
        self._line.remove(page)
        page.stored.errback(reason)
        self._next_job()

    def _next_job(self) -> None:
        """Store the pages at the head of the line that are checked."""
        if self._storing:
            return
        pages: list[_Page] = []
        together: list[Message | MeshkitError] = []
        for page in self._line:
            if page.checked is None and len(together) < MIN_TOGETHER:
                return
            if page.checked is None or len(together) >= MAX_TOGETHER:
                break
            pages.append(page)
            together.extend(page.checked)
        if pages:
            for _ in pages:
                self._line.popleft()
            self._storing = True
            self._store(together).addBoth(self._job_done, pages)

    def _job_done(self, result: list[Verdict] | Failure, pages: Sequence[_Page]) -> None:
        self._storing = False
        # The next job first: the disk can work while the callbacks below are run.
        self._next_job()
        if isinstance(result, Failure):
            for page in pages:
                page.stored.errback(result)
            return
        verdicts = iter(result)
        for page in pages:
            page.stored.callback([*islice(verdicts, len(page.checked or ()))])
