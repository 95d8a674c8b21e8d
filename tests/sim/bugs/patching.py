"""
Applying a unified diff, exactly or not at all.

C{patch} would look for places that are nearly right.  A mistake that is put somewhere else
than it was meant to be is another mistake, so here each hunk has to fit in one place and in
no other.  Where that is does not matter: the code above it may have grown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import define, field

__all__ = ["PatchError", "apply_patch", "read_patch"]

_HUNK: Final = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


class PatchError(Exception):
    """The patch does not fit any more: write it anew, for the code as it is now."""


@define
class Hunk:
    """
    One change.

    @ivar old: lines that have to be there, with their ends.
    @ivar new: lines that come in their place.
    """

    old: list[str] = field(factory=list)
    new: list[str] = field(factory=list)


def read_patch(text: str) -> dict[str, list[Hunk]]:
    """
    @param text: a unified diff of files that exist before and after, with the prefixes C{a/}
        and C{b/} and without comments.
    @return: the changes of each file, by its path.
    @raise PatchError: if it is none.
    """
    files: dict[str, list[Hunk]] = {}
    lines = iter(text.splitlines(keepends=True))
    hunks: list[Hunk] | None = None
    for line in lines:
        if line.startswith("--- a/"):
            path = line[6:].rstrip("\n")
            if next(lines, "") != f"+++ b/{path}\n" or path in files:
                raise PatchError(f"the patch does not change {path} in its place, and once")
            hunks = files[path] = []
            continue
        counts = _HUNK.match(line)
        if counts is None or hunks is None:
            raise PatchError(f"this is no line of a patch here: {line!r}")
        hunks.append(_read_hunk(lines, *(int(count or "1") for count in counts.groups())))
    if not files or not all(files.values()):
        raise PatchError("the patch changes nothing")
    return files


def _read_hunk(lines: Iterator[str], olds: int, news: int) -> Hunk:
    hunk = Hunk()
    while len(hunk.old) < olds or len(hunk.new) < news:
        line = next(lines, "")
        # An editor may have taken away the space of an empty line.
        sign, rest = (" ", line) if line == "\n" else (line[:1], line[1:])
        if sign not in (" ", "-", "+"):
            raise PatchError(f"a change of the patch is cut short at {line!r}")
        if sign != "+":
            hunk.old.append(rest)
        if sign != "-":
            hunk.new.append(rest)
    return hunk


def apply_patch(text: str, folder: Path) -> None:
    """
    Change the files of a folder.

    @param text: see L{read_patch}.
    @raise PatchError: if it does not fit; then nothing was changed.
    """
    changed = {}
    for path, hunks in read_patch(text).items():
        whole = (folder / path).read_text(encoding="utf-8")
        for hunk in hunks:
            old, new = "".join(hunk.old), "".join(hunk.new)
            # From the start of a line on.
            found = len(re.findall(f"^{re.escape(old)}", whole, re.MULTILINE))
            if found != 1 or old == new:
                raise PatchError(f"a change of {path} fits in {found} places:\n{old}")
            at = 0 if whole.startswith(old) else whole.index(f"\n{old}") + 1
            whole = whole[:at] + new + whole[at + len(old) :]
        changed[folder / path] = whole
    for target, whole in changed.items():
        target.write_text(whole, encoding="utf-8")
