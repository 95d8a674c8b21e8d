"""
All that a server offers at a time, by kind and name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from meshkit.errors import McpRefused
from meshkit.web.mcp import wire
from meshkit.web.mcp.catalogue import Tool, Validate, schema_validator
from meshkit.web.mcp.mirrors import Mirror, find_mirrors


class Offers:
    """
    @ivar tools: by name.
    @ivar resources: by URI.
    @ivar templates: by their form.
    @ivar prompts: by name.
    @ivar validators: what judges the arguments of a tool, by its name.
    @ivar mirrors: which of them a header repeats; only of tools that have some.
    """

    def __init__(self) -> None:
        self.tools = Shelf("tool")
        self.resources = Shelf("resource")
        self.templates = Shelf("template")
        self.prompts = Shelf("prompt")
        self.validators: dict[str, Validate] = {}
        self.mirrors: dict[str, tuple[Mirror, ...]] = {}

    def add_tool(self, tool: Tool) -> None:
        """@raise ValueError: if there is one of that name, or its schema is none."""
        validate = tool.validate or schema_validator(tool.input_schema)
        mirrors = find_mirrors(tool.input_schema)
        self.tools.add(tool.name, tool)
        self.validators[tool.name] = validate
        if mirrors:
            self.mirrors[tool.name] = mirrors

    def remove_tool(self, name: str) -> None:
        """@raise KeyError: if there is none of that name."""
        self.tools.remove(name)
        del self.validators[name]
        self.mirrors.pop(name, None)

    @property
    def has_resources(self) -> bool:
        """Is there anything to read?"""
        return len(self.resources) + len(self.templates) > 0

    @property
    def has_completions(self) -> bool:
        """Is there anything to complete?"""
        return any(
            thing.complete is not None
            for shelf in (self.prompts, self.templates)
            for thing in shelf
        )


class Shelf:
    """
    Things of one kind, in the order in which they were added.

    A list that is long is given in pages; a page goes on after the name at which the last
    one ended.
    """

    def __init__(self, kind: str) -> None:
        """@param kind: what the things are called in a message."""
        self._kind = kind
        self._things: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._things)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._things.values())

    def add(self, key: str, thing: Any) -> None:
        """@raise ValueError: if there is one of that name."""
        if key in self._things:
            raise ValueError(f"there is a {self._kind} {key!r} already")
        self._things[key] = thing

    def remove(self, key: str) -> None:
        """@raise KeyError: if there is none of that name."""
        del self._things[key]

    def find(self, key: str, caller: Any, view: Any) -> Any:
        """@return: what is offered under a name; L{None} if nothing is."""
        found = self._things.get(key)
        return found if found is not None and found.shown(caller, view) else None

    def page(
        self, cursor: str | None, size: int, caller: Any, view: Any
    ) -> tuple[list[dict[str, Any]], str | None]:
        """
        @return: the entries of a page, and where the next one begins, if there is one.
        @raise McpRefused: if the cursor is none of ours, or what it names is gone.
        """
        keys = list(self._things)
        start = 0 if cursor is None else self._after(cursor, keys)
        entries: list[dict[str, Any]] = []
        last = ""
        for key in keys[start:]:
            thing = self._things[key]
            if not thing.shown(caller, view):
                continue
            if len(entries) == size:
                return entries, msgspec.to_builtins(last.encode("utf-8"))
            entries.append(thing.entry())
            last = key
        return entries, None

    def _after(self, cursor: str, keys: Sequence[str]) -> int:
        try:
            return keys.index(msgspec.convert(cursor, bytes).decode("utf-8")) + 1
        except (msgspec.ValidationError, ValueError):
            raise McpRefused(
                wire.INVALID_PARAMS,
                f"the cursor is none of this list of {self._kind}s, or the list has changed: "
                f"begin without one",
            ) from None
