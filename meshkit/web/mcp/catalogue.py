"""
What an MCP server offers: tools, resources, templates of resources, prompts.

All are declarations with a function.  A function gets what was asked and a
L{Call<meshkit.web.mcp.calls.Call>}; it may return its answer, or a Deferred or a
coroutine of it, which is cancelled when the client cancels or goes away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import msgspec
from attrs import field, frozen

from meshkit.errors import McpRefused
from meshkit.web.mcp import wire

if TYPE_CHECKING:
    from meshkit.web.mcp.calls import Call

_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_VARIABLE: Final = re.compile(r"\{(\+?)([A-Za-z0-9_]+)\}")

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_NOTES: Final = frozenset({"title", "description", "default", "examples"})
_SIMPLE: Final = _NOTES | {"$schema", "type", "properties", "required", "additionalProperties"}
_SAYS_TYPE: Final = _NOTES | {"type"}
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
}

#: Says whether something is offered to a caller with a view.
Shown = Callable[[Any, Any], bool]

#: Takes the arguments; gives what is wrong with them, or L{None}.
Validate = Callable[[Any], str | None]


def everyone(caller: Any, view: Any) -> bool:
    """Offered to everyone."""
    return True


@frozen
class ToolResult:
    """
    What a tool answers.

    @ivar content: blocks for the model to read, as MCP writes them, such as
        C{{"type": "text", "text": "..."}}.
    @ivar structured: the same for programs; what C{output_schema} describes.
    @ivar is_error: the tool could not do it, and C{content} says why.  The model sees
        it, and may try again.
    """

    content: Sequence[Mapping[str, Any]]
    structured: Any = None
    is_error: bool = False


def text_result(text: str, structured: Any = None, is_error: bool = False) -> ToolResult:
    """@return: an answer of one piece of text."""
    return ToolResult([{"type": "text", "text": text}], structured, is_error)


@frozen
class InputRequired:
    """
    What a tool or prompt answers that has to know more.

    Stateless clients call again with what they found out, in
    L{Call.input_responses<meshkit.web.mcp.calls.Call.input_responses>}.  To clients of
    the handshake generation the requests are sent, and the function is called again.

    @ivar requests: by a name of our choice, what the client is asked:
        C{{"method": "elicitation/create", "params": {...}}}.
    @ivar state: comes back with the answers, as L{Call.request_state
        <meshkit.web.mcp.calls.Call.request_state>}.  The client can read and change it: sign it
        if that matters.
    """

    requests: Mapping[str, Mapping[str, Any]]
    state: str | None = None


@frozen
class Tool:
    """
    Something a model can have done.

    @ivar name: letters, digits, C{_}, C{.} and C{-}; at most 128.
    @ivar description: for the model; a function is asked at each listing, for what
        changes (see L{Server.tools_changed<meshkit.web.mcp.server.Server.tools_changed>}).
    @ivar input_schema: JSON Schema of the arguments, of C{"type": "object"}.
    @ivar handler: C{handler(arguments, call)} gives a L{ToolResult}, or a Deferred or
        coroutine of one.  A L{MeshkitError<meshkit.errors.MeshkitError>} becomes a result
        with C{is_error}, an L{McpRefused} an error of the protocol, anything else an
        internal error that tells nothing.
    @ivar output_schema: JSON Schema of C{structured}, of C{"type": "object"}.  Then every
        good answer has to have it.
    @ivar title: its name for people.
    @ivar annotations: hints such as C{readOnlyHint}.
    @ivar shown: is it offered to this caller, with this view?  If not, it is as if it
        were not there.
    @ivar validate: what is wrong with the arguments, in place of C{input_schema}'s
        judgement: a sentence, or L{None}.
    """

    name: str
    description: str | Callable[[], str]
    input_schema: Mapping[str, Any]
    handler: Callable[[Any, Call], Any]
    output_schema: Mapping[str, Any] | None = None
    title: str | None = None
    annotations: Mapping[str, Any] | None = None
    shown: Shown = everyone
    validate: Validate | None = None

    def __attrs_post_init__(self) -> None:
        if not _TOOL_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot be the name of a tool")
        for schema in (self.input_schema, self.output_schema):
            if schema is not None and schema.get("type") != "object":
                raise ValueError(f'{self.name}: its schemas have to be of "type": "object"')

    def entry(self) -> dict[str, Any]:
        """@return: how it stands in a list."""
        described = self.description if isinstance(self.description, str) else self.description()
        return _without_none(
            name=self.name,
            title=self.title,
            description=described,
            inputSchema=self.input_schema,
            outputSchema=self.output_schema,
            annotations=self.annotations,
        )


@frozen
class Contents:
    """
    One text or file of a resource.

    @ivar data: text, or bytes, which are sent as base64.
    @ivar mime_type: if it is another than the resource's.
    @ivar uri: if it is another than what was asked for.
    """

    data: str | bytes
    mime_type: str | None = None
    uri: str | None = None


@frozen
class Resource:
    """
    Something a client can read.

    @ivar read: C{read(uri, call)} gives a text, bytes, or a sequence of L{Contents}, or a
        Deferred or coroutine of it.
    @ivar shown: as for L{Tool}.
    """

    uri: str
    name: str
    read: Callable[[str, Call], Any]
    description: str = ""
    mime_type: str = "application/json"
    title: str | None = None
    shown: Shown = everyone

    def entry(self) -> dict[str, Any]:
        """@return: how it stands in a list."""
        return _without_none(
            uri=self.uri,
            name=self.name,
            title=self.title,
            description=self.description or None,
            mimeType=self.mime_type,
        )


@frozen
class ResourceTemplate:
    """
    Resources whose URIs are of one form.

    @ivar uri_template: RFC 6570, level 1 and C{{+name}}: C{{name}} stands for one
        segment, percent-encoded, C{{+name}} for anything.
    @ivar read: as for L{Resource}; what stood for the names is in C{call.variables}.
    @ivar complete: C{complete(name, beginning, call)} gives values for a name.
    """

    uri_template: str
    name: str
    read: Callable[[str, Call], Any]
    description: str = ""
    mime_type: str = "application/json"
    title: str | None = None
    shown: Shown = everyone
    complete: Callable[[str, str, Call], Any] | None = None
    _pattern: re.Pattern[str] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_pattern", _compile(self.uri_template))

    def match(self, uri: str) -> dict[str, str] | None:
        """@return: what the names stand for in a URI; L{None} if it is of another form."""
        found = self._pattern.fullmatch(uri)
        return None if found is None else {k: unquote(v) for k, v in found.groupdict().items()}

    def entry(self) -> dict[str, Any]:
        """@return: how it stands in a list."""
        return _without_none(
            uriTemplate=self.uri_template,
            name=self.name,
            title=self.title,
            description=self.description or None,
            mimeType=self.mime_type,
        )


@frozen
class Argument:
    """What a prompt takes: always a text."""

    name: str
    description: str = ""
    required: bool = False

    def entry(self) -> dict[str, Any]:
        """@return: how it stands in a list."""
        return _without_none(
            name=self.name, description=self.description or None, required=self.required
        )


@frozen
class Prompt:
    """
    A text that a person can have put before a model.

    @ivar get: C{get(arguments, call)} gives messages as MCP writes them, such as
        C{{"role": "user", "content": {"type": "text", "text": "..."}}}, or a Deferred or
        coroutine of them.
    @ivar complete: C{complete(name, beginning, call)} gives values for an argument.
    """

    name: str
    get: Callable[[Mapping[str, str], Call], Any]
    description: str = ""
    arguments: Sequence[Argument] = ()
    title: str | None = None
    shown: Shown = everyone
    complete: Callable[[str, str, Call], Any] | None = None

    def entry(self) -> dict[str, Any]:
        """@return: how it stands in a list."""
        return _without_none(
            name=self.name,
            title=self.title,
            description=self.description or None,
            arguments=[argument.entry() for argument in self.arguments] or None,
        )

    def check(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        """
        @return: the arguments, all of them texts.
        @raise McpRefused: naming the one that is missing, unknown or no text.
        """
        known = {argument.name for argument in self.arguments}
        for name, value in arguments.items():
            if name not in known:
                raise McpRefused(wire.INVALID_PARAMS, f"{self.name} takes no argument {name!r}")
            if not isinstance(value, str):
                raise McpRefused(wire.INVALID_PARAMS, f"the argument {name!r} has to be a string")
        for argument in self.arguments:
            if argument.required and argument.name not in arguments:
                raise McpRefused(wire.INVALID_PARAMS, f"the argument {argument.name!r} is missing")
        return dict(arguments)


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _compile(template: str) -> re.Pattern[str]:
    parts, end = [], 0
    for found in _VARIABLE.finditer(template):
        parts.append(re.escape(template[end : found.start()]))
        parts.append(f"(?P<{found[2]}>{'.+' if found[1] else '[^/?#]+'})")
        end = found.end()
    rest = template[end:]
    if "{" in rest or "}" in rest or end == 0:
        raise ValueError(f"{template!r} is not a template such as feed://{{author}}/{{+rest}}")
    try:
        return re.compile("".join([*parts, re.escape(rest)]))
    except re.error as e:
        raise ValueError(f"{template!r}: {e}") from None


def schema_validator(schema: Mapping[str, Any]) -> Validate:
    """
    @param schema: JSON Schema, 2020-12 unless it says otherwise.
    @return: what judges arguments by it.
    @raise ValueError: if it is no JSON Schema.
    """
    # Importing these takes a tenth of a second, which not every program needs to spend.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as e:
        raise ValueError(f"the schema cannot be used: {e.message}") from None
    # Of its own, or jsonschema would fetch what a schema refers to.
    validator = kind(schema, registry=Registry())
    simple = simple_check(schema)

    def validate(arguments: Any) -> str | None:
        if simple is not None and simple(arguments):
            return None
        # To look for the worst of all errors takes longer than to see that there is none.
        if next(validator.iter_errors(arguments), None) is None:
            return None
        worst = best_match(validator.iter_errors(arguments))
        where = "/".join(str(step) for step in worst.absolute_path)
        said = worst.message if len(worst.message) <= 300 else worst.message[:300] + "..."
        return f"{where}: {said}" if where else said

    return validate


def simple_check(schema: Mapping[str, Any]) -> Callable[[Any], bool] | None:
    """
    Most arguments are a few plain values, and right.  To see that takes a microsecond, and
    C{jsonschema} more than everything else that is done for a call.

    @return: what says L{True} of arguments that certainly fit; what it is not sure of,
        C{jsonschema} has to judge.  L{None} for schemas that are not so simple.
    """
    if not schema.keys() <= _SIMPLE or not isinstance(schema.get("properties", {}), dict):
        return None
    if schema.get("$schema", _DIALECT) != _DIALECT or schema.get("type") != "object":
        return None
    types: dict[str, tuple[type, ...]] = {}
    for name, inner in schema.get("properties", {}).items():
        # What is asked of more than the type alone is never certain here.
        if isinstance(inner, dict) and inner.keys() <= _SAYS_TYPE and "type" in inner:
            types[name] = _TYPES.get(str(inner["type"]), ())
    required = frozenset(schema.get("required", ()))

    def fits(arguments: Any) -> bool:
        if not isinstance(arguments, dict) or not required <= arguments.keys():
            return False
        return all(type(value) in types.get(name, ()) for name, value in arguments.items())

    return fits


def block(data: str | bytes, uri: str, mime_type: str) -> dict[str, Any]:
    """@return: a text or file as a resource's contents are written."""
    if isinstance(data, str):
        return {"uri": uri, "mimeType": mime_type, "text": data}
    return {"uri": uri, "mimeType": mime_type, "blob": msgspec.to_builtins(data)}
