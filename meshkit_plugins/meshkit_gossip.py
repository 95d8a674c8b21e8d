"""The part C{gossip}: keeps feeds in step with other nodes."""

from meshkit.interfaces import IFeedStore
from meshkit.parts import PartMaker

gossip = PartMaker("gossip", "meshkit.gossip.part", wants=(IFeedStore,))
