"""The part C{hooks}: commands and webhooks for what is stored."""

from meshkit.interfaces import IFeedStore
from meshkit.parts import PartMaker

hooks = PartMaker("hooks", "meshkit.hooks.part", wants=(IFeedStore,))
