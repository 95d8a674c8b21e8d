"""
Publishing at the door of a real node, and how soon a peer has what was published.

Every answer that is counted here was given when the message was on the disk
(C{synchronous=FULL}).
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Final

import msgspec
from attrs import frozen

from meshkit.identity.network import NetworkSecret
from tests.bench import corpus
from tests.bench.doors import client, closed_loop
from tests.bench.figures import percentile, spread, table
from tests.bench.nodes import Node, mesh_node

#: Notes of other numbers than those that were replicated.
_FIRST: Final = 1_000_000
#: Seconds in which a peer has to have a message.
PATIENCE: Final = 10.0
_CLIENTS: Final = (1, 16)


@frozen
class Published:
    """
    @ivar rate: messages per second.
    @ivar latencies: seconds from the request to the answer, of each message.
    """

    rate: float
    latencies: list[float]


def _requests(node: Node, texts: list[bytes]) -> Iterator[bytes]:
    while True:
        for text in texts:
            yield node.door.request("POST", "/v1/publish", b'{"content":' + text + b"}")


def publish(node: Node, clients: int, seconds: float) -> Published:
    """One message per request."""
    texts = corpus.contents(200, _FIRST)
    latencies, took = closed_loop(
        node.door, clients, _requests(node, texts), lambda since: since < seconds
    )
    return Published(len(latencies) / took, latencies)


@frozen
class Pushed:
    """
    @ivar answered: seconds from the request until A had it on its disk.
    @ivar visible: seconds from the request until B's door showed the message.
    """

    answered: list[float]
    visible: list[float]


def push(sender: Node, receiver: Node, count: int) -> Pushed:
    """
    Publish one message at a time on A and ask B's door for it, again and again, as soon
    as its hash is known.
    """
    answered, visible = [], []
    with client(sender.door) as at_sender, client(receiver.door) as at_receiver:
        for text in corpus.contents(count, _FIRST + 1_000):
            start = perf_counter()
            message = at_sender.data("POST", "/v1/publish", b'{"content":' + text + b"}")["data"]
            answered.append(perf_counter() - start)
            path = f"/v1/message/{message['hash']}"
            while at_receiver.ask("GET", path)[0] != 200:
                if perf_counter() - start > PATIENCE:
                    raise RuntimeError(f"B did not get a message within {PATIENCE:.0f} s")
            visible.append(perf_counter() - start)
    return Pushed(answered, visible)


def connect(sender: Node, receiver: Node) -> None:
    """Have B dial A, and wait until it has all that A has."""
    with client(sender.door) as door:
        wanted = door.data("GET", "/v1/status")["data"]["parts"]["feed"]["messages"]
    with client(receiver.door) as door:
        door.data("POST", "/v1/peers", msgspec.json.encode({"address": sender.address}))
        start = perf_counter()
        while door.data("GET", "/v1/status")["data"]["parts"]["feed"]["messages"] < wanted:
            if perf_counter() - start > PATIENCE:
                raise RuntimeError("B did not catch up with A")


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds, seconds, pushes = (1, 1.0, 50) if quick else (3, 2.0, 300)
    network = NetworkSecret.generate(random.SystemRandom()).text
    results: defaultdict[int, list[Published]] = defaultdict(list)
    answered: list[float] = []
    visible: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name,
        mesh_node(Path(name, "c"), network) as a,
        mesh_node(Path(name, "d"), network) as b,
    ):
        for _ in range(rounds):
            for clients in _CLIENTS:
                results[clients].append(publish(a, clients, seconds))
        connect(a, b)
        for _ in range(rounds):
            pushed = push(a, b, pushes)
            answered += pushed.answered
            visible += pushed.visible
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
    pushed_rows = [
        [name, f"{percentile(each, 0.5) * 1000:.2f} ms", f"{percentile(each, 0.99) * 1000:.2f} ms"]
        for name, each in (
            ("request to A's answer", answered),
            ("request to visible at B's door", visible),
        )
    ]
    return "\n\n".join(
        [
            "## Publishing one by one at the door, each on the disk when answered",
            table(["clients", "messages", "p50", "p99"], rows),
            f"## Push: {len(visible):,} single messages, A and B connected, two processes",
            table(["from the", "p50", "p99"], pushed_rows),
        ]
    )
