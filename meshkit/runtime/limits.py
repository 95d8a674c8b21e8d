"""
How much one may ask for or hold: token buckets, shares and sizes.  Pure; the time is an
argument.

A bucket holds at most C{burst} tokens and gains C{rate} of them per second; what is
asked for costs tokens.  In any stretch of I{t} seconds it grants no more than
C{burst + rate * t}, and one cost more where that is larger than what is left.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from meshkit.errors import FrameTooLarge

#: Bytes of one message between peers, where its kind says nothing else.
DEFAULT_MESSAGE: Final = 64 * 1024

#: No kind of message between peers may be larger.
MAX_MESSAGE: Final = 1024 * 1024

#: Seconds by which a clock may go back without being taken to have been set back.
GOING_BACK: Final = 60.0

#: Peers whose buckets are remembered one by one.
MAX_PEERS: Final = 4_096


def check_size(what: str, size: int, limit: int) -> None:
    """@raise FrameTooLarge: C{size} is over C{limit}; both are in bytes."""
    if size > limit:
        raise FrameTooLarge(f"{what} of {size} bytes is over the limit of {limit}: send less")


class Shares:
    """
    Something of which there is only so much at a time, such as bytes of memory, and of
    which no single one may have all.

    @ivar total: how much there is.
    @ivar each: how much one may have.
    @ivar taken: how much is taken by all together.
    """

    __slots__ = ("_taken", "each", "taken", "total")

    def __init__(self, total: int, each: int) -> None:
        self.total = total
        self.each = each
        self.taken = 0
        # Whoever has nothing is not in it.
        self._taken: dict[Hashable, int] = {}

    def room(self, who: Hashable, amount: int = 1) -> bool:
        """Could one have so much more?"""
        return self.taken + amount <= self.total and self._taken.get(who, 0) + amount <= self.each

    def held(self, who: Hashable) -> int:
        """@return: how much one has."""
        return self._taken.get(who, 0)

    def take(self, who: Hashable, amount: int = 1) -> None:
        """Count what one has taken, whether there was room or not."""
        self.taken += amount
        self._taken[who] = self._taken.get(who, 0) + amount

    def give_back(self, who: Hashable, amount: int = 1) -> None:
        """
        @param amount: no more than was taken.
        @raise ValueError: if it is more.
        """
        left = self._taken.get(who, 0) - amount
        if left < 0:
            raise ValueError(f"{who!r} gives back {amount}, {-left} more than was taken")
        self.taken -= amount
        if left:
            self._taken[who] = left
        else:
            self._taken.pop(who, None)


class TokenBucket:
    """
    One bucket, full at first.

    Something that costs more than a full bucket holds is granted by a full one, which
    then owes the rest; else it could never be had.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        """
        @param rate: tokens per second, more than 0.
        @param burst: what it holds, more than 0.
        """
        if not (0 < rate < math.inf and 0 < burst < math.inf):
            raise ValueError(f"a bucket of {burst} tokens at {rate} per second grants nothing")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = -math.inf

    def _fill(self, now: float) -> None:
        # A clock that goes back gives nothing, and takes nothing.
        if now > self._at:
            if self._tokens < self.burst:
                self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
        elif now < self._at - GOING_BACK:
            # It was set back: from now on it goes on here, and not only in a day.
            self._at = now

    def take(self, cost: float, now: float) -> float:
        """
        Ask for something.

        @param cost: at least 0.
        @param now: seconds, of any clock that is always the same.
        @return: 0.0 if it is granted and paid; else the seconds after which it would be.
        """
        self._fill(now)
        missing = min(cost, self.burst) - self._tokens
        if missing > 0:
            return missing / self.rate
        self._tokens -= cost
        return 0.0

    def owe(self, cost: float, now: float) -> None:
        """Pay for something that was had already, whether the bucket holds that or not."""
        self._fill(now)
        self._tokens -= cost

    def full(self, now: float) -> bool:
        """Is it as if it had never been used?"""
        self._fill(now)
        return self._tokens >= self.burst


class _Account:
    """What one peer has: calls, and as many refusals."""

    __slots__ = ("calls", "refusals")

    def __init__(self, rate: float, burst: float) -> None:
        self.calls = TokenBucket(rate, burst)
        self.refusals = TokenBucket(rate, burst)


class PeerBuckets:
    """
    A bucket for each peer.

    It outlives connections, so that nobody is granted more by coming again.  A peer
    that goes on although it is refused uses up a second bucket of the same size; then
    it is beyond help.

    At most C{max_peers} are kept.  When they are, the peer that was quiet for longest
    is forgotten if its buckets are full again, so that nothing is lost by it; if not,
    newcomers share one account, so that who makes many keys gains nothing.
    """

    #: The answer for a peer that does not heed refusals: drop it.
    BEYOND: Final = math.inf

    def __init__(self, rate: float, burst: float, max_peers: int = MAX_PEERS) -> None:
        """
        @param rate: tokens per second and peer.
        @param burst: tokens that a peer may use at once.
        """
        if max_peers < 1:
            raise ValueError("there has to be room for one peer")
        self._rate = rate
        self._burst = burst
        self._max_peers = max_peers
        # In the order in which they were last heard of.
        self._accounts: OrderedDict[Hashable, _Account] = OrderedDict()
        self._shared = _Account(rate, burst)

    def __len__(self) -> int:
        return len(self._accounts)

    def take(self, peer: Hashable, cost: float, now: float) -> float:
        """
        A peer asks for something.

        @param peer: its L{PublicKey <meshkit.identity.keys.PublicKey>}; who has none,
            such as L{None}, shares one account with all that have none.
        @param cost: tokens.
        @param now: seconds, of one clock for all.
        @return: 0.0 if it is granted and paid; the seconds after which it would be; or
            L{BEYOND}.
        """
        account = self._accounts.get(peer)
        if account is None:
            account = self._open(peer, now)
        else:
            self._accounts.move_to_end(peer)
        wait = account.calls.take(cost, now)
        if wait and account.refusals.take(cost, now):
            return self.BEYOND
        return wait

    def _open(self, peer: Hashable, now: float) -> _Account:
        if len(self._accounts) >= self._max_peers:
            oldest, account = next(iter(self._accounts.items()))
            if not (account.calls.full(now) and account.refusals.full(now)):
                return self._shared
            del self._accounts[oldest]
        account = self._accounts[peer] = _Account(self._rate, self._burst)
        return account
