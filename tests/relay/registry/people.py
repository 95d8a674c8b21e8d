"""Who registers in these tests, and when."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.relay.registry.registration import Registration
from meshkit.testing.identities import DAY_NS, make_identity

RELAY: Final = make_identity("relay")
OTHER_RELAY: Final = make_identity("other relay")
ADA: Final = make_identity("ada")
BOB: Final = make_identity("bob")
MALLORY: Final = make_identity("mallory")

NETWORK: Final = NetworkSecret.generate(Random(1)).key()
OTHER_NETWORK: Final = NetworkSecret.generate(Random(2)).key()
NETWORKS: Final = {NETWORK.net_id: NETWORK.capability("registry")}

#: Milliseconds since 1970.
NOW: Final = DAY_NS // 10**6


def registration(
    peer: Identity = ADA,
    number: int = NOW,
    *,
    relay: Identity = RELAY,
    network: bytes = NETWORK.net_id,
    listed: bool = False,
    **more: Any,
) -> Registration:
    return Registration.seal(peer, network, relay.public, number, listed=listed, **more)
