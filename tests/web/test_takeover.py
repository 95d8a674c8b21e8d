"""A connection is given to another protocol: only if it is asked for, and then wholly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from meshkit.errors import MeshkitError, Unauthorized
from meshkit.web.limits import IDLE_SECONDS, LimitedSite, RequestHead
from meshkit.web.takeover import take_over
from tests.web.stage import Connection, request

ASKED: Any = {"Connection": "Upgrade", "Upgrade": "shout"}


class Shout(Protocol):
    """Answers in capitals."""

    def __init__(self) -> None:
        self.got = b""
        self.lost: Any = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello\n")

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.got += data
        self.transport.write(data.upper())

    def connectionLost(self, reason: Any = None) -> None:
        assert self.lost is None
        self.lost = reason


class Shouting(Resource):
    isLeaf = True

    def __init__(self, closing: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.closing = closing
        self.shouts: list[Shout] = []
        self.finished: list[object] = []
        self.later: list[Any] | None = None

    def make(self) -> Shout:
        self.shouts.append(Shout())
        return self.shouts[-1]

    def render_GET(self, request: Any) -> bytes | int:
        request.notifyFinish().addBoth(self.finished.append)
        if self.later is not None:
            self.later.append(request)
            return NOT_DONE_YET
        return take_over(request, "shout", self.make, closing=self.closing)

    def render_POST(self, request: Any) -> bytes | int:
        return take_over(request, "shout", self.make)


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.resource = Shouting()

    def connect(self, **limits: Any) -> Connection:
        self.site = LimitedSite(self.resource, self.clock, **limits)
        return Connection(self.site)

    def taken(self, connection: Connection) -> bytes:
        """What came after the head of the answer, which says that it was done."""
        head, _, rest = connection.transport.value().partition(b"\r\n\r\n")
        self.assertEqual(
            head.split(b"\r\n"),
            [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: shout", b"Connection: upgrade"],
        )
        return rest


class TakeOverTests(Case):
    def test_from_the_answer_on_both_ways_are_the_protocols(self) -> None:
        connection = self.connect()
        connection.send(request("GET", "/", None, ASKED))
        self.assertEqual(self.taken(connection), b"hello\n")
        connection.transport.clear()
        connection.send(b"no http\r\n\r\n")
        self.assertEqual(connection.transport.value(), b"NO HTTP\r\n\r\n")
        self.assertEqual(self.resource.finished, [None])
        connection.lose()
        (shout,) = self.resource.shouts
        self.assertTrue(shout.lost.check(ConnectionLost))
        self.assertEqual((self.site.connections, self.clock.getDelayedCalls()), (0, []))

    def test_no_deadline_runs_any_more(self) -> None:
        connection = self.connect()
        connection.send(request("GET", "/", None, ASKED))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        connection.send(b"x")
        self.clock.advance(10 * IDLE_SECONDS)
        self.assertFalse(connection.transport.disconnecting)

    @given(st.data())
    def test_how_the_bytes_are_cut_makes_no_difference(self, data: st.DataObject) -> None:
        self.resource = Shouting()
        connection = self.connect()
        wire = request("GET", "/", None, ASKED) + b"sent in advance" + request("GET", "/")
        while wire:
            size = data.draw(st.integers(1, 300))
            connection.send(wire[:size])
            wire = wire[size:]
        (shout,) = self.resource.shouts
        self.assertEqual(shout.got, b"sent in advance" + request("GET", "/"))
        self.assertEqual(self.taken(connection), b"hello\n" + shout.got.upper())

    def test_it_can_be_decided_later(self) -> None:
        self.resource.later = []
        connection = self.connect()
        wire = request("GET", "/", None, ASKED) + b"in advance" * 2000
        for at in range(0, len(wire), 1000):
            connection.send(wire[at : at + 1000])
        self.assertEqual(connection.transport.producerState, "paused")
        (waiting,) = self.resource.later
        self.assertEqual(take_over(waiting, "shout", self.resource.make), NOT_DONE_YET)
        self.assertEqual(self.resource.shouts[0].got, b"in advance" * 2000)
        self.assertEqual(connection.transport.producerState, "producing")
        connection.send(b"more")
        self.assertTrue(self.taken(connection).endswith(b"IN ADVANCEMORE"))

    def test_if_the_client_has_gone_meanwhile_nothing_is_made_of_it(self) -> None:
        self.resource.later = []
        connection = self.connect()
        connection.send(request("GET", "/", None, ASKED))
        connection.lose()
        (waiting,) = self.resource.later
        take_over(waiting, "shout", self.resource.make)
        self.assertEqual(connection.transport.value(), b"")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_connection_has_no_producer_but_the_protocols_own(self) -> None:
        connection = self.connect()
        self.assertIsNotNone(connection.transport.producer)
        connection.send(request("GET", "/", None, ASKED))
        self.assertIsNone(connection.transport.producer)

    def test_it_comes_after_requests_on_the_same_connection(self) -> None:
        connection = self.connect()
        plain = request("GET", "/", None, {"Connection": "keep-alive"})
        connection.send(plain + request("GET", "/", None, ASKED) + b"x")
        wire = connection.transport.value()
        self.assertTrue(wire.startswith(b"HTTP/1.1 426 Upgrade Required\r\n"), wire)
        self.assertTrue(wire.endswith(b"hello\nX"), wire)

    def test_other_ways_to_ask(self) -> None:
        ways: list[Any] = [
            {"Connection": "keep-alive, upgrade", "Upgrade": "h2c, Shout"},
            {"Connection": ["keep-alive", "UPGRADE"], "Upgrade": ["websocket", "SHOUT"]},
            {"Connection": "close,Upgrade", "Upgrade": "shout"},
        ]
        for headers in ways:
            connection = self.connect()
            connection.send(request("GET", "/", None, headers) + b"x")
            self.assertEqual(self.taken(connection), b"hello\nX")
            self.assertFalse(connection.transport.disconnecting)

    def test_who_does_not_ask_for_it_is_told_how(self) -> None:
        ways: list[tuple[str, Any]] = [
            ("GET", {}),
            ("GET", {"Upgrade": "shout"}),
            ("GET", {"Connection": "Upgrade"}),
            ("GET", {"Connection": "Upgrade", "Upgrade": "websocket"}),
            ("GET", {"Connection": "Upgrade", "Upgrade": "shout/2"}),
            ("GET", {"Connection": "Upgraded", "Upgrade": "shout"}),
            ("HEAD", ASKED),
            ("POST", ASKED),
        ]
        for method, headers in ways:
            connection = self.connect()
            connection.send(request(method, "/", None, headers))
            (answer,) = connection.answers(method)
            self.assertEqual((method, answer.status), (method, 426))
            self.assertEqual(answer.headers["upgrade"], ["shout"])
            self.assertEqual(answer.headers["connection"], ["upgrade"])
            if method != "HEAD":
                self.assertEqual(answer.code, "UPGRADE_REQUIRED")
        self.assertEqual(self.resource.shouts, [])

    def test_http_1_0_knows_no_such_thing(self) -> None:
        connection = self.connect()
        connection.send(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n")
        self.assertTrue(connection.transport.value().startswith(b"HTTP/1.0 426 "))
        self.assertTrue(connection.transport.disconnecting)

    def test_who_is_not_admitted_gets_no_connection(self) -> None:
        def admit(head: RequestHead) -> MeshkitError:
            return Unauthorized()

        connection = self.connect(admit=admit)
        connection.send(request("GET", "/", None, ASKED) + b"x")
        (answer,) = connection.answers("GET")
        self.assertEqual((answer.status, answer.code), (401, "UNAUTHORIZED"))
        self.assertEqual(self.resource.shouts, [])


class ClosingTests(Case):
    def test_the_site_counts_it_and_closes_it(self) -> None:
        connection = self.connect()
        connection.send(request("GET", "/", None, ASKED))
        self.assertEqual(self.site.connections, 1)
        closed = self.site.close(30)
        self.assertTrue(connection.transport.disconnecting)
        self.assertNoResult(closed)
        connection.lose()
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_can_say_goodbye_first(self) -> None:
        asked: list[int] = []
        self.resource = Shouting(lambda: asked.append(1))
        connection = self.connect()
        connection.send(request("GET", "/", None, ASKED))
        closed = self.site.close(30)
        self.assertEqual(asked, [1])
        self.assertFalse(connection.transport.disconnecting)
        connection.transport.clear()
        connection.send(b"bye")
        self.assertEqual(connection.transport.value(), b"BYE")
        # Not for ever, though.
        self.clock.advance(30)
        self.assertTrue(connection.transport.disconnected)
        connection.lose()
        self.successResultOf(closed)

    def test_what_is_taken_over_while_the_site_closes_is_closed(self) -> None:
        self.resource.later = []
        connection = self.connect()
        connection.send(request("GET", "/", None, ASKED))
        closed = self.site.close(30)
        self.assertFalse(connection.transport.disconnecting)
        take_over(self.resource.later[0], "shout", self.resource.make)
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()
        self.successResultOf(closed)

    def test_a_protocol_that_closes_at_once_gets_nothing_more(self) -> None:
        class Busy(Shout):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.loseConnection()

        def make() -> Shout:
            self.resource.shouts.append(Busy())
            return self.resource.shouts[-1]

        self.resource.make = make  # type: ignore[method-assign]
        connection = self.connect()
        connection.send(request("GET", "/", None, ASKED) + b"x")
        self.assertEqual((self.taken(connection), self.resource.shouts[0].got), (b"", b""))


class _Asking(Protocol):
    def __init__(self) -> None:
        self.got = b""
        self.over: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(request("GET", "/", None, ASKED) + b"x" * 200_000 + b".")

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.got += data
        if data.endswith(b"."):
            self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.over.callback(self.got)


class LoopbackTests(TestCase):
    async def test_over_a_real_connection(self) -> None:
        resource = Shouting()
        site = LimitedSite(resource, reactor)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
        self.addCleanup(port.stopListening)
        client = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        asking = _Asking()
        await connectProtocol(client, asking)
        got = await asking.over
        self.assertTrue(got.endswith(b"\r\n\r\nhello\n" + b"X" * 200_000 + b"."))
        await site.close(5)
        self.assertTrue(resource.shouts[0].lost.check(ConnectionDone))
