"""
JSON Schemas of contents: which can be registered, and whether a content fits one.  Pure.

The language is JSON Schema 2020-12, checked by C{jsonschema}, less what would let a
schema reach out or cost without bound: references go to its own C{$defs}, and what is
left out is said when a schema is added (L{parse_schema}).

What peers write is checked as well, so a check costs a bounded number of steps, whatever
schema and content are: one for each keyword that is looked at, more for those that look
at much.  Regular expressions are held to forms that Python's C{re}, which can be made to
try for hours, matches in a bounded time: L{check_pattern}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

import msgspec
from attrs import define, field, frozen

from meshkit.errors import SchemaInvalid

#: Bytes of a schema.
MAX_SCHEMA_BYTES: Final = 32 * 1024
#: Steps of a check when a message is published, and when it is shown in a list.
PUBLISH_STEPS: Final = 20_000
SHOW_STEPS: Final = 2_000
#: Characters of a text that C{pattern} is tried on.
MAX_MATCHED: Final = 1_024
#: Characters of a pattern.
MAX_PATTERN: Final = 256

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_SHOWN: Final = 200

# Where schemas are inside a schema.
_ONE: Final = (
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
)
_MANY: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED: Final = ("$defs", "dependentSchemas", "properties")
_REFUSED: Final = {
    "$anchor": "name it in $defs",
    "$dynamicAnchor": "name it in $defs",
    "$dynamicRef": "use $ref",
    "$id": "a schema is named by its type and version",
    "$recursiveRef": "use $ref",
    "patternProperties": "use propertyNames and additionalProperties",
    "unevaluatedItems": "use items",
    "unevaluatedProperties": "use additionalProperties",
}
# Keywords whose cost grows with what stands in the schema: a step for so many of it.
_BY_SIZE: Final = ("dependentRequired", "enum", "properties", "required")
_SIZE_STEP: Final = 16
_PATTERN_STEP: Final = 1_000

Rule = Callable[[Any, Any, Any, Any], Any]


class TooCostly(Exception):
    """A check took more steps than it may."""


@define
class _Budget:
    left: int


_budget: Final[ContextVar[_Budget]] = ContextVar("budget")


def _spend(steps: int) -> None:
    budget = _budget.get()
    budget.left -= steps
    if budget.left < 0:
        raise TooCostly


@frozen
class Misfit:
    """
    Why a content does not fit a schema.

    @ivar schema: the schema's name.
    @ivar pointer: where in the content, a JSON pointer; C{""} is the whole.
    @ivar rule: where in the schema, likewise.
    @ivar reason: what is wrong there.
    """

    schema: str
    pointer: str
    rule: str
    reason: str

    def __str__(self) -> str:
        place = f"at {self.pointer}" if self.pointer else "as a whole"
        return (
            f"the content does not fit the schema {self.schema} {place}: {self.reason} "
            f"(rule {self.rule})"
        )


@frozen(eq=False)
class Schema:
    """
    A schema that contents can be checked with.

    @ivar name: type and version: C{note/v1}.
    @ivar text: as it was added.
    """

    name: str
    text: bytes = field(repr=False)
    _tree: Any = field(repr=False)

    def misfit(self, content: Any, steps: int) -> Misfit | None:
        """
        The first thing that is wrong with a content.  It may be called from any thread.

        @param steps: how many it may take.
        @return: L{None} if it fits.
        @raise TooCostly: if that is not known after so many.
        """
        token = _budget.set(_Budget(steps))
        try:
            error = next(_validator()(self._tree, registry=_registry()).iter_errors(content), None)
        except RecursionError:
            raise TooCostly from None
        finally:
            _budget.reset(token)
        if error is None:
            return None
        reason = str(error.message)
        if len(reason) > _SHOWN:
            reason = f"{reason[: _SHOWN // 2]} ... {reason[-_SHOWN // 2 :]}"
        return Misfit(self.name, _pointer(error.path), f"#{_pointer(error.schema_path)}", reason)


def _pointer(path: Any) -> str:
    """RFC 6901."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def parse_schema(name: str, text: bytes) -> Schema:
    """
    Read a schema and check that it can be used.

    @param name: type and version.
    @raise SchemaInvalid: if it cannot, saying where in it and why.
    """
    if len(text) > MAX_SCHEMA_BYTES:
        raise SchemaInvalid(
            f"the schema {name} has {len(text)} bytes, {MAX_SCHEMA_BYTES} are the limit"
        )
    try:
        tree = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise SchemaInvalid(f"the schema {name} is not JSON: {e}") from None
    if type(tree) is not dict:
        raise SchemaInvalid(f"the schema {name} is not a JSON object")
    if tree.get("$schema", _DIALECT) != _DIALECT:
        raise SchemaInvalid(
            f"the schema {name} is in another language than {_DIALECT}: rewrite it in that one"
        )
    try:
        problem = _form_problem(tree) or _problem(tree, tree, "#")
    except RecursionError:
        problem = "it is nested too deep"
    if problem is not None:
        raise SchemaInvalid(f"the schema {name} cannot be used: {problem}")
    return Schema(name, text, tree)


def _form_problem(tree: Any) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(tree)
    except SchemaError as e:
        return f"#{_pointer(e.path)}: {str(e.message)[:_SHOWN]}"
    return None


def _problem(root: Any, tree: Any, place: str) -> str | None:
    """What keeps a schema, whose form is right, from being used; looked for in all of it."""
    if isinstance(tree, bool):
        return None
    for keyword, instead in _REFUSED.items():
        if keyword in tree:
            return f"{place}/{keyword} is not supported here: {instead}"
    target = tree.get("$ref")
    if target is not None and not _resolves(root, target):
        return (
            f"{place}/$ref is {target[:80]!r}; it has to be # or #/$defs/NAME, which has to exist"
        )
    if "pattern" in tree:
        problem = check_pattern(tree["pattern"])
        if problem is not None:
            return f"{place}/pattern {problem}"
    inner: list[tuple[str, Any]] = [(name, tree[name]) for name in _ONE if name in tree]
    for name in _MANY:
        inner += [(f"{name}/{number}", each) for number, each in enumerate(tree.get(name, ()))]
    for name in _NAMED:
        inner += [(f"{name}/{key}", each) for key, each in tree.get(name, {}).items()]
    problems = (_problem(root, each, f"{place}/{name}") for name, each in inner)
    return next((problem for problem in problems if problem is not None), None)


def _resolves(root: Any, target: str) -> bool:
    if target == "#":
        return True
    name = target.removeprefix("#/$defs/")
    return (
        name != target
        and re.fullmatch(r"[\w.-]+", name) is not None
        and (name in root.get("$defs", {}))
    )


# --- patterns ----------------------------------------------------------------------

_ATOM: Final = re.compile(
    r"""
    (?P<set> \[ \^? \]? (?: \\. | [^\]\\] )* \] )
  | (?P<open> \( (?: \?: )? )
  | (?P<close> \) )
  | (?P<or> \| )
  | (?P<repeat> (?: [*+?] | \{ (?P<low> \d+ )? (?P<comma> ,? ) (?P<high> \d+ )? \} ) [?+]? )
  | (?P<escape> \\ [^0-9] )
  | (?P<plain> [^\\\[\](){}*+?|] )
    """,
    re.VERBOSE | re.DOTALL,
)
#: A repetition with no more choices than this is as good as writing them out.
_SMALL: Final = 32
#: In how many ways the alternatives and small repetitions of a pattern can be chosen.
MAX_WAYS: Final = 64


@define
class _Group:
    """
    @ivar repeats: there is a repetition in it, or more than one alternative.
    @ivar choices: how many alternatives it has.
    """

    repeats: bool = False
    choices: int = 1


@define
class _Scan:
    """
    A pattern, as far as it was read.

    @ivar wide: repetitions with many choices.
    @ivar ways: in how many ways all else can be chosen.
    """

    groups: list[_Group] = field(factory=lambda: [_Group()])
    wide: int = 0
    ways: int = 1


def check_pattern(pattern: str) -> str | None:
    """
    Can a regular expression be tried on what strangers write?

    Python's engine tries one way after the other, and can be made to try without end: by a
    repetition of what can be split or chosen in several ways, or by many choices in a row.
    So there is none of the former and few of the latter, and one repetition without a small
    limit, or two in a pattern that begins with C{^}.  Then the tries grow with the square
    of the length, and the length is limited too.

    @return: what is wrong with it; L{None} if nothing is.
    """
    if len(pattern) > MAX_PATTERN:
        return f"has {len(pattern)} characters, {MAX_PATTERN} are the limit"
    scan = _Scan()
    last: _Group | None = None
    at = 0
    while at < len(pattern):
        found = _ATOM.match(pattern, at)
        if found is None:
            return (
                f"has {pattern[at : at + 3]!r} at {at}: groups, sets, alternatives and "
                f"repetitions are supported, references and looking around are not"
            )
        at = found.end()
        closed = None
        if found["open"]:
            if pattern[at : at + 1] == "?":
                return f"has '(?' at {found.start()}: of such groups, only (?: is supported"
            scan.groups.append(_Group())
        elif found["close"]:
            if len(scan.groups) == 1:
                return "closes a group that was not opened"
            closed = scan.groups.pop()
            scan.ways *= closed.choices
            scan.groups[-1].repeats |= closed.repeats or closed.choices > 1
        elif found["or"]:
            scan.groups[-1].choices += 1
        elif found["repeat"]:
            low, high = _range(found)
            if high != 1 and last is not None and (last.repeats or last.choices > 1):
                return f"repeats at {found.start()} what repeats or chooses already"
            scan.groups[-1].repeats = True
            if high is None or high - low >= _SMALL:
                scan.wide += 1
            else:
                scan.ways *= high - low + 1
        last = closed
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as e:
        return f"is no regular expression: {e}"
    outermost = scan.groups[0]
    anchored = pattern.startswith(("^", r"\A")) and outermost.choices == 1
    if scan.wide > (2 if anchored else 1):
        return (
            f"has {scan.wide} repetitions without a small limit: 2 are possible in a pattern "
            f"that begins with ^ and has no alternatives at the top, 1 in another"
        )
    if scan.ways * outermost.choices > MAX_WAYS:
        return f"can be matched in more than {MAX_WAYS} ways, by its alternatives and repetitions"
    return None


def _range(found: re.Match[str]) -> tuple[int, int | None]:
    """How often something is repeated, at least and at most."""
    text = found["repeat"]
    if text[0] in "*+?":
        return (1 if text[0] == "+" else 0), (1 if text[0] == "?" else None)
    low = int(found["low"] or 0)
    if not found["comma"]:
        return low, low
    return low, int(found["high"]) if found["high"] else None


# --- the checking ------------------------------------------------------------------


@cache
def _registry() -> Any:
    """Of nothing: no schema is fetched from anywhere."""
    from referencing import Registry

    return Registry()


@cache
def _validator() -> Any:
    """The validator of C{jsonschema}, with every keyword counted.  Importing it takes a while."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    rules: Mapping[str, Rule] = Draft202012Validator.VALIDATORS
    counted = {name: _counted(name, rule) for name, rule in rules.items()}
    return extend(
        Draft202012Validator, {**counted, "pattern": _pattern, "uniqueItems": _unique_items}
    )


def _counted(name: str, rule: Rule) -> Rule:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _spend(1 + len(value) // _SIZE_STEP if name in _BY_SIZE else 1)
        yield from rule(validator, value, instance, schema) or ()

    return check


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if not isinstance(instance, str):
        return
    if len(instance) > MAX_MATCHED:
        yield ValidationError(
            f"a text of {len(instance)} characters is not matched with a pattern, {MAX_MATCHED} "
            f"are the limit"
        )
        return
    _spend(1 + len(instance) ** 2 // _PATTERN_STEP)
    if not re.search(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    # jsonschema's own compares each with each where the items cannot be sorted.
    from jsonschema.exceptions import ValidationError

    if not wanted or not isinstance(instance, list):
        return
    _spend(1 + len(instance) // _SIZE_STEP)
    if len({_frozen(item) for item in instance}) < len(instance):
        yield ValidationError("an item stands there twice")


def _frozen(value: Any) -> Any:
    """What is equal for JSON Schema is equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return "object", frozenset((key, _frozen(each)) for key, each in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_frozen, value))
    return ("boolean" if isinstance(value, bool) else "other"), value
