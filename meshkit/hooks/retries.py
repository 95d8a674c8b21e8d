"""
What becomes of an attempt that failed.  Pure.

Pauses grow by doubling and are drawn from the whole range below ("full jitter": M. Brooker,
"Exponential Backoff And Jitter", AWS 2015), so that those who failed together do not come
back together.
"""

from __future__ import annotations

from random import Random
from typing import Final, Literal

from attrs import frozen

from meshkit.hooks.config import Hook

Fate = Literal["again", "park"]

#: Statuses by which a server says that it is this message it does not want, whoever sends
#: it whenever.  All others may be about the server, its set-up or the moment.
_REFUSALS: Final = frozenset({400, 413, 415, 422})
_TAKEN: Final = range(200, 300)
_REDIRECTS: Final = range(300, 400)
# A doubling more would not be a number any more.
_MOST_DOUBLINGS: Final = 64


@frozen
class Failed:
    """
    An attempt that failed.

    @ivar error: what happened, a clause for people that holds no secret.
    @ivar final: trying again is of no use.
    @ivar retry_after: seconds that the receiver asked to be left alone.
    """

    error: str
    final: bool = False
    retry_after: float | None = None


def longest_pause(hook: Hook, failing: int) -> float:
    """@return: what the pause after that many failures in a row is drawn from, in seconds."""
    doublings = min(max(failing - 1, 0), _MOST_DOUBLINGS)
    return min(hook.max_pause, hook.pause * 2.0**doublings)


def next_pause(hook: Hook, failing: int, failed: Failed, rng: Random) -> float:
    """
    How long to wait before the next attempt.

    @param failing: attempts that failed in a row, of whatever messages: a new message does
        not make a receiver well.
    @return: seconds, C{hook.max_pause} at most.
    """
    pause = rng.uniform(0.0, longest_pause(hook, failing))
    if failed.retry_after is not None:
        # Those who were all told the same number would come back together.
        pause += failed.retry_after
    return min(pause, hook.max_pause)


def fate(hook: Hook, failed: Failed, attempts: int, age: float) -> Fate:
    """
    What to do with a message.

    @param failed: the last attempt.
    @param attempts: how many have failed.
    @param age: seconds since the first of them.
    """
    if failed.final or attempts >= hook.max_attempts or age >= hook.max_age:
        return "park"
    return "again"


def judge_status(status: int, retry_after: str | None = None) -> Failed | None:
    """
    What an HTTP status says about a message that was sent.

    @param retry_after: the header C{Retry-After}.  Dates are not understood.
    @return: L{None} if it was taken.
    """
    if status in _TAKEN:
        return None
    if status in _REDIRECTS:
        return Failed(f"it answered {status}, a redirect, which is not followed: mend the url")
    wait = None
    if retry_after is not None and retry_after.isascii() and retry_after.strip().isdigit():
        wait = float(retry_after.strip()[:9])
    return Failed(f"it answered {status}", final=status in _REFUSALS, retry_after=wait)
