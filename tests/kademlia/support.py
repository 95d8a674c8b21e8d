"""Contacts for tests: whom they are of can be read off their numbers, and nothing is signed."""

from __future__ import annotations

import hashlib
from functools import cache
from ipaddress import IPv4Address
from typing import Final

from attrs import evolve

from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope
from meshkit.kademlia.contacts import Contact, DialRules

NETWORK: Final = bytes(16)
RULES: Final = DialRules()
#: The first address of the public ones that the contacts are at.
FIRST_HOST: Final = int(IPv4Address("11.0.0.1"))


def host_of(n: int) -> str:
    """
    A public address.  C{n >> 16} says the /16, and each has 256 of a /24: contacts with
    numbers C{256 * i} have nothing in common.
    """
    return str(IPv4Address(FIRST_HOST + n))


def key_of(n: int) -> PublicKey:
    return PublicKey(hashlib.sha256(b"contact %d" % n).digest())


@cache
def contact(n: int, host: str | None = None, sequence: int = 1) -> Contact:
    """
    The contact with a number.

    @param host: where it is; by default in a /16 of its own.
    """
    place = HostPort(host_of(n << 16) if host is None else host, 7655)
    record = AddressRecord(key_of(n), NETWORK, sequence, 2**62, (place,))
    made = RULES.contact(record, Scope.MACHINE)
    assert made is not None
    return made


def contact_at(place: bytes, n: int, host: str | None = None) -> Contact:
    """The contact with a number, as if its key had been made until it was there."""
    made = evolve(contact(n, host))
    object.__setattr__(made, "id", place)
    object.__setattr__(made, "number", int.from_bytes(place, "big"))
    return made
