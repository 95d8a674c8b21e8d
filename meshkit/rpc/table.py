"""
The calls of one connection, with bounds: ours at the peer, and the peer's with us.

A call of ours::

    [none] --add--> OUTSTANDING --take (answer)-----------------> [done]
                    OUTSTANDING --forget (cancelled, expired)---> FORGOTTEN
                    FORGOTTEN   --take (late answer: ignored)---> [done]
                    take of any other msgid                       error: drop the peer

A call of the peer's::

    [none] --admit--> RUNNING --finish--> [done]
                      RUNNING --admit of the same msgid---------> error: drop the peer
    [none] --admit when full--> refused; refused too often------> error: drop the peer
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from attrs import field, frozen

from meshkit.errors import MalformedFrame, Overloaded, OverRate, PeerTooSlow
from meshkit.rpc.codec import MAX_MSGID

T = TypeVar("T")

#: Calls of ours that may wait for their answers at one peer.
MAX_CALLS: Final = 256
#: Calls that were cancelled or timed out, and are still owed an answer by the peer.
MAX_FORGOTTEN: Final = 1_024
#: Calls of a peer that are worked on, or held, at once; the others are refused.
MAX_SERVED: Final = 256
#: Calls that are refused, with no room made meanwhile, before the peer is dropped.
MAX_REFUSED: Final = 1_024
#: Bytes of the calls that are held while the peer does not read our answers.
MAX_HELD_BYTES: Final = 1024 * 1024


def _at_least_1(_instance: object, attribute: object, value: int) -> None:
    if value < 1:
        raise ValueError(f"a limit of {value} leaves no room for one call")


@frozen
class RPCLimits:
    """The bounds of one connection.  See the constants of this module."""

    calls: int = field(default=MAX_CALLS, validator=_at_least_1)
    forgotten: int = field(default=MAX_FORGOTTEN, validator=_at_least_1)
    served: int = field(default=MAX_SERVED, validator=_at_least_1)
    refused: int = field(default=MAX_REFUSED, validator=_at_least_1)
    held_bytes: int = field(default=MAX_HELD_BYTES, validator=_at_least_1)


class CallTable(Generic[T]):
    """Our calls, by msgid, with their deadlines."""

    def __init__(self, limits: RPCLimits, first: int = 0) -> None:
        """@param first: the first msgid, for tests of the wrap at 2^32."""
        self._limits = limits
        self._next = first
        self._waiting: dict[int, tuple[T, float]] = {}
        self._forgotten: set[int] = set()  # asked for members only

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def forgotten(self) -> int:
        """Answers that the peer still owes and nobody waits for."""
        return len(self._forgotten)

    def add(self, call: T, deadline: float) -> int:
        """
        @param deadline: in seconds of the caller's clock.
        @return: the msgid.
        @raise Overloaded: too many are waiting.
        """
        if len(self._waiting) >= self._limits.calls:
            raise Overloaded(
                f"{self._limits.calls} calls wait for this peer's answers already: try again in "
                f"a moment"
            )
        msgid = self._next
        while msgid in self._waiting or msgid in self._forgotten:
            msgid = (msgid + 1) & MAX_MSGID
        self._next = (msgid + 1) & MAX_MSGID
        self._waiting[msgid] = (call, deadline)
        return msgid

    def take(self, msgid: int) -> T | None:
        """
        The answer is here.

        @return: L{None} if nobody waits for it any more.
        @raise MalformedFrame: there is no such call.
        """
        found = self._waiting.pop(msgid, None)
        if found is not None:
            return found[0]
        if msgid not in self._forgotten:
            raise MalformedFrame(f"an answer came to call {msgid}, which was never made")
        self._forgotten.remove(msgid)
        return None

    def forget(self, msgid: int) -> bool:
        """
        Nobody waits any more; the answer may still come.

        @return: was the call waiting?
        @raise PeerTooSlow: the peer owes too many answers.  The call is forgotten.
        """
        if self._waiting.pop(msgid, None) is None:
            return False
        self._forgotten.add(msgid)
        if len(self._forgotten) > self._limits.forgotten:
            raise PeerTooSlow(f"the peer has left {len(self._forgotten)} calls without an answer")
        return True

    def expired(self, now: float) -> list[tuple[int, T]]:
        """The calls whose deadline has come, with their msgids, oldest first."""
        return [
            (msgid, call) for msgid, (call, deadline) in self._waiting.items() if deadline <= now
        ]

    def next_deadline(self) -> float | None:
        """@return: L{None} if no call waits."""
        return min((deadline for _, deadline in self._waiting.values()), default=None)

    def clear(self) -> list[T]:
        """Forget everything.  @return: the calls that waited, oldest first."""
        calls = [call for call, _ in self._waiting.values()]
        self._waiting.clear()
        self._forgotten.clear()
        return calls


class ServedTable(Generic[T]):
    """The peer's calls that are not finished."""

    def __init__(self, limits: RPCLimits) -> None:
        self._limits = limits
        # Keyed by msgid; notifications, which have none, by negative numbers.
        self._running: dict[int, T | None] = {}
        self._notifications = 0
        self._refused = 0

    def __len__(self) -> int:
        return len(self._running)

    @property
    def full(self) -> bool:
        """Would another be refused?"""
        return len(self._running) >= self._limits.served

    def admit(self, msgid: int | None) -> int | None:
        """
        A call came.

        @param msgid: L{None} for a notification.
        @return: its key, to be given to L{finish}; L{None} if it has to be refused.
        @raise MalformedFrame: the msgid is in use.
        @raise OverRate: the peer does not heed refusals.
        """
        if msgid in self._running:
            raise MalformedFrame(f"call {msgid} came again before it was answered")
        if len(self._running) >= self._limits.served:
            self._refused += 1
            if self._refused > self._limits.refused:
                raise OverRate(
                    f"the peer went on calling after {self._limits.refused} refusals: it has to "
                    f"wait for answers"
                )
            return None
        if msgid is None:
            self._notifications -= 1
            msgid = self._notifications
        self._running[msgid] = None
        return msgid

    def attach(self, key: int, work: T) -> None:
        """Remember what is being done about a call."""
        self._running[key] = work

    def finish(self, key: int) -> bool:
        """@return: was it there?  Not after L{clear}."""
        if key not in self._running:
            return False
        del self._running[key]
        self._refused = 0
        return True

    def clear(self) -> list[T]:
        """Forget everything.  @return: what is being done, oldest first."""
        work = [each for each in self._running.values() if each is not None]
        self._running.clear()
        return work
