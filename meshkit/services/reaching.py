"""
Reach a peer, whichever way leads to it: at its address first, and through relays where that does
not answer.

B{What ends what.}

::

    what happens                          what follows
    ------------------------------------  ----------------------------------------------------
    the address answers                   the others are given up, if they were dialled
    it fails                              the other ways are asked for, and dialled one after
                                          the other until one answers
    it does neither within a while        the same, and the address goes on being dialled
    all have failed                       it fails with what the address did, and says so of
                                          the ways
    it is cancelled                       all are given up

A way has answered when the peer has proved its key: only then the factory builds a protocol, and it
builds one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import MeshkitError, PeerUnreachable
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.interfaces import IDetours
from meshkit.runtime.peers import named_error

#: What leads to one address, and proves that the peer is there.
Wrap = Callable[[IStreamClientEndpoint], IStreamClientEndpoint]


@implementer(IStreamClientEndpoint)
@frozen
class Reaching:
    """
    See the module.

    @ivar address: of the peer.
    @ivar beneath: gives the bare way to a place.
    @ivar secure: makes of a bare way one that proves the peer's key.
    @ivar detours: gives the other ways, when somebody connects; L{None} if there are none.
    """

    reactor: IReactorTime
    address: MeshAddress
    beneath: Callable[[HostPort], IStreamClientEndpoint]
    secure: Wrap
    detours: Callable[[], IDetours | None]

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See C{IStreamClientEndpoint}; it fails as L{meshkit.interfaces.IConnections} says."""
        return _Attempt(self, protocolFactory).run()

    def __repr__(self) -> str:
        return f"<a way to {self.address.text}>"


class _Way(ClientFactory):
    """The factory of one of the connections, which builds nothing where another has answered."""

    noisy = False

    def __init__(self, attempt: _Attempt, factory: IProtocolFactory) -> None:
        self._attempt = attempt
        self._factory = factory
        self.connecting: Deferred[Any] | None = None

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: Any) -> Any:
        if not self._attempt.answered(self):
            return None
        return self._factory.buildProtocol(addr)


class _Attempt:
    """One C{connect()}."""

    def __init__(self, endpoint: Reaching, factory: IProtocolFactory) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._detours = endpoint.detours()
        self._dialling: dict[_Way, None] = {}
        self._first: _Way | None = None
        self._winner: _Way | None = None
        self._timer: IDelayedCall | None = None
        # The other ways that are not dialled yet; L{None} before they are asked for.
        self._left: list[MeshAddress] | None = None
        self._asking: Deferred[Any] | None = None
        self._failure: Failure | None = None
        self._last: Failure | None = None
        # Nobody waits for anything any more.
        self._over = False
        self.done: Deferred[IProtocol] = Deferred(self._cancel)

    def run(self) -> Deferred[IProtocol]:
        place = self._first_place()
        if place is None:
            self._go_around()
            return self.done
        if self._detours is not None:
            self._timer = self._endpoint.reactor.callLater(
                self._detours.head_start, self._go_around
            )
        self._first = _Way(self, self._factory)
        self._dial(self._first, self._endpoint.beneath(place))
        return self.done

    def _first_place(self) -> HostPort | None:
        address = self._endpoint.address
        if address.via is None:
            return address.place
        return None if self._detours is None else self._detours.direct(address.key)

    def _dial(self, way: _Way, bare: IStreamClientEndpoint) -> None:
        self._dialling[way] = None
        way.connecting = self._endpoint.secure(bare).connect(way)
        way.connecting.addCallbacks(
            self._made, self._not_made, callbackArgs=(way,), errbackArgs=(way,)
        )

    def answered(self, way: _Way) -> bool:
        """@return: is this the first one of all?"""
        if self._winner is None and not self._over:
            self._winner = way
            self._let_go(way)
        return self._winner is way

    def _let_go(self, but: _Way | None = None) -> None:
        """Give all up that is under way."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        self._left = []
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
        given_up = [way for way in self._dialling if way is not but]
        for way in given_up:
            del self._dialling[way]
        for way in given_up:
            if way.connecting is not None:
                way.connecting.cancel()

    def _made(self, protocol: IProtocol, way: _Way) -> None:
        self._over = True
        self._dialling.pop(way, None)
        if not self.done.called:
            self.done.callback(protocol)

    def _not_made(self, failure: Failure, way: _Way) -> None:
        if way not in self._dialling:
            return  # it was given up
        del self._dialling[way]
        if self._winner is way:
            # The peer was there, and it is the factory, or what it has built, that failed.
            self._fail(failure)
        elif way is self._first:
            self._failure = failure
            self._go_around()
        else:
            self._last = failure
            self._next()

    # --- other ways ---------------------------------------------------------------------

    def _go_around(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        if self._left is not None:
            self._next()
        elif self._asking is None:
            if self._detours is None:
                self._asked([])
                return
            asking = self._asking = self._detours.ways(self._endpoint.address)
            asking.addCallbacks(self._asked, self._not_asked)

    def _asked(self, ways: Sequence[MeshAddress]) -> None:
        self._asking = None
        if self._winner is None and not self._over:
            self._left = list(ways)
            self._next()

    def _not_asked(self, failure: Failure) -> None:
        self._asking = None
        if self._winner is None and not self._over:
            self._last = failure
            self._left = []
            self._next()

    def _next(self) -> None:
        if self._left and self._detours is not None:
            if any(way is not self._first for way in self._dialling):
                return  # one after the other
            address = self._left.pop(0)
            bare = self._endpoint.beneath(address.place)
            if address.via is not None:
                bare = self._detours.through(address)
            self._dial(_Way(self, self._factory), bare)
        elif not self._dialling:
            self._fail(self._why())

    def _why(self) -> Failure:
        failure, last, address = self._failure, self._last, self._endpoint.address
        if failure is None and last is None:
            return Failure(
                PeerUnreachable(
                    f"{address.text} leads through a relay, and no relay that this node may use "
                    "is known: is the part 'tunnel' enabled?"
                )
            )
        if failure is None:
            assert last is not None
            return Failure(PeerUnreachable(f"{address.text}: {_said(last.value)}"))
        if last is None:
            return failure
        assert failure.value is not None
        why = named_error(address.place, failure.value)
        if not isinstance(why, PeerUnreachable):
            return failure
        return Failure(PeerUnreachable(f"{why}; through a relay: {_said(last.value)}"))

    # --- the end --------------------------------------------------------------------------

    def _fail(self, failure: Failure) -> None:
        self._over = True
        self._let_go()
        if not self.done.called:
            self.done.errback(failure)

    def _cancel(self, done: Deferred[IProtocol]) -> None:
        self._over = True
        winner, self._winner = self._winner, None
        self._let_go(winner)
        if winner is not None and winner.connecting is not None:
            self._dialling.pop(winner, None)
            winner.connecting.cancel()
        if not done.called:
            done.errback(ConnectingCancelledError(self._endpoint.address))


def _said(error: BaseException | None) -> str:
    return str(error) if isinstance(error, MeshkitError) else f"{type(error).__name__}: {error}"
