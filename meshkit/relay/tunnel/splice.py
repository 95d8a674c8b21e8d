"""
Two streams made one: what comes on the one goes out on the other.

Nothing waits here.  Each side is a producer for the other: when the transport of a side has too
much that was not sent, the other side is not read, and so it goes on to whoever sends.  A side that
never reads costs what its transport holds, which is one read above its high-water mark.

B{Ending.}::

    what happens                            what follows
    --------------------------------------  --------------------------------------------------
    one side ends its direction             the other side's direction to its peer ends, after
                                            all that came; the way back stays open
    both have ended theirs, or one side is  both are closed, after all that came
    closed in good order
    one side breaks, or what it sends may   the other is aborted: to say goodbye to it would
    not be carried, or L{Splice.reset}      make a part look like the whole
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import MeshkitError


@implementer(IPushProducer)
class _Source:
    """What pauses and resumes one side on behalf of the other one's transport."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def pauseProducing(self) -> None:
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """The other side is gone: its own C{connectionLost} says how, and so what to do here."""


class SpliceSide:
    """One of the two.  Its protocol passes on to it what its transport tells."""

    def __init__(self, splice: Splice, transport: Any, from_second: bool) -> None:
        self._splice = splice
        self.transport = transport
        self.from_second = from_second
        self.ended = False
        self.lost = False

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._splice._carry(self, data)

    def read_lost(self) -> None:
        """Its peer has ended its direction."""
        self._splice._half_closed(self)

    def connection_lost(self, reason: Failure) -> None:
        """It is gone."""
        self._splice._lost(self, reason)


class Splice:
    """
    See the module.

    @ivar first: one side.
    @ivar second: the other.
    """

    def __init__(
        self,
        first: Any,
        second: Any,
        *,
        carry: Callable[[bool, int], None],
        on_end: Callable[[MeshkitError | None], None],
    ) -> None:
        """
        @param first: a transport that provides C{ITransport}, C{IConsumer}, C{IPushProducer},
            C{loseWriteConnection} and C{abortConnection}, as that of a secure channel does.
        @param second: likewise.
        @param carry: called with whether they come from the second, and their number, before
            bytes are passed on; what it raises of L{MeshkitError} resets both sides.
        @param on_end: called once, when the splice is over or was reset, with the reason for the
            latter.
        """
        self.first = SpliceSide(self, first, False)
        self.second = SpliceSide(self, second, True)
        self._carry_check = carry
        self._on_end = on_end
        self._ended = False

    def start(self) -> None:
        """From now on bytes are carried.  Nothing came before."""
        for side in (self.first, self.second):
            side.transport.registerProducer(_Source(self._other(side).transport), True)

    def reset(self, error: MeshkitError | None = None) -> None:
        """Cut both sides off: each sees that the stream is not whole."""
        if not self._ended:
            self._end(error)
            for side in (self.first, self.second):
                side.transport.abortConnection()

    def _other(self, side: SpliceSide) -> SpliceSide:
        return self.first if side is self.second else self.second

    def _carry(self, side: SpliceSide, data: bytes) -> None:
        if self._ended:
            return
        try:
            self._carry_check(side.from_second, len(data))
        except MeshkitError as error:
            self.reset(error)
            return
        self._other(side).transport.write(data)

    def _half_closed(self, side: SpliceSide) -> None:
        if self._ended:
            return
        other = self._other(side)
        # Nothing more comes for it; while a producer is registered its end is not sent.
        side.ended = True
        other.transport.unregisterProducer()
        other.transport.loseWriteConnection()
        if other.ended:
            # Both directions are over: streams that are no secure channels would stay.
            side.transport.loseConnection()
            other.transport.loseConnection()

    def _lost(self, side: SpliceSide, reason: Failure) -> None:
        side.lost = True
        other = self._other(side)
        self._end(None)
        if other.lost:
            return
        if reason.check(ConnectionDone):
            other.transport.unregisterProducer()
            other.transport.loseConnection()
        else:
            other.transport.abortConnection()

    def _end(self, error: MeshkitError | None) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(error)
