"""
The file that an object is got into, which has its name when it is whole and on the disk.

Until then it is a hidden file beside it, C{.NAME.TRANSFER.part}; what is left of it by a kill
is removed when the transfer is begun again.  All methods block, and may be
called in any thread.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EISDIR
from stat import S_ISDIR
from threading import Lock

from meshkit.errors import TargetExists
from meshkit.runtime.files import SystemCalls, naming, sync_folder


class TargetFile:
    """
    See the module.

    @ivar path: where the file is to be.
    """

    def __init__(self, path: str, transfer: str, replace: bool, system: SystemCalls) -> None:
        """
        @param path: absolute.
        @param transfer: names the transfer.
        @param replace: a file that is there is replaced.
        """
        self.path = path
        self._folder, name = os.path.split(path)
        self._part = os.path.join(self._folder, f".{name}.{transfer}.part")
        self._replace = replace
        self._system = system
        self._descriptor: int | None = None
        # A write that nobody waits for any more may still be going on when it is discarded.
        self._lock = Lock()

    def open(self) -> None:
        """
        Begin with an empty file.

        @raise TargetExists: if there is one, and it is not to be replaced.
        @raise OSError: naming C{path}, if it cannot be written there.
        """
        with naming(self.path):
            self.check()
            with suppress(FileNotFoundError):
                self._system.unlink(self._part)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            # As whoever started the node wants it (umask).
            self._descriptor = self._system.open(self._part, flags, 0o666)

    def check(self) -> None:
        """
        Can it be made?

        @raise TargetExists: if there is one, and it is not to be replaced.
        """
        try:
            found = self._system.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not self._replace:
            raise self._exists()
        if S_ISDIR(found.st_mode):
            raise IsADirectoryError(EISDIR, "is a folder", self.path)

    def _exists(self) -> TargetExists:
        return TargetExists(f"{self.path} exists: name another file, or replace it with --force")

    def write(self, data: bytes) -> None:
        """@param data: what comes next."""
        rest = memoryview(data)
        with self._lock, naming(self.path):
            while rest:
                rest = rest[self._system.write(self._opened(), rest) :]

    def commit(self) -> None:
        """
        Give it its name, durably.

        @raise TargetExists: if somebody else has made a file there, and it is not to be
            replaced.
        """
        with self._lock, naming(self.path):
            self._system.fsync(self._opened())
            if self._replace:
                self._system.rename(self._part, self.path)
            else:
                try:
                    # Unlike a rename, never over another one.
                    self._system.link(self._part, self.path)
                except FileExistsError:
                    raise self._exists() from None
                self._system.unlink(self._part)
            self._close()
        sync_folder(self._folder, self._system)

    def discard(self) -> None:
        """Take away what has no name yet.  Nothing happens if there is nothing."""
        with self._lock:
            if self._descriptor is None:
                return
            self._close()
            with suppress(FileNotFoundError):
                self._system.unlink(self._part)

    def _opened(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not open")
        return self._descriptor

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._system.close(descriptor)
