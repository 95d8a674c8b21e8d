"""Everything a client can make grow has an end, told in JSON."""

from __future__ import annotations

import tempfile
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IHalfCloseableDescriptor, ISSLTransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import directlyProvides

from meshkit.errors import MeshkitError, NotReady, Overloaded
from meshkit.operations import MAX_BODY
from meshkit.runtime.http import LINGER_SECONDS
from meshkit.web.answers import LARGE, prepare, prepare_error
from meshkit.web.callers import OWNER, Caller
from meshkit.web.limits import (
    IDLE_SECONDS,
    LINGER_BYTES,
    MAX_HEADER_BYTES,
    RECEIVE_SECONDS,
    STUCK_SECONDS,
    LimitedChannel,
    LimitedSite,
    RequestHead,
)
from tests.web.stage import Connection, Stage, WireTransport, read_answers, request

LIMIT = 1000


class Sink(Resource):
    """Answers with the length of the body it got."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def render_POST(self, request: Any) -> bytes:
        body = request.content.read()
        self.bodies.append(body)
        return b"%d" % len(body)

    def render_GET(self, request: Any) -> bytes:
        return b"got"


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sink = Sink()

    def site(self, **limits: Any) -> LimitedSite:
        return LimitedSite(self.sink, self.clock, **({"max_body": LIMIT} | limits))

    def connect(self, **limits: Any) -> Connection:
        return Connection(self.site(**limits))

    def assert_refused(
        self, connection: Connection, status: int, code: str, method: str = "POST"
    ) -> Any:
        """The last word is said, in JSON, and nothing more can be got from it."""
        (answer,) = connection.answers(method)
        if method != "HEAD":
            self.assertEqual((answer.status, answer.code), (status, code))
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.headers["connection"], ["close"])
        self.assertEqual(answer.headers["content-type"], ["application/json"])
        self.assertEqual(answer.headers["cache-control"], ["no-store"])
        self.assertTrue(connection.transport.half_closed)  # type: ignore[attr-defined]
        self.assertEqual(connection.channel.requests, [], "the body is still in memory")
        connection.send(request("GET", "/") + b"x" * 100)
        self.assertEqual(connection.transport.value(), b"")
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return answer


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


CHUNKED: Any = {"Transfer-Encoding": "chunked", "Content-Length": None}


class BodyTests(Case):
    def test_a_body_at_the_limit_is_taken_and_one_byte_more_refused(self) -> None:
        connection = self.connect()
        connection.send(request("POST", "/", b"x" * LIMIT))
        (answer,) = connection.answers("POST")
        self.assertEqual(answer.body, b"1000")
        connection.send(request("POST", "/", b"x" * (LIMIT + 1)))
        answer = self.assert_refused(connection, 413, "BODY_TOO_LARGE")
        self.assertEqual(answer.json["error"]["details"], {"limit": LIMIT})
        self.assertEqual(self.sink.bodies, [b"x" * LIMIT])

    def test_a_large_body_is_refused_before_any_of_it_has_come(self) -> None:
        made: list[int | None] = []
        site = self.site()
        site.getContentFile = made.append  # type: ignore[assignment,method-assign]
        connection = Connection(site)
        connection.send(request("POST", "/", b"", {"Content-Length": str(LIMIT + 1)}))
        self.assert_refused(connection, 413, "BODY_TOO_LARGE")
        self.assertEqual((made, self.sink.bodies), ([], []))

    def test_who_asks_before_sending_is_told_before_sending(self) -> None:
        expect: Any = {"Expect": "100-continue"}
        connection = self.connect()
        connection.send(request("POST", "/", b"", expect | {"Content-Length": "5"}))
        self.assertEqual(connection.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.transport.clear()
        connection.send(b"12345")
        self.assertEqual(connection.answers("POST")[0].body, b"5")
        connection.send(request("POST", "/", b"", expect | {"Content-Length": str(LIMIT + 1)}))
        self.assert_refused(connection, 413, "BODY_TOO_LARGE")

    def test_absurd_lengths_are_refused(self) -> None:
        for length, status, code in [
            ("9" * 5000, 413, "BODY_TOO_LARGE"),
            ("0" * 5000, 413, "BODY_TOO_LARGE"),
            (str(2**64), 413, "BODY_TOO_LARGE"),
            ("-1", 400, "BAD_REQUEST"),
            ("+1", 400, "BAD_REQUEST"),
            ("1,1", 400, "BAD_REQUEST"),
            ("0x10", 400, "BAD_REQUEST"),
            ("1e3", 400, "BAD_REQUEST"),
            ("", 400, "BAD_REQUEST"),
            ("-" * 5000, 400, "BAD_REQUEST"),
        ]:
            connection = self.connect()
            connection.send(request("POST", "/", b"", {"Content-Length": length}))
            self.assert_refused(connection, status, code)

    def test_a_length_cannot_be_given_twice_or_two_ways(self) -> None:
        table: list[Any] = [
            {"Content-Length": ["5", "5"]},
            {"Content-Length": ["5", "6"]},
            {"Content-Length": "5", "Transfer-Encoding": "chunked"},
            {"Transfer-Encoding": ["chunked", "chunked"], "Content-Length": None},
            {"Transfer-Encoding": "gzip, chunked", "Content-Length": None},
        ]
        for headers in table:
            connection = self.connect()
            connection.send(request("POST", "/", b"", headers))
            self.assert_refused(connection, 400, "BAD_REQUEST")

    def test_chunks_are_counted_as_they_arrive(self) -> None:
        connection = self.connect()
        head = request("POST", "/", b"", CHUNKED)
        connection.send(head + chunked(b"x" * 400, b"x" * 600) + b"0\r\n\r\n")
        self.assertEqual(connection.answers("POST")[0].body, b"1000")
        connection.send(head + chunked(b"x" * 400, b"x" * 600))
        self.assertEqual(connection.answers(), [])
        connection.send(b"1\r\nx")
        self.assert_refused(connection, 413, "BODY_TOO_LARGE")
        self.assertEqual(self.sink.bodies, [b"x" * LIMIT])

    def test_chunks_that_come_together_with_the_end_are_still_too_many(self) -> None:
        connection = self.connect()
        head = request("POST", "/", b"", CHUNKED)
        connection.send(head + chunked(b"x" * LIMIT, b"x") + b"0\r\n\r\n" + request("GET", "/"))
        self.assert_refused(connection, 413, "BODY_TOO_LARGE")
        self.assertEqual(self.sink.bodies, [])

    def test_one_chunk_larger_than_the_limit_is_not_waited_for(self) -> None:
        connection = self.connect()
        connection.send(request("POST", "/", b"", CHUNKED) + b"ffffff\r\n" + b"x" * LIMIT)
        self.assertEqual(connection.answers(), [])
        connection.send(b"x")
        self.assert_refused(connection, 413, "BODY_TOO_LARGE")

    def test_malformed_chunks_are_refused(self) -> None:
        for bad in (b"zz\r\n", b"1\r\nxy\r\n", b"-1\r\n", b"1;" + b"e" * 2000, b"1;\x00=\r\n"):
            connection = self.connect()
            connection.send(request("POST", "/", b"", CHUNKED) + bad)
            self.assert_refused(connection, 400, "BAD_REQUEST")
        self.assertEqual(self.sink.bodies, [])

    def test_no_body_is_put_on_the_disk(self) -> None:
        def no_file(*_args: object, **_kw: object) -> None:
            raise AssertionError("a temporary file")

        self.patch(tempfile, "TemporaryFile", no_file)
        connection = self.connect(max_body=MAX_BODY)
        connection.send(request("POST", "/", b"x" * MAX_BODY))
        self.assertEqual(connection.answers("POST")[0].body, b"%d" % MAX_BODY)
        connection.send(request("POST", "/", b"", CHUNKED) + chunked(b"x" * 200_000))
        connection.send(b"0\r\n\r\n")
        self.assertEqual(connection.answers("POST")[0].body, b"200000")

    def test_a_form_is_a_body_like_any_other(self) -> None:
        connection = self.connect()
        form: Any = {"Content-Type": "multipart/form-data; boundary=x"}
        connection.send(request("POST", "/", b"--y", form))
        self.assertEqual(connection.answers("POST")[0].body, b"3")

    @given(st.data())
    def test_how_the_bytes_are_cut_makes_no_difference(self, data: st.DataObject) -> None:
        head = request("POST", "/", b"", CHUNKED)
        wire = (
            request("POST", "/", b"first")
            + head
            + chunked(b"second", b"x" * 300)
            + b"0\r\nTrailer: x\r\n\r\n"
            + request("GET", "/?third")
            + head
            + chunked(b"x" * LIMIT, b"x")
        )
        connection = Connection(LimitedSite(Sink(), Clock(), max_body=LIMIT))
        while wire:
            size = data.draw(st.integers(1, 400))
            connection.send(wire[:size])
            wire = wire[size:]
        answers = connection.answers("POST", "POST", "GET", "POST")
        self.assertEqual([a.status for a in answers], [200, 200, 200, 413])
        self.assertEqual([a.body for a in answers[:3]], [b"5", b"306", b"got"])


class HeadTests(Case):
    def test_headers_at_the_limit_are_taken_and_one_byte_more_refused(self) -> None:
        bare = len(request("GET", "/", None, {"X": ""}))
        for size, status in ((MAX_HEADER_BYTES, 200), (MAX_HEADER_BYTES + 1, 431)):
            for name in ("X", "Y"):
                connection = self.connect()
                wire = request("GET", "/", None, {name: "x" * (size - bare)})
                self.assertEqual(len(wire), size)
                connection.send(wire)
                if status == 200:
                    self.assertEqual(connection.answers("GET")[0].status, 200)
                    connection.lose()
                else:
                    self.assert_refused(connection, 431, "HEADERS_TOO_LARGE", "GET")

    def test_many_small_headers_are_counted_too(self) -> None:
        for number, status in ((98, 200), (99, 431)):
            connection = self.connect()
            connection.send(request("GET", "/", None, {"X": ["y"] * number}))
            if status == 200:
                self.assertEqual(connection.answers("GET")[0].status, 200)
                connection.lose()
            else:
                self.assert_refused(connection, 431, "HEADERS_TOO_LARGE", "GET")

    def test_the_count_begins_anew_with_each_request(self) -> None:
        connection = self.connect()
        for _ in range(5):
            connection.send(request("GET", "/", None, {"X": ["y" * 100] * 90}))
            self.assertEqual(connection.answers("GET")[0].status, 200)

    def test_a_line_without_end_is_not_kept(self) -> None:
        for start in (b"GET /", b"GET / HTTP/1.1\r\nHost: "):
            connection = self.connect()
            for _ in range(MAX_HEADER_BYTES // 1000):
                connection.send(start or b"x")
                start = b""
                connection.send(b"x" * 1000)
            self.assertEqual(connection.answers(), [])
            connection.send(b"x" * 1000)
            self.assert_refused(connection, 431, "HEADERS_TOO_LARGE", "GET")

    def test_what_is_no_http_is_told_so(self) -> None:
        host = b"Host: x\r\n\r\n"
        for wire in (
            b"\r\n\r\n",
            b"hello\r\n",
            b"GET /\r\n",
            b"GET / HTTP/2.0\r\n",
            b"PRI * HTTP/2.0\r\n",
            b"GET  / HTTP/1.1\r\n",
            b"G\x00T / HTTP/1.1\r\n",
            b"GET /\xff HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00\x01\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n" + host,
            b"GET / HTTP/1.1\r\nbad name: x\r\n" + host,
            b"GET / HTTP/1.1\r\nX : y\r\n" + host,
            b"GET / HTTP/1.1\r\nX: \x00\r\n" + host,
            b"GET / HTTP/1.1\r\n: x\r\n" + host,
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + host,
            b"GET http://y/ HTTP/1.1\r\n" + host,
            b"GET http:// HTTP/1.1\r\n" + host,
            b"GET https://x/ HTTP/1.1\r\n" + host,
            b"GET http://x/ HTTP/1.1\r\n\r\n",
            b"GET http://x/ HTTP/1.0\r\n\r\n",
            b"CONNECT x:80 HTTP/1.1\r\n" + host,
            b"OPTIONS * HTTP/1.1\r\n" + host,
        ):
            connection = self.connect()
            connection.send(wire)
            self.assert_refused(connection, 400, "BAD_REQUEST", "GET")

    def test_a_target_may_be_a_whole_url(self) -> None:
        seen: list[str] = []

        def admit(head: RequestHead) -> None:
            seen.append(head.target)

        connection = self.connect(admit=admit)
        for target in (b"http://x/a?b", b"HTTP://X/", b"http://x", b"http://x?b", b"/http://y/"):
            connection.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
            (answer,) = connection.answers("GET")
            self.assertEqual((target, answer.status), (target, 200))
        self.assertEqual(seen, ["/a?b", "/", "/", "/?b", "/http://y/"])
        connection.lose()

    def test_http_1_0_is_answered_and_closed(self) -> None:
        connection = self.connect()
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        self.assertTrue(connection.transport.value().startswith(b"HTTP/1.0 200 OK\r\n"))
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_request_may_come_byte_by_byte_and_several_at_once(self) -> None:
        wire = request("POST", "/", b"abc") + request("GET", "/") + request("POST", "/", b"")
        dripped, whole = self.connect(), self.connect()
        dripped.drip(wire)
        whole.send(wire)
        for connection in (dripped, whole):
            answers = connection.answers("POST", "GET", "POST")
            self.assertEqual([a.body for a in answers], [b"3", b"got", b"0"])


class AdmitTests(Case):
    def test_it_is_asked_once_per_request_when_the_headers_are_there(self) -> None:
        seen: list[RequestHead] = []

        def admit(head: RequestHead) -> MeshkitError | None:
            seen.append(head)
            return None

        connection = self.connect(admit=admit)
        wire = request("POST", "/a/%2F?q=1", b"abc", {"X": ["1", "\xff"]})
        connection.send(wire[:-6])
        self.assertEqual(seen, [])
        connection.send(wire[-6:-3])
        (head,) = seen
        self.assertEqual((head.method, head.target, head.path), ("POST", "/a/%2F?q=1", "/a/%2F"))
        self.assertEqual((head.length, head.values(b"x")), (3, ["1", "\\xff"]))
        self.assertEqual(self.sink.bodies, [])
        connection.send(wire[-3:])
        connection.send(request("GET", "/") + request("POST", "/", b"", CHUNKED) + b"0\r\n\r\n")
        self.assertEqual([head.length for head in seen], [3, 0, None])
        self.assertEqual(len(connection.answers("POST", "GET", "POST")), 3)

    def test_its_refusal_is_the_answer_and_the_body_is_not_taken(self) -> None:
        for method in ("POST", "HEAD"):
            connection = self.connect(admit=lambda head: Overloaded("no room for this"))
            connection.send(request(method, "/", b"", {"Content-Length": "10"}) + b"12345")
            answer = self.assert_refused(connection, 503, "OVERLOADED", method)
            self.assertEqual(answer.headers["retry-after"], ["1"])
        self.assertEqual(self.sink.bodies, [])

    def test_it_is_asked_before_the_length_is_looked_at(self) -> None:
        connection = self.connect(admit=lambda head: NotReady())
        connection.send(request("POST", "/", b"", {"Content-Length": str(LIMIT + 1)}))
        self.assert_refused(connection, 503, "NOT_READY")

    def test_if_it_breaks_nobody_is_admitted(self) -> None:
        def broken(head: RequestHead) -> None:
            raise ZeroDivisionError("secret")

        connection = self.connect(admit=broken)
        connection.send(request("GET", "/"))
        answer = self.assert_refused(connection, 500, "INTERNAL_ERROR", "GET")
        self.assertNotIn("secret", answer.json["error"]["message"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class TimeTests(Case):
    def test_a_silent_connection_is_closed_without_a_word(self) -> None:
        connection = self.connect()
        self.clock.advance(IDLE_SECONDS - 1)
        self.assertFalse(connection.transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(connection.transport.disconnecting)
        self.assertEqual(connection.transport.value(), b"")
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_request_that_drips_is_cut_off_wherever_it_stands(self) -> None:
        line, rest = request("POST", "/", b"x" * 500).split(b"\r\n", 1)
        for start in (line + b"\r\n" + rest[:5], line + b"\r\n" + rest[:-400]):
            connection = self.connect()
            connection.send(start)
            for _ in range(int(RECEIVE_SECONDS) - 1):
                self.clock.advance(1)
                connection.send(b"x")
            self.assertEqual(connection.answers(), [])
            self.clock.advance(1)
            self.assert_refused(connection, 408, "REQUEST_TIMEOUT")

    def test_a_request_line_that_drips_is_cut_off_without_a_word(self) -> None:
        connection = self.connect()
        for _ in range(int(RECEIVE_SECONDS)):
            connection.send(b"G")
            self.clock.advance(1)
        self.assertTrue(connection.transport.disconnected)
        self.assertEqual(connection.transport.value(), b"")
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silence_in_the_middle_of_a_request_is_answered(self) -> None:
        connection = self.connect(idle_timeout=5)
        connection.send(request("POST", "/", b"x" * 10)[:-1])
        self.clock.advance(5)
        self.assert_refused(connection, 408, "REQUEST_TIMEOUT")

    def test_each_request_has_the_whole_time(self) -> None:
        connection = self.connect()
        for _ in range(5):
            wire = request("POST", "/", b"abc")
            connection.send(wire[:-1])
            self.clock.advance(RECEIVE_SECONDS - 1)
            connection.send(wire[-1:])
            self.assertEqual(connection.answers("POST")[0].body, b"3")
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_rest_of_a_chunk_of_bytes_starts_a_request_of_its_own(self) -> None:
        connection = self.connect(idle_timeout=1000)
        wire = request("POST", "/", b"abc")
        connection.send(wire + wire[:50])
        connection.answers("POST")
        connection.send(wire[50:51])
        self.clock.advance(RECEIVE_SECONDS)
        self.assert_refused(connection, 408, "REQUEST_TIMEOUT")

    def test_an_answer_that_is_not_fetched_does_not_hold_the_connection(self) -> None:
        connection = self.connect()
        connection.send(request("GET", "/", None, {"Connection": "close"}))
        self.assertTrue(connection.transport.disconnecting)
        self.clock.advance(IDLE_SECONDS)
        self.assertTrue(connection.transport.disconnected)
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LingerTests(Case):
    def refused(self, transport: StringTransport | None = None) -> Connection:
        connection = Connection(self.site(), transport)
        connection.send(request("POST", "/", b"", {"Content-Length": str(10**9)}))
        self.assertEqual(connection.answers("POST")[0].status, 413)
        return connection

    def test_what_still_comes_is_dropped_up_to_a_limit(self) -> None:
        connection = self.refused()
        for _ in range(16):
            connection.send(b"x" * (LINGER_BYTES // 16))
        self.assertFalse(connection.transport.disconnected)
        connection.send(b"x")
        self.assertTrue(connection.transport.disconnected)
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_client_that_does_not_hang_up_is_hung_up_on(self) -> None:
        connection = self.refused()
        self.clock.advance(LINGER_SECONDS - 0.1)
        self.assertFalse(connection.transport.disconnected)
        self.clock.advance(0.1)
        self.assertTrue(connection.transport.disconnected)
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_short_idle_timeout_does_not_cut_the_goodbye_short(self) -> None:
        connection = Connection(self.site(idle_timeout=LINGER_SECONDS / 2))
        connection.send(request("POST", "/", b"", {"Content-Length": str(10**9)}))
        self.clock.advance(LINGER_SECONDS * 0.75)
        self.assertFalse(connection.transport.disconnecting)
        connection.lose()

    def test_reading_goes_on_so_that_there_is_something_to_drop(self) -> None:
        transport = WireTransport()
        connection = Connection(self.site(), transport)
        transport.producerState = "paused"
        connection.send(request("POST", "/", b"", {"Content-Length": str(10**9)}))
        self.assertEqual(transport.producerState, "producing")
        self.assertIsNone(transport.producer)
        connection.lose()

    def test_where_half_closing_would_lose_data_the_whole_is_closed(self) -> None:
        class Encrypted(WireTransport):
            def setTcpNoDelay(self, enabled: bool) -> None:
                return None

        directlyProvides(encrypted := Encrypted(), ISSLTransport, IHalfCloseableDescriptor)
        for transport in (encrypted, StringTransport()):
            connection = self.refused(transport)
            self.assertTrue(transport.disconnecting)
            self.assertFalse(getattr(transport, "half_closed", False))
            self.clock.advance(LINGER_SECONDS)
            self.assertTrue(transport.disconnected)
            connection.lose()


class MemoryTests(SynchronousTestCase):
    """What all connections hold together."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sink = Sink()

    def site(self, **limits: Any) -> LimitedSite:
        def admit(head: RequestHead) -> None:
            head.caller = Caller(head.values(b"X-Caller")[0], ())

        return LimitedSite(self.sink, self.clock, max_body=LIMIT, admit=admit, **limits)

    def post(self, site: LimitedSite, size: int, who: str = "a", **headers: Any) -> Connection:
        """A connection with a request whose body is not all there."""
        connection = Connection(site)
        spelt = {"X-Caller": who, "Content-Length": str(size), **headers}
        connection.send(request("POST", "/", b"", spelt))
        return connection

    def code(self, connection: Connection, method: str = "POST") -> tuple[int, str]:
        (answer,) = connection.answers(method)
        self.assertEqual(answer.headers["retry-after"], ["1"])
        return answer.status, answer.code

    def test_bodies_share_what_there_is(self) -> None:
        site = self.site(max_bodies=4 * LIMIT)
        kept = [self.post(site, LIMIT, who) for who in "aabb"]
        for connection in kept:
            connection.send(b"x" * (LIMIT - 1))
        self.assertEqual(site.bodies.taken, 4 * (LIMIT - 1))
        late = self.post(site, LIMIT, "c")
        self.assertEqual(self.code(late), (503, "OVERLOADED"))
        small = self.post(site, 4, "c")
        small.send(b"1234")
        self.assertEqual(small.answers("POST")[0].body, b"4")
        for connection in kept:
            connection.send(b"x")
            self.assertEqual(connection.answers("POST")[0].body, b"%d" % LIMIT)
        self.assertEqual(site.bodies.taken, 0)
        again = self.post(site, LIMIT, "c")
        again.send(b"x" * LIMIT)
        self.assertEqual(again.answers("POST")[0].status, 200)

    def test_one_caller_cannot_take_all(self) -> None:
        site = self.site(max_bodies=4 * LIMIT)
        kept = [self.post(site, LIMIT, "a") for _ in range(2)]
        for connection in kept:
            connection.send(b"x" * (LIMIT - 1))
        self.assertEqual(self.code(self.post(site, 3, "a")), (503, "OVERLOADED"))
        other = self.post(site, LIMIT, "b")
        other.send(b"x" * LIMIT)
        self.assertEqual(other.answers("POST")[0].status, 200)

    def test_announcing_a_body_takes_nothing(self) -> None:
        site = self.site(max_bodies=2 * LIMIT)
        for _ in range(10):
            self.post(site, LIMIT)
        self.assertEqual(site.bodies.taken, 0)

    def test_a_body_that_finds_no_room_when_it_comes_is_given_up(self) -> None:
        site = self.site(max_bodies=LIMIT)
        first, second = self.post(site, LIMIT), self.post(site, LIMIT)
        chunks = self.post(site, 0, Content_Length=None, **{"Transfer-Encoding": "chunked"})
        first.send(b"x" * 600)
        second.send(b"x" * 401)
        self.assertEqual(self.code(second), (503, "OVERLOADED"))
        self.assertTrue(second.transport.half_closed)  # type: ignore[attr-defined]
        first.send(b"x" * 400)
        self.assertEqual(first.answers("POST")[0].body, b"1000")
        chunks.lose()
        self.assertEqual(site.bodies.taken, 0)

    def test_memory_is_given_back_however_a_request_ends(self) -> None:
        site = self.site(max_bodies=LIMIT)

        def late(_request: Any) -> int:
            return NOT_DONE_YET

        refused = self.post(site, 0, Content_Length=None, **{"Transfer-Encoding": "chunked"})
        refused.send(chunked(b"x" * 500) + b"nonsense\r\n")
        self.assertEqual(refused.answers("POST")[0].status, 400)
        self.assertEqual(site.bodies.taken, 0)
        lost = self.post(site, LIMIT)
        lost.send(b"x" * 500)
        self.assertEqual(site.bodies.taken, 500)
        lost.lose()
        self.assertEqual(site.bodies.taken, 0)
        slow = self.post(site, LIMIT)
        slow.send(b"x" * 500)
        self.clock.advance(RECEIVE_SECONDS)
        self.assertEqual(slow.answers("POST")[0].status, 408)
        self.assertEqual(site.bodies.taken, 0)
        self.sink.render_POST = late  # type: ignore[method-assign,assignment]
        answering = self.post(site, 7)
        answering.send(b"1234567")
        self.assertEqual(site.bodies.taken, 7)
        answering.lose()
        self.assertEqual(site.bodies.taken, 0)

    def unread(self, site: LimitedSite, who: str) -> Connection:
        """A connection whose client has asked and does not take the answer."""
        connection = Connection(site)
        write = connection.transport.write

        def full(data: bytes) -> None:
            write(data)
            connection.channel.pauseProducing()

        connection.transport.write = full  # type: ignore[method-assign]
        connection.send(request("GET", "/", None, {"X-Caller": who}))
        connection.transport.write = write  # type: ignore[method-assign]
        return connection

    def ask(self, site: LimitedSite, who: str) -> Connection:
        connection = Connection(site)
        connection.send(request("GET", "/", None, {"X-Caller": who}))
        return connection

    def test_who_does_not_take_answers_gets_no_more_of_them(self) -> None:
        self.sink.render_GET = lambda _: b"x" * 100  # type: ignore[method-assign,misc,assignment]
        site = self.site(max_unfetched=400)
        unread = [self.unread(site, "a") for _ in range(2)]
        self.assertEqual(site.answers.taken, 200)
        self.clock.advance(0.25)
        (answer,) = self.ask(site, "a").answers("GET")
        self.assertEqual((answer.status, answer.code), (503, "OVERLOADED"))
        self.assertEqual(answer.json["error"]["details"], {"retry_after": STUCK_SECONDS - 0.25})
        self.assertEqual(answer.headers["retry-after"], ["2"])
        self.assertEqual(self.ask(site, "b").answers("GET")[0].status, 200)
        unread[0].channel.resumeProducing()
        self.assertEqual(site.answers.taken, 100)
        self.assertEqual(self.ask(site, "a").answers("GET")[0].status, 200)
        unread[1].lose()
        self.assertEqual(site.answers.taken, 0)

    def test_if_it_does_not_for_too_long_it_is_cut_off_for_others(self) -> None:
        sizes = [10, 100, 100, 10, 1]
        self.sink.render_GET = (  # type: ignore[method-assign]
            lambda _: b"x" * sizes.pop(0)  # type: ignore[assignment,misc]
        )
        site = self.site(max_unfetched=400)
        small, large = self.unread(site, "a"), self.unread(site, "a")
        others = self.unread(site, "b")
        self.clock.advance(STUCK_SECONDS / 2)
        late = self.unread(site, "a")
        self.clock.advance(STUCK_SECONDS / 2)
        late.channel._left(100)
        self.assertEqual(self.ask(site, "a").answers("GET")[0].status, 200)
        self.assertTrue(large.transport.disconnected)
        for kept in (small, late, others):
            self.assertFalse(kept.transport.disconnected)
        for connection in (small, large, late, others):
            connection.lose()
        self.assertEqual(site.answers.taken, 0)

    def test_a_large_answer_is_not_begun_without_room_for_it(self) -> None:
        def large(request: Any) -> bytes:
            try:
                return prepare(request, 200, [], b"x" * (LARGE + 1))
            except MeshkitError as e:
                return prepare_error(request, e)

        self.sink.render_GET = large  # type: ignore[method-assign]
        site = self.site(max_unfetched=5 * LARGE)
        unread = self.unread(site, "a")
        self.assertEqual(self.ask(site, "b").answers("GET")[0].status, 200)
        first = self.ask(site, "a")
        self.assertEqual(first.answers("GET")[0].status, 200)
        unread.channel._left(LARGE // 2)
        refused = self.ask(site, "a")
        self.assertEqual(refused.answers("GET")[0].status, 503)
        self.assertFalse(refused.transport.disconnecting)
        self.clock.advance(STUCK_SECONDS)
        refused.send(request("GET", "/", None, {"X-Caller": "a"}))
        self.assertEqual(refused.answers("GET")[0].status, 200)
        self.assertTrue(unread.transport.disconnected)
        unread.lose()
        # What is larger than all that one may have is sent when nothing else waits.
        tiny = self.site(max_unfetched=2)
        self.assertEqual(self.ask(tiny, "a").answers("GET")[0].status, 200)

    def test_where_all_have_too_much_together_anybody_is_cut_off(self) -> None:
        self.sink.render_GET = lambda _: b"x" * 100  # type: ignore[method-assign,misc,assignment]
        site = self.site(max_unfetched=400)
        unread = [self.unread(site, who) for who in "abcd"]
        self.assertEqual(self.ask(site, "e").answers("GET")[0].status, 503)
        self.clock.advance(STUCK_SECONDS)
        self.assertEqual(self.ask(site, "e").answers("GET")[0].status, 200)
        self.assertEqual([c.transport.disconnected for c in unread].count(True), 1)

    def test_a_pipeline_waits_until_answers_are_taken(self) -> None:
        site = self.site()
        connection = self.unread(site, "a")
        self.assertEqual(connection.transport.producerState, "paused")
        connection.transport.clear()
        wire = request("GET", "/", None, {"X-Caller": "a"})
        connection.send(wire + wire[:20])
        self.assertEqual(connection.transport.value(), b"")
        connection.channel.resumeProducing()
        self.assertEqual(connection.transport.producerState, "producing")
        connection.send(wire[20:])
        self.assertEqual(len(connection.answers("GET", "GET")), 2)
        connection.lose()
        self.assertEqual((self.clock.getDelayedCalls(), site.answers.taken), ([], 0))

    def test_a_client_that_never_reads_is_closed_in_the_end(self) -> None:
        site = self.site()
        connection = self.unread(site, "a")
        self.clock.advance(IDLE_SECONDS)
        self.assertTrue(connection.transport.disconnecting)
        self.clock.advance(LimitedChannel.abortTimeout)
        self.assertTrue(connection.transport.disconnected)
        connection.lose()
        self.assertEqual((self.clock.getDelayedCalls(), site.answers.taken), ([], 0))


class ConnectionTests(Case):
    def busy(self, stage: Stage) -> Connection:
        connection = stage.connect()
        connection.send(request("GET", "/v1/wait"))
        return connection

    def test_one_connection_too_many_is_told_so(self) -> None:
        stage = Stage(max_connections=3)
        open_ = [self.busy(stage) for _ in range(3)]
        self.assertEqual(stage.site.connections, 3)
        extra = stage.connect()
        (answer,) = extra.answers("GET")
        self.assertEqual((answer.status, answer.code), (503, "OVERLOADED"))
        self.assertTrue(extra.transport.disconnecting)
        extra.send(request("GET", "/v1/status"))
        extra.lose()
        self.assertEqual(stage.site.connections, 3)
        tally = stage.site.tally
        self.assertEqual((tally.connections, tally.turned_away), (3, 1))
        open_.pop().lose()
        again = stage.connect()
        again.send(request("GET", "/v1/status"))
        self.assertEqual(again.answers("GET")[0].status, 200)

    def test_who_has_been_idle_longest_makes_room(self) -> None:
        stage = Stage(max_connections=3)
        first, busy, third = stage.connect(), self.busy(stage), stage.connect()
        # It has just been used, so the third is idle for longer.
        first.send(request("GET", "/v1/status"))
        first.answers("GET")
        newcomer = stage.connect()
        self.assertTrue(third.transport.disconnecting)
        self.assertFalse(first.transport.disconnecting or busy.transport.disconnecting)
        newcomer.send(request("GET", "/v1/status"))
        self.assertEqual(newcomer.answers("GET")[0].status, 200)
        # Though the third has not gone yet.
        last = stage.connect()
        self.assertTrue(first.transport.disconnecting)
        self.assertFalse(newcomer.transport.disconnecting)
        third.lose()
        first.lose()
        self.assertEqual(stage.site.connections, 3)
        for connection in (newcomer, last):
            connection.send(request("GET", "/v1/wait"))
        self.assertEqual(stage.connect().answers("GET")[0].status, 503)
        self.assertFalse(busy.transport.disconnecting)

    def test_so_does_who_has_not_been_let_in(self) -> None:
        stage = Stage(max_connections=2)
        slow = stage.connect()
        slow.send(request("GET", "/v1/status")[:-2])
        refused = stage.connect()
        refused.send(request("GET", "/v1/status", None, {"Authorization": None}))
        (answer,) = refused.answers("GET")
        self.assertEqual(answer.status, 401)
        stage.connect()
        self.assertTrue(slow.transport.aborted)  # type: ignore[attr-defined]
        stage.connect()
        self.assertTrue(refused.transport.aborted)  # type: ignore[attr-defined]
        for gone in (slow, refused):
            gone.lose()
        self.assertEqual(stage.site.connections, 2)

    def test_who_sends_a_body_that_was_let_in_does_not(self) -> None:
        stage = Stage(max_connections=1)
        sending = stage.connect()
        sending.send(request("POST", "/v1/publish", b'{"content": 1}')[:-1])
        self.assertEqual(stage.connect().answers("GET")[0].status, 503)
        sending.send(b"}")
        self.assertEqual(sending.answers("POST")[0].status, 201)
        stage.connect()
        self.assertTrue(sending.transport.disconnecting)

    def test_a_client_that_takes_no_answer_does_not_either(self) -> None:
        stage = Stage(max_connections=1)
        connection = stage.connect()
        connection.send(request("GET", "/v1/wait"))
        connection.channel.pauseProducing()
        stage.toys.waiting[0].callback(None)
        self.assertEqual(stage.connect().answers("GET")[0].status, 503)
        connection.channel.resumeProducing()
        stage.connect()
        self.assertTrue(connection.transport.disconnecting)

    def test_no_caller_can_be_at_work_on_all_of_them(self) -> None:
        stage = Stage(max_connections=4)
        admit = stage.site.admit

        def by_name(head: RequestHead) -> MeshkitError | None:
            error = admit(head)
            head.caller = Caller(head.values(b"X-Caller")[0], OWNER.scopes)
            return error

        stage.site.admit = by_name

        def ask(who: str, path: str = "/v1/wait") -> Connection:
            connection = stage.connect()
            connection.send(request("GET", path, None, {"X-Caller": who}))
            return connection

        working = [ask("a") for _ in range(3)]
        self.assertEqual([c.transport.value() for c in working], [b""] * 3)
        (answer,) = ask("a").answers("GET")
        self.assertEqual((answer.status, answer.code), (503, "OVERLOADED"))
        self.assertEqual(ask("b", "/v1/status").answers("GET")[0].status, 200)
        working[0].lose()
        stage.toys.waiting[1].callback(None)
        for _ in range(3):
            # Two may be at work again, whatever has come and gone.
            self.assertEqual(ask("a", "/v1/status").answers("GET")[0].status, 200)
        self.assertEqual([ask("a").transport.value() for _ in range(2)], [b""] * 2)
        self.assertEqual(ask("a").answers("GET")[0].status, 503)

    def test_what_the_client_says_of_its_connection_is_a_list(self) -> None:
        for said, closes in (
            ("close", True),
            ("Close", True),
            ("keep-alive, close", True),
            ("TE,close", True),
            (["TE", "close"], True),
            ("keep-alive", False),
            ("closed", False),
        ):
            connection = self.connect()
            connection.send(request("GET", "/", None, {"Connection": said}))
            (answer,) = connection.answers("GET")
            told = answer.headers.get("connection") == ["close"]
            self.assertEqual(
                (said, told, connection.transport.disconnecting), (said, closes, closes)
            )
            connection.lose()

    def test_a_pipeline_waits_while_one_is_answered(self) -> None:
        stage = Stage()
        connection = stage.connect()
        connection.send(request("GET", "/v1/wait") + request("GET", "/v1/status"))
        self.assertEqual((connection.answers(), stage.toys.asked), ([], []))
        connection.send(request("GET", "/v1/status") * 200)
        self.assertEqual(connection.transport.producerState, "paused")
        stage.toys.waiting[0].callback(None)
        self.assertEqual(len(connection.answers(*["GET"] * 202)), 202)
        self.assertEqual(connection.transport.producerState, "producing")
        connection.lose()
        self.assertEqual(stage.clock.getDelayedCalls(), [])

    def test_a_pipeline_ends_with_a_refusal(self) -> None:
        connection = self.connect()
        connection.send(request("GET", "/") + b"nonsense\r\n" + request("GET", "/"))
        good, bad = connection.answers("GET", "GET")
        self.assertEqual((good.status, bad.status), (200, 400))
        connection.lose()

    def test_closing_waits_for_what_is_being_answered(self) -> None:
        stage = Stage()
        idle, busy, half = stage.connect(), stage.connect(), stage.connect()
        busy.send(request("GET", "/v1/wait"))
        half.send(b"GET / HT")
        closed = stage.site.close(30)
        self.assertTrue(idle.transport.disconnecting)
        self.assertTrue(half.transport.disconnecting)
        self.assertFalse(busy.transport.disconnecting)
        idle.lose()
        half.lose()
        self.assertNoResult(closed)
        stage.toys.waiting[0].callback(5)
        self.assertEqual(busy.answers("GET")[0].json["data"], 5)
        self.assertTrue(busy.transport.disconnecting)
        busy.lose()
        self.successResultOf(closed)
        self.assertEqual(stage.clock.getDelayedCalls(), [])

    def test_closing_does_not_wait_for_ever(self) -> None:
        stage = Stage()
        busy = stage.connect()
        busy.send(request("GET", "/v1/wait"))
        closed = stage.site.close(30)
        stage.clock.advance(30)
        self.assertTrue(busy.transport.disconnected)
        self.assertNoResult(closed)
        busy.lose()
        self.successResultOf(closed)
        self.assertEqual(stage.toys.cancelled, 1)
        self.assertEqual(stage.clock.getDelayedCalls(), [])

    def test_closing_when_nothing_is_open_is_done_at_once(self) -> None:
        self.successResultOf(self.site().close(30))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_stops_waiting_for_the_close_leaves_nothing_behind(self) -> None:
        site = self.site()
        connection = Connection(site)
        first, second = site.close(30), site.close(30)
        first.cancel()
        self.failureResultOf(first)
        connection.lose()
        self.successResultOf(second)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_losing_the_connection_at_any_byte_leaves_nothing_behind(self) -> None:
        site = self.site()
        wire = request("POST", "/", b"", CHUNKED) + chunked(b"abc") + b"0\r\n\r\n"
        for end in range(len(wire)):
            connection = Connection(site)
            connection.send(wire[:end])
            connection.lose()
            self.assertEqual(self.clock.getDelayedCalls(), [], end)
            self.assertEqual(site.connections, 0)
        self.assertEqual(self.sink.bodies, [])

    def test_the_site_starts_no_timer_and_writes_no_log(self) -> None:
        site = self.site()
        site.doStart()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        Connection(site).send(request("GET", "/"))
        site.doStop()


class HeaderTests(Case):
    def test_the_date_is_that_of_the_clock_it_was_given(self) -> None:
        date = "Sun, 06 Nov 1994 08:49:37 GMT"
        connection = self.connect(wall_clock=lambda: 784111777 * 10**9 + 5)
        connection.send(request("GET", "/") + request("POST", "/", b"x" * 5000))
        good, bad = connection.answers("GET", "POST")
        self.assertEqual((good.headers["date"], bad.headers["date"]), ([date], [date]))

    def test_without_a_clock_there_is_no_date(self) -> None:
        connection = self.connect()
        connection.send(request("GET", "/"))
        (answer,) = connection.answers("GET")
        self.assertNotIn("date", answer.headers)
        self.assertNotIn("server", answer.headers)


class FailureTests(Case):
    def test_a_resource_that_breaks_is_answered_for_in_json(self) -> None:
        def broken(request: Any) -> bytes:
            raise ZeroDivisionError("secret")

        self.sink.render_GET = broken  # type: ignore[method-assign]
        connection = self.connect()
        connection.send(request("GET", "/") + request("POST", "/", b"x"))
        bad, good = connection.answers("GET", "POST")
        self.assertEqual((bad.status, bad.code), (500, "INTERNAL_ERROR"))
        self.assertNotIn(b"secret", bad.body)
        self.assertEqual(good.body, b"1")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_half_an_answer_ends_with_the_connection(self) -> None:
        def broken(request: Any) -> bytes:
            request.write(b"half")
            raise ZeroDivisionError

        self.sink.render_GET = broken  # type: ignore[method-assign]
        connection = self.connect()
        connection.send(request("GET", "/"))
        self.assertTrue(connection.transport.value().endswith(b"4\r\nhalf\r\n"))
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_method_that_a_plain_resource_lacks_is_refused_in_json(self) -> None:
        connection = self.connect()
        connection.send(request("DELETE", "/") + request("BREW", "/"))
        for answer in connection.answers("DELETE", "BREW"):
            self.assertEqual((answer.status, answer.code), (405, "METHOD_NOT_ALLOWED"))
            self.assertEqual(answer.headers["allow"], ["GET, HEAD, POST"])
        connection.send(request("HEAD", "/"))
        self.assertEqual(connection.answers("HEAD")[0].status, 200)

    def test_a_resource_without_head_gets_one(self) -> None:
        class OnlyGet(Sink):
            def render(self, request: Any) -> Any:
                if request.method != b"GET":
                    raise UnsupportedMethod([b"GET"])
                return super().render(request)

        self.sink = OnlyGet()
        connection = self.connect()
        connection.send(request("HEAD", "/"))
        (answer,) = connection.answers("HEAD")
        self.assertEqual((answer.status, answer.headers["content-length"]), (200, ["3"]))

    def test_a_resource_may_answer_later(self) -> None:
        waiting: list[Any] = []

        def later(request: Any) -> int:
            waiting.append(request)
            return NOT_DONE_YET

        self.sink.render_GET = later  # type: ignore[method-assign,assignment]
        connection = self.connect()
        connection.send(request("GET", "/"))
        self.clock.advance(10_000)
        waiting[0].setHeader(b"Content-Length", b"4")
        waiting[0].write(b"late")
        waiting[0].finish()
        self.assertEqual(connection.answers("GET")[0].body, b"late")


class _Uploader(Protocol):
    """Sends a request and a body that goes on, and keeps what it is answered."""

    def __init__(self, wire: bytes) -> None:
        self.wire = wire
        self.got = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.wire)

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.done.callback(self.got)


class LoopbackTests(TestCase):
    """What only a real TCP connection can show."""

    async def upload(self, size: int) -> bytes:
        self.site = LimitedSite(Sink(), reactor, max_body=LIMIT)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.site)
        self.addCleanup(port.stopListening)
        client = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        head = request("POST", "/", b"", {"Content-Length": str(size)})
        uploader = _Uploader(head + b"x" * size)
        await connectProtocol(client, uploader)
        got = await uploader.done
        await self.site.close(5)
        return got

    async def test_a_client_in_the_middle_of_its_body_gets_to_read_the_refusal(self) -> None:
        (answer,) = read_answers(await self.upload(LINGER_BYTES // 2), ["POST"])
        self.assertEqual((answer.status, answer.code), (413, "BODY_TOO_LARGE"))
        self.assertEqual(self.site.connections, 0)

    async def test_a_client_that_never_ends_is_cut_off(self) -> None:
        await self.upload(LINGER_BYTES * 8)
        self.assertEqual(self.site.connections, 0)
