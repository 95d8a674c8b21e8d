"""Tests of L{meshkit.identity.records}."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import AddressRecordInvalid
from meshkit.identity.addresses import HostPort
from meshkit.identity.contexts import ADDRESS_RECORD, ROTATION
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity
from meshkit.identity.records import (
    MAX_ADDRESSES,
    MAX_LIFETIME,
    MAX_MORE,
    MAX_RECORD,
    MAX_SEQUENCE,
    MAX_SKEW,
    AddressRecord,
    next_sequence,
)

# RFC 8032, 7.1, TEST 1.
ME = Identity(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
NETWORK = bytes(range(16))
NOW = 1_800_000_000_000
EXPIRES = NOW + MAX_LIFETIME
PLACES = ("192.0.2.7:7655", "[2001:db8::7]:7655")

#: Written by hand from the document; the signature is that of another Ed25519 (OpenSSL's).
PAYLOAD = bytes.fromhex(
    "95"
    "c410" "000102030405060708090a0b0c0d0e0f"
    "cf" "000001a3185c5000"
    "cf" "000001a31d82ac00"
    "92"
    "ae" "3139322e302e322e373a37363535"
    "b2" "5b323030313a6462383a3a375d3a37363535"
    "80"
)  # fmt: skip
SIGNATURE = (
    "d03d6bd5ec3511a54109206507e78b861d531581581a12c1f1e3bc03cfca3b4a"
    "893117b6064b42d9c2e84c7e5088ecbc7a0ba1034d225bc302ff7e0f4ae6a10a"
)


def fields(**changed: Any) -> list[Any]:
    whole: dict[str, Any] = {
        "network": NETWORK,
        "sequence": NOW,
        "expires": EXPIRES,
        "addresses": list(PLACES),
        "more": {},
    }
    return list({**whole, **changed}.values())


def signed(payload: bytes) -> bytes:
    return Envelope.seal(ME, ADDRESS_RECORD, payload).raw


def made(**changed: Any) -> bytes:
    return signed(msgspec.msgpack.encode(fields(**changed)))


class AddressRecords(SynchronousTestCase):
    def refuse(self, raw: bytes, now: int = NOW, network: bytes = NETWORK) -> str:
        error = self.assertRaises(AddressRecordInvalid, AddressRecord.open, raw, network, now)
        return str(error)

    def seal(self, *places: str, **changed: Any) -> AddressRecord:
        return AddressRecord.seal(
            ME,
            changed.pop("network", NETWORK),
            [HostPort.parse(text) for text in places],
            sequence=changed.pop("sequence", NOW),
            expires=changed.pop("expires", EXPIRES),
            **changed,
        )

    def test_the_bytes_are_those_of_the_document(self) -> None:
        raw = (
            b"\x94\xb0address-record/1\xc4\x20"
            + ME.public.raw
            + b"\xc4\x49"
            + PAYLOAD
            + b"\xc4\x40"
            + bytes.fromhex(SIGNATURE)
        )
        self.assertEqual(self.seal(*PLACES).raw, raw)
        record = AddressRecord.open(raw, NETWORK, NOW)
        self.assertEqual(
            (record.key, record.network, record.sequence, record.expires, dict(record.more)),
            (ME.public, NETWORK, NOW, EXPIRES, {}),
        )
        self.assertEqual(tuple(place.text for place in record.addresses), PLACES)

    @given(
        st.integers(0, NOW + MAX_SKEW),
        st.integers(NOW + 1, NOW + MAX_LIFETIME + MAX_SKEW),
        st.lists(st.integers(1, 65535), max_size=MAX_ADDRESSES, unique=True),
        st.dictionaries(
            st.from_regex(r"[a-z][a-z0-9.-]{0,9}", fullmatch=True),
            st.binary(max_size=40),
            max_size=MAX_MORE,
        ),
    )
    def test_what_is_sealed_can_be_opened(
        self, sequence: int, expires: int, ports: list[int], more: dict[str, bytes]
    ) -> None:
        places = [f"198.51.100.1:{port}" for port in ports]
        record = self.seal(*places, sequence=sequence, expires=expires, more=more)
        opened = AddressRecord.open(record.raw, NETWORK, NOW)
        self.assertEqual(opened, record)
        self.assertEqual([place.text for place in opened.addresses], places)
        self.assertEqual(dict(opened.more), more)

    def test_who_cannot_be_reached_says_so(self) -> None:
        self.assertEqual(AddressRecord.open(self.seal().raw, NETWORK, NOW).addresses, ())

    def test_it_is_void_in_every_other_network(self) -> None:
        self.assertIn("another network", self.refuse(made(), network=bytes(16)))

    def test_another_kind_of_statement_is_none(self) -> None:
        self.refuse(Envelope.seal(ME, ROTATION, PAYLOAD).raw)

    def test_its_time_is_judged_by_the_clock_of_the_reader(self) -> None:
        raw = made()
        AddressRecord.open(raw, NETWORK, EXPIRES - 1)
        self.assertIn("expired", self.refuse(raw, EXPIRES))
        AddressRecord.open(raw, NETWORK, NOW - MAX_SKEW)
        self.assertIn("24 hours", self.refuse(raw, NOW - MAX_SKEW - 1))
        late = made(sequence=NOW + MAX_SKEW)
        AddressRecord.open(late, NETWORK, NOW)
        self.assertIn("future", self.refuse(late, NOW - 1))

    def test_one_that_was_kept_is_read_whatever_the_time(self) -> None:
        record = AddressRecord.open_kept(made(), NETWORK)
        self.assertEqual(record, AddressRecord.open(made(), NETWORK, NOW))
        self.assertRaises(AddressRecordInvalid, record.check_time, EXPIRES)
        for raw, network in ((made(), bytes(16)), (made()[:-1], NETWORK)):
            self.assertRaises(AddressRecordInvalid, AddressRecord.open_kept, raw, network)

    def test_there_is_no_other_form_of_it(self) -> None:
        raw = self.seal(*PLACES).raw
        assert raw[52:54] == b"\xc4\x49"
        # The length of the payload in two bytes; as the envelope is not signed, anybody can.
        self.assertIn("shortest", self.refuse(raw[:52] + b"\xc5\x00\x49" + raw[54:]))
        larger = self.seal(*PLACES, more={"a": bytes(200)}).raw
        self.assertEqual(AddressRecord.open(larger, NETWORK, NOW).raw, larger)
        self.assertIn("shortest", self.refuse(b"\xdc\x00\x04" + larger[1:]))

    def test_one_that_was_verified_is_read_without_that(self) -> None:
        raw = made()
        self.assertEqual(AddressRecord.reopen(raw), AddressRecord.open(raw, NETWORK, NOW))
        forged = raw[:-1] + bytes([raw[-1] ^ 1])
        self.assertEqual(
            AddressRecord.reopen(forged).addresses, AddressRecord.reopen(raw).addresses
        )
        for bad in (raw[:-1], signed(b"nonsense"), b"\xdc\x00\x04" + raw[1:]):
            self.assertRaises(AddressRecordInvalid, AddressRecord.reopen, bad)

    def test_no_sequence_pins_a_key_for_ever(self) -> None:
        self.assertIn("future", self.refuse(made(sequence=MAX_SEQUENCE)))
        self.assertIn("out of range", self.refuse(made(sequence=MAX_SEQUENCE + 1)))
        self.assertIn("out of range", self.refuse(made(sequence=-1)))
        self.assertIn("out of range", self.refuse(made(expires=MAX_SEQUENCE + 1)))

    def test_the_number_of_addresses_is_limited(self) -> None:
        places = [f"192.0.2.{n}:7655" for n in range(MAX_ADDRESSES + 1)]
        self.assertEqual(
            len(AddressRecord.open(made(addresses=places[1:]), NETWORK, NOW).addresses), 8
        )
        self.assertIn("at most 8 addresses", self.refuse(made(addresses=places)))
        self.assertRaises(AddressRecordInvalid, self.seal, *places)

    def test_each_address_has_one_form_and_stands_once(self) -> None:
        for place in (
            "",
            "192.0.2.7",
            "192.0.2.7:0",
            "192.0.2.7:07655",
            "net:192.0.2.7:7655",
            "EXAMPLE.com:7655",
            "[2001:DB8::7]:7655",
            "[2001:db8:0::7]:7655",
            "[fe80::1%eth0]:7655",
            "192.0.2.7:7655\n",
            "a" * 600 + ":7655",
        ):
            with self.subTest(place):
                self.refuse(made(addresses=[place]))
        self.assertIn("twice", self.refuse(made(addresses=[PLACES[0], PLACES[0]])))
        self.assertRaises(AddressRecordInvalid, self.seal, PLACES[0], PLACES[0])

    def test_what_it_says_besides_is_limited(self) -> None:
        names = {f"n{n}": b"" for n in range(MAX_MORE + 1)}
        self.assertIn("at most 8 names", self.refuse(made(more=names)))
        for name in ("", "A", "1", "a" * 33, "a_b"):
            with self.subTest(name):
                self.refuse(made(more={name: b""}))
        self.refuse(made(more={"b": b"", "a": b""}))
        self.assertRaises(AddressRecordInvalid, self.seal, more={"A": b""})

    def test_the_size_is_limited_at_both_ends(self) -> None:
        around = len(self.seal(more={"x": bytes(256)}).raw) - 256
        most = self.seal(more={"x": bytes(MAX_RECORD - around)})
        self.assertEqual(len(most.raw), MAX_RECORD)
        AddressRecord.open(most.raw, NETWORK, NOW)
        too_much = {"x": bytes(MAX_RECORD - around + 1)}
        self.assertRaises(AddressRecordInvalid, self.seal, more=too_much)
        self.assertIn("over the limit", self.refuse(made(more=too_much)))

    def test_one_content_has_one_encoding(self) -> None:
        self.refuse(signed(PAYLOAD[:-1] + b"\xde\x00\x00"))
        self.refuse(signed(PAYLOAD[:-1] + b"\x82\xa1x\xc4\x00\xa1x\xc4\x00"))
        self.refuse(signed(PAYLOAD + b"\x00"))

    def test_fields_of_another_form(self) -> None:
        for changed in (
            {"network": bytes(15)},
            {"network": bytes(17)},
            {"network": "x" * 16},
            {"sequence": 1.5},
            {"sequence": "1"},
            {"expires": None},
            {"addresses": "192.0.2.7:7655"},
            {"addresses": [7]},
            {"more": []},
            {"more": {"x": "text"}},
            {"one": "more"},
        ):
            with self.subTest(changed):
                self.refuse(made(**changed))
        self.refuse(signed(msgspec.msgpack.encode(fields()[:-1])))
        self.refuse(signed(msgspec.msgpack.encode(fields()[0])))

    def test_every_truncation_and_every_flipped_bit_is_noticed(self) -> None:
        raw = made()
        for length in range(len(raw)):
            self.refuse(raw[:length])
        for position in range(0, 8 * len(raw), 3):
            flipped = bytearray(raw)
            flipped[position // 8] ^= 1 << position % 8
            self.refuse(bytes(flipped))

    @given(st.binary(max_size=200))
    def test_no_payload_raises_anything_else(self, payload: bytes) -> None:
        self.refuse(payload)
        self.refuse(signed(payload))

    def test_the_next_sequence_is_the_time_or_one_more_than_what_others_have_taken(self) -> None:
        self.assertEqual(next_sequence(NOW), NOW)
        self.assertEqual(next_sequence(NOW, 5), NOW)
        self.assertEqual(next_sequence(NOW, NOW + 7, 5), NOW + 8)
        last = NOW + MAX_SKEW
        self.assertEqual(next_sequence(NOW, last - 1), last)
        # Nobody has taken that one, nor would take one more.
        self.assertEqual(next_sequence(NOW, last), NOW)

    def test_the_network_id_of_a_wrong_length_is_not_sealed(self) -> None:
        self.assertRaises(AddressRecordInvalid, self.seal, network=bytes(15))
