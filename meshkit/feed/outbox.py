"""
The line in which this node's own messages wait to be numbered, signed and stored.

A job of the database costs a savepoint and half a dozen statements, and SQLite lets the
GIL go at each: while the reactor is busy answering others, every one of them waits for it
anew.  So all that comes while a job is being written goes into the next one together, and
costs these once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from meshkit.errors import Overloaded
from meshkit.feed.canonical import Prepared
from meshkit.feed.message import Message
from meshkit.feed.repeats import Before, Named

#: No further entry joins a job that has this many messages.
MAX_TOGETHER: Final = 1_000
#: Entries that may wait.
MAX_WAITING: Final = 10_000


@define(eq=False)
class Entry:
    """
    Messages that are published together: all of them, or none.

    @ivar contents: one or more.
    @ivar sign: makes a message of a content; see L{meshkit.feed.message.sign_message}.
    @ivar named: what its publisher may ask for again.
    @ivar warnings: what is said beside its answer, also if it is asked for again.
    @ivar stored: what the publisher waits for.
    """

    contents: Sequence[Prepared]
    sign: Callable[..., Message]
    named: Named | None = None
    warnings: Sequence[str] = ()
    since: float = 0.0
    stored: Deferred[list[Message] | Before] = field(factory=Deferred)


#: The messages that became of an entry, or had become of it before, or why there are none.
Outcome = list[Message] | Before | Exception


class Outbox:
    """See the module.  For the reactor's thread alone."""

    def __init__(
        self,
        write: Callable[[Sequence[Entry]], Deferred[list[Outcome]]],
        seconds: Callable[[], float] = lambda: 0.0,
        took: Callable[[float, float], None] = lambda waiting, writing: None,
    ) -> None:
        """
        @param write: signs and stores entries in one job, and gives the outcome of each.
        @param seconds: the clock.
        @param took: told of each entry how long it stood in line, and how long its job took
            then.
        """
        self._seconds = seconds
        self._took = took
        self._write = write
        self._line: deque[Entry] = deque()
        self._writing = False

    def add(
        self,
        contents: Sequence[Prepared],
        sign: Callable[..., Message],
        named: Named | None = None,
        warnings: Sequence[str] = (),
    ) -> Deferred[list[Message] | Before]:
        """
        Take the next place in line.

        @return: Deferred of the messages, fired when they are on the disk, or of what came
            of the same request before.  Fails with what C{sign} raised, with
            L{meshkit.errors.KeyReused}, with L{Overloaded} if L{MAX_WAITING} entries wait
            already, or if the job could not be written.  It is not for cancelling.
        """
        if len(self._line) >= MAX_WAITING:
            return fail(
                Overloaded(f"{MAX_WAITING} messages wait to be published: try again in a moment")
            )
        entry = Entry(contents, sign, named, warnings, self._seconds())
        self._line.append(entry)
        self._next_job()
        return entry.stored

    @property
    def waiting(self) -> int:
        """How many entries stand in line."""
        return len(self._line)

    def _next_job(self) -> None:
        if self._writing or not self._line:
            return
        entries: list[Entry] = []
        messages = 0
        while self._line and messages < MAX_TOGETHER:
            entry = self._line.popleft()
            entries.append(entry)
            messages += len(entry.contents)
        self._writing = True
        self._write(entries).addBoth(self._job_done, entries, self._seconds())

    def _job_done(
        self, result: list[Outcome] | Failure, entries: Sequence[Entry], began: float
    ) -> None:
        self._writing = False
        ended = self._seconds()
        # The next job first: the disk can work while the callbacks below are run.
        self._next_job()
        outcomes: Sequence[Any] = [result] * len(entries) if isinstance(result, Failure) else result
        for entry, outcome in zip(entries, outcomes, strict=True):
            self._took(began - entry.since, ended - began)
            # A Failure and an exception both take the way of errors.
            entry.stored.callback(Failure(outcome) if isinstance(outcome, Exception) else outcome)
