"""
Who is offered the shares of an object that are made anew.  Pure.

As when the object was stored, rendezvous hashing decides
(L{meshkit.storage.rendezvous.place}), with the shares that stay where they are as given.  Two
things are new: there may be too few peers, and then those shares get one that are wanted most;
and those who have lost a share are there too.  They are asked when nobody else is left: a peer
that had to replace its disk is not worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from meshkit.storage.rendezvous import Candidate, place
from meshkit.storage.scheme import Scheme

__all__ = ["Targets"]

#: Stands for the peer of a share that is not placed now, beyond all domains.
_NOBODY: Final = Candidate(bytes(32), decided="nobody")


class Targets:
    """
    The missing shares of one object, on their way to peers.

    @ivar placed: who has agreed to take which share, by number.
    @ivar asking: who is being asked, by number of the share.
    """

    def __init__(
        self,
        upload: bytes,
        scheme: Scheme,
        candidates: Sequence[Candidate],
        held: Mapping[int, Candidate],
        wanted: Sequence[int],
        *,
        last: Sequence[bytes] = (),
        never: Sequence[bytes] = (),
    ) -> None:
        """
        @param candidates: those that have room.
        @param held: who has the shares that stay.  If one has several, others may be given
            several too, when there is no other way.
        @param wanted: numbers of the shares to be placed, those that are wanted most first.
        @param last: keys of peers that are asked when no others are left.
        @param never: keys of peers that are not asked.
        """
        self.placed: dict[int, Candidate] = {}
        self.asking: dict[int, Candidate] = {}
        self._upload = upload
        self._scheme = scheme
        self._held = dict(held)
        self._wanted = list(wanted)
        holders = [each.key for each in held.values()]
        self._repeat = len(set(holders)) < len(holders)
        self._out = set(never)
        self._ranks = (
            [each for each in candidates if each.key not in last],
            [each for each in candidates if each.key in last],
        )

    def ask(self) -> dict[int, Candidate]:
        """
        @return: whom to ask now, by number of the share.  Shares for which nobody is left are
            not in it.
        """
        asked: dict[int, Candidate] = {}
        # A second share for somebody is the last thing that is tried.
        for repeat in (False, True) if self._repeat else (False,):
            for rank in self._ranks:
                asked.update(self._ask(rank, repeat))
        return asked

    def _ask(self, rank: Sequence[Candidate], repeat: bool) -> dict[int, Candidate]:
        settled = {**self._held, **self.placed, **self.asking}
        free = [each for each in rank if each.key not in self._out]
        taken = {each.key for each in settled.values()}
        spare = sum(each.key not in taken for each in free)
        missing = [number for number in self._wanted if number not in settled]
        missing = missing[: len(missing) if repeat and free else spare]
        if not missing:
            return {}
        others = range(self._scheme.total)
        held = {number: settled.get(number, _NOBODY) for number in others if number not in missing}
        placed, _ = place(
            self._upload,
            self._scheme.required,
            self._scheme.total,
            free,
            held=held,
            repeat=repeat,
        )
        asked = {number: placed[number] for number in missing}
        self.asking.update(asked)
        return asked

    def accept(self, number: int) -> None:
        """The peer that was asked takes the share."""
        self.placed[number] = self.asking.pop(number)

    def refuse(self, number: int) -> None:
        """The peer of a share does not take it, or has failed, and is asked for nothing else."""
        candidate = self.asking.pop(number, None) or self.placed.pop(number)
        self._out.add(candidate.key)
