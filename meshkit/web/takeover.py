"""
Giving a connection at the door to another protocol: HTTP's C{Upgrade}.

Source: RFC 9110, 7.8 and 15.2.2.  A client asks for it with a C{GET} that names the
protocol, and whoever guards the door has judged that request like every other::

    GET /mcp HTTP/1.1
    Host: 127.0.0.1:7654
    Authorization: Bearer ...
    Connection: Upgrade
    Upgrade: mcp-lines

    HTTP/1.1 101 Switching Protocols
    Upgrade: mcp-lines
    Connection: upgrade

From the empty line on, both ways belong to the protocol.  The site goes on counting the
connection, and ends it when it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IProtocol
from twisted.web.server import NOT_DONE_YET

from meshkit.errors import UpgradeRequired
from meshkit.web.answers import prepare_error, tokens
from meshkit.web.limits import LimitedRequest


def asks_for(request: Any, name: str) -> bool:
    """
    Does a request ask for a protocol, in a way that can be granted?

    @param name: as the client writes it; capitals and small letters are the same.
    """
    headers = request.requestHeaders
    return (
        request.method == b"GET"
        and request.clientproto == b"HTTP/1.1"
        and "upgrade" in tokens(headers, b"Connection")
        and name.lower() in tokens(headers, b"Upgrade")
    )


def take_over(
    request: LimitedRequest,
    name: str,
    make: Callable[[], IProtocol],
    *,
    closing: Callable[[], None] | None = None,
) -> bytes | int:
    """
    Answer a request with C{101} and give its connection to another protocol; or, if it
    asks for no such thing, with L{UpgradeRequired}.

    May be called in C{render} or later.  C{dataReceived} is at once called with what the
    client has sent in advance, at most some 80 KiB.  From then on the transport is the
    protocol's alone: no deadline runs any more, and a client that never reads is for the
    protocol to notice (C{transport.registerProducer}).  That the client closes its half is
    the end of the connection.

    @param request: one of a L{meshkit.web.limits.LimitedSite}.
    @param name: the protocol as C{Upgrade} names it.
    @param make: makes the protocol; called when the request was found good.
    @param closing: called when the site closes, to say goodbye; whoever then keeps the
        connection open loses it at the end of the grace.  Without it the connection is
        closed at once, after what was written has been sent.
    @return: what C{render} returns.
    """
    if not asks_for(request, name):
        error = UpgradeRequired(
            f"here the connection is given to the protocol {name}: send a GET with 'Connection: "
            f"Upgrade' and 'Upgrade: {name}'"
        )
        error.details = {"upgrade": [name]}
        return prepare_error(request, error)
    request.hand_over(make(), name, closing)
    return NOT_DONE_YET
