"""
Reads what is kept again and again, slowly, to see whether it is what it was.

Disks lose bytes without a word, and who asks for a share once a year finds out too late.  All
shares are gone through in the order of their names.  From time to time one is marked in its
note, so that after a restart it goes on behind the last mark.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from meshkit.errors import MeshkitError, ShareDamaged, ShareUnknown
from meshkit.storage.header import without_names
from meshkit.storage.keeper.reading import Check

#: Seconds between two marks, and so what is read twice after a crash.
MARK_SECONDS: Final = 60.0
#: From the beginning of one round to that of the next, at least.
ROUND_SECONDS: Final = 7 * 86_400
#: How long it rests if nothing is to be read, or something went wrong.
REST_SECONDS: Final = 60.0


class Scrubbed(Protocol):
    """Whose shares are gone through."""

    def names(self) -> Sequence[bytes]:
        """@return: the names of all shares, sorted."""

    def check(self, name: bytes) -> Check | None:
        """@return: what reads a share; L{None} if it is gone."""

    def step(self, name: bytes, check: Check) -> Deferred[int]:
        """
        Take one step, in a worker thread.  What is damaged is put aside.

        @return: Deferred of the bytes that were read.  Fails with L{ShareDamaged}, with
            L{ShareUnknown} if the share is gone, and with L{OSError}.
        """

    def mark(self, name: bytes) -> Deferred[None]:
        """@return: Deferred that fires when it is noted that this share was reached."""


class Scrubber:
    """
    Goes through all shares, round after round.

    @ivar rounds: how often it came to the end.
    @ivar checked: shares that were read.
    @ivar read: bytes of them.
    @ivar position: name of the share that was read last; empty at the beginning.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        shares: Scrubbed,
        rate: Callable[[], int],
        position: bytes = b"",
        rest: float = 0,
    ) -> None:
        """
        @param rate: asked how many bytes are to be read per second; none, if it is 0.
        @param position: where the last round had come to.
        @param rest: seconds until the next round may begin.
        """
        self.rounds = 0
        self.checked = 0
        self.read = 0
        self.position = position
        self._reactor = reactor
        self._shares = shares
        self._rate = rate
        self._begin_at = reactor.seconds() + rest
        self._marked_at = reactor.seconds()
        self._work: Deferred[None] | None = None

    def start(self) -> None:
        """Begin, or go on."""
        if self._work is None:
            self._work = Deferred.fromCoroutine(self._run())

    def stop(self) -> None:
        """Leave off.  A step that is being taken is taken to its end."""
        work, self._work = self._work, None
        if work is not None:
            work.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except CancelledError:
                return
            except (MeshkitError, OSError) as e:
                # The next share may be as it should be.
                self._log.warn("a share could not be checked: {error}", error=without_names(e))
            except Exception:
                self._log.failure("checking the shares failed")
            try:
                await self._sleep(REST_SECONDS)
            except CancelledError:
                return

    async def _round(self) -> None:
        """Go on from where it is, to the end."""
        while self._reactor.seconds() < self._begin_at:
            await self._sleep(self._begin_at - self._reactor.seconds())
        began = self._reactor.seconds()
        names = self._shares.names()
        for name in names[bisect_right(names, self.position) :]:
            while not self._rate():
                await self._sleep(REST_SECONDS)
            # First, so that one that cannot be read is not tried for ever.
            self.position = name
            await self._share(name)
            if self._reactor.seconds() >= self._marked_at + MARK_SECONDS:
                await self._mark()
        if names and self._rate():
            self.position = names[-1]
            await self._mark()
            self.rounds += 1
            self._begin_at = began + ROUND_SECONDS
        self.position = b""

    async def _share(self, name: bytes) -> None:
        check = self._shares.check(name)
        while check is not None and not check.done:
            try:
                count = await self._shares.step(name, check)
            except (ShareDamaged, ShareUnknown):
                # It is put aside, or was taken away.
                break
            self.read += count
            if rate := self._rate():
                await self._sleep(count / rate)
        self.checked += check is not None

    async def _mark(self) -> None:
        self._marked_at = self._reactor.seconds()
        # If it was taken away meanwhile, another one is marked the next time.
        with suppress(ShareUnknown):
            await self._shares.mark(self.position)

    def _sleep(self, seconds: float) -> Any:
        return deferLater(self._reactor, seconds)
