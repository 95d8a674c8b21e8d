"""The part C{tunnel}: is reached, and reaches others, through relays."""

from meshkit.interfaces import IDetours, IFeedStore, IPeerFinder, IRelays, IShortcuts
from meshkit.parts import PartMaker

tunnel = PartMaker(
    "tunnel",
    "meshkit.relay.tunnel.part",
    provides=(IDetours,),
    requires=(IRelays,),
    wants=(IFeedStore, IPeerFinder, IShortcuts),
)
