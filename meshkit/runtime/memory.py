"""
Memory that was freed, and the C library.

By default glibc gives the system back what is free at the end of the heap as soon as that is a
few hundred KiB, and takes every piece above as much directly from the system.  A process that
moves blocks of a megabyte then gets all of them page by page, each of which the system has to
find and clear: more than half of the time of sending them was that, where it was measured (see
docs/performance.md).

It also gives each thread a heap of its own, so that what a worker has freed is of no use to the
reactor's thread.  With the lock of the interpreter they hardly ever wait for one another, so one
heap for all is as fast, and takes less.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

#: Bytes that may be free at the end of the heap.
KEPT: Final = 64 * 1024 * 1024
#: Pieces up to this size are taken from the heap; it is the most that glibc allows.
LARGEST: Final = 32 * 1024 * 1024

#: Heaps, for all threads together.
HEAPS: Final = 1

# Of malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def keep_freed_memory(library: Any = None) -> bool:
    """
    Have this process keep up to L{KEPT} bytes that were freed, to use them again in any thread.

    That is a decision about the whole process, and so is for a program, not for a library.

    @param library: L{ctypes.CDLL} of the C library; L{None} for that of the process.
    @return: whether it does.  Other C libraries than glibc have no such setting, and some of
        them do not need one.
    """
    try:
        mallopt = (ctypes.CDLL(None) if library is None else library).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((_M_ARENA_MAX, HEAPS), (_M_MMAP_THRESHOLD, LARGEST), (_M_TRIM_THRESHOLD, KEPT))
    answers = [mallopt(name, value) for name, value in settings]
    # It answers 1 where it did as it was told.
    return answers == [1] * len(settings)
