"""
Whatever bytes arrive at the door: the answer is JSON, nothing breaks, and it is clear
whether the connection goes on.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.web.stage import HOST, TOKEN, Connection, Stage

METHODS = [
    *(b"GET", b"HEAD", b"POST", b"DELETE", b"PUT", b"OPTIONS", b"TRACE", b"CONNECT", b"PATCH"),
    *(b"get", b"PRI", b"GE\x00T", b"", b"G E T", b"\xff", b"M" * 300),
]
TARGETS = [
    *(b"/v1/status", b"/v1/feed", b"/v1/feed/x/7", b"/v1/insights/search?q=x", b"/v1/publish"),
    *(b"/", b"//", b"//v1/status", b"/v1//status", b"/v1/status/", b"/v1/../v1/status", b"/."),
    *(b"*", b"", b"v1/status", b"http://127.0.0.1:7654/v1/status", b"http://other/v1/status"),
    *(b"http://", b"http:///", b"https://127.0.0.1:7654/", b"127.0.0.1:7654", b"file:///etc"),
    *(
        b"/%",
        b"/%zz",
        b"/%00",
        b"/%ff%fe",
        b"/%2e%2e/%2F",
        b"/v1/feed/%E2%98%83",
        b"/\xff",
        b"/\x00",
    ),
    *(b"/v1/feed/%0d%0aX:%20y", b"/v1/feed?%", b"/v1/feed?a=%zz", b"/v1/feed?&&=&", b"/v1/feed?#x"),
    *(b"/v1/feed?limit=" + b"9" * 400, b"/v1/feed/" + b"a/" * 400, b"/" + b"%41" * 900),
    *(b"/v1/feed/<x>", b"/v1/feed/{author}", b"/v1/feed/\\..\\", b"/v1/publish?x=1", b"?", b"/?"),
    *(b"/:80", b"/v1/feed/[", b"/v1/feed/:@!$&'()*+,;="),
]
VERSIONS = [
    *(
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/0.9",
        b"HTTP/2.0",
        b"HTTP/1.2",
        b"HTTP/11",
        b"",
        b"http/1.1",
    ),
    *(b"HTTP/1.1 ", b"ICY"),
]
HEADERS = [
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: Upgrade, HTTP2-Settings"),
    *(b"Upgrade: h2c", b"Upgrade: websocket", b"HTTP2-Settings: AAMAAABkAAQAAP__", b"Expect: x"),
    *(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Expect: 100-continue", b"Cookie: ;=;a"),
    *(b"Content-Length: 2", b"Content-Length: -1", b"Content-Length: 99999999999999999999"),
    *(b"Content-Length: 0x2", b"Content-Length: ", b"Content-Length: 1, 1", b"Content-Length"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:"),
    *(b"Content-Type: application/json", b"Content-Type: text/html", b"Content-Encoding: gzip"),
    *(b"Content-Type: multipart/form-data", b"Content-Type: \xff", b"Last-Event-ID: x", b": x"),
    *(b"Host: other", b"Host:", b"Host : x", b"X: \x00", b"X:\tfolded", b" folded", b"\tfolded"),
    *(b"Origin: null", b"Authorization: Bearer x", b"Authorization: Basic x", b"Authorization:"),
    *(b"If-None-Match: *", b"Accept-Encoding: gzip;q=x", b"Range: bytes=0-1", b"Idempotency-Key:"),
    *(b"X: " + b"y" * 20_000, b"no colon", b"\xff\xfe: \xff", b"GET / HTTP/1.1", b"TE: trailers"),
]
BODIES = [
    *(b"", b"{}", b'{"content": 1}', b"2\r\n{}\r\n0\r\n\r\n", b"zz\r\n", b"-1\r\n", b"[" * 2000),
    *(b"\xff", b'{"content": 1, "content": 2}', b"ffffffffffffffffff\r\n", b"0\r\n\r\n", b"null"),
]
GOOD = [b"Host: " + HOST.encode(), b"Authorization: Bearer " + TOKEN]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that is more or less one."""

    def one(known: list[bytes], usual: int) -> bytes:
        """Mostly one of the first, which are good."""
        return draw(st.sampled_from(known[:usual]) | st.sampled_from(known) | st.binary(max_size=9))

    line = b" ".join([one(METHODS, 4), one(TARGETS, 5), one(VERSIONS, 1)])
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=4))
    if draw(st.integers(0, 7)):
        headers = [*GOOD, *headers]
    body = draw(st.sampled_from(BODIES))
    if body and draw(st.booleans()):
        headers.append(b"Content-Length: %d" % len(body))
    ending = draw(st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\r\n"]))
    return ending.join([line, *headers, b"", body])


@st.composite
def wires(draw: st.DrawFn) -> list[bytes]:
    """Some requests, with some bytes of them changed, in pieces."""
    wire = bytearray(b"".join(draw(st.lists(requests(), min_size=1, max_size=3))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        if wire:
            at = draw(st.integers(0, len(wire) - 1))
            wire[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=4)))
    return [bytes(wire[a:b]) for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


class GarbageTests(SynchronousTestCase):
    def check(self, stage: Stage, pieces: list[bytes]) -> None:
        connection = stage.connect()
        for piece in pieces:
            if not connection.transport.disconnecting:
                connection.send(piece)
        closed = connection.transport.disconnecting or connection.transport.half_closed  # type: ignore[attr-defined]
        said = self.read(connection.transport.value(), closed)
        # Whoever is not told that it ends can go on.
        if not closed:
            self.assertEqual(connection.transport.producerState, "producing")
        else:
            connection.transport.clear()
            if not connection.transport.disconnecting:
                connection.send(b"GET / HTTP/1.1\r\n\r\n")
            self.assertEqual(connection.transport.value(), b"")
        self.let_go(stage, connection)
        self.assertEqual(self.flushLoggedErrors(), [], said)

    def let_go(self, stage: Stage, connection: Connection) -> None:
        connection.lose()
        self.assertEqual(stage.clock.getDelayedCalls(), [])
        self.assertEqual((stage.site.connections, stage.site.bodies.taken), (0, 0))
        self.assertEqual(stage.site.answers.taken, 0)

    def read(self, wire: bytes, closed: bool) -> list[Any]:
        """Every answer is JSON, and the one after which the connection ends is the last."""
        said = []
        while wire:
            head, found, wire = wire.partition(b"\r\n\r\n")
            self.assertTrue(found, head)
            first, *lines = head.decode("latin-1").split("\r\n")
            version, code, _ = first.split(" ", 2)
            status = int(code)
            said.append(first)
            if status == 100:
                continue
            self.assertIn(version, ("HTTP/1.1", "HTTP/1.0"))
            self.assertTrue(status < 500 or status == 503, first)
            headers: dict[str, str] = {}
            for line in lines:
                name, colon, value = line.partition(": ")
                self.assertTrue(colon, line)
                headers[name.lower()] = value
            self.assertEqual(headers["x-content-type-options"], "nosniff")
            if headers.get("connection") == "close" or version == "HTTP/1.0":
                self.assertTrue(closed, said)
            if status == 204:
                continue
            self.assertEqual(headers["content-type"], "application/json")
            length = int(headers["content-length"])
            self.assertGreater(length, 0)
            if wire[:1] != b"{":
                # The answer to a HEAD.
                continue
            body, wire = wire[:length], wire[length:]
            envelope = json.loads(body)
            self.assertEqual(envelope["success"], status < 400)
            if status >= 400:
                self.assertTrue(envelope["error"]["code"] and envelope["error"]["message"])
                self.assertNotIn("Traceback", envelope["error"]["message"])
        return said

    @given(st.booleans(), wires())
    @example(False, [b"GET /v1/feed/%zz HTTP/1.1\r\nHost: x\r\n\r\n"])
    @example(False, [b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"])
    @example(True, [b"GET /\r\n"])
    def test_whatever_comes_the_answer_is_json_and_nothing_breaks(
        self, guarded: bool, pieces: list[bytes]
    ) -> None:
        self.check(Stage(guarded), pieces)

    @given(st.booleans(), st.lists(st.binary(max_size=300), max_size=5))
    def test_so_it_is_for_any_bytes(self, guarded: bool, pieces: list[bytes]) -> None:
        self.check(Stage(guarded), pieces)

    def test_every_form_with_every_method(self) -> None:
        stage = Stage()
        for method in METHODS:
            for target in TARGETS:
                wire = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method, target, b"\r\n".join(GOOD))
                self.check(stage, [wire])
