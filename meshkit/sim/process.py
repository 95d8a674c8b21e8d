"""
A process on a simulated machine: what a node has instead of a reactor, a file system and
databases, until it ends.

It can end at any moment.  From then on no code of it is called: its timers and whatever its
workers and databases had to do are forgotten, its connections belong to nobody, and the
locks that it held are free.  What code of it that is just running, or that a finaliser calls
later, still tries has no effect: the clock it sees stands still, its timers are never due,
its connections lead nowhere, and its disk is not there any more.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from typing import Any, Final
from typing import Protocol as Shape

from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
)
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

from meshkit.interfaces import IFiles
from meshkit.runtime.container import Backing, Versions
from meshkit.runtime.files import SystemCalls
from meshkit.runtime.transactions import WriterConnection
from meshkit.sim.clock import SimCall, SimClock
from meshkit.sim.disk import SimDisk, SimSystem
from meshkit.sim.handshakes import SimConnector
from meshkit.sim.network import NetHost
from meshkit.sim.streams import SimTransport
from meshkit.testing.nodes import MemoryHost
from meshkit.testing.transports import MemoryNetwork

__all__ = ["Machine", "Process", "ProcessBacking", "ProcessFiles"]

# So many connections that are over may be remembered before they are looked for.
_MANY: Final = 32


class Machine(Shape):
    """
    What a process needs of the machine it runs on.

    @ivar name: of the machine.
    @ivar address: on the common network.
    @ivar clock: the world's.
    @ivar net: how it is connected to the common network.
    @ivar loopback: the interface that only its own processes see.
    """

    name: str
    address: str
    clock: SimClock
    net: NetHost
    loopback: MemoryNetwork


class Process(MemoryHost):
    """
    See the module.  It is the reactor of what runs in it: time, TCP and names.

    @ivar pid: unique on the machine.
    @ivar running: it has not ended.
    """

    _log = Logger()

    def __init__(self, machine: Machine, pid: int) -> None:
        super().__init__(machine.clock, None, machine.address, loopback=machine.loopback)
        self.pid = pid
        self.running = True
        self._net: Any = machine.net
        self._time = machine.clock
        self._ports: list[Any] = []
        self._connectors: list[Any] = []
        self._sockets: list[_Socket] = []
        self._connections: list[sqlite3.Connection] = []
        self._limit = _MANY

    # --- time

    def callLater(self, delay: float, callable: Any, *args: Any, **kw: Any) -> SimCall:
        return self._time.call_for(self, delay, callable, args, kw)

    def getDelayedCalls(self) -> list[SimCall]:
        return self._time.calls_of(self)

    # --- TCP

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        where: Any = super() if interface.startswith("127.") else self._net
        listening = where.listenTCP(port, _Factory(self, factory), backlog, interface)
        self._ports.append(listening)
        return listening

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,
    ) -> Any:
        where: Any = super() if host.startswith("127.") else self._net
        connector = where.connectTCP(host, port, _Factory(self, factory), timeout, bindAddress)
        if len(self._connectors) >= self._limit:
            self._connectors = [each for each in self._connectors if _is_connecting(each)]
            self._limit = max(_MANY, 2 * len(self._connectors))
        self._connectors.append(connector)
        return connector

    def _opened(self, socket: _Socket) -> None:
        if len(self._sockets) >= self._limit:
            self._sockets = [each for each in self._sockets if each.is_open]
            self._limit = max(_MANY, 2 * len(self._sockets))
        self._sockets.append(socket)

    # --- its end

    @property
    def dialling(self) -> int:
        """How many connections it tries to make."""
        return sum(map(_is_connecting, self._connectors))

    def left(self) -> list[str]:
        """@return: what it has not ended or closed: C{["2 x timer", "1 x port"]}."""
        counts = (
            (len(self.getDelayedCalls()), "timer"),
            (sum(port.listening for port in self._ports), "port"),
            (self.dialling, "attempt to connect"),
            (sum(socket.is_open for socket in self._sockets), "connection"),
            (sum(map(_is_open, self._connections)), "open database"),
        )
        return [f"{count} x {what}" for count, what in counts if count]

    def end(self) -> None:
        """The process is gone.  Nothing happens if it is already."""
        if not self.running:
            return
        self.running = False
        clock = self._time
        # A clock that nobody moves, and networks that need it to do anything.
        limbo = SimClock()
        limbo.ns = clock.ns
        self._clock = self._time = limbo
        self.loopback = MemoryNetwork(limbo)
        self._net = MemoryHost(limbo, self.loopback, self.address, loopback=self.loopback)
        clock.drop(self)
        for port in self._ports:
            port.stopListening()
        for connector in self._connectors:
            if _is_connecting(connector):
                connector.stopConnecting()
        for socket in self._sockets:
            socket.orphan()
        for connection in self._connections:
            connection.close()
        self._ports, self._connectors, self._sockets, self._connections = [], [], [], []

    def check(self) -> None:
        """@raise OSError: if the process has ended."""
        if not self.running:
            raise OSError(errno.ENODEV, "the process that asks has ended")

    def holds(self, connection: sqlite3.Connection) -> None:
        """This connection is closed when the process ends."""
        self._connections = [each for each in self._connections if _is_open(each)]
        self._connections.append(connection)

    def failed(self, what: str) -> None:
        """Code of the process raised an error that nobody was there for; log it."""
        self._log.failure(what)


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        return connection.total_changes >= 0
    except sqlite3.ProgrammingError:
        return False


def _is_connecting(connector: Any) -> bool:
    if isinstance(connector, SimConnector):
        return bool(connector.state == "connecting")
    return not connector.attempt.called


@implementer(IProtocolFactory)
class _Factory:
    """A factory of a process, for as long as that runs."""

    # Twisted's ports say so in the log if asked to.
    noisy = False

    def __init__(self, process: Process, factory: Any) -> None:
        self._process = process
        self._factory = factory

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        if not self._process.running:
            return None
        built = self._factory.buildProtocol(addr)
        return None if built is None else _Socket(self._process, built)

    def doStart(self) -> None:
        if self._process.running:
            self._factory.doStart()

    def doStop(self) -> None:
        if self._process.running:
            self._factory.doStop()

    def startedConnecting(self, connector: Any) -> None:
        if self._process.running:
            self._factory.startedConnecting(connector)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        if self._process.running:
            self._factory.clientConnectionFailed(connector, reason)

    def clientConnectionLost(self, connector: Any, reason: Failure) -> None:
        if self._process.running:
            self._factory.clientConnectionLost(connector, reason)


class _Socket(Protocol):
    """Stands between a transport and a protocol of a process."""

    def __init__(self, process: Process, protocol: Any) -> None:
        self._process = process
        self._protocol = protocol
        if IHalfCloseableProtocol.providedBy(protocol):
            directlyProvides(self, IHalfCloseableProtocol)

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        if self._process.running:
            self._process._opened(self)
            self._call(self._protocol.makeConnection, transport)
        else:
            self.orphan()

    def dataReceived(self, data: bytes) -> None:
        if self._process.running:
            self._call(self._protocol.dataReceived, data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self._process.running:
            self._call(self._protocol.connectionLost, reason)

    def readConnectionLost(self) -> None:
        if self._process.running:
            self._call(self._protocol.readConnectionLost)

    def writeConnectionLost(self) -> None:
        if self._process.running:
            self._call(self._protocol.writeConnectionLost)

    def _call(self, method: Callable[..., object], *args: Any) -> None:
        # As a reactor does with a connection whose protocol raises.
        try:
            method(*args)
        except Exception:
            self._process.failed("a protocol raised an error, and loses its connection")
            transport: Any = self.transport
            transport.abortConnection()

    @property
    def is_open(self) -> bool:
        """Is the connection not over?"""
        transport: Any = self.transport
        return bool(transport.connected)

    def orphan(self) -> None:
        """Nobody is there any more: the network says what the other side sees of that."""
        transport: Any = self.transport
        self._protocol = None
        if not transport.connected:
            return
        if isinstance(transport, SimTransport):
            transport.let_go(True)
            transport.detach()
        else:
            transport.protocol = Protocol()
            transport.unregisterProducer()
            transport.abortConnection()


class ProcessSystem:
    """
    The system calls of a machine, for one process on it: what it opens is closed when it ends,
    and after that it gets nothing.
    """

    def __init__(self, process: Process, system: SimSystem) -> None:
        self._process = process
        self._calls = system

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._calls, name)

        def calls(*args: Any, **kw: Any) -> Any:
            self._process.check()
            self._calls.owner = self._process
            try:
                return call(*args, **kw)
            finally:
                self._calls.owner = None

        self.__dict__[name] = calls
        return calls


@implementer(IFiles)
class ProcessFiles:
    """The files of a machine, for one process on it."""

    def __init__(self, process: Process, disk: SimDisk) -> None:
        self._process = process
        self._files = disk
        self._system: Any = ProcessSystem(process, disk.system)

    @property
    def system(self) -> SystemCalls:
        """The system calls of the machine."""
        calls: SystemCalls = self._system
        return calls

    def read(self, path: str, limit: int) -> bytes:
        self._process.check()
        return self._files.read(path, limit)

    def read_secret(self, path: str, limit: int) -> bytes:
        self._process.check()
        return self._files.read_secret(path, limit)

    def write_atomic(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self._process.check()
        self._files.write_atomic(path, data, mode)

    def create(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self._process.check()
        self._files.create(path, data, mode)

    def make_folder(self, path: str, mode: int = 0o700) -> None:
        self._process.check()
        self._files.make_folder(path, mode)

    def mode(self, path: str) -> int | None:
        self._process.check()
        return self._files.mode(path)

    def remove(self, path: str) -> None:
        self._process.check()
        self._files.remove(path)

    def lock(self, path: str, note: str) -> Callable[[], None]:
        self._process.check()
        system = self._files.system
        system.owner = self._process
        try:
            return self._files.lock(path, note)
        finally:
            system.owner = None


class ProcessBacking:
    """A database of a machine, for one process on it."""

    def __init__(self, process: Process, backing: Backing) -> None:
        self._process = process
        self._backing = backing
        self.name = backing.name

    def prepare(self) -> Versions:
        self._process.check()
        return self._backing.prepare()

    def open_writer(self) -> WriterConnection:
        self._process.check()
        connection = self._backing.open_writer()
        self._process.holds(connection)
        return connection

    def open_reader(self) -> sqlite3.Connection:
        self._process.check()
        connection = self._backing.open_reader()
        self._process.holds(connection)
        return connection
