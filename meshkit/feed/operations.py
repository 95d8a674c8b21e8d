"""What the part C{feed} offers at the doors."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from meshkit.errors import (
    ContentTooLarge,
    CursorExpired,
    FeedForked,
    FeedReadOnly,
    InvalidPublicKey,
    InvalidSequence,
    KeyReused,
    LimitReached,
    MalformedMessage,
    NestedTooDeep,
    NotFound,
    NumberNotPortable,
    Overloaded,
    PrivateBoxInvalid,
    SchemaInvalid,
    SchemaMismatch,
    SealedInvalid,
    SearchTooSlow,
    SelectionConfigured,
    StorageFailed,
)
from meshkit.operations import Id, Nothing, Operation, Time

# Of whatever needs the database.
_KEPT: Final = (StorageFailed, Overloaded)
# Of a list, which may have to look at everything.
_LOOKED: Final = (SearchTooSlow, *_KEPT)
# Of a content, and of the own feed that it is appended to.
_PUBLISHED: Final = (
    MalformedMessage,
    NestedTooDeep,
    NumberNotPortable,
    ContentTooLarge,
    SchemaMismatch,
    InvalidSequence,
    FeedReadOnly,
    FeedForked,
    LimitReached,
    KeyReused,
    *_KEPT,
)

Limit = Annotated[int, Meta(ge=1, le=200, description="how many at most")]
Offset = Annotated[int, Meta(ge=0, le=1_000_000, description="how many to skip")]
ContentType = Annotated[
    str, Meta(max_length=256, description="only messages whose content has this type")
]


Author = Annotated[Id, Meta(max_length=64, description="only this author's: @<base64>.ed25519")]
NotAuthor = Annotated[Id, Meta(max_length=64, description="all but this author's")]
Tag = Annotated[str, Meta(max_length=256, description="only messages with this tag, as spelled")]
Relates = Annotated[
    str, Meta(max_length=256, description="only messages about the one with this hash")
]
Since = Annotated[
    Time, Meta(max_length=64, description="only messages shown at this time (RFC 3339) or later")
]
Until = Annotated[
    Time, Meta(max_length=64, description="only messages shown before this time (RFC 3339)")
]
Cursor = Annotated[
    str,
    Meta(
        max_length=64,
        description="next_cursor of the page before, with the same filters; in place of offset",
    ),
]


IdempotencyKey = Annotated[
    str,
    Meta(
        pattern="^[!-~]{1,255}$",
        description="1 to 255 printable ASCII characters without spaces that name this request, "
        "best a UUID: asked for again with the same key within a day, it is not published a "
        "second time",
    ),
]


class Publish(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """
    A message to sign and append to this node's feed.

    C{content} stays raw JSON until it is canonicalised: its numbers are signed as
    they are written.

    @ivar schema_id: by which JSON Schema the content is made, such as C{note/v1}.
    @ivar tags: what it is about; others subscribe to them.
    @ivar trace_id: of the trace that it belongs to, if there is one.
    @ivar span_id: of the span.
    """

    content: Annotated[msgspec.Raw, Meta(description="any JSON value, at most 64 KiB")]
    schema_id: str | None = None
    relates: (
        Annotated[
            str,
            Meta(
                pattern="^[0-9a-f]{64}$",
                description="64 hex digits, the hash of the message this one is about",
            ),
        ]
        | None
    ) = None
    tags: list[str] = []
    trace_id: str | None = None
    span_id: str | None = None
    expires_at: Annotated[Time, Meta(description="RFC 3339 time")] | None = None
    recipients: Annotated[
        list[Annotated[Id, Meta(max_length=64)]],
        Meta(max_length=63, description="seal the content: only these, and you, can read it"),
    ] = []
    form: Annotated[
        Literal["own", "egregore"], Meta(description="whose sealed form, with recipients")
    ] = "own"
    idempotency_key: IdempotencyKey | None = None


class PublishBatch(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Contents to publish as one message each, all or none."""

    contents: Annotated[
        list[msgspec.Raw],
        Meta(min_length=1, max_length=10_000, description="any JSON values, at most 64 KiB each"),
    ]
    idempotency_key: IdempotencyKey | None = None


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
    tag: Tag | None = None
    relates: Relates | None = None
    since: Since | None = None
    until: Until | None = None
    limit: Limit = 50
    offset: Offset = 0
    cursor: Cursor | None = None


class ListAuthor(msgspec.Struct, forbid_unknown_fields=True):
    author: Annotated[Id, Meta(description="@<base64>.ed25519, URL-safe base64 allowed")]
    content_type: ContentType | None = None
    tag: Tag | None = None
    relates: Relates | None = None
    since: Since | None = None
    until: Until | None = None
    limit: Limit = 50
    offset: Offset = 0
    cursor: Cursor | None = None


class ListInsights(msgspec.Struct, forbid_unknown_fields=True):
    author: Author | None = None
    tag: Tag | None = None
    since: Since | None = None
    until: Until | None = None
    limit: Limit = 50
    offset: Offset = 0
    cursor: Cursor | None = None


class Search(msgspec.Struct, forbid_unknown_fields=True):
    q: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1_000,
            description=('words that must all occur; "a phrase"; one OR other; -without; begin*'),
        ),
    ]
    order: Annotated[
        Literal["relevance", "newest"],
        Meta(description="best match first, or what arrived last first"),
    ] = "relevance"
    author: Author | None = None
    not_author: NotAuthor | None = None
    content_type: ContentType | None = None
    tag: Tag | None = None
    relates: Relates | None = None
    since: Since | None = None
    until: Until | None = None
    limit: Limit = 20
    offset: Offset = 0
    cursor: Cursor | None = None


class ReadThread(msgspec.Struct, forbid_unknown_fields=True):
    hash: Annotated[
        str,
        Meta(
            pattern="^[0-9a-f]{64}$",
            description="64 hex digits, the hash of a message of the thread",
        ),
    ]
    from_root: Annotated[
        bool, Meta(description="from the first message of the thread, not from this one on")
    ] = True
    depth: Annotated[int, Meta(ge=0, le=64, description="how far replies are followed")] = 64
    limit: Limit = 50
    cursor: Cursor | None = None


class MessageByHash(msgspec.Struct, forbid_unknown_fields=True):
    hash: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="64 hex digits")]


# The answers below are texts of these forms: a message is shown as its author wrote it, byte
# for byte, with what this node knows of it at the end.


class Message(msgspec.Struct, kw_only=True):
    """
    A message, as its author signed it, and what this node knows of it.

    @ivar author: who signed it, C{@<base64>.ed25519}.
    @ivar sequence: its place in the author's feed, from 1.
    @ivar previous: hash of the message before it; null for the first.
    @ivar timestamp: RFC 3339 time at which the author says it was written.
    @ivar content: what it says: any JSON value.
    @ivar schema_id: by which JSON Schema the content is made, if its author says so.
    @ivar relates: hash of the message that it is about, if it is about one.
    @ivar tags: what it is about.
    @ivar trace_id: of the trace that it belongs to.
    @ivar span_id: of the span.
    @ivar expires_at: RFC 3339 time after which it may be forgotten.
    @ivar hash: its name, 64 hex digits.
    @ivar signature: of the hash by the author, base64.
    @ivar chain_valid: it follows the message before it, which is stored here too.
    @ivar forked: the author has signed another message of this number.
    @ivar schema_valid: the content fits the schema of its type, if this node has one.
    @ivar sealed: the content is sealed for chosen readers.
    @ivar recipients: of a sealed message for this node: for whom it is.
    @ivar opened: of a sealed message for this node: what was sealed.
    @ivar problem: of a sealed message: why it cannot be read by anybody, if it is no proper box.
    """

    author: str
    sequence: int
    previous: str | None
    timestamp: str
    content: msgspec.Raw
    schema_id: str | UnsetType = UNSET
    relates: str | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    trace_id: str | UnsetType = UNSET
    span_id: str | UnsetType = UNSET
    expires_at: str | UnsetType = UNSET
    hash: str
    signature: str
    chain_valid: bool
    forked: bool | UnsetType = UNSET
    schema_valid: bool | UnsetType = UNSET
    sealed: bool | UnsetType = UNSET
    recipients: list[str] | UnsetType = UNSET
    opened: msgspec.Raw | UnsetType = UNSET
    problem: str | UnsetType = UNSET


class FoundMessage(Message, kw_only=True):
    """
    A message that a search has found.

    @ivar snippet: pieces of its text, every second one a hit.
    """

    snippet: list[str]


class ThreadEntry(msgspec.Struct, kw_only=True):
    """
    A message of a thread, with all the members of a message; or one that is not stored here,
    of which no more is known than that it is missing.

    @ivar hash: its name, 64 hex digits.
    @ivar missing: it is not stored here.
    @ivar depth: how many replies lie between it and the first message of the thread.
    @ivar replies: how many messages relate to it.
    """

    hash: str
    missing: bool | UnsetType = UNSET
    depth: int
    replies: int


PUBLISH = Operation(
    name="feed_publish",
    method="POST",
    path="/v1/publish",
    request=Publish,
    answer=Message,
    doc="Sign a message and append it to this node's feed; answered when it is on the disk.",
    permission="write",
    success=201,
    open_world=True,
    key="idempotency_key",
    errors=(*_PUBLISHED, InvalidPublicKey, SealedInvalid, PrivateBoxInvalid, NotFound),
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
    open_world=True,
    key="idempotency_key",
    errors=_PUBLISHED,
)
LIST = Operation(
    name="feed_list",
    method="GET",
    path="/v1/feed",
    request=ListFeed,
    answer=Message,
    doc="Messages of others (and, with include_self, one's own), newest first.",
    paged=True,
    untrusted=True,
    errors=_LOOKED,
)
AUTHOR = Operation(
    name="feed_author",
    method="GET",
    path="/v1/feed/{author}",
    request=ListAuthor,
    answer=Message,
    doc="Messages of one author, newest first.",
    paged=True,
    untrusted=True,
    errors=(InvalidPublicKey, *_LOOKED),
)
INSIGHTS = Operation(
    name="feed_insights",
    method="GET",
    path="/v1/insights",
    request=ListInsights,
    answer=Message,
    doc="Messages whose content has the type 'insight', newest first.",
    paged=True,
    untrusted=True,
    errors=(InvalidPublicKey, *_LOOKED),
)
SEARCH = Operation(
    name="feed_search",
    method="GET",
    path="/v1/insights/search",
    request=Search,
    answer=FoundMessage,
    doc="Full-text search over the content of all messages, with the stretch that matched.",
    paged=True,
    untrusted=True,
    errors=(InvalidPublicKey, CursorExpired, *_LOOKED),
)
MESSAGE = Operation(
    name="feed_message",
    method="GET",
    path="/v1/message/{hash}",
    request=MessageByHash,
    answer=Message,
    doc="One message by its hash.",
    untrusted=True,
    errors=(NotFound, *_KEPT),
    etag=True,
)

THREAD = Operation(
    name="feed_thread",
    method="GET",
    path="/v1/thread/{hash}",
    request=ReadThread,
    answer=ThreadEntry,
    doc=(
        "A message and all that relate to it, each followed by its replies, with depth and "
        "replies; what is not stored here is named as missing."
    ),
    paged=True,
    untrusted=True,
    errors=(NotFound, CursorExpired, *_LOOKED),
)


Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_.-]{0,63}/v[1-9][0-9]{0,3}$",
        description="a type and version of contents, such as note/v1",
    ),
]


class SchemaName(msgspec.Struct, forbid_unknown_fields=True):
    name: Name


class AddSchema(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    schema: Annotated[msgspec.Raw, Meta(description="JSON Schema 2020-12, at most 32 KiB")]


class SchemaSummary(msgspec.Struct):
    """
    @ivar name: type and version of the contents that are checked by it.
    @ivar bytes: length of its text.
    @ivar added: RFC 3339 time.
    """

    name: str
    bytes: int
    added: str


SCHEMAS = Operation(
    name="feed_schemas",
    method="GET",
    path="/v1/schemas",
    request=Nothing,
    answer=list[SchemaSummary],
    doc="The JSON Schemas by which this node checks contents.",
)
SCHEMA = Operation(
    name="feed_schema",
    method="GET",
    path="/v1/schema",
    request=SchemaName,
    answer=msgspec.Raw,
    doc="One of these schemas, as it was added.",
    errors=(NotFound,),
    etag=True,
)
SCHEMA_ADD = Operation(
    name="feed_schema_add",
    method="POST",
    path="/v1/schema",
    request=AddSchema,
    answer=SchemaSummary,
    doc="Check contents of a type by a JSON Schema from now on; one of the same name is replaced.",
    permission="admin",
    success=201,
    destructive=True,
    idempotent=True,
    errors=(SchemaInvalid, *_KEPT),
)
SCHEMA_REMOVE = Operation(
    name="feed_schema_remove",
    method="DELETE",
    path="/v1/schema",
    request=SchemaName,
    answer=None,
    doc="Check contents of a type by this schema no longer.",
    permission="admin",
    success=204,
    destructive=True,
    idempotent=True,
    errors=(NotFound, *_KEPT),
)


class OwnFeed(msgspec.Struct):
    """
    @ivar author: this node's id.
    @ivar sequence: number up to which its feed is complete here.
    @ivar latest: highest number that is stored of it.
    @ivar forked: lowest number for which two messages were signed with its key.
    @ivar read_only: why nothing can be published now, if so.
    @ivar since: RFC 3339 time of what made it so: the backup, or the message that came.
    @ivar witnesses: how many peers have shown since then how far they have it.
    @ivar needed: how many have to.
    """

    author: str
    sequence: int
    latest: int
    forked: int | None
    read_only: str | None
    since: str | None
    witnesses: int
    needed: int


OWN = Operation(
    name="feed_own",
    method="GET",
    path="/v1/own-feed",
    request=Nothing,
    answer=OwnFeed,
    doc="How far this node's own feed is, and whether it can be written now.",
    errors=_KEPT,
)
UNLOCK = Operation(
    name="feed_unlock",
    method="POST",
    path="/v1/own-feed/unlock",
    request=Nothing,
    answer=OwnFeed,
    doc="Publish again without waiting for peers to show how far they have this node's feed.",
    permission="admin",
    destructive=True,
    idempotent=True,
    errors=_KEPT,
)


class Events(msgspec.Struct, forbid_unknown_fields=True):
    author: Author | None = None
    content_type: ContentType | None = None
    tag: Tag | None = None
    after: (
        Annotated[
            int,
            Meta(ge=0, le=2**63 - 1, description="begin after this id; 0 is the beginning"),
        ]
        | None
    ) = None


EVENTS = Operation(
    name="feed_events",
    method="GET",
    path="/v1/events",
    request=Events,
    answer=Message,
    doc="Messages as they are stored here, this node's own too; a reader that comes back goes on.",
    stream=True,
    resume="after",
    untrusted=True,
    errors=(InvalidPublicKey,),
)


class Export(msgspec.Struct, forbid_unknown_fields=True):
    author: Annotated[Id, Meta(description="only the feed of this author")] | None = None
    after_author: (
        Annotated[Id, Meta(description="where the page before ended: the author")] | None
    ) = None
    after: Annotated[int, Meta(ge=0, description="... and the sequence number")] = 0


class Place(msgspec.Struct):
    """
    What to ask for next.

    @ivar after_author: to be given as C{after_author}.
    @ivar after: to be given as C{after}.
    """

    after_author: str
    after: int


class Exported(msgspec.Struct):
    """
    @ivar messages: as they were signed, by author and sequence number; at the end of a
        feed that is forked, the two that prove it.
    @ivar next: what to ask for next; nothing if this was all.
    @ivar gone: how many messages were left out, as their texts are not kept here.
    """

    messages: list[msgspec.Raw]
    next: Place | None
    gone: int = 0


class Import(msgspec.Struct, forbid_unknown_fields=True):
    """Messages as they were signed, of any author, in any order."""

    messages: Annotated[
        list[msgspec.Raw],
        Meta(min_length=1, max_length=10_000, description="as feed_export gives them"),
    ]


class NotImported(msgspec.Struct):
    """
    @ivar index: of the message in the request, from 0.
    @ivar code: why it was refused.
    @ivar message: the same in words.
    """

    index: int
    code: str
    message: str


class Imported(msgspec.Struct):
    """
    @ivar accepted: how many were stored now.
    @ivar duplicate: how many were stored before.
    @ivar refused: how many were refused, by code.
    @ivar errors: the first of those.
    """

    accepted: int
    duplicate: int
    refused: dict[str, int]
    errors: list[NotImported]


EXPORT = Operation(
    name="feed_export",
    method="GET",
    path="/v1/export",
    request=Export,
    answer=Exported,
    doc="Messages as they were signed, page by page, for feed_import on another node.",
    untrusted=True,
    errors=(InvalidPublicKey, *_KEPT),
)
IMPORT = Operation(
    name="feed_import",
    method="POST",
    path="/v1/import",
    request=Import,
    answer=Imported,
    doc="Check and store messages that were exported; each is stored by its own merits.",
    permission="write",
    max_body=16 * 1024 * 1024,
    untrusted=True,
    idempotent=True,
    errors=_KEPT,
)


class Block(msgspec.Struct, forbid_unknown_fields=True):
    author: Annotated[Id, Meta(description="@<base64>.ed25519, URL-safe base64 allowed")]


class Blocked(msgspec.Struct):
    """
    @ivar author: C{@<base64>.ed25519}.
    @ivar origin: where that stands: in the setting C{feed.block}, or it was added by an
        operation.
    """

    author: str
    origin: Literal["config", "added"]


BLOCKS = Operation(
    name="blocks_list",
    method="GET",
    path="/v1/blocks",
    request=Nothing,
    answer=list[Blocked],
    doc="Whom this node has blocked.",
)
BLOCK = Operation(
    name="blocks_add",
    method="POST",
    path="/v1/blocks/{author}",
    request=Block,
    answer=Blocked,
    doc="Block a key: its feed is not asked for, taken, served or listed; as a peer it is refused.",
    permission="write",
    success=201,
    idempotent=True,
    errors=(InvalidPublicKey, *_KEPT),
)
UNBLOCK = Operation(
    name="blocks_remove",
    method="DELETE",
    path="/v1/blocks/{author}",
    request=Block,
    answer=None,
    doc="Block a key no more.",
    permission="write",
    success=204,
    idempotent=True,
    errors=(InvalidPublicKey, SelectionConfigured, *_KEPT),
)


class RetentionPlan(msgspec.Struct):
    """
    What a run of retention would empty now.

    @ivar messages: how many messages.
    @ivar bytes: of text.
    @ivar by_reason: how many by each rule: C{expired}, C{age}, C{arrived}, C{author},
        C{total}.
    @ivar more: there are more; no more were counted.
    """

    messages: int
    bytes: int
    by_reason: dict[str, int]
    more: bool


class Forgotten(msgspec.Struct):
    """
    @ivar messages: how many messages were emptied.
    @ivar bytes: of text.
    """

    messages: int
    bytes: int


class Forget(msgspec.Struct, forbid_unknown_fields=True):
    author: Annotated[Id, Meta(description="@<base64>.ed25519, URL-safe base64 allowed")]


RETENTION_PLAN = Operation(
    name="retention_plan",
    method="GET",
    path="/v1/retention",
    request=Nothing,
    answer=RetentionPlan,
    doc="What the settings of retention would have emptied now.",
    errors=_KEPT,
)
RETENTION_RUN = Operation(
    name="retention_run",
    method="POST",
    path="/v1/retention/run",
    request=Nothing,
    answer=Forgotten,
    doc="Empty now what the settings of retention say; answered when it is done.",
    permission="admin",
    destructive=True,
    idempotent=True,
    errors=_KEPT,
)
FORGET = Operation(
    name="feed_forget",
    method="POST",
    path="/v1/feed/{author}/forget",
    request=Forget,
    answer=Forgotten,
    doc="Empty all messages of an author who is blocked; answered when it is done.",
    permission="admin",
    destructive=True,
    idempotent=True,
    errors=(InvalidPublicKey, *_KEPT),
)


class FeedStatus(msgspec.Struct):
    """
    @ivar messages: how many messages are stored.
    @ivar feeds: of how many authors.
    @ivar refused: how many received messages were refused since the start, by code.
    @ivar read_only: why this node cannot publish now, if so.
    @ivar gone: of how many messages the text is not kept any more.
    @ivar bytes: of the texts that are kept.
    @ivar forgotten: how many messages retention has emptied since the start.
    @ivar blocked: how many keys are blocked.
    @ivar forked: how many feeds ended because two messages with one number were signed.
    """

    messages: int
    feeds: int
    refused: dict[str, Any]
    read_only: str | None = None
    gone: int = 0
    bytes: int = 0
    forgotten: int = 0
    blocked: int = 0
    forked: int = 0
