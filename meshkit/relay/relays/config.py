"""The section C{[relays]}.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import ConfigError, InvalidAddress
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import Relay

#: Relays of one kind.  Something is kept up at each of them, as long as the node runs.
MAX_RELAYS: Final = 8


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[relays]}: at whose relays this node is to be found."""

    use: Annotated[
        tuple[str, ...],
        Meta(
            description="address of a relay that is a member of this network, "
            "net:HOST:PORT~shs:KEY",
            extra={"flag": "use"},
            max_length=MAX_RELAYS,
        ),
    ] = ()
    blind: Annotated[
        tuple[str, ...],
        Meta(
            description="address of a blind relay, which serves whoever comes and learns nothing "
            "of this network, net:HOST:PORT~shs:KEY",
            extra={"flag": "blind"},
            max_length=MAX_RELAYS,
        ),
    ] = ()

    def relays(self, own: PublicKey) -> tuple[Relay, ...]:
        """
        @param own: the node's key.
        @return: the relays, those of the network first.
        @raise ConfigError: if an address cannot be used, or two are of one relay.
        """
        found: dict[PublicKey, Relay] = {}
        for relay in (*_read("use", self.use, "member"), *_read("blind", self.blind, "blind")):
            if relay.address.key == own:
                raise ConfigError(f"the relay {relay.address.text} is this node itself")
            if found.setdefault(relay.address.key, relay) is not relay:
                raise ConfigError(
                    f"the relay {relay.address.key.text} stands twice in relays.use and "
                    f"relays.blind: leave one of the addresses out"
                )
        return tuple(found.values())


def _read(name: str, texts: tuple[str, ...], role: Literal["member", "blind"]) -> Iterator[Relay]:
    for text in texts:
        try:
            yield Relay(MeshAddress.parse(text), role)
        except InvalidAddress as e:
            # Nobody is asked for the key of a relay: what it is trusted with is worth a look.
            raise ConfigError(f"relays.{name}: {e}") from None
