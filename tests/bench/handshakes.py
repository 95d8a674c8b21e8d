"""
Handshakes per second on loopback, one at a time and 16 at once: from the connect to the
client's knowledge of who the server is, each on a TCP connection of its own, which the
client then resets.  The ceiling is the handshake of both sides without a network.
"""

from __future__ import annotations

from typing import Final

from tests.bench.contenders import Contender, absences, links, running, secret_handshake
from tests.bench.figures import ratio, spread, table

AT_ONCE: Final = (1, 16)

_Key = tuple[int, str]


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds, seconds = (2, 0.5) if quick else (5, 1.0)
    pairs: list[float] = []
    programs = [links("meshkit, SecureChannel", "channel"), secret_handshake()]
    with running(programs) as contenders:
        ours = contenders[0]

        def one_round(it: Contender[_Key], at_once: int, seconds: float = seconds) -> None:
            before = it.server.ask("cpu")
            done = it.client.ask("handshakes", address=it.address, at_once=at_once, seconds=seconds)
            used = it.server.ask("cpu") - before
            it.figures[at_once, "rate"].append(done["made"] / done["seconds"])
            it.figures[at_once, "client"].append(done["made"] / done["cpu"])
            it.figures[at_once, "server"].append(done["made"] / used)

        for contender in contenders:  # to warm up
            contender.attempt(one_round, max(AT_ONCE), 0.3)
            contender.figures.clear()
        for _ in range(rounds):
            for at_once in AT_ONCE:
                for contender in contenders:
                    contender.attempt(one_round, at_once)
            done = ours.client.ask("pairs", seconds=seconds / 2)
            pairs.append(done["made"] / done["cpu"])
    rows = []
    for at_once in AT_ONCE:
        for it in contenders:
            rate = it.figures[at_once, "rate"]
            rows.append(
                [
                    f"{it.name}, {at_once} at once",
                    spread(rate),
                    "" if it is ours else ratio(ours.figures[at_once, "rate"], rate),
                    spread(it.figures[at_once, "client"]),
                    spread(it.figures[at_once, "server"]),
                ]
            )
    rows.append(["ceiling: both sides, no network, one core", spread(pairs), "", "", ""])
    heads = ["", "handshakes/s", "meshkit is x", "per CPU second: client", "server"]
    return (
        "## Handshakes\n\n"
        + table(heads, rows)
        + f"\n\nTwo processes each, {seconds:g} s a figure; the ceiling is one process."
        + absences(contenders)
    )
