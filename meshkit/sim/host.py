"""
A simulated machine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from meshkit.sim.clock import nanoseconds
from meshkit.sim.network import NetHost
from meshkit.sim.process import Process, ProcessBacking, ProcessFiles
from meshkit.sim.storage import Storage
from meshkit.testing.identities import DAY_NS
from meshkit.testing.transports import MemoryNetwork

if TYPE_CHECKING:
    from meshkit.sim.world import World

__all__ = ["SimHost"]


class SimHost:
    """
    A machine.

    @ivar name: unique in the world.
    @ivar net: how it is connected to the common network.
    @ivar address: there.
    @ivar loopback: the interface that only its own processes see.  It has no latency and no
        faults.
    @ivar storage: its data.
    @ivar clock: the world's.
    @ivar skew_ns: how far its wall clock is ahead of the world's.
    """

    def __init__(self, world: World, name: str, net: NetHost, folder: str | None) -> None:
        self._world = world
        self._pids = count(1)
        self._processes: list[Process] = []
        self._lost = False
        self.name = name
        self.net = net
        self.address = net.address
        self.clock = world.clock
        self.loopback = MemoryNetwork(world.clock)
        self.storage = Storage(world.seeds, name, self._lose_power, folder)
        self.skew_ns = 0

    @property
    def processes(self) -> list[Process]:
        """Those that run, the last one last."""
        return [each for each in self._processes if each.running]

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
        """Begin a process; the machine gets its power back, if it has lost it."""
        self._settle()
        if not self.net.up:
            self.net.restart()
        process = Process(self, next(self._pids))
        self._world.processes += 1
        self._processes = [*self.processes, process]
        self.event("process.begin", pid=process.pid)
        return process

    def files(self, process: Process) -> ProcessFiles:
        """@return: its file system, for one of its processes."""
        return ProcessFiles(process, self.storage.files)

    def backing(self, process: Process) -> Callable[[str], ProcessBacking]:
        """@return: its databases by path, for one of its processes."""
        return lambda path: ProcessBacking(process, self.storage.database(path))

    def end(self, process: Process) -> None:
        """
        End a process where it stands, as SIGKILL does: the disk keeps what it was given,
        synced or not, and the kernel closes its connections.
        """
        if process.running:
            self.event("process.end", pid=process.pid)
            process.end()
            self.storage.end_process(process)

    def crash(self) -> None:
        """
        The power fails: no process goes on, the disk may lose what was not synced, and
        nobody is told; until the next process begins the machine answers nothing.
        """
        self.net.crash(power=True)
        self._lost = True
        self._settle()
        self._end_all()

    def sleep(self, seconds: float) -> None:
        """
        The lid is closed for so long: none of its processes goes on, nothing gets in or out, and
        its clocks go on.  Then all that was due meanwhile is due at once, as on a machine that
        wakes up.
        """
        wakes = self.clock.ns + nanoseconds(seconds)
        self.event("host.sleep", until=wakes)
        self.net.silence()
        # Before what its processes do then.
        self.clock.call_at(wakes, self._wake)
        for process in self.processes:
            self.clock.hold(process, wakes)

    def _wake(self) -> None:
        self.event("host.wake")
        self.net.silence(False)

    def _lose_power(self) -> None:
        # In the middle of something that a process does: the disk is being written to.
        self._lost = True
        self.net.crash(power=True)
        self._end_all()
        self.clock.callLater(0, self._settle)

    def _settle(self) -> None:
        """See what is left on the disk after it was torn from the power in the middle."""
        if self._lost:
            self._lost = False
            self.event("host.crash", **self.storage.crash())

    def _end_all(self) -> None:
        for process in self.processes:
            process.end()

    def event(self, kind: str, /, **details: Any) -> None:
        """Something happened on this machine."""
        self._world.trace.event(kind, self.name, **details)
