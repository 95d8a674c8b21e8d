"""
Requests and answers of STUN: binding alone, without any of its ways to prove who asks.  Pure.

::

    message     type u16 | length of what follows the head u16 | cookie u32 | transaction 96 bits
    attribute   type u16 | length u16 | value, filled up to a multiple of 4 bytes

What asks is answered with its address and its port under a mask, as there are routers that
translate whatever looks like an address of theirs, wherever it stands (RFC 8489, 14.2).

An answer has at most L{MAX_MORE} bytes more than the request: whoever asks in the name of
somebody else has him sent hardly more than by asking him.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from attrs import frozen

from meshkit.errors import InvalidAnswer, MalformedFrame

IP = IPv4Address | IPv6Address

TRANSACTION_BYTES: Final = 12
#: Bytes of a message: more do not pass everywhere in one piece, as it is said for IPv4.
MAX_MESSAGE: Final = 548
#: By how many bytes an answer may be larger than its request: those of an IPv6 address.
MAX_MORE: Final = 24

_COOKIE: Final = bytes.fromhex("2112a442")
_HEAD_BYTES: Final = 20
_REQUEST: Final = 0x0001
_SUCCESS: Final = 0x0101
_ERROR: Final = 0x0111

_ERROR_CODE: Final = 0x0009
_UNKNOWN_ATTRIBUTES: Final = 0x000A
_XOR_MAPPED_ADDRESS: Final = 0x0020
_INTEGRITY: Final = 0x0008
_INTEGRITY_SHA256: Final = 0x001C
_FINGERPRINT: Final = 0x8028
_FINGERPRINT_MASK: Final = 0x5354554E
_FINGERPRINT_BYTES: Final = 8

#: Who does not know one of these must not go on.
_OPTIONAL: Final = 0x8000
#: Those that RFC 8489 names.  What they prove is not asked for, and so not looked at (12.).
_KNOWN: Final = frozenset(
    (0x0001, 0x0006, 0x0008, 0x0009, 0x000A, 0x0014, 0x0015, 0x001C, 0x001D, 0x001E, 0x0020)
)
_UNKNOWN_CODE: Final = 420
_IPV4: Final = 1
_IPV6: Final = 2


@frozen
class Request:
    """
    @ivar transaction: 12 bytes, which the answer repeats.
    @ivar fingerprint: a checksum is at its end, and has to be at the answer's.
    @ivar unknown: types of attributes that it may not be answered without, and that nobody here
        knows.
    """

    transaction: bytes
    fingerprint: bool = False
    unknown: tuple[int, ...] = ()


def encode_request(transaction: bytes) -> bytes:
    """
    @param transaction: 12 bytes that nobody can guess.
    @return: a request without attributes.
    """
    return _message(_REQUEST, transaction, b"", fingerprint=False)


def decode_request(data: bytes) -> Request:
    """@raise MalformedFrame: it is no request for a binding."""
    kind, transaction = _head(data)
    if kind != _REQUEST:
        raise MalformedFrame(f"a STUN message of the type {kind:#06x} asks for no binding")
    fingerprint, unknown = False, []
    for type_, _ in _attributes(data):
        fingerprint |= type_ == _FINGERPRINT
        if type_ < _OPTIONAL and type_ not in _KNOWN and type_ not in unknown:
            unknown.append(type_)
    return Request(transaction, fingerprint, tuple(unknown))


def encode_answer(request: Request, ip: IP, port: int) -> bytes:
    """
    @param ip: from where the request has come.
    @return: the answer; it is an error if something in the request is not known.
    """
    if request.unknown:
        types = b"".join(each.to_bytes(2, "big") for each in request.unknown)
        # Without a sentence for people: nobody reads it, and it would make the answer longer.
        code = bytes((0, 0, *divmod(_UNKNOWN_CODE, 100)))
        body = _attribute(_ERROR_CODE, code) + _attribute(_UNKNOWN_ATTRIBUTES, types)
        return _message(_ERROR, request.transaction, body, request.fingerprint)
    family = _IPV4 if isinstance(ip, IPv4Address) else _IPV6
    value = _masked(port.to_bytes(2, "big") + ip.packed, request.transaction)
    body = _attribute(_XOR_MAPPED_ADDRESS, bytes((0, family)) + value)
    return _message(_SUCCESS, request.transaction, body, request.fingerprint)


def decode_answer(data: bytes, transaction: bytes) -> tuple[IP, int]:
    """
    @param transaction: that of the request.
    @return: from where the request has come.
    @raise MalformedFrame: it is no answer to that request.
    @raise InvalidAnswer: the server refuses to answer, or says nothing that can be understood.
    """
    kind, answered = _head(data)
    if kind not in (_SUCCESS, _ERROR) or answered != transaction:
        raise MalformedFrame("a STUN message answers something else than what was asked")
    found: tuple[IP, int] | None = None
    # All of them first: what the checksum does not fit is nobody's answer.
    for type_, value in tuple(_attributes(data)):
        if type_ == _XOR_MAPPED_ADDRESS and kind == _SUCCESS and found is None:
            found = _address(value, transaction)
    if found is None:
        raise InvalidAnswer("the STUN server does not say from where the request has come")
    return found


def _address(value: bytes, transaction: bytes) -> tuple[IP, int]:
    clear = _masked(value[2:], transaction)
    packed, port = clear[2:], int.from_bytes(clear[:2], "big")
    family = value[1] if len(value) > 1 else 0
    if family == _IPV4 and len(value) == 8:
        return IPv4Address(packed), port
    if family == _IPV6 and len(value) == 20:
        return IPv6Address(packed), port
    raise InvalidAnswer("the STUN server says an address that is none")


def _masked(value: bytes, transaction: bytes) -> bytes:
    """@param value: port and address, in the clear or not."""
    # The port is masked with the first bytes of the same mask as the address.
    mask = _COOKIE[:2] + _COOKIE + transaction
    return bytes(one ^ other for one, other in zip(value, mask, strict=False))


def _message(kind: int, transaction: bytes, body: bytes, fingerprint: bool) -> bytes:
    size = len(body) + _FINGERPRINT_BYTES * fingerprint
    head = kind.to_bytes(2, "big") + size.to_bytes(2, "big") + _COOKIE + transaction
    whole = head + body
    return whole + _attribute(_FINGERPRINT, _checksum(whole)) if fingerprint else whole


def _attribute(type_: int, value: bytes) -> bytes:
    head = type_.to_bytes(2, "big") + len(value).to_bytes(2, "big")
    return head + value + bytes(-len(value) % 4)


def _checksum(before: bytes) -> bytes:
    return (crc32(before) ^ _FINGERPRINT_MASK).to_bytes(4, "big")


def _head(data: bytes) -> tuple[int, bytes]:
    """@return: the type of the message, and its transaction."""
    if not _HEAD_BYTES <= len(data) <= MAX_MESSAGE or data[4:8] != _COOKIE:
        raise MalformedFrame("a datagram is no STUN message")
    size = int.from_bytes(data[2:4], "big")
    if size % 4 or len(data) != _HEAD_BYTES + size:
        raise MalformedFrame("a STUN message has another length than it says")
    return int.from_bytes(data[:2], "big"), data[8:_HEAD_BYTES]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """
    @return: type and value of those that count: behind a proof of who asks, these are none.
    @raise MalformedFrame: one is cut off, or the checksum is wrong or not at the end.
    """
    at, end = _HEAD_BYTES, len(data)
    proved = False
    while at < end:
        type_ = int.from_bytes(data[at : at + 2], "big")
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        next_ = at + 4 + size + -size % 4
        if next_ > end:
            raise MalformedFrame("an attribute of a STUN message is cut off")
        value = data[at + 4 : at + 4 + size]
        if type_ == _FINGERPRINT and (next_ != end or value != _checksum(data[:at])):
            raise MalformedFrame("a STUN message has another checksum than it should")
        if type_ == _FINGERPRINT or not proved:
            yield type_, value
        proved |= type_ in (_INTEGRITY, _INTEGRITY_SHA256)
        at = next_
