"""
Was this request made before?  Pure.

A signed request holds for at most L{LIFETIME <meshkit.runtime.signed.signatures.LIFETIME>} seconds,
and its nonce is remembered for as long as that and L{SKEW} more.  Nothing is forgotten earlier: if
there is no room for a nonce, the request is refused.

To remember nonces over a restart would take a write to the disk for each request.  Instead a
I{mark} is stored ahead of the time: no request is let in that says it was created after the mark,
and after a start none that says it was created before or at it.  A mark is L{AHEAD} seconds ahead
and a new one is stored every L{EVERY} seconds, so there is always one for requests that are
L{SKEW} ahead.

Times are whole seconds of Unix time.  A clock that is set back lets nothing in that was once too
old.
"""

from __future__ import annotations

from typing import Final

from meshkit.errors import SignatureRefused, SignatureRetry, StorageBusy
from meshkit.identity.keys import PublicKey
from meshkit.runtime.signed.signatures import LIFETIME, SignedRequest

#: Seconds that the clocks of caller and peer may differ.
SKEW: Final = 5
#: Seconds that a mark is ahead of the time at which it is stored.
AHEAD: Final = 20
#: Seconds after which another one is stored.
EVERY: Final = 10
#: Nonces that are remembered of one key, and in all.
MAX_NONCES_EACH: Final = 20_000
MAX_NONCES: Final = 200_000


class Replays:
    """
    Lets a request in once.

    @ivar last: the latest C{created} of what was let in; at a clean stop this is the mark.
    """

    def __init__(
        self,
        before: int,
        *,
        max_each: int = MAX_NONCES_EACH,
        max_all: int = MAX_NONCES,
    ) -> None:
        """
        @param before: the mark that was stored when this last ended; 0 if it never ran.
        @param max_each: nonces of one key.
        @param max_all: nonces.
        """
        self._closed = False
        self._before = before
        self._mark = before
        self._max_each = max_each
        self._max_all = max_all
        self.last = before
        # The latest time that was ever seen.
        self._latest = 0
        self._nonces: dict[PublicKey, set[str]] = {}
        self._count = 0
        # What is over after a second, by that second.
        self._over: dict[int, list[tuple[PublicKey, str]]] = {}

    def __len__(self) -> int:
        return self._count

    def next_mark(self, now: int) -> int:
        """@return: what to store now."""
        return max(self._mark, now + AHEAD)

    def stored(self, mark: int) -> None:
        """A mark is durable: requests up to it may come."""
        if not self._closed:
            self._mark = max(self._mark, mark)

    def close(self) -> None:
        """Let nothing in that is newer than what was."""
        self._closed = True
        self._mark = self.last

    def admit(self, request: SignedRequest, now: int) -> None:
        """
        Let a request in, whose signature is right.  It is never let in again.

        @raise SignatureRefused: if it is too old, of the future, or was let in before.
        @raise SignatureRetry: if it may have been let in before the last start.
        @raise StorageBusy: if it cannot be remembered.
        """
        self._forget(now)
        created, expires = request.created, request.expires
        if not created < expires <= created + LIFETIME:
            raise SignatureRefused(
                f"a request holds for 1 to {LIFETIME} seconds, not for {expires - created}"
            )
        if created > now + SKEW:
            raise SignatureRefused(
                f"the request was signed {created - now} seconds from now, which is {now}: is the "
                "clock of who signed it right?"
            )
        if self._latest > expires + SKEW:
            raise SignatureRefused(
                f"the request has expired {self._latest - expires} seconds ago; it is {now} now"
            )
        if created <= self._before:
            error = SignatureRetry(
                f"requests that were signed up to {self._before} may have been made before, and it "
                f"is {now} now: sign it anew"
            )
            error.details = {"now": now, "after": self._before}
            raise error
        if created > self._mark:
            raise StorageBusy("it cannot be noted on the disk here until when requests were taken")
        self._remember(request)

    def _remember(self, request: SignedRequest) -> None:
        known = self._nonces.get(request.caller, set())
        if request.nonce in known:
            raise SignatureRefused("the request was made before")
        if len(known) >= self._max_each:
            raise StorageBusy(
                f"{len(known)} requests of this key are remembered, and no more can be"
            )
        if self._count >= self._max_all:
            raise StorageBusy(f"{self._count} requests are remembered, which is the most")
        known.add(request.nonce)
        self._nonces[request.caller] = known
        self._count += 1
        self._over.setdefault(request.expires + SKEW, []).append((request.caller, request.nonce))
        self.last = max(self.last, request.created)

    def _forget(self, now: int) -> None:
        if now <= self._latest:
            return
        self._latest = now
        for second in sorted(second for second in self._over if second < now):
            for caller, nonce in self._over.pop(second):
                known = self._nonces[caller]
                known.discard(nonce)
                self._count -= 1
                if not known:
                    del self._nonces[caller]
