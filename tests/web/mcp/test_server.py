"""The methods, as a client in memory sees them, in both generations."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from meshkit.errors import MeshkitError
from meshkit.web.mcp import (
    Call,
    InputRequired,
    McpRefused,
    Prompt,
    Resource,
    ResourceTemplate,
    Server,
    Tool,
    ToolResult,
    connect,
    text_result,
    wire,
)
from tests.web.mcp.support import ANYTHING, SUM, TWO_NUMBERS, Bench, Case


class IntroductionTests(Case):
    def test_initialize_says_who_we_are_and_what_we_can(self) -> None:
        client = connect(self.bench.server)
        self.assertEqual(
            client.initialize(),
            {
                "protocolVersion": "2025-11-25",
                "capabilities": {
                    "tools": {"listChanged": True},
                    "resources": {"subscribe": True, "listChanged": True},
                    "prompts": {"listChanged": True},
                    "completions": {},
                    "logging": {},
                },
                "serverInfo": {"name": "bench", "version": "1.0"},
                "instructions": "Be kind.",
            },
        )

    def test_a_version_that_is_known_is_spoken_and_another_is_answered_with_the_newest(
        self,
    ) -> None:
        for wanted, spoken in (
            *((version, version) for version in wire.HANDSHAKE_VERSIONS),
            ("2026-07-28", "2025-11-25"),
            ("1999-01-01", "2025-11-25"),
        ):
            client = connect(self.bench.server)
            self.assertEqual(client.initialize(wanted)["protocolVersion"], spoken)
            self.assertEqual(client.session.version, spoken)

    def test_before_it_only_ping_is_answered(self) -> None:
        client = connect(self.bench.server)
        self.assertEqual(self.successResultOf(client.request("ping")), {})
        error = self.refused(client.request("tools/list"))
        self.assertEqual(error.rpc_code, wire.INVALID_REQUEST)
        self.assertIn("initialize", str(error))

    def test_it_is_done_once(self) -> None:
        client = self.client()
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        self.assertEqual(
            self.refused(client.request("initialize", params)).rpc_code, wire.INVALID_REQUEST
        )

    def test_it_needs_all_its_parameters(self) -> None:
        good = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x"}}
        for name in good:
            client = connect(self.bench.server)
            less = {key: value for key, value in good.items() if key != name}
            error = self.refused(client.request("initialize", less))
            self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)
            self.assertIn(name, str(error))
            self.assertIsNone(client.session.version)

    def test_what_a_client_tells_of_itself_has_a_limit(self) -> None:
        self.limited(introduction=100)
        for size, fits in ((100, True), (101, False)):
            client = connect(self.bench.server)
            info = {"name": ""}
            room = size - len(json.dumps(info, separators=(",", ":"))) - len("{}")
            params = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "x" * room},
            }
            d = client.request("initialize", params)
            if fits:
                self.successResultOf(d)
            else:
                self.assertEqual(self.refused(d).rpc_code, wire.INVALID_PARAMS)

    def test_discover_says_the_same_to_the_stateless_generation(self) -> None:
        client = self.client(stateless=True)
        result = self.successResultOf(client.request("server/discover"))
        self.assertEqual(result["supportedVersions"], ["2026-07-28"])
        self.assertEqual(result["resultType"], "complete")
        self.assertEqual(result["_meta"], {wire.META_SERVER: {"name": "bench", "version": "1.0"}})
        self.assertEqual(result["instructions"], "Be kind.")
        self.assertEqual((result["ttlMs"], result["cacheScope"]), (0, "private"))
        self.assertEqual(
            result["capabilities"], connect(self.bench.server).initialize()["capabilities"]
        )

    def test_what_is_not_offered_is_no_capability_and_no_method(self) -> None:
        self.bench = Bench()
        self.assertEqual(
            connect(self.bench.server).initialize()["capabilities"],
            {"tools": {"listChanged": True}},
        )
        for client in self.both():
            for method, params in (
                ("resources/list", {}),
                ("resources/templates/list", {}),
                ("resources/read", {"uri": "test://text"}),
                ("prompts/list", {}),
                ("prompts/get", {"name": "greet"}),
                ("completion/complete", {}),
                ("logging/setLevel", {"level": "info"}),
            ):
                error = self.refused(client.request(method, params))
                self.assertEqual(error.rpc_code, wire.METHOD_NOT_FOUND, method)

    def test_each_generation_has_its_own_methods(self) -> None:
        old, new = self.both()
        for client, methods in (
            (old, ("server/discover", "subscriptions/listen", "tools", "Tools/list", "")),
            (
                new,
                (
                    "initialize",
                    "ping",
                    "logging/setLevel",
                    "resources/subscribe",
                    "resources/unsubscribe",
                    "nonsense",
                ),
            ),
        ):
            for method in methods:
                error = self.refused(client.request(method))
                self.assertEqual(error.rpc_code, wire.METHOD_NOT_FOUND, method)

    def test_instructions_can_depend_on_who_asks(self) -> None:
        server = Server(
            "x",
            "1",
            clock=self.bench.clock,
            rng=Random(1),
            instructions=lambda caller, view: f"{caller} {view}",
        )
        client = connect(server, "heron", "small")
        self.assertEqual(client.initialize()["instructions"], "heron small")


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

    def test_a_description_can_change_from_one_listing_to_the_next(self) -> None:
        said = ["one", "two"]
        self.bench.server.add_tool(
            Tool(
                "live",
                lambda: said.pop(0),
                ANYTHING,
                self.bench.add,
                title="Live",
                annotations={"readOnlyHint": True},
            )
        )
        client = self.client()
        for words in ("one", "two"):
            self.assertEqual(
                client.tools()[-1],
                {
                    "name": "live",
                    "title": "Live",
                    "description": words,
                    "inputSchema": ANYTHING,
                    "annotations": {"readOnlyHint": True},
                },
            )

    def test_a_long_list_comes_in_pages(self) -> None:
        self.limited(page=2)
        for client in self.both():
            first = self.successResultOf(client.request("tools/list"))
            self.assertEqual([tool["name"] for tool in first["tools"]], ["add", "wait"])
            self.assertEqual(len(client.tools()), 6)
            last = self.successResultOf(
                client.request("tools/list", {"cursor": self.cursor(client, 2)})
            )
            self.assertNotIn("nextCursor", last)

    def cursor(self, client: Any, pages: int) -> str:
        cursor = None
        for _ in range(pages):
            params = {} if cursor is None else {"cursor": cursor}
            cursor = self.successResultOf(client.request("tools/list", params))["nextCursor"]
        assert cursor is not None
        return cursor

    def test_a_page_that_ends_with_what_is_not_shown_is_the_last(self) -> None:
        self.limited(page=6)
        self.bench.server.add_tool(
            Tool("hidden", "", ANYTHING, self.bench.add, shown=lambda caller, view: False)
        )
        result = self.successResultOf(self.client().request("tools/list"))
        self.assertNotIn("nextCursor", result)

    def test_a_cursor_of_somewhere_else_is_refused(self) -> None:
        self.limited(page=2)
        client = self.client()
        cursor = self.cursor(client, 1)
        self.bench.server.remove_tool("wait")
        for wrong in (cursor, "", "%%%", "bm9uZQ==", "\N{BIRD}", 7, None):
            error = self.refused(client.request("tools/list", {"cursor": wrong}))
            self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)

    def test_a_call_gives_what_the_tool_gives(self) -> None:
        for client in self.both():
            client.tools()
            result = self.successResultOf(client.call("add", {"a": 2, "b": 40}))
            self.assertEqual(result["content"], [{"type": "text", "text": "42"}])
            self.assertEqual(result["structuredContent"], {"sum": 42})
            self.assertIs(result["isError"], False)

    def test_a_handler_may_answer_later(self) -> None:
        for client in self.both():
            for tool in ("wait", "wait_awaited"):
                d = client.call(tool)
                self.assertNoResult(d)
                self.bench.waiting.pop().callback(text_result("here") if tool == "wait" else "here")
                self.assertEqual(self.successResultOf(d)["content"][0]["text"], "here")
        self.assertEqual(self.bench.server.calls, 0)

    def test_answers_come_in_the_order_of_the_tools_and_not_of_the_questions(self) -> None:
        client = self.client()
        first, second = client.call("wait"), client.call("wait")
        self.bench.waiting[1].callback(text_result("second"))
        self.assertNoResult(first)
        self.assertEqual(self.successResultOf(second)["content"][0]["text"], "second")
        self.bench.waiting[0].callback(text_result("first"))
        self.assertEqual(self.successResultOf(first)["content"][0]["text"], "first")

    def test_a_handler_gets_who_asks_and_the_arguments_as_they_were_spelt(self) -> None:
        for stateless in (False, True):
            client = self.client(stateless, caller="heron", view="small")
            meta = (
                f'"_meta":{{"{wire.META_VERSION}":"2026-07-28","{wire.META_CAPABILITIES}":{{}}}},'
                if stateless
                else ""
            )
            spelt = '{ "a":1,"b" :  20 }'
            text = (
                '{"jsonrpc":"2.0","id":99,"method":"tools/call","params":{'
                + meta
                + f'"name":"add","arguments":{spelt}}}}}'
            )
            client.session.receive(text.encode())
            call = self.bench.calls.pop()
            self.assertEqual((call.caller, call.view), ("heron", "small"))
            self.assertEqual(call.arguments_text, spelt.encode())
            self.assertEqual(call.version, "2026-07-28" if stateless else "2025-11-25")
            self.assertIs(call.session, client.session)

    def test_arguments_may_be_left_out(self) -> None:
        for client in self.both():
            for params in ({"name": "steps"}, {"name": "steps", "arguments": None}):
                self.successResultOf(client.request("tools/call", params))

    def test_arguments_that_are_no_object_are_an_error_of_the_protocol(self) -> None:
        for client in self.both():
            for wrong in ([], "x", 7, False):
                error = self.refused(
                    client.request("tools/call", {"name": "add", "arguments": wrong})
                )
                self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)

    def test_arguments_that_do_not_fit_the_schema_are_told_to_the_model(self) -> None:
        for client in self.both():
            for wrong in ({"a": 1}, {"a": 1, "b": "2"}, {"a": 1, "b": 2, "c": 3}):
                result = self.successResultOf(client.call("add", wrong))
                self.assertIs(result["isError"], True)
                self.assertIn("the arguments of add are not right", result["content"][0]["text"])
        self.assertEqual(self.bench.calls, [])

    def test_a_tool_may_judge_its_arguments_itself(self) -> None:
        self.bench.server.add_tool(
            Tool(
                "picky",
                "",
                TWO_NUMBERS,
                lambda arguments, call: text_result("good"),
                validate=lambda arguments: None if "params" in arguments else "wrap them",
            )
        )
        client = self.client()
        good = self.successResultOf(client.call("picky", {"params": {}}))
        self.assertIs(good["isError"], False)
        result = self.successResultOf(client.call("picky", {"a": 1, "b": 2}))
        self.assertIn("wrap them", result["content"][0]["text"])

    def test_a_schema_never_makes_us_fetch_anything(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="meshkit-mcp-"))
        self.addCleanup(shutil.rmtree, folder)
        path = folder / "schema.json"
        path.write_text("{}")
        schema = {"type": "object", "$ref": path.as_uri()}
        self.bench.server.add_tool(Tool("far", "", schema, self.bench.steps))
        error = self.refused(self.client().call("far"))
        self.assertEqual(error.rpc_code, wire.INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

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

    def test_a_tool_that_gives_something_else_is_our_fault(self) -> None:
        for name, given, schema in (
            ("nothing", None, None),
            ("text", "words", None),
            ("unstructured", text_result("words"), SUM),
        ):
            self.bench.server.add_tool(
                Tool(name, "", ANYTHING, lambda a, c, given=given: given, output_schema=schema)
            )
            error = self.refused(self.client().call(name))
            self.assertEqual(error.rpc_code, wire.INTERNAL_ERROR)
            self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_an_error_of_the_protocol_can_be_raised(self) -> None:
        def refuse(arguments: Any, call: Call) -> ToolResult:
            raise McpRefused(-32042, "go elsewhere", {"url": "x"})

        self.bench.server.add_tool(Tool("elsewhere", "", ANYTHING, refuse))
        for client in self.both():
            error = self.refused(client.call("elsewhere"))
            self.assertEqual((error.rpc_code, error.data), (-32042, {"url": "x"}))

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

    def test_a_tool_can_be_removed(self) -> None:
        self.bench.server.remove_tool("add")
        client = self.client()
        self.assertEqual(client.tools()[0]["name"], "wait")
        self.refused(client.call("add", {"a": 1, "b": 2}))
        self.assertRaises(KeyError, self.bench.server.remove_tool, "add")

    def test_what_cannot_be_a_tool_is_refused_at_once(self) -> None:
        for name in ("", "two words", "x" * 129, "\N{BIRD}"):
            self.assertRaises(ValueError, Tool, name, "", ANYTHING, self.bench.add)
        self.assertRaises(ValueError, Tool, "x", "", {"type": "string"}, self.bench.add)
        self.assertRaises(ValueError, Tool, "x", "", {}, self.bench.add)
        good = Tool("add", "", ANYTHING, self.bench.add)
        self.assertRaises(ValueError, self.bench.server.add_tool, good)
        bad = Tool("bad", "", {"type": "object", "properties": 7}, self.bench.add)
        self.assertRaises(ValueError, self.bench.server.add_tool, bad)

    def test_progress_is_told_to_those_who_asked(self) -> None:
        for client in self.both():
            self.successResultOf(client.call("steps"))
            self.assertEqual(client.notifications, [])
            for token in ("t", 7):
                client.notifications.clear()
                self.successResultOf(client.call("steps", progressToken=token))
                self.assertEqual(
                    [told["params"] for told in client.notifications],
                    [
                        {"progressToken": token, "progress": 0, "total": 2},
                        {"progressToken": token, "progress": 1, "total": 2, "message": "half"},
                        {"progressToken": token, "progress": 2, "total": 2},
                    ],
                )
            for token in (True, [1], None):
                client.notifications.clear()
                self.successResultOf(client.call("steps", progressToken=token))
                self.assertEqual(client.notifications, [])

    def test_after_the_answer_nothing_is_told(self) -> None:
        client = self.client()
        d = client.call("wait", progressToken="t")
        call = self.bench.calls.pop()
        self.assertTrue(call.wants_progress)
        self.bench.waiting.pop().callback(text_result("here"))
        self.successResultOf(d)
        call.progress(1)
        call.log("emergency", "x")
        self.assertEqual(client.notifications, [])

    def test_a_log_is_told_at_the_level_that_is_wanted(self) -> None:
        def shout(arguments: Any, call: Call) -> ToolResult:
            call.log("error", "loud", "heron")
            call.log("debug", {"quiet": 1})
            return text_result("")

        self.bench.server.add_tool(Tool("shout", "", ANYTHING, shout))
        old, new = self.both()
        loud = {"level": "error", "data": "loud", "logger": "heron"}
        quiet = {"level": "debug", "data": {"quiet": 1}}

        def told(client: Any, **meta: Any) -> list[Any]:
            client.notifications.clear()
            self.successResultOf(client.call("shout", **meta))
            return [each["params"] for each in client.notifications]

        self.assertEqual(told(old), [loud, quiet])
        self.successResultOf(old.request("logging/setLevel", {"level": "error"}))
        self.assertEqual(told(old), [loud])
        for wrong in ("loud", "", 7):
            error = self.refused(old.request("logging/setLevel", {"level": wrong}))
            self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)
        self.assertEqual(told(new), [])
        self.assertEqual(told(new, **{wire.META_LOG_LEVEL: "error"}), [loud])
        self.assertEqual(told(new, **{wire.META_LOG_LEVEL: "debug"}), [loud, quiet])
        error = self.refused(new.call("shout", **{wire.META_LOG_LEVEL: "loud"}))
        self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)

    def test_a_capability_of_the_client_can_be_required(self) -> None:
        def need(arguments: Any, call: Call) -> ToolResult:
            call.require("sampling", "roots")
            return text_result("good")

        self.bench.server.add_tool(Tool("need", "", ANYTHING, need))
        for client in self.both(capabilities={"roots": {}}):
            error = self.refused(client.call("need"))
            self.assertEqual(error.rpc_code, wire.MISSING_CAPABILITY)
            self.assertEqual(error.data, {"requiredCapabilities": {"sampling": {}}})
        for client in self.both(capabilities={"roots": {}, "sampling": {}}):
            self.successResultOf(client.call("need"))


class ResourceTests(Case):
    def test_lists(self) -> None:
        for client in self.both():
            resources = client.listed("resources/list", "resources")
            self.assertEqual(
                resources[0],
                {
                    "uri": "test://text",
                    "name": "text",
                    "description": "Words.",
                    "mimeType": "application/json",
                },
            )
            self.assertEqual(
                client.listed("resources/templates/list", "resourceTemplates"),
                [
                    {
                        "uriTemplate": "test://{kind}/{+rest}/end",
                        "name": "any",
                        "mimeType": "application/json",
                    }
                ],
            )

    def read(self, client: Any, uri: str) -> Any:
        return self.successResultOf(client.request("resources/read", {"uri": uri}))["contents"]

    def test_reading(self) -> None:
        for client in self.both():
            self.assertEqual(
                self.read(client, "test://text"),
                [{"uri": "test://text", "mimeType": "application/json", "text": "words"}],
            )
            self.assertEqual(
                self.read(client, "test://bytes"),
                [{"uri": "test://bytes", "mimeType": "image/png", "blob": "AP8="}],
            )
            self.assertEqual(
                self.read(client, "test://two"),
                [
                    {"uri": "test://two", "mimeType": "application/json", "text": "a"},
                    {"uri": "test://two", "mimeType": "x/y", "text": "b"},
                ],
            )

    def test_what_stands_for_the_names_of_a_template(self) -> None:
        for client in self.both():
            for uri, variables in (
                ("test://feed/a/b/end", {"kind": "feed", "rest": "a/b"}),
                ("test://%C3%A4/%2F/end", {"kind": "ä", "rest": "/"}),
            ):
                (contents,) = self.read(client, uri)
                self.assertEqual(contents["text"], repr(variables))
            for uri in (
                "test://feed/end",
                "test:///a/end",
                "test://a/b/end/more",
                "xtest://a/b/end",
            ):
                self.refused(client.request("resources/read", {"uri": uri}))

    def test_what_is_not_there_has_a_code_of_its_own_and_names_the_uri(self) -> None:
        old, new = self.both()
        for client, code in ((old, wire.RESOURCE_NOT_FOUND), (new, wire.INVALID_PARAMS)):
            error = self.refused(client.request("resources/read", {"uri": "test://nowhere"}))
            self.assertEqual((error.rpc_code, error.data), (code, {"uri": "test://nowhere"}))

    def test_what_is_not_shown_is_not_there(self) -> None:
        def owner(caller: Any, view: Any) -> bool:
            return bool(caller == "owner")

        self.bench.server.add_resource(
            Resource("test://mine", "mine", lambda uri, call: "x", shown=owner)
        )
        self.bench.server.add_template(
            ResourceTemplate("mine://{a}", "mine", lambda uri, call: "x", shown=owner)
        )
        for uri in ("test://mine", "mine://a"):
            for client in self.both(caller="guest"):
                self.refused(client.request("resources/read", {"uri": uri}))
            for client in self.both(caller="owner"):
                self.read(client, uri)
            guest = self.client(caller="guest")
            self.refused(guest.request("resources/subscribe", {"uri": uri}))

    def test_failures(self) -> None:
        for client in self.both():
            error = self.refused(client.request("resources/read", {"uri": "test://refuse"}))
            self.assertEqual(error.rpc_code, wire.INTERNAL_ERROR)
            self.assertEqual(error.data, {"code": "NOT_FOUND", "message": "there is no such heron"})
            d = client.request("resources/read", {"uri": "test://wait"})
            self.bench.waiting.pop().errback(ZeroDivisionError("a secret"))
            self.assertEqual(self.refused(d).rpc_code, wire.INTERNAL_ERROR)
            self.assertNotIn(b"secret", b"".join(client.sent))
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_template_that_is_none_is_refused_at_once(self) -> None:
        for wrong in ("test://x", "test://{a", "test://{a}/{a}", "test://{?q}", "x://{a}}"):
            self.assertRaises(ValueError, ResourceTemplate, wrong, "x", self.bench.wait)

    def test_a_resource_can_be_removed(self) -> None:
        self.bench.server.remove_resource("test://text")
        self.refused(self.client().request("resources/read", {"uri": "test://text"}))


class PromptTests(Case):
    def test_list_and_get(self) -> None:
        for client in self.both():
            (prompt,) = client.listed("prompts/list", "prompts")
            self.assertEqual(
                prompt,
                {
                    "name": "greet",
                    "description": "Greets.",
                    "arguments": [
                        {"name": "who", "description": "Whom to greet.", "required": True},
                        {"name": "how", "required": False},
                    ],
                },
            )
            params = {"name": "greet", "arguments": {"who": "heron"}}
            result = self.successResultOf(client.request("prompts/get", params))
            self.assertEqual(result["description"], "Greets.")
            self.assertEqual(result["messages"][0]["content"]["text"], "Hi heron")

    def test_what_is_wrong_is_named(self) -> None:
        for client in self.both():
            for params, name in (
                ({"name": "greet"}, "who"),
                ({"name": "greet", "arguments": {"how": "x"}}, "who"),
                ({"name": "greet", "arguments": {"who": 7}}, "who"),
                ({"name": "greet", "arguments": {"who": "x", "why": "y"}}, "why"),
                ({"name": "greet", "arguments": []}, "arguments"),
                ({"name": "nobody"}, "nobody"),
                ({}, "name"),
            ):
                error = self.refused(client.request("prompts/get", params))
                self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)
                self.assertIn(name, str(error))

    def test_completion(self) -> None:
        template = {"type": "ref/resource", "uri": "test://{kind}/{+rest}/end"}
        prompt = {"type": "ref/prompt", "name": "greet"}
        for client in self.both():

            def complete(ref: Any, argument: Any, client: Any = client) -> Any:
                params = {"ref": ref, "argument": argument}
                return client.request("completion/complete", params)

            result = self.successResultOf(complete(template, {"name": "kind", "value": "a"}))
            self.assertEqual(result["completion"]["values"][:2], ["a0", "a1"])
            self.assertEqual(len(result["completion"]["values"]), 100)
            self.assertEqual(result["completion"]["total"], 150)
            self.assertIs(result["completion"]["hasMore"], True)
            result = self.successResultOf(complete(prompt, {"name": "who", "value": "a"}))
            self.assertEqual(result["completion"], {"values": [], "total": 0, "hasMore": False})
            for ref, argument in (
                ({"type": "ref/prompt", "name": "nobody"}, {"name": "who", "value": ""}),
                ({"type": "ref/resource", "uri": "x"}, {"name": "who", "value": ""}),
                ({"type": "nonsense"}, {"name": "who", "value": ""}),
                (prompt, {"name": "who"}),
                (prompt, {"name": 7, "value": ""}),
                (prompt, []),
                ({}, {"name": "who", "value": ""}),
            ):
                error = self.refused(complete(ref, argument))
                self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)

    def test_a_prompt_that_is_not_shown_is_not_there(self) -> None:
        self.bench.server.add_prompt(
            Prompt("mine", lambda arguments, call: [], shown=lambda caller, view: False)
        )
        client = self.client()
        self.assertEqual(len(client.listed("prompts/list", "prompts")), 1)
        self.refused(client.request("prompts/get", {"name": "mine"}))


class AskingTests(Case):
    """Questions to the client, in the way of each generation."""

    def setUp(self) -> None:
        super().setUp()
        self.results: list[Any] = []

        async def ask(arguments: Any, call: Call) -> ToolResult:
            answer = await call.ask("elicitation/create", {"message": "who?"})
            return text_result(answer["content"]["name"])

        async def ask_wrongly(arguments: Any, call: Call) -> ToolResult:
            await call.ask("tools/list", {})
            raise AssertionError("not reached")

        def need(arguments: Any, call: Call) -> ToolResult | InputRequired:
            self.results.append((dict(call.input_responses), call.request_state))
            if "who" not in call.input_responses:
                asked = {"method": "elicitation/create", "params": {"message": "who?"}}
                return InputRequired({"who": asked}, "state")
            return text_result(call.input_responses["who"]["content"]["name"])

        for name, handler in (("ask", ask), ("ask_wrongly", ask_wrongly), ("need", need)):
            self.bench.server.add_tool(Tool(name, "", ANYTHING, handler))
        self.bench.server.add_prompt(Prompt("need", need, "Needs."))

    def old(self, **capabilities: Any) -> Any:
        return self.client(capabilities=capabilities or {"elicitation": {}})

    def test_a_client_is_asked_and_answers(self) -> None:
        client = self.old()
        for tool in ("ask", "need"):
            d = client.call(tool)
            self.assertNoResult(d)
            (question,) = client.questions
            self.assertEqual(question["method"], "elicitation/create")
            self.assertEqual(question["params"], {"message": "who?"})
            client.reply({"content": {"name": "heron"}})
            self.assertEqual(self.successResultOf(d)["content"][0]["text"], "heron")
        self.assertEqual(
            self.results, [({}, None), ({"who": {"content": {"name": "heron"}}}, "state")]
        )

    def test_a_client_that_cannot_be_asked_is_not(self) -> None:
        client = self.old(sampling={})
        for tool in ("ask", "need"):
            error = self.refused(client.call(tool))
            self.assertEqual(error.rpc_code, wire.MISSING_CAPABILITY)
        self.assertEqual(client.questions, [])
        self.assertEqual(self.refused(client.call("ask_wrongly")).rpc_code, wire.INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        new = self.client(stateless=True, capabilities={"elicitation": {}})
        self.assertEqual(self.refused(new.call("ask")).rpc_code, wire.INVALID_REQUEST)

    def test_a_client_may_refuse(self) -> None:
        client = self.old()
        d = client.call("ask")
        id = client.questions.pop()["id"]
        client.session.receive(wire.refusal(id, McpRefused(-1, "no")))
        error = self.refused(d)
        self.assertEqual(error.rpc_code, -1)
        self.assertIn("no", str(error))

    def test_a_result_that_is_no_object_is_an_error(self) -> None:
        client = self.old()
        d = client.call("ask")
        id = client.questions.pop()["id"]
        client.session.receive(wire.answer(id, [1]))
        self.assertEqual(self.refused(d).rpc_code, wire.INVALID_REQUEST)

    def test_an_answer_that_nobody_waits_for_is_ignored(self) -> None:
        client = self.old()
        sent = len(client.sent)
        for id in (1, "1", 10**6):
            client.session.receive(wire.answer(id, {}))
            client.session.receive(wire.refusal(id, McpRefused(-1, "no")))
        self.assertEqual(len(client.sent), sent)

    def test_a_client_has_so_long_to_answer(self) -> None:
        self.limited(ask_seconds=5.0)
        self.setUp_again()
        client = self.old()
        d = client.call("ask")
        self.bench.clock.advance(4.9)
        self.assertNoResult(d)
        self.bench.clock.advance(0.2)
        error = self.refused(d)
        self.assertEqual(error.rpc_code, wire.BUSY)
        self.assertIn("5 s", str(error))
        self.assertEqual(client.notifications[-1]["method"], "notifications/cancelled")
        self.assertEqual(
            client.notifications[-1]["params"]["requestId"], client.questions[-1]["id"]
        )
        client.reply({"content": {"name": "late"}})

    def setUp_again(self) -> None:
        """The tools of this case, on another bench."""
        bench = self.bench
        AskingTests.setUp(self)
        tools = [self.bench.server._offers.tools.find(n, None, None) for n in ("ask", "need")]
        self.bench = bench
        for tool in tools:
            bench.server.add_tool(tool)

    def test_questions_have_a_limit(self) -> None:
        self.limited(asks=2)
        self.setUp_again()
        client = self.old()
        first, second, third = (client.call("ask") for _ in range(3))
        self.assertEqual(self.refused(third).rpc_code, wire.BUSY)
        client.reply({"content": {"name": "heron"}})
        self.successResultOf(first)
        self.assertNoResult(client.call("ask"))
        self.assertNoResult(second)

    def test_asking_again_and_again_has_a_limit(self) -> None:
        self.limited(rounds=3)
        asked = {"method": "roots/list"}
        self.bench.server.add_tool(
            Tool("greedy", "", ANYTHING, lambda a, c: InputRequired({"more": asked}))
        )
        client = self.client(capabilities={"roots": {}})
        d = client.call("greedy")
        for _ in range(3):
            self.assertNoResult(d)
            client.reply({"roots": []})
        self.assertEqual(self.refused(d).rpc_code, wire.BUSY)
        self.assertEqual(client.questions, [])

    def test_cancelling_the_call_cancels_the_question(self) -> None:
        client = self.old()
        d = client.call("ask")
        client.cancel(client.last_id)
        self.assertNoResult(d)
        self.assertEqual(client.notifications[-1]["method"], "notifications/cancelled")
        self.assertEqual(self.bench.server.calls, 0)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_a_client_that_goes_leaves_nothing_behind(self) -> None:
        client = self.old()
        client.call("ask")
        client.close()
        self.assertEqual(self.bench.server.calls, 0)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_a_question_that_no_call_waits_for_ends_with_its_client(self) -> None:
        asked: list[Any] = []

        def ask_and_go_on(arguments: Any, call: Call) -> Any:
            asked.append(call.ask("elicitation/create", {}))
            return text_result("")

        self.bench.server.add_tool(Tool("hasty", "", ANYTHING, ask_and_go_on))
        client = self.old()
        self.successResultOf(client.call("hasty"))
        client.close()
        self.failureResultOf(asked[0], CancelledError)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_a_stateless_client_is_told_what_to_find_out_and_calls_again(self) -> None:
        client = self.client(stateless=True, capabilities={"elicitation": {}})
        asked = {"who": {"method": "elicitation/create", "params": {"message": "who?"}}}
        for method in ("tools/call", "prompts/get"):
            result = self.successResultOf(client.request(method, {"name": "need"}))
            self.assertEqual(
                result,
                {
                    "resultType": "input_required",
                    "_meta": self.bench.server.identity,
                    "inputRequests": asked,
                    "requestState": "state",
                },
            )
        again = {
            "name": "need",
            "inputResponses": {"who": {"content": {"name": "heron"}}},
            "requestState": "state",
        }
        result = self.successResultOf(client.request("tools/call", again))
        self.assertEqual(result["content"][0]["text"], "heron")
        self.assertEqual(result["resultType"], "complete")
        self.assertEqual(self.results[-1][1], "state")
        for wrong in ({"inputResponses": []}, {"inputResponses": None}, {"requestState": 7}):
            error = self.refused(client.request("tools/call", {"name": "need"} | wrong))
            self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)

    def test_a_stateless_client_is_told_of_nothing_that_it_cannot_do(self) -> None:
        client = self.client(stateless=True)
        error = self.refused(client.call("need"))
        self.assertEqual(error.rpc_code, wire.MISSING_CAPABILITY)


class MeshkitErrorTests(Case):
    def test_details_are_shown(self) -> None:
        def refuse(arguments: Any, call: Call) -> ToolResult:
            error = MeshkitError("no \udcff")
            error.details = {"limit": 3}
            raise error

        self.bench.server.add_tool(Tool("detailed", "", ANYTHING, refuse))
        result = self.successResultOf(self.client().call("detailed"))
        self.assertEqual(
            result["structuredContent"]["error"],
            {"code": "INTERNAL_ERROR", "message": "no \\udcff", "details": {"limit": 3}},
        )

    def test_what_a_handler_uses_may_be_cancelled(self) -> None:
        for client in self.both():
            d = client.call("wait")
            self.bench.waiting.pop().cancel()
            result = self.successResultOf(d)
            self.assertIs(result["isError"], True)
            self.assertEqual(result["structuredContent"]["error"]["code"], "NOT_READY")
            read = client.request("resources/read", {"uri": "test://wait"})
            waiting: Deferred[Any] = self.bench.waiting.pop()
            waiting.cancel()
            self.assertEqual(self.refused(read).rpc_code, wire.INTERNAL_ERROR)
