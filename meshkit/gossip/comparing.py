"""
Finding out what differs between this node and a peer: windows of
L{meshkit.gossip.reconcile}, filled from the store, one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall

from meshkit.errors import MalformedFrame, PeerTooSlow
from meshkit.gossip.codec import Ranges
from meshkit.gossip.reconcile import (
    END,
    FIRST,
    KEY_BYTES,
    STEP_BYTES,
    WINDOW,
    Entries,
    Entry,
    Step,
    Window,
    asked_window,
)
from meshkit.gossip.spread import MAX_CLAIMS

if TYPE_CHECKING:
    from meshkit.gossip.link import GossipLink

#: Windows that follow one another: a million feeds of each side.
MAX_WINDOWS: Final = 64
#: Windows that a node has open at a time, of those that it began and of those that it
#: answers; each holds up to L{WINDOW} entries.
MAX_OPEN_WINDOWS: Final = 4
#: Feeds that the store is asked for at a time.
PAGE: Final = 1_000
#: Seconds that a peer may take for its answer to what was said in a window.
PATIENCE: Final = 60.0
#: Bytes of the ranges of a frame from which on one that is followed by more gains time, as
#: all have that are cut for their size.
FULL: Final = STEP_BYTES // 4
#: What differs is fetched until no more than this is left, before the next window.
MAX_LEFT: Final = MAX_CLAIMS - WINDOW


class Rooms:
    """
    How many windows a node has open.  Those that it began wait for the other side, which
    may wait for room: so there is room of its own for those that it answers, which wait
    for nobody.
    """

    def __init__(self) -> None:
        self.begun = DeferredSemaphore(MAX_OPEN_WINDOWS)
        self.answered = DeferredSemaphore(MAX_OPEN_WINDOWS)


class Comparing:
    """The windows of one link."""

    def __init__(self, link: GossipLink, store: Any, rooms: Rooms) -> None:
        self._link = link
        self._store = store
        self._rooms = rooms
        self._salt = b""
        # What waits until the channel takes it.
        self._steps: deque[Step] = deque()
        # Number of the last window, and the window while it is open.
        self._number = 0
        self._window: Window | None = None
        self._lower = FIRST
        # How far our own feed is as it is compared; it may go on meanwhile.
        self._own = 0
        self._ended: Deferred[None] | None = None
        self._running = False
        self._again = False
        self._answering = False
        self._asked: Ranges | None = None
        self._room: Deferred[None] | None = None
        self._late: IDelayedCall | None = None

    def greet(self, salt: bytes) -> None:
        """Both nonces are known."""
        self._salt = salt

    def close(self) -> None:
        """The link is gone."""
        self._window = None
        self._steps.clear()
        self._stop_clock()
        for waiting in (self._ended, self._room):
            if waiting is not None and not waiting.called:
                waiting.callback(None)

    def claims_fell(self) -> None:
        """Some of what differed was fetched."""
        partner = self._link.partner
        if len(partner.claims) > MAX_LEFT:
            return
        if self._room is not None:
            room, self._room = self._room, None
            room.callback(None)
        if partner.overflowed:
            # Not all that differs could be noted.
            partner.overflowed = False
            self._link.telling.compare_again()

    # --- the side that began --------------------------------------------------------------

    def run(self) -> None:
        """Compare everything, now; if that is under way, once more."""
        self._again = True
        if not self._running:
            self._running = True
            self._link.run(self._run())

    async def _run(self) -> None:
        try:
            while self._again and self._link.open:
                self._again = False
                self._link.partner.overflowed = False
                await self._all_windows()
        finally:
            self._running = False

    async def _all_windows(self) -> None:
        lower = FIRST
        for _ in range(MAX_WINDOWS):
            upper = await self._begin(lower)
            if not self._link.open or self._again or upper == END:
                return
            lower = upper
        raise MalformedFrame(f"a reconciliation did not end within {MAX_WINDOWS} windows")

    async def _begin(self, lower: bytes) -> bytes:
        """@return: where the window ended."""
        await self._wait_for_claims()
        await self._rooms.begun.acquire()
        try:
            entries = await self._load(lower, END)
            window = Window(entries, lower, entries.cut(), begins=True)
            if self._link.open:
                self._window, self._lower = window, lower
                self._number += 1
                self._ended = Deferred()
                self._send(window.begin())
                self._start_clock()
                await self._ended
        finally:
            self._window = None
            self._rooms.begun.release()
        return window.upper

    async def _wait_for_claims(self) -> None:
        while self._link.open and len(self._link.partner.claims) > MAX_LEFT:
            self._room = Deferred()
            await self._room

    # --- the side that answers -------------------------------------------------------------

    async def _answer_all(self) -> None:
        try:
            while self._asked is not None and self._link.open:
                asked, self._asked = self._asked, None
                await self._answer(asked)
        finally:
            self._answering = False

    async def _answer(self, asked: Ranges) -> None:
        step = Step(asked.round, asked.more, asked.body)
        lower, upper = asked_window(step)
        await self._rooms.answered.acquire()
        try:
            entries = await self._load(lower, upper)
            end = min(upper, entries.cut())
            if not self._link.open or self._asked is not None:
                # The peer began anew meanwhile.
                return
            window = self._window = Window(entries, lower, end, begins=False)
            self._lower = lower
            self._ended = Deferred()
            self._receive(window, step)
            if self._window is not None:
                await self._ended
        finally:
            self._window = None
            self._rooms.answered.release()

    # --- both --------------------------------------------------------------------------------

    def received(self, frame: Ranges) -> None:
        """
        A frame came.

        @raise MalformedFrame: it is not what is due.
        """
        if self._steps:
            raise MalformedFrame("a reconciliation went on before it was answered")
        if frame.round == 0:
            self._asked_for(frame)
        elif self._link.dialled and frame.window < self._number:
            return
        elif self._window is None or frame.window != self._number:
            raise MalformedFrame("a step of a reconciliation that is not under way")
        else:
            self._receive(self._window, Step(frame.round, frame.more, frame.body))

    def _asked_for(self, frame: Ranges) -> None:
        if self._link.dialled or frame.window <= self._number or not self._link.ready:
            raise MalformedFrame("a reconciliation was begun out of turn")
        if self._window is not None:
            # It begins anew: the old window is of no use to it any more.
            self._finish()
        self._asked = frame
        self._number = frame.window
        if not self._answering:
            self._answering = True
            self._link.run(self._answer_all())

    def _receive(self, window: Window, step: Step) -> None:
        answer = window.receive(step)
        self._link.telling.differ(window.take_differences())
        self._send(answer)
        if window.finished:
            self._link.telling.compared(self._lower, window.upper, self._own)
            self._finish()
        elif answer or len(step.body) >= FULL:
            self._start_clock()

    def _finish(self) -> None:
        self._window = None
        self._stop_clock()
        self._link.telling.broken_off()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.callback(None)

    def _send(self, steps: Sequence[Step]) -> None:
        self._steps.extend(steps)
        self.flush()

    def flush(self) -> None:
        """Send what the channel takes.  What is left is no more than one window."""
        while self._steps and self._link.clear:
            step = self._steps.popleft()
            self._link.send(Ranges(self._number, step.round, step.more, step.body))

    def _start_clock(self) -> None:
        self._stop_clock()
        self._late = self._link.reactor.callLater(PATIENCE, self._too_slow)

    def _stop_clock(self) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()
        self._late = None

    def _too_slow(self) -> None:
        self._link.drop(
            PeerTooSlow(f"the peer did not go on with a reconciliation for {PATIENCE:.0f} s")
        )

    async def _load(self, lower: bytes, upper: bytes) -> Entries:
        """What we have in a window, of what both sides replicate; one more, if it is full."""
        entries = Entries(self._salt)
        after = _before(lower)
        own = self._link.part.selection.own
        self._own = 0
        while self._link.open and len(entries) <= WINDOW:
            page = await self._store.frontier(after=after, limit=PAGE)
            if not page:
                break
            self._own = next((each.sequence for each in page if each.author == own), self._own)
            entries.add(
                Entry(each.author, each.sequence, each.head, each.forked)
                for each in page
                if each.author < upper and self._link.telling.shared(each.author)
            )
            after = page[-1].author
            if after >= upper:
                break
        return entries


def _before(bound: bytes) -> bytes:
    """@return: the key just below a bound, or nothing at all."""
    number = int.from_bytes(bound.ljust(KEY_BYTES, b"\0"), "big")
    return (number - 1).to_bytes(KEY_BYTES, "big") if number else b""
