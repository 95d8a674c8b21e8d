"""The part C{gossip}: keeps feeds in step with other nodes."""

from meshkit.interfaces import IFeedStore, ISelection
from meshkit.parts import PartMaker

gossip = PartMaker("gossip", "meshkit.gossip.part", provides=(ISelection,), wants=(IFeedStore,))
