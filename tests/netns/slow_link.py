"""
A wire between two namespaces on which packets take their time, and some are lost.

    python slow_link.py PID PID DELAY LOSS SEED

Makes a network device C{eth0} in the namespaces of two processes.  (A kernel that has netem
would do the same, and not all have it.)  Packets keep their order.  It reads lines: after "cut"
nothing passes until "mend"; each is repeated when it is done.  It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
CLONE_NEWNET = 0x40000000

LARGEST = 65_536
#: Packets that are on their way in one direction at most: more are lost, as in a real queue.
QUEUE = 1_000


def open_end(pid: int) -> int:
    """Make a device in the namespace of a process.  @return: where its packets come out."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"no way into the namespace of {pid}")
    os.close(namespace)
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", b"eth0", IFF_TUN | IFF_NO_PI))
    return end


def main(first: str, second: str, delay: str, loss: str, seed: str) -> None:
    ends = [open_end(int(pid)) for pid in (first, second)]
    seconds, lost, chance = float(delay), float(loss), random.Random(int(seed))
    # For each direction, (due, packet) in the order in which they came.
    ways: list[deque[tuple[float, bytes]]] = [deque(), deque()]
    cut = False
    print("ready", flush=True)
    while True:
        due = [way[0][0] for way in ways if way]
        wait = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select([*ends, 0], [], [], wait)
        now = time.monotonic()
        for way, end in zip(ways, ends, strict=True):
            if end in readable:
                packet = os.read(end, LARGEST)
                if not cut and len(way) < QUEUE and chance.random() >= lost:
                    way.append((now + seconds, packet))
        for way, end in zip(ways, reversed(ends), strict=True):
            while way and way[0][0] <= now:
                # A device that is down loses what comes.
                with contextlib.suppress(OSError):
                    os.write(end, way.popleft()[1])
        if 0 in readable:
            words = os.read(0, LARGEST)
            if not words:
                return
            for word in words.decode().split():
                cut = word == "cut"
                if cut:
                    for way in ways:
                        way.clear()
                print(word, flush=True)


main(*sys.argv[1:])
