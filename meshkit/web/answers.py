"""
The one form of every answer at the local door::

    {"success": true,  "data": ..., "metadata": {"total": 7, "limit": 2, "offset": 0}}
    {"success": true,  "data": ..., "metadata": {"warnings": ["..."]}}
    {"success": false, "error": {"code": "NOT_FOUND", "message": "...", "details": {...}}}

The metadata of a list has C{next_cursor} if there is more of it, C{total_is_at_least}
(true) if counting ended at C{total}, and no C{offset} if it was asked for with a cursor.
A key that has nothing to say is left out.  C{code} is stable and
C{docs/troubleshooting.md} is keyed by it; C{message} is for people and may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from math import ceil
from typing import Any, Final

import msgspec
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest

from meshkit.errors import (
    MeshkitError,
    MethodNotAllowed,
    PermissionDenied,
    Unauthorized,
    UpgradeRequired,
)
from meshkit.operations import Advised, Page

Header = tuple[bytes, bytes]

JSON: Final = b"application/json"

# Answers carry what is private to the node's owner, and are never a page.
SAFE_HEADERS: Final[tuple[Header, ...]] = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cache-Control", b"no-store"),
)

# Where nobody can tell.
_RETRY_SECONDS: Final = 1

#: Bytes of an answer for which there has to be room: what a transport keeps in any case.
LARGE: Final = 64 * 1024

#: By status; C{twisted.web} does not know them all.
PHRASES: Final = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}


class _Fault(msgspec.Struct, frozen=True):
    code: str
    message: str
    details: Any = msgspec.UNSET


class _Answer(msgspec.Struct, frozen=True):
    success: bool
    data: Any = msgspec.UNSET
    error: Any = msgspec.UNSET
    metadata: Any = msgspec.UNSET


def encode_answer(data: Any) -> bytes:
    """
    @param data: anything msgspec can encode; a C{msgspec.Raw} stays as it is.
    @return: the JSON text of a good answer.
    """
    return msgspec.json.encode(_Answer(True, data))


def encode_advised(advised: Advised) -> bytes:
    """@return: the JSON text of a good answer with warnings beside it."""
    metadata = {"warnings": advised.warnings}
    return msgspec.json.encode(_Answer(True, advised.answer, metadata=metadata))


def encode_page(page: Page) -> bytes:
    """@return: the JSON text of a good answer that is a stretch of a list."""
    stretch: dict[str, Any] = {"total": page.total}
    if not page.counted:
        stretch["total_is_at_least"] = True
    stretch["limit"] = page.limit
    if page.offset is not None:
        stretch["offset"] = page.offset
    if page.next_cursor is not None:
        stretch["next_cursor"] = page.next_cursor
    return msgspec.json.encode(_Answer(True, page.items, metadata=stretch | page.notes))


def fault(error: MeshkitError) -> msgspec.Struct:
    """@return: an error as it is shown: C{code}, C{message} and perhaps C{details}."""
    # A message may quote a file name or a peer's text that is not valid Unicode.
    message = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
    details = msgspec.UNSET if error.details is None else dict(error.details)
    return _Fault(error.code, message, details)


def encode_error(error: MeshkitError) -> bytes:
    """@return: the JSON text of an answer that says what went wrong."""
    return msgspec.json.encode(_Answer(False, error=fault(error)))


def error_headers(error: MeshkitError) -> Iterable[Header]:
    """@return: the headers that belong to an error, without its length."""
    yield b"Content-Type", JSON
    yield from SAFE_HEADERS
    if isinstance(error, (Unauthorized, PermissionDenied)):
        yield b"WWW-Authenticate", _challenge(error)
    elif isinstance(error, MethodNotAllowed) and error.details is not None:
        allowed: Any = error.details["allow"]
        yield b"Allow", ", ".join(allowed).encode("ascii")
    elif isinstance(error, UpgradeRequired) and error.details is not None:
        names: Any = error.details["upgrade"]
        yield b"Upgrade", ", ".join(names).encode("ascii")
        yield b"Connection", b"upgrade"
    if error.status in (429, 503):
        yield b"Retry-After", b"%d" % _retry_after(error)


def _challenge(error: Unauthorized | PermissionDenied) -> bytes:
    """What to show instead.  Source: RFC 6750, 3 and 3.1."""
    challenge = 'Bearer realm="meshkit"'
    if isinstance(error, PermissionDenied):
        challenge += ', error="insufficient_scope"'
        if error.details is not None:
            challenge += f', scope="{error.details["scope"]}"'
    elif error.shown:
        challenge += ', error="invalid_token"'
    return challenge.encode("ascii")


def _retry_after(error: MeshkitError) -> int:
    """Whole seconds: RFC 9110, 10.2.3.  They are never too few."""
    seconds = (error.details or {}).get("retry_after")
    return max(1, ceil(seconds)) if isinstance(seconds, float | int) else _RETRY_SECONDS


def tokens(headers: Headers, name: bytes) -> list[str]:
    """@return: the members of a header that is a list of tokens, in small letters."""
    values = headers.getRawHeaders(name, [])
    members = b",".join(values).decode("latin-1").lower().split(",")
    return [member.strip(" \t") for member in members]


def method_not_allowed(method: str, allowed: Iterable[str]) -> MethodNotAllowed:
    """@return: the error that names what would be allowed, also in the C{Allow} header."""
    names = sorted(allowed)
    error = MethodNotAllowed(f"{method} is not possible here: use {' or '.join(names)}")
    error.details = {"allow": names}
    return error


def internal_error() -> MeshkitError:
    """@return: the error that tells a stranger nothing."""
    return MeshkitError("something went wrong inside the node: its log says what")


def prepare(request: IRequest, status: int, headers: Iterable[Header], body: bytes) -> bytes:
    """
    Set status and headers of an answer whose body is known.

    @return: the body, to be written.  For C{HEAD} the length is stated all the same,
        and twisted.web leaves the body out.
    @raise Overloaded: if clients leave so much unfetched that there is no room for a large
        one.
    """
    if len(body) > LARGE:
        ensure_room = getattr(request, "ensure_room", None)
        if ensure_room is not None:
            ensure_room(len(body))
    request.setResponseCode(status, PHRASES.get(status))
    for name, value in headers:
        if name == b"Connection":
            # That it is closed may have been said already.
            request.responseHeaders.addRawHeader(name, value)
        else:
            request.setHeader(name, value)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def holding(request: IRequest, size: int) -> AbstractContextManager[None]:
    """
    While the body of an answer is worked on, before it is given to L{prepare}.

    @param size: bytes of it.
    @raise Overloaded: on entering, if clients leave so much unfetched, or others work on so
        much, that there is no room for it.
    """
    hold: Callable[[int], AbstractContextManager[None]] | None = getattr(request, "holding", None)
    return nullcontext() if hold is None else hold(size)


def prepare_error(request: IRequest, error: MeshkitError) -> bytes:
    """Like L{prepare}, for an error, whose L{frames are forgotten <forget_frames>}."""
    forget_frames(error)
    return prepare(request, error.status, error_headers(error), encode_error(error))


def forget_frames(error: MeshkitError) -> None:
    """
    Forget where an error that is being told was raised.

    Its traceback keeps the frames that it went through, and they keep the request and what
    there is of an answer.  Where one of them keeps the error too, under some name or in a
    Failure, all that, perhaps 40 MiB, would be there until the garbage is collected, whose time
    comes by the number of objects, not by their size.
    """
    error.__cause__ = error.__context__ = error.__traceback__ = None
