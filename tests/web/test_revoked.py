"""What becomes of connections whose token is good for nothing any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from meshkit.operations import BoundOperation, Item, Nothing, Operation
from meshkit.web.callers import Caller, Scope
from meshkit.web.limits import OVER_SECONDS, LimitedSite
from meshkit.web.security import DoorGuard
from meshkit.web.takeover import take_over
from tests.web.stage import Connection, Stage, node_door, request

TICKS = Operation("ticks", "GET", "/v1/ticks", Nothing, int, "Some.", stream=True)
SHOWN: dict[str, Any] = {"Authorization": "Bearer agents"}


class RevokedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.stage = Stage()
        self.clock = self.stage.clock
        self.caller = Caller("agent", (Scope("write"),))
        self.other = Caller("other", (Scope("write"),))
        self.coming: list[Deferred[int]] = []
        self.closed = 0
        self.door = node_door(
            self.clock,
            [*self.stage.toys.operations(), BoundOperation(TICKS, self.ticks)],
            self.whose,
        )
        self.site = self.door.site

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def whose(self, shown: bytes) -> Caller | None:
        """As a doorkeeper: nobody who is over comes in."""
        found = {b"agents": self.caller, b"others": self.other}.get(shown)
        return None if found is None or found.over else found

    def ticks(self, request: Nothing) -> AsyncIterator[Item]:
        return self.items()

    async def items(self) -> AsyncIterator[Item]:
        try:
            while True:
                coming: Deferred[int] = Deferred()
                self.coming.append(coming)
                yield Item(await coming)
        finally:
            self.closed += 1

    def connect(self, target: str, shown: dict[str, Any] = SHOWN) -> Connection:
        connection = Connection(self.site)
        connection.send(request("GET", target, None, shown))
        return connection

    def test_a_stream_is_cut_at_once(self) -> None:
        streams = [self.connect("/v1/ticks"), self.connect("/v1/ticks")]
        others = self.connect("/v1/ticks", {"Authorization": "Bearer others"})
        self.coming[0].callback(1)
        self.assertIn(b"data: 1", streams[0].transport.value())
        self.caller.end()
        for stream in streams:
            self.assertTrue(stream.transport.aborted)
            stream.lose()
        self.assertEqual(self.closed, 2)
        # Others notice nothing.
        self.coming[2].callback(3)
        self.assertIn(b"data: 3", others.transport.value())
        self.assertFalse(others.transport.aborted)
        others.lose()

    def test_an_idle_connection_is_closed(self) -> None:
        connection = self.connect("/v1/status")
        self.assertEqual(connection.answers("GET")[0].status, 200)
        self.caller.end()
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()

    def test_an_answer_that_is_being_worked_on_is_given_and_is_the_last(self) -> None:
        connection = self.connect("/v1/wait")
        self.caller.end()
        self.assertFalse(connection.transport.disconnecting)
        self.stage.toys.waiting[0].callback("done")
        self.assertEqual(connection.answers("GET")[0].json["data"], "done")
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()

    def test_but_not_for_long(self) -> None:
        connection = self.connect("/v1/wait")
        self.caller.end()
        self.clock.advance(OVER_SECONDS - 0.1)
        self.assertFalse(connection.transport.aborted)
        self.clock.advance(0.1)
        self.assertTrue(connection.transport.aborted)
        connection.lose()
        self.assertEqual(self.stage.toys.cancelled, 1)

    def test_a_body_that_is_still_coming_is_not_taken(self) -> None:
        connection = Connection(self.site)
        whole = request("POST", "/v1/publish", b'{"content": 1}', SHOWN)
        connection.send(whole[:-1])
        self.caller.end()
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()
        self.assertEqual(self.stage.toys.asked, [])

    def test_a_connection_goes_with_the_token_that_was_shown_last(self) -> None:
        connection = self.connect("/v1/status")
        connection.send(request("GET", "/v1/status", None, {"Authorization": "Bearer others"}))
        self.caller.end()
        self.assertFalse(connection.transport.disconnecting)
        self.other.end()
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()

    def test_a_closed_connection_leaves_nothing_with_its_caller(self) -> None:
        for _ in range(3):
            connection = self.connect("/v1/status")
            self.assertEqual(len(self.caller._standing.watchers), 1)
            connection.lose()
        self.assertEqual(self.caller._standing.watchers, {})

    def test_the_next_request_is_refused_on_any_connection(self) -> None:
        fresh = Connection(self.site)
        self.caller.end()
        fresh.send(request("GET", "/v1/status", None, SHOWN))
        (answer,) = fresh.answers("GET")
        self.assertEqual((answer.status, answer.code), (401, "UNAUTHORIZED"))
        self.clock.advance(10)
        fresh.lose()

    def test_who_revokes_the_token_that_he_asks_with_is_answered(self) -> None:
        connection = self.connect("/v1/wait")
        waiting = self.stage.toys.waiting[0]
        waiting.addCallback(lambda result: (self.caller.end(), result)[1])
        waiting.callback("revoked")
        self.assertEqual(connection.answers("GET")[0].json["data"], "revoked")
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()


class Lines(Protocol):
    received = b""
    lost = 0

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost += 1


class Switching(Resource):
    isLeaf = True

    def __init__(self, lines: Lines, closing: Any) -> None:
        super().__init__()
        self._lines = lines
        self._closing = closing

    def render_GET(self, request: Any) -> Any:
        return take_over(request, "lines", lambda: self._lines, closing=self._closing)


class HandedOverTests(SynchronousTestCase):
    """A connection that speaks another protocol by now goes with its token as well."""

    def switched(self, closing: Any = None) -> tuple[Caller, Lines, Connection, Stage]:
        stage, lines, caller = Stage(), Lines(), Caller("agent", (Scope("read"),))
        guard = DoorGuard(Switching(lines, closing), lambda shown: caller)
        stage.site = LimitedSite(guard, stage.clock, admit=guard.admit)
        connection = Connection(stage.site)
        headers: dict[str, Any] = {"Connection": "upgrade", "Upgrade": "lines"}
        connection.send(request("GET", "/", None, headers))
        connection.send(b"hello\n")
        self.assertEqual(lines.received, b"hello\n")
        return caller, lines, connection, stage

    def test_it_is_closed(self) -> None:
        caller, lines, connection, _ = self.switched()
        caller.end()
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()
        self.assertEqual(lines.lost, 1)

    def test_what_does_not_close_is_cut(self) -> None:
        asked: list[str] = []
        caller, _, connection, stage = self.switched(lambda: asked.append("close"))
        caller.end()
        self.assertEqual(asked, ["close"])
        self.assertFalse(connection.transport.aborted)
        stage.clock.advance(OVER_SECONDS)
        self.assertTrue(connection.transport.aborted)
        connection.lose()
        self.assertEqual(stage.clock.getDelayedCalls(), [])
