"""
Megabytes per second through one connection on loopback, from one process to another, in
writes of 64 KiB and of 1 KiB, with flow control: our secure channel beside the JavaScript
reference of the same protocol, py-libp2p, and the calls of libsodium alone.
"""

from __future__ import annotations

from typing import Final

from tests.bench.contenders import (
    Contender,
    absences,
    libp2p,
    links,
    running,
    secret_handshake,
)
from tests.bench.figures import ratio, spread, table

WRITES: Final = (64 * 1024, 1024)
#: Bytes of the first transfer, which warms up and tells how large the others may be.
_FIRST: Final = {64 * 1024: 32 << 20, 1024: 2 << 20}
#: Seconds that a transfer should take about.
_SECONDS: Final = 0.5
_MB: Final = 1_000_000

#: Write size and what it is of: a transfer as a whole, or the CPU of one side.
_Key = tuple[int, str]


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds = 2 if quick else 5
    programs = [
        links("meshkit, SecureChannel", "channel"),
        secret_handshake(),
        libp2p(),
        links("ceiling: the calls of libsodium alone", "bare"),
    ]
    sizes: dict[tuple[str, int], int] = {}
    with running(programs) as contenders:

        def prepare(it: Contender[_Key]) -> None:
            it.client.ask("connect", address=it.address)
            for write in WRITES:
                first = _FIRST[write]
                seconds = it.client.ask("send", count=first, write=write)["seconds"]
                wanted = int(first * _SECONDS / seconds)
                sizes[it.name, write] = max(1 << 20, wanted >> 20 << 20)

        for contender in contenders:
            contender.attempt(prepare)
        for _ in range(rounds):
            for write in WRITES:
                for contender in contenders:
                    count = sizes.get((contender.name, write), 0)
                    contender.attempt(_transfer, write, count)
    text = "## Bulk: MB/s from one process to another, one connection\n"
    ours = contenders[0]
    for write in WRITES:
        rows = []
        for it in contenders:
            rate, sender, receiver = (
                it.figures[write, what] for what in ("rate", "sender", "receiver")
            )
            size = sizes.get((it.name, write))
            rows.append(
                [
                    it.name,
                    spread(rate),
                    "" if it is ours else ratio(ours.figures[write, "rate"], rate),
                    spread(sender),
                    spread(receiver),
                    "absent" if not rate or size is None else f"{size >> 20}",
                ]
            )
        heads = [
            f"writes of {write // 1024} KiB",
            "MB/s",
            "meshkit is x",
            "per CPU second: sender",
            "receiver",
            "MiB a transfer",
        ]
        text += f"\n{table(heads, rows)}\n"
    return text + "\nTwo processes each." + absences(contenders)


def _transfer(it: Contender[_Key], write: int, count: int) -> None:
    before = it.server.ask("cpu")
    sent = it.client.ask("send", count=count, write=write)
    used = it.server.ask("cpu") - before
    it.figures[write, "rate"].append(count / sent["seconds"] / _MB)
    it.figures[write, "sender"].append(count / sent["cpu"] / _MB)
    it.figures[write, "receiver"].append(count / used / _MB)
