"""
The circuits of a relay, and how much they carry.  Pure; time and ids are arguments.

::

    [none] --offer--> OFFERED --join by the target--> OPEN --end--> [done]
                      OFFERED --end, overdue--------> [done]
    offer when either end has all that it may --> refused
    join by another, of another id, or twice  --> refused: nobody learns which
    carry beyond a limit, overdue             --> refused: the circuit is reset

A circuit has two ends, and each of the two keys has its part of the relay: so neither a throw-away
key that asks, nor one that is asked for, gets more than its own.  Keys cost nothing, so the address
from which it is asked has a part too; and what is sent to a peer that has not taken it up is
charged to the asker alone.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from attrs import define, field

from meshkit.errors import CircuitUnknown, RelayLimitReached
from meshkit.identity.keys import PublicKey
from meshkit.relay.tunnel.limits import HANDSHAKE_BYTES, Allowance, TunnelLimits
from meshkit.runtime.limits import PeerBuckets, Shares

#: Bytes of the id of a circuit: who knows it and has the target's key may join.
CIRCUIT_BYTES: Final = 16


class CircuitState(Enum):
    """See the module."""

    OFFERED = auto()
    OPEN = auto()
    DONE = auto()


@define(eq=False)
class Circuit:
    """
    One of L{Circuits}, which alone changes it.

    @ivar circuit_id: random, L{CIRCUIT_BYTES}.
    @ivar asker: who wants to reach somebody.
    @ivar origin: from where.
    @ivar target: whom.
    @ivar member: are both members?
    @ivar allowance: what it may use.
    @ivar carried: bytes from the asker, and from the target.
    """

    circuit_id: bytes = field(repr=bytes.hex)
    asker: PublicKey
    origin: str
    target: PublicKey
    member: bool
    allowance: Allowance = field(repr=False)
    state: CircuitState
    began: float
    moved: float
    carried: list[int] = field(factory=lambda: [0, 0])


class Circuits:
    """All circuits of one relay.  At most as many as its limits allow."""

    def __init__(self, limits: TunnelLimits) -> None:
        self._limits = limits
        self._live: dict[bytes, Circuit] = {}
        # Each circuit has two ends, and each end is somebody's.
        self._ends = {
            member: Shares(2 * limits.of(member).circuits, limits.of(member).per_peer)
            for member in (False, True)
        }
        self._origins = {
            member: Shares(limits.of(member).circuits, limits.of(member).circuits_of_origin)
            for member in (False, True)
        }
        self._bytes = {
            member: PeerBuckets(limits.of(member).byte_rate, float(limits.of(member).daily))
            for member in (False, True)
        }

    def __len__(self) -> int:
        return len(self._live)

    def offer(
        self,
        circuit_id: bytes,
        asker: PublicKey,
        origin: str,
        target: PublicKey,
        member: bool,
        now: float,
    ) -> Circuit:
        """
        Somebody asks for a circuit.

        @param origin: one name for all addresses that the asker's host can have.
        @raise RelayLimitReached: there are too many already, in all, of one of the two, or of
            those who ask from there.
        @raise ValueError: the id is in use.
        """
        if circuit_id in self._live:
            raise ValueError(f"the circuit {circuit_id.hex()} exists already")
        allowance, ends = self._limits.of(member), self._ends[member]
        if ends.taken + 2 > ends.total:
            raise RelayLimitReached(
                f"this relay has {allowance.circuits} circuits already: use another, or try later"
            )
        for who, whose in ((asker, "you have"), (target, f"{target.short} has")):
            if not ends.room(who):
                raise RelayLimitReached(
                    f"{whose} {allowance.per_peer} circuits here already: close some, or try later"
                )
        origins = self._origins[member]
        if not origins.room(origin):
            raise RelayLimitReached(
                f"your address has {origins.each} circuits here already, of all keys: close some, "
                "or try later"
            )
        ends.take(asker)
        ends.take(target)
        origins.take(origin)
        circuit = Circuit(
            circuit_id, asker, origin, target, member, allowance, CircuitState.OFFERED, now, now
        )
        self._live[circuit_id] = circuit
        return circuit

    def join(self, circuit_id: bytes, key: PublicKey, now: float) -> Circuit:
        """
        The target comes for its circuit, which is open from now on.

        @raise CircuitUnknown: there is none of this id that waits for this key.
        """
        circuit = self._live.get(circuit_id)
        if (
            circuit is None
            or circuit.target != key
            or circuit.state is not CircuitState.OFFERED
            or self.due(circuit) <= now
        ):
            raise CircuitUnknown("no such circuit waits for you: it may be too late")
        circuit.state = CircuitState.OPEN
        circuit.began = circuit.moved = now
        return circuit

    def carry(self, circuit: Circuit, from_target: bool, size: int, now: float) -> None:
        """
        Bytes are about to be passed on.

        @raise RelayLimitReached: they may not be: the circuit has to be reset.
        """
        circuit.moved = now
        total = circuit.carried[from_target] + size
        if total > circuit.allowance.size:
            raise RelayLimitReached(
                f"a circuit carries {circuit.allowance.size} bytes in each direction here"
            )
        bytes_left = self._bytes[circuit.member]
        answered = circuit.carried[True] + (size if from_target else 0) > HANDSHAKE_BYTES
        for who in (circuit.asker, circuit.target) if answered else (circuit.asker,):
            if bytes_left.take(who, size, now):
                raise RelayLimitReached(
                    f"{who.short} has used its {circuit.allowance.daily} bytes of today"
                )
        circuit.carried[from_target] = total

    def due(self, circuit: Circuit) -> float:
        """@return: when it is overdue, if nothing moves before."""
        if circuit.state is CircuitState.OFFERED:
            return circuit.began + self._limits.join_seconds
        return min(
            circuit.began + circuit.allowance.seconds, circuit.moved + self._limits.idle_seconds
        )

    def end(self, circuit: Circuit) -> None:
        """It is over.  May be called again."""
        if circuit.state is CircuitState.DONE:
            return
        circuit.state = CircuitState.DONE
        del self._live[circuit.circuit_id]
        for who in (circuit.asker, circuit.target):
            self._ends[circuit.member].give_back(who)
        self._origins[circuit.member].give_back(circuit.origin)
