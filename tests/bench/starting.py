"""How long people wait: for the command line, and for a node that starts."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from meshkit.identity.network import NetworkSecret
from tests.bench.figures import spread, table
from tests.bench.nodes import mesh_node


def run(command: list[str]) -> float:
    """Seconds that a command takes."""
    start = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return perf_counter() - start


def start(folder: Path, network: str) -> float:
    """Seconds from starting C{twistd} until all parts are started."""
    began = perf_counter()
    with mesh_node(folder, network):
        return perf_counter() - began


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds = 3 if quick else 15
    meshkit = str(Path(sys.executable).with_name("meshkit"))
    network = NetworkSecret.generate(random.SystemRandom()).text
    bare: list[float] = []
    asked: list[float] = []
    new: list[float] = []
    again: list[float] = []
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
        for number in range(rounds):
            bare.append(run([sys.executable, "-c", "pass"]))
            asked.append(run([meshkit, "--help"]))
            folder = Path(name, f"s{number}")
            new.append(start(folder, network))
            again.append(start(folder, network))
    rows = [
        [what, spread([seconds * 1000 for seconds in each], "ms")]
        for what, each in (
            ("python -c pass (the floor)", bare),
            ("meshkit --help", asked),
            ("a node on a new folder, until it is ready", new),
            ("a node on that folder, until it is ready", again),
        )
    ]
    return "\n\n".join(["## Waiting for a process", table(["what", "time"], rows)])
