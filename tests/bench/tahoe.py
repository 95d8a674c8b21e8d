"""
A grid of Tahoe-LAFS 1.20 on loopback: an introducer, storage nodes, and a client whose web
door is given files.  It runs in the environment that C{.ci/tools bench} made for it.

Its storage nodes do not sync what they are given.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import msgspec
from attrs import define

from tests.bench.children import ROOT, ChildFailed
from tests.bench.nodes import START_SECONDS, child
from tests.ports import free_ports

#: Seconds for any one file.
PATIENCE: Final = 120.0
_PROGRAM: Final = ROOT / ".tools" / "tahoe" / "bin" / "tahoe"
_PIECE: Final = 1024 * 1024

_numbers: Final = itertools.count()


def program() -> str | None:
    """@return: the path of Tahoe's program, if it is installed."""
    return str(_PROGRAM) if _PROGRAM.exists() else None


@define
class Grid:
    """
    A grid that is ready.

    @ivar port: of the client's web door.
    @ivar processes: all of them.
    @ivar folders: of its storage nodes.
    """

    port: int
    processes: list[subprocess.Popen[bytes]]
    folders: list[Path]

    def pids(self) -> list[int]:
        """@return: of its processes."""
        return [each.pid for each in self.processes]

    def _ask(self, method: str, target: str, body: Path | None, into: Path | None) -> bytes:
        with ExitStack() as stack:
            door = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE, blocksize=_PIECE)
            stack.enter_context(closing(door))
            headers = {}
            source = None
            if body is not None:
                source = stack.enter_context(body.open("rb"))
                headers["Content-Length"] = str(body.stat().st_size)
            try:
                door.request(method, target, source, headers)
                answer = door.getresponse()
                if answer.status >= 300:
                    said = answer.read(500).decode("utf-8", "replace")
                    raise ChildFailed(f"Tahoe answered {answer.status}: {said}")
                if into is None:
                    return answer.read()
                with into.open("wb") as target_file:
                    shutil.copyfileobj(answer, target_file, _PIECE)
                return b""
            except (OSError, HTTPException) as e:
                raise ChildFailed(f"Tahoe's web door failed: {e!r}") from None

    def put(self, path: Path) -> str:
        """@return: the capability of a file that was stored."""
        return self._ask("PUT", "/uri", path, None).decode("ascii")

    def get(self, capability: str, path: Path) -> None:
        """Fetch a file."""
        self._ask("GET", f"/uri/{capability}", None, path)

    def _check(self, capability: str, query: str) -> Any:
        answer = self._ask("POST", f"/uri/{capability}?t=check&output=JSON{query}", None, None)
        return msgspec.json.decode(answer)

    def lose(self, capability: str, numbers: Sequence[int]) -> int:
        """
        Take shares of a file away from the disks of its storage nodes.

        @param numbers: of the shares.
        @return: bytes that are gone.
        """
        index = self._check(capability, "")["storage-index"]
        gone = 0
        for number in numbers:
            found = [
                path
                for folder in self.folders
                for path in (folder / "storage" / "shares" / index[:2] / index).glob(f"{number}")
            ]
            if not found:
                raise ChildFailed(f"no storage node has the share {number}")
            for path in found:
                gone += path.stat().st_size
                path.unlink()
        return gone

    def repair(self, capability: str, numbers: Sequence[int]) -> None:
        """
        Have it find out what is lost of a file, and make that anew, as C{tahoe check --repair}
        does; only that no process has to start for it.
        """
        done = self._check(capability, "&repair=true")
        found, made = done["pre-repair-results"], done["post-repair-results"]
        lost = found["results"]["count-shares-expected"] - found["results"]["count-shares-good"]
        if lost != len(numbers) or not made["results"]["healthy"]:
            raise ChildFailed(f"Tahoe repaired nothing, or not all: {done}")

    def servers(self) -> int:
        """@return: how many storage nodes the client is connected to."""
        answer = msgspec.json.decode(self._ask("GET", "/?t=json", None, None))
        return sum(
            each["connection_status"].lower().startswith("connected") for each in answer["servers"]
        )


def _tahoe(binary: str, *arguments: str) -> None:
    try:
        done = subprocess.run(
            [binary, *arguments], capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise ChildFailed(f"tahoe {arguments[0]} did not end") from None
    if done.returncode:
        raise ChildFailed(f"tahoe {arguments[0]}: {done.stderr[-2000:]}")


def _await_text(path: Path) -> str:
    deadline = monotonic() + START_SECONDS
    while not path.exists() or not path.read_text().strip():
        if monotonic() > deadline:
            raise ChildFailed(f"{path.name} was never written")
        sleep(0.05)
    return path.read_text().strip()


def _foolscap_only(folder: Path) -> None:
    """Have a node speak the older of the two protocols."""
    config = folder / "tahoe.cfg"
    text = config.read_text()
    for section in ("storage", "client"):
        text = text.replace(f"[{section}]\n", f"[{section}]\nforce_foolscap = true\n")
    config.write_text(text)


@contextmanager
def grid(
    binary: str, where: Path, required: int, total: int, foolscap: bool, spare: int = 0
) -> Iterator[Grid]:
    """
    @param where: a folder, for its nodes.
    @param total: shares of each file, and storage nodes.
    @param foolscap: it speaks its older protocol, not the one over HTTP.
    @param spare: storage nodes beyond that.
    """
    nodes = total + spare
    base = where / f"tahoe-{next(_numbers)}"
    base.mkdir()
    ports = free_ports(nodes + 2)
    environ = dict(os.environ)
    processes: list[subprocess.Popen[bytes]] = []

    def run(stack: ExitStack, folder: Path) -> None:
        # A node ends with its standard input, if it is not told otherwise.
        command = [binary, "run", "--allow-stdin-close", str(folder)]
        log = folder.with_name(f"{folder.name}.log")
        processes.append(stack.enter_context(child(command, log, environ)))

    def place(port: int) -> list[str]:
        return [
            "--listen=tcp",
            f"--port=tcp:{port}:interface=127.0.0.1",
            f"--location=tcp:127.0.0.1:{port}",
        ]

    with ExitStack() as stack:
        first = base / "introducer"
        _tahoe(binary, "create-introducer", *place(ports[0]), str(first))
        run(stack, first)
        furl = _await_text(first / "private" / "introducer.furl")
        shares = [
            f"--shares-needed={required}",
            f"--shares-happy={total}",
            f"--shares-total={total}",
            f"--introducer={furl}",
        ]
        folders = [base / f"node-{number}" for number in range(nodes)]
        for folder, port in zip(folders, ports[2:], strict=True):
            _tahoe(binary, "create-node", "--webport=none", *place(port), *shares, str(folder))
        client = base / "client"
        web = f"--webport=tcp:{ports[1]}:interface=127.0.0.1"
        _tahoe(binary, "create-client", web, *shares, str(client))
        for folder in (*folders, client):
            if foolscap:
                _foolscap_only(folder)
            run(stack, folder)
        made = Grid(ports[1], processes, folders)
        deadline = monotonic() + 2 * START_SECONDS
        while True:
            try:
                if made.servers() == nodes:
                    break
            except ChildFailed:
                pass  # it is starting
            if monotonic() > deadline:
                raise ChildFailed("Tahoe's client did not find its storage nodes")
            sleep(0.25)
        yield made
