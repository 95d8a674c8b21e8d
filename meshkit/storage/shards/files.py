"""
Shards as files, each with its note beside it.

::

    shards/3f/3f... .mkshare    a shard: 64 digits, in the folder of the first two
    shards/3f/3f... .note       its note
    incoming/                   what is being written
    damaged/                    what was put aside, and a .reason for each

A shard is a share as L{meshkit.storage.share_files} describes it, so that
C{meshkit object decode} reads the folder of a storage peer like any other.

It is committed like this: the file is synced, its note is written and synced, the note gets
its name, the shard gets its name, and the folder of both is synced.  These three syncs are as
few as do: two files have to hold what they hold, and a folder has to name them.  Both are
moved out of another folder, which is not synced: what a crash leaves there is a second name of
a file that is complete, or of one that never was, and L{FileShardStore.open} takes either away.

The names of both are one sync, and not one step.  A file system that reorders what it was
asked for may keep the name of the shard at a crash and lose that of its note.  The shard is
whole then, and is there with an empty note, as is one whose note somebody has lost.

What was made by a process that was killed is synced when the next one opens the store, before
it says that it is there.

There is no index but the files, and nothing is held open but what is being written.  Only one
process may have the store open: the lock of the data folder, in which it is, sees to that
(L{meshkit.runtime.folder}).  Files that are not ours stay where they are and are left alone.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final

from twisted.logger import Logger
from zope.interface import implementer

from meshkit.errors import ObjectMalformed, ShareDamaged, ShareUnknown
from meshkit.interfaces import IScatteredReads, IShardStore, IShardWriter
from meshkit.runtime.files import LOCAL, LocalFiles, SystemCalls, naming, opened, sync_folder
from meshkit.storage.header import without_names
from meshkit.storage.share_files import SUFFIX, TRAILER_BYTES, Trailer
from meshkit.storage.terms import MAX_NOTE, Shard

__all__ = ["KEPT_IN_MEMORY", "FileShardStore"]

#: Bytes of a shard that is being written which wait for its end in memory; what is more waits
#: in a file.
KEPT_IN_MEMORY: Final = 256 * 1024

#: Name of the folder of shards in that of the store.
SHARDS: Final = "shards"
_NOTE: Final = ".note"
_REASON: Final = ".reason"
#: Of what waits in a file, at a time.
_COPIED: Final = 1024 * 1024
_FOLDER: Final = re.compile(r"[0-9a-f]{2}")
_NAME: Final = re.compile(r"([0-9a-f]{64})(\.mkshare|\.note)")
_TEMPORARY: Final = re.compile(r"[0-9a-f]{64}\.\d+\.(?:share|kept|note)")
# A pipe in the place of a file must not block, and what a link leads to is not ours.
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
#: A place on the disk that cannot be read, or that the file system knows to be wrong.
_ROTTEN: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})


@implementer(IShardStore, IScatteredReads)
class FileShardStore:
    """Shards as files in one folder.  See the module."""

    _log = Logger()

    def __init__(self, folder: str, system: SystemCalls = LOCAL) -> None:
        """
        @param folder: is made, with its parents, if it is missing; only its owner may enter.
        @param system: asked for everything.
        """
        self._folder = folder
        self._shards = os.path.join(folder, SHARDS)
        self._incoming = os.path.join(folder, "incoming")
        self._damaged = os.path.join(folder, "damaged")
        self._system = system
        self._files = LocalFiles(system)
        self._numbers = count()
        # Folders of shards whose own names are on the disk.
        self._synced: set[str] = set()
        self._writers: dict[_Writer, None] = {}

    # --- the store

    def open(self) -> list[Shard]:
        for folder in (self._shards, self._incoming, self._damaged):
            self._files.make_folder(folder)
        for name in self._listed(self._incoming):
            path = os.path.join(self._incoming, name)
            if _TEMPORARY.fullmatch(name) and self._is_plain(path):
                with naming(path):
                    self._system.unlink(path)
        folders = [
            folder
            for name in self._listed(self._shards)
            if _FOLDER.fullmatch(name) and self._is_folder(folder := self._path(name))
        ]
        sync_folder(self._shards, self._system)
        self._synced = set(folders)
        return [shard for folder in folders for shard in self._open_folder(folder)]

    def close(self) -> None:
        for writer in list(self._writers):
            writer.discard()

    def begin(self, name: bytes) -> _Writer:
        writer = _Writer(self, name, self._temporary(name, "share"))
        self._writers[writer] = None
        return writer

    def read(self, name: bytes, offset: int, length: int) -> bytes:
        path = self._path_of(name, SUFFIX)
        try:
            with naming(path), opened(self._system, path, _READ) as descriptor:
                data = _pread(self._system, descriptor, length, offset)
        except FileNotFoundError:
            raise _unknown(name) from None
        if len(data) < length:
            raise _ends_before(name, offset + length)
        return data

    def read_scattered(self, name: bytes, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        path = self._path_of(name, SUFFIX)
        found = []
        try:
            with naming(path), opened(self._system, path, _READ) as descriptor:
                for offset, length in ranges:
                    data = _pread(self._system, descriptor, length, offset)
                    if len(data) < length:
                        raise _ends_before(name, offset + length)
                    found.append(data)
        except FileNotFoundError:
            raise _unknown(name) from None
        return found

    def set_note(self, name: bytes, note: bytes) -> None:
        if not self._is_there(self._path_of(name, SUFFIX)):
            raise _unknown(name)
        waiting = self._written_note(name, note)
        try:
            waiting.move(self._path_of(name, _NOTE))
            sync_folder(self._folder_of(name), self._system)
        finally:
            waiting.discard()

    def remove(self, name: bytes) -> None:
        # In this order: a note without a shard is a leftover, and goes at the next start.
        for suffix in (SUFFIX, _NOTE):
            path = self._path_of(name, suffix)
            with naming(path), suppress(FileNotFoundError):
                self._system.unlink(path)
        # Also if nothing was there, which may not be on the disk yet.
        with suppress(FileNotFoundError):
            sync_folder(self._folder_of(name), self._system)

    def set_aside(self, name: bytes, reason: str) -> str:
        if not self._is_there(self._path_of(name, SUFFIX)):
            raise _unknown(name)
        return self._set_aside(name, (SUFFIX, _NOTE), reason)

    def free(self) -> int:
        with naming(self._folder):
            sizes = self._system.statvfs(self._folder)
        return sizes.f_bavail * sizes.f_frsize

    # --- for its writers

    def commit(self, writer: _Writer, share: _Temporary, note: bytes) -> None:
        """
        Give a share that is complete its name, and a note.

        If that fails, one that was not there before is not there afterwards.
        """
        name = writer.name
        target, beside = self._path_of(name, SUFFIX), self._path_of(name, _NOTE)
        share.sync()
        fresh = not self._is_there(target)
        waiting = self._written_note(name, note)
        try:
            self._make_folder_of(name)
            waiting.move(beside)
            share.move(target)
            sync_folder(self._folder_of(name), self._system)
        except OSError:
            if fresh:
                for path in (target, beside):
                    # Nobody was told of it.  If it cannot be removed, it is found at the
                    # next start.
                    with suppress(OSError):
                        self._system.unlink(path)
            raise
        finally:
            waiting.discard()

    def forget(self, writer: _Writer) -> None:
        """A writer is done."""
        self._writers.pop(writer, None)

    def _temporary(self, name: bytes, kind: str) -> _Temporary:
        while True:
            path = os.path.join(self._incoming, f"{name.hex()}.{next(self._numbers)}.{kind}")
            # One that is there is not ours: ours went when the store was opened.
            with suppress(FileExistsError):
                return _Temporary(self._system, path)

    def _written_note(self, name: bytes, note: bytes) -> _Temporary:
        """@return: a note, synced, without its name."""
        _check_note(note)
        waiting = self._temporary(name, "note")
        try:
            waiting.append(note)
            waiting.sync()
        except BaseException:
            waiting.discard()
            raise
        return waiting

    def _make_folder_of(self, name: bytes) -> None:
        folder = self._folder_of(name)
        if folder in self._synced:
            return
        with naming(folder), suppress(FileExistsError):
            self._system.mkdir(folder, 0o700)
        # Also if somebody else made it, who may not have come to this yet.
        sync_folder(self._shards, self._system)
        self._synced.add(folder)

    # --- what is there

    def _open_folder(self, folder: str) -> list[Shard]:
        """@return: its shards, after what has no place in it was taken away, durably."""
        found = []
        mine = {
            name: match
            for name in self._listed(folder)
            if (match := _NAME.fullmatch(name)) and name.startswith(os.path.basename(folder))
        }
        for file, match in mine.items():
            digits, suffix = match.groups()
            path = os.path.join(folder, file)
            if suffix == SUFFIX:
                found += self._opened_shard(bytes.fromhex(digits))
            elif digits + SUFFIX not in mine and self._is_plain(path):
                with naming(path):
                    self._system.unlink(path)
        sync_folder(folder, self._system)
        return found

    def _opened_shard(self, name: bytes) -> list[Shard]:
        """@return: a shard, unless it is not ours."""
        path = self._path_of(name, SUFFIX)
        if not self._is_plain(path):
            self._log.warn(
                "{path} is not a plain file, and is left alone", path=without_names(path)
            )
            return []
        try:
            size = self._size(path)
        except ObjectMalformed as e:
            problem = str(e)
        except OSError as e:
            if e.errno not in _ROTTEN:
                raise
            problem = f"it cannot be read: {e.strerror}"
        else:
            return [Shard(name, size, self._opened_note(name))]
        where = self._set_aside(name, (SUFFIX, _NOTE), problem)
        self._log.error(
            "a share was found damaged, and was put aside as {path}: {problem}",
            path=without_names(where),
            problem=without_names(problem),
        )
        return [Shard(name, 0, b"", where)]

    def _size(self, path: str) -> int:
        """
        @return: bytes of a shard.  Only its end is looked at.
        @raise ObjectMalformed: if that is not the end of a share.
        """
        with naming(path), opened(self._system, path, _READ) as descriptor:
            size = self._system.fstat(descriptor).st_size
            at = max(0, size - TRAILER_BYTES)
            Trailer.decode(_pread(self._system, descriptor, TRAILER_BYTES, at), size)
        return size

    def _opened_note(self, name: bytes) -> bytes:
        """@return: the note of a shard; none, if it is lost or cannot be read."""
        path = self._path_of(name, _NOTE)
        try:
            return self._files.read(path, MAX_NOTE)
        except FileNotFoundError:
            return b""
        except OSError as e:
            if e.errno not in {*_ROTTEN, errno.EFBIG}:
                raise
            problem = f"the note cannot be read: {e.strerror}"
        where = self._set_aside(name, (_NOTE,), problem)
        self._log.error(
            "a share has lost its note, which was put aside as {path}: {problem}",
            path=without_names(where),
            problem=without_names(problem),
        )
        return b""

    def _set_aside(self, name: bytes, suffixes: Sequence[str], reason: str) -> str:
        taken = set(self._listed(self._damaged))
        stems = (name.hex() + (f".{number}" if number else "") for number in count())
        stem = next(s for s in stems if not taken & {s + SUFFIX, s + _NOTE})
        to = os.path.join(self._damaged, stem)
        try:
            line = " ".join(reason.split()) + "\n"
            self._files.write_atomic(to + _REASON, line.encode("utf-8", "replace"))
        except OSError as e:
            # A full disk, perhaps.  The share must not stay for that.
            self._log.warn(
                "why {path} was put aside is not kept there: {e}",
                path=without_names(to),
                e=without_names(e),
            )
        for suffix in suffixes:
            path = self._path_of(name, suffix)
            with naming(path), suppress(FileNotFoundError):
                self._system.rename(path, to + suffix)
        # First where it is, then where it is not any more.
        sync_folder(self._damaged, self._system)
        sync_folder(self._folder_of(name), self._system)
        return to + suffixes[0]

    def _listed(self, folder: str) -> list[str]:
        with naming(folder):
            return self._system.listdir(folder)

    def _is_there(self, path: str) -> bool:
        with naming(path):
            try:
                self._system.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

    def _is_plain(self, path: str) -> bool:
        with naming(path):
            return stat.S_ISREG(self._system.stat(path, follow_symlinks=False).st_mode)

    def _is_folder(self, path: str) -> bool:
        with naming(path):
            return stat.S_ISDIR(self._system.stat(path, follow_symlinks=False).st_mode)

    def _path(self, name: str) -> str:
        return os.path.join(self._shards, name)

    def _folder_of(self, name: bytes) -> str:
        return self._path(name[:1].hex())

    def _path_of(self, name: bytes, suffix: str) -> str:
        return os.path.join(self._folder_of(name), name.hex() + suffix)


class _Temporary:
    """
    A new file without a name that lasts, open.  A method that fails has changed nothing that
    can be seen.

    @ivar length: bytes of it.
    """

    def __init__(self, system: SystemCalls, path: str) -> None:
        """@raise FileExistsError: if the name is taken."""
        self.length = 0
        self._system = system
        self._path = path
        self._there = True
        with naming(path):
            self._descriptor: int | None = system.open(path, _NEW, 0o600)

    def append(self, data: Any) -> None:
        """@param data: any bytes."""
        rest = memoryview(data).cast("B")
        at = self.length
        with naming(self._path):
            while rest:
                taken = self._system.pwrite(self._open_descriptor, rest, at)
                at += taken
                rest = rest[taken:]
        self.length = at

    def read(self, length: int, offset: int) -> bytes:
        """@return: less, where it ends before."""
        with naming(self._path):
            return _pread(self._system, self._open_descriptor, length, offset)

    def sync(self) -> None:
        """It has all that it will have."""
        with naming(self._path):
            self._system.fsync(self._open_descriptor)
            self._close()

    def move(self, target: str) -> None:
        """Give it another name."""
        with naming(target):
            self._system.rename(self._path, target)
        self._there = False

    def discard(self) -> None:
        """Take it away, unless it was moved."""
        # What cannot be closed is closed, and what cannot be removed is removed at the
        # next start.
        with suppress(OSError):
            self._close()
        if self._there:
            self._there = False
            with suppress(OSError):
                self._system.unlink(self._path)

    @property
    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError("the shard was committed or given up")
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._system.close(descriptor)


@implementer(IShardWriter)
class _Writer:
    """
    A shard on its way.  What fails to be appended or kept has not been, and may be tried
    again.
    """

    def __init__(self, store: FileShardStore, name: bytes, share: _Temporary) -> None:
        self.name = name
        self._store = store
        self._share = share
        self._kept = bytearray()
        self._more: _Temporary | None = None

    def append(self, data: Any) -> None:
        self._share.append(data)

    def keep(self, data: bytes) -> None:
        if self._kept and len(self._kept) + len(data) > KEPT_IN_MEMORY:
            if self._more is None:
                self._more = self._store._temporary(self.name, "kept")
            # A copy: what fails with a buffer in its hands holds on to it.
            self._more.append(bytes(self._kept))
            self._kept = bytearray()
        self._kept += data

    def commit(self, tail: bytes, note: bytes) -> None:
        _check_note(note)
        try:
            if self._more is not None:
                for at in range(0, self._more.length, _COPIED):
                    self._share.append(self._more.read(_COPIED, at))
            self._share.append(self._kept + tail)
            self._store.commit(self, self._share, note)
        finally:
            self.discard()

    def discard(self) -> None:
        self._store.forget(self)
        self._share.discard()
        if self._more is not None:
            self._more.discard()
        self._kept = bytearray()


def _pread(system: SystemCalls, descriptor: int, length: int, offset: int) -> bytes:
    """@return: less, where the file ends before."""
    data = system.pread(descriptor, length, offset)
    if len(data) in (0, length):
        return data
    whole = bytearray(data)
    while len(whole) < length:
        more = system.pread(descriptor, length - len(whole), offset + len(whole))
        if not more:
            break
        whole += more
    return bytes(whole)


def _check_note(note: bytes) -> None:
    if len(note) > MAX_NOTE:
        raise ValueError(f"a note has at most {MAX_NOTE} bytes, not {len(note)}")


def _unknown(name: bytes) -> ShareUnknown:
    return ShareUnknown(f"there is no share {name.hex()[:16]}... here")


def _ends_before(name: bytes, end: int) -> ShareDamaged:
    return ShareDamaged(f"the share {name.hex()[:16]}... ends before its byte {end}")
