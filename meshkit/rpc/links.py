"""Connections to peers that are called again and again: kept for a while after each call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.error import ConnectingCancelledError, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from meshkit.errors import NotReady, PeerKeyRefused
from meshkit.identity.keys import PublicKey
from meshkit.rpc.protocol import RPCFactory, RPCProtocol

__all__ = ["LinkProtocol", "Links"]

P = TypeVar("P", bound=Hashable)

#: Seconds that it may take to connect.
CONNECT_SECONDS: Final = 30.0
#: Seconds that peers have to say goodbye when all connections are closed.
CLOSE_SECONDS: Final = 2.0


class LinkProtocol(RPCProtocol):
    """
    @ivar lost: is it gone?
    @ivar on_lost: is told when it is.
    """

    lost = False
    on_lost: Callable[[LinkProtocol], object] | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        super().connectionLost(reason)
        if self.on_lost is not None:
            self.on_lost(self)


class _Factory(RPCFactory):
    protocol = LinkProtocol


@define(eq=False)
class _Link:
    """
    @ivar turn: one dials at a time.
    @ivar users: how many have it, or wait for it.
    @ivar connection: to the peer, if there is one.
    @ivar timer: ends it, as nobody uses it.
    """

    users: int = 0
    turn: DeferredLock = field(factory=DeferredLock)
    connection: LinkProtocol | None = None
    timer: IDelayedCall | None = None


class Links(Generic[P]):
    """See the module.  There is one connection for each peer at most."""

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: Callable[[P], Awaitable[IStreamClientEndpoint]],
        key: Callable[[P], PublicKey],
        *,
        most: int,
        idle_seconds: float,
    ) -> None:
        """
        @param endpoint: says where a peer is, on a channel that proves its key.
        @param key: the one that it has to prove.
        @param most: connections at the same time, unless more are in use.
        @param idle_seconds: after which one that nobody uses is closed.
        """
        self._reactor = reactor
        self._endpoint = endpoint
        self._key = key
        self._most = most
        self._idle_seconds = idle_seconds
        self._factory = _Factory(reactor)
        self._closed = False
        # In the order in which they were last asked for.
        self._links: OrderedDict[P, _Link] = OrderedDict()
        # All that are there, also those that are being closed.
        self._there: dict[LinkProtocol, None] = {}
        self._all_gone: list[Deferred[None]] = []
        self._cut_off: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._links)

    async def take(self, peer: P) -> LinkProtocol:
        """
        @return: a connection to a peer.  L{give_back} is owed.
        @raise Exception: why there is none.
        """
        link = self._links.get(peer)
        if link is None:
            self._make_room()
            link = self._links[peer] = _Link()
        self._links.move_to_end(peer)
        link.users += 1
        if link.timer is not None:
            link.timer.cancel()
            link.timer = None
        try:
            await link.turn.acquire()
            try:
                if link.connection is None or link.connection.lost:
                    link.connection = await self._dial(peer)
                return link.connection
            finally:
                link.turn.release()
        except BaseException:
            self.give_back(peer)
            raise

    async def _dial(self, peer: P) -> LinkProtocol:
        endpoint = await self._endpoint(peer)
        # What the factory builds.
        connecting: Deferred[Any] = endpoint.connect(self._factory)
        try:
            connection: LinkProtocol = await connecting.addTimeout(
                CONNECT_SECONDS, self._reactor, _too_late
            )
        except ConnectingCancelledError:
            # Whoever waits went away, and expects to be told so.
            raise CancelledError from None
        if not connection.lost:
            self._there[connection] = None
            connection.on_lost = self._lost
        if self._closed:
            connection.abort()
            raise NotReady("no peer is called any more")
        wanted = self._key(peer)
        if connection.key != wanted:
            connection.abort()
            raise PeerKeyRefused(f"another peer than {wanted.text} answers where it should be")
        return connection

    def give_back(self, peer: P) -> None:
        """Who took the connection to a peer does not use it any more."""
        link = self._links.get(peer)
        if link is None:
            return  # all were closed
        link.users -= 1
        if link.users:
            return
        if link.connection is None or link.connection.lost:
            del self._links[peer]
        else:
            link.timer = self._reactor.callLater(self._idle_seconds, self._close, peer)

    def _make_room(self) -> None:
        idle = [peer for peer, link in self._links.items() if not link.users]
        for peer in idle[: max(0, len(self._links) + 1 - self._most)]:
            self._close(peer)

    def _close(self, peer: P) -> None:
        link = self._links.pop(peer)
        if link.timer is not None and link.timer.active():
            link.timer.cancel()
        if link.connection is not None:
            link.connection.close()

    def close(self) -> Deferred[None]:
        """
        Close all, also those that are used, and make none any more.

        @return: Deferred that fires with L{None} when all are gone: within L{CLOSE_SECONDS}, and
            what it takes to cut off those who do not say goodbye.
        """
        self._closed = True
        for peer in list(self._links):
            self._close(peer)
        gone: Deferred[None] = Deferred()
        self._all_gone.append(gone)
        if self._there and self._cut_off is None:
            self._cut_off = self._reactor.callLater(CLOSE_SECONDS, self._cut)
        self._see_whether_gone()
        return gone

    def _cut(self) -> None:
        self._cut_off = None
        for connection in list(self._there):
            connection.abort()

    def _lost(self, connection: LinkProtocol) -> None:
        del self._there[connection]
        self._see_whether_gone()

    def _see_whether_gone(self) -> None:
        if self._there or not self._closed:
            return
        if self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None
        waiting, self._all_gone = self._all_gone, []
        for each in waiting:
            each.callback(None)


def _too_late(_result: object, seconds: float) -> Any:
    raise TimeoutError(f"no connection within {seconds:.0f} seconds")
