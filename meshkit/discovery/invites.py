"""
An invite: one text that leads a newcomer into a network.  Pure.

There are two kinds, which a person sees no difference in (protocol/invites.md):

  - A I{counted} invite holds no secret of the network.  It leads to the node that has made it,
    by the capability of the label C{invite} alone, and holds a code of 128 random bits; for
    the code that node gives out the network's secret, as often as was agreed and until it
    expires.  So an invite that was used or is late is worth nothing, whoever has it.
  - An I{open} invite holds the network's secret itself.  Nobody has to be asked, so nobody can
    count it, end it, or take it back.

The text is C{mkinvite1-} and base32 of::

    data | first 4 bytes of SHA-256("meshkit/text/1" | "mkinvite1-" | data)

    data   MessagePack in its shortest form, one of
           [1, key: bin 32, addresses: [str], capability: bin 32, code: bin 16, expires: uint|nil]
           [2, key: bin 32, addresses: [str], secret: bin 32, weak: bool]

C{key} is whose the addresses are, C{HOST:PORT} each, best first; C{expires} is in seconds since
1970, and for people: what counts is the clock of the node that has made the invite.  All its
characters are among those of which a QR code holds most, if they are in upper case.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Final, TypeAlias

import msgspec
from attrs import field, frozen
from msgspec import Meta

from meshkit.crypto.pasteable import read_any, write_any
from meshkit.errors import InvalidAddress, InvalidInvite, InvalidPublicKey
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import NetworkKey, NetworkSecret

PREFIX: Final = "mkinvite1-"

#: What a counted invite is redeemed by: the label of the protocol, and its version.
LABEL: Final = "invite"
VERSION: Final = 1

CODE_BYTES: Final = 16
MAX_ADDRESSES: Final = 8
#: Characters of a text; the longest that is written has less.
MAX_TEXT: Final = 4_096

_DIGEST_DOMAIN: Final = b"meshkit/invite-code/1"

_Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Addresses = Annotated[list[str], Meta(min_length=1, max_length=MAX_ADDRESSES)]
_Seconds = Annotated[int, Meta(ge=0, le=2**53)]


class _Counted(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1):
    key: _Bytes32
    addresses: _Addresses
    capability: _Bytes32
    code: _Bytes16
    expires: _Seconds | None


class _Open(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=2):
    key: _Bytes32
    addresses: _Addresses
    secret: _Bytes32
    weak: bool


_decoder: Final = msgspec.msgpack.Decoder(_Counted | _Open)
_encoder: Final = msgspec.msgpack.Encoder()


def code_digest(code: bytes) -> bytes:
    """
    What is kept of a code, 32 bytes: whoever reads the database learns no code from it.  As
    with tokens, nobody finds one of 2**128 values, however fast each can be tried.
    """
    return sha256(_DIGEST_DOMAIN + code).digest()


def _check_addresses(_instance: object, _attribute: object, places: tuple[HostPort, ...]) -> None:
    if not 1 <= len(places) <= MAX_ADDRESSES:
        raise InvalidInvite(f"an invite has 1 to {MAX_ADDRESSES} addresses, not {len(places)}")
    if len(set(places)) < len(places):
        raise InvalidInvite("an address stands twice in the invite")
    for place in places:
        if "%" in place.host:
            raise InvalidInvite(
                f"the address {place.text} names an interface, which no other host has"
            )


@frozen(repr=False)
class CountedInvite:
    """
    One that the node at C{places} redeems.  It is a secret.

    @ivar key: whose invite it is.
    @ivar places: where that node is dialled, best first.
    @ivar capability: by which it is dialled for the label L{LABEL}, 32 bytes.
    @ivar code: what it is told, 16 bytes.
    @ivar expires: seconds since 1970; L{None} for no end.
    """

    key: PublicKey
    places: tuple[HostPort, ...] = field(validator=_check_addresses)
    capability: bytes
    code: bytes
    expires: int | None

    @property
    def text(self) -> str:
        """What can be pasted."""
        return _write(
            _Counted(
                self.key.raw,
                [place.text for place in self.places],
                self.capability,
                self.code,
                self.expires,
            )
        )

    @property
    def addresses(self) -> tuple[MeshAddress, ...]:
        """Whom to dial, best first."""
        return _addresses(self.places, self.key)

    def is_for(self, network: NetworkKey) -> bool:
        """Does it lead into this network?"""
        return self.capability == network.capability(LABEL, VERSION)

    def __repr__(self) -> str:
        return f"<CountedInvite of {self.key.short}>"


@frozen(repr=False)
class OpenInvite:
    """
    One with the secret of the network in it.

    @ivar key: who can be met first.
    @ivar places: where that node is dialled, best first.
    @ivar secret: of the network.
    """

    key: PublicKey
    places: tuple[HostPort, ...] = field(validator=_check_addresses)
    secret: NetworkSecret

    @property
    def text(self) -> str:
        """What can be pasted."""
        places = [place.text for place in self.places]
        return _write(_Open(self.key.raw, places, self.secret.raw, self.secret.weak))

    @property
    def addresses(self) -> tuple[MeshAddress, ...]:
        """Whom to dial, best first."""
        return _addresses(self.places, self.key)

    def is_for(self, network: NetworkKey) -> bool:
        """Does it lead into this network?"""
        return self.secret.key().net_id == network.net_id

    def __repr__(self) -> str:
        return f"<OpenInvite of {self.key.short}>"


Invite: TypeAlias = CountedInvite | OpenInvite


def parse_invite(text: str) -> Invite:
    """
    Read an invite; case and white space do not matter, as mail breaks long lines.

    @raise InvalidInvite: if it is none, or was misspelt or cut off; it is not shown.
    """
    if len(text) > MAX_TEXT:
        raise InvalidInvite(f"an invite has no more than {MAX_TEXT} characters: copy it alone")
    try:
        data = read_any(PREFIX, "".join(text.split()))
    except ValueError as e:
        raise InvalidInvite(f"this is no invite that can be used: {e}") from None
    try:
        told = _decoder.decode(data)
        if _encoder.encode(told) != data:
            raise InvalidInvite("the invite is not in its shortest form")
        key = PublicKey(told.key)
        # Not every 32 bytes are a key that could be dialled.
        _ = key.x25519
        places = tuple(map(_read_place, told.addresses))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InvalidInvite(
            "the invite is of a form that is not known here: is this meshkit older than the one "
            "that has made it?"
        ) from None
    except (InvalidAddress, InvalidPublicKey) as e:
        raise InvalidInvite(f"the invite cannot be used: {e}") from None
    if isinstance(told, _Counted):
        return CountedInvite(key, places, told.capability, told.code, told.expires)
    return OpenInvite(key, places, NetworkSecret(told.secret, weak=told.weak))


def _read_place(text: str) -> HostPort:
    place = HostPort.parse(text)
    if place.text != text:
        raise InvalidInvite(f"the address {text[:100]!r} in the invite is written {place.text!r}")
    return place


def _write(told: _Counted | _Open) -> str:
    return write_any(PREFIX, _encoder.encode(told))


def _addresses(places: tuple[HostPort, ...], key: PublicKey) -> tuple[MeshAddress, ...]:
    return tuple(MeshAddress(place.host, place.port, key) for place in places)
