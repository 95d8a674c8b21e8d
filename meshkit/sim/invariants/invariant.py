"""
What an invariant is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from meshkit.sim.node import Said
    from meshkit.sim.running import Run

__all__ = ["Invariant", "Violation"]


class Violation(msgspec.Struct, frozen=True):
    """
    Something was not as it must be.

    @ivar invariant: which one found it.
    @ivar at_ns: when, in the world's time.
    @ivar node: where.
    @ivar text: what.
    """

    invariant: str
    at_ns: int
    node: str
    text: str


class Invariant:
    """
    Something that must be so.  One object watches one run; each method may call
    C{run.violated}.  They are called in this order; C{event}, C{said} and C{sampled} many
    times.  Only C{settled} may let time pass.

    @cvar name: in a word or two, for reports.
    """

    name = ""

    def begun(self, run: Run) -> None:
        """Everybody who is there from the beginning is ready."""

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        """Something happened: see L{meshkit.sim.trace.Trace.event}."""

    def said(self, run: Run, said: Said) -> None:
        """A door has answered."""

    def sampled(self, run: Run) -> None:
        """Some time has passed."""

    def healed(self, run: Run) -> None:
        """Nothing is done any more, all faults have ended, and every node is starting."""

    def agrees(self, run: Run) -> bool:
        """
        @return: there is nothing more to wait for.  Asked again and again until all say
            so, or the time is over; then C{settled} is the one to complain.
        """
        return True

    def settled(self, run: Run) -> None:
        """All agree, or the time for it is over.  The nodes still run, and can be asked."""

    def stopped(self, run: Run) -> None:
        """Every node has been stopped in good order."""
