"""
A simulated machine, and what a world plugs into it: a network and a disk.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

from meshkit.interfaces import IFiles
from meshkit.runtime.container import Backing, MemoryFile
from meshkit.sim.clock import SimClock
from meshkit.sim.process import Process, ProcessBacking, ProcessFiles
from meshkit.testing.identities import DAY_NS
from meshkit.testing.nodes import MemoryFiles
from meshkit.testing.transports import MemoryNetwork

if TYPE_CHECKING:
    from meshkit.sim.world import World

__all__ = ["Disk", "MemoryDisk", "MemoryLan", "Network", "SimHost"]

# Databases in memory share one space of names in a process.
_disks = count(1)


class Network(Protocol):
    """
    What machines are connected by.

    It calls whatever a transport's C{protocol} is at that moment, as Twisted's own
    transports do: of a process that has ended nothing is called any more, since another
    protocol is put there before the connection is aborted.
    """

    def attach(self, name: str, *, behind: Any = None) -> str:
        """
        Connect a machine.

        @param behind: what stands between it and the common network.
        @return: its address, a dotted quad.
        """

    def server_endpoint(self, port: int, host: str = "127.0.0.1") -> IStreamServerEndpoint:
        """@return: where a machine with that address listens."""

    def client_endpoint(
        self, port: int, host: str = "127.0.0.1", *, source: str = "127.0.0.1"
    ) -> IStreamClientEndpoint:
        """@return: how a machine reaches another.  @param source: its own address."""


class Disk(Protocol):
    """What a machine keeps its data on."""

    @property
    def files(self) -> IFiles:
        """Its file system, as all processes of the machine see it."""

    def backing(self, path: str) -> Backing:
        """@return: the database under that path; the same data each time."""

    def crash(self) -> None:
        """The power fails: what was not synced may be lost.  No process runs any more."""

    def close(self) -> None:
        """Forget the data: the world has ended."""


class MemoryLan(MemoryNetwork):
    """A network on which everybody reaches everybody, and nothing is ever lost."""

    def __init__(self, clock: SimClock, *, latency: float = 0.001) -> None:
        super().__init__(clock, latency=latency)
        self._attached = 0

    def attach(self, name: str, *, behind: Any = None) -> str:
        """See L{Network}."""
        if behind is not None:
            raise ValueError("on this network nothing stands between two machines")
        self._attached += 1
        high, low = divmod(self._attached, 250)
        return f"10.{high >> 8}.{high & 255}.{low + 1}"


class MemoryDisk:
    """A disk that never fails and loses nothing."""

    def __init__(self) -> None:
        self.files = MemoryFiles()
        self._number = next(_disks)
        self._databases: dict[str, MemoryFile] = {}

    def backing(self, path: str) -> Backing:
        """See L{Disk}."""
        if path not in self._databases:
            self._databases[path] = MemoryFile(f"disk-{self._number}{path}")
        return self._databases[path]

    def crash(self) -> None:
        """See L{Disk}."""

    def close(self) -> None:
        """See L{Disk}."""
        for file in self._databases.values():
            file.close()


class SimHost:
    """
    A machine.

    @ivar name: unique in the world.
    @ivar address: on the common network.
    @ivar clock: the world's.
    @ivar network: what it is connected to.
    @ivar loopback: the interface that only its own processes see.
    @ivar disk: its data, see L{Disk}.
    @ivar locks: the process that holds the lock on a file, by path.
    @ivar processes: those that were begun, the last one last.
    @ivar skew_ns: how far its wall clock is ahead of the world's.
    """

    def __init__(self, world: World, name: str, address: str, network: Network, disk: Disk) -> None:
        self._world = world
        self._pids = count(1)
        self.name = name
        self.address = address
        self.clock = world.clock
        self.network = network
        self.loopback = MemoryNetwork(world.clock)
        self.disk = disk
        self.locks: dict[str, Any] = {}
        self.processes: list[Process] = []
        self.skew_ns = 0

    def wall_clock(self) -> int:
        """
        Nanoseconds since 1970, as this machine sees it; the world begins on 2026-01-01.
        """
        return DAY_NS + self.clock.ns + self.skew_ns

    def skew(self, seconds: float) -> None:
        """Set its wall clock: so far ahead of the world's, or behind if negative."""
        self.skew_ns = round(seconds * 10**9)
        self.event("host.skew", ns=self.skew_ns)

    def begin(self) -> Process:
        """Begin a process."""
        process = Process(self, next(self._pids))
        self.processes = [each for each in self.processes if each.running]
        self.processes.append(process)
        self.event("process.begin", pid=process.pid)
        return process

    def files(self, process: Process) -> ProcessFiles:
        """@return: its file system, for one of its processes."""
        return ProcessFiles(process, self, self.disk.files)

    def backing(self, process: Process) -> Callable[[str], ProcessBacking]:
        """@return: its databases by path, for one of its processes."""
        return lambda path: ProcessBacking(process, self.disk.backing(path))

    def end(self, process: Process) -> None:
        """End a process where it stands, as SIGKILL does: the disk keeps what it was given."""
        if process.running:
            self.event("process.end", pid=process.pid)
            process.end()

    def crash(self) -> None:
        """The power fails: no process goes on, and the disk may lose what was not synced."""
        self.event("host.crash")
        for process in self.processes:
            process.end()
        self.disk.crash()

    def event(self, kind: str, **details: Any) -> None:
        """Something happened on this machine."""
        self._world.trace.event(kind, self.name, **details)
