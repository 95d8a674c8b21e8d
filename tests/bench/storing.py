"""
Storing over the network: files to peers on loopback and back, beside Tahoe-LAFS by both of
its protocols, beside Kryden, and beside the plain parts, which are the ceiling.

All of them have the same scheme and as many peers as shares, each a process of its own.  What
they do is timed from outside, from file to file.  Every file is a new one, as Tahoe stores
none twice, and what comes back is compared.

Kryden is measured when C{MESHKIT_BENCH_KRYDEN} names the folder in which it was built.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import file_digest
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol

from attrs import define, field, frozen

from tests.bench import tahoe
from tests.bench.children import PEERS, Child, ChildFailed, child, python
from tests.bench.figures import ratio, spread, table
from tests.bench.nodes import cpu_seconds, peak_bytes
from tests.interop import node

MB: Final = 1_000_000
MIB: Final = 1024 * 1024
KRYDEN: Final = "MESHKIT_BENCH_KRYDEN"
#: Seconds for any one file.
PATIENCE: Final = 300.0

_SMALL_FILES: Final = 10


class Session(Protocol):
    """Peers that are there, and somebody who uses them."""

    def put(self, path: Path) -> str:
        """@return: what C{get} wants."""

    def get(self, capability: str, path: Path) -> None:
        """Write a file that was put."""

    def pids(self) -> list[int]:
        """@return: of all processes that have to do with it."""


@define
class Store:
    """
    What is measured.

    @ivar begin: given a folder, a context in which it is there; L{None} if it is not installed.
    @ivar foreign: it is somebody else's, and may be absent.
    @ivar missing: why it is, if it is not installed.
    @ivar figures: by what was measured, one of each round.
    """

    name: str
    begin: Callable[[Path], Any] | None
    foreign: bool = False
    missing: str = "it is not installed: run .ci/tools bench"
    figures: defaultdict[str, list[float]] = field(factory=lambda: defaultdict(list))
    absent: str | None = None
    _session: Session | None = None

    def start(self, stack: ExitStack, folder: Path) -> None:
        """Have its peers there until the block is left."""
        if self.begin is None:
            self.absent = self.missing
            return
        try:
            self._session = stack.enter_context(self.begin(folder))
        except ChildFailed as error:
            self._failed(error)

    def _failed(self, error: ChildFailed) -> None:
        if not self.foreign:
            raise error
        self.absent = str(error)
        self.figures.clear()

    def measure(
        self,
        folder: Path,
        *,
        large: int = 64 * MIB,
        small: int = MIB,
        files: int = _SMALL_FILES,
    ) -> None:
        """
        One round.

        @param large: bytes of one file.
        @param small: bytes of others.
        @param files: how many of these.
        """
        if self.absent is not None or self._session is None:
            return
        session, megabytes = self._session, large / MB
        try:
            for what, took in _there_and_back(session, folder, [large]).items():
                self.figures[what].append(megabytes / took.seconds)
                self.figures[f"{what}, cpu"].append(1000 * took.cpu / megabytes)
            for what, took in _there_and_back(session, folder, [small] * files).items():
                self.figures[f"small {what}"].append(1000 * took.seconds / files)
        except ChildFailed as error:
            self._failed(error)


@define
class Took:
    """
    @ivar seconds: by the clock.
    @ivar cpu: seconds of processors, of all processes together.
    """

    seconds: float = 0.0
    cpu: float = 0.0


@contextmanager
def taken(session: Session, took: Took) -> Iterator[None]:
    cpu, start = _cpu(session), perf_counter()
    yield
    took.seconds += perf_counter() - start
    took.cpu += _cpu(session) - cpu


def _cpu(session: Session) -> float:
    return sum(cpu_seconds(pid) or 0.0 for pid in session.pids())


def _there_and_back(session: Session, folder: Path, sizes: list[int]) -> dict[str, Took]:
    """
    Files of these sizes, one after the other.

    @return: what it took to put all of them, and to get them.
    """
    files = []
    for number, size in enumerate(sizes):
        files.append(folder / f"in-{number}")
        write_random(files[-1], size)
    # What was written before is not to be written to the disk while we measure.
    os.sync()
    back = folder / "out"
    took = {"put": Took(), "get": Took()}
    with taken(session, took["put"]):
        capabilities = [session.put(path) for path in files]
    for path, capability in zip(files, capabilities, strict=True):
        with taken(session, took["get"]):
            session.get(capability, back)
        if digest(back) != digest(path):
            raise ChildFailed("what came back is not what was stored")
        back.unlink()
        path.unlink()
    return took


def write_random(path: Path, size: int) -> None:
    """Make a file like no other."""
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - at)))


def digest(path: Path) -> bytes:
    """@return: SHA-256 of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()


# --- who they are ----------------------------------------------------------------------


@frozen
class Children:
    """A client that does jobs, and the peers."""

    client: Child
    peers: list[Child]
    required: int
    total: int

    def pids(self) -> list[int]:
        return [each.pid for each in (self.client, *self.peers)]

    def put(self, path: Path) -> str:
        made: str = self.client.ask(
            "put", patience=PATIENCE, path=str(path), required=self.required, total=self.total
        )
        return made

    def get(self, capability: str, path: Path) -> None:
        self.client.ask("get", patience=PATIENCE, capability=capability, path=str(path))

    def lose(self, capability: str, numbers: Sequence[int]) -> int:
        """
        @param numbers: of shares of a file that nobody is to have any more.
        @return: bytes of them.
        """
        gone: int = self.client.ask("lose", capability=capability, numbers=list(numbers))
        return gone

    def repair(self, capability: str, numbers: Sequence[int]) -> Any:
        """
        Have it found out what is lost of a file, and made anew.

        @param numbers: of what is.
        @return: what it tells about that.
        """
        return self.client.ask(
            "repair", patience=PATIENCE, capability=capability, numbers=list(numbers)
        )


@contextmanager
def children_of(
    module: str, required: int, total: int, folder: Path, spare: int = 0, **how: bool
) -> Iterator[Children]:
    """
    @param module: of L{tests.bench.peers}.
    @param spare: peers beyond those that have shares.
    @param how: more for each peer.
    """
    command = python(module)
    with ExitStack() as stack:
        client = stack.enter_context(child(f"the client of {module}", command))
        peers = [
            stack.enter_context(child(f"peer {number} of {module}", command))
            for number in range(total + spare)
        ]
        places = [
            peer.ask("listen", folder=str(folder / f"{module}-{number}"), **how)
            for number, peer in enumerate(peers)
        ]
        client.ask("connect", peers=places)
        yield Children(client, peers, required, total)


@contextmanager
def children_of_kryden(
    where: str, required: int, total: int, folder: Path, spare: int = 0
) -> Iterator[Children]:
    """@param where: the folder in which it was built."""
    command = [node.node(), "--no-deprecation", str(PEERS / "kryden.js"), where]
    environ = node.environment()
    with ExitStack() as stack:

        def begin(name: str) -> Child:
            return stack.enter_context(child(name, command, environ))

        client = begin("Kryden's client")
        authority = client.ask("identity")
        peers = [begin(f"Kryden's peer {number}") for number in range(total + spare)]
        urls = [
            peer.ask(
                "listen",
                id=f"peer-{number}",
                folder=str(folder / f"kryden-{number}"),
                authority=authority,
            )
            for number, peer in enumerate(peers)
        ]
        client.ask("connect", peers=urls)
        yield Children(client, peers, required, total)


def plain_parts(required: int, total: int) -> Store:
    return Store("plain parts", partial(children_of, "plain_parts", required, total))


def tahoe_lafs(required: int, total: int, foolscap: bool) -> Store:
    binary = tahoe.program()
    protocol = "Foolscap" if foolscap else "HTTP"
    return Store(
        f"Tahoe-LAFS, {protocol}",
        None
        if binary is None
        else lambda folder: tahoe.grid(binary, folder, required, total, foolscap),
        foreign=True,
    )


def kryden_place() -> tuple[str | None, str]:
    """@return: the folder in which Kryden was built, or L{None} and why there is none."""
    where, missing = os.environ.get(KRYDEN), f"{KRYDEN} names no folder"
    try:
        node.node()
    except AssertionError as error:
        where, missing = None, str(error)
    return where or None, missing


def kryden(required: int, total: int) -> Store:
    where, missing = kryden_place()
    begin = None if not where else partial(children_of_kryden, where, required, total)
    return Store("Kryden", begin, foreign=True, missing=missing)


def ours(required: int, total: int) -> Store:
    return Store("meshkit", partial(children_of, "stores", required, total))


# --- the section -------------------------------------------------------------------------


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds = 2 if quick else 7
    sizes = (256 * MIB, 1024 * MIB) if quick else (1024 * MIB, 10 * 1024 * MIB)
    return "\n\n".join(
        [
            "## Storing over the network",
            _section(
                "3 of 5, five peers",
                [ours(3, 5), plain_parts(3, 5), tahoe_lafs(3, 5, False), tahoe_lafs(3, 5, True)],
                rounds,
            ),
            _section("6 of 9, nine peers", [ours(6, 9), plain_parts(6, 9), kryden(6, 9)], rounds),
            _memory(*sizes),
        ]
    )


def _section(head: str, stores: list[Store], rounds: int) -> str:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshkit-bench-")))
        for store in stores:
            store.start(stack, folder)
        for store in stores:
            store.measure(folder)
            store.figures.clear()  # the first one is for warming up
        for _ in range(rounds):
            for store in stores:
                store.measure(folder)
    return render(head, stores)


def _memory(real: int, generated: int) -> str:
    """
    What one transfer of ours takes of memory, at the most.

    @param real: bytes of a file, to disks and back.
    @param generated: bytes that nobody has room for: they are made while they are stored, and
        thrown away by the peers.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
        folder = Path(name)
        with children_of("stores", 6, 9, folder) as session:
            file = folder / "in"
            write_random(file, real)
            rows.append(_peaks(session, "", 0.0, 0))
            start = perf_counter()
            capability = session.put(file)
            rows.append(_peaks(session, "put, disks", perf_counter() - start, real))
            start = perf_counter()
            session.get(capability, folder / "out")
            rows.append(_peaks(session, "get, disks", perf_counter() - start, real))
            if digest(file) != digest(folder / "out"):
                raise ChildFailed("what came back is not what was stored")
        with children_of("stores", 6, 9, folder / "none", forgetful=True) as session:
            start = perf_counter()
            session.client.ask(
                "put_generated", patience=1_200.0, size=generated, required=6, total=9
            )
            what = "put, generated and thrown away"
            rows.append(_peaks(session, what, perf_counter() - start, generated))
    rows[0][0] = "before the first"
    heads = ["6 of 9, memory at the most", "MB/s", "client, MiB", "largest peer, MiB"]
    return table(heads, rows)


def _peaks(session: Children, what: str, seconds: float, size: int) -> list[str]:
    rate = f"{size / MB / seconds:,.0f}" if size else ""
    peers = max(peak_bytes(peer.pid) for peer in session.peers)
    client = peak_bytes(session.client.pid)
    head = f"{what}, {size // MIB:,} MiB"
    return [head, rate, f"{client / MIB:,.0f}", f"{peers / MIB:,.0f}"]


_ROWS: Final = (
    ("put 64 MiB, MB/s", "put", True),
    ("get 64 MiB, MB/s", "get", True),
    ("put 64 MiB, ms of processors a MB", "put, cpu", False),
    ("get 64 MiB, ms of processors a MB", "get, cpu", False),
    ("put 1 MiB, ms a file", "small put", False),
    ("get 1 MiB, ms a file", "small get", False),
)


def render(head: str, stores: list[Store]) -> str:
    """The table of one scheme; the first of them is ours."""
    ours, *others = stores
    rows = []
    for name, key, rate in _ROWS:
        digits = 0 if rate else 1
        row = [name, spread(ours.figures[key], digits=digits)]
        for other in others:
            theirs = other.figures[key]
            better = (ours.figures[key], theirs) if rate else (theirs, ours.figures[key])
            row += [spread(theirs, digits=digits), ratio(*better)]
        rows.append(row)
    heads = [head, ours.name]
    for other in others:
        heads += [other.name, f"{ours.name} is x"]
    told = "".join(f"\nabsent: {it.name}: {it.absent}" for it in stores if it.absent)
    return table(heads, rows) + told
