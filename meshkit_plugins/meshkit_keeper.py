"""The part C{keeper}: keeps encrypted shares for other nodes, once its owner lends space."""

from meshkit.interfaces import IDetours, IFeedStore, IHashTable, IShareKeeper, IShareSampler
from meshkit.parts import PartMaker

keeper = PartMaker(
    "keeper",
    "meshkit.storage.keeper.part",
    provides=(IShareKeeper, IShareSampler),
    wants=(IDetours, IFeedStore, IHashTable),
)
