"""Tests of L{meshkit.feed.private_box}."""

from __future__ import annotations

import base64
import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import PrivateBoxInvalid
from meshkit.feed.private_box import (
    MAX_RECIPIENTS,
    content_of,
    open_box,
    open_content,
    seal,
)
from meshkit.identity.keys import Identity, PublicKey

SENDER, READER, OTHER = (Identity(bytes([n]) * 32) for n in (3, 4, 5))
NONCE, KEY = bytes(range(12)), bytes(range(32, 64))

#: Made by a probe, and opened by Egregore's own library.
KNOWN = bytes.fromhex(
    "000102030405060708090a0b01e319905711c42e16b032bd37b7076596667326a0bc3d5021341dbf2b7f5eab"
    "48aa573102a0fcda5fb79acd9ffe8fdb7db85fa553ce082cb9a23902916b66fe995791b2dd7110c80908"
)


class PrivateBoxTests(SynchronousTestCase):
    def test_the_known_box(self) -> None:
        self.assertEqual(seal(SENDER, [READER.public], b"hello box", NONCE, KEY), KNOWN)
        self.assertEqual(open_box(READER, SENDER.public, KNOWN), b"hello box")

    @given(st.binary(max_size=200), st.integers(1, 5), st.integers(0, 4))
    def test_every_recipient_opens_it_and_nobody_else(
        self, plaintext: bytes, count: int, at: int
    ) -> None:
        readers = [Identity(bytes([10 + n]) * 32) for n in range(count)]
        box = seal(SENDER, [r.public for r in readers], plaintext, NONCE, KEY)
        self.assertEqual(open_box(readers[at % count], SENDER.public, box), plaintext)
        self.assertIsNone(open_box(OTHER, SENDER.public, box))
        # Said to be from somebody else.
        self.assertIsNone(open_box(readers[0], OTHER.public, box))

    def test_the_sender_can_be_a_recipient(self) -> None:
        box = seal(SENDER, [READER.public, SENDER.public], b"to both", NONCE, KEY)
        self.assertEqual(open_box(SENDER, SENDER.public, box), b"to both")

    def test_the_most_recipients(self) -> None:
        readers = [Identity(n.to_bytes(32, "big")) for n in range(1, MAX_RECIPIENTS + 2)]
        keys = [reader.public for reader in readers]
        box = seal(SENDER, keys[:MAX_RECIPIENTS], b"many", NONCE, KEY)
        self.assertEqual(open_box(readers[254], SENDER.public, box), b"many")
        self.assertRaises(PrivateBoxInvalid, seal, SENDER, keys, b"", NONCE, KEY)

    def test_recipients_that_make_no_sense(self) -> None:
        for recipients in ([], [READER.public] * 2, [PublicKey(bytes(32))]):
            error = self.assertRaises(PrivateBoxInvalid, seal, SENDER, recipients, b"", NONCE, KEY)
            self.assertIn("recipient" if len(recipients) != 1 else "shared", str(error))
        self.assertRaises(ValueError, seal, SENDER, [READER.public], b"", NONCE[1:], KEY)
        self.assertRaises(ValueError, seal, SENDER, [READER.public], b"", NONCE, KEY[1:])

    @given(st.integers(0, len(KNOWN) - 1), st.integers(0, 7))
    def test_a_changed_bit_is_never_read(self, at: int, bit: int) -> None:
        changed = bytearray(KNOWN)
        changed[at] ^= 1 << bit
        with contextlib.suppress(PrivateBoxInvalid):
            self.assertIsNone(open_box(READER, SENDER.public, bytes(changed)))

    @given(st.integers(0, len(KNOWN) - 1))
    def test_a_box_that_is_cut_off(self, length: int) -> None:
        self.assertRaises(PrivateBoxInvalid, open_box, READER, SENDER.public, KNOWN[:length])

    def test_a_box_for_nobody(self) -> None:
        self.assertRaises(PrivateBoxInvalid, open_box, READER, SENDER.public, bytes(60))


class ContentTests(SynchronousTestCase):
    """The content of a message that carries a box."""

    def test_there_and_back(self) -> None:
        content = content_of(SENDER.public, KNOWN, "note/v1")
        self.assertEqual(
            content,
            {
                "type": "private_box",
                "sender": SENDER.public.text,
                "box": base64.b64encode(KNOWN).decode(),
                "inner_schema_id": "note/v1",
            },
        )
        self.assertNotIn("inner_schema_id", content_of(SENDER.public, KNOWN))
        self.assertEqual(open_content(READER, SENDER.public, content), b"hello box")
        self.assertIsNone(open_content(OTHER, SENDER.public, content))

    def test_the_sender_has_to_be_the_author(self) -> None:
        content = content_of(SENDER.public, KNOWN)
        error = self.assertRaises(PrivateBoxInvalid, open_content, READER, OTHER.public, content)
        self.assertIn("author", str(error))

    def test_what_is_no_box(self) -> None:
        good = content_of(SENDER.public, KNOWN)
        for bad in (
            None,
            [],
            {},
            good | {"type": "note"},
            good | {"box": 7},
            good | {"box": "a b"},
            good | {"box": ""},
        ):
            self.assertRaises(PrivateBoxInvalid, open_content, READER, SENDER.public, bad)
