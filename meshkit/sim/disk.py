"""
A disk that forgets at a crash what was not synced.

L{SimDisk} is L{meshkit.runtime.files.LocalFiles}, the shipped code, over the system calls
of a machine that exists in memory.  L{SimSystem} keeps two states of everything: what a
program sees, and what is on the platter for sure.  A crash draws what lies between them:

  - Of the bytes of a file that were not synced, all are kept, or all are lost, or some: the
    length is any that the file has had, each page is the old or the new one, and one is
    torn in its middle.  What never was on the disk reads as zeros.
  - Of the changes to the names in a folder that were not synced, either the first few are
    kept (as with a journal) or any of them (as POSIX allows).  Each is kept or lost whole:
    a rename is atomic.  Syncing a file does not make its name durable.
  - Locks and open files are gone.

So a file whose name was synced and whose bytes were not may be empty, torn or full of
zeros, and one whose bytes were synced and whose name was not may be absent.

What is not in the model: a disk that lies about having synced, and that calls take time, as
those who make them wait for them.  A block rots where L{SimSystem.rot} says.  Bytes that were
overwritten twice without a sync in between are old or newest, and never those in the middle.

Source: T. S. Pillai and others, "All File Systems Are Not Created Equal" (OSDI 2014), for
what file systems keep; U{https://lwn.net/Articles/752063/}, for what is left after a sync
that failed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import ClassVar, Final

from attrs import define, field, frozen

from meshkit.runtime.files import LocalFiles, SystemCalls

__all__ = ["PAGE", "Loss", "PowerLost", "SimDisk", "SimSystem"]

#: Bytes that a disk writes together, unless it is torn from the power.
PAGE: Final = 4096

_UMASK: Final = 0o022
_DEVICE: Final = 1
_WRITABLE: Final = os.O_WRONLY | os.O_RDWR
#: Bytes that a disk of any size says that it has.
_BOUNDLESS: Final = 1 << 50


class PowerLost(BaseException):
    """
    The machine stopped in the middle of something, and no code of it runs any more.

    Not an C{Exception}: what handles errors must not go on as though this were one.
    """


@frozen
class Loss:
    """
    What a crash did.

    @ivar kept: files with bytes that had not been synced, and are there.
    @ivar lost: such whose bytes are gone.
    @ivar torn: such of which a part is there.
    @ivar names: changes of names that had not been synced.
    @ivar names_lost: those of them that are gone.
    """

    kept: int
    lost: int
    torn: int
    names: int
    names_lost: int


@define(eq=False)
class _File:
    """
    A file.

    @ivar data: what a program reads.
    @ivar stable: what is on the disk.
    @ivar shortest: the shortest that it has been since it was synced.
    @ivar longest: and the longest.
    """

    number: int
    mode: int
    stable_mode: int
    data: bytearray = field(factory=bytearray)
    stable: bytes = b""
    shortest: int = 0
    longest: int = 0
    dirty: bool = False

    kind: ClassVar[int] = stat.S_IFREG

    @property
    def size(self) -> int:
        return len(self.data)

    def changed(self) -> None:
        self.dirty = True
        self.shortest = min(self.shortest, len(self.data))
        self.longest = max(self.longest, len(self.data))

    def settle(self, data: bytes) -> None:
        """This is on the disk now."""
        self.stable = data
        self.stable_mode = self.mode
        self.shortest = self.longest = len(self.data)
        self.dirty = False


@define(eq=False)
class _Folder:
    """
    A folder.

    @ivar names: what a program sees.
    @ivar stable: what is on the disk.
    """

    number: int
    mode: int
    stable_mode: int
    names: dict[str, _Entry] = field(factory=dict)
    stable: dict[str, _Entry] = field(factory=dict)

    kind: ClassVar[int] = stat.S_IFDIR
    size: ClassVar[int] = 0


_Entry = _File | _Folder

#: One change of names: in which folder, which name, what it leads to now.
_Change = list[tuple[_Folder, str, _Entry | None]]


@define(eq=False)
class _Open:
    """An open file."""

    entry: _Entry
    flags: int
    owner: object
    at: int = 0


def _error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


class SimSystem:
    """
    The system calls of one machine.  See the module.

    @ivar calls: how many were made.
    @ivar owner: the process that makes the calls now, if that matters: what it opens is its
        own.
    @ivar on_stop: called when the machine stops because of L{stop_before}.
    """

    def __init__(self, rng: Random, *, capacity: int | None = None) -> None:
        """
        @param rng: draws what a crash does.
        @param capacity: bytes that all files together may have; any number, if L{None}.
        """
        self._rng = rng
        self._capacity = capacity
        self._numbers = 2
        self._root = _Folder(1, 0o755, 0o755)
        # Changes of names that are not synced, the oldest first.
        self._journal: list[_Change] = []
        self._open: dict[int, _Open] = {}
        # Never given twice, so that what a dead process left behind finds nothing.
        self._descriptors = 3
        self._locks: dict[_Entry, _Open] = {}
        self._faults: dict[str, list[int]] = {}
        self._stop_at: int | None = None
        self._down = False
        self._aside = False
        self.calls = 0
        self.owner: object = None
        self.on_stop: Callable[[], object] = int

    # --- what happens to a disk

    def stop_before(self, calls: int) -> None:
        """
        Stop the machine before the call that comes after so many more.  It raises
        L{PowerLost}, and so does every other one until L{crash}.
        """
        self._stop_at = self.calls + calls

    @contextmanager
    def aside(self) -> Iterator[None]:
        """
        Look at the disk from outside of the machine: what is called meanwhile is not counted,
        is not where it stops, and does not fail.
        """
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def fail(self, call: str, number: int = errno.EIO, times: int = 1) -> None:
        """
        Let the next calls of a kind fail.

        @param call: its name, such as C{fsync}.
        @param number: of the error.
        """
        if not hasattr(SystemCalls, call):
            raise ValueError(f"{call!r} is no system call that is made here")
        self._faults.setdefault(call, []).extend([number] * times)

    def mend(self) -> None:
        """Nothing fails any more, and nothing stops the machine.  Its size is what it is."""
        self._faults.clear()
        self._stop_at = None

    def limit(self, capacity: int | None) -> None:
        """Let the disk be so large from now on."""
        self._capacity = capacity

    def rot(self, path: str, at: int) -> None:
        """
        Change one bit of a file, as a disk does that gets old: what is read is wrong from now
        on, and nobody is told.

        @param at: which byte.
        """
        file = self._find(path)
        if not isinstance(file, _File):
            raise _error(errno.EISDIR, path)
        file.data[at] ^= 1
        if at < len(file.stable):
            stable = bytearray(file.stable)
            stable[at] ^= 1
            file.stable = bytes(stable)

    @property
    def used(self) -> int:
        """Bytes in all files that have a name or are open."""
        return sum(entry.size for entry in self._entries())

    def held(self, owner: object) -> int:
        """@return: how many files are open, and perhaps locked, for a process."""
        return sum(opened.owner is owner for opened in self._open.values())

    def end_process(self, owner: object = None) -> None:
        """
        Nothing is open or locked any more; nothing is lost.

        @param owner: the process that ends; all of them, if L{None}, and then a machine that
            was stopped runs again.
        """
        for descriptor, opened in list(self._open.items()):
            if owner is None or opened.owner is owner:
                del self._open[descriptor]
                if self._locks.get(opened.entry) is opened:
                    del self._locks[opened.entry]
        if owner is None:
            self._stop_at = None
            self._down = False

    def crash(self) -> Loss:
        """The machine stops and starts again, with what is on its disk."""
        rng = self._rng
        self.end_process()
        names = len(self._journal)
        kept = _survivors(rng, self._journal)
        for change in kept:
            _put(change)
        self._journal.clear()
        self._faults.clear()
        fates = {"kept": 0, "lost": 0, "torn": 0}
        for entry in self._reachable():
            if isinstance(entry, _Folder):
                entry.names = dict(entry.stable)
                entry.mode = entry.stable_mode = _either(rng, entry.mode, entry.stable_mode)
                continue
            entry.mode = _either(rng, entry.mode, entry.stable_mode)
            if entry.dirty:
                fate, data = _fate(rng, entry)
                fates[fate] += 1
                entry.data[:] = data
            entry.settle(bytes(entry.data))
        return Loss(names=names, names_lost=names - len(kept), **fates)

    def _reachable(self) -> Iterator[_Entry]:
        """By their names on the disk, in the order of these."""
        waiting: list[_Entry] = [self._root]
        seen: dict[_Entry, None] = {}
        while waiting:
            entry = waiting.pop()
            if entry in seen:
                continue
            seen[entry] = None
            if isinstance(entry, _Folder):
                waiting += [entry.stable[name] for name in sorted(entry.stable)]
        return iter(seen)

    def _entries(self) -> list[_Entry]:
        found: dict[_Entry, None] = {}
        waiting: list[_Entry] = [self._root, *(each.entry for each in self._open.values())]
        while waiting:
            entry = waiting.pop()
            if entry not in found:
                found[entry] = None
                if isinstance(entry, _Folder):
                    waiting += entry.names.values()
        return list(found)

    # --- before each call

    def _enter(self, call: str, path: str | None = None) -> None:
        self._count(call)
        self._check(call, path)

    def _count(self, call: str) -> None:
        """@raise PowerLost: if the machine does not run."""
        if self._aside:
            return
        if not self._down and self._stop_at is not None and self.calls >= self._stop_at:
            self._down = True
            self.on_stop()
        if self._down:
            raise PowerLost(call)
        self.calls += 1

    def _check(self, call: str, path: str | None = None) -> None:
        waiting = self._faults.get(call)
        if waiting and not self._aside:
            raise _error(waiting.pop(0), path)

    # --- paths

    def _parts(self, path: str) -> list[str]:
        if "\0" in path:
            raise ValueError("embedded null byte")
        if not path:
            raise _error(errno.ENOENT, path)
        whole = posixpath.normpath(posixpath.join("/", path))
        return [part for part in whole.split("/") if part]

    def _walk(self, path: str, parts: list[str]) -> _Entry:
        entry: _Entry = self._root
        for part in parts:
            if not isinstance(entry, _Folder):
                raise _error(errno.ENOTDIR, path)
            if part not in entry.names:
                raise _error(errno.ENOENT, path)
            entry = entry.names[part]
        return entry

    def _find(self, path: str) -> _Entry:
        return self._walk(path, self._parts(path))

    def _place(self, path: str) -> tuple[_Folder, str]:
        """@return: the folder in which the last part of a path is a name, and that."""
        parts = self._parts(path)
        if not parts:
            raise _error(errno.EEXIST, path)
        folder = self._walk(path, parts[:-1])
        if not isinstance(folder, _Folder):
            raise _error(errno.ENOTDIR, path)
        return folder, parts[-1]

    def _change(self, change: _Change) -> None:
        for folder, name, entry in change:
            if entry is None:
                folder.names.pop(name, None)
            else:
                folder.names[name] = entry
        self._journal.append(change)

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # --- the calls

    def open(self, path: str, flags: int, mode: int) -> int:
        self._enter("open", path)
        entry = self._entry_to_open(path, flags, mode)
        if isinstance(entry, _Folder):
            if flags & _WRITABLE:
                raise _error(errno.EISDIR, path)
        elif flags & os.O_DIRECTORY:
            raise _error(errno.ENOTDIR, path)
        descriptor = self._descriptors
        self._descriptors += 1
        self._open[descriptor] = _Open(entry, flags, self.owner)
        return descriptor

    def _entry_to_open(self, path: str, flags: int, mode: int) -> _Entry:
        if not flags & os.O_CREAT:
            return self._find(path)
        folder, name = self._place(path)
        if name in folder.names:
            if flags & os.O_EXCL:
                raise _error(errno.EEXIST, path)
            return folder.names[name]
        made = _File(self._next_number(), mode & ~_UMASK, mode & ~_UMASK)
        self._change([(folder, name, made)])
        return made

    def _opened(self, descriptor: int) -> _Open:
        try:
            return self._open[descriptor]
        except KeyError:
            raise _error(errno.EBADF) from None

    def _file(self, descriptor: int, flags: int) -> tuple[_Open, _File]:
        opened = self._opened(descriptor)
        if flags == _WRITABLE and not opened.flags & _WRITABLE:
            raise _error(errno.EBADF)
        if flags == os.O_RDONLY and opened.flags & os.O_WRONLY:
            raise _error(errno.EBADF)
        if not isinstance(opened.entry, _File):
            raise _error(errno.EISDIR)
        return opened, opened.entry

    def close(self, descriptor: int) -> None:
        self._count("close")
        opened = self._opened(descriptor)
        del self._open[descriptor]
        if self._locks.get(opened.entry) is opened:
            del self._locks[opened.entry]
        self._check("close")  # it is closed all the same

    def read(self, descriptor: int, length: int) -> bytes:
        self._enter("read")
        opened, file = self._file(descriptor, os.O_RDONLY)
        piece = bytes(file.data[opened.at : opened.at + length])
        opened.at += len(piece)
        return piece

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        self._enter("pread")
        _, file = self._file(descriptor, os.O_RDONLY)
        if offset < 0:
            raise _error(errno.EINVAL)
        return bytes(file.data[offset : offset + length])

    def write(self, descriptor: int, data: memoryview) -> int:
        self._enter("write")
        opened, file = self._file(descriptor, _WRITABLE)
        taken = self._put_bytes(file, data, opened.at)
        opened.at += taken
        return taken

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        self._enter("pwrite")
        _, file = self._file(descriptor, _WRITABLE)
        if offset < 0:
            raise _error(errno.EINVAL)
        return self._put_bytes(file, data, offset)

    def _put_bytes(self, file: _File, data: memoryview, at: int) -> int:
        taken = self._room(len(data), at + len(data) - file.size)
        if taken and at > file.size:
            file.data.extend(bytes(at - file.size))
        file.data[at : at + taken] = data[:taken]
        file.changed()
        return taken

    def _room(self, length: int, growth: int) -> int:
        """@return: how many of so many bytes can be taken, if they make a file grow so much."""
        if self._capacity is None or growth <= 0 or not length:
            return length
        missing = growth - max(0, self._capacity - self.used)
        if missing <= 0:
            return length
        if missing >= length:
            raise _error(errno.ENOSPC)
        return length - missing

    def fsync(self, descriptor: int) -> None:
        self._count("fsync")
        entry = self._opened(descriptor).entry
        try:
            self._check("fsync")
        except OSError:
            # The pages count as written all the same: a second fsync succeeds, and
            # whether they are on the disk shows at the next crash.
            if isinstance(entry, _File) and entry.dirty:
                entry.settle(_fate(self._rng, entry)[1])
                entry.dirty = entry.stable != entry.data
            raise
        if isinstance(entry, _File):
            entry.settle(bytes(entry.data))
        else:
            entry.stable_mode = entry.mode
            self._sync_names(entry)

    def _sync_names(self, folder: _Folder) -> None:
        # A change of two folders is one; so what was changed in the other one before it
        # goes with it, or would be put over it later.
        folders = [folder]
        synced: list[_Change] = []
        left: list[_Change] = []
        for change in reversed(self._journal):
            if any(place in folders for place, _, _ in change):
                folders += [place for place, _, _ in change]
                synced.append(change)
            else:
                left.append(change)
        for change in reversed(synced):
            _put(change)
        self._journal = left[::-1]

    def ftruncate(self, descriptor: int, length: int) -> None:
        self._enter("ftruncate")
        _, file = self._file(descriptor, _WRITABLE)
        if length < file.size:
            del file.data[length:]
        else:
            file.data.extend(bytes(length - file.size))
        file.changed()

    def fchmod(self, descriptor: int, mode: int) -> None:
        self._enter("fchmod")
        self._opened(descriptor).entry.mode = mode

    def fstat(self, descriptor: int) -> os.stat_result:
        self._enter("fstat")
        return _status(self._opened(descriptor).entry)

    def flock(self, descriptor: int, operation: int) -> None:
        self._enter("flock")
        opened = self._opened(descriptor)
        if operation != fcntl.LOCK_EX | fcntl.LOCK_NB:
            raise _error(errno.EINVAL)
        if self._locks.setdefault(opened.entry, opened) is not opened:
            raise _error(errno.EWOULDBLOCK)

    def stat(self, path: str, *, follow_symlinks: bool = True) -> os.stat_result:
        self._enter("stat", path)
        return _status(self._find(path))

    def chmod(self, path: str, mode: int) -> None:
        self._enter("chmod", path)
        self._find(path).mode = mode

    def mkdir(self, path: str, mode: int) -> None:
        self._enter("mkdir", path)
        folder, name = self._place(path)
        if name in folder.names:
            raise _error(errno.EEXIST, path)
        made = _Folder(self._next_number(), mode & ~_UMASK, mode & ~_UMASK)
        self._change([(folder, name, made)])

    def rename(self, path: str, target: str) -> None:
        self._enter("rename", path)
        folder, name = self._place(path)
        entry = self._find(path)
        over, other = self._place(target)
        there = over.names.get(other)
        if there is entry:
            return
        if isinstance(there, _Folder) and not isinstance(entry, _Folder):
            raise _error(errno.EISDIR, path)
        if isinstance(entry, _Folder):
            raise _error(errno.ENOSYS, path)  # nobody moves folders here
        self._change([(folder, name, None), (over, other, entry)])

    def link(self, path: str, target: str) -> None:
        self._enter("link", path)
        entry = self._find(path)
        folder, name = self._place(target)
        if isinstance(entry, _Folder):
            raise _error(errno.EPERM, path)
        if name in folder.names:
            raise _error(errno.EEXIST, path)
        self._change([(folder, name, entry)])

    def unlink(self, path: str) -> None:
        self._enter("unlink", path)
        entry = self._find(path)
        if isinstance(entry, _Folder):
            raise _error(errno.EISDIR, path)
        folder, name = self._place(path)
        self._change([(folder, name, None)])

    def listdir(self, path: str) -> list[str]:
        self._enter("listdir", path)
        entry = self._find(path)
        if not isinstance(entry, _Folder):
            raise _error(errno.ENOTDIR, path)
        return sorted(entry.names)

    def statvfs(self, path: str) -> os.statvfs_result:
        self._enter("statvfs", path)
        self._find(path)
        size = _BOUNDLESS if self._capacity is None else self._capacity
        free = max(0, size - self.used)
        return os.statvfs_result((1, 1, size, free, free, 0, 0, 0, 0, 255))


def _status(entry: _Entry) -> os.stat_result:
    return os.stat_result(
        (entry.kind | entry.mode, entry.number, _DEVICE, 1, 0, 0, entry.size, 0, 0, 0)
    )


def _put(change: _Change) -> None:
    """Bring a change of names to the disk."""
    for folder, name, entry in change:
        if entry is None:
            folder.stable.pop(name, None)
        else:
            folder.stable[name] = entry


def _below(rng: Random, bound: int) -> int:
    """@return: 0 to C{bound - 1}."""
    return int(rng.random() * bound)


def _either(rng: Random, new: int, old: int) -> int:
    return new if new == old or rng.random() < 0.5 else old


def _survivors(rng: Random, journal: list[_Change]) -> list[_Change]:
    """@return: the changes of names that a crash leaves."""
    if not journal:
        return []
    if rng.random() < 0.5:
        return journal[: _below(rng, len(journal) + 1)]
    return [change for change in journal if rng.random() < 0.5]


def fate(rng: Random, stable: bytes, data: bytes, shortest: int, longest: int) -> tuple[str, bytes]:
    """
    Draw what becomes of the bytes of a file that were not synced.

    @param stable: what it held when it was synced.
    @param data: what it held at last.
    @param shortest: the shortest that it was in between.
    @param longest: and the longest.
    @return: C{lost}, C{kept} or C{torn}, and what the file then holds.
    """
    drawn = rng.random()
    if drawn < 1 / 3:
        return "lost", stable
    if drawn < 2 / 3:
        return "kept", data
    # Its length and its pages reach the disk apart from each other.
    size = shortest + _below(rng, longest - shortest + 1)
    old = stable[:shortest].ljust(size, b"\0")[:size]
    new = data[:size].ljust(size, b"\0")
    torn = bytearray(old)
    for start in range(0, size, PAGE):
        if rng.random() < 0.5:
            torn[start : start + PAGE] = new[start : start + PAGE]
    if size:
        start = _below(rng, size)
        end = min(size, (start // PAGE + 1) * PAGE)
        torn[start:end] = (old if rng.random() < 0.5 else new)[start:end]
    return "torn", bytes(torn)


def _fate(rng: Random, file: _File) -> tuple[str, bytes]:
    return fate(rng, file.stable, bytes(file.data), file.shortest, file.longest)


class SimDisk(LocalFiles):
    """
    The files of one host.  See the module.

    It outlives the processes of its host: what these had open is closed by L{crash} and
    by L{end_process}, and what they still hold of it then fails with C{EBADF}.

    @ivar system: the calls beneath, to see, count and disturb them.
    """

    system: SimSystem

    def __init__(
        self,
        rng: Random,
        *,
        capacity: int | None = None,
        make_system: Callable[..., SimSystem] = SimSystem,
    ) -> None:
        """
        @param rng: draws what a crash does.
        @param capacity: see L{SimSystem}.
        @param make_system: makes the calls beneath.
        """
        super().__init__(make_system(rng, capacity=capacity))

    def crash(self) -> Loss:
        """The machine stops and starts again, with what is on its disk."""
        return self.system.crash()

    def end_process(self, owner: object = None) -> None:
        """
        The processes end, or one of them.  What they wrote is there, synced or not, until a
        crash.
        """
        self.system.end_process(owner)
