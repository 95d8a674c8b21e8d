"""
What happened in a world, in the order in which it happened.

Each event is a line of JSON: the moment in nanoseconds, what happened, on which host, and
what else is to be said of it.  The digest of all lines so far stands for the whole run: two
runs with one digest were the same, byte for byte.

A line holds nothing that differs between two processes: no address of an object, no order
of a set, no time but that of the world.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import msgspec

from meshkit.sim.clock import SimClock

#: Lines that are kept unless told otherwise.
KEPT: Final = 1_000

_encode: Final = msgspec.json.Encoder(order="deterministic").encode

#: Called with what happened, on which host, and the details.
Watcher = Callable[[str, str, dict[str, Any]], None]


class Trace:
    """
    See the module.

    @ivar events: how many events there were.
    """

    def __init__(
        self,
        clock: SimClock,
        *,
        kept: int | None = KEPT,
        write: Callable[[bytes], object] | None = None,
    ) -> None:
        """
        @param kept: how many of the last lines are kept; L{None} for all.
        @param write: given each line as well, with its end.
        """
        self._clock = clock
        self._digest = sha256()
        self._lines: deque[bytes] = deque(maxlen=kept)
        self._write = write
        self._watchers: list[Watcher] = []
        self.events = 0

    @property
    def digest(self) -> str:
        """SHA-256 of all lines so far, in hex."""
        return self._digest.hexdigest()

    @property
    def lines(self) -> list[bytes]:
        """The last lines, the oldest first."""
        return list(self._lines)

    def watch(self, watcher: Watcher) -> None:
        """Tell somebody of every event from now on."""
        self._watchers.append(watcher)

    def event(self, kind: str, host: str = "", /, **details: Any) -> None:
        """
        Something happened.

        @param kind: what, in a word or two with dots between them, such as C{link.cut}.
        @param host: where; nowhere in particular, if empty.
        @param details: of JSON types, or bytes, of which the digest stands in the line.
        """
        shown = {name: _shown(value) for name, value in details.items()}
        line = _encode([self._clock.ns, kind, host, shown]) + b"\n"
        self._digest.update(line)
        self._lines.append(line)
        self.events += 1
        if self._write is not None:
            self._write(line)
        for watcher in self._watchers:
            watcher(kind, host, details)


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"{len(value)}:{sha256(value).hexdigest()[:16]}"
    return value
