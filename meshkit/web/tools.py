"""
The operations of a node as the tools of an MCP server.

The tool of an operation has its name, and takes the fields of its request side by side;
some clients wrap them as C{{"params": {...}}}, which is taken as well.  It answers, as text
and as structured content alike::

    {"data": ..., "metadata": {...}}                    exactly as REST
    {"notice": ..., "data": ..., "end_of_data": ...}    what peers wrote (L{untrusted})
    {"error": {"code": ..., "message": ...}}            the text is "message [CODE]"

 - A stream answers with what came, see L{meshkit.web.tails}.
 - An L{Alias} is the tool of another program on the same operations: one text.
 - An answer that no context has room for is refused, and the refusal says how much to ask
   for.

All calls go through the L{Dispatcher}: what a token may not do, no tool does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any, Final

import msgspec
from twisted.internet.interfaces import IReactorTime

from meshkit.aliases import Alias, Way
from meshkit.errors import AnswerTooLarge, InvalidRequest, MeshkitError
from meshkit.operations import Advised, BoundOperation, Operation, Page
from meshkit.web import untrusted
from meshkit.web.answers import encode_advised, encode_answer, encode_page, fault, forget_frames
from meshkit.web.callers import Caller
from meshkit.web.dispatch import Dispatcher
from meshkit.web.mcp.catalogue import Tool, ToolResult
from meshkit.web.mcp.server import Server
from meshkit.web.profiles import Profiles
from meshkit.web.requests import RequestReader, reader_of
from meshkit.web.schemas import answer_schema, input_schema
from meshkit.web.tails import Place, Tails

#: How the L{Dispatcher}'s counters call this door.
DOOR: Final = "mcp"

#: Bytes of an answer that is a list: it can be asked for in smaller pieces.
MAX_LIST: Final = 256 * 1024
#: Bytes of any other answer.
MAX_ANSWER: Final = 2 * 1024 * 1024

_WRAPPER: Final = "params"
_STATUS: Final = "node_status"


class _Good(msgspec.Struct):
    """What REST answers with, taken apart."""

    data: msgspec.Raw = msgspec.Raw(b"null")
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class NodeTools:
    """Puts the tools of a node on a server, once."""

    def __init__(
        self,
        server: Server,
        operations: Dispatcher,
        profiles: Profiles,
        *,
        clock: IReactorTime,
        rng: Random,
        default: str,
        live: Callable[[], str],
    ) -> None:
        """
        @param clock: for streams.
        @param rng: for marks.
        @param default: the profile of those who ask for none.
        @param live: what an agent should do now; stands in the description of the status.
        @raise InvalidRequest: if C{default} is no profile that holds tools.
        @raise ValueError: if an operation or alias cannot be a tool; it begins with its
            name.
        """
        self._operations = operations
        self._profiles = profiles
        self._rng = rng
        self._default = profiles.check(default)
        self._live = live
        self._tails = Tails(clock, MAX_LIST)
        for bound in operations:
            if not bound.operation.raw:
                server.add_tool(self._tool(bound))
        for alias in profiles.aliases:
            server.add_tool(self._alias_tool(alias))

    # --- our own names -------------------------------------------------------------------

    def _tool(self, bound: BoundOperation) -> Tool:
        operation = bound.operation
        reader = self._operations.reader(operation.name)
        fields = reader.attributes
        if operation.stream:
            self._tails.check(operation)

        async def handle(_arguments: Any, call: Any) -> ToolResult:
            try:
                with self._operations.judging(bound, call.caller, DOOR):
                    self._operations.permit(bound, call.caller)
                    arguments = unwrapped(call.arguments_text, fields)
                    if not operation.stream:
                        request = reader.from_arguments(arguments)
                if operation.stream:
                    good = await self._tail(bound, reader, arguments, call)
                else:
                    answer = await self._operations.run(bound, request, call.caller, DOOR)
                    good = _good(operation, answer)
                members, text = self._members(operation, good)
                return ToolResult([_block(text)], members)
            except MeshkitError as e:
                return refusal(e, operation.untrusted or operation.open_world)

        return Tool(
            operation.name,
            self._description(operation.doc, [operation], operation.untrusted),
            _input_schema(operation),
            handle,
            output_schema=_answer_schema(operation),
            annotations=hints([operation]),
            shown=lambda caller, view: self._shows(view, None) and caller.may(operation),
            validate=_judged_by_the_reader,
        )

    async def _tail(
        self, bound: BoundOperation, reader: RequestReader, arguments: bytes, call: Any
    ) -> _Good:
        with self._operations.judging(bound, call.caller, DOOR):
            ends, rest = self._tails.read(arguments)
            request = reader.from_arguments(rest)
        with self._tails.room():
            items = await self._operations.run(bound, request, call.caller, DOOR)
            place = Place.of(bound.operation, request)
            data, metadata = await self._tails.collect(items, ends, call.progress, place)
        return _Good(msgspec.Raw(msgspec.json.encode(data)), msgspec.Raw(metadata))

    async def read(self, bound: BoundOperation, ask: Callable[[], Any], call: Any) -> str:
        """
        Have an operation answered for a resource.

        @param ask: makes the request.
        @return: the text that its tool would answer with.
        @raise MeshkitError: why there is none.
        """
        self._operations.permit(bound, call.caller)
        answer = await self._operations.run(bound, ask(), call.caller, DOOR)
        _, text = self._members(bound.operation, _good(bound.operation, answer))
        return text

    def _members(self, operation: Operation, good: _Good) -> tuple[dict[str, Any], str]:
        """An answer as a tool gives it, for programs and as text."""
        check_size(operation, good.data)
        members: dict[str, Any] = {"data": good.data}
        if good.metadata is not msgspec.UNSET:
            members["metadata"] = good.metadata
        if not operation.untrusted:
            return members, msgspec.json.encode(members).decode("utf-8")
        members = untrusted.marked(members, self._rng)
        return members, untrusted.visible(msgspec.json.encode(members)).decode("utf-8")

    # --- other programs' names -------------------------------------------------------------

    def _alias_tool(self, alias: Alias) -> Tool:
        # Arguments are read, and described, as the request of an operation is.
        form = Operation(alias.name, "POST", "/alias", alias.arguments, Any, alias.doc)
        reader = reader_of(form)
        attributes = reader.attributes
        concerned = [self._operations.find(name).operation for name in alias.operations]
        holds = not alias.own_words and any(operation.untrusted for operation in concerned)
        quotes = any(operation.untrusted or operation.open_world for operation in concerned)

        async def handle(_arguments: Any, call: Any) -> ToolResult:
            try:
                given = reader.from_arguments(unwrapped(call.arguments_text, attributes))
                values = {
                    name: value
                    for name, attribute in attributes.items()
                    if (value := getattr(given, attribute)) is not msgspec.UNSET
                }
                data = await self._go(_way(alias, values), values, call.caller)
                if alias.answer is not None:
                    data = msgspec.Raw(
                        msgspec.json.encode(alias.answer(msgspec.json.decode(data), given))
                    )
                return _plain(data, holds)
            except MeshkitError as e:
                return refusal(e, quotes, structured=False)

        return Tool(
            alias.name,
            self._description(alias.doc, concerned, holds),
            _input_schema(form),
            handle,
            annotations=hints(concerned),
            shown=lambda caller, view: (
                self._shows(view, alias) and all(caller.may(each) for each in concerned)
            ),
            validate=_judged_by_the_reader,
        )

    async def _go(self, way: Way, values: Mapping[str, Any], caller: Caller) -> msgspec.Raw:
        bound = self._operations.find(way.operation)
        self._operations.permit(bound, caller)
        fields = {field: values[name] for name, field in way.fields.items() if name in values}
        text = msgspec.json.encode({**way.fixed, **fields})
        try:
            request = self._operations.reader(way.operation).from_arguments(text)
        except InvalidRequest as e:
            raise _renamed(e, way) from None
        answer = await self._operations.run(bound, request, caller, DOOR)
        good = _good(bound.operation, answer)
        check_size(bound.operation, good.data)
        return good.data

    # --- what is shown of both --------------------------------------------------------------

    def _shows(self, view: str | None, alias: Alias | None) -> bool:
        return self._profiles.shows(self._default if view is None else view, alias)

    def _description(
        self, doc: str, concerned: Sequence[Operation], holds: bool
    ) -> str | Callable[[], str]:
        text = f"{doc}  {untrusted.WARNING}" if holds else doc
        if any(operation.name == _STATUS for operation in concerned):
            return lambda: f"{text}\n\n{self._live()}"
        return text


# Made once for all the nodes of a process, as they are most of what making a door costs.
# Nobody changes them.
_input_schema: Final = lru_cache(maxsize=512)(input_schema)
_answer_schema: Final = lru_cache(maxsize=512)(answer_schema)


def hints(operations: Sequence[Operation]) -> dict[str, bool]:
    """
    @return: the hints of MCP for a tool that may use any of some operations.  All four are
        given, as what is left out counts as the worst.
    """
    reads = all(operation.permission == "read" for operation in operations)
    return {
        "readOnlyHint": reads,
        "destructiveHint": any(operation.destructive for operation in operations),
        "idempotentHint": reads or all(operation.idempotent for operation in operations),
        "openWorldHint": any(operation.open_world for operation in operations),
    }


def unwrapped(arguments: bytes, fields: Collection[str]) -> bytes:
    """
    @param arguments: the JSON text of a tool's arguments; may be empty.
    @param fields: the names that the tool knows.
    @return: the text of the object that holds them, which some clients send as the only
        member C{params} of another.
    """
    if not arguments:
        return b"{}"
    if _WRAPPER in fields or b'"params"' not in arguments:
        return arguments
    try:
        members = msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # What is wrong with it is the reader's to say.
        return arguments
    inner = bytes(members.get(_WRAPPER, b""))
    return inner if len(members) == 1 and inner.startswith(b"{") else arguments


def refusal(error: MeshkitError, quotes: bool = False, *, structured: bool = True) -> ToolResult:
    """
    @param error: its frames are L{forgotten <meshkit.web.answers.forget_frames>}.
    @param quotes: the message may quote what peers sent.
    @return: what a tool answers that could not do it.
    """
    forget_frames(error)
    said = msgspec.to_builtins(fault(error))
    content = [_block(f"{said['message']} [{error.code}]")]
    if quotes:
        content.append(_block(untrusted.NOTICE_AFTER))
    return ToolResult(content, {"error": said} if structured else None, is_error=True)


def check_size(operation: Operation, data: msgspec.Raw) -> None:
    """@raise AnswerTooLarge: if an answer is more than a tool gives."""
    size = len(bytes(data))
    if operation.paged and size > MAX_LIST:
        fitting = _fitting(data)
        # One alone has to be given, or nobody could ever read it.
        if fitting:
            raise AnswerTooLarge(
                f"the answer has {size} bytes, and that of a tool at most {MAX_LIST}: ask again "
                f"with a limit of {fitting}"
            )
    if size > MAX_ANSWER:
        raise AnswerTooLarge(
            f"the answer has {size} bytes, and that of a tool at most {MAX_ANSWER}: ask for less "
            f"of it, or through the HTTP door"
        )


def _fitting(items: msgspec.Raw) -> int:
    """How many items of a list are no more than a tool gives; 0 if there is one alone."""
    sizes = [len(bytes(item)) for item in msgspec.json.decode(items, type=list[msgspec.Raw])]
    if len(sizes) == 1:
        return 0
    # Beside each stands a comma, and a bracket before the first.
    room, fitting = MAX_LIST - 1, 0
    for size in sizes:
        room -= size + 1
        if room < 0:
            break
        fitting += 1
    return max(fitting, 1)


def _good(operation: Operation, answer: Any) -> _Good:
    """The same bytes as REST's, so that nothing can differ."""
    if operation.success == 204:
        return _Good()
    if isinstance(answer, Advised):
        text = encode_advised(answer)
    elif not operation.paged:
        text = encode_answer(answer)
    elif isinstance(answer, Page):
        text = encode_page(answer)
    else:
        raise TypeError(f"{operation.name} is paged, but answered with {type(answer).__name__}")
    return msgspec.json.decode(text, type=_Good)


def _plain(data: msgspec.Raw, holds: bool) -> ToolResult:
    text = msgspec.json.format(data, indent=2)
    if not holds:
        return ToolResult([_block(text.decode("utf-8"))])
    # Behind the data, so that this stays the JSON it has to be.  Nothing comes after it.
    shown = untrusted.visible(text).decode("utf-8")
    return ToolResult([_block(shown), _block(untrusted.NOTICE_AFTER)])


def _block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _way(alias: Alias, values: Mapping[str, Any]) -> Way:
    return next(way for way in alias.ways if way.given is None or way.given in values)


def _renamed(error: InvalidRequest, way: Way) -> InvalidRequest:
    """The same error, that speaks of the alias's argument."""
    field = None if error.details is None else str(error.details["field"])
    for argument, name in way.fields.items():
        if name == field:
            said = str(error)
            return InvalidRequest(
                argument + said.removeprefix(name) if said.startswith(name) else said,
                field=argument,
            )
    return error


def _judged_by_the_reader(_arguments: Any) -> None:
    """It names the field, and answers where the model sees it."""
    return None
