"""What the part C{feed} offers at the doors."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshkit.operations import Operation

Limit = Annotated[int, Meta(ge=1, le=200, description="how many at most")]
Offset = Annotated[int, Meta(ge=0, le=1_000_000, description="how many to skip")]
ContentType = Annotated[
    str, Meta(max_length=256, description="only messages whose content has this type")
]


class Publish(msgspec.Struct, forbid_unknown_fields=True):
    """
    A message to sign and append to this node's feed.

    C{content} stays raw JSON until it is canonicalised: its numbers are signed as
    they are written.
    """

    content: Annotated[msgspec.Raw, Meta(description="any JSON value, at most 64 KiB")]
    schema_id: str | None = None
    relates: Annotated[str | None, Meta(description="hash of the message this one is about")] = None
    tags: list[str] = []
    trace_id: str | None = None
    span_id: str | None = None
    expires_at: Annotated[str | None, Meta(description="RFC 3339 time")] = None


class PublishBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Contents to publish as one message each, all or none."""

    contents: Annotated[
        list[msgspec.Raw],
        Meta(min_length=1, max_length=10_000, description="any JSON values, at most 64 KiB each"),
    ]


class Published(msgspec.Struct):
    """
    What a batch became.

    @ivar count: how many messages.
    @ivar first: sequence number of the first.
    @ivar last: sequence number of the last.
    @ivar last_hash: hash of the last.
    """

    count: int
    first: int
    last: int
    last_hash: str


class ListFeed(msgspec.Struct, forbid_unknown_fields=True):
    include_self: Annotated[bool, Meta(description="include this node's own messages")] = False
    content_type: ContentType | None = None
    limit: Limit = 50
    offset: Offset = 0


class ListAuthor(msgspec.Struct, forbid_unknown_fields=True):
    author: Annotated[str, Meta(description="@<base64>.ed25519, URL-safe base64 allowed")]
    content_type: ContentType | None = None
    limit: Limit = 50
    offset: Offset = 0


class ListInsights(msgspec.Struct, forbid_unknown_fields=True):
    limit: Limit = 50
    offset: Offset = 0


class Search(msgspec.Struct, forbid_unknown_fields=True):
    q: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1_000,
            description='words that must all occur; "quoted words" must stand together',
        ),
    ]
    limit: Limit = 20
    offset: Offset = 0


class MessageByHash(msgspec.Struct, forbid_unknown_fields=True):
    hash: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="64 hex digits")]


# A message is shown as its author wrote it, with "chain_valid" added at the end.
MessageText = msgspec.Raw

PUBLISH = Operation(
    name="feed_publish",
    method="POST",
    path="/v1/publish",
    request=Publish,
    answer=MessageText,
    doc="Sign a message and append it to this node's feed; answered when it is on the disk.",
    permission="write",
    success=201,
)
PUBLISH_BATCH = Operation(
    name="feed_publish_batch",
    method="POST",
    path="/v1/publish/batch",
    request=PublishBatch,
    answer=Published,
    doc="Publish many messages at once: all of them, or none.",
    permission="write",
    success=201,
    max_body=16 * 1024 * 1024,
)
LIST = Operation(
    name="feed_list",
    method="GET",
    path="/v1/feed",
    request=ListFeed,
    answer=MessageText,
    doc="Messages of others (and, with include_self, one's own), newest first.",
    paged=True,
)
AUTHOR = Operation(
    name="feed_author",
    method="GET",
    path="/v1/feed/{author}",
    request=ListAuthor,
    answer=MessageText,
    doc="Messages of one author, newest first.",
    paged=True,
)
INSIGHTS = Operation(
    name="feed_insights",
    method="GET",
    path="/v1/insights",
    request=ListInsights,
    answer=MessageText,
    doc="Messages whose content has the type 'insight', newest first.",
    paged=True,
)
SEARCH = Operation(
    name="feed_search",
    method="GET",
    path="/v1/insights/search",
    request=Search,
    answer=MessageText,
    doc="Full-text search over the content of all messages, best match first.",
    paged=True,
)
MESSAGE = Operation(
    name="feed_message",
    method="GET",
    path="/v1/message/{hash}",
    request=MessageByHash,
    answer=MessageText,
    doc="One message by its hash.",
)


class FeedStatus(msgspec.Struct):
    """
    @ivar messages: how many messages are stored.
    @ivar feeds: of how many authors.
    @ivar refused: how many received messages were refused since the start, by code.
    """

    messages: int
    feeds: int
    refused: dict[str, Any]
