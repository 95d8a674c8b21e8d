"""The methods, as a client in memory sees them, in both generations."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import McpRefused
from meshkit.web.mcp import MemoryClient, Tool, connect, text_result, wire
from tests.web.mcp.support import ANYTHING, SUM, TWO_NUMBERS, Bench


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.bench = Bench()

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


class ToolTests(Case):
    def test_the_tools_are_listed_in_the_order_they_were_added(self) -> None:
        for client in self.both():
            tools = client.tools()
            self.assertEqual(
                [tool["name"] for tool in tools],
                ["add", "wait", "wait_awaited", "refuse", "break", "steps"],
            )
            self.assertEqual(
                tools[0],
                {
                    "name": "add",
                    "description": "Adds two numbers.",
                    "inputSchema": TWO_NUMBERS,
                    "outputSchema": SUM,
                },
            )

    def test_a_call_gives_what_the_tool_gives(self) -> None:
        for client in self.both():
            client.tools()
            result = self.successResultOf(client.call("add", {"a": 2, "b": 40}))
            self.assertEqual(result["content"], [{"type": "text", "text": "42"}])
            self.assertEqual(result["structuredContent"], {"sum": 42})
            self.assertNotIn("isError", result)

    def test_arguments_that_do_not_fit_the_schema_are_told_to_the_model(self) -> None:
        for client in self.both():
            for wrong in ({"a": 1}, {"a": 1, "b": "2"}, {"a": 1, "b": 2, "c": 3}):
                result = self.successResultOf(client.call("add", wrong))
                self.assertIs(result["isError"], True)
                self.assertIn("the arguments of add are not right", result["content"][0]["text"])
        self.assertEqual(self.bench.calls, [])

    def test_a_refusal_of_ours_is_a_result_that_says_so(self) -> None:
        for client in self.both():
            result = self.successResultOf(client.call("refuse"))
            self.assertIs(result["isError"], True)
            self.assertEqual(
                result["content"],
                [{"type": "text", "text": "there is no such heron [NOT_FOUND]"}],
            )
            self.assertEqual(
                result["structuredContent"],
                {"error": {"code": "NOT_FOUND", "message": "there is no such heron"}},
            )

    def test_an_unforeseen_error_tells_nothing(self) -> None:
        for client in self.both():
            error = self.refused(client.call("break"))
            self.assertEqual(error.rpc_code, wire.INTERNAL_ERROR)
            self.assertNotIn(b"secret", b"".join(client.sent))
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_an_unknown_tool_is_an_error_of_the_protocol(self) -> None:
        for client in self.both():
            self.assertEqual(self.refused(client.call("fly")).rpc_code, wire.INVALID_PARAMS)

    def test_what_is_not_shown_is_not_there(self) -> None:
        self.bench.server.add_tool(
            Tool(
                "secret",
                "For the owner.",
                ANYTHING,
                lambda arguments, call: text_result("told"),
                shown=lambda caller, view: caller == "owner" and view != "small",
            )
        )
        for caller, view, there in (
            ("owner", None, True),
            ("owner", "small", False),
            ("guest", None, False),
        ):
            for client in self.both(caller=caller, view=view):
                self.assertEqual(
                    "secret" in [tool["name"] for tool in client.tools()], there, (caller, view)
                )
                if there:
                    self.successResultOf(client.call("secret"))
                else:
                    self.assertEqual(
                        self.refused(client.call("secret")).rpc_code, wire.INVALID_PARAMS
                    )
