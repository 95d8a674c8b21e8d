"""Records for tests: who signed them can be read off their numbers."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, Final

import msgspec

from meshkit.identity.addresses import HostPort
from meshkit.identity.contexts import DHT_RECORD
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity
from meshkit.identity.records import MAX_LIFETIME as ADDRESS_LIFETIME
from meshkit.identity.records import AddressRecord
from meshkit.kademlia.kinds import (
    address_key,
    immutable_key,
    mutable_key,
    provider_key,
    topic_key,
)
from meshkit.kademlia.records import LIFETIME, Record

NETWORK: Final = bytes(range(16))
NOW: Final = 1_800_000_000_000
HOUR: Final = 3_600_000

#: Of RFC 8032, 7.1, TEST 1.
ME: Final = Identity(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)


@cache
def owner(n: int) -> Identity:
    """The owner with a number."""
    return Identity(hashlib.sha256(b"owner %d" % n).digest())


def seal(
    who: Identity,
    kind: str,
    key: bytes,
    value: bytes = b"value",
    *,
    sequence: int = NOW,
    expires: int = NOW + LIFETIME,
    salt: bytes = b"",
    network: bytes = NETWORK,
) -> Record:
    return Record.seal(
        who, network, kind, key, value, sequence=sequence, expires=expires, salt=salt
    )


def mutable(who: Identity, value: bytes = b"value", salt: bytes = b"", **changed: Any) -> Record:
    return seal(who, "mutable", mutable_key(who.public, salt), value, salt=salt, **changed)


def immutable(who: Identity, value: bytes = b"value", **changed: Any) -> Record:
    return seal(who, "immutable", immutable_key(value), value, **changed)


def topic(who: Identity, value: bytes = b"value", name: str = "birds", **changed: Any) -> Record:
    return seal(who, "topic", topic_key(name), value, **changed)


def provider(
    who: Identity, value: bytes = b"", content: bytes = b"content", **changed: Any
) -> Record:
    return seal(who, "provider", provider_key(content), value, **changed)


def inner(
    who: Identity,
    sequence: int = NOW,
    expires: int = NOW + ADDRESS_LIFETIME,
    network: bytes = NETWORK,
) -> bytes:
    """An address record, as bytes."""
    place = HostPort("192.0.2.7", 7655)
    return AddressRecord.seal(who, network, [place], sequence=sequence, expires=expires).raw


def address(who: Identity, value: bytes | None = None, **changed: Any) -> Record:
    if value is None:
        times = {name: changed[name] for name in ("sequence", "expires") if name in changed}
        value = inner(who, **times)
    return seal(who, "address", address_key(who.public), value, **changed)


def signed(fields: Any, who: Identity = ME) -> bytes:
    """A record that says what no record says."""
    payload = fields if isinstance(fields, bytes) else msgspec.msgpack.encode(fields)
    return Envelope.seal(who, DHT_RECORD, payload).raw
