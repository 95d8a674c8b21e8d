"""
The part C{lan}: finds nodes of the network that are near, and has them dialled.

It does nothing unless its settings ask for it: a node that calls out shows everybody on the
wire that there is something.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Interface
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.discovery.beacon import FORGOTTEN_AFTER, INTERVAL, LABEL, Hearing
from meshkit.discovery.choosing import Choice
from meshkit.discovery.interfaces import find_networks, shared
from meshkit.discovery.lan import PORT, LocalNetwork, Settings
from meshkit.discovery.machine import Machine
from meshkit.discovery.operations import LanStatus, Near
from meshkit.discovery.trying import REST, Trials
from meshkit.errors import CannotListen, ConfigError
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.interfaces import IMetrics
from meshkit.parts import Part, PartContext

MIGRATIONS: Final[tuple[str, ...]] = ()

#: Sources of addresses, as C{meshkit peer list} shows them.
LAN: Final = "lan"
MACHINE: Final = "machine"

#: Seconds for which news are gathered before they are passed on: in a flood there are many.
GATHER: Final = 0.2

#: Between two beacons a third may be lost, and nobody is to be forgotten for it.
_LEAST_BEACONS: Final = 2
_WILDCARDS: Final = ("0.0.0.0", "::")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[lan]}."""

    beacons: Annotated[
        bool,
        Meta(
            description="Call out on the local networks, so that the network's other nodes there "
            "find this one, and listen for them"
        ),
    ] = False
    machine: Annotated[
        bool,
        Meta(
            description="Find your other nodes on this machine, by the data folders that lie "
            "beside this node's"
        ),
    ] = False
    folders: Annotated[
        tuple[str, ...],
        Meta(
            description="Data folder of another node of this machine that lies elsewhere",
            extra={"flag": "folder"},
        ),
    ] = ()
    port: Annotated[
        int,
        Meta(ge=1, le=65_535, description="UDP port of beacons, the same for all nodes"),
    ] = PORT
    interfaces: Annotated[
        tuple[str, ...],
        Meta(
            description="IPv4 address of an interface at which to call out [default: all that "
            "others can be at]",
            extra={"flag": "interface"},
        ),
    ] = ()
    interval: Annotated[float, Meta(ge=1, le=3_600, description="Seconds between two beacons")] = (
        INTERVAL
    )
    forgotten_after: Annotated[
        float,
        Meta(
            ge=2,
            le=86_400,
            description="Seconds after which a node is forgotten that was not heard again",
        ),
    ] = FORGOTTEN_AFTER
    max_peers: Annotated[
        int, Meta(ge=1, le=256, description="Nodes that are dialled because they are near")
    ] = 32

    def check(self) -> None:
        """@raise ConfigError: if the settings do not go together."""
        if self.forgotten_after < _LEAST_BEACONS * self.interval:
            raise ConfigError(
                f"lan.forgotten_after is {self.forgotten_after:g} and lan.interval is "
                f"{self.interval:g}: nodes would be forgotten between two beacons; make it "
                f"{_LEAST_BEACONS * self.interval:g} or more"
            )
        for text in self.interfaces:
            try:
                IPv4Address(text)
            except AddressValueError:
                raise ConfigError(
                    f"lan.interfaces: {text!r} is no IPv4 address: write the one that this "
                    "machine has at that interface"
                ) from None


class LanPart(Part):
    """See the module."""

    _log = Logger()

    def __init__(
        self,
        context: PartContext,
        find_networks: Callable[[], Sequence[IPv4Interface]] = find_networks,
    ) -> None:
        """@param find_networks: gives the addresses of this machine and their networks."""
        config: Config = context.config
        config.check()
        self._context = context
        self._config = config
        self._peers = context.peers
        self._find_networks = find_networks
        own = context.identity.public
        self._choices = {name: Choice(own, config.max_peers) for name in (LAN, MACHINE)}
        # Of what is heard from the wire.
        self._trials = Trials()
        self._again: IDelayedCall | None = None
        self._near: dict[str, list[MeshAddress]] = {LAN: [], MACHINE: []}
        self._dialled: dict[str, list[MeshAddress]] = {LAN: [], MACHINE: []}
        self._network = LocalNetwork(
            context.reactor,
            context.rng,
            context.wall_clock,
            context.network.beacon(LABEL),
            own,
            listening=self._own_port,
            changed=self._heard,
            networks=self._networks,
            interfaces=self._interfaces,
            settings=Settings(config.port, config.interval, config.forgotten_after),
        )
        self._calling = False
        self._machine = Machine(
            context.files,
            os.path.dirname(context.data_folder),
            own,
            context.network.net_id.hex(),
            config.folders,
        )
        self._looking: Deferred[None] | None = None
        self._due: IDelayedCall | None = None
        self._news: IDelayedCall | None = None
        self._fault: str | None = None
        self._peers.watch_links(self._link_changed)
        self._measure(context.metrics)

    def _measure(self, metrics: IMetrics) -> None:
        metrics.gauge(
            "neighbours",
            "Nodes that are near, by how they were found.",
            lambda: {name: len({each.key for each in near}) for name, near in self._near.items()},
            found=(LAN, MACHINE),
        )
        metrics.count(
            "datagrams_total",
            "Datagrams that came to the port of beacons, by what came of them.",
            self._network.heard,
            hearing=tuple(each.value for each in Hearing),
        )

    # --- the service ----------------------------------------------------------------------

    def startService(self) -> None:
        """
        @raise CannotListen: another program has the UDP port, and does not share it.
        """
        super().startService()
        if self._config.beacons:
            try:
                self._network.start()
            except CannotListenError as e:
                why = getattr(e.socketError, "strerror", None) or e.socketError
                raise CannotListen(
                    f"cannot listen for beacons at the UDP port {self._config.port} ({why}): stop "
                    f"what uses it (an Egregore node does not share it), or set lan.port to "
                    f"another one, at all nodes alike"
                ) from None
            self._calling = True
        if self._config.machine or self._config.folders:
            self._look()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        for call in (self._due, self._news, self._again):
            if call is not None:
                call.cancel()
        self._due = self._news = self._again = None
        if self._looking is not None:
            self._looking.cancel()
        for name in self._near:
            self._tell(name, [])
        if not self._calling:
            return succeed(None)
        self._calling = False
        return self._network.stop()

    def status(self) -> LanStatus:
        asked = self._config.beacons or self._config.machine or self._config.folders
        return LanStatus(
            idle=None if asked else "set lan.beacons, or lan.machine, to have nodes found",
            port=self._config.port if self._calling else None,
            interfaces=self._network.interfaces(),
            faults={**self._network.faults(), **({"": self._fault} if self._fault else {})},
            silent=self._why_silent() if self._calling else None,
            near=self._shown(LAN),
            machine=self._shown(MACHINE),
            heard=self._network.heard() if self._calling else {},
        )

    def _shown(self, name: str) -> list[Near]:
        dialled = set(self._dialled[name])
        return [Near(each.text, each in dialled) for each in self._near[name]]

    # --- beacons --------------------------------------------------------------------------

    def _places(self) -> list[HostPort]:
        """Where others of a local network can reach this node."""
        return [place for place in self._context.listening() if _is_for_others(place.host)]

    def _own_port(self) -> int | None:
        places = self._places()
        return places[0].port if places else None

    def _why_silent(self) -> str | None:
        if self._places():
            return None
        return "this node listens for no other machine: see the setting listen"

    def _interfaces(self) -> Sequence[str]:
        """Where to call out: nowhere that leads to where nobody could dial back."""
        try:
            found: Sequence[str] = self._config.interfaces or shared(self._find_networks())
        except OSError:
            # The system's choice is better than nothing.
            found = ("",)
        hosts = {place.host for place in self._places()}
        if not hosts or hosts.intersection(_WILDCARDS):
            return found
        return [each for each in found if each in hosts or not each]

    def _networks(self) -> Sequence[IPv4Interface] | None:
        """Who is near."""
        try:
            found = self._find_networks()
        except OSError as e:
            self._fault = f"the interfaces cannot be listed: {e.strerror or e}"
            return None
        self._fault = None
        return found

    def _heard(self) -> None:
        if self._news is None and self.running:
            self._news = self._context.reactor.callLater(GATHER, self._pass_on)

    def _pass_on(self) -> None:
        self._news = None
        self._tell(LAN, self._network.addresses())

    # --- this machine -----------------------------------------------------------------------

    def _look(self) -> None:
        self._due = None
        self._looking = self._context.workers.run(self._machine.look)
        self._looking.addCallbacks(self._looked, self._not_looked)
        self._looking.addBoth(self._look_again)

    def _looked(self, found: list[MeshAddress]) -> None:
        before = self._near[MACHINE]
        self._tell(MACHINE, found)
        if found != before:
            # Who is on this machine is not dialled over the network besides.
            self._tell(LAN, self._near[LAN])

    def _look_again(self, _: Any) -> None:
        self._looking = None
        if self.running:
            self._due = self._context.reactor.callLater(self._config.interval, self._look)

    def _not_looked(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("looking for other nodes of this machine failed", failure)

    # --- both -------------------------------------------------------------------------------

    def _tell(self, name: str, near: list[MeshAddress]) -> None:
        self._near[name] = near
        here = {each.key for each in self._near[MACHINE]} if name == LAN else set()
        elsewhere = [each for each in near if each.key not in here]
        if name == LAN:
            self._dialled[name] = self._try(elsewhere)
        else:
            self._dialled[name] = self._choices[name].choose(elsewhere)
        self._peers.hear(name, self._dialled[name])

    def _try(self, near: list[MeshAddress]) -> list[MeshAddress]:
        now = self._context.reactor.seconds()
        rested = self._trials.rested(near, now)
        chosen = self._choices[LAN].choose(rested)
        found = self._trials.dial(chosen, now)
        if len(rested) < len(near) and self._again is None and self.running:
            self._again = self._context.reactor.callLater(REST, self._rested)
        return found

    def _rested(self) -> None:
        self._again = None
        self._heard()

    def _link_changed(self, entry: Any) -> None:
        """Something came of a dial, perhaps of one of ours."""
        if entry.connected:
            changed = self._trials.reached(entry.address)
        else:
            now = self._context.reactor.seconds()
            changed = self._trials.failed(entry.address, entry.failures, now)
        if changed:
            self._heard()


def _is_for_others(host: str) -> bool:
    if host in _WILDCARDS:
        return True
    try:
        return not IPv4Address(host).is_loopback
    except AddressValueError:
        return False


def make_part(context: PartContext) -> LanPart:
    return LanPart(context)
