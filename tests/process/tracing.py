"""
What a process asks of the system, as C{strace} shows it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from attrs import frozen
from twisted.trial.unittest import SkipTest

__all__ = ["Call", "calls_of", "find_strace", "strace_command"]

#: What makes things durable, or tells somebody.
CALLS: Final = (
    "fsync,fdatasync,openat,rename,renameat,renameat2,unlink,pwrite64,write,writev,sendto,sendmsg"
)

# PID NAME(ARGUMENTS) = RESULT, or one half of it if another thread came between.
_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)")
_OWN_FILE = re.compile(r"^\d+<([^>]*)>")


def find_strace() -> str:
    """
    @return: where it is.
    @raise SkipTest: if it is not there.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise SkipTest("there is no strace on this machine, and only root can install it")
    return strace


def strace_command(trace: Path) -> list[str]:
    """@return: what a program is run by, so that its calls are written to a file."""
    return [
        *(find_strace(), "-f", "-y", "-s", "4096", "-o", str(trace)),
        *("-e", f"trace={CALLS}", "-e", "signal=none"),
    ]


@frozen
class Call:
    """
    A system call that was finished, at the place in the trace where it was.

    @ivar begun: the place where it was begun.
    """

    begun: int
    ended: int
    name: str
    arguments: str
    result: int

    @property
    def file(self) -> str:
        """Path of the file descriptor that is its first argument."""
        found = _OWN_FILE.match(self.arguments)
        return found[1] if found else ""


def calls_of(trace: str) -> list[Call]:
    """The calls of a trace that succeeded."""
    begun: dict[tuple[str, str], tuple[int, str]] = {}
    calls = []
    for number, line in enumerate(trace.splitlines()):
        if match := _BEGUN.match(line):
            begun[match[1], match[2]] = (number, match[3])
        elif match := _RESUMED.match(line):
            start, arguments = begun.pop((match[1], match[2]))
            calls.append(Call(start, number, match[2], arguments + match[3], int(match[4])))
        elif match := _WHOLE.match(line):
            calls.append(Call(number, number, match[2], match[3], int(match[4])))
    return [call for call in calls if call.result >= 0]
