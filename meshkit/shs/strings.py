"""
The secure channel as C{shs:} endpoint strings, for any program that takes one::

    shs:endpoint=tcp\\:7655:identity=FILE:network=FILE:label=stream
    shs:endpoint=tcp\\:HOST\\:7655:identity=FILE:network=FILE:label=stream:peer=KEY
    shs:host=HOST:port=7655:identity=FILE:network=FILE:peer=KEY

The keywords:

  - C{endpoint}: the endpoint beneath, as a string of its own with each colon and
    backslash in it quoted: C{tcp}, C{unix}, C{tls}, C{systemd}, or any that is
    installed.  A client may give C{host} and C{port} instead.
  - C{identity}: who we are: a C{secret.key}, or a data folder.
  - C{network}: a C{network.secret}, or a data folder; with C{label}, the name of the
    protocol, C{stream} if left out.  A server answers to the previous secret as well,
    while there is one.
  - C{appkey}: instead of those two, 32 bytes in base64, the application key of another
    Scuttlebutt program.
  - C{peer}, for clients: who has to be there, C{@....ed25519} or the bare base64.
  - C{timeout}: seconds for the handshake, 10 if left out.

A server admits every member of the network: what they may do is the application's to
decide, whose C{transport.getPeer().key} names them.  What is missing or malformed is a
L{ValueError} that names the keyword.  The files are read once, when the string is.
"""

from __future__ import annotations

import base64
import binascii
import math
import os.path
from collections.abc import Callable, Sequence
from random import SystemRandom
from typing import Any, Final, TypeVar

from twisted.internet.endpoints import HostnameEndpoint, clientFromString, serverFromString
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

from meshkit.errors import MeshkitError
from meshkit.identity.keyfile import MAX_KEY_FILE, decode_identity
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.network import decode_networks
from meshkit.runtime.endpoints import parse_endpoint
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import MAX_SECRET_BYTES
from meshkit.runtime.keyring import NETWORK_SECRET, SECRET_KEY
from meshkit.shs.channel import HANDSHAKE_TIMEOUT
from meshkit.shs.endpoints import wrap_client, wrap_server
from meshkit.shs.hellos import CAPABILITY_BYTES, Capability

T = TypeVar("T")

#: The label if none is given.
DEFAULT_LABEL: Final = "stream"
#: What a connection that was chosen by a raw application key has as its label.
APPKEY_LABEL: Final = "appkey"
#: The longest timeout, in seconds.
MAX_TIMEOUT: Final = 3600.0


def server(
    reactor: Any,
    *args: str,
    endpoint: str | None = None,
    identity: str | None = None,
    network: str | None = None,
    label: str | None = None,
    appkey: str | None = None,
    timeout: str | None = None,
    **unknown: str,
) -> IStreamServerEndpoint:
    """
    What C{serverFromString} calls; see the module for the keywords.

    @raise ValueError: naming the keyword that is missing or cannot be used.
    """
    _check_names(args, unknown)
    if endpoint is None:
        raise _missing("endpoint", r"the endpoint beneath, such as endpoint=tcp\:7655")
    capabilities = _capabilities(network, label, appkey)
    return wrap_server(
        reactor,
        _inner(serverFromString, reactor, endpoint),
        identity=_identity(identity),
        capability=capabilities[0],
        also=capabilities[1:],
        rng=SystemRandom(),
        timeout=_timeout(timeout),
    )


def client(
    reactor: Any,
    *args: str,
    endpoint: str | None = None,
    host: str | None = None,
    port: str | None = None,
    identity: str | None = None,
    network: str | None = None,
    label: str | None = None,
    appkey: str | None = None,
    peer: str | None = None,
    timeout: str | None = None,
    **unknown: str,
) -> IStreamClientEndpoint:
    """
    What C{clientFromString} calls; see the module for the keywords.

    @raise ValueError: naming the keyword that is missing or cannot be used.
    """
    _check_names(args, unknown)
    if endpoint is None:
        inner: Any = _hostname(reactor, host, port)
    elif host is not None or port is not None:
        raise _refused("endpoint", "stands for where to dial, and so do host and port: give one")
    else:
        inner = _inner(clientFromString, reactor, endpoint)
    return wrap_client(
        reactor,
        inner,
        identity=_identity(identity),
        capability=_capabilities(network, label, appkey)[0],
        peer=_peer(peer),
        rng=SystemRandom(),
        timeout=_timeout(timeout),
    )


def _refused(keyword: str, why: object) -> ValueError:
    return ValueError(f"shs endpoint: {keyword} {why}")


def _missing(keyword: str, what: str) -> ValueError:
    return _refused(keyword, f"is missing: it is {what}")


def _check_names(args: Sequence[str], unknown: dict[str, str]) -> None:
    if args:
        raise ValueError(
            f"shs endpoint: {args[0]!r} stands without a keyword: the endpoint beneath is given "
            f"as endpoint=..., with each colon in it written \\:"
        )
    if unknown:
        raise ValueError(f"shs endpoint: there is no keyword {min(unknown)!r}")


def _inner(parse: Callable[[Any, str], T], reactor: Any, text: str) -> T:
    try:
        return parse_endpoint(parse, reactor, text)
    except ValueError as e:
        raise _refused("endpoint", f"{text!r} is no Twisted endpoint ({e})") from None


def _hostname(reactor: Any, host: str | None, port: str | None) -> HostnameEndpoint:
    if host is None or port is None:
        raise _refused("endpoint", "is missing, or host and port in its place: where to dial")
    if not host:
        raise _refused("host", "is empty")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise _refused("port", f"{port!r} is not a number from 1 to 65535")
    return HostnameEndpoint(reactor, host, int(port))


def _read(keyword: str, path: str, name: str, limit: int) -> tuple[bytes, str]:
    """
    @param name: of the file, if the path is that of a data folder.
    @return: the content, and the path it was found at.
    """
    path = os.path.join(path, name) if os.path.isdir(path) else path
    try:
        return LocalFiles().read_secret(path, limit), path
    except OSError as e:
        raise _refused(keyword, f"cannot be read from {path}: {e.strerror}") from None
    except MeshkitError as e:
        raise _refused(keyword, f"cannot be used: {e}") from None


def _identity(path: str | None) -> Identity:
    if path is None:
        raise _missing("identity", f"the path of a {SECRET_KEY} or of a data folder")
    data, found = _read("identity", path, SECRET_KEY, MAX_KEY_FILE)
    try:
        return decode_identity(data, found)
    except MeshkitError as e:
        raise _refused("identity", f"cannot be used: {e}") from None


def _capabilities(
    network: str | None, label: str | None, appkey: str | None
) -> tuple[Capability, ...]:
    if appkey is not None:
        if network is not None or label is not None:
            raise _refused("appkey", "selects the protocol alone: leave out network and label")
        return (_raw_capability(appkey),)
    if network is None:
        raise _missing("network", f"the path of a {NETWORK_SECRET} or of a data folder")
    data, found = _read("network", network, NETWORK_SECRET, MAX_SECRET_BYTES)
    try:
        secrets = decode_networks(data, found)
    except MeshkitError as e:
        raise _refused("network", f"cannot be used: {e}") from None
    try:
        return tuple(
            Capability.of(secret.key(), DEFAULT_LABEL if label is None else label)
            for secret in secrets
        )
    except ValueError as e:
        raise _refused("label", f"cannot be used: {e}") from None


def _raw_capability(appkey: str) -> Capability:
    try:
        key = base64.b64decode(appkey, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != CAPABILITY_BYTES:
        raise _refused("appkey", f"is not the base64 of {CAPABILITY_BYTES} bytes")
    try:
        return Capability(APPKEY_LABEL, 1, key)
    except ValueError as e:
        raise _refused("appkey", f"cannot be used: {e}") from None


def _peer(text: str | None) -> PublicKey:
    if text is None:
        raise _missing("peer", "the id of who has to be there, @....ed25519")
    try:
        return PublicKey.parse(text) if text.startswith("@") else PublicKey.from_base64(text)
    except MeshkitError as e:
        raise _refused("peer", f"cannot be used: {e}") from None


def _timeout(text: str | None) -> float:
    if text is None:
        return HANDSHAKE_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    # A comparison with NaN is false as well.
    if not 0 < seconds <= MAX_TIMEOUT:
        raise _refused("timeout", f"{text!r} is not a number of seconds up to {MAX_TIMEOUT:g}")
    return seconds
