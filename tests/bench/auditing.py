"""
Audits of shares that a peer keeps, by the thousand: in one process and between two, beside a plain
program that only looks at leaves, and beside Kryden.

An audit of a share looks at four of its leaves (Kryden: three), which neither side could choose.
Ours sends up to 1,024 of them in a batch that is signed once by each side; notes and receipts
are in a database, with a sync before the leaves are asked for and two after they were judged.  How
much that is, is told by the rows without it.

Shares are full of zeros (L{tests.bench.peers.audits}), and what is read was read before, so that
no disk is waited for.  Kryden's have random bytes, and it has them in memory.

Kryden is measured when C{MESHKIT_BENCH_KRYDEN} names the folder in which it was built.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen

from tests.bench import storing
from tests.bench.children import PEERS, Child, ChildFailed, child, python
from tests.bench.figures import ratio, spread, table
from tests.bench.nodes import cpu_seconds
from tests.interop import node

KIB: Final = 1024
MIB: Final = 1024 * 1024
SIZES: Final = (10 * KIB, MIB, 100 * MIB)
#: Shares of each size: a full batch.
SHARES: Final = 1_024
#: Bytes of a share, beyond which others are asked for less.
_LARGE: Final = 10 * MIB
_PATIENCE: Final = 240.0


@frozen
class Pace:
    """
    @ivar batch: shares that are asked for in one go.
    @ivar in_flight: such batches at the same time.
    """

    name: str
    batch: int
    in_flight: int


PACES: Final = (
    Pace("one share, one in flight", 1, 1),
    Pace("a full batch, one in flight", SHARES, 1),
    Pace("batches of 256, 16 in flight", SHARES // 4, 16),
)

_Key = tuple[str, int]


@define
class Auditors:
    """
    What is measured.

    @ivar begin: given the stack and a folder, gives the processes, that of who asks first;
        L{None} if it is not installed.
    @ivar how: more for each job C{audits}.
    @ivar figures: shares in a second, by pace and size.
    @ivar cpu: shares in a second of processors, of all its processes together, likewise.
    """

    name: str
    begin: Callable[[ExitStack, Path], list[Child]] | None
    how: dict[str, Any] = field(factory=dict)
    foreign: bool = False
    missing: str = ""
    figures: defaultdict[_Key, list[float]] = field(factory=lambda: defaultdict(list))
    cpu: defaultdict[_Key, list[float]] = field(factory=lambda: defaultdict(list))
    absent: str | None = None
    _children: list[Child] = field(factory=list)
    _look: Callable[[Child, int], None] | None = None

    def start(self, stack: ExitStack, folder: Path) -> None:
        """Have its processes there until the stack is left."""
        if self.begin is None:
            self.absent = self.missing
            return
        self._attempt(lambda: self._start(self.begin, stack, folder))

    def _start(self, begin: Any, stack: ExitStack, folder: Path) -> None:
        self._children = begin(stack, folder)

    def _attempt(self, step: Callable[[], None]) -> None:
        if self.absent is not None:
            return
        try:
            step()
        except ChildFailed as error:
            if not self.foreign:
                raise
            self.absent = str(error)
            self.clear()

    def clear(self) -> None:
        """Forget what was measured."""
        self.figures.clear()
        self.cpu.clear()

    def look(self, size: int) -> None:
        """Shares of this size are what is audited from now on."""

        def look() -> None:
            if self.foreign:
                self._children[0].ask(
                    "fill", patience=_PATIENCE, size=size, remote=self.how["remote"]
                )
            else:
                self._children[0].ask("look", size=size, count=SHARES)

        self._attempt(look)

    def warm_up(self, size: int, seconds: float) -> None:
        """Have everything read and made once; nothing of it counts."""
        if self.foreign:
            return
        pace = PACES[1]
        self.measure(pace, size, seconds)
        for figures in (self.figures, self.cpu):
            figures[pace.name, size].clear()

    def measure(self, pace: Pace, size: int, seconds: float) -> None:
        """One figure."""
        how: dict[str, Any] = {"batch": pace.batch, "in_flight": pace.in_flight}
        if self.foreign:
            if pace.batch > 1 and pace.in_flight == 1:
                return  # it has no batches
            if pace.in_flight > 1 and size > _LARGE:
                return  # minutes
            how = {"inFlight": pace.in_flight}

        def audits() -> None:
            before = self._cpu()
            done = self._children[0].ask(
                "audits", patience=_PATIENCE, seconds=seconds, **how, **self.how
            )
            self.figures[pace.name, size].append(done["audited"] / done["seconds"])
            self.cpu[pace.name, size].append(done["audited"] / (self._cpu() - before))

        self._attempt(audits)

    def _cpu(self) -> float:
        return sum(cpu_seconds(each.pid) or 0.0 for each in self._children)


def _one_process(stack: ExitStack, folder: Path) -> list[Child]:
    both = stack.enter_context(child("auditor and peer", python("audits")))
    both.ask("both", patience=_PATIENCE, folder=str(folder), sizes=SIZES, count=SHARES)
    return [both]


def _two_processes(module: str) -> Callable[[ExitStack, Path], list[Child]]:
    def begin(stack: ExitStack, folder: Path) -> list[Child]:
        peer, auditor = (
            stack.enter_context(child(f"{role} of {module}", python(module)))
            for role in ("the peer", "the auditor")
        )
        place = peer.ask(
            "listen", patience=_PATIENCE, folder=str(folder / "peer"), sizes=SIZES, count=SHARES
        )
        auditor.ask("connect", peer=place, folder=str(folder))
        return [auditor, peer]

    return begin


def _kryden(where: str, remote: bool) -> Callable[[ExitStack, Path], list[Child]]:
    command = [node.node(), "--no-deprecation", str(PEERS / "kryden.js"), where]

    def begin(stack: ExitStack, folder: Path) -> list[Child]:
        client = stack.enter_context(child("Kryden's client", command, node.environment()))
        if not remote:
            return [client]
        peer = stack.enter_context(child("Kryden's peer", command, node.environment()))
        authority = client.ask("identity")
        url = peer.ask("listen", id="peer", folder=str(folder / "peer"), authority=authority)
        client.ask("connect", peers=[url])
        return [client, peer]

    return begin


def kryden(remote: bool) -> Auditors:
    where, missing = storing.kryden_place()
    name = "Kryden, " + ("two processes" if remote else "one process")
    begin = None if where is None else _kryden(where, remote)
    return Auditors(name, begin, {"remote": remote}, foreign=True, missing=missing)


def all_of_them() -> list[Auditors]:
    """@return: who is measured; ours first."""
    two = _two_processes("audits")
    return [
        Auditors("meshkit, two processes", two, {"durable": True}),
        Auditors("without a database", two, {"durable": False}),
        Auditors("meshkit, one process", _one_process, {"durable": True}),
        Auditors("plain leaves, two processes", _two_processes("plain_audits")),
        kryden(remote=True),
        kryden(remote=False),
    ]


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds, seconds = (2, 0.3) if quick else (5, 1.0)
    auditors = all_of_them()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshkit-bench-")))
        for number, each in enumerate(auditors):
            own = folder / str(number)
            own.mkdir()
            each.start(stack, own)
        for size in SIZES:
            # It takes minutes to have large ones there that are not ours.
            there = [each for each in auditors if not (quick and each.foreign and size > _LARGE)]
            for each in there:
                each.look(size)
                each.warm_up(size, seconds / 2)
            for _ in range(rounds):
                for pace in PACES:
                    for each in there:
                        each.measure(pace, size, seconds)
    return render(auditors)


def render(auditors: list[Auditors]) -> str:
    """Tables for each size; the first of them is ours."""
    ours, *others = auditors
    sections = ["## Audits of shares"]
    for size in SIZES:
        what = f"{size // MIB:,} MiB" if size >= MIB else f"{size // KIB:,} KiB"
        heads = [f"shares of {what}"]
        rows = [[each.name] for each in auditors]
        for pace in PACES:
            key = pace.name, size
            heads += [f"a second, {pace.name}", "two processes of ours are x"]
            for row, each in zip(rows, auditors, strict=True):
                row += [_rate(each.figures[key]), ratio(ours.figures[key], each.figures[key])]
            rows[0][-1] = ""
        heads.append("a second of processors, in flight as before")
        for row, each in zip(rows, auditors, strict=True):
            found = (each.cpu[pace.name, size] for pace in PACES)
            row.append("; ".join(_rate(rates, brief=True) for rates in found))
        sections.append(table(heads, rows))
    told = "".join(f"\nabsent: {it.name}: {it.absent}" for it in auditors if it.absent)
    return "\n\n".join(sections) + told


def _rate(rates: list[float], brief: bool = False) -> str:
    if not rates:
        return "-" if brief else "absent"
    shown = spread(rates, digits=1 if max(rates) < 100 else 0)
    return shown.partition(" ")[0] if brief else shown
