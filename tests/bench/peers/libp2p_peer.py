"""
py-libp2p with Noise and yamux over TCP, as a child of the bench.  It runs in a virtual
environment of its own, C{.tools/libp2p}, and imports nothing of ours.  What a child does
is told in C{peers/__init__.py}.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import sys
import traceback
from collections import deque
from random import Random
from time import perf_counter, process_time
from typing import Any, Final

import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

LIFETIME: Final = 300
COUNT_BYTES: Final = 8
READ_BYTES: Final = 64 * 1024
AT_ONCE: Final = 16
PAYLOAD: Final = bytes(range(64))
SINK: Final = TProtocol("/bench/sink/1")
ECHO: Final = TProtocol("/bench/echo/1")
ANYWHERE: Final = Multiaddr("/ip4/127.0.0.1/tcp/0")


async def run_host(listening: bool = False, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Task: a host with what is measured and nothing else.  It starts with the host."""
    keys = create_new_key_pair()
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    host = new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_opt=create_yamux_muxer_option())
    async with host.run(listen_addrs=[ANYWHERE] if listening else []):
        task_status.started(host)
        await trio.sleep_forever()


async def sink(stream: Any) -> None:
    """The receiving end of transfers."""
    try:
        while True:
            head = b""
            while len(head) < COUNT_BYTES:
                head += await stream.read(COUNT_BYTES - len(head))
            left = int.from_bytes(head, "big")
            while left:
                left -= len(await stream.read(min(left, READ_BYTES)))
            await stream.write(b"!")
    except StreamError:
        pass  # the other side is done


async def echo(stream: Any) -> None:
    """Sends back what it gets, as much at a time as there is."""
    try:
        while True:
            await stream.write(await stream.read(READ_BYTES))
    except StreamError:
        pass


class Caller:
    """Calls on one kept stream: every 64 bytes that come back answer the oldest."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._waiting: deque[trio.Event] = deque()

    async def call(self) -> None:
        answered = trio.Event()
        self._waiting.append(answered)
        await self._stream.write(PAYLOAD)
        await answered.wait()

    async def read(self) -> None:
        have = 0
        while True:
            have += len(await self._stream.read(READ_BYTES))
            while have >= len(PAYLOAD):
                have -= len(PAYLOAD)
                self._waiting.popleft().set()


class Peer:
    """What the jobs are done with."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._host: Any = None
        self._sender: Any = None
        self._callers: list[Caller] = []
        self._held = 0

    async def listen(self) -> dict[str, Any]:
        host = await self._nursery.start(run_host, True)
        host.set_stream_handler(SINK, sink)
        host.set_stream_handler(ECHO, echo)
        return {"address": str(host.get_addrs()[0])}

    async def _dial(self, host: Any, address: dict[str, Any]) -> Any:
        info = info_from_p2p_addr(Multiaddr(address["address"]))
        await host.connect(info)
        return info.peer_id

    async def connect(self, address: dict[str, Any]) -> None:
        self._host = await self._nursery.start(run_host)
        server = await self._dial(self._host, address)
        self._sender = await self._host.new_stream(server, [SINK])

    async def send(self, count: int, write: int) -> dict[str, float]:
        piece = Random(1).randbytes(write)
        start, used = perf_counter(), process_time()
        await self._sender.write(count.to_bytes(COUNT_BYTES, "big"))
        for _ in range(count // write):
            await self._sender.write(piece)
        await self._sender.read(1)
        return {"seconds": perf_counter() - start, "cpu": process_time() - used}

    async def prepare(self, address: dict[str, Any], streams: int) -> None:
        self._host = await self._nursery.start(run_host)
        server = await self._dial(self._host, address)
        for _ in range(streams):
            caller = Caller(await self._host.new_stream(server, [ECHO]))
            self._callers.append(caller)
            self._nursery.start_soon(caller.read)

    async def rate(self, streams: int, in_flight: int, seconds: float) -> float:
        """So many callers, on so many of the streams, each with one call after the other."""
        made = 0
        start = perf_counter()

        async def run(caller: Caller) -> None:
            nonlocal made
            while perf_counter() - start < seconds:
                await caller.call()
                made += 1

        async with trio.open_nursery() as nursery:
            for number in range(in_flight):
                nursery.start_soon(run, self._callers[number % streams])
        return made / (perf_counter() - start)

    async def hold(self, address: dict[str, Any], count: int) -> int:
        """Connections of a host each, as one host does not connect to a peer twice."""
        left = iter(range(count))

        async def opener() -> None:
            for _ in left:
                host = await self._nursery.start(run_host)
                await self._dial(host, address)
                self._held += 1

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(opener)
        return self._held

    async def cpu(self) -> float:
        return process_time()

    async def collect(self) -> None:
        gc.collect()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        peer = Peer(nursery)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            arguments = json.loads(line)
            job = getattr(peer, arguments.pop("job"))
            try:
                answer = {"done": await job(**arguments)}
            except Exception:
                answer = {"failed": traceback.format_exc()[-2000:]}
            print(json.dumps(answer), flush=True)
        # Its hosts would need seconds to stop, and there is nothing to be lost.
        os._exit(0)


if __name__ == "__main__":
    signal.alarm(LIFETIME)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.disable(logging.CRITICAL)
    trio.run(main)
