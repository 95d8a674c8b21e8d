"""
The peers of a relay, for the parts of it: who is registered, and how one gets to be.

All of them are in memory too, some 500 bytes each, as it is asked for every message that comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from meshkit.errors import MeshkitError, NotRegistered, RegistrationError, RegistrationInvalid
from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import IRegistrations, RegistrationChanged
from meshkit.parts import shield
from meshkit.relay.registry import store
from meshkit.relay.registry.registration import Entered, Registration, proves
from meshkit.relay.registry.rules import Rules
from meshkit.relay.registry.store import Listing, Peer

__all__ = ["SEEN_SECONDS", "SWEEP_SECONDS", "Registry", "RegistryFigures"]

#: Seconds between two notes that a peer was there.
SEEN_SECONDS: Final = 3_600
#: Seconds between two looks at who has not come for long.
SWEEP_SECONDS: Final = 600.0


@frozen
class RegistryFigures:
    """
    @ivar peers: that are registered.
    @ivar listed: of them, those in the directory.
    @ivar max_peers: how many are taken.
    @ivar entered: registrations that came, since the start.
    @ivar refused: those that were refused, by the codes of the errors.
    """

    peers: int
    listed: int
    max_peers: int
    entered: int
    refused: Mapping[str, int]


@implementer(IRegistrations)
class Registry:
    """See the module."""

    _log = Logger()

    def __init__(
        self,
        identity: Identity,
        networks: Mapping[bytes, bytes],
        database: Any,
        events: Any,
        *,
        reactor: IReactorTime,
        wall_clock: Callable[[], int],
        rules: Rules,
        idle_seconds: int | None,
    ) -> None:
        """
        @param identity: of the relay.
        @param networks: ids of the networks whose members may register, and the capability of
            the label C{registry} in each.
        @param database: L{meshkit.runtime.database.Database}.
        @param events: L{meshkit.runtime.events.EventBus}: told who comes and goes.
        @param wall_clock: nanoseconds since 1970.
        @param idle_seconds: after which a peer is forgotten that was not there; L{None}: never.
        """
        self._identity = identity
        self._networks = dict(networks)
        self._database = database
        self._events = events
        self._wall_clock = wall_clock
        self._idle = idle_seconds
        self.rules = rules
        self._peers: dict[PublicKey, Peer] = {}
        self._seen: dict[PublicKey, int] = {}
        # What is in memory follows what is on the disk, in the order of the disk.
        self._turn = DeferredLock()
        self._entered = 0
        self._refused: dict[str, int] = {}
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    # --- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Know who is registered."""
        relay, networks = self._identity.public, tuple(self._networks)
        found = await self._database.write(lambda c: store.everybody(c, relay, networks))
        self._peers = {peer.key: peer for peer in found}
        self._loop.start(SWEEP_SECONDS, now=False)

    async def stop(self) -> None:
        """Write down who was there."""
        if self._loop.running:
            self._loop.stop()
        await self._note_seen()

    def _look(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._look_round())

    async def _look_round(self) -> None:
        try:
            await self._note_seen()
            now, idle = self._now(), self._idle
            await self._turn.run(lambda: Deferred.fromCoroutine(self._forget(now, idle)))
        except MeshkitError as e:
            self._log.error("who is registered cannot be looked through: {error}", error=str(e))

    async def _forget(self, now: int, idle: int | None) -> None:
        for key in await self._database.write(lambda c: store.sweep(c, now, idle)):
            self._gone(key)
            self._log.info("{peer} was not here for long and is not registered any more", peer=key)

    async def _note_seen(self) -> None:
        seen, self._seen = self._seen, {}
        if seen:
            for key, when in seen.items():
                if key in self._peers:
                    self._peers[key] = evolve(self._peers[key], seen=when)
            rows = sorted((key.raw, when) for key, when in seen.items())
            await self._database.write(lambda c: store.note_seen(c, rows))

    def _now(self) -> int:
        return self._wall_clock() // 10**6

    # --- who is there ------------------------------------------------------------------

    def is_registered(self, key: PublicKey) -> bool:
        return key in self._peers

    def registered(self) -> Sequence[PublicKey]:
        return sorted(self._peers, key=lambda key: key.raw)

    def find(self, key: PublicKey) -> Peer | None:
        """@return: what is kept of a peer; L{None} if it is not registered."""
        return self._peers.get(key)

    def saw(self, key: PublicKey) -> None:
        """A peer has proved that it is there."""
        peer, now = self._peers.get(key), self._now() // 1000
        if peer is not None and now - self.seen(key) >= SEEN_SECONDS:
            self._seen[key] = now

    def seen(self, key: PublicKey) -> int:
        """@return: when a peer was there last, in seconds of Unix time; 0 for who is not here."""
        peer = self._peers.get(key)
        return 0 if peer is None else max(peer.seen, self._seen.get(key, 0))

    def figures(self) -> RegistryFigures:
        """@return: how it stands."""
        listed = sum(peer.registration.listed for peer in self._peers.values())
        return RegistryFigures(
            len(self._peers), listed, self.rules.max_peers, self._entered, dict(self._refused)
        )

    def directory(self, after: bytes, limit: int) -> Deferred[Listing]:
        """
        @param after: key of the last peer that is not wanted again; empty at first.
        @param limit: how many at most.
        @return: Deferred of those that want to be listed.
        """
        found: Deferred[Listing] = self._database.read(lambda c: store.directory(c, after, limit))
        return found

    # --- who comes and goes -------------------------------------------------------------

    def enter(self, raw: bytes, caller: PublicKey) -> Deferred[Entered]:
        """
        Have a registration count that came over a channel of the network.

        @param caller: whose channel it is.
        @return: Deferred of our word, fired when it is on the disk.  Fails with
            L{RegistrationError}.
        """
        return self._admit(raw, lambda registration: self._check_caller(registration, caller))

    def enter_proved(self, raw: bytes, proof: bytes) -> Deferred[Entered]:
        """
        Have a registration count that came from anywhere.

        @param proof: shows that its peer belongs to the network.
        @return: as L{enter}.
        """
        return self._admit(raw, lambda registration: self._check_proof(registration, proof))

    def enter_known(self, raw: bytes) -> Deferred[Entered]:
        """
        Have a newer registration of a peer count that came from anywhere: that it belongs to the
        network was shown before.

        @return: as L{enter}; fails with L{NotRegistered} too.
        """
        return self._admit(raw, self._check_known)

    def _admit(self, raw: bytes, check: Callable[[Registration], None]) -> Deferred[Entered]:
        return shield(self._turn.run(lambda: Deferred.fromCoroutine(self._enter(raw, check))))

    async def _enter(self, raw: bytes, check: Callable[[Registration], None]) -> Entered:
        try:
            registration = Registration.open(raw, self._identity.public, tuple(self._networks))
            check(registration)
            now = self._now()
            outcome, peer = await self._database.write(
                lambda c: store.enter(c, registration, self.rules, now)
            )
        except RegistrationError as e:
            self._refused[e.code] = self._refused.get(e.code, 0) + 1
            raise
        if outcome == "left":
            self._gone(peer.key)
        else:
            self._peers[peer.key] = peer
        if outcome in ("entered", "left"):
            self._entered += outcome == "entered"
            self._log.info("{peer} has {outcome}", peer=peer.key.text, outcome=outcome)
        if outcome == "entered":
            self._events.publish(RegistrationChanged(peer.key, registered=True))
        return Entered.seal(self._identity, registration, now)

    def _check_caller(self, registration: Registration, caller: PublicKey) -> None:
        if registration.peer != caller:
            raise RegistrationInvalid(
                f"the registration is of {registration.peer.text}, and {caller.text} shows it"
            )

    def _check_proof(self, registration: Registration, proof: bytes) -> None:
        if not proves(self._networks[registration.network], registration.raw, proof):
            raise RegistrationInvalid(
                "the proof does not show that the peer belongs to the network of this relay"
            )

    def _check_known(self, registration: Registration) -> None:
        if registration.peer not in self._peers:
            raise NotRegistered(f"{registration.peer.text} is not registered at this relay")

    def remove(self, key: PublicKey) -> Deferred[None]:
        """
        By order of the operator, forget a peer.  It can come again, unless the settings keep it
        out.

        @return: Deferred that fires when that is on the disk.  Fails with L{NotRegistered}.
        """
        return shield(self._turn.run(lambda: Deferred.fromCoroutine(self._remove(key))))

    async def _remove(self, key: PublicKey) -> None:
        if not await self._database.write(lambda c: store.remove(c, key.raw)):
            raise NotRegistered(f"{key.text} is not registered at this relay")
        self._gone(key)

    def _gone(self, key: PublicKey) -> None:
        self._seen.pop(key, None)
        if self._peers.pop(key, None) is not None:
            self._events.publish(RegistrationChanged(key, registered=False))
