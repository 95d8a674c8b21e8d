"""
The REST routes of a node, derived from its operations.

 - C{GET} and C{DELETE} take their fields from the path and the query string, C{POST}
   from the path and a JSON object.  A field that is not declared is refused.
 - In a path, a field that contains a slash, as ids and addresses may, can be
   percent-encoded (always right) or stand as it is (right wherever no longer route
   could be meant).  C{+} is a plus sign in a path, and a space in a query string.
 - C{HEAD} answers whatever C{GET} does, without the body.
 - Every answer is of the form that L{meshkit.web.answers} describes, also for paths
   that do not exist and for errors nobody foresaw.
 - C{Idempotency-Key} is a field of the operations that have one; for others it says
   nothing.
 - When the client goes away, what the handler waits for is cancelled.
 - C{If-None-Match} and C{Accept-Encoding}: see L{meshkit.web.representation}.
 - The answer of a stream is C{text/event-stream} (L{meshkit.web.sse}).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from attrs import frozen
from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as NoSuchMethod
from werkzeug.exceptions import NotFound as NoSuchRoute
from werkzeug.routing import BaseConverter

from meshkit.errors import (
    InvalidRequest,
    MeshkitError,
    NotFound,
    NotReady,
    OperationError,
    Overloaded,
    PartConflict,
    UnsupportedMediaType,
)
from meshkit.operations import MAX_BODY, Advised, BoundOperation, Operation, Page
from meshkit.runtime.http import too_large
from meshkit.runtime.limits import Shares
from meshkit.web.answers import (
    JSON,
    SAFE_HEADERS,
    Header,
    encode_advised,
    encode_answer,
    encode_page,
    holding,
    internal_error,
    method_not_allowed,
    prepare,
    prepare_error,
)
from meshkit.web.callers import ANYONE, Caller
from meshkit.web.dispatch import Dispatcher
from meshkit.web.limits import RequestHead
from meshkit.web.representation import (
    MAX_INLINE,
    MIN_COMPRESSED,
    REVALIDATED,
    compress,
    compressible,
    entity_tag,
    has_it,
    takes_gzip,
)
from meshkit.web.requests import JSON_BODY, RAW_BODY, RequestReader, check_content_type
from meshkit.web.sse import EventWriter

_log = Logger()

#: Answers a request, whose fields in the path are its keywords.
_Endpoint = Callable[..., Coroutine[Deferred[Any], Any, bytes]]

#: Streams that may be open at a time, of one caller half of them: each holds a connection for
#: as long as it lasts.
MAX_STREAMS: Final = 2_048

# As which methods a route is found.
_METHODS: Final = {"GET": ("GET", "HEAD")}

# How the L{Dispatcher}'s counters call this door.
_DOOR: Final = "rest"

# Stands for a slash inside a segment while routing, so that C{%2F} is not taken for
# the border of two segments.  A path with a real NUL is refused.
_INNER_SLASH: Final = "\0"


class RestDoor:
    """The HTTP door of a node: one route for each operation."""

    def __init__(
        self,
        operations: Dispatcher,
        *,
        clock: IReactorTime | None = None,
        unguarded: Caller = ANYONE,
        max_streams: int = MAX_STREAMS,
        run_in_thread: Callable[..., Deferred[Any]] | None = None,
    ) -> None:
        """
        @param operations: what is offered.  Longer and more literal paths are tried
            first, whatever the order here.
        @param clock: for streams; not needed where there are none.
        @param unguarded: who calls where no L{meshkit.web.security.DoorGuard} stands
            before this door.
        @param run_in_thread: C{run_in_thread(function, *arguments)}, for what takes long;
            without it large answers are not compressed.
        @param max_streams: that may be open at a time, of one caller half of it.
        @raise PartConflict: if two operations have the same method and path.
        @raise ValueError: if there is a stream and no clock.
        """
        self._operations = operations
        self._clock = clock
        self._unguarded = unguarded
        self._streams: dict[EventWriter, None] = {}
        self._run_in_thread = run_in_thread
        self._shares = Shares(max_streams, max(1, max_streams // 2))
        self._limits: dict[str, int] = {}
        self._direct: dict[tuple[bytes, bytes], _Endpoint] = {}
        self._endpoints: dict[str, _Endpoint] = {}
        self._shapes = _shapes_of(tuple(bound.operation for bound in operations))
        taken: dict[tuple[str, str], str] = {}
        for bound in operations:
            operation = bound.operation
            rule = _rule(operation)
            other = taken.setdefault((operation.method, rule), operation.name)
            if other != operation.name:
                raise PartConflict(
                    f"the operation {operation.name} ({operation.method} {operation.path}) has "
                    f"the route of {other}"
                )
            if operation.stream and clock is None:
                raise ValueError(f"{operation.name}: a stream needs a clock")
            self._limits[operation.name] = operation.max_body
            endpoint = self._endpoints[operation.name] = self._endpoint(bound)
            if not operation.path_fields:
                where = operation.method.encode("ascii"), operation.path.encode("utf-8")
                self._direct[where] = endpoint

    @cached_property
    def _app(self) -> Klein:
        """
        All routes, for the few requests whose path does not say at once what they mean.  It is
        made when there is one: it takes as long as making all else of a door.
        """
        app = Klein()
        # The base64 of a key may hold two slashes in a row.
        app.url_map.merge_slashes = False
        app.url_map.converters["anything"] = _Anything
        app.handle_errors(Exception)(self._no_route)
        for bound in self._operations:
            operation = bound.operation
            route = app.route(_rule(operation), methods=[operation.method], endpoint=operation.name)
            route(self._endpoints[operation.name])
        return app

    def resource(self) -> IResource:
        """
        @return: the root of the door, to be put behind a
            L{meshkit.web.security.DoorGuard}.  Wherever in a tree of resources it is
            put, the routes are the whole paths that were declared.
        """
        return _DoorResource(self, self._direct)

    @property
    def max_body(self) -> int:
        """The largest body that any operation takes, for the site."""
        return max([MAX_BODY, *self._limits.values()])

    def admit(self, head: RequestHead) -> MeshkitError | None:
        """
        Is the announced body wanted: may the caller use the operation, is the body of its
        type, and within what it takes?  To be asked by the
        L{meshkit.web.limits.LimitedSite} before the body is kept.  A body that comes in
        chunks announces no length: it is measured against the same limit when it is there.
        """
        try:
            name = self._shapes.literal.get((head.method, head.path))
            if name is None:
                name, fields = self._search(head)
                # So that it need not be searched a second time.
                head.found = _Found(self, self._endpoints[name], fields)
        except (HTTPException, OperationError):
            # Its body is not wanted, but the answer is the resource's to give.
            return _over(head, MAX_BODY)
        if head.length != 0:
            bound, caller = self._operations.find(name), self._whose(head)
            try:
                with self._operations.judging(bound, caller, _DOOR):
                    self._operations.permit(bound, caller)
                    types = head.values(b"Content-Type")
                    check_content_type(head.method, types, True, _body_types(bound.operation))
            except MeshkitError as e:
                return e
        return _over(head, self._limits[name])

    def _search(self, head: RequestHead) -> tuple[str, Mapping[str, str]]:
        """The operation that a request means, and the fields of its path."""
        segments = _segments([unquote_to_bytes(s) for s in head.path[1:].split("/")])
        known = self._shapes.find(head.method, segments)
        if known is not None:
            return known
        route = self._app.url_map.bind("localhost", path_info="/" + "/".join(segments))
        name, fields = route.match(method=head.method)
        return name, fields

    def _endpoint(self, bound: BoundOperation) -> _Endpoint:
        operation = bound.operation
        reader = self._operations.reader(operation.name)

        # Klein, or _DoorResource, makes the coroutine a Deferred, and cancels it when the
        # client goes.
        async def answer(request: Any, **segments: str) -> bytes:
            try:
                caller = self._caller(request)
                with self._operations.judging(bound, caller, _DOOR):
                    # Before what was sent is looked at.
                    self._operations.permit(bound, caller)
                    path = dict(zip(operation.path_fields, segments.values(), strict=True))
                    wanted = _read(reader, operation, request, path)
                if operation.stream:
                    await self._stream(request, bound, wanted, caller)
                    return b""
                # Nobody but _send keeps what is given.
                return await self._send(
                    request,
                    operation,
                    await self._operations.run(bound, wanted, caller, _DOOR),
                )
            except MeshkitError as e:
                return prepare_error(request, e)
            except CancelledError:
                # The client will not see this.
                return prepare_error(request, NotReady("the call was cancelled: try again"))
            except Exception:
                _log.failure("answering for {operation} failed", operation=operation.name)
                return prepare_error(request, internal_error())

        return answer

    async def _send(self, request: Any, operation: Operation, given: Any) -> bytes:
        """Set all but the body of a good answer, which is returned."""
        if operation.success == 204:
            return _without_body(request, 204, SAFE_HEADERS)
        kind, body = _body(operation, given)
        # It is as large as the body, and compressing that may take its time.
        del given
        headers = [(b"Content-Type", kind), *SAFE_HEADERS]
        compressed = False
        if len(body) >= MIN_COMPRESSED and operation.method == "GET" and compressible(kind):
            headers.append((b"Vary", b"Accept-Encoding"))
            compressed = takes_gzip(request.requestHeaders) and self._can_compress(body)
        if operation.etag:
            tag = entity_tag(body, compressed)
            headers += [REVALIDATED, (b"ETag", tag)]
            if has_it(request.requestHeaders, tag):
                return _without_body(request, 304, headers[1:])
        if compressed:
            headers.append((b"Content-Encoding", b"gzip"))
            if len(body) <= MAX_INLINE:
                body = compress(body)
            elif self._run_in_thread is not None:
                # Answers can be made much faster than they are compressed.
                with holding(request, len(body)):
                    body = await self._run_in_thread(compress, body)
        return prepare(request, operation.success, headers, body)

    def _can_compress(self, body: bytes) -> bool:
        return len(body) <= MAX_INLINE or self._run_in_thread is not None

    def _caller(self, request: Any) -> Caller:
        return self._whose(getattr(request, "head", None))

    def _whose(self, head: RequestHead | None) -> Caller:
        return self._unguarded if head is None or not head.passed else head.caller

    async def _stream(
        self, request: Any, bound: BoundOperation, wanted: Any, caller: Caller
    ) -> None:
        with self._operations.judging(bound, caller, _DOOR):
            if not self._shares.room(caller.name):
                raise Overloaded(
                    f"{self._shares.total} streams can be open, and {self._shares.each} of one "
                    f"token: close one, then try again"
                )
        assert self._clock is not None
        writer = EventWriter(request, self._clock)
        # Before anything is waited for, so that the limit holds.
        self._shares.take(caller.name)
        self._streams[writer] = None
        try:
            await writer.write(await self._operations.run(bound, wanted, caller, _DOOR))
        finally:
            del self._streams[writer]
            self._shares.give_back(caller.name)

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def end_streams(self) -> None:
        """End every stream in good order: they have no end of their own."""
        for writer in list(self._streams):
            writer.stop()

    def _no_route(self, request: Any, failure: Failure) -> bytes:
        error: MeshkitError
        if failure.check(NoSuchRoute):
            error = _no_such_path()
        elif failure.check(NoSuchMethod):
            method = request.method.decode("ascii")
            reason: Any = failure.value
            error = method_not_allowed(method, reason.valid_methods)
        elif failure.check(HTTPException):
            error = OperationError("the request cannot be routed")
        else:
            _log.failure("routing failed", failure=failure)
            error = internal_error()
        return prepare_error(request, error)


class _Anything(BaseConverter):
    """A field of a path: one segment or, as a slash may stand in it, several."""

    # Greedy, so that of two fields the first takes the slashes: ids come before numbers.
    regex = ".+"
    part_isolating = False
    weight = 200

    def to_python(self, value: str) -> str:
        return value.replace(_INNER_SLASH, "/")


class _Shapes:
    """
    Paths in which every field is one segment, as it nearly always is.

    It says nothing where more than one path could be meant, or none: that is for werkzeug to
    say, whose answer is the same where there is one here, and takes five times as long.

    @ivar literal: paths without fields, which need no search: (method, path) -> operation.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.literal: dict[tuple[str, str], str] = {}
        # By method, number of segments and the second of them, after C{v1}.
        self._known: dict[tuple[str, int, str], list[tuple[str, list[str], list[int]]]] = {}
        # Of what has a field there, nothing is known.
        self._unknown: set[tuple[str, int]] = set()
        for operation in operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        if not operation.path_fields:
            self.literal[operation.method, operation.path] = operation.name
        segments = operation.path[1:].split("/")
        fields = [n for n, segment in enumerate(segments) if segment.startswith("{")]
        for method in _METHODS.get(operation.method, (operation.method,)):
            if len(segments) < 2 or 0 in fields or 1 in fields:
                self._unknown.add((method, len(segments)))
            else:
                where = method, len(segments), segments[1]
                self._known.setdefault(where, []).append((operation.name, segments, fields))

    def find(self, method: str, segments: Sequence[str]) -> tuple[str, Mapping[str, str]] | None:
        """@param segments: as L{_segments} makes them."""
        count = len(segments)
        if count < 2 or (method, count) in self._unknown or "" in segments:
            return None
        found = None
        for name, wanted, fields in self._known.get((method, count, segments[1]), ()):
            if all(n in fields or wanted[n] == segments[n] for n in range(count)):
                if found is not None:
                    return None
                values = [segments[n].replace(_INNER_SLASH, "/") for n in fields]
                found = name, {f"field{n}": value for n, value in enumerate(values)}
        return found


@lru_cache(maxsize=16)
def _shapes_of(operations: tuple[Operation, ...]) -> _Shapes:
    """@return: one for all nodes of a process that offer the same."""
    return _Shapes(operations)


@frozen
class _Found:
    """What a request means, as it was found when it was let in."""

    door: RestDoor
    endpoint: _Endpoint
    fields: Mapping[str, str]


class _DoorResource(Resource):
    """
    Answers as a klein resource does, and in JSON also where klein would log a traceback.

    Paths without fields need no search, and what everybody publishes by is one of them; and
    where a request was let in, its path has been searched already.  For these klein's work is
    done here, which saves a third of the time of a request.
    """

    isLeaf = True

    def __init__(self, door: RestDoor, direct: Mapping[tuple[bytes, bytes], _Endpoint]) -> None:
        """@param direct: what klein would find, by method and path."""
        super().__init__()
        self._door = door
        self._direct = direct

    def render(self, request: Any) -> Any:
        endpoint = self._direct.get((request.method, request.path))
        if endpoint is not None:
            return _run(request, endpoint(request))
        found = getattr(getattr(request, "head", None), "found", None)
        if isinstance(found, _Found) and found.door is self._door:
            return _run(request, found.endpoint(request, **found.fields))
        try:
            segments = _segments([*request.prepath, *request.postpath])
        except MeshkitError as e:
            return prepare_error(request, e)
        request.prepath = []
        request.postpath = [segment.encode("utf-8") for segment in segments]
        # No route depends on it, but klein fails on a Host that is missing or is no name.
        request.setHost(b"localhost", 80)
        return KleinResource(self._door._app).render(request)


def _run(request: Any, answer: Coroutine[Deferred[Any], Any, bytes]) -> int:
    """Let an endpoint answer a request, as klein does."""
    running = Deferred.fromCoroutine(answer)
    gone = False

    def cancel(_: Failure) -> None:
        nonlocal gone
        gone = True
        running.cancel()

    def done(body: bytes) -> None:
        if not gone:
            request.write(body)
            request.finish()

    def failed(reason: Failure) -> None:
        # It logs and answers, and hands the failure back for those who want it still.
        request.processingFailed(reason)

    request.notifyFinish().addErrback(cancel)
    running.addCallback(done).addErrback(failed)
    return NOT_DONE_YET


def _segments(decoded: Sequence[bytes]) -> list[str]:
    """
    Make the segments of a path ready for routing.

    @param decoded: the segments, already percent-decoded.
    @raise InvalidRequest: if they are not text.
    @raise NotFound: if the first is empty, as in C{//v1}, which klein would overlook.
    """
    try:
        segments = [segment.decode("utf-8") for segment in decoded]
    except UnicodeDecodeError:
        raise InvalidRequest("the path is not percent-encoded UTF-8") from None
    if any("\0" in segment for segment in segments):
        raise InvalidRequest("the path contains a NUL character")
    if not segments or not segments[0]:
        raise _no_such_path()
    return [segment.replace("/", _INNER_SLASH) for segment in segments]


def _no_such_path() -> NotFound:
    return NotFound("there is no such path at this door")


def _rule(operation: Operation) -> str:
    """The path as werkzeug writes it.  Fields have numbers: some names are klein's own."""
    rule = operation.path
    for number, name in enumerate(operation.path_fields):
        rule = rule.replace(f"{{{name}}}", f"<anything:field{number}>")
    return rule


def _over(head: RequestHead, limit: int) -> MeshkitError | None:
    return None if head.length is None or head.length <= limit else too_large(limit)


def _body_types(operation: Operation) -> tuple[str]:
    return (JSON_BODY if operation.takes is None else RAW_BODY,)


def _read(reader: RequestReader, operation: Operation, request: Any, path: dict[str, str]) -> Any:
    query = request.uri.partition(b"?")[2].decode("latin-1")
    body = request.content.read()
    if len(body) > operation.max_body:
        raise too_large(operation.max_body)
    headers = request.requestHeaders
    types = [value.decode("latin-1") for value in headers.getRawHeaders(b"Content-Type", [])]
    check_content_type(operation.method, types, bool(body), _body_types(operation))
    if headers.hasHeader(b"Content-Encoding"):
        raise UnsupportedMediaType("the body cannot be compressed: send it as it is")
    if operation.takes is not None:
        return reader.from_query(path, query, body=body)
    if operation.method == "POST":
        if query:
            raise InvalidRequest("a POST takes its fields in the body, not in the query string")
        return reader.from_json(path, body, _named_by(operation, headers))
    if body:
        raise InvalidRequest(
            f"a {operation.method} takes its fields in the query string, not in a body"
        )
    if operation.resume is not None:
        # What a reader that comes back sends by itself counts for more than the query
        # string, which says where it began.
        (*_, last_seen) = headers.getRawHeaders(b"Last-Event-ID", [b""])
        if last_seen:
            text = last_seen.decode("latin-1")
            return reader.from_query(path, query, {operation.resume: text})
    return reader.from_query(path, query)


def _named_by(operation: Operation, headers: Headers) -> Mapping[str, str]:
    """
    The field that makes a repetition harmless, if the header gives it: as it is, or in the
    quotes of a structured field (RFC 9651, 3.3.3).

    @raise InvalidRequest: if it is given twice.
    """
    given = headers.getRawHeaders(b"Idempotency-Key", []) if operation.key is not None else []
    if operation.key is None or not given:
        return {}
    if len(given) > 1:
        raise InvalidRequest("Idempotency-Key is given twice: give it once", field=operation.key)
    text = given[0].decode("latin-1")
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return {operation.key: text[1:-1] if quoted else text}


def _without_body(request: IRequest, status: int, headers: Iterable[Header]) -> bytes:
    request.setResponseCode(status)
    for name, value in headers:
        request.setHeader(name, value)
    return b""


def _body(operation: Operation, answer: Any) -> tuple[bytes, bytes]:
    """@return: media type and content of a good answer."""
    if operation.sends is not None:
        if not isinstance(answer, bytes):
            raise TypeError(f"{operation.name} answered with {type(answer).__name__}, not bytes")
        return operation.sends.encode("ascii"), answer
    if isinstance(answer, Advised):
        return JSON, encode_advised(answer)
    if not operation.paged:
        return JSON, encode_answer(answer)
    if not isinstance(answer, Page):
        raise TypeError(f"{operation.name} is paged, but answered with {type(answer).__name__}")
    return JSON, encode_page(answer)
