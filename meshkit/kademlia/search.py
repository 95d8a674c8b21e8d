"""
One lookup under way: puts the questions of a L{Lookup} to nodes, and tells it what comes.

Each question ends, one way or the other, because whoever puts it has a deadline for all that
it takes.  What a lookup has asked and does not wait for any more when it ends goes on to its
own end, so that the routing table learns whether those nodes are there; if the lookup is
cancelled, it ends with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import MeshkitError
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.lookup import Ask, Lookup
from meshkit.kademlia.protocol import Answer
from meshkit.kademlia.records import Record

T = TypeVar("T")

#: Seconds after which others are asked meanwhile.
LATE: Final = 1.0

#: Seconds after which a lookup ends with what it has.  Those who answer need a few; nodes that
#: are silent, and named by liars, could hold it up for minutes.
DEADLINE: Final = 60.0

#: A lookup whose values are the records that one node has given.
Records = tuple[Record, ...]


class Search:
    """
    See the module.

    @ivar lookup: what it drives.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        lookup: Lookup[Records],
        ask: Callable[[Ask], Deferred[Answer]],
        answered: Callable[[Contact], None],
        failed: Callable[[Contact, Failure], None],
        quiet: Callable[[Search], None],
    ) -> None:
        """
        @param ask: puts a question; what it gives fires within bounded time.
        @param answered: told of each node that has answered.
        @param failed: told of each that has not, and why.
        @param quiet: called once, when nothing is in flight any more.
        """
        self.lookup = lookup
        self._reactor = reactor
        self._ask = ask
        self._answered_by = answered
        self._failed_by = failed
        self._quiet = quiet
        self._done: Deferred[Lookup[Records]] = Deferred(self._cancel)
        # What is in flight, and since when, the oldest first.
        self._flying: dict[Deferred[Answer], tuple[Ask, float]] = {}
        self._fresh: deque[Deferred[Answer]] = deque()
        self._todo: deque[Ask] = deque()
        self._sending = False
        self._late_due: IDelayedCall | None = None
        self._end_due: IDelayedCall | None = None
        self._told_quiet = False
        self._abandoned = False

    def start(self) -> Deferred[Lookup[Records]]:
        """
        @return: Deferred of the lookup, when it has come to its end, within L{DEADLINE}; it does
            not fail.  Cancelling it ends it, and all that it has in flight.
        """
        self._end_due = self._reactor.callLater(DEADLINE, self._out_of_time)
        self._send(self.lookup.start())
        return self._done

    def _out_of_time(self) -> None:
        self._end_due = None
        self._todo.clear()
        self.lookup.cancel()
        self._send([])

    def abandon(self) -> None:
        """
        End what is in flight, also what nobody waits for.  If somebody waits, that fails with
        L{CancelledError}.
        """
        self._abandoned = True
        self.lookup.cancel()
        self._todo.clear()
        for deferred in list(self._flying):
            deferred.cancel()
        self._send([])
        if not self._done.called:
            self._done.errback(CancelledError())

    def _cancel(self, _: Deferred[Lookup[Records]]) -> None:
        self.abandon()

    # --- asking -----------------------------------------------------------------------------

    def _send(self, asks: list[Ask]) -> None:
        # A question that fails at once comes back in here: not deeper, but later.
        self._todo.extend(asks)
        if self._sending:
            return
        self._sending = True
        try:
            while self._todo:
                self._put(self._todo.popleft())
        finally:
            self._sending = False
        if self.lookup.finished:
            self._end()
        else:
            self._watch()

    def _put(self, ask: Ask) -> None:
        if self.lookup.finished:
            return
        deferred = self._ask(ask)
        self._flying[deferred] = (ask, self._reactor.seconds())
        self._fresh.append(deferred)
        deferred.addCallbacks(
            self._answered,
            self._failed,
            callbackArgs=(deferred, ask),
            errbackArgs=(deferred, ask),
        )
        # A mistake of ours must not leave whoever waits waiting.
        deferred.addErrback(self._bug)

    def _answered(self, answer: Answer, deferred: Deferred[Answer], ask: Ask) -> None:
        del self._flying[deferred]
        self._answered_by(answer.contact)
        value = answer.records if answer.records and ask.target == self.lookup.target else None
        self._send(
            self.lookup.answered(answer.contact, answer.named, value, refused=answer.refused)
        )

    def _failed(self, failure: Failure, deferred: Deferred[Answer], ask: Ask) -> None:
        del self._flying[deferred]
        if not failure.check(CancelledError):
            self._failed_by(ask.contact, failure)
            if not failure.check(MeshkitError, OSError) and not _is_network(failure):
                self._log.failure("asking a node failed", failure)
        self._send(self.lookup.failed(ask.contact))

    def _bug(self, failure: Failure) -> None:
        self._log.failure("a lookup broke", failure)
        self.lookup.cancel()
        if not self._done.called:
            self._done.errback(failure)
        self.abandon()

    # --- waiting ----------------------------------------------------------------------------

    def _watch(self) -> None:
        """See that those that take long are told to the lookup."""
        while self._fresh and self._fresh[0] not in self._flying:
            self._fresh.popleft()
        if self._fresh and self._late_due is None:
            since = self._flying[self._fresh[0]][1]
            wait = max(0.0, since + LATE - self._reactor.seconds())
            self._late_due = self._reactor.callLater(wait, self._look_for_late)

    def _look_for_late(self) -> None:
        self._late_due = None
        before = self._reactor.seconds() - LATE
        asks: list[Ask] = []
        while self._fresh:
            found = self._flying.get(self._fresh[0])
            if found is not None:
                ask, since = found
                if since > before + 0.001:
                    break
                asks += self.lookup.late(ask.contact)
            self._fresh.popleft()
        self._send(asks)

    def _end(self) -> None:
        if self._late_due is not None:
            self._late_due.cancel()
            self._late_due = None
        if self._end_due is not None:
            self._end_due.cancel()
            self._end_due = None
        self._fresh.clear()
        self._todo.clear()
        if not self._flying and not self._told_quiet:
            self._told_quiet = True
            self._quiet(self)
        if not self._done.called and not self._abandoned:
            self._done.callback(self.lookup)


def together(deferreds: Iterable[Deferred[T]]) -> Deferred[list[T]]:
    """
    @return: Deferred of what all of them give, in order.  It fails with what the first fails
        with that does.  Cancelling it cancels all of them, and fails with L{CancelledError}.
    """

    def first(failure: Failure) -> Failure:
        error = failure.value
        return error.subFailure if isinstance(error, FirstError) else failure

    return gatherResults(deferreds, consumeErrors=True).addErrback(first)


def _is_network(failure: Failure) -> Any:
    """Is it one of Twisted's own errors of connections?"""
    return type(failure.value).__module__.startswith("twisted.internet")
