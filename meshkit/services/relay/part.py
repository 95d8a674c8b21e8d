"""
The part C{relay_door}: the HTTP door of a relay, for whoever comes and for its peers.

It listens on a port of its own, C{tcp:7660}, and never offers what the operator's door does
(C{api}, which takes tokens).  With a certificate it speaks TLS.  Without one it gives neither
feeds nor the directory to other machines, unless C{plain_feeds} says so: whoever is on the way
could read them.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from meshkit.errors import CannotListen, ConfigError, StartError
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.network import PUBLIC_RELAYS
from meshkit.interfaces import IFeedStore, IRegistrations, IWellKnown
from meshkit.parts import Part, PartContext
from meshkit.runtime.endpoints import parse_endpoint
from meshkit.runtime.signed.mark import StoredMark
from meshkit.runtime.signed.tls import load_certificate, wrap_tls_factory
from meshkit.services.relay.door import Facts, RelayDoor
from meshkit.web.forwarded import X_FORWARDED_FOR, ProxyHeader, TrustedProxies

MIGRATIONS: Final = ()

#: File with the time up to which signed requests may have been let in.
MARK: Final = "signed-until"
#: Bytes of a certificate with those that lead to it, and of a key.
MAX_PEM: Final = 256 * 1024
#: Proxies, or networks of them, that may be named.
MAX_PROXIES: Final = 64

_STATUSES: Final = frozenset(str(status) for status in range(100, 600))


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[relay_door]}."""

    listen: Annotated[
        str,
        Meta(
            min_length=1,
            description="Endpoint of the HTTP door for whoever comes; 'none' for no such door",
        ),
    ] = "tcp:7660"
    certificate: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="file with the certificate of the door, in PEM, and those that lead to "
            "it; without one it speaks plain HTTP"
        ),
    ] = None
    key: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="file with its key, in PEM, of mode 0600"),
    ] = None
    plain_feeds: Annotated[
        bool,
        Meta(
            description="give feeds and the directory over plain HTTP to other machines too, "
            "where whoever is on the way can read them"
        ),
    ] = False
    public_directory: Annotated[
        bool,
        Meta(
            description="show the peers that want to be listed to whoever comes, and not to the "
            "peers alone"
        ),
    ] = False
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="address, or network such as 10.0.0.0/24, of a reverse proxy that says "
            "from whom a request is; nobody else is believed",
            extra={"flag": "trusted-proxy"},
            max_length=MAX_PROXIES,
        ),
    ] = ()
    proxy_header: Annotated[
        ProxyHeader,
        Meta(description="the header in which these say it; they add to it, or set it anew"),
    ] = X_FORWARDED_FOR

    def proxies(self) -> TrustedProxies:
        """
        @return: C{trusted_proxies}.
        @raise ConfigError: one is neither an address nor a network.
        """
        try:
            return TrustedProxies(self.trusted_proxies, self.proxy_header)
        except ValueError as e:
            raise ConfigError(
                f"relay_door.trusted_proxies: {e}: write for example 127.0.0.1 or 10.0.0.0/24"
            ) from None


class RelayDoorStatus(msgspec.Struct):
    """
    @ivar urls: where the door is.
    @ivar connections: that are open.
    @ivar streams: that are open.
    """

    urls: list[str]
    connections: int
    streams: int


class RelayDoorPart(Part):
    """See the module."""

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        """@raise ConfigError: if the settings cannot be used."""
        self._context = context
        self._config: Config = context.config
        self._options = self._load_options()
        self._endpoint = self._make_endpoint()
        self._proxies = self._config.proxies()
        self._registry = context.find(IRegistrations)
        self._feeds = context.find(IFeedStore)
        self._well_known = context.find(IWellKnown)
        self._mark = StoredMark(
            context.reactor,
            context.workers,
            context.files,
            os.path.join(context.data_folder, MARK),
            context.wall_clock,
        )
        self._port: IListeningPort | None = None
        self.door: RelayDoor | None = None
        metrics = context.metrics
        metrics.gauge("connections", "Connections at the door.", self._connections)
        metrics.gauge("streams", "Streams at the door.", self._streams)
        metrics.count(
            "answers_total",
            "Answers, by their statuses.",
            lambda: (
                {}
                if self.door is None
                else {str(status): n for status, n in sorted(self.door.site.tally.answers.items())}
            ),
            status=_STATUSES,
        )

    def _connections(self) -> int:
        return 0 if self.door is None else self.door.site.connections

    def _streams(self) -> int:
        return 0 if self.door is None else self.door.streams

    def _load_options(self) -> Any:
        config, files = self._config, self._context.files
        if (config.certificate is None) != (config.key is None):
            raise ConfigError(
                "relay_door.certificate and relay_door.key belong together: two files in PEM"
            )
        if config.certificate is None or config.key is None:
            return None
        try:
            certificate = files.read(config.certificate, MAX_PEM)
            key = files.read_secret(config.key, MAX_PEM)
        except OSError as e:
            raise ConfigError(f"relay_door: {e.filename} cannot be read: {e.strerror}") from None
        try:
            return load_certificate(certificate, key)
        except ConfigError as e:
            raise ConfigError(f"{config.certificate} and {config.key}: {e}") from None

    def _make_endpoint(self) -> Any:
        listen = self._config.listen
        if listen == "none":
            return None
        try:
            return parse_endpoint(serverFromString, self._context.reactor, listen)
        except ValueError as e:
            raise ConfigError(
                f"the setting relay_door.listen is {listen!r}, which is no Twisted endpoint ({e}): "
                f"write for example tcp:7660"
            ) from None

    # --- the service ----------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        if self._endpoint is None:
            return
        context, config = self._context, self._config
        context.files.make_folder(context.data_folder)
        try:
            replays = await self._mark.start()
        except OSError as e:
            raise StartError(
                f"{self._mark.path} cannot be used ({e.strerror}): look at the disk"
            ) from e
        blind = context.network.net_id == PUBLIC_RELAYS.key().net_id
        facts = Facts(
            context.identity.public,
            "blind" if blind else "member",
            None if blind else context.network.net_id,
            self._mesh_addresses,
            context.reactor.seconds(),
        )
        self.door = RelayDoor(
            context.reactor,
            facts,
            identity=context.identity,
            replays=replays,
            registry=self._registry,
            feeds=self._feeds,
            well_known=self._well_known,
            events=context.events,
            rng=context.rng,
            wall_clock=context.wall_clock,
            ready=lambda: bool(self.running),
            run_in_thread=context.workers.run,
            tls=self._options is not None,
            plain_feeds=config.plain_feeds,
            directory_for_all=config.public_directory,
            proxies=self._proxies,
        )
        factory: Any = self.door.site
        if self._options is not None:
            factory = wrap_tls_factory(context.reactor, self._options, factory)
        try:
            self._port = await self._endpoint.listen(factory)
        except CannotListenError as e:
            why = e.socketError
            raise CannotListen(
                f"cannot listen on {config.listen!r} "
                f"({getattr(why, 'strerror', None) or why}): stop what uses it, or set "
                "relay_door.listen to another endpoint"
            ) from None
        self._log.info("the door for whoever comes is at {urls}", urls=", ".join(self._urls()))

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        if self.door is not None:
            await self.door.close()
            self.door = None
            await self._mark.stop()

    def status(self) -> RelayDoorStatus | None:
        if self.door is None:
            return None
        return RelayDoorStatus(self._urls(), self._connections(), self._streams())

    def _urls(self) -> list[str]:
        host = None if self._port is None else self._port.getHost()
        if not isinstance(host, (IPv4Address, IPv6Address)):
            return []
        scheme = "http" if self._options is None else "https"
        return [f"{scheme}://{HostPort(host.host, host.port).text}"]

    def _mesh_addresses(self) -> list[str]:
        key = self._context.identity.public
        places = self._context.whereabouts.places()
        return [MeshAddress(place.host, place.port, key).text for place in places]


def make_part(context: PartContext) -> RelayDoorPart:
    return RelayDoorPart(context)
