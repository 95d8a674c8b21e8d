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
    MAX_TEXT,
    MAX_TOPIC,
    PAGE_BYTES,
    PAGE_MESSAGES,
    Credit,
    Frame,
    FrameDecoder,
    Gone,
    Hello,
    Interest,
    Messages,
    Note,
    Ping,
    Pong,
    Proof,
    Ranges,
    Stopped,
    Tagged,
    encode,
)
from meshkit.gossip.reconcile import STEP_BYTES
from meshkit.testing.strategies import chunkings, key_bytes

A, B = b"a" * 32, b"b" * 32
FRAMES: list[Frame] = [
    Hello(b"n" * 16),
    Interest(False, [A, B], ["python", "säge"], True),
    Ranges(7, 3, True, b"\x00\xfe"),
    Note([(A, 0, 0), (B, 2**63 - 1, 3)]),
    Stopped([A]),
    Messages(A, 5, [b"", b"text", b"\x00" * 300]),
    Gone(B, 9, A, b"next"),
    Gone(B, 9, A, b""),
    Tagged(B, b"text"),
    Proof(A, b"one", b"other"),
    Credit(256, 2**40),
    Ping(0),
    Pong(2**32 - 1),
]

entries = st.lists(
    st.tuples(key_bytes(), st.integers(0, 2**63 - 1), st.integers(0, 3)), min_size=1, max_size=5
)
texts = st.lists(st.binary(max_size=50), min_size=1, max_size=5)
authors = st.lists(key_bytes(), max_size=3)
words = st.integers(0, 2**32 - 1)
frames = st.one_of(
    st.builds(Hello, st.binary(min_size=16, max_size=16)),
    st.builds(Interest, st.booleans(), authors, st.lists(st.text("ab", min_size=1)), st.booleans()),
    st.builds(Ranges, words, st.integers(0, 255), st.booleans(), st.binary(max_size=50)),
    st.builds(Note, entries),
    st.builds(Messages, key_bytes(), st.integers(1, 2**63 - 1), texts),
    st.builds(Gone, key_bytes(), st.integers(1, 2**63 - 1), key_bytes(), st.binary(max_size=99)),
    st.builds(Tagged, key_bytes(), st.binary(min_size=1, max_size=99)),
    st.builds(Proof, key_bytes(), st.binary(max_size=50), st.binary(max_size=50)),
    st.builds(Credit, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    st.builds(Ping, words),
    st.builds(Pong, words),
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
        for frame, body in (
            (Hello(b"n" * 16), b"\x92\xa5hello\xc4\x10" + b"n" * 16),
            (
                Interest(False, [A], ["t"], True),
                b"\x95\xa8interest\xc2\x91\xc4\x20" + A + b"\x91\xa1t\xc3",
            ),
            (Ranges(1, 2, False, b"xy"), b"\x95\xa6ranges\x01\x02\xc2\xc4\x02xy"),
            (
                Note([(A, 300, 3)]),
                b"\x92\xa4note\x91\x93\xc4\x20" + A + b"\xcd\x01\x2c\x03",
            ),
            (Stopped([A]), b"\x92\xa7stopped\x91\xc4\x20" + A),
            (
                Messages(A, 1, [b"xy"]),
                b"\x94\xa8messages\xc4\x20" + A + b"\x01\x91\xc4\x02xy",
            ),
            (Gone(A, 1, B, b"t"), b"\x95\xa4gone\xc4\x20" + A + b"\x01\xc4\x20" + B + b"\xc4\x01t"),
            (Tagged(A, b"t"), b"\x93\xa6tagged\xc4\x20" + A + b"\xc4\x01t"),
            (Proof(A, b"x", b"y"), b"\x94\xa5proof\xc4\x20" + A + b"\xc4\x01x\xc4\x01y"),
            (Credit(1, 300), b"\x93\xa6credit\x01\xcd\x01\x2c"),
            (Ping(1), b"\x92\xa4ping\x01"),
            (Pong(1), b"\x92\xa4pong\x01"),
        ):
            self.assertEqual(encode(frame), len(body).to_bytes(4, "big") + body)


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
        self.assertEqual([decoder.next_frame() for _ in range(len(FRAMES) + 1)], [*FRAMES, None])
        self.assertFalse(decoder.mid_frame)

    def test_a_frame_keeps_its_bytes_when_more_come(self) -> None:
        decoder = FrameDecoder()
        (first,) = decoder.receive(encode(Messages(A, 1, [b"first"])))
        list(decoder.receive(encode(Messages(A, 1, [b"other"]))))
        self.assertEqual(first, Messages(A, 1, [b"first"]))


class Limits(SynchronousTestCase):
    def refuse(self, error: type[Exception], data: bytes) -> Exception:
        decoder = FrameDecoder()
        decoder.feed(data)
        return self.assertRaises(error, decoder.next_frame)

    def test_a_frame_that_announces_too_much_is_refused_by_its_length_alone(self) -> None:
        self.refuse(FrameTooLarge, (MAX_FRAME + 1).to_bytes(4, "big"))
        self.refuse(FrameTooLarge, b"\xff\xff\xff\xff")

    def test_a_frame_of_the_largest_size_is_read(self) -> None:
        texts = [b"x" * MAX_TEXT, b"x" * MAX_TEXT]
        empty = len(encode(Messages(A, 1, [*texts, b"x" * 300]))) - 4 - 300
        frame = Messages(A, 1, [*texts, b"x" * (MAX_FRAME - empty)])
        self.assertEqual(len(encode(frame)), 4 + MAX_FRAME)
        self.assertEqual(decode(encode(frame)), [frame])

    def test_the_largest_of_everything_fits(self) -> None:
        self.assertGreaterEqual(MAX_TEXT, MAX_MESSAGE_BYTES)
        text = b"x" * MAX_TEXT
        for frame in (
            Messages(A, 1, [text]),
            Messages(A, 1, [b"x" * (PAGE_BYTES // PAGE_MESSAGES)] * PAGE_MESSAGES),
            Proof(A, text, text),
            Note([(A, 2**63 - 1, 3)] * MAX_ENTRIES),
            Interest(False, [A] * MAX_ENTRIES, ["t" * MAX_TOPIC] * (MAX_ENTRIES - 300), True),
        ):
            self.assertLess(len(encode(frame)), MAX_FRAME)
        self.assertLessEqual(len(encode(Ranges(9, 9, True, bytes(STEP_BYTES)))), 64 * 1024)

    def test_the_numbers_of_entries_at_the_limit_and_beyond(self) -> None:
        def ends(make: Any, most: int, least: int = 1) -> None:
            self.assertEqual(decode(encode(make(most))), [make(most)])
            self.refuse(MalformedFrame, encode(make(most + 1)))
            if least:
                self.refuse(MalformedFrame, encode(make(least - 1)))

        ends(lambda n: Note([(A, 1, 1)] * n), MAX_ENTRIES)
        ends(lambda n: Stopped([A] * n), MAX_ENTRIES)
        ends(lambda n: Messages(A, 1, [b"x"] * n), PAGE_MESSAGES)
        ends(lambda n: Messages(A, 1, [b"x" * n]), MAX_TEXT, least=0)
        ends(lambda n: Proof(A, b"x" * n, b""), MAX_TEXT, least=0)
        ends(lambda n: Interest(False, [A] * n, [], False), MAX_ENTRIES, least=0)
        ends(lambda n: Interest(False, [], ["t"] * n, False), MAX_ENTRIES, least=0)
        ends(lambda n: Interest(False, [], ["t" * n], False), MAX_TOPIC)
        ends(lambda n: Ranges(1, 1, False, bytes(n)), STEP_BYTES, least=0)
        ends(lambda n: Hello(bytes(n)), 16, least=16)

    def test_the_numbers_at_the_limit_and_beyond(self) -> None:
        self.assertEqual(len(decode(raw(["note", [[A, 0, 0], [A, 2**63 - 1, 3]]]))), 1)
        for sequence in (-1, 2**63, 2**64 - 1, 1.0, "1", None, True):
            self.refuse(MalformedFrame, raw(["note", [[A, sequence, 1]]]))
            self.refuse(MalformedFrame, raw(["credit", sequence, 1]))
        for flags in (-1, 4, None):
            self.refuse(MalformedFrame, raw(["note", [[A, 1, flags]]]))
        self.refuse(MalformedFrame, raw(["messages", A, 0, [b"x"]]))
        self.refuse(MalformedFrame, raw(["gone", A, 0, B, b""]))
        self.refuse(MalformedFrame, raw(["tagged", A, b""]))
        self.refuse(MalformedFrame, raw(["ping", 2**32]))
        self.refuse(MalformedFrame, raw(["ranges", 1, 256, False, b""]))

    def test_what_is_none_of_them_is_refused(self) -> None:
        for body in (
            b"",
            b"\xc1",
            b"\x92\xa4note",
            [],
            {},
            None,
            7,
            "note",
            ["note"],
            ["have", [[A, 1]]],
            [0, A],
            ["note", A],
            ["note", [A, 1, 1]],
            ["note", [[A, 1]]],
            ["note", [[A, 1, 1, 1]]],
            ["note", [[A[:31], 1, 1]]],
            ["note", [[A + b"x", 1, 1]]],
            ["note", [["a" * 32, 1, 1]]],
            ["stopped"],
            ["stopped", [A[:31]]],
            ["messages", A, 1],
            ["messages", A, 1, "text"],
            ["messages", A, 1, ["text"]],
            ["messages", A, 1, [1]],
            ["interest", 1, [], [], False],
            ["interest", False, [], [b"t"], False],
            raw(["ping", 1])[4:] + b"\x00",
            b"\x92\xa4\xff\xff\xff\xff\xc4\x20" + A,
        ):
            with self.subTest(body=body):
                self.refuse(MalformedFrame, raw(body))

    @given(st.binary(max_size=200))
    def test_no_bytes_raise_anything_else(self, data: bytes) -> None:
        with contextlib.suppress(FrameTooLarge, MalformedFrame):
            decode(data, raw(data))
