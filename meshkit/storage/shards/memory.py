"""Shards in memory: for tests, for simulations, and for what need not last."""

from __future__ import annotations

import errno
import os
from threading import Lock
from typing import Any, Final

from attrs import evolve, field, frozen
from zope.interface import implementer

from meshkit.errors import ShareDamaged, ShareUnknown
from meshkit.interfaces import IShardStore, IShardWriter
from meshkit.storage.terms import MAX_NOTE, Shard

__all__ = ["MemoryShardStore"]


@frozen
class _Held:
    data: bytes = field(repr=False)
    note: bytes = field(repr=False)


@implementer(IShardStore)
class MemoryShardStore:
    """
    Shards in memory.

    What was committed is there as long as the object is, also after it was closed and opened
    again, as though it were the disk.

    @ivar damaged: what was set aside, by where it is now: name, bytes and reason.
    """

    def __init__(self, capacity: int | None = None) -> None:
        """
        @param capacity: bytes that all shards may have, with those that are being written and
            those that were set aside; then comes C{ENOSPC}.
        """
        self.damaged: dict[str, tuple[bytes, bytes, str]] = {}
        self._capacity = capacity
        self._held: dict[bytes, _Held] = {}
        self._writers: dict[_Writer, None] = {}
        self._used = 0
        # Of the sums and of the steps that make them: it is called in several threads.
        self._lock: Final = Lock()

    def open(self) -> list[Shard]:
        with self._lock:
            return [Shard(name, len(held.data), held.note) for name, held in self._held.items()]

    def close(self) -> None:
        for writer in list(self._writers):
            writer.discard()

    def begin(self, name: bytes) -> _Writer:
        writer = _Writer(self, name)
        with self._lock:
            self._writers[writer] = None
        return writer

    def read(self, name: bytes, offset: int, length: int) -> bytes:
        data = self._find(name).data[offset : offset + length]
        if len(data) < length:
            raise ShareDamaged(
                f"the share {name.hex()[:16]}... ends before its byte {offset + length}"
            )
        return data

    def set_note(self, name: bytes, note: bytes) -> None:
        _check_note(note)
        self._held[name] = evolve(self._find(name), note=note)

    def remove(self, name: bytes) -> None:
        with self._lock:
            held = self._held.pop(name, None)
            if held is not None:
                self._used -= len(held.data)

    def set_aside(self, name: bytes, reason: str) -> str:
        held = self._find(name)
        where = f"{name.hex()}.{len(self.damaged)}"
        self.damaged[where] = (name, held.data, reason)
        del self._held[name]
        return where

    def free(self) -> int | None:
        return None if self._capacity is None else max(0, self._capacity - self._used)

    def take(self, name: bytes, count: int) -> None:
        """A writer needs so many bytes more."""
        with self._lock:
            if self._capacity is not None and self._used + count > self._capacity:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name.hex())
            self._used += count

    def end(self, writer: _Writer, held: _Held | None, taken: int) -> None:
        """A writer is done, perhaps with something to be kept, after it took so many bytes."""
        with self._lock:
            self._writers.pop(writer, None)
            if held is None:
                self._used -= taken
                return
            before = self._held.get(writer.name)
            if before is not None:
                self._used -= len(before.data)
            self._held[writer.name] = held

    def _find(self, name: bytes) -> _Held:
        try:
            return self._held[name]
        except KeyError:
            raise ShareUnknown(f"there is no share {name.hex()[:16]}... here") from None


@implementer(IShardWriter)
class _Writer:
    def __init__(self, store: MemoryShardStore, name: bytes) -> None:
        self.name = name
        self._store = store
        self._data = bytearray()
        self._kept = bytearray()
        self._ended = False

    def append(self, data: Any) -> None:
        self._grow(self._data, data)

    def keep(self, data: bytes) -> None:
        self._grow(self._kept, data)

    def commit(self, tail: bytes, note: bytes) -> None:
        _check_note(note)
        try:
            self._grow(self._kept, tail)
            self._data += self._kept
            self._kept.clear()
            self._end(_Held(bytes(self._data), note))
        finally:
            self.discard()

    def discard(self) -> None:
        if not self._ended:
            self._end(None)

    def _grow(self, part: bytearray, data: Any) -> None:
        if self._ended:
            raise ValueError("the shard was committed or given up")
        self._store.take(self.name, memoryview(data).nbytes)
        part += data

    def _end(self, held: _Held | None) -> None:
        self._ended = True
        self._store.end(self, held, len(self._data) + len(self._kept))


def _check_note(note: bytes) -> None:
    if len(note) > MAX_NOTE:
        raise ValueError(f"a note has at most {MAX_NOTE} bytes, not {len(note)}")
