"""Tests of L{meshkit.crypto.pasteable}."""

from __future__ import annotations

import base64
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto.pasteable import TextForm

FORM = TextForm("mktest1-", 32)
DATA = bytes(range(32))
TEXT = FORM.write(DATA)

#: The alphabet of base32, lower case.
LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


class Pasteable(SynchronousTestCase):
    def refused(self, text: str, why: str) -> None:
        with self.assertRaisesRegex(ValueError, why) as caught:
            FORM.read(text)
        self.assertNotIn(TEXT[10:20], str(caught.exception))

    def test_from_the_page_alone(self) -> None:
        checksum = sha256(b"meshkit/text/1" + b"mktest1-" + DATA).digest()[:4]
        encoded = base64.b32encode(DATA + checksum).decode().rstrip("=").lower()
        self.assertEqual(TEXT, "mktest1-" + encoded)
        self.assertEqual(len(encoded), 58)

    @given(st.binary(min_size=0, max_size=99))
    def test_what_is_read_is_what_was_written(self, data: bytes) -> None:
        form = TextForm("mk-", len(data))
        self.assertEqual(form.read(form.write(data)), data)
        self.assertEqual(form.read(f"  {form.write(data).upper()}\n"), data)

    def test_every_misspelt_letter(self) -> None:
        start = len(FORM.prefix)
        for at in range(start, len(TEXT)):
            for letter in LETTERS:
                if letter != TEXT[at]:
                    self.refused(TEXT[:at] + letter + TEXT[at + 1 :], "misspelt")

    def test_letters_that_there_are_not(self) -> None:
        for letter in "018=!- \u00e4\u017f\u0660":
            self.refused(TEXT[:20] + letter + TEXT[21:], "character|copy the whole|misspelt")

    def test_two_letters_in_the_wrong_order(self) -> None:
        for at in range(len(FORM.prefix), len(TEXT) - 1):
            swapped = TEXT[:at] + TEXT[at + 1] + TEXT[at] + TEXT[at + 2 :]
            if swapped != TEXT:
                self.refused(swapped, "misspelt")

    def test_every_truncation(self) -> None:
        for length in range(len(TEXT)):
            self.refused(TEXT[:length], "does not begin|copy the whole")
        self.refused(TEXT + "a", "copy the whole")
        self.refused(TEXT + TEXT, "copy the whole")
        self.refused("mktest1-" + "a" * 10**6, "copy the whole")

    def test_another_kind(self) -> None:
        other = TextForm("mkpest1-", 32)
        self.assertFalse(other.recognises(TEXT))
        self.assertTrue(FORM.recognises(f" {TEXT.upper()}"))
        with self.assertRaisesRegex(ValueError, "does not begin with mkpest1-"):
            other.read(TEXT)
        with self.assertRaisesRegex(ValueError, "misspelt"):
            other.read(other.prefix + TEXT[len(FORM.prefix) :])

    def test_data_of_another_length(self) -> None:
        for data in (b"", DATA[1:], DATA + b"x"):
            with self.assertRaises(ValueError):
                FORM.write(data)

    @given(st.text(max_size=80))
    def test_garbage(self, text: str) -> None:
        self.refused(text, ".")
        self.refused(FORM.prefix + text, ".")
