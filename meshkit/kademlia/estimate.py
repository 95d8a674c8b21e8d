"""
How many nodes there are, and whether somebody crowds around one place.  Pure.

Ids are hashes, so honest nodes lie evenly in the space, and the distance to the k-th
nearest of a place says how many there are in all.  Keys are free to make until their ids
suit, so somebody can be all k nearest of a place; but he cannot do it without making that
place denser than the rest (Sridhar, Ascigil, Keizer et al., NDSS 2024).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final

from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import ID_BITS, NodeId, number
from meshkit.kademlia.routing import K

#: Lookups of which the outcome is remembered.
SAMPLES: Final = 64
#: So many have to be, before anything is said.
MIN_SAMPLES: Final = 5
#: The k nearest lie within this part of the distance within which they are expected: among
#: honest nodes a chance of 3 in 100,000.
CROWDED: Final = 1 / 3
#: Nodes that a crowded place is looked through for.
MAX_REGION: Final = 200

_SPACE: Final = 2.0**ID_BITS
#: The median of the distance to the k-th nearest, times the number of nodes in the space.
_MEDIAN: Final = K - 1 / 3


class SizeEstimate:
    """
    The size of the network, from what this node has looked up itself.

    Only lookups of which nobody else has chosen the target may be given to it: those that
    refresh the table.  The median is taken, so whoever crowds some places changes little.
    """

    def __init__(self) -> None:
        self._sizes: deque[float] = deque(maxlen=SAMPLES)

    def __len__(self) -> int:
        """Lookups that are remembered."""
        return len(self._sizes)

    def saw(self, target: NodeId, found: Sequence[Contact]) -> None:
        """
        A lookup has ended.

        @param found: the nearest that answered, the nearest first.
        """
        if len(found) < K:
            # There are no more.
            self._sizes.append(float(len(found) + 1))
            return
        farthest = found[K - 1].number ^ number(target)
        self._sizes.append(_MEDIAN * _SPACE / max(farthest, 1))

    @property
    def size(self) -> float | None:
        """How many nodes there are, this one too; L{None} as long as too little is known."""
        return median(self._sizes) if len(self._sizes) >= MIN_SAMPLES else None


def is_crowded(target: NodeId, found: Sequence[Contact], size: float | None) -> bool:
    """
    @param found: the nearest that answered, the nearest first.
    @param size: how many nodes there are, if that is known.
    @return: do the L{K} nearest lie nearer than chance would have it?
    """
    if size is None or len(found) < K or size <= K:
        return False
    farthest = (found[K - 1].number ^ number(target)) / _SPACE
    return farthest * size < K * CROWDED


def region_bits(size: float) -> int:
    """
    @return: how many bits to share with a place for being one of those around it: L{K} to
        twice as many nodes do, among honest ones.
    """
    return max(0, math.floor(math.log2(size / K)))
