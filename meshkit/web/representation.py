"""
In which form an answer is sent: compressed or not, or not at all to who has it already.

Sources: RFC 9110, 8.8.3 (ETag), 12.5.3 (Accept-Encoding), 13.1.2 (If-None-Match), 15.4.5
(304).  Pure.

An entity tag is strong, so the same answer has another one when it is compressed.  What is
compressed, and what is not, is told with its reasons in C{docs/howto/http-door.md}.
"""

from __future__ import annotations

import zlib
from hashlib import blake2b
from typing import Final

from twisted.web.http_headers import Headers

from meshkit.web.answers import Header, tokens

#: Bytes of an answer below which compressing it is not worth the time of either side.
MIN_COMPRESSED: Final = 16 * 1024
#: Bytes that are compressed on the spot, in about 3 ms; what is larger goes to a thread.
MAX_INLINE: Final = 256 * 1024
#: The fastest: what is sent over loopback has not far to go.
_LEVEL: Final = 1
_GZIP: Final = 31

#: Of an answer that may be kept, by its reader alone, and has to be asked for before each use.
REVALIDATED: Final[Header] = (b"Cache-Control", b"private, no-cache")

_TEXTS: Final = (b"application/json", b"application/openapi", b"application/yaml", b"text/")


def compress(body: bytes) -> bytes:
    """@return: in the format of gzip (RFC 1952), the same for the same."""
    return zlib.compress(body, _LEVEL, _GZIP)


def compressible(kind: bytes) -> bool:
    """Is an answer of this media type worth it?  What is sent as raw bytes is not."""
    return kind.startswith(_TEXTS)


def takes_gzip(headers: Headers) -> bool:
    """Does C{Accept-Encoding} admit gzip?"""
    weights: dict[str, float] = {}
    for member in tokens(headers, b"Accept-Encoding"):
        name, *parameters = (part.strip() for part in member.split(";"))
        weights[name] = _weight(parameters)
    for name in ("gzip", "x-gzip", "*"):
        if name in weights:
            return weights[name] > 0
    return False


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def entity_tag(body: bytes, compressed: bool) -> bytes:
    """@param body: before it is compressed."""
    digest = blake2b(body, digest_size=16).hexdigest().encode("ascii")
    return b'"%b%b"' % (digest, b"-gzip" if compressed else b"")


def has_it(headers: Headers, tag: bytes) -> bool:
    """Does C{If-None-Match} name this tag?  A weak one counts as well."""
    for value in headers.getRawHeaders(b"If-None-Match", []):
        for member in value.split(b","):
            known = member.strip(b" \t").removeprefix(b"W/")
            if known in (b"*", tag):
                return True
    return False
