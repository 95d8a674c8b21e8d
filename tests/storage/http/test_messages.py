"""Answers as a client reads them."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.storage.http.messages import (
    MAX_HEAD,
    MAX_HEADERS,
    MalformedMessage,
    Response,
    ResponseReader,
    encode_request,
)

GOOD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\ncontent-length:  5 \r\nX: 1\r\nx: 2\r\n\r\nhello"
)


def read(raw: bytes, limit: int = 100) -> Response | None:
    """@return: what one feed gives."""
    return ResponseReader(limit).feed(raw)


class Responses(SynchronousTestCase):
    def _refused(self, raw: bytes, limit: int = 100) -> None:
        self.assertRaises(MalformedMessage, read, raw, limit)

    def test_an_answer_is_read(self) -> None:
        answer = read(GOOD)
        assert answer is not None
        self.assertEqual((answer.status, answer.body), (200, b"hello"))
        self.assertEqual(answer.headers["x"], ("1", "2"))
        self.assertEqual(answer.header("content-type"), "a/b")
        self.assertIsNone(answer.header("x"))
        self.assertFalse(answer.last)

    @given(st.lists(st.integers(1, len(GOOD))))
    def test_it_may_come_in_pieces(self, cuts: list[int]) -> None:
        reader = ResponseReader(5)
        ends = sorted({*cuts, len(GOOD)})
        answers = [
            reader.feed(GOOD[start:end]) for start, end in zip([0, *ends], ends, strict=False)
        ]
        self.assertEqual(answers[:-1], [None] * (len(ends) - 1))
        self.assertEqual(answers[-1], read(GOOD))

    def test_no_beginning_of_it_is_an_answer(self) -> None:
        for end in range(len(GOOD)):
            self.assertIsNone(read(GOOD[:end]))

    def test_a_body_has_the_length_that_was_asked_for_at_most(self) -> None:
        self.assertIsNotNone(read(GOOD, 5))
        self._refused(GOOD, 4)
        # As soon as the headers are there.
        self._refused(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n")

    def test_nothing_follows_a_body(self) -> None:
        self._refused(GOOD + b"!")
        self._refused(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n")

    def test_headers_have_an_end(self) -> None:
        reader = ResponseReader(5)
        reader.feed(b"HTTP/1.1 200 OK\r\n")
        line = b"X: " + b"a" * 95 + b"\r\n"
        with self.assertRaises(MalformedMessage):
            for _ in range(MAX_HEAD // len(line) + 1):
                self.assertIsNone(reader.feed(line))
        # In one line, and in one piece.
        self._refused(b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD)
        self._refused(b"a" * (MAX_HEAD + 1))

    def test_the_largest_head_is_read(self) -> None:
        start, end = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: ", b"\r\n\r\n"
        head = start + b"a" * (MAX_HEAD - len(start) - len(end)) + end
        for size in (1, 1000, len(head), len(head) + 1):
            reader, raw = ResponseReader(1), head + b"!"
            answers = [reader.feed(raw[at : at + size]) for at in range(0, len(raw), size)]
            self.assertEqual(answers[-1].body if answers[-1] else None, b"!")
        self._refused(start + b"a" + head[len(start) :] + b"!")

    def test_there_are_not_too_many_headers(self) -> None:
        def with_headers(count: int) -> bytes:
            more = b"".join(b"X%d: 1\r\n" % i for i in range(count - 1))
            return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + more + b"\r\n"

        self.assertIsNotNone(read(with_headers(MAX_HEADERS)))
        self._refused(with_headers(MAX_HEADERS + 1))

    def test_what_is_ambiguous_is_refused(self) -> None:
        for head in (
            b"",
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5",
            b"HTTP/1.1 200 OK\r\nContent-Length: +5",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0x5",
            b"HTTP/1.1 200 OK\r\nContent-Length: \xb2",
            b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * 30,
            b"HTTP/1.1 200 OK\r\nContent-Length : 5",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n more",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\nX: y",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nno header",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\x00b",
            b"HTTP/1.0 200 OK\r\nContent-Length: 5",
            b"HTTP/1.1 100 Continue\r\nContent-Length: 5",
            b"HTTP/1.1 600 Odd\r\nContent-Length: 5",
            b"HTTP/1.1 2000 OK\r\nContent-Length: 5",
            b"200 OK\r\nContent-Length: 5",
            b"GET / HTTP/1.1\r\nContent-Length: 5",
        ):
            self._refused(head + b"\r\n\r\nhello")

    def test_a_status_needs_no_words(self) -> None:
        for line in (b"HTTP/1.1 404", b"HTTP/1.1 404 ", b"HTTP/1.1 404 Nope \xe9"):
            answer = read(line + b"\r\nContent-Length: 0\r\n\r\n")
            self.assertEqual(answer.status if answer else None, 404)

    def test_a_connection_that_is_about_to_close_says_so(self) -> None:
        for value, last in ((b"close", True), (b"a, Close", True), (b"closed", False)):
            raw = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: " + value + b"\r\n\r\n"
            answer = read(raw)
            self.assertEqual(answer.last if answer else None, last)

    @given(st.binary(max_size=300))
    def test_garbage_is_refused_and_nothing_worse(self, garbage: bytes) -> None:
        for raw in (garbage, GOOD[:30] + garbage, garbage + b"\r\n\r\n"):
            try:
                read(raw)
            except MalformedMessage:
                continue


class RequestHeads(SynchronousTestCase):
    def test_a_head_is_written(self) -> None:
        self.assertEqual(
            encode_request("GET", "/v1/health", [("Host", "a"), ("X", "1")]),
            b"GET /v1/health HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n",
        )
