"""
What a storage peer is asked, as the routes of a klein application.

A handler gets a L{Call}: whom it is asked of, on whose behalf, and the body, which is complete.
It gives an L{Answer}.  Errors are raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from attrs import frozen
from klein import Klein
from twisted.internet.defer import maybeDeferred
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as NoSuchMethod
from werkzeug.routing import BaseConverter, Map, ValidationError

from meshkit.errors import InvalidRequest, MethodNotAllowed, NotFound
from meshkit.storage.erasure import Block
from meshkit.storage.http.wire import (
    JSON,
    LEASE_HEADER,
    MAX_BLOCK,
    MAX_JSON,
    MAX_MANIFEST,
    OCTETS,
    Health,
    Record,
    Renew,
    Reserve,
    Reserved,
    Stat,
    decode_request,
    encode_branch,
    encode_data,
    parse_hex32,
    parse_segment,
    parse_share_number,
)
from meshkit.storage.statements import StorageRecord

_T = TypeVar("_T")


@frozen
class Answer:
    """
    What is answered.

    @ivar content_type: of the body.
    @ivar body: pieces that follow one another.
    @ivar status: of HTTP.
    """

    content_type: bytes = OCTETS
    body: Sequence[Block] = ()
    status: int = 200

    @classmethod
    def json(cls, data: Any) -> Answer:
        """@return: a good answer in JSON."""
        return cls(JSON, (encode_data(data),))


#: L{Answer}, of which the types of klein know nothing.
_Answered = Any


@frozen
class Route:
    """
    What a request means.

    @ivar endpoint: which handler answers it.
    @ivar fields: of its path.
    """

    endpoint: str
    fields: dict[str, Any]

    @property
    def public(self) -> bool:
        """Anybody may ask it."""
        return self.endpoint in _PUBLIC

    @property
    def max_body(self) -> int:
        """Bytes of the body."""
        return _BODIES.get(self.endpoint, 0)


_PUBLIC: Final = frozenset({"health", "record", "heartbeat"})
#: The others have none.
_BODIES: Final = {
    "reserve": MAX_JSON,
    "write": MAX_BLOCK,
    "close": MAX_MANIFEST,
    "renew": MAX_JSON,
}


class _Hex32(BaseConverter):
    regex = "[0-9a-f]{64}"

    def to_python(self, value: str) -> bytes:
        return _valid(parse_hex32(value))


class _ShareNumber(BaseConverter):
    regex = "[0-9]{1,3}"

    def to_python(self, value: str) -> int:
        return _valid(parse_share_number(value))


class _Segment(BaseConverter):
    regex = "[0-9]{1,10}"

    def to_python(self, value: str) -> int:
        return _valid(parse_segment(value))


def _valid(value: _T | None) -> _T:
    if value is None:
        raise ValidationError
    return value


class _Routes(Klein):
    """With the fields that are used here, and no path that leads to another one."""

    def __init__(self) -> None:
        super().__init__()
        self._url_map = Map(strict_slashes=True, redirect_defaults=False, merge_slashes=False)
        self._url_map.converters.update(
            {"hex": _Hex32, "number": _ShareNumber, "segment": _Segment}
        )


class StorageResource:
    """The routes, for requests that are L{Call}s."""

    app = _Routes()

    def __init__(self, record: Callable[[], Any]) -> None:
        """@param record: gives a fresh signed record, or a Deferred of one."""
        self._record = record
        self._routes = self.app.url_map.bind("storage.invalid")

    def find(self, method: str, path: str) -> Route:
        """
        @param path: as it was sent; nothing in it needs an escape, so none is undone.
        @return: what is asked.
        @raise NotFound: if there is no such path.
        @raise MethodNotAllowed: if it has no such method.
        """
        # Werkzeug would overlook both.
        if not path.startswith("/") or path.startswith("//"):
            raise _no_such_path()
        if method != method.upper():
            raise MethodNotAllowed(f"there is no method {method[:20]}")
        try:
            endpoint, fields = self._routes.match(path, method)
        except NoSuchMethod as e:
            error = MethodNotAllowed(f"{path[:40]} has no method {method[:20]}")
            error.details = {"allowed": sorted(e.valid_methods or ())}
            raise error from None
        except HTTPException:
            raise _no_such_path() from None
        return Route(str(endpoint), dict(fields))

    # --- public ---

    @app.route("/v1/health", methods=["GET"])
    async def health(self, call: Any) -> _Answered:
        return Answer.json(Health())

    @app.route("/v1/record", methods=["GET"])
    async def record(self, call: Any) -> _Answered:
        raw: bytes = await maybeDeferred(self._record)
        return Answer.json(Record.of(StorageRecord.open(raw)))

    @app.route("/v1/heartbeat", methods=["GET"])
    async def heartbeat(self, call: Any) -> _Answered:
        raw: bytes = await maybeDeferred(self._record)
        return Answer(OCTETS, (raw,))

    # --- uploads ---

    @app.route("/v1/uploads/<hex:upload>/<number:number>", methods=["POST"])
    async def reserve(self, call: Any, upload: bytes, number: int) -> _Answered:
        wanted = _read(call.body, Reserve)
        lease = bytes.fromhex(wanted.lease)
        given = await call.peer.reserve(upload, number, wanted.size, lease, wanted.repair)
        return Answer.json(Reserved.of(given))

    @app.route("/v1/uploads/<hex:upload>/<number:number>/<segment:segment>", methods=["PUT"])
    async def write(self, call: Any, upload: bytes, number: int, segment: int) -> _Answered:
        await call.peer.write(upload, number, segment, call.body)
        return Answer()

    @app.route("/v1/uploads/<hex:upload>/<number:number>/close", methods=["POST"])
    async def close(self, call: Any, upload: bytes, number: int) -> _Answered:
        return Answer(OCTETS, (await call.peer.close(upload, number, call.body),))

    @app.route("/v1/uploads/<hex:upload>/<number:number>", methods=["DELETE"])
    async def abort(self, call: Any, upload: bytes, number: int) -> _Answered:
        await call.peer.abort(upload, number)
        return Answer()

    # --- shares ---

    @app.route("/v1/shares/<hex:share>", methods=["GET"])
    async def stat(self, call: Any, share: bytes) -> _Answered:
        return Answer.json(Stat.of(await call.peer.stat(share)))

    @app.route("/v1/shares/<hex:share>/manifest", methods=["GET"])
    async def manifest(self, call: Any, share: bytes) -> _Answered:
        return Answer(OCTETS, (await call.peer.manifest(share),))

    @app.route("/v1/shares/<hex:share>/blocks/<segment:segment>", methods=["GET"])
    async def read(self, call: Any, share: bytes, segment: int) -> _Answered:
        piece = await call.peer.read(share, segment)
        return Answer(OCTETS, (encode_branch(piece.branch), piece.block))

    @app.route("/v1/shares/<hex:share>/lease", methods=["POST"])
    async def renew(self, call: Any, share: bytes) -> _Answered:
        secret = bytes.fromhex(_read(call.body, Renew).secret)
        return Answer(OCTETS, (await call.peer.renew(share, secret),))

    @app.route("/v1/shares/<hex:share>/lease", methods=["DELETE"])
    async def release(self, call: Any, share: bytes) -> _Answered:
        values = call.requestHeaders.getRawHeaders(LEASE_HEADER, [])
        secret = parse_hex32(values[0].decode("latin-1")) if len(values) == 1 else None
        if secret is None:
            raise InvalidRequest(f"the secret of the lease belongs into {LEASE_HEADER.decode()}")
        await call.peer.release(share, secret)
        return Answer()


def _no_such_path() -> NotFound:
    return NotFound("there is no such path at this storage peer")


def _read(body: bytes, kind: type[_T]) -> _T:
    try:
        return decode_request(body, kind)
    except ValueError as e:
        raise InvalidRequest(f"the body is not the JSON that belongs there: {e}") from None
