"""
Messages that wait for a client which does not read, up to a limit.

What waits is what happened while nobody looked; a client that has missed it can ask.  So
there is no way to shorten the queue but to end it: whoever has too much waiting is cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
from twisted.internet.defer import Deferred

from meshkit.operations import Item
from meshkit.web.mcp.limits import Limits


class Backlog:
    """A queue of messages."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[bytes] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Bytes of what waits."""
        return self._size

    @property
    def room(self) -> bool:
        """Is there room for what can as well be left out?"""
        return len(self._waiting) < self._limits.backlog // 2

    def put(self, text: bytes) -> bool:
        """@return: L{False} if there is no room for it: then it is not kept."""
        if self._waiting and (
            len(self._waiting) >= self._limits.backlog
            or self._size + len(text) > self._limits.backlog_bytes
        ):
            return False
        self._waiting.append(text)
        self._size += len(text)
        return True

    def take(self) -> bytes:
        """@return: the one that waited longest.  There has to be one."""
        text = self._waiting.popleft()
        self._size -= len(text)
        return text

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()
        self._size = 0


class Events:
    """
    A backlog as the source of an L{EventWriter<meshkit.web.sse.EventWriter>}, which asks for
    the next message when the connection has taken the last.
    """

    def __init__(self, limits: Limits, overflow: Callable[[], None]) -> None:
        """@param overflow: called when there is no room for a message."""
        self._backlog = Backlog(limits)
        self._overflow = overflow
        self._ended = False
        self._wanted: Deferred[None] | None = None

    @property
    def room(self) -> bool:
        """Is there room for what can as well be left out?"""
        return self._backlog.room

    def put(self, text: bytes) -> None:
        """Send a message."""
        if self._ended:
            return
        if self._backlog.put(text):
            self._wake()
        else:
            self._ended = True
            self._backlog.clear()
            self._overflow()

    def end(self) -> None:
        """There are no more after those that wait."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not wanted.called:
            wanted.callback(None)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Item:
        while not self._backlog:
            if self._ended:
                raise StopAsyncIteration
            self._wanted = Deferred()
            await self._wanted
        return Item(msgspec.Raw(self._backlog.take()))
