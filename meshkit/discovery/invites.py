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

    or, of a node that is reached through relays,

           [3, key, ways, capability, guest: bin 32|nil, code, expires]
           [4, key, ways, secret, weak]

    way    str | [str, relay: bin 32, member: bool]

C{key} is whose the addresses are, C{HOST:PORT} each, best first; C{expires} is in seconds since
1970, and for people: what counts is the clock of the node that has made the invite.  A way that
names a relay leads through it: the address is the relay's.  C{guest} is the capability by which a
relay that is a member of the network takes a newcomer's question, and stands there if one is named.
All characters of a text are among those of which a QR code holds most, if they are in upper case.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Final, TypeAlias

import msgspec
from attrs import field, frozen
from msgspec import Meta

from meshkit.crypto.pasteable import read_any, write_any
from meshkit.errors import InvalidAddress, InvalidInvite, InvalidPublicKey
from meshkit.identity.addresses import HostPort, MeshAddress, Via
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import NetworkKey, NetworkSecret

PREFIX: Final = "mkinvite1-"

#: What a counted invite is redeemed by: the label of the protocol, and its version.
LABEL: Final = "invite"
VERSION: Final = 1

CODE_BYTES: Final = 16
#: Ways to the node, and how many of them may lead through relays: each makes the text longer by
#: some 90 characters.
MAX_ADDRESSES: Final = 8
MAX_RELAYS: Final = 2
#: Characters of a text; the longest that is written has less.
MAX_TEXT: Final = 4_096

_DIGEST_DOMAIN: Final = b"meshkit/invite-code/1"

_Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Addresses = Annotated[list[str], Meta(min_length=1, max_length=MAX_ADDRESSES)]
_Seconds = Annotated[int, Meta(ge=0, le=2**53)]


class _Led(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    place: str
    relay: _Bytes32
    member: bool


_Ways = Annotated[list[str | _Led], Meta(min_length=1, max_length=MAX_ADDRESSES)]


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


class _CountedLed(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=3):
    key: _Bytes32
    ways: _Ways
    capability: _Bytes32
    guest: _Bytes32 | None
    code: _Bytes16
    expires: _Seconds | None


class _OpenLed(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=4):
    key: _Bytes32
    ways: _Ways
    secret: _Bytes32
    weak: bool


_Told: TypeAlias = _Counted | _Open | _CountedLed | _OpenLed

_decoder: Final = msgspec.msgpack.Decoder(_Told)
_encoder: Final = msgspec.msgpack.Encoder()


def code_digest(code: bytes) -> bytes:
    """
    What is kept of a code, 32 bytes: whoever reads the database learns no code from it.  As
    with tokens, nobody finds one of 2**128 values, however fast each can be tried.
    """
    return sha256(_DIGEST_DOMAIN + code).digest()


@frozen
class RelayPlace:
    """
    A relay that leads to the node.

    @ivar place: where the relay is.
    @ivar via: which one it is.
    """

    place: HostPort
    via: Via


#: Where a node is reached.
Place: TypeAlias = HostPort | RelayPlace


def _relays(places: Sequence[Place]) -> list[RelayPlace]:
    return [each for each in places if isinstance(each, RelayPlace)]


def _check_addresses(_instance: object, _attribute: object, places: tuple[Place, ...]) -> None:
    if not 1 <= len(places) <= MAX_ADDRESSES:
        raise InvalidInvite(f"an invite has 1 to {MAX_ADDRESSES} addresses, not {len(places)}")
    if len(set(places)) < len(places):
        raise InvalidInvite("an address stands twice in the invite")
    if len(_relays(places)) > MAX_RELAYS:
        raise InvalidInvite(f"an invite names {MAX_RELAYS} relays at most")
    for each in places:
        place = each.place if isinstance(each, RelayPlace) else each
        if "%" in place.host:
            raise InvalidInvite(
                f"the address {place.text} names an interface, which no other host has"
            )


@frozen(repr=False)
class CountedInvite:
    """
    One that the node at C{places} redeems.  It is a secret.

    @ivar key: whose invite it is.
    @ivar places: where that node is reached, best first.
    @ivar capability: by which it is dialled for the label L{LABEL}, 32 bytes.
    @ivar code: what it is told, 16 bytes.
    @ivar expires: seconds since 1970; L{None} for no end.
    @ivar guest: by which a relay that is a member is dialled for the label
        L{meshkit.identity.network.GUEST_LABEL}, 32 bytes; L{None} if, and only if, no such relay is
        among C{places}.
    """

    key: PublicKey
    places: tuple[Place, ...] = field(validator=_check_addresses)
    capability: bytes
    code: bytes
    expires: int | None
    guest: bytes | None = None

    def __attrs_post_init__(self) -> None:
        needed = any(each.via.role == "member" for each in _relays(self.places))
        if needed is not (self.guest is not None):
            raise InvalidInvite(
                "an invite has what leads newcomers through relays of its network if it names such "
                "a relay, and only then"
            )

    @property
    def text(self) -> str:
        """What can be pasted."""
        key, capability, code, expires = self.key.raw, self.capability, self.code, self.expires
        if not _relays(self.places):
            return _write(_Counted(key, _texts(self.places), capability, code, expires))
        return _write(_CountedLed(key, _ways(self.places), capability, self.guest, code, expires))

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
    @ivar places: where that node is reached, best first.
    @ivar secret: of the network.
    """

    key: PublicKey
    places: tuple[Place, ...] = field(validator=_check_addresses)
    secret: NetworkSecret

    @property
    def text(self) -> str:
        """What can be pasted."""
        key, secret, weak = self.key.raw, self.secret.raw, self.secret.weak
        if not _relays(self.places):
            return _write(_Open(key, _texts(self.places), secret, weak))
        return _write(_OpenLed(key, _ways(self.places), secret, weak))

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
        if isinstance(told, _Counted | _Open):
            places: tuple[Place, ...] = tuple(map(_read_place, told.addresses))
        else:
            places = tuple(_read_way(way, key) for way in told.ways)
            if not _relays(places):
                raise InvalidInvite("the invite is not in its shortest form")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InvalidInvite(
            "the invite is of a form that is not known here: is this meshkit older than the one "
            "that has made it?"
        ) from None
    except (InvalidAddress, InvalidPublicKey) as e:
        raise InvalidInvite(f"the invite cannot be used: {e}") from None
    if isinstance(told, _Counted):
        return CountedInvite(key, places, told.capability, told.code, told.expires)
    if isinstance(told, _CountedLed):
        code, expires = told.code, told.expires
        return CountedInvite(key, places, told.capability, code, expires, told.guest)
    return OpenInvite(key, places, NetworkSecret(told.secret, weak=told.weak))


def _read_place(text: str) -> HostPort:
    place = HostPort.parse(text)
    if place.text != text:
        raise InvalidInvite(f"the address {text[:100]!r} in the invite is written {place.text!r}")
    return place


def _read_way(way: str | _Led, key: PublicKey) -> Place:
    if isinstance(way, str):
        return _read_place(way)
    relay = PublicKey(way.relay)
    _ = relay.x25519
    if relay == key:
        raise InvalidInvite("the invite leads through a relay to the relay itself")
    return RelayPlace(_read_place(way.place), Via(relay, "member" if way.member else "blind"))


def _write(told: _Told) -> str:
    return write_any(PREFIX, _encoder.encode(told))


def _texts(places: Sequence[Place]) -> list[str]:
    return [place.text for place in places if isinstance(place, HostPort)]


def _ways(places: Sequence[Place]) -> list[str | _Led]:
    return [
        _Led(each.place.text, each.via.key.raw, each.via.role == "member")
        if isinstance(each, RelayPlace)
        else each.text
        for each in places
    ]


def address_of(place: Place, key: PublicKey) -> MeshAddress:
    """@return: what leads to the node with this key."""
    if isinstance(place, RelayPlace):
        return MeshAddress(place.place.host, place.place.port, key, place.via)
    return MeshAddress(place.host, place.port, key)


def _addresses(places: tuple[Place, ...], key: PublicKey) -> tuple[MeshAddress, ...]:
    return tuple(address_of(place, key) for place in places)
