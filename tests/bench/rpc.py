"""
Calls per second with 1 and with 32 in flight, echoing 64 bytes: MessagePack-RPC over TCP and
over the secure channel, beside Twisted's AMP, kept streams of py-libp2p, and 64 bytes sent
back without any protocol, which is what is left for one.
"""

from __future__ import annotations

from typing import Any, Final

from tests.bench.children import python
from tests.bench.contenders import Contender, Program, absences, libp2p, running
from tests.bench.figures import ratio, spread, table
from tests.bench.peers.calls import KINDS

IN_FLIGHT: Final = (1, 32)
#: Those of py-libp2p by name: on how many streams.
_STREAMS: Final = {"libp2p, one kept stream": 1, "libp2p, a kept stream per caller": 32}
_OURS: Final = ("RPC", "RPC over a secure channel")

#: Kind and calls in flight.
_Key = tuple[str, int]


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds, seconds = (2, 0.2) if quick else (5, 0.5)
    twisted = Program("calls", python("calls"))
    with running([twisted, libp2p()]) as contenders:
        calls, theirs = contenders

        def figure(it: Contender[_Key], /, key: _Key, **how: Any) -> None:
            rate = it.client.ask("rate", in_flight=key[1], seconds=seconds, **how)
            it.figures[key].append(rate)

        def prepare(it: Contender[_Key], /, **how: Any) -> None:
            it.client.ask("prepare", address=it.address, **how)

        calls.attempt(prepare)
        theirs.attempt(prepare, streams=max(_STREAMS.values()))
        for number in range(-1, rounds):
            for in_flight in IN_FLIGHT:
                for kind in KINDS:
                    calls.attempt(figure, (kind, in_flight), kind=kind)
                for name, count in _STREAMS.items():
                    if count <= in_flight:
                        theirs.attempt(figure, (name, in_flight), streams=count)
            if number < 0:  # that warmed up
                calls.figures.clear()
                theirs.figures.clear()
    rows = []
    for kind in (*KINDS, *_STREAMS):
        row = [kind]
        for in_flight in IN_FLIGHT:
            rates = (theirs if kind in _STREAMS else calls).figures[kind, in_flight]
            if _STREAMS.get(kind, 1) > in_flight:
                row += ["", "", ""]  # the same as one stream
                continue
            row.append(spread(rates))
            for ours in _OURS:
                row.append("" if kind == ours else ratio(calls.figures[ours, in_flight], rates))
        rows.append(row)
    heads = ["64 bytes echoed"]
    for in_flight in IN_FLIGHT:
        heads += [f"calls/s, {in_flight} in flight", "RPC is x", "RPC over a channel is x"]
    return (
        "## Calls\n\n"
        + table(heads, rows)
        + f"\n\nTwo processes for Twisted's and two for libp2p's, {seconds:g} s a figure. On one "
        "stream of libp2p the calls follow each other without waiting." + absences([theirs])
    )
