"""
The schemas that this node knows, and what it makes of contents by them.

A content is checked by the schema that its message names (C{schema_id}), or else by the
first version for its C{type}.  One for which no schema is known is not checked.  What
others wrote is never refused for its schema, as that would leave a gap in their feed: it
is shown with C{schema_valid}, looked at when it is shown, so that a schema that is added
later counts for what was stored before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from meshkit.errors import NotFound, SchemaInvalid, SchemaMismatch
from meshkit.feed import operations as offered
from meshkit.feed.schemas import PUBLISH_STEPS, SHOW_STEPS, Misfit, Schema, TooCostly, parse_schema
from meshkit.feed.timestamps import format_timestamp
from meshkit.operations import Nothing
from meshkit.parts import shield

Mode = Literal["strict", "lenient"]

#: How many schemas a node keeps.
MAX_SCHEMAS: Final = 256


class Schemas:
    """
    See the module.  Its operations are for the reactor's thread; L{problem} and
    L{is_valid} may be called from any.
    """

    _log = Logger()

    def __init__(self, database: Any, wall_clock: Callable[[], int], mode: Mode) -> None:
        """
        @param database: L{meshkit.runtime.database.Database}.
        @param wall_clock: nanoseconds since 1970.
        @param mode: C{strict} refuses to publish what does not fit; C{lenient} says so.
        """
        self._database = database
        self._wall_clock = wall_clock
        self._strict = mode == "strict"
        # Replaced as a whole, so that a thread sees one state.
        self._known: Mapping[str, Schema] = {}
        self._added: Mapping[str, int] = {}

    async def load(self) -> None:
        """Read what is stored.  Nothing else is called before this is done."""
        rows = await self._database.read(_all_schemas)
        known: dict[str, Schema] = {}
        for name, text, _ in rows:
            try:
                known[name] = parse_schema(name, text)
            except SchemaInvalid as e:
                # Another version took it; it is kept for that one.
                self._log.warn("{why}: contents are not checked by it", why=str(e))
        self._known = known
        self._added = {name: added_ns for name, _, added_ns in rows}

    # --- checking ------------------------------------------------------------------

    def _schema_of(self, content: Any, schema_id: str | None) -> Schema | None:
        if schema_id is None:
            kind = content.get("type") if isinstance(content, dict) else None
            if not isinstance(kind, str):
                return None
            schema_id = f"{kind}/v1"
        return self._known.get(schema_id)

    def concerns(self, content: Any, schema_id: str | None) -> bool:
        """Is there a schema for a content?  Then to check it is for a thread."""
        return self._schema_of(content, schema_id) is not None

    def problem(self, content: Any, schema_id: str | None) -> str | None:
        """
        What is wrong with a content that is to be published.

        @return: a sentence for the publisher; L{None} if nothing is.
        @raise SchemaMismatch: in its place, if this node is strict.
        """
        schema = self._schema_of(content, schema_id)
        if schema is None:
            return None
        try:
            misfit = schema.misfit(content, PUBLISH_STEPS)
        except TooCostly:
            misfit = Misfit(schema.name, "", "#", "checking it takes too long")
        if misfit is None:
            return None
        if self._strict:
            raise SchemaMismatch(
                str(misfit), schema=misfit.schema, pointer=misfit.pointer, rule=misfit.rule
            )
        return str(misfit)

    def is_valid(self, content: Any, schema_id: str | None) -> bool | None:
        """
        Does a content fit its schema?

        @return: L{None} if there is none, or if checking it takes too long.
        """
        schema = self._schema_of(content, schema_id)
        if schema is None:
            return None
        try:
            return schema.misfit(content, SHOW_STEPS) is None
        except TooCostly:
            return None

    @property
    def empty(self) -> bool:
        """There is nothing to check contents by."""
        return not self._known

    # --- the doors -----------------------------------------------------------------

    async def answer_list(self, request: Nothing) -> list[offered.SchemaSummary]:
        return [self._summary(name) for name in sorted(self._known)]

    def _summary(self, name: str) -> offered.SchemaSummary:
        return offered.SchemaSummary(
            name=name,
            bytes=len(self._known[name].text),
            added=format_timestamp(self._added[name]),
        )

    async def answer_show(self, request: offered.SchemaName) -> msgspec.Raw:
        return msgspec.Raw(self._get(request.name).text)

    def _get(self, name: str) -> Schema:
        if name not in self._known:
            raise NotFound(f"there is no schema {name} here")
        return self._known[name]

    def answer_add(self, request: offered.AddSchema) -> Deferred[offered.SchemaSummary]:
        return shield(self._add(request))

    async def _add(self, request: offered.AddSchema) -> offered.SchemaSummary:
        schema = parse_schema(request.name, bytes(request.schema))
        if schema.name not in self._known and len(self._known) >= MAX_SCHEMAS:
            raise SchemaInvalid(f"{MAX_SCHEMAS} schemas are kept: remove one first")
        now_ns = self._wall_clock()
        await self._database.write(
            lambda connection: (
                connection.execute(
                    "INSERT OR REPLACE INTO feed_schemas VALUES (?, ?, ?)",
                    (schema.name, schema.text, now_ns),
                ).rowcount
            )
        )
        self._known = {**self._known, schema.name: schema}
        self._added = {**self._added, schema.name: now_ns}
        return self._summary(schema.name)

    def answer_remove(self, request: offered.SchemaName) -> Deferred[None]:
        return shield(self._remove(request.name))

    async def _remove(self, name: str) -> None:
        self._get(name)
        await self._database.write(
            lambda connection: (
                connection.execute("DELETE FROM feed_schemas WHERE name = ?", (name,)).rowcount
            )
        )
        self._known = {each: schema for each, schema in self._known.items() if each != name}


def _all_schemas(connection: sqlite3.Connection) -> list[tuple[str, bytes, int]]:
    return connection.execute(
        "SELECT name, text, added_ns FROM feed_schemas ORDER BY name"
    ).fetchall()
