"""
PCP, the Port Control Protocol (RFC 6887): its MAP for TCP ports of IPv4 hosts.  Pure.

::

    ask     2 | opcode 1   | 0 0                | seconds: u32 | our address: 16 bytes      | map
    answer  2 | opcode 129 | 0 | result: u8     | seconds: u32 | epoch: u32 | 12 bytes of 0 | map

    map     nonce: 12 bytes | protocol: u8 | 0 0 0 | port: u16 | outside: u16 | address outside: 16

IPv4 addresses are written as IPv6 addresses that wrap them.  A mapping belongs to whoever has its
nonce: who wants it to last longer, or to end, shows the same one.

As in L{natpmp}, the epoch need not be looked at.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from attrs import frozen

from meshkit.errors import MappingFailed

NONCE_BYTES: Final = 12

#: Seconds that are waited for an answer, each time that it is asked.  The RFC goes on for ever
#: (8.1.1); we ask in another protocol then.
WAITS: Final = (3.0, 6.0, 12.0)

_VERSION: Final = 2
_MAP: Final = 1
_ANSWER: Final = 128
_TCP: Final = 6

_ASK: Final = struct.Struct("!BBHI16s")
_ANSWERED: Final = struct.Struct("!BBBBII12x")
_BODY: Final = struct.Struct("!12sB3xHH16s")
_WRAPPED: Final = b"\0" * 10 + b"\xff\xff"

#: What results above zero mean (7.4).
_RESULTS: Final = {
    1: "it does not speak this version of PCP",
    2: "its owner has not allowed it",
    3: "it finds the question malformed",
    4: "it does not map ports",
    5: "it does not know an option",
    6: "it finds an option malformed",
    7: "it has no connection to the outside",
    8: "it has no room for more",
    9: "it does not map TCP ports",
    10: "this host has as many ports as it may have",
    11: "it cannot give an address outside",
    12: "there is another translator between this host and it",
    13: "it takes no more of that kind",
}


@frozen
class Port:
    """
    A mapping.

    @ivar port: of this host.
    @ivar outside: the router's.
    @ivar address: the router's, as others see it.
    @ivar lifetime: seconds.
    """

    port: int
    outside: int
    address: IPv4Address
    lifetime: int


def ask_port(nonce: bytes, own: IPv4Address, port: int, outside: int, lifetime: int) -> bytes:
    """
    @param own: address of this host, as the router sees it.
    @param port: of this host.
    @param outside: the router's that we would like.
    @param lifetime: seconds; none to end the mapping.
    @return: a question for a mapping, or for it to last longer.
    """
    head = _ASK.pack(_VERSION, _MAP, 0, lifetime, _WRAPPED + own.packed)
    # Any address outside, of IPv4.
    return head + _BODY.pack(nonce, _TCP, port, outside, _WRAPPED + b"\0" * 4)


def ask_end(nonce: bytes, own: IPv4Address, port: int) -> bytes:
    """@return: what ends a mapping."""
    return ask_port(nonce, own, port, 0, 0)


def read_port(datagram: bytes, nonce: bytes, port: int) -> Port | None:
    """
    @return: what L{ask_port} or L{ask_end} asked for; L{None} if this is not the answer to it.
    @raise MappingFailed: the router refuses.
    """
    if len(datagram) < 4:
        return None
    if datagram[0] != _VERSION:
        # One of NAT-PMP says that in its own form, which has the version at the same place.
        raise MappingFailed(f"the router refuses: {_RESULTS[1]}")
    if len(datagram) < _ANSWERED.size + _BODY.size:
        return None
    _version, answers, _reserved, result, lifetime, _epoch = _ANSWERED.unpack_from(datagram)
    theirs, protocol, of, outside, address = _BODY.unpack_from(datagram, _ANSWERED.size)
    if answers != _ANSWER + _MAP or (theirs, protocol, of) != (nonce, _TCP, port):
        return None
    if result:
        why = _RESULTS.get(result, f"its result is {result}")
        raise MappingFailed(f"the router refuses: {why}")
    wrapped = IPv6Address(address).ipv4_mapped
    if wrapped is None:
        raise MappingFailed("the router gives an address outside that is none of IPv4")
    return Port(of, outside, wrapped, lifetime)
