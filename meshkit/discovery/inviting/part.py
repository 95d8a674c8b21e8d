"""
The part C{invites}: makes invites, and gives the network's secret to those who come with one.

Its protocol is open to whoever has an invite, member or not: that is what the capability of its
label is for, which stands in the invite.  As long as there is none, or all are long over,
everybody is refused before a word is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory

from meshkit.discovery.invites import LABEL, MAX_ADDRESSES, VERSION, CountedInvite, OpenInvite
from meshkit.discovery.inviting import operations as offered
from meshkit.discovery.inviting.issued import MIGRATIONS as MIGRATIONS
from meshkit.discovery.inviting.issued import InviteBook, Issued
from meshkit.discovery.inviting.redeeming import RedeemFactory
from meshkit.errors import InvalidAddress, OwnAddressUnknown
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.interfaces import IFeedStore
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
        own, capability = self._context.identity.public, self._context.network
        draft = CountedInvite(own, places, capability.capability(LABEL, VERSION), bytes(16), None)
        issued, code = await self.book.issue(request.uses, request.expires_secs, request.note)
        invite = CountedInvite(own, places, draft.capability, code, issued.expires)
        return offered.MadeInvite(
            **self._facts(issued),
            invite=invite.text,
            addresses=[place.text for place in places],
        )

    def _make_open(self, request: offered.MakeOpenInvite) -> offered.MadeOpenInvite:
        places = self._places(request.addresses, request.otherwise)
        invite = OpenInvite(self._context.identity.public, places, self._context.secret)
        return offered.MadeOpenInvite(invite.text, [place.text for place in places])

    async def _revoke(self, request: offered.InviteById) -> None:
        await self.book.revoke(request.id)

    def _places(self, given: Sequence[str], otherwise: str | None) -> tuple[HostPort, ...]:
        """
        Where newcomers are told to dial this node, never a wildcard.

        @raise InvalidAddress: what was given is none.
        @raise OwnAddressUnknown: nothing was given, and nothing is known.
        """
        listening = self._context.listening()
        port = listening[0].port if listening else None
        if given:
            return tuple(dict.fromkeys(_parse(text, port) for text in given))
        known: tuple[HostPort, ...] = self._context.whereabouts.places()
        # This machine's own is for who is on it, and of no use beside others.
        known = tuple(place for place in known if not _is_loopback(place)) or known
        if not known and otherwise is not None:
            known = (_parse(otherwise, port),)
        if not known:
            raise OwnAddressUnknown(
                "this node does not know at which address others can reach it: name one with "
                "--address HOST:PORT"
            )
        return known[:MAX_ADDRESSES]


def _is_loopback(place: HostPort) -> bool:
    address = parse_ip(place.host)
    return address is not None and scope_of(address) is Scope.MACHINE


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
