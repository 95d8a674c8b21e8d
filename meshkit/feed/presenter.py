"""How stored messages are shown at the doors of this node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from attrs import frozen

from meshkit.feed.schema_registry import Schemas
from meshkit.feed.sealing import Sealed, open_message
from meshkit.feed.search import shown
from meshkit.feed.store import Row
from meshkit.identity.keys import Identity


class _Said(msgspec.Struct):
    content: Any
    schema_id: str | None = None


@frozen(eq=False)
class Presenter:
    """
    Adds to messages what this node knows of them.  It may be called from any thread, and
    is best called from one that may take its time: opening a sealed message takes up to
    some milliseconds.

    @ivar identity: this node's, which opens what is sealed for it.
    @ivar schemas: by which contents are checked.
    """

    identity: Identity
    schemas: Schemas

    def show(
        self,
        row: Row,
        snippet: Sequence[str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> msgspec.Raw:
        """See L{meshkit.feed.search.shown}."""
        members = dict(more or {})
        sealed = open_message(self.identity, row.raw)
        if sealed is not None:
            members |= sealed.members()
        if not self.schemas.empty:
            members |= self._schema_valid(row, sealed)
        return shown(row, snippet, members)

    def _schema_valid(self, row: Row, sealed: Sealed | None) -> dict[str, bool]:
        """Does the content, or what was sealed, fit its schema?  Nothing if there is none."""
        if sealed is None:
            message = msgspec.json.decode(row.raw, type=_Said)
            valid = self.schemas.is_valid(message.content, message.schema_id)
        elif sealed.content is None:
            return {}
        else:
            valid = self.schemas.is_valid(sealed.content.value, sealed.schema_id)
        return {} if valid is None else {"schema_valid": valid}
