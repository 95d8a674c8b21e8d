"""
JSON Schemas (2020-12) of what operations take and give, made from their types.

There is one place for it, as two doors show them: the tools of MCP and the OpenAPI
document.  msgspec knows the form of a type; this module adds what it cannot know:

 - what a field means, from C{Meta} or from the C{@ivar} lines of the Struct;
 - which fields of an answer are always there: all but those that may be C{UNSET};
 - the two wrappings of an answer, that of a tool and that of REST.

A C{msgspec.Raw} is any JSON.  The order is that of the declarations, so that the same
operations always make the same text.  Pure.
"""

from __future__ import annotations

import inspect as python
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from attrs import frozen
from msgspec import Meta, inspect

from meshkit.operations import Operation

#: As C{json} reads it.
Schema = dict[str, Any]

MAX_ITEMS: Final = 200
MAX_WAIT: Final = 55

_LOCAL: Final = "#/$defs/{name}"
#: Where OpenAPI keeps its schemas.
COMPONENTS: Final = "#/components/schemas/{name}"

_FIELD: Final = re.compile(r"@(?:ivar|param) +(\w+): *")
_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n")


class Tail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the tool of a stream takes beside the request: a tool's answer has an end."""

    max_items: Annotated[
        int, Meta(ge=1, le=MAX_ITEMS, description="answer when so many items have come")
    ] = 50
    wait_seconds: Annotated[
        float,
        Meta(ge=0, le=MAX_WAIT, description="wait so long for items; 0: only what is there"),
    ] = 0


@frozen
class Field:
    """
    A field of a request.

    @ivar name: as callers write it.
    @ivar schema: of its values, with C{default} where there is one, without description.
    @ivar description: what it means; empty if nobody said.
    """

    name: str
    schema: Schema
    required: bool
    description: str


# --- tools ---------------------------------------------------------------------------


def input_schema(operation: Operation) -> Schema:
    """
    @return: the schema of a tool's arguments: every field of the request side by side,
        for a stream those of L{Tail} as well.
    @raise ValueError: if there is no schema of a type.
    """
    return _side_by_side([operation.request, Tail] if operation.stream else [operation.request])


def request_schema(operation: Operation) -> Schema:
    """
    @return: the schema of the request alone, whatever the door.
    @raise ValueError: if there is no schema of a type.
    """
    return _side_by_side([operation.request])


def _side_by_side(types: Sequence[type[msgspec.Struct]]) -> Schema:
    """The schema of an object with the fields of all of them."""
    shown = _Types(types, _LOCAL, answers=False)
    schema: Schema = {"type": "object", "properties": {}}
    required: list[str] = []
    for declared in types:
        for field in shown.fields(declared):
            schema["properties"][field.name] = _described(field.schema, field.description)
            if field.required:
                required.append(field.name)
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False
    return _closed(schema, shown.components)


def answer_schema(operation: Operation) -> Schema:
    """
    @return: the schema of a tool's C{structuredContent}: C{data} (of a page and of a
        stream a list; null where there is nothing to say) with C{metadata}, between
        C{notice} and C{end_of_data} if peers may have written it, or C{error}.  Both are in
        it because some clients check refusals by it as well.
    @raise ValueError: if there is no schema of a type.
    """
    shown = _Types([operation.answer], _LOCAL, answers=True)
    several = operation.paged or operation.stream
    data = shown.schema(operation.answer)
    metadata: Schema
    if operation.success == 204:
        data = {"type": "null"}
    if operation.stream:
        metadata = tail_metadata()
    else:
        metadata = page_metadata() if operation.paged else advice()
    needed = ["data", "metadata"] if several else ["data"]
    properties: Schema = {
        "data": {"type": "array", "items": data} if several else data,
        "metadata": metadata,
    }
    if operation.untrusted:
        notice = {"type": "string", "description": "whose words the data is"}
        mark = {"type": "string", "description": "the mark that the notice names"}
        properties = {"notice": notice, **properties, "end_of_data": mark}
        needed = ["notice", *needed, "end_of_data"]
    schema: Schema = {
        "type": "object",
        "properties": properties | {"error": fault()},
        "anyOf": [{"required": needed}, {"required": ["error"]}],
    }
    return _closed(schema, shown.components)


def _closed(schema: Schema, components: Mapping[str, Schema]) -> Schema:
    """A schema that names nothing outside itself."""
    inside = {name: components[name] for name in _reached(components, [schema])}
    return schema | ({"$defs": inside} if inside else {})


# --- the documents of REST -----------------------------------------------------------


class Catalogue:
    """
    The schemas of many operations, with the Structs that they share in one table.

    A Struct of a request that is not as it is in an answer stands there twice, once with
    C{-input} at the end of its name.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        """@raise ValueError: if there is no schema of a type."""
        self._requests = _Types([each.request for each in operations], COMPONENTS, answers=False)
        self._answers = _Types([each.answer for each in operations], COMPONENTS, answers=True)
        mine, theirs = self._requests.components, self._answers.components
        # Of a request itself only the fields are shown.
        fields = [
            field.schema for each in operations for field in self._requests.fields(each.request)
        ]
        nested = _reached(mine, fields)
        self._renamed = {
            name: f"{name}-input" for name in nested if mine[name] != theirs.get(name, mine[name])
        }
        inputs = {self._renamed.get(name, name): self._rename(mine[name]) for name in nested}
        #: Every named schema, in the order of the alphabet.
        self.components: dict[str, Schema] = dict(sorted((theirs | inputs).items()))

    def fields(self, operation: Operation) -> list[Field]:
        """@return: the fields of the request, in the order of their declaration."""
        return [
            Field(field.name, self._rename(field.schema), field.required, field.description)
            for field in self._requests.fields(operation.request)
        ]

    def data(self, operation: Operation) -> Schema:
        """
        @return: the schema of what REST shows as C{data}: of a page the list; of a
            stream the data of one event.
        """
        schema = self._answers.schema(operation.answer)
        return {"type": "array", "items": schema} if operation.paged else schema

    def _rename(self, schema: Any) -> Any:
        def renamed(reference: str) -> str:
            name = reference.removeprefix(COMPONENTS.format(name=""))
            return COMPONENTS.format(name=self._renamed.get(name, name))

        return _with_references(schema, renamed)


def _named(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _reached(components: Mapping[str, Schema], schemas: Iterable[Schema]) -> list[str]:
    """What some schemas name, directly or not; in the order of the table."""
    reached: set[str] = set()

    def note(reference: str) -> str:
        name = reference.rpartition("/")[2]
        if name not in reached:
            reached.add(name)
            _with_references(components[name], note)
        return reference

    for schema in schemas:
        _with_references(schema, note)
    return [name for name in components if name in reached]


def _with_references(schema: Any, change: Callable[[str], str]) -> Any:
    """A copy of a schema in which every C{$ref} is changed."""
    if isinstance(schema, dict):
        return {
            key: change(value)
            if key == "$ref" and isinstance(value, str)
            else _with_references(value, change)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_with_references(each, change) for each in schema]
    return schema


# --- what is around an answer -----------------------------------------------------------


def fault() -> Schema:
    """@return: the schema of C{error}, as L{meshkit.web.answers.fault} makes it."""
    return {
        "type": "object",
        "properties": {
            "code": {
                "type": "string",
                "description": "stable: docs/troubleshooting.md is keyed by it",
            },
            "message": {"type": "string", "description": "for people; it may change"},
            "details": {"type": "object", "description": "further facts for programs"},
        },
        "required": ["code", "message"],
    }


def advice() -> Schema:
    """@return: the schema of C{metadata} where an answer is not a list."""
    return {
        "type": "object",
        "properties": {
            "warnings": {
                "type": "array",
                "items": {"type": "string"},
                "description": "what whoever asked should know beside the answer",
            }
        },
    }


def page_metadata() -> Schema:
    """@return: the schema of C{metadata} of a page; operations may say more in it."""
    return {
        "type": "object",
        "properties": {
            "total": {"type": "integer", "minimum": 0, "description": "how many there are"},
            "total_is_at_least": {
                "const": True,
                "description": "counting ended at total: there may be more",
            },
            "limit": {"type": "integer", "description": "how many were asked for at most"},
            "offset": {
                "type": "integer",
                "minimum": 0,
                "description": "how many were skipped; absent if a cursor was given",
            },
            "next_cursor": {
                "type": "string",
                "description": "give it as cursor to go on; absent at the end",
            },
        },
        "required": ["total", "limit"],
    }


def tail_metadata() -> Schema:
    """@return: the schema of C{metadata} of a stream, as a tool answers with it."""
    return {
        "type": "object",
        "properties": {
            "last_id": {
                "type": ["integer", "string", "null"],
                "description": "id of the last item; give it to go on after it",
            },
            "notices": {
                "type": "array",
                "items": {"type": "object"},
                "description": "what the stream says of itself: event and data",
            },
            "error": fault() | {"description": "what ended it after these items"},
        },
        "required": ["last_id"],
    }


# --- types ----------------------------------------------------------------------------


class _Types:
    """The schemas of some types, and of every Struct that they are made of."""

    def __init__(self, types: Sequence[Any], template: str, *, answers: bool) -> None:
        # Once each: a type may be unhashable, as Annotated[str, Meta(examples=[])] is.
        asked: list[Any] = []
        for declared in types:
            if not any(declared is known for known in asked):
                asked.append(declared)
        structs = _structs_of(asked)
        try:
            made, components = msgspec.json.schema_components(
                [*asked, *structs], ref_template=template
            )
        except TypeError as e:
            # A type of somebody's own, or a Raw as default.
            raise ValueError(f"a type of an operation has no JSON Schema: {e}") from None
        self._types = asked
        self._schemas: list[Schema] = [_polished(schema, answers) for schema in made[: len(asked)]]
        self._structs: dict[Any, str] = {}
        #: Schemas by name, without their description's markup.
        self.components = {
            name: _polished(schema, answers) for name, schema in sorted(components.items())
        }
        for struct, schema in zip(structs, made[len(asked) :], strict=True):
            name = self._structs[struct] = _named(schema)
            self.components[name] = _explained(struct, self.components[name], answers)

    def schema(self, declared: Any) -> Schema:
        """@return: of one of the types."""
        for known, schema in zip(self._types, self._schemas, strict=True):
            if known is declared:
                return schema
        raise LookupError(f"{declared!r} is not one of the types")

    def fields(self, struct: type[msgspec.Struct]) -> list[Field]:
        """@return: the fields of a Struct that is one of the types."""
        schema = self.components[self._structs[struct]]
        found = []
        for field in msgspec.structs.fields(struct):
            value = dict(schema["properties"][field.encode_name])
            description = value.pop("description", "")
            found.append(Field(field.encode_name, value, field.required, description))
        return found


def _structs_of(types: Sequence[Any]) -> list[type[msgspec.Struct]]:
    """Every Struct that the types are made of, in the order in which they are met."""
    found: dict[type[msgspec.Struct], None] = {}

    def visit(node: Any) -> None:
        if isinstance(node, inspect.StructType):
            if node.cls in found:
                return
            found[node.cls] = None
        if isinstance(node, inspect.Type | inspect.Field):
            for name in node.__struct_fields__:
                visit(getattr(node, name))
        elif isinstance(node, tuple):
            for each in node:
                visit(each)

    for known in inspect.multi_type_info(types):
        visit(known)
    return list(found)


def _polished(schema: Any, answers: bool) -> Any:
    """
    A schema as people read it.

    Titles are left out, being the names once more.  What is said of the one member of
    C{X | None} is said of the whole.  An answer has no defaults, and a later version may
    add to it.
    """
    if isinstance(schema, list):
        return [_polished(each, answers) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        # Their names are not keywords.
        rest = {key: value for key, value in schema.items() if key != "properties"}
        properties = {
            name: _polished(value, answers) for name, value in schema["properties"].items()
        }
        polished = _polished(rest, answers)
        return _ordered(polished | {"properties": properties})
    kept = {
        key: value if key in _VALUES else _polished(value, answers)
        for key, value in schema.items()
        if key != "title" and not (answers and key in ("default", "additionalProperties"))
    }
    if answers and isinstance(schema.get("additionalProperties"), dict):
        # Of a mapping: the form of its values.
        kept["additionalProperties"] = _polished(schema["additionalProperties"], answers)
    if "description" not in kept:
        said = [each for each in kept.get("anyOf", ()) if "description" in each]
        if len(said) == 1:
            members = [
                {key: value for key, value in each.items() if key != "description"}
                for each in kept["anyOf"]
            ]
            kept |= {"anyOf": members, "description": said[0]["description"]}
    return _ordered(kept)


# Keywords whose values are values, not schemas.
_VALUES: Final = frozenset({"default", "enum", "const", "examples", "required"})
_FIRST: Final = ("description", "type")


def _ordered(schema: Schema) -> Schema:
    """What is read first, first."""
    first = {key: schema[key] for key in _FIRST if key in schema}
    return first | schema


def _explained(struct: type[msgspec.Struct], schema: Schema, answers: bool) -> Schema:
    """The schema of a Struct, with what its docstring says."""
    about, said = _documentation(struct)
    schema = {key: value for key, value in schema.items() if key != "description"}
    if "properties" in schema:
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        schema["properties"] = {
            name: value
            if "description" in value or name not in fields
            else _described(value, said.get(fields[name].name, ""))
            for name, value in schema["properties"].items()
        }
        if answers and not struct.__struct_config__.omit_defaults:
            # A tag is no field, and always there.
            there = [
                name
                for name in schema["properties"]
                if name not in fields or fields[name].default is not msgspec.UNSET
            ]
            schema = {key: value for key, value in schema.items() if key != "required"}
            if there:
                schema["required"] = there
    return _described(schema, about)


def _described(schema: Schema, description: str) -> Schema:
    if not description:
        return schema
    return {"description": description} | schema


# --- docstrings -----------------------------------------------------------------------


def _documentation(struct: type[msgspec.Struct]) -> tuple[str, Mapping[str, str]]:
    """What the docstring of a Struct says of it, and with those of its bases of each field."""
    about, fields = "", dict[str, str]()
    for known in reversed(struct.__mro__):
        if not issubclass(known, msgspec.Struct) or known is msgspec.Struct:
            continue
        first, *others = _FIELD.split(python.cleandoc(known.__dict__.get("__doc__") or ""))
        about = plain_text(first)
        for name, text in zip(others[::2], others[1::2], strict=True):
            fields[name] = plain_text(text)
    return about, fields


def plain_text(epytext: str) -> str:
    """
    @param epytext: a piece of a docstring.
    @return: the same without markup, each paragraph on one line.
    """
    paragraphs = [" ".join(_unmarked(each).split()) for each in _PARAGRAPH.split(epytext)]
    return "\n\n".join(each for each in paragraphs if each)


def _unmarked(text: str) -> str:
    """What is marked becomes what is in the braces, which may hold others."""
    out: list[str] = []
    closing: list[bool] = []
    for place, char in enumerate(text):
        if char == "{":
            marked = (
                place > 0 and text[place - 1] in _MARKS and text[place - 2 : place - 1] in _BREAKS
            )
            if marked:
                out.pop()
            closing.append(marked)
            if not marked:
                out.append(char)
        elif char == "}" and closing:
            if not closing.pop():
                out.append(char)
        else:
            out.append(char)
    return "".join(out)


# Capital letters that mark what is in the braces after them, unless they end a word.
_MARKS: Final = "BCGILMUX"
_BREAKS: Final = ("", *" \n\t(\"'{,;:/|")
