"""The section C{[forwarding]}.  Pure."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.interfaces import Retention

_DAY: Final = 86_400
_YEARS: Final = 100 * 366 * _DAY


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[forwarding]}: how long and how much is kept of the feeds of peers."""

    ttl: Annotated[
        int,
        Meta(
            ge=0,
            le=_YEARS,
            description="seconds for which a message is kept since it came here, whatever its "
            "author's clock says; 0: for ever",
        ),
    ] = 30 * _DAY
    author_messages: Annotated[
        int, Meta(ge=0, description="keep the newest so many messages of each author; 0: all")
    ] = 0
    author_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="keep the newest so many bytes of text of each author; 0: all",
            extra={"size": True},
        ),
    ] = 64 * 2**20
    messages: Annotated[
        int,
        Meta(
            ge=0,
            description="keep so many messages in all: beyond that, authors give who have most; 0: "
            "all",
        ),
    ] = 0
    bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="keep so many bytes of text in all: beyond that, authors give who have "
            "most; 0: all",
            extra={"size": True},
        ),
    ] = 4 * 2**30

    @property
    def retention(self) -> Retention:
        return Retention(
            self.ttl, self.author_messages, self.author_bytes, self.messages, self.bytes
        )
