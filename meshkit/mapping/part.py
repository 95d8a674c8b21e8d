"""
The part C{mapping}: has the router pass connections from outside on to this node, as long as it
runs.  Off unless its setting says in which protocol the router is to be asked.

What is granted is asked for again at half of its time, and given back at the stop.  A node that is
killed leaves it to end by itself.

Where it is granted, others are told that place (L{IWhereabouts <meshkit.interfaces.IWhereabouts>}).
"""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Address
from typing import Annotated, Final, Literal

import msgspec
from attrs import define
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import ConfigError, MappingFailed
from meshkit.identity.addresses import HostPort
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.mapping.asked import Mapper, NatPmp, Pcp
from meshkit.mapping.gateway import MAX_ROUTES, ROUTES, default_gateway
from meshkit.mapping.pcp import NONCE_BYTES
from meshkit.mapping.upnp import Upnp
from meshkit.mapping.values import Granted
from meshkit.parts import Part, PartContext
from meshkit.runtime.workers import WorkerPool

MIGRATIONS: Final = ()

#: Ports that are mapped, of those at which the node listens.
MAX_PORTS: Final = 4

#: Seconds before the router is asked again after it has refused, at first and at most.
FIRST_PAUSE: Final = 60.0
LAST_PAUSE: Final = 3_600.0
#: Seconds between two rounds at least, however short the times are that it grants.
LEAST_PAUSE: Final = 10.0

#: Seconds between two looks at who the router is: this host may be carried elsewhere.
LOOK_EVERY: Final = 60.0

#: Seconds that a stop waits for the router.
STOP_SECONDS: Final = 3.0

#: File with the nonce of PCP, in the part's folder.
NONCE: Final = "pcp.nonce"

_SOURCE: Final = "mapping"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[mapping]}."""

    protocol: Annotated[
        Literal["off", "auto", "pcp", "natpmp", "upnp"],
        Meta(
            description="How the router is asked to pass connections on to this node; auto is "
            "each of these in turn until one works"
        ),
    ] = "off"
    router: Annotated[
        str,
        Meta(
            description="IPv4 address of the router, for pcp and natpmp [default: that of the "
            "default route]"
        ),
    ] = ""
    port: Annotated[
        int,
        Meta(
            description="Port of the router that others are to dial, if it is free; 0 is the one "
            "at which the node listens",
            ge=0,
            le=65_535,
        ),
    ] = 0
    lease: Annotated[
        int,
        Meta(
            description="Seconds that the router is asked to do so; asked again at half of them",
            ge=120,
            le=86_400,
        ),
    ] = 1_800

    def address(self) -> IPv4Address | None:
        """
        @return: C{router}.
        @raise ConfigError: it is none.
        """
        if not self.router:
            return None
        address = parse_ip(self.router)
        if not isinstance(address, IPv4Address) or scope_of(address) is None:
            raise ConfigError(
                f"mapping.router: {self.router!r} is not the IPv4 address of a router"
            )
        return address


class MappingStatus(msgspec.Struct):
    """
    What the router does for this node.

    @ivar state: C{asking}, C{mapped} or C{failed}.
    @ivar protocol: in which it was granted.
    @ivar router: whom it has asked, where that is known.
    @ivar places: C{HOST:PORT} where others come.
    @ivar secs_to_renewal: when it is asked the next time.
    @ivar problem: why it does not, or why that may not be enough.
    """

    state: str
    protocol: str | None
    router: str | None
    places: list[str]
    secs_to_renewal: int | None
    problem: str | None


@define
class _Held:
    """
    A mapping that we have.

    @ivar by: who has granted it.
    @ivar until: seconds of the reactor's clock when it ends; L{None} if it does not.
    """

    granted: Granted
    by: Mapper
    router: IPv4Address | None
    until: float | None


class MappingPart(Part):
    """See the module."""

    _log = Logger()

    def __init__(self, context: PartContext, mappers: Sequence[Mapper] | None = None) -> None:
        """
        @param mappers: in place of those that the setting names.
        @raise ConfigError: a setting cannot be used.
        """
        config: Config = context.config
        self._config = config
        self._context = context
        self._reactor = context.reactor
        self._router = config.address()
        self._upnp: Upnp | None = None
        self._mappers = list(self._make_mappers() if mappers is None else mappers)
        self._held: dict[int, _Held] = {}
        self._asked: IPv4Address | None = None
        self._problem: str | None = None
        self._pause = FIRST_PAUSE
        self._next: IDelayedCall | None = None
        self._round: Deferred[None] | None = None
        # What is being given back.
        self._endings: dict[Deferred[None], None] = {}
        self._looking: IDelayedCall | None = None
        context.metrics.gauge("ports", "Ports that the router passes on.", lambda: len(self._held))

    def _make_mappers(self) -> list[Mapper]:
        if self._config.protocol == "off":
            return []
        context = self._context
        self._upnp = Upnp(
            context.reactor, context.rng, partial(WorkerPool, stop_seconds=STOP_SECONDS)
        )
        known: tuple[Mapper, ...] = (
            Pcp(context.reactor, self._nonce),
            NatPmp(context.reactor),
            self._upnp,
        )
        return [each for each in known if self._config.protocol in ("auto", each.name)]

    def _nonce(self) -> bytes:
        """@return: whose mappings the router takes for ours, also after a restart."""
        files, folder = self._context.files, self._context.data_folder
        path = os.path.join(folder, NONCE)
        try:
            found: bytes = files.read_secret(path, NONCE_BYTES)
        except FileNotFoundError:
            found = b""
        if len(found) != NONCE_BYTES:
            found = self._context.rng.randbytes(NONCE_BYTES)
            files.make_folder(folder)
            files.write_atomic(path, found)
        return found

    # --- the service ------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        if self._mappers:
            self._pause = FIRST_PAUSE
            # The node is not to wait for its router.
            self._later(0.0)
            self._look_later()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for call in (self._next, self._looking):
            if call is not None:
                call.cancel()
        self._next = self._looking = None
        if self._round is not None:
            self._round.cancel()
        self._tell([])
        self._give_back()
        # At the same time, behind what it was just asked.
        stopping = None if self._upnp is None else Deferred.fromCoroutine(self._upnp.stop())
        await DeferredList(list(self._endings))
        if stopping is not None:
            await stopping

    def _give_back(self) -> None:
        """Have nothing passed on any more; what is not ended in time is left to end by itself."""
        held, self._held = list(self._held.values()), {}
        for each in held:
            ending = Deferred.fromCoroutine(each.by.unmap(each.router, each.granted))
            self._endings[ending] = None
            ending.addTimeout(STOP_SECONDS, self._reactor)
            ending.addErrback(self._not_given_back, each)
            ending.addBoth(self._given_back, ending)

    def _given_back(self, _: object, ending: Deferred[None]) -> None:
        del self._endings[ending]

    def _not_given_back(self, failure: Failure, held: _Held) -> None:
        self._log.info(
            "the router may pass on {place} for a while: {error}",
            place=held.granted.place.text,
            error=failure.getErrorMessage() or type(failure.value).__name__,
        )

    def status(self) -> MappingStatus | None:
        if not self._mappers:
            return None
        held = list(self._held.values())
        left = None if self._next is None else self._next.getTime() - self._reactor.seconds()
        if held:
            state = "mapped"
        else:
            state = "asking" if self._problem is None else "failed"
        return MappingStatus(
            state=state,
            protocol=held[0].by.name if held else None,
            router=None if self._asked is None else str(self._asked),
            places=[each.granted.place.text for each in held],
            secs_to_renewal=None if left is None else round(left),
            problem=self._problem,
        )

    # --- asking -----------------------------------------------------------------------------

    def _later(self, seconds: float) -> None:
        self._next = self._reactor.callLater(seconds, self._begin)

    def _begin(self) -> None:
        self._next = None
        self._round = Deferred.fromCoroutine(self._go_round())
        self._round.addBoth(self._ended)

    def _ended(self, result: object) -> None:
        self._round = None
        if isinstance(result, Failure):
            if not self.running and result.check(CancelledError):
                return
            self._log.failure("asking the router failed", result)
            self._later(LAST_PAUSE)

    def _look_later(self) -> None:
        self._looking = self._reactor.callLater(LOOK_EVERY, self._look)

    def _look(self) -> None:
        """Ask at once where there is another router than the last time."""
        self._look_later()
        try:
            router = self._gateway()
        except MappingFailed:
            return
        if router != self._asked and self._round is None and self._next is not None:
            self._next.cancel()
            # What the other one has granted leads to where we are no more, or soon will: it may
            # be within reach still.
            self._give_back()
            self._tell([])
            self._pause = FIRST_PAUSE
            self._begin()

    async def _go_round(self) -> None:
        """Have all ports passed on, or for longer."""
        before = self._problem
        try:
            for port in self._ports():
                await self._map(port)
        except MappingFailed as e:
            self._problem = str(e)
        else:
            self._problem = self._too_near()
        self._forget()
        self._tell([each.granted.place for each in self._held.values()])
        if self._problem is not None and self._problem != before:
            self._log.warn("{problem}", problem=self._problem)
        self._later(self._wait())

    def _ports(self) -> list[int]:
        """
        @return: the node's, which a router can reach.
        @raise MappingFailed: there is none.
        """
        found = {
            place.port
            for place in self._context.listening()
            # A host that listens for IPv6 alone is asked by its own address, through no router.
            if place.host in ("0.0.0.0", "::") or _behind_router(place)
        }
        if not found:
            raise MappingFailed(
                "the node listens at no IPv4 address that a router could pass connections on to: "
                "set 'listen' to tcp:7655"
            )
        return sorted(found)[:MAX_PORTS]

    def _gateway(self) -> IPv4Address:
        if self._router is not None:
            return self._router
        try:
            routes = self._context.files.read(ROUTES, MAX_ROUTES)
        except OSError as e:
            why = f"the routes cannot be read ({e.strerror})"
        else:
            found = default_gateway(routes.decode("ascii", "replace"))
            if found is not None:
                return found
            why = "there is no default route"
        raise MappingFailed(f"it is not known who the router is, as {why}: set 'mapping.router'")

    async def _map(self, port: int) -> None:
        nobody = ""
        try:
            self._asked = self._gateway()
        except MappingFailed as e:
            self._asked, nobody = None, str(e)
        router = self._asked
        held = self._held.get(port)
        wanted = held.granted.place.port if held else self._config.port or port
        # Who has granted it before comes first.
        mappers = sorted(self._mappers, key=lambda each: held is None or each is not held.by)
        problems = []
        for mapper in mappers:
            if router is None and not mapper.finds_router:
                problems.append(f"{mapper.name}: {nobody}")
                continue
            asked_at = self._reactor.seconds()
            try:
                granted = await mapper.map(router, port, wanted, self._config.lease)
            except MappingFailed as e:
                problems.append(f"{mapper.name}: {e}")
                continue
            until = None if granted.lifetime is None else asked_at + granted.lifetime
            if held is None or held.granted.place != granted.place:
                self._log.info(
                    "the router passes {place} on to port {port}, by {protocol}",
                    place=granted.place.text,
                    port=port,
                    protocol=mapper.name,
                )
            self._held[port] = _Held(granted, mapper, router, until)
            return
        raise MappingFailed("; ".join(problems))

    def _too_near(self) -> str | None:
        """@return: what keeps those far away from coming although all is well here."""
        for each in self._held.values():
            address = parse_ip(each.granted.place.host)
            if address is not None and scope_of(address) is not Scope.WORLD:
                return (
                    f"the router's own address, {address}, is a private one: another router stands "
                    "before it, and who is beyond that cannot come"
                )
        return None

    def _forget(self) -> None:
        """What has ended is no more."""
        now = self._reactor.seconds()
        for port, each in list(self._held.items()):
            if each.until is not None and each.until <= now:
                del self._held[port]

    def _wait(self) -> float:
        """@return: seconds until the router is asked again."""
        now = self._reactor.seconds()
        ends = [each.until for each in self._held.values() if each.until is not None]
        half = (min(ends) - now) / 2 if ends else self._config.lease / 2
        if self._held:
            self._pause = FIRST_PAUSE
            # One that it refuses to go on with is asked for again and again until it ends.
            return max(half, LEAST_PAUSE)
        pause, self._pause = self._pause, min(2 * self._pause, LAST_PAUSE)
        return pause

    def _tell(self, places: list[HostPort]) -> None:
        self._context.whereabouts.mapped(_SOURCE, places)


def _behind_router(place: HostPort) -> bool:
    """Can a router give something to this address of ours?"""
    address = parse_ip(place.host)
    return isinstance(address, IPv4Address) and scope_of(address) in (Scope.SITE, Scope.WORLD)


def make_part(context: PartContext) -> MappingPart:
    """Called by the plugin."""
    return MappingPart(context)
