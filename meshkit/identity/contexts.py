"""
Every kind of statement an identity signs, in one table.

A signature made for one kind can never be shown as another, because the kind is
part of what is signed and the verifier chooses it (protocol/statements.md).  To
add a kind, add a line here and say what its payload holds.

Signatures without a context, which older protocols prescribe, cannot collide with
these: the signed bytes here start with C{meshkit-sig/1} and a NUL, those of the
handshakes start with a network key, those of feed messages are 64 hex digits, and
those of RFC 9421 start with a quotation mark.
"""

from __future__ import annotations

from typing import Final, NewType

Context = NewType("Context", str)

_DOMAIN: Final = b"meshkit-sig/1\x00"

#: "I am reachable at these addresses": network id, sequence, expires, addresses, more.
ADDRESS_RECORD: Final = Context("address-record/1")

#: "Keep this for others": network id, kind, key, salt, sequence, expires, value.
DHT_RECORD: Final = Context("dht-record/1")

#: "The owner of that key goes on with mine": old key, new key, where the old feed ends.
ROTATION: Final = Context("rotation/1")

CONTEXTS: Final = frozenset({ADDRESS_RECORD, DHT_RECORD, ROTATION})


def signing_input(context: Context, payload: bytes) -> bytes:
    """
    The bytes that are signed for a statement::

        "meshkit-sig/1\\0" | u8 length of context | context | u32be length | payload

    @raise ValueError: if the context is not in the table.
    """
    if context not in CONTEXTS:
        raise ValueError(f"{context!r} is not a signing context: add it to identity/contexts.py")
    name = context.encode("ascii")
    return b"".join([_DOMAIN, bytes([len(name)]), name, len(payload).to_bytes(4, "big"), payload])
