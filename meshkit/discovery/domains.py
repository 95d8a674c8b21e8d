"""
The part C{wellknown}: finds nodes by the names of domains, and says what others are to find at
this node's own (L{meshkit.discovery.wellknown}).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from zope.interface import implementer

from meshkit.discovery import operations as offered
from meshkit.discovery.fetching import DomainReader
from meshkit.discovery.wellknown import (
    PATH,
    Document,
    names_of,
    parse_domain,
    public_places,
    reachable,
    url_of,
    write,
)
from meshkit.errors import ConfigError, NotFound
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.network import PUBLIC_RELAYS
from meshkit.interfaces import IWellKnown
from meshkit.operations import BoundOperation, Nothing
from meshkit.parts import Part, PartContext
from meshkit.runtime.egress import may_dial
from meshkit.runtime.outbound import load_authorities

MIGRATIONS: Final[tuple[str, ...]] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[wellknown]}."""

    publish: Annotated[
        bool,
        Meta(
            description="Answer /.well-known/meshkit.json with this node's id, network and "
            "addresses, to whoever asks"
        ),
    ] = False
    timeout: Annotated[
        float, Meta(gt=0, le=120, description="Seconds that a domain may take to answer")
    ] = 10.0
    allow_addresses: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses or networks in which domains may be asked, and lead to, "
            "although they are not public, such as 10.0.0.0/8",
            extra={"flag": "allow-address"},
        ),
    ] = ()
    ca_file: Annotated[
        str,
        Meta(description="PEM file with the authorities to trust in place of the system's"),
    ] = ""

    def allowed_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """
        @return: C{allow_addresses}, parsed.
        @raise ConfigError: if one is none.
        """
        try:
            return tuple(ip_network(text) for text in self.allow_addresses)
        except ValueError as e:
            raise ConfigError(
                f"wellknown.allow_addresses: {e}: write an address, or a network such as 10.0.0.0/8"
            ) from None


@implementer(IWellKnown)
class WellKnownPart(Part):
    """See the module."""

    def __init__(self, context: PartContext) -> None:
        """@raise ConfigError: if the settings cannot be used."""
        config: Config = context.config
        self._context = context
        self._config = config
        self._network = context.network.net_id.hex()
        allowed = config.allowed_networks()
        self._may_dial = partial(may_dial, allowed=allowed)
        policy = None
        if config.ca_file:
            policy = load_authorities(context.files, config.ca_file, "wellknown.ca_file")
        self._reader = DomainReader(
            context.reactor, timeout=config.timeout, allowed=allowed, policy=policy
        )

    def status(self) -> offered.WellKnownStatus:
        addresses = self._addresses() if self._config.publish else []
        return offered.WellKnownStatus(
            published=[address.text for address in addresses],
            idle=None if addresses else self._why_not(),
        )

    def _addresses(self) -> list[MeshAddress]:
        whereabouts = self._context.whereabouts
        key = self._context.identity.public
        return [
            MeshAddress(place.host, place.port, key)
            for place in public_places(whereabouts.places(), whereabouts.advertised)
        ]

    def _why_not(self) -> str:
        if not self._config.publish:
            return "this node publishes no document: set wellknown.publish"
        return (
            "this node does not know where others reach it: name that by the setting advertise, "
            'such as advertise = ["mesh.example.org:7655"]'
        )

    def document(self) -> bytes | None:
        """See L{IWellKnown}."""
        addresses = self._addresses() if self._config.publish else []
        if not addresses:
            return None
        return write(Document(self._context.identity.public, self._network, tuple(addresses)))

    # --- the doors --------------------------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.DOCUMENT, self._answer_document),
            BoundOperation(offered.DISCOVER, self._answer_discover),
        )

    def _answer_document(self, request: Nothing) -> bytes:
        document = self.document()
        if document is None:
            raise NotFound(f"there is no {PATH}: {self._why_not()}")
        return document

    async def _answer_discover(self, request: offered.Discover) -> offered.Discovered:
        domain = parse_domain(request.domain)
        found = await self._reader.ask(domain)
        hosts = await self._reader.look_up(names_of(found))
        used, left = reachable(found, self._may_dial, hosts)
        return offered.Discovered(
            domain=request.domain,
            url=url_of(domain),
            public_id=found.identity.text,
            network=found.network,
            member_of=self._member_of(found.network),
            addresses=[address.text for address in used],
            left_out=[address.text for address in left],
        )

    def _member_of(self, network: str) -> Literal["ours", "relays", "other"]:
        previous = self._context.previous
        if network == self._network or (previous and network == previous.net_id.hex()):
            return "ours"
        return "relays" if network == PUBLIC_RELAYS.key().net_id.hex() else "other"


def make_part(context: PartContext) -> WellKnownPart:
    return WellKnownPart(context)
