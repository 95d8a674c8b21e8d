"""Arguments that a header repeats."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import McpRefused
from meshkit.web.mcp import Tool, text_result, wire
from meshkit.web.mcp.mirrors import Mirror, check_mirrors, find_mirrors
from tests.web.mcp.test_http import VERSION, Case

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "size": {"type": "integer", "x-mcp-header": "Size"},
        "deep": {
            "type": "object",
            "properties": {"dry": {"type": "boolean", "x-mcp-header": "Dry"}},
        },
        "plain": {"type": "string"},
    },
}


class FindingTests(SynchronousTestCase):
    def test_what_a_schema_asks_for(self) -> None:
        self.assertEqual(
            find_mirrors(SCHEMA),
            (
                Mirror("Mcp-Param-Region", ("region",), "string"),
                Mirror("Mcp-Param-Size", ("size",), "integer"),
                Mirror("Mcp-Param-Dry", ("deep", "dry"), "boolean"),
            ),
        )
        self.assertEqual(find_mirrors({"type": "object"}), ())
        # A property of that name asks for nothing.
        self.assertEqual(
            find_mirrors({"type": "object", "properties": {"x-mcp-header": {"type": "string"}}}),
            (),
        )

    def test_where_it_cannot_ask(self) -> None:
        good = {"type": "string", "x-mcp-header": "A"}
        for properties in (
            {"a": good | {"x-mcp-header": "two words"}},
            {"a": good | {"x-mcp-header": ""}},
            {"a": good | {"x-mcp-header": 7}},
            {"a": good | {"type": "number"}},
            {"a": good | {"type": ["string", "null"]}},
            {"a": {"x-mcp-header": "A"}},
            {"a": good, "b": good | {"x-mcp-header": "a"}},
            {"a": {"type": "array", "items": good}},
            {"a": {"anyOf": [good]}},
            {"a": {"type": "array", "items": {"properties": {"b": good}}}},
        ):
            schema = {"type": "object", "properties": properties}
            self.assertRaises(ValueError, find_mirrors, schema)
        self.assertRaises(ValueError, find_mirrors, {"type": "object", "x-mcp-header": "A"})


class CheckingTests(SynchronousTestCase):
    def judge(self, arguments: Any, **headers: Any) -> str | None:
        given = {f"Mcp-Param-{name}": values for name, values in headers.items()}
        try:
            check_mirrors(find_mirrors(SCHEMA), arguments, lambda name: given.get(name, []))
        except McpRefused as e:
            self.assertEqual(e.rpc_code, wire.HEADER_MISMATCH)
            return str(e)
        return None

    def test_what_agrees(self) -> None:
        encoded = f"=?base64?{b64encode('Ärger'.encode()).decode()}?="
        for arguments, headers in (
            ({}, {}),
            ({"plain": "x"}, {}),
            ({"region": None}, {}),
            ({"region": "eu"}, {"Region": ["eu"]}),
            ({"region": ""}, {"Region": [""]}),
            ({"region": "Ärger"}, {"Region": [encoded]}),
            ({"region": "=?base64?x"}, {"Region": ["=?base64?x"]}),
            ({"size": 42}, {"Size": ["42"]}),
            ({"size": -42}, {"Size": ["-42.00"]}),
            ({"size": 42.0}, {"Size": ["42"]}),
            ({"deep": {"dry": True}}, {"Dry": ["true"]}),
            ({"deep": {"dry": False}}, {"Dry": ["false"]}),
            ({"deep": "no object"}, {}),
        ):
            self.assertIsNone(self.judge(arguments, **headers), arguments)

    def test_what_does_not(self) -> None:
        for arguments, headers in (
            ({"region": "eu"}, {}),
            ({}, {"Region": ["eu"]}),
            ({"region": None}, {"Region": ["null"]}),
            ({"region": "eu"}, {"Region": ["EU"]}),
            ({"region": "eu"}, {"Region": ["eu", "eu"]}),
            ({"region": "Hello"}, {"Region": ["=?base64?SGVsbG8?="]}),
            ({"region": "Hello"}, {"Region": ["=?base64?SGVs!!!bG8=?="]}),
            ({"region": ["eu"]}, {"Region": ["['eu']"]}),
            ({"size": 42}, {"Size": ["43"]}),
            ({"size": 42}, {"Size": ["4.2e1"]}),
            ({"size": 42}, {"Size": ["42.5"]}),
            ({"size": 42}, {"Size": ["9" * 10_000]}),
            ({"size": True}, {"Size": ["1"]}),
            ({"deep": {"dry": True}}, {"Dry": ["True"]}),
            ({"deep": {"dry": True}}, {}),
        ):
            self.assertIsNotNone(self.judge(arguments, **headers), arguments)


class HttpTests(Case):
    def test_a_call_over_http_is_compared_and_others_are_not(self) -> None:
        tool = Tool("mirrored", "", SCHEMA, lambda a, c: text_result("good"))
        self.bench.server.add_tool(tool)
        body = self.stateless(1, "tools/call", name="mirrored", arguments={"region": "eu"})
        more = {
            "MCP_Protocol_Version": VERSION,
            "Mcp_Method": "tools/call",
            "Mcp_Name": "mirrored",
        }
        for region, status in (("eu", 200), (" eu ", 200), ("us", 400), (None, 400)):
            answer = self.ask("POST", body, Mcp_Param_Region=region, **more)
            self.assertEqual(answer.status, status)
            if status == 400:
                self.assertEqual(self.code(answer), wire.HEADER_MISMATCH)
        session = self.initialize()
        old = wire.request(1, "tools/call", {"name": "mirrored", "arguments": {"region": "eu"}})
        answer = self.ask("POST", old, Mcp_Session_Id=session)
        self.assertIn(b"good", answer.body)
        self.bench.server.remove_tool("mirrored")
        self.bench.server.add_tool(
            Tool("mirrored", "", {"type": "object"}, lambda a, c: text_result("good"))
        )
        self.assertEqual(self.ask("POST", body, **more).status, 200)

    def test_a_schema_that_asks_wrongly_is_refused_at_once(self) -> None:
        schema = {"type": "object", "x-mcp-header": "A"}
        tool = Tool("wrong", "", schema, lambda a, c: text_result(""))
        self.assertRaises(ValueError, self.bench.server.add_tool, tool)
