"""
Arguments that a header of HTTP repeats, for routers that do not read bodies.

A schema asks for it by C{"x-mcp-header": "Region"} at a property: then every call over HTTP
of the stateless generation that has this argument has to have a header C{Mcp-Param-Region}
of the same value, and no other call may have one.  Pure.

Source: specification 2026-07-28, basic/transports (SEP-2243).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from meshkit.errors import McpRefused
from meshkit.web.mcp import wire

_ASKS: Final = "x-mcp-header"
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DECIMAL: Final = re.compile(r"(-?[0-9]{1,40})(?:\.0+)?")
_TYPES: Final = ("boolean", "integer", "string")


@frozen
class Mirror:
    """
    @ivar header: the whole name of the header.
    @ivar path: where the argument is, from the outermost object inwards.
    @ivar type: its type: C{boolean}, C{integer} or C{string}.
    """

    header: str
    path: tuple[str, ...]
    type: str


def find_mirrors(schema: Mapping[str, Any]) -> tuple[Mirror, ...]:
    """
    @return: what a schema asks to be repeated.
    @raise ValueError: if it asks where a client cannot know it: beneath anything but
        C{properties}, of another type, or twice for one header.
    """
    found = tuple(_find(schema, (), True))
    names = [mirror.header.lower() for mirror in found]
    if len(set(names)) != len(names):
        raise ValueError(f"two arguments have the same {_ASKS}")
    return found


def _find(schema: Mapping[str, Any], path: tuple[str, ...], plain: bool) -> Iterator[Mirror]:
    if _ASKS in schema:
        token, kind = schema[_ASKS], schema.get("type")
        if not plain or not path or not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ValueError(f"{_ASKS} has to name a header, at a property of an object")
        if kind not in _TYPES:
            raise ValueError(f"{_ASKS} is for arguments that are {', '.join(_TYPES)}")
        yield Mirror(f"Mcp-Param-{token}", path, kind)
    for key, inner in schema.items():
        if key == "properties" and isinstance(inner, Mapping):
            for name, each in inner.items():
                if isinstance(each, Mapping):
                    yield from _find(each, (*path, name), plain)
        elif isinstance(inner, Mapping):
            yield from _find(inner, path, False)
        elif isinstance(inner, list):
            for each in inner:
                if isinstance(each, Mapping):
                    yield from _find(each, path, False)


def check_mirrors(
    mirrors: Sequence[Mirror], arguments: Mapping[str, Any], values: Callable[[str], Sequence[str]]
) -> None:
    """
    @param values: gives all values of a header.
    @raise McpRefused: if one is missing, there without its argument, or says another thing.
    """
    for mirror in mirrors:
        wanted = _at(arguments, mirror.path)
        given = values(mirror.header)
        wrong = None
        if len(given) > 1:
            wrong = f"is given {len(given)} times"
        elif wanted is not None and not given:
            wrong = "is missing"
        elif given and not _says(wire.decode_header(given[0]), wanted):
            wrong = "does not say what the body says"
        if wrong is not None:
            raise McpRefused(wire.HEADER_MISMATCH, f"the header {mirror.header} {wrong}")


def _at(arguments: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = arguments
    for name in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def _says(said: str | None, wanted: object) -> bool:
    if said is None:
        return False
    if isinstance(wanted, bool):
        return said == ("true" if wanted else "false")
    if isinstance(wanted, int | float):
        number = _DECIMAL.fullmatch(said)
        return number is not None and int(number[1]) == wanted
    # What is neither cannot be of the schema's type, and so says nothing.
    return said == wanted
