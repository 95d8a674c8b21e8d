"""Tests of L{meshkit.relay.tunnel.reservations}."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import RelayLimitReached
from meshkit.identity.keys import PublicKey
from meshkit.relay.tunnel.limits import MEMBERS, STRANGERS, TunnelLimits
from meshkit.relay.tunnel.reservations import Reservations


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


def small(total: int = 4, each: int = 2, seconds: float = 60.0) -> TunnelLimits:
    return TunnelLimits(
        strangers=evolve(STRANGERS, reservations=total, per_origin=each),
        members=evolve(MEMBERS, reservations=total, per_origin=each),
        reservation_seconds=seconds,
    )


class ReservationsTests(SynchronousTestCase):
    """Who can be reached."""

    def test_a_reservation_holds_until_its_end(self) -> None:
        held = Reservations(small(seconds=60))
        made = held.reserve(key(1), "a", False, 0)
        self.assertEqual(held.find(key(1), 59.9), made)
        self.assertIsNone(held.find(key(1), 60))
        self.assertEqual(held.next_expiry(), 60)
        self.assertEqual(held.expire(60), (key(1),))
        self.assertEqual(len(held), 0)
        self.assertIsNone(held.next_expiry())

    def test_one_address_has_only_its_part(self) -> None:
        held = Reservations(small(each=2))
        for number in (1, 2):
            held.reserve(key(number), "a", False, 0)
        error = self.assertRaises(RelayLimitReached, held.reserve, key(3), "a", False, 0)
        self.assertIn("2 of 2 from a", str(error))
        held.reserve(key(3), "b", False, 0)

    def test_there_are_only_so_many_in_all(self) -> None:
        held = Reservations(small(total=4))
        for number in range(4):
            held.reserve(key(number), str(number), False, 0)
        self.assertRaises(RelayLimitReached, held.reserve, key(9), "z", False, 0)

    def test_a_flood_of_strangers_takes_no_room_from_members(self) -> None:
        held = Reservations(small(total=4))
        for number in range(4):
            held.reserve(key(number), str(number), False, 0)
        held.reserve(key(9), "z", True, 0)

    def test_who_holds_one_can_renew_it_when_there_is_no_room(self) -> None:
        held = Reservations(small(total=4, each=2, seconds=60))
        for number in range(4):
            held.reserve(key(number), str(number % 2), False, 0)
        self.assertEqual(held.reserve(key(0), "0", False, 30).expires, 90)
        self.assertEqual(held.expire(60), (key(1), key(2), key(3)))

    def test_a_renewal_that_is_refused_leaves_what_there_was(self) -> None:
        held = Reservations(small(each=1))
        before = held.reserve(key(1), "a", False, 0)
        held.reserve(key(2), "b", False, 0)
        self.assertRaises(RelayLimitReached, held.reserve, key(1), "b", False, 10)
        self.assertEqual(held.find(key(1), 10), before)
        self.assertRaises(RelayLimitReached, held.reserve, key(3), "a", False, 10)

    def test_what_was_given_back_can_be_had_again(self) -> None:
        held = Reservations(small(each=1))
        held.reserve(key(1), "a", False, 0)
        held.release(key(1))
        held.release(key(1))
        held.reserve(key(2), "a", False, 0)


class ReservationsMachine(RuleBasedStateMachine):
    """Any order of all of it, beside a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Reservations(small())
        self.model: dict[PublicKey, Any] = {}
        self.now = 0.0

    def live(self) -> list[Any]:
        return [each for each in self.model.values() if each.expires > self.now]

    @rule(number=st.integers(0, 7), origin=st.sampled_from("abc"), member=st.booleans())
    def reserve(self, number: int, origin: str, member: bool) -> None:
        others = [
            each for each in self.live() if each.peer != key(number) and each.member is member
        ]
        room = len(others) < 4 and sum(each.origin == origin for each in others) < 2
        try:
            made = self.held.reserve(key(number), origin, member, self.now)
        except RelayLimitReached:
            assert not room
        else:
            assert room
            self.model[key(number)] = made

    @rule(number=st.integers(0, 7))
    def release(self, number: int) -> None:
        self.held.release(key(number))
        self.model.pop(key(number), None)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def who_is_here_is_found(self) -> None:
        live = {each.peer: each for each in self.live()}
        for number in range(8):
            assert self.held.find(key(number), self.now) == live.get(key(number))


@pytest.mark.fuller
class ReservationsMachineTests(SynchronousTestCase):
    """L{ReservationsMachine}."""

    def test_any_order_gives_what_the_plain_list_gives(self) -> None:
        ReservationsMachine.TestCase("runTest").runTest()
