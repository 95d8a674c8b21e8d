"""
Where a peer can be reached: C{net:HOST:PORT~shs:BASE64KEY}.

The form is the multiserver address that Scuttlebutt programs use, so that an
address says both where to dial and whom to expect there.  What leads through a relay names
that first, in the same form, and what kind of relay it is::

    net:HOST:PORT~shs:RELAYKEY~member~shs:KEY
    net:HOST:PORT~shs:RELAYKEY~blind~shs:KEY
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal

from attrs import field, frozen
from twisted.internet.interfaces import IAddress
from zope.interface import implementer

from meshkit.errors import InvalidAddress, InvalidPublicKey
from meshkit.identity.keys import PublicKey

_MAX_TEXT: Final = 512
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_SCOPE: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_BARE: Final = re.compile(r"(\[[^\]]+\]|[^:~\s]+):(\d+)")


@frozen(order=True)
class HostPort:
    """
    Where something listens, without saying who.

    @ivar host: a host name, an IPv4 or an IPv6 address (without brackets).
    @ivar port: 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """
        Read C{HOST:PORT}, with C{net:} before it or not.  An IPv6 host stands in
        brackets.

        @raise InvalidAddress: if it is anything else.
        """
        shown = _shorten(text)
        found = _BARE.fullmatch(text.removeprefix("net:"))
        if not found:
            raise InvalidAddress(
                f"{shown!r} is not of the form HOST:PORT, with an IPv6 address in brackets"
            )
        return cls(_check_host(found[1], shown), _check_port(found[2], shown))

    @property
    def text(self) -> str:
        """C{HOST:PORT}, with brackets where they are needed."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.text


#: What a relay is: a member of our network, or one of the public network of relays, which is
#: no member of any mesh.
RelayRole = Literal["member", "blind"]


@frozen
class Via:
    """
    The relay that an address leads through.

    @ivar key: the relay's.
    @ivar role: in which network it is dialled.
    """

    key: PublicKey
    role: RelayRole

    def __str__(self) -> str:
        return f"the relay {self.key.text}"


@frozen(order=True)
class MeshAddress:
    """
    An address that can be dialled.

    @ivar host: a host name, an IPv4 or an IPv6 address (without brackets).
    @ivar port: 1 to 65535.
    @ivar key: who answers there.
    @ivar via: if not L{None}, host and port are those of this relay, which leads to C{key}.
    """

    host: str
    port: int
    key: PublicKey
    via: Via | None = field(default=None, order=False)

    @classmethod
    def parse(cls, text: str) -> MeshAddress:
        """
        Read C{net:HOST:PORT~shs:KEY}, or the form of one that leads through a relay.  An IPv6
        host stands in brackets, or bare as Scuttlebutt writes it: the port follows the last
        colon.

        @raise InvalidAddress: saying what is missing.
        """
        shown = _shorten(text)
        if _BARE.fullmatch(text.removeprefix("net:")):
            raise InvalidAddress(
                f"{shown!r} does not say whose key to expect there: write "
                f"net:{text.removeprefix('net:')}~shs:KEY, as 'meshkit id' prints it on that node"
            )
        where, found, who = text.partition("~shs:")
        if not found or not where.startswith("net:"):
            raise InvalidAddress(
                f"{shown!r} is not of the form net:HOST:PORT~shs:KEY, as 'meshkit id' prints it"
            )
        host, _, port_text = where.removeprefix("net:").rpartition(":")
        relay, behind, target = who.partition("~")
        via = None
        if behind and relay and "~shs:" in target:
            role, _, who = target.partition("~shs:")
            if role not in ("member", "blind"):
                raise InvalidAddress(
                    f"{shown!r} does not say what relay leads there: between the two keys stands "
                    "~member~ or ~blind~, as 'meshkit status' prints it on that node"
                )
            # Written out, as a type checker sees no values of a Literal in a comparison.
            via = Via(_read_key(relay, shown), "member" if role == "member" else "blind")
        key = _read_key(who, shown)
        if via is not None and via.key == key:
            raise InvalidAddress(f"{shown!r} leads through a relay to the relay itself")
        return cls(_check_host(host, shown), _check_port(port_text, shown), key, via)

    @property
    def place(self) -> HostPort:
        """Where to dial."""
        return HostPort(self.host, self.port)

    @property
    def text(self) -> str:
        """The address as it is written in files and commands."""
        relay = "" if self.via is None else f"{self.via.key.base64}~{self.via.role}~shs:"
        return f"net:{self.place.text}~shs:{relay}{self.key.base64}"

    @property
    def relay(self) -> MeshAddress | None:
        """The address of the relay that this one leads through."""
        return None if self.via is None else MeshAddress(self.host, self.port, self.via.key)

    def __str__(self) -> str:
        return self.text


def parse_target(text: str) -> MeshAddress | HostPort:
    """
    Read what a person gave: a whole address, or a bare C{HOST:PORT}.

    @raise InvalidAddress: if it is neither.
    """
    if _BARE.fullmatch(text.removeprefix("net:")):
        return HostPort.parse(text)
    return MeshAddress.parse(text)


def _read_key(text: str, shown: str) -> PublicKey:
    try:
        return PublicKey.from_base64(text)
    except InvalidPublicKey as e:
        raise InvalidAddress(f"the key in the address {shown!r} is not usable: {e}") from None


def _shorten(text: str) -> str:
    """@return: the text as it is shown in errors."""
    if len(text) > _MAX_TEXT:
        raise InvalidAddress(f"the address {text[:100]}... is longer than {_MAX_TEXT} characters")
    return text[:100]


def _check_port(text: str, shown: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise InvalidAddress(f"the port in {shown!r} is not a number from 1 to 65535")
    return int(text)


def _check_host(host: str, shown: str) -> str:
    literal = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    _, scoped, scope = literal.partition("%")
    try:
        # One spelling per address, so that a peer is not listed twice.
        ip = ipaddress.ip_address(literal)
    except ValueError:
        pass
    else:
        if not scoped or _SCOPE.fullmatch(scope):
            return str(ip)
    # A name does not end in a number: that is an IPv4 address with a slip in it.
    last = host.rstrip(".").rpartition(".")[2]
    if not _HOST_NAME.fullmatch(host) or ".." in host or last.isdigit():
        raise InvalidAddress(f"the host in {shown!r} is neither a name nor an IP address")
    return host.lower()


@implementer(IAddress)
@frozen
class PeerAddress:
    """
    The other end of a secure channel, as C{transport.getPeer()} gives it.

    @ivar key: the peer's proven public key.
    @ivar inner: address of the transport beneath, such as an C{IPv4Address}.
    """

    key: PublicKey
    inner: IAddress


@implementer(IAddress)
@frozen
class LocalAddress:
    """
    Our end of a secure channel, as C{transport.getHost()} gives it.

    @ivar key: our own public key.
    @ivar label: the capability label that the hello chose.
    @ivar inner: address of the transport beneath.
    """

    key: PublicKey
    label: str
    inner: IAddress


#: How a peer is reached that was dialled where it is.
DIRECT: Final = "direct"


def transport_of(address: IAddress | None) -> tuple[str, PublicKey | None]:
    """
    Which way leads to a peer?

    @param address: what C{transport.getPeer()} gives.  An address that is not one of the Internet
        says by its attribute C{transport} what it is, and by C{relay} through whom it leads.
    @return: L{DIRECT}, C{relay} or another, and the key of the relay, if there is one.
    """
    inner = address.inner if isinstance(address, PeerAddress) else address
    relay = getattr(inner, "relay", None)
    return getattr(inner, "transport", DIRECT), relay if isinstance(relay, PublicKey) else None
