"""
What was written and is not read, of many connections together, with a limit.  Pure.

Flow control bounds what a producer writes, but not the answers to what was asked before the peer
stopped reading, nor how many connections and keys it has.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Unsent"]

C = TypeVar("C", bound=Hashable)
P = TypeVar("P", bound=Hashable)


class Unsent(Generic[C, P]):
    """
    Counts bytes by connections and by their peers; over the limit, who has most is cut off.

    @ivar held: bytes of all together.
    """

    def __init__(self, total: int, each: int, cut: Callable[[C, int], None]) -> None:
        """
        @param total: bytes of all peers, at most.
        @param each: bytes of one peer, at most.
        @param cut: told which connection has to go, and how many bytes it has; counts no more
            when it is told.
        """
        self._total = total
        self._each = each
        self._cut = cut
        self.held = 0
        self._peers: dict[P, dict[C, int]] = {}
        self._of: dict[C, P] = {}

    def add(self, connection: C, peer: P, size: int) -> None:
        """So many bytes more were written on a connection that its peer does not read."""
        self._of[connection] = peer
        sizes = self._peers.setdefault(peer, {})
        sizes[connection] = sizes.get(connection, 0) + size
        self.held += size
        while self.of(peer) > self._each:
            self._cut_most(peer)
        while self.held > self._total:
            self._cut_most(max(self._peers, key=self.of))

    def of(self, peer: P) -> int:
        """@return: bytes of one peer."""
        return sum(self._peers.get(peer, {}).values())

    def _cut_most(self, peer: P) -> None:
        sizes = self._peers[peer]
        connection = max(sizes, key=sizes.__getitem__)
        size = sizes[connection]
        self.forget(connection)
        self._cut(connection, size)

    def forget(self, connection: C) -> None:
        """All of it was read, or is not wanted any more.  May be called again."""
        peer = self._of.pop(connection, None)
        if peer is None:
            return
        sizes = self._peers[peer]
        self.held -= sizes.pop(connection)
        if not sizes:
            del self._peers[peer]
