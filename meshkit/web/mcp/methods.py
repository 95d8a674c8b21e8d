"""
The methods of MCP: what a request of either generation is answered with.

A method gives its result, or begins a L{Call} of the session, which answers later.  The two
tables at the end say which generation has which.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred

from meshkit.errors import McpRefused, MeshkitError, NotReady
from meshkit.web.answers import fault
from meshkit.web.mcp import wire
from meshkit.web.mcp.calls import Call, Outlet
from meshkit.web.mcp.catalogue import (
    Contents,
    InputRequired,
    Resource,
    ResourceTemplate,
    Tool,
    ToolResult,
    block,
    text_result,
)
from meshkit.web.mcp.changes import LISTENED
from meshkit.web.mcp.limits import Limits
from meshkit.web.mcp.mirrors import check_mirrors
from meshkit.web.mcp.offers import Offers, Shelf
from meshkit.web.mcp.sessions import Session

#: What completion gives at most (specification, server/utilities/completion).
MAX_COMPLETIONS: Final = 100

#: What makes the instructions, of caller and view.
Instructions = str | Callable[[Any, Any], str]

_Method = Callable[["Methods", Session, wire.Request, Outlet, wire.Envelope | None], Any]


class Methods:
    """Those of one server."""

    def __init__(
        self,
        offers: Offers,
        limits: Limits,
        identity: Mapping[str, Any],
        instructions: Instructions,
        logs: bool,
    ) -> None:
        """
        @param offers: what there is now, whenever somebody asks.
        @param identity: what every stateless result says of the server.
        @param instructions: for the model, or what makes them of caller and view.
        @param logs: clients may say what they want to be told of.
        """
        self._offers = offers
        self._limits = limits
        self._identity = identity
        self._instructions = instructions
        self._logs = logs

    def serve(self, session: Session, request: wire.Request, outlet: Outlet) -> None:
        """Serve a request of the handshake generation.  @raise McpRefused: if it is refused."""
        method = _HANDSHAKE.get(request.method)
        if method is None or not self._has(request.method):
            raise _no_such_method(request.method)
        if session.version is None and request.method not in ("initialize", "ping"):
            raise McpRefused(wire.INVALID_REQUEST, "the first request has to be initialize")
        result = method(self, session, request, outlet, None)
        if result is not None:
            outlet.finish(wire.answer(request.id, result), 0)

    def serve_stateless(
        self, session: Session, request: wire.Request, envelope: wire.Envelope, outlet: Outlet
    ) -> None:
        """Serve a request of the stateless generation.  @raise McpRefused: if it is refused."""
        method = _STATELESS.get(request.method)
        if method is None or not self._has(request.method):
            raise _no_such_method(request.method)
        result = method(self, session, request, outlet, envelope)
        if result is not None:
            outlet.finish(wire.answer(request.id, self._complete(result)), 0)

    def _complete(self, result: dict[str, Any]) -> dict[str, Any]:
        """What every stateless result has beside its own."""
        return {"resultType": "complete", "_meta": self._identity} | result

    def _has(self, method: str) -> bool:
        """Is the capability declared that a method belongs to?"""
        group = method.partition("/")[0]
        if group == "resources":
            return self._offers.has_resources
        if group == "prompts":
            return len(self._offers.prompts) > 0
        if group == "completion":
            return self._offers.has_completions
        if group == "logging":
            return self._logs
        return True

    def _capabilities(self) -> dict[str, Any]:
        found: dict[str, Any] = {"tools": {"listChanged": True}}
        if self._offers.has_resources:
            found["resources"] = {"subscribe": True, "listChanged": True}
        if len(self._offers.prompts):
            found["prompts"] = {"listChanged": True}
        if self._offers.has_completions:
            found["completions"] = {}
        if self._logs:
            found["logging"] = {}
        return found

    def _said(self, session: Session) -> dict[str, Any]:
        said = self._instructions
        text = said if isinstance(said, str) else said(session.caller, session.view)
        return {"instructions": text} if text else {}

    def _initialize(self, session: Session, request: wire.Request, *_: Any) -> dict[str, Any]:
        params = request.params
        if session.version is not None:
            raise McpRefused(wire.INVALID_REQUEST, "this session is initialized already")
        size = sum(len(params.raw(name) or b"") for name in ("capabilities", "clientInfo"))
        if size > self._limits.introduction:
            raise McpRefused(
                wire.INVALID_PARAMS,
                f"capabilities and clientInfo can have {self._limits.introduction} bytes",
            )
        wanted = params.text("protocolVersion")
        capabilities = params.mapping("capabilities")
        about = params.mapping("clientInfo")
        version = wanted if wanted in wire.HANDSHAKE_VERSIONS else wire.NEWEST_HANDSHAKE
        session.open(version, capabilities, f"{about.get('name', '')} {about.get('version', '')}")
        return {
            "protocolVersion": version,
            "capabilities": self._capabilities(),
            "serverInfo": self._identity[wire.META_SERVER],
        } | self._said(session)

    def _discover(self, session: Session, *_: Any) -> dict[str, Any]:
        return {
            "supportedVersions": list(wire.STATELESS_VERSIONS),
            "capabilities": self._capabilities(),
            "ttlMs": 0,
            "cacheScope": "private",
        } | self._said(session)

    def _ping(self, *_: Any) -> dict[str, Any]:
        return {}

    def _set_level(self, session: Session, request: wire.Request, *_: Any) -> dict[str, Any]:
        session.log_level = wire.check_level(request.params.text("level"))
        return {}

    def _list(
        self, shelf: Shelf, key: str, session: Session, request: wire.Request, envelope: Any
    ) -> dict[str, Any]:
        cursor = request.params.optional_text("cursor")
        entries, more = shelf.page(cursor, self._limits.page, session.caller, session.view)
        result: dict[str, Any] = {key: entries}
        if more is not None:
            result["nextCursor"] = more
        if envelope is not None:
            # What is offered depends on who asks, and changes without notice to caches.
            result |= {"ttlMs": 0, "cacheScope": "private"}
        return result

    def _tools_list(
        self, session: Session, request: wire.Request, outlet: Outlet, envelope: Any
    ) -> dict[str, Any]:
        return self._list(self._offers.tools, "tools", session, request, envelope)

    def _resources_list(
        self, session: Session, request: wire.Request, outlet: Outlet, envelope: Any
    ) -> dict[str, Any]:
        return self._list(self._offers.resources, "resources", session, request, envelope)

    def _templates_list(
        self, session: Session, request: wire.Request, outlet: Outlet, envelope: Any
    ) -> dict[str, Any]:
        return self._list(self._offers.templates, "resourceTemplates", session, request, envelope)

    def _prompts_list(
        self, session: Session, request: wire.Request, outlet: Outlet, envelope: Any
    ) -> dict[str, Any]:
        return self._list(self._offers.prompts, "prompts", session, request, envelope)

    # --- calls -----------------------------------------------------------------------

    def _start(
        self,
        session: Session,
        request: wire.Request,
        outlet: Outlet,
        envelope: wire.Envelope | None,
        work: Callable[[Call], Coroutine[Deferred[Any], Any, dict[str, Any]]],
    ) -> None:
        call = session.begin(request, outlet, envelope)
        session.run(call, Deferred.fromCoroutine(work(call)))

    def _tools_call(
        self,
        session: Session,
        request: wire.Request,
        outlet: Outlet,
        envelope: wire.Envelope | None,
    ) -> None:
        name = request.params.text("name")
        tool = self._offers.tools.find(name, session.caller, session.view)
        if tool is None:
            raise McpRefused(wire.INVALID_PARAMS, f"there is no tool {name[:128]!r}")
        text = request.params.raw("arguments")
        if text is None or text == b"null":
            text = b"{}"
        arguments: Any = _decode_object(text, "arguments")
        if name in self._offers.mirrors and envelope is not None and envelope.headers is not None:
            check_mirrors(self._offers.mirrors[name], arguments, envelope.headers.values)

        async def work(call: Call) -> dict[str, Any]:
            call.arguments_text = text
            wrong = self._offers.validators[name](arguments)
            if wrong is not None:
                # For the model, which can mend it (SEP-1303), and not for the program.
                said = text_result(f"the arguments of {name} are not right: {wrong}", None, True)
                return self._tool_result(tool, said, call)
            try:
                answer = await self._with_input(
                    call, request, lambda: tool.handler(arguments, call)
                )
            except McpRefused:
                raise
            except MeshkitError as e:
                shown = msgspec.to_builtins(fault(e))
                answer = text_result(f"{shown['message']} [{e.code}]", {"error": shown}, True)
            except CancelledError:
                # By what the handler uses; if it was the client, nobody reads this.
                error = msgspec.to_builtins(fault(NotReady("the call was cancelled: try again")))
                answer = text_result(error["message"], {"error": error}, True)
            return self._tool_result(tool, answer, call)

        self._start(session, request, outlet, envelope, work)

    def _tool_result(self, tool: Tool, answer: Any, call: Call) -> dict[str, Any]:
        if isinstance(answer, InputRequired):
            return self._input_required(answer, call)
        if not isinstance(answer, ToolResult):
            raise TypeError(f"{tool.name} has to give a ToolResult, not {type(answer).__name__}")
        # Clients that are older than its default want to see it.
        result: dict[str, Any] = {"content": answer.content, "isError": answer.is_error}
        if answer.structured is not None:
            result["structuredContent"] = answer.structured
        elif tool.output_schema is not None and not answer.is_error:
            raise TypeError(f"{tool.name} declares an output schema, and gave nothing structured")
        return self._complete(result) if call.stateless else result

    async def _with_input(
        self, call: Call, request: wire.Request, function: Callable[[], Any]
    ) -> Any:
        """Call a function, again and again if it wants to know more."""
        params = request.params
        if call.stateless:
            if "inputResponses" in params:
                call.input_responses = params.mapping("inputResponses")
            call.request_state = params.optional_text("requestState")
            return await _result_of(function)
        for _ in range(self._limits.rounds):
            answer = await _result_of(function)
            if not isinstance(answer, InputRequired):
                return answer
            responses = {}
            for name, asked in answer.requests.items():
                responses[name] = await call.ask(asked["method"], asked.get("params", {}))
            call.input_responses = responses
            call.request_state = answer.state
        raise McpRefused(
            wire.BUSY, f"the call has asked for more input {self._limits.rounds} times"
        )

    def _input_required(self, answer: InputRequired, call: Call) -> dict[str, Any]:
        for asked in answer.requests.values():
            call.require_for(asked["method"])
        result: dict[str, Any] = {"resultType": "input_required", "_meta": self._identity}
        if answer.requests:
            result["inputRequests"] = answer.requests
        if answer.state is not None:
            result["requestState"] = answer.state
        return result

    def _find_resource(
        self, uri: str, session: Session, stateless: bool
    ) -> tuple[Resource | ResourceTemplate, dict[str, str]]:
        found: Resource | None = self._offers.resources.find(uri, session.caller, session.view)
        if found is not None:
            return found, {}
        for template in self._offers.templates:
            variables = template.match(uri)
            if variables is not None and template.shown(session.caller, session.view):
                return template, variables
        # The code of its own went out of use with the handshake (SEP-2164).
        code = wire.INVALID_PARAMS if stateless else wire.RESOURCE_NOT_FOUND
        raise McpRefused(code, f"there is no resource {uri[:300]!r}", {"uri": uri})

    def _resources_read(
        self,
        session: Session,
        request: wire.Request,
        outlet: Outlet,
        envelope: wire.Envelope | None,
    ) -> None:
        uri = request.params.text("uri")
        resource, variables = self._find_resource(uri, session, envelope is not None)

        async def work(call: Call) -> dict[str, Any]:
            call.variables = variables
            got = await _for_a_program(resource.read, uri, call)
            if isinstance(got, str | bytes):
                got = [Contents(got)]
            contents = [
                block(each.data, each.uri or uri, each.mime_type or resource.mime_type)
                for each in got
            ]
            result: dict[str, Any] = {"contents": contents}
            if not call.stateless:
                return result
            return self._complete(result | {"ttlMs": 0, "cacheScope": "private"})

        self._start(session, request, outlet, envelope, work)

    def _subscribe(self, session: Session, request: wire.Request, *_: Any) -> dict[str, Any]:
        uri = self._checked_uri(request.params.text("uri"))
        self._find_resource(uri, session, False)
        session.subscribe(uri)
        return {}

    def _unsubscribe(self, session: Session, request: wire.Request, *_: Any) -> dict[str, Any]:
        session.unsubscribe(request.params.text("uri"))
        return {}

    def _checked_uri(self, uri: str) -> str:
        if len(uri) > self._limits.uri:
            raise McpRefused(wire.INVALID_PARAMS, f"a URI can have {self._limits.uri} characters")
        return uri

    def _listen(
        self, session: Session, request: wire.Request, outlet: Outlet, envelope: Any
    ) -> None:
        wanted = request.params.mapping("notifications")
        lists = {key: subject for key, subject in LISTENED.items() if wanted.get(key) is True}
        uris = wanted.get("resourceSubscriptions", [])
        if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
            raise McpRefused(
                wire.INVALID_PARAMS, "params.notifications.resourceSubscriptions has to be URIs"
            )
        limit = self._limits.subscriptions
        if len(uris) > limit:
            raise McpRefused(wire.INVALID_PARAMS, f"a client can subscribe to {limit} resources")
        for uri in uris:
            self._checked_uri(uri)
        session.listen(request, outlet, lists, uris)

    def _prompts_get(
        self,
        session: Session,
        request: wire.Request,
        outlet: Outlet,
        envelope: wire.Envelope | None,
    ) -> None:
        name = request.params.text("name")
        prompt = self._offers.prompts.find(name, session.caller, session.view)
        if prompt is None:
            raise McpRefused(wire.INVALID_PARAMS, f"there is no prompt {name[:128]!r}")
        given = request.params.mapping("arguments") if "arguments" in request.params else {}
        arguments = prompt.check(given)

        async def work(call: Call) -> dict[str, Any]:
            answer = await self._with_input(
                call, request, lambda: _for_a_program(prompt.get, arguments, call)
            )
            if isinstance(answer, InputRequired):
                return self._input_required(answer, call)
            result: dict[str, Any] = {"messages": answer}
            if prompt.description:
                result["description"] = prompt.description
            return self._complete(result) if call.stateless else result

        self._start(session, request, outlet, envelope, work)

    def _complete_argument(
        self,
        session: Session,
        request: wire.Request,
        outlet: Outlet,
        envelope: wire.Envelope | None,
    ) -> None:
        reference = request.params.mapping("ref")
        argument = request.params.mapping("argument")
        thing = self._completed(reference, session)
        name, value = argument.get("name"), argument.get("value")
        if not isinstance(name, str) or not isinstance(value, str):
            raise McpRefused(
                wire.INVALID_PARAMS, "params.argument has to have a name and a value, as strings"
            )

        async def work(call: Call) -> dict[str, Any]:
            values: Sequence[str] = []
            if thing.complete is not None:
                values = await _for_a_program(thing.complete, name, value, call)
            shown = list(values[:MAX_COMPLETIONS])
            completion = {
                "values": shown,
                "total": len(values),
                "hasMore": len(values) > len(shown),
            }
            result: dict[str, Any] = {"completion": completion}
            return self._complete(result) if call.stateless else result

        self._start(session, request, outlet, envelope, work)

    def _completed(self, reference: Mapping[str, Any], session: Session) -> Any:
        kind = reference.get("type")
        shelf, key = {
            "ref/prompt": (self._offers.prompts, "name"),
            "ref/resource": (self._offers.templates, "uri"),
        }.get(str(kind), (None, ""))
        name = reference.get(key)
        thing = None
        if shelf is not None and isinstance(name, str):
            thing = shelf.find(name, session.caller, session.view)
        if thing is None:
            raise McpRefused(
                wire.INVALID_PARAMS,
                "params.ref has to name a prompt, or the template of a resource",
            )
        return thing


async def _result_of(function: Callable[[], Any]) -> Any:
    answer = function()
    if inspect.isawaitable(answer):
        return await answer
    return answer


async def _for_a_program(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what has no way to tell a model that it failed: the program is told."""
    try:
        return await _result_of(lambda: function(*arguments))
    except McpRefused:
        raise
    except MeshkitError as e:
        raise McpRefused(wire.INTERNAL_ERROR, str(e), msgspec.to_builtins(fault(e))) from None
    except CancelledError:
        raise McpRefused(wire.INTERNAL_ERROR, "the call was cancelled: try again") from None


def _decode_object(text: bytes, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise McpRefused(wire.INVALID_PARAMS, f"params.{name} has to be an object") from None
    return found


def _no_such_method(name: str) -> McpRefused:
    return McpRefused(wire.METHOD_NOT_FOUND, f"there is no method {name[:128]!r} here")


_BOTH: Final[dict[str, _Method]] = {
    "tools/list": Methods._tools_list,
    "tools/call": Methods._tools_call,
    "resources/list": Methods._resources_list,
    "resources/templates/list": Methods._templates_list,
    "resources/read": Methods._resources_read,
    "prompts/list": Methods._prompts_list,
    "prompts/get": Methods._prompts_get,
    "completion/complete": Methods._complete_argument,
}

_HANDSHAKE: Final[dict[str, _Method]] = _BOTH | {
    "initialize": Methods._initialize,
    "ping": Methods._ping,
    "logging/setLevel": Methods._set_level,
    "resources/subscribe": Methods._subscribe,
    "resources/unsubscribe": Methods._unsubscribe,
}

_STATELESS: Final[dict[str, _Method]] = _BOTH | {
    "server/discover": Methods._discover,
    "subscriptions/listen": Methods._listen,
}
