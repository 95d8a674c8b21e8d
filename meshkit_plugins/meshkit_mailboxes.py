"""The part C{mailboxes} of a relay: keeps sealed messages for those who are away."""

from meshkit.interfaces import IFeedStore
from meshkit.parts import PartMaker

mailboxes = PartMaker("mailboxes", "meshkit.relay.mailbox.relay_part", wants=(IFeedStore,))
