"""Tests of L{meshkit.web.lines}: cutting a stream into messages, and asking a door for it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import DoorUnreachable, InvalidRequest, RemoteError
from meshkit.web.lines import (
    MAX_BODY,
    MAX_HEAD,
    MAX_ID_BYTES,
    IdScanner,
    LineCutter,
    TooLong,
    UpgradeReader,
    upgrade_request,
)

LIMIT = 64

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


def cut_anywhere(data: bytes, draw: Any) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


class CutterTests(SynchronousTestCase):
    def feed(self, *pieces: bytes) -> list[bytes | TooLong]:
        cutter = LineCutter(LIMIT)
        return [line for piece in pieces for line in cutter.feed(piece)]

    @given(st.data())
    def test_lines_come_out_whole_however_they_come_in(self, data: st.DataObject) -> None:
        line = st.binary(max_size=LIMIT).map(lambda b: b.replace(b"\n", b"").rstrip(b"\r"))
        lines = data.draw(st.lists(line, max_size=6))
        ends = data.draw(st.lists(st.sampled_from((b"\n", b"\r\n")), min_size=6, max_size=6))
        text = b"".join(line + end for line, end in zip(lines, ends, strict=False))
        self.assertEqual(
            self.feed(*cut_anywhere(text, data.draw)), [line for line in lines if line]
        )

    def test_byte_by_byte(self) -> None:
        text = b'{"a":1}\r\n\n{"b":2}\nrest'
        self.assertEqual(
            self.feed(*(text[at : at + 1] for at in range(len(text)))), [b'{"a":1}', b'{"b":2}']
        )

    def test_the_limit_holds(self) -> None:
        fits, over = b"x" * LIMIT, b"x" * (LIMIT + 1)
        for end in (b"\n", b"\r\n"):
            self.assertEqual(self.feed(fits + end), [fits])
            self.assertEqual(self.feed(over + end), [TooLong(None)])
            self.assertEqual(self.feed(*(bytes([b]) for b in over + end)), [TooLong(None)])

    def test_what_comes_after_a_line_that_is_too_long_is_read(self) -> None:
        long = b'{"id":7,"x":"' + b"y" * LIMIT + b'"}'
        self.assertEqual(self.feed(long + b"\n" + b"next\n"), [TooLong(b"7"), b"next"])

    def test_nothing_of_a_line_without_end_is_kept(self) -> None:
        cutter = LineCutter(LIMIT)
        for _ in range(1000):
            self.assertEqual(list(cutter.feed(b'{"x":"' + b"y" * 10_000)), [])
        kept = cutter._pieces, cutter._scanner._text if cutter._scanner else b""
        self.assertLess(sum(map(len, kept[0])) + len(kept[1]), 2 * MAX_ID_BYTES + LIMIT)


class ScannerTests(SynchronousTestCase):
    def scan(self, *pieces: bytes) -> bytes | None:
        scanner = IdScanner()
        for piece in pieces:
            scanner.feed(piece)
        return scanner.id

    @given(st.data())
    def test_the_id_is_found_wherever_it_stands(self, data: st.DataObject) -> None:
        wanted = data.draw(st.integers() | st.text(max_size=12))
        members = data.draw(
            st.dictionaries(st.text(max_size=4).filter(lambda n: n != "id"), json_values)
        )
        names = data.draw(st.permutations([*members, "id"]))
        message = {name: {**members, "id": wanted}[name] for name in names}
        indent = data.draw(st.sampled_from((None, 2)))
        ascii_only = data.draw(st.booleans())
        text = json.dumps(message, indent=indent, ensure_ascii=ascii_only).encode(
            "utf-8", "surrogatepass"
        )
        found = self.scan(*cut_anywhere(text, data.draw))
        assert found is not None
        self.assertEqual(json.loads(found.decode("utf-8", "surrogatepass")), wanted)

    def test_only_that_of_the_message_itself(self) -> None:
        self.assertIsNone(self.scan(b'{"params":{"id":1},"x":[{"id":2}],"y":"\\"id\\":3,"}'))
        self.assertEqual(self.scan(b'{"params":{"id":1},"id":5,"z":{"id":2}}'), b"5")

    def test_one_that_is_too_long_is_none(self) -> None:
        fits, over = b'"' + b"a" * (MAX_ID_BYTES - 2) + b'"', b'"' + b"a" * MAX_ID_BYTES + b'"'
        self.assertEqual(self.scan(b'{"id":' + fits + b"}"), fits)
        self.assertIsNone(self.scan(b'{"id":' + over + b"}"))

    @given(st.lists(st.binary(max_size=40), max_size=5))
    def test_nonsense_does_no_harm(self, pieces: list[bytes]) -> None:
        self.scan(*pieces)
        self.scan(b'{"id', *pieces)


GOOD = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: mcp-lines\r\n"
    b"X-Request-Id: 1\r\n\r\n"
)
REFUSED = b'{"success":false,"data":null,"error":{"code":"UNAUTHORIZED","message":"no token"}}'


class UpgradeTests(SynchronousTestCase):
    def read(self, *pieces: bytes) -> tuple[UpgradeReader, list[bytes | None]]:
        reader = UpgradeReader()
        return reader, [reader.feed(piece) for piece in pieces]

    def test_what_is_asked(self) -> None:
        self.assertEqual(
            upgrade_request("127.0.0.1:7654", "secret", "egregore"),
            b"GET /mcp?profile=egregore HTTP/1.1\r\nHost: 127.0.0.1:7654\r\n"
            b"Authorization: Bearer secret\r\nConnection: Upgrade\r\nUpgrade: mcp-lines\r\n\r\n",
        )
        self.assertTrue(upgrade_request("h", "t", None).startswith(b"GET /mcp HTTP/1.1\r\n"))

    def test_nothing_can_be_put_between_the_lines(self) -> None:
        for token in ("a\r\nX: y", "a b", "", "é"):
            self.assertRaises(ValueError, upgrade_request, "h", token, None)
        for profile in ("a HTTP/1.1\r\n", "a&b=c", "", "x" * 65):
            self.assertRaises(InvalidRequest, upgrade_request, "h", "t", profile)

    def test_the_door_agrees(self) -> None:
        reader, (rest,) = self.read(GOOD)
        self.assertEqual((reader.accepted, rest), (True, b""))
        reader, (rest,) = self.read(GOOD + b'{"id":1}\n')
        self.assertEqual(rest, b'{"id":1}\n')

    def test_byte_by_byte(self) -> None:
        reader, results = self.read(*(GOOD[at : at + 1] for at in range(len(GOOD))))
        self.assertEqual(results, [None] * (len(GOOD) - 1) + [b""])
        self.assertTrue(reader.accepted)

    def test_the_door_refuses(self) -> None:
        answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: %d\r\n\r\n%b" % (
            len(REFUSED),
            REFUSED,
        )
        for pieces in ([answer], [answer[at : at + 1] for at in range(len(answer))]):
            error = self.assertRaises(RemoteError, self.read, *pieces)
            self.assertEqual(
                (error.code, error.status, str(error)), ("UNAUTHORIZED", 401, "no token")
            )

    def test_what_answers_is_no_door(self) -> None:
        for answer in (
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: mcp-lines\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            b"HTTP/1.1 1010 X\r\n\r\n",
            b"x" * 100,
        ):
            with self.subTest(answer):
                self.assertRaises(DoorUnreachable, self.read, answer)

    def test_the_limits_hold(self) -> None:
        head = b"HTTP/1.1 101 Switching Protocols\r\n"
        self.read(head + b"x" * (MAX_HEAD - len(head)))
        self.assertRaises(DoorUnreachable, self.read, head + b"x" * (MAX_HEAD - len(head) + 1))
        long = b"HTTP/1.1 500 X\r\nContent-Length: 999999999\r\n\r\n" + b"x" * MAX_BODY
        self.assertRaises(DoorUnreachable, self.read, long)

    def test_it_hangs_up(self) -> None:
        reader, _ = self.read(GOOD[:20])
        self.assertIsInstance(reader.end(), DoorUnreachable)
