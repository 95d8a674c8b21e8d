"""
Find a direct path to a peer that was reached through a relay, after libp2p's DCUtR.

Over the label C{direct}, which itself goes through the relay, the two tell each other where they
are::

    direct.places  [places: [HOST:PORT]]  ->  [places: [HOST:PORT]]

and then each dials the other there.  Who succeeds knows that the other can be reached, as it has
proved its key, and what goes through the relay can go there from now on.  Not every two peers find
such a path: then the relay stays the way.

A peer could name the address of somebody else, or of something in our own network.  So places are
dialled only as near as the relay was reached itself, never below port 1024 but those of the web,
at most L{MAX_PLACES} of them, and of one peer once in L{PAUSE} seconds.  Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec
from attrs import frozen
from msgspec import Meta

from meshkit.errors import InvalidAddress
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import MAX_ADDRESSES
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.rpc.methods import Method

#: The label, in the network of the two.
LABEL: Final = "direct"
#: Places that one tells the other.
MAX_PLACES: Final = MAX_ADDRESSES
#: Seconds before a path is looked for: first comes what the circuit is for.
DELAY: Final = 0.5
#: Seconds after which one is looked for again, and for which one that was found counts.
PAUSE: Final = 300.0
FOUND_SECONDS: Final = 3_600.0
#: Seconds for one dial, and for all that is said through the relay.
DIAL_SECONDS: Final = 5.0
ASK_SECONDS: Final = 10.0
#: Peers of which it is remembered when a path was looked for, and which was found.
MAX_PEERS: Final = 1_000
#: Ports below 1024 that are dialled.
_LOW_PORTS: Final = frozenset({80, 443})

_Place = Annotated[str, Meta(min_length=3, max_length=64)]


class Places(msgspec.Struct, array_like=True, frozen=True):
    """
    Where one of the two is.

    @ivar places: the nearest first.
    """

    places: Annotated[list[_Place], Meta(max_length=MAX_PLACES)]


PLACES: Final = Method(
    "direct.places",
    Places,
    Places,
    max_request=1_024,
    max_answer=1_024,
    doc="Say where you are, and be told where I am, so that one of us can dial the other.",
)


def may_dial(texts: Iterable[str], namer: Scope) -> list[HostPort]:
    """
    @param texts: what the other has said.
    @param namer: how near the relay was reached through which it was said.
    @return: those that are dialled, in their order.
    """
    found: dict[HostPort, None] = {}
    for text in texts:
        try:
            place = HostPort.parse(text)
        except InvalidAddress:
            continue
        address = parse_ip(place.host)
        scope = None if address is None else scope_of(address)
        near_enough = scope is not None and scope >= namer
        if near_enough and (place.port >= 1_024 or place.port in _LOW_PORTS):
            found[place] = None
    return list(found)[:MAX_PLACES]


def scope_at(host: str) -> Scope:
    """@return: how near somebody is who was reached there; far away, if that cannot be told."""
    address = parse_ip(host)
    scope = None if address is None else scope_of(address)
    return Scope.WORLD if scope is None else scope


def told(places: Sequence[HostPort]) -> Places:
    """@return: what we say of ourselves."""
    return Places([place.text for place in places if len(place.text) <= 64][:MAX_PLACES])


@frozen
class _Path:
    place: HostPort
    until: float


class Paths:
    """The direct paths that were found, and when they were looked for."""

    def __init__(self) -> None:
        self._asked: OrderedDict[PublicKey, float] = OrderedDict()
        self._found: OrderedDict[PublicKey, _Path] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def begin(self, key: PublicKey, now: float) -> bool:
        """
        @return: is a path to be looked for now?  Then it counts as looked for.
        """
        before = self._asked.get(key)
        if before is not None and now - before < PAUSE:
            return False
        self._asked[key] = now
        self._asked.move_to_end(key)
        if len(self._asked) > MAX_PEERS:
            self._asked.popitem(last=False)
        return True

    def found(self, key: PublicKey, place: HostPort, now: float) -> None:
        """A peer has answered at a place, and proved its key."""
        self._found[key] = _Path(place, now + FOUND_SECONDS)
        self._found.move_to_end(key)
        if len(self._found) > MAX_PEERS:
            self._found.popitem(last=False)

    def lost(self, key: PublicKey) -> None:
        """It does not answer there any more."""
        self._found.pop(key, None)

    def place(self, key: PublicKey, now: float) -> HostPort | None:
        """@return: where a peer is dialled directly."""
        path = self._found.get(key)
        return None if path is None or path.until <= now else path.place

    def places(self, now: float) -> dict[PublicKey, HostPort]:
        """@return: all of them."""
        return {key: path.place for key, path in self._found.items() if path.until > now}
