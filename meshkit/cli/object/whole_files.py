"""
Files that get their names when they are whole and on the disk.

What is interrupted leaves C{.part} files at most, which nobody takes for anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import BinaryIO, Final

from attrs import define, field

from meshkit.errors import ConfigError
from meshkit.runtime.files import sync_folder

#: Stands for the standard input or output.
STANDARD: Final = "-"

_PART: Final = ".part"
_WAITING: Final = ".nodes.part"


class Behind:
    """
    A thread that writes while the caller computes what is to be written next.

    One thing at a time: memory is that of two.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._doing: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Wait for what was to be done before, raising what it raised; then begin this."""
        self.wait()
        self._doing = self._pool.submit(work)

    def wait(self) -> None:
        """Everything is done.  What was raised is raised here."""
        doing, self._doing = self._doing, None
        if doing is not None:
            doing.result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing goes on when this returns, whatever else was raised."""
        self._pool.shutdown()


@contextmanager
def _new(path: str, mode: str) -> Iterator[BinaryIO]:
    try:
        file = open(path, mode)  # noqa: SIM115
    except FileExistsError:
        raise ConfigError(
            f"{path} exists: somebody writes it just now, or was interrupted; remove it in that "
            f"case"
        ) from None
    with file:
        yield file  # type: ignore[misc]


@define
class Together:
    """
    New files in a folder that get their names together.

    @ivar folder: where they are.
    @ivar names: theirs.
    @ivar files: open for writing, in order.
    """

    folder: str
    names: Sequence[str]
    files: list[BinaryIO] = field(factory=list)
    _made: list[str] = field(factory=list)

    @classmethod
    @contextmanager
    def open(cls, folder: str, names: Sequence[str], suffix: str) -> Iterator[Together]:
        """
        @param folder: made, if it is not there.
        @param suffix: of files that must not be there: they would be mixed up.
        @return: context manager.  What has no name when it ends is removed.
        """
        os.makedirs(folder, exist_ok=True)
        for name in sorted(os.listdir(folder)):
            if name.endswith(suffix):
                raise ConfigError(f"{folder} has shares already, such as {name}: take another one")
        output = cls(folder, names)
        with ExitStack() as stack:
            stack.callback(output._discard)
            for name in names:
                output.files.append(stack.enter_context(output._file(name + _PART, "xb")))
            yield output

    @contextmanager
    def waiting(self, number: int) -> Iterator[BinaryIO]:
        """@return: context manager; a file to write and read, which is gone when it ends."""
        name = self.names[number] + _WAITING
        with self._file(name, "x+b") as file:
            yield file
        self._remove(name)

    def sync(self) -> None:
        """What was written is on the disk."""
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())

    def commit(self) -> list[str]:
        """Give the files their names, after L{sync}.  @return: their paths, absolute."""
        for name in self.names:
            os.rename(self._path(name + _PART), self._path(name))
            self._made.remove(name + _PART)
        sync_folder(self.folder)
        return [os.path.abspath(self._path(name)) for name in self.names]

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    @contextmanager
    def _file(self, name: str, mode: str) -> Iterator[BinaryIO]:
        with _new(self._path(name), mode) as file:
            # Only what we made is ours to remove.
            self._made.append(name)
            yield file

    def _remove(self, name: str) -> None:
        self._made.remove(name)
        with suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def _discard(self) -> None:
        for name in tuple(self._made):
            self._remove(name)


def write_whole(path: str, pieces: Iterator[bytes]) -> int:
    """
    Write a new file, or to the standard output if the path is L{STANDARD}.

    @return: how many bytes.
    @raise ConfigError: if there is such a file.
    """
    if path == STANDARD:
        written = _write(sys.stdout.buffer, pieces)
        sys.stdout.flush()
        return written
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists: name another file")
    folder, name = os.path.split(path)
    output = Together(folder or os.curdir, [name])
    with ExitStack() as stack:
        stack.callback(output._discard)
        file = stack.enter_context(output._file(name + _PART, "xb"))
        output.files.append(file)
        written = _write(file, pieces)
        output.sync()
        output.commit()
    return written


def _write(file: BinaryIO, pieces: Iterator[bytes]) -> int:
    written = 0
    with Behind() as behind:
        for piece in pieces:
            behind.do(partial(_write_all, file, piece))
            written += len(piece)
        behind.wait()
    return written


def _write_all(file: BinaryIO, piece: bytes) -> None:
    file.write(piece)
