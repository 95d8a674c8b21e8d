"""What C{status} says of the part C{egregore}."""

from __future__ import annotations

from typing import Any

import msgspec


class EgregoreLink(msgspec.Struct):
    """
    A connection to a node of Egregore.

    @ivar peer: its id.
    @ivar place: where we dialled it; C{None} if it dialled us.
    @ivar phase: where the exchange stands; C{live} when both sides push.
    @ivar received: messages that came from it and were new.
    @ivar sent: messages that it was given.
    """

    peer: str
    place: str | None
    phase: str
    received: int
    sent: int


class EgregorePlace(msgspec.Struct):
    """
    An address that is dialled.

    @ivar place: C{HOST:PORT}.
    @ivar heard: it was called out on the local network, and not named in the settings.
    @ivar peer: who was found there last.
    @ivar live: new messages are pushed both ways now.
    @ivar failures: attempts in a row that came to nothing.
    @ivar last_error: what came of the last one.
    """

    place: str
    heard: bool
    peer: str | None
    live: bool
    failures: int
    last_error: str | None


class EgregoreStatus(msgspec.Struct):
    """
    @ivar notice: what being on this wire means.
    @ivar links: the connections.
    @ivar places: the addresses that are dialled.
    @ivar refused: received messages that were refused here, by code.
    @ivar broken: connections that ended in an error, by code.
    @ivar withheld: how often a message was left out because its reader would refuse it.
    @ivar warned: messages published here since the start that will be left out.
    @ivar unheard: why nobody on the local network hears this node call, if it is to and they
        do not.
    """

    notice: str
    links: list[EgregoreLink]
    places: list[EgregorePlace]
    refused: dict[str, Any]
    broken: dict[str, Any]
    withheld: int
    warned: int
    unheard: str | None = None
