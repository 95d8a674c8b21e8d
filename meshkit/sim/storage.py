"""
What a simulated machine keeps its data on: a disk with files, and databases.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

from meshkit.sim.databases import SimFile, SimMemory
from meshkit.sim.disk import SimDisk
from meshkit.sim.seeds import Seeds

__all__ = ["Images", "Storage"]

# Databases in memory share one space of names in a process.
_numbers: Final = count(1)


class Storage:
    """
    See the module.

    @ivar files: the file system.
    @ivar databases: those that were asked for, by path.
    @ivar image: of the next database in memory that is asked for the first time: see
        L{SimMemory}.
    """

    def __init__(
        self,
        seeds: Seeds,
        name: str,
        on_stop: Callable[[], object],
        folder: str | None = None,
    ) -> None:
        """
        @param seeds: of what a crash does.
        @param name: of the machine.
        @param on_stop: called when the machine stops in the middle of a write, because of
            C{stop_before} of the disk or of a database.
        @param folder: of the real file system, where databases are kept in real files; in
            memory, if L{None}.
        """
        self._seeds = seeds
        self._name = name
        self._on_stop = on_stop
        self._folder = folder
        self._number = next(_numbers)
        self._full = False
        self.files = SimDisk(seeds.stream(name, "disk"))
        self.files.system.on_stop = on_stop
        self.databases: dict[str, SimMemory | SimFile] = {}
        self.image: bytes | None = None

    def database(self, path: str) -> SimMemory | SimFile:
        """@return: the one under that path; the same data each time."""
        found = self.databases.get(path)
        if found is None:
            rng = self._seeds.stream(self._name, "database", path)
            if self._folder is None:
                found = SimMemory(f"machine-{self._number}{path}", rng, image=self.image)
            else:
                within = f"{self._name}{path.replace('/', '_')}"
                found = SimFile(os.path.join(self._folder, within), rng)
            found.machine.on_down = self._on_stop
            if self._full:
                found.limit(1)
            self.databases[path] = found
        return found

    def end_process(self, owner: object) -> None:
        """A process has ended: it holds no file and no lock any more, and nothing is lost."""
        self.files.end_process(owner)

    def crash(self) -> dict[str, int]:
        """
        The power fails.  To be called before connections to databases are closed.

        @return: what was lost, in numbers.
        """
        loss = self.files.crash()
        crashed = [self.databases[path].crash() for path in sorted(self.databases)]
        return {
            "names_lost": loss.names_lost,
            "files_lost": loss.lost,
            "files_torn": loss.torn,
            "commits_lost": sum(each.commits for each in crashed),
            "open_lost": sum(each.open for each in crashed),
        }

    def fill(self) -> None:
        """
        Nothing more fits on it, until L{free}: files get C{ENOSPC}, and databases that would
        have to grow C{SQLITE_FULL}.
        """
        self._full = True
        self.files.system.limit(self.files.system.used)
        for database in self.databases.values():
            database.limit(1)

    def free(self) -> None:
        """There is room again."""
        self._full = False
        self.files.system.limit(None)
        for database in self.databases.values():
            database.limit(None)

    def fail_syncs(self, times: int = 1) -> None:
        """Let the next syncs of files and folders fail with C{EIO}."""
        self.files.system.fail("fsync", errno.EIO, times)

    def fail_commits(self, times: int = 1) -> None:
        """Let the next commits of each database fail as though with C{EIO}."""
        for database in self.databases.values():
            database.fail(times=times)

    def mend(self) -> None:
        """There is room, and nothing fails and stops the machine any more."""
        self.free()
        self.files.system.mend()
        for database in self.databases.values():
            database.mend()

    def close(self) -> None:
        """Forget what is in memory: the world has ended."""
        for database in self.databases.values():
            if isinstance(database, SimMemory):
                database.close()


class Images:
    """
    Databases as they are when all parts have made their tables in them.  The first node of a
    world makes its own as everywhere; others with the same parts begin with what it made, and
    their migrations find nothing to do.
    """

    def __init__(self) -> None:
        self._known: list[tuple[list[Any], bytes]] = []

    def find(self, parts: Sequence[Any]) -> bytes | None:
        """
        @param parts: the makers of a node's parts, in the order in which they make their tables.
        @return: what its database may begin with.
        """
        order = list(parts)
        return next((image for known, image in self._known if known == order), None)

    def keep(self, parts: Sequence[Any], storage: Storage) -> None:
        """
        A node's tables are made, and nothing has been written into them yet, if it is new.

        @param parts: as of L{find}.
        @param storage: of its machine.
        """
        if self.find(parts) is None:
            made = list(storage.databases.values())
            if len(made) == 1 and isinstance(made[0], SimMemory):
                self._known.append((list(parts), made[0].image()))
