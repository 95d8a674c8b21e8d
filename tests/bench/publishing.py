"""
Publishing at the door of a real node, and how soon a peer has what was published.

Every answer that is counted here was given when the message was on the disk
(C{synchronous=FULL}).
"""

from __future__ import annotations

import random
import selectors
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Final

import msgspec
from attrs import frozen

from meshkit.identity.network import NetworkSecret
from tests.bench import corpus
from tests.bench.doors import Answer, client, closed_loop
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
    @ivar answered: seconds from the request until A had it on its disk and said so.
    @ivar seen: seconds from the request until B's stream of events had brought it.
    """

    answered: list[float]
    seen: list[float]


def push(sender: Node, receiver: Node, count: int) -> Pushed:
    """Publish one message at a time on A, while somebody listens to B's events."""
    pushed = Pushed([], [])
    with (
        closing(sender.door.connect()) as at_sender,
        closing(receiver.door.connect()) as at_receiver,
        selectors.DefaultSelector() as selector,
    ):
        at_receiver.sendall(receiver.door.request("GET", "/v1/events"))
        head = at_receiver.recv(64 * 1024)
        if b" 200 " not in head:
            raise RuntimeError(f"B gives no events: {head[:300]!r}")
        selector.register(at_sender, selectors.EVENT_READ)
        selector.register(at_receiver, selectors.EVENT_READ)
        first = _FIRST + 1_000
        for number, text in enumerate(corpus.contents(count, first), first):
            # An event is one write: its word is not cut in two but by the socket.
            word, events = corpus.own_word(number).encode(), bytearray()
            request = sender.door.request("POST", "/v1/publish", b'{"content":' + text + b"}")
            answer = Answer()
            answered = seen = None
            start = perf_counter()
            at_sender.sendall(request)
            while answered is None or seen is None:
                ready = selector.select(PATIENCE)
                now = perf_counter()
                if not ready:
                    raise RuntimeError(f"B did not show a message within {PATIENCE:.0f} s")
                for key, _ in ready:
                    if key.fileobj is at_receiver:
                        events += at_receiver.recv(64 * 1024)
                        if seen is None and word in events:
                            seen = now - start
                    else:
                        whole = answer.feed(at_sender.recv(64 * 1024))
                        if whole is not None and whole[0] != 201:
                            raise RuntimeError(f"HTTP {whole[0]}: {whole[1][:300]!r}")
                        if whole is not None:
                            answered = now - start
            pushed.answered.append(answered)
            pushed.seen.append(seen)
    return pushed


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
    seen: list[float] = []
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
            seen += pushed.seen
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
            ("request to B's stream of events", seen),
        )
    ]
    return "\n\n".join(
        [
            "## Publishing one by one at the door, each on the disk when answered",
            table(["clients", "messages", "p50", "p99"], rows),
            f"## Push: {len(seen):,} single messages, A and B connected, two processes",
            table(["from the", "p50", "p99"], pushed_rows),
        ]
    )
