"""
What must be so in every run, whatever happened.  Each module here is one of these; see
L{Invariant} for how they watch.

A part that wants more of a world than L{USUAL} brings invariants of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshkit.sim.invariants.authentic import Authentic
from meshkit.sim.invariants.blameless import Blameless
from meshkit.sim.invariants.bounded import Bounded
from meshkit.sim.invariants.converged import Converged
from meshkit.sim.invariants.durable import Durable
from meshkit.sim.invariants.found import Found
from meshkit.sim.invariants.fresh import Fresh
from meshkit.sim.invariants.invariant import Invariant, Violation
from meshkit.sim.invariants.owned import Owned
from meshkit.sim.invariants.quiet import Quiet
from meshkit.sim.invariants.sound import Sound

__all__ = [
    "USUAL",
    "Authentic",
    "Blameless",
    "Bounded",
    "Converged",
    "Durable",
    "Found",
    "Fresh",
    "Invariant",
    "Owned",
    "Quiet",
    "Sound",
    "Violation",
]

#: Those that every run is watched by.
USUAL: Final[Sequence[type[Invariant]]] = (
    Durable,
    Authentic,
    Converged,
    Owned,
    Found,
    Blameless,
    Bounded,
    Fresh,
    Quiet,
    Sound,
)
