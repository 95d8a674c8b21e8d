"""
Looking for one mistake: a copy of the package is changed, and worlds run in it, in a process
of their own, seed after seed until something is not as it must be.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.linked import link_tree
from tests.sim.bugs.patching import apply_patch, read_patch

__all__ = ["PATCHES", "Ran", "copy_package", "patch_copy", "run_seeds"]

ROOT: Final = Path(__file__).resolve().parents[3]
#: Where the mistakes are.
PATCHES: Final = Path(__file__).parent

#: What a node needs of the repository.
_PACKAGES: Final = ("meshkit", "meshkit_plugins")

_CHILD: Final = """
import os, sys

import msgspec

import meshkit

assert meshkit.__file__.startswith(os.getcwd() + os.sep), meshkit.__file__

from meshkit.sim.running import run
from meshkit.sim.scenarios import SCENARIOS

scenario, until_caught = SCENARIOS[sys.argv[1]], sys.argv[2] == "until-caught"
for seed in map(int, sys.argv[3:]):
    outcome = run(scenario, seed)
    found = [f"{each.invariant}: {each.node}: {each.text}" for each in outcome.violations]
    print(msgspec.json.encode({"seed": seed, "violations": found[:20]}).decode(), flush=True)
    if found and until_caught:
        break
"""


class Ran(msgspec.Struct, frozen=True):
    """
    One run.

    @ivar seed: of its world.
    @ivar violations: C{invariant: node: what}, at most the first twenty.
    """

    seed: int
    violations: list[str]


def copy_package(where: Path, own: Collection[str] = ()) -> None:
    """
    Make a copy of what is shipped, mostly of links, with what is compiled of it.

    @param own: paths of the files to be changed.
    """
    for name in _PACKAGES:
        below = [path.removeprefix(f"{name}/") for path in own if path.startswith(f"{name}/")]
        link_tree(ROOT / name, where / name, below)


def patch_copy(patch: str, where: Path) -> None:
    """
    Make a copy of what is shipped, with one mistake in it.

    @param patch: name of its file.
    @raise PatchError: if it does not fit any more.
    """
    text = (PATCHES / patch).read_text(encoding="utf-8")
    copy_package(where, [*read_patch(text)])
    apply_patch(text, where)


def run_seeds(
    where: Path,
    scenario: str,
    seeds: Sequence[int],
    *,
    until_caught: bool = False,
    timeout: float,
) -> list[Ran]:
    """
    Run worlds in a copy of the package.

    @param until_caught: stop after the first run in which something was found.
    @param timeout: seconds for all of them.
    @raise AssertionError: if a run did not come to its end.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _CHILD,
            scenario,
            "until-caught" if until_caught else "all",
            *map(str, seeds),
        ],
        cwd=where,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{scenario} broke off: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return [msgspec.json.decode(line, type=Ran) for line in done.stdout.splitlines()]
