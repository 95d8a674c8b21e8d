"""
NAT-PMP (RFC 6886), as far as TCP ports need it.  Pure: datagrams out, datagrams in.

::

    ask for the address   0 | opcode 0
    ask for a port        0 | opcode 2 | 0 0 | port: u16 | outside: u16 | seconds: u32

    answer                0 | opcode + 128 | result: u16 | epoch: u32
      with the address    | address: 4 bytes
      with a port         | port: u16 | outside: u16 | seconds: u32

A mapping is given up by asking for it with no seconds and no port outside.

The epoch says whether the router has forgotten everything meanwhile.  We ask for all that we
want whenever we ask at all, so we need not look at it.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final

from attrs import frozen

from meshkit.errors import MappingFailed

#: Seconds that are waited for an answer, each time that it is asked (3.1).
WAITS: Final = tuple(0.25 * 2**n for n in range(9))

_VERSION: Final = 0
_ADDRESS: Final = 0
_TCP: Final = 2
_ANSWER: Final = 128

_ASK: Final = struct.Struct("!BBHHHI")
_HEAD: Final = struct.Struct("!BBHI")
_MAPPED: Final = struct.Struct("!HHI")

#: What results above zero mean (3.5).
_RESULTS: Final = {
    1: "it does not speak NAT-PMP",
    2: "its owner has not allowed it",
    3: "it has no address of its own from its provider",
    4: "it has no room for more",
    5: "it does not map TCP ports",
}


@frozen
class Port:
    """
    A mapping.

    @ivar port: of this host.
    @ivar outside: the router's.
    @ivar lifetime: seconds.
    """

    port: int
    outside: int
    lifetime: int


def ask_address() -> bytes:
    """@return: a question for the address that others see."""
    return bytes((_VERSION, _ADDRESS))


def ask_port(port: int, outside: int, lifetime: int) -> bytes:
    """
    @param port: of this host.
    @param outside: the router's that we would like.
    @param lifetime: seconds.
    @return: a question for a mapping, or for it to last longer.
    """
    return _ASK.pack(_VERSION, _TCP, 0, port, outside, lifetime)


def ask_end(port: int) -> bytes:
    """@return: what ends a mapping."""
    return ask_port(port, 0, 0)


def read_address(datagram: bytes) -> IPv4Address | None:
    """
    @return: what L{ask_address} asked for; L{None} if this is not the answer to it.
    @raise MappingFailed: the router refuses.
    """
    body = _open(datagram, _ADDRESS, 4)
    return None if body is None else IPv4Address(body)


def read_port(datagram: bytes, port: int) -> Port | None:
    """
    @param port: of this host, for which was asked.
    @return: what L{ask_port} or L{ask_end} asked for; L{None} if this is not the answer to it.
    @raise MappingFailed: the router refuses.
    """
    body = _open(datagram, _TCP, _MAPPED.size)
    if body is None:
        return None
    mapped = Port(*_MAPPED.unpack(body))
    return mapped if mapped.port == port else None


def _open(datagram: bytes, opcode: int, length: int) -> bytes | None:
    if len(datagram) < _HEAD.size:
        return None
    version, answers, result, _epoch = _HEAD.unpack_from(datagram)
    # A router that speaks PCP alone says so in the form of that (RFC 6887, 9).
    if version != _VERSION:
        raise MappingFailed(f"the router refuses: {_RESULTS[1]}")
    if answers != _ANSWER + opcode:
        return None
    if result:
        why = _RESULTS.get(result, f"its result is {result}")
        raise MappingFailed(f"the router refuses: {why}")
    if len(datagram) < _HEAD.size + length:
        return None
    return datagram[_HEAD.size : _HEAD.size + length]
