"""Tests of L{meshkit.storage.scheme}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto.merkle import GROUP, LEAF_BYTES
from meshkit.crypto.stream import MAX_SEGMENTS, MAX_TEXT, TAG_BYTES
from meshkit.errors import ObjectTooLarge, SchemeInvalid
from meshkit.storage.scheme import MAX_BLOCK, MAX_SEGMENT_BYTES, MAX_SHARES, Layout, Scheme

schemes = st.builds(
    lambda required, more, leaves: Scheme(required, required + more, leaves * LEAF_BYTES),
    st.integers(1, 16),
    st.integers(0, 9),
    st.integers(1, 8),
)


class Schemes(SynchronousTestCase):
    def test_the_text_form(self) -> None:
        scheme = Scheme.parse("6+3")
        self.assertEqual((scheme.required, scheme.total, scheme.text), (6, 9, "6+3"))
        self.assertEqual(Scheme.parse(" 1+0 "), Scheme(1, 1))
        for text in ("", "6", "6+", "+3", "6-3", "6+3+1", "6/9", "a+b", "-6+3", "6 + 3", "6+1000"):
            with self.assertRaisesRegex(SchemeInvalid, r"6\+3"):
                Scheme.parse(text)
        # Digits of other alphabets.
        with self.assertRaises(SchemeInvalid):
            Scheme.parse("\u0666+\u0663")

    def test_the_usual_blocks(self) -> None:
        """They are whole groups of leaves, and a segment never has more than 16 MiB."""
        for required in range(1, 65):
            scheme = Scheme(required, 100)
            self.assertEqual(scheme.block_bytes, 2**20 if required <= 16 else 2**18)
            self.assertEqual(scheme.block_bytes % (GROUP * LEAF_BYTES), 0)
            self.assertLessEqual(scheme.segment_bytes, MAX_SEGMENT_BYTES)
            self.assertEqual(scheme.text_bytes, scheme.segment_bytes - TAG_BYTES)

    def test_limits(self) -> None:
        for required, total in ((0, 1), (2, 1), (-1, 3), (1, MAX_SHARES + 1), (256, 256)):
            with self.assertRaisesRegex(SchemeInvalid, f"{total} shares"):
                Scheme(required, total, LEAF_BYTES)
        for block in (0, 1, LEAF_BYTES - 1, LEAF_BYTES + 1, MAX_BLOCK + LEAF_BYTES, -LEAF_BYTES):
            with self.assertRaisesRegex(SchemeInvalid, f"{block} bytes"):
                Scheme(1, 1, block)
        with self.assertRaisesRegex(SchemeInvalid, "require fewer"):
            Scheme(65, 100)
        with self.assertRaisesRegex(SchemeInvalid, "require fewer"):
            Scheme(17, 20, MAX_BLOCK)
        Scheme(255, MAX_SHARES, 64 * 1024 - LEAF_BYTES)
        Scheme(16, 16, MAX_BLOCK)


class Layouts(SynchronousTestCase):
    @given(schemes, st.integers(0, 400_000))
    def test_every_byte_is_in_one_place(self, scheme: Scheme, length: int) -> None:
        layout = Layout(scheme, length)
        numbers = range(layout.segments)
        self.assertEqual(sum(map(layout.text_bytes, numbers)), length)
        self.assertEqual(sum(map(layout.sealed_bytes, numbers)), layout.sealed_shape.size)
        self.assertEqual(sum(map(layout.block_bytes, numbers)), layout.share_bytes)
        self.assertEqual(layout.sealed_shape.leaves, layout.segments)
        self.assertEqual([each for each in numbers if layout.is_last(each)], [numbers[-1]])
        for number in numbers:
            self.assertEqual(layout.block_at(number), sum(map(layout.block_bytes, range(number))))
            room = layout.block_bytes(number) * scheme.required
            self.assertTrue(0 <= room - layout.sealed_bytes(number) < scheme.required)
            self.assertEqual(layout.sealed_shape.length(number, 1), layout.sealed_bytes(number))
            if not layout.is_last(number):
                self.assertEqual(layout.block_bytes(number), scheme.block_bytes)
                self.assertEqual(room, layout.sealed_bytes(number))

    @given(schemes, st.integers(1, 300_000), st.integers(0, 310_000), st.integers(0, 310_000))
    def test_which_segments_have_some_bytes(
        self, scheme: Scheme, length: int, start: int, size: int
    ) -> None:
        layout = Layout(scheme, length)
        found = layout.segments_with(start, size)
        expected = [
            number
            for number in range(layout.segments)
            if max(start, number * scheme.text_bytes)
            < min(start + size, number * scheme.text_bytes + layout.text_bytes(number))
        ]
        self.assertEqual(list(found), expected)

    def test_lengths_at_the_borders(self) -> None:
        scheme = Scheme(6, 9)
        room = 6 * 2**20 - 16
        for length, segments, last, block in (
            (0, 1, 0, 3),
            (1, 1, 1, 3),
            (3, 1, 3, 4),
            (room - 1, 1, room - 1, 2**20),
            (room, 1, room, 2**20),
            (room + 1, 2, 1, 3),
            (2 * room, 2, room, 2**20),
        ):
            layout = Layout(scheme, length)
            self.assertEqual(layout.segments, segments)
            self.assertEqual(layout.text_bytes(segments - 1), last)
            self.assertEqual(layout.block_bytes(segments - 1), block)
            self.assertEqual(layout.share_bytes, (segments - 1) * 2**20 + block)
            self.assertEqual(layout.share_shape.size, layout.share_bytes)

    def test_the_longest_objects(self) -> None:
        for scheme in (Scheme(1, 1), Scheme(6, 9), Scheme(64, 100)):
            self.assertLessEqual(Layout(scheme, MAX_TEXT).segments, MAX_SEGMENTS)
            with self.assertRaisesRegex(ObjectTooLarge, "16 TiB"):
                Layout(scheme, MAX_TEXT + 1)
        small = Scheme(1, 1, LEAF_BYTES)
        self.assertEqual(Layout(small, MAX_SEGMENTS * 4080).segments, MAX_SEGMENTS)
        with self.assertRaisesRegex(ObjectTooLarge, "segments"):
            Layout(small, MAX_SEGMENTS * 4080 + 1)
        with self.assertRaises(ValueError):
            Layout(small, -1)

    def test_segments_that_there_are_not(self) -> None:
        layout = Layout(Scheme(1, 1, LEAF_BYTES), 10_000)
        self.assertEqual(layout.segments, 3)
        for number in (-1, 3):
            for ask in (layout.is_last, layout.text_bytes, layout.block_bytes, layout.block_at):
                with self.assertRaisesRegex(ValueError, f"no segment {number}"):
                    ask(number)
        self.assertEqual(list(layout.segments_with(-1, 5)), [])
        self.assertEqual(list(layout.segments_with(10_000, 5)), [])
        self.assertEqual(list(layout.segments_with(9_999, 500)), [2])

    def test_bytes_up_to_the_border_of_a_segment(self) -> None:
        layout = Layout(Scheme(1, 1, LEAF_BYTES), 10_000)
        self.assertEqual(list(layout.segments_with(0, 4_080)), [0])
        self.assertEqual(list(layout.segments_with(0, 4_081)), [0, 1])
        self.assertEqual(list(layout.segments_with(4_079, 2)), [0, 1])
        self.assertEqual(list(layout.segments_with(4_080, 4_080)), [1])
        self.assertEqual(list(layout.segments_with(4_080, 0)), [])
