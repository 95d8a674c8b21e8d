"""
What the official conformance suite of MCP expects a server to offer, built from
C{meshkit.web.mcp} as anybody would.

As a program it serves standard input and output, for clients that launch their server.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from random import SystemRandom
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from meshkit.web.mcp import (
    Argument,
    Call,
    InputRequired,
    McpRefused,
    Prompt,
    Resource,
    ResourceTemplate,
    Server,
    Tool,
    ToolResult,
    text_result,
)
from meshkit.web.mcp.wire import INVALID_PARAMS

#: One red pixel, and a sound of no length.
IMAGE: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
AUDIO: Final = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

NOTHING: Final[dict[str, Any]] = {"type": "object", "properties": {}}

SCHEMA_2020_12: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {
        "properties": {"contactMethod": {"const": "phone"}},
        "required": ["contactMethod"],
    },
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

MIRRORED: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
}

ENUMS: Final[dict[str, Any]] = {
    "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
    "titledSingle": {
        "type": "string",
        "oneOf": [
            {"const": "value1", "title": "First Option"},
            {"const": "value2", "title": "Second Option"},
            {"const": "value3", "title": "Third Option"},
        ],
    },
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {
        "type": "array",
        "minItems": 1,
        "maxItems": 3,
        "items": {"type": "string", "enum": ["option1", "option2", "option3"]},
    },
    "titledMulti": {
        "type": "array",
        "minItems": 1,
        "maxItems": 3,
        "items": {
            "anyOf": [
                {"const": "value1", "title": "First Choice"},
                {"const": "value2", "title": "Second Choice"},
                {"const": "value3", "title": "Third Choice"},
            ]
        },
    },
}

DEFAULTS: Final[dict[str, Any]] = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {
        "type": "string",
        "enum": ["active", "inactive", "pending"],
        "default": "active",
    },
    "verified": {"type": "boolean", "default": True},
}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": content}


def form(message: str, properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    """What a person is asked for."""
    schema = {"type": "object", "properties": properties, "required": required}
    return {"message": message, "requestedSchema": schema}


def elicit(message: str, **properties: str) -> dict[str, Any]:
    """An input request for a form of simple fields, all of them required."""
    fields = {name: {"type": kind} for name, kind in properties.items()}
    return {"method": "elicitation/create", "params": form(message, fields, list(fields))}


def sample(question: str, max_tokens: int) -> dict[str, Any]:
    """An input request for the words of a model."""
    params = {"messages": [user(text(question))], "maxTokens": max_tokens}
    return {"method": "sampling/createMessage", "params": params}


ROOTS: Final = {"method": "roots/list", "params": {}}


def given(call: Call, name: str, field: str) -> Any:
    """A field of the form that came back under a name; nothing if it is no such form."""
    response = call.input_responses.get(name)
    content = response.get("content") if isinstance(response, dict) else None
    return content.get(field) if isinstance(content, dict) else None


class Fixture:
    """The server, and what its tools do."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._key = b"a key of the fixture's own"
        self._changes = 0
        self.cancelled = 0
        self.server = server = Server(
            "meshkit-fixture", "1.0.0", clock=reactor, rng=SystemRandom(), logs=True
        )
        for tool in self._tools():
            server.add_tool(tool)
        for resource in self._resources():
            server.add_resource(resource)
        server.add_template(
            ResourceTemplate(
                "test://template/{id}/data", "template", self.template, complete=self.complete
            )
        )
        for prompt in self._prompts():
            server.add_prompt(prompt)

    # --- tools -----------------------------------------------------------------------

    def _tools(self) -> list[Tool]:
        picture = {"type": "image", "data": IMAGE, "mimeType": "image/png"}
        sound = {"type": "audio", "data": AUDIO, "mimeType": "audio/wav"}
        embedded = {"uri": "test://embedded-resource", "mimeType": "text/plain"}
        mixed = {"uri": "test://mixed-content-resource", "mimeType": "application/json"}
        asks = {
            "type": "object",
            "properties": {"message": {"type": "string"}, "prompt": {"type": "string"}},
        }

        def fixed(name: str, *content: Mapping[str, Any]) -> Tool:
            return Tool(name, "Gives the same always.", NOTHING, lambda a, c: ToolResult(content))

        def does(name: str, handler: Any, schema: Mapping[str, Any] = NOTHING) -> Tool:
            return Tool(name, f"Does what {name} is expected to do.", schema, handler)

        return [
            fixed("test_simple_text", text("This is a simple text response for testing.")),
            fixed("test_image_content", picture),
            fixed("test_audio_content", sound),
            fixed(
                "test_embedded_resource",
                {
                    "type": "resource",
                    "resource": embedded | {"text": "This is an embedded resource content."},
                },
            ),
            fixed(
                "test_multiple_content_types",
                text("Multiple content types test:"),
                picture,
                {"type": "resource", "resource": mixed | {"text": '{"test":"data","value":123}'}},
            ),
            does("test_error_handling", self.fails),
            does("test_tool_with_progress", self.with_progress),
            does("test_tool_with_logging", self.with_logging),
            does("test_sampling", self.sampling, asks),
            does("test_elicitation", self.elicitation, asks),
            does("test_elicitation_sep1034_defaults", self.defaults),
            does("test_elicitation_sep1330_enums", self.enums),
            does("json_schema_2020_12_tool", self.echo, SCHEMA_2020_12),
            does("test_missing_capability", self.missing_capability),
            does("test_streaming_elicitation", self.with_progress),
            does("test_logging_tool", self.logging),
            does("test_trigger_tool_change", self.change_tools),
            does("test_trigger_prompt_change", self.change_prompts),
            does("test_input_required_result_elicitation", self.need_name),
            does("test_input_required_result_sampling", self.need_words),
            does("test_input_required_result_list_roots", self.need_roots),
            does("test_input_required_result_request_state", self.need_confirmation),
            does("test_input_required_result_multiple_inputs", self.need_much),
            does("test_input_required_result_multi_round", self.need_rounds),
            does("test_input_required_result_tampered_state", self.need_signed_state),
            does("test_input_required_result_capabilities", self.need_what_there_is),
            does("test_mirrored_argument", self.echo, MIRRORED),
            does("wait_for_ever", self.wait),
            does("count_cancelled", self.count),
        ]

    def echo(self, arguments: Any, call: Call) -> ToolResult:
        return text_result(json.dumps(arguments))

    def fails(self, arguments: Any, call: Call) -> ToolResult:
        return text_result("This tool intentionally returns an error for testing", is_error=True)

    def wait(self, arguments: Any, call: Call) -> Deferred[Any]:
        def gone(_: Any) -> None:
            self.cancelled += 1

        call.progress(1)
        return Deferred(gone)

    def count(self, arguments: Any, call: Call) -> ToolResult:
        return text_result(str(self.cancelled))

    async def _pause(self) -> None:
        await deferLater(self._reactor, 0.05)

    async def with_progress(self, arguments: Any, call: Call) -> ToolResult:
        for done in (0, 50, 100):
            call.progress(done, 100, f"Completed step {done} of 100")
            await self._pause()
        return text_result("done")

    async def with_logging(self, arguments: Any, call: Call) -> ToolResult:
        for words in ("execution started", "processing data", "execution completed"):
            call.log("info", f"Tool {words}")
            await self._pause()
        return text_result("Tool with logging executed successfully")

    def logging(self, arguments: Any, call: Call) -> ToolResult:
        call.log("info", "Diagnostic trace logging activated")
        return text_result("Logging evaluated")

    async def sampling(self, arguments: Any, call: Call) -> ToolResult:
        asked = sample(arguments.get("prompt", ""), 100)
        answer = await call.ask(asked["method"], asked["params"])
        return text_result(f"LLM response: {answer['content']['text']}")

    async def _elicited(self, call: Call, params: Mapping[str, Any], how: str) -> ToolResult:
        answer = await call.ask("elicitation/create", params)
        content = json.dumps(answer.get("content", {}))
        return text_result(f"{how}: action={answer['action']}, content={content}")

    async def elicitation(self, arguments: Any, call: Call) -> ToolResult:
        fields = {"response": {"type": "string", "description": "User's response"}}
        asked = form(arguments.get("message", ""), fields, ["response"])
        return await self._elicited(call, asked, "User response")

    async def defaults(self, arguments: Any, call: Call) -> ToolResult:
        return await self._elicited(call, form("Please review", DEFAULTS, []), "Completed")

    async def enums(self, arguments: Any, call: Call) -> ToolResult:
        return await self._elicited(call, form("Please select", ENUMS, []), "Completed")

    def missing_capability(self, arguments: Any, call: Call) -> ToolResult:
        call.require("sampling")
        return text_result("Success")

    def change_tools(self, arguments: Any, call: Call) -> ToolResult:
        self._changes += 1
        name = f"test_dynamic_{self._changes}"
        self.server.add_tool(Tool(name, "Was added later.", NOTHING, self.echo))
        self.server.tools_changed()
        return text_result("Mutation triggered")

    def change_prompts(self, arguments: Any, call: Call) -> ToolResult:
        self._changes += 1
        self.server.add_prompt(
            Prompt(f"test_dynamic_{self._changes}", lambda a, c: [], "Was added later.")
        )
        self.server.prompts_changed()
        return text_result("Mutation triggered")

    # --- tools that have to know more ------------------------------------------------

    def need_name(self, arguments: Any, call: Call) -> ToolResult | InputRequired:
        name = given(call, "user_name", "name")
        if not isinstance(name, str):
            return InputRequired({"user_name": elicit("What is your name?", name="string")})
        return text_result(f"Hello, {name}!")

    def need_words(self, arguments: Any, call: Call) -> ToolResult | InputRequired:
        answer = call.input_responses.get("sample_request")
        if answer is None:
            return InputRequired({"sample_request": sample("What is the capital of France?", 100)})
        return text_result(f"Sampling result: {answer['content']['text']}")

    def need_roots(self, arguments: Any, call: Call) -> ToolResult | InputRequired:
        answer = call.input_responses.get("roots_request")
        if answer is None:
            return InputRequired({"roots_request": ROOTS})
        return text_result(f"Found {len(answer['roots'])} root(s)")

    def need_confirmation(self, arguments: Any, call: Call) -> ToolResult | InputRequired:
        if call.request_state == "request-state" and given(call, "confirm", "ok") is True:
            return text_result("state-ok: requestState validated")
        return InputRequired({"confirm": elicit("Please confirm", ok="boolean")}, "request-state")

    def need_much(self, arguments: Any, call: Call) -> ToolResult | InputRequired:
        wanted = {
            "user_name": elicit("What is your name?", name="string"),
            "greeting": sample("Generate a greeting", 50),
            "client_roots": ROOTS,
        }
        if call.request_state != "much" or not wanted.keys() <= call.input_responses.keys():
            return InputRequired(wanted, "much")
        name = given(call, "user_name", "name")
        greeting = given(call, "greeting", "text")
        roots = call.input_responses["client_roots"]["roots"]
        return text_result(f"Name: {name}; Greeting: {greeting}; Roots: {len(roots)}")

    def need_rounds(self, arguments: Any, call: Call) -> ToolResult | InputRequired:
        name = given(call, "step1", "name")
        if call.request_state == "1" and name:
            step = elicit("Step 2: What is your favorite color?", color="string")
            return InputRequired({"step2": step}, f"2 {name}")
        color = given(call, "step2", "color")
        if call.request_state is not None and call.request_state.startswith("2 ") and color:
            name = call.request_state[2:]
            return text_result(f"Multi-round complete for {name} who likes {color}")
        return InputRequired({"step1": elicit("Step 1: What is your name?", name="string")}, "1")

    def _signed(self, state: str) -> str:
        return f"{state} {hmac.new(self._key, state.encode(), hashlib.sha256).hexdigest()}"

    def need_signed_state(self, arguments: Any, call: Call) -> ToolResult | InputRequired:
        signed = self._signed("tamper-test")
        if call.request_state is not None:
            if not hmac.compare_digest(call.request_state.encode(), signed.encode()):
                raise McpRefused(INVALID_PARAMS, "requestState integrity check failed")
            if "confirm" in call.input_responses:
                return text_result("integrity-ok: state verified")
        return InputRequired({"confirm": elicit("Please confirm", ok="boolean")}, signed)

    def need_what_there_is(self, arguments: Any, call: Call) -> ToolResult | InputRequired:
        if call.input_responses:
            return text_result(f"capabilities-ok: received {','.join(call.input_responses)}")
        wanted = {}
        if "elicitation" in call.client:
            wanted["elicit_input"] = elicit("Elicitation input", value="string")
        if "sampling" in call.client:
            wanted["sample_input"] = sample("Sample request", 50)
        if not wanted:
            return text_result("No supported capabilities declared")
        return InputRequired(wanted, "capabilities-test")

    # --- resources and prompts -------------------------------------------------------

    def _resources(self) -> list[Resource]:
        def fixed(uri: str, name: str, data: str | bytes, mime_type: str) -> Resource:
            return Resource(uri, name, lambda uri, call: data, "For tests.", mime_type)

        words = "This is the content of the static text resource."
        pixel = bytes.fromhex("89504e470d0a1a0a")
        return [
            fixed("test://static-text", "static-text", words, "text/plain"),
            fixed("test://static-binary", "static-binary", pixel, "image/png"),
            fixed("test://watched-resource", "watched-resource", "Watched", "text/plain"),
        ]

    def template(self, uri: str, call: Call) -> str:
        id = call.variables["id"]
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    def complete(self, name: str, beginning: str, call: Call) -> list[str]:
        return [word for word in ("paris", "park", "party") if word.startswith(beginning)]

    def _prompts(self) -> list[Prompt]:
        both = [Argument("arg1", "First", True), Argument("arg2", "Second", True)]
        uri = [Argument("resourceUri", "URI of the resource to embed", True)]
        return [
            Prompt("test_simple_prompt", self.simple_prompt, "A simple prompt."),
            Prompt(
                "test_prompt_with_arguments",
                self.prompt_with_arguments,
                "A prompt with required arguments.",
                both,
                complete=self.complete,
            ),
            Prompt("test_prompt_with_embedded_resource", self.prompt_with_resource, "Embeds.", uri),
            Prompt("test_prompt_with_image", self.prompt_with_image, "Shows an image."),
            Prompt("test_input_required_result_prompt", self.prompt_that_asks, "Asks."),
        ]

    def simple_prompt(self, arguments: Mapping[str, str], call: Call) -> list[Any]:
        return [user(text("This is a simple prompt for testing."))]

    def prompt_with_arguments(self, arguments: Mapping[str, str], call: Call) -> list[Any]:
        first, second = arguments["arg1"], arguments["arg2"]
        return [user(text(f"Prompt with arguments: arg1='{first}', arg2='{second}'"))]

    def prompt_with_resource(self, arguments: Mapping[str, str], call: Call) -> list[Any]:
        contents = {
            "uri": arguments["resourceUri"],
            "mimeType": "text/plain",
            "text": "Embedded resource content for testing.",
        }
        return [
            user({"type": "resource", "resource": contents}),
            user(text("Please process the embedded resource above.")),
        ]

    def prompt_with_image(self, arguments: Mapping[str, str], call: Call) -> list[Any]:
        return [
            user({"type": "image", "data": IMAGE, "mimeType": "image/png"}),
            user(text("Please analyze the image above.")),
        ]

    def prompt_that_asks(self, arguments: Mapping[str, str], call: Call) -> Any:
        context = given(call, "user_context", "context")
        if context is None:
            question = elicit("What context should the prompt use?", context="string")
            return InputRequired({"user_context": question})
        return [user(text(f"Prompt with context: {context}"))]


def main() -> None:
    from twisted.internet import task

    from meshkit.web.mcp.stdio import serve_stdio

    def serve(reactor: Any) -> Deferred[None]:
        # What anybody prints by mistake must not be taken for a message.
        over = serve_stdio(reactor, Fixture(reactor).server)
        print("this is no message")
        return over

    task.react(serve)


if __name__ == "__main__":
    main()
