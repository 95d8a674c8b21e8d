"""The part C{tunnels} of a relay: leads peers to each other that cannot dial each other."""

from meshkit.interfaces import IFeedStore
from meshkit.parts import PartMaker

tunnels = PartMaker("tunnels", "meshkit.relay.tunnel.serving", wants=(IFeedStore,))
