"""
Names under which operations are known elsewhere.

Agents have learned the tools of other programs.  An L{Alias} gives them such a tool, with
its exact name and arguments, made of the operations that a node has: it says how the
arguments become the request of an operation, and the answer what the other program would
have said.  It is never a second implementation: whatever is refused, permitted, counted and
stored is the operation's.

Aliases belong to a I{profile}, the set of tools that one client asks for.  A part brings
those for its own operations by providing L{meshkit.interfaces.IToolAliases}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

_PROFILE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")


class Way(msgspec.Struct, frozen=True):
    """
    One way to answer an alias.

    @ivar operation: the name of the operation.
    @ivar fields: argument of the alias -> field of the operation's request.  An argument
        that was not given is not handed on, so that the operation's default holds.
    @ivar given: this way is taken if this argument was given; L{None}: in any case.
    @ivar fixed: fields of the request that are always the same.
    """

    operation: str
    fields: Mapping[str, str] = {}
    given: str | None = None
    fixed: Mapping[str, Any] = {}


class Alias(msgspec.Struct, frozen=True):
    """
    A tool under the name that it has elsewhere.

    A declaration that makes no sense raises L{ValueError} when it is made.

    @ivar profile: to which set of tools it belongs.
    @ivar name: the tool's exact name.
    @ivar doc: one sentence for agents.
    @ivar arguments: Struct of the exact arguments.  Those that need not be given have the
        default C{msgspec.UNSET}; a C{msgspec.Raw} stays as it was spelt.
    @ivar ways: tried in order; the last is taken in any case.
    @ivar answer: C{answer(data, arguments)} makes of the operation's C{data}, as JSON
        values, what the other program would have answered; L{None}: the same C{data}, its
        text untouched.
    @ivar own_words: C{answer} keeps nothing that peers may have written.
    """

    profile: str
    name: str
    doc: str
    arguments: type[msgspec.Struct]
    ways: tuple[Way, ...]
    answer: Callable[[Any, Any], Any] | None = None
    own_words: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot be the name of a tool")
        if not _PROFILE.fullmatch(self.profile):
            raise ValueError(f"{self.name}: {self.profile!r} cannot be the name of a profile")
        if not self.ways or self.ways[-1].given is not None:
            raise ValueError(f"{self.name}: the last way has to be for all other calls")
        if any(way.given is None for way in self.ways[:-1]):
            raise ValueError(f"{self.name}: there is a way that can never be taken")
        known = {field.encode_name for field in msgspec.structs.fields(self.arguments)}
        for way in self.ways:
            for argument in (*way.fields, *([way.given] if way.given else [])):
                if argument not in known:
                    raise ValueError(f"{self.name}: there is no argument {argument!r}")

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of the operations that it is made of, each once."""
        return tuple(dict.fromkeys(way.operation for way in self.ways))
