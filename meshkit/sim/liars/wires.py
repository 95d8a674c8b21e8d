"""
Standing between a secure channel and its connection: what goes out can be cut short, kept
and changed there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from meshkit.sim.liars.liar import Liar

__all__ = ["Wire", "WiredEndpoint", "WiredFactory"]


class Wire(ProtocolWrapper):
    """
    One connection beneath a secure channel.

    @ivar dialled: we have opened it.
    @ivar way: how the liar lies on it.
    @ivar liar: whose it is.
    @ivar limit: bytes that go out in all; what comes beyond is held back for ever, which
        is a lie.
    """

    def __init__(self, factory: Any, inner: Any, dialled: bool, way: str, liar: Liar) -> None:
        super().__init__(factory, inner)
        self.dialled = dialled
        self.way = way
        self.liar = liar
        self.limit: int | None = None
        self._sent = 0
        self._cut = False

    def makeConnection(self, transport: Any) -> None:
        # The channel says hello as soon as it has a transport.
        self.transport = transport
        self.liar.wired(self)
        super().makeConnection(transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.liar.unwired(self)
        super().connectionLost(reason)

    def write(self, data: bytes) -> None:
        """Send, as far as the limit goes."""
        if self.limit is not None and self._sent + len(data) > self.limit:
            data = data[: max(0, self.limit - self._sent)]
            if not self._cut and self.limit:
                self._cut = True
                self.liar.lied(self.way)
        if data:
            self._sent += len(data)
            super().write(data)


@implementer(IProtocolFactory)
class WiredFactory:
    """Puts a L{Wire} beneath each protocol of another factory."""

    def __init__(self, inner: Any, liar: Liar, dialled: bool) -> None:
        self._inner = inner
        self._liar = liar
        self._dialled = dialled

    def doStart(self) -> None:
        self._inner.doStart()

    def doStop(self) -> None:
        self._inner.doStop()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        built = self._inner.buildProtocol(addr)
        return None if built is None else self._liar.make_wire(self, built, self._dialled)

    # What ProtocolWrapper tells its factory.

    def registerProtocol(self, wire: Wire) -> None:
        """The liar knows it already."""

    def unregisterProtocol(self, wire: Wire) -> None:
        """The liar knows it already."""


@implementer(IStreamClientEndpoint)
class WiredEndpoint:
    """Puts a L{Wire} on each connection of another endpoint."""

    def __init__(self, inner: Any, liar: Liar) -> None:
        self._inner = inner
        self._liar = liar

    def connect(self, protocolFactory: Any) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = self._inner.connect(
            WiredFactory(protocolFactory, self._liar, True)
        )
        return connecting
