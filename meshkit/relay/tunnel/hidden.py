"""
The hidden peer's side: be reached through a relay.

It keeps a control connection to its relay, renews its reservation at half, comes again after a
pause that grows when the relay is lost, and fetches each circuit that it is told of by a fresh
connection to the relay, and to nobody else.  What comes out of it goes to the node's own listener,
as a connection from outside would: the secret handshake inside says who has come, and the
listener's limits and permissions hold.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import InvalidAnswer, Overloaded
from meshkit.identity.addresses import HostPort, PeerAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.vouchers import Voucher
from meshkit.relay.tunnel.ends import CircuitEndpoint, TunnelAddress
from meshkit.relay.tunnel.holding import Holding
from meshkit.relay.tunnel.limits import MAX_JOINED
from meshkit.relay.tunnel.wire import OFFER, RESERVE, Done, Join, Offer, Reserve, Reserved
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCProtocol

#: Seconds that the relay has to answer a request for a reservation.
RESERVE_TIMEOUT: Final = 30.0


class HiddenPeer:
    """
    One reservation at one relay, and the circuits that come of it.

    @ivar voucher: the relay's word, to be shown to others; L{None} while we cannot be reached
        through it.
    @ivar refused: why the relay does not lead anybody to us, if it does not.
    @ivar stun_port: where the relay says that it answers by STUN; 0 for nowhere.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        rng: Random,
        wall: Callable[[], int],
        *,
        key: PublicKey,
        relay: PublicKey,
        network: bytes,
        control: IStreamClientEndpoint,
        circuits: IStreamClientEndpoint,
        accept: IProtocolFactory,
        on_change: Callable[[], None] = lambda: None,
        max_joined: int = MAX_JOINED,
    ) -> None:
        """
        @param rng: spreads the pauses.
        @param wall: milliseconds since 1970.
        @param key: our own.
        @param relay: the relay's.
        @param network: id of the network in which the relay is dialled.
        @param control: leads to the relay, and proves its key, with the label C{relay-control}.
        @param circuits: likewise, with the label C{relay-circuit}.
        @param accept: builds the protocol for each circuit: the node's L{SecureListener
            <meshkit.shs.SecureListener>}.  Its C{buildProtocol} gets a L{TunnelAddress}.
        @param on_change: called when C{voucher} is another, as it is whenever the relay has said
            something.
        @param max_joined: circuits at a time, whatever the relay announces.
        """
        self._reactor = reactor
        self._wall = wall
        self._key = key
        self._relay = relay
        self._network = network
        self._control = control
        self._circuits = circuits
        self._accept = accept
        self._on_change = on_change
        self._max_joined = max_joined
        self._rng = rng
        self._holding = Holding(rng, 0.0)
        self.voucher: Voucher | None = None
        self.refused: Exception | None = None
        self.stun_port = 0
        self._dispatcher = Dispatcher()
        self._dispatcher.serve(OFFER, self._offered)
        self._running = False
        self._link: _HiddenLink | None = None
        # What is under way: the connection, or the call; one at a time.
        self._pending: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        # Circuits that are being fetched, or open.
        self._joined: dict[bytes, Deferred[IProtocol] | None] = {}

    @property
    def place(self) -> HostPort | None:
        """
        Where the relay was reached, by its IP address, as others do not dial the names of hosts
        on somebody's word; L{None} while it is not.
        """
        address = None if self._link is None else self._link.connected_to
        inner = address.inner if isinstance(address, PeerAddress) else None
        host, port = getattr(inner, "host", None), getattr(inner, "port", None)
        return None if host is None or port is None else HostPort(host, port)

    @property
    def stun(self) -> HostPort | None:
        """Where the relay answers by STUN, if it leads others to us, and does."""
        place = self.place
        if self.voucher is None or place is None or not self.stun_port:
            return None
        return HostPort(place.host, self.stun_port)

    @property
    def joined(self) -> int:
        """Circuits that are open, or on their way."""
        return len(self._joined)

    def start(self) -> None:
        """Reserve, and go on doing so until L{stop}."""
        if not self._running:
            self._running = True
            self._holding = Holding(self._rng, self._reactor.seconds())
            self._set_timer()

    def stop(self) -> Deferred[None]:
        """
        Let the relay lead nobody to us any more.  Circuits that are open belong to the listener
        and stay; those on their way are given up.

        @return: Deferred that fires when the control connection is gone.
        """
        self._running = False
        self._cancel_timer()
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
        for joining in tuple(self._joined.values()):
            if joining is not None:
                joining.cancel()  # does nothing to one that is open
        self._set_voucher(None)
        link, self._link = self._link, None
        if link is None:
            return succeed(None)
        link.close()
        return link.when_lost()

    # --- the reservation ---

    def _set_timer(self) -> None:
        self._cancel_timer()
        if self._running:
            left = max(0.0, self._holding.due - self._reactor.seconds())
            self._timer = self._reactor.callLater(left, self._due)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _due(self) -> None:
        self._timer = None
        if self._pending is not None:
            return  # its outcome sets the timer
        self._holding.ask()
        if self._link is not None:
            self._ask(self._link)
            return
        connecting = self._pending = self._control.connect(_LinkFactory(self))
        connecting.addCallbacks(self._connected, self._failed)
        connecting.addErrback(self._bug)

    def _connected(self, link: Any) -> None:
        self._pending = None
        self._ask(link)

    def _ask(self, link: RPCProtocol) -> None:
        asking = self._pending = link.call(RESERVE, Reserve(), timeout=RESERVE_TIMEOUT)
        asking.addCallback(self._granted)
        asking.addErrback(self._failed)
        asking.addErrback(self._bug)

    def _granted(self, answer: Reserved) -> None:
        voucher = Voucher.open(answer.voucher, self._wall())
        if (voucher.relay, voucher.peer, voucher.network) != (
            self._relay,
            self._key,
            self._network,
        ):
            raise InvalidAnswer("the relay gave a voucher for somebody else, or of another relay")
        self._pending = None
        self.refused = None
        self.stun_port = answer.stun
        self._holding.granted(float(answer.seconds), self._reactor.seconds())
        self._set_voucher(voucher)
        self._set_timer()

    def _failed(self, failure: Failure) -> None:
        self._pending = None
        if not self._running:
            return  # we have given it up ourselves
        self.refused = failure.value if isinstance(failure.value, Exception) else None
        self._log.info(
            "the relay {relay} does not lead to us: {error}",
            relay=self._relay.text,
            error=str(failure.value),
        )
        self._holding.failed(self._reactor.seconds())
        if self._holding.expires is None:
            self._set_voucher(None)
            if self._link is not None:
                self._link.close()
        self._set_timer()

    def _bug(self, failure: Failure) -> None:
        self._log.failure("bug while reserving at a relay", failure)

    def _set_voucher(self, voucher: Voucher | None) -> None:
        if voucher != self.voucher:
            self.voucher = voucher
            self._on_change()

    def _link_made(self, link: _HiddenLink) -> None:
        self._link = link

    def _link_lost(self, link: _HiddenLink) -> None:
        if self._link is not link:
            return
        self._link = None
        if self._holding.expires is not None:
            self._holding.lost(self._reactor.seconds())
            self._set_timer()
        self._set_voucher(None)

    # --- circuits ---

    def _offered(self, _link: RPCProtocol, offer: Offer) -> Done:
        if not self._running or len(self._joined) >= self._max_joined:
            raise Overloaded(f"{len(self._joined)} circuits are open already: try later")
        circuit_id = offer.circuit_id
        if circuit_id in self._joined:
            raise Overloaded("this circuit was announced before")
        endpoint = CircuitEndpoint(
            self._reactor,
            self._circuits,
            Join(circuit_id),
            TunnelAddress(self._relay),
            lambda: self._gone(circuit_id),
        )
        # Known before it is dialled: it may be gone at once.
        self._joined[circuit_id] = None
        joining = endpoint.connect(_Accepting(self._accept))
        if circuit_id in self._joined:
            self._joined[circuit_id] = joining
        joining.addErrback(self._not_joined)
        return Done()

    def _not_joined(self, failure: Failure) -> None:
        self._log.debug(
            "a circuit of the relay {relay} did not come about: {error}",
            relay=self._relay.text,
            error=str(failure.value),
        )

    def _gone(self, circuit_id: bytes) -> None:
        self._joined.pop(circuit_id, None)


class _HiddenLink(RPCProtocol):
    """The control connection."""

    owner: HiddenPeer
    _lost: Deferred[None] | None = None

    def when_lost(self) -> Deferred[None]:
        """@return: Deferred that fires when it is gone.  Asked for once."""
        self._lost = Deferred()
        return self._lost

    def connectionMade(self) -> None:
        super().connectionMade()
        self.owner._link_made(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.owner._link_lost(self)
        super().connectionLost(reason)
        lost, self._lost = self._lost, None
        if lost is not None:
            lost.callback(None)


class _Accepting(ClientFactory):
    """Gives circuits to a listener, whose ports are none of ours to start and stop."""

    noisy = False

    def __init__(self, accept: IProtocolFactory) -> None:
        self._accept = accept

    def buildProtocol(self, addr: Any) -> Any:
        return self._accept.buildProtocol(addr)


class _LinkFactory(ClientFactory):
    noisy = False

    def __init__(self, owner: HiddenPeer) -> None:
        self._owner = owner

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if not self._owner._running:
            return None
        link = _HiddenLink(self._owner._reactor, self._owner._dispatcher)
        link.owner = self._owner
        return link


__all__ = ["RESERVE_TIMEOUT", "HiddenPeer"]
