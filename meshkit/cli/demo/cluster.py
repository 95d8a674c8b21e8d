"""
The child processes of the demo, and the certainty that none of them is left behind.

Each run has a folder of its own in the system's folder for temporary files::

    meshkit-demo-UID/
        lock             held while folders are made and cleared
        run-RANDOM/
            lock         held by the demo that runs here, as long as it lives
            children     a line for each process it started: pid, start time
            ada/ ...     the nodes' data folders, and ada.log ...

A run folder whose lock nobody holds was left by a demo that was killed.  The next one
ends the processes named there and removes it.  A process id alone may long belong to
somebody else: only a process that started at the noted time is ended.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import IO, Any, Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

import meshkit
from meshkit.cli.door import Door
from meshkit.errors import DoorUnreachable, MeshkitError
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import load_identity, load_networks, load_token

#: Seconds that something which takes a fraction of one may take on a busy machine.
PATIENCE: Final = 60.0
#: Seconds between two looks at something that is waited for.
LOOK_EVERY: Final = 0.02
#: Seconds that a node has to end in good order.
STOP_SECONDS: Final = 8.0
#: Lines of a node's log that are shown when it died.
LOG_LINES: Final = 12
_LOG_BYTES: Final = 16 * 1024

_LOOPBACK: Final = "tcp:0:interface=127.0.0.1"
_OWN_BLOCK: Final = "127.0.0.0/8"
# "python -m twisted" is twist, and twistd may not be on the PATH.
_TWISTD: Final = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"


class DemoFailed(MeshkitError):
    """The demo cannot go on."""

    code = "DEMO_FAILED"


# --- processes of this machine -----------------------------------------------------------


def started_at(pid: int) -> str | None:
    """
    When a process started: text that no other process with the same id will have.

    @return: L{None} if there is no such process, or it has ended and waits for its
        parent to notice.
    """
    if sys.platform == "linux":
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                # The name, in parentheses, may hold anything.
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, start = fields[0], fields[19]
    else:
        done = subprocess.run(
            ["ps", "-o", "state=,lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC0"},
        )
        state, _, start = done.stdout.strip().partition(" ")
    return None if state[:1] in ("", "Z", "X") else "-".join(start.split())


def end_group(pid: int, start: str) -> bool:
    """
    Kill a process that leads a group, and the group.

    @param start: what L{started_at} said of it.
    @return: was it there?
    """
    if started_at(pid) != start:
        return False
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def tail(path: Path) -> str:
    """The last lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as e:
        return f"(no log: {e})"
    return "\n".join(f"    {line}" for line in lines[-LOG_LINES:]) or "    (its log is empty)"


# --- folders -----------------------------------------------------------------------------


def _lock(path: Path) -> IO[str] | None:
    """@return: an open file that holds the lock, or L{None} if somebody else does."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def temporary_folder() -> Path:
    """The system's folder for temporary files."""
    candidates = (os.environ.get("TMPDIR"), "/tmp", "/var/tmp")
    for candidate in candidates:
        if candidate and os.path.isdir(candidate) and os.access(candidate, os.W_OK | os.X_OK):
            return Path(os.path.abspath(candidate))
    raise DemoFailed(
        "there is no folder for temporary files that can be written: set TMPDIR to one"
    )


def own_folder(parent: Path) -> Path:
    """
    The folder of all our runs.

    @raise DemoFailed: if somebody else could have put something into it.
    """
    path = parent / f"meshkit-demo-{os.geteuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise DemoFailed(f"{path} is not a folder of yours alone: remove it, or set TMPDIR")
    return path


@define
class RunFolder:
    """
    The folder of one run; see the module.

    @ivar path: of the folder.
    @ivar nodes: where the nodes' data folders are.
    @ivar ended: how many processes of earlier runs were still there.
    """

    path: Path
    nodes: Path
    ended: int
    _lock: IO[str]

    @classmethod
    def make(cls, rng: Random, folder: str | None, parent: Path | None = None) -> RunFolder:
        """
        Clear what interrupted runs left, and make a new folder.

        @param folder: where to keep the nodes, if not in there.
        @raise DemoFailed: if that cannot be.
        """
        if folder is not None:
            _check_empty(Path(folder))
        base = own_folder(parent or temporary_folder())
        with (base / "lock").open("a") as turn:
            # Else a folder could be cleared between being made and being locked.
            fcntl.flock(turn, fcntl.LOCK_EX)
            ended = sum(_clear(path) for path in sorted(base.glob("run-*")))
            path = base / f"run-{rng.randbytes(4).hex()}"
            path.mkdir(mode=0o700)
            held = _lock(path / "lock")
        if held is None:
            raise DemoFailed(f"{path} is taken: run the demo again")
        nodes = path if folder is None else Path(os.path.abspath(folder))
        nodes.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(path, nodes, ended, held)

    def note_child(self, pid: int) -> None:
        """A process was started: should we be killed, the next run will end it."""
        with (self.path / "children").open("a", encoding="ascii") as file:
            file.write(f"{pid} {started_at(pid)}\n")

    def remove(self) -> None:
        """Remove the folder.  A folder that the user gave stays."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _check_empty(folder: Path) -> None:
    try:
        taken = folder.exists() and (not folder.is_dir() or sorted(os.listdir(folder)))
    except OSError as e:
        raise DemoFailed(f"{folder} cannot be used: {e.strerror}") from None
    if taken:
        raise DemoFailed(f"{folder} is not empty: name a new folder, or remove it first")


def _clear(path: Path) -> int:
    """
    Clear a folder, if the demo that made it is gone.

    @return: how many processes were ended.
    """
    held = _lock(path / "lock")
    if held is None:
        return 0
    ended = 0
    with held:
        try:
            lines = (path / "children").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            pid, _, start = line.partition(" ")
            if pid.isdigit() and start:
                ended += end_group(int(pid), start)
        shutil.rmtree(path, ignore_errors=True)
    return ended


# --- nodes -------------------------------------------------------------------------------


@define(eq=False)
class Node:
    """
    A node in a process of its own, and its door.

    @ivar name: what the demo calls it.
    @ivar folder: its data folder.
    @ivar public: its key.
    @ivar process: C{twistd -n mesh-node} or C{mesh-storage}, once started.
    @ivar expected: it is meant to run; if it ends, that is a failure.
    """

    name: str
    folder: DataFolder
    public: PublicKey
    process: subprocess.Popen[bytes] | None = None
    expected: bool = False

    @property
    def id(self) -> str:
        """C{@<base64>.ed25519}."""
        return self.public.text

    @property
    def pid(self) -> int:
        return 0 if self.process is None else self.process.pid

    @property
    def log(self) -> Path:
        """What it printed."""
        return Path(self.folder.path + ".log")

    @property
    def address(self) -> str:
        """Where other nodes dial it."""
        return (self.folder.read_endpoints() or {})["mesh"][0]

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group, if it runs."""
        if self.running():
            os.killpg(self.pid, number)


@define
class Cluster:
    """
    The nodes.

    @ivar reactor: for waiting and for sockets.
    @ivar run: where they live.
    @ivar rng: for keys.
    @ivar interrupted: somebody wants it to end.  A request that is cancelled may fail
        in many ways, some of which look as if the node had gone.
    """

    reactor: Any
    run: RunFolder
    rng: Random
    nodes: list[Node] = field(factory=list)
    interrupted: bool = False

    def add(self, name: str, network: NetworkSecret) -> Node:
        """What C{meshkit init} does: an identity, a network, a token."""
        folder = DataFolder(str(self.run.nodes / name.lower()), LocalFiles())
        folder.prepare()
        identity = load_identity(folder, self.rng)
        load_networks(folder, network.text, (), self.rng)
        load_token(folder, self.rng)
        node = Node(name, folder, identity.public)
        self.nodes.append(node)
        return node

    def start(self, node: Node, *arguments: str, daemon: str = "mesh-node") -> None:
        """
        Start its process.  The folder has the network's secret: no argument shows it.

        @param daemon: which one: C{mesh-node} or C{mesh-storage}.
        """
        node.folder.remove_endpoints()  # left by a node that was killed
        command = [sys.executable, "-c", _TWISTD, "-n", "--pidfile=", daemon]
        command += ["--data-dir", node.folder.path, "--listen", _LOOPBACK, "--api", _LOOPBACK]
        # All nodes are of one machine, which the hash table would take for one person.
        command += ["--dht-own-block", _OWN_BLOCK]
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.run.nodes,
                env=_environment(),
                # A group of its own: Ctrl-C in the terminal is for us to deal with.
                start_new_session=True,
            )
        node.expected = True
        self.run.note_child(node.pid)

    async def ready(self, *nodes: Node) -> None:
        """Wait until nodes answer at their doors."""
        for node in nodes:
            await self.until(lambda node=node: self._answers(node), f"{node.name} to start")  # type: ignore[misc]

    async def _answers(self, node: Node) -> bool:
        # Written when all parts are started.
        if node.folder.read_endpoints() is None:
            return False
        return bool((await self.status(node))["ready"])

    def door(self, node: Node) -> Door:
        return Door(self.reactor, node.folder)

    async def status(self, node: Node) -> dict[str, Any]:
        """What C{meshkit status} shows."""
        answer: dict[str, Any] = (await self.door(node).get("/v1/status")).data
        return answer

    async def messages(self, node: Node) -> int:
        """How many messages it has."""
        return int((await self.status(node))["parts"]["feed"]["messages"])

    async def stop(self, node: Node) -> None:
        """End a node in good order."""
        node.expected = False
        node.signal(signal.SIGTERM)
        await self._gone([node])

    async def kill(self, node: Node) -> None:
        """End a node as a power cut of its process would."""
        node.expected = False
        node.signal(signal.SIGKILL)
        await self._gone([node])

    async def stop_all(self) -> None:
        """End all nodes: first politely."""
        for node in self.nodes:
            node.expected = False
            node.signal(signal.SIGTERM)
        await self._gone(self.nodes)

    def kill_all(self) -> None:
        """End all nodes at once, without waiting."""
        for node in self.nodes:
            node.expected = False
            node.signal(signal.SIGKILL)

    async def _gone(self, nodes: Sequence[Node]) -> None:
        deadline = self.reactor.seconds() + STOP_SECONDS
        while any(node.running() for node in nodes):
            if self.reactor.seconds() > deadline:
                for node in nodes:
                    node.signal(signal.SIGKILL)
            await self.pause(LOOK_EVERY)

    # --- waiting -------------------------------------------------------------------------

    def pause(self, seconds: float) -> Deferred[None]:
        return deferLater(self.reactor, seconds, lambda: None)

    async def until(
        self,
        condition: Callable[[], Any],
        what: str,
        *,
        patience: float = PATIENCE,
        every: float = LOOK_EVERY,
    ) -> None:
        """
        Wait for a condition.

        @param condition: gives a coroutine of a C{bool}.
        @param what: is waited for.
        @param patience: seconds to wait at most.
        @param every: seconds between two looks.
        @raise DemoFailed: if a node dies, or it takes too long.
        """
        deadline = self.reactor.seconds() + patience
        while True:
            try:
                if await condition():
                    return
            except DoorUnreachable:
                # Starting, dead, or given up by us: the next lines know.
                pass
            if self.interrupted:
                raise CancelledError()
            self.check_alive()
            if self.reactor.seconds() > deadline:
                raise DemoFailed(f"waited {patience:.0f} s for {what}, in vain{self.logs()}")
            await self.pause(every)

    def check_alive(self) -> None:
        """@raise DemoFailed: if a node has died, with the end of its log."""
        for node in self.nodes:
            if node.expected and not node.running() and node.process is not None:
                node.expected = False
                raise DemoFailed(
                    f"the node {node.name} died (exit status {node.process.returncode}); the end "
                    f"of its log:\n{tail(node.log)}"
                )

    def logs(self) -> str:
        """The ends of all logs, for an error that says nothing by itself."""
        return "".join(
            f"\n  the end of {node.name}'s log:\n{tail(node.log)}" for node in self.nodes
        )


def _environment() -> dict[str, str]:
    """Our environment, without the settings that are meant for somebody's own node."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MESHKIT_")
    }
    # A checkout that is not installed is found by its place alone.
    root = str(Path(meshkit.__file__).resolve().parents[1])
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        others = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = root + (os.pathsep + others if others else "")
    return environment
