"""
Requests at the door of a node, beside a bare klein route that gives the same bytes; and one
operation through each of the doors.

The node's requests pass the token, host and origin, the limits and the dispatcher; klein's
pass nothing.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Final

from meshkit.identity.network import NetworkSecret
from tests.bench import mcp, starting
from tests.bench.children import child, python
from tests.bench.doors import Door, client, closed_loop
from tests.bench.figures import percentile, ratio, spread, table
from tests.bench.nodes import mesh_node

_CLIENTS: Final = (1, 20)


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds, seconds = (2, 0.5) if quick else (5, 1.0)
    network = NetworkSecret.generate(random.SystemRandom()).text
    with (
        tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name,
        mesh_node(Path(name, "r"), network) as node,
        child("klein", python("klein_route")) as klein,
    ):
        with client(node.door) as door:
            said = door.data("POST", "/v1/publish", b'{"content":{"type":"note","text":"one"}}')
            by_hash = f"/v1/message/{said['data']['hash']}"
            texts = {path: door.ask("GET", path)[1].decode() for path in ("/v1/identity", by_hash)}
        routes = {
            "/v1/identity": texts["/v1/identity"],
            "/v1/message/<hash>": texts[by_hash],
        }
        bare = Door(klein.ask("listen", routes=routes))
        rates: defaultdict[tuple[str, int, str], list[float]] = defaultdict(list)
        late: defaultdict[tuple[str, int, str], list[float]] = defaultdict(list)
        for _ in range(rounds):
            for path, count in itertools.product(texts, _CLIENTS):
                for whose, at in (("ours", node.door), ("klein", bare)):
                    requests = itertools.repeat(at.request("GET", path))
                    latencies, took = closed_loop(at, count, requests, lambda it: it < seconds)
                    rates[path, count, whose].append(len(latencies) / took)
                    late[path, count, whose] += latencies
        doors = _each_door(Path(name, "r"), node.door, 5 if quick else 20, seconds)
    rows = []
    for path, count in itertools.product(texts, _CLIENTS):
        ours, theirs = (rates[path, count, whose] for whose in ("ours", "klein"))
        rows.append(
            [
                "GET /v1/identity" if path == "/v1/identity" else "GET /v1/message/HASH",
                str(count),
                spread(ours, "/s"),
                spread(theirs, "/s"),
                ratio(ours, theirs),
                f"{percentile(late[path, count, 'ours'], 0.99) * 1000:.2f} ms",
                f"{percentile(late[path, count, 'klein'], 0.99) * 1000:.2f} ms",
            ]
        )
    heads = ["request", "clients", "ours", "bare klein", "ratio", "our p99", "klein's p99"]
    return "\n\n".join(
        [
            "## Requests at the door, beside a bare klein route",
            table(heads, rows),
            "## The operation node_identity through each door, one call after the other",
            table(["door", "p50", "p99"], doors),
        ]
    )


def _each_door(folder: Path, door: Door, times: int, seconds: float) -> list[list[str]]:
    """@return: rows: by REST, as a tool, as a command."""
    own = {"Authorization": f"Bearer {door.token}"}
    command = [str(Path(sys.executable).with_name("meshkit")), "-d", str(folder), "call"]
    measured = {
        name: closed_loop(door, 1, itertools.repeat(request), lambda it: it < seconds)[0]
        for name, request in (
            ("REST", door.request("GET", "/v1/identity")),
            (
                f"MCP over HTTP, {mcp.STATELESS}",
                mcp.call(door, mcp.STATELESS, "node_identity", {}, 1, **own),
            ),
        )
    }
    measured["meshkit call (a process each)"] = [
        starting.run([*command, "node_identity"]) for _ in range(times)
    ]
    return [
        [name, *(f"{percentile(each, share) * 1000:.2f} ms" for share in (0.5, 0.99))]
        for name, each in measured.items()
    ]
