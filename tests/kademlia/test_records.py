"""Tests of L{meshkit.kademlia.records}."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    RecordError,
    RecordExpired,
    RecordForeignNetwork,
    RecordForged,
    RecordFromFuture,
    RecordMalformed,
    RecordTooLarge,
)
from meshkit.identity.contexts import ADDRESS_RECORD, DHT_RECORD
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity
from meshkit.identity.records import MAX_SEQUENCE, MAX_SKEW
from meshkit.kademlia.kinds import mutable_key
from meshkit.kademlia.records import (
    LIFETIME,
    MAX_LIFETIME,
    MAX_RECORD,
    MAX_SALT,
    MAX_VALUE,
    Record,
)
from tests.kademlia.recording import ME, NETWORK, NOW, mutable, seal, signed

EXPIRES = NOW + LIFETIME
KEY = bytes.fromhex("46eab13e974cf8d0fb78ac5a0a0338f8c33f7f0047850d74ad86b29649e0ec28")

#: Written by hand from the document; the signature is that of another Ed25519 (OpenSSL's).
PAYLOAD = bytes.fromhex(
    "97"
    "c410" "000102030405060708090a0b0c0d0e0f"
    "a7" "6d757461626c65"
    "c420" "46eab13e974cf8d0fb78ac5a0a0338f8c33f7f0047850d74ad86b29649e0ec28"
    "c405" "6e6f746573"
    "cf" "000001a3185c5000"
    "cf" "000001a31d82ac00"
    "c405" "68656c6c6f"
)  # fmt: skip
SIGNATURE = bytes.fromhex(
    "005ead80be326654d3b4375b9200bc0efd49f9def28ef7a8ce9d7b4ea85d4178"
    "dd44536a39bb81e14fea478386d954ea5b4b5232148b0c293470495ed5837e0c"
)
DIGEST = bytes.fromhex("65da58ed6669e11e70458d833b41a05e542f34abfaac1a274740983a5f22d367")
RAW = (
    b"\x94\xacdht-record/1\xc4\x20"
    + ME.public.raw
    + b"\xc4\x5d"
    + PAYLOAD
    + b"\xc4\x40"
    + SIGNATURE
)


def fields(**changed: Any) -> list[Any]:
    whole: dict[str, Any] = {
        "network": NETWORK,
        "kind": "mutable",
        "key": KEY,
        "salt": b"notes",
        "sequence": NOW,
        "expires": EXPIRES,
        "value": b"hello",
    }
    return list({**whole, **changed}.values())


class Records(SynchronousTestCase):
    def refuse(
        self,
        expected: type[RecordError],
        raw: bytes,
        now: int = NOW,
        network: bytes = NETWORK,
    ) -> str:
        error = self.assertRaises(expected, Record.open, raw, network, now)
        self.assertIs(type(error), expected)
        return str(error)

    def test_the_bytes_are_those_of_the_document(self) -> None:
        self.assertEqual(mutable(ME, b"hello", b"notes").raw, RAW)
        self.assertEqual(mutable_key(ME.public, b"notes"), KEY)
        record = Record.open(RAW, NETWORK, NOW)
        self.assertEqual(
            (record.owner, record.network, record.kind, record.key, record.salt),
            (ME.public, NETWORK, "mutable", KEY, b"notes"),
        )
        self.assertEqual(
            (record.sequence, record.expires, record.value, record.digest),
            (NOW, EXPIRES, b"hello", DIGEST),
        )

    @given(
        st.from_regex(r"\A[a-z][a-z0-9.-]{0,31}\Z"),
        st.binary(min_size=32, max_size=32),
        st.binary(max_size=MAX_SALT),
        st.integers(1, NOW + MAX_SKEW),
        st.integers(NOW + 1, NOW + MAX_LIFETIME),
        st.integers(0, MAX_VALUE),
    )
    def test_what_is_sealed_can_be_opened(
        self, kind: str, key: bytes, salt: bytes, sequence: int, expires: int, size: int
    ) -> None:
        record = seal(ME, kind, key, b"v" * size, salt=salt, sequence=sequence, expires=expires)
        self.assertEqual(Record.open(record.raw, NETWORK, NOW), record)
        self.assertEqual(Record.reopen(record.raw), record)

    def test_every_flipped_bit_is_noticed(self) -> None:
        for position in range(8 * len(RAW)):
            flipped = bytearray(RAW)
            flipped[position // 8] ^= 1 << position % 8
            error = self.assertRaises(RecordError, Record.open, bytes(flipped), NETWORK, NOW)
            self.assertIn(type(error), (RecordForged, RecordMalformed))

    def test_every_truncation_and_what_is_behind_is_noticed(self) -> None:
        for length in range(len(RAW)):
            self.refuse(RecordMalformed, RAW[:length])
        self.refuse(RecordMalformed, RAW + b"\x00")
        for length in range(len(PAYLOAD)):
            self.refuse(RecordMalformed, signed(PAYLOAD[:length]))
        self.refuse(RecordMalformed, signed(PAYLOAD + b"\x00"))

    @given(st.binary(max_size=300))
    def test_no_bytes_raise_anything_else(self, raw: bytes) -> None:
        self.refuse(RecordMalformed, raw)
        self.refuse(RecordMalformed, signed(raw))
        self.assertRaises(RecordMalformed, Record.reopen, raw)

    def test_somebody_elses_name_is_noticed(self) -> None:
        other = Identity(bytes(32)).public
        self.refuse(RecordForged, RAW.replace(ME.public.raw, other.raw))

    def test_another_kind_of_statement_is_none(self) -> None:
        self.refuse(RecordMalformed, Envelope.seal(ME, ADDRESS_RECORD, PAYLOAD).raw)

    def test_it_is_void_in_every_other_network(self) -> None:
        self.refuse(RecordForeignNetwork, RAW, network=bytes(16))
        self.refuse(RecordForeignNetwork, RAW, NOW + MAX_LIFETIME, bytes(16))

    def test_its_time_is_judged_by_the_clock_of_the_reader(self) -> None:
        Record.open(RAW, NETWORK, EXPIRES - 1)
        self.refuse(RecordExpired, RAW, EXPIRES)
        longest = mutable(ME, expires=NOW + MAX_LIFETIME).raw
        Record.open(longest, NETWORK, NOW)
        self.assertIn("48 hours", self.refuse(RecordFromFuture, longest, NOW - 1))
        early = mutable(ME, sequence=NOW + MAX_SKEW).raw
        Record.open(early, NETWORK, NOW)
        self.assertIn("future", self.refuse(RecordFromFuture, early, NOW - 1))

    def test_no_sequence_pins_a_key_for_ever(self) -> None:
        self.refuse(RecordFromFuture, signed(fields(sequence=MAX_SEQUENCE)))
        for sequence in (MAX_SEQUENCE + 1, 2**64 - 1, 0, -1):
            self.refuse(RecordMalformed, signed(fields(sequence=sequence)))
            self.assertRaises(RecordMalformed, mutable, ME, sequence=sequence)
        self.refuse(RecordMalformed, signed(fields(expires=MAX_SEQUENCE + 1)))
        self.refuse(RecordMalformed, signed(fields(expires=-1)))

    def test_the_value_is_limited_at_both_ends(self) -> None:
        most = mutable(ME, bytes(MAX_VALUE))
        self.assertEqual(Record.open(most.raw, NETWORK, NOW), most)
        too_much = bytes(MAX_VALUE + 1)
        self.assertRaises(RecordTooLarge, mutable, ME, too_much)
        self.refuse(RecordTooLarge, signed(fields(value=too_much)))

    def test_the_salt_is_limited_at_both_ends(self) -> None:
        most = mutable(ME, salt=bytes(MAX_SALT))
        self.assertEqual(Record.open(most.raw, NETWORK, NOW), most)
        too_much = bytes(MAX_SALT + 1)
        self.assertRaises(RecordTooLarge, mutable, ME, salt=too_much)
        self.refuse(RecordTooLarge, signed(fields(salt=too_much)))

    def test_the_largest_record_there_is_fits(self) -> None:
        largest = seal(ME, "k" * 32, KEY, bytes(MAX_VALUE), salt=bytes(MAX_SALT))
        self.assertLessEqual(len(largest.raw), MAX_RECORD)
        self.assertEqual(Record.open(largest.raw, NETWORK, NOW), largest)
        # It is not even decoded.
        self.assertIn("of 33793 bytes", self.refuse(RecordTooLarge, bytes(MAX_RECORD + 1)))
        self.refuse(RecordMalformed, bytes(MAX_RECORD))

    def test_each_field_has_its_form(self) -> None:
        for changed in (
            {"network": bytes(15)},
            {"network": bytes(17)},
            {"network": "n" * 16},
            {"kind": ""},
            {"kind": "Mutable"},
            {"kind": "k" * 33},
            {"kind": "mutable\n"},
            {"kind": b"mutable"},
            {"key": bytes(31)},
            {"key": bytes(33)},
            {"salt": None},
            {"sequence": 1.0},
            {"sequence": "1"},
            {"expires": None},
            {"value": "hello"},
            {"value": [b"hello"]},
            {"more": b""},
        ):
            with self.subTest(changed):
                self.refuse(RecordMalformed, signed(fields(**changed)))
        self.refuse(RecordMalformed, signed(fields()[:-1]))
        self.assertRaises(RecordMalformed, seal, ME, "mutable", bytes(31))
        self.assertRaises(RecordMalformed, seal, ME, "Mutable", KEY)

    def test_one_content_has_one_encoding(self) -> None:
        long = PAYLOAD.replace(b"\xc4\x05hello", b"\xc5\x00\x05hello")
        self.refuse(RecordMalformed, signed(long))
        # What anybody could do on the way without the owner's key.
        signature = ME.sign(DHT_RECORD, PAYLOAD)
        for front, before_payload, before_signature in (
            (b"\x94\xacdht-record/1\xc5\x00\x20", b"\xc4\x5d", b"\xc4\x40"),
            (b"\x94\xacdht-record/1\xc4\x20", b"\xc5\x00\x5d", b"\xc4\x40"),
            (b"\x94\xacdht-record/1\xc4\x20", b"\xc4\x5d", b"\xc5\x00\x40"),
            (b"\x94\xd9\x0cdht-record/1\xc4\x20", b"\xc4\x5d", b"\xc4\x40"),
            (b"\xdc\x00\x04\xacdht-record/1\xc4\x20", b"\xc4\x5d", b"\xc4\x40"),
        ):
            raw = front + ME.public.raw + before_payload + PAYLOAD + before_signature + signature
            # It is a good envelope, and so would be a record.
            self.assertEqual(Envelope.open(raw, DHT_RECORD).payload, PAYLOAD)
            self.assertIn("shortest", self.refuse(RecordMalformed, raw))

    def test_payloads_around_the_border_of_short_lengths(self) -> None:
        around = len(PAYLOAD) - len(b"hello")
        for size in range(254 - around, 258 - around):
            record = mutable(ME, bytes(size))
            self.assertEqual(Record.open(record.raw, NETWORK, NOW), record)
        self.assertEqual(msgspec.msgpack.decode(mutable(ME, bytes(300)).raw)[0], DHT_RECORD)

    def test_what_is_kept_is_read_whatever_the_time(self) -> None:
        self.assertEqual(Record.reopen(RAW), Record.open(RAW, NETWORK, NOW))
        self.assertRaises(RecordMalformed, Record.reopen, RAW[:-1])
