"""
Verifying what others have signed, without holding up the reactor.

A record takes a tenth of a millisecond, one with an address in it three tenths, and a request
may bring two hundred of them.  So many are verified in steps, with a turn of the reactor
between them.  (Threads were tried.  It took half as long again, as much of the work is
Python's, and the reactor waited for the interpreter for longer than a step takes.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from meshkit.errors import RecordError
from meshkit.kademlia.records import Record

#: Records that are verified in one go.
STEP: Final = 8

#: What came of a record.
Opened = Record | RecordError


class Opener:
    """See the module."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor

    def open(
        self, raws: Sequence[bytes], verify: Callable[[bytes], Record]
    ) -> Deferred[list[Opened]]:
        """
        @param verify: verifies one; raises L{RecordError <meshkit.errors.RecordError>}.
        @return: Deferred of what came of each, in order.  If there are at most L{STEP} it has
            fired already.  It fails with what C{verify} raises besides.  Cancelling it leaves
            the rest undone.
        """
        if len(raws) <= STEP:
            return succeed([_open(raw, verify) for raw in raws])
        return Deferred.fromCoroutine(self._open_many(raws, verify))

    async def _open_many(
        self, raws: Sequence[bytes], verify: Callable[[bytes], Record]
    ) -> list[Opened]:
        found: list[Opened] = []
        for at, raw in enumerate(raws):
            if at and at % STEP == 0:
                await self._turn()
            found.append(_open(raw, verify))
        return found

    async def _turn(self) -> None:
        """Let others have theirs."""
        turn: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self._reactor.callLater(0, turn.callback, None)
        await turn


def _open(raw: bytes, verify: Callable[[bytes], Record]) -> Opened:
    try:
        return verify(raw)
    except RecordError as e:
        return e
