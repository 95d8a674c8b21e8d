"""
C{python -m tests.bench [--quick]}: measures in rounds, each thing once per round, so that a
busy moment of the machine falls on everything; prints the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sqlite3
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Final

from attrs import frozen

from meshkit.feed.message import parse_message
from meshkit.identity.network import NetworkSecret
from tests.bench import ceilings, corpus, egregore, publishing, replication
from tests.bench.ceilings import Rate
from tests.bench.figures import percentile, ratio, spread, table
from tests.bench.nodes import mesh_node

_LIBRARIES: Final = ("Twisted", "PyNaCl", "msgspec", "attrs", "klein")
_BATCH: Final = 1_000
_CLIENTS: Final = (1, 16)


@frozen
class Sizes:
    """How much is measured."""

    rounds: int
    messages: int
    egregore_messages: int
    publish_rounds: int
    publish_seconds: float
    pushes: int


_FULL: Final = Sizes(5, 10_000, 1_000, 3, 2.0, 300)
_QUICK: Final = Sizes(2, 2_000, 300, 1, 1.0, 50)


def _say(text: str) -> None:
    print(text, flush=True)


def _machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}; "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {libraries}"
    )


def _measure_replication(sizes: Sizes, folder: Path, network: str) -> None:
    texts = corpus.contents(sizes.messages)
    raws = corpus.signed(texts)
    messages = [parse_message(raw) for raw in raws]
    mean = statistics.mean(map(len, raws))
    binary = egregore.program()
    few = min(sizes.egregore_messages, sizes.messages)
    ours: list[replication.Replicated] = []
    ours_few: list[float] = []
    theirs: list[float] = []
    rates: defaultdict[str, list[Rate]] = defaultdict(list)
    with ExitStack() as stack:
        node = stack.enter_context(mesh_node(folder / "a", network))
        loaded = replication.load(node, texts, _BATCH)
        if binary is not None:
            other = stack.enter_context(mesh_node(folder / "a-few", network))
            replication.load(other, texts[:few], _BATCH)
            source = stack.enter_context(egregore.sender(binary, folder, texts[:few]))
        for _ in range(sizes.rounds):
            ours.append(replication.replicate(node, folder, network, len(raws)))
            rates["verify"].append(ceilings.verify_only(messages))
            rates["parse + verify"].append(ceilings.parse_and_verify(raws))
            rates["store, 100 per commit"].append(ceilings.store_only(messages, folder))
            rates["all three, inline, 100 per commit"].append(ceilings.all_inline(raws, folder))
            rates["all three, inline, 1,000 per commit"].append(
                ceilings.all_inline(raws, folder, 1_000)
            )
            if binary is not None:
                ours_few.append(replication.replicate(other, folder, network, few).wall)
                theirs.append(egregore.replicate(binary, folder, source, few))
    _say(f"\n## Replication A to B: {len(raws):,} messages of {mean:.0f} bytes, two processes\n")
    wall = [it.wall for it in ours]
    receiver = [it.receiver for it in ours if it.receiver is not None]
    senders = [it.sender for it in ours if it.sender is not None]
    rows = [
        ["A to B", spread(wall, "/s"), "", spread(receiver, "/s"), ""],
        *(
            [
                f"one core: {name}",
                spread([it.wall for it in each], "/s"),
                ratio(wall, [it.wall for it in each]),
                spread([it.cpu for it in each], "/s"),
                ratio(receiver, [it.cpu for it in each]) if receiver else "absent",
            ]
            for name, each in rates.items()
        ),
    ]
    heads = ["", "messages", "A to B is x", "per CPU second (of B)", "B is x"]
    _say(table(heads, rows))
    _say(f"\nA's share: {spread(senders, 'messages per CPU second')}.")
    _say(f"\n## Egregore's own nodes, {few:,} messages, two processes\n")
    if binary is None:
        _say(f"absent: {egregore.VARIABLE} names no program")
    else:
        rows = [
            ["meshkit", spread(ours_few, "/s"), ""],
            ["Egregore", spread(theirs, "/s"), ratio(ours_few, theirs)],
        ]
        _say(table(["", "messages", "meshkit is x"], rows))
    _say(f"\n## Publishing in batches of {_BATCH:,} at the door\n\n{spread(loaded, 'messages/s')}")


def _measure_publishing(sizes: Sizes, folder: Path, network: str) -> None:
    results: defaultdict[int, list[publishing.Published]] = defaultdict(list)
    answered: list[float] = []
    visible: list[float] = []
    with mesh_node(folder / "c", network) as a, mesh_node(folder / "d", network) as b:
        for _ in range(sizes.publish_rounds):
            for clients in _CLIENTS:
                results[clients].append(publishing.publish(a, clients, sizes.publish_seconds))
        publishing.connect(a, b)
        for _ in range(sizes.publish_rounds):
            pushed = publishing.push(a, b, sizes.pushes)
            answered += pushed.answered
            visible += pushed.visible
    _say("\n## Publishing one by one at the door, each on the disk when answered\n")
    rows = []
    for clients, each in results.items():
        latencies = [seconds * 1000 for it in each for seconds in it.latencies]
        rows.append(
            [
                str(clients),
                spread([it.rate for it in each], "/s"),
                f"{percentile(latencies, 0.5):.2f} ms",
                f"{percentile(latencies, 0.99):.2f} ms",
            ]
        )
    _say(table(["clients", "messages", "p50", "p99"], rows))
    _say(f"\n## Push: {len(visible):,} single messages, A and B connected\n")
    rows = [
        [name, f"{percentile(each, 0.5) * 1000:.2f} ms", f"{percentile(each, 0.99) * 1000:.2f} ms"]
        for name, each in (
            ("request to A's answer", answered),
            ("request to visible at B's door", visible),
        )
    ]
    _say(table(["from the", "p50", "p99"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few messages, few rounds")
    arguments = parser.parse_args()
    sizes = _QUICK if arguments.quick else _FULL
    start = perf_counter()
    command = "python -m tests.bench" + (" --quick" if arguments.quick else "")
    _say(f"{command}: {sizes.rounds} rounds, median [min..max]\n{_machine()}")
    _say(f"load of the machine at the start: {_load()}")
    # A secret for this run only; what matters is that A and B have the same one.
    network = NetworkSecret.generate(random.SystemRandom()).text
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
        _measure_replication(sizes, Path(name), network)
        _measure_publishing(sizes, Path(name), network)
    _say(f"\nload at the end: {_load()}; {perf_counter() - start:.0f} s in all")


def _load() -> str:
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except OSError:
        return "unknown"


if __name__ == "__main__":
    main()
