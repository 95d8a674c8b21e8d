"""A small server, and what the tests of every binding do with it."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from meshkit.errors import NotFound
from meshkit.web.mcp import (
    Call,
    Limits,
    Server,
    Tool,
    ToolResult,
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


class Bench:
    """A server with a virtual clock, and tools that do as they are told."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.server = Server(
            "bench",
            "1.0",
            clock=self.clock,
            rng=Random(7),
            instructions="Be kind.",
            limits=Limits(**limits),
        )
        self.calls: list[Call] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0
        for tool in (
            Tool("add", "Adds two numbers.", TWO_NUMBERS, self.add, output_schema=SUM),
            Tool("wait", "Waits.", ANYTHING, self.wait),
            Tool("wait_awaited", "Waits in a coroutine.", ANYTHING, self.wait_awaited),
            Tool("refuse", "Refuses.", ANYTHING, self.refuse),
            Tool("break", "Breaks.", ANYTHING, self.breaks),
            Tool("steps", "Tells how far it is.", ANYTHING, self.steps),
        ):
            self.server.add_tool(tool)

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
