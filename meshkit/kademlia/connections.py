"""
Connections to the nodes that are asked: kept warm, one for each, and not too many.

B{What is bounded.}  Connections, dials under way, peers that wait for their turn, and how
long somebody waits for a connection: L{Limits}.  Where there are as many as there may be, the
one that was not used for longest makes room; if all are used, the next has to wait.

B{What ends what.}

::

    what happens                     what follows
    -------------------------------  -------------------------------------------------------
    several ask the same peer        they share its dial, and its connection
    one of them is cancelled         the others are not; with the last one the dial ends
    a dial fails, or takes too long  the peer's next place is dialled; after the last one
                                     all that wait fail; the host is remembered
    a connection is not used         it is closed in good order
    stop()                           who waits fails, dials are cancelled, connections are
                                     closed, and cut off if that takes too long
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import nsmallest
from typing import Any, Final, TypeVar

import msgspec
from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from meshkit.errors import CallTimedOut, NotReady, Overloaded, PeerKeyRefused, PeerUnreachable
from meshkit.identity.addresses import HostPort, MeshAddress, PeerAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import MAX_ADDRESSES
from meshkit.identity.scopes import parse_ip
from meshkit.kademlia.blocks import Network
from meshkit.kademlia.contacts import FailedDials
from meshkit.rpc.methods import Dispatcher, Method
from meshkit.rpc.protocol import RPCProtocol

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A")

#: Where a peer is dialled, as an endpoint that proves its key.
Endpoints = Callable[[MeshAddress], IStreamClientEndpoint]


@frozen
class Limits:
    """
    @ivar connections: to peers that we dialled, those that are being closed too.
    @ivar dials: of these, how many may be under way.
    @ivar waiting: peers whose turn has not come.
    @ivar patience: seconds that somebody waits for a connection, its turn and all dials.
    @ivar dial: seconds for one dial, with its handshake.
    @ivar idle: seconds without a call after which a connection is closed.
    @ivar let_go: seconds that a peer has to let go of one that is closed.
    @ivar close: the same at the end, for all of them.
    """

    connections: int = 256
    dials: int = 64
    waiting: int = 1_024
    patience: float = 10.0
    dial: float = 4.0
    idle: float = 600.0
    let_go: float = 3.0
    close: float = 5.0


_LIMITS: Final = Limits()


class TrackedProtocol(RPCProtocol):
    """
    A connection whose keeper is told when it is gone, before the calls on it fail.

    @ivar heard: when something came over it last.
    @ivar shown: the address record that the peer was shown on it.
    """

    def __init__(self, *args: Any, lost: Callable[[TrackedProtocol], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lost = lost
        self.heard = self._reactor.seconds()
        self.shown = b""

    @property
    def usable(self) -> bool:
        """May calls be made?  Not while it is being closed, by whichever side."""
        return self._open

    def dataReceived(self, data: bytes) -> None:
        self.heard = self._reactor.seconds()
        super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost(self)
        super().connectionLost(reason)


@frozen
class Reached:
    """
    An answer.

    @ivar place: where the peer was dialled; if that was a name, the address it stands for.
    """

    answer: Any
    place: HostPort


@define(eq=False)
class _Link:
    """
    A peer that is connected, dialled, or waits for that.

    @ivar places: where it will be dialled next.
    @ivar tried: where it was, or is.
    @ivar waiting: who wants a connection.
    @ivar calls: how many use it.
    @ivar used: when it was used last.
    """

    key: PublicKey
    places: list[HostPort]
    tried: set[HostPort] = field(factory=set)
    place: HostPort | None = None
    waiting: dict[Deferred[_Link], IDelayedCall] = field(factory=dict)
    attempt: _Attempt | None = None
    protocol: TrackedProtocol | None = None
    calls: int = 0
    used: float = 0.0


class _Attempt(Factory):
    """One dial at one place."""

    noisy = False

    def __init__(self, owner: Connections, link: _Link, place: HostPort) -> None:
        self._owner = owner
        self.link = link
        self.place = place
        self.wanted = True
        self.connecting: Deferred[IProtocol] | None = None
        self.timer: IDelayedCall | None = None

    def buildProtocol(self, addr: IAddress | None) -> TrackedProtocol | None:
        # An endpoint that could not be stopped may come here when nobody waits any more.
        return self._owner._build() if self.wanted else None

    def end(self) -> None:
        """Whatever comes of it now is of no interest."""
        self.wanted = False
        if self.timer is not None and self.timer.active():
            self.timer.cancel()


class Connections:
    """
    See the module.

    @ivar failed_dials: hosts at which nobody answered lately.
    @ivar dialled: dials so far.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: Endpoints,
        opened: Callable[[TrackedProtocol], None],
        *,
        limits: Limits = _LIMITS,
        own_blocks: tuple[Network, ...] = (),
        shunned: Callable[[PublicKey], bool] = lambda _: False,
    ) -> None:
        """
        @param shunned: with which peers there is nothing to be done; asked for each call.
        @param endpoint: gives where a peer is dialled; its C{connect} fires when the peer has
            proved its key.
        @param opened: told of each connection, before it is used.
        @param own_blocks: see L{FailedDials}.
        """
        self._reactor = reactor
        self._endpoint = endpoint
        self._opened = opened
        self._shunned = shunned
        self.limits = limits
        self.failed_dials = FailedDials(own_blocks)
        self.dialled = 0
        self._links: dict[PublicKey, _Link] = {}
        # Those of them that wait for their turn.
        self._queue: dict[_Link, None] = {}
        self._dialling: dict[_Link, None] = {}
        # All connections, also those that are being closed.
        self._protocols: dict[TrackedProtocol, _Link] = {}
        # When those that are being closed are cut off.
        self._letting_go: dict[TrackedProtocol, IDelayedCall] = {}
        self._nothing_served = Dispatcher()
        self._idle_due: IDelayedCall | None = None
        self._cut_off_due: IDelayedCall | None = None
        self._all_gone: list[Deferred[None]] = []
        self._stopped = False
        self._going_on = False

    def __len__(self) -> int:
        """Connections that there are, those that are being closed too."""
        return len(self._protocols)

    @property
    def dialling(self) -> int:
        """Dials that are under way."""
        return len(self._dialling)

    @property
    def queued(self) -> int:
        """Peers that wait for their turn to be dialled."""
        return len(self._queue)

    def connected(self) -> list[TrackedProtocol]:
        """@return: the connections over which peers can be asked now."""
        return [protocol for protocol in self._protocols if protocol.usable]

    # --- asking -----------------------------------------------------------------------------

    def call(
        self,
        key: PublicKey,
        places: Sequence[HostPort],
        method: Method[Q, A],
        request: Q,
        timeout: float,
    ) -> Deferred[Reached]:
        """
        Ask a peer, and connect to it if need be.

        @param places: where it may be dialled, the best first.
        @param timeout: seconds for the answer, once there is a connection.
        @return: Deferred of a L{Reached}.  It fails as L{RPCProtocol.call
            <meshkit.rpc.protocol.RPCProtocol.call>} does, with that which the last dial failed
            with, L{PeerUnreachable <meshkit.errors.PeerUnreachable>} if there is no place to
            dial now, L{CallTimedOut <meshkit.errors.CallTimedOut>} if there was no connection
            in time, L{PeerKeyRefused <meshkit.errors.PeerKeyRefused>} for one that is
            shunned, L{Overloaded <meshkit.errors.Overloaded>} or L{NotReady
            <meshkit.errors.NotReady>}.  Cancelling it gives up, and ends the dial if nobody
            else waits for it.
        """
        link = self._links.get(key)
        if (
            link is not None
            and link.protocol is not None
            and link.protocol.usable
            and not self._shunned(key)
        ):
            return self._ask(link, method, request, timeout)
        return self._connected(key, places).addCallback(self._ask, method, request, timeout)

    def _ask(
        self, link: _Link, method: Method[Q, A], request: Q, timeout: float
    ) -> Deferred[Reached]:
        protocol, place = link.protocol, link.place
        if protocol is None or place is None:
            # It was lost while others were told that it is there.
            raise PeerUnreachable(f"the connection to {link.key.short} was lost as it was made")
        link.calls += 1
        asked: Deferred[Any] = protocol.call(method, request, timeout=timeout)
        return asked.addBoth(self._over, link, place)

    def _over(self, result: Any, link: _Link, place: HostPort) -> Any:
        link.calls -= 1
        link.used = self._reactor.seconds()
        self._go_on()
        return result if isinstance(result, Failure) else Reached(result, place)

    def _connected(self, key: PublicKey, places: Sequence[HostPort]) -> Deferred[_Link]:
        if self._stopped:
            return fail(NotReady("the hash table is stopping, or not started"))
        if self._shunned(key):
            return fail(PeerKeyRefused(f"{key.short} is blocked or banned here"))
        link = self._links.get(key)
        if link is not None and link.protocol is not None:
            del self._links[key]  # it is on its way out
            link = None
        if link is None:
            if len(self._queue) >= self.limits.waiting:
                return fail(
                    Overloaded(f"{self.limits.waiting} peers wait to be dialled: ask for less")
                )
            link = self._links[key] = _Link(key, [])
            self._queue[link] = None
        known = link.tried.union(link.places)
        link.places += [place for place in places if place not in known][
            : max(0, MAX_ADDRESSES - len(known))
        ]
        waiter: Deferred[_Link] = Deferred(lambda waiter: self._leave(link, waiter))
        link.waiting[waiter] = self._reactor.callLater(
            self.limits.patience, self._out_of_patience, link, waiter
        )
        self._go_on()
        return waiter

    def _out_of_patience(self, link: _Link, waiter: Deferred[_Link]) -> None:
        self._leave(link, waiter)
        waiter.errback(
            CallTimedOut(
                f"there was no connection to {link.key.short} within {self.limits.patience:.0f} s"
            )
        )

    def _leave(self, link: _Link, waiter: Deferred[_Link]) -> None:
        """Somebody does not wait any more."""
        timer = link.waiting.pop(waiter, None)
        if timer is None:
            return
        if timer.active():
            timer.cancel()
        if not link.waiting and link.protocol is None:
            self._forget(link)
            self._go_on()

    def _forget(self, link: _Link) -> None:
        """It is neither connected nor dialled from now on."""
        if self._links.get(link.key) is link:
            del self._links[link.key]
        self._queue.pop(link, None)
        self._dialling.pop(link, None)
        attempt, link.attempt = link.attempt, None
        if attempt is not None:
            attempt.end()
            if attempt.connecting is not None:
                attempt.connecting.cancel()

    # --- dialling ---------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Dial those whose turn it is."""
        if self._going_on:
            return  # who does that sees what has changed
        self._going_on = True
        try:
            while self._queue and not self._stopped and len(self._dialling) < self.limits.dials:
                if len(self._dialling) + len(self._protocols) >= self.limits.connections:
                    # Its place is free when it is gone.
                    self._close_oldest()
                    return
                link = self._next()
                if link is None:
                    return  # a host has as many dials as it may have: their ends come here
                del self._queue[link]
                self._dialling[link] = None
                self._dial(link)
        finally:
            self._going_on = False

    def _next(self) -> _Link | None:
        """@return: whose turn it is, and whose host is not being dialled by others."""
        now, busy = self._reactor.seconds(), self.failed_dials.busy
        for link in self._queue:
            if not (link.places and busy(link.places[0], now)):
                return link
        return None

    def _close_oldest(self) -> None:
        """
        Make room, if not enough is being made already: who takes long to let go must not hold
        up all others.
        """
        wanted = min(len(self._queue), self.limits.dials - len(self._dialling))
        wanted -= sum(not protocol.usable for protocol in self._protocols)
        if wanted > 0:
            unused = [link for link in self._links.values() if link.protocol and not link.calls]
            for link in nsmallest(wanted, unused, key=lambda link: link.used):
                self._close(link)

    def _dial(self, link: _Link) -> None:
        """Dial a peer at its next place."""
        now = self._reactor.seconds()
        while link.places:
            if self.failed_dials.busy(link.places[0], now):
                del self._dialling[link]
                self._queue[link] = None
                self._go_on()
                return
            place = link.places.pop(0)
            link.tried.add(place)
            if not self.failed_dials.may_dial(place, now):
                continue
            link.place = place
            attempt = link.attempt = _Attempt(self, link, place)
            self.failed_dials.began(place)
            self.dialled += 1
            address = MeshAddress(place.host, place.port, link.key)
            connecting: Deferred[Any] = maybeDeferred(self._connect, address, attempt)
            if not connecting.called:
                attempt.timer = self._reactor.callLater(self.limits.dial, connecting.cancel)
            attempt.connecting = connecting
            connecting.addCallbacks(
                self._made, self._not_made, callbackArgs=(attempt,), errbackArgs=(attempt,)
            )
            return
        self._give_up(
            link,
            Failure(
                PeerUnreachable(
                    f"{link.key.short} has no address that may be dialled now: hosts at which "
                    "nobody answered rest for a minute"
                )
            ),
        )

    def _connect(self, address: MeshAddress, attempt: _Attempt) -> Deferred[IProtocol]:
        return self._endpoint(address).connect(attempt)

    def _build(self) -> TrackedProtocol:
        return TrackedProtocol(self._reactor, self._nothing_served, lost=self._lost)

    def _made(self, protocol: TrackedProtocol, attempt: _Attempt) -> None:
        link = attempt.link
        self.failed_dials.ended(attempt.place)
        if not attempt.wanted:
            protocol.abort()
            self._go_on()
            return
        attempt.end()
        link.attempt = None
        del self._dialling[link]
        self.failed_dials.reached(attempt.place)
        link.place = _resolved(attempt.place, protocol)
        if not protocol.usable:
            # The peer has hung up already.
            self._give_up(link, Failure(PeerUnreachable(f"{link.key.short} hung up at once")))
            return
        self._protocols[protocol] = link
        link.protocol = protocol
        link.used = self._reactor.seconds()
        if self._idle_due is None:
            self._idle_due = self._reactor.callLater(self.limits.idle, self._close_idle)
        self._opened(protocol)
        while link.waiting:
            waiter, timer = next(iter(link.waiting.items()))
            del link.waiting[waiter]
            timer.cancel()
            waiter.callback(link)
        self._go_on()

    def _not_made(self, failure: Failure, attempt: _Attempt) -> None:
        link = attempt.link
        self.failed_dials.ended(attempt.place)
        if not attempt.wanted:
            self._go_on()
            return  # nobody waits for it
        attempt.end()
        link.attempt = None
        self.failed_dials.failed(attempt.place, self._reactor.seconds())
        if failure.check(CancelledError, ConnectingCancelledError):
            # We did that; who waits has not.
            failure = Failure(
                PeerUnreachable(
                    f"{link.key.short} did not answer at {link.place} within "
                    f"{self.limits.dial:.0f} s"
                )
            )
        if link.places:
            self._dial(link)
        else:
            self._give_up(link, failure)

    def _give_up(self, link: _Link, failure: Failure) -> None:
        self._forget(link)
        while link.waiting:
            waiter, timer = next(iter(link.waiting.items()))
            del link.waiting[waiter]
            timer.cancel()
            waiter.errback(failure)
        self._go_on()

    # --- closing ------------------------------------------------------------------------------

    def _close_idle(self) -> None:
        self._idle_due = None
        before = self._reactor.seconds() - self.limits.idle
        used: list[float] = []
        for link in list(self._links.values()):
            if link.protocol is None:
                continue
            if not link.calls and link.used <= before:
                self._close(link)
            else:
                used.append(self._reactor.seconds() if link.calls else link.used)
        if used:
            wait = max(1.0, min(used) - before)
            self._idle_due = self._reactor.callLater(wait, self._close_idle)

    def _close(self, link: _Link) -> None:
        if self._links.get(link.key) is link:
            del self._links[link.key]
        protocol = link.protocol
        if protocol is not None and protocol not in self._letting_go:
            # Before it is closed, as it may be gone at once.
            self._letting_go[protocol] = self._reactor.callLater(self.limits.let_go, protocol.abort)
            protocol.close()

    def close(self, key: PublicKey) -> None:
        """Close the connection to a peer, or end its dial, if there is any."""
        link = self._links.get(key)
        if link is None:
            return
        if link.protocol is None:
            self._give_up(link, Failure(PeerUnreachable(f"{key.short} is not to be dialled")))
        else:
            self._close(link)

    def _lost(self, protocol: TrackedProtocol) -> None:
        link = self._protocols.pop(protocol, None)
        timer = self._letting_go.pop(protocol, None)
        if timer is not None and timer.active():
            timer.cancel()
        if link is not None:
            link.protocol = None
            if self._links.get(link.key) is link:
                del self._links[link.key]
        if not self._protocols:
            self._tell_gone()
        self._go_on()

    def start(self) -> None:
        """Dial, from now on; that is so from the beginning, and after L{stop} no more."""
        self._stopped = False

    def stop(self) -> Deferred[None]:
        """
        End it all.

        @return: Deferred that fires with L{None} when all connections are gone, within
            the seconds of L{Limits.close} and what it takes to cut off.
        """
        self._stopped = True
        if self._idle_due is not None:
            self._idle_due.cancel()
            self._idle_due = None
        for link in list(self._links.values()):
            if link.protocol is None:
                self._give_up(link, Failure(NotReady("the hash table is stopping")))
            else:
                self._close(link)
        if not self._protocols:
            return succeed(None)
        if self._cut_off_due is None:
            self._cut_off_due = self._reactor.callLater(self.limits.close, self._cut_off)
        gone: Deferred[None] = Deferred(lambda gone: self._all_gone.remove(gone))
        self._all_gone.append(gone)
        return gone

    def _cut_off(self) -> None:
        self._cut_off_due = None
        for protocol in list(self._protocols):
            protocol.abort()

    def _tell_gone(self) -> None:
        if not self._stopped:
            return
        if self._cut_off_due is not None:
            self._cut_off_due.cancel()
            self._cut_off_due = None
        waiting, self._all_gone = self._all_gone, []
        for gone in waiting:
            gone.callback(None)


def _resolved(place: HostPort, protocol: TrackedProtocol) -> HostPort:
    """
    How near a peer is, and of which block, is not to be seen in a name.

    @return: where a peer was reached that was dialled there.
    """
    if parse_ip(place.host) is not None or not protocol.usable:
        return place
    address = protocol.connected_to
    inner = address.inner if isinstance(address, PeerAddress) else address
    host = str(getattr(inner, "host", ""))
    return place if parse_ip(host) is None else HostPort(host, place.port)
