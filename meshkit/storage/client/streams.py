"""
Where the text of an object comes from, and where it goes.

A source gives chunks, of any length, until an empty one; a sink takes them.  Each is asked
only when there is room, so that neither of two that differ in speed fills the memory.

What blocks does so in worker threads: L{FileSource}, L{FileSink}, L{IteratorSource}.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from threading import Lock
from typing import Any, BinaryIO, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from meshkit.errors import SourceChanged
from meshkit.runtime.files import LOCAL, SystemCalls
from meshkit.runtime.workers import Workers
from meshkit.storage.encoding import Cutter
from meshkit.storage.erasure import Block, measure
from meshkit.storage.scheme import Scheme

__all__ = [
    "AsyncSource",
    "BytesSink",
    "CallSink",
    "FileIdentity",
    "FileSink",
    "FileSource",
    "IteratorSource",
    "PathSource",
    "Sink",
    "Source",
    "Text",
    "Texts",
]

#: Bytes that are read of a file at a time.
CHUNK: Final = 1024 * 1024


class Source(Protocol):
    """Where a text comes from."""

    @property
    def length(self) -> int | None:
        """Bytes of it, if that is known before."""

    def read(self, most: int) -> Awaitable[Block]:
        """
        @param most: bytes that are wanted.  If it gives as many, they need not be copied.
        @return: what comes next, of any length but none; empty at the end.
        """

    def close(self) -> Any:
        """
        It is not needed any more.  Called once, in any case, also while it is read.

        @return: Deferred that fires when nothing is held any more, or L{None}.
        """


class Sink(Protocol):
    """Where a text goes."""

    def write(self, data: bytes) -> Awaitable[None]:
        """@return: what is done when there is room for more."""


class IteratorSource:
    """Chunks of an iterator, or of anything that can be iterated."""

    def __init__(
        self, workers: Workers, chunks: Iterable[bytes], length: int | None = None
    ) -> None:
        """
        @param workers: in whose threads the iterator runs, one step at a time.
        @param length: bytes of all of them, if that is known.  It is checked.
        """
        self.length = length
        self._workers = workers
        self._chunks = iter(chunks)

    def _next(self) -> bytes:
        # Empty ones in between are not the end.
        return next((chunk for chunk in self._chunks if chunk), b"")

    def read(self, most: int) -> Deferred[bytes]:
        return self._workers.run(self._next)

    def close(self) -> None:
        """Nothing is held."""


class AsyncSource:
    """Chunks of an asynchronous iterator, which runs in the reactor's thread."""

    def __init__(self, chunks: AsyncIterator[bytes], length: int | None = None) -> None:
        """@param length: bytes of all of them, if that is known.  It is checked."""
        self.length = length
        self._chunks = chunks

    async def read(self, most: int) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""

    def close(self) -> None:
        """Nothing is held."""


class FileSource:
    """An open file, from where it stands.  It is not closed."""

    def __init__(self, workers: Workers, file: BinaryIO, length: int | None = None) -> None:
        """@param length: bytes to its end, if that is known.  It is checked."""
        self.length = length
        self._workers = workers
        self._file = file

    def read(self, most: int) -> Deferred[bytes]:
        return self._workers.run(self._file.read, most)

    def close(self) -> None:
        """It is the caller's."""


@frozen
class FileIdentity:
    """
    What tells a file from one that was written in its place, or written to.

    @ivar size: its bytes.
    @ivar modified: when it was written to, in nanoseconds.
    @ivar changed: when it or what is said of it was, in nanoseconds.
    @ivar number: of its inode.
    @ivar device: where that is.
    """

    size: int
    modified: int
    changed: int
    number: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """@return: that of the file with this status."""
        # A simulated disk has no times.
        modified, changed = status.st_mtime_ns or 0, status.st_ctime_ns or 0
        return cls(status.st_size, modified, changed, status.st_ino, status.st_dev)


class PathSource:
    """
    A file by its name.  Only such a one can be gone on with after a kill.

    @ivar path: its name.
    """

    def __init__(self, workers: Workers, path: str, system: SystemCalls = LOCAL) -> None:
        """@param path: of a file that is not written to meanwhile."""
        self.path = path
        self._workers = workers
        self._system = system
        # A read that nobody waits for any more may still run when the file is closed, and
        # would then be one of another file that has the same descriptor.
        self._lock = Lock()
        self._descriptor: int | None = None
        self._identity: FileIdentity | None = None

    @property
    def length(self) -> int | None:
        return None if self._identity is None else self._identity.size

    @property
    def identity(self) -> FileIdentity:
        """Of the file that was opened."""
        if self._identity is None:
            raise ValueError(f"{self.path} was not opened yet")
        return self._identity

    def open(self) -> Deferred[FileIdentity]:
        """@return: Deferred of which file it is.  Fails with L{OSError}."""
        return self._workers.run(self._open)

    def _open(self) -> FileIdentity:
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._descriptor = self._system.open(self.path, flags, 0)
        self._identity = FileIdentity.of(self._system.fstat(self._descriptor))
        return self._identity

    def skip(self, length: int) -> Deferred[None]:
        """
        @param length: bytes that are not read.
        @return: Deferred that fires when they are behind.
        """
        return self._workers.run(self._skip, length)

    def _skip(self, length: int) -> None:
        while length and (chunk := self._read(min(length, CHUNK))):
            length -= len(chunk)

    def read(self, most: int) -> Deferred[bytes]:
        return self._workers.run(self._read, most)

    def _read(self, length: int) -> bytes:
        with self._lock:
            return self._system.read(self._opened(), length)

    def unchanged(self) -> Deferred[bool]:
        """@return: Deferred of whether it is still what it was when it was opened."""
        return self._workers.run(self._unchanged)

    def _unchanged(self) -> bool:
        with self._lock:
            return FileIdentity.of(self._system.fstat(self._opened())) == self._identity

    def _opened(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not open")
        return self._descriptor

    def close(self) -> Deferred[None]:
        return self._workers.run(self._close)

    def _close(self) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._system.close(descriptor)


@frozen
class Text:
    """
    The text of a segment.

    @ivar data: its bytes.
    @ivar last: whether the object ends with it.
    """

    data: Block
    last: bool


class Texts:
    """The texts of segments, out of a source."""

    def __init__(self, source: Source, scheme: Scheme, behind: int = 0) -> None:
        """@param behind: bytes of its length that it does not give any more."""
        self._source = source
        self._size = scheme.text_bytes
        self._cutter: Cutter | None = None
        self._new_cutter = lambda: Cutter(scheme)
        self._cut: deque[Block] = deque()
        self._came = behind
        self._ended = False

    async def next(self) -> Text:
        """
        @return: the next one.  There is one at least, and none after the last.
        @raise SourceChanged: if the source ended before it should have, behind a text that
            was given as not the last.
        """
        while not self._ended and len(self._cut) < self._wanted():
            chunk = await self._source.read(self._size)
            self._came += measure(chunk)
            if not measure(chunk):
                self._end()
            elif self._cutter is None and measure(chunk) == self._size:
                # As it is, without a copy.
                self._cut.append(chunk)
            else:
                self._cutter = self._cutter or self._new_cutter()
                self._cut.extend(self._cutter.feed(chunk))
        text = self._cut.popleft()
        return Text(text, self._ended and not self._cut)

    def _wanted(self) -> int:
        """@return: how many have to be there for the first to be given."""
        length = self._source.length
        if self._cutter is not None or (length is not None and self._came < length):
            # In a cutter there is always something, and of what is known more has to come.
            return 1
        # One that is whole may be the last, so what follows is waited for.
        return 2

    def _end(self) -> None:
        self._ended = True
        if self._cutter is not None:
            self._cut.append(self._cutter.finish())
        elif not self._cut and not self._came:
            self._cut.append(b"")
        elif not self._cut:
            raise SourceChanged(
                f"{self._came} bytes came of what had {self._source.length}: it was changed while "
                f"it was read"
            )


class FileSink:
    """An open file, from where it stands.  It is neither synced nor closed."""

    def __init__(self, workers: Workers, file: BinaryIO) -> None:
        self._workers = workers
        self._file = file

    async def write(self, data: bytes) -> None:
        await self._workers.run(self._file.write, data)


class CallSink:
    """A function that is called with each chunk."""

    def __init__(self, take: Callable[[bytes], Any]) -> None:
        """@param take: gives nothing, or a Deferred that fires when there is room for more."""
        self._take = take

    async def write(self, data: bytes) -> None:
        done = self._take(data)
        if done is not None:
            await done


class BytesSink:
    """
    Memory.  For what is small.

    @ivar data: what came.
    """

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> None:
        self.data += data
