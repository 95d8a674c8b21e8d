"""
Whom to ask for the pieces of a segment, and when to ask one more.  Pure.

Of the peers that have shares, as many are asked as are needed: those that are not known for
faults, that answer as fast as the others, and that have the first shares, of which nothing has
to be computed.  When one is late, that is when it has taken longer than twice what its kind
takes usually (L{Latencies}) and 100 ms, another is asked beside it (Dean and Barroso, I{The
Tail at Scale}, 2013), and whoever answers first counts.  So a peer that hangs costs one short
delay, for a few segments at once, and is asked last from then on.

Time is in seconds, of any clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from math import inf
from statistics import median
from typing import Final

from attrs import define, field, frozen

__all__ = ["MAX_PEERS", "MAX_SAMPLES", "Latencies", "Race", "Runner"]

#: Answers of a peer that are remembered, and peers.
MAX_SAMPLES: Final = 16
MAX_PEERS: Final = 10_000
#: A peer is not late before so many seconds, and before so many times the usual.
LEAST: Final = 0.1
TIMES: Final = 2.0
#: Where nothing is known.
UNKNOWN: Final = 0.5
#: What was known of a peer is not true any more after so many seconds.
FORGET: Final = 600.0
#: A peer that takes so many times as long as the fastest is asked after all that do not.
SLOW: Final = 2.0


@define
class _Known:
    """
    What is known of a peer.

    @ivar at: when it was last heard of.
    @ivar samples: how long it took.
    @ivar hung: it was left behind when it was late, and has not answered since.
    """

    at: float
    samples: deque[float] = field(factory=lambda: deque(maxlen=MAX_SAMPLES))
    hung: bool = False


class Latencies:
    """
    How long peers took to answer, for the last few answers of the last few peers.  What is
    older than L{FORGET} seconds does not count, as peers that are not asked could not better
    themselves.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()

    def add(self, peer: Hashable, seconds: float, now: float) -> None:
        """
        A peer has answered.

        @param seconds: that it took.
        """
        known = self._of(peer, now)
        known.samples.append(seconds)
        known.hung = False

    def hung(self, peer: Hashable, now: float) -> None:
        """A peer was late, and is not waited for any more."""
        self._of(peer, now).hung = True

    def _of(self, peer: Hashable, now: float) -> _Known:
        known = self._known.pop(peer, None)
        if known is None or now - known.at > FORGET:
            if known is None and len(self._known) >= MAX_PEERS:
                self._known.popitem(last=False)
            known = _Known(now)
        known.at = now
        self._known[peer] = known
        return known

    def usual(self, peer: Hashable, now: float) -> float | None:
        """
        @return: the median of a peer in seconds, without end if it hung; L{None} if nothing
            is known of it.
        """
        known = self._known.get(peer)
        if known is None or now - known.at > FORGET:
            return None
        if known.hung:
            return inf
        return median(known.samples)

    def patience(self, peers: Iterable[Hashable], now: float) -> float:
        """
        When is one of these peers late?

        @param peers: that are asked for the same.
        @return: seconds after which another is to be asked.
        """
        found = [self.usual(each, now) for each in peers]
        known = [each for each in found if each is not None and each != inf]
        if not known:
            return UNKNOWN
        return max(LEAST, TIMES * median(known))


@frozen
class Runner:
    """
    Somebody who has a share.

    @ivar share: its number.
    @ivar peer: who.
    """

    share: int
    peer: Hashable


@define
class _Lap:
    asked: float
    hedged: bool = field(default=False)


class Race:
    """
    The pieces of one segment.

    Whoever uses it asks those that L{start}, L{failed}, L{wrong} and L{late} name, tells what
    came of it, and calls L{late} when L{due} says so.

    @ivar pieces: the runners whose pieces are there, and not known to be wrong.
    """

    def __init__(
        self,
        needed: int,
        runners: Sequence[Runner],
        latencies: Latencies,
        shunned: Iterable[Hashable] = (),
    ) -> None:
        """
        @param needed: how many pieces, of different shares, suffice.
        @param runners: a share may have several, a peer several shares.
        @param shunned: peers that are asked last.
        """
        self.pieces: list[Runner] = []
        self._needed = needed
        self._latencies = latencies
        self._left = list(runners)
        self._shunned = frozenset(shunned)
        self._running: dict[Runner, _Lap] = {}

    @property
    def running(self) -> tuple[Runner, ...]:
        """Who was asked, and has not answered."""
        return tuple(self._running)

    @property
    def ready(self) -> bool:
        """Are there enough pieces to try?"""
        return len({each.share for each in self.pieces}) >= self._needed

    @property
    def hopeless(self) -> bool:
        """Can there not be enough any more?"""
        live = {each.share for each in (*self.pieces, *self._running, *self._left)}
        return len(live) < self._needed

    def start(self, now: float) -> list[Runner]:
        """@return: whom to ask first."""
        self._left = _ranked(self._left, self._latencies, self._shunned, now)
        return self._ask(now, self._needed)

    def arrived(self, runner: Runner, now: float) -> None:
        """A piece came."""
        lap = self._running.pop(runner, None)
        if lap is not None:
            self._latencies.add(runner.peer, now - lap.asked, now)
            self.pieces.append(runner)

    def failed(self, runner: Runner, now: float) -> list[Runner]:
        """
        It does not come.

        @return: whom to ask instead.
        """
        lap = self._running.pop(runner, None)
        if lap is None or lap.hedged:
            return []  # somebody else was asked before
        return self._ask(now, 1)

    def chosen(self) -> dict[int, Runner]:
        """@return: by share, whose piece is to be used."""
        found: dict[int, Runner] = {}
        for each in self.pieces:
            found.setdefault(each.share, each)
        return found

    def wrong(self, runners: Iterable[Runner], now: float) -> list[Runner]:
        """
        Pieces that came are not what they should be.

        @return: whom to ask instead.
        """
        for each in runners:
            self.pieces.remove(each)
        # Who is late has somebody beside it.
        coming = [runner for runner, lap in self._running.items() if not lap.hedged]
        shares = {each.share for each in (*self.pieces, *coming)}
        return self._ask(now, max(0, self._needed - len(shares)))

    def due(self, now: float) -> float | None:
        """@return: when to call L{late}; L{None} if there is nobody to be asked then."""
        waiting = [lap.asked for lap in self._running.values() if not lap.hedged]
        if not waiting or not self._left:
            return None
        return min(waiting) + self._patience(now)

    def late(self, now: float) -> list[Runner]:
        """@return: whom to ask beside those that are late now."""
        patience, asked = self._patience(now), []
        for lap in tuple(self._running.values()):
            if not lap.hedged and now >= lap.asked + patience:
                others = self._ask(now, 1)
                # Those that are asked beside others may be late themselves.
                lap.hedged = bool(others)
                asked += others
        return asked

    def leave(self, now: float) -> list[Runner]:
        """
        There is no need to wait for the others.

        @return: those that had not answered.  Those that are late are remembered for it.
        """
        patience, left = self._patience(now), list(self._running)
        for runner, lap in self._running.items():
            if now - lap.asked >= patience:
                self._latencies.hung(runner.peer, now)
        self._running.clear()
        return left

    def _patience(self, now: float) -> float:
        everybody = (*self.pieces, *self._running, *self._left)
        return self._latencies.patience([each.peer for each in everybody], now)

    def _ask(self, now: float, count: int) -> list[Runner]:
        """Ask the next ones, each for a share that no piece is of and nobody is asked for."""
        asked: list[Runner] = []
        busy = {each.share for each in (*self.pieces, *self._running)}
        for each in tuple(self._left):
            if len(asked) == count:
                break
            if each.share not in busy:
                self._left.remove(each)
                busy.add(each.share)
                self._running[each] = _Lap(now)
                asked.append(each)
        for each in tuple(self._left):
            # A share that somebody is asked for already: better than nobody.
            if len(asked) == count:
                break
            if each.share not in {piece.share for piece in self.pieces}:
                self._left.remove(each)
                self._running[each] = _Lap(now)
                asked.append(each)
        return asked


def _ranked(
    runners: Sequence[Runner], latencies: Latencies, shunned: frozenset[Hashable], now: float
) -> list[Runner]:
    usual = {each.peer: latencies.usual(each.peer, now) for each in runners}
    known = [seconds for seconds in usual.values() if seconds is not None]
    slow = max(LEAST, SLOW * min(known)) if known else 0.0

    def rank(runner: Runner) -> tuple[bool, bool, int]:
        seconds = usual[runner.peer]
        return runner.peer in shunned, seconds is not None and seconds > slow, runner.share

    return sorted(runners, key=rank)
