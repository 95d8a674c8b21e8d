"""The part C{webrtc}: direct paths to peers behind relays, off unless it is asked for."""

from meshkit.interfaces import IFeedStore, IShortcuts
from meshkit.parts import PartMaker

webrtc = PartMaker(
    "webrtc", "meshkit.relay.webrtc.part", provides=(IShortcuts,), wants=(IFeedStore,)
)
