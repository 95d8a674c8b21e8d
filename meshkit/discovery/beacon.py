"""
Beacons: what a node calls out on its own network, so that others find it.  Pure.

A beacon is one datagram that only members can make or read (C{docs/protocol/beacons.md})::

    beacon   = nonce (24) | XChaCha20-Poly1305(K, nonce, padded)          160 bytes, always
    padded   = MessagePack [key, port, time, boot] | 0x80 | zeros          120 bytes
    K        = HMAC-SHA256(network key, "meshkit/beacon/lan/1")

It says who listens and at which port; the host is the one it comes from.  It is no proof: any
member can make one in anybody's name, and anybody can send a recorded one again, from another
host.  Either costs us a dial that fails, because whoever answers has to prove the key.

L{Neighbours} decides what is believed, and remembers it for a while.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from ipaddress import ip_address
from typing import Annotated, Final

import msgspec
from attrs import define, frozen
from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.errors import InvalidPublicKey
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import KEY_BYTES, PublicKey

#: Of the derived key, L{meshkit.identity.network.NetworkKey.beacon}.
LABEL: Final = "lan"

NONCE_BYTES: Final = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
BOOT_BYTES: Final = 16
_PADDED_BYTES: Final = 120
BEACON_BYTES: Final = NONCE_BYTES + _PADDED_BYTES + 16

#: Seconds between a node's beacons, and how long one is believed.
INTERVAL: Final = 30.0
FORGOTTEN_AFTER: Final = 90.0

#: How far the clock of another node may be from ours, in seconds.
WINDOW: Final = 120
#: Beacons that are opened in a second, in all and from one host.
MAX_OPENED: Final = 50
MAX_OPENED_OF_HOST: Final = 5
#: Nodes that are remembered, how many of them at one host, and places of each.
MAX_NEIGHBOURS: Final = 256
MAX_OF_HOST: Final = 8
MAX_PLACES: Final = 4
#: Beacons that are remembered to know them again.
MAX_REMEMBERED: Final = 4_096

#: Ports below 1024 at which a node may be: it is no way to have others knock at those.
_LOW_PORTS: Final = frozenset({80, 443})
_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


@frozen
class Beacon:
    """
    What a beacon says.

    @ivar key: who listens.
    @ivar port: where, 1 to 65535.
    @ivar time: seconds since 1970, by the sender's clock.
    @ivar boot: 16 random bytes, others after each start of the sender.
    """

    key: PublicKey
    port: int
    time: int
    boot: bytes


class _Wire(msgspec.Struct, array_like=True, frozen=True):
    """A later version may say more behind these."""

    key: Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    time: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    boot: Annotated[bytes, msgspec.Meta(min_length=BOOT_BYTES, max_length=BOOT_BYTES)]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Wire)


def seal(key: bytes, beacon: Beacon, nonce: bytes) -> bytes:
    """
    @param key: 32 bytes, K.
    @param nonce: 24 random bytes, used once.
    @return: the datagram, L{BEACON_BYTES} long.
    """
    text = _encoder.encode(_Wire(beacon.key.raw, beacon.port, beacon.time, beacon.boot))
    padded = (text + b"\x80").ljust(_PADDED_BYTES, b"\0")
    return nonce + bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(padded, None, nonce, key)


def open_beacon(key: bytes, datagram: bytes) -> Beacon | None:
    """
    @param key: 32 bytes, K.
    @return: what it says; L{None} if it is no beacon of this network.
    """
    if len(datagram) != BEACON_BYTES:
        return None
    nonce, sealed = datagram[:NONCE_BYTES], datagram[NONCE_BYTES:]
    try:
        padded = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, None, nonce, key)
    except _NACL_ERRORS:
        return None
    text, mark, rest = padded.rpartition(b"\x80")
    if not mark or rest.strip(b"\0"):
        return None
    try:
        wire = _decoder.decode(text)
    except msgspec.MsgspecError:
        return None
    return Beacon(PublicKey(wire.key), wire.port, wire.time, wire.boot)


class Hearing(Enum):
    """What came of a datagram.  The values are those that are counted under."""

    #: Somebody, or a place of theirs, that was not known, or who was started again.
    NEW = "new"
    #: What was known is so still.
    AGAIN = "again"
    #: The very same datagram was heard or sent before: it came by another way, or is replayed.
    REPEATED = "repeated"
    #: It is our own.
    OWN = "own"
    #: Another node, which is running now, has our key.
    TWIN = "twin"
    #: It is no beacon, or none of this network.
    FOREIGN = "foreign"
    #: The sender's clock is more than L{WINDOW} from ours, or it is an old beacon.
    SKEWED = "skewed"
    #: It came from a host that is in none of our local networks.
    ELSEWHERE = "elsewhere"
    #: It leads nowhere: nobody can have that key, or nobody is dialled at that place.
    UNUSABLE = "unusable"
    #: More came in this second than are opened.
    OVER_RATE = "over_rate"
    #: As many are known as are remembered.
    FULL = "full"


@define
class _Place:
    """
    Where somebody is.

    @ivar boot: what the last beacon from there said.
    @ivar heard: when that was.
    """

    address: MeshAddress
    boot: bytes
    heard: float


class Neighbours:
    """
    Who was heard, and where they are.

    Of hosts that flood, those are heard less: each may have L{MAX_OPENED_OF_HOST} datagrams
    opened in a second.  Who sends from many hosts, or writes them, can still use up
    L{MAX_OPENED} and keep others from being heard.  The same is true of any use of this wire.
    Who is known stays so until it was not heard for a while, and no newcomer takes its place.

    A member can speak in another's name.  So what it says never takes away what was heard from
    another host, and nothing is concluded from the time in a beacon but how old it is.
    """

    def __init__(
        self,
        key: bytes,
        own: PublicKey,
        boot: bytes,
        started: int,
        forgotten_after: float = FORGOTTEN_AFTER,
    ) -> None:
        """
        @param key: 32 bytes, K.
        @param own: our own key.
        @param boot: what is in our own beacons.
        @param started: when that was made, seconds since 1970.
        @param forgotten_after: seconds.
        """
        self._key = key
        self._own = own
        self._boot = boot
        self._started = started
        self._forgotten_after = forgotten_after
        #: How many datagrams came to what.
        self.heard_of: Counter[Hearing] = Counter()
        # Key -> host -> place.
        self._known: dict[PublicKey, dict[str, _Place]] = {}
        # When datagrams of which host were opened: those of the last second.
        self._opened: deque[tuple[float, str]] = deque(maxlen=MAX_OPENED)
        # Nonces of beacons, in the order in which they were heard, and until when.
        self._remembered: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._known)

    def addresses(self) -> list[MeshAddress]:
        """Where everybody is who is known, in an order that does not depend on who came first."""
        found = [place.address for each in self._known.values() for place in each.values()]
        found.sort(key=_order)
        return found

    def heard(self, datagram: bytes, host: str, now: float, unix: int) -> Hearing:
        """
        @param host: IP address that it came from.
        @param now: seconds.  That clock may be set back: what then lies in the future is as if
            it were from now, and hinders nobody.
        @param unix: seconds since 1970.
        """
        hearing = self._judge(datagram, host, now, unix)
        self.heard_of[hearing] += 1
        return hearing

    def note_sent(self, datagram: bytes, now: float) -> None:
        """We are sending one, which will come back to us: it need not be opened."""
        self._remember(datagram[:NONCE_BYTES], now)

    def _judge(self, datagram: bytes, host: str, now: float, unix: int) -> Hearing:
        if len(datagram) != BEACON_BYTES:
            return Hearing.FOREIGN
        nonce = datagram[:NONCE_BYTES]
        self._forget_nonces(now)
        if nonce in self._remembered:
            return Hearing.REPEATED
        if not self._may_open(host, now):
            return Hearing.OVER_RATE
        self._opened.append((now, host))
        beacon = open_beacon(self._key, datagram)
        if beacon is None:
            return Hearing.FOREIGN
        if abs(beacon.time - unix) > WINDOW:
            return Hearing.SKEWED
        self._remember(nonce, now)
        if beacon.key == self._own:
            # What we sent before our last start may be on its way still.
            other = beacon.boot != self._boot and beacon.time > self._started
            return Hearing.TWIN if other else Hearing.OWN
        if not _may_be_at(host, beacon.port) or not _usable(beacon.key):
            return Hearing.UNUSABLE
        return self._enter(beacon, host, now)

    def _enter(self, beacon: Beacon, host: str, now: float) -> Hearing:
        self.forget(now)
        places = self._known.get(beacon.key, {})
        place = places.get(host)
        if place is None:
            if not self._has_room(places, host):
                return Hearing.FULL
        elif (place.address.port, place.boot) == (beacon.port, beacon.boot):
            place.heard = now
            return Hearing.AGAIN
        # What was at the same host before is no more.
        address = MeshAddress(host, beacon.port, beacon.key)
        self._known.setdefault(beacon.key, places)[host] = _Place(address, beacon.boot, now)
        return Hearing.NEW

    def _has_room(self, places: dict[str, _Place], host: str) -> bool:
        """For one host more where somebody is who has these places."""
        if not places and len(self._known) >= MAX_NEIGHBOURS:
            return False
        return len(places) < MAX_PLACES and self._at(host) < MAX_OF_HOST

    def forget(self, now: float) -> bool:
        """
        Forget what was not heard for too long.

        @return: was there anything?
        """
        changed = False
        for key, places in list(self._known.items()):
            for host, place in list(places.items()):
                place.heard = min(place.heard, now)
                if now - place.heard >= self._forgotten_after:
                    del places[host]
                    changed = True
            if not places:
                del self._known[key]
        return changed

    def next_forgotten(self) -> float | None:
        """When somebody will have to be forgotten, unless heard before; L{None} for nobody."""
        heard = [place.heard for places in self._known.values() for place in places.values()]
        return min(heard) + self._forgotten_after if heard else None

    def _at(self, host: str) -> int:
        """How many are known at a host?"""
        return sum(host in places for places in self._known.values())

    def _may_open(self, host: str, now: float) -> bool:
        while self._opened and not 0 <= now - self._opened[0][0] < 1.0:
            self._opened.popleft()
        if len(self._opened) >= MAX_OPENED:
            return False
        return sum(each == host for _, each in self._opened) < MAX_OPENED_OF_HOST

    def _remember(self, nonce: bytes, now: float) -> None:
        self._forget_nonces(now)
        if len(self._remembered) >= MAX_REMEMBERED:
            # It may be heard again then, which costs a dial.
            del self._remembered[next(iter(self._remembered))]
        # From the earliest time at which it is in the window to the last.
        self._remembered[nonce] = now + 2 * WINDOW + 1

    def _forget_nonces(self, now: float) -> None:
        while self._remembered:
            first = next(iter(self._remembered))
            if self._remembered[first] > now:
                return
            del self._remembered[first]


def _order(address: MeshAddress) -> tuple[str, int, bytes]:
    """That of the addresses themselves, made in no time."""
    return address.host, address.port, address.key.raw


def _may_be_at(host: str, port: int) -> bool:
    """Is it an address that one node has, and a port at which it may be?"""
    address = ip_address(host)
    if address.is_multicast or address.is_unspecified or host == "255.255.255.255":
        return False
    return port >= 1024 or port in _LOW_PORTS


def _usable(key: PublicKey) -> bool:
    try:
        _ = key.x25519
    except InvalidPublicKey:
        return False
    return True
