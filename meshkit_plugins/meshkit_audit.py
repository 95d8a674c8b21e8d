"""The part C{audit}: proves what is kept here, and looks after what others keep."""

from meshkit.interfaces import IFeedStore, IShareSampler, IStoragePeers, ITrackedObjects
from meshkit.parts import PartMaker

audit = PartMaker(
    "audit",
    "meshkit.audit.part",
    wants=(IFeedStore, IShareSampler, IStoragePeers, ITrackedObjects),
)
