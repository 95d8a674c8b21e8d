"""
The fields of an operation, as they are typed on a command line. Pure.

::

    limit=5                   by the field's schema: a number here, a text elsewhere
    tags=birds tags=herons    a list takes its items one by one
    content={"n": 1.0}        where any JSON may stand, JSON that is valid is sent as it is
    content:="5"              JSON, whatever the schema says
    content:=@note.json       the same, out of a file
    data=@photo.jpg           of a field that takes bytes: those of a file

A node is asked what fields there are and what its schema says of them; what may stand in
them is for the node alone to judge.  So a value that is not of its field's type is sent as
the text that it is, and the node says what is wrong with it, as it does at its other doors.
C{content=@note.json} alone is refused here: it fits where any JSON may stand, and would be
sent as the text C{"@note.json"}.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from shlex import quote as quote_word
from typing import Any, Final
from urllib.parse import quote

import msgspec
from attrs import define, frozen

from meshkit.errors import InvalidRequest
from meshkit.services.operations import OperationField, OperationShown

_WORD: Final = re.compile(r"([^=:]+)(:?=)(.*)", re.DOTALL)
_SHOWN: Final = 80

#: What JSON calls the type of a value that msgspec has decoded.
_KINDS: Final[dict[type, str]] = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
_ANY: Final = frozenset(_KINDS.values())

#: Gives the content of a file; C{-} is standard input.
Read = Callable[[str], bytes]


@frozen
class Word:
    """
    One C{field=value} of a command line.

    @ivar json: it was C{field:=value}.
    """

    name: str
    value: str
    json: bool

    @classmethod
    def parse(cls, text: str) -> Word:
        """@raise InvalidRequest: if it is none."""
        found = _WORD.fullmatch(text)
        if found is None:
            raise InvalidRequest(
                f"{text[:_SHOWN]!r} gives no field: write field=value, or field:=JSON"
            )
        return cls(found[1], found[3], found[2] == ":=")


@define
class Sending:
    """
    What is sent to the node's REST route.

    @ivar path: with the fields that it takes, percent-encoded.
    @ivar query: the fields of the query string, in order; one may stand there repeatedly.
    @ivar body: L{None} if there is none.
    @ivar raw: the body is bytes as they are, not JSON.
    """

    path: str
    query: list[tuple[str, str]]
    body: bytes | None
    raw: bool


def find(operations: Sequence[OperationShown], name: str) -> OperationShown:
    """@raise InvalidRequest: if there is none of this name; it may tell which was meant."""
    by_name = {each.name: each for each in operations}
    if name in by_name:
        return by_name[name]
    near = get_close_matches(name[:_SHOWN], by_name, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "'meshkit call' alone lists them"
    raise InvalidRequest(f"there is no operation {name[:_SHOWN]!r}: {hint}")


def compose(
    operation: OperationShown, words: Sequence[Word], whole: bytes | None, read: Read
) -> Sending:
    """
    Put fields where the operation takes them.

    @param words: fields of the command line, in order.
    @param whole: JSON text of an object with further fields; those of C{words} win.
    @param read: for what is taken out of files.
    @raise InvalidRequest: if a field does not exist, cannot be sent, or if one of the path
        is missing.
    """
    schemas = Schemas(operation.request)
    fields = {field.name: field for field in operation.fields}
    given: dict[str, list[Word] | msgspec.Raw] = {}
    if whole is not None:
        given.update(_members(whole))
    by_name: dict[str, list[Word]] = {}
    for word in words:
        by_name.setdefault(word.name, []).append(word)
    given.update(by_name)
    for name in given:
        if name not in fields:
            raise _unknown(name, list(fields))
    places: dict[str, dict[str, list[Word] | msgspec.Raw]] = {}
    for field in operation.fields:
        if field.name in given:
            places.setdefault(field.place, {})[field.name] = given[field.name]
        elif field.place == "path":
            raise InvalidRequest(f"{field.name} is missing: give it", field=field.name)
    sending = Sending(operation.path, [], None, False)
    for name, value in places.get("path", {}).items():
        texts = _texts(name, value, read)
        if len(texts) != 1 or not texts[0]:
            raise InvalidRequest(f"{name} has to be given once, and not empty", field=name)
        sending.path = sending.path.replace(f"{{{name}}}", quote(texts[0], safe="@"))
    for name, value in places.get("query", {}).items():
        sending.query += [(name, text) for text in _texts(name, value, read)]
    if any(field.place == "raw" for field in operation.fields):
        sending.raw = True
        sending.body = b""
        for name, value in places.get("raw", {}).items():
            sending.body = _bytes(name, value, read)
    elif operation.method == "POST":
        members = {
            name: value
            if isinstance(value, msgspec.Raw)
            else _json(name, value, schemas.of(name), schemas, read)
            for name, value in places.get("body", {}).items()
        }
        sending.body = msgspec.json.encode(members)
    return sending


def _members(whole: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(whole, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"what is given as --input is no JSON object: {e}") from None


def _unknown(name: str, names: Sequence[str]) -> InvalidRequest:
    shown = repr(name[:_SHOWN])
    near = get_close_matches(name[:_SHOWN], names, n=1)
    if near:
        return InvalidRequest(f"there is no field {shown}: did you mean {near[0]!r}?")
    if names:
        return InvalidRequest(f"there is no field {shown}: there are {', '.join(names)}")
    return InvalidRequest(f"there is no field {shown}: this operation takes none")


# --- as text -----------------------------------------------------------------------


def _texts(name: str, value: list[Word] | msgspec.Raw, read: Read) -> list[str]:
    """A field as a path or a query string takes it: what is null is left out."""
    if isinstance(value, msgspec.Raw):
        return _texts_of_json(name, bytes(value))
    texts: list[str] = []
    for word in value:
        if word.json:
            texts += _texts_of_json(name, _content(word.value, read))
        else:
            texts.append(word.value)
    return texts


def _texts_of_json(name: str, text: bytes) -> list[str]:
    value = _decode(name, text)
    if isinstance(value, list):
        return [_text_of(name, member) for member in value if member is not None]
    if value is None:
        return []
    if _kind(value) == "number":
        # As it is spelt, with all its digits.
        return [text.decode("ascii").strip()]
    return [_text_of(name, value)]


def _text_of(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        raise InvalidRequest(f"{name} takes no {_kind(value)} here", field=name)
    return msgspec.json.encode(value).decode("ascii")


# --- as bytes ----------------------------------------------------------------------


def _bytes(name: str, value: list[Word] | msgspec.Raw, read: Read) -> bytes:
    if isinstance(value, msgspec.Raw) or len(value) != 1 or value[0].json:
        raise InvalidRequest(
            f"{name} takes bytes, which are no JSON: write {name}=@FILE, {name}=@- for standard "
            f"input, or {name}=TEXT",
            field=name,
        )
    return _content(value[0].value, read)


def _content(text: str, read: Read) -> bytes:
    return read(text[1:]) if text.startswith("@") else text.encode("utf-8")


# --- as JSON -----------------------------------------------------------------------


class Schemas:
    """What a JSON Schema of a request says of its fields."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self._definitions: Mapping[str, Any] = whole.get("$defs", {})
        self._fields: Mapping[str, Any] = self.resolved(whole).get("properties", {})

    def of(self, name: str) -> Mapping[str, Any]:
        """@return: the schema of a field; without one everything is admitted."""
        return self.resolved(self._fields.get(name, {}))

    def resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """@return: the schema that a reference stands for, with what stands beside it."""
        reference = schema.get("$ref")
        if reference is None:
            return schema
        found = self._definitions.get(str(reference).removeprefix("#/$defs/"), {})
        return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}

    def branches(self, schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """@return: the alternatives of a schema, itself if it has none."""
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return [
                    branch for each in schema[key] for branch in self.branches(self.resolved(each))
                ]
        return [schema]

    def kinds(self, schema: Mapping[str, Any]) -> frozenset[str]:
        """@return: the JSON types that it admits; whole numbers are numbers."""
        found: set[str] = set()
        for branch in self.branches(schema):
            if "const" in branch:
                found.add(_kind(branch["const"]))
            elif "enum" in branch:
                found.update(map(_kind, branch["enum"]))
            elif "type" in branch:
                types = branch["type"]
                found.update([types] if isinstance(types, str) else types)
            else:
                return _ANY
        return frozenset("number" if kind == "integer" else kind for kind in found)


def _json(
    name: str, words: Sequence[Word], schema: Mapping[str, Any], schemas: Schemas, read: Read
) -> msgspec.Raw:
    if len(words) == 1 and words[0].json:
        text = _content(words[0].value, read)
        _decode(name, text)
        return msgspec.Raw(text)
    for branch in schemas.branches(schema):
        if branch.get("type") == "array":
            items = schemas.resolved(branch.get("items", {}))
            return msgspec.Raw(
                msgspec.json.encode([_value(name, word, items, schemas, read) for word in words])
            )
    if len(words) > 1:
        raise InvalidRequest(f"{name} is given {len(words)} times: give it once", field=name)
    return _value(name, words[0], schema, schemas, read)


def _value(
    name: str, word: Word, schema: Mapping[str, Any], schemas: Schemas, read: Read
) -> msgspec.Raw:
    """
    One value, by what its schema admits; what does not fit is a text.

    @raise InvalidRequest: if any JSON may stand here and it looks like the name of a file.
    """
    text = word.value
    if word.json:
        raw = _content(text, read)
        _decode(name, raw)
        return msgspec.Raw(raw)
    if any(branch.get("contentEncoding") == "base64" for branch in schemas.branches(schema)):
        if text.startswith("@"):
            text = base64.b64encode(read(text[1:])).decode("ascii")
        return _string(text)
    kinds = schemas.kinds(schema)
    if "string" in kinds and kinds != _ANY:
        return _string(text)
    if kinds == _ANY and text.startswith("@"):
        # In the field beside this one it is a file, and a text that is signed stays.
        literal = quote_word(msgspec.json.encode(text).decode("utf-8"))
        raise InvalidRequest(
            f"{name}={text[:_SHOWN]} may be meant as a file or as a text: write "
            f"{name}:={text[:_SHOWN]} for the JSON in the file, or {name}:={literal[:_SHOWN]} for "
            f"the text",
            field=name,
        )
    try:
        kind = _kind(msgspec.json.decode(text))
    except msgspec.DecodeError:
        return _string(text)
    except RecursionError:
        # How deep it may be is the node's to say.
        return msgspec.Raw(text.encode("utf-8"))
    return msgspec.Raw(text.encode("utf-8")) if kind in kinds else _string(text)


def _string(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))


def _kind(value: Any) -> str:
    return _KINDS[type(value)]


def _decode(name: str, text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"{name} is no JSON: {e}", field=name) from None
    except RecursionError:
        return {}


# --- in words ----------------------------------------------------------------------


@frozen
class Explained:
    """
    A field, for people.

    @ivar usage: such as C{limit=NUMBER}.
    @ivar text: what it is for, what it may be, what it is without.
    """

    usage: str
    text: str


def explain(operation: OperationShown) -> list[Explained]:
    """@return: the fields of an operation, those that have to be given first."""
    schemas = Schemas(operation.request)
    ordered = sorted(operation.fields, key=lambda field: not field.required)
    return [_explained(field, schemas.of(field.name), schemas) for field in ordered]


_WORDS: Final = {
    "string": "TEXT",
    "number": "NUMBER",
    "integer": "NUMBER",
    "boolean": "true|false",
    "object": "JSON",
    "array": "JSON",
}


def _explained(field: OperationField, schema: Mapping[str, Any], schemas: Schemas) -> Explained:
    branches = [each for each in schemas.branches(schema) if each.get("type") != "null"]
    (first, *_) = branches or [schema]
    repeated = first.get("type") == "array"
    if repeated:
        (first, *_) = schemas.branches(schemas.resolved(first.get("items", {})))
    if field.place == "raw" or first.get("contentEncoding") == "base64":
        value = "@FILE"
    elif "enum" in first:
        value = "|".join(str(each) for each in first["enum"])
    else:
        value = _WORDS.get(str(first.get("type")), "JSON")
    pieces = [str(schema.get("description") or first.get("description") or "").rstrip(".")]
    least, most = first.get("minimum"), first.get("maximum")
    if least is not None and most is not None:
        pieces.append(f"{least} to {most}")
    elif least is not None:
        pieces.append(f"{least} or more")
    if repeated:
        pieces.append("may be given again and again")
    default = schema.get("default")
    if field.required:
        pieces.append("has to be given")
    elif default not in (None, [], ""):
        pieces.append(f"default: {_shown_default(default)}")
    return Explained(f"{field.name}={value}", "; ".join(piece for piece in pieces if piece))


def _shown_default(default: Any) -> str:
    return default if isinstance(default, str) else msgspec.json.encode(default).decode("utf-8")
