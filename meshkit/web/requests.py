"""
Reading the request of an operation out of a path, a query string or a JSON body.

Pure: text and bytes in, a Struct or an L{InvalidRequest} out.  Each field is converted
alone, so that the error can name it, and so that the JSON text of a field of type
C{msgspec.Raw} is kept as the caller spelt it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

import msgspec
from attrs import frozen
from msgspec import inspect

from meshkit.errors import InvalidRequest, NestedTooDeep, UnsupportedMediaType
from meshkit.operations import Operation

MAX_QUERY_FIELDS: Final = 64
JSON_BODY: Final = "application/json"
#: Type of a body that is taken as it is.
RAW_BODY: Final = "application/octet-stream"

_SHOWN: Final = 80
# The name of a member, and what may stand after its value.
_MEMBER: Final = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*")[ \t\r\n]*:[ \t\r\n]*')
_AFTER: Final = re.compile(rb"[ \t\r\n]*[,}]")
# How msgspec says that a text does not have its pattern.
_PATTERN: Final = "matching regex"
_NOTHING: Final[Mapping[str, str]] = {}
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

# What a piece of text can be converted to without being JSON itself.
_TEXT_TYPES: Final = (
    inspect.AnyType,
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
)
_LIST_TYPES: Final = (inspect.ListType, inspect.VarTupleType)


@frozen
class _Field:
    """
    @ivar name: the field as callers write it.
    @ivar attribute: the field as the Struct's constructor takes it.
    @ivar repeats: may stand in a query string more than once.
    @ivar form: what a text of it has to be, in words, if it has a pattern.
    """

    name: str
    attribute: str
    type: Any
    required: bool
    repeats: bool
    form: str | None


class RequestReader:
    """
    Makes requests of one operation.

    It is made once per operation and keeps nothing of a request.

    @ivar attributes: the fields, but for a body that is taken as it is: their names, and what
        they are called in the request.
    """

    def __init__(self, operation: Operation) -> None:
        """
        @raise ValueError: if a field is declared that cannot be read from where it
            has to come from, such as a Struct in a query string.
        """
        self._request = operation.request
        in_path = operation.path_fields
        from_json = operation.method == "POST" and operation.takes is None
        self._source = "body" if from_json else "query string"
        self._takes = operation.takes
        self._in_path: dict[str, _Field] = {}
        self._others: dict[str, _Field] = {}
        for info in msgspec.structs.fields(operation.request):
            name = info.encode_name
            if name == self._takes:
                if info.type is not bytes:
                    raise ValueError(f"{operation.name}: {name!r} has to be of type bytes")
                self._body_attribute = info.name
                continue
            textual = name in in_path or not from_json
            kind = _text_kind(info.type) if textual else "one"
            if kind is None or (kind == "many" and name in in_path):
                raise ValueError(
                    f"{operation.name}: the field {name!r} cannot be written in a path or query "
                    f"string, as its type is {info.type}"
                )
            form = _form(inspect.type_info(info.type), None)
            field = _Field(name, info.name, info.type, info.required, kind == "many", form)
            if name in in_path:
                self._in_path[name] = field
            else:
                self._others[name] = field
        # All of them together, for doors where nothing has a place of its own.
        self._arguments = {**self._in_path, **self._others}
        self._needs_body = any(field.required for field in self._others.values())
        self.attributes: Mapping[str, str] = {
            name: field.attribute for name, field in self._arguments.items()
        }

    def from_query(
        self,
        path: Mapping[str, str],
        query: str,
        instead: Mapping[str, str] = _NOTHING,
        body: bytes = b"",
    ) -> msgspec.Struct:
        """
        @param path: the fields of the path, decoded.
        @param query: the query string, still percent-encoded.
        @param instead: fields that were given elsewhere, whatever the query string says.
        @param body: of an operation that takes one as it is.
        @raise InvalidRequest: naming the field.
        """
        given: dict[str, list[str]] = {}
        for name, value in _split_query(query):
            given.setdefault(name, []).append(value)
        given.update({name: [value] for name, value in instead.items()})
        values = self._from_path(path)
        for name, texts in given.items():
            field = self._known(name, self._others, self._source)
            if field.repeats:
                values[field.attribute] = _convert_text(field, texts)
            elif len(texts) > 1:
                raise InvalidRequest(
                    f"{name} is given {len(texts)} times: give it once", field=name
                )
            else:
                values[field.attribute] = _convert_text(field, texts[0])
        if self._takes is not None:
            values[self._body_attribute] = body
        return self._make(values, self._others, self._source)

    def from_arguments(self, arguments: bytes) -> msgspec.Struct:
        """
        Read all fields, those of the path as well, from one JSON object.

        @param arguments: its text.
        @raise InvalidRequest: naming the field, or the place where the text ceases to
            be JSON.
        """
        values: dict[str, Any] = {}
        self._read_json(arguments, self._arguments, "arguments object", values)
        return self._make(values, self._arguments, "arguments object")

    def from_json(
        self, path: Mapping[str, str], body: bytes, instead: Mapping[str, str] = _NOTHING
    ) -> msgspec.Struct:
        """
        @param path: the fields of the path, decoded.
        @param body: the JSON text of an object; may be empty where the path says all.
        @param instead: fields that were given elsewhere, as text, whatever the body says.
        @raise InvalidRequest: naming the field, or the place where the text ceases to
            be JSON.
        """
        values = self._from_path(path)
        if body or self._needs_body:
            self._read_json(body, self._others, self._source, values)
        for name, text in instead.items():
            field = self._others[name]
            values[field.attribute] = _convert_text(field, text)
        return self._make(values, self._others, self._source)

    def _read_json(
        self, text: bytes, fields: Mapping[str, _Field], source: str, values: dict[str, Any]
    ) -> None:
        try:
            for name, raw in _split_object(text, source).items():
                field = self._known(name, fields, source)
                values[field.attribute] = _convert_json(field, raw)
        except RecursionError:
            raise NestedTooDeep(f"the {source} is nested too deep: flatten it") from None

    def _from_path(self, path: Mapping[str, str]) -> dict[str, Any]:
        return {
            field.attribute: _convert_text(field, path[field.name])
            for field in self._in_path.values()
        }

    def _known(self, name: str, fields: Mapping[str, _Field], source: str) -> _Field:
        field = fields.get(name)
        if field is not None:
            return field
        if name in self._in_path:
            raise InvalidRequest(f"{name!r} belongs in the path, not in the {source}")
        raise unknown_field(name, fields, source)

    def _make(
        self, values: dict[str, Any], fields: Mapping[str, _Field], source: str
    ) -> msgspec.Struct:
        for field in fields.values():
            if field.required and field.attribute not in values:
                raise InvalidRequest(
                    f"{field.name} is missing: give it in the {source}", field=field.name
                )
        try:
            return self._request(**values)
        except (ValueError, TypeError) as e:
            # Every field is there and of its type, so this is the Struct's own check.
            raise InvalidRequest(str(e)) from None


@lru_cache(maxsize=512)
def reader_of(operation: Operation) -> RequestReader:
    """
    @return: what makes the requests of an operation; made once for all nodes of a process.
    @raise ValueError: as L{RequestReader}.
    """
    return RequestReader(operation)


def unknown_field(name: str, known: Collection[str], source: str) -> InvalidRequest:
    """
    @param known: the names that there are.
    @param source: where they were looked for, such as C{"query string"}.
    @return: the refusal, which may tell which was meant.
    """
    shown = repr(name[:_SHOWN])
    if not known:
        return InvalidRequest(f"there is no field {shown}: the {source} takes none")
    near = get_close_matches(name[:_SHOWN], known, n=1)
    if near:
        return InvalidRequest(f"there is no field {shown}: did you mean {near[0]!r}?")
    return InvalidRequest(f"there is no field {shown}: there are {', '.join(known)}")


def check_content_type(
    method: str,
    content_types: Sequence[str],
    has_body: bool,
    allowed: Sequence[str] = (JSON_BODY,),
) -> None:
    """
    Refuse a state-changing request that an HTML form could have sent.

    A browser sends a form, or a script's C{text/plain}, to another origin without
    asking; for the types that are allowed here it asks first, and no door ever says yes.

    @param content_types: every value of that header.
    @param has_body: a body is announced.  Without one no type is needed: a form cannot
        send the bearer token.
    @param allowed: L{JSON_BODY}, L{RAW_BODY}, or both.
    @raise UnsupportedMediaType: if it is none of them.
    """
    if method in _READS:
        return
    if not content_types and not has_body:
        return
    if len(content_types) == 1:
        main, _, parameters = content_types[0].partition(";")
        kind = main.strip().lower()
        charset = parameters.strip().lower().replace('"', "")
        if kind in allowed and (kind == RAW_BODY or charset in ("", "charset=utf-8")):
            return
    if JSON_BODY not in allowed:
        raise UnsupportedMediaType(f"the body is taken as it is: send Content-Type: {RAW_BODY}")
    raise UnsupportedMediaType


def _bare(found: inspect.Type) -> inspect.Type:
    """A type without the description that C{Annotated} gave it."""
    while isinstance(found, inspect.Metadata):
        found = found.type
    return found


def _text_kind(declared: Any) -> str | None:
    """C{"one"} value, C{"many"} values, or L{None} if text cannot give the type."""
    found = _bare(inspect.type_info(declared))
    members = found.types if isinstance(found, inspect.UnionType) else (found,)
    kind = "one"
    for member in map(_bare, members):
        if isinstance(member, _LIST_TYPES):
            if not isinstance(_bare(member.item_type), _TEXT_TYPES):
                return None
            kind = "many"
        elif not isinstance(member, _TEXT_TYPES):
            return None
    return kind


def _form(found: inspect.Type, described: str | None) -> str | None:
    """The description of what has a pattern: people read that, and no regular expression."""
    if isinstance(found, inspect.Metadata):
        words = (found.extra_json_schema or {}).get("description", described)
        return _form(found.type, words)
    if isinstance(found, inspect.UnionType):
        forms = (_form(member, described) for member in found.types)
        return next((form for form in forms if form is not None), None)
    if isinstance(found, _LIST_TYPES):
        return _form(found.item_type, None)
    return described if isinstance(found, inspect.StrType) and found.pattern else None


def _split_query(query: str) -> list[tuple[str, str]]:
    if not query:
        return []
    if query.count("&") >= MAX_QUERY_FIELDS:
        raise InvalidRequest(f"the query string has more than {MAX_QUERY_FIELDS} fields")
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest("the query string is not percent-encoded UTF-8") from None


def _split_object(text: bytes, source: str) -> dict[str, msgspec.Raw]:
    if not text.strip(b" \t\r\n"):
        raise InvalidRequest(f"the {source} is empty: send a JSON object, such as {{}}")
    try:
        # Text that is passed over unread, as that of a Raw field, is not looked at.
        text.decode("utf-8")
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except UnicodeDecodeError as e:
        raise InvalidRequest(f"the {source} is not UTF-8 (byte {e.start})") from None
    except msgspec.ValidationError:
        raise InvalidRequest(f"the {source} has to be a JSON object") from None
    except msgspec.DecodeError as e:
        raise InvalidRequest(f"the {source} is not JSON: {_lower(str(e))}") from None
    name = repeated(text, members)
    if name is not None:
        shown = name[:_SHOWN]
        raise InvalidRequest(f"{shown} is given more than once: give it once", field=shown)
    return members


def repeated(text: bytes, members: Mapping[str, msgspec.Raw]) -> str | None:
    """
    Which member stands in an object more than once?  Those who read it would not agree which
    one counts (U{https://www.rfc-editor.org/rfc/rfc8259#section-4}).

    Mostly the length alone tells.  Else it is walked from one name to the next.  Values are
    not read again: each is known, and is found in its place, unless it is that of another
    member of the same name.

    @param text: the JSON text of an object.
    @param members: what was read in it: of each name the last.
    @return: the name, or L{None}.
    """
    # Quotation marks, colons, commas and braces are the least that stands between.
    least = sum(map(len, members)) + sum(map(len, members.values())) + 4 * len(members) + 1
    if len(text) - least < 5 + min(map(len, members), default=0):
        # No room for one more, with its name, a value and what stands between.
        return None
    at = text.find(b"{") + 1
    seen: set[str] = set()
    while (found := _MEMBER.match(text, at)) is not None:
        spelt = found[1]
        name: str = msgspec.json.decode(spelt) if b"\\" in spelt else spelt[1:-1].decode("utf-8")
        value = bytes(members[name])
        # A number that goes on is another one.
        after = _AFTER.match(text, found.end() + len(value))
        if name in seen or after is None or not text.startswith(value, found.end()):
            return name
        seen.add(name)
        at = after.end()
    return None


def _convert_json(field: _Field, raw: msgspec.Raw) -> Any:
    if field.type is msgspec.Raw:
        return raw
    try:
        return msgspec.json.decode(raw, type=field.type)
    except msgspec.ValidationError as e:
        _refuse(field, str(e))


def _convert_text(field: _Field, text: str | list[str]) -> Any:
    try:
        value = msgspec.convert(text, field.type, strict=False)
    except msgspec.ValidationError as e:
        shown = f", got {text[:_SHOWN]!r}" if isinstance(text, str) else ""
        _refuse(field, str(e).replace(", got `str`", shown))
    members = value if isinstance(text, list) and value is not None else [value]
    if any(isinstance(member, float) and not math.isfinite(member) for member in members):
        # msgspec reads "nan" and "inf" here; in JSON there are no such numbers.
        _refuse(field, "it has to be a finite number")
    return value


def _refuse(field: _Field, why: str) -> NoReturn:
    what, _, where = why.partition(" - at `$")
    if field.form is not None and _PATTERN in what:
        what = f"expected {field.form}"
    raise InvalidRequest(f"{field.name}{where.rstrip('`')}: {_lower(what)}", field=field.name)


def _lower(sentence: str) -> str:
    """The first letter small, unless the word is a name such as JSON."""
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]
