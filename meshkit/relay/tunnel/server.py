"""
The relay's side of tunnels: three factories for its port, and what they share.

B{A circuit connection}, seen from the relay::

    OPENING --open: reserved, and room--> WAITING, the target is told; nothing is read
    OPENING --join: its circuit waits---> SPLICED, and so is the connection that has waited
    OPENING, WAITING --refused, too late--> the answer says why; closed
    any --lost--> GONE; the other side is closed, or aborted (L{meshkit.relay.tunnel.splice})
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from attrs import frozen
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    CircuitRefused,
    MalformedFrame,
    MeshkitError,
    OverRate,
    PeerTooSlow,
    RelayLimitReached,
    RelayNoReservation,
    RelayTargetSilent,
    ReservationRefused,
)
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.vouchers import Voucher
from meshkit.interfaces import IBoundsPeers
from meshkit.relay.tunnel.circuits import CIRCUIT_BYTES, Circuit, Circuits
from meshkit.relay.tunnel.ends import TunnelAddress
from meshkit.relay.tunnel.limits import (
    ASK_BURST,
    ASK_RATE,
    MAX_WAITING,
    MAX_WAITING_ALL,
    OPENING_SECONDS,
    RESERVE_BURST,
    RESERVE_RATE,
    RESERVE_SECONDS,
    TunnelLimits,
)
from meshkit.relay.tunnel.reservations import Reservations
from meshkit.relay.tunnel.splice import Splice, SpliceSide
from meshkit.relay.tunnel.wire import (
    OFFER,
    RELEASE,
    RESERVE,
    Answer,
    Done,
    FrameReader,
    Offer,
    Open,
    Release,
    Reserve,
    Reserved,
    decode_opening,
    encode_frame,
    refusal,
)
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.rpc.table import RPCLimits
from meshkit.runtime.limits import PeerBuckets, Shares
from meshkit.shs.listener import origin_of

#: What a control connection needs: a few calls in either direction, each of them small.
_CONTROL_LIMITS: Final = RPCLimits(calls=64, forgotten=256, served=4, refused=16, held_bytes=8_192)


@frozen
class TunnelStatus:
    """
    What a relay does now, and did.

    @ivar reservations: peers that can be reached through it.
    @ivar circuits: those that are open, or wait for their targets.
    @ivar opened: circuits since it began.
    @ivar carried: bytes of all circuits since it began.
    @ivar reset: circuits that were cut at a limit.
    """

    reservations: int
    circuits: int
    opened: int
    carried: int
    reset: int


class TunnelRelay:
    """
    Leads peers to each other.

    It is not told what they say: who joins a circuit proves the key that was asked for to the
    relay, and once more, inside, to who has asked.

    @ivar control: factory of the label L{meshkit.relay.tunnel.wire.CONTROL_LABEL}.
    @ivar circuits: factory of the label L{meshkit.relay.tunnel.wire.CIRCUIT_LABEL}.
    @ivar guests: factory of the label L{meshkit.identity.network.GUEST_LABEL}: who comes by that
        asks for circuits as a stranger, whoever he is, and joins none.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        identity: Identity,
        network: bytes,
        rng: Random,
        wall: Callable[[], int],
        *,
        is_member: Callable[[PublicKey], bool],
        limits: TunnelLimits | None = None,
        stun_port: int = 0,
    ) -> None:
        """
        @param identity: the key by which the relay is dialled; it signs the vouchers.
        @param network: id of the network in which it is dialled, 16 bytes.
        @param rng: gives the ids of circuits, which nobody may guess.
        @param wall: milliseconds since 1970.
        @param is_member: who gets what members get; asked for each reservation and circuit.
        @param stun_port: where this machine answers by STUN, which hidden peers are told; 0 for
            nowhere.
        """
        self._reactor = reactor
        self._identity = identity
        self._network = network
        self._rng = rng
        self._wall = wall
        self._is_member = is_member
        self._limits = TunnelLimits() if limits is None else limits
        self._stun_port = stun_port
        self._reservations = Reservations(self._limits)
        self._table = Circuits(self._limits)
        # The control connection of each key: the latest of it.
        self._links: dict[PublicKey, _Link] = {}
        self._asks_by_key = PeerBuckets(ASK_RATE, ASK_BURST)
        self._asks_by_origin = PeerBuckets(ASK_RATE, ASK_BURST)
        # Connections that are no side of a circuit that is open, by key.
        self._waiting = Shares(MAX_WAITING_ALL, MAX_WAITING)
        self._waiting_for: dict[bytes, _Leg] = {}
        self._legs: dict[_Leg, None] = {}
        self._opened = self._carried = self._reset = 0
        self._stopped = False
        dispatcher = Dispatcher()
        dispatcher.serve(RESERVE, self._reserve)
        dispatcher.serve(RELEASE, self._release)
        self.control: IProtocolFactory = _ControlFactory(self, reactor, dispatcher)
        self.circuits: IProtocolFactory = _CircuitFactory(self)
        self.guests: IProtocolFactory = _CircuitFactory(self, guests=True)

    def status(self) -> TunnelStatus:
        """@return: what it does now, and did."""
        self._reservations.expire(self._reactor.seconds())
        return TunnelStatus(
            len(self._reservations), len(self._table), self._opened, self._carried, self._reset
        )

    def stop(self) -> None:
        """Close all control connections, and reset all circuits; no new ones are taken."""
        self._stopped = True
        for link in tuple(self._links.values()):
            link.close()
        for leg in tuple(self._legs):
            leg.drop()

    # --- reservations ---

    def _reserve(self, link: _Link, _request: Reserve) -> Reserved:
        key, address = _peer_of(link.connected_to)
        if isinstance(address, TunnelAddress):
            # A chain of relays would carry everything as often as it is long, and hide who
            # has to answer for it.
            raise ReservationRefused(
                "you have come through a relay: reserve at a relay that you dial yourself"
            )
        now = self._reactor.seconds()
        self._reservations.reserve(key, origin_of(address), self._is_member(key), now)
        seconds = self._limits.reservation_seconds
        link.reserved(seconds)
        before = self._links.get(key)
        self._links[key] = link
        if before is not None and before is not link:
            before.abort()  # it has come again, and may not know that the old one is gone
        expires = self._wall() + int(seconds * 1000)
        voucher = Voucher.seal(self._identity, self._network, key, expires)
        return Reserved(voucher.raw, int(seconds), self._stun_port)

    def _release(self, link: _Link, _request: Release) -> Done:
        self._link_lost(link)
        link.unreserved()
        return Done()

    def _link_lost(self, link: _Link) -> None:
        # That of a connection which was replaced is the newer one's.
        if link.key is not None and self._links.get(link.key) is link:
            del self._links[link.key]
            self._reservations.release(link.key)

    # --- circuits ---

    def _admit(self, leg: _Leg) -> bool:
        """Is there room for a connection that has not said what it is for?"""
        if self._stopped or not self._waiting.room(leg.key):
            return False
        self._waiting.take(leg.key)
        self._legs[leg] = None
        return True

    def _said(self, leg: _Leg) -> None:
        self._waiting.give_back(leg.key)

    def _give_up(self, leg: _Leg) -> None:
        """It waits for nobody any more."""
        if leg.circuit is not None:
            self._waiting_for.pop(leg.circuit.circuit_id, None)
            self._table.end(leg.circuit)

    def _forget(self, leg: _Leg) -> None:
        self._legs.pop(leg, None)
        self._give_up(leg)

    def _asked(self, leg: _Leg, request: Open) -> None:
        """@raise MeshkitError: there will be no circuit."""
        now = self._reactor.seconds()
        target = PublicKey(request.target)
        asker_is_member = not leg.guest and self._is_member(leg.key)
        wait = self._asks_by_key.take(leg.key, 1.0, now)
        if not asker_is_member:
            # Keys cost a stranger nothing, addresses do.
            wait = max(wait, self._asks_by_origin.take(leg.origin, 1.0, now))
        if wait:
            raise OverRate("you ask for circuits too often: wait a minute, then ask again")
        if target == leg.key:
            raise CircuitRefused("you have asked for yourself")
        link = self._links.get(target)
        reservation = self._reservations.find(target, now)
        if link is None or reservation is None:
            raise RelayNoReservation(f"{target.short} is not here")
        member = reservation.member and asker_is_member
        circuit_id = self._rng.randbytes(CIRCUIT_BYTES)
        circuit = self._table.offer(circuit_id, leg.key, leg.origin, target, member, now)
        leg.wait_for(circuit, self._table.due(circuit) - now)
        self._waiting_for[circuit_id] = leg
        offer = Offer(circuit_id, int(circuit.allowance.seconds), circuit.allowance.size)
        told = link.call(OFFER, offer, timeout=self._limits.join_seconds)
        told.addErrback(self._not_taken, leg)

    def _not_taken(self, failure: Failure, leg: _Leg) -> None:
        leg.refuse(RelayTargetSilent(f"the peer did not take the circuit: {failure.value}"))

    def _joined(self, leg: _Leg, circuit_id: bytes) -> None:
        """@raise CircuitUnknown: it does not wait for this one."""
        now = self._reactor.seconds()
        circuit = self._table.join(circuit_id, leg.key, now)
        asker = self._waiting_for.pop(circuit_id)
        leg.circuit = circuit
        self._opened += 1
        splice = Splice(
            asker.transport,
            leg.transport,
            carry=lambda from_target, size: self._carry(circuit, from_target, size),
            on_end=lambda error: self._spliced_end(circuit, watch, error),
        )
        watch = _Watch(self._reactor, self._table, circuit, splice)
        answer = encode_frame(
            Answer(seconds=int(circuit.allowance.seconds), size=circuit.allowance.size)
        )
        for each in (asker, leg):
            each.transport.write(answer)
        splice.start()
        asker.spliced(splice.first)
        leg.spliced(splice.second)

    def _carry(self, circuit: Circuit, from_target: bool, size: int) -> None:
        self._table.carry(circuit, from_target, size, self._reactor.seconds())
        self._carried += size

    def _spliced_end(self, circuit: Circuit, watch: _Watch, error: MeshkitError | None) -> None:
        watch.stop()
        self._table.end(circuit)
        if error is not None:
            self._reset += 1
            self._log.info(
                "circuit from {asker} to {target} reset: {code}: {error}",
                asker=circuit.asker.text,
                target=circuit.target.text,
                code=error.code,
                error=str(error),
            )


class _Watch:
    """
    Cuts a circuit off that lasts too long, or in which nothing moves.

    The time of the latter moves on with each byte; the timer is set anew when it has run out.
    """

    def __init__(
        self, reactor: IReactorTime, table: Circuits, circuit: Circuit, splice: Splice
    ) -> None:
        self._reactor = reactor
        self._table = table
        self._circuit = circuit
        self._splice = splice
        self._call: IDelayedCall | None = None
        self._look()

    def _look(self) -> None:
        self._call = None
        left = self._table.due(self._circuit) - self._reactor.seconds()
        if left > 0:
            self._call = self._reactor.callLater(left, self._look)
        else:
            self._splice.reset(
                RelayLimitReached("it has lasted for as long as it may, or nothing moved in it")
            )

    def stop(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()


def _peer_of(address: IAddress | None) -> tuple[PublicKey, IAddress]:
    """@return: a peer's key, and where it comes from."""
    if not isinstance(address, PeerAddress):
        raise TypeError(f"{address!r} proves no key: tunnels need a secure channel")
    return address.key, address.inner


# --- control connections -------------------------------------------------------------


class _Link(RPCProtocol):
    """A hidden peer, or somebody who wants to be one."""

    relay: TunnelRelay
    _overdue: IDelayedCall | None = None
    # It counts among those that have not said what they are for.
    _counted = False

    def connectionMade(self) -> None:
        super().connectionMade()
        # The factory has counted it.
        self._counted = True
        self.unreserved()

    def unreserved(self) -> None:
        """It holds nothing, and is let go if that stays so."""
        if not self._counted and self.key is not None:
            # Whether there is room or not: it held a reservation, of which there are only so many.
            self._counted = True
            self.relay._waiting.take(self.key)
        self._let_go_after(RESERVE_SECONDS)

    def reserved(self, seconds: float) -> None:
        """It holds a reservation for so many seconds."""
        self._uncount()
        self._let_go_after(seconds)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_waiting()
        self._uncount()
        # Before calls that wait fail: nobody is led there any more.
        self.relay._link_lost(self)
        super().connectionLost(reason)

    def _let_go_after(self, seconds: float) -> None:
        self._stop_waiting()
        self._overdue = self._reactor.callLater(seconds, self._too_late, seconds)

    def _stop_waiting(self) -> None:
        overdue, self._overdue = self._overdue, None
        if overdue is not None:
            overdue.cancel()

    def _too_late(self, seconds: float) -> None:
        self._overdue = None
        self._drop(PeerTooSlow(f"it reserved nothing within {seconds:g} s"))

    def _uncount(self) -> None:
        if self._counted and self.key is not None:
            self._counted = False
            self.relay._waiting.give_back(self.key)


@implementer(IBoundsPeers)
class _ControlFactory(RPCFactory):
    def __init__(self, relay: TunnelRelay, reactor: IReactorTime, dispatcher: Dispatcher) -> None:
        super().__init__(reactor, dispatcher)
        self._relay = relay
        self._buckets_of_all = PeerBuckets(RESERVE_RATE, RESERVE_BURST)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        key, _ = _peer_of(addr)
        if self._relay._stopped or not self._relay._waiting.room(key):
            return None
        self._relay._waiting.take(key)
        link = _Link(
            self._reactor, self._dispatcher, limits=_CONTROL_LIMITS, buckets=self._buckets_of_all
        )
        link.relay = self._relay
        return link


# --- circuit connections ------------------------------------------------------------


@implementer(IHalfCloseableProtocol)
class _Leg(Protocol):
    """One connection of a circuit.  See the module."""

    # That of a secure channel.
    transport: Any

    def __init__(self, relay: TunnelRelay, key: PublicKey, origin: str, guest: bool) -> None:
        self._relay = relay
        self.key = key
        self.origin = origin
        self.guest = guest
        self.circuit: Circuit | None = None
        self._reader: FrameReader | None = FrameReader()
        self._side: SpliceSide | None = None
        self._deadline: IDelayedCall | None = None
        self._counted = True
        self._closing = False

    def connectionMade(self) -> None:
        self._set_deadline(OPENING_SECONDS, PeerTooSlow("a circuit connection said nothing"))

    def _set_deadline(self, seconds: float, error: MeshkitError) -> None:
        self._cancel_deadline()
        self._deadline = self._relay._reactor.callLater(seconds, self._too_late, error)

    def _cancel_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def _too_late(self, error: MeshkitError) -> None:
        self._deadline = None
        self.refuse(error)

    def dataReceived(self, data: bytes) -> None:
        if self._side is not None:
            self._side.data_received(data)
            return
        if self._closing:
            return
        try:
            if self._reader is None:
                raise MalformedFrame("more came on a circuit connection before it was answered")
            found = self._reader.feed(data)
            if found is not None:
                self._reader = None
                self._opening(*found)
        except MeshkitError as error:
            self.refuse(error)

    def _opening(self, body: bytes, rest: bytes) -> None:
        if rest:
            raise MalformedFrame("more came on a circuit connection before it was answered")
        opening = decode_opening(body)
        if isinstance(opening, Open):
            self._relay._asked(self, opening)
        elif self.guest:
            raise CircuitRefused("who comes with an invite asks for circuits, and joins none")
        else:
            self._relay._joined(self, opening.circuit_id)

    def wait_for(self, circuit: Circuit, seconds: float) -> None:
        """The target is told."""
        self.circuit = circuit
        self._set_deadline(seconds, RelayTargetSilent("the peer did not come in time"))

    def spliced(self, side: SpliceSide) -> None:
        """From now on it carries bytes."""
        self._side = side
        self._cancel_deadline()
        self._uncount()

    def refuse(self, error: MeshkitError) -> None:
        """Say why there is no circuit, and close; later than that, nothing happens."""
        if self._side is not None or self._closing:
            return
        self._closing = True
        self._cancel_deadline()
        self._relay._give_up(self)
        self.transport.write(encode_frame(refusal(error)))
        self.transport.loseConnection()

    def drop(self) -> None:
        """The relay stops."""
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        if self._side is not None:
            self._side.read_lost()
        else:
            # It has given up, or has not asked.
            self._closing = True
            self._relay._give_up(self)
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """We have ended it ourselves."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._cancel_deadline()
        self._uncount()
        self._relay._forget(self)
        if self._side is not None:
            self._side.connection_lost(reason)

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self._relay._said(self)


@implementer(IBoundsPeers)
class _CircuitFactory(Factory):
    noisy = False

    def __init__(self, relay: TunnelRelay, guests: bool = False) -> None:
        self._relay = relay
        self._guests = guests

    def buildProtocol(self, addr: IAddress | None) -> Any:
        key, inner = _peer_of(addr)
        leg = _Leg(self._relay, key, origin_of(inner), self._guests)
        return leg if self._relay._admit(leg) else None
