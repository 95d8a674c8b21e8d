"""Requests that mean no good, and what they cost the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from meshkit.errors import ReservationExceeded, UploadOutOfStep
from meshkit.identity.addresses import PeerAddress
from meshkit.runtime.http import LINGER_SECONDS
from meshkit.storage.encoding import Piece
from meshkit.storage.http.messages import MAX_HEAD, MAX_HEADERS
from meshkit.storage.http.server import (
    IDLE_SECONDS,
    LINGER_BYTES,
    RECEIVE_SECONDS,
    TAKE_SECONDS,
    StorageChannel,
    StorageSite,
    storage_factory,
)
from meshkit.storage.http.wire import MAX_JSON, MAX_MANIFEST, OCTETS
from meshkit.storage.terms import MAX_BLOCK
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from meshkit.testing.transports import Chunker, MemoryNetwork
from tests.storage.http.peers import SECRET, SHARE, UPLOAD, ToldPeer

PORT: Final = 7672
UPLOADS: Final = f"/v1/uploads/{UPLOAD.hex()}"
SHARES: Final = f"/v1/shares/{SHARE.hex()}"


class Listening(Protocol):
    """Keeps what comes, unless it is told to read nothing."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


@implementer(IHalfCloseableProtocol)
class Stubborn(Listening):
    """Goes on sending when it was told that nothing more comes."""

    def readConnectionLost(self) -> None:
        """It does not care."""

    def writeConnectionLost(self) -> None:
        """Nor that."""


class AsChannels(Factory):
    """Has connections say whose they are, as secure channels do."""

    def __init__(self, site: StorageSite) -> None:
        self.site = site
        self.callers = ["caller"]
        self.built: list[StorageChannel] = []

    def buildProtocol(self, addr: IAddress | None) -> Any:
        assert addr is not None
        name = self.callers[-1]
        whose = PeerAddress(make_identity(name).public, addr) if name else addr
        channel = self.site.buildProtocol(whose)
        if channel is not None:
            self.built.append(channel)
        return channel


class Serving:
    """A server, and raw connections to it."""

    def __init__(self, chunk: Chunker | None = None, **limits: Any) -> None:
        self.clock = Clock()
        self.told = ToldPeer()
        self.site = storage_factory(self.clock, self.told.for_caller, self.told.record, **limits)
        self.listening = AsChannels(self.site)
        self.network = MemoryNetwork(self.clock, chunk=chunk)
        self.network.server_endpoint(PORT).listen(self.listening)

    def dial(
        self, caller: str = "caller", protocol: Callable[[], Listening] = Listening
    ) -> Listening:
        """@return: a connection."""
        self.listening.callers.append(caller)
        made: list[Any] = []
        self.network.client_endpoint(PORT).connect(Factory.forProtocol(protocol)).addBoth(
            made.append
        )
        self.run()
        connection: Listening = made[0]
        return connection

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        run_clock(self.clock, seconds)
        run_clock(self.clock, 0.0)

    def ask(self, raw: bytes, connection: Listening | None = None) -> list[tuple[int, Any]]:
        """@return: status and body of each answer."""
        connection = self.dial() if connection is None else connection
        before = len(connection.received)
        transport: Any = connection.transport
        transport.write(raw)
        self.run()
        return answers(bytes(connection.received[before:]))

    @property
    def names(self) -> list[str]:
        """What the peer was asked."""
        return [name for _, name, _ in self.told.calls]


def answers(raw: bytes) -> list[tuple[int, Any]]:
    """@return: status and body, which is the code if it is an error."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(headers["content-length"])
        body, raw = raw[:length], raw[length:]
        status = int(lines[0].split(" ")[1])
        found.append((status, json.loads(body)["error"]["code"] if status >= 400 else body))
    return found


def request(
    method: str = "GET", path: str = SHARES, body: bytes = b"", *more: str, length: Any = None
) -> bytes:
    """@return: a request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: a",
        f"Content-Length: {len(body) if length is None else length}",
        f"Content-Type: {OCTETS.decode()}",
        *more,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Routes(SynchronousTestCase):
    def setUp(self) -> None:
        self.serving = Serving()

    def _codes(self, raw: bytes) -> list[tuple[int, Any]]:
        return self.serving.ask(raw)

    def test_what_is_public_is_answered_to_anybody(self) -> None:
        connection = self.serving.dial("")
        for path in ("/v1/health", "/v1/heartbeat"):
            ((status, _),) = self.serving.ask(request("GET", path), connection)
            self.assertEqual(status, 200)
        self.assertEqual(
            self.serving.ask(request("GET", SHARES), connection), [(401, "SIGNATURE_REFUSED")]
        )
        self.assertEqual(self.serving.names, ["statement"])

    def test_paths_that_do_not_exist_are_told(self) -> None:
        for path in (
            "/",
            "/v1",
            "/v1/",
            "/v2/health",
            "/v1/health/",
            "//v1/health",
            "v1/health",
            "http://a/v1/health",
            "/v1//health",
            "/v1/./health",
            "/v1/%68ealth",
            f"/v1/shares/{SHARE.hex().upper()}",
            f"/v1/shares/{SHARE.hex()[:-1]}",
            f"/v1/shares/{SHARE.hex()}0",
            f"{SHARES}/blocks/-1",
            f"{SHARES}/blocks/01",
            f"{SHARES}/blocks/{2**32}",
            f"{UPLOADS}/255/0",
            f"{UPLOADS}/00/0",
            f"{UPLOADS}/0/0/0",
            "/v1/shares/" + "a" * 3_000,
        ):
            method = "PUT" if path.startswith(UPLOADS) else "GET"
            self.assertEqual(self._codes(request(method, path)), [(404, "NOT_FOUND")], path)
        self.assertEqual(self.serving.told.calls, [])

    def test_methods_that_do_not_exist_are_told(self) -> None:
        for method, path in (
            ("OPTIONS", SHARES),
            ("TRACE", SHARES),
            ("PATCH", f"{UPLOADS}/0/0"),
            ("POST", SHARES),
            ("get", SHARES),
            ("GET", f"{UPLOADS}/0/0"),
            ("DELETE", "/v1/health"),
            ("X" * 100, SHARES),
        ):
            self.assertEqual(
                self._codes(request(method, path)), [(405, "METHOD_NOT_ALLOWED")], method
            )
        self.assertEqual(self._codes(request("OPTIONS", "*")), [(404, "NOT_FOUND")])
        self.assertEqual(self.serving.told.calls, [])

    def test_a_head_is_answered_without_the_body(self) -> None:
        connection = self.serving.dial()
        transport: Any = connection.transport
        transport.write(request("HEAD", f"{SHARES}/manifest"))
        self.serving.run()
        head, _, body = bytes(connection.received).partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: 10", head)
        self.assertEqual(body, b"")
        self.assertEqual(
            self.serving.ask(request("GET", f"{SHARES}/manifest"), connection),
            [(200, b"a manifest")],
        )

    def test_a_query_is_refused(self) -> None:
        self.assertEqual(self._codes(request("GET", SHARES + "?a=b")), [(400, "INVALID_REQUEST")])

    def test_wrong_json_is_told(self) -> None:
        for body in (
            b"",
            b"null",
            b"{",
            b'{"size": 1}',
            b'{"size": -1, "lease": "%s"}' % (b"a" * 64),
            b'{"size": 1, "lease": "zz"}',
            b'{"size": 1, "lease": "%s", "more": 1}' % (b"a" * 64),
            b'{"size": %d, "lease": "%s"}' % (2**63, b"a" * 64),
            b"[" * MAX_JSON,
            b"\xff",
        ):
            self.assertEqual(
                self._codes(request("POST", f"{UPLOADS}/0", body)), [(400, "INVALID_REQUEST")]
            )
        self.assertEqual(self.serving.told.calls, [])

    def test_the_secret_of_a_lease_is_needed_once(self) -> None:
        good = f"Meshkit-Lease: {SECRET.hex()}"
        for more in ((), ("Meshkit-Lease: x",), (good, good), (good.upper(),)):
            self.assertEqual(
                self._codes(request("DELETE", f"{SHARES}/lease", b"", *more)),
                [(400, "INVALID_REQUEST")],
            )
        self.assertEqual(self._codes(request("DELETE", f"{SHARES}/lease", b"", good)), [(200, b"")])


class AtTheHeaders(SynchronousTestCase):
    """Who is refused is refused before a byte of the body is kept."""

    def _refused(self, head: bytes, code: str, **answers: Any) -> None:
        serving = Serving()
        serving.told.answers.update(answers)
        connection = serving.dial()
        ((status, found),) = serving.ask(head, connection)
        self.assertEqual(found, code, head)
        self.assertGreaterEqual(status, 400)
        # The answer came although nothing of the body did, and no more is taken.
        self.assertEqual([name for name in serving.names if name != "expect"], [])
        transport: Any = connection.transport
        transport.write(b"x" * 1_000)
        serving.run(LINGER_SECONDS + 0.1)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(serving.site.connections, 0)

    def test_each_route_has_a_limit_for_its_body(self) -> None:
        for method, path, limit in (
            ("PUT", f"{UPLOADS}/0/0", MAX_BLOCK),
            ("POST", f"{UPLOADS}/0", MAX_JSON),
            ("POST", f"{UPLOADS}/0/close", MAX_MANIFEST),
            ("POST", f"{SHARES}/lease", MAX_JSON),
            ("DELETE", f"{UPLOADS}/0", 0),
            ("GET", SHARES, 0),
            ("GET", "/v1/health", 0),
        ):
            self._refused(request(method, path, length=limit + 1), "BODY_TOO_LARGE")
            self._refused(request(method, path, length=10**18), "BODY_TOO_LARGE")
            self._refused(request(method, path, length="9" * 300), "BODY_TOO_LARGE")

    def test_a_body_has_to_say_how_long_it_is(self) -> None:
        put = f"PUT {UPLOADS}/0/0 HTTP/1.1\r\nHost: a\r\n"
        self._refused(put.encode() + b"\r\n", "INVALID_REQUEST")
        self._refused(
            put.encode() + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "INVALID_REQUEST"
        )
        for lengths in (
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: -5",
            "Content-Length: +5",
            "Content-Length: 0x5",
            "Content-Length:",
        ):
            self._refused(f"{put}{lengths}\r\n\r\n".encode(), "INVALID_REQUEST")

    def test_a_body_comes_as_it_is(self) -> None:
        self._refused(
            request("PUT", f"{UPLOADS}/0/0", b"", "Content-Encoding: gzip", length=9),
            "INVALID_REQUEST",
        )

    def test_the_peer_is_asked_before_a_block_is_read(self) -> None:
        for error in (UploadOutOfStep("no", next_segment=3), ReservationExceeded("no")):
            head = request("PUT", f"{UPLOADS}/7/2", length=MAX_BLOCK)
            self._refused(head, error.code, expect=error)

    def test_a_mistake_of_the_peer_is_told_without_its_insides(self) -> None:
        head = request("PUT", f"{UPLOADS}/7/2", length=MAX_BLOCK)
        self._refused(head, "INTERNAL_ERROR", expect=RuntimeError("1234"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_who_waits_to_be_told_to_go_on_is_told_at_once(self) -> None:
        serving = Serving()
        connection = serving.dial()
        head = request("PUT", f"{UPLOADS}/0/0", b"", "Expect: 100-continue", length=5)
        transport: Any = connection.transport
        transport.write(head)
        serving.run()
        self.assertEqual(bytes(connection.received), b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.received.clear()
        self.assertEqual(serving.ask(b"hello", connection), [(200, b"")])
        serving.told.answers["expect"] = ReservationExceeded("no")
        self.assertEqual(serving.ask(head, connection), [(413, "RESERVATION_EXCEEDED")])

    def test_what_was_on_its_way_is_dropped_up_to_a_limit(self) -> None:
        serving = Serving()
        connection = serving.dial(protocol=Stubborn)
        head = request("PUT", f"{UPLOADS}/0/0", length=10**9)
        self.assertEqual(serving.ask(head, connection), [(413, "BODY_TOO_LARGE")])
        (channel,) = serving.listening.built
        transport: Any = connection.transport
        sent = 0
        while connection.lost is None and sent < 10 * LINGER_BYTES:
            transport.write(b"x" * 65_536)
            sent += 65_536
            serving.run()
        self.assertLessEqual(sent, LINGER_BYTES + 2 * 65_536)
        self.assertGreaterEqual(sent, LINGER_BYTES)
        self.assertEqual(len(channel._buffer), 0)
        self.assertEqual(channel._dataBuffer, [])


class Heads(SynchronousTestCase):
    def _refused(self, raw: bytes, code: str) -> None:
        serving = Serving()
        connection = serving.dial()
        found = serving.ask(raw, connection)
        self.assertEqual([each[1] for each in found], [code], raw[:60])
        serving.run(LINGER_SECONDS + 0.1)
        self.assertEqual(serving.site.connections, 0)
        self.assertEqual(serving.told.calls, [])

    def test_they_have_a_size(self) -> None:
        good = f"GET {SHARES} HTTP/1.1\r\nHost: a\r\nX: "
        room = MAX_HEAD - len(good) - 4
        ((status, _),) = Serving().ask(f"{good}{'a' * room}\r\n\r\n".encode())
        self.assertEqual(status, 200)
        self._refused(f"{good}{'a' * (room + 1)}\r\n\r\n".encode(), "HEADERS_TOO_LARGE")
        self._refused(f"{good}{'a' * 10 * room}".encode(), "HEADERS_TOO_LARGE")
        self._refused(b"a" * 10 * room, "HEADERS_TOO_LARGE")

    def test_they_have_a_number(self) -> None:
        def many(count: int) -> bytes:
            more = "X: 1\r\n" * (count - 1)
            return f"GET {SHARES} HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode()

        ((status, _),) = Serving().ask(many(MAX_HEADERS))
        self.assertEqual(status, 200)
        self._refused(many(MAX_HEADERS + 1), "HEADERS_TOO_LARGE")

    def test_what_is_no_http_is_refused(self) -> None:
        for raw in (
            b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
            b"GET /v1/health\r\n\r\n",
            b"GET  /v1/health HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /v1/health HTTP/1.1\r\nno header\r\n\r\n",
            b"GET /v1/health HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET /v1/health HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        ):
            self._refused(raw, "INVALID_REQUEST")

    @given(st.binary(max_size=200))
    def test_garbage_is_refused_and_nothing_worse(self, garbage: bytes) -> None:
        serving = Serving()
        for raw in (garbage, request()[:40] + garbage, garbage + b"\r\n\r\n"):
            serving.ask(raw)
        serving.run(RECEIVE_SECONDS + IDLE_SECONDS + TAKE_SECONDS)
        self.assertEqual(serving.site.connections, 0)


class InPieces(SynchronousTestCase):
    BLOCK: Final = request("PUT", f"{UPLOADS}/0/0", b"a block of 19 bytes")

    def test_bytes_may_come_one_at_a_time(self) -> None:
        serving = Serving(chunk=lambda _: 1)
        self.assertEqual(serving.ask(self.BLOCK), [(200, b"")])
        self.assertEqual(serving.told.calls[-1][2][3], b"a block of 19 bytes")

    def test_no_beginning_of_a_request_is_one(self) -> None:
        for end in range(len(self.BLOCK)):
            serving = Serving()
            connection = serving.dial()
            self.assertEqual(serving.ask(self.BLOCK[:end], connection), [])
            self.assertNotIn("write", serving.names)
            transport: Any = connection.transport
            transport.loseConnection()
            serving.run()
            self.assertEqual(serving.site.connections, 0)
            self.assertNotIn("write", serving.names)

    @given(st.lists(st.integers(1, len(BLOCK) * 3)))
    def test_requests_that_follow_at_once_are_answered_in_order(self, cuts: list[int]) -> None:
        serving = Serving()
        connection = serving.dial()
        raw = self.BLOCK + request("GET", f"{SHARES}/manifest") + self.BLOCK
        ends = sorted({*[cut for cut in cuts if cut < len(raw)], len(raw)})
        found = []
        for start, end in zip([0, *ends], ends, strict=False):
            found += serving.ask(raw[start:end], connection)
        self.assertEqual(found, [(200, b""), (200, b"a manifest"), (200, b"")])
        self.assertEqual(serving.site.connections, 1)

    def test_a_request_waits_until_the_one_before_it_is_answered(self) -> None:
        serving = Serving()
        slow: Deferred[bytes] = Deferred()
        serving.told.answers["manifest"] = slow
        connection = serving.dial()
        raw = request("GET", f"{SHARES}/manifest") + request("GET", SHARES)
        self.assertEqual(serving.ask(raw, connection), [])
        self.assertEqual(serving.names, ["manifest"])
        slow.callback(b"late")
        serving.run()
        self.assertEqual([body for _, body in answers(bytes(connection.received))][0], b"late")
        self.assertEqual(serving.names, ["manifest", "stat"])

    def test_who_sends_on_while_he_is_answered_is_paused(self) -> None:
        serving = Serving()
        serving.told.answers["manifest"] = Deferred()
        connection = serving.dial()
        serving.ask(request("GET", f"{SHARES}/manifest"), connection)
        transport: Any = connection.transport
        for _ in range(100):
            transport.write(b"x" * 65_536)
            serving.run()
        (channel,) = serving.listening.built
        held = sum(map(len, channel._dataBuffer)) + len(channel._buffer)
        self.assertLess(held, 200_000)

    def test_who_takes_no_answers_is_given_one(self) -> None:
        serving = Serving()
        serving.told.answers["read"] = Piece(bytes(MAX_BLOCK), [])
        connection = serving.dial()
        transport: Any = connection.transport
        transport.pauseProducing()
        transport.write(request("GET", f"{SHARES}/blocks/0") * 50)
        serving.run()
        self.assertLess(serving.names.count("read"), 3)
        serving.run(TAKE_SECONDS + 1)
        self.assertEqual(serving.site.connections, 0)

    def test_who_takes_them_late_is_given_all(self) -> None:
        serving = Serving()
        serving.told.answers["read"] = Piece(bytes(MAX_BLOCK), [])
        connection = serving.dial()
        transport: Any = connection.transport
        transport.pauseProducing()
        transport.write(request("GET", f"{SHARES}/blocks/0") * 5)
        serving.run(TAKE_SECONDS / 2)
        transport.resumeProducing()
        serving.run()
        self.assertEqual([status for status, _ in answers(bytes(connection.received))], [200] * 5)


class Deadlines(SynchronousTestCase):
    def test_who_says_nothing_is_let_go(self) -> None:
        serving = Serving()
        connection = serving.dial()
        serving.run(IDLE_SECONDS - 1)
        self.assertIsNone(connection.lost)
        serving.run(2)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(serving.site.connections, 0)

    def _slowly(self, raw: bytes, every: float) -> tuple[Serving, Listening, float]:
        """Send a byte at a time; @return: also for how long that was taken."""
        serving = Serving()
        connection = serving.dial()
        transport: Any = connection.transport
        for at in range(len(raw)):
            transport.write(raw[at : at + 1])
            serving.run(every)
            if connection.lost is not None or b"408" in connection.received:
                break
        return serving, connection, serving.clock.seconds()

    def test_slow_headers_have_a_deadline(self) -> None:
        serving, connection, seconds = self._slowly(request(), 5)
        self.assertLessEqual(seconds, RECEIVE_SECONDS + 5)
        serving.run(LINGER_SECONDS + 1)
        self.assertIsNotNone(connection.lost)

    def test_a_slow_body_has_a_deadline(self) -> None:
        serving = Serving()
        connection = serving.dial()
        transport: Any = connection.transport
        transport.write(request("PUT", f"{UPLOADS}/0/0", length=1_000))
        while connection.lost is None and serving.clock.seconds() < 1_000:
            transport.write(b"x")
            serving.run(5)
        self.assertLessEqual(serving.clock.seconds(), RECEIVE_SECONDS + LINGER_SECONDS + 10)
        self.assertEqual(answers(bytes(connection.received)), [(408, "REQUEST_TIMEOUT")])
        self.assertNotIn("write", serving.names)

    def test_a_body_that_stops_has_a_deadline(self) -> None:
        serving = Serving()
        connection = serving.dial()
        serving.ask(request("PUT", f"{UPLOADS}/0/0", b"x", length=1_000), connection)
        serving.run(RECEIVE_SECONDS + LINGER_SECONDS + 1)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(serving.site.connections, 0)

    def test_the_time_of_the_peer_is_not_counted(self) -> None:
        serving = Serving()
        slow: Deferred[bytes] = Deferred()
        serving.told.answers["manifest"] = slow
        connection = serving.dial()
        serving.ask(request("GET", f"{SHARES}/manifest"), connection)
        serving.run(1_000)
        self.assertIsNone(connection.lost)
        slow.callback(b"late")
        serving.run()
        self.assertEqual(answers(bytes(connection.received)), [(200, b"late")])

    def test_a_deadline_is_that_of_one_request(self) -> None:
        serving = Serving()
        connection = serving.dial()
        transport: Any = connection.transport
        for _ in range(10):
            raw = request("GET", f"{SHARES}/manifest")
            transport.write(raw[:20])
            serving.run(RECEIVE_SECONDS / 3)
            transport.write(raw[20:])
            serving.run(IDLE_SECONDS / 3)
        self.assertIsNone(connection.lost)
        self.assertEqual(len(answers(bytes(connection.received))), 10)


class Connections(SynchronousTestCase):
    def _busy(self, serving: Serving, caller: str) -> Listening:
        connection = serving.dial(caller)
        transport: Any = connection.transport
        transport.write(request("GET", f"{SHARES}/manifest"))
        serving.run()
        return connection

    def test_those_of_one_key_have_a_number(self) -> None:
        serving = Serving(max_per_key=3)
        serving.told.answers["manifest"] = Deferred()
        busy = [self._busy(serving, "caller") for _ in range(3)]
        refused = serving.dial("caller")
        serving.run()
        self.assertIsNotNone(refused.lost)
        self.assertEqual(serving.site.connections, 3)
        other = serving.dial("other")
        self.assertIsNone(other.lost)
        self.assertTrue(all(each.lost is None for each in busy))

    def test_an_idle_one_of_the_key_makes_room(self) -> None:
        serving = Serving(max_per_key=3)
        first = [serving.dial("caller") for _ in range(3)]
        other = serving.dial("other")
        fourth = serving.dial("caller")
        serving.run()
        self.assertEqual(
            [each.lost is None for each in [*first, other, fourth]],
            [False, True, True, True, True],
        )

    def test_there_are_so_many_in_all(self) -> None:
        serving = Serving(max_connections=3)
        serving.told.answers["manifest"] = Deferred()
        first = [self._busy(serving, f"caller {i}") for i in range(2)]
        idle = serving.dial("idle")
        newer = self._busy(serving, "newer")
        serving.run()
        self.assertIsNotNone(idle.lost)
        self.assertIsNone(newer.lost)
        refused = serving.dial("one more")
        serving.run()
        self.assertIsNotNone(refused.lost)
        self.assertTrue(all(each.lost is None for each in first))
        self.assertEqual(serving.site.connections, 3)

    def test_closing_lets_what_is_under_way_be_answered(self) -> None:
        serving = Serving()
        slow: Deferred[bytes] = Deferred()
        serving.told.answers["manifest"] = slow
        idle, busy = serving.dial(), self._busy(serving, "caller")
        closed = serving.site.close(10)
        serving.run(1)
        self.assertIsNotNone(idle.lost)
        self.assertNoResult(closed)
        slow.callback(b"late")
        serving.run()
        self.assertEqual(answers(bytes(busy.received)), [(200, b"late")])
        self.assertIsNone(self.successResultOf(closed))

    def test_closing_does_not_wait_for_ever(self) -> None:
        serving = Serving()
        cancelled: list[object] = []
        serving.told.answers["manifest"] = Deferred(cancelled.append)
        self._busy(serving, "caller")
        closed = serving.site.close(10)
        serving.run(11)
        self.assertIsNone(self.successResultOf(closed))
        self.assertEqual(len(cancelled), 1)

    def test_who_asks_for_the_end_of_the_connection_gets_it(self) -> None:
        serving = Serving()
        connection = serving.dial()
        found = serving.ask(request("GET", f"{SHARES}/manifest", b"", "Connection: a, Close"))
        self.assertEqual(found, [(200, b"a manifest")])
        old = f"GET {SHARES}/manifest HTTP/1.0\r\n\r\n".encode()
        self.assertEqual(serving.ask(old, connection), [(200, b"a manifest")])
        serving.run()
        self.assertEqual(serving.site.connections, 0)
