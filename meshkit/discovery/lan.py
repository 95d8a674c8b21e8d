"""
Calling out on the local network, and listening for others: UDP around L{beacon}.

Each beacon goes out twice at each interface, to a multicast group and to the broadcast
address, as there are networks that drop the one or the other.  It does not leave the local
network, and what comes from elsewhere is not heard: anybody can send a datagram to our port.
IPv4 only: a node that listens on IPv6 as well says so in its address record.

Who hears somebody new calls out soon, so that a node that was just started need not wait for
the others' turn.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Interface
from random import Random
from typing import Any, ClassVar, Final

from attrs import define, frozen
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError, MulticastJoinError
from twisted.internet.interfaces import IDelayedCall, IMulticastTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.discovery.beacon import (
    BOOT_BYTES,
    FORGOTTEN_AFTER,
    INTERVAL,
    NONCE_BYTES,
    Beacon,
    Hearing,
    Neighbours,
    seal,
)
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.scopes import Scope, scope_of

#: Where beacons are sent: a group of the administratively scoped block (RFC 2365).
GROUP: Final = "239.255.77.75"
BROADCAST: Final = "255.255.255.255"
PORT: Final = 7656

#: Seconds within which we answer somebody new, and between two such answers.
ANSWER_WITHIN: Final = 1.0
ANSWER_EVERY: Final = 5.0
#: By which part of it the time between two beacons varies, so that nodes do not fall in step.
_JITTER: Final = 0.1
#: Longer datagrams are cut off there, which makes them no shorter than a beacon.
_MAX_DATAGRAM: Final = 1_024


@frozen
class Settings:
    """
    @ivar port: UDP port on which all nodes of the network listen for beacons.
    @ivar interval: seconds between two beacons.
    @ivar forgotten_after: seconds.
    """

    port: int = PORT
    interval: float = INTERVAL
    forgotten_after: float = FORGOTTEN_AFTER


@define
class _Interface:
    """
    One at which we call out.

    @ivar sending: its socket; L{None} if none could be opened.
    @ivar fault: why nobody hears us there.
    @ivar without_multicast: that it cannot do that was logged.
    """

    sending: IMulticastTransport | None = None
    fault: str | None = None
    without_multicast: bool = False


class LocalNetwork:
    """
    See the module.  Call L{start}, and in the end L{stop}.
    """

    _log: ClassVar[Logger] = Logger()

    def __init__(
        self,
        reactor: Any,
        rng: Random,
        wall_clock: Callable[[], int],
        key: bytes,
        own: PublicKey,
        *,
        listening: Callable[[], int | None],
        changed: Callable[[], None],
        networks: Callable[[], Sequence[IPv4Interface] | None],
        interfaces: Callable[[], Sequence[str]] = lambda: ("",),
        settings: Settings | None = None,
    ) -> None:
        """
        @param reactor: C{IReactorTime} and C{IReactorMulticast}.
        @param wall_clock: nanoseconds since 1970.
        @param key: 32 bytes: L{NetworkKey.beacon <meshkit.identity.network.NetworkKey.beacon>}.
        @param listening: gives the TCP port at which others reach us; L{None} for now if there is
            none, and then we only listen.
        @param changed: called when L{addresses} may give others, or the same ones anew because
            somebody was started again.
        @param networks: gives the addresses of this machine and their networks, asked before each
            beacon: who is in none of these is not heard.  L{None} if that is not known; then
            those are heard who are not public.
        @param interfaces: gives the IPv4 addresses of those at which we call out, asked before
            each beacon; an empty one stands for what the system chooses.  Who is at this machine's
            own, 127.0.0.1, is heard only if that is one of them.
        """
        self._reactor = reactor
        self._rng = rng
        self._wall_clock = wall_clock
        self._key = key
        self._own = own
        self._listening = listening
        self._changed = changed
        self._find_networks = networks
        self._networks: Sequence[IPv4Interface] | None = ()
        self._find_interfaces = interfaces
        self._settings = settings or Settings()
        self._boot = rng.randbytes(BOOT_BYTES)
        self._neighbours = Neighbours(
            key, own, self._boot, self._unix(), self._settings.forgotten_after
        )
        self._receiving: IMulticastTransport | None = None
        self._interfaces: dict[str, _Interface] = {}
        self._calls: dict[str, IDelayedCall] = {}
        self._sent_at = float("-inf")
        self._twin_told = False

    def _unix(self) -> int:
        return self._wall_clock() // 10**9

    def addresses(self) -> list[MeshAddress]:
        """Where others are who were heard lately, sorted."""
        return self._neighbours.addresses()

    def heard(self) -> dict[str, int]:
        """How many datagrams came to what, by the values of L{Hearing}."""
        return {each.value: self._neighbours.heard_of[each] for each in Hearing}

    def interfaces(self) -> list[str]:
        """Where we call out, sorted; an empty one stands for what the system chooses."""
        return sorted(self._interfaces)

    def faults(self) -> dict[str, str]:
        """Interfaces at which nobody hears us, and why."""
        return {
            name: each.fault
            for name, each in sorted(self._interfaces.items())
            if each.fault is not None
        }

    def start(self) -> None:
        """
        Listen, and call out for the first time.

        @raise CannotListenError: from L{twisted.internet.error}: the UDP port is taken by a
            program that does not share it.
        """
        # Other nodes on this host listen at the same port.
        self._receiving = self._reactor.listenMulticast(
            self._settings.port, _Receiving(self), "", _MAX_DATAGRAM, listenMultiple=True
        )
        self._beat()

    def stop(self) -> Deferred[None]:
        """@return: Deferred that fires when all sockets are closed.  It cannot be cancelled."""
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        receiving, self._receiving = self._receiving, None
        sockets = [each.sending for each in self._interfaces.values()]
        self._interfaces.clear()
        closing = [
            maybeDeferred(each.stopListening) for each in (receiving, *sockets) if each is not None
        ]
        return gatherResults(closing, consumeErrors=True).addCallback(lambda _: None)

    # --- calling out ----------------------------------------------------------------------------

    def _later(self, name: str, seconds: float, function: Callable[[], None]) -> None:
        """Call something once; one call of each name is under way at most."""
        if name in self._calls or self._receiving is None:
            return

        def run() -> None:
            del self._calls[name]
            function()

        self._calls[name] = self._reactor.callLater(seconds, run)

    def _beat(self) -> None:
        self._look_at_interfaces()
        self._call_out()
        spread = self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        self._later("beat", self._settings.interval * spread, self._beat)

    def _answer_soon(self) -> None:
        # The clock may have been set back since.
        wait = min(max(0.0, self._sent_at + ANSWER_EVERY - self._reactor.seconds()), ANSWER_EVERY)
        self._later("answer", wait + self._rng.uniform(0, ANSWER_WITHIN), self._call_out)

    def _call_out(self) -> None:
        port = self._listening()
        if port is None:
            return
        self._sent_at = self._reactor.seconds()
        beacon = Beacon(self._own, port, self._unix(), self._boot)
        for name, interface in self._interfaces.items():
            if interface.sending is not None:
                # Each with a nonce of its own, or a host with two interfaces in one network
                # would be known at one of them only.
                datagram = seal(self._key, beacon, self._rng.randbytes(NONCE_BYTES))
                self._neighbours.note_sent(datagram, self._sent_at)
                self._send(name, interface, interface.sending, datagram)

    def _send(
        self, name: str, interface: _Interface, sending: IMulticastTransport, datagram: bytes
    ) -> None:
        problems = []
        for to in (GROUP, BROADCAST):
            try:
                sending.write(datagram, (to, self._settings.port))
            except OSError as e:
                problems.append(str(e))
        # One of the two is enough.
        self._note(name, interface, problems[0] if len(problems) == 2 else None)

    def _note(self, name: str, interface: _Interface, fault: str | None) -> None:
        if fault is not None and interface.fault is None:
            self._log.info(
                "nobody hears us at the interface {name}: {fault}",
                name=name or "of the system's choice",
                fault=fault,
            )
        interface.fault = fault

    # --- interfaces -----------------------------------------------------------------------------

    def _look_at_interfaces(self) -> None:
        """Open what is new, and what could not be opened before; close what is gone."""
        assert self._receiving is not None
        wanted = set(self._find_interfaces())
        self._networks = self._find_networks()
        for name in sorted(self._interfaces.keys() - wanted):
            sending = self._interfaces.pop(name).sending
            if sending is not None:
                # The group is left with the interface.
                maybeDeferred(sending.stopListening).addErrback(self._unexpected)
        for name in sorted(wanted):
            interface = self._interfaces.setdefault(name, _Interface())
            if interface.sending is None:
                self._open(name, interface)
            # Each time: it may have been away meanwhile, with the same address.
            if interface.sending is not None:
                self._try_multicast(name, interface, self._receiving.joinGroup(GROUP, name))

    def _open(self, name: str, interface: _Interface) -> None:
        try:
            sending = self._reactor.listenMulticast(0, _Quiet(), name, _MAX_DATAGRAM)
        except (CannotListenError, OSError) as e:
            self._note(name, interface, str(e))
            return
        interface.sending = sending
        sending.setBroadcastAllowed(True)
        sending.setTTL(1)
        if name:
            self._try_multicast(name, interface, sending.setOutgoingInterface(name))

    def _try_multicast(self, name: str, interface: _Interface, trying: Deferred[Any]) -> None:
        def failed(failure: Failure) -> None:
            failure.trap(MulticastJoinError, OSError)
            error = failure.value
            # That we are in the group already is what we want.
            if isinstance(error, MulticastJoinError) and errno.EADDRINUSE in error.args:
                return
            if not interface.without_multicast:
                interface.without_multicast = True
                # Broadcasts may be heard all the same.
                self._log.info(
                    "no multicast at the interface {name}: {error}",
                    name=name or "of the system's choice",
                    error=str(error),
                )

        trying.addErrback(failed)
        trying.addErrback(self._unexpected)

    def _unexpected(self, failure: Failure) -> None:
        self._log.failure("a socket for beacons failed", failure)

    # --- listening ------------------------------------------------------------------------------

    def received(self, datagram: bytes, host: str) -> None:
        """Somebody's datagram came."""
        if self._receiving is None:
            return
        if not self._is_near(host):
            self._neighbours.heard_of[Hearing.ELSEWHERE] += 1
            return
        now = self._reactor.seconds()
        hearing = self._neighbours.heard(datagram, host, now, self._unix())
        if hearing is Hearing.NEW:
            self._forget_later()
            self._answer_soon()
            self._changed()
        elif hearing is Hearing.TWIN and not self._twin_told:
            self._twin_told = True
            self._log.warn(
                "another node, at {host}, has the identity of this one: stop one of them, as "
                "both write one feed",
                host=host,
            )

    def _is_near(self, host: str) -> bool:
        """Is this host in a local network of ours?"""
        address = IPv4Address(host)
        if address.is_loopback:
            return host in self._interfaces
        if self._networks is None:
            return scope_of(address) in (Scope.LINK, Scope.SITE)
        return any(address in each.network for each in self._networks)

    def _forget_later(self) -> None:
        at = self._neighbours.next_forgotten()
        if at is not None:
            wait = min(max(0.0, at - self._reactor.seconds()), self._settings.forgotten_after)
            self._later("forget", wait, self._forget)

    def _forget(self) -> None:
        changed = self._neighbours.forget(self._reactor.seconds())
        self._forget_later()
        if changed:
            self._changed()


class _Quiet(DatagramProtocol):
    noisy = False


class _Receiving(_Quiet):
    def __init__(self, network: LocalNetwork) -> None:
        self._network = network

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._network.received(datagram, addr[0])
