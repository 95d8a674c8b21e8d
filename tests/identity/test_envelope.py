"""Tests of L{meshkit.identity.envelope}."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import EnvelopeError, StatementForged
from meshkit.identity import contexts
from meshkit.identity.contexts import ADDRESS_RECORD, Context, signing_input
from meshkit.identity.envelope import MAX_ENVELOPE, Envelope
from meshkit.identity.keys import Identity, PublicKey

ME = Identity(bytes(range(32)))
OTHER = Context("other-kind/1")


class Envelopes(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(contexts, "CONTEXTS", frozenset({ADDRESS_RECORD, OTHER}))
        self.sealed = Envelope.seal(ME, ADDRESS_RECORD, b"payload")

    def refuse(self, raw: bytes, context: Context = ADDRESS_RECORD) -> str:
        return str(self.assertRaises(EnvelopeError, Envelope.open, raw, context))

    def made(self, *fields: Any) -> bytes:
        return msgspec.msgpack.encode(fields)

    def test_the_shortest_form_is_known_from_all_others(self) -> None:
        for context in (ADDRESS_RECORD, OTHER):
            for size in (0, 1, 255, 256, 60_000):
                self.assertTrue(Envelope.seal(ME, context, bytes(size)).shortest, size)
        # The array with its length in two bytes: the signature is as good.
        longer = Envelope.open(b"\xdc\x00\x04" + self.sealed.raw[1:], ADDRESS_RECORD)
        self.assertEqual(longer.payload, b"payload")
        self.assertFalse(longer.shortest)

    def test_the_bytes_are_those_of_the_document(self) -> None:
        signature = ME._sign_raw(signing_input(ADDRESS_RECORD, b"payload"))
        self.assertEqual(
            self.sealed.raw,
            b"\x94\xb0address-record/1\xc4\x20"
            + ME.public.raw
            + b"\xc4\x07payload\xc4\x40"
            + signature,
        )

    def test_what_is_sealed_can_be_opened(self) -> None:
        opened = Envelope.open(self.sealed.raw, ADDRESS_RECORD)
        self.assertEqual(opened, self.sealed)
        self.assertEqual(
            (opened.context, opened.signer, opened.payload),
            (ADDRESS_RECORD, ME.public, b"payload"),
        )

    def test_the_verifier_chooses_the_kind(self) -> None:
        message = self.refuse(self.sealed.raw, OTHER)
        self.assertIn("address-record/1", message)
        self.assertIn("other-kind/1", message)

    def test_the_kind_on_the_wire_cannot_be_changed(self) -> None:
        fields = msgspec.msgpack.decode(self.sealed.raw)
        self.refuse(self.made(OTHER, *fields[1:]), OTHER)

    def test_a_kind_that_is_in_no_table_is_not_sealed(self) -> None:
        self.assertRaises(ValueError, Envelope.seal, ME, Context("unknown/1"), b"")

    def test_every_flipped_bit_is_noticed(self) -> None:
        for position in range(8 * len(self.sealed.raw)):
            flipped = bytearray(self.sealed.raw)
            flipped[position // 8] ^= 1 << position % 8
            self.refuse(bytes(flipped))

    def test_every_truncation_and_what_is_behind_is_noticed(self) -> None:
        for length in range(len(self.sealed.raw)):
            self.refuse(self.sealed.raw[:length])
        self.refuse(self.sealed.raw + b"\x00")

    def test_somebody_elses_name_is_noticed(self) -> None:
        fields = msgspec.msgpack.decode(self.sealed.raw)
        for signer in (Identity(bytes(32)).public, PublicKey(bytes(32))):
            raw = self.made(fields[0], signer.raw, *fields[2:])
            self.assertIn(signer.text, self.refuse(raw))
            self.assertRaises(StatementForged, Envelope.open, raw, ADDRESS_RECORD)

    def test_what_was_verified_once_is_read_again(self) -> None:
        self.assertEqual(Envelope.reopen(self.sealed.raw, ADDRESS_RECORD), self.sealed)
        for length in range(len(self.sealed.raw)):
            raw = self.sealed.raw[:length]
            self.assertRaises(EnvelopeError, Envelope.reopen, raw, ADDRESS_RECORD)
        self.assertRaises(EnvelopeError, Envelope.reopen, self.sealed.raw, OTHER)

    def test_fields_of_another_form(self) -> None:
        kind, signer, payload, signature = msgspec.msgpack.decode(self.sealed.raw)
        for fields in (
            (kind, signer[:31], payload, signature),
            (kind, signer + b"x", payload, signature),
            (kind, signer, payload, signature[:63]),
            (kind, signer, payload, signature + b"x"),
            (kind, signer, payload),
            (kind, signer, payload, signature, 1),
            (1, signer, payload, signature),
            (kind, "signer", payload, signature),
            (kind, signer, "payload", signature),
            (kind, signer, payload, None),
        ):
            with self.subTest(fields=fields):
                self.refuse(self.made(*fields))
        for raw in (b"", b"\xc0", b"\x80", b"\x94\xa1\xff\xc4\x00\xc4\x00\xc4\x00"):
            self.refuse(raw)

    def test_the_size_is_limited_at_both_ends(self) -> None:
        around = len(self.sealed.raw) - len(b"payload") + 1  # bin 16 instead of bin 8
        most = Envelope.seal(ME, ADDRESS_RECORD, bytes(MAX_ENVELOPE - around))
        self.assertEqual(len(most.raw), MAX_ENVELOPE)
        self.assertEqual(Envelope.open(most.raw, ADDRESS_RECORD), most)
        too_much = bytes(MAX_ENVELOPE - around + 1)
        self.assertRaises(EnvelopeError, Envelope.seal, ME, ADDRESS_RECORD, too_much)
        signature = ME.sign(ADDRESS_RECORD, too_much)
        message = self.refuse(self.made(ADDRESS_RECORD, ME.public.raw, too_much, signature))
        self.assertIn("over the limit", message)

    @given(st.binary(max_size=200))
    def test_no_bytes_raise_anything_else(self, raw: bytes) -> None:
        self.refuse(raw)
