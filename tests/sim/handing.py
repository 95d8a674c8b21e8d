"""
Parts C{exchange} of those who lie about where others are, for nodes in worlds.

Each is the honest part with what it hands on replaced.  They can forge nothing, as records are
signed by those whom they are about.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from meshkit.discovery.exchange.part import MIGRATIONS as MIGRATIONS
from meshkit.discovery.exchange.part import Config as Config
from meshkit.discovery.exchange.part import ExchangePart
from meshkit.discovery.exchange.wire import FIND, Find, Given
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import AddressRecord
from meshkit.parts import PartContext
from meshkit.rpc.protocol import RPCProtocol

#: How the liar of the next world lies: see L{LyingPart}.
MANNERS = ("withhold", "outdated", "differ", "hang", "swap")


class LyingPart(ExchangePart):
    """
    @cvar manner: C{withhold}: it gives nothing; C{outdated}: the first record it saw of each;
        C{differ}: the newest to every other asker, and the first to the rest; C{hang}: it never
        answers; C{swap}: records of others than those who were asked for.
    """

    manner = "withhold"

    def __init__(self, context: PartContext) -> None:
        super().__init__(context)
        self.first: dict[PublicKey, AddressRecord] = {}
        self.asked: list[PublicKey | None] = []
        served: Any = self._factory._dispatcher._served[FIND.name]
        object.__setattr__(served, "handler", self._lie)
        take = self.keeper.known.take

        def remember(record: AddressRecord, nearest: Any) -> Any:
            self.first.setdefault(record.key, record)
            return take(record, nearest)

        self.keeper.known.take = remember  # type: ignore[method-assign]

    def _lie(self, connection: RPCProtocol, request: Find) -> Any:
        self.asked.append(connection.key)
        keys = [PublicKey(raw) for raw in request.keys]
        newest = [self.keeper.known.find(key) for key in keys]
        first = [self.first.get(key) for key in keys]
        if self.manner == "hang":
            return Deferred()
        if self.manner == "swap":
            return Given([each.raw for key, each in self.first.items() if key not in keys])
        if self.manner == "withhold":
            return Given([])
        lies = self.manner == "outdated" or len(self.asked) % 2
        return Given([each.raw for each in (first if lies else newest) if each is not None])


def make_part(context: PartContext) -> LyingPart:
    return LyingPart(context)
