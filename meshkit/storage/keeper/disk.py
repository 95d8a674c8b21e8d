"""A shard store, as it is used from the reactor: in threads, and with errors for callers."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from meshkit.errors import CapacityReached, Overloaded, StorageBusy, StorageDiskFailed
from meshkit.runtime.workers import Workers
from meshkit.storage.header import without_names

T = TypeVar("T")

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Disk:
    """
    See the module.

    @ivar store: L{meshkit.interfaces.IShardStore}.
    @ivar free: bytes that the disk had left when it was last looked at, without those that were
        written since; L{None} if that cannot be said.
    """

    _log = Logger()

    def __init__(self, store: Any, workers: Workers) -> None:
        self.store = store
        self.free: int | None = None
        self._workers = workers

    def call(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """@return: see L{meshkit.runtime.workers.WorkerPool.run}."""
        return self._workers.run(work, *args)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """
        Do something for a caller.

        @raise StorageBusy: if no thread takes it.  It was not begun then.
        @raise CapacityReached: if the disk is full.
        @raise StorageDiskFailed: if it fails in another way.
        """
        try:
            return await self._workers.run(work, *args)
        except Overloaded:
            raise StorageBusy("all threads of the storage peer are busy: try again") from None
        except OSError as e:
            if e.errno in _FULL:
                self.free = 0
                self._log.warn("the disk is full: {error}", error=without_names(e))
                raise CapacityReached("the disk of the storage peer is full") from None
            self._log.error(
                "the disk of the shard store has failed: {error}", error=without_names(e)
            )
            raise StorageDiskFailed(
                f"the disk of the storage peer has failed: {e.strerror}"
            ) from None

    async def measure(self) -> None:
        """Look how much it has left."""
        self.free = await self._workers.run(self.store.free)

    def written(self, count: int) -> None:
        """So many bytes are on it now."""
        if self.free is not None:
            self.free = max(0, self.free - count)
