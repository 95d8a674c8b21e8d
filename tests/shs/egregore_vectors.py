"""
Known answers for Egregore's handshake and stream, generation W2.

Computed by a probe that replicates with Egregore's own nodes in both roles, and not by
anything of this house.  Ephemeral secrets are 32 times 01 (client) and 02 (server), the
seeds of the identities 32 times 03 and 04.
"""

from __future__ import annotations

from typing import Final

NETWORK: Final = "egregore-network-v1"
CAP: Final = bytes.fromhex("3e8a3bfa8e009c04f7999a82c6e232a0a449adc7af76bd03ccc2b816dc4c0fb7")

CLIENT_EPHEMERAL: Final = b"\x01" * 32
SERVER_EPHEMERAL: Final = b"\x02" * 32
CLIENT_SEED: Final = b"\x03" * 32
SERVER_SEED: Final = b"\x04" * 32
CLIENT_ID: Final = "@7UkoxijRwsbq6QM4kFmVYSlZJzpcY/k2NsFGFKyHN9E=.ed25519"
SERVER_ID: Final = "@ypOsFwUYcHHWe4PH/w7+gQjo7EUwV113JoeTM9vavnw=.ed25519"

SHARED: Final = bytes.fromhex("2ed76ab549b1e73c031eb49c9448f0798aea81b698279a0c3dc3e49fbfc4b953")
CLIENT_HELLO: Final = bytes.fromhex(
    "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209"
    "84af0f38fd635adc31c3cbd27bc8b45c071e788c6daf4465d760c1fce3e0d912"
)
SERVER_HELLO: Final = bytes.fromhex(
    "ce8d3ad1ccb633ec7b70c17814a5c76ecd029685050d344745ba05870e587d59"
    "0275d9a492e70e6f99422a474e602d1afa963e0e943b439cd2708032cc79183f"
)
#: SHA-256 of the 112 bytes of a proof, without their length, by generation and side.
PROOF_HASHES: Final = {
    ("W1", "client"): "19098a2e0986391294c61615d3d8413a9e98640bedf5a03ba965cdbe930f8f77",
    ("W1", "server"): "eb779e0dc0a7af273b00ad9e4ad697290096c4c1e0a3cce721907ab68d1bbc22",
    ("W2", "client"): "b8396bf42eadc3a59a576a4ebbbb6d4518e9f4c98c2ebc0d7663a9491e152896",
    ("W2", "server"): "6916322468c0359bfa6549c63bb8ea965af8ee4faed998d7b3ad16bd4fcfd06a",
}
CLIENT_TO_SERVER_KEY: Final = bytes.fromhex(
    "3c7cc01740212314e481da63a6c3c141878f1ab8d25579e6891f89117e35df2f"
)
CLIENT_TO_SERVER_NONCE: Final = bytes.fromhex("1a92f23852dc908d97316a3b13578281196c1dd73d9ae5e3")
SERVER_TO_CLIENT_KEY: Final = bytes.fromhex(
    "bd2ff5e52809e9e31a37827ab16b26c00c5891a1991c9aa8a40ae845658d3608"
)
SERVER_TO_CLIENT_NONCE: Final = bytes.fromhex("cfa570c653bd212b10a9cb551fd7a1b4789855ee17e99ef2")

FIRST_MESSAGE: Final = b'{"type":"done"}'
#: That message as the first one from client to server, and the goodbye behind it.
FIRST_FRAME: Final = bytes.fromhex(
    "00000032d06f51b6b9eded4e5760fbfb7b38e5e369f56348482e32cd794e429ab65bd5519e0c106218ef3b95"
    "b7919794f4c4e89d055a"
)
GOODBYE_FRAME: Final = bytes.fromhex(
    "00000022d339abc5d95038971dc5b7415b81d931330f53b7c5f87116dc4172271c6148b647e7"
)
