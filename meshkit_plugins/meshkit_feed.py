"""The part C{feed}: signed feeds, kept and searched."""

from meshkit.interfaces import IFeedStore
from meshkit.parts import PartMaker

feed = PartMaker("feed", "meshkit.feed.part", provides=(IFeedStore,))
