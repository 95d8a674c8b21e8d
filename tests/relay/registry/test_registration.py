"""Registrations, the relay's word about them, and what is taken for either."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import RegistrationInvalid, RegistryForged
from meshkit.identity.contexts import RELAY_ENTERED, RELAY_REGISTRATION, RELAY_VOUCHER
from meshkit.identity.envelope import Envelope
from meshkit.identity.records import MAX_SEQUENCE
from meshkit.relay.registry.registration import (
    MAX_ENTERED,
    MAX_NICKNAME,
    MAX_REGISTRATION,
    Entered,
    Registration,
    check_nickname,
    proof_of,
    proves,
)
from tests.relay.registry.people import (
    ADA,
    BOB,
    MALLORY,
    NETWORK,
    NETWORKS,
    NOW,
    OTHER_NETWORK,
    OTHER_RELAY,
    RELAY,
    registration,
)


def statement(**changed: Any) -> bytes:
    fields = {
        "network": NETWORK.net_id,
        "relay": RELAY.public.raw,
        "number": NOW,
        "listed": True,
        "stays": True,
        "nickname": "ada",
    }
    payload = msgspec.msgpack.encode(list({**fields, **changed}.values()))
    return Envelope.seal(ADA, RELAY_REGISTRATION, payload).raw


def opened(raw: bytes) -> Registration:
    return Registration.open(raw, RELAY.public, NETWORKS)


class RegistrationTests(SynchronousTestCase):
    def refused(self, raw: bytes, why: str) -> None:
        with self.assertRaisesRegex(RegistrationInvalid, why):
            opened(raw)

    def test_it_says_what_the_document_says(self) -> None:
        made = registration(listed=True, nickname="ada")
        self.assertEqual(made.raw, statement())
        self.assertEqual(opened(made.raw), made)
        self.assertEqual(Registration.reopen(made.raw), made)
        self.assertEqual(made.peer, ADA.public)

    def test_whether_it_is_listed_cannot_be_turned_into_its_opposite(self) -> None:
        raw = registration(listed=False, nickname="ada").raw
        payload = Envelope.open(raw, RELAY_REGISTRATION).payload
        turned = msgspec.msgpack.decode(payload)
        turned[3] = True
        other = raw.replace(payload, msgspec.msgpack.encode(turned))
        self.assertEqual(len(other), len(raw))
        self.refused(other, "not signed by")

    def test_a_changed_bit_is_refused_wherever_it_is(self) -> None:
        raw = statement()
        for at in range(len(raw)):
            changed = bytearray(raw)
            changed[at] ^= 1
            self.refused(bytes(changed), ".")

    def test_every_truncation_is_refused(self) -> None:
        raw = statement()
        for end in range(len(raw)):
            self.refused(raw[:end], ".")

    def test_it_is_worth_nothing_elsewhere(self) -> None:
        self.refused(registration(relay=OTHER_RELAY).raw, "another relay than")
        self.refused(registration(network=OTHER_NETWORK.net_id).raw, "another network")
        payload = Envelope.open(statement(), RELAY_REGISTRATION).payload
        self.refused(Envelope.seal(ADA, RELAY_VOUCHER, payload).raw, "relay-voucher/1")

    def test_while_a_network_is_renewed_both_are_good(self) -> None:
        old = registration(network=OTHER_NETWORK.net_id)
        both = (NETWORK.net_id, OTHER_NETWORK.net_id)
        self.assertEqual(Registration.open(old.raw, RELAY.public, both), old)

    def test_what_is_out_of_form_is_refused(self) -> None:
        self.refused(statement(network=bytes(15)), "malformed")
        self.refused(statement(relay=bytes(31)), "malformed")
        self.refused(statement(number=-1), "malformed")
        self.refused(statement(number=MAX_SEQUENCE + 1), "malformed")
        self.refused(statement(listed=1), "malformed")
        self.refused(statement(nickname=b"ada"), "malformed")
        self.refused(statement(more=1), "malformed")
        self.refused(bytes(MAX_REGISTRATION + 1), "over the limit")

    def test_there_is_one_way_to_write_it(self) -> None:
        longer = msgspec.msgpack.decode(Envelope.open(statement(), RELAY_REGISTRATION).payload)
        # The number as a float of the same value would be read as one; as 64 bits it is longer.
        payload = msgspec.msgpack.encode([*longer[:2], 7, *longer[3:]])
        seven = payload.replace(b"\x07", b"\xcd\x00\x07", 1)
        self.assertEqual(msgspec.msgpack.decode(seven)[2], 7)
        self.refused(Envelope.seal(ADA, RELAY_REGISTRATION, seven).raw, "shortest form")

    def test_the_largest_is_within_the_limit(self) -> None:
        made = registration(number=MAX_SEQUENCE, nickname="n" * MAX_NICKNAME, listed=True)
        self.assertLessEqual(len(made.raw), MAX_REGISTRATION)
        self.assertEqual(opened(made.raw), made)

    def test_a_nickname_is_short_and_harmless(self) -> None:
        for good in ("", "ada", "Ada Lovelace", "é" * 32):
            check_nickname(good)
        for bad in ("é" * 33, "n" * 65, "a\x1b[2Jb", " ada", "ada ", "a\u202eb", "\ud800", "a\nb"):
            with self.assertRaises(RegistrationInvalid):
                check_nickname(bad)
            with self.assertRaises(RegistrationInvalid):
                registration(nickname=bad)
        self.refused(statement(nickname="a\x1b[2Jb"), "printable")
        self.refused(statement(nickname="n" * 65), "at most 64")

    def test_nothing_else_tells_two_apart(self) -> None:
        self.assertTrue(registration(number=NOW).says_the_same(registration(number=NOW + 1)))
        self.assertFalse(registration().says_the_same(registration(listed=True)))
        self.assertFalse(registration().says_the_same(registration(nickname="ada")))
        self.assertFalse(registration().says_the_same(registration(stays=False)))

    @given(st.binary(max_size=MAX_REGISTRATION + 1))
    def test_garbage_is_refused_and_nothing_else_happens(self, raw: bytes) -> None:
        self.refused(raw, ".")


class EnteredTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.registration = registration()

    def refused(self, raw: bytes, why: str) -> None:
        with self.assertRaisesRegex(RegistryForged, why):
            Entered.open(raw, self.registration)

    def test_it_says_what_the_document_says(self) -> None:
        made = Entered.seal(RELAY, self.registration, NOW + 1)
        payload = [NETWORK.net_id, ADA.public.raw, NOW, NOW + 1]
        self.assertEqual(
            Envelope.open(made.raw, RELAY_ENTERED).payload, msgspec.msgpack.encode(payload)
        )
        self.assertEqual(Entered.open(made.raw, self.registration), made)
        self.assertLessEqual(len(made.raw), MAX_ENTERED)

    def test_the_word_of_somebody_else_or_about_something_else_is_none(self) -> None:
        self.refused(Entered.seal(MALLORY, self.registration, NOW).raw, "another registration")
        for other in (registration(BOB), registration(number=NOW - 1)):
            self.refused(Entered.seal(RELAY, other, NOW).raw, "another registration")
        self.refused(self.registration.raw, "does not say that it has")
        self.refused(bytes(MAX_ENTERED + 1), "over the limit")

    @given(st.binary(max_size=MAX_ENTERED + 1))
    def test_garbage_is_refused_and_nothing_else_happens(self, raw: bytes) -> None:
        self.refused(raw, ".")


class ProofTests(SynchronousTestCase):
    def test_it_is_of_one_network_and_one_statement(self) -> None:
        ours, raw = NETWORK.capability("registry"), statement()
        self.assertTrue(proves(ours, raw, proof_of(ours, raw)))
        theirs = OTHER_NETWORK.capability("registry")
        self.assertFalse(proves(ours, raw, proof_of(theirs, raw)))
        self.assertFalse(proves(ours, raw, proof_of(ours, statement(listed=False))))
        self.assertFalse(proves(ours, raw, b""))

    def test_it_is_what_the_document_says(self) -> None:
        key = NETWORK.capability("registry")
        made = hmac.new(key, b"meshkit/registration-proof/1" + statement(), hashlib.sha256)
        self.assertEqual(proof_of(key, statement()), made.digest())
