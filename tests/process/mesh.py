"""
Real nodes in processes of their own, for the tests of this folder.

Everything listens on loopback on ports that the system chooses, lives in one temporary
folder, and is gone when the tests are over.  Nothing sleeps for an event: L{wait_for}
looks until it is there, and says what it saw when time is up.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from random import SystemRandom
from typing import Any, Final, TypeVar

from attrs import define, frozen

from meshkit.identity.keys import SEED_BYTES, Identity
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import create_identity, load_networks, load_token

T = TypeVar("T")

#: Seconds that anything here may take before it is called hung.
PATIENCE: Final = 60.0

#: The scripts of this interpreter's environment, called so that none has to be on $PATH.
TWISTD: Final = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
TWIST: Final = (sys.executable, "-m", "twisted")
MESHKIT: Final = (sys.executable, "-m", "meshkit.cli.main")

_FOREGROUND: Final = (*TWISTD, "-n", "--pidfile=")

# With $PYTHONPATH the children run the code that the tests were imported with.
_INHERITED: Final = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")


def environment(home: Path, **more: str) -> dict[str, str]:
    """What a child sees: nothing of the caller's settings, and a home of its own."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    if "PYTHONPATH" in kept and "PYTHONPATH" in more:
        more["PYTHONPATH"] += os.pathsep + kept["PYTHONPATH"]
    return {**kept, "HOME": str(home), "LC_ALL": "C.UTF-8", "TZ": "UTC", **more}


def wait_for(
    what: str, look: Callable[[], T | None], seconds: float = PATIENCE, step: float = 0.01
) -> T:
    """
    Look until there is something.

    @param look: gives something that is false as long as there is nothing.
    @raise AssertionError: after C{seconds}.
    """
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds:g} s there is still no {what}")
        time.sleep(step)


@frozen
class Done:
    """A program that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(
    *command: str | Path,
    home: Path,
    stdin: bytes = b"",
    seconds: float = PATIENCE,
    forked: bool = True,
    **more: str,
) -> Done:
    """
    Run a program to its end, in the folder C{home}.

    @param forked: if it is L{MESHKIT}, it comes of a process that has imported all; see
        L{tests.process.forking}.
    """
    if forked and command[: len(MESHKIT)] == MESHKIT:
        from tests.process.forking import can_be_forked, run_forked

        if can_be_forked(more):
            arguments = command[len(MESHKIT) :]
            return run_forked(
                "meshkit", *arguments, home=home, stdin=stdin, seconds=seconds, **more
            )
    done = subprocess.run(
        [str(each) for each in command],
        cwd=home,
        env=environment(home, **more),
        input=stdin,
        capture_output=True,
        timeout=seconds,
    )
    return Done(
        done.returncode,
        done.stdout.decode("utf-8", "surrogateescape"),
        done.stderr.decode("utf-8", "surrogateescape"),
    )


@frozen
class Answer:
    """What the door answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        if not self.json["success"]:
            raise AssertionError(f"the door refused: {self.body!r}")
        return self.json["data"]

    @property
    def code(self) -> str:
        """The code of the error it answered with."""
        return str(self.json["error"]["code"])


def connect(address: tuple[str, int] | str, seconds: float = PATIENCE) -> socket.socket:
    """Open a connection, to (host, port) or to the path of a unix socket."""
    if isinstance(address, str):
        opened = socket.socket(socket.AF_UNIX)
        opened.settimeout(seconds)
        opened.connect(address)
        return opened
    return socket.create_connection(address, timeout=seconds)


def read_answer(sock: socket.socket) -> Answer:
    """Read one HTTP answer, and no byte behind it."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = sock.recv(65_536)
        if not piece:
            raise ConnectionError(f"the door hung up after {received!r}")
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        piece = sock.recv(65_536)
        if not piece:
            raise ConnectionError(f"the door hung up after {len(body)} of {length} bytes")
        body += piece
    return Answer(int(first.split(" ")[1]), headers, body)


def exchange(address: tuple[str, int] | str, request: bytes) -> Answer:
    """Write these very bytes to the door and read its answer."""
    with connect(address) as sock:
        sock.sendall(request)
        return read_answer(sock)


def alive(pid: int) -> bool:
    """Does a process run, and is not merely waiting to be reaped?"""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2]
    except FileNotFoundError:
        return False
    return state.split()[0] != "Z"


@define(eq=False)
class Node:
    """
    One node: its folder, and the process while it runs.

    @ivar home: the working folder of its programs; C{data} is the data folder in it.
    @ivar arguments: further arguments of C{mesh-node}.
    @ivar network_secret: what a member of its network is given.
    @ivar prefix: a program that the daemon is run by.
    @ivar runner: what makes a daemon of the command C{mesh-node}.
    @ivar forked: if its daemon and C{meshkit} come of a process that has imported all; one
        with another C{runner} does not, or with a prefix.  See L{tests.process.forking}.
    """

    home: Path
    arguments: Sequence[str] = ()
    network_secret: str = ""
    process: subprocess.Popen[bytes] | None = None
    prefix: Sequence[str] = ()
    runner: Sequence[str] = _FOREGROUND
    forked: bool = True

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        return self.home / "node.log"

    @property
    def database(self) -> Path:
        return self.data / "node.db"

    # --- the process ------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """The daemon's name and its arguments, without what runs it."""
        listen = [] if "--listen" in arguments else ["--listen", "tcp:0:interface=127.0.0.1"]
        api = [] if "--api" in arguments else ["--api", "tcp:0:interface=127.0.0.1"]
        return ["mesh-node", "--data-dir", str(self.data), *listen, *api, *arguments]

    def spawn(self, *arguments: str, more: Mapping[str, str] = {}) -> None:
        """
        Begin to start it in the foreground, and wait for nothing.

        @param more: of its environment.
        """
        if self.process is not None:
            raise AssertionError(f"{self.home.name} runs already")
        # Left by one that was killed; else it would be taken for the new one's.
        (self.data / "endpoints.json").unlink(missing_ok=True)
        self.process = self.run_daemon(_elsewhere(self.command(*self.arguments, *arguments)), more)

    def run_daemon(self, command: Sequence[str], more: Mapping[str, str]) -> Any:
        """@return: its process, at least with what is used of L{subprocess.Popen} here."""
        if self.forked and not self.prefix and self.runner == _FOREGROUND:
            from tests.process.forking import can_be_forked, fork_daemon

            if can_be_forked(more):
                return fork_daemon(self, command, **more)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.prefix, *self.runner, *command],
                cwd=self.home,
                env=environment(self.home, **more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, *arguments: str, more: Mapping[str, str] = {}) -> Node:
        """Start it and wait until it is ready."""
        self.spawn(*arguments, more=more)
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        def look() -> bool:
            process = self.process
            if process is not None and process.poll() is not None:
                raise AssertionError(
                    f"the node ended with {process.returncode}:\n{self.log_tail()}"
                )
            return (self.data / "endpoints.json").exists()

        wait_for(f"endpoints.json of {self.home.name}", look)

    def log_tail(self, count: int = 20) -> str:
        if not self.log.exists():
            return "(no log)"
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-count:])

    def kill(self) -> None:
        """End it by SIGKILL, wherever it is."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """End it by SIGTERM, in good order.  @return: its exit code."""
        return self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            raise AssertionError(f"{self.home.name} does not run")
        process.send_signal(number)
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(f"{self.home.name} did not end:\n{self.log_tail()}") from None

    # --- talking to it -----------------------------------------------------------------

    def cli(self, *arguments: str | Path, stdin: bytes = b"", **more: str) -> Done:
        """Run C{meshkit} for this node."""
        given = (*MESHKIT, "--data-dir", self.data, *arguments)
        return run(*given, home=self.home, stdin=stdin, forked=self.forked, **more)

    def good(self, *arguments: str | Path, stdin: bytes = b"", **more: str) -> Done:
        """Run C{meshkit}, which has to succeed and must not complain."""
        done = self.cli(*arguments, stdin=stdin, **more)
        if done.code or done.err:
            raise AssertionError(f"meshkit {arguments} ended with {done.code}: {done.err}")
        return done

    @property
    def endpoints(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = json.loads((self.data / "endpoints.json").read_text())
        return found

    @property
    def address(self) -> str:
        """What a peer dials."""
        return self.endpoints["mesh"][0]

    @property
    def mesh_port(self) -> tuple[str, int]:
        host, _, port = self.address.partition("~")[0].removeprefix("net:").rpartition(":")
        return host, int(port)

    @property
    def door(self) -> tuple[str, int] | str:
        (url,) = self.endpoints["api"]
        if url.startswith("unix:"):
            return url.removeprefix("unix:")
        host, _, port = url.removeprefix("http://").rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def host(self) -> str:
        """The door's C{Host} header."""
        (url,) = self.endpoints["api"]
        return "localhost" if url.startswith("unix:") else url.removeprefix("http://")

    @property
    def token(self) -> str:
        return (self.data / "door.token").read_text().strip()

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str | None
    ) -> bytes:
        """The bytes of a request; C{headers} add to the usual ones, L{None} removes one."""
        lines: dict[str, str | None] = {
            "Host": self.host,
            "Authorization": f"Bearer {self.token}",
        }
        if body is not None:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = [f"{method} {path} HTTP/1.1"]
        head += [f"{name}: {value}" for name, value in lines.items() if value is not None]
        return "\r\n".join([*head, "", ""]).encode("latin-1") + (body or b"")

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str | None
    ) -> Answer:
        """One request to the door."""
        return exchange(self.door, self.request(method, path, body, **headers))

    def get(self, path: str) -> Any:
        return self.ask("GET", path).data

    def publish(self, content: object) -> Any:
        """@return: the message that was acknowledged."""
        body = json.dumps({"content": content}).encode("utf-8")
        return self.ask("POST", "/v1/publish", body).data

    @property
    def status(self) -> Any:
        return self.get("/v1/status")

    def links(self) -> int:
        return len(self.status["parts"]["gossip"]["links"])

    # --- what it left behind -------------------------------------------------------------

    def stored(self, author: str | None = None) -> list[tuple[int, str, bool]]:
        """
        All messages of one author (or of all, one after the other) as they lie on the disk.

        @return: (sequence, hash, chain_valid), by sequence.
        """
        each = self.stored_by_author()
        if author is not None:
            return each.get(author, [])
        return [message for messages in each.values() for message in messages]

    def stored_by_author(self) -> dict[str, list[tuple[int, str, bool]]]:
        """
        What lies on the disk, read from a copy: what SQLite does on opening a killed
        node's files is left for the node to do.

        @return: of each author (sequence, hash, chain_valid), by sequence.
        """
        with tempfile.TemporaryDirectory(dir=self.home) as name:
            copy = Path(name) / "copy.db"
            for suffix in ("", "-wal"):
                original = Path(f"{self.database}{suffix}")
                if original.exists():
                    shutil.copyfile(original, f"{copy}{suffix}")
            with closing(sqlite3.connect(copy)) as connection:
                (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
                if verdict != "ok":
                    raise AssertionError(f"{self.database}: {verdict}")
                if not connection.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = 'feed_messages'"
                ).fetchone():
                    return {}
                rows = connection.execute(
                    "SELECT sequence, hex(hash), chain_valid, raw FROM feed_messages"
                    " ORDER BY author, sequence"
                ).fetchall()
        found: dict[str, list[tuple[int, str, bool]]] = {}
        for sequence, digest, valid, raw in rows:
            author = json.loads(raw)["author"]
            found.setdefault(author, []).append((sequence, digest.lower(), bool(valid)))
        return found


def _init(path: Path, secret: str) -> str:
    """
    Do what C{meshkit init} does, without a process for it.

    @param secret: of the network; the empty text for a new one.
    @return: the secret.
    """
    rng = SystemRandom()
    folder = DataFolder(str(path), LocalFiles())
    folder.prepare()
    create_identity(folder, Identity(rng.randbytes(SEED_BYTES)), rng)
    network = load_networks(folder, secret, (), rng)[0]
    load_token(folder, rng)
    return network.text


def _elsewhere(command: list[str]) -> list[str]:
    """The command of a daemon.  The door of a relay for whoever comes is at a free port too."""
    if command[0] != "mesh-relay" or "--relay-door-listen" in command:
        return command
    return [*command, "--relay-door-listen", "tcp:0:interface=127.0.0.1"]


class Mesh:
    """
    A folder with nodes in it.

    @param forked: see L{Node}.
    """

    def __init__(self, forked: bool = True) -> None:
        self._forked = forked
        self.folder = Path(tempfile.mkdtemp(prefix="meshkit-"))
        self._nodes: list[Node] = []
        self._closed = False
        # For trial, which knows no tearDownModule.
        atexit.register(self.close)

    def node(
        self,
        name: str,
        *arguments: str,
        network: Node | None = None,
        kind: Callable[[Path, Sequence[str]], Node] = Node,
    ) -> Node:
        """
        Make a node, not started.

        @param network: a node whose network it is to join; its own without one.
        """
        home = self.folder / name
        home.mkdir()
        node = kind(home, arguments)
        self._nodes.append(node)
        node.forked = self._forked
        node.network_secret = _init(node.data, "" if network is None else network.network_secret)
        return node

    def close(self) -> None:
        """End what still runs and remove the folder."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for node in self._nodes:
            if node.process is not None:
                os.killpg(node.process.pid, signal.SIGKILL)
                node.process.wait()
        shutil.rmtree(self.folder)


class Shared:
    """
    What the tests of one module have in common, made by the first that needs it.

    A module calls L{close} in its C{tearDownModule}.
    """

    def __init__(self, make: Callable[[Mesh], T], forked: bool = True) -> None:
        self._make: Callable[[Mesh], Any] = make
        self._forked = forked
        self._mesh: Mesh | None = None
        self._made: Any = None

    def get(self) -> Any:
        if self._mesh is None:
            self._mesh = Mesh(self._forked)
            try:
                self._made = self._make(self._mesh)
            except BaseException:
                self.close()
                raise
        return self._made

    def close(self) -> None:
        mesh, self._mesh = self._mesh, None
        if mesh is not None:
            mesh.close()
