"""
Our handshake as a program that the public suite C{shs1-test} can start::

    shs1_adapter.py client NETWORK SERVER-PUBLIC-KEY
    shs1_adapter.py server NETWORK SERVER-SECRET-KEY SERVER-PUBLIC-KEY

All in hex.  The handshake runs over stdin and stdout; behind it the outcome is written:
encryption key and nonce, decryption key and nonce.  After a wrong message nothing more
is written and the exit code is 1.
"""

from __future__ import annotations

import os
import sys

from meshkit.errors import HandshakeError
from meshkit.identity.keys import Identity, PublicKey
from meshkit.shs.handshake import ClientHandshake, Outcome, ServerHandshake
from meshkit.shs.hellos import Capability, HelloTable


def outcome_bytes(outcome: Outcome) -> bytes:
    """As the suite wants to see it."""
    return outcome.encrypt_key + outcome.encrypt_nonce + outcome.decrypt_key + outcome.decrypt_nonce


def make(role: str, network: bytes, key: bytes) -> ClientHandshake | ServerHandshake:
    capability = Capability("shs1-test", 1, network)
    if role == "client":
        me = Identity(os.urandom(32))
        return ClientHandshake(me, capability, PublicKey(key), os.urandom(32))
    table = HelloTable()
    table.register(capability)
    # libsodium's secret key is the seed and the public key behind it.
    return ServerHandshake(Identity(key[:32]), table.match, os.urandom(32))


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main(role: str, network: str, key: str, *_public: str) -> int:
    handshake = make(role, bytes.fromhex(network), bytes.fromhex(key))
    write(handshake.start())
    while not handshake.finished:
        data = os.read(0, 4096)
        if not data:
            return 1
        try:
            step = handshake.receive(data)
        except HandshakeError:
            return 1
        write(step.send)
        if step.peer is not None:
            proof, outcome = handshake.accept()
            write(proof + outcome_bytes(outcome))
        elif step.outcome is not None:
            write(outcome_bytes(step.outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
