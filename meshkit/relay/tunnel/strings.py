"""
A way through a relay as a C{relay:} endpoint string, for any program that takes one::

    relay:host=HOST:port=7661:relay=KEY:target=KEY:identity=FILE:network=FILE

It leads to whoever has reserved at the relay with the key C{target}, and is meant to stand beneath
C{shs:}, which proves that key end to end::

    shs:endpoint=relay\\:host=HOST\\:port=7661\\:relay=KEY\\:target=KEY\\:identity=FILE\\:...
        :identity=FILE:network=FILE:label=stream:peer=KEY

The keywords:

  - C{relay}: the relay's key, C{@....ed25519} or the bare base64.
  - C{target}: the key of who is behind it.
  - C{host} and C{port}, or C{endpoint}: where the relay is; C{identity} and C{network}: who we
    are to it, and in which network it is a relay; C{timeout}: all as for C{shs:}
    (L{meshkit.shs.strings}).

There are no server strings: who wants to be reached through a relay has a node that reserves there.
What is missing or malformed is a L{ValueError} that names the keyword.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

from meshkit.errors import MeshkitError
from meshkit.identity.keys import PublicKey
from meshkit.relay.tunnel.ends import dial_through
from meshkit.relay.tunnel.wire import CIRCUIT_LABEL
from meshkit.shs import strings as shs

_KEYWORDS = frozenset({"endpoint", "host", "port", "identity", "network", "timeout"})


def client(
    reactor: Any,
    *args: str,
    relay: str | None = None,
    target: str | None = None,
    **keywords: str,
) -> IStreamClientEndpoint:
    """
    What C{clientFromString} calls; see the module for the keywords.

    @raise ValueError: naming the keyword that is missing or cannot be used.
    """
    if args:
        raise ValueError(
            f"relay endpoint: {args[0]!r} stands without a keyword: see the host, port, relay and "
            f"target of the relay"
        )
    unknown = keywords.keys() - _KEYWORDS
    if unknown:
        raise ValueError(f"relay endpoint: there is no keyword {min(unknown)!r}")
    relay_key = _key("relay", "the key of the relay", relay)
    target_key = _key("target", "the key of who is behind the relay", target)
    try:
        leading = shs.client(
            reactor,
            peer=relay_key.text,
            label=CIRCUIT_LABEL,
            **keywords,
        )
    except ValueError as e:
        # What is wrong is said of the same keywords.
        raise ValueError(str(e).replace("shs endpoint:", "relay endpoint:", 1)) from None
    return dial_through(reactor, leading, relay_key, target_key)


def server(_reactor: Any, *_args: str, **_keywords: str) -> IStreamServerEndpoint:
    """@raise ValueError: always; see the module."""
    raise ValueError(
        "relay endpoint: a relay leads to nodes that reserve there: there is nothing to listen on"
    )


def _key(keyword: str, what: str, text: str | None) -> PublicKey:
    if text is None:
        raise ValueError(f"relay endpoint: {keyword} is missing: it is {what}, @....ed25519")
    try:
        return PublicKey.parse(text) if text.startswith("@") else PublicKey.from_base64(text)
    except MeshkitError as e:
        raise ValueError(f"relay endpoint: {keyword} cannot be used: {e}") from None
