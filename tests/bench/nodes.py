"""Real C{twistd -n mesh-node} processes on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import msgspec
from attrs import frozen

from tests.bench.doors import Door

#: Seconds in which a node has to be ready, and to be gone.
START_SECONDS = 30.0
STOP_SECONDS = 15.0


@frozen
class Node:
    """
    A node that is ready.

    @ivar address: where other nodes reach it.
    """

    door: Door
    address: str
    pid: int

    def cpu_seconds(self) -> float | None:
        """Processor time of all its threads so far; L{None} where there is no C{/proc}."""
        return cpu_seconds(self.pid)


def cpu_seconds(pid: int) -> float | None:
    """See L{Node.cpu_seconds}."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name may hold spaces and brackets; utime and stime are fields 14 and 15.
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Its memory that is resident (Linux only)."""
    resident = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(resident) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(pid: int) -> int:
    """The most that was resident of a process so far (Linux only); 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    # Who has ended and was not waited for yet has no memory.
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@contextmanager
def child(
    command: list[str], log: Path, environ: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended, with force if need be, when the block is left."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd=log.parent,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def mesh_node(
    folder: Path, network: str, *arguments: str, program: str = "mesh-node"
) -> Iterator[Node]:
    """
    @param folder: for its data; made if it is not there.
    @param network: the network's secret.
    @param program: which daemon it is.
    """
    command = [
        str(Path(sys.executable).with_name("twistd")),
        *("-n", "--pidfile=", program, "--data-dir", str(folder)),
        *("--listen", "tcp:0:interface=127.0.0.1", "--api", "tcp:0:interface=127.0.0.1"),
        *arguments,
    ]
    environ = {name: text for name, text in os.environ.items() if not name.startswith("MESHKIT_")}
    environ["MESHKIT_NETWORK_KEY"] = network
    log = folder.with_name(f"{folder.name}.log")
    with child(command, log, environ) as process:
        endpoints = folder / "endpoints.json"
        deadline = monotonic() + START_SECONDS
        # The file is written, whole, when all parts have started.
        while not endpoints.exists():
            if process.poll() is not None or monotonic() > deadline:
                raise RuntimeError(f"a node did not start:\n{log.read_text()[-2000:]}")
            sleep(0.02)
        found = msgspec.json.decode(endpoints.read_bytes())
        token = (folder / "door.token").read_text().strip()
        yield Node(Door(found["api"][0], token), found["mesh"][0], process.pid)
