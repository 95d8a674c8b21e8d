"""The part C{invites}: one text with which somebody joins the network at this node."""

from meshkit.interfaces import IDetours, IFeedStore, IRelays
from meshkit.parts import PartMaker

invites = PartMaker(
    "invites", "meshkit.discovery.inviting.part", wants=(IDetours, IFeedStore, IRelays)
)
