"""The part C{forwarding} of a relay: keeps the feeds of its peers for others."""

from meshkit.interfaces import IFeedStore, IRegistrations, ISelection
from meshkit.parts import PartMaker

forwarding = PartMaker(
    "forwarding",
    "meshkit.relay.forwarding.part",
    requires=(IFeedStore, IRegistrations, ISelection),
)
