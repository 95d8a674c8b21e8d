"""The part C{dht}: finds peers by their keys, and what nodes keep for one another."""

from meshkit.interfaces import IFeedStore, IHashTable, IPeerFinder, ISelection
from meshkit.parts import PartMaker

dht = PartMaker(
    "dht",
    "meshkit.kademlia.part",
    provides=(IHashTable, IPeerFinder),
    wants=(IFeedStore, ISelection),
)
