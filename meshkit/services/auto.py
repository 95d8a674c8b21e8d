"""
The door's endpoint C{auto}: a free port of this machine, and the same one next time.

A program that was told the address once, such as an agent with an URL in its settings, finds
the door again after a restart, unless somebody else has taken the port meanwhile.  Nobody can
rely on that; what is true now stands in the endpoint file.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorTCP,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.runtime.folder import DataFolder

__all__ = ["AUTO_DOOR", "AutoEndpoint"]

#: Value of the setting C{api} for a port that is found.
AUTO_DOOR: Final = "auto"
_LOOPBACK: Final = "127.0.0.1"


@implementer(IStreamServerEndpoint)
@frozen
class AutoEndpoint:
    """
    Listens on the loopback port that it listened on last time; if that is taken, or it is the
    first time, on any free one.

    @ivar folder: where the port is remembered; it has to be ours.
    """

    reactor: IReactorTCP
    folder: DataFolder

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """@return: Deferred that fires at once, with the port or L{CannotListenError}."""

        def listen(port: int) -> Deferred[IListeningPort]:
            endpoint = TCP4ServerEndpoint(self.reactor, port, interface=_LOOPBACK)
            listening: Deferred[IListeningPort] = endpoint.listen(protocolFactory)
            return listening

        def taken(failure: Failure) -> Deferred[IListeningPort]:
            failure.trap(CannotListenError)
            return listen(0)

        last = self.folder.last_port()
        return listen(last).addErrback(taken).addCallback(self._remember, last)

    def _remember(self, listening: IListeningPort, last: int) -> IListeningPort:
        host: Any = listening.getHost()
        if host.port != last:
            self.folder.remember_port(host.port)
        return listening
