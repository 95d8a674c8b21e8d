"""What a request and its answer took of memory is free at once, however it ended."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidRequest
from meshkit.operations import BoundOperation, Nothing, Operation
from meshkit.web.answers import LARGE
from meshkit.web.callers import OWNER
from meshkit.web.dispatch import Dispatcher
from meshkit.web.limits import LimitedSite
from meshkit.web.mcp.server import Server
from meshkit.web.profiles import Profiles
from meshkit.web.rest import RestDoor
from meshkit.web.tools import NodeTools
from tests.web.agent import Agent
from tests.web.stage import Connection, request

MOST = 8 * LARGE


class Sent(msgspec.Struct, weakref=True):
    """A request that might be of 16 MiB."""

    text: str = ""


class Found(msgspec.Struct, weakref=True):
    """An answer that might be as large."""

    text: str


def refused() -> InvalidRequest:
    return InvalidRequest("not so")


class HeldTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.held: list[weakref.ref[Any]] = []
        self.waiting: list[Deferred[Any]] = []
        self.clock = Clock()
        # So only what nobody refers to any more is free.
        gc.disable()
        self.addCleanup(gc.enable)
        refusing = (
            self.refuses,
            self.refuses_by_name,
            self.refuses_because,
            self.refuses_later,
            self.is_refused,
            self.waits,
        )
        self.refusing = [handler.__name__ for handler in refusing]
        self.operations = Dispatcher(
            [
                *(
                    self.bound(handler, "POST", Sent, permission="write", max_body=2 * LARGE)
                    for handler in refusing
                ),
                self.bound(self.finds, "GET", Nothing),
            ],
            ready=lambda: True,
        )
        rest = RestDoor(self.operations, unguarded=OWNER)
        self.site = LimitedSite(
            rest.resource(), self.clock, max_unfetched=2 * MOST, admit=rest.admit
        )
        self.server = Server("toys", "1", clock=self.clock, rng=Random(1))
        self.addCleanup(self.server.stop)
        NodeTools(
            self.server,
            self.operations,
            Profiles([], self.operations.operations),
            clock=self.clock,
            rng=Random(2),
            default="core",
            live=lambda: "",
        )

    def bound(
        self, handler: Callable[..., Any], method: Any, takes: type[msgspec.Struct], **more: Any
    ) -> BoundOperation:
        name = handler.__name__
        return BoundOperation(
            Operation(name, method, f"/v1/{name}", takes, Any, "A toy.", **more), handler
        )

    # --- handlers, as a part may write them -------------------------------------------------

    def hold(self, it: object) -> None:
        self.held.append(weakref.ref(it))

    def refuses(self, request: Sent) -> None:
        self.hold(request)
        raise refused()

    def refuses_by_name(self, request: Sent) -> None:
        self.hold(request)
        error = refused()
        raise error

    def refuses_because(self, request: Sent) -> None:
        self.hold(request)
        try:
            request.text.index("\0")
        except ValueError:
            error = refused()
            raise error from None

    async def refuses_later(self, request: Sent) -> None:
        self.hold(request)
        error = refused()
        raise error

    async def is_refused(self, request: Sent) -> None:
        self.hold(request)
        await fail(refused())

    async def waits(self, request: Sent) -> None:
        self.hold(request)
        self.waiting.append(Deferred())
        await self.waiting[-1]

    async def finds(self, request: Nothing) -> Found:
        found = Found("x" * 2 * LARGE)
        self.hold(found)
        return found

    # --- the tests ----------------------------------------------------------------------

    def post(self, name: str) -> Connection:
        connection = Connection(self.site)
        body = msgspec.json.encode(Sent("x" * LARGE))
        connection.send(request("POST", f"/v1/{name}", body))
        return connection

    def get(self) -> Connection:
        connection = Connection(self.site)
        connection.send(request("GET", "/v1/finds"))
        return connection

    def check(self, what: str) -> None:
        (held,) = self.held
        self.assertIsNone(held(), f"{what}: what it held is kept")
        self.held.clear()

    def test_a_request_that_is_refused_by_a_handler(self) -> None:
        for name in self.refusing:
            connection = self.post(name)
            for waiting in self.waiting:
                self.assertIsNotNone(self.held[0]())
                waiting.errback(refused())
            self.waiting.clear()
            self.check(name)
            (answer,) = connection.answers("POST")
            self.assertEqual((answer.status, answer.code), (400, "INVALID_REQUEST"))

    def test_a_request_whose_client_goes(self) -> None:
        connection = self.post("waits")
        connection.lose()
        self.waiting.clear()
        self.check("waits")

    def test_an_answer_that_was_sent(self) -> None:
        connection = self.get()
        self.check("finds")
        self.assertEqual(connection.answers("GET")[0].status, 200)

    def test_an_answer_for_which_there_is_no_room(self) -> None:
        self.site.answers.take(OWNER.name, MOST)
        self.site.answers.take("anyone", MOST - LARGE)
        connection = self.get()
        self.check("finds")
        self.assertEqual(connection.answers("GET")[0].status, 503)

    def test_a_tool_that_refuses(self) -> None:
        agent = Agent(self.server)
        for name in self.refusing:
            if name == self.waits.__name__:
                continue
            result = agent.call(name, text="x" * LARGE)
            self.check(name)
            self.assertTrue(result["isError"])
