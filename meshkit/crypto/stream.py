"""
STREAM: encryption of a text of any length, one segment at a time.  Pure.

Hoang, Reyhanitabar, Rogaway and Vizar, CRYPTO 2015, with AES-256-GCM as Tink does it::

    nonce          = prefix (7) | u32be number of the segment | last (1)
    sealed segment = AES-256-GCM[key](nonce, associated data, text of the segment) | tag (16)

All segments but the last have the same length, and exactly one has C{last} = 1: that of an
empty text too, which is a tag only.  So a segment that was changed, left out, repeated or
put elsewhere does not open, and neither does a text that was cut off or went on.

The key is derived together with a commitment to it, as GCM alone does not commit: one
sealed text can be made to open under two keys as two texts ("invisible salamanders",
CRYPTO 2018).  Whoever has a key from somebody else compares the commitment first.

A key and prefix are used for one text, and a L{Sealer} only goes forward: sealing another
text under a nonce that was used before would give both away.  What was interrupted goes on
with the sealed bytes that were kept, or begins anew under a new key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from attrs import field, frozen
from Crypto.Cipher import AES

from meshkit.crypto.hpke import hkdf_expand, hkdf_extract
from meshkit.errors import ObjectDamaged, ObjectTooLarge

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:  # pragma: no cover - it comes with treq; without it we are slower
    AESGCM = None  # type: ignore[assignment, misc]

KEY_BYTES: Final = 32
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
PREFIX_BYTES: Final = 7
#: Bytes that sealing adds to each segment.
TAG_BYTES: Final = 16

#: What 32 bits count.
MAX_SEGMENTS: Final = 2**32
#: Longest text, in bytes: 2^40 blocks of AES, of which an attacker learns less than 2^-49.
MAX_TEXT: Final = 2**44
#: Longest sealed segment, in bytes, as one has to be in memory.
MAX_SEGMENT: Final = 64 * 1024 * 1024

Data = bytes | bytearray | memoryview


class Cipher(Protocol):
    """AES-256-GCM under one key.  May be used by several threads at once."""

    def seal(self, nonce: bytes, text: Data, associated: bytes) -> bytes | bytearray:
        """@return: the text, L{TAG_BYTES} longer."""

    def open(self, nonce: bytes, sealed: Data, associated: bytes) -> bytes:
        """
        @return: the text.
        @raise ValueError: if it was not sealed so.
        """


class OpenSslCipher:
    """By OpenSSL, through C{cryptography}."""

    def __init__(self, key: bytes) -> None:
        self._gcm = AESGCM(key)

    def seal(self, nonce: bytes, text: Data, associated: bytes) -> bytes | bytearray:
        if not hasattr(self._gcm, "encrypt_into"):  # older ones do not
            return self._gcm.encrypt(nonce, text, associated)
        # Into memory that may be written, as ISA-L gets at no other without copying it.
        sealed = bytearray(len(text) + TAG_BYTES)
        self._gcm.encrypt_into(nonce, text, associated, sealed)
        return sealed

    def open(self, nonce: bytes, sealed: Data, associated: bytes) -> bytes:
        try:
            return self._gcm.decrypt(nonce, sealed, associated)
        except InvalidTag:
            raise ValueError("the tag is wrong") from None


class PycryptodomeCipher:
    """The same bytes by pycryptodome: slower, above all for small segments."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, nonce: bytes, text: Data, associated: bytes) -> bytearray:
        gcm = AES.new(self._key, AES.MODE_GCM, nonce=nonce)
        gcm.update(associated)
        sealed = bytearray(len(text) + TAG_BYTES)
        with memoryview(sealed) as view:
            gcm.encrypt(text, output=view[:-TAG_BYTES])
        sealed[-TAG_BYTES:] = gcm.digest()
        # As it is: another MiB of fresh memory costs as much time as the cipher.
        return sealed

    def open(self, nonce: bytes, sealed: Data, associated: bytes) -> bytes:
        gcm = AES.new(self._key, AES.MODE_GCM, nonce=nonce)
        gcm.update(associated)
        view = memoryview(sealed)
        # Raises ValueError itself.
        return gcm.decrypt_and_verify(view[:-TAG_BYTES], view[-TAG_BYTES:])


MakeCipher = Callable[[bytes], Cipher]

#: The implementations there are here by name, the fastest first.
CIPHERS: Final[Mapping[str, MakeCipher]] = (
    {} if AESGCM is None else {"openssl": OpenSslCipher}
) | {"pycryptodome": PycryptodomeCipher}

#: The fastest of them.
fastest_cipher: Final[MakeCipher] = next(iter(CIPHERS.values()))


@frozen(repr=False)
class StreamKeys:
    """
    What is derived from the key of a text.

    @ivar key: 32 bytes, for L{Sealer} and L{Opener} alone.
    @ivar commitment: 32 bytes that may be shown, and stand for this one key.
    """

    key: bytes = field()
    commitment: bytes

    @classmethod
    def derive(cls, secret: bytes, salt: bytes, info: bytes) -> StreamKeys:
        """
        C{key | commitment = HKDF-SHA256(salt, secret, info, 64)}.

        @param secret: 32 bytes that nobody can guess.
        @param salt: 32 random bytes, new for each text.
        @param info: what the text is.
        """
        if len(secret) != KEY_BYTES or len(salt) != SALT_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, and a salt {SALT_BYTES}")
        out = hkdf_expand(hkdf_extract(salt, secret), info, KEY_BYTES + COMMITMENT_BYTES)
        return cls(out[:KEY_BYTES], out[KEY_BYTES:])


def segment_nonce(prefix: bytes, number: int, last: bool) -> bytes:
    """The 12 bytes for one segment; C{number} counts from 0."""
    return prefix + number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")


def _check_form(key: bytes, prefix: bytes, segment_bytes: int) -> None:
    # The ciphers would take shorter keys, and be others.
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    if len(prefix) != PREFIX_BYTES:
        raise ValueError(f"a prefix has {PREFIX_BYTES} bytes, not {len(prefix)}")
    if not TAG_BYTES < segment_bytes <= MAX_SEGMENT:
        raise ValueError(
            f"a sealed segment has {TAG_BYTES + 1} to {MAX_SEGMENT} bytes, not {segment_bytes}"
        )


class Sealer:
    """
    Seals one text, from its beginning to its end.  To be used by one thread at a time.

    @ivar text_bytes: bytes of text in every segment but the last.
    @ivar segments: how many were sealed.
    """

    def __init__(
        self,
        key: bytes,
        prefix: bytes,
        associated: bytes,
        segment_bytes: int,
        make_cipher: MakeCipher = fastest_cipher,
    ) -> None:
        """
        @param key: C{key} of L{StreamKeys}, not used for another text.
        @param prefix: 7 random bytes.
        @param associated: what belongs to every segment and must not be changed.
        @param segment_bytes: of a sealed segment, 17 to L{MAX_SEGMENT}.
        """
        _check_form(key, prefix, segment_bytes)
        self._cipher = make_cipher(key)
        self._prefix = prefix
        self._associated = associated
        self._ended = False
        self.text_bytes = segment_bytes - TAG_BYTES
        self.segments = 0

    def seal(self, text: Data, last: bool) -> bytes | bytearray:
        """
        Seal the next segment.

        @param text: C{text_bytes} bytes.  The last one has 1 to C{text_bytes}, and none
            only if it is the first as well.
        @return: C{text}, L{TAG_BYTES} longer.
        @raise ValueError: if it has another length, or the last was sealed before.
        @raise ObjectTooLarge: if the text would be longer than L{MAX_TEXT}, or have more
            than L{MAX_SEGMENTS} segments.
        """
        nonce = self._take(len(text), last)
        return self._cipher.seal(nonce, text, self._associated)

    def skip(self, size: int, last: bool) -> None:
        """
        The next segment was sealed before, under this key and prefix, and is at hand.  It is
        never sealed again.

        @param size: bytes of its text.
        @param last: as in L{seal}.
        @raise ValueError: as L{seal} does.
        @raise ObjectTooLarge: as L{seal} does.
        """
        self._take(size, last)

    def _take(self, size: int, last: bool) -> bytes:
        """@return: the nonce of the next segment, which is given once."""
        number = self.segments
        if self._ended:
            raise ValueError("the last segment was sealed before")
        least = min(number, 1) if last else self.text_bytes
        if not least <= size <= self.text_bytes:
            raise ValueError(f"segment {number} cannot have {size} bytes")
        if number >= MAX_SEGMENTS or number * self.text_bytes + size > MAX_TEXT:
            raise ObjectTooLarge(
                f"an object has at most {MAX_TEXT >> 40} TiB and {MAX_SEGMENTS} segments: "
                f"store it in pieces"
            )
        # First of all: whatever happens afterwards, this nonce is not used again.
        self.segments += 1
        self._ended = last
        return segment_nonce(self._prefix, number, last)


class Opener:
    """
    Opens segments, in any order.  May be used by several threads at once.

    Who reads a text to its end knows that it is the end only when a segment was opened as
    the last one.
    """

    def __init__(
        self,
        key: bytes,
        prefix: bytes,
        associated: bytes,
        segment_bytes: int,
        make_cipher: MakeCipher = fastest_cipher,
    ) -> None:
        """The parameters are those of L{Sealer}.  Compare the commitment before."""
        _check_form(key, prefix, segment_bytes)
        self._cipher = make_cipher(key)
        self._prefix = prefix
        self._associated = associated
        self._segment_bytes = segment_bytes

    def open(self, number: int, sealed: Data, last: bool) -> bytes:
        """
        Open a segment.

        @param number: which one, from 0.
        @param last: whether the text has to end with it.
        @return: its text.
        @raise ObjectDamaged: if this is not that segment of that text, unchanged.
        """
        size = len(sealed)
        least = TAG_BYTES + min(number, 1) if last else self._segment_bytes
        if not 0 <= number < MAX_SEGMENTS or not least <= size <= self._segment_bytes:
            raise ObjectDamaged(f"segment {number} of the object cannot have {size} bytes")
        nonce = segment_nonce(self._prefix, number, last)
        try:
            return self._cipher.open(nonce, sealed, self._associated)
        except ValueError:
            raise ObjectDamaged(
                f"segment {number} of the object was changed, or is not the one that belongs there"
            ) from None
