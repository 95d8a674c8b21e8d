"""
Files that are whole or absent, and synced before anybody is told that they are there.

What is synced is the file, then the folder that holds its name
(U{https://www.kernel.org/doc/html/latest/filesystems/ext4/}, and fsync(2): "calling
fsync() does not necessarily ensure that the entry in the directory ... has reached
disk").
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from zope.interface import implementer

from meshkit.errors import UnsafePermissions
from meshkit.interfaces import IFiles

__all__ = ["MAX_TEMPORARIES", "LocalFiles", "sync_folder"]

#: How many processes may write the same file at the same moment.
MAX_TEMPORARIES: Final = 16

_FOR_OTHERS: Final = 0o077
# A pipe in the place of a file must not block the open.
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def sync_folder(path: str) -> None:
    """Make the names in a folder durable.  Blocks."""
    with _naming(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let every L{OSError} name the file that the caller spoke of."""
    try:
        yield
    except OSError as error:
        if error.filename == path and error.filename2 is None:
            raise
        # The constructor picks the subclass that goes with the number.
        raise OSError(error.errno, error.strerror, path) from error


@contextmanager
def _opened(path: str, flags: int, mode: int = 0o600) -> Iterator[int]:
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, limit: int) -> bytes:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    # One byte more than the limit tells a file that fits from one that does not, even
    # while it grows.
    content = bytearray()
    while len(content) <= limit:
        piece = os.read(descriptor, limit + 1 - len(content))
        if not piece:
            return bytes(content)
        content += piece
    raise OSError(errno.EFBIG, f"larger than the {limit} bytes it may have")


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _locked(descriptor: int) -> bool:
    """Try to take the lock of an open file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    """Is this open file the one that bears the name?"""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def _temporary(path: str, mode: int) -> Iterator[tuple[int, str]]:
    """
    A new file beside C{path}, open and locked, which is gone at the end unless it was
    renamed.

    The names are C{.NAME.0.new}, C{.NAME.1.new} and so on, and the lock tells the
    file of a living writer from the leftover of a crash: a leftover is removed, never
    written to, since L{LocalFiles.create} may have made it a second name of a file
    that is in use.
    """
    folder, name = os.path.split(path)
    for number in range(MAX_TEMPORARIES):
        temporary = os.path.join(folder, f".{name}.{number}.new")
        _remove_leftover(temporary)
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode
            )
        except FileExistsError:
            continue
        try:
            # Between the open and the lock somebody may have taken it for a leftover.
            if not _locked(descriptor) or not _is_at(descriptor, temporary):
                continue
            os.fchmod(descriptor, mode)  # the umask may have taken bits away
            try:
                yield descriptor, temporary
            finally:
                if _is_at(descriptor, temporary):
                    # If it cannot be removed, the next writer does it.
                    with suppress(OSError):
                        os.unlink(temporary)
            return
        finally:
            os.close(descriptor)
    raise OSError(errno.EBUSY, "being written by too many processes at once", path)


def _remove_leftover(temporary: str) -> None:
    # What cannot be opened or removed keeps its name, and the next number is tried.
    with suppress(OSError), _opened(temporary, _READ | os.O_NOFOLLOW) as descriptor:
        if _locked(descriptor) and _is_at(descriptor, temporary):
            os.unlink(temporary)


@implementer(IFiles)
class LocalFiles:
    """
    The disk of this machine.

    Secrets are read from plain files only: replacing one (L{write_atomic}) would
    replace a link by a file, and the two would go different ways unnoticed.
    """

    def read(self, path: str, limit: int) -> bytes:
        with _naming(path), _opened(path, _READ) as descriptor:
            return _read_all(descriptor, limit)

    def read_secret(self, path: str, limit: int) -> bytes:
        try:
            with _naming(path), _opened(path, _READ | os.O_NOFOLLOW) as descriptor:
                # Asked of the open file, so that it cannot be swapped in between.
                mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
                if mode & _FOR_OTHERS:
                    raise UnsafePermissions(
                        f"other users have rights to the secret file {path} (mode {mode:04o}): "
                        f"run chmod 600 {shlex.quote(path)}"
                    )
                return _read_all(descriptor, limit)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UnsafePermissions(
                    f"{path} is a symbolic link, and a secret has to be a plain file: "
                    f"put the file itself there"
                ) from error
            raise

    def write_atomic(self, path: str, data: bytes, mode: int = 0o600) -> None:
        with _naming(path):
            with _temporary(path, mode) as (descriptor, temporary):
                _write_all(descriptor, data)
                os.fsync(descriptor)
                os.rename(temporary, path)
            sync_folder(os.path.dirname(path) or os.curdir)

    def create(self, path: str, data: bytes, mode: int = 0o600) -> None:
        with _naming(path):
            with _temporary(path, mode) as (descriptor, temporary):
                _write_all(descriptor, data)
                os.fsync(descriptor)
                # A rename would replace what is there; a link does not.
                os.link(temporary, path)
            sync_folder(os.path.dirname(path) or os.curdir)

    def make_folder(self, path: str, mode: int = 0o700) -> None:
        with _naming(path):
            if os.path.isdir(path):
                return
            parent = os.path.dirname(os.path.abspath(path))
            self.make_folder(parent, mode)
            try:
                os.mkdir(path, mode)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise NotADirectoryError(
                        errno.ENOTDIR, os.strerror(errno.ENOTDIR), path
                    ) from None
            else:
                os.chmod(path, mode)
            sync_folder(parent)

    def mode(self, path: str) -> int | None:
        with _naming(path):
            try:
                return stat.S_IMODE(os.stat(path).st_mode)
            except FileNotFoundError:
                return None

    def remove(self, path: str) -> None:
        with _naming(path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return
            sync_folder(os.path.dirname(path) or os.curdir)

    def lock(self, path: str, note: str) -> Callable[[], None]:
        with _naming(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)
                _write_all(descriptor, note.encode("utf-8"))
            except BaseException:
                os.close(descriptor)
                raise
        held = [descriptor]

        def release() -> None:
            # The file stays: were it removed, two could hold locks on files of the same
            # name, one of them nameless.  Closing releases the lock.
            while held:
                descriptor = held.pop()
                try:
                    os.ftruncate(descriptor, 0)
                finally:
                    os.close(descriptor)

        return release
