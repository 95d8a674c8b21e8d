"""Tests of L{meshkit.shs.egregore_stream}: frames, messages in pieces, the goodbye."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FrameTooLarge, MalformedFrame, MeshkitError, TamperedStream
from meshkit.shs.egregore_stream import (
    MAX_BODY,
    MAX_FRAME,
    MAX_MESSAGE,
    SEALED_HEADER,
    MessageOpener,
    MessageSealer,
    record,
    split,
)
from tests.shs import egregore_vectors as known
from tests.shs.common import pieces

KEY, NONCE = b"k" * 32, b"\xff" * 23 + b"\xfe"


def sealer() -> MessageSealer:
    return MessageSealer(KEY, NONCE)


def opener() -> MessageOpener:
    return MessageOpener(KEY, NONCE)


def all_of(stream: MessageOpener) -> list[bytes]:
    messages = []
    while data := stream.read():
        messages += split(data)
    return messages


def seal(message: bytes, number: int) -> bytes:
    """What the page calls AEAD, under the nonce of this number."""
    nonce = ((int.from_bytes(NONCE, "big") + number) % (1 << 192)).to_bytes(24, "big")
    return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(message, None, nonce, KEY)


def frame(body: bytes, *, length: int | None = None, number: int = 0) -> bytes:
    """A frame by the page, with another length in its header where one is given."""
    sealed = seal(body, number + 1)
    stated = len(body) if length is None else length
    text = seal(stated.to_bytes(2, "big") + sealed[-16:], number) + sealed[:-16]
    return len(text).to_bytes(4, "big") + text


class KnownAnswerTests(SynchronousTestCase):
    """Byte for byte what Egregore's own nodes send."""

    def test_a_message_and_the_goodbye(self) -> None:
        stream = MessageSealer(known.CLIENT_TO_SERVER_KEY, known.CLIENT_TO_SERVER_NONCE)
        self.assertEqual(stream.box(record(known.FIRST_MESSAGE)), known.FIRST_FRAME)
        self.assertEqual(stream.goodbye(), known.GOODBYE_FRAME)

    def test_are_read_again(self) -> None:
        stream = MessageOpener(known.CLIENT_TO_SERVER_KEY, known.CLIENT_TO_SERVER_NONCE)
        stream.feed(known.FIRST_FRAME + known.GOODBYE_FRAME)
        self.assertEqual(all_of(stream), [known.FIRST_MESSAGE])
        self.assertTrue(stream.ended)


class StreamTests(SynchronousTestCase):
    """What goes in comes out."""

    @given(
        st.lists(st.integers(0, 3 * MAX_BODY), max_size=5), st.integers(0, 99), st.integers(1, 9999)
    )
    def test_messages_of_any_size_in_pieces_of_any_size(
        self, sizes: list[int], seed: int, largest: int
    ) -> None:
        messages = [Random(seed + n).randbytes(size) for n, size in enumerate(sizes)]
        sending, receiving = sealer(), opener()
        data = sending.box(b"".join(map(record, messages))) + sending.goodbye()
        got: list[bytes] = []
        for piece in pieces(data, Random(seed), largest):
            receiving.feed(piece)
            got += all_of(receiving)
        self.assertEqual(got, messages)
        self.assertTrue(receiving.ended)

    def test_a_message_fills_its_frames(self) -> None:
        for size, frames in ((0, 1), (4095, 1), (4096, 2), (8190, 2), (8191, 3)):
            data = sealer().box(record(bytes(size)))
            self.assertEqual(len(data), size + frames * (4 + SEALED_HEADER + 1), size)

    def test_the_largest_message(self) -> None:
        receiving = opener()
        receiving.feed(sealer().box(record(b"x" * MAX_MESSAGE)))
        self.assertEqual(all_of(receiving), [b"x" * MAX_MESSAGE])

    def test_the_nonce_carries_and_never_repeats(self) -> None:
        # It begins at ...fe: a counter of its last byte alone would soon be used up.
        sending = sealer()
        frames = {sending.box(record(b"the same")) for _ in range(600)}
        self.assertEqual(len(frames), 600)
        receiving = opener()
        sending = sealer()
        receiving.feed(b"".join(sending.box(record(b"the same")) for _ in range(600)))
        self.assertEqual(all_of(receiving), [b"the same"] * 600)

    def test_equal_messages_give_different_frames(self) -> None:
        sending = sealer()
        seen = {sending.box(record(b""))[:20] for _ in range(20_000)}
        self.assertEqual(len(seen), 20_000)

    def test_a_read_gives_a_bounded_amount_and_the_rest_waits_sealed(self) -> None:
        receiving = opener()
        receiving.feed(sealer().box(record(b"x" * 1000) * 300))
        before = receiving.pending
        self.assertLess(len(receiving.read()), 70_000)
        self.assertGreater(receiving.pending, before // 2)

    def test_records_are_written_whole(self) -> None:
        self.assertRaises(ValueError, sealer().box, record(b"abc")[:-1])
        self.assertRaises(ValueError, sealer().box, b"\0\0")
        self.assertRaises(ValueError, sealer().box, (MAX_MESSAGE + 1).to_bytes(4, "big"))
        self.assertRaises(ValueError, record, bytes(MAX_MESSAGE + 1))

    def test_nothing_follows_the_goodbye(self) -> None:
        sending = sealer()
        sending.goodbye()
        self.assertRaises(RuntimeError, sending.box, record(b""))
        self.assertRaises(RuntimeError, sending.goodbye)
        receiving = opener()
        receiving.feed(sealer().goodbye() + b"whatever")
        self.assertEqual((receiving.read(), receiving.ended), (b"", True))
        receiving.feed(b"more")
        self.assertEqual(receiving.pending, 0)


class RefusalTests(SynchronousTestCase):
    """What no node that follows the protocol sends."""

    def refused(self, error: type[MeshkitError], data: bytes) -> str:
        receiving = opener()
        receiving.feed(data)
        first = self.assertRaises(error, receiving.read)
        # It stays so.
        receiving.feed(sealer().box(record(b"good")))
        self.assertRaises(error, receiving.read)
        return str(first)

    @given(st.integers(0, 2000), st.integers(0, 7))
    def test_any_changed_bit(self, at: int, bit: int) -> None:
        data = bytearray(sealer().box(record(b"m" * 300)))
        data[at % len(data)] ^= 1 << bit
        receiving = opener()
        receiving.feed(bytes(data))
        try:
            self.assertEqual(receiving.read(), b"")
        except (TamperedStream, FrameTooLarge, MalformedFrame):
            return
        # A longer frame was announced: the rest is waited for.
        self.assertLess(at % len(data), 4)

    def test_repeated_dropped_and_swapped_frames(self) -> None:
        sending = sealer()
        one, two, three = (sending.box(record(text)) for text in (b"1", b"2", b"3"))
        for wrong in (one + one, two, one + three):
            receiving = opener()
            receiving.feed(wrong)
            with self.assertRaises(TamperedStream):
                for _ in range(3):
                    receiving.read()

    def test_what_came_before_the_broken_frame_is_given_out(self) -> None:
        receiving = opener()
        receiving.feed(sealer().box(record(b"good")) + bytes(60))
        self.assertEqual(split(receiving.read()), [b"good"])
        self.assertRaises(MalformedFrame, receiving.read)

    def test_an_announced_length_is_judged_before_it_is_waited_for(self) -> None:
        self.refused(FrameTooLarge, (MAX_FRAME + 1).to_bytes(4, "big"))
        self.refused(FrameTooLarge, b"\xff" * 4)
        self.refused(MalformedFrame, bytes(4))
        self.refused(MalformedFrame, (SEALED_HEADER - 1).to_bytes(4, "big"))

    def test_a_header_that_states_another_length(self) -> None:
        self.assertIn("header says 5", self.refused(MalformedFrame, frame(b"\0abc", length=5)))

    def test_prefixes_that_do_not_exist(self) -> None:
        self.refused(MalformedFrame, frame(b"\x02x"))
        self.refused(MalformedFrame, frame(b"{" + b'"type":"done"}'))
        self.refused(MalformedFrame, frame(b""))

    def test_a_message_that_grows_without_end(self) -> None:
        count = MAX_MESSAGE // 4095 + 2
        data = b"".join(frame(b"\x01" + bytes(4095), number=2 * n) for n in range(count))
        self.refused(FrameTooLarge, data)

    def test_a_goodbye_in_the_middle_of_a_message(self) -> None:
        goodbye = seal(bytes(18), 2)
        text = frame(b"\x01begun") + len(goodbye).to_bytes(4, "big") + goodbye
        self.refused(MalformedFrame, text)

    def test_a_goodbye_with_something_behind_it_in_its_frame(self) -> None:
        goodbye = seal(bytes(18), 0) + b"x"
        self.refused(MalformedFrame, len(goodbye).to_bytes(4, "big") + goodbye)
