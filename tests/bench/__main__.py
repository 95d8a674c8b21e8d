"""
C{python -m tests.bench [--quick] [NAME ...]}: measures in rounds, each thing once per round,
so that a busy moment of the machine falls on everything; prints the tables of
docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from time import perf_counter
from typing import Final, NoReturn

from tests.bench import (
    auditing,
    bulk,
    coding,
    forwarding,
    handshakes,
    idle,
    kademlia,
    large,
    mailboxes,
    mcp,
    objects,
    passes,
    publishing,
    repairing,
    replication,
    rest,
    rpc,
    sealing,
    search,
    sim,
    starting,
    storing,
    tunnels,
)

_LIBRARIES: Final = ("Twisted", "PyNaCl", "msgspec", "attrs", "klein")

#: What there is to measure: given C{--quick} or not, each gives its section.
BENCHES: Final[dict[str, Callable[[bool], str]]] = {
    "replication": replication.measure,
    "publishing": publishing.measure,
    "forwarding": forwarding.measure,
    "mailboxes": mailboxes.measure,
    "bulk": bulk.measure,
    "tunnels": tunnels.measure,
    "handshakes": handshakes.measure,
    "rpc": rpc.measure,
    "idle": idle.measure,
    "search": search.measure,
    "large": large.measure,
    "rest": rest.measure,
    "mcp": mcp.measure,
    "starting": starting.measure,
    "sim": sim.measure,
    "kademlia": kademlia.measure,
    "objects": objects.measure,
    "sealing": sealing.measure,
    "coding": coding.measure,
    "storing": storing.measure,
    "auditing": auditing.measure,
    "repairing": repairing.measure,
    "passes": passes.measure,
}


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    made.add_argument("--quick", action="store_true", help="less of everything, for a short look")
    made.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"what to measure: {', '.join(BENCHES)}; without a name, all of it",
    )
    return made


def chosen(names: Sequence[str]) -> list[str]:
    """
    What is to be measured, in the order of L{BENCHES}.

    @raise ValueError: there is no such bench.
    """
    for name in names:
        if name not in BENCHES:
            raise ValueError(f"there is no bench {name!r}: choose from {', '.join(BENCHES)}")
    return [name for name in BENCHES if name in names or not names]


def main() -> None:
    made = parser()
    arguments = made.parse_args()
    try:
        names = chosen(arguments.names)
    except ValueError as error:
        made.error(str(error))
    # Whatever ends us has to end our children as well: by way of an exception.
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _end)
    start = perf_counter()
    print(" ".join(["python -m tests.bench", *sys.argv[1:]]) + ": median [min..max]")
    print(_machine())
    print(f"load of the machine at the start: {_load()}")
    for name in names:
        print(f"\n{BENCHES[name](arguments.quick)}", flush=True)
    print(f"\nload at the end: {_load()}; {perf_counter() - start:.0f} s in all")


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}; "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {libraries}"
    )


def _load() -> str:
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except OSError:
        return "unknown"


if __name__ == "__main__":
    main()
