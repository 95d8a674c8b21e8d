"""
The part C{registration} of a node: it is known at its member relays, as far as its owner wants.

A relay keeps the feeds of those who are registered there, and mail for them.  By itself the node
registers at the relays of C{relays.use}, and is not listed; C{meshkit relay register}, C{settings}
and C{leave} say otherwise, and count from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

import msgspec
from attrs import evolve
from msgspec import Meta
from twisted.internet.defer import Deferred

from meshkit.errors import (
    ConfigError,
    InvalidRequest,
    NotReady,
    NotRegistered,
    RegistrationInvalid,
)
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IRelays, Relay
from meshkit.operations import BoundOperation, Nothing, Page
from meshkit.parts import Part, PartContext
from meshkit.relay.registration import operations as offered
from meshkit.relay.registration import own
from meshkit.relay.registration.registrar import Registrar, Standing, Wish
from meshkit.relay.registry.registration import check_nickname
from meshkit.runtime.moments import rfc3339

MIGRATIONS: Final = own.MIGRATIONS

_MS: Final = 10**6


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[registration]}."""

    automatic: Annotated[
        bool,
        Meta(description="register at the member relays of relays.use without being told"),
    ] = True
    listed: Annotated[
        bool,
        Meta(description="let the directories of these relays name this node"),
    ] = False
    nickname: Annotated[
        str,
        Meta(max_length=64, description="what this node is called there"),
    ] = ""

    def wish(self) -> Wish | None:
        """
        @return: how to be registered where nobody has chosen.
        @raise ConfigError: if the nickname cannot be used.
        """
        try:
            check_nickname(self.nickname)
        except RegistrationInvalid as e:
            raise ConfigError(f"registration.nickname: {e}") from None
        return Wish(self.listed, self.nickname) if self.automatic else None


class RegistrationPart(Part):
    """
    See the module.

    @ivar registrar: does the work; L{None} in a node without the part C{relays}.
    """

    def __init__(self, context: PartContext) -> None:
        """@raise ConfigError: if the settings cannot be used."""
        config: Config = context.config
        wish = config.wish()
        relays = context.find(IRelays)
        self._blind: list[Relay] = []
        self.registrar: Registrar | None = None
        if relays is None:
            return
        self._blind += [each for each in relays.relays() if each.role == "blind"]
        self.registrar = Registrar(
            context.identity,
            relays,
            context.database,
            reactor=context.reactor,
            rng=context.rng,
            wall_clock=context.wall_clock,
            wish=wish,
        )
        context.metrics.gauge(
            "relays", "Member relays of this node.", lambda: self._figures().relays
        )
        context.metrics.gauge(
            "registered", "Those at which it is registered.", lambda: self._figures().registered
        )

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        if self.registrar is not None:
            await self.registrar.start()

    def stopService(self) -> None:
        super().stopService()
        if self.registrar is not None:
            self.registrar.stop()

    def _standings(self) -> list[Standing]:
        return [] if self.registrar is None else self.registrar.standings()

    def _the_registrar(self) -> Registrar:
        if self.registrar is None:
            raise NotReady("this node knows of no relays, as its part 'relays' is left out")
        return self.registrar

    def _figures(self) -> offered.RegistrationStatus:
        standings = self._standings()
        registered = sum(_is_registered(each) for each in standings)
        return offered.RegistrationStatus(len(standings), registered)

    def status(self) -> offered.RegistrationStatus | None:
        figures = self._figures()
        return figures if figures.relays else None

    # --- the doors -------------------------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        if self.registrar is None:
            return ()
        return (
            BoundOperation(offered.RELAYS, self._answer_relays),
            BoundOperation(offered.REGISTER, self._answer_register),
            BoundOperation(offered.SETTINGS, self._answer_settings),
            BoundOperation(offered.LEAVE, self._answer_leave),
            BoundOperation(offered.DIRECTORY, self._answer_directory),
        )

    def _answer_relays(self, request: Nothing) -> list[offered.RelayShown]:
        shown = [_shown(each) for each in self._standings()]
        return shown + [_shown_blind(each) for each in self._blind]

    async def _answer_register(self, request: offered.RegisterAtRelay) -> offered.RelayShown:
        return await self._change(self._which(request.relay), _changed(request))

    async def _answer_settings(self, request: offered.RegisterAtRelay) -> offered.RelayShown:
        if request.listed is None and request.nickname is None:
            raise InvalidRequest("say what to change: listed, nickname, or both")
        address = self._which(request.relay)
        if not self._the_registrar().is_registered(address.key):
            raise NotRegistered(
                f"this node is not registered at {address.text}: meshkit relay register"
            )
        return await self._change(address, _changed(request))

    async def _answer_leave(self, request: offered.LeaveRelay) -> offered.RelayShown:
        return await self._change(
            self._which(request.relay), lambda wish: evolve(wish, stays=False, listed=False)
        )

    async def _change(
        self, address: MeshAddress, change: Callable[[Wish], Wish]
    ) -> offered.RelayShown:
        await self._the_registrar().register(address, change)
        (standing,) = (each for each in self._standings() if each.relay.address.key == address.key)
        return _shown(standing)

    async def _answer_directory(self, request: offered.ReadDirectory) -> Page:
        after = b"" if request.cursor is None else PublicKey.parse(request.cursor).raw
        found = await self._the_registrar().directory(
            self._which(request.relay), after, request.limit
        )
        entries = [
            offered.DirectoryEntry(each.peer.text, each.nickname, rfc3339(each.number * _MS))
            for each in found.entries
        ]
        cursor = entries[-1].public_id if found.more else None
        return Page(entries, found.total, request.limit, None, next_cursor=cursor)

    def _which(self, text: str | None) -> MeshAddress:
        if text is None or text.startswith("@"):
            return self._the_registrar().find(None if text is None else PublicKey.parse(text))
        address = MeshAddress.parse(text)
        if any(each.address.key == address.key for each in self._blind):
            raise InvalidRequest(
                f"{address.text} is a blind relay of this node: nobody registers there"
            )
        return address


def _changed(request: offered.RegisterAtRelay) -> Callable[[Wish], Wish]:
    def change(wish: Wish) -> Wish:
        return Wish(
            wish.listed if request.listed is None else request.listed,
            wish.nickname if request.nickname is None else request.nickname,
        )

    return change


def _is_registered(standing: Standing) -> bool:
    said = standing.own
    return said is not None and said.settled and said.said.stays


def _shown(standing: Standing) -> offered.RelayShown:
    relay, said = standing.relay, standing.own
    return offered.RelayShown(
        address=relay.address.text,
        public_id=relay.address.key.text,
        role="member",
        used=standing.used,
        registered=_is_registered(standing),
        listed=said is not None and said.said.listed and said.said.stays,
        nickname="" if said is None else said.said.nickname,
        said_at=None if said is None else rfc3339(said.said.number * _MS),
        peers=standing.peers,
        last_error=None if standing.problem is None else str(standing.problem),
    )


def _shown_blind(relay: Relay) -> offered.RelayShown:
    return offered.RelayShown(
        address=relay.address.text,
        public_id=relay.address.key.text,
        role="blind",
        used=True,
        registered=False,
        listed=False,
        nickname="",
        said_at=None,
        peers=None,
        last_error=None,
    )


def make_part(context: PartContext) -> RegistrationPart:
    return RegistrationPart(context)
