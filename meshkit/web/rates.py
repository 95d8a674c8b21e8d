"""
How much a token may ask for at the door, and how often a wrong one may be tried.

Every caller has a token bucket (L{meshkit.runtime.limits.TokenBucket}) of so many requests
a second, which holds those of L{BURST_SECONDS}.  A request costs one, and one more for each
L{BODY_UNIT} bytes that it brings; to open a stream costs L{STREAM_COST}.  Who asks for more
is refused with the time to wait, which is exact: asked for then, it is granted, unless the
same token was used in between.  The owner is not limited unless the settings say so.  Nor is
who shows no token: what is public costs little, and with a bucket for all of them any
stranger on the machine could keep an operator's probes from being answered.

Wrong tokens have one bucket of their own, for all who show them: L{GUESSES} at once and
L{GUESS_RATE} a second are told that they are wrong, the others that there were too many.  It
keeps nobody out who has the right one, and needs no table that strangers can fill.  What
makes guessing hopeless is not this but the 256 bits of a token; the limit is for the log and
the processor.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from meshkit.errors import RateLimited
from meshkit.runtime.limits import TokenBucket
from meshkit.web.callers import ANYONE, Caller

#: Requests a second that a token is granted, where nothing else is set.
RATE: Final = 100
#: A bucket holds what comes into it in so many seconds.
BURST_SECONDS: Final = 10
#: Bytes of a body that cost as much as a request.
BODY_UNIT: Final = 64 * 1024
#: What it costs to open a stream, beside the request.  The smallest bucket holds both.
STREAM_COST: Final = 5.0

#: Wrong tokens that are answered as such: at once, and a second after that.
GUESSES: Final = 100
GUESS_RATE: Final = 10
#: Seconds between two lines in the log about wrong tokens.
GUESS_LOG_SECONDS: Final = 60.0

#: Callers whose buckets are remembered one by one.
MAX_CALLERS: Final = 4_096


class Rates:
    """See the module.  For the reactor's thread."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        *,
        rate: float = RATE,
        owner_rate: float = 0,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        """
        @param rate: requests a second for each token; 0 for any number.
        @param owner_rate: the same for the owner.
        @param max_callers: when so many are remembered, the one that was quiet for longest
            is forgotten.  There are fewer tokens at a time, so that it is one whose token
            is good for nothing any more.
        """
        if rate < 0 or owner_rate < 0:
            raise ValueError("a rate cannot be negative")
        self._clock = clock
        self._rate = rate
        self._owner_rate = owner_rate
        self._max_callers = max_callers
        # In the order in which they were last heard of.
        self._buckets: OrderedDict[Caller, TokenBucket] = OrderedDict()
        self._guesses = TokenBucket(GUESS_RATE, GUESSES)
        self._wrong = 0
        self._told_at: float | None = None

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._buckets)

    def charge(self, caller: Caller, cost: float = 1.0, again: float = 0.0) -> None:
        """
        Something is asked for.

        @param again: what was paid already in order to ask, and is to be paid again.
        @raise RateLimited: if it is not granted; then it costs nothing.
        """
        bucket = self._bucket(caller)
        if bucket is None:
            return
        wait = bucket.take(cost, self._clock.seconds())
        if wait:
            wait += again / bucket.rate
            raise RateLimited(
                f"the token {caller.name!r} is granted {bucket.rate:g} requests a second: "
                f"wait {wait:.3g} s",
                retry_after=wait,
            )

    def owe(self, caller: Caller, cost: float) -> None:
        """Something was had whose cost could not be known before: it counts from now on."""
        bucket = self._bucket(caller)
        if bucket is not None:
            bucket.owe(cost, self._clock.seconds())

    def _bucket(self, caller: Caller) -> TokenBucket | None:
        bucket = self._buckets.get(caller)
        if bucket is not None:
            self._buckets.move_to_end(caller)
            return bucket
        rate = self._rate if caller.limited else self._owner_rate
        if not rate or caller is ANYONE:
            return None
        if len(self._buckets) >= self._max_callers:
            self._buckets.popitem(last=False)
        bucket = self._buckets[caller] = TokenBucket(rate, rate * BURST_SECONDS)
        return bucket

    def guessed(self) -> None:
        """
        A wrong token was shown.

        @raise RateLimited: if there were too many of them.
        """
        now = self._clock.seconds()
        self._wrong += 1
        if self._told_at is None or now - self._told_at >= GUESS_LOG_SECONDS:
            self._log.warn(
                "wrong tokens were shown at the door: {count} since the last such line",
                count=self._wrong,
            )
            self._wrong, self._told_at = 0, now
        wait = self._guesses.take(1.0, now)
        if wait:
            raise RateLimited(
                f"too many wrong tokens were shown at this door: wait {wait:.3g} s, and check "
                f"the one that is sent",
                retry_after=wait,
            )


def body_cost(length: int) -> float:
    """@return: what a body of so many bytes costs, beside the request that brings it."""
    return length / BODY_UNIT
