"""
Shares are where it is said that they are, also when they were moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from attrs import frozen

from meshkit.sim.invariants.invariant import Invariant
from meshkit.sim.objects import Placement, StoredFile, is_good_share, lent_files
from meshkit.storage.share_files import SUFFIX

if TYPE_CHECKING:
    from meshkit.sim.running import Run

__all__ = ["GoodShares", "Look", "Placed"]

#: Characters by which a path ends that names a share: C{/ab/ab...01.mkshare}.
_NAMED: Final = len("/ab/") + 64 + len(SUFFIX)
#: Files of which it is remembered what is in them.
_REMEMBERED: Final = 10_000


class GoodShares:
    """What lies on the disks of a run, read with nothing of the code that keeps shares."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int, bytes], bool] = {}

    def look(self, run: Run) -> Look:
        """@return: the disks, as they are now."""
        return Look(
            {
                name: {path[-_NAMED:]: data for path, data in lent_files(node)}
                for name, node in run.nodes.items()
            },
            self._known,
        )


@frozen
class Look:
    """
    The disks at a moment.

    @ivar files: by node and the end of their path.
    @ivar known: what was found out before, by object, number and SHA-256 of the file.
    """

    files: Mapping[str, Mapping[str, bytes]]
    known: dict[tuple[bytes, int, bytes], bool]

    def is_good(self, placement: Placement, number: int, name: str) -> bool:
        """@return: has a node a share, and is it what the manifest of its owner says?"""
        data = self.files.get(name, {}).get(placement.path_of(number))
        if data is None:
            return False
        key = placement.manifest.content_id, number, sha256(data).digest()
        if key not in self.known:
            if len(self.known) >= _REMEMBERED:
                self.known.clear()
            self.known[key] = is_good_share(data, placement.manifest, number)
        return self.known[key]


class Placed(Invariant):
    """
    From the moment at which an owner has it in his database that a share is with an honest node,
    that share is on its disk, and what its manifest says; until it is given to somebody else, the
    owner removes the object, or the disk is spoilt.  So no repair, whatever fails in the middle
    of it, leaves fewer good shares than there were; and none takes a good share away.
    """

    name = "placed"

    def __init__(self) -> None:
        self._disks = GoodShares()
        self._before: dict[str, Placement] = {}
        self._look: Look | None = None
        self._told: set[tuple[str, int, int]] = set()

    def sampled(self, run: Run) -> None:
        stored = [file for file in run.objects.files.values() if file.state == "stored"]
        if not stored:
            return
        look = self._disks.look(run)
        for file in stored:
            placement = run.objects.placement(file)
            if placement is None:
                continue
            before = self._before.get(file.name)
            if before is not None and before.version != placement.version:
                self._compare(run, file, before, placement)
            self._before[file.name] = placement
            self._check(run, file, placement, look)
        self._look = look

    healed = settled = sampled

    def _check(self, run: Run, file: StoredFile, placement: Placement, look: Look) -> None:
        for number, name in placement.peers.items():
            if name not in run.nodes or (name, file.object, number) in run.objects.ruined:
                continue
            if not look.is_good(placement, number, name):
                text = f"version {placement.version} says that {name} has share {number} of "
                self._tell(run, file, placement, number, f"{text}{file.name}, and it has not")

    def _compare(self, run: Run, file: StoredFile, before: Placement, after: Placement) -> None:
        run.objects.moved += sum(
            before.peers.get(number) != name for number, name in after.peers.items()
        )
        for number, name in before.peers.items():
            if number in after.peers or self._look is None:
                continue
            if self._look.is_good(before, number, name):
                text = f"share {number} of {file.name} was good at {name}, and is nowhere now"
                self._tell(run, file, after, number, text)

    def _tell(
        self, run: Run, file: StoredFile, placement: Placement, number: int, text: str
    ) -> None:
        told = file.name, number, placement.version
        if told not in self._told:
            self._told.add(told)
            run.violated(self.name, file.owner, text)
