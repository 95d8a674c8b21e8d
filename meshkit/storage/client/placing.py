"""
Which peers are asked to take the shares of an object, and who is asked instead of one that
does not.  Pure.

A L{Placer} says whom to ask (L{Placer.ask}); whoever asks tells it what came of that.  So that
the object has a good spread from the beginning, peers that refuse are replaced before
anything is sent, by the next in rendezvous order among those that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshkit.storage.rendezvous import Candidate, Spread, domains_of, place, spread_of
from meshkit.storage.scheme import Scheme

__all__ = ["Placer", "least_receipts"]

#: Stands for the peer of a share that nobody is left for.
_NOBODY: Final = bytes(32)


def least_receipts(scheme: Scheme, asked: int | None = None) -> int:
    """
    How many shares have to be kept for an object to count as stored.

    @param asked: what the owner wants; L{None} for half of those that may be lost.
    @return: from C{scheme.required} to C{scheme.total}.
    """
    if asked is None:
        return scheme.required + -(-(scheme.total - scheme.required) // 2)
    return min(scheme.total, max(scheme.required, asked))


class Placer:
    """
    The shares of one object, on their way to peers.

    @ivar placed: who has agreed to take which share, by number.
    @ivar asking: who is being asked, by number of the share.
    """

    def __init__(
        self,
        upload: bytes,
        scheme: Scheme,
        candidates: Sequence[Candidate],
        *,
        repeat: bool = False,
    ) -> None:
        """
        @param candidates: those that may be asked, at most
            L{meshkit.storage.rendezvous.MAX_CANDIDATES}.
        @param repeat: if there are too few, one may be given several shares.
        """
        self.placed: dict[int, Candidate] = {}
        self.asking: dict[int, Candidate] = {}
        self._upload = upload
        self._scheme = scheme
        self._candidates = tuple(candidates)
        self._repeat = repeat
        self._out: set[bytes] = set()
        self._begun = False

    def keep(self, number: int, key: bytes) -> None:
        """
        Before the first L{ask}: ask this peer for this share, wherever it would go otherwise.
        Nothing happens if the peer is no candidate.
        """
        for each in self._candidates:
            if each.key == key:
                self.placed[number] = each

    def ask(self) -> dict[int, Candidate]:
        """
        Whom to ask now.

        @return: by number of the share; empty if nobody is left, or nothing to be placed.
        @raise NotEnoughPeers: the first time, if there are fewer peers than shares and none
            may have several.
        """
        first, self._begun = not self._begun, True
        # Who goes on with an upload takes what there is.
        strict = first and not self.placed
        settled = {**self.placed, **self.asking}
        missing = [number for number in range(self._scheme.total) if number not in settled]
        free = [each for each in self._candidates if each.key not in self._out]
        held = dict(settled)
        if not strict:
            taken = {each.key for each in settled.values()}
            spare = sum(self._repeat or each.key not in taken for each in free)
            count = len(missing) if self._repeat and spare else min(spare, len(missing))
            # The others have nobody, and count as if somebody beyond all domains had them.
            for number in missing[count:]:
                held[number] = Candidate(_NOBODY, decided="nobody")
            missing = missing[:count]
        asked = dict(settled) if first else {}
        if missing:
            placed, _ = self._place(held, free)
            asked.update({number: placed[number] for number in missing})
        if first:
            # Those that are kept are asked too.
            self.placed = {}
        self.asking.update(asked)
        return asked

    def _place(
        self, held: dict[int, Candidate], free: Sequence[Candidate]
    ) -> tuple[dict[int, Candidate], Spread]:
        scheme = self._scheme
        return place(
            self._upload, scheme.required, scheme.total, free, held=held, repeat=self._repeat
        )

    def accept(self, number: int) -> None:
        """The peer that was asked takes the share."""
        self.placed[number] = self.asking.pop(number)

    def refuse(self, number: int) -> None:
        """It does not, and is not asked for any other."""
        self._out.add(self.asking.pop(number).key)

    def spread(self, held: Sequence[int]) -> Spread:
        """@return: how good the places of these shares are, all of which are placed."""
        domains = domains_of(self._candidates)
        return spread_of(
            self._scheme.required, {number: self.placed[number] for number in held}, domains
        )
