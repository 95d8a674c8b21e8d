"""Tests of L{meshkit.gossip.codec}."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FrameTooLarge, MalformedFrame
from meshkit.feed.message import MAX_MESSAGE_BYTES
from meshkit.gossip.codec import (
    MAX_ENTRIES,
    MAX_FRAME,
    PAGE_BYTES,
    PAGE_MESSAGES,
    Done,
    Frame,
    FrameDecoder,
    Have,
    Messages,
    Want,
    encode,
)
from meshkit.testing.strategies import chunkings, key_bytes

A, B = b"a" * 32, b"b" * 32
FRAMES: list[Frame] = [
    Have([(A, 0), (B, 2**63 - 1)]),
    Want([(A, 7)]),
    Messages(A, [b"", b"text", b"\x00" * 300]),
    Done(B),
]

entries = st.lists(st.tuples(key_bytes(), st.integers(0, 2**63 - 1)), min_size=1, max_size=5)
frames = st.one_of(
    st.builds(Have, entries),
    st.builds(Want, entries),
    st.builds(Messages, key_bytes(), st.lists(st.binary(max_size=50), min_size=1, max_size=5)),
    st.builds(Done, key_bytes()),
)


def raw(body: Any) -> bytes:
    data = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    return len(data).to_bytes(4, "big") + data


def decode(*pieces: bytes) -> list[Frame]:
    decoder = FrameDecoder()
    return [frame for piece in pieces for frame in decoder.receive(piece)]


class Known(SynchronousTestCase):
    def test_the_bytes_are_those_of_the_document(self) -> None:
        """Written by hand from docs/protocol/gossip.md and the MessagePack specification."""
        self.assertEqual(
            encode(Have([(A, 1)])),
            b"\x00\x00\x00\x2b" + b"\x92\xa4have\x91\x92\xc4\x20" + A + b"\x01",
        )
        self.assertEqual(
            encode(Want([(A, 300)])),
            b"\x00\x00\x00\x2d" + b"\x92\xa4want\x91\x92\xc4\x20" + A + b"\xcd\x01\x2c",
        )
        self.assertEqual(
            encode(Messages(A, [b"xy"])),
            b"\x00\x00\x00\x31" + b"\x93\xa8messages\xc4\x20" + A + b"\x91\xc4\x02xy",
        )
        self.assertEqual(encode(Done(A)), b"\x00\x00\x00\x28" + b"\x92\xa4done\xc4\x20" + A)


class Pieces(SynchronousTestCase):
    def setUp(self) -> None:
        self.stream = b"".join(map(encode, FRAMES))

    def test_all_at_once(self) -> None:
        self.assertEqual(decode(self.stream), FRAMES)

    def test_byte_by_byte(self) -> None:
        self.assertEqual(decode(*(bytes([byte]) for byte in self.stream)), FRAMES)

    @given(st.lists(frames, max_size=5), st.data())
    def test_any_pieces(self, said: list[Frame], data: st.DataObject) -> None:
        stream = b"".join(map(encode, said))
        self.assertEqual(decode(*data.draw(chunkings(stream))), said)

    def test_every_truncation_gives_whole_frames_only(self) -> None:
        ends = []
        for frame in FRAMES:
            ends.append((ends[-1] if ends else 0) + len(encode(frame)))
        for length in range(len(self.stream)):
            decoder = FrameDecoder()
            found = list(decoder.receive(self.stream[:length]))
            self.assertEqual(found, FRAMES[: sum(end <= length for end in ends)])
            self.assertEqual(decoder.mid_frame, length not in (0, *ends))

    def test_frames_are_taken_one_by_one(self) -> None:
        decoder = FrameDecoder()
        decoder.feed(self.stream)
        self.assertEqual([decoder.next_frame() for _ in range(5)], [*FRAMES, None])
        self.assertFalse(decoder.mid_frame)

    def test_a_frame_keeps_its_bytes_when_more_come(self) -> None:
        decoder = FrameDecoder()
        (first,) = decoder.receive(encode(Messages(A, [b"first"])))
        list(decoder.receive(encode(Messages(A, [b"other"]))))
        self.assertEqual(first, Messages(A, [b"first"]))


class Limits(SynchronousTestCase):
    def refuse(self, error: type[Exception], data: bytes) -> Exception:
        decoder = FrameDecoder()
        decoder.feed(data)
        return self.assertRaises(error, decoder.next_frame)

    def test_a_frame_that_announces_too_much_is_refused_by_its_length_alone(self) -> None:
        self.refuse(FrameTooLarge, (MAX_FRAME + 1).to_bytes(4, "big"))
        self.refuse(FrameTooLarge, b"\xff\xff\xff\xff")

    def test_a_frame_of_the_largest_size_is_read(self) -> None:
        empty = len(encode(Messages(A, [b"x" * 70_000]))) - 4 - 70_000
        frame = Messages(A, [b"x" * (MAX_FRAME - empty)])
        self.assertEqual(len(encode(frame)), 4 + MAX_FRAME)
        self.assertEqual(decode(encode(frame)), [frame])

    def test_the_largest_message_and_the_fullest_page_fit(self) -> None:
        largest = Messages(A, [b"x" * MAX_MESSAGE_BYTES])
        self.assertLess(len(encode(largest)), MAX_FRAME)
        full = Messages(A, [b"x" * (PAGE_BYTES // PAGE_MESSAGES)] * PAGE_MESSAGES)
        self.assertLess(len(encode(full)), MAX_FRAME)
        self.assertLess(len(encode(Have([(A, 2**63 - 1)] * MAX_ENTRIES))), MAX_FRAME)

    def test_the_numbers_of_entries_at_the_limit_and_beyond(self) -> None:
        for kind in (Have, Want):
            most = kind([(A, 1)] * MAX_ENTRIES)
            self.assertEqual(decode(encode(most)), [most])
            self.refuse(MalformedFrame, encode(kind([(A, 1)] * (MAX_ENTRIES + 1))))
            self.refuse(MalformedFrame, encode(kind([])))
        most_texts = Messages(A, [b"x"] * PAGE_MESSAGES)
        self.assertEqual(decode(encode(most_texts)), [most_texts])
        self.refuse(MalformedFrame, encode(Messages(A, [b"x"] * (PAGE_MESSAGES + 1))))
        self.refuse(MalformedFrame, encode(Messages(A, [])))

    def test_the_numbers_at_the_limit_and_beyond(self) -> None:
        self.assertEqual(len(decode(raw(["have", [[A, 0], [A, 2**63 - 1]]]))), 1)
        for sequence in (-1, 2**63, 2**64 - 1, 1.0, "1", None, True):
            self.refuse(MalformedFrame, raw(["have", [[A, sequence]]]))

    def test_what_is_none_of_the_four_is_refused(self) -> None:
        for body in (
            b"",
            b"\xc1",
            b"\x92\xa4have",
            [],
            {},
            None,
            7,
            "have",
            ["have"],
            ["push", A],
            [0, A],
            ["have", A],
            ["have", [A, 1]],
            ["have", [[A]]],
            ["have", [[A, 1, 1]]],
            ["have", [[A[:31], 1]]],
            ["have", [[A + b"x", 1]]],
            ["have", [["a" * 32, 1]]],
            ["done"],
            ["done", A[:31]],
            ["messages", A],
            ["messages", A, "text"],
            ["messages", A, ["text"]],
            ["messages", A, [1]],
            raw(["done", A])[4:] + b"\x00",
            b"\x92\xa4\xff\xff\xff\xff\xc4\x20" + A,
        ):
            with self.subTest(body=body):
                self.refuse(MalformedFrame, raw(body))

    @given(st.binary(max_size=200))
    def test_no_bytes_raise_anything_else(self, data: bytes) -> None:
        with contextlib.suppress(FrameTooLarge, MalformedFrame):
            decode(data, raw(data))
