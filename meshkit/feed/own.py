"""
This node's own feed: how far it is, and whether it may be written.

See L{meshkit.feed.guard} for when it may not.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import FeedError, FeedReadOnly, MeshkitError
from meshkit.feed import guard as guards
from meshkit.feed import operations as offered
from meshkit.feed import store
from meshkit.feed.guard import PATIENCE, Claims, Guard
from meshkit.feed.timestamps import format_timestamp
from meshkit.identity.keys import PublicKey
from meshkit.operations import Nothing
from meshkit.parts import shield


class OwnFeed:
    """See the module.  For the reactor's thread alone."""

    _log = Logger()

    def __init__(self, clock: Any, database: Any, key: PublicKey, needed: int) -> None:
        """
        @param clock: C{IReactorTime}.
        @param database: L{meshkit.runtime.database.Database}.
        @param key: this node's.
        @param needed: how many peers have to show how far they have the feed before a
            guard is lifted.
        """
        self._clock = clock
        self._database = database
        self._key = key
        self._needed = needed
        self._guard: Guard | None = None
        self._latest = 0
        self._forked: int | None = None
        self._claims = Claims()
        self._expiring: IDelayedCall | None = None

    async def load(self) -> None:
        """Read how things stand.  Nothing else is called before this is done."""
        self._guard, self._latest, self._forked = await self._database.write(
            lambda connection: guards.begin(connection, self._key.raw)
        )
        if self._guard is not None:
            self._log.warn("{why}", why=str(self._refusal()))

    def stop(self) -> None:
        """Forget what peers claim, and have no timer left."""
        self._claims = Claims()
        self._await_claims()

    # --- what changes it -----------------------------------------------------------

    def seen(self, peer: bytes, sequence: int) -> Deferred[None]:
        """See L{meshkit.interfaces.IFeedStore.note_own_seen}."""
        return shield(self._seen(peer, sequence))

    async def _seen(self, peer: bytes, sequence: int) -> None:
        if self._forked is not None:
            return
        if sequence > self._latest:
            # A peer that says it again, or more each time, is one line in the log.
            told = peer in self._claims
            if self._claims.add(peer, sequence, self._clock.seconds()) and not told:
                self._log.info(
                    "{peer} says that it has this node's feed up to {claimed}; here it ends at "
                    "{latest}",
                    peer=PublicKey(peer).text,
                    claimed=sequence,
                    latest=self._latest,
                )
            self._await_claims()
            return
        if self._claims.withdraw(peer):
            self._await_claims()
        if self._guard is not None:
            await self._hear([(peer, sequence)])

    def stored(self, stored: store.Stored, *, local: bool) -> None:
        """Something was stored: look for messages of this node in it."""
        for author, contiguous, messages in stored.added:
            if author == self._key.raw:
                self._latest = max(self._latest, max(m.sequence for m in messages))
                if not local:
                    self._came_back(contiguous)
        for author, sequence in stored.forks:
            if author == self._key.raw:
                # There is nothing to wait for any more.
                self._forked = sequence
                self.stop()

    def _came_back(self, contiguous: int) -> None:
        """Messages of our own came from others."""
        good = self._claims.brought(contiguous, self._clock.seconds())
        self._await_claims()
        # The caller has a batch to tell of: what follows is not for it to wait for.
        self._begin(self._hear(good))

    async def _hear(self, shown: Sequence[tuple[bytes, int]]) -> None:
        """Tell the guard what peers have shown, and see whether it is lifted."""
        may_lift = not self._claims
        heard: Guard | None = await self._database.write(
            lambda connection: guards.hear(connection, self._key.raw, shown, self._needed, may_lift)
        )
        # Compared now and not before the write: others may have been heard meanwhile.
        before, self._guard = self._guard, heard
        if self._guard is None and before is not None:
            self._log.info("this node's feed was compared with its peers': it publishes again")
        elif self._guard is not None and before is None:
            self._log.warn("{why}", why=str(self._refusal()))

    def _begin(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        def failed(reason: Failure) -> None:
            # The database is stopping, or the disk is full.  The row says how things are.
            if reason.check(MeshkitError):
                self._log.warn("the guard cannot be read: {error}", error=str(reason.value))
            else:
                self._log.failure("the guard of this node's feed", reason)

        shield(work).addErrback(failed)

    def _await_claims(self) -> None:
        """Wake up when the first claim is over."""
        if self._expiring is not None and self._expiring.active():
            self._expiring.cancel()
        self._expiring = None
        until = self._claims.next_expiry()
        if until is not None:
            delay = max(0.0, until - self._clock.seconds())
            self._expiring = self._clock.callLater(delay, self._expire)

    def _expire(self) -> None:
        for peer in self._claims.expire(self._clock.seconds()):
            self._log.warn(
                "{peer} said that it has more of this node's feed and did not bring it: it is "
                "not believed again",
                peer=PublicKey(peer).text,
            )
        self._await_claims()
        if not self._claims:
            self._begin(self._hear([]))

    async def unlock(self) -> None:
        """Lift the guard, and believe none of those who claim to have more."""
        await self._database.write(guards.lift)
        self._guard = None
        self._claims.drop()
        self._await_claims()
        self._log.warn("the guard of this node's feed was lifted by hand")

    # --- what it says ----------------------------------------------------------------

    def check(self) -> None:
        """
        @raise FeedReadOnly: if nothing may be published now.
        @raise FeedForked: if nothing may be published ever again.
        """
        refusal = self._refusal()
        if refusal is not None:
            raise refusal

    def tail(self, connection: Any) -> tuple[int, str | None]:
        """
        Where the next message goes; for the job that writes it.  A job before it may have
        set the guard.

        @return: the last sequence stored (0 for none) and the hash there.
        @raise FeedError: as L{check}.
        """
        tail = store.own_tail(connection, self._key.raw)
        guard = guards.read_guard(connection)
        if guard is not None:
            raise _read_only(guard, self._needed)
        return tail

    def _refusal(self) -> FeedError | None:
        if self._forked is not None:
            return store.own_forked(self._forked)
        if self._guard is not None:
            return _read_only(self._guard, self._needed)
        highest = self._claims.highest()
        if highest is None:
            return None
        peer, sequence = highest
        return FeedReadOnly(
            f"{PublicKey(peer).text} says that it has this node's feed up to {sequence}, and here "
            f"it ends at {self._latest}: it is being fetched; try again in {PATIENCE:.0f} s"
        )

    def status(self) -> str | None:
        """@return: why nothing may be published, or L{None}."""
        refusal = self._refusal()
        return None if refusal is None else str(refusal)

    async def answer_own(self, request: Nothing) -> offered.OwnFeed:
        frontier = await self._database.read(
            lambda connection: store.list_frontier(connection, [self._key.raw], b"", 1)
        )
        found = frontier[0] if frontier else None
        guard = self._guard
        return offered.OwnFeed(
            author=self._key.text,
            sequence=0 if found is None else found.sequence,
            latest=self._latest,
            forked=None if found is None else found.forked,
            read_only=self.status(),
            since=None if guard is None else format_timestamp(guard.since_ns),
            witnesses=0 if guard is None else guard.witnesses,
            needed=self._needed,
        )

    async def answer_unlock(self, request: Nothing) -> offered.OwnFeed:
        await shield(self.unlock())
        return await self.answer_own(request)


def _read_only(guard: Guard, needed: int) -> FeedReadOnly:
    """@return: what a publisher is told."""
    why = {
        "restored": f"its data was restored from a backup of {format_timestamp(guard.since_ns)}",
        "behind": "a peer had messages of it that were missing here",
        "repaired": "a message was damaged and set aside, and may have been the last of it",
    }[guard.reason]
    return FeedReadOnly(
        f"this node's feed may have gone on elsewhere: {why}. It publishes again when "
        f"{needed} peers have shown that they have it up to {guard.had} or more, and that is "
        f"here ({guard.witnesses} so far); 'meshkit feed unlock' does not wait for them"
    )
