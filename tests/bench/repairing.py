"""
Repair over the network: shares of a file are lost, and made anew at other peers, beside
Tahoe-LAFS by both of its protocols, beside Kryden, and beside the plain parts, which are the
ceiling.

All of them have the same scheme, and as many peers more than shares as shares are lost, each a
process of its own.  What is timed is the whole of it: to find out what is lost, too, as the
others do both in one command.  So ours asks for audits of all shares first.  The ceiling alone is
told what is lost, and looks for nothing.

Ours loses shares as their leases are given up; Tahoe's are deleted from the disks; and the peers
of Kryden that have them go away, as it has no way to forget a share.  Afterwards the file is read
and compared.

Kryden is measured when C{MESHKIT_BENCH_KRYDEN} names the folder in which it was built.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, cast

from attrs import define

from tests.bench import storing, tahoe
from tests.bench.children import ChildFailed
from tests.bench.figures import ratio, spread, table
from tests.bench.storing import MB, MIB, Store, Took, digest, taken, write_random


class Session(storing.Session, Protocol):
    """Peers with files of which shares are lost."""

    def lose(self, capability: str, numbers: range) -> int:
        """
        @param numbers: of shares that nobody is to have any more.
        @return: bytes of them.
        """

    def repair(self, capability: str, numbers: range) -> Any:
        """
        Find out what is lost, and make it anew.

        @param numbers: of what is, to see that it was found.
        @return: ours tells how many bytes it has moved, and how many at least it had to.
        """


@define
class Mender(Store):
    """
    What is measured.

    @ivar peer: how many bytes are lost is told by each itself.
    """

    def mend(self, folder: Path, lost: int, size: int = 64 * MIB) -> None:
        """
        One round.

        @param lost: how many shares; the first ones, so that there is something to compute.
        @param size: bytes of the file.
        """
        if self.absent is not None or self._session is None:
            return
        try:
            self._mend(cast(Session, self._session), folder, range(lost), size)
        except ChildFailed as error:
            self._failed(error)

    def _mend(self, session: Session, folder: Path, lost: range, size: int) -> None:
        there, back = folder / "in", folder / "out"
        write_random(there, size)
        capability = session.put(there)
        megabytes = session.lose(capability, lost) / MB
        took = Took()
        with taken(session, took):
            told = session.repair(capability, lost)
        session.get(capability, back)
        if digest(back) != digest(there):
            raise ChildFailed("what comes back is not what was stored")
        back.unlink()
        there.unlink()
        self.figures["seconds"].append(took.seconds)
        self.figures["rate"].append(megabytes / took.seconds)
        self.figures["cpu"].append(1000 * took.cpu / megabytes)
        if told is not None:
            self.figures["moved"].append(told["moved"] / told["least"])


def ours(required: int, total: int, spare: int) -> Mender:
    return Mender("meshkit", partial(storing.children_of, "stores", required, total, spare=spare))


def plain_parts(required: int, total: int, spare: int) -> Mender:
    begin = partial(storing.children_of, "plain_parts", required, total, spare=spare)
    return Mender("plain parts", begin)


def tahoe_lafs(required: int, total: int, spare: int, foolscap: bool) -> Mender:
    binary = tahoe.program()
    protocol = "Foolscap" if foolscap else "HTTP"
    return Mender(
        f"Tahoe-LAFS, {protocol}",
        None
        if binary is None
        else lambda folder: tahoe.grid(binary, folder, required, total, foolscap, spare),
        foreign=True,
    )


def kryden(required: int, total: int, spare: int) -> Mender:
    where, missing = storing.kryden_place()
    begin = (
        None
        if where is None
        else partial(storing.children_of_kryden, where, required, total, spare=spare)
    )
    return Mender("Kryden", begin, foreign=True, missing=missing)


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds = 2 if quick else 7
    sections = []
    for required, total, lost in ((6, 9, 3), (3, 5, 2)):
        scheme = required, total, lost
        menders = [
            ours(*scheme),
            plain_parts(*scheme),
            tahoe_lafs(*scheme, foolscap=False),
            tahoe_lafs(*scheme, foolscap=True),
            kryden(*scheme),
        ]
        head = f"{lost} of {total} shares, {required} suffice"
        sections.append(_section(head, menders, lost, rounds))
    return "\n\n".join(["## Repair of 64 MiB over the network", *sections])


def _section(head: str, menders: list[Mender], lost: int, rounds: int) -> str:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshkit-bench-")))
        for mender in menders:
            mender.start(stack, folder)
        for number in range(-1, rounds):
            for mender in menders:
                mender.mend(folder, lost)
                if number < 0:  # that warmed up
                    mender.figures.clear()
    return render(head, menders)


_ROWS: Final = (
    ("s", "seconds", 2, False),
    ("MB made anew a second", "rate", 0, True),
    ("ms of processors a MB made anew", "cpu", 1, False),
)


def render(head: str, menders: list[Mender]) -> str:
    """The table of one scheme; the first of them is ours."""
    ours, *others = menders
    rows = []
    for name, key, digits, more_is_better in _ROWS:
        row = [name, spread(ours.figures[key], digits=digits)]
        for other in others:
            theirs = other.figures[key]
            better = (ours.figures[key], theirs) if more_is_better else (theirs, ours.figures[key])
            row += [spread(theirs, digits=digits), ratio(*better)]
        rows.append(row)
    heads = [head, ours.name]
    for other in others:
        heads += [other.name, f"{ours.name} is x"]
    told = "".join(f"\nabsent: {it.name}: {it.absent}" for it in menders if it.absent)
    moved = spread(ours.figures["moved"], digits=4)
    return f"{table(heads, rows)}\n\nBytes moved, with proofs: {moved} of the least.{told}"
