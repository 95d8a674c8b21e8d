"""How stored messages are shown at the doors of this node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from attrs import frozen

from meshkit.feed.sealing import open_message
from meshkit.feed.search import shown
from meshkit.feed.store import Row
from meshkit.identity.keys import Identity


@frozen(eq=False)
class Presenter:
    """
    Adds to messages what this node knows of them.  It may be called from any thread, and
    is best called from one that may take its time: opening a sealed message takes up to
    some milliseconds.

    @ivar identity: this node's, which opens what is sealed for it.
    """

    identity: Identity

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
        return shown(row, snippet, members)
