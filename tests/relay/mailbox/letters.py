"""
A recipient, a sender, a relay, and what they write to each other, the same in every run.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import Identity, PublicKey
from meshkit.relay.mailbox.prekeys import Prekey, PrekeyRing, RelayPlace
from meshkit.relay.mailbox.sealing import seal_message
from meshkit.testing.identities import make_identity

NOW: Final = 1_800_000_000
DAY: Final = 86_400

ADA: Final = make_identity("ada")
BOB: Final = make_identity("bob")
RELAY: Final = make_identity("relay")
MALLORY: Final = make_identity("mallory")

PLACE: Final = RelayPlace(RELAY.public, HostPort("relay.example", 7661))
#: The prekeys of Bob.
RING: Final = PrekeyRing().turned(NOW, Random("bob's prekeys"))
PREKEY: Final = RING.sign(BOB, [PLACE])


def letter(
    number: int = 1,
    body: bytes = b"the heron has left",
    *,
    sender: Identity = ADA,
    recipient: PublicKey = BOB.public,
    prekey: Prekey | None = PREKEY,
    **changed: Any,
) -> bytes:
    """@return: a sealed message, another one for each number."""
    rng = Random(f"letter {number}")
    return seal_message(
        sender,
        recipient,
        prekey,
        body,
        **{
            "id": rng.randbytes(16),
            "created": NOW,
            "expires": NOW + DAY,
            "ephemeral": rng.randbytes(32),
            **changed,
        },
    )
