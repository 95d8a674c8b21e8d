"""
Megabytes per second of one secure channel between two processes on loopback, in writes of 64 KiB:
straight, through a relay of ours, and through the transit relay of magic-wormhole, which passes
bare TCP on.  Each relay is a process of its own.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from attrs import define, field

from tests.bench.children import PEERS, ROOT, Child, ChildFailed, child, python
from tests.bench.figures import ratio, spread, table
from tests.bench.nodes import cpu_seconds

_TRANSIT: Final = ROOT / ".tools" / "transit" / "bin" / "twist"
_WRITE: Final = 65_536
#: Bytes of the first transfer, which tells how large the others may be, and their seconds.
_FIRST: Final = 16 << 20
_SECONDS: Final = 1.0
_MB: Final = 1_000_000
#: Seconds that a relay may take to be there.
_PATIENCE: Final = 20.0


@define
class Way:
    """
    One way between two processes.

    @ivar relay: process id of the relay, if there is one.
    @ivar rate: MB/s of each transfer.
    @ivar cost: seconds of a processor that the relay took for each GB.
    """

    name: str
    kind: str
    client: Child | None = None
    relay: int | None = None
    size: int = 0
    rate: list[float] = field(factory=list)
    cost: list[float] = field(factory=list)
    absent: str | None = None

    def start(self, stack: ExitStack) -> None:
        """Have the connection there."""
        port = 0
        if self.kind == "relay":
            relay = stack.enter_context(child("relay", python("tunnels", "relay")))
            self.relay, port = relay.pid, relay.ask("serve")["port"]
        elif self.kind == "transit":
            if not _TRANSIT.exists():
                self.absent = "it is not installed: run .ci/tools bench"
                return
            self.relay, port = stack.enter_context(_transit())
        command = python("tunnels", self.kind)
        server = stack.enter_context(child(f"{self.name} (server)", command))
        self.client = stack.enter_context(child(f"{self.name} (client)", command))
        self.client.ask("connect", port=server.ask("take", port=port)["port"])
        seconds = self.client.ask("send", count=_FIRST, write=_WRITE)["seconds"]
        self.size = max(_FIRST, int(_FIRST * _SECONDS / seconds) >> 20 << 20)

    def transfer(self) -> None:
        """Measure once more."""
        if self.client is None:
            return
        before = None if self.relay is None else cpu_seconds(self.relay)
        sent = self.client.ask("send", count=self.size, write=_WRITE)
        self.rate.append(self.size / sent["seconds"] / _MB)
        after = None if self.relay is None else cpu_seconds(self.relay)
        if before is not None and after is not None:
            self.cost.append((after - before) / (self.size / 1e9))


@contextmanager
def _transit() -> Iterator[tuple[int, int]]:
    """@return: process id and port of the transit relay of magic-wormhole."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = subprocess.Popen(
        [str(_TRANSIT), "transitrelay", f"--port=tcp:{port}:interface=127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT / ".tools",
    )
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if time.monotonic() > end or process.poll() is not None:
                raise ChildFailed("the transit relay does not listen")
            time.sleep(0.05)
        yield process.pid, port
    finally:
        process.kill()
        process.wait()


def measure(quick: bool) -> str:
    """@return: the section."""
    ways = [
        Way("straight", "direct"),
        Way("through a relay of ours", "relay"),
        Way("through magic-wormhole-transit-relay", "transit"),
    ]
    with ExitStack() as stack:
        for way in ways:
            try:
                way.start(stack)
            except ChildFailed as error:
                if way.kind != "transit":
                    raise
                way.absent, way.client = str(error), None
        for _ in range(2 if quick else 5):
            for way in ways:
                way.transfer()
    straight = ways[0].rate
    rows = [
        [
            way.name,
            spread(way.rate),
            "" if way.kind == "direct" else ratio(way.rate, straight),
            "" if way.kind == "direct" else spread(way.cost, digits=1),
        ]
        for way in ways
    ]
    heads = ["one channel, writes of 64 KiB", "MB/s", "share of straight", "relay: CPU s for a GB"]
    absent = "".join(f"\nabsent: {way.name}: {way.absent}" for way in ways if way.absent)
    version = (PEERS / "transit.txt").read_text().strip()
    return (
        f"## Tunnels: MB/s from one process to another\n\n{table(heads, rows)}\n\n"
        f"{version}.  Our relay opens and seals a channel on each of its sides.{absent}"
    )
