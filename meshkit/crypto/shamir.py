"""
A key in parts: of I{n} parts any I{k} give it, and fewer say nothing about it.  Pure.

Shamir's secret sharing (CACM 1979), byte by byte over GF(256) with the polynomial 0x11b, as
other programs do it.  Byte I{j} of the key and I{k}-1 random bytes are the coefficients of a
polynomial, whose value at x = 1 to I{n} is byte I{j} of C{y}::

    part       = set id (8) | k (1) | x (1) | commitment (32) | y (32)
    commitment = SHA-256("meshkit/key-parts/1" | set id | k | key)

The commitment tells whether what comes out is the key.  With more parts than are needed it
also tells which of them are wrong, by trying: a part may be given by somebody who wants the
key to be lost.  It hides only keys that cannot be guessed; do not split a passphrase.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import combinations, islice
from random import Random
from typing import Final

from attrs import field, frozen

from meshkit.crypto.pasteable import TextForm
from meshkit.errors import KeyPartsInvalid

KEY_BYTES: Final = 32
SET_BYTES: Final = 8
COMMITMENT_BYTES: Final = 32
#: Values of x that are not 0.
MAX_PARTS: Final = 255
#: So many sets of parts are tried when some are wrong.
MAX_TRIES: Final = 5_000

_FORM: Final = TextForm("mkpart1-", SET_BYTES + 2 + COMMITMENT_BYTES + KEY_BYTES)
_DOMAIN: Final = b"meshkit/key-parts/1"

_POLYNOMIAL: Final = 0x11B


def _powers() -> Iterator[int]:
    """Of 3, which gives all values but 0."""
    value = 1
    for _ in range(255):
        yield value
        value ^= value << 1
        if value > 0xFF:
            value ^= _POLYNOMIAL


# Python does not run in constant time with or without tables: who can measure this process
# that finely is not kept out here.
_EXP: Final = tuple(_powers()) * 2
_LOG: Final = {value: power for power, value in enumerate(_EXP[:255])}


def multiply(a: int, b: int) -> int:
    """In GF(256)."""
    return _EXP[_LOG[a] + _LOG[b]] if a and b else 0


def divide(a: int, b: int) -> int:
    """In GF(256); C{b} is not 0."""
    return _EXP[_LOG[a] - _LOG[b] + 255] if a else 0


def value_at(points: Sequence[tuple[int, bytes]], x: int) -> bytes:
    """
    The values at C{x} of the polynomials through some points (Lagrange).

    @param points: x, each another one, and the values there.
    """
    total = 0
    for i, (xi, yi) in enumerate(points):
        factor = 1
        for j, (xj, _) in enumerate(points):
            if i != j:
                factor = multiply(factor, divide(x ^ xj, xi ^ xj))
        # All bytes times the factor, and added up, which is xor.
        total ^= int.from_bytes(bytes(multiply(factor, each) for each in yi), "big")
    return total.to_bytes(len(points[0][1]), "big")


@frozen(repr=False)
class KeyPart:
    """
    One part of a key.  It is a secret.

    @ivar set_id: 8 bytes, the same in all parts of one splitting.
    @ivar required: how many parts suffice, 2 or more.
    @ivar x: which part it is, 1 to 255.
    @ivar commitment: to the key.
    @ivar y: 32 bytes.
    """

    set_id: bytes
    required: int
    x: int
    commitment: bytes
    y: bytes = field()

    @classmethod
    def parse(cls, text: str) -> KeyPart:
        """
        @raise KeyPartsInvalid: if this is no part of a key, or misspelt.
        """
        try:
            data = _FORM.read(text)
        except ValueError as e:
            raise KeyPartsInvalid(f"a part of the key cannot be used: {e}") from None
        set_id, (required, x), rest = data[:SET_BYTES], data[SET_BYTES:][:2], data[SET_BYTES + 2 :]
        if required < 2 or x < 1:
            raise KeyPartsInvalid("a part of the key has numbers that no part has")
        return cls(set_id, required, x, rest[:COMMITMENT_BYTES], rest[COMMITMENT_BYTES:])

    @property
    def text(self) -> str:
        """C{mkpart1-...}, 133 characters."""
        numbers = bytes([self.required, self.x])
        return _FORM.write(self.set_id + numbers + self.commitment + self.y)

    @property
    def name(self) -> str:
        """Which part it is, for people."""
        return f"part {self.x} of {self.set_id.hex()}"

    def __repr__(self) -> str:
        return f"<KeyPart {self.x} of {self.set_id.hex()}, {self.required} required>"


@frozen(repr=False)
class Combined:
    """
    What parts gave.

    @ivar key: the key.
    @ivar wrong: parts that are none of it: of another set, or not what was handed out.
    """

    key: bytes
    wrong: tuple[KeyPart, ...]


def _commitment(set_id: bytes, required: int, key: bytes) -> bytes:
    return sha256(_DOMAIN + set_id + bytes([required]) + key).digest()


def split_key(key: bytes, required: int, total: int, rng: Random) -> list[KeyPart]:
    """
    Make the parts of a key.

    @param key: 32 random bytes.
    @param required: how many parts suffice, 2 or more.
    @param total: how many there are, at most L{MAX_PARTS}.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    if not 2 <= required <= total <= MAX_PARTS:
        raise KeyPartsInvalid(
            f"a key cannot be split into {total} parts of which {required} suffice: at least 2 "
            f"have to, and there are at most {MAX_PARTS}"
        )
    set_id = rng.randbytes(SET_BYTES)
    commitment = _commitment(set_id, required, key)
    # Any k points are as good as k coefficients: the key at 0, and random values at others.
    points = [(0, key)] + [(x, rng.randbytes(KEY_BYTES)) for x in range(1, required)]
    return [
        KeyPart(
            set_id, required, x, commitment, points[x][1] if x < required else value_at(points, x)
        )
        for x in range(1, total + 1)
    ]


def combine_parts(parts: Sequence[KeyPart]) -> Combined:
    """
    Put a key together.

    @param parts: in any order; one may be there twice.
    @raise KeyPartsInvalid: if there are too few that belong together, or so many are wrong
        that the key cannot be found.
    """
    if not parts:
        raise KeyPartsInvalid("no part of the key was given")
    sets: dict[tuple[bytes, int, bytes], list[KeyPart]] = {}
    for part in dict.fromkeys(parts):
        sets.setdefault((part.set_id, part.required, part.commitment), []).append(part)
    # Most parts are right, or nothing can be done.
    (set_id, required, commitment), there = max(sets.items(), key=lambda item: len(item[1]))
    strangers = [part for part in dict.fromkeys(parts) if part not in there]
    if len({part.x for part in there}) < required:
        raise KeyPartsInvalid(
            f"{required} parts of the key are needed, and only {len({part.x for part in there})} "
            f"belong together" + _others(strangers)
        )
    for chosen in islice(combinations(there, required), MAX_TRIES):
        points = [(part.x, part.y) for part in chosen]
        if len({x for x, _ in points}) < required:
            continue
        key = value_at(points, 0)
        if hmac.compare_digest(_commitment(set_id, required, key), commitment):
            forged = [part for part in there if value_at(points, part.x) != part.y]
            return Combined(key, tuple(strangers + forged))
    raise KeyPartsInvalid(
        f"these parts do not give the key, so one of them is wrong at least: "
        f"{', '.join(part.name for part in there)}; with further parts it can be told which"
        + _others(strangers)
    )


def _others(strangers: Sequence[KeyPart]) -> str:
    if not strangers:
        return ""
    return "; of another key, or changed: " + ", ".join(part.name for part in strangers)
