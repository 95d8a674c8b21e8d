"""The bench's side of the child processes in L{tests.bench.peers}."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import IO, Any, Final

from tests.bench.nodes import STOP_SECONDS, memory_bytes

ROOT: Final = Path(__file__).resolve().parents[2]
PEERS: Final = ROOT / "tests" / "bench" / "peers"
#: Seconds for any one job, unless it is told otherwise.
PATIENCE: Final = 60.0


class ChildFailed(Exception):
    """A child ended, answered nothing in time, or could not do its job."""


class Child:
    """A process that does jobs, one at a time."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        """@param log: where its standard error goes, to be read from the start."""
        self.name = name
        self._process = process
        self._log = log
        self._buffer = bytearray()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def ask(self, job: str, *, patience: float = PATIENCE, **arguments: Any) -> Any:
        """
        Have a job done.

        @param patience: seconds in which it has to be done.
        @return: what it gives.
        @raise ChildFailed: nothing came of it.
        """
        assert self._process.stdin is not None
        line = json.dumps({"job": job, **arguments}).encode("ascii") + b"\n"
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:
            raise self._failed(f"is gone before the job {job!r}") from None
        answer = json.loads(self._line(job, monotonic() + patience))
        if "failed" in answer:
            raise ChildFailed(f"{self.name} failed at {job!r}: {answer['failed']}")
        return answer["done"]

    def _line(self, job: str, deadline: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - monotonic())):
                    raise self._failed(f"did not do {job!r} in time")
                data = os.read(self._process.stdout.fileno(), 65_536)
                if not data:
                    raise self._failed(f"ended at the job {job!r}")
                self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line

    def _failed(self, what: str) -> ChildFailed:
        self._log.seek(0)
        said = self._log.read()[-2000:].decode("utf-8", "replace")
        return ChildFailed(f"{self.name} {what}" + (f":\n{said}" if said else ""))

    def keep_to(self, number: int) -> None:
        """
        Keep its main thread to the C{number}th core that we may use, where the system can
        do that and there are so many.  Where nothing is idle, a scheduler likes to have
        those who wake each other on one core, in turns, and then the figures are of that.
        """
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            if number < len(cores):
                os.sched_setaffinity(self._process.pid, {cores[number]})

    def memory(self) -> int:
        """@return: bytes of its memory that are resident, its garbage given back."""
        self.ask("collect")
        return memory_bytes(self._process.pid)


@contextmanager
def child(name: str, command: list[str], environ: dict[str, str] | None = None) -> Iterator[Child]:
    """
    A child that is gone when the block is left: its input ends, and if that is not
    enough it is killed.

    @param name: for people.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=environ,
        )
        try:
            yield Child(name, process, log)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(OSError):  # it ended first, with something unread
        process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass  # killed below
    finally:
        process.kill()  # nothing happens if it has ended
        process.wait()
        process.stdout.close()


def python(module: str, *arguments: str) -> list[str]:
    """The command of a child that is a module of ours."""
    return [sys.executable, "-m", f"tests.bench.peers.{module}", *arguments]
