"""
What a part offers to people, programs and agents, declared once.

An L{Operation} is a declaration: a name, a typed request, a typed answer, a
sentence, a permission.  It knows nothing of HTTP libraries, of MCP or of Twisted.
The doors in C{meshkit.web} and the command line derive their routes, tools and
commands from it, so an operation written once can be reached through all of them
and none can disagree with another.

Requests and answers are L{msgspec.Struct}s.  A field of the request whose name
appears in braces in C{path} is taken from the path; for C{GET} and C{DELETE} the
others come from the query string, for C{POST} from the JSON body.  A field of a
C{POST} may be of type C{msgspec.Raw}: it then holds the JSON text as the caller
spelt it, which matters where that text is hashed or signed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import MeshkitError

Permission = Literal["read", "write", "admin"]
Method = Literal["GET", "POST", "DELETE"]

#: Bytes of a request body, unless an operation says otherwise.
MAX_BODY: Final = 1024 * 1024

#: Types for fields of requests, whose form is said in their schemas.  It is not checked by
#: them: whoever reads such a text knows better what is wrong with it.  A public key:
Id = Annotated[
    str,
    Meta(
        extra_json_schema={
            "pattern": r"^@[A-Za-z0-9+/_-]{42}[AEIMQUYcgkosw048]=?\.ed25519$",
        }
    ),
]
#: ... and a moment, of RFC 3339.
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
#: A segment may begin with a dot (RFC 8615), and is never one of those that lead up.
_PATH: Final = re.compile(r"(/(\.?[a-z0-9][a-z0-9_.-]*|\{[a-z][a-z0-9_]*\}))+")
_IN_BRACES: Final = re.compile(r"\{([a-z0-9_]+)\}")
_SUCCESSES: Final = (200, 201, 202, 204)


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request of an operation that takes nothing."""


class Operation(msgspec.Struct, frozen=True):
    """
    One thing that can be asked of a node.

    A declaration that cannot be served raises L{ValueError} when it is made.

    @ivar name: snake_case, unique in a node; the MCP tool and C{meshkit call} use it.
    @ivar method: HTTP method of the REST route.
    @ivar path: route with fields in braces, such as C{/v1/feed/{author}}.  A field
        in braces is one whole segment, stands there once, and is required.
    @ivar request: Struct type of the request.
    @ivar answer: type of the answer, as msgspec knows types.
    @ivar doc: one sentence for people and agents.
    @ivar permission: C{read}, C{write} or C{admin}.  A C{GET} never writes.
    @ivar success: the HTTP status of a good answer: 200, 201, 202 or 204.  C{204}
        sends no body.
    @ivar paged: the answer is a L{Page}; REST shows its items as C{data} and the rest
        as C{metadata}.
    @ivar max_body: bytes of the JSON body of a C{POST}; a larger one is refused before
        it is kept.
    @ivar stream: the answer is a stream of L{Item}s, each with data of the type C{answer}:
        server-sent events for REST.  Only a C{GET}.
    @ivar resume: of a stream whose items have ids, the field of the request that takes the
        id of the last one seen.  REST fills it from C{Last-Event-ID}.
    @ivar sends: media type of an answer that is raw bytes, which the handler gives as
        C{bytes}.  Agents get no such tool.
    @ivar takes: of a C{POST}, the field of type C{bytes} that is the body as it is, of the
        type C{application/octet-stream}; the other fields come from the path and the query
        string.  Agents get no such tool.
    @ivar public: no token is needed.  Only a C{GET} that reads.
    @ivar granted: whoever shows a token may use it, whatever its scopes.  Only a C{GET} that
        reads.
    @ivar early: is answered before the node is ready as well.
    @ivar etag: the answer to one request hardly ever changes: REST sends an C{ETag} and
        answers 304 to who has it already.
    @ivar key: the field of the request that makes a repetition harmless.  REST fills it from
        C{Idempotency-Key}.
    @ivar untrusted: the answer may hold what peers wrote.
    @ivar destructive: something may be lost by it.  For agents, as are the next two.
    @ivar idempotent: done twice, it has done no more than done once.
    @ivar open_world: it reaches out to other machines.
    @ivar errors: with what it may refuse, beside what every operation may.
    """

    name: str
    method: Method
    path: str
    request: type[msgspec.Struct]
    answer: Any
    doc: str
    permission: Permission = "read"
    success: int = 200
    paged: bool = False
    max_body: int = MAX_BODY
    stream: bool = False
    resume: str | None = None
    sends: str | None = None
    takes: str | None = None
    public: bool = False
    granted: bool = False
    early: bool = False
    etag: bool = False
    key: str | None = None
    untrusted: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    errors: tuple[type[MeshkitError], ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"operation name {self.name!r} is not snake_case")
        if not _PATH.fullmatch(self.path):
            raise ValueError(
                f"{self.name}: {self.path!r} is not a path such as /v1/feed/{{author}}"
            )
        if self.method == "GET" and self.permission == "write":
            # A link, an image or a prefetching browser can send a GET.
            raise ValueError(f"{self.name}: a GET cannot have the permission to write")
        if self.success not in _SUCCESSES:
            raise ValueError(f"{self.name}: {self.success} is not one of {_SUCCESSES}")
        if self.paged and self.success == 204:
            raise ValueError(f"{self.name}: an answer without a body cannot be paged")
        if self.stream and (self.method != "GET" or self.success != 200 or self.paged):
            raise ValueError(f"{self.name}: a stream is a GET that answers 200, without pages")
        named = self.path_fields
        known = {field.encode_name for field in msgspec.structs.fields(self.request)}
        for field in named:
            if field not in known:
                raise ValueError(f"{self.name}: the request has no field {field!r} for the path")
            if named.count(field) > 1:
                raise ValueError(f"{self.name}: {field!r} stands twice in the path")
        if self.resume is not None and (not self.stream or self.resume not in known):
            raise ValueError(
                f"{self.name}: {self.resume!r} has to be a field of the request of a stream"
            )
        if self.key is not None and (self.method != "POST" or self.key not in known):
            raise ValueError(f"{self.name}: {self.key!r} has to be a field of a POST's request")
        if self.sends is not None and (self.paged or self.stream or self.success == 204):
            raise ValueError(f"{self.name}: raw bytes have no pages, are no stream and no 204")
        if self.takes is not None and (
            self.method != "POST" or self.takes not in known or self.takes in named
        ):
            raise ValueError(
                f"{self.name}: {self.takes!r} has to be a field of a POST's request, and not of "
                f"its path"
            )
        if (self.public or self.granted) and (self.method != "GET" or self.permission != "read"):
            raise ValueError(f"{self.name}: only a GET that reads can be public, or granted")

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The names in braces, in the order of the path."""
        return tuple(_IN_BRACES.findall(self.path))

    @property
    def raw(self) -> bool:
        """It takes or gives raw bytes."""
        return self.sends is not None or self.takes is not None


class Item(msgspec.Struct, frozen=True):
    """
    One thing in a stream.

    @ivar data: of the operation's type of answer; of a notice, whatever it has to say.
    @ivar id: names its place in the stream: ASCII without line breaks.  Who was cut off
        goes on after it.
    @ivar event: L{None} for what the stream is about; otherwise the name of a notice
        about the stream itself, such as C{lagged}.
    """

    data: Any
    id: str | None = None
    event: str | None = None


class Page(msgspec.Struct, frozen=True):
    """
    A stretch of a longer list.

    @ivar items: the items of this stretch, in order.
    @ivar total: how many there are in all.
    @ivar limit: how many were asked for at most.
    @ivar offset: how many were skipped; L{None} if a cursor says where it begins.
    @ivar next_cursor: where the next stretch begins; L{None} if there is none.
    @ivar counted: C{total} is exact.  If not, there are at least so many.
    @ivar notes: what else is to be said, of JSON types: further members of the metadata.
    """

    items: list[Any]
    total: int
    limit: int
    offset: int | None
    next_cursor: str | None = None
    counted: bool = True
    notes: dict[str, Any] = {}


class Advised(msgspec.Struct, frozen=True):
    """
    A good answer, and what whoever asked should know beside it.

    @ivar answer: of the type that the operation declares.
    @ivar warnings: sentences; REST shows them as C{metadata.warnings}.
    """

    answer: Any
    warnings: list[str]


class BoundOperation(msgspec.Struct, frozen=True):
    """
    An operation together with the code that answers it.

    @ivar operation: the declaration.
    @ivar handler: called with a request Struct; gives the answer or an L{Advised} one, a
        Deferred or a coroutine of it, or raises a L{meshkit.errors.MeshkitError}.  What it waits
        for is cancelled when the caller goes away: work that has to be finished
        is started on a Deferred of its own.  The answer of a stream is an asynchronous
        iterator of L{Item}s: it is asked for the next one when the caller has taken the
        last, and a generator is closed when the caller goes away.
    @ivar part: name of the part that offers it; the node sets it.
    @ivar with_caller: the handler is also told who calls, as its second argument: a
        L{meshkit.web.callers.Caller}.
    """

    operation: Operation
    handler: Callable[..., Any]
    part: str = "node"
    with_caller: bool = False
