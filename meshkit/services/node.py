"""
A whole node as one Twisted service.

Life of a node::

    NodeService(...)          builds objects; nothing is opened
    privilegedStartService()  folder, lock, keys, schema, listening sockets; all of it
                              synchronous, so that a failed start is known before
                              twistd lets the shell go and before privileges are shed
    startService()            database and worker threads, then the parts one after
                              another, each after those it uses; then "ready"
    stopService()             the same backwards: doors, parts, channels, database

Until the node is ready, its port accepts connections but knows no capability, and its
door answers 503.
"""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, Final

import msgspec
from attrs import define
from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit import __version__
from meshkit.aliases import Alias
from meshkit.errors import (
    BrokenPart,
    CannotListen,
    ConfigError,
    MeshkitError,
    NotFound,
    PartConflict,
    StartError,
)
from meshkit.identity.addresses import (
    HostPort,
    MeshAddress,
    PeerAddress,
    parse_target,
    transport_of,
)
from meshkit.identity.keys import Identity, PublicKey, Verify
from meshkit.identity.network import PUBLIC_RELAYS, NetworkKey, NetworkSecret
from meshkit.interfaces import (
    IAdvisesAgents,
    IBoundsPeers,
    IConnections,
    IDetours,
    IFiles,
    IForeignProtocols,
    IMeshPart,
    IPeerFinder,
    IToolAliases,
    IWantsFiles,
    NodeWoke,
)
from meshkit.operations import BoundOperation, Nothing, Operation
from meshkit.parts import PartContext
from meshkit.runtime.config import Settings, declare_all
from meshkit.runtime.database import Database
from meshkit.runtime.endpoints import parse_endpoint
from meshkit.runtime.events import EventBus
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import (
    DOOR_TOKEN,
    SECRET_KEY,
    load_identity,
    load_networks,
    load_token,
    stored_public,
)
from meshkit.runtime.ledger import Account
from meshkit.runtime.metrics import Metrics
from meshkit.runtime.moments import rfc3339
from meshkit.runtime.peers import PeerBook, PeerEntry, Unknown
from meshkit.runtime.registry import Composition
from meshkit.runtime.tables import MIGRATIONS
from meshkit.runtime.tokens import TokenBook
from meshkit.runtime.whereabouts import Whereabouts, parse_advertised
from meshkit.runtime.workers import WorkerFactory, WorkerPool
from meshkit.services import operations as offered
from meshkit.services import ping
from meshkit.services.agents import AgentDoor
from meshkit.services.auto import AUTO_DOOR, AutoEndpoint
from meshkit.services.config import NodeConfig
from meshkit.services.dialling import Dialled, Dialler
from meshkit.services.door import MAX_CONNECTIONS, NodeDoor
from meshkit.services.health import Health, Progress
from meshkit.services.measuring import LoopLag, measure_node
from meshkit.services.reaching import Reaching
from meshkit.services.tokens import TokenDesk
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.shs import probe as key_probe
from meshkit.shs.channel import SecureChannel, Traffic
from meshkit.shs.listener import Authorize
from meshkit.shs.prober import admit_probes
from meshkit.web.doorkeeper import Doorkeeper

#: Seconds that one part may take to stop.
STOP_DEADLINE: Final = 10.0

#: Files and connections that a node may have open beside those of its door: for peers that have
#: connected to it, more if parts say so; and for what it opens itself, such as its database and
#: the peers that it dials.
PEER_FILES: Final = 1_024
OWN_FILES: Final = 768

#: Connections that one peer may have opened to the mesh port, over all protocols.
MAX_CHANNELS_PER_PEER: Final = 8

DATABASE: Final = "node.db"
#: Value of the setting C{api} for a node without a door.
NO_DOOR: Final = "none"

#: Peers of which it is remembered which of two network secrets they used last.
MAX_SEEN: Final = 10_000


@implementer(IConnections)
@define
class _Connections:
    """How the parts dial."""

    reactor: Any
    rng: Random
    identity: Identity
    network: NetworkKey
    traffic: Traffic
    detours: Callable[[], IDetours | None]

    def beneath(self, place: HostPort) -> IStreamClientEndpoint:
        return HostnameEndpoint(self.reactor, place.host, place.port)

    def endpoint(
        self,
        address: MeshAddress,
        label: str,
        version: int = 1,
        *,
        network: NetworkKey | None = None,
        identity: Identity | None = None,
        direct: bool = False,
    ) -> IStreamClientEndpoint:
        capability = Capability.of(self.network if network is None else network, label, version)

        def secure(bare: IStreamClientEndpoint) -> IStreamClientEndpoint:
            return wrap_client(
                self.reactor,
                bare,
                identity=self.identity if identity is None else identity,
                capability=capability,
                peer=address.key,
                rng=self.rng,
                traffic=self.traffic,
            )

        # Through relays lead the ways to peers, and to relays none.
        straight = direct or network is not None
        detours = _no_detours if straight else self.detours
        return Reaching(self.reactor, address, self.beneath, secure, detours)


def _no_detours() -> None:
    """Who wants to know whether a peer is at an address asks for no other way."""


def _nothing() -> None:
    """There is nothing to end."""


def _forget(secret: str) -> None:
    """Whoever runs this node keeps no log of it."""


class NodeService(Service):
    """
    See the module.

    @ivar identity: who this node is, once it was started.
    @ivar ready: all parts are started.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        folder: DataFolder,
        settings: Settings[NodeConfig],
        composition: Composition,
        *,
        rng: Random,
        wall_clock: Callable[[], int],
        files: IFiles,
        pid: Callable[[], int],
        on_failure: Callable[[MeshkitError], None],
        identity: Identity | None = None,
        make_workers: WorkerFactory = WorkerPool,
        make_database: Callable[..., Database] = Database,
        verify: Verify = PublicKey.verifies,
        keep_secret: Callable[[str], None] = _forget,
        open_files: Callable[[int], int] = int,
        process_metrics: Callable[[], Sequence[Any]] = tuple,
    ) -> None:
        """
        @param reactor: clock, sockets and threads.
        @param folder: the node's data folder.
        @param settings: with a section per part in C{composition}.
        @param composition: the parts, from L{meshkit.runtime.registry.compose}.
        @param rng: all randomness: C{random.SystemRandom()} outside simulations.
        @param wall_clock: nanoseconds since 1970.
        @param files: the file system.
        @param pid: our process id, asked for after the daemon has forked.
        @param on_failure: called when the node fails to start after C{startService}
            has returned; it is expected to end the process.
        @param identity: the folder's identity, where a passphrase has opened it already;
            without it, one that is under a passphrase cannot be started.
        @param make_workers: the worker pool to use.
        @param make_database: the database to use.
        @param verify: says whether the messages of feeds are signed by their authors.
        @param keep_secret: told each secret of the node in the forms in which it is
            written, so that it can be kept out of the log.
        @param open_files: told how many files and connections the node may want to have open,
            says how many it can have: L{meshkit.runtime.open_files.allow_files} for a
            daemon.
        @param process_metrics: see L{Metrics}.
        @raise ConfigError: if an endpoint or a peer address is malformed.
        """
        self._reactor = reactor
        self._folder = folder
        self._settings = settings
        self._config = settings.root
        self._composition = composition
        self._rng = rng
        self._wall_clock = wall_clock
        self._files = files
        self._verify = verify
        self._open_files = open_files
        self._pid = pid
        self._on_failure = on_failure
        self._mesh_endpoint = _endpoint(reactor, "listen", self._config.listen)
        self._door_endpoint = self._make_door_endpoint()
        self._unlocked = identity
        self._keep_secret = keep_secret
        self._process_metrics = process_metrics
        self._advertised = parse_advertised(self._config.advertise)
        self._configured: list[MeshAddress] = []
        self._configured_bare: list[HostPort] = []
        for text in self._config.peers:
            target = parse_target(text)
            if isinstance(target, HostPort):
                self._configured_bare.append(target)
            else:
                self._configured.append(target)
        self._workers = make_workers(reactor, self._config.workers, name="meshkit-worker")
        self._database = make_database(reactor, os.path.join(folder.path, DATABASE))
        self._peers = PeerBook(self._database, wall_clock)
        self._tokens = TokenBook(reactor, self._database, wall_clock, rng)
        self._events = EventBus()
        self._parts: dict[str, Any] = {}
        self._begun: list[str] = []
        self._awaited: str | None = None
        self._metrics: Metrics
        self._lag: LoopLag
        self._ports: list[IListeningPort] = []
        self._door_ports: list[IListeningPort] = []
        self._door: NodeDoor | None = None
        self._prepared = False
        self._starting: Deferred[None] | None = None
        self._since = 0.0
        self.ready = False
        self.identity: Identity
        self._secrets: tuple[NetworkSecret, ...]
        self._networks: list[NetworkKey]
        self._whereabouts: Whereabouts
        self._listener: SecureListener
        self._dialler: Dialler
        self._dialled: Traffic
        # Peer -> the network with which it came last; the one heard of last is last.
        self._seen: dict[PublicKey, bytes] = {}
        # Ends a subscription.
        self._awake: Callable[[], None] = _nothing
        # Parts with a fault in what they would say to agents.
        self._mute: set[str] = set()

    def _make_door_endpoint(self) -> Any:
        if self._config.api == NO_DOOR:
            return None
        if self._config.api == AUTO_DOOR:
            return AutoEndpoint(self._reactor, self._folder)
        return _endpoint(self._reactor, "api", _private(self._config.api))

    @property
    def events(self) -> EventBus:
        """By which its parts hear of each other, for those who watch it."""
        return self._events

    @property
    def peers(self) -> PeerBook:
        """Whom it knows, and how they behave."""
        return self._peers

    # --- starting ------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """
        @raise StartError: if the node cannot start; everything it had taken is given
            back.
        """
        super().privilegedStartService()
        if not self._prepared:
            self._folder.lock(self._pid())
            try:
                self._folder.remember_program(self._config.program)
                self._prepare()
            except BaseException as e:
                for port in (*self._ports, *self._door_ports):
                    port.stopListening()
                self._ports, self._door_ports = [], []
                self._folder.unlock()
                if isinstance(e, OSError):
                    raise StartError(f"cannot use {e.filename}: {e.strerror}") from e
                raise
            self._prepared = True

    def _prepare(self) -> None:
        self.identity = self._load_identity()
        self._secrets = self._load_networks()
        for text in (self._config.network_key, *(secret.text for secret in self._secrets)):
            self._keep_secret(text)
        self._metrics = Metrics(self._process_metrics)
        # The first one is that of the node; the other may still be used by peers.
        self._networks = [secret.key() for secret in self._secrets]
        migrations: dict[str, Sequence[str]] = {"node": MIGRATIONS}
        for maker in self._composition.order:
            with naming_the_part(maker.name):
                migrations[maker.name] = tuple(maker.migrations())
        self._database.open_and_migrate(migrations)
        self._peers.configure(self._configured)
        self._peers.configure_bare(self._configured_bare)
        dialled = self._dialled = Traffic()
        connections = _Connections(
            self._reactor, self._rng, self.identity, self._network, dialled, self._detours
        )
        self._dialler = Dialler(
            self._reactor,
            self.identity.public,
            self._network,
            connections,
            self._peers,
            self._rng,
        )
        self._whereabouts = Whereabouts(self._advertised, self._listening)
        self._parts = {}
        for maker in self._composition.order:
            with naming_the_part(maker.name):
                self._parts[maker.name] = self._make_part(maker, connections)
        for_door, for_peers = self._allot_files()
        self._listener = SecureListener(
            self._reactor,
            self.identity,
            self._rng,
            max_per_peer=MAX_CHANNELS_PER_PEER,
            max_connections=for_peers,
        )
        late = measure_node(
            self._metrics,
            ready=lambda: self.ready,
            database=self._database,
            workers=self._workers,
            peers=self._peers,
            listener=self._listener,
            dialled=dialled,
        )
        self._lag = LoopLag(self._reactor, late)
        if self._door_endpoint is not None:
            # Before anything is opened, as this is where its settings are judged.
            self._door = self._make_door(for_door)
        self._ports = [_listen(self._mesh_endpoint, self._listener, "listen", self._config.listen)]
        if self._door_endpoint is not None and self._door is not None:
            port = _listen(self._door_endpoint, self._door.site, "api", self._config.api)
            self._door_ports = [port]

    def _detours(self) -> IDetours | None:
        """The part that knows ways through relays, if there is one."""
        name = self._composition.providers.get(IDetours)
        return None if name is None else self._parts[name]

    def _load_identity(self) -> Identity:
        if self._unlocked is None:
            return load_identity(self._folder, self._rng)
        if stored_public(self._folder) != self._unlocked.public:
            raise StartError(
                f"{self._folder.file(SECRET_KEY)} was replaced while the passphrase was asked "
                f"for: start again"
            )
        return self._unlocked

    def _load_networks(self) -> tuple[NetworkSecret, ...]:
        config = self._config
        if config.relays_as != "blind":
            return load_networks(self._folder, config.network_key, config.network_keys, self._rng)
        if config.network_key or config.network_keys:
            raise ConfigError(
                "a blind relay is in no network: leave out network_key and network_keys, or set "
                "role to member"
            )
        return (PUBLIC_RELAYS,)

    @property
    def _network(self) -> NetworkKey:
        return self._networks[0]

    def _make_part(self, maker: Any, connections: _Connections) -> Any:
        part = maker.create(
            PartContext(
                reactor=self._reactor,
                rng=self._rng,
                wall_clock=self._wall_clock,
                config=self._settings.section(maker.name),
                identity=self.identity,
                network=self._network,
                secret=self._secrets[0],
                database=self._database,
                workers=self._workers,
                files=self._files,
                data_folder=os.path.join(self._folder.path, maker.name),
                connections=connections,
                peers=self._peers,
                events=self._events,
                find=partial(self._find, maker),
                verify=self._verify,
                metrics=self._metrics.part(maker.name),
                listening=self._listening,
                previous=self._previous,
                whereabouts=self._whereabouts,
                accept=self._accept,
            )
        )
        for interface in (IMeshPart, *maker.provides):
            if interface(part, None) is None:
                raise BrokenPart(
                    f"the part {maker.name!r} made something that does not provide "
                    f"{interface.__name__}, as it should"
                )
        return part

    def _accept(self, address: IAddress | None) -> IProtocol | None:
        """As if a connection had come by the port."""
        accepted: IProtocol | None = self._listener.buildProtocol(address)
        return accepted

    def _find(self, maker: Any, interface: Any) -> Any:
        if interface not in (*maker.requires, *maker.wants):
            # Without that, whether it is there yet would depend on the order of parts.
            raise BrokenPart(
                f"the part {maker.name!r} asks for {interface.__name__}, which it neither "
                f"requires nor wants"
            )
        name = self._composition.providers.get(interface)
        # The part itself, or whatever it gives for that (C{__conform__}).
        return None if name is None else interface(self._parts[name])

    def _make_door(self, max_connections: int) -> NodeDoor:
        try:
            token = load_token(self._folder, self._rng)
            self._keep_secret(token.decode("latin-1"))
            doorkeeper = Doorkeeper(token, self._tokens)
        except ValueError as e:
            raise StartError(
                f"{self._folder.file(DOOR_TOKEN)} holds no token that can be used ({e}): remove "
                f"it, a new one is made at the next start"
            ) from None
        desk = TokenDesk(
            self._tokens,
            doorkeeper,
            self._folder,
            self._rng,
            self._workers.run,
            offered=self._all_offered,
            keep_secret=self._keep_secret,
        )
        try:
            return NodeDoor(
                self._reactor,
                [*self._operations(), *desk.operations()],
                doorkeeper,
                ready=lambda: self.ready,
                wall_clock=self._wall_clock,
                make_agents=partial(
                    AgentDoor,
                    clock=self._reactor,
                    rng=self._rng,
                    ready=lambda: self.ready,
                    advice=self._advice,
                    events=self._events,
                    aliases=self._aliases(),
                    profile=self._config.mcp_profile,
                ),
                rate=self._config.api_rate,
                owner_rate=self._config.api_owner_rate,
                metrics=self._metrics,
                rng=self._rng,
                max_connections=max_connections,
                run_in_thread=self._workers.run,
            )
        except ValueError as e:
            # Its message begins with the name of the operation.
            raise BrokenPart(f"an operation cannot be served: {e}") from e

    def _all_offered(self) -> Iterator[Operation]:
        return (bound.operation for bound in self._door.operations) if self._door else iter(())

    def _allot_files(self) -> tuple[int, int]:
        """
        Divide the files that can be open, so that peers who take all of theirs leave the door and
        the database alone.

        @return: how many connections the door takes, and how many the mesh port.
        """
        more = sum(part.files for part in self._parts.values() if IWantsFiles.providedBy(part))
        wanted = MAX_CONNECTIONS + OWN_FILES + PEER_FILES + more
        allowed = self._open_files(wanted)
        if allowed >= wanted:
            return MAX_CONNECTIONS, allowed - MAX_CONNECTIONS - OWN_FILES
        # Peers are the business of who wants many; else the door is used most.
        door = min(MAX_CONNECTIONS, allowed // (4 if more else 2))
        peers = max(4, allowed - door - min(OWN_FILES, allowed // 4))
        self._log.warn(
            "this process can have {allowed} files open, so the door takes {door} connections, and "
            "{peers} peers can be connected: for more, raise the limit (ulimit -n, LimitNOFILE) to "
            "{wanted}",
            allowed=allowed,
            door=door,
            peers=peers,
            wanted=wanted,
        )
        return door, peers

    def startService(self) -> None:
        # twist, unlike twistd, does not call privilegedStartService.
        if not self._prepared:
            self.privilegedStartService()
        super().startService()
        self._since = self._reactor.seconds()
        self._database.startService()
        self._workers.startService()
        self._lag.start()
        self._awaited = "node"
        self._starting = Deferred.fromCoroutine(self._start_parts())
        self._starting.addErrback(self._start_failed)

    async def _start_parts(self) -> None:
        await self._peers.load()
        await self._tokens.load()
        served = self._offer_own()
        for name, part in self._parts.items():
            # Before it is started: what failed half-way has something to stop as well.
            self._begun.append(name)
            self._awaited = name
            with naming_the_part(name):
                await maybeDeferred(part.startService)
                offered = {
                    (key, 1) if isinstance(key, str) else key: factory
                    for key, factory in part.capabilities().items()
                }
                for (label, version), factory in sorted(offered.items()):
                    if served.setdefault(label, name) != name:
                        raise PartConflict(
                            f"the parts {served[label]!r} and {name!r} both serve the label "
                            f"{label!r}: disable one of them"
                        )
                    self._offer(label, factory, part.authorize, version)
                others = IForeignProtocols(part, None)
                for other in () if others is None else others.foreign():
                    self._listener.register(
                        other.capability,
                        other.factory,
                        part.authorize,
                        other.suite,
                        counted=not IBoundsPeers.providedBy(other.factory),
                    )
        self._dialler.start()
        self._awake = self._events.subscribe(NodeWoke, lambda _: self._dialler.woke())
        self._folder.write_endpoints(
            {
                "mesh": self._mesh_addresses(),
                "api": self._door_urls(),
                # For those who look for their own on this machine.
                "network": [network.net_id.hex() for network in self._networks],
            }
        )
        self._awaited = None
        self.ready = True
        self._log.info(
            "node {identity} is ready: mesh {mesh}, door {api}",
            identity=self.identity.public.text,
            mesh=", ".join(self._mesh_addresses()),
            api=", ".join(self._door_urls()) or NO_DOOR,
        )
        for host in (port.getHost() for port in self._door_ports):
            if isinstance(host, (IPv4Address, IPv6Address)) and host.host in _WILDCARDS:
                self._log.warn(
                    "the door listens on all interfaces, over plain HTTP, where the token can be "
                    "read on the way: add interface=127.0.0.1 to the setting api"
                )
        if self._weak:
            self._log.warn(
                "the network was made from a passphrase: whoever records one connection can "
                "guess it off line; 'meshkit init' makes a random network"
            )

    def _offer_own(self) -> dict[str, str]:
        """
        Offer what every node offers.

        @return: the labels, and who serves them.
        """
        self._offer(ping.LABEL, ping.PingFactory(self._reactor), lambda peer, label: True)
        served = {ping.LABEL: "node", key_probe.LABEL: "node"}
        audience = self._config.key_probe
        if audience != "never":
            admit = admit_probes(self._reactor, audience)
            for network in self._networks:
                # Whoever guesses a weak secret could ask every address for its key.
                if not network.weak:
                    capability = Capability.of(network, key_probe.LABEL)
                    self._listener.register_answer(capability, key_probe.PROBE, admit)
        return served

    def _offer(
        self, label: str, factory: IProtocolFactory, authorize: Authorize, version: int = 1
    ) -> None:
        """Offer a protocol to the members of the network, by its old secret as well."""
        for network in self._networks:
            self._listener.register(
                Capability.of(network, label, version),
                factory,
                partial(self._authorize, network.net_id, authorize),
                counted=not IBoundsPeers.providedBy(factory),
            )

    def _authorize(self, net_id: bytes, authorize: Authorize, peer: PublicKey, label: str) -> Any:
        if len(self._networks) > 1:
            self._seen.pop(peer, None)
            self._seen[peer] = net_id
            if len(self._seen) > MAX_SEEN:
                del self._seen[next(iter(self._seen))]
        return authorize(peer, label)

    @property
    def _weak(self) -> bool:
        return any(secret.weak for secret in self._secrets)

    def _start_failed(self, failure: Failure) -> None:
        if not self.running:
            # It was stopped before it was ready.
            failure.trap(CancelledError)
            return
        if isinstance(failure.value, MeshkitError):
            error = failure.value
        else:
            self._log.failure("the node failed to start", failure)
            error = StartError(f"the node failed to start: {failure.getErrorMessage()}")
        self._on_failure(error)

    # --- stopping --------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.ready = False
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if not self._prepared:
            return
        if self._starting is not None:
            self._starting.cancel()
        self._lag.stop()
        self._awake()
        self._dialler.stop()
        # A part that asks meanwhile where others reach it is told nowhere.
        ports, self._ports, self._door_ports = [*self._ports, *self._door_ports], [], []
        for port in ports:
            await maybeDeferred(port.stopListening)
        if self._door is not None:
            await self._door.close()
        self._tokens.stop()
        while self._begun:
            await self._stop_part(self._begun.pop())
        await self._listener.close_all()
        await maybeDeferred(self._database.stopService)
        await maybeDeferred(self._workers.stopService)
        try:
            self._folder.unlock()
        except OSError as e:
            # It is free all the same, and nobody takes its addresses for those of a node.
            self._log.warn(
                "{file} could not be removed from {folder}: {error}",
                file="endpoints.json",
                folder=self._folder.path,
                error=e.strerror,
            )
        self._prepared = False

    async def _stop_part(self, name: str) -> None:
        stopping = maybeDeferred(self._parts[name].stopService)
        stopping.addTimeout(STOP_DEADLINE, self._reactor)
        try:
            await stopping
        except Exception:
            # The others, and the database with what is acknowledged, still have to stop.
            self._log.failure("the part {name} did not stop in good order", name=name)

    # --- what the node itself offers ---------------------------------------------------

    def _operations(self) -> list[BoundOperation]:
        health = Health(self._reactor, self._database, self._progress)
        bound = [
            BoundOperation(offered.STATUS, self._answer_status),
            BoundOperation(offered.IDENTITY, self._answer_identity),
            BoundOperation(offered.HEALTH, health.answer_health),
            BoundOperation(offered.READY, health.answer_ready),
            BoundOperation(offered.METRICS, self._answer_metrics),
            BoundOperation(offered.PEERS, self._answer_peers),
            BoundOperation(offered.PEER_LEDGER, self._answer_peer_ledger),
            BoundOperation(offered.PEER_CONNECTIONS, self._answer_peer_connections),
            BoundOperation(offered.PEER_ADD, self._answer_peer_add),
            BoundOperation(offered.PEER_REMOVE, self._answer_peer_remove),
            BoundOperation(offered.PEER_DIAL, self._answer_peer_dial),
            BoundOperation(offered.PEER_REPIN, self._answer_peer_repin),
        ]
        for name, part in self._parts.items():
            with naming_the_part(name):
                bound.extend(msgspec.structs.replace(each, part=name) for each in part.operations())
        return bound

    def _progress(self) -> Progress:
        started = [name for name in self._begun if name != self._awaited]
        return Progress(self.ready, started, self._awaited, stopping=not self.running)

    def _answer_metrics(self, request: Nothing) -> bytes:
        return self._metrics.exposition()

    def _answer_status(self, request: Nothing) -> offered.NodeStatus:
        statuses = {name: self._status_of(name) for name in self._parts}
        return offered.NodeStatus(
            version=__version__,
            identity=self.identity.public.text,
            relay=self._config.relays_as,
            network=self._network.net_id.hex(),
            network_weak=self._weak,
            network_previous=self._previous.net_id.hex() if self._previous else None,
            peers_on_previous=self._count_on_previous(),
            ready=self.ready,
            uptime_secs=round(self._reactor.seconds() - self._since, 3),
            mesh=self._mesh_addresses(),
            advertised=self._places(),
            api=self._door_urls(),
            peer_count=len(self._peers.entries()) + len(self._peers.unknown()),
            channels=len(self._listener.channels),
            transports=dict(
                sorted(Counter(transport_of(each.getPeer())[0] for each in self._live()).items())
            ),
            refused=dict(sorted(self._listener.refusals.items())),
            parts={name: status for name, status in statuses.items() if status is not None},
        )

    def _status_of(self, name: str) -> Any:
        try:
            return self._parts[name].status()
        except Exception:
            # A part with a fault must not hide how the others are doing.
            self._log.failure("the part {name} cannot say how it is doing", name=name)
            return {"failed": "this part cannot say how it is doing: see the log"}

    def _aliases(self) -> list[Alias]:
        found: list[Alias] = []
        for name, part in self._parts.items():
            if IToolAliases.providedBy(part):
                with naming_the_part(name):
                    found.extend(part.aliases())
        return found

    def _advice(self) -> list[str]:
        said: list[str] = []
        for name, part in self._parts.items():
            if not IAdvisesAgents.providedBy(part) or name in self._mute:
                continue
            try:
                said.extend(part.advice())
            except Exception:
                # It is asked every few seconds: once in the log is enough.
                self._mute.add(name)
                self._log.failure("the part {name} cannot advise agents", name=name)
        return said

    def _answer_identity(self, request: Nothing) -> offered.NodeIdentity:
        return offered.NodeIdentity(
            public_id=self.identity.public.text,
            x25519_public=base64.b64encode(self.identity.public.x25519).decode("ascii"),
            addresses=self._places() or self._mesh_addresses(),
        )

    @property
    def _previous(self) -> NetworkKey | None:
        return self._networks[1] if len(self._networks) > 1 else None

    def _count_on_previous(self) -> int:
        if self._previous is None:
            return 0
        return list(self._seen.values()).count(self._previous.net_id)

    def _live(self) -> dict[SecureChannel, float]:
        """The secure channels that are open, whoever opened them, and since when."""
        return self._listener.traffic.live | self._dialled.live

    def _ways(self) -> dict[PublicKey, set[str]]:
        """By which ways channels with each peer are open."""
        ways: dict[PublicKey, set[str]] = {}
        for channel in self._live():
            address = channel.getPeer()
            if isinstance(address, PeerAddress):
                ways.setdefault(address.key, set()).add(transport_of(address)[0])
        return ways

    def _answer_peers(self, request: Nothing) -> list[offered.Peer]:
        ways = self._ways()
        shown = [self._peer(entry, ways) for entry in self._peers.entries()]
        return shown + [_unknown_peer(unknown) for unknown in self._peers.unknown()]

    def _answer_peer_connections(self, request: offered.ConnectionList) -> list[offered.Connection]:
        live = sorted(self._live().items(), key=lambda each: each[1])
        return [self._connection(*each) for each in live[: request.limit]]

    def _connection(self, channel: SecureChannel, since: float) -> offered.Connection:
        address = channel.getPeer()
        assert isinstance(address, PeerAddress), "an open channel has proved its peer's key"
        transport, relay = transport_of(address)
        host, port = getattr(address.inner, "host", None), getattr(address.inner, "port", None)
        return offered.Connection(
            public_id=address.key.text,
            label="" if channel.capability is None else channel.capability.label,
            dialled=channel in self._dialled.live,
            transport=transport,
            relay=None if relay is None else relay.text,
            from_address=None if host is None or port is None else HostPort(host, port).text,
            open_secs=round(self._reactor.seconds() - since, 3),
        )

    def _answer_peer_ledger(self, request: offered.LedgerList) -> list[offered.PeerBehaviour]:
        accounts = self._peers.ledger.accounts()[: request.limit]
        return [self._behaviour(account) for account in accounts]

    def _behaviour(self, account: Account) -> offered.PeerBehaviour:
        trip, banned = account.round_trip, self._peers.ledger.is_banned(account.key)
        return offered.PeerBehaviour(
            public_id=account.key.text,
            score=round(self._peers.ledger.score(account.key), 1),
            round_trip_ms=None if trip is None else round(trip * 1000, 3),
            last_heard=rfc3339(account.heard_ns) if account.heard_ns else None,
            missed=account.missed,
            suspect=account.suspect,
            received=account.received,
            sent=account.sent,
            duplicates=account.duplicates,
            refused=account.refused,
            banned_until=rfc3339(account.banned_until_ns) if banned else None,
            reasons=[
                offered.PeerReason(rfc3339(each.at_ns), each.code, each.text)
                for each in account.reasons
            ],
        )

    def _parse_peer(self, text: str) -> HostPort | MeshAddress:
        """
        Whom somebody wants to be reached.

        @raise InvalidAddress: if it is no address.
        @raise ConfigError: if it is our own.
        """
        target = parse_target(text)
        if isinstance(target, MeshAddress) and target.key == self.identity.public:
            raise ConfigError(f"{target.text} is this node's own address")
        return target

    async def _answer_peer_add(self, request: offered.PeerByAddress) -> offered.Peer:
        target = self._parse_peer(request.address)
        if isinstance(target, HostPort):
            added = await self._peers.add_pinned(await self._dialler.first_use(target))
        else:
            added = await self._peers.add(target)
        return self._peer(added, self._ways())

    def _peer(self, entry: PeerEntry, ways: Mapping[PublicKey, set[str]]) -> offered.Peer:
        last, pin = entry.last_connected_ns, entry.pin
        account = self._peers.ledger.find(entry.address.key)
        return offered.Peer(
            address=entry.address.text,
            public_id=entry.address.key.text,
            source=entry.source,
            connected=entry.connected,
            last_connected=None if last is None else rfc3339(last),
            failures=entry.failures,
            last_error=entry.last_error,
            pinned=None if pin is None else pin.how,
            pinned_at=None if pin is None else rfc3339(pin.pinned_ns),
            behaviour=None if account is None else self._behaviour(account),
            transports=sorted(ways.get(entry.address.key, ())),
        )

    async def _answer_peer_remove(self, request: offered.PeerByAddress) -> None:
        target = parse_target(request.address)
        address = self._peers.find(target)
        if address is None and isinstance(target, HostPort):
            raise NotFound(
                f"no peer at {target} was added by its bare address: see 'meshkit peer list'"
            )
        if isinstance(target, MeshAddress):
            address = target
        assert address is not None
        await self._peers.remove(address)

    async def _answer_peer_dial(self, request: offered.DialPeer) -> offered.Dialled:
        found_by = None
        if request.address.startswith("@"):
            key = PublicKey.parse(request.address)
            done, found_by = await self._dial_by_key(key, request.pings)
        else:
            done = await self._dial_at(self._parse_peer(request.address), request.pings)
        return offered.Dialled(
            address=done.address.text,
            public_id=done.address.key.text,
            found_by=found_by,
            handshake_ms=round(1000 * done.handshake, 3),
            round_trips_ms=[round(1000 * seconds, 3) for seconds in done.round_trips],
            transport=done.transport,
            relay=None if done.relay is None else done.relay.text,
        )

    async def _dial_at(self, target: HostPort | MeshAddress, pings: int) -> Dialled:
        pin = self._peers.pin(target) if isinstance(target, HostPort) else None
        if isinstance(target, MeshAddress):
            address = target
        elif pin is not None:
            address = MeshAddress(target.host, target.port, pin.key)
        else:
            address = MeshAddress(target.host, target.port, await self._dialler.ask(target))
        return await self._dialler.dial(address, pings)

    async def _dial_by_key(self, key: PublicKey, pings: int) -> tuple[Dialled, str]:
        """
        @return: what came of it, and who knew the address, as the door tells it.
        @raise NotFound: nobody knows where the peer can be reached.
        """
        if key == self.identity.public:
            raise ConfigError(f"{key.text} is this node itself")
        known = [each for each in self._peers.dialable() if each.key == key]
        finder = self._composition.providers.get(IPeerFinder)
        if known:
            try:
                return await self._dialler.dial_one_of(known, pings), _PEERS
            except MeshkitError:
                # It may be somewhere else by now.
                if finder is None:
                    raise
        if finder is None:
            raise NotFound(
                f"{key.text} is not among the peers of this node, and no part of it finds others "
                "by their keys: give its address, or enable the part 'dht'"
            )
        found = await self._parts[finder].find_peer(key)
        return await self._dialler.dial_one_of(found, pings), finder

    async def _answer_peer_repin(self, request: offered.PeerByAddress) -> offered.Repinned:
        target = self._parse_peer(request.address)
        if isinstance(target, HostPort):
            target = MeshAddress(target.host, target.port, await self._dialler.ask(target))
        elif target.via is not None:
            raise ConfigError(
                f"{target.text} leads through a relay, where no key is pinned: such an address "
                "names whom to expect, so add it as it is"
            )
        # Nothing is trusted that was not proved.
        await self._dialler.dial(target, direct=True)
        before = await self._peers.repin(target)
        return offered.Repinned(
            address=target.text,
            public_id=target.key.text,
            before=None if before is None else before.text,
        )

    def _listening(self) -> list[HostPort]:
        """Where others reach this node, as far as that is by TCP; hosts may be wildcards."""
        hosts = (port.getHost() for port in self._ports)
        return [
            HostPort(host.host, host.port)
            for host in hosts
            if isinstance(host, (IPv4Address, IPv6Address))
        ]

    def _mesh_addresses(self) -> list[str]:
        """Addresses that name a host.  A wildcard is shown as the loopback address."""
        return [
            MeshAddress(_shown_host(place.host), place.port, self.identity.public).text
            for place in self._listening()
        ]

    def _places(self) -> list[str]:
        """Addresses that others are told."""
        key = self.identity.public
        return [MeshAddress(each.host, each.port, key).text for each in self._whereabouts.places()]

    def _door_urls(self) -> list[str]:
        """Where the door is: C{http://HOST:PORT}, or C{unix:PATH}."""
        found = []
        for host in (port.getHost() for port in self._door_ports):
            if isinstance(host, (IPv4Address, IPv6Address)):
                shown = _shown_host(host.host)
                found.append(f"http://{f'[{shown}]' if ':' in shown else shown}:{host.port}")
            elif isinstance(host, UNIXAddress) and host.name is not None:
                found.append(f"unix:{os.path.abspath(os.fsdecode(host.name))}")
        return found


_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
#: Who knew the address of a peer: see L{offered.Dialled}.
_PEERS: Final = "peers"


def _shown_host(host: str) -> str:
    return _WILDCARDS.get(host, host)


def _unknown_peer(unknown: Unknown) -> offered.Peer:
    return offered.Peer(
        address=unknown.place.text,
        public_id=None,
        source="config",
        connected=False,
        last_connected=None,
        failures=unknown.failures,
        last_error=unknown.last_error,
        pinned=None,
        pinned_at=None,
        behaviour=None,
        transports=[],
    )


@contextmanager
def naming_the_part(name: str) -> Iterator[None]:
    """
    While a part's own code runs.

    @raise BrokenPart: naming the part, in place of what nobody could make sense of.
    """
    try:
        yield
    except (MeshkitError, CancelledError):
        raise
    except Exception as e:
        raise BrokenPart(
            f"the part {name!r} cannot be used ({type(e).__name__}: {e}): mend it, or leave it "
            f"out with --disable {name}"
        ) from e


def _private(text: str) -> str:
    """The door's endpoint; a unix socket is for its owner alone unless it says otherwise."""
    if text.startswith("unix:") and ":mode=" not in text:
        return f"{text}:mode=600"
    return text


def _endpoint(reactor: Any, setting: str, text: str) -> Any:
    try:
        return parse_endpoint(serverFromString, reactor, text)
    except ValueError as e:
        raise ConfigError(
            f"the setting {setting} is {text!r}, which is no Twisted endpoint ({e}): "
            f"write for example tcp:7655 or tcp:7654:interface=127.0.0.1"
        ) from None


def _listen(endpoint: Any, factory: Any, setting: str, text: str) -> IListeningPort:
    """
    Open a port now.

    @raise CannotListen: if it cannot be opened, or not without waiting.
    """
    results: list[Any] = []
    listening = endpoint.listen(factory)
    listening.addBoth(results.append)
    if not results:
        listening.cancel()
        raise CannotListen(f"the endpoint {text!r} of the setting {setting} cannot be opened here")
    (result,) = results
    if isinstance(result, Failure):
        why: object = result.value
        if isinstance(why, CannotListenError):
            why = why.socketError
        if isinstance(why, OSError) and why.strerror:
            # Without the names of the files that Twisted made for it.
            why = why.strerror
        raise CannotListen(
            f"cannot listen on {text!r} ({why}): stop what uses it, or set --{setting} to "
            f"another endpoint"
        ) from None
    port: IListeningPort = result
    return port


def all_sections(makers: Sequence[Any]) -> dict[str, type[msgspec.Struct]]:
    """
    The config sections of parts, for L{meshkit.runtime.config.Declaration}.

    @raise BrokenPart: naming the part whose module does not import, or whose settings
        cannot be declared.
    """
    sections, broken = usable_sections(makers)
    for error in broken.values():
        raise error
    return sections


def usable_sections(
    makers: Sequence[Any],
) -> tuple[dict[str, type[msgspec.Struct]], dict[str, BrokenPart]]:
    """
    Like L{all_sections}, for those who do not know yet which parts are disabled.

    @return: the sections, and for each part without one why it cannot be used.
    """
    sections: dict[str, type[msgspec.Struct]] = {}
    broken: dict[str, BrokenPart] = {}
    for maker in makers:
        try:
            with naming_the_part(maker.name):
                section = maker.config_type()
                declare_all(maker.name, section)
                sections[maker.name] = section
        except BrokenPart as e:
            broken[maker.name] = e
    return sections, broken
