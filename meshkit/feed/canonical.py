"""
Canonical JSON: the one text of a value that is hashed and signed.

No white space; keys sorted by code point at every depth; strings with no more escapes
than JSON demands; integers of 64 bits as they are; other numbers as L{meshkit.feed.floats}
says.  It is byte for byte what serde_json writes for a C{Value}, and what L{read_json}
refuses is what serde_json refuses.

The standard library's C encoder writes that very text as long as every float is
spelled as Python would spell it, which nearly all are.  A decoder that meets anything
else says so, and then a slower reader and writer in Python take over.
"""

from __future__ import annotations

import json
import math
import re
from json.encoder import JSONEncoder
from typing import Any, Final, NoReturn

from attrs import define, frozen

from meshkit.errors import ContentTooLarge, MalformedMessage, NestedTooDeep, NumberNotPortable
from meshkit.feed.floats import (
    MAX_INTEGER,
    MIN_INTEGER,
    canonical_number,
    portable_float,
    write_float,
)

#: serde_json reads arrays and objects nested this deep and no deeper.
MAX_NESTING: Final = 127

#: Messages travel between Egregore nodes as C{{"type":"messages","messages":[...]}}:
#: two levels more.  A deeper message would end the session of whoever is sent it.
MAX_MESSAGE_NESTING: Final = MAX_NESTING - 2

#: ... and the content is one level below its message.
MAX_CONTENT_NESTING: Final = MAX_MESSAGE_NESTING - 1

#: Most bytes of canonical content in a message, here as in Egregore.
MAX_CONTENT_BYTES: Final = 65536

_BRACKETS_AND_STRINGS: Final = re.compile(
    # Possessive, and content with the end of the text in place of a closing quote, so
    # that no text makes it start over.
    r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]',
    re.DOTALL,
)
_HALF: Final = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_OTHER_HALF: Final = r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE: Final = re.compile(rf"{_HALF}{_OTHER_HALF}|(?P<lone>\\u[dD][89a-fA-F])|\\.", re.DOTALL)


@frozen
class Prepared:
    """
    A JSON value together with its canonical text.

    @ivar text: the canonical text.
    @ivar value: what the text says, in Python's types.
    """

    text: str
    value: Any


class Unusual(Exception):
    """A library in C would not write this as it is to be signed."""


class _Number:
    """A number whose canonical spelling differs from Python's."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


# --- writing -----------------------------------------------------------------------


def _refuse_number(_number: object) -> NoReturn:
    raise Unusual


_encoder: Final = JSONEncoder(
    ensure_ascii=False,
    sort_keys=True,
    separators=(",", ":"),
    allow_nan=False,
    check_circular=False,
    default=_refuse_number,
)


def write_string(text: str) -> str:
    """The canonical form of a string, with its quotation marks."""
    return _encoder.encode(text)


def canonicalise(tree: Any) -> Prepared:
    """
    Give a value its canonical text.

    @param tree: from L{read_json}, or a part of it.
    """
    try:
        return Prepared(_encoder.encode(tree), tree)
    except Unusual:
        pieces: list[str] = []
        _write(tree, pieces)
        text = "".join(pieces)
        # What is shown has to be what is signed, hence read from it.
        return Prepared(text, json.loads(text))


def _write(tree: Any, pieces: list[str]) -> None:
    """The slow writer.  Recursion ends at L{MAX_NESTING}, which the readers check."""
    if type(tree) is dict:
        opening = "{"
        for key in sorted(tree):
            pieces += (opening, _encoder.encode(key), ":")
            _write(tree[key], pieces)
            opening = ","
        pieces.append("}" if tree else "{}")
    elif type(tree) is list:
        opening = "["
        for item in tree:
            pieces.append(opening)
            _write(item, pieces)
            opening = ","
        pieces.append("]" if tree else "[]")
    elif type(tree) is _Number:
        pieces.append(tree.text)
    else:
        pieces.append(_encoder.encode(tree))


def _spelled(x: float) -> float | _Number:
    """A float, marked if Python would write it in another way."""
    text = write_float(x)
    return x if text == repr(x) else _Number(text)


# --- reading -----------------------------------------------------------------------


def _object_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Unusual
    return members


def usual_float(token: str) -> float:
    """
    Read a number with a fraction or an exponent that Python spells as it is signed.

    @raise Unusual: if it does not.
    """
    x = float(token)
    # Python pads small exponents (1e-07) and nobody else does.
    if repr(x) != token or "e-0" in token:
        raise Unusual
    return x


def _usual_integer(token: str) -> int:
    # 19 digits, or 18 and a minus, are always in range.
    if len(token) < 20 and token != "-0":
        return int(token)
    number = _integer_in_range(token)
    if number is None:
        raise Unusual
    return number


def _integer_in_range(token: str) -> int | None:
    if len(token) <= 20 and token != "-0":
        number = int(token)
        if MIN_INTEGER <= number <= MAX_INTEGER:
            return number
    return None


def _any_integer(token: str) -> int | _Number:
    number = _integer_in_range(token)
    return _Number(canonical_number(token)) if number is None else number


def _no_constant(token: str) -> NoReturn:
    raise MalformedMessage(f"{token} is not a JSON value")


_usual_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_object_once,
    parse_float=usual_float,
    parse_int=_usual_integer,
    parse_constant=_no_constant,
)


def read_json(raw: bytes, max_nesting: int = MAX_NESTING) -> tuple[Any, list[str]]:
    """
    Read a JSON text as strictly as serde_json: UTF-8 without a byte order mark, no
    lone surrogates, no control characters, no C{NaN}, no number beyond a 64-bit float.
    Of a key that is repeated in an object the last value counts.

    @return: the value, for L{canonicalise}, and the keys that the outermost object
        repeats.  Numbers that Python would spell differently are opaque objects.
    @raise NestedTooDeep: if it is nested deeper than C{max_nesting}.
    @raise MalformedMessage: if it is not JSON.
    """
    text = _checked_text(raw, max_nesting)
    try:
        return _decode(_usual_decoder, text), []
    except Unusual:
        pass
    outermost: list[tuple[str, Any]] = []

    def remember(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Objects are finished from the inside out, so the last call is the outermost.
        outermost[:] = pairs
        return dict(pairs)

    decoder = json.JSONDecoder(
        object_pairs_hook=remember,
        parse_float=lambda token: _Number(canonical_number(token)),
        parse_int=_any_integer,
        parse_constant=_no_constant,
    )
    tree = _decode(decoder, text)
    return tree, _repeated(outermost) if type(tree) is dict else []


def _decode(decoder: json.JSONDecoder, text: str) -> Any:
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as e:
        raise MalformedMessage(f"this is not JSON: {e.msg} at character {e.pos}") from None


def _repeated(pairs: list[tuple[str, Any]]) -> list[str]:
    seen: set[str] = set()
    repeated = []
    for key, _ in pairs:
        if key in seen:
            repeated.append(key)
        seen.add(key)
    return repeated


def _checked_text(raw: bytes, max_nesting: int) -> str:
    """Check what the standard decoder does not check."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise MalformedMessage(f"this is not UTF-8: byte {e.start} cannot stand there") from None
    if text.count("[") + text.count("{") > max_nesting:
        _check_nesting(text, max_nesting)
    if "\\u" in text:
        for match in _ESCAPE.finditer(text):
            if match["lone"]:
                raise MalformedMessage(
                    f"character {match.start()} escapes half of a surrogate pair, which is no text"
                )
    return text


def _check_nesting(text: str, max_nesting: int) -> None:
    """
    Refuse deep nesting before the decoder recurses into it.  In a text that is no
    JSON the count is right up to the place where the decoder will stop.
    """
    depth = 0
    for match in _BRACKETS_AND_STRINGS.finditer(text):
        token = match[0]
        if token in ("[", "{"):
            depth += 1
            if depth > max_nesting:
                raise NestedTooDeep(
                    f"the JSON is nested deeper than {max_nesting} levels: flatten it"
                )
        elif token in ("]", "}"):
            depth -= 1


# --- publishing --------------------------------------------------------------------


def prepare_content(value: Any) -> Prepared:
    """
    Make a Python value ready to be signed.

    Floats are moved to the nearest one that every node reads back unchanged
    (L{portable_float}): one in seven changes in its last digit.

    @param value: L{None}, C{bool}, C{int}, C{float}, C{str}, C{list} or C{dict} with
        C{str} keys.
    @raise NumberNotPortable: for a number that other programs read or write in another
        way: not finite, from 1e16 on with a fraction or exponent, or an integer of
        more than 64 bits.
    @raise NestedTooDeep: if it is nested deeper than L{MAX_CONTENT_NESTING}.
    @raise ContentTooLarge: if its text has more than L{MAX_CONTENT_BYTES}.
    @raise MalformedMessage: for other types, and for strings that are not Unicode.
    """
    return _checked_size(canonicalise(_Copier().copy(value, 0)))


def prepare_content_text(text: bytes | str) -> Prepared:
    """
    Make a JSON text ready to be signed, like L{prepare_content}, but from the numbers
    as they are written.  An object that repeats a key is refused: no reader could know
    which of the values its author meant.

    @raise FeedError: as L{prepare_content}, and L{MalformedMessage} if it is not JSON.
    """
    if isinstance(text, str):
        try:
            text = text.encode("utf-8")
        except UnicodeEncodeError:
            raise _not_unicode() from None
    return _checked_size(
        canonicalise(_decode(_publish_decoder, _checked_text(text, MAX_CONTENT_NESTING)))
    )


def _checked_size(prepared: Prepared) -> Prepared:
    try:
        size = len(prepared.text.encode("utf-8"))
    except UnicodeEncodeError:
        raise _not_unicode() from None
    check_content_size(size)
    return prepared


def check_content_size(size: int) -> None:
    """
    @param size: bytes of canonical content.
    @raise ContentTooLarge: if it is over L{MAX_CONTENT_BYTES}.
    """
    if size > MAX_CONTENT_BYTES:
        raise ContentTooLarge(
            f"the content has {size} bytes and a message carries {MAX_CONTENT_BYTES} at most: "
            "split it, or publish where it can be had and its hash"
        )


def _not_unicode() -> MalformedMessage:
    return MalformedMessage("a string of the content holds half of a surrogate pair: no text does")


def _publish_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        name = _repeated(pairs)[0]
        raise MalformedMessage(f"an object of the content has the key {name[:80]!r} twice")
    return members


def _publish_integer(token: str) -> int | float:
    if token == "-0":
        return -0.0
    number = _integer_in_range(token)
    if number is None:
        raise _integer_too_large(token)
    return number


def _integer_too_large(token: str) -> NumberNotPortable:
    return NumberNotPortable(
        f"the integer {token[:40]} has more than 64 bits, which other programs round: "
        "publish it as a string"
    )


def _publish_float(token: str) -> float | _Number:
    x = float(token)
    if math.isinf(x):
        raise NumberNotPortable(
            f"the number {token[:40]} is too large for a 64-bit float: publish it as a string"
        )
    return _spelled(portable_float(x))


_publish_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_publish_object,
    parse_float=_publish_float,
    parse_int=_publish_integer,
    parse_constant=_no_constant,
)


@define
class _Copier:
    """
    Copies a Python value, checking and normalising it on the way.

    @ivar left: how many values there may still be.  Each takes a byte at least, so
        that a list which holds another one a thousand times ends early.
    """

    left: int = MAX_CONTENT_BYTES

    def copy(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0:
            check_content_size(MAX_CONTENT_BYTES + 1)
        kind = type(value)
        if value is None or kind is str or kind is bool:
            return value
        if kind is int:
            if not MIN_INTEGER <= value <= MAX_INTEGER:
                raise _integer_too_large(str(value) if value.bit_length() < 99 else hex(value))
            return value
        if kind is float:
            return _spelled(portable_float(value))
        if kind is not list and kind is not dict:
            raise MalformedMessage(
                f"the content holds a {kind.__name__}: JSON has objects, arrays, strings, "
                "numbers, true, false and null"
            )
        if depth == MAX_CONTENT_NESTING:
            raise NestedTooDeep(
                f"the content is nested deeper than {MAX_CONTENT_NESTING} levels: flatten it"
            )
        if kind is list:
            return [self.copy(item, depth + 1) for item in value]
        for key in value:
            if type(key) is not str:
                raise MalformedMessage(f"the content has the key {key!r:.80}: keys are strings")
        return {key: self.copy(item, depth + 1) for key, item in value.items()}
