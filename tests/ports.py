"""
Ports for what has to be told one before it listens there.

What can choose for itself is given port 0 and asked.  A port that the system would choose is
no good here: until it is listened at, any connection of another test may be given it as its
own end.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom
from typing import Final

#: Below it are services of the machine.
_LOWEST: Final = 10_000
#: Where the ports begin, on Linux, that connections get.
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_RANGE: Final = 32_768
_TRIES: Final = 1_000

_random: Final = SystemRandom()


def free_ports(count: int) -> list[int]:
    """@return: ports of loopback that nobody listens at, over TCP or UDP."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_row(1))
    return sorted(found)


def free_row(count: int, step: int = 1) -> int:
    """
    @param step: what the port that is returned is a multiple of.
    @return: the first of as many free ports in a row.
    """
    for _ in range(_TRIES):
        first = _random.randrange(_LOWEST, _end() - count) // step * step
        if first >= _LOWEST and all(_is_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError(f"no {count} ports in a row are free from {_LOWEST} to {_end()}")


def _end() -> int:
    try:
        lowest = int(_RANGE.read_text("ascii").split()[0])
    except FileNotFoundError:  # not Linux
        return _USUAL_RANGE
    # A machine that keeps nearly all of them for connections has no better ones.
    return lowest if lowest > _LOWEST + 10_000 else _USUAL_RANGE


def _is_free(port: int) -> bool:
    with ExitStack() as stack:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
