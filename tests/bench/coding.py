"""
C{meshkit object encode} and C{decode} by the clock, from a file to shares and back, as
somebody types it: start of the program, keys and disk included.  Beside Kryden's commands.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, sleep
from typing import Final

from attrs import define, field

from tests.bench.children import ChildFailed
from tests.bench.figures import ratio, spread, table
from tests.bench.nodes import peak_bytes
from tests.bench.storing import KRYDEN, MIB, digest, write_random
from tests.interop import node

_PATIENCE: Final = 300.0
_LOOK_EVERY: Final = 0.005
#: Of each scheme's shares, those that are not there when it is put together again.
_LOST: Final = 3


@define
class _Commands:
    """
    @ivar encode: given the file and the folder for its shares, the command.
    @ivar shares: given that folder, the files that are the first shares.
    @ivar decode: given that folder and a file, the command.
    """

    name: str
    encode: Callable[[Path, Path], list[str]]
    shares: Callable[[Path], list[Path]]
    decode: Callable[[Path, Path], list[str]]
    environ: dict[str, str]
    foreign: bool = False
    figures: defaultdict[str, list[float]] = field(factory=lambda: defaultdict(list))
    absent: str | None = None


def _meshkit(codec: str) -> _Commands:
    command = [str(Path(sys.executable).with_name("meshkit")), "object"]
    how = [f"--codec={codec}"]
    return _Commands(
        "meshkit" if codec == "auto" else f"meshkit, {codec}",
        lambda file, folder: [
            *command,
            *("encode", *how, "--key-file", f"{folder}.key", str(file), str(folder)),
        ],
        lambda folder: sorted(folder.glob("*.mkshare")),
        lambda folder, file: [
            *command,
            *("decode", *how, "--key-file", f"{folder}.key", "-o", str(file), str(folder)),
        ],
        {name: text for name, text in os.environ.items() if not name.startswith("MESHKIT_")},
    )


def _kryden() -> _Commands:
    where = os.environ.get(KRYDEN)
    made = _Commands("Kryden", _nothing, _no_shares, _nothing, {}, foreign=True)
    if not where:
        made.absent = f"{KRYDEN} names no folder"
        return made
    try:
        command = [node.node(), str(Path(where, "dist", "cli.js"))]
    except AssertionError as error:
        made.absent = str(error)
        return made
    made.environ = node.environment()
    made.encode = lambda file, folder: [*command, "encode", str(file), "--out", str(folder)]
    made.shares = lambda folder: sorted(
        path for path in folder.rglob("*") if path.is_file() and "shard" in path.name
    )
    made.decode = lambda folder, file: [*command, "decode", str(folder), "--out", str(file)]
    return made


def _nothing(*_: Path) -> list[str]:
    return []


def _no_shares(_: Path) -> list[Path]:
    return []


def _run(it: _Commands, command: list[str], what: str, size: int) -> None:
    with tempfile.TemporaryFile() as log:
        start = perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=it.environ
        )
        peak = 0
        while process.poll() is None:
            peak = peak_bytes(process.pid) or peak
            if perf_counter() - start > _PATIENCE:
                process.kill()
            sleep(_LOOK_EVERY)
        took = perf_counter() - start
        if process.returncode:
            log.seek(0)
            said = log.read()[-2000:].decode("utf-8", "replace")
            raise ChildFailed(f"{it.name} failed at {what!r}:\n{said}")
    it.figures[what].append(size / MIB / took)
    it.figures[f"{what}, memory"].append(peak / MIB)


def _rounds(commands: list[_Commands], size: int, rounds: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
        file = Path(name, "in")
        for number in range(rounds):
            write_random(file, size)
            for at, it in enumerate(commands):
                if it.absent is not None:
                    continue
                folder, back = Path(name, f"{number}-{at}"), Path(name, "out")
                os.sync()
                try:
                    _run(it, it.encode(file, folder), "encode", size)
                    for lost in it.shares(folder)[:_LOST]:
                        lost.unlink()
                    _run(it, it.decode(folder, back), "decode", size)
                    if digest(back) != digest(file):
                        raise ChildFailed(f"{it.name} did not give the file back")
                except ChildFailed as error:
                    if not it.foreign:
                        raise
                    it.absent = str(error)
                    it.figures.clear()
                shutil.rmtree(folder, ignore_errors=True)
                back.unlink(missing_ok=True)
            yield


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds = 2 if quick else 5
    sections = [
        _section([_meshkit("auto"), _meshkit("zfec"), _kryden()], 64 * MIB, rounds),
    ]
    if not quick:
        sections.append(_section([_meshkit("auto"), _meshkit("zfec")], 1024 * MIB, 3))
    return "## Files to shares and back by the clock, 6+3, 3 shares lost\n\n" + "\n\n".join(
        sections
    )


def _section(commands: list[_Commands], size: int, rounds: int) -> str:
    for _ in _rounds(commands, size, rounds):
        pass
    ours, *others = commands
    rows = []
    for what in ("encode", "decode"):
        for key, name, rate in (
            (what, f"{what}, MiB/s", True),
            (f"{what}, memory", f"{what}, MiB of memory at the most", False),
        ):
            row = [name, spread(ours.figures[key])]
            for other in others:
                theirs = other.figures[key]
                better = (ours.figures[key], theirs) if rate else (theirs, ours.figures[key])
                row += [spread(theirs), ratio(*better)]
            rows.append(row)
    heads = [f"{size // MIB:,} MiB", ours.name]
    for other in others:
        heads += [other.name, f"{ours.name} is x"]
    told = "".join(f"\nabsent: {it.name}: {it.absent}" for it in commands if it.absent)
    return table(heads, rows) + told
