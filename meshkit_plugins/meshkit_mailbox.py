"""The part C{mailbox}: sealed messages for those who are away, and those of others for us."""

from meshkit.interfaces import IFeedStore, IHashTable, IRelays
from meshkit.parts import PartMaker

mailbox = PartMaker(
    "mailbox", "meshkit.relay.mailbox.part", wants=(IFeedStore, IHashTable, IRelays)
)
