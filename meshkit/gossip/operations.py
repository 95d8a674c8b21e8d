"""What the part C{gossip} offers at the doors."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import (
    InvalidPublicKey,
    Overloaded,
    SelectionConfigured,
    StorageFailed,
)
from meshkit.operations import Id, Nothing, Operation

# Of whatever needs the database.
_KEPT: Final = (StorageFailed, Overloaded)


class Follow(msgspec.Struct, forbid_unknown_fields=True):
    author: Annotated[Id, Meta(description="@<base64>.ed25519, URL-safe base64 allowed")]


Origin = Literal["config", "added"]


class Followed(msgspec.Struct):
    """
    @ivar author: C{@<base64>.ed25519}.
    @ivar origin: where that stands: in the setting C{gossip.follow}, or it was added by an
        operation.
    """

    author: str
    origin: Origin


FOLLOWS = Operation(
    name="follows_list",
    method="GET",
    path="/v1/follows",
    request=Nothing,
    answer=list[Followed],
    doc="Whom this node follows.  With no topics either, it replicates everybody.",
)
FOLLOW = Operation(
    name="follows_add",
    method="POST",
    path="/v1/follows/{author}",
    request=Follow,
    answer=Followed,
    doc="Follow an author: from the first follow on, only followed feeds are asked for.",
    permission="write",
    success=201,
    idempotent=True,
    errors=(InvalidPublicKey, *_KEPT),
)
UNFOLLOW = Operation(
    name="follows_remove",
    method="DELETE",
    path="/v1/follows/{author}",
    request=Follow,
    answer=None,
    doc="Stop following an author.  What is stored stays.",
    permission="write",
    success=204,
    idempotent=True,
    errors=(InvalidPublicKey, SelectionConfigured, *_KEPT),
)


class Topic(msgspec.Struct, forbid_unknown_fields=True):
    topic: Annotated[str, Meta(min_length=1, max_length=256, description="a tag, as spelled")]


class Subscribed(msgspec.Struct):
    """
    @ivar topic: the tag.
    @ivar origin: as L{Followed.origin}; the setting is C{gossip.topics}.
    """

    topic: str
    origin: Origin


TOPICS = Operation(
    name="topics_list",
    method="GET",
    path="/v1/topics",
    request=Nothing,
    answer=list[Subscribed],
    doc="The tags that this node subscribes to.",
)
SUBSCRIBE = Operation(
    name="topics_add",
    method="POST",
    path="/v1/topics/{topic}",
    request=Topic,
    answer=Subscribed,
    doc="Subscribe to a tag: the whole feeds of those who have used it are replicated.",
    permission="write",
    success=201,
    idempotent=True,
    errors=_KEPT,
)
UNSUBSCRIBE = Operation(
    name="topics_remove",
    method="DELETE",
    path="/v1/topics/{topic}",
    request=Topic,
    answer=None,
    doc="Subscribe to a tag no more.  What is stored stays.",
    permission="write",
    success=204,
    idempotent=True,
    errors=(SelectionConfigured, *_KEPT),
)


class LinkStatus(msgspec.Struct):
    """
    A connection to a peer.

    @ivar peer: its id.
    @ivar dialled: this node opened it.
    @ivar received: messages that came from it and were new.
    @ivar sent: messages that it was given.
    @ivar fetching: feeds being fetched from it now.
    @ivar on: feeds that come from it as they are written.
    @ivar lacks: feeds that it replicates, as it says, and of which it had less than this node in
        two comparisons that were a minute apart, and no more in the second: it is very slow, has
        no room, or withholds what it has.
    """

    peer: str
    dialled: bool
    received: int
    sent: int
    fetching: int
    on: int
    lacks: int


class GossipStatus(msgspec.Struct):
    """
    @ivar links: open connections, in the order in which they were opened.
    @ivar follows: how many authors are followed; 0, without topics, means everybody.
    @ivar topics: how many tags are subscribed to.
    @ivar tagged: how many authors are known to have used one of them.
    @ivar refused: messages from peers that were refused since the start, by code.
    @ivar broken: connections that ended in an error since the start, by code.
    @ivar hindered: connections that were closed since the start because of a problem of
        this node, by code.
    @ivar idle: why this part does nothing, if it does nothing.
    """

    links: list[LinkStatus]
    follows: int
    refused: dict[str, int]
    broken: dict[str, int]
    hindered: dict[str, int]
    idle: str | None = None
    topics: int = 0
    tagged: int = 0
