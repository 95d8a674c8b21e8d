"""Worlds of L{meshkit.sim}: what many nodes in one process cost."""

from __future__ import annotations

from typing import Any

from tests.bench.children import child, python
from tests.bench.figures import spread, table
from tests.bench.peers import worlds

#: Nodes, messages, and how many of the nodes publish them; without C{--quick} also the rest.
QUICK = ((10, 200, 10), (100, 20, 10))
FULL = ((10, 1_000, 10), (100, 100, 20), (1_000, 20, 10))


def run(nodes: int, messages: int, authors: int, seed: int) -> Any:
    """@return: what L{worlds.world} gives, in a process of its own."""
    with child("world", python("worlds")) as it:
        return it.ask(
            "world",
            nodes=nodes,
            messages=messages,
            authors=authors,
            seed=seed,
            patience=worlds.LIFETIME,
        )


def measure(quick: bool) -> str:
    """@return: the section."""
    sizes = QUICK if quick else FULL
    rounds = 1 if quick else 2
    found: dict[int, list[Any]] = {nodes: [] for nodes, _, _ in sizes}
    for number in range(rounds):
        for nodes, messages, authors in sizes:
            found[nodes].append(run(nodes, messages, authors, number + 1))
    rows = [row(each, messages, found[each]) for each, messages, _ in sizes]
    heads = [
        "nodes",
        "messages",
        "start, ms a node",
        "MiB a node",
        "idle: s of the world a s",
        "20 messages/s: s of the world a s",
        "events/s",
        "ms a delivery",
    ]
    return (
        "## Worlds of many nodes\n\n"
        + table(heads, rows)
        + "\n\nSeconds are CPU seconds of the one process. Each signature is verified by each "
        "node."
    )


def row(nodes: int, messages: int, runs: list[Any]) -> list[str]:
    """One line of the table."""
    deliveries = messages * (nodes - 1)
    return [
        f"{nodes:,}",
        f"{messages:,}",
        spread([1000 * each["start"]["cpu"] / nodes for each in runs]),
        spread([each["memory"] for each in runs], digits=2),
        spread([_pace(each["idle"]) for each in runs]),
        spread([_pace(each["messages"]) for each in runs], digits=2),
        spread([each["messages"]["events"] / each["messages"]["cpu"] for each in runs]),
        spread([1000 * each["messages"]["cpu"] / deliveries for each in runs], digits=2),
    ]


def _pace(phase: Any) -> float:
    pace: float = phase["virtual"] / phase["cpu"]
    return pace
