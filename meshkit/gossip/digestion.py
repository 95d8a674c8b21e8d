"""
What all links of a node have received and not digested yet: how much, and who waits.

One link alone may have L{MAX_UNDIGESTED} in hand.  All of them together may have
L{MAX_IN_ALL}; from half of that on each is held to its fair part, so that a few which
give much leave room for the others.  Who finds no room waits in line.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field

#: Bytes of received frames of one link at which it is paused until they are digested.
MAX_UNDIGESTED: Final = 1024 * 1024
#: What every frame counts for beyond its bytes: a job for the database, a call into a thread.
FRAME_COST: Final = 4 * 1024
#: What one feed in a frame counts for: key, sequence and the look-up they cause.
ENTRY_COST: Final = 64
#: Bytes of received frames of all links at which no further frame of any is handled.
MAX_IN_ALL: Final = 16 * 1024 * 1024


@define
class Digestion:
    """
    Shared by the links of a node.

    @ivar in_all: bytes that are on our hands.
    """

    in_all: int = field(default=0, init=False)
    # What to call when there is room; the values say nothing.
    _line: dict[Callable[[], None], None] = field(factory=dict, init=False)

    @property
    def full(self) -> bool:
        """Is no further frame to be handled now?"""
        return self.in_all > MAX_IN_ALL

    def fair_part(self, links: int) -> int:
        """
        @param links: how many there are.
        @return: bytes that one link may have in hand now.
        """
        if self.in_all * 2 <= MAX_IN_ALL:
            return MAX_UNDIGESTED
        return min(MAX_UNDIGESTED, MAX_IN_ALL // (2 * max(links, 1)))

    def add(self, size: int) -> None:
        self.in_all += size

    def remove(self, size: int) -> None:
        """Something is digested: who waits for room may go on, in turn."""
        self.in_all -= size
        # Each at most once: one that finds no room goes to the end of the line.
        for _ in range(len(self._line)):
            # Some room first, else the line moves by a frame at a time.
            if self.in_all * 4 > MAX_IN_ALL * 3 or not self._line:
                break
            go_on = next(iter(self._line))
            del self._line[go_on]
            go_on()

    def wait(self, go_on: Callable[[], None]) -> None:
        """Stand in line.  @param go_on: called once, when there is room."""
        self._line.setdefault(go_on)

    def leave(self, go_on: Callable[[], None]) -> None:
        """Stand in line no longer, if it does."""
        self._line.pop(go_on, None)
