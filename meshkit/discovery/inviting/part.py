"""
The part C{invites}: makes invites, and gives the network's secret to those who come with one.

Its protocol is open to whoever has an invite, member or not: that is what the capability of its
label is for, which stands in the invite.  As long as there is none, or all are long over,
everybody is refused before a word is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory

from meshkit.discovery.invites import (
    LABEL,
    MAX_ADDRESSES,
    MAX_RELAYS,
    VERSION,
    CountedInvite,
    OpenInvite,
    Place,
    RelayPlace,
    address_of,
)
from meshkit.discovery.inviting import operations as offered
from meshkit.discovery.inviting.issued import MIGRATIONS as MIGRATIONS
from meshkit.discovery.inviting.issued import InviteBook, Issued
from meshkit.discovery.inviting.redeeming import RedeemFactory
from meshkit.errors import InvalidAddress, OwnAddressUnknown
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import GUEST_LABEL
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.interfaces import IDetours, IFeedStore, IRelays
from meshkit.operations import BoundOperation, Nothing
from meshkit.parts import Part, PartContext
from meshkit.runtime.moments import rfc3339

_SECOND_NS = 10**9


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[invites]}: there is nothing to be set."""


class InvitesPart(Part):
    """
    See the module.

    @ivar book: the invites.
    """

    def __init__(self, context: PartContext) -> None:
        self._context = context
        self._store = context.find(IFeedStore)
        self._relays: Any = context.find(IRelays)
        self._detours: Any = context.find(IDetours)
        self.book = InviteBook(context.database, context.wall_clock, context.rng)
        self._factory = RedeemFactory(context.reactor, self.book, context.secret)
        context.metrics.gauge("open", "Invites that can be used.", self._count_open)
        context.metrics.count(
            "welcomed_total", "Newcomers that were let in.", lambda: self._factory.welcomed
        )
        context.metrics.count(
            "refused_total", "Codes that were refused.", lambda: self._factory.refused
        )

    # --- the service ---------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        loading: Deferred[None] = self.book.load()
        return loading

    def stopService(self) -> None:
        super().stopService()
        self._factory.stop()

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {(LABEL, VERSION): self._factory}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self._store is not None and self._store.is_blocked(peer.raw)
        return bool(
            self.running
            and self.book.answering
            and not blocked
            and not self._context.peers.ledger.is_banned(peer)
        )

    def status(self) -> offered.InvitesStatus:
        return offered.InvitesStatus(
            self._count_open(), len(self.book), self._factory.welcomed, self._factory.refused
        )

    def _count_open(self) -> int:
        now_ns = self._context.wall_clock()
        return sum(each.state(now_ns) == "open" for each in self.book.all())

    # --- the doors -----------------------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.LIST, self._list),
            BoundOperation(offered.MAKE, self._make),
            BoundOperation(offered.MAKE_OPEN, self._make_open),
            BoundOperation(offered.REVOKE, self._revoke),
        )

    def _list(self, request: Nothing) -> list[offered.KnownInvite]:
        return [offered.KnownInvite(**self._facts(each)) for each in self.book.all()]

    def _facts(self, issued: Issued) -> dict[str, Any]:
        expires = issued.expires
        return {
            "id": issued.id,
            "state": issued.state(self._context.wall_clock()),
            "created": rfc3339(issued.created_ns),
            "expires": None if expires is None else rfc3339(expires * _SECOND_NS),
            "uses": issued.uses,
            "used": [offered.InviteUse(use.peer.text, rfc3339(use.used_ns)) for use in issued.used],
            "note": issued.note,
        }

    async def _make(self, request: offered.MakeInvite) -> offered.MadeInvite:
        places = self._places(request.addresses, request.otherwise)
        # Judged before anything is kept.
        own, network, guest = self._context.identity.public, self._context.network, None
        if any(isinstance(each, RelayPlace) and each.via.role == "member" for each in places):
            guest = network.capability(GUEST_LABEL)
        capability = network.capability(LABEL, VERSION)
        draft = CountedInvite(own, places, capability, bytes(16), None, guest)
        issued, code = await self.book.issue(request.uses, request.expires_secs, request.note)
        invite = evolve(draft, code=code, expires=issued.expires)
        addresses, relays = self._shown(places)
        return offered.MadeInvite(
            **self._facts(issued), invite=invite.text, addresses=addresses, relays=relays
        )

    def _make_open(self, request: offered.MakeOpenInvite) -> offered.MadeOpenInvite:
        places = self._places(request.addresses, request.otherwise)
        invite = OpenInvite(self._context.identity.public, places, self._context.secret)
        return offered.MadeOpenInvite(invite.text, *self._shown(places))

    async def _revoke(self, request: offered.InviteById) -> None:
        await self.book.revoke(request.id)

    def _shown(self, places: Sequence[Place]) -> tuple[list[str], list[str]]:
        """@return: the addresses of the node, and those that lead through relays to it."""
        own = self._context.identity.public
        return (
            [each.text for each in places if isinstance(each, HostPort)],
            [address_of(each, own).text for each in places if isinstance(each, RelayPlace)],
        )

    def _places(self, given: Sequence[str], otherwise: str | None) -> tuple[Place, ...]:
        """
        Where newcomers are told to dial this node, never a wildcard.

        @raise InvalidAddress: what was given is none.
        @raise OwnAddressUnknown: nothing was given, and nothing is known.
        """
        listening = self._context.listening()
        if given:
            port = listening[0].port if listening else None
            return tuple(dict.fromkeys(self._given(text, port) for text in given))
        known: tuple[HostPort, ...] = self._context.whereabouts.places()
        if all(map(_is_loopback, known)) and otherwise is not None:
            # It may be dialled there only if it listens at all addresses of its host.
            ports = [each.port for each in listening if _is_wildcard(each)]
            known += tuple(_parse(otherwise, port) for port in ports[:1])
        ways: list[MeshAddress] = [] if self._detours is None else self._detours.to_us()
        led = [RelayPlace(way.place, way.via) for way in ways if way.via is not None]
        led = _of_use(led)[:MAX_RELAYS]
        both: list[Place] = [*_of_use(known)[: MAX_ADDRESSES - len(led)], *led]
        places = _of_use(both)
        # Who is to be reached through relays is not at home for newcomers on its own host only.
        if not places or (not led and self._uses_relays and all(map(_is_loopback, places))):
            raise OwnAddressUnknown(self._why_unknown())
        return tuple(sorted(places, key=_order) if led else places)

    @property
    def _uses_relays(self) -> bool:
        return self._relays is not None and bool(self._relays.relays())

    def _given(self, text: str, port: int | None) -> Place:
        """
        @param port: for a host alone.
        @raise InvalidAddress: it leads to nobody, or to somebody else.
        """
        if "~" not in text:
            return _parse(text, port)
        address, own = MeshAddress.parse(text), self._context.identity.public
        if address.key != own:
            raise InvalidAddress(
                f"{text[:100]!r} leads to another node: an invite leads to the one that makes it"
            )
        if address.via is None:
            return _parse(address.place.text, port)
        return RelayPlace(address.place, address.via)

    def _why_unknown(self) -> str:
        if self._uses_relays:
            return (
                "none of the relays of this node leads to it now: 'meshkit status' says why; make "
                "the invite when one does, or name an address with --address HOST:PORT"
            )
        return (
            "this node does not know at which address others can reach it: name one with "
            "--address HOST:PORT, or have it reached through a relay, [relays] in the settings"
        )


T = TypeVar("T", bound=Place)


def _host(place: Place) -> HostPort:
    """@return: what is dialled first."""
    return place.place if isinstance(place, RelayPlace) else place


def _scope(place: Place) -> Scope | None:
    """@return: from how far away it can be dialled; a name says nothing of that."""
    address = parse_ip(_host(place).host)
    return Scope.WORLD if address is None else scope_of(address)


def _is_loopback(place: Place) -> bool:
    return _scope(place) is Scope.MACHINE


def _is_wildcard(place: HostPort) -> bool:
    address = parse_ip(place.host)
    return address is not None and address.is_unspecified


def _of_use(places: Sequence[T]) -> list[T]:
    """@return: without this machine's own, which is for who is on it, unless there is no other."""
    return [place for place in places if not _is_loopback(place)] or list(places)


def _order(place: Place) -> int:
    """
    Where the node itself is reached by the whole world comes first; a relay before what only its
    neighbours can dial, as who is far away waits there in vain.
    """
    if isinstance(place, RelayPlace):
        return 1
    return 0 if _scope(place) is Scope.WORLD else 2


def _parse(text: str, port: int | None) -> HostPort:
    """
    @param port: for a host alone.
    @raise InvalidAddress: it is none that anybody could dial.
    """
    try:
        place = HostPort.parse(text)
    except InvalidAddress:
        if port is None:
            raise
        host = f"[{text}]" if ":" in text and not text.startswith("[") else text
        place = HostPort.parse(f"{host}:{port}")
    address = parse_ip(place.host)
    if address is not None and scope_of(address) is None:
        raise InvalidAddress(f"nobody can dial {place}: name the address that others reach")
    return place


def make_part(context: PartContext) -> InvitesPart:
    return InvitesPart(context)
