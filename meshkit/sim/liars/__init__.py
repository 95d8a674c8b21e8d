"""
Peers that lie, on the real wire.

A liar has a machine in a world.  What runs there is an honest protocol stack in small, with
one behaviour replaced: see L{meshkit.sim.liars.liar}.  L{LIARS} has all kinds by name::

    eve = world.liar("eve", "forged", dials=[ada.address])
    eve.start()
    world.run(60)
    assert len(eve.told) > 0
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from meshkit.sim.liars.bluffing import Bluffing
from meshkit.sim.liars.boasting import Boasting
from meshkit.sim.liars.denying import Denying
from meshkit.sim.liars.equivocating import Equivocating
from meshkit.sim.liars.falsifying import Falsifying
from meshkit.sim.liars.feigning import Feigning
from meshkit.sim.liars.flooding import Flooding
from meshkit.sim.liars.forged import Forged
from meshkit.sim.liars.grinding import Grinding
from meshkit.sim.liars.hanging import Hanging
from meshkit.sim.liars.hollow import Hollow
from meshkit.sim.liars.liar import Liar
from meshkit.sim.liars.misleading import Misleading
from meshkit.sim.liars.mute import Mute
from meshkit.sim.liars.outdated import Outdated
from meshkit.sim.liars.oversized import Oversized
from meshkit.sim.liars.partial import Partial
from meshkit.sim.liars.pocketing import Pocketing
from meshkit.sim.liars.reordered import Reordered
from meshkit.sim.liars.repeating import Repeating
from meshkit.sim.liars.replayed import Replayed
from meshkit.sim.liars.silent import Silent
from meshkit.sim.liars.stale import Stale
from meshkit.sim.liars.stalling import Stalling
from meshkit.sim.liars.swearing import Swearing
from meshkit.sim.liars.tardy import Tardy
from meshkit.sim.liars.told import Lie, Told
from meshkit.sim.liars.withholding import Withholding

__all__ = ["AUDITED", "GOSSIPS", "HASHING", "KEEPING", "LIARS", "RELAYING", "Liar", "Lie", "Told"]

_GOSSIPS: Final = (
    Forged,
    Boasting,
    Replayed,
    Reordered,
    Oversized,
    Stale,
    Equivocating,
    Silent,
    Hanging,
    Withholding,
)

_HASHING: Final = (
    Misleading,
    Outdated,
    Mute,
    Falsifying,
    Flooding,
    Grinding,
)

_KEEPING: Final = (Bluffing, Stalling, Feigning)
_AUDITED: Final = (Hollow, Denying, Swearing)
_RELAYING: Final = (Pocketing, Partial, Tardy, Repeating)

#: Kinds of liars by name: those who lie in gossip, in the hash table, as storage peers, to those
#: who audit them, and as relays.
GOSSIPS: Final[Mapping[str, type[Liar]]] = MappingProxyType({each.kind: each for each in _GOSSIPS})
HASHING: Final[Mapping[str, type[Liar]]] = MappingProxyType({each.kind: each for each in _HASHING})
KEEPING: Final[Mapping[str, type[Liar]]] = MappingProxyType({each.kind: each for each in _KEEPING})
AUDITED: Final[Mapping[str, type[Liar]]] = MappingProxyType({each.kind: each for each in _AUDITED})
RELAYING: Final[Mapping[str, type[Liar]]] = MappingProxyType(
    {each.kind: each for each in _RELAYING}
)
#: All of them.
LIARS: Final[Mapping[str, type[Liar]]] = MappingProxyType(
    {**GOSSIPS, **HASHING, **KEEPING, **AUDITED, **RELAYING}
)
