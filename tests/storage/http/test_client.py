"""Servers that mean no good, and what they cost who asks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import StoragePeerError, StoragePeerSilent, UploadOutOfStep
from meshkit.storage.http.client import (
    CLOSE_SECONDS,
    IDLE_SECONDS,
    MAX_WAITING,
    REQUEST_SECONDS,
    HTTPStoragePeer,
)
from meshkit.storage.http.wire import MAX_JSON_ANSWER, MAX_PIECE
from meshkit.storage.terms import MAX_BLOCK
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from meshkit.testing.transports import MemoryNetwork
from tests.storage.http.peers import SECRET, SHARE, UPLOAD, serve

PORT: Final = 7671


class Scripted(Protocol):
    """Answers each piece that comes with what a function says."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.received = b""
        self.lost = False

    def connectionMade(self) -> None:
        self.server.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.server.react(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class Server:
    """
    @ivar react: called with a connection when something has come over it.
    """

    def __init__(self, **how: Any) -> None:
        self.clock = Clock()
        self.connections: list[Scripted] = []
        self.react: Callable[[Any], None] = lambda connection: None
        network = MemoryNetwork(self.clock)
        network.server_endpoint(PORT).listen(Factory.forProtocol(lambda: Scripted(self)))
        self.network = network
        self.client = HTTPStoragePeer(
            self.clock, network.client_endpoint(PORT), make_identity("server").public, **how
        )

    def say(self, raw: bytes) -> None:
        """Answer everything with these bytes."""
        self.react = lambda connection: connection.transport.write(raw)

    def ask(self, asked: Deferred[Any], seconds: float = 0.0) -> Any:
        """@return: what comes of it."""
        outcomes: list[Any] = []
        asked.addBoth(outcomes.append)
        self.run(seconds)
        (outcome,) = outcomes
        return outcome.value if isinstance(outcome, Failure) else outcome

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        run_clock(self.clock, seconds)
        run_clock(self.clock, 0.0)

    @property
    def open(self) -> int:
        """Connections that the client has not closed."""
        return sum(1 for each in self.connections if not each.lost)


def answer(body: bytes, status: int = 200, more: str = "") -> bytes:
    """@return: a whole answer."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


class Hostile(SynchronousTestCase):
    def _no_good(self, raw: bytes, ask: Callable[[Any], Any] | None = None) -> Exception:
        server = Server()
        server.say(raw)
        asked = server.client.stat(SHARE) if ask is None else ask(server.client)
        error: Exception = server.ask(asked)
        self.assertIsInstance(error, StoragePeerError)
        return error

    def test_what_is_no_answer_ends_the_connection(self) -> None:
        for raw in (
            b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000,
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"\x00" * 100_000,
        ):
            server = Server()
            server.say(raw)
            self.assertIsInstance(server.ask(server.client.stat(SHARE)), StoragePeerError)
            self.assertEqual(server.open, 0)

    def test_a_body_that_is_too_long_is_refused_at_its_headers(self) -> None:
        for ask, limit in (
            (lambda client: client.stat(SHARE), MAX_JSON_ANSWER),
            (lambda client: client.read(SHARE, 0), MAX_PIECE),
            (lambda client: client.write(UPLOAD, 0, 0, b""), MAX_JSON_ANSWER),
        ):
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (limit + 1)
            self.assertIn("are the most", str(self._no_good(head, ask)))

    def test_a_good_answer_has_its_own_limit(self) -> None:
        self._no_good(answer(b"x"), lambda client: client.write(UPLOAD, 0, 0, b""))
        self._no_good(answer(b"x" * 2_049), lambda client: client.close(UPLOAD, 0, b""))

    def test_wrong_json_is_told_of(self) -> None:
        for body in (
            b"",
            b"{",
            b"null",
            b"[]",
            b'{"success": true}',
            b'{"success": true, "data": {"size": 1}}',
            b'{"success": true, "data": {"size": -1, "root": "%s", "lease_end": 1}}' % (b"a" * 64),
            b'{"success": true, "data": {"size": 1, "root": "xyz", "lease_end": 1}}',
            b'{"success": false, "data": {"size": 1, "root": "%s", "lease_end": 1}}' % (b"a" * 64),
            b"[" * 10_000,
            b"\xff\xfe",
        ):
            self._no_good(answer(body))

    def test_errors_that_cannot_be_read_are_errors(self) -> None:
        for status, body in (
            (500, b""),
            (404, b"not json"),
            (409, b'{"success": false, "error": {"code": "UPLOAD_OUT_OF_STEP"}}'),
            (409, b'{"success":false,"error":{"code":"UPLOAD_OUT_OF_STEP","details":[]}}'),
            (404, b'{"success": true, "data": {}}'),
            (302, b""),
            (299, b""),
            (403, b'{"success": false, "error": {"code": "OBJECT_NOT_PLACED"}}'),
            (403, b'{"success": false, "error": {"code": "CONFIG_INVALID", "message": "x"}}'),
        ):
            self.assertIs(type(self._no_good(answer(body, status))), StoragePeerError)

    def test_what_a_peer_says_cannot_mess_up_a_terminal(self) -> None:
        body = (
            b'{"success": false, "error": {"code": "SHARE_UNKNOWN", "message": "\\u001b[2J'
            + b"x" * 5_000
            + b'"}}'
        )
        error = self._no_good(answer(body, 404))
        self.assertNotIn("\x1b", str(error))
        self.assertLess(len(str(error)), 500)

    def test_a_number_out_of_bounds_is_not_believed(self) -> None:
        body = (
            b'{"success":false,"error":{"code":"UPLOAD_OUT_OF_STEP","message":"",'
            b'"details":{"next_segment":%d}}}'
        )
        self.assertIs(type(self._no_good(answer(body % -1, 409))), StoragePeerError)
        self.assertIs(type(self._no_good(answer(body % 2**33, 409))), StoragePeerError)
        self.assertIs(type(self._no_good(answer(body % 5, 409))), UploadOutOfStep)

    def test_a_piece_that_is_none_is_told_of(self) -> None:
        for body in (b"", b"\x00", b"\x00\x02" + b"h" * 63, b"\xff\xff" + b"h" * 9_000):
            self._no_good(answer(body), lambda client: client.read(SHARE, 0))
        self._no_good(
            answer(b"\x00\x00" + bytes(MAX_BLOCK + 1)), lambda client: client.read(SHARE, 0)
        )

    def test_who_never_answers_costs_one_deadline(self) -> None:
        server = Server()
        outcomes: list[Any] = []
        server.client.stat(SHARE).addBoth(outcomes.append)
        server.run(REQUEST_SECONDS - 0.1)
        self.assertEqual((outcomes, server.open), ([], 1))
        server.run(0.2)
        self.assertIsInstance(outcomes[0].value, StoragePeerSilent)
        self.assertEqual(server.open, 0)

    def test_who_answers_slowly_costs_no_more(self) -> None:
        server = Server()
        outcomes: list[Any] = []
        server.client.stat(SHARE).addBoth(outcomes.append)
        server.run()
        (connection,) = server.connections
        transport: Any = connection.transport
        transport.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(int(REQUEST_SECONDS)):
            server.run(1)
            if not outcomes:
                transport.write(b"a")
        server.run(1)
        self.assertIsInstance(outcomes[0].value, StoragePeerSilent)

    def test_who_cannot_be_reached_in_time_is_silent_too(self) -> None:
        clock = Clock()

        class Nowhere:
            def connect(self, factory: Any) -> Deferred[Any]:
                return Deferred(lambda _: cancelled.append(True))

        cancelled: list[bool] = []
        nowhere: Any = Nowhere()
        client = HTTPStoragePeer(clock, nowhere, make_identity("server").public, timeout=5)
        asked = client.stat(SHARE)
        clock.advance(5.1)
        self.failureResultOf(asked, StoragePeerSilent)
        self.assertEqual(cancelled, [True])

    def test_bytes_that_nobody_asked_for_end_the_connection(self) -> None:
        server = Server()
        server.say(answer(b"a manifest"))
        server.ask(server.client.manifest(SHARE))
        self.assertEqual(server.open, 1)
        transport: Any = server.connections[0].transport
        transport.write(answer(b"another"))
        server.run()
        self.assertEqual(server.open, 0)
        # And are nobody's answer.
        self.assertEqual(server.ask(server.client.manifest(SHARE)), b"a manifest")


class Connections(SynchronousTestCase):
    def test_one_that_leads_to_somebody_else_is_not_used(self) -> None:
        served = serve()
        client = HTTPStoragePeer(served.clock, served.endpoint, make_identity("other").public)
        error = served.ask(client.manifest(SHARE))
        self.assertIs(type(error), StoragePeerError)
        self.assertIn(make_identity("server").public.text, str(error))
        served.run(CLOSE_SECONDS)
        self.assertEqual((served.told.calls, served.site.connections), ([], 0))

    def test_one_that_was_closed_while_it_was_idle_costs_nobody_an_error(self) -> None:
        server = Server()
        server.say(answer(b"a manifest"))
        server.ask(server.client.manifest(SHARE))
        answered: list[Any] = []

        def close_once(connection: Any) -> None:
            answered.append(connection)
            if len(answered) == 1:
                connection.transport.loseConnection()
            else:
                connection.transport.write(answer(b"another"))

        server.react = close_once
        self.assertEqual(server.ask(server.client.manifest(SHARE)), b"another")
        self.assertEqual(len(server.connections), 2)

    def test_a_new_one_that_is_closed_is_an_error(self) -> None:
        server = Server()
        server.react = lambda connection: connection.transport.abortConnection()
        error = server.ask(server.client.manifest(SHARE))
        self.assertIsInstance(error, ConnectionLost)
        self.assertEqual(len(server.connections), 1)

    def test_one_that_is_closed_in_the_middle_of_an_answer_is_an_error(self) -> None:
        server = Server()
        server.say(answer(b"a manifest"))
        server.ask(server.client.manifest(SHARE))

        def half(connection: Any) -> None:
            connection.transport.write(b"HTTP/1.1 200 OK\r\n")
            connection.transport.loseConnection()

        server.react = half
        self.assertIsInstance(server.ask(server.client.manifest(SHARE)), Exception)
        self.assertEqual(len(server.connections), 1)

    def test_idle_ones_are_closed_in_time(self) -> None:
        server = Server()
        server.say(answer(b"a manifest"))
        server.ask(server.client.manifest(SHARE))
        server.run(IDLE_SECONDS - 1)
        self.assertEqual(server.open, 1)
        server.run(1.1 + CLOSE_SECONDS)
        self.assertEqual(server.open, 0)
        self.assertEqual(server.ask(server.client.manifest(SHARE)), b"a manifest")

    def test_one_that_the_peer_closes_is_not_used_again(self) -> None:
        server = Server()
        server.say(answer(b"a manifest", more="Connection: close\r\n"))
        for count in (1, 2, 3):
            self.assertEqual(server.ask(server.client.manifest(SHARE)), b"a manifest")
            self.assertEqual(len(server.connections), count)

    def test_so_many_may_wait_and_no_more(self) -> None:
        server = Server(max_connections=2)
        outcomes: list[Any] = []
        for _ in range(2 + MAX_WAITING):
            server.client.stat(SHARE).addBoth(outcomes.append)
        server.run()
        self.assertEqual((len(server.connections), outcomes), (2, []))
        error = server.ask(server.client.stat(SHARE))
        self.assertIn("wait already", str(error))
        server.say(answer(b"x", 500))
        server.run(REQUEST_SECONDS + 1)
        self.assertEqual(len(outcomes), 2 + MAX_WAITING)

    def test_who_waited_is_served_when_another_gives_up(self) -> None:
        server = Server(max_connections=1)
        first, second = server.client.manifest(SHARE), server.client.manifest(SHARE)
        server.run()
        first.addErrback(lambda _: None)
        server.say(answer(b"a manifest"))
        first.cancel()
        self.assertEqual(server.ask(second), b"a manifest")

    def test_stopping_closes_all_and_fails_what_is_under_way(self) -> None:
        server = Server(max_connections=2)
        outcomes: list[Any] = []
        for _ in range(4):
            server.client.stat(SHARE).addBoth(outcomes.append)
        server.run()
        self.assertIsNone(server.ask(server.client.stop()))
        self.assertEqual(server.open, 0)
        self.assertEqual(len(outcomes), 4)
        self.assertTrue(all(isinstance(each, Failure) for each in outcomes))
        self.assertIn("was closed", str(server.ask(server.client.stat(SHARE))))

    def test_a_request_is_what_the_page_says(self) -> None:
        server = Server()
        server.say(answer(b""))
        server.ask(server.client.write(UPLOAD, 3, 4, b"block"))
        server.ask(server.client.release(SHARE, SECRET))
        host = make_identity("server").public.raw.hex()
        self.assertEqual(
            server.connections[0].received,
            f"PUT /v1/uploads/{UPLOAD.hex()}/3/4 HTTP/1.1\r\nHost: {host}\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: 5\r\n\r\nblock"
            f"DELETE /v1/shares/{SHARE.hex()}/lease HTTP/1.1\r\nHost: {host}\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: 0\r\n"
            f"Meshkit-Lease: {SECRET.hex()}\r\n\r\n".encode(),
        )
