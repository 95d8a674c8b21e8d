"""
One port, many protocols: the hello of each connection says which is wanted.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from random import Random
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import (
    HelloReplayed,
    MeshkitError,
    NetworkKeyRefused,
    PeerTooSlow,
    TooManyConnections,
    TooManyHandshakes,
)
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.runtime.limits import TokenBucket
from meshkit.shs.channel import HANDSHAKE_TIMEOUT, SecureChannel, Traffic
from meshkit.shs.hellos import EPHEMERAL_BYTES, Capability, HelloTable, ReplayCache
from meshkit.shs.places import Places
from meshkit.shs.suites import SHS1, Opening, Session, Suite
from meshkit.shs.turns import Turns
from meshkit.shs.unsent import Unsent

#: C{authorize(peer, label)}: C{True} admits.  A C{bool}, or a Deferred of it.
Authorize = Callable[[PublicKey, str], Any]

#: C{admit(address)}: raises a L{meshkit.errors.HandshakeError} to turn away a hello that
#: came from this address, before it is answered.
Admit = Callable[[IAddress | None], None]

#: C{on_refusal(address, error)}: the address beneath and why it was turned away.
OnRefusal = Callable[[IAddress, MeshkitError], None]

#: Connections that have not proved who they are, in all.
MAX_UNAUTHENTICATED: Final = 512
#: ... from one IPv4 address or one IPv6 /64.
MAX_UNAUTHENTICATED_PER_ORIGIN: Final = 16
#: ... from this machine.
MAX_UNAUTHENTICATED_LOCAL: Final = 32

#: Of the connections that a listener may have, so many are for those that have not proved
#: who they are: one in four, and no more than the above.
_UNAUTHENTICATED_SHARE: Final = 4

#: Bytes that peers may leave unread, beyond some 64 KiB of each connection: all, and one.
MAX_UNSENT: Final = 128 * 1024 * 1024
MAX_UNSENT_PER_PEER: Final = 8 * 1024 * 1024

#: Lines of the log about connections that were refused, at once, and then each second: anybody
#: can have them written.  All are counted.
LOGGED_REFUSALS: Final = 100
_LOGGED_RATE: Final = 1.0

#: Seconds between two lines of the log that say that there is no room.
_SAY_FULL: Final = 60.0

#: Addresses that are remembered in their parsed form.
_KNOWN_ADDRESSES: Final = 1_024

#: Seconds that L{SecureListener.close_all} gives peers to take what is left.
CLOSE_ALL_TIMEOUT: Final = 5.0


@frozen
class Foreign:
    """
    A protocol of another network than the node's own, for L{SecureListener.register}.

    @ivar capability: what selects it; its key is that network's own.
    @ivar suite: the handshake that leads to it.
    @ivar factory: its C{buildProtocol} gets a L{PeerAddress}.
    """

    capability: Capability
    suite: Suite
    factory: IProtocolFactory


@frozen
class _Offer:
    suite: Suite
    factory: IProtocolFactory | None = None
    authorize: Authorize | None = None
    admit: Admit | None = None
    counted: bool = True


@frozen
class _Origin:
    """Addresses that share a limit, because one host can have them all."""

    name: str
    limit: int


def ip_of(address: IAddress | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """
    @return: the IP address; IPv4 if it is one that is mapped into IPv6; L{None} for what
        is not of the Internet.
    """
    return _parsed(str(getattr(address, "host", None)))


@lru_cache(_KNOWN_ADDRESSES)
def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped or ip
    return ip


def origin_of(address: IAddress | None) -> str:
    """@return: one name for all addresses that one host can have: an IPv4 address or a /64."""
    return _origin_of(address).name


def _origin_of(address: IAddress | None) -> _Origin:
    ip = ip_of(address)
    if ip is None:
        # Not the Internet: a unix socket, a tunnel's circuit, memory.
        return _Origin(str(address), MAX_UNAUTHENTICATED_LOCAL)
    if ip.is_loopback:
        return _Origin("this machine", MAX_UNAUTHENTICATED_LOCAL)
    if isinstance(ip, ipaddress.IPv6Address):
        block = ipaddress.IPv6Network((int(ip) >> 64 << 64, 64))
        return _Origin(str(block), MAX_UNAUTHENTICATED_PER_ORIGIN)
    return _Origin(str(ip), MAX_UNAUTHENTICATED_PER_ORIGIN)


class SecureListener(ServerFactory):
    """
    The factory of a port that speaks the secure channel.

    Protocols are registered and unregistered while it runs.  A connection is counted
    as unauthenticated until its peer has proved its key and was admitted; when there
    are too many of those, a random one is dropped to make room, so that a flood
    slows newcomers down but cannot shut them out.

    When there are too many authenticated ones, a newcomer gets the place of the oldest
    connection of the address that has most, if that has two more than its own; else it is
    refused.  So who makes keys gains nothing by it.

    Of what is written to peers that do not read it there may be L{MAX_UNSENT} bytes, of one
    peer L{MAX_UNSENT_PER_PEER}; who has most is cut off then.

    @ivar traffic: what its connections did together.
    @ivar refusals: how many connections were turned away, by error code.
    @ivar on_refusal: called for each of them.
    """

    _log = Logger()
    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        identity: Identity,
        rng: Random,
        *,
        timeout: float = HANDSHAKE_TIMEOUT,
        on_refusal: OnRefusal | None = None,
        max_per_peer: int | None = None,
        max_connections: int | None = None,
        max_unsent: int = MAX_UNSENT,
        max_unsent_per_peer: int = MAX_UNSENT_PER_PEER,
    ) -> None:
        """
        @param rng: gives 32 bytes for each connection, and chooses who is dropped.
        @param timeout: seconds for each whole handshake.
        @param max_per_peer: connections that one authenticated peer may have here, over
            all protocols that do not bound that themselves.  A further one cuts the oldest of
            the protocol that the peer has most of: the peer may have forgotten that one, and the
            new one is sure to be wanted.  L{None} sets no limit, and leaves it to the factories.
        @param max_connections: connections at a time, authenticated or not; at least 4.
            L{None} sets no limit to the former.
        @param max_unsent: bytes that all peers together may leave unread.
        @param max_unsent_per_peer: the same of one peer.
        """
        self._reactor = reactor
        self._identity = identity
        self._rng = rng
        self._timeout = timeout
        self.on_refusal = on_refusal
        self.refusals: dict[str, int] = Counter()
        self.traffic = Traffic()
        self._turns = Turns(reactor)
        self._hellos = HelloTable()
        self._replays = ReplayCache()
        self._offers: dict[Capability, _Offer] = {}
        # Insertion-ordered; channels that are not authenticated, in all and by origin.
        self._waiting: dict[SecureChannel, _Origin] = {}
        self._by_origin: dict[str, dict[SecureChannel, None]] = {}
        # Channels that are authenticated, and with whom.
        self._live: dict[SecureChannel, PublicKey] = {}
        # The same by peer, if that is limited.
        self._max_per_peer = max_per_peer
        self._max_waiting = MAX_UNAUTHENTICATED
        self._max_live: int | None = None
        if max_connections is not None:
            waiting = min(MAX_UNAUTHENTICATED, max_connections // _UNAUTHENTICATED_SHARE)
            if waiting < 1:
                raise ValueError(f"{max_connections} connections are too few: give at least 4")
            self._max_waiting = waiting
            self._max_live = max_connections - waiting
        # The authenticated ones by their origins, if their number is limited.
        self._places: Places[SecureChannel] = Places()
        self._said_full: float | None = None
        self._logged = TokenBucket(_LOGGED_RATE, LOGGED_REFUSALS)
        self._not_logged = 0
        self._unsent: Unsent[SecureChannel, PublicKey] = Unsent(
            max_unsent, max_unsent_per_peer, self._leaves_too_much
        )
        self._by_peer: dict[PublicKey, dict[SecureChannel, None]] = {}
        # These, and those that were dropped but are not gone yet.
        self._all: dict[SecureChannel, None] = {}
        self._stopping = False
        self._closed: list[Deferred[None]] = []
        self._close_call: IDelayedCall | None = None

    # --- what is offered ---

    def register(
        self,
        capability: Capability,
        factory: IProtocolFactory,
        authorize: Authorize | None = None,
        suite: Suite = SHS1,
        *,
        counted: bool = True,
    ) -> None:
        """
        Offer a protocol.

        @param factory: its C{buildProtocol} gets a L{PeerAddress}, after the handshake.
        @param authorize: asked after the peer has proved its key and before it learns
            anything from us; has 2 s.  Anything but C{True} refuses the peer, which
            sees the same silence as after a bad signature.  L{None} admits every
            member of the network.
        @param suite: the handshake that leads to it.
        @param counted: its connections count in C{max_per_peer}; if not, the factory itself
            sees to it that no peer has too many.
        @raise meshkit.errors.PartConflict: if the label, the key or the table is taken.
        """
        self._offer_one(capability, _Offer(suite, factory, authorize, counted=counted))

    def register_answer(
        self, capability: Capability, suite: Suite, admit: Admit | None = None
    ) -> None:
        """
        Offer what ends with its handshake and leads to no stream: the key probe.

        @param admit: asked before a hello is answered.
        @raise meshkit.errors.PartConflict: if the label, the key or the table is taken.
        """
        self._offer_one(capability, _Offer(suite, admit=admit))

    def _offer_one(self, capability: Capability, offer: _Offer) -> None:
        self._hellos.register(capability, offer.suite.check)
        self._offers[capability] = offer
        if self.numPorts and offer.factory is not None:
            offer.factory.doStart()

    def unregister(self, capability: Capability) -> None:
        """
        Offer a protocol no longer.  Handshakes for it that are under way are refused;
        connections that are open belong to the factory and stay.

        @raise LookupError: if it is not offered.
        """
        self._hellos.unregister(capability)
        offer = self._offers.pop(capability)
        if self.numPorts and offer.factory is not None:
            offer.factory.doStop()

    @property
    def channels(self) -> tuple[SecureChannel, ...]:
        """The authenticated connections, oldest first."""
        return tuple(self._live)

    @property
    def unauthenticated(self) -> int:
        """How many connections have not proved who they are."""
        return len(self._waiting)

    # --- ServerFactory ---

    def startFactory(self) -> None:
        self._stopping = False
        for offer in self._offers.values():
            if offer.factory is not None:
                offer.factory.doStart()

    def stopFactory(self) -> None:
        for offer in self._offers.values():
            if offer.factory is not None:
                offer.factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """@return: a new L{SecureChannel}; L{None} while everything is being closed."""
        if self._stopping:
            return None
        origin = _origin_of(addr)
        self._make_room(origin)
        choose = partial(self._choose, addr, self._rng.randbytes(EPHEMERAL_BYTES))
        opening = Opening(self._identity, choose)
        channel = SecureChannel(
            self._reactor,
            opening,
            self,
            timeout=self._timeout,
            turns=self._turns,
            traffic=self.traffic,
            unsent=self._unsent,
        )
        self._all[channel] = None
        self._waiting[channel] = origin
        self._by_origin.setdefault(origin.name, {})[channel] = None
        return channel

    def _choose(self, address: IAddress | None, ephemeral: bytes, hello: bytes) -> Session:
        capability = self._hellos.match(hello)
        if capability is None:
            raise NetworkKeyRefused(
                "a hello proves no protocol offered here: if it comes from one of your nodes, "
                "check that both use the same network secret and that the part is enabled"
            )
        if not self._replays.is_new(hello, self._reactor.seconds()):
            raise HelloReplayed(
                f"a hello for {capability.name} was received twice: somebody plays back a "
                f"recording, nothing was answered"
            )
        offer = self._offers[capability]
        if offer.admit is not None:
            offer.admit(address)
        return offer.suite.respond(self._identity, capability, ephemeral)

    def _make_room(self, origin: _Origin) -> None:
        same = self._by_origin.get(origin.name, {})
        if len(same) >= origin.limit:
            self._drop_one(
                same, f"{origin.limit} handshakes are under way with {origin.name} already"
            )
        elif len(self._waiting) >= self._max_waiting:
            self._drop_one(self._waiting, f"{self._max_waiting} handshakes are under way already")

    def _drop_one(self, among: dict[SecureChannel, Any], why: str) -> None:
        victims = list(among)
        victim = victims[int(self._rng.random() * len(victims))]
        # Its place is free now; its connection is gone a turn later.
        self._forget(victim)
        victim.refuse(TooManyHandshakes(f"{why}: one at random was dropped, try again"))

    def _forget(self, channel: SecureChannel) -> None:
        origin = self._waiting.pop(channel, None)
        if origin is not None:
            same = self._by_origin[origin.name]
            del same[channel]
            if not same:
                del self._by_origin[origin.name]

    def _limit_peer(self, channel: SecureChannel, peer: PublicKey) -> None:
        if self._max_per_peer is None:
            return
        same = self._by_peer.setdefault(peer, {})
        same[channel] = None
        if len(same) > self._max_per_peer:
            labels = Counter(each.capability for each in same)
            # Of the oldest channels with the largest count, the first.
            victim = max(same, key=lambda each: labels[each.capability])
            self._log.info(
                "{peer} has more than {limit} connections: the oldest for {name} is cut",
                peer=peer.text,
                limit=self._max_per_peer,
                name="?" if victim.capability is None else victim.capability.name,
            )
            # Its place is free now; its connection is gone a turn later.
            self._leave(victim)
            victim.abortConnection()

    def _has_place(self, channel: SecureChannel) -> bool:
        """Is there room for one more that is authenticated, or was room made?"""
        if self._max_live is None:
            return True
        origin = _origin_of(channel.inner_peer).name
        if len(self._places) >= self._max_live:
            victim = self._places.gives_way(origin)
            self._say_full(victim)
            if victim is None:
                return False
            # Its place is free now; its connection is gone a turn later.
            self._leave(victim)
            victim.abortConnection()
        self._places.take(channel, origin)
        return True

    def _say_full(self, victim: SecureChannel | None) -> None:
        error = TooManyConnections(
            f"{self._max_live} peers are connected already: "
            + ("a newcomer is refused" if victim is None else "the oldest gives way")
        )
        self.refusals[error.code] += 1
        now = self._reactor.seconds()
        if self._said_full is None or now - self._said_full >= _SAY_FULL:
            self._said_full = now
            self._log.warn(
                "{code}: {error}, and so on for a while: for more, raise the limit of open files "
                "(ulimit -n, LimitNOFILE)",
                code=error.code,
                error=str(error),
            )

    def _leaves_too_much(self, channel: SecureChannel, size: int) -> None:
        error = PeerTooSlow(f"it was cut as its peer left {size} bytes unread")
        self.refusals[error.code] += 1
        channel.give_up(error)

    def _leave(self, channel: SecureChannel) -> None:
        self._places.leave(channel)
        peer = self._live.pop(channel, None)
        if peer is not None and channel in self._by_peer.get(peer, ()):
            same = self._by_peer[peer]
            del same[channel]
            if not same:
                del self._by_peer[peer]

    # --- ChannelOwner ---

    def authorize(self, channel: SecureChannel, peer: PublicKey) -> Any:
        offer = self._offer(channel)
        if offer is None or channel.capability is None:
            return False
        if offer.authorize is None:
            return True
        return offer.authorize(peer, channel.capability.label)

    def build_protocol(self, channel: SecureChannel, address: PeerAddress) -> IProtocol | None:
        self._forget(channel)
        if not self._has_place(channel):
            channel.abortConnection()
            return None
        self._live[channel] = address.key
        offer = self._offer(channel)
        if offer is None or offer.counted:
            self._limit_peer(channel, address.key)
        if offer is None or offer.factory is None:
            return None
        try:
            return offer.factory.buildProtocol(address)
        except Exception:
            self._log.failure("the factory {factory} raised an exception", factory=offer.factory)
            raise

    def channel_opened(self, channel: SecureChannel, protocol: IProtocol) -> None:
        pass  # it is live since its protocol was asked for

    def channel_failed(self, channel: SecureChannel, reason: Failure) -> None:
        error = reason.value
        if not isinstance(error, MeshkitError):
            return  # we aborted it ourselves, or it is a local bug, which was logged
        self.refusals[error.code] += 1
        address = channel.inner_peer
        self._log_refusal(address, error)
        if self.on_refusal is not None:
            self.on_refusal(address, error)

    def _log_refusal(self, address: IAddress, error: MeshkitError) -> None:
        if self._logged.take(1.0, self._reactor.seconds()):
            self._not_logged += 1
            return
        more, self._not_logged = self._not_logged, 0
        self._log.info(
            "refused {address}: {code}: {error}"
            + (" (and {more} more before that)" if more else ""),
            address=address,
            code=error.code,
            error=str(error),
            more=more,
        )

    def channel_lost(self, channel: SecureChannel) -> None:
        self._forget(channel)
        self._leave(channel)
        self._all.pop(channel, None)
        self._tell_if_closed()

    def _offer(self, channel: SecureChannel) -> _Offer | None:
        # It may have been unregistered since the hello was matched.
        capability = channel.capability
        return None if capability is None else self._offers.get(capability)

    # --- stopping ---

    def close_all(self, timeout: float = CLOSE_ALL_TIMEOUT) -> Deferred[None]:
        """
        Close every connection and take no new one, until the port is opened again.

        @param timeout: seconds for peers to take what is left; then they are cut off.
        @return: Deferred that fires with L{None} when all are gone.  Cancelling it
            only forgets the wish to be told.
        """
        self._stopping = True
        if not self._all:
            return succeed(None)
        told: Deferred[None] = Deferred()
        self._closed.append(told)
        if self._close_call is None:
            self._close_call = self._reactor.callLater(timeout, self._cut_off)
        for channel in tuple(self._all):
            if channel in self._live:
                channel.loseConnection()
            else:
                channel.abortConnection()
        return told

    def _cut_off(self) -> None:
        self._close_call = None
        for channel in tuple(self._all):
            channel.abortConnection()

    def _tell_if_closed(self) -> None:
        if self._all or not self._closed:
            return
        if self._close_call is not None:
            self._close_call.cancel()
            self._close_call = None
        waiting, self._closed = self._closed, []
        for told in waiting:
            told.callback(None)
