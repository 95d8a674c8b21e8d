"""
Where a peer can be reached: C{net:HOST:PORT~shs:BASE64KEY}.

The form is the multiserver address that Scuttlebutt programs use, so that an
address says both where to dial and whom to expect there.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from attrs import frozen
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


@frozen(order=True)
class MeshAddress:
    """
    An address that can be dialled.

    @ivar host: a host name, an IPv4 or an IPv6 address (without brackets).
    @ivar port: 1 to 65535.
    @ivar key: who answers there.
    """

    host: str
    port: int
    key: PublicKey

    @classmethod
    def parse(cls, text: str) -> MeshAddress:
        """
        Read C{net:HOST:PORT~shs:KEY}.  An IPv6 host stands in brackets, or bare as
        Scuttlebutt writes it: the port follows the last colon.

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
        try:
            key = PublicKey.from_base64(who)
        except InvalidPublicKey as e:
            raise InvalidAddress(f"the key in the address {shown!r} is not usable: {e}") from None
        return cls(_check_host(host, shown), _check_port(port_text, shown), key)

    @property
    def place(self) -> HostPort:
        """Where to dial."""
        return HostPort(self.host, self.port)

    @property
    def text(self) -> str:
        """The address as it is written in files and commands."""
        return f"net:{self.place.text}~shs:{self.key.base64}"

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
