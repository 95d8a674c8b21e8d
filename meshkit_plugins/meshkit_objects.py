"""The part C{storage}: gives files to storage peers to keep, and gets them back."""

from meshkit.interfaces import (
    IFeedStore,
    IHashTable,
    IPeerFinder,
    IShareKeeper,
    IStoragePeers,
    ITrackedObjects,
)
from meshkit.parts import PartMaker

storage = PartMaker(
    "storage",
    "meshkit.storage.objects.part",
    provides=(ITrackedObjects, IStoragePeers),
    wants=(IFeedStore, IHashTable, IPeerFinder, IShareKeeper),
)
