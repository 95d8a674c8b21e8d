"""The part C{registration}: has a node known at its member relays."""

from meshkit.interfaces import IRelays
from meshkit.parts import PartMaker

registration = PartMaker(
    "registration",
    "meshkit.relay.registration.part",
    wants=(IRelays,),
)
