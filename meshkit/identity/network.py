"""
The network secret, and everything derived from it.

A network is the set of nodes that share 32 random bytes, written C{mknet1-...} and
carried by invites.  It is never used as a key itself: one extraction gives the
network key, and each use has a name of its own (protocol/network.md)::

    network key = HKDF-Extract(SHA-256, salt "meshkit/network-key/1", secret)
    derived     = HMAC-SHA256(network key, "meshkit/<class>/<label>/<version>")
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Sequence
from random import Random
from typing import Final, Literal

from attrs import field, frozen
from nacl import pwhash

from meshkit.errors import InvalidNetworkSecret

SECRET_BYTES: Final = 32
PREFIX: Final = "mknet1-"
_CHECKSUM_BYTES: Final = 3

#: Shape of a capability label.  Third parties use a dotted name that they own.
LABEL: Final = re.compile(r"[a-z][a-z0-9.-]{0,31}")
MAX_VERSION: Final = 0xFFFF

DerivedClass = Literal["capability", "beacon", "net-id"]

# Argon2id over a passphrase, once; the result is cached in a 0600 file.
_ARGON2_SALT: Final = hashlib.sha256(b"meshkit/network/1").digest()[:16]
_ARGON2_PASSES: Final = 3
_ARGON2_MEMORY: Final = 64 * 1024 * 1024


# The checksum also says whether the secret was made from a passphrase, so that whoever
# joins with the string is told as well.
_CHECKSUMS: Final = {
    False: b"meshkit/network-secret-checksum/1",
    True: b"meshkit/network-secret-checksum/1/weak",
}


def _checksum(secret: bytes, weak: bool) -> bytes:
    return hashlib.sha256(_CHECKSUMS[weak] + secret).digest()[:_CHECKSUM_BYTES]


@frozen(repr=False)
class NetworkSecret:
    """
    What the members of one network share.

    @ivar raw: 32 bytes.
    @ivar weak: stretched from a passphrase, which can be guessed off line by
        whoever records one handshake.  C{status} says so.
    """

    raw: bytes = field()
    weak: bool = False

    @classmethod
    def generate(cls, rng: Random) -> NetworkSecret:
        """A new random network."""
        return cls(rng.randbytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> NetworkSecret:
        """
        Read C{mknet1-} and base32; case and surrounding space do not matter.

        @raise InvalidNetworkSecret: if a character is wrong or missing.
        """
        body = text.strip()
        if not body.lower().startswith(PREFIX):
            raise InvalidNetworkSecret(f"a network secret starts with {PREFIX!r}")
        encoded = body[len(PREFIX) :].upper()
        try:
            data = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
        except (binascii.Error, ValueError):
            data = b""
        secret, checksum = data[:SECRET_BYTES], data[SECRET_BYTES:]
        for weak in _CHECKSUMS:
            if len(secret) == SECRET_BYTES and checksum == _checksum(secret, weak):
                return cls(secret, weak=weak)
        raise InvalidNetworkSecret(
            "the network secret is misspelt or cut off: copy the whole mknet1-... string"
        )

    @classmethod
    def from_passphrase(cls, passphrase: str) -> NetworkSecret:
        """
        Stretch a passphrase with Argon2id (t=3, m=64 MiB, p=1).  Takes about 0.1 s and
        blocks: call it before the reactor runs, or in a thread.
        """
        words = unicodedata.normalize("NFC", passphrase).encode("utf-8")
        if not words:
            raise InvalidNetworkSecret("the passphrase is empty")
        raw = pwhash.argon2id.kdf(
            SECRET_BYTES,
            words,
            _ARGON2_SALT,
            opslimit=_ARGON2_PASSES,
            memlimit=_ARGON2_MEMORY,
        )
        return cls(raw, weak=True)

    @classmethod
    def from_setting(cls, text: str) -> NetworkSecret:
        """
        Read what a person gave: a secret, or else a passphrase.

        @raise InvalidNetworkSecret: if it begins like a secret and is none; a misspelt
            secret must not become a passphrase of its own.
        """
        if text.strip().lower().startswith(PREFIX.removesuffix("1-")):
            return cls.parse(text)
        return cls.from_passphrase(text)

    def encode(self) -> bytes:
        """The content of the file that keeps the secret."""
        return (self.text + "\n").encode("ascii")

    @classmethod
    def decode(cls, data: bytes, path: str) -> NetworkSecret:
        """
        Read what L{encode} wrote.

        @param path: for the error.
        @raise InvalidNetworkSecret: if it is anything else.
        """
        try:
            return cls.parse(data.decode("ascii", "replace"))
        except InvalidNetworkSecret as e:
            raise InvalidNetworkSecret(f"the file {path} cannot be used: {e}") from None

    @property
    def text(self) -> str:
        """C{mknet1-...}, 63 characters: to be shown to members only."""
        encoded = base64.b32encode(self.raw + _checksum(self.raw, self.weak)).decode("ascii")
        return PREFIX + encoded.rstrip("=").lower()

    def key(self) -> NetworkKey:
        """The key that everything else is derived from."""
        extracted = hmac.digest(b"meshkit/network-key/1", self.raw, "sha256")
        return NetworkKey(extracted, weak=self.weak)

    def __repr__(self) -> str:
        return f"<NetworkSecret weak={self.weak}>"


#: The network of relays that serve whoever comes, of whatever network: everybody has its secret,
#: so it keeps nobody out and says nothing.  It is no network for anything else
#: (C{docs/protocol/network.md}).
PUBLIC_RELAYS: Final = NetworkSecret(hashlib.sha256(b"meshkit/public-relay/1").digest())

#: The label by which a relay leads those who are no members of its network and have an invite, with
#: what strangers get: an invite holds the capability of it (C{docs/protocol/tunnel.md}).
GUEST_LABEL: Final = "relay-guest"

#: A network's secret and the one it replaces.
MAX_SECRETS: Final = 2


def encode_networks(secrets: Sequence[NetworkSecret]) -> bytes:
    """
    The content of a file that keeps a network's secret: a line for the current one, and
    another for the previous one while it is being replaced.
    """
    return b"".join(secret.encode() for secret in check_networks(secrets))


def decode_networks(data: bytes, path: str) -> tuple[NetworkSecret, ...]:
    """
    Read what L{encode_networks} wrote.

    @param path: for the error.
    @return: the current secret, and the previous one if there is one.
    @raise InvalidNetworkSecret: if it is anything else.
    """
    lines = data.splitlines() or [b""]
    # Before each is decoded: a file of another kind may have any number of lines.
    if len(lines) > MAX_SECRETS:
        raise InvalidNetworkSecret(
            f"the file {path} has {len(lines)} lines: it may hold the network's secret and, "
            f"below it, the previous one"
        )
    secrets = [NetworkSecret.decode(line, path) for line in lines]
    try:
        return check_networks(secrets)
    except InvalidNetworkSecret as e:
        raise InvalidNetworkSecret(f"the file {path} cannot be used: {e}") from None


def check_networks(secrets: Sequence[NetworkSecret]) -> tuple[NetworkSecret, ...]:
    """
    @raise InvalidNetworkSecret: unless these are a current secret and at most one other.
    """
    if not 1 <= len(secrets) <= MAX_SECRETS:
        raise InvalidNetworkSecret(
            f"a node has a network secret and at most one previous one, not {len(secrets)}"
        )
    if len({secret.raw for secret in secrets}) < len(secrets):
        raise InvalidNetworkSecret("the previous network secret is the same as the current one")
    return tuple(secrets)


def _check_name(kind: DerivedClass, label: str, version: int) -> None:
    if not LABEL.fullmatch(label):
        raise ValueError(f"{kind} label {label!r} is not of the form {LABEL.pattern}")
    if not 0 <= version <= MAX_VERSION:
        raise ValueError(f"{kind} version {version} is not between 0 and {MAX_VERSION}")


@frozen(repr=False)
class NetworkKey:
    """
    The root of a network's derived keys.  Never used as a key itself.

    @ivar weak: see L{NetworkSecret}.
    """

    _raw: bytes = field(alias="raw")
    weak: bool = False

    def _derive(self, kind: DerivedClass, label: str, version: int) -> bytes:
        name = f"meshkit/{kind}/{label}/{version}"
        return hmac.digest(self._raw, name.encode("ascii"), "sha256")

    def capability(self, label: str, version: int = 1) -> bytes:
        """
        The 32-byte SHS1 network identifier of one protocol in this network.

        Every member can derive every capability: it selects a protocol, it does not
        authorise anybody.

        @raise ValueError: if the label or the version is out of form.
        """
        _check_name("capability", label, version)
        return self._derive("capability", label, version)

    def beacon(self, label: str, version: int = 1) -> bytes:
        """
        The 32-byte key under which members tell each other something where anybody hears it.

        @raise ValueError: if the label or the version is out of form.
        """
        _check_name("beacon", label, version)
        return self._derive("beacon", label, version)

    @property
    def net_id(self) -> bytes:
        """16 bytes that name the network in signed statements."""
        return self._derive("net-id", "net-id", 1)[:16]

    def __repr__(self) -> str:
        return f"<NetworkKey net_id={self.net_id.hex()}>"
