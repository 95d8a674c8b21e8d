"""
What a box between private addresses and the others remembers.

A host behind it is seen under the address of the box, with a port that the box picks when
the host first sends something.  Packets that come for that port are let in or not, as the
kind of the box has it; to all others nobody answers, or the box refuses.  What is not used
for long is forgotten.

Sources: the kinds are those of RFC 3489; times are the least that RFC 5382 (TCP) and RFC 4787
(UDP) allow; real boxes differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field

from meshkit.sim.clock import SimClock, nanoseconds

if TYPE_CHECKING:
    from meshkit.sim.network import NetHost

__all__ = ["KINDS", "Crossing", "Nat", "Place"]

#: An address and a port.
Place = tuple[str, int]

#: Whom a mapping lets in: everybody; hosts, or only ports, to which something was sent; and
#: the same with a mapping of its own for each of them.
KINDS: Final = ("full-cone", "restricted-cone", "port-restricted-cone", "symmetric")

_FIRST_PORT: Final = 1024
_PORTS: Final = 65536 - _FIRST_PORT


@define
class _Mapping:
    inside: Place
    until_ns: int
    #: Those to which something was sent, in that order.
    remotes: dict[Place, None] = field(factory=dict)


class Nat:
    """
    See the module.

    @ivar box: itself, as a host of the network: it can be silenced, and started anew.
    @ivar kind: one of L{KINDS}.
    @ivar refuses: connections to ports that lead nowhere are refused, rather than ignored.
    @ivar hosts: behind it, by private address.
    """

    def __init__(
        self,
        clock: SimClock,
        box: NetHost,
        *,
        kind: str = "port-restricted-cone",
        refuses: bool = False,
        tcp_expiry: float = 7440.0,
        udp_expiry: float = 120.0,
    ) -> None:
        """
        @param tcp_expiry: seconds after which the port of a connection is forgotten, if
            nothing crosses.
        @param udp_expiry: the same for datagrams.
        @raise ValueError: if there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"a NAT is one of {', '.join(KINDS)}, and not {kind!r}")
        self.box = box
        self.kind = kind
        self.refuses = refuses
        self.hosts: dict[str, NetHost] = {}
        self._clock = clock
        self._expiry_ns = {"TCP": nanoseconds(tcp_expiry), "UDP": nanoseconds(udp_expiry)}
        self._by_port: dict[tuple[str, int], _Mapping] = {}
        self._by_inside: dict[tuple[str, Place, Place | None], int] = {}
        self._given = 0

    def outbound(self, protocol: str, inside: Place, remote: Place) -> int:
        """
        Something goes out.

        @param protocol: C{TCP} or C{UDP}.
        @return: the port that it comes from, as others see it.
        @raise OSError: if all ports are taken.
        """
        key = (protocol, inside, remote if self.kind == "symmetric" else None)
        port = self._by_inside.get(key)
        mapping = None if port is None else self._find(protocol, port)
        if port is None or mapping is None:
            port = self._by_inside[key] = self._free_port(protocol)
            mapping = self._by_port[protocol, port] = _Mapping(inside, 0)
        mapping.remotes[remote] = None
        mapping.until_ns = self._clock.ns + self._expiry_ns[protocol]
        return port

    def inbound(self, protocol: str, port: int, remote: Place) -> Place | None:
        """
        Something comes for a port.

        @return: whom it is for, or L{None} if it is not let in.
        """
        mapping = self._find(protocol, port)
        if mapping is None or not self._lets_in(mapping, remote):
            return None
        mapping.until_ns = self._clock.ns + self._expiry_ns[protocol]
        return mapping.inside

    def forget(self) -> None:
        """It was started anew."""
        self._by_port.clear()
        self._by_inside.clear()

    def _lets_in(self, mapping: _Mapping, remote: Place) -> bool:
        if self.kind == "full-cone":
            return True
        if self.kind == "restricted-cone":
            return any(host == remote[0] for host, _ in mapping.remotes)
        return remote in mapping.remotes

    def _find(self, protocol: str, port: int) -> _Mapping | None:
        mapping = self._by_port.get((protocol, port))
        return None if mapping is None or mapping.until_ns <= self._clock.ns else mapping

    def _free_port(self, protocol: str) -> int:
        """The next port of which nothing is remembered."""
        for _ in range(_PORTS):
            port = _FIRST_PORT + self._given % _PORTS
            self._given += 1
            if self._find(protocol, port) is None:
                return port
        raise OSError(f"all ports of {self.box.name} are taken")


class Crossing:
    """
    What packets of one flow go through in one direction.

    @ivar stray: the last one seems to come from somewhere else than those before, as a box
        has forgotten them: whoever gets it does not know it.
    """

    __slots__ = ("_inside", "_protocol", "_sink", "_sink_nat", "_source", "_source_nat", "stray")

    def __init__(
        self,
        protocol: str,
        inside: tuple[Place, Place],
        outside: tuple[Place, Place],
        nats: tuple[Nat | None, Nat | None],
    ) -> None:
        """
        @param protocol: C{TCP} or C{UDP}.
        @param inside: source and sink, as they are known to themselves.
        @param outside: both as the other one knows them.
        @param nats: before each of them.
        """
        self._protocol = protocol
        self._inside = inside
        self._source, self._sink = outside
        self._source_nat, self._sink_nat = nats
        self.stray = False

    def passes(self) -> bool:
        """Does what arrives now get through?"""
        source = self._source
        if self._source_nat is not None:
            if self._source_nat.box.mute:
                return False
            port = self._source_nat.outbound(self._protocol, self._inside[0], self._sink)
            self.stray = port != source[1]
            source = (source[0], port)
        if self._sink_nat is not None:
            if self._sink_nat.box.mute:
                return False
            place = self._sink_nat.inbound(self._protocol, self._sink[1], source)
            return place == self._inside[1]
        return True
