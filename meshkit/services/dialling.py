"""
Who answers at an address: asked, proved by a handshake, and remembered.

For a bare C{HOST:PORT} the node asks for the key, dials it with a whole handshake, and
only then pins it.  Whoever sits on the path at that moment can be the one who is
pinned: the first use is trusted because nothing better is at hand, and shown as such.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, Final, TypeVar

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import KeyProbeFailed, MeshkitError
from meshkit.identity.addresses import DIRECT, HostPort, MeshAddress, transport_of
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import NetworkKey
from meshkit.runtime.peers import PeerBook, PeerEntry, Unknown, changed_key, named_error
from meshkit.services.ping import LABEL, Pinging
from meshkit.shs import Capability
from meshkit.shs import probe as key_probe
from meshkit.shs.prober import probe_key

T = TypeVar("T")

# What becomes of work that is cancelled, where it waits or where it connects.
_CANCELLED: Final = (CancelledError, ConnectingCancelledError)

#: Seconds before a place is asked again, at first and at most.
FIRST_PAUSE: Final = 1.0
LAST_PAUSE: Final = 60.0


@frozen
class Dialled:
    """
    What came of dialling.

    @ivar handshake: seconds from the first packet until the peer was authenticated.
    @ivar round_trips: seconds of each ping.
    @ivar transport: which way it was: L{transport_of}.
    @ivar relay: through whom, if it was through a relay.
    """

    address: MeshAddress
    handshake: float
    round_trips: list[float]
    transport: str = DIRECT
    relay: PublicKey | None = None


class Dialler:
    """
    How the node itself reaches others.

    Its methods raise L{MeshkitError}; where there is no connection to be had that is
    L{meshkit.errors.PeerUnreachable} or L{meshkit.errors.HostUnknown}.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        own: PublicKey,
        network: NetworkKey,
        connections: Any,
        peers: PeerBook,
        rng: Random,
    ) -> None:
        """
        @param connections: L{meshkit.interfaces.IConnections}.
        """
        self._reactor = reactor
        self._own = own
        self._network = network
        self._connections = connections
        self._peers = peers
        self._rng = rng
        # What goes on in the background, by place.
        self._work: dict[str, Deferred[None]] = {}
        self._asked: dict[str, float] = {}

    def start(self) -> None:
        """Ask for the keys of the configured places that have none, until they tell."""
        self._peers.on_key_refused = self._key_refused
        for unknown in self._peers.unknown():
            self._begin(unknown.place, self._find_out(unknown))

    def stop(self) -> None:
        """Let go of everything that is under way."""
        self._peers.on_key_refused = None
        for working in list(self._work.values()):
            working.cancel()

    def woke(self) -> None:
        """This node was asleep: ask again at once."""
        for unknown in self._peers.unknown():
            working = self._work.get(unknown.place.text)
            if working is not None:
                working.cancel()
            self._begin(unknown.place, self._find_out(unknown))

    def _begin(self, place: HostPort, work: Coroutine[Deferred[Any], Any, None]) -> None:
        working = Deferred.fromCoroutine(work)
        if working.called:
            return
        self._work[place.text] = working

        def ended(result: Any) -> None:
            self._work.pop(place.text, None)
            if isinstance(result, Failure) and not result.check(*_CANCELLED):
                self._log.failure("asking {place} failed", result, place=place.text)

        working.addBoth(ended)

    async def _find_out(self, unknown: Unknown) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                address = await self.first_use(unknown.place)
                entry = await self._peers.add_pinned(address)
            except MeshkitError as e:
                unknown.note_failed(e)
                self._log.info(
                    "{place} does not tell its key: {error}", place=unknown.place.text, error=str(e)
                )
            else:
                self._log.info(
                    "{place} is {peer}: first seen, pinned",
                    place=unknown.place.text,
                    peer=entry.address.key.text,
                )
                return
            await deferLater(self._reactor, pause)
            pause = min(2 * pause, LAST_PAUSE)

    def _key_refused(self, entry: PeerEntry) -> None:
        place = entry.address.place
        now = self._reactor.seconds()
        if now - self._asked.get(place.text, -LAST_PAUSE) < LAST_PAUSE:
            return
        if place.text not in self._work:
            # As many as the book has pinned addresses.
            self._asked[place.text] = now
            self._begin(place, self._look_again(entry))

    async def _look_again(self, entry: PeerEntry) -> None:
        """A pinned key was refused: find out whether another one answers there."""
        place = entry.address.place
        try:
            told = await self.ask(place)
        except MeshkitError as e:
            self._log.info("{place} does not tell its key: {e}", place=place.text, e=str(e))
            return
        if told != entry.address.key:
            error = changed_key(place, entry.address.key, told)
            self._log.warn("{error}", error=str(error))
            self._peers.note_changed(entry, error)

    # --- at once ---------------------------------------------------------------------

    async def ask(self, place: HostPort) -> PublicKey:
        """
        Ask for the key of whoever listens at a place.  It is not proved.

        @raise KeyProbeFailed: if nobody tells.
        """
        if self._network.weak:
            raise KeyProbeFailed(
                f"{place} is not asked for its key: this network was made from a passphrase, so "
                f"nobody tells; write the whole address, as 'meshkit id' prints it there"
            )
        return await self._reach(
            place,
            lambda: probe_key(
                self._reactor,
                HostnameEndpoint(self._reactor, place.host, place.port),
                capability=Capability.of(self._network, key_probe.LABEL),
                own=self._own,
                rng=self._rng,
            ),
        )

    async def first_use(self, place: HostPort) -> MeshAddress:
        """
        Find out who is at a place, and have it proved.

        @raise PeerKeyChanged: if it is somebody else than is pinned there.
        """
        told = await self.ask(place)
        pin = self._peers.pin(place)
        if pin is not None and pin.key != told:
            raise changed_key(place, pin.key, told)
        address = MeshAddress(place.host, place.port, told)
        await self.dial(address, direct=True)
        return address

    async def dial(self, address: MeshAddress, pings: int = 0, *, direct: bool = False) -> Dialled:
        """
        Make a connection of our own to a peer, and close it again.

        @param direct: at the address, and not through relays, which prove nothing about it.
        @raise MeshkitError: why the peer could not be reached or authenticated.
        """
        began = self._reactor.seconds()
        factory = Factory.forProtocol(lambda: Pinging(self._reactor, self._rng))
        factory.noisy = False
        endpoint = self._connections.endpoint(address, LABEL, direct=direct)
        pinging: Pinging = await self._reach(address.place, lambda: endpoint.connect(factory))
        handshake = self._reactor.seconds() - began
        transport, relay = transport_of(pinging.connected_to)
        try:
            round_trips = [await self._pinged(address.place, pinging) for _ in range(pings)]
        finally:
            if pinging.transport is not None:
                pinging.transport.loseConnection()
        return Dialled(address, handshake, round_trips, transport, relay)

    async def dial_one_of(self, addresses: Sequence[MeshAddress], pings: int = 0) -> Dialled:
        """
        Dial a peer at one of its addresses after the other, until it answers.

        @param addresses: of one peer, at least one, the best first.
        @raise MeshkitError: why it could not be reached at the last of them.
        """
        *others, last = addresses
        for address in others:
            try:
                return await self.dial(address, pings)
            except MeshkitError as e:
                self._log.info(
                    "{address} is not where to reach it: {e}", address=address.text, e=str(e)
                )
        return await self.dial(last, pings)

    async def _pinged(self, place: HostPort, pinging: Pinging) -> float:
        return await self._reach(place, lambda: Deferred.fromCoroutine(pinging.ping()))

    async def _reach(self, place: HostPort, attempt: Callable[[], Deferred[T]]) -> T:
        try:
            return await attempt()
        except (ConnectError, ConnectionClosed, OSError) as e:
            raise named_error(place, e) from None
