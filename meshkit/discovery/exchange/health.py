"""
Of whom nothing was heard, and when to look.  Pure; times are seconds of any clock.

::

    heard of it within C{idle}           nothing is done
    not heard of for C{idle}             it is looked at, every C{pause}
    C{patience} looks in a row failed    it is suspect: the pause doubles, up to C{longest}
    it answers, or is heard of           it is well, and the next look is C{idle} away
    it never answered, but is heard of   it is looked at all the same, to swap records; that
                                         it does not answer is not held against it
    it is there, but does not talk       it is looked at every C{longest}
    its connection was lost              it is looked at now
    this node woke up, or has moved      everybody is looked at now, pauses begin anew

A clock that is set back has everybody heard of now.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field, frozen

from meshkit.identity.keys import PublicKey

__all__ = ["Health", "Link", "Rhythm"]

#: The most that a pause is lengthened by lot, as a part of it, so that those who have lost one
#: peer do not come back together.
_SPREAD: Final = 0.25
#: Seconds within which peers that are new here are looked at, by lot.
_FIRST_LOOKS: Final = 3.0


@frozen
class Rhythm:
    """
    @ivar pause: seconds between looks at one peer.
    @ivar idle: seconds without a sign of it before it is looked at.
    @ivar patience: looks that fail before it is suspect.
    @ivar longest: seconds between looks at a suspect, at most.
    """

    pause: float = 60.0
    idle: float = 300.0
    patience: int = 3
    longest: float = 3_600.0


@define(eq=False)
class Link:
    """
    What is known of a peer.

    @ivar heard: when there was the last sign of it; L{None} if there was none.
    @ivar met: it has answered once.
    @ivar missed: looks that failed since.
    @ivar lost: since when it has not answered; L{None} if it has.
    @ivar next_look: not before that.
    @ivar looking: a look is under way.
    """

    key: PublicKey
    next_look: float
    heard: float | None = None
    met: bool = False
    missed: int = 0
    lost: float | None = None
    looking: bool = field(default=False)


class Health:
    """
    See the module.

    @ivar rhythm: how often.
    """

    def __init__(self, rhythm: Rhythm) -> None:
        self.rhythm = rhythm
        self._links: dict[PublicKey, Link] = {}
        # When everybody was to be looked at: signs from before tell nothing any more.
        self._anew: float | None = None

    def __len__(self) -> int:
        return len(self._links)

    def __contains__(self, key: object) -> bool:
        return key in self._links

    def links(self) -> list[Link]:
        """All of them, in the order in which they came to be watched."""
        return list(self._links.values())

    def find(self, key: PublicKey) -> Link | None:
        return self._links.get(key)

    def watch(self, keys: Iterable[PublicKey], now: float, lot: float = 0.0) -> None:
        """
        Look after these, and nobody else.

        @param lot: drawn by lot, from 0 to 1: when those that are new are looked at first.
        """
        wanted = list(dict.fromkeys(keys))
        before = self._links
        self._links = {
            key: before.get(key) or Link(key, now + lot * _FIRST_LOOKS) for key in wanted
        }

    def suspect(self, link: Link) -> bool:
        return link.missed >= self.rhythm.patience

    def suspects(self) -> list[Link]:
        return [link for link in self._links.values() if self.suspect(link)]

    def well(self, link: Link, now: float) -> bool:
        """Is there no reason to look at it?"""
        return link.heard is not None and link.lost is None and now - link.heard < self.rhythm.idle

    def pause(self, link: Link) -> float:
        """@return: seconds between two looks at it, as often as it has not answered by now."""
        beyond = max(0, link.missed - self.rhythm.patience)
        # The exponent has an end, as a float has one.
        return min(self.rhythm.pause * 2.0 ** min(beyond, 64), self.rhythm.longest)

    def wait(self, link: Link, now: float) -> float:
        """@return: seconds until it is looked at, if nothing is heard of it."""
        due = link.next_look
        if link.met and self.well(link, now) and link.heard is not None:
            due = max(due, link.heard + self.rhythm.idle)
        return max(0.0, due - now)

    # --- looking ------------------------------------------------------------------------------

    def due(self, now: float) -> list[Link]:
        """@return: those to look at now; those that were heard of longest ago first."""
        found = []
        if self._anew is not None and self._anew > now:
            self._anew = now
        for link in self._links.values():
            if link.heard is not None and link.heard > now:
                link.heard = now
            # As far away as no pause can be: the clock was set back.
            if link.next_look > now + self.rhythm.longest * (1 + _SPREAD):
                link.next_look = now
            if link.looking or link.next_look > now or (link.met and self.well(link, now)):
                continue
            found.append(link)
        found.sort(key=lambda link: -1.0 if link.heard is None else link.heard)
        return found

    def began(self, key: PublicKey) -> None:
        """A look is under way, until L{answered} or L{missed}."""
        link = self._links.get(key)
        if link is not None:
            link.looking = True

    def answered(self, key: PublicKey, now: float) -> float | None:
        """
        A peer has answered.

        @return: for how many seconds it had not, if it was lost; else L{None}.
        """
        link = self._links.get(key)
        if link is None:
            return None
        link.looking, link.met = False, True
        return self._well(link, now, now)

    def _well(self, link: Link, heard: float, now: float) -> float | None:
        lost, link.lost = link.lost, None
        link.heard, link.missed = heard, 0
        link.next_look = now
        return None if lost is None else max(0.0, now - lost)

    def missed(self, key: PublicKey, now: float, lot: float) -> bool:
        """
        A peer has not answered.

        @param lot: drawn by lot, from 0 to 1.
        @return: it is suspect from now on, and was not before.
        """
        link = self._links.get(key)
        if link is None:
            return False
        link.looking = False
        if not link.met and self.well(link, now):
            link.next_look = now + self.rhythm.pause
            return False
        if link.lost is None:
            link.lost = now
        link.missed += 1
        link.next_look = now + self.pause(link) * (1 + _SPREAD * lot)
        return link.missed == self.rhythm.patience

    def speechless(self, key: PublicKey, now: float) -> None:
        """Somebody is there, and does not know what is asked: nothing is known of the peer."""
        link = self._links.get(key)
        if link is not None:
            link.looking = False
            link.next_look = now + self.rhythm.longest

    # --- what is heard besides ----------------------------------------------------------------

    def heard(self, key: PublicKey, at: float, now: float) -> float | None:
        """
        There was a sign of a peer that was not looked for.

        @param at: when.
        @return: as L{answered}.
        """
        link = self._links.get(key)
        if link is None or (link.heard is not None and at <= link.heard):
            return None
        if self._anew is not None and at <= self._anew:
            return None
        if link.lost is not None and at <= link.lost:
            # Before it was lost.
            link.heard = at
            return None
        return self._well(link, at, now)

    def dropped(self, key: PublicKey, now: float) -> None:
        """The connection to a peer was lost, or could not be made."""
        link = self._links.get(key)
        if link is not None and link.lost is None:
            link.lost = now
            link.next_look = now

    def look_at_all(self, now: float) -> None:
        """This node woke up, or is somewhere else: what was heard before tells nothing."""
        self._anew = now
        for link in self._links.values():
            link.heard = None
            link.missed = min(link.missed, self.rhythm.patience)
            link.next_look = now
