"""The part C{egregore}: keeps feeds in step with Egregore's own nodes; off unless asked for."""

from meshkit.interfaces import IFeedStore, ISelection
from meshkit.parts import PartMaker

egregore = PartMaker(
    "egregore",
    "meshkit.gossip.egregore.part",
    requires=(IFeedStore,),
    wants=(ISelection,),
    compat=True,
)
