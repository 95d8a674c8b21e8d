"""
The part C{relays}: which relays this node uses, for the parts that use them.

It says in which network each of them serves, and leads to its protocols
(L{meshkit.interfaces.IRelays}); what is asked of them is the business of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from meshkit.identity.keys import Identity
from meshkit.identity.network import PUBLIC_RELAYS, NetworkKey
from meshkit.interfaces import IRelays, Relay
from meshkit.parts import Part, PartContext
from meshkit.relay.relays.config import Config as Config
from meshkit.relay.relays.operations import RelaysStatus, UsedRelay

MIGRATIONS: Final = ()


@implementer(IRelays)
class RelaysPart(Part):
    """See the module."""

    def __init__(self, context: PartContext) -> None:
        """@raise ConfigError: if an address in the settings cannot be used."""
        self._context = context
        config: Config = context.config
        self._relays = config.relays(context.identity.public)
        self._public = PUBLIC_RELAYS.key()

    def startService(self) -> None:
        super().startService()
        # A member relay keeps feeds: it is a peer like any other.
        members = [relay.address for relay in self._relays if relay.role == "member"]
        self._context.peers.hear("relays", members)

    def stopService(self) -> None:
        super().stopService()
        self._context.peers.hear("relays", [])

    def relays(self) -> Sequence[Relay]:
        return self._relays

    def network_of(self, relay: Relay) -> NetworkKey:
        return self._public if relay.role == "blind" else self._context.network

    def endpoint(
        self, relay: Relay, label: str, version: int = 1, identity: Identity | None = None
    ) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = self._context.connections.endpoint(
            relay.address, label, version, network=self.network_of(relay), identity=identity
        )
        return endpoint

    def status(self) -> RelaysStatus | None:
        shown = [UsedRelay(relay.address.text, relay.role) for relay in self._relays]
        return RelaysStatus(shown) if shown else None


def make_part(context: PartContext) -> RelaysPart:
    return RelaysPart(context)
