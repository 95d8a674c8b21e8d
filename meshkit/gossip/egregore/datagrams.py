"""
The datagrams by which nodes of Egregore find each other on a local network.  Pure.

One is a JSON object, at UDP port 7656, to the broadcast address::

    {"magic":[69,71,82,69],"network_key_hash":[8 numbers],"gossip_port":7655,"public_id":"@..."}

C{network_key_hash} is the beginning of SHA-256 of the network's capability, so anybody who sees one
can try out guesses of the network's string.  They are called out in bursts.

A datagram proves nothing.  It leads to a dial of the host that it came from, whose handshake has to
know the network's string; the id in it is for telling our own, and for nothing else.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Final

import msgspec
from attrs import define, field

from meshkit.identity.addresses import HostPort
from meshkit.identity.scopes import Scope, parse_ip, scope_of

PORT: Final = 7656
BROADCAST: Final = "255.255.255.255"
MAX_DATAGRAM: Final = 1_024
#: What others ignore.
LOWEST_PORT: Final = 1_024

#: Seconds between the datagrams of a burst, how long that is, and the pause until the next one.
EVERY: Final = 5.0
BURST: Final = 30.0
PAUSE: Final = 300.0

#: Seconds after which a place is forgotten that was not heard again: two bursts were missed.
FORGOTTEN_AFTER: Final = 2 * (BURST + PAUSE) + EVERY
#: Places that are remembered, and how many of them at one host.
MAX_PLACES: Final = 32
MAX_OF_HOST: Final = 4

_MAGIC: Final = (69, 71, 82, 69)  # EGRE
_HASH_BYTES: Final = 8

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class _Wire(msgspec.Struct, frozen=True):
    """The order of the fields is theirs."""

    magic: tuple[_Byte, _Byte, _Byte, _Byte]
    network_key_hash: Annotated[tuple[_Byte, ...], msgspec.Meta(min_length=8, max_length=8)]
    gossip_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    public_id: Annotated[str, msgspec.Meta(max_length=128)]


_decoder: Final = msgspec.json.Decoder(_Wire)
_encoder: Final = msgspec.json.Encoder()


def discriminator(capability: bytes) -> bytes:
    """
    @param capability: 32 bytes: L{meshkit.shs.egregore.network_capability}.
    @return: 8 bytes.
    """
    return sha256(capability).digest()[:_HASH_BYTES]


def write(network: bytes, port: int, public_id: str) -> bytes:
    """
    @param network: L{discriminator}.
    @param port: where we are dialled.
    @param public_id: C{@<base64>.ed25519}.
    """
    return _encoder.encode(_Wire(_MAGIC, tuple(network), port, public_id))


@define
class Callers:
    """
    Who calls on the local network, and where they can be dialled.

    @ivar network: L{discriminator} of our network.
    @ivar own: our own id.
    """

    network: bytes
    own: str
    # Place -> when it was heard last, the one heard last at the end.
    _heard: dict[HostPort, float] = field(factory=dict, init=False)

    def places(self) -> list[HostPort]:
        """All that are known, sorted."""
        return sorted(self._heard, key=lambda place: (place.host, place.port))

    def heard(self, datagram: bytes, host: str, now: float) -> bool:
        """
        @param host: IP address that it came from.
        @param now: seconds, of a clock that is never set.
        @return: is a place new?
        """
        place = self._read(datagram, host)
        if place is None:
            return False
        self.forget(now)
        known = self._heard.pop(place, None) is not None
        if not known and not self._has_room(host):
            return False
        self._heard[place] = now
        return not known

    def forget(self, now: float) -> bool:
        """@return: was there a place that was not heard for too long?"""
        before = len(self._heard)
        while self._heard:
            first = next(iter(self._heard))
            if now - self._heard[first] < FORGOTTEN_AFTER:
                break
            del self._heard[first]
        return len(self._heard) < before

    def _has_room(self, host: str) -> bool:
        """Those who are known stay so: no newcomer takes their place."""
        at_host = sum(place.host == host for place in self._heard)
        return len(self._heard) < MAX_PLACES and at_host < MAX_OF_HOST

    def _read(self, datagram: bytes, host: str) -> HostPort | None:
        if len(datagram) > MAX_DATAGRAM:
            return None
        try:
            wire = _decoder.decode(datagram)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        ours = (wire.magic, bytes(wire.network_key_hash)) == (_MAGIC, self.network)
        if not ours or wire.public_id == self.own or wire.gossip_port < LOWEST_PORT:
            return None
        return HostPort(host, wire.gossip_port) if _is_near(host) else None


def _is_near(host: str) -> bool:
    """A broadcast comes from near by; what claims to come from elsewhere is no hint."""
    address = parse_ip(host)
    scope = None if address is None else scope_of(address)
    return scope is not None and scope is not Scope.WORLD
