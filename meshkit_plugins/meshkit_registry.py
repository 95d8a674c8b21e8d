"""The part C{registry} of a member relay: who is known at it."""

from meshkit.interfaces import IFeedStore, IRegistrations
from meshkit.parts import PartMaker

registry = PartMaker(
    "registry",
    "meshkit.relay.registry.part",
    provides=(IRegistrations,),
    wants=(IFeedStore,),
)
