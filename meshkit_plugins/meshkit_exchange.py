"""The part C{exchange}: keeps in touch with peers that sleep, or move."""

from meshkit.interfaces import IFeedStore, IPeerFinder
from meshkit.parts import PartMaker

exchange = PartMaker("exchange", "meshkit.discovery.exchange.part", wants=(IFeedStore, IPeerFinder))
