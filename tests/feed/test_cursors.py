"""Tests of L{meshkit.feed.cursors}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidRequest
from meshkit.feed.cursors import CURSOR_CHARS, read_cursor, write_cursor

numbers = st.integers(-(2**63), 2**63 - 1)
places = st.tuples(numbers, numbers)
SUBJECT = ["list", "ab", None, 7]


class Cursors(SynchronousTestCase):
    @given(places)
    def test_a_cursor_leads_back_to_its_place(self, place: tuple[int, int]) -> None:
        text = write_cursor(SUBJECT, place)
        self.assertEqual(len(text), CURSOR_CHARS)
        self.assertEqual(read_cursor(SUBJECT, text), place)

    @given(places, st.integers(0, CURSOR_CHARS - 1), st.characters())
    def test_an_altered_cursor_is_refused(
        self, place: tuple[int, int], at: int, letter: str
    ) -> None:
        text = write_cursor(SUBJECT, place)
        altered = text[:at] + letter + text[at + 1 :]
        if altered != text:
            self.assertRaises(InvalidRequest, read_cursor, SUBJECT, altered)

    def test_another_spelling_of_the_same_bytes_is_refused(self) -> None:
        texts = [write_cursor(SUBJECT, (n, -1)) for n in range(50)]
        for text in texts:
            for ours, other in (("-", "+"), ("_", "/")):
                if ours in text:
                    self.assertRaises(
                        InvalidRequest, read_cursor, SUBJECT, text.replace(ours, other)
                    )
        self.assertIn("_", "".join(texts))

    @given(st.text(max_size=80))
    def test_any_other_text_is_refused(self, text: str) -> None:
        self.assertRaises(InvalidRequest, read_cursor, SUBJECT, text)

    def test_a_cut_or_longer_cursor_is_refused(self) -> None:
        text = write_cursor(SUBJECT, (1, 2))
        for other in (text[:-1], text[:-4], text + "A", text + "====", " " + text, text + "\n", ""):
            with self.subTest(other=other):
                error = self.assertRaises(InvalidRequest, read_cursor, SUBJECT, other)
                self.assertEqual(error.details, {"field": "cursor"})

    def test_a_cursor_of_another_list_is_refused(self) -> None:
        text = write_cursor(SUBJECT, (1, 2))
        for subject in (
            ["list", "ab", None, 8],
            ["list", "ab", 7, None],
            ["search", "ab", None, 7],
        ):
            with self.subTest(subject=subject):
                self.assertRaises(InvalidRequest, read_cursor, subject, text)
