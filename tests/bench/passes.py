"""
Passes of a scheduler over healthy objects of 16 KiB, 6 of 9, at 20 peers, beside Kryden's: every
share is audited, and nothing is found.

Peers and scheduler are in one process.  Ours have a secure channel each, in memory, and answer as
storage peers do; the database is on the disk.  Kryden's peers are objects that are called, and its
database is on the disk too.

Kryden is measured when C{MESHKIT_BENCH_KRYDEN} names the folder in which it was built.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from attrs import define, field

from tests.bench import storing
from tests.bench.children import PEERS, Child, ChildFailed, child, python
from tests.bench.figures import ratio, spread, table
from tests.bench.nodes import cpu_seconds, memory_bytes
from tests.interop import node

MIB: Final = 1024 * 1024
_PEERS: Final = 20
_SHARES: Final = 9
_PATIENCE: Final = 600.0


@define
class Passes:
    """
    One scheduler and its objects.

    @ivar command: of the child; L{None} if it is not installed.
    @ivar seconds: of each pass.
    @ivar cpu: seconds of processors of each.
    @ivar memory: of the process after them, bytes; L{None} if there was none.
    """

    name: str
    objects: int
    command: list[str] | None
    environ: dict[str, str] | None = None
    foreign: bool = False
    missing: str = ""
    seconds: list[float] = field(factory=list)
    cpu: list[float] = field(factory=list)
    memory: int | None = None
    absent: str | None = None
    _child: Child | None = None

    def start(self, stack: ExitStack, folder: Path) -> None:
        """Have its objects there."""
        if self.command is None:
            self.absent = self.missing
            return
        try:
            self._child = stack.enter_context(child(self.name, self.command, self.environ))
            self._child.ask(
                "track",
                patience=_PATIENCE,
                objects=self.objects,
                peers=_PEERS,
                folder=str(folder),
            )
        except ChildFailed as error:
            self._failed(error)

    def go(self) -> None:
        """One pass."""
        if self._child is None or self.absent is not None:
            return
        before = cpu_seconds(self._child.pid) or 0.0
        try:
            done = self._child.ask("pass", patience=_PATIENCE, objects=self.objects)
        except ChildFailed as error:
            self._failed(error)
            return
        self.seconds.append(done["seconds"])
        self.cpu.append((cpu_seconds(self._child.pid) or 0.0) - before)
        self.memory = memory_bytes(self._child.pid)

    def _failed(self, error: ChildFailed) -> None:
        if not self.foreign:
            raise error
        self.absent = str(error)
        self.seconds.clear()
        self.cpu.clear()


def ours(objects: int) -> Passes:
    return Passes("meshkit", objects, python("passes"))


def kryden(objects: int) -> Passes:
    where, missing = storing.kryden_place()
    if where is None:
        return Passes("Kryden", objects, None, foreign=True, missing=missing)
    command = [node.node(), "--no-deprecation", str(PEERS / "kryden.js"), where]
    return Passes("Kryden", objects, command, node.environment(), foreign=True)


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds = 2 if quick else 5
    both = [ours(2_000), kryden(2_000)]
    more = [ours(500)] if quick else [ours(500), ours(10_000)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshkit-bench-")))
        for number, each in enumerate([*both, *more]):
            own = folder / str(number)
            own.mkdir()
            each.start(stack, own)
        for number in range(-1, rounds):
            for each in [*both, *more]:
                each.go()
                if number < 0:  # that warmed up
                    each.seconds.clear()
                    each.cpu.clear()
    return render([*both, *more])


def render(passes: list[Passes]) -> str:
    """The table; the first of them is what others of as many objects are compared with."""
    rows = []
    for each in passes:
        row = [each.name, f"{each.objects:,}", spread(each.seconds, digits=2)]
        shares = each.objects * _SHARES
        row.append(spread([shares / seconds for seconds in each.seconds]))
        row.append(spread(each.cpu, digits=2))
        row.append("absent" if each.memory is None else f"{each.memory / MIB:,.0f}")
        if each is passes[0] or each.objects != passes[0].objects:
            row.append("")
        else:
            row.append(ratio(each.seconds, passes[0].seconds))
        rows.append(row)
    heads = [
        "a pass over healthy objects",
        "objects",
        "s",
        "shares audited a second",
        "s of processors",
        "MiB of the process, with all shares",
        f"{passes[0].name} is x",
    ]
    told = "".join(f"\nabsent: {it.name}: {it.absent}" for it in passes if it.absent)
    return "## Passes of a scheduler\n\n" + table(heads, rows) + told
