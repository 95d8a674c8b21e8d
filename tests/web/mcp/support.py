"""A small server, and what the tests of every binding do with it."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import McpRefused, NotFound
from meshkit.web.mcp import (
    Argument,
    Call,
    Contents,
    Limits,
    MemoryClient,
    Prompt,
    Resource,
    ResourceTemplate,
    Server,
    Tool,
    ToolResult,
    connect,
    text_result,
)

TWO_NUMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SUM: dict[str, Any] = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
}
ANYTHING: dict[str, Any] = {"type": "object"}


def simple(name: str, description: str, handler: Any) -> Tool:
    """A tool that takes anything: to compile a schema takes longer than most tests."""
    return Tool(name, description, ANYTHING, handler, validate=lambda arguments: None)


class Bench:
    """A server with a virtual clock, and tools that do as they are told."""

    def __init__(self, more: bool = False, **limits: Any) -> None:
        """@param more: offer resources and prompts, and log, as well."""
        self.clock = Clock()
        self.server = Server(
            "bench",
            "1.0",
            clock=self.clock,
            rng=Random(7),
            instructions="Be kind.",
            limits=Limits(**limits),
            logs=more,
        )
        self.calls: list[Call] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0
        for tool in (
            Tool("add", "Adds two numbers.", TWO_NUMBERS, self.add, output_schema=SUM),
            simple("wait", "Waits.", self.wait),
            simple("wait_awaited", "Waits in a coroutine.", self.wait_awaited),
            simple("refuse", "Refuses.", self.refuse),
            simple("break", "Breaks.", self.breaks),
            simple("steps", "Tells how far it is.", self.steps),
        ):
            self.server.add_tool(tool)
        if more:
            self._add_more()

    def _add_more(self) -> None:
        server = self.server
        server.add_resource(Resource("test://text", "text", lambda uri, call: "words", "Words."))
        server.add_resource(
            Resource("test://bytes", "bytes", lambda uri, call: b"\x00\xff", mime_type="image/png")
        )
        server.add_resource(Resource("test://wait", "wait", self.wait_for_words))
        server.add_resource(Resource("test://refuse", "refuse", self.refuse))
        server.add_resource(
            Resource("test://two", "two", lambda uri, call: [Contents("a"), Contents("b", "x/y")])
        )
        server.add_template(
            ResourceTemplate(
                "test://{kind}/{+rest}/end",
                "any",
                lambda uri, call: repr(dict(call.variables)),
                complete=lambda name, beginning, call: [f"{beginning}{n}" for n in range(150)],
            )
        )
        server.add_prompt(
            Prompt(
                "greet",
                lambda arguments, call: [
                    {"role": "user", "content": {"type": "text", "text": f"Hi {arguments['who']}"}}
                ],
                "Greets.",
                [Argument("who", "Whom to greet.", True), Argument("how")],
            )
        )

    def add(self, arguments: Any, call: Call) -> ToolResult:
        self.calls.append(call)
        total = arguments["a"] + arguments["b"]
        return text_result(str(total), {"sum": total})

    def wait(self, arguments: Any, call: Call) -> Deferred[Any]:
        def gone(_: Any) -> None:
            self.cancelled += 1

        self.calls.append(call)
        waiting: Deferred[Any] = Deferred(gone)
        self.waiting.append(waiting)
        return waiting

    async def wait_for_words(self, uri: str, call: Call) -> str:
        await self.wait(uri, call)
        return "words"

    async def wait_awaited(self, arguments: Any, call: Call) -> ToolResult:
        return text_result(str(await self.wait(arguments, call)))

    def refuse(self, arguments: Any, call: Call) -> ToolResult:
        raise NotFound("there is no such heron")

    def breaks(self, arguments: Any, call: Call) -> ToolResult:
        raise ZeroDivisionError("a secret of the server's insides")

    async def steps(self, arguments: Any, call: Call) -> ToolResult:
        call.progress(0, 2)
        call.progress(1, 2, "half")
        call.progress(1, 2, "not a step")
        call.progress(2, 2)
        return text_result("done")


class Case(SynchronousTestCase):
    """Tests with clients in memory."""

    def setUp(self) -> None:
        self.bench = Bench(more=True)

    def limited(self, **limits: Any) -> None:
        self.bench = Bench(more=True, **limits)

    def client(self, stateless: bool = False, **more: Any) -> MemoryClient:
        client = connect(self.bench.server, stateless=stateless, **more)
        if not stateless:
            client.initialize()
        return client

    def both(self, **more: Any) -> list[MemoryClient]:
        return [self.client(stateless, **more) for stateless in (False, True)]

    def refused(self, d: Any) -> McpRefused:
        error = self.failureResultOf(d, McpRefused).value
        assert isinstance(error, McpRefused)
        return error
