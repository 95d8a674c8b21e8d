"""
An MCP server without a transport: what it offers, who is there, and the methods.

A L{Server} is fed through the L{Session}s that a binding makes: L{McpResource
<meshkit.web.mcp.http.McpResource>} over HTTP, L{LineProtocol
<meshkit.web.mcp.lines.LineProtocol>} over anything that carries lines, L{connect
<meshkit.web.mcp.memory.connect>} in memory.  All of them serve the same tools to both
generations of clients, at the same time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from meshkit.errors import McpRefused, MeshkitError, NotReady
from meshkit.web.answers import fault
from meshkit.web.mcp import wire
from meshkit.web.mcp.calls import Call, Outlet
from meshkit.web.mcp.catalogue import (
    Contents,
    InputRequired,
    Prompt,
    Resource,
    ResourceTemplate,
    Shelf,
    Tool,
    ToolResult,
    Validate,
    block,
    schema_validator,
    text_result,
)
from meshkit.web.mcp.changes import LISTENED, PROMPTS, RESOURCES, TOOLS, Announcer, Change
from meshkit.web.mcp.limits import Limits
from meshkit.web.mcp.mirrors import Mirror, check_mirrors, find_mirrors
from meshkit.web.mcp.sessions import Send, Session

#: What completion gives at most (specification, server/utilities/completion).
MAX_COMPLETIONS: Final = 100

#: Seconds in which a call is answered whose caller is not welcome any more.
RETIRE_SECONDS: Final = 5.0

_ID_BITS: Final = 256

_Method = Callable[["Server", Session, wire.Request, Outlet, wire.Envelope | None], Any]


class Server:
    """
    What is offered, and the clients it is offered to.

    A client sees a tool, resource or prompt if its C{shown} says so of the client's caller
    and view.  What is not shown is not there: it cannot be called either.
    """

    _log = Logger()

    def __init__(
        self,
        name: str,
        version: str,
        *,
        clock: IReactorTime,
        rng: Random,
        instructions: str | Callable[[Any, Any], str] = "",
        title: str | None = None,
        limits: Limits | None = None,
        logs: bool = False,
        watch: Callable[[Any, Callable[[], None]], Callable[[], None]] | None = None,
        charge: Callable[[Any], None] | None = None,
    ) -> None:
        """
        @param name: of the server, for programs.
        @param version: of the server.
        @param clock: gives the time for every deadline.
        @param rng: makes the ids of sessions, which nobody may guess: a
            C{random.SystemRandom} outside tests.
        @param instructions: for the model, when it begins; or what makes them of caller and view.
        @param title: name of the server, for people.
        @param limits: of everything a client can make grow.
        @param logs: tell clients that L{Call.log} is used.
        @param watch: called with the caller of a new session and with what ends it, to be
            called when that caller is not welcome any more; gives what to call when the
            session has ended by itself.
        @param charge: asked before each request that comes over a connection of its own, with
            the caller; may raise L{McpRefused}.  Over HTTP, whoever guards the site has
            counted the request already.
        """
        self.clock = clock
        self.limits = Limits() if limits is None else limits
        self.announcer = Announcer(clock, self.limits.quiet_seconds)
        self._rng = rng
        self._info = {"name": name, "version": version}
        if title is not None:
            self._info["title"] = title
        #: What every stateless result says of us.
        self.identity: dict[str, Any] = {wire.META_SERVER: self._info}
        self._instructions = instructions
        self._logs = logs
        self._watch = watch
        self._charge = charge
        self._tools = Shelf("tool")
        self._validators: dict[str, Validate] = {}
        self._mirrors: dict[str, tuple[Mirror, ...]] = {}
        self._resources = Shelf("resource")
        self._templates = Shelf("template")
        self._prompts = Shelf("prompt")
        # Of HTTP, by id, those that rested longest first.
        self._sessions: dict[str, Session] = {}
        self._ids: dict[Session, str] = {}
        self._timers: dict[Session, IDelayedCall] = {}
        # All that are open, whatever the binding.
        self._open: dict[Session, None] = {}
        self._unwatch: dict[Session, Callable[[], None]] = {}
        self._retiring: dict[Session, IDelayedCall] = {}
        self._calls = 0
        self._listens = 0
        self._stopped = False

    # --- what is offered -------------------------------------------------------------

    def add_tool(self, tool: Tool) -> None:
        """
        Offer a tool.  Who is there already learns of it by L{tools_changed}.

        @raise ValueError: if there is one of that name, or its schema is none.
        """
        validate = tool.validate or schema_validator(tool.input_schema)
        mirrors = find_mirrors(tool.input_schema)
        self._tools.add(tool.name, tool)
        self._validators[tool.name] = validate
        if mirrors:
            self._mirrors[tool.name] = mirrors

    def remove_tool(self, name: str) -> None:
        """@raise KeyError: if there is none of that name."""
        self._tools.remove(name)
        del self._validators[name]
        self._mirrors.pop(name, None)

    def add_resource(self, resource: Resource) -> None:
        """@raise ValueError: if there is one of that URI."""
        self._resources.add(resource.uri, resource)

    def remove_resource(self, uri: str) -> None:
        """@raise KeyError: if there is none of that URI."""
        self._resources.remove(uri)

    def add_template(self, template: ResourceTemplate) -> None:
        """@raise ValueError: if there is one of that form."""
        self._templates.add(template.uri_template, template)

    def add_prompt(self, prompt: Prompt) -> None:
        """@raise ValueError: if there is one of that name."""
        self._prompts.add(prompt.name, prompt)

    def tools_changed(self) -> None:
        """
        Say to every client that the list of tools, or what one is described by, is another
        now: at once, or at the end of L{Limits.quiet_seconds}.
        """
        self.announcer.changed(Change(TOOLS))

    def resources_changed(self) -> None:
        """The same for the lists of resources and templates."""
        self.announcer.changed(Change(RESOURCES))

    def prompts_changed(self) -> None:
        """The same for the list of prompts."""
        self.announcer.changed(Change(PROMPTS))

    def resource_updated(self, uri: str) -> None:
        """Say to those who subscribed to it that a resource has another content now."""
        self.announcer.changed(Change(uri, False))

    # --- who is there ----------------------------------------------------------------

    def session(
        self,
        send: Send | None,
        caller: Any,
        view: Any = None,
        ended: Callable[[], None] | None = None,
        room: Callable[[], bool] | None = None,
    ) -> Session:
        """
        @param send: takes each message for this client; L{None} if there is no way yet.
        @param caller: who it is; handlers get it.
        @param view: what the client chose to be shown.
        @param ended: called when the session is closed, by whomever.
        @param room: says whether there is room for what can as well be left out.
        @return: a client.  Whoever made it closes it.
        """
        session = Session(self, send, caller, view, ended, room)
        self._open[session] = None
        if self._watch is not None:
            unwatch = self._watch(caller, partial(self._retire, session))
            if session.closed:
                unwatch()
            else:
                self._unwatch[session] = unwatch
        return session

    def _retire(self, session: Session) -> None:
        """
        End a session whose caller is not welcome any more.  What is being answered may be
        what ended the welcome, such as a token that is revoked with itself.
        """
        if session.calling:
            self._retiring[session] = self.clock.callLater(RETIRE_SECONDS, session.close)
        else:
            session.close()

    def forget(self, session: Session) -> None:
        """Called by a session that is closed."""
        self._open.pop(session, None)
        unwatch = self._unwatch.pop(session, None)
        if unwatch is not None:
            unwatch()
        id = self._ids.pop(session, None)
        if id is not None:
            del self._sessions[id]
        timer = self._timers.pop(session, None)
        if timer is not None:
            timer.cancel()
        retiring = self._retiring.pop(session, None)
        if retiring is not None and retiring.active():
            retiring.cancel()

    def register(self, session: Session) -> str:
        """
        Keep a session between requests.

        @return: the id by which L{resume} finds it.
        @raise McpRefused: if there are too many, and all are at work.
        """
        self._check_going()
        if len(self._sessions) >= self.limits.sessions:
            resting = next((s for s in self._sessions.values() if not s.busy), None)
            if resting is None:
                raise McpRefused(
                    wire.BUSY, f"{self.limits.sessions} sessions are at work: try again later"
                )
            resting.close()
        id = f"{self._rng.getrandbits(_ID_BITS):064x}"
        self._sessions[id] = session
        self._ids[session] = id
        self.rested(session)
        return id

    def resume(self, id: str, caller: Any) -> Session | None:
        """
        @return: the session of that id, if it is there and is this caller's.
        """
        session = self._sessions.get(id)
        if session is None or session.caller != caller:
            return None
        # The last in the dict is the one that rested least.
        del self._sessions[id]
        self._sessions[id] = session
        self.rested(session)
        return session

    def rested(self, session: Session) -> None:
        """Called when a session has done something: from now on it is idle, or it is busy."""
        if session not in self._ids:
            return
        timer = self._timers.get(session)
        if timer is None:
            self._timers[session] = self.clock.callLater(
                self.limits.idle_seconds, self._idle, session
            )
        else:
            timer.reset(self.limits.idle_seconds)

    def _idle(self, session: Session) -> None:
        del self._timers[session]
        if session.busy:
            self.rested(session)
        else:
            session.close()

    @property
    def sessions(self) -> int:
        """How many clients are there, whatever the binding."""
        return len(self._open)

    @property
    def calls(self) -> int:
        """How many calls are under way."""
        return self._calls

    def stop(self) -> None:
        """End every stream in good order, cancel every call, close every session."""
        self._stopped = True
        self.announcer.stop()
        for session in list(self._open):
            session.close()

    def charge(self, caller: Any) -> None:
        """@raise McpRefused: if a caller is not granted another request now."""
        if self._charge is not None:
            self._charge(caller)

    def take_call(self) -> None:
        """@raise McpRefused: if too many calls are under way."""
        self._check_going()
        if self._calls >= self.limits.calls:
            raise McpRefused(
                wire.BUSY, f"{self.limits.calls} calls are under way already: try again later"
            )
        self._calls += 1

    def _check_going(self) -> None:
        if self._stopped:
            raise McpRefused(wire.BUSY, "the server is stopping")

    def give_back_call(self) -> None:
        """A call is over."""
        self._calls -= 1

    def take_listen(self) -> None:
        """@raise McpRefused: if there are too many subscriptions, or they all end now."""
        self._check_going()
        if self._listens >= self.limits.listens:
            raise McpRefused(
                wire.BUSY, f"{self.limits.listens} subscriptions are open already: try again later"
            )
        self._listens += 1

    def give_back_listen(self) -> None:
        """A subscription is over."""
        self._listens -= 1

    # --- the methods -----------------------------------------------------------------

    def read(self, text: bytes) -> wire.Message:
        """@raise wire.Malformed: if a text is no message, or is over a limit."""
        if len(text) > self.limits.message:
            raise wire.Malformed(
                wire.INVALID_REQUEST, f"a message can have {self.limits.message} bytes"
            )
        return wire.read_message(text, self.limits.nesting)

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
        return {"resultType": "complete", "_meta": self.identity} | result

    def _has(self, method: str) -> bool:
        """Is the capability declared that a method belongs to?"""
        group = method.partition("/")[0]
        if group == "resources":
            return self._has_resources
        if group == "prompts":
            return len(self._prompts) > 0
        if group == "completion":
            return self._has_completions
        if group == "logging":
            return self._logs
        return True

    @property
    def _has_resources(self) -> bool:
        return len(self._resources) + len(self._templates) > 0

    @property
    def _has_completions(self) -> bool:
        return any(
            thing.complete is not None
            for shelf in (self._prompts, self._templates)
            for thing in shelf
        )

    def _capabilities(self, stateless: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"tools": {"listChanged": True}}
        if self._has_resources:
            found["resources"] = {"subscribe": True, "listChanged": True}
        if len(self._prompts):
            found["prompts"] = {"listChanged": True}
        if self._has_completions:
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
        if size > self.limits.introduction:
            raise McpRefused(
                wire.INVALID_PARAMS,
                f"capabilities and clientInfo can have {self.limits.introduction} bytes",
            )
        wanted = params.text("protocolVersion")
        capabilities = params.mapping("capabilities")
        about = params.mapping("clientInfo")
        version = wanted if wanted in wire.HANDSHAKE_VERSIONS else wire.NEWEST_HANDSHAKE
        session.open(version, capabilities, f"{about.get('name', '')} {about.get('version', '')}")
        return {
            "protocolVersion": version,
            "capabilities": self._capabilities(False),
            "serverInfo": self._info,
        } | self._said(session)

    def _discover(self, session: Session, *_: Any) -> dict[str, Any]:
        return {
            "supportedVersions": list(wire.STATELESS_VERSIONS),
            "capabilities": self._capabilities(True),
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
        entries, more = shelf.page(cursor, self.limits.page, session.caller, session.view)
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
        return self._list(self._tools, "tools", session, request, envelope)

    def _resources_list(
        self, session: Session, request: wire.Request, outlet: Outlet, envelope: Any
    ) -> dict[str, Any]:
        return self._list(self._resources, "resources", session, request, envelope)

    def _templates_list(
        self, session: Session, request: wire.Request, outlet: Outlet, envelope: Any
    ) -> dict[str, Any]:
        return self._list(self._templates, "resourceTemplates", session, request, envelope)

    def _prompts_list(
        self, session: Session, request: wire.Request, outlet: Outlet, envelope: Any
    ) -> dict[str, Any]:
        return self._list(self._prompts, "prompts", session, request, envelope)

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
        tool = self._tools.find(name, session.caller, session.view)
        if tool is None:
            raise McpRefused(wire.INVALID_PARAMS, f"there is no tool {name[:128]!r}")
        text = request.params.raw("arguments")
        if text is None or text == b"null":
            text = b"{}"
        arguments: Any = _decode_object(text, "arguments")
        if name in self._mirrors and envelope is not None and envelope.headers is not None:
            check_mirrors(self._mirrors[name], arguments, envelope.headers.values)

        async def work(call: Call) -> dict[str, Any]:
            call.arguments_text = text
            wrong = self._validators[name](arguments)
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
        for _ in range(self.limits.rounds):
            answer = await _result_of(function)
            if not isinstance(answer, InputRequired):
                return answer
            responses = {}
            for name, asked in answer.requests.items():
                responses[name] = await call.ask(asked["method"], asked.get("params", {}))
            call.input_responses = responses
            call.request_state = answer.state
        raise McpRefused(wire.BUSY, f"the call has asked for more input {self.limits.rounds} times")

    def _input_required(self, answer: InputRequired, call: Call) -> dict[str, Any]:
        for asked in answer.requests.values():
            call.require_for(asked["method"])
        result: dict[str, Any] = {"resultType": "input_required", "_meta": self.identity}
        if answer.requests:
            result["inputRequests"] = answer.requests
        if answer.state is not None:
            result["requestState"] = answer.state
        return result

    def _find_resource(
        self, uri: str, session: Session, stateless: bool
    ) -> tuple[Resource | ResourceTemplate, dict[str, str]]:
        found: Resource | None = self._resources.find(uri, session.caller, session.view)
        if found is not None:
            return found, {}
        for template in self._templates:
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
        if len(uri) > self.limits.uri:
            raise McpRefused(wire.INVALID_PARAMS, f"a URI can have {self.limits.uri} characters")
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
        limit = self.limits.subscriptions
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
        prompt = self._prompts.find(name, session.caller, session.view)
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
            "ref/prompt": (self._prompts, "name"),
            "ref/resource": (self._templates, "uri"),
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
    "tools/list": Server._tools_list,
    "tools/call": Server._tools_call,
    "resources/list": Server._resources_list,
    "resources/templates/list": Server._templates_list,
    "resources/read": Server._resources_read,
    "prompts/list": Server._prompts_list,
    "prompts/get": Server._prompts_get,
    "completion/complete": Server._complete_argument,
}

_HANDSHAKE: Final[dict[str, _Method]] = _BOTH | {
    "initialize": Server._initialize,
    "ping": Server._ping,
    "logging/setLevel": Server._set_level,
    "resources/subscribe": Server._subscribe,
    "resources/unsubscribe": Server._unsubscribe,
}

_STATELESS: Final[dict[str, _Method]] = _BOTH | {
    "server/discover": Server._discover,
    "subscriptions/listen": Server._listen,
}
