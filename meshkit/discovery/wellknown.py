"""
What a domain says of its node: the document C{/.well-known/meshkit.json} (RFC 8615).  Pure.

::

    {
      "meshkit": 1,
      "identity": "@<base64>.ed25519",
      "network": "<32 hex digits: the network's public name>",
      "addresses": ["net:HOST:PORT~shs:KEY", ...]
    }

It is believed because it came by HTTPS from that domain, and as far as a hint where to dial is
believed: whoever answers there has to prove the key.  An address that leads to a host which nobody
else could reach is left out, be it by a name, so that no document leads into the reader's own
network; and so are ports of other services (C{docs/protocol/well-known.md}).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Final

import msgspec
from attrs import frozen

from meshkit.errors import IdentityError, InvalidAddress, WellKnownInvalid
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.kademlia.contacts import LOW_PORTS

PATH: Final = "/.well-known/meshkit.json"
#: The first version of the document.  Later ones may say more, under further names.
VERSION: Final = 1
#: Bytes of a document, and addresses in it.
MAX_DOCUMENT: Final = 16 * 1024
MAX_ADDRESSES: Final = 8
#: Characters of a domain name.
MAX_DOMAIN: Final = 253

_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_HTTPS: Final = 443


@frozen
class Document:
    """
    @ivar identity: the node's key.
    @ivar network: public name of its network, 32 hex digits.
    @ivar addresses: where it can be dialled, at least one.
    """

    identity: PublicKey
    network: str
    addresses: tuple[MeshAddress, ...]


class _Wire(msgspec.Struct, frozen=True):
    """What stands there beside these is for later versions."""

    meshkit: Annotated[int, msgspec.Meta(ge=VERSION)]
    identity: Annotated[str, msgspec.Meta(max_length=128)]
    network: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    addresses: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=512)]],
        msgspec.Meta(min_length=1, max_length=MAX_ADDRESSES),
    ]


_decoder: Final = msgspec.json.Decoder(_Wire)


def write(document: Document) -> bytes:
    """@return: the document as JSON, for people as well."""
    wire = _Wire(
        VERSION,
        document.identity.text,
        document.network,
        [address.text for address in document.addresses[:MAX_ADDRESSES]],
    )
    return msgspec.json.format(msgspec.json.encode(wire), indent=2) + b"\n"


def read(data: bytes) -> Document:
    """
    @raise WellKnownInvalid: saying what is wrong with it.
    """
    if len(data) > MAX_DOCUMENT:
        raise WellKnownInvalid(f"the document is larger than {MAX_DOCUMENT} bytes")
    try:
        wire = _decoder.decode(data)
        identity = PublicKey.parse(wire.identity)
        addresses = tuple(MeshAddress.parse(text) for text in wire.addresses)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise WellKnownInvalid(f"it is no document of a node: {e}") from None
    except IdentityError as e:
        raise WellKnownInvalid(f"the document says what cannot be used: {e}") from None
    for address in addresses:
        if address.key != identity:
            raise WellKnownInvalid(
                f"the document is that of {identity.text}, and has an address of another node: "
                f"{address.text}"
            )
    return Document(identity, wire.network, addresses)


def public_places(places: Iterable[HostPort], named: Iterable[HostPort]) -> list[HostPort]:
    """
    @param places: where a node can be reached.
    @param named: those of them that its operator has named.
    @return: those for a document: what the operator has named, and what is public.
    """
    chosen = set(named)
    return [place for place in places if place in chosen or _is_public(place.host)][:MAX_ADDRESSES]


def _is_public(host: str) -> bool:
    address = parse_ip(host)
    return address is not None and scope_of(address) is Scope.WORLD


def names_of(document: Document) -> list[str]:
    """@return: the hosts in it that have to be looked up before L{reachable} can judge them."""
    names = (each.host for each in document.addresses if _may_be_port(each.port))
    return list(dict.fromkeys(name for name in names if _is_name_for_all(name)))


def reachable(
    document: Document,
    may_dial: Callable[[str], bool],
    found: Mapping[str, Sequence[str]],
) -> tuple[list[MeshAddress], list[MeshAddress]]:
    """
    @param may_dial: judges an IP address.
    @param found: the IP addresses of the names in it, as they are seen here now; L{names_of}.
    @return: the addresses that may be used, and those that are left out.  A name is looked up again
        whenever it is dialled, and its owner may have it lead elsewhere by then.
    """
    used: list[MeshAddress] = []
    left: list[MeshAddress] = []
    for address in document.addresses:
        hosts = found.get(address.host, ()) if _is_name_for_all(address.host) else (address.host,)
        fits = bool(hosts) and _may_be_port(address.port) and all(map(may_dial, hosts))
        (used if fits else left).append(address)
    return used, left


def _may_be_port(port: int) -> bool:
    return port >= 1024 or port in LOW_PORTS


def _is_name_for_all(host: str) -> bool:
    """Is it a name that means the same to everybody?"""
    dotted = host.rstrip(".")
    return (
        _NAME.fullmatch(host) is not None
        and "." in dotted
        and not dotted.endswith(".localhost")
        and not _is_number(host)
    )


def _is_number(host: str) -> bool:
    """Would a resolver take it for an IPv4 address, however it is written?"""
    last = host.rstrip(".").rpartition(".")[2].lower()
    return last.isdigit() or last.startswith("0x")


def parse_domain(text: str) -> HostPort:
    """
    Read what somebody has typed: C{example.org}, or C{example.org:8443}.

    @return: the web server to ask.
    @raise InvalidAddress: if it is no name of a host; an IP address is one.
    """
    host, port = _split(text)
    try:
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
        place = HostPort.parse(f"{host.rstrip('.')}:{port}")
    except (InvalidAddress, UnicodeError):
        place = None
    if place is None or not (parse_ip(place.host) or _is_name(place.host)):
        shown = text if len(text) <= MAX_DOMAIN else f"{text[:60]}..."
        raise InvalidAddress(
            f"{shown!r} is no domain: write its name alone, such as example.org, or with the port "
            "of its web server, example.org:8443"
        )
    return place


def _split(text: str) -> tuple[str, str]:
    """@return: host and port; an IPv6 address has brackets in any case."""
    host, found, port = text.rpartition(":")
    if found and port.isdigit() and (":" not in host or host.endswith("]")):
        return host, port
    return text, str(_HTTPS)


def _is_name(host: str) -> bool:
    return _NAME.fullmatch(host) is not None and len(host) <= MAX_DOMAIN and not _is_number(host)


def url_of(place: HostPort) -> str:
    """@return: where the document of a domain is."""
    host = f"[{place.host}]" if ":" in place.host else place.host
    port = "" if place.port == _HTTPS else f":{place.port}"
    return f"https://{host}{port}{PATH}"
