"""Tests of L{meshkit.storage.capability}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import CapabilityInvalid
from meshkit.identity.keys import PublicKey
from meshkit.storage.capability import (
    Capability,
    ReadCapability,
    RepairCapability,
    VerifyCapability,
    expect_capability,
    parse_capability,
)
from meshkit.testing.identities import make_identity

ID, KEY = b"i" * 32, b"k" * 32
READ, VERIFY, REPAIR = (
    ReadCapability(ID, KEY),
    VerifyCapability(ID, make_identity("a").public.raw),
    RepairCapability(ID, KEY),
)
KINDS: tuple[type[Capability], ...] = (ReadCapability, VerifyCapability, RepairCapability)

halves = st.binary(min_size=32, max_size=32)


class Capabilities(SynchronousTestCase):
    @given(halves, halves, st.sampled_from(KINDS))
    def test_what_is_read_is_what_was_written(
        self, content_id: bytes, other: bytes, kind: type[Capability]
    ) -> None:
        there = kind(content_id, other)
        found = parse_capability(there.text)
        self.assertEqual(found, there)
        self.assertIs(type(found), kind)
        self.assertEqual(found.content_id, content_id)

    def test_what_they_hold(self) -> None:
        self.assertEqual(READ.key, KEY)
        self.assertEqual(VERIFY.placement, make_identity("a").public)
        self.assertEqual(REPAIR.identity.seed(), KEY)
        self.assertEqual(REPAIR.verify, VerifyCapability(ID, REPAIR.identity.public.raw))

    def test_they_can_be_pasted(self) -> None:
        self.assertEqual([len(each.text) for each in (READ, VERIFY, REPAIR)], [117, 119, 119])
        for each in (READ, VERIFY, REPAIR):
            self.assertRegex(each.text, r"\Amk(read|verify|repair)1-[a-z2-7]{109}\Z")
            self.assertEqual(parse_capability(f"\n {each.text.upper()} "), each)

    def test_one_is_not_taken_for_another(self) -> None:
        for one in (READ, VERIFY, REPAIR):
            for two in (READ, VERIFY, REPAIR):
                self.assertEqual(one == two, one is two)
                if one is not two:
                    with self.assertRaisesRegex(CapabilityInvalid, f"{one.name}.*{two.name}"):
                        expect_capability(one.text, type(two))
                    body = one.text.partition("-")[2]
                    with self.assertRaisesRegex(CapabilityInvalid, "misspelt"):
                        parse_capability(two.form.prefix + body)
            self.assertEqual(expect_capability(one.text, type(one)), one)

    def test_what_is_none(self) -> None:
        for text in ("", "mkread2-abc", "hello", make_identity("a").public.text):
            with self.assertRaisesRegex(CapabilityInvalid, "mkread1-, mkverify1- or mkrepair1-"):
                parse_capability(text)
        for length in range(8, len(READ.text)):
            with self.assertRaisesRegex(CapabilityInvalid, "copy the whole"):
                parse_capability(READ.text[:length])

    def test_secrets_are_not_shown(self) -> None:
        for each in (READ, REPAIR):
            self.assertEqual(repr(each), f"<{type(each).__name__} {ID.hex()[:16]}>")
        misspelt = READ.text[:-1] + ("a" if READ.text[-1] != "a" else "b")
        with self.assertRaises(CapabilityInvalid) as caught:
            parse_capability(misspelt)
        self.assertNotIn(READ.text[10:30], str(caught.exception))

    def test_halves_of_other_lengths(self) -> None:
        for kind in KINDS:
            for content_id, other in ((ID[1:], KEY), (ID, b""), (ID + b"x", KEY)):
                with self.assertRaises(ValueError):
                    kind(content_id, other)

    def test_a_reader_cannot_repair(self) -> None:
        """Nor the other way round: what they hold is of no use to each other."""
        self.assertFalse({*dir(ReadCapability)} & {"identity", "placement", "verify"})
        self.assertFalse({*dir(RepairCapability)} & {"key"})
        self.assertFalse({*dir(VerifyCapability)} & {"key", "identity"})
        self.assertIsInstance(VERIFY.placement, PublicKey)
