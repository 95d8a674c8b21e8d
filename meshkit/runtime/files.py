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
from typing import Final, Protocol

from zope.interface import implementer

from meshkit.errors import UnsafePermissions
from meshkit.interfaces import IFiles

__all__ = [
    "LOCAL",
    "MAX_TEMPORARIES",
    "LocalFiles",
    "LocalSystem",
    "SystemCalls",
    "naming",
    "opened",
    "sync_folder",
]

#: How many processes may write the same file at the same moment.
MAX_TEMPORARIES: Final = 16

_FOR_OTHERS: Final = 0o077
# What cannot be synced since we cannot read it, or nobody can write it, holds no folder
# that we have just made.
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS})
# A pipe in the place of a file must not block the open.
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_LOCK: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class SystemCalls(Protocol):
    """
    What is asked of the operating system here, call by call and under the names that
    C{os} and C{fcntl} give them.  Handed in, so that a simulation can lose what was not
    synced between any two of them.

    Every error is an L{OSError} with its number.
    """

    def open(self, path: str, flags: int, mode: int) -> int:
        """@return: descriptor of an open file."""

    def close(self, descriptor: int) -> None:
        """Give it back, and the lock with it."""

    def read(self, descriptor: int, length: int) -> bytes:
        """@return: at most so many of the next bytes; none at the end."""

    def write(self, descriptor: int, data: memoryview) -> int:
        """@return: how many of the bytes were taken."""

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """@return: at most so many of the bytes there; none behind the end."""

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        """@return: how many of the bytes were taken."""

    def fsync(self, descriptor: int) -> None:
        """Make durable what a file holds, or which names a folder has."""

    def ftruncate(self, descriptor: int, length: int) -> None:
        """Set the length."""

    def fchmod(self, descriptor: int, mode: int) -> None:
        """Set the permission bits."""

    def fstat(self, descriptor: int) -> os.stat_result:
        """@return: what it is, above all kind, mode, number and device."""

    def flock(self, descriptor: int, operation: int) -> None:
        """@raise BlockingIOError: if another open file has the lock."""

    def stat(self, path: str, *, follow_symlinks: bool = True) -> os.stat_result:
        """@return: as L{fstat}."""

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits."""

    def mkdir(self, path: str, mode: int) -> None:
        """Make a folder."""

    def rename(self, path: str, target: str) -> None:
        """Move a name, over another one if there is one, in one step."""

    def link(self, path: str, target: str) -> None:
        """Give a file a second name, never over another one."""

    def unlink(self, path: str) -> None:
        """Take a name away."""

    def listdir(self, path: str) -> list[str]:
        """@return: the names in a folder, sorted."""

    def statvfs(self, path: str) -> os.statvfs_result:
        """@return: the sizes of the file system, above all C{f_bavail} and C{f_frsize}."""


class LocalSystem:
    """The operating system of this machine."""

    def open(self, path: str, flags: int, mode: int) -> int:
        return os.open(path, flags, mode)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def read(self, descriptor: int, length: int) -> bytes:
        return os.read(descriptor, length)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        return os.pread(descriptor, length, offset)

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        return os.pwrite(descriptor, data, offset)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def ftruncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def fchmod(self, descriptor: int, mode: int) -> None:
        os.fchmod(descriptor, mode)

    def fstat(self, descriptor: int) -> os.stat_result:
        return os.fstat(descriptor)

    def flock(self, descriptor: int, operation: int) -> None:
        fcntl.flock(descriptor, operation)

    def stat(self, path: str, *, follow_symlinks: bool = True) -> os.stat_result:
        return os.stat(path, follow_symlinks=follow_symlinks)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def rename(self, path: str, target: str) -> None:
        os.rename(path, target)

    def link(self, path: str, target: str) -> None:
        os.link(path, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def statvfs(self, path: str) -> os.statvfs_result:
        return os.statvfs(path)


#: What is used unless something else is handed in.
LOCAL: Final[SystemCalls] = LocalSystem()


def sync_folder(path: str, system: SystemCalls = LOCAL) -> None:
    """Make the names in a folder durable.  Blocks."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with naming(path), opened(system, path, flags) as descriptor:
        system.fsync(descriptor)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Let every L{OSError} name the file that the caller spoke of."""
    try:
        yield
    except OSError as error:
        if error.filename == path and error.filename2 is None:
            raise
        # The constructor picks the subclass that goes with the number.
        raise OSError(error.errno, error.strerror, path) from error


@contextmanager
def opened(system: SystemCalls, path: str, flags: int, mode: int = 0o600) -> Iterator[int]:
    """A file that is open for the length of a block."""
    descriptor = system.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        system.close(descriptor)


def _read_all(system: SystemCalls, descriptor: int, limit: int) -> bytes:
    if not stat.S_ISREG(system.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    # One byte more than the limit tells a file that fits from one that does not, even
    # while it grows.
    content = bytearray()
    while len(content) <= limit:
        piece = system.read(descriptor, limit + 1 - len(content))
        if not piece:
            return bytes(content)
        content += piece
    raise OSError(errno.EFBIG, f"larger than the {limit} bytes it may have")


def _write_all(system: SystemCalls, descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[system.write(descriptor, rest) :]


def _locked(system: SystemCalls, descriptor: int) -> bool:
    """Try to take the lock of an open file."""
    try:
        system.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(system: SystemCalls, descriptor: int, path: str) -> bool:
    """Is this open file the one that bears the name?"""
    try:
        return os.path.samestat(system.fstat(descriptor), system.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _is_folder(system: SystemCalls, path: str) -> bool:
    try:
        return stat.S_ISDIR(system.stat(path).st_mode)
    except (OSError, ValueError):  # a path with a zero byte
        return False


@contextmanager
def _temporary(system: SystemCalls, path: str, mode: int) -> Iterator[tuple[int, str]]:
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
        _remove_leftover(system, temporary)
        try:
            descriptor = system.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode
            )
        except FileExistsError:
            continue
        try:
            # Between the open and the lock somebody may have taken it for a leftover.
            if not _locked(system, descriptor) or not _is_at(system, descriptor, temporary):
                continue
            system.fchmod(descriptor, mode)  # the umask may have taken bits away
            try:
                yield descriptor, temporary
            finally:
                if _is_at(system, descriptor, temporary):
                    # If it cannot be removed, the next writer does it.
                    with suppress(OSError):
                        system.unlink(temporary)
            return
        finally:
            system.close(descriptor)
    raise OSError(errno.EBUSY, "being written by too many processes at once", path)


def _remove_leftover(system: SystemCalls, temporary: str) -> None:
    # What cannot be opened or removed keeps its name, and the next number is tried.
    with suppress(OSError), opened(system, temporary, _READ | os.O_NOFOLLOW) as descriptor:
        if _locked(system, descriptor) and _is_at(system, descriptor, temporary):
            system.unlink(temporary)


@implementer(IFiles)
class LocalFiles:
    """
    The disk of this machine, or of the machine whose system is handed in.

    What is found done already is synced all the same: whoever did it may have been killed
    before that.

    Secrets are read from plain files only: replacing one (L{write_atomic}) would
    replace a link by a file, and the two would go different ways unnoticed.

    @ivar system: asked for everything.
    """

    def __init__(self, system: SystemCalls = LOCAL) -> None:
        self.system = system

    def read(self, path: str, limit: int) -> bytes:
        with naming(path), opened(self.system, path, _READ) as descriptor:
            return _read_all(self.system, descriptor, limit)

    def read_secret(self, path: str, limit: int) -> bytes:
        try:
            with naming(path), opened(self.system, path, _READ | os.O_NOFOLLOW) as descriptor:
                # Asked of the open file, so that it cannot be swapped in between.
                mode = stat.S_IMODE(self.system.fstat(descriptor).st_mode)
                if mode & _FOR_OTHERS:
                    raise UnsafePermissions(
                        f"other users have rights to the secret file {path} (mode {mode:04o}): "
                        f"run chmod 600 {shlex.quote(path)}"
                    )
                return _read_all(self.system, descriptor, limit)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UnsafePermissions(
                    f"{path} is a symbolic link, and a secret has to be a plain file: "
                    f"put the file itself there"
                ) from error
            raise

    def write_atomic(self, path: str, data: bytes, mode: int = 0o600) -> None:
        system = self.system
        with naming(path):
            with _temporary(system, path, mode) as (descriptor, temporary):
                _write_all(system, descriptor, data)
                system.fsync(descriptor)
                system.rename(temporary, path)
            sync_folder(os.path.dirname(path) or os.curdir, system)

    def create(self, path: str, data: bytes, mode: int = 0o600) -> None:
        system = self.system
        folder = os.path.dirname(path) or os.curdir
        with naming(path):
            try:
                with _temporary(system, path, mode) as (descriptor, temporary):
                    _write_all(system, descriptor, data)
                    system.fsync(descriptor)
                    # A rename would replace what is there; a link does not.
                    system.link(temporary, path)
            except FileExistsError:
                sync_folder(folder, system)
                raise
            sync_folder(folder, system)

    def make_folder(self, path: str, mode: int = 0o700) -> None:
        system = self.system
        with naming(path):
            parent = os.path.dirname(os.path.abspath(path))
            if _is_folder(system, path):
                try:
                    sync_folder(parent, system)
                except OSError as error:
                    if error.errno not in _NOT_OURS:
                        raise
                return
            self.make_folder(parent, mode)
            try:
                system.mkdir(path, mode)
            except FileExistsError:
                if not _is_folder(system, path):
                    raise NotADirectoryError(
                        errno.ENOTDIR, os.strerror(errno.ENOTDIR), path
                    ) from None
            else:
                system.chmod(path, mode)
            sync_folder(parent, system)

    def mode(self, path: str) -> int | None:
        system = self.system
        with naming(path):
            try:
                return stat.S_IMODE(system.stat(path).st_mode)
            except FileNotFoundError:
                return None

    def remove(self, path: str) -> None:
        system = self.system
        with naming(path):
            with suppress(FileNotFoundError):
                system.unlink(path)
            with suppress(FileNotFoundError):  # of a folder that is not there
                sync_folder(os.path.dirname(path) or os.curdir, system)

    def lock(self, path: str, note: str) -> Callable[[], None]:
        system = self.system
        with naming(path):
            descriptor = system.open(path, _LOCK, 0o600)
            try:
                system.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                system.ftruncate(descriptor, 0)
                _write_all(system, descriptor, note.encode("utf-8"))
            except BaseException:
                system.close(descriptor)
                raise
        held = [descriptor]

        def release() -> None:
            # The file stays: were it removed, two could hold locks on files of the same
            # name, one of them nameless.  Closing releases the lock.
            while held:
                descriptor = held.pop()
                try:
                    system.ftruncate(descriptor, 0)
                finally:
                    system.close(descriptor)

        return release
