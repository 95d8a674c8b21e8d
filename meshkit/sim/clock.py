"""
The time of a simulated world.

C{twisted.internet.task.Clock} sorts all its calls anew whenever one is added, and adds
floats: with a thousand nodes it would do nothing else.  L{SimClock} keeps a heap of
integer nanoseconds, runs one call at a time, and of two calls that are due at the same
moment the one that was made first.

Source: the ordering that C{IReactorTime} leaves open is that of C{ReactorBase}, which keeps
a heap too; protocol decisions, part I, 46.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Final

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

#: Nanoseconds of a second.
SECOND: Final = 10**9

# Cancelled calls that are left in the heap before it is built anew.
_MANY: Final = 64


def nanoseconds(seconds: float) -> int:
    """
    Seconds as the clock counts them, to the nearest nanosecond.  What is to be later than
    now never becomes now: C{LoopingCall}, which asks for as little as is missing by the
    arithmetic of floats, would be called again at the same moment for ever.
    """
    return round(seconds * SECOND) or int(seconds > 0)


@implementer(IDelayedCall)
class SimCall:
    """
    A call that is due at a moment.

    @ivar due_ns: the moment.
    @ivar owner: in whose name it is made: see L{SimClock.drop}.
    """

    __slots__ = ("_args", "_call", "_clock", "_kw", "_state", "due_ns", "order", "owner")

    def __init__(
        self,
        clock: SimClock,
        due_ns: int,
        order: int,
        call: Callable[..., object],
        args: tuple[Any, ...],
        kw: dict[str, Any],
        owner: object = None,
    ) -> None:
        self.owner = owner
        self._clock = clock
        self.due_ns = due_ns
        self.order = order
        self._call = call
        self._args = args
        self._kw = kw
        self._state = _WAITING

    def getTime(self) -> float:
        return self.due_ns / SECOND

    def cancel(self) -> None:
        self._check()
        self._end(_CANCELLED)

    def drop(self) -> None:
        """
        Whoever wanted it is gone.  What is left of him may still cancel it, when it is
        collected as garbage.
        """
        self._end(_DROPPED)

    def _end(self, state: str) -> None:
        if self._state == _DROPPED:
            return
        self._state = state
        self.order = _NEVER
        # What it was to be called with may be large, and is not needed any more.
        self._call, self._args, self._kw = _nothing, (), {}
        self._clock._one_less()

    def reset(self, secondsFromNow: float) -> None:
        self._check()
        self._clock._move(self, self._clock.ns + nanoseconds(secondsFromNow))

    def delay(self, secondsLater: float) -> None:
        self._check()
        self._clock._move(self, self.due_ns + nanoseconds(secondsLater))

    def active(self) -> bool:
        return self._state == _WAITING

    def _check(self) -> None:
        if self._state == _CANCELLED:
            raise AlreadyCancelled
        if self._state == _CALLED:
            raise AlreadyCalled

    def _run(self) -> None:
        self._state = _CALLED
        self._call(*self._args, **self._kw)

    def __repr__(self) -> str:
        # Without an address: it may end in a trace.
        name = getattr(self._call, "__qualname__", type(self._call).__name__)
        return f"<SimCall {self.due_ns} ns {name} {self._state}>"


_WAITING: Final = "waiting"
_CALLED: Final = "called"
_CANCELLED: Final = "cancelled"
_DROPPED: Final = "dropped"

# The order of a call that will not be made: no entry of the heap has it.
_NEVER: Final = -1


def _nothing() -> None:
    pass


@implementer(IReactorTime)
class SimClock:
    """
    See the module.

    @ivar ns: nanoseconds since the world began.
    @ivar steps: how many calls have been made.
    """

    def __init__(self) -> None:
        self.ns = 0
        self.steps = 0
        # An entry whose order is not that of its call is stale.
        self._heap: list[tuple[int, int, SimCall]] = []
        self._orders = count()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many calls are to be made."""
        return self._waiting

    def seconds(self) -> float:
        return self.ns / SECOND

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: Any, **kw: Any
    ) -> SimCall:
        """@raise ValueError: if the delay is negative or no number."""
        if not delay >= 0:
            raise ValueError(f"a call cannot be due {delay} s from now")
        return self.call_at(self.ns + nanoseconds(delay), callable, *args, **kw)

    def call_at(self, due_ns: int, call: Callable[..., object], *args: Any, **kw: Any) -> SimCall:
        """
        @param due_ns: when; the present moment, if it is over.
        @return: what L{callLater} gives.
        """
        return self._add(None, due_ns, call, args, kw)

    def call_for(
        self,
        owner: object,
        delay: float,
        call: Callable[..., object],
        args: tuple[Any, ...],
        kw: dict[str, Any],
    ) -> SimCall:
        """
        Like L{callLater}, in the name of somebody.

        @raise ValueError: if the delay is negative or no number.
        """
        if not delay >= 0:
            raise ValueError(f"a call cannot be due {delay} s from now")
        return self._add(owner, self.ns + nanoseconds(delay), call, args, kw)

    def _add(
        self,
        owner: object,
        due_ns: int,
        call: Callable[..., object],
        args: tuple[Any, ...],
        kw: dict[str, Any],
    ) -> SimCall:
        made = SimCall(self, max(due_ns, self.ns), next(self._orders), call, args, kw, owner)
        heappush(self._heap, (made.due_ns, made.order, made))
        self._waiting += 1
        return made

    def drop(self, owner: object) -> None:
        """Forget all calls that are to be made in somebody's name."""
        for call in self.calls_of(owner):
            call.drop()

    def hold(self, owner: object, until_ns: int) -> None:
        """Nothing is done in somebody's name before then; what was due by then is due then."""
        for call in self.calls_of(owner):
            if call.due_ns < until_ns:
                self._move(call, until_ns)

    def calls_of(self, owner: object) -> list[SimCall]:
        """@return: the calls to be made in somebody's name, the next one first."""
        found = [entry for entry in self._heap if entry[2].owner is owner and _is_valid(entry)]
        return [entry[2] for entry in sorted(found)]

    def getDelayedCalls(self) -> Sequence[SimCall]:
        """@return: the calls to be made, the next one first."""
        return [entry[2] for entry in sorted(self._heap) if _is_valid(entry)]

    def next_ns(self) -> int | None:
        """@return: when the next call is due, if there is one."""
        heap = self._heap
        while heap:
            due_ns, order, call = heap[0]
            if call.order == order:
                return due_ns
            heappop(heap)
        return None

    def step(self) -> bool:
        """
        Go on to the next call and make it.

        @return: was there one?
        """
        due = self.next_ns()
        if due is None:
            return False
        call = heappop(self._heap)[2]
        self.ns = due
        self.steps += 1
        self._waiting -= 1
        call._run()
        return True

    def run_until(self, end_ns: int) -> None:
        """Make every call that is due until then, at its moment; then it is that moment."""
        while (due := self.next_ns()) is not None and due <= end_ns:
            self.step()
        self.ns = max(self.ns, end_ns)

    def advance(self, seconds: float) -> None:
        """Let so much time pass; what is due in between happens at its moment."""
        self.run_until(self.ns + nanoseconds(seconds))

    def _move(self, call: SimCall, due_ns: int) -> None:
        call.due_ns = max(due_ns, self.ns)
        call.order = next(self._orders)
        heappush(self._heap, (call.due_ns, call.order, call))
        self._tidy()

    def _one_less(self) -> None:
        self._waiting -= 1
        self._tidy()

    def _tidy(self) -> None:
        if len(self._heap) > 2 * self._waiting + _MANY:
            self._heap = [entry for entry in self._heap if _is_valid(entry)]
            heapify(self._heap)


def _is_valid(entry: tuple[int, int, SimCall]) -> bool:
    return entry[2].order == entry[1]
