"""
Descriptions of objects as bytes, of which each has one form only.  Pure.

What is hashed or signed is bytes.  MessagePack writes one value in several ways, and two
descriptions that mean the same and have different hashes would be two objects to one
program and one to another.  So bytes that C{msgspec} would not have written itself are
refused: lengths and numbers are as short as they can be, and nothing is left out or added.

Every description is an array that begins with its kind, C{name/version}.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

from meshkit.errors import ObjectMalformed


class Description(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """
    What all descriptions begin with.

    @ivar kind: C{name/version}.
    """

    kind: str


class _Kind(msgspec.Struct, array_like=True, frozen=True):
    """The beginning of any description, whatever follows."""

    kind: str


_T = TypeVar("_T", bound=Description)

_encoder: Final = msgspec.msgpack.Encoder()
_kinds: Final = msgspec.msgpack.Decoder(_Kind)


class Form(Generic[_T]):
    """The bytes of one kind of description."""

    def __init__(self, kind: str, wire: type[_T], max_bytes: int) -> None:
        """
        @param kind: C{name/version}.
        @param wire: its fields.
        @param max_bytes: longer ones are refused before they are looked at.
        """
        self.kind = kind
        self._name = kind.partition("/")[0]
        self._max_bytes = max_bytes
        self._decoder = msgspec.msgpack.Decoder(wire)

    def encode(self, value: _T) -> bytes:
        """
        @raise ObjectMalformed: if it would be too long.
        """
        raw = _encoder.encode(value)
        self._check_length(raw)
        return raw

    def decode(self, raw: bytes) -> _T:
        """
        @raise ObjectMalformed: if these are not the bytes of such a description.
        """
        self._check_length(raw)
        try:
            kind = _kinds.decode(raw).kind
            if kind != self.kind:
                raise ObjectMalformed(self._other_kind(kind))
            value = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ObjectMalformed(f"these bytes are no {self._name} of an object") from None
        if _encoder.encode(value) != raw:
            raise ObjectMalformed(
                f"the {self._name} of the object is not written in the one form it has"
            )
        return value

    def _check_length(self, raw: bytes) -> None:
        if len(raw) > self._max_bytes:
            raise ObjectMalformed(
                f"a {self._name} of {len(raw)} bytes is over the limit of {self._max_bytes}"
            )

    def _other_kind(self, kind: str) -> str:
        if kind.partition("/")[0] == self._name:
            return f"the {self._name} is of the kind {kind[:32]!r}: upgrade meshkit to read it"
        return f"something of the kind {kind[:32]!r} was given where a {self._name} is expected"
