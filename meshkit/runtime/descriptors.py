"""
Standard input and output as a wire, on which there is nothing but what is meant to be.

A program that prints in an unguarded moment, or a child that it starts and that reads from
standard input, would spoil it.  So the wire is moved to descriptors that nobody else knows.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

__all__ = ["claim_wire"]

_FIRST_OTHER: Final = 3


def claim_wire() -> tuple[int, int]:
    """
    Take the standard input and output away from everybody else in this process: what prints
    goes to the standard error, and what reads, also in a child process, finds nothing.

    @return: descriptors of what they were; children do not inherit them.
    @raise OSError: if they are not open.
    """
    source = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _FIRST_OTHER)
    target = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _FIRST_OTHER)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(nothing, 0)
        try:
            os.dup2(2, 1)
        except OSError:
            # A program without standard error prints nowhere.
            os.dup2(nothing, 1)
    finally:
        os.close(nothing)
    return source, target
