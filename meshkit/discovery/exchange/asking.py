"""
One conversation with a peer: greet it, ask it where others are, hang up.

A peer is asked now and then, so no connection is kept.  How many conversations there may be at a
time is bounded, and each has a deadline.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as GivenUp
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IAddress

from meshkit.discovery.exchange.wire import FIND, GREET, LABEL, VERSION, Find, Greeting
from meshkit.errors import MeshkitError, PeerUnreachable
from meshkit.identity.addresses import HostPort, MeshAddress, PeerAddress
from meshkit.interfaces import IConnections
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory, RPCProtocol

__all__ = ["UNREACHED", "Asking", "Told", "place_of"]

#: Seconds until a peer has proved its key, and until it has answered.
DIAL: Final = 8.0
ANSWER: Final = 8.0
#: Conversations at a time.
AT_A_TIME: Final = 16

#: What comes of a peer that is not there, or does not talk.
UNREACHED: Final = (MeshkitError, ConnectError, ConnectionClosed, OSError, GivenUp)


@frozen
class Told:
    """
    What a peer has said.

    @ivar address: where it was dialled.
    @ivar place: the same as an IP address and a port, if it is one.
    @ivar record: its own address record; empty if it has none.
    @ivar round_trip: seconds from our greeting to its own.
    @ivar records: of those who were asked for, as they were given.
    """

    address: MeshAddress
    place: HostPort | None
    record: bytes
    round_trip: float
    records: tuple[bytes, ...] = ()

    @property
    def host(self) -> str:
        """Where it was reached, an IP address; empty if that is not known, as through a relay."""
        return "" if self.place is None else self.place.host


def place_of(address: IAddress | None) -> HostPort | None:
    """@return: where the other end of a channel is, as an IP address and a port."""
    inner = address.inner if isinstance(address, PeerAddress) else address
    if isinstance(inner, (IPv4Address, IPv6Address)):
        return HostPort(inner.host.partition("%")[0], inner.port)
    return None


class Asking:
    """See the module."""

    def __init__(
        self,
        reactor: Any,
        connections: IConnections,
        dispatcher: Dispatcher,
        limit: int = AT_A_TIME,
    ) -> None:
        """@param dispatcher: what the peer may ask us meanwhile."""
        self._reactor = reactor
        self._connections = connections
        self._dispatcher = dispatcher
        self._room = DeferredSemaphore(limit)
        self.dialled = 0

    async def ask(
        self, address: MeshAddress, own: bytes, find: Find | None = None, *, direct: bool = False
    ) -> Told:
        """
        Have a conversation.

        @param direct: at that address, and not through relays if nobody answers there.
        @param own: our address record; empty if there is none.
        @param find: what to ask besides.
        @raise Exception: one of L{UNREACHED}, if the peer is not there, or does not talk.
        """
        await self._room.acquire()
        try:
            return await self._ask(address, own, find, direct)
        finally:
            self._room.release()

    async def _ask(self, address: MeshAddress, own: bytes, find: Find | None, direct: bool) -> Told:
        self.dialled += 1
        connection = await self._dial(address, direct)
        try:
            place = place_of(connection.connected_to)
            began = self._reactor.seconds()
            greeted = await connection.call(GREET, Greeting(own), timeout=ANSWER)
            round_trip = self._reactor.seconds() - began
            found: list[bytes] = []
            if find is not None:
                found = (await connection.call(FIND, find, timeout=ANSWER)).records
            return Told(address, place, greeted.record, round_trip, tuple(found))
        finally:
            connection.close()

    async def _dial(self, address: MeshAddress, direct: bool) -> RPCProtocol:
        endpoint = self._connections.endpoint(address, LABEL, VERSION, direct=direct)
        connecting: Deferred[Any] = endpoint.connect(RPCFactory(self._reactor, self._dispatcher))
        connecting.addTimeout(DIAL, self._reactor, _too_late)
        connection: RPCProtocol = await connecting
        return connection


def _too_late(_result: object, seconds: float) -> None:
    raise PeerUnreachable(f"there was no connection within {seconds:g} s")
