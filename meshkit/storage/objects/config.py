"""The section C{[storage]}.  Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import ConfigError, InvalidAddress, InvalidPublicKey, SchemeInvalid
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.storage.scheme import Scheme
from meshkit.storage.statements import check_domain


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[storage]}: how objects are put, and where."""

    scheme: Annotated[
        str,
        Meta(description="how many shares suffice and how many more an object has, such as 6+3"),
    ] = "6+3"
    peers: Annotated[
        tuple[str, ...],
        Meta(
            description="address of a storage peer, net:HOST:PORT~shs:KEY, or the one that leads "
            "to it through a relay",
            extra={"flag": "peer"},
        ),
    ] = ()
    discover: Annotated[
        bool, Meta(description="give shares to peers that are found in the hash table, too")
    ] = True
    domains: Annotated[
        tuple[str, ...],
        Meta(
            description="failure domain of a peer, PEER=DOMAIN: what it may be lost together with, "
            "whatever it says itself",
            extra={"flag": "domain"},
        ),
    ] = ()
    quorum: Annotated[
        int,
        Meta(
            ge=0,
            le=255,
            description="shares that have to be kept for a put to succeed; 0 is those that suffice "
            "and half of the others",
        ),
    ] = 0
    repeat: Annotated[
        bool, Meta(description="give a peer more than one share where there are too few peers")
    ] = False
    publish: Annotated[
        bool,
        Meta(
            description="publish what objects are and where, so that whoever is given a read "
            "capability finds them"
        ),
    ] = True
    codec: Annotated[
        Literal["auto", "isal", "zfec", "python"],
        Meta(description="what computes the shares; all make the same ones"),
    ] = "auto"
    transfers: Annotated[
        int, Meta(ge=1, le=64, description="puts and gets that run at the same time")
    ] = 2
    reserve_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=600,
            description="seconds in which a peer has to say who it is, and whether it takes a "
            "share",
        ),
    ] = 10.0
    request_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="seconds in which it has to do anything else")
    ] = 60.0

    def parsed_scheme(self) -> Scheme:
        """
        @return: C{scheme}.
        @raise ConfigError: if it is none.
        """
        try:
            return Scheme.parse(self.scheme)
        except SchemeInvalid as e:
            raise ConfigError(f"storage.scheme: {e}") from None

    def addresses(self) -> tuple[MeshAddress, ...]:
        """
        @return: C{peers}.
        @raise ConfigError: if one is no address with a key.
        """
        try:
            found = tuple(MeshAddress.parse(text) for text in self.peers)
        except InvalidAddress as e:
            raise ConfigError(f"storage.peers: {e}") from None
        if len(set(found)) < len(found):
            raise ConfigError("storage.peers: one of them stands there twice")
        return found

    def decided(self) -> dict[PublicKey, str]:
        """
        @return: C{domains}, by peer.
        @raise ConfigError: if one of them cannot be read, or a peer has two.
        """
        found: dict[PublicKey, str] = {}
        for text in self.domains:
            # A key may hold the sign, too.
            peer, _, domain = text.rpartition("=")
            try:
                key = PublicKey.parse(peer.strip())
                domain = check_domain(domain.strip())
            except (InvalidPublicKey, ValueError) as e:
                raise ConfigError(
                    f"storage.domains: {text!r} is not of the form @...ed25519=rack-1: {e}"
                ) from None
            if found.setdefault(key, domain) != domain:
                raise ConfigError(f"storage.domains: {key.text} has two")
        return found
