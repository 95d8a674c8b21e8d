"""Tests of L{meshkit.relay.tunnel.wire}."""

from __future__ import annotations

import contextlib

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    CircuitRefused,
    FrameTooLarge,
    MalformedFrame,
    RelayNoReservation,
)
from meshkit.relay.tunnel.wire import (
    MAX_FRAME,
    Answer,
    FrameReader,
    Join,
    Open,
    Reserved,
    decode_answer,
    decode_opening,
    encode_frame,
    refusal,
    refused,
)

FRAMES = (Open(bytes(range(32))), Join(bytes(range(16))), Answer(seconds=120, size=131_072))


class _Older(msgspec.Struct, array_like=True, frozen=True):
    """What a relay has answered before it could say where it does STUN."""

    voucher: bytes
    seconds: int


class ReservedTests(SynchronousTestCase):
    def test_older_ones_understand_the_answer_and_are_understood(self) -> None:
        new = msgspec.msgpack.encode(Reserved(b"voucher", 60, 3478))
        self.assertEqual(msgspec.msgpack.decode(new, type=_Older), _Older(b"voucher", 60))
        old = msgspec.msgpack.encode(_Older(b"voucher", 60))
        self.assertEqual(msgspec.msgpack.decode(old, type=Reserved), Reserved(b"voucher", 60, 0))

    def test_what_is_no_port_is_refused(self) -> None:
        for port in (-1, 65_536, "3478", None):
            with self.assertRaises(msgspec.ValidationError):
                msgspec.convert([b"voucher", 60, port], Reserved)


class FrameTests(SynchronousTestCase):
    """The one frame of each direction."""

    def test_the_bytes_are_those_of_the_page(self) -> None:
        self.assertEqual(
            encode_frame(FRAMES[0]), b"\x00\x28\x92\xa4open\xc4\x20" + bytes(range(32))
        )
        self.assertEqual(
            encode_frame(FRAMES[1]), b"\x00\x18\x92\xa4join\xc4\x10" + bytes(range(16))
        )
        self.assertEqual(encode_frame(FRAMES[2]), b"\x00\x09\x94\xa0\xa0\x78\xce\x00\x02\x00\x00")

    def test_it_is_found_however_it_is_cut_with_what_comes_behind_it(self) -> None:
        for frame in FRAMES:
            whole = encode_frame(frame) + b"behind"
            for cut in range(1, len(whole)):
                reader = FrameReader()
                found = reader.feed(whole[:cut])
                rest = whole[cut:]
                if found is None:
                    found, rest = reader.feed(rest), b""
                assert found is not None
                read = decode_answer if isinstance(frame, Answer) else decode_opening
                self.assertEqual(read(found[0]), frame)
                self.assertEqual(found[1] + rest, b"behind")

    def test_one_that_is_too_long_is_refused_by_its_length_alone(self) -> None:
        FrameReader().feed(MAX_FRAME.to_bytes(2, "big"))
        self.assertRaises(FrameTooLarge, FrameReader().feed, (MAX_FRAME + 1).to_bytes(2, "big"))

    @given(st.binary(max_size=MAX_FRAME))
    def test_garbage_is_refused(self, body: bytes) -> None:
        for decode in (decode_opening, decode_answer):
            with contextlib.suppress(MalformedFrame):
                decode(body)

    def test_keys_and_ids_of_the_wrong_length_are_refused(self) -> None:
        for body in (["open", bytes(31)], ["join", bytes(17)], ["open", bytes(32), 1], ["what"]):
            self.assertRaises(MalformedFrame, decode_opening, msgspec.msgpack.encode(body))

    def test_a_refusal_comes_out_as_the_error_it_was(self) -> None:
        error = refused(refusal(RelayNoReservation("nobody " + "x" * 1000)))
        self.assertIsInstance(error, RelayNoReservation)
        self.assertIn("nobody xxx", str(error))
        self.assertLessEqual(len(encode_frame(refusal(RelayNoReservation("é" * 1000)))), MAX_FRAME)

    def test_an_unknown_refusal_is_one_all_the_same(self) -> None:
        error = refused(Answer("SOMETHING_NEW", ""))
        self.assertIsInstance(error, CircuitRefused)
        self.assertIn("SOMETHING_NEW", str(error))
