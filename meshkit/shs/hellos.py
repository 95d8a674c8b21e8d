"""
Which protocol is wanted: told from the first 64 bytes of a connection.

Each protocol of a network has a I{capability}: a label, a version and a 32-byte key
that serves as the network identifier K of Secret Handshake 1.  A dialler's hello is::

    HMAC-SHA-512-256(K, ephemeral)  |  ephemeral (X25519 public key)
              32 bytes                        32 bytes

The listener tries every capability it offers against the proof, and so learns what
is wanted before it has said a word.  A capability selects; it does not authorise:
every member of the network can derive every one.

The form above is that of every handshake of meshkit, so the capability alone tells
which protocol and which handshake is meant (C{suites}).  A handshake that others have
defined may check its 64 bytes in another way: that is a L{HelloCheck} of its own.

HMAC-SHA-512-256 is HMAC-SHA-512 cut to 32 bytes, as in libsodium's C{crypto_auth}.
It is not HMAC with the hash SHA-512/256, which starts from other constants.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from attrs import field, frozen

from meshkit.errors import PartConflict
from meshkit.identity.network import LABEL, MAX_VERSION, NetworkKey

CAPABILITY_BYTES: Final = 32
MAC_BYTES: Final = 32
EPHEMERAL_BYTES: Final = 32
HELLO_BYTES: Final = MAC_BYTES + EPHEMERAL_BYTES

#: A listener tries each entry for every hello, at about 2 us apiece.
MAX_CAPABILITIES: Final = 64

#: How many hellos are remembered to refuse their repetition, and how long.
MAX_REMEMBERED_HELLOS: Final = 8192
REMEMBER_SECONDS: Final = 600.0

_FINGERPRINT_BYTES: Final = 16

# SHS1 signs strings that begin with K.  Signed statements begin with this word, so
# a K that did as well could make one be taken for the other.
_RESERVED_PREFIX: Final = b"meshkit"


@frozen(repr=False)
class Capability:
    """
    What selects one protocol of one network.

    @ivar label: C{[a-z][a-z0-9.-]{0,31}}; third parties use a dotted name they own.
    @ivar version: 0 to 65535.
    @ivar key: 32 bytes, K of SHS1: L{meshkit.identity.network.NetworkKey.capability},
        or the application key of another Scuttlebutt network.
    @ivar network: public name of the network it was derived for, L{NetworkKey.net_id};
        empty where there is none.  While a network's secret is being replaced, one port
        serves a label and version for the new network and for the old one.
    """

    label: str = field()
    version: int = field()
    key: bytes = field()
    network: bytes = b""

    @classmethod
    def of(cls, network: NetworkKey, label: str, version: int = 1) -> Capability:
        """
        The capability of one protocol of a network.

        @raise ValueError: if the label or the version is out of form.
        """
        return cls(label, version, network.capability(label, version), network.net_id)

    @label.validator
    def _check_label(self, _attribute: object, value: str) -> None:
        if not LABEL.fullmatch(value):
            raise ValueError(f"capability label {value!r} is not of the form {LABEL.pattern}")

    @version.validator
    def _check_version(self, _attribute: object, value: int) -> None:
        if not 0 <= value <= MAX_VERSION:
            raise ValueError(f"capability version {value} is not between 0 and {MAX_VERSION}")

    @key.validator
    def _check_key(self, _attribute: object, value: bytes) -> None:
        if len(value) != CAPABILITY_BYTES:
            raise ValueError(f"a capability key has {CAPABILITY_BYTES} bytes, not {len(value)}")
        if value.startswith(_RESERVED_PREFIX):
            raise ValueError(
                "a capability key must not begin with the word 'meshkit', "
                "which is kept for signed statements: choose random bytes"
            )

    @property
    def name(self) -> str:
        """C{label/version}, for logs and errors."""
        return f"{self.label}/{self.version}"

    def __repr__(self) -> str:
        return f"<Capability {self.name}>"


def hello_mac(key: bytes, ephemeral: bytes) -> bytes:
    """HMAC-SHA-512-256 of an ephemeral public key: 32 bytes."""
    return hmac.digest(key, ephemeral, "sha512")[:MAC_BYTES]


#: C{check(key, hello)}: do these 64 bytes prove knowledge of a capability's key?  It
#: compares in constant time.
HelloCheck = Callable[[bytes, bytes], bool]


def proves(key: bytes, hello: bytes) -> bool:
    """The L{HelloCheck} of meshkit's own handshakes."""
    return hmac.compare_digest(hello_mac(key, hello[MAC_BYTES:]), hello[:MAC_BYTES])


@frozen
class _Entry:
    capability: Capability
    check: HelloCheck


class HelloTable:
    """
    The capabilities that a listener answers to.

    The order of registration never matters, because no two entries share a key.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[bytes, str, int], _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, capability: object) -> bool:
        if not isinstance(capability, Capability):
            return False
        entry = self._entries.get(_place(capability))
        return entry is not None and entry.capability == capability

    def register(self, capability: Capability, check: HelloCheck = proves) -> None:
        """
        Answer to one more capability.

        @param check: how a hello proves it.
        @raise PartConflict: if its label and version are taken in its network, or its
            key is, or if the table is full.
        """
        if _place(capability) in self._entries:
            raise PartConflict(
                f"the protocol {capability.name} is offered already: "
                f"two parts cannot serve one label and version, disable one of them"
            )
        for entry in self._entries.values():
            other = entry.capability
            if hmac.compare_digest(other.key, capability.key):
                raise PartConflict(
                    f"the protocols {other.name} and {capability.name} have the same "
                    f"capability key, so a hello could not choose between them"
                )
        if len(self._entries) >= MAX_CAPABILITIES:
            raise PartConflict(
                f"{capability.name} cannot be offered: one port serves at most "
                f"{MAX_CAPABILITIES} protocols, disable a part or listen on a second port"
            )
        self._entries[_place(capability)] = _Entry(capability, check)

    def unregister(self, capability: Capability) -> None:
        """
        Stop answering to a capability.

        @raise LookupError: if it is not offered.
        """
        if capability not in self:
            raise LookupError(f"the protocol {capability.name} is not offered here")
        del self._entries[_place(capability)]

    def match(self, hello: bytes) -> Capability | None:
        """
        Find the capability that a hello proves.

        Every entry is tried, in constant time and without stopping at a match, so
        that the time taken does not tell which protocols are offered.

        @param hello: 64 bytes.
        @return: L{None} for a stranger's hello.
        """
        found: Capability | None = None
        for entry in self._entries.values():
            if entry.check(entry.capability.key, hello):
                found = entry.capability
        return found


def _place(capability: Capability) -> tuple[bytes, str, int]:
    """What two entries of a table never have in common."""
    return capability.network, capability.label, capability.version


class ReplayCache:
    """
    Remembers hellos, to refuse a recording of one on the same host.

    A hello carries nothing fresh from the listener, so whoever recorded one could
    otherwise play it back to see whether a port still offers that protocol.  Record
    only hellos that matched: strangers must not be able to push others out.
    """

    def __init__(self) -> None:
        # Fingerprint -> when it came, oldest first.
        self._seen: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def is_new(self, hello: bytes, now: float) -> bool:
        """
        Record a hello.

        @param now: seconds of a clock that never goes back.
        @return: L{False} if it is one of the last L{MAX_REMEMBERED_HELLOS} and not
            older than L{REMEMBER_SECONDS}.
        """
        while self._seen:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest] <= REMEMBER_SECONDS:
                break
            del self._seen[oldest]
        fingerprint = hashlib.sha256(hello).digest()[:_FINGERPRINT_BYTES]
        if fingerprint in self._seen:
            return False
        if len(self._seen) >= MAX_REMEMBERED_HELLOS:
            del self._seen[next(iter(self._seen))]
        self._seen[fingerprint] = now
        return True
