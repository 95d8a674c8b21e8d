"""
Ed25519 identities and their text form C{@<base64>.ed25519}.

One key pair signs (Ed25519) and agrees on secrets (X25519, by the standard
conversion of libsodium).  Using one key for both is argued in ePrint 2021/509.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from attrs import field, frozen
from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.errors import InvalidPublicKey
from meshkit.identity.contexts import Context, signing_input

KEY_BYTES: Final = 32
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

#: Keys whose form for X25519 is remembered.  It takes 40 us, a tenth of what a server
#: spends on a handshake, and those who dial are mostly those who dialled before.
_KNOWN_KEYS: Final = 1_024

_PREFIX: Final = "@"
_SUFFIX: Final = ".ed25519"

# What nacl raises for low-order and invalid points: its RuntimeError is a subclass
# of the builtin one and of CryptoError; catch both, as bindings differ by version.
_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


def _32_bytes(_instance: object, _attribute: object, value: bytes) -> None:
    if len(value) != KEY_BYTES:
        raise InvalidPublicKey(f"an Ed25519 public key has 32 bytes, not {len(value)}")


@lru_cache(_KNOWN_KEYS)
def _to_x25519(raw: bytes) -> bytes:
    return bindings.crypto_sign_ed25519_pk_to_curve25519(raw)


@frozen(repr=False, order=True)
class PublicKey:
    """
    Somebody's Ed25519 public key.

    @ivar raw: the 32 bytes.
    """

    raw: bytes = field(validator=_32_bytes)

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """
        Read C{@<base64>.ed25519}.  The URL-safe alphabet and missing padding are
        accepted as well, so that an id can stand in a path.

        @raise InvalidPublicKey: if it is anything else.
        """
        body = text.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if len(text) - len(body) != len(_PREFIX) + len(_SUFFIX):
            raise InvalidPublicKey(f"{text[:80]!r} is not an id of the form @<base64>.ed25519")
        return cls._decode(body, text)

    @classmethod
    def from_base64(cls, text: str) -> PublicKey:
        """Read the bare base64 of a key, as it stands in addresses."""
        return cls._decode(text, text)

    @classmethod
    def _decode(cls, body: str, shown: str) -> PublicKey:
        standard = body.rstrip("=").replace("-", "+").replace("_", "/")
        try:
            raw = base64.b64decode(standard + "=", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        # Comparing the re-encoded form refuses a second spelling of the same key.
        if len(raw) != KEY_BYTES or base64.b64encode(raw).decode().rstrip("=") != standard:
            raise InvalidPublicKey(
                f"{shown[:80]!r} is not a key: it needs the base64 of exactly 32 bytes"
            )
        return cls(raw)

    @property
    def text(self) -> str:
        """The id, C{@<base64>.ed25519}: 53 characters."""
        return f"{_PREFIX}{self.base64}{_SUFFIX}"

    @property
    def base64(self) -> str:
        """The padded standard base64 of the key."""
        return base64.b64encode(self.raw).decode("ascii")

    @property
    def short(self) -> str:
        """The first eight characters, for tables and logs; not an identifier."""
        return f"@{self.base64[:8]}"

    @property
    def x25519(self) -> bytes:
        """
        The same key for X25519 (32 bytes).

        @raise InvalidPublicKey: if the bytes are no point of the curve, or one of
            small order.
        """
        try:
            return _to_x25519(self.raw)
        except _NACL_ERRORS:
            raise InvalidPublicKey(f"{self.text} is not a point of the curve") from None

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """
        Does C{signature} over C{data} come from this key?

        Acceptance is that of libsodium's C{crypto_sign_open}, everywhere in meshkit:
        verifiers that disagree on crafted signatures would split a feed for ever.
        """
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            bindings.crypto_sign_open(signature + data, self.raw)
        except _NACL_ERRORS:
            return False
        return True

    def __repr__(self) -> str:
        return f"<PublicKey {self.text}>"

    def __str__(self) -> str:
        return self.text


#: Says whether a signature over some data comes from a key: C{(key, data, signature)}, as
#: L{PublicKey.verifies} does.
Verify = Callable[[PublicKey, bytes, bytes], bool]


class Identity:
    """
    A key pair.  Neither its C{repr} nor any error shows the secret.

    Its one public way to sign is L{sign}, which names the kind of statement.  The
    signatures of older protocols (the secret handshake, feed messages) have no
    such name; C{_sign_raw} is for those modules only, and a test holds the list.
    Python cannot wipe memory: see the threat model.
    """

    __slots__ = ("_secret", "_x25519_secret", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        public, self._secret = bindings.crypto_sign_seed_keypair(seed)
        self._x25519_secret = bindings.crypto_sign_ed25519_sk_to_curve25519(self._secret)
        self.public = PublicKey(public)

    def sign(self, context: Context, payload: bytes) -> bytes:
        """
        Sign a statement of a named kind (protocol/statements.md).

        @return: 64 bytes.
        """
        return self._sign_raw(signing_input(context, payload))

    def _sign_raw(self, data: bytes) -> bytes:
        return bindings.crypto_sign(data, self._secret)[:SIGNATURE_BYTES]

    def seed(self) -> bytes:
        """The 32-byte seed, for the key file alone."""
        return self._secret[:SEED_BYTES]

    def __repr__(self) -> str:
        return f"<Identity {self.public.text}>"
