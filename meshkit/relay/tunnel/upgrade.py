"""
The looking for direct paths (L{meshkit.relay.tunnel.direct}), around what it remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import MeshkitError
from meshkit.identity.addresses import HostPort, MeshAddress, transport_of
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IConnections
from meshkit.relay.tunnel.direct import (
    ASK_SECONDS,
    DELAY,
    DIAL_SECONDS,
    LABEL,
    PLACES,
    Paths,
    Places,
    may_dial,
    scope_at,
    told,
)
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.rpc.table import RPCLimits

#: Peers for which a path is looked for at a time.
MAX_LOOKING: Final = 16
#: Seconds that somebody may stay who asks for our places.
STAY_SECONDS: Final = 30.0
#: How dialling ends that leads nowhere, is too slow, or is given up.
_NO_WAY: Final = (
    MeshkitError,
    ConnectError,
    ConnectionClosed,
    ConnectingCancelledError,
    CancelledError,
    TimeoutError,
    OSError,
)
#: One question in each direction is all that is said.
_LIMITS: Final = RPCLimits(calls=4, forgotten=16, served=2, refused=4, held_bytes=4_096)


class Upgrade:
    """
    See the module.

    @ivar factory: serves the label L{meshkit.relay.tunnel.direct.LABEL}.
    @ivar paths: what was found.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        connections: IConnections,
        own_places: Callable[[], Sequence[HostPort]],
        relay_host: Callable[[PublicKey | None], str],
        found: Callable[[PublicKey, HostPort, bool], None],
    ) -> None:
        """
        @param own_places: where others reach this node, as far as that is known.
        @param relay_host: where a relay of ours was reached; empty if that is not known.
        @param found: told of each path, and whether it was we who came through the relay.
        """
        self._reactor = reactor
        self._connections = connections
        self._own_places = own_places
        self._relay_host = relay_host
        self._found = found
        self._stopped = False
        self.paths = Paths()
        self._waiting: dict[PublicKey, IDelayedCall] = {}
        self._looking: dict[PublicKey, Deferred[None]] = {}
        dispatcher = Dispatcher()
        dispatcher.serve(PLACES, self._asked)
        self.factory = _Serving(reactor, dispatcher, limits=_LIMITS)

    def start(self) -> None:
        """Look for paths; that is so from the beginning."""
        self._stopped = False

    def stop(self) -> None:
        """Look for nothing any more, until L{start}."""
        self._stopped = True
        for waiting in self._waiting.values():
            waiting.cancel()
        self._waiting.clear()
        for looking in list(self._looking.values()):
            looking.cancel()

    # --- the one who has dialled through the relay ---------------------------------------

    def led(self, address: MeshAddress) -> None:
        """A relay has led to somebody, by this address: look for a path soon."""
        key = address.key
        if not self._stopped and self.paths.begin(key, self._reactor.seconds()):
            self._waiting[key] = self._reactor.callLater(DELAY, self._ask, address)

    def _ask(self, address: MeshAddress) -> None:
        del self._waiting[address.key]
        self._look(address.key, self._ask_and_dial(address))

    async def _ask_and_dial(self, address: MeshAddress) -> None:
        factory = RPCFactory(self._reactor, limits=_LIMITS)
        endpoint = self._connections.endpoint(address, LABEL)
        connecting: Deferred[Any] = endpoint.connect(factory)
        connection: RPCProtocol = await connecting.addTimeout(ASK_SECONDS, self._reactor)
        try:
            if transport_of(connection.connected_to)[1] is None:
                return  # a direct path was there already
            answer = await connection.call(PLACES, told(self._own_places()), timeout=ASK_SECONDS)
        finally:
            connection.close()
        places = may_dial(answer.places, scope_at(address.host))
        await self._try(address.key, places, True)

    # --- the one who was reached ---------------------------------------------------------

    def _asked(self, connection: RPCProtocol, request: Places) -> Places:
        key, relay = connection.key, transport_of(connection.connected_to)[1]
        # Who has dialled us has a path already.
        hidden = key is not None and relay is not None and not self._stopped
        if key is not None and hidden and self.paths.begin(key, self._reactor.seconds()):
            places = may_dial(request.places, scope_at(self._relay_host(relay)))
            self._look(key, self._try(key, places, False))
        return told(self._own_places())

    # --- both ----------------------------------------------------------------------------

    def _look(self, key: PublicKey, work: Any) -> None:
        if len(self._looking) >= MAX_LOOKING or key in self._looking:
            work.close()
            return
        looking: Deferred[None] = Deferred.fromCoroutine(work)
        if looking.called:
            looking.addErrback(self._not_found, key)
            return
        self._looking[key] = looking

        def ended(result: Any) -> Any:
            self._looking.pop(key, None)
            return result

        looking.addBoth(ended).addErrback(self._not_found, key)

    def _not_found(self, failure: Failure, key: PublicKey) -> None:
        if failure.check(*_NO_WAY):
            self._log.debug("no direct path to {peer}: {why}", peer=key.text, why=failure.value)
        else:
            self._log.failure("looking for a direct path failed", failure)

    async def _try(self, key: PublicKey, places: Sequence[HostPort], asker: bool) -> None:
        for place in places:
            address = MeshAddress(place.host, place.port, key)
            endpoint = self._connections.endpoint(address, LABEL, direct=True)
            connecting: Deferred[Any] = endpoint.connect(_Knocking())
            connecting.addTimeout(DIAL_SECONDS, self._reactor)
            try:
                knocked = await connecting
            except _NO_WAY as e:
                if self._stopped:
                    return
                self._log.debug("{peer} is not at {place}: {e}", peer=key.text, place=place, e=e)
                continue
            knocked.transport.loseConnection()
            self.paths.found(key, place, self._reactor.seconds())
            self._found(key, place, asker)
            return


class _Knocking(Factory):
    """Builds what says nothing: that a peer has proved its key is all that is wanted."""

    noisy = False
    protocol = Protocol


class _Asked(RPCProtocol):
    """Somebody asks for our places, and is let go when that has taken long."""

    _overdue: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self._overdue = self._reactor.callLater(STAY_SECONDS, self.abort)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        overdue, self._overdue = self._overdue, None
        if overdue is not None and overdue.active():
            overdue.cancel()
        super().connectionLost(reason)


class _Serving(RPCFactory):
    protocol = _Asked
