"""The bytes of MessagePack-RPC."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FrameTooLarge, InvalidRequest, MalformedFrame, MeshkitError, OverRate
from meshkit.rpc.codec import (
    ENVELOPE_BYTES,
    MAX_ERROR,
    MAX_ERROR_TEXT,
    MAX_METHOD,
    MAX_MSGID,
    MAX_NESTING,
    MAX_UNREAD,
    Message,
    MessageDecoder,
    Notification,
    Request,
    Response,
    decode_error,
    decode_message,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
)
from meshkit.runtime.limits import MAX_MESSAGE
from tests.shs.common import pieces

pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode

LIMIT = 4096


def plain(message: Message) -> Any:
    """A message with its raw parts decoded."""
    match message:
        case Request():
            return [0, message.msgid, message.method, unpack(message.params)]
        case Response():
            return [1, message.msgid, unpack(message.error), unpack(message.result)]
        case Notification():
            return [2, message.method, unpack(message.params)]


def taken(decoder: MessageDecoder) -> list[bytes]:
    return list(iter(decoder.next_message, None))


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
msgids = st.integers(0, MAX_MSGID)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_METHOD)
messages = (
    st.builds(lambda i, m, p: [0, i, m, p], msgids, names, st.lists(json_like, max_size=4))
    | st.builds(lambda i, e, r: [1, i, e, r], msgids, json_like, json_like)
    | st.builds(lambda m, p: [2, m, p], names, st.lists(json_like, max_size=4))
)


class KnownTests(SynchronousTestCase):
    """Bytes written out by hand from the two specifications."""

    def test_a_request(self) -> None:
        data = bytes.fromhex("94 00 01 a3 616464 92 01 02")
        self.assertEqual(encode_request(1, "add", [1, 2]), data)
        self.assertEqual(plain(decode_message(data)), [0, 1, "add", [1, 2]])

    def test_a_result(self) -> None:
        data = bytes.fromhex("94 01 ce ffffffff c0 03")
        self.assertEqual(encode_result(MAX_MSGID, 3), data)
        self.assertEqual(plain(decode_message(data)), [1, MAX_MSGID, None, 3])

    def test_an_error(self) -> None:
        data = bytes.fromhex("94 01 00 92 ac") + b"FRAME_BROKEN" + bytes.fromhex("a2 6e6f c0")
        error = MeshkitError("no")
        error.code = "FRAME_BROKEN"
        self.assertEqual(encode_error(0, error), data)
        self.assertEqual(plain(decode_message(data)), [1, 0, ["FRAME_BROKEN", "no"], None])

    def test_a_notification(self) -> None:
        data = bytes.fromhex("93 02 a2 6869 90")
        self.assertEqual(encode_notification("hi", []), data)
        self.assertEqual(plain(decode_message(data)), [2, "hi", []])

    def test_wide_forms_of_small_numbers_are_read(self) -> None:
        data = bytes.fromhex("dc0004 cd0000 cf0000000000000007 d90161 dc0000")
        self.assertEqual(plain(decode_message(data)), [0, 7, "a", []])


class MessageTests(SynchronousTestCase):
    def test_what_is_no_message_is_refused_by_name(self) -> None:
        for wrong in (
            [],
            {},
            7,
            None,
            [3, 1, "a", []],
            [-1, 1, "a", []],
            [True, 1, "a", []],
            [0.0, 1, "a", []],
            [0, 1, "a"],
            [0, 1, "a", [], 5],
            [0, -1, "a", []],
            [0, MAX_MSGID + 1, "a", []],
            [0, 1.0, "a", []],
            [0, "1", "a", []],
            [0, 1, b"a", []],
            [0, 1, "", []],
            [0, 1, "a" * (MAX_METHOD + 1), []],
            [1, 1, None],
            [1, None, None, None],
            [2, "a"],
            [2, "a", [], []],
        ):
            with self.subTest(wrong), self.assertRaises(MalformedFrame):
                decode_message(pack(wrong))

    def test_a_name_of_the_largest_size_is_read(self) -> None:
        name = "\N{GRINNING FACE}" * MAX_METHOD
        data = encode_request(MAX_MSGID, name, [])
        self.assertEqual(plain(decode_message(data))[2], name)
        self.assertLessEqual(len(data) - 1, ENVELOPE_BYTES)

    def test_a_name_that_is_no_unicode_is_refused(self) -> None:
        with self.assertRaises(MalformedFrame):
            decode_message(bytes.fromhex("93 02 a1 ff 90"))

    def test_every_truncation_is_refused(self) -> None:
        data = encode_request(1, "add", [1, "two"])
        for end in range(len(data)):
            with self.subTest(end), self.assertRaises(MalformedFrame):
                decode_message(data[:end])

    @given(messages)
    def test_all_messages_come_back(self, message: Any) -> None:
        self.assertEqual(plain(decode_message(pack(message))), message)

    @given(st.binary(max_size=64))
    def test_garbage_is_a_message_or_refused_by_name(self, data: bytes) -> None:
        with contextlib.suppress(MalformedFrame):
            decode_message(data)


class BoundaryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.decoder = MessageDecoder(LIMIT)

    @given(st.lists(messages, max_size=6), st.randoms(use_true_random=False))
    def test_however_the_stream_is_cut_the_messages_are_the_same(
        self, sent: list[Any], rng: Random
    ) -> None:
        decoder = MessageDecoder(LIMIT)
        encoded = [pack(message) for message in sent]
        received: list[bytes] = []
        for piece in pieces(b"".join(encoded), rng, 40):
            decoder.feed(piece)
            received += taken(decoder)
        self.assertEqual(received, encoded)
        self.assertFalse(decoder.mid_message)

    @given(st.lists(messages, max_size=6), st.randoms(use_true_random=False))
    def test_pieces_that_are_whole_messages_are_read_at_once_and_in_order(
        self, sent: list[Any], rng: Random
    ) -> None:
        decoder = MessageDecoder(LIMIT)
        encoded = [pack(message) for message in sent]
        cut = rng.random() < 0.5
        stream = pieces(b"".join(encoded), rng, 40) if cut else encoded
        received: list[Any] = []
        for piece in stream:
            message = decoder.whole(piece)
            if message is None:
                decoder.feed(piece)
                received += [plain(decode_message(each)) for each in taken(decoder)]
            else:
                received.append(plain(message))
        self.assertEqual(received, sent)
        self.assertFalse(decoder.mid_message)

    def test_nothing_else_is_read_at_once(self) -> None:
        data = encode_request(1, "add", [1, 2])
        for piece in (data[:-1], data + data, data + b"\x94", b"", b"\xc0", b"\x91" * 2_000):
            self.assertIsNone(self.decoder.whole(piece))
        self.assertIsNone(MessageDecoder(len(data) - 1).whole(data))
        self.assertIsNotNone(MessageDecoder(len(data)).whole(data))

    def test_nothing_is_read_before_what_came_earlier(self) -> None:
        first, second = encode_request(1, "add", [1, 2]), encode_request(2, "add", [3, 4])
        self.decoder.feed(first + second[:5])
        self.assertIsNone(self.decoder.whole(second))
        self.assertEqual(taken(self.decoder), [first])
        self.assertIsNone(self.decoder.whole(second))
        self.decoder.feed(second[5:])
        self.assertEqual(taken(self.decoder), [second])
        self.assertIsNotNone(self.decoder.whole(first))

    @given(st.lists(messages, min_size=1, max_size=6), st.randoms(use_true_random=False))
    def test_what_was_not_taken_is_still_there(self, sent: list[Any], rng: Random) -> None:
        """A reader that pauses in the middle of what it was given loses nothing."""
        decoder = MessageDecoder(LIMIT)
        encoded = [pack(message) for message in sent]
        received: list[bytes] = []
        for piece in pieces(b"".join(encoded), rng, 100):
            decoder.feed(piece)
            if rng.random() < 0.5:
                data = decoder.next_message()
                received += [] if data is None else [data]
        received += taken(decoder)
        self.assertEqual(received, encoded)

    def test_byte_by_byte(self) -> None:
        encoded = [encode_request(i, "add", [i, "x" * i]) for i in range(40)]
        received = []
        for at, byte in enumerate(b"".join(encoded)):
            self.decoder.feed(bytes([byte]))
            found = taken(self.decoder)
            received += found
            self.assertEqual(self.decoder.mid_message, not found, at)
        self.assertEqual(received, encoded)

    def test_every_truncation_leaves_it_in_mid_message(self) -> None:
        data = encode_request(1, "add", [1, {"a": b"bytes"}])
        for end in range(1, len(data)):
            decoder = MessageDecoder(LIMIT)
            decoder.feed(data[:end])
            self.assertIsNone(decoder.next_message())
            self.assertTrue(decoder.mid_message)
            decoder.feed(data[end:])
            self.assertEqual(taken(decoder), [data])

    def test_a_message_at_the_limit_is_read_and_one_over_it_is_not(self) -> None:
        body = LIMIT - len(encode_notification("a", [b""])) - 1
        for more, step in ((0, LIMIT), (1, LIMIT + 1), (0, 100), (1, 100)):
            decoder = MessageDecoder(LIMIT)
            data = encode_notification("a", [bytes(body + more)])
            self.assertEqual(len(data), LIMIT + more)

            def read(decoder: MessageDecoder = decoder, data: bytes = data, n: int = step) -> int:
                found = 0
                for at in range(0, len(data), n):
                    decoder.feed(data[at : at + n])
                    found += len(taken(decoder))
                return found

            with self.subTest(more=more, step=step):
                if more:
                    self.assertRaises(FrameTooLarge, read)
                else:
                    self.assertEqual(read(), 1)

    def test_a_message_that_is_too_long_is_refused_before_its_end(self) -> None:
        self.decoder.feed(bytes.fromhex("93 02 a1 61 91 c6 ffffffff") + bytes(LIMIT - 10))
        self.assertIsNone(self.decoder.next_message())
        self.decoder.feed(b"x")
        with self.assertRaises(FrameTooLarge):
            self.decoder.next_message()

    def test_a_huge_count_costs_nothing(self) -> None:
        for header in ("dd ffffffff", "df ffffffff", "db ffffffff", "c6 ffffffff", "c9 fffffffe"):
            decoder = MessageDecoder(LIMIT)
            decoder.feed(bytes.fromhex(header))
            self.assertIsNone(decoder.next_message())

    def test_the_one_count_that_overflows_in_msgpack_is_refused(self) -> None:
        """It takes an extension of 2^32 - 1 bytes for one of none, and so ends too early."""
        self.decoder.feed(bytes.fromhex("93 02 a1 61 c9 ffffffff 00"))
        (data, *_) = taken(self.decoder)
        with self.assertRaises(MalformedFrame):
            decode_message(data)

    def test_nesting_at_the_limit_is_read_and_over_it_is_not(self) -> None:
        self.decoder.feed(b"\x91" * (MAX_NESTING - 1) + b"\xc0")
        self.assertEqual(len(taken(self.decoder)), 1)
        self.decoder.feed(b"\x91" * MAX_NESTING + b"\xc0")
        self.assertEqual(len(taken(self.decoder)), 1)
        self.decoder.feed(b"\x91" * (MAX_NESTING + 1))
        with self.assertRaises(MalformedFrame):
            taken(self.decoder)

    def test_a_deep_message_is_refused_by_name_and_not_by_the_stack(self) -> None:
        deep = b"\x94\x00\x01\xa1a" + b"\x91" * (MAX_NESTING - 2) + b"\xc0"
        self.decoder.feed(deep)
        (data,) = taken(self.decoder)
        with contextlib.suppress(MalformedFrame):  # only where this Python's stack has room for it
            decode_message(data)

    def test_a_byte_that_is_never_used_is_refused(self) -> None:
        self.decoder.feed(encode_notification("a", []) + b"\xc1")
        self.assertIsNotNone(self.decoder.next_message())
        with self.assertRaises(MalformedFrame):
            self.decoder.next_message()

    def test_what_is_not_taken_has_a_limit(self) -> None:
        for _ in range(MAX_UNREAD // MAX_MESSAGE):
            self.decoder.feed(bytes(MAX_MESSAGE))
        with self.assertRaises(FrameTooLarge):
            self.decoder.feed(b"x")

    def test_the_limit_may_be_raised_in_mid_message(self) -> None:
        data = encode_notification("a", [bytes(LIMIT)])
        self.decoder.feed(data[:LIMIT])
        self.assertIsNone(self.decoder.next_message())
        self.decoder.limit = len(data)
        self.decoder.feed(data[LIMIT:])
        self.assertEqual(taken(self.decoder), [data])

    @given(st.lists(st.binary(max_size=32), max_size=8))
    def test_garbage_gives_messages_or_is_refused_by_name(self, chunks: list[bytes]) -> None:
        decoder = MessageDecoder(LIMIT)
        with contextlib.suppress(MalformedFrame, FrameTooLarge):
            for chunk in chunks:
                decoder.feed(chunk)
                taken(decoder)


class ErrorTests(SynchronousTestCase):
    def received(self, error: MeshkitError) -> Any:
        message = decode_message(encode_error(5, error))
        assert isinstance(message, Response)
        self.assertTrue(message.failed)
        self.assertEqual(message.msgid, 5)
        return decode_error(message.error)

    def test_code_sentence_and_details_arrive(self) -> None:
        error = self.received(InvalidRequest("the name is empty", field="name"))
        self.assertEqual((error.code, str(error)), ("INVALID_REQUEST", "the name is empty"))
        self.assertEqual(error.details, {"field": "name"})
        error = self.received(OverRate("wait", retry_after=1.5))
        self.assertEqual(error.details, {"retry_after": 1.5})

    def test_an_error_without_details_has_none(self) -> None:
        self.assertIsNone(self.received(MeshkitError("no")).details)

    def test_details_that_cannot_be_sent_are_left_out(self) -> None:
        for value in (object(), 2**70, "x" * MAX_ERROR):
            error = MeshkitError("no")
            error.details = {"it": value}
            got = self.received(error)
            self.assertEqual((str(got), got.details), ("no", None))

    def test_details_of_another_shape_do_not_hide_the_error(self) -> None:
        got = decode_error(pack(["A_CODE", "a sentence", {"deep": {"er": 1}}]))
        self.assertEqual(got.code, "REMOTE_ERROR")
        self.assertGreater(len(str(got)), 20)

    def test_a_long_sentence_is_cut(self) -> None:
        self.assertEqual(len(str(self.received(MeshkitError("x" * 5000)))), MAX_ERROR_TEXT)
        got = decode_error(pack(["A_CODE", "x" * (MAX_ERROR_TEXT + 1)]))
        self.assertEqual(len(str(got)), MAX_ERROR_TEXT)

    def test_control_characters_are_taken_out(self) -> None:
        self.assertEqual(str(decode_error(pack(["A", "a\x1b[2Jb\n"]))), "a?[2Jb?")
        self.assertEqual(str(decode_error(pack("a\x00b"))), "a?b")

    def test_errors_of_other_kinds_are_shown_as_far_as_they_can(self) -> None:
        self.assertEqual(str(decode_error(pack("out of order"))), "out of order")
        for other in (5, [], ["code", "lower case"], {"a": 1}, b"bytes", [1, "no such method"]):
            error = decode_error(pack(other))
            self.assertEqual(error.code, "REMOTE_ERROR")
            self.assertGreater(len(str(error)), 20)
        self.assertNotIn("xxx", str(decode_error(pack("x" * (MAX_ERROR + 1)))))

    def test_false_and_nothing_are_errors_unless_they_are_nil(self) -> None:
        for value in (False, 0, "", []):
            message = decode_message(pack([1, 1, value, None]))
            self.assertTrue(isinstance(message, Response) and message.failed)
        message = decode_message(pack([1, 1, None, None]))
        self.assertFalse(isinstance(message, Response) and message.failed)

    @given(json_like)
    def test_any_error_becomes_one_of_ours(self, value: Any) -> None:
        self.assertIsInstance(decode_error(Raw(pack(value))), MeshkitError)
