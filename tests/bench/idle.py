"""
Memory of a connection that does nothing, in each of the two processes that hold its ends:
by how much what is resident grows from the first hundred connections to all.
"""

from __future__ import annotations

import resource
from typing import Final

from tests.bench.contenders import (
    Contender,
    absences,
    libp2p,
    links,
    running,
    secret_handshake,
)
from tests.bench.figures import spread, table

CONNECTIONS: Final = 5_000
#: py-libp2p's listener takes no more than 250 in its life.
_LIBP2P_CONNECTIONS: Final = 220
#: Connections that are there before the first look.
_BEFORE: Final = 100
_BEFORE_LIBP2P: Final = 20
#: Files that a process has open beside its connections, and then some.
_OTHER_FILES: Final = 200
_PATIENCE: Final = 120.0


def measure(quick: bool) -> str:
    """@return: the section."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1_000 if quick else CONNECTIONS
    many = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - _OTHER_FILES)
    rounds = 1 if quick else 2
    held: dict[str, int] = {}
    results: list[Contender[str]] = []
    for _ in range(rounds):
        theirs = libp2p()
        programs = [
            links("meshkit, SecureChannel", "channel"),
            secret_handshake(),
            theirs,
            links("floor: TCP alone, Twisted", "tcp"),
        ]
        # Fresh processes each time: memory that was used once is not given back.
        with running(programs) as contenders:
            for it in contenders:
                few = it.program == theirs
                before = _BEFORE_LIBP2P if few else _BEFORE
                count = min(many, _LIBP2P_CONNECTIONS) if few else many
                held[it.name] = count
                it.attempt(_weigh, before, count)
        if results:
            for old, new in zip(results, contenders, strict=True):
                old.absent = old.absent or new.absent
                for side, figures in new.figures.items():
                    old.figures[side] += figures
        else:
            results = contenders
    rows = [
        [
            it.name,
            f"{held[it.name]:,}",
            spread([] if it.absent else it.figures["server"], digits=1),
            spread([] if it.absent else it.figures["client"], digits=1),
        ]
        for it in results
    ]
    heads = ["", "connections", "KiB each, listener", "dialler"]
    return (
        "## Memory of an idle connection\n\n"
        + table(heads, rows)
        + "\n\nTwo processes each. libp2p's dialler has a host for each connection."
        + absences(results)
    )


def _weigh(it: Contender[str], before: int, count: int) -> None:
    it.client.ask("hold", address=it.address, count=before)
    light = {"server": it.server.memory(), "client": it.client.memory()}
    it.client.ask("hold", address=it.address, count=count - before, patience=_PATIENCE)
    heavy = {"server": it.server.memory(), "client": it.client.memory()}
    for side, size in heavy.items():
        it.figures[side].append((size - light[side]) / (count - before) / 1024)
