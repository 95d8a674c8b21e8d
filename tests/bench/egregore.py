"""
The same replication between two of Egregore's own nodes (github.com/pknull/egregore),
when C{MESHKIT_BENCH_EGREGORE} names their program.  Without it there is no figure.

Its flags are ignored in favour of C{config.yaml}, and it does not tell when a peer has
connected.  So its clock starts at the first message that its B has, which leaves out
start, dial and handshake: that is in its favour.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, Final

from attrs import frozen

from tests.bench import corpus
from tests.bench.doors import Client, Door, client, closed_loop
from tests.bench.nodes import START_SECONDS, child
from tests.ports import free_ports

VARIABLE: Final = "MESHKIT_BENCH_EGREGORE"
PATIENCE: Final = 120.0
_PAUSE: Final = 0.02

_numbers: Final = itertools.count()


@frozen
class EgregoreNode:
    """A node that answers."""

    door: Door
    gossip_port: int


def program() -> str | None:
    """@return: the path of Egregore's program, if there is one to measure with."""
    return os.environ.get(VARIABLE) or None


@contextmanager
def _node(binary: str, folder: Path, peers: list[int]) -> Iterator[EgregoreNode]:
    folder.mkdir(mode=0o700)
    http, gossip, discovery = free_ports(3)
    config = [
        f"data_dir: {folder}",
        f"port: {http}",
        f"gossip_port: {gossip}",
        "gossip_bind: 127.0.0.1",
        f"discovery_port: {discovery}",
        "lan_discovery: false",
        "mdns_discovery: false",
        "gossip_interval_secs: 1",
        "network_key: meshkit-bench",
        f"peers: {[f'127.0.0.1:{port}' for port in peers]}",
    ]
    (folder / "config.yaml").write_text("\n".join([*config, ""]))
    log = folder.with_name(f"{folder.name}.log")
    command = [binary, "--data-dir", str(folder), "--config", str(folder / "config.yaml")]
    with child(command, log, dict(os.environ)) as process:
        deadline = monotonic() + START_SECONDS
        while True:
            try:
                with closing(socket.create_connection(("127.0.0.1", http), 1)):
                    break
            except OSError:
                if process.poll() is not None or monotonic() > deadline:
                    raise RuntimeError(
                        f"Egregore did not start:\n{log.read_text()[-2000:]}"
                    ) from None
                sleep(0.02)
        yield EgregoreNode(Door(f"http://127.0.0.1:{http}"), gossip)


@contextmanager
def sender(binary: str, folder: Path, texts: list[bytes]) -> Iterator[EgregoreNode]:
    """A node that has published these notes, one by one: it has no batches."""
    with _node(binary, folder / f"egregore-{next(_numbers)}", []) as node:
        requests = (
            node.door.request("POST", "/v1/publish", b'{"content":' + text + b"}") for text in texts
        )
        left = itertools.count(len(texts) - 1, -1)
        closed_loop(node.door, 1, requests, lambda _: next(left) > 0)
        yield node


def replicate(binary: str, folder: Path, source: EgregoreNode, count: int) -> float:
    """@return: messages per second, from the first that B has to the last."""
    where = folder / f"egregore-{next(_numbers)}"
    with _node(binary, where, [source.gossip_port]) as node, client(node.door) as door:
        _wait(lambda: _stored(door) > 0)
        had, start = _stored(door), perf_counter()
        _wait(lambda: _stored(door) >= count)
        _wait(lambda: _finds(door, corpus.own_word(count - 1)))
        return (count - had) / (perf_counter() - start)


def _wait(condition: Callable[[], bool]) -> None:
    start = monotonic()
    while not condition():
        if monotonic() - start > PATIENCE:
            raise RuntimeError(f"Egregore's B did not get on within {PATIENCE:.0f} s")
        sleep(_PAUSE)


def _stored(door: Client) -> int:
    stored: int = door.data("GET", "/v1/status")["data"]["message_count"]
    return stored


def _finds(door: Client, word: str) -> bool:
    found: Any = door.data("GET", f"/v1/insights/search?q={word}")["data"]
    return len(found) == 1
