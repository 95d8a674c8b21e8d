"""The part C{relay_door}: the HTTP door of a relay."""

from meshkit.interfaces import IFeedStore, IRegistrations, IWellKnown
from meshkit.parts import PartMaker

relay_door = PartMaker(
    "relay_door",
    "meshkit.services.relay.part",
    wants=(IFeedStore, IRegistrations, IWellKnown),
)
