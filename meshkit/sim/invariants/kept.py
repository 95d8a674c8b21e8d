"""
Shares that were promised to be kept are kept.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from meshkit.sim.invariants.invariant import Invariant
from meshkit.sim.objects import StoredFile, lent_files, shares_of

if TYPE_CHECKING:
    from meshkit.sim.running import Run

__all__ = ["Kept"]

_TROUBLES: Final = frozenset({"fail-syncs", "fail-commits"})


class Kept(Invariant):
    """
    When a door says that an object is stored, every share that it names is whole on the disk of
    a node, or was taken by one who lies.  From then on it is there, byte for byte, through every
    crash and at the end of the run, until the object is removed by its owner, the share is given to
    somebody else, or the disk rots.

    Every put that was accepted ends; where the disk of its node has failed, that may not have
    been written down before the node is started again.
    """

    name = "kept"

    def __init__(self) -> None:
        # Node -> path -> the file that it belongs to, its number, and what it was.
        self._promised: dict[str, dict[str, tuple[StoredFile, int, bytes]]] = {}
        self._told: set[tuple[str, str]] = set()
        # Nodes whose disk has failed since they were started.
        self._unsound: set[str] = set()

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind == "file.stored":
            self._promise(run, run.objects.files[details["file"]])
        elif kind == "process.begin":
            self._unsound.discard(host)
        elif kind == "action" and details["kind"] in _TROUBLES:
            self._unsound.add(host)

    def _promise(self, run: Run, file: StoredFile) -> None:
        missing = {*file.shares}
        for name, node in run.nodes.items():
            for seen in shares_of(node):
                if seen.object == file.object and seen.number in file.shares:
                    missing.discard(seen.number)
                    if (name, seen.path) not in run.objects.spoilt:
                        held = self._promised.setdefault(name, {})
                        held[seen.path] = file, seen.number, seen.digest
        spoilt = sum(1 for _ in run.objects.spoilt)
        if len(missing) > len(run.liars) + spoilt:
            numbers = ", ".join(map(str, sorted(missing)))
            text = f"{file.name} is said to be stored, and nobody has its shares {numbers}"
            run.violated(self.name, file.owner, text)

    def sampled(self, run: Run) -> None:
        for name, held in self._promised.items():
            system = run.nodes[name].host.storage.files.system
            with system.aside():
                for path in [*held]:
                    self._exists(run, name, path)

    def _exists(self, run: Run, name: str, path: str) -> None:
        try:
            run.nodes[name].host.storage.files.system.stat(path)
        except OSError:
            self._lost(run, name, path, "is gone")

    def healed(self, run: Run) -> None:
        self._compare(run)

    def settled(self, run: Run) -> None:
        self._compare(run)
        for file in run.objects.files.values():
            if self._is_under_way(file):
                text = f"the put of {file.name} has not ended, though all is well for long"
                run.violated(self.name, file.owner, text)
            elif file.state == "failed" and file.problem == "gone":
                text = f"the put of {file.name} was accepted, and is forgotten"
                run.violated(self.name, file.owner, text)

    def agrees(self, run: Run) -> bool:
        return not any(map(self._is_under_way, run.objects.files.values()))

    def _is_under_way(self, file: StoredFile) -> bool:
        return file.state == "putting" and file.owner not in self._unsound

    def _compare(self, run: Run) -> None:
        for name, held in self._promised.items():
            there = {path: sha256(data).digest() for path, data in lent_files(run.nodes[name])}
            for path, (_, _, digest) in [*held.items()]:
                if path not in there:
                    self._lost(run, name, path, "is gone")
                elif there[path] != digest:
                    self._lost(run, name, path, "is not what it was")

    def _lost(self, run: Run, name: str, path: str, what: str) -> None:
        file, number, _ = self._promised[name][path]
        if (
            file.state != "stored"
            or (name, path) in run.objects.spoilt
            or (name, path) in self._told
        ):
            return
        placement = run.objects.placement(file)
        if placement is not None and placement.peers.get(number) != name:
            # It was made anew elsewhere, and its lease was given up.
            del self._promised[name][path]
            return
        self._told.add((name, path))
        text = f"share {number} of {file.name}, for which it has given a receipt, {what}"
        run.violated(self.name, name, text)
