"""
What was stored can be read, as long as enough honest peers have their shares.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from meshkit.sim.actions import start_node
from meshkit.sim.invariants.invariant import Invariant
from meshkit.sim.objects import Fetch, Objects, StoredFile, shares_of

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = ["READ_SECONDS", "Readable"]

#: Seconds in which a fetch has ended when all is well, however many lie and hang.
READ_SECONDS: Final = 120.0

# After these nobody can say who reaches whom, until the last of them was healed.
_APART: Final = frozenset({"link", "block", "partition", "silence"})
# What is fetched has to be written to a disk, and remembered in a database.
_TROUBLES: Final = frozenset({"fill", "fail-syncs", "fail-commits", "power"})


@define(eq=False)
class _Watched:
    """
    A fetch under way.

    @ivar honest: members that have had a good share of the file all the time, could be asked
        for it, and are known to the one who asks.
    @ivar fair: nothing has happened to the one who asks.
    """

    fetch: Fetch
    honest: set[str]
    fair: bool = True


class Readable(Invariant):
    """
    Whoever asks for an object gets its bytes and no others, and gets them whenever as many
    honest members as suffice have good shares and could be asked for them all the while.

    At the end, when everything was mended, every object that is stored is asked for once; then
    as many members are killed as may be lost, and every object that has enough shares left is
    asked for again: so an object that is kept whole survives any such loss.
    """

    name = "readable"

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._apart = False
        # Members whose disk is not sound.
        self._troubled: set[str] = set()

    # --- while things happen

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind == "file.fetch":
            self._watch(run, host, details["number"])
        elif kind == "file.fetched":
            watched = self._watched.pop(details["number"], None)
            if watched is not None:
                self._judge(run, watched)
        elif kind in ("process.end", "host.crash"):
            for watched in self._watched.values():
                watched.honest.discard(host)
                watched.fair = watched.fair and host != watched.fetch.where
        elif kind == "action":
            self._acted(host, details)

    def _watch(self, run: Run, where: str, number: int) -> None:
        fetch = run.objects.fetches[number - 1]
        config = next(each.config for each in run.plan.members if each.name == where)
        holders = {name for name in _holders(run, fetch.file) if f"{{address:{name}}}" in config}
        watched = _Watched(fetch, {name for name in holders if run.nodes[name].ready})
        # Others have to find out first what the object is and where.
        watched.fair = (
            fetch.where == fetch.file.owner and where not in self._troubled and not self._apart
        )
        self._watched[number] = watched

    def _acted(self, host: str, details: dict[str, Any]) -> None:
        kind = details["kind"]
        if kind == "heal":
            self._apart = False
        elif kind == "mend" or kind == "free":
            self._troubled.discard(host)
        elif kind in _TROUBLES:
            self._troubled.add(host)
        self._apart = self._apart or kind in _APART
        for watched in self._watched.values():
            if kind in _APART:
                watched.fair = False
            elif kind == "reset":
                watched.honest -= {host, details["args"]["to"]}
            elif kind == "rot":
                watched.honest.discard(host)
            elif (
                kind in _TROUBLES
                and host == watched.fetch.where
                or kind == "drop"
                and details["args"]["file"] == watched.fetch.file.name
            ):
                watched.fair = False

    def _judge(self, run: Run, watched: _Watched) -> None:
        fetch, file = watched.fetch, watched.fetch.file
        if fetch.outcome == "wrong":
            run.violated(self.name, fetch.where, f"{file.name} was fetched, and is another file")
        # Who has given a share up meanwhile, as somebody else has it now, could not be asked.
        watched.honest.intersection_update(_holders(run, file))
        enough = len(watched.honest) >= file.required
        if fetch.outcome == "failed" and watched.fair and enough:
            names = ", ".join(sorted(watched.honest))
            text = f"{file.name} could not be fetched, though {names} have it: {fetch.problem}"
            run.violated(self.name, fetch.where, text)

    def healed(self, run: Run) -> None:
        self._apart = False
        self._troubled.clear()

    def agrees(self, run: Run) -> bool:
        return all(fetch.ended for fetch in run.objects.fetches)

    # --- at the end

    def settled(self, run: Run) -> None:
        for fetch in run.objects.fetches:
            if not fetch.ended:
                text = f"a fetch of {fetch.file.name} has not ended, though all is well for long"
                run.violated(self.name, fetch.where, text)
        stored = [file for file in run.objects.files.values() if file.state == "stored"]
        if not stored:
            return
        self._ask(run, run.objects, stored, "when all is well")
        victims = self._victims(run, stored)
        for node in victims:
            node.kill()
        self._ask(run, run.objects, stored, f"without {', '.join(each.name for each in victims)}")
        for node in victims:
            start_node(node)
        run.world.until(lambda: all(each.ready for each in victims), "those that were killed")

    def _victims(self, run: Run, stored: list[StoredFile]) -> list[SimNode]:
        """@return: as many as may be lost, of those who keep something and own nothing."""
        owners = {file.owner for file in stored}
        held = {name for file in stored for name in _holders(run, file)}
        names = sorted(held - owners)
        rng: Random = run.world.seeds.stream("readable", "victims")
        rng.shuffle(names)
        losses = min((len(file.shares) - file.required for file in stored), default=0)
        return [run.nodes[name] for name in names[:losses]]

    def _ask(self, run: Run, objects: Objects, stored: list[StoredFile], when: str) -> None:
        asked: list[tuple[StoredFile, list[str], Fetch | None]] = []
        for file in stored:
            honest = [name for name in _holders(run, file) if run.nodes[name].ready]
            if len(honest) >= file.required:
                asked.append((file, honest, objects.fetch(file.owner, file.name)))
        end = run.world.clock.seconds() + READ_SECONDS
        fetches = [fetch for _, _, fetch in asked if fetch is not None]
        while run.world.clock.seconds() < end and not all(fetch.ended for fetch in fetches):
            run.world.run(1.0)
        for file, honest, fetch in asked:
            if fetch is not None and fetch.outcome in ("done", "wrong"):
                continue  # of what is wrong was told
            why = "it was not begun" if fetch is None else fetch.problem or "it has not ended"
            text = f"{file.name} cannot be fetched {when}, though {', '.join(honest)} have it: "
            run.violated(self.name, file.owner, text + why)


def _holders(run: Run, file: StoredFile) -> list[str]:
    """
    @return: honest members that have, on their disks, a good share of a file of which its owner
        knows: one who was given up as too slow may have another one.
    """
    placement = run.objects.placement(file)

    def is_known(name: str, number: int) -> bool:
        if placement is None:
            return number in file.shares
        return placement.peers.get(number) == name

    return [
        name
        for name, node in run.nodes.items()
        if any(
            seen.object == file.object
            and is_known(name, seen.number)
            and (name, seen.path) not in run.objects.spoilt
            for seen in shares_of(node)
        )
    ]
