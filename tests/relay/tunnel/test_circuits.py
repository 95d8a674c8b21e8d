"""Tests of L{meshkit.relay.tunnel.circuits}."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import CircuitUnknown, RelayLimitReached
from meshkit.relay.tunnel.circuits import Circuit, Circuits, CircuitState
from meshkit.relay.tunnel.limits import (
    HANDSHAKE_BYTES,
    MEMBERS,
    ORIGIN_SHARE,
    STRANGERS,
    Allowance,
    TunnelLimits,
)
from tests.relay.tunnel.test_reservations import key

FEW = evolve(STRANGERS, circuits=4, per_peer=2, seconds=100.0, size=10, daily=86_400)


def limits(strangers: Allowance = FEW) -> TunnelLimits:
    return TunnelLimits(strangers=strangers, join_seconds=10.0, idle_seconds=50.0)


class CircuitsTests(SynchronousTestCase):
    """What may be open, for how long, and what it carries."""

    def setUp(self) -> None:
        self.circuits = Circuits(limits())
        self.number = 0

    def offer(
        self,
        asker: int = 1,
        target: int = 2,
        member: bool = False,
        now: float = 0,
        origin: str | None = None,
    ) -> Circuit:
        self.number += 1
        circuit_id = self.number.to_bytes(16, "big")
        origin = f"host of {asker}" if origin is None else origin
        return self.circuits.offer(circuit_id, key(asker), origin, key(target), member, now)

    def open(self, asker: int = 1, target: int = 2, now: float = 0) -> Circuit:
        circuit = self.offer(asker, target, now=now)
        return self.circuits.join(circuit.circuit_id, key(target), now)

    def test_only_the_target_joins_and_only_once(self) -> None:
        circuit = self.offer()
        for who in (1, 3):
            self.assertRaises(CircuitUnknown, self.circuits.join, circuit.circuit_id, key(who), 0)
        self.assertIs(self.circuits.join(circuit.circuit_id, key(2), 9.9), circuit)
        self.assertIs(circuit.state, CircuitState.OPEN)
        self.assertRaises(CircuitUnknown, self.circuits.join, circuit.circuit_id, key(2), 9.9)

    def test_who_comes_too_late_finds_nothing(self) -> None:
        circuit = self.offer()
        self.assertEqual(self.circuits.due(circuit), 10)
        self.assertRaises(CircuitUnknown, self.circuits.join, circuit.circuit_id, key(2), 10)
        self.circuits.end(circuit)
        other = self.offer()
        self.circuits.end(other)
        self.assertRaises(CircuitUnknown, self.circuits.join, other.circuit_id, key(2), 0)

    def test_an_id_is_used_once_at_a_time(self) -> None:
        circuit = self.offer()
        self.assertRaises(
            ValueError, self.circuits.offer, circuit.circuit_id, key(5), "", key(6), False, 0
        )

    def test_nobody_has_more_than_his_part_at_either_end(self) -> None:
        self.offer(1, 2)
        self.offer(1, 3)
        error = self.assertRaises(RelayLimitReached, self.offer, 1, 4)
        self.assertIn("you have 2 circuits", str(error))
        self.offer(5, 2)
        error = self.assertRaises(RelayLimitReached, self.offer, 6, 2)
        self.assertIn(f"{key(2).short} has 2 circuits", str(error))

    def test_there_are_only_so_many_in_all(self) -> None:
        made = [self.offer(number, number + 100) for number in range(1, 5)]
        self.assertRaises(RelayLimitReached, self.offer, 9, 109)
        self.circuits.end(made[0])
        self.circuits.end(made[0])
        self.offer(9, 109)
        self.assertRaises(RelayLimitReached, self.offer, 10, 110)
        self.assertEqual(len(self.circuits), 4)

    def test_who_makes_many_keys_has_no_more_of_them_than_one_address_may(self) -> None:
        for member, allowance in ((False, STRANGERS), (True, MEMBERS)):
            self.circuits = Circuits(TunnelLimits())
            most = allowance.circuits // ORIGIN_SHARE
            made = [
                self.offer(number, number + 5_000, member, origin="10.0.0.1")
                for number in range(1, most + 1)
            ]
            error = self.assertRaises(
                RelayLimitReached, self.offer, 4_000, 4_001, member, origin="10.0.0.1"
            )
            self.assertIn(f"your address has {most} circuits", str(error))
            self.offer(4_000, 4_001, member, origin="10.0.0.2")
            self.circuits.end(made[0])
            self.circuits.end(made[0])
            self.offer(4_000, 4_001, member, origin="10.0.0.1")

    def test_one_key_may_have_its_part_from_one_address(self) -> None:
        self.offer(1, 2)
        self.offer(1, 3)

    def test_strangers_take_no_room_from_members(self) -> None:
        for number in (1, 3):
            self.offer(number, 2)
        self.assertRaises(RelayLimitReached, self.offer, 4, 2)
        self.assertIs(self.offer(4, 2, member=True).allowance, MEMBERS)

    def test_what_is_refused_takes_nothing(self) -> None:
        self.offer(1, 2)
        self.offer(3, 2)
        for _ in range(3):
            self.assertRaises(RelayLimitReached, self.offer, 4, 2)
        self.offer(4, 5)
        self.offer(4, 6)

    def test_a_circuit_carries_so_many_bytes_in_each_direction(self) -> None:
        circuit = self.open()
        self.circuits.carry(circuit, False, 10, 1)
        self.circuits.carry(circuit, True, 4, 1)
        self.circuits.carry(circuit, True, 6, 1)
        for from_target in (False, True):
            self.assertRaises(RelayLimitReached, self.circuits.carry, circuit, from_target, 1, 1)
        self.assertEqual(circuit.carried, [10, 10])

    def test_many_small_circuits_carry_no_more_in_a_day_than_one(self) -> None:
        self.circuits = Circuits(limits(evolve(FEW, size=1000, daily=1000)))
        first, second = self.open(1, 2), self.open(1, 3)
        self.circuits.carry(first, False, 600, 0)
        error = self.assertRaises(RelayLimitReached, self.circuits.carry, second, False, 600, 0)
        self.assertIn("of today", str(error))
        # Half a day later there are 500 more, and the 400 of before.
        self.circuits.carry(second, False, 600, 43_200)

    def test_what_is_only_sent_to_a_peer_takes_nothing_from_its_day(self) -> None:
        self.circuits = Circuits(limits(evolve(FEW, size=10**6, daily=100_000)))
        for asker in range(10, 15):
            circuit = self.open(asker, 2)
            self.circuits.carry(circuit, True, HANDSHAKE_BYTES, 0)
            self.circuits.carry(circuit, False, 90_000, 0)
            self.circuits.end(circuit)
        # Who has sent them has paid.
        error = self.assertRaises(
            RelayLimitReached, self.circuits.carry, self.open(14, 3), False, 90_000, 0
        )
        self.assertIn(key(14).short, str(error))
        # One whom it answers is charged to it too.
        for asker in (20, 21):
            circuit = self.open(asker, 2)
            self.circuits.carry(circuit, True, HANDSHAKE_BYTES + 1, 0)
            if asker == 20:
                self.circuits.carry(circuit, False, 90_000, 0)
        error = self.assertRaises(RelayLimitReached, self.circuits.carry, circuit, False, 90_000, 0)
        self.assertIn(key(2).short, str(error))

    def test_it_ends_when_its_time_is_over_or_nothing_moves(self) -> None:
        circuit = self.open(now=5)
        self.assertEqual(self.circuits.due(circuit), 55)
        self.circuits.carry(circuit, True, 1, 40)
        self.assertEqual(self.circuits.due(circuit), 90)
        self.circuits.carry(circuit, True, 1, 80)
        self.assertEqual(self.circuits.due(circuit), 105)

    def test_a_limit_of_nothing_is_a_mistake(self) -> None:
        for name in ("reservations", "per_origin", "circuits", "per_peer", "seconds", "size"):
            self.assertRaises(ValueError, evolve, STRANGERS, **{name: 0})
        self.assertRaises(ValueError, TunnelLimits, join_seconds=0)
