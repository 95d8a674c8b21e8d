"""
The shares that an object still has, as they are read to make others of them.

Segments are asked for ahead, each of as many peers as are needed, those first that are known
to answer fast (L{meshkit.storage.hedging}).  A peer that is late has another one asked beside
it; one that fails or lies is replaced for this segment by another, and the rest goes on.  Who
has lied is asked for nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshkit.audit.repairing import Account, RepairTools
from meshkit.errors import NotEnoughShares
from meshkit.identity.keys import PublicKey
from meshkit.runtime.racing import Racing
from meshkit.runtime.waiting import ask, problem_of
from meshkit.storage.encoding import Piece, Recovered
from meshkit.storage.hedging import Race, Runner
from meshkit.storage.manifest import Manifest

__all__ = ["Sources"]

#: Peers that an error names.
_NAMED: Final = 4

#: Checks pieces of a segment and makes blocks of them; in a worker.
Make = Callable[[Mapping[int, Piece]], Recovered]


class Sources:
    """
    The shares of one object that are good, as far as is known.
    """

    def __init__(
        self, tools: RepairTools, account: Account, manifest: Manifest, holders: Mapping[int, Any]
    ) -> None:
        """@param holders: the L{meshkit.interfaces.IStoragePeer} of each share, by its number."""
        self._tools = tools
        self._account = account
        self._manifest = manifest
        self._needed = manifest.header.scheme.required
        self._peers = {Runner(share, peer.key): peer for share, peer in sorted(holders.items())}
        self._shunned: dict[PublicKey, None] = {}
        self._segments: dict[int, Racing] = {}

    def begin(self, number: int) -> None:
        """Ask for the pieces of a segment.  Without effect if that was done."""
        if number in self._segments:
            return
        liars = self._account.liars
        runners = [each for each in self._peers if each.peer not in liars]
        tools = self._tools
        race = Race(self._needed, runners, tools.latencies, tuple(self._shunned))
        name = self._manifest.header.share_id

        def read(runner: Runner) -> Deferred[Any]:
            peer, seconds = self._peers[runner], tools.config.request_seconds
            call = ask(tools.reactor, seconds, peer.read, name(runner.share), number)
            return call.addCallback(self._came)

        self._segments[number] = Racing(tools.reactor, race, read, self._failed)

    def _came(self, piece: Piece) -> Piece:
        self._account.came(piece)
        return piece

    def _failed(self, runner: Runner, failure: Failure) -> None:
        peer = self._peers[runner].key
        self._shunned[peer] = None
        self._account.blame(peer, runner.share, problem_of(failure))

    async def make(self, number: int, make: Make) -> Recovered:
        """
        Wait for the pieces of a segment, and have something made of them.

        @return: what C{make} gives.
        @raise NotEnoughShares: if too few are good; it names who lied.  Then, and if it is
            cancelled, L{leave} is to be called.
        """
        self.begin(number)
        racing = self._segments[number]
        while True:
            chosen = await racing.chosen()
            if chosen is None:
                raise self.too_few(len({each.share for each in racing.pieces}), number)
            pieces = {share: racing.pieces[runner] for share, runner in chosen.items()}
            try:
                found = await self._tools.workers.run(make, pieces)
            except NotEnoughShares as e:
                wrong = [chosen[share] for share in e.wrong]
                self._blame_liars(number, wrong)
                racing.wrong(wrong)
                continue
            self._blame_liars(number, [chosen[share] for share in found.wrong])
            del self._segments[number]
            racing.leave()
            return found

    def _blame_liars(self, number: int, runners: list[Runner]) -> None:
        for each in runners:
            reason = f"what it gave of share {each.share} is wrong, in segment {number}"
            self._account.blame(self._peers[each].key, each.share, reason, lied=True)

    def check(self) -> None:
        """@raise NotEnoughShares: if there are too few even if all of them are good."""
        shares = {each.share for each in self._peers if each.peer not in self._account.liars}
        if len(shares) < self._needed:
            raise self.too_few(len(shares))

    def too_few(self, good: int, segment: int | None = None) -> NotEnoughShares:
        """@return: the error that says so."""
        blames = self._account.blames
        liars = [each for each in blames if each.lied]
        named = "; ".join(f"{each.peer.text}: {each.reason}" for each in blames[:_NAMED])
        more = "" if len(blames) <= _NAMED else f"; and {len(blames) - _NAMED} more"
        where = "" if segment is None else f" of segment {segment}"
        return NotEnoughShares(
            f"the object cannot be repaired: {self._needed} shares are needed, and {good}{where} "
            f"were found" + (f" ({named}{more})" if named else ""),
            wrong=sorted({each.number for each in liars}),
            liars=sorted({each.peer.text for each in liars}),
        )

    def leave(self) -> None:
        """No more is needed."""
        segments, self._segments = self._segments, {}
        for racing in segments.values():
            racing.leave()
