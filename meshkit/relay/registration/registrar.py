"""
Registers a node at its member relays, and keeps it registered.

It looks every L{LOOK_SECONDS} whether each relay still knows the node, which also tells the relay
that the node is there; one that was lost, or never came, is made anew.  A relay that does not
answer is tried again after a pause that grows.  What a relay says is believed when it has signed
it: that a registration counts; and of the directory what those have signed who are in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Final, TypeVar

from attrs import define, evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    TimeoutError,
)
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from meshkit.errors import (
    MeshkitError,
    NotRegistered,
    RegistrationInvalid,
    RegistryForged,
    RemoteError,
)
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import Relay
from meshkit.parts import shield
from meshkit.relay.registration import own as table
from meshkit.relay.registration.own import Own
from meshkit.relay.registry.registration import Entered, Registration
from meshkit.relay.registry.wire import (
    DIRECTORY,
    LABEL,
    REGISTER,
    STANDING,
    VERSION,
    DirectoryRequest,
    Listed,
    RegisterRequest,
    StandingRequest,
)
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.runtime.peers import named_error

__all__ = [
    "FIRST_PAUSE",
    "LAST_PAUSE",
    "LOOK_SECONDS",
    "Directory",
    "Registrar",
    "Standing",
    "Wish",
]

T = TypeVar("T")

#: Seconds between two looks whether a relay still knows us.
LOOK_SECONDS: Final = 6 * 3_600.0
#: Seconds before a relay is tried again, at first and at most; each is up to a quarter longer,
#: so that the peers of a relay that was restarted do not all come at once.
FIRST_PAUSE: Final = 5.0
LAST_PAUSE: Final = 1_800.0
#: Seconds that it may take to connect.
CONNECT_SECONDS: Final = 30.0


@frozen
class Wish:
    """
    How to be registered.

    @ivar listed: in the directory.
    @ivar nickname: what to be called.
    @ivar stays: L{False}: not at all.
    """

    listed: bool = False
    nickname: str = ""
    stays: bool = True

    @classmethod
    def of(cls, said: Registration) -> Wish:
        """@return: what a registration says."""
        return cls(said.listed, said.nickname, said.stays)


@frozen
class Standing:
    """
    How it stands with a relay.

    @ivar relay: the relay.
    @ivar used: is it one of those that the node uses?
    @ivar own: what was said to it; L{None} if nothing was.
    @ivar peers: how many it had when it was asked last; L{None} if it was not.
    @ivar problem: why that did not go well the last time.
    """

    relay: Relay
    used: bool
    own: Own | None
    peers: int | None
    problem: MeshkitError | None


@frozen
class Directory:
    """
    A stretch of a relay's directory; each entry was signed by who is in it.

    @ivar relay: whose it is.
    @ivar entries: in the order of their keys.
    @ivar total: how many there are, as the relay says.
    @ivar more: are there others behind these?
    """

    relay: Relay
    entries: Sequence[Registration]
    total: int
    more: bool


@define(eq=False)
class _Link:
    """
    What is known of a relay.

    @ivar turn: one thing at a time is said to it.
    @ivar pause: before the next try.
    """

    relay: Relay
    used: bool
    own: Own | None = None
    peers: int | None = None
    problem: MeshkitError | None = None
    pause: float = FIRST_PAUSE
    next_look: IDelayedCall | None = None
    looking: Deferred[None] | None = None
    turn: DeferredLock = field(factory=DeferredLock)


class Registrar:
    """See the module."""

    _log = Logger()

    def __init__(
        self,
        identity: Identity,
        relays: Any,
        database: Any,
        *,
        reactor: Any,
        rng: Random,
        wall_clock: Callable[[], int],
        wish: Wish | None,
    ) -> None:
        """
        @param relays: L{meshkit.interfaces.IRelays}.
        @param database: L{meshkit.runtime.database.Database}.
        @param wall_clock: nanoseconds since 1970.
        @param wish: how to be registered where nobody has chosen; L{None}: not to be.
        """
        self._identity = identity
        self._relays = relays
        self._database = database
        self._reactor = reactor
        self._rng = rng
        self._wall_clock = wall_clock
        self._wish = wish
        self._running = False
        self._factory = RPCFactory(reactor)
        self._links: dict[PublicKey, _Link] = {
            relay.address.key: _Link(relay, used=True)
            for relay in relays.relays()
            if relay.role == "member"
        }

    # --- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Know what was said before, and begin to look."""
        for own in await self._database.read(table.read):
            key = own.address.key
            link = self._links.get(key)
            if link is None:
                link = self._links[key] = _Link(Relay(own.address, "member"), used=False)
            link.own = own
        self._running = True
        for link in self._links.values():
            self._look_after(link, 0.0)

    def stop(self) -> None:
        """Look no more."""
        self._running = False
        for link in self._links.values():
            if link.next_look is not None:
                link.next_look.cancel()
                link.next_look = None
            if link.looking is not None:
                link.looking.cancel()

    # --- looking ---------------------------------------------------------------------

    def _look_after(self, link: _Link, seconds: float) -> None:
        if not self._running:
            return
        if link.next_look is not None:
            link.next_look.cancel()
        link.next_look = self._reactor.callLater(seconds, self._look, link)

    def _look(self, link: _Link) -> None:
        link.next_look = None
        if link.looking is not None:
            return
        looking = link.looking = Deferred.fromCoroutine(self._look_at(link))

        def ended(result: Any) -> Any:
            link.looking = None
            return result

        looking.addBoth(ended)
        looking.addErrback(lambda failure: failure.trap(CancelledError, ConnectingCancelledError))
        looking.addErrback(lambda failure: self._log.failure("looking at a relay failed", failure))

    async def _look_at(self, link: _Link) -> None:
        async def keep() -> bool:
            # Not before it is our turn: what is said just now may be that we leave.
            wish = self._wish_for(link)
            if wish is not None:
                await self._keep(link, wish)
            return wish is not None

        try:
            if not await link.turn.run(lambda: Deferred.fromCoroutine(keep())):
                return
        except MeshkitError as e:
            if link.problem is None or link.problem.code != e.code:
                self._log.info(
                    "not registered at the relay {relay}: {error}",
                    relay=link.relay.address.text,
                    error=str(e),
                )
            link.problem = e
            pause = link.pause * (1 + self._rng.random() / 4)
            link.pause = min(2 * link.pause, LAST_PAUSE)
            self._look_after(link, pause)
        else:
            link.problem, link.pause = None, FIRST_PAUSE
            self._look_after(link, LOOK_SECONDS * (1 + self._rng.random() / 4))

    def _wish_for(self, link: _Link) -> Wish | None:
        own = link.own
        if own is not None and (own.chosen or not link.used):
            # Who has left has nothing to look after, once the relay has heard of it.
            return None if own.settled and not own.said.stays else Wish.of(own.said)
        return self._wish if link.used else None

    async def _keep(self, link: _Link, wish: Wish) -> None:
        async def job(connection: RPCProtocol) -> None:
            standing = await connection.call(STANDING, StandingRequest())
            link.peers = standing.peers
            known = None
            if standing.statement is not None:
                known = self._own_statement(link, standing.statement)
            own = link.own
            if known is None and not wish.stays and own is not None:
                # It has forgotten us by itself.
                await self._settle(link, own, None)
            elif known is None or Wish.of(known) != wish or not self._acknowledged(link, known):
                last = 0 if known is None else known.number
                await self._say(link, connection, wish, own is not None and own.chosen, last)

        await self._talk(link.relay, job)

    def _acknowledged(self, link: _Link, known: Registration) -> bool:
        own = link.own
        return own is not None and own.settled and own.said == known

    def _own_statement(self, link: _Link, raw: bytes) -> Registration | None:
        """@return: what the relay has of us, if we have said that."""
        relay = link.relay
        try:
            known = Registration.open(raw, relay.address.key, (self._network_of(relay),))
        except RegistrationInvalid:
            return None
        return known if known.peer == self._identity.public else None

    # --- saying ----------------------------------------------------------------------

    def _now(self) -> int:
        return self._wall_clock() // 10**6

    def _network_of(self, relay: Relay) -> bytes:
        net_id: bytes = self._relays.network_of(relay).net_id
        return net_id

    async def _say(
        self, link: _Link, connection: RPCProtocol, wish: Wish, chosen: bool, last: int
    ) -> Registration:
        """
        Sign how we want to be registered, keep it, and have the relay enter it.

        @param last: the number of what the relay has of us.
        """
        relay = link.relay
        said = Registration.seal(
            self._identity,
            self._network_of(relay),
            relay.address.key,
            max(self._now(), last + 1),
            listed=wish.listed,
            nickname=wish.nickname,
            stays=wish.stays,
        )
        own = Own(relay.address, said, chosen)
        await self._database.write(lambda c: table.write(c, own))
        link.own = own
        try:
            raw = await connection.call(REGISTER, RegisterRequest(said.raw))
        except RemoteError as e:
            if wish.stays or e.code != NotRegistered.code:
                raise
            # That is all we want.
            await self._settle(link, own, None)
        else:
            await self._settle(link, own, Entered.open(raw, said))
        try:
            link.peers = (await connection.call(STANDING, StandingRequest())).peers
        except RemoteError:
            # It counts all the same; how many there are is asked again at the next look.
            link.peers = None
        self._log.info(
            "{what} the relay {relay}",
            what="registered at" if wish.stays else "not registered any more at",
            relay=relay.address.text,
        )
        return said

    async def _last_number(self, link: _Link, connection: RPCProtocol) -> int:
        """
        @return: the number of what the relay has of us, as far as we know.  What it has not
            signed may come from a clock that was ahead, and would never be outdone.
        """
        own = link.own
        if own is None or own.entered is not None:
            return 0 if own is None else own.said.number
        standing = await connection.call(STANDING, StandingRequest())
        known = None
        if standing.statement is not None:
            known = self._own_statement(link, standing.statement)
        return 0 if known is None else known.number

    async def _settle(self, link: _Link, own: Own, entered: Entered | None) -> None:
        raw = None if entered is None else entered.raw
        own = link.own = evolve(own, settled=True, entered=raw)
        await self._database.write(lambda c: table.write(c, own))

    async def _talk(self, relay: Relay, job: Callable[[RPCProtocol], Awaitable[T]]) -> T:
        """
        Connect to a relay, and say or ask something there.

        @raise MeshkitError: why that cannot be done.
        """
        endpoint = self._relays.endpoint(relay, LABEL, VERSION)
        connecting: Deferred[RPCProtocol] = endpoint.connect(self._factory)
        try:
            connection = await connecting.addTimeout(CONNECT_SECONDS, self._reactor, _too_late)
            try:
                return await job(connection)
            finally:
                connection.close()
        except ConnectingCancelledError:
            # Whoever waits went away, and expects to be told so.
            raise CancelledError from None
        except (ConnectError, ConnectionClosed, OSError) as e:
            raise named_error(relay.address.place, e) from None

    # --- what people ask for ------------------------------------------------------------

    def standings(self) -> list[Standing]:
        """@return: how it stands with each relay; those of the settings first."""
        return [
            Standing(link.relay, link.used, link.own, link.peers, link.problem)
            for link in self._links.values()
        ]

    def register(
        self, address: MeshAddress, change: Callable[[Wish], Wish]
    ) -> Deferred[Registration]:
        """
        Register at a relay now, be it one of those that are used or not, or say something else
        than before.

        @param change: given how we were registered there, or would be, says how to be.
        @return: Deferred of what was said, when the relay has signed that it counts.
        """
        return shield(self._registered(address, change))

    async def _registered(
        self, address: MeshAddress, change: Callable[[Wish], Wish]
    ) -> Registration:
        relay = Relay(address, "member")
        link = self._links.get(address.key)
        if link is None:
            # Who answers there is not known yet: kept when there is something to keep.
            link = _Link(relay, used=False)
        elif not link.used:
            link.relay = relay

        async def talk() -> Registration:
            # Not before it is our turn: what is said just now may be how we want to be known.
            wish = change(self._before(link))

            async def job(connection: RPCProtocol) -> Registration:
                last = await self._last_number(link, connection)
                return await self._say(link, connection, wish, chosen=True, last=last)

            return await self._talk(relay, job)

        try:
            said = await link.turn.run(lambda: Deferred.fromCoroutine(talk()))
        finally:
            if link.own is not None:
                self._links.setdefault(address.key, link)
                if not link.own.settled:
                    # The relay may have it or not: until that is known, it counts for nothing.
                    self._look_after(link, FIRST_PAUSE)
        link.problem, link.pause = None, FIRST_PAUSE
        self._look_after(link, LOOK_SECONDS)
        return said

    def _before(self, link: _Link) -> Wish:
        if link.own is None:
            return self._wish or Wish()
        return evolve(Wish.of(link.own.said), stays=True)

    def find(self, key: PublicKey | None) -> MeshAddress:
        """
        @param key: of a relay; L{None}: of the only one.
        @return: where it is.
        @raise NotRegistered: there is none, or more than one could be meant.
        """
        if key is not None:
            link = self._links.get(key)
            if link is None:
                raise NotRegistered(
                    f"{key.text} is no relay of this node: give its address, net:HOST:PORT~shs:KEY"
                )
            return _address(link)
        links = [link for link in self._links.values() if _counts(link)]
        if len(links) != 1:
            how = "no relay" if not links else f"{len(links)} relays"
            raise NotRegistered(
                f"this node has {how}: say which, by its address, net:HOST:PORT~shs:KEY"
            )
        return _address(links[0])

    def is_registered(self, key: PublicKey) -> bool:
        """Has a relay said that we are, and have we not left since?"""
        link = self._links.get(key)
        own = None if link is None else link.own
        return own is not None and own.said.stays and own.settled

    async def directory(self, address: MeshAddress, after: bytes, limit: int) -> Directory:
        """
        Ask a relay for the peers that want to be listed.

        @param after: key of the last one that is not wanted again; empty at first.
        @raise RegistryForged: what it names as one has not said so.
        @raise MeshkitError: it cannot be reached, or refuses.
        """
        relay = Relay(address, "member")

        async def job(connection: RPCProtocol) -> Listed:
            return await connection.call(DIRECTORY, DirectoryRequest(after, limit))

        listed = await self._talk(relay, job)
        entries = check_directory(
            listed.statements, address.key, self._network_of(relay), after, limit
        )
        return Directory(relay, entries, listed.total, listed.more and bool(entries))


def check_directory(
    statements: Sequence[bytes], relay: PublicKey, network: bytes, after: bytes, limit: int
) -> list[Registration]:
    """
    Verify a stretch of a directory.

    @return: what those have said who are in it.
    @raise RegistryForged: one has not said so, or it is not the stretch that was asked for.
    """
    entries: list[Registration] = []
    last = after
    for raw in statements:
        try:
            entry = Registration.open(raw, relay, (network,))
        except RegistrationInvalid as e:
            raise RegistryForged(
                f"the relay {relay.text} shows an entry of its directory that nobody made: {e}"
            ) from None
        if not (entry.listed and entry.stays):
            raise RegistryForged(
                f"the relay {relay.text} lists {entry.peer.text}, who does not want to be"
            )
        if entry.peer.raw <= last or len(entries) >= limit:
            raise RegistryForged(
                f"the relay {relay.text} shows another stretch of its directory than was asked for"
            )
        last = entry.peer.raw
        entries.append(entry)
    return entries


def _address(link: _Link) -> MeshAddress:
    address: MeshAddress = link.relay.address
    return address


def _counts(link: _Link) -> bool:
    return link.used or (link.own is not None and link.own.said.stays)


def _too_late(_result: object, seconds: float) -> Any:
    raise TimeoutError(f"no connection within {seconds:.0f} seconds")
