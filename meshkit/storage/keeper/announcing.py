"""Telling the network, by its hash table, that this node is a storage peer."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import MeshkitError, NotFound

#: Seconds until it is tried again if nobody has taken the record, at first and at most.
FIRST_PAUSE: Final = 5.0
LAST_PAUSE: Final = 300.0


class Announcer:
    """
    Says that this node provides some content, as long as it is to.

    Once somebody has the record, the hash table goes on publishing it by itself.  Until then it
    is tried again and again: a node that has just started may know nobody.

    @ivar accepted: how many nodes have it, as far as is known; L{None} if it is not to be said.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, table: Any, content: bytes) -> None:
        """
        @param table: L{IHashTable <meshkit.interfaces.IHashTable>}; L{None}, and nothing is said.
        @param content: a content id.
        """
        self._reactor = reactor
        self._table = table
        self._content = content
        self._pause = FIRST_PAUSE
        self._due: IDelayedCall | None = None
        self._asked: Deferred[None] | None = None
        self._wanted: bool | None = None
        self.accepted: int | None = None

    def say(self, wanted: bool) -> None:
        """
        @param wanted: is it to be said from now on?  If not, what was published before is taken
            back, by this or an earlier run.  Nothing happens if it was so already.
        """
        if self._table is None or wanted is self._wanted:
            return
        self._rest()
        self._wanted = wanted
        self._pause = FIRST_PAUSE
        self.accepted = 0 if wanted else None
        self._work()

    def stop(self) -> None:
        """Do nothing any more.  What was published stays so."""
        self._rest()
        self._wanted = self.accepted = None

    def _rest(self) -> None:
        due, self._due = self._due, None
        if due is not None:
            due.cancel()
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.cancel()

    def _work(self) -> None:
        self._due = None
        if self._wanted:
            asked = self._table.provide(self._content)
        else:
            asked = self._table.withdraw("provider", self._content)
        # Before it is looked at, as it may have fired.
        self._asked = asked
        asked.addCallbacks(self._done, self._failed)

    def _done(self, placed: Any) -> None:
        self._asked = None
        if self._wanted:
            self.accepted = placed.accepted
            if not placed.accepted:
                self._again()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        self._asked = None
        if not self._wanted and failure.check(NotFound):
            # There was nothing to take back.
            return
        if failure.check(MeshkitError):
            self._log.info(
                "the hash table does not know yet whether this is a storage peer: {error}",
                error=str(failure.value),
            )
        else:
            self._log.failure("announcing this storage peer failed", failure)
        self._again()

    def _again(self) -> None:
        self._due = self._reactor.callLater(self._pause, self._work)
        self._pause = min(2 * self._pause, LAST_PAUSE)
