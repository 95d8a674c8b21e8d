"""
A network of PyPI's kademlia in one process, as a child of the bench: asyncio, datagrams on
loopback that nobody signs.  It runs in a virtual environment of its own, C{.tools/kademlia},
and imports nothing of ours.  Its jobs are those of C{hash_tables.py}.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from random import SystemRandom
from time import perf_counter, process_time
from typing import Any, Final

from kademlia.network import Server
from kademlia.protocol import KademliaProtocol

LIFETIME: Final = 1_200
VALUE_BYTES: Final = 100
STOCK: Final = 32
WARM_UP: Final = 16
HOST: Final = "127.0.0.1"
RNG: Final = SystemRandom()


class CountingProtocol(KademliaProtocol):
    """Counts what is asked, by all of them."""

    asked = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("ping", "store", "find_node", "find_value"):
            CountingProtocol.asked += 1
        return super().__getattr__(name)


class CountingServer(Server):
    protocol_class = CountingProtocol


class Network:
    """What the jobs are done with."""

    def __init__(self) -> None:
        self._nodes: list[Server] = []
        self._asking: list[Server] = []
        self._stock: dict[bytes, bytes] = {}

    async def start(self, nodes: int, asking: int) -> None:
        first = []
        for _ in range(nodes):
            node = CountingServer()
            await node.listen(0, interface=HOST)
            if first:
                await node.bootstrap(first)
            else:
                first.append(node.transport.get_extra_info("sockname"))
            self._nodes.append(node)
        self._asking = self._nodes[:: max(1, nodes // asking)][:asking]
        for _ in range(STOCK):
            name, value = os.urandom(16), os.urandom(VALUE_BYTES)
            await RNG.choice(self._nodes).set(name, value)
            self._stock[name] = value
        for node in self._asking:
            for _ in range(WARM_UP):
                await node.set(os.urandom(16), os.urandom(VALUE_BYTES))

    async def latencies(self, what: str, count: int) -> dict[str, Any]:
        work = self._work(what)
        before, times = CountingProtocol.asked, []
        used = process_time()
        for _ in range(count):
            start = perf_counter()
            await work()
            times.append(1000 * (perf_counter() - start))
        return {
            "ms": times,
            "cpu": 1000 * (process_time() - used) / count,
            "questions": (CountingProtocol.asked - before) / count,
        }

    async def rate(self, in_flight: int, seconds: float) -> float:
        made = 0
        get = self._work("get")
        start = perf_counter()

        async def getter() -> None:
            nonlocal made
            while perf_counter() - start < seconds:
                await get()
                made += 1

        await asyncio.gather(*[getter() for _ in range(in_flight)])
        return made / (perf_counter() - start)

    def _work(self, what: str) -> Callable[[], Awaitable[None]]:
        names = list(self._stock)

        async def get() -> None:
            name = RNG.choice(names)
            if await RNG.choice(self._asking).get(name) != self._stock[name]:
                raise RuntimeError("what was put is not what was got")

        async def put() -> None:
            if not await RNG.choice(self._asking).set(os.urandom(16), os.urandom(VALUE_BYTES)):
                raise RuntimeError("nobody keeps it")

        async def absent() -> None:
            if await RNG.choice(self._asking).get(os.urandom(16)) is not None:
                raise RuntimeError("what nobody put was found")

        return {"get": get, "put": put, "absent": absent}[what]

    async def collect(self) -> None:
        gc.collect()


async def main() -> None:
    network = Network()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        arguments = json.loads(line)
        job = getattr(network, arguments.pop("job"))
        try:
            answer = {"done": await job(**arguments)}
        except Exception:
            answer = {"failed": traceback.format_exc()[-2000:]}
        print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    signal.alarm(LIFETIME)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.disable(logging.CRITICAL)
    asyncio.run(main())
