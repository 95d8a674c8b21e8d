"""
Keeps on the disk up to when requests may have been let in (L{meshkit.runtime.signed.replays}).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from meshkit.errors import MeshkitError
from meshkit.runtime.signed.replays import EVERY, SKEW, Replays
from meshkit.runtime.workers import Workers

#: Bytes of the file.
_MAX_FILE: Final = 32
_MARK: Final = re.compile(rb"([0-9]{1,12})\n")
_SECOND: Final = 10**9


class StoredMark:
    """
    The mark, in a file: seconds of Unix time in decimal.

    @ivar path: of the file.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        workers: Workers,
        files: Any,
        path: str,
        wall_clock: Callable[[], int],
    ) -> None:
        """
        @param workers: in which files are read and written.
        @param files: L{meshkit.interfaces.IFiles}.
        @param path: of the file, in a folder that is there.
        @param wall_clock: nanoseconds since 1970.
        """
        self.path = path
        self._workers = workers
        self._files = files
        self._wall_clock = wall_clock
        self._replays: Replays | None = None
        self._loop = LoopingCall(self._store_ahead)
        self._loop.clock = reactor

    @property
    def replays(self) -> Replays:
        """What it is the mark of, when it was started."""
        if self._replays is None:
            raise ValueError("the mark was not started")
        return self._replays

    def start(self) -> Deferred[Replays]:
        """
        Read the mark, and store one ahead of the time.

        @return: Deferred of what lets requests in.  Fails with L{OSError} if the file cannot be
            read or written.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> Replays:
        self._replays = replays = Replays(await self._workers.run(self._read))
        await self._store(replays.next_mark(self._now()))
        self._loop.start(EVERY, now=False)
        return replays

    def stop(self) -> Deferred[None]:
        """
        Store what was let in last, so that the next start need not wait.  Nothing may be let in
        any more.

        @return: Deferred that fires when that is durable.  It does not fail.
        """
        if self._loop.running:
            self._loop.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._replays is not None:
            self._replays.close()
            await self._try_to_store(self._replays.last)

    def _now(self) -> int:
        return self._wall_clock() // _SECOND

    def _read(self) -> int:
        """In a thread."""
        try:
            raw: bytes = self._files.read(self.path, _MAX_FILE)
        except FileNotFoundError:
            return 0
        found = _MARK.fullmatch(raw)
        if found is not None:
            return int(found[1])
        # Whatever was let in before says that it was created by now, unless the clock was set
        # back meanwhile.
        self._log.warn(
            "{path} does not say until when requests were taken: nothing that was signed before "
            "now is",
            path=self.path,
        )
        return self._now() + SKEW

    async def _store(self, mark: int) -> None:
        await self._workers.run(self._files.write_atomic, self.path, b"%d\n" % mark)
        self.replays.stored(mark)

    def _store_ahead(self) -> Deferred[None]:
        mark = self.replays.next_mark(self._now())
        return Deferred.fromCoroutine(self._try_to_store(mark))

    async def _try_to_store(self, mark: int) -> None:
        try:
            await self._store(mark)
        except (OSError, MeshkitError) as e:
            # Requests are refused as soon as they are ahead of what is stored; another try is
            # made in a moment.
            self._log.error(
                "until when requests were taken cannot be stored in {path}: {error}",
                path=self.path,
                error=str(e),
            )
