"""What the part C{hooks} offers at the doors."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import (
    NotFound,
    Overloaded,
    StorageFailed,
)
from meshkit.operations import Nothing, Operation

# Of whatever needs the database.
_KEPT: Final = (StorageFailed, Overloaded)


class HookStatus(msgspec.Struct):
    """
    How one hook is doing.

    @ivar name: its name.
    @ivar kind: C{command} or C{webhook}.
    @ivar target: the program, or scheme, host and port of the address.
    @ivar state: C{idle}: all is delivered; C{delivering}; C{waiting}: for the next attempt,
        or for what C{per_minute} grants; C{held}: it has parked as many messages as it may,
        and waits for its operator; C{broken}: a fault ended it.
    @ivar next_attempt: seconds until it goes on, if it is C{waiting}.
    @ivar position: place in the store up to which all is done.
    @ivar behind: messages of all kinds that were stored after that.
    @ivar delivered: messages that were taken since the start.
    @ivar failures: attempts that failed since the start.
    @ivar failing: attempts that failed in a row.
    @ivar parked: messages that were given up.
    @ivar last_error: how the last attempt failed that did, since the start.
    @ivar last_delivered: when a message was taken last, since the start; RFC 3339.
    """

    name: str
    kind: Literal["command", "webhook"]
    target: str
    state: str
    next_attempt: float | None
    position: int
    behind: int
    delivered: int
    failures: int
    failing: int
    parked: int
    last_error: str | None
    last_delivered: str | None


class HooksStatus(msgspec.Struct):
    """
    @ivar hooks: them, commands first.
    @ivar idle: why this part does nothing, if it does nothing.
    """

    hooks: list[HookStatus]
    idle: str | None = None


class ListParked(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(description="the hook's name in the configuration")]
    after: Annotated[int, Meta(ge=0, description="begin after this position")] = 0
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many at most")] = 100


class ParkedMessage(msgspec.Struct):
    """
    A message that a hook has given up.

    @ivar position: by which it is named here.
    @ivar hash: by which C{/v1/message/HASH} finds it.
    @ivar author: its author's id.
    @ivar sequence: its place in the author's feed.
    @ivar attempts: how many failed.
    @ivar parked: when it was given up; RFC 3339.
    @ivar error: how the last attempt failed.
    @ivar again: it is about to be tried once more.
    """

    position: int
    hash: str
    author: str
    sequence: int
    attempts: int
    parked: str
    error: str
    again: bool


class Some(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(description="the hook's name in the configuration")]
    position: Annotated[
        int | None, Meta(description="of one parked message; left out, all of them")
    ] = None


class Concerned(msgspec.Struct):
    """@ivar count: parked messages that this concerns."""

    count: int


LIST = Operation(
    name="hooks_list",
    method="GET",
    path="/v1/hooks",
    request=Nothing,
    answer=list[HookStatus],
    doc="The commands and webhooks of the configuration, and how each is doing.",
    untrusted=True,
)
PARKED = Operation(
    name="hooks_parked",
    method="GET",
    path="/v1/hooks/{name}/parked",
    request=ListParked,
    answer=list[ParkedMessage],
    doc="The messages that a hook has given up, in the order in which they were stored.",
    untrusted=True,
    errors=(NotFound, *_KEPT),
)
RETRY = Operation(
    name="hooks_retry",
    method="POST",
    path="/v1/hooks/{name}/retry",
    request=Some,
    answer=Concerned,
    doc="Try parked messages once more, and make the next attempt of the hook now.",
    permission="write",
    success=202,
    open_world=True,
    errors=(NotFound, *_KEPT),
)
DISCARD = Operation(
    name="hooks_discard",
    method="POST",
    path="/v1/hooks/{name}/discard",
    request=Some,
    answer=Concerned,
    doc="Forget parked messages: the hook never gets them.  They stay in their feeds.",
    permission="write",
    destructive=True,
    idempotent=True,
    errors=(NotFound, *_KEPT),
)
