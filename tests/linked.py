"""
A tree of which some files are to be changed, without a copy of all the others.

Copying the package takes longer than most of what is tried with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

_COMPILED: Final = "__pycache__"


def link_tree(source: Path, target: Path, own: Collection[str]) -> None:
    """
    Make a folder with links to what is in another one.

    @param target: does not exist yet.
    @param own: paths in C{source} of the files to be changed: each is a copy, of which nothing
        is compiled.  The folders on the way to them are folders, where files can be added.
    @raise FileNotFoundError: if there is no such file.
    """
    target.mkdir(parents=True)
    inside: dict[str, list[str]] = {}
    for path in own:
        name, _, rest = path.partition("/")
        inside.setdefault(name, []).append(rest)
    stems = {Path(name).stem for name, rests in inside.items() if "" in rests}
    for entry in source.iterdir():
        if entry.name in inside:
            continue
        if entry.name == _COMPILED:
            _link_compiled(entry, target / _COMPILED, stems)
        else:
            (target / entry.name).symlink_to(entry)
    for name, rests in inside.items():
        if "" in rests:
            shutil.copyfile(source / name, target / name)
        else:
            link_tree(source / name, target / name, rests)


def _link_compiled(source: Path, target: Path, stems: set[str]) -> None:
    target.mkdir()
    for entry in source.glob("*.pyc"):
        if entry.name.partition(".")[0] not in stems:
            (target / entry.name).symlink_to(entry)
