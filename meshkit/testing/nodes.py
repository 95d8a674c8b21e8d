"""
Whole nodes in one process, on one virtual clock, without sockets, threads or disk.

Each node has a host of its own, with an address, a loopback interface and files; the
hosts share a clock and a network.  Nothing happens until the clock is moved::

    mesh = MemoryMesh()
    ada = mesh.node("ada")
    bob = mesh.node("bob", f'peers = ["{ada.address}"]')
    ada.start()
    bob.start()
    ada.ask("POST", "/v1/publish", {"content": {"type": "note"}})
    mesh.run(1.0)
    assert bob.ask("GET", "/v1/feed").json["metadata"]["total"] == 1
    mesh.stop()

What a node does in this world depends on its configuration and on the seed alone.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from random import Random
from types import MappingProxyType
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IHostnameResolver,
    IHostResolution,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

import meshkit_plugins
from meshkit.errors import MeshkitError, UnsafePermissions
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keyfile import encode_identity
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.interfaces import IConnections, IFiles
from meshkit.parts import PartContext
from meshkit.runtime.config import Declaration
from meshkit.runtime.container import MemoryFile
from meshkit.runtime.database import Database
from meshkit.runtime.events import EventBus
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import DOOR_TOKEN, NETWORK_SECRET, SECRET_KEY
from meshkit.runtime.peers import PeerBook
from meshkit.runtime.registry import compose, discover_parts
from meshkit.runtime.tables import MIGRATIONS as NODE_MIGRATIONS
from meshkit.runtime.workers import InlineWorkers
from meshkit.services.node import NodeService, all_sections
from meshkit.services.programs import MESH_NODE, Program
from meshkit.testing.doors import DOOR_PORT, LOOPBACK, Answer, DoorCall, DoorCaller
from meshkit.testing.identities import DAY_NS, make_identity
from meshkit.testing.transports import MemoryNetwork

__all__ = [
    "DOOR_PORT",
    "MESH_PORT",
    "Answer",
    "MemoryFiles",
    "MemoryHost",
    "MemoryMesh",
    "MemoryNode",
    "make_context",
    "run_clock",
]

#: Port of every node for its peers.
MESH_PORT: Final = 7655
_FIRST_FREE_PORT: Final = 20_000
#: Seconds of virtual time after which a start, a stop or an answer is overdue.
_OVERDUE: Final = 60.0
_SECONDS: Final = 10**9


# --- files -------------------------------------------------------------------------


@implementer(IFiles)
class MemoryFiles:
    """
    A disk in memory that never fails.

    @ivar content: path -> what the file holds.
    @ivar modes: path of a file or folder -> its permission bits.
    @ivar system: there is none.
    """

    system = None

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self._locks: set[str] = set()

    def read(self, path: str, limit: int) -> bytes:
        if path not in self.content:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if len(self.content[path]) > limit:
            raise OSError(errno.EFBIG, f"larger than the {limit} bytes it may have", path)
        return self.content[path]

    def read_secret(self, path: str, limit: int) -> bytes:
        data = self.read(path, limit)
        if self.modes[path] & 0o077:
            raise UnsafePermissions(
                f"other users have rights to the secret file {path} (mode {self.modes[path]:04o}): "
                f"run chmod 600 {path}"
            )
        return data

    def write_atomic(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self.content[path] = data
        self.modes[path] = mode

    def create(self, path: str, data: bytes, mode: int = 0o600) -> None:
        if path in self.content:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self.write_atomic(path, data, mode)

    def make_folder(self, path: str, mode: int = 0o700) -> None:
        if path not in self.modes:
            parent = posixpath.dirname(path)
            if parent != path:
                self.make_folder(parent, mode)
            self.modes[path] = mode

    def mode(self, path: str) -> int | None:
        return self.modes.get(path)

    def remove(self, path: str) -> None:
        self.content.pop(path, None)
        self.modes.pop(path, None)

    def lock(self, path: str, note: str) -> Callable[[], None]:
        if path in self._locks:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
        self._locks.add(path)
        self.write_atomic(path, note.encode("utf-8"))

        def release() -> None:
            if path in self._locks:
                self._locks.remove(path)
                self.write_atomic(path, b"")

        return release


# --- a host ------------------------------------------------------------------------


@implementer(IHostResolution)
class _Literal:
    """The resolution of an address that needs none."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """It is over already."""


@implementer(IHostnameResolver)
class _Resolver:
    """Knows no names: in memory, hosts are reached by their addresses."""

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolution = _Literal(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        if hostName.replace(".", "").isdigit():
            resolutionReceiver.addressResolved(IPv4Address("TCP", hostName, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


@implementer(IConnector)
class _Connector:
    """One C{connectTCP}."""

    def __init__(self, target: IPv4Address, attempt: Deferred[IProtocol]) -> None:
        self._target = target
        self.attempt = attempt

    def stopConnecting(self) -> None:
        self.attempt.cancel()

    def disconnect(self) -> None:
        raise NotImplementedError("hold on to the protocol instead")

    def connect(self) -> None:
        raise NotImplementedError("call connectTCP again instead")

    def getDestination(self) -> IAddress:
        return self._target


@implementer(IReactorTime, IReactorTCP, IReactorPluggableNameResolver)
class MemoryHost:
    """
    What a node takes for its reactor: the time, TCP and the names of one host.

    @ivar address: dotted quad on the common network.
    @ivar loopback: the interface that only this host sees.
    @ivar nameResolver: see C{IReactorPluggableNameResolver}.
    """

    def __init__(
        self,
        clock: IReactorTime,
        network: Any,
        address: str,
        *,
        loopback: MemoryNetwork | None = None,
    ) -> None:
        """
        @param network: a L{MemoryNetwork}, or what has its two endpoints.
        @param loopback: that of the host; one of its own, if not given.
        """
        self._clock = clock
        self._network = network
        self.loopback = MemoryNetwork(clock) if loopback is None else loopback
        self._ports_given = 0
        self.address = address
        self.nameResolver: Any = _Resolver()

    def installNameResolver(self, resolver: Any) -> Any:
        previous, self.nameResolver = self.nameResolver, resolver
        return previous

    def seconds(self) -> float:
        return self._clock.seconds()

    def callLater(self, delay: float, callable: Any, *args: Any, **kw: Any) -> Any:
        return self._clock.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Any:
        return self._clock.getDelayedCalls()

    def _where(self, host: str) -> tuple[Any, str]:
        if host.startswith("127."):
            return self.loopback, host
        return self._network, host or self.address

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        network, host = self._where(interface)
        if port == 0:
            self._ports_given += 1
            port = _FIRST_FREE_PORT + self._ports_given
        results: list[Any] = []
        network.server_endpoint(port, host).listen(factory).addBoth(results.append)
        (result,) = results
        if isinstance(result, Failure):
            why = result.value
            raise why if isinstance(why, CannotListenError) else CannotListenError(host, port, why)
        listening: IListeningPort = result
        return listening

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,
    ) -> Any:
        network, target = self._where(host)
        source = target if network is self.loopback else self.address
        attempt = network.client_endpoint(port, target, source=source).connect(factory)
        connector = _Connector(IPv4Address("TCP", target, port), attempt)
        factory.doStart()
        factory.startedConnecting(connector)
        attempt.addErrback(partial(factory.clientConnectionFailed, connector))
        return connector


# --- the time ----------------------------------------------------------------------


def next_call(clock: Clock) -> float | None:
    """@return: when the next thing happens, if anything will."""
    calls = clock.getDelayedCalls()
    return min(call.getTime() for call in calls) if calls else None


def run_clock(clock: Clock, seconds: float = 0.0) -> None:
    """
    Let so much time pass, one event after the other: C{Clock.advance} alone would move
    to the end first, so that what is due in between would begin too late.
    """
    end = clock.seconds() + seconds
    while (moment := next_call(clock)) is not None and moment <= end:
        clock.advance(max(0.0, moment - clock.seconds()))
    clock.advance(max(0.0, end - clock.seconds()))


# --- a part ------------------------------------------------------------------------


@implementer(IConnections)
class _NoConnections:
    """Nobody can be reached."""

    def endpoint(
        self,
        address: MeshAddress,
        label: str,
        version: int = 1,
        *,
        network: Any = None,
        identity: Any = None,
        direct: bool = False,
    ) -> Any:
        return self.beneath(address.place)

    def beneath(self, place: HostPort) -> Any:
        return MemoryNetwork().client_endpoint(place.port, place.host)


_contexts = count(1)


def make_context(
    clock: Clock,
    name: str = "part",
    *,
    config: Any = None,
    migrations: Mapping[str, Sequence[str]] = MappingProxyType({}),
    found: Mapping[Any, Any] = MappingProxyType({}),
    connections: Any = None,
    workers: Any = None,
    backing: Any = None,
) -> PartContext:
    """
    What a part may use, to test one alone.  Its database and its workers are started.

    @param name: of the node; its identity is C{make_identity(name)}.
    @param config: the part's section.
    @param migrations: the scripts of the parts that share the database.
    @param found: what C{find} gives, by interface.
    @param connections: how to dial; nobody can be reached, if not given.
    @param workers: in place of L{InlineWorkers} on the clock.
    @param backing: a L{MemoryFile} of an earlier context, to find its data.
    """
    file = MemoryFile(f"context-{next(_contexts)}") if backing is None else backing
    database = Database(clock, name, threads=InlineWorkers, backing=lambda _path: file)
    database.open_and_migrate({"node": NODE_MIGRATIONS, **migrations})
    database.startService()
    if workers is None:
        workers = InlineWorkers(clock, 2)
        workers.startService()

    def wall_clock() -> int:
        return DAY_NS + int(clock.seconds() * _SECONDS)

    secret = NetworkSecret.generate(Random("network"))
    return PartContext(
        reactor=clock,
        rng=Random(name),
        wall_clock=wall_clock,
        config=config,
        identity=make_identity(name),
        network=secret.key(),
        secret=secret,
        database=database,
        workers=workers,
        files=MemoryFiles(),
        data_folder=f"/{name}",
        connections=_NoConnections() if connections is None else connections,
        peers=PeerBook(database, wall_clock),
        events=EventBus(),
        find=dict(found).get,
        verify=PublicKey.verifies,
    )


# --- a node ------------------------------------------------------------------------


class MemoryNode(DoorCaller):
    """
    One node of a L{MemoryMesh}.

    @ivar name: unique in the mesh.
    @ivar identity: who it is, known before it is started.
    @ivar address: where others dial it.
    @ivar host: its reactor.
    @ivar files: its disk.
    @ivar folder: path of its data folder in C{files}.
    @ivar service: the L{NodeService}; a new one at each L{start}.
    @ivar failures: errors with which it failed to start.
    """

    def __init__(
        self,
        mesh: MemoryMesh,
        name: str,
        host: MemoryHost,
        config: str,
        makers: Sequence[Any],
        program: Program = MESH_NODE,
    ) -> None:
        self._mesh = mesh
        self._config = config
        self._makers = makers
        self._program = program
        self._made = 0
        self.name = name
        self.host = host
        self.files = MemoryFiles()
        self.folder = f"/{name}"
        self.identity: Identity = make_identity(name)
        self.address = MeshAddress(host.address, MESH_PORT, self.identity.public).text
        self.database_file = MemoryFile(f"{mesh.label}/{name}")
        self.failures: list[MeshkitError] = []
        self.service: NodeService
        self.files.make_folder(self.folder)
        self.files.create(f"{self.folder}/{SECRET_KEY}", encode_identity(self.identity))
        self.files.create(f"{self.folder}/{NETWORK_SECRET}", mesh.network_secret.encode())

    def make(self) -> NodeService:
        """Make the service from what lies in the node's files, without starting it."""
        settings = Declaration(self._program.config, all_sections(self._makers)).resolve(
            {}, {}, ("meshkit.toml", self._defaults() + self._config.encode("utf-8"))
        )
        makers = self._program.parts_for(settings.root, self._makers)
        self.service = NodeService(
            self.host,
            DataFolder(self.folder, self.files),
            settings,
            compose(makers, settings.root.disable, settings.root.compat),
            rng=Random(f"{self._mesh.seed}/{self.name}/{self._made}"),
            wall_clock=self._mesh.wall_clock,
            files=self.files,
            pid=lambda: 1,
            on_failure=self.failures.append,
            make_workers=InlineWorkers,
            make_database=self._make_database,
        )
        self._made += 1
        return self.service

    def _defaults(self) -> bytes:
        # Each has a host of its own, so all of them, whatever daemon, can be at the same ports.
        own = {
            "listen": f"tcp:{MESH_PORT}:interface={self.host.address}",
            "api": f"tcp:{DOOR_PORT}:interface={LOOPBACK}",
        }
        return "".join(
            f'{name} = "{text}"\n' for name, text in own.items() if f"{name} =" not in self._config
        ).encode()

    def _make_database(self, reactor: Any, path: str) -> Database:
        return Database(
            reactor, path, threads=InlineWorkers, backing=lambda _path: self.database_file
        )

    def start(self) -> None:
        """
        Make the service and start it, until it is ready.

        @raise MeshkitError: why it did not start.
        """
        service = self.make()
        service.privilegedStartService()
        service.startService()
        self._mesh.until(lambda: service.ready or bool(self.failures), f"start of {self.name}")
        if self.failures:
            raise self.failures[-1]

    def stop(self) -> None:
        """Stop the service, to the end.  It can be started again and finds its data."""
        stopped: list[Any] = []
        self.service.stopService().addBoth(stopped.append)
        self._mesh.until(lambda: bool(stopped), f"stop of {self.name}")
        if isinstance(stopped[0], Failure):
            stopped[0].raiseException()

    @property
    def running(self) -> bool:
        """Was it started and not stopped?"""
        return self._made > 0 and bool(self.service.running)

    def _door_token(self) -> bytes:
        return self.files.content[f"{self.folder}/{DOOR_TOKEN}"].strip()

    def _connect_door(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self.host.loopback.client_endpoint(DOOR_PORT, LOOPBACK).connect(factory)

    def _await_answer(self, call: DoorCall, what: str) -> None:
        self._mesh.until(lambda: call.ended, what)


class MemoryMesh:
    """
    Nodes that share a clock, a network and a network secret.

    @ivar clock: the virtual time.
    @ivar network: what the hosts are connected by; its C{wires} can be cut.
    @ivar seed: of all randomness.
    @ivar network_secret: what makes the nodes members of one network.
    @ivar nodes: in the order in which they were made.
    """

    def __init__(self, seed: int = 0, *, latency: float = 0.001) -> None:
        """@param latency: seconds that bytes take from one host to another."""
        # Databases in memory share one space of names.
        self.label = f"mesh-{next(_contexts)}"
        self.seed = seed
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock, latency=latency)
        self.network_secret = NetworkSecret.generate(Random(f"{seed}/network"))
        self.nodes: list[MemoryNode] = []

    def wall_clock(self) -> int:
        """Nanoseconds since 1970; begins on 2026-01-01."""
        return DAY_NS + int(self.clock.seconds() * _SECONDS)

    def node(
        self,
        name: str,
        config: str = "",
        *,
        makers: Sequence[Any] | None = None,
        program: Program = MESH_NODE,
    ) -> MemoryNode:
        """
        Make a node on a host of its own.

        @param config: content of its C{meshkit.toml}.
        @param makers: its parts, of those that its program may have; all that are installed, if
            not given.
        @param program: which daemon it is.
        """
        host = MemoryHost(self.clock, self.network, f"10.0.0.{len(self.nodes) + 1}")
        installed = discover_parts(meshkit_plugins) if makers is None else makers
        node = MemoryNode(self, name, host, config, program.parts_of(installed), program)
        self.nodes.append(node)
        return node

    def run(self, seconds: float) -> None:
        """Let so much time pass, one event after the other."""
        run_clock(self.clock, seconds)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = _OVERDUE) -> None:
        """
        Let time pass until something is so.

        @raise AssertionError: if it is not so after that many seconds, or when nothing
            is left that could happen.
        """
        end = self.clock.seconds() + seconds
        while not condition():
            moment = next_call(self.clock)
            if moment is None or moment > end:
                raise AssertionError(f"still waiting for: {what}")
            self.clock.advance(max(0.0, moment - self.clock.seconds()))

    def stop(self) -> None:
        """Stop every node that runs and forget their data."""
        for node in self.nodes:
            if node.running:
                node.stop()
            node.database_file.close()
