"""
Direct paths beside those through relays: used when there is one, looked for when there is none.

Nobody waits for a path.  Who dials a peer through a relay is led there by the relay as before, and
when that has worked a path is looked for, with an offer that goes the same way.  Once there is one,
those who dial after that take it; if it fails them they are led by the relay.

The protocol for offers has the label C{webrtc} and one call of MessagePack-RPC::

    webrtc.offer  [offer: bin]  ->  [answer: bin]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from attrs import define
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import MeshkitError, Overloaded, WebRTCFailed
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IConnections
from meshkit.relay.webrtc.sessions import MAX_DESCRIPTION, Make, WebRTCAnswers, WebRTCEndpoint
from meshkit.rpc.methods import Dispatcher, Method
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.rpc.table import RPCLimits
from meshkit.runtime.limits import PeerBuckets

LABEL: Final = "webrtc"

#: Peers to which there is a path, or for which one was looked.
MAX_PEERS: Final = 64
#: Seconds after which a path is looked for again where none was found.
REST_SECONDS: Final = 600.0
#: Seconds in which a peer has to answer an offer.
ANSWER_SECONDS: Final = 15.0
#: Offers of one peer at once, and seconds for one more.
OFFERS: Final = 3.0
OFFER_EVERY: Final = 30.0

_MAX_BODY: Final = MAX_DESCRIPTION + 64
_LIMITS: Final = RPCLimits(calls=1, forgotten=4, served=1, refused=4, held_bytes=1_024)
_NO_WAY: Final = (
    MeshkitError,
    ConnectError,
    ConnectionClosed,
    ConnectingCancelledError,
    CancelledError,
    OSError,
)

_Description = Annotated[bytes, Meta(max_length=MAX_DESCRIPTION)]


class Offer(msgspec.Struct, array_like=True, frozen=True):
    """@ivar offer: a description of a session."""

    offer: _Description


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """@ivar answer: likewise."""

    answer: _Description


OFFER: Final = Method(
    "webrtc.offer",
    Offer,
    Answer,
    max_request=_MAX_BODY,
    max_answer=_MAX_BODY,
    doc="Answer an offer for a direct path.",
)


@define(eq=False)
class _Known:
    """
    One peer.

    @ivar endpoint: the path to it, made when somebody connects.
    @ivar rests_until: when a path may be looked for again.
    @ivar address: by which offers go.
    """

    endpoint: WebRTCEndpoint
    address: MeshAddress
    rests_until: float = 0.0
    looking: Deferred[None] | None = None


class Shortcuts:
    """
    See the module.

    @ivar factory: serves the label L{LABEL}.
    @ivar answers: the side that is offered paths.
    @ivar found: paths that were found since the start, and...
    @ivar missed: ... those that were not.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        connections: IConnections,
        make: Make,
        answers: WebRTCAnswers,
        on_path: Callable[[PublicKey], None],
    ) -> None:
        """@param on_path: told of each path that was found."""
        self._reactor = reactor
        self._connections = connections
        self._make = make
        self._on_path = on_path
        self.answers = answers
        self._known: dict[PublicKey, _Known] = {}
        self._running = False
        self.found = 0
        self.missed = 0
        dispatcher = Dispatcher()
        dispatcher.serve(OFFER, self._offered)
        self.factory = RPCFactory(
            reactor, dispatcher, limits=_LIMITS, buckets=PeerBuckets(1 / OFFER_EVERY, OFFERS)
        )

    @property
    def paths(self) -> int:
        """To how many peers there is one now, that we have looked for."""
        return sum(known.endpoint.connected for known in self._known.values())

    def start(self) -> None:
        """Look for paths from now on."""
        self._running = True

    def stop(self) -> None:
        """Close all paths, and look for none."""
        self._running = False
        for known in list(self._known.values()):
            if known.looking is not None:
                known.looking.cancel()
            known.endpoint.close()
        self.answers.close()

    async def _offered(self, connection: RPCProtocol, request: Offer) -> Answer:
        peer = connection.key
        if peer is None or not self._running:
            raise WebRTCFailed("no offers are taken here now")
        return Answer(await self.answers.answer(request.offer, peer))

    def beside(self, address: MeshAddress, around: IStreamClientEndpoint) -> IStreamClientEndpoint:
        """
        @param address: of a peer, that leads through a relay.
        @param around: the way through the relay.
        @return: the direct path, if there is one, and the other way if it fails or there is none.
        """
        return _Beside(self, address, around)

    def path(self, key: PublicKey) -> WebRTCEndpoint | None:
        """@return: the path to a peer, if there is one now."""
        known = self._known.get(key)
        return known.endpoint if known is not None and known.endpoint.connected else None

    def look(self, address: MeshAddress) -> None:
        """A relay has led to a peer: look for a path, unless that was done just now."""
        now = self._reactor.seconds()
        known = self._known.get(address.key)
        if not self._running or (known is not None and not self._may_look(known, now)):
            return
        if known is None:
            if len(self._known) >= MAX_PEERS and not self._make_room(now):
                return
            endpoint = WebRTCEndpoint(
                self._reactor,
                self._make,
                lambda offer: self._send(address.key, offer),
                address.key,
            )
            known = self._known[address.key] = _Known(endpoint, address)
        known.address = address
        known.rests_until = now + REST_SECONDS
        looking = known.endpoint.find()
        known.looking = looking
        looking.addCallbacks(
            self._was_found, self._not_found, callbackArgs=(known,), errbackArgs=(known,)
        )

    def _may_look(self, known: _Known, now: float) -> bool:
        busy = known.looking is not None or known.endpoint.connected
        return not busy and known.rests_until <= now

    def _make_room(self, now: float) -> bool:
        for key, known in self._known.items():
            if self._may_look(known, now):
                del self._known[key]
                return True
        return False

    def _was_found(self, _: None, known: _Known) -> None:
        known.looking = None
        known.rests_until = 0.0
        self.found += 1
        self._on_path(known.address.key)

    def _not_found(self, failure: Failure, known: _Known) -> None:
        known.looking = None
        self.missed += 1
        peer = known.address.key.text
        if failure.check(*_NO_WAY):
            self._log.info("no direct path to {peer}: {why}", peer=peer, why=str(failure.value))
        else:
            self._log.failure("looking for a direct path to {peer} failed", failure, peer=peer)

    def _send(self, key: PublicKey, offer: bytes) -> Deferred[bytes]:
        """Take an offer to a peer."""
        return Deferred.fromCoroutine(self._ask(self._known[key].address, offer))

    async def _ask(self, address: MeshAddress, offer: bytes) -> bytes:
        endpoint = self._connections.endpoint(address, LABEL)
        connecting: Deferred[Any] = endpoint.connect(RPCFactory(self._reactor, limits=_LIMITS))
        connection: RPCProtocol = await connecting
        try:
            answer = await connection.call(OFFER, Offer(offer), timeout=ANSWER_SECONDS)
        finally:
            connection.close()
        return answer.answer


@implementer(IStreamClientEndpoint)
@define(eq=False)
class _Beside:
    """See L{Shortcuts.beside}."""

    shortcuts: Shortcuts
    address: MeshAddress
    around: IStreamClientEndpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Fails as the way around does."""
        path = self.shortcuts.path(self.address.key)
        if path is None:
            return self._around(protocolFactory)
        connecting = path.connect(protocolFactory)
        # Before there is a channel nothing was built, so the factory is as it was.
        return connecting.addErrback(self._not_direct, protocolFactory)

    def _not_direct(self, failure: Failure, factory: IProtocolFactory) -> Any:
        failure.trap(WebRTCFailed, Overloaded)
        return self._around(factory)

    def _around(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = self.around.connect(factory)
        return connecting.addCallback(self._led)

    def _led(self, protocol: IProtocol) -> IProtocol:
        self.shortcuts.look(self.address)
        return protocol
