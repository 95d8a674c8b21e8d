"""
The hash table: networks of nodes in one process each, that put and get over connections that
they keep, beside PyPI's kademlia with as many nodes and py-libp2p with fewer hosts.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from typing import Any, Final

from attrs import define, field

from tests.bench.children import PEERS, ROOT, Child, ChildFailed, child, python
from tests.bench.figures import percentile, ratio, spread, table

_OPERATIONS: Final = ("get", "put", "absent")
_PERCENTILES: Final = (0.5, 0.95)
_ASKING: Final = 8
_IN_FLIGHT: Final = 8
#: Seconds for any one job, the making of a network among them.
_PATIENCE: Final = 300.0


@define
class Contender:
    """
    A network that is measured.

    @ivar command: L{None} if it is not installed.
    @ivar share: how many of the operations it is given, as it is slow.
    @ivar disk: its nodes keep what they are given on the disk, and only storing is measured.
    @ivar figures: one of each round.
    """

    name: str
    command: list[str] | None
    nodes: int
    asking: int = _ASKING
    share: float = 1.0
    disk: bool = False
    foreign: bool = True
    figures: defaultdict[Any, list[float]] = field(factory=lambda: defaultdict(list))
    absent: str | None = None
    _child: Child | None = None

    def ask(self, job: str, **arguments: Any) -> Any:
        """
        @return: what its network says; L{None}, if it is absent.
        @raise ChildFailed: it is ours and failed.
        """
        if self.absent is not None or self._child is None:
            return None
        try:
            return self._child.ask(job, patience=_PATIENCE, **arguments)
        except ChildFailed as error:
            self._failed(error)
            return None

    def _failed(self, error: ChildFailed) -> None:
        if not self.foreign:
            raise error
        self.absent = str(error)
        self.figures.clear()

    def start(self, stack: ExitStack) -> None:
        """Make its network, until the block is left."""
        if self.command is None:
            self.absent = "it is not installed: run .ci/tools bench"
            return
        self._child = stack.enter_context(child(self.name, self.command))
        try:
            before = self._child.memory()
            how = {"disk": True} if self.disk else {}
            self.ask("start", nodes=self.nodes, asking=self.asking, **how)
            if self.absent is None:
                memory = (self._child.memory() - before) / self.nodes / 1024
                self.figures["memory"].append(memory)
        except ChildFailed as error:
            self._failed(error)

    def operate(self, what: str, count: int) -> None:
        """One after the other, so often."""
        done = self.ask("latencies", what=what, count=max(3, round(count * self.share)))
        if done is not None:
            for share in _PERCENTILES:
                self.figures[what, share].append(percentile(done["ms"], share))
            for key in ("cpu", "questions"):
                self.figures[what, key].append(done[key])

    def rate(self, seconds: float) -> None:
        """Several at the same time."""
        rate = self.ask("rate", in_flight=_IN_FLIGHT, seconds=seconds)
        if rate is not None:
            self.figures["rate"].append(rate)


def _peer(environment: str, program: str) -> list[str] | None:
    interpreter = ROOT / ".tools" / environment / "bin" / "python"
    return [str(interpreter), str(PEERS / program)] if interpreter.exists() else None


def contenders(nodes: int, hosts: int, disk: bool) -> list[Contender]:
    """
    @param hosts: of libp2p; 0 for none.
    @param disk: ours on disks, too.
    """
    made = [
        Contender("meshkit", python("hash_tables"), nodes, foreign=False),
        Contender("PyPI kademlia", _peer("kademlia", "kademlia_peer.py"), nodes),
    ]
    if hosts:
        libp2p = _peer("libp2p", "libp2p_dht.py")
        made.append(Contender("PyPI libp2p", libp2p, hosts, asking=4, share=1 / 20))
    if disk:
        made.append(
            Contender("meshkit, on disks", python("hash_tables"), nodes, foreign=False, disk=True)
        )
    return made


def measure(quick: bool) -> str:
    """@return: the section."""
    if quick:
        sections = [_section(contenders(50, 30, False), 2, 40, 0.5)]
    else:
        sections = [
            _section(contenders(50, 30, True), 5, 60, 1.0),
            _section(contenders(100, 0, False), 5, 60, 1.0),
        ]
    return "## The hash table\n\n" + "\n\n".join(sections)


def _section(all_of_them: list[Contender], rounds: int, count: int, seconds: float) -> str:
    with ExitStack() as stack:
        for it in all_of_them:
            it.start(stack)
        for _ in range(rounds):
            for what in _OPERATIONS:
                for it in all_of_them:
                    if what == "put" or not it.disk:
                        it.operate(what, count)
            for it in all_of_them:
                if not it.disk:
                    it.rate(seconds)
    return render(all_of_them)


def render(all_of_them: list[Contender]) -> str:
    """The table of one size; the first of them is ours."""
    ours, *others = all_of_them
    rows = []
    for what in _OPERATIONS:
        for share in _PERCENTILES:
            rows.append(_row(f"{what}, p{100 * share:.0f}, ms", (what, share), all_of_them, 2))
        rows.append(_row(f"{what}, ms of processor", (what, "cpu"), all_of_them, 2))
        rows.append(_row(f"{what}, questions", (what, "questions"), all_of_them, 1))
    rows.append(_row(f"gets a second, {_IN_FLIGHT} in flight", "rate", all_of_them, 0))
    rows.append(_row("KiB of memory a node", "memory", all_of_them, 0))
    heads = ["", _head(ours)]
    for other in others:
        heads += [_head(other), "meshkit is x"]
    told = "".join(f"\nabsent: {it.name}: {it.absent}" for it in all_of_them if it.absent)
    return table(heads, rows) + told


def _head(it: Contender) -> str:
    return f"{it.name}, {it.nodes}"


def _row(head: str, key: Any, all_of_them: list[Contender], digits: int) -> list[str]:
    ours, *others = all_of_them
    row = [head, spread(ours.figures[key], digits=digits)]
    for other in others:
        theirs = other.figures[key]
        if other.disk and not theirs:
            row += ["", ""]
            continue
        row.append(spread(theirs, digits=digits))
        # Of all but rates the less the better.
        better = (ours.figures[key], theirs) if key == "rate" else (theirs, ours.figures[key])
        row.append(ratio(*better))
    return row
