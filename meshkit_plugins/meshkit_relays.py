"""The part C{relays}: which relays the node uses, and how they are reached."""

from meshkit.interfaces import IRelays
from meshkit.parts import PartMaker

relays = PartMaker("relays", "meshkit.relay.relays.part", provides=(IRelays,))
