"""
Mailboxes at a relay: messages that are left and taken out, each durable before it is
acknowledged, while thousands of others are connected and wait for theirs; what each of those takes
of the relay's memory; and how soon one who waits is told.
"""

from __future__ import annotations

import random
import resource
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from meshkit.identity.network import NetworkSecret
from tests.bench.children import child, python
from tests.bench.figures import spread, table
from tests.bench.nodes import memory_bytes, mesh_node

IDLE: Final = 5_000
#: Those who are there before the first look.
_BEFORE: Final = 100
_OTHER_FILES: Final = 200
_SENDERS: Final = 4
_RECIPIENTS: Final = 32
_IN_FLIGHT: Final = 64
SIZES: Final = (256, 4_096)
_PATIENCE: Final = 240.0

#: So that it is the relay that is measured, and not what it grants.
_GENEROUS: Final = (
    *("--mailboxes-rate", "100000", "--mailboxes-burst", "1000000"),
    *("--mailboxes-from-one", "1000000", "--mailboxes-of-sender", "1000000"),
    *("--mailboxes-messages", "1000000", "--mailboxes-bytes", "256 MiB"),
)


def measure(quick: bool) -> str:
    """@return: the section."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 500 if quick else IDLE
    idle = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - _OTHER_FILES)
    rounds, count = (2, 1_000) if quick else (5, 5_000)
    figures: dict[str, list[float]] = defaultdict(list)
    network = NetworkSecret.generate(random.SystemRandom()).text
    with (
        tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name,
        mesh_node(Path(name) / "relay", network, *_GENEROUS, program="mesh-relay") as relay,
        child("mailers", python("mailers")) as mailers,
    ):
        where: dict[str, Any] = {"address": relay.address, "network": network}
        mailers.ask("recipients", number=_BEFORE, **where)
        before = memory_bytes(relay.pid)
        mailers.ask("recipients", number=idle - _BEFORE, patience=_PATIENCE, **where)
        each = (memory_bytes(relay.pid) - before) / (idle - _BEFORE)
        for _ in range(_SENDERS):
            mailers.ask("sender", **where)
        for number in range(-1, rounds):
            for size in SIZES:
                used = relay.cpu_seconds() or 0.0
                rate = mailers.ask(
                    "deposit", number=count, in_flight=_IN_FLIGHT, size=size, to=_RECIPIENTS
                )
                cpu = (relay.cpu_seconds() or 0.0) - used
                taken, out = mailers.ask("collect", to=_RECIPIENTS)
                if taken != count:
                    raise RuntimeError(f"{taken} of {count} messages came out")
                if number < 0:  # that warmed up
                    continue
                figures[f"in {size}"].append(rate)
                figures[f"out {size}"].append(out)
                if cpu > 0:
                    figures[f"cpu {size}"].append(count / cpu)
            if number >= 0:
                figures["notice"].append(1_000 * mailers.ask("notice", size=256))
    rows = [
        [
            f"{size:,} bytes",
            spread(figures[f"in {size}"], "/s"),
            spread(figures[f"cpu {size}"], "/s"),
            spread(figures[f"out {size}"], "/s"),
        ]
        for size in SIZES
    ]
    return "\n\n".join(
        [
            f"## Mailboxes: {count:,} messages of {_SENDERS} senders for {_RECIPIENTS} recipients",
            table(["", "left, on the disk", "per CPU second of the relay", "taken out"], rows),
            f"Meanwhile {idle:,} recipients are connected and wait, each of whom takes "
            f"{each / 1024:.1f} KiB of the relay's memory. One who waits is told of a message "
            f"{spread(figures['notice'], ' ms')} after it was begun to be left. {_IN_FLIGHT} "
            "messages are on their way at a time; the relay's limits for each key are lifted.",
        ]
    )
